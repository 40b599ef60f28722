/* Redirects hop by hop, and settings per target prefix, over real sockets. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/magic.h"
#include "lane/http/lane_int.h"
#include "lane_rig.h"
#include "unit.h"

enum { MODE_OK, MODE_FAIL, MODE_HOLD };

/* What "/moved/" has in its head beside a 302's status. */
static const char *_Atomic moved;

/* "/to/302/LOCATION" redirects there. All else by mode: 200 with the request's head
 * as body, 500, or nothing until the gate opens. */
static void serve(struct peer *p, int fd)
{
    char head[8192], out[9000];

    while (peer_read_request(p, fd, head, sizeof head)) {
        char *path = strchr(head, ' ') + 1, *end = strstr(path, " HTTP/1.1");
        unsigned mode = atomic_load(&p->mode);
        if (strncmp(path, "/to/", 4) == 0) {
            snprintf(out, sizeof out, "HTTP/1.1 %.3s x\r\nLocation: %.*s\r\nContent-Length: 5\r\n\r\nmoved", path + 4,
                     (int)(end - path - 8), path + 8);
            if (!peer_puts(fd, out))
                return;
        } else if (strncmp(path, "/moved/ ", 8) == 0) {
            if (!peer_puts(fd, "HTTP/1.1 302 x\r\nContent-Length: 5\r\n") || !peer_puts(fd, moved) ||
                !peer_puts(fd, "\r\n\r\nmoved"))
                return;
        } else if (mode == MODE_FAIL) {
            if (!peer_puts(fd, "HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n"))
                return;
        } else if ((mode == MODE_HOLD && !peer_hold(p, fd)) || !peer_ok(fd, head)) {
            return;
        }
    }
}

static bool has(const struct call *c, const char *text)
{
    return c->body && strstr(c->body, text) != NULL;
}

/* A POST with a body and credentials, through these redirects. */
static void post(struct call *c, struct rig *r, const char *url)
{
    static const char *const headers[] = {"Content-Type: text/x", "Authorization: Bearer abc", "Cookie: a=b",
                                          "X-Own: 1", NULL};
    call_init(c, r, url);
    c->req.method = "POST";
    c->req.headers = headers;
    c->req.body = "hello";
    c->req.body_len = 5;
    call_start(c);
    CU_ASSERT_EQUAL_FATAL(c->rc, OMID_OK);
    CU_ASSERT_TRUE_FATAL(call_wait(c));
}

static void test_methods(void)
{
    static const struct {
        const char *status;
        bool post;
    } cases[] = {{"301", false}, {"302", false}, {"303", false}, {"307", true}, {"308", true}};
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256], path[64];

    conf.follow = 3;
    peer_start(&p, serve);
    rig_start(&r, &conf);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        snprintf(path, sizeof path, "/to/%s//end?x=%%20y#part", cases[i].status);
        post(&c, &r, peer_url(&p, "http", path, url));
        CU_ASSERT_EQUAL(c.res.error, OMID_HTTP_OK);
        CU_ASSERT_EQUAL(c.res.status, 200);
        CU_ASSERT_EQUAL(c.res.redirects, 1);
        CU_ASSERT_TRUE(has(&c, cases[i].post ? "POST /end" : "GET /end"));
        CU_ASSERT_EQUAL(has(&c, "Content-Length: 5"), cases[i].post);
        CU_ASSERT_EQUAL(has(&c, "Content-Type: text/x"), cases[i].post);
        /* The same origin. */
        CU_ASSERT_TRUE(has(&c, "Authorization: Bearer abc") && has(&c, "Cookie: a=b") && has(&c, "X-Own: 1"));
        call_free(&c);
    }
    /* Those that lead nowhere are the answer. */
    call_init(&c, &r, peer_url(&p, "http", "/to/300/x", url));
    CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_OK);
    CU_ASSERT_TRUE(c.res.status == 300 && c.res.redirects == 0);
    call_free(&c);
    CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/to/302/", url)),
                    OMID_HTTP_OK); /* an empty Location: itself */
    call_free(&c);
    rig_stop(&r);
    peer_stop(&p);
}

