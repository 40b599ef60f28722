/* The store: conversations and segments, and what breaks around them. */
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/id.h"
#include "base/json.h"
#include "base/log.h"
#include "base/magic.h"
#include "base/metrics.h"
#include "fixture_store.h"
#include "store/deleted.h"

#define NOW INT64_C(1769860800000) /* 2026-01-31T12:00:00Z */

/* ---------------------------------------------------------------- calls, waited for */

struct answer {
    _Atomic int n;
    int result;
    bool resumed;
    struct store_conversation *c;
    char stale[8][37];
    int n_stale;
    struct store_due due[64];
    size_t n_due;
};

static void on_opened(void *arg, struct store_opened *o)
{
    struct answer *a = arg;
    a->result = o->result;
    a->resumed = o->resumed;
    a->c = o->conversation;
    o->conversation = NULL;
    for (a->n_stale = 0; o->stale != NULL && o->stale[a->n_stale] != NULL && a->n_stale < 8; a->n_stale++)
        snprintf(a->stale[a->n_stale], 37, "%s", o->stale[a->n_stale]);
    a->n++;
}
static void on_result(void *arg, int result)
{
    struct answer *a = arg;
    a->result = result;
    a->n++;
}
static void on_got(void *arg, int result, struct store_conversation *c)
{
    CU_ASSERT_EQUAL(result, OMID_OK);
    struct answer *a = arg;
    a->c = c;
    a->n++;
}
static void on_due(void *arg, const struct store_due *due, size_t n)
{
    struct answer *a = arg;
    a->n_due = n;
    for (size_t i = 0; i < n && i < 64; i++)
        a->due[i] = (struct store_due){.status = due[i].status};
    for (size_t i = 0; i < n && i < 64; i++)
        memcpy(a->due[i].id, due[i].id, 37);
    a->n++;
}

static void on_deleted(void *arg, int result, const struct store_deleted *deleted, size_t n)
{
    struct answer *a = arg;
    a->result = result;
    a->n_due = n;
    for (size_t i = 0; i < n && i < 64; i++)
        memcpy(a->due[i].id, deleted[i].id, 37);
    a->n++;
}

static struct answer deleted_ones(size_t max)
{
    struct answer a = {0};
    if (store_deleted(s, max, lp, on_deleted, &a) != OMID_OK || !WAIT_FOR(a.n == 1) || a.result != OMID_OK)
        a.n_due = 99;
    return a;
}

static struct answer open_for(const char *uid, const char *resume, const char *create, int64_t now)
{
    struct answer a = {0};
    struct store_open_params p = {.uid = uid,
                                  .resume_id = resume,
                                  .create_id = create,
                                  .language = "en",
                                  .source = "omi",
                                  .now_ms = now,
                                  .timeout_ms = 120000};
    if (store_conversation_open(s, &p, lp, on_opened, &a) != OMID_OK || !WAIT_FOR(a.n == 1))
        a.result = -99;
    return a;
}

static int put(const char *id, const struct store_segment *g, size_t n, const char *const *deleted, size_t n_deleted,
               int64_t started, int64_t finished)
{
    struct answer a = {0};
    struct store_update u = {.conversation_id = id,
                             .segment = g,
                             .n_segments = n,
                             .deleted = deleted,
                             .n_deleted = n_deleted,
                             .started_ms = started,
                             .finished_ms = finished};
    int r = store_segments_put(s, &u, lp, on_result, &a);
    if (r != OMID_OK)
        return r;
    return WAIT_FOR(a.n == 1) ? a.result : -99;
}

static int set(const char *id, enum store_status from, enum store_status to, const char *structured, const char *error)
{
    struct answer a = {0};
    int r = store_status_set(s, id, from, to, structured, error, lp, on_result, &a);
    if (r != OMID_OK)
        return r;
    return WAIT_FOR(a.n == 1) ? a.result : -99;
}

static struct store_conversation *get(const char *id)
{
    struct answer a = {0};
    CU_ASSERT_EQUAL(store_conversation_get(s, id, lp, on_got, &a), OMID_OK);
    WAIT_FOR(a.n == 1);
    return a.c;
}

static struct answer due(int64_t now, size_t max)
{
    struct answer a = {0};
    CU_ASSERT_EQUAL(store_due(s, now, max, lp, on_due, &a), OMID_OK);
    WAIT_FOR(a.n == 1);
    return a;
}

