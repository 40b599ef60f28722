/*
 * The plugin vad, one file per topic:
 *
 *   detector.c   WebRTC's detector: is there speech at this moment?
 *   intervals.c  lists of intervals: made, mended, read from the hosted service's answer, written
 *   scan.c       the detector over a whole recording, in pieces
 *   decode.c     a client's WAV as mono samples
 *   job.c        one question, from its audio to its answer: hosted, local, or one after the other
 *   route.c      POST /v1/vad
 *   plugin.c     settings and life
 */
#ifndef OMID_VAD_H
#define OMID_VAD_H

#include <omid/plugin.h>
#include <stdatomic.h>

#include "plugins/kit/json.h"
#include "plugins/kit/outcome.h"
#include "plugins/kit/text.h"

#define VAD_MIN_RATE 8000
#define VAD_MAX_RATE 48000 /* that the engines take */

enum vad_engine { VAD_BEST, VAD_HOSTED, VAD_LOCAL };
extern const char *const vad_engine_names[]; /* "best", "hosted", "local" */

/* Of the module; read-only after configure(). */
struct vad {
    struct omid_module *mod;
    const struct omid_host *host;
    int mode;
    const char *url; /* NULL: there is no hosted engine */
    char *authorization;
    enum vad_engine preferred;
    double gap, pad; /* seconds */
    size_t max_jobs, max_upload;
    struct omid_counter *scans[3], *failed, *refused, *requests[KIT_OUTCOMES];
};

struct vad_job;
struct vad_instance {
    struct vad *v;
    struct omid_instance *inst;
    struct vad_job *jobs;
    size_t n_jobs;
};

/* ---- detector.c ---- */
/* As in struct omid_vad_role. */
int vad_detector_open(const struct vad *v, uint32_t rate, void **engine);
int vad_detector_window(void *engine, const int16_t *pcm, size_t samples, float *probability);
void vad_detector_close(void *engine);

/* ---- intervals.c ---- */
#define VAD_MAX_INTERVALS 50000
struct vad_intervals {
    struct omid_interval *item;
    size_t n, cap;
};
bool vad_intervals_add(struct vad_intervals *l, double start, double end); /* false: too many, or no memory */
void vad_intervals_free(struct vad_intervals *l);
/* Sorted, within 0..duration, none of no length, those closer than gap joined. */
void vad_intervals_mend(struct vad_intervals *l, double duration, double gap);
/* The hosted engine's answer about audio of so many seconds, mended. false: a fault. */
bool vad_intervals_read(struct vad_intervals *l, const char *json, size_t len, double duration, struct kit_fault *f);
/* [{"start","end","duration"}] in seconds, milliseconds being the last digit. */
void vad_intervals_write(struct kit_text *t, const struct vad_intervals *l);
#define VAD_MAX_ANSWER ((size_t)4 << 20)

/* ---- scan.c: on an executor's thread ---- */
struct vad_scan {
    void *engine; /* NULL: not begun */
    size_t at;    /* samples looked at */
    bool speaks;
    double start, last; /* of the speech under way: where it began, and was heard last */
    struct vad_intervals found;
};
/* The next piece, of at most so many seconds. 1: there is more; 0: done, found is mended; negative: an omid_result. */
#define VAD_PIECE_SECONDS 600
int vad_scan_piece(struct vad_scan *s, const struct vad *v, const int16_t *pcm, size_t samples, uint32_t rate);
void vad_scan_free(struct vad_scan *s);

/* ---- decode.c: on an executor's thread ---- */
struct vad_audio {
    int16_t *pcm;
    size_t samples;
    uint32_t rate;
};
/* A WAV file, or (content_type multipart/form-data) a body with one as `file`. Resampled when its rate is none that the
 * engines take. status: of an HTTP answer, with the fault. */
bool vad_decode(struct vad_audio *out, const char *content_type, const void *body, size_t len, int *status,
                struct kit_fault *f);
/* NULL: this content type can be decoded. */
const char *vad_decode_refuses(const char *content_type);

/* ---- job.c ---- */
/* What came of it. Valid until it returns. */
struct vad_result {
    int result;             /* omid_result */
    int status;             /* of an HTTP answer */
    const char *text;       /* why not, for people */
    enum vad_engine engine; /* that found them */
    const struct vad_intervals *intervals;
};
struct vad_job_spec {
    enum vad_engine engine;
    const struct omid_audio *audio; /* or NULL: */
    const char *content_type;
    const void *body;
    size_t len;
    void (*done)(void *arg, const struct vad_result *result); /* exactly once after OMID_OK; never within the call */
    void *arg;
};
int vad_job_start(struct vad_instance *in, const struct vad_job_spec *spec);
void vad_jobs_stop(struct vad_instance *in); /* done() of all, with OMID_ECLOSED */
void vad_job_metrics(struct vad *v);         /* configure() */

/* ---- route.c ---- */
int vad_route_add(struct omid_module *mod, const struct omid_host *host);

#endif
