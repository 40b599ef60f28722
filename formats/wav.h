/* RIFF/WAVE files in memory: finding the samples of strangers' files, writing files of our own. */
#ifndef OMID_FORMATS_WAV_H
#define OMID_FORMATS_WAV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WAV_HEADER_LEN 44
/* Mono s16le: more does not fit into a WAV file. */
#define WAV_MAX_SAMPLES ((size_t)(UINT32_MAX - WAV_HEADER_LEN) / 2)

struct wav {
    unsigned channels, sample_rate, bits; /* PCM of 8, 16, 24 or 32 bits, floats of 32 or 64 */
    bool is_float;
    const unsigned char *data; /* into the caller's bytes */
    size_t len; /* whole frames; clipped to what is there when the header lies, all of it when it does not know */
    size_t frames;
    bool truncated; /* the header promised more */
};

/* false with a reason a user can act on ("not a RIFF file", "no fmt chunk", "format 85 is not PCM", ...). A header that
 * says 0 or ~0 bytes is of a recorder that could not seek back: all that is there counts. */
bool wav_parse(struct wav *w, const void *bytes, size_t len, char *err, size_t errlen);
/* One sample, of w->bits / 8 bytes; 1 is full scale. Floats may be beyond it, or no numbers. */
double wav_sample(const struct wav *w, const unsigned char *p);
/* n frames from frame `from` on, all channels mixed into one. Floats that are no numbers are silence; beyond 1 clipped.
 */
void wav_mono(const struct wav *w, size_t from, size_t n, int16_t *out);

/* Canonical 44-byte header for s16le. */
void wav_header(unsigned char out[WAV_HEADER_LEN], unsigned channels, unsigned sample_rate, uint32_t data_len);
/* A whole file of mono s16le with so many samples, at most WAV_MAX_SAMPLES. */
static inline size_t wav_size(size_t samples)
{
    return WAV_HEADER_LEN + samples * 2;
}
void wav_write(unsigned char *out, const int16_t *pcm, size_t samples, unsigned sample_rate);

#endif