static char *new_conversation(const char *uid, int64_t now, char id[37])
{
    struct answer a = open_for(uid, NULL, NULL, now);
    CU_ASSERT_PTR_NOT_NULL_FATAL(a.c);
    memcpy(id, a.c->id, 37);
    store_conversation_free(&a.c);
    return id;
}

static const struct store_segment seg1 = {.id = "s1",
                                          .text = "Hello there.",
                                          .speaker = "SPEAKER_00",
                                          .stt_provider = "sphinx",
                                          .start = 1.5,
                                          .end = 2.25},
                                  seg2 = {.id = "s2",
                                          .text = "General \"K\".",
                                          .speaker = "SPEAKER_01",
                                          .speaker_id = 1,
                                          .person_id = "p1",
                                          .is_user = true,
                                          .start = 0.5,
                                          .end = 1.0};

/* ---------------------------------------------------------------- open */

static void test_open_new_and_resume(void)
{
    char id[37];
    fixture_fresh();
    struct answer a = open_for("u1", NULL, NULL, NOW);
    CU_ASSERT_EQUAL(a.result, OMID_OK);
    CU_ASSERT(!a.resumed);
    CU_ASSERT_PTR_NOT_NULL_FATAL(a.c);
    CU_ASSERT(id_is_uuid(a.c->id));
    CU_ASSERT_EQUAL(a.c->status, STORE_IN_PROGRESS);
    CU_ASSERT_EQUAL(a.c->created_ms, NOW);
    CU_ASSERT_EQUAL(a.c->finished_ms, NOW);
    CU_ASSERT_EQUAL(a.c->started_ms, 0);
    CU_ASSERT_EQUAL(a.n_stale, 0);
    memcpy(id, a.c->id, 37);
    store_conversation_free(&a.c);
    CU_ASSERT_EQUAL(put(id, &seg1, 1, NULL, 0, NOW + 1500, NOW + 3000), OMID_OK);
    /* Resumed until its timeout after the last segment, with what it has. */
    a = open_for("u1", NULL, NULL, NOW + 3000 + 119999);
    CU_ASSERT(a.resumed);
    CU_ASSERT_PTR_NOT_NULL_FATAL(a.c);
    CU_ASSERT_STRING_EQUAL(a.c->id, id);
    CU_ASSERT_EQUAL(a.c->n_segments, 1);
    CU_ASSERT_EQUAL(a.c->started_ms, NOW + 1500);
    store_conversation_free(&a.c);
    /* Another uid gets its own. */
    a = open_for("u2", id, NULL, NOW);
    CU_ASSERT(!a.resumed);
    CU_ASSERT_STRING_NOT_EQUAL(a.c->id, id);
    store_conversation_free(&a.c);
    /* Too old: processed, and a new one. Then the new one resumes. */
    a = open_for("u1", NULL, NULL, NOW + 3000 + 120000);
    CU_ASSERT(!a.resumed);
    CU_ASSERT_EQUAL(a.n_stale, 1);
    CU_ASSERT_STRING_EQUAL(a.stale[0], id);
    store_conversation_free(&a.c);
    struct store_conversation *c = get(id);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    CU_ASSERT_EQUAL(c->status, STORE_PROCESSING);
    store_conversation_free(&c);
    fixture_close();
}

/* Two in progress (one was begun while the store did not answer): the asked-for wins, the other is processed. */
static void test_open_asked(void)
{
    char a_id[37], b_id[37];
    fixture_fresh();
    new_conversation("u", NOW, a_id);
    id_uuid4(b_id);
    struct answer a = open_for("u", NULL, b_id, NOW + 1000);
    CU_ASSERT(!a.resumed);
    CU_ASSERT_STRING_EQUAL(a.c->id, b_id);
    store_conversation_free(&a.c);
    a = open_for("u", NULL, b_id, NOW + 1000); /* again: it is there */
    CU_ASSERT(a.resumed);
    store_conversation_free(&a.c);
    a = open_for("stranger", NULL, b_id, NOW); /* not its own */
    CU_ASSERT_EQUAL(a.result, OMID_ERR);
    CU_ASSERT_PTR_NULL(a.c);
    a = open_for("u", a_id, NULL, NOW + 2000);
    CU_ASSERT(a.resumed);
    CU_ASSERT_STRING_EQUAL(a.c->id, a_id);
    CU_ASSERT_EQUAL(a.n_stale, 1);
    CU_ASSERT_STRING_EQUAL(a.stale[0], b_id);
    store_conversation_free(&a.c);
    fixture_close();
}

