/*
 * A provider of the Deepgram protocol for the benchmarks, as cheap as one can be: takes streams, says what was "heard"
 * once for each second of audio, and measures how long each marked frame was on its way.
 *
 *     listen_sink CPU [mute]      prints its port; CPU -1: not pinned
 *
 * With `mute` it is a provider that hangs: every second connection is accepted and its upgrade never answered; the
 * others are upgraded, and never told anything again, not even after CloseStream.
 *
 * On its standard input, a command a line; each is answered with one line:
 *     stat      streams=N live=N bytes=N frames=N repeats=N gaps=N finalize=N keepalive=N results=N refused=N
 *     reset     ok: what was measured of latency is forgotten
 *     latency   n=N p50_ms=F p99_ms=F max_ms=F: from a client's send to the frame's last byte here
 * frames are marked ones, each counted once; gaps those missing between two, repeats those that came again.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stddef.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wsload.h"

#define MAX_HEAD 4096u
#define MAX_TEXT 256u
#define SECOND_BYTES 32000u
#define MAX_MARKED 65536u
/* At most a turn in so long: a provider is not on the same machine, and a sender on this one would pay for waking it
 * with each frame. What it adds to the latency counts as the sender's. */
#define GATHER_NS UINT64_C(500000)
#define SAMPLES_US 5000000u /* the longest that is told apart */

struct stream {
    int fd;
    bool upgraded, hangs, mute, closing;
    size_t head_len;
    char *head; /* until the upgrade */
    struct ws_in in;
    uint64_t audio, told; /* bytes, and of them those in results */
    struct mark mark;
    uint8_t text[MAX_TEXT];
    size_t text_len;
};

static struct {
    unsigned long streams, live, bytes, frames, repeats, gaps, finalize, keepalive, results, refused;
} total;
static uint32_t next_frame[MAX_MARKED]; /* of each marked session, the first that has not come */
static uint32_t histogram[SAMPLES_US];
static unsigned long n_samples;
static uint64_t max_ns;
static int ep, listener;
static bool all_mute;

static void stream_free(struct stream *s)
{
    close(s->fd);
    free(s->head);
    free(s);
    total.live--;
}

static bool stream_send(struct stream *s, const void *data, size_t len)
{
    if (send(s->fd, data, len, MSG_NOSIGNAL) == (ssize_t)len)
        return true;
    total.refused++; /* a client that does not read: its buffers hold minutes of results */
    stream_free(s);
    return false;
}

static bool stream_text(struct stream *s, const char *text, size_t len)
{
    uint8_t frame[2048];
    return stream_send(s, frame, ws_frame(frame, 1, text, len, NULL));
}

/* What was heard from the bytes told so far to `until`. Three of four have words, as speech has pauses. */
static bool stream_result(struct stream *s, uint64_t until, bool from_finalize)
{
    static const char *const phrase[3][3] = {
        {"The", "quick", "fox"}, {"jumps", "over", "it"}, {"and", "runs", "away."}};
    char text[1500];
    double start = (double)s->told / SECOND_BYTES, duration = (double)(until - s->told) / SECOND_BYTES;
    unsigned turn = (unsigned)(s->told / SECOND_BYTES % 4);
    bool words = turn < 3 && until > s->told;
    int n = snprintf(text, sizeof text,
                     "{\"type\":\"Results\",\"channel_index\":[0,1],\"duration\":%.3f,\"start\":%.3f,\"is_final\":true,"
                     "\"speech_final\":%s,%s\"channel\":{\"alternatives\":[{\"transcript\":\"%s%s%s%s%s\","
                     "\"confidence\":0.98,\"words\":[",
                     duration, start, turn == 2 ? "true" : "false", from_finalize ? "\"from_finalize\":true," : "",
                     words ? phrase[turn][0] : "", words ? " " : "", words ? phrase[turn][1] : "", words ? " " : "",
                     words ? phrase[turn][2] : "");
    for (unsigned i = 0; words && i < 3; i++)
        n += snprintf(text + n, sizeof text - (size_t)n,
                      "%s{\"word\":\"%s\",\"start\":%.3f,\"end\":%.3f,\"confidence\":0.97,\"punctuated_word\":\"%s\","
                      "\"speaker\":0}",
                      i ? "," : "", phrase[turn][i], start + duration * i / 3, start + duration * (i + 1) / 3,
                      phrase[turn][i]);
    n += snprintf(text + n, sizeof text - (size_t)n,
                  "]}]},\"metadata\":{\"request_id\":\"00000000-0000-0000-0000-000000000000\",\"model_uuid\":"
                  "\"00000000-0000-0000-0000-000000000001\",\"model_info\":{\"name\":\"general-nova-3\",\"version\":"
                  "\"2024-12-20.0\",\"arch\":\"nova-3\"}}}");
    s->told = until;
    total.results++;
    return stream_text(s, text, (size_t)n);
}

