/* What goes on beside the jobs: names that have expired, dead jobs beyond the bound, pages to give back, and a wall
 * clock that is set. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/log.h"
#include "lane/queue/queue_int.h"

#define PURGE_ROWS 2000  /* per transaction: short enough to wait for */
#define DEAD_ROWS 200    /* with payloads up to 1 MiB */
#define PURGE_PAGES 256  /* 1 MiB */
#define SPARE_PAGES 2000 /* 8 MiB are not worth the work */
#define STR_(x) #x
#define STR(x) STR_(x)
#define TARGETS_FREED_MAX 10000
#define JUMP_MS 1000 /* below it, the clock is being slewed */

/* ---------------------------------------------------------------- the wall clock */

/* By how much the wall clock is ahead. Who is held up between two looks must not take that for a clock being set. */
static int64_t wall_ahead(const struct queue *q)
{
    int64_t before = queue_mono(q), wall = q->c.now(), after = queue_mono(q);
    for (int i = 0; i < 10 && after - before > JUMP_MS / 4; i++) {
        before = after;
        wall = q->c.now();
        after = queue_mono(q);
    }
    return wall - after;
}

void queue_clock_check(struct queue *q)
{
    uint64_t ticks;
    if (q->clock_fd >= 0) {
        /* ECANCELED says that the clock was set; the drift says by how much. */
        ssize_t n = read(q->clock_fd, &ticks, sizeof(ticks));
        if (n < 0) {
            struct itimerspec far = {.it_value.tv_sec = INT32_MAX};
            timerfd_settime(q->clock_fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &far, NULL);
        }
    }
    int64_t drift = wall_ahead(q), jump = drift - q->drift;
    q->drift = drift;
    if (jump > -JUMP_MS && jump < JUMP_MS)
        return;
    log_notice("queue", "the wall clock was set", LI("by_ms", jump));
    q->shift += jump;
    queue_targets_update_all(q);
}

/* ---------------------------------------------------------------- upkeep */

struct upkeep_op {
    struct db_op op;
    uint64_t dead_bytes;
    int64_t shift, dead_removed, names_kept, names_purged, names_evicted, receipts_purged, receipts_evicted;
    bool more, targets;
};

/* Delays of ours last as long as they were meant to, whatever the clock says; only rows that were not due by either
 * clock move. */
static bool shift_delays(struct queue *q, struct upkeep_op *u)
{
    u->shift = q->shift;
    if (u->shift == 0)
        return true;
    int64_t now = queue_wall(q), before = now - u->shift;
    sqlite3_stmt *st = db_stmt(q->db, QS_JOBS_SHIFT);
    sqlite3_bind_int64(st, 1, u->shift);
    sqlite3_bind_int64(st, 2, queue_min(now, before));
    q->txn_shift = 0;
    return db_run(q->db, st);
}

/* Those that have expired, then the oldest beyond the bound. `count` is what there is of the kind. */
static bool purge_kind(struct queue *q, struct upkeep_op *u, enum queue_stmt purge, enum queue_stmt evict,
                       uint64_t count, int64_t *purged, int64_t *evicted)
{
    sqlite3_stmt *st = db_stmt(q->db, purge);
    sqlite3_bind_int64(st, 1, queue_wall(q));
    sqlite3_bind_int64(st, 2, PURGE_ROWS);
    if (!db_run(q->db, st))
        return false;
    *purged = db_changes(q->db);
    u->more = u->more || *purged == PURGE_ROWS;
    int64_t over = (int64_t)count - *purged - (int64_t)q->c.max_jobs;
    if (over <= 0)
        return true;
    st = db_stmt(q->db, evict);
    sqlite3_bind_int64(st, 1, queue_min(over, PURGE_ROWS));
    if (!db_run(q->db, st))
        return false;
    *evicted = db_changes(q->db);
    u->more = u->more || over > PURGE_ROWS;
    return true;
}

static bool purge_names(struct queue *q, struct upkeep_op *u)
{
    return purge_kind(q, u, QS_NAMES_PURGE, QS_NAMES_EVICT, atomic_load(&q->names), &u->names_purged,
                      &u->names_evicted) &&
           purge_kind(q, u, QS_RECEIPTS_PURGE, QS_RECEIPTS_EVICT, atomic_load(&q->receipts), &u->receipts_purged,
                      &u->receipts_evicted);
}

/* Dead letters never keep live jobs out: they have bounds of their own, and the oldest go first. */
static bool evict_dead(struct queue *q, struct upkeep_op *u)
{
    uint64_t dead = atomic_load(&q->dead), over = dead > q->c.dead && q->c.dead > 0 ? dead - q->c.dead : 0;
    uint64_t bytes = atomic_load(&q->dead_bytes), max = q->c.max_bytes;
    uint64_t over_bytes = max > 0 && bytes > max ? bytes - max : 0;
    int64_t old = q->c.dead_keep_ms > 0 ? queue_wall(q) - q->c.dead_keep_ms : INT64_MIN;
    int r;
    sqlite3_stmt *st = db_stmt(q->db, QS_DEAD_OLDEST);
    sqlite3_bind_int64(st, 1, DEAD_ROWS);
    while ((r = db_step(q->db, st)) > 0) {
        const char *name = db_col_str(st, 2);
        uint64_t size = (uint64_t)sqlite3_column_int64(st, 4);
        if ((uint64_t)u->dead_removed >= over && u->dead_bytes >= over_bytes && sqlite3_column_int64(st, 3) > old)
            break;
        if (!queue_dead_remove(q, sqlite3_column_int64(st, 0), db_col_str(st, 1), name))
            return false;
        u->dead_removed++;
        u->dead_bytes += size;
        u->names_kept += name != NULL && q->c.name_keep_ms > 0;
    }
    u->more = u->more || u->dead_removed == DEAD_ROWS;
    return r >= 0;
}

