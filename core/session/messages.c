/* The client's texts: its own transcript, the name of a speaker, pieces of photos. What is not usable is ignored and
 * counted; nothing a client says here ends its connection. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "session/speakers.h"
#include "session/state.h"

#define MODULE "session"
/* What a client's own transcript may claim: no session lasts longer, no room holds more. */
#define MAX_SECONDS 1e7
#define MAX_SPEAKER 9999
#define MAX_TEXT ((size_t)1 << 18) /* bytes of one segment: well within what the store keeps of one */
#define MAX_PERSON 128             /* bytes of a person's id */
#define MAX_NAME 256               /* and name */
#define MAX_ASSIGNED 1000          /* segments in one speaker_assigned */

static void ignored(const struct session *s, const char *type, const char *why)
{
    metric_add(session_metrics()->messages_ignored, 1);
    log_debug(MODULE, "a message is ignored", LS("session", s->id), LS("type", type), LS("reason", why));
}

/* ------------------------------------------------------------- suggested_transcript */

/* Segments of the client's own speech-to-text, in seconds of its session. */
static void on_suggested_transcript(struct session *s, yajl_val v)
{
    yajl_val segments = json_array(v, "segments");
    const char *provider = json_str(v, "stt_provider");
    struct segment_list batch = {0};
    if (!s->params.custom_stt) {
        ignored(s, "suggested_transcript", "without custom_stt");
        return;
    }
    if (s->first_audio_ms == 0)
        s->first_audio_ms = clock_wall_ms();
    for (size_t i = 0; i < json_len(segments); i++) {
        yajl_val in = json_at(segments, i);
        const char *text = json_str(in, "text"), *speaker = json_str(in, "speaker");
        int id = 0;
        if (speaker && sscanf(speaker, "SPEAKER_%6d", &id) != 1)
            id = 0;
        int64_t given = json_int(in, "speaker_id", id);
        id = given < 0 || given > MAX_SPEAKER ? 0 : (int)given;
        double start = json_num(in, "start", -1), end = json_num(in, "end", -1);
        if (!text || !text[0] || strlen(text) > MAX_TEXT || start < 0 || end < start || end > MAX_SECONDS) {
            ignored(s, "suggested_transcript", "a segment without usable text, start and end");
            continue;
        }
        struct segment *seg =
            segment_new(text, id, json_bool(in, "is_user", false), start, end, provider ? provider : "custom");
        if (!seg || !segment_list_push(&batch, seg)) {
            metric_add(session_metrics()->dropped, 1);
            segment_free(&seg);
        }
    }
    session_take_segments(s, &batch);
}

/* ----------------------------------------------------------------- speaker_assigned */

/* The ids that are segments of the conversation, as a JSON array; false: no memory. */
static bool assigned_ids(const struct conversation *c, yajl_val ids, struct buf *out)
{
    struct json_w w;
    json_w_start(&w, out);
    json_w_open(&w, '[');
    for (size_t i = 0; i < json_len(ids); i++) {
        yajl_val id = json_at(ids, i);
        if (YAJL_IS_STRING(id) && segment_list_find(&c->segments, id->u.string))
            json_w_str(&w, id->u.string);
    }
    json_w_close(&w, ']');
    return json_w_end(&w);
}

