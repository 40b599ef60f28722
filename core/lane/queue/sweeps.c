/* The doors of replays and drops of many: begun, listed, cancelled. */
#include <stdlib.h>

#include "base/log.h"
#include "lane/queue/sweep.h"

#define MAX_RUNNING 16
#define MAX_KEPT 100

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
        if (queue_sweep_add(q, &o->s, from > 0 ? from - 1 : INT64_MIN, INT64_MAX) == NULL)
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
        queue_sweep_read(st, s);
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

/* A step may stand behind it in the same transaction: that finds the row cancelled, and does nothing. */
static int cancel_run(void *ctx, struct db_op *op)
{
    struct queue *q = ctx;
    struct sweep_op *o = container_of(op, struct sweep_op, op);
    const struct sweep *w = sweep_find(q, o->s.id);
    if (w == NULL || w->s.state != QUEUE_SWEEP_RUNNING)
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
    struct sweep *w = result == OMID_OK ? sweep_find(q, o->s.id) : NULL;
    if (w != NULL && w->stepping)
        w->s.state = QUEUE_SWEEP_CANCELLED; /* the step's end frees it */
    else if (w != NULL)
        queue_sweep_free(w);
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
