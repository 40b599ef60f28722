/*
 * The feed to speech-to-text against scripted providers: what is sent, what is sent again, who comes next, and that
 * every stream that was opened is released exactly once.
 */
#include <stdlib.h>

#include "base/metrics.h"
#include "feed_rig.h"
#include "unit.h"

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

/* One that takes nothing more is as gone as one that hangs up, also when it says that it could. */
static void test_stalled_provider(void)
{
    bool served;
    providers_reset();
    provider[0].full_after = RATE;
    struct stt_feed *f = feed_make(2, "en", "", &served);
    conf.stt.stall_ms = 100;
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    CU_ASSERT_TRUE(speak(f, 2 * RATE));
    UNTIL(provider[0].full_told);
    for (uint64_t end = clock_mono_ms() + FEED_DEADLINE_MS; clock_mono_ms() < end && provider[0].releases == 0;
         turns(1))
        session_stt_writable(provider[0].live->stt);
    CU_ASSERT_EQUAL(provider[0].releases, 1);
    provider[0].full_after = 0;
    UNTIL(seen.ready == 2 && provider[0].live && provider[0].live->n == 2 * RATE);
    CU_ASSERT_TRUE(holds_from(provider[0].live, 0));
    stt_feed_free(&f);
    released_once();
}

/* As time goes by, seconds are spoken and the provider takes so many: never more than waits. Until its stream ends. */
static void seconds_go_by(struct stt_feed *f, unsigned n, double takes)
{
    struct provider *p = &provider[0];
    const unsigned releases = p->releases;
    for (unsigned i = 0; i < n && p->releases == releases; i++) {
        clock_skew_ms += 1000;
        CU_ASSERT_TRUE(speak(f, RATE));
        turns(1);
        if (p->releases > releases)
            break;
        size_t all = p->live->n + (size_t)stt_feed_lag_ms(f) * RATE / 1000;
        p->full_after += (size_t)(takes * RATE);
        p->full_after = p->full_after < all ? p->full_after : all;
        session_stt_writable(p->live->stt);
        turns(2);
    }
}

/* One that is slow is lost when it has fallen behind by the time of a stall, however it came to that; one that keeps up
 * or comes after what it has missed is not. */
static void test_slow_provider(void)
{
    static const struct {
        unsigned seconds;
        double takes;
        unsigned silence; /* seconds in which nothing is said */
        unsigned then;
        double takes_then;
        bool lost;
    } cases[] = {
        {60, 1.0, 0, 0, 0, false},    {25, 0.0, 0, 0, 0, false},   {35, 0.0, 0, 0, 0, true},
        {50, 0.5, 0, 0, 0, false},    {70, 0.5, 0, 0, 0, true},    {20, 0.0, 0, 20, 2.0, false},
        {20, 0.0, 0, 20, 0.2, true}, /* what it takes does not give it all of its time anew */
        {40, 1.0, 0, 25, 0.0, false}, {25, 2.0, 0, 35, 0.0, true}, /* what it took ahead is not kept for it */
        {5, 2.0, 99, 25, 0.0, false},                              /* with nothing to take nobody is slow */
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool served;
        providers_reset();
        provider[0].full_after = RATE;
        struct stt_feed *f = feed_make(2, "en", "", &served);
        conf.stt.stall_ms = 30000;
        conf.stt.replay_ms = 300000;
        conf.listen.audio_buffer = 100u << 20;
        stt_feed_start(f);
        UNTIL(seen.ready == 1);
        CU_ASSERT_TRUE(speak(f, 3 * RATE)); /* some waits from the start: the client is ahead */
        UNTIL(provider[0].full_told);
        seconds_go_by(f, cases[i].seconds, cases[i].takes);
        clock_skew_ms += (uint64_t)1000 * cases[i].silence;
        seconds_go_by(f, cases[i].then, cases[i].takes_then);
        turns(3);
        CU_ASSERT_EQUAL(provider[0].releases, cases[i].lost);
        if (provider[0].releases != cases[i].lost)
            printf("case %u\n", i);
        stt_feed_free(&f);
        released_once();
    }
    clock_skew_ms = 0;
}

