/* webhooks against a mock host: what is sent, when, how often, and what is dropped. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture_webhooks.h"

#define TWO_SEGMENTS "[{\"id\":\"a\",\"text\":\"one\"},{\"id\":\"b\",\"text\":\"two \\\"]\"}]"

/* --- configuration --- */

static void urls_are_checked_at_configure(void)
{
    static const struct {
        const char *key, *value;
        bool ok;
    } cases[] = {
        {"realtime_transcript", "http://127.0.0.1:8080/hook", true},
        {"realtime_transcript", "https://user:pw@example.org/a?b=c#d", true},
        {"realtime_transcript", "http://[::1]:80/x", true},
        {"realtime_transcript", "http://[::1]", true},
        {"realtime_transcript", "ftp://example.org/", false},
        {"realtime_transcript", "example.org/hook", false},
        {"realtime_transcript", "http://", false},
        {"realtime_transcript", "http:///path", false},
        {"realtime_transcript", "http://:80/", false},
        {"realtime_transcript", "http://h:0/", false},
        {"realtime_transcript", "http://h:65536/", false},
        {"realtime_transcript", "http://h:80x/", false},
        {"realtime_transcript", "http://h:/", false},
        {"realtime_transcript", "http://[]/", false},
        {"realtime_transcript", "http://[::1/", false},
        {"realtime_transcript", "http://[::1]x/", false},
        {"realtime_transcript", "http://h/\xc3\xa9", false},
        {"realtime_transcript", "http://h/a http://h/a", false},
        {"audio_bytes", "http://h/a,2", true},
        {"audio_bytes", "http://h/a,2.5", true},
        {"audio_bytes", "http://h/a", true},
        {"audio_bytes", "http://h/a,0", false},
        {"audio_bytes", "http://h/a,-1", false},
        {"audio_bytes", "http://h/a,121", false},
        {"audio_bytes", "http://h/a,", false},
        {"audio_bytes", "http://h/a,5s", false},
        {"audio_bytes", "http://h/a,nan", false},
        {"audio_bytes", "http://h/a,1 http://h/a,2", false},
        {"memory_created", "http://h/m", true},
        {"memory_created", "//h/m", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct mock *m = mock_new(&omid_plugin);
        mock_conf(m, cases[i].key, cases[i].value);
        int rc = mock_configure(m);
        const char *key, *text;
        unsigned errors = mock_conf_errors(m, &key, &text);
        CU_ASSERT_EQUAL(rc, cases[i].ok ? OMID_OK : OMID_EINVAL);
        CU_ASSERT_EQUAL(errors, cases[i].ok ? 0 : 1);
        if (!cases[i].ok) {
            CU_ASSERT_STRING_EQUAL(key, cases[i].key);
            CU_ASSERT_PTR_NOT_NULL(strstr(text, "expected"));
        }
        mock_free(&m);
    }
    struct mock *m = mock_new(&omid_plugin);
    char *longest = malloc(2100);
    memset(longest, 'a', 2099);
    memcpy(longest, "http://h/", 9);
    longest[2099] = '\0';
    mock_conf(m, "memory_created", longest);
    CU_ASSERT_EQUAL(mock_configure(m), OMID_EINVAL);
    free(longest);
    mock_free(&m);
}

static void secrets_are_checked_at_configure(void)
{
    static const struct {
        const char *secret, *former, *key; /* key: of the fault, NULL: none */
    } cases[] = {
        {"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", NULL, NULL},
        {"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", NULL},
        {"hush", NULL, "secret"},
        {"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "hush", "former_secret"},
        {NULL, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "former_secret"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct mock *m = mock_new(&omid_plugin);
        const char *key = "", *text = "";
        if (cases[i].secret)
            mock_conf(m, "secret", cases[i].secret);
        if (cases[i].former)
            mock_conf(m, "former_secret", cases[i].former);
        CU_ASSERT_EQUAL(mock_configure(m), cases[i].key ? OMID_EINVAL : OMID_OK);
        CU_ASSERT_EQUAL(mock_conf_errors(m, &key, &text), cases[i].key ? 1 : 0);
        if (cases[i].key) {
            CU_ASSERT_STRING_EQUAL(key, cases[i].key);
            CU_ASSERT_PTR_NOT_NULL(strstr(text, "expected"));
            CU_ASSERT_PTR_NULL(strstr(text, "hush"));
        }
        mock_free(&m);
    }
}

static void every_fault_is_told_and_no_secret(void)
{
    struct mock *m = mock_new(&omid_plugin);
    const char *text;
    mock_conf(m, "realtime_transcript", "ftp://h/a ftp://h/b?token=hush");
    CU_ASSERT_EQUAL(mock_configure(m), OMID_EINVAL);
    CU_ASSERT_EQUAL(mock_conf_errors(m, NULL, &text), 2);
    CU_ASSERT_PTR_NULL(strstr(text, "hush"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "ftp://h/b"));
    mock_free(&m);
}

/* --- transcript --- */

static void segments_go_out_after_the_interval(void)
{
    struct rig r = rig_up("realtime_transcript", "http://h/t?k=v#frag http://g/t?");
    rig_event(&r, "u 1&x", OMID_EVENT_SEGMENTS, TWO_SEGMENTS, NULL);
    mock_advance(r.m, 999);
    CU_ASSERT_EQUAL(mock_http_count(r.m), 0);
    mock_advance(r.m, 1);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 2);
    const struct mock_http *h = mock_http(r.m, 0);
    CU_ASSERT_STRING_EQUAL(h->method, "POST");
    CU_ASSERT_STRING_EQUAL(h->url, "http://h/t?k=v&uid=u%201%26x");
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 1)->url, "http://g/t?uid=u%201%26x");
    CU_ASSERT_PTR_NOT_NULL(strstr(h->headers, "Content-Type: application/json\n"));
    CU_ASSERT_STRING_EQUAL(h->body, "{\"segments\":" TWO_SEGMENTS ",\"session_id\":\"u 1&x\"}");
    mock_http_answer(r.m, 0, 204, "");
    mock_http_answer(r.m, 1, 302, "");
    CU_ASSERT_STRING_EQUAL(mock_last_log(r.m), "http://g answered 302"); /* no path: it may hold a token */
    CU_ASSERT_EQUAL(mock_count(r.m, "realtime_transcript_deliveries", "ok"), 1);
    CU_ASSERT_EQUAL(mock_count(r.m, "realtime_transcript_deliveries", "status"), 1);
    mock_advance(r.m, 5000);
    CU_ASSERT_EQUAL(mock_http_count(r.m), 2);
    CU_ASSERT_EQUAL(mock_timers(r.m), 0);
    rig_down(&r);
}

