/* The one place that reads clocks. Modules with timing rules take `now` as an argument instead. Any thread. */
#ifndef OMID_BASE_CLOCK_H
#define OMID_BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_mono_ns(void);
uint64_t clock_mono_ms(void);
int64_t clock_wall_ms(void); /* Unix ms */
uint64_t clock_thread_cpu_ns(void);
/* RFC 3339 with milliseconds and +00:00, "2026-01-31T12:00:00.000+00:00" (29 characters and NUL). */
void clock_format_utc(int64_t unix_ms, char out[32]);

#endif
