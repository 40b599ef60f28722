/* What the geocoding service answers, and what is kept of it. */
#ifndef OMID_GEOCODING_ANSWER_H
#define OMID_GEOCODING_ANSWER_H

#include "plugins/kit/json.h"
#include "plugins/kit/text.h"

#define GC_MAX_ANSWER ((size_t)1 << 20)

/* The service's answer as members of a JSON object, "google_place_id":...,"address":...,"location_type":...,
 * malloc()ed. NULL: a fault; *nothing: there is no address. Unknown address and type are null. */
char *gc_answer_read(const char *json, size_t len, bool *nothing, struct kit_fault *f);

/* As it is kept in the store: with the end of its time, Unix ms. NULL: no memory, or (read) it is none of ours. */
char *gc_kept_write(const char *members, int64_t ends_ms);
char *gc_kept_read(const char *json, size_t len, int64_t *ends_ms);

/* "52.52": seven decimals at most, never an exponent. */
void gc_degrees(char out[32], double degrees);
/* "52.520,13.405": the place, three decimals of each. */
#define GC_KEY_LEN 24
void gc_key(char out[GC_KEY_LEN], double latitude, double longitude);

#endif
