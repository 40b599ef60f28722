/* Decoders: what the libraries' own encoders make comes back as it was, and nothing hostile does more than be dropped.
 */
#include "session/codec.h"

#include <lc3.h>
#include <libavcodec/avcodec.h>
#include <math.h>
#include <opus/opus.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "bus/channel.h"
#include "unit.h"

#define RATE CODEC_RATE
#define SECONDS 2
#define N ((size_t)RATE * SECONDS)

/* ------------------------------------------------------------------------- helpers */

static uint32_t seed = 1;
static uint32_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed;
}

/* Something like a voice: a hum with harmonics that swells and falls. */
static void voice(int16_t *pcm, size_t n, unsigned rate)
{
    for (size_t i = 0; i < n; i++) {
        double t = (double)i / rate, v = 0;
        for (int h = 1; h <= 8; h++)
            v += sin(2 * M_PI * 140 * h * t + h) / h;
        pcm[i] = (int16_t)(5000 * v * (0.6 + 0.4 * sin(2 * M_PI * 3 * t)));
    }
}

/* dB of `a` over what is left when b, delayed at best by 0 .. max_delay samples, is taken from it. The gain is fitted.
 */
static double snr(const int16_t *a, size_t na, const int16_t *b, size_t nb, size_t max_delay)
{
    double best = -100;
    for (size_t delay = 0; delay <= max_delay; delay++) {
        double aa = 0, ab = 0, bb = 0;
        size_t from = 2000; /* codecs take a moment */
        for (size_t i = from; i < na && i + delay < nb; i++) {
            aa += (double)a[i] * a[i];
            ab += (double)a[i] * b[i + delay];
            bb += (double)b[i + delay] * b[i + delay];
        }
        double gain = bb > 0 ? ab / bb : 0, noise = aa - 2 * gain * ab + gain * gain * bb;
        double db = noise > 0 ? 10 * log10(aa / noise) : 100;
        if (gain > 0.7 && gain < 1.4 && db > best)
            best = db;
    }
    return best;
}

static struct decoder *make_with(enum listen_codec codec, uint32_t in, uint32_t out, bool u8)
{
    const struct decoder_params p = {.codec = codec, .in_rate = in, .out_rate = out, .pcm8_u8 = u8};
    struct decoder *d = decoder_new(&p);
    CU_ASSERT_PTR_NOT_NULL_FATAL(d);
    return d;
}

static struct decoder *make(enum listen_codec codec)
{
    return make_with(codec, RATE, RATE, false);
}

/* Of just this size, for the sanitizers. */
static struct decoder_drops feed(struct decoder *d, const void *data, size_t len, struct pcm *out)
{
    struct decoder_drops drops;
    unsigned char *copy = malloc(len + 1);
    CU_ASSERT_PTR_NOT_NULL_FATAL(copy);
    memcpy(copy + 1, data, len);
    decoder_packet(d, copy + 1, len, out, &drops);
    free(copy);
    return drops;
}

static unsigned total(struct decoder_drops d)
{
    return d.malformed + d.too_long + d.memory;
}

struct packets {
    unsigned char *data[1000];
    size_t len[1000], n;
};

static void packet_push(struct packets *p, const void *data, size_t len)
{
    CU_ASSERT_FATAL(p->n < ARRAY_LEN(p->data));
    p->data[p->n] = malloc(len + 1);
    memcpy(p->data[p->n], data, len);
    p->len[p->n++] = len;
}

static void packets_free(struct packets *p)
{
    while (p->n > 0)
        free(p->data[--p->n]);
}

