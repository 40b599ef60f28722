/*
 * memory_created: one named job of the durable queue per endpoint and conversation.
 *
 * The job's payload is one line of JSON, {"v":1,"uid":"..."}, and then the conversation as it is sent. Its target is
 * the endpoint's URL, so that one endpoint's jobs delay no other's.
 */
#include <stdlib.h>
#include <string.h>

#include "webhooks.h"

#define JOB_TYPE "memory_created"
#define MAX_PAYLOAD ((size_t)1 << 20)
#define MAX_ENQUEUES 256 /* jobs on their way to the disk, or waiting for room in the queue */
#define ENQUEUE_RETRY_MS 5000
#define FULL_WAIT_S 5     /* lane full: the next look */
#define BREAKER_WAIT_S 30 /* breaker open: the next look when the lane names no time */

/* A job that is not on disk yet. */
struct enqueue {
    struct instance *in;
    struct enqueue *next;
    size_t index; /* of the endpoint */
    char *name, *payload;
    size_t len;
    bool submitted; /* the queue will call back */
};

static void enqueue_free(struct enqueue *e)
{
    struct enqueue **at = &e->in->enqueues;
    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    e->in->n_enqueues--;
    free(e->name);
    free(e->payload);
    free(e);
}

static void retry_tick(void *arg);

static void retry_later(struct instance *in)
{
    if (in->retry == NULL)
        in->retry = in->host->timer_start(in->inst, ENQUEUE_RETRY_MS, 0, retry_tick, in);
}

static void on_enqueued(void *arg, enum omid_result result, uint64_t id)
{
    (void)id;
    struct enqueue *e = arg;
    struct instance *in = e->in;
    e->submitted = false;
    if (result == OMID_OK) {
        enqueue_free(e);
        instance_check_drained(in);
        return;
    }
    in->host->log(in->mod, OMID_LOG_ERROR, "%s is not on disk (%s), tried again in %d s", e->name,
                  result == OMID_EFULL ? "the queue is full" : "the queue's disk fails", ENQUEUE_RETRY_MS / 1000);
    retry_later(in);
}

static void enqueue_submit(struct enqueue *e)
{
    struct instance *in = e->in;
    const struct omid_job job = {.size = sizeof(job),
                                 .type = JOB_TYPE,
                                 .name = e->name,
                                 .target = in->conf->endpoints[HOOK_MEMORY][e->index].base,
                                 .payload = e->payload,
                                 .payload_len = e->len};
    e->submitted = in->host->job_enqueue(in->inst, &job, on_enqueued, e) == OMID_OK;
    if (!e->submitted)
        retry_later(in);
}

static void retry_tick(void *arg)
{
    struct instance *in = arg;
    in->host->timer_stop(&in->retry);
    for (struct enqueue *e = in->enqueues; e != NULL; e = e->next) {
        if (!e->submitted)
            enqueue_submit(e);
    }
}

static struct enqueue *enqueue_new(struct instance *in, const struct omid_event *ev, size_t index)
{
    struct text payload = {0};
    text_adds(&payload, "{\"v\":1,\"uid\":");
    text_add_quoted(&payload, ev->uid);
    text_adds(&payload, "}\n");
    text_add(&payload, ev->json, ev->json_len);
    struct text name = {0};
    text_adds(&name, JOB_TYPE ":");
    text_adds(&name, ev->conversation_id);
    text_adds(&name, ":");
    text_adds(&name, in->conf->endpoints[HOOK_MEMORY][index].hash);
    struct enqueue *e = calloc(1, sizeof(*e));
    if (e == NULL || payload.failed || name.failed) {
        free(e);
        free(payload.data);
        free(name.data);
        return NULL;
    }
    e->in = in;
    e->index = index;
    e->name = name.data;
    e->payload = payload.data;
    e->len = payload.len;
    e->next = in->enqueues;
    in->enqueues = e;
    in->n_enqueues++;
    return e;
}

int durable_event(struct instance *in, const struct omid_event *ev)
{
    int rc = OMID_OK;
    for (size_t i = 0; i < in->conf->n[HOOK_MEMORY]; i++) {
        const char *why = NULL;
        struct enqueue *e = NULL;
        if (in->n_enqueues >= MAX_ENQUEUES)
            why = "too many wait for the queue";
        else if ((e = enqueue_new(in, ev, i)) == NULL)
            why = "no memory";
        else if (e->len > MAX_PAYLOAD)
            why = "it is larger than 1 MiB";
        if (why == NULL) {
            enqueue_submit(e);
            continue;
        }
        if (e != NULL)
            enqueue_free(e);
        deliver_count(in, HOOK_MEMORY, OUTCOME_DROPPED);
        in->host->log(in->mod, OMID_LOG_ERROR, "conversation %s for %s is lost: %s", ev->conversation_id,
                      in->conf->endpoints[HOOK_MEMORY][i].label, why);
        rc = OMID_ERR;
    }
    return rc;
}

