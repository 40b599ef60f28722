/* webhooks and endpoints of the registry, against a mock host: triggers, answers, and how sessions follow changes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture_webhooks.h"
#include "mock_doors.h"

#define SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define CONVERSATION                                                                                               \
    "{\"id\":\"c1\",\"transcript_segments\":[{\"id\":\"a\",\"is_user\":true,\"speaker_id\":0,\"person_id\":null}," \
    "{\"id\":\"b\",\"is_user\":false,\"speaker_id\":2,\"person_id\":\"p1\"},"                                      \
    "{\"id\":\"c\",\"is_user\":false,\"speaker_id\":3,\"person_id\":null}],\"photos\":[]}"

static const char *const no_texts[] = {NULL};
static const char *const one_secret[] = {SECRET, NULL};

static struct omid_endpoint place(const char *id, bool app, const char *url, uint32_t triggers)
{
    return (struct omid_endpoint){.size = sizeof(struct omid_endpoint),
                                  .id = id,
                                  .app = app,
                                  .name = app ? "The App" : "",
                                  .uid = "u1",
                                  .url = url,
                                  .triggers = triggers,
                                  .events = no_texts,
                                  .filter = "",
                                  .audio_ms = 1000,
                                  .secrets = no_texts};
}

static void add(const struct rig *r, const char *id, bool app, const char *url, enum omid_trigger trigger)
{
    struct omid_endpoint e = place(id, app, url, 1u << trigger);
    mock_endpoint_add(r->m, "u1", &e);
}

static int send_for(const struct rig *r, const char *uid, enum omid_event_type type, const char *json)
{
    return rig_event(r, uid, type, json, "{\"p1\":\"Ann \\\"A\\\"\"}");
}

static int send(const struct rig *r, enum omid_event_type type, const char *json)
{
    return send_for(r, "u1", type, json);
}

static bool has(const char *text, const char *what)
{
    return text != NULL && strstr(text, what) != NULL;
}

/* ------------------------------------------------------------ realtime */

static void transcripts_in_both_forms(void)
{
    struct rig r = rig_up(NULL, NULL);
    add(&r, "app1", true, "http://a/t?k=v", OMID_TRIGGER_TRANSCRIPT);
    add(&r, "w1", false, "http://w/t#f", OMID_TRIGGER_TRANSCRIPT);
    add(&r, "other", false, "http://o/t", OMID_TRIGGER_MEMORY);
    send_for(&r, "u2", OMID_EVENT_SEGMENTS, "[{\"id\":\"z\"}]"); /* nobody wants it */
    send(&r, OMID_EVENT_SEGMENTS, "[{\"id\":\"a\"}]");
    mock_advance(r.m, 1000);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 2);
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 0)->url, "http://a/t?k=v&uid=u1");
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 0)->body, "{\"session_id\":\"u1\",\"segments\":[{\"id\":\"a\"}]}");
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 1)->url, "http://w/t?uid=u1");
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 1)->body, "{\"segments\":[{\"id\":\"a\"}],\"session_id\":\"u1\"}");
    mock_http_answer(r.m, 0, 201, "{}");
    mock_http_answer(r.m, 1, 201, "{}");
    CU_ASSERT_EQUAL(mock_count(r.m, "realtime_transcript_deliveries", "status"), 1); /* an app: exactly 200 */
    CU_ASSERT_EQUAL(mock_count(r.m, "realtime_transcript_deliveries", "ok"), 1);
    CU_ASSERT_EQUAL_FATAL(mock_report_count(r.m), 2);
    CU_ASSERT_STRING_EQUAL(mock_report(r.m, 0)->id, "app1");
    CU_ASSERT_EQUAL(mock_report(r.m, 0)->outcome, OMID_DELIVERY_FAILED);
    CU_ASSERT_EQUAL(mock_report(r.m, 0)->status, 201);
    CU_ASSERT_STRING_EQUAL(mock_report(r.m, 1)->id, "w1");
    CU_ASSERT_EQUAL(mock_report(r.m, 1)->outcome, OMID_DELIVERY_OK);
    rig_down(&r);
}

