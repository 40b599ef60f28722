/*
 * One stream: from connect to the last result.
 *
 * A stream belongs to the session that opened it (dg_stream_release() frees it) and lives on its reactor. Every call
 * into the session may release the stream, so such a call is always the last thing a function does with it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deepgram.h"

#define STREAM_MAGIC UINT32_C(0x64677374)
#define MAX_FRAME ((size_t)32 * 1024) /* larger audio is sent in pieces */
/* Read from the wire before the lane gives up on the peer; what is beyond max_result is dropped here, and the
 * stream goes on. */
#define MAX_MESSAGE ((size_t)4 * 1024 * 1024)

static const char keep_alive[] = "{\"type\":\"KeepAlive\"}";
static const char finalize[] = "{\"type\":\"Finalize\"}";
static const char close_stream[] = "{\"type\":\"CloseStream\"}";

enum stream_state {
    CONNECTING, /* the host's connect sequence runs */
    OPEN,
    CLOSING,  /* CloseStream is sent or waits behind audio; results may follow */
    FINISHED, /* Metadata came after CloseStream: nothing is missing */
    DEAD,     /* the end has been reported, or the timer that does so runs */
};

struct stream {
    uint32_t magic;
    enum stream_state state;
    struct dg_instance *in;
    struct omid_stt *stt; /* the session's */
    struct omid_ws *ws;   /* NULL once dead */

    uint32_t sample_rate;
    uint64_t samples;     /* taken from the session */
    double transcribed;   /* never goes back */
    uint64_t audio_at_ms; /* when audio was last sent */

    /* What the lane had no room for, in this order; no audio is taken meanwhile. */
    char *rest;
    size_t rest_len, rest_sent;
    bool want_finalize, want_close;
    bool refused; /* audio() has answered OMID_EFULL: stt_writable() is owed */

    struct omid_stt_stats stats;

    struct omid_timer *keepalive;
    struct omid_timer *deadline; /* after close() */
    struct omid_timer *ending;   /* tells the end */
    enum omid_stt_reason end_reason;
    char end_text[256];
};

static struct stream *stream_check(void *p)
{
    struct stream *s = p;
    assert(s && s->magic == STREAM_MAGIC);
    return s;
}

static void stream_set_state(struct stream *s, enum stream_state to)
{
    static const unsigned legal[] = {
        [CONNECTING] = 1u << OPEN | 1u << CLOSING | 1u << DEAD,
        [OPEN] = 1u << CLOSING | 1u << DEAD,
        [CLOSING] = 1u << FINISHED | 1u << DEAD,
        [FINISHED] = 1u << DEAD,
        [DEAD] = 0,
    };
    assert(legal[s->state] & (1u << to));
    s->state = to;
}

/* ------------------------------------------------------------------ the end */

/* Nothing comes from the lane or a timer afterwards, but for `ending`. */
static void stream_detach(struct stream *s)
{
    const struct omid_host *host = s->in->host;
    if (s->keepalive)
        host->timer_stop(&s->keepalive);
    if (s->deadline)
        host->timer_stop(&s->deadline);
    if (s->ws)
        host->ws_release(&s->ws);
    free(s->rest);
    s->rest = NULL;
}

static void stream_die(struct stream *s, enum omid_stt_reason reason, const char *text)
{
    stream_set_state(s, DEAD);
    stream_detach(s);
    s->end_reason = reason;
    snprintf(s->end_text, sizeof(s->end_text), "%s", text);
    s->in->host->counter_add(s->in->shared->ends[reason], 1);
}

/* The last thing a stream says; it may be released within, and the session still read what it was told. */
static void stream_tell_end(struct stream *s)
{
    char text[sizeof(s->end_text)];
    struct omid_stt_end end = {.size = sizeof(end), .reason = s->end_reason, .text = text};
    memcpy(text, s->end_text, sizeof(text));
    s->in->host->stt_closed(s->stt, &end);
}

