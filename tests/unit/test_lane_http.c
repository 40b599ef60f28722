/* Requests through a lane, against peers that refuse, hang, drip, break and flood. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/clock.h"
#include "lane_rig.h"
#include "unit.h"

#define GRACE_MS 2000 /* an overloaded test machine */

static void pause_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000L}, NULL);
}

/* ------------------------------------------------------------ scripts of peers */

static void serve_ok(struct peer *p, int fd)
{
    char head[4096];
    while (peer_read_request(p, fd, head, sizeof head) && peer_ok(fd, "hello")) {
    }
}

/* Answers with the request's first line and the body's type. */
static void serve_echo(struct peer *p, int fd)
{
    char head[4096];
    while (peer_read_request(p, fd, head, sizeof head)) {
        bool is_head = strncmp(head, "HEAD ", 5) == 0;
        if (is_head ? !peer_puts(fd, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n") : !peer_ok(fd, head))
            return;
    }
}

static void serve_hang(struct peer *p, int fd)
{
    char head[4096];
    if (peer_read_request(p, fd, head, sizeof head) && peer_hold(p, fd))
        peer_ok(fd, "late");
}

static void drip(struct peer *p, int fd, const char *text)
{
    for (; *text && peer_write(fd, text, 1); text++) {
        if (poll(&(struct pollfd){.fd = fd, .events = POLLRDHUP}, 1, 20) > 0)
            return;
    }
    peer_hold(p, fd);
}

static void serve_drip_head(struct peer *p, int fd)
{
    char head[4096], slow[2048] = "HTTP/1.1 200 OK\r\nX-Slow: ";
    memset(slow + strlen(slow), 'a', 2000);
    if (peer_read_request(p, fd, head, sizeof head))
        drip(p, fd, slow);
}

static void serve_drip_body(struct peer *p, int fd)
{
    char head[4096], slow[2048] = "";
    memset(slow, 'a', sizeof slow - 1);
    if (peer_read_request(p, fd, head, sizeof head) &&
        peer_puts(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"))
        drip(p, fd, slow);
}

static void serve_reset(struct peer *p, int fd)
{
    char head[4096];
    if (peer_read_request(p, fd, head, sizeof head)) {
        peer_puts(fd, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc");
        struct linger l = {.l_onoff = 1};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    }
}

static void serve_garbage(struct peer *p, int fd)
{
    char head[4096];
    if (peer_read_request(p, fd, head, sizeof head))
        peer_puts(fd, "\x16\x03\x01 this is no HTTP\r\n\r\nat all\r\n");
}

static void serve_text(struct peer *p, int fd, const char *answer)
{
    char head[4096];
    while (peer_read_request(p, fd, head, sizeof head) && peer_puts(fd, answer)) {
    }
}

static void serve_close(struct peer *p, int fd)
{
    char head[4096];
    peer_read_request(p, fd, head, sizeof head);
}

static void serve_short(struct peer *p, int fd)
{
    char head[4096];
    if (peer_read_request(p, fd, head, sizeof head))
        peer_puts(fd, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc");
}

static void serve_500(struct peer *p, int fd)
{
    serve_text(p, fd, "HTTP/1.1 500 Oops\r\nContent-Length: 4\r\nRetry-After: 17\r\n\r\noops");
}

static void serve_404(struct peer *p, int fd)
{
    serve_text(p, fd, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
}

static void serve_redirect(struct peer *p, int fd)
{
    serve_text(p, fd, "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n");
}

static void serve_retry_date(struct peer *p, int fd)
{
    char date[64], answer[256];
    time_t at = time(NULL) + 60;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&at));
    snprintf(answer, sizeof answer, "HTTP/1.1 503 Busy\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n", date);
    serve_text(p, fd, answer);
}

/* 10 GB, if somebody reads them. */
static void serve_huge(struct peer *p, int fd)
{
    static char block[1 << 16];
    char head[4096];
    if (!peer_read_request(p, fd, head, sizeof head) ||
        !peer_puts(fd, "HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n"))
        return;
    for (unsigned i = 0; i < 152587 && peer_write(fd, block, sizeof block); i++)
        atomic_fetch_add(&p->mode, 1);
}

/* A gzip that never ends: one zero, then copies of 258 of them, 13 bits each. */
static void serve_bomb(struct peer *p, int fd)
{
    static const unsigned char gzip[10] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3};
    char head[4096];
    unsigned char out[1 << 15];
    unsigned long bits = 2 | 0x0cul << 3; /* not the last block, fixed codes; literal 0, its bits turned round */
    unsigned n_bits = 11;

    if (!peer_read_request(p, fd, head, sizeof head) ||
        !peer_puts(fd, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n") ||
        !peer_write(fd, gzip, sizeof gzip))
        return;
    for (;;) {
        size_t n = 0;
        while (n < sizeof out) {
            while (n_bits < 8) { /* 285: 11000101, turned round; distance code 0 */
                bits |= 0xa3ul << n_bits;
                n_bits += 13;
            }
            out[n++] = (unsigned char)bits;
            bits >>= 8;
            n_bits -= 8;
        }
        if (!peer_write(fd, out, sizeof out))
            return;
        atomic_fetch_add(&p->mode, 1);
    }
}

static void serve_1xx(struct peer *p, int fd)
{
    char head[4096];
    if (!peer_read_request(p, fd, head, sizeof head))
        return;
    while (peer_puts(fd, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")) {
    }
}

static void serve_long_head(struct peer *p, int fd)
{
    char head[4096];
    if (!peer_read_request(p, fd, head, sizeof head) || !peer_puts(fd, "HTTP/1.1 200 OK\r\n"))
        return;
    while (peer_puts(fd, "X-More: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")) {
    }
}

/* ------------------------------------------------------------ one answer each */

/* One request to one peer; the rig is gone afterwards. */
static enum omid_http_error one(struct call *c, void (*serve)(struct peer *, int), struct conf_lane conf,
                                unsigned *mode)
{
    struct rig r;
    struct peer p;
    char url[256];

    peer_start(&p, serve);
    rig_start(&r, &conf);
    uint64_t from = clock_mono_ms();
    enum omid_http_error error = call_once(c, &r, peer_url(&p, "http", "/hook?uid=secret", url));
    CU_ASSERT_TRUE(clock_mono_ms() - from < conf.timeout_ms + GRACE_MS);
    rig_stop(&r);
    peer_stop(&p);
    if (mode)
        *mode = atomic_load(&p.mode);
    CU_ASSERT_EQUAL(atomic_load(&c->answers), 1);
    CU_ASSERT_PTR_NULL(strstr(c->text, "secret"));
    if (error != OMID_HTTP_OK) {
        CU_ASSERT_TRUE(c->text[0] != 0);
        CU_ASSERT_EQUAL(c->res.status, 0);
    }
    return error;
}

static struct conf_lane quick(void)
{
    struct conf_lane conf = rig_conf();
    conf.timeout_ms = 300;
    conf.connect_timeout_ms = 300;
    return conf;
}

static void test_plain(void)
{
    struct call c;
    CU_ASSERT_EQUAL(one(&c, serve_ok, rig_conf(), NULL), OMID_HTTP_OK);
    CU_ASSERT_EQUAL(c.res.status, 200);
    CU_ASSERT_STRING_EQUAL(c.body, "hello");
    CU_ASSERT_EQUAL(c.res.body_len, 5);
    CU_ASSERT_FALSE(c.res.truncated);
    CU_ASSERT_EQUAL(c.res.retry_after_s, 0);
    call_free(&c);
}

/* What it was sent, as the body. */
static void serve_mirror(struct peer *p, int fd)
{
    char head[4096];
    while (peer_read_request(p, fd, head, sizeof head) && peer_ok(fd, head)) {
    }
}

/* That the signature is right is seen by a peer that makes it again, in tests/net. */
static void test_signed(void)
{
    static const char *const headers[] = {"Content-Type: audio/wav", "x-amz-content-sha256: 00", NULL};
    struct conf_lane conf = rig_conf();
    struct rig r;
    struct peer p;
    struct call c;
    char url[256];

    peer_start(&p, serve_mirror);
    rig_start(&r, &conf);
    for (int i = 0; i < 3; i++) { /* on the same curl handle; only the second is signed */
        call_init(&c, &r, peer_url(&p, "http", "/bucket/key", url));
        c.req.method = "PUT";
        c.req.headers = headers;
        c.req.aws_sigv4 = i == 1 ? "aws:amz:eu-west-1:s3" : NULL;
        c.req.aws_key_id = "AKID";
        c.req.aws_secret = "topsecret";
        call_start(&c);
        CU_ASSERT_TRUE_FATAL(call_wait(&c));
        CU_ASSERT_EQUAL(c.res.status, 200);
        const char *sign = c.body ? strstr(c.body, "Authorization: AWS4-HMAC-SHA256 Credential=AKID/") : NULL;
        CU_ASSERT_EQUAL(sign != NULL, i == 1);
        CU_ASSERT_EQUAL(sign && strstr(sign, "/eu-west-1/s3/aws4_request"), i == 1);
        CU_ASSERT_EQUAL(sign && strstr(sign, "SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date,"),
                        i == 1);
        CU_ASSERT_EQUAL(c.body && strstr(c.body, "Authorization"), i == 1);
        CU_ASSERT_PTR_NULL(c.body ? strstr(c.body, "topsecret") : NULL);
        call_free(&c);
    }
    call_init(&c, &r, peer_url(&p, "http", "/bucket/key", url));
    c.req.aws_sigv4 = "aws:amz:eu-west-1:s3"; /* without a key */
    call_start(&c);
    CU_ASSERT_EQUAL(c.rc, OMID_EINVAL);
    call_free(&c);
    rig_stop(&r);
    peer_stop(&p);
}

/* What is taken for an answer is said once: by the caller, or else by the lane, signed or not. */
static void test_codings(void)
{
    static const char name[] = "\r\nAccept-Encoding: ";
    static const char *const headers[][2] = {
        {NULL}, {"X-A: b"}, {"accept-encoding: br"}, {"Accept-Encoding: identity"}};
    static const char *const said[] = {"gzip, deflate\r\n", "gzip, deflate\r\n", "br\r\n", "identity\r\n"};
    struct conf_lane conf = rig_conf();
    struct rig r;
    struct peer p;
    struct call c;
    char url[256];

    peer_start(&p, serve_mirror);
    rig_start(&r, &conf);
    for (size_t i = 0; i < 2 * sizeof said / sizeof said[0]; i++) {
        call_init(&c, &r, peer_url(&p, "http", "/", url));
        c.req.headers = headers[i / 2];
        c.req.aws_sigv4 = i % 2 ? "aws:amz:eu-west-1:s3" : NULL;
        c.req.aws_key_id = "AKID";
        c.req.aws_secret = "topsecret";
        call_start(&c);
        CU_ASSERT_TRUE_FATAL(call_wait(&c));
        CU_ASSERT_EQUAL(c.res.status, 200);
        const char *line = c.body ? strcasestr(c.body, name) : NULL;
        CU_ASSERT_PTR_NOT_NULL_FATAL(line);
        CU_ASSERT_EQUAL(strncmp(line + sizeof name - 1, said[i / 2], strlen(said[i / 2])), 0);
        CU_ASSERT_PTR_NULL(strcasestr(line + 1, name));
        call_free(&c);
    }
    rig_stop(&r);
    peer_stop(&p);
}

static void test_statuses(void)
{
    struct call c;
    CU_ASSERT_EQUAL(one(&c, serve_500, rig_conf(), NULL), OMID_HTTP_OK);
    CU_ASSERT_EQUAL(c.res.status, 500);
    CU_ASSERT_STRING_EQUAL(c.body, "oops");
    CU_ASSERT_EQUAL(c.res.retry_after_s, 17);
    call_free(&c);
    CU_ASSERT_EQUAL(one(&c, serve_retry_date, rig_conf(), NULL), OMID_HTTP_OK);
    CU_ASSERT_EQUAL(c.res.status, 503);
    CU_ASSERT_TRUE(c.res.retry_after_s >= 50 && c.res.retry_after_s <= 60);
    call_free(&c);
    /* Never followed. */
    CU_ASSERT_EQUAL(one(&c, serve_redirect, rig_conf(), NULL), OMID_HTTP_OK);
    CU_ASSERT_EQUAL(c.res.status, 302);
    call_free(&c);
}

static void test_refused(void)
{
    struct rig r;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[64];

    snprintf(url, sizeof url, "http://127.0.0.1:%u/", dead_port());
    rig_start(&r, &conf);
    CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_CONNECT);
    call_free(&c);
    rig_stop(&r);
    /* Names that can't be looked up say nothing about the target: our own resolver may be down. */
    conf.breaker_failures = 1;
    rig_start(&r, &conf);
    for (unsigned i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL(call_once(&c, &r, "http://no-such-host.invalid/"), OMID_HTTP_RESOLVE);
        call_free(&c);
    }
    rig_stop(&r);
}

static void test_slow_peers(void)
{
    struct call c;
    void (*const scripts[])(struct peer *, int) = {serve_hang, serve_drip_head, serve_drip_body};
    for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
        CU_ASSERT_EQUAL(one(&c, scripts[i], quick(), NULL), OMID_HTTP_TIMEOUT);
        CU_ASSERT_TRUE(c.res.elapsed_ms >= 290);
        call_free(&c);
    }
}

static void test_broken_peers(void)
{
    static const struct {
        void (*serve)(struct peer *, int);
        enum omid_http_error want;
    } cases[] = {
        {serve_reset, OMID_HTTP_RESET},      {serve_close, OMID_HTTP_RESET},  {serve_short, OMID_HTTP_RESET},
        {serve_garbage, OMID_HTTP_PROTOCOL}, {serve_1xx, OMID_HTTP_PROTOCOL}, {serve_long_head, OMID_HTTP_PROTOCOL},
    };
    struct call c;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        enum omid_http_error got = one(&c, cases[i].serve, rig_conf(), NULL);
        if (got != cases[i].want)
            fprintf(stderr, "case %zu: %d %s\n", i, got, c.text);
        CU_ASSERT_EQUAL(got, cases[i].want);
        call_free(&c);
    }
}

/* What the mode says about encodings, and a body that is none of them. */
static void serve_encoded(struct peer *p, int fd)
{
    static const char *const heads[] = {
        "Content-Encoding: gzip, gzip\r\n",
        "Content-Encoding: gzip\r\ncontent-encoding:deflate\r\n",
        "Transfer-Encoding: gzip, chunked\r\nContent-Encoding: gzip\r\n",
        "Transfer-Encoding:gzip\r\nTransfer-Encoding:  deflate , identity\r\n",
        "Content-Encoding: identity, identity\r\nContent-Length: 2\r\n",
        "Content-Encoding: , identity ,\r\nTransfer-Encoding: chunked\r\n",
    };
    char head[4096];
    if (peer_read_request(p, fd, head, sizeof head)) {
        unsigned mode = (unsigned)strtoul(head + 5, NULL, 10);
        peer_puts(fd, "HTTP/1.1 103 x\r\nContent-Encoding: gzip\r\n\r\nHTTP/1.1 200 x\r\nConnection: close\r\n");
        peer_puts(fd, heads[mode]);
        peer_puts(fd, mode == 5 ? "\r\n2\r\nok\r\n0\r\n\r\n" : "\r\nok");
    }
}

/* One compression is undone; of two the answer is refused before anything is. */
static void test_encodings(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256], path[8];

    peer_start(&p, serve_encoded);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "/%u", i);
        enum omid_http_error error = call_once(&c, &r, peer_url(&p, "http", path, url));
        CU_ASSERT_EQUAL(error, i < 4 ? OMID_HTTP_PROTOCOL : OMID_HTTP_OK);
        CU_ASSERT_STRING_EQUAL(c.text, i < 4 ? "the answer is compressed more than once" : "");
        CU_ASSERT_STRING_EQUAL(c.body, i < 4 ? "" : "ok");
        call_free(&c);
    }
    rig_stop(&r);
    peer_stop(&p);
}

