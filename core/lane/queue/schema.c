#include "lane/queue/queue_int.h"

/* Version 1. job.state: 0 ready, 1 dead. `wall`: not_before is a time of the wall clock that the caller named (else it
 * is a delay of ours, and moves along when the clock is set). due_of_target is all that a claim reads. */
static const char v1[] =
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
    "CREATE INDEX name_expires ON name(expires) WHERE expires IS NOT NULL;";

/* Version 2. job.state became bits (1 dead, 2 ordered): what is dead is seen by `died`, and ordered jobs that are ready
 * are found by an index of their own, in the order of their ids. A payload beyond QUEUE_LARGE stands in a table of its
 * own, and job.payload is then its length, an integer; those of version 1 stay where they are. */
static const char v2[] =
    "ALTER TABLE target ADD COLUMN rate INTEGER NOT NULL DEFAULT 0;"
    "CREATE TABLE large(id INTEGER PRIMARY KEY, payload BLOB NOT NULL);"
    "DROP INDEX dead_jobs;"
    "DROP INDEX dead_of_target;"
    "CREATE INDEX dead_jobs ON job(died) WHERE died IS NOT NULL;"
    "CREATE INDEX dead_of_target ON job(target) WHERE died IS NOT NULL;"
    "CREATE INDEX ordered_of_target ON job(target) WHERE state = 2;"
    "CREATE TABLE receipt(key TEXT NOT NULL, owner TEXT NOT NULL, value TEXT NOT NULL, expires INTEGER NOT NULL,"
    " PRIMARY KEY(key, owner)) WITHOUT ROWID;"
    "CREATE INDEX receipt_expires ON receipt(expires);"
    "CREATE TABLE attempt(id INTEGER PRIMARY KEY, time INTEGER NOT NULL, job INTEGER NOT NULL, owner TEXT NOT NULL,"
    " type TEXT NOT NULL, target TEXT NOT NULL, endpoint TEXT, name TEXT, attempt INTEGER NOT NULL, outcome INTEGER NOT"
    " NULL, status INTEGER, elapsed INTEGER, error TEXT, answer BLOB);"
    "CREATE TABLE sweep(id INTEGER PRIMARY KEY, action INTEGER NOT NULL, state INTEGER NOT NULL, created INTEGER NOT"
    " NULL, ended INTEGER NOT NULL, per_s INTEGER NOT NULL, owner TEXT, type TEXT, target TEXT, error TEXT, since "
    "INTEGER"
    " NOT NULL, until INTEGER NOT NULL, total INTEGER NOT NULL, at_died INTEGER NOT NULL, at_id INTEGER NOT NULL, seen"
    " INTEGER NOT NULL, done INTEGER NOT NULL);";

const char *const queue_migrations[] = {v1, v2};
const size_t queue_n_migrations = ARRAY_LEN(queue_migrations);

