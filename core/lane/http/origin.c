#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/magic.h"
#include "lane/http/lane_int.h"

static unsigned at_least(unsigned n, unsigned least)
{
    return n > least ? n : least;
}

static unsigned at_most(unsigned n, unsigned most)
{
    return n < most ? n : most;
}

/* What one may have that has not answered yet, or not for a while. */
static unsigned origin_share(const struct lane *l)
{
    unsigned all = l->conf.semaphore, share = at_least(all / 4, LIMIT_START);
    return share < all ? share : at_least(all - 1, 1);
}

static bool origin_answers(const struct lane *l, const struct origin *o)
{
    return o->answers_until > 0 && lane_now(l) < o->answers_until;
}

/* And what it may have that does not answer now, but may have failed. */
static unsigned origin_base(const struct lane *l, const struct origin *o)
{
    unsigned share = origin_share(l);
    return o->width > 0 && o->width < share ? o->width : share;
}

static unsigned origin_width(const struct lane *l, const struct origin *o)
{
    unsigned all = l->conf.semaphore, base = origin_base(l, o);
    unsigned width = at_most(o->width, all); /* the semaphore may have shrunk, even to a single slot */

    /* Exact whatever it uses: more of its targets in the ring than may start would lose their turns to the first. */
    if (width <= base || !origin_answers(l, o))
        return base;
    /* Where there are others, one that hangs from now on must not have all. */
    return at_most(width, map_count(l->origins) > 1 ? all - at_least(all / 8, 1) : all);
}

unsigned origin_room(const struct lane *l, const struct origin *o)
{
    unsigned width = origin_width(l, o);
    return width > o->inflight ? width - o->inflight : 0;
}

bool origin_may_wait(const struct lane *l, const struct origin *o)
{
    return o->waiting < at_least(l->conf.queue / (origin_answers(l, o) ? 2 : 4), 1);
}

static void origin_answered(struct lane *l, struct origin *o, uint64_t within_ms)
{
    uint64_t until = lane_now(l) + within_ms;

    if (!origin_answers(l, o))
        o->width = origin_base(l, o);
    if (o->inflight * 2 >= o->width && o->width < l->conf.semaphore)
        o->width++;
    o->failures = 0;
    if (until > o->answers_until)
        o->answers_until = until;
}

static void origin_failed(struct lane *l, struct origin *o)
{
    unsigned share = origin_share(l), least = at_least(l->conf.semaphore / 16, 1);

    unsigned was = origin_answers(l, o) ? o->width : origin_base(l, o);
    if (++o->failures < was)
        return;
    o->failures = 0;
    o->answers_until = 0;
    o->width = at_least(was > share ? share : was / 2, least);
    if (o->width < was)
        log_info("lane", "all attempts at a partner fail: it has fewer at once", LS("lane", l->name),
                 LS("origin", o->key), LU("at_once", o->width));
}

void origin_learn(struct lane *l, struct origin *o, enum breaker_outcome outcome, uint64_t within_ms)
{
    CHECK_MAGIC(o, ORIGIN_MAGIC);
    switch (outcome) {
    case BREAKER_SUCCESS:
    case BREAKER_ANSWERED:
        origin_answered(l, o, within_ms);
        break;
    case BREAKER_FAILURE:
    case BREAKER_OVERLOAD:
        origin_failed(l, o);
        break;
    case BREAKER_NEUTRAL:
        break;
    }
}

void origin_unresolved(struct origin *o)
{
    CHECK_MAGIC(o, ORIGIN_MAGIC);
    o->width = 1;
    o->failures = 0;
    o->answers_until = 0;
}

struct origin *origin_get(struct lane *l, const char *target)
{
    char key[LANE_MAX_URL + URL_KEY_EXTRA];
    size_t len = url_key_origin(target);

    omid_assert(len < sizeof key);
    memcpy(key, target, len);
    key[len] = 0;
    struct origin *o = map_get(l->origins, key);
    if (!o) {
        o = calloc(1, sizeof *o + len + 1);
        if (!o || !map_put(l->origins, key, o, NULL)) {
            free(o);
            return NULL;
        }
        o->magic = ORIGIN_MAGIC;
        list_init(&o->held);
        memcpy(o->key, key, len + 1);
    }
    CHECK_MAGIC(o, ORIGIN_MAGIC);
    o->refs++;
    return o;
}

void origin_put(struct lane *l, struct origin **op)
{
    struct origin *o = *op;

    *op = NULL;
    if (!o)
        return;
    CHECK_MAGIC(o, ORIGIN_MAGIC);
    if (--o->refs > 0)
        return;
    omid_assert(list_empty(&o->held) && o->inflight == 0 && o->waiting == 0 && o->ringed == 0);
    map_remove(l->origins, o->key);
    o->magic = OMID_MAGIC_DEAD;
    free(o);
}
