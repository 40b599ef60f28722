/*
 * Voice activity on this machine: WebRTC's detector says of every 10 ms whether they are voiced, and the share of the
 * voiced among the last ten is the probability that somebody speaks.
 */
#include <speex/speex_resampler.h>
#include <stdlib.h>
#include <string.h>

#include "vad.h"
#include "webrtc.h"

#define FRAMES 10 /* that the probability is a share of: 100 ms */
#define HISTORY ((1u << FRAMES) - 1)
#define MAX_FRAME (48000 / 100) /* samples */
#define RESAMPLER_QUALITY 3     /* 0..10: the detector looks at bands below 4 kHz */

struct engine {
    VadInst *vad;
    SpeexResamplerState *resampler; /* NULL: the detector knows the rate */
    int rate;                       /* that it works at */
    size_t frame;                   /* samples of 10 ms of it */
    size_t n;                       /* of the frame under way */
    unsigned voiced;                /* one bit per frame, the newest lowest; the time before the first is silence */
    int16_t pcm[MAX_FRAME];
};

static bool is_native(uint32_t rate)
{
    return rate == 8000 || rate == 16000 || rate == 32000 || rate == 48000;
}

void vad_detector_close(void *p)
{
    struct engine *e = p;
    if (e->vad != NULL)
        WebRtcVad_Free(e->vad);
    if (e->resampler != NULL)
        speex_resampler_destroy(e->resampler);
    free(e);
}

int vad_detector_open(const struct vad *v, uint32_t rate, void **engine)
{
    if (rate < 8000 || rate > 48000)
        return OMID_ENOTSUP;
    struct engine *e = calloc(1, sizeof(*e));
    if (e == NULL)
        return OMID_ERR;
    e->rate = is_native(rate) ? (int)rate : rate < 16000 ? 8000 : 16000;
    e->frame = (size_t)e->rate / 100;
    e->vad = WebRtcVad_Create();
    if ((uint32_t)e->rate != rate)
        e->resampler = speex_resampler_init(1, rate, (spx_uint32_t)e->rate, RESAMPLER_QUALITY, NULL);
    if (e->vad == NULL || (e->resampler == NULL && !is_native(rate)) || WebRtcVad_Init(e->vad) != 0 ||
        WebRtcVad_set_mode(e->vad, v->mode) != 0 || WebRtcVad_ValidRateAndFrameLength(e->rate, e->frame) != 0) {
        v->host->log(v->mod, OMID_LOG_ERROR, "no detector for %u Hz: no memory, or a library that is not as expected",
                     (unsigned)rate);
        vad_detector_close(e);
        return OMID_ERR;
    }
    *engine = e;
    return OMID_OK;
}

static bool engine_decide(struct engine *e, const int16_t *frame)
{
    int rc = WebRtcVad_Process(e->vad, e->rate, frame, e->frame);
    e->voiced = (e->voiced << 1 | (rc == 1)) & HISTORY;
    return rc >= 0;
}

/* Audio of the detector's rate. Whole frames are looked at where they lie. */
static bool engine_feed(struct engine *e, const int16_t *pcm, size_t n)
{
    while (n > 0) {
        const int16_t *frame = pcm;
        size_t take = e->frame - e->n;
        take = take < n ? take : n;
        if (take < e->frame) {
            memcpy(e->pcm + e->n, pcm, take * sizeof(*pcm));
            e->n += take;
            frame = e->pcm;
        }
        pcm += take;
        n -= take;
        if (frame == e->pcm && e->n < e->frame)
            return true;
        e->n = 0;
        if (!engine_decide(e, frame))
            return false;
    }
    return true;
}

static bool engine_resample(struct engine *e, const int16_t *pcm, size_t n)
{
    int16_t out[MAX_FRAME];
    while (n > 0) {
        spx_uint32_t in_len = (spx_uint32_t)(n < 1u << 20 ? n : 1u << 20), out_len = MAX_FRAME;
        if (speex_resampler_process_int(e->resampler, 0, pcm, &in_len, out, &out_len) != RESAMPLER_ERR_SUCCESS ||
            (in_len == 0 && out_len == 0))
            return false;
        if (!engine_feed(e, out, out_len))
            return false;
        pcm += in_len;
        n -= in_len;
    }
    return true;
}

int vad_detector_window(void *engine, const int16_t *pcm, size_t samples, float *probability)
{
    struct engine *e = engine;
    if (!(e->resampler != NULL ? engine_resample(e, pcm, samples) : engine_feed(e, pcm, samples)))
        return OMID_ERR;
    *probability = (float)__builtin_popcount(e->voiced) / FRAMES;
    return OMID_OK;
}
