/*
 * The gate and the provider's clock: tables of cases, and orders made at random, each with the audio's own time. What
 * must hold whatever comes: received = sent + withheld + held, what is sent is a sequence of pieces of what came, and
 * the provider's times told as the session's point to the very samples, and never run backwards.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session/gate.h"
#include "unit.h"

#define RATE 1000 /* a sample is a millisecond */

static const struct gate_settings active = {GATE_ACTIVE, 0.65F, 300, 4000, 300};

/* -------------------------------------------------------------- a gate and what came out */

struct run {
    struct gate g;
    uint64_t said;     /* samples put in */
    uint64_t *out;     /* for every sample that came out, its position */
    size_t n, cap;     /* of out */
    size_t finals[64]; /* samples that were out at each Finalize */
    unsigned n_finals;
};

static void run_begin(struct run *r, const struct gate_settings *set)
{
    *r = (struct run){0};
    gate_init(&r->g, RATE);
    CU_ASSERT_TRUE_FATAL(gate_configure(&r->g, set));
}

static void run_end(struct run *r)
{
    gate_free(&r->g);
    free(r->out);
}

static void accounts(const struct run *r)
{
    const struct gate_counts *c = &r->g.counts;
    CU_ASSERT_EQUAL(c->received, r->said);
    CU_ASSERT_EQUAL(c->sent, r->n);
    CU_ASSERT_EQUAL(c->received, c->sent + c->withheld + c->held);
    CU_ASSERT_TRUE(r->g.clock.n >= 1 && r->g.clock.n <= STT_CLOCK_MAX);
}

/* Samples carry their position, modulo 2^16. */
static void say(struct run *r, size_t n, float probability)
{
    int16_t *pcm = malloc(n * sizeof *pcm);
    struct gate_step step;
    for (size_t i = 0; i < n; i++)
        pcm[i] = (int16_t)(uint16_t)(r->said + i);
    r->said += n;
    size_t promised = gate_would_send(&r->g, n, probability), sent = 0;
    gate_chunk(&r->g, pcm, n, probability, 0, &step);
    for (unsigned i = 0; i < step.pieces; i++) {
        sent += step.n[i];
        for (size_t k = 0; k < step.n[i]; k++) {
            if (r->n == r->cap)
                r->out = realloc(r->out, (r->cap = r->cap ? r->cap * 2 : 1024) * sizeof *r->out);
            uint16_t back = (uint16_t)(r->said - 1) - (uint16_t)step.pcm[i][k];
            r->out[r->n++] = r->said - 1 - back;
        }
    }
    CU_ASSERT_EQUAL(sent, promised);
    if (step.finalize)
        r->finals[r->n_finals++ % 64] = r->n;
    accounts(r);
    free(pcm);
}

static void say_ms(struct run *r, size_t ms, size_t chunk, float probability)
{
    for (; ms >= chunk; ms -= chunk)
        say(r, chunk, probability);
    if (ms > 0)
        say(r, ms, probability);
}

/* Every sample that the provider from `settled` on names is the one that was said. */
static void clock_tells(const struct run *r, size_t from)
{
    double last = -1;
    for (size_t i = from; i < r->n; i++) {
        double start = stt_clock_start(&r->g.clock, (double)i), end = stt_clock_end(&r->g.clock, (double)i + 1);
        if (start != (double)r->out[i] || end != (double)r->out[i] + 1 || start <= last)
            CU_FAIL("the clock is wrong");
        last = start;
    }
}

/* -------------------------------------------------------------------------- tables */

struct part {
    size_t ms;
    float probability;
};

