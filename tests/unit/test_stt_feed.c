/*
 * The feed to speech-to-text against scripted providers: what is sent, what is sent again, who comes next, and that
 * every stream that was opened is released exactly once. The host is replaced by the few functions that the feed uses.
 */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/magic.h"
#include "base/metrics.h"
#include "bus/channel.h"
#include "host/host.h"
#include "session/session.h"
#include "session/stt_feed.h"

#define RATE 16000
#define DEADLINE_MS 10000

/* ------------------------------------------------------------------------ the clock */

static uint64_t clock_skew_ms; /* a test lets hours pass */

static uint64_t real_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}
uint64_t clock_mono_ns(void)
{
    return real_ns(CLOCK_MONOTONIC) + clock_skew_ms * 1000000;
}
uint64_t clock_mono_ms(void)
{
    return clock_mono_ns() / 1000000;
}
int64_t clock_wall_ms(void)
{
    return (int64_t)(real_ns(CLOCK_REALTIME) / 1000000);
}
uint64_t clock_thread_cpu_ns(void)
{
    return real_ns(CLOCK_THREAD_CPUTIME_ID);
}
void clock_format_utc(int64_t unix_ms, char out[32])
{
    snprintf(out, 32, "%lld", (long long)unix_ms);
}

/* --------------------------------------------------------------- scripted providers */

enum script { S_READY, S_BUSY, S_FAIL, S_UNREACHED, S_CONFIG, S_HANG, S_LOST_AT };

struct provider {
    const char *model;
    enum script script[8]; /* by open(); the last one repeats */
    size_t lost_at;        /* S_LOST_AT: breaks when it has got so many samples */
    size_t full_after;     /* audio() answers EFULL from so many samples on, until told otherwise; 0: never */
    unsigned opens, releases, closes, finalizes;
    size_t finalized_at; /* samples that the stream had at its last finalize() */
    struct stream *live;
    bool full_told;
    bool stopped; /* the plugin */
    struct host_attachment *att;
};
struct stream {
    struct provider *p;
    struct omid_stt *stt;
    enum script script;
    int16_t *pcm;
    size_t n;
    bool closing, ended;
};
static struct provider provider[3];
static unsigned n_providers;
static struct omid_plugin plugins[3];

static int fake_serves(void *state, const char *model, const char *language)
{
    struct provider *p = state;
    if (strcmp(model, p->model) != 0)
        return -1;
    return strcmp(language, "xx") != 0;
}

static int fake_open(void *state, const struct omid_stt_params *params, struct omid_stt *stt, void **stream)
{
    struct provider *p = state;
    enum script script = S_READY;
    (void)params;
    for (unsigned i = 0; i <= p->opens && i < 8; i++)
        script = p->script[i];
    p->opens++;
    if (script == S_BUSY)
        return OMID_EFULL;
    if (script == S_FAIL)
        return OMID_ERR;
    struct stream *s = calloc(1, sizeof *s);
    *s = (struct stream){.p = p, .stt = stt, .script = script};
    CU_ASSERT_PTR_NULL(p->live);
    p->live = s;
    *stream = s;
    return OMID_OK;
}

static void stream_closed(struct stream *s, enum omid_stt_reason why)
{
    struct omid_stt_end end = {.size = sizeof end, .reason = why, .text = "scripted"};
    s->ended = true;
    session_stt_closed(s->stt, &end);
}

static int fake_audio(void *stream, const int16_t *pcm, size_t n)
{
    struct stream *s = stream;
    CU_ASSERT_FALSE(s->ended);
    CU_ASSERT_TRUE(n > 0);
    if (s->p->full_after && s->n >= s->p->full_after) {
        s->p->full_told = true;
        return OMID_EFULL;
    }
    s->pcm = realloc(s->pcm, (s->n + n) * sizeof *pcm);
    memcpy(s->pcm + s->n, pcm, n * sizeof *pcm);
    s->n += n;
    if (s->script == S_LOST_AT && s->n >= s->p->lost_at)
        stream_closed(s, OMID_STT_LOST); /* within the call: the worst moment */
    return OMID_OK;
}

static void fake_finalize(void *stream)
{
    struct stream *s = stream;
    CU_ASSERT_FALSE(s->ended);
    s->p->finalizes++;
    s->p->finalized_at = s->n;
}

static void fake_stats(void *stream, struct omid_stt_stats *stats)
{
    (void)stream;
    CU_ASSERT_EQUAL(stats->size, sizeof *stats);
    stats->keepalives = 2;
}

static void fake_close(void *stream)
{
    struct stream *s = stream;
    s->p->closes++;
    s->closing = true;
}

static void fake_release(void *stream)
{
    struct stream *s = stream;
    s->p->releases++;
    s->p->live = NULL;
    free(s->pcm);
    free(s);
}

static const struct omid_stt_role role = {.size = sizeof role,
                                          .serves = fake_serves,
                                          .open = fake_open,
                                          .audio = fake_audio,
                                          .finalize = fake_finalize,
                                          .close = fake_close,
                                          .release = fake_release,
                                          .stats = fake_stats};

/* ------------------------------------------------------- scripted voice activity */

/* It stands behind the providers in the list of plugins, where there is one. */
static struct {
    bool there, stopped;
    bool speaking; /* what it hears */
    enum { V_WORKS, V_NO_OPEN, V_ERROR, V_NAN, V_LARGE } script;
    int engines;
    uint64_t heard, longest; /* samples */
    struct host_attachment *att;
} vad;
static struct omid_plugin vad_plugin;

static int fake_vad_open(void *state, uint32_t rate, void **engine)
{
    CU_ASSERT_PTR_EQUAL(state, &vad);
    CU_ASSERT_TRUE(rate >= 8000);
    if (vad.script == V_NO_OPEN)
        return OMID_ERR;
    vad.engines++;
    *engine = &vad.engines;
    return OMID_OK;
}
static int fake_vad_window(void *engine, const int16_t *pcm, size_t n, float *probability)
{
    (void)pcm;
    CU_ASSERT_PTR_EQUAL(engine, &vad.engines);
    CU_ASSERT_TRUE(n > 0);
    vad.heard += n;
    vad.longest = n > vad.longest ? n : vad.longest;
    *probability = vad.script == V_NAN ? (float)NAN : vad.script == V_LARGE ? 1.5F : vad.speaking ? 1 : 0;
    return vad.script == V_ERROR ? OMID_ERR : OMID_OK;
}
static void fake_vad_close(void *engine)
{
    CU_ASSERT_PTR_EQUAL(engine, &vad.engines);
    vad.engines--;
}
static const struct omid_vad_role vad_role = {
    .size = sizeof vad_role, .open = fake_vad_open, .window = fake_vad_window, .close = fake_vad_close};
