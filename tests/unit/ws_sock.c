#include "ws_rig.h"

#include <CUnit/Basic.h>
#include <stdio.h>
#include <string.h>

#include "base/magic.h"

static void sock_open(void *arg, struct lane_ws *ws)
{
    struct sock *s = arg;
    s->called_within |= s->within;
    omid_assert(ws == s->ws);
    atomic_fetch_add(&s->opened, 1);
    if (s->script == RELEASE_AT_OPEN)
        lane_ws_release(&s->ws);
    if (s->script == SEND_AT_OPEN)
        CU_ASSERT_EQUAL(lane_ws_send(ws, OMID_TEXT, "hello", 5), OMID_OK);
}

static void sock_message(void *arg, struct lane_ws *ws, enum omid_message type, const void *data, size_t len)
{
    struct sock *s = arg;
    char copy[64];
    s->called_within |= s->within;
    (void)type;
    if (s->script == RELEASE_AT_MESSAGE)
        lane_ws_release(&s->ws);
    if (s->script == CLOSE_AT_MESSAGE)
        lane_ws_close(ws, 1000);
    /* Valid until this returns, whatever was called. */
    snprintf(copy, sizeof copy, "%.*s", (int)(len < 60 ? len : 60), (const char *)data);
    memcpy(s->last, copy, sizeof copy);
    s->bytes += len;
    atomic_fetch_add(&s->messages, 1);
}

static void sock_writable(void *arg, struct lane_ws *ws)
{
    struct sock *s = arg;
    (void)ws;
    s->called_within |= s->within;
    atomic_fetch_add(&s->writables, 1);
}

static void sock_closed(void *arg, struct lane_ws *ws, const struct omid_ws_close *why)
{
    struct sock *s = arg;
    s->called_within |= s->within;
    omid_assert(ws == s->ws);
    s->why = *why;
    snprintf(s->text, sizeof s->text, "%s", why->text);
    CU_ASSERT_EQUAL(lane_ws_send(ws, OMID_TEXT, "x", 1), OMID_ECLOSED);
    if (s->script == RELEASE_AT_CLOSED)
        lane_ws_release(&s->ws);
    atomic_fetch_add(&s->closed, 1);
}

static const struct lane_ws_events sock_events = {sock_open, sock_message, sock_writable, sock_closed};

void sock_init(struct sock *s, struct rig *r, const struct peer *p, const char *scheme)
{
    memset(s, 0, sizeof *s);
    s->rig = r;
    peer_url(p, scheme, "/v1/listen?model=x", s->url);
    s->req = (struct omid_ws_request){.size = sizeof s->req, .url = s->url, .attempts = 1};
}

static void do_connect(void *arg)
{
    struct sock *s = arg;
    s->within = true;
    s->rc = lane_ws_connect(s->rig->lane, s->rig->loop, &s->req, &sock_events, s, &s->ws);
    s->within = false;
}

void sock_connect(struct sock *s)
{
    rig_call(s->rig, do_connect, s);
}

static void do_release(void *arg)
{
    struct sock *s = arg;
    lane_ws_release(&s->ws);
}

void sock_release(struct sock *s)
{
    rig_call(s->rig, do_release, s);
    CU_ASSERT_FALSE(s->called_within);
}

void do_close(void *arg)
{
    struct sock *s = arg;
    s->within = true;
    lane_ws_close(s->ws, 4002);
    s->within = false;
}

bool lane_is_empty(void *arg)
{
    (void)arg;
    return rig_metric("omid_lane_streams", NULL, NULL) == 0 && rig_metric("omid_lane_inflight", NULL, NULL) == 0 &&
           rig_metric("omid_lane_waiting", NULL, NULL) == 0;
}

/* A lane, a peer that follows this script, and a WebSocket that is to lead there. */
void meet(struct sock *s, struct rig *r, struct peer *p, void (*serve)(struct peer *p, int fd), const char *scheme,
          SSL_CTX *tls, const struct conf_lane *conf)
{
    peer_start(p, serve);
    p->tls = tls;
    rig_start(r, conf);
    sock_init(s, r, p, scheme);
}

void part(struct sock *s, struct rig *r, struct peer *p)
{
    sock_release(s);
    rig_stop(r);
    peer_stop(p);
}
