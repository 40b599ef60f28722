#include "ingress/timer.h"

#include <stdlib.h>

#include "base/magic.h"

bool timers_reserve(struct timers *ts, size_t n)
{
    if (n <= ts->cap)
        return true;
    size_t cap = ts->cap == 0 ? 64 : ts->cap * 2;
    if (cap < n)
        cap = n;
    struct timer **heap = realloc(ts->heap, cap * sizeof(struct timer *));
    if (heap == NULL)
        return false;
    ts->heap = heap;
    ts->cap = cap;
    return true;
}

void timers_free(struct timers *ts)
{
    free(ts->heap);
    *ts = (struct timers){.heap = NULL};
}

static void place(struct timers *ts, size_t i, struct timer *t)
{
    ts->heap[i] = t;
    t->at = i + 1;
}

static void sift(struct timers *ts, size_t i)
{
    struct timer *t = ts->heap[i];
    while (i > 0 && ts->heap[(i - 1) / 2]->due_ms > t->due_ms) {
        place(ts, i, ts->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= ts->n)
            break;
        if (child + 1 < ts->n && ts->heap[child + 1]->due_ms < ts->heap[child]->due_ms)
            child++;
        if (ts->heap[child]->due_ms >= t->due_ms)
            break;
        place(ts, i, ts->heap[child]);
        i = child;
    }
    place(ts, i, t);
}

void timer_set(struct timers *ts, struct timer *t, uint64_t due_ms)
{
    t->due_ms = due_ms;
    if (t->at == 0) {
        omid_assert(ts->n < ts->cap);
        place(ts, ts->n++, t);
    }
    sift(ts, t->at - 1);
}

void timer_clear(struct timers *ts, struct timer *t)
{
    if (t->at == 0)
        return;
    size_t i = t->at - 1;
    t->at = 0;
    struct timer *last = ts->heap[--ts->n];
    if (last == t)
        return;
    place(ts, i, last);
    sift(ts, i);
}

void timers_run(struct timers *ts, uint64_t now_ms)
{
    while (ts->n > 0 && ts->heap[0]->due_ms <= now_ms) {
        struct timer *t = ts->heap[0];
        timer_clear(ts, t);
        t->fn(t, now_ms);
    }
}

uint32_t timers_wait(const struct timers *ts, uint64_t now_ms, uint32_t max)
{
    if (ts->n == 0)
        return max;
    uint64_t due = ts->heap[0]->due_ms;
    if (due <= now_ms)
        return 0;
    return due - now_ms < max ? (uint32_t)(due - now_ms) : max;
}
