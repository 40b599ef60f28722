/* Names of targets: looking one up may take for ever, and holds nobody but who asked. */
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/magic.h"
#include "lane_rig.h"
#include "unit.h"
#include "ws_rig.h"

static atomic_uint asked, answered;
static atomic_bool answers, on_a_loop, known;
static struct rig *watched;

static int system_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                              struct addrinfo **res)
{
    int (*fn)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = NULL;
    *(void **)&fn = dlsym(RTLD_NEXT, "getaddrinfo");
    return fn(node, service, hints, res);
}

/* In place of the system's, for curl too. Any name hangs until `answers`, and is unknown then, or 127.0.0.1 when names
 * are `known`. */
__attribute__((visibility("default"))) int getaddrinfo(const char *node, const char *service,
                                                       const struct addrinfo *hints, struct addrinfo **res)
{
    static const struct addrinfo numeric = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM};

    (void)node;
    (void)hints;
    if (loop_is_current(lanes_loop(watched->lanes)) || loop_is_current(watched->loop))
        atomic_store(&on_a_loop, true);
    atomic_fetch_add(&asked, 1);
    while (!atomic_load(&answers) && !atomic_load(&on_a_loop))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    atomic_fetch_add(&answered, 1);
    *res = NULL;
    return atomic_load(&known) ? system_getaddrinfo("127.0.0.1", service, &numeric, res) : EAI_NONAME;
}

static void serve(struct peer *p, int fd)
{
    char head[4096];
    while (peer_read_request(p, fd, head, sizeof head) && peer_ok(fd, "well")) {
    }
}

static bool all_answered(void *arg)
{
    (void)arg;
    return atomic_load(&answered) == atomic_load(&asked);
}

static void test_hanging_resolver(void)
{
    enum { MANY = 4 };
    struct rig r;
    struct peer p;
    struct call hung[MANY], c;
    struct conf_lane conf = rig_conf();
    char url[256];

    watched = &r;
    peer_start(&p, serve);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < MANY; i++) {
        call_init(&hung[i], &r, i % 2 ? "http://hangs.invalid/" : "http://hangs-too.invalid/");
        hung[i].req.timeout_ms = i == 0 ? 300 : 0;
        call_start(&hung[i]);
    }
    CU_ASSERT_TRUE(rig_reaches(&asked, MANY));
    /* Beside them. */
    CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/", url)), OMID_HTTP_OK);
    call_free(&c);
    /* One runs out of time, and says of what; that is no fault of its target's. */
    CU_ASSERT_TRUE(call_wait(&hung[0]));
    CU_ASSERT_EQUAL(hung[0].res.error, OMID_HTTP_RESOLVE);
    /* One is cancelled. */
    call_cancel(&hung[1]);
    CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_OK);
    call_free(&c);
    CU_ASSERT_EQUAL(atomic_load(&answered), 0);
    /* And the stop waits for none. */
    rig_stop(&r);
    CU_ASSERT_EQUAL(atomic_load(&answered), 0);
    for (unsigned i = 2; i < MANY; i++)
        CU_ASSERT_EQUAL(hung[i].res.error, OMID_HTTP_SHUTDOWN);
    for (unsigned i = 0; i < MANY; i++)
        call_free(&hung[i]);
    CU_ASSERT_FALSE(atomic_load(&on_a_loop));
    atomic_store(&answers, true);
    CU_ASSERT_TRUE(rig_until(all_answered, NULL));
    peer_stop(&p);
}

struct counts {
    unsigned inflight, waiting;
};

static bool has_counts(void *arg)
{
    const struct counts *c = arg;
    return rig_metric("omid_lane_inflight", NULL, NULL) == c->inflight &&
           rig_metric("omid_lane_waiting", NULL, NULL) == c->waiting;
}

/* A name that hangs is no fault of the target's, as far as anybody knows: no breaker opens. But it holds one slot of
 * the lane from then on, not as many as the target may have, until it has been looked up. */