/* In small steps: each holds the writer for some milliseconds at most. */
static bool give_back_pages(struct queue *q, struct upkeep_op *u)
{
    int64_t unused = db_int(q->db, "PRAGMA freelist_count", 0), all = db_int(q->db, "PRAGMA page_count", 0);
    /* Some room is kept: a queue that fills and empties should not shrink and grow its file all day. */
    if (unused < SPARE_PAGES || unused < all / 4)
        return true;
    u->more = true;
    return db_exec(q->db, "PRAGMA incremental_vacuum(" STR(PURGE_PAGES) ")");
}

static bool purge_targets(struct queue *q)
{
    size_t pos = 0;
    void *value;
    /* Those that rest in memory may lose their row with it. */
    while (map_next(q->targets, &pos, NULL, &value)) {
        struct queue_target *t = value;
        if (t->ready == 0 && t->ordered == 0 && t->leased == 0)
            t->on_disk = false;
    }
    return db_run(q->db, db_stmt(q->db, QS_TARGETS_PURGE));
}

static int upkeep_run(void *ctx, struct db_op *op)
{
    struct queue *q = ctx;
    struct upkeep_op *u = container_of(op, struct upkeep_op, op);
    u->more = false;
    u->dead_removed = u->names_kept = u->names_purged = u->names_evicted = 0;
    u->receipts_purged = u->receipts_evicted = 0;
    u->dead_bytes = 0;
    u->targets = q->targets_freed >= TARGETS_FREED_MAX;
    if (!shift_delays(q, u) || !purge_names(q, u) || !queue_attempts_purge(q, PURGE_ROWS, &u->more) ||
        !evict_dead(q, u) || !give_back_pages(q, u))
        return OMID_ERR;
    return !u->targets || purge_targets(q) ? OMID_OK : OMID_ERR;
}

static void upkeep_done(void *ctx, struct db_op *op, int result)
{
    struct queue *q = ctx;
    struct upkeep_op *u = container_of(op, struct upkeep_op, op);
    q->upkeep_under_way = false;
    q->upkeep_more = result == OMID_OK && u->more;
    q->purge_at = queue_mono(q) + (q->upkeep_more ? QUEUE_PURGE_STEP_MS : QUEUE_PURGE_MS);
    if (result != OMID_OK) {
        q->retry_at = queue_mono(q) + QUEUE_DISK_RETRY_MS;
    } else {
        atomic_fetch_sub(&q->dead, (uint64_t)u->dead_removed);
        atomic_fetch_sub(&q->dead_bytes, u->dead_bytes);
        atomic_fetch_add(&q->evicted_dead, (uint64_t)u->dead_removed);
        atomic_fetch_add(&q->names, (uint64_t)u->names_kept);
        atomic_fetch_sub(&q->names, (uint64_t)(u->names_purged + u->names_evicted));
        atomic_fetch_add(&q->evicted_names, (uint64_t)u->names_evicted);
        atomic_fetch_sub(&q->receipts, (uint64_t)(u->receipts_purged + u->receipts_evicted));
        atomic_fetch_add(&q->evicted_receipts, (uint64_t)u->receipts_evicted);
        if (u->targets)
            q->targets_freed = 0;
        if (u->dead_removed > 0)
            log_warning("queue", "dead jobs beyond the bound dropped", LI("jobs", u->dead_removed));
        if (u->shift != 0) {
            size_t pos = 0;
            const char *key;
            void *value;
            q->shift -= u->shift;
            /* What is due first has moved for some: looking again corrects it. */
            while (map_next(q->targets, &pos, &key, &value)) {
                struct queue_target *t = value;
                if (t->ready > 0)
                    t->next_due = queue_min(t->next_due, queue_wall(q));
                if (t->ordered > 0)
                    t->head_due = queue_min(t->head_due, queue_wall(q));
            }
            queue_targets_update_all(q);
        }
    }
    free(u);
}

/* A while after other work: an idle queue has nothing to clean, and is not woken for it. */
struct db_op *queue_upkeep_prepare(struct queue *q)
{
    if (q->upkeep_under_way || (q->shift == 0 && queue_mono(q) < q->purge_at && q->attempts_new < QUEUE_ATTEMPTS_SLACK))
        return NULL;
    struct upkeep_op *u = calloc(1, sizeof(*u));
    if (u == NULL)
        return NULL;
    q->upkeep_under_way = true;
    q->upkeep_due = false;
    u->op.run = upkeep_run;
    u->op.done = upkeep_done;
    return &u->op;
}
