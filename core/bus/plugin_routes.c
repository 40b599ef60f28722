#include "bus/plugin_routes.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/magic.h"
#include "base/utf8.h"
#include "bus/call.h"

#define EXCHANGE_MAGIC UINT32_C(0x65786368)
#define CONN_MAGIC UINT32_C(0x636f6e6e)
#define ANSWER_WITHIN_MS 60000u
#define RETRY_FIRST_S 0.02 /* a held message whose plugin waits for something else than this client */
#define RETRY_MAX_S 1.0

/* What a struct route points at. Counted: the table and each channel hold it, and it uses its module, whose file has
 * the strings of the route. */
struct plugin_route {
    atomic_uint refs;
    struct omid_module *mod;
    const struct omid_route *route;
};

/* ------------------------------------------------------------ the table */

static void route_hold(void *arg)
{
    struct plugin_route *pr = arg;
    atomic_fetch_add(&pr->refs, 1);
}

static void route_release(void *arg)
{
    struct plugin_route *pr = arg;
    if (atomic_fetch_sub(&pr->refs, 1) > 1)
        return;
    host_module_unuse(&pr->mod);
    free(pr);
}

struct adding {
    struct routes *table;
    bool failed;
};

static void add_route(void *arg, struct omid_module *mod, const struct omid_route *route)
{
    struct adding *a = arg;
    struct plugin_route *pr = malloc(sizeof(*pr));
    if (pr == NULL) {
        a->failed = true;
        return;
    }
    *pr = (struct plugin_route){.mod = host_module_use(mod), .route = route};
    atomic_init(&pr->refs, 1);
    const struct route r = {
        .path = route->path,
        .method = route->method,
        .auth = route->auth == OMID_AUTH_TOKEN   ? ROUTE_TOKEN
                : route->auth == OMID_AUTH_ADMIN ? ROUTE_ADMIN
                                                 : ROUTE_OPEN,
        .handler = route->method != NULL ? &plugin_http_handler : &plugin_ws_handler,
        .arg = pr,
        .hold = route_hold,
        .release = route_release,
    };
    if (!routes_add(a->table, &r))
        log_error("bus", "a plugin's route is left out: the path is taken, or not usable", LS("path", route->path),
                  LS("method", route->method != NULL ? route->method : "WebSocket"));
    route_release(pr);
}

bool plugin_routes_add(struct host *h, struct routes *r)
{
    struct adding a = {.table = r};
    host_routes_each(h, add_route, &a);
    return !a.failed;
}

/* ------------------------------------------------------------ what both kinds need */

static const struct plugin_route *route_of(const struct channel *ch)
{
    return channel_route(ch)->arg;
}

static struct omid_instance *instance_for(const struct channel *ch)
{
    return host_instance_on(route_of(ch)->mod, channel_loop(ch));
}

static struct omid_request view_of(const struct channel *ch)
{
    const struct channel_request *req = channel_request(ch);
    return (struct omid_request){
        .size = sizeof(struct omid_request),
        .method = req->method,
        .path = req->path,
        .query = req->query,
        .uid = req->uid,
        .content_type = req->content_type,
        .peer = req->peer,
        .body = req->body,
        .body_len = req->body_len,
        .params = (const char *const *)req->params,
        .headers = req->headers,
        .n_headers = req->n_headers,
    };
}

/* ------------------------------------------------------------ HTTP */

struct omid_exchange {
    uint32_t magic;
    struct host_attachment att;
    struct channel *ch; /* NULL: the client has left, or was answered for the plugin */
    ev_timer deadline;
    bool in_callback, answered;
    /* An answer in pieces. */
    bool begun, head_only, waits;
    uint64_t left; /* bytes of it that are still to come */
    struct omid_stream stream;
};

/* The channel's end of it; the exchange itself stays the plugin's until respond(). */
static void exchange_let_go(struct omid_exchange *ex)
{
    ev_timer_stop(loop_ev(host_loop(ex->att.inst)), &ex->deadline);
    if (ex->ch != NULL)
        channel_drop(&ex->ch);
}

static void exchange_free(struct omid_exchange *ex)
{
    exchange_let_go(ex);
    host_detach(&ex->att);
    ex->magic = OMID_MAGIC_DEAD;
    free(ex);
}

