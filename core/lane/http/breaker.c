#include "lane/http/breaker.h"

#include <string.h>

#include "base/magic.h"

static void breaker_set_state(struct breaker *b, enum breaker_state to, uint64_t now, enum breaker_why why)
{
    static const bool legal[3][3] = {
        [BREAKER_CLOSED] = {[BREAKER_OPEN] = true},
        [BREAKER_OPEN] = {[BREAKER_HALF_OPEN] = true, [BREAKER_CLOSED] = true},
        [BREAKER_HALF_OPEN] = {[BREAKER_OPEN] = true, [BREAKER_CLOSED] = true},
    };
    omid_assert(legal[b->state][to]);
    b->state = to;
    b->generation++;
    b->since_ms = now;
    b->why = why;
    b->probing = false;
}

static void breaker_forget(struct breaker *b)
{
    b->consecutive = 0;
    memset(b->ring, 0, sizeof b->ring);
}

static void breaker_open(struct breaker *b, const struct breaker_config *conf, uint64_t now, double chance,
                         enum breaker_why why)
{
    uint64_t window = b->window_ms == 0 ? conf->open_ms : (uint64_t)b->window_ms * 2;
    if (window > conf->open_max_ms)
        window = conf->open_max_ms;
    b->window_ms = (uint32_t)window;
    b->open_until = now + (uint64_t)((double)window * (0.8 + 0.4 * chance));
    breaker_set_state(b, BREAKER_OPEN, now, why);
    breaker_forget(b);
}

/* Buckets that have left the window are emptied. */
static struct breaker_bucket *breaker_turn(struct breaker *b, uint32_t period_ms, uint64_t now)
{
    uint32_t bucket_ms = period_ms >= BREAKER_BUCKETS ? period_ms / BREAKER_BUCKETS : 1;
    uint64_t number = now / bucket_ms;

    if (b->bucket_ms != bucket_ms) {
        memset(b->ring, 0, sizeof b->ring);
        b->bucket_ms = bucket_ms;
        b->bucket = number;
    }
    if (number > b->bucket) {
        uint64_t passed = number - b->bucket;
        for (uint64_t i = 1; i <= passed && i <= BREAKER_BUCKETS; i++)
            b->ring[(b->bucket + i) % BREAKER_BUCKETS] = (struct breaker_bucket){0};
        b->bucket = number;
    }
    return &b->ring[b->bucket % BREAKER_BUCKETS];
}

/* A share such as 0.8 is a little off in binary: 4 of 5 reach it all the same. */
static bool share_reached(uint64_t n, uint64_t of, double share)
{
    return n > 0 && (double)n >= (double)of * share - 1e-6;
}

/* Why it should open, or BREAKER_NEW. */
static enum breaker_why breaker_verdict(const struct breaker *b, const struct breaker_config *conf)
{
    uint64_t attempts = 0, failures = 0, slow = 0;

    if (b->consecutive >= conf->failures)
        return BREAKER_CONSECUTIVE;
    for (unsigned i = 0; i < BREAKER_BUCKETS; i++) {
        attempts += b->ring[i].attempts;
        failures += b->ring[i].failures;
        slow += b->ring[i].slow;
    }
    if (attempts < conf->min_attempts)
        return BREAKER_NEW;
    if (share_reached(failures, attempts, conf->error_rate))
        return BREAKER_FAILURE_RATE;
    if (conf->slow_ms > 0 && share_reached(slow, attempts, conf->slow_share))
        return BREAKER_SLOW_CALLS;
    return BREAKER_NEW;
}

void breaker_init(struct breaker *b, uint64_t now)
{
    *b = (struct breaker){.since_ms = now, .why = BREAKER_NEW};
}

bool breaker_ready(const struct breaker *b, uint64_t now)
{
    switch (b->state) {
    case BREAKER_CLOSED:
        return true;
    case BREAKER_OPEN:
        return now >= b->open_until;
    case BREAKER_HALF_OPEN:
        return !b->probing || now >= b->probe_until;
    }
    return false;
}

