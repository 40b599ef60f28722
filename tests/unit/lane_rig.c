#include "lane_rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/magic.h"
#include "base/metrics.h"

bool rig_until(bool (*cond)(void *arg), void *arg)
{
    for (uint64_t until = clock_mono_ms() + RIG_WAIT_MS; !cond(arg);) {
        if (clock_mono_ms() > until)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return true;
}

struct reaches {
    atomic_uint *v;
    unsigned n;
};

static bool has_reached(void *arg)
{
    struct reaches *r = arg;
    return atomic_load(r->v) >= r->n;
}

bool rig_reaches(atomic_uint *v, unsigned at_least)
{
    return rig_until(has_reached, &(struct reaches){v, at_least});
}

/* ------------------------------------------------------------ peers */

struct peer_conn {
    struct peer *p;
    unsigned i;
};

static void *conn_main(void *arg)
{
    struct peer_conn c = *(struct peer_conn *)arg;
    free(arg);
    unsigned now = atomic_fetch_add(&c.p->open, 1) + 1, most = atomic_load(&c.p->most_open);
    while (now > most && !atomic_compare_exchange_weak(&c.p->most_open, &most, now)) {
    }
    c.p->serve(c.p, c.p->fds[c.i]);
    pthread_mutex_lock(&c.p->lock);
    close(c.p->fds[c.i]);
    c.p->fds[c.i] = -1;
    pthread_mutex_unlock(&c.p->lock);
    atomic_fetch_sub(&c.p->open, 1);
    return NULL;
}

static void *peer_main(void *arg)
{
    struct peer *p = arg;
    for (;;) {
        int fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
        pthread_mutex_lock(&p->lock);
        if (fd < 0 || p->stopping || p->n == PEER_MAX) {
            pthread_mutex_unlock(&p->lock);
            if (fd >= 0)
                close(fd);
            if (p->stopping || fd < 0)
                return NULL;
            continue;
        }
        struct peer_conn *c = malloc(sizeof *c);
        omid_assert(c != NULL);
        *c = (struct peer_conn){p, p->n};
        /* Else the second write of an answer waits 40 ms for the delayed acknowledgement of the first. */
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        p->fds[p->n] = fd;
        atomic_fetch_add(&p->accepted, 1);
        omid_assert(pthread_create(&p->threads[p->n], NULL, conn_main, c) == 0);
        p->n++;
        pthread_mutex_unlock(&p->lock);
    }
}

static int listen_any(unsigned *port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    omid_assert(fd >= 0 && bind(fd, (struct sockaddr *)&in, sizeof in) == 0 && listen(fd, 256) == 0);
    omid_assert(getsockname(fd, (struct sockaddr *)&in, &len) == 0);
    *port = ntohs(in.sin_port);
    return fd;
}

unsigned dead_port(void)
{
    unsigned port;
    int fd = listen_any(&port);
    close(fd);
    return port;
}

void peer_start(struct peer *p, void (*serve)(struct peer *p, int fd))
{
    memset(p, 0, sizeof *p);
    p->serve = serve;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    p->listener = listen_any(&p->port);
    omid_assert(pthread_create(&p->thread, NULL, peer_main, p) == 0);
}

void peer_stop(struct peer *p)
{
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_broadcast(&p->changed);
    shutdown(p->listener, SHUT_RDWR);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < p->n; i++) {
        if (p->fds[i] >= 0)
            shutdown(p->fds[i], SHUT_RDWR);
    }
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->n; i++)
        pthread_join(p->threads[i], NULL);
    close(p->listener);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->changed);
}

bool peer_read_request(struct peer *p, int fd, char *head, size_t size)
{
    size_t n = 0;
    char *length;

    while (n < size - 1) {
        if (recv(fd, head + n, 1, 0) != 1)
            return false;
        head[++n] = 0;
        if (n >= 4 && memcmp(head + n - 4, "\r\n\r\n", 4) == 0)
            break;
    }
    length = strcasestr(head, "\r\nContent-Length:");
    for (long left = length ? strtol(length + 17, NULL, 10) : 0; left > 0;) {
        char skip[4096];
        ssize_t got = recv(fd, skip, left < (long)sizeof skip ? (size_t)left : sizeof skip, 0);
        if (got <= 0)
            return false;
        left -= got;
    }
    atomic_fetch_add(&p->requests, 1);
    return true;
}

bool peer_write(int fd, const void *data, size_t len)
{
    const char *at = data;
    while (len > 0) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        at += n;
        len -= (size_t)n;
    }
    return true;
}

bool peer_puts(int fd, const char *text)
{
    return peer_write(fd, text, strlen(text));
}

bool peer_ok(int fd, const char *body)
{
    char head[128];
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", strlen(body));
    return peer_puts(fd, head) && peer_puts(fd, body);
}

