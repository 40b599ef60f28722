#include "base/pulse.h"

#include <pthread.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/metrics.h"

#define MAX_PULSES 256 /* on the page: reactors, the lanes' loop, ingress threads */

const double pulse_lag_bounds[PULSE_LAG_BUCKETS - 1] = {0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.0025,
                                                        0.005,   0.01,    0.05,   0.25,   1};
struct pulse pulse_main = {.name = "main"};

/* ------------------------------------------------------------------------- all of them */

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pulse *all[MAX_PULSES];

void pulse_lag_each(void (*fn)(void *arg, const char *name, const struct pulse_lag *lag), void *arg)
{
    pthread_mutex_lock(&all_lock);
    for (unsigned i = 0; i < MAX_PULSES; i++) {
        struct pulse_lag lag;
        if (!all[i])
            continue;
        pulse_lag_read(all[i], &lag);
        fn(arg, all[i]->name, &lag);
    }
    pthread_mutex_unlock(&all_lock);
}

static const char metric_name[] = "omid_loop_lag_seconds";

static void collect_one(void *arg, const char *name, const struct pulse_lag *lag)
{
    struct buf *out = arg;
    uint64_t sum = 0;
    for (unsigned b = 0; b < PULSE_LAG_BUCKETS; b++) {
        char bound[32] = "+Inf";
        sum += lag->count[b];
        if (b < PULSE_LAG_BUCKETS - 1)
            snprintf(bound, sizeof bound, "%g", pulse_lag_bounds[b]);
        buf_printf(out, "%s_bucket{loop=\"%s\",le=\"%s\"} %llu\n", metric_name, name, bound, (unsigned long long)sum);
    }
    buf_printf(out, "%s_sum{loop=\"%s\"} %.9g\n%s_count{loop=\"%s\"} %llu\n", metric_name, name,
               (double)lag->sum_ns / 1e9, metric_name, name, (unsigned long long)sum);
}

static void collect(void *arg, struct buf *out)
{
    (void)arg;
    buf_printf(out,
               "# HELP %s Time from a message's posting to the turn of the loop that takes it.\n# TYPE %s histogram\n",
               metric_name, metric_name);
    pulse_lag_each(collect_one, out);
}

static void all_add(struct pulse *p)
{
    static bool collecting;
    pthread_mutex_lock(&all_lock);
    bool add = !collecting;
    collecting = true;
    unsigned i = 0;
    while (i < MAX_PULSES && all[i])
        i++;
    if (i < MAX_PULSES)
        all[i] = p;
    pthread_mutex_unlock(&all_lock);
    if (add)
        metrics_collector_add(collect, NULL);
}

void pulse_init(struct pulse *p, const char *name, bool lag)
{
    *p = (struct pulse){.turned_ns = 0};
    snprintf(p->name, sizeof p->name, "%s", name);
    if (lag)
        all_add(p);
}

void pulse_end(struct pulse *p)
{
    pthread_mutex_lock(&all_lock);
    for (unsigned i = 0; i < MAX_PULSES; i++) {
        if (all[i] == p)
            all[i] = NULL;
    }
    pthread_mutex_unlock(&all_lock);
}

/* ------------------------------------------------------------------------- lag */

void pulse_lag_note(struct pulse *p, uint64_t ns)
{
    double s = (double)ns / 1e9;
    unsigned i = 0;
    while (i < PULSE_LAG_BUCKETS - 1 && s > pulse_lag_bounds[i])
        i++;
    atomic_fetch_add_explicit(&p->lag[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->lag_n, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->lag_sum, ns, memory_order_relaxed);
    if (ns > atomic_load_explicit(&p->lag_max, memory_order_relaxed)) /* one writer */
        atomic_store_explicit(&p->lag_max, ns, memory_order_relaxed);
}

void pulse_lag_read(const struct pulse *cp, struct pulse_lag *out)
{
    struct pulse *p = (struct pulse *)cp; /* atomic loads need no const */
    for (unsigned i = 0; i < PULSE_LAG_BUCKETS; i++)
        out->count[i] = atomic_load_explicit(&p->lag[i], memory_order_relaxed);
    out->n = atomic_load_explicit(&p->lag_n, memory_order_relaxed);
    out->sum_ns = atomic_load_explicit(&p->lag_sum, memory_order_relaxed);
    out->max_ns = atomic_load_explicit(&p->lag_max, memory_order_relaxed);
}

void pulse_turned(struct pulse *p, uint64_t now_ns)
{
    atomic_store_explicit(&p->turned_ns, now_ns, memory_order_relaxed);
}

uint64_t pulse_turned_ns(const struct pulse *p)
{
    return atomic_load_explicit(&((struct pulse *)p)->turned_ns, memory_order_relaxed);
}

/* ------------------------------------------------------------------------- doing */

static void doing_write(struct pulse *p, const char *owner, const char *callback, uint64_t since_ns)
{
    /* One writer: no locked addition, of which each callback would pay four. A reader that has seen one of the release
     * stores sees the odd number before it. */
    unsigned seq = atomic_load_explicit(&p->doing_seq, memory_order_relaxed);
    atomic_store_explicit(&p->doing_seq, seq + 1, memory_order_relaxed);
    atomic_store_explicit(&p->doing_owner, owner, memory_order_release);
    atomic_store_explicit(&p->doing_callback, callback, memory_order_release);
    atomic_store_explicit(&p->doing_since, since_ns, memory_order_release);
    atomic_store_explicit(&p->doing_seq, seq + 2, memory_order_release);
}

struct pulse_doing pulse_doing_enter(struct pulse *p, const char *owner, const char *callback)
{
    struct pulse_doing former = {.owner = atomic_load_explicit(&p->doing_owner, memory_order_relaxed),
                                 .callback = atomic_load_explicit(&p->doing_callback, memory_order_relaxed),
                                 .since_ns = atomic_load_explicit(&p->doing_since, memory_order_relaxed)};
    doing_write(p, owner, callback, clock_mono_ns());
    return former;
}

void pulse_doing_leave(struct pulse *p, struct pulse_doing former)
{
    doing_write(p, former.owner, former.callback, former.since_ns);
}

bool pulse_doing_read(const struct pulse *cp, struct pulse_doing *out)
{
    struct pulse *p = (struct pulse *)cp;
    for (;;) {
        unsigned seq = atomic_load_explicit(&p->doing_seq, memory_order_acquire);
        out->owner = atomic_load_explicit(&p->doing_owner, memory_order_acquire);
        out->callback = atomic_load_explicit(&p->doing_callback, memory_order_acquire);
        out->since_ns = atomic_load_explicit(&p->doing_since, memory_order_acquire);
        if (!(seq & 1) && seq == atomic_load_explicit(&p->doing_seq, memory_order_acquire))
            return out->owner != NULL;
    }
}
