#include "lane/queue/queue_int.h"

/* Version 1. state: 0 ready, 1 dead. `wall`: not_before is a time of the wall clock that the caller named (else it is a
 * delay of ours, and moves along when the clock is set). due_of_target is all that a claim reads. */
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

const char *const queue_migrations[] = {v1};
const size_t queue_n_migrations = ARRAY_LEN(queue_migrations);

const char *const queue_statements[QS_STATEMENTS] = {
    [QS_JOB_INSERT] =
        "INSERT INTO job(id, target, state, attempt, lost, not_before, wall, created, type, name, payload)"
        " VALUES(?1, ?2, 0, 0, 0, ?3, ?4, ?5, ?6, ?7, ?8)",
    [QS_JOB_DELETE] = "DELETE FROM job WHERE id = ?1",
    [QS_JOB_RETRY] =
        "UPDATE job SET attempt = ?2, lost = ?3, not_before = ?4, wall = 0, last_error = ifnull(?5, last_error)"
        " WHERE id = ?1",
    [QS_JOB_DEAD] =
        "UPDATE job SET state = 1, attempt = ?2, died = ?3, last_error = ifnull(?4, last_error) WHERE id = ?1",
    /* From the index alone; then the row. */
    [QS_JOB_DUE] = "SELECT id, not_before FROM job WHERE state = 0 AND target = ?1 ORDER BY not_before, id LIMIT ?2",
    [QS_JOB_GET] = "SELECT attempt, lost, created, wall, type, name, payload FROM job WHERE id = ?1",
    [QS_JOBS_SHIFT] = "UPDATE job SET not_before = not_before + ?1 WHERE state = 0 AND wall = 0 AND not_before > ?2",
    [QS_DEAD_OLDEST] = "SELECT j.id, t.owner, j.name, length(j.payload) FROM job j JOIN target t ON t.id = j.target"
                       " WHERE j.state = 1 ORDER BY j.died LIMIT ?1",
    [QS_LEASE_INSERT] = "INSERT OR REPLACE INTO lease(id, generation, until) VALUES(?1, ?2, ?3)",
    [QS_LEASE_DELETE] = "DELETE FROM lease WHERE id = ?1",
    [QS_TARGET_GET] = "SELECT id FROM target WHERE owner = ?1 AND name = ?2",
    [QS_TARGETS_PURGE] =
        "DELETE FROM target WHERE NOT EXISTS (SELECT 1 FROM job WHERE job.target = target.id AND state = 0)"
        " AND NOT EXISTS (SELECT 1 FROM job WHERE job.target = target.id AND state = 1)",
    [QS_TARGET_INSERT] = "INSERT OR IGNORE INTO target(id, owner, name) VALUES(?1, ?2, ?3)",
    [QS_NAME_GET] = "SELECT id, expires FROM name WHERE name = ?1 AND owner = ?2",
    [QS_NAME_INSERT] = "INSERT OR REPLACE INTO name(name, owner, id, expires) VALUES(?1, ?2, ?3, NULL)",
    [QS_NAME_KEEP] = "UPDATE name SET expires = ?3 WHERE name = ?1 AND owner = ?2",
    [QS_NAME_DROP] = "DELETE FROM name WHERE name = ?1 AND owner = ?2",
    [QS_NAMES_PURGE] =
        "DELETE FROM name WHERE (name, owner) IN"
        " (SELECT name, owner FROM name WHERE expires IS NOT NULL AND expires <= ?1 ORDER BY expires LIMIT ?2)",
    [QS_NAMES_EVICT] = "DELETE FROM name WHERE (name, owner) IN"
                       " (SELECT name, owner FROM name WHERE expires IS NOT NULL ORDER BY expires LIMIT ?1)",
    [QS_META_SET] = "INSERT OR REPLACE INTO meta(key, value) VALUES(?1, ?2)",
};
