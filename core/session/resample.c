#include "session/resample.h"

#include <speex/speex_resampler.h>
#include <stdlib.h>

#include "base/magic.h"
#include "session/codec.h"

#define RESAMPLER_MAGIC UINT32_C(0x72736d70)
/* Speech: a filter of 48 taps at the lower rate. */
#define QUALITY SPEEX_RESAMPLER_QUALITY_VOIP
/* Taps and history of such a filter at these rates; measured 1 to 4 KiB. */
#define BYTES 4096

struct resampler {
    uint32_t magic;
    uint32_t from, to;
    SpeexResamplerState *state;
};

struct resampler *resampler_new(uint32_t from, uint32_t to)
{
    int err = 0;
    struct resampler *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->magic = RESAMPLER_MAGIC;
    r->from = from;
    r->to = to;
    r->state = speex_resampler_init(1, from, to, QUALITY, &err);
    if (!r->state) {
        free(r);
        return NULL;
    }
    speex_resampler_skip_zeros(r->state);
    return r;
}

uint32_t resampler_from(const struct resampler *r)
{
    CHECK_MAGIC(r, RESAMPLER_MAGIC);
    return r->from;
}

bool resampler_run(struct resampler *r, const int16_t *pcm, size_t n, struct pcm *out)
{
    CHECK_MAGIC(r, RESAMPLER_MAGIC);
    while (n > 0) {
        spx_uint32_t in = n < 8192 ? (spx_uint32_t)n : 8192;
        spx_uint32_t room = (spx_uint32_t)((uint64_t)in * r->to / r->from) + 8;
        if (!pcm_reserve(out, room))
            return false;
        if (speex_resampler_process_int(r->state, 0, pcm, &in, out->data + out->n, &room) != RESAMPLER_ERR_SUCCESS ||
            (in == 0 && room == 0))
            return false;
        out->n += room;
        pcm += in;
        n -= in;
    }
    return true;
}

size_t resampler_bytes(const struct resampler *r)
{
    CHECK_MAGIC(r, RESAMPLER_MAGIC);
    return sizeof *r + BYTES;
}

void resampler_free(struct resampler **rp)
{
    struct resampler *r = *rp;
    if (!r)
        return;
    CHECK_MAGIC(r, RESAMPLER_MAGIC);
    *rp = NULL;
    speex_resampler_destroy(r->state);
    r->magic = OMID_MAGIC_DEAD;
    free(r);
}
