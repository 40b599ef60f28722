/* Conversations: opened for a session, moved through their states, read, found when due. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
#include "base/magic.h"
#include "store/store_int.h"

static const char *const status_names[] = {"in_progress", "processing", "completed", "failed", "skipped"};

const char *store_status_name(enum store_status st)
{
    omid_assert((size_t)st < ARRAY_LEN(status_names));
    return status_names[st];
}

/* The legal moves. Staying is one: it sets structured and error. */
static bool status_move_ok(enum store_status from, enum store_status to)
{
    switch (from) {
    case STORE_IN_PROGRESS:
        return to == STORE_IN_PROGRESS || to == STORE_PROCESSING;
    case STORE_PROCESSING:
        return to != STORE_IN_PROGRESS;
    case STORE_COMPLETED:
    case STORE_FAILED:
    case STORE_SKIPPED:
        return to == from || to == STORE_PROCESSING; /* processed again */
    }
    return false;
}

/* ---------------------------------------------------------------- reading */

int store_conversation_read(struct db *db, const char *id, bool data, struct store_conversation **out, int64_t *row)
{
    sqlite3_stmt *st = db_stmt(db, SS_CONV_BY_ID);
    *out = NULL;
    db_bind_str(st, 1, id);
    int r = db_step(db, st);
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_OK;
    struct store_conversation *c = calloc(1, sizeof(*c));
    if (c != NULL) {
        *row = sqlite3_column_int64(st, 0);
        strncpy(c->id, db_col_str(st, 1), sizeof(c->id) - 1);
        c->uid = db_col_dup(st, 2);
        c->language = db_col_dup(st, 3);
        c->source = db_col_dup(st, 4);
        c->status = (enum store_status)sqlite3_column_int(st, 5);
        c->created_ms = sqlite3_column_int64(st, 6);
        c->started_ms = sqlite3_column_int64(st, 7);
        c->finished_ms = sqlite3_column_int64(st, 8);
        c->timeout_ms = sqlite3_column_int64(st, 9);
        c->structured = db_col_dup(st, 10);
        c->error = db_col_dup(st, 11);
        c->call_id = db_col_dup(st, 12);
        c->geolocation = db_col_dup(st, 13);
        c->revision = (unsigned)sqlite3_column_int(st, 14);
    }
    sqlite3_reset(st);
    if (c != NULL && (unsigned)c->status >= STORE_STATUSES) {
        store_conversation_free(&c);
        db_set_error(db, "a conversation's status is no known one: the file is corrupt");
        return OMID_ERR;
    }
    if (c == NULL || c->uid == NULL || c->language == NULL || c->source == NULL) {
        store_conversation_free(&c);
        db_set_error(db, "no memory");
        return OMID_ERR;
    }
    if (store_segments_read(db, *row, c) != OMID_OK || store_content_read(db, *row, data, c) != OMID_OK) {
        store_conversation_free(&c);
        return OMID_ERR;
    }
    *out = c;
    return OMID_OK;
}

/* ---------------------------------------------------------------- open */

struct open_call {
    struct store_call call;
    void (*cb)(void *arg, struct store_opened *opened);
    char *uid, *resume_id, *create_id, *language, *source, *call_id;
    int64_t now_ms, timeout_ms;
    struct store_opened out;
    size_t n_stale;
};

static void opened_clear(struct open_call *o)
{
    store_conversation_free(&o->out.conversation);
    for (size_t i = 0; i < o->n_stale; i++)
        free(o->out.stale[i]);
    free(o->out.stale);
    o->out = (struct store_opened){0};
    o->n_stale = 0;
}

static bool conversation_insert(struct store *s, struct open_call *o, const char *id)
{
    o->call.delta[STORE_IN_PROGRESS]++;
    sqlite3_stmt *st = db_stmt(s->db, SS_CONV_INSERT);
    db_bind_str(st, 1, id);
    db_bind_str(st, 2, o->uid);
    db_bind_str(st, 3, o->language);
    db_bind_str(st, 4, o->source);
    sqlite3_bind_int64(st, 5, o->now_ms);
    sqlite3_bind_int64(st, 6, o->timeout_ms);
    db_bind_str(st, 7, o->call_id);
    return db_run(s->db, st);
}

