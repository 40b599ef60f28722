#include "session/recording.h"

#include <errno.h>
#include <omid/plugin.h>
#include <opusfile.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "formats/wav.h"
#include "session/codec.h"
#include "session/resample.h"

#define OPUS_RATE 48000
#define FRAME_SILENCE (RECORDING_RATE / 50) /* for a packet that does not decode */
#define PIECE 4096                          /* frames at a time */

/* Where samples of any rate go. */
struct sink {
    int fd;
    struct resampler *resampler; /* NULL: they have our rate */
    struct pcm out;
    uint64_t written, max;
    char *err;
    size_t errlen;
    int fault; /* OMID_OK, OMID_EINVAL or OMID_ERR: the first one */
};

static void sink_fail(struct sink *k, int fault, const char *why)
{
    if (k->fault != OMID_OK)
        return;
    k->fault = fault;
    snprintf(k->err, k->errlen, "%s", why);
}

static bool sink_open(struct sink *k, uint32_t rate)
{
    if (rate == RECORDING_RATE)
        return true;
    k->resampler = resampler_new(rate, RECORDING_RATE);
    if (k->resampler == NULL)
        sink_fail(k, OMID_ERR, "out of memory");
    return k->resampler != NULL;
}

static bool sink_write(struct sink *k, const int16_t *pcm, size_t n)
{
    const char *data = (const char *)pcm;
    size_t left = n * sizeof(*pcm);
    if (k->written + n > k->max) {
        sink_fail(k, OMID_EINVAL, "it is longer than sync.max_audio");
        return false;
    }
    while (left > 0) {
        ssize_t w = write(k->fd, data, left);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0) {
            char why[128];
            snprintf(why, sizeof(why), "decoded audio can't be written: %s", strerror(w < 0 ? errno : ENOSPC));
            sink_fail(k, OMID_ERR, why);
            return false;
        }
        data += w;
        left -= (size_t)w;
    }
    k->written += n;
    return true;
}

static bool sink_take(struct sink *k, const int16_t *pcm, size_t n)
{
    if (k->fault != OMID_OK)
        return false;
    if (k->resampler == NULL)
        return sink_write(k, pcm, n);
    k->out.n = 0;
    if (!resampler_run(k->resampler, pcm, n, &k->out)) {
        sink_fail(k, OMID_ERR, "out of memory");
        return false;
    }
    return sink_write(k, k->out.data, k->out.n);
}

static void sink_close(struct sink *k)
{
    resampler_free(&k->resampler);
    pcm_free(&k->out);
}

/* ---------------------------------------------------------------- WAV */

static bool decode_wav(struct sink *k, const void *data, size_t len)
{
    struct wav w;
    char why[128];
    int16_t piece[PIECE];
    if (!wav_parse(&w, data, len, why, sizeof(why))) {
        sink_fail(k, OMID_EINVAL, why);
        return false;
    }
    if (w.sample_rate < 4000 || w.sample_rate > 192000) {
        snprintf(why, sizeof(why), "its sample rate is %u, expected 4000 to 192000", w.sample_rate);
        sink_fail(k, OMID_EINVAL, why);
        return false;
    }
    if (!sink_open(k, w.sample_rate))
        return false;
    for (size_t at = 0; at < w.frames;) {
        size_t n = w.frames - at < PIECE ? w.frames - at : PIECE;
        wav_mono(&w, at, n, piece);
        if (!sink_take(k, piece, n))
            return false;
        at += n;
    }
    return true;
}

/* ---------------------------------------------------------------- Opus */

