/*
 * Opus by libopus, one packet per frame, at 16 kHz. A packet decodes into a fixed room, as in the Omi backend: 160
 * samples (10 ms) as `opus`, 320 (20 ms) as `opus_fs320`. Shorter ones are taken, a longer one is dropped.
 */
#include <opus/opus.h>
#include <stdlib.h>

#include "session/codec_int.h"

#define MAX_CAPACITY 320

static bool opus_open(struct decoder *d)
{
    int size = opus_decoder_get_size(1);
    d->state = size > 0 ? malloc((size_t)size) : NULL;
    d->state_bytes = (size_t)size;
    return d->state && opus_decoder_init(d->state, CODEC_RATE, 1) == OPUS_OK;
}

static void opus_packet(struct decoder *d, const unsigned char *data, size_t len)
{
    int16_t pcm[MAX_CAPACITY];
    int capacity = d->p.codec == CODEC_OPUS ? 160 : MAX_CAPACITY;
    /* No packet is longer; an empty one asks libopus to conceal a loss. */
    if (len == 0 || len > 48 * 1277) {
        d->drops.malformed++;
        return;
    }
    int n = opus_decode(d->state, data, (opus_int32)len, pcm, capacity, 0);
    if (n > 0)
        decoder_emit(d, pcm, (size_t)n, CODEC_RATE);
    else if (n == OPUS_BUFFER_TOO_SMALL)
        d->drops.too_long++;
    else
        d->drops.malformed++;
}

const struct codec_ops codec_opus = {.open = opus_open, .packet = opus_packet};
