/*
 * Channels and routes: bounds, order, holding, closing from both ends, with a real reactor thread. The test's main
 * thread is the ingress end.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/magic.h"
#include "bus/channel.h"
#include "bus/route.h"
#include "fixture_reactor.h"
#include "unit.h"

#define DEADLINE_MS 20000

/* ------------------------------------------------------------ a recording handler; all fields are the reactor's */

struct peer {
    struct channel *ch;
    int opened, closed, writable, messages;
    uint16_t code;
    bool refuse;         /* message() answers false */
    int drop_at;         /* drop within message() number n; 0: never */
    bool drop_in_opened; /* 0: never */
    uint32_t next;       /* the number the next message must carry */
    int disorder;
    bool echo, echo_wait;
    uint32_t echoed;
    size_t bytes, held; /* held: messages at the close */
};

/* The next channel's peer: channel_set_user() is the reactor's, and opened() is its first occasion. */
static struct peer *next_peer;

static void peer_opened(struct channel *ch)
{
    struct peer *p = next_peer;
    p->ch = ch;
    p->opened++;
    channel_set_user(ch, p);
    if (p->drop_in_opened)
        channel_drop(&p->ch);
}

static bool peer_message(struct channel *ch, enum ws_opcode op, const unsigned char *data, size_t len)
{
    struct peer *p = channel_user(ch);
    uint32_t number = UINT32_MAX;

    if (p->refuse)
        return false;
    if (p->echo && channel_down_message(ch, op, data, len) == CHANNEL_FULL) {
        p->echo_wait = true;
        return false;
    }
    if (len >= sizeof(number))
        memcpy(&number, data, sizeof(number));
    if (number != p->next++)
        p->disorder++;
    p->messages++;
    p->bytes += len;
    if (p->drop_at != 0 && p->messages == p->drop_at)
        channel_drop(&p->ch);
    return true;
}

static void peer_writable(struct channel *ch)
{
    struct peer *p = channel_user(ch);
    p->writable++;
    if (p->echo_wait) {
        p->echo_wait = false;
        channel_resume(ch);
    }
}

static void peer_closed(struct channel *ch, uint16_t code)
{
    struct peer *p = channel_user(ch);
    p->closed++;
    p->code = code;
    p->held = channel_held(ch);
    channel_drop(&ch);
    p->ch = NULL;
}

static const struct channel_handler handler = {peer_opened, peer_message, peer_writable, peer_closed};
static const struct route ws_route = {.path = "/test", .handler = &handler};

/* ------------------------------------------------------------ the ingress end */

static struct channel *open_channel(struct peer *p, size_t up_max, size_t down_max)
{
    struct channel_request req = {.path = strdup("/test"), .uid = strdup("u"), .body = strdup("body"), .body_len = 4};
    struct channel *ch = channel_new(&req, &ws_route, &sink, p, reactor, &handler, up_max, down_max);

    CU_ASSERT_PTR_NOT_NULL_FATAL(ch);
    CU_ASSERT_PTR_NULL(req.path);
    CU_ASSERT_PTR_EQUAL(channel_conn(ch), p);
    settle(); /* the channel before it has been opened */
    next_peer = p;
    channel_up_open(ch);
    return ch;
}

static enum channel_result send_up(struct channel *ch, uint32_t number, size_t len)
{
    unsigned char data[4096] = {0};
    memcpy(data, &number, sizeof(number));
    return channel_up_message(ch, WS_BINARY, data, len);
}

/* ------------------------------------------------------------ tests: up */

static void test_order_then_closed(void)
{
    struct peer p = {0};
    struct channel *ch = open_channel(&p, 1 << 20, 1 << 20);

    for (uint32_t i = 0; i < 1000; i++)
        CU_ASSERT_EQUAL(send_up(ch, i, 100), CHANNEL_OK);
    channel_up_closed(&ch, 1001);
    CU_ASSERT_PTR_NULL(ch);
    settle();
    CU_ASSERT_EQUAL(p.opened, 1);
    CU_ASSERT_EQUAL(p.messages, 1000);
    CU_ASSERT_EQUAL(p.disorder, 0);
    CU_ASSERT_EQUAL(p.closed, 1);
    CU_ASSERT_EQUAL(p.code, 1001);
    nothing_left();
}

