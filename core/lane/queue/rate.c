/* Rates of targets: configured ones, and those learned from "too many requests". */
#include "lane/queue/rate.h"

/*
 * How the pace is found. The first "too many" says little but that there is a limit: the pace begins with what is safe
 * and doubles until the next. That one is the top; from nine tenths of it the pace grows along a cubic curve: quickly
 * at first, hardly at all near the top, and quickly again beyond, where the target may allow more than it did. It takes
 * eight times as long to be back at the top as the target wants to be left alone, so that the rests cost a tenth or so.
 */
#define BEGIN_BELOW 0.1 /* of top */
#define DOUBLE_MS 500
#define GROW_MS 100
#define GROW_HOLDS 8
#define TOO_HIGH 0.6 /* between what it took and what it did not */
#define TOO_SOON 0.9 /* it said so again before the pace had grown */
#define BLIND 0.5    /* nothing was taken since the last time */
#define MIN_HOLD_MS 1000
#define MAX_FIRST_PACE 0.5 /* per ms; whatever was taken before it spoke up */

static double per_ms(const struct queue_rate *r)
{
    double set = r->per_min / 60000.;
    if (r->pace > 0 && (set <= 0 || r->pace < set))
        return r->pace;
    return set;
}

/* Nobody has said so for long: it is forgotten. */
static int64_t pace_until(const struct queue_rate *r)
{
    int64_t keep = 5 * r->grow_ms;
    return r->told_at + (keep > QUEUE_RATE_PACE_KEEP_MS ? keep : QUEUE_RATE_PACE_KEEP_MS);
}

static double size_of(double rate)
{
    double n = rate * QUEUE_RATE_BURST_MS;
    return n > 1 ? n : 1;
}

static void refill(struct queue_rate *r, double rate, int64_t now)
{
    int64_t from = r->at > r->hold_until ? r->at : r->hold_until;
    if (now > from) {
        r->tokens += rate * (double)(now - from);
        r->at = now;
    }
    if (r->tokens > size_of(rate))
        r->tokens = size_of(rate);
}

void queue_rate_set(struct queue_rate *r, uint32_t per_min, double tokens, int64_t now)
{
    double before = per_ms(r);
    if (before > 0)
        refill(r, before, now);
    r->per_min = per_min;
    if (before <= 0) {
        r->tokens = tokens;
        r->at = now;
    }
}

uint32_t queue_rate_may(struct queue_rate *r, int64_t now)
{
    double rate = per_ms(r);
    if (now < r->hold_until)
        return 0;
    if (rate <= 0)
        return UINT32_MAX;
    refill(r, rate, now);
    return (uint32_t)(r->tokens + 1e-9);
}

void queue_rate_take(struct queue_rate *r, uint32_t n, int64_t now)
{
    if (per_ms(r) > 0) {
        refill(r, per_ms(r), now);
        r->tokens -= n;
    }
}

void queue_rate_give_back(struct queue_rate *r)
{
    if (per_ms(r) > 0)
        r->tokens += 1;
}

int64_t queue_rate_next(struct queue_rate *r, int64_t now)
{
    double rate = per_ms(r);
    if (rate <= 0)
        return r->hold_until;
    refill(r, rate, now);
    double want = rate * QUEUE_RATE_STEP_MS;
    if (want < 1)
        want = 1;
    if (r->tokens >= 1 || r->tokens + 1e-9 >= want)
        return r->hold_until > now ? r->hold_until : now;
    r->short_of = true;
    int64_t from = r->hold_until > now ? r->hold_until : now;
    double wait = (want - r->tokens) / rate;
    int64_t ms = (int64_t)wait;
    return from + (ms < wait ? ms + 1 : ms);
}

int64_t queue_rate_keep_until(struct queue_rate *r, int64_t now)
{
    double rate = per_ms(r);
    int64_t until = r->hold_until;
    if (r->pace > 0 && pace_until(r) > until)
        until = pace_until(r);
    if (rate > 0) {
        refill(r, rate, now);
        /* A bucket that begins anew holds one. */
        int64_t full = now + (r->tokens < 1 ? (int64_t)((1 - r->tokens) / rate) + 1 : 0);
        if (r->tokens < 1 && full > until)
            until = full;
    }
    return until;
}

static void grow(struct queue_rate *r, int64_t now)
{
    refill(r, per_ms(r), now);
    if (r->top <= 0) {
        r->pace *= 2;
        r->doubled = true;
    } else {
        double x = (double)(now - r->epoch) / (double)r->grow_ms - 1;
        r->pace = r->top * (1 + BEGIN_BELOW * x * x * x);
    }
}

void queue_rate_answered(struct queue_rate *r, int64_t now)
{
    int64_t since = now - r->grown_at;
    r->ok++;
    if (r->pace <= 0 || now < r->hold_until || since < (r->top > 0 ? GROW_MS : DOUBLE_MS))
        return;
    if (now > pace_until(r)) {
        r->pace = 0;
        return;
    }
    /* A pace that nothing was held up by teaches nothing. */
    if (r->short_of)
        grow(r, now);
    else
        r->epoch += since;
    r->short_of = false;
    r->grown_at = now;
}

/* What became of the pace, now that it was too much. */
static double top_of(const struct queue_rate *r, int64_t now)
{
    if (r->ok == 0)
        return r->pace * BLIND;
    if (r->top <= 0)
        return r->pace * (r->doubled ? TOO_HIGH : BLIND);
    return now - r->epoch < r->grow_ms / 4 ? r->pace * TOO_SOON : r->pace;
}

void queue_rate_too_many(struct queue_rate *r, uint32_t retry_after_s, int64_t now)
{
    int64_t hold = (int64_t)retry_after_s * 1000;
    if (hold < MIN_HOLD_MS)
        hold = MIN_HOLD_MS;
    if (hold > QUEUE_RATE_MAX_HOLD_MS)
        hold = QUEUE_RATE_MAX_HOLD_MS;
    bool heard = now < r->hold_until; /* others of the same round */
    if (now + hold > r->hold_until)
        r->hold_until = now + hold;
    r->epoch = r->grown_at = r->hold_until;
    if (heard)
        return;
    if (r->pace <= 0) {
        r->top = 0;
        r->pace = (double)(r->ok > 0 ? r->ok : 1) / (double)hold;
        if (r->pace > MAX_FIRST_PACE)
            r->pace = MAX_FIRST_PACE;
    } else {
        r->top = top_of(r, now);
        r->pace = r->top * (1 - BEGIN_BELOW);
    }
    if (r->pace < QUEUE_RATE_MIN_PACE)
        r->pace = QUEUE_RATE_MIN_PACE;
    r->grow_ms = GROW_HOLDS * hold;
    r->tokens = 0;
    r->at = r->told_at = now;
    r->ok = 0;
    r->doubled = r->short_of = false;
}
