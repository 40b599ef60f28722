/* The durable queue: what it promises, and what breaks around it. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/magic.h"
#include "lane/queue/queue_int.h"
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

/* ---------------------------------------------------------------- shares */

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

/* ---------------------------------------------------------------- disk */

static void test_disk_full(void)
{
    char err[512], payload[2000];
    int failed = 0, ok = 0;
    fresh();
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "first", 0, NULL), OMID_OK);
    CU_ASSERT(WAIT_FOR(seen_count() == 1));
    CU_ASSERT(healthy());
    struct stat st;
    char wal[128];
    snprintf(wal, sizeof(wal), "%s-wal", path);
    CU_ASSERT_FATAL(stat(wal, &st) == 0);
    unit_disk_limit((rlim_t)st.st_size + 20000);
    memset(payload, 'x', sizeof(payload) - 1);
    payload[sizeof(payload) - 1] = '\0';
    for (int i = 0; i < 40; i++) {
        int r = enqueue("web", "u", NULL, payload, 0, NULL);
        CU_ASSERT(r == OMID_OK || r == OMID_ERR);
        ok += r == OMID_OK;
        failed += r == OMID_ERR;
    }
    CU_ASSERT(failed > 0);
    CU_ASSERT(!healthy());
    queue_health(q, err, sizeof(err));
    CU_ASSERT(strstr(err, "limit") != NULL || strstr(err, "full") != NULL);
    CU_ASSERT(strstr(err, path) != NULL);
    CU_ASSERT_EQUAL(enqueue_many("web", "v", 50), OMID_ERR); /* the fence tells */
    /* An attempt ends meanwhile: it is not given out again, and is written when there is room. */
    finish_nth(0, OMID_JOB_DONE, 0, NULL);
    unit_disk_limit(0);
    CU_ASSERT(WAIT_FOR(healthy()));
    CU_ASSERT(WAIT_FOR(counts().done == 1));
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "last", 0, NULL), OMID_OK);
    handler_set(false, OMID_JOB_DONE, false);
    CU_ASSERT(WAIT_FOR(counts().ready + counts().leased == 0 || seen_count() >= (size_t)ok));
    for (size_t i = 1; i < seen_count(); i++) {
        struct queue_claim *c = take_claim(i);
        if (c != NULL)
            queue_finish(&c, OMID_JOB_DONE, 0, NULL);
    }
    CU_ASSERT(WAIT_FOR(counts().ready + counts().leased == 0));
    /* What was told to be on disk was, and nothing else. */
    int got = 0;
    for (size_t i = 0; i < seen_count(); i++)
        got += strcmp(h.seen[i].target, "u") == 0;
    CU_ASSERT_EQUAL(got, ok);
    closed();
}

static void test_bad_places(void)
{
    char err[512], other[128];
    bool aside;
    fresh();
    cf.path = "/nonexistent-directory/queue.db";
    CU_ASSERT_PTR_NULL(queue_open(&cf, &aside, err, sizeof(err)));
    CU_ASSERT(strstr(err, "/nonexistent-directory/queue.db") && strstr(err, "No such file"));
    cf.path = dir;
    CU_ASSERT_PTR_NULL(queue_open(&cf, &aside, err, sizeof(err)));
    CU_ASSERT(strstr(err, "is a directory") != NULL);
    cf.path = path;
    CU_ASSERT(unit_sql(path, "CREATE TABLE theirs(a); INSERT INTO theirs VALUES(1)"));
    CU_ASSERT_PTR_NULL(queue_open(&cf, &aside, err, sizeof(err)));
    CU_ASSERT(strstr(err, "another program") != NULL);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT a FROM theirs"), 1);
    CU_ASSERT_EQUAL(unit_files(dir, "queue.db"), 1); /* and is as it was, also in its header */
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT 1 FROM pragma_journal_mode WHERE journal_mode = 'delete'"), 1);
    unlink(path);
    CU_ASSERT_FATAL(opened());
    CU_ASSERT_PTR_NULL(queue_open(&cf, &aside, err, sizeof(err)));
    CU_ASSERT(strstr(err, "in use") != NULL);
    closed();
    CU_ASSERT(unit_sql(path, "PRAGMA user_version=77"));
    CU_ASSERT_PTR_NULL(queue_open(&cf, &aside, err, sizeof(err)));
    CU_ASSERT(strstr(err, "version is 77") != NULL);
    CU_ASSERT(!aside);
    snprintf(other, sizeof(other), "%s/sub", dir);
    if (geteuid() != 0) {
        mkdir(other, 0500);
        snprintf(other, sizeof(other), "%s/sub/queue.db", dir);
        cf.path = other;
        CU_ASSERT_PTR_NULL(queue_open(&cf, &aside, err, sizeof(err)));
        CU_ASSERT(strstr(err, "Permission denied") != NULL);
    }
    q = NULL;
}