static void refuse_on(void *arg)
{
    ((struct peer *)arg)->refuse = true;
}

static void accept_again(void *arg)
{
    struct peer *p = arg;
    p->refuse = false;
    int before = p->messages;
    channel_resume(p->ch);
    channel_resume(p->ch); /* twice is once */
    CU_ASSERT_EQUAL(p->messages, before);
}

static void test_up_bound_and_resume(void)
{
    struct peer p = {0};
    struct channel *ch = open_channel(&p, 10000, 10000);
    uint32_t n = 0;

    on_reactor(refuse_on, &p);
    while (send_up(ch, n++, 1000) == CHANNEL_OK)
        CU_ASSERT_FATAL(n < 20);
    CU_ASSERT_EQUAL(n, 10); /* 1,064 bytes each */
    CU_ASSERT(channel_up_bytes(ch) >= 10000);
    CU_ASSERT(budget_used() >= 10000);
    settle();
    CU_ASSERT_PTR_NULL(channel_sink_take(&sink)); /* nothing was taken: no RESUME */
    CU_ASSERT_EQUAL(p.messages, 0);
    on_reactor(accept_again, &p);
    settle();
    CU_ASSERT_EQUAL(p.messages, 10);
    CU_ASSERT_EQUAL(p.disorder, 0);
    CU_ASSERT_EQUAL(channel_up_bytes(ch), 0);
    CU_ASSERT_EQUAL(free_all(channel_sink_take(&sink), DOWN_RESUME), 1);
    /* And once more: the node is used again. */
    on_reactor(refuse_on, &p);
    while (send_up(ch, n++, 1000) == CHANNEL_OK)
        CU_ASSERT_FATAL(n < 40);
    on_reactor(accept_again, &p);
    settle();
    CU_ASSERT_EQUAL(free_all(channel_sink_take(&sink), DOWN_RESUME), 1);
    channel_up_closed(&ch, 1000);
    nothing_left();
    CU_ASSERT_EQUAL(p.messages, 20);
}

static void test_held_are_dropped_at_close(void)
{
    struct peer p = {0};
    struct channel *ch = open_channel(&p, 1 << 20, 1 << 20);

    CU_ASSERT_EQUAL(send_up(ch, 0, 10), CHANNEL_OK);
    on_reactor(refuse_on, &p);
    for (uint32_t i = 1; i < 5; i++)
        CU_ASSERT_EQUAL(send_up(ch, i, 10), CHANNEL_OK);
    channel_up_closed(&ch, 1006);
    settle();
    CU_ASSERT_EQUAL(p.messages, 1);
    CU_ASSERT_EQUAL(p.closed, 1);
    CU_ASSERT_EQUAL(p.code, 1006);
    CU_ASSERT_EQUAL(p.held, 4); /* closed() can tell what is lost */
    nothing_left();
}

static void test_empty_messages_are_not_free(void)
{
    struct peer p = {.refuse = true};
    struct channel *ch = open_channel(&p, 1000, 1000);
    int n = 0;

    while (channel_up_message(ch, WS_TEXT, "", 0) == CHANNEL_OK)
        CU_ASSERT_FATAL(++n < 1000);
    channel_up_closed(&ch, 1000);
    nothing_left();
}

static void test_drop_within_callbacks(void)
{
    struct peer in_opened = {.drop_in_opened = true}, in_message = {.drop_at = 3};
    struct channel *ch = open_channel(&in_opened, 1 << 20, 1 << 20);

    CU_ASSERT_EQUAL(send_up(ch, 0, 10), CHANNEL_OK);
    settle();
    struct channel_down *d = channel_sink_take(&sink);
    CU_ASSERT_PTR_NOT_NULL_FATAL(d);
    CU_ASSERT_EQUAL(d->kind, DOWN_CLOSE); /* nobody serves it any more: ingress is told */
    CU_ASSERT_EQUAL(d->code, 1011);
    free_all(d, DOWN_CLOSE);
    CU_ASSERT_EQUAL(send_up(ch, 1, 10), CHANNEL_OK);
    channel_up_closed(&ch, 1000);
    settle();
    CU_ASSERT_EQUAL(in_opened.messages + in_opened.closed, 0);

    ch = open_channel(&in_message, 1 << 20, 1 << 20);
    for (uint32_t i = 0; i < 10; i++)
        CU_ASSERT_EQUAL(send_up(ch, i, 10), CHANNEL_OK);
    channel_up_closed(&ch, 1000);
    settle();
    CU_ASSERT_EQUAL(in_message.messages, 3);
    CU_ASSERT_EQUAL(in_message.closed, 0);
    nothing_left();
}