static void on_speaker_assigned(struct session *s, yajl_val v)
{
    const char *person = json_str(v, "person_id"), *name = json_str(v, "person_name");
    int64_t speaker = json_int(v, "speaker_id", -1);
    yajl_val ids = json_array(v, "segment_ids");
    const char *why = speaker < 0 || speaker > MAX_SPEAKER                   ? "speaker_id: 0 to 9999 is expected"
                      : !person || !person[0] || strlen(person) > MAX_PERSON ? "person_id: 1 to 128 bytes are expected"
                      : name && strlen(name) > MAX_NAME    ? "person_name: at most 256 bytes are expected"
                      : json_get(v, "segment_ids") && !ids ? "segment_ids: an array is expected"
                      : json_len(ids) > MAX_ASSIGNED       ? "segment_ids: at most 1000 are expected"
                                                           : NULL;
    if (why) {
        ignored(s, "speaker_assigned", why);
        return;
    }
    struct conversation *c = s->conversation;
    conversation_flush_client(c); /* ids that are about to be combined are so first */
    struct buf known = BUF_INIT(0);
    bool owner = strcmp(person, "user") == 0;
    if (!assigned_ids(c, ids, &known) ||
        !conversation_name(c, s, (int)speaker, owner ? NULL : person, name ? name : "", known.data)) {
        metric_add(session_metrics()->dropped, 1);
        log_warning(MODULE, "a speaker's name is not kept: too many wait for the store", LS("session", s->id));
    } else {
        for (size_t i = 0; i < json_len(ids); i++) {
            yajl_val id = json_at(ids, i);
            struct segment *seg = YAJL_IS_STRING(id) ? segment_list_find(&c->segments, id->u.string) : NULL;
            if (seg)
                conversation_segment_name(c, seg, owner ? NULL : person);
        }
        speakers_named(s, content_newest_naming(&c->content));
        conversation_changed(c);
    }
    buf_free(&known);
}

/* ---------------------------------------------------------------------- image_chunk */

static void photo_tell(struct session *s, const char *temp_id, const char *photo_id)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "type", "photo_processing");
    json_w_kstr(&w, "temp_id", temp_id);
    json_w_kstr(&w, "photo_id", photo_id);
    json_w_close(&w, '}');
    if (json_w_end(&w))
        session_send_text(s, b.data, b.len);
    buf_clear(&b);
    /* Nobody describes photos. */
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "type", "photo_described");
    json_w_kstr(&w, "photo_id", photo_id);
    json_w_kstr(&w, "description", "");
    json_w_kbool(&w, "discarded", false);
    json_w_close(&w, '}');
    if (json_w_end(&w))
        session_send_text(s, b.data, b.len);
    buf_free(&b);
}

static struct photo_limits limits_of(const struct session *s)
{
    const struct conf *conf = session_conf(s);
    return (struct photo_limits){.waiting = conf->listen.max_partial_photos,
                                 .bytes = conf->listen.photo_buffer,
                                 .photo = conf->listen.max_photo,
                                 .time_ms = conf->listen.photo_timeout_ms};
}

/* What changed in the bytes and in the number of those given up. */
static void photos_account(struct session *s, size_t bytes, uint64_t dropped)
{
    budget_add((int64_t)photo_parts_bytes(s->photos) - (int64_t)bytes);
    metric_add(session_metrics()->dropped, (int64_t)(photo_parts_dropped(s->photos) - dropped));
}

void session_photos_expire(struct session *s)
{
    if (!s->photos)
        return;
    const struct photo_limits limits = limits_of(s);
    size_t bytes = photo_parts_bytes(s->photos);
    uint64_t dropped = photo_parts_dropped(s->photos);
    photo_parts_expire(s->photos, &limits, loop_now_ms(s->ss->env.loop));
    photos_account(s, bytes, dropped);
}

void session_photos_free(struct session *s)
{
    if (!s->photos)
        return;
    budget_add(-(int64_t)photo_parts_bytes(s->photos));
    photo_parts_free(&s->photos);
}

static void on_image_chunk(struct session *s, yajl_val v)
{
    if (!s->photos && !(s->photos = photo_parts_new()))
        return;
    const struct photo_limits limits = limits_of(s);
    yajl_val data = json_get(v, "data");
    struct photo_piece piece = {.id = json_str(v, "id"),
                                .index = json_int(v, "index", -1),
                                .total = json_int(v, "total", -1),
                                .data = YAJL_IS_STRING(data) ? data->u.string : NULL};
    piece.len = piece.data ? strlen(piece.data) : 0;
    size_t bytes = photo_parts_bytes(s->photos), len = 0;
    uint64_t dropped = photo_parts_dropped(s->photos);
    unsigned char *whole = NULL;
    const char *why = NULL;
    enum photo_verdict verdict =
        photo_parts_add(s->photos, &limits, &piece, loop_now_ms(s->ss->env.loop), &whole, &len, &why);
    photos_account(s, bytes, dropped);
    if (verdict == PHOTO_BAD)
        ignored(s, "image_chunk", why);
    if (verdict != PHOTO_WHOLE)
        return;
    const char *id = conversation_photo(s->conversation, whole, len);
    if (id) {
        metric_add(session_metrics()->photos, 1);
        photo_tell(s, piece.id, id);
    } else {
        metric_add(session_metrics()->dropped, 1);
        log_warning(MODULE, "a photo is dropped: too many wait for the store", LS("session", s->id));
    }
}