static void opus_make(struct packets *p, const int16_t *pcm, size_t n, size_t frame, int channels)
{
    int err;
    unsigned char out[1500];
    OpusEncoder *e = opus_encoder_create(RATE, channels, OPUS_APPLICATION_AUDIO, &err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(e);
    opus_encoder_ctl(e, OPUS_SET_BITRATE(64000));
    for (size_t at = 0; at + frame <= n; at += frame) {
        int len = opus_encode(e, pcm + at * (size_t)channels, (int)frame, out, sizeof out);
        CU_ASSERT_FATAL(len > 2);
        packet_push(p, out, (size_t)len);
    }
    opus_encoder_destroy(e);
}

static void lc3_make(struct packets *p, const int16_t *pcm, size_t n, size_t bytes)
{
    unsigned char out[LC3_MAX_FRAME_BYTES];
    void *mem = malloc(lc3_encoder_size(10000, RATE));
    lc3_encoder_t e = lc3_setup_encoder(10000, RATE, 0, mem);
    CU_ASSERT_PTR_NOT_NULL_FATAL(e);
    for (size_t at = 0; at + 160 <= n; at += 160) {
        CU_ASSERT_EQUAL_FATAL(lc3_encode(e, LC3_PCM_FORMAT_S16, pcm + at, 1, (int)bytes, out), 0);
        packet_push(p, out, bytes);
    }
    free(mem);
}

static const int aac_rates[] = {96000, 88200, 64000, 48000, 44100, 32000, 24000,
                                22050, 16000, 12000, 11025, 8000,  7350};

/* ADTS frames, each channel with the same samples. */
static void aac_make(struct packets *p, const int16_t *pcm, size_t n, unsigned rate, int channels)
{
    const AVCodec *codec = avcodec_find_encoder(AV_CODEC_ID_AAC);
    CU_ASSERT_PTR_NOT_NULL_FATAL(codec);
    AVCodecContext *ctx = avcodec_alloc_context3(codec);
    ctx->sample_rate = (int)rate;
    ctx->sample_fmt = AV_SAMPLE_FMT_FLTP;
    ctx->bit_rate = 64000 * channels;
    av_channel_layout_default(&ctx->ch_layout, channels);
    CU_ASSERT_EQUAL_FATAL(avcodec_open2(ctx, codec, NULL), 0);
    AVFrame *f = av_frame_alloc();
    AVPacket *packet = av_packet_alloc();
    for (size_t at = 0; at + 1024 <= n; at += 1024) {
        f->nb_samples = 1024;
        f->format = AV_SAMPLE_FMT_FLTP;
        f->sample_rate = (int)rate;
        av_channel_layout_copy(&f->ch_layout, &ctx->ch_layout);
        CU_ASSERT_EQUAL_FATAL(av_frame_get_buffer(f, 0), 0);
        for (int c = 0; c < channels; c++) {
            for (size_t i = 0; i < 1024; i++)
                ((float *)f->extended_data[c])[i] = (float)pcm[at + i] / 32768.f;
        }
        CU_ASSERT_EQUAL_FATAL(avcodec_send_frame(ctx, f), 0);
        av_frame_unref(f);
        while (avcodec_receive_packet(ctx, packet) == 0) {
            unsigned char adts[8192];
            size_t len = (size_t)packet->size + 7, sf = 0;
            while ((unsigned)aac_rates[sf] != rate)
                sf++;
            CU_ASSERT_FATAL(len < sizeof adts);
            adts[0] = 0xff;
            adts[1] = 0xf1;
            adts[2] = (unsigned char)(1 << 6 | sf << 2 | (size_t)channels >> 2);
            adts[3] = (unsigned char)((channels & 3) << 6 | (int)(len >> 11));
            adts[4] = (unsigned char)(len >> 3);
            adts[5] = (unsigned char)((len & 7) << 5 | 0x1f);
            adts[6] = 0xfc;
            memcpy(adts + 7, packet->data, (size_t)packet->size);
            packet_push(p, adts, len);
            av_packet_unref(packet);
        }
    }
    av_packet_free(&packet);
    av_frame_free(&f);
    avcodec_free_context(&ctx);
}

static void decode_all(struct decoder *d, const struct packets *p, struct pcm *out)
{
    unsigned dropped = 0;
    for (size_t i = 0; i < p->n; i++)
        dropped += total(feed(d, p->data[i], p->len[i], out));
    CU_ASSERT_EQUAL(dropped, 0);
}

static int16_t in[(size_t)48000 * SECONDS];

/* ------------------------------------------------------------------------- the names */

static void test_names(void)
{
    for (int c = CODEC_PCM8; c < CODEC_UNKNOWN; c++)
        CU_ASSERT_EQUAL(codec_find(codec_name((enum listen_codec)c)), c);
    CU_ASSERT_EQUAL(codec_find("mp3"), CODEC_UNKNOWN);
    CU_ASSERT_EQUAL(codec_find(""), CODEC_UNKNOWN);
    CU_ASSERT_STRING_EQUAL(codec_name(CODEC_UNKNOWN), "unknown");
    CU_ASSERT_EQUAL(codec_session_rate(CODEC_PCM16, 1, 8000), 8000);
    CU_ASSERT_EQUAL(codec_session_rate(CODEC_PCM16, 2, 8000), 16000);
    CU_ASSERT_EQUAL(codec_session_rate(CODEC_AAC, 1, 44100), 44100);
    CU_ASSERT_EQUAL(codec_session_rate(CODEC_AAC, 8, 44100), 16000);
    CU_ASSERT_EQUAL(codec_session_rate(CODEC_OPUS, 1, 8000), 16000);
    CU_ASSERT_EQUAL(codec_session_rate(CODEC_OPUS_FS320, 1, 48000), 16000);
    CU_ASSERT_EQUAL(codec_session_rate(CODEC_LC3, 1, 8000), 16000);
    CU_ASSERT_EQUAL(codec_session_rate(CODEC_LC3_FS1030, 1, 8000), 16000);
    const struct decoder_params none = {.codec = CODEC_UNKNOWN, .in_rate = 8000, .out_rate = 8000};
    CU_ASSERT_PTR_NULL(decoder_new(&none));
}

/* ----------------------------------------------------------------------- plain samples */

static void test_pcm(void)
{
    struct pcm out = {0};
    struct decoder *d = make_with(CODEC_PCM16, 8000, 8000, false);
    static const unsigned char s16[] = {0, 0, 1, 0, 0xff, 0xff, 0, 0x80, 0xff, 0x7f, 9};
    CU_ASSERT_EQUAL(total(feed(d, s16, sizeof s16, &out)), 0);
    static const int16_t want[] = {0, 1, -1, INT16_MIN, INT16_MAX};
    CU_ASSERT_EQUAL(out.n, 5);
    CU_ASSERT_EQUAL(memcmp(out.data, want, sizeof want), 0);
    feed(d, s16, 4, &out); /* appended; the odd byte before is gone */
    CU_ASSERT(out.n == 7 && out.data[6] == 1);
    decoder_free(&d);
    CU_ASSERT_PTR_NULL(d);

    out.n = 0;
    d = make_with(CODEC_PCM8, 8000, 8000, true);
    feed(d, "\x80\x00\xff\x81", 4, &out);
    static const int16_t from_u8[] = {0, -32768, 32512, 256};
    CU_ASSERT(out.n == 4 && memcmp(out.data, from_u8, sizeof from_u8) == 0);
    decoder_free(&d);
    out.n = 0;
    d = make_with(CODEC_PCM8, 8000, 8000, false);
    feed(d, s16, 10, &out);
    CU_ASSERT(out.n == 5 && memcmp(out.data, want, sizeof want) == 0);
    decoder_free(&d);
    pcm_free(&out);
    CU_ASSERT_EQUAL(budget_used(), 0);
}

/* In pieces of any size the same comes out, without a seam; and it is what went in. */
static void test_pcm_resampled(void)
{
    static const unsigned rates[] = {8000, 11025, 22050, 44100, 48000, 15999};
    for (size_t r = 0; r < ARRAY_LEN(rates); r++) {
        struct pcm whole = {0}, pieces = {0};
        size_t n = (size_t)rates[r] * SECONDS;
        static int16_t want[N];
        voice(in, n, rates[r]);
        voice(want, N, RATE);
        struct decoder *d = make_with(CODEC_PCM16, rates[r], RATE, false);
        CU_ASSERT_EQUAL(total(feed(d, in, n * 2, &whole)), 0);
        decoder_free(&d);
        d = make_with(CODEC_PCM16, rates[r], RATE, false);
        for (size_t at = 0; at < n;) {
            size_t len = 1 + rnd() % 700;
            if (len > n - at)
                len = n - at;
            feed(d, in + at, len * 2, &pieces);
            at += len;
        }
        CU_ASSERT_EQUAL(whole.n, pieces.n);
        CU_ASSERT_EQUAL(memcmp(whole.data, pieces.data, (whole.n < pieces.n ? whole.n : pieces.n) * 2), 0);
        CU_ASSERT(whole.n <= N && whole.n + 100 > N);
        double db = snr(want, N, whole.data, whole.n, 2);
        if (db < 30)
            printf("  %u Hz: %.1f dB\n", rates[r], db);
        CU_ASSERT(db >= 30);
        CU_ASSERT(decoder_bytes(d) > 1000 && budget_used() == decoder_bytes(d));
        decoder_free(&d);
        pcm_free(&whole);
        pcm_free(&pieces);
    }
    CU_ASSERT_EQUAL(budget_used(), 0);
}

/* ---------------------------------------------------------------------------- opus */

static void test_opus(void)
{
    static const struct {
        enum listen_codec codec;
        size_t frame;
        bool taken;
    } cases[] = {
        {CODEC_OPUS, 160, true},         {CODEC_OPUS, 80, true},         {CODEC_OPUS, 40, true},
        {CODEC_OPUS, 320, false},        {CODEC_OPUS, 960, false},       {CODEC_OPUS_FS320, 320, true},
        {CODEC_OPUS_FS320, 160, true},   {CODEC_OPUS_FS320, 640, false}, {CODEC_OPUS_FS320, 960, false},
        {CODEC_OPUS_FS320, 1920, false},
    };
    voice(in, N, RATE);
    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        struct packets p = {0};
        struct pcm out = {0};
        struct decoder *d = make(cases[c].codec);
        opus_make(&p, in, N, cases[c].frame, 1);
        if (cases[c].taken) {
            decode_all(d, &p, &out);
            CU_ASSERT_EQUAL(out.n, p.n * cases[c].frame);
            double db = snr(in, N, out.data, out.n, 400);
            if (db < 9)
                printf("  opus of %zu samples: %.1f dB\n", cases[c].frame, db);
            CU_ASSERT(db >= 9);
        } else {
            for (size_t i = 0; i < p.n; i++) {
                struct decoder_drops drops = feed(d, p.data[i], p.len[i], &out);
                CU_ASSERT(drops.too_long == 1 && total(drops) == 1 && out.n == 0);
            }
        }
        decoder_free(&d);
        packets_free(&p);
        pcm_free(&out);
    }
}

