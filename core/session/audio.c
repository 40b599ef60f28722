/* Audio: from the client's packet to speech-to-text, and to those who consume it. */
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/bus.h"
#include "bus/channel.h"
#include "session/speakers.h"
#include "session/state.h"

#define MODULE "audio"
/* Messages up to this length are activity and nothing else (the listen protocol, Audio). */
#define MIN_AUDIO_BYTES 2
/* What a reactor keeps from one message to the next: beyond it, a large one was an exception. */
#define MAX_SCRATCH ((size_t)1 << 18)

bool session_audio_open(struct session *s)
{
    const struct decoder_params p = {.codec = s->params.codec,
                                     .pcm8_u8 = session_conf(s)->listen.pcm8_u8,
                                     .in_rate = (uint32_t)s->params.client_rate,
                                     .out_rate = (uint32_t)s->params.sample_rate};
    s->n_streams = s->params.channels > 1 ? SESSION_MAX_STREAMS : 1;
    for (unsigned i = 0; i < s->n_streams; i++) {
        s->stream[i].s = s;
        s->stream[i].number = i;
        s->stream[i].decoder = decoder_new(&p);
        if (!s->stream[i].decoder)
            return false;
    }
    if (session_is_multi(s))
        s->mixer = mixer_new(p.out_rate);
    return s->mixer || !session_is_multi(s);
}

static void held_free(struct stream *st)
{
    budget_add(-(int64_t)(st->held.cap * sizeof *st->held.data));
    pcm_free(&st->held);
}

void session_audio_free(struct session *s)
{
    for (unsigned i = 0; i < s->n_streams; i++) {
        decoder_free(&s->stream[i].decoder);
        held_free(&s->stream[i]);
    }
    mixer_free(&s->mixer);
}

/* To consumers: the session's audio, of however many channels. */
static void session_audio_publish(struct session *s, const struct pcm *pcm)
{
    uint32_t rate = (uint32_t)s->params.sample_rate;
    struct omid_event ev = {
        .size = sizeof ev,
        .type = OMID_EVENT_AUDIO,
        .uid = s->uid,
        .session_id = s->id,
        .conversation_id = s->conversation ? s->conversation->id : "",
        .pcm = pcm->data,
        .samples = pcm->n,
        .sample_rate = rate,
        .time_ms = s->first_audio_ms + (int64_t)(s->samples * 1000 / rate),
    };
    if (pcm->n == 0)
        return;
    speakers_audio(s, pcm);
    s->samples += pcm->n;
    bus_publish(s->ss->env.bus, &ev);
}

static void session_audio_taken(struct stream *st, const struct pcm *pcm)
{
    struct session *s = st->s;
    bool rejoined = false;
    metric_add(session_metrics()->audio_bytes, (int64_t)(pcm->n * sizeof *pcm->data));
    if (s->first_audio_ms == 0)
        s->first_audio_ms = clock_wall_ms() - (int64_t)(pcm->n * 1000 / (size_t)s->params.sample_rate);
    if (!s->mixer) {
        session_audio_publish(s, pcm);
        return;
    }
    struct pcm *mixed = &s->ss->mixed;
    mixed->n = 0;
    if (!mixer_add(s->mixer, st->number, pcm->data, pcm->n, mixed, &rejoined))
        metric_add(session_metrics()->dropped, 1);
    if (rejoined)
        metric_add(session_metrics()->mix_rejoins, 1);
    session_audio_publish(s, mixed);
}

static void session_audio_undecoded(struct session *s, const struct decoder_drops *drops)
{
    if (s->undecoded_told || drops->malformed + drops->too_long + drops->memory == 0)
        return;
    s->undecoded_told = true;
    const char *why = "it is too long";
    if (drops->malformed > 0)
        why = "it is not of this codec, or damaged";
    else if (drops->memory > 0)
        why = "no memory";
    else if (s->params.codec == CODEC_OPUS)
        why = "its packets are longer than 10 ms: opus_fs320 takes 20 ms";
    log_warning(MODULE, "audio that does not decode is dropped", LS("session", s->id),
                LS("codec", s->params.codec_name), LS("reason", why));
}

/* The channel that a message is for, and past its id. NULL: there is none. */
static struct stream *stream_of(struct session *s, const unsigned char **data, size_t *len)
{
    if (!session_is_multi(s))
        return &s->stream[0];
    unsigned id = **data;
    ++*data;
    --*len;
    return id >= 1 && id <= s->n_streams ? &s->stream[id - 1] : NULL;
}

bool session_audio(struct session *s, const unsigned char *data, size_t len)
{
    if (len <= MIN_AUDIO_BYTES)
        return true;
    struct stream *st = stream_of(s, &data, &len);
    if (!st) {
        metric_add(session_metrics()->audio_channel, 1);
        return true;
    }
    /* A decoder takes a packet once, also when the message comes again. */
    struct pcm *pcm = &st->held;
    if (pcm->n == 0) {
        struct decoder_drops drops;
        pcm = &s->ss->scratch;
        pcm->n = 0;
        decoder_packet(st->decoder, data, len, pcm, &drops);
        session_audio_undecoded(s, &drops);
    }
    if (pcm->n == 0)
        return true;
    if (st->feed && !stt_feed_audio(st->feed, pcm->data, pcm->n)) {
        if (pcm == &st->held)
            return false;
        if (pcm_append(&st->held, pcm->data, pcm->n)) {
            budget_add((int64_t)(st->held.cap * sizeof *st->held.data));
            return false;
        }
        log_error(MODULE, "no memory for audio that waits", LS("session", s->id));
        metric_add(session_metrics()->dropped, 1);
        return true;
    }
    session_audio_taken(st, pcm);
    if (pcm == &st->held)
        held_free(st);
    else if (pcm->cap > MAX_SCRATCH)
        pcm_free(pcm);
    if (s->ss->mixed.cap > MAX_SCRATCH)
        pcm_free(&s->ss->mixed);
    return true;
}

void session_audio_end(struct session *s)
{
    struct pcm *mixed = &s->ss->mixed;
    mixed->n = 0;
    if (s->mixer && mixer_flush(s->mixer, mixed))
        session_audio_publish(s, mixed);
}

static double second_of(const struct stream *st, uint64_t position)
{
    return (double)mixer_place(st->s->mixer, st->number, position) / (double)st->s->params.sample_rate;
}

void session_audio_span(const struct stream *st, double *start, double *end)
{
    const struct session *s = st->s;
    if (!s->mixer)
        return;
    double rate = (double)s->params.sample_rate;
    uint64_t from = (uint64_t)fmax(0., round(*start * rate)), to = (uint64_t)fmax(0., round(*end * rate));
    *start = second_of(st, from);
    /* By its last sample: the next may lie behind a silence that the client did not send. */
    *end = to > from ? second_of(st, to - 1) + 1 / rate : *start;
}
