/* The feed's gate: what of silence and speech is sent to the provider, and that times stay the session's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"
#include "bus/channel.h"
#include "feed_rig.h"
#include "unit.h"

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

/* ------------------------------------------------------------ any order of speech, silence, results and losses */

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
    loop = loop_new("test");
    CU_TestInfo tests[] = {
        {"what is sent, and when it was", test_gate},
        {"the rest is not kept back", test_gate_flushes},
        {"modes, and the client's choice", test_gate_modes},
        {"fails open", test_gate_fails},
        {"no plugin, one comes, and goes", test_gate_without_plugin},
        {"a stream is lost", test_gate_replay},
        {"memory in a long silence", test_gate_memory},
        {"hang-ups in a long silence", test_gate_hangups},
        {"any order", test_gate_any_order},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"stt feed: the gate", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    int rc = unit_run(suites);
    loop_free(&loop);
    return rc;
}
