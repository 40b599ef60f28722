/* From the session to its client: at once while there is room; else texts wait in order in a bounded queue, and of
 * segments only which ones, so that the newest state of each goes out when there is room again. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "session/state.h"

struct queued_text {
    struct list link;
    size_t len;
    char text[];
};

static bool session_down(struct session *s, const char *text, size_t len)
{
    return channel_down_message(s->channel, WS_TEXT, text, len) != CHANNEL_FULL;
}

static void session_stalled(struct session *s)
{
    if (s->stalled_since_ms == 0)
        s->stalled_since_ms = loop_now_ms(s->ss->env.loop);
}

void session_send_text(struct session *s, const char *text, size_t len)
{
    CHECK_MAGIC(s, SESSION_MAGIC);
    if (!s->channel || s->state >= SESSION_CLOSING)
        return;
    if (s->n_queued == 0 && session_down(s, text, len))
        return;
    session_stalled(s);
    struct queued_text *q = s->n_queued < SESSION_MAX_QUEUED ? malloc(sizeof *q + len) : NULL;
    if (!q) {
        /* A client that missed one message would show a wrong transcript from then on. */
        metric_add(session_metrics()->dropped, 1);
        session_close(s, WS_CODE_TRY_LATER, "the client does not read");
        return;
    }
    q->len = len;
    memcpy(q->text, text, len);
    list_append(&s->queued, &q->link);
    s->n_queued++;
    budget_add((int64_t)(sizeof *q + len));
}

static void queued_pop(struct session *s)
{
    struct queued_text *q = list_entry(list_pop(&s->queued), struct queued_text, link);
    s->n_queued--;
    budget_add(-(int64_t)(sizeof *q + q->len));
    free(q);
}

void session_send_segments(struct session *s, const char *json, size_t len, const struct conversation *c)
{
    CHECK_MAGIC(s, SESSION_MAGIC);
    if (!s->channel || s->state >= SESSION_CLOSING)
        return;
    if (s->n_queued == 0 && s->unsent.n == 0 && session_down(s, json, len))
        return;
    /* The newest state of each is sent when there is room: here only which ones. */
    session_stalled(s);
    metric_add(session_metrics()->coalesced, 1);
    char err[8];
    yajl_val v = json_parse(json, len, 0, err, sizeof err);
    for (size_t i = 0; i < json_len(v); i++) {
        const char *id = json_str(json_at(v, i), "id");
        bool known = false;
        for (size_t k = 0; id && k < s->unsent.n && !known; k++)
            known = strcmp(s->unsent.id[k], id) == 0;
        if (id && !known && s->unsent.n < c->segments.n + 1)
            id_list_push(&s->unsent, id);
    }
    json_free(&v);
}

/* The newest states of the unsent, as an array. */
static bool unsent_json(const struct session *s, struct buf *b)
{
    struct json_w w;
    json_w_start(&w, b);
    json_w_open(&w, '[');
    for (size_t i = 0; i < s->unsent.n; i++) {
        const struct segment *seg = segment_list_find(&s->conversation->segments, s->unsent.id[i]);
        if (seg)
            segment_json(&w, seg);
    }
    json_w_close(&w, ']');
    return json_w_end(&w);
}

static void session_send_unsent(struct session *s)
{
    if (s->unsent.n == 0 || !s->conversation)
        return;
    struct buf b = BUF_INIT(0);
    if (unsent_json(s, &b) && session_down(s, b.data, b.len))
        id_list_clear(&s->unsent);
    buf_free(&b);
}

void session_queue_unsent(struct session *s)
{
    CHECK_MAGIC(s, SESSION_MAGIC);
    if (s->unsent.n == 0 || !s->conversation)
        return;
    struct buf b = BUF_INIT(0);
    if (unsent_json(s, &b))
        session_send_text(s, b.data, b.len);
    id_list_clear(&s->unsent);
    buf_free(&b);
}

void session_writable(struct channel *ch)
{
    struct session *s = channel_user(ch);
    if (!s)
        return;
    CHECK_MAGIC(s, SESSION_MAGIC);
    s->stalled_since_ms = 0; /* it reads */
    while (s->n_queued > 0) {
        struct queued_text *q = list_entry(s->queued.next, struct queued_text, link);
        if (!session_down(s, q->text, q->len)) {
            session_stalled(s);
            return;
        }
        queued_pop(s);
    }
    session_send_unsent(s);
    if (s->unsent.n > 0)
        session_stalled(s);
}

void session_send_status(struct session *s, const char *status, const char *text, const struct stt_failure *why)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "type", "service_status");
    json_w_kstr(&w, "status", status);
    json_w_kstr(&w, "status_text", text);
    if (why) {
        json_w_kstr(&w, "outcome", why->outcome);
        json_w_kstr(&w, "provider", why->provider);
        json_w_kbool(&w, "retryable", why->retryable);
        json_w_kstr(&w, "reason", why->reason);
    }
    json_w_close(&w, '}');
    if (json_w_end(&w))
        session_send_text(s, b.data, b.len);
    buf_free(&b);
}

void session_ping(struct session *s)
{
    CHECK_MAGIC(s, SESSION_MAGIC);
    /* One that finds no room says nothing new: the client has unread bytes. */
    if (s->state < SESSION_CLOSING && s->n_queued == 0 && !session_down(s, "ping", 4))
        session_stalled(s);
}

void session_outbound_free(struct session *s)
{
    while (s->n_queued > 0)
        queued_pop(s);
    id_list_free(&s->unsent);
}
