/* What a lane does with one target, over real sockets: the cold dead one, the adaptive limit, recovery. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/magic.h"
#include "base/metrics.h"
#include "lane/http/lane_int.h"
#include "lane_rig.h"
#include "unit.h"

#define CALLS 64

enum { MODE_OK, MODE_FAIL, MODE_OVERLOAD, MODE_HOLD };
static atomic_uint held, released;

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
    /* A good round, and it has the whole lane but for one, which is left to the other. */
    atomic_store(&released, 4);
    CU_ASSERT_TRUE(counts_reach(7, CALLS - 11));
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

static double opened_as_slow(void)
{
    const struct metric_label labels[] = {
        {"plugin", "test"}, {"from", "closed"}, {"to", "open"}, {"reason", "slow_calls"}};
    return (double)metric_value(
        metric_get(METRIC_COUNTER, "omid_breaker_transitions_total", "", labels, ARRAY_LEN(labels), NULL, 0));
}

/* Every answer is right, and takes too long: where that has a limit, the breaker opens. Then the setting goes. */
static void test_slow_calls(void)
{
    struct rig r;
    struct peer p;
    struct call calls[8];
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.breaker_min_attempts = 4;
    conf.breaker_slow_ms = 20;
    conf.breaker_open_ms = conf.breaker_open_max_ms = 100;
    atomic_store(&held, 0);
    atomic_store(&released, 0);
    peer_start(&p, serve_by_mode);
    atomic_store(&p.mode, MODE_HOLD);
    rig_start(&r, &conf);
    start_all(calls, 4, &r, peer_url(&p, "http", "/", url));
    CU_ASSERT_TRUE(counts_reach(4, 0));
    pause_ms(100);
    double opened = opened_as_slow();
    atomic_store(&released, 4);
    CU_ASSERT_EQUAL(count_all(calls, 4, OMID_HTTP_OK), 4);
    CU_ASSERT_EQUAL(opened_as_slow(), opened + 1);
    conf.breaker_slow_ms = 0;
    lane_configure(r.lane, &conf);
    atomic_store(&p.mode, MODE_OK);
    CU_ASSERT_TRUE(rig_until(answers_again, &(struct probing){&r, url}));
    atomic_store(&p.mode, MODE_HOLD);
    opened = opened_as_slow();
    start_all(calls, 4, &r, url);
    pause_ms(100);
    atomic_store(&released, CALLS);
    CU_ASSERT_EQUAL(count_all(calls, 4, OMID_HTTP_OK), 4);
    CU_ASSERT_EQUAL(opened_as_slow(), opened);
    rig_stop(&r);
    peer_stop(&p);
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

/* Probes that are cancelled, or too late for anybody to ask: each gives its slot and its place back. */
static void test_probe_slots(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.breaker_failures = 1;
    conf.breaker_open_ms = conf.breaker_open_max_ms = 1;
    conf.semaphore = conf.pool = 2;
    atomic_store(&held, 0);
    atomic_store(&released, 0);
    peer_start(&p, serve_by_mode);
    rig_start(&r, &conf);
    atomic_store(&p.mode, MODE_FAIL);
    CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/", url)), OMID_HTTP_OK);
    call_free(&c);
    atomic_store(&p.mode, MODE_HOLD);
    pause_ms(5); /* the breaker is open for 1 ms */
    for (unsigned i = 0; i < 300; i++) {
        call_init(&c, &r, url);
        call_start(&c);
        if (i % 10 == 0)
            CU_ASSERT_TRUE(counts_reach(1, 0));
        call_cancel(&c);
        CU_ASSERT_EQUAL(atomic_load(&c.answers), 0);
    }
    CU_ASSERT_TRUE(counts_reach(0, 0));
    atomic_store(&p.mode, MODE_OK);
    CU_ASSERT_TRUE(rig_until(answers_again, &(struct probing){&r, url}));
    rig_stop(&r);
    peer_stop(&p);
}

/* ------------------------------------------------------------ what others see */

static yajl_val breakers(struct rig *r, const char *lane)
{
    struct buf out = BUF_INIT(0);
    struct json_w w;
    char err[128];

    json_w_start(&w, &out);
    lanes_breakers(r->lanes, lane, &w);
    CU_ASSERT_TRUE_FATAL(json_w_end(&w));
    CU_ASSERT_PTR_NULL(strstr(out.data, "secret"));
    yajl_val v = json_parse(out.data, out.len, 0, err, sizeof err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    buf_free(&out);
    return v;
}

static void open_it(struct rig *r, const char *url)
{
    struct call c;
    for (unsigned i = 0; i < 5; i++) {
        CU_ASSERT_EQUAL(call_once(&c, r, url), OMID_HTTP_OK);
        call_free(&c);
    }
    CU_ASSERT_EQUAL(call_once(&c, r, url), OMID_HTTP_BREAKER);
    call_free(&c);
}

static void test_table(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256], key[256];

    conf.breaker_failures = 5;
    peer_start(&p, serve_by_mode);
    rig_start(&r, &conf);
    yajl_val v = breakers(&r, NULL);
    CU_ASSERT_EQUAL(json_len(json_array(v, "breakers")), 0);
    json_free(&v);
    atomic_store(&p.mode, MODE_FAIL);
    snprintf(url, sizeof url, "http://me:secret@127.0.0.1:%u/bad?key=secret#secret", p.port);
    open_it(&r, url);
    atomic_store(&p.mode, MODE_OK);
    for (unsigned i = 0; i < 3; i++) {
        char path[16];
        snprintf(path, sizeof path, "/%u", i);
        CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", path, url)), OMID_HTTP_OK);
        call_free(&c);
    }
    v = breakers(&r, "test");
    yajl_val list = json_array(v, "breakers"), first = json_at(list, 0);
    CU_ASSERT_EQUAL(json_len(list), 4);
    CU_ASSERT_EQUAL(json_int(v, "targets", 0), 4);
    CU_ASSERT_EQUAL(json_int(v, "shown", 0), 4);
    CU_ASSERT_STRING_EQUAL(json_str(first, "lane"), "test");
    CU_ASSERT_STRING_EQUAL(json_str(first, "target"), peer_url(&p, "http", "/bad", key));
    CU_ASSERT_STRING_EQUAL(json_str(first, "state"), "open");
    CU_ASSERT_STRING_EQUAL(json_str(first, "why"), "consecutive_failures");
    int64_t probe = json_int(first, "next_probe_ms", -1);
    CU_ASSERT_TRUE(probe > 10000 && probe <= 36000);
    CU_ASSERT_TRUE(json_int(first, "since_ms", -1) >= 0 && json_int(first, "since_ms", -1) < 20000);
    CU_ASSERT_EQUAL(json_int(first, "limit", -1), 4);
    CU_ASSERT_EQUAL(json_int(first, "in_flight", -1), 0);
    CU_ASSERT_STRING_EQUAL(json_str(json_at(list, 1), "state"), "closed");
    CU_ASSERT_EQUAL(json_int(json_at(list, 1), "next_probe_ms", -1), -1);
    json_free(&v);
    v = breakers(&r, "other");
    CU_ASSERT_EQUAL(json_len(json_array(v, "breakers")), 0);
    CU_ASSERT_EQUAL(json_int(v, "targets", -1), 0);
    json_free(&v);
    rig_stop(&r);
    peer_stop(&p);
}

/* More targets than an answer holds: those in trouble are in it, however many came later. */
static void test_table_bound(void)
{
    enum { MANY = 1200 };
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256], path[16];

    conf.breaker_failures = 5;
    peer_start(&p, serve_by_mode);
    rig_start(&r, &conf);
    atomic_store(&p.mode, MODE_FAIL);
    open_it(&r, peer_url(&p, "http", "/bad", url));
    atomic_store(&p.mode, MODE_OK);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(path, sizeof path, "/%u", i);
        CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", path, url)), OMID_HTTP_OK);
        call_free(&c);
    }
    yajl_val v = breakers(&r, NULL);
    CU_ASSERT_EQUAL(json_len(json_array(v, "breakers")), 1000);
    CU_ASSERT_EQUAL(json_int(v, "shown", 0), 1000);
    CU_ASSERT_EQUAL(json_int(v, "targets", 0), MANY + 1);
    CU_ASSERT_STRING_EQUAL(json_str(json_at(json_array(v, "breakers"), 0), "state"), "open");
    json_free(&v);
    rig_stop(&r);
    peer_stop(&p);
}

