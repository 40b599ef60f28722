#include "lane/http/wsconn.h"

#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <omid/plugin.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/magic.h"
#include "lane/http/curlev.h"
#include "lane/http/guard.h"
#include "lane/http/wsupgrade.h"

#define WSLOOP_MAGIC UINT32_C(0x77736c70)
#define WSCONN_MAGIC UINT32_C(0x7773636e)

#define READ_SIZE (64u << 10)
#define READ_TURN (256u << 10) /* bytes read from one connection before others have their turn */
#define TLS_CHUNK 16384u       /* a TLS record; a retry must offer the same bytes again */
#define CLOSE_S 3.
#define UNACKED_MS 15000u         /* TCP_USER_TIMEOUT */
#define KERNEL_BYTES (128 * 1024) /* SO_SNDBUF, of which the kernel makes twice as much */
#define MAX_REQUEST TLS_CHUNK
#define MAX_SEND (16u << 20)     /* bytes of one message */
#define CONTROL_ROOM (64u << 10) /* Pongs may wait in this beyond the send buffer */
#define KEEP_BUFFER 512u         /* an emptied send buffer larger than this is given back: it is empty nearly always */
#define SPARE_BUFFER (64u << 10) /* the loop keeps one of at most this for the next message of whichever connection */

struct wsloop {
    uint32_t magic;
    struct ev_loop *ev;
    struct curlev *curl;
    unsigned conns;
    struct buf spare;
    unsigned char in[READ_SIZE];
};

enum wsconn_state { CONN_CONNECTING, CONN_UPGRADING, CONN_OPEN, CONN_CLOSING, CONN_ENDED };

struct wsconn {
    uint32_t magic;
    enum wsconn_state state;
    struct wsloop *w;
    const struct wsconn_events *events;
    void *arg;
    struct ws_url url;
    char key[25];
    uint32_t connect_ms;
    size_t send_buffer;
    bool only_public, blocked, own_fault, unresolved;

    CURL *easy;
    int fd;
    SSL *ssl; /* curl's; NULL for ws:// */
    ev_io io;
    int io_events;
    ev_timer timer; /* connect, upgrade, close */
    ev_timer more;  /* a turn of its own: more to read, or an end to tell */
    bool tls_wants_write;
    size_t tls_retry; /* bytes of the write under way; 0: none */

    struct buf out;
    size_t out_at; /* sent of it */
    bool want_writable;
    struct buf answer; /* to the upgrade */
    struct ws_parser parser;

    unsigned depth; /* handlers on the stack: the memory stays until they return */
    bool released;
    bool end_pending; /* `end` is to be told in a turn of its own */
    struct wsconn_end end;
    char curl_text[CURL_ERROR_SIZE];
    char text[256];
};

static void wsconn_set_state(struct wsconn *c, enum wsconn_state to)
{
    static const bool legal[5][5] = {
        [CONN_CONNECTING] = {[CONN_UPGRADING] = true, [CONN_ENDED] = true},
        [CONN_UPGRADING] = {[CONN_OPEN] = true, [CONN_ENDED] = true},
        [CONN_OPEN] = {[CONN_CLOSING] = true, [CONN_ENDED] = true},
        [CONN_CLOSING] = {[CONN_ENDED] = true},
    };
    omid_assert(legal[c->state][to]);
    c->state = to;
}

static void start_timer(struct wsconn *c, ev_timer *t, double after)
{
    ev_timer_stop(c->w->ev, t);
    ev_now_update(c->w->ev);
    ev_timer_set(t, after, 0.);
    ev_timer_start(c->w->ev, t);
}

/* ------------------------------------------------------------------ the end */

