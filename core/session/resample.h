/* One mono stream of samples from one rate to another, on libspeexdsp. Continuous over calls: what was heard before
 * shapes what comes out. Delays by its filter, under 2 ms; the first samples are no silence of the filter's. */
#ifndef OMID_SESSION_RESAMPLE_H
#define OMID_SESSION_RESAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pcm;
struct resampler;

/* Rates in Hz, 4000 to 192000, not the same. NULL: no memory. */
struct resampler *resampler_new(uint32_t from, uint32_t to);
uint32_t resampler_from(const struct resampler *r);
/* Appends what comes of n samples. false: no memory. */
bool resampler_run(struct resampler *r, const int16_t *pcm, size_t n, struct pcm *out);
/* About what it holds. */
size_t resampler_bytes(const struct resampler *r);
void resampler_free(struct resampler **r);

#endif
