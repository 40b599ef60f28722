/*
 * The transcript of a recording on its way into conversations. Segments that are further apart than the timeout are of
 * different conversations, as if they had been spoken to a live session.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
#include "base/magic.h"
#include "store/recordings.h"
#include "store/store_int.h"

#define MAX_SECOND 1e11 /* Unix seconds: in milliseconds it is a number still */

struct merge_call {
    struct store_call call;
    void (*cb)(void *arg, int result, const char (*ids)[37], size_t n);
    struct store_transcript t;
    struct store_segment *segment; /* strings in text */
    char (*ids)[37];
    size_t n_ids;
    char *text;
};

struct group {
    size_t from, n;
    int64_t first_ms, last_ms;
};

/* What a group joins. */
struct place {
    int64_t row; /* 0: nothing there */
    char id[37];
    enum store_status status;
    int64_t started_ms, finished_ms;
};

static int64_t to_ms(double seconds)
{
    return (int64_t)llround(seconds * 1000.);
}

/* The next group after *g; false: no more. */
static bool group_next(const struct store_transcript *t, struct group *g)
{
    size_t from = g->from + g->n;
    if (from >= t->n_segments)
        return false;
    *g = (struct group){
        .from = from, .n = 1, .first_ms = to_ms(t->segment[from].start), .last_ms = to_ms(t->segment[from].end)};
    for (size_t i = from + 1; i < t->n_segments; i++) {
        const struct store_segment *s = &t->segment[i];
        if (to_ms(s->start) - g->last_ms >= t->timeout_ms)
            break;
        if (to_ms(s->end) > g->last_ms)
            g->last_ms = to_ms(s->end);
        g->n++;
    }
    return true;
}

/* false: failed. */
static bool place_find(struct db *db, const struct store_transcript *t, const struct group *g, struct place *p)
{
    sqlite3_stmt *st = db_stmt(db, SS_CONV_AROUND);
    *p = (struct place){0};
    db_bind_str(st, 1, t->uid);
    sqlite3_bind_int64(st, 2, g->first_ms - t->timeout_ms);
    sqlite3_bind_int64(st, 3, g->last_ms + t->timeout_ms);
    int r = db_step(db, st);
    if (r <= 0)
        return r == 0;
    p->row = sqlite3_column_int64(st, 0);
    strncpy(p->id, db_col_str(st, 1), sizeof(p->id) - 1);
    p->status = (enum store_status)sqlite3_column_int(st, 2);
    p->started_ms = sqlite3_column_int64(st, 3);
    p->finished_ms = sqlite3_column_int64(st, 4);
    sqlite3_reset(st);
    return true;
}

static bool conversation_make(struct store *s, struct merge_call *m, const struct group *g, struct place *p)
{
    const struct store_transcript *t = &m->t;
    id_uuid4(p->id);
    sqlite3_stmt *st = db_stmt(s->db, SS_CONV_MADE);
    db_bind_str(st, 1, p->id);
    db_bind_str(st, 2, t->uid);
    db_bind_str(st, 3, t->language);
    db_bind_str(st, 4, t->source);
    sqlite3_bind_int64(st, 5, g->first_ms);
    sqlite3_bind_int64(st, 6, g->last_ms);
    sqlite3_bind_int64(st, 7, t->timeout_ms);
    if (!db_run(s->db, st))
        return false;
    p->row = db_last_id(s->db);
    p->started_ms = g->first_ms;
    p->finished_ms = g->last_ms;
    m->call.delta[STORE_PROCESSING]++;
    return true;
}

/* It begins earlier now: what is there moves back by as much. */
static bool conversation_begin_at(struct store *s, struct place *p, int64_t started_ms)
{
    sqlite3_stmt *st = db_stmt(s->db, SS_SEG_SHIFT);
    sqlite3_bind_int64(st, 1, p->row);
    sqlite3_bind_double(st, 2, (double)(p->started_ms - started_ms) / 1000.);
    p->started_ms = started_ms;
    return db_run(s->db, st);
}

static bool conversation_take_up(struct store *s, struct merge_call *m, const struct group *g, struct place *p)
{
    if (p->status != STORE_PROCESSING) { /* else it is the second group of the same recording that joins it */
        if (store_status_change(s, &m->call, p->id, p->status, STORE_PROCESSING, NULL, NULL) != 1)
            return false;
        sqlite3_stmt *revised = db_stmt(s->db, SS_CONV_REVISED);
        sqlite3_bind_int64(revised, 1, p->row);
        if (!db_run(s->db, revised))
            return false;
    }
    if (g->first_ms < p->started_ms && !conversation_begin_at(s, p, g->first_ms))
        return false;
    if (g->last_ms > p->finished_ms)
        p->finished_ms = g->last_ms;
    sqlite3_stmt *st = db_stmt(s->db, SS_CONV_TIMES);
    sqlite3_bind_int64(st, 1, p->row);
    sqlite3_bind_int64(st, 2, p->started_ms);
    sqlite3_bind_int64(st, 3, p->finished_ms);
    sqlite3_bind_int64(st, 4, 0);
    return db_run(s->db, st);
}

static bool is_mine(const struct merge_call *m, const char *id)
{
    for (size_t i = 0; i < m->n_ids; i++) {
        if (strcmp(m->ids[i], id) == 0)
            return true;
    }
    return false;
}