static void a_segment_that_changes_is_sent_once_as_it_is_now(void)
{
    struct rig r = rig_up("realtime_transcript", "http://h/t");
    rig_event(&r, "u 1&x", OMID_EVENT_SEGMENTS,
              "[ {\"text\":\"x\",\"id\":\"a\"} , {\"id\":\"b\",\"n\":[1,{\"id\":\"q\"}]}, {\"id\":\"c\"} ]", NULL);
    rig_event(&r, "u 1&x", OMID_EVENT_SEGMENTS_DELETED, "[\"b\",\"zz\"]", NULL);
    rig_event(&r, "u 1&x", OMID_EVENT_SEGMENTS, "[{\"id\":\"a\",\"text\":\"y\"}]", NULL);
    rig_event(&r, "u 1&x", OMID_EVENT_SEGMENTS, "[]", NULL);
    mock_advance(r.m, 1000);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 1);
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 0)->body,
                           "{\"segments\":[{\"id\":\"a\",\"text\":\"y\"},{\"id\":\"c\"}],\"session_id\":\"u 1&x\"}");
    mock_http_answer(r.m, 0, 200, "ok");
    rig_down(&r);
}

static void no_segment_is_lost_when_many_come(void)
{
    struct rig r = rig_up("realtime_transcript", "http://h/t");
    for (int i = 0; i < 120; i++) {
        char json[64];
        snprintf(json, sizeof(json), "[{\"id\":\"i%03d\"}]", i);
        rig_event(&r, "u 1&x", OMID_EVENT_SEGMENTS, json, NULL);
    }
    /* 50 and 50 at once, in order, one after the other; 20 after the interval. */
    CU_ASSERT_EQUAL(mock_http_count(r.m), 1);
    mock_advance(r.m, 1000);
    CU_ASSERT_EQUAL(mock_http_open(r.m), 1);
    size_t found = 0;
    for (size_t n = 0; n < mock_http_count(r.m); n++) {
        for (const char *at = mock_http(r.m, n)->body; (at = strstr(at, ":\"i")) != NULL; at++)
            CU_ASSERT_EQUAL((size_t)strtoul(at + 3, NULL, 10), found++);
        mock_http_answer(r.m, n, 200, "{}");
    }
    CU_ASSERT_EQUAL(found, 120);
    CU_ASSERT_EQUAL(mock_http_count(r.m), 3);
    rig_down(&r);
}

