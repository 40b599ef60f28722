/* The durable queue: how many jobs and bytes it takes, each target's share of it, and what attempts hold in memory. */
#include "queue_rig.h"
#include "unit.h"

/* ---------------------------------------------------------------- jobs */

static void test_max_jobs(void)
{
    fresh();
    cf.max_jobs = 10;
    CU_ASSERT_FATAL(opened());
    CU_ASSERT_FATAL(queue_start(q, handle, NULL));
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue_many("web", "t", 10), OMID_OK);
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "x", 0, NULL), OMID_EFULL);
    /* Leased ones still count; done ones don't. */
    CU_ASSERT(WAIT_FOR(seen_count() == 8));
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "x", 0, NULL), OMID_EFULL);
    finish_nth(0, OMID_JOB_DONE, 0, NULL);
    CU_ASSERT(WAIT_FOR(counts().done == 1));
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "x", 0, NULL), OMID_OK);
    CU_ASSERT_EQUAL(enqueue_many("web", "t", 1), OMID_ERR); /* the fence tells of the refusal */
    CU_ASSERT_EQUAL(enqueue_many("web", "t", 0), OMID_OK);  /* once */
    handler_set(false, OMID_JOB_DONE, false);
    for (size_t i = 1; i < seen_count(); i++) {
        struct queue_claim *c = take_claim(i);
        if (c != NULL)
            queue_finish(&c, OMID_JOB_DONE, 0, NULL);
    }
    CU_ASSERT(WAIT_FOR(counts().done == 11));
    closed();
}

/* ---------------------------------------------------------------- several at once */

struct all_answer {
    _Atomic int n;
    int result;
};
static void on_all(void *arg, enum omid_result result, bool repeated, const char *value)
{
    struct all_answer *a = arg;
    (void)repeated;
    (void)value;
    a->result = result;
    a->n++;
}

/* One job to each of the targets, as one call. */
static int enqueue_all(const char *const *targets, size_t n, bool dead_if_full)
{
    struct all_answer a = {0};
    struct omid_job jobs[4];
    for (size_t i = 0; i < n; i++)
        jobs[i] = (struct omid_job){.size = sizeof(jobs[i]),
                                    .type = "test",
                                    .target = targets[i],
                                    .payload = "x",
                                    .payload_len = 1,
                                    .dead_if_full = dead_if_full};
    int r = queue_enqueue_all(q, "web", jobs, n, NULL, lp, on_all, &a);
    return r == OMID_OK && WAIT_FOR(a.n == 1) ? a.result : r;
}

/* ---------------------------------------------------------------- bytes */

/* 100 bytes; what became of it. */
static int enqueue_100(const char *target)
{
    char payload[101];
    memset(payload, 'x', 100);
    payload[100] = '\0';
    return enqueue("web", target, NULL, payload, 0, NULL);
}

