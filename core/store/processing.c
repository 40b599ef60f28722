/* The end of conversations: begun, what its steps make, how often they failed. */
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "store/store_int.h"

/* ---------------------------------------------------------------- begin */

struct begin_call {
    struct store_call call;
    void (*cb)(void *arg, int result, struct store_conversation *c, struct store_progress *p);
    struct store_conversation *out;
    struct store_progress progress;
    char id[];
};

static void begin_clear(struct begin_call *b)
{
    store_conversation_free(&b->out);
    free(b->progress.summary);
    b->progress = (struct store_progress){0};
}

static int progress_read(struct store *s, int64_t row, struct store_progress *p)
{
    sqlite3_stmt *st = db_stmt(s->db, SS_PROCESS_OF);
    sqlite3_bind_int64(st, 1, row);
    int r = db_step(s->db, st);
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_OK;
    p->failures = (unsigned)sqlite3_column_int(st, 0);
    p->summary = db_col_dup(st, 1);
    sqlite3_reset(st);
    return OMID_OK;
}

static int begin_run(struct store *s, struct store_call *call)
{
    struct begin_call *b = container_of(call, struct begin_call, call);
    int64_t row = 0;
    begin_clear(b);
    if (store_status_change(s, call, b->id, STORE_IN_PROGRESS, STORE_PROCESSING, NULL, NULL) < 0 ||
        store_conversation_read(s->db, b->id, false, &b->out, &row) != OMID_OK)
        return OMID_ERR;
    return b->out ? progress_read(s, row, &b->progress) : OMID_OK;
}

static void begin_answer(struct store_call *call)
{
    struct begin_call *b = container_of(call, struct begin_call, call);
    if (call->result != OMID_OK)
        begin_clear(b);
    struct store_conversation *c = b->out;
    b->out = NULL;
    b->cb(call->arg, call->result, c, &b->progress);
}

static void begin_drop(struct store_call *call)
{
    struct begin_call *b = container_of(call, struct begin_call, call);
    begin_clear(b);
    free(b);
}

int store_processing_begin(struct store *s, const char *id, struct loop *loop,
                           void (*cb)(void *arg, int result, struct store_conversation *c, struct store_progress *p),
                           void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    if (id == NULL || !store_text_ok(id))
        return OMID_EINVAL;
    struct begin_call *b = calloc(1, sizeof(*b) + strlen(id) + 1);
    if (b == NULL)
        return OMID_ERR;
    strcpy(b->id, id);
    b->cb = cb;
    b->call.run = begin_run;
    b->call.answer = begin_answer;
    b->call.drop = begin_drop;
    return store_call_post(s, &b->call, loop, arg, sizeof(*b));
}

/* ---------------------------------------------------------------- steps */

struct step_call {
    struct store_call call;
    void (*cb)(void *arg, int result);
    enum store_stmt what;
    char id[37];
    unsigned failures;
    char *json; /* NULL: failures count */
};

static int step_run(struct store *s, struct store_call *call)
{
    struct step_call *c = container_of(call, struct step_call, call);
    sqlite3_stmt *st = db_stmt(s->db, c->what);
    db_bind_str(st, 1, c->id);
    if (c->json != NULL)
        db_bind_str(st, 2, c->json);
    else
        sqlite3_bind_int64(st, 2, c->failures);
    if (!db_run(s->db, st))
        return OMID_ERR;
    return db_changes(s->db) > 0 ? OMID_OK : OMID_ENOTSUP;
}

static void step_answer(struct store_call *call)
{
    container_of(call, struct step_call, call)->cb(call->arg, call->result);
}

static void step_drop(struct store_call *call)
{
    struct step_call *c = container_of(call, struct step_call, call);
    free(c->json);
    free(c);
}

static int step_post(struct store *s, const struct step_call *with, const char *id, const char *json, struct loop *loop,
                     void *arg)
{
    if (id == NULL || strlen(id) > 36 || !store_text_ok(json))
        return OMID_EINVAL;
    struct step_call *c = malloc(sizeof(*c));
    if (c == NULL)
        return OMID_ERR;
    *c = *with;
    strcpy(c->id, id);
    c->json = json ? strdup(json) : NULL;
    c->call.run = step_run;
    c->call.answer = step_answer;
    c->call.drop = step_drop;
    if (json && c->json == NULL) {
        step_drop(&c->call);
        return OMID_ERR;
    }
    return store_call_post(s, &c->call, c->cb ? loop : NULL, arg, sizeof(*c) + (json ? strlen(json) : 0));
}

int store_processing_keep(struct store *s, const char *id, const char *summary, struct loop *loop,
                          void (*cb)(void *arg, int result), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    omid_assert(summary != NULL && cb != NULL);
    struct step_call with = {.cb = cb, .what = SS_PROCESS_SUMMARY};
    return step_post(s, &with, id, summary, loop, arg);
}

int store_processing_failed(struct store *s, const char *id, unsigned failures)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    struct step_call with = {.what = SS_PROCESS_FAILED, .failures = failures};
    return step_post(s, &with, id, NULL, NULL, NULL);
}

/* ---------------------------------------------------------------- once more */

struct again_call {
    struct store_call call;
    void (*cb)(void *arg, int result);
    const char *id, *uid; /* in text */
    char text[];
};

static int again_run(struct store *s, struct store_call *call)
{
    struct again_call *a = container_of(call, struct again_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_CONV_STATUS_OF);
    db_bind_str(st, 1, a->id);
    db_bind_str(st, 2, a->uid);
    int r = db_step(s->db, st);
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_ENOTSUP;
    enum store_status from = (enum store_status)sqlite3_column_int(st, 0);
    sqlite3_reset(st);
    if (from == STORE_IN_PROGRESS)
        return OMID_EFULL;
    if (from == STORE_PROCESSING)
        return OMID_OK;
    return store_status_change(s, call, a->id, from, STORE_PROCESSING, NULL, NULL) < 0 ? OMID_ERR : OMID_OK;
}

static void again_answer(struct store_call *call)
{
    container_of(call, struct again_call, call)->cb(call->arg, call->result);
}

static void again_drop(struct store_call *call)
{
    free(container_of(call, struct again_call, call));
}

int store_processing_again(struct store *s, const char *id, const char *uid, struct loop *loop,
                           void (*cb)(void *arg, int result), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    omid_assert(cb != NULL && loop != NULL);
    if (id == NULL || uid == NULL || !store_text_ok(id) || !store_text_ok(uid))
        return OMID_EINVAL;
    size_t len = strlen(id) + strlen(uid) + 2;
    struct again_call *a = calloc(1, sizeof(*a) + len);
    if (a == NULL)
        return OMID_ERR;
    a->id = a->text;
    a->uid = stpcpy(a->text, id) + 1;
    strcpy(a->text + strlen(id) + 1, uid);
    a->cb = cb;
    a->call.run = again_run;
    a->call.answer = again_answer;
    a->call.drop = again_drop;
    return store_call_post(s, &a->call, loop, arg, sizeof(*a) + len);
}
