/* The durable queue: rates of targets, configured ones and those learned from 429. */
#include "queue_rig.h"
#include "unit.h"

/* ---------------------------------------------------------------- the arithmetic */

/* How many begin within so many ms, asked as the queue asks: when it is told to. */
static unsigned begun(struct queue_rate *r, int64_t *now, int64_t ms, unsigned *burst)
{
    unsigned n = 0;
    int64_t end = *now + ms;
    *burst = 0;
    while (*now < end) {
        uint32_t may = queue_rate_may(r, *now);
        queue_rate_take(r, may, *now);
        n += may;
        *burst = may > *burst ? may : *burst;
        int64_t next = queue_rate_next(r, *now);
        CU_ASSERT_FATAL(next > *now);
        *now = next < end ? next : end;
    }
    return n;
}

static void test_bucket(void)
{
    static const uint32_t rates[] = {1, 7, 60, 600, 60000, 600000};
    for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
        struct queue_rate r = {0};
        int64_t now = 5000000;
        unsigned burst;
        queue_rate_set(&r, rates[i], 1, now);
        CU_ASSERT_EQUAL(queue_rate_may(&r, now), 1);
        unsigned n = begun(&r, &now, 10 * 60000, &burst);
        CU_ASSERT(n >= 10 * rates[i] - rates[i] / 60 && n <= 10 * rates[i] + 1);
        CU_ASSERT(burst <= 1 + rates[i] / 240);
        /* Nothing is saved up. */
        now += 3600000;
        CU_ASSERT(queue_rate_may(&r, now) <= 1 + rates[i] / 240);
        n = begun(&r, &now, 60000, &burst);
        CU_ASSERT(n <= rates[i] + 1 + rates[i] / 240);
        /* One that was no attempt is given back, and the rest kept for as long as it matters. */
        queue_rate_give_back(&r);
        CU_ASSERT(queue_rate_may(&r, now) >= 1);
        queue_rate_take(&r, queue_rate_may(&r, now), now);
        int64_t keep = queue_rate_keep_until(&r, now);
        CU_ASSERT(keep > now && keep <= now + 60000 / rates[i] + 2);
        queue_rate_set(&r, 0, 1, now);
        CU_ASSERT_EQUAL(queue_rate_may(&r, now), UINT32_MAX);
        CU_ASSERT(queue_rate_next(&r, now) <= now);
    }
}

static void test_bucket_empty_at_first(void)
{
    struct queue_rate r = {0};
    queue_rate_set(&r, 60, 0, 1000);
    CU_ASSERT_EQUAL(queue_rate_may(&r, 1000), 0);
    CU_ASSERT_EQUAL(queue_rate_next(&r, 1000), 2000);
    CU_ASSERT_EQUAL(queue_rate_may(&r, 2000), 1);
}

static void test_held(void)
{
    struct queue_rate r = {0};
    queue_rate_take(&r, 1, 1000);
    queue_rate_answered(&r, 1100);
    queue_rate_too_many(&r, 30, 2000);
    CU_ASSERT_EQUAL(queue_rate_may(&r, 31999), 0);
    CU_ASSERT(queue_rate_next(&r, 2000) >= 32000);
    CU_ASSERT(queue_rate_keep_until(&r, 2000) >= 32000);
    /* Others of the same round make it neither slower nor shorter. */
    double pace = r.pace;
    queue_rate_too_many(&r, 0, 2001);
    CU_ASSERT_EQUAL(r.pace, pace);
    CU_ASSERT_EQUAL(queue_rate_may(&r, 31999), 0);
    /* Whatever a peer asks for. */
    queue_rate_too_many(&r, UINT32_MAX, 2002);
    CU_ASSERT(r.hold_until <= 2002 + QUEUE_RATE_MAX_HOLD_MS);
}

/* ---------------------------------------------------------------- an endpoint */

/* Allows so many a second, and holds none of it for later than a tenth of one; above that it says 429. */
static struct {
    pthread_mutex_t lock;
    double per_s, tokens;
    int64_t at;
    uint32_t retry_after;
    unsigned served, refused, second, most_in_second, in_second;
} ep = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void ep_set(double per_s, uint32_t retry_after)
{
    ep.per_s = per_s;
    ep.tokens = per_s / 10;
    ep.at = clock_mono;
    ep.retry_after = retry_after;
    ep.served = ep.refused = ep.most_in_second = ep.in_second = ep.second = 0;
}

