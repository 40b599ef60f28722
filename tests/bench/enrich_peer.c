/*
 * The partners of tests/bench/enrich in one process: a language model's service, a geocoder that hangs, and a receiver
 * of webhooks. One thread, epoll, kept-alive connections; every answer comes DELAY_MS after its request.
 *
 *     enrich_peer CPU DELAY_MS COUNT      prints its port; then takes commands on its standard input, a line each:
 *
 *         begin   ok: the conversations end now; what was measured is forgotten
 *         stat    delivered=N doubled=N failed=N summaries=N places=N p50_s=F p99_s=F max_s=F: deliveries that were
 *                 answered with success, from `begin` on
 *
 * What is about conversation number N says "number N of" in its body. The first request about each tenth one fails
 * (500), of the model and of the receiver, of each about others; the ones after it do not. It ends when its standard
 * input does.
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
#include <time.h>
#include <unistd.h>

#define MAX_REQUEST 65536u

enum kind { LISTENER, CONNECTION, INPUT };
enum answer { ANSWER_OK, ANSWER_MODEL, ANSWER_500 };
struct peer {
    enum kind kind;
    int fd;
    bool waits; /* an answer is on its way */
    bool gone;  /* closed meanwhile */
    size_t len;
    char in[MAX_REQUEST];
};
/* All wait equally long: the first in is the first out. */
struct due {
    struct due *next;
    struct peer *peer;
    enum answer answer;
    unsigned number;
    uint64_t at_ns;
    bool delivery;
};

static int ep;
static struct due *first, **last = &first;
static uint64_t delay_ns, began_ns;
static unsigned count;
static unsigned char *seen_model, *seen_hook; /* requests of each conversation */
static double *delivered;                     /* seconds; 0: not yet */
static unsigned n_delivered, n_doubled, n_failed, n_summaries, n_places;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static struct peer *watch(enum kind kind, int fd)
{
    struct peer *p = calloc(1, sizeof *p);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = p};
    if (p == NULL)
        fail("calloc");
    p->kind = kind;
    p->fd = fd;
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
        fail("epoll_ctl");
    return p;
}

static void accept_all(int listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        (void)watch(CONNECTION, fd);
    }
}

static void peer_close(struct peer *p)
{
    close(p->fd);
    if (p->waits)
        p->gone = true;
    else
        free(p);
}

/* Bytes of the request that p->in begins with; 0: not whole yet. */
static size_t request_len(const struct peer *p)
{
    char *end = memmem(p->in, p->len, "\r\n\r\n", 4);
    size_t body = 0;
    if (end == NULL)
        return 0;
    for (char *line = memmem(p->in, p->len, "\r\n", 2); line < end; line = memmem(line, MAX_REQUEST, "\r\n", 2)) {
        line += 2;
        if (strncasecmp(line, "content-length:", 15) == 0)
            body = strtoul(line + 15, NULL, 10);
    }
    size_t whole = (size_t)(end - p->in) + 4 + body;
    return whole <= p->len ? whole : 0;
}

/* false: it is never answered. */
static bool request_take(struct peer *p, size_t whole)
{
    const char *path = memchr(p->in, ' ', whole), *words = memmem(p->in, whole, "number ", 7);
    unsigned number = words != NULL ? (unsigned)atoi(words + 7) : 0;
    bool model = path != NULL && strncmp(path + 1, "/v1/chat", 8) == 0;
    if (path == NULL || number >= count || strncmp(path + 1, "/geo", 4) == 0) {
        n_places++;
        return false;
    }
    unsigned char *seen = model ? &seen_model[number] : &seen_hook[number];
    bool bad = number % 10 == (model ? 0 : 5) && *seen == 0;
    if (*seen < 255)
        ++*seen;
    n_failed += bad;
    n_summaries += model;
    struct due *d = calloc(1, sizeof *d);
    if (d == NULL)
        fail("calloc");
    *d = (struct due){.peer = p,
                      .answer = bad     ? ANSWER_500
                                : model ? ANSWER_MODEL
                                        : ANSWER_OK,
                      .number = number,
                      .at_ns = now_ns() + delay_ns,
                      .delivery = !model && !bad};
    p->waits = true;
    *last = d;
    last = &d->next;
    return true;
}

