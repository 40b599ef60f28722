/* What an attempt's outcome means for its target, and what waits for whom: over real sockets. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/magic.h"
#include "base/metrics.h"
#include "lane_rig.h"
#include "unit.h"

/* ------------------------------------------------------------ verdicts */

/* "/NNN" is answered with that status, or with the peer's mode; "/hang" not at all, "/reset" with a reset, "/garbage"
 * with that. */
static void serve_path(struct peer *p, int fd)
{
    char head[4096], text[128];
    while (peer_read_request(p, fd, head, sizeof head)) {
        const char *path = strchr(head, '/') + 1;
        if (strncmp(path, "hang", 4) == 0 && !peer_hold(p, fd))
            return;
        if (strncmp(path, "reset", 5) == 0)
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
        if (strncmp(path, "garbage", 7) == 0)
            peer_puts(fd, "\x16\x03\x01 this is no HTTP\r\n\r\n");
        int status = atomic_load(&p->mode) != 0 ? (int)atomic_load(&p->mode) : atoi(path);
        snprintf(text, sizeof text, "HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n", status);
        if (status == 0 || !peer_puts(fd, text))
            return;
    }
}

/* Knows nothing of TLS. */
static void serve_plainly(struct peer *p, int fd)
{
    char hello[4096];
    (void)p;
    if (recv(fd, hello, sizeof hello, 0) > 0)
        peer_puts(fd, "HTTP/1.1 400 x\r\nContent-Length: 0\r\n\r\n");
}

/* Does one such attempt open a breaker that one failure opens? */
static bool trips(struct rig *r, const char *url, enum omid_http_error error, int status)
{
    struct call c;
    CU_ASSERT_EQUAL(call_once(&c, r, url), error);
    CU_ASSERT_EQUAL(c.res.status, status);
    call_free(&c);
    enum omid_http_error then = call_once(&c, r, url);
    call_free(&c);
    CU_ASSERT_TRUE(then == error || then == OMID_HTTP_BREAKER);
    return then == OMID_HTTP_BREAKER;
}

static struct conf_lane touchy(void)
{
    struct conf_lane conf = rig_conf();
    conf.breaker_failures = 1;
    conf.breaker_open_ms = conf.breaker_open_max_ms = 600000;
    return conf;
}

static void test_statuses(void)
{
    static const int counted[] = {408, 429, 500, 501, 502, 503, 504, 505, 599};
    static const int others[] = {200, 201, 204, 301, 302, 304, 400, 401, 403, 404, 405, 409, 410, 413, 422, 451, 499};
    struct rig r;
    struct peer p;
    struct conf_lane conf = touchy();
    char url[256], path[16];

    peer_start(&p, serve_path);
    rig_start(&r, &conf);
    for (size_t i = 0; i < ARRAY_LEN(counted); i++) {
        snprintf(path, sizeof path, "/%d", counted[i]);
        CU_ASSERT_TRUE(trips(&r, peer_url(&p, "http", path, url), OMID_HTTP_OK, counted[i]));
    }
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        snprintf(path, sizeof path, "/%d", others[i]);
        CU_ASSERT_FALSE(trips(&r, peer_url(&p, "http", path, url), OMID_HTTP_OK, others[i]));
    }
    CU_ASSERT_EQUAL(rig_metric("omid_lane_inflight", NULL, NULL), 0);
    rig_stop(&r);
    peer_stop(&p);
}

/* Other 4xx are no failures, and no successes either: what fails in between fails on. */
static void test_not_counted(void)
{
    static const unsigned statuses[] = {500, 404, 500, 400, 500};
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = touchy();
    char url[256];

    conf.breaker_failures = 3;
    peer_start(&p, serve_path);
    rig_start(&r, &conf);
    for (size_t i = 0; i < ARRAY_LEN(statuses); i++) {
        atomic_store(&p.mode, statuses[i]);
        CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/", url)), OMID_HTTP_OK);
        CU_ASSERT_EQUAL(c.res.status, (int)statuses[i]);
        call_free(&c);
    }
    CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_BREAKER);
    call_free(&c);
    rig_stop(&r);
    peer_stop(&p);
}

