/* webhooks: events that are posted, who wants them, and what is kept of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../plugins/webhooks/webhooks.h"
#include "fixture_webhooks.h"
#include "mock_doors.h"

#define PATH "/v1/events/{type}"

static const char *const no_texts[] = {NULL};
static struct rig rig;
static struct mock *m; /* its own */
static struct omid_instance *inst;

static void up(void)
{
    rig = rig_up(NULL, NULL);
    m = rig.m;
    inst = rig.inst;
}

static void down(void)
{
    rig_down(&rig);
}

static void subscribe(const char *id, const char *const *events, const char *filter)
{
    const struct omid_endpoint e = {.size = sizeof(e),
                                    .id = id,
                                    .name = "",
                                    .uid = "u1",
                                    .url = "http://w/e?k=v",
                                    .triggers = 1u << OMID_TRIGGER_EVENT,
                                    .events = events,
                                    .filter = filter,
                                    .secrets = no_texts};
    mock_endpoint_add(m, "u1", &e);
}

static int post_bytes(struct omid_exchange *ex, const char *type, const char *body, size_t len, const char *key)
{
    const char *const params[] = {type, NULL};
    const struct omid_header headers[] = {{"content-type", "application/json"}, {"idempotency-key", key}};
    const struct omid_request req = {.size = sizeof(req),
                                     .method = "POST",
                                     .path = "/v1/events/x",
                                     .query = "",
                                     .uid = "u1",
                                     .content_type = "application/json",
                                     .peer = "192.0.2.1",
                                     .body = body,
                                     .body_len = len,
                                     .params = params,
                                     .headers = headers,
                                     .n_headers = key != NULL ? 2 : 1};
    memset(ex, 0, sizeof(*ex));
    return mock_request(mock_state(inst), "POST", PATH, &req, ex);
}

static int post(struct omid_exchange *ex, const char *type, const char *body, const char *key)
{
    return post_bytes(ex, type, body, strlen(body), key);
}

static struct omid_exchange ex;

/* ------------------------------------------------------------ accepted */

static void accepted_when_on_disk(void)
{
    static const char *const orders[] = {"order.*", NULL}, *const all[] = {"*", NULL}, *const bill[] = {"bill", NULL};
    up();
    subscribe("w1", orders, "");
    subscribe("w2", all, "");
    subscribe("w3", bill, "");
    CU_ASSERT_EQUAL(post(&ex, "order.paid", "{\"sum\": 3}", NULL), OMID_OK);
    CU_ASSERT_EQUAL(ex.responses, 0); /* not yet */
    CU_ASSERT_EQUAL_FATAL(mock_batch_count(m), 1);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(m), 2);
    CU_ASSERT_STRING_EQUAL(mock_job(m, 0)->type, "event");
    CU_ASSERT_STRING_EQUAL(mock_job(m, 0)->target, "w1");
    CU_ASSERT_STRING_EQUAL(mock_job(m, 1)->target, "w2");
    mock_batch_ack(m, 0, OMID_OK, NULL);
    CU_ASSERT_EQUAL(ex.status, 202);
    CU_ASSERT_PTR_NOT_NULL(strstr(ex.body, "{\"id\":\""));
    CU_ASSERT_PTR_NOT_NULL(strstr(ex.body, "\",\"endpoints\":2}"));
    CU_ASSERT_EQUAL(mock_count(m, "events", "accepted"), 1);
    /* On the bus for the other plugins; not for this one's subscribers again. */
    CU_ASSERT_EQUAL_FATAL(mock_published(m), 1);
    const struct omid_event *ev = mock_publication(m, 0);
    CU_ASSERT_STRING_EQUAL(ev->name, "order.paid");
    CU_ASSERT_STRING_EQUAL(ev->json, "{\"sum\": 3}");
    CU_ASSERT_PTR_NOT_NULL_FATAL(ev->id);
    CU_ASSERT_EQUAL(mock_event(inst, ev), OMID_OK);
    CU_ASSERT_EQUAL(mock_job_count(m), 2);

    mock_job_run(inst, 0, 1);
    mock_job_run(inst, 0, 2);
    mock_job_run(inst, 1, 1);
    const struct mock_http *h = mock_http(m, 0);
    CU_ASSERT_STRING_EQUAL(h->url, "http://w/e?k=v"); /* no uid */
    CU_ASSERT_STRING_EQUAL(h->body, "{\"sum\": 3}");  /* as it came */
    CU_ASSERT_PTR_NOT_NULL(strstr(h->headers, "omid-event: order.paid\n"));
    CU_ASSERT_STRING_EQUAL(h->headers, mock_http(m, 1)->headers); /* the same id on every attempt */
    CU_ASSERT_STRING_NOT_EQUAL(h->headers, mock_http(m, 2)->headers);
    char id[64];
    snprintf(id, sizeof(id), "webhook-id: %s_w1\n", ev->id);
    CU_ASSERT_PTR_NOT_NULL(strstr(h->headers, id));
    for (size_t i = 0; i < 3; i++)
        mock_http_answer(m, i, 204, "");
    down();
}

