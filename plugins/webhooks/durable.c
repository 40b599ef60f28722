/*
 * From events on the bus to jobs of the durable queue: one per endpoint, named, so that an event that is repeated after
 * a crash is delivered once. The jobs of one event go to disk together; what the queue does not take is offered again.
 *
 * A job's target is the endpoint's id (of omi.conf's, the URL), so that one endpoint's jobs delay no other's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "durable.h"

#define DAY_SUMMARY "omid.day_summary" /* an event of the daemon, not for subscribers */
#define DISABLED "endpoint.disabled"   /* one that may be told again after a crash */
#define MAX_ENQUEUES 256               /* events on their way to the disk, or waiting for room in the queue */
#define ENQUEUE_RETRY_MS 5000

const char *const webhooks_job_types[OMID_TRIGGERS] = {[OMID_TRIGGER_TRANSCRIPT] = "",
                                                       [OMID_TRIGGER_AUDIO] = "",
                                                       [OMID_TRIGGER_MEMORY] = "memory_created",
                                                       [OMID_TRIGGER_DAY_SUMMARY] = "day_summary",
                                                       [OMID_TRIGGER_EVENT] = "event"};

/* An event whose jobs are not on disk yet. */
struct enqueue {
    struct instance *in;
    struct enqueue *next;
    enum omid_trigger trigger;
    const struct omid_endpoints *set; /* held: targets point into it */
    char *what;                       /* for names and logs: "memory_created:<id>" */
    struct text payload[2];           /* as it is; for the registry's webhooks and omi.conf's, where that differs */
    bool submitted;                   /* the queue will call back */
    size_t n;
    struct omid_job *job;
    char **name; /* ends with NULL; of some events none */
};

static void enqueue_free(struct enqueue *e)
{
    struct enqueue **at = &e->in->enqueues;
    while (*at != NULL && *at != e)
        at = &(*at)->next;
    if (*at == e) {
        *at = e->next;
        e->in->n_enqueues--;
    }
    for (size_t i = 0; e->name != NULL && e->name[i] != NULL; i++)
        free(e->name[i]);
    endpoints_put(e->in, &e->set);
    free(e->name);
    free(e->job);
    free(e->payload[0].data);
    free(e->payload[1].data);
    free(e->what);
    free(e);
}

static void retry_tick(void *arg);

static void retry_later(struct instance *in)
{
    if (in->retry == NULL)
        in->retry = in->host->timer_start(in->inst, ENQUEUE_RETRY_MS, 0, retry_tick, in);
}

static void lost(struct instance *in, enum omid_trigger trigger, size_t n, const char *what, const char *why)
{
    for (size_t i = 0; i < n; i++)
        deliver_count(in, trigger, OUTCOME_DROPPED);
    in->host->log(in->mod, OMID_LOG_ERROR, "%s for %zu endpoints is lost: %s", what, n, why);
}

static void on_enqueued(void *arg, enum omid_result result, bool repeated, const char *value)
{
    (void)repeated;
    (void)value;
    struct enqueue *e = arg;
    struct instance *in = e->in;
    e->submitted = false;
    if (result == OMID_OK) {
        enqueue_free(e);
        instance_check_drained(in);
        return;
    }
    in->host->log(in->mod, OMID_LOG_ERROR, "%s is not on disk (%s), tried again in %d s", e->what,
                  result == OMID_EFULL ? "the queue is full" : "the queue's disk fails", ENQUEUE_RETRY_MS / 1000);
    retry_later(in);
}

/* May free it. */
static void enqueue_submit(struct enqueue *e)
{
    struct instance *in = e->in;
    int rc = in->host->jobs_enqueue(in->inst, e->job, e->n, NULL, on_enqueued, e);
    e->submitted = rc == OMID_OK;
    if (rc == OMID_EINVAL || rc == OMID_ENOTSUP) {
        lost(in, e->trigger, e->n, e->what, "the queue does not take such jobs");
        enqueue_free(e);
    } else if (!e->submitted) {
        retry_later(in);
    }
}