int64_t store_status_change(struct store *s, struct store_call *call, const char *id, enum store_status from,
                            enum store_status to, const char *structured, const char *error)
{
    omid_assert(status_move_ok(from, to));
    sqlite3_stmt *st = db_stmt(s->db, SS_CONV_STATUS);
    db_bind_str(st, 1, id);
    sqlite3_bind_int(st, 2, (int)from);
    sqlite3_bind_int(st, 3, (int)to);
    db_bind_str(st, 4, structured);
    db_bind_str(st, 5, error);
    if (!db_run(s->db, st))
        return -1;
    int64_t n = db_changes(s->db);
    call->delta[from] -= (int)n;
    call->delta[to] += (int)n;
    return n;
}

/* A copy of id (NULL: there was no memory for it). false: no memory. */
static bool stale_add(struct open_call *o, size_t *cap, const char *id)
{
    if (o->n_stale + 2 > *cap) { /* with the NULL at the end */
        size_t more = *cap ? *cap * 2 : 8;
        char **larger = realloc(o->out.stale, more * sizeof(*larger));
        if (larger == NULL)
            return false;
        o->out.stale = larger;
        *cap = more;
    }
    char *copy = id != NULL ? strdup(id) : NULL;
    o->out.stale[o->n_stale] = copy;
    if (copy == NULL)
        return false;
    o->out.stale[++o->n_stale] = NULL;
    return true;
}

/* The uid's conversations in progress: the one to resume goes to chosen ("": none), the others to stale. The asked-for
 * one goes first, else the one touched last. */
static bool sort_out(struct store *s, struct open_call *o, char chosen[37])
{
    sqlite3_stmt *st = db_stmt(s->db, SS_CONV_IN_PROGRESS);
    size_t cap = 0;
    int r;
    bool asked = false;
    chosen[0] = '\0';
    db_bind_str(st, 1, o->uid);
    while ((r = db_step(s->db, st)) > 0) {
        const char *id = db_col_str(st, 0);
        bool fresh = o->now_ms - sqlite3_column_int64(st, 1) < sqlite3_column_int64(st, 2);
        bool wanted = fresh && o->resume_id != NULL && id != NULL && strcmp(id, o->resume_id) == 0;
        bool choose = id != NULL && fresh && !asked && (wanted || chosen[0] == '\0');
        /* One that is chosen takes the place of the former, if any. */
        if ((!choose || chosen[0] != '\0') && !stale_add(o, &cap, choose ? chosen : id)) {
            sqlite3_reset(st);
            db_set_error(s->db, "no memory");
            return false;
        }
        if (choose) {
            snprintf(chosen, 37, "%s", id);
            asked = wanted;
        }
    }
    return r == 0;
}

static bool resume(struct store *s, const struct open_call *o, const char *id)
{
    sqlite3_stmt *st = db_stmt(s->db, SS_CONV_RESUME);
    db_bind_str(st, 1, id);
    sqlite3_bind_int64(st, 2, o->timeout_ms);
    return db_run(s->db, st);
}

/* One that had to begin without the store. */
static int open_given(struct store *s, struct open_call *o)
{
    int64_t row;
    if (store_conversation_read(s->db, o->create_id, false, &o->out.conversation, &row) != OMID_OK)
        return OMID_ERR;
    if (o->out.conversation != NULL) {
        if (strcmp(o->out.conversation->uid, o->uid) != 0)
            return OMID_EINVAL;
        o->out.resumed = true;
        return OMID_OK;
    }
    if (!conversation_insert(s, o, o->create_id) ||
        store_conversation_read(s->db, o->create_id, false, &o->out.conversation, &row) != OMID_OK)
        return OMID_ERR;
    return OMID_OK;
}

static int open_run(struct store *s, struct store_call *call)
{
    struct open_call *o = container_of(call, struct open_call, call);
    char id[37];
    int64_t row;
    opened_clear(o);
    if (o->create_id != NULL)
        return open_given(s, o);
    if (!sort_out(s, o, id))
        return OMID_ERR;
    for (size_t i = 0; i < o->n_stale; i++) {
        if (store_status_change(s, call, o->out.stale[i], STORE_IN_PROGRESS, STORE_PROCESSING, NULL, NULL) != 1)
            return OMID_ERR;
    }
    o->out.resumed = id[0] != '\0';
    if (!o->out.resumed)
        id_uuid4(id);
    if (o->out.resumed ? !resume(s, o, id) : !conversation_insert(s, o, id))
        return OMID_ERR;
    if (store_conversation_read(s->db, id, false, &o->out.conversation, &row) != OMID_OK)
        return OMID_ERR;
    return OMID_OK;
}

