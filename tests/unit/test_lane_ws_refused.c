/* Outgoing WebSockets of a lane against peers that refuse, hang, lie and drop: how each ends, and what the breaker
 * counts. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/magic.h"
#include "unit.h"
#include "ws_rig.h"

#define GRACE_MS 2000

/* ------------------------------------------------------------ scripts */

static void serve_wrong_accept(struct peer *p, int fd)
{
    struct line l;
    char head[8192], answer[512];
    line_open(&l, p, fd);
    if (line_request(&l, head, sizeof head)) {
        line_accept_text(head, answer, sizeof answer, "AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        if (line_puts(&l, answer))
            peer_hold(p, fd);
    }
    line_end(&l);
}

/* Drops the connection after the first message. */
static void serve_drop(struct peer *p, int fd)
{
    struct line l;
    struct ws_event ev;
    line_open(&l, p, fd);
    if (line_upgrade(&l) && line_next(&l, &ev)) {
        struct linger lg = {.l_onoff = 1};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &lg, sizeof lg);
    }
    ws_parser_free(&l.parser);
    SSL_free(l.ssl);
}

/* Sends bad bytes right behind the upgrade and notes the Close code that comes back. */
static void serve_bad_frame(struct peer *p, int fd)
{
    static const struct {
        const char *bytes;
        size_t len;
    } bad[] = {
        {"\x82\x84\x01\x02\x03\x04zzzz", 10}, /* masked */
        {"\xc2\x01z", 3},                     /* a reserved bit */
        {"\x81\x02\xc3\x28", 4},              /* no UTF-8 */
        {"\x82\x7f\0\0\0\0\x40\0\0\0", 10},   /* a gigabyte */
        {"\x80\x01z", 3},                     /* a continuation of nothing */
        {"\x88\x01z", 3},                     /* Close with half a code */
    };
    struct line l;
    struct ws_event ev;
    unsigned i = atomic_load(&p->mode);
    line_open(&l, p, fd);
    if (line_upgrade(&l) && line_send(&l, bad[i].bytes, bad[i].len) && line_next(&l, &ev) && ev.opcode == WS_CLOSE)
        atomic_store(&p->mode, ev.code);
    line_end(&l);
}

/* Never answers a Close. */
static void serve_deaf(struct peer *p, int fd)
{
    struct line l;
    struct ws_event ev;
    line_open(&l, p, fd);
    if (line_upgrade(&l)) {
        while (line_next(&l, &ev)) {
        }
    }
    line_end(&l);
}

/* ------------------------------------------------------------ tests */

/* One sequence against this script; the close it ends with. */
static struct omid_ws_close sequence(void (*serve)(struct peer *, int), unsigned mode, unsigned attempts,
                                     struct conf_lane conf, unsigned *accepted)
{
    struct rig r;
    struct peer p;
    struct sock s;

    meet(&s, &r, &p, serve, "ws", NULL, &conf);
    atomic_store(&p.mode, mode);
    s.req.attempts = attempts;
    s.req.backoff_ms = 10;
    s.req.backoff_cap_ms = 50;
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_TRUE(s.text[0] != 0);
    CU_ASSERT_PTR_NULL(strstr(s.text, "model=x"));
    sock_release(&s);
    CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
    rig_stop(&r);
    peer_stop(&p);
    *accepted = atomic_load(&p.accepted);
    return s.why;
}

static void test_rejected(void)
{
    static const unsigned final[] = {400, 401, 403, 404, 200, 302}, again[] = {429, 500, 503};
    unsigned n;
    for (size_t i = 0; i < ARRAY_LEN(final); i++) {
        struct omid_ws_close why = sequence(serve_status, final[i], 3, rig_conf(), &n);
        CU_ASSERT_EQUAL(why.end, OMID_WS_REJECTED);
        CU_ASSERT_EQUAL(why.http_status, (int) final[i]);
        CU_ASSERT_EQUAL(n, 1);
    }
    for (size_t i = 0; i < ARRAY_LEN(again); i++) {
        struct omid_ws_close why = sequence(serve_status, again[i], 3, rig_conf(), &n);
        CU_ASSERT_EQUAL(why.end, OMID_WS_CONNECT);
        CU_ASSERT_EQUAL(why.http_status, (int)again[i]);
        CU_ASSERT_EQUAL(n, 3);
    }
}

static void test_bad_handshakes(void)
{
    struct conf_lane conf = rig_conf();
    unsigned n;
    conf.connect_timeout_ms = 200;
    void (*const scripts[])(struct peer *, int) = {serve_mute, serve_hang, serve_wrong_accept};
    for (size_t i = 0; i < ARRAY_LEN(scripts); i++) {
        uint64_t from = clock_mono_ms();
        struct omid_ws_close why = sequence(scripts[i], 0, 2, conf, &n);
        CU_ASSERT_EQUAL(why.end, OMID_WS_CONNECT);
        CU_ASSERT_EQUAL(why.code, 1006);
        CU_ASSERT_EQUAL(n, 2);
        CU_ASSERT_TRUE(clock_mono_ms() - from < 1000 + GRACE_MS);
    }
}

static void test_untrusted(void)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    meet(&s, &r, &p, serve_echo, "wss", stranger_tls, &conf);
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_CONNECT);
    CU_ASSERT_EQUAL(atomic_load(&p.requests), 0);
    part(&s, &r, &p);
}

