/* storage on a mock host, and its codecs, names and index by themselves. */
#include <dirent.h>
#include <math.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fixture_storage.h"
#include "plugins/storage/storage.h"

#define CONV "c0000000-0000-4000-8000-000000000001"
#define LEN(a) (sizeof(a) / sizeof((a)[0]))

/* -------------------------------------------------------------------- by themselves */

static void test_names(void)
{
    char out[UID_NAME_MAX], other[UID_NAME_MAX], uid[400];
    CU_ASSERT_TRUE(uid_name(out, "ann"));
    CU_ASSERT_STRING_EQUAL(out, "ann");
    CU_ASSERT_TRUE(uid_name(out, "a.b@c:d/../e%"));
    CU_ASSERT_STRING_EQUAL(out, "a.b%40c%3Ad%2F..%2Fe%25");
    CU_ASSERT_TRUE(uid_name(out, ".."));
    CU_ASSERT_STRING_EQUAL(out, "%2E.");
    CU_ASSERT_TRUE(uid_name(out, "\xc3\xa9"));
    CU_ASSERT_STRING_EQUAL(out, "%C3%A9");
    CU_ASSERT_FALSE(uid_name(out, ""));
    CU_ASSERT_FALSE(uid_name(out, NULL));
    memset(uid, '@', sizeof(uid));
    uid[300] = '\0';
    CU_ASSERT_TRUE(uid_name(out, uid));
    uid[299] = '!';
    CU_ASSERT_TRUE(uid_name(other, uid)); /* long ones differ, too */
    CU_ASSERT_STRING_NOT_EQUAL(out, other);
    CU_ASSERT_TRUE(strlen(out) < 200);
    CU_ASSERT_TRUE(conv_ok(CONV));
    static const char *const bad[] = {"", ".", "..", "a/b", "a.b", "a%2f", "a b", "\xc3\xa9"};
    for (size_t i = 0; i < LEN(bad); i++)
        CU_ASSERT_FALSE(conv_ok(bad[i]));
    CU_ASSERT_EQUAL(crc32_add(0, "123456789", 9), 0xcbf43926);
    char sum[65];
    sha256_hex(sum, "", 0);
    CU_ASSERT_STRING_EQUAL(sum, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    char head[HEADER_MAX];
    struct spooled s;
    int n = spool_header(head, -5, 16000, "a%40b", CONV, "s-1");
    CU_ASSERT_TRUE(spool_parse(&s, head, (size_t)n));
    CU_ASSERT_STRING_EQUAL(s.session, "s-1");
    CU_ASSERT_STRING_EQUAL(s.conv, CONV);
    n = spool_header(head, -5, 16000, "a%40b", CONV, "");
    CU_ASSERT_TRUE(spool_parse(&s, head, (size_t)n));
    CU_ASSERT_STRING_EQUAL(s.session, "");
    CU_ASSERT_EQUAL(s.start_ms, -5);
    CU_ASSERT_EQUAL(s.header, (size_t)n);
    CU_ASSERT_STRING_EQUAL(s.uid, "a%40b");
    static const char *const heads[] = {
        "omid-spool 1 0 16000 ../x " CONV "\n",   "omid-spool 1 0 16000 a b/c\n",
        "omid-spool 1 0 7000 a " CONV "\n",       "omid-spool 1 0 16000 a " CONV " more\n",
        "omid-spool 1 0 16000 a " CONV,           "omid-spool 2 0 16000 a " CONV "\n",
        "omid-spool 2 0 16000 a " CONV " ../x\n", "omid-spool 2 0 16000 a " CONV " s more\n",
        "omid-spool 3 0 16000 a " CONV "\n",      "\n"};
    for (size_t i = 0; i < LEN(heads); i++)
        CU_ASSERT_FALSE(spool_parse(&s, heads[i], strlen(heads[i])));
}

static double level(const int16_t *pcm, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)pcm[i] * pcm[i];
    return sqrt(sum / (double)n);
}