static void test_opus_stereo(void)
{
    static int16_t two[2 * N];
    struct packets p = {0};
    struct pcm out = {0};
    voice(in, N, RATE);
    for (size_t i = 0; i < N; i++)
        two[2 * i] = two[2 * i + 1] = in[i];
    opus_make(&p, two, N, 160, 2);
    struct decoder *d = make(CODEC_OPUS);
    decode_all(d, &p, &out);
    CU_ASSERT_EQUAL(out.n, N);
    CU_ASSERT(snr(in, N, out.data, out.n, 400) >= 9);
    decoder_free(&d);
    packets_free(&p);
    pcm_free(&out);
}

/* ---------------------------------------------------------------------------- lc3 */

static void test_lc3(void)
{
    static const size_t sizes[] = {20, 30, 40, 60, 100, 155, 400};
    voice(in, N, RATE);
    for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
        struct packets p = {0};
        struct pcm out = {0};
        struct decoder *d = make(CODEC_LC3);
        lc3_make(&p, in, N, sizes[s]);
        decode_all(d, &p, &out);
        CU_ASSERT_EQUAL(out.n, p.n * 160);
        double db = snr(in, N, out.data, out.n, 400), want = sizes[s] < 30 ? 5 : 9;
        if (db < want)
            printf("  lc3 of %zu bytes: %.1f dB\n", sizes[s], db);
        CU_ASSERT(db >= want);
        decoder_free(&d);
        packets_free(&p);
        pcm_free(&out);
    }
}