static void test_origins(void)
{
    struct rig r;
    struct peer p, q;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[600], there[256];

    conf.follow = 3;
    peer_start(&p, serve);
    peer_start(&q, serve);
    rig_start(&r, &conf);
    /* To another port, and on from there to itself: what was left behind stays so. */
    snprintf(url, sizeof url, "http://127.0.0.1:%u/to/307/http://127.0.0.1:%u/to/308//end", p.port, q.port);
    post(&c, &r, url);
    CU_ASSERT_EQUAL(c.res.error, OMID_HTTP_OK);
    CU_ASSERT_EQUAL(c.res.redirects, 2);
    CU_ASSERT_TRUE(has(&c, "POST /end") && has(&c, "X-Own: 1") && has(&c, "Content-Type: text/x"));
    CU_ASSERT_FALSE(has(&c, "Authorization") || has(&c, "Cookie"));
    call_free(&c);
    /* And back. */
    snprintf(url, sizeof url, "http://127.0.0.1:%u/to/307/http://127.0.0.1:%u/to/307/http://127.0.0.1:%u/end", p.port,
             q.port, p.port);
    post(&c, &r, url);
    CU_ASSERT_TRUE(c.res.error == OMID_HTTP_OK && has(&c, "POST /end"));
    CU_ASSERT_FALSE(has(&c, "Authorization"));
    call_free(&c);
    /* The user of our own URL goes to its own origin alone. */
    snprintf(url, sizeof url, "http://me:pw@127.0.0.1:%u/to/302/http://127.0.0.1:%u/end", p.port, q.port);
    CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_OK);
    CU_ASSERT_FALSE(has(&c, "Authorization"));
    call_free(&c);
    static const struct {
        const char *to, *why;
    } bad[] = {{"ftp://127.0.0.1/x", "no http or https"},
               {"file:///etc/passwd", "no http or https"},
               {"http://me:pw@127.0.0.1:1/", "names a user"}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        snprintf(url, sizeof url, "http://127.0.0.1:%u/to/302/%s", p.port, bad[i].to);
        CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_BLOCKED);
        CU_ASSERT_PTR_NOT_NULL(strstr(c.text, bad[i].why));
        CU_ASSERT_EQUAL(c.res.status, 0);
        call_free(&c);
    }
    /* The next target's breaker and its failure are its own. */
    snprintf(url, sizeof url, "http://127.0.0.1:%u/to/302/http://127.0.0.1:%u/", p.port, dead_port());
    CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_CONNECT);
    call_free(&c);
    peer_url(&q, "http", "/", there);
    rig_stop(&r);
    peer_stop(&p);
    peer_stop(&q);
}

static bool is_idle(void *arg)
{
    (void)arg;
    return rig_metric("omid_lane_inflight", NULL, NULL) == 0 && rig_metric("omid_lane_waiting", NULL, NULL) == 0;
}

static bool one_waits(void *arg)
{
    (void)arg;
    return rig_metric("omid_lane_waiting", NULL, NULL) == 1;
}

