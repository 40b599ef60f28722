/* The durable queue: when an attempt comes again, after what ended it, after its lease, and when a clock is set. */
#include "queue_rig.h"
#include "unit.h"

/* ---------------------------------------------------------------- retries */

static void test_retry_delay_bounds(void)
{
    struct queue_config c = {.retry_ms = schedule, .n_retry = 3, .jitter = 0.2};
    CU_ASSERT_EQUAL(queue_retry_delay(&c, 1, 0, 0.5), 5000);
    CU_ASSERT_EQUAL(queue_retry_delay(&c, 1, 0, 0.0), 4000);
    CU_ASSERT_EQUAL(queue_retry_delay(&c, 2, 0, 1.0), 360000);
    CU_ASSERT_EQUAL(queue_retry_delay(&c, 4, 0, 0.5), -1);
    for (double r = 0; r < 1; r += 0.05) {
        CU_ASSERT(queue_retry_delay(&c, 1, 3, r) >= 4000 && queue_retry_delay(&c, 1, 3, r) <= 6000);
        CU_ASSERT(queue_retry_delay(&c, 1, 8, r) >= 8000 && queue_retry_delay(&c, 1, 8, r) <= 10000);
        CU_ASSERT(queue_retry_delay(&c, 1, 86400, r) >= 8900 && queue_retry_delay(&c, 1, 86400, r) <= 10000);
        CU_ASSERT(queue_retry_delay(&c, 1, UINT32_MAX, r) <= 10000);
    }
}

static void test_not_before(void)
{
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "later", driven_now() + 60000, NULL), OMID_OK);
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "now", 0, NULL), OMID_OK);
    CU_ASSERT(WAIT_FOR(counts().done == 1));
    CU_ASSERT_STRING_EQUAL(h.seen[0].payload, "now");
    CU_ASSERT_EQUAL(counts().delayed, 1);
    advance(59999);
    settle();
    CU_ASSERT_EQUAL(seen_count(), 1);
    advance(1);
    CU_ASSERT(WAIT_FOR(counts().done == 2));
    closed();
}

/* With the real clock nobody wakes the thread but itself. */
static void test_wakes_when_due(void)
{
    static const uint32_t quick[] = {150};
    fresh();
    cf.retry_ms = quick;
    cf.n_retry = 1;
    cf.jitter = 0;
    CU_ASSERT_FATAL(started());
    handler_set(false, OMID_JOB_RETRY, false);
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "x", 0, NULL), OMID_OK);
    CU_ASSERT(WAIT_FOR(counts().dead == 1));
    CU_ASSERT_EQUAL(seen_count(), 2);
    CU_ASSERT(h.seen[1].at - h.seen[0].at >= 150);
    closed();
}

static void test_retry_after(void)
{
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "x", 0, NULL), OMID_OK);
    CU_ASSERT(WAIT_FOR(seen_count() == 1));
    finish_nth(0, OMID_JOB_RETRY, 8, "429");
    CU_ASSERT(WAIT_FOR(counts().delayed == 1));
    advance(8499);
    settle();
    CU_ASSERT_EQUAL(seen_count(), 1);
    advance(1);
    CU_ASSERT(WAIT_FOR(seen_count() == 2));
    CU_ASSERT_EQUAL(h.seen[1].attempt, 2);
    finish_nth(1, OMID_JOB_DONE, 0, NULL);
    closed();
}

/* An open breaker's backlog: no attempts are used, and the target is left alone, not asked once per job. */
static void test_wait(void)
{
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    handler_set(false, OMID_JOB_WAIT, false);
    h.retry_after = 30;
    CU_ASSERT_EQUAL(enqueue_many("web", "t", 500), OMID_OK);
    CU_ASSERT_EQUAL(enqueue_many("web", "other", 1), OMID_OK);
    settle();
    size_t asked = seen_count();
    CU_ASSERT(asked >= 2 && asked <= 2 * 8 + 1);
    advance(29000);
    settle();
    CU_ASSERT_EQUAL(seen_count(), asked);
    handler_set(false, OMID_JOB_DONE, false);
    advance(10000);
    CU_ASSERT(WAIT_FOR(counts().done == 501));
    for (size_t i = 0; i < seen_count(); i++)
        CU_ASSERT_EQUAL(h.seen[i].attempt, 1);
    closed();
}

static void test_dead_keeps_error(void)
{
    fresh();
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "x", 0, NULL), OMID_OK);
    CU_ASSERT(WAIT_FOR(seen_count() == 1));
    finish_nth(0, OMID_JOB_DEAD, 0, "410 Gone");
    CU_ASSERT(WAIT_FOR(counts().dead == 1));
    CU_ASSERT_EQUAL(counts().bytes, 0);
    closed();
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM job WHERE state = 1 AND last_error = '410 Gone'"), 1);
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(counts().dead, 1);
    settle();
    CU_ASSERT_EQUAL(seen_count(), 1);
    closed();
}

/* ---------------------------------------------------------------- leases */

