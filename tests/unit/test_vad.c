/* The local voice activity on a real recording (Debian: pocketsphinx-testdata) with silence around it and with noise
 * over it. Skipped, with exit status 77, where the recording is not installed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mock_host.h"
#include "unit.h"

extern const struct omid_plugin omid_plugin;

#define GOFORWARD "/usr/share/pocketsphinx/test/data/goforward.raw"
#define RATE 16000
#define PAD (2 * RATE) /* silence before and after */
#define SPEECH 0.65F   /* the gate's threshold */

static int16_t *speech; /* at RATE */
static size_t n_speech;
static size_t spoken_from, spoken_to; /* where the recording is loud */

struct rig {
    struct mock *m;
    struct omid_instance *inst;
    void *engine;
};

static struct rig rig_up(const char *mode, uint32_t rate)
{
    struct rig r = {.m = mock_new(&omid_plugin)};
    if (mode)
        mock_conf(r.m, "mode", mode);
    CU_ASSERT_FATAL(mock_configure(r.m) == OMID_OK);
    r.inst = mock_start(r.m);
    CU_ASSERT_FATAL(r.inst != NULL);
    CU_ASSERT_EQUAL_FATAL(omid_plugin.vad->open(mock_state(r.inst), rate, &r.engine), OMID_OK);
    return r;
}

static void rig_down(struct rig *r)
{
    omid_plugin.vad->close(r->engine);
    mock_stop(r->inst);
    mock_free(&r->m);
}

static float window(struct rig *r, const int16_t *pcm, size_t n)
{
    float p = -1;
    CU_ASSERT_EQUAL(omid_plugin.vad->window(r->engine, pcm, n, &p), OMID_OK);
    CU_ASSERT(p >= 0 && p <= 1);
    return p;
}

static bool recording_read(void)
{
    FILE *f = fopen(GOFORWARD, "rb");
    if (!f)
        return false;
    fseek(f, 0, SEEK_END);
    n_speech = (size_t)ftell(f) / 2;
    rewind(f);
    speech = calloc(n_speech, 2);
    bool ok = fread(speech, 2, n_speech, f) == n_speech;
    fclose(f);
    spoken_from = n_speech;
    for (size_t i = 0; i < n_speech; i++) {
        if (abs(speech[i]) < 2000)
            continue;
        spoken_from = i < spoken_from ? i : spoken_from;
        spoken_to = i;
    }
    return ok && spoken_to > spoken_from;
}

static uint32_t lcg = 1;
static double noise(void)
{
    lcg = lcg * 1664525u + 1013904223u;
    return (double)(lcg >> 8) / (1 << 24) * 2 - 1;
}

/* Silence, the recording, silence, with white noise over all of it; snr_db 0: none. At `rate`, by linear interpolation.
 */
static int16_t *scene(uint32_t rate, double snr_db, size_t *n)
{
    double power = 0;
    for (size_t i = spoken_from; i < spoken_to; i++)
        power += (double)speech[i] * speech[i];
    power /= (double)(spoken_to - spoken_from);
    double level = snr_db > 0 ? sqrt(3 * power / pow(10, snr_db / 10)) : 0; /* uniform: variance level^2/3 */
    size_t total = n_speech + 2 * (size_t)PAD;
    *n = (size_t)((double)total * rate / RATE);
    int16_t *out = calloc(*n, sizeof(*out));
    for (size_t i = 0; i < *n; i++) {
        double at = (double)i * RATE / rate - PAD, s = 0;
        if (at >= 0 && at + 1 < (double)n_speech) {
            size_t k = (size_t)at;
            s = speech[k] + (at - (double)k) * (speech[k + 1] - speech[k]);
        }
        s += noise() * level;
        out[i] = (int16_t)(s > 32767 ? 32767 : s < -32768 ? -32768 : s);
    }
    return out;
}

/* Shares of the chunks of `ms` that are called speech, where there is speech and where there is none. */
static void listen(struct rig *r, uint32_t rate, double snr_db, unsigned ms, double *in, double *out)
{
    size_t n, chunk = (size_t)rate * ms / 1000;
    int16_t *pcm = scene(rate, snr_db, &n);
    unsigned in_n = 0, in_yes = 0, out_n = 0, out_yes = 0;
    for (size_t at = 0; at + chunk <= n; at += chunk) {
        bool yes = window(r, pcm + at, chunk) > SPEECH;
        double ends = (double)(at + chunk) * RATE / rate - PAD; /* in the recording's samples */
        if (ends > (double)spoken_from + RATE / 10.0 && ends < (double)spoken_to) {
            in_n++;
            in_yes += yes;
        } else if (ends < (double)spoken_from - RATE / 2.0 || ends > (double)spoken_to + RATE) {
            out_n++;
            out_yes += yes;
        }
    }
    free(pcm);
    *in = (double)in_yes / in_n;
    *out = (double)out_yes / out_n;
}

static void test_speech_in_silence(void)
{
    static const unsigned chunks[] = {10, 20, 30, 100};
    for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
        struct rig r = rig_up(NULL, RATE);
        double in, out;
        listen(&r, RATE, 0, chunks[i], &in, &out);
        CU_ASSERT(in > 0.75);
        CU_ASSERT(out < 0.02);
        rig_down(&r);
    }
}