/* Everything but the memory. */
static void conn_teardown(struct wsconn *c)
{
    struct ev_loop *ev = c->w->ev;

    ev_io_stop(ev, &c->io);
    ev_timer_stop(ev, &c->timer);
    ev_timer_stop(ev, &c->more);
    c->ssl = NULL;
    c->fd = -1;
    if (c->easy) {
        curlev_remove(c->w->curl, c->easy); /* closes the connection */
        curl_easy_cleanup(c->easy);
        c->easy = NULL;
    }
    buf_free(&c->out);
    buf_free(&c->answer);
    c->out_at = 0;
}

static void conn_free(struct wsconn *c)
{
    c->w->conns--;
    ws_parser_free(&c->parser); /* not before: a message that is being told may lie in it */
    ws_url_free(&c->url);
    c->magic = OMID_MAGIC_DEAD;
    free(c);
}

static void conn_enter(struct wsconn *c)
{
    CHECK_MAGIC(c, WSCONN_MAGIC);
    c->depth++;
}

static void conn_leave(struct wsconn *c)
{
    if (--c->depth == 0 && c->released)
        conn_free(c);
}

/* From handlers, never from the user's calls: the callback comes at once. */
static void conn_end(struct wsconn *c, enum wsconn_why why, uint16_t code, int status, const char *text)
{
    if (c->released || c->state == CONN_ENDED)
        return;
    wsconn_set_state(c, CONN_ENDED);
    snprintf(c->text, sizeof c->text, "%s", text);
    for (char *t = c->text; *t; t++) {
        if ((unsigned char)*t < ' ' || (unsigned char)*t == 0x7f)
            *t = '?';
    }
    conn_teardown(c);
    c->end = (struct wsconn_end){.why = why,
                                 .own_fault = c->own_fault,
                                 .unresolved = c->unresolved,
                                 .code = code,
                                 .http_status = status,
                                 .text = c->text};
    c->events->ended(c->arg, &c->end);
}

/* The same from within a user's call: told in a turn of its own. */
static void conn_end_later(struct wsconn *c, enum wsconn_why why, uint16_t code, const char *text)
{
    if (c->end_pending || c->state == CONN_ENDED)
        return;
    c->end_pending = true;
    c->end = (struct wsconn_end){.why = why, .code = code, .text = text};
    start_timer(c, &c->more, 0.);
}

static void conn_lost(struct wsconn *c, const char *text)
{
    bool open = c->state == CONN_OPEN || c->state == CONN_CLOSING;
    conn_end(c, open ? WSCONN_LOST : WSCONN_FAILED, WS_CODE_ABNORMAL, 0, text);
}

/* ------------------------------------------------------------------ bytes */

static size_t conn_queued(const struct wsconn *c)
{
    return c->out.len - c->out_at;
}

static void conn_watch(struct wsconn *c)
{
    int events = EV_READ | (conn_queued(c) > 0 || c->tls_wants_write || c->want_writable ? EV_WRITE : 0);

    if (c->fd < 0 || (events == c->io_events && ev_is_active(&c->io)))
        return;
    ev_io_stop(c->w->ev, &c->io);
    ev_io_set(&c->io, c->fd, events);
    ev_io_start(c->w->ev, &c->io);
    c->io_events = events;
}

/* Bytes; 0: the peer has ended; -1: none now; -2: broken. */
static ssize_t tls_result(struct wsconn *c, int n)
{
    if (n > 0)
        return n;
    switch (SSL_get_error(c->ssl, n)) {
    case SSL_ERROR_WANT_READ:
        return -1;
    case SSL_ERROR_WANT_WRITE:
        c->tls_wants_write = true;
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        return -2;
    }
}

static ssize_t conn_recv(struct wsconn *c, void *to, size_t size)
{
    if (c->ssl) {
        ERR_clear_error();
        return tls_result(c, SSL_read(c->ssl, to, (int)size));
    }
    ssize_t n = recv(c->fd, to, size, 0);
    if (n >= 0)
        return n;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? -1 : -2;
}

