#include "ctl/opus.h"

#include <opus/opus.h>
#include <speex/speex_resampler.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RATE 16000
#define BITRATE 32000
#define MAX_PACKET 1275

static bool resample(struct audio *a)
{
    int err = 0;
    size_t cap = (size_t)((uint64_t)a->samples * RATE / a->sample_rate) + 64, n = 0;
    SpeexResamplerState *state = speex_resampler_init(1, a->sample_rate, RATE, SPEEX_RESAMPLER_QUALITY_DEFAULT, &err);
    int16_t *out = malloc(cap * sizeof *out);
    bool ok = state && out;
    if (ok)
        speex_resampler_skip_zeros(state);
    for (size_t at = 0; ok && at < a->samples && n < cap;) {
        spx_uint32_t in = a->samples - at < 65536 ? (spx_uint32_t)(a->samples - at) : 65536;
        spx_uint32_t room = cap - n < 65536 * 8 ? (spx_uint32_t)(cap - n) : 65536 * 8;
        ok = speex_resampler_process_int(state, 0, a->pcm + at, &in, out + n, &room) == RESAMPLER_ERR_SUCCESS &&
             in + room > 0;
        at += in;
        n += room;
    }
    if (state)
        speex_resampler_destroy(state);
    if (!ok) {
        free(out);
        return false;
    }
    free(a->pcm);
    *a = (struct audio){.pcm = out, .samples = n, .sample_rate = RATE};
    return true;
}

static bool encode(struct opus_packets *p, const struct audio *a)
{
    int err = 0;
    int16_t frame[RATE / 50];
    size_t used = 0, count = (a->samples + p->samples - 1) / p->samples;
    OpusEncoder *e = opus_encoder_create(RATE, 1, OPUS_APPLICATION_VOIP, &err);
    p->data = malloc(count * MAX_PACKET + 1);
    p->packet = calloc(count + 1, sizeof *p->packet);
    bool ok = e && p->data && p->packet && opus_encoder_ctl(e, OPUS_SET_BITRATE(BITRATE)) == OPUS_OK;
    for (size_t i = 0; ok && i < count; i++) {
        size_t at = i * p->samples, n = a->samples - at < p->samples ? a->samples - at : p->samples;
        memset(frame, 0, sizeof frame);
        memcpy(frame, a->pcm + at, n * sizeof *frame);
        int len = opus_encode(e, frame, (int)p->samples, p->data + used, MAX_PACKET);
        ok = len > 0;
        if (ok) {
            p->packet[p->n++] = (struct opus_packet){used, (size_t)len};
            used += (size_t)len;
        }
    }
    if (e)
        opus_encoder_destroy(e);
    return ok;
}

bool opus_make(struct opus_packets *p, struct audio *a, unsigned ms, char *err, size_t errlen)
{
    *p = (struct opus_packets){.samples = RATE / 1000 * ms};
    if (a->sample_rate != RATE && !resample(a)) {
        snprintf(err, errlen, "can't bring the recording from %u to %d Hz: no memory", a->sample_rate, RATE);
        return false;
    }
    if (encode(p, a))
        return true;
    snprintf(err, errlen, "can't encode the recording: no memory");
    opus_free(p);
    return false;
}

void opus_free(struct opus_packets *p)
{
    free(p->data);
    free(p->packet);
    *p = (struct opus_packets){0};
}