static void a_hanging_endpoint_delays_no_other_and_is_bounded(void)
{
    struct rig r = rig_up("realtime_transcript", "http://hangs/t http://h/t");
    for (int i = 0; i < 60; i++) {
        char json[64];
        snprintf(json, sizeof(json), "[{\"id\":\"i%d\"}]", i);
        rig_event(&r, "u 1&x", OMID_EVENT_SEGMENTS, json, NULL);
        mock_advance(r.m, 1000);
        size_t last = mock_http_count(r.m) - 1;
        CU_ASSERT_PTR_NOT_NULL(strstr(mock_http(r.m, last)->url, "http://h/"));
        CU_ASSERT_PTR_NOT_NULL(strstr(mock_http(r.m, last)->body, json));
        mock_http_answer(r.m, last, 200, "");
    }
    CU_ASSERT_EQUAL(mock_count(r.m, "realtime_transcript_deliveries", "ok"), 60);
    /* One in flight, 50 wait: the oldest of the others went. */
    CU_ASSERT_EQUAL(mock_count(r.m, "realtime_transcript_deliveries", "dropped"), 9);
    mock_http_fail(r.m, 0, OMID_HTTP_TIMEOUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(mock_http(r.m, mock_http_count(r.m) - 1)->body, "\"i10\""));
    rig_down(&r);
}

static void the_end_of_a_session_flushes(void)
{
    struct rig r = rig_up("realtime_transcript", "http://h/t");
    rig_event(&r, "u 1&x", OMID_EVENT_SEGMENTS, TWO_SEGMENTS, NULL);
    rig_event(&r, "u 1&x", OMID_EVENT_SESSION_END, NULL, NULL);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 1);
    CU_ASSERT_EQUAL(mock_timers(r.m), 0);
    mock_http_answer(r.m, 0, 200, "");
    rig_event(&r, "u 1&x", OMID_EVENT_SESSION_END, NULL, NULL);
    rig_down(&r);
}

static void refused_by_the_lane_is_counted_and_over(void)
{
    struct rig r = rig_up("realtime_transcript", "http://h/t");
    mock_http_refuse(r.m, OMID_EFULL);
    rig_event(&r, "u 1&x", OMID_EVENT_SEGMENTS, TWO_SEGMENTS, NULL);
    rig_event(&r, "u 1&x", OMID_EVENT_SESSION_END, NULL, NULL);
    CU_ASSERT_EQUAL(mock_count(r.m, "realtime_transcript_deliveries", "full"), 1);
    rig_down(&r);
}

static void a_message_of_an_answer_is_published(void)
{
    static const struct {
        int status;
        const char *body;
        bool shown;
    } cases[] = {
        {200, "{\"message\":\"sixsix\"}", true},
        {200, "{\"message\":\"five5\"}", false},
        {200, "{\"message\":\"\xc3\xa9\xc3\xa9\xc3\xa9\"}", false}, /* three characters, six bytes */
        {201, "{\"message\":\"sixsix\"}", false},
        {500, "{\"message\":\"sixsix\"}", false},
        {200, "{\"message\":7}", false},
        {200, "{\"message\":null}", false},
        {200, "[\"message\"]", false},
        {200, "{\"message\":\"sixsix\"", false},
        {200, "{\"message\":\"bad \xff\xff\xff utf-8\"}", false},
        {200, "", false},
        {200, "{\"x\":{\"message\":\"sixsix\"}}", false},
    };
    struct rig r = rig_up("realtime_transcript", "http://h/t");
    size_t shown = 0;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        rig_event(&r, "u 1&x", OMID_EVENT_SEGMENTS, TWO_SEGMENTS, NULL);
        mock_advance(r.m, 1000);
        mock_http_answer(r.m, mock_http_count(r.m) - 1, cases[i].status, cases[i].body);
        shown += cases[i].shown;
        CU_ASSERT_EQUAL(mock_published(r.m), shown);
    }
    CU_ASSERT_EQUAL(mock_count(r.m, "unreadable_answers", NULL), 2);
    rig_down(&r);
}

static void a_message_is_quoted(void)
{
    struct rig r = rig_up("realtime_transcript", "http://h/t");
    rig_event(&r, "u 1&x", OMID_EVENT_SEGMENTS, TWO_SEGMENTS, NULL);
    mock_advance(r.m, 1000);
    mock_http_answer(r.m, 0, 200, "{\"message\":\"a \\\"b\\\"\\n\\\\ \xc3\xa9\"}");
    CU_ASSERT_EQUAL_FATAL(mock_published(r.m), 1);
    const struct omid_event *ev = mock_publication(r.m, 0);
    CU_ASSERT_EQUAL(ev->type, OMID_EVENT_APP_MESSAGE);
    CU_ASSERT_STRING_EQUAL(ev->uid, "u 1&x");
    CU_ASSERT_STRING_EQUAL(
        ev->json,
        "{\"app_id\":\"webhooks\",\"app_name\":\"Webhooks\",\"message\":\"a \\\"b\\\"\\u000a\\\\ \xc3\xa9\"}");
    rig_down(&r);
}

