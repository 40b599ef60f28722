#include "session/profile_wav.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/wav.h"
#include "session/resample.h"
#include "session/speakers.h"

#define MIN_RATE 8000u
#define MAX_RATE 192000u
#define MAX_CHANNELS 2u
#define MIN_PEAK 0.005  /* of full scale: -46 dB */
#define FULL 0.999      /* a sample from here on is clipped */
#define MAX_CLIPPED 0.1 /* share of them */

static uint32_t le32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* -1..1, more where a float says so. */
static double sample_at(const struct wav *w, const unsigned char *p)
{
    if (w->is_float && w->bits == 64) {
        uint64_t bits = le32(p) | (uint64_t)le32(p + 4) << 32;
        double d;
        memcpy(&d, &bits, sizeof d);
        return d;
    }
    if (w->is_float) {
        uint32_t bits = le32(p);
        float f;
        memcpy(&f, &bits, sizeof f);
        return (double)f;
    }
    if (w->bits == 8)
        return (p[0] - 128) / 128.;
    uint32_t v = 0; /* left-aligned */
    for (unsigned i = 0; i < w->bits / 8; i++)
        v |= (uint32_t)p[i] << (32 - w->bits + 8 * i);
    return (int32_t)v / 2147483648.;
}

/* What the header says of the length is true: the samples end with their chunk, and behind it is nothing or another. */
static bool length_ok(const struct wav *w, const unsigned char *bytes, size_t len, char *err, size_t errlen)
{
    uint32_t said = le32(w->data - 4);
    size_t there = (size_t)(bytes + len - w->data);
    if (w->truncated) {
        snprintf(err, errlen, "file: its header promises %u bytes of audio, and there are %zu", said, there);
        return false;
    }
    if (said == UINT32_MAX || said == 0)
        return true; /* it does not say: all that is there */
    const unsigned char *behind = w->data + said + (said & 1);
    size_t left = there > (size_t)said + (said & 1) ? there - said - (said & 1) : 0;
    bool chunk = left >= 8 && le32(behind + 4) <= left - 8;
    for (int i = 0; i < 4 && chunk; i++)
        chunk = isprint(behind[i]) != 0;
    if (left == 0 || chunk)
        return true;
    snprintf(err, errlen, "file: its header promises %u bytes of audio, and there are %zu", said, there);
    return false;
}

static bool format_ok(const struct wav *w, const struct profile_limits *l, char *err, size_t errlen)
{
    size_t frames = w->len / ((size_t)w->channels * (w->bits / 8));
    double seconds = (double)frames / w->sample_rate;
    if (w->channels > MAX_CHANNELS)
        snprintf(err, errlen, "file: %u channels, 1 or 2 are expected", w->channels);
    else if (w->sample_rate < MIN_RATE || w->sample_rate > MAX_RATE)
        snprintf(err, errlen, "file: a sample rate of %u Hz, %u to %u is expected", w->sample_rate, MIN_RATE, MAX_RATE);
    else if (frames == 0)
        snprintf(err, errlen, "file: it holds no audio");
    else if (seconds * 1000 < l->min_ms)
        snprintf(err, errlen, "file: %.1f s of audio, at least %g s is expected", seconds, l->min_ms / 1000.);
    else if (seconds * 1000 > l->max_ms)
        snprintf(err, errlen, "file: %.1f s of audio, at most %g s is expected", seconds, l->max_ms / 1000.);
    else
        return true;
    return false;
}

struct level {
    double peak;
    size_t clipped, n;
};

/* Mono samples at the file's rate. */
static bool decode(const struct wav *w, struct pcm *mono, struct level *level, char *err, size_t errlen)
{
    size_t width = w->bits / 8, frames = w->len / (w->channels * width);
    if (!pcm_reserve(mono, frames)) {
        snprintf(err, errlen, "out of memory");
        return false;
    }
    for (size_t i = 0; i < frames; i++) {
        double sum = 0;
        for (unsigned c = 0; c < w->channels; c++) {
            double v = sample_at(w, w->data + (i * w->channels + c) * width);
            if (!isfinite(v)) {
                snprintf(err, errlen, "file: sample %zu is not a number", i);
                return false;
            }
            level->peak = fmax(level->peak, fabs(v));
            level->clipped += fabs(v) >= FULL;
            level->n++;
            sum += fmax(-1, fmin(1, v));
        }
        mono->data[mono->n++] = (int16_t)lrint(sum / w->channels * 32767);
    }
    return true;
}

static bool level_ok(const struct level *l, char *err, size_t errlen)
{
    if (l->peak < MIN_PEAK)
        snprintf(err, errlen, "file: it is silent, its loudest sample is at %.2f %% of full scale", l->peak * 100);
    else if ((double)l->clipped > MAX_CLIPPED * (double)l->n)
        snprintf(err, errlen, "file: it is clipped, %.0f %% of the samples are at full scale",
                 (double)l->clipped * 100 / (double)l->n);
    else
        return true;
    return false;
}

bool profile_wav(const void *bytes, size_t len, const struct profile_limits *limits, struct pcm *out, char *err,
                 size_t errlen)
{
    struct wav w;
    char why[256];
    struct pcm mono = {0};
    struct level level = {0};
    if (!wav_parse(&w, bytes, len, why, sizeof why)) {
        snprintf(err, errlen, "file: %s", why);
        return false;
    }
    if (!length_ok(&w, bytes, len, err, errlen) || !format_ok(&w, limits, err, errlen))
        return false;
    bool ok = decode(&w, &mono, &level, err, errlen) && level_ok(&level, err, errlen);
    if (ok && w.sample_rate == SPEAKERS_RATE) {
        ok = pcm_append(out, mono.data, mono.n);
    } else if (ok) {
        struct resampler *r = resampler_new(w.sample_rate, SPEAKERS_RATE);
        ok = r && resampler_run(r, mono.data, mono.n, out);
        resampler_free(&r);
    }
    if (!ok && err[0] == 0)
        snprintf(err, errlen, "out of memory");
    pcm_free(&mono);
    return ok;
}
