/* Replays and drops of many dead letters: a work of its own, in steps, that survives a restart. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lane/queue/sweep.h"

#define STEP_ROWS 500 /* looked at in one transaction */
#define STEP_MS 100   /* between two of them */
#define FULL_MS 1000  /* until the next look when the queue has no room */

void queue_sweep_free(struct sweep *w)
{
    list_remove(&w->link);
    free(w->text);
    free(w);
}

void queue_sweeps_free(struct queue *q)
{
    struct list *it;
    while ((it = list_pop(&q->sweeps)) != NULL)
        queue_sweep_free(list_entry(it, struct sweep, link));
}

static size_t len_of(const char *s)
{
    return s != NULL ? strlen(s) + 1 : 0;
}

static const char *put(char **at, const char *s)
{
    if (s == NULL)
        return NULL;
    char *to = *at;
    *at = stpcpy(to, s) + 1;
    return to;
}

bool queue_filter_copy(struct queue_filter *to, const struct queue_filter *from, char **text)
{
    char *at = malloc(len_of(from->owner) + len_of(from->type) + len_of(from->target) + len_of(from->error) + 1);
    *text = at;
    if (at == NULL)
        return false;
    *to = *from;
    to->owner = put(&at, from->owner);
    to->type = put(&at, from->type);
    to->target = put(&at, from->target);
    to->error = put(&at, from->error);
    return true;
}

/* ---------------------------------------------------------------- rows */

void queue_sweep_read(sqlite3_stmt *st, struct queue_sweep *s)
{
    *s = (struct queue_sweep){
        .id = (uint64_t)sqlite3_column_int64(st, 0),
        .action = sqlite3_column_int(st, 1) == QUEUE_DROP ? QUEUE_DROP : QUEUE_REPLAY,
        .state = (enum queue_sweep_state)sqlite3_column_int(st, 2),
        .created_ms = sqlite3_column_int64(st, 3),
        .ended_ms = sqlite3_column_int64(st, 4),
        .per_s = (uint32_t)sqlite3_column_int64(st, 5),
        .filter = {.owner = db_col_str(st, 6),
                   .type = db_col_str(st, 7),
                   .target = db_col_str(st, 8),
                   .error = db_col_str(st, 9),
                   .from_ms = sqlite3_column_int64(st, 10),
                   .to_ms = sqlite3_column_int64(st, 11)},
        .total = (uint64_t)sqlite3_column_int64(st, 12),
        .seen = (uint64_t)sqlite3_column_int64(st, 15),
        .done = (uint64_t)sqlite3_column_int64(st, 16),
    };
}

struct sweep *queue_sweep_add(struct queue *q, const struct queue_sweep *s, int64_t at_died, int64_t at_id)
{
    struct sweep *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return NULL;
    w->s = *s;
    list_init(&w->link);
    if (!queue_filter_copy(&w->s.filter, &s->filter, &w->text)) {
        free(w);
        return NULL;
    }
    w->at_died = at_died;
    w->at_id = at_id;
    w->next_at = queue_mono(q);
    list_append(&q->sweeps, &w->link);
    return w;
}

bool queue_sweeps_load(struct queue *q)
{
    struct queue_sweep s;
    int r;
    sqlite3_stmt *st = db_stmt(q->db, QS_SWEEPS);
    while ((r = db_step(q->db, st)) > 0) {
        queue_sweep_read(st, &s);
        if (s.state != QUEUE_SWEEP_RUNNING)
            continue;
        if (queue_sweep_add(q, &s, sqlite3_column_int64(st, 13), sqlite3_column_int64(st, 14)) == NULL) {
            sqlite3_reset(st);
            db_set_error(q->db, "no memory");
            return false;
        }
        log_info("queue", "a replay or drop of many goes on", LU("id", s.id), LU("done", s.done));
    }
    return r == 0;
}

static bool row_save(struct queue *q, const struct queue_sweep *s, int64_t at_died, int64_t at_id)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_SWEEP_SAVE);
    sqlite3_bind_int64(st, 1, (int64_t)s->id);
    sqlite3_bind_int(st, 2, (int)s->state);
    sqlite3_bind_int64(st, 3, s->ended_ms);
    sqlite3_bind_int64(st, 4, at_died);
    sqlite3_bind_int64(st, 5, at_id);
    sqlite3_bind_int64(st, 6, (int64_t)s->seen);
    sqlite3_bind_int64(st, 7, (int64_t)s->done);
    return db_run(q->db, st);
}

/* ---------------------------------------------------------------- a step */

struct step_op {
    struct db_op op;
    struct sweep *w;
    struct queue_sweep s; /* as it will be */
    int64_t at_died, at_id;
    bool full;
    size_t budget; /* how many may be done now */
    size_t n;      /* revivals to end */
    struct queue_revival revival[STEP_ROWS];
};

static void step_undo(struct queue *q, struct step_op *o)
{
    while (o->n > 0)
        queue_revival_end(q, &o->revival[--o->n], false);
}

/* OMID_OK: it is done, or does not match. */
static int step_one(struct queue *q, struct step_op *o, const struct queue_dead *d)
{
    int r = OMID_OK;
    if (queue_dead_matches(d, &o->s.filter)) {
        struct queue_revival *to = &o->revival[o->n];
        if (o->s.action == QUEUE_REPLAY)
            r = queue_revival_bring(q, d, to);
        else
            r = queue_revival_drop(q, d, to) ? OMID_OK : OMID_ERR;
        if (r != OMID_OK)
            return r;
        o->n++;
        o->s.done++;
    }
    o->s.seen++;
    o->at_died = d->died_ms;
    o->at_id = (int64_t)d->id;
    return r;
}

