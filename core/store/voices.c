/* Voices: vectors of people and of the owner. */
#include "store/voices.h"

#include <stdlib.h>
#include <string.h>

#include "store/voices_int.h"

/* ---------------------------------------------------------------- vectors as bytes */

static void vector_encode(unsigned char *out, const float *vector, size_t dim)
{
    for (size_t i = 0; i < dim; i++) {
        uint32_t bits;
        memcpy(&bits, &vector[i], 4);
        for (int k = 0; k < 4; k++)
            out[4 * i + (size_t)k] = (unsigned char)(bits >> (8 * k));
    }
}

static void vector_decode(float *out, const unsigned char *bytes, size_t dim)
{
    for (size_t i = 0; i < dim; i++) {
        uint32_t bits = 0;
        for (int k = 0; k < 4; k++)
            bits |= (uint32_t)bytes[4 * i + (size_t)k] << (8 * k);
        memcpy(&out[i], &bits, 4);
    }
}

/* ---------------------------------------------------------------- reading */

void store_voices_free(struct store_voices *v)
{
    for (size_t i = 0; i < v->n; i++) {
        free(v->voice[i].person_id);
        free(v->voice[i].name);
        free(v->voice[i].vector);
    }
    free(v->voice);
    *v = (struct store_voices){0};
}

static bool voice_read(sqlite3_stmt *st, size_t max_bytes, struct store_voices *out)
{
    size_t bytes = (size_t)sqlite3_column_bytes(st, 2), dim = bytes / 4;
    const char *person = db_col_str(st, 0), *name = db_col_str(st, 1);
    size_t cost = sizeof(struct store_voice) + strlen(person) + strlen(name) + 2 + bytes;
    if (dim == 0 || out->bytes + cost > max_bytes) {
        out->left_out++;
        return true;
    }
    struct store_voice *more = realloc(out->voice, (out->n + 1) * sizeof(*more));
    if (more == NULL)
        return false;
    out->voice = more;
    struct store_voice *v = &more[out->n++];
    *v = (struct store_voice){
        .person_id = strdup(person), .name = strdup(name), .vector = malloc(dim * sizeof(float)), .dim = dim};
    if (v->person_id == NULL || v->name == NULL || v->vector == NULL)
        return false;
    vector_decode(v->vector, sqlite3_column_blob(st, 2), dim);
    out->bytes += cost;
    return true;
}

int store_voices_read(struct store *s, const char *uid, size_t max_bytes, struct store_voices *out, char *err,
                      size_t errlen)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    *out = (struct store_voices){0};
    struct db *db = store_reader_take(s, err, errlen);
    if (db == NULL)
        return OMID_ERR;
    sqlite3_stmt *st = db_stmt(db, SS_VOICE_OF);
    db_bind_str(st, 1, uid);
    int r;
    while ((r = db_step(db, st)) > 0) {
        if (!voice_read(st, max_bytes, out)) {
            sqlite3_reset(st);
            db_set_error(db, "no memory");
            r = -1;
            break;
        }
    }
    if (r < 0) {
        store_voices_free(out);
        return store_read_failed(s, db, err, errlen);
    }
    store_reader_give(s, db, false);
    return OMID_OK;
}

/* ---------------------------------------------------------------- calls */

static void call_answer(struct store_call *call)
{
    struct voice_call *c = container_of(call, struct voice_call, call);
    c->cb(call->arg, call->result);
}

void voice_call_drop(struct store_call *call)
{
    free(container_of(call, struct voice_call, call));
}

struct voice_call *voice_call_new(const char *const text[VOICE_TEXTS], const float *vector, size_t dim)
{
    size_t bytes = dim * 4;
    if (dim > STORE_MAX_VECTOR)
        return NULL;
    for (int i = 0; i < VOICE_TEXTS; i++) {
        if (!store_text_ok(text[i]))
            return NULL;
        bytes += text[i] != NULL ? strlen(text[i]) + 1 : 0;
    }
    struct voice_call *c = calloc(1, sizeof(*c) + bytes);
    if (c == NULL)
        return NULL;
    c->bytes = sizeof(*c) + bytes;
    c->dim = dim;
    if (dim > 0)
        vector_encode(c->data, vector, dim);
    char *at = (char *)c->data + dim * 4;
    for (int i = 0; i < VOICE_TEXTS; i++) {
        if (text[i] == NULL)
            continue;
        c->text[i] = at;
        at = stpcpy(at, text[i]) + 1;
    }
    c->call.answer = call_answer;
    c->call.drop = voice_call_drop;
    return c;
}

int voice_call_post(struct store *s, struct voice_call *c, int (*run)(struct store *s, struct store_call *call),
                    struct loop *loop, store_result_cb cb, void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    if (c == NULL)
        return OMID_ERR;
    c->call.run = run;
    c->cb = cb;
    return store_call_post(s, &c->call, cb != NULL ? loop : NULL, arg, c->bytes);
}

