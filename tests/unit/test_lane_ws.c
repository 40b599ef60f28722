/* Outgoing WebSockets of a lane, against peers that refuse, hang, lie, drop and stop reading; ws and wss. */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/magic.h"
#include "base/wsframe.h"
#include "lane_rig.h"
#include "unit.h"

#define GRACE_MS 2000

static void pause_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000L}, NULL);
}

/* ------------------------------------------------------------ a peer's connection */

struct line {
    struct peer *p;
    int fd;
    SSL *ssl;
    struct ws_parser parser;
    unsigned char in[1 << 16];
    size_t at, len; /* of in: not yet parsed */
};

static ssize_t line_recv(struct line *l, void *to, size_t size)
{
    return l->ssl ? SSL_read(l->ssl, to, (int)size) : recv(l->fd, to, size, 0);
}

static bool line_send(struct line *l, const void *data, size_t len)
{
    if (!l->ssl)
        return peer_write(l->fd, data, len);
    return len == 0 || SSL_write(l->ssl, data, (int)len) == (int)len;
}

static bool line_puts(struct line *l, const char *text)
{
    return line_send(l, text, strlen(text));
}

/* The request's head. */
static bool line_request(struct line *l, char *head, size_t size)
{
    size_t n = 0;
    if (l->p->tls) {
        l->ssl = SSL_new(l->p->tls);
        omid_assert(l->ssl != NULL);
        SSL_set_fd(l->ssl, l->fd);
        if (SSL_accept(l->ssl) != 1)
            return false;
    }
    while (n < size - 1) {
        if (line_recv(l, head + n, 1) != 1)
            return false;
        head[++n] = 0;
        if (n >= 4 && memcmp(head + n - 4, "\r\n\r\n", 4) == 0) {
            atomic_fetch_add(&l->p->requests, 1);
            return true;
        }
    }
    return false;
}

static void line_accept_text(const char *head, char *out, size_t size, const char *accept)
{
    char key[32] = "", want[32];
    const char *at = strcasestr(head, "\r\nSec-WebSocket-Key: ");
    if (at)
        sscanf(at + 21, "%25[^\r]", key);
    CU_ASSERT_TRUE(ws_key_valid(key, strlen(key)));
    CU_ASSERT_PTR_NOT_NULL(strcasestr(head, "\r\nSec-WebSocket-Version: 13\r\n"));
    ws_accept_key(key, strlen(key), want);
    snprintf(out, size,
             "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Accept: %s\r\n\r\n",
             accept ? accept : want);
}

static bool line_upgrade(struct line *l)
{
    char head[8192], answer[512];
    if (!line_request(l, head, sizeof head))
        return false;
    line_accept_text(head, answer, sizeof answer, NULL);
    return line_puts(l, answer);
}

static void line_open(struct line *l, struct peer *p, int fd)
{
    memset(l, 0, offsetof(struct line, in));
    l->at = l->len = 0;
    l->p = p;
    l->fd = fd;
    ws_parser_init(&l->parser, true, 64 << 20);
}

static void line_end(struct line *l)
{
    ws_parser_free(&l->parser);
    if (l->ssl) {
        SSL_shutdown(l->ssl);
        SSL_free(l->ssl);
    }
}

static bool line_frame(struct line *l, enum ws_opcode op, const void *data, size_t len)
{
    struct buf b = BUF_INIT(0);
    bool ok = ws_build(&b, op, data, len, false) && line_send(l, b.data, b.len);
    buf_free(&b);
    return ok;
}

static bool line_close(struct line *l, uint16_t code, const char *reason)
{
    unsigned char payload[WS_MAX_CONTROL];
    return line_frame(l, WS_CLOSE, payload, ws_close_payload(payload, code, reason));
}

/* The next event; false: the client has gone or broken the protocol. */
static bool line_next(struct line *l, struct ws_event *ev)
{
    for (;;) {
        size_t used = 0;
        int rc = l->at < l->len ? ws_parse(&l->parser, l->in + l->at, l->len - l->at, &used, ev) : 0;
        l->at += used;
        if (rc < 0)
            CU_FAIL("the client broke the protocol");
        if (rc != 0)
            return rc > 0;
        ssize_t n = line_recv(l, l->in, sizeof l->in);
        if (n <= 0)
            return false;
        l->at = 0;
        l->len = (size_t)n;
    }
}

/* ------------------------------------------------------------ scripts */

/* mode counts Close codes seen: the last one. */
static void echo_loop(struct line *l)
{
    struct ws_event ev;
    while (line_next(l, &ev)) {
        if (ev.opcode == WS_CLOSE) {
            atomic_store(&l->p->mode, ev.code);
            line_close(l, ev.code == WS_CODE_NONE ? 1000 : ev.code, "");
            return;
        }
        if ((ev.opcode == WS_TEXT || ev.opcode == WS_BINARY) && !line_frame(l, ev.opcode, ev.data, ev.len))
            return;
    }
}