static void who_may_speak_and_what(void)
{
    static const struct {
        bool app, live;
        int status;
        const char *body;
        bool shown;
    } cases[] = {
        {true, true, 200, "{\"message\":\"sixsix\"}", true},   {true, true, 200, "{\"message\":\"five5\"}", false},
        {true, true, 201, "{\"message\":\"sixsix\"}", false},  {false, true, 200, "{\"message\":\"sixsix\"}", true},
        {false, true, 202, "{\"message\":\"sixsix\"}", false}, {true, false, 200, "{\"message\":\"a\"}", true},
        {true, false, 200, "{\"message\":\"\"}", false},       {true, false, 200, " \n{\"message\":\"a\"}", true},
        {true, false, 500, "{\"message\":\"a\"}", false},      {false, false, 200, "{\"message\":\"sixsix\"}", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct rig r = rig_up(NULL, NULL);
        add(&r, "e1", cases[i].app, "http://a/t", cases[i].live ? OMID_TRIGGER_TRANSCRIPT : OMID_TRIGGER_MEMORY);
        if (cases[i].live) {
            send(&r, OMID_EVENT_SEGMENTS, "[{\"id\":\"a\"}]");
            mock_advance(r.m, 1000);
        } else {
            send(&r, OMID_EVENT_CONVERSATION_CREATED, CONVERSATION);
            mock_batch_ack(r.m, 0, OMID_OK, NULL);
            mock_job_run(r.inst, 0, 1);
        }
        mock_http_answer(r.m, 0, cases[i].status, cases[i].body);
        CU_ASSERT_EQUAL(mock_published(r.m), cases[i].shown);
        if (mock_published(r.m) == 1) {
            const struct omid_event *ev = mock_publication(r.m, 0);
            CU_ASSERT_STRING_EQUAL(ev->uid, "u1");
            CU_ASSERT_TRUE(has(ev->json, cases[i].app ? "{\"app_id\":\"e1\",\"app_name\":\"The App\",\"message\":"
                                                      : "{\"app_id\":\"e1\",\"app_name\":\"Webhooks\",\"message\":"));
            /* Kept with the conversation: that of the session, or the one it is about. */
            CU_ASSERT_TRUE(cases[i].live ? strcmp(ev->session_id, "s1") == 0 : strcmp(ev->conversation_id, "c1") == 0);
        }
        rig_down(&r);
    }
}

static void audio_of_apps_succeeds_whatever_is_answered(void)
{
    struct rig r = rig_up(NULL, NULL);
    add(&r, "app1", true, "http://a/b", OMID_TRIGGER_AUDIO);
    add(&r, "w1", false, "http://w/b", OMID_TRIGGER_AUDIO);
    rig_audio(&r, 8001, 8000, "c1");
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 2);
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 0)->url, "http://a/b?sample_rate=8000&uid=u1");
    CU_ASSERT_TRUE(has(mock_http(r.m, 0)->headers, "Content-Type: application/octet-stream\n"));
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 0)->latest_key, "audio app1 u1");
    CU_ASSERT_EQUAL(mock_http(r.m, 0)->body_len, 16002);
    mock_http_answer(r.m, 0, 500, "");
    mock_http_answer(r.m, 1, 500, "");
    CU_ASSERT_EQUAL(mock_report(r.m, 0)->outcome, OMID_DELIVERY_OK);
    CU_ASSERT_EQUAL(mock_report(r.m, 1)->outcome, OMID_DELIVERY_FAILED);
    rig_down(&r);
}

