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

struct segment {
    struct segment *next;
    size_t id_len, len;
    char *json;
    char id[]; /* as in the JSON, not unescaped; "" when it has none */
};

struct transcript_stream {
    struct transcript_stream *next;
    struct endpoint *endpoint; /* a reference */
    struct body *ring[MAX_BATCHES];
    unsigned at, n;
    bool busy;   /* one is in flight */
    bool gone;   /* its endpoint is: stays until nothing is in flight */
    bool wanted; /* while the registry's are gone through */
};

static void stream_pump(struct session *s, struct transcript_stream *t);

/* At the list's end. Takes the reference. */
static bool stream_add(struct session *s, struct endpoint *e)
{
    struct transcript_stream **at = &s->transcript;
    struct transcript_stream *t = e != NULL && s->n_transcript < WEBHOOKS_MAX_STREAMS ? calloc(1, sizeof(*t)) : NULL;
    if (t == NULL) {
        endpoint_unref(&e);
        return false;
    }
    while (*at != NULL)
        at = &(*at)->next;
    t->endpoint = e;
    t->wanted = true;
    *at = t;
    s->n_transcript++;
    return true;
}

bool transcript_init(struct session *s)
{
    for (size_t i = 0; i < s->in->conf->n[OMID_TRIGGER_TRANSCRIPT]; i++) {
        if (!stream_add(s, endpoint_ref(s->in->own[OMID_TRIGGER_TRANSCRIPT][i])))
            return false;
    }
    return true;
}

static void ring_drop(struct transcript_stream *t)
{
    body_unref(&t->ring[t->at]);
    t->at = (t->at + 1) % MAX_BATCHES;
    t->n--;
}

static void stream_free(struct transcript_stream *t)
{
    while (t->n > 0)
        ring_drop(t);
    endpoint_unref(&t->endpoint);
    free(t);
}

/* Frees the ones that are gone, once nothing points to them. */
static void sweep(struct session *s)
{
    for (struct transcript_stream **at = &s->transcript; *at != NULL;) {
        struct transcript_stream *t = *at;
        if (t->gone && !t->busy) {
            *at = t->next;
            stream_free(t);
        } else {
            at = &t->next;
        }
    }
}

static bool stream_follow(struct session *s, const struct omid_endpoint *registered)
{
    struct endpoint *e = endpoint_of(s->in, registered);
    for (struct transcript_stream *t = s->transcript; t != NULL && e != NULL; t = t->next) {
        if (t->gone || !t->endpoint->registered || strcmp(t->endpoint->id, e->id) != 0)
            continue;
        endpoint_unref(&t->endpoint);
        t->endpoint = e;
        t->wanted = true;
        return true;
    }
    return stream_add(s, e);
}

bool transcript_follow(struct session *s, const struct omid_endpoints *set)
{
    bool all = true;
    for (struct transcript_stream *t = s->transcript; t != NULL; t = t->next)
        t->wanted = t->gone || !t->endpoint->registered;
    for (size_t i = 0; i < set->n; i++) {
        if (endpoint_has(set->endpoint[i], OMID_TRIGGER_TRANSCRIPT))
            all = stream_follow(s, set->endpoint[i]) && all;
    }
    for (struct transcript_stream *t = s->transcript; t != NULL; t = t->next) {
        if (t->wanted)
            continue;
        for (; t->n > 0; ring_drop(t))
            deliver_count(s->in, OMID_TRIGGER_TRANSCRIPT, OUTCOME_DROPPED);
        t->gone = true;
        s->n_transcript--;
    }
    sweep(s);
    return all;
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
    while (s->transcript != NULL) {
        struct transcript_stream *t = s->transcript;
        s->transcript = t->next;
        stream_free(t);
    }
}

static void on_delivered(struct delivery *d, const struct omid_http_response *res)
{
    struct session *s = d->session;
    struct transcript_stream *t = d->stream;
    const struct answer_context about = {.uid = s->uid, .session = s->id};
    t->busy = false;
    answer_use(s->in, d->endpoint, OMID_TRIGGER_TRANSCRIPT, &about, res);
    if (t->gone)
        sweep(s);
    else
        stream_pump(s, t);
}

static void stream_pump(struct session *s, struct transcript_stream *t)
{
    while (!t->busy && t->n > 0) {
        struct body *b = t->ring[t->at];
        t->at = (t->at + 1) % MAX_BATCHES;
        t->n--;
        const struct deliver_request req = {.endpoint = t->endpoint,
                                            .trigger = OMID_TRIGGER_TRANSCRIPT,
                                            .uid = s->uid,
                                            .content_type = "application/json",
                                            .body = b->data,
                                            .body_len = b->len};
        struct delivery *d = NULL;
        int rc = deliver(s->in, &req, on_delivered, &d);
        body_unref(&b);
        if (rc == OMID_OK) {
            d->session = s;
            d->stream = t;
            s->in_flight++;
            t->busy = true;
        } else {
            deliver_count(s->in, OMID_TRIGGER_TRANSCRIPT, outcome_of_refusal(rc));
        }
    }
}

/* Apps have the members in the other order. */
static struct body *batch_build(struct session *s, bool app)
{
    struct text t = {0};
    text_adds(&t, "{");
    if (app) {
        text_adds(&t, "\"session_id\":");
        text_add_quoted(&t, s->uid);
        text_adds(&t, ",");
    }
    text_adds(&t, "\"segments\":[");
    for (struct segment *g = s->segments; g != NULL; g = g->next) {
        text_add(&t, g->json, g->len);
        if (g->next != NULL)
            text_adds(&t, ",");
    }
    text_adds(&t, "]");
    if (!app) {
        text_adds(&t, ",\"session_id\":");
        text_add_quoted(&t, s->uid);
    }
    text_adds(&t, "}");
    return t.failed ? NULL : body_new(t.data, t.len);
}

static void stream_put(struct session *s, struct transcript_stream *t, struct body *b)
{
    if (t->n == MAX_BATCHES) {
        ring_drop(t);
        deliver_count(s->in, OMID_TRIGGER_TRANSCRIPT, OUTCOME_DROPPED);
    }
    b->refs++;
    t->ring[(t->at + t->n++) % MAX_BATCHES] = b;
    stream_pump(s, t);
}

void transcript_flush(struct session *s)
{
    struct body *batch[2] = {NULL, NULL}; /* for others, for apps */
    if (s->flush != NULL)
        s->in->host->timer_stop(&s->flush);
    if (s->n_segments == 0)
        return;
    for (struct transcript_stream *t = s->transcript; t != NULL; t = t->next) {
        struct body **b = &batch[t->endpoint->app];
        if (t->gone)
            continue;
        if (*b == NULL && (*b = batch_build(s, t->endpoint->app)) == NULL)
            s->in->host->counter_add(s->in->conf->segments_dropped, s->n_segments);
        if (*b != NULL)
            stream_put(s, t, *b);
    }
    segments_clear(s);
    for (size_t i = 0; i < 2; i++) {
        if (batch[i] != NULL)
            body_unref(&batch[i]);
    }
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
    while (s->n_transcript > 0 && json_array_next(ev->json, ev->json_len, &at, &value)) {
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