/* No room for a new file, at whatever point of making it; then there is. */
static void test_full_at_start(void)
{
    char err[512];
    bool aside;
    int refused = 0;
    for (rlim_t room = 1; room < 200000; room = room * 3 / 2 + 500) {
        fresh();
        unit_disk_limit(room);
        q = queue_open(&cf, &aside, err, sizeof(err));
        unit_disk_limit(0);
        if (q == NULL) {
            refused++;
            CU_ASSERT(strstr(err, "limit") != NULL || strstr(err, "full") != NULL);
        }
        queue_free(&q);
        CU_ASSERT_FATAL(started());
        CU_ASSERT_EQUAL(unit_files(dir, "queue.db.corrupt-"), 0);
        CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "x", 0, NULL), OMID_OK);
        CU_ASSERT(WAIT_FOR(counts().done == 1));
        closed();
    }
    CU_ASSERT(refused >= 3);
}

static void fill_and_close(void)
{
    CU_ASSERT_FATAL(opened());
    CU_ASSERT_FATAL(queue_start(q, handle, NULL));
    queue_pause(q);
    CU_ASSERT_EQUAL(enqueue_many("web", "t", 3000), OMID_OK);
    closed();
}

static void expect_set_aside(const char *what)
{
    char err[512] = "";
    bool aside = false;
    q = queue_open(&cf, &aside, err, sizeof(err));
    CU_ASSERT_PTR_NOT_NULL_FATAL(q);
    CU_ASSERT(aside);
    CU_ASSERT(err[0] != '\0');
    if (!aside)
        fprintf(stderr, "%s: not set aside\n", what);
    CU_ASSERT(unit_files(dir, "queue.db.corrupt-") >= 1);
    CU_ASSERT_FATAL(queue_start(q, handle, NULL));
    uint64_t id = 0;
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "x", 0, &id), OMID_OK);
    CU_ASSERT(id > 100000000); /* none of the lost file's */
    closed();
}

static void test_broken_files(void)
{
    struct stat st;
    char wal[160];
    fresh();
    fill_and_close();
    CU_ASSERT_FATAL(stat(path, &st) == 0);
    CU_ASSERT_EQUAL(truncate(path, st.st_size / 2), 0);
    expect_set_aside("cut in half");

    fresh();
    fill_and_close();
    CU_ASSERT_EQUAL(truncate(path, 100), 0);
    expect_set_aside("cut in the header");

    fresh();
    fill_and_close();
    int fd = open(path, O_RDWR);
    char junk[4096];
    memset(junk, 0xa5, sizeof(junk));
    for (int i = 1; i < 6; i++)
        CU_ASSERT_EQUAL(pwrite(fd, junk, sizeof(junk), i * 4096), (ssize_t)sizeof(junk));
    close(fd);
    expect_set_aside("overwritten pages");

    fresh();
    fill_and_close();
    fd = open(path, O_RDWR);
    memset(junk, 0, sizeof(junk));
    CU_ASSERT_EQUAL(pwrite(fd, junk, sizeof(junk), 0), (ssize_t)sizeof(junk));
    close(fd);
    expect_set_aside("zeros at the start");

    /* Nothing is left in the write-ahead log that would tell that there was a database. */
    fresh();
    fill_and_close();
    snprintf(wal, sizeof(wal), "%s-wal", path);
    CU_ASSERT(stat(wal, &st) == 0 && st.st_size == 0);
    memset(junk, 0x5a, sizeof(junk));
    fd = open(path, O_RDWR);
    CU_ASSERT_EQUAL(pwrite(fd, junk, 100, 0), 100);
    close(fd);
    expect_set_aside("garbage for a header");

    fresh();
    fill_and_close();
    fd = open(path, O_RDWR);
    CU_ASSERT_EQUAL(pwrite(fd, junk, 4, 68), 4);
    close(fd);
    expect_set_aside("garbage for the application's id");

    static const char letter[] = "This is a letter to my aunt, and no database at all.\n";
    char kept[512];
    fresh();
    unit_write_file(path, letter, sizeof(letter) - 1);
    expect_set_aside("a letter");
    CU_ASSERT_EQUAL_FATAL(unit_first_file(dir, "queue.db.corrupt-", kept, sizeof(kept)), true);
    CU_ASSERT(stat(kept, &st) == 0 && st.st_size == sizeof(letter) - 1); /* nothing is lost */
}

/* ---------------------------------------------------------------- kill -9 */

/* What the child was told, and what it told: shared, so that it outlives the child. */
struct ledger {
    _Atomic uint32_t accepted[200000]; /* by payload number: told to be on disk */
    _Atomic uint32_t delivered[200000];
    _Atomic uint32_t finished[200000];
    _Atomic uint32_t next;
};
static struct ledger *ledger;

static bool ledger_handle(void *arg, struct queue_claim *c)
{
    const struct omid_job_view *v = queue_claim_view(c);
    (void)arg;
    uint32_t n = (uint32_t)strtoul((const char *)v->payload, NULL, 10);
    ledger->delivered[n]++;
    ledger->finished[n]++;
    queue_finish(&c, OMID_JOB_DONE, 0, NULL);
    return true;
}

static void on_ledger(void *arg, enum omid_result result, uint64_t id)
{
    (void)id;
    if (result == OMID_OK)
        ledger->accepted[(uintptr_t)arg] = 1;
}

