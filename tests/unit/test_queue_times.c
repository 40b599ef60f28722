/* The durable queue: when attempts come, by the whole schedule, under a driven clock. */
#include "queue_rig.h"
#include "unit.h"

/* As the daemon has it unless told otherwise. */
#define S 1000u
#define MIN (60 * S)
#define HOUR (60 * MIN)
static const uint32_t slots[] = {5 * S, 5 * MIN, 30 * MIN, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR};

enum { JOBS = 10000, TARGETS = 8, ATTEMPTS = ARRAY_LEN(slots) + 1 };
#define LATE_MS 900 /* the clock is driven past what is due by up to so much */

static int64_t attempt_at[JOBS][ATTEMPTS + 1];

static size_t collect_attempts(uint64_t first)
{
    pthread_mutex_lock(&h.lock);
    size_t n = h.n;
    for (size_t i = 0; i < n; i++) {
        struct seen *s = &h.seen[i];
        omid_assert(s->id - first < JOBS && s->attempt >= 1 && s->attempt <= ATTEMPTS);
        int64_t *at = &attempt_at[s->id - first][s->attempt];
        omid_assert(*at == 0); /* each attempt once */
        *at = s->at;
    }
    h.n = 0;
    pthread_mutex_unlock(&h.lock);
    return n;
}

/* ---------------------------------------------------------------- what the file says is due first */

static sqlite3 *reader;
static sqlite3_stmt *first_due;

static void reader_close(void)
{
    sqlite3_finalize(first_due);
    sqlite3_close(reader);
}

static void reader_open(void)
{
    static const char sql[] = "SELECT min(not_before) FROM job WHERE state = 0 AND target = ?1";
    CU_ASSERT_FATAL(sqlite3_open_v2(path, &reader, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK);
    CU_ASSERT_FATAL(sqlite3_prepare_v2(reader, sql, -1, &first_due, NULL) == SQLITE_OK);
}

/* Unix ms; QUEUE_NEVER: nothing waits. */
static int64_t due_first(void)
{
    int64_t due = QUEUE_NEVER;
    for (int t = 1; t <= TARGETS; t++) {
        sqlite3_bind_int64(first_due, 1, t);
        CU_ASSERT_FATAL(sqlite3_step(first_due) == SQLITE_ROW);
        if (sqlite3_column_type(first_due, 0) != SQLITE_NULL && sqlite3_column_int64(first_due, 0) < due)
            due = sqlite3_column_int64(first_due, 0);
        sqlite3_reset(first_due);
    }
    return due;
}

/* ---------------------------------------------------------------- the test */

/* All fail once at the moment it starts. The id of the first. */
static uint64_t begin_all(void)
{
    char target[16];
    CU_ASSERT_FATAL(opened());
    for (int i = 0; i < JOBS; i++) {
        snprintf(target, sizeof(target), "t%d", i % TARGETS);
        struct omid_job job = {.size = sizeof(job), .type = "test", .target = target};
        CU_ASSERT_EQUAL(queue_enqueue(q, "web", &job, NULL, NULL, NULL), OMID_OK);
    }
    handler_set(false, OMID_JOB_RETRY, false);
    CU_ASSERT_FATAL(queue_start(q, handle, NULL));
    CU_ASSERT_FATAL(WAIT_FOR(counts().delayed == JOBS));
    uint64_t first = UINT64_MAX;
    for (size_t i = 0; i < JOBS; i++)
        first = h.seen[i].id < first ? h.seen[i].id : first;
    collect_attempts(first);
    return first;
}

/* Nothing comes in the last moment before it is due. */
static void expect_none_before(int64_t due)
{
    if (due - 1 <= driven_now())
        return;
    advance(due - 1 - driven_now());
    settle();
    CU_ASSERT_EQUAL(seen_count(), 0);
}

static void restart(void)
{
    reader_close();
    closed();
    CU_ASSERT_FATAL(started());
    reader_open();
}

static void check_times(void)
{
    int early = 0, late = 0, missing = 0;
    for (size_t n = 1; n < ATTEMPTS; n++) {
        int spread = 0;
        for (size_t i = 0; i < JOBS; i++) {
            int64_t slot = slots[n - 1], gap = attempt_at[i][n + 1] - attempt_at[i][n];
            missing += attempt_at[i][n + 1] == 0;
            early += gap < slot * 8 / 10;
            late += gap > slot * 12 / 10 + 1000;
            spread += gap > slot * 11 / 10;
        }
        CU_ASSERT(spread > JOBS / 8 && spread < JOBS * 3 / 8 + (slots[n - 1] < MIN ? JOBS : 0));
    }
    CU_ASSERT_EQUAL(missing, 0);
    CU_ASSERT_EQUAL(early, 0);
    CU_ASSERT_EQUAL(late, 0);
}

/* Every attempt of thousands of jobs, from the first to the last of the schedule's 28 hours, comes within a second of
 * its slot and jitter, none early, also when the process ends between, and while the wall clock is set forth and back.
 * The clock is driven from one that is due to the next. */
static void test_retry_times(void)
{
    size_t made = JOBS;
    unsigned restarts = 0;
    fresh();
    driven();
    memset(attempt_at, 0, sizeof(attempt_at));
    cf.retry_ms = slots;
    cf.n_retry = ARRAY_LEN(slots);
    cf.random = NULL;
    cf.commit_ms = 0;
    cf.in_flight = cf.in_flight_per_target = 256;
    const uint64_t first = begin_all();
    reader_open();
    int64_t due;
    for (unsigned step = 0; (due = due_first()) != QUEUE_NEVER; step++) {
        if (step % 100 == 7)
            expect_none_before(due);
        if (due > driven_now())
            advance(due - driven_now() + step * 37 % LATE_MS);
        CU_ASSERT_FATAL(WAIT_FOR(due_first() > driven_now()));
        made += collect_attempts(first);
        if (step % 1000 == 500) {
            clock_ahead += step % 2000 == 500 ? 50000000 : -50000000;
            queue_wake(q);
            settle();
            made += collect_attempts(first);
        }
        if (step % 1000 == 999) {
            restart();
            restarts++;
        }
    }
    printf("(%zu attempts, %u restarts) ", made, restarts);
    CU_ASSERT_EQUAL(made, JOBS * ATTEMPTS);
    CU_ASSERT(restarts >= 5);
    CU_ASSERT(WAIT_FOR(counts().dead == JOBS));
    CU_ASSERT_EQUAL(counts().delayed + counts().ready + counts().leased, 0);
    check_times();
    reader_close();
    closed();
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM job WHERE state = 1 AND last_error = 'it broke'"), JOBS);
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {{"retry times", test_retry_times}, CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"queue times", setup_in_memory, teardown, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