/* In the same transaction before this step it may have been cancelled. -1: not known. */
static int state_now(struct queue *q, uint64_t id)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_SWEEP_STATE);
    sqlite3_bind_int64(st, 1, (int64_t)id);
    int r = db_step(q->db, st);
    int state = r > 0 ? sqlite3_column_int(st, 0) : r == 0 ? (int)QUEUE_SWEEP_CANCELLED : -1;
    sqlite3_reset(st);
    return state;
}

/* Each row leaves the index that is walked while the walk stands on it: SQLite goes on with the next one. */
static int step_run(void *ctx, struct db_op *op)
{
    struct queue *q = ctx;
    struct step_op *o = container_of(op, struct step_op, op);
    struct queue_dead d;
    int r, rc = OMID_OK;
    size_t rows = 0;
    bool past = false;
    step_undo(q, o);
    o->s = o->w->s;
    o->at_died = o->w->at_died;
    o->at_id = o->w->at_id;
    int state = state_now(q, o->s.id);
    if (state != (int)QUEUE_SWEEP_RUNNING)
        return state < 0 ? OMID_ERR : OMID_OK;
    sqlite3_stmt *st = db_stmt(q->db, QS_DEAD_UP);
    sqlite3_bind_int64(st, 1, o->at_died);
    sqlite3_bind_int64(st, 2, o->at_id);
    sqlite3_bind_int64(st, 3, STEP_ROWS);
    while (o->n < o->budget && (r = db_step(q->db, st)) != 0) {
        if (r < 0)
            return OMID_ERR;
        queue_dead_read(st, &d);
        rows++;
        past = d.died_ms >= o->s.filter.to_ms;
        rc = past ? OMID_OK : step_one(q, o, &d);
        if (past || rc != OMID_OK)
            break;
    }
    sqlite3_reset(st);
    if (rc == OMID_ERR)
        return OMID_ERR;
    o->full = rc == OMID_EFULL;
    if (past || (rc == OMID_OK && o->n < o->budget && rows < STEP_ROWS)) {
        o->s.state = QUEUE_SWEEP_DONE;
        o->s.ended_ms = queue_wall(q);
    }
    return row_save(q, &o->s, o->at_died, o->at_id) ? OMID_OK : OMID_ERR;
}

static void step_done(void *ctx, struct db_op *op, int result)
{
    struct queue *q = ctx;
    struct step_op *o = container_of(op, struct step_op, op);
    struct sweep *w = o->w;
    q->sweep_under_way = false;
    w->stepping = false;
    if (w->s.state != QUEUE_SWEEP_RUNNING) { /* cancelled: the step came behind it, and has done nothing */
        step_undo(q, o);
        queue_sweep_free(w);
        free(o);
        return;
    }
    if (result != OMID_OK) {
        step_undo(q, o);
        w->next_at = queue_mono(q) + QUEUE_DISK_RETRY_MS;
        free(o);
        return;
    }
    for (size_t i = 0; i < o->n; i++)
        queue_revival_end(q, &o->revival[i], true);
    w->s.state = o->s.state;
    w->s.ended_ms = o->s.ended_ms;
    w->s.seen = o->s.seen;
    w->s.done = o->s.done;
    w->at_died = o->at_died;
    w->at_id = o->at_id;
    /* What did not match costs nothing of the rate. */
    int64_t pause = w->s.per_s > 0 ? (int64_t)o->n * 1000 / w->s.per_s : 0;
    if (pause == 0 && w->s.per_s == 0 && o->n > 0)
        pause = QUEUE_PURGE_STEP_MS;
    w->next_at = queue_mono(q) + (o->full ? FULL_MS : pause);
    if (w->s.state != QUEUE_SWEEP_RUNNING) {
        log_notice("queue", w->s.action == QUEUE_REPLAY ? "a replay has ended" : "a drop has ended", LU("id", w->s.id),
                   LU("done", w->s.done), LU("seen", w->s.seen));
        queue_sweep_free(w);
    }
    free(o);
}

struct db_op *queue_sweeps_prepare(struct queue *q)
{
    int64_t now = queue_mono(q);
    if (q->sweep_under_way)
        return NULL;
    list_each (it, &q->sweeps) {
        struct sweep *w = list_entry(it, struct sweep, link);
        if (w->next_at > now)
            continue;
        struct step_op *o = calloc(1, sizeof(*o));
        if (o == NULL)
            return NULL;
        o->w = w;
        uint64_t share = w->s.per_s > 0 ? (uint64_t)w->s.per_s * STEP_MS / 1000 : STEP_ROWS;
        o->budget = share < 1 ? 1 : share > STEP_ROWS ? STEP_ROWS : (size_t)share;
        o->op.run = step_run;
        o->op.done = step_done;
        q->sweep_under_way = w->stepping = true;
        /* The next one's turn comes first the next time. */
        list_remove(&w->link);
        list_append(&q->sweeps, &w->link);
        return &o->op;
    }
    return NULL;
}

int64_t queue_sweeps_next(const struct queue *q)
{
    int64_t next = QUEUE_NEVER;
    list_each (it, &q->sweeps)
        next = queue_min(next, list_entry(it, const struct sweep, link)->next_at);
    return next;
}