#define IS_VAD(inst) ((const void *)(inst) == (const void *)&vad)

/* What a provider does on its own, once per turn of the loop. */
static void providers_act(void)
{
    for (unsigned i = 0; i < n_providers; i++) {
        struct stream *s = provider[i].live;
        if (!s || s->ended)
            continue;
        if (s->script == S_READY || s->script == S_LOST_AT)
            session_stt_ready(s->stt);
        else if (s->script == S_UNREACHED)
            stream_closed(s, OMID_STT_UNREACHED);
        else if (s->script == S_CONFIG)
            stream_closed(s, OMID_STT_CONFIG);
        if (s->closing && !s->ended)
            stream_closed(s, OMID_STT_DONE);
    }
}

/* ------------------------------------------------------------------- the host's part */

static int used; /* instances held by feeds */
void host_use(struct omid_instance *inst)
{
    (void)inst;
    used++;
}
void host_unuse(struct omid_instance *inst)
{
    (void)inst;
    used--;
}
unsigned host_module_count(const struct host *h, unsigned reactor)
{
    (void)h;
    (void)reactor;
    return n_providers + vad.there;
}
struct omid_instance *host_instance(struct host *h, unsigned reactor, unsigned module)
{
    (void)h;
    (void)reactor;
    if (module == n_providers)
        return vad.stopped ? NULL : (struct omid_instance *)&vad;
    return provider[module].stopped ? NULL : (struct omid_instance *)&provider[module];
}
bool host_running(const struct omid_instance *inst)
{
    return !((const struct provider *)inst)->stopped;
}
const struct omid_plugin *host_plugin(const struct omid_instance *inst)
{
    if (IS_VAD(inst))
        return &vad_plugin;
    return &plugins[(const struct provider *)inst - provider];
}
void *host_state(const struct omid_instance *inst)
{
    return (void *)inst;
}
void host_enter(struct host_call *call, struct omid_instance *inst, const char *callback)
{
    (void)call;
    (void)inst;
    (void)callback;
}
int host_leave(struct host_call *call, int rc)
{
    (void)call;
    return rc;
}

void host_attach(struct omid_instance *inst, struct host_attachment *att)
{
    struct host_attachment **slot = IS_VAD(inst) ? &vad.att : &((struct provider *)inst)->att;
    CU_ASSERT_PTR_NULL(*slot);
    att->inst = inst;
    *slot = att;
}
void host_detach(struct host_attachment *att)
{
    struct host_attachment **slot = IS_VAD(att->inst) ? &vad.att : &((struct provider *)att->inst)->att;
    CU_ASSERT_PTR_EQUAL(*slot, att);
    *slot = NULL;
}
/* As the host does: attachments are told, then the plugin stops. */
static void plugin_stop(struct provider *p)
{
    if (p->att)
        p->att->stopping(p->att);
    p->stopped = true;
    CU_ASSERT_PTR_NULL(p->live);
    CU_ASSERT_PTR_NULL(p->att);
}

/* ------------------------------------------------------------------------- a feed */

struct seen {
    unsigned ready, room, failed, done, segments;
    char outcome[16], provider[16], text[64];
    double start, end;
    void (*on_segments)(const struct omid_stt_segment *s, size_t n); /* or NULL */
};
static struct seen seen;
static struct loop *loop;
static struct conf conf;
static char *gate_mode = "off";
static enum listen_choice gate_asked;
static char *models[] = {"one", "two", "three", NULL};

static void on_ready(void *arg, const char *name)
{
    (void)arg;
    seen.ready++;
    snprintf(seen.provider, sizeof seen.provider, "%s", name);
}
static void on_segments(void *arg, const char *name, const struct omid_stt_segment *s, size_t n)
{
    (void)arg;
    (void)name;
    if (seen.on_segments)
        seen.on_segments(s, n);
    seen.segments += (unsigned)n;
    seen.start = s[n - 1].start;
    seen.end = s[n - 1].end;
    snprintf(seen.text, sizeof seen.text, "%s", s[n - 1].text);
}
static void on_room(void *arg)
{
    (void)arg;
    seen.room++;
}
static void on_failed(void *arg, const struct stt_failure *why)
{
    (void)arg;
    seen.failed++;
    snprintf(seen.outcome, sizeof seen.outcome, "%s", why->outcome);
}
static void on_done(void *arg)
{
    (void)arg;
    seen.done++;
}
static const struct stt_feed_events events = {on_ready, on_segments, on_room, on_failed, on_done};

static struct stt_feed *feed_make(unsigned providers, const char *language, const char *preferred, bool *served)
{
    conf = (struct conf){.stt = {.models = {.item = models, .n = 3}, .replay_ms = 30000, .catch_up = 1000.},
                         .listen = {.audio_buffer = 10u << 20}};
    conf.stt.gate = gate_mode;
    conf.stt.gate_threshold = 0.65;
    conf.stt.gate_preroll_ms = 300;
    conf.stt.gate_hangover_ms = 4000;
    conf.stt.gate_finalize_ms = 300;
    vad_plugin = (struct omid_plugin){OMID_PLUGIN_HEAD, .name = "voice", .vad = &vad_role};
    seen = (struct seen){0};
    n_providers = providers;
    for (unsigned i = 0; i < 3; i++)
        plugins[i] = (struct omid_plugin){OMID_PLUGIN_HEAD, .name = models[i], .stt = &role};
    struct stt_feed_params p = {.conf = &conf,
                                .loop = loop,
                                .uid = "u",
                                .session_id = "s",
                                .language = language,
                                .preferred = preferred,
                                .sample_rate = RATE,
                                .vad_gate = gate_asked};
    return stt_feed_new(&p, &events, NULL, served);
}

static void providers_reset(void)
{
    for (unsigned i = 0; i < 3; i++)
        provider[i] = (struct provider){.model = models[i]};
    memset(&vad, 0, sizeof vad);
    gate_mode = "off";
    gate_asked = CHOICE_NONE;
}

/* Runs the loop and the providers until cond holds; false at the deadline. */
#define UNTIL(cond)                                    \
    ({                                                 \
        uint64_t end_ = clock_mono_ms() + DEADLINE_MS; \
        while (!(cond) && clock_mono_ms() < end_) {    \
            providers_act();                           \
            ev_run(loop_ev(loop), EVRUN_NOWAIT);       \
        }                                              \
        CU_ASSERT_TRUE(cond);                          \
        (cond);                                        \
    })

