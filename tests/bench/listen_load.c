/*
 * Voice clients for the benchmarks: sessions that each stream recorded speech in real time, a frame of 100 ms at a
 * time, every one at a moment of its own within those 100 ms.
 *
 *     listen_load ADDRESS PORT CPU KEY SPEECH FIRST [mark]
 *
 * KEY is the admin key, SPEECH a file of 16 kHz, 16 bit samples; each session begins elsewhere in it, and starts again
 * at its end. FIRST is the number of the first session, which its uid is made of. With `mark` each frame begins with a
 * mark (wsload.h). Payloads are masked beforehand, so that a frame costs one system call and little else. CPU -1: not
 * pinned.
 *
 * On its standard input, a command a line; each is answered with one line:
 *     open N RATE         N more sessions, RATE a second: `opened OK FAILED`, when the last has succeeded or failed
 *     leave HOW FROM TO   those sessions (TO is not among them) `close` with a Close frame, `reset` their connections
 * or fall `silent` with the connection open: `left N` stat                frames=N open=N ended=N ready=N segments=N
 * pings=N blocked=N late_p99_ms=F late_max_ms=F reset               ok: the times are forgotten stop                ok:
 * no session sends any more; all stay late: how long after its time a frame was sent; blocked: frames that the socket
 * did not take at once.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "wsload.h"

#define MAX_SESSIONS 65536u
#define SLOTS 1000u /* of a frame's 100 ms */
#define SLOT_NS (FRAME_NS / SLOTS)
#define HEADER 8u /* of a masked frame of FRAME_BYTES */
#define MAX_ANSWER 1024u
#define LATE_US 1000000u

enum state { FREE, CONNECTING, UPGRADING, OPEN, SILENT, CLOSING, ENDED };
struct session {
    enum state state;
    int fd;
    uint32_t number, frame;
    struct session *next; /* in its slot */
    uint8_t *rest;        /* what the socket has not taken yet */
    size_t rest_len, answer_len;
    char answer[MAX_ANSWER];
    struct ws_in in;
    uint8_t first; /* of the text under way */
    uint8_t ping[125];
};

static const uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};
static struct session *sessions[MAX_SESSIONS];
static unsigned n_sessions, n_wanted, n_settled, n_failed, first_number;
static double open_rate;
static uint64_t open_began_ns;
static unsigned open_first;
static struct session *slot[SLOTS];
static uint64_t slot_at; /* the next one to run: its time is slot_at * SLOT_NS */
static uint8_t *speech;  /* masked */
static size_t blocks;
static bool marked, stopped;
static const char *key;
static struct sockaddr_in target;
static int ep;
static struct {
    unsigned long frames, open, ended, ready, segments, pings, blocked;
} total;
static uint32_t late[LATE_US];
static unsigned long n_late;
static uint64_t late_max_ns;

/* ------------------------------------------------------------- ends */

static void watch(struct session *s, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = s};
    if (epoll_ctl(ep, EPOLL_CTL_MOD, s->fd, &ev) < 0)
        fail("epoll_ctl");
}

static void settle(bool ok)
{
    n_settled++;
    n_failed += !ok;
    if (n_settled == n_wanted) {
        printf("opened %u %u\n", n_wanted - open_first - n_failed, n_failed);
        fflush(stdout);
    }
}

static void session_end(struct session *s)
{
    enum state was = s->state;
    if (was == ENDED)
        return;
    close(s->fd);
    s->fd = -1;
    s->state = ENDED;
    free(s->rest);
    s->rest = NULL;
    if (was == CONNECTING || was == UPGRADING) {
        settle(false);
        return;
    }
    total.open--;
    total.ended++;
}

/* ------------------------------------------------------------- sending */

static void session_rest(struct session *s)
{
    ssize_t n = send(s->fd, s->rest, s->rest_len, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        session_end(s);
        return;
    }
    if (n <= 0)
        return;
    s->rest_len -= (size_t)n;
    memmove(s->rest, s->rest + n, s->rest_len);
    if (s->rest_len > 0)
        return;
    free(s->rest);
    s->rest = NULL;
    watch(s, EPOLLIN);
}