static void test_floods(void)
{
    struct call c;
    unsigned blocks;

    CU_ASSERT_EQUAL(one(&c, serve_huge, rig_conf(), &blocks), OMID_HTTP_OK);
    CU_ASSERT_EQUAL(c.res.status, 200);
    CU_ASSERT_TRUE(c.res.truncated);
    CU_ASSERT_EQUAL(c.res.body_len, 64 << 10);
    CU_ASSERT_TRUE(blocks < 1000); /* of 152,587: the socket's buffers, no more */
    call_free(&c);
    CU_ASSERT_EQUAL(one(&c, serve_bomb, rig_conf(), &blocks), OMID_HTTP_OK);
    CU_ASSERT_TRUE(c.res.truncated);
    CU_ASSERT_EQUAL(c.res.body_len, 64 << 10);
    CU_ASSERT_EQUAL(c.body[0], 0);
    CU_ASSERT_TRUE(blocks < 1000);
    call_free(&c);
}

/* ------------------------------------------------------------ what is sent */

static void test_requests(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    const char *headers[] = {"Content-Type: application/json", "X-A: b", NULL};
    char url[256];

    peer_start(&p, serve_echo);
    rig_start(&r, &conf);
    peer_url(&p, "http", "/a?b=c", url);
    call_init(&c, &r, url);
    c.req.method = "POST";
    c.req.body = "{\"x\":1}";
    c.req.body_len = 7;
    c.req.headers = headers;
    call_start(&c);
    CU_ASSERT_TRUE(call_wait(&c));
    CU_ASSERT_EQUAL(strncmp(c.body, "POST /a?b=c HTTP/1.1\r\n", 22), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(c.body, "\r\nContent-Type: application/json\r\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(c.body, "\r\nX-A: b\r\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(c.body, "\r\nContent-Length: 7\r\n"));
    CU_ASSERT_PTR_NULL(strstr(c.body, "Expect"));
    call_free(&c);
    /* The same handle again: nothing of the former request is left. */
    const char *methods[] = {"GET", "DELETE", "PUT", "HEAD", "GET", "POST", "GET"};
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        char want[32];
        call_init(&c, &r, url);
        c.req.method = methods[i];
        call_start(&c);
        CU_ASSERT_TRUE(call_wait(&c));
        if (strcmp(methods[i], "HEAD") == 0) {
            CU_ASSERT_EQUAL(c.res.body_len, 0);
            call_free(&c);
            continue;
        }
        snprintf(want, sizeof want, "%s /a?b=c ", methods[i]);
        CU_ASSERT_EQUAL(strncmp(c.body, want, strlen(want)), 0);
        CU_ASSERT_PTR_NULL(strstr(c.body, "X-A"));
        CU_ASSERT_PTR_NULL(strstr(c.body, "Content-Type"));
        call_free(&c);
    }
    rig_stop(&r);
    peer_stop(&p);
}