const char *const queue_statements[QS_STATEMENTS] = {
    [QS_JOB_INSERT] =
        "INSERT INTO job(id, target, state, attempt, lost, not_before, wall, created, type, name, payload)"
        " VALUES(?1, ?2, ?9, 0, 0, ?3, ?4, ?5, ?6, ?7, ?8)",
    [QS_LARGE_INSERT] = "INSERT INTO large(id, payload) VALUES(?1, ?2)",
    [QS_LARGE_DELETE] = "DELETE FROM large WHERE id = ?1",
    [QS_LARGE_GET] = "SELECT payload FROM large WHERE id = ?1",
    [QS_JOB_DELETE] = "DELETE FROM job WHERE id = ?1",
    [QS_JOB_RETRY] =
        "UPDATE job SET attempt = ?2, lost = ?3, not_before = ?4, wall = 0, last_error = ifnull(?5, last_error)"
        " WHERE id = ?1",
    [QS_JOB_DEAD] =
        "UPDATE job SET state = state | 1, attempt = ?2, died = ?3, last_error = ifnull(?4, last_error) WHERE id = ?1",
    /* From the index alone; then the row. */
    [QS_JOB_DUE] = "SELECT id, not_before FROM job WHERE state = 0 AND target = ?1 ORDER BY not_before, id LIMIT ?2",
    [QS_JOB_HEAD] = "SELECT id, not_before FROM job WHERE state = 2 AND target = ?1 ORDER BY id LIMIT 1",
    [QS_JOB_GET] = "SELECT attempt, lost, created, wall, type, name, payload FROM job WHERE id = ?1",
    [QS_JOBS_SHIFT] = "UPDATE job SET not_before = not_before + ?1 WHERE died IS NULL AND wall = 0 AND not_before > ?2",
#define PAYLOAD_BYTES "CASE typeof(j.payload) WHEN 'integer' THEN j.payload ELSE length(j.payload) END"
    [QS_DEAD_OLDEST] =
        "SELECT j.id, t.owner, j.name, j.died, " PAYLOAD_BYTES " FROM job j JOIN target t ON t.id = j.target"
        " WHERE j.died IS NOT NULL ORDER BY j.died LIMIT ?1",
#define DEAD_ROW                                                                            \
    "SELECT j.id, j.died, j.state, j.attempt, j.created, t.owner, j.type, j.name, t.name, " \
    "j.last_error, " PAYLOAD_BYTES
    /* From the oldest, and from the newest: by dead_jobs. */
    [QS_DEAD_UP] = DEAD_ROW " FROM job j CROSS JOIN target t ON t.id = j.target"
                            " WHERE j.died IS NOT NULL AND (j.died, j.id) > (?1, ?2) ORDER BY j.died, j.id LIMIT ?3",
    [QS_DEAD_DOWN] = DEAD_ROW " FROM job j CROSS JOIN target t ON t.id = j.target WHERE j.died IS NOT NULL"
                              " AND (j.died, j.id) < (?1, ?2) ORDER BY j.died DESC, j.id DESC LIMIT ?3",
    [QS_DEAD_GET] = DEAD_ROW ", ifnull((SELECT payload FROM large WHERE id = j.id), j.payload)"
                             " FROM job j CROSS JOIN target t ON t.id = j.target"
                             " WHERE j.died IS NOT NULL AND j.id = ?1",
    [QS_DEAD_REVIVE] = "UPDATE job SET state = state & 2, attempt = 0, lost = 0, not_before = ?2, wall = 0, died = NULL"
                       " WHERE id = ?1 AND died IS NOT NULL",
    [QS_SWEEP_INSERT] =
        "INSERT INTO sweep(action, state, created, ended, per_s, owner, type, target, error, since, until, total,"
        " at_died, at_id, seen, done) VALUES(?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 0, 0, 0)",
    [QS_SWEEP_SAVE] = "UPDATE sweep SET state = ?2, ended = ?3, at_died = ?4, at_id = ?5, seen = ?6, done = ?7"
                      " WHERE id = ?1",
    [QS_SWEEP_STATE] = "SELECT state FROM sweep WHERE id = ?1",
    [QS_SWEEP_CANCEL] = "UPDATE sweep SET state = 2, ended = ?2 WHERE id = ?1 AND state = 0",
    [QS_SWEEPS] = "SELECT id, action, state, created, ended, per_s, owner, type, target, error, since, until, total,"
                  " at_died, at_id, seen, done FROM sweep ORDER BY id DESC",
    [QS_SWEEPS_PURGE] = "DELETE FROM sweep WHERE state <> 0 AND id <= (SELECT max(id) FROM sweep) - ?1",
    [QS_ATTEMPTS_DOWN] =
        "SELECT id, time, job, owner, type, target, endpoint, name, attempt, outcome, status, elapsed, error, answer"
        " FROM attempt WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
    [QS_LEASE_INSERT] = "INSERT OR REPLACE INTO lease(id, generation, until) VALUES(?1, ?2, ?3)",
    [QS_LEASE_DELETE] = "DELETE FROM lease WHERE id = ?1",
    [QS_TARGET_GET] = "SELECT id, rate FROM target WHERE owner = ?1 AND name = ?2",
    [QS_TARGETS_PURGE] =
        "DELETE FROM target WHERE NOT EXISTS (SELECT 1 FROM job WHERE job.target = target.id AND state = 0)"
        " AND NOT EXISTS (SELECT 1 FROM job WHERE job.target = target.id AND state = 2)"
        " AND NOT EXISTS (SELECT 1 FROM job WHERE job.target = target.id AND died IS NOT NULL)",
    [QS_TARGET_INSERT] = "INSERT INTO target(id, owner, name, rate) VALUES(?1, ?2, ?3, ?4)"
                         " ON CONFLICT DO UPDATE SET rate = excluded.rate",
    [QS_TARGET_RATE] = "UPDATE target SET rate = ?2 WHERE id = ?1",
    [QS_NAME_GET] = "SELECT id, expires FROM name WHERE name = ?1 AND owner = ?2",
    [QS_NAME_INSERT] = "INSERT OR REPLACE INTO name(name, owner, id, expires) VALUES(?1, ?2, ?3, NULL)",
    [QS_NAME_KEEP] = "UPDATE name SET expires = ?3 WHERE name = ?1 AND owner = ?2",
    [QS_NAME_DROP] = "DELETE FROM name WHERE name = ?1 AND owner = ?2",
    [QS_NAMES_PURGE] =
        "DELETE FROM name WHERE (name, owner) IN"
        " (SELECT name, owner FROM name WHERE expires IS NOT NULL AND expires <= ?1 ORDER BY expires LIMIT ?2)",
    [QS_NAMES_EVICT] = "DELETE FROM name WHERE (name, owner) IN"
                       " (SELECT name, owner FROM name WHERE expires IS NOT NULL ORDER BY expires LIMIT ?1)",
    [QS_RECEIPT_GET] = "SELECT value, expires FROM receipt WHERE key = ?1 AND owner = ?2",
    [QS_RECEIPT_INSERT] = "INSERT OR REPLACE INTO receipt(key, owner, value, expires) VALUES(?1, ?2, ?3, ?4)",
    [QS_RECEIPTS_PURGE] = "DELETE FROM receipt WHERE (key, owner) IN"
                          " (SELECT key, owner FROM receipt WHERE expires <= ?1 ORDER BY expires LIMIT ?2)",
    [QS_RECEIPTS_EVICT] = "DELETE FROM receipt WHERE (key, owner) IN"
                          " (SELECT key, owner FROM receipt ORDER BY expires LIMIT ?1)",
    [QS_ATTEMPT_INSERT] =
        "INSERT INTO attempt(time, job, owner, type, target, endpoint, name, attempt, outcome, status, elapsed, error,"
        " answer) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    [QS_ATTEMPTS_PURGE] = "DELETE FROM attempt WHERE id < ?1 AND (id <= ?2 OR time < ?3)",
    [QS_META_SET] = "INSERT OR REPLACE INTO meta(key, value) VALUES(?1, ?2)",
};
