/* Dead letters: pages of them, one with all it holds, and one brought back or dropped. */
#include <stdlib.h>
#include <string.h>

#include "lane/queue/queue_int.h"

#define STEP_ROWS 500 /* looked at in one transaction: the others' turn */

struct dead_op {
    struct db_op op;
    struct loop_msg msg;
    struct loop *loop;
    struct queue *q;
    queue_dead_cb list;
    queue_done_cb one;
    void *arg;
    int result;
    /* one */
    uint64_t id;
    enum queue_sweep_action action;
    struct queue_revival revival;
    bool revived; /* revival is to be ended */
    /* a page */
    struct queue_filter filter; /* strings in text */
    char *text;
    int64_t at_died, at_id, step_died, step_id; /* where the scan is, and where this step has come to */
    size_t limit, n, step_n;
    bool end;
    struct queue_dead *item;
};

static void item_free(struct queue_dead *d)
{
    free((char *)(uintptr_t)d->owner); /* holds the others */
    free((void *)(uintptr_t)d->payload);
}

static void items_cut(struct dead_op *o, size_t n)
{
    while (o->n > n)
        item_free(&o->item[--o->n]);
}

static void op_free(struct dead_op *o)
{
    items_cut(o, 0);
    free(o->item);
    free(o->text);
    free(o);
}

static void answer(struct loop *loop, struct loop_msg *msg)
{
    struct dead_op *o = container_of(msg, struct dead_op, msg);
    (void)loop;
    if (o->list != NULL)
        o->list(o->arg, o->result, o->item, o->n);
    else
        o->one(o->arg, o->result);
    op_free(o);
}

static char *put(char **at, const char *s)
{
    char *to = *at;
    *at = stpcpy(to, s) + 1;
    return to;
}

/* The strings of a row, kept. */
static bool item_keep(struct dead_op *o, const struct queue_dead *d)
{
    struct queue_dead *to = &o->item[o->n];
    char *at = malloc(strlen(d->owner) + strlen(d->type) + strlen(d->name) + strlen(d->target) + strlen(d->error) + 5);
    if (at == NULL)
        return false;
    *to = *d;
    to->owner = put(&at, d->owner);
    to->type = put(&at, d->type);
    to->name = put(&at, d->name);
    to->target = put(&at, d->target);
    to->error = put(&at, d->error);
    o->n++;
    return true;
}

/* ---------------------------------------------------------------- a page */

static int page_run(void *ctx, struct db_op *op)
{
    struct queue *q = ctx;
    struct dead_op *o = container_of(op, struct dead_op, op);
    struct queue_dead d;
    size_t rows = 0;
    int r;
    items_cut(o, o->step_n);
    o->step_died = o->at_died;
    o->step_id = o->at_id;
    sqlite3_stmt *st = db_stmt(q->db, QS_DEAD_DOWN);
    sqlite3_bind_int64(st, 1, o->at_died);
    sqlite3_bind_int64(st, 2, o->at_id);
    sqlite3_bind_int64(st, 3, STEP_ROWS);
    o->end = false;
    while (o->n < o->limit && (r = db_step(q->db, st)) != 0) {
        if (r < 0)
            return OMID_ERR;
        rows++;
        queue_dead_read(st, &d);
        o->step_died = d.died_ms;
        o->step_id = (int64_t)d.id;
        if (d.died_ms < o->filter.from_ms) {
            o->end = true;
            break;
        }
        if (queue_dead_matches(&d, &o->filter) && !item_keep(o, &d)) {
            db_set_error(q->db, "no memory");
            return OMID_ERR;
        }
    }
    sqlite3_reset(st);
    o->end = o->end || o->n == o->limit || rows < STEP_ROWS;
    return OMID_OK;
}

static void page_done(void *ctx, struct db_op *op, int result)
{
    struct queue *q = ctx;
    struct dead_op *o = container_of(op, struct dead_op, op);
    o->result = result;
    if (result == OMID_OK && !o->end) {
        o->step_n = o->n;
        o->at_died = o->step_died;
        o->at_id = o->step_id;
        if (db_writer_post_always(q->writer, &o->op))
            return;
        o->result = OMID_ECLOSED;
    }
    loop_post(o->loop, &o->msg);
}

/* ---------------------------------------------------------------- one */

static int dead_get(struct queue *q, uint64_t id, struct queue_dead *d, sqlite3_stmt **st)
{
    *st = db_stmt(q->db, QS_DEAD_GET);
    sqlite3_bind_int64(*st, 1, (int64_t)id);
    int r = db_step(q->db, *st);
    if (r > 0)
        queue_dead_read(*st, d);
    return r;
}

