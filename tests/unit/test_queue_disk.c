/* The durable queue on a disk that fails: its syncs, its writes, its space. Nothing is taken that is not on it, and all
 * goes on when it is well again. These functions take the place of libc's for SQLite, too. */
#include <dlfcn.h>
#include <errno.h>

#include "queue_rig.h"
#include "unit.h"

static _Atomic int sync_fails, write_fails; /* errno; 0: they work */
static _Atomic unsigned syncs;

static int sync_or_fail(const char *name, int fd)
{
    int (*real)(int);
    *(void **)&real = dlsym(RTLD_NEXT, name);
    syncs++;
    if (sync_fails != 0) {
        errno = sync_fails;
        return -1;
    }
    return real(fd);
}

__attribute__((visibility("default"))) int fsync(int fd)
{
    return sync_or_fail("fsync", fd);
}

__attribute__((visibility("default"))) int fdatasync(int fd)
{
    return sync_or_fail("fdatasync", fd);
}

static ssize_t write_or_fail(const char *name, int fd, const void *data, size_t len, off_t at)
{
    ssize_t (*real)(int, const void *, size_t, off_t);
    *(void **)&real = dlsym(RTLD_NEXT, name);
    if (write_fails != 0) {
        errno = write_fails;
        return -1;
    }
    return real(fd, data, len, at);
}

__attribute__((visibility("default"))) ssize_t pwrite(int fd, const void *data, size_t len, off_t at)
{
    return write_or_fail("pwrite", fd, data, len, at);
}

__attribute__((visibility("default"))) ssize_t pwrite64(int fd, const void *data, size_t len, off_t at)
{
    return write_or_fail("pwrite64", fd, data, len, at);
}

/* ---------------------------------------------------------------- */

struct receipt_answer {
    _Atomic int n;
    int result;
    bool repeated;
};
static void on_receipt(void *arg, enum omid_result result, bool repeated, const char *value)
{
    struct receipt_answer *a = arg;
    (void)value;
    a->result = result;
    a->repeated = repeated;
    a->n++;
}

static int with_receipt(const char *key, bool *repeated)
{
    struct receipt_answer a = {0};
    const struct omid_job jobs[] = {
        {.size = sizeof(jobs[0]), .type = "test", .target = "a", .payload = "1", .payload_len = 1},
        {.size = sizeof(jobs[0]), .type = "test", .target = "b", .payload = "2", .payload_len = 1}};
    const struct omid_receipt receipt = {.key = key, .value = "v"};
    int r = queue_enqueue_all(q, "web", jobs, 2, &receipt, lp, on_receipt, &a);
    if (r != OMID_OK || !WAIT_FOR(a.n == 1))
        return r != OMID_OK ? r : -99;
    *repeated = a.repeated;
    return a.result;
}

/* What a crash at this moment would leave: the file and its log as they are, opened by somebody else. */
static int64_t on_disk(const char *sql)
{
    char copy[160], command[1024];
    snprintf(copy, sizeof(copy), "%s/copy.db", dir);
    snprintf(command, sizeof(command), "cp '%s' '%s' && cp '%s-wal' '%s-wal'", path, copy, path, copy);
    if (system(command) != 0)
        return -1;
    int64_t n = unit_sql_int(copy, sql);
    snprintf(command, sizeof(command), "rm -f '%s' '%s-wal' '%s-shm'", copy, copy, copy);
    return system(command) == 0 ? n : -1;
}

