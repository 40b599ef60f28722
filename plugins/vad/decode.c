#include <speex/speex_resampler.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "formats/multipart.h"
#include "formats/wav.h"
#include "vad.h"

#define MAX_WAV_RATE 192000
#define TO_RATE 16000  /* of audio that is resampled */
#define BLOCK 65536    /* frames */
#define MAX_PARTS 1000 /* of a multipart body */

/* "audio/wav; codecs=1" is audio/wav. */
static bool type_is(const char *content_type, const char *type)
{
    size_t n = strlen(type);
    return strncasecmp(content_type, type, n) == 0 && strchr("; \t", content_type[n]) != NULL;
}

const char *vad_decode_refuses(const char *content_type)
{
    static const char *const taken[] = {"audio/wav", "audio/wave", "audio/x-wav", "audio/vnd.wave",
                                        "application/octet-stream"};
    if (multipart_is(content_type))
        return NULL;
    for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
        if (type_is(content_type, taken[i]))
            return NULL;
    }
    return "Content-Type: expected audio/wav or multipart/form-data";
}

/* Frames from..n of the file as they come, mono. */
static bool resampled(struct vad_audio *out, const struct wav *w, struct kit_fault *f)
{
    const size_t cap = (size_t)((double)w->frames * TO_RATE / w->sample_rate) + 16;
    SpeexResamplerState *r = speex_resampler_init(1, w->sample_rate, TO_RATE, 3, NULL);
    int16_t *block = malloc(BLOCK * sizeof(*block));
    out->pcm = malloc(cap * sizeof(*out->pcm));
    bool ok = r != NULL && block != NULL && out->pcm != NULL;
    for (size_t at = 0; ok && at < w->frames;) {
        size_t n = w->frames - at < BLOCK ? w->frames - at : BLOCK;
        wav_mono(w, at, n, block);
        for (size_t used = 0; ok && used < n && out->samples < cap;) {
            spx_uint32_t in = (spx_uint32_t)(n - used), made = (spx_uint32_t)(cap - out->samples);
            ok = speex_resampler_process_int(r, 0, block + used, &in, out->pcm + out->samples, &made) ==
                     RESAMPLER_ERR_SUCCESS &&
                 (in > 0 || made > 0);
            used += in;
            out->samples += made;
        }
        at += n;
    }
    if (r != NULL)
        speex_resampler_destroy(r);
    free(block);
    if (!ok)
        kit_fault_set(f, "out of memory");
    return ok;
}

static bool as_they_are(struct vad_audio *out, const struct wav *w, struct kit_fault *f)
{
    out->pcm = malloc(w->frames * sizeof(*out->pcm));
    if (out->pcm == NULL) {
        kit_fault_set(f, "out of memory");
        return false;
    }
    out->samples = w->frames;
    wav_mono(w, 0, w->frames, out->pcm);
    return true;
}

static bool wav_decode(struct vad_audio *out, const void *file, size_t len, int *status, struct kit_fault *f)
{
    struct wav w;
    char why[128];
    if (!wav_parse(&w, file, len, why, sizeof(why))) {
        kit_fault_set(f, "WAV: %s", why);
        return false;
    }
    if (w.truncated)
        kit_fault_set(f, "WAV: its header promises more audio than there is");
    else if (w.frames == 0)
        kit_fault_set(f, "WAV: no samples");
    else if (w.sample_rate < VAD_MIN_RATE || w.sample_rate > MAX_WAV_RATE)
        kit_fault_set(f, "WAV: %u Hz, expected %d to %d", w.sample_rate, VAD_MIN_RATE, MAX_WAV_RATE);
    if (f->text[0] != '\0')
        return false;
    *status = 503; /* whatever goes wrong now is ours */
    bool taken = w.sample_rate <= VAD_MAX_RATE;
    out->rate = taken ? w.sample_rate : TO_RATE;
    return taken ? as_they_are(out, &w, f) : resampled(out, &w, f);
}

static bool part_find(struct multipart_part *part, const char *content_type, const void *body, size_t len,
                      struct kit_fault *f)
{
    struct multipart parts;
    char boundary[MULTIPART_MAX_BOUNDARY + 1], why[160];
    int r = -1;
    if (multipart_boundary(content_type, boundary, why, sizeof(why)) &&
        multipart_begin(&parts, boundary, body, len, MAX_PARTS, why, sizeof(why))) {
        while ((r = multipart_next(&parts, part, why, sizeof(why))) > 0) {
            if (strcmp(part->name, "file") == 0)
                return true;
        }
    }
    kit_fault_set(f, "%s", r == 0 ? "file: expected a part of this name, found none" : why);
    return false;
}

bool vad_decode(struct vad_audio *out, const char *content_type, const void *body, size_t len, int *status,
                struct kit_fault *f)
{
    struct multipart_part part = {.data = body, .len = len};
    *status = 400;
    *out = (struct vad_audio){0};
    if ((multipart_is(content_type) && !part_find(&part, content_type, body, len, f)) ||
        !wav_decode(out, part.data, part.len, status, f)) {
        free(out->pcm);
        *out = (struct vad_audio){0};
        return false;
    }
    *status = 200;
    return true;
}
