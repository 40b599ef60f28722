/* The store: what schema 2 adds (photos, messages, speakers, people, samples), a file of schema 1, and the readers. */
#include <pthread.h>

#include "base/base64.h"
#include "base/id.h"
#include "base/json.h"
#include "base/log.h"
#include "base/magic.h"
#include "fixture_store.h"

#define NOW INT64_C(1769860800000) /* 2026-01-31T12:00:00Z */

/* As the first omid made it. Never changed: such files exist. */
static const char schema_1[] =
    "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL;"
    "CREATE TABLE conversation(n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, uid TEXT NOT NULL,"
    " language TEXT NOT NULL, source TEXT NOT NULL, status INTEGER NOT NULL, created INTEGER NOT NULL,"
    " started INTEGER NOT NULL, finished INTEGER NOT NULL, timeout INTEGER NOT NULL, structured TEXT, error TEXT);"
    "CREATE INDEX conversation_status ON conversation(status);"
    "CREATE INDEX conversation_of_uid ON conversation(uid, created);"
    "CREATE INDEX conversation_open ON conversation(uid) WHERE status = 0;"
    "CREATE INDEX conversation_ends ON conversation(finished + timeout) WHERE status = 0;"
    "CREATE TABLE segment(n INTEGER PRIMARY KEY, conversation INTEGER NOT NULL REFERENCES conversation(n) ON DELETE "
    "CASCADE,"
    " id TEXT NOT NULL, text TEXT NOT NULL, speaker TEXT NOT NULL, speaker_id INTEGER NOT NULL, is_user INTEGER NOT "
    "NULL,"
    " person_id TEXT, stt_provider TEXT, start REAL NOT NULL, \"end\" REAL NOT NULL, UNIQUE(conversation, id));"
    "INSERT INTO conversation VALUES(1, 'c0000000-0000-4000-8000-000000000001', 'ann', 'en', 'omi', 2, 1, 2, 3, 120000,"
    " '{\"title\":\"Old\"}', NULL);"
    "INSERT INTO conversation VALUES(2, 'c0000000-0000-4000-8000-000000000002', 'ann', 'en', 'omi', 0, 5, 6, 7, 120000,"
    " NULL, NULL);"
    "INSERT INTO segment VALUES(1, 1, 's1', 'Kept.', 'SPEAKER_00', 0, 0, NULL, 'custom', 0.5, 1.5);"
    "PRAGMA application_id=1869441395; PRAGMA user_version=1;";

/* ---------------------------------------------------------------- calls, waited for */

struct answer {
    _Atomic int n;
    int result;
    char id[37];
    struct store_conversation *c;
};

static void on_opened(void *arg, struct store_opened *o)
{
    struct answer *a = arg;
    a->result = o->result;
    snprintf(a->id, sizeof(a->id), "%s", o->conversation ? o->conversation->id : "");
    a->n++;
}
static void on_result(void *arg, int result)
{
    struct answer *a = arg;
    a->result = result;
    a->n++;
}
static void on_found(void *arg, int result, const char *id)
{
    struct answer *a = arg;
    a->result = result;
    snprintf(a->id, sizeof(a->id), "%s", id ? id : "");
    a->n++;
}
static void on_got(void *arg, int result, struct store_conversation *c)
{
    CU_ASSERT_EQUAL(result, OMID_OK);
    struct answer *a = arg;
    a->c = c;
    a->n++;
}

static void begin(const char *uid, const char *id, int64_t now)
{
    struct answer a = {0};
    struct store_open_params p = {.uid = uid,
                                  .create_id = id,
                                  .language = "en",
                                  .source = "omi",
                                  .call_id = "call 7",
                                  .now_ms = now,
                                  .timeout_ms = 120000};
    CU_ASSERT_EQUAL_FATAL(store_conversation_open(s, &p, lp, on_opened, &a), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(a.n == 1));
    CU_ASSERT_STRING_EQUAL(a.id, id);
}

static int put(const struct store_update *u)
{
    struct answer a = {0};
    int r = store_segments_put(s, u, lp, on_result, &a);
    if (r != OMID_OK)
        return r;
    return WAIT_FOR(a.n == 1) ? a.result : -99;
}

static int status(const char *id, enum store_status from, enum store_status to)
{
    struct answer a = {0};
    int r = store_status_set(s, id, from, to, NULL, NULL, lp, on_result, &a);
    return r != OMID_OK ? r : WAIT_FOR(a.n == 1) ? a.result : -99;
}