static void turns(unsigned n)
{
    while (n-- > 0) {
        providers_act();
        ev_run(loop_ev(loop), EVRUN_NOWAIT);
    }
}

/* Samples numbered by their position, so that what arrives can be checked. */
static bool speak(struct stt_feed *f, size_t n)
{
    int16_t pcm[1600];
    uint64_t at = stt_feed_position(f);
    while (n > 0) {
        size_t k = n < 1600 ? n : 1600;
        for (size_t i = 0; i < k; i++)
            pcm[i] = (int16_t)(at + i);
        if (!stt_feed_audio(f, pcm, k))
            return false;
        at += k;
        n -= k;
    }
    return true;
}

static bool holds_from(const struct stream *s, uint64_t pos)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->pcm[i] != (int16_t)(pos + i))
            return false;
    }
    return true;
}

static void result(struct stream *s, const char *text, double start, double end, double transcribed)
{
    struct omid_stt_segment seg = {.text = text, .start = start, .end = end, .speaker = 0};
    struct omid_stt_result r = {.size = sizeof r, .segments = &seg, .n = text ? 1 : 0, .transcribed = transcribed};
    session_stt_result(s->stt, &r);
}

static void released_once(void)
{
    for (unsigned i = 0; i < n_providers; i++) {
        unsigned failed_opens = 0;
        for (unsigned k = 0; k < provider[i].opens && k < 8; k++)
            failed_opens += provider[i].script[k] == S_BUSY || provider[i].script[k] == S_FAIL;
        CU_ASSERT_EQUAL(provider[i].opens - failed_opens, provider[i].releases);
        CU_ASSERT_PTR_NULL(provider[i].live);
    }
    CU_ASSERT_EQUAL(vad.engines, 0);
    CU_ASSERT_PTR_NULL(vad.att);
    CU_ASSERT_EQUAL(used, 0);
    CU_ASSERT_EQUAL(budget_used(), 0);
}

/* -------------------------------------------------------------------------- tests */

static void test_plugin_stops(void)
{
    bool served;
    providers_reset();
    struct stt_feed *f = feed_make(2, "en", "", &served);
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    CU_ASSERT_TRUE(speak(f, RATE));
    turns(3);
    plugin_stop(&provider[0]);
    CU_ASSERT_TRUE(speak(f, RATE)); /* with no stream */
    UNTIL(seen.ready == 2);
    CU_ASSERT_STRING_EQUAL(seen.provider, "two");
    UNTIL(provider[1].live->n == 2 * RATE);
    CU_ASSERT_TRUE(holds_from(provider[1].live, 0));
    plugin_stop(&provider[1]);
    UNTIL(seen.failed == 1);
    stt_feed_close(f);
    UNTIL(seen.done == 1);
    stt_feed_free(&f);
    released_once();
}

static void test_plugin_stops_while_closing(void)
{
    bool served;
    providers_reset();
    struct stt_feed *f = feed_make(2, "en", "", &served);
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    stt_feed_close(f);
    plugin_stop(&provider[0]);
    UNTIL(seen.done == 1);
    CU_ASSERT_EQUAL(provider[1].opens, 0);
    stt_feed_free(&f);
    released_once();
}

static void test_message_larger_than_buffer(void)
{
    bool served;
    providers_reset();
    struct stt_feed *f = feed_make(1, "en", "", &served);
    conf.listen.audio_buffer = 1000;
    int16_t pcm[1600];
    for (int i = 0; i < 1600; i++)
        pcm[i] = (int16_t)i;
    stt_feed_start(f);
    CU_ASSERT_TRUE(stt_feed_audio(f, pcm, 1600));
    CU_ASSERT_FALSE(stt_feed_audio(f, pcm, 1600)); /* the first one waits */
    UNTIL(seen.room == 1);
    CU_ASSERT_TRUE(stt_feed_audio(f, pcm, 1600));
    UNTIL(provider[0].live->n == 3200);
    stt_feed_close(f);
    UNTIL(seen.done == 1);
    stt_feed_free(&f);
    released_once();
}

static void test_one_stream(void)
{
    bool served;
    providers_reset();
    struct stt_feed *f = feed_make(1, "en", "", &served);
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    stt_feed_start(f);
    CU_ASSERT_EQUAL(provider[0].opens, 0); /* not within the call */
    CU_ASSERT_TRUE(speak(f, 1000));        /* before it is ready */
    UNTIL(seen.ready == 1);
    CU_ASSERT_TRUE(speak(f, RATE));
    UNTIL(provider[0].live->n >= 1000 + RATE - RATE * 30 / 1000);
    CU_ASSERT_TRUE(holds_from(provider[0].live, 0));
    result(provider[0].live, "hello", 0.5, 0.9, 1.0);
    CU_ASSERT_EQUAL(seen.segments, 1);
    CU_ASSERT_DOUBLE_EQUAL(seen.start, 0.5, 1e-9);
    stt_feed_close(f);
    UNTIL(provider[0].closes == 1);
    CU_ASSERT_EQUAL(provider[0].live ? provider[0].live->n : RATE + 1000, RATE + 1000); /* to the last sample */
    UNTIL(seen.done == 1);
    stt_feed_free(&f);
    released_once();
}

static void test_little_audio_waits(void)
{
    bool served;
    providers_reset();
    struct stt_feed *f = feed_make(1, "en", "", &served);
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    CU_ASSERT_TRUE(speak(f, RATE * 29 / 1000));
    turns(5);
    CU_ASSERT_EQUAL(provider[0].live->n, 0);
    CU_ASSERT_TRUE(speak(f, RATE * 2 / 1000));
    turns(5);
    CU_ASSERT_EQUAL(provider[0].live->n, (size_t)(RATE * 31 / 1000));
    stt_feed_free(&f);
    released_once();
}

static void test_next_provider(void)
{
    static const enum script first[] = {S_BUSY, S_FAIL, S_UNREACHED, S_CONFIG};
    for (unsigned i = 0; i < 4; i++) {
        bool served;
        providers_reset();
        provider[0].script[0] = first[i];
        struct stt_feed *f = feed_make(2, "en", "", &served);
        stt_feed_start(f);
        CU_ASSERT_TRUE(speak(f, 5000));
        UNTIL(seen.ready == 1);
        CU_ASSERT_STRING_EQUAL(seen.provider, "two");
        UNTIL(provider[1].live->n == 5000);
        CU_ASSERT_TRUE(holds_from(provider[1].live, 0)); /* nothing said meanwhile is lost */
        CU_ASSERT_EQUAL(provider[0].opens, 1);
        stt_feed_free(&f);
        released_once();
    }
}