static void on_ending(void *arg)
{
    struct stream *s = stream_check(arg);
    s->in->host->timer_stop(&s->ending);
    stream_tell_end(s);
}

/* For ends found within a call of the session: it is told after that call. */
static void stream_end_later(struct stream *s, enum omid_stt_reason reason, const char *text)
{
    if (s->state == DEAD)
        return;
    stream_die(s, reason, text);
    s->ending = s->in->host->timer_start(s->in->inst, 0, 0, on_ending, s);
    if (!s->ending) /* no memory: better within the call than never */
        stream_tell_end(s);
}

/* From callbacks of the lane and of timers. The stream may be gone afterwards. */
static void stream_end_now(struct stream *s, enum omid_stt_reason reason, const char *text)
{
    if (s->state == DEAD)
        return;
    stream_die(s, reason, text);
    stream_tell_end(s);
}

static void on_deadline(void *arg)
{
    struct stream *s = stream_check(arg);
    s->in->host->timer_stop(&s->deadline);
    stream_end_now(s, s->state == FINISHED ? OMID_STT_DONE : OMID_STT_LOST,
                   "Deepgram did not end the stream in time after CloseStream");
}

/* ------------------------------------------------------------------ sending */

static bool stream_waits(const struct stream *s)
{
    return s->rest || s->want_finalize || s->want_close;
}

/* OMID_OK, OMID_EFULL, or OMID_ECLOSED: the stream is dead for the lane. */
static int stream_send(struct stream *s, enum omid_message type, const void *data, size_t len)
{
    int rc = s->in->host->ws_send(s->ws, type, data, len);
    return rc == OMID_OK || rc == OMID_EFULL ? rc : OMID_ECLOSED;
}

static int stream_send_rest(struct stream *s)
{
    while (s->rest) {
        size_t n = s->rest_len - s->rest_sent;
        n = n < MAX_FRAME ? n : MAX_FRAME;
        int rc = stream_send(s, OMID_BINARY, s->rest + s->rest_sent, n);
        if (rc != OMID_OK)
            return rc;
        s->audio_at_ms = s->in->host->now_ms();
        s->rest_sent += n;
        if (s->rest_sent == s->rest_len) {
            free(s->rest);
            s->rest = NULL;
        }
    }
    return OMID_OK;
}

/* Everything that waits, in its order. */
static int stream_flush(struct stream *s)
{
    int rc = stream_send_rest(s);
    if (rc == OMID_OK && s->want_finalize) {
        rc = stream_send(s, OMID_TEXT, finalize, sizeof(finalize) - 1);
        if (rc == OMID_OK) {
            s->want_finalize = false;
            s->stats.finalizes++;
            s->in->host->counter_add(s->in->shared->finalizes, 1);
        }
    }
    if (rc == OMID_OK && s->want_close) {
        rc = stream_send(s, OMID_TEXT, close_stream, sizeof(close_stream) - 1);
        if (rc == OMID_OK)
            s->want_close = false;
    }
    return rc;
}

static void keepalive_arm(struct stream *s, uint32_t delay_ms);

static void on_keepalive(void *arg)
{
    struct stream *s = stream_check(arg);
    const struct dg_shared *shared = s->in->shared;
    s->in->host->timer_stop(&s->keepalive);
    if (s->state != OPEN)
        return;
    uint64_t idle = s->in->host->now_ms() - s->audio_at_ms;
    if (idle < shared->keepalive_ms) {
        keepalive_arm(s, shared->keepalive_ms - (uint32_t)idle);
        return;
    }
    /* With a full buffer there is something on its way already. */
    int rc = stream_waits(s) ? OMID_EFULL : stream_send(s, OMID_TEXT, keep_alive, sizeof(keep_alive) - 1);
    if (rc == OMID_ECLOSED) {
        stream_end_now(s, OMID_STT_LOST, "sending to Deepgram failed");
        return;
    }
    if (rc == OMID_OK) {
        s->stats.keepalives++;
        s->in->host->counter_add(shared->keepalives, 1);
    }
    keepalive_arm(s, shared->keepalive_ms);
}

