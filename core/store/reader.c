/* Reading beside the writer: connections that can't write, one to a reading thread at a time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/magic.h"
#include "store/store_int.h"

struct db *store_reader_take(struct store *s, char *err, size_t errlen)
{
    struct db *db = NULL;
    pthread_mutex_lock(&s->readers);
    if (s->n_idle > 0)
        db = s->idle[--s->n_idle];
    pthread_mutex_unlock(&s->readers);
    if (db != NULL)
        return db;
    struct db_config c = store_db_config(s->path);
    return db_open_reader(&c, err, errlen);
}

/* One that has failed is not used again: the next one sees the file as it is then. */
void store_reader_give(struct store *s, struct db *db, bool failed)
{
    if (!failed) {
        pthread_mutex_lock(&s->readers);
        if (s->n_idle < STORE_MAX_READERS) {
            s->idle[s->n_idle++] = db;
            db = NULL;
        }
        pthread_mutex_unlock(&s->readers);
    }
    db_close(&db);
}

void store_readers_close(struct store *s)
{
    while (s->n_idle > 0)
        db_close(&s->idle[--s->n_idle]);
}

int store_read_failed(struct store *s, struct db *db, char *err, size_t errlen)
{
    snprintf(err, errlen, "%s", db_error(db));
    log_error("store", "reading failed", LS("reason", err));
    db_rollback(db);
    store_reader_give(s, db, true);
    return OMID_ERR;
}

/* ---------------------------------------------------------------- one */

static int conversation_write(const struct store_conversation *c, struct buf *out)
{
    struct buf whole = BUF_INIT(0), messages = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &whole);
    store_conversation_json(&w, c);
    bool ok = json_w_end(&w);
    json_w_start(&w, &messages);
    store_messages_json(&w, c);
    ok = json_w_end(&w) && ok;
    /* The messages become the object's last member. */
    ok = ok && buf_append(out, whole.data, whole.len - 1) && buf_puts(out, ",\"messages\":") &&
         buf_append(out, messages.data, messages.len) && buf_puts(out, "}");
    buf_free(&whole);
    buf_free(&messages);
    return ok ? OMID_OK : OMID_ERR;
}

int store_conversation_read_json(struct store *s, const char *uid, const char *id, size_t max_bytes, struct buf *out,
                                 char *err, size_t errlen)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    struct store_conversation *c = NULL;
    int64_t row;
    struct db *db = store_reader_take(s, err, errlen);
    if (db == NULL)
        return OMID_ERR;
    /* One snapshot for all its tables. */
    if (!db_exec(db, "BEGIN") || store_conversation_read(db, id, true, &c, &row) != OMID_OK || !db_exec(db, "COMMIT"))
        return store_read_failed(s, db, err, errlen);
    store_reader_give(s, db, false);
    if (c == NULL || strcmp(c->uid, uid) != 0) {
        store_conversation_free(&c);
        return OMID_ENOTSUP;
    }
    size_t bytes = 0;
    for (size_t i = 0; i < c->n_photos; i++) {
        bytes += c->photo[i].len / 3 * 4;
        if (bytes > max_bytes) {
            free((unsigned char *)c->photo[i].data);
            c->photo[i].data = NULL;
        }
    }
    int r = conversation_write(c, out);
    if (r != OMID_OK)
        snprintf(err, errlen, "no memory");
    store_conversation_free(&c);
    return r;
}

/* ---------------------------------------------------------------- many */

#define MAX_LIST 100

struct page {
    char id[MAX_LIST][37];
    size_t n;
};

/* 1; 0: no such conversation of the uid's; -1. */
static int page_start(struct db *db, const struct store_list *l, int64_t *created, int64_t *row)
{
    *created = *row = INT64_MAX;
    if (l->before == NULL)
        return 1;
    sqlite3_stmt *st = db_stmt(db, SS_LIST_FROM);
    db_bind_str(st, 1, l->before);
    db_bind_str(st, 2, l->uid);
    int r = db_step(db, st);
    if (r > 0) {
        *created = sqlite3_column_int64(st, 0);
        *row = sqlite3_column_int64(st, 1);
        sqlite3_reset(st);
    }
    return r;
}

static int page_read(struct db *db, const struct store_list *l, struct page *p)
{
    int64_t created, row;
    p->n = 0;
    int r = page_start(db, l, &created, &row);
    if (r <= 0)
        return r < 0 ? OMID_ERR : OMID_ENOTSUP;
    sqlite3_stmt *st = db_stmt(db, SS_LIST);
    db_bind_str(st, 1, l->uid);
    sqlite3_bind_int64(st, 2, created);
    sqlite3_bind_int64(st, 3, row);
    sqlite3_bind_int64(st, 4, l->statuses ? l->statuses : ~0u);
    sqlite3_bind_int64(st, 5, (int64_t)(l->limit < MAX_LIST ? l->limit : MAX_LIST));
    sqlite3_bind_int64(st, 6, (int64_t)l->offset);
    while ((r = db_step(db, st)) > 0) {
        omid_assert(p->n < MAX_LIST);
        snprintf(p->id[p->n++], 37, "%s", db_col_str(st, 0));
    }
    return r < 0 ? OMID_ERR : OMID_OK;
}

static bool listed_write(struct store_conversation *c, size_t max_bytes, struct buf *out)
{
    struct json_w w;
    struct buf one = BUF_INIT(0);
    bool ok = true;
    size_t bytes = 0;
    for (size_t i = 0; i < c->n_segments; i++)
        bytes += strlen(c->segment[i].text);
    bool omit = out->len + bytes > max_bytes;
    size_t n = c->n_segments;
    if (omit)
        c->n_segments = 0;
    json_w_start(&w, &one);
    store_conversation_json(&w, c);
    ok = json_w_end(&w);
    c->n_segments = n;
    ok = ok && (out->data[out->len - 1] == '[' || buf_puts(out, ",")) &&
         buf_append(out, one.data, one.len - (omit ? 1 : 0)) &&
         (!omit || buf_puts(out, ",\"transcript_omitted\":true}"));
    buf_free(&one);
    return ok;
}

int store_list_json(struct store *s, const struct store_list *l, size_t max_bytes, struct buf *out, char *err,
                    size_t errlen)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    struct page page;
    struct db *db = store_reader_take(s, err, errlen);
    if (db == NULL)
        return OMID_ERR;
    if (!db_exec(db, "BEGIN"))
        return store_read_failed(s, db, err, errlen);
    int r = page_read(db, l, &page);
    bool memory = r != OMID_OK || buf_puts(out, "[");
    for (size_t i = 0; memory && r == OMID_OK && i < page.n; i++) {
        struct store_conversation *c = NULL;
        int64_t row;
        r = store_conversation_read(db, page.id[i], false, &c, &row);
        memory = c == NULL || listed_write(c, max_bytes, out);
        store_conversation_free(&c);
    }
    if (r == OMID_ERR || !db_exec(db, "COMMIT"))
        return store_read_failed(s, db, err, errlen);
    store_reader_give(s, db, false);
    if (r == OMID_OK && (!memory || !buf_puts(out, "]"))) {
        snprintf(err, errlen, "no memory");
        return OMID_ERR;
    }
    return r;
}
