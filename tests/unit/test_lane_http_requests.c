/* Requests through a lane: what is sent and to whom, and which connections are used again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "lane_peers.h"
#include "unit.h"

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

int main(void)
{
    CU_TestInfo tests[] = {
        {"what is sent", test_requests},
        {"bad URLs, headers, methods", test_bad_arguments},
        {"URLs of users", test_user_urls},
        {"networks that are opened for them", test_user_urls_opened},
        {"keep-alive", test_keep_alive},
        {"kept connections that are closed", test_kept_and_closed},
        {"one method after the other", test_mixed_methods},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"HTTP lanes: requests", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
