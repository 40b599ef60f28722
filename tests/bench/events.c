/*
 * The two ends of the benchmarks of durable events, in one process, so that one ledger tells what has become of each:
 * events are posted over kept-alive connections, and received on a port of 127.0.0.1.
 *
 *     events CPU AUTHORIZATION BYTES
 *
 * CPU -1: not pinned. AUTHORIZATION is the header's value, BYTES the length of an event's body. Prints the receiver's
 * port. On its standard input, a command a line, each answered with one line:
 *
 *     target PORT N       from now on N connections to that port of 127.0.0.1: `ok`
 *     send RATE N PATH [key]
 *                         N events, RATE a second (0: as fast as they are answered): `ok`, at once. key: each with an
 *                         Idempotency-Key, and again when the connection goes before the answer
 *     stop                no more of them: `ok`
 *     stat                what was sent and what has come, as key=value
 *     times               of the answers and of the deliveries since the last reset, in ms, each from when the event
 * was due to be sent reset               forgets the times: `ok` lost                events that were answered 202 and
 * have not come, and the number of those that came more than once, as key=value
 *
 * A delivery to a path that begins with /held is answered 500. Others are answered 200 and entered.
 */
#include "events.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

struct ledger ledger;
struct times accept_times, delivery_times;
int ep;

void fail(const char *what)
{
    perror(what);
    exit(1);
}

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void watch(struct peer *p, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = p};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, p->fd, &ev) < 0)
        fail("epoll_ctl");
}

void rewatch(struct peer *p, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = p};
    if (epoll_ctl(ep, EPOLL_CTL_MOD, p->fd, &ev) < 0)
        fail("epoll_ctl");
}

size_t message_len(char *in, size_t len, size_t *body)
{
    char *end = memmem(in, len, "\r\n\r\n", 4);
    size_t n = 0;
    if (end == NULL)
        return len >= MAX_MESSAGE ? SIZE_MAX : 0;
    for (char *line = strstr(in, "\r\n"); line < end; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, "content-length:", 15) == 0)
            n = strtoul(line + 15, NULL, 10);
    }
    *body = (size_t)(end - in) + 4;
    size_t whole = *body + n;
    return whole > MAX_MESSAGE ? SIZE_MAX : whole <= len ? whole : 0;
}

/* ------------------------------------------------------------- times */

void times_add(struct times *t, uint64_t ns)
{
    uint64_t step = ns / 100000;
    t->steps[step < TIMES_STEPS ? step : TIMES_STEPS - 1]++;
    t->n++;
    t->max_ns = ns > t->max_ns ? ns : t->max_ns;
}

static double times_quantile_ms(const struct times *t, double q)
{
    uint64_t rank = (uint64_t)((double)t->n * q), seen = 0;
    for (unsigned i = 0; i < TIMES_STEPS; i++) {
        seen += t->steps[i];
        if (seen > rank)
            return (i + 1) / 10.0;
    }
    return 0;
}

static void times_reset(struct times *t)
{
    memset(t->steps, 0, TIMES_STEPS * sizeof *t->steps);
    t->n = t->max_ns = 0;
}

static void times_print(void)
{
    const struct times *a = &accept_times, *d = &delivery_times;
    printf("accept_p50_ms=%.1f accept_p99_ms=%.1f accept_max_ms=%.1f p50_ms=%.1f p99_ms=%.1f max_ms=%.1f\n",
           times_quantile_ms(a, 0.5), times_quantile_ms(a, 0.99), (double)a->max_ns / 1e6, times_quantile_ms(d, 0.5),
           times_quantile_ms(d, 0.99), (double)d->max_ns / 1e6);
}

/* ------------------------------------------------------------- commands */

static void stat_print(void)
{
    printf("sent=%lu accepted=%lu refused=%lu unknown=%lu late=%lu flying=%u connected=%u over=%d last_status=%d "
           "arrived=%lu distinct=%lu doubled=%lu strange=%lu renamed=%lu held=%lu now_s=%.6f\n",
           load.sent, load.accepted, load.refused, load.unknown, load.late, load.flying, load.connected, load_is_over(),
           load.last_status, sink.arrived, sink.distinct, sink.doubled, sink.unknown, sink.renamed, sink.held,
           (double)now_ns() / 1e9);
}