bool peer_hold(struct peer *p, int fd)
{
    for (;;) {
        struct pollfd pfd = {.fd = fd, .events = POLLIN | POLLRDHUP};
        pthread_mutex_lock(&p->lock);
        bool stopping = p->stopping;
        pthread_mutex_unlock(&p->lock);
        if (stopping)
            return false;
        if (atomic_load(&p->gate))
            return true;
        if (poll(&pfd, 1, 5) > 0) {
            char c;
            if (recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) <= 0 && errno != EAGAIN)
                return false;
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
    }
}

void peer_open_gate(struct peer *p)
{
    atomic_store(&p->gate, true);
}

const char *peer_url(const struct peer *p, const char *scheme, const char *path, char out[256])
{
    snprintf(out, 256, "%s://127.0.0.1:%u%s", scheme, p->port, path);
    return out;
}

/* ------------------------------------------------------------ lanes */

struct conf_lane rig_conf(void)
{
    return (struct conf_lane){
        .pool = 16,
        .idle = 8,
        .semaphore = 16,
        .streams = 64,
        .queue = 1024,
        .connect_timeout_ms = 5000,
        .timeout_ms = 10000,
        .queue_timeout_ms = 10000,
        .breaker_failures = 1000,
        .breaker_open_ms = 30000,
        .breaker_open_max_ms = 600000,
    };
}

void rig_start(struct rig *r, const struct conf_lane *conf)
{
    r->lanes = lanes_new();
    r->loop = loop_new("caller");
    omid_assert(r->lanes && r->loop && lanes_start(r->lanes) && loop_start(r->loop));
    r->lane = lane_new(r->lanes, "test", conf);
    omid_assert(r->lane != NULL);
}

/* In the daemon's order. */
void rig_stop(struct rig *r)
{
    lanes_stop(r->lanes);
    loop_stop(r->loop);
    lane_release(&r->lane);
    loop_free(&r->loop);
    lanes_free(&r->lanes);
}

struct doing {
    struct loop_msg msg;
    void (*fn)(void *arg);
    void *arg;
    atomic_uint done;
};

static void on_doing(struct loop *loop, struct loop_msg *msg)
{
    struct doing *d = container_of(msg, struct doing, msg);
    (void)loop;
    d->fn(d->arg);
    atomic_store(&d->done, 1);
}

void rig_call(struct rig *r, void (*fn)(void *arg), void *arg)
{
    struct doing d = {.msg.fn = on_doing, .fn = fn, .arg = arg};
    loop_post(r->loop, &d.msg);
    omid_assert(rig_reaches(&d.done, 1));
}

double rig_metric(const char *name, const char *label, const char *value)
{
    struct buf out = BUF_INIT(0);
    char want[256];
    double v = 0;

    if (label)
        snprintf(want, sizeof want, "%s{lane=\"test\",%s=\"%s\"} ", name, label, value);
    else
        snprintf(want, sizeof want, "%s{lane=\"test\"} ", name);
    metrics_render(&out);
    const char *at = out.data ? strstr(out.data, want) : NULL;
    if (at)
        v = strtod(at + strlen(want), NULL);
    buf_free(&out);
    return v;
}

static void on_call_answer(void *arg, const struct omid_http_response *res)
{
    struct call *c = arg;
    c->handle = NULL;
    c->wrong_thread = !loop_is_current(c->rig->loop);
    c->res = *res;
    snprintf(c->text, sizeof c->text, "%s", res->error_text);
    c->body = malloc(res->body_len + 1);
    omid_assert(c->body != NULL);
    memcpy(c->body, res->body, res->body_len + 1);
    atomic_fetch_add(&c->answers, 1);
}

void call_init(struct call *c, struct rig *r, const char *url)
{
    memset(c, 0, sizeof *c);
    c->rig = r;
    c->req = (struct omid_http_request){.size = sizeof c->req, .method = "GET", .url = url};
}

static void do_start(void *arg)
{
    struct call *c = arg;
    c->rc = lane_http_start(c->rig->lane, c->rig->loop, &c->req, on_call_answer, c, &c->handle);
}

void call_start(struct call *c)
{
    rig_call(c->rig, do_start, c);
}

struct starting {
    struct call *calls;
    unsigned n;
};

static void do_start_all(void *arg)
{
    struct starting *s = arg;
    for (unsigned i = 0; i < s->n; i++)
        do_start(&s->calls[i]);
}

void calls_start(struct call *calls, unsigned n)
{
    rig_call(calls->rig, do_start_all, &(struct starting){calls, n});
}

bool call_wait(struct call *c)
{
    return rig_reaches(&c->answers, 1) && !c->wrong_thread;
}

static void do_cancel(void *arg)
{
    struct call *c = arg;
    lane_http_cancel(&c->handle);
}

void call_cancel(struct call *c)
{
    rig_call(c->rig, do_cancel, c);
}

void call_free(struct call *c)
{
    free(c->body);
    c->body = NULL;
}

enum omid_http_error call_once(struct call *c, struct rig *r, const char *url)
{
    call_init(c, r, url);
    call_start(c);
    omid_assert(c->rc == OMID_OK);
    omid_assert(call_wait(c));
    return c->res.error;
}
