/*
 * Voice activity on this machine: WebRTC's detector says of every 10 ms whether they are voiced, and the share of the
 * voiced among the last ten is the probability that somebody speaks.
 */
#include <omid/plugin.h>
#include <speex/speex_resampler.h>
#include <stdlib.h>
#include <string.h>

#include "webrtc.h"

#define FRAMES 10 /* that the probability is a share of: 100 ms */
#define HISTORY ((1u << FRAMES) - 1)
#define MAX_FRAME (48000 / 100) /* samples */
#define RESAMPLER_QUALITY 3     /* 0..10: the detector looks at bands below 4 kHz */

struct vad {
    struct omid_module *mod;
    const struct omid_host *host;
    int mode;
};

struct engine {
    VadInst *vad;
    SpeexResamplerState *resampler; /* NULL: the detector knows the rate */
    int rate;                       /* that it works at */
    size_t frame;                   /* samples of 10 ms of it */
    size_t n;                       /* of the frame under way */
    unsigned voiced;                /* one bit per frame, the newest lowest; the time before the first is silence */
    int16_t pcm[MAX_FRAME];
};

static const struct omid_option options[] = {
    {.name = "mode",
     .type = OMID_OPT_INT,
     .def = "2",
     .min = 0,
     .max = 3,
     .help = "How much has to speak for speech: 0 takes most for speech, 3 the least."},
    {.name = NULL},
};

static bool is_native(uint32_t rate)
{
    return rate == 8000 || rate == 16000 || rate == 32000 || rate == 48000;
}

static void vad_close(void *p)
{
    struct engine *e = p;
    if (e->vad != NULL)
        WebRtcVad_Free(e->vad);
    if (e->resampler != NULL)
        speex_resampler_destroy(e->resampler);
    free(e);
}

static int vad_open(void *state, uint32_t rate, void **engine)
{
    const struct vad *v = state;
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
        vad_close(e);
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

static int vad_window(void *engine, const int16_t *pcm, size_t samples, float *probability)
{
    struct engine *e = engine;
    if (!(e->resampler != NULL ? engine_resample(e, pcm, samples) : engine_feed(e, pcm, samples)))
        return OMID_ERR;
    *probability = (float)__builtin_popcount(e->voiced) / FRAMES;
    return OMID_OK;
}

/* The only setting, checked by its option: what the instances share is a number. */
static int vad_configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    struct vad *v = calloc(1, sizeof(*v));
    if (v == NULL)
        return OMID_ERR;
    v->mod = mod;
    v->host = host;
    v->mode = (int)host->conf_int(mod, "mode");
    *shared = v;
    return OMID_OK;
}

static int vad_start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    (void)inst;
    (void)host;
    *state = shared;
    return OMID_OK;
}

static void vad_stop(void *state)
{
    (void)state; /* shared, and unconfigure()'s; engines are the sessions' */
}

static const struct omid_vad_role vad = {
    .size = sizeof(struct omid_vad_role),
    .open = vad_open,
    .window = vad_window,
    .close = vad_close,
};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,    .name = "vad",
    .version = "1.0",    .summary = "voice activity with WebRTC's detector",
    .options = options,  .configure = vad_configure,
    .unconfigure = free, .start = vad_start,
    .stop = vad_stop,    .vad = &vad,
};
