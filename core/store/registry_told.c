/* Who is to be told that an endpoint was disabled: rows that the disabling writes with it, until that is done for good.
 */
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "store/registry_int.h"

#define RETELL_MAX 256
#define TOLD_MAX 256

/* ---------------------------------------------------------------- told for good */

/* One whose row is to go. It stays in memory until that is gone: what the disk does not take is not told again. */
struct told {
    struct store_call call;
    struct registry *r;
    struct list link;
    bool posted;
    int64_t at_ms;
    char id[REGISTRY_MAX_ID + 1];
};

/* With the lock. */
static struct told *told_find(const struct registry *r, const char *id, int64_t at_ms)
{
    list_each (it, &r->told) {
        struct told *t = list_entry(it, struct told, link);
        if (t->at_ms == at_ms && strcmp(t->id, id) == 0)
            return t;
    }
    return NULL;
}

static bool told_known(struct registry *r, const char *id, int64_t at_ms)
{
    pthread_mutex_lock(&r->lock);
    bool known = told_find(r, id, at_ms) != NULL;
    pthread_mutex_unlock(&r->lock);
    return known;
}

/* With the lock, or nobody else has it. */
static void told_free(struct told *t)
{
    list_remove(&t->link);
    t->r->n_told--;
    free(t);
}

static int told_run(struct store *s, struct store_call *c)
{
    const struct told *t = container_of(c, struct told, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_DISABLED_FORGET);
    db_bind_str(st, 1, t->id);
    sqlite3_bind_int64(st, 2, t->at_ms);
    return db_run(s->db, st) ? OMID_OK : OMID_ERR;
}

static void told_drop(struct store_call *c)
{
    struct told *t = container_of(c, struct told, call);
    struct registry *r = t->r;
    bool gone = c->result == OMID_OK;
    pthread_mutex_lock(&r->lock);
    t->posted = false;
    if (gone)
        told_free(t);
    pthread_mutex_unlock(&r->lock);
    if (!gone && r->config.untold != NULL)
        r->config.untold(r->config.arg);
}

static int told_post(struct registry *r, struct told *t)
{
    t->call = (struct store_call){.result = OMID_ECLOSED, .run = told_run, .drop = told_drop};
    return store_call_post(r->store, &t->call, NULL, NULL, sizeof(*t));
}

int registry_told(struct registry *r, const char *id, int64_t at_ms)
{
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    if (strlen(id) > REGISTRY_MAX_ID)
        return OMID_EINVAL;
    struct told *t = NULL;
    pthread_mutex_lock(&r->lock);
    bool known = told_find(r, id, at_ms) != NULL, room = r->n_told < TOLD_MAX;
    if (!known && room && (t = calloc(1, sizeof(*t))) != NULL) {
        strcpy(t->id, id);
        t->r = r;
        t->at_ms = at_ms;
        t->posted = true;
        list_append(&r->told, &t->link);
        r->n_told++;
    }
    pthread_mutex_unlock(&r->lock);
    if (t != NULL)
        return told_post(r, t);
    return known ? OMID_OK : room ? OMID_ERR : OMID_EFULL;
}

static void told_again(struct registry *r)
{
    struct told *again[TOLD_MAX];
    size_t n = 0;
    pthread_mutex_lock(&r->lock);
    list_each (it, &r->told) {
        struct told *t = list_entry(it, struct told, link);
        if (!t->posted)
            again[n++] = t;
        t->posted = true;
    }
    pthread_mutex_unlock(&r->lock);
    for (size_t i = 0; i < n; i++)
        (void)told_post(r, again[i]);
}

void registry_told_clear(struct registry *r)
{
    list_each (it, &r->told)
        told_free(list_entry(it, struct told, link));
}

/* ---------------------------------------------------------------- to be told again */

struct retell {
    struct store_call call;
    struct registry *r;
    size_t n, read;
    struct registry_disabled of[RETELL_MAX]; /* strings of its own */
};

static void disabled_clear(struct registry_disabled *d)
{
    free((char *)d->id);
    free((char *)d->uid);
    free((char *)d->url);
    free((char *)d->reason);
}

static void retell_clear(struct retell *t)
{
    while (t->n > 0)
        disabled_clear(&t->of[--t->n]);
}

static int retell_run(struct store *s, struct store_call *c)
{
    struct retell *t = container_of(c, struct retell, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_DISABLED);
    int r = 0;
    retell_clear(t);
    t->read = 0;
    sqlite3_bind_int64(st, 1, RETELL_MAX);
    while (t->read < RETELL_MAX && (r = db_step(s->db, st)) > 0) {
        t->read++;
        struct registry_disabled *d = &t->of[t->n++];
        *d = (struct registry_disabled){.id = db_col_dup(st, 0),
                                        .at_ms = sqlite3_column_int64(st, 1),
                                        .uid = db_col_dup(st, 2),
                                        .url = db_col_dup(st, 3),
                                        .app = sqlite3_column_int(st, 4) != 0,
                                        .reason = db_col_dup(st, 5)};
        if (!d->id || !d->uid || !d->url || !d->reason) {
            sqlite3_reset(st);
            db_set_error(s->db, "no memory");
            return OMID_ERR;
        }
        if (told_known(t->r, d->id, d->at_ms))
            disabled_clear(&t->of[--t->n]);
    }
    if (r > 0)
        sqlite3_reset(st);
    return r < 0 ? OMID_ERR : OMID_OK;
}

static void retell_committed(struct store *s, struct store_call *c)
{
    struct retell *t = container_of(c, struct retell, call);
    const struct registry_config *rc = &t->r->config;
    (void)s;
    for (size_t i = 0; rc->disabled != NULL && i < t->n; i++)
        rc->disabled(rc->arg, &t->of[i]);
}

/* Writer's thread. */
static void retell_drop(struct store_call *c)
{
    struct retell *t = container_of(c, struct retell, call);
    const struct registry_config *rc = &t->r->config;
    if (rc->untold != NULL && (c->result != OMID_OK || t->read == RETELL_MAX))
        rc->untold(rc->arg);
    retell_clear(t);
    free(t);
}

int registry_retell(struct registry *r)
{
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    told_again(r);
    struct retell *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return OMID_ERR;
    t->r = r;
    t->call.result = OMID_ECLOSED;
    t->call.run = retell_run;
    t->call.committed = retell_committed;
    t->call.drop = retell_drop;
    return store_call_post(r->store, &t->call, NULL, NULL, sizeof(*t));
}