static void load_until_killed(void)
{
    char payload[16];
    struct loop *own = loop_new("child");
    if (own == NULL || !loop_start(own) || !opened() || !queue_start(q, ledger_handle, NULL))
        _exit(1);
    for (;;) {
        uint32_t n = ledger->next++;
        if (n >= ARRAY_LEN(ledger->accepted))
            _exit(2);
        snprintf(payload, sizeof(payload), "%u", n);
        struct omid_job job = {.size = sizeof(job),
                               .type = "test",
                               .target = n % 3 ? "a" : "b",
                               .payload = payload,
                               .payload_len = strlen(payload)};
        if (queue_enqueue(q, "web", &job, own, on_ledger, (void *)(uintptr_t)n) != OMID_OK)
            _exit(3);
        if (n % 20 == 0)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static void test_kill_nine(void)
{
    enum { KILLS = 15 };
    fresh();
    cf.commit_ms = 3;
    ledger = mmap(NULL, sizeof(*ledger), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CU_ASSERT_FATAL(ledger != MAP_FAILED);
    for (int k = 0; k < KILLS; k++) {
        int status = 0;
        pid_t pid = fork();
        if (pid == 0)
            load_until_killed();
        uint32_t begin = ledger->next;
        /* One that ended by itself is no load. */
        CU_ASSERT_FATAL(WAIT_FOR(ledger->next > begin + 50 || waitpid(pid, &status, WNOHANG) == pid));
        CU_ASSERT_FATAL(ledger->next > begin + 50);
        /* At any moment: of a commit, a claim, a finish. */
        nanosleep(&(struct timespec){.tv_nsec = (long)(id_random_u64() % 60000000)}, NULL);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        CU_ASSERT(WIFSIGNALED(status));
    }
    /* The last one runs to the end, in this process. */
    CU_ASSERT_FATAL(opened());
    CU_ASSERT_FATAL(queue_start(q, ledger_handle, NULL));
    CU_ASSERT(WAIT_FOR(counts().ready + counts().delayed + counts().leased == 0));
    uint32_t accepted = 0, lost = 0, doubled = 0, all = ledger->next;
    for (uint32_t i = 0; i < all; i++) {
        accepted += ledger->accepted[i];
        lost += ledger->accepted[i] && ledger->delivered[i] == 0;
        doubled += ledger->delivered[i] > 1;
    }
    printf("(%d kills, %u accepted, %u lost, %u doubled) ", KILLS, accepted, lost, doubled);
    CU_ASSERT(accepted > KILLS * 50);
    CU_ASSERT_EQUAL(lost, 0);
    CU_ASSERT(doubled <= KILLS * cf.in_flight);
    CU_ASSERT_EQUAL(counts().dead, 0);
    closed();
    munmap(ledger, sizeof(*ledger));
}

/* What a killed process had in hand is offered again at once. */
static void test_killed_with_claims(void)
{
    fresh();
    pid_t pid = fork();
    if (pid == 0) {
        struct loop *own = loop_new("child");
        handler_set(true, 0, false);
        if (!loop_start(own) || !started())
            _exit(1);
        lp = own;
        if (enqueue_many("web", "t", 5) != OMID_OK || !WAIT_FOR(seen_count() == 5))
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    CU_ASSERT_FATAL(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CU_ASSERT_FATAL(started());
    CU_ASSERT(WAIT_FOR(counts().done == 5));
    for (size_t i = 0; i < 5; i++)
        CU_ASSERT_EQUAL(h.seen[i].attempt, 2);
    closed();
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
        {"one job", test_one_job},
        {"bad arguments", test_bad_arguments},
        {"names", test_names},
        {"bound on jobs", test_max_jobs},
        {"bound on bytes", test_max_bytes},
        {"shares of bytes", test_shares_of_bytes},
        {"payloads under way", test_payloads_out},
        {"payloads of many", test_payloads_of_many},
        {"shares", test_shares},
        {"a share, beside others", test_share_beside_others},
        {"retry delay", test_retry_delay_bounds},
        {"not before", test_not_before},
        {"wakes when due", test_wakes_when_due},
        {"Retry-After", test_retry_after},
        {"wait uses no attempt", test_wait},
        {"dead keeps its error", test_dead_keeps_error},
        {"saturated target", test_saturated_target},
        {"turns", test_turns},
        {"owner not there", test_owner_not_there},
        {"pause", test_pause},
        {"lease runs out", test_lease_runs_out},
        {"lease runs out for ever", test_lease_runs_out_for_ever},
        {"clock jumps", test_clock_jumps},
        {"clock set meanwhile", test_clock_set_meanwhile},
        {"finish after free", test_finish_after_free},
        {"disk full", test_disk_full},
        {"bad places", test_bad_places},
        {"disk full at the start", test_full_at_start},
        {"broken files", test_broken_files},
        {"kill -9", test_kill_nine},
        {"killed with claims", test_killed_with_claims},
        {"threads", test_threads},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"queue", setup, teardown, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
