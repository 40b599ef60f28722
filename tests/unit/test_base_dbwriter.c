/* The writer of a file: its cache while it is idle. What it writes is tested with the store and the queue. */
#include <omid/plugin.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/db.h"
#include "base/dbwriter.h"
#include "unit.h"
#include "unit_db.h"

enum { ROWS = 2000, ROW = 1000 };

static const char *const migrations[] = {"CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB) STRICT;"};
static const char *const statements[] = {"INSERT INTO t (data) VALUES (zeroblob(?))"};
static atomic_uint done;

static int row_run(void *ctx, struct db_op *op)
{
    (void)op;
    sqlite3_stmt *st = db_stmt(ctx, 0);
    sqlite3_bind_int(st, 1, ROW);
    return db_run(ctx, st) ? OMID_OK : OMID_ERR;
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

static void test_idle_cache(void)
{
    char dir[] = "/tmp/omid-test-XXXXXX", path[64], err[256];
    bool aside;
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/t.db", dir);
    struct db_config dc = {.path = path,
                           .what = "test",
                           .application_id = 1,
                           .migrations = migrations,
                           .n_migrations = 1,
                           .statements = statements,
                           .n_statements = 1};
    struct db *db = db_open(&dc, &aside, err, sizeof err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(db);
    sqlite3_int64 before = sqlite_used();
    for (uint32_t idle_ms = 0; idle_ms <= 20; idle_ms += 20) {
        struct db_writer_config wc = {.name = "test_writer",
                                      .db = db,
                                      .idle_ms = idle_ms,
                                      .max_ops = 1,
                                      .max_bytes = 1,
                                      .ctx = db,
                                      .extra_fd = -1};
        struct db_writer *w = db_writer_new(&wc);
        CU_ASSERT_FATAL(w != NULL && db_writer_start(w));
        for (unsigned i = 0; i < 2; i++) { /* a second time too */
            CU_ASSERT(write_rows(w));
            CU_ASSERT(idle_ms == 0 ? sqlite_used() > before + ROWS * ROW : WAIT_FOR(sqlite_used() < before + 100000));
        }
        db_writer_stop(w);
        db_writer_free(&w);
    }
    db_close(&db);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM t"), 4 * ROWS);
    unit_rm_dir(dir);
}

int main(void)
{
    CU_TestInfo tests[] = {{"idle cache", test_idle_cache}, CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"writer", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
