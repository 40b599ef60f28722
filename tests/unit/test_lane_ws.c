/* Outgoing WebSockets of a lane: messages in both directions, back-pressure, release at any moment, slots; ws and wss.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/magic.h"
#include "unit.h"
#include "ws_rig.h"

#define GRACE_MS 2000

/* ------------------------------------------------------------ scripts */

/* Reads nothing before the gate opens; then counts the messages. */
static void serve_stuck(struct peer *p, int fd)
{
    struct line l;
    struct ws_event ev;
    line_open(&l, p, fd);
    if (line_upgrade(&l)) {
        while (!atomic_load(&p->gate)) {
            pthread_mutex_lock(&p->lock);
            bool stopping = p->stopping;
            pthread_mutex_unlock(&p->lock);
            if (stopping)
                break;
            pause_ms(1);
        }
        while (line_next(&l, &ev) && ev.opcode != WS_CLOSE)
            atomic_fetch_add(&p->mode, 1);
        line_close(&l, 1000, "");
    }
    line_end(&l);
}

#define FLOOD 2000

#define FLOOD_SIZE 3000

/* A thousand messages, pings between them, then a Close with a reason. */
static void serve_flood(struct peer *p, int fd)
{
    static char block[FLOOD_SIZE];
    struct line l;
    struct ws_event ev;
    line_open(&l, p, fd);
    if (line_upgrade(&l)) {
        for (unsigned i = 0; i < FLOOD; i++) {
            if (i % 100 == 0)
                line_frame(&l, WS_PING, "ping", 4);
            if (!line_frame(&l, WS_BINARY, block, sizeof block))
                break;
        }
        line_close(&l, 4001, "that is all");
        while (line_next(&l, &ev)) {
            if (ev.opcode == WS_PONG && ev.len == 4 && memcmp(ev.data, "ping", 4) == 0)
                atomic_fetch_add(&p->mode, 1);
        }
    }
    line_end(&l);
}

static void do_send_text(void *arg)
{
    struct sock *s = arg;
    s->within = true;
    s->send_rc = lane_ws_send(s->ws, OMID_TEXT, "hello", 5);
    s->within = false;
}

/* As much as is taken, in messages of 1,000 bytes. */
static void do_fill(void *arg)
{
    static char block[1000];
    struct sock *s = arg;
    s->within = true;
    while (s->sent < 100000 && (s->send_rc = lane_ws_send(s->ws, OMID_BINARY, block, sizeof block)) == OMID_OK)
        s->sent++;
    s->within = false;
}

/* The slot comes back by a message to the lane. */
static bool none_in_flight(void *arg)
{
    (void)arg;
    return rig_metric("omid_lane_inflight", NULL, NULL) == 0;
}

/* ------------------------------------------------------------ tests */

static void echo_over(const char *scheme, SSL_CTX *tls)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    meet(&s, &r, &p, serve_echo, scheme, tls, &conf);
    sock_connect(&s);
    CU_ASSERT_EQUAL_FATAL(s.rc, OMID_OK);
    CU_ASSERT_TRUE_FATAL(rig_reaches(&s.opened, 1));
    for (unsigned i = 1; i <= 20; i++) {
        rig_call(&r, do_send_text, &s);
        CU_ASSERT_EQUAL(s.send_rc, OMID_OK);
        CU_ASSERT_TRUE_FATAL(rig_reaches(&s.messages, i));
    }
    CU_ASSERT_STRING_EQUAL(s.last, "hello");
    CU_ASSERT_EQUAL(rig_metric("omid_lane_streams", NULL, NULL), 1);
    CU_ASSERT_TRUE(rig_until(none_in_flight, NULL)); /* only the handshake held a slot */
    rig_call(&r, do_close, &s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_CLOSED);
    CU_ASSERT_EQUAL(s.why.code, 4002);
    CU_ASSERT_EQUAL(atomic_load(&p.mode), 4002);
    sock_release(&s);
    CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
    rig_stop(&r);
    peer_stop(&p);
    CU_ASSERT_EQUAL(atomic_load(&p.accepted), 1);
}

