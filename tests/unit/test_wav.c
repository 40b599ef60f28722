/* WAV files: what is found in good ones, of every form; what is said of bad ones; what is written. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "formats/wav.h"
#include "unit.h"

static void test_wav_roundtrip(void)
{
    unsigned char file[WAV_HEADER_LEN + 8] = {0};
    struct wav w;
    char err[128];
    wav_header(file, 2, 16000, 8);
    CU_ASSERT(wav_parse(&w, file, sizeof file, err, sizeof err));
    CU_ASSERT(w.channels == 2 && w.sample_rate == 16000 && w.bits == 16 && !w.is_float && !w.truncated);
    CU_ASSERT_PTR_EQUAL(w.data, file + WAV_HEADER_LEN);
    CU_ASSERT_EQUAL(w.len, 8);
    /* cut off: whole frames only, and it says so */
    CU_ASSERT(wav_parse(&w, file, sizeof file - 3, err, sizeof err));
    CU_ASSERT(w.truncated && w.len == 4);
    /* recorders that could not seek back */
    memset(file + 40, 0xff, 4);
    CU_ASSERT(wav_parse(&w, file, sizeof file, err, sizeof err));
    CU_ASSERT_EQUAL(w.len, 8);
    memset(file + 40, 0, 4);
    memset(file + 4, 0, 4);
    CU_ASSERT(wav_parse(&w, file, sizeof file, err, sizeof err));
    CU_ASSERT_EQUAL(w.len, 8);
    /* an honest empty file with a chunk behind */
    memcpy(file + 44, "LIST\0\0\0\0", 8);
    file[4] = 44;
    CU_ASSERT(wav_parse(&w, file, sizeof file, err, sizeof err));
    CU_ASSERT_EQUAL(w.len, 0);
}

static void test_wav_chunks(void)
{
    struct buf b = BUF_INIT(0);
    unsigned char head[WAV_HEADER_LEN];
    struct wav w;
    char err[128];
    wav_header(head, 1, 8000, 4);
    buf_append(&b, head, 12);
    buf_append(&b, "junk\x03\0\0\0abc\0", 12); /* odd, padded */
    buf_append(&b, head + 12, 32);
    buf_append(&b, "\1\2\3\4", 4);
    CU_ASSERT(wav_parse(&w, b.data, b.len, err, sizeof err));
    CU_ASSERT(w.len == 4 && w.sample_rate == 8000 && w.data[0] == 1);
    /* Every cut: no crash, and audio only once both chunks are there. */
    for (size_t n = 0; n < b.len; n++) {
        unsigned char *exact = malloc(n ? n : 1);
        memcpy(exact, b.data, n);
        bool ok = wav_parse(&w, exact, n, err, sizeof err);
        CU_ASSERT_EQUAL(ok, n >= b.len - 4);
        CU_ASSERT(ok || strlen(err) > 4);
        free(exact);
    }
    buf_free(&b);
}

static void wav_patch(size_t at, unsigned value, size_t bytes, const char *reason)
{
    unsigned char file[WAV_HEADER_LEN + 4] = {0};
    struct wav w;
    char err[128] = "";
    wav_header(file, 1, 16000, 4);
    for (size_t i = 0; i < bytes; i++)
        file[at + i] = (unsigned char)(value >> (8 * i));
    CU_ASSERT(!wav_parse(&w, file, sizeof file, err, sizeof err));
    CU_ASSERT_PTR_NOT_NULL(strstr(err, reason));
}

static void test_wav_bad(void)
{
    wav_patch(0, 'X', 1, "not a RIFF file");
    wav_patch(8, 'X', 1, "not WAVE");
    wav_patch(12, 'X', 1, "before the fmt");
    wav_patch(16, 4, 4, "fmt chunk of 4 bytes");
    wav_patch(16, 0xfffffff0, 4, "no data chunk");
    wav_patch(20, 85, 2, "format 85 is not PCM");
    wav_patch(22, 0, 2, "0 channels");
    wav_patch(22, 65535, 2, "65535 channels");
    wav_patch(24, 0, 4, "sample rate 0");
    wav_patch(32, 7, 2, "frames of 7 bytes");
    wav_patch(34, 12, 2, "12 bits");
    wav_patch(36, 'X', 1, "no data chunk");
}

static void put_le(unsigned char *p, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (unsigned char)(v >> (8 * i));
}

/* A WAV with one frame of these bytes. */
static size_t wav_of(unsigned char *out, unsigned format, unsigned channels, unsigned bits, const void *frame,
                     size_t len)
{
    memcpy(out, "RIFF....WAVEfmt ", 16);
    put_le(out + 4, 36 + len, 4);
    put_le(out + 16, 16, 4);
    put_le(out + 20, format, 2);
    put_le(out + 22, channels, 2);
    put_le(out + 24, 44100, 4);
    put_le(out + 28, 44100u * channels * bits / 8, 4);
    put_le(out + 32, channels * bits / 8, 2);
    put_le(out + 34, bits, 2);
    memcpy(out + 36, "data", 4);
    put_le(out + 40, len, 4);
    memcpy(out + 44, frame, len);
    return 44 + len;
}

