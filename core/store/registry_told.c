/* Who is to be told that an endpoint was disabled: rows that the disabling writes with it, until that is done for good.
 */
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "store/registry_int.h"

#define RETELL_MAX 256

struct retell {
    struct store_call call;
    struct registry *r;
    size_t n;
    struct registry_disabled of[RETELL_MAX]; /* strings of its own */
};

static void retell_clear(struct retell *t)
{
    while (t->n > 0) {
        struct registry_disabled *d = &t->of[--t->n];
        free((char *)d->id);
        free((char *)d->uid);
        free((char *)d->url);
        free((char *)d->reason);
    }
}

static int retell_run(struct store *s, struct store_call *c)
{
    struct retell *t = container_of(c, struct retell, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_DISABLED);
    int r = 0;
    retell_clear(t);
    sqlite3_bind_int64(st, 1, RETELL_MAX);
    while (t->n < RETELL_MAX && (r = db_step(s->db, st)) > 0) {
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
    if (rc->untold != NULL && (c->result != OMID_OK || t->n == RETELL_MAX))
        rc->untold(rc->arg);
    retell_clear(t);
    free(t);
}

int registry_retell(struct registry *r)
{
    CHECK_MAGIC(r, REGISTRY_MAGIC);
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

struct told {
    struct store_call call;
    int64_t at_ms;
    char id[REGISTRY_MAX_ID + 1];
};

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
    free(container_of(c, struct told, call));
}

int registry_told(struct registry *r, const char *id, int64_t at_ms)
{
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    if (strlen(id) > REGISTRY_MAX_ID)
        return OMID_EINVAL;
    struct told *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return OMID_ERR;
    strcpy(t->id, id);
    t->at_ms = at_ms;
    t->call.run = told_run;
    t->call.drop = told_drop;
    return store_call_post(r->store, &t->call, NULL, NULL, sizeof(*t));
}