static void hostile_answers_do_no_harm(void)
{
    struct rig r = rig_up("realtime_transcript", "http://h/t");
    /* Sound JSON, and deeper than is read. */
    static const char head[] = "{\"message\":\"sixsix\",\"x\":";
    const size_t levels = 65;
    const size_t deep_len = strlen(head) + 2 * levels + 1;
    char *deep = calloc(deep_len + 1, 1);
    memcpy(deep, head, strlen(head));
    memset(deep + strlen(head), '[', levels);
    memset(deep + strlen(head) + levels, ']', levels);
    deep[deep_len - 1] = '}';
    const struct omid_http_response answers[] = {
        {.status = 200, .body = deep, .body_len = deep_len},
        {.status = 200, .body = "{\"message\":\"sixsix\"}", .body_len = 20, .truncated = true},
        {.status = 200, .body = "{\"message\":\"six\0six\"}", .body_len = 21},
        {.status = 200, .body = "{\"", .body_len = 2},
        {.status = 200, .body = "{\"message\":\"\\", .body_len = 13},
    };
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        rig_event(&r, "u 1&x", OMID_EVENT_SEGMENTS, TWO_SEGMENTS, NULL);
        mock_advance(r.m, 1000);
        struct omid_http_response res = answers[i];
        res.size = sizeof(res);
        res.error_text = "";
        mock_http_respond(r.m, i, &res);
    }
    free(deep);
    CU_ASSERT_EQUAL(mock_published(r.m), 0);
    CU_ASSERT_EQUAL(mock_count(r.m, "unreadable_answers", NULL), 5);
    rig_down(&r);
}

/* --- audio --- */

static void audio_goes_out_when_more_than_n_seconds_wait(void)
{
    struct rig r = rig_up("audio_bytes", "http://h/a,2 http://g/a?x=1");
    rig_audio(&r, 32000, 16000, "c1");
    CU_ASSERT_EQUAL(mock_http_count(r.m), 0); /* 2 s are not more than 2 s */
    rig_audio(&r, 1, 16000, "c1");
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 1);
    const struct mock_http *h = mock_http(r.m, 0);
    CU_ASSERT_STRING_EQUAL(h->url, "http://h/a?sample_rate=16000&uid=u1");
    CU_ASSERT_PTR_NOT_NULL(strstr(h->headers, "Content-Type: application/octet-stream\n"));
    CU_ASSERT_EQUAL_FATAL(h->body_len, 64002);
    /* -300 and 0 and the last one, little-endian. */
    CU_ASSERT_EQUAL((uint8_t)h->body[0], 0xd4);
    CU_ASSERT_EQUAL((uint8_t)h->body[1], 0xfe);
    CU_ASSERT_EQUAL((uint8_t)h->body[600], 0);
    CU_ASSERT_EQUAL((uint8_t)h->body[64000], 0xd4);
    for (int i = 0; i < 3; i++)
        rig_audio(&r, 16000, 16000, "c1");
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 3);
    CU_ASSERT_EQUAL(mock_http(r.m, 1)->body_len + mock_http(r.m, 2)->body_len, 96000 + 160002);
    CU_ASSERT_STRING_NOT_EQUAL(mock_http(r.m, 1)->latest_key, mock_http(r.m, 2)->latest_key);
    CU_ASSERT_PTR_NOT_NULL(strstr(h->latest_key, "u1"));
    rig_down(&r);
}

static void audio_is_flushed_at_the_end_and_at_a_switch(void)
{
    struct rig r = rig_up("audio_bytes", "http://h/a,5");
    rig_audio(&r, 100, 16000, "c1");
    rig_audio(&r, 50, 16000, "c2");
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 1);
    CU_ASSERT_EQUAL(mock_http(r.m, 0)->body_len, 200);
    rig_audio(&r, 25, 8000, "c2");
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 2);
    CU_ASSERT_EQUAL(mock_http(r.m, 1)->body_len, 100);
    rig_event(&r, "u 1&x", OMID_EVENT_SESSION_END, NULL, NULL);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 3);
    CU_ASSERT_EQUAL(mock_http(r.m, 2)->body_len, 50);
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 2)->url, "http://h/a?sample_rate=8000&uid=u1");
    for (size_t i = 0; i < 3; i++)
        mock_http_answer(r.m, i, 500, "");
    CU_ASSERT_EQUAL(mock_count(r.m, "audio_bytes_deliveries", "status"), 3);
    rig_down(&r);
}

static void a_newer_buffer_replaces_one_that_waits(void)
{
    struct rig r = rig_up("audio_bytes", "http://h/a,1");
    for (int i = 0; i < 7; i++)
        rig_audio(&r, 8001 + (size_t)i, 8000, "c1");
    /* Four in flight, one waits, two were replaced. */
    CU_ASSERT_EQUAL(mock_http_open(r.m), 4);
    CU_ASSERT_EQUAL(mock_count(r.m, "audio_bytes_deliveries", "superseded"), 2);
    CU_ASSERT_EQUAL(mock_count(r.m, "audio_dropped_bytes", NULL), 2 * (8005 + 8006));
    mock_http_answer(r.m, 1, 200, "");
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 5);
    CU_ASSERT_EQUAL(mock_http(r.m, 4)->body_len, 2 * 8007);
    rig_down(&r);
}

