/* The store's voices: vectors of people and of the owner, people, samples that wait; and a file of schema 2. */

#include "base/log.h"
#include "base/magic.h"
#include "fixture_store.h"
#include "store/voices.h"

#define NOW INT64_C(1769860800000)

/* ---------------------------------------------------------------- calls, waited for */

struct answer {
    _Atomic int n;
    int result;
    struct store_profile profile;
    struct store_sample sample[8];
    char person[8][40];
    size_t n_samples;
    int64_t waiting;
};

static void on_result(void *arg, int result)
{
    struct answer *a = arg;
    a->result = result;
    a->n++;
}
static void on_opened(void *arg, struct store_opened *o)
{
    on_result(arg, o->result);
}
static void on_profile(void *arg, int result, const struct store_profile *p)
{
    struct answer *a = arg;
    a->profile = *p;
    on_result(a, result);
}
static void on_samples(void *arg, const struct store_sample *sample, size_t n, int64_t waiting)
{
    struct answer *a = arg;
    a->n_samples = n;
    a->waiting = waiting;
    for (size_t i = 0; i < n && i < 8; i++) {
        a->sample[i] = sample[i];
        snprintf(a->person[i], sizeof(a->person[i]), "%s", sample[i].person_id);
    }
    on_result(a, OMID_OK);
}

#define CALL(fn, ...)                                                 \
    __extension__({                                                   \
        struct answer a_ = {0};                                       \
        int rc_ = fn(s, __VA_ARGS__, lp, on_result, &a_);             \
        rc_ != OMID_OK ? rc_ : WAIT_FOR(a_.n == 1) ? a_.result : -99; \
    })

static int voice(const char *uid, const char *person, enum store_voice_kind kind, const float *v, size_t dim)
{
    const struct store_voice_new n = {
        .uid = uid, .person_id = person, .kind = kind, .vector = v, .dim = dim, .seconds = 3, .now_ms = NOW};
    return CALL(store_voice_put, &n);
}

static struct store_profile profile(const char *uid)
{
    struct answer a = {0};
    CU_ASSERT_EQUAL_FATAL(store_profile_get(s, uid, lp, on_profile, &a), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(a.n == 1));
    return a.profile;
}

static struct answer due(int64_t created, int64_t now, unsigned attempts)
{
    struct answer a = {0};
    const struct store_samples_query q = {.created_ms = created, .due_ms = now, .max_attempts = attempts, .max = 8};
    CU_ASSERT_EQUAL_FATAL(store_samples_due(s, &q, lp, on_samples, &a), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(a.n == 1));
    return a;
}

static struct store_voices voices(const char *uid, size_t max)
{
    struct store_voices v;
    char err[256];
    CU_ASSERT_EQUAL(store_voices_read(s, uid, max, &v, err, sizeof(err)), OMID_OK);
    return v;
}

/* A conversation with two speakers, one of whom is named. */
static const char C[] = "c0000000-0000-4000-8000-00000000000c", SAMPLE[] = "50000000-0000-4000-8000-000000000001";

static void conversation(const char *segments, const char *sample_id, int speaker, const char *person)
{
    static const struct store_segment seg[] = {
        {.id = "s1", .text = "One.", .speaker = "SPEAKER_01", .speaker_id = 1, .start = 1, .end = 3},
        {.id = "s2", .text = "Longer.", .speaker = "SPEAKER_01", .speaker_id = 1, .start = 5, .end = 12},
        {.id = "s3", .text = "Other.", .speaker = "SPEAKER_02", .speaker_id = 2, .start = 13, .end = 14}};
    struct answer a = {0};
    const struct store_open_params p = {
        .uid = "ann", .create_id = C, .language = "en", .source = "omi", .now_ms = NOW, .timeout_ms = 120000};
    CU_ASSERT_EQUAL_FATAL(store_conversation_open(s, &p, lp, on_opened, &a), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(a.n == 1));
    const struct store_naming n = {.sample_id = sample_id,
                                   .speaker_id = speaker,
                                   .person_id = person,
                                   .name = "Ben",
                                   .segments = segments,
                                   .created_ms = NOW};
    const struct store_update u = {.conversation_id = C,
                                   .segment = seg,
                                   .n_segments = 3,
                                   .started_ms = NOW + 500,
                                   .finished_ms = NOW,
                                   .naming = &n,
                                   .n_namings = 1};
    CU_ASSERT_EQUAL(CALL(store_segments_put, &u), OMID_OK);
}

