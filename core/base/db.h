/*
 * SQLite files as the queue and the store keep them: one connection that owns the file, WAL, synchronous=FULL, a schema
 * version in user_version raised by a list of migrations, a check at opening, and faults as text a user can act on.
 *
 * A connection is used by one thread at a time (opened on the main thread, then handed to its writer).
 */
#ifndef OMID_BASE_DB_H
#define OMID_BASE_DB_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct db;

struct db_config {
    const char *path;
    const char *what;       /* "queue": for messages */
    int32_t application_id; /* tells this kind of file from other programs' databases */
    /* SQL scripts; applying number i makes version i + 1. Never changed once released, only added to. */
    const char *const *migrations;
    size_t n_migrations;
    /* Statements prepared after the migrations; see db_stmt(). */
    const char *const *statements;
    size_t n_statements;
};

/*
 * Opens or creates. Refused, with the reason in err (NULL returned): a directory that is missing or can't be written, a
 * path that is no file, a file of another program, a schema newer than known, a file that another process (or
 * another part of this one) holds.
 * A corrupt or truncated file, and one that is no database at all, is renamed to PATH.corrupt-<unix seconds>, with its
 * -wal and -shm, and a new one is begun: *set_aside = true, and err holds what was found.
 */
struct db *db_open(const struct db_config *config, bool *set_aside, char *err, size_t errlen);
/* One more connection to a file that db_open() holds in this process, which can't write. It does not check, migrate or
 * lock anything, and sees what was committed before each statement. Its statements are those of config. NULL: err. */
struct db *db_open_reader(const struct db_config *config, char *err, size_t errlen);
void db_close(struct db **db);

const char *db_path(const struct db *db);
/* Statement number i, reset and without bindings. */
sqlite3_stmt *db_stmt(struct db *db, size_t i);
/* One for a single use; sqlite3_finalize() it. */
bool db_prepare(struct db *db, const char *sql, sqlite3_stmt **out);
/* 1: a row; 0: done (and reset); -1: failed (and reset), db_error() says why. */
int db_step(struct db *db, sqlite3_stmt *st);
/* Steps to the end. */
bool db_run(struct db *db, sqlite3_stmt *st);
bool db_exec(struct db *db, const char *sql);
/* First column of the first row; def when there is none or it fails. For pragmas and counts. */
int64_t db_int(struct db *db, const char *sql, int64_t def);
int64_t db_changes(struct db *db);
int64_t db_last_id(struct db *db);       /* of the row inserted last */
int64_t db_total_changes(struct db *db); /* since it was opened */
/* Pages that are kept for the next statement; it reads them again. Outside of a transaction. */
void db_cache_free(struct db *db);

/* Text is copied neither way: it must stay until the statement is reset. NULL binds NULL. */
void db_bind_str(sqlite3_stmt *st, int at, const char *s);
const char *db_col_str(sqlite3_stmt *st, int col); /* NULL for NULL */
char *db_col_dup(sqlite3_stmt *st, int col);       /* malloc()ed; NULL for NULL or without memory */

bool db_begin(struct db *db);
bool db_commit(struct db *db); /* false: nothing of the transaction is kept */
void db_rollback(struct db *db);
/* Writes and commits something that changes nothing: does the disk take writes again? */
bool db_probe(struct db *db);

/* Why the last call failed: "queue: disk full (/var/lib/omid/queue.db)". "" before the first failure. */
const char *db_error(const struct db *db);
/* Was it for want of room (a full disk, a quota, a limit of the file's size)? */
bool db_is_full(const struct db *db);
/* Rows of a transaction that failed for a reason of its own, not the disk's: sets db_error(). */
void db_set_error(struct db *db, const char *text);

#endif
