/*
 * What one address, or one user, may have of WebSockets: so many at once, so many upgrades a minute. A token bucket
 * each, that holds a minute's worth and fills evenly, so that an office that comes back after an outage is let in at
 * once.
 *
 * Two bounded tables. An entry without WebSockets is forgotten when its bucket is full again: with the last of them, or
 * at the latest a minute after it was last seen, when others come or go. A full table forgets the one that was idle
 * longest (counted); when none is idle, the newcomer is refused. Any thread; the time is passed in.
 */
#ifndef OMID_INGRESS_LIMITS_H
#define OMID_INGRESS_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LIMITS_ENTRIES 131072u /* per table */
#define LIMITS_MINUTE_MS UINT64_C(60000)
#define LIMITS_RETRY_S 10u /* told to whom has too many at once */

struct limits;
enum limits_table { LIMITS_ADDRESS, LIMITS_UID, LIMITS_TABLES };
struct limits_bounds {
    unsigned sessions, per_minute; /* both at least 1 */
};
enum limits_verdict {
    LIMITS_OK,
    LIMITS_SESSIONS, /* as many as it may have */
    LIMITS_RATE,     /* too many in this minute */
    LIMITS_FULL      /* the table, or memory */
};

struct limits *limits_new(size_t entries); /* per table. NULL: no memory */
void limits_free(struct limits **l);

/* LIMITS_OK: one more of this key; limits_leave() must follow. Else nothing was taken (a refused upgrade costs no
 * token), and *retry_s says when to come again. key: not empty, copied. */
enum limits_verdict limits_enter(struct limits *l, enum limits_table table, const char *key,
                                 const struct limits_bounds *bounds, uint64_t now_ms, unsigned *retry_s);
void limits_leave(struct limits *l, enum limits_table table, const char *key, uint64_t now_ms);

/* Of the WebSockets of this address, those whose user is not known yet: at most `max` in all, a quarter of them from
 * one address. Between limits_enter() and limits_leave() of the address. */
bool limits_stranger_enter(struct limits *l, const char *address, unsigned max);
void limits_stranger_leave(struct limits *l, const char *address);

size_t limits_count(struct limits *l, enum limits_table table);
unsigned limits_strangers(struct limits *l);
uint64_t limits_evicted(struct limits *l);

#endif
