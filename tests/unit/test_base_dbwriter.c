/* The writer of a file: its cache while it is idle. What it writes is tested with the store and the queue. */
#include <omid/plugin.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/db.h"
#include "base/dbwriter.h"
#include "base/magic.h"
#include "unit.h"
#include "unit_db.h"

enum { ROWS = 2000, ROW = 1000 };

static const char *const migrations[] = {"CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB) STRICT;"};
static const char *const statements[] = {"INSERT INTO t (data) VALUES (zeroblob(?))", "SELECT id FROM t WHERE id = 1"};
static atomic_uint done;

static int row_run(void *ctx, struct db_op *op)
{
    (void)op;
    sqlite3_stmt *st = db_stmt(ctx, 0);
    sqlite3_bind_int(st, 1, ROW);
    return db_run(ctx, st) ? OMID_OK : OMID_ERR;
}

/* As a look at what is due: it changes nothing. */
static int look_run(void *ctx, struct db_op *op)
{
    (void)op;
    return db_run(ctx, db_stmt(ctx, 1)) ? OMID_OK : OMID_ERR;
}

static void row_done(void *ctx, struct db_op *op, int result)
{
    (void)ctx;
    free(op);
    atomic_fetch_add(&done, result == OMID_OK);
}

/* They fill some 2 MB of cache. */
static bool write_rows(struct db_writer *w)
{
    unsigned before = atomic_load(&done);
    for (unsigned i = 0; i < ROWS; i++) {
        struct db_op *op = calloc(1, sizeof *op);
        *op = (struct db_op){.run = row_run, .done = row_done};
        if (!db_writer_post_always(w, op))
            return false;
    }
    return WAIT_FOR(atomic_load(&done) == before + ROWS);
}

static sqlite3_int64 sqlite_used(void)
{
    sqlite3_int64 now = 0, most;
    sqlite3_status64(SQLITE_STATUS_MEMORY_USED, &now, &most, 0);
    return now;
}

struct file {
    char dir[32], path[64];
    struct db *db;
};

static void file_open(struct file *f)
{
    char err[256];
    bool aside;
    strcpy(f->dir, "/tmp/omid-test-XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(f->dir));
    snprintf(f->path, sizeof f->path, "%s/t.db", f->dir);
    struct db_config dc = {.path = f->path,
                           .what = "test",
                           .application_id = 1,
                           .migrations = migrations,
                           .n_migrations = 1,
                           .statements = statements,
                           .n_statements = ARRAY_LEN(statements)};
    f->db = db_open(&dc, &aside, err, sizeof err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(f->db);
}

static void file_close(struct file *f, int rows)
{
    db_close(&f->db);
    CU_ASSERT_EQUAL(unit_sql_int(f->path, "SELECT count(*) FROM t"), rows);
    unit_rm_dir(f->dir);
}

static struct db_writer *writer_start(struct db *db, uint32_t idle_ms)
{
    struct db_writer_config wc = {
        .name = "test_writer", .db = db, .max_ops = 1, .max_bytes = 1, .ctx = db, .extra_fd = -1};
    struct db_writer *w = db_writer_new(&wc);
    CU_ASSERT_PTR_NOT_NULL_FATAL(w);
    db_writer_set_idle(w, idle_ms);
    CU_ASSERT_FATAL(db_writer_start(w));
    return w;
}

static void test_idle_cache(void)
{
    struct file f;
    file_open(&f);
    sqlite3_int64 before = sqlite_used();
    for (uint32_t idle_ms = 0; idle_ms <= 20; idle_ms += 20) {
        struct db_writer *w = writer_start(f.db, idle_ms);
        for (unsigned i = 0; i < 2; i++) { /* a second time too */
            CU_ASSERT(write_rows(w));
            CU_ASSERT(idle_ms == 0 ? sqlite_used() > before + ROWS * ROW : WAIT_FOR(sqlite_used() < before + 100000));
        }
        db_writer_stop(w);
        db_writer_free(&w);
    }
    file_close(&f, 4 * ROWS);
}

/* One that is asked now and then what is due, and writes nothing, is idle. */
static bool looked(struct db_writer *w)
{
    unsigned before = atomic_load(&done);
    struct db_op *op = calloc(1, sizeof *op);
    *op = (struct db_op){.run = look_run, .done = row_done};
    return db_writer_post_always(w, op) && WAIT_FOR(atomic_load(&done) > before);
}

static void test_idle_but_for_looks(void)
{
    struct file f;
    file_open(&f);
    sqlite3_int64 before = sqlite_used();
    struct db_writer *w = writer_start(f.db, 0);
    CU_ASSERT(write_rows(w));
    CU_ASSERT(looked(w));
    CU_ASSERT(sqlite_used() > before + ROWS * ROW);
    db_writer_set_idle(w, 300);
    CU_ASSERT(WAIT_FOR(looked(w) && sqlite_used() < before + 100000));
    db_writer_stop(w);
    db_writer_free(&w);
    file_close(&f, ROWS);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"idle cache", test_idle_cache}, {"idle but for looks", test_idle_but_for_looks}, CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"writer", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