/* Whatever a peer writes there, it is one of: followed, refused with a reason, or no redirect at all. */
static void test_locations(void)
{
    static const struct {
        const char *head;
        enum omid_http_error error;
        unsigned redirects;
        const char *seen; /* the request line's beginning, the text of the error, or the body */
    } cases[] = {
        {"Location: end", OMID_HTTP_OK, 1, "GET /moved/end "},
        {"Location: ../end", OMID_HTTP_OK, 1, "GET /end "},
        {"Location: /../../../end", OMID_HTTP_OK, 1, "GET /end "},
        {"location:\t/end#part", OMID_HTTP_OK, 1, "GET /end "},
        {"Location: /a%20b?x=%0d%0aX:y#?z", OMID_HTTP_OK, 1, "GET /a%20b?x=%0d%0aX:y "},
        {"Location: /a b", OMID_HTTP_OK, 1, "GET /a%20b "},
        {"Location: /\xc3\xa9", OMID_HTTP_OK, 1, "GET /%c3%a9 "},
        {"Location: ?q", OMID_HTTP_OK, 1, "GET /moved/?q "},
        {"Location: //127.0.0.1:1/x", OMID_HTTP_CONNECT, 1, ""},
        {"Location: http://[::1]:1/x", OMID_HTTP_CONNECT, 1, ""},
        {"Location: HTTP://127.0.0.1:1", OMID_HTTP_CONNECT, 1, ""},
        {"Location: http://[::1", OMID_HTTP_OK, 0, "moved"},
        {"Location: http://127.0.0.1:99999/", OMID_HTTP_OK, 0, "moved"},
        {"Location: http://", OMID_HTTP_OK, 0, "moved"},
        {"Location: javascript:alert(1)", OMID_HTTP_OK, 0, "moved"},
        {"Location: http://@127.0.0.1:1/", OMID_HTTP_BLOCKED, 0, "names a user"},
        {"Location: //me@127.0.0.1:1/", OMID_HTTP_BLOCKED, 0, "names a user"},
        {"Location: gopher://127.0.0.1:1/", OMID_HTTP_BLOCKED, 0, "no http or https"},
        {"Location: /a\r\nLocation: /b", OMID_HTTP_OK, 0, "moved"},
        {"X-Location: /a", OMID_HTTP_OK, 0, "moved"},
    };
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.follow = 1;
    peer_start(&p, serve);
    rig_start(&r, &conf);
    peer_url(&p, "http", "/moved/", url);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        moved = cases[i].head;
        enum omid_http_error error = call_once(&c, &r, url);
        const char *seen = error == OMID_HTTP_OK ? c.body : c.text;
        if (error != cases[i].error || c.res.redirects != cases[i].redirects || !strstr(seen, cases[i].seen)) {
            fprintf(stderr, "%s: error %d, %u redirects, %s\n", cases[i].head, error, c.res.redirects, seen);
            CU_FAIL("a Location");
        }
        call_free(&c);
    }
    CU_ASSERT_EQUAL(rig_metric("omid_lane_inflight", NULL, NULL), 0);
    rig_stop(&r);
    peer_stop(&p);
}

/* The next target has no room, or is not to be asked: the request is over with that, and the first target is well. */
static void test_next_is_unwell(void)
{
    struct rig r;
    struct peer p, q;
    struct call c, both[2];
    struct conf_lane conf = rig_conf();
    char url[600], there[256];

    conf.follow = 2;
    conf.breaker_failures = 1;
    conf.breaker_open_ms = 600000;
    conf.breaker_open_max_ms = 600000;
    conf.semaphore = 1;
    conf.queue = 1;
    peer_start(&p, serve);
    peer_start(&q, serve);
    rig_start(&r, &conf);
    atomic_store(&q.mode, MODE_FAIL);
    CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&q, "http", "/end", there)), OMID_HTTP_OK);
    call_free(&c);
    unsigned asked = atomic_load(&q.requests);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/to/302/%s", p.port, there);
    for (unsigned i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_BREAKER);
        CU_ASSERT_EQUAL(c.res.redirects, 1);
        CU_ASSERT_EQUAL(c.res.status, 0);
        call_free(&c);
    }
    CU_ASSERT_EQUAL(atomic_load(&q.requests), asked);
    /* In one turn: behind the first, the slot goes to the one that waits; the redirect then waits, and is cancelled. */
    atomic_store(&q.mode, MODE_HOLD);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/to/302/http://127.0.0.1:%u/held", p.port, q.port);
    call_init(&both[0], &r, url);
    call_init(&both[1], &r, peer_url(&q, "http", "/held", there));
    calls_start(both, 2);
    CU_ASSERT_TRUE(rig_reaches(&q.requests, asked + 1));
    CU_ASSERT_TRUE(rig_until(one_waits, NULL));
    call_cancel(&both[0]);
    peer_open_gate(&q);
    CU_ASSERT_TRUE(call_wait(&both[1]));
    CU_ASSERT_EQUAL(both[1].res.error, OMID_HTTP_OK);
    CU_ASSERT_TRUE(rig_until(is_idle, NULL));
    call_free(&both[0]);
    call_free(&both[1]);
    rig_stop(&r);
    peer_stop(&p);
    peer_stop(&q);
}

