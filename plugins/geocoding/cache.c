#include "cache.h"

#include <omid/plugin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum state { PENDING, KNOWN, FAILED };

struct entry {
    struct entry *chain;         /* of its bucket */
    struct entry *newer, *older; /* by use */
    char key[GC_KEY_LEN];
    enum state state;
    const void *owner; /* PENDING */
    char *members;     /* KNOWN */
    int64_t ends_ms;
    int result; /* FAILED */
    char text[160];
};

struct gc_cache {
    pthread_mutex_t lock;
    size_t max, n, n_buckets; /* a power of two */
    struct entry **bucket;
    struct entry *newest, *oldest;
};

struct gc_cache *gc_cache_new(size_t max)
{
    struct gc_cache *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return NULL;
    c->max = max;
    for (c->n_buckets = 64; c->n_buckets < max && c->n_buckets < 65536;)
        c->n_buckets *= 2;
    c->bucket = calloc(c->n_buckets, sizeof(*c->bucket));
    if (c->bucket == NULL) {
        free(c);
        return NULL;
    }
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

static struct entry **bucket_of(struct gc_cache *c, const char *key)
{
    uint32_t h = UINT32_C(2166136261);
    for (; *key != '\0'; key++)
        h = (h ^ (unsigned char)*key) * UINT32_C(16777619);
    return &c->bucket[(h ^ h >> 16) & (c->n_buckets - 1)];
}

static struct entry *find(struct gc_cache *c, const char *key)
{
    struct entry *e = *bucket_of(c, key);
    while (e != NULL && strcmp(e->key, key) != 0)
        e = e->chain;
    return e;
}

static void use_unlink(struct gc_cache *c, struct entry *e)
{
    *(e->newer != NULL ? &e->newer->older : &c->newest) = e->older;
    *(e->older != NULL ? &e->older->newer : &c->oldest) = e->newer;
}

static void use_first(struct gc_cache *c, struct entry *e)
{
    e->newer = NULL;
    e->older = c->newest;
    *(c->newest != NULL ? &c->newest->newer : &c->oldest) = e;
    c->newest = e;
}

static void used(struct gc_cache *c, struct entry *e)
{
    use_unlink(c, e);
    use_first(c, e);
}

static void forget(struct gc_cache *c, struct entry *e)
{
    struct entry **at = bucket_of(c, e->key);
    while (*at != e)
        at = &(*at)->chain;
    *at = e->chain;
    use_unlink(c, e);
    c->n--;
    free(e->members);
    free(e);
}

/* The longest unused one that nobody is at. */
static bool make_room(struct gc_cache *c)
{
    for (struct entry *e = c->oldest; e != NULL; e = e->newer) {
        if (e->state == PENDING)
            continue;
        forget(c, e);
        return true;
    }
    return false;
}

void gc_cache_free(struct gc_cache **cp)
{
    struct gc_cache *c = *cp;
    *cp = NULL;
    if (c == NULL)
        return;
    while (c->newest != NULL)
        forget(c, c->newest);
    pthread_mutex_destroy(&c->lock);
    free(c->bucket);
    free(c);
}

static bool is_known(const struct entry *e, int64_t now_ms)
{
    return e->state == KNOWN && e->ends_ms > now_ms;
}

static struct entry *entry_add(struct gc_cache *c, const char *key)
{
    struct entry *e = calloc(1, sizeof(*e));
    if (e == NULL)
        return NULL;
    snprintf(e->key, sizeof(e->key), "%s", key);
    struct entry **bucket = bucket_of(c, key);
    e->chain = *bucket;
    *bucket = e;
    use_first(c, e);
    c->n++;
    return e;
}

static enum gc_found begin_locked(struct gc_cache *c, const char *key, const void *owner, int64_t now_ms,
                                  char **members, const void **who)
{
    struct entry *e = find(c, key);
    if (e != NULL && e->state == PENDING) {
        *who = e->owner;
        return GC_PENDING;
    }
    if (e != NULL && is_known(e, now_ms)) {
        used(c, e);
        *members = strdup(e->members);
        return *members != NULL ? GC_KNOWN : GC_MEMORY;
    }
    if (e == NULL && c->n >= c->max && !make_room(c))
        return GC_FULL;
    if (e == NULL)
        e = entry_add(c, key);
    else
        used(c, e);
    if (e == NULL)
        return GC_MEMORY;
    free(e->members);
    e->members = NULL;
    e->state = PENDING;
    e->owner = owner;
    return GC_BEGUN;
}

enum gc_found gc_cache_begin(struct gc_cache *c, const char *key, const void *owner, int64_t now_ms, char **members,
                             const void **who)
{
    pthread_mutex_lock(&c->lock);
    enum gc_found found = begin_locked(c, key, owner, now_ms, members, who);
    pthread_mutex_unlock(&c->lock);
    return found;
}

void gc_cache_settle(struct gc_cache *c, const char *key, const char *members, int64_t ends_ms, int result,
                     const char *text)
{
    pthread_mutex_lock(&c->lock);
    struct entry *e = find(c, key); /* nobody else forgets a pending one */
    e->members = members != NULL ? strdup(members) : NULL;
    e->state = e->members != NULL ? KNOWN : FAILED;
    e->owner = NULL;
    e->ends_ms = ends_ms;
    e->result = members != NULL ? OMID_ERR : result;
    snprintf(e->text, sizeof(e->text), "%s", members != NULL ? "out of memory" : text);
    pthread_mutex_unlock(&c->lock);
}

enum gc_found gc_cache_look(struct gc_cache *c, const char *key, int64_t now_ms, char **members, int *result,
                            char *text, size_t size)
{
    enum gc_found found = GC_MEMORY;
    pthread_mutex_lock(&c->lock);
    struct entry *e = find(c, key);
    *result = OMID_ERR;
    snprintf(text, size, "out of memory");
    if (e != NULL && e->state == PENDING) {
        found = GC_PENDING;
    } else if (e != NULL && is_known(e, now_ms)) {
        *members = strdup(e->members);
        found = *members != NULL ? GC_KNOWN : GC_MEMORY;
    } else {
        *result = e != NULL && e->state == FAILED ? e->result : OMID_ERR;
        snprintf(text, size, "%s", e != NULL && e->state == FAILED ? e->text : "it was forgotten at once: no room");
    }
    pthread_mutex_unlock(&c->lock);
    return found;
}

size_t gc_cache_count(struct gc_cache *c)
{
    pthread_mutex_lock(&c->lock);
    size_t n = c->n;
    pthread_mutex_unlock(&c->lock);
    return n;
}