static void serve_echo(struct peer *p, int fd)
{
    struct line l;
    line_open(&l, p, fd);
    if (line_upgrade(&l))
        echo_loop(&l);
    line_end(&l);
}

/* Answers with the HTTP status in mode, until mode is 101. */
static void serve_status(struct peer *p, int fd)
{
    struct line l;
    char head[8192], answer[512];
    line_open(&l, p, fd);
    unsigned status = atomic_load(&p->mode);
    if (status == 101) {
        if (line_upgrade(&l))
            echo_loop(&l);
    } else if (line_request(&l, head, sizeof head)) {
        snprintf(answer, sizeof answer, "HTTP/1.1 %u No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status);
        line_puts(&l, answer);
    }
    line_end(&l);
}

/* Accepts the connection, and nothing more. */
static void serve_mute(struct peer *p, int fd)
{
    peer_hold(p, fd);
}

static void serve_hang(struct peer *p, int fd)
{
    struct line l;
    char head[8192];
    line_open(&l, p, fd);
    if (line_request(&l, head, sizeof head)) {
        for (unsigned i = 0; i < 200; i++) { /* endless headers, byte by byte */
            if (!line_puts(&l, i == 0 ? "HTTP/1.1 101 x\r\nX: " : "a"))
                break;
            pause_ms(10);
        }
    }
    line_end(&l);
}

static void serve_wrong_accept(struct peer *p, int fd)
{
    struct line l;
    char head[8192], answer[512];
    line_open(&l, p, fd);
    if (line_request(&l, head, sizeof head)) {
        line_accept_text(head, answer, sizeof answer, "AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        if (line_puts(&l, answer))
            peer_hold(p, fd);
    }
    line_end(&l);
}

/* Drops the connection after the first message. */
static void serve_drop(struct peer *p, int fd)
{
    struct line l;
    struct ws_event ev;
    line_open(&l, p, fd);
    if (line_upgrade(&l) && line_next(&l, &ev)) {
        struct linger lg = {.l_onoff = 1};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &lg, sizeof lg);
    }
    ws_parser_free(&l.parser);
    SSL_free(l.ssl);
}

/* Sends bad bytes right behind the upgrade and notes the Close code that comes back. */
static void serve_bad_frame(struct peer *p, int fd)
{
    static const struct {
        const char *bytes;
        size_t len;
    } bad[] = {
        {"\x82\x84\x01\x02\x03\x04zzzz", 10}, /* masked */
        {"\xc2\x01z", 3},                     /* a reserved bit */
        {"\x81\x02\xc3\x28", 4},              /* no UTF-8 */
        {"\x82\x7f\0\0\0\0\x40\0\0\0", 10},   /* a gigabyte */
        {"\x80\x01z", 3},                     /* a continuation of nothing */
        {"\x88\x01z", 3},                     /* Close with half a code */
    };
    struct line l;
    struct ws_event ev;
    unsigned i = atomic_load(&p->mode);
    line_open(&l, p, fd);
    if (line_upgrade(&l) && line_send(&l, bad[i].bytes, bad[i].len) && line_next(&l, &ev) && ev.opcode == WS_CLOSE)
        atomic_store(&p->mode, ev.code);
    line_end(&l);
}

/* Reads nothing before the gate opens; then counts the messages. */
static void serve_stuck(struct peer *p, int fd)
{
    struct line l;
    struct ws_event ev;
    line_open(&l, p, fd);
    if (line_upgrade(&l)) {
        while (!atomic_load(&p->gate)) {
            pthread_mutex_lock(&p->lock);
            bool stopping = p->stopping;
            pthread_mutex_unlock(&p->lock);
            if (stopping)
                break;
            pause_ms(1);
        }
        while (line_next(&l, &ev) && ev.opcode != WS_CLOSE)
            atomic_fetch_add(&p->mode, 1);
        line_close(&l, 1000, "");
    }
    line_end(&l);
}

#define FLOOD 2000
#define FLOOD_SIZE 3000

/* A thousand messages, pings between them, then a Close with a reason. */
static void serve_flood(struct peer *p, int fd)
{
    static char block[FLOOD_SIZE];
    struct line l;
    struct ws_event ev;
    line_open(&l, p, fd);
    if (line_upgrade(&l)) {
        for (unsigned i = 0; i < FLOOD; i++) {
            if (i % 100 == 0)
                line_frame(&l, WS_PING, "ping", 4);
            if (!line_frame(&l, WS_BINARY, block, sizeof block))
                break;
        }
        line_close(&l, 4001, "that is all");
        while (line_next(&l, &ev)) {
            if (ev.opcode == WS_PONG && ev.len == 4 && memcmp(ev.data, "ping", 4) == 0)
                atomic_fetch_add(&p->mode, 1);
        }
    }
    line_end(&l);
}

/* Never answers a Close. */
static void serve_deaf(struct peer *p, int fd)
{
    struct line l;
    struct ws_event ev;
    line_open(&l, p, fd);
    if (line_upgrade(&l)) {
        while (line_next(&l, &ev)) {
        }
    }
    line_end(&l);
}

/* ------------------------------------------------------------ the client's end */

enum on_event { NOTHING, RELEASE_AT_OPEN, RELEASE_AT_MESSAGE, CLOSE_AT_MESSAGE, RELEASE_AT_CLOSED, SEND_AT_OPEN };

struct sock {
    struct rig *rig;
    struct peer *peer;
    struct omid_ws_request req;
    char url[256];
    enum on_event script;
    struct lane_ws *ws;
    int rc, send_rc;
    bool within, called_within;
    atomic_uint opened, messages, writables, closed;
    size_t bytes;
    char last[64];
    struct omid_ws_close why;
    char text[256];
    unsigned sent;
    bool stop_sending;
};

static void sock_open(void *arg, struct lane_ws *ws)
{
    struct sock *s = arg;
    s->called_within |= s->within;
    omid_assert(ws == s->ws);
    atomic_fetch_add(&s->opened, 1);
    if (s->script == RELEASE_AT_OPEN)
        lane_ws_release(&s->ws);
    if (s->script == SEND_AT_OPEN)
        CU_ASSERT_EQUAL(lane_ws_send(ws, OMID_TEXT, "hello", 5), OMID_OK);
}

static void sock_message(void *arg, struct lane_ws *ws, enum omid_message type, const void *data, size_t len)
{
    struct sock *s = arg;
    char copy[64];
    s->called_within |= s->within;
    (void)type;
    if (s->script == RELEASE_AT_MESSAGE)
        lane_ws_release(&s->ws);
    if (s->script == CLOSE_AT_MESSAGE)
        lane_ws_close(ws, 1000);
    /* Valid until this returns, whatever was called. */
    snprintf(copy, sizeof copy, "%.*s", (int)(len < 60 ? len : 60), (const char *)data);
    memcpy(s->last, copy, sizeof copy);
    s->bytes += len;
    atomic_fetch_add(&s->messages, 1);
}

static void sock_writable(void *arg, struct lane_ws *ws)
{
    struct sock *s = arg;
    (void)ws;
    s->called_within |= s->within;
    atomic_fetch_add(&s->writables, 1);
}

static void sock_closed(void *arg, struct lane_ws *ws, const struct omid_ws_close *why)
{
    struct sock *s = arg;
    s->called_within |= s->within;
    omid_assert(ws == s->ws);
    s->why = *why;
    snprintf(s->text, sizeof s->text, "%s", why->text);
    CU_ASSERT_EQUAL(lane_ws_send(ws, OMID_TEXT, "x", 1), OMID_ECLOSED);
    if (s->script == RELEASE_AT_CLOSED)
        lane_ws_release(&s->ws);
    atomic_fetch_add(&s->closed, 1);
}

static const struct lane_ws_events sock_events = {sock_open, sock_message, sock_writable, sock_closed};

static void sock_init(struct sock *s, struct rig *r, const struct peer *p, const char *scheme)
{
    memset(s, 0, sizeof *s);
    s->rig = r;
    peer_url(p, scheme, "/v1/listen?model=x", s->url);
    s->req = (struct omid_ws_request){.size = sizeof s->req, .url = s->url, .attempts = 1};
}

static void do_connect(void *arg)
{
    struct sock *s = arg;
    s->within = true;
    s->rc = lane_ws_connect(s->rig->lane, s->rig->loop, &s->req, &sock_events, s, &s->ws);
    s->within = false;
}

static void sock_connect(struct sock *s)
{
    rig_call(s->rig, do_connect, s);
}

static void do_release(void *arg)
{
    struct sock *s = arg;
    lane_ws_release(&s->ws);
}

static void sock_release(struct sock *s)
{
    rig_call(s->rig, do_release, s);
    CU_ASSERT_FALSE(s->called_within);
}

static void do_send_text(void *arg)
{
    struct sock *s = arg;
    s->within = true;
    s->send_rc = lane_ws_send(s->ws, OMID_TEXT, "hello", 5);
    s->within = false;
}

static void do_close(void *arg)
{
    struct sock *s = arg;
    s->within = true;
    lane_ws_close(s->ws, 4002);
    s->within = false;
}

/* As much as is taken, in messages of 1,000 bytes. */
static void do_fill(void *arg)
{
    static char block[1000];
    struct sock *s = arg;
    s->within = true;
    while (s->sent < 100000 && (s->send_rc = lane_ws_send(s->ws, OMID_BINARY, block, sizeof block)) == OMID_OK)
        s->sent++;
    s->within = false;
}

static bool lane_is_empty(void *arg)
{
    (void)arg;
    return rig_metric("omid_lane_streams", NULL, NULL) == 0 && rig_metric("omid_lane_inflight", NULL, NULL) == 0 &&
           rig_metric("omid_lane_waiting", NULL, NULL) == 0;
}

/* The slot comes back by a message to the lane. */
static bool none_in_flight(void *arg)
{
    (void)arg;
    return rig_metric("omid_lane_inflight", NULL, NULL) == 0;
}

/* ------------------------------------------------------------ TLS */

static char ca_file[] = "/tmp/omid-lane-XXXXXX";

/* A certificate of its own for 127.0.0.1, valid for an hour. */
static SSL_CTX *tls_make(FILE *pem)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = X509_new();
    X509_NAME *name = X509_get_subject_name(x);
    X509V3_CTX v3;
    omid_assert(key && x);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_set_version(x, 2);
    X509_gmtime_adj(X509_getm_notBefore(x), -60);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, key);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"127.0.0.1", -1, -1, 0);
    X509_set_issuer_name(x, name);
    X509V3_set_ctx_nodb(&v3);
    X509V3_set_ctx(&v3, x, x, NULL, NULL, 0);
    static const int nids[] = {NID_subject_alt_name, NID_basic_constraints};
    static const char *const values[] = {"IP:127.0.0.1", "critical,CA:TRUE"};
    for (unsigned i = 0; i < 2; i++) {
        X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &v3, nids[i], values[i]);
        omid_assert(e && X509_add_ext(x, e, -1) == 1);
        X509_EXTENSION_free(e);
    }
    omid_assert(X509_sign(x, key, EVP_sha256()) > 0);
    if (pem)
        omid_assert(PEM_write_X509(pem, x) == 1);
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    omid_assert(ctx && SSL_CTX_use_certificate(ctx, x) == 1 && SSL_CTX_use_PrivateKey(ctx, key) == 1);
    X509_free(x);
    EVP_PKEY_free(key);
    return ctx;
}

