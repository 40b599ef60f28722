/* What the durable queue does not take stays in the spool, and is offered again while the daemon runs. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fixture_storage.h"
#include "mock_doors.h"
#include "plugins/storage/storage.h"

#define CONV "c0000000-0000-4000-8000-000000000001"
#define LEN(a) (sizeof(a) / sizeof((a)[0]))

static size_t spooled(struct rig *r)
{
    char path[PATH_SIZE];
    size_t n = 0;
    snprintf(path, sizeof(path), "%s/spool", mock_data_dir(r->m));
    DIR *dir = opendir(path);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;)
        n += e->d_name[0] != '.';
    if (dir != NULL)
        closedir(dir);
    return n;
}

/* So much time, at whose every half second the executor does what there is, and the queue answers what it was asked:
 * how many jobs that was. */
static size_t pass(struct rig *r, uint64_t ms, enum omid_result result)
{
    size_t n = 0, known = mock_job_count(r->m);
    for (uint64_t at = 0; at < ms; at += 500) {
        mock_advance(r->m, 500);
        rig_work(r);
        for (size_t i = 0; i < mock_job_count(r->m); i++) {
            if (mock_job(r->m, i)->open)
                mock_job_ack(r->m, i, result);
        }
        rig_work(r);
    }
    for (size_t i = known; i < mock_job_count(r->m); i++)
        n += strcmp(mock_job(r->m, i)->type, "store") == 0;
    return n;
}

/* A recording made elsewhere: what is in the spool is kept, whatever the queue says, and nothing of it twice. */
static void test_refused_recording(void)
{
    struct rig r;
    static const enum omid_result results[] = {OMID_EFULL, OMID_ERR};
    for (size_t i = 0; i < 3; i++) { /* the last time it does not even come to be asked */
        rig_begin(&r, "path");
        rig_work(&r);
        static int16_t pcm[16000];
        const struct omid_audio audio = {.size = sizeof(audio), .pcm = pcm, .samples = LEN(pcm), .sample_rate = 16000};
        struct omid_ask ask = {0};
        CU_ASSERT_EQUAL(storage_role.write(mock_state(r.in), "ann", CONV, 1000000, &audio, &ask), OMID_OK);
        if (i == 2)
            mock_job_refuse(r.m, OMID_EFULL);
        rig_work(&r);
        if (i < 2) {
            CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), 1);
            mock_job_ack(r.m, 0, results[i]);
        }
        CU_ASSERT(ask.answers == 1 && ask.result == OMID_OK);
        pass(&r, 5000, OMID_EFULL);
        mock_job_refuse(r.m, OMID_OK);
        size_t first = mock_job_count(r.m);
        CU_ASSERT_EQUAL(pass(&r, 70000, OMID_OK), 1);
        CU_ASSERT_EQUAL(pass(&r, 70000, OMID_OK), 0);
        CU_ASSERT_EQUAL(spooled(&r), 1);
        CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), first + 1);
        CU_ASSERT_TRUE(first == 0 || strcmp(mock_job(r.m, first)->name, mock_job(r.m, 0)->name) == 0);
        rig_end(&r);
    }
}

/* However many there are, and however long it takes: not all at once, ever more seldom, and all of them in the end. */
static void test_many_refused(void)
{
    enum { MANY = 600 };
    struct rig r;
    rig_begin(&r, "path");
    for (int i = 0; i < MANY; i++) {
        char path[PATH_SIZE], head[HEADER_MAX];
        int len = spool_header(head, 1000 * i, 16000, "ann", CONV, "");
        snprintf(path, sizeof(path), "%s/spool/" CONV ".%d.x.pcm", mock_data_dir(r.m), 1000 * i);
        CU_ASSERT_TRUE_FATAL(replace_file(path, head, (size_t)len));
    }
    rig_work(&r);
    size_t first = mock_job_count(r.m);
    CU_ASSERT_TRUE(first > 0 && first < MANY);
    size_t offers = pass(&r, 240000, OMID_EFULL);
    CU_ASSERT_TRUE(offers > MANY && offers < 10 * 256);
    CU_ASSERT_TRUE(mock_logged(r.m, OMID_LOG_WARNING) < 20);
    size_t from = mock_job_count(r.m), taken = 0;
    pass(&r, 200000, OMID_OK);
    bool seen[MANY] = {false};
    for (size_t i = from; i < mock_job_count(r.m); i++) {
        int n = atoi(strchr(mock_job(r.m, i)->name, '.') + 1) / 1000;
        CU_ASSERT_TRUE_FATAL(n >= 0 && n < MANY);
        taken += !seen[n];
        seen[n] = true;
    }
    CU_ASSERT_EQUAL(taken, MANY);
    CU_ASSERT_EQUAL(pass(&r, 200000, OMID_OK), 0);
    rig_end(&r);
}

/* Live audio, with a deletion beside it: neither is lost, and the deletion waits no longer than it did. */
static void test_refused_live(void)
{
    struct rig r;
    rig_begin(&r, "path");
    rig_work(&r);
    for (int i = 0; i < 3; i++) {
        char session[8];
        snprintf(session, sizeof(session), "s%d", i);
        rig_hear(&r, session, CONV, 1000000 + 100000 * i, 7);
        rig_tell(&r, OMID_EVENT_SESSION_END, session, NULL);
    }
    CU_ASSERT_EQUAL(pass(&r, 500, OMID_EFULL), 3);
    rig_tell(&r, OMID_EVENT_CONVERSATION_DELETED, NULL, "c0000000-0000-4000-8000-000000000002");
    pass(&r, 600000, OMID_EFULL);
    const struct instance *in = mock_state(r.in);
    CU_ASSERT_EQUAL(in->n_enqueues, 1);
    size_t at = mock_job_count(r.m), deletions = 0;
    CU_ASSERT_EQUAL(pass(&r, 130000, OMID_OK), 3);
    for (; at < mock_job_count(r.m); at++)
        deletions += strcmp(mock_job(r.m, at)->type, "delete") == 0;
    CU_ASSERT_EQUAL(deletions, 1);
    CU_ASSERT_EQUAL(in->n_enqueues, 0);
    rig_end(&r);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"a recording that the queue refuses", test_refused_recording},
        {"many that it refuses", test_many_refused},
        {"live audio that it refuses", test_refused_live},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"storage, spool", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
