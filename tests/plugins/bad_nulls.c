/* Calls every function of the host with nothing, or with nonsense: each must refuse, and say so by what it returns.
 * Then publishes an event "nulls", whose json is what was not refused, or "none". */
#include <stdio.h>
#include <string.h>

#include "plain.h"

static int item_start(void *arg, unsigned index, omid_gather_token token)
{
    (void)arg;
    (void)index;
    (void)token;
    return OMID_OK;
}

static char taken[512];
static struct omid_timer *timer; /* of the one instance that tries */

static void refused(const char *what, int rc)
{
    size_t at = strlen(taken);
    if (rc >= 0)
        snprintf(taken + at, sizeof(taken) - at, " %s=%d", what, rc);
}

static void try_requests(const struct omid_host *h, struct omid_instance *inst)
{
    struct omid_http *http = NULL;
    struct omid_http_request req = {.size = sizeof(req), .method = "GET", .url = "http://127.0.0.1/"};
    const char *const split[] = {"X: a\r\nY: b", NULL};
    refused("http", h->http_start(inst, NULL, plain_answered, NULL, NULL));
    refused("http cb", h->http_start(inst, &req, NULL, NULL, NULL));
    req.size = 1;
    refused("http size", h->http_start(inst, &req, plain_answered, NULL, NULL));
    req = (struct omid_http_request){.size = sizeof(req), .method = "GET"};
    refused("http url", h->http_start(inst, &req, plain_answered, NULL, NULL));
    req = (struct omid_http_request){.size = sizeof(req), .url = "http://127.0.0.1/"};
    refused("http method", h->http_start(inst, &req, plain_answered, NULL, NULL));
    req = (struct omid_http_request){.size = sizeof(req), .url = "http://127.0.0.1/", .method = "PUT", .body_len = 9};
    refused("http body", h->http_start(inst, &req, plain_answered, NULL, NULL));
    req = (struct omid_http_request){.size = sizeof(req), .url = "http://127.0.0.1/", .method = "GET / X"};
    refused("http words", h->http_start(inst, &req, plain_answered, NULL, NULL));
    req =
        (struct omid_http_request){.size = sizeof(req), .url = "http://127.0.0.1/", .method = "GET", .headers = split};
    refused("http header", h->http_start(inst, &req, plain_answered, NULL, NULL));
    h->http_cancel(NULL);
    h->http_cancel(&http);
}

static void try_sockets(const struct omid_host *h, struct omid_instance *inst)
{
    struct omid_ws *ws = NULL;
    const struct omid_ws_request req = {.size = sizeof(req), .url = "ws://127.0.0.1/"};
    const struct omid_ws_events none = {.size = sizeof(none)};
    refused("ws", h->ws_connect(inst, NULL, NULL, NULL, NULL));
    refused("ws events", h->ws_connect(inst, &req, NULL, NULL, &ws));
    refused("ws callbacks", h->ws_connect(inst, &req, &none, NULL, &ws));
    refused("ws send", h->ws_send(NULL, OMID_TEXT, "x", 1));
    h->ws_close(NULL, 1000);
    h->ws_release(NULL);
    h->ws_release(&ws);
    refused("conn", h->conn_send(NULL, OMID_TEXT, "x", 1));
    h->conn_close(NULL, 1000, NULL);
}

static void try_work(const struct omid_host *h, struct omid_instance *inst)
{
    struct omid_work work = {sizeof(work), OMID_POOL_BLOCKING, "nothing", NULL, plain_done, NULL};
    struct omid_timer *none = NULL;
    refused("work", h->exec_submit(inst, NULL));
    refused("work run", h->exec_submit(inst, &work));
    work = (struct omid_work){sizeof(work), OMID_POOL_BLOCKING, "nothing", plain_nothing, NULL, NULL};
    refused("work done", h->exec_submit(inst, &work));
    work = (struct omid_work){sizeof(work), OMID_POOL_BLOCKING, NULL, plain_nothing, plain_done, NULL};
    refused("work label", h->exec_submit(inst, &work));
    work = (struct omid_work){sizeof(work), (enum omid_pool)77, "nothing", plain_nothing, plain_done, NULL};
    refused("work pool", h->exec_submit(inst, &work));
    refused("timer", h->timer_start(inst, 1, 0, NULL, NULL) == NULL ? -1 : 0);
    h->timer_stop(NULL);
    h->timer_stop(&none);
}

static void try_jobs(const struct omid_host *h, struct omid_instance *inst)
{
    struct omid_job_run *run = NULL;
    struct omid_job job = {.size = sizeof(job)};
    refused("job", h->job_enqueue(inst, NULL, NULL, NULL));
    refused("job type", h->job_enqueue(inst, &job, NULL, NULL));
    job = (struct omid_job){.size = sizeof(job), .type = "t", .payload_len = 5};
    refused("job payload", h->job_enqueue(inst, &job, NULL, NULL));
    refused("jobs", h->jobs_enqueue(inst, NULL, 3, NULL, NULL, NULL));
    job.size = 3;
    refused("jobs size", h->jobs_enqueue(inst, &job, 1, NULL, NULL, NULL));
    h->job_finish(NULL, OMID_JOB_DONE, 0, NULL);
    h->job_finish(&run, OMID_JOB_DONE, 0, NULL);
    h->job_attempt(NULL, NULL);
}