static void test_loop(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[600];

    conf.follow = 2;
    conf.breaker_failures = 1;
    peer_start(&p, serve);
    rig_start(&r, &conf);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/to/302/to/302/to/302/to/302/x",
             p.port); /* relative: deeper and deeper */
    for (unsigned i = 0; i < 3; i++) {
        unsigned before = atomic_load(&p.requests);
        CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_PROTOCOL);
        CU_ASSERT_STRING_EQUAL(c.text, "it was still a redirect after 2 of them");
        CU_ASSERT_EQUAL(c.res.redirects, 2);
        CU_ASSERT_EQUAL(atomic_load(&p.requests) - before, 3); /* no breaker has opened: the targets did answer */
        call_free(&c);
    }
    CU_ASSERT_EQUAL(rig_metric("omid_lane_inflight", NULL, NULL), 0);
    rig_stop(&r);
    peer_stop(&p);
}

/* All hops have the time of one request, a wait for a slot included. */
static void test_deadline(void)
{
    struct rig r;
    struct peer p, q;
    struct call c, other;
    struct conf_lane conf = rig_conf();
    char url[600], hold[256];

    conf.follow = 2;
    conf.semaphore = 1;
    peer_start(&p, serve);
    peer_start(&q, serve);
    atomic_store(&q.mode, MODE_HOLD);
    rig_start(&r, &conf);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/to/302/http://127.0.0.1:%u/end", p.port, q.port);
    call_init(&c, &r, url);
    c.req.timeout_ms = 400;
    call_start(&c);
    CU_ASSERT_TRUE(call_wait(&c));
    CU_ASSERT_EQUAL(c.res.error, OMID_HTTP_TIMEOUT);
    CU_ASSERT_EQUAL(c.res.redirects, 1);
    CU_ASSERT_TRUE(c.res.elapsed_ms >= 390);
    call_free(&c);
    /* In one turn: the redirect comes, and behind it the only slot goes to the one that waits for it. */
    call_init(&c, &r, url);
    c.req.timeout_ms = 400;
    call_init(&other, &r, peer_url(&q, "http", "/other", hold));
    struct call both[2] = {c, other};
    calls_start(both, 2);
    CU_ASSERT_TRUE(call_wait(&both[0]));
    CU_ASSERT_EQUAL(both[0].res.error, OMID_HTTP_TIMEOUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(both[0].text, "waited for a slot"));
    CU_ASSERT_EQUAL(atomic_load(&both[1].answers), 0);
    peer_open_gate(&q);
    CU_ASSERT_TRUE(call_wait(&both[1]));
    CU_ASSERT_EQUAL(both[1].res.error, OMID_HTTP_OK);
    call_free(&both[0]);
    call_free(&both[1]);
    rig_stop(&r);
    peer_stop(&p);
    peer_stop(&q);
}

/* At each phase of the hops. */
static void test_cancel(void)
{
    enum { MANY = 60 };
    static struct call calls[MANY];
    struct rig r;
    struct peer p;
    struct conf_lane conf = rig_conf();
    char url[MANY][600];

    conf.follow = 5;
    conf.semaphore = 3;
    peer_start(&p, serve);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(url[i], sizeof url[i], "http://127.0.0.1:%u/to/302//to/307//to/303//end?%u", p.port, i);
        call_init(&calls[i], &r, url[i]);
    }
    calls_start(calls, MANY);
    for (unsigned i = 0; i < MANY; i += 2) {
        call_cancel(&calls[i]);
        if (i % 20 == 0)
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    for (unsigned i = 1; i < MANY; i += 2) {
        CU_ASSERT_TRUE(call_wait(&calls[i]));
        CU_ASSERT_EQUAL(calls[i].res.error, OMID_HTTP_OK);
        CU_ASSERT_EQUAL(calls[i].res.redirects, 3);
        call_free(&calls[i]);
    }
    CU_ASSERT_TRUE(rig_until(is_idle, NULL));
    for (unsigned i = 0; i < MANY; i += 2)
        call_free(&calls[i]);
    rig_stop(&r);
    peer_stop(&p);
}

