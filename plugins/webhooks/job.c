/* An attempt of a job: what it keeps is sent to its endpoint as it is now, and the answer decides about the job. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "webhooks.h"

#define FULL_WAIT_S 5     /* lane full: the next look */
#define BREAKER_WAIT_S 30 /* breaker open: the next look when the lane names no time */

struct verdict {
    enum omid_job_outcome outcome;
    uint32_t after_s;
};

static struct verdict judge(const struct endpoint *e, enum omid_trigger trigger, const struct omid_http_response *res)
{
    switch (res->error) {
    case OMID_HTTP_OK:
        break;
    case OMID_HTTP_BREAKER:
        return (struct verdict){OMID_JOB_WAIT, res->retry_after_s > 0 ? res->retry_after_s : BREAKER_WAIT_S};
    case OMID_HTTP_FULL:
    case OMID_HTTP_QUEUE_TIMEOUT:
    case OMID_HTTP_LOCAL:
    case OMID_HTTP_SHUTDOWN:
        return (struct verdict){OMID_JOB_WAIT, FULL_WAIT_S};
    case OMID_HTTP_BAD_URL:
    case OMID_HTTP_BLOCKED:
        return (struct verdict){OMID_JOB_DEAD, 0};
    default:
        return (struct verdict){OMID_JOB_RETRY, 0};
    }
    const int status = res->status;
    if (answer_succeeds(e, trigger, res))
        return (struct verdict){OMID_JOB_DONE, 0};
    bool again = status == 408 || status == 409 || status == 425 || status == 429;
    if (status >= 400 && status < 500 && !again)
        return (struct verdict){OMID_JOB_DEAD, 0};
    return (struct verdict){OMID_JOB_RETRY, res->retry_after_s};
}

static void attempt_keep(struct delivery *d, const struct omid_http_response *res)
{
    if (d->in->host->job_attempt == NULL || !answer_is_attempt(res))
        return;
    const struct omid_attempt attempt = {.size = sizeof(attempt),
                                         .status = res->error == OMID_HTTP_OK ? res->status : 0,
                                         .elapsed_ms = res->elapsed_ms,
                                         .endpoint = d->endpoint->registered ? d->endpoint->id : NULL,
                                         .answer = res->body,
                                         .answer_len = res->body != NULL ? res->body_len : 0};
    d->in->host->job_attempt(d->run, &attempt);
}

static void on_attempt(struct delivery *d, const struct omid_http_response *res)
{
    struct instance *in = d->in;
    const struct verdict v = judge(d->endpoint, d->trigger, res);
    const struct answer_context about = {.uid = d->uid,
                                         .conversation = d->conversation[0] != '\0' ? d->conversation : NULL};
    char why[32];
    const char *error = NULL;
    if (res->error != OMID_HTTP_OK) {
        error = res->error_text;
    } else if (v.outcome != OMID_JOB_DONE) {
        snprintf(why, sizeof(why), "answered %d", res->status);
        error = why;
    }
    attempt_keep(d, res);
    answer_use(in, d->endpoint, d->trigger, &about, res);
    in->host->job_finish(&d->run, v.outcome, v.after_s, error);
}

static void add_plain(char *out, size_t size, const char *from)
{
    size_t i = strlen(out);
    for (; *from != '\0' && i + 1 < size; from++, i++) {
        char c = *from;
        bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' || c == '_';
        out[i] = plain ? c : '_';
    }
    out[i] = '\0';
}

/* The same on every attempt, another for each endpoint; with what a header and the signature's format allow. */
static void webhook_id(const struct omid_job_view *job, const struct payload *p, char *out, size_t size)
{
    char number[32];
    out[0] = '\0';
    if (p->id[0] != '\0') {
        add_plain(out, size, p->id);
        add_plain(out, size, "_");
        add_plain(out, size, job->target);
    } else if (job->name[0] != '\0') {
        add_plain(out, size, job->name);
    } else {
        snprintf(number, sizeof(number), "job_%llu", (unsigned long long)job->id);
        add_plain(out, size, number);
    }
}

static int attempt_begin(struct instance *in, struct endpoint *e, enum omid_trigger trigger, const struct payload *p,
                         const struct omid_job_view *job, struct omid_job_run *run)
{
    char id[WEBHOOKS_ID_MAX];
    webhook_id(job, p, id, sizeof(id));
    const struct deliver_request req = {.endpoint = e,
                                        .trigger = trigger,
                                        .uid = p->uid,
                                        .plain_url = trigger == OMID_TRIGGER_EVENT,
                                        .conversation = p->conversation,
                                        .content_type = "application/json",
                                        .webhook_id = id,
                                        .event = p->event[0] != '\0' ? p->event : NULL,
                                        .body = p->body,
                                        .body_len = p->len};
    struct delivery *d = NULL;
    int rc = deliver(in, &req, on_attempt, &d);
    if (rc == OMID_OK)
        d->run = run;
    else if (rc == OMID_EINVAL)
        in->host->job_finish(&run, OMID_JOB_DEAD, 0, "the request can't be built");
    else
        in->host->job_finish(&run, OMID_JOB_WAIT, FULL_WAIT_S, "the lane takes no more requests");
    return OMID_OK;
}

int webhooks_job(struct instance *in, const struct omid_job_view *job, struct omid_job_run *run)
{
    struct payload p;
    const char *dead = NULL;
    bool again = false;
    int trigger = OMID_TRIGGER_MEMORY;
    while (trigger < OMID_TRIGGERS && strcmp(job->type, webhooks_job_types[trigger]) != 0)
        trigger++;
    if (trigger == OMID_TRIGGERS)
        dead = "a job of a type that webhooks does not know";
    else if (!payload_read(job->payload, job->payload_len, &p))
        dead = "its payload can't be read";
    struct endpoint *e = dead == NULL ? endpoint_of_job(in, job->target, p.uid, &dead, &again) : NULL;
    if (e == NULL) {
        deliver_count(in, trigger < OMID_TRIGGERS ? (enum omid_trigger)trigger : OMID_TRIGGER_EVENT,
                      again ? OUTCOME_FULL : OUTCOME_DROPPED);
        in->host->job_finish(&run, again ? OMID_JOB_WAIT : OMID_JOB_DEAD, again ? FULL_WAIT_S : 0, dead);
        return OMID_OK;
    }
    int rc = attempt_begin(in, e, (enum omid_trigger)trigger, &p, job, run);
    endpoint_unref(&e);
    return rc;
}