static void a_session_follows_the_registry(void)
{
    struct rig r = rig_up(NULL, NULL);
    add(&r, "w1", false, "http://w1/t", OMID_TRIGGER_TRANSCRIPT);
    send(&r, OMID_EVENT_SEGMENTS, "[{\"id\":\"a\"}]");
    mock_advance(r.m, 1000);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 1);
    /* One more, and the first one moves while a request of it is under way. */
    add(&r, "w2", false, "http://w2/t", OMID_TRIGGER_TRANSCRIPT);
    add(&r, "w1", false, "http://moved/t", OMID_TRIGGER_TRANSCRIPT);
    send(&r, OMID_EVENT_SEGMENTS, "[{\"id\":\"b\"}]");
    mock_advance(r.m, 1000);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 2);
    CU_ASSERT_TRUE(has(mock_http(r.m, 1)->url, "http://w2/"));
    mock_http_answer(r.m, 0, 200, "{}");
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 3);
    CU_ASSERT_TRUE(has(mock_http(r.m, 2)->url, "http://moved/"));
    /* Gone, with one under way and one that waits: that one is dropped. */
    send(&r, OMID_EVENT_SEGMENTS, "[{\"id\":\"c\"}]");
    mock_advance(r.m, 1000);
    mock_endpoint_remove(r.m, "w1");
    send(&r, OMID_EVENT_SEGMENTS, "[{\"id\":\"d\"}]");
    CU_ASSERT_EQUAL(mock_count(r.m, "realtime_transcript_deliveries", "dropped"), 1);
    mock_http_answer(r.m, 2, 200, "{}");
    CU_ASSERT_EQUAL(mock_http_count(r.m), 3);
    /* All gone: what is said meanwhile is for nobody. */
    mock_endpoint_remove(r.m, "w2");
    send(&r, OMID_EVENT_SEGMENTS, "[{\"id\":\"e\"}]");
    mock_advance(r.m, 1000);
    CU_ASSERT_EQUAL(mock_http_count(r.m), 3);
    /* And one is back. */
    add(&r, "w1", false, "http://w1/t", OMID_TRIGGER_TRANSCRIPT);
    send(&r, OMID_EVENT_SEGMENTS, "[{\"id\":\"f\"}]");
    mock_advance(r.m, 1000);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 4);
    CU_ASSERT_TRUE(has(mock_http(r.m, 3)->body, "\"f\""));
    mock_http_answer(r.m, 1, 200, "{}");
    rig_down(&r);
}

static void audio_follows_the_registry(void)
{
    struct rig r = rig_up(NULL, NULL);
    add(&r, "w1", false, "http://w1/b", OMID_TRIGGER_AUDIO);
    for (int i = 0; i < 6; i++)
        rig_audio(&r, 8001, 8000, "c1");
    CU_ASSERT_EQUAL(mock_http_open(r.m), 4); /* four under way, one waits, one was replaced */
    rig_audio(&r, 100, 8000, "c1");
    mock_endpoint_remove(r.m, "w1");
    add(&r, "w2", false, "http://w2/b", OMID_TRIGGER_AUDIO);
    rig_audio(&r, 8001, 8000, "c1");
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 5);
    CU_ASSERT_TRUE(has(mock_http(r.m, 4)->url, "http://w2/"));
    CU_ASSERT_EQUAL(mock_count(r.m, "audio_bytes_deliveries", "dropped"), 2);
    CU_ASSERT_EQUAL(mock_count(r.m, "audio_dropped_bytes", NULL), 3 * 16002 - 16002 + 200);
    for (size_t i = 0; i < 4; i++)
        mock_http_answer(r.m, i, 200, "");
    CU_ASSERT_EQUAL(mock_http_count(r.m), 5);
    send(&r, OMID_EVENT_SESSION_END, NULL);
    mock_http_answer(r.m, 4, 200, "");
    rig_down(&r);
}

static void stop_in_the_middle_of_a_change(void)
{
    struct rig r = rig_up(NULL, NULL);
    add(&r, "w1", false, "http://w1/b", OMID_TRIGGER_AUDIO);
    add(&r, "w2", false, "http://w2/t", OMID_TRIGGER_TRANSCRIPT);
    rig_audio(&r, 8001, 8000, "c1");
    send(&r, OMID_EVENT_SEGMENTS, "[{\"id\":\"a\"}]");
    mock_advance(r.m, 1000);
    mock_endpoint_remove(r.m, "w1");
    mock_endpoint_remove(r.m, "w2");
    rig_audio(&r, 10, 8000, "c1");
    CU_ASSERT_EQUAL(mock_http_open(r.m), 2);
    rig_down(&r);
}

/* ------------------------------------------------------------ durable */