static void test_max_bytes(void)
{
    static char large[601];
    fresh();
    cf.max_bytes = 1000;
    cf.in_flight = cf.in_flight_per_target = 8;
    CU_ASSERT_FATAL(opened());
    CU_ASSERT_FATAL(queue_start(q, handle, NULL));
    handler_set(true, 0, false);
    for (int i = 0; i < 10; i++)
        CU_ASSERT_EQUAL(enqueue_100("t"), OMID_OK);
    CU_ASSERT_EQUAL(enqueue_100("t"), OMID_EFULL);
    CU_ASSERT_EQUAL(queue_retry_after_s(q), 60); /* nothing has left so far */
    CU_ASSERT_EQUAL(counts().bytes, 1000);
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "", 0, NULL), OMID_OK);
    /* What is done, or a dead letter, makes room. */
    CU_ASSERT(WAIT_FOR(seen_count() == 8));
    finish_nth(0, OMID_JOB_DONE, 0, NULL);
    CU_ASSERT(WAIT_FOR(counts().done == 1));
    CU_ASSERT_EQUAL(enqueue_100("t"), OMID_OK);
    CU_ASSERT_EQUAL(enqueue_100("t"), OMID_EFULL);
    finish_nth(1, OMID_JOB_DEAD, 0, "no");
    CU_ASSERT(WAIT_FOR(counts().dead == 1));
    CU_ASSERT_EQUAL(enqueue_100("t"), OMID_OK);
    /* Behind a restart too. */
    closed();
    finish_late();
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(counts().bytes, 1000);
    CU_ASSERT_EQUAL(enqueue_100("t"), OMID_EFULL);
    uint64_t id = (uint64_t)unit_sql_int(path, "SELECT min(id) FROM job WHERE died IS NOT NULL");
    struct answer a = {0};
    CU_ASSERT_EQUAL(queue_dead_replay(q, id, lp, on_fence, &a), OMID_OK);
    CU_ASSERT(WAIT_FOR(a.n == 1));
    CU_ASSERT_EQUAL(a.result, OMID_EFULL);
    handler_set(false, OMID_JOB_DONE, false);
    closed();
    finish_late();
    /* One that is larger than half of it has not to wait until nothing is left; nor is it taken beside more. */
    fresh();
    cf.max_bytes = 1000;
    driven();
    handler_set(false, OMID_JOB_RETRY, false);
    CU_ASSERT_FATAL(started());
    memset(large, 'y', sizeof(large) - 1);
    for (int i = 0; i < 5; i++)
        CU_ASSERT_EQUAL(enqueue_100("t"), OMID_OK);
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, large, 0, NULL), OMID_OK);
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, large, 0, NULL), OMID_EFULL);
    closed();
}

/* One target's jobs are large, and fail: the others' find room. Dead letters keep as much, the oldest go. */
static void test_shares_of_bytes(void)
{
    fresh();
    driven();
    cf.max_bytes = 1000;
    cf.max_share = 0.5;
    handler_set(false, OMID_JOB_RETRY, false);
    CU_ASSERT_FATAL(started());
    for (int i = 0; i < 5; i++)
        CU_ASSERT_EQUAL(enqueue_100("full"), OMID_OK);
    CU_ASSERT_EQUAL(enqueue_100("full"), OMID_EFULL);
    CU_ASSERT_EQUAL(enqueue_100("other"), OMID_OK);
    closed();
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(enqueue_100("full"), OMID_EFULL);
    CU_ASSERT_EQUAL(enqueue_100("other"), OMID_OK);
    closed();
    fresh();
    driven();
    cf.max_bytes = 1000;
    handler_set(false, OMID_JOB_DEAD, false);
    CU_ASSERT_FATAL(started());
    for (int i = 0; i < 15; i++) {
        CU_ASSERT_EQUAL(enqueue_100("t"), OMID_OK);
        CU_ASSERT(WAIT_FOR(counts().leased + counts().ready == 0));
    }
    advance(60000);
    CU_ASSERT(WAIT_FOR(counts().dead == 10));
    closed();
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM job"), 10);
}

/* ---------------------------------------------------------------- shares */

static _Atomic unsigned told_of;
static _Atomic uint64_t told_held, told_refused;
static void on_over(void *arg, const char *owner, const char *target, uint64_t held, uint64_t refused)
{
    (void)arg;
    if (strcmp(owner, "web") != 0 || strcmp(target, "full") != 0)
        abort();
    told_held = held;
    told_refused = refused;
    told_of++;
}

/* How many of a target are taken. */
static unsigned fill(const char *target)
{
    unsigned n = 0;
    while (enqueue("web", target, NULL, "x", 0, NULL) == OMID_OK)
        n++;
    return n;
}