static int del(const char *id, const char *uid)
{
    struct answer a = {0};
    int r = store_conversation_delete(s, id, uid, lp, on_result, &a);
    return r != OMID_OK ? r : WAIT_FOR(a.n == 1) ? a.result : -99;
}

static const char *find(const char *uid, enum store_find what)
{
    static char id[37];
    struct answer a = {0};
    CU_ASSERT_EQUAL_FATAL(store_find(s, uid, what, lp, on_found, &a), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(a.n == 1));
    CU_ASSERT_EQUAL(a.result, OMID_OK);
    snprintf(id, sizeof(id), "%s", a.id);
    return id;
}

static struct store_conversation *get(const char *id)
{
    struct answer a = {0};
    CU_ASSERT_EQUAL_FATAL(store_conversation_get(s, id, lp, on_got, &a), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(a.n == 1));
    return a.c;
}

/* A page as "id id id", from a read connection. */
static int list(const struct store_list *l, size_t max, char *out, size_t len)
{
    struct buf b = BUF_INIT(0);
    char err[512];
    int r = store_list_json(s, l, max, &b, err, sizeof(err));
    out[0] = '\0';
    if (r == OMID_OK) {
        yajl_val v = json_parse(b.data, b.len, 0, err, sizeof(err));
        CU_ASSERT_PTR_NOT_NULL_FATAL(v);
        for (size_t i = 0; i < json_len(v); i++) {
            yajl_val c = json_at(v, i);
            snprintf(out + strlen(out), len - strlen(out), "%s%c%s", i ? " " : "", json_str(c, "id")[35],
                     json_bool(c, "transcript_omitted", false) ? "-" : "");
        }
        json_free(&v);
    }
    buf_free(&b);
    return r;
}

static const char A[] = "c0000000-0000-4000-8000-00000000000a", B[] = "c0000000-0000-4000-8000-00000000000b";

/* ---------------------------------------------------------------- tests */

static void test_schema_1(void)
{
    unit_rm_dir(dir);
    mkdir(dir, 0700);
    CU_ASSERT_FATAL(unit_sql(path, schema_1));
    CU_ASSERT_FATAL(fixture_open() && !aside);
    struct store_conversation *c = get("c0000000-0000-4000-8000-000000000001");
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    CU_ASSERT_EQUAL(c->status, STORE_COMPLETED);
    CU_ASSERT_EQUAL(c->n_segments, 1);
    CU_ASSERT_STRING_EQUAL(c->segment[0].text, "Kept.");
    CU_ASSERT_EQUAL(c->n_photos + c->n_messages + c->n_speakers, 0);
    CU_ASSERT_PTR_NULL(c->call_id);
    store_conversation_free(&c);
    CU_ASSERT_STRING_EQUAL(find("ann", STORE_FIND_COMPLETED), "c0000000-0000-4000-8000-000000000001");
    /* And it takes what is new. */
    struct store_photo p = {.id = "p1", .description = "", .data = (const unsigned char *)"x", .len = 1};
    struct store_update u = {
        .conversation_id = "c0000000-0000-4000-8000-000000000002", .photo = &p, .n_photos = 1, .finished_ms = 9};
    CU_ASSERT_EQUAL(put(&u), OMID_OK);
    fixture_close();
    CU_ASSERT_EQUAL(unit_sql_int(path, "PRAGMA user_version"), 13);
    CU_ASSERT_FATAL(fixture_open() && !aside); /* once more, now as a file of the present schema */
    fixture_close();
}