/* Every rate, and lengths around a packet's: as long as it was, and about as loud. */
static void test_codecs(void)
{
    static const uint32_t rates[] = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000};
    for (size_t r = 0; r < LEN(rates); r++) {
        uint32_t rate = rates[r];
        const size_t lengths[] = {1, rate / 50 - 1, rate / 50, rate / 50 + 1, rate, rate + 7};
        for (size_t k = 0; k < LEN(lengths); k++) {
            size_t n = lengths[k], len, back;
            int16_t *pcm = calloc(n, sizeof(*pcm));
            for (size_t i = 0; i < n; i++)
                pcm[i] = (int16_t)(8000 * sin(2 * M_PI * 300 * (double)i / rate));
            unsigned char *wav = encode_wav(pcm, n, rate, &len);
            CU_ASSERT_PTR_NOT_NULL_FATAL(wav);
            int16_t *again = decode_wav(wav, len, &back);
            CU_ASSERT_PTR_NOT_NULL_FATAL(again);
            CU_ASSERT_EQUAL(back, n * RATE / rate);
            if (rate == RATE)
                CU_ASSERT_EQUAL(memcmp(again, pcm, n * 2), 0);
            free(again);
            free(wav);
            unsigned char *ogg = encode_ogg(pcm, n, rate, 24000, 7, &len);
            CU_ASSERT_PTR_NOT_NULL_FATAL(ogg);
            again = decode_ogg(ogg, len, &back);
            if (n >= rate / 50) {
                CU_ASSERT_PTR_NOT_NULL_FATAL(again);
                CU_ASSERT_TRUE(back + 2 >= n * RATE / rate && back <= n * RATE / rate + 2);
            }
            if (n >= rate) {
                double loud = level(again, back);
                CU_ASSERT_TRUE(loud > 4000 && loud < 7500);
            }
            free(again);
            /* Cut anywhere, it is an error or shorter, never more. */
            for (size_t cut = 0; cut < len && k == 4; cut += 97) {
                unsigned char *part = malloc(cut + 1);
                memcpy(part, ogg, cut);
                size_t got = 0;
                again = decode_ogg(part, cut, &got);
                CU_ASSERT_TRUE(again == NULL || got <= back);
                free(again);
                free(part);
            }
            free(ogg);
            free(pcm);
        }
    }
    size_t n;
    CU_ASSERT_PTR_NULL(decode_wav((const unsigned char *)"RIFF", 4, &n));
    CU_ASSERT_PTR_NULL(decode_ogg((const unsigned char *)"OggS what is this", 17, &n));
}

static struct shared alone(struct mock *m)
{
    return (struct shared){.root = (char *)(uintptr_t)mock_data_dir(m)};
}

static void test_index(void)
{
    struct mock *m = mock_new(&omid_plugin);
    struct shared sh = alone(m);
    struct piece *there, p = {.start_ms = 1000,
                              .rate = 16000,
                              .crc = 9,
                              .samples = 16000,
                              .bytes = 99,
                              .where = 'b',
                              .name = (char *)(uintptr_t) "a/b c.wav"};
    size_t n;
    CU_ASSERT_TRUE(index_load(&sh, "ann", CONV, &there, &n));
    CU_ASSERT_EQUAL(n, 0);
    for (int i = 5; i >= 0; i--) {
        p.start_ms = 1000 * i;
        CU_ASSERT_TRUE(index_add(&sh, "ann", CONV, &p));
        CU_ASSERT_TRUE(index_add(&sh, "ann", CONV, &p)); /* told twice, there once */
    }
    char path[PATH_SIZE];
    index_path(&sh, path, "ann", CONV);
    FILE *f = fopen(path, "a");
    fputs("garbage\n1 9000 16000 16000 9 99 x a\n1 9000 16", f); /* torn */
    fclose(f);
    p.start_ms = 7000;
    CU_ASSERT_TRUE(index_add(&sh, "ann", CONV, &p)); /* on a line of its own */
    CU_ASSERT_TRUE(index_load(&sh, "ann", CONV, &there, &n));
    CU_ASSERT_EQUAL_FATAL(n, 7);
    for (size_t i = 1; i < n; i++)
        CU_ASSERT_TRUE(there[i - 1].start_ms < there[i].start_ms);
    CU_ASSERT_STRING_EQUAL(there[6].name, "a/b c.wav");
    CU_ASSERT_EQUAL(there[6].crc, 9);
    p.start_ms = 500; /* comes while the first ones are deleted */
    CU_ASSERT_TRUE(index_add(&sh, "ann", CONV, &p));
    CU_ASSERT_TRUE(index_cut(&sh, "ann", CONV, there, 4));
    pieces_free(there, n);
    CU_ASSERT_TRUE(index_load(&sh, "ann", CONV, &there, &n));
    CU_ASSERT_EQUAL_FATAL(n, 4);
    CU_ASSERT_EQUAL(there[0].start_ms, 500);
    CU_ASSERT_EQUAL(there[1].start_ms, 4000);
    CU_ASSERT_TRUE(index_cut(&sh, "ann", CONV, there, n));
    CU_ASSERT_EQUAL(access(path, F_OK), -1);
    CU_ASSERT_TRUE(index_cut(&sh, "ann", CONV, there, n)); /* nothing is left to cut */
    pieces_free(there, n);
    CU_ASSERT_FALSE(tombstone_there(&sh, "ann", CONV));
    CU_ASSERT_TRUE(tombstone_make(&sh, "ann", CONV));
    CU_ASSERT_FALSE(tombstone_there(&sh, "bob", CONV)); /* nobody else's of this id */
    CU_ASSERT_TRUE(tombstone_there(&sh, "ann", CONV));
    tombstones_sweep(&sh, (int64_t)time(NULL) * 1000);
    CU_ASSERT_TRUE(tombstone_there(&sh, "ann", CONV));
    tombstones_sweep(&sh, (int64_t)time(NULL) * 1000 + INT64_C(200000000));
    CU_ASSERT_FALSE(tombstone_there(&sh, "ann", CONV));
    mock_free(&m);
}

