/* A disabling is told once, also when the store's disk does not take that it was. */
#include <stdatomic.h>

#include "fixture_store.h"
#include "store/registry.h"

static struct registry *r;
static _Atomic unsigned told, untold;

static void on_disabled(void *arg, const struct registry_disabled *d)
{
    (void)arg;
    (void)d;
    told++;
}

static void on_untold(void *arg)
{
    (void)arg;
    untold++;
}

static bool opened(void)
{
    const struct registry_config config = {.max_webhooks = 1000, .disabled = on_disabled, .untold = on_untold};
    const struct store_config c = {.path = path, .commit_ms = 1};
    char err[512] = "";
    s = store_open(&c, &aside, err, sizeof(err));
    r = s != NULL ? registry_new(s, &config, err, sizeof(err)) : NULL;
    if (r == NULL)
        fprintf(stderr, "open: %s\n", err);
    return r != NULL && store_start(s);
}

static void closed(void)
{
    store_stop(s);
    registry_free(&r);
    store_free(&s);
}

static void on_answer(void *arg, int result)
{
    _Atomic int *n = arg;
    CU_ASSERT_EQUAL(result, OMID_OK);
    ++*n;
}

/* A webhook that is disabled at this time. */
static void disabled(const char *id, int64_t at_ms)
{
    const struct registry_spec spec = {
        .given = REGISTRY_UID | REGISTRY_URL, .id = id, .uid = "ann", .url = "https://hooks.example.com/"};
    _Atomic int n = 0;
    unsigned before = told;
    CU_ASSERT_EQUAL_FATAL(registry_add(r, &spec, lp, on_answer, &n), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(n == 1));
    registry_report(r, id, OMID_DELIVERY_GONE, 410, at_ms, 1);
    CU_ASSERT_FATAL(WAIT_FOR(told == before + 1));
}

static int64_t waiting(void)
{
    return unit_sql_int(path, "SELECT count(*) FROM endpoint_disabled");
}

static void test_disk_full(void)
{
    int64_t now = clock_wall_ms();
    unit_rm_dir(dir);
    mkdir(dir, 0700);
    told = untold = 0;
    CU_ASSERT_FATAL(opened());
    disabled("h1", now);
    disabled("h2", now);
    unit_disk_limit(1);
    CU_ASSERT_EQUAL(registry_told(r, "h1", now), OMID_OK);
    CU_ASSERT(WAIT_FOR(untold == 1));
    /* The other one has not been told for good, and is told again. */
    for (unsigned i = 1; i <= 3; i++) {
        CU_ASSERT_EQUAL(registry_retell(r), OMID_OK);
        CU_ASSERT(WAIT_FOR(untold >= 1 + i && told == 2 + i));
    }
    CU_ASSERT_EQUAL(registry_told(r, "h2", now), OMID_OK);
    CU_ASSERT(WAIT_FOR(untold == 5));
    CU_ASSERT_EQUAL(registry_retell(r), OMID_OK);
    CU_ASSERT(WAIT_FOR(untold == 7));
    unit_disk_limit(0);
    CU_ASSERT_EQUAL(waiting(), 2);
    CU_ASSERT_EQUAL(registry_retell(r), OMID_OK);
    CU_ASSERT(WAIT_FOR(waiting() == 0));
    CU_ASSERT(told == 5 && untold == 7);
    /* The next disabling of the same one is another. */
    CU_ASSERT_EQUAL(registry_told(r, "h1", now), OMID_OK);
    disabled("h3", now);
    closed();
    /* Stopped before its end: what comes next tells it once more. */
    CU_ASSERT_FATAL(opened());
    CU_ASSERT_EQUAL(registry_retell(r), OMID_OK);
    CU_ASSERT(WAIT_FOR(told == 7));
    closed();
}

int main(void)
{
    CU_TestInfo tests[] = {{"a full disk", test_disk_full}, CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"registry, told", fixture_begin, fixture_end, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
