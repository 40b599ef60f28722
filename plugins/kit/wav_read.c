/* core/base/wav.c reads the same, for the daemon: plugins see no core header and the core none of theirs, and the two
 * tell their faults in different ways. What is mended here is looked at there. */
#include "wav_read.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define FORMAT_PCM 1u
#define FORMAT_FLOAT 3u
#define FORMAT_EXTENSIBLE 0xfffeu

static uint32_t le32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static unsigned le16(const unsigned char *p)
{
    return (unsigned)p[0] | (unsigned)p[1] << 8;
}

static bool format_read(struct kit_wav *w, const unsigned char *p, size_t len, struct kit_fault *f)
{
    if (len < 16) {
        kit_fault_set(f, "WAV: a fmt chunk of %zu bytes, expected at least 16", len);
        return false;
    }
    unsigned format = le16(p);
    w->channels = le16(p + 2);
    w->sample_rate = le32(p + 4);
    w->bits = le16(p + 14);
    if (format == FORMAT_EXTENSIBLE && len >= 26)
        format = le16(p + 24); /* the first two bytes of the sub-format's GUID */
    w->is_float = format == FORMAT_FLOAT;
    if (format != FORMAT_PCM && format != FORMAT_FLOAT)
        kit_fault_set(f, "WAV: format %u is neither PCM nor float", format);
    else if (w->channels < 1 || w->channels > 64)
        kit_fault_set(f, "WAV: %u channels, expected 1 to 64", w->channels);
    else if (w->sample_rate < 1 || w->sample_rate > 1000000)
        kit_fault_set(f, "WAV: a sample rate of %u Hz", w->sample_rate);
    else if (w->is_float ? w->bits != 32 && w->bits != 64 : w->bits == 0 || w->bits % 8 || w->bits > 32)
        kit_fault_set(f, "WAV: %u bits a sample%s", w->bits, w->is_float ? " of floats" : "");
    else if (le16(p + 12) != 0 && le16(p + 12) != w->channels * (w->bits / 8))
        kit_fault_set(f, "WAV: frames of %u bytes for %u channels of %u bits", le16(p + 12), w->channels, w->bits);
    else
        return true;
    return false;
}

bool kit_wav_parse(struct kit_wav *w, const void *bytes, size_t len, struct kit_fault *f)
{
    const unsigned char *p = bytes;
    *w = (struct kit_wav){0};
    if (len < 12 || memcmp(p, "RIFF", 4) != 0 || memcmp(p + 8, "WAVE", 4) != 0) {
        kit_fault_set(f, len < 12 ? "no WAV: it has %zu bytes" : "no WAV: it does not begin with RIFF and WAVE", len);
        return false;
    }
    bool format = false;
    for (size_t at = 12; len - at >= 8;) {
        const uint32_t size = le32(p + at + 4);
        const unsigned char *body = p + at + 8;
        const size_t there = len - at - 8, n = size < there ? size : there;
        if (memcmp(p + at, "fmt ", 4) == 0) {
            if (!format_read(w, body, n, f))
                return false;
            format = true;
        } else if (memcmp(p + at, "data", 4) == 0 && format) {
            const size_t frame = (size_t)w->channels * (w->bits / 8);
            const bool unknown = size == UINT32_MAX || (size == 0 && (uint64_t)le32(p + 4) <= at);
            w->data = body;
            w->frames = (unknown ? there : n) / frame;
            w->truncated = !unknown && size > there;
            return true;
        }
        if (size > there)
            break;
        at += 8 + (size_t)size;
        if ((size & 1) && at < len)
            at++; /* chunks are padded to even */
    }
    kit_fault_set(f, format ? "WAV: no data chunk" : "WAV: no fmt chunk before the data");
    return false;
}

/* 1 is full scale. */
static double sample(const struct kit_wav *w, const unsigned char *p)
{
    if (w->is_float && w->bits == 32) {
        const uint32_t u = le32(p);
        float v;
        memcpy(&v, &u, sizeof(v));
        return isfinite(v) ? (double)v : 0.;
    }
    if (w->is_float) {
        const uint64_t u = (uint64_t)le32(p + 4) << 32 | le32(p);
        double v;
        memcpy(&v, &u, sizeof(v));
        return isfinite(v) ? v : 0.;
    }
    if (w->bits == 8)
        return ((int)p[0] - 128) / 128.;
    /* The upper bytes count. */
    uint32_t v = 0;
    for (unsigned i = 0; i < w->bits / 8; i++)
        v |= (uint32_t)p[i] << (32 - w->bits + 8 * i);
    return (double)(int32_t)v / 2147483648.;
}

void kit_wav_mono(const struct kit_wav *w, size_t from, size_t n, int16_t *out)
{
    const size_t width = w->bits / 8;
    const unsigned char *p = w->data + from * w->channels * width;
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (unsigned c = 0; c < w->channels; c++, p += width)
            sum += sample(w, p);
        const double v = round(sum / w->channels * 32768.);
        out[i] = (int16_t)(v > 32767. ? 32767. : v < -32768. ? -32768. : v);
    }
}