static void retry_tick(void *arg)
{
    struct instance *in = arg;
    in->host->timer_stop(&in->retry);
    for (struct enqueue *e = in->enqueues, *next; e != NULL; e = next) {
        next = e->next;
        if (!e->submitted)
            enqueue_submit(e);
    }
}

void durable_clear(struct instance *in)
{
    while (in->enqueues != NULL) {
        struct enqueue *e = in->enqueues;
        if (!e->submitted)
            lost(in, e->trigger, e->n, e->what, "it never got to the disk");
        enqueue_free(e);
    }
    if (in->retry != NULL)
        in->host->timer_stop(&in->retry);
}

/* ------------------------------------------------------------ jobs of an event */

/* Room for jobs to all of the uid's endpoints and omi.conf's. Takes the set, also on failure. what may be NULL. */
static struct enqueue *enqueue_new(struct instance *in, enum omid_trigger trigger, const struct omid_endpoints *set,
                                   char *what)
{
    struct enqueue *e = calloc(1, sizeof(*e));
    if (e == NULL) {
        endpoints_put(in, &set);
        free(what);
        return NULL;
    }
    const size_t most = in->conf->n[OMID_TRIGGER_MEMORY] + (set != NULL ? set->n : 0);
    e->in = in;
    e->trigger = trigger;
    e->set = set;
    e->what = what;
    e->job = calloc(most + 1, sizeof(*e->job));
    e->name = calloc(most + 1, sizeof(*e->name));
    if (e->what == NULL || e->job == NULL || e->name == NULL)
        enqueue_free(e), e = NULL;
    return e;
}

static char *joined(const char *a, const char *b, const char *c)
{
    struct text t = {0};
    text_adds(&t, a);
    text_adds(&t, ":");
    text_adds(&t, b);
    if (c != NULL) {
        text_adds(&t, ":");
        text_adds(&t, c);
    }
    return t.data;
}

static bool add_job(struct enqueue *e, const struct text *payload, const char *target, const char *key)
{
    char *name = joined(e->what, key, NULL);
    if (name == NULL)
        return false;
    e->name[e->n] = name;
    e->job[e->n++] = (struct omid_job){.size = sizeof(struct omid_job),
                                       .type = webhooks_job_types[e->trigger],
                                       .name = name,
                                       .target = target,
                                       .payload = payload->data,
                                       .payload_len = payload->len,
                                       .dead_if_full = true};
    return true;
}

static bool add_registered(struct enqueue *e, const struct text *payload, const struct omid_endpoint *to)
{
    if (!add_job(e, payload, to->id, to->id))
        return false;
    e->job[e->n - 1].ordered = to->ordered;
    e->job[e->n - 1].rate_per_min = to->rate_per_min;
    return true;
}

/* NULL: it is there. Else why not. */
static const char *payload_make(struct text *t, const struct payload_head *head, const char *body, size_t len)
{
    if (len > WEBHOOKS_BODY_MAX)
        return "it is larger than 32 MiB";
    if (!payload_write(t, head, body, len))
        return "its uid or id is too long";
    return t->failed ? "out of memory" : NULL;
}

/* The end of it: submitted, or nothing to do. */
static int enqueue_finish(struct enqueue *e, const char *why, size_t without)
{
    struct instance *in = e->in;
    if (why == NULL && e->n > 0 && in->n_enqueues >= MAX_ENQUEUES) {
        why = "too many wait for the queue";
        without = e->n;
        e->n = 0;
    }
    if (why != NULL)
        lost(in, e->trigger, without, e->what, why);
    if (e->n == 0) {
        enqueue_free(e);
        return why == NULL ? OMID_OK : OMID_ERR;
    }
    e->next = in->enqueues;
    in->enqueues = e;
    in->n_enqueues++;
    enqueue_submit(e);
    return why == NULL ? OMID_OK : OMID_ERR;
}

/* ------------------------------------------------------------ conversations */