static void test_one_slot(void)
{
    enum { MANY = 8, FIRST = 4 };
    struct rig r;
    struct peer p;
    struct call calls[MANY], c;
    struct conf_lane conf = rig_conf();
    char url[256], named[64];

    watched = &r;
    atomic_store(&answers, false);
    conf.breaker_failures = 5;
    conf.connect_timeout_ms = 600;
    conf.pool = conf.semaphore = 16;
    peer_start(&p, serve);
    rig_start(&r, &conf);
    snprintf(named, sizeof named, "http://comes-back.invalid:%u/", p.port);
    for (unsigned i = 0; i < MANY; i++)
        call_init(&calls[i], &r, named);
    calls_start(calls, FIRST - 1);
    for (unsigned i = 0; i < FIRST - 1; i++) {
        CU_ASSERT_TRUE(call_wait(&calls[i]));
        CU_ASSERT_EQUAL(calls[i].res.error, OMID_HTTP_RESOLVE);
    }
    calls_start(&calls[FIRST - 1], MANY - FIRST + 1);
    for (unsigned waiting = MANY - FIRST; waiting > MANY - FIRST - 2; waiting--)
        CU_ASSERT_TRUE(rig_until(has_counts, &(struct counts){1, waiting}));
    CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/", url)), OMID_HTTP_OK);
    call_free(&c);
    /* It is there again: so are the slots, and nobody has to wait for a window to pass. */
    atomic_store(&known, true);
    atomic_store(&answers, true);
    for (unsigned i = FIRST - 1; i < MANY; i++)
        CU_ASSERT_TRUE(call_wait(&calls[i]));
    CU_ASSERT_EQUAL(calls[MANY - 1].res.error, OMID_HTTP_OK);
    CU_ASSERT_EQUAL(rig_metric("omid_lane_requests_total", "outcome", "breaker"), 0);
    for (unsigned i = 0; i < MANY; i++)
        call_free(&calls[i]);
    rig_stop(&r);
    CU_ASSERT_TRUE(rig_until(all_answered, NULL));
    CU_ASSERT_FALSE(atomic_load(&on_a_loop));
    peer_stop(&p);
}

static bool is_inflight(void *arg)
{
    return rig_metric("omid_lane_inflight", NULL, NULL) == *(const double *)arg;
}

/* Nor do many paths of such a name: each is a target of its own, but what hangs is the name. Neither the slots of the
 * lane nor the places of its queue are all theirs. */
static void test_many_paths(void)
{
    enum { MANY = 24, SLOTS = 16, QUEUE = 40, SHARE = 4 };
    struct rig r;
    struct peer p;
    struct call calls[MANY], c;
    struct conf_lane conf = rig_conf();
    char url[256], named[MANY][64];
    unsigned full = 0, ok = 0;

    watched = &r;
    atomic_store(&answers, false);
    atomic_store(&known, false);
    conf.connect_timeout_ms = 600;
    conf.pool = conf.semaphore = SLOTS;
    conf.queue = QUEUE;
    peer_start(&p, serve);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(named[i], sizeof named[i], "http://one-name.invalid:%u/%u", p.port, i);
        call_init(&calls[i], &r, named[i]);
    }
    calls_start(calls, MANY);
    CU_ASSERT_TRUE(rig_until(has_counts, &(struct counts){SHARE, QUEUE / 4}));
    CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/", url)), OMID_HTTP_OK);
    call_free(&c);
    /* Once it is known to fail, there is one at a time. */
    CU_ASSERT_TRUE(rig_until(is_inflight, &(double){1}));
    CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_OK);
    call_free(&c);
    /* One that gives up on the way holds up nobody. */
    call_cancel(&calls[SHARE + 1]);
    atomic_store(&known, true);
    atomic_store(&answers, true);
    for (unsigned i = 0; i < MANY; i++) {
        if (i == SHARE + 1)
            continue;
        CU_ASSERT_TRUE(call_wait(&calls[i]));
        full += calls[i].res.error == OMID_HTTP_FULL;
        ok += calls[i].res.error == OMID_HTTP_OK;
    }
    CU_ASSERT_EQUAL(full, MANY - SHARE - QUEUE / 4);
    CU_ASSERT_TRUE(ok > 0);
    CU_ASSERT_TRUE(rig_until(has_counts, &(struct counts){0, 0}));
    for (unsigned i = 0; i < MANY; i++)
        call_free(&calls[i]);
    rig_stop(&r);
    CU_ASSERT_TRUE(rig_until(all_answered, NULL));
    CU_ASSERT_FALSE(atomic_load(&on_a_loop));
    peer_stop(&p);
}

