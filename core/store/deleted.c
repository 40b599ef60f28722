/* Conversations that are gone, until all who keep anything of them have been told for good: rows that a trigger of the
 * schema writes in the transaction that deletes. */
#include "store/deleted.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "store/store_int.h"

struct deleted_call {
    struct store_call call;
    void (*cb)(void *arg, int result, const struct store_deleted *deleted, size_t n);
    size_t n, max;
    struct store_deleted deleted[]; /* max */
};

static void deleted_clear(struct deleted_call *d)
{
    while (d->n > 0)
        free(d->deleted[--d->n].uid);
}

static int deleted_run(struct store *s, struct store_call *call)
{
    struct deleted_call *d = container_of(call, struct deleted_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_DELETED);
    int r = 0;
    deleted_clear(d);
    sqlite3_bind_int64(st, 1, (int64_t)d->max);
    while (d->n < d->max && (r = db_step(s->db, st)) > 0) {
        struct store_deleted *it = &d->deleted[d->n];
        const char *id = (const char *)sqlite3_column_text(st, 0);
        snprintf(it->id, sizeof(it->id), "%s", id != NULL ? id : "");
        if ((it->uid = db_col_dup(st, 1)) == NULL) {
            sqlite3_reset(st);
            return OMID_ERR;
        }
        d->n++;
    }
    if (r > 0)
        sqlite3_reset(st);
    return r < 0 ? OMID_ERR : OMID_OK;
}

static void deleted_answer(struct store_call *call)
{
    struct deleted_call *d = container_of(call, struct deleted_call, call);
    if (call->result != OMID_OK)
        deleted_clear(d);
    d->cb(call->arg, call->result, d->deleted, d->n);
}

static void deleted_drop(struct store_call *call)
{
    struct deleted_call *d = container_of(call, struct deleted_call, call);
    deleted_clear(d);
    free(d);
}

int store_deleted(struct store *s, size_t max, struct loop *loop,
                  void (*cb)(void *arg, int result, const struct store_deleted *deleted, size_t n), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    omid_assert(cb != NULL && loop != NULL);
    if (max == 0 || max > STORE_MAX_DUE)
        return OMID_EINVAL;
    size_t bytes = sizeof(struct deleted_call) + max * sizeof(struct store_deleted);
    struct deleted_call *d = calloc(1, bytes);
    if (d == NULL)
        return OMID_ERR;
    d->cb = cb;
    d->max = max;
    d->call.run = deleted_run;
    d->call.answer = deleted_answer;
    d->call.drop = deleted_drop;
    return store_call_post(s, &d->call, loop, arg, bytes);
}

struct forget_call {
    struct store_call call;
    char id[37];
};

static int forget_run(struct store *s, struct store_call *call)
{
    sqlite3_stmt *st = db_stmt(s->db, SS_DELETED_FORGET);
    db_bind_str(st, 1, container_of(call, struct forget_call, call)->id);
    return db_run(s->db, st) ? OMID_OK : OMID_ERR;
}

static void forget_drop(struct store_call *call)
{
    free(container_of(call, struct forget_call, call));
}

int store_deleted_forget(struct store *s, const char *id)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    if (id == NULL || strlen(id) > 36)
        return OMID_EINVAL;
    struct forget_call *f = calloc(1, sizeof(*f));
    if (f == NULL)
        return OMID_ERR;
    strcpy(f->id, id);
    f->call.run = forget_run;
    f->call.drop = forget_drop;
    return store_call_post(s, &f->call, NULL, NULL, sizeof(*f));
}