static SSL_CTX *good_tls, *stranger_tls;

static void tls_setup(void)
{
    int fd = mkstemp(ca_file);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    omid_assert(f != NULL);
    good_tls = tls_make(f);
    stranger_tls = tls_make(NULL);
    fclose(f);
    setenv("SSL_CERT_FILE", ca_file, 1);
    unsetenv("CURL_CA_BUNDLE");
}

/* A lane, a peer that follows this script, and a WebSocket that is to lead there. */
static void meet(struct sock *s, struct rig *r, struct peer *p, void (*serve)(struct peer *p, int fd),
                 const char *scheme, SSL_CTX *tls, const struct conf_lane *conf)
{
    peer_start(p, serve);
    p->tls = tls;
    rig_start(r, conf);
    sock_init(s, r, p, scheme);
}

static void part(struct sock *s, struct rig *r, struct peer *p)
{
    sock_release(s);
    rig_stop(r);
    peer_stop(p);
}

/* ------------------------------------------------------------ tests */

static void echo_over(const char *scheme, SSL_CTX *tls)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    meet(&s, &r, &p, serve_echo, scheme, tls, &conf);
    sock_connect(&s);
    CU_ASSERT_EQUAL_FATAL(s.rc, OMID_OK);
    CU_ASSERT_TRUE_FATAL(rig_reaches(&s.opened, 1));
    for (unsigned i = 1; i <= 20; i++) {
        rig_call(&r, do_send_text, &s);
        CU_ASSERT_EQUAL(s.send_rc, OMID_OK);
        CU_ASSERT_TRUE_FATAL(rig_reaches(&s.messages, i));
    }
    CU_ASSERT_STRING_EQUAL(s.last, "hello");
    CU_ASSERT_EQUAL(rig_metric("omid_lane_streams", NULL, NULL), 1);
    CU_ASSERT_TRUE(rig_until(none_in_flight, NULL)); /* only the handshake held a slot */
    rig_call(&r, do_close, &s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_CLOSED);
    CU_ASSERT_EQUAL(s.why.code, 4002);
    CU_ASSERT_EQUAL(atomic_load(&p.mode), 4002);
    sock_release(&s);
    CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
    rig_stop(&r);
    peer_stop(&p);
    CU_ASSERT_EQUAL(atomic_load(&p.accepted), 1);
}

