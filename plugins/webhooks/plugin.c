/* webhooks: the plugin's table and its life. See omid-webhooks(5). */
#include <stdio.h>
#include <stdlib.h>

#include "webhooks.h"

static struct instance *instance_check(void *state)
{
    struct instance *in = state;
    wh_assert(in != NULL && in->magic == WEBHOOKS_INSTANCE_MAGIC);
    return in;
}

void instance_check_drained(struct instance *in)
{
    if (!in->draining || in->n_deliveries > 0 || in->n_enqueues > 0)
        return;
    in->draining = false; /* told once */
    in->host->drained(in->inst);
}

static int webhooks_start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    struct instance *in = calloc(1, sizeof(*in));
    if (in == NULL)
        return OMID_ERR;
    in->magic = WEBHOOKS_INSTANCE_MAGIC;
    in->inst = inst;
    in->host = host;
    in->mod = host->module(inst);
    in->conf = shared;
    if (in->conf->n_keys > 0 && (in->signer = signer_new(in->conf->key, in->conf->n_keys)) == NULL) {
        in->host->log(in->mod, OMID_LOG_ERROR, "deliveries can't be signed: no memory, or OpenSSL has no HMAC");
        free(in);
        return OMID_ERR;
    }
    *state = in;
    return OMID_OK;
}

/* The event's session. NULL: nobody wants its events, or a bound is reached. */
static struct session *session_of(struct instance *in, const struct omid_event *ev, enum hook_type type)
{
    if (in->conf->n[type] == 0 || ev->uid == NULL || ev->session_id == NULL)
        return NULL;
    struct session *s = session_get(in, ev->uid, ev->session_id);
    if (s == NULL) {
        deliver_count(in, type, OUTCOME_DROPPED);
        in->host->log(in->mod, OMID_LOG_WARNING, "an event is dropped: max_sessions is reached, or memory is short");
    }
    return s;
}

static int webhooks_event(void *state, const struct omid_event *ev)
{
    struct instance *in = instance_check(state);
    struct session *s;
    switch (ev->type) {
    case OMID_EVENT_AUDIO:
        if ((s = session_of(in, ev, HOOK_AUDIO)) != NULL)
            audio_event(s, ev);
        return OMID_OK;
    case OMID_EVENT_SEGMENTS:
        if ((s = session_of(in, ev, HOOK_TRANSCRIPT)) != NULL)
            transcript_event(s, ev);
        return OMID_OK;
    case OMID_EVENT_SEGMENTS_DELETED:
        if (ev->session_id != NULL && (s = session_find(in, ev->session_id)) != NULL)
            transcript_deleted(s, ev);
        return OMID_OK;
    case OMID_EVENT_SESSION_END:
        if (ev->session_id != NULL && (s = session_find(in, ev->session_id)) != NULL)
            session_end(s);
        return OMID_OK;
    case OMID_EVENT_CONVERSATION_CREATED:
        if (ev->uid == NULL || ev->conversation_id == NULL || ev->json == NULL)
            return OMID_EINVAL;
        return durable_event(in, ev);
    default:
        return OMID_OK;
    }
}

static int webhooks_job(void *state, const struct omid_job_view *job, struct omid_job_run *run)
{
    return durable_job(instance_check(state), job, run);
}

static void webhooks_drain(void *state)
{
    struct instance *in = instance_check(state);
    in->draining = true;
    instance_check_drained(in);
}

static void webhooks_stop(void *state)
{
    struct instance *in = instance_check(state);
    in->draining = false;
    deliveries_cancel(in);
    sessions_free(in);
    durable_clear(in);
    signer_free(&in->signer);
    in->magic = 0;
    free(in);
}

_Noreturn void webhooks_assert_failed(const char *expr, const char *file, int line)
{
    fprintf(stderr, "omid: webhooks: assertion %s failed at %s:%d\n", expr, file, line);
    abort();
}

static const struct omid_lane_defaults lane = {.pool = 64,
                                               .idle = 16,
                                               .semaphore = 64,
                                               .connect_timeout_ms = 2000,
                                               .timeout_ms = 30000,
                                               .breaker_failures = 5,
                                               .breaker_open_ms = 30000};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .flags = OMID_PLUGIN_USER_URLS,
    .name = "webhooks",
    .version = "1.0",
    .summary = "segments, audio and conversations to URLs of the configuration",
    .options = webhooks_options,
    .lane = &lane,
    .events = OMID_EVENT_MASK(OMID_EVENT_SESSION_END) | OMID_EVENT_MASK(OMID_EVENT_AUDIO) |
              OMID_EVENT_MASK(OMID_EVENT_SEGMENTS) | OMID_EVENT_MASK(OMID_EVENT_SEGMENTS_DELETED) |
              OMID_EVENT_MASK(OMID_EVENT_CONVERSATION_CREATED),
    .configure = webhooks_configure,
    .unconfigure = webhooks_unconfigure,
    .start = webhooks_start,
    .event = webhooks_event,
    .job = webhooks_job,
    .drain = webhooks_drain,
    .stop = webhooks_stop,
};