static bool is_closed(void *arg)
{
    yajl_val v = breakers(arg, NULL);
    bool closed = strcmp(json_str(json_at(json_array(v, "breakers"), 0), "state"), "closed") == 0;
    json_free(&v);
    return closed;
}

static void test_reset(void)
{
    struct rig r;
    struct peer p;
    struct call calls[CALLS];
    struct conf_lane conf = rig_conf();
    char url[256];

    conf.breaker_failures = 5;
    atomic_store(&held, 0);
    atomic_store(&released, 0);
    peer_start(&p, serve_by_mode);
    rig_start(&r, &conf);
    atomic_store(&p.mode, MODE_FAIL);
    open_it(&r, peer_url(&p, "http", "/bad", url));
    CU_ASSERT_EQUAL(lanes_breaker_reset(r.lanes, "http://127.0.0.1:1/bad", NULL), 0);
    CU_ASSERT_EQUAL(lanes_breaker_reset(r.lanes, url, "other"), 0);
    CU_ASSERT_EQUAL(lanes_breaker_reset(r.lanes, "bad", NULL), OMID_EINVAL);
    CU_ASSERT_EQUAL(lanes_breaker_reset(r.lanes, "", NULL), OMID_EINVAL);
    CU_ASSERT_FALSE(is_closed(&r));
    CU_ASSERT_EQUAL(lanes_breaker_reset(r.lanes, peer_url(&p, "http", "/bad?key=1", url), "test"), 1);
    CU_ASSERT_TRUE(rig_until(is_closed, &r));
    CU_ASSERT_EQUAL(lanes_breaker_reset(r.lanes, url, NULL), 0);
    /* It begins with one at a time. */
    atomic_store(&p.mode, MODE_HOLD);
    start_all(calls, CALLS, &r, url);
    CU_ASSERT_TRUE(counts_reach(1, CALLS - 1));
    atomic_store(&released, CALLS);
    CU_ASSERT_EQUAL(count_all(calls, CALLS, OMID_HTTP_OK), CALLS);
    rig_stop(&r);
    peer_stop(&p);
}