static void a_conversation_for_each_as_it_wants_it(void)
{
    struct rig r = rig_up(NULL, NULL);
    add(&r, "app1", true, "http://a/m?x=1", OMID_TRIGGER_MEMORY);
    struct omid_endpoint w = place("w1", false, "http://w/m", 1u << OMID_TRIGGER_MEMORY);
    w.ordered = true;
    w.rate_per_min = 60;
    w.secrets = one_secret;
    mock_endpoint_add(r.m, "u1", &w);
    CU_ASSERT_EQUAL(send(&r, OMID_EVENT_CONVERSATION_CREATED, CONVERSATION), OMID_OK);
    CU_ASSERT_EQUAL_FATAL(mock_batch_count(r.m), 1);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), 2);
    const struct mock_job *k = mock_job(r.m, 0), *j = mock_job(r.m, 1); /* developers first, then apps */
    CU_ASSERT_STRING_EQUAL(j->target, "app1");
    CU_ASSERT_STRING_EQUAL(j->name, "memory_created:c1:app1");
    CU_ASSERT_TRUE(has(j->payload, "}\n" CONVERSATION));
    CU_ASSERT_FALSE(j->ordered);
    CU_ASSERT_STRING_EQUAL(k->target, "w1");
    CU_ASSERT_TRUE(k->ordered && k->rate_per_min == 60);
    CU_ASSERT_TRUE(has(k->payload, "\"id\":\"a\",\"is_user\":true,\"speaker_id\":0,\"person_id\":null,"
                                   "\"speaker_name\":\"User\"}"));
    CU_ASSERT_TRUE(has(k->payload, "\"person_id\":\"p1\",\"speaker_name\":\"Ann \\\"A\\\"\"}"));
    CU_ASSERT_TRUE(has(k->payload, "\"speaker_name\":\"Speaker 3\"}],\"photos\":[],\"folder_name\":null}"));
    mock_batch_ack(r.m, 0, OMID_OK, NULL);

    struct omid_job_run *run = mock_job_run(r.inst, 1, 1);
    struct omid_job_run *second = mock_job_run(r.inst, 0, 1);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 2);
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 0)->url, "http://a/m?x=1&uid=u1");
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 0)->body, CONVERSATION);
    CU_ASSERT_FALSE(has(mock_http(r.m, 0)->headers, "webhook-signature"));
    CU_ASSERT_TRUE(has(mock_http(r.m, 1)->headers, "webhook-signature: v1,"));
    CU_ASSERT_TRUE(has(mock_http(r.m, 1)->headers, "webhook-id: memory_created_c1_w1\n"));
    enum omid_job_outcome outcome;
    mock_http_answer(r.m, 0, 204, "");
    CU_ASSERT_TRUE(mock_run_finished(run, &outcome, NULL, NULL));
    CU_ASSERT_EQUAL(outcome, OMID_JOB_RETRY); /* an app: exactly 200 */
    mock_http_answer(r.m, 1, 204, "thanks");
    CU_ASSERT_TRUE(mock_run_finished(second, &outcome, NULL, NULL));
    CU_ASSERT_EQUAL(outcome, OMID_JOB_DONE);
    CU_ASSERT_EQUAL(mock_run_attempt(second)->n, 1);
    CU_ASSERT_EQUAL(mock_run_attempt(second)->status, 204);
    CU_ASSERT_STRING_EQUAL(mock_run_attempt(second)->endpoint, "w1");
    CU_ASSERT_STRING_EQUAL(mock_run_attempt(second)->answer, "thanks");
    rig_down(&r);
}

