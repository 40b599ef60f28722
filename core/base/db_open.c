/* Opening, checking, migrating, and setting a broken file aside. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/db_int.h"
#include "base/log.h"
#include "base/magic.h"

/* The check reads the whole file. A huge one on a slow disk must not hold up the start for minutes: what these
 * seconds do not find is found when it is read. */
#define CHECK_LIMIT_MS 20000

enum outcome { OPENED, REFUSED, CORRUPT };

static enum outcome refuse(char *err, size_t errlen, const struct db_config *c, const char *reason)
{
    snprintf(err, errlen, "%s: can't open %s: %s", c->what, c->path, reason);
    return REFUSED;
}

/* Is this what is left of one of our files? What has no header of SQLite's is, for it stands where ours belongs; it is
 * kept under another name, in case it is not. Whose database it is when it is one is for whose() to say. */
static enum outcome judge_bytes(const struct db_config *c, int fd, char *err, size_t errlen)
{
    static const char head[16] = "SQLite format 3";
    char got[sizeof(head)];
    char wal[4096];
    struct stat st, wst;
    ssize_t n = pread(fd, got, sizeof(got), 0);
    if (n < 0 || fstat(fd, &st) != 0)
        return refuse(err, errlen, c, strerror(errno));
    snprintf(wal, sizeof(wal), "%s-wal", c->path);
    bool has_wal = stat(wal, &wst) == 0 && wst.st_size > 0;
    if (n == 0) {
        if (!has_wal)
            return OPENED;
        /* SQLite would take it for a new file and delete the log that still holds jobs. */
        snprintf(err, errlen, "%s: %s is empty, but its log is not", c->what, c->path);
        return CORRUPT;
    }
    if (memcmp(got, head, (size_t)n) == 0) {
        if (st.st_size >= 512)
            return OPENED;
        snprintf(err, errlen, "%s: %s is cut off after %lld bytes", c->what, c->path, (long long)st.st_size);
        return CORRUPT;
    }
    snprintf(err, errlen, "%s: the header of %s is damaged", c->what, c->path);
    return CORRUPT;
}

/* The lock says whose file it is as long as the process lives. flock(2) and SQLite's own fcntl(2) locks don't see each
 * other; the descriptor must be closed after SQLite's, because closing any descriptor drops the fcntl locks. */
