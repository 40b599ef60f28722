#include "ingress/limits.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/magic.h"
#include "base/map.h"

#define LIMITS_MAGIC UINT32_C(0x6c696d69)

struct entry {
    struct list idle; /* in table.idle while it has no sessions, the one last seen at the end */
    uint64_t seen_ms; /* when tokens was right */
    double tokens;
    unsigned per_minute; /* as last asked for */
    unsigned sessions, strangers;
    char key[];
};
struct table {
    struct map *map; /* key -> struct entry */
    struct list idle;
};
struct limits {
    uint32_t magic;
    pthread_mutex_t lock; /* all below */
    struct table table[LIMITS_TABLES];
    size_t max;
    unsigned strangers;
    uint64_t evicted;
};

/* The threads' clocks are read one after the other: none is behind by more than a turn. */
static uint64_t since(const struct entry *e, uint64_t now_ms)
{
    return now_ms > e->seen_ms ? now_ms - e->seen_ms : 0;
}

static void forget(struct table *t, struct entry *e)
{
    list_remove(&e->idle);
    map_remove(t->map, e->key);
    free(e);
}

static struct entry *oldest(struct table *t)
{
    return list_empty(&t->idle) ? NULL : list_entry(t->idle.next, struct entry, idle);
}

static void expire(struct table *t, uint64_t now_ms)
{
    struct entry *e;

    while ((e = oldest(t)) != NULL && since(e, now_ms) >= LIMITS_MINUTE_MS)
        forget(t, e);
}

/* Makes room: what has expired, and when that is not enough the oldest of the idle. */
static bool make_room(struct limits *l, struct table *t, uint64_t now_ms)
{
    expire(t, now_ms);
    struct entry *e = oldest(t);
    if (map_count(t->map) < l->max)
        return true;
    if (e == NULL)
        return false;
    forget(t, e);
    l->evicted++;
    return true;
}

/* NULL: no room. */
static struct entry *entry_get(struct limits *l, struct table *t, const char *key, double tokens, uint64_t now_ms)
{
    struct entry *e = map_get(t->map, key);

    if (e != NULL)
        return e;
    size_t size = strlen(key) + 1;
    if (!make_room(l, t, now_ms) || (e = calloc(1, sizeof(*e) + size)) == NULL)
        return NULL;
    memcpy(e->key, key, size);
    if (!map_put(t->map, key, e, NULL)) {
        free(e);
        return NULL;
    }
    e->tokens = tokens;
    e->seen_ms = now_ms;
    list_append(&t->idle, &e->idle);
    return e;
}

static void refill(struct entry *e, unsigned per_minute, uint64_t now_ms)
{
    e->tokens += (double)since(e, now_ms) * per_minute / (double)LIMITS_MINUTE_MS;
    if (e->tokens > per_minute)
        e->tokens = per_minute;
    e->seen_ms = now_ms > e->seen_ms ? now_ms : e->seen_ms;
}

static enum limits_verdict take(struct limits *l, struct table *t, const char *key, const struct limits_bounds *b,
                                uint64_t now_ms, unsigned *retry_s)
{
    struct entry *e = entry_get(l, t, key, b->per_minute, now_ms);

    *retry_s = LIMITS_RETRY_S;
    if (e == NULL)
        return LIMITS_FULL;
    refill(e, b->per_minute, now_ms);
    e->per_minute = b->per_minute;
    if (e->sessions == 0) { /* seen now: behind the others */
        list_remove(&e->idle);
        list_append(&t->idle, &e->idle);
    }
    if (e->tokens < 1) {
        *retry_s = 1 + (unsigned)((1 - e->tokens) * 60 / b->per_minute);
        return LIMITS_RATE;
    }
    if (e->sessions >= b->sessions)
        return LIMITS_SESSIONS;
    e->tokens -= 1;
    if (e->sessions++ == 0)
        list_remove(&e->idle);
    return LIMITS_OK;
}

