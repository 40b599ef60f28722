/*
 * AAC in ADTS by libavcodec: a stream, whose frames may be split over messages or several within one. Its rate and its
 * channels may change: channels are mixed to one, the rate becomes the session's.
 *
 * Bounds: a frame has at most MAX_FRAME bytes (13 bits of length), so what the parser keeps without having found one is
 * thrown away beyond twice that. A stream with its channel layout in-band (configuration 0: up to 64 channels, each
 * with state of its own) is not decoded. Another rate costs a new resampling filter: at most four times a second.
 */
#include <libavcodec/avcodec.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "session/codec_int.h"

#define MAX_FRAME 8191
#define ADTS_HEADER 7
#define PIECE 4096
#define MAX_SAMPLES 4096 /* of a frame, each channel: 1024, twice that with SBR */
#define MAX_CHANNELS 8
#define MIN_RATE 7350
#define MAX_RATE 96000
#define RATE_CHANGES_PER_S 4
/* What libavcodec 59 holds, measured: at first, and for each of a stream's elements (one channel or two, with room for
 * SBR), whose number goes by the channels. */
#define BYTES_BASE (100 << 10)
#define BYTES_PER_ELEMENT (560 << 10)
static const unsigned char elements[MAX_CHANNELS + 1] = {0, 1, 1, 2, 3, 3, 4, 5, 5};

struct aac {
    AVCodecContext *ctx;
    AVCodecParserContext *parser;
    AVPacket *packet;
    AVFrame *frame;
    size_t parsing;  /* bytes the parser was given since it found something */
    uint32_t rate;   /* of the last frame; 0: none yet */
    double since_ms; /* of audio since it last changed */
    int channels;
};

static void no_log(void *avcl, int level, const char *fmt, va_list args)
{
    (void)avcl;
    (void)level;
    (void)fmt;
    (void)args;
}

static bool aac_parser_open(struct aac *a)
{
    if (a->parser)
        av_parser_close(a->parser);
    a->parser = av_parser_init(AV_CODEC_ID_AAC);
    a->parsing = 0;
    return a->parser != NULL;
}

static bool aac_open(struct decoder *d)
{
    const AVCodec *codec = avcodec_find_decoder(AV_CODEC_ID_AAC);
    struct aac *a = d->state = calloc(1, sizeof *a);
    if (!a || !codec)
        return false;
    a->ctx = avcodec_alloc_context3(codec);
    a->packet = av_packet_alloc();
    a->frame = av_frame_alloc();
    if (!a->ctx || !a->packet || !a->frame || !aac_parser_open(a))
        return false;
    a->ctx->thread_count = 1;
    a->ctx->max_samples = MAX_SAMPLES * MAX_CHANNELS;
    d->state_bytes = BYTES_BASE;
    return avcodec_open2(a->ctx, codec, NULL) == 0;
}

static void aac_close(struct decoder *d)
{
    struct aac *a = d->state;
    if (!a)
        return;
    if (a->parser)
        av_parser_close(a->parser);
    avcodec_free_context(&a->ctx);
    av_packet_free(&a->packet);
    av_frame_free(&a->frame);
    free(a);
    d->state = NULL;
}

/* May the stream have this rate now? A frame that has to wait for it counts, too: else one damaged header would end it.
 */
static bool aac_rate(struct decoder *d, uint32_t rate, unsigned samples)
{
    struct aac *a = d->state;
    if (rate < MIN_RATE || rate > MAX_RATE)
        return false;
    a->since_ms += samples * 1000. / rate;
    if (rate == a->rate)
        return true;
    if (a->rate && a->since_ms < 1000. / RATE_CHANGES_PER_S)
        return false;
    a->rate = rate;
    a->since_ms = 0;
    return true;
}

/* The mean of the channels: what was said on one of them is not lost. */
static void aac_mix(const AVFrame *f, int channels, int16_t *pcm)
{
    float scale = 32768.f / (float)channels;
    for (int i = 0; i < f->nb_samples; i++) {
        float sum = 0;
        for (int c = 0; c < channels; c++)
            sum += ((const float *)f->extended_data[c])[i];
        sum *= scale;
        pcm[i] = !isfinite(sum) ? 0 : sum >= 32767.f ? INT16_MAX : sum <= -32768.f ? INT16_MIN : (int16_t)lrintf(sum);
    }
}

