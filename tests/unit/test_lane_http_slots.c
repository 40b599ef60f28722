/* Who waits for whom in a lane: its semaphore and queue, cancelling, the breaker, the end. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "lane_peers.h"
#include "unit.h"

#define GRACE_MS 2000 /* an overloaded test machine */

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
    struct peer p, q;
    struct call calls[8], other;
    struct conf_lane conf = rig_conf();
    char url[256], url2[256];

    conf.pool = conf.semaphore = 1;
    conf.queue = 8; /* a target may hold 2 of them */
    peer_start(&p, serve_hang);
    peer_start(&q, serve_ok);
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
    call_init(&other, &r, peer_url(&q, "http", "/", url2));
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
    peer_stop(&q);
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

    conf.pool = conf.semaphore = 4; /* one is left to others */
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
    conf.pool = conf.semaphore = 3;
    lane_configure(r.lane, &conf);
    CU_ASSERT_TRUE(rig_reaches(&p.requests, 2));
    peer_open_gate(&p);
    CU_ASSERT_TRUE(call_wait(&a) && call_wait(&b));
    struct buf out = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &out);
    lanes_status(r.lanes, &w);
    CU_ASSERT_TRUE(json_w_end(&w));
    CU_ASSERT_PTR_NOT_NULL(strstr(out.data, "\"semaphore\":3"));
    buf_free(&out);
    call_free(&a);
    call_free(&b);
    rig_stop(&r);
    peer_stop(&p);
}

int main(void)
{
    CU_TestInfo tests[] = {
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
    CU_SuiteInfo suites[] = {{"HTTP lanes: slots", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