/* Without memory for the timer the stream goes on; Deepgram ends it when audio pauses, which is a loss like others. */
static void keepalive_arm(struct stream *s, uint32_t delay_ms)
{
    s->keepalive = s->in->host->timer_start(s->in->inst, delay_ms, 0, on_keepalive, s);
}

/* ---------------------------------------------------------- from the lane */

static void on_open(void *arg, struct omid_ws *ws)
{
    struct stream *s = stream_check(arg);
    (void)ws;
    if (s->state != CONNECTING)
        return;
    stream_set_state(s, OPEN);
    s->audio_at_ms = s->in->host->now_ms();
    keepalive_arm(s, s->in->shared->keepalive_ms);
    s->in->host->stt_ready(s->stt);
}

static void on_results(struct stream *s, const struct dg_message *m)
{
    /* No result can speak of audio that was never sent: the session trims its replay by this. */
    double sent = (double)s->samples / s->sample_rate;
    double until = m->until < sent ? m->until : sent;
    s->transcribed = until > s->transcribed ? until : s->transcribed;
    struct omid_stt_result result = {
        .size = sizeof(result),
        .segments = m->segments,
        .n = m->n,
        .transcribed = s->transcribed,
    };
    s->in->host->stt_result(s->stt, &result);
}

static void on_message(void *arg, struct omid_ws *ws, enum omid_message type, const void *data, size_t len)
{
    struct stream *s = stream_check(arg);
    const struct dg_shared *shared = s->in->shared;
    struct dg_message m;

    (void)ws;
    if (s->state == DEAD || s->state == CONNECTING)
        return;
    if (type != OMID_TEXT) {
        s->in->host->counter_add(shared->messages[DG_UNKNOWN], 1);
        return;
    }
    dg_message_parse(&m, data, len, shared->max_result);
    s->in->host->counter_add(shared->messages[m.kind], 1);
    if (m.bad)
        s->in->host->counter_add(shared->bad_values, m.bad);
    if (m.kind == DG_MALFORMED || m.kind == DG_TOO_BIG) {
        s->in->host->log(shared->mod, OMID_LOG_WARNING, "Deepgram sent %s of %zu bytes; ignored",
                         m.kind == DG_TOO_BIG ? "an oversized message" : "a message that can't be read", len);
    } else if (m.kind == DG_ERROR) {
        s->in->host->log(shared->mod, OMID_LOG_WARNING, "Deepgram reports an error: %s", m.error);
    } else if (m.kind == DG_METADATA && s->state == CLOSING && !s->want_close) {
        stream_set_state(s, FINISHED);
        s->in->host->ws_close(s->ws, 1000);
    } else if (m.kind == DG_RESULTS) {
        on_results(s, &m);
    }
    dg_message_free(&m);
}

static void on_writable(void *arg, struct omid_ws *ws)
{
    struct stream *s = stream_check(arg);
    (void)ws;
    if (s->state != OPEN && s->state != CLOSING)
        return;
    int rc = stream_flush(s);
    if (rc == OMID_ECLOSED) {
        stream_end_now(s, OMID_STT_LOST, "sending to Deepgram failed");
        return;
    }
    if (rc == OMID_OK && s->refused) {
        s->refused = false;
        s->in->host->stt_writable(s->stt);
    }
}

/* 400, 401 and 403: nothing but a changed configuration helps. */
static void log_rejection(const struct stream *s, int status)
{
    const char *hint = status == 401 || status == 403 ? "check the key" : "check url, models, languages and keyterms";
    s->in->host->log(s->in->shared->mod, OMID_LOG_ERROR,
                     "configuration: Deepgram at %s refuses streams with HTTP %d: %s of plugin deepgram",
                     s->in->shared->endpoint, status, hint);
}