static const struct {
    const char *what;
    struct part part[8];
    size_t chunk;
    struct {
        uint64_t from, to;
    } sent[4]; /* in 100 ms chunks */
    unsigned finals;
} cases[] = {
    {"silence alone", {{5000, 0}}, 100, {{0}}, 0},
    {"speech at once", {{1000, 1}}, 100, {{0, 1000}}, 0},
    {"the threshold itself is silence", {{1000, 0.65F}}, 100, {{0}}, 0},
    {"pre-roll", {{1000, 0}, {100, 1}}, 100, {{700, 1100}}, 0},
    {"less silence than a pre-roll", {{200, 0}, {100, 1}}, 100, {{0, 300}}, 0},
    {"hangover", {{1000, 0}, {100, 1}, {9000, 0}}, 100, {{700, 5100}}, 1},
    {"hangover, chunks that don't divide it", {{1000, 0}, {70, 1}, {9000, 0}}, 70, {{700, 5130}}, 1},
    {"speech within the hangover", {{100, 1}, {3900, 0}, {100, 1}, {9000, 0}}, 100, {{0, 8100}}, 2},
    {"a pause below Finalize", {{100, 1}, {200, 0}, {100, 1}}, 100, {{0, 400}}, 0},
    {"a pause of Finalize", {{100, 1}, {300, 0}, {100, 1}}, 100, {{0, 500}}, 1},
    {"one Finalize a pause", {{100, 1}, {3000, 0}}, 100, {{0, 3100}}, 1},
    {"two phrases", {{1000, 0}, {100, 1}, {8900, 0}, {100, 1}}, 100, {{700, 5100}, {9700, 10100}}, 1},
    {"silence shorter than a pre-roll between", {{100, 1}, {4100, 0}, {100, 1}}, 100, {{0, 4300}}, 1},
    {"chunks of 10 ms", {{1000, 0}, {100, 1}, {9000, 0}}, 10, {{700, 5100}}, 1},
    {"one large chunk each", {{1000, 0}, {1000, 1}, {9000, 0}}, 9000, {{700, 11000}}, 1},
};

static void test_table(void)
{
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct run r;
        run_begin(&r, &active);
        for (size_t i = 0; cases[c].part[i].ms; i++)
            say_ms(&r, cases[c].part[i].ms, cases[c].chunk, cases[c].part[i].probability);
        size_t at = 0;
        bool same = true;
        for (size_t i = 0; i < 4; i++) {
            for (uint64_t pos = cases[c].sent[i].from; pos < cases[c].sent[i].to; pos++, at++)
                same = same && at < r.n && r.out[at] == pos;
        }
        same = same && at == r.n;
        if (!same || r.n_finals != cases[c].finals)
            printf("\n    %s: %zu sent, %u finals ", cases[c].what, r.n, r.n_finals);
        CU_ASSERT_TRUE(same);
        CU_ASSERT_EQUAL(r.n_finals, cases[c].finals);
        clock_tells(&r, 0);
        run_end(&r);
    }
}

/* Finalize comes when its time is over, behind the audio. */
static void test_finalize(void)
{
    struct run r;
    run_begin(&r, &active);
    say_ms(&r, 500, 100, 1);
    say_ms(&r, 6000, 100, 0);
    CU_ASSERT_EQUAL(r.n_finals, 1);
    CU_ASSERT_EQUAL(r.finals[0], 800);
    run_end(&r);

    static const struct gate_settings short_hangover = {GATE_ACTIVE, 0.65F, 300, 200, 300};
    run_begin(&r, &short_hangover); /* at the latest with the hangover's end */
    say_ms(&r, 500, 100, 1);
    say_ms(&r, 6000, 100, 0);
    CU_ASSERT_EQUAL(r.n_finals, 1);
    CU_ASSERT_EQUAL(r.finals[0], 700);
    CU_ASSERT_EQUAL(r.n, 700);
    run_end(&r);

    static const struct gate_settings none = {GATE_ACTIVE, 0.65F, 0, 0, 0};
    run_begin(&r, &none);
    say_ms(&r, 500, 100, 1);
    say_ms(&r, 6000, 100, 0);
    say_ms(&r, 100, 100, 1);
    CU_ASSERT_EQUAL(r.n_finals, 1);
    CU_ASSERT_EQUAL(r.n, 700); /* the chunk that told */
    CU_ASSERT_EQUAL(r.g.counts.held, 0);
    clock_tells(&r, 0);
    run_end(&r);
}

