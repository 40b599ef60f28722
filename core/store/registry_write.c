/* Changes of the registry: run by the store's writer; what is in memory follows after the commit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/magic.h"
#include "store/registry_int.h"

struct run_row {
    int64_t row;
    struct registry_run run;
    char id[REGISTRY_MAX_ID + 1];
};

struct op {
    struct store_call call;
    struct registry *r;
    enum reserved reserved; /* room kept for it until it is over */
    registry_cb cb;
    int64_t now_ms, overlap_ms;
    bool app, on, automatic, changed;
    unsigned given, failures;
    struct registry_entry *entry; /* in: what was given; its strings are those of `spec` */
    struct registry_spec spec;
    char *id, *uid, *secret, *hash, *reason;
    struct registry_entry *made; /* out: as it is now */
    struct run_row *runs;        /* taken by the first run() */
    size_t n_runs, max_runs;
};

/* ---------------------------------------------------------------- an op */

static void op_answer(struct store_call *c)
{
    struct op *op = (struct op *)c;
    op->cb(c->arg, c->result);
}

static void op_drop(struct store_call *c)
{
    struct op *op = (struct op *)c;
    struct registry *r = op->r;
    pthread_mutex_lock(&r->lock);
    if (op->reserved != RESERVED_NONE)
        r->reserved[op->reserved]--;
    pthread_mutex_unlock(&r->lock);
    registry_entry_release(&op->entry);
    registry_entry_release(&op->made);
    if (op->secret != NULL)
        explicit_bzero(op->secret, strlen(op->secret));
    free(op->secret);
    free(op->id);
    free(op->uid);
    free(op->hash);
    free(op->reason);
    free(op->runs);
    free(op);
}

/* What an op does, by kind: on the writer's thread, then after the commit; drop: at last. */
struct op_kind {
    int (*run)(struct store *s, struct store_call *c);
    void (*committed)(struct store *s, struct store_call *c); /* NULL: nothing */
    void (*drop)(struct store_call *c);                       /* NULL: op_drop() */
};

/* NULL: no memory. */
static struct op *op_new(struct registry *r, const struct op_kind *kind, bool app, const char *id, registry_cb cb)
{
    struct op *op = calloc(1, sizeof(*op));
    if (op == NULL)
        return NULL;
    op->r = r;
    op->app = app;
    op->cb = cb;
    op->reserved = RESERVED_NONE;
    op->now_ms = clock_wall_ms();
    op->call.result = OMID_ECLOSED;
    op->call.run = kind->run;
    op->call.committed = kind->committed;
    op->call.answer = op_answer;
    op->call.drop = kind->drop != NULL ? kind->drop : op_drop;
    pthread_mutex_lock(&r->lock);
    op->overlap_ms = (int64_t)r->config.overlap_ms;
    pthread_mutex_unlock(&r->lock);
    if (id != NULL && (op->id = strdup(id)) == NULL)
        op_drop(&op->call), op = NULL;
    return op;
}

static bool copy_text(char **to, const char *from)
{
    *to = from != NULL ? strdup(from) : NULL;
    return from == NULL || *to != NULL;
}

/* Keeps room for one more. false: there is none. */
static bool reserve(struct op *op, enum reserved what)
{
    struct registry *r = op->r;
    pthread_mutex_lock(&r->lock);
    const unsigned max[RESERVED_KINDS] = {[RESERVED_WEBHOOKS] = r->config.max_webhooks,
                                          [RESERVED_APPS] = r->config.max_apps,
                                          [RESERVED_ENABLED] = r->config.max_enabled};
    bool ok = r->count[what] + r->reserved[what] < max[what];
    if (ok) {
        op->reserved = what;
        r->reserved[what]++;
    }
    pthread_mutex_unlock(&r->lock);
    if (!ok)
        metric_add(r->m_refused, 1);
    return ok;
}

/* rc: whether all that it needs is there. If so it goes to the writer, else it is over; whichever, op is gone. */
static int op_post(struct op *op, int rc, struct loop *loop, void *arg)
{
    if (rc == OMID_OK)
        return store_call_post(op->r->store, &op->call, loop, arg, sizeof(*op) + 4096);
    op_drop(&op->call);
    return rc;
}

