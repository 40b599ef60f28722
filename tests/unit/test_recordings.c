/* Recordings made offline in the store: known again, taken up, merged into conversations by time, forgotten. */
#include <math.h>

#include "base/magic.h"
#include "fixture_store.h"
#include "store/recordings.h"

#define T0 INT64_C(1767268800000)
#define TIMEOUT 120000

struct answer {
    _Atomic int times;
    int result;
    bool again[8];
    size_t n;
    char id[8][37];
    int64_t row[8];
    int status[8];
    unsigned attempts[8];
};
static struct answer a;

static void on_put(void *arg, int result, const bool *again)
{
    (void)arg;
    a.result = result;
    for (size_t i = 0; i < 8 && i < a.n; i++)
        a.again[i] = again[i];
    a.times++;
}

static int put(const char *uid, const char *id, size_t n, const char *const *files)
{
    static const char hash[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    struct store_upload_file f[8];
    for (size_t i = 0; i < n; i++)
        f[i] =
            (struct store_upload_file){.hash = hash, .name = files[i], .file = files[i], .format = 1, .start_ms = T0};
    struct store_upload u = {.id = id, .uid = uid, .language = "en", .now_ms = T0, .file = f, .n = n};
    a = (struct answer){.n = n};
    int rc = store_upload_put(s, &u, lp, on_put, NULL);
    return rc != OMID_OK ? rc : WAIT_FOR(a.times == 1) ? a.result : OMID_ETIMEOUT;
}

static void on_due(void *arg, const struct store_recording *r, size_t n)
{
    (void)arg;
    a.n = n;
    for (size_t i = 0; i < n && i < 8; i++) {
        a.row[i] = r[i].n;
        a.status[i] = (int)r[i].status;
        a.attempts[i] = r[i].attempts;
    }
    a.times++;
}

static size_t due(int64_t now, int64_t forget)
{
    a = (struct answer){0};
    CU_ASSERT_EQUAL_FATAL(store_recordings_due(s, now, forget, 8, lp, on_due, NULL), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(a.times == 1));
    return a.n;
}

static void on_set(void *arg, int result)
{
    (void)arg;
    a.result = result;
    a.times++;
}

static int set(const struct store_recording_state *st)
{
    a = (struct answer){0};
    CU_ASSERT_EQUAL_FATAL(store_recording_set(s, st, lp, on_set, NULL), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(a.times == 1));
    return a.result;
}

static void on_merged(void *arg, int result, const char (*ids)[37], size_t n)
{
    (void)arg;
    a.result = result;
    a.n = n;
    for (size_t i = 0; i < n && i < 8; i++)
        memcpy(a.id[i], ids[i], 37);
    a.times++;
}

/* Words of a second each, beginning so many seconds after T0. */
static int merge(int64_t recording, const char *uid, size_t n, const double *at)
{
    struct store_segment g[8];
    char id[8][37];
    static unsigned serial;
    for (size_t i = 0; i < n; i++) {
        snprintf(id[i], sizeof(id[i]), "s%u", serial++);
        g[i] = (struct store_segment){.id = id[i],
                                      .text = "word",
                                      .speaker = "SPEAKER_00",
                                      .start = T0 / 1000. + at[i],
                                      .end = T0 / 1000. + at[i] + 1};
    }
    struct store_transcript t = {.n = recording,
                                 .uid = uid,
                                 .language = "en",
                                 .source = "omi",
                                 .timeout_ms = TIMEOUT,
                                 .segment = g,
                                 .n_segments = n};
    a = (struct answer){0};
    int rc = store_transcript_merge(s, &t, lp, on_merged, NULL);
    return rc != OMID_OK ? rc : WAIT_FOR(a.times == 1) ? a.result : OMID_ETIMEOUT;
}

static int64_t recording(const char *file)
{
    static unsigned serial;
    char id[37];
    snprintf(id, sizeof(id), "c0000000-0000-4000-8000-%012u", ++serial);
    CU_ASSERT_EQUAL_FATAL(put("ann", id, 1, &file), OMID_OK);
    CU_ASSERT_FATAL(due(T0, 0) > 0);
    return a.row[a.n - 1];
}

static struct store_conversation *found;
static void on_get(void *arg, int result, struct store_conversation *c)
{
    CU_ASSERT_EQUAL(result, OMID_OK);
    found = c;
    (*(_Atomic int *)arg)++;
}

static struct store_conversation *conversation(const char *id)
{
    _Atomic int times = 0;
    CU_ASSERT_EQUAL_FATAL(store_conversation_get(s, id, lp, on_get, &times), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(times == 1));
    return found;
}

static void processed(const char *id)
{
    a = (struct answer){0};
    CU_ASSERT_EQUAL_FATAL(store_status_set(s, id, STORE_PROCESSING, STORE_COMPLETED, "{}", NULL, lp, on_set, NULL),
                          OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(a.times == 1));
    CU_ASSERT_EQUAL(a.result, OMID_OK);
}

/* ---------------------------------------------------------------- tests */

static void test_known_again(void)
{
    static const char *const both[] = {"f1", "f2"}, *const one[] = {"f2"};
    struct buf b = BUF_INIT(0);
    char err[128];
    fixture_fresh();
    CU_ASSERT_EQUAL(put("ann", "c0000000-0000-4000-8000-00000000000a", 2, both), OMID_OK);
    CU_ASSERT(!a.again[0] && !a.again[1]);
    CU_ASSERT_EQUAL(put("ann", "c0000000-0000-4000-8000-00000000000b", 1, one), OMID_OK);
    CU_ASSERT(a.again[0]);
    CU_ASSERT_EQUAL(due(T0, 0), 2);
    int64_t n = a.row[1];
    CU_ASSERT_EQUAL(store_recording_wants(s, "f2", err, sizeof(err)), 1);
    /* Failed, it is over; uploaded again, it is taken up again. */
    struct store_recording_state st = {
        .n = n, .status = RECORDING_FAILED, .attempts = 3, .error = "no \"luck\"", .stored = true};
    CU_ASSERT_EQUAL(set(&st), OMID_OK);
    CU_ASSERT_EQUAL(due(T0, 0), 1);
    CU_ASSERT_EQUAL(store_recording_wants(s, "f2", err, sizeof(err)), 0);
    CU_ASSERT_EQUAL(store_upload_read_json(s, "ann", "c0000000-0000-4000-8000-00000000000b", &b, err, sizeof(err)),
                    OMID_OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(b.data, "\"error\":\"no \\\"luck\\\"\""));
    CU_ASSERT_PTR_NOT_NULL(strstr(b.data, "\"status\":\"failed\"}")); /* of the whole job */
    buf_free(&b);
    CU_ASSERT_EQUAL(put("ann", "c0000000-0000-4000-8000-00000000000c", 1, one), OMID_OK);
    CU_ASSERT(!a.again[0]);
    CU_ASSERT_EQUAL(due(T0, 0), 2);
    CU_ASSERT_EQUAL(a.attempts[1], 0);
    CU_ASSERT_EQUAL(store_upload_read_json(s, "ben", "c0000000-0000-4000-8000-00000000000c", &b, err, sizeof(err)),
                    OMID_ENOTSUP);
    buf_free(&b);
    st.n = 12345;
    CU_ASSERT_EQUAL(set(&st), OMID_ENOTSUP);
    fixture_close();
}

/* One who has uploaded much leaves room for who comes later. */
static void test_fair(void)
{
    static const char *const many[] = {"a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8"}, *const one[] = {"b1"};
    fixture_fresh();
    CU_ASSERT_EQUAL(put("ann", "c0000000-0000-4000-8000-00000000000a", 8, many), OMID_OK);
    CU_ASSERT_EQUAL(due(T0, 0), 8);
    int64_t first = a.row[0], second = a.row[1];
    CU_ASSERT_EQUAL(put("ben", "c0000000-0000-4000-8000-00000000000b", 1, one), OMID_OK);
    CU_ASSERT_EQUAL(due(T0, 0), 8);
    CU_ASSERT(a.row[0] == first && a.row[1] == first + 8 && a.row[2] == second);
    fixture_close();
}

static void test_times(void)
{
    fixture_fresh();
    int64_t n = recording("f1");
    struct store_recording_state st = {.n = n, .status = RECORDING_WAITING, .attempts = 1, .not_before_ms = T0 + 5000};
    CU_ASSERT_EQUAL(set(&st), OMID_OK);
    CU_ASSERT_EQUAL(due(T0 + 4999, 0), 0);
    CU_ASSERT_EQUAL(due(T0 + 5000, 0), 1);
    CU_ASSERT_EQUAL(a.attempts[0], 1);
    /* What waits is not forgotten, what is done is. */
    CU_ASSERT_EQUAL(due(T0 + 5000, T0 + 1), 1);
    st.status = RECORDING_SKIPPED;
    st.stored = true;
    CU_ASSERT_EQUAL(set(&st), OMID_OK);
    CU_ASSERT_EQUAL(due(T0, T0 + 1), 0);
    CU_ASSERT_EQUAL(set(&st), OMID_ENOTSUP);
    fixture_close();
}

static void test_groups(void)
{
    fixture_fresh();
    int64_t n = recording("f1");
    static const double at[] = {0, 100, 300, 301};
    CU_ASSERT_EQUAL(merge(n, "ann", 4, at), OMID_OK);
    CU_ASSERT_EQUAL_FATAL(a.n, 2);
    char first[37], second[37];
    memcpy(first, a.id[0], 37);
    memcpy(second, a.id[1], 37);
    struct store_conversation *c = conversation(first);
    CU_ASSERT_EQUAL(c->status, STORE_PROCESSING);
    CU_ASSERT(c->started_ms == T0 && c->finished_ms == T0 + 101000 && c->n_segments == 2 && c->revision == 0);
    CU_ASSERT_EQUAL(c->segment[1].start, 100);
    store_conversation_free(&c);
    c = conversation(second);
    CU_ASSERT(c->started_ms == T0 + 300000 && c->segment[1].start == 1);
    store_conversation_free(&c);
    CU_ASSERT_EQUAL(merge(n, "ann", 4, at), OMID_ENOTSUP); /* it is done */
    /* While they are processed nothing may join; then it does, and what begins earlier moves what is there. */
    int64_t m = recording("f2");
    static const double early[] = {-50, 420};
    CU_ASSERT_EQUAL(merge(m, "ann", 2, early), OMID_EFULL);
    processed(first);
    CU_ASSERT_EQUAL(merge(m, "ann", 2, early), OMID_EFULL); /* the second group's is not: nothing was changed */
    processed(second);
    CU_ASSERT_EQUAL(merge(m, "ann", 2, early), OMID_OK);
    CU_ASSERT(a.n == 2 && strcmp(a.id[0], first) == 0 && strcmp(a.id[1], second) == 0);
    c = conversation(first);
    CU_ASSERT(c->started_ms == T0 - 50000 && c->n_segments == 3 && c->status == STORE_PROCESSING && c->revision == 1);
    CU_ASSERT(c->segment[0].start == 0 && c->segment[1].start == 50 && c->segment[2].end == 151);
    store_conversation_free(&c);
    /* Another user's are not near. */
    processed(first);
    processed(second);
    int64_t o = recording("f3");
    static const double same[] = {0};
    CU_ASSERT_EQUAL(merge(o, "ben", 1, same), OMID_OK);
    CU_ASSERT(strcmp(a.id[0], first) != 0);
    fixture_close();
}

static int heard(int64_t n, uint64_t until, size_t words, const char *const *text)
{
    struct store_segment g[4];
    for (size_t i = 0; i < words; i++)
        g[i] = (struct store_segment){.text = text[i],
                                      .stt_provider = "p",
                                      .speaker_id = (int)i,
                                      .start = (double)until + (double)i,
                                      .end = (double)until + (double)i + 0.5};
    const struct store_heard h = {
        .n = n, .until = until, .progress = (double)until / 100., .segment = g, .n_segments = words};
    a = (struct answer){0};
    int rc = store_heard_put(s, &h, lp, on_set, NULL);
    return rc != OMID_OK ? rc : WAIT_FOR(a.times == 1) ? a.result : OMID_ETIMEOUT;
}

struct what {
    size_t n, room;
    char text[8][16];
    double start[8];
};

static bool on_word(void *arg, const struct store_segment *g)
{
    struct what *w = arg;
    if (w->n == w->room)
        return false;
    CU_ASSERT_STRING_EQUAL(g->stt_provider, "p");
    CU_ASSERT_EQUAL(g->end, g->start + 0.5);
    snprintf(w->text[w->n], sizeof(w->text[0]), "%d:%s", g->speaker_id, g->text);
    w->start[w->n++] = g->start;
    return true;
}

static uint64_t heard_until(int64_t n, struct what *w)
{
    char err[128];
    uint64_t until = 99;
    *w = (struct what){.room = 8};
    CU_ASSERT_EQUAL(store_heard_read(s, n, &until, on_word, w, err, sizeof(err)), OMID_OK);
    return until;
}

/* Piece by piece, over a restart, until it is over. */
static void test_heard(void)
{
    static const char *const two[] = {"one", "two"}, *const three[] = {"three"}, *const file = "f1";
    struct what w;
    char err[128];
    uint64_t until;
    fixture_fresh();
    int64_t n = recording(file), other = recording("f2");
    CU_ASSERT(heard_until(n, &w) == 0 && w.n == 0);
    CU_ASSERT_EQUAL(heard(n, 10, 2, two), OMID_OK);
    CU_ASSERT_EQUAL(heard(n, 10, 2, two), OMID_OK); /* the answer to the first was lost */
    CU_ASSERT_EQUAL(heard(n, 20, 0, NULL), OMID_OK);
    CU_ASSERT_EQUAL(heard(other, 5, 1, three), OMID_OK);
    CU_ASSERT_EQUAL(heard(n, 30, 1, three), OMID_OK);
    fixture_close();
    CU_ASSERT_FATAL(fixture_open() && !aside);
    CU_ASSERT_EQUAL(heard_until(n, &w), 30);
    CU_ASSERT_EQUAL_FATAL(w.n, 3);
    CU_ASSERT_STRING_EQUAL(w.text[0], "0:one");
    CU_ASSERT_STRING_EQUAL(w.text[1], "1:two");
    CU_ASSERT_STRING_EQUAL(w.text[2], "0:three");
    CU_ASSERT(w.start[0] == 10 && w.start[1] == 11 && w.start[2] == 30);
    /* Without memory for all of it there is nothing. */
    w = (struct what){.room = 1};
    CU_ASSERT_EQUAL(store_heard_read(s, n, &until, on_word, &w, err, sizeof(err)), OMID_ERR);
    CU_ASSERT_PTR_NOT_NULL(strstr(err, "no memory"));
    /* Refused: what is no text, what has no time, a recording that is not there. */
    static const char *const none[] = {NULL};
    CU_ASSERT_EQUAL(heard(n, 40, 1, none), OMID_EINVAL);
    CU_ASSERT_EQUAL(heard(999, 40, 1, three), OMID_ENOTSUP);
    CU_ASSERT(heard_until(999, &w) == 0 && w.n == 0);
    /* Put off or failed, it is kept; sent again as it was, too. */
    struct store_recording_state st = {.n = n, .status = RECORDING_FAILED, .attempts = 3, .stored = true};
    CU_ASSERT_EQUAL(set(&st), OMID_OK);
    CU_ASSERT_EQUAL(heard(n, 40, 1, three), OMID_ENOTSUP); /* it is over */
    CU_ASSERT_EQUAL(put("ann", "c0000000-0000-4000-8000-0000000000aa", 1, &file), OMID_OK);
    CU_ASSERT(heard_until(n, &w) == 30 && w.n == 3);
    CU_ASSERT_EQUAL(heard(n, 40, 1, three), OMID_OK);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT 1000 * progress FROM recording WHERE file = 'f1'"), 400);
    /* In another language it is not. */
    CU_ASSERT_EQUAL(set(&st), OMID_OK);
    CU_ASSERT(unit_sql(path, "UPDATE recording SET language = 'fr' WHERE file = 'f1'"));
    CU_ASSERT_EQUAL(put("ann", "c0000000-0000-4000-8000-0000000000ab", 1, &file), OMID_OK);
    CU_ASSERT(heard_until(n, &w) == 0 && w.n == 0);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT 1000 * progress FROM recording WHERE file = 'f1'"), 0);
    /* Done, or forgotten, nothing of it stays. */
    CU_ASSERT(heard_until(other, &w) == 5 && w.n == 1);
    static const double at[] = {0};
    CU_ASSERT_EQUAL(merge(other, "ann", 1, at), OMID_OK);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM heard"), 0);
    int64_t last = recording("f3");
    CU_ASSERT_EQUAL(heard(last, 1, 1, three), OMID_OK);
    st.n = last;
    CU_ASSERT_EQUAL(set(&st), OMID_OK);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM heard"), 1);
    (void)due(T0, T0 + 1);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM heard"), 0);
    fixture_close();
}

/* A file as the version before left it, with a recording that waits. */
static void test_schema_11(void)
{
    static const char *const word[] = {"word"};
    struct what w;
    fixture_fresh();
    int64_t n = recording("f1");
    fixture_close();
    CU_ASSERT_FATAL(unit_sql(
        path,
        "DROP TRIGGER heard_over; DROP TRIGGER heard_otherwise; DROP TABLE heard;"
        "ALTER TABLE conversation DROP COLUMN revision;"
        "ALTER TABLE recording DROP COLUMN heard; ALTER TABLE segment DROP COLUMN session; PRAGMA user_version=11"));
    CU_ASSERT_FATAL(fixture_open() && !aside);
    CU_ASSERT_EQUAL(unit_sql_int(path, "PRAGMA user_version"), 13);
    CU_ASSERT(due(T0, 0) == 1 && a.row[0] == n);
    CU_ASSERT(heard_until(n, &w) == 0 && w.n == 0);
    CU_ASSERT_EQUAL(heard(n, 7, 1, word), OMID_OK);
    CU_ASSERT(heard_until(n, &w) == 7 && w.n == 1);
    fixture_close();
}

static void test_unusable(void)
{
    fixture_fresh();
    int64_t n = recording("f1");
    static const double back[] = {5, 1}, none[] = {NAN}, far[] = {INFINITY};
    CU_ASSERT_EQUAL(merge(n, "ann", 0, back), OMID_EINVAL);
    CU_ASSERT_EQUAL(merge(n, "ann", 2, back), OMID_EINVAL);
    CU_ASSERT_EQUAL(merge(n, "ann", 1, none), OMID_EINVAL);
    CU_ASSERT_EQUAL(merge(n, "ann", 1, far), OMID_EINVAL);
    CU_ASSERT_EQUAL(merge(999, "ann", 1, back), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(put("ann", "x", 0, NULL), OMID_EINVAL);
    fixture_close();
}

int main(void)
{
    CU_TestInfo tests[] = {{"known again", test_known_again},
                           {"in turn", test_fair},
                           {"times", test_times},
                           {"groups and conversations", test_groups},
                           {"unusable", test_unusable},
                           {"heard so far", test_heard},
                           {"a file of schema 11", test_schema_11},
                           CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"recordings", fixture_begin, fixture_end, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