static void open_answer(struct store_call *call)
{
    struct open_call *o = container_of(call, struct open_call, call);
    if (call->result != OMID_OK)
        opened_clear(o);
    o->out.result = call->result == OMID_OK ? OMID_OK : OMID_ERR;
    o->cb(call->arg, &o->out);
}

static void open_drop(struct store_call *call)
{
    struct open_call *o = container_of(call, struct open_call, call);
    opened_clear(o);
    free(o->uid);
    free(o->resume_id);
    free(o->create_id);
    free(o->language);
    free(o->source);
    free(o->call_id);
    free(o);
}

static bool copy(char **to, const char *s)
{
    *to = s ? strdup(s) : NULL;
    return s == NULL || *to != NULL;
}

int store_conversation_open(struct store *s, const struct store_open_params *p, struct loop *loop,
                            void (*cb)(void *arg, struct store_opened *opened), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    omid_assert(cb != NULL && loop != NULL);
    const char *language = p->language ? p->language : "", *source = p->source ? p->source : "";
    if (p->uid == NULL || p->uid[0] == '\0' || !store_text_ok(p->uid) || !store_text_ok(language) ||
        !store_text_ok(source) || !store_text_ok(p->resume_id) || !store_text_ok(p->call_id) ||
        (p->create_id != NULL && strlen(p->create_id) > 36))
        return OMID_EINVAL;
    struct open_call *o = calloc(1, sizeof(*o));
    if (o == NULL)
        return OMID_ERR;
    o->cb = cb;
    o->now_ms = p->now_ms;
    o->timeout_ms = p->timeout_ms;
    o->call.run = open_run;
    o->call.answer = open_answer;
    o->call.drop = open_drop;
    if (!copy(&o->uid, p->uid) || !copy(&o->resume_id, p->resume_id) || !copy(&o->create_id, p->create_id) ||
        !copy(&o->language, language) || !copy(&o->source, source) || !copy(&o->call_id, p->call_id)) {
        open_drop(&o->call);
        return OMID_ERR;
    }
    return store_call_post(s, &o->call, loop, arg, sizeof(*o) + strlen(p->uid) + strlen(language) + strlen(source));
}

/* ---------------------------------------------------------------- status, delete */

struct change_call {
    struct store_call call;
    void (*cb)(void *arg, int result);
    char *id, *uid, *structured, *error;
    enum store_status from, to;
};

static int status_run(struct store *s, struct store_call *call)
{
    struct change_call *c = container_of(call, struct change_call, call);
    int64_t n = store_status_change(s, call, c->id, c->from, c->to, c->structured, c->error);
    return n < 0 ? OMID_ERR : n == 0 ? OMID_ENOTSUP : OMID_OK;
}

static int delete_run(struct store *s, struct store_call *call)
{
    struct change_call *c = container_of(call, struct change_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_CONV_DELETE);
    db_bind_str(st, 1, c->id);
    db_bind_str(st, 2, c->uid);
    int r = db_step(s->db, st);
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_ENOTSUP;
    int status = sqlite3_column_int(st, 0);
    if (status >= 0 && status < STORE_STATUSES)
        call->delta[status]--;
    return db_run(s->db, st) ? OMID_OK : OMID_ERR;
}

static void change_answer(struct store_call *call)
{
    container_of(call, struct change_call, call)->cb(call->arg, call->result);
}

static void change_drop(struct store_call *call)
{
    struct change_call *c = container_of(call, struct change_call, call);
    free(c->id);
    free(c->uid);
    free(c->structured);
    free(c->error);
    free(c);
}

static int change_post(struct store *s, const struct change_call *with, struct loop *loop, void *arg)
{
    if (with->id == NULL || !store_text_ok(with->id) || !store_text_ok(with->uid) || !store_text_ok(with->structured) ||
        !store_text_ok(with->error))
        return OMID_EINVAL;
    struct change_call *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return OMID_ERR;
    c->call.run = with->call.run;
    c->call.answer = change_answer;
    c->call.drop = change_drop;
    c->cb = with->cb;
    c->from = with->from;
    c->to = with->to;
    if (!copy(&c->id, with->id) || !copy(&c->uid, with->uid) || !copy(&c->structured, with->structured) ||
        !copy(&c->error, with->error)) {
        change_drop(&c->call);
        return OMID_ERR;
    }
    size_t bytes = sizeof(*c) + (c->structured ? strlen(c->structured) : 0) + (c->error ? strlen(c->error) : 0);
    return store_call_post(s, &c->call, c->cb ? loop : NULL, arg, bytes);
}

