/* The durable queue: what it promises. */
#include "queue_rig.h"
#include "unit.h"

/* ---------------------------------------------------------------- plain use */

static void test_one_job(void)
{
    uint64_t id = 0;
    fresh();
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(enqueue("web", "https://a/", NULL, "hello", 0, &id), OMID_OK);
    CU_ASSERT(id > 0);
    CU_ASSERT(WAIT_FOR(counts().done == 1));
    CU_ASSERT_EQUAL(seen_count(), 1);
    CU_ASSERT_EQUAL(h.seen[0].id, id);
    CU_ASSERT_EQUAL(h.seen[0].attempt, 1);
    CU_ASSERT_STRING_EQUAL(h.seen[0].payload, "hello");
    CU_ASSERT_STRING_EQUAL(h.seen[0].target, "https://a/");
    struct queue_counts n = counts();
    CU_ASSERT_EQUAL(n.ready + n.delayed + n.leased + n.dead + n.bytes, 0);
    closed();
    /* Nothing is left, and ids go on. */
    uint64_t second = 0;
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(enqueue("web", "https://a/", NULL, "x", 0, &second), OMID_OK);
    CU_ASSERT(second > id);
    closed();
}

static void test_bad_arguments(void)
{
    static char big[5000];
    struct omid_job job = {.size = sizeof(job), .type = "t", .target = "x", .payload = "p", .payload_len = 1};
    fresh();
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(queue_enqueue(q, "", &job, lp, NULL, NULL), OMID_EINVAL);
    CU_ASSERT_EQUAL(queue_enqueue(q, "a\nb", &job, lp, NULL, NULL), OMID_EINVAL);
    memset(big, 'x', sizeof(big) - 1);
    job.target = big;
    CU_ASSERT_EQUAL(queue_enqueue(q, "web", &job, lp, NULL, NULL), OMID_EINVAL);
    job.target = "x";
    job.payload_len = QUEUE_MAX_PAYLOAD + 1;
    CU_ASSERT_EQUAL(queue_enqueue(q, "web", &job, lp, NULL, NULL), OMID_EINVAL);
    job.payload_len = 1;
    job.type = NULL;
    CU_ASSERT_EQUAL(queue_enqueue(q, "web", &job, lp, NULL, NULL), OMID_EINVAL);
    closed();
}

static void test_names(void)
{
    uint64_t a = 0, b = 0, c = 0, d = 0, e = 0;
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue("web", "t", "n1", "1", 0, &a), OMID_OK);
    CU_ASSERT_EQUAL(enqueue("web", "t", "n1", "2", 0, &b), OMID_OK);
    CU_ASSERT_EQUAL(a, b);
    /* Names are their owner's. */
    CU_ASSERT_EQUAL(enqueue("other", "t", "n1", "3", 0, &c), OMID_OK);
    CU_ASSERT_NOT_EQUAL(a, c);
    CU_ASSERT(WAIT_FOR(seen_count() == 2));
    finish_nth(0, OMID_JOB_DONE, 0, NULL);
    finish_nth(1, OMID_JOB_DEAD, 0, "no");
    CU_ASSERT(WAIT_FOR(counts().done == 1 && counts().dead == 1));
    /* After it is done, also across a reopening, until the time is over. */
    advance(12 * 3600 * 1000 - 1000);
    CU_ASSERT_EQUAL(enqueue("web", "t", "n1", "4", 0, &d), OMID_OK);
    CU_ASSERT_EQUAL(d, a);
    closed();
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(enqueue("web", "t", "n1", "5", 0, &d), OMID_OK);
    CU_ASSERT_EQUAL(d, a);
    advance(2000);
    CU_ASSERT_EQUAL(enqueue("web", "t", "n1", "6", 0, &e), OMID_OK);
    CU_ASSERT_NOT_EQUAL(e, a);
    /* The dead one's name stays with it. */
    CU_ASSERT_EQUAL(enqueue("other", "t", "n1", "7", 0, &d), OMID_OK);
    CU_ASSERT_EQUAL(d, c);
    CU_ASSERT(WAIT_FOR(seen_count() == 3));
    finish_nth(2, OMID_JOB_DONE, 0, NULL);
    closed();
}

/* ---------------------------------------------------------------- fairness */

static void test_saturated_target(void)
{
    fresh();
    cf.in_flight = 16;
    cf.in_flight_per_target = 4;
    CU_ASSERT_FATAL(opened());
    CU_ASSERT_FATAL(queue_start(q, handle, NULL));
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue_many("web", "hangs", 10000), OMID_OK);
    CU_ASSERT(WAIT_FOR(seen_count() == 4));
    /* The others go on beside it, whatever its backlog. */
    handler_set(false, OMID_JOB_DONE, false);
    for (int i = 0; i < 20; i++) {
        char target[16];
        snprintf(target, sizeof(target), "good%d", i);
        CU_ASSERT_EQUAL(enqueue_many("web", target, 20), OMID_OK);
    }
    CU_ASSERT(WAIT_FOR(counts().done == 400));
    CU_ASSERT_EQUAL(counts().leased, 4);
    for (size_t i = 4; i < seen_count(); i++)
        CU_ASSERT(strncmp(h.seen[i].target, "good", 4) == 0);
    /* And in turns, once it answers again. */
    for (size_t i = 0; i < 4; i++)
        finish_nth(i, OMID_JOB_DONE, 0, NULL);
    CU_ASSERT(WAIT_FOR(counts().done == 10400));
    closed();
}

