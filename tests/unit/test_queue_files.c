/* The durable queue: places where it cannot be, disks without room, and files that are damaged or not its own. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "queue_rig.h"
#include "unit.h"

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

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"disk full", test_disk_full},
        {"bad places", test_bad_places},
        {"disk full at the start", test_full_at_start},
        {"broken files", test_broken_files},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"queue files", setup, teardown, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