static bool ep_handle(void *arg, struct queue_claim *c)
{
    (void)arg;
    pthread_mutex_lock(&ep.lock);
    int64_t now = clock_mono;
    ep.tokens += ep.per_s * (double)(now - ep.at) / 1000;
    if (ep.tokens > ep.per_s / 10)
        ep.tokens = ep.per_s / 10;
    ep.at = now;
    if ((unsigned)(now / 1000) != ep.second) {
        ep.second = (unsigned)(now / 1000);
        ep.in_second = 0;
    }
    ep.in_second++;
    if (ep.in_second > ep.most_in_second)
        ep.most_in_second = ep.in_second;
    bool ok = ep.tokens >= 1;
    if (ok)
        ep.tokens -= 1;
    *(ok ? &ep.served : &ep.refused) += 1;
    uint32_t after = ok ? 0 : ep.retry_after;
    pthread_mutex_unlock(&ep.lock);
    const struct omid_attempt a = {.size = sizeof(a), .status = ok ? 200 : 429, .elapsed_ms = 5};
    queue_attempt(c, &a);
    queue_finish(&c, ok ? OMID_JOB_DONE : OMID_JOB_RETRY, after, ok ? NULL : "429");
    return true;
}

static unsigned ep_served(void)
{
    pthread_mutex_lock(&ep.lock);
    unsigned n = ep.served;
    pthread_mutex_unlock(&ep.lock);
    return n;
}

static unsigned ep_tried(void)
{
    pthread_mutex_lock(&ep.lock);
    unsigned n = ep.served + ep.refused;
    pthread_mutex_unlock(&ep.lock);
    return n;
}

/* Until nothing more begins at this moment. */
static void quiesce(void)
{
    unsigned before;
    do {
        before = ep_tried();
        enqueue_many("web", "endpoint", 0);
        WAIT_FOR(counts().leased == 0);
        enqueue_many("web", "endpoint", 0);
    } while (before != ep_tried());
}

/* A backlog for one endpoint that has come back, and answers 429 above its rate, which nobody told us: drained to the
 * last of it, without a burst. */
static void flood(unsigned jobs, double per_s, uint32_t retry_after, uint32_t rate_per_min)
{
    char payload[16] = "p";
    fresh();
    driven();
    cf.commit_ms = 0;
    cf.random = NULL;
    cf.in_flight_per_target = 64;
    CU_ASSERT_FATAL(opened());
    for (unsigned i = 0; i < jobs; i++) {
        struct omid_job job = {.size = sizeof(job),
                               .type = "test",
                               .target = "endpoint",
                               .payload = payload,
                               .payload_len = 1,
                               .rate_per_min = rate_per_min};
        CU_ASSERT_EQUAL(queue_enqueue(q, "web", &job, NULL, NULL, NULL), OMID_OK);
    }
    ep_set(per_s, retry_after);
    CU_ASSERT_FATAL(queue_start(q, ep_handle, NULL));
    const int64_t began = clock_mono;
    const int64_t most = (int64_t)(jobs / per_s * 2000); /* half of what it allows, and it is too slow */
    for (quiesce(); ep_served() < jobs && clock_mono - began < most; quiesce())
        advance(40);
    unsigned served = ep_served();
    double seconds = (double)(clock_mono - began) / 1000, share = served / (seconds * per_s);
    printf("(%u of %u in %.1f s: %.0f %% of what it allows; %u times 429; at most %u in a second) ", served, jobs,
           seconds, share * 100, ep.refused, ep.most_in_second);
    CU_ASSERT_EQUAL(served, jobs);
    CU_ASSERT(share >= 0.8 && share <= 1.02);
    CU_ASSERT(ep.refused <= ep.served / 20);
    CU_ASSERT(ep.most_in_second <= per_s * 1.2);
    CU_ASSERT(WAIT_FOR(counts().done == jobs));
    CU_ASSERT_EQUAL(counts().ready + counts().delayed + counts().leased + counts().dead, 0);
    closed();
}

