/*
 * Time zones by their names in the tz database, without the process-wide state of tzset(3): a zone is read into memory
 * of its own. Loading reads a file and blocks; all else is pure. Any thread; a zone is never changed.
 */
#ifndef OMID_BASE_ZONE_H
#define OMID_BASE_ZONE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ZONE_MAX_NAME 64

struct zone;

/* "Europe/Berlin"; "UTC" needs no file. NULL: err says why, and names the zone. Directory: $TZDIR, else
 * /usr/share/zoneinfo. */
struct zone *zone_load(const char *name, char *err, size_t errlen);
/* From a TZif file (RFC 8536) in memory. */
struct zone *zone_parse(const void *data, size_t len, char *err, size_t errlen);
void zone_free(struct zone **z);
bool zone_name_ok(const char *name); /* could be one: letters, digits and + - _ / within bounds */

/* Seconds to add to UTC for local time, at this moment (Unix seconds). */
int32_t zone_offset(const struct zone *z, int64_t unix_s);
/* The moment of a local time, given as seconds as if it were UTC: the first of two when the clock is set back, and
 * what the former offset gives in the gap when it is set forward. */
int64_t zone_moment(const struct zone *z, int64_t local_s);

/* Days since 1970-01-01 of a date, and back; "2026-01-31" (10 characters and NUL). */
#define ZONE_DATE_SIZE 11
int64_t zone_day(const struct zone *z, int64_t unix_s); /* the local date of a moment, as its number */
void zone_date_format(int64_t day, char out[ZONE_DATE_SIZE]);
bool zone_date_parse(const char *text, int64_t *day); /* years 1970 to 9999, dates that there are */

#endif
