/* The durable queue: dead letters, replays of one and of many, retention. */
#include "queue_rig.h"
#include "unit.h"

/* ---------------------------------------------------------------- answers */

struct page {
    _Atomic int n_answers;
    int result;
    size_t n;
    struct {
        uint64_t id;
        int64_t died_ms, created_ms;
        unsigned attempts;
        char owner[16], type[16], name[16], target[16], error[64], payload[64];
    } item[1000];
};

static void on_dead(void *arg, int result, const struct queue_dead *item, size_t n)
{
    struct page *p = arg;
    p->result = result;
    p->n = n;
    for (size_t i = 0; i < n; i++) {
        p->item[i].id = item[i].id;
        p->item[i].died_ms = item[i].died_ms;
        p->item[i].created_ms = item[i].created_ms;
        p->item[i].attempts = item[i].attempts;
        snprintf(p->item[i].owner, 16, "%s", item[i].owner);
        snprintf(p->item[i].type, 16, "%s", item[i].type);
        snprintf(p->item[i].name, 16, "%s", item[i].name);
        snprintf(p->item[i].target, 16, "%s", item[i].target);
        snprintf(p->item[i].error, 64, "%s", item[i].error);
        if (item[i].payload != NULL)
            snprintf(p->item[i].payload, 64, "%.*s", (int)item[i].payload_len, (const char *)item[i].payload);
    }
    p->n_answers++;
}

static struct page page;
static size_t list(const struct queue_filter *f, const struct queue_dead *before, size_t limit)
{
    memset(&page, 0, sizeof(page));
    CU_ASSERT_EQUAL_FATAL(queue_dead_list(q, f, before, limit, lp, on_dead, &page), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(page.n_answers == 1));
    CU_ASSERT_EQUAL(page.result, OMID_OK);
    return page.n;
}

static size_t show(uint64_t id)
{
    memset(&page, 0, sizeof(page));
    CU_ASSERT_EQUAL_FATAL(queue_dead_show(q, id, lp, on_dead, &page), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(page.n_answers == 1));
    return page.n;
}

static void on_done(void *arg, int result)
{
    struct answer *a = arg;
    a->result = result;
    a->n++;
}

typedef int (*one_fn)(struct queue *, uint64_t, struct loop *, queue_done_cb, void *);
static int one(one_fn fn, uint64_t id)
{
    struct answer a = {0};
    int r = fn(q, id, lp, on_done, &a);
    if (r != OMID_OK)
        return r;
    return WAIT_FOR(a.n == 1) ? a.result : -99;
}

static void on_begun(void *arg, int result, uint64_t id)
{
    struct answer *a = arg;
    a->result = result;
    a->id = id;
    a->n++;
}

static int begin(enum queue_sweep_action action, const struct queue_filter *f, uint32_t per_s, uint64_t *id)
{
    struct answer a = {0};
    int r = queue_sweep_begin(q, action, f, per_s, lp, on_begun, &a);
    if (r != OMID_OK)
        return r;
    if (!WAIT_FOR(a.n == 1))
        return -99;
    *id = a.id;
    return a.result;
}

struct sweeps {
    _Atomic int n_answers;
    size_t n;
    struct queue_sweep item[200];
    char error[200][32];
};
static struct sweeps sweeps;
static void on_sweeps(void *arg, int result, const struct queue_sweep *item, size_t n)
{
    struct sweeps *s = arg;
    CU_ASSERT_EQUAL(result, OMID_OK);
    s->n = n;
    memcpy(s->item, item, n * sizeof(*item));
    for (size_t i = 0; i < n; i++)
        snprintf(s->error[i], 32, "%s", item[i].filter.error ? item[i].filter.error : "");
    s->n_answers++;
}