static void eight_endpoints_at_once(void)
{
    char list[1024] = "";
    for (int i = 0; i < 30; i++)
        snprintf(list + strlen(list), sizeof(list) - strlen(list), "http://h%d/a,1 ", i);
    struct rig r = rig_up("audio_bytes", list);
    rig_audio(&r, 8001, 8000, "c1");
    CU_ASSERT_EQUAL(mock_http_open(r.m), 8);
    CU_ASSERT_EQUAL(mock_count(r.m, "audio_bytes_deliveries", "dropped"), 2); /* 8 in flight, 20 wait */
    /* The window slides: each that ends lets one in, and a hanging one holds one place only. */
    for (size_t i = 1; i < mock_http_count(r.m); i++) {
        mock_http_answer(r.m, i, 200, "");
        CU_ASSERT_TRUE(mock_http_open(r.m) <= 8);
    }
    CU_ASSERT_EQUAL(mock_http_count(r.m), 28);
    CU_ASSERT_EQUAL(mock_http_open(r.m), 1);
    rig_down(&r);
}

static void audio_memory_is_bounded(void)
{
    struct rig r = {.m = mock_new(&omid_plugin)};
    mock_conf(r.m, "audio_bytes", "http://h/a,100");
    mock_conf(r.m, "audio_memory", "1MiB");
    CU_ASSERT_FATAL(mock_configure(r.m) == OMID_OK);
    r.inst = mock_start(r.m);
    for (int i = 0; i < 100; i++)
        rig_audio(&r, 16000, 16000, "c1");
    uint64_t dropped = mock_count(r.m, "audio_dropped_bytes", NULL);
    CU_ASSERT_TRUE(dropped >= 100 * 32000 - (1u << 20));
    rig_event(&r, "u 1&x", OMID_EVENT_SESSION_END, NULL, NULL);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 1);
    CU_ASSERT_EQUAL(mock_http(r.m, 0)->body_len + dropped, 100 * 32000);
    mock_http_answer(r.m, 0, 200, "");
    /* All of it is free again. */
    for (int i = 0; i < 20; i++)
        rig_audio(&r, 16000, 16000, "c1");
    CU_ASSERT_EQUAL(mock_count(r.m, "audio_dropped_bytes", NULL), dropped);
    rig_down(&r);
}

static void sessions_are_bounded(void)
{
    struct rig r = {.m = mock_new(&omid_plugin)};
    mock_conf(r.m, "audio_bytes", "http://h/a,1");
    mock_conf(r.m, "max_sessions", "2");
    CU_ASSERT_FATAL(mock_configure(r.m) == OMID_OK);
    r.inst = mock_start(r.m);
    int16_t pcm[10] = {0};
    for (int i = 0; i < 3; i++) {
        char id[16];
        snprintf(id, sizeof(id), "s%d", i);
        const struct omid_event ev = {
            .type = OMID_EVENT_AUDIO, .uid = "u", .session_id = id, .pcm = pcm, .samples = 10, .sample_rate = 8000};
        CU_ASSERT_EQUAL(mock_event(r.inst, &ev), OMID_OK);
    }
    CU_ASSERT_EQUAL(mock_count(r.m, "audio_bytes_deliveries", "dropped"), 1);
    rig_down(&r);
}

/* --- durable --- */

