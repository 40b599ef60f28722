/*
 * ghost - a plugin whose partners hang, for the benchmark `ghosts`: an upload at the beginning of each session and one
 * at its end, to a peer that never answers, and at its end a job that holds an executor's thread for a while. What the
 * lane or the executor has no room for is counted and forgotten.
 */
#include <omid/plugin.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BODY_BYTES 32768u

static const struct omid_option options[] = {
    {.name = "url", .type = OMID_OPT_STRING, .flags = OMID_OPT_REQUIRED, .min = 1, .max = 256, .help = "The peer."},
    {.name = "hold",
     .type = OMID_OPT_DURATION,
     .def = "1s",
     .min = 1,
     .max = 60000,
     .help = "How long a job holds its thread."},
    {.name = NULL}};

struct shared {
    const char *url;
    uint32_t hold_ms;
    struct omid_counter *uploads, *jobs, *refused;
};

struct ghost {
    struct omid_instance *inst;
    const struct omid_host *host;
    const struct shared *shared;
    char body[BODY_BYTES];
};

struct job {
    uint32_t hold_ms;
};

static void job_run(void *arg)
{
    const struct job *j = arg;
    struct timespec left = {.tv_sec = j->hold_ms / 1000, .tv_nsec = (long)(j->hold_ms % 1000) * 1000000};
    while (nanosleep(&left, &left) != 0) {
    }
}

static void job_done(void *arg, bool ran)
{
    (void)ran;
    free(arg);
}

static void on_answer(void *arg, const struct omid_http_response *res)
{
    (void)arg;
    (void)res;
}

static void upload(struct ghost *g)
{
    static const char *const headers[] = {"Content-Type: application/octet-stream", NULL};
    const struct omid_http_request req = {.size = sizeof req,
                                          .method = "POST",
                                          .url = g->shared->url,
                                          .headers = headers,
                                          .body = g->body,
                                          .body_len = sizeof g->body};
    bool ok = g->host->http_start(g->inst, &req, on_answer, g, NULL) == OMID_OK;
    g->host->counter_add(ok ? g->shared->uploads : g->shared->refused, 1);
}

static void hold(struct ghost *g)
{
    struct job *j = malloc(sizeof *j);
    if (j == NULL)
        return;
    j->hold_ms = g->shared->hold_ms;
    const struct omid_work work = {sizeof work, OMID_POOL_BLOCKING, "hold", job_run, job_done, j};
    bool ok = g->host->exec_submit(g->inst, &work) == OMID_OK;
    g->host->counter_add(ok ? g->shared->jobs : g->shared->refused, 1);
    if (!ok)
        free(j);
}

static int event(void *state, const struct omid_event *ev)
{
    struct ghost *g = state;
    upload(g);
    if (ev->type == OMID_EVENT_SESSION_END)
        hold(g);
    return OMID_OK;
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    struct shared *s = calloc(1, sizeof *s);
    if (s == NULL)
        return OMID_ERR;
    s->url = host->conf_str(mod, "url");
    s->hold_ms = (uint32_t)host->conf_int(mod, "hold");
    s->uploads = host->counter(mod, "uploads", "Uploads begun.", NULL, NULL);
    s->jobs = host->counter(mod, "jobs", "Jobs begun.", NULL, NULL);
    s->refused = host->counter(mod, "refused", "Uploads and jobs for which there was no room.", NULL, NULL);
    *shared = s;
    return OMID_OK;
}

static void unconfigure(void *shared)
{
    free(shared);
}

static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    struct ghost *g = calloc(1, sizeof *g);
    if (g == NULL)
        return OMID_ERR;
    g->inst = inst;
    g->host = host;
    g->shared = shared;
    memset(g->body, 'x', sizeof g->body);
    *state = g;
    return OMID_OK;
}

static void stop(void *state)
{
    free(state);
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .name = "ghost",
    .version = "1.0",
    .summary = "Uploads and jobs that hang, for the benchmarks",
    .options = options,
    .flags = OMID_PLUGIN_BLOCKS_ON_EXECUTORS,
    .events = OMID_EVENT_MASK(OMID_EVENT_SESSION_START) | OMID_EVENT_MASK(OMID_EVENT_SESSION_END),
    .configure = configure,
    .unconfigure = unconfigure,
    .event = event,
    .start = start,
    .stop = stop,
};
