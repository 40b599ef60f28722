/* Timers, requests and outgoing WebSockets of an instance. Everything on its reactor. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "host/module.h"

/* ------------------------------------------------------------ timers */

struct omid_timer {
    uint32_t magic;
    struct list link;
    struct omid_instance *inst;
    ev_timer watcher;
    void (*fn)(void *arg);
    void *arg;
};

static void on_timer(struct ev_loop *ev, ev_timer *watcher, int revents)
{
    (void)ev;
    (void)revents;
    struct omid_timer *t = watcher->data;
    CHECK_MAGIC(t, TIMER_MAGIC);
    struct host_call call;
    host_enter(&call, t->inst, "timer");
    t->fn(t->arg); /* may stop, and so free, t */
    (void)host_leave(&call, OMID_OK);
}

struct omid_timer *timer_start(struct omid_instance *inst, uint32_t delay_ms, uint32_t repeat_ms, void (*fn)(void *arg),
                               void *arg)
{
    if (instance_check_new(inst, "timer_start") != OMID_OK || fn == NULL || inst->n_timers == INSTANCE_MAX_TIMERS)
        return NULL;
    struct omid_timer *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return NULL;
    t->magic = TIMER_MAGIC;
    t->inst = inst;
    t->fn = fn;
    t->arg = arg;
    ev_timer_init(&t->watcher, on_timer, delay_ms / 1000.0, repeat_ms / 1000.0);
    t->watcher.data = t;
    /* Timers count from the turn's time, which a long callback leaves behind: one would fire too early. */
    ev_now_update(loop_ev(inst->loop));
    ev_timer_start(loop_ev(inst->loop), &t->watcher);
    inst->n_timers++;
    module_account_memory(inst->module, sizeof(*t));
    instance_link(inst, HANDLE_TIMER, &t->link);
    return t;
}

void timer_stop(struct omid_timer **tp)
{
    if (tp == NULL || *tp == NULL)
        return;
    struct omid_timer *t = *tp;
    omid_assert(t->magic == TIMER_MAGIC || t->magic == OMID_MAGIC_DEAD);
    if (instance_check(t->inst, "timer_stop") != OMID_OK)
        return;
    *tp = NULL;
    CHECK_MAGIC(t, TIMER_MAGIC);
    ev_timer_stop(loop_ev(t->inst->loop), &t->watcher);
    t->inst->n_timers--;
    module_account_memory(t->inst->module, -(int64_t)sizeof(*t));
    instance_unlink(t->inst, HANDLE_TIMER, &t->link);
    t->magic = OMID_MAGIC_DEAD;
    free(t);
}

void timer_cancel(struct list *link, struct omid_instance *inst)
{
    struct omid_timer *t = list_entry(link, struct omid_timer, link);
    CHECK_MAGIC(t, TIMER_MAGIC);
    ev_timer_stop(loop_ev(inst->loop), &t->watcher);
    inst->n_timers--;
    t->magic = OMID_MAGIC_DEAD;
    instance_bury(inst, t);
}

/* ------------------------------------------------------------ requests */

struct omid_http {
    uint32_t magic;
    struct list link;
    struct omid_instance *inst;
    struct lane_http *lane;
    omid_http_cb cb;
    void *arg;
    bool answering; /* within cb: cancelling changes nothing any more */
    int64_t bytes;  /* with the copies that its lane holds */
};

static void on_answer(void *arg, const struct omid_http_response *res)
{
    struct omid_http *r = arg;
    CHECK_MAGIC(r, HTTP_MAGIC);
    struct omid_instance *inst = r->inst;
    r->answering = true;
    r->lane = NULL;
    struct host_call call;
    host_enter(&call, inst, "http");
    r->cb(r->arg, res);
    (void)host_leave(&call, OMID_OK);
    module_account_memory(inst->module, -r->bytes);
    instance_unlink(inst, HANDLE_HTTP, &r->link);
    r->magic = OMID_MAGIC_DEAD;
    free(r);
}