/* ------------------------------------------------------------ tests: down */

struct send_down {
    struct peer *p;
    size_t len;
    enum channel_result result;
    int sent;
};

static void send_until_full(void *arg)
{
    struct send_down *s = arg;
    char data[20000] = {0};
    while ((s->result = channel_down_message(s->p->ch, WS_TEXT, data, s->len)) == CHANNEL_OK)
        if (++s->sent > 1000)
            break;
}

static void test_down_bound_and_writable(void)
{
    struct peer p = {0};
    struct channel *ch = open_channel(&p, 10000, 10000);
    struct send_down s = {.p = &p, .len = 936}; /* 1,000 with its cost */

    settle();
    atomic_store(&sink_wakes, 0);
    on_reactor(send_until_full, &s);
    CU_ASSERT_EQUAL(s.result, CHANNEL_FULL);
    CU_ASSERT_EQUAL(s.sent, 10);
    CU_ASSERT_EQUAL(channel_down_bytes(ch), 10000);
    CU_ASSERT_EQUAL(atomic_load(&sink_wakes), 1); /* once: the list was empty once */

    struct channel_down *d = channel_sink_take(&sink);
    for (int i = 0; i < 4; i++) {
        struct channel_down *next = d->next;
        channel_down_free(d);
        d = next;
    }
    settle();
    CU_ASSERT_EQUAL(p.writable, 0); /* not before half is free */
    struct channel_down *next = d->next;
    channel_down_free(d);
    settle();
    CU_ASSERT_EQUAL(p.writable, 1);
    CU_ASSERT_EQUAL(free_all(next, DOWN_MESSAGE), 5);
    settle();
    CU_ASSERT_EQUAL(p.writable, 1);

    /* One that is larger than the bound still passes, and is counted. */
    struct send_down big = {.p = &p, .len = 15000};
    on_reactor(send_until_full, &big);
    CU_ASSERT_EQUAL(big.sent, 1);
    CU_ASSERT_EQUAL(big.result, CHANNEL_FULL);
    CU_ASSERT_EQUAL(free_all(channel_sink_take(&sink), DOWN_MESSAGE), 1);
    settle();
    CU_ASSERT_EQUAL(p.writable, 2);
    channel_up_closed(&ch, 1000);
    nothing_left();
}

static void close_twice(void *arg)
{
    struct send_down *s = arg;
    char reason[200];
    memset(reason, 'r', sizeof(reason) - 1);
    reason[sizeof(reason) - 1] = '\0';
    channel_down_close(s->p->ch, 1008, reason);
    channel_down_close(s->p->ch, 1011, "late");
    s->result = channel_down_message(s->p->ch, WS_TEXT, "x", 1);
}

static void test_close_is_never_refused(void)
{
    struct peer p = {0};
    struct channel *ch = open_channel(&p, 10000, 10000);
    struct send_down s = {.p = &p, .len = 936};

    settle();
    on_reactor(send_until_full, &s);
    CU_ASSERT_EQUAL(s.result, CHANNEL_FULL);
    on_reactor(close_twice, &s);
    CU_ASSERT_EQUAL(s.result, CHANNEL_CLOSED);
    struct channel_down *d = channel_sink_take(&sink), *last = d;
    while (last->next != NULL)
        last = last->next;
    CU_ASSERT_EQUAL(last->kind, DOWN_CLOSE); /* behind what was queued */
    CU_ASSERT_EQUAL(last->code, 1008);
    CU_ASSERT_EQUAL(last->len, WS_MAX_REASON);
    CU_ASSERT_EQUAL(free_all(d, DOWN_CLOSE), 1);
    settle();
    CU_ASSERT_EQUAL(p.writable, 0); /* not after the close */
    channel_up_closed(&ch, 1008);
    nothing_left();
}