static void test_flood_learned(void)
{
    flood(100000, 2000, 1, 0);
}

static void test_flood_without_retry_after(void)
{
    flood(30000, 1000, 0, 0);
}

static void test_flood_configured(void)
{
    flood(10000, 1000, 1, 60000);
    CU_ASSERT_EQUAL(ep.refused, 0);
}

/* ---------------------------------------------------------------- the whole queue */

static size_t seen_until(int64_t ms, int64_t step)
{
    for (int64_t t = 0; t < ms; t += step) {
        advance(step);
        settle();
    }
    return seen_count();
}

static int enqueue_rated(const char *target, int n, uint32_t rate)
{
    return enqueue_like(&(struct omid_job){.target = target, .rate_per_min = rate}, "web", 0, n);
}

/* Smooth, whatever waited, also across restarts and when jobs come one by one; others are not held up. */
static void test_rate(void)
{
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(enqueue_rated("slow", 100, 60), OMID_OK);
    CU_ASSERT_EQUAL(enqueue_rated("free", 20, 0), OMID_OK);
    settle();
    CU_ASSERT_EQUAL(seen_count(), 21);
    CU_ASSERT_EQUAL(seen_until(10000, 500), 31);
    for (int i = 0; i < 5; i++) {
        closed();
        CU_ASSERT_FATAL(started());
        settle();
    }
    CU_ASSERT_EQUAL(seen_count(), 31);
    CU_ASSERT_EQUAL(seen_until(10000, 500), 41);
    /* The last one enqueued counts. */
    CU_ASSERT_EQUAL(enqueue_rated("slow", 1, 120), OMID_OK);
    CU_ASSERT_EQUAL(seen_until(10000, 500), 61);
    CU_ASSERT_EQUAL(enqueue_rated("slow", 1, 0), OMID_OK);
    CU_ASSERT(WAIT_FOR(counts().ready == 0));
    closed();
}

static void test_rate_one_by_one(void)
{
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    for (int i = 0; i < 30; i++) {
        CU_ASSERT_EQUAL(enqueue_rated("slow", 1, 60), OMID_OK);
        advance(100);
        settle();
    }
    /* 3 s have passed. */
    CU_ASSERT(seen_count() >= 3 && seen_count() <= 4);
    closed();
}

/* A 429 with Retry-After holds back the target, not the job alone, and no other target. */
static void test_429_holds_target(void)
{
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue_many("web", "t", 1), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(seen_count() == 1));
    const struct omid_attempt a = {.size = sizeof(a), .status = 429, .answer = "slow down", .answer_len = 9};
    queue_attempt(h.seen[0].claim, &a);
    finish_nth(0, OMID_JOB_RETRY, 30, "429");
    CU_ASSERT(WAIT_FOR(counts().delayed == 1));
    CU_ASSERT_EQUAL(enqueue_many("web", "t", 5), OMID_OK);
    CU_ASSERT_EQUAL(enqueue_many("web", "u", 1), OMID_OK);
    settle();
    CU_ASSERT_EQUAL_FATAL(seen_count(), 2);
    CU_ASSERT_STRING_EQUAL(h.seen[1].target, "u");
    finish_nth(1, OMID_JOB_DONE, 0, NULL);
    CU_ASSERT_EQUAL(seen_until(29500, 500), 2);
    handler_set(false, OMID_JOB_DONE, false);
    CU_ASSERT(seen_until(500, 100) >= 2);
    for (int i = 0; i < 100 && counts().done < 7; i++)
        seen_until(5000, 1000);
    CU_ASSERT_EQUAL(counts().done, 7);
    closed();
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"bucket", test_bucket},
        {"bucket, empty at first", test_bucket_empty_at_first},
        {"held", test_held},
        {"rate of a target", test_rate},
        {"one by one", test_rate_one_by_one},
        {"429 holds the target", test_429_holds_target},
        {"100,000 for one that answers 429", test_flood_learned},
        {"429 without Retry-After", test_flood_without_retry_after},
        {"its rate is known", test_flood_configured},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"queue rate", setup_in_memory, teardown, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