/* ------------------------------------------------------------ target blocks */

/* The lane's settings with one block, to be changed. */
static struct conf_lane *with_target(struct conf_lane *conf, size_t n, size_t i, const char *prefix)
{
    if (!conf->targets) {
        conf->targets = conf_targets_new(n);
        omid_assert(conf->targets != NULL);
    }
    struct conf_target *t = &conf->targets->target[i];
    t->prefix = strdup(prefix);
    t->lane = *conf;
    t->lane.targets = NULL;
    return &t->lane;
}

static yajl_val blocks(struct rig *r, yajl_val *whole)
{
    struct buf out = BUF_INIT(0);
    struct json_w w;
    char err[128];

    json_w_start(&w, &out);
    lanes_status(r->lanes, &w);
    CU_ASSERT_TRUE_FATAL(json_w_end(&w));
    *whole = json_parse(out.data, out.len, 0, err, sizeof err);
    buf_free(&out);
    return json_array(json_at(*whole, 0), "target_blocks");
}

static void check_block(struct rig *r, size_t i, const char *prefix, int64_t targets, int64_t matched)
{
    yajl_val whole, b = json_at(blocks(r, &whole), i);
    CU_ASSERT_STRING_EQUAL(json_str(b, "prefix"), prefix);
    CU_ASSERT_EQUAL(json_int(b, "targets", -1), targets);
    CU_ASSERT_EQUAL(json_int(b, "matched", -1), matched);
    json_free(&whole);
}

struct blocks_are {
    struct rig *r;
    size_t n;
};

static bool blocks_are(void *arg)
{
    struct blocks_are *a = arg;
    yajl_val whole;
    bool ok = json_len(blocks(a->r, &whole)) == a->n;
    json_free(&whole);
    return ok;
}

static void test_longest_wins(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256], prefix[3][256];

    peer_start(&p, serve);
    atomic_store(&p.mode, MODE_HOLD);
    snprintf(prefix[0], 256, "http://127.0.0.1:%u/v1/quick/", p.port);
    snprintf(prefix[1], 256, "http://127.0.0.1:%u/v1/", p.port);
    snprintf(prefix[2], 256, "http://127.0.0.1:1/");
    conf.timeout_ms = 20000;
    with_target(&conf, 3, 0, prefix[0])->timeout_ms = 100;
    with_target(&conf, 3, 1, prefix[1])->timeout_ms = 300;
    with_target(&conf, 3, 2, prefix[2])->timeout_ms = 50;
    rig_start(&r, &conf);
    CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/v1/quick/a", url)), OMID_HTTP_TIMEOUT);
    CU_ASSERT_TRUE(c.res.elapsed_ms >= 99);
    call_free(&c);
    CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/v1/quick/b", url)), OMID_HTTP_TIMEOUT);
    call_free(&c);
    CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/v1/x", url)), OMID_HTTP_TIMEOUT);
    CU_ASSERT_TRUE(c.res.elapsed_ms >= 299);
    call_free(&c);
    call_init(&c, &r, peer_url(&p, "http", "/v2/", url)); /* the lane's own: long enough */
    call_start(&c);
    peer_open_gate(&p);
    CU_ASSERT_TRUE(call_wait(&c));
    CU_ASSERT_EQUAL(c.res.error, OMID_HTTP_OK);
    call_free(&c);
    check_block(&r, 0, prefix[0], 2, 2);
    check_block(&r, 1, prefix[1], 1, 1);
    check_block(&r, 2, prefix[2], 0, 0);
    /* The same again: nobody is counted twice. */
    lane_configure(r.lane, &conf);
    CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/v1/quick/c", url)), OMID_HTTP_OK);
    call_free(&c);
    check_block(&r, 0, prefix[0], 3, 3);
    check_block(&r, 1, prefix[1], 1, 1);
    check_block(&r, 2, prefix[2], 0, 0);
    rig_stop(&r);
    peer_stop(&p);
    conf_lane_clear(&conf);
}