/* -------------------------------------------------------------------- on a mock host */

static size_t of_session(const struct shared *sh, const char *session, int64_t *first_ms)
{
    struct recording rec = {.uid = "ann", .conv = CONV};
    snprintf(rec.session, sizeof(rec.session), "%s", session);
    CU_ASSERT_TRUE(recording_load(sh, &rec));
    size_t n = rec.n;
    *first_ms = n > 0 ? rec.start_ms : -1;
    recording_free(&rec);
    return n;
}

/* Whose audio it is goes with it into the spool and the index, and what one session has heard can be asked for alone.
 */
static void test_sessions_apart(void)
{
    struct mock *m = mock_new(&omid_plugin);
    struct shared sh = alone(m);
    struct piece p = {.start_ms = 1000,
                      .rate = 16000,
                      .samples = 16000,
                      .bytes = 32044,
                      .where = 'b',
                      .name = (char *)(uintptr_t) "a b"};
    int64_t at;
    CU_ASSERT_TRUE(index_add(&sh, "ann", CONV, &p)); /* of before sessions were told apart */
    CU_ASSERT_EQUAL(of_session(&sh, "s-1", &at), 1);
    strcpy(p.session, "s-1");
    p.start_ms = 2000;
    CU_ASSERT_TRUE(index_add(&sh, "ann", CONV, &p));
    strcpy(p.session, "s-2");
    p.start_ms = 3000;
    CU_ASSERT_TRUE(index_add(&sh, "ann", CONV, &p));
    char path[PATH_SIZE], head[HEADER_MAX + 8] = "";
    int len = spool_header(head, 4000, 16000, "ann", CONV, "s-2");
    spool_path(&sh, path, CONV ".4000.x.pcm");
    CU_ASSERT_TRUE(replace_file(path, head, (size_t)len + 8));
    CU_ASSERT_EQUAL(of_session(&sh, "", &at), 4);
    CU_ASSERT(of_session(&sh, "s-1", &at) == 1 && at == 2000);
    CU_ASSERT(of_session(&sh, "s-2", &at) == 2 && at == 3000);
    CU_ASSERT(of_session(&sh, "s-3", &at) == 1 && at == 1000); /* at most what may be its */
    index_path(&sh, path, "ann", CONV);
    FILE *f = fopen(path, "a");
    fputs("2 5000 16000 16000 00000009 99 b ../x a\n2 6000 16000 16000 00000009 99 b s-1\n"
          "3 7000 16000 16000 00000009 99 b s-1 a\n",
          f);
    fclose(f);
    CU_ASSERT_EQUAL(of_session(&sh, "", &at), 4);
    mock_free(&m);
}

