/* The mixer: a table of who says how much when, and what the sum is. */
#include "session/mixer.h"

#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "bus/channel.h"
#include "unit.h"

#define RATE 1000 /* a sample is a millisecond */
#define SKEW (RATE * MIXER_SKEW_S)

/* Channel, how many samples, of this value; a channel of -1 flushes. */
struct step {
    int channel;
    size_t n;
    int value;
    bool rejoins;
};
/* So many samples of this value. */
struct run {
    size_t n;
    int value;
};

struct scene {
    const char *name;
    struct step step[24];
    struct run want[24];
};

static const struct scene scenes[] = {
    {"side by side", {{0, 100, 1, 0}, {1, 100, 20, 0}, {0, 100, 2, 0}, {1, 100, 30, 0}}, {{100, 21}, {100, 32}}},
    {"of different sizes",
     {{0, 100, 1, 0}, {1, 30, 20, 0}, {1, 30, 30, 0}, {1, 40, 40, 0}},
     {{30, 21}, {30, 31}, {40, 41}}},
    {"one waits for the other", {{0, 100, 1, 0}, {0, 100, 2, 0}, {1, 50, 10, 0}}, {{50, 11}}},
    {"clamped",
     {{0, 10, 30000, 0},
      {1, 10, 30000, 0},
      {0, 10, -30000, 0},
      {1, 10, -30000, 0},
      {0, 5, 32767, 0},
      {1, 5, -32768, 0}},
     {{10, 32767}, {10, -32768}, {5, -1}}},
    {"one is missing for ever",
     {{0, 800, 1, 0}, {0, 800, 2, 0}, {0, 800, 3, 0}, {-1, 0, 0, 0}},
     {{800, 1}, {800, 2}, {800, 3}}},
    {"the other, too", {{1, 800, 1, 0}, {1, 800, 2, 0}, {-1, 0, 0, 0}}, {{800, 1}, {800, 2}}},
    {"one by one, within the skew",
     {{0, 500, 1, 0}, {0, 500, 2, 0}, {1, 500, 10, 0}, {1, 500, 20, 0}},
     {{500, 11}, {500, 22}}},
    {"a very late one, too",
     {{0, 900, 1, 0}, {0, 900, 1, 0}, {0, 900, 1, 0}, {1, 100, 10, 0}, {0, 100, 1, 0}, {1, 100, 10, 0}},
     {{2600, 1}, {200, 11}}},
    {"silent for longer than the skew, then back",
     {{0, 100, 1, 0},
      {1, 100, 10, 0},
      {0, 600, 2, 0},
      {0, 600, 2, 0},
      {1, 100, 20, 1},
      {0, 100, 3, 0},
      {1, 100, 20, 0}},
     {{100, 11}, {1100, 2}, {100, 22}, {100, 23}}},
    {"silent for less: behind, as its samples say",
     {{0, 100, 1, 0}, {1, 100, 10, 0}, {0, 500, 2, 0}, {1, 100, 20, 0}, {-1, 0, 0, 0}},
     {{100, 11}, {100, 22}, {400, 2}}},
    {"one message longer than the skew", {{0, 3500, 1, 0}, {-1, 0, 0, 0}}, {{3500, 1}}},
    {"batches of a second each",
     {{0, 1000, 1, 0}, {1, 1000, 10, 0}, {0, 1000, 2, 0}, {1, 1000, 20, 0}},
     {{1000, 11}, {1000, 22}}},
    {"both silent, then one",
     {{0, 100, 1, 0}, {1, 100, 10, 0}, {-1, 0, 0, 0}, {-1, 0, 0, 0}, {1, 200, 20, 0}, {0, 200, 2, 0}},
     {{100, 11}, {200, 22}}},
    {"each in turn, in more than the skew",
     {{0, 1500, 1, 0}, {1, 1500, 10, 0}, {0, 1500, 2, 0}, {-1, 0, 0, 0}},
     {{500, 1}, {1000, 11}, {500, 12}, {1000, 2}}},
};

static void scene_play(const struct scene *s)
{
    struct mixer *m = mixer_new(RATE);
    struct pcm out = {0};
    int16_t *pcm = malloc(4096 * sizeof *pcm);
    CU_ASSERT_FATAL(m && pcm);
    for (size_t i = 0; i < ARRAY_LEN(s->step) && (s->step[i].n > 0 || s->step[i].channel < 0); i++) {
        bool rejoined = false;
        for (size_t k = 0; k < s->step[i].n; k++)
            pcm[k] = (int16_t)s->step[i].value;
        if (s->step[i].channel < 0)
            CU_ASSERT(mixer_flush(m, &out))
        else
            CU_ASSERT(mixer_add(m, (unsigned)s->step[i].channel, pcm, s->step[i].n, &out, &rejoined));
        if (rejoined != s->step[i].rejoins) {
            CU_FAIL("rejoined");
            printf("  %s: step %zu\n", s->name, i);
        }
    }
    size_t at = 0;
    for (size_t i = 0; i < ARRAY_LEN(s->want) && s->want[i].n > 0; i++) {
        for (size_t k = 0; k < s->want[i].n; k++, at++) {
            if (at >= out.n || out.data[at] != s->want[i].value) {
                CU_FAIL("sum");
                printf("  %s: at %zu of %zu: %d, not %d\n", s->name, at, out.n, at < out.n ? out.data[at] : 0,
                       s->want[i].value);
                goto out;
            }
        }
    }
    if (at != out.n) {
        CU_FAIL("length");
        printf("  %s: %zu samples, not %zu\n", s->name, out.n, at);
    }
out:
    free(pcm);
    pcm_free(&out);
    mixer_free(&m);
    CU_ASSERT_EQUAL(budget_used(), 0);
}

