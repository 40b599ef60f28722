/* Between codec.c and the files of the libraries. */
#ifndef OMID_SESSION_CODEC_INT_H
#define OMID_SESSION_CODEC_INT_H

#include "session/codec.h"
#include "session/resample.h"

struct decoder;

/* One library. */
struct codec_ops {
    /* Makes d->state and sets d->state_bytes. false: no memory, or refused. */
    bool (*open)(struct decoder *d);
    /* Gives samples to decoder_emit(), counts what it drops in d->drops. */
    void (*packet)(struct decoder *d, const unsigned char *data, size_t len);
    /* Frees d->state; NULL: it is plain memory. */
    void (*close)(struct decoder *d);
};

struct decoder {
    uint32_t magic;
    struct decoder_params p;
    const struct codec_ops *ops;
    void *state;
    size_t state_bytes, charged;
    struct resampler *resampler; /* NULL: the rates are the same, or nothing came yet */
    /* Of the packet under way. */
    struct pcm *out;
    size_t limit; /* of out->n */
    struct decoder_drops drops;
};
#define DECODER_MAGIC UINT32_C(0x64636f64)

extern const struct codec_ops codec_opus, codec_lc3, codec_aac;

/* To the decoder's rate and behind what is there. false: the packet's bound is reached, or there is no memory; it
 * has been counted, and the rest of the packet is not worth decoding. */
bool decoder_emit(struct decoder *d, const int16_t *pcm, size_t n, uint32_t rate);
void codec_aac_setup(void);

#endif