static void test_bad_arguments(void)
{
    static const char *const urls[] = {"ftp://127.0.0.1/", "file:///etc/passwd",      "http//x",     "",
                                       "ws://127.0.0.1/",  "http://127.0.0.1:99999/", "gopher://x/", "http://a b/"};
    struct rig r;
    struct call c;
    struct conf_lane conf = rig_conf();

    rig_start(&r, &conf);
    for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        CU_ASSERT_EQUAL(call_once(&c, &r, urls[i]), OMID_HTTP_BAD_URL);
        call_free(&c);
    }
    const char *evil[] = {"X: a\r\nHost: other", NULL};
    call_init(&c, &r, "http://127.0.0.1/");
    c.req.headers = evil;
    call_start(&c);
    CU_ASSERT_EQUAL(c.rc, OMID_EINVAL);
    call_init(&c, &r, "http://127.0.0.1/");
    c.req.method = "GET / HTTP/1.1\r\nX:";
    call_start(&c);
    CU_ASSERT_EQUAL(c.rc, OMID_EINVAL);
    rig_stop(&r);
}

/* A user's URL is not dialled when its address is private, nor served by a connection that is open already. */
static enum omid_http_error call_of_user(struct call *c, struct rig *r, const char *url)
{
    call_init(c, r, url);
    c->req.flags = OMID_HTTP_USER_URL;
    call_start(c);
    CU_ASSERT_TRUE_FATAL(call_wait(c));
    return c->res.error;
}

