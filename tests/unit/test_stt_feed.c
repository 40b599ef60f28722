/*
 * The feed to speech-to-text against scripted providers: what is sent, what is sent again, who comes next, and that
 * every stream that was opened is released exactly once. The host is replaced by the few functions that the feed uses.
 */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/magic.h"
#include "host/host.h"
#include "session/session.h"
#include "session/stt_feed.h"

#define RATE 16000
#define DEADLINE_MS 10000

/* --------------------------------------------------------------- scripted providers */

enum script { S_READY, S_BUSY, S_FAIL, S_UNREACHED, S_CONFIG, S_HANG, S_LOST_AT };

struct provider {
    const char *model;
    enum script script[8]; /* by open(); the last one repeats */
    size_t lost_at;        /* S_LOST_AT: breaks when it has got so many samples */
    size_t full_after;     /* audio() answers EFULL from so many samples on, until told otherwise; 0: never */
    unsigned opens, releases, closes;
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
                                          .close = fake_close,
                                          .release = fake_release};

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
    return n_providers;
}
struct omid_instance *host_instance(struct host *h, unsigned reactor, unsigned module)
{
    (void)h;
    (void)reactor;
    return provider[module].stopped ? NULL : (struct omid_instance *)&provider[module];
}
bool host_running(const struct omid_instance *inst)
{
    return !((const struct provider *)inst)->stopped;
}
const struct omid_plugin *host_plugin(const struct omid_instance *inst)
{
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
    struct provider *p = (struct provider *)inst;
    CU_ASSERT_PTR_NULL(p->att);
    att->inst = inst;
    p->att = att;
}
void host_detach(struct host_attachment *att)
{
    struct provider *p = (struct provider *)att->inst;
    CU_ASSERT_PTR_EQUAL(p->att, att);
    p->att = NULL;
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
};
static struct seen seen;
static struct loop *loop;
static struct conf conf;
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
                                .sample_rate = RATE};
    return stt_feed_new(&p, &events, NULL, served);
}

static void providers_reset(void)
{
    for (unsigned i = 0; i < 3; i++)
        provider[i] = (struct provider){.model = models[i]};
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
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    loop_free(&loop);
    return failed != 0;
}
