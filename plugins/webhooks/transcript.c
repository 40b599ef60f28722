/*
 * realtime_transcript: segments are collected for the interval, then go to every endpoint as one batch.
 *
 * Per session at most 50 segments are collected (then they go at once), and per endpoint at most 50 batches wait behind
 * the one in flight, in order; beyond that the oldest is dropped.
 */
#include <stdlib.h>
#include <string.h>

#include "webhooks.h"

#define MAX_SEGMENTS 50
#define MAX_BATCHES 50
#define MIN_MESSAGE 6 /* characters: longer than 5 */

struct segment {
    struct segment *next;
    size_t id_len, len;
    char *json;
    char id[]; /* as in the JSON, not unescaped; "" when it has none */
};

struct transcript_stream {
    struct body *ring[MAX_BATCHES];
    unsigned at, n;
    bool busy; /* one is in flight */
};

static void stream_pump(struct session *s, size_t index);

bool transcript_init(struct session *s)
{
    s->transcript = calloc(s->in->conf->n[HOOK_TRANSCRIPT] + 1, sizeof(struct transcript_stream));
    return s->transcript != NULL;
}

static void segment_free(struct segment *g)
{
    free(g->json);
    free(g);
}

static void segments_clear(struct session *s)
{
    while (s->segments != NULL) {
        struct segment *g = s->segments;
        s->segments = g->next;
        segment_free(g);
    }
    s->n_segments = 0;
}

void transcript_clear(struct session *s)
{
    segments_clear(s);
    for (size_t i = 0; s->transcript != NULL && i < s->in->conf->n[HOOK_TRANSCRIPT]; i++) {
        struct transcript_stream *t = &s->transcript[i];
        for (; t->n > 0; t->n--) {
            body_unref(&t->ring[t->at]);
            t->at = (t->at + 1) % MAX_BATCHES;
        }
    }
    free(s->transcript);
    s->transcript = NULL;
}

/* An answer may carry a message for the user. */
static void answer_use(struct session *s, const struct omid_http_response *res)
{
    struct instance *in = s->in;
    if (res->error != OMID_HTTP_OK || res->status != 200 || res->body_len == 0)
        return;
    bool bad = res->truncated;
    char *message = bad ? NULL : json_object_string(res->body, res->body_len, "message", &bad);
    /* "ok" is an answer too; what begins as an object and can't be read is worth a count. */
    if (bad && res->body[0] == '{')
        in->host->counter_add(in->conf->bad_answers, 1);
    if (message == NULL)
        return;
    if (utf8_length(message) >= MIN_MESSAGE) {
        struct text t = {0};
        text_adds(&t, "{\"app_id\":\"webhooks\",\"app_name\":\"Webhooks\",\"message\":");
        text_add_quoted(&t, message);
        text_adds(&t, "}");
        const struct omid_event ev = {.size = sizeof(ev),
                                      .type = OMID_EVENT_APP_MESSAGE,
                                      .uid = s->uid,
                                      .session_id = s->id,
                                      .json = t.data,
                                      .json_len = t.len,
                                      .time_ms = in->host->wall_ms()};
        if (!t.failed && in->host->publish(in->inst, &ev) == OMID_OK)
            in->host->counter_add(in->conf->messages, 1);
        free(t.data);
    }
    free(message);
}

static void on_delivered(struct delivery *d, const struct omid_http_response *res)
{
    struct session *s = d->session;
    s->transcript[d->index].busy = false;
    answer_use(s, res);
    stream_pump(s, d->index);
}

static void stream_pump(struct session *s, size_t index)
{
    struct transcript_stream *t = &s->transcript[index];
    while (!t->busy && t->n > 0) {
        struct body *b = t->ring[t->at];
        t->at = (t->at + 1) % MAX_BATCHES;
        t->n--;
        const struct deliver_request req = {.type = HOOK_TRANSCRIPT,
                                            .index = index,
                                            .uid = s->uid,
                                            .content_type = "application/json",
                                            .body = b->data,
                                            .body_len = b->len};
        struct delivery *d = NULL;
        int rc = deliver(s->in, &req, on_delivered, &d);
        body_unref(&b);
        if (rc == OMID_OK) {
            d->session = s;
            s->in_flight++;
            t->busy = true;
        } else {
            deliver_count(s->in, HOOK_TRANSCRIPT,
                          rc == OMID_ECLOSED ? OUTCOME_SHUTDOWN
                          : rc == OMID_EFULL ? OUTCOME_FULL
                                             : OUTCOME_DROPPED);
        }
    }
}

