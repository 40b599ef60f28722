/*
 * A circuit breaker: a pure state machine, the time and the chance are passed in. Its owner's thread.
 *
 * closed     every attempt may go. Opens at `failures` consecutive ones, or when the share of failures among at least
 *            `min_attempts` of the last `period` reaches `error_rate`, or that of slow ones `slow_share`.
 * open       none may, for open_ms (+-20 %).
 * half_open  one probe at a time. Its success closes, its failure opens for twice as long, up to open_max_ms.
 *
 * An attempt carries a token. Every change of state begins a new generation, and so does every probe: a token of an
 * older one reports to nobody. A probe that never reports loses its place at its deadline.
 */
#ifndef OMID_LANE_HTTP_BREAKER_H
#define OMID_LANE_HTTP_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN };
enum breaker_outcome {
    BREAKER_SUCCESS,
    BREAKER_FAILURE,  /* connect error, timeout, 5xx, 408, 429 */
    BREAKER_OVERLOAD, /* those failures that a smaller load may cure: timeout, 429, 502, 503, 504 */
    BREAKER_ANSWERED, /* other 4xx: the caller's fault. Not counted, but shows that the target lives: ends a probe well
                       */
    BREAKER_NEUTRAL,  /* cancelled, or a fault of our own: says nothing about the target */
};

/* Why the state changed. */
enum breaker_why {
    BREAKER_NEW,
    BREAKER_CONSECUTIVE, /* closed -> open */
    BREAKER_FAILURE_RATE,
    BREAKER_SLOW_CALLS,
    BREAKER_PROBE,           /* open -> half_open */
    BREAKER_PROBE_FAILED,    /* half_open -> open */
    BREAKER_PROBE_SUCCEEDED, /* half_open -> closed */
    BREAKER_RESET_OPEN,      /* an operator's word */
    BREAKER_RESET_HALF_OPEN,
    BREAKER_WHYS
};

struct breaker_config {
    unsigned failures;             /* consecutive */
    uint32_t open_ms, open_max_ms; /* the first window, the longest */
    uint32_t slow_ms;              /* a call at least this long is slow; 0: off */
    unsigned min_attempts;         /* in the window, for the two shares; at least 1 */
    double error_rate;             /* share of failures that opens, above 0 */
    double slow_share;             /* share of slow calls that opens, above 0 */
    uint32_t period_ms;            /* the window of the two shares, at least BREAKER_BUCKETS */
};

#define BREAKER_BUCKETS 10
/* What is usual. */
#define BREAKER_PERIOD_MS 30000
#define BREAKER_MIN_ATTEMPTS 20
#define BREAKER_ERROR_RATE 0.5
#define BREAKER_SLOW_SHARE 0.8

struct breaker {
    enum breaker_state state;
    uint32_t generation;
    unsigned consecutive; /* failures in a row */
    struct breaker_bucket {
        uint32_t attempts, failures, slow;
    } ring[BREAKER_BUCKETS];
    uint64_t bucket;     /* number of the current one: now / bucket_ms */
    uint32_t bucket_ms;  /* of the ring's buckets; 0: none yet. Another period empties the ring, and nothing else */
    uint64_t since_ms;   /* of the state */
    uint64_t open_until; /* open: the first probe may go from here on */
    uint32_t window_ms;  /* of the present or last opening, before jitter; 0: none since it last closed */
    bool probing;
    uint64_t probe_until; /* the probe's deadline */
    enum breaker_why why; /* of the last change */
};

struct breaker_token {
    uint32_t generation;
    bool probe;
};

void breaker_init(struct breaker *b, uint64_t now);
/* May an attempt start? Changes nothing. */
bool breaker_ready(const struct breaker *b, uint64_t now);
/* Takes a token for an attempt that reports by now + within_ms. false: refused. */
bool breaker_admit(struct breaker *b, uint64_t now, uint64_t within_ms, struct breaker_token *out);
/* Once per token. chance: 0 <= x < 1, for the jitter. */
void breaker_report(struct breaker *b, const struct breaker_config *conf, uint64_t now, double chance,
                    const struct breaker_token *token, enum breaker_outcome outcome, uint64_t took_ms);
/* Closes it, whatever it was: an operator knows better. Attempts under way report to nobody. */
void breaker_reset(struct breaker *b, uint64_t now);
const char *breaker_state_name(enum breaker_state state);
/* In logs and as a metric's label. */
const char *breaker_why_name(enum breaker_why why);
/* The states that this reason leads from and to; false for BREAKER_NEW. */
bool breaker_why_states(enum breaker_why why, enum breaker_state *from, enum breaker_state *to);

#endif
