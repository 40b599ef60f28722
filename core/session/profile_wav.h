/* A recording that somebody has uploaded as a voice: checked, and made what voices are taken from. Pure; takes time:
 * for a thread of an executor. */
#ifndef OMID_SESSION_PROFILE_WAV_H
#define OMID_SESSION_PROFILE_WAV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "session/codec.h"

struct profile_limits {
    uint32_t min_ms, max_ms;
};
/* From the bytes of a WAV file to mono samples at SPEAKERS_RATE, appended to out. false with what is wrong and where:
 * the format, the length, a header that does not tell the truth, silence, or clipping throughout. */
bool profile_wav(const void *bytes, size_t len, const struct profile_limits *limits, struct pcm *out, char *err,
                 size_t errlen);

#endif