static struct body *batch_build(struct session *s)
{
    struct text t = {0};
    text_adds(&t, "{\"segments\":[");
    for (struct segment *g = s->segments; g != NULL; g = g->next) {
        text_add(&t, g->json, g->len);
        if (g->next != NULL)
            text_adds(&t, ",");
    }
    text_adds(&t, "],\"session_id\":");
    text_add_quoted(&t, s->uid);
    text_adds(&t, "}");
    return t.failed ? NULL : body_new(t.data, t.len);
}

void transcript_flush(struct session *s)
{
    if (s->flush != NULL)
        s->in->host->timer_stop(&s->flush);
    if (s->n_segments == 0)
        return;
    struct body *b = batch_build(s);
    if (b == NULL)
        s->in->host->counter_add(s->in->conf->segments_dropped, s->n_segments);
    segments_clear(s);
    for (size_t i = 0; b != NULL && i < s->in->conf->n[HOOK_TRANSCRIPT]; i++) {
        struct transcript_stream *t = &s->transcript[i];
        if (t->n == MAX_BATCHES) {
            body_unref(&t->ring[t->at]);
            t->at = (t->at + 1) % MAX_BATCHES;
            t->n--;
            deliver_count(s->in, HOOK_TRANSCRIPT, OUTCOME_DROPPED);
        }
        b->refs++;
        t->ring[(t->at + t->n++) % MAX_BATCHES] = b;
        stream_pump(s, i);
    }
    if (b != NULL)
        body_unref(&b);
}

static void flush_tick(void *arg)
{
    struct session *s = arg;
    wh_assert(s->magic == WEBHOOKS_SESSION_MAGIC);
    transcript_flush(s);
}

/* The link that points to the segment of this id, or to the list's end. */
static struct segment **segment_at(struct session *s, const char *id, size_t len)
{
    struct segment **at = &s->segments;
    while (*at != NULL && (len == 0 || (*at)->id_len != len || memcmp((*at)->id, id, len) != 0))
        at = &(*at)->next;
    return at;
}

/* A segment that changes again before it was sent is sent once, as it is now. */
static bool segment_put(struct session *s, const struct json_span *value)
{
    struct json_span id = {.data = "", .len = 0};
    json_member(value->data, value->len, "id", &id);
    struct segment *g = malloc(sizeof(*g) + id.len + 1);
    char *json = malloc(value->len + 1);
    if (g == NULL || json == NULL) {
        free(g);
        free(json);
        return false;
    }
    memcpy(json, value->data, value->len);
    json[value->len] = '\0';
    memcpy(g->id, id.data, id.len);
    g->id[id.len] = '\0';
    g->id_len = id.len;
    g->json = json;
    g->len = value->len;
    struct segment **at = segment_at(s, id.data, id.len);
    struct segment *old = *at;
    g->next = old != NULL ? old->next : NULL;
    *at = g;
    if (old != NULL)
        segment_free(old);
    else
        s->n_segments++;
    return true;
}

void transcript_event(struct session *s, const struct omid_event *ev)
{
    struct instance *in = s->in;
    struct json_span value;
    size_t at = 0;
    while (json_array_next(ev->json, ev->json_len, &at, &value)) {
        if (!segment_put(s, &value))
            in->host->counter_add(in->conf->segments_dropped, 1);
        if (s->n_segments >= MAX_SEGMENTS)
            transcript_flush(s);
    }
    if (s->n_segments == 0 || s->flush != NULL)
        return;
    s->flush = in->host->timer_start(in->inst, in->conf->interval_ms, 0, flush_tick, s);
    if (s->flush == NULL)
        transcript_flush(s);
}

void transcript_deleted(struct session *s, const struct omid_event *ev)
{
    struct json_span value;
    size_t at = 0;
    while (json_array_next(ev->json, ev->json_len, &at, &value)) {
        if (value.len <= 2 || value.data[0] != '"')
            continue;
        struct segment **link = segment_at(s, value.data + 1, value.len - 2);
        struct segment *g = *link;
        if (g == NULL)
            continue;
        *link = g->next;
        segment_free(g);
        s->n_segments--;
    }
}