/* What was given stays behind in an entry of its own. */
static bool op_spec(struct op *op, const struct registry_spec *s)
{
    op->entry = registry_entry_make(NULL, s);
    op->given = s->given;
    if (op->entry == NULL || !copy_text(&op->secret, s->given & REGISTRY_SECRET ? s->secret : NULL))
        return false;
    const struct registry_entry *e = op->entry;
    op->spec = *s;
    op->spec.id = e->id;
    op->spec.uid = e->uid;
    op->spec.name = e->name;
    op->spec.url = e->url;
    op->spec.setup_url = e->setup_url;
    op->spec.filter = e->filter;
    op->spec.secret = op->secret;
    op->spec.events = (const char *const *)e->events;
    return true;
}

/* ---------------------------------------------------------------- on the writer's thread */

static int made_read(struct store *s, struct op *op)
{
    registry_entry_release(&op->made);
    return registry_entry_read(s->db, op->spec.id != NULL ? op->spec.id : op->id, &op->made);
}

static bool secret_add(struct store *s, int64_t row, const char *secret, int64_t now_ms)
{
    sqlite3_stmt *st = db_stmt(s->db, SS_ENDPOINT_SECRET_ADD);
    sqlite3_bind_int64(st, 1, row);
    db_bind_str(st, 2, secret);
    sqlite3_bind_int64(st, 3, now_ms);
    return db_run(s->db, st);
}

static bool row_write(struct store *s, enum store_stmt what, const struct registry_entry *e)
{
    char *events = NULL;
    sqlite3_stmt *st = db_stmt(s->db, what);
    bool ok = registry_entry_bind(st, e, &events);
    if (!ok)
        db_set_error(s->db, "no memory");
    ok = ok && db_run(s->db, st);
    free(events);
    return ok;
}

/* 1: room for one more of this uid; 0: none; -1: failed. */
static int room_of_uid(struct store *s, const char *uid)
{
    sqlite3_stmt *st = db_stmt(s->db, SS_ENDPOINT_OF_UID);
    db_bind_str(st, 1, uid);
    if (db_step(s->db, st) <= 0)
        return -1;
    int64_t n = sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return n < REGISTRY_MAX_OF_UID;
}

static void state_set(struct registry_entry *e, const struct op *op)
{
    if ((op->given & REGISTRY_ENABLED) == 0 || op->spec.enabled == (e->disabled_ms == 0))
        return;
    e->disabled_ms = op->spec.enabled ? 0 : op->now_ms;
    free(e->disabled_reason);
    e->disabled_reason = strdup(op->spec.enabled ? "" : "operator");
}

static int insert(struct store *s, struct op *op)
{
    int room = op->spec.app ? 1 : room_of_uid(s, op->spec.uid);
    if (room <= 0)
        return room < 0 ? OMID_ERR : OMID_EFULL;
    struct registry_entry *e = registry_entry_make(NULL, &op->spec);
    if (e != NULL) {
        free(e->seed);
        e->seed = strdup(op->hash != NULL ? op->hash : "");
    }
    if (e == NULL || e->seed == NULL) {
        registry_entry_release(&e);
        db_set_error(s->db, "no memory");
        return OMID_ERR;
    }
    e->created_ms = e->changed_ms = op->now_ms;
    state_set(e, op);
    bool ok = row_write(s, SS_ENDPOINT_ADD, e);
    registry_entry_release(&e);
    if (!ok || made_read(s, op) != OMID_OK || op->made == NULL ||
        (op->secret != NULL && !secret_add(s, op->made->row, op->secret, op->now_ms)) || made_read(s, op) != OMID_OK)
        return OMID_ERR;
    op->changed = true;
    return OMID_OK;
}

static int run_add(struct store *s, struct store_call *c)
{
    struct op *op = (struct op *)c;
    if (made_read(s, op) != OMID_OK)
        return OMID_ERR;
    if (op->made != NULL)
        return OMID_EINVAL;
    return insert(s, op);
}