static void test_lc3_lengths(void)
{
    unsigned char junk[2000] = {0};
    struct pcm out = {0};
    struct packets p = {0};
    struct decoder *one = make(CODEC_LC3), *fs = make(CODEC_LC3_FS1030);
    voice(in, N, RATE);
    for (size_t len = 0; len <= sizeof junk; len++) {
        struct decoder_drops drops = feed(one, junk, len, &out);
        bool legal = len >= LC3_MIN_FRAME_BYTES && len <= LC3_MAX_FRAME_BYTES;
        CU_ASSERT(legal || (drops.malformed == 1 && out.n == 0));
        CU_ASSERT_EQUAL(out.n + 160 * drops.malformed, 160);
        out.n = 0;
        drops = feed(fs, junk, len, &out);
        CU_ASSERT_EQUAL(out.n + 160 * drops.malformed, len > 0 && len % 30 == 0 ? 160 * (len / 30) : 160);
        out.n = 0;
    }
    /* Ten frames in one packet, one after the other, a damaged one among them, and too many. */
    unsigned char many[30 * 600];
    lc3_make(&p, in, N, 30);
    for (size_t i = 0; i < p.n; i++)
        memcpy(many + 30 * i, p.data[i], 30);
    for (size_t i = p.n; i < 600; i++)
        memcpy(many + 30 * i, p.data[i % p.n], 30);
    for (size_t at = 0; at < p.n; at += 10)
        CU_ASSERT_EQUAL(total(feed(fs, many + 30 * at, 300, &out)), 0);
    CU_ASSERT(out.n == N && snr(in, N, out.data, out.n, 400) >= 9);
    out.n = 0;
    memset(many + 60, 0xff, 30);
    struct decoder_drops drops = feed(fs, many, 300, &out);
    CU_ASSERT(drops.malformed == 1 && out.n == 9 * 160);
    out.n = 0;
    drops = feed(fs, many, 30 * 501, &out); /* with the damaged one it just fits */
    CU_ASSERT(drops.malformed == 1 && drops.too_long == 0 && out.n == (size_t)CODEC_MAX_SECONDS * RATE);
    out.n = 0;
    drops = feed(fs, many, 30 * 600, &out);
    CU_ASSERT(drops.too_long == 1 && out.n == (size_t)CODEC_MAX_SECONDS * RATE);
    packets_free(&p);
    decoder_free(&one);
    decoder_free(&fs);
    pcm_free(&out);
}

