/* The roster: rows of several reactors at once while others read, bounds, filters, and who comes first. */
#include <CUnit/Basic.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/hash.h"
#include "base/magic.h"
#include "session/roster.h"
#include "unit.h"

static const char *const states[] = {"starting", "live", "leaving"};
enum { STARTING, LIVE, LEAVING };

static struct roster_row row_make(unsigned number, unsigned state, uint32_t lag_ms)
{
    struct roster_row row = {.state = state, .lag_ms = lag_ms, .codec = "pcm16", .tasks = "client"};
    snprintf(row.id, sizeof row.id, "%08u-0000-4000-8000-000000000000", number);
    snprintf(row.uid_tag, sizeof row.uid_tag, "u:%012u", number % 10);
    return row;
}

static yajl_val ask(const char *uid, const char *state)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    char err[128];
    json_w_start(&w, &b);
    roster_write(&(struct roster_filter){.uid = uid, .state = state}, &w);
    CU_ASSERT_TRUE_FATAL(json_w_end(&w));
    yajl_val v = json_parse(b.data, b.len, 0, err, sizeof err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    buf_free(&b);
    return v;
}

static void expect(const char *uid, const char *state, int shown, int matching, int total)
{
    yajl_val v = ask(uid, state);
    CU_ASSERT_EQUAL(json_len(json_array(v, "sessions")), (size_t)shown);
    CU_ASSERT_EQUAL(json_int(v, "shown", -1), shown);
    CU_ASSERT_EQUAL(json_int(v, "matching", -1), matching);
    CU_ASSERT_EQUAL(json_int(v, "total", -1), total);
    json_free(&v);
}

static void test_rows(void)
{
    struct roster r[2];
    struct roster_entry e[4];
    int owner[2];
    memset(e, 0, sizeof e);
    roster_init(&r[0], states, 3, LIVE, &owner[0]);
    roster_init(&r[1], states, 3, LIVE, &owner[1]);
    expect(NULL, NULL, 0, 0, 0);
    for (unsigned i = 0; i < 4; i++) {
        struct roster_row row = row_make(i, i == 3 ? LEAVING : LIVE, 0);
        roster_put(&r[i % 2], &e[i], &row);
    }
    expect(NULL, NULL, 4, 4, 4);
    expect(NULL, "live", 3, 3, 4);
    expect(NULL, "starting", 0, 0, 4);
    expect("u:000000000002", NULL, 1, 1, 4);
    expect("u:000000000002", "leaving", 0, 0, 4);

    /* A uid finds what its tag finds. */
    struct roster_row row = row_make(0, LIVE, 0);
    hash_uid_tag("somebody", row.uid_tag);
    roster_put(&r[0], &e[0], &row);
    expect("somebody", NULL, 1, 1, 4);
    expect(row.uid_tag, NULL, 1, 1, 4);

    /* Trouble comes first, over all reactors: the one that leaves, then one that has begun to lag. */
    row = row_make(2, LIVE, ROSTER_LAGGING_MS);
    roster_put(&r[0], &e[2], &row);
    yajl_val v = ask(NULL, NULL);
    yajl_val list = json_array(v, "sessions");
    CU_ASSERT_STRING_EQUAL(json_str(json_at(list, 0), "id"), e[2].row.id);
    CU_ASSERT_STRING_EQUAL(json_str(json_at(list, 1), "id"), e[3].row.id);
    CU_ASSERT_EQUAL(json_int(json_object(v, "states"), "live", -1), 3);
    CU_ASSERT_EQUAL(json_int(json_object(v, "states"), "leaving", -1), 1);
    json_free(&v);
    row.lag_ms = 0;
    roster_put(&r[0], &e[2], &row);
    v = ask(NULL, NULL);
    CU_ASSERT_STRING_EQUAL(json_str(json_at(json_array(v, "sessions"), 0), "id"), e[3].row.id);
    json_free(&v);

    CU_ASSERT_PTR_EQUAL(roster_find(e[1].row.id), &owner[1]);
    CU_ASSERT_PTR_EQUAL(roster_find(e[2].row.id), &owner[0]);
    CU_ASSERT_PTR_NULL(roster_find("99999999-0000-4000-8000-000000000000"));
    for (unsigned i = 0; i < 4; i++) {
        roster_remove(&r[i % 2], &e[i]);
        roster_remove(&r[i % 2], &e[i]); /* twice is harmless */
    }
    expect(NULL, NULL, 0, 0, 0);
    CU_ASSERT_PTR_NULL(roster_find(e[1].row.id));
    roster_free(&r[0]);
    roster_free(&r[1]);
}