static void for_no_one(void)
{
    up();
    CU_ASSERT_EQUAL(post(&ex, "a", "[]", NULL), OMID_OK);
    CU_ASSERT_EQUAL(ex.status, 202);
    CU_ASSERT_PTR_NOT_NULL(strstr(ex.body, "\"endpoints\":0}"));
    CU_ASSERT_EQUAL(mock_batch_count(m), 0);
    CU_ASSERT_EQUAL(mock_count(m, "events", "unwanted"), 1);
    /* With a key there is something to remember. */
    CU_ASSERT_EQUAL(post(&ex, "a", "[]", "k"), OMID_OK);
    CU_ASSERT_EQUAL_FATAL(mock_batch_count(m), 1);
    CU_ASSERT_EQUAL(mock_batch(m, 0)->n, 0);
    mock_batch_ack(m, 0, OMID_OK, NULL);
    CU_ASSERT_EQUAL(ex.status, 202);
    CU_ASSERT_EQUAL(mock_count(m, "events", "unwanted"), 2);
    down();
}

static void a_repetition_gets_the_first_result(void)
{
    static const char *const all[] = {"*", NULL};
    up();
    subscribe("w1", all, "");
    CU_ASSERT_EQUAL(post(&ex, "a", "1", "key 1"), OMID_OK);
    CU_ASSERT_STRING_EQUAL(mock_batch(m, 0)->key, "u1\nkey 1");
    char first[sizeof(ex.body)];
    mock_batch_ack(m, 0, OMID_OK, NULL);
    memcpy(first, ex.body, sizeof(first));
    CU_ASSERT_STRING_EQUAL(mock_batch(m, 0)->value, first);
    CU_ASSERT_EQUAL(post(&ex, "b", "2", "key 1"), OMID_OK);
    mock_batch_ack(m, 1, OMID_OK, first);
    CU_ASSERT_EQUAL(ex.status, 202);
    CU_ASSERT_STRING_EQUAL(ex.body, first);
    CU_ASSERT_EQUAL(mock_published(m), 1);
    CU_ASSERT_EQUAL(mock_count(m, "events", "repeated"), 1);
    down();
}

/* ------------------------------------------------------------ refused */

static void bad_requests(void)
{
    static const struct {
        const char *type, *body, *key;
    } cases[] = {
        {"", "{}", NULL},          {"a b", "{}", NULL},     {"a/b", "{}", NULL},     {"\xc3\xa9", "{}", NULL},
        {"a", "", NULL},           {"a", "{", NULL},        {"a", "{}{}", NULL},     {"a", "nul", NULL},
        {"a", "{\"a\":01}", NULL}, {"a", "'a'", NULL},      {"a", "\"\xff\"", NULL}, {"a", "[1,]", NULL},
        {"a", "{}", ""},           {"a", "// x\n{}", NULL}, {"a", "NaN", NULL},      {"a", "{}\"a", NULL},
        {"a", "{\v}", NULL},       {"a", "\f1", NULL},      {"a", "1 tru", NULL},    {"a", "{}\"\\", NULL},
        {"a", " ", NULL},
    };
    up();
    size_t n = sizeof(cases) / sizeof(cases[0]);
    for (size_t i = 0; i < n; i++) {
        CU_ASSERT_EQUAL(post(&ex, cases[i].type, cases[i].body, cases[i].key), OMID_OK);
        CU_ASSERT_EQUAL(ex.status, 400);
        CU_ASSERT_EQUAL(strncmp(ex.body, "{\"error\":\"", 10), 0);
    }
    char longest[400];
    memset(longest, 'a', sizeof(longest));
    longest[128] = '\0';
    post(&ex, longest, "null", NULL);
    CU_ASSERT_EQUAL(ex.status, 202);
    longest[128] = 'a';
    longest[129] = '\0';
    post(&ex, longest, "null", NULL);
    CU_ASSERT_EQUAL(ex.status, 400);
    longest[129] = 'a';
    longest[256] = '\0';
    post(&ex, "a", "null", longest);
    CU_ASSERT_EQUAL(ex.status, 400);
    CU_ASSERT_EQUAL(mock_count(m, "events", "bad"), n + 2);
    CU_ASSERT_EQUAL(mock_batch_count(m), 0);
    post_bytes(&ex, "a", "{}\0", 3, NULL);
    CU_ASSERT_EQUAL(ex.status, 400);
    down();
}

