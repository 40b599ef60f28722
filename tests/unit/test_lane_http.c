/* Answers through a lane, from peers that refuse, hang, drip, break and flood. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/clock.h"
#include "lane_peers.h"
#include "unit.h"

#define GRACE_MS 2000 /* an overloaded test machine */

/* ------------------------------------------------------------ scripts of peers */

static void serve_drip_head(struct peer *p, int fd)
{
    char head[4096], slow[2048] = "HTTP/1.1 200 OK\r\nX-Slow: ";
    memset(slow + strlen(slow), 'a', 2000);
    if (peer_read_request(p, fd, head, sizeof head))
        peer_drip(p, fd, slow);
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
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"HTTP lanes: answers", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