/* Everything while the disk fails so, and after it. */
static void disk_fails(_Atomic int *how, int error, const char *says)
{
    char err[512];
    uint64_t id = 0;
    bool repeated = false;
    fresh();
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    CU_ASSERT_EQUAL(enqueue("web", "t", "before", "1", 0, &id), OMID_OK);
    CU_ASSERT(WAIT_FOR(seen_count() == 1));
    *how = error;
    int accepted = 0;
    for (int i = 0; i < 5; i++) {
        accepted += enqueue("web", "t", NULL, "lost", 0, NULL) == OMID_OK;
        accepted += enqueue("web", "t", "again", "lost", 0, NULL) == OMID_OK;
        accepted += with_receipt("key", &repeated) == OMID_OK;
        accepted += enqueue_many("web", "t", 3) == OMID_OK;
    }
    CU_ASSERT_EQUAL(accepted, 0);
    CU_ASSERT_FALSE(healthy());
    queue_health(q, err, sizeof(err));
    CU_ASSERT_PTR_NOT_NULL(strstr(err, says));
    if (strstr(err, says) == NULL)
        fprintf(stderr, "health: %s\n", err);
    /* What is done in the meantime is not forgotten, and not done twice. */
    finish_nth(0, OMID_JOB_DONE, 0, NULL);
    CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "lost", 0, NULL), OMID_ERR);
    CU_ASSERT_EQUAL(counts().leased, 1);
    CU_ASSERT_EQUAL(counts().done, 0);
    *how = 0;
    CU_ASSERT(WAIT_FOR(healthy()));
    CU_ASSERT(WAIT_FOR(counts().done == 1));
    handler_set(false, OMID_JOB_DONE, false);
    CU_ASSERT_EQUAL(enqueue("web", "t", "after", "2", 0, NULL), OMID_OK);
    /* Offered again until it is taken, and told twice: one job of this name. */
    uint64_t one = 0, same = 0;
    CU_ASSERT_EQUAL(enqueue("web", "t", "again", "3", 0, &one), OMID_OK);
    CU_ASSERT_EQUAL(enqueue("web", "t", "again", "4", 0, &same), OMID_OK);
    CU_ASSERT(one != 0 && one == same);
    /* A receipt whose jobs were not taken was not kept either. */
    CU_ASSERT_EQUAL(with_receipt("key", &repeated), OMID_OK);
    CU_ASSERT_FALSE(repeated);
    CU_ASSERT(WAIT_FOR(counts().done == 5));
    settle();
    CU_ASSERT_EQUAL(seen_count(), 5);
    for (size_t i = 0; i < seen_count(); i++)
        CU_ASSERT_STRING_NOT_EQUAL(h.seen[i].payload, "lost");
    CU_ASSERT_EQUAL(on_disk("SELECT count(*) FROM job"), 0);
    CU_ASSERT_EQUAL(on_disk("SELECT count(*) FROM receipt"), 1);
    closed();
    CU_ASSERT_FATAL(started());
    settle();
    CU_ASSERT_EQUAL(seen_count(), 5);
    CU_ASSERT_EQUAL(counts().ready + counts().delayed + counts().dead, 0);
    closed();
}

static void test_sync_fails(void)
{
    disk_fails(&sync_fails, EIO, "Input/output error");
}

static void test_no_space(void)
{
    disk_fails(&write_fails, ENOSPC, "the disk is full");
}

static void test_write_fails(void)
{
    disk_fails(&write_fails, EIO, "Input/output error");
}

/* Each answer comes after a sync, and with what it answers for. */
static void test_synced_before_told(void)
{
    fresh();
    CU_ASSERT_FATAL(started());
    handler_set(true, 0, false);
    for (int i = 0; i < 20; i++) {
        char name[16], sql[128];
        unsigned before = syncs;
        snprintf(name, sizeof(name), "n%d", i);
        CU_ASSERT_EQUAL(enqueue("web", "t", name, "x", 0, NULL), OMID_OK);
        CU_ASSERT(syncs > before);
        snprintf(sql, sizeof(sql), "SELECT count(*) FROM job WHERE name = '%s'", name);
        CU_ASSERT_EQUAL(on_disk(sql), 1);
    }
    closed();
    handler_set(false, OMID_JOB_DONE, false);
    for (size_t i = 0; i < seen_count(); i++) {
        struct queue_claim *c = take_claim(i);
        queue_finish(&c, OMID_JOB_DONE, 0, NULL);
    }
}

/* Dead letters that are replayed or dropped while the disk fails stay what they are. */
static void on_done(void *arg, int result)
{
    struct answer *a = arg;
    a->result = result;
    a->n++;
}

static void on_begun(void *arg, int result, uint64_t id)
{
    (void)id;
    on_done(arg, result);
}