/* As it was before 1.2. */
#define HTTP_REQUEST_1_0 offsetof(struct omid_http_request, aws_sigv4)

int http_start(struct omid_instance *inst, const struct omid_http_request *given, omid_http_cb cb, void *arg,
               struct omid_http **out)
{
    int rc = instance_check_new(inst, "http_start");
    if (rc != OMID_OK)
        return rc;
    if (given == NULL || given->size < HTTP_REQUEST_1_0)
        return OMID_EINVAL;
    struct omid_http_request whole = {.size = sizeof(whole)};
    memcpy(&whole, given, given->size < sizeof(whole) ? HTTP_REQUEST_1_0 : sizeof(whole));
    const struct omid_http_request *req = &whole;
    if (cb == NULL || req->method == NULL || req->url == NULL || (req->body == NULL && req->body_len > 0))
        return OMID_EINVAL;
    if (inst->module->lane == NULL)
        return OMID_ENOTSUP;
    struct omid_http *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return OMID_ERR;
    r->magic = HTTP_MAGIC;
    r->inst = inst;
    r->cb = cb;
    r->arg = arg;
    rc = lane_http_start(inst->module->lane, inst->loop, req, on_answer, r, &r->lane);
    if (rc != OMID_OK) {
        free(r);
        return rc;
    }
    r->bytes = (int64_t)(sizeof(*r) + strlen(req->url) + req->body_len);
    module_account_memory(inst->module, r->bytes);
    instance_link(inst, HANDLE_HTTP, &r->link);
    if (out != NULL)
        *out = r;
    return OMID_OK;
}

void http_cancel(struct omid_http **rp)
{
    if (rp == NULL || *rp == NULL)
        return;
    struct omid_http *r = *rp;
    omid_assert(r->magic == HTTP_MAGIC || r->magic == OMID_MAGIC_DEAD);
    if (instance_check(r->inst, "http_cancel") != OMID_OK)
        return;
    *rp = NULL;
    CHECK_MAGIC(r, HTTP_MAGIC);
    if (r->answering)
        return;
    lane_http_cancel(&r->lane);
    module_account_memory(r->inst->module, -r->bytes);
    instance_unlink(r->inst, HANDLE_HTTP, &r->link);
    r->magic = OMID_MAGIC_DEAD;
    free(r);
}

void http_bury(struct list *link, struct omid_instance *inst)
{
    struct omid_http *r = list_entry(link, struct omid_http, link);
    CHECK_MAGIC(r, HTTP_MAGIC);
    lane_http_cancel(&r->lane);
    r->magic = OMID_MAGIC_DEAD;
    instance_bury(inst, r);
}

/* ------------------------------------------------------------ WebSockets */

struct omid_ws {
    uint32_t magic;
    struct list link;
    struct omid_instance *inst;
    struct lane_ws *lane;
    struct omid_ws_events events;
    void *arg;
};

/* In each: ws may be released, and so freed, within the callback. */
static void on_ws_open(void *arg, struct lane_ws *lane)
{
    (void)lane;
    struct omid_ws *ws = arg;
    CHECK_MAGIC(ws, WS_MAGIC);
    struct host_call call;
    host_enter(&call, ws->inst, "ws_open");
    ws->events.open(ws->arg, ws);
    (void)host_leave(&call, OMID_OK);
}

static void on_ws_message(void *arg, struct lane_ws *lane, enum omid_message type, const void *data, size_t len)
{
    (void)lane;
    struct omid_ws *ws = arg;
    CHECK_MAGIC(ws, WS_MAGIC);
    struct host_call call;
    host_enter(&call, ws->inst, "ws_message");
    ws->events.message(ws->arg, ws, type, data, len);
    (void)host_leave(&call, OMID_OK);
}