/* ---------------------------------------------------------------- segments */

static void test_segments(void)
{
    char id[37];
    struct store_segment both[] = {seg1, seg2}, changed = seg1;
    const char *const gone[] = {"s2"};
    fixture_fresh();
    new_conversation("u", NOW, id);
    CU_ASSERT_EQUAL(put(id, both, 2, NULL, 0, 0, 0), OMID_OK);
    struct store_conversation *c = get(id);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    CU_ASSERT_EQUAL_FATAL(c->n_segments, 2);
    CU_ASSERT_STRING_EQUAL(c->segment[0].id, "s2"); /* by start */
    CU_ASSERT_STRING_EQUAL(c->segment[0].person_id, "p1");
    CU_ASSERT(c->segment[0].is_user);
    CU_ASSERT_EQUAL(c->segment[0].speaker_id, 1);
    CU_ASSERT_PTR_NULL(c->segment[0].stt_provider);
    CU_ASSERT_EQUAL(c->segment[1].start, 1.5);
    CU_ASSERT_EQUAL(c->finished_ms, NOW);
    store_conversation_free(&c);
    changed.text = "Hello there, again.";
    changed.end = 4;
    CU_ASSERT_EQUAL(put(id, &changed, 1, gone, 1, NOW + 1, NOW + 2), OMID_OK);
    c = get(id);
    CU_ASSERT_EQUAL_FATAL(c->n_segments, 1);
    CU_ASSERT_STRING_EQUAL(c->segment[0].text, "Hello there, again.");
    CU_ASSERT_EQUAL(c->segment[0].end, 4);
    CU_ASSERT_EQUAL(c->started_ms, NOW + 1);
    CU_ASSERT_EQUAL(c->finished_ms, NOW + 2);
    store_conversation_free(&c);
    CU_ASSERT_EQUAL(put("00000000-0000-4000-8000-000000000000", &seg1, 1, NULL, 0, 0, 0), OMID_ENOTSUP);
    changed.id = NULL;
    CU_ASSERT_EQUAL(put(id, &changed, 1, NULL, 0, 0, 0), OMID_EINVAL);
    fixture_close();
}

/* ---------------------------------------------------------------- status */

static int64_t count_json(const char *status)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    char err[100];
    json_w_start(&w, &b);
    store_status_json(s, &w);
    CU_ASSERT(json_w_end(&w));
    yajl_val v = json_parse(b.data, b.len, 0, err, sizeof(err));
    int64_t n = json_int(json_object(v, "conversations"), status, -1);
    json_free(&v);
    buf_free(&b);
    return n;
}

