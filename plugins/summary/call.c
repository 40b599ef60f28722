/*
 * One request of chat completions. 429 and 503 with a Retry-After that is not too long are waited for, once; every
 * other failure is the caller's to judge: what may be better later (OMID_ERR), and what never will (OMID_EINVAL).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "summary.h"

#define MAX_ANSWER ((size_t)1 << 20)

static void send_again(void *arg);

static void end(struct call *c, enum outcome outcome, int result, const char *text, struct completion *completion)
{
    const struct settings *set = c->in->set;
    struct call_result r = {.result = result, .text = text};
    set->host->counter_add(set->requests[outcome], 1);
    if (completion)
        r.completion = *completion;
    kit_text_free(&c->body);
    c->done(c->arg, &r);
    free(r.completion.content);
}

static enum outcome outcome_of(enum omid_http_error error)
{
    switch (error) {
    case OMID_HTTP_TIMEOUT:
        return OUT_TIMEOUT;
    case OMID_HTTP_FULL:
    case OMID_HTTP_QUEUE_TIMEOUT:
    case OMID_HTTP_BREAKER:
        return OUT_BUSY;
    default:
        return OUT_UNREACHED;
    }
}

static bool wait_for(struct call *c, const struct omid_http_response *res)
{
    const struct settings *set = c->in->set;
    uint64_t ms = (uint64_t)res->retry_after_s * 1000;
    if (c->waited || ms == 0 || ms > set->retry_after_ms || set->host->now_ms() + ms >= c->until_ms)
        return false;
    c->waited = true;
    c->wait = set->host->timer_start(c->in->inst, (uint32_t)ms, 0, send_again, c);
    if (c->wait)
        set->host->counter_add(set->requests[OUT_BUSY], 1);
    return c->wait != NULL;
}

/* An answer that is not a 2xx. What it says is not told on: it may repeat the key, or what was said. */
static void refused(struct call *c, const struct omid_http_response *res)
{
    char text[96];
    int status = res->status;
    if (status == 429 || status == 503) {
        if (wait_for(c, res))
            return;
        snprintf(text, sizeof text, "the service is overloaded: it answered %d", status);
        end(c, status == 429 ? OUT_BUSY : OUT_SERVER, OMID_ERR, text, NULL);
        return;
    }
    if (status == 401 || status == 403)
        snprintf(text, sizeof text, "the service refuses the key: it answered %d", status);
    else
        snprintf(text, sizeof text, "the service answered %d", status);
    bool again = status >= 500 || status == 408 || status == 409 || status == 425;
    end(c, status >= 500 ? OUT_SERVER : OUT_REFUSED, again ? OMID_ERR : OMID_EINVAL, text, NULL);
}

static void on_response(void *arg, const struct omid_http_response *res)
{
    struct call *c = arg;
    const struct settings *set = c->in->set;
    struct kit_fault f = {""};
    struct completion completion;
    char text[sizeof f.text + 64];
    c->http = NULL;
    if (res->error != OMID_HTTP_OK) {
        snprintf(text, sizeof text, "the service was not reached: %.160s", res->error_text ? res->error_text : "");
        end(c, outcome_of(res->error), res->error == OMID_HTTP_BAD_URL ? OMID_EINVAL : OMID_ERR, text, NULL);
    } else if (res->status < 200 || res->status >= 300) {
        refused(c, res);
    } else if (res->truncated) {
        end(c, OUT_BAD_ANSWER, OMID_ERR, "the service's answer is longer than 1 MiB", NULL);
    } else if (!completion_read(res->body, res->body_len, &completion, &f)) {
        snprintf(text, sizeof text, "the service's answer is not usable: %s", f.text);
        end(c, OUT_BAD_ANSWER, OMID_ERR, text, NULL);
    } else {
        set->host->counter_add(set->prompt_tokens, (uint64_t)completion.prompt_tokens);
        set->host->counter_add(set->completion_tokens, (uint64_t)completion.completion_tokens);
        end(c, OUT_OK, OMID_OK, NULL, &completion);
    }
}

static const char *send(struct call *c)
{
    const struct settings *set = c->in->set;
    uint64_t now = set->host->now_ms();
    if (now >= c->until_ms)
        return "its time is over";
    const char *headers[] = {"Content-Type: application/json", "Accept: application/json", set->authorization, NULL};
    const struct omid_http_request req = {.size = sizeof req,
                                          .method = "POST",
                                          .url = set->url,
                                          .headers = headers,
                                          .body = c->body.data,
                                          .body_len = c->body.len,
                                          .timeout_ms = (uint32_t)(c->until_ms - now),
                                          .max_body = MAX_ANSWER};
    int rc = set->host->http_start(c->in->inst, &req, on_response, c, &c->http);
    return rc == OMID_OK ? NULL : rc == OMID_EFULL ? "the lane is full" : "the lane takes no request";
}

static void send_again(void *arg)
{
    struct call *c = arg;
    c->in->set->host->timer_stop(&c->wait);
    const char *fault = send(c);
    if (fault)
        end(c, OUT_BUSY, OMID_ERR, fault, NULL);
}

bool call_start(struct call *c, struct instance *in, struct kit_text *body, uint64_t until_ms,
                void (*done)(void *arg, struct call_result *r), void *arg, const char **text)
{
    *c = (struct call){.in = in, .body = *body, .until_ms = until_ms, .done = done, .arg = arg};
    *body = (struct kit_text){.max = body->max};
    *text = c->body.failed ? "no memory" : send(c);
    if (*text)
        kit_text_free(&c->body);
    return *text == NULL;
}

void call_cancel(struct call *c)
{
    if (c->http)
        c->in->set->host->http_cancel(&c->http);
    if (c->wait)
        c->in->set->host->timer_stop(&c->wait);
    kit_text_free(&c->body);
}