static void respond(void *arg)
{
    struct send_down *s = arg;
    s->result = channel_down_response(s->p->ch, 201, NULL, "{}", 2);
    CU_ASSERT_EQUAL(channel_down_response(s->p->ch, 200, "text/plain", "x", 1), CHANNEL_CLOSED);
    channel_drop(&s->p->ch);
}

static void test_response_and_drop(void)
{
    struct peer p = {0};
    struct channel *ch = open_channel(&p, 10000, 10000);
    struct send_down s = {.p = &p};

    settle();
    on_reactor(respond, &s);
    CU_ASSERT_EQUAL(s.result, CHANNEL_OK);
    struct channel_down *d = channel_sink_take(&sink);
    CU_ASSERT_PTR_NOT_NULL_FATAL(d);
    CU_ASSERT_EQUAL(d->kind, DOWN_RESPONSE);
    CU_ASSERT_EQUAL(d->code, 201);
    CU_ASSERT_STRING_EQUAL(d->content_type, "application/json");
    CU_ASSERT_EQUAL(memcmp(d->data, "{}", d->len), 0);
    CU_ASSERT_PTR_NULL(d->next); /* the drop said nothing more */
    channel_up_closed(&ch, 1000);
    free_all(d, DOWN_RESPONSE);
    settle();
    CU_ASSERT_EQUAL(p.closed, 0);
    nothing_left();
}

static void test_client_leaves_with_messages_underway(void)
{
    struct peer p = {0};
    struct channel *ch = open_channel(&p, 10000, 10000);
    struct send_down s = {.p = &p, .len = 936};

    settle();
    on_reactor(send_until_full, &s);
    struct channel_down *d = channel_sink_take(&sink);
    CU_ASSERT_PTR_EQUAL(channel_conn(d->ch), &p);
    channel_up_closed(&ch, 1006);
    CU_ASSERT_PTR_NULL(channel_conn(d->ch));
    settle();
    CU_ASSERT_EQUAL(p.closed, 1);
    free_all(d, DOWN_MESSAGE);
    settle();
    CU_ASSERT_EQUAL(p.writable, 0);
    nothing_left();
}

static void test_budget(void)
{
    struct peer p = {.refuse = true};
    struct channel *ch = open_channel(&p, 1 << 20, 1 << 20);

    CU_ASSERT_EQUAL(budget_used(), 4); /* the body */
    budget_setup(1000);
    CU_ASSERT_FALSE(budget_exhausted());
    CU_ASSERT_EQUAL(send_up(ch, 0, 1000), CHANNEL_OK); /* existing ones keep theirs */
    CU_ASSERT_TRUE(budget_exhausted());
    CU_ASSERT_EQUAL(send_up(ch, 0, 1000), CHANNEL_OK);
    channel_up_closed(&ch, 1000);
    nothing_left();
    CU_ASSERT_FALSE(budget_exhausted());
    budget_setup(UINT64_C(2) << 30);
}

/* ------------------------------------------------------------ tests: both threads at full speed */

struct wakeable {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned n;
};
static struct wakeable bell = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};

static void ring(struct channel_sink *s)
{
    (void)s;
    pthread_mutex_lock(&bell.lock);
    bell.n++;
    pthread_cond_signal(&bell.cond);
    pthread_mutex_unlock(&bell.lock);
}

/* As an ingress thread would: waits for a wake-up, with a deadline that only a lost one can reach. */
static bool wait_ring(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DEADLINE_MS / 1000;
    pthread_mutex_lock(&bell.lock);
    int rc = 0;
    while (bell.n == 0 && rc == 0)
        rc = pthread_cond_timedwait(&bell.cond, &bell.lock, &until);
    bell.n = 0;
    pthread_mutex_unlock(&bell.lock);
    return rc == 0;
}

struct echo_state {
    uint32_t sent, received;
    bool stopped;
    int disorder;
};