static void test_user_urls(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256];

    peer_start(&p, serve_ok);
    rig_start(&r, &conf);
    peer_url(&p, "http", "/", url);
    for (unsigned i = 0; i < 2; i++) {
        CU_ASSERT_EQUAL(call_of_user(&c, &r, url), OMID_HTTP_BLOCKED);
        call_free(&c);
        CU_ASSERT_EQUAL(atomic_load(&p.requests), i);
        CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_OK); /* the operator's own, and kept alive */
        call_free(&c);
    }
    char other[64];
    snprintf(other, sizeof other, "http://[::ffff:127.0.0.1]:%u/", p.port);
    CU_ASSERT_EQUAL(call_of_user(&c, &r, other), OMID_HTTP_BLOCKED);
    call_free(&c);
    snprintf(other, sizeof other, "http://localhost:%u/", p.port);
    CU_ASSERT_EQUAL(call_of_user(&c, &r, other), OMID_HTTP_BLOCKED);
    call_free(&c);
    CU_ASSERT_EQUAL(atomic_load(&p.requests), 2);
    rig_stop(&r);
    peer_stop(&p);
}

/* A range that is opened, and what becomes of connections when it is closed again. */
static void test_user_urls_opened(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf(), shut = rig_conf();
    char url[256], other[64];

    conf.outside = conf_outside_new();
    CU_ASSERT_PTR_NOT_NULL_FATAL(conf.outside);
    conf.outside->allow_private = calloc(1, sizeof *conf.outside->allow_private);
    CU_ASSERT_TRUE(cidr_parse("127.0.0.1", &conf.outside->allow_private[0]));
    conf.outside->n_private = 1;
    peer_start(&p, serve_ok);
    rig_start(&r, &conf);
    CU_ASSERT_EQUAL(call_of_user(&c, &r, peer_url(&p, "http", "/", url)), OMID_HTTP_OK);
    call_free(&c);
    snprintf(other, sizeof other, "http://127.0.0.2:%u/", p.port);
    CU_ASSERT_EQUAL(call_of_user(&c, &r, other), OMID_HTTP_BLOCKED);
    call_free(&c);
    snprintf(other, sizeof other, "http://[::1%%25lo]:%u/", p.port);
    CU_ASSERT_EQUAL(call_of_user(&c, &r, other), OMID_HTTP_BLOCKED);
    CU_ASSERT_PTR_NOT_NULL(strstr(c.text, "zone"));
    call_free(&c);

    lane_configure(r.lane, &shut); /* the connection is still there, and is not used */
    CU_ASSERT_EQUAL(call_of_user(&c, &r, url), OMID_HTTP_BLOCKED);
    call_free(&c);
    CU_ASSERT_EQUAL(atomic_load(&p.requests), 1);
    rig_stop(&r);
    peer_stop(&p);
    conf_lane_clear(&conf);
}

