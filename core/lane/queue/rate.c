/* Rates of targets: configured ones, and those learned from "too many requests". */
#include "lane/queue/rate.h"

/* What is learned is a little less than what was served, and a little more is tried every second: so it hovers just
 * below what the target allows, and finds out when that changes. */
#define LEARN_BELOW 0.95
#define CUT 0.9
#define CUT_BLIND 0.5 /* nothing was served since the last time */
#define RAISE 1.05
#define RAISE_MS 1000
#define MIN_HOLD_MS 1000

static double per_ms(const struct queue_rate *r)
{
    double set = r->per_min / 60000.;
    if (r->pace > 0 && (set <= 0 || r->pace < set))
        return r->pace;
    return set;
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
    if (r->tokens < 1)
        r->short_of = true;
    return (uint32_t)(r->tokens + 1e-9);
}

void queue_rate_take(struct queue_rate *r, uint32_t n, int64_t now)
{
    if (r->since == 0)
        r->since = now;
    if (per_ms(r) > 0)
        r->tokens -= n;
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
    int64_t from = r->hold_until > now ? r->hold_until : now;
    double wait = (want - r->tokens) / rate;
    int64_t ms = (int64_t)wait;
    return from + (ms < wait ? ms + 1 : ms);
}

int64_t queue_rate_keep_until(struct queue_rate *r, int64_t now)
{
    double rate = per_ms(r);
    int64_t until = r->hold_until;
    if (r->pace > 0 && r->told_at + QUEUE_RATE_PACE_KEEP_MS > until)
        until = r->told_at + QUEUE_RATE_PACE_KEEP_MS;
    if (rate > 0) {
        refill(r, rate, now);
        /* A bucket that begins anew holds one. */
        int64_t full = now + (r->tokens < 1 ? (int64_t)((1 - r->tokens) / rate) + 1 : 0);
        if (r->tokens < 1 && full > until)
            until = full;
    }
    return until;
}

void queue_rate_answered(struct queue_rate *r, int64_t now)
{
    r->ok++;
    if (r->pace <= 0 || now < r->hold_until || now - r->raised_at < RAISE_MS)
        return;
    if (now - r->told_at > QUEUE_RATE_PACE_KEEP_MS) {
        r->pace = 0;
        return;
    }
    /* What is not used teaches nothing. */
    if (r->short_of) {
        refill(r, per_ms(r), now);
        r->pace *= RAISE;
    }
    r->short_of = false;
    r->raised_at = now;
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
    if (heard)
        return;
    double elapsed = r->since > 0 && now > r->since ? (double)(now - r->since) : 1;
    double served = (double)r->ok / elapsed * LEARN_BELOW, pace = r->pace;
    if (pace <= 0)
        pace = served;
    else if (served <= 0)
        pace *= CUT_BLIND;
    else
        pace = served < pace * CUT ? served : pace * CUT;
    r->pace = pace > QUEUE_RATE_MIN_PACE ? pace : QUEUE_RATE_MIN_PACE;
    r->tokens = 0;
    r->at = now;
    r->told_at = r->since = r->raised_at = now;
    r->ok = 0;
    r->short_of = false;
}