void durable_clear(struct instance *in)
{
    while (in->enqueues != NULL) {
        struct enqueue *e = in->enqueues;
        if (!e->submitted) {
            deliver_count(in, HOOK_MEMORY, OUTCOME_DROPPED);
            in->host->log(in->mod, OMID_LOG_ERROR, "%s never got to the disk", e->name);
        }
        enqueue_free(e);
    }
    if (in->retry != NULL)
        in->host->timer_stop(&in->retry);
}

/* --- attempts --- */

struct verdict {
    enum omid_job_outcome outcome;
    uint32_t after_s;
};

static struct verdict judge_status(int status, uint32_t retry_after_s)
{
    if (status >= 200 && status < 300)
        return (struct verdict){OMID_JOB_DONE, 0};
    bool again = status == 408 || status == 409 || status == 425 || status == 429;
    if (status >= 400 && status < 500 && !again)
        return (struct verdict){OMID_JOB_DEAD, 0};
    return (struct verdict){OMID_JOB_RETRY, retry_after_s};
}

static struct verdict judge(const struct omid_http_response *res)
{
    switch (res->error) {
    case OMID_HTTP_OK:
        return judge_status(res->status, res->retry_after_s);
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
}

static void on_attempt(struct delivery *d, const struct omid_http_response *res)
{
    struct verdict v = judge(res);
    struct text why = {0};
    if (res->error != OMID_HTTP_OK) {
        text_adds(&why, res->error_text != NULL ? res->error_text : "");
    } else if (v.outcome != OMID_JOB_DONE) {
        char status[4] = {(char)('0' + res->status / 100 % 10), (char)('0' + res->status / 10 % 10),
                          (char)('0' + res->status % 10), '\0'};
        text_adds(&why, "answered ");
        text_adds(&why, status);
    }
    d->in->host->job_finish(&d->run, v.outcome, v.after_s, why.data);
    free(why.data);
}

/* The job's name with what a header and the signature's format allow: the same on every attempt. */
static void webhook_id(const struct omid_job_view *job, char *out, size_t len)
{
    size_t i = 0;
    for (; job->name[i] != '\0' && i + 1 < len; i++) {
        char c = job->name[i];
        bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' || c == '_';
        out[i] = plain ? c : '_';
    }
    out[i] = '\0';
}

static bool endpoint_find(const struct webhooks_conf *c, const char *target, size_t *index)
{
    for (*index = 0; *index < c->n[HOOK_MEMORY]; (*index)++) {
        if (strcmp(c->endpoints[HOOK_MEMORY][*index].base, target) == 0)
            return true;
    }
    return false;
}

/* NULL: unreadable. The caller frees. */
static char *payload_uid(const char *payload, size_t len)
{
    struct text head = {0};
    text_add(&head, payload, len);
    bool bad = false;
    char *uid = head.data != NULL ? json_object_string(head.data, head.len, "uid", &bad) : NULL;
    free(head.data);
    return uid;
}

int durable_job(struct instance *in, const struct omid_job_view *job, struct omid_job_run *run)
{
    const char *payload = job->payload;
    const char *line = job->payload_len > 0 ? memchr(payload, '\n', job->payload_len) : NULL;
    char *uid = line != NULL ? payload_uid(payload, (size_t)(line - payload)) : NULL;
    size_t index = 0;
    const char *dead = NULL;
    if (strcmp(job->type, JOB_TYPE) != 0)
        dead = "a job of a type that webhooks does not know";
    else if (uid == NULL)
        dead = "its payload can't be read";
    else if (!endpoint_find(in->conf, job->target, &index))
        dead = "the endpoint is no longer configured";
    if (dead != NULL) {
        free(uid);
        in->host->job_finish(&run, OMID_JOB_DEAD, 0, dead);
        return OMID_OK;
    }
    char id[WEBHOOKS_ID_MAX];
    webhook_id(job, id, sizeof(id));
    const struct deliver_request req = {.type = HOOK_MEMORY,
                                        .index = index,
                                        .uid = uid,
                                        .content_type = "application/json",
                                        .webhook_id = id,
                                        .body = line + 1,
                                        .body_len = job->payload_len - (size_t)(line + 1 - payload)};
    struct delivery *d = NULL;
    int rc = deliver(in, &req, on_attempt, &d);
    free(uid);
    if (rc == OMID_OK) {
        d->run = run;
        return OMID_OK;
    }
    if (rc == OMID_EINVAL)
        in->host->job_finish(&run, OMID_JOB_DEAD, 0, "the request can't be built");
    else
        in->host->job_finish(&run, OMID_JOB_WAIT, FULL_WAIT_S, "the lane takes no more requests");
    return OMID_OK;
}
