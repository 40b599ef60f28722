/*
 * Outgoing WebSockets of a lane. The caller's loop runs the connect sequence and owns the connection; the lane
 * thread admits: a stream of the lane's bound and the breaker's token once per sequence, a slot of the semaphore for
 * each attempt (not for the pauses between them).
 *
 * Messages to the lane: `want` (a slot, please; one at a time, answered by `grant`), `done` (how the attempt went),
 * `release` (the last). They arrive in that order. References: the caller's, which goes to the lane with `release`,
 * and one per message from the lane (`grant`, `shut`).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
#include "base/log.h"
#include "base/magic.h"
#include "lane/http/lane_int.h"
#include "lane/http/wsupgrade.h"

#define LANE_WS_MAGIC UINT32_C(0x6c777332)
#define DEFAULT_MESSAGE (1u << 20)
#define DEFAULT_SEND (256u << 10)
#define DEFAULT_BACKOFF_CAP_MS 32000u
#define MAX_ATTEMPTS 1000u

enum ws_state { WS_ASKING, WS_CONNECTING, WS_PAUSING, WS_IS_OPEN, WS_IS_CLOSING, WS_IS_CLOSED };

enum ws_verdict {
    VERDICT_RETRY,    /* failed, the sequence goes on */
    VERDICT_OPEN,     /* the sequence ended well */
    VERDICT_FAILED,   /* all attempts are used up */
    VERDICT_REJECTED, /* refused by the peer for good */
    VERDICT_NONE,     /* given up, or our own fault */
};

struct lane_ws {
    uint32_t magic;
    atomic_uint refs;
    struct lane *lane;                   /* with a reference */
    struct loop_msg want, done, release; /* to the lane */
    struct loop_msg grant, shut;         /* to the caller */

    /* the caller's end */
    enum ws_state state;
    struct loop *loop;
    struct lane_wsloop *wsloop; /* a use of it, until released */
    struct wsconn *conn;
    struct lane_ws_events events;
    void *arg;
    ev_timer timer; /* the pause, or an end to tell */
    unsigned attempt, attempts;
    unsigned sequence; /* attempts as they were asked for; const */
    uint32_t backoff_ms, backoff_cap_ms;
    struct wsconn_params params;
    char *url, **headers, *key;
    int http_status;
    bool released, own_fault;
    struct omid_ws_close why;
    char text[256];

    /* written before its message is posted, read by its receiver */
    enum ws_verdict verdict;      /* `done` */
    bool unresolved;              /* `done` */
    enum omid_http_error refused; /* `grant`; OMID_HTTP_OK: the slot is there */
    uint32_t connect_ms;          /* `grant`: the target's */
    struct conf_outside *outside; /* `grant`: the target's, a reference */

    /* the lane's end */
    struct waiter w;
    struct list link; /* in lane.ws */
    bool has_stream, has_slot;
};

static void ws_set_state(struct lane_ws *ws, enum ws_state to)
{
    static const bool legal[6][6] = {
        [WS_ASKING] = {[WS_CONNECTING] = true, [WS_IS_CLOSED] = true},
        [WS_CONNECTING] = {[WS_PAUSING] = true, [WS_IS_OPEN] = true, [WS_IS_CLOSED] = true},
        [WS_PAUSING] = {[WS_ASKING] = true, [WS_IS_CLOSED] = true},
        [WS_IS_OPEN] = {[WS_IS_CLOSING] = true, [WS_IS_CLOSED] = true},
        [WS_IS_CLOSING] = {[WS_IS_CLOSED] = true},
    };
    omid_assert(legal[ws->state][to]);
    ws->state = to;
}

