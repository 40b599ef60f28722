/*
 * POST /v1/events/{type}: an event of the user of the token, for whoever has subscribed to its type. Answered when its
 * jobs are on disk. The daemon's plugins see it on the bus afterwards, as a custom event with an id: its deliveries
 * have been seen to.
 *
 * This is the way that has to be fast: an event is looked at once to see that it is JSON, kept once, and shared by all
 * its jobs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "durable.h"

#define MAX_POSTED 16384 /* events on their way to disk, of one instance */
#define MAX_POSTED_BYTES ((size_t)64 << 20)
#define MAX_KEY 255 /* characters of an Idempotency-Key */
#define DISK_RETRY_S 5
#define FEW 32 /* jobs that are put together without memory of their own */

struct posted {
    struct instance *in;
    struct posted *next, *prev;
    struct omid_exchange *ex;
    struct text payload; /* as the jobs have it */
    size_t head;         /* bytes before the event itself */
    char type[WEBHOOKS_EVENT_TYPE_MAX + 1];
    char uid[WEBHOOKS_UID_MAX];
    char id[37];
    char answer[80];
    size_t endpoints;
};

bool event_type_ok(const char *type)
{
    size_t n = 0;
    for (; type[n] != '\0'; n++) {
        char c = type[n];
        if (n == WEBHOOKS_EVENT_TYPE_MAX || !((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
                                              (c >= 'a' && c <= 'z') || c == '-' || c == '_' || c == '.'))
            return false;
    }
    return n > 0;
}

static void posted_free(struct posted *p)
{
    struct instance *in = p->in;
    if (p->next != NULL)
        p->next->prev = p->prev;
    if (p->prev != NULL)
        p->prev->next = p->next;
    else
        in->posted = p->next;
    in->n_posted--;
    in->posted_bytes -= p->payload.len;
    free(p->payload.data);
    free(p);
}

void events_clear(struct instance *in)
{
    while (in->posted != NULL)
        posted_free(in->posted); /* the host answers what is left */
}

/* ------------------------------------------------------------ answers */

static void refuse(struct instance *in, struct omid_exchange **ex, enum posted_outcome outcome, int status,
                   uint32_t retry_after, const char *why)
{
    char header[32], body[160];
    const char *const lines[] = {header, NULL};
    int n = snprintf(body, sizeof(body), "{\"error\":\"%s\"}", why);
    snprintf(header, sizeof(header), "Retry-After: %u", (unsigned)retry_after);
    in->host->counter_add(in->conf->posted[outcome], 1);
    if (retry_after > 0)
        in->host->respond_with(ex, status, "application/json", lines, body, (size_t)n);
    else
        in->host->respond(ex, status, "application/json", body, (size_t)n);
}

static void refuse_for(struct instance *in, struct omid_exchange **ex, int result)
{
    if (result == OMID_EFULL)
        refuse(in, ex, POSTED_FULL, 429, in->host->jobs_retry_after(in->inst), "the queue is full, try again later");
    else if (result == OMID_ECLOSED)
        refuse(in, ex, POSTED_FAILED, 503, 1, "the daemon is shutting down");
    else
        refuse(in, ex, POSTED_FAILED, 503, DISK_RETRY_S, "the event could not be kept, try again later");
}

static void accept(struct instance *in, struct omid_exchange **ex, enum posted_outcome outcome, const char *answer)
{
    in->host->counter_add(in->conf->posted[outcome], 1);
    in->host->respond(ex, 202, "application/json", answer, strlen(answer));
}

/* For the other plugins, as far as the bus has room. */
static void publish(struct posted *p)
{
    struct instance *in = p->in;
    const struct omid_event ev = {.size = sizeof(ev),
                                  .type = OMID_EVENT_CUSTOM,
                                  .uid = p->uid,
                                  .name = p->type,
                                  .json = p->payload.data + p->head,
                                  .json_len = p->payload.len - p->head,
                                  .time_ms = in->host->wall_ms(),
                                  .id = p->id};
    (void)in->host->publish(in->inst, &ev);
}

static void on_enqueued(void *arg, enum omid_result result, bool repeated, const char *value)
{
    struct posted *p = arg;
    struct instance *in = p->in;
    if (result != OMID_OK) {
        refuse_for(in, &p->ex, result);
    } else if (repeated) {
        accept(in, &p->ex, POSTED_REPEATED, value);
    } else {
        accept(in, &p->ex, p->endpoints > 0 ? POSTED_ACCEPTED : POSTED_UNWANTED, p->answer);
        publish(p);
    }
    posted_free(p);
    instance_check_drained(in);
}

/* ------------------------------------------------------------ requests */

static const char *header_of(const struct omid_request *req, const char *name)
{
    for (size_t i = 0; i < req->n_headers; i++) {
        if (strcmp(req->headers[i].name, name) == 0)
            return req->headers[i].value;
    }
    return NULL;
}

/* NULL: it is usable, or absent. */
static const char *key_fault(const char *key)
{
    if (key == NULL)
        return NULL;
    size_t len = strlen(key);
    if (len == 0 || len > MAX_KEY)
        return "Idempotency-Key: expected 1 to 255 characters";
    return NULL;
}

static struct posted *posted_new(struct instance *in, const struct omid_request *req, const char *type)
{
    struct posted *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return NULL;
    in->host->uuid4(p->id);
    memcpy(p->type, type, strlen(type) + 1);
    memcpy(p->uid, req->uid, strlen(req->uid) + 1);
    const struct payload_head head = {.uid = p->uid, .id = p->id, .event = p->type};
    if (!payload_write(&p->payload, &head, req->body, req->body_len) || p->payload.failed) {
        free(p->payload.data);
        free(p);
        return NULL;
    }
    p->in = in;
    p->head = p->payload.len - req->body_len;
    p->next = in->posted;
    if (in->posted != NULL)
        in->posted->prev = p;
    in->posted = p;
    in->n_posted++;
    in->posted_bytes += p->payload.len;
    return p;
}

/* On its way to disk. The exchange is released, now or later. */
static void enqueue(struct instance *in, struct posted *p, struct omid_exchange *ex, struct omid_job *jobs, size_t n,
                    const char *key)
{
    char receipt_key[WEBHOOKS_UID_MAX + MAX_KEY + 2];
    const struct omid_receipt receipt = {.key = receipt_key, .value = p->answer};
    p->ex = ex;
    p->endpoints = n;
    snprintf(p->answer, sizeof(p->answer), "{\"id\":\"%s\",\"endpoints\":%zu}", p->id, n);
    for (size_t i = 0; i < n; i++) {
        jobs[i].payload = p->payload.data;
        jobs[i].payload_len = p->payload.len;
    }
    if (key != NULL)
        snprintf(receipt_key, sizeof(receipt_key), "%s\n%s", p->uid, key);
    if (n == 0 && key == NULL) { /* for no one: nothing to keep */
        accept(in, &p->ex, POSTED_UNWANTED, p->answer);
        publish(p);
        posted_free(p);
        return;
    }
    int rc = in->host->jobs_enqueue(in->inst, jobs, n, key != NULL ? &receipt : NULL, on_enqueued, p);
    if (rc != OMID_OK) {
        refuse_for(in, &p->ex, rc);
        posted_free(p);
    }
}

static int take(struct instance *in, struct omid_exchange *ex, const struct omid_request *req, const char *type,
                const char *key)
{
    struct posted *p = posted_new(in, req, type);
    const struct omid_endpoints *set = p != NULL ? endpoints_get(in, req->uid) : NULL;
    const size_t most = set != NULL ? set->n : 0;
    struct omid_job few[FEW];
    struct omid_job *jobs = most <= FEW ? few : malloc(most * sizeof(*jobs));
    bool memory = p != NULL && jobs != NULL && (set != NULL || in->host->endpoints == NULL);
    if (memory) {
        size_t n = durable_event_jobs(in, set, type, req->body, req->body_len, jobs);
        enqueue(in, p, ex, jobs, n, key);
    } else {
        refuse_for(in, &ex, OMID_ERR);
        if (p != NULL)
            posted_free(p);
    }
    endpoints_put(in, &set);
    if (jobs != few)
        free(jobs);
    return OMID_OK;
}

static int events_request(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct instance *in = state;
    wh_assert(in->magic == WEBHOOKS_INSTANCE_MAGIC);
    const char *type = req->params != NULL && req->params[0] != NULL ? req->params[0] : "";
    const char *key = header_of(req, "idempotency-key");
    const char *fault = key_fault(key);
    if (!event_type_ok(type))
        fault = "type: expected 1 to 128 of a-z, A-Z, 0-9, _ . and -";
    else if (req->uid == NULL || strlen(req->uid) >= WEBHOOKS_UID_MAX)
        fault = "the token has no usable uid";
    if (req->body_len > WEBHOOKS_EVENT_MAX)
        refuse(in, &ex, POSTED_LARGE, 413, 0, "the event is larger than 1 MiB");
    else if (fault != NULL || (fault = json_fault(req->body, req->body_len)) != NULL)
        refuse(in, &ex, POSTED_BAD, 400, 0, fault);
    else if (in->n_posted >= MAX_POSTED || in->posted_bytes > MAX_POSTED_BYTES)
        refuse_for(in, &ex, OMID_EFULL);
    else
        return take(in, ex, req, type, key);
    return OMID_OK;
}

const struct omid_route events_route = {.size = sizeof(struct omid_route),
                                        .path = "/v1/events/{type}",
                                        .method = "POST",
                                        .auth = OMID_AUTH_TOKEN,
                                        .request = events_request};
