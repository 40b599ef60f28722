#include "lane/http/latency.h"

#include "base/magic.h"

static unsigned bucket_of(uint64_t us)
{
    if (us > UINT32_MAX)
        us = UINT32_MAX;
    if (us < 64)
        return (unsigned)(us / 8);
    unsigned octave = 63u - (unsigned)__builtin_clzll(us);
    return 8 + (octave - 6) * 8 + (unsigned)((us >> (octave - 3)) & 7);
}

/* The first value beyond it. */
static uint64_t bucket_end(unsigned i)
{
    if (i < 8)
        return (i + 1) * UINT64_C(8);
    return (uint64_t)(8 + (i - 8) % 8 + 1) << ((i - 8) / 8 + 3);
}

void latency_add(struct latency *t, uint64_t now_ms, uint64_t us)
{
    uint64_t number = now_ms / LATENCY_WINDOW_MS;
    struct latency_window *w = &t->window[number % 2];

    if (atomic_load_explicit(&w->number, memory_order_relaxed) != number) {
        for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
            atomic_store_explicit(&w->count[i], 0, memory_order_relaxed);
        atomic_store_explicit(&w->number, number, memory_order_release);
    }
    atomic_fetch_add_explicit(&w->count[bucket_of(us)], 1, memory_order_relaxed);
}

uint64_t latency_quantile(const struct latency *t, uint64_t now_ms, double p)
{
    uint64_t number = now_ms / LATENCY_WINDOW_MS, n = 0, seen = 0;
    unsigned sum[LATENCY_BUCKETS] = {0};

    for (unsigned k = 0; k < 2; k++) {
        uint64_t of = atomic_load_explicit(&t->window[k].number, memory_order_acquire);
        if (of != number && of + 1 != number)
            continue;
        for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
            sum[i] += atomic_load_explicit(&t->window[k].count[i], memory_order_relaxed);
    }
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
        n += sum[i];
    uint64_t want = (uint64_t)((double)n * p);
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        seen += sum[i];
        if (seen > want)
            return bucket_end(i);
    }
    return 0;
}