static void a_conversation_is_one_named_job_per_endpoint(void)
{
    struct rig r = rig_up("memory_created", "http://h/m http://g/m?k=v");
    CU_ASSERT_EQUAL(rig_event(&r, "u 1&x", OMID_EVENT_CONVERSATION_CREATED, "{\"id\":\"c1\"}", NULL), OMID_OK);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), 2); /* within the callback */
    const struct mock_job *j = mock_job(r.m, 0);
    CU_ASSERT_STRING_EQUAL(j->type, "memory_created");
    CU_ASSERT_STRING_EQUAL(j->target, "http://h/m");
    CU_ASSERT_EQUAL(strncmp(j->name, "memory_created:c1:", 18), 0);
    CU_ASSERT_STRING_NOT_EQUAL(j->name, mock_job(r.m, 1)->name);
    /* Repeated after a crash: the same names. */
    rig_event(&r, "u 1&x", OMID_EVENT_CONVERSATION_CREATED, "{\"id\":\"c1\"}", NULL);
    CU_ASSERT_STRING_EQUAL(j->name, mock_job(r.m, 2)->name);

    struct omid_job_run *first = mock_job_run(r.inst, 1, 1);
    struct omid_job_run *second = mock_job_run(r.inst, 1, 2);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 2);
    const struct mock_http *h = mock_http(r.m, 0);
    CU_ASSERT_STRING_EQUAL(h->url, "http://g/m?k=v&uid=u%201%26x");
    CU_ASSERT_STRING_EQUAL(h->body, "{\"id\":\"c1\",\"folder_name\":null}");
    const char *id = strstr(h->headers, "webhook-id: ");
    CU_ASSERT_PTR_NOT_NULL_FATAL(id);
    CU_ASSERT_TRUE(strlen(id) > 20);
    CU_ASSERT_EQUAL(id[12 + strcspn(id + 12, ".: \n")], '\n');
    CU_ASSERT_PTR_NOT_NULL(strstr(h->headers, "webhook-timestamp: "));
    CU_ASSERT_PTR_NULL(strstr(h->headers, "webhook-signature: "));
    CU_ASSERT_STRING_EQUAL(h->headers, mock_http(r.m, 1)->headers);
    mock_http_answer(r.m, 0, 500, "");
    mock_http_answer(r.m, 1, 202, "");
    enum omid_job_outcome outcome;
    CU_ASSERT_TRUE(mock_run_finished(first, &outcome, NULL, NULL));
    CU_ASSERT_EQUAL(outcome, OMID_JOB_RETRY);
    CU_ASSERT_TRUE(mock_run_finished(second, &outcome, NULL, NULL));
    CU_ASSERT_EQUAL(outcome, OMID_JOB_DONE);
    rig_down(&r);
}

static void answers_decide_about_the_job(void)
{
    static const struct {
        enum omid_http_error error;
        int status;
        uint32_t retry_after, after;
        enum omid_job_outcome outcome;
    } cases[] = {
        {0, 200, 0, 0, OMID_JOB_DONE},
        {0, 299, 0, 0, OMID_JOB_DONE},
        {0, 301, 0, 0, OMID_JOB_RETRY},
        {0, 400, 0, 0, OMID_JOB_DEAD},
        {0, 404, 9, 0, OMID_JOB_DEAD},
        {0, 410, 0, 0, OMID_JOB_DEAD},
        {0, 408, 0, 0, OMID_JOB_RETRY},
        {0, 409, 0, 0, OMID_JOB_RETRY},
        {0, 425, 0, 0, OMID_JOB_RETRY},
        {0, 429, 77, 77, OMID_JOB_RETRY},
        {0, 503, 12, 12, OMID_JOB_RETRY},
        {OMID_HTTP_TIMEOUT, 0, 0, 0, OMID_JOB_RETRY},
        {OMID_HTTP_RESET, 0, 0, 0, OMID_JOB_RETRY},
        {OMID_HTTP_CONNECT, 0, 0, 0, OMID_JOB_RETRY},
        {OMID_HTTP_PROTOCOL, 0, 0, 0, OMID_JOB_RETRY},
        {OMID_HTTP_BREAKER, 0, 0, 30, OMID_JOB_WAIT},
        {OMID_HTTP_BREAKER, 0, 8, 8, OMID_JOB_WAIT},
        {OMID_HTTP_FULL, 0, 0, 5, OMID_JOB_WAIT},
        {OMID_HTTP_QUEUE_TIMEOUT, 0, 0, 5, OMID_JOB_WAIT},
        {OMID_HTTP_LOCAL, 0, 0, 5, OMID_JOB_WAIT},
        {OMID_HTTP_SHUTDOWN, 0, 0, 5, OMID_JOB_WAIT},
        {OMID_HTTP_BAD_URL, 0, 0, 0, OMID_JOB_DEAD},
    };
    struct rig r = rig_up("memory_created", "http://h/m");
    rig_event(&r, "u 1&x", OMID_EVENT_CONVERSATION_CREATED, "{}", NULL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct omid_job_run *run = mock_job_run(r.inst, 0, (unsigned)i + 1);
        const struct omid_http_response res = {.size = sizeof(res),
                                               .error = cases[i].error,
                                               .error_text = "why",
                                               .status = cases[i].status,
                                               .body = "",
                                               .retry_after_s = cases[i].retry_after};
        mock_http_respond(r.m, i, &res);
        enum omid_job_outcome outcome;
        uint32_t after = 0;
        const char *why;
        CU_ASSERT_TRUE_FATAL(mock_run_finished(run, &outcome, &after, &why));
        CU_ASSERT_EQUAL(outcome, cases[i].outcome);
        CU_ASSERT_EQUAL(after, cases[i].after);
        CU_ASSERT_EQUAL(why[0] == '\0', outcome == OMID_JOB_DONE);
    }
    rig_down(&r);
}

