#include "session/stt_clock.h"

#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "bus/channel.h"

static struct stt_checkpoint *points(const struct stt_clock *c)
{
    return c->more ? c->more : (struct stt_checkpoint *)c->few;
}

void stt_clock_init(struct stt_clock *c)
{
    *c = (struct stt_clock){.n = 1, .cap = STT_CLOCK_FEW};
}

static void forget(struct stt_clock *c, size_t n)
{
    struct stt_checkpoint *p = points(c);
    c->n -= n;
    memmove(p, p + n, c->n * sizeof *p);
}

/* All but the one that holds for `settled`. */
static void forget_settled(struct stt_clock *c, uint64_t settled)
{
    const struct stt_checkpoint *p = points(c);
    size_t n = 0;
    while (n + 1 < c->n && p[n + 1].provider <= settled)
        n++;
    forget(c, n);
}

/* false: no memory, or as many as there may be. */
static bool grow(struct stt_clock *c)
{
    size_t cap = c->cap * 2 < STT_CLOCK_MAX ? c->cap * 2 : STT_CLOCK_MAX;
    if (cap == c->cap)
        return false;
    struct stt_checkpoint *p = realloc(c->more, cap * sizeof *p);
    if (!p)
        return false;
    if (!c->more)
        memcpy(p, c->few, c->n * sizeof *p);
    budget_add((int64_t)((cap - (c->more ? c->cap : 0)) * sizeof *p));
    c->more = p;
    c->cap = cap;
    return true;
}

void stt_clock_mark(struct stt_clock *c, uint64_t provider, uint64_t wall, uint64_t settled)
{
    struct stt_checkpoint *last = &points(c)[c->n - 1];
    omid_assert(provider >= last->provider && wall - last->wall >= provider - last->provider && wall >= last->wall);
    if (wall - last->wall == provider - last->provider)
        return; /* nothing was left out */
    if (provider == last->provider) {
        last->wall = wall;
        return;
    }
    if (c->n == c->cap)
        forget_settled(c, settled);
    if (c->n == c->cap && !grow(c))
        forget(c, 1);
    points(c)[c->n++] = (struct stt_checkpoint){provider, wall};
}

static double map(const struct stt_clock *c, double provider, bool end)
{
    const struct stt_checkpoint *p = points(c);
    size_t low = 0, high = c->n; /* the one that holds is in [low, high) */
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        double at = (double)p[mid].provider;
        if (end ? at < provider : at <= provider)
            low = mid;
        else
            high = mid;
    }
    double wall = (double)p[low].wall + (provider - (double)p[low].provider);
    return wall > 0 ? wall : 0;
}

double stt_clock_start(const struct stt_clock *c, double provider)
{
    return map(c, provider, false);
}

double stt_clock_end(const struct stt_clock *c, double provider)
{
    return map(c, provider, true);
}

void stt_clock_free(struct stt_clock *c)
{
    if (c->more)
        budget_add(-(int64_t)(c->cap * sizeof *c->more));
    free(c->more);
    stt_clock_init(c);
}