enum limits_verdict limits_enter(struct limits *l, enum limits_table table, const char *key,
                                 const struct limits_bounds *bounds, uint64_t now_ms, unsigned *retry_s)
{
    CHECK_MAGIC(l, LIMITS_MAGIC);
    omid_assert(key[0] != '\0' && bounds->sessions > 0 && bounds->per_minute > 0);
    pthread_mutex_lock(&l->lock);
    enum limits_verdict verdict = take(l, &l->table[table], key, bounds, now_ms, retry_s);
    pthread_mutex_unlock(&l->lock);
    return verdict;
}

void limits_leave(struct limits *l, enum limits_table table, const char *key, uint64_t now_ms)
{
    CHECK_MAGIC(l, LIMITS_MAGIC);
    pthread_mutex_lock(&l->lock);
    struct table *t = &l->table[table];
    struct entry *e = map_get(t->map, key);
    omid_assert(e != NULL && e->sessions > 0);
    if (--e->sessions == 0) {
        omid_assert(e->strangers == 0);
        refill(e, e->per_minute, now_ms);
        if (e->tokens >= e->per_minute) /* as of one that was never here */
            forget(t, e);
        else
            list_append(&t->idle, &e->idle);
        expire(t, now_ms);
    }
    pthread_mutex_unlock(&l->lock);
}

bool limits_stranger_enter(struct limits *l, const char *address, unsigned max)
{
    CHECK_MAGIC(l, LIMITS_MAGIC);
    pthread_mutex_lock(&l->lock);
    struct entry *e = map_get(l->table[LIMITS_ADDRESS].map, address);
    omid_assert(e != NULL && e->sessions > 0);
    bool ok = l->strangers < max && e->strangers < (max + 3) / 4;
    if (ok) {
        l->strangers++;
        e->strangers++;
    }
    pthread_mutex_unlock(&l->lock);
    return ok;
}

void limits_stranger_leave(struct limits *l, const char *address)
{
    CHECK_MAGIC(l, LIMITS_MAGIC);
    pthread_mutex_lock(&l->lock);
    struct entry *e = map_get(l->table[LIMITS_ADDRESS].map, address);
    omid_assert(e != NULL && e->strangers > 0 && l->strangers > 0);
    e->strangers--;
    l->strangers--;
    pthread_mutex_unlock(&l->lock);
}

/* ------------------------------------------------------------ as a whole */

struct limits *limits_new(size_t entries)
{
    struct limits *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return NULL;
    l->magic = LIMITS_MAGIC;
    l->max = entries;
    pthread_mutex_init(&l->lock, NULL);
    for (int i = 0; i < LIMITS_TABLES; i++) {
        list_init(&l->table[i].idle);
        l->table[i].map = map_new();
    }
    if (l->table[LIMITS_ADDRESS].map == NULL || l->table[LIMITS_UID].map == NULL)
        limits_free(&l);
    return l;
}

void limits_free(struct limits **lp)
{
    struct limits *l = *lp;

    *lp = NULL;
    if (l == NULL)
        return;
    CHECK_MAGIC(l, LIMITS_MAGIC);
    for (int i = 0; i < LIMITS_TABLES; i++) {
        size_t pos = 0;
        void *e;
        while (l->table[i].map != NULL && map_next(l->table[i].map, &pos, NULL, &e))
            free(e);
        map_free(&l->table[i].map);
    }
    pthread_mutex_destroy(&l->lock);
    l->magic = OMID_MAGIC_DEAD;
    free(l);
}

size_t limits_count(struct limits *l, enum limits_table table)
{
    CHECK_MAGIC(l, LIMITS_MAGIC);
    pthread_mutex_lock(&l->lock);
    size_t n = map_count(l->table[table].map);
    pthread_mutex_unlock(&l->lock);
    return n;
}

unsigned limits_strangers(struct limits *l)
{
    CHECK_MAGIC(l, LIMITS_MAGIC);
    pthread_mutex_lock(&l->lock);
    unsigned n = l->strangers;
    pthread_mutex_unlock(&l->lock);
    return n;
}

uint64_t limits_evicted(struct limits *l)
{
    CHECK_MAGIC(l, LIMITS_MAGIC);
    pthread_mutex_lock(&l->lock);
    uint64_t n = l->evicted;
    pthread_mutex_unlock(&l->lock);
    return n;
}