static void on_closed(void *arg, struct omid_ws *ws, const struct omid_ws_close *why)
{
    struct stream *s = stream_check(arg);
    enum omid_stt_reason reason = OMID_STT_LOST;
    char text[256];

    (void)ws;
    if (s->state == DEAD)
        return;
    snprintf(text, sizeof(text), "%s", why->text ? why->text : "");
    switch (why->end) {
    case OMID_WS_REJECTED:
        reason = OMID_STT_CONFIG;
        snprintf(text, sizeof(text), "Deepgram refused the connection with HTTP %d", why->http_status);
        log_rejection(s, why->http_status);
        break;
    case OMID_WS_CONNECT:
    case OMID_WS_BREAKER:
        reason = OMID_STT_UNREACHED;
        break;
    case OMID_WS_FULL:
        reason = OMID_STT_BUSY;
        break;
    case OMID_WS_CLOSED:
        if (s->state == CLOSING && !s->want_close && why->code == 1000)
            reason = OMID_STT_DONE;
        else
            snprintf(text, sizeof(text), "Deepgram closed the stream with code %u", why->code);
        break;
    case OMID_WS_LOST:
    case OMID_WS_SHUTDOWN:
        reason = s->state == CONNECTING ? OMID_STT_UNREACHED : OMID_STT_LOST;
        break;
    }
    if (s->state == FINISHED)
        reason = OMID_STT_DONE;
    stream_end_now(s, reason, text);
}

static const struct omid_ws_events stream_events = {
    .size = sizeof(struct omid_ws_events),
    .open = on_open,
    .message = on_message,
    .writable = on_writable,
    .closed = on_closed,
};

/* ------------------------------------------------------- from the session */

static int stream_connect(struct stream *s, const struct omid_stt_params *params, enum dg_model model,
                          const char *language)
{
    const struct dg_shared *shared = s->in->shared;
    struct dg_query q = {
        .model = model,
        .language = language,
        .english = dg_language_is_english(params->language),
        .sample_rate = params->sample_rate,
        .keyterms = shared->keyterms,
        .n = params->multi_channel ? 0 : shared->n_keyterms,
    };
    char *url = dg_query_url(shared->endpoint, &q);
    if (!url)
        return OMID_ERR;
    struct omid_ws_request req = {
        .size = sizeof(req),
        .url = url,
        .headers = shared->headers,
        .attempts = shared->attempts,
        .backoff_ms = shared->backoff_ms,
        .backoff_cap_ms = shared->backoff_cap_ms,
        .max_message = MAX_MESSAGE,
        .send_buffer = shared->send_buffer,
    };
    int rc = s->in->host->ws_connect(s->in->inst, &req, &stream_events, s, &s->ws);
    free(url);
    return rc;
}

int dg_stream_open(void *state, const struct omid_stt_params *params, struct omid_stt *stt, void **stream)
{
    struct dg_instance *in = state;
    enum dg_model model;

    if (!dg_model_find(params->model, &model) || params->sample_rate == 0)
        return OMID_EINVAL;
    const char *language = dg_language_map(model, params->language, &in->shared->languages);
    if (!language)
        return OMID_ENOTSUP;
    struct stream *s = calloc(1, sizeof(*s));
    if (!s)
        return OMID_ERR;
    s->magic = STREAM_MAGIC;
    s->state = CONNECTING;
    s->in = in;
    s->stt = stt;
    s->sample_rate = params->sample_rate;
    int rc = stream_connect(s, params, model, language);
    if (rc != OMID_OK) {
        free(s);
        return rc;
    }
    in->streams++;
    *stream = s;
    return OMID_OK;
}

