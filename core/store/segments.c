/* Segments: written in batches, read with their conversation. */
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "store/store_int.h"

/* ---------------------------------------------------------------- reading */

static void segment_free(struct store_segment *g)
{
    free((char *)g->id);
    free((char *)g->text);
    free((char *)g->speaker);
    free((char *)g->person_id);
    free((char *)g->person_name);
    free((char *)g->stt_provider);
    free((char *)g->session);
}

void store_conversation_free(struct store_conversation **cp)
{
    struct store_conversation *c = *cp;
    if (c == NULL)
        return;
    for (size_t i = 0; i < c->n_segments; i++)
        segment_free(&c->segment[i]);
    free(c->segment);
    store_content_free(c);
    free(c->uid);
    free(c->language);
    free(c->source);
    free(c->call_id);
    free(c->structured);
    free(c->error);
    free(c->geolocation);
    free(c);
    *cp = NULL;
}

static bool segment_read(sqlite3_stmt *st, struct store_segment *g)
{
    *g = (struct store_segment){
        .id = db_col_dup(st, 0),
        .text = db_col_dup(st, 1),
        .speaker = db_col_dup(st, 2),
        .speaker_id = sqlite3_column_int(st, 3),
        .is_user = sqlite3_column_int(st, 4) != 0,
        .person_id = db_col_dup(st, 5),
        .stt_provider = db_col_dup(st, 6),
        .start = sqlite3_column_double(st, 7),
        .end = sqlite3_column_double(st, 8),
        .person_name = db_col_dup(st, 9),
        .session = db_col_dup(st, 10),
    };
    return g->id != NULL && g->text != NULL && g->speaker != NULL;
}

int store_segments_read(struct db *db, int64_t row, struct store_conversation *c)
{
    sqlite3_stmt *st = db_stmt(db, SS_SEG_OF);
    size_t cap = 0;
    int r;
    sqlite3_bind_int64(st, 1, row);
    while ((r = db_step(db, st)) > 0) {
        if (c->n_segments == cap) {
            cap = cap ? cap * 2 : 16;
            struct store_segment *more = realloc(c->segment, cap * sizeof(*more));
            if (more == NULL)
                goto no_memory;
            c->segment = more;
        }
        if (!segment_read(st, &c->segment[c->n_segments++]))
            goto no_memory;
    }
    return r < 0 ? OMID_ERR : OMID_OK;
no_memory:
    sqlite3_reset(st);
    db_set_error(db, "no memory");
    return OMID_ERR;
}

/* ---------------------------------------------------------------- writing */

struct put_call {
    struct store_call call;
    void (*cb)(void *arg, int result);
    const char *conversation_id;
    int64_t started_ms, finished_ms, timeout_ms;
    size_t n_segments, n_deleted, n_photos, n_namings;
    struct store_segment *segment; /* strings in text, as all others */
    const char **deleted;
    struct store_photo *photo; /* its bytes in text, too */
    struct store_naming *naming;
    char *text;
};

bool store_segment_put(struct store *s, int64_t row, const struct store_segment *g)
{
    sqlite3_stmt *st = db_stmt(s->db, SS_SEG_PUT);
    sqlite3_bind_int64(st, 1, row);
    db_bind_str(st, 2, g->id);
    db_bind_str(st, 3, g->text);
    db_bind_str(st, 4, g->speaker);
    sqlite3_bind_int(st, 5, g->speaker_id);
    sqlite3_bind_int(st, 6, g->is_user);
    db_bind_str(st, 7, g->person_id);
    db_bind_str(st, 8, g->stt_provider);
    sqlite3_bind_double(st, 9, g->start);
    sqlite3_bind_double(st, 10, g->end);
    db_bind_str(st, 11, g->session);
    return db_run(s->db, st);
}

static int put_run(struct store *s, struct store_call *call)
{
    struct put_call *p = container_of(call, struct put_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_CONV_ROW);
    db_bind_str(st, 1, p->conversation_id);
    int r = db_step(s->db, st);
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_ENOTSUP;
    int64_t row = sqlite3_column_int64(st, 0);
    char *uid = db_col_dup(st, 1);
    sqlite3_reset(st);
    bool ok = uid != NULL;
    for (size_t i = 0; ok && i < p->n_namings; i++)
        ok = store_speaker_put(s->db, row, uid, &p->naming[i]);
    for (size_t i = 0; ok && i < p->n_photos; i++)
        ok = store_photo_put(s->db, row, &p->photo[i]);
    free(uid);
    if (!ok)
        return OMID_ERR;
    for (size_t i = 0; i < p->n_deleted; i++) {
        st = db_stmt(s->db, SS_SEG_DELETE);
        sqlite3_bind_int64(st, 1, row);
        db_bind_str(st, 2, p->deleted[i]);
        if (!db_run(s->db, st))
            return OMID_ERR;
    }
    for (size_t i = 0; i < p->n_segments; i++) {
        if (!store_segment_put(s, row, &p->segment[i]))
            return OMID_ERR;
    }
    if (p->started_ms == 0 && p->finished_ms == 0 && p->timeout_ms == 0)
        return OMID_OK;
    st = db_stmt(s->db, SS_CONV_TIMES);
    sqlite3_bind_int64(st, 1, row);
    sqlite3_bind_int64(st, 2, p->started_ms);
    sqlite3_bind_int64(st, 3, p->finished_ms);
    sqlite3_bind_int64(st, 4, p->timeout_ms);
    return db_run(s->db, st) ? OMID_OK : OMID_ERR;
}

static void put_answer(struct store_call *call)
{
    struct put_call *p = container_of(call, struct put_call, call);
    p->cb(call->arg, call->result);
}

