#include "base/map.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/magic.h"

#define MAP_MAGIC UINT32_C(0x6d617000)
#define MIN_SLOTS 16

struct slot {
    char *key; /* NULL: never used; TOMB: removed */
    uint64_t hash;
    void *value;
};
struct map {
    uint32_t magic;
    struct slot *slot;
    size_t n_slots; /* a power of two */
    size_t used;    /* with tombs */
    size_t count;
};
static char tomb;
#define TOMB (&tomb)

struct map *map_new(void)
{
    struct map *m = calloc(1, sizeof *m);
    struct slot *slot = calloc(MIN_SLOTS, sizeof *slot);
    if (!m || !slot) {
        free(m);
        free(slot);
        return NULL;
    }
    *m = (struct map){.magic = MAP_MAGIC, .slot = slot, .n_slots = MIN_SLOTS};
    return m;
}

void map_free(struct map **mp)
{
    struct map *m = *mp;
    if (!m)
        return;
    CHECK_MAGIC(m, MAP_MAGIC);
    *mp = NULL;
    for (size_t i = 0; i < m->n_slots; i++) {
        if (m->slot[i].key != TOMB)
            free(m->slot[i].key);
    }
    free(m->slot);
    m->magic = OMID_MAGIC_DEAD;
    free(m);
}

/* Where the key is, or NULL. */
static struct slot *find(const struct map *m, const char *k, uint64_t hash)
{
    for (size_t i = hash & (m->n_slots - 1);; i = (i + 1) & (m->n_slots - 1)) {
        struct slot *s = &m->slot[i];
        if (!s->key)
            return NULL;
        if (s->key != TOMB && s->hash == hash && strcmp(s->key, k) == 0)
            return s;
    }
}

static struct slot *vacant(struct slot *slot, size_t n_slots, uint64_t hash)
{
    size_t i = hash & (n_slots - 1);
    while (slot[i].key && slot[i].key != TOMB)
        i = (i + 1) & (n_slots - 1);
    return &slot[i];
}

/* Room for one more at a load of at most 3/4, tombs swept out. */
static bool grow(struct map *m)
{
    if ((m->used + 1) * 4 <= m->n_slots * 3)
        return true;
    size_t n = m->n_slots;
    while ((m->count + 1) * 2 > n)
        n *= 2;
    struct slot *slot = calloc(n, sizeof *slot);
    if (!slot)
        return m->used + 1 < m->n_slots; /* denser than we like */
    for (size_t i = 0; i < m->n_slots; i++) {
        if (m->slot[i].key && m->slot[i].key != TOMB)
            *vacant(slot, n, m->slot[i].hash) = m->slot[i];
    }
    free(m->slot);
    m->slot = slot;
    m->n_slots = n;
    m->used = m->count;
    return true;
}

void *map_get(const struct map *m, const char *k)
{
    CHECK_MAGIC(m, MAP_MAGIC);
    struct slot *s = find(m, k, hash_keyed(k, strlen(k)));
    return s ? s->value : NULL;
}

bool map_put(struct map *m, const char *k, void *value, void **old)
{
    CHECK_MAGIC(m, MAP_MAGIC);
    uint64_t hash = hash_keyed(k, strlen(k));
    struct slot *s = find(m, k, hash);
    if (old)
        *old = s ? s->value : NULL;
    if (s) {
        s->value = value;
        return true;
    }
    char *copy = strdup(k);
    if (!copy || !grow(m)) {
        free(copy);
        return false;
    }
    s = vacant(m->slot, m->n_slots, hash);
    if (!s->key)
        m->used++;
    *s = (struct slot){.key = copy, .hash = hash, .value = value};
    m->count++;
    return true;
}

void *map_remove(struct map *m, const char *k)
{
    CHECK_MAGIC(m, MAP_MAGIC);
    struct slot *s = find(m, k, hash_keyed(k, strlen(k)));
    if (!s)
        return NULL;
    void *value = s->value;
    free(s->key);
    *s = (struct slot){.key = TOMB};
    m->count--;
    return value;
}

size_t map_count(const struct map *m)
{
    CHECK_MAGIC(m, MAP_MAGIC);
    return m->count;
}

bool map_next(const struct map *m, size_t *pos, const char **k, void **value)
{
    CHECK_MAGIC(m, MAP_MAGIC);
    for (; *pos < m->n_slots; (*pos)++) {
        const struct slot *s = &m->slot[*pos];
        if (!s->key || s->key == TOMB)
            continue;
        if (k)
            *k = s->key;
        if (value)
            *value = s->value;
        (*pos)++;
        return true;
    }
    return false;
}
