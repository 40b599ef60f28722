#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "lane/http/lane_int.h"

static void target_free(struct lane *l, struct target *t)
{
    CHECK_MAGIC(t, TARGET_MAGIC);
    omid_assert(t->refs == 0 && list_empty(&t->waiters));
    list_remove(&t->idle);
    rules_release(t);
    board_remove(l, t);
    map_remove(l->targets, t->key);
    origin_put(l, &t->origin);
    if (t->breaker.state != BREAKER_CLOSED)
        lane_open_breakers_add(l, -1);
    atomic_store(&l->seen.targets, (unsigned)map_count(l->targets));
    t->magic = OMID_MAGIC_DEAD;
    free(t);
}

struct target *target_get(struct lane *l, const char *key)
{
    struct target *t = map_get(l->targets, key);
    if (t) {
        CHECK_MAGIC(t, TARGET_MAGIC);
        list_remove(&t->idle);
        t->refs++;
        return t;
    }
    /* Those in use are bounded by semaphore, queue and streams, so that an idle one can be found. */
    if (map_count(l->targets) >= TARGETS_MAX && !list_empty(&l->idle))
        target_free(l, list_entry(l->idle.next, struct target, idle));
    size_t len = strlen(key) + 1;
    t = calloc(1, sizeof *t + len);
    if (!t)
        return NULL;
    t->magic = TARGET_MAGIC;
    memcpy(t->key, key, len);
    list_init(&t->ring);
    list_init(&t->idle);
    list_init(&t->waiters);
    breaker_init(&t->breaker, lane_now(l));
    limit_init(&t->limit);
    t->adaptive = strncmp(key, "http", 4) == 0;
    t->origin = origin_get(l, key);
    if (!t->origin || !map_put(l->targets, key, t, NULL)) {
        origin_put(l, &t->origin);
        free(t);
        return NULL;
    }
    t->refs = 1;
    rules_assign(l, t);
    list_init(&t->board);
    atomic_store(&t->seen.limit, target_limit(t));
    board_put(l, t);
    atomic_store(&l->seen.targets, (unsigned)map_count(l->targets));
    return t;
}

void target_put(struct lane *l, struct target **tp)
{
    struct target *t = *tp;

    if (!t)
        return;
    CHECK_MAGIC(t, TARGET_MAGIC);
    omid_assert(t->refs > 0);
    *tp = NULL;
    if (--t->refs > 0)
        return;
    t->idle_since = lane_now(l);
    list_append(&l->idle, &t->idle);
}

unsigned target_limit(const struct target *t)
{
    unsigned failures = t->breaker.consecutive, opens_at = t->rules->breaker_failures;

    if (!t->adaptive)
        return t->rules->semaphore;
    return limit_now(&t->limit, t->rules->semaphore, opens_at > failures ? opens_at - failures : 1);
}

void targets_expire(struct lane *l, uint64_t now)
{
    while (!list_empty(&l->idle)) {
        struct target *t = list_entry(l->idle.next, struct target, idle);
        if (now - t->idle_since < TARGET_IDLE_MS)
            return;
        target_free(l, t);
    }
}

void targets_free(struct lane *l)
{
    while (!list_empty(&l->idle))
        target_free(l, list_entry(l->idle.next, struct target, idle));
    omid_assert(map_count(l->targets) == 0);
}