static void test_configuration(void)
{
    static const struct {
        const char *key, *value, *named;
    } bad[] = {{"bucket", "a/b", "bucket"},
               {"bucket", "..", "bucket"},
               {"endpoint", "ftp://x", "endpoint"},
               {"endpoint", "https://x/", "endpoint"},
               {"endpoint", "https://u@x", "endpoint"},
               {"prefix", "/a", "prefix"},
               {"prefix", "a/../b", "prefix"},
               {"prefix", "a b", "prefix"},
               {"access_key", NULL, "access_key"},
               {"secret_key", NULL, "secret_key"}};
    for (size_t i = 0; i <= LEN(bad); i++) {
        const char *key, *text;
        struct mock *m = mock_new(&omid_plugin);
        mock_conf(m, "bucket", "recordings");
        mock_conf(m, "access_key", "AKID");
        mock_conf(m, "secret_key", "secret");
        if (i < LEN(bad))
            mock_conf(m, bad[i].key, bad[i].value);
        CU_ASSERT_EQUAL(mock_configure(m), i < LEN(bad) ? OMID_EINVAL : OMID_OK);
        CU_ASSERT_EQUAL(mock_conf_errors(m, &key, &text), i < LEN(bad));
        if (i < LEN(bad))
            CU_ASSERT_STRING_EQUAL(key, bad[i].named);
        mock_free(&m);
    }
}

static void test_batch_to_bucket(void)
{
    struct rig r;
    rig_begin(&r, "path");
    rig_work(&r);
    for (int i = 0; i < 49; i++)
        rig_hear(&r, "s", i < 3 ? "" : CONV, 1000000 + 100 * i, 7); /* before the conversation is known, too */
    CU_ASSERT_EQUAL(mock_exec_waiting(r.m), 0);                     /* not enough yet */
    rig_hear(&r, "s", CONV, 1000000 + 4900, 7);
    CU_ASSERT_EQUAL(mock_exec_waiting(r.m), 1);
    rig_work(&r);
    CU_ASSERT_EQUAL(mock_job_count(r.m), 0);
    rig_tell(&r, OMID_EVENT_SESSION_END, "s", NULL);
    rig_work(&r);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), 1);
    CU_ASSERT_STRING_EQUAL(mock_job(r.m, 0)->type, "store");
    CU_ASSERT_STRING_EQUAL(mock_job(r.m, 0)->target, CONV);
    mock_job_ack(r.m, 0, OMID_EFULL);
    mock_advance(r.m, 2000);
    rig_work(&r);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), 2); /* offered again */
    mock_job_ack(r.m, 1, OMID_OK);
    /* Refused first: it waits, and is no dead job. */
    struct omid_job_run *run = mock_job_run(r.in, 1, 1);
    rig_work(&r);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 1);
    const struct mock_http *h = mock_http(r.m, 0);
    CU_ASSERT_STRING_EQUAL(h->method, "PUT");
    CU_ASSERT_STRING_EQUAL(h->url, "https://store.example.com:9000/s3/recordings/audio/a%2540b/" CONV "/1000000.wav");
    CU_ASSERT_STRING_EQUAL(h->aws_sigv4, "aws:amz:eu-west-1:s3");
    CU_ASSERT_EQUAL(h->body_len, 44 + 2 * 80000);
    char sum[65];
    sha256_hex(sum, h->body, h->body_len);
    CU_ASSERT_PTR_NOT_NULL(strstr(h->headers, sum));
    mock_http_answer(r.m, 0, 503, "<Error><Code>SlowDown</Code></Error>");
    enum omid_job_outcome outcome;
    uint32_t after;
    const char *error;
    CU_ASSERT_TRUE(mock_run_finished(run, &outcome, &after, &error));
    CU_ASSERT_EQUAL(outcome, OMID_JOB_WAIT);
    CU_ASSERT_TRUE(after >= 5 && after <= 900);
    CU_ASSERT_STRING_EQUAL(error, "recordings: status 503, SlowDown");
    CU_ASSERT_EQUAL(mock_count(r.m, "store_failures", "status"), 1);
    run = mock_job_run(r.in, 1, 1);
    rig_work(&r);
    mock_http_answer(r.m, 1, 200, "");
    rig_work(&r);
    CU_ASSERT_TRUE(mock_run_finished(run, &outcome, NULL, NULL));
    CU_ASSERT_EQUAL(outcome, OMID_JOB_DONE);
    CU_ASSERT_EQUAL(mock_count(r.m, "batches", "stored"), 1);
    CU_ASSERT_EQUAL(mock_count(r.m, "spool_bytes", "added"), mock_count(r.m, "spool_bytes", "removed"));
    /* The job once more: there is nothing left to do. */
    run = mock_job_run(r.in, 1, 2);
    rig_work(&r);
    CU_ASSERT_TRUE(mock_run_finished(run, &outcome, NULL, NULL));
    CU_ASSERT_EQUAL(outcome, OMID_JOB_DONE);
    CU_ASSERT_EQUAL(mock_http_count(r.m), 2);
    /* Deleted by its user. */
    rig_tell(&r, OMID_EVENT_CONVERSATION_DELETED, NULL, CONV);
    CU_ASSERT_STRING_EQUAL(mock_job(r.m, 2)->type, "delete");
    mock_job_ack(r.m, 2, OMID_OK);
    static const struct {
        int status;
        const char *body;
        enum omid_job_outcome outcome;
    } answers[] = {{404, "<Code>NoSuchBucket</Code>", OMID_JOB_WAIT},
                   {403, "", OMID_JOB_WAIT},
                   {404, "<Code>NoSuchKey</Code>", OMID_JOB_DONE}};
    for (size_t i = 0; i < LEN(answers); i++) {
        run = mock_job_run(r.in, 2, 1);
        rig_work(&r);
        CU_ASSERT_STRING_EQUAL(mock_http(r.m, 2 + i)->method, "DELETE");
        mock_http_answer(r.m, 2 + i, answers[i].status, answers[i].body);
        rig_work(&r);
        CU_ASSERT_TRUE(mock_run_finished(run, &outcome, NULL, NULL));
        CU_ASSERT_EQUAL(outcome, answers[i].outcome);
    }
    rig_end(&r);
}