static void test_wav_forms(void)
{
    const float f32[] = {0.5F, -1.F, NAN, 7.F};
    const double f64[] = {-0.25};
    const struct {
        unsigned format, channels, bits;
        const void *frame;
        size_t len;
        int16_t expected;
    } forms[] = {
        {1, 1, 16, "\x34\x12", 2, 0x1234},
        {1, 2, 16, "\x00\x10\x00\x20", 4, 0x1800},
        {1, 1, 8, "\x80", 1, 0},
        {1, 1, 8, "\x00", 1, -32768},
        {1, 1, 24, "\xff\x34\x12", 3, 0x1235},
        {1, 1, 24, "\x00\x00\x80", 3, -32768},
        {1, 1, 32, "\x00\x00\x34\x12", 4, 0x1234},
        {3, 1, 32, &f32[0], 4, 16384},
        {3, 2, 32, &f32[0], 8, -8192},
        {3, 1, 32, &f32[2], 4, 0},
        {3, 1, 32, &f32[3], 4, 32767},
        {3, 1, 64, &f64[0], 8, -8192},
    };
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        unsigned char file[128];
        size_t len = wav_of(file, forms[i].format, forms[i].channels, forms[i].bits, forms[i].frame, forms[i].len);
        struct wav w;
        char err[128] = "";
        int16_t v = 99;
        CU_ASSERT_TRUE_FATAL(wav_parse(&w, file, len, err, sizeof(err)));
        CU_ASSERT_EQUAL(w.frames, 1);
        CU_ASSERT_EQUAL(w.sample_rate, 44100);
        CU_ASSERT_FALSE(w.truncated);
        wav_mono(&w, 0, 1, &v);
        if (v != forms[i].expected)
            fprintf(stderr, "form %zu: %d, expected %d\n", i, v, forms[i].expected);
        CU_ASSERT_EQUAL(v, forms[i].expected);
        /* Cut anywhere: fewer frames or a fault, nothing read beyond the end. */
        for (size_t cut = 0; cut < len; cut++) {
            unsigned char *piece = malloc(cut + 1);
            memcpy(piece, file, cut);
            char why[128] = "";
            if (wav_parse(&w, piece, cut, why, sizeof(why)))
                CU_ASSERT_TRUE(w.frames == 0 && w.truncated)
            else
                CU_ASSERT_NOT_EQUAL(why[0], '\0');
            free(piece);
        }
    }
}

static void wav_refused(unsigned format, unsigned channels, unsigned bits, const char *why)
{
    unsigned char file[128];
    struct wav w;
    char err[128] = "";
    size_t len = wav_of(file, format, channels, bits, "1234567890123456", 16);
    CU_ASSERT_FALSE(wav_parse(&w, file, len, err, sizeof(err)));
    CU_ASSERT_STRING_EQUAL(err, why);
}

static void test_wav_lies(void)
{
    unsigned char file[128];
    struct wav w;
    char err[128] = "";
    wav_refused(85, 1, 16, "format 85 is not PCM");
    wav_refused(1, 0, 16, "0 channels");
    wav_refused(1, 1, 12, "12 bits a sample");
    wav_refused(3, 1, 16, "16 bits a sample");
    size_t len = wav_of(file, 1, 1, 16, "abcdefg", 7);
    CU_ASSERT_TRUE(wav_parse(&w, file, len, err, sizeof(err)) && w.frames == 3 && !w.truncated);
    put_le(file + 40, 1000000, 4);
    CU_ASSERT_TRUE(wav_parse(&w, file, len, err, sizeof(err)) && w.frames == 3 && w.truncated);
    put_le(file + 40, UINT32_MAX, 4);
    CU_ASSERT_TRUE(wav_parse(&w, file, len, err, sizeof(err)) && w.frames == 3 && !w.truncated);
    put_le(file + 40, 0, 4);
    put_le(file + 4, 0, 4);
    CU_ASSERT_TRUE(wav_parse(&w, file, len, err, sizeof(err)) && w.frames == 3 && !w.truncated);
    put_le(file + 4, 43, 4); /* other chunks follow: it means what it says */
    CU_ASSERT_TRUE(wav_parse(&w, file, len, err, sizeof(err)) && w.frames == 0 && !w.truncated);
    put_le(file + 34, 8, 2);
    CU_ASSERT_FALSE(wav_parse(&w, file, len, err, sizeof(err)));
    CU_ASSERT_STRING_EQUAL(err, "frames of 2 bytes for 1 channels of 8 bits");
}

static void test_wav_write(void)
{
    int16_t pcm[1000], back[1000];
    unsigned char file[2044];
    struct wav w;
    char err[128] = "";
    for (int i = 0; i < 1000; i++)
        pcm[i] = (int16_t)(i * 65 - 32768);
    CU_ASSERT_EQUAL_FATAL(wav_size(1000), sizeof(file));
    wav_write(file, pcm, 1000, 16000);
    CU_ASSERT_TRUE_FATAL(wav_parse(&w, file, sizeof(file), err, sizeof(err)));
    CU_ASSERT_TRUE(w.frames == 1000 && w.sample_rate == 16000 && w.channels == 1 && w.bits == 16 && !w.is_float);
    wav_mono(&w, 0, 1000, back);
    CU_ASSERT_EQUAL(memcmp(pcm, back, sizeof(pcm)), 0);
}

int main(void)
{
    CU_TestInfo tests[] = {{"round trip", test_wav_roundtrip},
                           {"chunks", test_wav_chunks},
                           {"bad", test_wav_bad},
                           {"forms", test_wav_forms},
                           {"lies", test_wav_lies},
                           {"written", test_wav_write},
                           CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"WAV", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
