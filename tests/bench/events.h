/* What the sender and the receiver of events share: the ledger, and the loop. One thread. */
#ifndef TESTS_BENCH_EVENTS_H
#define TESTS_BENCH_EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define EVENTS_MAX (8u << 20) /* of one run */
#define MAX_MESSAGE 16384u    /* bytes of a request or an answer */

enum fate {
    FATE_NEW,
    FATE_SENT,
    FATE_ACCEPTED, /* answered 202 */
    FATE_REFUSED,  /* answered otherwise */
    FATE_UNKNOWN,  /* the connection went before the answer came */
};

/* By the event's number. */
struct ledger {
    uint64_t *due_ns;  /* when it was to be sent */
    uint32_t *id;      /* hash of the webhook-id it came with first */
    uint8_t *fate;     /* enum fate */
    uint8_t *arrivals; /* up to 255 */
    uint32_t n;        /* numbers given out */
};
extern struct ledger ledger;

/* Times of something, in steps of 100 us. */
#define TIMES_STEPS 600000u
struct times {
    uint32_t *steps;
    uint64_t n, max_ns;
};
extern struct times accept_times, delivery_times;
void times_add(struct times *t, uint64_t ns);

enum kind { KIND_POST, KIND_LISTENER, KIND_RECEIVER, KIND_TIMER, KIND_INPUT };
struct peer {
    enum kind kind;
    int fd;
};
extern int ep;
void watch(struct peer *p, uint32_t events); /* a new descriptor */
void rewatch(struct peer *p, uint32_t events);
uint64_t now_ns(void);
_Noreturn void fail(const char *what);
/* A message that `in` begins with: its bytes with the body, 0 when it is not whole, SIZE_MAX when it never will be.
 * *body is where that begins. The text of `in` ends in NUL. */
size_t message_len(char *in, size_t len, size_t *body);

/* ---- event_load.c ---- */
struct load_stat {
    unsigned long sent, accepted, refused, unknown, late;
    unsigned flying, connected; /* flying: asked and not answered */
    int last_status;            /* of those that were refused */
};
extern struct load_stat load;
void load_init(const char *authorization, unsigned bytes);
void load_target(unsigned port, unsigned connections);
/* rate 0: as fast as they are answered. Until count events have been sent. with_key: each with an Idempotency-Key, and
 * again until it is answered. */
void load_begin(double rate, unsigned count, const char *path, bool with_key);
void load_stop(void);
void load_tick(void);
bool load_is_over(void);
void load_ready(struct peer *p, uint32_t events);

/* ---- event_sink.c ---- */
struct sink_stat {
    unsigned long arrived, distinct, doubled, unknown, renamed, held;
};
extern struct sink_stat sink;
unsigned sink_listen(void); /* the port */
void sink_accept(struct peer *p);
void sink_ready(struct peer *p);

#endif