/* All its audio came before its conversation was known, and nothing comes after it. */
static void test_conversation_known_late(void)
{
    struct rig r;
    rig_begin(&r, "path");
    rig_work(&r);
    for (int i = 0; i < 10; i++) /* two batches: there is a gap */
        rig_hear(&r, "s", "", 1000000 + (i < 5 ? 0 : 5000) + 100 * i, 7);
    mock_advance(r.m, 60000);
    CU_ASSERT_EQUAL(mock_exec_waiting(r.m), 0); /* nothing that could be found again */
    rig_tell(&r, OMID_EVENT_CONVERSATION_START, "another", CONV);
    rig_tell(&r, OMID_EVENT_CONVERSATION_START, "s", CONV);
    rig_work(&r);
    mock_advance(r.m, 60000);
    rig_work(&r);
    CU_ASSERT_TRUE(mock_count(r.m, "spool_bytes", "added") > 32000);
    rig_tell(&r, OMID_EVENT_SESSION_END, "s", NULL);
    rig_work(&r);
    CU_ASSERT_EQUAL(mock_job_count(r.m), 2);
    CU_ASSERT_EQUAL(mock_count(r.m, "dropped_bytes", "no_conversation"), 0);
    /* And one that never has any. */
    rig_hear(&r, "t", "", 1000000, 7);
    rig_hear(&r, "t", "", 1090000, 7);
    rig_tell(&r, OMID_EVENT_SESSION_END, "t", NULL);
    rig_work(&r);
    CU_ASSERT_EQUAL(mock_count(r.m, "dropped_bytes", "no_conversation"), 6400);
    rig_end(&r);
}