bool breaker_admit(struct breaker *b, uint64_t now, uint64_t within_ms, struct breaker_token *out)
{
    if (!breaker_ready(b, now))
        return false;
    if (b->state == BREAKER_OPEN)
        breaker_set_state(b, BREAKER_HALF_OPEN, now, BREAKER_PROBE);
    out->probe = b->state == BREAKER_HALF_OPEN;
    if (out->probe) {
        b->generation++; /* a probe whose deadline has passed speaks for nobody any more */
        b->probing = true;
        b->probe_until = now + within_ms;
    }
    out->generation = b->generation;
    return true;
}

void breaker_report(struct breaker *b, const struct breaker_config *conf, uint64_t now, double chance,
                    const struct breaker_token *token, enum breaker_outcome outcome, uint64_t took_ms)
{
    bool failed = outcome == BREAKER_FAILURE || outcome == BREAKER_OVERLOAD;

    if (token->generation != b->generation)
        return;
    if (token->probe) {
        omid_assert(b->state == BREAKER_HALF_OPEN && b->probing);
        b->probing = false;
        if (failed) {
            breaker_open(b, conf, now, chance, BREAKER_PROBE_FAILED);
        } else if (outcome != BREAKER_NEUTRAL) {
            breaker_set_state(b, BREAKER_CLOSED, now, BREAKER_PROBE_SUCCEEDED);
            breaker_forget(b);
            b->window_ms = 0;
        }
        return;
    }
    omid_assert(b->state == BREAKER_CLOSED);
    if (outcome == BREAKER_NEUTRAL || outcome == BREAKER_ANSWERED)
        return;
    struct breaker_bucket *bucket = breaker_turn(b, conf->period_ms, now);
    bucket->attempts++;
    if (conf->slow_ms > 0 && took_ms >= conf->slow_ms)
        bucket->slow++;
    if (failed) {
        bucket->failures++;
        b->consecutive++;
    } else {
        b->consecutive = 0;
    }
    /* Slow successes may open it too. */
    enum breaker_why why = breaker_verdict(b, conf);
    if (why != BREAKER_NEW)
        breaker_open(b, conf, now, chance, why);
}

void breaker_reset(struct breaker *b, uint64_t now)
{
    if (b->state == BREAKER_CLOSED)
        return;
    breaker_set_state(b, BREAKER_CLOSED, now, b->state == BREAKER_OPEN ? BREAKER_RESET_OPEN : BREAKER_RESET_HALF_OPEN);
    breaker_forget(b);
    b->window_ms = 0;
}

const char *breaker_state_name(enum breaker_state state)
{
    static const char *const names[] = {"closed", "open", "half_open"};
    return names[state];
}

const char *breaker_why_name(enum breaker_why why)
{
    static const char *const names[BREAKER_WHYS] = {
        [BREAKER_NEW] = "new",
        [BREAKER_CONSECUTIVE] = "consecutive_failures",
        [BREAKER_FAILURE_RATE] = "failure_rate",
        [BREAKER_SLOW_CALLS] = "slow_calls",
        [BREAKER_PROBE] = "probe",
        [BREAKER_PROBE_FAILED] = "probe_failed",
        [BREAKER_PROBE_SUCCEEDED] = "probe_succeeded",
        [BREAKER_RESET_OPEN] = "reset",
        [BREAKER_RESET_HALF_OPEN] = "reset",
    };
    return names[why];
}

bool breaker_why_states(enum breaker_why why, enum breaker_state *from, enum breaker_state *to)
{
    static const enum breaker_state states[BREAKER_WHYS][2] = {
        [BREAKER_CONSECUTIVE] = {BREAKER_CLOSED, BREAKER_OPEN},
        [BREAKER_FAILURE_RATE] = {BREAKER_CLOSED, BREAKER_OPEN},
        [BREAKER_SLOW_CALLS] = {BREAKER_CLOSED, BREAKER_OPEN},
        [BREAKER_PROBE] = {BREAKER_OPEN, BREAKER_HALF_OPEN},
        [BREAKER_PROBE_FAILED] = {BREAKER_HALF_OPEN, BREAKER_OPEN},
        [BREAKER_PROBE_SUCCEEDED] = {BREAKER_HALF_OPEN, BREAKER_CLOSED},
        [BREAKER_RESET_OPEN] = {BREAKER_OPEN, BREAKER_CLOSED},
        [BREAKER_RESET_HALF_OPEN] = {BREAKER_HALF_OPEN, BREAKER_CLOSED},
    };
    *from = states[why][0];
    *to = states[why][1];
    return why != BREAKER_NEW;
}
