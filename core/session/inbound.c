/* From the client to the session: its messages. Every data frame is activity. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "session/state.h"

/* What a client's own transcript may claim: no session lasts longer, no room holds more. */
#define MAX_SECONDS 1e7
#define MAX_SPEAKER 9999

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