static void test_refused_port(void)
{
    struct rig r;
    struct sock s;
    struct peer nobody = {.port = dead_port()};
    struct conf_lane conf = rig_conf();

    rig_start(&r, &conf);
    sock_init(&s, &r, &nobody, "ws");
    s.req.attempts = 3;
    s.req.backoff_ms = 5;
    s.script = RELEASE_AT_CLOSED;
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_CONNECT);
    CU_ASSERT_TRUE(rig_until(lane_is_empty, NULL));
    sock_init(&s, &r, &nobody, "http");
    sock_connect(&s);
    CU_ASSERT_EQUAL(s.rc, OMID_EINVAL);
    rig_stop(&r);
}

static void test_lost(void)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    meet(&s, &r, &p, serve_drop, "ws", NULL, &conf);
    s.script = SEND_AT_OPEN;
    s.req.attempts = 3;
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_EQUAL(atomic_load(&s.opened), 1);
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_LOST);
    CU_ASSERT_EQUAL(s.why.code, 1006);
    part(&s, &r, &p);
    CU_ASSERT_EQUAL(atomic_load(&p.accepted), 1); /* once open, it is the user's to connect again */
}

static void test_bad_frames(void)
{
    static const uint16_t codes[] = {1002, 1002, 1007, 1009, 1002, 1002};
    for (unsigned i = 0; i < ARRAY_LEN(codes); i++) {
        struct rig r;
        struct peer p;
        struct sock s;
        struct conf_lane conf = rig_conf();
        meet(&s, &r, &p, serve_bad_frame, "ws", NULL, &conf);
        atomic_store(&p.mode, i);
        sock_connect(&s);
        CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
        CU_ASSERT_EQUAL(s.why.end, OMID_WS_LOST);
        CU_ASSERT_EQUAL(s.why.code, codes[i]);
        CU_ASSERT_EQUAL(atomic_load(&s.messages), 0);
        CU_ASSERT_TRUE(rig_reaches(&p.mode, 1000));
        CU_ASSERT_EQUAL(atomic_load(&p.mode), codes[i]);
        part(&s, &r, &p);
    }
}

static void test_deaf(void)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    meet(&s, &r, &p, serve_deaf, "ws", NULL, &conf);
    sock_connect(&s);
    CU_ASSERT_TRUE_FATAL(rig_reaches(&s.opened, 1));
    uint64_t from = clock_mono_ms();
    rig_call(&r, do_close, &s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_TRUE(clock_mono_ms() - from >= 2900 && clock_mono_ms() - from < 3000 + GRACE_MS);
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_LOST);
    part(&s, &r, &p);
}

static void test_breaker(void)
{
    struct rig r;
    struct peer p;
    struct sock s;
    struct conf_lane conf = rig_conf();

    conf.breaker_failures = 3;
    conf.breaker_open_ms = conf.breaker_open_max_ms = 400;
    peer_start(&p, serve_status);
    rig_start(&r, &conf);
    /* Refusals for good don't count. */
    atomic_store(&p.mode, 401);
    for (unsigned i = 0; i < 10; i++) {
        sock_init(&s, &r, &p, "ws");
        sock_connect(&s);
        CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
        CU_ASSERT_EQUAL(s.why.end, OMID_WS_REJECTED);
        sock_release(&s);
    }
    /* A sequence is one failure, however many attempts it has. */
    atomic_store(&p.mode, 500);
    for (unsigned i = 0; i < 3; i++) {
        sock_init(&s, &r, &p, "ws");
        s.req.attempts = 2;
        s.req.backoff_ms = 1;
        sock_connect(&s);
        CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
        CU_ASSERT_EQUAL(s.why.end, OMID_WS_CONNECT);
        sock_release(&s);
    }
    CU_ASSERT_EQUAL(atomic_load(&p.accepted), 16);
    uint64_t opened = clock_mono_ms();
    sock_init(&s, &r, &p, "ws");
    sock_connect(&s);
    CU_ASSERT_TRUE(rig_reaches(&s.closed, 1));
    CU_ASSERT_EQUAL(s.why.end, OMID_WS_BREAKER);
    CU_ASSERT_EQUAL(atomic_load(&p.accepted), 16);
    sock_release(&s);
    /* Later one probe goes, and its success closes the breaker. */
    atomic_store(&p.mode, 101);
    for (;;) {
        sock_init(&s, &r, &p, "ws");
        sock_connect(&s);
        while (atomic_load(&s.opened) + atomic_load(&s.closed) == 0)
            pause_ms(1);
        bool is_open = atomic_load(&s.opened);
        sock_release(&s);
        if (is_open || clock_mono_ms() - opened > RIG_WAIT_MS)
            break;
        pause_ms(10);
    }
    CU_ASSERT_TRUE(atomic_load(&s.opened) == 1 && clock_mono_ms() - opened >= 300);
    CU_ASSERT_EQUAL(atomic_load(&p.accepted), 17);
    rig_stop(&r);
    peer_stop(&p);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN); /* the peers write with OpenSSL */
    tls_setup();
    CU_TestInfo tests[] = {
        {"refused with a status", test_rejected},
        {"handshakes that hang or lie", test_bad_handshakes},
        {"a certificate nobody knows", test_untrusted},
        {"nobody there", test_refused_port},
        {"dropped in mid-stream", test_lost},
        {"bad frames", test_bad_frames},
        {"Close without an answer", test_deaf},
        {"the breaker counts sequences", test_breaker},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"outgoing WebSockets: refused", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    int rc = unit_run(suites);
    tls_free();
    return rc;
}