/* Sends, and keeps what the socket does not take. */
static void session_send(struct session *s, struct iovec *iov, int n_iov)
{
    size_t len = 0;
    for (int i = 0; i < n_iov; i++)
        len += iov[i].iov_len;
    ssize_t sent = 0;
    if (s->rest == NULL) {
        struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n_iov};
        sent = sendmsg(s->fd, &m, MSG_NOSIGNAL);
        if (sent == (ssize_t)len)
            return;
        if (sent < 0 && errno != EAGAIN) {
            session_end(s);
            return;
        }
        sent = sent < 0 ? 0 : sent;
        watch(s, EPOLLIN | EPOLLOUT);
    }
    total.blocked++;
    s->rest = realloc(s->rest, s->rest_len + len - (size_t)sent);
    if (s->rest == NULL)
        fail("realloc");
    for (int i = 0; i < n_iov; i++) {
        size_t skip = (size_t)sent < iov[i].iov_len ? (size_t)sent : iov[i].iov_len;
        memcpy(s->rest + s->rest_len, (char *)iov[i].iov_base + skip, iov[i].iov_len - skip);
        s->rest_len += iov[i].iov_len - skip;
        sent -= (ssize_t)skip;
    }
}

static void session_send_frame(struct session *s, unsigned op, const void *data, size_t len)
{
    uint8_t frame[140];
    struct iovec iov = {frame, ws_frame(frame, op, data, len, mask)};
    session_send(s, &iov, 1);
}

static void session_audio(struct session *s, uint64_t due_ns)
{
    uint8_t head[HEADER + sizeof(struct mark)] = {0x82,    0xfe,    FRAME_BYTES >> 8, FRAME_BYTES & 255,
                                                  mask[0], mask[1], mask[2],          mask[3]};
    uint8_t *block = speech + (s->number * 7919u + s->frame) % blocks * FRAME_BYTES;
    uint64_t now = now_ns(), behind = now > due_ns ? now - due_ns : 0;
    size_t mark_len = marked ? sizeof(struct mark) : 0;
    if (marked) {
        struct mark m = {MARK_MAGIC, s->number, s->frame, 0, now};
        memcpy(head + HEADER, &m, sizeof m);
        for (size_t i = 0; i < sizeof m; i++)
            head[HEADER + i] ^= mask[i & 3];
    }
    struct iovec iov[2] = {{head, HEADER + mark_len}, {block + mark_len, FRAME_BYTES - mark_len}};
    s->frame++;
    total.frames++;
    late[behind / 1000 < LATE_US ? behind / 1000 : LATE_US - 1]++;
    n_late++;
    if (behind > late_max_ns)
        late_max_ns = behind;
    session_send(s, iov, 2);
}

/* Every frame that is due, in the order of their times. */
static void run_slots(void)
{
    uint64_t now = now_ns() / SLOT_NS;
    for (; slot_at <= now; slot_at++) {
        for (struct session *s = slot[slot_at % SLOTS]; s != NULL && !stopped; s = s->next) {
            if (s->state == OPEN)
                session_audio(s, slot_at * SLOT_NS);
        }
    }
}

/* ------------------------------------------------------------- receiving */

static bool on_piece(void *arg, struct ws_in *w, uint8_t *data, size_t n)
{
    struct session *s = arg;
    if (w->at == 0 && n > 0)
        s->first = data[0];
    if (w->op == 9 && w->len <= sizeof s->ping)
        memcpy(s->ping + w->at, data, n);
    if (w->op == 1 && s->first == '{' && memmem(data, n, "\"ready\"", 7) != NULL)
        total.ready++;
    if (!ws_last(w, n))
        return true;
    switch (w->op) {
    case 1:
        total.segments += s->first == '[';
        total.pings += s->first == 'p';
        break;
    case 8:
        if (s->state == OPEN)
            session_send_frame(s, 8, "\x03\xe8", 2);
        session_end(s);
        break;
    case 9:
        if (s->state == OPEN)
            session_send_frame(s, 10, s->ping, w->len);
        break;
    default:
        break;
    }
    return s->state != ENDED;
}

