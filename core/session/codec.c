#include "session/codec.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "base/metrics.h"
#include "bus/channel.h"
#include "session/codec_int.h"

/* ----------------------------------------------------------------------- counters */

enum drop { DROP_MALFORMED, DROP_TOO_LONG, DROP_MEMORY, DROPS };
static struct metric *dropped[CODEC_UNKNOWN][DROPS];

static void setup(void)
{
    static const char *const reasons[] = {"malformed", "too_long", "memory"};
    for (size_t c = 0; c < ARRAY_LEN(dropped); c++) {
        for (size_t r = 0; r < DROPS; r++) {
            const struct metric_label labels[] = {{"codec", codec_name((enum listen_codec)c)}, {"reason", reasons[r]}};
            dropped[c][r] = metric_get(
                METRIC_COUNTER, "omid_listen_undecoded_total",
                "Audio packets, or frames of them, that did not decode and were dropped, by codec and reason.", labels,
                ARRAY_LEN(labels), NULL, 0);
        }
    }
    codec_aac_setup();
}

void codec_setup(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, setup);
}

/* ------------------------------------------------------------------------ samples */

bool pcm_reserve(struct pcm *p, size_t more)
{
    if (p->cap - p->n >= more)
        return true;
    size_t cap = p->cap ? p->cap : 2048;
    while (cap - p->n < more)
        cap *= 2;
    int16_t *data = realloc(p->data, cap * sizeof *data);
    if (!data)
        return false;
    p->data = data;
    p->cap = cap;
    return true;
}

bool pcm_append(struct pcm *p, const int16_t *data, size_t n)
{
    if (!pcm_reserve(p, n))
        return false;
    if (n > 0)
        memcpy(p->data + p->n, data, n * sizeof *data);
    p->n += n;
    return true;
}

void pcm_free(struct pcm *p)
{
    free(p->data);
    *p = (struct pcm){0};
}

/* -------------------------------------------------------------------- plain samples */

/* Pieces, so that what is resampled needs no buffer of the message's length. */
#define PIECE 2048

static void samples_of_le(int16_t *to, const unsigned char *data, size_t n)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(to, data, n * sizeof *to);
#else
    for (size_t i = 0; i < n; i++)
        to[i] = (int16_t)(uint16_t)(data[2 * i] | data[2 * i + 1] << 8);
#endif
}

static void pcm_packet(struct decoder *d, const unsigned char *data, size_t len)
{
    bool u8 = d->p.codec == CODEC_PCM8 && d->p.pcm8_u8, direct = d->p.in_rate == d->p.out_rate;
    size_t left = u8 ? len : len / 2; /* an odd last byte is no sample */
    int16_t piece[PIECE];
    if (direct && !pcm_reserve(d->out, left)) {
        d->drops.memory++;
        return;
    }
    while (left > 0) {
        size_t n = direct || left < PIECE ? left : PIECE;
        int16_t *to = direct ? d->out->data + d->out->n : piece;
        if (u8) {
            for (size_t i = 0; i < n; i++)
                to[i] = (int16_t)((data[i] - 128) * 256);
        } else {
            samples_of_le(to, data, n);
        }
        data += u8 ? n : 2 * n;
        left -= n;
        if (direct)
            d->out->n += n;
        else if (!decoder_emit(d, piece, n, d->p.in_rate))
            return;
    }
}

static const struct codec_ops codec_pcm = {.packet = pcm_packet};

/* ------------------------------------------------------------------------ decoders */

static const struct codec_ops *codec_ops(enum listen_codec codec)
{
    switch (codec) {
    case CODEC_PCM8:
    case CODEC_PCM16:
        return &codec_pcm;
    case CODEC_OPUS:
    case CODEC_OPUS_FS320:
        return &codec_opus;
    case CODEC_LC3:
    case CODEC_LC3_FS1030:
        return &codec_lc3;
    case CODEC_AAC:
        return &codec_aac;
    default:
        return NULL;
    }
}

/* Is a bound on the message's length bound enough? */
static bool is_plain(const struct decoder *d)
{
    return d->ops == &codec_pcm;
}

static void decoder_charge(struct decoder *d)
{
    size_t bytes = sizeof *d + d->state_bytes + (d->resampler ? resampler_bytes(d->resampler) : 0);
    budget_add((int64_t)bytes - (int64_t)d->charged);
    d->charged = bytes;
}

struct decoder *decoder_new(const struct decoder_params *p)
{
    codec_setup();
    const struct codec_ops *ops = codec_ops(p->codec);
    struct decoder *d = ops ? calloc(1, sizeof *d) : NULL;
    if (!d)
        return NULL;
    d->magic = DECODER_MAGIC;
    d->p = *p;
    d->ops = ops;
    if (ops->open && !ops->open(d)) {
        decoder_free(&d);
        return NULL;
    }
    decoder_charge(d);
    return d;
}

bool decoder_emit(struct decoder *d, const int16_t *pcm, size_t n, uint32_t rate)
{
    if (d->out->n >= d->limit && !is_plain(d)) {
        d->drops.too_long++;
        return false;
    }
    bool ok;
    if (rate == d->p.out_rate) {
        resampler_free(&d->resampler);
        ok = pcm_append(d->out, pcm, n);
    } else {
        if (d->resampler && resampler_from(d->resampler) != rate)
            resampler_free(&d->resampler);
        if (!d->resampler)
            d->resampler = resampler_new(rate, d->p.out_rate);
        ok = d->resampler && resampler_run(d->resampler, pcm, n, d->out);
    }
    if (!ok)
        d->drops.memory++;
    return ok;
}

static void count(const struct decoder *d, enum drop why, unsigned n)
{
    if (n > 0)
        metric_add(dropped[d->p.codec][why], n);
}

void decoder_packet(struct decoder *d, const unsigned char *data, size_t len, struct pcm *out,
                    struct decoder_drops *drops)
{
    CHECK_MAGIC(d, DECODER_MAGIC);
    d->out = out;
    d->limit = out->n + (size_t)CODEC_MAX_SECONDS * d->p.out_rate;
    d->drops = (struct decoder_drops){0};
    d->ops->packet(d, data, len);
    d->out = NULL;
    decoder_charge(d);
    count(d, DROP_MALFORMED, d->drops.malformed);
    count(d, DROP_TOO_LONG, d->drops.too_long);
    count(d, DROP_MEMORY, d->drops.memory);
    if (drops)
        *drops = d->drops;
}

size_t decoder_bytes(const struct decoder *d)
{
    CHECK_MAGIC(d, DECODER_MAGIC);
    return d->charged;
}

void decoder_free(struct decoder **dp)
{
    struct decoder *d = *dp;
    if (!d)
        return;
    CHECK_MAGIC(d, DECODER_MAGIC);
    *dp = NULL;
    if (d->ops->close)
        d->ops->close(d);
    else
        free(d->state);
    resampler_free(&d->resampler);
    budget_add(-(int64_t)d->charged);
    d->magic = OMID_MAGIC_DEAD;
    free(d);
}