static void put_drop(struct store_call *call)
{
    struct put_call *p = container_of(call, struct put_call, call);
    free(p->segment);
    free(p->deleted);
    free(p->photo);
    free(p->naming);
    free(p->text);
    free(p);
}

static size_t len_of(const char *s)
{
    return s ? strlen(s) + 1 : 0;
}

static const char *put_text(char **at, const char *s)
{
    char *to = *at;
    if (s == NULL)
        return NULL;
    *at = stpcpy(to, s) + 1;
    return to;
}

static bool segment_ok(const struct store_segment *g)
{
    return g->id != NULL && g->text != NULL && g->speaker != NULL && store_text_ok(g->id) && store_text_ok(g->text) &&
           store_text_ok(g->speaker) && store_text_ok(g->person_id) && store_text_ok(g->stt_provider) &&
           store_text_ok(g->session);
}

static bool photo_ok(const struct store_photo *p)
{
    return p->id != NULL && p->description != NULL && p->data != NULL && store_text_ok(p->id) &&
           store_text_ok(p->description) && p->len <= STORE_MAX_PHOTO;
}

static bool naming_ok(const struct store_naming *n)
{
    return n->sample_id != NULL && n->name != NULL && n->segments != NULL && store_text_ok(n->sample_id) &&
           store_text_ok(n->person_id) && store_text_ok(n->name) && store_text_ok(n->segments);
}

/* 0: something is unusable. */
static size_t update_size(const struct store_update *u)
{
    size_t len = len_of(u->conversation_id);
    for (size_t i = 0; i < u->n_segments; i++) {
        const struct store_segment *g = &u->segment[i];
        if (!segment_ok(g))
            return 0;
        len += len_of(g->id) + len_of(g->text) + len_of(g->speaker) + len_of(g->person_id) + len_of(g->stt_provider) +
               len_of(g->session);
    }
    for (size_t i = 0; i < u->n_deleted; i++) {
        if (u->deleted[i] == NULL || !store_text_ok(u->deleted[i]))
            return 0;
        len += len_of(u->deleted[i]);
    }
    for (size_t i = 0; i < u->n_photos; i++) {
        const struct store_photo *p = &u->photo[i];
        if (!photo_ok(p))
            return 0;
        len += len_of(p->id) + len_of(p->description) + p->len;
    }
    for (size_t i = 0; i < u->n_namings; i++) {
        const struct store_naming *n = &u->naming[i];
        if (!naming_ok(n))
            return 0;
        len += len_of(n->sample_id) + len_of(n->person_id) + len_of(n->name) + len_of(n->segments);
    }
    return len;
}

static void put_content(struct put_call *p, const struct store_update *u, char **at)
{
    for (size_t i = 0; i < u->n_photos; i++) {
        const struct store_photo *from = &u->photo[i];
        p->photo[i] = *from;
        p->photo[i].id = put_text(at, from->id);
        p->photo[i].description = put_text(at, from->description);
        p->photo[i].data = memcpy(*at, from->data, from->len);
        *at += from->len;
    }
    for (size_t i = 0; i < u->n_namings; i++) {
        const struct store_naming *from = &u->naming[i];
        p->naming[i] = *from;
        p->naming[i].sample_id = put_text(at, from->sample_id);
        p->naming[i].person_id = put_text(at, from->person_id);
        p->naming[i].name = put_text(at, from->name);
        p->naming[i].segments = put_text(at, from->segments);
    }
    p->n_photos = u->n_photos;
    p->timeout_ms = u->timeout_ms;
    p->n_namings = u->n_namings;
}

int store_segments_put(struct store *s, const struct store_update *u, struct loop *loop,
                       void (*cb)(void *arg, int result), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    size_t len = u->conversation_id != NULL ? update_size(u) : 0;
    if (len == 0)
        return OMID_EINVAL;
    struct put_call *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return OMID_ERR;
    p->segment = calloc(u->n_segments + 1, sizeof(*p->segment));
    p->deleted = calloc(u->n_deleted + 1, sizeof(*p->deleted));
    p->photo = calloc(u->n_photos + 1, sizeof(*p->photo));
    p->naming = calloc(u->n_namings + 1, sizeof(*p->naming));
    p->text = malloc(len);
    if (p->segment == NULL || p->deleted == NULL || p->photo == NULL || p->naming == NULL || p->text == NULL) {
        put_drop(&p->call);
        return OMID_ERR;
    }
    char *at = p->text;
    p->conversation_id = put_text(&at, u->conversation_id);
    p->started_ms = u->started_ms;
    p->finished_ms = u->finished_ms;
    for (size_t i = 0; i < u->n_segments; i++) {
        const struct store_segment *g = &u->segment[i];
        p->segment[i] = *g;
        p->segment[i].id = put_text(&at, g->id);
        p->segment[i].text = put_text(&at, g->text);
        p->segment[i].speaker = put_text(&at, g->speaker);
        p->segment[i].person_id = put_text(&at, g->person_id);
        p->segment[i].stt_provider = put_text(&at, g->stt_provider);
        p->segment[i].session = put_text(&at, g->session);
    }
    for (size_t i = 0; i < u->n_deleted; i++)
        p->deleted[i] = put_text(&at, u->deleted[i]);
    put_content(p, u, &at);
    p->n_segments = u->n_segments;
    p->n_deleted = u->n_deleted;
    p->cb = cb;
    p->call.run = put_run;
    p->call.answer = put_answer;
    p->call.drop = put_drop;
    size_t bytes = sizeof(*p) + len + u->n_segments * sizeof(*p->segment) + u->n_deleted * sizeof(char *);
    return store_call_post(s, &p->call, cb ? loop : NULL, arg, bytes);
}