static void test_echo(void)
{
    echo_over("ws", NULL);
}

static void test_echo_tls(void)
{
    echo_over("wss", good_tls);
}

/* 3 MB through the buffers of both sides, each message back. */
static void bulk_over(const char *scheme, SSL_CTX *tls)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    meet(&s, &r, &p, serve_flood, scheme, tls, &conf);
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_CLOSED);
    CU_ASSERT_EQUAL(s.why.code, 4001);
    CU_ASSERT_STRING_EQUAL(s.text, "that is all");
    CU_ASSERT_EQUAL(atomic_load(&s.messages), FLOOD);
    CU_ASSERT_EQUAL(s.bytes, (size_t)FLOOD * FLOOD_SIZE);
    part(&s, &r, &p);
    CU_ASSERT_EQUAL(atomic_load(&p.mode), FLOOD / 100);
}

static void test_flood(void)
{
    bulk_over("ws", NULL);
    bulk_over("wss", good_tls);
}

/* The socket takes no more: EFULL, a bounded queue, writable() once there is room, nothing lost or twice. */
static void stuck_over(const char *scheme, SSL_CTX *tls)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    meet(&s, &r, &p, serve_stuck, scheme, tls, &conf);
    s.req.send_buffer = 64 << 10;
    sock_connect(&s);
    CU_ASSERT_TRUE_FATAL(rig_reaches(&s.opened, 1));
    rig_call(&r, do_fill, &s);
    CU_ASSERT_EQUAL(s.send_rc, OMID_EFULL);
    CU_ASSERT_TRUE(s.sent >= 60 && s.sent < 20000);
    CU_ASSERT_EQUAL(atomic_load(&s.writables), 0);
    peer_open_gate(&p);
    for (unsigned i = 1; i <= 5; i++) {
        CU_ASSERT_TRUE_FATAL(rig_reaches(&s.writables, i));
        rig_call(&r, do_fill, &s);
        if (s.send_rc != OMID_EFULL)
            break;
    }
    rig_call(&r, do_close, &s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_CLOSED);
    CU_ASSERT_EQUAL(atomic_load(&p.mode), s.sent);
    part(&s, &r, &p);
}

