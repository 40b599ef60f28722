/* The durable queue: several jobs at once, receipts, strict order, rates, and a file of the first schema. */
#include "queue_rig.h"
#include "unit.h"

/* ---------------------------------------------------------------- several at once */

struct batch_answer {
    _Atomic int n;
    int result;
    bool repeated;
    char value[64];
};
static void on_batch(void *arg, enum omid_result result, bool repeated, const char *value)
{
    struct batch_answer *a = arg;
    a->result = result;
    a->repeated = repeated;
    snprintf(a->value, sizeof(a->value), "%s", value);
    a->n++;
}

static int batch(const struct omid_job *jobs, size_t n, const char *key, const char *value, struct batch_answer *a)
{
    const struct omid_receipt receipt = {.key = key, .value = value};
    *a = (struct batch_answer){0};
    int r = queue_enqueue_all(q, "web", jobs, n, key != NULL ? &receipt : NULL, lp, on_batch, a);
    if (r != OMID_OK)
        return r;
    return WAIT_FOR(a->n == 1) ? a->result : -99;
}

#define JOB(t, nm, p)                                                                                            \
    {                                                                                                            \
        .size = sizeof(struct omid_job), .type = "test", .target = t, .name = nm, .payload = p, .payload_len = 1 \
    }

static void test_all_or_none(void)
{
    const struct omid_job jobs[] = {JOB("a", NULL, "1"), JOB("b", "n", "1"), JOB("c", "n", "2"), JOB("a", NULL, "3")};
    struct batch_answer a;
    fresh();
    cf.max_jobs = 5;
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    /* The same name twice is one job, also within a call. */
    CU_ASSERT_EQUAL(batch(jobs, 4, NULL, NULL, &a), OMID_OK);
    CU_ASSERT_FALSE(a.repeated);
    CU_ASSERT_STRING_EQUAL(a.value, "");
    CU_ASSERT(WAIT_FOR(seen_count() == 3));
    /* Three are there: three more do not fit, and then none is taken, nor the receipt. */
    const struct omid_job more[] = {JOB("a", NULL, "4"), JOB("a", "n", "5"), JOB("x", NULL, "6"), JOB("y", NULL, "7")};
    CU_ASSERT_EQUAL(batch(more, 4, "k", "v", &a), OMID_EFULL);
    CU_ASSERT(queue_retry_after_s(q) > 1);
    CU_ASSERT_EQUAL(counts().ready + counts().leased, 3);
    /* With a known name among them they are two. */
    CU_ASSERT_EQUAL(batch(more, 3, "k", "v2", &a), OMID_OK);
    CU_ASSERT_FALSE(a.repeated);
    CU_ASSERT_STRING_EQUAL(a.value, "v2");
    CU_ASSERT_EQUAL(counts().ready + counts().leased, 5);
    CU_ASSERT(WAIT_FOR(seen_count() == 5));
    for (size_t i = 0; i < 5; i++)
        finish_nth(i, OMID_JOB_DONE, 0, NULL);
    CU_ASSERT(WAIT_FOR(counts().done == 5));
    CU_ASSERT_EQUAL(queue_retry_after_s(q), 1);
    closed();
}

static void test_receipts(void)
{
    const struct omid_job jobs[] = {JOB("a", NULL, "1"), JOB("b", NULL, "1")};
    struct batch_answer a;
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(batch(jobs, 2, "key", "first", &a), OMID_OK);
    CU_ASSERT_EQUAL(batch(jobs, 2, "key", "second", &a), OMID_OK);
    CU_ASSERT(a.repeated);
    CU_ASSERT_STRING_EQUAL(a.value, "first");
    /* Of nobody, and without jobs. */
    CU_ASSERT_EQUAL(batch(NULL, 0, "empty", "nothing to do", &a), OMID_OK);
    CU_ASSERT_FALSE(a.repeated);
    CU_ASSERT_EQUAL(batch(jobs, 1, "empty", "", &a), OMID_OK);
    CU_ASSERT(a.repeated);
    CU_ASSERT_STRING_EQUAL(a.value, "nothing to do");
    CU_ASSERT(WAIT_FOR(counts().done == 2));
    /* After a restart, until 12 h are over; then it is purged. */
    advance(12 * 3600 * 1000 - 1000);
    closed();
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(batch(jobs, 2, "key", "third", &a), OMID_OK);
    CU_ASSERT(a.repeated);
    CU_ASSERT_STRING_EQUAL(a.value, "first");
    advance(2000);
    CU_ASSERT_EQUAL(batch(jobs, 2, "key", "fourth", &a), OMID_OK);
    CU_ASSERT_FALSE(a.repeated);
    CU_ASSERT(WAIT_FOR(counts().done == 2));
    advance(13 * 3600 * 1000);
    settle();
    closed();
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM receipt"), 0);
}