/* Three streams in a row that do not keep up, although each made some of the audio final: the next provider. When there
 * is none, it is tried on. */
static void test_always_slow(void)
{
    for (unsigned others = 0; others < 2; others++) {
        bool served;
        providers_reset();
        struct stt_feed *f = feed_make(1 + others, "en", "", &served);
        conf.stt.stall_ms = 30000;
        stt_feed_start(f);
        UNTIL(seen.ready == 1);
        for (unsigned i = 1; i <= 4 && provider[1].opens == 0; i++) {
            UNTIL(provider[0].live && provider[0].opens == i);
            provider[0].full_told = false;
            provider[0].full_after = RATE;
            CU_ASSERT_TRUE(speak(f, 2 * RATE));
            UNTIL(provider[0].full_told);
            result(provider[0].live, "some", 0, 0.1, 0.1);
            seconds_go_by(f, 70, 0.5);
            UNTIL(provider[0].releases == i);
        }
        CU_ASSERT_EQUAL(provider[0].releases, others ? 3 : 4);
        CU_ASSERT_EQUAL(seen.failed, 0);
        if (others)
            UNTIL(provider[1].live != NULL);
        stt_feed_free(&f);
        released_once();
    }
    clock_skew_ms = 0;
}

/* One that has come after everything in between is not held to what was before. */
static void test_slow_now_and_then(void)
{
    bool served;
    providers_reset();
    struct stt_feed *f = feed_make(2, "en", "", &served);
    conf.stt.stall_ms = 30000;
    stt_feed_start(f);
    for (unsigned i = 1; i <= 4; i++) {
        if (!UNTIL(provider[0].live && seen.ready == i))
            break;
        provider[0].full_told = false;
        provider[0].full_after = provider[0].live->n + RATE;
        CU_ASSERT_TRUE(speak(f, 2 * RATE));
        UNTIL(provider[0].full_told);
        seconds_go_by(f, 35, 0.0);
        provider[0].full_after = 0;
        UNTIL(provider[0].opens == i + 1 && seen.ready == i + 1);
        UNTIL(provider[0].live && stt_feed_lag_ms(f) == 0);
        double all = (double)provider[0].live->n / RATE;
        result(provider[0].live, "all", 0, all, all);
    }
    CU_ASSERT_EQUAL(provider[1].opens, 0);
    stt_feed_free(&f);
    released_once();
    clock_skew_ms = 0;
}

/* A plugin says that it takes more only when there is much room: before the stream is given up it is asked once more,
 * and what it takes counts. */
static void test_asked_before_lost(void)
{
    bool served;
    providers_reset();
    provider[0].full_after = RATE;
    struct stt_feed *f = feed_make(2, "en", "", &served);
    conf.stt.stall_ms = 20;
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    CU_ASSERT_TRUE(speak(f, 60 * RATE));
    UNTIL(provider[0].full_told);
    for (unsigned i = 1; i <= 5 && provider[0].releases == 0; i++) {
        provider[0].full_told = false;
        provider[0].full_after += (size_t)10 * RATE;
        UNTIL(provider[0].full_told || provider[0].releases > 0);
        CU_ASSERT_TRUE(provider[0].live && provider[0].live->n == (10 * i + 1) * RATE);
    }
    CU_ASSERT_EQUAL(provider[0].releases, 0);
    UNTIL(provider[0].releases == 1); /* now it takes nothing */
    stt_feed_free(&f);
    released_once();
}

/* A client that was away sends all at once what it has kept: a provider that takes it no slower than it was spoken is
 * not lost, at whatever rate; one that is slower is, and one that takes nothing. */