static void test_photos(void)
{
    static const unsigned char bytes[] = {0, 1, 2, 0xff, 0, 'J'};
    struct store_photo p[2] = {
        {.id = "p1", .description = "", .created_ms = NOW, .data = bytes, .len = sizeof(bytes)},
        {.id = "p2", .description = "a \"garden\"", .discarded = true, .created_ms = NOW + 1, .data = bytes, .len = 0}};
    struct store_update u = {.conversation_id = A, .photo = p, .n_photos = 2, .finished_ms = NOW + 5};
    struct buf b = BUF_INIT(0);
    char err[512];
    fixture_fresh();
    CU_ASSERT_EQUAL(put(&u), OMID_ENOTSUP);
    begin("ann", A, NOW);
    CU_ASSERT_EQUAL(put(&u), OMID_OK);
    CU_ASSERT_EQUAL(put(&u), OMID_OK); /* again, as after a lost answer */
    struct store_conversation *c = get(A);
    CU_ASSERT_EQUAL_FATAL(c->n_photos, 2);
    CU_ASSERT_PTR_NULL(c->photo[0].data);
    CU_ASSERT_EQUAL(c->finished_ms, NOW + 5);
    CU_ASSERT_STRING_EQUAL(c->call_id, "call 7");
    store_conversation_free(&c);
    CU_ASSERT_STRING_EQUAL(find("ann", STORE_FIND_OPEN), A); /* photos alone are content */

    CU_ASSERT_EQUAL_FATAL(store_conversation_read_json(s, "ann", A, 1 << 20, &b, err, sizeof(err)), OMID_OK);
    yajl_val v = json_parse(b.data, b.len, 0, err, sizeof(err));
    yajl_val photos = json_array(v, "photos");
    CU_ASSERT_EQUAL_FATAL(json_len(photos), 2);
    CU_ASSERT_STRING_EQUAL(json_str(json_at(photos, 0), "base64"), "AAEC/wBK");
    CU_ASSERT_STRING_EQUAL(json_str(json_at(photos, 0), "description"), "");
    CU_ASSERT_FALSE(json_bool(json_at(photos, 0), "discarded", true));
    CU_ASSERT_STRING_EQUAL(json_str(json_at(photos, 1), "description"), "a \"garden\"");
    CU_ASSERT_TRUE(json_bool(json_at(photos, 1), "discarded", false));
    CU_ASSERT_STRING_EQUAL(json_str(v, "call_id"), "call 7");
    json_free(&v);

    buf_clear(&b); /* beyond the bound its data is left out, not the photo */
    CU_ASSERT_EQUAL_FATAL(store_conversation_read_json(s, "ann", A, 4, &b, err, sizeof(err)), OMID_OK);
    v = json_parse(b.data, b.len, 0, err, sizeof(err));
    CU_ASSERT_EQUAL(json_len(json_array(v, "photos")), 2);
    CU_ASSERT_STRING_EQUAL(json_str(json_at(json_array(v, "photos"), 0), "base64"), "");
    json_free(&v);

    buf_clear(&b);
    CU_ASSERT_EQUAL(store_conversation_read_json(s, "bob", A, 1 << 20, &b, err, sizeof(err)), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(store_conversation_read_json(s, "ann", B, 1 << 20, &b, err, sizeof(err)), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(b.len, 0);
    buf_free(&b);
    fixture_close();
}

static void test_speakers(void)
{
    struct store_naming n[] = {
        {.sample_id = "x1",
         .speaker_id = 2,
         .person_id = "p-1",
         .name = "Ben",
         .segments = "[\"s1\"]",
         .created_ms = 5},
        {.sample_id = "x2", .speaker_id = 0, .name = "", .segments = "[]", .created_ms = 6},
    };
    struct store_update u = {.conversation_id = A, .naming = n, .n_namings = 2};
    fixture_fresh();
    begin("ann", A, NOW);
    CU_ASSERT_EQUAL(put(&u), OMID_OK);
    CU_ASSERT_EQUAL(put(&u), OMID_OK);
    struct store_conversation *c = get(A);
    CU_ASSERT_EQUAL_FATAL(c->n_speakers, 2);
    CU_ASSERT_PTR_NULL(c->speaker[0].person_id);
    CU_ASSERT_EQUAL(c->speaker[1].speaker_id, 2);
    CU_ASSERT_STRING_EQUAL(c->speaker[1].person_id, "p-1");
    store_conversation_free(&c);
    n[0].sample_id = "x3";
    n[0].name = "Benjamin";
    n[1].sample_id = "x4";
    n[1].speaker_id = 2; /* the last word counts */
    CU_ASSERT_EQUAL(put(&u), OMID_OK);
    n[0].sample_id = "x5";
    n[0].name = ""; /* known already, no new name */
    u.n_namings = 1;
    CU_ASSERT_EQUAL(put(&u), OMID_OK);
    fixture_close();
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM person"), 1);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT name = 'Benjamin' AND uid = 'ann' AND created = 5 FROM person"), 1);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM speaker_sample WHERE status = 0"), 5);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM speaker_sample WHERE person_id = 'user'"), 2);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT segments = '[\"s1\"]' AND uid = 'ann' FROM speaker_sample WHERE id ="
                                       " 'x1'"),
                    1);
}