static void a_job_that_cannot_be_sent_now_waits(void)
{
    struct rig r = rig_up("memory_created", "http://h/m");
    enum omid_job_outcome outcome;
    rig_event(&r, "u 1&x", OMID_EVENT_CONVERSATION_CREATED, "{}", NULL);
    mock_http_refuse(r.m, OMID_EFULL);
    CU_ASSERT_TRUE(mock_run_finished(mock_job_run(r.inst, 0, 1), &outcome, NULL, NULL));
    CU_ASSERT_EQUAL(outcome, OMID_JOB_WAIT);
    mock_http_refuse(r.m, OMID_OK);
    struct omid_job_run *run = mock_job_run(r.inst, 0, 1);
    mock_batch_ack(r.m, 0, OMID_OK, NULL);
    mock_stop(r.inst); /* in mid-flight */
    CU_ASSERT_TRUE(mock_run_finished(run, &outcome, NULL, NULL));
    CU_ASSERT_EQUAL(outcome, OMID_JOB_WAIT);
    mock_free(&r.m);
}

static void damaged_and_orphaned_jobs_die_with_a_reason(void)
{
    static const struct {
        const char *type, *target, *payload;
    } cases[] = {
        {"memory_created", "http://gone/m", "{\"v\":1,\"uid\":\"u\"}\n{}"},
        {"other", "http://h/m", "{\"v\":1,\"uid\":\"u\"}\n{}"},
        {"memory_created", "http://h/m", ""},
        {"memory_created", "http://h/m", "{\"v\":1,\"uid\":\"u\"}"},
        {"memory_created", "http://h/m", "{\"v\":1,\"uid\":3}\n{}"},
        {"memory_created", "http://h/m", "{\"v\":1,\n{}"},
    };
    struct rig r = rig_up("memory_created", "http://h/m");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct omid_job_view view = {.size = sizeof(view),
                                           .id = 1,
                                           .type = cases[i].type,
                                           .name = "n",
                                           .target = cases[i].target,
                                           .payload = cases[i].payload,
                                           .payload_len = strlen(cases[i].payload),
                                           .attempt = 1};
        enum omid_job_outcome outcome;
        const char *why;
        CU_ASSERT_TRUE_FATAL(mock_run_finished(mock_job_run_view(r.inst, &view), &outcome, NULL, &why));
        CU_ASSERT_EQUAL(outcome, OMID_JOB_DEAD);
        CU_ASSERT_TRUE(strlen(why) > 10);
    }
    CU_ASSERT_EQUAL(mock_http_count(r.m), 0);
    rig_down(&r);
}

static void an_enqueue_that_fails_is_tried_again(void)
{
    struct rig r = rig_up("memory_created", "http://h/m");
    mock_job_refuse(r.m, OMID_EFULL);
    CU_ASSERT_EQUAL(rig_event(&r, "u 1&x", OMID_EVENT_CONVERSATION_CREATED, "{\"n\":1}", NULL), OMID_OK);
    CU_ASSERT_EQUAL(mock_job_count(r.m), 0);
    mock_job_refuse(r.m, OMID_OK);
    mock_advance(r.m, 5000);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), 1);
    mock_batch_ack(r.m, 0, OMID_ERR, NULL); /* the disk */
    mock_advance(r.m, 5000);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), 2);
    CU_ASSERT_STRING_EQUAL(mock_job(r.m, 0)->name, mock_job(r.m, 1)->name);
    mock_batch_ack(r.m, 1, OMID_OK, NULL);
    mock_advance(r.m, 60000);
    CU_ASSERT_EQUAL(mock_job_count(r.m), 2);
    rig_down(&r);
}

static void a_long_conversation_is_sent(void)
{
    enum { LONG = 9 << 20 };
    struct rig r = rig_up("memory_created", "http://h/m");
    char *big = malloc(LONG + 32);
    int head = sprintf(big, "{\"transcript\":\"");
    memset(big + head, 'x', LONG);
    strcpy(big + head + LONG, "\"}");
    CU_ASSERT_EQUAL(rig_event(&r, "u 1&x", OMID_EVENT_CONVERSATION_CREATED, big, NULL), OMID_OK);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), 1);
    CU_ASSERT_TRUE(mock_job(r.m, 0)->payload_len > LONG);
    free(big);
    rig_down(&r);
}

static void what_cannot_be_kept_is_an_error(void)
{
    struct rig r = rig_up("memory_created", "http://h/m");
    const size_t most = (size_t)32 << 20; /* of a body */
    char *big = malloc(most + 2);
    memset(big, ' ', most + 1);
    big[most + 1] = '\0';
    CU_ASSERT_EQUAL(rig_event(&r, "u 1&x", OMID_EVENT_CONVERSATION_CREATED, big, NULL), OMID_ERR);
    free(big);
    CU_ASSERT_EQUAL(mock_job_count(r.m), 0);
    CU_ASSERT_EQUAL(mock_count(r.m, "memory_created_deliveries", "dropped"), 1);
    for (int i = 0; i < 256; i++)
        CU_ASSERT_EQUAL(rig_event(&r, "u 1&x", OMID_EVENT_CONVERSATION_CREATED, "{}", NULL), OMID_OK);
    CU_ASSERT_EQUAL(rig_event(&r, "u 1&x", OMID_EVENT_CONVERSATION_CREATED, "{}", NULL), OMID_ERR);
    rig_down(&r);
}