static void on_ws_writable(void *arg, struct lane_ws *lane)
{
    (void)lane;
    struct omid_ws *ws = arg;
    CHECK_MAGIC(ws, WS_MAGIC);
    if (ws->events.writable == NULL)
        return;
    struct host_call call;
    host_enter(&call, ws->inst, "ws_writable");
    ws->events.writable(ws->arg, ws);
    (void)host_leave(&call, OMID_OK);
}

static void on_ws_closed(void *arg, struct lane_ws *lane, const struct omid_ws_close *why)
{
    (void)lane;
    struct omid_ws *ws = arg;
    CHECK_MAGIC(ws, WS_MAGIC);
    struct host_call call;
    host_enter(&call, ws->inst, "ws_closed");
    ws->events.closed(ws->arg, ws, why);
    (void)host_leave(&call, OMID_OK);
}

static const struct lane_ws_events lane_events = {on_ws_open, on_ws_message, on_ws_writable, on_ws_closed};

int ws_connect(struct omid_instance *inst, const struct omid_ws_request *req, const struct omid_ws_events *events,
               void *arg, struct omid_ws **out)
{
    int rc = instance_check_new(inst, "ws_connect");
    if (rc != OMID_OK)
        return rc;
    if (req == NULL || req->size < sizeof(*req) || req->url == NULL || events == NULL ||
        events->size < sizeof(*events) || events->open == NULL || events->message == NULL || events->closed == NULL ||
        out == NULL)
        return OMID_EINVAL;
    if (inst->module->lane == NULL)
        return OMID_ENOTSUP;
    struct omid_ws *ws = calloc(1, sizeof(*ws));
    if (ws == NULL)
        return OMID_ERR;
    ws->magic = WS_MAGIC;
    ws->inst = inst;
    ws->events = *events;
    ws->arg = arg;
    rc = lane_ws_connect(inst->module->lane, inst->loop, req, &lane_events, ws, &ws->lane);
    if (rc != OMID_OK) {
        free(ws);
        return rc;
    }
    module_account_memory(inst->module, sizeof(*ws));
    instance_link(inst, HANDLE_WS, &ws->link);
    *out = ws;
    return OMID_OK;
}

/* NULL: refused, as instance_check() has told. */
static struct omid_ws *ws_door(struct omid_ws *ws, const char *function)
{
    omid_assert(ws->magic == WS_MAGIC || ws->magic == OMID_MAGIC_DEAD);
    if (instance_check(ws->inst, function) != OMID_OK)
        return NULL;
    CHECK_MAGIC(ws, WS_MAGIC);
    return ws;
}

int ws_send(struct omid_ws *ws, enum omid_message type, const void *data, size_t len)
{
    if (ws == NULL) /* of a connect that failed */
        return OMID_EINVAL;
    if (ws_door(ws, "ws_send") == NULL)
        return OMID_ETHREAD;
    if ((type != OMID_TEXT && type != OMID_BINARY) || (data == NULL && len > 0))
        return OMID_EINVAL;
    return lane_ws_send(ws->lane, type, data, len);
}

void ws_close(struct omid_ws *ws, uint16_t code)
{
    if (ws != NULL && ws_door(ws, "ws_close") != NULL)
        lane_ws_close(ws->lane, code);
}

void ws_release(struct omid_ws **wsp)
{
    if (wsp == NULL || *wsp == NULL)
        return;
    struct omid_ws *ws = ws_door(*wsp, "ws_release");
    if (ws == NULL)
        return;
    *wsp = NULL;
    lane_ws_release(&ws->lane);
    module_account_memory(ws->inst->module, -(int64_t)sizeof(*ws));
    instance_unlink(ws->inst, HANDLE_WS, &ws->link);
    ws->magic = OMID_MAGIC_DEAD;
    free(ws);
}

void ws_bury(struct list *link, struct omid_instance *inst)
{
    struct omid_ws *ws = list_entry(link, struct omid_ws, link);
    CHECK_MAGIC(ws, WS_MAGIC);
    lane_ws_release(&ws->lane);
    ws->magic = OMID_MAGIC_DEAD;
    instance_bury(inst, ws);
}