static void test_status(void)
{
    struct rig r;
    struct peer p;
    struct call c;
    struct conf_lane conf = rig_conf();
    struct buf out = BUF_INIT(0);
    struct json_w w;
    char url[256], err[128];

    conf.breaker_failures = 5;
    peer_start(&p, serve_by_mode);
    rig_start(&r, &conf);
    atomic_store(&p.mode, MODE_FAIL);
    open_it(&r, peer_url(&p, "http", "/bad", url));
    CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_BREAKER);
    call_free(&c);
    json_w_start(&w, &out);
    lanes_status(r.lanes, &w);
    CU_ASSERT_TRUE_FATAL(json_w_end(&w));
    yajl_val v = json_parse(out.data, out.len, 0, err, sizeof err), l = json_at(v, 0),
             by = json_object(l, "rejected_by");
    CU_ASSERT_EQUAL(json_int(l, "rejected", 0), 2);
    CU_ASSERT_EQUAL(json_int(by, "breaker", 0), 2);
    CU_ASSERT_EQUAL(json_int(by, "full", -1), 0);
    CU_ASSERT_TRUE(json_num(l, "p50_ms", 0) > 0);
    CU_ASSERT_TRUE(json_num(l, "p99_ms", 0) >= json_num(l, "p50_ms", 0) && json_num(l, "p99_ms", 0) < 20000);
    json_free(&v);
    buf_free(&out);
    rig_stop(&r);
    peer_stop(&p);
}

/* ------------------------------------------------------------ their number */

struct crowd {
    struct loop_msg msg;
    struct lane *lane;
    unsigned most, early, late;
    bool used, first, open_left;
    atomic_bool over;
};

static const char *crowd_key(unsigned i, char out[64])
{
    snprintf(out, 64, "http://127.0.0.1:1/%u", i);
    return out;
}