/* ---------------------------------------------------------------------------- aac */

static void test_aac(void)
{
    static const struct {
        unsigned rate, out;
        int channels;
    } cases[] = {{16000, 16000, 1}, {16000, 16000, 2}, {44100, 16000, 2}, {48000, 16000, 1},
                 {8000, 16000, 1},  {44100, 44100, 1}, {16000, 8000, 1},  {48000, 16000, 6}};
    static int16_t want[(size_t)48000 * SECONDS];
    for (size_t c = 0; c < ARRAY_LEN(cases); c++) {
        struct packets p = {0};
        struct pcm out = {0};
        size_t n = (size_t)cases[c].out * SECONDS;
        voice(in, (size_t)cases[c].rate * SECONDS, cases[c].rate);
        voice(want, n, cases[c].out);
        struct decoder *d = make_with(CODEC_AAC, 16000, cases[c].out, false);
        aac_make(&p, in, (size_t)cases[c].rate * SECONDS, cases[c].rate, cases[c].channels);
        decode_all(d, &p, &out);
        CU_ASSERT(out.n > n * 85 / 100 && out.n <= n);
        double db = snr(want, n, out.data, out.n, 2100);
        if (db < 9)
            printf("  aac %u Hz, %d channels, to %u Hz: %.1f dB\n", cases[c].rate, cases[c].channels, cases[c].out, db);
        CU_ASSERT(db >= 9);
        decoder_free(&d);
        packets_free(&p);
        pcm_free(&out);
    }
    CU_ASSERT_EQUAL(budget_used(), 0);
}