/* The ledger's two sides against each other. */
static void lost_print(void)
{
    unsigned long accepted = 0, lost = 0, unasked = 0, more = 0;
    unsigned first = 0, most = 0;
    for (uint32_t i = 0; i < ledger.n; i++) {
        unsigned came = ledger.arrivals[i];
        if (ledger.fate[i] == FATE_ACCEPTED) {
            accepted++;
            if (came == 0 && lost++ == 0)
                first = i;
        }
        unasked += ledger.fate[i] == FATE_REFUSED && came > 0;
        more += came > 1 ? came - 1 : 0;
        most = came > most ? came : most;
    }
    printf("accepted=%lu lost=%lu first_lost=%u refused_but_came=%lu doubled=%lu most=%u\n", accepted, lost, first,
           unasked, more, most);
}

static void command(const char *line)
{
    char path[1024], key[4] = "";
    unsigned port, n;
    double rate;
    bool answered = true;

    if (strcmp(line, "stat") == 0)
        stat_print();
    else if (strcmp(line, "times") == 0)
        times_print();
    else if (strcmp(line, "lost") == 0)
        lost_print();
    else
        answered = false;
    if (!answered) {
        if (sscanf(line, "target %u %u", &port, &n) == 2)
            load_target(port, n);
        else if (sscanf(line, "send %lf %u %1023s %3s", &rate, &n, path, key) >= 3)
            load_begin(rate, n, path, strcmp(key, "key") == 0);
        else if (strcmp(line, "stop") == 0)
            load_stop();
        else if (strcmp(line, "reset") == 0)
            times_reset(&accept_times), times_reset(&delivery_times);
        else
            fail(line);
        puts("ok");
    }
    fflush(stdout);
}

static void read_commands(void)
{
    static char in[4096];
    static size_t len;
    ssize_t n = read(0, in + len, sizeof in - 1 - len);
    if (n <= 0)
        exit(0);
    len += (size_t)n;
    in[len] = '\0';
    char *line = in, *end;
    while ((end = strchr(line, '\n')) != NULL) {
        *end = '\0';
        command(line);
        line = end + 1;
    }
    len -= (size_t)(line - in);
    memmove(in, line, len + 1);
}

/* ------------------------------------------------------------- the loop */

static void *space(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        fail("mmap");
    return p;
}

static void prepare(int cpu)
{
    struct rlimit files = {0};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((unsigned)cpu, &set);
        if (sched_setaffinity(0, sizeof set, &set) < 0)
            fail("sched_setaffinity");
    }
    ledger.due_ns = space(EVENTS_MAX * sizeof *ledger.due_ns);
    ledger.id = space(EVENTS_MAX * sizeof *ledger.id);
    ledger.fate = space(EVENTS_MAX);
    ledger.arrivals = space(EVENTS_MAX);
    accept_times.steps = space(TIMES_STEPS * sizeof(uint32_t));
    delivery_times.steps = space(TIMES_STEPS * sizeof(uint32_t));
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fputs("usage: events CPU AUTHORIZATION BYTES\n", stderr);
        return 2;
    }
    prepare(atoi(argv[1]));
    ep = epoll_create1(EPOLL_CLOEXEC);
    int tick = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    const struct itimerspec each = {{0, 1000000}, {0, 1000000}};
    struct peer timer = {KIND_TIMER, tick}, input = {KIND_INPUT, 0};
    if (ep < 0 || tick < 0 || timerfd_settime(tick, 0, &each, NULL) < 0)
        fail("events");
    watch(&timer, EPOLLIN);
    watch(&input, EPOLLIN);
    load_init(argv[2], (unsigned)atoi(argv[3]));
    printf("%u\n", sink_listen());
    fflush(stdout);
    for (;;) {
        struct epoll_event ev[256];
        int n = epoll_wait(ep, ev, 256, -1);
        bool asked = false;
        for (int i = 0; i < n; i++) {
            struct peer *p = ev[i].data.ptr;
            if (p->kind == KIND_POST)
                load_ready(p, ev[i].events);
            else if (p->kind == KIND_LISTENER)
                sink_accept(p);
            else if (p->kind == KIND_RECEIVER)
                sink_ready(p);
            else if (p->kind == KIND_INPUT)
                asked = true;
            else if (read(p->fd, &(uint64_t){0}, sizeof(uint64_t)) > 0)
                load_tick();
        }
        if (asked) /* may close connections: only once no event of this batch can name them */
            read_commands();
    }
}