static void test_backpressure(void)
{
    stuck_over("ws", NULL);
    stuck_over("wss", good_tls);
}

/* Keeps the loop busy until the peer has read all that the socket held; then one more message empties the queue. */
static void do_drain(void *arg)
{
    struct sock *s = arg;
    struct peer *p = s->peer;
    unsigned seen;
    peer_open_gate(p);
    rig_reaches(&p->mode, 1);
    do {
        seen = atomic_load(&p->mode);
        pause_ms(50);
    } while (seen != atomic_load(&p->mode));
    lane_ws_send(s->ws, OMID_BINARY, "x", 1);
    s->send_rc = lane_ws_send(s->ws, OMID_BINARY, "x", 1);
}

/* writable() comes after OMID_EFULL also when it was a call, not the loop, that emptied the queue. */
static void test_writable_after_call(void)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    meet(&s, &r, &p, serve_stuck, "ws", NULL, &conf);
    s.peer = &p;
    s.req.send_buffer = 64 << 10;
    sock_connect(&s);
    CU_ASSERT_TRUE_FATAL(rig_reaches(&s.opened, 1));
    rig_call(&r, do_fill, &s);
    CU_ASSERT_EQUAL(s.send_rc, OMID_EFULL);
    rig_call(&r, do_drain, &s);
    CU_ASSERT_EQUAL(s.send_rc, OMID_OK);
    CU_ASSERT_TRUE(rig_reaches(&s.writables, 1));
    part(&s, &r, &p);
}

/* One sequence against this script; the close it ends with. */
static struct omid_ws_close sequence(void (*serve)(struct peer *, int), unsigned mode, unsigned attempts,
                                     struct conf_lane conf, unsigned *accepted)
{
    struct rig r;
    struct peer p;
    struct sock s;

    meet(&s, &r, &p, serve, "ws", NULL, &conf);
    atomic_store(&p.mode, mode);
    s.req.attempts = attempts;
    s.req.backoff_ms = 10;
    s.req.backoff_cap_ms = 50;
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_TRUE(s.text[0] != 0);
    CU_ASSERT_PTR_NULL(strstr(s.text, "model=x"));
    sock_release(&s);
    CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
    rig_stop(&r);
    peer_stop(&p);
    *accepted = atomic_load(&p.accepted);
    return s.why;
}

static void test_rejected(void)
{
    static const unsigned final[] = {400, 401, 403, 404, 200, 302}, again[] = {429, 500, 503};
    unsigned n;
    for (size_t i = 0; i < ARRAY_LEN(final); i++) {
        struct omid_ws_close why = sequence(serve_status, final[i], 3, rig_conf(), &n);
        CU_ASSERT_EQUAL(why.end, OMID_WS_REJECTED);
        CU_ASSERT_EQUAL(why.http_status, (int) final[i]);
        CU_ASSERT_EQUAL(n, 1);
    }
    for (size_t i = 0; i < ARRAY_LEN(again); i++) {
        struct omid_ws_close why = sequence(serve_status, again[i], 3, rig_conf(), &n);
        CU_ASSERT_EQUAL(why.end, OMID_WS_CONNECT);
        CU_ASSERT_EQUAL(why.http_status, (int)again[i]);
        CU_ASSERT_EQUAL(n, 3);
    }
}