static void ws_unref(struct lane_ws *ws)
{
    CHECK_MAGIC(ws, LANE_WS_MAGIC);
    if (atomic_fetch_sub(&ws->refs, 1) > 1)
        return;
    struct lane *l = ws->lane;
    for (size_t i = 0; ws->headers && ws->headers[i]; i++) {
        explicit_bzero(ws->headers[i], strlen(ws->headers[i])); /* they hold keys */
        free(ws->headers[i]);
    }
    conf_outside_unref(&ws->outside);
    free(ws->headers);
    free(ws->url);
    free(ws->key);
    ws->magic = OMID_MAGIC_DEAD;
    free(ws);
    lane_unref(l);
}

/* ------------------------------------------------------------------ the lane's end */

static void on_grant(struct loop *loop, struct loop_msg *msg);
static void on_shut(struct loop *loop, struct loop_msg *msg);

static void ws_grant(struct lane_ws *ws, enum omid_http_error refused)
{
    ws->refused = refused;
    atomic_fetch_add(&ws->refs, 1);
    ws->grant.fn = on_grant;
    loop_post(ws->loop, &ws->grant);
}

static void ws_give_stream(struct lane_ws *ws)
{
    if (!ws->has_stream)
        return;
    ws->has_stream = false;
    lane_streams_add(ws->lane, -1);
}

static void ws_go(struct waiter *w)
{
    struct lane_ws *ws = container_of(w, struct lane_ws, w);
    const struct conf_lane *rules = w->target->rules;
    ws->has_slot = true;
    ws->connect_ms = rules->connect_timeout_ms;
    conf_outside_unref(&ws->outside);
    ws->outside = conf_outside_ref(rules->outside);
    ws_grant(ws, OMID_HTTP_OK);
}

static void ws_refuse(struct waiter *w, enum omid_http_error why)
{
    struct lane_ws *ws = container_of(w, struct lane_ws, w);
    if (w->admitted)
        lane_verdict(ws->lane, w, BREAKER_NEUTRAL, 0);
    ws_give_stream(ws);
    ws_grant(ws, why);
}

static void on_want(struct loop *loop, struct loop_msg *msg)
{
    struct lane_ws *ws = container_of(msg, struct lane_ws, want);
    struct lane *l = ws->lane;

    (void)loop;
    CHECK_MAGIC(ws, LANE_WS_MAGIC);
    if (list_empty(&ws->link) && !l->ls->down) /* the first time */
        list_append(&l->ws, &ws->link);
    if (!ws->w.target) {
        ws->w.target = target_get(l, ws->key);
        ws->w.go = ws_go;
        ws->w.refuse = ws_refuse;
    }
    if (!ws->w.target) {
        ws_grant(ws, OMID_HTTP_LOCAL);
        return;
    }
    /* A probe of the breaker lasts as long as a whole sequence: connect and answer, and the pauses. */
    uint64_t within =
        (uint64_t)ws->sequence * (2 * (uint64_t)ws->w.target->rules->connect_timeout_ms + ws->backoff_cap_ms) + 1000;
    ws->w.within_ms = within < UINT32_MAX ? (uint32_t)within : UINT32_MAX;
    if (!ws->has_stream) {
        if (l->streams >= l->conf.streams) {
            lane_rejected(l, REJECT_STREAMS);
            ws_grant(ws, OMID_HTTP_FULL);
            return;
        }
        ws->has_stream = true;
        lane_streams_add(l, 1);
    }
    lane_slot_ask(l, &ws->w);
}

static void ws_free_slot(struct lane_ws *ws)
{
    if (!ws->has_slot)
        return;
    ws->has_slot = false;
    lane_slot_free(ws->lane, &ws->w);
}

static void on_done(struct loop *loop, struct loop_msg *msg)
{
    static const enum breaker_outcome outcomes[] = {
        [VERDICT_OPEN] = BREAKER_SUCCESS,
        [VERDICT_FAILED] = BREAKER_FAILURE,
        [VERDICT_REJECTED] = BREAKER_ANSWERED,
        [VERDICT_NONE] = BREAKER_NEUTRAL,
    };
    struct lane_ws *ws = container_of(msg, struct lane_ws, done);
    enum ws_verdict verdict = ws->verdict;

    (void)loop;
    CHECK_MAGIC(ws, LANE_WS_MAGIC);
    if (ws->unresolved && ws->has_slot)
        lane_unresolved(&ws->w);
    if (verdict != VERDICT_RETRY && ws->w.admitted)
        lane_verdict(ws->lane, &ws->w, outcomes[verdict], 0);
    if (verdict != VERDICT_RETRY && verdict != VERDICT_OPEN)
        ws_give_stream(ws);
    ws_free_slot(ws);
}