/* Payloads are made for whom there is somebody. */
static const char *conversation_payload(struct enqueue *e, const struct omid_event *ev, bool app)
{
    const struct payload_head head = {.uid = ev->uid, .conversation = ev->conversation_id};
    struct text *t = &e->payload[app ? 0 : 1];
    if (t->data != NULL)
        return NULL;
    if (app)
        return payload_make(t, &head, ev->json, ev->json_len);
    struct text named = {0};
    memory_with_names(&named, ev->json, ev->json_len, ev->people);
    const char *why = named.failed ? "out of memory" : payload_make(t, &head, named.data, named.len);
    free(named.data);
    return why;
}

int durable_conversation(struct instance *in, const struct omid_event *ev)
{
    const enum omid_trigger trigger = OMID_TRIGGER_MEMORY;
    char revision[16] = "";
    if (ev->revision > 0) /* what has joined it since is news, under a webhook-id of its own */
        snprintf(revision, sizeof(revision), "%u", (unsigned)ev->revision);
    struct enqueue *e =
        enqueue_new(in, trigger, endpoints_get(in, ev->uid),
                    joined(webhooks_job_types[trigger], ev->conversation_id, revision[0] != '\0' ? revision : NULL));
    const char *why = NULL, *one;
    size_t without = 0;
    if (e == NULL) {
        lost(in, trigger, 1, ev->conversation_id, "out of memory");
        return OMID_ERR;
    }
    for (size_t i = 0; i < in->conf->n[trigger]; i++) {
        one = conversation_payload(e, ev, false);
        const struct endpoint *own = in->own[trigger][i];
        if (one == NULL && !add_job(e, &e->payload[1], own->target, own->id))
            one = "out of memory";
        why = one != NULL ? one : why;
        without += one != NULL;
    }
    /* Those that get the same one after the other: the queue keeps one copy for neighbours. */
    for (int apps = 0; e->set != NULL && apps < 2; apps++) {
        for (size_t i = 0; i < e->set->n; i++) {
            const struct omid_endpoint *to = e->set->endpoint[i];
            if (to->app != (apps == 1) || !endpoint_has(to, trigger))
                continue;
            one = conversation_payload(e, ev, to->app);
            if (one == NULL && !add_registered(e, &e->payload[to->app ? 0 : 1], to))
                one = "out of memory";
            why = one != NULL ? one : why;
            without += one != NULL;
        }
    }
    return enqueue_finish(e, why, without);
}

/* ------------------------------------------------------------ custom events, summaries of days */

size_t durable_event_jobs(struct instance *in, const struct omid_endpoints *set, const char *type, const char *json,
                          size_t len, struct omid_job *jobs)
{
    size_t n = 0;
    for (size_t i = 0; set != NULL && i < set->n; i++) {
        const struct omid_endpoint *to = set->endpoint[i];
        if (!endpoint_has(to, OMID_TRIGGER_EVENT) || !event_wanted(to->events, type))
            continue;
        if (to->filter != NULL && to->filter[0] != '\0') {
            struct endpoint *e = endpoint_of(in, to);
            bool wanted = e != NULL && filter_matches(e->filter, json, len);
            endpoint_unref(&e);
            if (!wanted)
                continue;
        }
        jobs[n++] = (struct omid_job){.size = sizeof(struct omid_job),
                                      .type = webhooks_job_types[OMID_TRIGGER_EVENT],
                                      .target = to->id,
                                      .ordered = to->ordered,
                                      .rate_per_min = to->rate_per_min};
    }
    return n;
}

static int unreadable(struct instance *in, const struct omid_event *ev, const char *why)
{
    in->host->counter_add(in->conf->bad_events, 1);
    in->host->log(in->mod, OMID_LOG_WARNING, "an event %s can't be delivered: %s", ev->name, why);
    return OMID_EINVAL;
}

