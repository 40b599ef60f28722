/*
 * The other end of the benchmarks: an HTTP/1.1 server that does as little as one can, so that what is measured is the
 * client. One thread, epoll, kept-alive connections.
 *
 *     sink PORTS CPU        listens on that many free ports of 127.0.0.1, runs on that CPU; prints the ports, one a
 * line
 *
 * The path's first letter says how it answers: /h never, /d with a byte a second, /r by a reset, /5 with status 500,
 * anything else with 200. It ends when its standard input does.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define MAX_REQUEST 16384u

enum kind { LISTENER, CONNECTION, TIMER, INPUT };
struct peer {
    enum kind kind;
    int fd;
    bool silent; /* hangs or drips: what comes is read and dropped */
    bool drips;
    size_t dripped, len;
    struct peer *next, *prev; /* among those that drip */
    char in[MAX_REQUEST];
};

static const char answer_ok[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
static const char answer_500[] = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
static const char answer_drip[] = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";

static int ep;
static struct peer *dripping;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void watch(struct peer *p, enum kind kind, int fd)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = p};
    p->kind = kind;
    p->fd = fd;
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
        fail("epoll_ctl");
}

static void peer_close(struct peer *p)
{
    if (p->drips) {
        *(p->prev ? &p->prev->next : &dripping) = p->next;
        if (p->next)
            p->next->prev = p->prev;
    }
    close(p->fd);
    free(p);
}

static void accept_all(int listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct peer *p = calloc(1, sizeof *p);
        if (p == NULL)
            fail("calloc");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        watch(p, CONNECTION, fd);
    }
}

/* Bytes of the request that p->in begins with; 0: not whole yet; SIZE_MAX: never. */
static size_t request_len(const struct peer *p)
{
    char *end = memmem(p->in, p->len, "\r\n\r\n", 4);
    size_t body = 0;
    if (end == NULL)
        return p->len == MAX_REQUEST ? SIZE_MAX : 0;
    for (char *line = memmem(p->in, p->len, "\r\n", 2); line < end; line = memmem(line, MAX_REQUEST, "\r\n", 2)) {
        line += 2;
        if (strncasecmp(line, "content-length:", 15) == 0)
            body = strtoul(line + 15, NULL, 10);
    }
    size_t whole = (size_t)(end - p->in) + 4 + body;
    return whole > MAX_REQUEST ? SIZE_MAX : whole <= p->len ? whole : 0;
}

/* false: p is gone. */
static bool request_answer(struct peer *p)
{
    const char *path = memchr(p->in, ' ', p->len);
    char letter = path != NULL && path + 2 < p->in + p->len ? path[2] : 0;
    if (letter == 'h' || letter == 'd') {
        p->silent = true;
        p->drips = letter == 'd';
        if (p->drips) {
            p->next = dripping;
            if (dripping)
                dripping->prev = p;
            dripping = p;
        }
        return true;
    }
    if (letter == 'r') {
        const struct linger now = {.l_onoff = 1, .l_linger = 0};
        setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        peer_close(p);
        return false;
    }
    const char *text = letter == '5' ? answer_500 : answer_ok;
    size_t len = letter == '5' ? sizeof answer_500 - 1 : sizeof answer_ok - 1;
    if (send(p->fd, text, len, MSG_NOSIGNAL) == (ssize_t)len)
        return true;
    peer_close(p); /* a client that does not even read an answer's few bytes */
    return false;
}

static void connection_read(struct peer *p)
{
    ssize_t n = recv(p->fd, p->in + p->len, MAX_REQUEST - p->len, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        peer_close(p);
        return;
    }
    if (p->silent)
        return;
    p->len += (size_t)n;
    size_t whole;
    while ((whole = request_len(p)) > 0) {
        if (whole == SIZE_MAX) {
            peer_close(p);
            return;
        }
        if (!request_answer(p))
            return;
        memmove(p->in, p->in + whole, p->len - whole);
        p->len -= whole;
        if (p->silent) {
            p->len = 0;
            return;
        }
    }
}

static void drip(int timer)
{
    uint64_t times;
    if (read(timer, &times, sizeof times) != sizeof times)
        return;
    for (struct peer *p = dripping, *next; p; p = next) {
        next = p->next;
        char c = p->dripped < sizeof answer_drip - 1 ? answer_drip[p->dripped] : 'x';
        p->dripped++;
        if (send(p->fd, &c, 1, MSG_NOSIGNAL) < 0 && errno != EAGAIN)
            peer_close(p);
    }
}

static void listen_on_any(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct peer *p = calloc(1, sizeof *p);
    if (p == NULL || fd < 0 || bind(fd, (struct sockaddr *)&a, len) < 0 || listen(fd, 1024) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) < 0)
        fail("listen");
    watch(p, LISTENER, fd);
    printf("%u\n", (unsigned)ntohs(a.sin_port));
}

int main(int argc, char **argv)
{
    int ports = argc > 1 ? atoi(argv[1]) : 1;
    struct rlimit files = {0};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (argc > 2) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((unsigned)atoi(argv[2]), &set);
        if (sched_setaffinity(0, sizeof set, &set) < 0)
            fail("sched_setaffinity");
    }
    ep = epoll_create1(EPOLL_CLOEXEC);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    const struct itimerspec second = {{1, 0}, {1, 0}};
    struct peer *t = calloc(1, sizeof *t), *in = calloc(1, sizeof *in);
    if (ep < 0 || timer < 0 || t == NULL || in == NULL || timerfd_settime(timer, 0, &second, NULL) < 0)
        fail("sink");
    watch(t, TIMER, timer);
    watch(in, INPUT, 0);
    for (int i = 0; i < ports; i++)
        listen_on_any();
    fflush(stdout);
    for (;;) {
        struct epoll_event ev[256];
        int n = epoll_wait(ep, ev, 256, -1), due = -1;
        for (int i = 0; i < n; i++) {
            struct peer *p = ev[i].data.ptr;
            if (p->kind == LISTENER)
                accept_all(p->fd);
            else if (p->kind == CONNECTION)
                connection_read(p);
            else if (p->kind == INPUT)
                return 0;
            else
                due = p->fd;
        }
        if (due >= 0) /* closes peers: only once no event of this batch can name them any more */
            drip(due);
    }
}
