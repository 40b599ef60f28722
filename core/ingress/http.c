/*
 * Requests: found their route, checked, handed to a reactor, answered. An exchange lives in the request's pool: h2o
 * frees it when the answer is written or the connection ends, and then it lets go of its channel.
 *
 * h2o does not read while a request is served, and must not (the request lies in the input buffer). To notice that
 * the client has left, the socket is polled without reading it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "ingress/private.h"
#include "ingress/tcp.h"

#define AUTH_RETRY_S 5
#define GONE_CHECK_MS 1000 /* for clients that can't be polled any more: they have sent on */

const char *http_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {304, "Not Modified"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {409, "Conflict"},
        {410, "Gone"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"},
        {422, "Unprocessable Content"},
        {426, "Upgrade Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {499, "Client Closed Request"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {507, "Insufficient Storage"},
    };
    static const char *const classes[] = {"OK", "Redirect", "Client Error", "Server Error"};

    for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return status >= 200 && status <= 599 ? classes[status / 100 - 2] : "Unknown";
}

/* ------------------------------------------------------------ the client's presence */

void http_unwatch(struct exchange *ex)
{
    if (!ex->watching)
        return;
    ex->watching = false;
    h2o_socket_read_stop(ex->client->sock);
    h2o_socket_dont_read(ex->client->sock, 0);
}

static void client_gone(struct exchange *ex)
{
    if (ex->ch != NULL)
        channel_up_closed(&ex->ch, WS_CODE_ABNORMAL);
    ex->req->http1_is_persistent = 0;
    http_answer(ex, 499, NULL, NULL, 0);
}

static void on_readable(h2o_socket_t *sock, const char *err)
{
    struct client *c = sock->on_close.data;
    CHECK_MAGIC(c, CLIENT_MAGIC);
    struct exchange *ex = c->exchange;
    CHECK_MAGIC(ex, EXCHANGE_MAGIC);
    http_unwatch(ex);
    if (err != NULL || tcp_peer_gone(h2o_socket_get_fd(sock)))
        client_gone(ex);
    else
        timer_set(&c->t->timers, &c->timer, c->t->now_ms + GONE_CHECK_MS);
}

static void watch(struct exchange *ex)
{
    if (ex->watching)
        return;
    ex->watching = true;
    h2o_socket_dont_read(ex->client->sock, 1);
    h2o_socket_read_start(ex->client->sock, on_readable);
}

uint64_t http_answer_ms(const struct client *c)
{
    return (uint64_t)c->t->conf->ingress.answer_timeout_ms + EXCHANGE_GRACE_MS;
}

void http_timeout(struct client *c)
{
    struct exchange *ex = c->exchange;

    if (ex == NULL || ex->answered) {
        /* The client does not take the answer, or nobody goes on with it. */
        http_cut(c);
        return;
    }
    CHECK_MAGIC(ex, EXCHANGE_MAGIC);
    if (c->t->now_ms - c->since_ms >= http_answer_ms(c)) {
        metric_add(ingress_metrics.answers_late, 1);
        log_warning("ingress", "no answer in time", LS("path", ex->route == NULL ? "" : ex->route->path));
        if (ex->ch != NULL)
            channel_up_closed(&ex->ch, WS_CODE_ABNORMAL);
        http_refuse(ex, 504, "no answer in time");
        return;
    }
    if (!ex->watching && tcp_peer_gone(h2o_socket_get_fd(c->sock))) {
        client_gone(ex);
        return;
    }
    uint64_t due = c->since_ms + http_answer_ms(c);
    if (!ex->watching && due > c->t->now_ms + GONE_CHECK_MS)
        due = c->t->now_ms + GONE_CHECK_MS;
    timer_set(&c->t->timers, &c->timer, due);
}

/* ------------------------------------------------------------ answers */

void http_header(struct exchange *ex, const char *name, const char *value)
{
    h2o_req_t *req = ex->req;
    h2o_iovec_t copy = h2o_strdup(&req->pool, value, SIZE_MAX);
    h2o_iovec_t lower = h2o_strdup(&req->pool, name, SIZE_MAX);
    h2o_strtolower(lower.base, lower.len);
    /* The name is looked up as a token; else the lower-case copy is kept with the given spelling for the wire. */
    h2o_add_header_by_str(&req->pool, &req->res.headers, lower.base, lower.len, 1, name, copy.base, copy.len);
}

void http_answer(struct exchange *ex, int status, const char *content_type, const void *body, size_t len)
{
    struct client *c = ex->client;
    h2o_req_t *req = ex->req;

    CHECK_MAGIC(ex, EXCHANGE_MAGIC);
    omid_assert(!ex->answered);
    ex->answered = true;
    auth_cancel(&ex->waiter);
    http_unwatch(ex);
    req->res.status = status;
    req->res.reason = http_reason(status);
    if (status == 204 || status == 304)
        len = 0;
    else
        req->res.content_length = len;
    if (len > 0 && content_type != NULL)
        http_header(ex, "Content-Type", content_type);
    if (c->t->stopping)
        req->http1_is_persistent = 0;
    metric_add(ingress_metrics.requests[status / 100 - 2], 1);
    /* Whoever does not read the answer for that long is cut. */
    timer_set(&c->t->timers, &c->timer, c->t->now_ms + http_answer_ms(c));
    h2o_send_inline(req, len > 0 ? body : "", len);
}

void http_refuse(struct exchange *ex, int status, const char *err)
{
    struct buf body = BUF_INIT(4096);
    struct json_w w;

    json_w_start(&w, &body);
    json_w_open(&w, '{');
    json_w_kstr(&w, "error", err);
    json_w_close(&w, '}');
    if (json_w_end(&w) && buf_puts(&body, "\n"))
        http_answer(ex, status, "application/json", body.data, body.len);
    else
        http_answer(ex, status, NULL, NULL, 0);
    buf_free(&body);
}

void http_abandon(struct exchange *ex)
{
    if (ex->ch != NULL)
        channel_up_closed(&ex->ch, WS_CODE_GOING_AWAY);
    ex->req->http1_is_persistent = 0;
    http_refuse(ex, 503, "going away");
}

/* ------------------------------------------------------------ the exchange */

static void on_request_end(void *p)
{
    struct exchange *ex = p;
    struct client *c = ex->client;

    CHECK_MAGIC(ex, EXCHANGE_MAGIC);
    ex->magic = OMID_MAGIC_DEAD;
    if (ex->ch != NULL)
        channel_up_closed(&ex->ch, WS_CODE_ABNORMAL);
    http_stream_free(ex);
    auth_cancel(&ex->waiter);
    admission_leave(&ex->admission);
    channel_request_free(&ex->request);
    routes_free(&ex->routes);
    c->exchange = NULL;
    if (!ex->upgrading)
        client_request_done(c);
}

static struct exchange *exchange_begin(h2o_req_t *req)
{
    struct client *c = client_of(req);
    struct exchange *ex = h2o_mem_alloc_shared(&req->pool, sizeof(*ex), on_request_end);

    memset(ex, 0, sizeof(*ex));
    ex->magic = EXCHANGE_MAGIC;
    ex->client = c;
    ex->req = req;
    c->exchange = ex;
    client_request_begin(c);
    timer_set(&c->t->timers, &c->timer, c->t->now_ms + http_answer_ms(c));
    return ex;
}

h2o_iovec_t http_header_get(h2o_req_t *req, const char *name, size_t *n)
{
    h2o_iovec_t value = {NULL, 0};
    ssize_t at = -1;

    *n = 0;
    while ((at = h2o_find_header_by_str(&req->headers, name, strlen(name), at)) != -1) {
        value = req->headers.entries[at].value;
        ++*n;
    }
    return value;
}

static char *dup_text(const char *s, size_t len)
{
    char *copy = malloc(len + 1);
    if (copy == NULL)
        return NULL;
    if (len > 0)
        memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

static char *dup_header(h2o_req_t *req, const char *name)
{
    size_t n;
    h2o_iovec_t value = http_header_get(req, name, &n);
    return dup_text(value.base, value.len);
}

/* All but Authorization: what a route may see. In one block: the array, then the texts. false: no memory. */
static bool dup_headers(h2o_req_t *req, struct channel_request *r)
{
    size_t n = 0, bytes = 0;
    for (size_t i = 0; i < req->headers.size; i++) {
        const h2o_header_t *h = &req->headers.entries[i];
        bytes += h->name->len + h->value.len + 2;
    }
    r->headers = malloc(req->headers.size * sizeof(*r->headers) + bytes + 1);
    if (r->headers == NULL)
        return false;
    char *at = (char *)(r->headers + req->headers.size);
    for (size_t i = 0; i < req->headers.size; i++) {
        const h2o_header_t *h = &req->headers.entries[i];
        if (h2o_memis(h->name->base, h->name->len, H2O_STRLIT("authorization")))
            continue;
        r->headers[n].name = at;
        memcpy(at, h->name->base, h->name->len); /* h2o has it in lower case */
        at += h->name->len;
        *at++ = '\0';
        r->headers[n++].value = at;
        memcpy(at, h->value.base, h->value.len);
        at += h->value.len;
        *at++ = '\0';
    }
    r->n_headers = n;
    return true;
}

static void split_path(h2o_req_t *req, h2o_iovec_t *path, h2o_iovec_t *query)
{
    const char *mark = memchr(req->path.base, '?', req->path.len);

    *path = req->path;
    *query = h2o_iovec_init("", 0);
    if (mark == NULL)
        return;
    path->len = (size_t)(mark - req->path.base);
    *query = h2o_iovec_init(mark + 1, req->path.len - path->len - 1);
}

static bool request_fill(struct exchange *ex, bool websocket)
{
    h2o_req_t *req = ex->req;
    struct channel_request *r = &ex->request;
    h2o_iovec_t path, query;
    char peer[CIDR_TEXT];

    split_path(req, &path, &query);
    admission_peer(ex->client->t, ex->client, req, peer, ex->net);
    r->method = dup_text(req->method.base, req->method.len);
    r->path = dup_text(path.base, path.len);
    r->query = dup_text(query.base, query.len);
    r->content_type = dup_header(req, "content-type");
    r->idempotency_key = dup_header(req, "idempotency-key");
    r->peer = dup_text(peer, strlen(peer));
    r->body = dup_text(req->entity.base, req->entity.len);
    r->body_len = req->entity.len;
    r->websocket = websocket;
    return r->method != NULL && r->path != NULL && r->query != NULL && r->content_type != NULL &&
           r->idempotency_key != NULL && r->peer != NULL && r->body != NULL && (websocket || dup_headers(req, r));
}

/* ------------------------------------------------------------ to the reactor */

unsigned http_reactor_of(struct ingress_thread *t, const char *uid)
{
    const struct ingress_env *env = &t->in->env;
    unsigned i = uid != NULL ? env->reactor_of(uid, env->n_loops) : t->round_robin++ % env->n_loops;
    omid_assert(i < env->n_loops);
    return i;
}

static void start_request(struct exchange *ex)
{
    struct ingress_thread *t = ex->client->t;
    const struct conf *conf = t->conf;
    unsigned reactor = http_reactor_of(t, ex->request.uid);

    ex->ch = channel_new(&ex->request, ex->route, &t->sink, ex, t->in->env.loops[reactor], ex->route->handler,
                         conf->listen.up_buffer, conf->listen.down_buffer);
    if (ex->ch == NULL) {
        metric_add(ingress_metrics.refused[REFUSED_MEMORY], 1);
        http_refuse(ex, 503, "out of memory");
        return;
    }
    watch(ex);
    channel_up_open(ex->ch);
}

void http_header_lines(struct exchange *ex, const char *line)
{
    for (; line != NULL && *line != '\0'; line += strlen(line) + 1) {
        const char *colon = strchr(line, ':');
        omid_assert(colon != NULL);
        h2o_iovec_t name = h2o_strdup(&ex->req->pool, line, (size_t)(colon - line));
        http_header(ex, name.base, colon + 1 + strspn(colon + 1, " "));
    }
}

void http_down(struct exchange *ex, struct channel_down *d)
{
    CHECK_MAGIC(ex, EXCHANGE_MAGIC);
    switch (d->kind) {
    case DOWN_RESPONSE:
        channel_up_closed(&ex->ch, WS_CODE_NORMAL);
        http_header_lines(ex, d->headers);
        http_answer(ex, d->code, d->content_type, d->data, d->len);
        break;
    case DOWN_HEAD:
    case DOWN_BODY:
    case DOWN_END:
        http_stream(ex, d);
        return;
    case DOWN_CLOSE:
        channel_up_closed(&ex->ch, WS_CODE_NORMAL);
        if (ex->answered)
            http_stream_cut(ex);
        else if (d->code == WS_CODE_TRY_LATER)
            http_refuse(ex, 503, "overloaded, try again later");
        else
            http_refuse(ex, 500, "no answer");
        break;
    case DOWN_MESSAGE:
    case DOWN_RESUME:
        break;
    }
    channel_down_free(d);
}

static void retry_after(struct exchange *ex, unsigned s)
{
    char text[16];
    snprintf(text, sizeof(text), "%u", s);
    http_header(ex, "Retry-After", text);
}

static void refuse_limited(struct exchange *ex, int status, const struct admission_refusal *refusal)
{
    metric_add(ingress_metrics.upgrades[UPGRADE_LIMIT], 1);
    log_info("ingress", "upgrade refused", LS("reason", refusal->reason), LS("peer", ex->request.peer));
    retry_after(ex, refusal->retry_s);
    http_refuse(ex, status, refusal->reason);
}

static void on_auth(void *arg, const struct auth_answer *answer)
{
    struct exchange *ex = arg;
    struct admission_refusal refusal;

    CHECK_MAGIC(ex, EXCHANGE_MAGIC);
    http_unwatch(ex);
    if (answer->verdict == AUTH_OK) {
        ex->request.uid = strdup(answer->uid);
        if (ex->request.uid == NULL)
            http_refuse(ex, 503, "out of memory");
        else if (ex->websocket && !admission_uid(&ex->admission, answer->uid, &refusal))
            refuse_limited(ex, 429, &refusal);
        else if (ex->websocket)
            upgrade_accept(ex);
        else
            start_request(ex);
        return;
    }
    if (ex->websocket)
        metric_add(ingress_metrics.upgrades[UPGRADE_AUTH], 1);
    if (answer->verdict == AUTH_UNAVAILABLE) {
        retry_after(ex, AUTH_RETRY_S);
        http_refuse(ex, 503, answer->reason);
    } else if (ex->route->auth == ROUTE_TOKEN_LISTEN) {
        http_refuse(ex, 403, answer->reason);
    } else {
        http_header(ex, "WWW-Authenticate",
                    answer->verdict == AUTH_MISSING ? "Bearer" : "Bearer error=\"invalid_token\"");
        http_refuse(ex, 401, answer->reason);
    }
}

/* Who may connect to the control socket has shown that it may. */
static void serve_admin(struct exchange *ex)
{
    size_t n;
    h2o_iovec_t value = http_header_get(ex->req, "authorization", &n);
    const char *reason = ex->client->control ? NULL : auth_admin(ex->client->t, n == 1 ? value.base : NULL, value.len);

    if (reason == NULL) {
        start_request(ex);
        return;
    }
    http_header(ex, "WWW-Authenticate", "Bearer");
    http_refuse(ex, 401, reason);
}

static void serve_route(struct exchange *ex)
{
    char err[256] = "bad request";

    h2o_iovec_t path, query;
    split_path(ex->req, &path, &query);
    if (!route_params(ex->route, path.base, path.len, ex->request.params, err, sizeof(err))) {
        http_refuse(ex, 400, err);
        return;
    }
    if (!request_fill(ex, ex->websocket)) {
        metric_add(ingress_metrics.refused[REFUSED_MEMORY], 1);
        http_refuse(ex, 503, "out of memory");
        return;
    }
    if (ex->route->precheck != NULL && !ex->route->precheck(&ex->request, err, sizeof(err))) {
        if (ex->websocket)
            metric_add(ingress_metrics.upgrades[UPGRADE_PRECHECK], 1);
        http_refuse(ex, 400, err);
        return;
    }
    struct admission_refusal refusal;
    if (ex->websocket && !admission_address(&ex->admission, ex->client->t, ex->net, &refusal)) {
        refuse_limited(ex, 429, &refusal);
    } else if (ex->route->auth == ROUTE_ADMIN) {
        serve_admin(ex);
    } else if (ex->route->auth == ROUTE_TOKEN_FIRST) {
        if (admission_stranger(&ex->admission, &refusal))
            upgrade_accept(ex);
        else
            refuse_limited(ex, 503, &refusal);
    } else if (ex->route->auth != ROUTE_OPEN) {
        size_t n;
        h2o_iovec_t value = http_header_get(ex->req, "authorization", &n);
        /* When it is answered at once the exchange may be gone. */
        if (auth_header(ex->client->t, n == 1 ? value.base : NULL, value.len, on_auth, ex, &ex->waiter))
            watch(ex);
    } else if (ex->websocket) {
        upgrade_accept(ex);
    } else {
        start_request(ex);
    }
}

/* ------------------------------------------------------------ dispatch */

static bool path_is(h2o_iovec_t path, const char *text)
{
    return h2o_memis(path.base, path.len, text, strlen(text));
}

/* Health, metrics, status. false: not one of them. */
static bool serve_direct(struct exchange *ex, h2o_iovec_t path)
{
    const struct ingress_direct *found = NULL;
    h2o_iovec_t method = ex->req->method;

    for (const struct ingress_direct *d = ex->client->t->in->env.direct; d != NULL && d->path != NULL; d++) {
        if ((d->control_only && !ex->client->control) || !path_is(path, d->path))
            continue;
        found = d;
        if (path_is(method, d->method) || (path_is(method, "HEAD") && strcmp(d->method, "GET") == 0)) {
            struct buf body = BUF_INIT((size_t)64 << 20);
            const char *content_type = "application/json";
            char *whole = dup_text(ex->req->path.base, ex->req->path.len);
            int status = whole != NULL ? d->fn(d->arg, whole, &body, &content_type) : 503;
            http_answer(ex, status, content_type, body.data, body.len);
            buf_free(&body);
            free(whole);
            return true;
        }
    }
    if (found == NULL)
        return false;
    http_header(ex, "Allow", strcmp(found->method, "GET") == 0 ? "GET, HEAD" : found->method);
    http_refuse(ex, 405, "method not allowed");
    return true;
}

static void refuse_method(struct exchange *ex, h2o_iovec_t path)
{
    char allow[128];
    routes_allow(ex->client->t->routes, path.base, path.len, allow, sizeof(allow));
    http_header(ex, "Allow", allow);
    http_refuse(ex, 405, "method not allowed");
}

static void serve(struct exchange *ex, h2o_iovec_t path)
{
    h2o_req_t *req = ex->req;
    const struct routes *routes = ex->routes = routes_ref(ex->client->t->routes);
    bool other = false, ignored, get = path_is(req->method, "GET");

    const struct route *ws =
        routes_find(routes, path.base, path.len, req->method.base, req->method.len, true, &ignored);
    const struct route *http =
        routes_find(routes, path.base, path.len, req->method.base, req->method.len, false, &other);
    if (ex->client->control) { /* for administration alone: nobody has a uid there */
        ws = NULL;
        if (http != NULL && http->auth != ROUTE_ADMIN)
            http = NULL;
    }
    if (ws != NULL && get && (upgrade_wanted(req) || http == NULL)) {
        ex->route = ws;
        ex->websocket = true;
        if (upgrade_check(ex))
            serve_route(ex);
    } else if (http != NULL) {
        ex->route = http;
        serve_route(ex);
    } else if (other || ws != NULL) {
        refuse_method(ex, path);
    } else {
        http_refuse(ex, 404, "no such path");
    }
}

/* What h2o was given at once, before our callback could see it grow. */
static size_t head_size(const h2o_req_t *req)
{
    size_t size = req->method.len + req->path.len + 14;

    for (size_t i = 0; i < req->headers.size; i++)
        size += req->headers.entries[i].name->len + req->headers.entries[i].value.len + 4;
    return size;
}

int http_handle(h2o_handler_t *self, h2o_req_t *req)
{
    struct exchange *ex = exchange_begin(req);
    h2o_iovec_t path, query;

    (void)self;
    split_path(req, &path, &query);
    if (head_size(req) > ex->client->t->conf->ingress.max_header) {
        metric_add(ingress_metrics.refused[REFUSED_HEADER], 1);
        req->http1_is_persistent = 0;
        http_refuse(ex, 431, "the request header is too big");
    } else if (!serve_direct(ex, path)) {
        serve(ex, path);
    }
    return 0;
}
