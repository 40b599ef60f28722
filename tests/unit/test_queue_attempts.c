/* The durable queue: the log of attempts. */
#include "queue_rig.h"
#include "unit.h"

static const struct queue_filter all;

struct log_page {
    _Atomic int n_answers;
    size_t n;
    struct queue_delivery item[1000];
    char error[1000][48], endpoint[1000][16], answer[1000][260];
};
static struct log_page logged;
static void on_log(void *arg, int result, const struct queue_delivery *item, size_t n)
{
    struct log_page *p = arg;
    CU_ASSERT_EQUAL(result, OMID_OK);
    p->n = n;
    memcpy(p->item, item, n * sizeof(*item));
    for (size_t i = 0; i < n; i++) {
        snprintf(p->error[i], 48, "%s", item[i].error);
        snprintf(p->endpoint[i], 16, "%s", item[i].endpoint);
        snprintf(p->answer[i], 260, "%.*s", (int)item[i].answer_len, item[i].answer);
    }
    p->n_answers++;
}

static size_t log_read(const struct queue_filter *f, uint64_t before, uint64_t after, size_t limit)
{
    memset(&logged, 0, sizeof(logged));
    CU_ASSERT_EQUAL_FATAL(queue_deliveries(q, f, before, after, limit, lp, on_log, &logged), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(logged.n_answers == 1));
    return logged.n;
}

static void test_attempts(void)
{
    static char big[1000];
    memset(big, 'y', sizeof(big));
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue_many("web", "t", 5), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(seen_count() == 5));
    const struct omid_attempt ok = {.size = sizeof(ok),
                                    .status = 200,
                                    .elapsed_ms = 12,
                                    .endpoint = "e1",
                                    .answer = big,
                                    .answer_len = sizeof(big)};
    const struct omid_attempt bad = {
        .size = sizeof(bad), .status = 500, .elapsed_ms = 7, .answer = "oh", .answer_len = 2};
    queue_attempt(h.seen[0].claim, &bad); /* the last one counts */
    queue_attempt(h.seen[0].claim, &ok);
    finish_nth(0, OMID_JOB_DONE, 0, NULL);
    settle();
    queue_attempt(h.seen[1].claim, &bad);
    finish_nth(1, OMID_JOB_RETRY, 0, "HTTP 500");
    settle();
    finish_nth(2, OMID_JOB_DEAD, 0, "not even tried"); /* nobody told, but it failed */
    settle();
    finish_nth(3, OMID_JOB_DONE, 0, NULL); /* nobody told, and all is well */
    queue_attempt(h.seen[4].claim, &bad);
    finish_nth(4, OMID_JOB_WAIT, 1, NULL); /* no attempt */
    settle();
    CU_ASSERT_EQUAL_FATAL(log_read(&all, 0, 0, 100), 3);
    CU_ASSERT_EQUAL(logged.item[2].ended, QUEUE_ENDED_DONE);
    CU_ASSERT_EQUAL(logged.item[2].status, 200);
    CU_ASSERT_EQUAL(logged.item[2].elapsed_ms, 12);
    CU_ASSERT_EQUAL(logged.item[2].job, h.seen[0].id);
    CU_ASSERT_EQUAL(logged.item[2].answer_len, 256);
    CU_ASSERT_STRING_EQUAL(logged.endpoint[2], "e1");
    CU_ASSERT_EQUAL(logged.item[1].ended, QUEUE_ENDED_RETRY);
    CU_ASSERT_EQUAL(logged.item[1].status, 500);
    CU_ASSERT_STRING_EQUAL(logged.error[1], "HTTP 500");
    CU_ASSERT_STRING_EQUAL(logged.answer[1], "oh");
    CU_ASSERT_EQUAL(logged.item[0].ended, QUEUE_ENDED_DEAD);
    CU_ASSERT_EQUAL(logged.item[0].status, 0);
    uint64_t newest = logged.item[0].id, oldest = logged.item[2].id;
    CU_ASSERT_EQUAL(log_read(&(struct queue_filter){.failed = true}, 0, 0, 100), 2);
    CU_ASSERT_EQUAL(log_read(&(struct queue_filter){.target = "e1"}, 0, 0, 100), 1);
    CU_ASSERT_EQUAL(log_read(&(struct queue_filter){.target = "t"}, 0, 0, 100), 3);
    CU_ASSERT_EQUAL(log_read(&all, newest, 0, 100), 2);
    CU_ASSERT_EQUAL(log_read(&all, 0, oldest, 100), 2);
    CU_ASSERT_EQUAL(log_read(&all, 0, newest, 100), 0);
    CU_ASSERT_EQUAL(log_read(&all, 0, 0, 1), 1);
    /* An attempt whose lease ran out. */
    handler_set(true, 0, false);
    advance(2000);
    CU_ASSERT_FATAL(WAIT_FOR(seen_count() == 6));
    queue_attempt(h.seen[5].claim, &bad);
    advance(60000);
    settle();
    CU_ASSERT_EQUAL_FATAL(log_read(&all, 0, newest, 100), 1);
    CU_ASSERT_EQUAL(logged.item[0].ended, QUEUE_ENDED_EXPIRED);
    CU_ASSERT_EQUAL(logged.item[0].status, 0);
    handler_set(false, OMID_JOB_DONE, false);
    for (size_t i = 5; i < seen_count(); i++) {
        struct queue_claim *c = take_claim(i);
        if (c != NULL)
            queue_finish(&c, OMID_JOB_DONE, 0, NULL);
    }
    settle();
    closed();
}

static void test_attempts_bounds(void)
{
    fresh();
    driven();
    cf.in_flight_per_target = 64;
    cf.attempts = 500;
    cf.attempts_keep_ms = 3600000;
    CU_ASSERT_FATAL(started());
    die("a", 3000, NULL);
    for (int i = 0; i < 30; i++) {
        advance(i == 0 ? 61000 : 100);
        settle();
    }
    CU_ASSERT_EQUAL(log_read(&all, 0, 0, 1000), 500);
    advance(3600000);
    die("b", 5, NULL);
    for (int i = 0; i < 30; i++) {
        advance(i == 0 ? 61000 : 100);
        settle();
    }
    CU_ASSERT_EQUAL(log_read(&all, 0, 0, 1000), 5);
    closed();
    cf.attempts = 0;
    CU_ASSERT_FATAL(started());
    die("c", 5, NULL);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM attempt WHERE target = 'c'"), 0);
    closed();
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"log of attempts", test_attempts},
        {"bounds of the log", test_attempts_bounds},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"queue attempts", setup, teardown, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