static void on_release(struct loop *loop, struct loop_msg *msg)
{
    struct lane_ws *ws = container_of(msg, struct lane_ws, release);
    struct lane *l = ws->lane;

    (void)loop;
    CHECK_MAGIC(ws, LANE_WS_MAGIC);
    list_remove(&ws->link);
    if (ws->w.queued)
        lane_slot_cancel(l, &ws->w);
    if (ws->w.admitted)
        lane_verdict(l, &ws->w, BREAKER_NEUTRAL, 0);
    ws_give_stream(ws);
    ws_free_slot(ws);
    if (ws->w.target)
        target_put(l, &ws->w.target);
    ws_unref(ws); /* the caller's */
}

void ws_shut(struct lane *l)
{
    while (!list_empty(&l->ws)) {
        struct lane_ws *ws = list_entry(list_pop(&l->ws), struct lane_ws, link);
        atomic_fetch_add(&ws->refs, 1);
        ws->shut.fn = on_shut;
        loop_post(ws->loop, &ws->shut);
    }
}

/* ------------------------------------------------------------------ the caller's end */

static void ws_post_want(struct lane_ws *ws)
{
    ws->want.fn = on_want;
    loop_post(ws->lane->ls->loop, &ws->want);
}

static void ws_post_done(struct lane_ws *ws, enum ws_verdict verdict)
{
    ws->verdict = verdict;
    ws->done.fn = on_done;
    loop_post(ws->lane->ls->loop, &ws->done);
}

static void ws_start_timer(struct lane_ws *ws, double after)
{
    struct ev_loop *ev = loop_ev(ws->loop);
    ev_timer_stop(ev, &ws->timer);
    ev_now_update(ev);
    ev_timer_set(&ws->timer, after, 0.);
    ev_timer_start(ev, &ws->timer);
}

/* The last callback. The caller holds a reference of its own, because it may release. */
static void ws_tell_closed(struct lane_ws *ws, enum omid_ws_end end, uint16_t code, int status, const char *text)
{
    ws_set_state(ws, WS_IS_CLOSED);
    ev_timer_stop(loop_ev(ws->loop), &ws->timer);
    if (text != ws->text)
        snprintf(ws->text, sizeof ws->text, "%s", text);
    wsconn_release(&ws->conn);
    ws->why = (struct omid_ws_close){
        .size = sizeof ws->why, .end = end, .code = code, .http_status = status, .text = ws->text};
    ws->events.closed(ws->arg, ws, &ws->why);
}

static uint32_t ws_pause_ms(const struct lane_ws *ws)
{
    uint64_t shift = ws->attempt - 1 < 20 ? ws->attempt - 1 : 20;
    uint64_t ms = ((uint64_t)ws->backoff_ms << shift) + (uint64_t)(id_random_unit() * ws->backoff_ms);
    return ms < ws->backoff_cap_ms ? (uint32_t)ms : ws->backoff_cap_ms;
}

static bool ws_worth_retrying(const struct wsconn_end *end)
{
    return end->why == WSCONN_FAILED || end->http_status >= 500 || end->http_status == 429 || end->http_status == 408 ||
           end->http_status == 425;
}