static void test_none_left(void)
{
    bool served;
    providers_reset();
    provider[0].script[0] = provider[1].script[0] = S_BUSY;
    struct stt_feed *f = feed_make(2, "en", "", &served);
    stt_feed_start(f);
    UNTIL(seen.failed == 1);
    CU_ASSERT_STRING_EQUAL(seen.outcome, "overloaded");
    stt_feed_close(f); /* the client leaves afterwards */
    UNTIL(seen.done == 1);
    stt_feed_free(&f);

    providers_reset();
    provider[0].script[0] = S_BUSY;
    provider[1].script[0] = S_UNREACHED;
    f = feed_make(2, "en", "", &served);
    stt_feed_start(f);
    UNTIL(seen.failed == 1);
    CU_ASSERT_STRING_EQUAL(seen.outcome, "exhausted");
    stt_feed_free(&f);
    released_once();
}

/* What was not final is said again; the transcript's clock goes on. */
static void test_lost_in_mid_stream(void)
{
    bool served;
    providers_reset();
    provider[0].script[0] = S_LOST_AT;
    provider[0].lost_at = 2 * RATE;
    struct stt_feed *f = feed_make(1, "en", "", &served);
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    CU_ASSERT_TRUE(speak(f, RATE));
    UNTIL(provider[0].live->n == RATE);
    result(provider[0].live, "first", 0, 0.4, 0.5);
    CU_ASSERT_TRUE(speak(f, 2 * RATE));
    UNTIL(provider[0].opens == 2 && seen.ready == 2);
    UNTIL(provider[0].live->n == 3 * RATE - RATE / 2);
    CU_ASSERT_TRUE(holds_from(provider[0].live, RATE / 2));
    result(provider[0].live, "second", 1.0, 1.5, 1.5);
    CU_ASSERT_DOUBLE_EQUAL(seen.start, 1.5, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(seen.end, 2.0, 1e-9);
    stt_feed_free(&f);
    released_once();
}

/* A stream that always breaks without a result is given up. */
static void test_always_lost(void)
{
    bool served;
    providers_reset();
    for (unsigned i = 0; i < 8; i++)
        provider[0].script[i] = S_LOST_AT;
    provider[0].lost_at = 1;
    struct stt_feed *f = feed_make(2, "en", "", &served);
    stt_feed_start(f);
    CU_ASSERT_TRUE(speak(f, RATE));
    UNTIL(provider[1].live && provider[1].live->n == RATE);
    CU_ASSERT_EQUAL(provider[0].opens, 3);
    CU_ASSERT_TRUE(holds_from(provider[1].live, 0));
    stt_feed_free(&f);
    released_once();
}

static void test_full_provider_and_full_buffer(void)
{
    bool served;
    providers_reset();
    provider[0].full_after = RATE;
    struct stt_feed *f = feed_make(1, "en", "", &served);
    conf.listen.audio_buffer = 4 * RATE * sizeof(int16_t);
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    CU_ASSERT_TRUE(speak(f, 2 * RATE));
    UNTIL(provider[0].full_told);
    CU_ASSERT_FALSE(speak(f, 20 * RATE)); /* refused at the bound, what was taken stays */
    uint64_t taken = stt_feed_position(f);
    CU_ASSERT_TRUE(taken <= provider[0].live->n + 4 * RATE);
    CU_ASSERT_EQUAL(seen.room, 0);
    provider[0].full_after = 0;
    session_stt_writable(provider[0].live->stt);
    UNTIL(seen.room == 1 && provider[0].live->n == taken);
    CU_ASSERT_TRUE(holds_from(provider[0].live, 0));
    stt_feed_free(&f);
    released_once();
}

/* The client leaves while the provider is still being reached: released at once, no further attempt. */
static void test_left_while_opening(void)
{
    bool served;
    providers_reset();
    provider[0].script[0] = S_HANG;
    struct stt_feed *f = feed_make(2, "en", "", &served);
    stt_feed_start(f);
    CU_ASSERT_TRUE(speak(f, RATE));
    UNTIL(provider[0].opens == 1);
    stt_feed_close(f);
    CU_ASSERT_EQUAL(provider[0].releases, 1);
    UNTIL(seen.done == 1);
    turns(20);
    CU_ASSERT_EQUAL(provider[0].opens, 1);
    CU_ASSERT_EQUAL(provider[1].opens, 0);
    stt_feed_free(&f);
    released_once();
}

static void test_left_before_start(void)
{
    bool served;
    providers_reset();
    struct stt_feed *f = feed_make(1, "en", "", &served);
    stt_feed_start(f);
    stt_feed_close(f);
    UNTIL(seen.done == 1);
    CU_ASSERT_EQUAL(provider[0].opens, 0);
    stt_feed_free(&f);
}

static void test_language_and_preference(void)
{
    bool served;
    providers_reset();
    CU_ASSERT_PTR_NULL(feed_make(3, "xx", "", &served));
    CU_ASSERT_FALSE(served);
    struct stt_feed *f = feed_make(3, "en", "three", &served);
    CU_ASSERT_STRING_EQUAL(stt_feed_provider(f), "three");
    stt_feed_free(&f);
    f = feed_make(3, "en", "unknown", &served);
    CU_ASSERT_STRING_EQUAL(stt_feed_provider(f), "one");
    stt_feed_free(&f);
}

/* A provider that says more is final than it was sent does not trim what it has not got. */
static void test_boastful_result(void)
{
    bool served;
    providers_reset();
    provider[0].script[0] = S_LOST_AT;
    provider[0].lost_at = 3 * RATE;
    struct stt_feed *f = feed_make(1, "en", "", &served);
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    CU_ASSERT_TRUE(speak(f, RATE));
    UNTIL(provider[0].live->n == RATE);
    result(provider[0].live, NULL, 0, 0, 1e18);
    CU_ASSERT_TRUE(speak(f, 3 * RATE));
    UNTIL(provider[0].opens == 2 && provider[0].live && provider[0].live->n > 0);
    CU_ASSERT_TRUE(holds_from(provider[0].live, RATE));
    stt_feed_free(&f);
    released_once();
}

/* A provider that tells words and not how far it is: they are not told again after a loss. */
static void test_words_are_final(void)
{
    bool served;
    providers_reset();
    struct stt_feed *f = feed_make(1, "en", "", &served);
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    CU_ASSERT_TRUE(speak(f, 2 * RATE));
    turns(3);
    result(provider[0].live, "told", 0.5, 1.0, -1);
    stream_closed(provider[0].live, OMID_STT_LOST);
    UNTIL(seen.ready == 2 && provider[0].live->n == RATE);
    CU_ASSERT_TRUE(holds_from(provider[0].live, RATE));
    result(provider[0].live, "too far", 0.5, 77.0, 1e9); /* no further than what it got */
    CU_ASSERT_DOUBLE_EQUAL(seen.start, 1.5, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(seen.end, 2.0, 1e-9);
    result(provider[0].live, "before its time", -3.0, NAN, NAN);
    CU_ASSERT_DOUBLE_EQUAL(seen.start, 1.0, 1e-9);
    CU_ASSERT_TRUE(seen.end >= seen.start);
    stt_feed_free(&f);
    released_once();
}

/* What waited for the connection, the first or a later one, is caught up with at the rate of the setting. */
static void test_catch_up(void)
{
    for (unsigned later = 0; later < 2; later++) {
        bool served;
        providers_reset();
        provider[0].script[0] = later ? S_READY : S_HANG;
        provider[0].script[1] = S_HANG;
        struct stt_feed *f = feed_make(1, "en", "", &served);
        conf.stt.catch_up = 4;
        stt_feed_start(f);
        if (later) {
            UNTIL(seen.ready == 1);
            stream_closed(provider[0].live, OMID_STT_LOST);
        }
        UNTIL(provider[0].opens == 1 + later && provider[0].live);
        CU_ASSERT_TRUE(speak(f, 2 * RATE));
        turns(3);
        uint64_t began = clock_mono_ms();
        struct stream *s = provider[0].live;
        session_stt_ready(s->stt);
        const size_t all = 2 * RATE, chunk = RATE * 30 / 1000;
        while (s->n < all && clock_mono_ms() - began < DEADLINE_MS) {
            ev_run(loop_ev(loop), EVRUN_NOWAIT);
            if (s->n > 4 * (clock_mono_ms() - began + 51) * RATE / 1000 + chunk)
                CU_FAIL("too fast");
        }
        CU_ASSERT_EQUAL(s->n, all);
        CU_ASSERT_TRUE(holds_from(s, 0));
        stt_feed_free(&f);
        released_once();
    }
}

/* A client that says no more leaves nothing behind: not even the end that is smaller than a chunk. */
static void test_catch_up_end(void)
{
    bool served;
    providers_reset();
    provider[0].script[0] = S_HANG;
    struct stt_feed *f = feed_make(1, "en", "", &served);
    conf.stt.catch_up = 4;
    stt_feed_start(f);
    UNTIL(provider[0].opens == 1 && provider[0].live);
    const size_t at_once = 4 * 50 * RATE / 1000; /* the rate for one tick */
    CU_ASSERT_TRUE(speak(f, at_once + 300));
    session_stt_ready(provider[0].live->stt);
    UNTIL(provider[0].live->n == at_once + 300);
    CU_ASSERT_TRUE(holds_from(provider[0].live, 0));
    stt_feed_free(&f);
    released_once();
}

/* Nor when that is all that is left to be said again after a loss. */
static void test_little_is_replayed(void)
{
    bool served;
    providers_reset();
    struct stt_feed *f = feed_make(1, "en", "", &served);
    conf.stt.catch_up = 4;
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    CU_ASSERT_TRUE(speak(f, RATE));
    UNTIL(provider[0].live->n == RATE);
    result(provider[0].live, "all but a little", 0, 0.99, 0.99);
    stream_closed(provider[0].live, OMID_STT_LOST);
    UNTIL(seen.ready == 2 && provider[0].live->n == RATE / 100);
    CU_ASSERT_TRUE(holds_from(provider[0].live, RATE - RATE / 100));
    CU_ASSERT_TRUE(speak(f, RATE / 100)); /* what is new waits for a chunk */
    turns(5);
    CU_ASSERT_EQUAL(provider[0].live->n, RATE / 100);
    stt_feed_free(&f);
    released_once();
}

/* A provider that is full between the two pieces of the ring's end gets the second when it takes more. */
static void test_full_at_the_ring_s_end(void)
{
    bool served;
    providers_reset();
    struct stt_feed *f = feed_make(1, "en", "", &served);
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    const size_t ring = 2048, rest = 100; /* the first capacity, in samples */
    CU_ASSERT_TRUE(speak(f, ring - 500));
    UNTIL(provider[0].live->n == ring - 500);
    result(provider[0].live, NULL, 0, 0, (double)(ring - 500) / RATE);
    provider[0].full_after = ring;
    CU_ASSERT_TRUE(speak(f, 500 + rest));
    UNTIL(provider[0].full_told);
    CU_ASSERT_EQUAL(provider[0].live->n, ring);
    provider[0].full_after = 0;
    session_stt_writable(provider[0].live->stt);
    UNTIL(provider[0].live->n == ring + rest);
    CU_ASSERT_TRUE(holds_from(provider[0].live, 0));
    stt_feed_free(&f);
    released_once();
}

/* Times of providers are decimal fractions: every loss begins at the sample behind what is final, at every rate. */
static void test_losses_are_seamless(void)
{
    bool served;
    providers_reset();
    struct stt_feed *f = feed_make(1, "en", "", &served);
    stt_feed_start(f);
    uint64_t final = 0;
    double before = 0;
    for (unsigned i = 1; i <= 300; i++) {
        UNTIL(seen.ready == i && provider[0].live);
        double at = (double)(i * 7 % 41 + 1) / 100; /* of this stream */
        CU_ASSERT_TRUE(speak(f, RATE / 2));
        turns(3);
        result(provider[0].live, "word", 0, at, at);
        CU_ASSERT_DOUBLE_EQUAL(seen.start, before, 1e-9);
        final += (uint64_t)(i * 7 % 41 + 1) * (RATE / 100);
        before = (double) final / RATE;
        CU_ASSERT_DOUBLE_EQUAL(seen.end, before, 1e-9);
        stream_closed(provider[0].live, OMID_STT_LOST);
        UNTIL(seen.ready == i + 1 && provider[0].live->n > 0);
        CU_ASSERT_TRUE(holds_from(provider[0].live, final));
    }
    stt_feed_free(&f);
    released_once();
}

/* A second loss while the kept audio is on its way: nothing is left out, and nothing final is said again. */
static void test_lost_while_replaying(void)
{
    for (unsigned told = 0; told < 2; told++) {
        bool served;
        providers_reset();
        provider[0].script[1] = S_LOST_AT;
        provider[0].lost_at = RATE;
        struct stt_feed *f = feed_make(1, "en", "", &served);
        conf.stt.catch_up = 8;
        stt_feed_start(f);
        UNTIL(seen.ready == 1);
        CU_ASSERT_TRUE(speak(f, 3 * RATE));
        UNTIL(provider[0].live->n == 3 * RATE);
        result(provider[0].live, "first", 0, 0.5, 0.5);
        stream_closed(provider[0].live, OMID_STT_LOST);
        UNTIL(seen.ready == 2 && provider[0].live->n > 0);
        if (told)
            result(provider[0].live, "second", 0, 0.25, 0.25);
        const size_t from = told ? RATE * 3 / 4 : RATE / 2;
        UNTIL(seen.ready == 3 && provider[0].live->n == 3 * RATE - from);
        CU_ASSERT_TRUE(holds_from(provider[0].live, from));
        result(provider[0].live, "last", 0, 0.25, 0.25);
        CU_ASSERT_DOUBLE_EQUAL(seen.start, (double)from / RATE, 1e-9);
        stt_feed_free(&f);
        released_once();
    }
}

/* More than the replay may keep: the oldest is given up, the clock is right for the rest. */
static void test_replay_overflows(void)
{
    bool served;
    providers_reset();
    struct stt_feed *f = feed_make(1, "en", "", &served);
    conf.stt.replay_ms = 1000;
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    CU_ASSERT_TRUE(speak(f, 3 * RATE));
    UNTIL(provider[0].live->n == 3 * RATE);
    stream_closed(provider[0].live, OMID_STT_LOST);
    UNTIL(seen.ready == 2 && provider[0].live->n == RATE);
    CU_ASSERT_TRUE(holds_from(provider[0].live, 2 * RATE));
    result(provider[0].live, "the rest", 0.25, 0.5, 0.5);
    CU_ASSERT_DOUBLE_EQUAL(seen.start, 2.25, 1e-9);
    stt_feed_free(&f);
    released_once();
}

/* ------------------------------------------------------------------------- the gate */

/* Milliseconds of audio, with voice or without. */
static void hear(struct stt_feed *f, bool voice, size_t ms)
{
    vad.speaking = voice;
    CU_ASSERT_TRUE(speak(f, ms * RATE / 1000));
}

static struct stt_feed *gated(unsigned providers, char *mode)
{
    bool served;
    vad.there = true;
    gate_mode = mode;
    struct stt_feed *f = feed_make(providers, "en", "", &served);
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    return f;
}

static size_t ms(size_t n)
{
    return n * RATE / 1000;
}

static int64_t fallbacks(const char *from, const char *reason)
{
    const struct metric_label labels[] = {{"component", "vad_gate"},
                                          {"from_mode", from},
                                          {"to_mode", "off"},
                                          {"reason", reason},
                                          {"outcome", "degraded"}};
    return metric_value(metric_get(METRIC_COUNTER, "omi_fallback_total",
                                   "Moves to a fallback, by component and outcome.", labels, 5, NULL, 0));
}

/* Pre-roll, speech and hangover reach the provider, to the last sample; Finalize once; times are the session's. */
static void test_gate(void)
{
    providers_reset();
    struct stt_feed *f = gated(1, "active");
    hear(f, false, 2000);
    turns(3);
    CU_ASSERT_EQUAL(provider[0].live->n, 0);
    hear(f, true, 1000);
    hear(f, false, 10000);
    turns(3);
    struct stream *s = provider[0].live;
    CU_ASSERT_EQUAL(s->n, ms(300 + 1000 + 4000));
    CU_ASSERT_TRUE(holds_from(s, ms(1700)));
    CU_ASSERT_EQUAL(provider[0].finalizes, 1);
    CU_ASSERT_EQUAL(provider[0].finalized_at, ms(300 + 1000 + 300));
    result(s, "first", 0.3, 1.3, 1.6);
    CU_ASSERT_DOUBLE_EQUAL(seen.start, 2.0, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(seen.end, 3.0, 1e-9);
    hear(f, true, 500); /* begins at 13 s, with the pre-roll at 12.7 s; 5.3 s to the provider */
    turns(3);
    CU_ASSERT_EQUAL(s->n, ms(5300 + 800));
    result(s, "second", 5.3, 6.1, 6.1);
    CU_ASSERT_DOUBLE_EQUAL(seen.start, 12.7, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(seen.end, 13.5, 1e-9);
    CU_ASSERT_EQUAL(stt_feed_position(f), ms(13500));
    CU_ASSERT_EQUAL(vad.longest, ms(100));
    CU_ASSERT_EQUAL(vad.heard, ms(13500));
    stt_feed_close(f);
    UNTIL(seen.done == 1);
    stt_feed_free(&f);
    released_once();
}

/* The whole hangover goes, also when its end is less than what is usually sent at once. */
static void test_gate_flushes(void)
{
    providers_reset();
    struct stt_feed *f = gated(1, "active");
    hear(f, true, 90);
    for (unsigned i = 0; i < 300; i++)
        hear(f, false, 17);
    turns(3);
    CU_ASSERT_EQUAL(provider[0].live->n, ms(90) + (4000 + 16) / 17 * ms(17));
    CU_ASSERT_EQUAL(provider[0].finalizes, 1);
    stt_feed_free(&f);
    released_once();
}

static void test_gate_modes(void)
{
    static const struct {
        char *mode;
        enum listen_choice asked;
        bool all, judged;
    } cases[] = {
        {"off", CHOICE_NONE, true, false},        {"shadow", CHOICE_NONE, true, true},
        {"active", CHOICE_NONE, false, true},     {"off", CHOICE_ENABLED, false, true},
        {"active", CHOICE_DISABLED, true, false}, {"shadow", CHOICE_ENABLED, false, true},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        providers_reset();
        gate_asked = cases[i].asked;
        struct stt_feed *f = gated(1, cases[i].mode);
        hear(f, false, 2000);
        hear(f, true, 100);
        hear(f, false, 6000);
        turns(3);
        CU_ASSERT_EQUAL(provider[0].live->n, cases[i].all ? ms(8100) : ms(4400));
        CU_ASSERT_EQUAL(provider[0].finalizes, cases[i].all ? 0 : 1);
        CU_ASSERT_EQUAL(vad.heard > 0, cases[i].judged);
        stt_feed_free(&f);
        released_once();
    }
}

/* Whatever fails, everything is sent from then on, it is counted, and the session goes on. */
static void test_gate_fails(void)
{
    static const struct {
        int script;
        const char *reason;
    } cases[] = {{V_NO_OPEN, "open"}, {V_ERROR, "error"}, {V_NAN, "bad_value"}, {V_LARGE, "bad_value"}};
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        providers_reset();
        int64_t before = fallbacks("active", cases[i].reason);
        vad.script = V_WORKS;
        if (cases[i].script == V_NO_OPEN)
            vad.script = V_NO_OPEN;
        struct stt_feed *f = gated(1, "active");
        hear(f, false, 1000);
        vad.script = cases[i].script;
        hear(f, false, 1000);
        turns(3);
        /* What was held goes first: nothing that might be speech is lost at the moment of the failure. */
        size_t from = cases[i].script == V_NO_OPEN ? 0 : ms(700);
        CU_ASSERT_EQUAL(provider[0].live->n, ms(2000) - from);
        CU_ASSERT_TRUE(holds_from(provider[0].live, from));
        result(provider[0].live, "text", 0.5, 0.6, 0.6);
        CU_ASSERT_DOUBLE_EQUAL(seen.start, (double)from / RATE + 0.5, 1e-9);
        CU_ASSERT_EQUAL(fallbacks("active", cases[i].reason), before + 1);
        stt_feed_configure(f, &conf); /* a reload tries again, and tells nothing new */
        if (cases[i].script == V_NO_OPEN)
            CU_ASSERT_EQUAL(fallbacks("active", cases[i].reason), before + 1);
        stt_feed_free(&f);
        released_once();
    }
}

static void test_gate_without_plugin(void)
{
    bool served;
    providers_reset();
    int64_t before = fallbacks("active", "no_plugin"), stopped = fallbacks("active", "stopped");
    gate_asked = CHOICE_ENABLED;
    struct stt_feed *f = feed_make(1, "en", "", &served);
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    hear(f, false, 1000);
    turns(3);
    CU_ASSERT_EQUAL(provider[0].live->n, ms(1000));
    CU_ASSERT_EQUAL(fallbacks("active", "no_plugin"), before + 1);
    vad.there = true; /* a reload brings one */
    stt_feed_configure(f, &conf);
    hear(f, false, 1000);
    turns(3);
    CU_ASSERT_EQUAL(provider[0].live->n, ms(1000));
    vad.att->stopping(vad.att); /* and it stops */
    vad.stopped = true;
    CU_ASSERT_EQUAL(vad.engines, 0);
    hear(f, false, 1000);
    turns(3);
    CU_ASSERT_EQUAL(provider[0].live->n, ms(2300));
    CU_ASSERT_EQUAL(fallbacks("active", "stopped"), stopped + 1);
    stt_feed_free(&f);
    released_once();
}

/* The stream breaks in the hangover: what is not final is said again, Finalize too, and the clock goes on. */
static void test_gate_replay(void)
{
    providers_reset();
    struct stt_feed *f = gated(1, "active");
    hear(f, false, 5000);
    hear(f, true, 1000);
    hear(f, false, 1000);
    turns(3);
    CU_ASSERT_EQUAL(provider[0].finalizes, 1);
    result(provider[0].live, "a", 0.3, 0.8, 0.8); /* until 5.5 s of the session */
    stream_closed(provider[0].live, OMID_STT_LOST);
    hear(f, false, 10000);
    UNTIL(seen.ready == 2 && provider[0].live->n == ms(500 + 4000));
    CU_ASSERT_TRUE(holds_from(provider[0].live, ms(5500)));
    CU_ASSERT_EQUAL(provider[0].finalizes, 2);
    CU_ASSERT_EQUAL(provider[0].finalized_at, ms(500 + 300));
    result(provider[0].live, "b", 0.0, 0.5, 0.8);
    CU_ASSERT_DOUBLE_EQUAL(seen.start, 5.5, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(seen.end, 6.0, 1e-9);
    hear(f, true, 100); /* at 17 s */
    turns(3);
    result(provider[0].live, "c", 4.8, 4.9, 4.9);
    CU_ASSERT_DOUBLE_EQUAL(seen.start, 17.0, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(seen.end, 17.1, 1e-9);
    stt_feed_free(&f);
    released_once();
}

/* A session that says nothing for long holds no audio but the pre-roll, although nothing was ever made final. */
static void test_gate_memory(void)
{
    providers_reset();
    struct stt_feed *f = gated(1, "active");
    hear(f, true, 20000);
    turns(3);
    CU_ASSERT_TRUE(budget_used() > 20 * RATE * 2);
    hear(f, false, 10000);
    turns(3);
    CU_ASSERT_TRUE(budget_used() > 20 * RATE * 2); /* could still be wanted again */
    hear(f, false, 30000);
    turns(3);
    CU_ASSERT_EQUAL(budget_used(), ms(300) * sizeof(int16_t));
    /* Broken now, the stream is opened again, with nothing to say. */
    stream_closed(provider[0].live, OMID_STT_LOST);
    UNTIL(seen.ready == 2);
    hear(f, true, 100);
    turns(3);
    CU_ASSERT_EQUAL(provider[0].live->n, ms(400));
    result(provider[0].live, "late", 0.3, 0.4, 0.4);
    CU_ASSERT_DOUBLE_EQUAL(seen.start, 60.0, 1e-9);
    stt_feed_free(&f);
    released_once();
}

/* Hours of silence, in which the provider hangs up now and then: never used up, as long as its streams live for long.
 */
static void test_gate_hangups(void)
{
    providers_reset();
    struct stt_feed *f = gated(2, "active");
    hear(f, true, 100);
    hear(f, false, 60000);
    for (unsigned i = 0; i < 6; i++) {
        unsigned ready = seen.ready;
        clock_skew_ms += 3600 * 1000;
        stream_closed(provider[0].live, OMID_STT_LOST);
        UNTIL(seen.ready == ready + 1);
        CU_ASSERT_STRING_EQUAL(seen.provider, "one");
        hear(f, false, 1000);
    }
    clock_skew_ms = 0;
    stt_feed_free(&f);
    released_once();
}

/* ---- any order of speech, silence, results and losses ---- */

static struct {
    uint64_t seed;
    uint8_t *voice;  /* by position: was it speech */
    uint8_t *told;   /* how often */
    double last_end; /* of what was told */
    size_t streamed; /* of the live stream: told up to here */
    struct stream *of;
} any;

static uint32_t rnd(uint32_t n)
{
    any.seed = any.seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(any.seed >> 33) % n;
}

/* The text names first and last sample: a segment's time must be theirs. */
static void check_told(const struct omid_stt_segment *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned first, last;
        CU_ASSERT_EQUAL_FATAL(sscanf(s[i].text, "%u-%u", &first, &last), 2);
        CU_ASSERT_DOUBLE_EQUAL(s[i].start, (double)first / RATE, 1e-9);
        CU_ASSERT_DOUBLE_EQUAL(s[i].end, (double)(last + 1) / RATE, 1e-9);
        CU_ASSERT_TRUE(s[i].start >= any.last_end - 1e-9); /* time does not run backwards */
        any.last_end = s[i].end;
    }
}

/* A truthful provider tells a piece of what it has. */
static void any_result(struct stream *s, size_t upto)
{
    size_t from = any.streamed;
    if (upto <= from)
        return;
    for (size_t i = from; i < upto; i++)
        any.told[(uint16_t)s->pcm[i]]++;
    char text[32];
    snprintf(text, sizeof text, "%u-%u", (unsigned)(uint16_t)s->pcm[from], (unsigned)(uint16_t)s->pcm[upto - 1]);
    any.streamed = upto;
    result(s, text, (double)from / RATE, (double)upto / RATE, (double)upto / RATE);
}

static struct stream *any_stream(void)
{
    struct stream *s = provider[0].live;
    if (!s || s->ended)
        return NULL;
    if (s != any.of || s->n < any.streamed) {
        any.of = s;
        any.streamed = 0;
    }
    return s;
}

static void test_gate_any_order(void)
{
    for (unsigned round = 0; round < 40; round++) {
        providers_reset();
        any.seed = round;
        any.voice = calloc(65536, 1);
        any.told = calloc(65536, 1);
        any.last_end = 0;
        any.of = NULL;
        struct stt_feed *f = gated(1, "active");
        seen.on_segments = check_told;
        conf.stt.gate_preroll_ms = rnd(60);
        conf.stt.gate_hangover_ms = rnd(150);
        conf.stt.gate_finalize_ms = rnd(100);
        stt_feed_configure(f, &conf);
        unsigned ready = 1;
        while (stt_feed_position(f) < 64000) {
            size_t n = 1 + rnd(300);
            if (rnd(10) == 0)
                vad.speaking = !vad.speaking;
            memset(any.voice + stt_feed_position(f), vad.speaking, n);
            CU_ASSERT_TRUE(speak(f, n));
            turns(1 + rnd(2));
            struct stream *s = any_stream();
            if (s && s->n > 0 && rnd(8) == 0)
                any_result(s, any.streamed + rnd((uint32_t)(s->n - any.streamed) + 1));
            if (s && any.streamed > 0 && rnd(20) == 0) {
                stream_closed(s, OMID_STT_LOST);
                any.of = NULL;
                ready++;
                if (rnd(2)) /* or what is said meanwhile waits */
                    UNTIL(seen.ready == ready);
            }
        }
        UNTIL(seen.ready == ready);
        turns(3);
        stt_feed_close(f);
        UNTIL(provider[0].closes == 1);
        struct stream *rest = any_stream();
        CU_ASSERT_PTR_NOT_NULL_FATAL(rest);
        any_result(rest, rest->n);
        UNTIL(seen.done == 1);
        for (size_t pos = 0; pos < 64000; pos++) {
            if (any.told[pos] > 1)
                CU_FAIL("told twice");
            if (any.voice[pos] && any.told[pos] == 0)
                CU_FAIL("speech was lost");
        }
        stt_feed_free(&f);
        released_once();
        free(any.voice);
        free(any.told);
    }
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    loop = loop_new("test");
    CU_pSuite s = CU_add_suite("stt feed", NULL, NULL);
    CU_add_test(s, "one stream from start to end", test_one_stream);
    CU_add_test(s, "less than 30 ms waits", test_little_audio_waits);
    CU_add_test(s, "a provider that refuses gives way", test_next_provider);
    CU_add_test(s, "none left", test_none_left);
    CU_add_test(s, "lost in mid-stream: replay, continuous clock", test_lost_in_mid_stream);
    CU_add_test(s, "always lost: given up", test_always_lost);
    CU_add_test(s, "full provider, full buffer", test_full_provider_and_full_buffer);
    CU_add_test(s, "the client leaves while opening", test_left_while_opening);
    CU_add_test(s, "the client leaves before the start", test_left_before_start);
    CU_add_test(s, "language and preference", test_language_and_preference);
    CU_add_test(s, "a result beyond what was sent", test_boastful_result);
    CU_add_test(s, "a plugin stops under its stream", test_plugin_stops);
    CU_add_test(s, "a plugin stops while the session closes", test_plugin_stops_while_closing);
    CU_add_test(s, "a message larger than the buffer", test_message_larger_than_buffer);
    CU_add_test(s, "words are final", test_words_are_final);
    CU_add_test(s, "what waited is caught up with", test_catch_up);
    CU_add_test(s, "to its end", test_catch_up_end);
    CU_add_test(s, "so little is said again", test_little_is_replayed);
    CU_add_test(s, "full at the ring's end", test_full_at_the_ring_s_end);
    CU_add_test(s, "losses are seamless", test_losses_are_seamless);
    CU_add_test(s, "lost while replaying", test_lost_while_replaying);
    CU_add_test(s, "more than the replay keeps", test_replay_overflows);
    CU_add_test(s, "gate: what is sent, and when it was", test_gate);
    CU_add_test(s, "gate: the rest is not kept back", test_gate_flushes);
    CU_add_test(s, "gate: modes, and the client's choice", test_gate_modes);
    CU_add_test(s, "gate: fails open", test_gate_fails);
    CU_add_test(s, "gate: no plugin, one comes, and goes", test_gate_without_plugin);
    CU_add_test(s, "gate: a stream is lost", test_gate_replay);
    CU_add_test(s, "gate: memory in a long silence", test_gate_memory);
    CU_add_test(s, "gate: hang-ups in a long silence", test_gate_hangups);
    CU_add_test(s, "gate: any order", test_gate_any_order);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    loop_free(&loop);
    return failed != 0;
}