static bool is_open(struct rig *r, const char *key)
{
    struct buf out = BUF_INIT(0);
    struct json_w w;
    char want[400];

    json_w_start(&w, &out);
    lanes_breakers(r->lanes, NULL, &w);
    CU_ASSERT_TRUE_FATAL(json_w_end(&w));
    snprintf(want, sizeof want, "\"target\":\"%s\",\"state\":\"open\"", key);
    bool open = strstr(out.data, want) != NULL;
    buf_free(&out);
    return open;
}

/* Existing targets get new settings, and their breakers stay as they are. */
static void test_changed(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf(), next = rig_conf();
    char url[256], other[256], prefix[256];

    peer_start(&p, serve);
    atomic_store(&p.mode, MODE_FAIL);
    snprintf(prefix, sizeof prefix, "http://127.0.0.1:%u/a", p.port);
    conf.breaker_failures = next.breaker_failures = 100;
    with_target(&conf, 1, 0, prefix)->breaker_failures = 2;
    rig_start(&r, &conf);
    peer_url(&p, "http", "/a", url);
    peer_url(&p, "http", "/b", other);
    for (unsigned i = 0; i < 2; i++) {
        CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_OK);
        call_free(&c);
        CU_ASSERT_EQUAL(call_once(&c, &r, other), OMID_HTTP_OK);
        call_free(&c);
    }
    CU_ASSERT_TRUE(is_open(&r, url) && !is_open(&r, other));
    /* The block goes: no other rule for its target, whose breaker is open still. */
    lane_configure(r.lane, &next);
    CU_ASSERT_TRUE(rig_until(blocks_are, &(struct blocks_are){&r, 0}));
    CU_ASSERT_TRUE(is_open(&r, url));
    CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_BREAKER);
    call_free(&c);
    /* Another comes, for the target that has failed twice already: the third is one too many. */
    snprintf(prefix, sizeof prefix, "http://127.0.0.1:%u/b", p.port);
    with_target(&next, 1, 0, prefix)->breaker_failures = 3;
    lane_configure(r.lane, &next);
    CU_ASSERT_TRUE(rig_until(blocks_are, &(struct blocks_are){&r, 1}));
    CU_ASSERT_EQUAL(call_once(&c, &r, other), OMID_HTTP_OK);
    call_free(&c);
    CU_ASSERT_TRUE(is_open(&r, other));
    check_block(&r, 0, prefix, 1, 1);
    rig_stop(&r);
    peer_stop(&p);
    conf_lane_clear(&conf);
    conf_lane_clear(&next);
}

/* A block that has lost its targets to a longer one has matched some all the same. */
static void test_counted(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane one = rig_conf(), two = rig_conf();
    char url[256], all[256];

    peer_start(&p, serve);
    peer_url(&p, "http", "/", all);
    peer_url(&p, "http", "/b", url);
    with_target(&one, 1, 0, all);
    with_target(&two, 2, 0, url);
    with_target(&two, 2, 1, all);
    rig_start(&r, &one);
    CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_OK);
    call_free(&c);
    check_block(&r, 0, all, 1, 1);
    lane_configure(r.lane, &two);
    CU_ASSERT_TRUE(rig_until(blocks_are, &(struct blocks_are){&r, 2}));
    check_block(&r, 0, url, 1, 1);
    check_block(&r, 1, all, 0, 1);
    lane_configure(r.lane, &one);
    CU_ASSERT_TRUE(rig_until(blocks_are, &(struct blocks_are){&r, 1}));
    check_block(&r, 0, all, 1, 2);
    rig_stop(&r);
    peer_stop(&p);
    conf_lane_clear(&one);
    conf_lane_clear(&two);
}

struct remark {
    struct loop_msg msg;
    struct lane *lane;
    unsigned soon, later, again;
    atomic_bool over;
};