static bool group_put(struct store *s, struct merge_call *m, const struct group *g)
{
    struct place p;
    if (!place_find(s->db, &m->t, g, &p))
        return false;
    if (p.row == 0 ? !conversation_make(s, m, g, &p) : !conversation_take_up(s, m, g, &p))
        return false;
    for (size_t i = g->from; i < g->from + g->n; i++) {
        struct store_segment one = m->segment[i];
        one.start = fmax(0., round(one.start * 1000. - (double)p.started_ms) / 1000.);
        one.end = fmax(one.start, round(one.end * 1000. - (double)p.started_ms) / 1000.);
        if (!store_segment_put(s, p.row, &one))
            return false;
    }
    if (!is_mine(m, p.id))
        memcpy(m->ids[m->n_ids++], p.id, sizeof(p.id));
    return true;
}

static bool recording_end(struct store *s, struct merge_call *m)
{
    struct buf ids = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &ids);
    json_w_open(&w, '[');
    for (size_t i = 0; i < m->n_ids; i++)
        json_w_str(&w, m->ids[i]);
    json_w_close(&w, ']');
    bool ok = json_w_end(&w) && buf_append(&ids, "", 1);
    if (ok) {
        sqlite3_stmt *st = db_stmt(s->db, SS_RECORDING_DONE);
        sqlite3_bind_int64(st, 1, m->t.n);
        sqlite3_bind_double(st, 2, m->t.seconds);
        db_bind_str(st, 3, ids.data);
        ok = db_run(s->db, st);
    } else {
        db_set_error(s->db, "no memory");
    }
    buf_free(&ids);
    return ok;
}

static int merge_run(struct store *s, struct store_call *call)
{
    struct merge_call *m = container_of(call, struct merge_call, call);
    struct group g = {0};
    m->n_ids = 0;
    sqlite3_stmt *st = db_stmt(s->db, SS_RECORDING_OPEN);
    sqlite3_bind_int64(st, 1, m->t.n);
    int r = db_step(s->db, st);
    sqlite3_reset(st);
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_ENOTSUP;
    while (group_next(&m->t, &g)) { /* first a look: all of it, or nothing */
        struct place p;
        if (!place_find(s->db, &m->t, &g, &p))
            return OMID_ERR;
        if (p.row != 0 && (p.status == STORE_IN_PROGRESS || p.status == STORE_PROCESSING))
            return OMID_EFULL;
    }
    g = (struct group){0};
    while (group_next(&m->t, &g)) {
        if (!group_put(s, m, &g))
            return OMID_ERR;
    }
    return recording_end(s, m) ? OMID_OK : OMID_ERR;
}

static void merge_answer(struct store_call *call)
{
    struct merge_call *m = container_of(call, struct merge_call, call);
    m->cb(call->arg, call->result, (const char(*)[37])m->ids, call->result == OMID_OK ? m->n_ids : 0);
}

static void merge_drop(struct store_call *call)
{
    struct merge_call *m = container_of(call, struct merge_call, call);
    free(m->segment);
    free(m->ids);
    free(m->text);
    free(m);
}

/* Copies s to *at; NULL stays NULL. */
static const char *keep(char **at, const char *s)
{
    char *to = *at;
    if (s == NULL)
        return NULL;
    *at = stpcpy(to, s) + 1;
    return to;
}

static size_t size_of(const char *s)
{
    return s != NULL ? strlen(s) + 1 : 0;
}

/* How many groups; 0: the segments are unusable. */
static size_t transcript_check(const struct store_transcript *t)
{
    struct group g = {0};
    size_t groups = 0;
    for (size_t i = 0; i < t->n_segments; i++) {
        const struct store_segment *s = &t->segment[i];
        if (s->id == NULL || s->text == NULL || s->speaker == NULL || !store_text_ok(s->text) || !(s->start >= 0) ||
            !(s->end >= s->start) || !(s->end < MAX_SECOND) || (i > 0 && s->start < t->segment[i - 1].start))
            return 0;
    }
    while (group_next(t, &g))
        groups++;
    return groups <= RECORDING_GROUPS_MAX ? groups : 0;
}

int store_transcript_merge(struct store *s, const struct store_transcript *t, struct loop *loop,
                           void (*cb)(void *arg, int result, const char (*ids)[37], size_t n), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    size_t groups = transcript_check(t), len = size_of(t->uid) + size_of(t->language) + size_of(t->source);
    if (groups == 0)
        return OMID_EINVAL;
    for (size_t i = 0; i < t->n_segments; i++) {
        const struct store_segment *g = &t->segment[i];
        len +=
            size_of(g->id) + size_of(g->text) + size_of(g->speaker) + size_of(g->person_id) + size_of(g->stt_provider);
    }
    struct merge_call *m = calloc(1, sizeof(*m));
    if (m == NULL)
        return OMID_ERR;
    m->call = (struct store_call){.run = merge_run, .answer = merge_answer, .drop = merge_drop};
    m->cb = cb;
    m->t = *t;
    m->segment = calloc(t->n_segments, sizeof(*m->segment));
    m->ids = calloc(groups, sizeof(*m->ids));
    char *at = m->text = malloc(len);
    if (m->segment == NULL || m->ids == NULL || m->text == NULL) {
        merge_drop(&m->call);
        return OMID_ERR;
    }
    m->t.uid = keep(&at, t->uid);
    m->t.language = keep(&at, t->language);
    m->t.source = keep(&at, t->source);
    for (size_t i = 0; i < t->n_segments; i++) {
        struct store_segment *g = &m->segment[i];
        *g = t->segment[i];
        g->id = keep(&at, g->id);
        g->text = keep(&at, g->text);
        g->speaker = keep(&at, g->speaker);
        g->person_id = keep(&at, g->person_id);
        g->stt_provider = keep(&at, g->stt_provider);
        g->session = NULL; /* a recording is of none */
    }
    m->t.segment = m->segment;
    return store_call_post(s, &m->call, loop, arg, sizeof(*m) + len);
}
