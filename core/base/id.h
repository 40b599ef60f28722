/* Random numbers and identifiers from getrandom(2), buffered per thread. Any thread. */
#ifndef OMID_BASE_ID_H
#define OMID_BASE_ID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void id_random(void *out, size_t len); /* aborts when the kernel has no randomness */
uint64_t id_random_u64(void);
double id_random_unit(void); /* 0 <= x < 1 */
void id_uuid4(char out[37]);
bool id_is_uuid(const char *s); /* 8-4-4-4-12 hex */
/* Constant time in len; lengths are compared by the caller. */
bool id_equal_ct(const void *a, const void *b, size_t len);

#endif