/* Whoever fails, and however many they are: there is room for the next. */
static void test_shares(void)
{
    char name[16];
    fresh();
    driven();
    cf.max_jobs = 1000;
    cf.max_share = 0.5;
    CU_ASSERT_FATAL(opened());
    handler_set(false, OMID_JOB_RETRY, false);
    CU_ASSERT_FATAL(queue_start(q, handle, NULL));
    CU_ASSERT_EQUAL(fill("full0"), 500);
    CU_ASSERT_EQUAL(queue_retry_after_s(q), 60);
    unsigned left = 500;
    for (int i = 1; i < 6; i++) {
        snprintf(name, sizeof(name), "full%d", i);
        unsigned got = fill(name);
        CU_ASSERT_EQUAL(got, left / 2);
        left -= got;
    }
    CU_ASSERT(left >= 15);
    /* Also after a restart, which reads what they hold from the file. */
    closed();
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(enqueue("web", "full0", NULL, "x", 0, NULL), OMID_EFULL);
    CU_ASSERT_EQUAL(enqueue("web", "new", NULL, "x", 0, NULL), OMID_OK);
    /* What has gone makes room again. */
    handler_set(false, OMID_JOB_DONE, false);
    advance(3600000);
    CU_ASSERT(WAIT_FOR(counts().ready + counts().delayed + counts().leased == 0));
    handler_set(false, OMID_JOB_RETRY, false);
    CU_ASSERT_EQUAL(fill("full0"), 500);
    closed();
}

/* A call for several, of which one holds its share: the others get theirs, and what it does not get is a dead letter.
 */
static void test_share_beside_others(void)
{
    static const char *const both[] = {"full", "good"}, *const full[] = {"full", "full"};
    fresh();
    driven();
    cf.max_jobs = 100;
    cf.max_share = 0.5;
    cf.dead = 20;
    cf.over_share = on_over;
    told_of = 0;
    CU_ASSERT_FATAL(opened());
    handler_set(false, OMID_JOB_RETRY, false);
    CU_ASSERT_FATAL(queue_start(q, handle, NULL));
    CU_ASSERT_EQUAL(fill("full"), 50);
    CU_ASSERT(WAIT_FOR(told_of == 1));
    CU_ASSERT(told_held == 50 && told_refused == 1);
    CU_ASSERT_EQUAL(enqueue_all(full, 2, false), OMID_EFULL);
    CU_ASSERT_EQUAL(counts().dead, 0);
    CU_ASSERT_EQUAL(enqueue_many("web", "t", 0), OMID_ERR); /* of the single one alone, */
    CU_ASSERT_EQUAL(enqueue_all(full, 1, false), OMID_EFULL);
    CU_ASSERT_EQUAL(enqueue_many("web", "t", 0), OMID_OK); /* ... others that wait have nothing to do with it */
    CU_ASSERT_EQUAL(enqueue_all(both, 2, false), OMID_OK);
    CU_ASSERT_EQUAL(counts().dead, 1);
    CU_ASSERT_EQUAL(counts().ready + counts().delayed + counts().leased, 51);
    CU_ASSERT_EQUAL(enqueue_all(full, 1, true), OMID_OK);
    CU_ASSERT_EQUAL(counts().dead, 2);
    CU_ASSERT_EQUAL(told_of, 1);
    advance(60000);
    for (int i = 0; i < 20; i++)
        CU_ASSERT_EQUAL(enqueue_all(full, 1, true), OMID_OK);
    CU_ASSERT_EQUAL(told_of, 2);
    /* Half of the dead letters' bound: they don't drive out those of others. */
    CU_ASSERT_EQUAL(counts().dead, 10);
    CU_ASSERT_EQUAL(counts().bytes, 51);
    closed();
    CU_ASSERT_EQUAL(unit_sql_int(path,
                                 "SELECT count(*) FROM job WHERE died IS NOT NULL AND attempt = 0 AND last_error LIKE"
                                 " '%queue.max_share%'"),
                    10);
    /* Brought back when there is room. */
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(counts().dead, 10);
    uint64_t id = (uint64_t)unit_sql_int(path, "SELECT min(id) FROM job WHERE died IS NOT NULL");
    struct answer a = {0};
    CU_ASSERT_EQUAL(queue_dead_replay(q, id, lp, on_fence, &a), OMID_OK);
    CU_ASSERT(WAIT_FOR(a.n == 1));
    CU_ASSERT_EQUAL(a.result, OMID_EFULL);
    handler_set(false, OMID_JOB_DONE, false);
    advance(3600000);
    CU_ASSERT(WAIT_FOR(counts().done == 51));
    CU_ASSERT_EQUAL(queue_dead_replay(q, id, lp, on_fence, &a), OMID_OK);
    CU_ASSERT(WAIT_FOR(a.n == 2 && counts().done == 52));
    closed();
}

