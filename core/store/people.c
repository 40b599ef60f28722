/* People: listed, added, renamed, deleted. Most come by being named in a conversation: content.c. */
#include "base/clock.h"
#include "store/voices_int.h"

static void person_json(struct json_w *w, sqlite3_stmt *st)
{
    char at[32];
    json_w_open(w, '{');
    json_w_kstr(w, "id", db_col_str(st, 0));
    json_w_kstr(w, "name", db_col_str(st, 1));
    clock_format_utc(sqlite3_column_int64(st, 2), at);
    json_w_kstr(w, "created_at", at);
    json_w_kint(w, "voices", sqlite3_column_int64(st, 3));
    json_w_close(w, '}');
}

int store_people_json(struct store *s, const char *uid, struct buf *out, char *err, size_t errlen)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    struct db *db = store_reader_take(s, err, errlen);
    if (db == NULL)
        return OMID_ERR;
    sqlite3_stmt *st = db_stmt(db, SS_PEOPLE_OF);
    db_bind_str(st, 1, uid);
    struct json_w w;
    int r;
    json_w_start(&w, out);
    json_w_open(&w, '[');
    while ((r = db_step(db, st)) > 0)
        person_json(&w, st);
    json_w_close(&w, ']');
    if (r == 0 && !json_w_end(&w)) {
        db_set_error(db, "no memory");
        r = -1;
    }
    if (r < 0)
        return store_read_failed(s, db, err, errlen);
    store_reader_give(s, db, false);
    return OMID_OK;
}

static bool run_for(struct db *db, enum store_stmt what, const struct voice_call *c)
{
    sqlite3_stmt *st = db_stmt(db, what);
    db_bind_str(st, 1, c->text[0]);
    db_bind_str(st, 2, c->text[1]);
    return db_run(db, st);
}

static int add_run(struct store *s, struct store_call *call)
{
    struct voice_call *c = container_of(call, struct voice_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_PERSON_PUT);
    db_bind_str(st, 1, c->text[0]);
    db_bind_str(st, 2, c->text[1]);
    db_bind_str(st, 3, c->text[2]);
    sqlite3_bind_int64(st, 4, c->ms);
    sqlite3_bind_int(st, 5, STORE_MAX_PEOPLE);
    if (!db_run(s->db, st))
        return OMID_ERR;
    return db_changes(s->db) > 0 ? OMID_OK : OMID_ENOTSUP;
}

int store_person_add(struct store *s, const char *uid, const char *id, const char *name, int64_t now_ms,
                     struct loop *loop, store_result_cb cb, void *arg)
{
    struct voice_call *c = voice_call_new((const char *[VOICE_TEXTS]){uid, id, name}, NULL, 0);
    if (c != NULL)
        c->ms = now_ms;
    return voice_call_post(s, c, add_run, loop, cb, arg);
}

static int rename_run(struct store *s, struct store_call *call)
{
    struct voice_call *c = container_of(call, struct voice_call, call);
    sqlite3_stmt *st = db_stmt(s->db, SS_PERSON_RENAME);
    db_bind_str(st, 1, c->text[0]);
    db_bind_str(st, 2, c->text[1]);
    db_bind_str(st, 3, c->text[2]);
    if (!db_run(s->db, st))
        return OMID_ERR;
    return db_changes(s->db) > 0 ? OMID_OK : OMID_ENOTSUP;
}

int store_person_rename(struct store *s, const char *uid, const char *id, const char *name, struct loop *loop,
                        store_result_cb cb, void *arg)
{
    struct voice_call *c = voice_call_new((const char *[VOICE_TEXTS]){uid, id, name}, NULL, 0);
    return voice_call_post(s, c, rename_run, loop, cb, arg);
}

static int delete_run(struct store *s, struct store_call *call)
{
    struct voice_call *c = container_of(call, struct voice_call, call);
    if (!run_for(s->db, SS_PERSON_DELETE, c))
        return OMID_ERR;
    if (db_changes(s->db) == 0)
        return OMID_ENOTSUP;
    return run_for(s->db, SS_VOICE_DELETE, c) && run_for(s->db, SS_SAMPLES_DROP, c) &&
                   run_for(s->db, SS_PERSON_SPEAKERS, c)
               ? OMID_OK
               : OMID_ERR;
}

int store_person_delete(struct store *s, const char *uid, const char *id, struct loop *loop, store_result_cb cb,
                        void *arg)
{
    struct voice_call *c = voice_call_new((const char *[VOICE_TEXTS]){uid, id}, NULL, 0);
    return voice_call_post(s, c, delete_run, loop, cb, arg);
}
