#include "store/places.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "store/store_int.h"

struct place_call {
    struct store_call call;
    void (*done)(void *arg, int result);
    void (*got)(void *arg, int result, const struct store_place *place);
    struct store_place place;
    bool there;
    const char *id, *json; /* of the uid or the conversation */
    char text[];
};

static int place_put_run(struct store *s, struct store_call *call)
{
    struct place_call *c = container_of(call, struct place_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_PLACE_PUT);
    db_bind_str(st, 1, c->id);
    sqlite3_bind_double(st, 2, c->place.latitude);
    sqlite3_bind_double(st, 3, c->place.longitude);
    sqlite3_bind_int64(st, 4, c->place.updated_ms);
    return db_run(s->db, st) ? OMID_OK : OMID_ERR;
}

static int place_get_run(struct store *s, struct store_call *call)
{
    struct place_call *c = container_of(call, struct place_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_PLACE_OF);
    db_bind_str(st, 1, c->id);
    int r = db_step(s->db, st);
    c->there = r > 0;
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_OK;
    c->place = (struct store_place){.latitude = sqlite3_column_double(st, 0),
                                    .longitude = sqlite3_column_double(st, 1),
                                    .updated_ms = sqlite3_column_int64(st, 2)};
    sqlite3_reset(st);
    return OMID_OK;
}

static int geolocation_run(struct store *s, struct store_call *call)
{
    struct place_call *c = container_of(call, struct place_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_GEOLOCATION_SET);
    db_bind_str(st, 1, c->id);
    db_bind_str(st, 2, c->json);
    if (!db_run(s->db, st))
        return OMID_ERR;
    return db_changes(s->db) > 0 ? OMID_OK : OMID_ENOTSUP;
}

static void place_answer(struct store_call *call)
{
    struct place_call *c = container_of(call, struct place_call, call);
    if (c->got != NULL)
        c->got(call->arg, call->result, call->result == OMID_OK && c->there ? &c->place : NULL);
    else
        c->done(call->arg, call->result);
}

static void place_drop(struct store_call *call)
{
    free(container_of(call, struct place_call, call));
}

/* NULL: no memory. */
static struct place_call *call_new(const char *id, const char *json)
{
    size_t n = strlen(id) + 1, m = json ? strlen(json) + 1 : 0;
    struct place_call *c = calloc(1, sizeof(*c) + n + m);
    if (c == NULL)
        return NULL;
    memcpy(c->text, id, n);
    c->id = c->text;
    if (json != NULL)
        c->json = memcpy(c->text + n, json, m);
    c->call.answer = place_answer;
    c->call.drop = place_drop;
    return c;
}

static bool within(double degrees, double bound)
{
    return isfinite(degrees) && degrees >= -bound && degrees <= bound;
}

int store_place_set(struct store *s, const char *uid, const struct store_place *place, struct loop *loop,
                    void (*cb)(void *arg, int result), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    omid_assert(cb != NULL && loop != NULL);
    if (uid == NULL || uid[0] == '\0' || !store_text_ok(uid) || !within(place->latitude, 90) ||
        !within(place->longitude, 180))
        return OMID_EINVAL;
    struct place_call *c = call_new(uid, NULL);
    if (c == NULL)
        return OMID_ERR;
    c->place = *place;
    c->done = cb;
    c->call.run = place_put_run;
    return store_call_post(s, &c->call, loop, arg, sizeof(*c) + strlen(uid));
}

int store_place_get(struct store *s, const char *uid, struct loop *loop,
                    void (*cb)(void *arg, int result, const struct store_place *place), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    omid_assert(cb != NULL && loop != NULL);
    if (uid == NULL || !store_text_ok(uid))
        return OMID_EINVAL;
    struct place_call *c = call_new(uid, NULL);
    if (c == NULL)
        return OMID_ERR;
    c->got = cb;
    c->call.run = place_get_run;
    return store_call_post(s, &c->call, loop, arg, sizeof(*c) + strlen(uid));
}

int store_geolocation_set(struct store *s, const char *conversation_id, const char *json, struct loop *loop,
                          void (*cb)(void *arg, int result), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    omid_assert(cb != NULL && loop != NULL && json != NULL);
    if (conversation_id == NULL || !store_text_ok(conversation_id) || !store_text_ok(json))
        return OMID_EINVAL;
    struct place_call *c = call_new(conversation_id, json);
    if (c == NULL)
        return OMID_ERR;
    c->done = cb;
    c->call.run = geolocation_run;
    return store_call_post(s, &c->call, loop, arg, sizeof(*c) + strlen(json));
}