static void test_burst_after_a_pause(void)
{
    static const struct {
        uint32_t rate;
        double takes; /* times real time */
        bool lost;
    } cases[] = {
        {8000, 1.0, false},  {8000, 2.0, false},  {8000, 0.5, true},  {8000, 0.0, true},
        {16000, 1.0, false}, {16000, 2.0, false}, {16000, 0.5, true}, {48000, 2.0, false},
    };
    const size_t room = 131072; /* what the plugin keeps: samples; it says that there is room when half of it is */
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint32_t rate = cases[i].rate;
        const size_t burst = (size_t)180 * rate;
        bool served;
        providers_reset();
        feed_rate = rate;
        struct provider *p = &provider[0];
        struct stt_feed *f = feed_make(2, "en", "", &served);
        conf.stt.stall_ms = 10000;
        conf.listen.audio_buffer = 100u << 20;
        stt_feed_start(f);
        UNTIL(seen.ready == 1);
        CU_ASSERT_TRUE(speak(f, rate));
        UNTIL(p->live->n == rate);
        result(p->live, "before", 0, 1, 1);
        clock_skew_ms += 3600 * 1000;
        p->full_after = rate + room;
        CU_ASSERT_TRUE(speak(f, burst));
        double heard = rate;
        for (unsigned ms = 0; ms < 400 * 1000 && p->releases == 0 && stt_feed_lag_ms(f) > 0; ms += 500) {
            clock_skew_ms += 500;
            heard += cases[i].takes * rate / 2;
            heard = heard < (double)p->live->n ? heard : (double)p->live->n;
            result(p->live, NULL, 0, 0, heard / rate);
            if ((double)p->live->n - heard > room / 2. && cases[i].takes > 0)
                continue;
            p->full_after = (size_t)heard + room;
            session_stt_writable(p->live->stt);
            turns(3);
        }
        CU_ASSERT_EQUAL(p->releases, cases[i].lost);
        if (!cases[i].lost) {
            CU_ASSERT_EQUAL(p->live->n, rate + burst);
            CU_ASSERT_TRUE(holds_from(p->live, 0));
        }
        if (p->releases != cases[i].lost)
            printf("case %u\n", i);
        stt_feed_free(&f);
        released_once();
    }
    clock_skew_ms = 0;
}

/* The client leaves while the provider takes nothing: what waits is given up with the stream, in bounded time. */
static void test_left_while_stalled(void)
{
    bool served;
    providers_reset();
    provider[0].full_after = RATE;
    struct stt_feed *f = feed_make(2, "en", "", &served);
    conf.stt.stall_ms = 100;
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    CU_ASSERT_TRUE(speak(f, 2 * RATE));
    UNTIL(provider[0].full_told);
    stt_feed_close(f);
    UNTIL(seen.done == 1);
    CU_ASSERT_EQUAL(provider[0].releases, 1);
    CU_ASSERT_EQUAL(provider[0].opens + provider[1].opens, 1); /* nobody else is asked for one who has left */
    CU_ASSERT_EQUAL(seen.failed, 0);
    stt_feed_free(&f);
    released_once();
}

