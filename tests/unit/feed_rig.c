#include "feed_rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bus/channel.h"

uint64_t clock_skew_ms; /* a test lets hours pass */

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

/* ------------------------------------------------------------ scripted providers */

struct provider provider[3];
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

void stream_closed(struct stream *s, enum omid_stt_reason why)
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

/* ------------------------------------------------------------ scripted voice activity */

struct scripted_vad vad;
#define IS_VAD(inst) ((const void *)(inst) == (const void *)&vad)
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

/* ------------------------------------------------------------ the host's part */

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

void plugin_stop(struct provider *p)
{
    if (p->att)
        p->att->stopping(p->att);
    p->stopped = true;
    CU_ASSERT_PTR_NULL(p->live);
    CU_ASSERT_PTR_NULL(p->att);
}

/* ------------------------------------------------------------ a feed */

struct seen seen;
struct loop *loop;
struct conf conf;
char *gate_mode = "off";
enum listen_choice gate_asked;
uint32_t feed_rate = RATE;
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

struct stt_feed *feed_make(unsigned providers, const char *language, const char *preferred, bool *served)
{
    conf = (struct conf){
        .stt = {.models = {.item = models, .n = 3}, .replay_ms = 30000, .catch_up = 1000., .stall_ms = 600000},
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
                                .sample_rate = feed_rate,
                                .vad_gate = gate_asked};
    return stt_feed_new(&p, &events, NULL, served);
}

void providers_reset(void)
{
    for (unsigned i = 0; i < 3; i++)
        provider[i] = (struct provider){.model = models[i]};
    memset(&vad, 0, sizeof vad);
    gate_mode = "off";
    gate_asked = CHOICE_NONE;
    feed_rate = RATE;
}

void turns(unsigned n)
{
    while (n-- > 0) {
        providers_act();
        ev_run(loop_ev(loop), EVRUN_NOWAIT);
    }
}

bool speak(struct stt_feed *f, size_t n)
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

bool holds_from(const struct stream *s, uint64_t pos)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->pcm[i] != (int16_t)(pos + i))
            return false;
    }
    return true;
}

void result(struct stream *s, const char *text, double start, double end, double transcribed)
{
    struct omid_stt_segment seg = {.text = text, .start = start, .end = end, .speaker = 0};
    struct omid_stt_result r = {.size = sizeof r, .segments = &seg, .n = text ? 1 : 0, .transcribed = transcribed};
    session_stt_result(s->stt, &r);
}

void released_once(void)
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
