#include "base/map.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
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

/* ------------------------------------------------------------------- SipHash-1-3 */

static uint64_t key[2];
static pthread_once_t key_once = PTHREAD_ONCE_INIT;

static void key_make(void)
{
    id_random(key, sizeof key);
}

#define ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = ROTL(v[1], 13) ^ v[0];
    v[0] = ROTL(v[0], 32);
    v[2] += v[3];
    v[3] = ROTL(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = ROTL(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = ROTL(v[1], 17) ^ v[2];
    v[2] = ROTL(v[2], 32);
}

uint64_t map_siphash(const uint64_t secret[2], const void *data, size_t len)
{
    uint64_t v[4] = {secret[0] ^ UINT64_C(0x736f6d6570736575), secret[1] ^ UINT64_C(0x646f72616e646f6d),
                     secret[0] ^ UINT64_C(0x6c7967656e657261), secret[1] ^ UINT64_C(0x7465646279746573)};
    const unsigned char *p = data;
    uint64_t last = (uint64_t)len << 56, m;
    for (; len >= 8; len -= 8, p += 8) {
        memcpy(&m, p, 8);
        v[3] ^= m;
        sip_round(v);
        v[0] ^= m;
    }
    for (size_t i = 0; i < len; i++)
        last |= (uint64_t)p[i] << (8 * i);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t map_hash(const void *data, size_t len)
{
    pthread_once(&key_once, key_make);
    return map_siphash(key, data, len);
}

/* ------------------------------------------------------------------------- table */

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
    struct slot *s = find(m, k, map_hash(k, strlen(k)));
    return s ? s->value : NULL;
}

bool map_put(struct map *m, const char *k, void *value, void **old)
{
    CHECK_MAGIC(m, MAP_MAGIC);
    uint64_t hash = map_hash(k, strlen(k));
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
    struct slot *s = find(m, k, map_hash(k, strlen(k)));
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