static void how_deep_and_how_large(void)
{
    static const char *const all[] = {"*", NULL};
    up();
    subscribe("w1", all, "");
    static const int levels[] = {64, 65, 100000};
    for (size_t i = 0; i < 3; i++) {
        const size_t n = (size_t)levels[i];
        char *deep = malloc(n * 2 + 1);
        memset(deep, '[', n);
        memset(deep + n, ']', n);
        deep[n * 2] = '\0';
        post(&ex, "a", deep, NULL);
        if (i == 0)
            mock_batch_ack(m, 0, OMID_OK, NULL);
        CU_ASSERT_EQUAL(ex.status, i == 0 ? 202 : 400);
        free(deep);
    }
    size_t most = (size_t)1 << 20;
    char *big = malloc(most + 1);
    memset(big, 'x', most + 1);
    big[0] = big[most - 1] = '"';
    post_bytes(&ex, "a", big, most, NULL);
    CU_ASSERT_EQUAL(ex.status, 0);
    CU_ASSERT_EQUAL_FATAL(mock_batch_count(m), 2);
    CU_ASSERT_TRUE(mock_job(m, 1)->payload_len > most);
    mock_batch_ack(m, 1, OMID_OK, NULL);
    CU_ASSERT_EQUAL(ex.status, 202);
    big[most - 1] = 'x';
    big[most] = '"';
    post_bytes(&ex, "a", big, most + 1, NULL);
    CU_ASSERT_EQUAL(ex.status, 413);
    CU_ASSERT_EQUAL(mock_count(m, "events", "too_large"), 1);
    free(big);
    down();
}

static void when_the_queue_takes_nothing(void)
{
    static const char *const all[] = {"*", NULL};
    up();
    subscribe("w1", all, "");
    mock_retry_after(m, 7);
    mock_job_refuse(m, OMID_EFULL);
    post(&ex, "a", "1", NULL);
    CU_ASSERT_EQUAL(ex.status, 429);
    CU_ASSERT_STRING_EQUAL(ex.headers, "Retry-After: 7\n");
    mock_job_refuse(m, OMID_ECLOSED);
    post(&ex, "a", "1", NULL);
    CU_ASSERT_EQUAL(ex.status, 503);
    mock_job_refuse(m, OMID_OK);
    post(&ex, "a", "1", NULL);
    mock_batch_ack(m, 0, OMID_EFULL, NULL);
    CU_ASSERT_EQUAL(ex.status, 429);
    post(&ex, "a", "1", NULL);
    mock_batch_ack(m, 1, OMID_ERR, NULL);
    CU_ASSERT_EQUAL(ex.status, 503);
    CU_ASSERT_PTR_NOT_NULL(strstr(ex.headers, "Retry-After: "));
    CU_ASSERT_EQUAL(mock_count(m, "events", "full"), 2);
    CU_ASSERT_EQUAL(mock_count(m, "events", "failed"), 2);
    CU_ASSERT_EQUAL(mock_published(m), 0);
    down();
}