/* A new secret beside the old ones, which end. OMID_EINVAL: too many are valid. */
static int rotate(struct store *s, struct op *op)
{
    const struct registry_entry *e = op->made;
    size_t live = 0;
    for (size_t i = 0; i < e->n_secrets; i++)
        live += e->secret[i].valid_until_ms == 0 || e->secret[i].valid_until_ms > op->now_ms;
    if (live >= REGISTRY_MAX_SECRETS)
        return OMID_EINVAL;
    sqlite3_stmt *st = db_stmt(s->db, SS_ENDPOINT_SECRET_END);
    sqlite3_bind_int64(st, 1, e->row);
    sqlite3_bind_int64(st, 2, op->now_ms + op->overlap_ms);
    if (!db_run(s->db, st))
        return OMID_ERR;
    st = db_stmt(s->db, SS_ENDPOINT_SECRET_DELETE);
    sqlite3_bind_int64(st, 1, e->row);
    sqlite3_bind_int64(st, 2, op->now_ms);
    return db_run(s->db, st) && secret_add(s, e->row, op->secret, op->now_ms) ? OMID_OK : OMID_ERR;
}

/* Changes the row that made_read() has found. */
static int update(struct store *s, struct op *op)
{
    struct registry_spec given = op->spec;
    given.given &= ~(unsigned)REGISTRY_SECRET;
    struct registry_entry *e = registry_entry_make(op->made, &given);
    if (e != NULL) {
        e->changed_ms = op->now_ms;
        state_set(e, op);
    }
    if (e != NULL && op->hash != NULL) {
        free(e->seed);
        e->seed = strdup(op->hash);
    }
    if (e == NULL || e->seed == NULL || e->disabled_reason == NULL) {
        registry_entry_release(&e);
        db_set_error(s->db, "no memory");
        return OMID_ERR;
    }
    op->on = strcmp(e->url, op->made->url) != 0 || (e->disabled_ms == 0 && op->made->disabled_ms != 0);
    bool ok = row_write(s, SS_ENDPOINT_SET, e);
    registry_entry_release(&e);
    op->changed = ok;
    return ok ? OMID_OK : OMID_ERR;
}

static int run_change(struct store *s, struct store_call *c)
{
    struct op *op = (struct op *)c;
    if (made_read(s, op) != OMID_OK)
        return OMID_ERR;
    if (op->made == NULL || op->made->app != op->spec.app)
        return OMID_ENOTSUP;
    int rc = update(s, op);
    return rc == OMID_OK ? made_read(s, op) : rc;
}

static int run_seed(struct store *s, struct store_call *c)
{
    struct op *op = (struct op *)c;
    op->changed = false;
    if (made_read(s, op) != OMID_OK)
        return OMID_ERR;
    if (op->made == NULL)
        return insert(s, op);
    if (op->made->app != op->spec.app || (!op->spec.app && strcmp(op->made->uid, op->spec.uid) != 0))
        return OMID_EINVAL;
    if (strcmp(op->made->seed, op->hash) == 0)
        return OMID_OK;
    int rc = OMID_OK;
    if (op->secret != NULL && (op->made->n_secrets == 0 || strcmp(op->made->secret[0].text, op->secret) != 0))
        rc = rotate(s, op);
    if (rc == OMID_EINVAL) { /* too many: what else has changed is taken, and this with the next change */
        log_warning("registry", "a secret of the configuration has to wait: too many former ones are still valid",
                    LS("id", op->spec.id));
        rc = OMID_OK;
    }
    rc = rc == OMID_OK ? update(s, op) : rc;
    return rc == OMID_OK ? made_read(s, op) : rc;
}

static int run_remove(struct store *s, struct store_call *c)
{
    const struct op *op = (struct op *)c;
    sqlite3_stmt *st = db_stmt(s->db, SS_ENDPOINT_DELETE);
    db_bind_str(st, 1, op->id);
    sqlite3_bind_int(st, 2, op->app);
    if (!db_run(s->db, st))
        return OMID_ERR;
    return db_changes(s->db) > 0 ? OMID_OK : OMID_ENOTSUP;
}

