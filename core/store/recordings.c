/* Uploads and their recordings: put, worked on, told. Their way into conversations is in transcript.c. */
#include "store/recordings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/magic.h"
#include "store/store_int.h"

#define MAX_WAITING 10000 /* recordings of one uid that wait or run */
#define FORGET_BATCH 100  /* rows of one call */

static const char *const status_names[] = {"queued", "processing", "done", "skipped", "failed"};

/* ---------------------------------------------------------------- put */

struct put_call {
    struct store_call call;
    void (*cb)(void *arg, int result, const bool *again);
    const char *id, *uid, *language;
    int64_t now_ms;
    struct store_upload_file *file; /* strings in text */
    bool *again;
    size_t n;
    char *text;
};

/* The recording's number; 0: there is none; -1: failed. */
static int64_t recording_find(struct db *db, const char *file, enum recording_status *status)
{
    sqlite3_stmt *st = db_stmt(db, SS_RECORDING_FIND);
    db_bind_str(st, 1, file);
    int r = db_step(db, st);
    if (r <= 0)
        return r;
    int64_t n = sqlite3_column_int64(st, 0);
    *status = (enum recording_status)sqlite3_column_int(st, 1);
    sqlite3_reset(st);
    return n;
}

static bool recording_insert(struct db *db, const struct put_call *p, const struct store_upload_file *f)
{
    sqlite3_stmt *st = db_stmt(db, SS_RECORDING_PUT);
    db_bind_str(st, 1, f->file);
    db_bind_str(st, 2, p->uid);
    db_bind_str(st, 3, f->hash);
    sqlite3_bind_int(st, 4, f->format);
    sqlite3_bind_int64(st, 5, f->start_ms);
    db_bind_str(st, 6, p->language);
    sqlite3_bind_int64(st, 7, p->now_ms);
    return db_run(db, st);
}

static bool file_insert(struct db *db, int64_t job, size_t at, const struct store_upload_file *f, int64_t recording,
                        bool again)
{
    sqlite3_stmt *st = db_stmt(db, SS_UPLOAD_FILE_PUT);
    sqlite3_bind_int64(st, 1, job);
    sqlite3_bind_int64(st, 2, (int64_t)at);
    db_bind_str(st, 3, f->name);
    sqlite3_bind_int64(st, 4, recording);
    sqlite3_bind_int(st, 5, again);
    return db_run(db, st);
}

static int put_file(struct db *db, struct put_call *p, int64_t job, size_t i)
{
    const struct store_upload_file *f = &p->file[i];
    enum recording_status status = RECORDING_WAITING;
    int64_t n = recording_find(db, f->file, &status);
    if (n < 0)
        return OMID_ERR;
    p->again[i] = n > 0 && status != RECORDING_FAILED;
    if (n == 0) {
        if (!recording_insert(db, p, f))
            return OMID_ERR;
        n = recording_find(db, f->file, &status);
        if (n <= 0)
            return OMID_ERR;
    } else if (status == RECORDING_FAILED) {
        sqlite3_stmt *st = db_stmt(db, SS_RECORDING_AGAIN);
        sqlite3_bind_int64(st, 1, n);
        sqlite3_bind_int64(st, 2, p->now_ms);
        sqlite3_bind_int(st, 3, f->format);
        sqlite3_bind_int64(st, 4, f->start_ms);
        db_bind_str(st, 5, p->language);
        if (!db_run(db, st))
            return OMID_ERR;
    }
    return file_insert(db, job, i, f, n, p->again[i]) ? OMID_OK : OMID_ERR;
}

