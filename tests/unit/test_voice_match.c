/* Vectors compared: the distance, what can't be compared, who is nearest. */
#include <math.h>

#include "session/voice_match.h"
#include "unit.h"

static void test_distance(void)
{
    static const float x[] = {1, 0}, y[] = {0, 3}, minus[] = {-2, 0}, zero[] = {0, 0}, three[] = {1, 0, 0};
    const float nan_[] = {NAN, 1}, inf[] = {INFINITY, 1}, huge[] = {3e38F, 3e38F}, tiny[] = {1e-40F, 1e-40F};
    CU_ASSERT_DOUBLE_EQUAL(voice_distance(x, 2, x, 2), 0, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(voice_distance(x, 2, y, 2), 1, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(voice_distance(x, 2, minus, 2), 2, 1e-12);
    CU_ASSERT_EQUAL(voice_distance(x, 2, three, 3), VOICE_APART);
    CU_ASSERT_EQUAL(voice_distance(x, 2, zero, 2), VOICE_APART);
    CU_ASSERT_EQUAL(voice_distance(zero, 2, zero, 2), VOICE_APART);
    CU_ASSERT_EQUAL(voice_distance(x, 2, nan_, 2), VOICE_APART);
    CU_ASSERT_EQUAL(voice_distance(inf, 2, x, 2), VOICE_APART);
    CU_ASSERT_EQUAL(voice_distance(x, 0, y, 0), VOICE_APART);
    CU_ASSERT_DOUBLE_EQUAL(voice_distance(huge, 2, huge, 2), 0, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(voice_distance(tiny, 2, huge, 2), 0, 1e-6);
    CU_ASSERT(voice_usable(x, 2) && voice_usable(huge, 2) && voice_usable(tiny, 2));
    CU_ASSERT_FALSE(voice_usable(zero, 2) || voice_usable(nan_, 2) || voice_usable(inf, 2) || voice_usable(x, 0));
}

static void test_match(void)
{
    float ben[] = {1, 0}, near_ben[] = {1, 0.1F}, owner[] = {1, 0.05F}, long_[] = {1, 0, 0};
    struct store_voice v[] = {{.person_id = "ben", .name = "Ben", .vector = ben, .dim = 2},
                              {.person_id = "dan", .name = "Dan", .vector = near_ben, .dim = 2},
                              {.person_id = STORE_OWNER, .name = "", .vector = owner, .dim = 2},
                              {.person_id = "eve", .name = "Eve", .vector = long_, .dim = 3}};
    const struct store_voices all = {.voice = v, .n = 4}, none = {.n = 0};
    const float exactly[] = {1, 0}, away[] = {0, 1}, at45[] = {0.55F, 0.83516465F};
    double d;
    CU_ASSERT_PTR_EQUAL(voice_match(&all, exactly, 2, true, 0.45, &d), &v[0]);
    CU_ASSERT_DOUBLE_EQUAL(d, 0, 1e-9);
    CU_ASSERT_PTR_EQUAL(voice_match(&all, owner, 2, true, 0.45, NULL), &v[2]);
    CU_ASSERT_PTR_NOT_EQUAL(voice_match(&all, owner, 2, false, 0.45, NULL), &v[2]);
    CU_ASSERT_PTR_NULL(voice_match(&all, away, 2, true, 0.45, &d));
    CU_ASSERT(d > 0.45 && d < 1);
    CU_ASSERT_PTR_NULL(voice_match(&none, exactly, 2, true, 0.45, &d));
    CU_ASSERT_EQUAL(d, VOICE_APART);
    /* Below, not at. */
    const struct store_voices one = {.voice = v, .n = 1};
    (void)voice_match(&one, at45, 2, true, 0.45, &d);
    CU_ASSERT_DOUBLE_EQUAL(d, 0.45, 1e-6);
    CU_ASSERT_PTR_NULL(voice_match(&one, at45, 2, true, d, NULL));
    CU_ASSERT_PTR_EQUAL(voice_match(&one, at45, 2, true, d + 1e-9, NULL), &v[0]);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"distance", test_distance},
        {"match", test_match},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"voice_match", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
