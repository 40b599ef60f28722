/* The heap: when it is worth giving pages back, and that they go. */
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#include "base/heap.h"
#include "base/metrics.h"
#include "unit.h"

#define MB ((size_t)1 << 20)

static void test_decision(void)
{
    struct heap h = {.floor = SIZE_MAX};
    CU_ASSERT(!heap_wasteful(&h, 5 * MB, 10 * MB)); /* 5 of stacks and such: the floor */
    CU_ASSERT(!heap_wasteful(&h, 100 * MB, 150 * MB));
    CU_ASSERT(!heap_wasteful(&h, 7 * MB, 150 * MB));
    CU_ASSERT(heap_wasteful(&h, 5 * MB, 150 * MB));  /* for the third time in a row */
    CU_ASSERT(!heap_wasteful(&h, 5 * MB, 110 * MB)); /* what was left is the floor from now on */
    for (unsigned i = 0; i < 2 * HEAP_CHECKS; i++)
        CU_ASSERT(!heap_wasteful(&h, 5 * MB, 110 * MB + MB / 16));
    CU_ASSERT(!heap_wasteful(&h, 5 * MB, 8 * MB));
    CU_ASSERT(!heap_wasteful(&h, 5 * MB, 100 * MB));
    CU_ASSERT(!heap_wasteful(&h, 5 * MB, 100 * MB));
    CU_ASSERT(heap_wasteful(&h, 5 * MB, 100 * MB)); /* and may sink again */
}

static void test_not_worth_it(void)
{
    struct heap h = {.floor = SIZE_MAX};
    CU_ASSERT(!heap_wasteful(&h, 900 * MB, 905 * MB));
    for (unsigned i = 0; i < 2 * HEAP_CHECKS; i++)
        CU_ASSERT(!heap_wasteful(&h, (900 + i % 2 * 20) * MB, 1100 * MB)); /* under load it will be taken again */
    for (unsigned i = 0; i < 2 * HEAP_CHECKS; i++)                         /* busy now and then: not idle */
        CU_ASSERT(!heap_wasteful(&h, i % 2 ? 100 * MB : 1000 * MB, 1050 * MB));
    CU_ASSERT(!heap_wasteful(&h, 900 * MB, 100 * MB)); /* swapped out */
    for (unsigned i = 0; i < 2 * HEAP_CHECKS; i++)
        CU_ASSERT(!heap_wasteful(&h, 0, i * MB / 64)); /* little */
}

static void test_at_rest(void)
{
    struct heap h = {.floor = SIZE_MAX};
    CU_ASSERT(!heap_wasteful(&h, 3 * MB, 10 * MB));
    for (size_t i = 0; i < 2 * HEAP_CHECKS; i++) /* something goes on */
        CU_ASSERT(!heap_wasteful(&h, (3 + i % 2) * MB, 10 * MB + MB / 2 + i % 2 * MB));
    CU_ASSERT(!heap_wasteful(&h, 3 * MB, 10 * MB + MB / 2)); /* it comes to rest */
    CU_ASSERT(!heap_wasteful(&h, 3 * MB, 10 * MB + MB / 2));
    CU_ASSERT(!heap_wasteful(&h, 3 * MB, 10 * MB + MB / 2));
    CU_ASSERT(heap_wasteful(&h, 3 * MB + MB / 32, 10 * MB + MB / 2));
    for (size_t i = 0; i < 2 * HEAP_CHECKS; i++)
        CU_ASSERT(!heap_wasteful(&h, 3 * MB, 10 * MB + i % 2 * (MB / 16))); /* not for scraps */
    for (size_t i = 0; i < 2 * HEAP_CHECKS; i++)
        CU_ASSERT(!heap_wasteful(&h, 100 * MB, 107 * MB + i * MB / 8)); /* beside what is in use: little */
}

static size_t resident_kb(void)
{
    char line[128];
    size_t kb = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "RssAnon:", 8) == 0)
            kb = strtoul(line + 8, NULL, 10);
    }
    if (f)
        fclose(f);
    return kb;
}

enum { THINGS = 40000, THING = 1000, LIVES_ON = 250 };

/* Pages below something that lives on, as sessions leave them. */
static void test_gives_back(void)
{
    static char *things[THINGS];
    struct heap h;
    heap_setup(&h);
    size_t before = mallinfo2().uordblks;
    heap_check(&h);
    for (size_t i = 0; i < THINGS; i++) {
        things[i] = malloc(THING);
        memset(things[i], 1, THING);
    }
    bool ours = mallinfo2().uordblks >= before + (size_t)THINGS * THING; /* not a sanitizer's allocator */
    for (size_t i = 0; i < THINGS; i++) {
        if (i % LIVES_ON != LIVES_ON - 1)
            free(things[i]);
    }
    size_t held = resident_kb();
    bool early = heap_check(&h) || heap_check(&h), now = heap_check(&h);
    if (ours) {
        CU_ASSERT(!early);
        CU_ASSERT(now);
        CU_ASSERT(resident_kb() + 30 * 1024 < held);
        CU_ASSERT_EQUAL(metric_value(h.trims), 1);
        CU_ASSERT((size_t)metric_value(h.used) < before + 4 * MB);
    }
    for (unsigned i = 0; i < 2 * HEAP_CHECKS; i++)
        CU_ASSERT(!ours || !heap_check(&h)); /* no more to gain */
    for (size_t i = LIVES_ON - 1; i < THINGS; i += LIVES_ON)
        free(things[i]);
}

int main(void)
{
    CU_TestInfo tests[] = {{"decision", test_decision},
                           {"not worth it", test_not_worth_it},
                           {"at rest", test_at_rest},
                           {"gives back", test_gives_back},
                           CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"heap", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