/* An attempt has failed. */
static void ws_attempt_over(struct lane_ws *ws, const struct wsconn_end *end)
{
    char text[256];

    ws->http_status = end->why == WSCONN_REJECTED ? end->http_status : 0;
    ws->own_fault = end->own_fault;
    ws->unresolved = end->unresolved;
    if (ws->http_status)
        snprintf(text, sizeof text, "the peer answered the upgrade with HTTP %d", ws->http_status);
    else
        snprintf(text, sizeof text, "%s", end->text);
    if (!ws_worth_retrying(end)) {
        ws_post_done(ws, VERDICT_REJECTED);
        ws_tell_closed(ws, OMID_WS_REJECTED, WS_CODE_ABNORMAL, ws->http_status, text);
    } else if (ws->attempt >= ws->attempts) {
        ws_post_done(ws, ws->own_fault ? VERDICT_NONE : VERDICT_FAILED);
        ws_tell_closed(ws, OMID_WS_CONNECT, WS_CODE_ABNORMAL, ws->http_status, text);
    } else {
        uint32_t pause = ws_pause_ms(ws);
        log_debug("lane", "websocket attempt failed", LS("lane", ws->lane->name), LU("attempt", ws->attempt),
                  LU("pause_ms", pause), LS("reason", text));
        ws_post_done(ws, VERDICT_RETRY);
        wsconn_release(&ws->conn);
        ws_set_state(ws, WS_PAUSING);
        ws_start_timer(ws, (double)pause / 1000);
    }
}

static struct lane_ws *ws_enter(void *arg)
{
    struct lane_ws *ws = arg;
    CHECK_MAGIC(ws, LANE_WS_MAGIC);
    atomic_fetch_add(&ws->refs, 1);
    return ws;
}

static void on_conn_open(void *arg)
{
    struct lane_ws *ws = ws_enter(arg);
    ws_set_state(ws, WS_IS_OPEN);
    ws_post_done(ws, VERDICT_OPEN);
    ws->events.open(ws->arg, ws);
    ws_unref(ws);
}

static void on_conn_message(void *arg, enum ws_opcode op, const void *data, size_t len)
{
    struct lane_ws *ws = ws_enter(arg);
    ws->events.message(ws->arg, ws, op == WS_TEXT ? OMID_TEXT : OMID_BINARY, data, len);
    ws_unref(ws);
}

static void on_conn_writable(void *arg)
{
    struct lane_ws *ws = ws_enter(arg);
    if (ws->events.writable)
        ws->events.writable(ws->arg, ws);
    ws_unref(ws);
}

static void on_conn_ended(void *arg, const struct wsconn_end *end)
{
    struct lane_ws *ws = ws_enter(arg);
    if (ws->state == WS_CONNECTING)
        ws_attempt_over(ws, end);
    else
        ws_tell_closed(ws, end->why == WSCONN_CLOSED ? OMID_WS_CLOSED : OMID_WS_LOST, end->code, 0, end->text);
    ws_unref(ws);
}

static const struct wsconn_events conn_events = {
    .open = on_conn_open,
    .message = on_conn_message,
    .writable = on_conn_writable,
    .ended = on_conn_ended,
};

/* The lane has refused. */
static void ws_refused(struct lane_ws *ws, enum omid_http_error why)
{
    switch (why) {
    case OMID_HTTP_BREAKER:
        ws_tell_closed(ws, OMID_WS_BREAKER, WS_CODE_ABNORMAL, ws->http_status, "the target's breaker is open");
        break;
    case OMID_HTTP_SHUTDOWN:
        ws_tell_closed(ws, OMID_WS_SHUTDOWN, WS_CODE_ABNORMAL, ws->http_status, "shutting down");
        break;
    case OMID_HTTP_FULL:
        ws_tell_closed(ws, OMID_WS_FULL, WS_CODE_ABNORMAL, ws->http_status, "the lane's streams or queue are full");
        break;
    case OMID_HTTP_QUEUE_TIMEOUT:
        ws_tell_closed(ws, OMID_WS_FULL, WS_CODE_ABNORMAL, ws->http_status, "waited too long for a slot of the lane");
        break;
    default:
        ws_tell_closed(ws, OMID_WS_CONNECT, WS_CODE_ABNORMAL, ws->http_status, "no memory");
        break;
    }
}

