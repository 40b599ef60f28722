#include "ctl/wsclient.h"

#include <curl/curl.h>
#include <errno.h>
#include <openssl/evp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/magic.h"

#define WSCLIENT_MAGIC UINT32_C(0x77736363)
#define CONNECT_TIMEOUT_S 10L
#define UPGRADE_TIMEOUT_MS 30000
#define MAX_HEAD 16384
#define MAX_MESSAGE (16u << 20)
#define READ_CHUNK 65536
/* One TLS record: a write that is repeated needs the same pointer and length. */
#define WRITE_CHUNK 16384

struct wsclient {
    uint32_t magic;
    CURL *easy;
    curl_socket_t fd;
    struct ws_parser parser;
    struct buf out, in;
    unsigned code;
    char reason[WS_MAX_REASON + 1];
    bool closed;
};

/* ---------------------------------------------------------------------- handshake */

/* Waits for the socket; false at the deadline. */
static bool wait_for(struct wsclient *c, short events, uint64_t deadline_ms)
{
    uint64_t now = clock_mono_ms();
    struct pollfd p = {.fd = c->fd, .events = events};
    return now < deadline_ms && poll(&p, 1, (int)(deadline_ms - now)) > 0;
}

static bool request_send(struct wsclient *c, const char *text, size_t len, uint64_t deadline)
{
    while (len > 0) {
        size_t n = 0;
        CURLcode rc = curl_easy_send(c->easy, text, len, &n);
        if (rc == CURLE_AGAIN && wait_for(c, POLLOUT, deadline))
            continue;
        if (rc != CURLE_OK)
            return false;
        text += n;
        len -= n;
    }
    return true;
}

/* Reads until the blank line; what came behind it is left in c->in. */
static bool head_read(struct wsclient *c, struct buf *head, uint64_t deadline)
{
    char chunk[4096];
    for (;;) {
        size_t n = 0;
        CURLcode rc = curl_easy_recv(c->easy, chunk, sizeof chunk, &n);
        if (rc == CURLE_AGAIN && wait_for(c, POLLIN, deadline))
            continue;
        if (rc != CURLE_OK || n == 0 || !buf_append(head, chunk, n))
            return false;
        char *end = strstr(head->data, "\r\n\r\n");
        if (end) {
            size_t used = (size_t)(end - head->data) + 4;
            bool ok = buf_append(&c->in, head->data + used, head->len - used);
            head->len = used;
            head->data[used] = 0;
            return ok;
        }
    }
}

static bool accept_matches(const char *head, const char *key)
{
    char want[32];
    static const char name[] = "\r\nsec-websocket-accept:";
    ws_accept_key(key, strlen(key), want);
    const char *at = strcasestr(head, name);
    if (!at)
        return false;
    at += sizeof name - 1;
    at += strspn(at, " \t");
    return strncmp(at, want, strlen(want)) == 0;
}

