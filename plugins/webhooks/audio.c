/*
 * audio_bytes: a buffer per session and endpoint, sent when it holds more than the endpoint's seconds.
 *
 * Per session at most 8 endpoints have deliveries in flight (each at most 4), and at most 20 have one that waits. A
 * newer buffer takes the place of one that waits, here and in the lane: audio that comes late is of no use.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "webhooks.h"

#define WINDOW 8
#define PER_ENDPOINT 4
#define MAX_WAITING 20

struct chunk {
    uint8_t *data; /* s16le */
    size_t len, cap;
    uint32_t rate; /* Hz */
};

struct audio_stream {
    struct audio_stream *next;
    struct endpoint *endpoint;     /* a reference */
    struct chunk filling, waiting; /* waiting.len > 0: it waits for a place in the window */
    uint64_t seq;                  /* of the waiting one */
    unsigned in_flight;
    bool gone;   /* its endpoint is: stays until nothing is in flight */
    bool wanted; /* while the registry's are gone through */
};

static void audio_pump(struct session *s);

/* At the list's end. Takes the reference. */
static bool stream_add(struct session *s, struct endpoint *e)
{
    struct audio_stream **at = &s->audio;
    struct audio_stream *a = e != NULL && s->n_audio < WEBHOOKS_MAX_STREAMS ? calloc(1, sizeof(*a)) : NULL;
    if (a == NULL) {
        endpoint_unref(&e);
        return false;
    }
    while (*at != NULL)
        at = &(*at)->next;
    a->endpoint = e;
    a->wanted = true;
    *at = a;
    s->n_audio++;
    return true;
}

bool audio_init(struct session *s)
{
    for (size_t i = 0; i < s->in->conf->n[OMID_TRIGGER_AUDIO]; i++) {
        if (!stream_add(s, endpoint_ref(s->in->own[OMID_TRIGGER_AUDIO][i])))
            return false;
    }
    return true;
}

static void chunk_free(struct instance *in, struct chunk *c)
{
    in->audio_bytes -= c->cap;
    free(c->data);
    *c = (struct chunk){0};
}

static void stream_free(struct session *s, struct audio_stream *a)
{
    chunk_free(s->in, &a->filling);
    chunk_free(s->in, &a->waiting);
    endpoint_unref(&a->endpoint);
    free(a);
}

void audio_clear(struct session *s)
{
    while (s->audio != NULL) {
        struct audio_stream *a = s->audio;
        s->audio = a->next;
        stream_free(s, a);
    }
}

static void drop(struct session *s, struct chunk *c, enum outcome outcome)
{
    deliver_count(s->in, OMID_TRIGGER_AUDIO, outcome);
    s->in->host->counter_add(s->in->conf->audio_dropped, c->len);
    c->len = 0;
}

/* Frees the ones that are gone, once nothing points to them. */
static void sweep(struct session *s)
{
    for (struct audio_stream **at = &s->audio; *at != NULL;) {
        struct audio_stream *a = *at;
        if (a->gone && a->in_flight == 0) {
            *at = a->next;
            stream_free(s, a);
        } else {
            at = &a->next;
        }
    }
}

static void on_delivered(struct delivery *d, const struct omid_http_response *res)
{
    (void)res; /* realtime: whatever the answer, the audio is not sent again */
    struct audio_stream *a = d->stream;
    wh_assert(a->in_flight > 0);
    if (--a->in_flight == 0)
        d->session->audio_active--;
    if (a->gone)
        sweep(d->session);
    audio_pump(d->session);
}

/* Its endpoint is gone, or has had enough: what waits for it is dropped. */
static void stream_end(struct session *s, struct audio_stream *a)
{
    if (a->waiting.len > 0) {
        drop(s, &a->waiting, OUTCOME_DROPPED);
        s->audio_waiting--;
    }
    if (a->filling.len > 0)
        drop(s, &a->filling, OUTCOME_DROPPED);
    chunk_free(s->in, &a->waiting);
    chunk_free(s->in, &a->filling);
    a->gone = true;
    s->n_audio--;
}

static bool stream_follow(struct session *s, const struct omid_endpoint *registered)
{
    struct endpoint *e = endpoint_of(s->in, registered);
    for (struct audio_stream *a = s->audio; a != NULL && e != NULL; a = a->next) {
        if (a->gone || !a->endpoint->registered || strcmp(a->endpoint->id, e->id) != 0)
            continue;
        endpoint_unref(&a->endpoint);
        a->endpoint = e;
        a->wanted = true;
        return true;
    }
    return stream_add(s, e);
}

bool audio_follow(struct session *s, const struct omid_endpoints *set)
{
    bool all = true;
    for (struct audio_stream *a = s->audio; a != NULL; a = a->next)
        a->wanted = a->gone || !a->endpoint->registered;
    for (size_t i = 0; i < set->n; i++) {
        if (endpoint_has(set->endpoint[i], OMID_TRIGGER_AUDIO))
            all = stream_follow(s, set->endpoint[i]) && all;
    }
    for (struct audio_stream *a = s->audio; a != NULL; a = a->next) {
        if (!a->wanted)
            stream_end(s, a);
    }
    sweep(s);
    audio_pump(s);
    return all;
}

static bool may_send(const struct session *s, const struct audio_stream *a)
{
    return a->in_flight > 0 ? a->in_flight < PER_ENDPOINT : s->audio_active < WINDOW;
}