/* ------------------------------------------------------------- what clients send */

static void frame_came(const struct mark *m)
{
    if (m->magic != MARK_MAGIC || m->session >= MAX_MARKED)
        return;
    uint32_t *next = &next_frame[m->session];
    if (m->frame < *next) {
        total.repeats++;
        return;
    }
    total.gaps += m->frame - *next;
    total.frames++;
    *next = m->frame + 1;
    uint64_t took = now_ns() - m->sent_ns, us = took / 1000;
    histogram[us < SAMPLES_US ? us : SAMPLES_US - 1]++;
    n_samples++;
    if (took > max_ns)
        max_ns = took;
}

static bool on_audio(struct stream *s, const struct ws_in *w, const uint8_t *data, size_t n)
{
    total.bytes += n;
    for (size_t i = 0; i < n;) {
        size_t at = (size_t)(s->audio % FRAME_BYTES), left = FRAME_BYTES - at, take = n - i < left ? n - i : left;
        if (at < sizeof s->mark) { /* only the mark is unmasked */
            size_t m = sizeof s->mark - at < take ? sizeof s->mark - at : take;
            uint8_t *to = (uint8_t *)&s->mark + at;
            memcpy(to, data + i, m);
            ws_unmask(w, w->at + i, to, m);
        }
        s->audio += take;
        i += take;
        if (take == left)
            frame_came(&s->mark);
    }
    while (!s->mute && s->audio - s->told >= SECOND_BYTES) {
        if (!stream_result(s, s->told + SECOND_BYTES, false))
            return false;
    }
    return true;
}

static bool on_text(struct stream *s)
{
    static const char metadata[] = "{\"type\":\"Metadata\",\"request_id\":\"00000000-0000-0000-0000-000000000000\","
                                   "\"created\":\"2025-01-01T00:00:00.000Z\",\"duration\":1.0,\"channels\":1}";
    static const uint8_t goodbye[] = {0x88, 2, 0x03, 0xe8};
    if (memmem(s->text, s->text_len, "Finalize", 8) != NULL) {
        total.finalize++;
        return s->mute || stream_result(s, s->audio, true);
    }
    if (memmem(s->text, s->text_len, "KeepAlive", 9) != NULL) {
        total.keepalive++;
        return true;
    }
    if (memmem(s->text, s->text_len, "CloseStream", 11) == NULL || s->mute || s->closing)
        return true;
    s->closing = true;
    return (s->audio == s->told || stream_result(s, s->audio, false)) &&
           stream_text(s, metadata, sizeof metadata - 1) && stream_send(s, goodbye, sizeof goodbye);
}

static bool on_piece(void *arg, struct ws_in *w, uint8_t *data, size_t n)
{
    struct stream *s = arg;
    if (w->op == 2 || (w->op == 0 && w->len > MAX_TEXT))
        return on_audio(s, w, data, n);
    if (w->at == 0)
        s->text_len = 0;
    size_t room = MAX_TEXT - s->text_len, keep = n < room ? n : room;
    memcpy(s->text + s->text_len, data, keep);
    ws_unmask(w, w->at, s->text + s->text_len, keep);
    s->text_len += keep;
    if (!ws_last(w, n))
        return true;
    uint8_t pong[140];
    switch (w->op) {
    case 1:
        return on_text(s);
    case 8:
        if (!s->closing && !s->mute && !stream_send(s, pong, ws_frame(pong, 8, s->text, s->text_len, NULL)))
            return false;
        stream_free(s);
        return false;
    case 9:
        return s->mute ||
               stream_send(s, pong, ws_frame(pong, 10, s->text, s->text_len < 125 ? s->text_len : 125, NULL));
    default:
        return true;
    }
}

/* ------------------------------------------------------------- the upgrade */

static bool upgrade_answer(struct stream *s)
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; /* RFC 6455, 1.3 */
    char in[128], answer[256];
    unsigned char digest[SHA_DIGEST_LENGTH], accept[64];
    const char *key = strcasestr(s->head, "\r\nsec-websocket-key:");
    if (key == NULL || sscanf(key + 20, " %60[^ \r\n]", in) != 1) {
        stream_free(s);
        return false;
    }
    strcat(in, guid);
    SHA1((unsigned char *)in, strlen(in), digest);
    EVP_EncodeBlock(accept, digest, sizeof digest);
    int n = snprintf(answer, sizeof answer,
                     "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Accept: %s\r\n\r\n",
                     accept);
    free(s->head);
    s->head = NULL;
    s->upgraded = true;
    return stream_send(s, answer, (size_t)n);
}

