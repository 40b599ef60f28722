/* The ring of audio that is not final yet: order across its end, how large it is while results come, and its account.
 */
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"
#include "session/audio_ring.h"
#include "unit.h"

enum { RATE = 16000, CHUNK = RATE / 10, SECOND = 10 /* chunks */ };

/* Position p holds (int16_t)p. */
static bool feed(struct audio_ring *r, unsigned chunks)
{
    int16_t pcm[CHUNK];
    for (unsigned i = 0; i < chunks; i++) {
        for (size_t k = 0; k < CHUNK; k++)
            pcm[k] = (int16_t)(r->end + k);
        if (!audio_ring_append(r, pcm, CHUNK))
            return false;
    }
    return true;
}

static bool intact(const struct audio_ring *r)
{
    for (uint64_t pos = r->base; pos < r->end;) {
        size_t n;
        const int16_t *pcm = audio_ring_at(r, pos, SIZE_MAX, &n);
        for (size_t k = 0; k < n; k++) {
            if (pcm[k] != (int16_t)(pos + k))
                return false;
        }
        pos += n;
    }
    return true;
}

/* A provider that answers once a second, for what came until `behind` chunks ago. */
static bool results(struct audio_ring *r, unsigned seconds, unsigned behind)
{
    bool ok = true;
    for (unsigned i = 0; i < seconds; i++) {
        ok = feed(r, SECOND) && intact(r) && ok;
        audio_ring_trim(r, r->end - (uint64_t)behind * CHUNK);
        ok = intact(r) && ok;
    }
    return ok;
}

static int64_t held(void)
{
    return metric_value(metric_gauge("omid_memory_replay_bytes", ""));
}

static void test_steady(void)
{
    struct audio_ring r = {0};
    audio_ring_metrics();
    int64_t before = held();
    CU_ASSERT(results(&r, 40, 8)); /* 0.8 to 1.8 s: 28,800 samples */
    CU_ASSERT_EQUAL(r.cap, 32768);
    CU_ASSERT_EQUAL(held() - before, 32768 * 2);
    audio_ring_free(&r);
    CU_ASSERT_EQUAL(held(), before);
}

/* A slow start, or a provider that was away: what it took is given back when results come again. */
static void test_shrinks(void)
{
    struct audio_ring r = {0};
    CU_ASSERT(feed(&r, 6 * SECOND));
    CU_ASSERT_EQUAL(r.cap, 131072);
    CU_ASSERT(results(&r, 15, 8));
    CU_ASSERT_EQUAL(r.cap, 131072); /* not at once */
    CU_ASSERT(results(&r, 17, 8));
    CU_ASSERT_EQUAL(r.cap, 32768);
    CU_ASSERT(results(&r, 40, 0)); /* and to less */
    CU_ASSERT_EQUAL(r.cap, 16384);
    const int16_t *data = r.data;
    CU_ASSERT(results(&r, 40, 0));
    CU_ASSERT_PTR_EQUAL(r.data, data); /* and stays */
    audio_ring_free(&r);
}

/* Results from within the call that hands the provider its samples. */
static void test_pinned(void)
{
    struct audio_ring r = {0};
    CU_ASSERT(feed(&r, 6 * SECOND));
    r.pinned = true;
    const int16_t *data = r.data;
    for (unsigned i = 0; i < 6 * SECOND; i++)
        audio_ring_trim(&r, r.base + CHUNK);
    CU_ASSERT_PTR_EQUAL(r.data, data);
    r.pinned = false;
    CU_ASSERT(results(&r, 34, 8));
    CU_ASSERT_EQUAL(r.cap, 32768);
    audio_ring_free(&r);
}

static void test_release(void)
{
    struct audio_ring r = {0};
    int64_t before = held();
    CU_ASSERT(feed(&r, 3));
    audio_ring_release(&r); /* not while it holds something */
    CU_ASSERT(intact(&r));
    audio_ring_trim(&r, UINT64_MAX);
    CU_ASSERT_EQUAL(r.base, 3 * CHUNK);
    audio_ring_release(&r);
    CU_ASSERT_EQUAL(held(), before);
    CU_ASSERT(feed(&r, 1));
    CU_ASSERT_EQUAL(r.base, 3 * CHUNK); /* positions stay */
    CU_ASSERT(intact(&r));
    audio_ring_free(&r);
    CU_ASSERT_EQUAL(held(), before);
}

/* Rings for voices are counted apart, and say beforehand what they would grow by. */
static void test_uses(void)
{
    struct audio_ring voices = {.use = AUDIO_RING_VOICES}, replay = {0};
    size_t before = audio_ring_held(AUDIO_RING_VOICES), other = audio_ring_held(AUDIO_RING_REPLAY);
    size_t growth = audio_ring_growth(&voices, RATE);
    CU_ASSERT(growth >= RATE * sizeof(int16_t));
    CU_ASSERT(feed(&voices, SECOND));
    CU_ASSERT_EQUAL(audio_ring_held(AUDIO_RING_VOICES), before + growth);
    CU_ASSERT_EQUAL(audio_ring_held(AUDIO_RING_REPLAY), other);
    CU_ASSERT_EQUAL(audio_ring_growth(&voices, 1), 0);
    CU_ASSERT(audio_ring_growth(&voices, 10 * RATE) > 0);
    CU_ASSERT(feed(&replay, SECOND));
    CU_ASSERT_EQUAL(audio_ring_held(AUDIO_RING_VOICES), before + growth);
    audio_ring_free(&replay);
    audio_ring_free(&voices);
    audio_ring_account(AUDIO_RING_VOICES, 100);
    CU_ASSERT_EQUAL(audio_ring_held(AUDIO_RING_VOICES), before + 100);
    audio_ring_account(AUDIO_RING_VOICES, -100);
    CU_ASSERT_EQUAL(audio_ring_held(AUDIO_RING_VOICES), before);
}

int main(void)
{
    CU_TestInfo tests[] = {{"steady", test_steady},   {"shrinks", test_shrinks}, {"pinned", test_pinned},
                           {"release", test_release}, {"uses", test_uses},       CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"audio ring", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