static void test_dead_while_failing(void)
{
    uint64_t id = 0;
    struct answer a = {0};
    fresh();
    CU_ASSERT_FATAL(started());
    handler_set(false, OMID_JOB_DEAD, false);
    for (int i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(enqueue("web", "t", NULL, "x", 0, &id), OMID_OK);
    CU_ASSERT(WAIT_FOR(counts().dead == 3));
    handler_set(false, OMID_JOB_DONE, false);
    sync_fails = EIO;
    CU_ASSERT_EQUAL(queue_dead_replay(q, id, lp, on_done, &a), OMID_OK);
    CU_ASSERT(WAIT_FOR(a.n == 1));
    CU_ASSERT_EQUAL(a.result, OMID_ERR);
    CU_ASSERT_EQUAL(queue_dead_drop(q, id, lp, on_done, &a), OMID_OK);
    CU_ASSERT(WAIT_FOR(a.n == 2));
    CU_ASSERT_EQUAL(a.result, OMID_ERR);
    CU_ASSERT_EQUAL(counts().dead, 3);
    sync_fails = 0;
    CU_ASSERT(WAIT_FOR(healthy()));
    const struct queue_filter all = {0};
    CU_ASSERT_EQUAL(queue_sweep_begin(q, QUEUE_REPLAY, &all, 100, lp, on_begun, &a), OMID_OK);
    CU_ASSERT(WAIT_FOR(a.n == 3));
    CU_ASSERT_EQUAL(a.result, OMID_OK);
    sync_fails = EIO; /* in its midst, or not */
    enqueue_many("web", "t", 1);
    sync_fails = 0;
    CU_ASSERT(WAIT_FOR(counts().dead == 0 && counts().leased == 0 && counts().ready == 0));
    CU_ASSERT(counts().done >= 3);
    closed();
}

/* ---------------------------------------------------------------- large jobs */

enum { LARGE = 1 << 20 };
static _Atomic unsigned large_seen, large_wrong;
static _Atomic int large_outcome;

static bool large_handle(void *arg, struct queue_claim *c)
{
    const struct omid_job_view *v = queue_claim_view(c);
    const char *p = v->payload;
    (void)arg;
    bool right = v->payload_len == LARGE && p[LARGE] == '\0';
    for (size_t i = 0; right && i < LARGE; i++)
        right = p[i] == (char)('a' + i % 23);
    large_wrong += !right;
    large_seen++;
    queue_finish(&c, (enum omid_job_outcome)large_outcome, 0, "it broke, and says so at some length");
    return true;
}

static void on_large(void *arg, int result, const struct queue_dead *item, size_t n)
{
    struct answer *a = arg;
    a->result = result == OMID_OK && n == 1 && item->payload_len == LARGE &&
                        ((const char *)item->payload)[LARGE - 1] == (char)('a' + (LARGE - 1) % 23)
                    ? OMID_OK
                    : OMID_ERR;
    a->id = n > 0 ? item->id : 0;
    a->n++;
}

static void on_one(void *arg, int result)
{
    struct answer *a = arg;
    a->result = result;
    a->n++;
}

/* What a failing endpoint is sent is written once, not at every attempt: neither the disk fills nor is it worn. */
static void test_large(void)
{
    static char payload[LARGE];
    struct answer a = {0};
    struct stat st;
    char wal[128];
    uint64_t id = 0;
    fresh();
    driven();
    for (size_t i = 0; i < LARGE; i++)
        payload[i] = (char)('a' + i % 23);
    large_seen = large_wrong = 0;
    large_outcome = OMID_JOB_RETRY;
    CU_ASSERT_FATAL(opened() && queue_start(q, large_handle, NULL));
    struct omid_job job = {
        .size = sizeof(job), .type = "test", .target = "t", .payload = payload, .payload_len = LARGE, .name = "big"};
    CU_ASSERT_EQUAL_FATAL(queue_enqueue(q, "web", &job, lp, on_enqueued, &a), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(a.n == 1));
    id = a.id;
    for (unsigned n = 1; n <= 4; n++) {
        CU_ASSERT_FATAL(WAIT_FOR(large_seen == n));
        CU_ASSERT_FATAL(WAIT_FOR(counts().leased == 0));
        CU_ASSERT_EQUAL(counts().bytes, n < 4 ? LARGE : 0);
        advance(3600000);
    }
    CU_ASSERT_EQUAL(counts().dead, 1);
    snprintf(wal, sizeof(wal), "%s-wal", path);
    CU_ASSERT_EQUAL_FATAL(stat(wal, &st), 0);
    CU_ASSERT(st.st_size < 2 * LARGE);
    /* Shown, brought back, over a restart. */
    a.n = 0;
    CU_ASSERT_EQUAL(queue_dead_show(q, id, lp, on_large, &a), OMID_OK);
    CU_ASSERT(WAIT_FOR(a.n == 1) && a.result == OMID_OK);
    a.n = 0;
    CU_ASSERT_EQUAL(queue_dead_replay(q, id, lp, on_one, &a), OMID_OK);
    CU_ASSERT(WAIT_FOR(large_seen == 5));
    CU_ASSERT(WAIT_FOR(counts().leased == 0));
    CU_ASSERT_EQUAL(counts().bytes, LARGE);
    closed();
    CU_ASSERT_FATAL(opened());
    CU_ASSERT_EQUAL(counts().bytes, LARGE);
    large_outcome = OMID_JOB_DONE;
    CU_ASSERT_FATAL(queue_start(q, large_handle, NULL));
    advance(3600000);
    CU_ASSERT(WAIT_FOR(counts().done == 1));
    /* Another dies, and is dropped. */
    large_outcome = OMID_JOB_DEAD;
    a.n = 0;
    job.name = NULL;
    CU_ASSERT_EQUAL_FATAL(queue_enqueue(q, "web", &job, lp, on_enqueued, &a), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(a.n == 1 && counts().dead == 1));
    id = a.id;
    a.n = 0;
    CU_ASSERT_EQUAL(queue_dead_drop(q, id, lp, on_one, &a), OMID_OK);
    CU_ASSERT(WAIT_FOR(a.n == 1) && a.result == OMID_OK);
    CU_ASSERT_EQUAL(large_wrong, 0);
    closed();
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT (SELECT count(*) FROM job) + (SELECT count(*) FROM large)"), 0);
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"syncs fail", test_sync_fails},
        {"no space", test_no_space},
        {"writes fail", test_write_fails},
        {"synced before it is told", test_synced_before_told},
        {"dead letters while it fails", test_dead_while_failing},
        {"large jobs are written once", test_large},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"queue disk", setup, teardown, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
