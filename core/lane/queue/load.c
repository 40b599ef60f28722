/* The state in memory from the file, at the start. */
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "lane/queue/queue_int.h"

/* What a former process had in hand: an attempt was made, its end is unknown. */
static bool free_leases(struct queue *q)
{
    char sql[512];
    int64_t n = db_int(q->db, "SELECT count(*) FROM lease", -1);
    if (n < 0)
        return false;
    if (n == 0)
        return true;
    snprintf(
        sql, sizeof(sql),
        "UPDATE job SET attempt = attempt + 1, lost = lost + 1 WHERE died IS NULL AND id IN (SELECT id FROM lease);"
        "UPDATE job SET state = state | 1, died = %lld, last_error = 'the daemon ended during the attempt'"
        " WHERE died IS NULL AND id IN (SELECT id FROM lease) AND attempt - min(lost, %d) > %zu;"
        "DELETE FROM lease",
        (long long)queue_wall(q), QUEUE_LOST_GRACE, q->c.n_retry);
    log_info("queue", "leases of a former process freed", LI("jobs", n));
    return db_exec(q->db, sql);
}

/* The wall clock may have been wrong when these were written, or is it now: no delay of our own can be longer than
 * the longest of the schedule, and a first attempt has none. Times that a caller named stay. */
static bool clamp_delays(struct queue *q)
{
    char sql[256];
    double longest = 0;
    int64_t now = queue_wall(q);
    for (size_t i = 0; i < q->c.n_retry; i++)
        longest = q->retry_ms[i] > longest ? q->retry_ms[i] : longest;
    int64_t most = now + (int64_t)(longest * (2 + q->c.jitter)) + 1000;
    snprintf(sql, sizeof(sql),
             "UPDATE job SET not_before = %lld WHERE died IS NULL AND not_before > %lld AND wall = 0"
             " AND (attempt = 0 OR not_before > %lld)",
             (long long)now, (long long)now, (long long)most);
    return db_exec(q->db, sql);
}

static struct queue_target *target_of_row(struct queue *q, sqlite3_stmt *st)
{
    const char *owner = db_col_str(st, 1), *name = db_col_str(st, 2);
    struct queue_target *t = queue_target_find(q, owner, name);
    if (t == NULL)
        t = queue_target_add(q, sqlite3_column_int64(st, 0), owner, name);
    if (t == NULL) {
        db_set_error(q->db, "no memory");
        return NULL;
    }
    t->on_disk = true;
    /* Nobody knows what a former process has sent just now: the bucket begins empty. */
    queue_rate_set(&t->rate, (uint32_t)sqlite3_column_int64(st, 3), 0, queue_mono(q));
    return t;
}

/* One walk over an index: how many are ready of each target. */
static bool load_ready(struct queue *q, const char *sql, bool ordered, uint64_t *total)
{
    sqlite3_stmt *st = NULL;
    int r = -1;
    if (!db_prepare(q->db, sql, &st))
        return false;
    while ((r = db_step(q->db, st)) > 0) {
        struct queue_target *t = target_of_row(q, st);
        if (t == NULL) {
            r = -1;
            break;
        }
        uint64_t n = (uint64_t)sqlite3_column_int64(st, 4);
        *(ordered ? &t->ordered : &t->ready) = n;
        *(ordered ? &t->head_due : &t->next_due) = sqlite3_column_int64(st, 5);
        *total += n;
        queue_target_update(q, t);
    }
    sqlite3_finalize(st);
    return r == 0;
}

static bool load_targets(struct queue *q)
{
    static const char ready[] =
        "SELECT t.id, t.owner, t.name, t.rate, j.n, j.due FROM (SELECT target, count(*) AS n, min(not_before) AS due"
        " FROM job WHERE state = 0 GROUP BY target) j JOIN target t ON t.id = j.target";
    /* When its first is due a claim will find out. */
    static const char ordered[] = "SELECT t.id, t.owner, t.name, t.rate, j.n, 0 FROM (SELECT target, count(*) AS n"
                                  " FROM job WHERE state = 2 GROUP BY target) j JOIN target t ON t.id = j.target";
    uint64_t total = 0;
    if (!load_ready(q, ready, false, &total) || !load_ready(q, ordered, true, &total))
        return false;
    atomic_store(&q->waiting, total);
    return true;
}

/* What each target's jobs hold, and dead letters: one walk over the rows in their order on disk. */
static bool load_bytes(struct queue *q)
{
    static const char sql[] =
        "SELECT t.owner, t.name, j.live, j.dead FROM (SELECT target, total(iif(died IS NULL, bytes, 0)) AS live,"
        " total(iif(died IS NULL, 0, bytes)) AS dead FROM (SELECT target, died, CASE typeof(payload) WHEN 'integer' "
        "THEN"
        " payload ELSE length(payload) END AS bytes FROM job NOT INDEXED) GROUP BY target) j"
        " LEFT JOIN target t ON t.id = j.target";
    uint64_t live = 0, dead = 0;
    sqlite3_stmt *st = NULL;
    int r;
    if (!db_prepare(q->db, sql, &st))
        return false;
    while ((r = db_step(q->db, st)) > 0) {
        const char *owner = db_col_str(st, 0), *name = db_col_str(st, 1);
        struct queue_target *t = owner && name ? queue_target_find(q, owner, name) : NULL;
        uint64_t bytes = (uint64_t)sqlite3_column_int64(st, 2);
        if (t != NULL)
            t->bytes = bytes;
        live += bytes;
        dead += (uint64_t)sqlite3_column_int64(st, 3);
    }
    sqlite3_finalize(st);
    atomic_store(&q->bytes, live);
    atomic_store(&q->dead_bytes, dead);
    return r == 0;
}

static bool load_counts(struct queue *q)
{
    struct {
        const char *sql;
        atomic_uint_fast64_t *to;
    } counts[] = {
        {"SELECT count(*) FROM job WHERE died IS NULL AND (attempt > 0 OR wall = 1)", &q->delayed},
        {"SELECT count(*) FROM job WHERE died IS NOT NULL", &q->dead},
        {"SELECT count(*) FROM name WHERE expires IS NOT NULL", &q->names},
        {"SELECT count(*) FROM receipt", &q->receipts},
    };
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        int64_t n = db_int(q->db, counts[i].sql, -1);
        if (n < 0)
            return false;
        atomic_store(counts[i].to, (uint64_t)n);
    }
    q->next_target = db_int(q->db, "SELECT ifnull(max(id), 0) + 1 FROM target", -1);
    q->next_id = db_int(q->db,
                        "SELECT max(ifnull((SELECT value FROM meta WHERE key = 'next_id'), 1),"
                        " ifnull((SELECT max(id) + 1 FROM job), 1))",
                        -1);
    q->reserved_id = q->next_id;
    return q->next_target > 0 && q->next_id > 0;
}

bool queue_load(struct queue *q)
{
    uint64_t began = clock_mono_ms();
    if (!db_begin(q->db))
        return false;
    if (!free_leases(q) || !clamp_delays(q) || !db_run(q->db, db_stmt(q->db, QS_TARGETS_PURGE))) {
        db_rollback(q->db);
        return false;
    }
    if (!db_commit(q->db) || !load_targets(q) || !load_bytes(q) || !load_counts(q) || !queue_sweeps_load(q))
        return false;
    log_info("queue", "open", LS("file", q->path), LU("jobs", atomic_load(&q->waiting)),
             LU("dead", atomic_load(&q->dead)), LU("ms", clock_mono_ms() - began));
    return true;
}
