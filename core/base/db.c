#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/db_int.h"
#include "base/magic.h"

static bool is_room(int error)
{
    return error == ENOSPC || error == EDQUOT || error == EFBIG;
}

/* SQLite keeps it for some paths only; else it is what the failing call left, when that is a fault of a disk. */
static int system_error(sqlite3 *sq)
{
    int left = errno, sys = sq ? sqlite3_system_errno(sq) : left;
    return sys == 0 && (is_room(left) || left == EIO || left == EROFS) ? left : sys;
}

/* What an administrator can act on, instead of SQLite's "disk I/O error". */
static const char *reason(sqlite3 *sq, int rc, char *buf, size_t len)
{
    int sys = system_error(sq);
    switch (rc & 0xff) {
    case SQLITE_FULL:
        return "the disk is full";
    case SQLITE_IOERR:
        if (sys == ENOSPC)
            return "the disk is full";
        if (sys == EDQUOT)
            return "the disk quota is used up";
        if (sys == EFBIG)
            return "the file size limit is reached";
        if (sys != 0)
            snprintf(buf, len, "I/O error (%s)", strerror(sys));
        else
            snprintf(buf, len, "I/O error (SQLite's code %d)", rc);
        return buf;
    case SQLITE_CANTOPEN:
        if (sys == 0)
            return "it can't be opened; is its directory writable?";
        snprintf(buf, len, "it can't be opened (%s); is its directory writable?", strerror(sys));
        return buf;
    case SQLITE_READONLY:
        return "the file or its directory is read-only";
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return "another process holds a lock on it";
    case SQLITE_CORRUPT:
        return "it is corrupt";
    case SQLITE_NOTADB:
        return "it is not a database";
    case SQLITE_NOMEM:
        return "no memory";
    default:
        return sq ? sqlite3_errmsg(sq) : sqlite3_errstr(rc);
    }
}

void db_note(struct db *db, int rc, const char *doing)
{
    char buf[160];
    db->rc = rc;
    db->full = (rc & 0xff) == SQLITE_FULL || ((rc & 0xff) == SQLITE_IOERR && is_room(system_error(db->sq)));
    snprintf(db->error, sizeof(db->error), "%s: %s: %s (%s)", db->what, doing, reason(db->sq, rc, buf, sizeof(buf)),
             db->path);
}

void db_close(struct db **dbp)
{
    struct db *db = *dbp;
    if (db == NULL)
        return;
    CHECK_MAGIC(db, DB_MAGIC);
    for (size_t i = 0; db->stmts != NULL && i < db->n_stmts; i++)
        sqlite3_finalize(db->stmts[i]);
    free(db->stmts);
    if (db->sq != NULL) {
        int rc = sqlite3_close(db->sq);
        omid_assert(rc == SQLITE_OK);
    }
    if (db->fd >= 0)
        close(db->fd);
    free(db->path);
    db->magic = OMID_MAGIC_DEAD;
    free(db);
    *dbp = NULL;
}

const char *db_path(const struct db *db)
{
    return db->path;
}

bool db_is_full(const struct db *db)
{
    return db->full;
}

const char *db_error(const struct db *db)
{
    return db->error;
}

void db_set_error(struct db *db, const char *text)
{
    db->rc = SQLITE_ERROR;
    db->full = false;
    snprintf(db->error, sizeof(db->error), "%s: %s", db->what, text);
}

sqlite3_stmt *db_stmt(struct db *db, size_t i)
{
    CHECK_MAGIC(db, DB_MAGIC);
    omid_assert(i < db->n_stmts);
    sqlite3_reset(db->stmts[i]);
    sqlite3_clear_bindings(db->stmts[i]);
    return db->stmts[i];
}

bool db_prepare(struct db *db, const char *sql, sqlite3_stmt **out)
{
    int rc = sqlite3_prepare_v2(db->sq, sql, -1, out, NULL);
    if (rc != SQLITE_OK)
        db_note(db, rc, "read");
    return rc == SQLITE_OK;
}

int db_step(struct db *db, sqlite3_stmt *st)
{
    errno = 0;
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        return 1;
    if (rc != SQLITE_DONE)
        db_note(db, rc, "write");
    sqlite3_reset(st);
    return rc == SQLITE_DONE ? 0 : -1;
}

bool db_run(struct db *db, sqlite3_stmt *st)
{
    int r;
    while ((r = db_step(db, st)) > 0)
        ;
    return r == 0;
}

bool db_exec(struct db *db, const char *sql)
{
    errno = 0;
    int rc = sqlite3_exec(db->sq, sql, NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        db_note(db, rc, "write");
    return rc == SQLITE_OK;
}

int64_t db_int(struct db *db, const char *sql, int64_t def)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db->sq, sql, -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        def = sqlite3_column_int64(st, 0);
    else if (rc != SQLITE_DONE)
        db_note(db, rc, "read");
    sqlite3_finalize(st);
    return def;
}

int64_t db_total_changes(struct db *db)
{
    return sqlite3_total_changes64(db->sq);
}

void db_cache_free(struct db *db)
{
    (void)sqlite3_db_release_memory(db->sq);
}

int64_t db_last_id(struct db *db)
{
    return sqlite3_last_insert_rowid(db->sq);
}

int64_t db_changes(struct db *db)
{
    return sqlite3_changes(db->sq);
}

void db_bind_str(sqlite3_stmt *st, int at, const char *s)
{
    if (s == NULL)
        sqlite3_bind_null(st, at);
    else
        sqlite3_bind_text(st, at, s, -1, SQLITE_STATIC);
}

const char *db_col_str(sqlite3_stmt *st, int col)
{
    return (const char *)sqlite3_column_text(st, col);
}

char *db_col_dup(sqlite3_stmt *st, int col)
{
    const char *s = db_col_str(st, col);
    return s ? strdup(s) : NULL;
}

bool db_begin(struct db *db)
{
    /* IMMEDIATE: a lock that can't be had shows here, not in the middle. */
    return db_exec(db, "BEGIN IMMEDIATE");
}

bool db_commit(struct db *db)
{
    /* sqlite3_exec keeps a failed COMMIT's transaction open for some errors. */
    if (db_exec(db, "COMMIT"))
        return true;
    db_rollback(db);
    return false;
}

void db_rollback(struct db *db)
{
    /* Statements under way would keep it from ending. Some faults have rolled back already. */
    for (size_t i = 0; db->stmts != NULL && i < db->n_stmts; i++)
        sqlite3_reset(db->stmts[i]);
    if (!sqlite3_get_autocommit(db->sq))
        sqlite3_exec(db->sq, "ROLLBACK", NULL, NULL, NULL);
}

bool db_probe(struct db *db)
{
    char sql[64];
    int64_t version = db_int(db, "PRAGMA user_version", -1);
    if (version < 0 || !db_begin(db))
        return false;
    snprintf(sql, sizeof(sql), "PRAGMA user_version=%lld", (long long)version);
    if (db_exec(db, sql) && db_commit(db))
        return true;
    db_rollback(db);
    return false;
}