/* ---------------------------------------------------------------- tests */

static void test_vectors(void)
{
    static const float one[] = {0.5F, -1.25F, 3e-20F}, two[] = {1, 2};
    fixture_fresh();
    CU_ASSERT_EQUAL(voice("ann", "p-ben", STORE_VOICE_SAMPLE, one, 3), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(CALL(store_person_add, "ann", "p-ben", "Ben", NOW), OMID_OK);
    CU_ASSERT_EQUAL(voice("ann", "p-ben", STORE_VOICE_SAMPLE, one, 3), OMID_OK);
    CU_ASSERT_EQUAL(voice("eve", "p-ben", STORE_VOICE_SAMPLE, one, 3), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(voice("ann", "user", STORE_VOICE_PROFILE, two, 2), OMID_OK);
    CU_ASSERT_EQUAL(voice("ann", "user", STORE_VOICE_PROFILE, two, 0), OMID_EINVAL);
    CU_ASSERT_EQUAL(voice("ann", "user", STORE_VOICE_PROFILE, two, STORE_MAX_VECTOR + 1), OMID_EINVAL);
    fixture_close();
    CU_ASSERT_FATAL(fixture_open() && !aside);
    struct store_voices v = voices("ann", 1 << 20);
    CU_ASSERT_EQUAL_FATAL(v.n, 2);
    CU_ASSERT_STRING_EQUAL(v.voice[0].person_id, "user");
    CU_ASSERT_STRING_EQUAL(v.voice[0].name, "");
    CU_ASSERT_STRING_EQUAL(v.voice[1].name, "Ben");
    CU_ASSERT_EQUAL_FATAL(v.voice[1].dim, 3);
    CU_ASSERT(memcmp(v.voice[1].vector, one, sizeof(one)) == 0);
    size_t bytes = v.bytes;
    store_voices_free(&v);
    v = voices("ann", bytes - 1); /* the newest first */
    CU_ASSERT_EQUAL_FATAL(v.n, 1);
    CU_ASSERT_EQUAL(v.left_out, 1);
    CU_ASSERT_STRING_EQUAL(v.voice[0].person_id, "user");
    store_voices_free(&v);
    v = voices("eve", 1 << 20);
    CU_ASSERT_EQUAL(v.n, 0);
    store_voices_free(&v);
    fixture_close();
}

static void test_newest(void)
{
    fixture_fresh();
    CU_ASSERT_EQUAL(CALL(store_person_add, "ann", "p", "P", NOW), OMID_OK);
    for (int i = 0; i < STORE_MAX_VOICES + 5; i++) {
        const float v[] = {(float)i, 1};
        CU_ASSERT_EQUAL(voice("ann", "p", STORE_VOICE_SAMPLE, v, 2), OMID_OK);
        CU_ASSERT_EQUAL(voice("ann", "user", STORE_VOICE_PROFILE, v, 2), OMID_OK);
    }
    struct store_voices v = voices("ann", 1 << 20);
    CU_ASSERT_EQUAL_FATAL(v.n, STORE_MAX_VOICES + 1);
    CU_ASSERT_EQUAL(v.voice[v.n - 1].vector[0], 5);
    CU_ASSERT_EQUAL(v.voice[0].vector[0], STORE_MAX_VOICES + 4);
    store_voices_free(&v);
    fixture_close();
}

static void test_profile(void)
{
    static const float v[] = {1, 2};
    fixture_fresh();
    CU_ASSERT_EQUAL(profile("ann").created_ms, 0);
    CU_ASSERT_EQUAL(CALL(store_profile_delete, "ann"), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(voice("ann", "user", STORE_VOICE_SAMPLE, v, 2), OMID_OK);
    CU_ASSERT_EQUAL(profile("ann").created_ms, 0);
    CU_ASSERT_EQUAL(profile("ann").samples, 1);
    CU_ASSERT_EQUAL(voice("ann", "user", STORE_VOICE_PROFILE, v, 2), OMID_OK);
    CU_ASSERT_EQUAL(profile("ann").created_ms, NOW);
    CU_ASSERT_EQUAL(profile("ann").seconds, 3);
    CU_ASSERT_EQUAL(profile("eve").created_ms, 0);
    CU_ASSERT_EQUAL(CALL(store_profile_delete, "eve"), OMID_ENOTSUP);
    conversation("[\"s1\"]", SAMPLE, 1, NULL);
    CU_ASSERT_EQUAL(CALL(store_profile_delete, "ann"), OMID_OK);
    CU_ASSERT_EQUAL(profile("ann").samples, 0);
    CU_ASSERT_EQUAL(due(NOW, NOW, 0).waiting, 0);
    fixture_close();
}

static void test_people(void)
{
    static const float v[] = {1, 2};
    struct buf b = BUF_INIT(0);
    char err[256];
    fixture_fresh();
    CU_ASSERT_EQUAL(CALL(store_person_add, "ann", "p1", "Ben \"B\"", NOW), OMID_OK);
    CU_ASSERT_EQUAL(CALL(store_person_add, "ann", "p2", "Cid", NOW), OMID_OK);
    CU_ASSERT_EQUAL(voice("ann", "p2", STORE_VOICE_SAMPLE, v, 2), OMID_OK);
    CU_ASSERT_EQUAL(CALL(store_person_rename, "ann", "p1", "Bob"), OMID_OK);
    CU_ASSERT_EQUAL(CALL(store_person_rename, "eve", "p1", "Bob"), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(store_people_json(s, "ann", &b, err, sizeof(err)), OMID_OK);
    CU_ASSERT_STRING_EQUAL(b.data, "[{\"id\":\"p1\",\"name\":\"Bob\",\"created_at\":\"2026-01-31T12:00:00.000+00:00\","
                                   "\"voices\":0},{\"id\":\"p2\",\"name\":\"Cid\",\"created_at\":"
                                   "\"2026-01-31T12:00:00.000+00:00\",\"voices\":1}]");
    buf_free(&b);
    conversation("[\"s1\"]", SAMPLE, 1, "p2");
    CU_ASSERT_EQUAL(due(NOW, NOW, 0).waiting, 1);
    CU_ASSERT_EQUAL(CALL(store_person_delete, "eve", "p2"), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(CALL(store_person_delete, "ann", "p2"), OMID_OK);
    CU_ASSERT_EQUAL(CALL(store_person_delete, "ann", "p2"), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(due(NOW, NOW, 0).waiting, 0);
    struct store_voices all = voices("ann", 1 << 20);
    CU_ASSERT_EQUAL(all.n, 0);
    store_voices_free(&all);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM speaker"), 0);
    for (int i = 0; i < 999; i++) {
        char id[16];
        snprintf(id, sizeof(id), "more%d", i);
        CU_ASSERT_EQUAL(CALL(store_person_add, "ann", id, "x", NOW), OMID_OK);
    }
    CU_ASSERT_EQUAL(CALL(store_person_add, "ann", "onemore", "x", NOW), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(CALL(store_person_add, "eve", "onemore", "x", NOW), OMID_OK);
    fixture_close();
}

static void test_samples(void)
{
    static const float v[] = {1, 2};
    fixture_fresh();
    conversation("[\"s1\",\"s2\",\"gone\"]", SAMPLE, 1, "p-ben");
    CU_ASSERT_EQUAL(due(NOW - 1, NOW, 0).n_samples, 0); /* too young */
    CU_ASSERT_EQUAL(due(NOW - 1, NOW, 0).waiting, 1);
    struct answer a = due(NOW, NOW, 0);
    CU_ASSERT_EQUAL_FATAL(a.n_samples, 1);
    CU_ASSERT_STRING_EQUAL(a.sample[0].id, SAMPLE);
    CU_ASSERT_STRING_EQUAL(a.sample[0].conversation_id, C);
    CU_ASSERT_STRING_EQUAL(a.person[0], "p-ben");
    CU_ASSERT(a.sample[0].heard && !a.sample[0].superseded);
    CU_ASSERT_EQUAL(a.sample[0].start, 5);
    CU_ASSERT_EQUAL(a.sample[0].end, 12);
    CU_ASSERT_EQUAL(a.sample[0].started_ms, NOW + 500);
    /* A failed attempt, over a restart. */
    CU_ASSERT_EQUAL(CALL(store_sample_failed, SAMPLE, NOW + 60000, "no audio"), OMID_OK);
    fixture_close();
    CU_ASSERT_FATAL(fixture_open() && !aside);
    CU_ASSERT_EQUAL(due(NOW, NOW + 59999, 9).n_samples, 0);
    CU_ASSERT_EQUAL(due(NOW, NOW + 60000, 0).n_samples, 0);
    CU_ASSERT_EQUAL(due(NOW, NOW + 60000, 1).n_samples, 1);
    CU_ASSERT_EQUAL(due(NOW, NOW + 60000, 1).sample[0].attempts, 1);
    CU_ASSERT_EQUAL(CALL(store_sample_taken, SAMPLE, v, 2, 7.0, NOW), OMID_OK);
    CU_ASSERT_EQUAL(CALL(store_sample_taken, SAMPLE, v, 2, 7.0, NOW), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(CALL(store_sample_failed, SAMPLE, NOW, "late"), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(due(NOW, NOW + 60000, 1).waiting, 0);
    struct store_voices all = voices("ann", 1 << 20);
    CU_ASSERT_EQUAL(all.n, 1);
    store_voices_free(&all);
    fixture_close();
}

static void test_samples_otherwise(void)
{
    fixture_fresh();
    /* None of its segments is there: the speaker's longest. */
    conversation("[]", SAMPLE, 1, "p-ben");
    CU_ASSERT_EQUAL(due(NOW, NOW, 0).sample[0].end, 12);
    /* Named otherwise since. */
    conversation("[\"s1\"]", "50000000-0000-4000-8000-000000000002", 1, NULL);
    struct answer a = due(NOW, NOW, 0);
    CU_ASSERT_EQUAL_FATAL(a.n_samples, 2);
    CU_ASSERT(a.sample[0].superseded && !a.sample[1].superseded);
    CU_ASSERT_STRING_EQUAL(a.person[1], "user");
    /* A speaker of whom nothing is left. */
    conversation("[\"s9\"]", "50000000-0000-4000-8000-000000000003", 7, "p-ben");
    a = due(NOW, NOW, 0);
    CU_ASSERT_EQUAL_FATAL(a.n_samples, 3);
    CU_ASSERT_FALSE(a.sample[2].heard);
    /* Given up: kept with the reason, and never due again. */
    CU_ASSERT_EQUAL(CALL(store_sample_failed, "50000000-0000-4000-8000-000000000003", 0, "nothing was said"), OMID_OK);
    CU_ASSERT_EQUAL(due(NOW, NOW, 99).n_samples, 2);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM speaker_sample WHERE status = 2 AND error = 'nothing was "
                                       "said'"),
                    1);
    fixture_close();
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"vectors", test_vectors},
        {"the newest are kept", test_newest},
        {"the owner's profile", test_profile},
        {"people", test_people},
        {"samples that wait", test_samples},
        {"samples that changed", test_samples_otherwise},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"store_voices", fixture_begin, fixture_end, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
