/* The sender of events: one request at a time on each of many kept-alive connections. */
#include "events.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_POSTS 4096u
#define RETRY_NS 10000000u /* between two connects */
#define BEHIND 4096u       /* events that may be late; those beyond it are put off */

enum state { CLOSED, CONNECTING, IDLE, BUSY };
struct post {
    struct peer peer;
    enum state state;
    uint32_t number; /* BUSY: of the event */
    uint64_t retry_ns;
    size_t len;
    char in[MAX_MESSAGE + 1];
};

struct load_stat load;
static struct post *posts[MAX_POSTS];
static struct post *idle[MAX_POSTS];
static unsigned n_posts, n_idle;
static unsigned port;
static char head[2048], path[1024], pad[MAX_MESSAGE];
static const char *authorization;
static uint32_t *again; /* keyed, and never answered: n_again of them are sent once more */
static unsigned n_again;
static bool keyed;
static unsigned bytes;
static double rate;
static unsigned wanted, begun; /* of this run */
static uint64_t began_ns;

void load_init(const char *auth, unsigned body)
{
    authorization = auth;
    bytes = body < MAX_MESSAGE - 1024 ? body : MAX_MESSAGE - 1024;
    memset(pad, 'x', sizeof pad);
    again = calloc(EVENTS_MAX, sizeof *again);
    if (again == NULL)
        fail("calloc");
}

static void post_close(struct post *p)
{
    if (p->state == BUSY) {
        ledger.fate[p->number] = FATE_UNKNOWN;
        load.unknown++;
        load.flying--;
        if (keyed)
            again[n_again++] = p->number;
    }
    if (p->state == IDLE) {
        for (unsigned i = 0; i < n_idle; i++) {
            if (idle[i] == p) {
                idle[i] = idle[--n_idle];
                break;
            }
        }
    }
    if (p->state == IDLE || p->state == BUSY)
        load.connected--;
    if (p->state != CLOSED)
        close(p->peer.fd);
    p->state = CLOSED;
    p->len = 0;
    p->retry_ns = now_ns() + RETRY_NS;
}