static void test_bad_handshakes(void)
{
    struct conf_lane conf = rig_conf();
    unsigned n;
    conf.connect_timeout_ms = 200;
    void (*const scripts[])(struct peer *, int) = {serve_mute, serve_hang, serve_wrong_accept};
    for (size_t i = 0; i < ARRAY_LEN(scripts); i++) {
        uint64_t from = clock_mono_ms();
        struct omid_ws_close why = sequence(scripts[i], 0, 2, conf, &n);
        CU_ASSERT_EQUAL(why.end, OMID_WS_CONNECT);
        CU_ASSERT_EQUAL(why.code, 1006);
        CU_ASSERT_EQUAL(n, 2);
        CU_ASSERT_TRUE(clock_mono_ms() - from < 1000 + GRACE_MS);
    }
}

static void test_untrusted(void)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    meet(&s, &r, &p, serve_echo, "wss", stranger_tls, &conf);
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_CONNECT);
    CU_ASSERT_EQUAL(atomic_load(&p.requests), 0);
    part(&s, &r, &p);
}

static void test_refused_port(void)
{
    struct rig r;
    struct sock s;
    struct peer nobody = {.port = dead_port()};
    struct conf_lane conf = rig_conf();

    rig_start(&r, &conf);
    sock_init(&s, &r, &nobody, "ws");
    s.req.attempts = 3;
    s.req.backoff_ms = 5;
    s.script = RELEASE_AT_CLOSED;
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_CONNECT);
    CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
    sock_init(&s, &r, &nobody, "http");
    sock_connect(&s);
    CU_ASSERT_EQUAL(s.rc, OMID_EINVAL);
    rig_stop(&r);
}

static void test_lost(void)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    meet(&s, &r, &p, serve_drop, "ws", NULL, &conf);
    s.script = SEND_AT_OPEN;
    s.req.attempts = 3;
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_EQUAL(atomic_load(&s.opened), 1);
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_LOST);
    CU_ASSERT_EQUAL(s.why.code, 1006);
    part(&s, &r, &p);
    CU_ASSERT_EQUAL(atomic_load(&p.accepted), 1); /* once open, it is the user's to connect again */
}

static void test_bad_frames(void)
{
    static const uint16_t codes[] = {1002, 1002, 1007, 1009, 1002, 1002};
    for (unsigned i = 0; i < ARRAY_LEN(codes); i++) {
        struct rig r;
        struct peer p;
        struct sock s;
        struct conf_lane conf = rig_conf();
        meet(&s, &r, &p, serve_bad_frame, "ws", NULL, &conf);
        atomic_store(&p.mode, i);
        sock_connect(&s);
        CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
        CU_ASSERT_EQUAL(s.why.end, OMID_WS_LOST);
        CU_ASSERT_EQUAL(s.why.code, codes[i]);
        CU_ASSERT_EQUAL(atomic_load(&s.messages), 0);
        CU_ASSERT_TRUE(rig_reaches(&p.mode, 1000));
        CU_ASSERT_EQUAL(atomic_load(&p.mode), codes[i]);
        part(&s, &r, &p);
    }
}

static void test_deaf(void)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    meet(&s, &r, &p, serve_deaf, "ws", NULL, &conf);
    sock_connect(&s);
    CU_ASSERT_TRUE_FATAL(rig_reaches(&s.opened, 1));
    uint64_t from = clock_mono_ms();
    rig_call(&r, do_close, &s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_TRUE(clock_mono_ms() - from >= 2900 && clock_mono_ms() - from < 3000 + GRACE_MS);
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_LOST);
    part(&s, &r, &p);
}

static void test_callbacks(void)
{
    static const enum on_event scripts[] = {RELEASE_AT_OPEN, RELEASE_AT_MESSAGE, CLOSE_AT_MESSAGE, RELEASE_AT_CLOSED};
    for (unsigned i = 0; i < ARRAY_LEN(scripts) * 2; i++) {
        struct rig r;
        struct peer p;
        struct sock s;
        struct conf_lane conf = rig_conf();
        enum on_event script = scripts[i / 2];
        peer_start(&p, serve_flood);
        p.tls = i % 2 ? good_tls : NULL;
        rig_start(&r, &conf);
        sock_init(&s, &r, &p, i % 2 ? "wss" : "ws");
        s.script = script;
        sock_connect(&s);
        CU_ASSERT_TRUE(rig_reaches(&s.opened, 1));
        if (script == RELEASE_AT_MESSAGE)
            CU_ASSERT_TRUE(rig_reaches(&s.messages, 1));
        if (script == CLOSE_AT_MESSAGE || script == RELEASE_AT_CLOSED)
            CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
        if (script == CLOSE_AT_MESSAGE)
            sock_release(&s);
        CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
        CU_ASSERT_TRUE(atomic_load(&s.messages) <= (script == RELEASE_AT_MESSAGE ? 1 : FLOOD));
        rig_stop(&r);
        peer_stop(&p);
    }
}