static void take_echoes(struct channel_sink *s, struct echo_state *e)
{
    struct channel_down *d = channel_sink_take(s);
    while (d != NULL) {
        struct channel_down *next = d->next;
        uint32_t number;
        if (d->kind == DOWN_MESSAGE) {
            memcpy(&number, d->data, sizeof(number));
            e->disorder += number != e->received++;
        }
        bool resume = d->kind == DOWN_RESUME;
        channel_down_free(d);
        if (resume)
            e->stopped = false;
        d = next;
    }
}

/* Echo through bounds so narrow that each end waits for the other all the time: a lost RESUME or writable() ends in
 * the deadline. */
static void run_narrow(size_t up_max, size_t down_max)
{
    enum { COUNT = 30000 };
    struct channel_sink narrow;
    struct peer p = {.echo = true};
    struct echo_state e = {0};
    struct channel_request req = {.path = strdup("/test")};

    channel_sink_init(&narrow, ring);
    struct channel *ch = channel_new(&req, &ws_route, &narrow, &p, reactor, &handler, up_max, down_max);
    CU_ASSERT_PTR_NOT_NULL_FATAL(ch);
    settle();
    next_peer = &p;
    channel_up_open(ch);
    while (e.received < COUNT) {
        while (!e.stopped && e.sent < COUNT) {
            e.stopped = send_up(ch, e.sent, 4 + e.sent % 100) == CHANNEL_FULL;
            e.sent++;
        }
        if (!wait_ring()) {
            CU_FAIL("a wake-up was lost");
            break;
        }
        take_echoes(&narrow, &e);
    }
    CU_ASSERT_EQUAL(e.received, COUNT);
    CU_ASSERT_EQUAL(e.disorder, 0);
    channel_up_closed(&ch, 1000);
    settle();
    take_echoes(&narrow, &e);
    CU_ASSERT_EQUAL(p.messages, COUNT);
    CU_ASSERT_EQUAL(p.disorder, 0);
    nothing_left();
    pthread_mutex_destroy(&narrow.lock);
}

static void test_no_lost_wakeup(void)
{
    run_narrow(700, 500);
    run_narrow(1, 1); /* each message fills both ways: the most wake-ups, and the narrowest races */
    run_narrow(100000, 1);
    run_narrow(1, 100000);
}

static void maybe_close(void *arg)
{
    struct peer *p = arg;
    if (p->ch != NULL && id_random_u64() % 2 == 0)
        channel_down_close(p->ch, 1000, "enough");
    else if (p->ch != NULL)
        channel_drop(&p->ch);
}

struct late_close {
    struct loop_msg msg;
    struct peer *p;
};

static void run_late_close(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct late_close *l = container_of(msg, struct late_close, msg);
    maybe_close(l->p);
    free(l);
}

/* Both ends leave at any moment. ASan, TSan and the budget are the judges; closed() comes at most once. */
static void test_close_races(void)
{
    enum { ROUNDS = 3000 };
    for (int round = 0; round < ROUNDS; round++) {
        struct peer p = {.echo = round % 2 == 0, .drop_at = (int)(id_random_u64() % 8)};
        struct channel *ch = open_channel(&p, 2000, 1000);
        unsigned n = (unsigned)(id_random_u64() % 20), when = (unsigned)(id_random_u64() % 20);

        for (uint32_t i = 0; i < n; i++) {
            if (i == when) {
                struct late_close *l = calloc(1, sizeof(*l));
                l->msg.fn = run_late_close;
                l->p = &p;
                loop_post(reactor, &l->msg);
            }
            if (send_up(ch, i, 100) == CHANNEL_FULL)
                break;
            if (i % 5 == 4)
                free_all(channel_sink_take(&sink), DOWN_MESSAGE);
        }
        struct channel_down *late = channel_sink_take(&sink);
        channel_up_closed(&ch, 1006);
        free_all(late, DOWN_MESSAGE);
        settle();
        CU_ASSERT_EQUAL_FATAL(p.opened, 1);
        CU_ASSERT_FATAL(p.closed <= 1);
        CU_ASSERT_PTR_NULL_FATAL(p.ch);
        CU_ASSERT_EQUAL_FATAL(p.disorder, 0);
        free_all(channel_sink_take(&sink), DOWN_MESSAGE);
    }
    nothing_left();
}

