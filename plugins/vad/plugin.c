/* Voice activity, on this machine and by a hosted service: settings, life, the role. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vad.h"

static const struct omid_option options[] = {
    {.name = "mode",
     .type = OMID_OPT_INT,
     .def = "2",
     .min = 0,
     .max = 3,
     .help = "How much has to speak for speech: 0 takes most for speech, 3 the least."},
    {.name = "url",
     .type = OMID_OPT_STRING,
     .min = 1,
     .max = 2048,
     .help = "URL of the hosted engine, which searches recordings; without one the local engine does."},
    {.name = "key",
     .type = OMID_OPT_SECRET,
     .min = 1,
     .max = 2048,
     .help = "The hosted engine's key, sent as a Bearer token; better from key_file."},
    {.name = "engine",
     .type = OMID_OPT_ENUM,
     .def = "hosted",
     .choices = "hosted|local",
     .help = "Which engine searches recordings when nobody asks for one; hosted needs url."},
    {.name = "gap",
     .type = OMID_OPT_DURATION,
     .def = "300ms",
     .min = 0,
     .max = 10000,
     .help = "The local engine takes shorter silences within a recording for speech."},
    {.name = "pad",
     .type = OMID_OPT_DURATION,
     .def = "100ms",
     .min = 0,
     .max = 2000,
     .help = "The local engine begins speech so much earlier, and ends it so much later."},
    {.name = "scans",
     .type = OMID_OPT_INT,
     .def = "32",
     .min = 1,
     .max = 10000,
     .help = "Recordings that are searched at once, of one reactor; more are refused."},
    {.name = "max_upload",
     .type = OMID_OPT_SIZE,
     .def = "32MiB",
     .min = 1024,
     .max = 67108864,
     .help = "The largest body of POST /v1/vad; ingress.max_body bounds it, too."},
    {.name = NULL},
};

static const struct omid_lane_defaults lane = {
    .pool = 8, .idle = 4, .semaphore = 8, .connect_timeout_ms = 5000, .timeout_ms = 300000};

/* ---------------------------------------------------------------- configuration */

static void unconfigure(void *shared)
{
    struct vad *v = shared;
    if (v == NULL)
        return;
    if (v->authorization != NULL)
        explicit_bzero(v->authorization, strlen(v->authorization));
    free(v->authorization);
    free(v);
}

/* A header line; what would break it is refused. */
static bool key_read(struct vad *v)
{
    const char *key = v->host->conf_str(v->mod, "key");
    if (key == NULL)
        return true;
    for (const char *p = key; *p != '\0'; p++) {
        if ((unsigned char)*p > ' ' && (unsigned char)*p < 0x7f)
            continue;
        v->host->conf_error(v->mod, "key", "expected printable ASCII without blanks");
        return false;
    }
    size_t size = strlen(key) + sizeof("Authorization: Bearer ");
    v->authorization = malloc(size);
    if (v->authorization != NULL)
        snprintf(v->authorization, size, "Authorization: Bearer %s", key);
    return v->authorization != NULL;
}

static bool settings_read(struct vad *v)
{
    const struct omid_host *h = v->host;
    v->mode = (int)h->conf_int(v->mod, "mode");
    v->url = h->conf_str(v->mod, "url");
    v->preferred = strcmp(h->conf_str(v->mod, "engine"), "local") == 0 ? VAD_LOCAL : VAD_HOSTED;
    v->gap = (double)h->conf_int(v->mod, "gap") / 1000;
    v->pad = (double)h->conf_int(v->mod, "pad") / 1000;
    v->max_jobs = (size_t)h->conf_int(v->mod, "scans");
    v->max_upload = (size_t)h->conf_int(v->mod, "max_upload");
    const char *fault = v->url != NULL ? kit_url_fault(v->url) : NULL;
    if (fault == NULL)
        return key_read(v);
    h->conf_error(v->mod, "url", "%s", fault);
    return false;
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    struct vad *v = calloc(1, sizeof(*v));
    if (v == NULL)
        return OMID_ERR;
    v->mod = mod;
    v->host = host;
    if (!settings_read(v) || vad_route_add(mod, host) != OMID_OK) {
        unconfigure(v);
        return OMID_EINVAL;
    }
    vad_job_metrics(v);
    *shared = v;
    return OMID_OK;
}

/* ---------------------------------------------------------------- life */

static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    (void)host;
    struct vad_instance *in = calloc(1, sizeof(*in));
    if (in == NULL)
        return OMID_ERR;
    in->v = shared;
    in->inst = inst;
    *state = in;
    return OMID_OK;
}

/* Questions that somebody still waits for hold up a stop, by the host; a request for the others does not. */
static void drain(void *state)
{
    const struct vad_instance *in = state;
    in->v->host->drained(in->inst);
}

static void stop(void *state)
{
    struct vad_instance *in = state;
    vad_jobs_stop(in);
    free(in); /* detectors are the sessions' */
}

/* ---------------------------------------------------------------- the role */

static int role_open(void *state, uint32_t rate, void **engine)
{
    const struct vad_instance *in = state;
    return vad_detector_open(in->v, rate, engine);
}

struct question {
    struct vad *v;
    struct omid_ask *ask;
};

static void on_scanned(void *arg, const struct vad_result *r)
{
    struct question *q = arg;
    struct omid_answer answer = {.size = sizeof(answer), .result = r->result};
    if (r->result == OMID_OK) {
        answer.mode = vad_engine_names[r->engine];
        answer.intervals = r->intervals->item;
        answer.n_intervals = r->intervals->n;
    } else {
        answer.text = r->text;
    }
    q->v->host->answer(&q->ask, &answer);
    free(q);
}

static int role_scan(void *state, const char *engine, const struct omid_audio *audio, struct omid_ask *ask)
{
    struct vad_instance *in = state;
    enum vad_engine which = engine == NULL ? VAD_BEST : strcmp(engine, "hosted") == 0 ? VAD_HOSTED : VAD_LOCAL;
    if (audio->samples == 0 || audio->sample_rate < VAD_MIN_RATE || audio->sample_rate > VAD_MAX_RATE ||
        (which == VAD_LOCAL && engine != NULL && strcmp(engine, "local") != 0))
        return OMID_EINVAL;
    if (which == VAD_HOSTED && in->v->url == NULL)
        return OMID_ENOTSUP;
    struct question *q = calloc(1, sizeof(*q));
    if (q == NULL)
        return OMID_ERR;
    *q = (struct question){.v = in->v, .ask = ask};
    const struct vad_job_spec spec = {.engine = which, .audio = audio, .done = on_scanned, .arg = q};
    int rc = vad_job_start(in, &spec);
    if (rc != OMID_OK)
        free(q);
    return rc;
}

static const struct omid_vad_role role = {
    .size = sizeof(role),
    .open = role_open,
    .window = vad_detector_window,
    .close = vad_detector_close,
    .scan = role_scan,
};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,       .name = "vad",
    .version = "2.0",       .summary = "voice activity with WebRTC's detector, and by a hosted service",
    .options = options,     .lane = &lane,
    .configure = configure, .unconfigure = unconfigure,
    .start = start,         .drain = drain,
    .stop = stop,           .vad = &role,
};
