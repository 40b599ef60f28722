/* The role audio_store, in a real host with real executors: what is written can be read, at once and when it is stored.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "host/ask.h"
#include "host_rig.h"
#include "unit.h"

#define CONV "c0000000-0000-4000-8000-000000000001"
#define T0 INT64_C(1700000000000)

static struct rig r;
static char dir[64];

struct question {
    struct host_question q;
    int rc;
    _Atomic int times, result;
    int16_t *pcm;
    size_t n;
};

static void on_answer(void *arg, const struct omid_answer *a)
{
    struct question *q = arg;
    if (a->audio != NULL) {
        CU_ASSERT_EQUAL(a->audio->sample_rate, 16000);
        q->n = a->audio->samples;
        q->pcm = malloc(q->n * sizeof *q->pcm + 1);
        memcpy(q->pcm, a->audio->pcm, q->n * sizeof *q->pcm);
    }
    q->result = a->result;
    q->times++;
}

static void ask(void *arg)
{
    struct question *q = arg;
    q->rc = host_ask(r.host, 0, &q->q, 10000, on_answer, q, NULL);
}

static bool told(void *arg)
{
    const struct question *q = arg;
    return q->times > 0;
}

static int put(struct question *q)
{
    q->times = 0;
    rig_on(&r, 0, ask, q);
    CU_ASSERT_EQUAL_FATAL(q->rc, OMID_OK);
    CU_ASSERT_TRUE_FATAL(rig_wait(told, q));
    return q->result;
}

static int write_at(int64_t start_ms, const int16_t *pcm, size_t n, uint32_t rate, const char *conv)
{
    const struct omid_audio audio = {.size = sizeof audio, .pcm = pcm, .samples = n, .sample_rate = rate};
    struct question q = {.q = {.kind = HOST_ASK_AUDIO_WRITE,
                               .uid = "ann",
                               .conversation_id = conv,
                               .start_ms = start_ms,
                               .audio = &audio}};
    return put(&q);
}

static struct question read_at(int64_t from_ms, int64_t to_ms, const char *uid)
{
    const struct omid_audio_range range = {
        .size = sizeof range, .uid = uid, .conversation_id = CONV, .from_ms = from_ms, .to_ms = to_ms};
    struct question q = {.q = {.kind = HOST_ASK_AUDIO_READ, .range = &range}};
    put(&q);
    return q;
}

static unsigned spooled(void)
{
    char path[128];
    unsigned n = 0;
    snprintf(path, sizeof path, "%s/plugins/storage/spool", dir);
    DIR *d = opendir(path);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.';
    if (d != NULL)
        closedir(d);
    return n;
}

static bool all_in_the_spool(void *arg)
{
    return spooled() == *(unsigned *)arg;
}

static void begin(const char *more)
{
    char text[512];
    snprintf(dir, sizeof dir, "/tmp/omid-storage-XXXXXX");
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
    snprintf(text, sizeof text, "daemon { state_dir = \"%s\" }\nplugin storage { path = \"" TEST_STORAGE "\" %s }\n",
             dir, more);
    fake_queue = FAKE_ANSWERS;
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 1, text));
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
}

static void end(void)
{
    char command[128];
    rig_stop(&r);
    rig_free(&r);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    CU_ASSERT_EQUAL(system(command), 0);
}

static void test_write_and_read(void)
{
    static int16_t pcm[16000 * 5 / 2];
    begin("batch = 1s");
    for (size_t i = 0; i < ARRAY_LEN(pcm); i++)
        pcm[i] = (int16_t)(i % 30000 + 1);
    CU_ASSERT_EQUAL(write_at(T0, pcm, ARRAY_LEN(pcm), 16000, CONV), OMID_OK);
    unsigned files = 3;
    CU_ASSERT_TRUE(rig_wait(all_in_the_spool, &files)); /* the fake queue hands out no jobs */
    struct question q = read_at(T0, T0 + 2500, "ann");
    CU_ASSERT_EQUAL(q.result, OMID_OK);
    CU_ASSERT_EQUAL_FATAL(q.n, ARRAY_LEN(pcm));
    CU_ASSERT_EQUAL(memcmp(q.pcm, pcm, sizeof pcm), 0);
    free(q.pcm);
    /* In the middle, over the border of two files. */
    q = read_at(T0 + 900, T0 + 1100, "ann");
    CU_ASSERT_EQUAL_FATAL(q.n, 3200);
    CU_ASSERT_EQUAL(memcmp(q.pcm, pcm + 14400, 6400), 0);
    free(q.pcm);
    /* From before it: silence first; to behind it: no more than there is. */
    q = read_at(T0 - 100, T0 + 60000, "ann");
    CU_ASSERT_EQUAL_FATAL(q.n, 1600 + ARRAY_LEN(pcm));
    CU_ASSERT_EQUAL(q.pcm[1599], 0);
    CU_ASSERT_EQUAL(q.pcm[1600], pcm[0]);
    free(q.pcm);
    /* A gap is silence; what lies over each other is mixed; another rate is brought to 16 kHz. */
    CU_ASSERT_EQUAL(write_at(T0 + 4000, pcm, 8000, 8000, CONV), OMID_OK);
    CU_ASSERT_EQUAL(write_at(T0 + 500, pcm, 1600, 16000, CONV), OMID_OK);
    q = read_at(T0, T0 + 5000, "ann");
    CU_ASSERT_EQUAL_FATAL(q.n, 80000);
    CU_ASSERT_EQUAL(q.pcm[8000], pcm[8000] + pcm[0]);
    CU_ASSERT_EQUAL(q.pcm[50000], 0);
    CU_ASSERT_TRUE(abs(q.pcm[72000] - 4000) < 20); /* half a second into it */
    free(q.pcm);
    CU_ASSERT_EQUAL(read_at(T0 + 2600, T0 + 3900, "ann").result, OMID_ENOTSUP);
    CU_ASSERT_EQUAL(read_at(T0, T0 + 1000, "bob").result, OMID_ENOTSUP);
    CU_ASSERT_EQUAL(read_at(T0, T0, "ann").result, OMID_EINVAL);
    CU_ASSERT_EQUAL(read_at(T0, T0 + 600001, "ann").result, OMID_EINVAL);
    CU_ASSERT_EQUAL(read_at(T0 - 900000, T0 - 800000, "ann").result, OMID_ENOTSUP);
    end();
}