static bool aac_frame(struct decoder *d)
{
    struct aac *a = d->state;
    const AVFrame *f = a->frame;
    int16_t pcm[MAX_SAMPLES];
    int channels = f->ch_layout.nb_channels;
    if (f->format != AV_SAMPLE_FMT_FLTP || channels < 1 || channels > MAX_CHANNELS || f->nb_samples < 1 ||
        f->nb_samples > MAX_SAMPLES || f->sample_rate < 0 ||
        !aac_rate(d, (uint32_t)f->sample_rate, (unsigned)f->nb_samples)) {
        d->drops.malformed++;
        return true;
    }
    if (channels > a->channels) {
        a->channels = channels;
        d->state_bytes = BYTES_BASE + (size_t)elements[channels] * BYTES_PER_ELEMENT;
    }
    aac_mix(f, channels, pcm);
    return decoder_emit(d, pcm, (size_t)f->nb_samples, a->rate);
}

/* One whole frame, or rubbish between two. false: the rest of the message is not worth decoding. */
static bool aac_unit(struct decoder *d, uint8_t *data, int len)
{
    struct aac *a = d->state;
    /* Without its header it would be taken for a bare frame of the stream so far. */
    if (len < ADTS_HEADER || data[0] != 0xff || (data[1] & 0xf6) != 0xf0 || !((data[2] & 1) << 2 | data[3] >> 6)) {
        d->drops.malformed++;
        return d->drops.malformed < CODEC_MAX_DAMAGED;
    }
    a->packet->data = data;
    a->packet->size = len;
    int rc = avcodec_send_packet(a->ctx, a->packet);
    bool more = true, heard = false;
    if (rc == 0) {
        while (more && (rc = avcodec_receive_frame(a->ctx, a->frame)) == 0) {
            heard = true;
            more = aac_frame(d);
        }
        av_frame_unref(a->frame);
    }
    if (rc == AVERROR(ENOMEM))
        d->drops.memory++;
    else if (!heard || (rc != 0 && rc != AVERROR(EAGAIN))) /* one of no elements is valid, and of no use */
        d->drops.malformed++;
    return more && d->drops.malformed < CODEC_MAX_DAMAGED;
}

static void aac_packet(struct decoder *d, const unsigned char *data, size_t len)
{
    struct aac *a = d->state;
    uint8_t piece[PIECE + AV_INPUT_BUFFER_PADDING_SIZE] = {0};
    bool more = a->parser || aac_parser_open(a);
    if (!more)
        d->drops.memory++;
    for (size_t at = 0; more && at < len;) {
        int n = (int)(len - at < PIECE ? len - at : PIECE);
        memcpy(piece, data + at, (size_t)n);
        memset(piece + n, 0, AV_INPUT_BUFFER_PADDING_SIZE);
        at += (size_t)n;
        for (int used = 0; more && used < n;) {
            uint8_t *unit = NULL;
            int size = 0, took = av_parser_parse2(a->parser, a->ctx, &unit, &size, piece + used, n - used,
                                                  AV_NOPTS_VALUE, AV_NOPTS_VALUE, 0);
            if (took < 0 || (took == 0 && size == 0))
                break;
            used += took;
            a->parsing += (size_t)took;
            if (size > 0) {
                a->parsing = 0;
                more = aac_unit(d, unit, size);
            } else if (a->parsing > 2 * MAX_FRAME) {
                d->drops.malformed++;
                more = aac_parser_open(a);
            }
        }
    }
    /* What is left of the message is lost, and with it where the next frame begins. */
    if (!more && !aac_parser_open(a))
        d->drops.memory++;
}

void codec_aac_setup(void)
{
    av_log_set_callback(no_log);
    av_log_set_level(AV_LOG_QUIET);
    /* The first context fills tables of sines and windows: not in the middle of somebody's session. */
    AVCodecContext *ctx = avcodec_alloc_context3(avcodec_find_decoder(AV_CODEC_ID_AAC));
    if (ctx) {
        ctx->thread_count = 1;
        (void)avcodec_open2(ctx, NULL, NULL);
    }
    avcodec_free_context(&ctx);
}

const struct codec_ops codec_aac = {.open = aac_open, .packet = aac_packet, .close = aac_close};
