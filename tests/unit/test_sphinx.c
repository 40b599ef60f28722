/* sphinx against a mock host, with the real model and real recordings (Debian: pocketsphinx-en-us, -testdata). Skipped,
 * with exit status 77, where they are not installed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mock_host.h"
#include "unit.h"

extern const struct omid_plugin omid_plugin;

#define GOFORWARD "/usr/share/pocketsphinx/test/data/goforward.raw"
#define NUMBERS "/usr/share/pocketsphinx/test/data/numbers.raw"
#define MODEL "/usr/share/pocketsphinx/model/en-us"
#define PATIENCE_MS 120000 /* far more than is needed, under valgrind too */

static const struct omid_stt_role *role;

struct rig {
    struct mock *m;
    struct omid_instance *inst;
};

static struct rig rig_up(const char *max_sessions, const char *threads)
{
    struct rig r = {.m = mock_new(&omid_plugin)};
    role = omid_plugin.stt;
    mock_conf(r.m, "max_sessions", max_sessions);
    mock_conf(r.m, "threads", threads);
    mock_conf(r.m, "preload", "false");
    mock_exec_mode(r.m, MOCK_EXEC_THREADS);
    CU_ASSERT_FATAL(mock_configure(r.m) == OMID_OK);
    r.inst = mock_start(r.m);
    CU_ASSERT_FATAL(r.inst != NULL);
    return r;
}

static void rig_down(struct rig *r)
{
    CU_ASSERT_EQUAL(mock_timers(r->m), 0); /* no stream is left */
    mock_stop(r->inst);
    mock_free(&r->m);
}

static int stream_open(struct omid_instance *inst, uint32_t rate, struct omid_stt *stt, void **stream)
{
    const struct omid_stt_params params = {.size = sizeof(params),
                                           .uid = "u",
                                           .session_id = "s",
                                           .model = "sphinx",
                                           .language = "en",
                                           .sample_rate = rate};
    int rc = role->open(mock_state(inst), &params, stt, stream);
    CU_ASSERT_EQUAL(stt->ready + stt->closed, 0); /* not within open() */
    return rc;
}

static bool is_ready(void *arg)
{
    const struct omid_stt *stt = arg;
    return stt->ready > 0 || stt->closed > 0;
}

static bool is_closed(void *arg)
{
    return ((const struct omid_stt *)arg)->closed > 0;
}

static bool has_result(void *arg)
{
    return ((const struct omid_stt *)arg)->n_seg > 0;
}

static bool has_room(void *arg)
{
    return ((const struct omid_stt *)arg)->writable > 0;
}

struct audio {
    int16_t *pcm;
    size_t n, cap;
};

