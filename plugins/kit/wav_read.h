/* Reading WAV files of strangers, in memory. */
#ifndef OMID_KIT_WAV_READ_H
#define OMID_KIT_WAV_READ_H

#include "json.h"

struct kit_wav {
    unsigned channels, sample_rate, bits;
    bool is_float;
    const unsigned char *data; /* into the caller's bytes */
    size_t frames;             /* whole ones, that are there */
    bool truncated;            /* the header promised more */
};

/* false: a fault: no WAV, no PCM (8, 16, 24, 32 bits) or float (32, 64 bits), more than 64 channels. A header that says
 * 0 or ~0 bytes is of a recorder that could not seek back: all that is there counts. */
bool kit_wav_parse(struct kit_wav *w, const void *bytes, size_t len, struct kit_fault *f);
/* n frames from frame `from` on, all channels mixed into one. Floats that are none are silence; beyond 1 clipped. */
void kit_wav_mono(const struct kit_wav *w, size_t from, size_t n, int16_t *out);

#endif