static void test_bad_batches(void)
{
    static char key[600], value[5000];
    const struct omid_job jobs[] = {JOB("a", NULL, "1")};
    struct batch_answer a;
    memset(key, 'k', sizeof(key) - 1);
    memset(value, 'v', sizeof(value) - 1);
    fresh();
    CU_ASSERT_FATAL(started());
    CU_ASSERT_EQUAL(batch(jobs, 0, NULL, NULL, &a), OMID_EINVAL);
    CU_ASSERT_EQUAL(batch(NULL, 1, NULL, NULL, &a), OMID_EINVAL);
    CU_ASSERT_EQUAL(batch(jobs, 1, "", "v", &a), OMID_EINVAL);
    CU_ASSERT_EQUAL(batch(jobs, 1, key, "v", &a), OMID_EINVAL);
    CU_ASSERT_EQUAL(batch(jobs, 1, "k", value, &a), OMID_EINVAL);
    CU_ASSERT_EQUAL(batch(jobs, QUEUE_MAX_BATCH + 1, "k", "v", &a), OMID_EINVAL);
    closed();
}

/* ---------------------------------------------------------------- order */

static int enqueue_ordered(const char *target, int from, int n, bool ordered)
{
    return enqueue_like(&(struct omid_job){.target = target, .ordered = ordered}, "web", from, n);
}

static void test_ordered(void)
{
    fresh();
    driven();
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue_ordered("t", 0, 5, true), OMID_OK);
    CU_ASSERT_EQUAL(enqueue_ordered("other", 100, 1, true), OMID_OK);
    settle();
    /* One of each target. */
    CU_ASSERT_EQUAL_FATAL(seen_count(), 2);
    CU_ASSERT_STRING_EQUAL(h.seen[0].payload, "0");
    /* The retried one holds back those behind it, also across a restart. */
    finish_nth(0, OMID_JOB_RETRY, 0, "no");
    finish_nth(1, OMID_JOB_DONE, 0, NULL);
    CU_ASSERT(WAIT_FOR(counts().delayed == 1));
    settle();
    CU_ASSERT_EQUAL(seen_count(), 2);
    closed();
    CU_ASSERT_FATAL(started());
    settle();
    CU_ASSERT_EQUAL(seen_count(), 2);
    CU_ASSERT_EQUAL(counts().ready + counts().delayed, 5);
    advance(5000);
    CU_ASSERT(WAIT_FOR(seen_count() == 3));
    CU_ASSERT_STRING_EQUAL(h.seen[2].payload, "0");
    CU_ASSERT_EQUAL(h.seen[2].attempt, 2);
    /* What is not ordered goes past. */
    CU_ASSERT_EQUAL(enqueue_ordered("t", 50, 1, false), OMID_OK);
    CU_ASSERT(WAIT_FOR(seen_count() == 4));
    CU_ASSERT_STRING_EQUAL(h.seen[3].payload, "50");
    finish_nth(3, OMID_JOB_DONE, 0, NULL);
    /* A dead one makes way. */
    finish_nth(2, OMID_JOB_DEAD, 0, "410");
    for (size_t i = 4; i < 8; i++) {
        char want[8];
        CU_ASSERT_FATAL(WAIT_FOR(seen_count() == i + 1));
        settle();
        CU_ASSERT_EQUAL(seen_count(), i + 1);
        snprintf(want, sizeof(want), "%zu", i - 3);
        CU_ASSERT_STRING_EQUAL(h.seen[i].payload, want);
        finish_nth(i, OMID_JOB_DONE, 0, NULL);
    }
    CU_ASSERT(WAIT_FOR(counts().ready + counts().leased + counts().delayed == 0));
    CU_ASSERT_EQUAL(counts().dead, 1);
    closed();
}

/* Everything at once: thousands, on many targets, some fail; each target sees its own in their order. */
static void test_ordered_many(void)
{
    enum { TARGETS = 7, EACH = 300 };
    char target[8];
    int next[TARGETS] = {0};
    fresh();
    cf.retry_ms = (const uint32_t[]){1, 1, 1};
    CU_ASSERT_FATAL(started());
    handler_set(false, OMID_JOB_DONE, false);
    h.fail_every = 10;
    for (int i = 0; i < EACH; i += 10) {
        for (int t = 0; t < TARGETS; t++) {
            snprintf(target, sizeof(target), "t%d", t);
            CU_ASSERT_EQUAL(enqueue_ordered(target, i, 10, true), OMID_OK);
        }
    }
    CU_ASSERT(WAIT_FOR(counts().done == TARGETS * EACH));
    int wrong = 0, retried = 0;
    for (size_t i = 0; i < seen_count(); i++) {
        int t = h.seen[i].target[1] - '0', n = atoi(h.seen[i].payload);
        wrong += h.seen[i].attempt == 1 ? n != next[t] : n != next[t] - 1;
        retried += h.seen[i].attempt > 1;
        next[t] = n + 1;
    }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT(retried > 100);
    closed();
}