int store_status_set(struct store *s, const char *id, enum store_status from, enum store_status to,
                     const char *structured, const char *error, struct loop *loop, void (*cb)(void *arg, int result),
                     void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    struct change_call with = {.call.run = status_run,
                               .cb = cb,
                               .id = (char *)id,
                               .structured = (char *)structured,
                               .error = (char *)error,
                               .from = from,
                               .to = to};
    if (!status_move_ok(from, to))
        return OMID_EINVAL;
    return change_post(s, &with, loop, arg);
}

int store_conversation_delete(struct store *s, const char *id, const char *uid, struct loop *loop,
                              void (*cb)(void *arg, int result), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    struct change_call with = {.call.run = delete_run, .cb = cb, .id = (char *)id, .uid = (char *)uid};
    return change_post(s, &with, loop, arg);
}

/* ---------------------------------------------------------------- get */

struct get_call {
    struct store_call call;
    void (*cb)(void *arg, int result, struct store_conversation *c);
    struct store_conversation *out;
    char id[];
};

static int get_run(struct store *s, struct store_call *call)
{
    struct get_call *g = container_of(call, struct get_call, call);
    int64_t row;
    store_conversation_free(&g->out);
    return store_conversation_read(s->db, g->id, false, &g->out, &row);
}

static void get_answer(struct store_call *call)
{
    struct get_call *g = container_of(call, struct get_call, call);
    struct store_conversation *c = g->out;
    g->out = NULL;
    g->cb(call->arg, call->result, c);
}

static void get_drop(struct store_call *call)
{
    struct get_call *g = container_of(call, struct get_call, call);
    store_conversation_free(&g->out);
    free(g);
}

int store_conversation_get(struct store *s, const char *id, struct loop *loop,
                           void (*cb)(void *arg, int result, struct store_conversation *c), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    if (id == NULL || !store_text_ok(id))
        return OMID_EINVAL;
    struct get_call *g = calloc(1, sizeof(*g) + strlen(id) + 1);
    if (g == NULL)
        return OMID_ERR;
    strcpy(g->id, id);
    g->cb = cb;
    g->call.run = get_run;
    g->call.answer = get_answer;
    g->call.drop = get_drop;
    return store_call_post(s, &g->call, loop, arg, sizeof(*g));
}

/* ---------------------------------------------------------------- find */

struct find_call {
    struct store_call call;
    void (*cb)(void *arg, int result, const char *id);
    enum store_stmt what;
    char found[37]; /* "": none */
    char uid[];
};

static int find_run(struct store *s, struct store_call *call)
{
    struct find_call *f = container_of(call, struct find_call, call);
    sqlite3_stmt *st = db_stmt(s->db, f->what);
    f->found[0] = '\0';
    db_bind_str(st, 1, f->uid);
    int r = db_step(s->db, st);
    if (r > 0) {
        strncpy(f->found, db_col_str(st, 0), sizeof(f->found) - 1);
        sqlite3_reset(st);
    }
    return r < 0 ? OMID_ERR : OMID_OK;
}

static void find_answer(struct store_call *call)
{
    struct find_call *f = container_of(call, struct find_call, call);
    f->cb(call->arg, call->result, call->result == OMID_OK && f->found[0] != '\0' ? f->found : NULL);
}

static void find_drop(struct store_call *call)
{
    free(container_of(call, struct find_call, call));
}

int store_find(struct store *s, const char *uid, enum store_find what, struct loop *loop,
               void (*cb)(void *arg, int result, const char *id), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    if (!store_text_ok(uid))
        return OMID_EINVAL;
    struct find_call *f = calloc(1, sizeof(*f) + strlen(uid) + 1);
    if (f == NULL)
        return OMID_ERR;
    strcpy(f->uid, uid);
    f->cb = cb;
    f->what = what == STORE_FIND_OPEN ? SS_FIND_OPEN : SS_FIND_COMPLETED;
    f->call.run = find_run;
    f->call.answer = find_answer;
    f->call.drop = find_drop;
    return store_call_post(s, &f->call, loop, arg, sizeof(*f));
}

/* ---------------------------------------------------------------- due */

