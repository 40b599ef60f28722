/*
 * How many attempts of one target may be in flight: additive increase, multiplicative decrease. Pure: what happens is
 * passed in, and time is counted in rounds. Its owner's thread.
 *
 * A round lasts as many completions as the limit. One that has gone well, in which at least half of the limit was used,
 * doubles the limit until the first loss, and adds one after it. It has gone well without a loss and when most of it
 * has succeeded: a target that fails one of twenty with 500 bears as much as another, and no round of it would be
 * without one. A loss (timeout, 429, 502, 503, 504) takes 0.7 of the limit, at most once per round; attempts that were
 * under way at a loss belong to its round.
 *
 * After a recovery a ramp lies below the limit: 1, 2, 4 ... by the same rounds, until it reaches it.
 *
 * Where nothing has succeeded yet, or the last attempt has failed, no more may be in flight than could still be needed
 * to open the breaker: a dead target costs as many attempts as its breaker counts, not as many as its limit.
 */
#ifndef OMID_LANE_HTTP_LIMIT_H
#define OMID_LANE_HTTP_LIMIT_H

#include <stdbool.h>

#define LIMIT_START 4u

enum limit_outcome {
    LIMIT_SUCCESS, /* an answer that shows a living target, 4xx included */
    LIMIT_FAILURE, /* what the breaker counts, but no sign of overload: refused, reset, 500 */
    LIMIT_LOSS,    /* overload: timeout, 429, 502, 503, 504 */
};

struct limit {
    unsigned limit;
    unsigned ramp;        /* 0: none under way */
    unsigned round, done; /* completions that make this round, and those so far */
    unsigned used;        /* the most in flight in this round */
    unsigned failed;      /* of those so far */
    bool cut;             /* this round has seen a loss, which has been counted */
    bool lost;            /* ever: doubling is over */
    bool proven;          /* something has succeeded */
    bool failing;         /* the last attempt failed */
};

void limit_init(struct limit *l);
/* How many may be in flight. most: a bound from outside (the pool), at least 1. left: how many more failures in a row
 * would open the breaker, at least 1. */
unsigned limit_now(const struct limit *l, unsigned most, unsigned left);
/* An attempt has begun; inflight counts it. */
void limit_began(struct limit *l, unsigned inflight);
/* An attempt has ended; inflight is what is left. Cancelled ones are not told, nor those whose host could not be looked
 * up. */
void limit_ended(struct limit *l, unsigned most, unsigned inflight, enum limit_outcome outcome);
/* The breaker has closed again. */
void limit_recovered(struct limit *l, unsigned inflight);

#endif