static const struct queue_sweep *sweep_of(uint64_t id)
{
    memset(&sweeps, 0, sizeof(sweeps));
    if (queue_sweep_list(q, lp, on_sweeps, &sweeps) != OMID_OK || !WAIT_FOR(sweeps.n_answers == 1))
        return NULL;
    for (size_t i = 0; i < sweeps.n; i++) {
        if (sweeps.item[i].id == id)
            return &sweeps.item[i];
    }
    return NULL;
}

static bool sweep_ended(uint64_t id)
{
    const struct queue_sweep *s = sweep_of(id);
    return s != NULL && s->state != QUEUE_SWEEP_RUNNING;
}

/* ---------------------------------------------------------------- dead letters */

static const struct queue_filter all;

static void test_list_and_show(void)
{
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(list(&all, NULL, 10), 0);
    int64_t t0 = driven_now();
    die("a", 10, "n");
    advance(1000);
    die("b", 10, NULL);
    CU_ASSERT_EQUAL(list(&all, NULL, 1000), 20);
    CU_ASSERT_STRING_EQUAL(page.item[0].target, "b");
    CU_ASSERT_STRING_EQUAL(page.item[0].error, "it broke");
    CU_ASSERT_STRING_EQUAL(page.item[0].owner, "web");
    CU_ASSERT_STRING_EQUAL(page.item[0].payload, "");
    CU_ASSERT_EQUAL(page.item[0].died_ms, t0 + 1000);
    CU_ASSERT_EQUAL(page.item[0].attempts, 1);
    CU_ASSERT_STRING_EQUAL(page.item[19].target, "a");
    CU_ASSERT_STRING_EQUAL(page.item[19].name, "n0");
    /* In pages: each once. */
    struct queue_dead at = {.id = INT64_MAX, .died_ms = INT64_MAX};
    uint64_t sum = 0, pages = 0;
    size_t n;
    while ((n = list(&all, &at, 3)) > 0) {
        for (size_t i = 0; i < n; i++)
            sum += page.item[i].id;
        at.id = page.item[n - 1].id;
        at.died_ms = page.item[n - 1].died_ms;
        pages++;
    }
    CU_ASSERT_EQUAL(pages, 7);
    uint64_t want = 0;
    CU_ASSERT_EQUAL(list(&all, NULL, 1000), 20);
    for (size_t i = 0; i < 20; i++)
        want += page.item[i].id;
    CU_ASSERT_EQUAL(sum, want);
    /* Filters. */
    const struct {
        struct queue_filter f;
        size_t n;
    } cases[] = {
        {{.target = "a"}, 10},
        {{.target = "c"}, 0},
        {{.type = "odd"}, 10},
        {{.type = "odd", .target = "b"}, 5},
        {{.owner = "web"}, 20},
        {{.owner = "we"}, 0},
        {{.error = "bro"}, 20},
        {{.error = "BRO"}, 0},
        {{.from_ms = t0 + 1}, 10},
        {{.to_ms = t0 + 1}, 10},
        {{.from_ms = t0, .to_ms = t0}, 0},
        {{.from_ms = t0, .to_ms = t0 + 1001}, 20},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        CU_ASSERT_EQUAL(list(&cases[i].f, NULL, 1000), cases[i].n);
    CU_ASSERT_EQUAL(list(&cases[2].f, NULL, 4), 4);
    /* One. */
    uint64_t id = page.item[0].id;
    CU_ASSERT_EQUAL(show(id), 1);
    CU_ASSERT_STRING_EQUAL(page.item[0].payload, "b 9");
    CU_ASSERT_EQUAL(show(999999), 0);
    CU_ASSERT_EQUAL(queue_dead_list(q, &all, NULL, 0, lp, on_dead, &page), OMID_EINVAL);
    CU_ASSERT_EQUAL(queue_dead_list(q, &all, NULL, QUEUE_MAX_PAGE + 1, lp, on_dead, &page), OMID_EINVAL);
    closed();
}

/* More than one step of the scan, of which few match. */
static void test_list_many(void)
{
    fresh();
    driven();
    cf.in_flight_per_target = 64;
    CU_ASSERT_FATAL(started());
    die("few", 3, NULL);
    die("many", 2000, NULL);
    CU_ASSERT_EQUAL(list(&(struct queue_filter){.target = "few"}, NULL, 10), 3);
    closed();
}

static void test_replay_one(void)
{
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    die("a", 1, "n");
    CU_ASSERT_EQUAL(list(&all, NULL, 10), 1);
    uint64_t id = page.item[0].id, again = 0;
    CU_ASSERT_EQUAL(enqueue("web", "a", "n0", "x", 0, &again), OMID_OK);
    CU_ASSERT_EQUAL(again, id);
    CU_ASSERT_EQUAL(one(queue_dead_replay, id + 1), OMID_ENOTSUP);
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(one(queue_dead_replay, id), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(seen_count() == 1));
    /* The same id, name and payload; its schedule begins anew. */
    CU_ASSERT_EQUAL(h.seen[0].id, id);
    CU_ASSERT_EQUAL(h.seen[0].attempt, 1);
    CU_ASSERT_STRING_EQUAL(h.seen[0].name, "n0");
    CU_ASSERT_STRING_EQUAL(h.seen[0].payload, "a 0");
    CU_ASSERT_EQUAL(counts().dead, 0);
    CU_ASSERT_EQUAL(counts().bytes, 3);
    CU_ASSERT_EQUAL(one(queue_dead_replay, id), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(one(queue_dead_drop, id), OMID_ENOTSUP);
    finish_nth(0, OMID_JOB_RETRY, 0, "no");
    CU_ASSERT(WAIT_FOR(counts().delayed == 1));
    advance(5000);
    CU_ASSERT_FATAL(WAIT_FOR(seen_count() == 2));
    finish_nth(1, OMID_JOB_DONE, 0, NULL);
    CU_ASSERT(WAIT_FOR(counts().done == 1));
    struct queue_counts n = counts();
    CU_ASSERT_EQUAL(n.ready + n.delayed + n.leased + n.bytes, 0);
    closed();
}

static void test_drop_one(void)
{
    uint64_t again = 0;
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    die("a", 1, "n");
    CU_ASSERT_EQUAL(list(&all, NULL, 10), 1);
    uint64_t id = page.item[0].id;
    CU_ASSERT_EQUAL(one(queue_dead_drop, id), OMID_OK);
    CU_ASSERT_EQUAL(counts().dead, 0);
    CU_ASSERT_EQUAL(list(&all, NULL, 10), 0);
    /* Its name answers for a while, then it is free. */
    CU_ASSERT_EQUAL(enqueue("web", "a", "n0", "x", 0, &again), OMID_OK);
    CU_ASSERT_EQUAL(again, id);
    advance(13 * 3600 * 1000);
    CU_ASSERT_EQUAL(enqueue("web", "a", "n0", "x", 0, &again), OMID_OK);
    CU_ASSERT_NOT_EQUAL(again, id);
    closed();
}

static void test_replay_full(void)
{
    uint64_t id = 0;
    fresh();
    driven();
    cf.max_jobs = 3;
    CU_ASSERT_FATAL(started());
    die("a", 3, NULL);
    die("b", 3, NULL);
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue_many("web", "x", 3), OMID_OK);
    CU_ASSERT_EQUAL(list(&all, NULL, 10), 6);
    CU_ASSERT_EQUAL(one(queue_dead_replay, page.item[0].id), OMID_EFULL);
    /* A replay of many waits for room. */
    CU_ASSERT_EQUAL(begin(QUEUE_REPLAY, &all, 0, &id), OMID_OK);
    settle();
    CU_ASSERT_EQUAL(sweep_of(id)->done, 0);
    CU_ASSERT(WAIT_FOR(seen_count() == 3));
    handler_set(false, OMID_JOB_DONE, false);
    for (size_t i = 0; i < 3; i++)
        finish_nth(i, OMID_JOB_DONE, 0, NULL);
    for (int i = 0; i < 20 && !sweep_ended(id); i++) {
        advance(1000);
        settle();
    }
    CU_ASSERT(WAIT_FOR(counts().done == 9));
    CU_ASSERT_EQUAL(counts().dead, 0);
    closed();
}

/* Capped by its rate, where it was after a restart, with the progress on disk; those that die again are not meant. */
static void test_replay_many(void)
{
    uint64_t id = 0, second = 0;
    fresh();
    driven();
    cf.in_flight_per_target = 64;
    cf.replay_per_s = 100;
    CU_ASSERT_FATAL(started());
    die("a", 600, "n");
    die("b", 100, NULL);
    const struct queue_filter f = {.target = "a", .error = "broke"};
    handler_set(false, OMID_JOB_DEAD, false);
    CU_ASSERT_EQUAL(begin(QUEUE_REPLAY, &f, 100000, &id), OMID_OK);
    settle();
    for (int i = 0; i < 20; i++) {
        advance(100);
        settle();
    }
    const struct queue_sweep *s = sweep_of(id);
    CU_ASSERT_PTR_NOT_NULL_FATAL(s);
    CU_ASSERT_EQUAL(s->state, QUEUE_SWEEP_RUNNING);
    CU_ASSERT_EQUAL(s->per_s, 100);
    CU_ASSERT_EQUAL(s->total, 700);
    CU_ASSERT(s->done >= 190 && s->done <= 220);
    CU_ASSERT_STRING_EQUAL(sweeps.error[0], "broke");
    uint64_t before = s->done;
    for (int i = 0; i < 3; i++) {
        closed();
        CU_ASSERT_FATAL(started());
        settle();
    }
    CU_ASSERT(sweep_of(id)->done >= before && sweep_of(id)->done <= before + 30);
    for (int i = 0; i < 100 && !sweep_ended(id); i++) {
        advance(100);
        settle();
    }
    s = sweep_of(id);
    CU_ASSERT_EQUAL(s->state, QUEUE_SWEEP_DONE);
    CU_ASSERT_EQUAL(s->done, 600);
    CU_ASSERT(s->ended_ms > s->created_ms);
    /* Each once: all are dead again. */
    CU_ASSERT(WAIT_FOR(counts().dead == 700));
    CU_ASSERT_EQUAL(seen_count(), 600);
    /* Cancelled: what is done stays done. */
    handler_set(false, OMID_JOB_DONE, false);
    CU_ASSERT_EQUAL(begin(QUEUE_REPLAY, &all, 10, &second), OMID_OK);
    for (int i = 0; i < 10; i++) {
        advance(100);
        settle();
    }
    clock_mono += 100; /* its next step is due, and comes in the same transaction as its end */
    CU_ASSERT_EQUAL(one(queue_sweep_cancel, second), OMID_OK);
    CU_ASSERT_EQUAL(sweep_of(second)->state, QUEUE_SWEEP_CANCELLED);
    CU_ASSERT_EQUAL(one(queue_sweep_cancel, second), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(one(queue_sweep_cancel, id), OMID_ENOTSUP);
    uint64_t dead = counts().dead;
    CU_ASSERT(dead >= 685 && dead <= 692);
    advance(60000);
    settle();
    CU_ASSERT_EQUAL(counts().dead, dead);
    CU_ASSERT_EQUAL(sweep_of(second)->state, QUEUE_SWEEP_CANCELLED);
    closed();
    CU_ASSERT_FATAL(started());
    advance(60000);
    settle();
    CU_ASSERT_EQUAL(counts().dead, dead);
    CU_ASSERT_EQUAL(sweep_of(second)->state, QUEUE_SWEEP_CANCELLED);
    closed();
}

static void test_drop_many(void)
{
    uint64_t id = 0;
    fresh();
    driven();
    cf.in_flight_per_target = 64;
    CU_ASSERT_FATAL(started());
    die("a", 1200, NULL);
    die("b", 50, NULL);
    CU_ASSERT_EQUAL(begin(QUEUE_DROP, &(struct queue_filter){.target = "a"}, 0, &id), OMID_OK);
    for (int i = 0; i < 100 && !sweep_ended(id); i++) {
        advance(100);
        settle();
    }
    CU_ASSERT_EQUAL(counts().dead, 50);
    CU_ASSERT_EQUAL(sweep_of(id)->done, 1200);
    CU_ASSERT_EQUAL(sweep_of(id)->action, QUEUE_DROP);
    /* So many at once, and no more. */
    uint64_t some[17] = {0};
    const struct queue_filter none = {.target = "none"};
    queue_pause(q);
    for (int i = 0; i < 16; i++)
        CU_ASSERT_EQUAL(begin(QUEUE_DROP, &none, 0, &some[i]), OMID_OK);
    CU_ASSERT_EQUAL(begin(QUEUE_DROP, &none, 0, &some[16]), OMID_EFULL);
    queue_resume(q);
    for (int i = 0; i < 16; i++)
        CU_ASSERT(WAIT_FOR(sweep_ended(some[i])));
    for (int i = 0; i < 120; i++) {
        CU_ASSERT_EQUAL(begin(QUEUE_DROP, &none, 0, &some[0]), OMID_OK);
        CU_ASSERT(WAIT_FOR(sweep_ended(some[0])));
    }
    CU_ASSERT(sweeps.n <= 101);
    closed();
}

/* ---------------------------------------------------------------- retention */

static void test_dead_bounds(void)
{
    fresh();
    driven();
    cf.in_flight_per_target = 64;
    cf.dead = 300;
    cf.dead_keep_ms = 3600000;
    CU_ASSERT_FATAL(started());
    die("a", 1000, NULL);
    advance(61000);
    for (int i = 0; i < 20; i++) {
        settle();
        advance(100);
    }
    CU_ASSERT_EQUAL(counts().dead, 300);
    CU_ASSERT_EQUAL(list(&all, NULL, 1000), 300);
    advance(3000000);
    die("b", 10, NULL);
    advance(700000);
    for (int i = 0; i < 20; i++) {
        settle();
        advance(100);
    }
    CU_ASSERT_EQUAL(counts().dead, 10);
    CU_ASSERT_EQUAL(list(&all, NULL, 1000), 10);
    CU_ASSERT_STRING_EQUAL(page.item[0].target, "b");
    closed();
}

/* After a backlog the file shrinks, in steps that let others through. */
static void test_shrinks(void)
{
    static char payload[4000];
    struct stat st;
    fresh();
    driven();
    cf.in_flight_per_target = 64;
    CU_ASSERT_FATAL(opened());
    memset(payload, 'x', sizeof(payload));
    for (int i = 0; i < 10000; i++) {
        struct omid_job job = {
            .size = sizeof(job), .type = "test", .target = "t", .payload = payload, .payload_len = sizeof(payload)};
        CU_ASSERT_EQUAL(queue_enqueue(q, "web", &job, NULL, NULL, NULL), OMID_OK);
    }
    CU_ASSERT_FATAL(queue_start(q, handle, NULL));
    CU_ASSERT(WAIT_FOR(counts().done == 10000));
    for (int i = 0; i < 200; i++) {
        advance(i == 0 ? 61000 : 100);
        enqueue_many("web", "t", 0);
    }
    closed();
    CU_ASSERT_EQUAL_FATAL(stat(path, &st), 0);
    CU_ASSERT(st.st_size < 12 << 20);
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"list and show", test_list_and_show},
        {"list of many", test_list_many},
        {"replay of one", test_replay_one},
        {"drop of one", test_drop_one},
        {"replay into a full queue", test_replay_full},
        {"replay of many", test_replay_many},
        {"drop of many", test_drop_many},
        {"bounds of dead letters", test_dead_bounds},
        {"the file shrinks", test_shrinks},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"queue dead", setup, teardown, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
