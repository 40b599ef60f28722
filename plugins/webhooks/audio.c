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
    struct chunk filling, waiting; /* waiting.len > 0: it waits for a place in the window */
    uint64_t seq;                  /* of the waiting one */
    unsigned in_flight;
};

static void audio_pump(struct session *s);

bool audio_init(struct session *s)
{
    s->audio = calloc(s->in->conf->n[HOOK_AUDIO] + 1, sizeof(struct audio_stream));
    return s->audio != NULL;
}

static void chunk_free(struct instance *in, struct chunk *c)
{
    in->audio_bytes -= c->cap;
    free(c->data);
    *c = (struct chunk){0};
}

void audio_clear(struct session *s)
{
    for (size_t i = 0; s->audio != NULL && i < s->in->conf->n[HOOK_AUDIO]; i++) {
        chunk_free(s->in, &s->audio[i].filling);
        chunk_free(s->in, &s->audio[i].waiting);
    }
    free(s->audio);
    s->audio = NULL;
}

static void drop(struct session *s, struct chunk *c, enum outcome outcome)
{
    deliver_count(s->in, HOOK_AUDIO, outcome);
    s->in->host->counter_add(s->in->conf->audio_dropped, c->len);
    c->len = 0;
}

static void on_delivered(struct delivery *d, const struct omid_http_response *res)
{
    (void)res; /* realtime: whatever the answer, the audio is not sent again */
    struct audio_stream *a = &d->session->audio[d->index];
    wh_assert(a->in_flight > 0);
    if (--a->in_flight == 0)
        d->session->audio_active--;
    audio_pump(d->session);
}

static bool may_send(const struct session *s, const struct audio_stream *a)
{
    return a->in_flight > 0 ? a->in_flight < PER_ENDPOINT : s->audio_active < WINDOW;
}

/* Empties c, whatever happens. */
static void chunk_send(struct session *s, size_t index, struct chunk *c)
{
    struct instance *in = s->in;
    struct audio_stream *a = &s->audio[index];
    struct text key = {0};
    text_adds(&key, "audio ");
    text_adds(&key, in->conf->endpoints[HOOK_AUDIO][index].hash);
    text_adds(&key, " ");
    text_adds(&key, s->uid);
    const struct deliver_request req = {.type = HOOK_AUDIO,
                                        .index = index,
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
        drop(s, c, rc == OMID_ECLOSED ? OUTCOME_SHUTDOWN : rc == OMID_EFULL ? OUTCOME_FULL : OUTCOME_DROPPED);
        return;
    }
    c->len = 0;
    d->session = s;
    s->in_flight++;
    if (a->in_flight++ == 0)
        s->audio_active++;
}

/* The one that waits longest, among those that may be sent (sendable) or among all. NULL: none. */
static struct audio_stream *oldest_waiting(struct session *s, bool sendable)
{
    struct audio_stream *best = NULL;
    for (size_t i = 0; i < s->in->conf->n[HOOK_AUDIO]; i++) {
        struct audio_stream *a = &s->audio[i];
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
        chunk_send(s, (size_t)(a - s->audio), &a->waiting);
        chunk_free(s->in, &a->waiting);
    }
}

static void stream_flush(struct session *s, size_t index)
{
    struct audio_stream *a = &s->audio[index];
    if (a->filling.len == 0)
        return;
    if (a->waiting.len == 0 && may_send(s, a)) {
        chunk_send(s, index, &a->filling);
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
    for (size_t i = 0; i < s->in->conf->n[HOOK_AUDIO]; i++)
        stream_flush(s, i);
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
    for (size_t i = 0; i < in->conf->n[HOOK_AUDIO]; i++) {
        struct chunk *c = &s->audio[i].filling;
        const uint32_t ms = in->conf->endpoints[HOOK_AUDIO][i].seconds_ms;
        const size_t limit = (size_t)((uint64_t)ev->sample_rate * ms / 1000) * 2;
        if (c->len > 0 && c->rate != ev->sample_rate)
            stream_flush(s, i);
        if (!chunk_reserve(in, c, ev->samples * 2, limit)) {
            in->host->counter_add(in->conf->audio_dropped, ev->samples * 2);
            in->host->log(in->mod, OMID_LOG_WARNING, "audio dropped: audio_memory is used up");
            continue;
        }
        c->rate = ev->sample_rate;
        chunk_append(c, ev->pcm, ev->samples);
        if (c->len > limit)
            stream_flush(s, i);
    }
}