static void test_status(void)
{
    char id[37];
    struct answer a = {0};
    fixture_fresh();
    new_conversation("u", NOW, id);
    CU_ASSERT_EQUAL(count_json("in_progress"), 1);
    CU_ASSERT_EQUAL(set(id, STORE_PROCESSING, STORE_COMPLETED, "{}", NULL), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(set(id, STORE_IN_PROGRESS, STORE_PROCESSING, NULL, NULL), OMID_OK);
    CU_ASSERT_EQUAL(set(id, STORE_IN_PROGRESS, STORE_PROCESSING, NULL, NULL), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(set(id, STORE_PROCESSING, STORE_IN_PROGRESS, NULL, NULL), OMID_EINVAL);
    CU_ASSERT_EQUAL(set(id, STORE_PROCESSING, STORE_COMPLETED, "{\"title\":\"T\"}", NULL), OMID_OK);
    CU_ASSERT_EQUAL(count_json("completed"), 1);
    CU_ASSERT_EQUAL(count_json("in_progress"), 0);
    struct store_conversation *c = get(id);
    CU_ASSERT_STRING_EQUAL(c->structured, "{\"title\":\"T\"}");
    CU_ASSERT_PTR_NULL(c->error);
    store_conversation_free(&c);
    CU_ASSERT_EQUAL(put(id, &seg1, 1, NULL, 0, 0, 0), OMID_OK);
    CU_ASSERT_EQUAL(store_conversation_delete(s, id, NULL, lp, on_result, &a), OMID_OK);
    CU_ASSERT(WAIT_FOR(a.n == 1));
    CU_ASSERT_EQUAL(a.result, OMID_OK);
    CU_ASSERT_PTR_NULL(get(id));
    CU_ASSERT_EQUAL(count_json("completed"), 0);
    CU_ASSERT_EQUAL(store_conversation_delete(s, id, NULL, lp, on_result, &a), OMID_OK);
    CU_ASSERT(WAIT_FOR(a.n == 2));
    CU_ASSERT_EQUAL(a.result, OMID_ENOTSUP);
    /* Told until it is forgotten, and so by the next process. */
    struct answer d = deleted_ones(1000);
    CU_ASSERT_EQUAL(d.n_due, 1);
    CU_ASSERT_STRING_EQUAL(d.due[0].id, id);
    fixture_close();
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM segment"), 0);
    CU_ASSERT_FATAL(fixture_open());
    CU_ASSERT_EQUAL(deleted_ones(1).n_due, 1);
    CU_ASSERT_EQUAL(store_deleted(s, 0, lp, on_deleted, &d), OMID_EINVAL);
    CU_ASSERT_EQUAL(store_deleted(s, 1001, lp, on_deleted, &d), OMID_EINVAL);
    CU_ASSERT_EQUAL(store_deleted_forget(s, id), OMID_OK);
    CU_ASSERT_EQUAL(deleted_ones(1000).n_due, 0);
    fixture_close();
}

static void test_due(void)
{
    char id[20][37], uid[8];
    fixture_fresh();
    for (int i = 0; i < 20; i++) {
        snprintf(uid, sizeof(uid), "u%d", i);
        new_conversation(uid, NOW + i, id[i]);
    }
    struct answer a = due(NOW + 120000 - 1, 64);
    CU_ASSERT_EQUAL(a.n_due, 0);
    a = due(NOW + 120000 + 4, 64);
    CU_ASSERT_EQUAL(a.n_due, 5);
    CU_ASSERT_STRING_EQUAL(a.due[0].id, id[0]);
    CU_ASSERT_EQUAL(a.due[0].status, STORE_IN_PROGRESS);
    for (int i = 0; i < 10; i++)
        CU_ASSERT_EQUAL(set(id[i], STORE_IN_PROGRESS, STORE_PROCESSING, NULL, NULL), OMID_OK);
    a = due(NOW, 64);
    CU_ASSERT_EQUAL(a.n_due, 10);
    /* Neither kind hides the other, and those that hang don't hide the rest: everyone is told in a few rounds. */
    int told[20] = {0};
    for (int round = 0; round < 5; round++) {
        a = due(NOW + 500000, 6);
        CU_ASSERT_EQUAL(a.n_due, 6);
        int processing = 0;
        for (size_t i = 0; i < a.n_due; i++) {
            for (int k = 0; k < 20; k++)
                told[k] += strcmp(a.due[i].id, id[k]) == 0;
            processing += a.due[i].status == STORE_PROCESSING;
        }
        CU_ASSERT_EQUAL(processing, 3);
    }
    for (int k = 0; k < 10; k++)
        CU_ASSERT(told[k] >= 1);
    for (int k = 10; k < 13; k++)
        CU_ASSERT_EQUAL(told[k], 5);
    fixture_close();
}

/* ---------------------------------------------------------------- wire form */

static yajl_val as_json(const struct store_conversation *c, struct buf *b)
{
    struct json_w w;
    char err[100];
    *b = BUF_INIT(0);
    json_w_start(&w, b);
    store_conversation_json(&w, c);
    CU_ASSERT(json_w_end(&w));
    return json_parse(b->data, b->len, 0, err, sizeof(err));
}

static void test_json(void)
{
    struct store_segment g[] = {seg1, seg2};
    struct store_conversation c = {.id = "11111111-2222-4333-8444-555555555555",
                                   .uid = "u",
                                   .language = "en",
                                   .source = "omi",
                                   .status = STORE_COMPLETED,
                                   .created_ms = NOW,
                                   .started_ms = NOW + 1500,
                                   .finished_ms = NOW,
                                   .structured =
                                       "{\"title\":\"Ti\",\"events\":7,\"action_items\":[{\"description\":\"d\","
                                       "\"completed\":false}],\"extra\":1}",
                                   .segment = g,
                                   .n_segments = 2};
    struct buf b;
    yajl_val v = as_json(&c, &b);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    CU_ASSERT_STRING_EQUAL(json_str(v, "created_at"), "2026-01-31T12:00:00.000+00:00");
    CU_ASSERT_STRING_EQUAL(json_str(v, "started_at"), "2026-01-31T12:00:01.500+00:00");
    CU_ASSERT_STRING_EQUAL(json_str(v, "status"), "completed");
    CU_ASSERT(YAJL_IS_NULL(json_get(v, "geolocation")));
    CU_ASSERT_STRING_EQUAL(json_str(v, "visibility"), "private");
    CU_ASSERT_EQUAL(json_bool(v, "discarded", true), false);
    static const char *const lists[] = {"photos", "apps_results", "plugins_results"};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        CU_ASSERT(YAJL_IS_ARRAY(json_get(v, lists[i])));
    yajl_val st = json_object(v, "structured");
    CU_ASSERT_STRING_EQUAL(json_str(st, "title"), "Ti");
    CU_ASSERT_STRING_EQUAL(json_str(st, "category"), "other");
    CU_ASSERT(YAJL_IS_ARRAY(json_get(st, "events"))); /* of a wrong type: the default */
    CU_ASSERT_EQUAL(json_len(json_array(st, "action_items")), 1);
    CU_ASSERT_EQUAL(json_int(st, "extra", 0), 1);
    yajl_val seg = json_at(json_array(v, "transcript_segments"), 1);
    CU_ASSERT_STRING_EQUAL(json_str(seg, "text"), "General \"K\".");
    CU_ASSERT_EQUAL(json_num(seg, "start", 0), 0.5);
    CU_ASSERT_EQUAL(json_bool(seg, "speech_profile_processed", false), true);
    CU_ASSERT(YAJL_IS_NULL(json_get(seg, "stt_provider")));
    CU_ASSERT(YAJL_IS_ARRAY(json_get(seg, "translations")));
    json_free(&v);
    buf_free(&b);
    c.structured = "not json";
    c.started_ms = 0;
    v = as_json(&c, &b);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    CU_ASSERT_STRING_EQUAL(json_str(json_object(v, "structured"), "title"), "");
    CU_ASSERT(YAJL_IS_NULL(json_get(v, "started_at")));
    json_free(&v);
    buf_free(&b);
}

/* ---------------------------------------------------------------- disk */

static bool healthy(void)
{
    char err[512];
    store_health(s, err, sizeof(err));
    return err[0] == '\0';
}

/* One call is too big for the disk; those beside it in the same group are not. */
static void test_poison_alone(void)
{
    enum { N = 60 };
    static char big[900000];
    char id[37], small[N][16];
    struct answer a[N] = {0};
    int ok = 0, failed = 0;
    fixture_fresh();
    new_conversation("u", NOW, id);
    memset(big, 'x', sizeof(big) - 1);
    struct stat st;
    char wal[128];
    snprintf(wal, sizeof(wal), "%s-wal", path);
    CU_ASSERT_FATAL(stat(wal, &st) == 0);
    unit_disk_limit((rlim_t)st.st_size + 600000);
    for (int i = 0; i < N; i++) {
        snprintf(small[i], sizeof(small[i]), "seg%d", i);
        struct store_segment g = seg1;
        g.id = small[i];
        if (i == N / 2)
            g.text = big;
        struct store_update u = {.conversation_id = id, .segment = &g, .n_segments = 1};
        CU_ASSERT_EQUAL(store_segments_put(s, &u, lp, on_result, &a[i]), OMID_OK);
    }
    for (int i = 0; i < N; i++) {
        CU_ASSERT(WAIT_FOR(a[i].n == 1));
        ok += a[i].result == OMID_OK;
        failed += a[i].result == OMID_ERR;
    }
    CU_ASSERT_EQUAL(a[N / 2].result, OMID_ERR);
    CU_ASSERT_EQUAL(failed, 1);
    CU_ASSERT_EQUAL(ok, N - 1);
    unit_disk_limit(0);
    CU_ASSERT(WAIT_FOR(healthy()));
    struct store_conversation *c = get(id);
    CU_ASSERT_EQUAL(c->n_segments, N - 1);
    store_conversation_free(&c);
    fixture_close();
}

static void test_disk_full(void)
{
    char id[37], err[512];
    static char text[100000];
    struct store_segment g = seg1;
    fixture_fresh();
    new_conversation("u", NOW, id);
    memset(text, 'y', sizeof(text) - 1);
    struct stat st;
    char wal[128];
    snprintf(wal, sizeof(wal), "%s-wal", path);
    CU_ASSERT_FATAL(stat(wal, &st) == 0);
    unit_disk_limit((rlim_t)st.st_size);
    g.text = text;
    CU_ASSERT_EQUAL(put(id, &g, 1, NULL, 0, NOW + 1, NOW + 1), OMID_ERR);
    struct answer a = open_for("v", NULL, NULL, NOW);
    CU_ASSERT_EQUAL(a.result, OMID_ERR);
    CU_ASSERT_PTR_NULL(a.c);
    CU_ASSERT_EQUAL(set(id, STORE_IN_PROGRESS, STORE_PROCESSING, NULL, NULL), OMID_ERR);
    store_health(s, err, sizeof(err));
    CU_ASSERT(strstr(err, path) != NULL && (strstr(err, "limit") != NULL || strstr(err, "full") != NULL));
    /* Nothing half done; reading goes on. */
    struct store_conversation *c = get(id);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    CU_ASSERT_EQUAL(c->n_segments, 0);
    CU_ASSERT_EQUAL(c->started_ms, 0);
    CU_ASSERT_EQUAL(c->status, STORE_IN_PROGRESS);
    store_conversation_free(&c);
    CU_ASSERT_EQUAL(count_json("in_progress"), 1);
    unit_disk_limit(0);
    CU_ASSERT(WAIT_FOR(healthy())); /* by itself */
    CU_ASSERT_EQUAL(put(id, &g, 1, NULL, 0, NOW + 1, NOW + 1), OMID_OK);
    fixture_close();
}

static void test_newer_and_broken(void)
{
    char err[512], id[37];
    struct store_config c = {.path = path, .commit_ms = 2};
    fixture_fresh();
    new_conversation("u", NOW, id);
    fixture_close();
    CU_ASSERT(unit_sql(path, "PRAGMA user_version=99"));
    CU_ASSERT_PTR_NULL(store_open(&c, &aside, err, sizeof(err)));
    CU_ASSERT(strstr(err, "version is 99") != NULL);
    CU_ASSERT(!aside);
    CU_ASSERT(unit_sql(path, "PRAGMA user_version=13"));
    CU_ASSERT_FATAL(fixture_open());
    struct store_conversation *v = get(id);
    CU_ASSERT_PTR_NOT_NULL(v);
    store_conversation_free(&v);
    fixture_close();
    struct stat st;
    CU_ASSERT_FATAL(stat(path, &st) == 0);
    CU_ASSERT_EQUAL(truncate(path, st.st_size - 5000), 0);
    s = store_open(&c, &aside, err, sizeof(err));
    CU_ASSERT_PTR_NOT_NULL_FATAL(s);
    CU_ASSERT(aside);
    CU_ASSERT(unit_files(dir, "store.db.corrupt-") >= 1);
    CU_ASSERT_FATAL(store_start(s));
    new_conversation("u", NOW, id);
    fixture_close();
}

/* After the stop: refused, not lost in silence. */
static void test_after_stop(void)
{
    char id[37];
    struct answer a = {0};
    fixture_fresh();
    new_conversation("u", NOW, id);
    store_stop(s);
    CU_ASSERT_EQUAL(store_conversation_get(s, id, lp, on_got, &a), OMID_ECLOSED);
    CU_ASSERT_EQUAL(put(id, &seg1, 1, NULL, 0, 0, 0), OMID_ECLOSED);
    store_free(&s);
}

/* ---------------------------------------------------------------- kill -9 */

struct ledger {
    char id[37];
    _Atomic uint32_t next;
    _Atomic uint32_t stored[100000];
};
static struct ledger *ledger;

static void on_stored(void *arg, int result)
{
    if (result == OMID_OK)
        ledger->stored[(uintptr_t)arg] = 1;
}

static void put_until_killed(void)
{
    char sid[16];
    lp = loop_new("child");
    if (lp == NULL || !loop_start(lp) || !fixture_open())
        _exit(1);
    for (;;) {
        uint32_t n = ledger->next++;
        if (n >= ARRAY_LEN(ledger->stored))
            _exit(2);
        struct store_segment g = seg1;
        snprintf(sid, sizeof(sid), "%u", n);
        g.id = sid;
        g.start = n;
        struct store_update u = {.conversation_id = ledger->id, .segment = &g, .n_segments = 1, .finished_ms = NOW + n};
        if (store_segments_put(s, &u, lp, on_stored, (void *)(uintptr_t)n) != OMID_OK)
            _exit(3);
        if (n % 10 == 0)
            nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
}

static void test_kill_nine(void)
{
    enum { KILLS = 12 };
    fixture_fresh();
    ledger = mmap(NULL, sizeof(*ledger), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CU_ASSERT_FATAL(ledger != MAP_FAILED);
    new_conversation("u", NOW, ledger->id);
    fixture_close();
    for (int k = 0; k < KILLS; k++) {
        int status = 0;
        uint32_t begin = ledger->next;
        pid_t pid = fork();
        if (pid == 0)
            put_until_killed();
        /* One that ended by itself is no load. */
        CU_ASSERT_FATAL(WAIT_FOR(ledger->next > begin + 50 || waitpid(pid, &status, WNOHANG) == pid));
        CU_ASSERT_FATAL(ledger->next > begin + 50);
        nanosleep(&(struct timespec){.tv_nsec = (long)(id_random_u64() % 40000000)}, NULL);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        CU_ASSERT(WIFSIGNALED(status));
    }
    CU_ASSERT_FATAL(fixture_open());
    struct store_conversation *c = get(ledger->id);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    uint32_t stored = 0, lost = 0, all = ledger->next;
    bool *there = calloc(all, sizeof(*there));
    for (size_t i = 0; i < c->n_segments; i++)
        there[strtoul(c->segment[i].id, NULL, 10)] = true;
    for (uint32_t i = 0; i < all; i++) {
        stored += ledger->stored[i];
        lost += ledger->stored[i] && !there[i];
    }
    printf("(%d kills, %u answered, %u lost) ", KILLS, stored, lost);
    CU_ASSERT(stored > KILLS * 20);
    CU_ASSERT_EQUAL(lost, 0);
    free(there);
    store_conversation_free(&c);
    fixture_close();
    munmap(ledger, sizeof(*ledger));
}

/* Callers on several threads, each seeing what it has put before. */
static void *in_order(void *arg)
{
    char id[37], uid[32];
    snprintf(uid, sizeof(uid), "thread%d", *(int *)arg);
    new_conversation(uid, NOW, id);
    for (int i = 0; i < 100; i++) {
        char sid[16];
        struct store_segment g = seg1;
        snprintf(sid, sizeof(sid), "%d", i);
        g.id = sid;
        struct store_update u = {.conversation_id = id, .segment = &g, .n_segments = 1};
        if (store_segments_put(s, &u, NULL, NULL, NULL) != OMID_OK)
            return NULL;
        if (i % 10 == 0) {
            struct store_conversation *c = get(id);
            if (c == NULL || c->n_segments != (size_t)i + 1)
                return NULL;
            store_conversation_free(&c);
        }
    }
    return arg;
}

static void test_threads(void)
{
    pthread_t t[4];
    int n[4] = {0, 1, 2, 3};
    fixture_fresh();
    for (int i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(pthread_create(&t[i], NULL, in_order, &n[i]), 0);
    for (int i = 0; i < 4; i++) {
        void *r = NULL;
        pthread_join(t[i], &r);
        CU_ASSERT_PTR_NOT_NULL(r);
    }
    struct buf b = BUF_INIT(0);
    metrics_render(&b);
    CU_ASSERT(b.data != NULL && strstr(b.data, "omid_store_conversations{status=\"in_progress\"} 4") != NULL);
    buf_free(&b);
    fixture_close();
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM segment"), 400);
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"new and resumed", test_open_new_and_resume},
        {"the one asked for", test_open_asked},
        {"segments", test_segments},
        {"status", test_status},
        {"due", test_due},
        {"wire form", test_json},
        {"one fails alone", test_poison_alone},
        {"disk full", test_disk_full},
        {"newer and broken files", test_newer_and_broken},
        {"after the stop", test_after_stop},
        {"kill -9", test_kill_nine},
        {"threads", test_threads},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"store", fixture_begin, fixture_end, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