/* Then 504: a plugin that forgets a request must not hold its client for ever. */
static atomic_uint answer_within_ms = ANSWER_WITHIN_MS;

void plugin_routes_answer_within(uint32_t ms)
{
    atomic_store(&answer_within_ms, ms);
}

static void exchange_late(struct ev_loop *ev, ev_timer *watcher, int revents)
{
    (void)ev;
    (void)revents;
    struct omid_exchange *ex = watcher->data;
    CHECK_MAGIC(ex, EXCHANGE_MAGIC);
    log_warning("bus", "a plugin left a request unanswered", LS("plugin", host_name(ex->att.inst)),
                LS("path", channel_request(ex->ch)->path));
    request_error(ex->ch, 504, "the plugin did not answer in time");
    exchange_let_go(ex);
}

static void exchange_stopped(struct host_attachment *att)
{
    struct omid_exchange *ex = container_of(att, struct omid_exchange, att);
    CHECK_MAGIC(ex, EXCHANGE_MAGIC);
    if (ex->ch != NULL && !ex->begun)
        request_error(ex->ch, 503, "the plugin was stopped");
    exchange_let_go(ex);
    host_detach(&ex->att);
    ex->magic = OMID_MAGIC_DEAD;
    host_bury(ex->att.inst, ex);
}

static struct omid_exchange *exchange_new(struct channel *ch, struct omid_instance *inst)
{
    struct omid_exchange *ex = calloc(1, sizeof(*ex));
    if (ex == NULL)
        return NULL;
    ex->magic = EXCHANGE_MAGIC;
    ex->ch = ch;
    ex->att.stopped = exchange_stopped;
    ev_timer_init(&ex->deadline, exchange_late, atomic_load(&answer_within_ms) / 1000., 0.0);
    ex->deadline.data = ex;
    ev_timer_start(loop_ev(host_loop(inst)), &ex->deadline);
    host_attach(inst, &ex->att);
    channel_set_user(ch, ex);
    return ex;
}

static void refuse_http(struct channel *ch, int status, const char *text)
{
    request_error(ch, status, "%s", text);
    channel_drop(&ch);
}

static void http_opened(struct channel *ch)
{
    struct omid_instance *inst = instance_for(ch);
    if (inst == NULL) {
        refuse_http(ch, 503, "the plugin is not running");
        return;
    }
    struct omid_exchange *ex = exchange_new(ch, inst);
    if (ex == NULL) {
        refuse_http(ch, 503, "out of memory");
        return;
    }
    const struct omid_request req = view_of(ch);
    ex->in_callback = true;
    struct host_call call;
    host_enter(&call, inst, "request");
    int rc = host_leave(&call, route_of(ch)->route->request(host_state(inst), ex, &req));
    ex->in_callback = false;
    if (ex->answered) {
        exchange_free(ex);
    } else if (rc < 0) {
        if (!ex->begun)
            request_error(ex->ch, 500, "the plugin failed");
        exchange_free(ex);
    }
}

/* It may release the exchange. */
static void exchange_tell_writable(struct omid_exchange *ex)
{
    if (!ex->waits)
        return;
    ex->waits = false;
    struct host_call call;
    host_enter(&call, ex->att.inst, "writable");
    ex->stream.writable(ex->stream.arg, ex);
    (void)host_leave(&call, OMID_OK);
}

static void http_closed(struct channel *ch, uint16_t code)
{
    (void)code;
    struct omid_exchange *ex = channel_user(ch);
    CHECK_MAGIC(ex, EXCHANGE_MAGIC);
    exchange_let_go(ex);
    if (ex->begun)
        exchange_tell_writable(ex);
}

static void http_writable(struct channel *ch)
{
    struct omid_exchange *ex = channel_user(ch);
    CHECK_MAGIC(ex, EXCHANGE_MAGIC);
    exchange_tell_writable(ex);
}

const struct channel_handler plugin_http_handler = {
    .opened = http_opened, .writable = http_writable, .closed = http_closed};