static void session_opened(struct session *s)
{
    /* Wherever a number of sessions ends, their moments lie evenly. */
    double at = s->number * 0.6180339887498949;
    unsigned k = (unsigned)((at - (double)(uint64_t)at) * SLOTS);
    s->state = OPEN;
    s->next = slot[k];
    slot[k] = s;
    total.open++;
    settle(true);
}

static void session_read(struct session *s)
{
    static uint8_t buf[256 * 1024];
    uint8_t *data = buf;
    ssize_t n = recv(s->fd, buf, sizeof buf, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        session_end(s);
        return;
    }
    if (s->state == SILENT)
        return;
    if (s->state == UPGRADING) {
        size_t before = s->answer_len, room = MAX_ANSWER - 1 - before, take = (size_t)n < room ? (size_t)n : room;
        memcpy(s->answer + before, buf, take);
        s->answer_len += take;
        s->answer[s->answer_len] = '\0';
        char *end = strstr(s->answer, "\r\n\r\n");
        if (end == NULL && s->answer_len < MAX_ANSWER - 1)
            return;
        if (end == NULL || strncmp(s->answer, "HTTP/1.1 101 ", 13) != 0) {
            if (n_failed == 0)
                fprintf(stderr, "listen_load: refused: %.300s\n", s->answer);
            session_end(s);
            return;
        }
        size_t used = (size_t)(end - s->answer) + 4 - before;
        data += used;
        n -= (ssize_t)used;
        session_opened(s);
    }
    (void)ws_feed(&s->in, data, (size_t)n, on_piece, s);
}

static void session_upgrade(struct session *s)
{
    char req[1024];
    int error = 0;
    socklen_t len = sizeof error;
    getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &len);
    int n = snprintf(req, sizeof req,
                     "GET /v4/listen?codec=pcm16&sample_rate=16000&language=en HTTP/1.1\r\nHost: bench\r\n"
                     "Authorization: Bearer %sbench-%06u\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                     "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                     key, s->number);
    if (error != 0 || send(s->fd, req, (size_t)n, MSG_NOSIGNAL) != n) {
        if (n_failed == 0)
            fprintf(stderr, "listen_load: no connection: %s\n", strerror(error != 0 ? error : errno));
        session_end(s);
        return;
    }
    s->state = UPGRADING;
    watch(s, EPOLLIN);
}

static void session_open(void)
{
    struct session *s = calloc(1, sizeof *s);
    struct epoll_event ev = {.events = EPOLLOUT, .data.ptr = s};
    int one = 1;
    if (s == NULL)
        fail("calloc");
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        fail("socket");
    s->state = CONNECTING;
    s->number = first_number + n_sessions;
    sessions[n_sessions++] = s;
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(s->fd, (struct sockaddr *)&target, sizeof target) < 0 && errno != EINPROGRESS)
        fail("connect");
    if (epoll_ctl(ep, EPOLL_CTL_ADD, s->fd, &ev) < 0)
        fail("epoll_ctl");
}

static void on_session(struct session *s, uint32_t events)
{
    if (s->state == CONNECTING) {
        session_upgrade(s);
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && s->state != ENDED)
        session_read(s);
    if (events & EPOLLOUT && s->state != ENDED && s->rest != NULL)
        session_rest(s);
}

/* ------------------------------------------------------------- commands */

static double late_ms(double q)
{
    unsigned long rank = (unsigned long)(q * (double)n_late), sum = 0;
    for (unsigned us = 0; us < LATE_US; us++) {
        sum += late[us];
        if (sum > rank)
            return us / 1000.;
    }
    return 0;
}

static unsigned leave(const char *how, unsigned from, unsigned to)
{
    unsigned left = 0;
    for (unsigned i = from; i < to && i < n_sessions; i++) {
        struct session *s = sessions[i];
        if (s->state != OPEN && s->state != SILENT)
            continue;
        left++;
        if (strcmp(how, "close") == 0) {
            session_send_frame(s, 8, "\x03\xe8", 2);
            if (s->state != ENDED)
                s->state = CLOSING;
        } else if (strcmp(how, "reset") == 0) {
            const struct linger now = {.l_onoff = 1, .l_linger = 0};
            setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
            session_end(s);
        } else {
            s->state = SILENT;
        }
    }
    return left;
}