/* As requests to ever new targets would, on the lane's thread. The second is in use all the time. */
static void on_crowd(struct loop *loop, struct loop_msg *msg)
{
    struct crowd *c = container_of(msg, struct crowd, msg);
    struct lane *l = c->lane;
    struct target *used = NULL, *t;
    struct breaker_token token;
    char key[64];

    (void)loop;
    for (unsigned i = 0; i < TARGETS_MAX + 100; i++) {
        t = target_get(l, crowd_key(i, key));
        omid_assert(t != NULL);
        if (map_count(l->targets) > c->most)
            c->most = (unsigned)map_count(l->targets);
        if (i == 1)
            used = t;
        else
            target_put(l, &t);
    }
    c->used = map_get(l->targets, crowd_key(1, key)) == used;
    c->first = map_get(l->targets, crowd_key(0, key)) != NULL;
    /* One fails and is left open. */
    t = target_get(l, crowd_key(TARGETS_MAX, key));
    struct waiter w = {.target = t};
    omid_assert(breaker_admit(&t->breaker, lane_now(l), 1000, &token));
    w.token = token;
    w.admitted = true;
    lane_verdict(l, &w, BREAKER_FAILURE, 0);
    c->open_left = t->breaker.state == BREAKER_OPEN && atomic_load(&l->seen.open) == 1;
    target_put(l, &t);
    targets_expire(l, lane_now(l) + TARGET_IDLE_MS - 60000);
    c->early = (unsigned)map_count(l->targets);
    targets_expire(l, lane_now(l) + TARGET_IDLE_MS);
    c->late = (unsigned)map_count(l->targets);
    c->open_left = c->open_left && atomic_load(&l->seen.open) == 0;
    target_put(l, &used);
    atomic_store(&c->over, true);
}

static bool is_over(void *arg)
{
    return atomic_load(&((struct crowd *)arg)->over);
}

static void test_many(void)
{
    struct rig r;
    struct conf_lane conf = rig_conf();
    struct crowd c = {.msg = {.fn = on_crowd}};

    conf.breaker_failures = 1;
    rig_start(&r, &conf);
    c.lane = r.lane;
    loop_post(lanes_loop(r.lanes), &c.msg);
    CU_ASSERT_TRUE_FATAL(rig_until(is_over, &c));
    CU_ASSERT_EQUAL(c.most, TARGETS_MAX);
    CU_ASSERT_TRUE(c.used);   /* what is in use stays */
    CU_ASSERT_FALSE(c.first); /* the idlest went first */
    CU_ASSERT_EQUAL(c.early, TARGETS_MAX);
    CU_ASSERT_EQUAL(c.late, 1); /* after an hour all are forgotten but the one in use */
    CU_ASSERT_TRUE(c.open_left);
    rig_stop(&r);
}

/* Readers on other threads, while targets come, fail and recover. */
static void *read_all_the_time(void *arg)
{
    struct rig *r = arg;
    for (unsigned i = 0; i < 300; i++) {
        yajl_val v = breakers(r, i % 2 ? "test" : NULL);
        json_free(&v);
        lanes_breaker_reset(r->lanes, "http://127.0.0.1:1/", NULL);
    }
    return NULL;
}

static void test_readers(void)
{
    struct rig r;
    struct peer p;
    struct call calls[CALLS];
    struct conf_lane conf = rig_conf();
    pthread_t threads[2];
    char url[256], path[16];

    conf.breaker_failures = 2;
    conf.breaker_open_ms = conf.breaker_open_max_ms = 100;
    peer_start(&p, serve_by_mode);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < 2; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, read_all_the_time, &r), 0);
    for (unsigned i = 0; i < 60; i++) {
        atomic_store(&p.mode, i % 3 ? MODE_OK : MODE_FAIL);
        snprintf(path, sizeof path, "/%u", i % 20);
        start_all(calls, 8, &r, peer_url(&p, "http", path, url));
        count_all(calls, 8, OMID_HTTP_OK);
        lanes_breaker_reset(r.lanes, url, NULL);
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    rig_stop(&r);
    peer_stop(&p);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"a cold dead target gets five attempts", test_cold_dead},
        {"a slow target leaves room for others", test_slow_leaves_room},
        {"slow calls open a breaker", test_slow_calls},
        {"ramp after a recovery", test_ramp},
        {"probes leak no slot", test_probe_slots},
        {"the table of breakers", test_table},
        {"the table's bound", test_table_bound},
        {"reset", test_reset},
        {"lanes: quantiles and reasons", test_status},
        {"their number, and how long they are kept", test_many},
        {"readers beside", test_readers},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"targets of a lane", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