static int disable_write(struct store *s, const struct op *op)
{
    sqlite3_stmt *st = db_stmt(s->db, SS_ENDPOINT_DISABLE);
    db_bind_str(st, 1, op->id);
    sqlite3_bind_int64(st, 2, op->now_ms);
    db_bind_str(st, 3, op->reason);
    if (op->failures > 0)
        sqlite3_bind_int64(st, 4, op->failures);
    if (!db_run(s->db, st))
        return OMID_ERR;
    if (!op->automatic)
        return OMID_OK;
    st = db_stmt(s->db, SS_DISABLED_PUT);
    db_bind_str(st, 1, op->id);
    sqlite3_bind_int64(st, 2, op->now_ms);
    db_bind_str(st, 3, op->reason);
    return db_run(s->db, st) ? OMID_OK : OMID_ERR;
}

static int enable_write(struct store *s, const struct op *op)
{
    sqlite3_stmt *st = db_stmt(s->db, SS_ENDPOINT_ENABLE);
    db_bind_str(st, 1, op->id);
    sqlite3_bind_int(st, 2, op->app);
    sqlite3_bind_int64(st, 3, op->now_ms);
    return db_run(s->db, st) ? OMID_OK : OMID_ERR;
}

static int run_enable(struct store *s, struct store_call *c)
{
    struct op *op = (struct op *)c;
    if (made_read(s, op) != OMID_OK)
        return OMID_ERR;
    if (op->made == NULL || (!op->automatic && op->made->app != op->app))
        return OMID_ENOTSUP;
    op->changed = op->on != (op->made->disabled_ms == 0);
    if (!op->changed)
        return OMID_OK;
    int rc = op->on ? enable_write(s, op) : disable_write(s, op);
    return rc == OMID_OK ? made_read(s, op) : rc;
}

static int run_enable_for(struct store *s, struct store_call *c)
{
    struct op *op = (struct op *)c;
    if (made_read(s, op) != OMID_OK)
        return OMID_ERR;
    if (op->made == NULL || !op->made->app)
        return OMID_ENOTSUP;
    int room = op->on ? room_of_uid(s, op->uid) : 1;
    if (room <= 0)
        return room < 0 ? OMID_ERR : OMID_EFULL;
    sqlite3_stmt *st = db_stmt(s->db, op->on ? SS_ENDPOINT_USER_ADD : SS_ENDPOINT_USER_DELETE);
    sqlite3_bind_int64(st, 1, op->made->row);
    db_bind_str(st, 2, op->uid);
    return db_run(s->db, st) ? OMID_OK : OMID_ERR;
}

static int run_rotate(struct store *s, struct store_call *c)
{
    struct op *op = (struct op *)c;
    if (made_read(s, op) != OMID_OK)
        return OMID_ERR;
    if (op->made == NULL || op->made->app != op->app)
        return OMID_ENOTSUP;
    int rc = rotate(s, op);
    return rc == OMID_OK ? made_read(s, op) : rc;
}

/* ---------------------------------------------------------------- after the commit */

static void committed_entry(struct store *s, struct store_call *c)
{
    struct op *op = (struct op *)c;
    (void)s;
    if (op->made == NULL || !op->changed)
        return;
    registry_put(op->r, op->made, op->on);
    op->made = NULL;
}

static void committed_remove(struct store *s, struct store_call *c)
{
    struct op *op = (struct op *)c;
    (void)s;
    registry_drop(op->r, op->id);
}