static void test_faults(void)
{
    struct rig r;
    struct peer p, plain;
    struct call c;
    struct conf_lane conf = touchy();
    char url[256];

    peer_start(&p, serve_path);
    peer_start(&plain, serve_plainly);
    conf.timeout_ms = 400; /* what is to run out; the first handshake of all takes longer where the machine is slow */
    rig_start(&r, &conf);
    CU_ASSERT_TRUE(trips(&r, peer_url(&p, "http", "/hang", url), OMID_HTTP_TIMEOUT, 0));
    rig_stop(&r);
    conf.timeout_ms = touchy().timeout_ms;
    rig_start(&r, &conf);
    CU_ASSERT_TRUE(trips(&r, peer_url(&p, "http", "/reset", url), OMID_HTTP_RESET, 0));
    CU_ASSERT_TRUE(trips(&r, peer_url(&p, "http", "/garbage", url), OMID_HTTP_PROTOCOL, 0));
    CU_ASSERT_TRUE(trips(&r, peer_url(&plain, "https", "/200", url), OMID_HTTP_TLS, 0));
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", dead_port());
    CU_ASSERT_TRUE(trips(&r, url, OMID_HTTP_CONNECT, 0));
    /* A caller that leaves says nothing about the peer, and neither does a refusal of our own. */
    for (unsigned i = 0; i < 3; i++) {
        unsigned before = atomic_load(&p.requests);
        call_init(&c, &r, peer_url(&p, "http", "/hang-for-nobody", url));
        call_start(&c);
        CU_ASSERT_TRUE(rig_reaches(&p.requests, before + 1));
        call_cancel(&c);
        call_free(&c);
    }
    for (unsigned i = 0; i < 3; i++) {
        call_init(&c, &r, peer_url(&p, "http", "/200", url));
        c.req.flags = OMID_HTTP_USER_URL;
        call_start(&c);
        CU_ASSERT_TRUE(call_wait(&c));
        CU_ASSERT_EQUAL(c.res.error, OMID_HTTP_BLOCKED);
        call_free(&c);
    }
    CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_OK);
    call_free(&c);
    rig_stop(&r);
    peer_stop(&p);
    peer_stop(&plain);
}

struct again {
    struct rig *r;
    const char *url;
};

static bool answers(void *arg)
{
    struct again *a = arg;
    struct call c;
    bool ok = call_once(&c, a->r, a->url) == OMID_HTTP_OK;
    call_free(&c);
    return ok;
}

/* Up with each that opens, down with each that closes, however it closes. */
static void test_open_gauge(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = touchy();
    char url[3][256];

    conf.breaker_open_ms = conf.breaker_open_max_ms = 100;
    peer_start(&p, serve_path);
    rig_start(&r, &conf);
    const struct metric_label label = {"plugin", "test"};
    struct metric *open = metric_get(METRIC_GAUGE, "omid_breaker_open", "", &label, 1, NULL, 0);
    CU_ASSERT_EQUAL(metric_value(open), 0);
    for (int i = 0; i < 3; i++) {
        char path[16];
        snprintf(path, sizeof path, "/%d", 500 + i);
        call_once(&c, &r, peer_url(&p, "http", path, url[i]));
        call_free(&c);
        CU_ASSERT_EQUAL(metric_value(open), i + 1);
    }
    atomic_store(&p.mode, 200);
    CU_ASSERT_TRUE(rig_until(answers, &(struct again){&r, url[0]}));
    CU_ASSERT_EQUAL(metric_value(open), 2);
    CU_ASSERT_EQUAL(lanes_breaker_reset(r.lanes, url[1], NULL), 1);
    CU_ASSERT_TRUE(rig_until(answers, &(struct again){&r, url[1]}));
    CU_ASSERT_EQUAL(metric_value(open), 1);
    rig_stop(&r);
    CU_ASSERT_EQUAL(metric_value(open), 0); /* its targets have gone with the lane */
    peer_stop(&p);
}

/* ------------------------------------------------------------ the lane's bounds */

/* A caller may want less time than the lane gives, never more. */
static void test_longest(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.timeout_ms = 200;
    peer_start(&p, serve_path);
    rig_start(&r, &conf);
    call_init(&c, &r, peer_url(&p, "http", "/hang", url));
    c.req.timeout_ms = 3600000;
    call_start(&c);
    CU_ASSERT_TRUE(call_wait(&c));
    CU_ASSERT_EQUAL(c.res.error, OMID_HTTP_TIMEOUT);
    call_free(&c);
    rig_stop(&r);
    peer_stop(&p);
}

static void test_none_idle(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.idle = 0;
    peer_start(&p, serve_path);
    rig_start(&r, &conf);
    for (unsigned i = 1; i <= 3; i++) {
        CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/200", url)), OMID_HTTP_OK);
        call_free(&c);
        CU_ASSERT_EQUAL(atomic_load(&p.accepted), i);
    }
    rig_stop(&r);
    peer_stop(&p);
}

/* Many partners, none of which has its share, fill the queue together. */
static void test_full_of_many(void)
{
    enum { QUEUE = 4 };
    struct rig r;
    struct peer p;
    struct call calls[QUEUE + 2];
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.pool = conf.semaphore = 1;
    conf.queue = QUEUE;
    peer_start(&p, serve_path);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < ARRAY_LEN(calls); i++) {
        snprintf(url, sizeof url, "http://127.0.0.%u:%u/hang", i + 1, p.port);
        call_init(&calls[i], &r, url);
        call_start(&calls[i]);
    }
    CU_ASSERT_TRUE(call_wait(&calls[QUEUE + 1]));
    CU_ASSERT_EQUAL(calls[QUEUE + 1].res.error, OMID_HTTP_FULL);
    for (unsigned i = 0; i <= QUEUE; i++)
        CU_ASSERT_EQUAL(atomic_load(&calls[i].answers), 0);
    CU_ASSERT_EQUAL(rig_metric("omid_lane_waiting", NULL, NULL), QUEUE);
    for (unsigned i = ARRAY_LEN(calls); i-- > 0;) {
        call_cancel(&calls[i]);
        call_free(&calls[i]);
    }
    rig_stop(&r);
    peer_stop(&p);
}