static void on_remark(struct loop *loop, struct loop_msg *msg)
{
    struct remark *m = container_of(msg, struct remark, msg);

    (void)loop;
    m->soon = rules_remark(m->lane, lane_now(m->lane) + TARGET_IDLE_MS - 60000);
    m->later = rules_remark(m->lane, lane_now(m->lane) + TARGET_IDLE_MS);
    m->again = rules_remark(m->lane, lane_now(m->lane) + 2 * TARGET_IDLE_MS);
    atomic_store(&m->over, true);
}

static bool is_remarked(void *arg)
{
    return atomic_load(&((struct remark *)arg)->over);
}

/* A prefix that was mistyped is told without a reload, too: once, after an hour. */
static void test_never_matched(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    struct remark m = {.msg = {.fn = on_remark}};
    char url[256];

    peer_start(&p, serve);
    with_target(&conf, 2, 0, "http://mistyped.invalid:80/");
    with_target(&conf, 2, 1, peer_url(&p, "http", "/", url));
    rig_start(&r, &conf);
    CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_OK);
    call_free(&c);
    m.lane = r.lane;
    loop_post(lanes_loop(r.lanes), &m.msg);
    CU_ASSERT_TRUE_FATAL(rig_until(is_remarked, &m));
    CU_ASSERT_TRUE(m.soon == 0 && m.later == 1 && m.again == 0);
    rig_stop(&r);
    peer_stop(&p);
    conf_lane_clear(&conf);
}

/* A block bounds its targets, while the lane has room; and a change lets those go on that wait. */
static void test_share(void)
{
    enum { MANY = 12 };
    static struct call calls[MANY];
    struct rig r;
    struct peer p;
    struct conf_lane conf = rig_conf(), next;
    char url[256], prefix[256];

    peer_start(&p, serve);
    atomic_store(&p.mode, MODE_HOLD);
    snprintf(prefix, sizeof prefix, "http://127.0.0.1:%u/", p.port);
    next = conf;
    with_target(&conf, 1, 0, prefix)->semaphore = 2;
    rig_start(&r, &conf);
    peer_url(&p, "http", "/", url);
    for (unsigned i = 0; i < MANY; i++)
        call_init(&calls[i], &r, url);
    calls_start(calls, MANY);
    CU_ASSERT_TRUE(rig_reaches(&p.requests, 2));
    CU_ASSERT_EQUAL(rig_metric("omid_lane_inflight", NULL, NULL), 2);
    CU_ASSERT_EQUAL(rig_metric("omid_lane_waiting", NULL, NULL), MANY - 2);
    lane_configure(r.lane, &next);
    CU_ASSERT_TRUE(rig_reaches(&p.requests, 4)); /* what the adaptive limit begins with */
    peer_open_gate(&p);
    for (unsigned i = 0; i < MANY; i++) {
        CU_ASSERT_TRUE(call_wait(&calls[i]));
        CU_ASSERT_EQUAL(calls[i].res.error, OMID_HTTP_OK);
        call_free(&calls[i]);
    }
    rig_stop(&r);
    peer_stop(&p);
    conf_lane_clear(&conf);
}