static bool upgrade(struct wsclient *c, const struct wsclient_params *p, int *status, char *err, size_t errlen)
{
    unsigned char nonce[16];
    char key[32];
    struct buf request = BUF_INIT(MAX_HEAD), head = BUF_INIT(MAX_HEAD);
    bool ok = false;
    CURLU *u = curl_url();
    char *host = NULL, *path = NULL, *query = NULL, *port = NULL;
    uint64_t deadline = clock_mono_ms() + UPGRADE_TIMEOUT_MS;
    id_random(nonce, sizeof nonce);
    EVP_EncodeBlock((unsigned char *)key, nonce, sizeof nonce);
    curl_url_set(u, CURLUPART_URL, p->url, CURLU_NON_SUPPORT_SCHEME);
    curl_url_get(u, CURLUPART_HOST, &host, 0);
    curl_url_get(u, CURLUPART_PORT, &port, 0);
    curl_url_get(u, CURLUPART_PATH, &path, 0);
    curl_url_get(u, CURLUPART_QUERY, &query, 0);
    buf_printf(&request,
               "GET %s%s%s HTTP/1.1\r\nHost: %s%s%s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
               "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n",
               path ? path : "/", query ? "?" : "", query ? query : "", host ? host : "", port ? ":" : "",
               port ? port : "", key);
    if (p->token)
        buf_printf(&request, "Authorization: Bearer %s\r\n", p->token);
    buf_puts(&request, "\r\n");
    if (!request_send(c, request.data, request.len, deadline) || !head_read(c, &head, deadline)) {
        snprintf(err, errlen, "no answer to the upgrade");
    } else if (sscanf(head.data, "HTTP/1.%*d %d", status) != 1) {
        snprintf(err, errlen, "the answer is not HTTP");
    } else if (*status != 101) {
        const char *body = c->in.data ? c->in.data : "";
        snprintf(err, errlen, "refused with HTTP %d %.200s", *status, body);
    } else if (!accept_matches(head.data, key)) {
        snprintf(err, errlen, "Sec-WebSocket-Accept does not match");
    } else {
        *status = 0;
        ok = true;
    }
    curl_free(host);
    curl_free(path);
    curl_free(query);
    curl_free(port);
    curl_url_cleanup(u);
    buf_free(&request);
    buf_free(&head);
    return ok;
}

/* ws -> http for the connect. */
static bool connect_url(const char *url, struct buf *out)
{
    if (strncasecmp(url, "ws://", 5) == 0)
        return buf_printf(out, "http://%s", url + 5);
    return strncasecmp(url, "wss://", 6) == 0 && buf_printf(out, "https://%s", url + 6);
}