/* Empties c, whatever happens. */
static void chunk_send(struct session *s, struct audio_stream *a, struct chunk *c)
{
    struct instance *in = s->in;
    struct text key = {0};
    text_adds(&key, "audio ");
    text_adds(&key, a->endpoint->id);
    text_adds(&key, " ");
    text_adds(&key, s->uid);
    const struct deliver_request req = {.endpoint = a->endpoint,
                                        .trigger = OMID_TRIGGER_AUDIO,
                                        .uid = s->uid,
                                        .sample_rate = c->rate,
                                        .content_type = "application/octet-stream",
                                        .latest_key = key.data,
                                        .body = c->data,
                                        .body_len = c->len};
    struct delivery *d = NULL;
    int rc = deliver(in, &req, on_delivered, &d);
    free(key.data);
    if (rc != OMID_OK) {
        drop(s, c, outcome_of_refusal(rc));
        return;
    }
    c->len = 0;
    d->session = s;
    d->stream = a;
    s->in_flight++;
    if (a->in_flight++ == 0)
        s->audio_active++;
}

/* The one that waits longest, among those that may be sent (sendable) or among all. NULL: none. */
static struct audio_stream *oldest_waiting(struct session *s, bool sendable)
{
    struct audio_stream *best = NULL;
    for (struct audio_stream *a = s->audio; a != NULL; a = a->next) {
        if (a->waiting.len > 0 && (!sendable || may_send(s, a)) && (best == NULL || a->seq < best->seq))
            best = a;
    }
    return best;
}

static void audio_pump(struct session *s)
{
    struct audio_stream *a;
    while (s->audio_waiting > 0 && (a = oldest_waiting(s, true)) != NULL) {
        s->audio_waiting--;
        chunk_send(s, a, &a->waiting);
        chunk_free(s->in, &a->waiting);
    }
}

static void stream_flush(struct session *s, struct audio_stream *a)
{
    if (a->filling.len == 0)
        return;
    if (a->waiting.len == 0 && may_send(s, a)) {
        chunk_send(s, a, &a->filling);
        return;
    }
    if (a->waiting.len > 0) {
        drop(s, &a->waiting, OUTCOME_SUPERSEDED);
    } else {
        if (s->audio_waiting == MAX_WAITING) {
            struct audio_stream *old = oldest_waiting(s, false);
            drop(s, &old->waiting, OUTCOME_DROPPED);
            chunk_free(s->in, &old->waiting);
            s->audio_waiting--;
        }
        s->audio_waiting++;
    }
    struct chunk empty = a->waiting;
    a->waiting = a->filling;
    a->filling = empty;
    a->seq = ++s->audio_seq;
}

void audio_flush(struct session *s)
{
    for (struct audio_stream *a = s->audio; a != NULL; a = a->next)
        stream_flush(s, a);
}

/* Room for `more` bytes. False: the instance's bound, or no memory. */
static bool chunk_reserve(struct instance *in, struct chunk *c, size_t more, size_t limit)
{
    size_t need = c->len + more;
    if (need <= c->cap)
        return true;
    size_t cap = c->cap * 2;
    /* It is sent as soon as it holds more than the limit: no larger than that. */
    if (cap > limit + more)
        cap = limit + more;
    if (cap < need)
        cap = need;
    if (cap - c->cap > in->conf->audio_memory - in->audio_bytes)
        return false;
    uint8_t *grown = realloc(c->data, cap);
    if (grown == NULL)
        return false;
    in->audio_bytes += cap - c->cap;
    c->data = grown;
    c->cap = cap;
    return true;
}

static void chunk_append(struct chunk *c, const int16_t *pcm, size_t samples)
{
    uint8_t *out = c->data + c->len;
    for (size_t i = 0; i < samples; i++) {
        uint16_t v = (uint16_t)pcm[i];
        out[2 * i] = (uint8_t)(v & 0xff);
        out[2 * i + 1] = (uint8_t)(v >> 8);
    }
    c->len += samples * 2;
}

static bool same(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* What is buffered belongs to the conversation that it was spoken in. */
static void conversation_follow(struct session *s, const char *id)
{
    if (same(s->conversation, id))
        return;
    audio_flush(s);
    free(s->conversation);
    s->conversation = id != NULL ? strdup(id) : NULL;
}

void audio_event(struct session *s, const struct omid_event *ev)
{
    struct instance *in = s->in;
    conversation_follow(s, ev->conversation_id);
    for (struct audio_stream *a = s->audio; a != NULL; a = a->next) {
        struct chunk *c = &a->filling;
        const uint32_t ms = a->endpoint->audio_ms;
        if (a->gone)
            continue;
        const size_t limit = (size_t)((uint64_t)ev->sample_rate * ms / 1000) * 2;
        if (c->len > 0 && c->rate != ev->sample_rate)
            stream_flush(s, a);
        if (!chunk_reserve(in, c, ev->samples * 2, limit)) {
            in->host->counter_add(in->conf->audio_dropped, ev->samples * 2);
            in->host->log(in->mod, OMID_LOG_WARNING, "audio dropped: audio_memory is used up");
            continue;
        }
        c->rate = ev->sample_rate;
        chunk_append(c, ev->pcm, ev->samples);
        if (c->len > limit)
            stream_flush(s, a);
    }
}
