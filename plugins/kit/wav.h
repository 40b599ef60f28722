/* Writing WAV files in memory, for plugins. */
#ifndef OMID_KIT_WAV_H
#define OMID_KIT_WAV_H

#include <stddef.h>
#include <stdint.h>

#define KIT_WAV_HEADER 44
/* More does not fit into a WAV file. */
#define KIT_WAV_MAX_SAMPLES ((size_t)(UINT32_MAX - KIT_WAV_HEADER) / 2)

/* Bytes of a file of mono s16le with so many samples, at most KIT_WAV_MAX_SAMPLES. */
static inline size_t kit_wav_size(size_t samples)
{
    return KIT_WAV_HEADER + samples * 2;
}
/* Writes kit_wav_size(samples) bytes. */
void kit_wav_write(unsigned char *out, const int16_t *pcm, size_t samples, uint32_t sample_rate);

#endif