static bool decode_ogg(struct sink *k, const void *data, size_t len)
{
    int error = 0, got;
    opus_int16 stereo[2 * PIECE];
    int16_t mono[PIECE];
    OggOpusFile *of = op_open_memory(data, len, &error);
    if (of == NULL) {
        char why[96];
        snprintf(why, sizeof(why), "it is no Opus in Ogg that can be read (%d)", error);
        sink_fail(k, error == OP_EFAULT ? OMID_ERR : OMID_EINVAL, why);
        return false;
    }
    bool ok = sink_open(k, OPUS_RATE);
    while (ok && (got = op_read_stereo(of, stereo, 2 * PIECE)) != 0) {
        if (got == OP_HOLE)
            continue; /* a page is missing: what is there counts */
        if (got < 0) {
            char why[96];
            snprintf(why, sizeof(why), "its Opus is damaged (%d)", got);
            sink_fail(k, OMID_EINVAL, why);
            ok = false;
            break;
        }
        for (int i = 0; i < got; i++)
            mono[i] = (int16_t)((stereo[2 * i] + stereo[2 * i + 1]) / 2);
        ok = sink_take(k, mono, (size_t)got);
    }
    op_free(of);
    return ok;
}

static bool decode_frames(struct sink *k, const unsigned char *data, size_t len)
{
    static const int16_t silence[FRAME_SILENCE];
    const struct decoder_params params = {
        .codec = CODEC_OPUS_FS320, .in_rate = RECORDING_RATE, .out_rate = RECORDING_RATE};
    struct decoder *d = decoder_new(&params);
    struct pcm pcm = {0};
    size_t packets = 0, damaged = 0;
    if (d == NULL) {
        sink_fail(k, OMID_ERR, "out of memory");
        return false;
    }
    bool ok = sink_open(k, RECORDING_RATE);
    for (size_t at = 0; ok && at < len; packets++) {
        uint32_t n = len - at < 4 ? 0
                                  : (uint32_t)data[at] | (uint32_t)data[at + 1] << 8 | (uint32_t)data[at + 2] << 16 |
                                        (uint32_t)data[at + 3] << 24;
        at += 4;
        if (n == 0 || n > 1275 * 3 || at > len || n > len - at)
            break; /* cut short, as a device does that loses its power: what is there counts */
        pcm.n = 0;
        decoder_packet(d, data + at, n, &pcm, NULL);
        damaged += pcm.n == 0;
        ok = sink_take(k, pcm.n > 0 ? pcm.data : silence, pcm.n > 0 ? pcm.n : FRAME_SILENCE);
        at += n;
    }
    if (ok && packets == damaged) {
        sink_fail(k, OMID_EINVAL, "it holds no packets of Opus behind their lengths");
        ok = false;
    }
    pcm_free(&pcm);
    decoder_free(&d);
    return ok;
}

/* ---------------------------------------------------------------- doors */

enum recording_format recording_sniff(const void *data, size_t len, const char *name)
{
    size_t n = strlen(name);
    if (len >= 4 && memcmp(data, "RIFF", 4) == 0)
        return RECORDING_WAV;
    if (len >= 4 && memcmp(data, "OggS", 4) == 0)
        return RECORDING_OGG;
    return n > 4 && strcasecmp(name + n - 4, ".bin") == 0 ? RECORDING_FRAMES : RECORDING_UNKNOWN;
}

int recording_decode(enum recording_format format, const void *data, size_t len, uint64_t max_samples, int fd,
                     uint64_t *samples, char *err, size_t errlen)
{
    struct sink k = {.fd = fd, .max = max_samples, .err = err, .errlen = errlen};
    bool ok = false;
    switch (format) {
    case RECORDING_WAV:
        ok = decode_wav(&k, data, len);
        break;
    case RECORDING_OGG:
        ok = decode_ogg(&k, data, len);
        break;
    case RECORDING_FRAMES:
        ok = decode_frames(&k, data, len);
        break;
    case RECORDING_UNKNOWN:
        sink_fail(&k, OMID_EINVAL, "it is neither WAV nor Opus");
        break;
    }
    sink_close(&k);
    *samples = k.written;
    return ok ? OMID_OK : k.fault;
}

int64_t recording_name_time(const char *name)
{
    int64_t found = 0;
    for (const char *p = name; *p != '\0';) {
        size_t n = strspn(p, "0123456789");
        if (n == 10 || n == 13)
            found = strtoll(p, NULL, 10) * (n == 10 ? 1000 : 1);
        p += n > 0 ? n : 1;
    }
    return found;
}
