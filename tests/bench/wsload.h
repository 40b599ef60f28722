/*
 * What the two ends of the benchmark `listen` share: the frame of audio with its mark, a WebSocket reader that never
 * copies, and the small things of an epoll program. One thread each; whatever fails ends the program.
 */
#ifndef OMID_BENCH_WSLOAD_H
#define OMID_BENCH_WSLOAD_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

/* 100 ms at 16 kHz, 16 bit. */
#define FRAME_BYTES 3200u
#define FRAME_NS UINT64_C(100000000)

/* The first bytes of a frame's audio where the benchmark marks it: audio passes a relay of pcm16 unchanged, so the
 * other end can tell whose frame it is, which one, and when it was sent. */
#define MARK_MAGIC UINT32_C(0x6d61726b)
struct mark {
    uint32_t magic, session, frame, zero;
    uint64_t sent_ns; /* CLOCK_MONOTONIC, which both ends share */
};

static inline void fail(const char *what)
{
    perror(what);
    exit(1);
}

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static inline void files_raise(void)
{
    struct rlimit files = {0};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

static inline void cpu_pin(int cpu)
{
    cpu_set_t set;
    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0)
        fail("sched_setaffinity");
}

/* Lines of commands on the standard input: a whole one per call, NULL when there is none yet. Ends the program with
 * the input. */
static inline char *command_next(void)
{
    static char buf[4096];
    static size_t len, taken;
    memmove(buf, buf + taken, len - taken);
    len -= taken;
    taken = 0;
    for (;;) {
        char *nl = memchr(buf, '\n', len);
        if (nl != NULL) {
            *nl = '\0';
            taken = (size_t)(nl - buf) + 1;
            return buf;
        }
        ssize_t n = len < sizeof buf ? read(0, buf + len, sizeof buf - len) : 0;
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return NULL;
        if (n <= 0)
            exit(0);
        len += (size_t)n;
    }
}

/* ------------------------------------------------------------- frames, as they come */

struct ws_in {
    uint8_t head[14], head_len, head_need;
    uint8_t op;
    bool masked;
    uint8_t mask[4];
    uint64_t len, at; /* of the payload under way */
};

/* A piece of a payload: `n` bytes as they came at `data`, from w->at on. Called once with n == 0 for an empty one.
 * false: the connection is gone, and the reader with it. */
typedef bool (*ws_piece_fn)(void *arg, struct ws_in *w, uint8_t *data, size_t n);

static inline void ws_unmask(const struct ws_in *w, uint64_t at, uint8_t *data, size_t n)
{
    for (size_t i = 0; w->masked && i < n; i++)
        data[i] ^= w->mask[(at + i) & 3];
}

/* Is the piece of n bytes from w->at on the payload's last? */
static inline bool ws_last(const struct ws_in *w, size_t n)
{
    return w->at + n == w->len;
}

static inline bool ws_feed(struct ws_in *w, uint8_t *data, size_t n, ws_piece_fn piece, void *arg)
{
    size_t i = 0;
    while (i < n) {
        if (w->head_need == 0)
            w->head_need = 2;
        if (w->head_len < w->head_need) {
            w->head[w->head_len++] = data[i++];
            if (w->head_len == 2) {
                unsigned len7 = w->head[1] & 127;
                w->masked = w->head[1] & 128;
                w->head_need = (uint8_t)(2 + (len7 == 126 ? 2 : len7 == 127 ? 8 : 0) + (w->masked ? 4 : 0));
            }
            if (w->head_len < w->head_need)
                continue;
            unsigned len7 = w->head[1] & 127, bytes = len7 == 126 ? 2 : len7 == 127 ? 8 : 0;
            w->op = w->head[0] & 15;
            w->len = bytes ? 0 : len7;
            for (unsigned k = 0; k < bytes; k++)
                w->len = w->len << 8 | w->head[2 + k];
            memcpy(w->mask, w->head + 2 + bytes, w->masked ? 4 : 0);
            w->at = 0;
            if (w->len > 0)
                continue;
        }
        size_t take = w->len - w->at < n - i ? (size_t)(w->len - w->at) : n - i;
        bool last = ws_last(w, take);
        if (!piece(arg, w, data + i, take))
            return false;
        w->at += take;
        i += take;
        if (last)
            w->head_len = w->head_need = 0;
    }
    return true;
}

/* A frame of at most 65,535 bytes of payload; mask NULL: none. The bytes written to out (14 + len). */
static inline size_t ws_frame(uint8_t *out, unsigned op, const void *data, size_t len, const uint8_t *mask)
{
    size_t n = 2;
    out[0] = (uint8_t)(0x80 | op);
    out[1] = (uint8_t)((mask ? 0x80 : 0) | (len < 126 ? len : 126));
    if (len >= 126) {
        out[n++] = (uint8_t)(len >> 8);
        out[n++] = (uint8_t)len;
    }
    if (mask) {
        memcpy(out + n, mask, 4);
        n += 4;
    }
    for (size_t i = 0; i < len; i++)
        out[n + i] = (uint8_t)(((const uint8_t *)data)[i] ^ (mask ? mask[i & 3] : 0));
    return n + len;
}

#endif