static void post_connect(struct post *p)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;

    p->peer.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (p->peer.fd < 0)
        fail("socket");
    setsockopt(p->peer.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    p->state = CONNECTING;
    if (connect(p->peer.fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) {
        post_close(p);
        return;
    }
    watch(&p->peer, EPOLLOUT);
}

static void post_send(struct post *p)
{
    char out[MAX_MESSAGE + 4096];
    uint32_t n;
    char body[128], key[64] = "";

    if (n_again > 0) {
        n = again[--n_again];
    } else {
        n = ledger.n++;
        if (n == EVENTS_MAX)
            fail("too many events");
        ledger.due_ns[n] = rate > 0 ? began_ns + (uint64_t)(begun / rate * 1e9) : now_ns();
        begun++;
        load.sent++;
    }
    if (keyed)
        snprintf(key, sizeof key, "Idempotency-Key: event-%u\r\n", n);
    int start = snprintf(body, sizeof body, "{\"n\":%u,\"pad\":\"", n);
    unsigned fill = bytes > (unsigned)start + 2 ? bytes - (unsigned)start - 2 : 0;
    int at = snprintf(out, sizeof out, "%s%sContent-Length: %u\r\n\r\n%s", head, key, (unsigned)start + fill + 2, body);
    memcpy(out + at, pad, fill);
    memcpy(out + at + fill, "\"}", 2);
    size_t len = (size_t)at + fill + 2;
    p->state = BUSY;
    p->number = n;
    ledger.fate[n] = FATE_SENT;
    load.flying++;
    /* A request fits into any socket's buffer, which holds nothing else. */
    if (send(p->peer.fd, out, len, MSG_NOSIGNAL) != (ssize_t)len)
        post_close(p);
}

static void post_idle(struct post *p)
{
    p->state = IDLE;
    idle[n_idle++] = p;
}

static void load_offer(void)
{
    uint64_t due = wanted;

    if (begun >= wanted && n_again == 0)
        return;
    if (rate > 0) {
        due = (uint64_t)((double)(now_ns() - began_ns) / 1e9 * rate) + 1;
        due = due < wanted ? due : wanted;
        if (due > begun + BEHIND) { /* nobody answers: what was not sent was no event */
            unsigned skip = (unsigned)(due - begun - BEHIND);
            load.late += skip;
            began_ns += (uint64_t)(skip / rate * 1e9);
            due -= skip;
        }
    }
    while (n_idle > 0 && (n_again > 0 || begun < due))
        post_send(idle[--n_idle]);
}

/* false: the connection is gone. */
static bool post_answered(struct post *p)
{
    size_t body, whole = message_len(p->in, p->len, &body);

    if (whole == 0)
        return true;
    if (whole == SIZE_MAX || p->state != BUSY || strncmp(p->in, "HTTP/1.1 ", 9) != 0) {
        post_close(p);
        return false;
    }
    int status = atoi(p->in + 9);
    bool ends = strstr(p->in, "onnection: close") != NULL;
    load.flying--;
    if (status == 202) {
        load.accepted++;
        ledger.fate[p->number] = FATE_ACCEPTED;
        times_add(&accept_times, now_ns() - ledger.due_ns[p->number]);
    } else {
        load.refused++;
        load.last_status = status;
        ledger.fate[p->number] = FATE_REFUSED;
    }
    memmove(p->in, p->in + whole, p->len - whole);
    p->len -= whole;
    p->in[p->len] = '\0';
    post_idle(p);
    if (ends)
        post_close(p);
    return !ends;
}

void load_ready(struct peer *peer, uint32_t events)
{
    struct post *p = (struct post *)peer;

    if (p->state == CONNECTING) {
        int error = 0;
        socklen_t len = sizeof error;
        getsockopt(peer->fd, SOL_SOCKET, SO_ERROR, &error, &len);
        if (error != 0 || (events & (EPOLLERR | EPOLLHUP))) {
            post_close(p);
            return;
        }
        rewatch(peer, EPOLLIN);
        load.connected++;
        post_idle(p);
    } else if (p->state != CLOSED) {
        ssize_t n = recv(peer->fd, p->in + p->len, MAX_MESSAGE - p->len, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            post_close(p);
            return;
        }
        p->len += (size_t)n;
        p->in[p->len] = '\0';
        if (!post_answered(p))
            return;
    }
    load_offer();
}

void load_tick(void)
{
    uint64_t now = now_ns();
    for (unsigned i = 0; i < n_posts; i++) {
        if (posts[i]->state == CLOSED && posts[i]->retry_ns <= now)
            post_connect(posts[i]);
    }
    load_offer();
}

void load_target(unsigned to, unsigned connections)
{
    for (unsigned i = 0; i < n_posts; i++)
        post_close(posts[i]);
    port = to;
    n_posts = connections < MAX_POSTS ? connections : MAX_POSTS;
    for (unsigned i = 0; i < n_posts; i++) {
        if (posts[i] == NULL && (posts[i] = calloc(1, sizeof *posts[i])) == NULL)
            fail("calloc");
        posts[i]->peer.kind = KIND_POST;
        posts[i]->retry_ns = 0;
    }
}

void load_begin(double per_s, unsigned count, const char *to, bool with_key)
{
    keyed = with_key;
    snprintf(path, sizeof path, "%s", to);
    snprintf(head, sizeof head,
             "POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: %s\r\nContent-Type: application/json\r\n", path,
             authorization);
    rate = per_s;
    wanted = count;
    begun = 0;
    began_ns = now_ns();
}

void load_stop(void)
{
    wanted = begun;
}

bool load_is_over(void)
{
    return begun >= wanted && load.flying == 0 && n_again == 0;
}