/* A slot that comes free goes to the next target in turn. */
static void test_turns(void)
{
    fresh();
    cf.in_flight = 3;
    cf.in_flight_per_target = 3;
    CU_ASSERT_FATAL(opened());
    for (int t = 0; t < 3; t++) {
        for (int i = 0; i < 30; i++) {
            char target[8];
            snprintf(target, sizeof(target), "t%d", t);
            struct omid_job job = {.size = sizeof(job), .type = "test", .target = target};
            CU_ASSERT_EQUAL(queue_enqueue(q, "web", &job, NULL, NULL, NULL), OMID_OK);
        }
    }
    handler_set(false, OMID_JOB_DONE, false);
    CU_ASSERT_FATAL(queue_start(q, handle, NULL));
    CU_ASSERT(WAIT_FOR(counts().done == 90));
    int of[3] = {0}, most = 0;
    for (size_t i = 0; i < 90; i++) {
        of[h.seen[i].target[1] - '0']++;
        int hi = 0, lo = 99;
        for (int t = 0; t < 3; t++) {
            hi = of[t] > hi ? of[t] : hi;
            lo = of[t] < lo ? of[t] : lo;
        }
        most = hi - lo > most ? hi - lo : most;
    }
    CU_ASSERT(most <= 4);
    closed();
}

/* ---------------------------------------------------------------- owners */

static void test_owner_not_there(void)
{
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    handler_set(false, OMID_JOB_DONE, true);
    CU_ASSERT_EQUAL(enqueue_many("gone", "a", 50), OMID_OK);
    CU_ASSERT_EQUAL(enqueue_many("gone", "b", 50), OMID_OK);
    CU_ASSERT_EQUAL(enqueue_many("gone", "c", 50), OMID_OK);
    settle();
    unsigned asked = offers();
    CU_ASSERT(asked >= 1 && asked <= 3);
    for (int i = 0; i < 10; i++) {
        advance(1000);
        settle();
    }
    CU_ASSERT(offers() >= asked + 9 && offers() <= asked + 11); /* once a second, not per job */
    CU_ASSERT_EQUAL(counts().ready, 150);
    /* Another's jobs are not held up by it. */
    handler_set(false, OMID_JOB_DONE, false);
    advance(1000);
    CU_ASSERT(WAIT_FOR(counts().done == 150));
    for (size_t i = 0; i < seen_count(); i++)
        CU_ASSERT_EQUAL(h.seen[i].attempt, 1);
    closed();
}

static void test_pause(void)
{
    fresh();
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "x", 0, NULL), OMID_OK);
    CU_ASSERT(WAIT_FOR(seen_count() == 1));
    queue_pause(q);
    CU_ASSERT_EQUAL(enqueue_many("web", "t", 5), OMID_OK);
    finish_nth(0, OMID_JOB_DONE, 0, NULL);
    CU_ASSERT(WAIT_FOR(counts().done == 1));
    settle();
    CU_ASSERT_EQUAL(seen_count(), 1);
    CU_ASSERT_EQUAL(counts().ready, 5);
    closed();
}

/* Finished after the queue has gone. */
static void test_finish_after_free(void)
{
    fresh();
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "x", 0, NULL), OMID_OK);
    CU_ASSERT(WAIT_FOR(seen_count() == 1));
    closed();
    finish_nth(0, OMID_JOB_DONE, 0, NULL);
    CU_ASSERT_FATAL(started());
    CU_ASSERT(WAIT_FOR(seen_count() == 2));
    CU_ASSERT_EQUAL(h.seen[1].attempt, 2);
    finish_nth(1, OMID_JOB_DONE, 0, NULL);
    closed();
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM job"), 0);
}

/* ---------------------------------------------------------------- many threads */

struct sender {
    pthread_t thread;
    _Atomic int answered;
    int n;
};
static void on_sent(void *arg, enum omid_result result, uint64_t id)
{
    struct sender *s = arg;
    (void)id;
    if (result == OMID_OK)
        s->answered++;
}
static void *send_many(void *arg)
{
    struct sender *s = arg;
    char target[16];
    for (int i = 0; i < s->n; i++) {
        snprintf(target, sizeof(target), "t%d", i % 7);
        struct omid_job job = {.size = sizeof(job), .type = "test", .target = target, .payload = "p", .payload_len = 1};
        if (queue_enqueue(q, "web", &job, lp, on_sent, s) != OMID_OK)
            break;
    }
    return NULL;
}

static void test_threads(void)
{
    struct sender s[4] = {0};
    fresh();
    CU_ASSERT_FATAL(started());
    for (int i = 0; i < 4; i++) {
        s[i].n = 2000;
        CU_ASSERT_EQUAL(pthread_create(&s[i].thread, NULL, send_many, &s[i]), 0);
    }
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    queue_status(q, &w);
    CU_ASSERT(json_w_end(&w));
    buf_free(&b);
    for (int i = 0; i < 4; i++)
        pthread_join(s[i].thread, NULL);
    for (int i = 0; i < 4; i++)
        CU_ASSERT(WAIT_FOR(s[i].answered == 2000));
    CU_ASSERT(WAIT_FOR(counts().done == 8000));
    metrics_render(&b);
    CU_ASSERT(b.data != NULL && strstr(b.data, "omid_queue_finished_total{outcome=\"done\"} 8000") != NULL);
    buf_free(&b);
    closed();
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"one job", test_one_job}, {"bad arguments", test_bad_arguments},
        {"names", test_names},     {"saturated target", test_saturated_target},
        {"turns", test_turns},     {"owner not there", test_owner_not_there},
        {"pause", test_pause},     {"finish after free", test_finish_after_free},
        {"threads", test_threads}, CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"queue", setup, teardown, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
