/* What an answer means: whether it is the success that was wanted, and what it carries for the user. */
#include <stdlib.h>
#include <string.h>

#include "webhooks.h"

#define LIVE_MESSAGE_MIN 6 /* characters of a message to somebody who is speaking: longer than 5 */

static bool of_session(enum omid_trigger trigger)
{
    return trigger == OMID_TRIGGER_TRANSCRIPT || trigger == OMID_TRIGGER_AUDIO;
}

bool answer_succeeds(const struct endpoint *e, enum omid_trigger trigger, const struct omid_http_response *res)
{
    if (res->error != OMID_HTTP_OK)
        return false;
    if (e->app && trigger == OMID_TRIGGER_AUDIO)
        return true;
    if (e->app && (trigger == OMID_TRIGGER_MEMORY || trigger == OMID_TRIGGER_TRANSCRIPT))
        return res->status == 200;
    return res->status >= 200 && res->status < 300;
}

enum outcome outcome_of(const struct endpoint *e, enum omid_trigger trigger, const struct omid_http_response *res)
{
    switch (res->error) {
    case OMID_HTTP_OK:
        return answer_succeeds(e, trigger, res) ? OUTCOME_OK : OUTCOME_STATUS;
    case OMID_HTTP_BREAKER:
        return OUTCOME_BREAKER;
    case OMID_HTTP_FULL:
    case OMID_HTTP_QUEUE_TIMEOUT:
        return OUTCOME_FULL;
    case OMID_HTTP_SUPERSEDED:
        return OUTCOME_SUPERSEDED;
    case OMID_HTTP_SHUTDOWN:
        return OUTCOME_SHUTDOWN;
    default:
        return OUTCOME_ERROR;
    }
}

bool answer_is_attempt(const struct omid_http_response *res)
{
    switch (res->error) {
    case OMID_HTTP_BREAKER:
    case OMID_HTTP_FULL:
    case OMID_HTTP_QUEUE_TIMEOUT:
    case OMID_HTTP_SUPERSEDED:
    case OMID_HTTP_SHUTDOWN:
    case OMID_HTTP_LOCAL: /* a fault of our own says nothing about the endpoint */
        return false;
    default:
        return true;
    }
}

static void message_show(struct instance *in, const struct endpoint *e, const struct answer_context *about,
                         const char *message)
{
    struct text t = {0};
    text_adds(&t, "{\"app_id\":");
    text_add_quoted(&t, e->said_by);
    text_adds(&t, ",\"app_name\":");
    text_add_quoted(&t, e->name);
    text_adds(&t, ",\"message\":");
    text_add_quoted(&t, message);
    text_adds(&t, "}");
    const struct omid_event ev = {.size = sizeof(ev),
                                  .type = OMID_EVENT_APP_MESSAGE,
                                  .uid = about->uid,
                                  .session_id = about->session,
                                  .conversation_id = about->conversation,
                                  .json = t.data,
                                  .json_len = t.len,
                                  .time_ms = in->host->wall_ms()};
    if (!t.failed && in->host->publish(in->inst, &ev) == OMID_OK)
        in->host->counter_add(in->conf->messages, 1);
    else
        in->host->log(in->mod, OMID_LOG_WARNING, "%s: a message of its answer is lost", e->label);
    free(t.data);
}

/* Apps say something to their user by both; a developer's webhook only while somebody speaks. */
static bool may_speak(const struct endpoint *e, enum omid_trigger trigger)
{
    return trigger == OMID_TRIGGER_TRANSCRIPT || (e->app && trigger == OMID_TRIGGER_MEMORY);
}

void answer_use(struct instance *in, const struct endpoint *e, enum omid_trigger trigger,
                const struct answer_context *about, const struct omid_http_response *res)
{
    if (!may_speak(e, trigger) || res->error != OMID_HTTP_OK || res->status != 200 || res->body_len == 0)
        return;
    const char *body = res->body;
    size_t len = res->body_len;
    while (len > 0 && strchr(" \t\r\n", *body) != NULL) {
        body++;
        len--;
    }
    /* "ok" is an answer too; what begins as an object and can't be read is worth a count. */
    if (len == 0 || *body != '{')
        return;
    if (res->truncated || json_fault(body, len) != NULL) {
        in->host->counter_add(in->conf->bad_answers, 1);
        return;
    }
    struct json_span v;
    char *message = json_find(body, len, "message", &v) ? json_string(&v) : NULL;
    if (message != NULL && utf8_length(message) >= (of_session(trigger) ? LIVE_MESSAGE_MIN : 1u))
        message_show(in, e, about, message);
    free(message);
    if (e->app && json_find(body, len, "notification", &v) && v.data[0] != 'n') /* null: none */
        notification_use(in, e, about, &v);
}
