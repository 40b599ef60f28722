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
    if (!in->draining || in->n_deliveries > 0 || in->n_enqueues > 0 || in->n_posted > 0 || in->n_asking > 0)
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
    if (!endpoints_start(in)) {
        in->host->log(in->mod, OMID_LOG_ERROR, "no memory for the endpoints, or OpenSSL has no HMAC to sign with");
        endpoints_stop(in);
        free(in);
        return OMID_ERR;
    }
    *state = in;
    return OMID_OK;
}

static int webhooks_event(void *state, const struct omid_event *ev)
{
    struct instance *in = instance_check(state);
    struct session *s;
    switch (ev->type) {
    case OMID_EVENT_AUDIO:
        if ((s = session_for(in, ev, OMID_TRIGGER_AUDIO)) != NULL)
            audio_event(s, ev);
        return OMID_OK;
    case OMID_EVENT_SEGMENTS:
        if ((s = session_for(in, ev, OMID_TRIGGER_TRANSCRIPT)) != NULL)
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
        return durable_conversation(in, ev);
    case OMID_EVENT_CUSTOM:
        /* With an id, somebody has seen to its deliveries. */
        return ev->id == NULL ? durable_custom(in, ev) : OMID_OK;
    default:
        return OMID_OK;
    }
}

static int on_job(void *state, const struct omid_job_view *job, struct omid_job_run *run)
{
    return webhooks_job(instance_check(state), job, run);
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
    events_clear(in);
    hooks_clear(in);
    endpoints_stop(in);
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
    .summary = "segments, audio, conversations and events to the places that want them",
    .options = webhooks_options,
    .lane = &lane,
    .events = OMID_EVENT_MASK(OMID_EVENT_SESSION_END) | OMID_EVENT_MASK(OMID_EVENT_AUDIO) |
              OMID_EVENT_MASK(OMID_EVENT_SEGMENTS) | OMID_EVENT_MASK(OMID_EVENT_SEGMENTS_DELETED) |
              OMID_EVENT_MASK(OMID_EVENT_CONVERSATION_CREATED) | OMID_EVENT_MASK(OMID_EVENT_CUSTOM),
    .configure = webhooks_configure,
    .unconfigure = webhooks_unconfigure,
    .start = webhooks_start,
    .event = webhooks_event,
    .job = on_job,
    .drain = webhooks_drain,
    .stop = webhooks_stop,
    .hooks = &hooks_role,
};