static void test_keep_alive(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256];

    peer_start(&p, serve_ok);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < 100; i++) {
        CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/", url)), OMID_HTTP_OK);
        call_free(&c);
    }
    CU_ASSERT_EQUAL(atomic_load(&p.requests), 100);
    CU_ASSERT_EQUAL(atomic_load(&p.accepted), 1);
    rig_stop(&r);
    peer_stop(&p);
}

/* The body of the answer is the head of the request; of HEAD only its length is sent. */
static void serve_echo_head(struct peer *p, int fd)
{
    char head[4096], answer[128];
    while (peer_read_request(p, fd, head, sizeof head)) {
        bool bare = strncmp(head, "HEAD ", 5) == 0;
        snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", strlen(head));
        if (!peer_puts(fd, answer) || (!bare && !peer_puts(fd, head)))
            return;
    }
}

/* Says keep-alive, and closes all the same: a connection that was used again is watched through its pauses. */
static void serve_twice(struct peer *p, int fd)
{
    char head[4096];
    for (int i = 0; i < 2 && peer_read_request(p, fd, head, sizeof head); i++)
        peer_ok(fd, "x");
}

static uint64_t process_cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Kept connections that their peers have closed: the next request takes a new one, and none keeps the loop turning. */
static void test_kept_and_closed(void)
{
    struct rig r;
    struct peer p, hangs;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256];

    peer_start(&p, serve_twice);
    peer_start(&hangs, serve_hang);
    rig_start(&r, &conf);
    for (unsigned i = 1; i <= 20; i++) {
        CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/", url)), OMID_HTTP_OK);
        call_free(&c);
        CU_ASSERT_EQUAL(atomic_load(&p.accepted), (i + 1) / 2);
    }
    uint64_t began = process_cpu_ms();
    call_init(&c, &r, peer_url(&hangs, "http", "/", url));
    c.req.timeout_ms = 600;
    call_start(&c);
    CU_ASSERT_TRUE(call_wait(&c));
    CU_ASSERT_EQUAL(c.res.error, OMID_HTTP_TIMEOUT);
    CU_ASSERT_TRUE(process_cpu_ms() - began < 300);
    call_free(&c);
    rig_stop(&r);
    peer_stop(&p);
    peer_stop(&hangs);
}

/* One handle after the other method: nothing of the last request stays. */
static void test_mixed_methods(void)
{
    static const char *const methods[] = {"POST", "GET",  "PUT", "HEAD",   "POST", "DELETE", "PATCH",
                                          "GET",  "HEAD", "GET", "DELETE", "POST", "POST"};
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256], path[32];

    peer_start(&p, serve_echo_head);
    rig_start(&r, &conf);
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        bool sends = methods[i][0] == 'P';
        snprintf(path, sizeof path, "/%zu", i / 2); /* some with the URL of the last one */
        call_init(&c, &r, peer_url(&p, "http", path, url));
        c.req.method = methods[i];
        c.req.body = sends ? "0123456789" : NULL;
        c.req.body_len = sends ? 1 + i % 10 : 0;
        call_start(&c);
        CU_ASSERT_TRUE(call_wait(&c));
        CU_ASSERT_EQUAL(c.res.error, OMID_HTTP_OK);
        char line[64], length[64];
        snprintf(line, sizeof line, "%s %s HTTP/1.1\r\n", methods[i], path);
        snprintf(length, sizeof length, "Content-Length: %zu\r\n", c.req.body_len);
        if (strcmp(methods[i], "HEAD") == 0) {
            CU_ASSERT_EQUAL(c.res.body_len, 0);
        } else {
            CU_ASSERT_EQUAL(strncmp(c.body, line, strlen(line)), 0);
            CU_ASSERT_EQUAL(strstr(c.body, "Content-Length:") != NULL, sends);
            CU_ASSERT_TRUE(!sends || strstr(c.body, length) != NULL);
        }
        call_free(&c);
    }
    CU_ASSERT_EQUAL(atomic_load(&p.accepted), 1);
    rig_stop(&r);
    peer_stop(&p);
}

/* ------------------------------------------------------------ semaphore and queue */

#define MANY 200