static int day_summary(struct instance *in, const struct omid_event *ev)
{
    const enum omid_trigger trigger = OMID_TRIGGER_DAY_SUMMARY;
    const struct payload_head head = {.uid = ev->uid};
    struct json_span created;
    struct text body = {0};
    char day[64];
    if (!day_summary_body(&body, ev->json, ev->json_len) ||
        !json_find(ev->json, ev->json_len, "created_at", &created) || !json_decode(&created, day, sizeof(day))) {
        free(body.data);
        return unreadable(in, ev, "expected uid, created_at and summary_json");
    }
    struct enqueue *e =
        enqueue_new(in, trigger, endpoints_get(in, ev->uid), joined(webhooks_job_types[trigger], ev->uid, day));
    const char *why = NULL;
    size_t without = 0;
    for (size_t i = 0; e != NULL && e->set != NULL && i < e->set->n; i++) {
        const struct omid_endpoint *to = e->set->endpoint[i];
        if (!endpoint_has(to, trigger))
            continue;
        const char *one = e->payload[0].data == NULL ? payload_make(&e->payload[0], &head, body.data, body.len) : NULL;
        if (body.failed || (one == NULL && !add_registered(e, &e->payload[0], to)))
            one = "out of memory";
        why = one != NULL ? one : why;
        without += one != NULL;
    }
    free(body.data);
    if (e != NULL)
        return enqueue_finish(e, why, without);
    lost(in, trigger, 1, "a summary of a day", "out of memory");
    return OMID_ERR;
}

/* What tells one disabling of an endpoint from all others. */
static bool disabled_name(const struct omid_event *ev, char *out, size_t size)
{
    struct json_span id, at;
    char text[2][80];
    if (!json_find(ev->json, ev->json_len, "id", &id) || !json_decode(&id, text[0], sizeof(text[0])) ||
        !json_find(ev->json, ev->json_len, "at", &at) || !json_decode(&at, text[1], sizeof(text[1])))
        return false;
    return (size_t)snprintf(out, size, "%s:%s", text[0], text[1]) < size;
}

int durable_custom(struct instance *in, const struct omid_event *ev)
{
    const enum omid_trigger trigger = OMID_TRIGGER_EVENT;
    char id[37];
    if (ev->uid == NULL || ev->name == NULL || ev->json == NULL)
        return OMID_EINVAL;
    const char *fault = json_fault(ev->json, ev->json_len);
    if (fault != NULL)
        return unreadable(in, ev, fault);
    if (strcmp(ev->name, DAY_SUMMARY) == 0)
        return day_summary(in, ev);
    const struct omid_endpoints *set = endpoints_get(in, ev->uid);
    if (set == NULL || set->n == 0) {
        endpoints_put(in, &set);
        return OMID_OK;
    }
    char once[160] = "";
    in->host->uuid4(id);
    bool named = strcmp(ev->name, DISABLED) == 0 && disabled_name(ev, once, sizeof(once));
    /* Without an id its deliveries' are made of their names. */
    const struct payload_head head = {.uid = ev->uid, .id = named ? NULL : id, .event = ev->name};
    struct enqueue *e = enqueue_new(in, trigger, set, joined(webhooks_job_types[trigger], ev->name, named ? once : id));
    if (e == NULL) {
        lost(in, trigger, 1, ev->name, "out of memory");
        return OMID_ERR;
    }
    const char *why = NULL;
    size_t without = 0;
    e->n = durable_event_jobs(in, e->set, ev->name, ev->json, ev->json_len, e->job);
    if (e->n > 0)
        why = payload_make(&e->payload[0], &head, ev->json, ev->json_len);
    if (why != NULL) {
        without = e->n;
        e->n = 0;
    }
    for (size_t i = 0; i < e->n; i++) {
        if (named && (e->name[i] = joined(e->what, e->job[i].target, NULL)) == NULL) {
            why = "out of memory";
            without = e->n - i;
            e->n = i;
            break;
        }
        e->job[i].name = e->name[i];
        e->job[i].payload = e->payload[0].data;
        e->job[i].payload_len = e->payload[0].len;
        e->job[i].dead_if_full = true;
    }
    return enqueue_finish(e, why, without);
}