static ssize_t conn_write(struct wsconn *c, const char *from, size_t len)
{
    if (!c->ssl) {
        ssize_t n = send(c->fd, from, len, MSG_NOSIGNAL);
        if (n >= 0)
            return n;
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? -1 : -2;
    }
    /* The queue grows only behind a write that is to be retried, so that its bytes are the same. */
    size_t chunk = c->tls_retry > 0 ? c->tls_retry : len < TLS_CHUNK ? len : TLS_CHUNK;
    ERR_clear_error();
    ssize_t n = tls_result(c, SSL_write(c->ssl, from, (int)chunk));
    c->tls_retry = n == -1 ? chunk : 0;
    return n == 0 ? -2 : n;
}

/* For a message of so many bytes. Sockets take nearly all at once, so that one buffer, still in the processor's cache,
 * serves all connections of a loop. */
static void conn_take_buffer(struct wsconn *c, size_t len)
{
    if (c->out.len > 0 || len < c->out.cap || !c->w->spare.data)
        return;
    buf_free(&c->out);
    c->out = c->w->spare;
    c->w->spare = BUF_INIT(0);
}

static void conn_give_buffer(struct wsconn *c)
{
    buf_clear(&c->out);
    if (c->out.cap <= KEEP_BUFFER)
        return;
    if (c->w->spare.data || c->out.cap > SPARE_BUFFER) {
        buf_free(&c->out);
        return;
    }
    c->w->spare = c->out;
    c->out = BUF_INIT(0);
}

/* false: broken. */
static bool conn_flush(struct wsconn *c)
{
    c->tls_wants_write = false;
    while (conn_queued(c) > 0) {
        ssize_t n = conn_write(c, c->out.data + c->out_at, conn_queued(c));
        if (n == -1)
            break;
        if (n < 0)
            return false;
        c->out_at += (size_t)n;
    }
    if (conn_queued(c) == 0) {
        c->out_at = 0;
        conn_give_buffer(c);
    } else if (c->out_at > c->out.len / 2) { /* moved rarely, so that the cost stays linear */
        buf_consume(&c->out, c->out_at);
        c->out_at = 0;
    }
    conn_watch(c);
    return true;
}

/* A control frame; beside the send buffer's bound, within CONTROL_ROOM. */
static void conn_control(struct wsconn *c, enum ws_opcode op, const void *data, size_t len)
{
    if (conn_queued(c) < c->send_buffer + CONTROL_ROOM)
        ws_build(&c->out, op, data, len, true);
}

static void conn_send_close(struct wsconn *c, uint16_t code, const char *reason)
{
    unsigned char payload[WS_MAX_CONTROL];
    size_t len = code == WS_CODE_NONE ? 0 : ws_close_payload(payload, code, reason);
    ws_build(&c->out, WS_CLOSE, payload, len, true);
}

/* ------------------------------------------------------------------ frames */

/* The peer's Close. Ours goes out as far as the socket takes it at once. */
static void conn_on_close(struct wsconn *c, const struct ws_event *ev)
{
    char reason[WS_MAX_CONTROL + 1];

    snprintf(reason, sizeof reason, "%.*s", (int)ev->len, (const char *)ev->data);
    if (c->state == CONN_OPEN) {
        conn_send_close(c, ev->code, "");
        (void)conn_flush(c);
    }
    conn_end(c, WSCONN_CLOSED, ev->code, 0, reason[0] ? reason : "closed by the peer");
}

static void conn_on_event(struct wsconn *c, const struct ws_event *ev)
{
    switch (ev->opcode) {
    case WS_TEXT:
    case WS_BINARY:
        c->events->message(c->arg, ev->opcode, ev->data, ev->len);
        break;
    case WS_PING:
        if (c->state == CONN_OPEN) {
            conn_control(c, WS_PONG, ev->data, ev->len);
            if (!conn_flush(c))
                conn_lost(c, "sending failed");
        }
        break;
    case WS_CLOSE:
        conn_on_close(c, ev);
        break;
    default:
        break;
    }
}