static void test_echo(void)
{
    echo_over("ws", NULL);
}

static void test_echo_tls(void)
{
    echo_over("wss", good_tls);
}

/* 3 MB through the buffers of both sides, each message back. */
static void bulk_over(const char *scheme, SSL_CTX *tls)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    meet(&s, &r, &p, serve_flood, scheme, tls, &conf);
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_CLOSED);
    CU_ASSERT_EQUAL(s.why.code, 4001);
    CU_ASSERT_STRING_EQUAL(s.text, "that is all");
    CU_ASSERT_EQUAL(atomic_load(&s.messages), FLOOD);
    CU_ASSERT_EQUAL(s.bytes, (size_t)FLOOD * FLOOD_SIZE);
    part(&s, &r, &p);
    CU_ASSERT_EQUAL(atomic_load(&p.mode), FLOOD / 100);
}

static void test_flood(void)
{
    bulk_over("ws", NULL);
    bulk_over("wss", good_tls);
}

/* The socket takes no more: EFULL, a bounded queue, writable() once there is room, nothing lost or twice. */
static void stuck_over(const char *scheme, SSL_CTX *tls)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    meet(&s, &r, &p, serve_stuck, scheme, tls, &conf);
    s.req.send_buffer = 64 << 10;
    sock_connect(&s);
    CU_ASSERT_TRUE_FATAL(rig_reaches(&s.opened, 1));
    rig_call(&r, do_fill, &s);
    CU_ASSERT_EQUAL(s.send_rc, OMID_EFULL);
    CU_ASSERT_TRUE(s.sent >= 60 && s.sent < 20000);
    CU_ASSERT_EQUAL(atomic_load(&s.writables), 0);
    peer_open_gate(&p);
    for (unsigned i = 1; i <= 5; i++) {
        CU_ASSERT_TRUE_FATAL(rig_reaches(&s.writables, i));
        rig_call(&r, do_fill, &s);
        if (s.send_rc != OMID_EFULL)
            break;
    }
    rig_call(&r, do_close, &s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_CLOSED);
    CU_ASSERT_EQUAL(atomic_load(&p.mode), s.sent);
    part(&s, &r, &p);
}

static void test_backpressure(void)
{
    stuck_over("ws", NULL);
    stuck_over("wss", good_tls);
}

/* Keeps the loop busy until the peer has read all that the socket held; then one more message empties the queue. */
static void do_drain(void *arg)
{
    struct sock *s = arg;
    struct peer *p = s->peer;
    unsigned seen;
    peer_open_gate(p);
    rig_reaches(&p->mode, 1);
    do {
        seen = atomic_load(&p->mode);
        pause_ms(50);
    } while (seen != atomic_load(&p->mode));
    lane_ws_send(s->ws, OMID_BINARY, "x", 1);
    s->send_rc = lane_ws_send(s->ws, OMID_BINARY, "x", 1);
}

/* writable() comes after OMID_EFULL also when it was a call, not the loop, that emptied the queue. */
static void test_writable_after_call(void)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    meet(&s, &r, &p, serve_stuck, "ws", NULL, &conf);
    s.peer = &p;
    s.req.send_buffer = 64 << 10;
    sock_connect(&s);
    CU_ASSERT_TRUE_FATAL(rig_reaches(&s.opened, 1));
    rig_call(&r, do_fill, &s);
    CU_ASSERT_EQUAL(s.send_rc, OMID_EFULL);
    rig_call(&r, do_drain, &s);
    CU_ASSERT_EQUAL(s.send_rc, OMID_OK);
    CU_ASSERT_TRUE(rig_reaches(&s.writables, 1));
    part(&s, &r, &p);
}