/* However the stream is cut into messages, the same comes out. */
static void test_aac_splits(void)
{
    struct packets p = {0};
    struct pcm whole = {0}, split = {0};
    static unsigned char stream[65536];
    size_t len = 0;
    voice(in, N, RATE);
    aac_make(&p, in, 12 * 1024, RATE, 1);
    for (size_t i = 0; i < p.n; i++) {
        memcpy(stream + len, p.data[i], p.len[i]);
        len += p.len[i];
    }
    struct decoder *d = make(CODEC_AAC);
    CU_ASSERT_EQUAL(total(feed(d, stream, len, &whole)), 0);
    decoder_free(&d);
    CU_ASSERT_EQUAL(whole.n, p.n * 1024);
    for (size_t cut = 1; cut < len; cut++) {
        d = make(CODEC_AAC);
        split.n = 0;
        unsigned dropped = total(feed(d, stream, cut, &split)) + total(feed(d, stream + cut, len - cut, &split));
        if (dropped || split.n != whole.n || memcmp(split.data, whole.data, whole.n * 2) != 0) {
            CU_FAIL("cut");
            printf("  cut at %zu: %u dropped, %zu samples\n", cut, dropped, split.n);
        }
        decoder_free(&d);
    }
    d = make(CODEC_AAC);
    split.n = 0;
    for (size_t at = 0; at < len; at++)
        CU_ASSERT_EQUAL(total(feed(d, stream + at, 1, &split)), 0);
    CU_ASSERT(split.n == whole.n && memcmp(split.data, whole.data, whole.n * 2) == 0);
    decoder_free(&d);
    packets_free(&p);
    pcm_free(&whole);
    pcm_free(&split);
}

/* Rubbish between frames, a stream joined in mid-frame, and one that changes what it is. */
static void test_aac_goes_on(void)
{
    struct packets p = {0}, other = {0};
    struct pcm out = {0};
    unsigned char junk[3000];
    voice(in, N, RATE);
    aac_make(&p, in, N, RATE, 1);
    aac_make(&other, in, N, 44100, 2);
    for (size_t i = 0; i < sizeof junk; i++)
        junk[i] = (unsigned char)(rnd() & 0x7f); /* no sync in it */
    struct decoder *d = make(CODEC_AAC);
    feed(d, p.data[0] + 100, p.len[0] - 100, &out);
    CU_ASSERT_EQUAL(out.n, 0);
    for (size_t i = 1; i < 20; i++) {
        feed(d, p.data[i], p.len[i], &out);
        if (i % 5 == 0)
            feed(d, junk, 1 + rnd() % (sizeof junk - 1), &out);
    }
    CU_ASSERT_EQUAL(out.n, 19 * 1024);
    out.n = 0;
    decode_all(d, &other, &out); /* 23 ms a frame */
    size_t n = other.n * 1024 * 16000 / 44100;
    CU_ASSERT(out.n + 50 > n && out.n < n + 50);
    out.n = 0;
    decode_all(d, &p, &out);
    CU_ASSERT_EQUAL(out.n, p.n * 1024);
    /* To and fro at each frame: not worth a filter each. */
    out.n = 0;
    unsigned dropped = 0;
    for (size_t i = 0; i < 20; i++)
        dropped += total(feed(d, i % 2 ? p.data[i] : other.data[i], i % 2 ? p.len[i] : other.len[i], &out));
    CU_ASSERT(dropped >= 5 && out.n > 0);
    decoder_free(&d);
    packets_free(&p);
    packets_free(&other);
    pcm_free(&out);
}