static void test_rates(void)
{
    static const uint32_t rates[] = {8000, 11025, 12000, 22050, 24000, 32000, 44100, 48000};
    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
        struct rig r = rig_up(NULL, rates[i]);
        double in, out;
        listen(&r, rates[i], 0, 100, &in, &out);
        CU_ASSERT(in > 0.75);
        CU_ASSERT(out < 0.02);
        rig_down(&r);
    }
    struct rig r = rig_up(NULL, RATE);
    void *engine = NULL;
    CU_ASSERT_EQUAL(omid_plugin.vad->open(mock_state(r.inst), 7999, &engine), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(omid_plugin.vad->open(mock_state(r.inst), 48001, &engine), OMID_ENOTSUP);
    rig_down(&r);
}

static void test_noise(void)
{
    static const double snr[] = {20, 10};
    for (size_t i = 0; i < sizeof(snr) / sizeof(snr[0]); i++) {
        struct rig r = rig_up(NULL, RATE);
        double in, out;
        listen(&r, RATE, snr[i], 100, &in, &out);
        CU_ASSERT(in > 0.7);
        CU_ASSERT(out < 0.2);
        rig_down(&r);
    }
}

/* The higher the mode, the less is called speech. */
static void test_modes(void)
{
    double former = 2;
    for (int mode = 0; mode <= 3; mode++) {
        char s[2] = {(char)('0' + mode), 0};
        struct rig r = rig_up(s, RATE);
        double in, out;
        listen(&r, RATE, 15, 100, &in, &out);
        CU_ASSERT(in + out <= former);
        former = in + out;
        rig_down(&r);
    }
}

/* How the audio is cut does not matter: after the same samples the answer is the same. */
static void test_cuts(void)
{
    size_t n;
    int16_t *pcm = scene(RATE, 0, &n);
    struct rig whole = rig_up(NULL, RATE), cut = whole;
    CU_ASSERT_EQUAL_FATAL(omid_plugin.vad->open(mock_state(cut.inst), RATE, &cut.engine), OMID_OK);
    for (size_t at = 0; at + 1600 <= n; at += 1600) {
        float a = window(&whole, pcm + at, 1600), b = 0;
        for (size_t done = 0; done < 1600;) {
            size_t k = 1 + (size_t)((noise() + 1) * 250);
            k = k < 1600 - done ? k : 1600 - done;
            b = window(&cut, pcm + at + done, k);
            done += k;
        }
        CU_ASSERT_DOUBLE_EQUAL(a, b, 1e-6);
    }
    CU_ASSERT_DOUBLE_EQUAL(window(&whole, pcm, 0), window(&cut, pcm, 0), 1e-6); /* nothing new */
    free(pcm);
    omid_plugin.vad->close(cut.engine);
    rig_down(&whole);
}

/* Engines know nothing of each other. */
static void test_apart(void)
{
    size_t n;
    int16_t *pcm = scene(RATE, 0, &n);
    struct rig r = rig_up(NULL, RATE);
    void *other = NULL;
    int16_t silence[1600] = {0};
    float p = 1;
    CU_ASSERT_EQUAL_FATAL(omid_plugin.vad->open(mock_state(r.inst), RATE, &other), OMID_OK);
    float most = 0;
    for (size_t at = PAD; at + 1600 <= n - PAD; at += 1600) {
        float q = window(&r, pcm + at, 1600);
        most = q > most ? q : most;
        CU_ASSERT_EQUAL(omid_plugin.vad->window(other, silence, 1600, &p), OMID_OK);
        CU_ASSERT_EQUAL(p, 0);
    }
    CU_ASSERT_EQUAL(most, 1);
    omid_plugin.vad->close(other);
    free(pcm);
    rig_down(&r);
}

/* The extremes of what can come. */
static void test_hostile(void)
{
    static const uint32_t rates[] = {8000, 11025, 16000, 44100, 48000};
    int16_t pcm[4800];
    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
        struct rig r = rig_up("3", rates[i]);
        for (int k = 0; k < 200; k++) {
            for (size_t j = 0; j < 4800; j++)
                pcm[j] = k % 4 == 0 ? INT16_MIN : k % 4 == 1 ? INT16_MAX : j % 2 ? INT16_MIN : INT16_MAX;
            window(&r, pcm, (size_t)k * 24 + 1);
        }
        rig_down(&r);
    }
}

/* Not a bound: what it costs, for who reads the log. */
static void test_cost(void)
{
    size_t n;
    int16_t *pcm = scene(RATE, 20, &n);
    struct rig r = rig_up(NULL, RATE);
    struct timespec from, to;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
    size_t chunks = 0;
    for (int k = 0; k < 5; k++) {
        for (size_t at = 0; at + 1600 <= n; at += 1600, chunks++)
            window(&r, pcm + at, 1600);
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to);
    double us = (double)(to.tv_sec - from.tv_sec) * 1e6 + (double)(to.tv_nsec - from.tv_nsec) / 1e3;
    printf("%.1f us per 100 ms ", us / (double)chunks);
    free(pcm);
    rig_down(&r);
}

int main(void)
{
    if (!recording_read())
        return 77;
    CU_TestInfo tests[] = {
        {"speech within silence, whatever the chunks", test_speech_in_silence},
        {"every rate", test_rates},
        {"speech within noise", test_noise},
        {"modes", test_modes},
        {"how the audio is cut does not matter", test_cuts},
        {"engines are apart", test_apart},
        {"the loudest audio there is", test_hostile},
        {"cost", test_cost},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"vad", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    int rc = unit_run(suites);
    free(speech);
    return rc;
}