static void test_host_style_and_gaps(void)
{
    struct rig r;
    rig_begin(&r, "host");
    rig_work(&r);
    rig_hear(&r, "s", CONV, 1000, 1);
    rig_hear(&r, "s", CONV, 1100, 1);
    rig_hear(&r, "s", CONV, 9000, 2); /* a gap: another batch, with its own time */
    rig_hear(&r, "t", CONV, 1000, 3); /* the user's other session, at the same moment */
    rig_tell(&r, OMID_EVENT_CONVERSATION_CREATED, NULL, CONV);
    rig_work(&r);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), 3);
    for (size_t i = 0; i < 3; i++) {
        mock_job_ack(r.m, i, OMID_OK);
        mock_job_run(r.in, i, 1);
        rig_work(&r);
        mock_http_answer(r.m, i, 200, "");
        rig_work(&r);
    }
    unsigned seen = 0;
    for (size_t i = 0; i < 3; i++) {
        static const char *const urls[] = {"1000.wav", "1001.wav", "9000.wav"};
        const char *url = mock_http(r.m, i)->url;
        CU_ASSERT_EQUAL(strncmp(url, "https://recordings.store.example.com:9000/s3/audio/a%2540b/" CONV "/", 95), 0);
        for (size_t k = 0; k < LEN(urls); k++)
            seen |= strcmp(url + strlen(url) - 8, urls[k]) == 0 ? 1u << k : 0;
    }
    CU_ASSERT_EQUAL(seen, 7); /* none took another's place */
    rig_end(&r);
}

/* A batch that is stored in the bucket, in this second. */
static void store_one(struct rig *r, const char *conv, int64_t at_ms)
{
    size_t job = mock_job_count(r->m), request = mock_http_count(r->m);
    for (int i = 0; i < 10; i++)
        rig_hear(r, "s", conv, at_ms + 100 * i, (int16_t)(i + 1));
    rig_tell(r, OMID_EVENT_SESSION_END, "s", NULL);
    rig_work(r);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(r->m), job + 1);
    mock_job_ack(r->m, job, OMID_OK);
    mock_job_run(r->in, job, 1);
    rig_work(r);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r->m), request + 1);
    mock_http_answer(r->m, request, 200, "");
    rig_work(r);
}

/* However many walks find it, however long the bucket is down: one job for the same recordings. */
static void test_kept_for_so_long(void)
{
    const int64_t start = INT64_C(1700000000000);
    enum omid_job_outcome outcome;
    struct rig r = {0};
    r.m = mock_new(&omid_plugin);
    mock_conf(r.m, "bucket", "recordings");
    mock_conf(r.m, "endpoint", "https://store.example.com");
    mock_conf(r.m, "access_key", "AKID");
    mock_conf(r.m, "secret_key", "secret");
    mock_conf(r.m, "keep", "10s");
    mock_conf(r.m, "keep_check", "5s");
    CU_ASSERT_EQUAL_FATAL(mock_configure(r.m), OMID_OK);
    r.in = mock_start(r.m);
    rig_work(&r);
    store_one(&r, CONV, start);
    store_one(&r, CONV, start + 20000);
    for (int i = 0; i < 100 && mock_job_count(r.m) < 3; i++) {
        mock_advance(r.m, 1000);
        rig_work(&r);
    }
    CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), 3);
    CU_ASSERT_STRING_EQUAL(mock_job(r.m, 2)->type, "delete");
    char name[512];
    snprintf(name, sizeof(name), "%s", mock_job(r.m, 2)->name);
    mock_job_ack(r.m, 2, OMID_OK);
    struct omid_job_run *run = mock_job_run(r.in, 2, 1);
    rig_work(&r);
    mock_http_answer(r.m, 2, 503, "");
    CU_ASSERT_TRUE(mock_run_finished(run, &outcome, NULL, NULL));
    CU_ASSERT_EQUAL(outcome, OMID_JOB_WAIT);
    for (int i = 0; i < 12; i++) { /* meanwhile the second one becomes too old as well */
        size_t jobs = mock_job_count(r.m);
        mock_advance(r.m, 2000);
        rig_work(&r);
        for (; jobs < mock_job_count(r.m); jobs++) {
            CU_ASSERT_STRING_EQUAL(mock_job(r.m, jobs)->name, name); /* the queue knows it */
            mock_job_ack(r.m, jobs, OMID_OK);
        }
    }
    run = mock_job_run(r.in, 2, 2);
    rig_work(&r);
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 3)->method, "DELETE");
    mock_http_answer(r.m, 3, 204, "");
    rig_work(&r);
    CU_ASSERT_TRUE(mock_run_finished(run, &outcome, NULL, NULL));
    CU_ASSERT_EQUAL(outcome, OMID_JOB_DONE);
    size_t jobs = mock_job_count(r.m);
    for (int i = 0; i < 12 && mock_job_count(r.m) == jobs; i++) {
        mock_advance(r.m, 2000);
        rig_work(&r);
    }
    CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), jobs + 1); /* what is left has a job of its own */
    CU_ASSERT_STRING_NOT_EQUAL(mock_job(r.m, jobs)->name, name);
    mock_job_ack(r.m, jobs, OMID_OK);
    rig_end(&r);
}