static void committed_enable(struct store *s, struct store_call *c)
{
    struct op *op = (struct op *)c;
    struct registry_entry *e = op->made != NULL && op->changed ? registry_entry_ref(op->made) : NULL;
    committed_entry(s, c);
    if (e != NULL && op->automatic) {
        static const char first[3] = {'f', 't', 'g'}; /* of the reasons */
        const struct registry_disabled d = {
            .id = e->id, .uid = e->uid, .url = e->url, .reason = op->reason, .app = e->app, .at_ms = e->disabled_ms};
        for (unsigned i = 0; i < 3; i++)
            metric_add(op->r->m_disabled[i], op->reason[0] == first[i]);
        log_warning("registry", "an endpoint that keeps failing was disabled", LS("id", e->id),
                    LS("kind", e->app ? "app" : "webhook"), LS("reason", op->reason));
        if (op->r->config.disabled != NULL)
            op->r->config.disabled(op->r->config.arg, &d);
    }
    registry_entry_release(&e);
}

static void committed_enable_for(struct store *s, struct store_call *c)
{
    struct op *op = (struct op *)c;
    (void)s;
    if (op->on)
        registry_user_add(op->r, op->uid, op->id);
    else
        registry_user_remove(op->r, op->uid, op->id);
}

/* ---------------------------------------------------------------- doors */

int registry_add(struct registry *r, const struct registry_spec *s, struct loop *loop, registry_cb cb, void *arg)
{
    static const struct op_kind kind = {.run = run_add, .committed = committed_entry};
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    struct op *op = op_new(r, &kind, s->app, NULL, cb);
    if (op == NULL)
        return OMID_ERR;
    int rc = !op_spec(op, s) ? OMID_ERR : !reserve(op, (enum reserved)s->app) ? OMID_EFULL : OMID_OK;
    return op_post(op, rc, loop, arg);
}

int registry_change(struct registry *r, const struct registry_spec *s, struct loop *loop, registry_cb cb, void *arg)
{
    static const struct op_kind kind = {.run = run_change, .committed = committed_entry};
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    struct op *op = op_new(r, &kind, s->app, NULL, cb);
    if (op == NULL)
        return OMID_ERR;
    return op_post(op, op_spec(op, s) ? OMID_OK : OMID_ERR, loop, arg);
}

int registry_seed(struct registry *r, const struct registry_spec *s, const char *hash, struct loop *loop,
                  registry_cb cb, void *arg)
{
    static const struct op_kind kind = {.run = run_seed, .committed = committed_entry};
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    struct op *op = op_new(r, &kind, s->app, NULL, cb);
    if (op == NULL)
        return OMID_ERR;
    int rc = op_spec(op, s) && copy_text(&op->hash, hash) ? OMID_OK : OMID_ERR;
    /* One that is there already needs no room. */
    struct registry_entry *there = rc == OMID_OK ? registry_get(r, s->app, s->id, NULL) : NULL;
    if (rc == OMID_OK && there == NULL && !reserve(op, (enum reserved)s->app))
        rc = OMID_EFULL;
    registry_entry_release(&there);
    return op_post(op, rc, loop, arg);
}

int registry_remove(struct registry *r, bool app, const char *id, struct loop *loop, registry_cb cb, void *arg)
{
    static const struct op_kind kind = {.run = run_remove, .committed = committed_remove};
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    struct op *op = op_new(r, &kind, app, id, cb);
    return op != NULL ? op_post(op, OMID_OK, loop, arg) : OMID_ERR;
}

int registry_enable(struct registry *r, bool app, const char *id, bool on, struct loop *loop, registry_cb cb, void *arg)
{
    static const struct op_kind kind = {.run = run_enable, .committed = committed_enable};
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    struct op *op = op_new(r, &kind, app, id, cb);
    if (op == NULL)
        return OMID_ERR;
    op->on = on;
    return op_post(op, copy_text(&op->reason, "operator") ? OMID_OK : OMID_ERR, loop, arg);
}

int registry_enable_for(struct registry *r, const char *id, const char *uid, bool on, struct loop *loop, registry_cb cb,
                        void *arg)
{
    static const struct op_kind kind = {.run = run_enable_for, .committed = committed_enable_for};
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    struct op *op = op_new(r, &kind, true, id, cb);
    if (op == NULL)
        return OMID_ERR;
    op->on = on;
    int rc = copy_text(&op->uid, uid) ? OMID_OK : OMID_ERR;
    if (rc == OMID_OK && on && !registry_enabled_for(r, id, uid) && !reserve(op, RESERVED_ENABLED))
        rc = OMID_EFULL;
    return op_post(op, rc, loop, arg);
}

