/*
 * Encodes s16le samples as a phone does: encode CODEC RATE <SAMPLES >PACKETS, each packet with its length (two bytes,
 * little endian) before it. CODEC: opus, opus_fs320, aac (mono, ADTS), lc3 (40 bytes), lc3_fs1030. Independent of omid.
 */
#include <lc3.h>
#include <libavcodec/avcodec.h>
#include <opus/opus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(const char *what)
{
    fprintf(stderr, "encode: %s\n", what);
    exit(1);
}

static void put(const void *head, size_t head_len, const void *data, size_t len)
{
    size_t all = head_len + len;
    const unsigned char size[2] = {(unsigned char)all, (unsigned char)(all >> 8)};
    if (all > 65535 || fwrite(size, 1, 2, stdout) != 2 || fwrite(head, 1, head_len, stdout) != head_len ||
        fwrite(data, 1, len, stdout) != len)
        fail("write");
}

/* One frame, silence at the end of the last. false: there was nothing left. */
static int take(int16_t *pcm, size_t n)
{
    size_t got = fread(pcm, sizeof *pcm, n, stdin);
    memset(pcm + got, 0, (n - got) * sizeof *pcm);
    return got > 0;
}

static void opus(int rate, int frame)
{
    int err;
    int16_t pcm[960];
    unsigned char out[1500];
    OpusEncoder *e = opus_encoder_create(rate, 1, OPUS_APPLICATION_VOIP, &err);
    if (!e)
        fail("opus");
    opus_encoder_ctl(e, OPUS_SET_BITRATE(32000));
    while (take(pcm, (size_t)frame)) {
        int len = opus_encode(e, pcm, frame, out, sizeof out);
        if (len < 0)
            fail("opus");
        put("", 0, out, (size_t)len);
    }
    opus_encoder_destroy(e);
}

static void lc3(int rate, int bytes)
{
    int16_t pcm[480];
    unsigned char out[400];
    int frame = rate / 100;
    void *mem = malloc(lc3_encoder_size(10000, rate));
    lc3_encoder_t e = lc3_setup_encoder(10000, rate, 0, mem);
    if (!e)
        fail("lc3");
    while (take(pcm, (size_t)frame)) {
        if (lc3_encode(e, LC3_PCM_FORMAT_S16, pcm, 1, bytes, out) != 0)
            fail("lc3");
        put("", 0, out, (size_t)bytes);
    }
    free(mem);
}

static void aac_put(AVCodecContext *ctx, AVPacket *packet)
{
    static const int rates[] = {96000, 88200, 64000, 48000, 44100, 32000, 24000,
                                22050, 16000, 12000, 11025, 8000,  7350};
    while (avcodec_receive_packet(ctx, packet) == 0) {
        size_t len = (size_t)packet->size + 7, index = 0;
        while (rates[index] != ctx->sample_rate)
            index++;
        const unsigned char head[7] = {0xff,
                                       0xf1,
                                       (unsigned char)(1 << 6 | index << 2),
                                       (unsigned char)(1 << 6 | len >> 11),
                                       (unsigned char)(len >> 3),
                                       (unsigned char)((len & 7) << 5 | 0x1f),
                                       0xfc};
        put(head, sizeof head, packet->data, (size_t)packet->size);
        av_packet_unref(packet);
    }
}

static void aac(int rate)
{
    int16_t pcm[1024];
    const AVCodec *codec = avcodec_find_encoder(AV_CODEC_ID_AAC);
    AVCodecContext *ctx = avcodec_alloc_context3(codec);
    AVFrame *f = av_frame_alloc();
    AVPacket *packet = av_packet_alloc();
    if (!codec || !ctx || !f || !packet)
        fail("aac");
    ctx->sample_rate = rate;
    ctx->sample_fmt = AV_SAMPLE_FMT_FLTP;
    ctx->bit_rate = 64000;
    av_channel_layout_default(&ctx->ch_layout, 1);
    if (avcodec_open2(ctx, codec, NULL) != 0)
        fail("aac");
    while (take(pcm, 1024)) {
        f->nb_samples = 1024;
        f->format = AV_SAMPLE_FMT_FLTP;
        av_channel_layout_copy(&f->ch_layout, &ctx->ch_layout);
        if (av_frame_get_buffer(f, 0) != 0)
            fail("aac");
        for (int i = 0; i < 1024; i++)
            ((float *)f->data[0])[i] = (float)pcm[i] / 32768.f;
        if (avcodec_send_frame(ctx, f) != 0)
            fail("aac");
        av_frame_unref(f);
        aac_put(ctx, packet);
    }
    avcodec_send_frame(ctx, NULL);
    aac_put(ctx, packet);
    av_packet_free(&packet);
    av_frame_free(&f);
    avcodec_free_context(&ctx);
}

int main(int argc, char **argv)
{
    int rate = argc == 3 ? atoi(argv[2]) : 0;
    if (rate <= 0)
        fail("expected CODEC RATE");
    if (strcmp(argv[1], "opus") == 0)
        opus(rate, rate / 100);
    else if (strcmp(argv[1], "opus_fs320") == 0)
        opus(rate, rate / 50);
    else if (strcmp(argv[1], "lc3") == 0)
        lc3(rate, 40);
    else if (strcmp(argv[1], "lc3_fs1030") == 0)
        lc3(rate, 30);
    else if (strcmp(argv[1], "aac") == 0)
        aac(rate);
    else
        fail("unknown codec");
    return fflush(stdout) == 0 ? 0 : 1;
}