static void test_modes(void)
{
    struct run r;
    struct gate_settings set = active;
    set.mode = GATE_OFF;
    run_begin(&r, &set);
    say_ms(&r, 10000, 100, 0);
    CU_ASSERT_EQUAL(r.n, 10000);
    CU_ASSERT_EQUAL(r.g.counts.chunks, 0);

    set.mode = GATE_SHADOW;
    CU_ASSERT_TRUE(gate_configure(&r.g, &set));
    say_ms(&r, 5000, 100, 0);
    say_ms(&r, 1000, 100, 1);
    say_ms(&r, 6000, 100, 0);
    CU_ASSERT_EQUAL(r.n, 22000);
    CU_ASSERT_EQUAL(r.n_finals, 0);
    CU_ASSERT_EQUAL(r.g.counts.chunks, 120);
    CU_ASSERT_EQUAL(r.g.counts.chunks_speech, 10);
    CU_ASSERT_EQUAL(r.g.counts.would_send, 300 + 1000 + 4000);
    CU_ASSERT_EQUAL(r.g.counts.would_withhold, 4700 + 2000 - 300);

    CU_ASSERT_TRUE(gate_configure(&r.g, &active)); /* in the middle of a silence: what came is sent */
    say_ms(&r, 5000, 100, 0);
    CU_ASSERT_EQUAL(r.n, 22000);
    CU_ASSERT_EQUAL(r.g.counts.held, 300);

    set.mode = GATE_OFF;
    CU_ASSERT_TRUE(gate_configure(&r.g, &set)); /* what is held goes with the next chunk */
    say_ms(&r, 1000, 100, 0);
    CU_ASSERT_EQUAL(r.n, 23300);
    CU_ASSERT_EQUAL(r.g.counts.held, 0);
    CU_ASSERT_PTR_NULL(r.g.preroll);
    clock_tells(&r, 0);
    run_end(&r);
}

static void test_preroll_resized(void)
{
    static const uint32_t sizes[] = {300, 100, 500, 1, 0, 300};
    struct run r;
    struct gate_settings set = active;
    run_begin(&r, &set);
    uint64_t expected = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        set.preroll_ms = sizes[i];
        CU_ASSERT_TRUE(gate_configure(&r.g, &set));
        expected = expected < sizes[i] ? expected : sizes[i];
        CU_ASSERT_EQUAL(r.g.counts.held, expected);
        accounts(&r);
        say(&r, 130, 0);
        expected = expected + 130 < sizes[i] ? expected + 130 : sizes[i];
        CU_ASSERT_EQUAL(r.g.counts.held, expected);
    }
    say(&r, 10, 1);
    CU_ASSERT_EQUAL(r.n, 140);
    clock_tells(&r, 0);
    run_end(&r);
}

/* --------------------------------------------------------------------------- clock */

static void test_clock(void)
{
    struct stt_clock c;
    stt_clock_init(&c);
    CU_ASSERT_EQUAL(stt_clock_start(&c, 5), 5);
    stt_clock_mark(&c, 0, 100, 0); /* 100 left out at the beginning */
    CU_ASSERT_EQUAL(stt_clock_start(&c, 0), 100);
    CU_ASSERT_EQUAL(stt_clock_end(&c, 0), 100);
    stt_clock_mark(&c, 50, 150, 0); /* nothing left out */
    CU_ASSERT_EQUAL(c.n, 1);
    stt_clock_mark(&c, 50, 250, 0);
    CU_ASSERT_EQUAL(c.n, 2);
    CU_ASSERT_EQUAL(stt_clock_start(&c, 49.5), 149.5);
    CU_ASSERT_EQUAL(stt_clock_end(&c, 50), 150); /* an end is before the gap */
    CU_ASSERT_EQUAL(stt_clock_start(&c, 50), 250);
    CU_ASSERT_EQUAL(stt_clock_end(&c, 51), 251);
    stt_clock_free(&c);
}

