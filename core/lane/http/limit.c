#include "lane/http/limit.h"

#include "base/magic.h"

static unsigned at_most(unsigned n, unsigned most)
{
    return n < most ? n : most;
}

/* Of the two the one that binds. */
static unsigned limit_width(const struct limit *l)
{
    return l->ramp > 0 ? at_most(l->ramp, l->limit) : l->limit;
}

static void limit_begin_round(struct limit *l, unsigned round, unsigned inflight)
{
    l->round = round > 0 ? round : 1;
    l->done = 0;
    l->used = inflight;
    l->failed = 0;
    l->cut = false;
}

void limit_init(struct limit *l)
{
    *l = (struct limit){.limit = LIMIT_START};
    limit_begin_round(l, LIMIT_START, 0);
}

unsigned limit_now(const struct limit *l, unsigned most, unsigned left)
{
    omid_assert(most > 0 && left > 0);
    unsigned width = at_most(limit_width(l), most);
    return l->failing || !l->proven ? at_most(width, left) : width;
}

void limit_began(struct limit *l, unsigned inflight)
{
    if (inflight > l->used)
        l->used = inflight;
}

static void limit_grow(struct limit *l, unsigned most)
{
    if (l->ramp > 0) {
        l->ramp = at_most(l->ramp * 2, most);
        if (l->ramp >= l->limit)
            l->ramp = 0;
    } else {
        l->limit = at_most(l->lost ? l->limit + 1 : l->limit * 2, most);
    }
}

/* Rounded down, so that two is no resting place for a target that can bear but one. */
static void limit_cut(struct limit *l, unsigned inflight)
{
    l->lost = true;
    l->limit = l->limit * 7 / 10 > 0 ? l->limit * 7 / 10 : 1;
    if (l->ramp >= l->limit)
        l->ramp = 0;
    /* What is under way now began before the cut: it must not cut again. */
    limit_begin_round(l, inflight > limit_width(l) ? inflight : limit_width(l), inflight);
    l->cut = true;
}

void limit_ended(struct limit *l, unsigned most, unsigned inflight, enum limit_outcome outcome)
{
    omid_assert(most > 0);
    l->limit = at_most(l->limit, most); /* the pool may have shrunk */
    l->failing = outcome != LIMIT_SUCCESS;
    l->proven |= outcome == LIMIT_SUCCESS;
    l->failed += outcome != LIMIT_SUCCESS;
    if (outcome == LIMIT_LOSS && !l->cut) {
        limit_cut(l, inflight);
        return;
    }
    if (++l->done < l->round)
        return;
    if (!l->cut && l->failed * 2 < l->round && l->used * 2 >= limit_width(l))
        limit_grow(l, most);
    limit_begin_round(l, at_most(limit_width(l), most), inflight);
}

void limit_recovered(struct limit *l, unsigned inflight)
{
    l->ramp = l->limit > 1 ? 1 : 0;
    l->proven = true;
    l->failing = false;
    limit_begin_round(l, 1, inflight);
}