static void serve_semaphore(struct peer *p, int fd)
{
    char head[4096];
    while (peer_read_request(p, fd, head, sizeof head)) {
        pause_ms(1);
        if (!peer_ok(fd, "x"))
            return;
    }
}

static bool all_answered(void *arg)
{
    struct call *c = arg;
    for (unsigned i = 0; i < MANY; i++) {
        if (atomic_load(&c[i].answers) == 0)
            return false;
    }
    return true;
}

/* The pool keeps its connections while it is busy, though few may stay idle. */
static void test_semaphore(void)
{
    static struct call calls[MANY];
    struct rig r;
    struct peer p;
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.pool = conf.semaphore = 7;
    conf.idle = 2;
    peer_start(&p, serve_semaphore);
    rig_start(&r, &conf);
    peer_url(&p, "http", "/", url);
    for (unsigned i = 0; i < MANY; i++)
        call_init(&calls[i], &r, url);
    calls_start(calls, MANY);
    CU_ASSERT_TRUE(rig_until(all_answered, calls));
    for (unsigned i = 0; i < MANY; i++) {
        CU_ASSERT_EQUAL(calls[i].res.error, OMID_HTTP_OK);
        CU_ASSERT_EQUAL(atomic_load(&calls[i].answers), 1);
        call_free(&calls[i]);
    }
    CU_ASSERT_EQUAL(atomic_load(&p.most_open), 7);
    CU_ASSERT_TRUE(atomic_load(&p.accepted) < 30);
    CU_ASSERT_EQUAL(rig_metric("omid_lane_inflight", NULL, NULL), 0);
    CU_ASSERT_EQUAL(rig_metric("omid_lane_waiting", NULL, NULL), 0);
    CU_ASSERT_TRUE(rig_metric("omid_lane_requests_total", "outcome", "ok") >= MANY);
    rig_stop(&r);
    peer_stop(&p);
}

static void test_queue_full(void)
{
    struct rig r;
    struct peer p;
    struct call calls[8], other;
    struct conf_lane conf = rig_conf();
    char url[256], url2[256];

    conf.pool = conf.semaphore = 1;
    conf.queue = 8; /* a target may hold 2 of them */
    peer_start(&p, serve_hang);
    rig_start(&r, &conf);
    peer_url(&p, "http", "/a", url);
    for (unsigned i = 0; i < 5; i++) {
        call_init(&calls[i], &r, url);
        call_start(&calls[i]);
    }
    CU_ASSERT_TRUE(call_wait(&calls[3]));
    CU_ASSERT_TRUE(call_wait(&calls[4]));
    CU_ASSERT_EQUAL(calls[3].res.error, OMID_HTTP_FULL);
    CU_ASSERT_EQUAL(calls[4].res.error, OMID_HTTP_FULL);
    CU_ASSERT_TRUE(calls[3].res.elapsed_ms < 1000);
    /* Another target still has room. */
    call_init(&other, &r, peer_url(&p, "http", "/b", url2));
    call_start(&other);
    CU_ASSERT_EQUAL(atomic_load(&other.answers), 0);
    peer_open_gate(&p);
    for (unsigned i = 0; i < 3; i++) {
        CU_ASSERT_TRUE(call_wait(&calls[i]));
        CU_ASSERT_EQUAL(calls[i].res.error, OMID_HTTP_OK);
    }
    CU_ASSERT_TRUE(call_wait(&other));
    CU_ASSERT_EQUAL(other.res.error, OMID_HTTP_OK);
    for (unsigned i = 0; i < 5; i++)
        call_free(&calls[i]);
    call_free(&other);
    rig_stop(&r);
    peer_stop(&p);
}

static void test_queue_timeout(void)
{
    struct rig r;
    struct peer p;
    struct call first, second;
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.pool = conf.semaphore = 1;
    conf.queue_timeout_ms = 100;
    peer_start(&p, serve_hang);
    rig_start(&r, &conf);
    peer_url(&p, "http", "/", url);
    call_init(&first, &r, url);
    call_start(&first);
    call_init(&second, &r, url);
    call_start(&second);
    CU_ASSERT_TRUE(call_wait(&second));
    CU_ASSERT_EQUAL(second.res.error, OMID_HTTP_QUEUE_TIMEOUT);
    CU_ASSERT_TRUE(second.res.elapsed_ms >= 95 && second.res.elapsed_ms < 100 + GRACE_MS);
    CU_ASSERT_EQUAL(atomic_load(&first.answers), 0);
    peer_open_gate(&p);
    CU_ASSERT_TRUE(call_wait(&first));
    CU_ASSERT_EQUAL(first.res.error, OMID_HTTP_OK);
    call_free(&first);
    call_free(&second);
    rig_stop(&r);
    peer_stop(&p);
}

