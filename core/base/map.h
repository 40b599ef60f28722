/* A hash table from strings to pointers (open addressing, SipHash with a random key: the keys come from
 * strangers). Keys are copied; values are the caller's. One thread at a time. */
#ifndef OMID_BASE_MAP_H
#define OMID_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map;

struct map *map_new(void); /* NULL: no memory */
/* Frees the table and its keys. Values stay. */
void map_free(struct map **m);
void *map_get(const struct map *m, const char *key);
/* Replaces; *old (may be NULL) gets the former value or NULL. false: no memory, unchanged. */
bool map_put(struct map *m, const char *key, void *value, void **old);
void *map_remove(struct map *m, const char *key); /* the value, or NULL */
size_t map_count(const struct map *m);
/* Start with *pos = 0; false at the end. Meanwhile nothing may be put; the entry that it gave last may be
 * removed. */
bool map_next(const struct map *m, size_t *pos, const char **key, void **value);

#endif