struct wsclient *wsclient_connect(const struct wsclient_params *p, int *status, char *err, size_t errlen)
{
    struct buf url = BUF_INIT(MAX_HEAD);
    char why[CURL_ERROR_SIZE] = "";
    *status = 0;
    struct wsclient *c = calloc(1, sizeof *c);
    if (!c || !connect_url(p->url, &url)) {
        snprintf(err, errlen, "expected a ws:// or wss:// URL, found \"%.100s\"", p->url);
        buf_free(&url);
        free(c);
        return NULL;
    }
    c->magic = WSCLIENT_MAGIC;
    c->code = WS_CODE_ABNORMAL;
    c->in = BUF_INIT(0);
    c->out = BUF_INIT(0);
    ws_parser_init(&c->parser, false, MAX_MESSAGE);
    c->easy = curl_easy_init();
    curl_easy_setopt(c->easy, CURLOPT_URL, url.data);
    curl_easy_setopt(c->easy, CURLOPT_CONNECT_ONLY, 1L);
    curl_easy_setopt(c->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->easy, CURLOPT_PROXY, ""); /* straight to the daemon, whatever the environment says */
    curl_easy_setopt(c->easy, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_S);
    curl_easy_setopt(c->easy, CURLOPT_ERRORBUFFER, why);
    if (p->cacert)
        curl_easy_setopt(c->easy, CURLOPT_CAINFO, p->cacert);
    if (p->insecure) {
        curl_easy_setopt(c->easy, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(c->easy, CURLOPT_SSL_VERIFYHOST, 0L);
    }
    CURLcode rc = curl_easy_perform(c->easy);
    curl_easy_setopt(c->easy, CURLOPT_ERRORBUFFER, NULL);
    buf_free(&url);
    if (rc != CURLE_OK) {
        snprintf(err, errlen, "%s", why[0] ? why : curl_easy_strerror(rc));
        wsclient_free(&c);
        return NULL;
    }
    curl_easy_getinfo(c->easy, CURLINFO_ACTIVESOCKET, &c->fd);
    if (!upgrade(c, p, status, err, errlen))
        wsclient_free(&c);
    return c;
}

/* ------------------------------------------------------------------------ frames */

int wsclient_fd(const struct wsclient *c)
{
    CHECK_MAGIC(c, WSCLIENT_MAGIC);
    return c->fd;
}

bool wsclient_send(struct wsclient *c, enum ws_opcode op, const void *data, size_t len)
{
    CHECK_MAGIC(c, WSCLIENT_MAGIC);
    return ws_build(&c->out, op, data, len, true);
}

size_t wsclient_queued(const struct wsclient *c)
{
    CHECK_MAGIC(c, WSCLIENT_MAGIC);
    return c->out.len;
}

int wsclient_flush(struct wsclient *c)
{
    CHECK_MAGIC(c, WSCLIENT_MAGIC);
    size_t at = 0;
    int rc = 1;
    while (at < c->out.len) {
        size_t n = 0, chunk = c->out.len - at < WRITE_CHUNK ? c->out.len - at : WRITE_CHUNK;
        CURLcode code = curl_easy_send(c->easy, c->out.data + at, chunk, &n);
        if (code != CURLE_OK) {
            rc = code == CURLE_AGAIN ? 0 : -1;
            break;
        }
        at += n;
    }
    buf_consume(&c->out, at);
    return rc;
}

/* The frames in c->in. 1: goes on, 0: closed, -1: broken. */
static int frames_take(struct wsclient *c, void (*fn)(void *, enum ws_opcode, const char *, size_t), void *arg)
{
    size_t at = 0;
    int rc = 1;
    while (at < c->in.len && rc == 1) {
        struct ws_event ev;
        size_t used;
        int got = ws_parse(&c->parser, (unsigned char *)c->in.data + at, c->in.len - at, &used, &ev);
        if (got < 0) {
            snprintf(c->reason, sizeof c->reason, "%.*s", (int)ev.len, (const char *)ev.data);
            rc = -1;
            break;
        }
        at += used;
        if (got == 0)
            break;
        if (ev.opcode == WS_PING)
            wsclient_send(c, WS_PONG, ev.data, ev.len);
        else if (ev.opcode == WS_TEXT || ev.opcode == WS_BINARY)
            fn(arg, ev.opcode, ev.data ? (const char *)ev.data : "", ev.len);
        else if (ev.opcode == WS_CLOSE) {
            unsigned char payload[WS_MAX_CONTROL];
            c->code = ev.code;
            snprintf(c->reason, sizeof c->reason, "%.*s", (int)ev.len, ev.data ? (const char *)ev.data : "");
            size_t n = ev.code == WS_CODE_NONE ? 0 : ws_close_payload(payload, ev.code, NULL);
            wsclient_send(c, WS_CLOSE, payload, n);
            wsclient_flush(c);
            rc = 0;
        }
    }
    buf_consume(&c->in, at);
    return rc;
}

int wsclient_read(struct wsclient *c, void (*fn)(void *arg, enum ws_opcode op, const char *data, size_t len), void *arg)
{
    CHECK_MAGIC(c, WSCLIENT_MAGIC);
    int rc = frames_take(c, fn, arg); /* what came with the handshake */
    while (rc == 1) {
        size_t n = 0;
        char *to = buf_reserve(&c->in, READ_CHUNK);
        CURLcode code = to ? curl_easy_recv(c->easy, to, READ_CHUNK, &n) : CURLE_OUT_OF_MEMORY;
        if (code == CURLE_AGAIN)
            return 1;
        if (code != CURLE_OK || n == 0)
            return -1;
        c->in.len += n;
        rc = frames_take(c, fn, arg);
    }
    return rc;
}

unsigned wsclient_code(const struct wsclient *c)
{
    CHECK_MAGIC(c, WSCLIENT_MAGIC);
    return c->code;
}

const char *wsclient_reason(const struct wsclient *c)
{
    CHECK_MAGIC(c, WSCLIENT_MAGIC);
    return c->reason;
}

void wsclient_free(struct wsclient **cp)
{
    struct wsclient *c = *cp;
    if (!c)
        return;
    CHECK_MAGIC(c, WSCLIENT_MAGIC);
    *cp = NULL;
    curl_easy_cleanup(c->easy);
    ws_parser_free(&c->parser);
    buf_free(&c->in);
    buf_free(&c->out);
    c->magic = OMID_MAGIC_DEAD;
    free(c);
}