static bool conn_listens(const struct wsconn *c)
{
    return !c->released && !c->end_pending && (c->state == CONN_OPEN || c->state == CONN_CLOSING);
}

static void conn_feed(struct wsconn *c, unsigned char *in, size_t len)
{
    while (len > 0 && conn_listens(c)) {
        struct ws_event ev;
        size_t used = 0;
        int rc = ws_parse(&c->parser, in, len, &used, &ev);
        if (rc == 0)
            return;
        if (rc < 0) {
            if (c->state == CONN_OPEN) {
                conn_send_close(c, ev.code, (const char *)ev.data);
                (void)conn_flush(c);
            }
            conn_end(c, WSCONN_LOST, ev.code, 0, (const char *)ev.data);
            return;
        }
        in += used;
        len -= used;
        conn_on_event(c, &ev);
    }
}

/* ------------------------------------------------------------------ the upgrade */

static void conn_on_answer(struct wsconn *c, const void *data, size_t len)
{
    size_t used = 0;
    int status = 0;
    const char *why = NULL;

    if (!buf_append(&c->answer, data, len)) {
        conn_end(c, WSCONN_FAILED, WS_CODE_ABNORMAL, 0, "no memory for the answer");
        return;
    }
    int rc = ws_answer_check(c->answer.data, c->answer.len, c->key, &used, &status, &why);
    if (rc == 0)
        return;
    if (rc < 0) {
        conn_end(c, status ? WSCONN_REJECTED : WSCONN_FAILED, WS_CODE_ABNORMAL, status, why);
        return;
    }
    struct buf rest = c->answer; /* what came behind the header stays alive while its messages are told */
    c->answer = BUF_INIT(0);
    ev_timer_stop(c->w->ev, &c->timer);
    wsconn_set_state(c, CONN_OPEN);
    c->events->open(c->arg);
    conn_feed(c, (unsigned char *)rest.data + used, rest.len - used);
    buf_free(&rest);
}

static void conn_read(struct wsconn *c)
{
    size_t left = READ_TURN;

    while (c->state == CONN_UPGRADING || conn_listens(c)) {
        if (c->released || c->end_pending)
            return;
        if (left == 0) { /* bytes that TLS holds never wake the loop */
            start_timer(c, &c->more, 0.);
            return;
        }
        size_t room = left < READ_SIZE ? left : READ_SIZE;
        ssize_t n = conn_recv(c, c->w->in, room);
        if (n == -1) {
            conn_watch(c);
            return;
        }
        if (n <= 0) {
            conn_lost(c, n == 0 ? "the peer closed the connection" : "the connection broke");
            return;
        }
        left -= (size_t)n;
        if (c->state == CONN_UPGRADING)
            conn_on_answer(c, c->w->in, (size_t)n);
        else
            conn_feed(c, c->w->in, (size_t)n);
        if (!c->ssl && (size_t)n < room) { /* a socket has no more; what comes later wakes the loop */
            conn_watch(c);
            return;
        }
    }
}

static void conn_on_io(struct ev_loop *ev, ev_io *io, int revents)
{
    struct wsconn *c = io->data;

    (void)ev;
    (void)revents;
    conn_enter(c);
    if (!conn_flush(c)) {
        conn_lost(c, "sending failed");
    } else {
        if (c->want_writable && c->state == CONN_OPEN && conn_queued(c) <= c->send_buffer / 2) {
            c->want_writable = false;
            conn_watch(c);
            c->events->writable(c->arg);
        }
        conn_read(c);
    }
    conn_leave(c);
}

static void conn_on_more(struct ev_loop *ev, ev_timer *timer, int revents)
{
    struct wsconn *c = timer->data;

    (void)ev;
    (void)revents;
    conn_enter(c);
    if (c->end_pending)
        conn_end(c, c->end.why, c->end.code, 0, c->end.text);
    else
        conn_read(c);
    conn_leave(c);
}