static void test_latest(void)
{
    struct rig r;
    struct peer p, q;
    struct call busy, jobs[5], moved;
    struct conf_lane conf = rig_conf();
    char url[256], elsewhere[256];

    conf.pool = conf.semaphore = 1;
    peer_start(&p, serve_hang);
    peer_start(&q, serve_ok);
    rig_start(&r, &conf);
    peer_url(&p, "http", "/", url);
    call_init(&busy, &r, url);
    call_start(&busy);
    for (unsigned i = 0; i < 5; i++) {
        call_init(&jobs[i], &r, url);
        jobs[i].req.latest_key = i == 4 ? "other" : "uid";
        call_start(&jobs[i]);
    }
    for (unsigned i = 0; i < 3; i++) {
        CU_ASSERT_TRUE(call_wait(&jobs[i]));
        CU_ASSERT_EQUAL(jobs[i].res.error, OMID_HTTP_SUPERSEDED);
    }
    /* The same key for another target. */
    call_init(&moved, &r, peer_url(&q, "http", "/", elsewhere));
    moved.req.latest_key = "other";
    call_start(&moved);
    CU_ASSERT_TRUE(call_wait(&jobs[4]));
    CU_ASSERT_EQUAL(jobs[4].res.error, OMID_HTTP_SUPERSEDED);
    peer_open_gate(&p);
    CU_ASSERT_TRUE(call_wait(&busy));
    CU_ASSERT_TRUE(call_wait(&jobs[3]));
    CU_ASSERT_TRUE(call_wait(&moved));
    CU_ASSERT_EQUAL(jobs[3].res.error, OMID_HTTP_OK);
    CU_ASSERT_EQUAL(moved.res.error, OMID_HTTP_OK);
    CU_ASSERT_EQUAL(atomic_load(&p.requests), 2);
    /* One that runs is not replaced. */
    call_free(&moved);
    CU_ASSERT_EQUAL(call_once(&moved, &r, elsewhere), OMID_HTTP_OK);
    call_free(&busy);
    call_free(&moved);
    for (unsigned i = 0; i < 5; i++)
        call_free(&jobs[i]);
    rig_stop(&r);
    peer_stop(&p);
    peer_stop(&q);
}

/* A backlog of one target delays another by one turn, not by its length. */
static void test_fairness(void)
{
    static struct call backlog[MANY];
    struct rig r;
    struct peer p;
    struct call other;
    struct conf_lane conf = rig_conf();
    char url[256], url2[256];

    conf.pool = conf.semaphore = 1;
    peer_start(&p, serve_semaphore);
    rig_start(&r, &conf);
    peer_url(&p, "http", "/backlog", url);
    peer_url(&p, "http", "/other", url2);
    for (unsigned i = 0; i < MANY; i++) {
        call_init(&backlog[i], &r, url);
        call_start(&backlog[i]);
    }
    call_init(&other, &r, url2);
    call_start(&other);
    CU_ASSERT_TRUE(call_wait(&other));
    unsigned left = 0;
    for (unsigned i = 0; i < MANY; i++)
        left += atomic_load(&backlog[i].answers) == 0;
    CU_ASSERT_TRUE(left > 10 || atomic_load(&p.requests) < 20);
    CU_ASSERT_TRUE(rig_until(all_answered, backlog));
    for (unsigned i = 0; i < MANY; i++)
        call_free(&backlog[i]);
    call_free(&other);
    rig_stop(&r);
    peer_stop(&p);
}

/* ------------------------------------------------------------ cancelling */

static bool lane_is_free(void *arg)
{
    (void)arg;
    return rig_metric("omid_lane_inflight", NULL, NULL) == 0 && rig_metric("omid_lane_waiting", NULL, NULL) == 0;
}

static void on_never(void *arg, const struct omid_http_response *res)
{
    (void)arg;
    (void)res;
    CU_FAIL("answered after its cancellation");
}

static void do_start_cancel(void *arg)
{
    struct call *c = arg;
    c->rc = lane_http_start(c->rig->lane, c->rig->loop, &c->req, on_never, c, &c->handle);
    lane_http_cancel(&c->handle);
}

static void test_cancel(void)
{
    struct rig r;
    struct peer p, body, silent;
    struct call a, b, c;
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.pool = conf.semaphore = 1;
    conf.breaker_failures = 1; /* a verdict would be seen at once */
    peer_start(&p, serve_hang);
    peer_start(&body, serve_drip_body);
    peer_start(&silent, serve_ok);
    rig_start(&r, &conf);

    /* before anything happened */
    call_init(&a, &r, peer_url(&silent, "http", "/", url));
    rig_call(&r, do_start_cancel, &a);
    CU_ASSERT_EQUAL(a.rc, OMID_OK);
    CU_ASSERT_TRUE(rig_until(lane_is_free, NULL));
    /* waiting for the answer, with one in the queue; that one too */
    call_init(&a, &r, peer_url(&p, "http", "/", url));
    call_start(&a);
    CU_ASSERT_TRUE(rig_reaches(&p.requests, 1));
    call_init(&b, &r, url);
    b.req.latest_key = "k";
    call_start(&b);
    call_cancel(&b);
    call_init(&c, &r, url);
    c.req.latest_key = "k";
    call_start(&c);
    call_cancel(&a);
    CU_ASSERT_TRUE(rig_reaches(&p.requests, 2)); /* the slot was free at once */
    call_cancel(&c);
    CU_ASSERT_TRUE(rig_until(lane_is_free, NULL));
    /* within the body */
    call_init(&a, &r, peer_url(&body, "http", "/", url));
    call_start(&a);
    CU_ASSERT_TRUE(rig_reaches(&body.requests, 1));
    pause_ms(30);
    call_cancel(&a);
    CU_ASSERT_TRUE(rig_until(lane_is_free, NULL));
    CU_ASSERT_EQUAL(atomic_load(&a.answers) + atomic_load(&b.answers) + atomic_load(&c.answers), 0);
    /* No verdict: the breaker would refuse. */
    peer_open_gate(&p);
    CU_ASSERT_EQUAL(call_once(&a, &r, peer_url(&p, "http", "/", url)), OMID_HTTP_OK);
    call_free(&a);
    rig_stop(&r);
    peer_stop(&p);
    peer_stop(&body);
    peer_stop(&silent);
}

static void nothing(void *arg)
{
    (void)arg;
}