static void test_too_many_people(void)
{
    fixture_fresh();
    begin("ann", A, NOW);
    struct store_naming n[50];
    char id[50][24], sample[50][24];
    for (int round = 0; round < 21; round++) {
        for (int i = 0; i < 50; i++) {
            snprintf(id[i], sizeof(id[i]), "p%d", round * 50 + i);
            snprintf(sample[i], sizeof(sample[i]), "x%d", round * 50 + i);
            n[i] = (struct store_naming){
                .sample_id = sample[i], .speaker_id = i, .person_id = id[i], .name = "N", .segments = "[]"};
        }
        struct store_update u = {.conversation_id = A, .naming = n, .n_namings = 50};
        CU_ASSERT_EQUAL(put(&u), OMID_OK);
    }
    fixture_close();
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM person"), 1000);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM speaker_sample"), 1000);
}

static void test_messages(void)
{
    struct store_message m = {.id = "m1", .app_id = "a", .app_name = "App", .text = "Hello \"you\"", .created_ms = NOW};
    struct answer a = {0};
    struct buf b = BUF_INIT(0);
    char err[512], id[16];
    fixture_fresh();
    CU_ASSERT_EQUAL(store_message_add(s, A, &m, lp, on_result, &a), OMID_OK);
    CU_ASSERT_FATAL(WAIT_FOR(a.n == 1));
    CU_ASSERT_EQUAL(a.result, OMID_ENOTSUP);
    begin("ann", A, NOW);
    m.id = id;
    for (int i = 0; i < 1010; i++) {
        snprintf(id, sizeof(id), "m%d", i);
        CU_ASSERT_EQUAL(store_message_add(s, A, &m, lp, NULL, NULL), OMID_OK);
    }
    struct store_conversation *c = get(A);
    CU_ASSERT_EQUAL_FATAL(c->n_messages, 1000);
    CU_ASSERT_STRING_EQUAL(c->message[1].id, "m1");
    store_conversation_free(&c);
    CU_ASSERT_EQUAL_FATAL(store_conversation_read_json(s, "ann", A, 1 << 20, &b, err, sizeof(err)), OMID_OK);
    yajl_val v = json_parse(b.data, b.len, 0, err, sizeof(err));
    yajl_val first = json_at(json_array(v, "messages"), 0);
    CU_ASSERT_STRING_EQUAL(json_str(first, "text"), "Hello \"you\"");
    CU_ASSERT_STRING_EQUAL(json_str(first, "sender"), "ai");
    CU_ASSERT_STRING_EQUAL(json_str(first, "app_id"), "a");
    json_free(&v);
    buf_free(&b);
    m.text = NULL;
    CU_ASSERT_EQUAL(store_message_add(s, A, &m, lp, NULL, NULL), OMID_EINVAL);
    fixture_close();
}

static void test_find_and_delete(void)
{
    struct store_segment g = {.id = "s", .text = "Text.", .speaker = "SPEAKER_00"};
    struct store_photo p = {.id = "p", .description = "", .data = (const unsigned char *)"x", .len = 1};
    struct store_naming n = {.sample_id = "x", .person_id = "q", .name = "Q", .segments = "[]"};
    struct store_update u = {.conversation_id = B,
                             .segment = &g,
                             .n_segments = 1,
                             .photo = &p,
                             .n_photos = 1,
                             .naming = &n,
                             .n_namings = 1,
                             .finished_ms = NOW};
    fixture_fresh();
    CU_ASSERT_STRING_EQUAL(find("ann", STORE_FIND_OPEN), "");
    begin("ann", A, NOW + 5);
    CU_ASSERT_STRING_EQUAL(find("ann", STORE_FIND_OPEN), ""); /* nothing in it */
    begin("ann", B, NOW);
    CU_ASSERT_EQUAL(put(&u), OMID_OK);
    CU_ASSERT_STRING_EQUAL(find("ann", STORE_FIND_OPEN), B);
    CU_ASSERT_STRING_EQUAL(find("bob", STORE_FIND_OPEN), "");
    CU_ASSERT_STRING_EQUAL(find("ann", STORE_FIND_COMPLETED), "");
    CU_ASSERT_EQUAL(status(B, STORE_IN_PROGRESS, STORE_PROCESSING), OMID_OK);
    CU_ASSERT_EQUAL(status(B, STORE_PROCESSING, STORE_COMPLETED), OMID_OK);
    CU_ASSERT_STRING_EQUAL(find("ann", STORE_FIND_COMPLETED), B);
    CU_ASSERT_STRING_EQUAL(find("bob", STORE_FIND_COMPLETED), "");

    CU_ASSERT_EQUAL(del(B, "bob"), OMID_ENOTSUP); /* another's */
    CU_ASSERT_STRING_EQUAL(find("ann", STORE_FIND_COMPLETED), B);
    CU_ASSERT_EQUAL(del(B, "ann"), OMID_OK);
    CU_ASSERT_EQUAL(del(B, "ann"), OMID_ENOTSUP);
    fixture_close();
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT (SELECT count(*) FROM segment) + (SELECT count(*) FROM photo) +"
                                       " (SELECT count(*) FROM speaker) + (SELECT count(*) FROM speaker_sample)"),
                    0);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM person"), 1); /* is the user's, not the conversation's */
}