/* ---------------------------------------------------------------- writing */

int voice_insert(struct db *db, const char *uid, const char *person_id, const struct voice_call *c)
{
    sqlite3_stmt *st = db_stmt(db, SS_VOICE_PUT);
    db_bind_str(st, 1, uid);
    db_bind_str(st, 2, person_id);
    sqlite3_bind_int(st, 3, c->kind);
    sqlite3_bind_int64(st, 4, c->ms);
    sqlite3_bind_double(st, 5, c->seconds);
    sqlite3_bind_blob64(st, 6, c->data, c->dim * 4, SQLITE_STATIC);
    if (!db_run(db, st))
        return OMID_ERR;
    if (db_changes(db) == 0)
        return OMID_ENOTSUP;
    st = db_stmt(db, SS_VOICE_TRIM);
    db_bind_str(st, 1, uid);
    db_bind_str(st, 2, person_id);
    sqlite3_bind_int(st, 3, c->kind);
    sqlite3_bind_int(st, 4, c->kind == STORE_VOICE_PROFILE ? 1 : STORE_MAX_VOICES);
    return db_run(db, st) ? OMID_OK : OMID_ERR;
}

static int put_run(struct store *s, struct store_call *call)
{
    struct voice_call *c = container_of(call, struct voice_call, call);
    return voice_insert(s->db, c->text[0], c->text[1], c);
}

int store_voice_put(struct store *s, const struct store_voice_new *v, struct loop *loop, store_result_cb cb, void *arg)
{
    if (v->dim == 0 || v->dim > STORE_MAX_VECTOR)
        return OMID_EINVAL;
    struct voice_call *c = voice_call_new((const char *[VOICE_TEXTS]){v->uid, v->person_id}, v->vector, v->dim);
    if (c != NULL) {
        c->kind = v->kind;
        c->ms = v->now_ms;
        c->seconds = v->seconds;
    }
    return voice_call_post(s, c, put_run, loop, cb, arg);
}

/* ---------------------------------------------------------------- the owner's profile */

static int profile_delete_run(struct store *s, struct store_call *call)
{
    struct voice_call *c = container_of(call, struct voice_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_VOICE_DELETE);
    db_bind_str(st, 1, c->text[0]);
    db_bind_str(st, 2, STORE_OWNER);
    if (!db_run(s->db, st))
        return OMID_ERR;
    int64_t gone = db_changes(s->db);
    st = db_stmt(s->db, SS_SAMPLES_DROP); /* those that wait would bring it back */
    db_bind_str(st, 1, c->text[0]);
    db_bind_str(st, 2, STORE_OWNER);
    if (!db_run(s->db, st))
        return OMID_ERR;
    return gone + db_changes(s->db) > 0 ? OMID_OK : OMID_ENOTSUP;
}

int store_profile_delete(struct store *s, const char *uid, struct loop *loop, store_result_cb cb, void *arg)
{
    struct voice_call *c = voice_call_new((const char *[VOICE_TEXTS]){uid}, NULL, 0);
    return voice_call_post(s, c, profile_delete_run, loop, cb, arg);
}

struct profile_call {
    struct store_call call;
    void (*cb)(void *arg, int result, const struct store_profile *profile);
    struct store_profile profile;
    char uid[];
};

static int profile_run(struct store *s, struct store_call *call)
{
    struct profile_call *c = container_of(call, struct profile_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_PROFILE_OF);
    c->profile = (struct store_profile){0};
    db_bind_str(st, 1, c->uid);
    int r = db_step(s->db, st);
    if (r > 0) {
        c->profile = (struct store_profile){.created_ms = sqlite3_column_int64(st, 0),
                                            .seconds = sqlite3_column_double(st, 1),
                                            .samples = (unsigned)sqlite3_column_int64(st, 2)};
        sqlite3_reset(st);
    }
    return r < 0 ? OMID_ERR : OMID_OK;
}

static void profile_answer(struct store_call *call)
{
    struct profile_call *c = container_of(call, struct profile_call, call);
    c->cb(call->arg, call->result, &c->profile);
}

static void profile_drop(struct store_call *call)
{
    free(container_of(call, struct profile_call, call));
}

int store_profile_get(struct store *s, const char *uid, struct loop *loop,
                      void (*cb)(void *arg, int result, const struct store_profile *profile), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    if (!store_text_ok(uid))
        return OMID_EINVAL;
    struct profile_call *c = calloc(1, sizeof(*c) + strlen(uid) + 1);
    if (c == NULL)
        return OMID_ERR;
    strcpy(c->uid, uid);
    c->cb = cb;
    c->call.run = profile_run;
    c->call.answer = profile_answer;
    c->call.drop = profile_drop;
    return store_call_post(s, &c->call, loop, arg, sizeof(*c) + strlen(uid));
}
