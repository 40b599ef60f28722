#include "formats/wav.h"

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

static void put32(unsigned char *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> (8 * i));
}

static bool format_parse(struct wav *w, const unsigned char *p, size_t len, char *err, size_t errlen)
{
    if (len < 16) {
        snprintf(err, errlen, "fmt chunk of %zu bytes, expected at least 16", len);
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
        snprintf(err, errlen, "format %u is not PCM", format);
    else if (w->channels < 1 || w->channels > 64)
        snprintf(err, errlen, "%u channels", w->channels);
    else if (w->sample_rate < 1 || w->sample_rate > 1000000)
        snprintf(err, errlen, "sample rate %u", w->sample_rate);
    else if (w->is_float ? w->bits != 32 && w->bits != 64 : w->bits == 0 || w->bits % 8 || w->bits > 32)
        snprintf(err, errlen, "%u bits a sample", w->bits);
    else if (le16(p + 12) != 0 && le16(p + 12) != w->channels * (w->bits / 8))
        snprintf(err, errlen, "frames of %u bytes for %u channels of %u bits", le16(p + 12), w->channels, w->bits);
    else
        return true;
    return false;
}

bool wav_parse(struct wav *w, const void *bytes, size_t len, char *err, size_t errlen)
{
    const unsigned char *p = bytes;
    *w = (struct wav){0};
    if (len < 12 || memcmp(p, "RIFF", 4) != 0) {
        snprintf(err, errlen, "not a RIFF file");
        return false;
    }
    if (memcmp(p + 8, "WAVE", 4) != 0) {
        snprintf(err, errlen, "a RIFF file, but not WAVE");
        return false;
    }
    bool format = false;
    for (size_t at = 12; len - at >= 8;) {
        uint32_t size = le32(p + at + 4);
        const unsigned char *body = p + at + 8;
        size_t there = len - at - 8, n = size < there ? size : there;
        if (memcmp(p + at, "fmt ", 4) == 0) {
            if (!format_parse(w, body, n, err, errlen))
                return false;
            format = true;
        } else if (memcmp(p + at, "data", 4) == 0) {
            if (!format) {
                snprintf(err, errlen, "data chunk before the fmt chunk");
                return false;
            }
            size_t frame = (size_t)w->channels * (w->bits / 8);
            w->data = body;
            w->len = n - n % frame;
            /* Recorders that could not seek back leave ~0, or 0 in both headers: all that is there counts. */
            if (size == UINT32_MAX || (size == 0 && (uint64_t)le32(p + 4) + 8 <= at + 8))
                w->len = there - there % frame;
            else
                w->truncated = size > there;
            w->frames = w->len / frame;
            return true;
        }
        if (size > there)
            break;
        at += 8 + (size_t)size;
        if ((size & 1) && at < len)
            at++; /* chunks are padded to even */
    }
    snprintf(err, errlen, format ? "no data chunk" : "no fmt chunk");
    return false;
}

double wav_sample(const struct wav *w, const unsigned char *p)
{
    if (w->is_float && w->bits == 32) {
        const uint32_t u = le32(p);
        float v;
        memcpy(&v, &u, sizeof(v));
        return (double)v;
    }
    if (w->is_float) {
        const uint64_t u = (uint64_t)le32(p + 4) << 32 | le32(p);
        double v;
        memcpy(&v, &u, sizeof(v));
        return v;
    }
    if (w->bits == 8)
        return ((int)p[0] - 128) / 128.;
    /* The upper bytes count. */
    uint32_t v = 0;
    for (unsigned i = 0; i < w->bits / 8; i++)
        v |= (uint32_t)p[i] << (32 - w->bits + 8 * i);
    return (double)(int32_t)v / 2147483648.;
}

void wav_mono(const struct wav *w, size_t from, size_t n, int16_t *out)
{
    const size_t width = w->bits / 8;
    const unsigned char *p = w->data + from * w->channels * width;
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (unsigned c = 0; c < w->channels; c++, p += width) {
            const double v = wav_sample(w, p);
            sum += isfinite(v) ? v : 0.;
        }
        const double v = round(sum / w->channels * 32768.);
        out[i] = (int16_t)(v > 32767. ? 32767. : v < -32768. ? -32768. : v);
    }
}

void wav_header(unsigned char out[WAV_HEADER_LEN], unsigned channels, unsigned sample_rate, uint32_t data_len)
{
    uint32_t block = channels * 2;
    memcpy(out, "RIFF", 4);
    put32(out + 4, data_len > UINT32_MAX - 36 ? UINT32_MAX : data_len + 36);
    memcpy(out + 8, "WAVEfmt ", 8);
    put32(out + 16, 16);
    put32(out + 20, FORMAT_PCM | channels << 16);
    put32(out + 24, sample_rate);
    put32(out + 28, sample_rate * block);
    put32(out + 32, block | 16u << 16);
    memcpy(out + 36, "data", 4);
    put32(out + 40, data_len);
}

void wav_write(unsigned char *out, const int16_t *pcm, size_t samples, unsigned sample_rate)
{
    wav_header(out, 1, sample_rate, (uint32_t)(samples * 2));
    for (size_t i = 0; i < samples; i++) {
        out[WAV_HEADER_LEN + 2 * i] = (unsigned char)pcm[i];
        out[WAV_HEADER_LEN + 2 * i + 1] = (unsigned char)((uint16_t)pcm[i] >> 8);
    }
}
