/* Leaves a timer, a request, a WebSocket, an enqueue and running work behind at stop(). Any callback after stop()
 * aborts.
 */
#include <unistd.h>

#include "plain.h"

static _Atomic int stopped;

static void check(void)
{
    if (stopped)
        abort();
}

static void tick(void *arg)
{
    (void)arg;
    check();
}

static void on_answer(void *arg, const struct omid_http_response *res)
{
    (void)arg;
    (void)res;
    check();
}

static void on_open(void *arg, struct omid_ws *ws)
{
    (void)arg;
    (void)ws;
    check();
}

static void on_message(void *arg, struct omid_ws *ws, enum omid_message type, const void *data, size_t len)
{
    (void)arg;
    (void)ws;
    (void)type;
    (void)data;
    (void)len;
    check();
}

static void on_closed(void *arg, struct omid_ws *ws, const struct omid_ws_close *why)
{
    (void)arg;
    (void)ws;
    (void)why;
    check();
}

static void on_enqueued(void *arg, enum omid_result result, uint64_t id)
{
    (void)arg;
    (void)result;
    (void)id;
    check();
}

/* Runs until the other end of the pipe is closed. */
static void work_run(void *arg)
{
    char c;
    while (read(*(int *)arg, &c, 1) > 0) {
    }
}

static void work_done(void *arg, bool ran)
{
    (void)arg;
    (void)ran;
    check();
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    static int fd;
    fd = (int)host->conf_int(mod, "until");
    *shared = &fd;
    return OMID_OK;
}

static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    int rc = plain_start(inst, host, shared, state);
    if (rc != OMID_OK)
        return rc;
    (void)host->timer_start(inst, 1, 1, tick, NULL);
    const struct omid_http_request req = {.size = sizeof(req), .method = "GET", .url = "http://127.0.0.1/"};
    (void)host->http_start(inst, &req, on_answer, NULL, NULL);
    const struct omid_ws_request wreq = {.size = sizeof(wreq), .url = "ws://127.0.0.1/"};
    const struct omid_ws_events events = {
        .size = sizeof(events), .open = on_open, .message = on_message, .closed = on_closed};
    static struct omid_ws *ws;
    (void)host->ws_connect(inst, &wreq, &events, NULL, &ws);
    const struct omid_job job = {.size = sizeof(job), .type = "t", .target = "x"};
    (void)host->job_enqueue(inst, &job, on_enqueued, NULL);
    const struct omid_work work = {sizeof(work), OMID_POOL_BLOCKING, "until told", work_run, work_done, shared};
    (void)host->exec_submit(inst, &work);
    return OMID_OK;
}

/* Never finished: the host has to. */
static int job(void *state, const struct omid_job_view *view, struct omid_job_run *run)
{
    (void)state;
    (void)view;
    (void)run;
    return OMID_OK;
}

static void stop(void *state)
{
    free(state);
    stopped = 1;
}

static const struct omid_option options[] = {
    {.name = "until", .type = OMID_OPT_INT, .def = "0", .max = 65535, .help = "A file descriptor."},
    {.name = NULL},
};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,   .name = "bad_leak",     .version = "1.0", .summary = "A plugin for tests",
    .options = options, .configure = configure, .start = start,   .job = job,
    .stop = stop,
};
