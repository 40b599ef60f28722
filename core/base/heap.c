#include "base/heap.h"

#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "base/metrics.h"

/* Less is not worth the walk, nor is a smaller share of what is in use: it will be taken again. */
#define WASTE_BYTES ((size_t)1 << 20)
#define WASTE_SHARE 4
/* Unless nothing has moved, that is, by no more than this share of what is in use. */
#define REST_SHARE 64
#define REST_WASTE_BYTES ((size_t)128 << 10)
#define REST_WASTE_SHARE 32

void heap_setup(struct heap *h)
{
    /* Buffers of sessions that wait for a partner are large, and many go at once. By itself the allocator takes the
     * largest that was ever freed as the size from which buffers get pages of their own; below it they lie between
     * small things that live on. A fixed size keeps large ones apart. */
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
    *h = (struct heap){
        .floor = SIZE_MAX,
        .used = metric_gauge("omid_memory_heap_used_bytes", "Bytes that are allocated."),
        .spare = metric_gauge("omid_memory_heap_spare_bytes",
                              "Bytes of anonymous memory that are resident beyond what is allocated."),
        .trims = metric_counter("omid_memory_heap_trims_total",
                                "Times that memory which lay idle was given back to the system."),
    };
}

bool heap_wasteful(struct heap *h, size_t used, size_t resident)
{
    size_t spare = resident > used ? resident - used : 0;
    if (spare < h->floor)
        h->floor = spare; /* stacks, static data, scraps between live things: what can't be returned */
    size_t waste = spare - h->floor, moved = used > h->last ? used - h->last : h->last - used;
    h->last = used;
    h->rested =
        moved <= used / REST_SHARE && waste >= REST_WASTE_BYTES && waste >= used / REST_WASTE_SHARE ? h->rested + 1 : 0;
    h->wasted = waste >= WASTE_BYTES && waste >= used / WASTE_SHARE ? h->wasted + 1 : 0;
    if (h->wasted < HEAP_CHECKS && h->rested < HEAP_CHECKS)
        return false;
    h->wasted = h->rested = 0;
    h->floor = SIZE_MAX; /* whatever is left then: there is no use in trying again for it */
    return true;
}

/* Anonymous memory of the process; 0: not known. */
static size_t resident_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long size, resident, shared;
    if (f == NULL)
        return 0;
    bool ok = fscanf(f, "%lu %lu %lu", &size, &resident, &shared) == 3; /* NOLINT(cert-err34-c): the kernel's */
    fclose(f);
    return ok && resident > shared ? (resident - shared) * (size_t)sysconf(_SC_PAGESIZE) : 0;
}

static size_t used_bytes(void)
{
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}

static bool sample(struct heap *h)
{
    size_t used = used_bytes(), resident = resident_bytes();
    metric_set(h->used, (int64_t)used);
    metric_set(h->spare, resident > used ? (int64_t)(resident - used) : 0);
    return heap_wasteful(h, used, resident);
}

bool heap_check(struct heap *h)
{
    if (!sample(h))
        return false;
    malloc_trim(0);
    metric_add(h->trims, 1);
    (void)sample(h);
    return true;
}
