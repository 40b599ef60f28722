/*
 * Plugins' own values. How many an owner has, and how many bytes, is kept beside them by triggers, so that no put
 * counts rows.
 *
 * What is over is deleted when the writer has nothing better to do: a deletion of its own (struct db_op), due when the
 * first of them ends, at most one every PURGE_REST_MS and PURGE_ROWS at a time.
 */
#include "store/values.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/magic.h"
#include "base/metrics.h"
#include "store/store_int.h"

#define PURGE_ROWS 1000
#define PURGE_REST_MS 1000
#define PURGE_RETRY_MS 60000 /* after a failure */

struct value_call {
    struct store_call call;
    void (*put)(void *arg, int result);
    void (*get)(void *arg, int result, const void *value, size_t len);
    int64_t now_ms, expires_ms; /* expires 0: never */
    bool removes;
    unsigned char *data; /* get: what was found */
    size_t len;
    const char *owner, *key;
    char text[]; /* owner, key; put: then the value */
};

static struct metric *purged_metric(void)
{
    return metric_counter("omid_store_values_expired_total", "Values of plugins that were deleted because their time "
                                                             "was over.");
}

/* ---------------------------------------------------------------- what is over */

/* How many it deleted; -1: failed. */
static int64_t purge(struct store *s, const char *owner, int64_t now_ms)
{
    sqlite3_stmt *st = db_stmt(s->db, SS_VALUE_PURGE);
    sqlite3_bind_int64(st, 1, now_ms);
    db_bind_str(st, 2, owner);
    sqlite3_bind_int(st, 3, PURGE_ROWS);
    if (!db_run(s->db, st))
        return -1;
    return db_changes(s->db);
}

/* When the first one ends; INT64_MAX: none does. */
static int64_t first_end(struct store *s)
{
    sqlite3_stmt *st = db_stmt(s->db, SS_VALUE_FIRST);
    int64_t at = INT64_MAX;
    if (db_step(s->db, st) > 0) {
        if (sqlite3_column_type(st, 0) != SQLITE_NULL)
            at = sqlite3_column_int64(st, 0);
        sqlite3_reset(st);
    }
    return at;
}

static int purge_run(void *ctx, struct db_op *op)
{
    struct store *s = ctx;
    (void)op;
    int64_t n = purge(s, NULL, clock_wall_ms());
    if (n < 0)
        return OMID_ERR;
    s->values.purged = n;
    s->values.next_ms = first_end(s);
    return OMID_OK;
}

static void purge_done(void *ctx, struct db_op *op, int result)
{
    struct store *s = ctx;
    (void)op;
    uint64_t now = clock_mono_ms();
    s->values.purging = false;
    s->values.rest_until = now + (result == OMID_OK ? PURGE_REST_MS : PURGE_RETRY_MS);
    if (result == OMID_OK)
        metric_add(purged_metric(), s->values.purged);
    else
        s->values.next_ms = 0; /* it looks again */
}

int64_t store_values_next(void *ctx)
{
    const struct store *s = ctx;
    if (s->values.next_ms == INT64_MAX || s->values.purging)
        return -1;
    int64_t wait = s->values.next_ms - clock_wall_ms();
    int64_t rest = (int64_t)(s->values.rest_until - clock_mono_ms());
    wait = wait > rest ? wait : rest;
    return wait > 0 ? wait : 0;
}

struct db_op *store_values_prepare(void *ctx)
{
    struct store *s = ctx;
    if (store_values_next(s) != 0)
        return NULL;
    s->values.purging = true;
    s->values.op = (struct db_op){.run = purge_run, .done = purge_done};
    return &s->values.op;
}

void store_values_load(struct store *s)
{
    s->values.next_ms = first_end(s);
    s->values.rest_until = clock_mono_ms();
    purged_metric();
}

/* ---------------------------------------------------------------- put */

/* Is there room for this value? 1, 0, or -1: failed. */
static int has_room(struct store *s, const struct value_call *c)
{
    sqlite3_stmt *st = db_stmt(s->db, SS_VALUE_ROOM);
    db_bind_str(st, 1, c->owner);
    db_bind_str(st, 2, c->key);
    int r = db_step(s->db, st);
    if (r <= 0)
        return -1;
    uint64_t n = (uint64_t)sqlite3_column_int64(st, 0), bytes = (uint64_t)sqlite3_column_int64(st, 1);
    sqlite3_reset(st);
    return n < s->values.max && bytes + strlen(c->key) + c->len <= s->values.max_bytes;
}

static int value_write(struct store *s, const struct value_call *c, const unsigned char *value)
{
    sqlite3_stmt *st = db_stmt(s->db, SS_VALUE_PUT);
    db_bind_str(st, 1, c->owner);
    db_bind_str(st, 2, c->key);
    sqlite3_bind_blob64(st, 3, value, c->len, SQLITE_STATIC);
    sqlite3_bind_int64(st, 4, c->expires_ms);
    sqlite3_bind_int64(st, 5, (int64_t)(strlen(c->key) + c->len));
    if (!db_run(s->db, st))
        return OMID_ERR;
    if (c->expires_ms != 0 && c->expires_ms < s->values.next_ms)
        s->values.next_ms = c->expires_ms;
    return OMID_OK;
}

