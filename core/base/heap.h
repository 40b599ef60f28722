/*
 * The C library's allocator: how it is set up, what it holds, and that it gives back what has lain idle. What sessions
 * allocate is freed, but not in order: a few small things that live on keep pages below them from the system, and a bad
 * hour's peak would stay resident for ever. heap_check() looks now and then and returns such pages.
 */
#ifndef OMID_BASE_HEAP_H
#define OMID_BASE_HEAP_H

#include <stdbool.h>
#include <stddef.h>

/* So often in a row must heap_check() see waste before it does something. */
#define HEAP_CHECKS 3

struct metric;

struct heap {
    size_t floor;    /* the least that was resident beyond what is in use, in bytes, since pages were last returned */
    unsigned wasted; /* checks in a row that saw waste */
    unsigned rested; /* that saw a little of it, and nothing moving */
    size_t last;     /* bytes in use at the last check */
    struct metric *used, *spare, *trims;
};

/* Before there are threads. */
void heap_setup(struct heap *h);

/* One thread, never a loop's: it walks free lists (some 0.1 ms), and when it returns pages holds an arena's lock for
 * about 0.1 ms a MB. true: pages were returned. */
bool heap_check(struct heap *h);

/* The decision, for itself: `used` bytes are allocated, `resident` are anonymous memory of the process. true: what is
 * resident for nothing has been worth a call of malloc_trim() for HEAP_CHECKS calls: much of it, or, while hardly
 * anything is allocated or freed, a little: then it is what a peak has left, and nobody is kept waiting. */
bool heap_wasteful(struct heap *h, size_t used, size_t resident);

#endif