static void conn_on_timer(struct ev_loop *ev, ev_timer *timer, int revents)
{
    struct wsconn *c = timer->data;

    (void)ev;
    (void)revents;
    conn_enter(c);
    if (c->state == CONN_CLOSING)
        conn_lost(c, "the peer did not answer Close");
    else
        conn_lost(c, c->state == CONN_UPGRADING ? "no answer to the upgrade in time" : "no connection in time");
    conn_leave(c);
}

/* ------------------------------------------------------------------ connecting */

static curl_socket_t conn_on_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *addr)
{
    struct wsconn *c = arg;

    (void)purpose;
    if (c->only_public && !guard_allows(&addr->addr, addr->addrlen, NULL, 0)) {
        c->blocked = true;
        return CURL_SOCKET_BAD;
    }
    int fd = socket(addr->family, addr->socktype | SOCK_CLOEXEC, addr->protocol);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
        c->own_fault = true;
    /* A peer that has vanished says nothing, and takes nothing: without this the kernel tries for a quarter of an hour
     * while audio goes to nobody. Well within what stt.replay keeps. */
    unsigned unacked_ms = UNACKED_MS;
    /* Nor is a peer that does not keep up to be hidden by the megabytes that the kernel would take for it. */
    int kernel_bytes = KERNEL_BYTES;
    if (fd >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacked_ms, sizeof unacked_ms);
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kernel_bytes, sizeof kernel_bytes);
    }
    return fd < 0 ? CURL_SOCKET_BAD : fd;
}

/* Did the time run out before there was an address? */
static bool conn_unresolved(const struct wsconn *c, CURLcode rc)
{
    curl_off_t resolved = 0;
    char *ip = NULL;

    curl_easy_getinfo(c->easy, CURLINFO_NAMELOOKUP_TIME_T, &resolved);
    curl_easy_getinfo(c->easy, CURLINFO_PRIMARY_IP, &ip);
    return rc == CURLE_COULDNT_RESOLVE_HOST || rc == CURLE_COULDNT_RESOLVE_PROXY ||
           (rc == CURLE_OPERATION_TIMEDOUT && resolved == 0 && (!ip || !*ip));
}

/* The first write goes through curl: it ties the connection to the handle again, so that curl neither prunes it as an
 * idle one nor hides its SSL*. false: *why. */
