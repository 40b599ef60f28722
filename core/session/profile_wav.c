#include "session/profile_wav.h"
#include "formats/wav.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

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
    double seconds = (double)w->frames / w->sample_rate;
    if (w->channels > MAX_CHANNELS)
        snprintf(err, errlen, "file: %u channels, 1 or 2 are expected", w->channels);
    else if (w->sample_rate < MIN_RATE || w->sample_rate > MAX_RATE)
        snprintf(err, errlen, "file: a sample rate of %u Hz, %u to %u is expected", w->sample_rate, MIN_RATE, MAX_RATE);
    else if (w->frames == 0)
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
    size_t width = w->bits / 8;
    if (!pcm_reserve(mono, w->frames)) {
        snprintf(err, errlen, "out of memory");
        return false;
    }
    for (size_t i = 0; i < w->frames; i++) {
        double sum = 0;
        for (unsigned c = 0; c < w->channels; c++) {
            double v = wav_sample(w, w->data + (i * w->channels + c) * width);
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