/* Cancelled while the answer is on its way: at no point both, or a leak. */
static void test_cancel_race(void)
{
    struct rig r;
    struct peer p;
    struct conf_lane conf = rig_conf();
    char url[256];

    peer_start(&p, serve_ok);
    rig_start(&r, &conf);
    peer_url(&p, "http", "/", url);
    for (unsigned i = 0; i < 300; i++) {
        struct call c;
        call_init(&c, &r, url);
        call_start(&c);
        for (volatile unsigned spin = 0; spin < (i % 30) * 2000; spin++) {
        }
        call_cancel(&c);
        unsigned before = atomic_load(&c.answers);
        rig_call(&r, nothing, NULL); /* what was on its way has arrived */
        CU_ASSERT_EQUAL(atomic_load(&c.answers), before);
        call_free(&c);
    }
    CU_ASSERT_TRUE(rig_until(lane_is_free, NULL));
    rig_stop(&r);
    peer_stop(&p);
}

/* ------------------------------------------------------------ breaker, shutdown */

static void test_breaker(void)
{
    struct rig r;
    struct peer p, q;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256];
    unsigned refused = 0;

    conf.breaker_failures = 5;
    conf.breaker_open_ms = 300;
    conf.breaker_open_max_ms = 300;
    peer_start(&p, serve_500);
    peer_start(&q, serve_404);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < 50; i++) {
        enum omid_http_error e = call_once(&c, &r, peer_url(&p, "http", "/hook?x=1", url));
        refused += e == OMID_HTTP_BREAKER;
        call_free(&c);
    }
    CU_ASSERT_TRUE(atomic_load(&p.requests) >= 5 && atomic_load(&p.requests) <= 7);
    CU_ASSERT_EQUAL(refused + atomic_load(&p.requests), 50);
    /* Another path is another target; a query is not. */
    CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/other", url)), OMID_HTTP_OK);
    call_free(&c);
    for (unsigned i = 0; i < 30; i++) {
        CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&q, "http", "/", url)), OMID_HTTP_OK);
        call_free(&c);
    }
    rig_stop(&r);
    peer_stop(&p);
    peer_stop(&q);
}

static void test_shutdown(void)
{
    struct rig r;
    struct peer p;
    struct call calls[10], late;
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.pool = conf.semaphore = 3;
    peer_start(&p, serve_hang);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < 10; i++) {
        call_init(&calls[i], &r, peer_url(&p, "http", "/", url));
        call_start(&calls[i]);
    }
    CU_ASSERT_TRUE(rig_reaches(&p.requests, 3));
    uint64_t from = clock_mono_ms();
    lanes_stop(r.lanes);
    CU_ASSERT_TRUE(clock_mono_ms() - from < GRACE_MS);
    for (unsigned i = 0; i < 10; i++) {
        CU_ASSERT_TRUE(call_wait(&calls[i]));
        CU_ASSERT_EQUAL(calls[i].res.error, OMID_HTTP_SHUTDOWN);
        call_free(&calls[i]);
    }
    call_init(&late, &r, url);
    call_start(&late);
    CU_ASSERT_EQUAL(late.rc, OMID_ECLOSED);
    rig_stop(&r);
    peer_stop(&p);
}

static void test_configure(void)
{
    struct rig r;
    struct peer p;
    struct call a, b;
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.pool = conf.semaphore = 1;
    peer_start(&p, serve_hang);
    rig_start(&r, &conf);
    call_init(&a, &r, peer_url(&p, "http", "/", url));
    call_start(&a);
    call_init(&b, &r, url);
    call_start(&b);
    CU_ASSERT_TRUE(rig_reaches(&p.requests, 1));
    conf.pool = conf.semaphore = 2;
    lane_configure(r.lane, &conf);
    CU_ASSERT_TRUE(rig_reaches(&p.requests, 2));
    peer_open_gate(&p);
    CU_ASSERT_TRUE(call_wait(&a) && call_wait(&b));
    struct buf out = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &out);
    lanes_status(r.lanes, &w);
    CU_ASSERT_TRUE(json_w_end(&w));
    CU_ASSERT_PTR_NOT_NULL(strstr(out.data, "\"semaphore\":2"));
    buf_free(&out);
    call_free(&a);
    call_free(&b);
    rig_stop(&r);
    peer_stop(&p);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"an answer", test_plain},
        {"signed", test_signed},
        {"what is taken for an answer", test_codings},
        {"statuses, Retry-After, redirects", test_statuses},
        {"nobody there", test_refused},
        {"hanging and dripping peers", test_slow_peers},
        {"resets, garbage, endless headers", test_broken_peers},
        {"a 10 GB body and a gzip bomb", test_floods},
        {"compressed more than once", test_encodings},
        {"what is sent", test_requests},
        {"bad URLs, headers, methods", test_bad_arguments},
        {"URLs of users", test_user_urls},
        {"networks that are opened for them", test_user_urls_opened},
        {"keep-alive", test_keep_alive},
        {"kept connections that are closed", test_kept_and_closed},
        {"one method after the other", test_mixed_methods},
        {"the semaphore holds", test_semaphore},
        {"a full queue", test_queue_full},
        {"the queue's deadline", test_queue_timeout},
        {"latest wins", test_latest},
        {"fairness over targets", test_fairness},
        {"cancelling at each phase", test_cancel},
        {"cancelling against the answer", test_cancel_race},
        {"a failing target", test_breaker},
        {"shutdown answers everything", test_shutdown},
        {"changed settings", test_configure},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"HTTP lanes", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