static void test_list(void)
{
    char id[37], got[512], text[64];
    fixture_fresh();
    for (int i = 0; i < 10; i++) { /* two share a time */
        snprintf(id, sizeof(id), "c0000000-0000-4000-8000-00000000000%d", i);
        begin(i == 4 ? "bob" : "ann", id, NOW + i / 2 * 1000);
        snprintf(text, sizeof(text), "The text of number %d.", i);
        struct store_segment g = {.id = "s", .text = text, .speaker = "SPEAKER_00"};
        struct store_update u = {.conversation_id = id, .segment = &g, .n_segments = 1};
        CU_ASSERT_EQUAL(put(&u), OMID_OK);
    }
    CU_ASSERT_EQUAL(status("c0000000-0000-4000-8000-000000000007", STORE_IN_PROGRESS, STORE_PROCESSING), OMID_OK);
    struct store_list l = {.uid = "ann", .limit = 100};
    CU_ASSERT_EQUAL(list(&l, 1 << 20, got, sizeof(got)), OMID_OK);
    CU_ASSERT_STRING_EQUAL(got, "9 8 7 6 5 3 2 1 0");
    l.limit = 4;
    CU_ASSERT_EQUAL(list(&l, 1 << 20, got, sizeof(got)), OMID_OK);
    CU_ASSERT_STRING_EQUAL(got, "9 8 7 6");
    l.offset = 4;
    CU_ASSERT_EQUAL(list(&l, 1 << 20, got, sizeof(got)), OMID_OK);
    CU_ASSERT_STRING_EQUAL(got, "5 3 2 1");
    l.offset = 1000000;
    CU_ASSERT_EQUAL(list(&l, 1 << 20, got, sizeof(got)), OMID_OK);
    CU_ASSERT_STRING_EQUAL(got, "");
    l.offset = 0;
    l.before = "c0000000-0000-4000-8000-000000000006";
    CU_ASSERT_EQUAL(list(&l, 1 << 20, got, sizeof(got)), OMID_OK);
    CU_ASSERT_STRING_EQUAL(got, "5 3 2 1");
    l.before = "c0000000-0000-4000-8000-000000000004"; /* bob's */
    CU_ASSERT_EQUAL(list(&l, 1 << 20, got, sizeof(got)), OMID_ENOTSUP);
    l.before = NULL;
    l.limit = 100;
    l.statuses = 1u << STORE_PROCESSING;
    CU_ASSERT_EQUAL(list(&l, 1 << 20, got, sizeof(got)), OMID_OK);
    CU_ASSERT_STRING_EQUAL(got, "7");
    l.statuses = 0;
    l.uid = "bob";
    CU_ASSERT_EQUAL(list(&l, 1 << 20, got, sizeof(got)), OMID_OK);
    CU_ASSERT_STRING_EQUAL(got, "4");
    l.uid = "nobody";
    CU_ASSERT_EQUAL(list(&l, 1 << 20, got, sizeof(got)), OMID_OK);
    CU_ASSERT_STRING_EQUAL(got, "");
    /* A page that grows too large keeps its rows, not their transcripts. */
    l.uid = "ann";
    l.limit = 3;
    CU_ASSERT_EQUAL(list(&l, 600, got, sizeof(got)), OMID_OK);
    CU_ASSERT_STRING_EQUAL(got, "9 8- 7-");
    fixture_close();
}