/* Those that wait hear of a shorter wait. */
static void test_shorter_wait(void)
{
    struct rig r;
    struct peer p;
    struct call busy, waits;
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.pool = conf.semaphore = 1;
    conf.queue_timeout_ms = conf.timeout_ms = 3600000;
    peer_start(&p, serve_path);
    rig_start(&r, &conf);
    call_init(&busy, &r, peer_url(&p, "http", "/hang", url));
    call_start(&busy);
    call_init(&waits, &r, url);
    call_start(&waits);
    CU_ASSERT_TRUE(rig_reaches(&p.requests, 1));
    conf.queue_timeout_ms = 50;
    lane_configure(r.lane, &conf);
    CU_ASSERT_TRUE(call_wait(&waits));
    CU_ASSERT_EQUAL(waits.res.error, OMID_HTTP_QUEUE_TIMEOUT);
    CU_ASSERT_EQUAL(atomic_load(&busy.answers), 0);
    call_cancel(&busy);
    call_free(&busy);
    call_free(&waits);
    rig_stop(&r);
    peer_stop(&p);
}

/* ------------------------------------------------------------ turns */

#define TURNS 13 /* one of them is the first call, which shows that the peer answers */
static atomic_uint begun, released;
static char order[TURNS]; /* the first letter of each path, in the order in which they came */

static void serve_turns(struct peer *p, int fd)
{
    char head[4096];
    while (peer_read_request(p, fd, head, sizeof head)) {
        unsigned mine = atomic_load(&begun);
        if (mine < TURNS)
            order[mine] = strchr(head, '/')[1];
        atomic_store(&begun, ++mine); /* the lane sends the next when one is over: one writer at a time */
        while (mine > atomic_load(&released)) {
            if (recv(fd, head, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
                return;
            pause_ms(1);
        }
        if (!peer_ok(fd, "x"))
            return;
    }
}

/* Where a target could have every slot, it has every other one while another waits. */
static void test_turns(void)
{
    enum { SLOTS = 4 };
    struct rig r;
    struct peer p;
    struct call a[TURNS], b[TURNS], first;
    struct conf_lane conf = rig_conf();
    char url[256], url2[256];

    conf.pool = conf.semaphore = 4 * SLOTS;
    conf.timeout_ms = conf.queue_timeout_ms = 3600000;
    atomic_store(&begun, 0);
    atomic_store(&released, 1);
    peer_start(&p, serve_turns);
    rig_start(&r, &conf);
    CU_ASSERT_EQUAL(call_once(&first, &r, peer_url(&p, "http", "/first", url)), OMID_HTTP_OK);
    call_free(&first);
    conf.pool = conf.semaphore = SLOTS;
    lane_configure(r.lane, &conf);
    peer_url(&p, "http", "/a", url);
    peer_url(&p, "http", "/b", url2);
    for (unsigned i = 0; i < TURNS; i++) {
        call_init(&a[i], &r, url);
        call_init(&b[i], &r, url2);
    }
    for (unsigned i = 0; i < SLOTS; i++) { /* one after the other, so that the peer counts them in order */
        call_start(&a[i]);
        CU_ASSERT_TRUE(rig_reaches(&begun, 1 + i + 1));
    }
    calls_start(&a[SLOTS], TURNS - SLOTS);
    calls_start(b, TURNS);
    for (unsigned i = 1; i < TURNS - SLOTS; i++) {
        atomic_store(&released, 1 + i);
        CU_ASSERT_TRUE(rig_reaches(&begun, 1 + SLOTS + i));
    }
    unsigned of_b = 0;
    for (unsigned i = 1 + SLOTS; i < TURNS; i++) {
        of_b += order[i] == 'b';
        CU_ASSERT_NOT_EQUAL(order[i], order[i - 1]);
    }
    CU_ASSERT_EQUAL(of_b, (TURNS - SLOTS - 1) / 2);
    atomic_store(&released, 1 + 2 * TURNS);
    for (unsigned i = 0; i < TURNS; i++) {
        CU_ASSERT_TRUE(call_wait(&a[i]) && call_wait(&b[i]));
        call_free(&a[i]);
        call_free(&b[i]);
    }
    rig_stop(&r);
    peer_stop(&p);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"which statuses count", test_statuses},
        {"what is not counted", test_not_counted},
        {"which faults count", test_faults},
        {"how many breakers are open", test_open_gauge},
        {"never longer than the lane's time", test_longest},
        {"no idle connection", test_none_idle},
        {"a queue that many fill", test_full_of_many},
        {"a shorter wait for those that wait", test_shorter_wait},
        {"turns", test_turns},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"verdicts and bounds", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