/* ---------------------------------------------------------------- an older file */

/* As the first version wrote it. */
static const char v1_sql[] =
    "PRAGMA application_id = 0x6f6d6971; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;"
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE target(id INTEGER PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, UNIQUE(owner, name));"
    "CREATE TABLE job(id INTEGER PRIMARY KEY, target INTEGER NOT NULL, state INTEGER NOT NULL, attempt INTEGER NOT "
    "NULL,"
    " lost INTEGER NOT NULL, not_before INTEGER NOT NULL, wall INTEGER NOT NULL, created INTEGER NOT NULL,"
    " type TEXT NOT NULL, name TEXT, last_error TEXT, died INTEGER, payload BLOB NOT NULL);"
    "CREATE INDEX due_of_target ON job(target, not_before) WHERE state = 0;"
    "CREATE INDEX dead_jobs ON job(died) WHERE state = 1;"
    "CREATE INDEX dead_of_target ON job(target) WHERE state = 1;"
    "CREATE TABLE lease(id INTEGER PRIMARY KEY, generation INTEGER NOT NULL, until INTEGER NOT NULL);"
    "CREATE TABLE name(name TEXT NOT NULL, owner TEXT NOT NULL, id INTEGER NOT NULL, expires INTEGER,"
    " PRIMARY KEY(name, owner)) WITHOUT ROWID;"
    "CREATE INDEX name_expires ON name(expires) WHERE expires IS NOT NULL;"
    "PRAGMA user_version = 1;"
    "INSERT INTO meta VALUES('next_id', 65537);"
    "INSERT INTO target VALUES(1, 'web', 'a'), (2, 'web', 'b'), (3, 'web', 'c');"
    /* Ready, retried, leased, dead. */
    "INSERT INTO job VALUES(10, 1, 0, 0, 0, 1600000000000, 0, 1600000000000, 'test', 'n10', NULL, NULL, 'ready');"
    "INSERT INTO job VALUES(11, 1, 0, 2, 0, 1600000000000, 0, 1600000000000, 'test', NULL, 'it broke', NULL, 'again');"
    "INSERT INTO job VALUES(12, 2, 0, 0, 0, 1600000000000, 0, 1600000000000, 'test', NULL, NULL, NULL, 'leased');"
    "INSERT INTO job VALUES(13, 2, 1, 4, 0, 1600000000000, 0, 1600000000000, 'test', 'n13', '410', 1600000000000,"
    " 'dead');"
    "INSERT INTO job VALUES(14, 3, 0, 0, 0, 1600000000000, 0, 1600000000000, 'test', NULL, NULL, NULL,"
    " 'large' || zeroblob(5000));"
    "INSERT INTO lease VALUES(12, 1, 1600000060000);"
    "INSERT INTO name VALUES('n10', 'web', 10, NULL), ('n13', 'web', 13, NULL), ('gone', 'web', 9, 1700000100000);";

static void test_first_version(void)
{
    uint64_t id = 0;
    fresh();
    CU_ASSERT_FATAL(unit_sql(path, v1_sql));
    driven();
    CU_ASSERT_FATAL(started());
    CU_ASSERT(WAIT_FOR(counts().done == 4));
    CU_ASSERT_EQUAL(counts().dead, 1);
    unsigned attempts[5] = {0};
    for (size_t i = 0; i < 4; i++) {
        CU_ASSERT_FATAL(h.seen[i].id >= 10 && h.seen[i].id <= 14);
        attempts[h.seen[i].id - 10] = h.seen[i].attempt;
        CU_ASSERT_STRING_EQUAL(h.seen[i].target, h.seen[i].id == 14 ? "c" : h.seen[i].id == 12 ? "b" : "a");
    }
    CU_ASSERT(attempts[0] == 1 && attempts[1] == 3 && attempts[2] == 2 && attempts[4] == 1);
    /* Names still answer, ids go on. */
    CU_ASSERT_EQUAL(enqueue("web", "a", "gone", "x", 0, &id), OMID_OK);
    CU_ASSERT_EQUAL(id, 9);
    CU_ASSERT_EQUAL(enqueue("web", "a", "n13", "x", 0, &id), OMID_OK);
    CU_ASSERT_EQUAL(id, 13);
    CU_ASSERT_EQUAL(enqueue("web", "a", NULL, "x", 0, &id), OMID_OK);
    CU_ASSERT(id >= 65537);
    closed();
    CU_ASSERT_EQUAL(unit_sql_int(path, "PRAGMA user_version"), 2);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM job WHERE died IS NOT NULL AND last_error = '410'"), 1);
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"all or none", test_all_or_none},
        {"receipts", test_receipts},
        {"bad batches", test_bad_batches},
        {"ordered", test_ordered},
        {"ordered, many", test_ordered_many},
        {"a file of the first version", test_first_version},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"queue order", setup, teardown, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