/* ---------------------------------------------------------------- payloads of attempts */

/* Attempts under way hold their payloads in memory: large ones are bounded by that, not by their number. */
static void test_payloads_out(void)
{
    enum { JOBS = 80, LARGE = 1 << 20 };
    char *payload = malloc(LARGE + 1);
    CU_ASSERT_PTR_NOT_NULL_FATAL(payload);
    memset(payload, 'x', LARGE);
    payload[LARGE] = '\0';
    fresh();
    cf.in_flight = cf.in_flight_per_target = 1000;
    CU_ASSERT_FATAL(opened());
    handler_set(true, 0, false);
    CU_ASSERT_FATAL(queue_start(q, handle, NULL));
    for (int i = 0; i < JOBS; i++)
        CU_ASSERT_EQUAL(enqueue("web", "t", NULL, payload, 0, NULL), OMID_OK);
    free(payload);
    CU_ASSERT(WAIT_FOR(seen_count() == 64));
    CU_ASSERT_EQUAL(counts().leased, 64);
    for (size_t i = 0; i < JOBS; i++) { /* as each ends, one more begins */
        CU_ASSERT_FATAL(WAIT_FOR(seen_count() > i));
        finish_nth(i, OMID_JOB_DONE, 0, NULL);
    }
    CU_ASSERT(WAIT_FOR(counts().done == JOBS));
    closed();
}

/* The same with the largest of many targets, each of which may begin one: one beyond the bound, not one for each. */
static void test_payloads_of_many(void)
{
    enum { TARGETS = 8 };
    char *payload = malloc(QUEUE_MAX_PAYLOAD), target[8];
    CU_ASSERT_PTR_NOT_NULL_FATAL(payload);
    memset(payload, 'x', QUEUE_MAX_PAYLOAD);
    fresh();
    CU_ASSERT_FATAL(started());
    queue_pause(q);
    for (int i = 0; i < TARGETS; i++) {
        struct answer a = {0};
        snprintf(target, sizeof(target), "t%d", i);
        const struct omid_job job = {.size = sizeof(job),
                                     .type = "test",
                                     .target = target,
                                     .payload = payload,
                                     .payload_len = QUEUE_MAX_PAYLOAD,
                                     .ordered = i % 2};
        CU_ASSERT_EQUAL(queue_enqueue(q, "web", &job, lp, on_enqueued, &a), OMID_OK);
        CU_ASSERT_FATAL(WAIT_FOR(a.n == 1) && a.result == OMID_OK);
    }
    handler_set(true, 0, false);
    queue_resume(q);
    for (size_t i = 0; i < TARGETS; i++) {
        CU_ASSERT_FATAL(WAIT_FOR(seen_count() > i));
        CU_ASSERT(atomic_load(&q->out_bytes) < QUEUE_MAX_OUT + QUEUE_MAX_PAYLOAD);
        finish_nth(i, OMID_JOB_DONE, 0, NULL);
    }
    CU_ASSERT(WAIT_FOR(counts().done == TARGETS));
    free(payload);
    closed();
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"bound on jobs", test_max_jobs},
        {"bound on bytes", test_max_bytes},
        {"shares of bytes", test_shares_of_bytes},
        {"payloads under way", test_payloads_out},
        {"payloads of many", test_payloads_of_many},
        {"shares", test_shares},
        {"a share, beside others", test_share_beside_others},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"queue bounds", setup, teardown, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