static enum outcome take_file(const struct db_config *c, int *fd, char *err, size_t errlen)
{
    struct stat st;
    if (stat(c->path, &st) == 0 && !S_ISREG(st.st_mode))
        return refuse(err, errlen, c, S_ISDIR(st.st_mode) ? "it is a directory" : "it is not a regular file");
    *fd = open(c->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (*fd < 0)
        return refuse(err, errlen, c, strerror(errno));
    if (flock(*fd, LOCK_EX | LOCK_NB) != 0)
        return refuse(err, errlen, c,
                      errno == EWOULDBLOCK ? "it is in use (by another omid, or under two settings)" : strerror(errno));
    return judge_bytes(c, *fd, err, errlen);
}

static bool is_corrupt(int rc)
{
    return (rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB || rc == SQLITE_IOERR_SHORT_READ;
}

/* After a failed call: refused or corrupt? */
static enum outcome failed(struct db *db, char *err, size_t errlen)
{
    snprintf(err, errlen, "%s", db->error);
    return is_corrupt(db->rc) ? CORRUPT : REFUSED;
}

static int check_deadline(void *arg)
{
    return clock_mono_ms() > *(uint64_t *)arg;
}

static enum outcome check_content(struct db *db, char *err, size_t errlen)
{
    uint64_t began = clock_mono_ms(), deadline = began + CHECK_LIMIT_MS;
    sqlite3_stmt *st = NULL;
    enum outcome out = OPENED;
    sqlite3_progress_handler(db->sq, 10000, check_deadline, &deadline);
    int rc = sqlite3_prepare_v2(db->sq, "PRAGMA quick_check(1)", -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) {
        const char *text = db_col_str(st, 0);
        if (text == NULL || strcmp(text, "ok") != 0) {
            snprintf(err, errlen, "%s: %s is corrupt: %s", db->what, db->path, text ? text : "?");
            out = CORRUPT;
        }
    } else if ((rc & 0xff) == SQLITE_INTERRUPT) {
        log_warning("db", "the check at opening was cut short", LS("file", db->path),
                    LU("ms", clock_mono_ms() - began));
    } else {
        db_note(db, rc, "check");
        out = failed(db, err, errlen);
    }
    sqlite3_finalize(st);
    sqlite3_progress_handler(db->sq, 0, NULL, NULL);
    return out;
}

static bool has_our_tables(struct db *db, const struct db_config *c)
{
    bool ours = c->n_statements > 0;
    for (size_t i = 0; ours && i < c->n_statements; i++) {
        sqlite3_stmt *st = NULL;
        ours = sqlite3_prepare_v2(db->sq, c->statements[i], -1, &st, NULL) == SQLITE_OK;
        sqlite3_finalize(st);
    }
    return ours;
}

/* Before anything is written: another program's is not ours to change, nor to move out of the way. */
static enum outcome whose(struct db *db, const struct db_config *c, char *err, size_t errlen)
{
    int64_t version = db_int(db, "PRAGMA user_version", INT64_MIN);
    int64_t app = db_int(db, "PRAGMA application_id", INT64_MIN);
    int64_t tables = db_int(db, "SELECT count(*) FROM sqlite_master", -1);
    if (version == INT64_MIN || app == INT64_MIN || tables < 0)
        return failed(db, err, errlen);
    if (app == c->application_id || (app == 0 && tables == 0 && version == 0))
        return OPENED;
    if (!has_our_tables(db, c))
        return refuse(err, errlen, c, "it is another program's database");
    snprintf(err, errlen, "%s: the header of %s is damaged", c->what, c->path);
    return CORRUPT;
}

static enum outcome migrate(struct db *db, const struct db_config *c, char *err, size_t errlen)
{
    int64_t version = db_int(db, "PRAGMA user_version", -1);
    char sql[96];
    if (version < 0)
        return failed(db, err, errlen);
    if (version > (int64_t)c->n_migrations) {
        snprintf(sql, sizeof(sql), "its schema version is %lld, this omid knows up to %zu", (long long)version,
                 c->n_migrations);
        return refuse(err, errlen, c, sql);
    }
    for (size_t v = (size_t)version; v < c->n_migrations; v++) {
        snprintf(sql, sizeof(sql), "PRAGMA application_id=%d; PRAGMA user_version=%zu", (int)c->application_id, v + 1);
        if (!db_begin(db))
            return failed(db, err, errlen);
        if (!db_exec(db, c->migrations[v]) || !db_exec(db, sql) || !db_commit(db)) {
            db_rollback(db);
            return failed(db, err, errlen);
        }
        log_info("db", "schema raised", LS("file", db->path), LU("version", v + 1));
    }
    return OPENED;
}

static bool prepare_all(struct db *db, const struct db_config *c)
{
    db->stmts = calloc(c->n_statements + 1, sizeof(*db->stmts));
    if (db->stmts == NULL) {
        db_set_error(db, "no memory");
        return false;
    }
    db->n_stmts = c->n_statements;
    for (size_t i = 0; i < c->n_statements; i++) {
        int rc = sqlite3_prepare_v3(db->sq, c->statements[i], -1, SQLITE_PREPARE_PERSISTENT, &db->stmts[i], NULL);
        if (rc != SQLITE_OK) {
            db_note(db, rc, "prepare");
            return false;
        }
    }
    return true;
}

static enum outcome set_up(struct db *db, const struct db_config *c, char *err, size_t errlen)
{
    int rc = sqlite3_open_v2(db->path, &db->sq, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc != SQLITE_OK) {
        db_note(db, rc, "open");
        return failed(db, err, errlen);
    }
    sqlite3_extended_result_codes(db->sq, 1);
    /* Only a stranger's reader (a shell, a backup) can hold a lock. */
    sqlite3_busy_timeout(db->sq, 5000);
    /* Once set aside it is evidence: closing must not change it. Undone when all went well. */
    sqlite3_db_config(db->sq, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    enum outcome out = whose(db, c, err, errlen);
    if (out != OPENED)
        return out;
    /* The log and its index stay when it is closed (the log emptied): on a disk that is full by the next start there
     * would be no room for the index, without which nothing can be read. */
    int keep = 1;
    sqlite3_file_control(db->sq, "main", SQLITE_FCNTL_PERSIST_WAL, &keep);
    /* auto_vacuum can only be chosen while the file is empty, and saying so once more would write. The log's size is
     * bounded once it was large. */
    if (db_int(db, "PRAGMA auto_vacuum", 0) != 2 && !db_exec(db, "PRAGMA auto_vacuum=INCREMENTAL"))
        return failed(db, err, errlen);
    if (!db_exec(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                     "PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-16384;"
                     "PRAGMA wal_autocheckpoint=4000; PRAGMA journal_size_limit=67108864"))
        return failed(db, err, errlen);
    out = check_content(db, err, errlen);
    if (out == OPENED)
        out = migrate(db, c, err, errlen);
    if (out != OPENED)
        return out;
    if (!prepare_all(db, c))
        return failed(db, err, errlen);
    sqlite3_db_config(db->sq, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
    return OPENED;
}

static bool set_file_aside(const char *path, char *err, size_t errlen)
{
    static const char *const suffix[] = {"", "-wal", "-shm"};
    char from[4096], to[4096];
    struct stat st;
    int64_t sec = clock_wall_ms() / 1000;
    do {
        snprintf(to, sizeof(to), "%s.corrupt-%lld", path, (long long)sec++);
    } while (lstat(to, &st) == 0);
    sec--;
    for (size_t i = 0; i < ARRAY_LEN(suffix); i++) {
        snprintf(from, sizeof(from), "%s%s", path, suffix[i]);
        snprintf(to, sizeof(to), "%s.corrupt-%lld%s", path, (long long)sec, suffix[i]);
        if (rename(from, to) != 0 && (i == 0 || errno != ENOENT)) {
            size_t n = strlen(err);
            snprintf(err + n, errlen - n, "; and setting it aside failed: %s", strerror(errno));
            return false;
        }
    }
    snprintf(to, sizeof(to), "%s.corrupt-%lld", path, (long long)sec);
    log_error("db", "a broken file was set aside", LS("reason", err), LS("as", to));
    return true;
}

static enum outcome open_once(const struct db_config *c, struct db **out, char *err, size_t errlen)
{
    struct db *db = calloc(1, sizeof(*db));
    if (db == NULL || (db->path = strdup(c->path)) == NULL) {
        free(db);
        return refuse(err, errlen, c, "no memory");
    }
    db->magic = DB_MAGIC;
    db->fd = -1;
    db->what = c->what;
    enum outcome o = take_file(c, &db->fd, err, errlen);
    if (o == OPENED)
        o = set_up(db, c, err, errlen);
    if (o == OPENED)
        *out = db;
    else
        db_close(&db);
    return o;
}

struct db *db_open(const struct db_config *c, bool *set_aside, char *err, size_t errlen)
{
    struct db *db = NULL;
    char again[512];
    omid_assert(errlen > 0);
    err[0] = '\0';
    *set_aside = false;
    if (strlen(c->path) > 4000) {
        refuse(err, errlen, c, "the path is too long");
        return NULL;
    }
    enum outcome o = open_once(c, &db, err, errlen);
    if (o == CORRUPT && set_file_aside(c->path, err, errlen)) {
        *set_aside = true;
        if (open_once(c, &db, again, sizeof(again)) != OPENED)
            snprintf(err, errlen, "%s", again);
    }
    return db;
}

struct db *db_open_reader(const struct db_config *c, char *err, size_t errlen)
{
    struct db *db = calloc(1, sizeof(*db));
    if (db == NULL || (db->path = strdup(c->path)) == NULL) {
        free(db);
        refuse(err, errlen, c, "no memory");
        return NULL;
    }
    db->magic = DB_MAGIC;
    db->fd = -1;
    db->what = c->what;
    int rc = sqlite3_open_v2(db->path, &db->sq, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc != SQLITE_OK) {
        db_note(db, rc, "open");
    } else {
        sqlite3_extended_result_codes(db->sq, 1);
        sqlite3_busy_timeout(db->sq, 5000);
        if (db_exec(db, "PRAGMA query_only=ON; PRAGMA cache_size=-2048") && prepare_all(db, c))
            return db;
    }
    snprintf(err, errlen, "%s", db->error);
    db_close(&db);
    return NULL;
}