/* ------------------------------------------------------------ tests: routes */

static const struct route *find(const struct routes *r, const char *path, const char *method, bool ws, bool *other)
{
    return routes_find(r, path, strlen(path), method, strlen(method), ws, other);
}

static void test_routes(void)
{
    struct routes *r = routes_new();
    const struct route ws = {.path = "/echo", .handler = &handler};
    const struct route post = {.path = "/echo", .method = "POST", .handler = &handler};
    const struct route get = {.path = "/v1/x", .method = "GET", .handler = &handler};
    char allow[64];
    bool other;

    CU_ASSERT_PTR_NOT_NULL_FATAL(r);
    CU_ASSERT_TRUE(routes_add(r, &ws));
    CU_ASSERT_TRUE(routes_add(r, &post));
    CU_ASSERT_TRUE(routes_add(r, &get));
    CU_ASSERT_FALSE(routes_add(r, &ws));
    CU_ASSERT_FALSE(routes_add(r, &post));
    CU_ASSERT_PTR_NULL(find(r, "/echo", "GET", true, &other)->method);
    CU_ASSERT_STRING_EQUAL(find(r, "/echo", "POST", false, &other)->method, "POST");
    CU_ASSERT_PTR_NULL(find(r, "/echo", "DELETE", false, &other));
    CU_ASSERT_TRUE(other);
    CU_ASSERT_STRING_EQUAL(find(r, "/v1/x", "HEAD", false, &other)->method, "GET");
    CU_ASSERT_FALSE(other);
    CU_ASSERT_PTR_NULL(find(r, "/echo/", "POST", false, &other));
    CU_ASSERT_FALSE(other);
    CU_ASSERT_PTR_NULL(find(r, "/ech", "POST", false, &other));
    CU_ASSERT_PTR_NULL(find(r, "", "POST", false, &other));
    CU_ASSERT_PTR_NULL(routes_find(r, "/echo\0x", 7, "POST", 4, false, &other));
    CU_ASSERT_PTR_NULL(routes_find(r, "/echo", 5, "POS", 3, false, &other));
    CU_ASSERT_TRUE(routes_allow(r, "/echo", 5, allow, sizeof(allow)) > 0);
    CU_ASSERT_STRING_EQUAL(allow, "GET, POST");
    routes_allow(r, "/v1/x", 5, allow, sizeof(allow));
    CU_ASSERT_STRING_EQUAL(allow, "GET, HEAD");
    routes_allow(r, "/echo", 5, allow, 6);
    CU_ASSERT_STRING_EQUAL(allow, "GET");
    CU_ASSERT_EQUAL(routes_allow(r, "/none", 5, allow, sizeof(allow)), 0);
    routes_free(&r);
}