static int put_run(struct store *s, struct store_call *call)
{
    struct put_call *p = container_of(call, struct put_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_RECORDING_COUNT);
    db_bind_str(st, 1, p->uid);
    int r = db_step(s->db, st);
    int64_t waiting = r > 0 ? sqlite3_column_int64(st, 0) : 0;
    sqlite3_reset(st);
    if (r < 0)
        return OMID_ERR;
    if (waiting + (int64_t)p->n > MAX_WAITING)
        return OMID_ENOTSUP;
    st = db_stmt(s->db, SS_UPLOAD_PUT);
    db_bind_str(st, 1, p->id);
    db_bind_str(st, 2, p->uid);
    sqlite3_bind_int64(st, 3, p->now_ms);
    if (!db_run(s->db, st))
        return OMID_ERR;
    int64_t job = db_last_id(s->db);
    for (size_t i = 0; i < p->n; i++) {
        if (put_file(s->db, p, job, i) != OMID_OK)
            return OMID_ERR;
    }
    return OMID_OK;
}

static void put_answer(struct store_call *call)
{
    struct put_call *p = container_of(call, struct put_call, call);
    p->cb(call->arg, call->result, p->again);
}

static void put_drop(struct store_call *call)
{
    struct put_call *p = container_of(call, struct put_call, call);
    free(p->file);
    free(p->again);
    free(p->text);
    free(p);
}

static const char *keep(char **at, const char *s)
{
    char *to = *at;
    *at = stpcpy(to, s) + 1;
    return to;
}

int store_upload_put(struct store *s, const struct store_upload *u, struct loop *loop,
                     void (*cb)(void *arg, int result, const bool *again), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    if (u->n == 0 || u->n > RECORDING_FILES_MAX)
        return OMID_EINVAL;
    size_t len = strlen(u->id) + strlen(u->uid) + strlen(u->language) + 3;
    for (size_t i = 0; i < u->n; i++) {
        const struct store_upload_file *f = &u->file[i];
        if (strlen(f->hash) != RECORDING_HASH || !store_text_ok(f->name) || !store_text_ok(f->file))
            return OMID_EINVAL;
        len += strlen(f->hash) + strlen(f->name) + strlen(f->file) + 3;
    }
    struct put_call *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return OMID_ERR;
    *p = (struct put_call){.cb = cb, .now_ms = u->now_ms, .n = u->n};
    p->call = (struct store_call){.run = put_run, .answer = put_answer, .drop = put_drop};
    p->file = calloc(u->n, sizeof(*p->file));
    p->again = calloc(u->n, sizeof(*p->again));
    char *at = p->text = malloc(len);
    if (p->file == NULL || p->again == NULL || p->text == NULL) {
        put_drop(&p->call);
        return OMID_ERR;
    }
    p->id = keep(&at, u->id);
    p->uid = keep(&at, u->uid);
    p->language = keep(&at, u->language);
    for (size_t i = 0; i < u->n; i++) {
        const struct store_upload_file *f = &u->file[i];
        p->file[i] = *f;
        p->file[i].hash = keep(&at, f->hash);
        p->file[i].name = keep(&at, f->name);
        p->file[i].file = keep(&at, f->file);
    }
    return store_call_post(s, &p->call, loop, arg, sizeof(*p) + len);
}

/* ---------------------------------------------------------------- due */

struct due_call {
    struct store_call call;
    void (*cb)(void *arg, const struct store_recording *r, size_t n);
    int64_t now_ms, forget_ms;
    size_t max, n;
    struct store_recording *r;
};

static void due_clear(struct due_call *d)
{
    for (size_t i = 0; i < d->n; i++) {
        free(d->r[i].uid);
        free(d->r[i].language);
        free(d->r[i].file);
        free(d->r[i].conversations);
    }
    d->n = 0;
}

static bool forget(struct db *db, enum store_stmt which, int64_t before_ms)
{
    sqlite3_stmt *st = db_stmt(db, which);
    sqlite3_bind_int64(st, 1, before_ms);
    sqlite3_bind_int(st, 2, FORGET_BATCH);
    return db_run(db, st);
}