/* Released while it resolves, connects, waits for the answer or pauses: no further attempt. */
static void test_release(void)
{
    struct rig r;
    struct peer early, mute, hang, busy;
    struct sock s;
    struct conf_lane conf = rig_conf();

    peer_start(&early, serve_hang); /* its own: a connection given up may be accepted long afterwards */
    peer_start(&mute, serve_mute);
    mute.tls = good_tls;
    peer_start(&hang, serve_hang);
    peer_start(&busy, serve_status);
    atomic_store(&busy.mode, 503);
    rig_start(&r, &conf);

    sock_init(&s, &r, &early, "ws"); /* at once: perhaps before admission */
    sock_connect(&s);
    sock_release(&s);
    CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));

    sock_init(&s, &r, &mute, "wss"); /* within TLS */
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&mute.accepted, 1));
    sock_release(&s);

    sock_init(&s, &r, &hang, "ws"); /* within the answer */
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&hang.requests, 1));
    sock_release(&s);

    sock_init(&s, &r, &busy, "ws"); /* within the pause */
    s.req.attempts = 5;
    s.req.backoff_ms = 150;
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&busy.requests, 1));
    while (atomic_load(&busy.open) > 0)
        pause_ms(1);
    sock_release(&s);
    uint64_t until = clock_mono_ms() + 500; /* three more attempts would fit */
    while (clock_mono_ms() < until && atomic_load(&busy.accepted) == 1)
        pause_ms(5);
    CU_ASSERT_EQUAL(atomic_load(&busy.accepted), 1);

    snprintf(s.url, sizeof s.url, "ws://no-such-host.invalid/"); /* within the name */
    s.req.attempts = 3;
    uint64_t from = clock_mono_ms();
    sock_connect(&s);
    pause_ms(5);
    sock_release(&s);
    CU_ASSERT_TRUE(clock_mono_ms() - from < GRACE_MS);
    CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
    CU_ASSERT_EQUAL(atomic_load(&s.opened) + atomic_load(&s.closed), 0);
    rig_stop(&r);
    peer_stop(&early);
    peer_stop(&mute);
    peer_stop(&hang);
    peer_stop(&busy);
}

static void test_close_before_open(void)
{
    struct rig r;
    struct peer hang;
    struct sock s;
    struct conf_lane conf = rig_conf();

    peer_start(&hang, serve_hang);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < 2; i++) {
        sock_init(&s, &r, &hang, "ws");
        s.req.attempts = 3;
        sock_connect(&s);
        if (i == 1)
            CU_ASSERT_TRUE(rig_reaches(&hang.requests, 1));
        rig_call(&r, do_close, &s);
        CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
        CU_ASSERT_EQUAL(atomic_load(&s.closed), 1);
        sock_release(&s);
        CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
    }
    CU_ASSERT_TRUE(atomic_load(&hang.accepted) <= 2);
    rig_stop(&r);
    peer_stop(&hang);
}

static void test_breaker(void)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    conf.breaker_failures = 3;
    conf.breaker_open_ms = conf.breaker_open_max_ms = 400;
    peer_start(&p, serve_status);
    rig_start(&r, &conf);
    /* Refusals for good don't count. */
    atomic_store(&p.mode, 401);
    for (unsigned i = 0; i < 10; i++) {
        sock_init(&s, &r, &p, "ws");
        sock_connect(&s);
        CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
        CU_ASSERT_EQUAL(s.why.end, OMID_WS_REJECTED);
        sock_release(&s);
    }
    /* A sequence is one failure, however many attempts it has. */
    atomic_store(&p.mode, 500);
    for (unsigned i = 0; i < 3; i++) {
        sock_init(&s, &r, &p, "ws");
        s.req.attempts = 2;
        s.req.backoff_ms = 1;
        sock_connect(&s);
        CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
        CU_ASSERT_EQUAL(s.why.end, OMID_WS_CONNECT);
        sock_release(&s);
    }
    CU_ASSERT_EQUAL(atomic_load(&p.accepted), 16);
    uint64_t opened = clock_mono_ms();
    sock_init(&s, &r, &p, "ws");
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_BREAKER);
    CU_ASSERT_EQUAL(atomic_load(&p.accepted), 16);
    sock_release(&s);
    /* Later one probe goes, and its success closes the breaker. */
    atomic_store(&p.mode, 101);
    for (;;) {
        sock_init(&s, &r, &p, "ws");
        sock_connect(&s);
        while (atomic_load(&s.opened) + atomic_load(&s.closed) == 0)
            pause_ms(1);
        bool is_open = atomic_load(&s.opened);
        sock_release(&s);
        if (is_open || clock_mono_ms() - opened > RIG_WAIT_MS)
            break;
        pause_ms(10);
    }
    CU_ASSERT_TRUE(atomic_load(&s.opened) == 1 && clock_mono_ms() - opened >= 300);
    CU_ASSERT_EQUAL(atomic_load(&p.accepted), 17);
    rig_stop(&r);
    peer_stop(&p);
}

