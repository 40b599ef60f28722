/* Replays and drops of many dead letters: a work of its own, in steps, that survives a restart. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lane/queue/queue_int.h"

#define STEP_ROWS 500 /* looked at in one transaction */
#define STEP_MS 100   /* between two of them */
#define FULL_MS 1000  /* until the next look when the queue has no room */
#define MAX_RUNNING 16
#define MAX_KEPT 100

/* One that runs. */
struct sweep {
    struct list link;
    struct queue_sweep s; /* strings in text */
    char *text;
    int64_t at_died, at_id; /* the last one that was looked at */
    int64_t next_at;        /* monotonic ms */
};

static void sweep_free(struct sweep *w)
{
    list_remove(&w->link);
    free(w->text);
    free(w);
}

void queue_sweeps_free(struct queue *q)
{
    struct list *it;
    while ((it = list_pop(&q->sweeps)) != NULL)
        sweep_free(list_entry(it, struct sweep, link));
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

static void row_read(sqlite3_stmt *st, struct queue_sweep *s)
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

static struct sweep *sweep_add(struct queue *q, const struct queue_sweep *s, int64_t at_died, int64_t at_id)
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
        row_read(st, &s);
        if (s.state != QUEUE_SWEEP_RUNNING)
            continue;
        if (sweep_add(q, &s, sqlite3_column_int64(st, 13), sqlite3_column_int64(st, 14)) == NULL) {
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
        sweep_free(w);
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
        q->sweep_under_way = true;
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

/* ---------------------------------------------------------------- doors */

struct sweep_op {
    struct db_op op;
    struct loop_msg msg;
    struct loop *loop;
    void (*begun)(void *arg, int result, uint64_t id);
    void (*listed)(void *arg, int result, const struct queue_sweep *item, size_t n);
    queue_done_cb cancelled;
    void *arg;
    int result;
    struct queue_sweep s; /* strings in text */
    char *text;
    size_t n;
    struct queue_sweep item[MAX_KEPT + MAX_RUNNING];
    char *item_text[MAX_KEPT + MAX_RUNNING];
};

static void items_clear(struct sweep_op *o)
{
    while (o->n > 0)
        free(o->item_text[--o->n]);
}

static void sweep_op_free(struct sweep_op *o)
{
    items_clear(o);
    free(o->text);
    free(o);
}

static void answer(struct loop *loop, struct loop_msg *msg)
{
    struct sweep_op *o = container_of(msg, struct sweep_op, msg);
    (void)loop;
    if (o->begun != NULL)
        o->begun(o->arg, o->result, o->s.id);
    else if (o->listed != NULL)
        o->listed(o->arg, o->result, o->item, o->n);
    else
        o->cancelled(o->arg, o->result);
    sweep_op_free(o);
}

static size_t running(const struct queue *q)
{
    size_t n = 0;
    list_each (it, &q->sweeps)
        n++;
    return n;
}

static int begin_run(void *ctx, struct db_op *op)
{
    struct queue *q = ctx;
    struct sweep_op *o = container_of(op, struct sweep_op, op);
    struct queue_sweep *s = &o->s;
    if (running(q) >= MAX_RUNNING)
        return OMID_EFULL;
    sqlite3_stmt *st = db_stmt(q->db, QS_SWEEPS_PURGE);
    sqlite3_bind_int64(st, 1, MAX_KEPT - 1);
    if (!db_run(q->db, st))
        return OMID_ERR;
    /* Those that die again, or only now, are not meant. */
    s->created_ms = queue_wall(q);
    if (s->filter.to_ms == 0 || s->filter.to_ms > s->created_ms)
        s->filter.to_ms = s->created_ms + 1;
    s->total = atomic_load(&q->dead);
    st = db_stmt(q->db, QS_SWEEP_INSERT);
    sqlite3_bind_int(st, 1, (int)s->action);
    sqlite3_bind_int(st, 2, QUEUE_SWEEP_RUNNING);
    sqlite3_bind_int64(st, 3, s->created_ms);
    sqlite3_bind_int64(st, 4, s->per_s);
    db_bind_str(st, 5, s->filter.owner);
    db_bind_str(st, 6, s->filter.type);
    db_bind_str(st, 7, s->filter.target);
    db_bind_str(st, 8, s->filter.error);
    sqlite3_bind_int64(st, 9, s->filter.from_ms);
    sqlite3_bind_int64(st, 10, s->filter.to_ms);
    sqlite3_bind_int64(st, 11, (int64_t)s->total);
    sqlite3_bind_int64(st, 12, s->filter.from_ms > 0 ? s->filter.from_ms - 1 : INT64_MIN);
    if (!db_run(q->db, st))
        return OMID_ERR;
    s->id = (uint64_t)db_last_id(q->db);
    return OMID_OK;
}

static void begin_done(void *ctx, struct db_op *op, int result)
{
    struct queue *q = ctx;
    struct sweep_op *o = container_of(op, struct sweep_op, op);
    int64_t from = o->s.filter.from_ms;
    o->result = result;
    if (result == OMID_OK) {
        log_notice("queue", o->s.action == QUEUE_REPLAY ? "a replay of many begins" : "a drop of many begins",
                   LU("id", o->s.id), LU("dead", o->s.total));
        /* Without memory it goes on after the next start; the row is there. */
        if (sweep_add(q, &o->s, from > 0 ? from - 1 : INT64_MIN, INT64_MAX) == NULL)
            o->result = OMID_ERR;
    }
    loop_post(o->loop, &o->msg);
}

static int list_run(void *ctx, struct db_op *op)
{
    struct queue *q = ctx;
    struct sweep_op *o = container_of(op, struct sweep_op, op);
    int r;
    items_clear(o);
    sqlite3_stmt *st = db_stmt(q->db, QS_SWEEPS);
    while (o->n < ARRAY_LEN(o->item) && (r = db_step(q->db, st)) != 0) {
        if (r < 0)
            return OMID_ERR;
        struct queue_sweep *s = &o->item[o->n];
        row_read(st, s);
        if (!queue_filter_copy(&s->filter, &s->filter, &o->item_text[o->n])) {
            db_set_error(q->db, "no memory");
            return OMID_ERR;
        }
        o->n++;
    }
    sqlite3_reset(st);
    return OMID_OK;
}

static void list_done(void *ctx, struct db_op *op, int result)
{
    struct sweep_op *o = container_of(op, struct sweep_op, op);
    (void)ctx;
    o->result = result;
    loop_post(o->loop, &o->msg);
}

static struct sweep *sweep_find(struct queue *q, uint64_t id)
{
    list_each (it, &q->sweeps) {
        struct sweep *w = list_entry(it, struct sweep, link);
        if (w->s.id == id)
            return w;
    }
    return NULL;
}

/* A step may stand before it in the same transaction: the row has then moved on, and only its state is to change. */
static int cancel_run(void *ctx, struct db_op *op)
{
    struct queue *q = ctx;
    struct sweep_op *o = container_of(op, struct sweep_op, op);
    if (sweep_find(q, o->s.id) == NULL)
        return OMID_ENOTSUP;
    sqlite3_stmt *st = db_stmt(q->db, QS_SWEEP_CANCEL);
    sqlite3_bind_int64(st, 1, (int64_t)o->s.id);
    sqlite3_bind_int64(st, 2, queue_wall(q));
    return db_run(q->db, st) ? OMID_OK : OMID_ERR;
}

static void cancel_done(void *ctx, struct db_op *op, int result)
{
    struct queue *q = ctx;
    struct sweep_op *o = container_of(op, struct sweep_op, op);
    /* A step under way has ended before: it stood before it in the transaction. */
    struct sweep *w = result == OMID_OK ? sweep_find(q, o->s.id) : NULL;
    if (w != NULL)
        sweep_free(w);
    list_done(ctx, op, result);
}

static struct sweep_op *sweep_op_new(struct loop *loop, void *arg)
{
    struct sweep_op *o = calloc(1, sizeof(*o));
    if (o == NULL)
        return NULL;
    o->loop = loop;
    o->arg = arg;
    o->msg.fn = answer;
    o->op.bytes = sizeof(*o);
    return o;
}

static int sweep_op_post(struct queue *q, struct sweep_op *o)
{
    if (db_writer_post_always(q->writer, &o->op))
        return OMID_OK;
    sweep_op_free(o);
    return OMID_ECLOSED;
}

int queue_sweep_begin(struct queue *q, enum queue_sweep_action action, const struct queue_filter *f, uint32_t per_s,
                      struct loop *loop, void (*cb)(void *arg, int result, uint64_t id), void *arg)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    struct sweep_op *o = sweep_op_new(loop, arg);
    if (o == NULL || !queue_filter_copy(&o->s.filter, f, &o->text)) {
        free(o);
        return OMID_ERR;
    }
    o->begun = cb;
    o->s.action = action;
    o->s.per_s = per_s;
    if (action == QUEUE_REPLAY && (per_s == 0 || per_s > q->c.replay_per_s))
        o->s.per_s = q->c.replay_per_s;
    o->op.run = begin_run;
    o->op.done = begin_done;
    return sweep_op_post(q, o);
}

int queue_sweep_list(struct queue *q, struct loop *loop,
                     void (*cb)(void *arg, int result, const struct queue_sweep *item, size_t n), void *arg)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    struct sweep_op *o = sweep_op_new(loop, arg);
    if (o == NULL)
        return OMID_ERR;
    o->listed = cb;
    o->op.run = list_run;
    o->op.done = list_done;
    return sweep_op_post(q, o);
}

int queue_sweep_cancel(struct queue *q, uint64_t id, struct loop *loop, queue_done_cb cb, void *arg)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    struct sweep_op *o = sweep_op_new(loop, arg);
    if (o == NULL)
        return OMID_ERR;
    o->cancelled = cb;
    o->s.id = id;
    o->op.run = cancel_run;
    o->op.done = cancel_done;
    return sweep_op_post(q, o);
}
