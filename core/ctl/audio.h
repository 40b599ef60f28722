/* The recording that omictl listen sends. */
#ifndef OMID_CTL_AUDIO_H
#define OMID_CTL_AUDIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct audio {
    int16_t *pcm; /* mono */
    size_t samples;
    unsigned sample_rate;
};

/* A WAV file (8, 16, 24, 32 bits or float; channels are mixed to one), or with raw_rate > 0 headerless s16le mono.
 * false with a reason that names the file. */
bool audio_load(struct audio *a, const char *path, unsigned raw_rate, char *err, size_t errlen);
void audio_free(struct audio *a);

#endif