static void on_grant(struct loop *loop, struct loop_msg *msg)
{
    struct lane_ws *ws = container_of(msg, struct lane_ws, grant);
    const char *why = NULL;

    (void)loop;
    CHECK_MAGIC(ws, LANE_WS_MAGIC);
    if (ws->released) {
        /* `release` gives back whatever was granted */
    } else if (ws->state != WS_ASKING) {
        if (ws->refused == OMID_HTTP_OK)
            ws_post_done(ws, VERDICT_NONE);
    } else if (ws->refused != OMID_HTTP_OK) {
        ws_refused(ws, ws->refused);
    } else {
        ws_set_state(ws, WS_CONNECTING);
        ws->attempt++;
        ws->unresolved = false;
        ws->params.connect_ms = ws->connect_ms;
        ws->params.outside = ws->outside;
        ws->conn = wsconn_new(ws->wsloop->ws, &ws->params, &conn_events, ws, &why);
        ws->params.outside = NULL;
        if (!ws->conn) {
            ws_post_done(ws, VERDICT_NONE);
            ws_tell_closed(ws, OMID_WS_CONNECT, WS_CODE_ABNORMAL, 0, why);
        }
    }
    ws_unref(ws); /* the message's */
}

static void on_shut(struct loop *loop, struct loop_msg *msg)
{
    struct lane_ws *ws = container_of(msg, struct lane_ws, shut);

    (void)loop;
    CHECK_MAGIC(ws, LANE_WS_MAGIC);
    if (!ws->released && ws->state != WS_IS_CLOSED) {
        if (ws->state == WS_IS_OPEN && ws->conn)
            wsconn_close(ws->conn, WS_CODE_GOING_AWAY, "");
        ws_tell_closed(ws, OMID_WS_SHUTDOWN, WS_CODE_GOING_AWAY, 0, "shutting down");
    }
    ws_unref(ws); /* the message's */
}

/* The pause is over, or a close before the opening is to be told. */
static void on_ws_timer(struct ev_loop *ev, ev_timer *timer, int revents)
{
    struct lane_ws *ws = ws_enter(timer->data);

    (void)ev;
    (void)revents;
    if (ws->state == WS_PAUSING && ws->attempts > 0) {
        ws_set_state(ws, WS_ASKING);
        ws_post_want(ws);
    } else if (ws->state != WS_IS_CLOSED) {
        if (ws->state == WS_CONNECTING)
            ws_post_done(ws, VERDICT_NONE);
        ws_tell_closed(ws, OMID_WS_CONNECT, WS_CODE_ABNORMAL, ws->http_status, "closed before it was open");
    }
    ws_unref(ws);
}

static bool ws_copy(struct lane_ws *ws, const struct omid_ws_request *req)
{
    size_t n = 0, size = strlen(req->url) + URL_KEY_EXTRA;

    while (req->headers && req->headers[n])
        n++;
    ws->url = strdup(req->url);
    ws->key = malloc(size);
    ws->headers = calloc(n + 1, sizeof *ws->headers);
    if (!ws->url || !ws->key || !ws->headers)
        return false;
    for (size_t i = 0; i < n; i++) {
        ws->headers[i] = strdup(req->headers[i]);
        if (!ws->headers[i])
            return false;
    }
    return url_key(ws->url, ws->key, size);
}

static bool ws_request_ok(const struct omid_ws_request *req)
{
    struct ws_url url;
    const char *why = NULL;

    if (!req->url || strlen(req->url) > LANE_MAX_URL || !request_headers_ok(req->headers))
        return false;
    if (!ws_url_parse(req->url, &url, &why)) {
        log_warning("lane", "unusable WebSocket URL", LS("reason", why));
        return false;
    }
    ws_url_free(&url);
    return true;
}

