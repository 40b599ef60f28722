/*
 * How fast a target may be asked: a token bucket for the rate it is configured with, and one for the rate that its
 * answers "too many requests" have taught us. Pure arithmetic on a monotonic clock in milliseconds that is handed in.
 *
 * Nothing is saved up: neither waiting nor a restart lets more than a quarter of a second's worth begin at once.
 */
#ifndef OMID_LANE_QUEUE_RATE_H
#define OMID_LANE_QUEUE_RATE_H

#include <stdbool.h>
#include <stdint.h>

#define QUEUE_RATE_BURST_MS 250
#define QUEUE_RATE_STEP_MS 20                     /* a fast target is woken for so much at a time */
#define QUEUE_RATE_MAX_HOLD_MS (INT64_C(3600000)) /* whatever Retry-After says */
#define QUEUE_RATE_PACE_KEEP_MS (INT64_C(600000)) /* after the last "too many"; longer after long holds */
#define QUEUE_RATE_MIN_PACE (1 / 10000.)          /* per ms: one in ten seconds */

struct queue_rate {
    uint32_t per_min; /* configured; 0: no bound */
    double pace;      /* learned, per ms; 0: none */
    double tokens;    /* as of at */
    int64_t at;
    int64_t hold_until; /* it asked for peace; 0: no */
    int64_t told_at;    /* last "too many" that was heeded; 0: never */
    double top;         /* pace at which it said so; 0: not found yet, the pace doubles */
    int64_t epoch;      /* the pace grows from here on: the end of the hold */
    int64_t grow_ms;    /* until it is back at top */
    int64_t grown_at;
    uint64_t ok;   /* attempts since then that were not one too many */
    bool doubled;  /* since the epoch */
    bool short_of; /* tokens were missing since: the pace is what slows it down */
};

/* Attempts of a new bound; a bucket that begins holds `tokens`, at most its size. */
void queue_rate_set(struct queue_rate *r, uint32_t per_min, double tokens, int64_t now);
/* At most how many may begin now; UINT32_MAX: as many as you like. */
uint32_t queue_rate_may(struct queue_rate *r, int64_t now);
void queue_rate_take(struct queue_rate *r, uint32_t n, int64_t now);
/* One that was taken was no attempt after all. */
void queue_rate_give_back(struct queue_rate *r);
/* When may the next begin? now or earlier: at once. */
int64_t queue_rate_next(struct queue_rate *r, int64_t now);
/* From then on nothing is lost when it is forgotten. */
int64_t queue_rate_keep_until(struct queue_rate *r, int64_t now);
/* An attempt was answered, with anything but "too many". */
void queue_rate_answered(struct queue_rate *r, int64_t now);
/* Too many, said the target, and when to come back (0: it did not say). */
void queue_rate_too_many(struct queue_rate *r, uint32_t retry_after_s, int64_t now);

#endif