static int show_run(void *ctx, struct db_op *op)
{
    struct queue *q = ctx;
    struct dead_op *o = container_of(op, struct dead_op, op);
    struct queue_dead d;
    sqlite3_stmt *st;
    items_cut(o, 0);
    int r = dead_get(q, o->id, &d, &st);
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_OK;
    const void *payload = sqlite3_column_blob(st, 11);
    char *copy = malloc(d.payload_len + 1);
    bool ok = copy != NULL && item_keep(o, &d);
    if (ok) {
        if (d.payload_len > 0)
            memcpy(copy, payload, d.payload_len);
        copy[d.payload_len] = '\0';
        o->item[0].payload = copy;
    } else {
        free(copy);
        db_set_error(q->db, "no memory");
    }
    sqlite3_reset(st);
    return ok ? OMID_OK : OMID_ERR;
}

static void show_done(void *ctx, struct db_op *op, int result)
{
    struct dead_op *o = container_of(op, struct dead_op, op);
    (void)ctx;
    o->result = result;
    loop_post(o->loop, &o->msg);
}

static int one_run(void *ctx, struct db_op *op)
{
    struct queue *q = ctx;
    struct dead_op *o = container_of(op, struct dead_op, op);
    struct queue_dead d;
    sqlite3_stmt *st;
    if (o->revived) /* of a transaction that was rolled back */
        queue_revival_end(q, &o->revival, false);
    o->revived = false;
    int r = dead_get(q, o->id, &d, &st);
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_ENOTSUP;
    if (o->action == QUEUE_REPLAY)
        r = queue_revival_bring(q, &d, &o->revival);
    else
        r = queue_revival_drop(q, &d, &o->revival) ? OMID_OK : OMID_ERR;
    sqlite3_reset(st);
    o->revived = r == OMID_OK;
    return r;
}

static void one_done(void *ctx, struct db_op *op, int result)
{
    struct queue *q = ctx;
    struct dead_op *o = container_of(op, struct dead_op, op);
    if (o->revived)
        queue_revival_end(q, &o->revival, result == OMID_OK);
    o->revived = false;
    show_done(ctx, op, result);
}

/* ---------------------------------------------------------------- doors */

static struct dead_op *op_new(struct queue *q, struct loop *loop, void *arg, size_t items)
{
    struct dead_op *o = calloc(1, sizeof(*o));
    if (o == NULL || (items > 0 && (o->item = calloc(items, sizeof(*o->item))) == NULL)) {
        free(o);
        return NULL;
    }
    o->q = q;
    o->loop = loop;
    o->arg = arg;
    o->msg.fn = answer;
    o->op.bytes = sizeof(*o);
    return o;
}

/* Beyond the bounds of the way to the disk: an administrator must get through when it is full. */
static int op_post(struct dead_op *o)
{
    if (db_writer_post_always(o->q->writer, &o->op))
        return OMID_OK;
    op_free(o);
    return OMID_ECLOSED;
}

int queue_dead_list(struct queue *q, const struct queue_filter *f, const struct queue_dead *before, size_t limit,
                    struct loop *loop, queue_dead_cb cb, void *arg)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    if (limit < 1 || limit > QUEUE_MAX_PAGE)
        return OMID_EINVAL;
    struct dead_op *o = op_new(q, loop, arg, limit);
    if (o == NULL || !queue_filter_copy(&o->filter, f, &o->text)) {
        if (o != NULL)
            op_free(o);
        return OMID_ERR;
    }
    o->list = cb;
    o->limit = limit;
    o->at_died = before != NULL ? before->died_ms : INT64_MAX;
    o->at_id = before != NULL ? (int64_t)before->id : INT64_MAX;
    if (f->to_ms > 0 && f->to_ms < o->at_died) {
        o->at_died = f->to_ms;
        o->at_id = 0;
    }
    o->op.run = page_run;
    o->op.done = page_done;
    return op_post(o);
}

int queue_dead_show(struct queue *q, uint64_t id, struct loop *loop, queue_dead_cb cb, void *arg)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    struct dead_op *o = op_new(q, loop, arg, 1);
    if (o == NULL)
        return OMID_ERR;
    o->list = cb;
    o->id = id;
    o->op.run = show_run;
    o->op.done = show_done;
    return op_post(o);
}

static int one(struct queue *q, uint64_t id, enum queue_sweep_action action, struct loop *loop, queue_done_cb cb,
               void *arg)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    struct dead_op *o = op_new(q, loop, arg, 0);
    if (o == NULL)
        return OMID_ERR;
    o->one = cb;
    o->id = id;
    o->action = action;
    o->op.run = one_run;
    o->op.done = one_done;
    return op_post(o);
}

int queue_dead_replay(struct queue *q, uint64_t id, struct loop *loop, queue_done_cb cb, void *arg)
{
    return one(q, id, QUEUE_REPLAY, loop, cb, arg);
}

int queue_dead_drop(struct queue *q, uint64_t id, struct loop *loop, queue_done_cb cb, void *arg)
{
    return one(q, id, QUEUE_DROP, loop, cb, arg);
}
