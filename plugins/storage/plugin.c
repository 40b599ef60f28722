/* storage: the plugin's table and its life. See storage.h and omid-storage(5). */
#include <string.h>

#include "storage.h"

#define TICK_MAX_MS 1000

void instance_check_drained(struct instance *in)
{
    if (!in->draining || in->stopping || in->n_tracks > 0 || in->n_enqueues > 0 || in->n_works > 0 || in->n_reads > 0)
        return;
    in->host->drained(in->inst); /* told once: the host ignores more */
}

static void tick(void *arg)
{
    struct instance *in = arg;
    live_tick(in);
    enqueue_tick(in);
    store_tick(in);
    keep_tick(in);
    recover_tick(in);
}

static int storage_start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    struct instance *in = calloc(1, sizeof(*in));
    if (in == NULL)
        return OMID_ERR;
    in->inst = inst;
    in->host = host;
    in->mod = host->module(inst);
    in->sh = shared;
    uint32_t every = in->sh->append_ms / 2 < TICK_MAX_MS ? in->sh->append_ms / 2 : TICK_MAX_MS;
    in->tick = host->timer_start(inst, every, every, tick, in);
    bool first = host->reactor(inst, NULL) == 0;
    if (in->tick == NULL || (first && (!keep_start(in) || !recover_start(in)))) {
        if (in->tick != NULL)
            host->timer_stop(&in->tick);
        keep_stop(in);
        free(in);
        return OMID_ERR;
    }
    *state = in;
    return OMID_OK;
}

static int storage_event(void *state, const struct omid_event *ev)
{
    struct instance *in = state;
    switch (ev->type) {
    case OMID_EVENT_AUDIO:
        return live_audio(in, ev);
    case OMID_EVENT_CONVERSATION_START:
        if (ev->session_id != NULL && conv_ok(ev->conversation_id))
            live_conversation_start(in, ev->session_id, ev->conversation_id);
        return OMID_OK;
    case OMID_EVENT_SESSION_END:
        if (ev->session_id != NULL)
            live_session_end(in, ev->session_id);
        return OMID_OK;
    case OMID_EVENT_CONVERSATION_CREATED:
        if (ev->conversation_id != NULL)
            live_conversation_end(in, ev->conversation_id);
        return OMID_OK;
    case OMID_EVENT_CONVERSATION_DELETED: {
        char uid[UID_NAME_MAX];
        if (!conv_ok(ev->conversation_id) || !uid_name(uid, ev->uid))
            return OMID_EINVAL;
        live_conversation_end(in, ev->conversation_id);
        return enqueue_delete(in, uid, ev->conversation_id, INT64_MAX) ? OMID_OK : OMID_ERR;
    }
    default:
        return OMID_OK;
    }
}

static int storage_job(void *state, const struct omid_job_view *job, struct omid_job_run *run)
{
    struct instance *in = state;
    if (strcmp(job->type, JOB_STORE) == 0)
        return store_job(in, job, run);
    if (strcmp(job->type, JOB_DELETE) == 0)
        return remove_job(in, job, run);
    in->host->job_finish(&run, OMID_JOB_DEAD, 0, "an unknown type of job");
    return OMID_OK;
}

static void storage_drain(void *state)
{
    struct instance *in = state;
    in->draining = true;
    live_drain(in);
    instance_check_drained(in);
}

static void storage_stop(void *state)
{
    struct instance *in = state;
    in->stopping = in->draining = true;
    in->host->timer_stop(&in->tick);
    keep_stop(in);
    serve_stop(in);
    role_stop(in);
    store_stop(in);
    remove_stop(in);
    enqueue_stop(in);
    live_stop(in);
    recover_stop(in);
    free(in);
}

static const struct omid_lane_defaults lane = {.pool = 32,
                                               .idle = 8,
                                               .semaphore = 32,
                                               .connect_timeout_ms = 5000,
                                               .timeout_ms = 45000,
                                               .breaker_failures = 5,
                                               .breaker_open_ms = 15000};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .flags = OMID_PLUGIN_BLOCKS_ON_EXECUTORS,
    .name = "storage",
    .version = "1.0",
    .summary = "recordings of conversations in a directory or a bucket",
    .options = storage_options,
    .lane = &lane,
    .events = OMID_EVENT_MASK(OMID_EVENT_AUDIO) | OMID_EVENT_MASK(OMID_EVENT_CONVERSATION_START) |
              OMID_EVENT_MASK(OMID_EVENT_SESSION_END) | OMID_EVENT_MASK(OMID_EVENT_CONVERSATION_CREATED) |
              OMID_EVENT_MASK(OMID_EVENT_CONVERSATION_DELETED),
    .configure = storage_configure,
    .unconfigure = storage_unconfigure,
    .start = storage_start,
    .event = storage_event,
    .job = storage_job,
    .drain = storage_drain,
    .stop = storage_stop,
    .audio_store = &storage_role,
};