static void stream_read(struct stream *s)
{
    static uint8_t buf[256 * 1024];
    uint8_t *data = buf;
    ssize_t n = recv(s->fd, buf, sizeof buf, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        stream_free(s);
        return;
    }
    if (s->hangs)
        return;
    if (!s->upgraded) {
        if ((size_t)n >= MAX_HEAD - s->head_len) {
            stream_free(s);
            return;
        }
        memcpy(s->head + s->head_len, buf, (size_t)n);
        size_t before = s->head_len;
        s->head_len += (size_t)n;
        s->head[s->head_len] = '\0';
        char *end = strstr(s->head, "\r\n\r\n");
        if (end == NULL)
            return;
        size_t used = (size_t)(end - s->head) + 4 - before;
        if (!upgrade_answer(s))
            return;
        data += used;
        n -= (ssize_t)used;
    }
    (void)ws_feed(&s->in, data, (size_t)n, on_piece, s);
}

static void accept_all(void)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct stream *s = calloc(1, sizeof *s);
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = s};
        if (s == NULL || (s->head = malloc(MAX_HEAD)) == NULL)
            fail("malloc");
        s->fd = fd;
        s->mute = all_mute;
        s->hangs = all_mute && total.streams % 2 == 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
            fail("epoll_ctl");
        total.streams++;
        total.live++;
    }
}

/* ------------------------------------------------------------- commands */

static double quantile_ms(double q)
{
    unsigned long rank = (unsigned long)(q * (double)n_samples), sum = 0;
    for (unsigned us = 0; us < SAMPLES_US; us++) {
        sum += histogram[us];
        if (sum > rank)
            return us / 1000.;
    }
    return 0;
}

static void commands(void)
{
    char *line;
    while ((line = command_next()) != NULL) {
        if (strcmp(line, "reset") == 0) {
            memset(histogram, 0, sizeof histogram);
            n_samples = 0;
            max_ns = 0;
            printf("ok\n");
        } else if (strcmp(line, "latency") == 0) {
            printf("n=%lu p50_ms=%.3f p99_ms=%.3f max_ms=%.3f\n", n_samples, quantile_ms(0.5), quantile_ms(0.99),
                   (double)max_ns / 1e6);
        } else {
            printf("streams=%lu live=%lu bytes=%lu frames=%lu repeats=%lu gaps=%lu finalize=%lu keepalive=%lu "
                   "results=%lu refused=%lu\n",
                   total.streams, total.live, total.bytes, total.frames, total.repeats, total.gaps, total.finalize,
                   total.keepalive, total.results, total.refused);
        }
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    struct epoll_event on_listener = {.events = EPOLLIN, .data.ptr = &listener},
                       on_input = {.events = EPOLLIN, .data.ptr = NULL};
    files_raise();
    cpu_pin(argc > 1 ? atoi(argv[1]) : -1);
    all_mute = argc > 2 && strcmp(argv[2], "mute") == 0;
    ep = epoll_create1(EPOLL_CLOEXEC);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (ep < 0 || listener < 0 || bind(listener, (struct sockaddr *)&a, len) < 0 || listen(listener, 4096) < 0 ||
        getsockname(listener, (struct sockaddr *)&a, &len) < 0 || fcntl(0, F_SETFL, O_NONBLOCK) < 0 ||
        epoll_ctl(ep, EPOLL_CTL_ADD, listener, &on_listener) < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, 0, &on_input) < 0)
        fail("listen_sink");
    printf("%u\n", (unsigned)ntohs(a.sin_port));
    fflush(stdout);
    uint64_t turn_ns = now_ns();
    for (;;) {
        struct epoll_event ev[256];
        uint64_t passed = now_ns() - turn_ns;
        if (passed < GATHER_NS) {
            const struct timespec rest = {.tv_sec = 0, .tv_nsec = (long)(GATHER_NS - passed)};
            nanosleep(&rest, NULL);
        }
        int n = epoll_wait(ep, ev, 256, -1);
        turn_ns = now_ns();
        for (int i = 0; i < n; i++) {
            if (ev[i].data.ptr == &listener)
                accept_all();
            else if (ev[i].data.ptr == NULL)
                commands();
            else
                stream_read(ev[i].data.ptr);
        }
    }
}
