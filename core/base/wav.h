/* RIFF/WAVE files in memory: finding the samples of strangers' files, writing headers. */
#ifndef OMID_BASE_WAV_H
#define OMID_BASE_WAV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WAV_HEADER_LEN 44

struct wav {
    unsigned channels, sample_rate, bits;
    bool is_float;
    const unsigned char *data; /* into the caller's bytes */
    size_t len;     /* whole frames; clipped to what is there when the header lies, all of it when it does not know */
    bool truncated; /* the header promised more */
};

/* false with a reason a user can act on ("not a RIFF file", "no fmt chunk", "format 85 is not PCM", ...). */
bool wav_parse(struct wav *w, const void *bytes, size_t len, char *err, size_t errlen);
/* Canonical 44-byte header for s16le. */
void wav_header(unsigned char out[WAV_HEADER_LEN], unsigned channels, unsigned sample_rate, uint32_t data_len);

#endif