/* linear16 is little-endian; NULL: no memory. */
static const char *pcm_bytes(const int16_t *pcm, size_t samples, char **owned)
{
    *owned = NULL;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    (void)samples;
    return (const char *)pcm;
#else
    char *out = *owned = malloc(samples * 2);
    for (size_t i = 0; out && i < samples; i++) {
        out[2 * i] = (char)((uint16_t)pcm[i] & 0xff);
        out[2 * i + 1] = (char)((uint16_t)pcm[i] >> 8);
    }
    return out;
#endif
}

/* All or nothing for the session: what the lane does not take after the first piece is kept here. */
static int stream_send_audio(struct stream *s, const char *bytes, size_t len)
{
    size_t first = len < MAX_FRAME ? len : MAX_FRAME;
    char *rest = NULL;
    if (len > first) {
        rest = malloc(len - first);
        if (!rest)
            return OMID_ERR;
        memcpy(rest, bytes + first, len - first);
    }
    int rc = stream_send(s, OMID_BINARY, bytes, first);
    if (rc != OMID_OK) {
        free(rest);
        return rc;
    }
    s->audio_at_ms = s->in->host->now_ms();
    s->rest = rest;
    s->rest_len = len - first;
    s->rest_sent = 0;
    return stream_send_rest(s) == OMID_ECLOSED ? OMID_ECLOSED : OMID_OK;
}

int dg_stream_audio(void *stream, const int16_t *pcm, size_t samples)
{
    struct stream *s = stream_check(stream);

    if (s->state != OPEN)
        return OMID_ECLOSED;
    if (samples == 0) /* an empty frame would end the stream */
        return OMID_OK;
    int rc = stream_flush(s); /* asked again there may be room, before the lane says so */
    if (rc == OMID_OK) {
        char *owned;
        const char *bytes = pcm_bytes(pcm, samples, &owned);
        rc = bytes ? stream_send_audio(s, bytes, samples * 2) : OMID_ERR;
        free(owned);
    }
    if (rc == OMID_OK)
        s->samples += samples;
    else if (rc == OMID_EFULL)
        s->refused = true;
    else if (rc == OMID_ECLOSED)
        stream_end_later(s, OMID_STT_LOST, "sending to Deepgram failed");
    return rc;
}

void dg_stream_finalize(void *stream)
{
    struct stream *s = stream_check(stream);
    if (s->state != OPEN) {
        s->stats.finalize_errors++;
        return;
    }
    s->want_finalize = true;
    if (stream_flush(s) == OMID_ECLOSED)
        stream_end_later(s, OMID_STT_LOST, "sending to Deepgram failed");
}

void dg_stream_stats(void *stream, struct omid_stt_stats *stats)
{
    const struct stream *s = stream_check(stream);
    struct omid_stt_stats all = s->stats;
    all.size = stats->size;
    /* What was asked for, and never left. */
    all.finalize_errors += s->want_finalize;
    memcpy(stats, &all, stats->size < sizeof(all) ? stats->size : sizeof(all));
}

void dg_stream_close(void *stream)
{
    struct stream *s = stream_check(stream);
    if (s->state == CONNECTING) { /* nothing was sent, so nothing is missing; this also ends the connect sequence */
        stream_end_later(s, OMID_STT_DONE, "");
        return;
    }
    if (s->state != OPEN)
        return;
    stream_set_state(s, CLOSING);
    if (s->keepalive)
        s->in->host->timer_stop(&s->keepalive);
    s->want_close = true;
    s->deadline = s->in->host->timer_start(s->in->inst, s->in->shared->close_timeout_ms, 0, on_deadline, s);
    if (stream_flush(s) == OMID_ECLOSED)
        stream_end_later(s, OMID_STT_LOST, "sending to Deepgram failed");
    else if (!s->deadline)
        stream_end_later(s, OMID_STT_INTERNAL, "no memory");
}

void dg_stream_release(void *stream)
{
    struct stream *s = stream_check(stream);
    stream_detach(s);
    if (s->ending)
        s->in->host->timer_stop(&s->ending);
    s->in->streams--;
    s->magic = 0;
    free(s);
}