static void drain_waits_and_stop_forgets(void)
{
    static const char *const all[] = {"*", NULL};
    static struct omid_exchange one, two;
    up();
    subscribe("w1", all, "");
    post(&one, "a", "1", NULL);
    mock_drain(inst);
    CU_ASSERT_EQUAL(mock_drained(inst), 0);
    mock_batch_ack(m, 0, OMID_OK, NULL);
    CU_ASSERT_EQUAL(mock_drained(inst), 1);
    post(&two, "a", "1", NULL);
    down(); /* the host answers for it */
    CU_ASSERT_EQUAL(two.responses, 0);
}

/* ------------------------------------------------------------ of others */

static void events_of_plugins_are_delivered_too(void)
{
    static const char *const disabled[] = {"endpoint.disabled", NULL};
    up();
    subscribe("w1", disabled, "{\"kind\":\"app\"}");
    struct omid_event ev = {.size = sizeof(ev), .type = OMID_EVENT_CUSTOM, .uid = "u1", .name = "endpoint.disabled"};
    ev.json = "{\"kind\":\"app\"}";
    ev.json_len = strlen(ev.json);
    CU_ASSERT_EQUAL(mock_event(inst, &ev), OMID_OK);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(m), 1);
    mock_batch_ack(m, 0, OMID_EFULL, NULL); /* again, in a while */
    mock_advance(m, 5000);
    CU_ASSERT_EQUAL_FATAL(mock_batch_count(m), 2);
    mock_batch_ack(m, 1, OMID_OK, NULL);
    mock_job_run(inst, 1, 1);
    CU_ASSERT_STRING_EQUAL(mock_http(m, 0)->body, "{\"kind\":\"app\"}");
    mock_http_answer(m, 0, 200, "");
    ev.json = "{\"kind\":\"webhook\"}";
    ev.json_len = strlen(ev.json);
    CU_ASSERT_EQUAL(mock_event(inst, &ev), OMID_OK);
    ev.uid = "u2";
    CU_ASSERT_EQUAL(mock_event(inst, &ev), OMID_OK);
    CU_ASSERT_EQUAL(mock_batch_count(m), 2);
    /* One that may be told again: the same jobs. */
    ev.uid = "u1";
    ev.json = "{\"kind\":\"app\",\"id\":\"a1\",\"at\":\"2026-01-01T00:00:00.000+00:00\"}";
    ev.json_len = strlen(ev.json);
    int n = mock_job_count(m);
    CU_ASSERT_EQUAL(mock_event(inst, &ev), OMID_OK);
    CU_ASSERT_EQUAL(mock_event(inst, &ev), OMID_OK);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(m), n + 2);
    CU_ASSERT_STRING_EQUAL(mock_job(m, n)->name, "event:endpoint.disabled:a1:2026-01-01T00:00:00.000+00:00:w1");
    CU_ASSERT_STRING_EQUAL(mock_job(m, n)->name, mock_job(m, n + 1)->name);
    mock_batch_ack(m, mock_batch_count(m) - 2, OMID_OK, NULL);
    mock_batch_ack(m, mock_batch_count(m) - 1, OMID_OK, NULL);
    ev.json = "{oops";
    ev.json_len = 5;
    CU_ASSERT_EQUAL(mock_event(inst, &ev), OMID_EINVAL);
    CU_ASSERT_EQUAL(mock_count(m, "unreadable_events", NULL), 1);
    down();
}

/* ------------------------------------------------------------ the pieces */

