/*
 * For the tests of HTTP lanes: a lane with a caller's loop, requests whose answers are kept, and peers on 127.0.0.1
 * that are scripted in C, each with a thread per connection.
 */
#ifndef TESTS_UNIT_LANE_RIG_H
#define TESTS_UNIT_LANE_RIG_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "base/loop.h"
#include "conf/conf.h"
#include "lane/http/lane.h"

#define RIG_WAIT_MS 20000

/* Waits for cond to hold; false: the deadline passed. */
bool rig_until(bool (*cond)(void *arg), void *arg);
bool rig_reaches(atomic_uint *v, unsigned at_least);
/* For what a script or a scenario does slowly; conditions are waited for with rig_until(). */
static inline void pause_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

/* ------------------------------------------------------------ peers */

#define PEER_MAX 512
struct peer {
    int listener;
    unsigned port;
    void (*serve)(struct peer *p, int fd); /* on a thread of the connection's own; returns to close */
    atomic_uint accepted, requests, open, most_open;
    atomic_uint mode; /* the script's to use */
    atomic_bool gate; /* peer_hold() waits for it */
    void *tls;        /* SSL_CTX of a wss peer */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stopping;
    int fds[PEER_MAX]; /* -1: closed */
    pthread_t threads[PEER_MAX];
    unsigned n;
};
void peer_start(struct peer *p, void (*serve)(struct peer *p, int fd));
void peer_stop(struct peer *p);
/* Reads a request with its body; false: the other side is gone. Counts it. Holds at most size-1 bytes of its head. */
bool peer_read_request(struct peer *p, int fd, char *head, size_t size);
bool peer_write(int fd, const void *data, size_t len);
bool peer_puts(int fd, const char *text);
/* 200 with this body and keep-alive. */
bool peer_ok(int fd, const char *body);
/* Until the gate opens, or the peer stops, or the other side goes. false: the latter two. */
bool peer_hold(struct peer *p, int fd);
void peer_open_gate(struct peer *p);
const char *peer_url(const struct peer *p, const char *scheme, const char *path, char out[256]);
/* A port where nobody listens. */
unsigned dead_port(void);

/* ------------------------------------------------------------ lanes */

struct rig {
    struct lanes *lanes;
    struct lane *lane;
    struct loop *loop; /* the caller's */
};
struct conf_lane rig_conf(void); /* generous and quick */
void rig_start(struct rig *r, const struct conf_lane *conf);
void rig_stop(struct rig *r);
/* Runs fn on the caller's loop and waits for it. */
void rig_call(struct rig *r, void (*fn)(void *arg), void *arg);
double rig_metric(const char *name, const char *label, const char *value); /* of the lane "test" */

/* A request and its answer. */
struct call {
    struct rig *rig;
    struct omid_http_request req;
    struct lane_http *handle;
    int rc;
    atomic_uint answers;
    bool wrong_thread;
    struct omid_http_response res;
    char text[256], *body;
};
void call_init(struct call *c, struct rig *r, const char *url);
void call_start(struct call *c);
void calls_start(struct call *calls, unsigned n); /* within one turn of the caller's loop */
bool call_wait(struct call *c);
void call_cancel(struct call *c);
void call_free(struct call *c);
/* All of it in one. */
enum omid_http_error call_once(struct call *c, struct rig *r, const char *url);

#endif