/* What never holds a frame is not kept, and what holds too many is cut. */
static void test_aac_bounds(void)
{
    struct packets p = {0};
    struct pcm out = {0};
    static unsigned char zeros[1 << 20];
    struct decoder *d = make(CODEC_AAC);
    for (int i = 0; i < 20; i++) {
        struct decoder_drops drops = feed(d, zeros, sizeof zeros, &out);
        CU_ASSERT(drops.malformed >= sizeof zeros / 32768 && drops.malformed <= 1 + sizeof zeros / 16384);
    }
    CU_ASSERT_EQUAL(out.n, 0);
    voice(in, N, RATE);
    aac_make(&p, in, N, RATE, 1);
    size_t len = 0;
    while (len + p.len[len % p.n] < sizeof zeros) {
        size_t i = len % p.n;
        memcpy(zeros + len, p.data[i], p.len[i]);
        len += p.len[i];
    }
    struct decoder_drops drops = feed(d, zeros, len, &out);
    CU_ASSERT(drops.too_long == 1);
    CU_ASSERT(out.n >= (size_t)CODEC_MAX_SECONDS * RATE && out.n < (size_t)CODEC_MAX_SECONDS * RATE + 4096);
    /* A channel layout of the stream's own. */
    out.n = 0;
    p.data[5][2] &= (unsigned char)~1;
    p.data[5][3] &= 0x3f;
    CU_ASSERT(feed(d, p.data[5], p.len[5], &out).malformed == 1 && out.n == 0);
    CU_ASSERT(total(feed(d, p.data[6], p.len[6], &out)) == 0 && out.n == 1024);
    decoder_free(&d);
    packets_free(&p);
    pcm_free(&out);
    CU_ASSERT_EQUAL(budget_used(), 0);
}