static void drain_waits_for_what_is_under_way(void)
{
    struct rig r = rig_up("memory_created", "http://h/m");
    rig_event(&r, "u 1&x", OMID_EVENT_CONVERSATION_CREATED, "{}", NULL);
    struct omid_job_run *run = mock_job_run(r.inst, 0, 1);
    mock_drain(r.inst);
    CU_ASSERT_EQUAL(mock_drained(r.inst), 0);
    mock_batch_ack(r.m, 0, OMID_OK, NULL);
    CU_ASSERT_EQUAL(mock_drained(r.inst), 0);
    mock_http_answer(r.m, 0, 200, "");
    CU_ASSERT_EQUAL(mock_drained(r.inst), 1);
    CU_ASSERT_TRUE(mock_run_finished(run, NULL, NULL, NULL));
    rig_down(&r);
}

static void stop_leaves_nothing_behind(void)
{
    struct rig r = {.m = mock_new(&omid_plugin)};
    mock_conf(r.m, "audio_bytes", "http://h/a,1 http://g/a,1");
    mock_conf(r.m, "realtime_transcript", "http://h/t");
    mock_conf(r.m, "memory_created", "http://h/m");
    CU_ASSERT_FATAL(mock_configure(r.m) == OMID_OK);
    r.inst = mock_start(r.m);
    for (int i = 0; i < 6; i++)
        rig_audio(&r, 9000, 8000, "c1");
    rig_audio(&r, 10, 8000, "c1");
    for (int i = 0; i < 3; i++) {
        rig_event(&r, "u 1&x", OMID_EVENT_SEGMENTS, "[{\"x\":1}]", NULL);
        mock_advance(r.m, 1000);
    }
    rig_event(&r, "u 1&x", OMID_EVENT_SEGMENTS, TWO_SEGMENTS, NULL);
    rig_event(&r, "u 1&x", OMID_EVENT_CONVERSATION_CREATED, "{}", NULL);
    rig_event(&r, "u 1&x", OMID_EVENT_SESSION_END, NULL, NULL);
    mock_stop(r.inst);
    CU_ASSERT_EQUAL(mock_http_open(r.m), 0);
    CU_ASSERT_EQUAL(mock_timers(r.m), 0);
    mock_free(&r.m);
}

int main(void)
{
    static CU_TestInfo tests[] = {
        {"urls are checked at configure", urls_are_checked_at_configure},
        {"every fault is told and no secret", every_fault_is_told_and_no_secret},
        {"secrets are checked at configure", secrets_are_checked_at_configure},
        {"segments go out after the interval", segments_go_out_after_the_interval},
        {"a segment that changes is sent once", a_segment_that_changes_is_sent_once_as_it_is_now},
        {"no segment is lost when many come", no_segment_is_lost_when_many_come},
        {"a hanging endpoint delays no other", a_hanging_endpoint_delays_no_other_and_is_bounded},
        {"the end of a session flushes", the_end_of_a_session_flushes},
        {"refused by the lane is counted", refused_by_the_lane_is_counted_and_over},
        {"a message of an answer is published", a_message_of_an_answer_is_published},
        {"a message is quoted", a_message_is_quoted},
        {"hostile answers do no harm", hostile_answers_do_no_harm},
        {"audio goes out beyond n seconds", audio_goes_out_when_more_than_n_seconds_wait},
        {"audio is flushed at end and switch", audio_is_flushed_at_the_end_and_at_a_switch},
        {"a newer buffer replaces a waiting one", a_newer_buffer_replaces_one_that_waits},
        {"eight endpoints at once", eight_endpoints_at_once},
        {"audio memory is bounded", audio_memory_is_bounded},
        {"sessions are bounded", sessions_are_bounded},
        {"one named job per endpoint", a_conversation_is_one_named_job_per_endpoint},
        {"answers decide about the job", answers_decide_about_the_job},
        {"a job that cannot be sent now waits", a_job_that_cannot_be_sent_now_waits},
        {"damaged and orphaned jobs die", damaged_and_orphaned_jobs_die_with_a_reason},
        {"an enqueue that fails is tried again", an_enqueue_that_fails_is_tried_again},
        {"a long conversation is sent", a_long_conversation_is_sent},
        {"what cannot be kept is an error", what_cannot_be_kept_is_an_error},
        {"drain waits for what is under way", drain_waits_for_what_is_under_way},
        {"stop leaves nothing behind", stop_leaves_nothing_behind},
        CU_TEST_INFO_NULL,
    };
    static CU_SuiteInfo suites[] = {{"webhooks", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