static bool sock_closed(void *arg)
{
    return atomic_load(&((struct sock *)arg)->closed) == 1;
}

/* Handshakes hang in the same lookup: each is over in its time and gives back its slot and its stream; beside them
 * others open, and requests are answered. */
static void test_websockets(void)
{
    enum { MANY = 5, SLOTS = 8, SHARE = 4 };
    static struct sock hung[MANY], other;
    struct rig r;
    struct peer p, q;
    struct call c;
    struct conf_lane conf = rig_conf();
    char url[256];
    unsigned before = atomic_load(&answered), asked_before = atomic_load(&asked);

    watched = &r;
    atomic_store(&answers, false);
    atomic_store(&known, false);
    conf.connect_timeout_ms = 1000;
    conf.pool = conf.semaphore = SLOTS;
    peer_start(&p, serve_echo);
    peer_start(&q, serve);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < MANY; i++) {
        sock_init(&hung[i], &r, &p, "ws");
        snprintf(hung[i].url, sizeof hung[i].url, "ws://one-name.invalid:%u/%u", p.port, i);
        sock_connect(&hung[i]);
        CU_ASSERT_EQUAL_FATAL(hung[i].rc, OMID_OK);
    }
    CU_ASSERT_TRUE(rig_until(has_counts, &(struct counts){SHARE, MANY - SHARE}));
    CU_ASSERT_EQUAL(rig_metric("omid_lane_streams", NULL, NULL), MANY);
    sock_init(&other, &r, &p, "ws");
    sock_connect(&other);
    CU_ASSERT_TRUE(rig_reaches(&other.opened, 1));
    CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&q, "http", "/", url)), OMID_HTTP_OK);
    call_free(&c);
    for (unsigned i = 0; i < MANY; i++) {
        CU_ASSERT_TRUE(rig_until(sock_closed, &hung[i]));
        CU_ASSERT_EQUAL(hung[i].why.end, OMID_WS_CONNECT);
        CU_ASSERT_EQUAL(atomic_load(&hung[i].opened), 0);
    }
    CU_ASSERT_TRUE(rig_reaches(&asked, asked_before + MANY)); /* from here on none looks at the rig */
    CU_ASSERT_EQUAL(atomic_load(&answered), before);          /* nobody has waited for the resolver */
    CU_ASSERT_TRUE(rig_until(has_counts, &(struct counts){0, 0}));
    CU_ASSERT_EQUAL(rig_metric("omid_lane_streams", NULL, NULL), 1);
    CU_ASSERT_EQUAL(atomic_load(&other.closed), 0);
    for (unsigned i = 0; i < MANY; i++)
        sock_release(&hung[i]);
    sock_release(&other);
    CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
    rig_stop(&r);
    CU_ASSERT_FALSE(atomic_load(&on_a_loop));
    atomic_store(&answers, true);
    CU_ASSERT_TRUE(rig_until(all_answered, NULL));
    peer_stop(&p);
    peer_stop(&q);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"a resolver that hangs", test_hanging_resolver},
        {"a name that hangs holds one slot", test_one_slot},
        {"many paths of a name that hangs", test_many_paths},
        {"WebSockets to a name that hangs", test_websockets},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"names", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