/* The queue takes no jobs, and the deletion is told again and again: one waits, and each telling tries it. */
static void test_deleted_again(void)
{
    struct rig r;
    rig_begin(&r, "path");
    rig_work(&r);
    mock_job_refuse(r.m, OMID_EFULL);
    for (int i = 0; i < 50; i++)
        rig_tell(&r, OMID_EVENT_CONVERSATION_DELETED, NULL, CONV);
    const struct instance *in = mock_state(r.in);
    CU_ASSERT_EQUAL(in->n_enqueues, 1);
    mock_job_refuse(r.m, OMID_OK);
    rig_tell(&r, OMID_EVENT_CONVERSATION_DELETED, NULL, CONV);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), 1); /* within the call: its fence comes next */
    rig_tell(&r, OMID_EVENT_CONVERSATION_DELETED, NULL, CONV);
    CU_ASSERT_EQUAL(mock_job_count(r.m), 1);
    mock_job_ack(r.m, 0, OMID_EFULL);
    CU_ASSERT_EQUAL(in->n_enqueues, 1);
    mock_advance(r.m, 2000);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), 2);
    mock_job_ack(r.m, 1, OMID_OK);
    CU_ASSERT_EQUAL(in->n_enqueues, 0);
    rig_end(&r);
}

static struct loaded brought;
static unsigned times_brought;

static void on_brought(void *arg, struct loaded *l)
{
    (void)arg;
    brought = *l;
    times_brought++;
}

static void forget_brought(void)
{
    free(brought.pcm);
    free(brought.raw);
    brought = (struct loaded){0};
    times_brought = 0;
}

/* Where there is room for nothing, not even for a timer that would tell it. */
static void test_load_without_memory(void)
{
    struct rig r;
    struct piece p = {.rate = RATE, .samples = 16000, .bytes = 32044, .where = 'b', .name = (char[]){"k.wav"}};
    struct recording rec = {.uid = "ann", .conv = CONV};
    rig_begin(&r, "path");
    rig_work(&r);
    struct instance *in = mock_state(r.in);
    mock_http_refuse(r.m, OMID_EFULL);
    struct load *l = load_pcm(in, &rec, &p, on_brought, NULL);
    CU_ASSERT_PTR_NOT_NULL(l);
    CU_ASSERT_EQUAL(times_brought, 0);
    mock_advance(r.m, 1);
    CU_ASSERT_EQUAL(times_brought, 1);
    CU_ASSERT_STRING_EQUAL(brought.error, "the lane is full");
    mock_timers_refuse(r.m, true);
    CU_ASSERT_PTR_NULL(load_pcm(in, &rec, &p, on_brought, NULL));
    CU_ASSERT_PTR_NULL(load_raw(in, &rec, &p, 100, 100, on_brought, NULL));
    mock_http_refuse(r.m, OMID_OK);
    /* It comes, and then the executor is full. */
    CU_ASSERT_PTR_NOT_NULL_FATAL(load_pcm(in, &rec, &p, on_brought, NULL));
    mock_exec_mode(r.m, MOCK_EXEC_FULL);
    mock_http_answer(r.m, 0, 206, "RIFF");
    CU_ASSERT_EQUAL(times_brought, 2);
    CU_ASSERT_STRING_EQUAL(brought.error, "the executor is full");
    mock_exec_mode(r.m, MOCK_EXEC_HELD);
    mock_timers_refuse(r.m, false);
    CU_ASSERT_EQUAL(mock_count(r.m, "reads", "failed"), 4);
    forget_brought();
    rig_end(&r);
}

