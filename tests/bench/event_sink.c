/* The receiver of events: enters each in the ledger, and answers 200. */
#include "events.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct receiver {
    struct peer peer;
    size_t len;
    char in[MAX_MESSAGE + 1];
};

struct sink_stat sink;

static const char taken[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
static const char refused[] = "HTTP/1.1 500 Held\r\nContent-Length: 0\r\n\r\n";

unsigned sink_listen(void)
{
    static struct peer listener = {.kind = KIND_LISTENER};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;

    listener.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener.fd < 0 || bind(listener.fd, (struct sockaddr *)&a, len) < 0 || listen(listener.fd, 1024) < 0 ||
        getsockname(listener.fd, (struct sockaddr *)&a, &len) < 0)
        fail("listen");
    watch(&listener, EPOLLIN);
    return ntohs(a.sin_port);
}

void sink_accept(struct peer *listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct receiver *r = calloc(1, sizeof *r);
        if (r == NULL)
            fail("calloc");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        r->peer = (struct peer){KIND_RECEIVER, fd};
        watch(&r->peer, EPOLLIN);
    }
}

static void receiver_close(struct receiver *r)
{
    close(r->peer.fd);
    free(r);
}

/* FNV-1a of the webhook-id; never 0. */
static uint32_t id_of(const char *in)
{
    uint32_t h = 2166136261u;
    const char *id = strcasestr(in, "\r\nwebhook-id:");

    if (id == NULL)
        return 1;
    for (id += 13 + strspn(id + 13, " "); *id > ' '; id++)
        h = (h ^ (unsigned char)*id) * 16777619u;
    return h ? h : 1;
}

static void enter(char *in, size_t body, size_t whole)
{
    char end = in[whole];
    in[whole] = '\0';
    char *n = strstr(in + body, "\"n\":");
    uint32_t id = id_of(in);
    in[whole] = end;

    sink.arrived++;
    uint32_t number = n ? (uint32_t)strtoul(n + 4, NULL, 10) : UINT32_MAX;
    if (number >= ledger.n) {
        sink.unknown++;
        return;
    }
    if (ledger.arrivals[number] == 0) {
        sink.distinct++;
        ledger.id[number] = id;
        times_add(&delivery_times, now_ns() - ledger.due_ns[number]);
    } else {
        sink.doubled++;
        sink.renamed += ledger.id[number] != id; /* a second delivery must carry the first one's id */
    }
    if (ledger.arrivals[number] < 255)
        ledger.arrivals[number]++;
}

/* false: it is gone. */
static bool receiver_answer(struct receiver *r)
{
    size_t body, whole;

    while ((whole = message_len(r->in, r->len, &body)) > 0) {
        if (whole == SIZE_MAX) {
            receiver_close(r);
            return false;
        }
        const char *path = memchr(r->in, ' ', r->len);
        bool held = path != NULL && strncmp(path, " /held", 6) == 0;
        if (held)
            sink.held++;
        else
            enter(r->in, body, whole);
        const char *text = held ? refused : taken;
        size_t len = held ? sizeof refused - 1 : sizeof taken - 1;
        if (send(r->peer.fd, text, len, MSG_NOSIGNAL) != (ssize_t)len) {
            receiver_close(r);
            return false;
        }
        memmove(r->in, r->in + whole, r->len - whole);
        r->len -= whole;
        r->in[r->len] = '\0';
    }
    return true;
}

void sink_ready(struct peer *p)
{
    struct receiver *r = (struct receiver *)p;
    ssize_t n = recv(p->fd, r->in + r->len, MAX_MESSAGE - r->len, 0);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        receiver_close(r);
        return;
    }
    r->len += (size_t)n;
    r->in[r->len] = '\0';
    (void)receiver_answer(r);
}