static void what_an_attempt_does_to_job_and_endpoint(void)
{
    static const struct {
        enum omid_http_error error;
        int status;
        enum omid_job_outcome outcome;
        int report; /* enum omid_delivery_outcome; -1: none, and no attempt either */
    } cases[] = {
        {0, 200, OMID_JOB_DONE, OMID_DELIVERY_OK},
        {0, 204, OMID_JOB_DONE, OMID_DELIVERY_OK},
        {0, 302, OMID_JOB_RETRY, OMID_DELIVERY_FAILED},
        {0, 404, OMID_JOB_DEAD, OMID_DELIVERY_FAILED},
        {0, 410, OMID_JOB_DEAD, OMID_DELIVERY_GONE},
        {0, 425, OMID_JOB_RETRY, OMID_DELIVERY_FAILED},
        {0, 429, OMID_JOB_RETRY, OMID_DELIVERY_FAILED},
        {0, 500, OMID_JOB_RETRY, OMID_DELIVERY_FAILED},
        {OMID_HTTP_CONNECT, 0, OMID_JOB_RETRY, OMID_DELIVERY_FAILED},
        {OMID_HTTP_TIMEOUT, 0, OMID_JOB_RETRY, OMID_DELIVERY_FAILED},
        {OMID_HTTP_RESET, 0, OMID_JOB_RETRY, OMID_DELIVERY_FAILED},
        {OMID_HTTP_BLOCKED, 0, OMID_JOB_DEAD, OMID_DELIVERY_FAILED},
        {OMID_HTTP_BREAKER, 0, OMID_JOB_WAIT, -1},
        {OMID_HTTP_FULL, 0, OMID_JOB_WAIT, -1},
        {OMID_HTTP_LOCAL, 0, OMID_JOB_WAIT, -1},
        {OMID_HTTP_SHUTDOWN, 0, OMID_JOB_WAIT, -1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct rig r = rig_up(NULL, NULL);
        add(&r, "w1", false, "http://w/m", OMID_TRIGGER_MEMORY);
        send(&r, OMID_EVENT_CONVERSATION_CREATED, CONVERSATION);
        mock_batch_ack(r.m, 0, OMID_OK, NULL);
        struct omid_job_run *run = mock_job_run(r.inst, 0, 1);
        if (cases[i].error)
            mock_http_fail(r.m, 0, cases[i].error);
        else
            mock_http_answer(r.m, 0, cases[i].status, "");
        enum omid_job_outcome outcome;
        CU_ASSERT_TRUE_FATAL(mock_run_finished(run, &outcome, NULL, NULL));
        CU_ASSERT_EQUAL(outcome, cases[i].outcome);
        CU_ASSERT_EQUAL_FATAL(mock_report_count(r.m), cases[i].report >= 0);
        CU_ASSERT_EQUAL(mock_run_attempt(run)->n, cases[i].report >= 0);
        if (cases[i].report >= 0) {
            CU_ASSERT_EQUAL((int)mock_report(r.m, 0)->outcome, cases[i].report);
            CU_ASSERT_EQUAL(mock_report(r.m, 0)->status, cases[i].status);
            CU_ASSERT_STRING_EQUAL(mock_report(r.m, 0)->uid, "u1");
        }
        rig_down(&r);
    }
}

static void a_job_goes_to_the_endpoint_as_it_is_now(void)
{
    struct rig r = rig_up(NULL, NULL);
    add(&r, "w1", false, "http://w/m", OMID_TRIGGER_MEMORY);
    send(&r, OMID_EVENT_CONVERSATION_CREATED, CONVERSATION);
    mock_batch_ack(r.m, 0, OMID_OK, NULL);
    add(&r, "w1", false, "http://moved/m", OMID_TRIGGER_MEMORY);
    mock_job_run(r.inst, 0, 1);
    CU_ASSERT_TRUE(has(mock_http(r.m, 0)->url, "http://moved/m"));
    mock_http_answer(r.m, 0, 500, "");
    mock_endpoint_remove(r.m, "w1");
    enum omid_job_outcome outcome;
    const char *why;
    CU_ASSERT_TRUE(mock_run_finished(mock_job_run(r.inst, 0, 2), &outcome, NULL, &why));
    CU_ASSERT_EQUAL(outcome, OMID_JOB_DEAD);
    CU_ASSERT_STRING_EQUAL(why, "the endpoint is gone, or disabled");
    CU_ASSERT_EQUAL(mock_count(r.m, "memory_created_deliveries", "dropped"), 1);
    rig_down(&r);
}

static void secrets_rotate_without_a_gap(void)
{
    static const char *const both[] = {"whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", SECRET, NULL};
    static const char *const bad[] = {"hush", NULL};
    struct rig r = rig_up(NULL, NULL);
    struct omid_endpoint w = place("w1", false, "http://w/m", 1u << OMID_TRIGGER_MEMORY);
    w.secrets = one_secret;
    mock_endpoint_add(r.m, "u1", &w);
    send(&r, OMID_EVENT_CONVERSATION_CREATED, CONVERSATION);
    mock_batch_ack(r.m, 0, OMID_OK, NULL);
    mock_job_run(r.inst, 0, 1);
    w.secrets = both;
    mock_endpoint_add(r.m, "u1", &w);
    mock_job_run(r.inst, 0, 2);
    const char *former = strstr(mock_http(r.m, 0)->headers, "v1,");
    const char *now = strstr(mock_http(r.m, 1)->headers, "v1,");
    CU_ASSERT_TRUE_FATAL(former != NULL && now != NULL);
    CU_ASSERT_EQUAL(strcspn(now, "\n"), 2 * 47 + 1); /* two, and the one of before is the second */
    CU_ASSERT_EQUAL(strncmp(now + 48, former, 47), 0);
    w.secrets = bad;
    mock_endpoint_add(r.m, "u1", &w);
    enum omid_job_outcome outcome;
    CU_ASSERT_TRUE(mock_run_finished(mock_job_run(r.inst, 0, 3), &outcome, NULL, NULL));
    CU_ASSERT_EQUAL(outcome, OMID_JOB_DEAD);
    CU_ASSERT_FALSE(has(mock_last_log(r.m), "hush"));
    CU_ASSERT_EQUAL(mock_count(r.m, "unusable_endpoints", NULL), 1);
    mock_http_answer(r.m, 0, 200, "");
    mock_http_answer(r.m, 1, 200, "");
    rig_down(&r);
}

static void a_summary_of_a_day(void)
{
    struct rig r = rig_up(NULL, NULL);
    add(&r, "w1", false, "http://w/d", OMID_TRIGGER_DAY_SUMMARY);
    struct omid_endpoint all = place("w2", false, "http://w2/d", 1u << OMID_TRIGGER_EVENT);
    static const char *const every[] = {"*", NULL};
    all.events = every;
    mock_endpoint_add(r.m, "u1", &all);
    static const char json[] = "{\"uid\":\"u1\",\"created_at\":\"2026-01-02T21:00:00+00:00\","
                               "\"summary_json\":{\"title\":\"A \\\"day\\\"\"}}";
    struct omid_event ev = {.size = sizeof(ev),
                            .type = OMID_EVENT_CUSTOM,
                            .uid = "u1",
                            .name = "omid.day_summary",
                            .json = json,
                            .json_len = strlen(json)};
    CU_ASSERT_EQUAL(mock_event(r.inst, &ev), OMID_OK);
    CU_ASSERT_EQUAL_FATAL(mock_job_count(r.m), 1); /* no custom event for anybody */
    CU_ASSERT_STRING_EQUAL(mock_job(r.m, 0)->type, "day_summary");
    CU_ASSERT_STRING_EQUAL(mock_job(r.m, 0)->name, "day_summary:u1:2026-01-02T21:00:00+00:00:w1");
    mock_batch_ack(r.m, 0, OMID_OK, NULL);
    mock_job_run(r.inst, 0, 1);
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 0)->url, "http://w/d?uid=u1");
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 0)->body, "{\"uid\":\"u1\",\"created_at\":\"2026-01-02T21:00:00+00:00\","
                                                    "\"summary\":\"{\\\"title\\\":\\\"A \\\\\\\"day\\\\\\\"\\\"}\","
                                                    "\"summary_json\":{\"title\":\"A \\\"day\\\"\"}}");
    mock_http_answer(r.m, 0, 202, "");
    ev.json = "{\"uid\":\"u1\"}";
    ev.json_len = strlen(ev.json);
    CU_ASSERT_EQUAL(mock_event(r.inst, &ev), OMID_EINVAL);
    CU_ASSERT_EQUAL(mock_count(r.m, "unreadable_events", NULL), 1);
    rig_down(&r);
}

