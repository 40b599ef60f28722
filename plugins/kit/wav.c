#include "wav.h"

#include <string.h>

static void put16(unsigned char *p, unsigned v)
{
    p[0] = (unsigned char)v;
    p[1] = (unsigned char)(v >> 8);
}

static void put32(unsigned char *p, uint32_t v)
{
    put16(p, v & 0xffff);
    put16(p + 2, v >> 16);
}

void kit_wav_write(unsigned char *out, const int16_t *pcm, size_t samples, uint32_t sample_rate)
{
    uint32_t bytes = (uint32_t)(samples * 2);
    memcpy(out, "RIFF....WAVEfmt ", 16);
    put32(out + 4, bytes + KIT_WAV_HEADER - 8);
    put32(out + 16, 16);
    put16(out + 20, 1); /* PCM */
    put16(out + 22, 1); /* mono */
    put32(out + 24, sample_rate);
    put32(out + 28, sample_rate * 2);
    put16(out + 32, 2);
    put16(out + 34, 16);
    memcpy(out + 36, "data", 4);
    put32(out + 40, bytes);
    for (size_t i = 0; i < samples; i++)
        put16(out + KIT_WAV_HEADER + 2 * i, (uint16_t)pcm[i]);
}
