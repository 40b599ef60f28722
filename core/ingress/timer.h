/* Timers on the monotonic clock: a binary heap, one thread. Moving a timer to a later time costs nothing when its owner
 * looks at its own deadlines in the callback and sets it again. */
#ifndef OMID_INGRESS_TIMER_H
#define OMID_INGRESS_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct timer {
    uint64_t due_ms;
    size_t at; /* place in the heap + 1; 0: not set */
    void (*fn)(struct timer *timer, uint64_t now_ms);
};
struct timers {
    struct timer **heap;
    size_t n, cap;
};

/* Room for n timers in all, so that timer_set() can't fail. false: no memory. */
bool timers_reserve(struct timers *ts, size_t n);
void timers_free(struct timers *ts);
void timer_set(struct timers *ts, struct timer *t, uint64_t due_ms);
void timer_clear(struct timers *ts, struct timer *t);
/* Runs what is due. */
void timers_run(struct timers *ts, uint64_t now_ms);
/* ms until the next, at most max. */
uint32_t timers_wait(const struct timers *ts, uint64_t now_ms, uint32_t max);

#endif
