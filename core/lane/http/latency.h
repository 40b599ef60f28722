/*
 * Quantiles of how long attempts took lately: two histograms of a minute each, the full one and the growing one.
 * Buckets are eighths of a power of two, so that a quantile is at most 12.5 % too high. One thread writes, any reads.
 */
#ifndef OMID_LANE_HTTP_LATENCY_H
#define OMID_LANE_HTTP_LATENCY_H

#include <stdatomic.h>
#include <stdint.h>

#define LATENCY_WINDOW_MS 60000u
#define LATENCY_BUCKETS 216 /* below 64 us one by eights, then 26 octaves up to 2^32 us */

struct latency {
    struct latency_window {
        _Atomic uint64_t number; /* now / LATENCY_WINDOW_MS; its counts are of that minute */
        atomic_uint count[LATENCY_BUCKETS];
    } window[2];
};

void latency_add(struct latency *t, uint64_t now_ms, uint64_t us);
/* us; 0 when nothing was measured within the last window or the one before. 0 < p < 1. */
uint64_t latency_quantile(const struct latency *t, uint64_t now_ms, double p);

#endif