/* A stream that stalls may be freed as it is. */
static void test_freed_while_stalled(void)
{
    bool served;
    providers_reset();
    provider[0].full_after = RATE;
    struct stt_feed *f = feed_make(1, "en", "", &served);
    conf.stt.stall_ms = 50;
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    CU_ASSERT_TRUE(speak(f, 2 * RATE));
    UNTIL(provider[0].full_told);
    stt_feed_free(&f);
    released_once();
    for (uint64_t end = clock_mono_ms() + 100; clock_mono_ms() < end; turns(1)) /* no timer of its is left */
        ;
    CU_ASSERT_EQUAL(provider[0].opens, 1);
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
        while (s->n < all && clock_mono_ms() - began < FEED_DEADLINE_MS) {
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

/* Times of providers are decimal fractions: every loss begins at the sample behind what is final, and seconds * rate is
 * often a little less than the sample that is meant. */
static void test_losses_are_seamless(void)
{
    bool served;
    providers_reset();
    struct stt_feed *f = feed_make(1, "en", "", &served);
    stt_feed_start(f);
    uint64_t final = 0;
    double before = 0;
    for (unsigned i = 1; i <= 25; i++) {
        UNTIL(seen.ready == i && provider[0].live);
        double at = (double)(999 + 2 * i) / 1000; /* of this stream */
        CU_ASSERT_TRUE(speak(f, 2 * RATE));
        turns(3);
        result(provider[0].live, "word", 0, at, at);
        CU_ASSERT_DOUBLE_EQUAL(seen.start, before, 1e-9);
        final += (uint64_t)(999 + 2 * i) * (RATE / 1000);
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

/* More than the replay may keep: the oldest is given up and counted once, the clock is right for the rest. */
static void test_replay_overflows(void)
{
    struct metric *lost = metric_counter("omid_stt_lost_audio_bytes_total", "");
    const int64_t before = metric_value(lost);
    bool served;
    providers_reset();
    struct stt_feed *f = feed_make(1, "en", "", &served);
    conf.stt.replay_ms = 1000;
    stt_feed_start(f);
    UNTIL(seen.ready == 1);
    CU_ASSERT_TRUE(speak(f, 3 * RATE));
    UNTIL(provider[0].live->n == 3 * RATE);
    CU_ASSERT_EQUAL(metric_value(lost), before); /* the stream may still tell it */
    result(provider[0].live, "the beginning", 0, 0.5, 0.5);
    for (unsigned ready = 2; ready < 4; ready++) {
        stream_closed(provider[0].live, OMID_STT_LOST);
        UNTIL(seen.ready == ready && provider[0].live->n == RATE);
        CU_ASSERT_TRUE(holds_from(provider[0].live, 2 * RATE));
        CU_ASSERT_EQUAL(metric_value(lost), before + 3 * RATE); /* 1.5 s */
    }
    result(provider[0].live, "the rest", 0.25, 0.5, 0.5);
    CU_ASSERT_DOUBLE_EQUAL(seen.start, 2.25, 1e-9);
    stt_feed_free(&f);
    released_once();
}

int main(void)
{
    loop = loop_new("test");
    CU_TestInfo tests[] = {
        {"one stream from start to end", test_one_stream},
        {"less than 30 ms waits", test_little_audio_waits},
        {"a provider that refuses gives way", test_next_provider},
        {"none left", test_none_left},
        {"lost in mid-stream: replay, continuous clock", test_lost_in_mid_stream},
        {"always lost: given up", test_always_lost},
        {"full provider, full buffer", test_full_provider_and_full_buffer},
        {"stalled provider", test_stalled_provider},
        {"slow provider", test_slow_provider},
        {"always slow: given up for the next", test_always_slow},
        {"slow now and then", test_slow_now_and_then},
        {"asked once more before it is lost", test_asked_before_lost},
        {"a burst after a pause", test_burst_after_a_pause},
        {"left while stalled", test_left_while_stalled},
        {"freed while stalled", test_freed_while_stalled},
        {"the client leaves while opening", test_left_while_opening},
        {"the client leaves before the start", test_left_before_start},
        {"language and preference", test_language_and_preference},
        {"a result beyond what was sent", test_boastful_result},
        {"a plugin stops under its stream", test_plugin_stops},
        {"a plugin stops while the session closes", test_plugin_stops_while_closing},
        {"a message larger than the buffer", test_message_larger_than_buffer},
        {"words are final", test_words_are_final},
        {"what waited is caught up with", test_catch_up},
        {"to its end", test_catch_up_end},
        {"so little is said again", test_little_is_replayed},
        {"full at the ring's end", test_full_at_the_ring_s_end},
        {"losses are seamless", test_losses_are_seamless},
        {"lost while replaying", test_lost_while_replaying},
        {"more than the replay keeps", test_replay_overflows},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"stt feed", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    int rc = unit_run(suites);
    loop_free(&loop);
    return rc;
}