static void types_and_patterns(void)
{
    static const struct {
        const char *pattern, *type;
        bool wanted;
    } cases[] = {
        {"order.paid", "order.paid", true},
        {"order.paid", "order.paid.x", false},
        {"order.*", "order.paid", true},
        {"order.*", "order.paid.x", true},
        {"order.*", "order", false},
        {"order.*", "order.", false},
        {"order.*", "orders.paid", false},
        {"*", "x", true},
        {"order*", "orders", false},
        {"", "x", false},
        {".*", ".x", false},
        {"a.*", "b.c", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *const patterns[] = {"never", cases[i].pattern, NULL};
        CU_ASSERT_EQUAL(event_wanted(patterns, cases[i].type), cases[i].wanted);
    }
    CU_ASSERT_FALSE(event_wanted(NULL, "x"));
}

static void filters(void)
{
    static const struct {
        const char *filter, *json;
        bool match;
    } cases[] = {
        {"", "7", true},
        {"{}", "7", true},
        {"{\"a\":1}", "{\"a\":1}", true},
        {"{\"a\":1}", "{\"a\":1.0}", true},
        {"{\"a\":10}", " \n{\"a\":1e1}", true},
        {"{\"a\":9007199254740993}", "{\"a\":9007199254740992}", false},
        {"{\"a\":1}", "{\"a\":\"1\"}", false},
        {"{\"a\":\"1\"}", "{\"a\":1}", false},
        {"{\"a\":true}", "{\"a\":true}", true},
        {"{\"a\":null}", "{\"a\":null}", true},
        {"{\"a\":null}", "{}", false},
        {"{\"a.b\":\"x\"}", "{\"a\":{\"b\":\"x\"}}", true},
        {"{\"a.b\":\"x\"}", "{\"a\":{\"c\":\"x\"}}", false},
        {"{\"a.b\":\"x\"}", "{\"a\":\"x\"}", false},
        {"{\"a.b\":\"x\"}", "[{\"a\":\"x\"}]", false},
        {"{\"a.1.b\":\"x\"}", "{\"a\":[0,{\"b\":\"x\"}]}", true},
        {"{\"a.2\":\"x\"}", "{\"a\":[0,{\"b\":\"x\"}]}", false},
        {"{\"0\":5}", "[5]", true},
        {"{\"0\":5}", "[]", false},
        {"{\"\":5}", "[5]", false},
        {"{\"a\":\"\xc3\xa9\"}", "{\"\\u0061\":\"\\u00e9\"}", true},
        {"{\"a\":\"\\ud83d\\ude00\"}", "{\"a\":\"\xf0\x9f\x98\x80\"}", true},
        {"{\"a\":\"x\",\"b\":\"y\"}", "{\"a\":\"x\",\"b\":\"y\"}", true},
        {"{\"a\":\"x\",\"b\":\"y\"}", "{\"a\":\"x\",\"b\":\"z\"}", false},
        {"{\"a\":\"x\"}", "{\"a\":\"w\",\"a\":\"x\"}", true}, /* the last of them is what receivers see */
        {"{\"a\":\"x\"}", "{\"b\":{\"a\":\"x\"}}", false},
        {"{\"a\":\"x\"}", "{\"b\":\"\\\"a\\\":\\\"x\",\"c\":0}", false},
        {"{\"a\":1}", "5", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bool ok = false;
        struct filter *f = filter_new(cases[i].filter, &ok);
        CU_ASSERT_TRUE(ok);
        CU_ASSERT_EQUAL(filter_matches(f, cases[i].json, strlen(cases[i].json)), cases[i].match);
        filter_free(&f);
    }
    static const char *const bad[] = {"[]", "{", "x", "{\"a\":{}}", "{\"a\":[1]}", "\"a\""};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        bool ok = true;
        CU_ASSERT_PTR_NULL(filter_new(bad[i], &ok));
        CU_ASSERT_FALSE(ok);
    }
}

static void payloads(void)
{
    const struct payload_head head = {.uid = "u\"1\n\xc3\xa9", .conversation = "c1", .id = "i1", .event = "order.paid"};
    struct text t = {0};
    struct payload p;
    CU_ASSERT_TRUE(payload_write(&t, &head, "{\"a\":\n1}", 8));
    CU_ASSERT_TRUE_FATAL(payload_read(t.data, t.len, &p));
    CU_ASSERT_STRING_EQUAL(p.uid, head.uid);
    CU_ASSERT_STRING_EQUAL(p.conversation, "c1");
    CU_ASSERT_STRING_EQUAL(p.id, "i1");
    CU_ASSERT_STRING_EQUAL(p.event, "order.paid");
    CU_ASSERT_EQUAL(p.len, 8);
    CU_ASSERT_EQUAL(memcmp(p.body, "{\"a\":\n1}", 8), 0);
    /* Any cut of the line is unreadable, none is read beyond its end. */
    for (size_t n = 0; n < t.len - 8; n++) {
        char *cut = malloc(n + 1);
        memcpy(cut, t.data, n);
        CU_ASSERT_FALSE(payload_read(cut, n, &p));
        free(cut);
    }
    free(t.data);
    /* Of the first version, and of a later one. */
    static const char old[] = "{\"v\":1,\"uid\":\"u\"}\n{}", newer[] = "{\"v\":2,\"uid\":\"u\",\"more\":[1]}\n{}";
    CU_ASSERT_TRUE(payload_read(old, strlen(old), &p));
    CU_ASSERT_STRING_EQUAL(p.id, "");
    CU_ASSERT_TRUE(payload_read(newer, strlen(newer), &p));
    char uid[400];
    memset(uid, 'x', sizeof(uid) - 1);
    uid[sizeof(uid) - 1] = '\0';
    const struct payload_head large = {.uid = uid};
    struct text none = {0};
    CU_ASSERT_FALSE(payload_write(&none, &large, "", 0));
    free(none.data);
}

static void names_in_conversations(void)
{
    static const struct {
        const char *json, *people, *out;
    } cases[] = {
        {"{}", NULL, "{\"folder_name\":null}"},
        {"{\"a\":1}", NULL, "{\"a\":1,\"folder_name\":null}"},
        {"{\"transcript_segments\":[]}", "{}", "{\"transcript_segments\":[],\"folder_name\":null}"},
        {"{\"transcript_segments\":[{}],\"x\":2}", "{}",
         "{\"transcript_segments\":[{\"speaker_name\":\"Speaker 0\"}],\"x\":2,\"folder_name\":null}"},
        {"{\"transcript_segments\":null}", "{}", "{\"transcript_segments\":null,\"folder_name\":null}"},
        {"{\"transcript_segments\":[7,{\"text\":\"}]\",\"speaker_id\":4,\"person_id\":\"gone\"}]}", "{\"p\":\"P\"}",
         "{\"transcript_segments\":[7,{\"text\":\"}]\",\"speaker_id\":4,\"person_id\":\"gone\","
         "\"speaker_name\":\"Speaker 4\"}],\"folder_name\":null}"},
        {"{\"transcript_segments\":[{\"speaker_id\":\"S\"},{\"speaker_id\":{\"a\":\"b\"}},{\"speaker_id\":null}]}",
         "{}",
         "{\"transcript_segments\":[{\"speaker_id\":\"S\",\"speaker_name\":\"Speaker "
         "0\"},{\"speaker_id\":{\"a\":\"b\"},"
         "\"speaker_name\":\"Speaker 0\"},{\"speaker_id\":null,\"speaker_name\":\"Speaker 0\"}],\"folder_name\":null}"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct text t = {0};
        memory_with_names(&t, cases[i].json, strlen(cases[i].json), cases[i].people);
        CU_ASSERT_STRING_EQUAL(t.data, cases[i].out);
        CU_ASSERT_PTR_NULL(json_fault(t.data, t.len));
        free(t.data);
    }
}

static void throttle_is_bounded(void)
{
    struct throttle *t = throttle_new();
    char uid[16];
    CU_ASSERT_PTR_NOT_NULL_FATAL(t);
    for (int i = 0; i < 65537; i++) {
        snprintf(uid, sizeof(uid), "u%d", i);
        CU_ASSERT_EQUAL(throttle_pass(t, uid, "a", 1000), i < 65536);
    }
    CU_ASSERT_FALSE(throttle_pass(t, "u1", "a", 30999));
    CU_ASSERT_TRUE(throttle_pass(t, "u1", "a", 31000));
    CU_ASSERT_TRUE(throttle_pass(t, "u1", "b", 31000));
    CU_ASSERT_FALSE(throttle_pass(t, "u1", "a", 31001));
    throttle_free(&t);
}

int main(void)
{
    static CU_TestInfo tests[] = {
        {"accepted when on disk", accepted_when_on_disk},
        {"for no one", for_no_one},
        {"a repetition gets the first result", a_repetition_gets_the_first_result},
        {"bad requests", bad_requests},
        {"how deep and how large", how_deep_and_how_large},
        {"when the queue takes nothing", when_the_queue_takes_nothing},
        {"drain waits, stop forgets", drain_waits_and_stop_forgets},
        {"events of plugins", events_of_plugins_are_delivered_too},
        {"types and patterns", types_and_patterns},
        {"filters", filters},
        {"payloads", payloads},
        {"names in conversations", names_in_conversations},
        {"the throttle is bounded", throttle_is_bounded},
        CU_TEST_INFO_NULL,
    };
    static CU_SuiteInfo suites[] = {{"webhooks, events", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
