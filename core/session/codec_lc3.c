/*
 * LC3 by liblc3: frames of 10 ms at 16 kHz. `lc3` is one frame per packet, of any legal length; `lc3_fs1030` has frames
 * of 30 bytes, one or more in a packet.
 */
#include <lc3.h>
#include <stdlib.h>

#include "session/codec_int.h"

#define FRAME_US 10000
#define FRAME_SAMPLES (CODEC_RATE / 100)
#define FS1030_BYTES 30

static bool lc3_open(struct decoder *d)
{
    d->state_bytes = lc3_decoder_size(FRAME_US, CODEC_RATE);
    d->state = d->state_bytes ? malloc(d->state_bytes) : NULL;
    return d->state && lc3_setup_decoder(FRAME_US, CODEC_RATE, 0, d->state);
}

static void lc3_packet(struct decoder *d, const unsigned char *data, size_t len)
{
    int16_t pcm[FRAME_SAMPLES];
    size_t frame = d->p.codec == CODEC_LC3 ? len : FS1030_BYTES;
    if (len == 0 || len % frame || frame < LC3_MIN_FRAME_BYTES || frame > LC3_MAX_FRAME_BYTES) {
        d->drops.malformed++;
        return;
    }
    for (size_t at = 0; at < len && d->drops.malformed < CODEC_MAX_DAMAGED; at += frame) {
        /* 1: a damaged frame was concealed; what libraries make up is not heard. */
        if (lc3_decode(d->state, data + at, (int)frame, LC3_PCM_FORMAT_S16, pcm, 1) != 0)
            d->drops.malformed++;
        else if (!decoder_emit(d, pcm, FRAME_SAMPLES, CODEC_RATE))
            return;
    }
}

const struct codec_ops codec_lc3 = {.open = lc3_open, .packet = lc3_packet};
