/* Samples of voices that wait to be taken: which are due, and what became of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/voices_int.h"

struct due_call {
    struct store_call call;
    void (*cb)(void *arg, const struct store_sample *sample, size_t n, int64_t waiting);
    struct store_samples_query q;
    struct store_sample *sample; /* room for q.max */
    size_t n;
    int64_t waiting;
};

static void due_clear(struct due_call *d)
{
    for (size_t i = 0; i < d->n; i++) {
        free(d->sample[i].uid);
        free(d->sample[i].person_id);
    }
    d->n = 0;
}

/* The longest that is there. false: failed. */
static bool segment_find(struct db *db, sqlite3_stmt *st, struct store_sample *a)
{
    int r = db_step(db, st);
    if (r > 0) {
        a->heard = true;
        a->start = sqlite3_column_double(st, 0);
        a->end = sqlite3_column_double(st, 1);
        snprintf(a->session, sizeof(a->session), "%s", db_col_str(st, 2) != NULL ? db_col_str(st, 2) : "");
        sqlite3_reset(st);
    }
    return r >= 0;
}

static bool sample_locate(struct db *db, struct store_sample *a, int64_t row, const char *segments, int speaker_id)
{
    sqlite3_stmt *st = db_stmt(db, SS_SAMPLE_SEGMENT);
    sqlite3_bind_int64(st, 1, row);
    db_bind_str(st, 2, segments);
    if (!segment_find(db, st, a))
        return false;
    if (a->heard)
        return true;
    st = db_stmt(db, SS_SAMPLE_SPEAKER);
    sqlite3_bind_int64(st, 1, row);
    sqlite3_bind_int(st, 2, speaker_id);
    return segment_find(db, st, a);
}

static bool sample_read(struct db *db, sqlite3_stmt *st, struct store_sample *a)
{
    const char *now = db_col_str(st, 10);
    *a = (struct store_sample){.uid = db_col_dup(st, 1),
                               .person_id = db_col_dup(st, 2),
                               .created_ms = sqlite3_column_int64(st, 5),
                               .attempts = (unsigned)sqlite3_column_int64(st, 6),
                               .started_ms = sqlite3_column_int64(st, 9)};
    snprintf(a->id, sizeof(a->id), "%s", db_col_str(st, 0));
    snprintf(a->conversation_id, sizeof(a->conversation_id), "%s", db_col_str(st, 8));
    if (a->uid == NULL || a->person_id == NULL) {
        db_set_error(db, "no memory");
        return false;
    }
    a->superseded = now != NULL && strcmp(now, a->person_id) != 0;
    return sample_locate(db, a, sqlite3_column_int64(st, 7), db_col_str(st, 4), sqlite3_column_int(st, 3));
}

static int due_run(struct store *s, struct store_call *call)
{
    struct due_call *d = container_of(call, struct due_call, call);
    int r;
    due_clear(d);
    d->waiting = 0;
    sqlite3_stmt *st = db_stmt(s->db, SS_SAMPLES_WAITING);
    if ((r = db_step(s->db, st)) > 0) {
        d->waiting = sqlite3_column_int64(st, 0);
        sqlite3_reset(st);
    }
    if (r < 0)
        return OMID_ERR;
    st = db_stmt(s->db, SS_SAMPLES_DUE);
    sqlite3_bind_int64(st, 1, d->q.created_ms);
    sqlite3_bind_int64(st, 2, d->q.due_ms);
    sqlite3_bind_int64(st, 3, d->q.max_attempts);
    sqlite3_bind_int64(st, 4, (int64_t)d->q.max);
    while ((r = db_step(s->db, st)) > 0) {
        omid_assert(d->n < d->q.max);
        if (!sample_read(s->db, st, &d->sample[d->n++])) {
            sqlite3_reset(st);
            return OMID_ERR;
        }
    }
    return r < 0 ? OMID_ERR : OMID_OK;
}

static void due_answer(struct store_call *call)
{
    struct due_call *d = container_of(call, struct due_call, call);
    if (call->result != OMID_OK)
        due_clear(d);
    d->cb(call->arg, d->sample, d->n, call->result == OMID_OK ? d->waiting : -1);
}

static void due_drop(struct store_call *call)
{
    struct due_call *d = container_of(call, struct due_call, call);
    due_clear(d);
    free(d->sample);
    free(d);
}

int store_samples_due(struct store *s, const struct store_samples_query *q, struct loop *loop,
                      void (*cb)(void *arg, const struct store_sample *sample, size_t n, int64_t waiting), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    if (q->max == 0 || q->max > STORE_MAX_DUE)
        return OMID_EINVAL;
    struct due_call *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return OMID_ERR;
    d->sample = calloc(q->max, sizeof(*d->sample));
    if (d->sample == NULL) {
        free(d);
        return OMID_ERR;
    }
    d->q = *q;
    d->cb = cb;
    d->call.run = due_run;
    d->call.answer = due_answer;
    d->call.drop = due_drop;
    return store_call_post(s, &d->call, loop, arg, sizeof(*d) + q->max * sizeof(*d->sample));
}

/* ---------------------------------------------------------------- what became of it */

static int taken_run(struct store *s, struct store_call *call)
{
    struct voice_call *c = container_of(call, struct voice_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_SAMPLE_TAKEN);
    db_bind_str(st, 1, c->text[0]);
    int r = db_step(s->db, st);
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_ENOTSUP;
    char *uid = db_col_dup(st, 0), *person = db_col_dup(st, 1);
    sqlite3_reset(st);
    int rc = uid != NULL && person != NULL ? voice_insert(s->db, uid, person, c) : OMID_ERR;
    free(uid);
    free(person);
    return rc == OMID_ENOTSUP ? OMID_OK : rc; /* its person is gone: the sample is done all the same */
}

int store_sample_taken(struct store *s, const char *id, const float *vector, size_t dim, double seconds, int64_t now_ms,
                       struct loop *loop, store_result_cb cb, void *arg)
{
    if (dim == 0 || dim > STORE_MAX_VECTOR)
        return OMID_EINVAL;
    struct voice_call *c = voice_call_new((const char *[VOICE_TEXTS]){id}, vector, dim);
    if (c != NULL) {
        c->kind = STORE_VOICE_SAMPLE;
        c->seconds = seconds;
        c->ms = now_ms;
    }
    return voice_call_post(s, c, taken_run, loop, cb, arg);
}

static int failed_run(struct store *s, struct store_call *call)
{
    struct voice_call *c = container_of(call, struct voice_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_SAMPLE_FAILED);
    db_bind_str(st, 1, c->text[0]);
    sqlite3_bind_int64(st, 2, c->ms);
    db_bind_str(st, 3, c->text[1]);
    if (!db_run(s->db, st))
        return OMID_ERR;
    return db_changes(s->db) > 0 ? OMID_OK : OMID_ENOTSUP;
}

int store_sample_failed(struct store *s, const char *id, int64_t next_ms, const char *error, struct loop *loop,
                        store_result_cb cb, void *arg)
{
    struct voice_call *c = voice_call_new((const char *[VOICE_TEXTS]){id, error}, NULL, 0);
    if (c != NULL)
        c->ms = next_ms;
    return voice_call_post(s, c, failed_run, loop, cb, arg);
}
