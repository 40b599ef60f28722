/* The log of attempts, read in pages. */
#include <stdlib.h>
#include <string.h>

#include "lane/queue/queue_int.h"

#define STEP_ROWS 1000 /* looked at in one transaction: the others' turn */

struct page_op {
    struct db_op op;
    struct loop_msg msg;
    struct loop *loop;
    queue_deliveries_cb cb;
    void *arg;
    int result;
    struct queue_filter filter; /* strings in text */
    char *text;
    uint64_t before, step_before, after;
    size_t limit, n, step_n;
    bool end;
    struct queue_delivery item[];
};

static void items_cut(struct page_op *o, size_t n)
{
    while (o->n > n)
        free((char *)(uintptr_t)o->item[--o->n].owner); /* holds the others */
}

static void op_free(struct page_op *o)
{
    items_cut(o, 0);
    free(o->text);
    free(o);
}

static void answer(struct loop *loop, struct loop_msg *msg)
{
    struct page_op *o = container_of(msg, struct page_op, msg);
    (void)loop;
    o->cb(o->arg, o->result, o->item, o->n);
    op_free(o);
}

static const char *text(sqlite3_stmt *st, int col)
{
    const char *s = db_col_str(st, col);
    return s != NULL ? s : "";
}

static void row_read(sqlite3_stmt *st, struct queue_delivery *d)
{
    *d = (struct queue_delivery){
        .id = (uint64_t)sqlite3_column_int64(st, 0),
        .time_ms = sqlite3_column_int64(st, 1),
        .job = (uint64_t)sqlite3_column_int64(st, 2),
        .owner = text(st, 3),
        .type = text(st, 4),
        .target = text(st, 5),
        .endpoint = text(st, 6),
        .name = text(st, 7),
        .attempt = (unsigned)sqlite3_column_int(st, 8),
        .ended = (enum queue_ended)sqlite3_column_int(st, 9),
        .status = sqlite3_column_int(st, 10),
        .elapsed_ms = (uint32_t)sqlite3_column_int64(st, 11),
        .error = text(st, 12),
        .answer = sqlite3_column_blob(st, 13),
        .answer_len = (size_t)sqlite3_column_bytes(st, 13),
    };
}

static bool is(const char *wanted, const char *found)
{
    return wanted == NULL || strcmp(wanted, found) == 0;
}

static bool matches(const struct queue_delivery *d, const struct queue_filter *f)
{
    return is(f->owner, d->owner) && is(f->type, d->type) && (is(f->target, d->target) || is(f->target, d->endpoint)) &&
           (f->error == NULL || strstr(d->error, f->error) != NULL) && d->time_ms >= f->from_ms &&
           (f->to_ms == 0 || d->time_ms < f->to_ms) && (!f->failed || d->ended != QUEUE_ENDED_DONE);
}

static char *put(char **at, const char *s)
{
    char *to = *at;
    *at = stpcpy(to, s) + 1;
    return to;
}

static bool item_keep(struct page_op *o, const struct queue_delivery *d)
{
    struct queue_delivery *to = &o->item[o->n];
    char *at = malloc(strlen(d->owner) + strlen(d->type) + strlen(d->target) + strlen(d->endpoint) + strlen(d->name) +
                      strlen(d->error) + d->answer_len + 7);
    if (at == NULL)
        return false;
    *to = *d;
    to->owner = put(&at, d->owner);
    to->type = put(&at, d->type);
    to->target = put(&at, d->target);
    to->endpoint = put(&at, d->endpoint);
    to->name = put(&at, d->name);
    to->error = put(&at, d->error);
    if (d->answer_len > 0)
        memcpy(at, d->answer, d->answer_len);
    at[d->answer_len] = '\0';
    to->answer = at;
    o->n++;
    return true;
}

static int page_run(void *ctx, struct db_op *op)
{
    struct queue *q = ctx;
    struct page_op *o = container_of(op, struct page_op, op);
    struct queue_delivery d;
    size_t rows = 0;
    int r;
    items_cut(o, o->step_n);
    o->end = false;
    o->step_before = o->before;
    sqlite3_stmt *st = db_stmt(q->db, QS_ATTEMPTS_DOWN);
    sqlite3_bind_int64(st, 1, o->before > INT64_MAX ? INT64_MAX : (int64_t)o->before);
    sqlite3_bind_int64(st, 2, STEP_ROWS);
    while (o->n < o->limit && !o->end && (r = db_step(q->db, st)) != 0) {
        if (r < 0)
            return OMID_ERR;
        rows++;
        row_read(st, &d);
        o->step_before = d.id;
        o->end = d.id <= o->after;
        if (!o->end && matches(&d, &o->filter) && !item_keep(o, &d)) {
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
    struct page_op *o = container_of(op, struct page_op, op);
    o->result = result;
    if (result == OMID_OK && !o->end) {
        o->step_n = o->n;
        o->before = o->step_before;
        if (db_writer_post_always(q->writer, &o->op))
            return;
        o->result = OMID_ECLOSED;
    }
    loop_post(o->loop, &o->msg);
}

int queue_deliveries(struct queue *q, const struct queue_filter *f, uint64_t before, uint64_t after, size_t limit,
                     struct loop *loop, queue_deliveries_cb cb, void *arg)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    if (limit < 1 || limit > QUEUE_MAX_PAGE)
        return OMID_EINVAL;
    struct page_op *o = calloc(1, sizeof(*o) + limit * sizeof(o->item[0]));
    if (o == NULL || !queue_filter_copy(&o->filter, f, &o->text)) {
        free(o);
        return OMID_ERR;
    }
    o->loop = loop;
    o->cb = cb;
    o->arg = arg;
    o->before = before > 0 ? before : UINT64_MAX;
    o->after = after;
    o->limit = limit;
    o->msg.fn = answer;
    o->op.run = page_run;
    o->op.done = page_done;
    o->op.bytes = sizeof(*o);
    if (db_writer_post_always(q->writer, &o->op))
        return OMID_OK;
    op_free(o);
    return OMID_ECLOSED;
}
