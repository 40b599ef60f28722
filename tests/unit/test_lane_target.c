/* What a lane does with one target, over real sockets: the cold dead one, the adaptive limit, recovery. */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "lane_rig.h"

#define CALLS 64

enum { MODE_OK, MODE_FAIL, MODE_OVERLOAD, MODE_HOLD };
static atomic_uint held, released;

static void pause_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

/* In MODE_HOLD the n-th request is answered once `released` has reached n. */
static void serve_by_mode(struct peer *p, int fd)
{
    static const char *const failures[] = {
        [MODE_FAIL] = "HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n",
        [MODE_OVERLOAD] = "HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n",
    };
    char head[8192];

    while (peer_read_request(p, fd, head, sizeof head)) {
        unsigned mode = atomic_load(&p->mode);
        if (mode == MODE_FAIL || mode == MODE_OVERLOAD) {
            if (!peer_puts(fd, failures[mode]))
                return;
            continue;
        }
        unsigned mine = mode == MODE_HOLD ? atomic_fetch_add(&held, 1) + 1 : 0;
        while (mine > atomic_load(&released)) {
            if (recv(fd, head, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
                return;
            pause_ms(1);
        }
        if (!peer_ok(fd, "ok"))
            return;
    }
}

static void serve_reset(struct peer *p, int fd)
{
    struct linger now = {.l_onoff = 1};
    char head[8192];

    if (peer_read_request(p, fd, head, sizeof head))
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

static void start_all(struct call *calls, unsigned n, struct rig *r, const char *url)
{
    for (unsigned i = 0; i < n; i++)
        call_init(&calls[i], r, url);
    calls_start(calls, n);
    for (unsigned i = 0; i < n; i++)
        CU_ASSERT_EQUAL_FATAL(calls[i].rc, OMID_OK);
}

/* Waits for all; how many ended so. */
static unsigned count_all(struct call *calls, unsigned n, enum omid_http_error error)
{
    unsigned found = 0;
    for (unsigned i = 0; i < n; i++) {
        CU_ASSERT_TRUE(call_wait(&calls[i]));
        found += calls[i].res.error == error;
        call_free(&calls[i]);
    }
    return found;
}

struct counts {
    unsigned inflight, waiting;
};

static bool has_counts(void *arg)
{
    struct counts *c = arg;
    return rig_metric("omid_lane_inflight", NULL, NULL) == c->inflight &&
           rig_metric("omid_lane_waiting", NULL, NULL) == c->waiting;
}

static bool counts_reach(unsigned inflight, unsigned waiting)
{
    bool ok = rig_until(has_counts, &(struct counts){inflight, waiting});
    if (!ok)
        fprintf(stderr, "in flight %g, waiting %g; wanted %u, %u\n", rig_metric("omid_lane_inflight", NULL, NULL),
                rig_metric("omid_lane_waiting", NULL, NULL), inflight, waiting);
    return ok;
}

/* All at once to a target that nobody has talked to: what its breaker counts goes out, the rest is refused. */
static void test_cold_dead(void)
{
    struct rig r;
    struct peer p, q;
    struct call calls[CALLS];
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.breaker_failures = 5;
    conf.pool = conf.semaphore = CALLS;
    peer_start(&p, serve_reset);
    peer_start(&q, serve_by_mode);
    atomic_store(&q.mode, MODE_OVERLOAD);
    rig_start(&r, &conf);
    start_all(calls, CALLS, &r, peer_url(&p, "http", "/reset", url));
    CU_ASSERT_EQUAL(count_all(calls, CALLS, OMID_HTTP_BREAKER), CALLS - 5);
    CU_ASSERT_EQUAL(atomic_load(&p.requests), 5);
    start_all(calls, CALLS, &r, peer_url(&q, "http", "/overload", url));
    CU_ASSERT_EQUAL(count_all(calls, CALLS, OMID_HTTP_BREAKER), CALLS - 5);
    CU_ASSERT_EQUAL(atomic_load(&q.requests), 5);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/refused", dead_port());
    start_all(calls, CALLS, &r, url);
    CU_ASSERT_EQUAL(count_all(calls, CALLS, OMID_HTTP_CONNECT), 5);
    rig_stop(&r);
    peer_stop(&p);
    peer_stop(&q);
}

/* A slow target holds four slots of the lane, and others go past it. */
static void test_slow_leaves_room(void)
{
    struct rig r;
    struct peer slow, quick;
    struct call calls[CALLS], others[8];
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.pool = conf.semaphore = 8;
    atomic_store(&held, 0);
    atomic_store(&released, 0);
    peer_start(&slow, serve_by_mode);
    peer_start(&quick, serve_by_mode);
    atomic_store(&slow.mode, MODE_HOLD);
    rig_start(&r, &conf);
    start_all(calls, CALLS, &r, peer_url(&slow, "http", "/", url));
    CU_ASSERT_TRUE(counts_reach(4, CALLS - 4));
    start_all(others, 8, &r, peer_url(&quick, "http", "/", url));
    CU_ASSERT_EQUAL(count_all(others, 8, OMID_HTTP_OK), 8);
    CU_ASSERT_TRUE(counts_reach(4, CALLS - 4));
    /* A good round, and it has eight, which is the whole lane. */
    atomic_store(&released, 4);
    CU_ASSERT_TRUE(counts_reach(8, CALLS - 12));
    atomic_store(&released, CALLS);
    CU_ASSERT_EQUAL(count_all(calls, CALLS, OMID_HTTP_OK), CALLS);
    rig_stop(&r);
    peer_stop(&slow);
    peer_stop(&quick);
}

struct probing {
    struct rig *r;
    const char *url;
};

static bool answers_again(void *arg)
{
    struct probing *pr = arg;
    struct call c;
    bool ok = call_once(&c, pr->r, pr->url) == OMID_HTTP_OK;
    call_free(&c);
    return ok;
}

static void test_ramp(void)
{
    struct rig r;
    struct peer p;
    struct call calls[CALLS];
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.breaker_failures = 5;
    conf.breaker_open_ms = conf.breaker_open_max_ms = 100;
    conf.pool = conf.semaphore = CALLS;
    atomic_store(&held, 0);
    atomic_store(&released, 0);
    peer_start(&p, serve_by_mode);
    rig_start(&r, &conf);
    peer_url(&p, "http", "/", url);
    start_all(calls, CALLS, &r, url); /* grown to more than the ramp begins with */
    CU_ASSERT_EQUAL(count_all(calls, CALLS, OMID_HTTP_OK), CALLS);
    atomic_store(&p.mode, MODE_FAIL);
    for (unsigned i = 0; i < 5; i++) {
        struct call c;
        CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_OK);
        CU_ASSERT_EQUAL(c.res.status, 500);
        call_free(&c);
    }
    atomic_store(&p.mode, MODE_OK);
    CU_ASSERT_TRUE(rig_until(answers_again, &(struct probing){&r, url}));
    atomic_store(&p.mode, MODE_HOLD);
    start_all(calls, CALLS, &r, url);
    CU_ASSERT_TRUE(counts_reach(1, CALLS - 1));
    atomic_store(&released, 1);
    CU_ASSERT_TRUE(counts_reach(2, CALLS - 3));
    atomic_store(&released, 3);
    CU_ASSERT_TRUE(counts_reach(4, CALLS - 7));
    atomic_store(&released, 7);
    CU_ASSERT_TRUE(counts_reach(8, CALLS - 15));
    atomic_store(&released, CALLS);
    CU_ASSERT_EQUAL(count_all(calls, CALLS, OMID_HTTP_OK), CALLS);
    rig_stop(&r);
    peer_stop(&p);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("targets of a lane", NULL, NULL);
    CU_add_test(s, "a cold dead target gets five attempts", test_cold_dead);
    CU_add_test(s, "a slow target leaves room for others", test_slow_leaves_room);
    CU_add_test(s, "ramp after a recovery", test_ramp);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed > 0 || CU_get_error() != CUE_SUCCESS;
}
