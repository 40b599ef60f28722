/*
 * The detector over a whole recording: speech is where at least half of the last 100 ms is voiced. That is heard 50 ms
 * late, at both ends.
 */
#include "vad.h"

#define SPEECH 0.5F
#define LATE 0.05

static double second(size_t samples, uint32_t rate)
{
    return (double)samples / rate;
}

static bool speech_end(struct vad_scan *s, const struct vad *v)
{
    s->speaks = false;
    return vad_intervals_add(&s->found, s->start - LATE - v->pad, s->last - LATE + v->pad);
}

/* One chunk of 10 ms, that ends at this second. */
static bool heard(struct vad_scan *s, const struct vad *v, float probability, double now)
{
    if (probability >= SPEECH) {
        if (!s->speaks)
            s->start = now;
        s->speaks = true;
        s->last = now;
        return true;
    }
    return !s->speaks || speech_end(s, v);
}

int vad_scan_piece(struct vad_scan *s, const struct vad *v, const int16_t *pcm, size_t samples, uint32_t rate)
{
    const size_t chunk = rate / 100;
    size_t until = s->at + (size_t)rate * VAD_PIECE_SECONDS;
    until = until < samples ? until : samples;
    if (s->engine == NULL) {
        int rc = vad_detector_open(v, rate, &s->engine);
        if (rc != OMID_OK)
            return rc;
    }
    while (s->at < until) {
        const size_t n = samples - s->at < chunk ? samples - s->at : chunk;
        float probability;
        if (vad_detector_window(s->engine, pcm + s->at, n, &probability) != OMID_OK)
            return OMID_ERR;
        s->at += n;
        if (!heard(s, v, probability, second(s->at, rate)))
            return OMID_EFULL;
    }
    if (s->at < samples)
        return 1;
    if (s->speaks) {
        s->last += LATE; /* nothing came that would have ended it */
        if (!speech_end(s, v))
            return OMID_EFULL;
    }
    vad_intervals_mend(&s->found, second(samples, rate), v->gap);
    return 0;
}

void vad_scan_free(struct vad_scan *s)
{
    if (s->engine != NULL)
        vad_detector_close(s->engine);
    vad_intervals_free(&s->found);
    *s = (struct vad_scan){0};
}