/* -------------------------------------------------------- before the conversation */

/* The session's own, not left in the channel: there audio would wait behind them for the store, and they would be lost
 * with the client. */
struct early_text {
    struct list link;
    size_t len;
    unsigned char data[];
};

static size_t early_cost(size_t len)
{
    return sizeof(struct early_text) + len;
}

static bool early_keep(struct session *s, const unsigned char *data, size_t len)
{
    if (s->early_bytes + early_cost(len) > SESSION_MAX_EARLY)
        return false;
    struct early_text *e = malloc(early_cost(len));
    if (!e)
        return false;
    e->len = len;
    memcpy(e->data, data, len);
    list_append(&s->early_texts, &e->link);
    s->early_bytes += early_cost(len);
    budget_add((int64_t)early_cost(len));
    return true;
}

static void early_free(struct session *s, struct early_text *e)
{
    s->early_bytes -= early_cost(e->len);
    budget_add(-(int64_t)early_cost(e->len));
    free(e);
}

void session_early_texts(struct session *s)
{
    CHECK_MAGIC(s, SESSION_MAGIC);
    while (s->conversation && !list_empty(&s->early_texts)) {
        struct early_text *e = list_entry(list_pop(&s->early_texts), struct early_text, link);
        (void)session_text(s, e->data, e->len);
        early_free(s, e);
    }
}

void session_early_texts_free(struct session *s)
{
    while (!list_empty(&s->early_texts)) {
        early_free(s, list_entry(list_pop(&s->early_texts), struct early_text, link));
        metric_add(session_metrics()->dropped, 1);
    }
}

/* -------------------------------------------------------------------------- all */

static const struct {
    const char *type;
    bool speaks_of_conversation; /* kept until there is one */
    void (*fn)(struct session *s, yajl_val v);
} messages[] = {
    {"suggested_transcript", false, on_suggested_transcript},
    {"speaker_assigned", true, on_speaker_assigned},
    {"image_chunk", true, on_image_chunk},
    {"keepalive", false, NULL},
};

bool session_text(struct session *s, const unsigned char *data, size_t len)
{
    char err[96];
    yajl_val v = json_parse((const char *)data, len, 0, err, sizeof err);
    const char *type = v ? json_str(v, "type") : NULL;
    bool known = false, taken = true;
    for (size_t i = 0; type && i < ARRAY_LEN(messages) && !known; i++) {
        known = strcmp(type, messages[i].type) == 0;
        if (!known || !messages[i].fn)
            continue;
        if (s->conversation || !messages[i].speaks_of_conversation)
            messages[i].fn(s, v);
        else
            taken = early_keep(s, data, len);
    }
    if (!known)
        ignored(s, type ? type : "", v ? "of no known type" : err);
    json_free(&v);
    return taken;
}

/* ------------------------------------------------------------------- last_memory */

struct last_answer {
    struct sessions *ss;
    char session_id[37];
};

static void on_last(void *arg, int result, const char *id)
{
    struct last_answer *a = arg;
    struct session *s = map_get(a->ss->by_id, a->session_id);
    (void)result; /* a store that failed has none to tell of */
    free(a);
    if (!s || !id)
        return;
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "type", "last_memory");
    json_w_kstr(&w, "memory_id", id);
    json_w_close(&w, '}');
    if (json_w_end(&w))
        session_send_text(s, b.data, b.len);
    buf_free(&b);
}

void session_last_memory(struct session *s)
{
    struct last_answer *a = malloc(sizeof *a);
    if (!a)
        return;
    a->ss = s->ss;
    memcpy(a->session_id, s->id, sizeof a->session_id);
    if (store_find(s->ss->env.store, s->uid, STORE_FIND_COMPLETED, s->ss->env.loop, on_last, a) != OMID_OK)
        free(a);
}