static int put_run(struct store *s, struct store_call *call)
{
    struct value_call *c = container_of(call, struct value_call, call);
    if (c->removes) {
        sqlite3_stmt *st = db_stmt(s->db, SS_VALUE_REMOVE);
        db_bind_str(st, 1, c->owner);
        db_bind_str(st, 2, c->key);
        return db_run(s->db, st) ? OMID_OK : OMID_ERR;
    }
    int room;
    /* What is over would go anyway: it goes now. */
    for (int64_t n = 1; (room = has_room(s, c)) == 0 && n > 0;) {
        n = purge(s, c->owner, c->now_ms);
        if (n < 0)
            return OMID_ERR;
    }
    if (room <= 0)
        return room < 0 ? OMID_ERR : OMID_EFULL;
    return value_write(s, c, (const unsigned char *)c->key + strlen(c->key) + 1);
}

static void put_answer(struct store_call *call)
{
    container_of(call, struct value_call, call)->put(call->arg, call->result);
}

static void value_drop(struct store_call *call)
{
    struct value_call *c = container_of(call, struct value_call, call);
    free(c->data);
    free(c);
}

/* NULL: no memory. */
static struct value_call *call_new(const char *owner, const char *key, const void *value, size_t len)
{
    size_t no = strlen(owner) + 1, nk = strlen(key) + 1;
    struct value_call *c = calloc(1, sizeof(*c) + no + nk + len);
    if (c == NULL)
        return NULL;
    memcpy(c->text, owner, no);
    memcpy(c->text + no, key, nk);
    if (len > 0)
        memcpy(c->text + no + nk, value, len);
    c->owner = c->text;
    c->key = c->text + no;
    c->len = len;
    c->call.drop = value_drop;
    return c;
}

static bool key_ok(const char *owner, const char *key)
{
    return owner != NULL && key != NULL && strnlen(owner, STORE_MAX_VALUE_KEY + 1) <= STORE_MAX_VALUE_KEY &&
           key[0] != '\0' && strnlen(key, STORE_MAX_VALUE_KEY + 1) <= STORE_MAX_VALUE_KEY;
}

int store_value_put(struct store *s, const char *owner, const char *key, const void *value, size_t len, int64_t now_ms,
                    int64_t ttl_ms, struct loop *loop, void (*cb)(void *arg, int result), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    if (!key_ok(owner, key) || len > STORE_MAX_VALUE || (value == NULL && len > 0) || ttl_ms < 0)
        return OMID_EINVAL;
    struct value_call *c = call_new(owner, key, value, len);
    if (c == NULL)
        return OMID_ERR;
    c->put = cb;
    c->removes = value == NULL;
    c->now_ms = now_ms;
    c->expires_ms = ttl_ms == 0 ? 0 : now_ms > INT64_MAX - ttl_ms ? INT64_MAX : now_ms + ttl_ms;
    c->call.run = put_run;
    c->call.answer = put_answer;
    return store_call_post(s, &c->call, cb ? loop : NULL, arg, sizeof(*c) + strlen(key) + len);
}

/* ---------------------------------------------------------------- get */

static int get_run(struct store *s, struct store_call *call)
{
    struct value_call *c = container_of(call, struct value_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_VALUE_GET);
    free(c->data);
    c->data = NULL;
    db_bind_str(st, 1, c->owner);
    db_bind_str(st, 2, c->key);
    sqlite3_bind_int64(st, 3, c->now_ms);
    int r = db_step(s->db, st);
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_OK;
    const void *blob = sqlite3_column_blob(st, 0);
    c->len = (size_t)sqlite3_column_bytes(st, 0);
    c->data = malloc(c->len + 1);
    if (c->data != NULL) {
        if (c->len > 0)
            memcpy(c->data, blob, c->len);
        c->data[c->len] = '\0';
    }
    sqlite3_reset(st);
    if (c->data != NULL)
        return OMID_OK;
    db_set_error(s->db, "no memory");
    return OMID_ERR;
}

static void get_answer(struct store_call *call)
{
    struct value_call *c = container_of(call, struct value_call, call);
    bool there = call->result == OMID_OK && c->data != NULL;
    c->get(call->arg, call->result, there ? c->data : NULL, there ? c->len : 0);
}

int store_value_get(struct store *s, const char *owner, const char *key, int64_t now_ms, struct loop *loop,
                    void (*cb)(void *arg, int result, const void *value, size_t len), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    omid_assert(cb != NULL && loop != NULL);
    if (!key_ok(owner, key))
        return OMID_EINVAL;
    struct value_call *c = call_new(owner, key, NULL, 0);
    if (c == NULL)
        return OMID_ERR;
    c->get = cb;
    c->now_ms = now_ms;
    c->call.run = get_run;
    c->call.answer = get_answer;
    return store_call_post(s, &c->call, loop, arg, sizeof(*c) + strlen(key));
}