static void test_lease_runs_out(void)
{
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue("web", "t", "n", "x", 0, NULL), OMID_OK);
    CU_ASSERT(WAIT_FOR(seen_count() == 1));
    advance(59999);
    settle();
    CU_ASSERT_EQUAL(seen_count(), 1);
    advance(1);
    CU_ASSERT(WAIT_FOR(seen_count() == 2));
    CU_ASSERT_EQUAL(h.seen[1].id, h.seen[0].id);
    CU_ASSERT_EQUAL(h.seen[1].attempt, 2);
    /* The first handler comes back too late: the job stays the second's. */
    finish_nth(0, OMID_JOB_DEAD, 0, "late");
    settle();
    CU_ASSERT_EQUAL(counts().dead, 0);
    CU_ASSERT_EQUAL(counts().leased, 1);
    finish_nth(1, OMID_JOB_DONE, 0, NULL);
    CU_ASSERT(WAIT_FOR(counts().done == 1));
    CU_ASSERT_EQUAL(counts().leased, 0);
    closed();
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM job"), 0);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM lease"), 0);
}

/* A handler that never answers: the attempts come to an end. */
static void test_lease_runs_out_for_ever(void)
{
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "x", 0, NULL), OMID_OK);
    for (size_t i = 1; i <= 1 + ARRAY_LEN(schedule) + QUEUE_LOST_GRACE; i++) {
        CU_ASSERT(WAIT_FOR(seen_count() == i));
        advance(60000);
    }
    CU_ASSERT(WAIT_FOR(counts().dead == 1));
    for (size_t i = 0; i < seen_count(); i++)
        finish_nth(i, OMID_JOB_DONE, 0, NULL);
    closed();
}

/* ---------------------------------------------------------------- clocks */

/* The wall clock is set back and forth: leases and waits of ours don't care, times that were asked for do. */
static void test_clock_jumps(void)
{
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue("web", "retried", NULL, "x", 0, NULL), OMID_OK);
    CU_ASSERT_EQUAL(enqueue("web", "leased", NULL, "x", 0, NULL), OMID_OK);
    CU_ASSERT(WAIT_FOR(seen_count() == 2));
    finish_nth(0, OMID_JOB_RETRY, 0, "no");
    CU_ASSERT(WAIT_FOR(counts().delayed == 1));
    CU_ASSERT_EQUAL(enqueue("web", "asked", NULL, "x", driven_now() + 7200000, NULL), OMID_OK);
    /* An hour forward: the retry is still 5 s away, the lease still runs. */
    clock_ahead += 3600000;
    queue_wake(q);
    settle();
    CU_ASSERT_EQUAL(seen_count(), 2);
    /* Two hours back. A job of now is due now. */
    clock_ahead -= 2 * 3600000;
    queue_wake(q);
    settle();
    CU_ASSERT_EQUAL(seen_count(), 2);
    CU_ASSERT_EQUAL(enqueue("web", "new", NULL, "x", 0, NULL), OMID_OK);
    CU_ASSERT(WAIT_FOR(seen_count() == 3));
    advance(4999);
    settle();
    CU_ASSERT_EQUAL(seen_count(), 3);
    advance(1);
    CU_ASSERT(WAIT_FOR(seen_count() == 4));
    CU_ASSERT_STRING_EQUAL(h.seen[3].target, "retried");
    /* Forward to the time that was asked for. */
    clock_ahead += 3 * 3600000;
    queue_wake(q);
    CU_ASSERT(WAIT_FOR(seen_count() == 5));
    CU_ASSERT_STRING_EQUAL(h.seen[4].target, "asked");
    for (size_t i = 1; i < 5; i++)
        finish_nth(i, OMID_JOB_DONE, 0, NULL);
    CU_ASSERT(WAIT_FOR(counts().done == 4));
    closed();
}

/* The clock is set, and in the same turn of the queue's thread a job comes, or an attempt ends. */
static void test_clock_set_meanwhile(void)
{
    static const int64_t jumps[] = {3600000, -3600000};
    for (size_t i = 0; i < ARRAY_LEN(jumps); i++) {
        fresh();
        driven();
        CU_ASSERT_FATAL(started());
        settle();
        handler_set(true, 0, false);
        clock_ahead += jumps[i];
        CU_ASSERT_EQUAL(enqueue("web", "retried", NULL, "x", 0, NULL), OMID_OK);
        CU_ASSERT_FATAL(WAIT_FOR(seen_count() == 1));
        clock_ahead += jumps[i];
        finish_nth(0, OMID_JOB_RETRY, 0, "no");
        CU_ASSERT(WAIT_FOR(counts().delayed == 1));
        advance(4999);
        settle();
        CU_ASSERT_EQUAL(seen_count(), 1);
        advance(1);
        CU_ASSERT_FATAL(WAIT_FOR(seen_count() == 2));
        /* Told to wait: for so long, not until the clock has come to where it was. */
        clock_ahead += jumps[i];
        finish_nth(1, OMID_JOB_WAIT, 2, "no");
        CU_ASSERT(WAIT_FOR(counts().leased == 0));
        advance(1999);
        settle();
        CU_ASSERT_EQUAL(seen_count(), 2);
        advance(401);
        CU_ASSERT_FATAL(WAIT_FOR(seen_count() == 3));
        finish_nth(2, OMID_JOB_DONE, 0, NULL);
        CU_ASSERT(WAIT_FOR(counts().done == 1));
        closed();
    }
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"retry delay", test_retry_delay_bounds},
        {"not before", test_not_before},
        {"wakes when due", test_wakes_when_due},
        {"Retry-After", test_retry_after},
        {"wait uses no attempt", test_wait},
        {"dead keeps its error", test_dead_keeps_error},
        {"lease runs out", test_lease_runs_out},
        {"lease runs out for ever", test_lease_runs_out_for_ever},
        {"clock jumps", test_clock_jumps},
        {"clock set meanwhile", test_clock_set_meanwhile},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"queue retry", setup, teardown, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