static void test_bad_writes(void)
{
    static int16_t pcm[16000 * 60];
    begin("memory = 1MiB spool_max = 1MiB");
    CU_ASSERT_EQUAL(write_at(T0, pcm, 0, 16000, CONV), OMID_EINVAL);
    CU_ASSERT_EQUAL(write_at(T0, pcm, 100, 7999, CONV), OMID_EINVAL);
    CU_ASSERT_EQUAL(write_at(T0, pcm, 100, 48001, CONV), OMID_EINVAL);
    CU_ASSERT_EQUAL(write_at(T0, pcm, 100, 16000, "../../etc"), OMID_EINVAL);
    CU_ASSERT_EQUAL(write_at(T0, pcm, 100, 16000, ""), OMID_EINVAL);
    CU_ASSERT_EQUAL(write_at(T0, pcm, ARRAY_LEN(pcm), 16000, CONV), OMID_EFULL); /* of the memory */
    CU_ASSERT_EQUAL(write_at(T0, pcm, 400000, 16000, CONV), OMID_OK);
    CU_ASSERT_EQUAL(write_at(T0 + 60000, pcm, 400000, 16000, CONV), OMID_EFULL); /* of the spool */
    CU_ASSERT_EQUAL(write_at(T0 + 60000, pcm, 100000, 16000, CONV), OMID_OK);
    end();
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"written and read", test_write_and_read},
        {"what is not taken", test_bad_writes},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"storage, role", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