static bool conn_take_socket(struct wsconn *c, const char **why)
{
    curl_socket_t fd = CURL_SOCKET_BAD;
    struct curl_tlssessioninfo *tls = NULL;
    size_t sent = 0;

    *why = "sending the upgrade failed";
    CURLcode rc = curl_easy_send(c->easy, c->out.data, c->out.len, &sent);
    if (rc != CURLE_OK && rc != CURLE_AGAIN)
        return false;
    c->out_at = sent;
    *why = "curl has no socket for the connection";
    if (curl_easy_getinfo(c->easy, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK || fd == CURL_SOCKET_BAD)
        return false;
    c->fd = fd;
    if (!c->url.tls)
        return true;
    *why = "curl has no TLS session for the connection";
    if (curl_easy_getinfo(c->easy, CURLINFO_TLS_SSL_PTR, &tls) != CURLE_OK || !tls || !tls->internals)
        return false;
    c->ssl = tls->internals;
    /* curl's own BIO works only from within curl; it buffers nothing, so that a plain one can take its place. */
    *why = "no memory for TLS";
    if (SSL_set_fd(c->ssl, fd) != 1)
        return false;
    SSL_set_mode(c->ssl,
                 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    if (rc == CURLE_AGAIN)
        c->tls_retry = c->out.len;
    return true;
}

static void conn_on_connected(void *arg, CURL *easy, CURLcode rc)
{
    struct wsconn *c = NULL;
    const char *why = NULL;

    (void)arg;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&c);
    conn_enter(c);
    omid_assert(c->easy == easy && c->state == CONN_CONNECTING);
    if (c->end_pending) {
        /* closed meanwhile: told by its own turn */
    } else if (rc != CURLE_OK) {
        long connect_code = 0; /* 407: our own credentials for the proxy */
        curl_easy_getinfo(easy, CURLINFO_HTTP_CONNECTCODE, &connect_code);
        c->unresolved = conn_unresolved(c, rc);
        c->own_fault |= c->unresolved || rc == CURLE_OUT_OF_MEMORY || rc == CURLE_FAILED_INIT || connect_code == 407;
        conn_lost(c, c->blocked        ? "the address is not allowed for this URL"
                     : c->curl_text[0] ? c->curl_text
                                       : curl_easy_strerror(rc));
    } else if (!conn_take_socket(c, &why)) {
        conn_lost(c, why);
    } else {
        wsconn_set_state(c, CONN_UPGRADING);
        start_timer(c, &c->timer, (double)c->connect_ms / 1000);
        if (!conn_flush(c))
            conn_lost(c, "sending the upgrade failed");
        else
            start_timer(c, &c->more, 0.); /* the peer may have spoken already */
    }
    conn_leave(c);
}

static bool conn_prepare(struct wsconn *c, const struct conf_outside *outside)
{
    c->easy = curlev_easy_new();
    if (!c->easy)
        return false;
    if (!curlev_outside(c->easy, outside, true)) {
        curl_easy_cleanup(c->easy);
        c->easy = NULL;
        return false;
    }
    curl_easy_setopt(c->easy, CURLOPT_HTTPPROXYTUNNEL, 1L); /* to ws:// peers, too: frames are no business of a proxy */
    curl_easy_setopt(c->easy, CURLOPT_CONNECT_ONLY, 1L);
    curl_easy_setopt(c->easy, CURLOPT_FRESH_CONNECT, 1L);
    /* Tickets come after the handshake, when the SSL* is read outside of curl. */
    curl_easy_setopt(c->easy, CURLOPT_SSL_SESSIONID_CACHE, 0L);
    curl_easy_setopt(c->easy, CURLOPT_PRIVATE, c);
    curl_easy_setopt(c->easy, CURLOPT_ERRORBUFFER, c->curl_text);
    curl_easy_setopt(c->easy, CURLOPT_OPENSOCKETFUNCTION, conn_on_socket);
    curl_easy_setopt(c->easy, CURLOPT_OPENSOCKETDATA, c);
    curl_easy_setopt(c->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)c->connect_ms);
    curl_easy_setopt(c->easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(c->easy, CURLOPT_TCP_KEEPIDLE, 30L);
    curl_easy_setopt(c->easy, CURLOPT_TCP_KEEPINTVL, 10L);
    if (curl_easy_setopt(c->easy, CURLOPT_URL, c->url.http) == CURLE_OK && curlev_add(c->w->curl, c->easy))
        return true;
    curl_easy_cleanup(c->easy);
    c->easy = NULL;
    return false;
}

struct wsconn *wsconn_new(struct wsloop *w, const struct wsconn_params *params, const struct wsconn_events *events,
                          void *arg, const char **why)
{
    CHECK_MAGIC(w, WSLOOP_MAGIC);
    struct wsconn *c = calloc(1, sizeof *c);
    *why = "no memory";
    if (!c)
        return NULL;
    c->magic = WSCONN_MAGIC;
    c->w = w;
    w->conns++;
    c->events = events;
    c->arg = arg;
    c->fd = -1;
    c->connect_ms = params->connect_ms > 0 ? params->connect_ms : 1;
    c->send_buffer = params->send_buffer;
    c->only_public = params->only_public;
    c->out = BUF_INIT(MAX_REQUEST);
    ws_parser_init(&c->parser, false, params->max_message);
    ev_init(&c->io, conn_on_io);
    ev_init(&c->timer, conn_on_timer);
    ev_init(&c->more, conn_on_more);
    c->io.data = c->timer.data = c->more.data = c;
    bool ok = ws_url_parse(params->url, &c->url, why);
    if (ok) {
        *why = "the request is longer than 16 KiB";
        ok = ws_request_build(&c->out, &c->url, params->headers, c->key);
    }
    if (ok) {
        *why = "no memory";
        ok = conn_prepare(c, params->outside);
    }
    if (!ok) {
        conn_teardown(c);
        conn_free(c);
        return NULL;
    }
    c->out.max = 0; /* from here on wsconn_send() bounds it */
    /* A margin for curl, whose own limit gives the better reason. */
    start_timer(c, &c->timer, (double)c->connect_ms / 1000 + 0.05);
    return c;
}

/* ------------------------------------------------------------------ the user's calls */

int wsconn_send(struct wsconn *c, enum ws_opcode op, const void *data, size_t len)
{
    CHECK_MAGIC(c, WSCONN_MAGIC);
    if ((op != WS_TEXT && op != WS_BINARY) || len > MAX_SEND || (len > 0 && !data))
        return OMID_EINVAL;
    if (c->state != CONN_OPEN || c->end_pending)
        return OMID_ECLOSED;
    /* A message longer than the whole buffer still goes, alone. */
    size_t queued = conn_queued(c);
    if (queued > 0 && (queued >= c->send_buffer || len + WS_MAX_HEADER > c->send_buffer - queued)) {
        c->want_writable = true;
        conn_watch(c);
        return OMID_EFULL;
    }
    conn_take_buffer(c, len);
    if (!ws_build(&c->out, op, data, len, true))
        return OMID_EFULL;
    if (conn_flush(c))
        return OMID_OK;
    conn_end_later(c, WSCONN_LOST, WS_CODE_ABNORMAL, "sending failed");
    return OMID_ECLOSED;
}

void wsconn_close(struct wsconn *c, uint16_t code, const char *reason)
{
    CHECK_MAGIC(c, WSCONN_MAGIC);
    if (c->state == CONN_CONNECTING || c->state == CONN_UPGRADING) {
        conn_end_later(c, WSCONN_FAILED, WS_CODE_ABNORMAL, "closed before it was open");
        return;
    }
    if (c->state != CONN_OPEN || c->end_pending)
        return;
    wsconn_set_state(c, CONN_CLOSING);
    c->want_writable = false;
    conn_send_close(c, ws_code_valid(code) ? code : WS_CODE_NORMAL, reason);
    start_timer(c, &c->timer, CLOSE_S);
    if (!conn_flush(c))
        conn_end_later(c, WSCONN_LOST, WS_CODE_ABNORMAL, "sending failed");
}

void wsconn_release(struct wsconn **cp)
{
    struct wsconn *c = *cp;

    if (!c)
        return;
    CHECK_MAGIC(c, WSCONN_MAGIC);
    omid_assert(!c->released);
    *cp = NULL;
    c->released = true;
    conn_teardown(c);
    if (c->depth == 0)
        conn_free(c);
}

/* ------------------------------------------------------------------ the loop */

struct wsloop *wsloop_new(struct ev_loop *ev)
{
    struct wsloop *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->magic = WSLOOP_MAGIC;
    w->ev = ev;
    w->curl = curlev_new(ev, conn_on_connected, w);
    if (!w->curl) {
        free(w);
        return NULL;
    }
    return w;
}

void wsloop_free(struct wsloop **wp)
{
    struct wsloop *w = *wp;

    if (!w)
        return;
    CHECK_MAGIC(w, WSLOOP_MAGIC);
    omid_assert(w->conns == 0);
    *wp = NULL;
    curlev_free(&w->curl);
    buf_free(&w->spare);
    w->magic = OMID_MAGIC_DEAD;
    free(w);
}