static void test_callbacks(void)
{
    static const enum on_event scripts[] = {RELEASE_AT_OPEN, RELEASE_AT_MESSAGE, CLOSE_AT_MESSAGE, RELEASE_AT_CLOSED};
    for (unsigned i = 0; i < ARRAY_LEN(scripts) * 2; i++) {
        struct rig r;
        struct peer p;
        struct sock s;
        struct conf_lane conf = rig_conf();
        enum on_event script = scripts[i / 2];
        peer_start(&p, serve_flood);
        p.tls = i % 2 ? good_tls : NULL;
        rig_start(&r, &conf);
        sock_init(&s, &r, &p, i % 2 ? "wss" : "ws");
        s.script = script;
        sock_connect(&s);
        CU_ASSERT_TRUE(rig_reaches(&s.opened, 1));
        if (script == RELEASE_AT_MESSAGE)
            CU_ASSERT_TRUE(rig_reaches(&s.messages, 1));
        if (script == CLOSE_AT_MESSAGE || script == RELEASE_AT_CLOSED)
            CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
        if (script == CLOSE_AT_MESSAGE)
            sock_release(&s);
        CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
        CU_ASSERT_TRUE(atomic_load(&s.messages) <= (script == RELEASE_AT_MESSAGE ? 1 : FLOOD));
        rig_stop(&r);
        peer_stop(&p);
    }
}

/* Released while it resolves, connects, waits for the answer or pauses: no further attempt. */
static void test_release(void)
{
    struct rig r;
    struct peer early, mute, hang, busy;
    struct sock s;
    struct conf_lane conf = rig_conf();

    peer_start(&early, serve_hang); /* its own: a connection given up may be accepted long afterwards */
    peer_start(&mute, serve_mute);
    mute.tls = good_tls;
    peer_start(&hang, serve_hang);
    peer_start(&busy, serve_status);
    atomic_store(&busy.mode, 503);
    rig_start(&r, &conf);

    sock_init(&s, &r, &early, "ws"); /* at once: perhaps before admission */
    sock_connect(&s);
    sock_release(&s);
    CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));

    sock_init(&s, &r, &mute, "wss"); /* within TLS */
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&mute.accepted, 1));
    sock_release(&s);

    sock_init(&s, &r, &hang, "ws"); /* within the answer */
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&hang.requests, 1));
    sock_release(&s);

    sock_init(&s, &r, &busy, "ws"); /* within the pause */
    s.req.attempts = 5;
    s.req.backoff_ms = 150;
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&busy.requests, 1));
    while (atomic_load(&busy.open) > 0)
        pause_ms(1);
    sock_release(&s);
    uint64_t until = clock_mono_ms() + 500; /* three more attempts would fit */
    while (clock_mono_ms() < until && atomic_load(&busy.accepted) == 1)
        pause_ms(5);
    CU_ASSERT_EQUAL(atomic_load(&busy.accepted), 1);

    snprintf(s.url, sizeof s.url, "ws://no-such-host.invalid/"); /* within the name */
    s.req.attempts = 3;
    uint64_t from = clock_mono_ms();
    sock_connect(&s);
    pause_ms(5);
    sock_release(&s);
    CU_ASSERT_TRUE(clock_mono_ms() - from < GRACE_MS);
    CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
    CU_ASSERT_EQUAL(atomic_load(&s.opened) + atomic_load(&s.closed), 0);
    rig_stop(&r);
    peer_stop(&early);
    peer_stop(&mute);
    peer_stop(&hang);
    peer_stop(&busy);
}

static void test_close_before_open(void)
{
    struct rig r;
    struct peer hang;
    struct sock s;
    struct conf_lane conf = rig_conf();

    peer_start(&hang, serve_hang);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < 2; i++) {
        sock_init(&s, &r, &hang, "ws");
        s.req.attempts = 3;
        sock_connect(&s);
        if (i == 1)
            CU_ASSERT_TRUE(rig_reaches(&hang.requests, 1));
        rig_call(&r, do_close, &s);
        CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
        CU_ASSERT_EQUAL(atomic_load(&s.closed), 1);
        sock_release(&s);
        CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
    }
    CU_ASSERT_TRUE(atomic_load(&hang.accepted) <= 2);
    rig_stop(&r);
    peer_stop(&hang);
}