/* Readers beside the writer: each page is whole, and what was answered as written is seen by the next read. */
static void *reading(void *arg)
{
    long *bad = arg;
    struct store_list l = {.uid = "ann", .limit = 100};
    for (int i = 0; i < 200; i++) {
        struct buf b = BUF_INIT(0);
        char err[512];
        if (store_list_json(s, &l, 1 << 20, &b, err, sizeof(err)) != OMID_OK) {
            fprintf(stderr, "%s\n", err);
            ++*bad;
        } else {
            yajl_val v = json_parse(b.data, b.len, 0, err, sizeof(err));
            *bad += v == NULL;
            json_free(&v);
        }
        buf_free(&b);
    }
    return NULL;
}

static void test_readers_beside_the_writer(void)
{
    pthread_t t[3];
    long bad[3] = {0};
    char id[37], got[512];
    fixture_fresh();
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, reading, &bad[i]);
    for (int i = 0; i < 60; i++) {
        id_uuid4(id);
        begin("ann", id, NOW + i);
        struct store_list l = {.uid = "ann", .limit = 1};
        CU_ASSERT_EQUAL(list(&l, 1 << 20, got, sizeof(got)), OMID_OK);
        CU_ASSERT_EQUAL(got[0], id[35]);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(t[i], NULL);
        CU_ASSERT_EQUAL(bad[i], 0);
    }
    fixture_close();
}

static void test_reading_a_broken_file(void)
{
    char err[512] = "";
    struct buf b = BUF_INIT(0);
    fixture_fresh();
    begin("ann", A, NOW);
    CU_ASSERT(unit_sql(path, "DROP TABLE photo")); /* a stranger at work */
    CU_ASSERT_EQUAL(store_conversation_read_json(s, "ann", A, 1 << 20, &b, err, sizeof(err)), OMID_ERR);
    CU_ASSERT_PTR_NOT_NULL(strstr(err, "store: "));
    CU_ASSERT_EQUAL(b.len, 0);
    buf_free(&b);
    fixture_close();
}

/* ---------------------------------------------------------------- base64 */

static void test_base64(void)
{
    static const struct {
        const char *text, *bytes;
        size_t n;
    } good[] = {{"", "", 0},
                {"TQ==", "M", 1},
                {"TQ", "M", 1},
                {"TWE=", "Ma", 2},
                {"TWFu", "Man", 3},
                {"TWFuTQ==", "ManM", 4},
                {"+/+/", "\xfb\xff\xbf", 3}};
    static const char *const bad[] = {"T",     "=",    "====", "TWF",   "TR==",  "TQ=", "TWFuT",
                                      "TW Fu", "TWF-", "T=Q=", "TWFu=", "TWE==", "\n",  "\xc3\xa9\xc3\xa9"};
    unsigned char out[64];
    size_t n;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        CU_ASSERT_TRUE(base64_decode(good[i].text, strlen(good[i].text), out, &n));
        CU_ASSERT_EQUAL(n, good[i].n);
        CU_ASSERT_EQUAL(memcmp(out, good[i].bytes, good[i].n), 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        bool taken = base64_decode(bad[i], strlen(bad[i]), out, &n);
        if (taken)
            fprintf(stderr, "taken: %s\n", bad[i]);
        CU_ASSERT_FALSE(taken);
    }
    for (size_t len = 0; len < 40; len++) {
        unsigned char data[40];
        struct buf b = BUF_INIT(0);
        id_random(data, sizeof(data));
        CU_ASSERT_TRUE(base64_encode(data, len, &b));
        CU_ASSERT_EQUAL(b.len, (len + 2) / 3 * 4);
        CU_ASSERT_TRUE(base64_decode(b.data ? b.data : "", b.len, out, &n));
        CU_ASSERT_EQUAL(n, len);
        CU_ASSERT_EQUAL(memcmp(out, data, len), 0);
        buf_free(&b);
    }
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"a file of the first schema opens", test_schema_1},
        {"photos", test_photos},
        {"speakers, people, samples", test_speakers},
        {"people are bounded", test_too_many_people},
        {"messages of apps", test_messages},
        {"find and delete", test_find_and_delete},
        {"pages", test_list},
        {"readers beside the writer", test_readers_beside_the_writer},
        {"reading a broken file", test_reading_a_broken_file},
        {"base64", test_base64},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"store content", fixture_begin, fixture_end, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