/* Requests under way while their targets' settings change again and again. */
static void test_changing(void)
{
    enum { ROUNDS = 60, EACH = 8 };
    static struct call calls[EACH];
    struct rig r;
    struct peer p;
    char url[EACH][256], prefix[256], path[32];

    struct conf_lane conf = rig_conf();
    peer_start(&p, serve);
    rig_start(&r, &conf);
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct conf_lane next = rig_conf();
        if (round % 3 > 0) { /* a proxy, which the peer is as well, and certificates that no plain target is shown */
            next.outside = conf_outside_new();
            CU_ASSERT_PTR_NOT_NULL_FATAL(next.outside);
            next.outside->proxy = round % 3 == 1 ? strdup(peer_url(&p, "http", "", prefix)) : NULL;
            next.outside->proxy_auth = round % 3 == 1 ? strdup("me:pw") : NULL;
            next.outside->ca.data = strdup("none");
            next.outside->ca.len = 4;
        }
        next.follow = 3;
        next.semaphore = 1 + round % EACH; /* some wait while all changes */
        for (unsigned i = 0; i < round % 4; i++) {
            snprintf(prefix, sizeof prefix, "http://127.0.0.1:%u/%u", p.port, (round + i) % EACH);
            struct conf_lane *block = with_target(&next, round % 4, i, prefix);
            block->semaphore = 1 + round % 3;
            block->outside = i % 2 == 0 ? conf_outside_ref(next.outside) : NULL;
        }
        for (unsigned i = 0; i < EACH; i++) {
            snprintf(path, sizeof path, i % 2 == 0 ? "/to/307//%u" : "/%u", i);
            call_init(&calls[i], &r, peer_url(&p, "http", path, url[i]));
        }
        calls_start(calls, EACH);
        lane_configure(r.lane, &next);
        conf_lane_clear(&next);
        for (unsigned i = 0; i < EACH; i++) {
            CU_ASSERT_TRUE(call_wait(&calls[i]));
            CU_ASSERT_EQUAL(calls[i].res.error, OMID_HTTP_OK);
            call_free(&calls[i]);
        }
    }
    rig_stop(&r);
    peer_stop(&p);
}

/* A user's URL does not go behind a proxy, whoever asks. */
static void test_user_url_and_proxy(void)
{
    struct rig r;
    struct call c;
    struct conf_lane conf = rig_conf();

    conf.outside = conf_outside_new();
    CU_ASSERT_PTR_NOT_NULL_FATAL(conf.outside);
    conf.outside->proxy = strdup("http://127.0.0.1:1");
    rig_start(&r, &conf);
    call_init(&c, &r, "http://198.41.0.4/");
    c.req.flags = OMID_HTTP_USER_URL;
    call_start(&c);
    CU_ASSERT_TRUE(call_wait(&c));
    CU_ASSERT_EQUAL(c.res.error, OMID_HTTP_BLOCKED);
    CU_ASSERT_PTR_NOT_NULL(strstr(c.text, "proxy"));
    call_free(&c);
    rig_stop(&r);

    /* Nor one that was waiting when the proxy came. */
    struct conf_lane direct = rig_conf();
    struct peer p;
    struct call both[2];
    char url[256];
    direct.semaphore = conf.semaphore = 1;
    peer_start(&p, serve);
    atomic_store(&p.mode, MODE_HOLD);
    rig_start(&r, &direct);
    call_init(&both[0], &r, peer_url(&p, "http", "/", url));
    call_init(&both[1], &r, "http://198.41.0.4/");
    both[1].req.flags = OMID_HTTP_USER_URL;
    calls_start(both, 2);
    CU_ASSERT_TRUE(rig_reaches(&p.requests, 1) && rig_until(one_waits, NULL));
    lane_configure(r.lane, &conf);
    peer_open_gate(&p);
    CU_ASSERT_TRUE(call_wait(&both[0]) && call_wait(&both[1]));
    CU_ASSERT_EQUAL(both[0].res.error, OMID_HTTP_OK);
    CU_ASSERT_EQUAL(both[1].res.error, OMID_HTTP_BLOCKED);
    CU_ASSERT_PTR_NOT_NULL(strstr(both[1].text, "proxy"));
    call_free(&both[0]);
    call_free(&both[1]);
    rig_stop(&r);
    peer_stop(&p);
    conf_lane_clear(&conf);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"methods and bodies", test_methods},
        {"other origins", test_origins},
        {"what a Location can be", test_locations},
        {"the next target is unwell", test_next_is_unwell},
        {"a loop", test_loop},
        {"one deadline", test_deadline},
        {"cancelled between hops", test_cancel},
        {"the longest prefix wins", test_longest_wins},
        {"changed while targets are there", test_changed},
        {"what a block has matched", test_counted},
        {"a block that matches nothing", test_never_matched},
        {"a target's share", test_share},
        {"changed again and again", test_changing},
        {"a user's URL and a proxy", test_user_url_and_proxy},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"lanes: redirects and target blocks", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