static int due_run(struct store *s, struct store_call *call)
{
    struct due_call *d = container_of(call, struct due_call, call);
    due_clear(d);
    if (!forget(s->db, SS_UPLOADS_FORGET, d->forget_ms) || !forget(s->db, SS_RECORDINGS_FORGET, d->forget_ms))
        return OMID_ERR;
    sqlite3_stmt *st = db_stmt(s->db, SS_RECORDINGS_DUE);
    sqlite3_bind_int64(st, 1, d->now_ms);
    sqlite3_bind_int64(st, 2, (int64_t)d->max);
    int r;
    while ((r = db_step(s->db, st)) > 0) {
        omid_assert(d->n < d->max);
        struct store_recording *e = &d->r[d->n++];
        *e = (struct store_recording){.n = sqlite3_column_int64(st, 0),
                                      .uid = db_col_dup(st, 1),
                                      .language = db_col_dup(st, 2),
                                      .file = db_col_dup(st, 3),
                                      .format = sqlite3_column_int(st, 4),
                                      .start_ms = sqlite3_column_int64(st, 5),
                                      .status = (enum recording_status)sqlite3_column_int(st, 6),
                                      .attempts = (unsigned)sqlite3_column_int(st, 7),
                                      .conversations = db_col_dup(st, 8)};
        if (e->uid == NULL || e->language == NULL || e->file == NULL) {
            sqlite3_reset(st);
            db_set_error(s->db, "no memory");
            return OMID_ERR;
        }
    }
    return r < 0 ? OMID_ERR : OMID_OK;
}

static void due_answer(struct store_call *call)
{
    struct due_call *d = container_of(call, struct due_call, call);
    d->cb(call->arg, d->r, call->result == OMID_OK ? d->n : 0);
}

static void due_drop(struct store_call *call)
{
    struct due_call *d = container_of(call, struct due_call, call);
    due_clear(d);
    free(d->r);
    free(d);
}

int store_recordings_due(struct store *s, int64_t now_ms, int64_t forget_ms, size_t max, struct loop *loop,
                         void (*cb)(void *arg, const struct store_recording *r, size_t n), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    if (max == 0 || max > STORE_MAX_DUE)
        return OMID_EINVAL;
    struct due_call *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return OMID_ERR;
    *d = (struct due_call){.cb = cb, .now_ms = now_ms, .forget_ms = forget_ms, .max = max};
    d->call = (struct store_call){.run = due_run, .answer = due_answer, .drop = due_drop};
    d->r = calloc(max, sizeof(*d->r));
    if (d->r == NULL) {
        due_drop(&d->call);
        return OMID_ERR;
    }
    return store_call_post(s, &d->call, loop, arg, sizeof(*d) + max * sizeof(*d->r));
}

/* ---------------------------------------------------------------- state */

struct state_call {
    struct store_call call;
    void (*cb)(void *arg, int result);
    struct store_recording_state st;
    char error[256];
};

static int state_run(struct store *s, struct store_call *call)
{
    const struct state_call *c = container_of(call, struct state_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_RECORDING_SET);
    sqlite3_bind_int64(st, 1, c->st.n);
    sqlite3_bind_int(st, 2, (int)c->st.status);
    sqlite3_bind_int(st, 3, (int)c->st.attempts);
    sqlite3_bind_int64(st, 4, c->st.not_before_ms);
    sqlite3_bind_double(st, 5, c->st.progress);
    sqlite3_bind_double(st, 6, c->st.seconds);
    db_bind_str(st, 7, c->st.error != NULL ? c->error : NULL);
    sqlite3_bind_int(st, 8, c->st.stored);
    if (!db_run(s->db, st))
        return OMID_ERR;
    return db_changes(s->db) > 0 ? OMID_OK : OMID_ENOTSUP;
}

static void state_answer(struct store_call *call)
{
    container_of(call, struct state_call, call)->cb(call->arg, call->result);
}

static void state_drop(struct store_call *call)
{
    free(container_of(call, struct state_call, call));
}

int store_recording_set(struct store *s, const struct store_recording_state *st, struct loop *loop,
                        void (*cb)(void *arg, int result), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    struct state_call *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return OMID_ERR;
    c->cb = cb;
    c->st = *st;
    snprintf(c->error, sizeof(c->error), "%s", st->error != NULL ? st->error : "");
    c->call = (struct store_call){.run = state_run, .answer = state_answer, .drop = state_drop};
    return store_call_post(s, &c->call, cb != NULL ? loop : NULL, arg, sizeof(*c));
}

