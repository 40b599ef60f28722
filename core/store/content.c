/* What a conversation holds besides its segments: photos, messages of apps, who its speakers are. And people, and the
 * samples of their voices that wait to be taken. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/magic.h"
#include "store/store_int.h"

/* ---------------------------------------------------------------- reading */

/* Makes room for one more of `size` bytes, zeroed; NULL: no memory. */
static void *grown(void **list, size_t n, size_t size)
{
    if (n > 0 && (n & (n - 1)) != 0) /* full at each power of two */
        return (char *)*list + n * size;
    size_t cap = n == 0 ? 1 : n * 2;
    char *more = realloc(*list, cap * size);
    if (more == NULL)
        return NULL;
    memset(more + n * size, 0, (cap - n) * size);
    *list = more;
    return more + n * size;
}

static void *dup_blob(sqlite3_stmt *st, int col, size_t *len)
{
    *len = (size_t)sqlite3_column_bytes(st, col);
    const void *p = sqlite3_column_blob(st, col);
    void *copy = p ? malloc(*len + 1) : NULL;
    if (copy != NULL && *len > 0)
        memcpy(copy, p, *len);
    return copy;
}

static bool photo_read(sqlite3_stmt *st, bool data, struct store_conversation *c)
{
    struct store_photo *p = grown((void **)&c->photo, c->n_photos, sizeof(*p));
    if (p == NULL)
        return false;
    c->n_photos++;
    p->id = db_col_dup(st, 0);
    p->created_ms = sqlite3_column_int64(st, 1);
    p->description = db_col_dup(st, 2);
    p->discarded = sqlite3_column_int(st, 3) != 0;
    if (data)
        p->data = dup_blob(st, 4, &p->len);
    return p->id != NULL && p->description != NULL && (!data || p->data != NULL || p->len == 0);
}

static bool message_read(sqlite3_stmt *st, bool data, struct store_conversation *c)
{
    struct store_message *m = grown((void **)&c->message, c->n_messages, sizeof(*m));
    (void)data;
    if (m == NULL)
        return false;
    c->n_messages++;
    m->id = db_col_dup(st, 0);
    m->created_ms = sqlite3_column_int64(st, 1);
    m->app_id = db_col_dup(st, 2);
    m->app_name = db_col_dup(st, 3);
    m->text = db_col_dup(st, 4);
    return m->id != NULL && m->app_id != NULL && m->app_name != NULL && m->text != NULL;
}

static bool speaker_read(sqlite3_stmt *st, bool data, struct store_conversation *c)
{
    struct store_speaker *p = grown((void **)&c->speaker, c->n_speakers, sizeof(*p));
    (void)data;
    if (p == NULL)
        return false;
    c->n_speakers++;
    p->speaker_id = sqlite3_column_int(st, 0);
    p->person_id = db_col_dup(st, 1);
    return p->person_id != NULL || sqlite3_column_type(st, 1) == SQLITE_NULL;
}

static int rows_read(struct db *db, enum store_stmt what, int64_t row, bool data, struct store_conversation *c,
                     bool (*read)(sqlite3_stmt *st, bool data, struct store_conversation *c))
{
    sqlite3_stmt *st = db_stmt(db, what);
    int r;
    sqlite3_bind_int64(st, 1, row);
    if (what == SS_PHOTO_OF)
        sqlite3_bind_int(st, 2, data);
    while ((r = db_step(db, st)) > 0) {
        if (!read(st, data, c)) {
            sqlite3_reset(st);
            db_set_error(db, "no memory");
            return OMID_ERR;
        }
    }
    return r < 0 ? OMID_ERR : OMID_OK;
}

int store_content_read(struct db *db, int64_t row, bool data, struct store_conversation *c)
{
    int r = rows_read(db, SS_PHOTO_OF, row, data, c, photo_read);
    if (r == OMID_OK)
        r = rows_read(db, SS_MESSAGE_OF, row, data, c, message_read);
    if (r == OMID_OK)
        r = rows_read(db, SS_SPEAKER_OF, row, data, c, speaker_read);
    return r;
}

void store_content_free(struct store_conversation *c)
{
    for (size_t i = 0; i < c->n_photos; i++) {
        free((char *)c->photo[i].id);
        free((char *)c->photo[i].description);
        free((unsigned char *)c->photo[i].data);
    }
    for (size_t i = 0; i < c->n_messages; i++) {
        free((char *)c->message[i].id);
        free((char *)c->message[i].app_id);
        free((char *)c->message[i].app_name);
        free((char *)c->message[i].text);
    }
    for (size_t i = 0; i < c->n_speakers; i++)
        free((char *)c->speaker[i].person_id);
    free(c->photo);
    free(c->message);
    free(c->speaker);
}

/* ---------------------------------------------------------------- writing */

