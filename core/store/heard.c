/*
 * What was heard of recordings that are transcribed piece by piece: so that an attempt goes on where the last one was,
 * and a provider is not asked twice for the same piece.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "store/recordings.h"
#include "store/store_int.h"

struct heard_call {
    struct store_call call;
    void (*cb)(void *arg, int result);
    struct store_heard h;
    struct store_segment *segment; /* strings in text */
    char *text;
};

static bool segment_put(struct db *db, int64_t recording, const struct store_segment *g)
{
    sqlite3_stmt *st = db_stmt(db, SS_HEARD_PUT);
    sqlite3_bind_int64(st, 1, recording);
    db_bind_str(st, 2, g->text);
    sqlite3_bind_int(st, 3, g->speaker_id);
    db_bind_str(st, 4, g->stt_provider);
    sqlite3_bind_double(st, 5, g->start);
    sqlite3_bind_double(st, 6, g->end);
    return db_run(db, st);
}

static int heard_run(struct store *s, struct store_call *call)
{
    const struct heard_call *c = container_of(call, struct heard_call, call);
    const struct store_heard *h = &c->h;
    sqlite3_stmt *st = db_stmt(s->db, SS_HEARD_UNTIL);
    sqlite3_bind_int64(st, 1, h->n);
    int r = db_step(s->db, st);
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_ENOTSUP;
    uint64_t until = (uint64_t)sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    if (until >= h->until)
        return OMID_OK; /* it was kept, and nobody heard of it */
    for (size_t i = 0; i < h->n_segments; i++) {
        if (!segment_put(s->db, h->n, &c->segment[i]))
            return OMID_ERR;
    }
    st = db_stmt(s->db, SS_HEARD_SET);
    sqlite3_bind_int64(st, 1, h->n);
    sqlite3_bind_int64(st, 2, (int64_t)h->until);
    sqlite3_bind_double(st, 3, h->progress);
    return db_run(s->db, st) ? OMID_OK : OMID_ERR;
}

static void heard_answer(struct store_call *call)
{
    container_of(call, struct heard_call, call)->cb(call->arg, call->result);
}

static void heard_drop(struct store_call *call)
{
    struct heard_call *c = container_of(call, struct heard_call, call);
    free(c->segment);
    free(c->text);
    free(c);
}

int store_heard_put(struct store *s, const struct store_heard *h, struct loop *loop, void (*cb)(void *arg, int result),
                    void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    size_t len = 1;
    for (size_t i = 0; i < h->n_segments; i++) {
        const struct store_segment *g = &h->segment[i];
        if (g->text == NULL || g->stt_provider == NULL || !store_text_ok(g->text) || !(g->end >= g->start))
            return OMID_EINVAL;
        len += strlen(g->text) + strlen(g->stt_provider) + 2;
    }
    struct heard_call *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return OMID_ERR;
    *c = (struct heard_call){.cb = cb, .h = *h};
    c->call = (struct store_call){.run = heard_run, .answer = heard_answer, .drop = heard_drop};
    c->segment = calloc(h->n_segments + 1, sizeof(*c->segment));
    char *at = c->text = malloc(len);
    if (c->segment == NULL || c->text == NULL) {
        heard_drop(&c->call);
        return OMID_ERR;
    }
    for (size_t i = 0; i < h->n_segments; i++) {
        struct store_segment *g = &c->segment[i];
        *g = h->segment[i];
        g->text = memcpy(at, g->text, strlen(g->text) + 1);
        at += strlen(at) + 1;
        g->stt_provider = memcpy(at, g->stt_provider, strlen(g->stt_provider) + 1);
        at += strlen(at) + 1;
    }
    c->h.segment = c->segment;
    return store_call_post(s, &c->call, loop, arg, sizeof(*c) + len + h->n_segments * sizeof(*c->segment));
}

static int heard_read(struct db *db, int64_t n, uint64_t *until, bool (*each)(void *arg, const struct store_segment *g),
                      void *arg)
{
    sqlite3_stmt *st = db_stmt(db, SS_HEARD_UNTIL);
    sqlite3_bind_int64(st, 1, n);
    int r = db_step(db, st);
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_OK;
    *until = (uint64_t)sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    st = db_stmt(db, SS_HEARD_OF);
    sqlite3_bind_int64(st, 1, n);
    while ((r = db_step(db, st)) > 0) {
        const struct store_segment g = {.text = db_col_str(st, 0),
                                        .speaker_id = sqlite3_column_int(st, 1),
                                        .stt_provider = db_col_str(st, 2),
                                        .start = sqlite3_column_double(st, 3),
                                        .end = sqlite3_column_double(st, 4)};
        if (!each(arg, &g)) {
            sqlite3_reset(st);
            db_set_error(db, "no memory");
            return OMID_ERR;
        }
    }
    return r < 0 ? OMID_ERR : OMID_OK;
}

int store_heard_read(struct store *s, int64_t n, uint64_t *until,
                     bool (*each)(void *arg, const struct store_segment *g), void *arg, char *err, size_t errlen)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    struct db *db = store_reader_take(s, err, errlen);
    *until = 0;
    if (db == NULL)
        return OMID_ERR;
    /* One look: nothing of a piece that is written meanwhile. */
    if (!db_exec(db, "BEGIN") || heard_read(db, n, until, each, arg) != OMID_OK || !db_exec(db, "COMMIT"))
        return store_read_failed(s, db, err, errlen);
    store_reader_give(s, db, false);
    return OMID_OK;
}