static void test_scenes(void)
{
    for (size_t i = 0; i < ARRAY_LEN(scenes); i++)
        scene_play(&scenes[i]);
}

/* The place of what was said, also behind silences that were not sent. */
static void test_places(void)
{
    struct mixer *m = mixer_new(RATE);
    struct pcm out = {0};
    int16_t pcm[4096] = {0};
    bool rejoined;
    CU_ASSERT_EQUAL(mixer_place(m, 1, 77), 77);
    mixer_add(m, 0, pcm, 2000, &out, &rejoined);
    mixer_add(m, 1, pcm, 100, &out, &rejoined); /* 1900 .. 2000 */
    CU_ASSERT_EQUAL(mixer_place(m, 0, 50), 50);
    CU_ASSERT_EQUAL(mixer_place(m, 1, 0), 1900);
    CU_ASSERT_EQUAL(mixer_place(m, 1, 100), 2000);
    mixer_add(m, 0, pcm, 3000, &out, &rejoined);
    mixer_add(m, 1, pcm, 100, &out, &rejoined); /* 4900 .. 5000 */
    CU_ASSERT(rejoined);
    CU_ASSERT_EQUAL(mixer_place(m, 1, 99), 1999);
    CU_ASSERT_EQUAL(mixer_place(m, 1, 100), 4900);
    CU_ASSERT_EQUAL(mixer_place(m, 1, 199), 4999);
    /* More joins than are remembered: the last are right, the first go with the oldest known. */
    uint64_t last = 0;
    for (int i = 0; i < 3 * MIXER_MARKS; i++) {
        mixer_add(m, 0, pcm, 1500, &out, &rejoined);
        mixer_add(m, 1, pcm, 10, &out, &rejoined);
        CU_ASSERT(rejoined);
        out.n = 0;
        uint64_t position = 200 + 10 * (uint64_t)i, place = mixer_place(m, 1, position);
        CU_ASSERT(place == 5000 + 1500 * (uint64_t)(i + 1) - 10 && place > last);
        last = place;
    }
    for (uint64_t p = 1; p < 200; p++)
        CU_ASSERT(mixer_place(m, 1, p) > mixer_place(m, 1, p - 1));
    mixer_free(&m);
    pcm_free(&out);
}

/* Whatever comes in whatever order: nothing is lost, memory is bounded, places only grow. */
static void test_random(void)
{
    srand(5);
    for (int round = 0; round < 50; round++) {
        struct mixer *m = mixer_new(RATE);
        struct pcm out = {0};
        int16_t pcm[3000];
        bool rejoined;
        long long said = 0, sum = 0;
        uint64_t length = 0, position[2] = {0}, place[2] = {0};
        size_t budget = budget_used();
        for (size_t i = 0; i < ARRAY_LEN(pcm); i++)
            pcm[i] = (int16_t)(1 + rand() % 9);
        for (int i = 0; i < 200; i++) {
            unsigned c = rand() % 100 < (round % 5) * 20 + 10;
            size_t n = 1 + (size_t)rand() % (rand() % 8 ? 120 : 3000);
            for (size_t k = 0; k < n; k++)
                said += pcm[k];
            out.n = 0;
            CU_ASSERT(mixer_add(m, c, pcm, n, &out, &rejoined));
            position[c] += n;
            uint64_t now = mixer_place(m, c, position[c] - 1) + 1;
            CU_ASSERT(now >= place[c] + n);
            place[c] = now;
            length += out.n;
            uint64_t front = place[0] > place[1] ? place[0] : place[1];
            CU_ASSERT(length <= front && front - length <= SKEW);
            for (size_t k = 0; k < out.n; k++)
                sum += out.data[k];
        }
        out.n = 0;
        CU_ASSERT(mixer_flush(m, &out));
        for (size_t k = 0; k < out.n; k++)
            sum += out.data[k];
        CU_ASSERT_EQUAL(sum, said);
        CU_ASSERT_EQUAL(budget_used(), budget);
        mixer_free(&m);
        pcm_free(&out);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"scenes", test_scenes},
        {"places", test_places},
        {"random", test_random},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"mixer", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