/* ------------------------------------------------------------ notifications */

#define NOTE "{\"notification\":{\"prompt\":\"Say {{user_name}} hi\",\"params\":[\"user_name\"],\"context\":{\"q\":1}}}"

static void answer_live(const struct rig *r, const char *body)
{
    send(r, OMID_EVENT_SEGMENTS, "[{\"id\":\"a\"}]");
    mock_advance(r->m, 1000);
    mock_http_answer(r->m, mock_http_count(r->m) - 1, 200, body);
}

static void notifications_of_capable_apps(void)
{
    struct rig r = rig_up(NULL, NULL);
    struct omid_endpoint a = place("app1", true, "http://a/t", 1u << OMID_TRIGGER_TRANSCRIPT);
    mock_endpoint_add(r.m, "u1", &a);
    answer_live(&r, NOTE);
    CU_ASSERT_EQUAL(mock_count(r.m, "notifications", "not_capable"), 1);
    a.capabilities = OMID_CAPABLE_PROACTIVE_NOTIFICATION;
    mock_endpoint_add(r.m, "u1", &a);
    answer_live(&r, NOTE);
    CU_ASSERT_EQUAL_FATAL(mock_published(r.m), 1);
    const struct omid_event *ev = mock_publication(r.m, 0);
    CU_ASSERT_EQUAL(ev->type, OMID_EVENT_CUSTOM);
    CU_ASSERT_STRING_EQUAL(ev->name, "app.notification");
    CU_ASSERT_STRING_EQUAL(ev->json, "{\"app_id\":\"app1\",\"app_name\":\"The App\",\"prompt\":\"Say {{user_name}} "
                                     "hi\",\"params\":[\"user_name\"],\"context\":{\"q\":1}}");
    for (int i = 0; i < 28; i++) /* a second each */
        answer_live(&r, NOTE);
    CU_ASSERT_EQUAL(mock_published(r.m), 1);
    CU_ASSERT_EQUAL(mock_count(r.m, "notifications", "too_soon"), 28);
    mock_advance(r.m, 1000);
    answer_live(&r, NOTE);
    CU_ASSERT_EQUAL(mock_published(r.m), 2);
    rig_down(&r);
}