/* A large message of nothing but damaged frames is given up before long. */
static void test_rubbish(void)
{
    static unsigned char rubbish[1 << 20];
    struct pcm out = {0};
    struct decoder *d = make(CODEC_LC3_FS1030);
    memset(rubbish, 0xff, sizeof rubbish);
    CU_ASSERT_EQUAL(feed(d, rubbish, 30 * 30000, &out).malformed, CODEC_MAX_DAMAGED);
    decoder_free(&d);
    static const unsigned char frame[] = {0xff, 0xf1, 0x60, 0x40, 0x01, 0x3f, 0xfc, 0xff, 0xff}; /* nine bytes, mono */
    for (size_t i = 0; i < sizeof rubbish; i++)
        rubbish[i] = frame[i % sizeof frame];
    d = make(CODEC_AAC);
    for (int i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(feed(d, rubbish, sizeof rubbish, &out).malformed, CODEC_MAX_DAMAGED);
    struct packets p = {0};
    out.n = 0;
    voice(in, N, RATE);
    aac_make(&p, in, N, RATE, 1);
    for (size_t i = 0; i < 5; i++)
        feed(d, p.data[i], p.len[i], &out);
    CU_ASSERT(out.n >= 3 * 1024); /* and what comes after it is decoded */
    decoder_free(&d);
    packets_free(&p);
    pcm_free(&out);
}

/* --------------------------------------------------------------------- hostile packets */

static void random_packets(enum listen_codec codec)
{
    static unsigned char junk[2000];
    struct pcm out = {0};
    struct decoder *d = make(codec);
    for (int round = 0; round < 3; round++) {
        for (size_t len = 0; len <= sizeof junk; len++) {
            for (size_t i = 0; i < len; i++)
                junk[i] = (unsigned char)rnd();
            if (codec == CODEC_AAC && len > 7 && round > 0) { /* as if it were a frame */
                junk[0] = 0xff;
                junk[1] = 0xf1;
                junk[2] = (unsigned char)((junk[2] & 0xfc) | 0x40);
                junk[3] = (unsigned char)((junk[3] & 0xc0) | len >> 11);
                junk[4] = (unsigned char)(len >> 3);
                junk[5] = (unsigned char)((len & 7) << 5 | 0x1f);
            }
            out.n = 0;
            feed(d, junk, len, &out);
            CU_ASSERT(out.n <= (size_t)CODEC_MAX_SECONDS * RATE + 32768);
        }
    }
    decoder_free(&d);
    pcm_free(&out);
}

static void test_random(void)
{
    for (int c = CODEC_PCM8; c < CODEC_UNKNOWN; c++)
        random_packets((enum listen_codec)c);
    CU_ASSERT_EQUAL(budget_used(), 0);
}

/* Each packet cut at every length and with bits turned; then a whole one still decodes. */
static void damaged_packets(enum listen_codec codec, const struct packets *p)
{
    struct pcm out = {0};
    unsigned char copy[8192];
    struct decoder *d = make(codec);
    for (size_t i = 0; i < 8 && i < p->n; i++) {
        for (size_t len = 0; len < p->len[i]; len++)
            feed(d, p->data[i], len, &out);
        for (size_t bit = 0; bit < p->len[i] * 8; bit++) {
            memcpy(copy, p->data[i], p->len[i]);
            copy[bit / 8] ^= (unsigned char)(1 << bit % 8);
            if (rnd() % 4 == 0)
                copy[rnd() % p->len[i]] ^= (unsigned char)rnd();
            out.n = 0;
            feed(d, copy, p->len[i], &out);
        }
    }
    /* A damaged ADTS length may swallow what comes after it. */
    for (size_t i = 0; i < p->n; i++) {
        out.n = 0;
        feed(d, p->data[i], p->len[i], &out);
    }
    CU_ASSERT(out.n > 0);
    decoder_free(&d);
    pcm_free(&out);
}

static void test_damaged(void)
{
    struct packets p = {0};
    voice(in, N, RATE);
    opus_make(&p, in, N, 160, 1);
    damaged_packets(CODEC_OPUS, &p);
    packets_free(&p);
    opus_make(&p, in, N, 320, 1);
    damaged_packets(CODEC_OPUS_FS320, &p);
    packets_free(&p);
    lc3_make(&p, in, N, 40);
    damaged_packets(CODEC_LC3, &p);
    packets_free(&p);
    lc3_make(&p, in, N, 30);
    damaged_packets(CODEC_LC3_FS1030, &p);
    packets_free(&p);
    aac_make(&p, in, N, RATE, 1);
    damaged_packets(CODEC_AAC, &p);
    packets_free(&p);
    aac_make(&p, in, N, RATE, 2);
    damaged_packets(CODEC_AAC, &p);
    packets_free(&p);
    CU_ASSERT_EQUAL(budget_used(), 0);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"names", test_names},
        {"pcm", test_pcm},
        {"pcm resampled", test_pcm_resampled},
        {"opus", test_opus},
        {"opus stereo", test_opus_stereo},
        {"lc3", test_lc3},
        {"lc3 lengths", test_lc3_lengths},
        {"aac", test_aac},
        {"aac splits", test_aac_splits},
        {"aac goes on", test_aac_goes_on},
        {"aac bounds", test_aac_bounds},
        {"rubbish", test_rubbish},
        {"random", test_random},
        {"damaged", test_damaged},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"codec", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
