/* Uploaded recordings: all formats that are taken, and the many ways to be none. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/wav.h"
#include "session/profile_wav.h"
#include "unit.h"

#define MAX ((size_t)1 << 25)

static unsigned char *file;
static size_t len;

static void put(uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        file[len++] = (unsigned char)(v >> (8 * i));
}

static void head(unsigned format, unsigned channels, unsigned rate, unsigned bits, uint32_t data)
{
    len = 0;
    memcpy(file, "RIFF", 4);
    len = 4;
    put(data + 36, 4);
    memcpy(file + 8, "WAVEfmt ", 8);
    len = 16;
    put(16, 4);
    put(format, 2);
    put(channels, 2);
    put(rate, 4);
    put((uint64_t)rate * channels * bits / 8, 4);
    put(channels * bits / 8, 2);
    put(bits, 2);
    memcpy(file + len, "data", 4);
    len += 4;
    put(data, 4);
}

/* A tone of 400 Hz in every channel. */
static void tone(unsigned format, unsigned channels, unsigned rate, unsigned bits, double seconds, double level)
{
    size_t frames = (size_t)(seconds * rate);
    head(format, channels, rate, bits, (uint32_t)(frames * channels * bits / 8));
    for (size_t i = 0; i < frames; i++) {
        double v = level * sin(2 * 3.14159265358979 * 400 * (double)i / rate);
        v = v > 1 ? 1 : v < -1 ? -1 : v;
        for (unsigned c = 0; c < channels; c++) {
            float f = (float)v;
            uint32_t b32;
            uint64_t b64;
            memcpy(&b32, &f, 4);
            memcpy(&b64, &v, 8);
            if (format == 3)
                put(bits == 32 ? b32 : b64, bits / 8);
            else if (bits == 8)
                put((uint64_t)(128 + lrint(v * 127)), 1);
            else
                put((uint64_t)(int64_t)llrint(v * (pow(2, bits - 1) - 1)), bits / 8);
        }
    }
}

static const char *verdict(struct pcm *out)
{
    static char err[256];
    static const struct profile_limits limits = {.min_ms = 500, .max_ms = 3000};
    struct pcm mine = {0};
    struct pcm *pcm = out ? out : &mine;
    unsigned char *exact = malloc(len > 0 ? len : 1); /* so that a read behind it is seen */
    memcpy(exact, file, len);
    err[0] = '\0';
    bool ok = profile_wav(exact, len, &limits, pcm, err, sizeof(err));
    CU_ASSERT_EQUAL(ok, err[0] == '\0');
    free(exact);
    if (!out)
        pcm_free(&mine);
    return err;
}

static void test_formats(void)
{
    static const struct {
        unsigned format, channels, rate, bits;
    } good[] = {{1, 1, 16000, 16}, {1, 2, 44100, 16}, {1, 1, 8000, 8},   {1, 1, 192000, 24}, {1, 2, 48000, 32},
                {3, 1, 16000, 32}, {3, 2, 96000, 64}, {1, 1, 11025, 16}, {3, 1, 192000, 32}};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct pcm out = {0};
        tone(good[i].format, good[i].channels, good[i].rate, good[i].bits, 1.5, 0.5);
        CU_ASSERT_STRING_EQUAL(verdict(&out), "");
        CU_ASSERT(out.n > 23900 && out.n < 24100);
        unsigned crossings = 0;
        int peak = 0;
        for (size_t k = 8001; k < 16000 && k < out.n; k++) { /* half a second of 400 Hz */
            crossings += (out.data[k - 1] < 0) != (out.data[k] < 0);
            peak = out.data[k] > peak ? out.data[k] : peak;
        }
        CU_ASSERT(crossings >= 398 && crossings <= 402);
        CU_ASSERT(peak > 16000 && peak < 16800);
        pcm_free(&out);
    }
}

static void is(const char *why)
{
    const char *said = verdict(NULL);
    if (strcmp(said, why) != 0)
        fprintf(stderr, "%s, not %s\n", said, why);
    CU_ASSERT_STRING_EQUAL(said, why);
}

static void test_lengths(void)
{
    tone(1, 1, 16000, 16, 0, 0.5);
    is("file: it holds no audio");
    head(1, 1, 16000, 16, 2);
    put(1000, 2);
    is("file: 0.0 s of audio, at least 0.5 s is expected");
    tone(1, 1, 16000, 16, 0.4, 0.5);
    is("file: 0.4 s of audio, at least 0.5 s is expected");
    tone(1, 1, 16000, 16, 3.1, 0.5);
    is("file: 3.1 s of audio, at most 3 s is expected");
    tone(1, 1, 16000, 16, 1, 0.5);
    len -= 1000;
    is("file: its header promises 32000 bytes of audio, and there are 31000");
    tone(1, 1, 16000, 16, 1, 0.5);
    file[40] = 0xff; /* 32000 -> 32255 */
    is("file: its header promises 32255 bytes of audio, and there are 32000");
    tone(1, 1, 16000, 16, 2, 0.5);
    file[41] = 0x40; /* 64000 -> 16384 */
    is("file: its header promises 16384 bytes of audio, and there are 64000");
    tone(1, 1, 16000, 16, 1, 0.5);
    memset(file + 40, 0xff, 4); /* a recorder that could not seek back */
    is("");
    tone(1, 1, 16000, 16, 1, 0.5);
    memcpy(file + len, "LIST\x04\0\0\0INFO", 12); /* another chunk behind it */
    len += 12;
    is("");
}

static void test_bad(void)
{
    static const char nonsense[] = "<html>";
    memcpy(file, nonsense, sizeof(nonsense));
    len = sizeof(nonsense);
    is("file: not a RIFF file");
    len = 0;
    is("file: not a RIFF file");
    tone(1, 3, 16000, 16, 1, 0.5);
    is("file: 3 channels, 1 or 2 are expected");
    tone(1, 1, 4000, 16, 1, 0.5);
    is("file: a sample rate of 4000 Hz, 8000 to 192000 is expected");
    tone(1, 1, 384000, 16, 1, 0.5);
    is("file: a sample rate of 384000 Hz, 8000 to 192000 is expected");
    tone(85, 1, 16000, 16, 1, 0.5);
    is("file: format 85 is not PCM");
    tone(1, 1, 16000, 16, 1, 0.001);
    is("file: it is silent, its loudest sample is at 0.10 % of full scale");
    tone(1, 1, 16000, 16, 1, 0);
    is("file: it is silent, its loudest sample is at 0.00 % of full scale");
    tone(1, 1, 16000, 16, 1, 20);
    is("file: it is clipped, 95 % of the samples are at full scale");
    tone(3, 1, 16000, 32, 1, 0.5);
    float nan_ = NAN, inf = INFINITY;
    memcpy(file + 44 + 4 * 1000, &nan_, 4);
    is("file: sample 1000 is not a number");
    tone(3, 1, 16000, 32, 1, 0.5);
    memcpy(file + 44 + 4 * 7, &inf, 4);
    is("file: sample 7 is not a number");
    /* Cut anywhere it is refused, and nothing behind it is read. */
    tone(1, 2, 8000, 16, 0.6, 0.5);
    size_t whole = len;
    for (len = 0; len < whole; len += len < 64 ? 1 : 997)
        CU_ASSERT_STRING_NOT_EQUAL(verdict(NULL), "");
}

int main(void)
{
    file = malloc(MAX);
    CU_TestInfo tests[] = {
        {"formats", test_formats},
        {"lengths", test_lengths},
        {"what is none", test_bad},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"profile_wav", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    int rc = unit_run(suites);
    free(file);
    return rc;
}
