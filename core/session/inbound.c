/* From the client to the session: audio and messages. Every data frame is activity. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bus/bus.h"
#include "session/state.h"

/* Frames up to this length are activity and nothing else (the listen protocol, Audio). */
#define MIN_AUDIO_BYTES 2
/* What a client's own transcript may claim: no session lasts longer, no room holds more. */
#define MAX_SECONDS 1e7
#define MAX_SPEAKER 9999

/* -------------------------------------------------------------------------- audio */

static bool scratch_fits(struct sessions *ss, size_t samples)
{
    if (samples <= ss->scratch_cap)
        return true;
    int16_t *p = realloc(ss->scratch, samples * sizeof *p);
    if (!p)
        return false;
    ss->scratch = p;
    ss->scratch_cap = samples;
    return true;
}

/* To s16 in the reactor's scratch; the number of samples. An odd last byte is no sample. */
static size_t audio_decode(struct session *s, const unsigned char *data, size_t len)
{
    struct sessions *ss = s->ss;
    bool u8 = s->params.codec == CODEC_PCM8 && session_conf(s)->listen.pcm8_u8;
    size_t n = u8 ? len : len / 2;
    if (!scratch_fits(ss, n))
        return 0;
    if (u8) {
        for (size_t i = 0; i < n; i++)
            ss->scratch[i] = (int16_t)((data[i] - 128) * 256);
    } else {
        for (size_t i = 0; i < n; i++)
            ss->scratch[i] = (int16_t)(uint16_t)(data[2 * i] | data[2 * i + 1] << 8);
    }
    return n;
}

static bool session_audio(struct session *s, const unsigned char *data, size_t len)
{
    if (len <= MIN_AUDIO_BYTES)
        return true;
    size_t n = audio_decode(s, data, len);
    if (n == 0)
        return true;
    int16_t *pcm = s->ss->scratch;
    if (s->feed && !stt_feed_audio(s->feed, pcm, n))
        return false;
    int64_t now = clock_wall_ms();
    if (s->first_audio_ms == 0)
        s->first_audio_ms = now - (int64_t)(n * 1000 / (size_t)s->params.sample_rate);
    struct omid_event ev = {
        .size = sizeof ev,
        .type = OMID_EVENT_AUDIO,
        .uid = s->uid,
        .session_id = s->id,
        .conversation_id = s->conversation ? s->conversation->id : "",
        .pcm = pcm,
        .samples = n,
        .sample_rate = (uint32_t)s->params.sample_rate,
        .time_ms = s->first_audio_ms + (int64_t)(s->samples * 1000 / (uint64_t)s->params.sample_rate),
    };
    s->samples += n;
    metric_add(session_metrics()->audio_bytes, (int64_t)(n * sizeof *pcm));
    bus_publish(s->ss->env.bus, &ev);
    return true;
}

/* ----------------------------------------------------------------------- messages */

/* Segments of the client's own speech-to-text, in seconds of its session. */
static void on_suggested_transcript(struct session *s, yajl_val v)
{
    yajl_val segments = json_array(v, "segments");
    const char *provider = json_str(v, "stt_provider");
    struct segment_list batch = {0};
    if (!s->params.custom_stt)
        return;
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
        if (!text || !text[0] || start < 0 || end < start || end > MAX_SECONDS) {
            metric_add(session_metrics()->messages_ignored, 1);
            continue;
        }
        struct segment *seg =
            segment_new(text, id, json_bool(in, "is_user", false), start, end, provider ? provider : "custom");
        if (!seg || !segment_list_push(&batch, seg))
            segment_free(&seg);
    }
    session_take_segments(s, &batch);
}

static void session_text(struct session *s, const unsigned char *data, size_t len)
{
    char err[96];
    yajl_val v = json_parse((const char *)data, len, 0, err, sizeof err);
    const char *type = v ? json_str(v, "type") : NULL;
    if (type && strcmp(type, "suggested_transcript") == 0)
        on_suggested_transcript(s, v);
    else if (!type || strcmp(type, "keepalive") != 0)
        metric_add(session_metrics()->messages_ignored, 1);
    json_free(&v);
}

bool session_message(struct channel *ch, enum ws_opcode op, const unsigned char *data, size_t len)
{
    struct session *s = channel_user(ch);
    if (!s)
        return true;
    CHECK_MAGIC(s, SESSION_MAGIC);
    if (s->state >= SESSION_CLOSING)
        return true;
    s->last_data_ms = loop_now_ms(s->ss->env.loop);
    s->bytes += len;
    if (op == WS_BINARY)
        return session_audio(s, data, len);
    session_text(s, data, len);
    return true;
}