/* A line that a client can't take for two, and that the answer does not make itself. */
static bool header_line_ok(const char *line)
{
    static const char *const own[] = {"content-length", "content-type", "connection", "transfer-encoding"};
    size_t name = strspn(line, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");
    if (name == 0 || line[name] != ':')
        return false;
    for (const char *p = line + name; *p != '\0'; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(own); i++) {
        if (strlen(own[i]) == name && strncasecmp(line, own[i], name) == 0)
            return false;
    }
    return true;
}

static bool headers_ok(const char *const *headers)
{
    size_t n = 0;
    for (; headers != NULL && headers[n] != NULL; n++) {
        if (n == CHANNEL_MAX_HEADERS || !header_line_ok(headers[n]))
            return false;
    }
    return true;
}

int plugin_respond(struct omid_exchange **exp, int status, const char *content_type, const void *body, size_t len)
{
    return plugin_respond_with(exp, status, content_type, NULL, body, len);
}

int plugin_respond_with(struct omid_exchange **exp, int status, const char *content_type, const char *const *headers,
                        const void *body, size_t len)
{
    struct omid_exchange *ex = *exp;
    omid_assert(ex->magic == EXCHANGE_MAGIC || ex->magic == OMID_MAGIC_DEAD);
    int rc = host_check(ex->att.inst, "respond");
    if (rc != OMID_OK)
        return rc;
    if (ex->magic == OMID_MAGIC_DEAD || ex->answered || ex->begun || status < 200 || status > 599 ||
        (body == NULL && len > 0) || !headers_ok(headers))
        return OMID_EINVAL;
    *exp = NULL;
    rc = OMID_ECLOSED;
    if (ex->ch != NULL && channel_down_response_with(ex->ch, status, content_type, headers, body, len) == CHANNEL_OK)
        rc = OMID_OK;
    if (ex->in_callback) {
        /* The request that the callback still looks at is the channel's. */
        ex->answered = true;
    } else {
        exchange_free(ex);
    }
    return rc;
}

/* ------------------------------------------------------------ HTTP, answers in pieces */

#define PIECE_MAX ((size_t)256 << 10)

int plugin_respond_begin(struct omid_exchange *ex, int status, const char *content_type, const char *const *headers,
                         uint64_t length, const struct omid_stream *stream)
{
    omid_assert(ex->magic == EXCHANGE_MAGIC || ex->magic == OMID_MAGIC_DEAD);
    int rc = host_check(ex->att.inst, "respond_begin");
    if (rc != OMID_OK)
        return rc;
    if (ex->magic == OMID_MAGIC_DEAD || ex->answered || ex->begun || status < 200 || status > 599 || status == 204 ||
        status == 304 || !headers_ok(headers))
        return OMID_EINVAL;
    if (ex->ch == NULL)
        return OMID_ECLOSED;
    ev_timer_stop(loop_ev(host_loop(ex->att.inst)), &ex->deadline);
    ex->head_only = strcmp(channel_request(ex->ch)->method, "HEAD") == 0;
    ex->begun = true;
    ex->left = length;
    ex->stream = *stream;
    (void)channel_down_head(ex->ch, status, content_type, headers, length); /* respond_data() tells when it failed */
    return OMID_OK;
}

int plugin_respond_data(struct omid_exchange *ex, const void *data, size_t len)
{
    omid_assert(ex->magic == EXCHANGE_MAGIC || ex->magic == OMID_MAGIC_DEAD);
    int rc = host_check(ex->att.inst, "respond_data");
    if (rc != OMID_OK)
        return rc;
    if (ex->magic == OMID_MAGIC_DEAD || !ex->begun || ex->answered || len > ex->left || len > PIECE_MAX)
        return OMID_EINVAL;
    if (ex->ch == NULL)
        return OMID_ECLOSED;
    enum channel_result taken = CHANNEL_OK;
    if (!ex->head_only && len > 0)
        taken = channel_down_piece(ex->ch, data, len);
    ex->waits = taken == CHANNEL_FULL;
    if (taken == CHANNEL_OK)
        ex->left -= len;
    return taken == CHANNEL_OK ? OMID_OK : taken == CHANNEL_FULL ? OMID_EFULL : OMID_ECLOSED;
}

void plugin_respond_end(struct omid_exchange **exp)
{
    struct omid_exchange *ex = *exp;
    omid_assert(ex->magic == EXCHANGE_MAGIC || ex->magic == OMID_MAGIC_DEAD);
    if (host_check(ex->att.inst, "respond_end") != OMID_OK || ex->magic == OMID_MAGIC_DEAD || !ex->begun)
        return;
    *exp = NULL;
    if (ex->ch != NULL && (ex->left == 0 || ex->head_only))
        channel_down_end(ex->ch); /* else exchange_free() closes it: the client sees that it is not whole */
    if (ex->in_callback)
        ex->answered = true;
    else
        exchange_free(ex);
}

/* ------------------------------------------------------------ WebSocket */

struct omid_conn {
    uint32_t magic;
    struct host_attachment att;
    struct channel *ch;
    const struct omid_route *route;
    void *user;
    ev_timer retry;
    double retry_s; /* the next pause */
    bool blocked;   /* conn_send() was refused: writable() will come */
    bool held;      /* a message was refused: redelivered after writable(), or by the timer */
    bool closing;   /* Close is on its way: messages are dropped */
};

static void conn_end(struct omid_conn *conn, uint16_t code, const char *reason)
{
    if (conn->closing)
        return;
    conn->closing = true;
    channel_down_close(conn->ch, code, reason);
    /* What was held is taken from the channel now, into nothing. */
    if (conn->held) {
        conn->held = false;
        channel_resume(conn->ch);
    }
}

static void conn_let_go(struct omid_conn *conn)
{
    ev_timer_stop(loop_ev(host_loop(conn->att.inst)), &conn->retry);
    channel_drop(&conn->ch);
    host_detach(&conn->att);
    conn->magic = OMID_MAGIC_DEAD;
}

static void conn_tell_closed(struct omid_conn *conn, uint16_t code)
{
    if (conn->route->closed == NULL)
        return;
    struct host_call call;
    host_enter(&call, conn->att.inst, "closed");
    conn->route->closed(conn->user, conn, code);
    (void)host_leave(&call, OMID_OK);
}

static void redeliver(struct omid_conn *conn)
{
    ev_timer_stop(loop_ev(host_loop(conn->att.inst)), &conn->retry);
    if (!conn->held)
        return;
    conn->held = false;
    channel_resume(conn->ch);
}

static void conn_retry(struct ev_loop *ev, ev_timer *watcher, int revents)
{
    (void)ev;
    (void)revents;
    struct omid_conn *conn = watcher->data;
    CHECK_MAGIC(conn, CONN_MAGIC);
    redeliver(conn);
}

static void conn_stopping(struct host_attachment *att)
{
    struct omid_conn *conn = container_of(att, struct omid_conn, att);
    CHECK_MAGIC(conn, CONN_MAGIC);
    struct omid_instance *inst = conn->att.inst;
    conn_end(conn, WS_CODE_GOING_AWAY, "the plugin is stopped");
    conn_tell_closed(conn, WS_CODE_GOING_AWAY);
    conn_let_go(conn);
    host_bury(inst, conn);
}

static struct omid_conn *conn_new(struct channel *ch, struct omid_instance *inst)
{
    struct omid_conn *conn = calloc(1, sizeof(*conn));
    if (conn == NULL)
        return NULL;
    conn->magic = CONN_MAGIC;
    conn->ch = ch;
    conn->route = route_of(ch)->route;
    conn->att.stopping = conn_stopping;
    conn->att.stopped = conn_stopping;
    conn->retry_s = RETRY_FIRST_S;
    ev_timer_init(&conn->retry, conn_retry, RETRY_FIRST_S, 0.0);
    conn->retry.data = conn;
    host_attach(inst, &conn->att);
    channel_set_user(ch, conn);
    return conn;
}

static void refuse_ws(struct channel *ch, uint16_t code, const char *reason)
{
    channel_down_close(ch, code, reason);
    channel_drop(&ch);
}

static void ws_opened(struct channel *ch)
{
    struct omid_instance *inst = instance_for(ch);
    struct omid_conn *conn = inst != NULL ? conn_new(ch, inst) : NULL;
    if (conn == NULL) {
        refuse_ws(ch, WS_CODE_TRY_LATER, inst == NULL ? "the plugin is not running" : "out of memory");
        return;
    }
    if (conn->route->open == NULL)
        return;
    const struct omid_request req = view_of(ch);
    struct host_call call;
    host_enter(&call, inst, "open");
    if (host_leave(&call, conn->route->open(host_state(inst), conn, &req, &conn->user)) < 0) {
        conn_end(conn, WS_CODE_INTERNAL, "refused by the plugin");
        conn_let_go(conn);
        free(conn);
    }
}

static bool ws_message(struct channel *ch, enum ws_opcode op, const unsigned char *data, size_t len)
{
    struct omid_conn *conn = channel_user(ch);
    CHECK_MAGIC(conn, CONN_MAGIC);
    if (conn->closing)
        return true;
    struct host_call call;
    host_enter(&call, conn->att.inst, "message");
    int rc =
        host_leave(&call, conn->route->message(conn->user, conn, op == WS_TEXT ? OMID_TEXT : OMID_BINARY, data, len));
    if (rc == OMID_EFULL && !conn->closing) {
        conn->held = true;
        if (!conn->blocked) {
            struct ev_loop *ev = loop_ev(host_loop(conn->att.inst));
            ev_timer_set(&conn->retry, conn->retry_s, 0.0);
            ev_timer_start(ev, &conn->retry);
            conn->retry_s = conn->retry_s * 2 < RETRY_MAX_S ? conn->retry_s * 2 : RETRY_MAX_S;
        }
        return false;
    }
    conn->retry_s = RETRY_FIRST_S;
    if (rc != OMID_OK)
        conn_end(conn, WS_CODE_INTERNAL, "the plugin failed");
    return true;
}

static void ws_writable(struct channel *ch)
{
    struct omid_conn *conn = channel_user(ch);
    CHECK_MAGIC(conn, CONN_MAGIC);
    conn->blocked = false;
    redeliver(conn);
}

static void ws_closed(struct channel *ch, uint16_t code)
{
    struct omid_conn *conn = channel_user(ch);
    CHECK_MAGIC(conn, CONN_MAGIC);
    conn->closing = true;
    conn_tell_closed(conn, code);
    conn_let_go(conn);
    free(conn);
}

const struct channel_handler plugin_ws_handler = {
    .opened = ws_opened, .message = ws_message, .writable = ws_writable, .closed = ws_closed};

static int conn_door(const struct omid_conn *conn, const char *function)
{
    omid_assert(conn->magic == CONN_MAGIC || conn->magic == OMID_MAGIC_DEAD);
    int rc = host_check(conn->att.inst, function);
    if (rc != OMID_OK)
        return rc;
    return conn->magic == CONN_MAGIC ? OMID_OK : OMID_ECLOSED;
}

int plugin_conn_send(struct omid_conn *conn, enum omid_message type, const void *data, size_t len)
{
    int rc = conn_door(conn, "conn_send");
    if (rc != OMID_OK)
        return rc;
    if (conn->closing)
        return OMID_ECLOSED;
    if (type == OMID_TEXT && !utf8_valid(data, len))
        return OMID_EINVAL;
    switch (channel_down_message(conn->ch, type == OMID_TEXT ? WS_TEXT : WS_BINARY, data, len)) {
    case CHANNEL_OK:
        return OMID_OK;
    case CHANNEL_FULL:
        conn->blocked = true;
        return OMID_EFULL;
    case CHANNEL_CLOSED:
        break;
    }
    return OMID_ECLOSED;
}

/* RFC 6455, 7.4: what an endpoint may send. */
static bool code_sendable(uint16_t code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

/* The longest prefix of whole characters that fits into a Close frame. */
static void reason_copy(char out[WS_MAX_REASON + 1], const char *reason)
{
    size_t n = strlen(reason);
    if (n > WS_MAX_REASON) {
        n = WS_MAX_REASON;
        while (n > 0 && ((unsigned char)reason[n] & 0xc0) == 0x80)
            n--;
    }
    memcpy(out, reason, n);
    out[n] = '\0';
}

void plugin_conn_close(struct omid_conn *conn, uint16_t code, const char *reason)
{
    if (conn_door(conn, "conn_close") != OMID_OK)
        return;
    if (!code_sendable(code)) {
        log_error("bus", "a plugin closes with a code that must not be sent", LS("plugin", host_name(conn->att.inst)),
                  LU("code", code));
        code = WS_CODE_INTERNAL;
    }
    char text[WS_MAX_REASON + 1] = "";
    if (reason != NULL && utf8_valid(reason, strlen(reason)))
        reason_copy(text, reason);
    conn_end(conn, code, text);
}