static void test_streams_full(void)
{
    struct rig r;
    struct peer p;
    struct sock s[3];
    struct conf_lane conf = rig_conf();

    conf.streams = 2;
    peer_start(&p, serve_echo);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < 3; i++) {
        sock_init(&s[i], &r, &p, "ws");
        sock_connect(&s[i]);
        CU_ASSERT_TRUE(rig_reaches(i < 2 ? &s[i].opened : &s[i].closed, 1));
    }
    CU_ASSERT_EQUAL(s[2].why.end, OMID_WS_FULL);
    CU_ASSERT_EQUAL(atomic_load(&p.accepted), 2);
    sock_release(&s[0]);
    sock_release(&s[2]);
    sock_init(&s[0], &r, &p, "ws");
    sock_connect(&s[0]);
    CU_ASSERT_TRUE(rig_reaches(&s[0].opened, 1));
    sock_release(&s[0]);
    sock_release(&s[1]);
    rig_stop(&r);
    peer_stop(&p);
}

/* The slot of a handshake is free during the pauses and once it is open. */
static void test_handshake_slots(void)
{
    struct rig r;
    struct peer p, busy;
    struct sock s[10], waiting;
    struct conf_lane conf = rig_conf();

    conf.pool = conf.semaphore = 1;
    peer_start(&p, serve_echo);
    peer_start(&busy, serve_status);
    atomic_store(&busy.mode, 503);
    rig_start(&r, &conf);
    sock_init(&waiting, &r, &busy, "ws");
    waiting.req.attempts = 2;
    waiting.req.backoff_ms = 30000;
    sock_connect(&waiting);
    CU_ASSERT_TRUE(rig_reaches(&busy.requests, 1));
    for (unsigned i = 0; i < 10; i++) {
        sock_init(&s[i], &r, &p, "ws");
        sock_connect(&s[i]);
    }
    for (unsigned i = 0; i < 10; i++)
        CU_ASSERT_TRUE(rig_reaches(&s[i].opened, 1));
    CU_ASSERT_EQUAL(atomic_load(&waiting.closed), 0);
    for (unsigned i = 0; i < 10; i++)
        sock_release(&s[i]);
    sock_release(&waiting);
    CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
    rig_stop(&r);
    peer_stop(&p);
    peer_stop(&busy);
}

static void test_shutdown(void)
{
    struct rig r;
    struct peer p, hang;
    struct sock s[2];
    struct conf_lane conf = rig_conf();

    peer_start(&p, serve_echo);
    peer_start(&hang, serve_hang);
    rig_start(&r, &conf);
    sock_init(&s[0], &r, &p, "ws");
    sock_connect(&s[0]);
    CU_ASSERT_TRUE(rig_reaches(&s[0].opened, 1));
    sock_init(&s[1], &r, &hang, "ws");
    sock_connect(&s[1]);
    CU_ASSERT_TRUE(rig_reaches(&hang.requests, 1));
    lanes_stop(r.lanes);
    for (unsigned i = 0; i < 2; i++) {
        CU_ASSERT_TRUE(rig_reaches(&s[i].closed, 1));
        CU_ASSERT_EQUAL(s[i].why.end, OMID_WS_SHUTDOWN);
        sock_release(&s[i]);
    }
    CU_ASSERT_TRUE(rig_reaches(&p.mode, 1));
    CU_ASSERT_EQUAL(atomic_load(&p.mode), 1001);
    sock_connect(&s[0]);
    CU_ASSERT_EQUAL(s[0].rc, OMID_ECLOSED);
    rig_stop(&r);
    peer_stop(&p);
    peer_stop(&hang);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN); /* the peers write with OpenSSL */
    tls_setup();
    CU_TestInfo tests[] = {
        {"echo over ws", test_echo},
        {"echo over wss with a CA of one's own", test_echo_tls},
        {"a flood of messages, pings and a Close", test_flood},
        {"back-pressure", test_backpressure},
        {"room made by a call", test_writable_after_call},
        {"release and close within callbacks", test_callbacks},
        {"release at any moment", test_release},
        {"close before open", test_close_before_open},
        {"all streams in use", test_streams_full},
        {"slots are for handshakes", test_handshake_slots},
        {"shutdown", test_shutdown},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"outgoing WebSockets", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    int rc = unit_run(suites);
    tls_free();
    return rc;
}