int registry_rotate(struct registry *r, bool app, const char *id, const char *secret, struct loop *loop, registry_cb cb,
                    void *arg)
{
    static const struct op_kind kind = {.run = run_rotate, .committed = committed_entry};
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    struct op *op = op_new(r, &kind, app, id, cb);
    if (op == NULL)
        return OMID_ERR;
    op->changed = true;
    return op_post(op, copy_text(&op->secret, secret) ? OMID_OK : OMID_ERR, loop, arg);
}

/* ---------------------------------------------------------------- failures */

/* Not disabled after all: the next failure tries again. */
static void disable_drop(struct store_call *c)
{
    struct op *op = (struct op *)c;
    struct registry *r = op->r;
    pthread_mutex_lock(&r->lock);
    struct slot *s = registry_slot(r, op->id);
    if (s != NULL && c->result != OMID_OK)
        s->disabling = false;
    pthread_mutex_unlock(&r->lock);
    op_drop(c);
}

int registry_disable(struct registry *r, const char *id, const char *reason, unsigned failures, int64_t now_ms)
{
    static const struct op_kind kind = {.run = run_enable, .committed = committed_enable, .drop = disable_drop};
    struct op *op = op_new(r, &kind, false, id, NULL);
    if (op == NULL)
        return OMID_ERR;
    op->automatic = true;
    op->failures = failures;
    op->now_ms = now_ms;
    return op_post(op, copy_text(&op->reason, reason) ? OMID_OK : OMID_ERR, NULL, NULL);
}

static void runs_take(struct op *op)
{
    struct registry *r = op->r;
    pthread_mutex_lock(&r->lock);
    while (op->n_runs < op->max_runs && !list_empty(&r->dirty)) {
        struct slot *s = list_entry(list_pop(&r->dirty), struct slot, dirty);
        struct run_row *to = &op->runs[op->n_runs++];
        r->n_dirty--;
        *to = (struct run_row){.row = s->entry->row, .run = s->run};
        snprintf(to->id, sizeof(to->id), "%s", s->entry->id);
    }
    pthread_mutex_unlock(&r->lock);
}

static int run_runs(struct store *s, struct store_call *c)
{
    struct op *op = (struct op *)c;
    if (op->n_runs == 0) /* what they are now, not when it was posted */
        runs_take(op);
    for (size_t i = 0; i < op->n_runs; i++) {
        sqlite3_stmt *st = db_stmt(s->db, SS_ENDPOINT_RUN);
        sqlite3_bind_int64(st, 1, op->runs[i].row);
        sqlite3_bind_int64(st, 2, op->runs[i].run.failures);
        sqlite3_bind_int64(st, 3, op->runs[i].run.since_ms);
        if (!db_run(s->db, st))
            return OMID_ERR;
    }
    return OMID_OK;
}

/* Writer's thread. What could not be written is tried again with the next batch. */
static void runs_drop(struct store_call *c)
{
    struct op *op = (struct op *)c;
    struct registry *r = op->r;
    pthread_mutex_lock(&r->lock);
    for (size_t i = 0; i < op->n_runs && c->result != OMID_OK; i++) {
        struct slot *s = registry_slot(r, op->runs[i].id);
        if (s != NULL && list_empty(&s->dirty)) {
            list_append(&r->dirty, &s->dirty);
            r->n_dirty++;
        }
    }
    pthread_mutex_unlock(&r->lock);
    op_drop(c);
}

int registry_runs_write(struct registry *r, size_t max)
{
    static const struct op_kind kind = {.run = run_runs, .drop = runs_drop};
    struct op *op = op_new(r, &kind, false, NULL, NULL);
    if (op == NULL)
        return OMID_ERR;
    op->max_runs = max;
    op->runs = calloc(max, sizeof(*op->runs));
    return op_post(op, op->runs != NULL ? OMID_OK : OMID_ERR, NULL, NULL);
}