struct due_call {
    struct store_call call;
    void (*cb)(void *arg, const struct store_due *due, size_t n);
    int64_t now_ms;
    size_t max, n;
    int64_t *row;          /* of each */
    struct store_due *due; /* room for 2 * max */
};

static void due_clear(struct due_call *d)
{
    for (size_t i = 0; i < d->n; i++)
        free(d->due[i].uid);
    d->n = 0;
}

static bool due_read(struct store *s, struct due_call *d, sqlite3_stmt *st)
{
    int r;
    while ((r = db_step(s->db, st)) > 0) {
        struct store_due *e = &d->due[d->n];
        omid_assert(d->n < 2 * d->max);
        e->uid = db_col_dup(st, 1);
        if (e->uid == NULL) {
            sqlite3_reset(st);
            db_set_error(s->db, "no memory");
            return false;
        }
        strncpy(e->id, db_col_str(st, 0), 36);
        e->id[36] = '\0';
        e->status = (enum store_status)sqlite3_column_int(st, 2);
        d->row[d->n++] = sqlite3_column_int64(st, 3);
    }
    return r == 0;
}

/* Rows from < n <= to. */
static bool due_processing(struct store *s, struct due_call *d, int64_t from, int64_t to)
{
    sqlite3_stmt *st = db_stmt(s->db, SS_DUE_PROCESSING);
    sqlite3_bind_int64(st, 1, from);
    sqlite3_bind_int64(st, 2, to);
    sqlite3_bind_int64(st, 3, (int64_t)(d->max - d->n));
    return due_read(s, d, st);
}

/* Keeps the first `keep` of those from `from` to the end. */
static void due_trim(struct due_call *d, size_t from, size_t until, size_t keep)
{
    for (size_t i = from + keep; i < until; i++)
        free(d->due[i].uid);
    memmove(&d->due[from + keep], &d->due[until], (d->n - until) * sizeof(d->due[0]));
    d->n -= until - from - keep;
}

/* Half is for each kind while the other has as many. Those being processed are told in turns, so that some that hang
 * don't hide the others for ever. */
static int due_run(struct store *s, struct store_call *call)
{
    struct due_call *d = container_of(call, struct due_call, call);
    due_clear(d);
    if (!due_processing(s, d, s->due_after, INT64_MAX) || !due_processing(s, d, 0, s->due_after))
        return OMID_ERR;
    size_t processing = d->n;
    sqlite3_stmt *st = db_stmt(s->db, SS_DUE_TIMEOUT);
    sqlite3_bind_int64(st, 1, d->now_ms);
    sqlite3_bind_int64(st, 2, (int64_t)d->max);
    if (!due_read(s, d, st))
        return OMID_ERR;
    size_t ended = d->n - processing, half = d->max / 2;
    size_t keep = d->max - (ended < half ? ended : half);
    keep = keep < processing ? keep : processing;
    if (keep > 0)
        s->due_after = d->row[keep - 1];
    due_trim(d, 0, processing, keep);
    due_trim(d, keep, d->n, ended < d->max - keep ? ended : d->max - keep);
    return OMID_OK;
}

static void due_answer(struct store_call *call)
{
    struct due_call *d = container_of(call, struct due_call, call);
    if (call->result != OMID_OK)
        due_clear(d);
    d->cb(call->arg, d->due, d->n);
}

static void due_drop(struct store_call *call)
{
    struct due_call *d = container_of(call, struct due_call, call);
    due_clear(d);
    free(d->row);
    free(d->due);
    free(d);
}

int store_due(struct store *s, int64_t now_ms, size_t max, struct loop *loop,
              void (*cb)(void *arg, const struct store_due *due, size_t n), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    if (max == 0)
        return OMID_EINVAL;
    if (max > STORE_MAX_DUE)
        max = STORE_MAX_DUE;
    struct due_call *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return OMID_ERR;
    d->row = calloc(2 * max, sizeof(*d->row));
    d->due = calloc(2 * max, sizeof(*d->due));
    if (d->row == NULL || d->due == NULL) {
        due_drop(&d->call);
        return OMID_ERR;
    }
    d->cb = cb;
    d->now_ms = now_ms;
    d->max = max;
    d->call.run = due_run;
    d->call.answer = due_answer;
    d->call.drop = due_drop;
    return store_call_post(s, &d->call, loop, arg, sizeof(*d) + 2 * max * sizeof(*d->due));
}