static void test_clock_bound(void)
{
    struct stt_clock c;
    stt_clock_init(&c);
    for (uint64_t i = 1; i <= 2000; i++) {
        stt_clock_mark(&c, i * 10, i * 100, 0);
        CU_ASSERT_TRUE(c.n <= STT_CLOCK_MAX);
    }
    CU_ASSERT_EQUAL(c.n, STT_CLOCK_MAX);
    for (uint64_t i = 1501; i <= 2000; i++)
        CU_ASSERT_EQUAL(stt_clock_start(&c, (double)i * 10 + 5), (double)i * 100 + 5);
    double last = 0; /* before what is remembered: near, and never backwards */
    for (uint64_t at = 0; at < 20010; at++) {
        double s = stt_clock_start(&c, (double)at);
        CU_ASSERT_TRUE(s >= last);
        last = s;
    }
    stt_clock_free(&c);

    stt_clock_init(&c); /* results have come: little is remembered */
    for (uint64_t i = 1; i <= 2000; i++)
        stt_clock_mark(&c, i * 10, i * 100, i * 10 - 15);
    CU_ASSERT_TRUE(c.n <= STT_CLOCK_FEW);
    CU_ASSERT_PTR_NULL(c.more);
    CU_ASSERT_EQUAL(stt_clock_start(&c, 19995), 199905);
    stt_clock_free(&c);
}

/* ----------------------------------------------------------------- orders at random */

static uint64_t seed;
static uint32_t rnd(uint32_t n)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33) % n;
}

static void test_random(void)
{
    for (unsigned round = 0; round < 300; round++) {
        struct run r;
        struct gate_settings set = active;
        seed = round;
        run_begin(&r, &set);
        float p = 0;
        for (unsigned i = 0; i < 400; i++) {
            if (rnd(12) == 0)
                p = (float)rnd(101) / 100;
            if (rnd(40) == 0) {
                set.mode = (enum gate_mode)rnd(3);
                set.preroll_ms = rnd(600);
                set.hangover_ms = rnd(3000);
                set.finalize_ms = rnd(600);
                set.threshold = (float)rnd(101) / 100;
                CU_ASSERT_TRUE(gate_configure(&r.g, &set));
            }
            say(&r, 1 + rnd(100), p);
        }
        /* Positions only ever grow, so nothing is doubled; what the settings send is never left out. */
        for (size_t i = 1; i < r.n; i++) {
            if (r.out[i] <= r.out[i - 1])
                CU_FAIL("out of order");
        }
        clock_tells(&r, 0);
        run_end(&r);
    }
}

/* Speech is never lost: whatever was above the threshold came out. */
static void test_speech_comes_out(void)
{
    for (unsigned round = 0; round < 100; round++) {
        struct run r;
        seed = 1000 + round;
        run_begin(&r, &active);
        bool *speech = calloc(200 * 400, sizeof *speech);
        for (unsigned i = 0; i < 400; i++) {
            float p = rnd(30) == 0 ? 0.9F : 0.1F;
            size_t n = 1 + rnd(200);
            for (size_t k = 0; k < n; k++)
                speech[r.said + k] = p > 0.65F;
            say(&r, n, p);
        }
        size_t at = 0;
        for (uint64_t pos = 0; pos < r.said; pos++) {
            while (at < r.n && r.out[at] < pos)
                at++;
            if (speech[pos] && (at == r.n || r.out[at] != pos))
                CU_FAIL("speech was withheld");
        }
        free(speech);
        run_end(&r);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"a table of cases", test_table},
        {"Finalize", test_finalize},
        {"modes, and their change", test_modes},
        {"the pre-roll is resized", test_preroll_resized},
        {"clock", test_clock},
        {"the clock's bound", test_clock_bound},
        {"orders at random", test_random},
        {"speech comes out", test_speech_comes_out},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"gate", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