static void ws_limits(struct lane_ws *ws, const struct omid_ws_request *req)
{
    ws->attempts = req->attempts == 0 ? 1 : req->attempts < MAX_ATTEMPTS ? req->attempts : MAX_ATTEMPTS;
    ws->backoff_ms = req->backoff_ms;
    ws->backoff_cap_ms = req->backoff_cap_ms > 0 ? req->backoff_cap_ms : DEFAULT_BACKOFF_CAP_MS;
    ws->params = (struct wsconn_params){
        .url = ws->url,
        .headers = (const char *const *)ws->headers,
        .max_message = req->max_message > 0 ? req->max_message : DEFAULT_MESSAGE,
        .send_buffer = req->send_buffer > 0 ? req->send_buffer : DEFAULT_SEND,
    };
    ws->sequence = ws->attempts;
}

int lane_ws_connect(struct lane *l, struct loop *loop, const struct omid_ws_request *req,
                    const struct lane_ws_events *events, void *arg, struct lane_ws **out)
{
    CHECK_MAGIC(l, LANE_MAGIC);
    omid_assert(loop_is_current(loop));
    if (!out || !ws_request_ok(req))
        return OMID_EINVAL;
    struct lane_ws *ws = calloc(1, sizeof *ws);
    if (!ws)
        return OMID_ERR;
    ws->magic = LANE_WS_MAGIC;
    ws->refs = 1;
    ws->lane = l;
    lane_ref(l);
    list_init(&ws->link);
    ws->loop = loop;
    if (!ws_copy(ws, req) || !lanes_enter(l->ls)) {
        int rc = atomic_load(&l->ls->stopping) ? OMID_ECLOSED : OMID_ERR;
        ws_unref(ws);
        return rc;
    }
    /* While lanes_stop() waits for those who have entered: a context of before it is told to end. */
    ws->wsloop = lanes_wsloop_get(l->ls, loop);
    if (!ws->wsloop) {
        lanes_leave(l->ls);
        ws_unref(ws);
        return OMID_ERR;
    }
    ws_limits(ws, req);
    ws->events = *events;
    ws->arg = arg;
    ws->state = WS_ASKING;
    ev_init(&ws->timer, on_ws_timer);
    ws->timer.data = ws;
    *out = ws;
    ws_post_want(ws);
    lanes_leave(l->ls);
    return OMID_OK;
}

int lane_ws_send(struct lane_ws *ws, enum omid_message type, const void *data, size_t len)
{
    CHECK_MAGIC(ws, LANE_WS_MAGIC);
    if (type != OMID_TEXT && type != OMID_BINARY)
        return OMID_EINVAL;
    if (ws->state != WS_IS_OPEN || ws->released)
        return OMID_ECLOSED;
    return wsconn_send(ws->conn, type == OMID_TEXT ? WS_TEXT : WS_BINARY, data, len);
}

void lane_ws_close(struct lane_ws *ws, uint16_t code)
{
    CHECK_MAGIC(ws, LANE_WS_MAGIC);
    if (ws->released)
        return;
    switch (ws->state) {
    case WS_IS_OPEN:
        ws_set_state(ws, WS_IS_CLOSING);
        wsconn_close(ws->conn, code, "");
        break;
    case WS_ASKING:
    case WS_CONNECTING:
    case WS_PAUSING:
        ws->attempts = 0; /* no further one */
        wsconn_release(&ws->conn);
        ws_start_timer(ws, 0.);
        break;
    case WS_IS_CLOSING:
    case WS_IS_CLOSED:
        break;
    }
}

void lane_ws_release(struct lane_ws **wsp)
{
    struct lane_ws *ws = *wsp;

    if (!ws)
        return;
    CHECK_MAGIC(ws, LANE_WS_MAGIC);
    omid_assert(!ws->released);
    *wsp = NULL;
    ws->released = true;
    ev_timer_stop(loop_ev(ws->loop), &ws->timer);
    wsconn_release(&ws->conn);
    lanes_wsloop_put(&ws->wsloop);
    ws->release.fn = on_release;
    loop_post(ws->lane->ls->loop, &ws->release); /* with the caller's reference */
}