static void try_answers(const struct omid_host *h, struct omid_instance *inst)
{
    struct omid_exchange *ex = NULL;
    struct omid_ask *ask = NULL;
    const struct omid_endpoints *endpoints = NULL;
    refused("respond", h->respond(NULL, 200, NULL, NULL, 0));
    refused("respond none", h->respond(&ex, 200, NULL, NULL, 0));
    refused("respond_with", h->respond_with(&ex, 200, NULL, NULL, NULL, 0));
    refused("respond_begin", h->respond_begin(NULL, 200, NULL, NULL, 0, NULL));
    refused("respond_data", h->respond_data(NULL, "x", 1));
    h->respond_end(NULL);
    h->respond_end(&ex);
    h->answer(NULL, NULL);
    h->answer(&ask, NULL);
    h->stt_ready(NULL);
    h->stt_writable(NULL);
    h->stt_result(NULL, NULL);
    h->stt_closed(NULL, NULL);
    h->endpoints_release(NULL);
    h->endpoints_release(&endpoints);
    refused("endpoint", h->endpoint_find(inst, NULL, NULL)->n == 0 ? -1 : 0);
    h->endpoint_report(inst, NULL, NULL, (enum omid_delivery_outcome)77, 0, NULL);
}

static void try_the_rest(const struct omid_host *h, struct omid_instance *inst)
{
    struct omid_gather *gather = NULL;
    struct omid_gather_request many = {.size = sizeof(many), .label = "nothing"};
    struct omid_event ev = {.size = sizeof(ev), .type = OMID_EVENT_CUSTOM};
    refused("gather", h->gather_start(inst, NULL, NULL));
    refused("gather label", h->gather_start(inst, &many, NULL));
    many = (struct omid_gather_request){.size = sizeof(many), .label = "items", .at_once = 1, .start = item_start};
    refused("gather end", h->gather_start(inst, &many, NULL));
    refused("gather token", h->gather_done(inst, 0, 0, NULL, NULL));
    refused("gather tokens", h->gather_done(inst, UINT64_MAX, 0, NULL, NULL));
    h->gather_cancel(NULL);
    h->gather_cancel(&gather);
    refused("publish", h->publish(inst, NULL));
    refused("publish uid", h->publish(inst, &ev));
    ev = (struct omid_event){.size = sizeof(ev), .type = (enum omid_event_type)77, .uid = "u", .name = "n"};
    refused("publish type", h->publish(inst, &ev));
    ev = (struct omid_event){.size = sizeof(ev), .type = OMID_EVENT_CUSTOM, .uid = "u", .name = "n", .json_len = 99};
    refused("publish json", h->publish(inst, &ev));
    refused("put", h->kv_put(inst, NULL, "x", 1, 0, NULL, NULL));
    refused("put value", h->kv_put(inst, "k", NULL, 9, 0, NULL, NULL));
    refused("get", h->kv_get(inst, NULL, NULL, NULL));
    refused("label", h->gather_label(h->module(inst), NULL));
    refused("route", h->route_add(h->module(inst), NULL));
    h->fallback(h->module(inst), NULL, "A b", NULL, NULL, NULL, 1);
    h->counter_add(NULL, UINT64_MAX);
    h->conf_error(h->module(inst), NULL, "%s", "outside of configure()");
    h->log(h->module(inst), (enum omid_log_level)77, "%s", "of an unknown level");
}

static void tell(const struct omid_host *h, struct omid_instance *inst)
{
    const char *json = taken[0] != '\0' ? taken : "none";
    const struct omid_event ev = {.size = sizeof(ev),
                                  .type = OMID_EVENT_CUSTOM,
                                  .uid = "u",
                                  .name = "nulls",
                                  .json = json,
                                  .json_len = strlen(json)};
    h->log(h->module(inst), OMID_LOG_NOTICE, "not refused: %s", json);
    (void)h->publish(inst, &ev);
}

static void on_timer(void *arg)
{
    struct plain *p = arg;
    p->host->timer_stop(&timer);
    taken[0] = '\0';
    try_requests(p->host, p->inst);
    try_sockets(p->host, p->inst);
    try_work(p->host, p->inst);
    try_jobs(p->host, p->inst);
    try_answers(p->host, p->inst);
    try_the_rest(p->host, p->inst);
    tell(p->host, p->inst);
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    const struct omid_route empty = {.size = sizeof(empty)};
    const struct omid_route dumb = {.size = sizeof(dumb), .path = "/dumb", .method = "GET"};
    (void)shared;
    refused("configure route", host->route_add(mod, NULL));
    refused("configure empty", host->route_add(mod, &empty));
    refused("configure dumb", host->route_add(mod, &dumb));
    refused("configure counter", host->counter(mod, NULL, NULL, NULL, NULL) == NULL ? -1 : 0);
    refused("configure value", host->counter(mod, "c", "help", "label", NULL) == NULL ? -1 : 0);
    refused("configure label", host->gather_label(mod, NULL));
    return taken[0] == '\0' ? host->gather_label(mod, "items") : OMID_ERR;
}

static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    int rc = plain_start(inst, host, shared, state);
    if (rc == OMID_OK && host->reactor(inst, NULL) == 0)
        timer = host->timer_start(inst, 1, 0, on_timer, *state);
    return rc;
}

/* Refused, or called: either way it is not this plugin's to serve. */
static int job(void *state, const struct omid_job_view *view, struct omid_job_run *run)
{
    (void)state;
    (void)view;
    (void)run;
    return OMID_ERR;
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,       .name = "bad_nulls", .version = "1.0", .summary = "A plugin for tests",
    .configure = configure, .start = start,      .job = job,       .stop = plain_stop,
};