/* A store that gives the whole object whatever was asked for, or less than it has. */
static void test_no_ranges(void)
{
    static const struct {
        int status;
        const char *body, *got; /* NULL: an error */
    } answers[] = {{206, "3456", "3456"}, {206, "34567", "3456"},
                   {206, "34", "34"},     {200, "0123456789", "3456"},
                   {200, "01234", "34"},  {200, "012", NULL},
                   {200, "", NULL},       {206, "", NULL},
                   {204, "", NULL},       {416, "<Code>InvalidRange</Code>", NULL}};
    struct rig r;
    struct piece p = {.rate = RATE, .samples = 16000, .bytes = 10, .where = 'b', .name = (char[]){"k.ogg"}};
    struct recording rec = {.uid = "ann", .conv = CONV};
    rig_begin(&r, "path");
    rig_work(&r);
    for (size_t i = 0; i < LEN(answers); i++) {
        CU_ASSERT_PTR_NOT_NULL_FATAL(load_raw(mock_state(r.in), &rec, &p, 3, 4, on_brought, NULL));
        CU_ASSERT_PTR_NOT_NULL(strstr(mock_http(r.m, i)->headers, "Range: bytes=3-6\n"));
        mock_http_answer(r.m, i, answers[i].status, answers[i].body);
        rig_work(&r);
        CU_ASSERT_EQUAL_FATAL(times_brought, 1);
        CU_ASSERT_EQUAL(brought.rc, answers[i].got != NULL ? OMID_OK : OMID_ERR);
        if (answers[i].got != NULL) {
            CU_ASSERT_EQUAL_FATAL(brought.len, strlen(answers[i].got));
            CU_ASSERT_EQUAL(memcmp(brought.raw, answers[i].got, brought.len), 0);
        } else {
            CU_ASSERT_TRUE(brought.error[0] != '\0');
        }
        forget_brought();
    }
    rig_end(&r);
}

static void test_memory_bound(void)
{
    struct rig r;
    r.m = mock_new(&omid_plugin);
    mock_conf(r.m, "memory_session", "64KiB");
    CU_ASSERT_EQUAL_FATAL(mock_configure(r.m), OMID_OK);
    r.in = mock_start(r.m);
    rig_work(&r);
    mock_exec_mode(r.m, MOCK_EXEC_FULL);
    for (int i = 0; i < 600; i++)
        rig_hear(&r, "s", CONV, 100 * i, 1);
    uint64_t lost = mock_count(r.m, "dropped_bytes", "memory");
    CU_ASSERT_TRUE(lost >= 600 * 3200 - 65536 && lost < 600 * 3200);
    CU_ASSERT_TRUE(mock_logged(r.m, OMID_LOG_ERROR) >= 1 && mock_logged(r.m, OMID_LOG_ERROR) < 10);
    mock_exec_mode(r.m, MOCK_EXEC_HELD);
    mock_advance(r.m, 3000);
    rig_tell(&r, OMID_EVENT_SESSION_END, "s", NULL);
    for (int i = 0; i < 10; i++) {
        rig_work(&r);
        mock_advance(r.m, 1500);
    }
    CU_ASSERT_EQUAL(mock_count(r.m, "spool_bytes", "added") / 3200 * 3200 + lost, 600 * 3200);
    /* Never to a disk, and no conversation either: told at the end. */
    rig_hear(&r, "u", "", 1000, 1);
    rig_tell(&r, OMID_EVENT_SESSION_END, "u", NULL);
    CU_ASSERT_EQUAL(mock_count(r.m, "dropped_bytes", "no_conversation"), 3200);
    rig_hear(&r, "v", CONV, 1000, 1);
    for (size_t i = 0; i < mock_job_count(r.m); i++)
        mock_job_ack(r.m, i, OMID_OK);
    rig_end(&r);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"names that lead nowhere, sums, heads", test_names},
        {"codecs", test_codecs},
        {"the index", test_index},
        {"sessions apart", test_sessions_apart},
        {"configuration", test_configuration},
        {"a batch to the bucket, and away", test_batch_to_bucket},
        {"a conversation that is known after its audio", test_conversation_known_late},
        {"the bucket before the host; gaps, two sessions", test_host_style_and_gaps},
        {"kept for so long: one job for the same", test_kept_for_so_long},
        {"deleted, and told again while the queue is full", test_deleted_again},
        {"read without memory", test_load_without_memory},
        {"a store without ranges", test_no_ranges},
        {"memory is bounded, and the loss told", test_memory_bound},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"storage", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