static void notifications_that_are_unusable(void)
{
    static const char *const bad[] = {
        "{\"notification\":7}",
        "{\"notification\":{}}",
        "{\"notification\":{\"prompt\":\"\"}}",
        "{\"notification\":{\"prompt\":3}}",
        "{\"notification\":{\"prompt\":\"p\",\"params\":\"x\"}}",
        "{\"notification\":{\"prompt\":\"p\",\"params\":[1]}}",
        "{\"notification\":{\"prompt\":\"p\",\"context\":[]}}",
    };
    struct rig r = rig_up(NULL, NULL);
    struct omid_endpoint a = place("app1", true, "http://a/t", 1u << OMID_TRIGGER_TRANSCRIPT);
    a.capabilities = OMID_CAPABLE_PROACTIVE_NOTIFICATION;
    mock_endpoint_add(r.m, "u1", &a);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        answer_live(&r, bad[i]);
    CU_ASSERT_EQUAL(mock_count(r.m, "notifications", "unusable"), sizeof(bad) / sizeof(bad[0]));
    /* 128,000 characters are fine, one more is not; of bytes there may be more. */
    for (size_t n = 128001; n >= 128000; n--) {
        char *body = malloc(n * 2 + 64);
        size_t at = (size_t)sprintf(body, "{\"notification\":{\"prompt\":\"");
        for (size_t i = 0; i < n; i++, at += 2)
            memcpy(body + at, "\xc3\xa9", 2);
        strcpy(body + at, "\"}}");
        answer_live(&r, body);
        free(body);
    }
    CU_ASSERT_EQUAL(mock_count(r.m, "notifications", "unusable"), sizeof(bad) / sizeof(bad[0]) + 1);
    CU_ASSERT_EQUAL(mock_count(r.m, "notifications", "passed"), 1);
    answer_live(&r, "{\"notification\":null}");
    CU_ASSERT_EQUAL(mock_published(r.m), 1);
    rig_down(&r);
}

/* ------------------------------------------------------------ the role hooks */

