/*
 * Places that were looked up, shared by the instances of all reactors under a lock: known ones, the longest unused one
 * of which goes for one more, and those that are being looked up, so that it is done once.
 *
 * A look-up has one owner: the instance that found nothing. It settles what it began, sooner or later, whatever comes
 * of it. Others of the same place wait: those of the owner's reactor are told by it, those of other reactors look here
 * every few milliseconds, for there is no way from one reactor to another.
 */
#ifndef OMID_GEOCODING_CACHE_H
#define OMID_GEOCODING_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "answer.h"

struct gc_cache;

struct gc_cache *gc_cache_new(size_t max); /* entries; NULL: no memory */
void gc_cache_free(struct gc_cache **c);

enum gc_found {
    GC_KNOWN,   /* *members is a copy, free() it */
    GC_BEGUN,   /* nobody knows: you look it up, and settle it */
    GC_PENDING, /* somebody is at it; *owner says who */
    GC_FULL,    /* all entries are being looked up */
    GC_MEMORY,
};
/* now_ms: Unix ms. */
enum gc_found gc_cache_begin(struct gc_cache *c, const char *key, const void *owner, int64_t now_ms, char **members,
                             const void **who);
/* The owner's: known until ends_ms, or (members NULL) not. The failure's result and text stay for whoever waits, until
 * the next look-up. */
void gc_cache_settle(struct gc_cache *c, const char *key, const char *members, int64_t ends_ms, int result,
                     const char *text);
/* For who waits: GC_PENDING, GC_KNOWN, or GC_MEMORY: it failed, result and text say how. */
enum gc_found gc_cache_look(struct gc_cache *c, const char *key, int64_t now_ms, char **members, int *result,
                            char *text, size_t size);
size_t gc_cache_count(struct gc_cache *c);

#endif