bool store_photo_put(struct db *db, int64_t row, const struct store_photo *p)
{
    sqlite3_stmt *st = db_stmt(db, SS_PHOTO_PUT);
    sqlite3_bind_int64(st, 1, row);
    db_bind_str(st, 2, p->id);
    sqlite3_bind_int64(st, 3, p->created_ms);
    db_bind_str(st, 4, p->description);
    sqlite3_bind_int(st, 5, p->discarded);
    sqlite3_bind_blob64(st, 6, p->data, p->len, SQLITE_STATIC);
    return db_run(db, st);
}

/* *kept: there is such a person now. */
static bool person_put(struct db *db, const char *uid, const struct store_naming *n, bool *kept)
{
    sqlite3_stmt *st = db_stmt(db, SS_PERSON_NAME);
    db_bind_str(st, 1, uid);
    db_bind_str(st, 2, n->person_id);
    db_bind_str(st, 3, n->name);
    if (!db_run(db, st))
        return false;
    *kept = db_changes(db) > 0;
    if (*kept)
        return true;
    st = db_stmt(db, SS_PERSON_PUT);
    db_bind_str(st, 1, uid);
    db_bind_str(st, 2, n->person_id);
    db_bind_str(st, 3, n->name);
    sqlite3_bind_int64(st, 4, n->created_ms);
    sqlite3_bind_int(st, 5, STORE_MAX_PEOPLE);
    if (!db_run(db, st))
        return false;
    *kept = db_changes(db) > 0;
    if (!*kept)
        log_warning("store", "a uid has too many people: one more is not kept", LU("people", STORE_MAX_PEOPLE));
    return true;
}

bool store_speaker_put(struct db *db, int64_t row, const char *uid, const struct store_naming *n)
{
    bool kept = true;
    if (n->person_id != NULL && !person_put(db, uid, n, &kept))
        return false;
    sqlite3_stmt *st = db_stmt(db, SS_SPEAKER_PUT);
    sqlite3_bind_int64(st, 1, row);
    sqlite3_bind_int(st, 2, n->speaker_id);
    db_bind_str(st, 3, n->person_id);
    if (!db_run(db, st))
        return false;
    if (!kept)
        return true;
    st = db_stmt(db, SS_SAMPLE_PUT);
    db_bind_str(st, 1, n->sample_id);
    db_bind_str(st, 2, uid);
    sqlite3_bind_int64(st, 3, row);
    db_bind_str(st, 4, n->person_id ? n->person_id : "user");
    sqlite3_bind_int(st, 5, n->speaker_id);
    db_bind_str(st, 6, n->segments);
    sqlite3_bind_int64(st, 7, n->created_ms);
    return db_run(db, st);
}

/* ---------------------------------------------------------------- a message */

struct message_call {
    struct store_call call;
    void (*cb)(void *arg, int result);
    struct store_message m;
    const char *conversation_id;
    char text[];
};

static int message_run(struct store *s, struct store_call *call)
{
    struct message_call *c = container_of(call, struct message_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_CONV_ROW);
    db_bind_str(st, 1, c->conversation_id);
    int r = db_step(s->db, st);
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_ENOTSUP;
    int64_t row = sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    st = db_stmt(s->db, SS_MESSAGE_PUT);
    sqlite3_bind_int64(st, 1, row);
    db_bind_str(st, 2, c->m.id);
    sqlite3_bind_int64(st, 3, c->m.created_ms);
    db_bind_str(st, 4, c->m.app_id);
    db_bind_str(st, 5, c->m.app_name);
    db_bind_str(st, 6, c->m.text);
    sqlite3_bind_int(st, 7, STORE_MAX_MESSAGES);
    if (!db_run(s->db, st))
        return OMID_ERR;
    return db_changes(s->db) > 0 ? OMID_OK : OMID_ENOTSUP;
}

static void message_answer(struct store_call *call)
{
    container_of(call, struct message_call, call)->cb(call->arg, call->result);
}

static void message_drop(struct store_call *call)
{
    free(container_of(call, struct message_call, call));
}

int store_message_add(struct store *s, const char *id, const struct store_message *m, struct loop *loop,
                      void (*cb)(void *arg, int result), void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    const char *text[] = {id, m->id, m->app_id, m->app_name, m->text};
    size_t len = 0;
    for (size_t i = 0; i < ARRAY_LEN(text); i++) {
        if (text[i] == NULL || !store_text_ok(text[i]))
            return OMID_EINVAL;
        len += strlen(text[i]) + 1;
    }
    struct message_call *c = calloc(1, sizeof(*c) + len);
    if (c == NULL)
        return OMID_ERR;
    char *at = c->text;
    for (size_t i = 0; i < ARRAY_LEN(text); i++) {
        char *to = at;
        at = stpcpy(at, text[i]) + 1;
        text[i] = to;
    }
    c->conversation_id = text[0];
    c->m = (struct store_message){
        .id = text[1], .app_id = text[2], .app_name = text[3], .text = text[4], .created_ms = m->created_ms};
    c->cb = cb;
    c->call.run = message_run;
    c->call.answer = message_answer;
    c->call.drop = message_drop;
    return store_call_post(s, &c->call, cb ? loop : NULL, arg, sizeof(*c) + len);
}