static void setup_is_checked(void)
{
    static const struct {
        int status;
        const char *body;
        int result;
    } cases[] = {
        {200, "{\"is_setup_completed\":true}", OMID_OK},
        {200, "{\"is_setup_completed\":false}", OMID_ENOTSUP},
        {200, "{\"is_setup_completed\":\"true\"}", OMID_ERR},
        {200, "{}", OMID_ERR},
        {200, "<html>", OMID_ERR},
        {200, "", OMID_ERR},
        {500, "{\"is_setup_completed\":true}", OMID_ERR},
        {302, "{\"is_setup_completed\":true}", OMID_ERR},
        {200, "{\"is_setup_completed\":tr", OMID_ERR},
    };
    struct rig r = rig_up(NULL, NULL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct omid_ask ask = {0};
        CU_ASSERT_EQUAL(omid_plugin.hooks->setup_check(mock_state(r.inst), "u 1", "https://a/s?x=1", &ask), OMID_OK);
        CU_ASSERT_STRING_EQUAL(mock_http(r.m, i)->method, "GET");
        CU_ASSERT_STRING_EQUAL(mock_http(r.m, i)->url, "https://a/s?x=1&uid=u%201");
        mock_http_answer(r.m, i, cases[i].status, cases[i].body);
        CU_ASSERT_EQUAL(ask.answers, 1);
        CU_ASSERT_EQUAL(ask.result, cases[i].result);
    }
    struct omid_ask ask = {0};
    CU_ASSERT_EQUAL(omid_plugin.hooks->setup_check(mock_state(r.inst), "u1", "ftp://a/s", &ask), OMID_EINVAL);
    CU_ASSERT_EQUAL(omid_plugin.hooks->setup_check(mock_state(r.inst), "u1", "https://a/s", &ask), OMID_OK);
    mock_http_fail(r.m, mock_http_count(r.m) - 1, OMID_HTTP_TIMEOUT);
    CU_ASSERT_EQUAL(ask.result, OMID_ERR);
    /* Bounded; what stop() leaves is the host's to answer. */
    static struct omid_ask many[65];
    for (int i = 0; i < 65; i++)
        CU_ASSERT_EQUAL(omid_plugin.hooks->setup_check(mock_state(r.inst), "u1", "https://a/s", &many[i]),
                        i < 64 ? OMID_OK : OMID_EFULL);
    rig_down(&r);
}

static void a_test_is_one_signed_delivery(void)
{
    struct rig r = rig_up(NULL, NULL);
    struct omid_endpoint w = place("w1", false, "http://w/m", 1u << OMID_TRIGGER_MEMORY);
    w.secrets = one_secret;
    struct omid_ask ask = {0};
    CU_ASSERT_EQUAL(omid_plugin.hooks->test(mock_state(r.inst), "u1", &w, &ask), OMID_OK);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(r.m), 1);
    CU_ASSERT_STRING_EQUAL(mock_http(r.m, 0)->url, "http://w/m?uid=u1");
    CU_ASSERT_TRUE(has(mock_http(r.m, 0)->body, "{\"type\":\"omid.test\","));
    CU_ASSERT_TRUE(has(mock_http(r.m, 0)->headers, "webhook-signature: v1,"));
    mock_http_answer(r.m, 0, 418, "short and \"stout\" \xff");
    CU_ASSERT_EQUAL(ask.result, OMID_OK);
    CU_ASSERT_TRUE(has(ask.json, "\"status\":418"));
    CU_ASSERT_TRUE(has(ask.json, "\"answer\":\"short and \\\"stout\\\" \",\"error\":null}"));
    struct omid_ask other = {0};
    CU_ASSERT_EQUAL(omid_plugin.hooks->test(mock_state(r.inst), "u1", &w, &other), OMID_OK);
    mock_http_fail(r.m, 1, OMID_HTTP_CONNECT);
    CU_ASSERT_TRUE(has(other.json, "\"status\":0"));
    CU_ASSERT_EQUAL(mock_report_count(r.m), 0); /* no account of it */
    rig_down(&r);
}

int main(void)
{
    static CU_TestInfo tests[] = {
        {"transcripts in both forms", transcripts_in_both_forms},
        {"who may speak, and what", who_may_speak_and_what},
        {"audio of apps", audio_of_apps_succeeds_whatever_is_answered},
        {"a session follows the registry", a_session_follows_the_registry},
        {"audio follows the registry", audio_follows_the_registry},
        {"stop in the middle of a change", stop_in_the_middle_of_a_change},
        {"a conversation for each as it wants it", a_conversation_for_each_as_it_wants_it},
        {"what an attempt does", what_an_attempt_does_to_job_and_endpoint},
        {"the endpoint as it is now", a_job_goes_to_the_endpoint_as_it_is_now},
        {"secrets rotate without a gap", secrets_rotate_without_a_gap},
        {"a summary of a day", a_summary_of_a_day},
        {"notifications of capable apps", notifications_of_capable_apps},
        {"notifications that are unusable", notifications_that_are_unusable},
        {"setup is checked", setup_is_checked},
        {"a test is one signed delivery", a_test_is_one_signed_delivery},
        CU_TEST_INFO_NULL,
    };
    static CU_SuiteInfo suites[] = {{"webhooks, registry", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
