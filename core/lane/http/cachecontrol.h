/* How long an answer may be kept (RFC 9111). Pure; any thread. */
#ifndef OMID_LANE_HTTP_CACHECONTROL_H
#define OMID_LANE_HTTP_CACHECONTROL_H

#include <stdint.h>

#define CACHE_UNSAID INT64_C(-1)
#define CACHE_MAX_S INT64_C(2147483647) /* what is said to be more counts as this (RFC 9111, 1.2.2) */

/* Seconds by one Cache-Control field: max-age, 0 for no-store and no-cache, CACHE_UNSAID when it has neither. The least
 * of those that contradict each other; an unreadable max-age is 0. */
int64_t cache_max_age(const char *field);
/* The lesser of two, where one may be CACHE_UNSAID. */
int64_t cache_lesser(int64_t a, int64_t b);
/* Less what the answer has been under way in caches, by its Age field (NULL: absent). */
int64_t cache_aged(int64_t max_age, const char *age);

#endif