static void test_bound(void)
{
    enum { N = 3000 };
    static struct roster_entry e[N];
    struct roster r;
    memset(e, 0, sizeof e);
    roster_init(&r, states, 3, LIVE, &r);
    for (unsigned i = 0; i < N; i++) {
        struct roster_row row = row_make(i, i == N - 1 ? LEAVING : LIVE, 0);
        roster_put(&r, &e[i], &row);
    }
    expect(NULL, NULL, ROSTER_ROWS_MAX, N, N);
    expect(NULL, "live", ROSTER_ROWS_MAX, N - 1, N);
    expect("u:000000000004", NULL, N / 10, N / 10, N);
    yajl_val v = ask(NULL, NULL);
    CU_ASSERT_STRING_EQUAL(json_str(json_at(json_array(v, "sessions"), 0), "state"), "leaving");
    json_free(&v);
    for (unsigned i = 0; i < N; i++)
        roster_remove(&r, &e[i]);
    roster_free(&r);
}

/* Three reactors write, two readers ask: run it under a thread sanitizer. */
static atomic_bool over;
static struct roster shared[3];

static void *writer(void *arg)
{
    struct roster *r = arg;
    static _Thread_local struct roster_entry e[20];
    unsigned first = 100 * (unsigned)(r - shared);
    for (unsigned turn = 0; turn < 3000; turn++) {
        unsigned i = turn * 7 % 20;
        if (turn % 5 == 4) {
            roster_remove(r, &e[i]);
        } else {
            struct roster_row row = row_make(first + i, turn % 3, turn % 1500);
            roster_put(r, &e[i], &row);
        }
    }
    for (unsigned i = 0; i < 20; i++)
        roster_remove(r, &e[i]);
    return NULL;
}

static void *reader(void *arg)
{
    (void)arg;
    while (!atomic_load(&over)) {
        yajl_val v = ask(NULL, NULL);
        CU_ASSERT_TRUE(json_int(v, "shown", -1) <= json_int(v, "matching", -1)); /* rows come and go meanwhile */
        json_free(&v);
        (void)roster_find("00000003-0000-4000-8000-000000000000");
    }
    return NULL;
}

static void test_threads(void)
{
    pthread_t w[3], r[2];
    for (int i = 0; i < 3; i++)
        roster_init(&shared[i], states, 3, LIVE, &shared[i]);
    for (int i = 0; i < 2; i++)
        pthread_create(&r[i], NULL, reader, NULL);
    for (int i = 0; i < 3; i++)
        pthread_create(&w[i], NULL, writer, &shared[i]);
    for (int i = 0; i < 3; i++)
        pthread_join(w[i], NULL);
    atomic_store(&over, true);
    for (int i = 0; i < 2; i++)
        pthread_join(r[i], NULL);
    expect(NULL, NULL, 0, 0, 0);
    for (int i = 0; i < 3; i++)
        roster_free(&shared[i]);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"rows, filters, order", test_rows},
        {"the bound of an answer", test_bound},
        {"writers and readers at once", test_threads},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {
        {"roster", NULL, NULL, NULL, NULL, tests},
        CU_SUITE_INFO_NULL,
    };
    return unit_run(suites);
}