static void audio_file(struct audio *a, const char *path)
{
    FILE *f = fopen(path, "rb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    a->pcm = realloc(a->pcm, (a->n + 160000) * sizeof(int16_t));
    a->n += fread(a->pcm + a->n, sizeof(int16_t), 160000, f);
    fclose(f);
}

static void audio_silence(struct audio *a, double seconds)
{
    size_t n = (size_t)(seconds * 16000);
    a->pcm = realloc(a->pcm, (a->n + n) * sizeof(int16_t));
    for (size_t i = 0; i < n; i++)
        a->pcm[a->n + i] = (int16_t)((i * 7919) % 5) - 2;
    a->n += n;
}

/* Gives the audio in steps, waiting for room when it must. */
static void feed(const struct rig *r, void *stream, struct omid_stt *stt, const int16_t *pcm, size_t n, size_t step)
{
    for (size_t at = 0; at < n;) {
        size_t len = n - at < step ? n - at : step;
        int rc = role->audio(stream, pcm + at, len);
        if (rc == OMID_EFULL) {
            CU_ASSERT_TRUE_FATAL(mock_wait(r->m, has_room, stt, PATIENCE_MS));
            stt->writable = 0;
            continue;
        }
        CU_ASSERT_EQUAL_FATAL(rc, OMID_OK);
        at += len;
    }
}

static void close_and_wait(const struct rig *r, void *stream, struct omid_stt *stt)
{
    role->close(stream);
    CU_ASSERT_TRUE_FATAL(mock_wait(r->m, is_closed, stt, PATIENCE_MS));
    CU_ASSERT_EQUAL(stt->reason, OMID_STT_DONE);
    role->release(stream);
}

static void check_order(const struct omid_stt *stt)
{
    double last = 0;
    for (size_t i = 0; i < stt->n_seg; i++) {
        CU_ASSERT_TRUE(stt->seg[i].start >= last);
        CU_ASSERT_TRUE(stt->seg[i].end >= stt->seg[i].start);
        CU_ASSERT_EQUAL(stt->seg[i].speaker, 0);
        last = stt->seg[i].end;
    }
    CU_ASSERT_TRUE(stt->transcribed >= last);
}

/* --- */

static void serves_english_only(void)
{
    struct rig r = rig_up("1", "1");
    void *state = mock_state(r.inst);
    CU_ASSERT_EQUAL(role->serves(state, "sphinx", "en"), 1);
    CU_ASSERT_EQUAL(role->serves(state, "sphinx", "en-US"), 1);
    CU_ASSERT_EQUAL(role->serves(state, "sphinx", "EN_gb"), 1);
    CU_ASSERT_EQUAL(role->serves(state, "sphinx", "eng"), 0);
    CU_ASSERT_EQUAL(role->serves(state, "sphinx", "multi"), 0);
    CU_ASSERT_EQUAL(role->serves(state, "sphinx", ""), 0);
    CU_ASSERT_EQUAL(role->serves(state, "dg-nova-3", "en"), -1);
    rig_down(&r);
}

static void missing_models_are_configuration_errors(void)
{
    static const struct {
        const char *key, *value;
    } cases[] = {
        {"model_dir", "/nonexistent"}, {"model_dir", "/etc/passwd"}, {"acoustic_model", "/tmp"},
        {"acoustic_model", "nothing"}, {"lm", "/nonexistent.lm"},    {"lm", "."},
        {"dictionary", "no.dict"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct mock *m = mock_new(&omid_plugin);
        const char *key, *text;
        mock_conf(m, cases[i].key, cases[i].value);
        CU_ASSERT_EQUAL(mock_configure(m), OMID_EINVAL);
        CU_ASSERT_EQUAL(mock_conf_errors(m, &key, &text), 1);
        CU_ASSERT_STRING_EQUAL(key, cases[i].key);
        CU_ASSERT_PTR_NOT_NULL(strstr(text, "expected"));
        mock_free(&m);
    }
}

/* One stream with the recording, from open to release. */
static void recording_decode(const struct rig *r, struct omid_stt *stt)
{
    struct audio a = {0};
    void *stream = NULL;
    *stt = (struct omid_stt){.m = r->m};
    audio_file(&a, GOFORWARD);
    CU_ASSERT_EQUAL_FATAL(stream_open(r->inst, 16000, stt, &stream), OMID_OK);
    CU_ASSERT_TRUE_FATAL(mock_wait(r->m, is_ready, stt, PATIENCE_MS));
    feed(r, stream, stt, a.pcm, a.n, 1600);
    close_and_wait(r, stream, stt);
    CU_ASSERT_EQUAL_FATAL(stt->n_seg, 1);
    CU_ASSERT_DOUBLE_EQUAL(stt->transcribed, (double)a.n / 16000, 0.05);
    check_order(stt);
    free(a.pcm);
}

static void recognises_a_recording(void)
{
    struct rig r = rig_up("1", "1");
    struct omid_stt stt = {.m = r.m};
    struct audio a = {0};
    void *stream = NULL;
    /* Each stream hears with fresh ears: what a decoder learnt of other voices before is forgotten. */
    for (int i = 0; i < 3; i++) {
        audio_silence(&a, 3);
        audio_file(&a, NUMBERS);
    }
    CU_ASSERT_EQUAL_FATAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    CU_ASSERT_TRUE_FATAL(mock_wait(r.m, is_ready, &stt, PATIENCE_MS));
    feed(&r, stream, &stt, a.pcm, a.n, 1600);
    close_and_wait(&r, stream, &stt);
    free(a.pcm);
    for (int i = 0; i < 3; i++) {
        recording_decode(&r, &stt);
        CU_ASSERT_STRING_EQUAL(stt.seg[0].text, "go forward ten meters");
        /* "go" begins at 0.46 s, "meters" ends at 2.1 s. */
        CU_ASSERT_DOUBLE_EQUAL(stt.seg[0].start, 0.46, 0.15);
        CU_ASSERT_DOUBLE_EQUAL(stt.seg[0].end, 2.1, 0.3);
    }
    CU_ASSERT_EQUAL(mock_count(r.m, "loads", NULL), 1);
    rig_down(&r);
}

static void words_are_words(void)
{
    struct rig r = {.m = mock_new(&omid_plugin)};
    struct omid_stt stt;
    role = omid_plugin.stt;
    mock_conf(r.m, "preload", "false");
    mock_conf(r.m, "bestpath", "false"); /* hears a last word "the(2)" here, then "</s>" */
    mock_exec_mode(r.m, MOCK_EXEC_THREADS);
    CU_ASSERT_FATAL(mock_configure(r.m) == OMID_OK);
    r.inst = mock_start(r.m);
    recording_decode(&r, &stt);
    CU_ASSERT_STRING_EQUAL(stt.seg[0].text, "go forward ten meters the");
    rig_down(&r);
}

static void times_are_those_of_the_stream(void)
{
    struct rig r = rig_up("1", "1");
    struct omid_stt stt = {.m = r.m};
    struct audio a = {0};
    void *stream = NULL;
    double offset[3];
    for (int i = 0; i < 3; i++) {
        audio_silence(&a, 3);
        offset[i] = (double)a.n / 16000;
        audio_file(&a, GOFORWARD);
    }
    audio_silence(&a, 3);
    CU_ASSERT_EQUAL_FATAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    CU_ASSERT_TRUE_FATAL(mock_wait(r.m, is_ready, &stt, PATIENCE_MS));
    feed(&r, stream, &stt, a.pcm, a.n, 777);
    /* The silence alone ends each utterance. */
    CU_ASSERT_TRUE_FATAL(mock_wait(r.m, has_result, &stt, PATIENCE_MS));
    close_and_wait(&r, stream, &stt);
    check_order(&stt);
    size_t found = 0;
    for (size_t i = 0; i < stt.n_seg && found < 3; i++) {
        if (strncmp(stt.seg[i].text, "go for", 6) != 0)
            continue;
        CU_ASSERT_DOUBLE_EQUAL(stt.seg[i].start, offset[found] + 0.46, 0.2);
        found++;
    }
    CU_ASSERT_EQUAL(found, 3);
    CU_ASSERT_DOUBLE_EQUAL(stt.transcribed, (double)a.n / 16000, 0.05);
    free(a.pcm);
    rig_down(&r);
}

/* Linear, good enough for a test: the plugin brings its own resampler. */
static struct audio at_rate(const struct audio *a, uint32_t rate)
{
    struct audio out = {.n = a->n * rate / 16000};
    out.pcm = malloc(out.n * sizeof(int16_t));
    for (size_t i = 0; i < out.n; i++) {
        double at = (double)i * 16000 / rate;
        size_t k = (size_t)at;
        double frac = at - (double)k;
        double next = k + 1 < a->n ? a->pcm[k + 1] : a->pcm[k];
        out.pcm[i] = (int16_t)((1 - frac) * a->pcm[k] + frac * next);
    }
    return out;
}

static void other_rates_are_resampled(void)
{
    static const uint32_t rates[] = {48000, 44100, 8000};
    struct rig r = rig_up("1", "1");
    struct audio a = {0};
    audio_file(&a, GOFORWARD);
    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
        struct audio b = at_rate(&a, rates[i]);
        struct omid_stt stt = {.m = r.m};
        void *stream = NULL;
        CU_ASSERT_EQUAL_FATAL(stream_open(r.inst, rates[i], &stt, &stream), OMID_OK);
        CU_ASSERT_TRUE_FATAL(mock_wait(r.m, is_ready, &stt, PATIENCE_MS));
        feed(&r, stream, &stt, b.pcm, b.n, rates[i] / 50);
        close_and_wait(&r, stream, &stt);
        CU_ASSERT_TRUE_FATAL(stt.n_seg >= 1);
        /* Half of the band is missing at 8 kHz: no word is promised there. */
        if (rates[i] > 16000) {
            CU_ASSERT_EQUAL(strncmp(stt.seg[0].text, "go forward", 10), 0);
            CU_ASSERT_DOUBLE_EQUAL(stt.seg[0].start, 0.46, 0.15);
        }
        CU_ASSERT_DOUBLE_EQUAL(stt.transcribed, (double)a.n / 16000, 0.05);
        free(b.pcm);
    }
    CU_ASSERT_EQUAL(mock_count(r.m, "loads", NULL), 1); /* one decoder served all three */
    struct omid_stt stt = {.m = r.m};
    void *stream = NULL;
    CU_ASSERT_EQUAL(stream_open(r.inst, 7999, &stt, &stream), OMID_EINVAL);
    CU_ASSERT_EQUAL(stream_open(r.inst, 48001, &stt, &stream), OMID_EINVAL);
    free(a.pcm);
    rig_down(&r);
}

static void silence_is_transcribed_too(void)
{
    struct rig r = rig_up("1", "1");
    struct omid_stt stt = {.m = r.m};
    struct audio a = {0};
    void *stream = NULL;
    audio_silence(&a, 8);
    CU_ASSERT_EQUAL_FATAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    CU_ASSERT_TRUE_FATAL(mock_wait(r.m, is_ready, &stt, PATIENCE_MS));
    feed(&r, stream, &stt, a.pcm, a.n, 1600);
    role->finalize(stream);
    close_and_wait(&r, stream, &stt);
    CU_ASSERT_EQUAL(stt.n_seg, 0);
    CU_ASSERT_TRUE(stt.results >= 3); /* on the way, not at the end alone */
    CU_ASSERT_DOUBLE_EQUAL(stt.transcribed, 8.0, 0.05);
    free(a.pcm);
    rig_down(&r);
}

static void finalize_gives_the_words_at_once(void)
{
    struct rig r = rig_up("1", "1");
    struct omid_stt stt = {.m = r.m};
    struct audio a = {0};
    void *stream = NULL;
    audio_file(&a, GOFORWARD);
    CU_ASSERT_EQUAL_FATAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    CU_ASSERT_TRUE_FATAL(mock_wait(r.m, is_ready, &stt, PATIENCE_MS));
    feed(&r, stream, &stt, a.pcm, a.n, 1600);
    role->finalize(stream);
    CU_ASSERT_TRUE(mock_wait(r.m, has_result, &stt, PATIENCE_MS));
    CU_ASSERT_EQUAL(stt.closed, 0);
    /* Audio may go on. */
    CU_ASSERT_EQUAL(role->audio(stream, a.pcm, 1600), OMID_OK);
    close_and_wait(&r, stream, &stt);
    CU_ASSERT_EQUAL(role->serves(mock_state(r.inst), "sphinx", "en"), 1);
    check_order(&stt);
    free(a.pcm);
    rig_down(&r);
}

static void a_client_that_mutes_gets_its_words(void)
{
    struct rig r = rig_up("1", "1");
    struct omid_stt stt = {.m = r.m};
    struct audio a = {0};
    void *stream = NULL;
    audio_file(&a, GOFORWARD);
    CU_ASSERT_EQUAL_FATAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    CU_ASSERT_TRUE_FATAL(mock_wait(r.m, is_ready, &stt, PATIENCE_MS));
    feed(&r, stream, &stt, a.pcm, a.n - 37, 1600); /* and not one sample more */
    CU_ASSERT_TRUE(mock_wait(r.m, has_result, &stt, PATIENCE_MS));
    close_and_wait(&r, stream, &stt);
    free(a.pcm);
    rig_down(&r);
}

static void waiting_audio_is_bounded(void)
{
    struct rig r = rig_up("1", "1");
    struct omid_stt stt = {.m = r.m};
    void *stream = NULL;
    int16_t *second = calloc(16000, sizeof(int16_t));
    int16_t *minute = calloc(16000 * 60, sizeof(int16_t));
    CU_ASSERT_EQUAL_FATAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    CU_ASSERT_EQUAL(role->audio(stream, second, 1600), OMID_ECLOSED); /* not ready yet */
    CU_ASSERT_TRUE_FATAL(mock_wait(r.m, is_ready, &stt, PATIENCE_MS));
    mock_exec_mode(r.m, MOCK_EXEC_HELD);
    int n = 0;
    while (n < 100 && role->audio(stream, second, 16000) == OMID_OK)
        n++;
    CU_ASSERT_EQUAL(n, 11); /* 10 s wait, 1 s is with the job */
    CU_ASSERT_EQUAL(role->audio(stream, minute, 16000 * 60), OMID_EFULL);
    CU_ASSERT_EQUAL(mock_count(r.m, "audio_refused", NULL), 2);
    CU_ASSERT_EQUAL(mock_exec_waiting(r.m), 1); /* one job per stream */
    for (int i = 0; i < 5; i++) {
        CU_ASSERT_EQUAL(stt.writable, 0);
        CU_ASSERT_TRUE(mock_exec_run(r.m, true));
    }
    /* The sixth leaves half of the room. */
    CU_ASSERT_TRUE(mock_exec_run(r.m, true));
    CU_ASSERT_EQUAL(stt.writable, 1);
    while (mock_exec_run(r.m, true))
        ;
    /* A piece beyond the bound is taken when nothing else waits, and then nothing more. */
    CU_ASSERT_EQUAL(role->audio(stream, minute, 16000 * 60), OMID_OK);
    CU_ASSERT_EQUAL(role->audio(stream, second, 1), OMID_EFULL);
    while (mock_exec_run(r.m, true))
        ;
    CU_ASSERT_EQUAL(stt.writable, 2);
    CU_ASSERT_EQUAL(role->audio(stream, second, 16000), OMID_OK);
    while (mock_exec_run(r.m, true))
        ;
    mock_exec_mode(r.m, MOCK_EXEC_THREADS);
    close_and_wait(&r, stream, &stt);
    CU_ASSERT_DOUBLE_EQUAL(stt.transcribed, 72.0, 0.05);
    free(second);
    free(minute);
    rig_down(&r);
}

static void no_more_than_max_sessions(void)
{
    struct rig r = rig_up("2", "2");
    struct omid_instance *other = mock_start(r.m); /* the bound is the process's */
    struct omid_stt stt[3] = {{.m = r.m}, {.m = r.m}, {.m = r.m}};
    void *stream[3];
    CU_ASSERT_EQUAL(stream_open(r.inst, 16000, &stt[0], &stream[0]), OMID_OK);
    CU_ASSERT_EQUAL(stream_open(other, 16000, &stt[1], &stream[1]), OMID_OK);
    CU_ASSERT_EQUAL(stream_open(r.inst, 16000, &stt[2], &stream[2]), OMID_EFULL);
    CU_ASSERT_EQUAL(mock_count(r.m, "streams", "refused"), 1);
    CU_ASSERT_TRUE_FATAL(mock_wait(r.m, is_ready, &stt[0], PATIENCE_MS));
    CU_ASSERT_TRUE_FATAL(mock_wait(r.m, is_ready, &stt[1], PATIENCE_MS));
    close_and_wait(&r, stream[0], &stt[0]);
    stt[2] = (struct omid_stt){.m = r.m};
    CU_ASSERT_EQUAL(stream_open(other, 16000, &stt[2], &stream[2]), OMID_OK);
    CU_ASSERT_TRUE_FATAL(mock_wait(r.m, is_ready, &stt[2], PATIENCE_MS));
    CU_ASSERT_EQUAL(mock_count(r.m, "loads", NULL), 2); /* the third got the first's decoder */
    close_and_wait(&r, stream[1], &stt[1]);
    close_and_wait(&r, stream[2], &stt[2]);
    mock_stop(other);
    rig_down(&r);
}

static bool all_closed(void *arg)
{
    const struct omid_stt *stt = arg;
    return stt[0].closed + stt[1].closed + stt[2].closed == 3;
}

static void no_more_than_threads_at_once(void)
{
    struct rig r = rig_up("3", "1");
    struct omid_instance *other = mock_start(r.m);
    struct omid_stt stt[3] = {{.m = r.m}, {.m = r.m}, {.m = r.m}};
    void *stream[3];
    struct audio a = {0};
    audio_file(&a, GOFORWARD);
    audio_silence(&a, 1);
    audio_file(&a, NUMBERS);
    for (int i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL_FATAL(stream_open(i == 1 ? other : r.inst, 16000, &stt[i], &stream[i]), OMID_OK);
    }
    for (int i = 0; i < 3; i++)
        CU_ASSERT_TRUE_FATAL(mock_wait(r.m, is_ready, &stt[i], PATIENCE_MS));
    for (int i = 0; i < 3; i++)
        feed(&r, stream[i], &stt[i], a.pcm, a.n, a.n);
    for (int i = 0; i < 3; i++)
        role->close(stream[i]);
    CU_ASSERT_TRUE(mock_wait(r.m, all_closed, stt, PATIENCE_MS));
    CU_ASSERT_EQUAL(mock_exec_peak(r.m), 1);
    for (int i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL(stt[i].reason, OMID_STT_DONE);
        CU_ASSERT_TRUE(stt[i].n_seg >= 2);
        CU_ASSERT_EQUAL(strncmp(stt[i].seg[0].text, "go forward ten meters", 21), 0);
        role->release(stream[i]);
    }
    free(a.pcm);
    mock_stop(other);
    rig_down(&r);
}

static bool nothing_runs(void *arg)
{
    return mock_timers(arg) == 0;
}

static void released_at_any_moment(void)
{
    struct rig r = rig_up("2", "1");
    struct omid_stt stt = {.m = r.m};
    void *stream = NULL;
    int16_t *second = calloc(16000, sizeof(int16_t));
    /* before its turn */
    CU_ASSERT_EQUAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    role->release(stream);
    CU_ASSERT_EQUAL(mock_timers(r.m), 0);
    /* while it loads: the decoder is kept for the next */
    CU_ASSERT_EQUAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    mock_advance(r.m, 10);
    role->release(stream);
    CU_ASSERT_TRUE(mock_wait(r.m, nothing_runs, r.m, PATIENCE_MS));
    CU_ASSERT_EQUAL(mock_count(r.m, "loads", NULL), 1);
    CU_ASSERT_EQUAL(stt.ready + stt.closed, 0);
    /* while it decodes, while another waits behind it */
    struct omid_stt two = {.m = r.m};
    void *waiting = NULL;
    CU_ASSERT_EQUAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    CU_ASSERT_TRUE_FATAL(mock_wait(r.m, is_ready, &stt, PATIENCE_MS));
    CU_ASSERT_EQUAL(role->audio(stream, second, 16000), OMID_OK);
    CU_ASSERT_EQUAL(stream_open(r.inst, 16000, &two, &waiting), OMID_OK);
    role->release(stream);
    role->release(waiting);
    CU_ASSERT_TRUE(mock_wait(r.m, nothing_runs, r.m, PATIENCE_MS));
    CU_ASSERT_EQUAL(stt.results, 0);
    CU_ASSERT_EQUAL(mock_count(r.m, "loads", NULL), 1);
    /* and after close() */
    stt = (struct omid_stt){.m = r.m};
    CU_ASSERT_EQUAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    role->close(stream);
    CU_ASSERT_EQUAL(stt.closed, 0); /* not within close() */
    CU_ASSERT_TRUE(mock_wait(r.m, is_closed, &stt, PATIENCE_MS));
    CU_ASSERT_EQUAL(stt.reason, OMID_STT_DONE);
    role->release(stream);
    free(second);
    rig_down(&r);
}

static void release_now(struct omid_stt *stt, void *arg)
{
    (void)stt;
    void **stream = arg;
    if (*stream != NULL)
        role->release(*stream);
    *stream = NULL;
}

static void released_within_a_result(void)
{
    struct rig r = rig_up("1", "1");
    struct audio a = {0};
    void *stream = NULL;
    struct omid_stt stt = {.m = r.m, .on_result = release_now, .arg = &stream};
    audio_file(&a, GOFORWARD);
    CU_ASSERT_EQUAL_FATAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    CU_ASSERT_TRUE_FATAL(mock_wait(r.m, is_ready, &stt, PATIENCE_MS));
    feed(&r, stream, &stt, a.pcm, a.n, 16000);
    role->finalize(stream);
    CU_ASSERT_TRUE(mock_wait(r.m, nothing_runs, r.m, PATIENCE_MS));
    CU_ASSERT_PTR_NULL(stream);
    CU_ASSERT_EQUAL(stt.results, 1);
    free(a.pcm);
    rig_down(&r);
}

static void a_full_executor_is_waited_for(void)
{
    struct rig r = rig_up("1", "1");
    struct omid_stt stt = {.m = r.m};
    void *stream = NULL;
    int16_t *second = calloc(16000, sizeof(int16_t));
    mock_exec_mode(r.m, MOCK_EXEC_FULL);
    CU_ASSERT_EQUAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    mock_advance(r.m, 100);
    CU_ASSERT_EQUAL(stt.ready + stt.closed, 0);
    mock_exec_mode(r.m, MOCK_EXEC_THREADS);
    CU_ASSERT_TRUE_FATAL(mock_wait(r.m, is_ready, &stt, PATIENCE_MS));
    CU_ASSERT_EQUAL(stt.ready, 1);
    mock_exec_mode(r.m, MOCK_EXEC_FULL);
    CU_ASSERT_EQUAL(role->audio(stream, second, 16000), OMID_OK);
    mock_advance(r.m, 100);
    mock_exec_mode(r.m, MOCK_EXEC_THREADS);
    close_and_wait(&r, stream, &stt);
    CU_ASSERT_DOUBLE_EQUAL(stt.transcribed, 1.0, 0.05); /* the slice was not lost */
    free(second);
    rig_down(&r);
}

static void an_executor_that_stops_ends_the_stream(void)
{
    struct rig r = rig_up("1", "1");
    struct omid_stt stt = {.m = r.m};
    void *stream = NULL;
    mock_exec_mode(r.m, MOCK_EXEC_HELD);
    CU_ASSERT_EQUAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    mock_advance(r.m, 10);
    CU_ASSERT_TRUE(mock_exec_run(r.m, false));
    CU_ASSERT_EQUAL(stt.closed, 1);
    CU_ASSERT_EQUAL(stt.reason, OMID_STT_INTERNAL);
    role->release(stream);
    stt = (struct omid_stt){.m = r.m};
    mock_exec_mode(r.m, MOCK_EXEC_CLOSED);
    CU_ASSERT_EQUAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    mock_advance(r.m, 10);
    CU_ASSERT_EQUAL(stt.closed, 1);
    role->release(stream);
    rig_down(&r);
}

/* A copy of the acoustic model by links, with one part that is rubbish. */
static const char *const parts[] = {"feat.params",        "mdef", "means", "noisedict", "sendump", "variances",
                                    "transition_matrices"};
#define PARTS (sizeof(parts) / sizeof(parts[0]))

static void model_damage(const char *dir, const char *broken)
{
    for (size_t i = 0; i < PARTS; i++) {
        char from[256], to[256];
        snprintf(from, sizeof(from), "%s/en-us/%s", MODEL, parts[i]);
        snprintf(to, sizeof(to), "%s/%s", dir, parts[i]);
        if (strcmp(parts[i], broken) != 0) {
            CU_ASSERT_EQUAL(symlink(from, to), 0);
            continue;
        }
        FILE *f = fopen(to, "w");
        CU_ASSERT_PTR_NOT_NULL_FATAL(f);
        fputs("this is no model\n", f);
        fclose(f);
    }
}

static void model_remove(const char *dir)
{
    for (size_t i = 0; i < PARTS; i++) {
        char path[256];
        snprintf(path, sizeof(path), "%s/%s", dir, parts[i]);
        unlink(path);
    }
    rmdir(dir);
}

/* True: the stream ended with a reason that names the model. */
static bool damaged_model_ends_the_stream(const char *dir)
{
    struct rig r = {.m = mock_new(&omid_plugin)};
    struct omid_stt stt = {.m = r.m};
    void *stream = NULL;
    role = omid_plugin.stt;
    mock_conf(r.m, "acoustic_model", dir);
    mock_conf(r.m, "preload", "false");
    mock_exec_mode(r.m, MOCK_EXEC_THREADS);
    if (mock_configure(r.m) != OMID_OK || (r.inst = mock_start(r.m)) == NULL ||
        stream_open(r.inst, 16000, &stt, &stream) != OMID_OK || !mock_wait(r.m, is_ready, &stt, PATIENCE_MS))
        return false;
    bool ok = stt.closed == 1 && stt.reason == OMID_STT_INTERNAL && strstr(stt.why, dir) != NULL &&
              mock_count(r.m, "streams", "failed") == 1;
    role->release(stream);
    rig_down(&r);
    return ok;
}

/* In a child: it would be the library that ends the process, and what it had allocated is lost. */
static void a_damaged_model_ends_the_stream_not_the_daemon(void)
{
    static const char *const broken[] = {"mdef", "means", "transition_matrices", "sendump", "variances"};
    for (size_t b = 0; b < sizeof(broken) / sizeof(broken[0]); b++) {
        char dir[] = "/tmp/omid-sphinx-XXXXXX";
        char verdict = 0;
        int fd[2];
        CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
        model_damage(dir, broken[b]);
        CU_ASSERT_EQUAL_FATAL(pipe(fd), 0);
        fflush(NULL);
        pid_t child = fork();
        CU_ASSERT_FATAL(child >= 0);
        if (child == 0) {
            verdict = damaged_model_ends_the_stream(dir) ? 'y' : 'n';
            _exit(write(fd[1], &verdict, 1) == 1 ? 0 : 1);
        }
        close(fd[1]);
        CU_ASSERT_EQUAL(read(fd[0], &verdict, 1), 1);
        CU_ASSERT_EQUAL(verdict, 'y');
        close(fd[0]);
        waitpid(child, NULL, 0);
        model_remove(dir);
    }
}

static bool one_load(void *arg)
{
    return mock_count(arg, "loads", NULL) == 1;
}

static void preload_serves_the_first_stream(void)
{
    struct mock *m = mock_new(&omid_plugin);
    mock_exec_mode(m, MOCK_EXEC_THREADS);
    CU_ASSERT_EQUAL_FATAL(mock_configure(m), OMID_OK);
    struct rig r = {.m = m, .inst = mock_start(m)};
    struct omid_instance *other = mock_start(m); /* one preload per process */
    CU_ASSERT_TRUE(mock_wait(m, one_load, m, PATIENCE_MS));
    struct omid_stt stt = {.m = m};
    void *stream = NULL;
    CU_ASSERT_EQUAL(stream_open(other, 16000, &stt, &stream), OMID_OK);
    CU_ASSERT_TRUE(mock_wait(m, is_ready, &stt, PATIENCE_MS));
    CU_ASSERT_EQUAL(mock_count(m, "loads", NULL), 1);
    close_and_wait(&r, stream, &stt);
    mock_stop(other);
    rig_down(&r);
}

static void drain_waits_for_the_streams(void)
{
    struct rig r = rig_up("2", "1");
    struct omid_stt stt = {.m = r.m};
    void *stream = NULL;
    void *refused = NULL;
    CU_ASSERT_EQUAL(stream_open(r.inst, 16000, &stt, &stream), OMID_OK);
    mock_drain(r.inst);
    CU_ASSERT_EQUAL(mock_drained(r.inst), 0);
    struct omid_stt late = {.m = r.m};
    CU_ASSERT_EQUAL(stream_open(r.inst, 16000, &late, &refused), OMID_ECLOSED);
    role->release(stream);
    CU_ASSERT_EQUAL(mock_drained(r.inst), 1);
    rig_down(&r);
}

static void drain_waits_for_the_preload(void)
{
    struct mock *m = mock_new(&omid_plugin);
    mock_exec_mode(m, MOCK_EXEC_HELD);
    CU_ASSERT_EQUAL_FATAL(mock_configure(m), OMID_OK);
    struct rig r = {.m = m, .inst = mock_start(m)};
    mock_drain(r.inst);
    CU_ASSERT_EQUAL(mock_drained(r.inst), 0);
    CU_ASSERT_TRUE(mock_exec_run(m, false));
    CU_ASSERT_EQUAL(mock_drained(r.inst), 1);
    rig_down(&r);
}

int main(void)
{
    static CU_TestInfo tests[] = {
        {"serves English only", serves_english_only},
        {"missing models are configuration errors", missing_models_are_configuration_errors},
        {"recognises a recording", recognises_a_recording},
        {"words are words", words_are_words},
        {"times are those of the stream", times_are_those_of_the_stream},
        {"other rates are resampled", other_rates_are_resampled},
        {"silence is transcribed too", silence_is_transcribed_too},
        {"finalize gives the words at once", finalize_gives_the_words_at_once},
        {"a client that mutes gets its words", a_client_that_mutes_gets_its_words},
        {"waiting audio is bounded", waiting_audio_is_bounded},
        {"no more than max_sessions", no_more_than_max_sessions},
        {"no more than threads at once", no_more_than_threads_at_once},
        {"released at any moment", released_at_any_moment},
        {"released within a result", released_within_a_result},
        {"a full executor is waited for", a_full_executor_is_waited_for},
        {"an executor that stops ends the stream", an_executor_that_stops_ends_the_stream},
        {"a damaged model ends the stream", a_damaged_model_ends_the_stream_not_the_daemon},
        {"preload serves the first stream", preload_serves_the_first_stream},
        {"drain waits for the streams", drain_waits_for_the_streams},
        {"drain waits for the preload", drain_waits_for_the_preload},
        CU_TEST_INFO_NULL,
    };
    static CU_SuiteInfo suites[] = {{"sphinx", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    if (access(GOFORWARD, R_OK) != 0 || access(MODEL "/en-us.lm.bin", R_OK) != 0) {
        fprintf(stderr, "skipped: needs the Debian packages pocketsphinx-en-us and pocketsphinx-testdata\n");
        return 77;
    }
    return unit_run(suites);
}