static const char completion[] =
    "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1741569952,\"model\":\"bench\",\"choices\":[{"
    "\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"{\\\"title\\\":\\\"A talk\\\",\\\"overview\\\":"
    "\\\"Two people talk about a benchmark.\\\",\\\"emoji\\\":\\\"x\\\",\\\"category\\\":\\\"technology\\\","
    "\\\"action_items\\\":[],\\\"events\\\":[]}\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":100,"
    "\"completion_tokens\":50,\"total_tokens\":150}}";

static void due_answer(struct due *d)
{
    struct peer *p = d->peer;
    const char *body = d->answer == ANSWER_MODEL ? completion : "{}";
    char text[sizeof completion + 200];
    int n =
        snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                 d->answer == ANSWER_500 ? "500 Scripted" : "200 OK", strlen(body), body);
    p->waits = false;
    if (p->gone) {
        free(p);
        return;
    }
    if (send(p->fd, text, (size_t)n, MSG_NOSIGNAL) != n) {
        peer_close(p);
        return;
    }
    if (!d->delivery)
        return;
    if (delivered[d->number] != 0) {
        n_doubled++;
        return;
    }
    n_delivered++;
    delivered[d->number] = (double)(now_ns() - began_ns) / 1e9;
}

static void run_due(void)
{
    uint64_t now = now_ns();
    while (first != NULL && first->at_ns <= now) {
        struct due *d = first;
        first = d->next;
        if (first == NULL)
            last = &first;
        due_answer(d);
        free(d);
    }
}

static void connection_read(struct peer *p)
{
    ssize_t n = recv(p->fd, p->in + p->len, MAX_REQUEST - p->len, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || p->waits) { /* nobody pipelines here */
        struct epoll_event none = {0};
        epoll_ctl(ep, EPOLL_CTL_DEL, p->fd, &none);
        peer_close(p);
        return;
    }
    p->len += (size_t)n;
    size_t whole = request_len(p);
    if (whole > 0) {
        (void)request_take(p, whole);
        p->len = 0;
    }
}

static int by_time(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void stat_print(void)
{
    double *sorted = calloc(count + 1, sizeof *sorted);
    unsigned n = 0;
    if (sorted == NULL)
        fail("calloc");
    for (unsigned i = 0; i < count; i++) {
        if (delivered[i] != 0)
            sorted[n++] = delivered[i];
    }
    qsort(sorted, n, sizeof *sorted, by_time);
    printf("delivered=%u doubled=%u failed=%u summaries=%u places=%u p50_s=%.3f p99_s=%.3f max_s=%.3f\n", n_delivered,
           n_doubled, n_failed, n_summaries, n_places, n ? sorted[n / 2] : 0, n ? sorted[n * 99 / 100] : 0,
           n ? sorted[n - 1] : 0);
    free(sorted);
}

static void command(void)
{
    char line[80];
    if (fgets(line, sizeof line, stdin) == NULL)
        exit(0);
    if (strncmp(line, "begin", 5) == 0) {
        began_ns = now_ns();
        printf("ok\n");
    } else {
        stat_print();
    }
    fflush(stdout);
}

static void listen_on_any(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) < 0 || listen(fd, 1024) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &len) < 0)
        fail("listen");
    (void)watch(LISTENER, fd);
    printf("%u\n", (unsigned)ntohs(a.sin_port));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: enrich_peer CPU DELAY_MS COUNT\n");
        return 2;
    }
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((unsigned)atoi(argv[1]), &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0)
        fail("sched_setaffinity");
    delay_ns = (uint64_t)atoi(argv[2]) * 1000000u;
    count = (unsigned)atoi(argv[3]);
    seen_model = calloc(count + 1, 1);
    seen_hook = calloc(count + 1, 1);
    delivered = calloc(count + 1, sizeof *delivered);
    ep = epoll_create1(EPOLL_CLOEXEC);
    if (ep < 0 || seen_model == NULL || seen_hook == NULL || delivered == NULL)
        fail("enrich_peer");
    struct rlimit files = {0};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    setvbuf(stdin, NULL, _IONBF, 0);
    (void)watch(INPUT, 0);
    listen_on_any();
    for (;;) {
        struct epoll_event ev[256];
        uint64_t now = now_ns();
        int wait = first == NULL ? -1 : first->at_ns <= now ? 0 : (int)((first->at_ns - now) / 1000000u + 1);
        int n = epoll_wait(ep, ev, 256, wait);
        for (int i = 0; i < n; i++) {
            struct peer *p = ev[i].data.ptr;
            if (p->kind == LISTENER)
                accept_all(p->fd);
            else if (p->kind == CONNECTION)
                connection_read(p);
            else
                command();
        }
        run_due();
    }
}