static void commands(void)
{
    char *line, how[16];
    unsigned n, from, to;
    double rate;
    while ((line = command_next()) != NULL) {
        if (sscanf(line, "open %u %lf", &n, &rate) == 2 && n > 0 && n_sessions + n <= MAX_SESSIONS) {
            open_first = n_settled = n_sessions;
            n_failed = 0;
            n_wanted = n_sessions + n;
            open_rate = rate;
            open_began_ns = now_ns();
        } else if (sscanf(line, "leave %15s %u %u", how, &from, &to) == 3) {
            printf("left %u\n", leave(how, from, to));
        } else if (strcmp(line, "stat") == 0) {
            printf("frames=%lu open=%lu ended=%lu ready=%lu segments=%lu pings=%lu blocked=%lu late_p99_ms=%.3f "
                   "late_max_ms=%.3f\n",
                   total.frames, total.open, total.ended, total.ready, total.segments, total.pings, total.blocked,
                   late_ms(0.99), (double)late_max_ns / 1e6);
        } else if (strcmp(line, "reset") == 0) {
            memset(late, 0, sizeof late);
            n_late = 0;
            late_max_ns = 0;
            printf("ok\n");
        } else if (strcmp(line, "stop") == 0) {
            stopped = true;
            printf("ok\n");
        } else {
            printf("not understood: %s\n", line);
        }
        fflush(stdout);
    }
}

static void speech_load(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        fail(path);
    blocks = (size_t)st.st_size / FRAME_BYTES;
    speech = malloc(blocks * FRAME_BYTES + 1);
    if (blocks == 0 || speech == NULL || read(fd, speech, blocks * FRAME_BYTES) != (ssize_t)(blocks * FRAME_BYTES))
        fail("speech");
    close(fd);
    for (size_t i = 0; i < blocks * FRAME_BYTES; i++)
        speech[i] ^= mask[i & 3];
}

/* The next slot with sessions in it, and the next connection to open. */
static struct timespec wait_time(void)
{
    uint64_t now = now_ns(), at = now + 20 * SLOT_NS;
    for (unsigned i = 0; i < 20; i++) {
        if (slot[(slot_at + i) % SLOTS] != NULL) {
            at = (slot_at + i) * SLOT_NS;
            break;
        }
    }
    uint64_t left = at > now ? at - now : 0;
    return (struct timespec){.tv_sec = 0, .tv_nsec = (long)left};
}

int main(int argc, char **argv)
{
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};
    if (argc < 7) {
        fprintf(stderr, "usage: listen_load ADDRESS PORT CPU KEY SPEECH FIRST [mark]\n");
        return 2;
    }
    files_raise();
    prctl(PR_SET_TIMERSLACK, 1000ul);
    target = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &target.sin_addr) != 1)
        fail(argv[1]);
    cpu_pin(atoi(argv[3]));
    key = argv[4];
    speech_load(argv[5]);
    first_number = (unsigned)atoi(argv[6]);
    marked = argc > 7;
    ep = epoll_create1(EPOLL_CLOEXEC);
    if (ep < 0 || fcntl(0, F_SETFL, O_NONBLOCK) < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, 0, &input) < 0)
        fail("listen_load");
    slot_at = now_ns() / SLOT_NS + 1;
    for (;;) {
        struct epoll_event ev[256];
        struct timespec wait = wait_time();
        int n = epoll_pwait2(ep, ev, 256, &wait, NULL);
        run_slots();
        for (int i = 0; i < n; i++) {
            if (ev[i].data.ptr != NULL)
                on_session(ev[i].data.ptr, ev[i].events);
            else
                commands();
        }
        while (n_sessions < n_wanted && n_sessions - open_first < (double)(now_ns() - open_began_ns) / 1e9 * open_rate)
            session_open();
    }
}