/* ---------------------------------------------------------------- reading */

static void key_time(struct json_w *w, const char *key, int64_t ms)
{
    char text[32];
    clock_format_utc(ms, text);
    json_w_kstr(w, key, text);
}

/* files; *open: some are not at their end; *good: some came to something. */
static bool files_read(struct db *db, int64_t job, struct json_w *w, bool *open, bool *good)
{
    sqlite3_stmt *st = db_stmt(db, SS_UPLOAD_FILES);
    sqlite3_bind_int64(st, 1, job);
    int r;
    json_w_key(w, "files");
    json_w_open(w, '[');
    while ((r = db_step(db, st)) > 0) {
        int status = sqlite3_column_int(st, 3);
        if (status < 0 || (size_t)status >= ARRAY_LEN(status_names))
            continue;
        const char *ids = db_col_str(st, 7);
        *open = *open || status <= RECORDING_RUNNING;
        *good = *good || status == RECORDING_DONE || status == RECORDING_SKIPPED;
        json_w_open(w, '{');
        json_w_kstr(w, "name", db_col_str(st, 0));
        json_w_kstr(w, "sha256", db_col_str(st, 1));
        key_time(w, "start", sqlite3_column_int64(st, 2));
        json_w_kstr(w, "status", status_names[status]);
        json_w_kbool(w, "duplicate", sqlite3_column_int(st, 8) != 0);
        json_w_knum(w, "progress", status > RECORDING_RUNNING ? 1 : sqlite3_column_double(st, 4));
        json_w_knum(w, "seconds", sqlite3_column_double(st, 5));
        json_w_kstr(w, "error", db_col_str(st, 6));
        json_w_key(w, "conversation_ids");
        json_w_raw(w, ids != NULL ? ids : "[]", ids != NULL ? strlen(ids) : 2);
        json_w_close(w, '}');
    }
    json_w_close(w, ']');
    return r == 0;
}

int store_upload_read_json(struct store *s, const char *uid, const char *id, struct buf *out, char *err, size_t errlen)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    struct db *db = store_reader_take(s, err, errlen);
    if (db == NULL)
        return OMID_ERR;
    struct json_w w;
    bool open = false, good = false;
    if (!db_exec(db, "BEGIN"))
        return store_read_failed(s, db, err, errlen);
    sqlite3_stmt *st = db_stmt(db, SS_UPLOAD_FIND);
    db_bind_str(st, 1, id);
    db_bind_str(st, 2, uid);
    int r = db_step(db, st);
    int64_t job = r > 0 ? sqlite3_column_int64(st, 0) : 0, created = r > 0 ? sqlite3_column_int64(st, 1) : 0;
    sqlite3_reset(st);
    json_w_start(&w, out);
    json_w_open(&w, '{');
    json_w_kstr(&w, "id", id);
    key_time(&w, "created_at", created);
    bool ok = r >= 0 && (r == 0 || files_read(db, job, &w, &open, &good)) && db_exec(db, "COMMIT");
    if (!ok)
        return store_read_failed(s, db, err, errlen);
    store_reader_give(s, db, false);
    json_w_kstr(&w, "status", open ? "processing" : good ? "completed" : "failed");
    json_w_close(&w, '}');
    if (r == 0)
        return OMID_ENOTSUP;
    if (json_w_end(&w))
        return OMID_OK;
    snprintf(err, errlen, "no memory");
    return OMID_ERR;
}

int store_recording_wants(struct store *s, const char *file, char *err, size_t errlen)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    struct db *db = store_reader_take(s, err, errlen);
    if (db == NULL)
        return -1;
    sqlite3_stmt *st = db_stmt(db, SS_RECORDING_WANTS);
    db_bind_str(st, 1, file);
    int r = db_step(db, st);
    sqlite3_reset(st);
    if (r < 0)
        return store_read_failed(s, db, err, errlen), -1;
    store_reader_give(s, db, false);
    return r;
}
