/*
 * Voice activity that a test can write into the audio: loud (a sample of 8000 or more) is speech. The sample -32768 is
 * an error, -32767 an answer that is no number. open() refuses the rate 11025. Says at the end which engines are left.
 */
#include <math.h>

#include "plain.h"

static unsigned engines;

static int loudness_open(void *state, uint32_t rate, void **engine)
{
    if (rate == 11025)
        return OMID_ENOTSUP;
    engines++;
    *engine = state;
    return OMID_OK;
}

static int loudness_window(void *engine, const int16_t *pcm, size_t samples, float *probability)
{
    (void)engine;
    *probability = 0;
    for (size_t i = 0; i < samples; i++) {
        if (pcm[i] == INT16_MIN)
            return OMID_ERR;
        if (pcm[i] == -INT16_MAX) {
            *probability = NAN;
            return OMID_OK;
        }
        if (pcm[i] >= 8000)
            *probability = 1;
    }
    return OMID_OK;
}

static void loudness_close(void *engine)
{
    (void)engine;
    engines--;
}

static void loudness_stop(void *state)
{
    struct plain *p = state;
    if (engines > 0)
        p->host->log(p->host->module(p->inst), OMID_LOG_ERROR, "%u engines left open", engines);
    free(p);
}

static const struct omid_vad_role vad = {
    .size = sizeof(vad), .open = loudness_open, .window = loudness_window, .close = loudness_close};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,     .name = "loudness",    .version = "1.0", .summary = "Voice activity for tests",
    .start = plain_start, .stop = loudness_stop, .vad = &vad,
};
