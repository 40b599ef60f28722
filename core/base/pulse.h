/*
 * How a thread's loop does: how late it takes what is posted to it, as a histogram (omid_loop_lag_seconds), when it
 * turned last, and which plugin's callback it is in. Written by that thread, read by any.
 */
#ifndef OMID_BASE_PULSE_H
#define OMID_BASE_PULSE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PULSE_LAG_BUCKETS 12
struct pulse_lag {
    uint64_t count[PULSE_LAG_BUCKETS]; /* not cumulative; bounds in pulse_lag_bounds, the last is +Inf */
    uint64_t n, sum_ns, max_ns;
};
extern const double pulse_lag_bounds[PULSE_LAG_BUCKETS - 1]; /* seconds */

/* The owner and name of the callback under way. Static or long-lived strings. */
struct pulse_doing {
    const char *owner, *callback;
    uint64_t since_ns;
};

struct pulse {
    char name[16]; /* the thread's, and its label */
    atomic_uint_fast64_t lag[PULSE_LAG_BUCKETS], lag_n, lag_sum, lag_max;
    atomic_uint_fast64_t turned_ns; /* 0: nobody is to watch it */
    atomic_uint doing_seq;          /* a sequence lock; odd: being written */
    _Atomic(const char *) doing_owner, doing_callback;
    atomic_uint_fast64_t doing_since;
};

/* name: at most 15 characters. lag: it is on the metrics page until pulse_end(). */
void pulse_init(struct pulse *p, const char *name, bool lag);
void pulse_end(struct pulse *p);

/* Its thread: something was taken ns after it was posted. */
void pulse_lag_note(struct pulse *p, uint64_t ns);
void pulse_lag_read(const struct pulse *p, struct pulse_lag *out);
/* All that are on the page. fn must not add or end one. */
void pulse_lag_each(void (*fn)(void *arg, const char *name, const struct pulse_lag *lag), void *arg);

/* Its thread: it turns; or, with 0, is about to end. */
void pulse_turned(struct pulse *p, uint64_t now_ns);
uint64_t pulse_turned_ns(const struct pulse *p);

/* Its thread. Nests: enter returns the former, leave puts it back. */
struct pulse_doing pulse_doing_enter(struct pulse *p, const char *owner, const char *callback);
void pulse_doing_leave(struct pulse *p, struct pulse_doing former);
bool pulse_doing_read(const struct pulse *p, struct pulse_doing *out); /* false: between callbacks */

/* The main thread's: it runs no loop, but plugins' configure(), too, may hold it. */
extern struct pulse pulse_main;

#endif
