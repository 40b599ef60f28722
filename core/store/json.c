/* The wire form of conversations, as the clients and webhooks of Omi know it; and the store's own status. */
#include <string.h>

#include "base/base64.h"
#include "base/clock.h"
#include "base/magic.h"
#include "store/store_int.h"

static void key_time(struct json_w *w, const char *key, int64_t ms)
{
    char text[32];
    if (ms != 0)
        clock_format_utc(ms, text);
    json_w_kstr(w, key, ms != 0 ? text : NULL);
}

static void key_empty(struct json_w *w, const char *key)
{
    json_w_key(w, key);
    json_w_open(w, '[');
    json_w_close(w, ']');
}

static void segment_json(struct json_w *w, const struct store_segment *g)
{
    json_w_open(w, '{');
    json_w_kstr(w, "id", g->id);
    json_w_kstr(w, "text", g->text);
    json_w_kstr(w, "speaker", g->speaker);
    json_w_kint(w, "speaker_id", g->speaker_id);
    json_w_kbool(w, "is_user", g->is_user);
    json_w_kstr(w, "person_id", g->person_id);
    json_w_knum(w, "start", g->start);
    json_w_knum(w, "end", g->end);
    key_empty(w, "translations");
    json_w_kbool(w, "speech_profile_processed", true);
    json_w_kstr(w, "stt_provider", g->stt_provider);
    json_w_close(w, '}');
}

/* Clients expect a string in base64. */
static void photo_json(struct json_w *w, const struct store_photo *p)
{
    struct buf data = BUF_INIT(0);
    json_w_open(w, '{');
    json_w_kstr(w, "id", p->id);
    json_w_kstr(w, "base64", p->data != NULL && base64_encode(p->data, p->len, &data) && data.data ? data.data : "");
    json_w_kstr(w, "description", p->description);
    key_time(w, "created_at", p->created_ms);
    json_w_kbool(w, "discarded", p->discarded);
    json_w_close(w, '}');
    buf_free(&data);
}

/* As clients know what an app says in a chat. */
void store_messages_json(struct json_w *w, const struct store_conversation *c)
{
    json_w_open(w, '[');
    for (size_t i = 0; i < c->n_messages; i++) {
        const struct store_message *m = &c->message[i];
        json_w_open(w, '{');
        json_w_kstr(w, "id", m->id);
        key_time(w, "created_at", m->created_ms);
        json_w_kstr(w, "text", m->text);
        json_w_kstr(w, "sender", "ai");
        json_w_kstr(w, "type", "text");
        json_w_kstr(w, "app_id", m->app_id);
        json_w_kstr(w, "app_name", m->app_name);
        json_w_kstr(w, "plugin_id", m->app_id);
        json_w_kbool(w, "from_integration", true);
        key_empty(w, "memories");
        key_empty(w, "files");
        json_w_close(w, '}');
    }
    json_w_close(w, ']');
}

static const struct {
    const char *key, *text; /* text NULL: an array */
} structured_members[] = {
    {"title", ""},         {"overview", ""},       {"emoji", "\xF0\x9F\xA7\xA0"},
    {"category", "other"}, {"action_items", NULL}, {"events", NULL},
};

/* All members are there for the reader, whoever made the object; what it holds beyond them goes on as it is. */
static void structured_json(struct json_w *w, const char *structured)
{
    char err[128];
    yajl_val v = structured ? json_parse(structured, strlen(structured), 0, err, sizeof(err)) : NULL;
    json_w_open(w, '{');
    for (size_t i = 0; i < ARRAY_LEN(structured_members); i++) {
        const char *key = structured_members[i].key, *text = structured_members[i].text;
        yajl_val have = json_get(v, key);
        json_w_key(w, key);
        if (have != NULL && (text ? YAJL_IS_STRING(have) : YAJL_IS_ARRAY(have))) {
            json_w_tree(w, have);
        } else if (text != NULL) {
            json_w_str(w, text);
        } else {
            json_w_open(w, '[');
            json_w_close(w, ']');
        }
    }
    for (size_t i = 0; YAJL_IS_OBJECT(v) && i < v->u.object.len; i++) {
        bool known = false;
        for (size_t k = 0; k < ARRAY_LEN(structured_members); k++)
            known = known || strcmp(v->u.object.keys[i], structured_members[k].key) == 0;
        if (known)
            continue;
        json_w_key(w, v->u.object.keys[i]);
        json_w_tree(w, v->u.object.values[i]);
    }
    json_w_close(w, '}');
    json_free(&v);
}

void store_conversation_json(struct json_w *w, const struct store_conversation *c)
{
    json_w_open(w, '{');
    json_w_kstr(w, "id", c->id);
    key_time(w, "created_at", c->created_ms);
    key_time(w, "started_at", c->started_ms);
    key_time(w, "finished_at", c->finished_ms);
    json_w_kstr(w, "source", c->source);
    json_w_kstr(w, "language", c->language);
    json_w_kstr(w, "call_id", c->call_id);
    json_w_kstr(w, "status", store_status_name(c->status));
    json_w_kint(w, "revision", c->revision);
    if (c->error != NULL)
        json_w_kstr(w, "error", c->error);
    json_w_key(w, "structured");
    structured_json(w, c->structured);
    json_w_key(w, "transcript_segments");
    json_w_open(w, '[');
    for (size_t i = 0; i < c->n_segments; i++)
        segment_json(w, &c->segment[i]);
    json_w_close(w, ']');
    json_w_key(w, "geolocation");
    if (c->geolocation != NULL)
        json_w_raw(w, c->geolocation, strlen(c->geolocation));
    else
        json_w_null(w);
    json_w_key(w, "photos");
    json_w_open(w, '[');
    for (size_t i = 0; i < c->n_photos; i++)
        photo_json(w, &c->photo[i]);
    json_w_close(w, ']');
    key_empty(w, "apps_results");
    key_empty(w, "plugins_results");
    json_w_kbool(w, "discarded", c->status == STORE_SKIPPED);
    json_w_kbool(w, "deleted", false);
    json_w_kstr(w, "visibility", "private");
    json_w_close(w, '}');
}

/* What was counted last: the writer keeps it, the asker only reads. */
void store_status_json(struct store *s, struct json_w *w)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    struct db_writer_stats st;
    char health[512];
    db_writer_stats(s->writer, &st);
    store_health(s, health, sizeof(health));
    json_w_open(w, '{');
    json_w_kstr(w, "file", s->path);
    json_w_key(w, "conversations");
    json_w_open(w, '{');
    for (int i = 0; i < STORE_STATUSES; i++)
        json_w_kint(w, store_status_name((enum store_status)i), atomic_load(&s->count[i]));
    json_w_close(w, '}');
    json_w_kint(w, "operations", (int64_t)st.ops);
    json_w_kint(w, "failed_operations", (int64_t)st.failed_ops);
    json_w_kint(w, "refused", (int64_t)st.refused);
    json_w_kint(w, "commits", (int64_t)st.commits);
    json_w_kint(w, "failed_commits", (int64_t)st.failed_commits);
    json_w_kint(w, "waiting", (int64_t)st.waiting);
    json_w_kstr(w, "health", health);
    json_w_close(w, '}');
}