static void test_routes_with_params(void)
{
    struct routes *r = routes_new();
    const struct route list = {.path = "/v1/c", .method = "GET", .handler = &handler};
    const struct route one = {.path = "/v1/c/{id}", .method = "GET", .handler = &handler};
    const struct route gone = {.path = "/v1/c/{id}", .method = "DELETE", .handler = &handler};
    const struct route audio = {.path = "/v1/c/{id}/audio/{part}", .method = "GET", .handler = &handler};
    const struct route same = {.path = "/v1/c/{other}", .method = "GET", .handler = &handler};
    const struct route last = {.path = "/v1/c/last", .method = "GET", .handler = &handler};
    static const char *const bad[] = {"/a/{}",     "/a/{b", "/a/b}", "/a/x{b}", "/a/{b}x", "/{a}/{b}/{c}/{d}/{e}",
                                      "/a/{b}{c}", "/{{}",  "/{a}}"};
    char *params[ROUTE_PARAMS_MAX + 1], err[64], allow[64];
    bool other;

    CU_ASSERT_TRUE(routes_add(r, &list) && routes_add(r, &one) && routes_add(r, &gone) && routes_add(r, &audio));
    CU_ASSERT_FALSE(routes_add(r, &same));
    CU_ASSERT_TRUE(routes_add(r, &last)); /* after the pattern, and still before it */
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const struct route unusable = {.path = bad[i], .method = "GET", .handler = &handler};
        CU_ASSERT_FALSE(routes_add(r, &unusable));
    }
    CU_ASSERT_STRING_EQUAL(find(r, "/v1/c", "GET", false, &other)->path, "/v1/c");
    CU_ASSERT_STRING_EQUAL(find(r, "/v1/c/7", "GET", false, &other)->path, "/v1/c/{id}");
    CU_ASSERT_STRING_EQUAL(find(r, "/v1/c/7", "DELETE", false, &other)->method, "DELETE");
    CU_ASSERT_STRING_EQUAL(find(r, "/v1/c/7", "HEAD", false, &other)->method, "GET");
    CU_ASSERT_STRING_EQUAL(find(r, "/v1/c/last", "GET", false, &other)->path, "/v1/c/last");
    CU_ASSERT_PTR_NULL(find(r, "/v1/c/last", "DELETE", false, &other));
    CU_ASSERT_TRUE(other);
    CU_ASSERT_PTR_NULL(find(r, "/v1/c/7", "POST", false, &other));
    CU_ASSERT_TRUE(other);
    routes_allow(r, "/v1/c/7", 7, allow, sizeof(allow));
    CU_ASSERT_STRING_EQUAL(allow, "GET, HEAD, DELETE");
    CU_ASSERT_PTR_NULL(find(r, "/v1/c/", "GET", false, &other));
    CU_ASSERT_FALSE(other);
    CU_ASSERT_PTR_NULL(find(r, "/v1/c/7/", "GET", false, &other));
    CU_ASSERT_PTR_NULL(find(r, "/v1/c/7/audio", "GET", false, &other));
    CU_ASSERT_PTR_NULL(find(r, "/v1/c//audio/1", "GET", false, &other));
    CU_ASSERT_PTR_NULL(find(r, "/v1/c/7/video/1", "GET", false, &other));

    static const char deep[] = "/v1/c/a%2Fb/audio/x+%C3%A9";
    const struct route *two = find(r, deep, "GET", false, &other);
    CU_ASSERT_PTR_NOT_NULL_FATAL(two);
    CU_ASSERT_TRUE(route_params(two, deep, strlen(deep), params, err, sizeof(err)));
    CU_ASSERT_STRING_EQUAL(params[0], "a/b");
    CU_ASSERT_STRING_EQUAL(params[1], "x+\xc3\xa9");
    CU_ASSERT_PTR_NULL(params[2]);
    free(params[0]);
    free(params[1]);
    static const char *const faults[] = {"/v1/c/%", "/v1/c/%zz", "/v1/c/%00", "/v1/c/%ff"};
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        CU_ASSERT_FALSE(route_params(&one, faults[i], strlen(faults[i]), params, err, sizeof(err)));
        CU_ASSERT_PTR_NOT_NULL(strstr(err, "id: "));
        free(params[0]);
    }
    CU_ASSERT_TRUE(route_params(&list, "/v1/c", 5, params, err, sizeof(err)));
    CU_ASSERT_PTR_NULL(params[0]);
    routes_free(&r);
    CU_ASSERT_PTR_NULL(r);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"routes", test_routes},
        {"routes with pieces that the client fills", test_routes_with_params},
        {"messages in order, then closed", test_order_then_closed},
        {"up: bound, hold, RESUME", test_up_bound_and_resume},
        {"up: what is held is dropped at the close", test_held_are_dropped_at_close},
        {"up: empty messages are bounded, too", test_empty_messages_are_not_free},
        {"drop within a callback", test_drop_within_callbacks},
        {"down: bound, writable", test_down_bound_and_writable},
        {"down: a close is never refused", test_close_is_never_refused},
        {"down: response and drop", test_response_and_drop},
        {"the client leaves with messages under way", test_client_leaves_with_messages_underway},
        {"budget", test_budget},
        {"no wake-up is lost", test_no_lost_wakeup},
        {"both ends leave at any moment", test_close_races},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"channel", reactor_begin, reactor_end, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