static void test_streams_full(void)
{
    struct rig r;
    struct peer p;
    struct sock s[3];
    struct conf_lane conf = rig_conf();

    conf.streams = 2;
    peer_start(&p, serve_echo);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < 3; i++) {
        sock_init(&s[i], &r, &p, "ws");
        sock_connect(&s[i]);
        CU_ASSERT_TRUE(rig_reaches(i < 2 ? &s[i].opened : &s[i].closed, 1));
    }
    CU_ASSERT_EQUAL(s[2].why.end, OMID_WS_FULL);
    CU_ASSERT_EQUAL(atomic_load(&p.accepted), 2);
    sock_release(&s[0]);
    sock_release(&s[2]);
    sock_init(&s[0], &r, &p, "ws");
    sock_connect(&s[0]);
    CU_ASSERT_TRUE(rig_reaches(&s[0].opened, 1));
    sock_release(&s[0]);
    sock_release(&s[1]);
    rig_stop(&r);
    peer_stop(&p);
}

/* The slot of a handshake is free during the pauses and once it is open. */
static void test_handshake_slots(void)
{
    struct rig r;
    struct peer p, busy;
    struct sock s[10], waiting;
    struct conf_lane conf = rig_conf();

    conf.pool = conf.semaphore = 1;
    peer_start(&p, serve_echo);
    peer_start(&busy, serve_status);
    atomic_store(&busy.mode, 503);
    rig_start(&r, &conf);
    sock_init(&waiting, &r, &busy, "ws");
    waiting.req.attempts = 2;
    waiting.req.backoff_ms = 30000;
    sock_connect(&waiting);
    CU_ASSERT_TRUE(rig_reaches(&busy.requests, 1));
    for (unsigned i = 0; i < 10; i++) {
        sock_init(&s[i], &r, &p, "ws");
        sock_connect(&s[i]);
    }
    for (unsigned i = 0; i < 10; i++)
        CU_ASSERT_TRUE(rig_reaches(&s[i].opened, 1));
    CU_ASSERT_EQUAL(atomic_load(&waiting.closed), 0);
    for (unsigned i = 0; i < 10; i++)
        sock_release(&s[i]);
    sock_release(&waiting);
    CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
    rig_stop(&r);
    peer_stop(&p);
    peer_stop(&busy);
}

static void test_shutdown(void)
{
    struct rig r;
    struct peer p, hang;
    struct sock s[2];
    struct conf_lane conf = rig_conf();

    peer_start(&p, serve_echo);
    peer_start(&hang, serve_hang);
    rig_start(&r, &conf);
    sock_init(&s[0], &r, &p, "ws");
    sock_connect(&s[0]);
    CU_ASSERT_TRUE(rig_reaches(&s[0].opened, 1));
    sock_init(&s[1], &r, &hang, "ws");
    sock_connect(&s[1]);
    CU_ASSERT_TRUE(rig_reaches(&hang.requests, 1));
    lanes_stop(r.lanes);
    for (unsigned i = 0; i < 2; i++) {
        CU_ASSERT_TRUE(rig_reaches(&s[i].closed, 1));
        CU_ASSERT_EQUAL(s[i].why.end, OMID_WS_SHUTDOWN);
        sock_release(&s[i]);
    }
    CU_ASSERT_TRUE(rig_reaches(&p.mode, 1));
    CU_ASSERT_EQUAL(atomic_load(&p.mode), 1001);
    sock_connect(&s[0]);
    CU_ASSERT_EQUAL(s[0].rc, OMID_ECLOSED);
    rig_stop(&r);
    peer_stop(&p);
    peer_stop(&hang);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN); /* the peers write with OpenSSL */
    tls_setup();
    CU_TestInfo tests[] = {
        {"echo over ws", test_echo},
        {"echo over wss with a CA of one's own", test_echo_tls},
        {"a flood of messages, pings and a Close", test_flood},
        {"back-pressure", test_backpressure},
        {"room made by a call", test_writable_after_call},
        {"refused with a status", test_rejected},
        {"handshakes that hang or lie", test_bad_handshakes},
        {"a certificate nobody knows", test_untrusted},
        {"nobody there", test_refused_port},
        {"dropped in mid-stream", test_lost},
        {"bad frames", test_bad_frames},
        {"Close without an answer", test_deaf},
        {"release and close within callbacks", test_callbacks},
        {"release at any moment", test_release},
        {"close before open", test_close_before_open},
        {"the breaker counts sequences", test_breaker},
        {"all streams in use", test_streams_full},
        {"slots are for handshakes", test_handshake_slots},
        {"shutdown", test_shutdown},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"outgoing WebSockets", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    int rc = unit_run(suites);
    SSL_CTX_free(good_tls);
    SSL_CTX_free(stranger_tls);
    unlink(ca_file);
    return rc;
}
