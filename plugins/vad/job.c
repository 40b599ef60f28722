/*
 * One question, from its audio to its answer.
 *
 *   PREPARE (executor) decodes a client's WAV, writes the body of a request
 *      │ hosted                              │ local
 *      ▼                                     ▼
 *   HOSTED (the lane) ── fails, and the ──► LOCAL (executor, a piece at a time)
 *      │                 engine was free     │
 *      └──────────────► told ◄───────────────┘
 *
 * While an executor's thread works for it a job is that thread's. One that is stopped meanwhile is told, and left to
 * the thread, which frees it: `hold` decides between the two.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/wav.h"
#include "plugins/kit/multipart.h"
#include "vad.h"

enum hold { AT_REST, AT_WORK, LEFT };

struct vad_job {
    struct vad_job *next, **link;
    struct vad_instance *in;
    struct vad_job_spec spec;
    struct vad settings; /* the module's may be gone before an abandoned thread is done */
    atomic_int hold;
    bool hosted;           /* wanted, and not tried yet */
    enum kit_outcome lost; /* of the hosted one, when the local one works instead; KIT_OK: it was not tried */
    struct omid_http *http;
    char *content_type;
    void *upload; /* what the client sent */
    size_t upload_len;
    struct vad_audio audio;
    struct kit_multipart body;
    bool has_body;
    char boundary[37];
    struct vad_scan scan;
    int rc; /* of the piece */
    int status;
    struct kit_fault fault;
};

const char *const vad_engine_names[] = {"best", "hosted", "local"};

/* ---------------------------------------------------------------- its end */

static void job_free(struct vad_job *j)
{
    vad_scan_free(&j->scan);
    if (j->has_body)
        kit_multipart_free(&j->body);
    free(j->audio.pcm);
    free(j->upload);
    free(j->content_type);
    free(j);
}

static void job_unlink(struct vad_job *j)
{
    *j->link = j->next;
    if (j->next != NULL)
        j->next->link = j->link;
    j->in->n_jobs--;
}

/* It is out of its instance's hands. */
static void job_let_go(struct vad_job *j)
{
    job_unlink(j);
    if (atomic_exchange(&j->hold, LEFT) == AT_REST)
        job_free(j);
}

static void job_tell(struct vad_job *j, const struct vad_result *r)
{
    struct vad *v = j->in->v;
    v->host->counter_add(r->result == OMID_OK ? v->scans[r->engine] : v->failed, 1);
    if (j->lost != KIT_OK && r->result != OMID_ECLOSED)
        v->host->fallback(v->mod, "vad", "hosted", "local", kit_outcome_names[j->lost],
                          r->result == OMID_OK ? "degraded" : "exhausted", 1);
    j->spec.done(j->spec.arg, r);
    job_let_go(j);
}

static void job_fail(struct vad_job *j, int result, int status, const char *text)
{
    const struct vad_result r = {.result = result, .status = status, .text = text};
    job_tell(j, &r);
}

/* The host's answer when it takes no work or no request. */
static void job_refused(struct vad_job *j, int rc)
{
    if (rc == OMID_EFULL)
        job_fail(j, rc, 503, "overloaded, try again later");
    else if (rc == OMID_ECLOSED)
        job_fail(j, rc, 503, "the daemon is going away");
    else
        job_fail(j, OMID_ERR, 500, "out of memory");
}

/* ---------------------------------------------------------------- on an executor */

static bool work_begins(struct vad_job *j)
{
    int rest = AT_REST;
    return atomic_compare_exchange_strong(&j->hold, &rest, AT_WORK);
}

static void work_ends(struct vad_job *j)
{
    int work = AT_WORK;
    if (!atomic_compare_exchange_strong(&j->hold, &work, AT_REST))
        job_free(j); /* stopped meanwhile */
}

static void local_run(void *arg)
{
    struct vad_job *j = arg;
    if (!work_begins(j))
        return;
    j->rc = vad_scan_piece(&j->scan, &j->settings, j->audio.pcm, j->audio.samples, j->audio.rate);
    work_ends(j);
}

static void body_write(struct vad_job *j)
{
    kit_multipart_begin(&j->body, j->boundary);
    j->has_body = true;
    unsigned char *wav =
        j->audio.samples <= WAV_MAX_SAMPLES
            ? kit_multipart_file(&j->body, "file", "audio.wav", "audio/wav", wav_size(j->audio.samples))
            : NULL;
    if (wav != NULL)
        wav_write(wav, j->audio.pcm, j->audio.samples, j->audio.rate);
    if (wav == NULL || !kit_multipart_end(&j->body)) {
        kit_fault_set(&j->fault, "out of memory");
        j->status = 503;
    }
}

static void prepare_run(void *arg)
{
    struct vad_job *j = arg;
    if (!work_begins(j))
        return;
    j->status = 200;
    if (j->upload == NULL || vad_decode(&j->audio, j->content_type, j->upload, j->upload_len, &j->status, &j->fault)) {
        if (j->hosted)
            body_write(j);
    }
    free(j->upload);
    j->upload = NULL;
    work_ends(j);
}

/* ---------------------------------------------------------------- local */

static void local_begin(struct vad_job *j);

static void local_done(void *arg, bool ran)
{
    struct vad_job *j = arg;
    if (!ran) {
        job_refused(j, OMID_ECLOSED);
    } else if (j->rc == 1) {
        local_begin(j);
    } else if (j->rc != 0) {
        job_fail(j, OMID_ERR, 500, "the local engine failed: no memory, or too many intervals");
    } else {
        const struct vad_result r = {
            .result = OMID_OK, .status = 200, .engine = VAD_LOCAL, .intervals = &j->scan.found};
        job_tell(j, &r);
    }
}

static void local_begin(struct vad_job *j)
{
    const struct omid_work work = {.size = sizeof(work),
                                   .pool = OMID_POOL_BLOCKING,
                                   .label = "scan",
                                   .run = local_run,
                                   .done = local_done,
                                   .arg = j};
    int rc = j->in->v->host->exec_submit(j->in->inst, &work);
    if (rc != OMID_OK)
        job_refused(j, rc);
}

/* ---------------------------------------------------------------- hosted */

static double duration(const struct vad_job *j)
{
    return (double)j->audio.samples / j->audio.rate;
}

/* The local one takes over, unless the hosted one was asked for. */
static void hosted_lost(struct vad_job *j, enum kit_outcome outcome, const char *text)
{
    char whole[256];
    snprintf(whole, sizeof(whole), "the hosted engine: %s", text);
    j->in->v->host->log(j->in->v->mod, OMID_LOG_WARNING, "%s", whole);
    if (j->spec.engine != VAD_HOSTED && outcome != KIT_STOPPED) {
        j->lost = outcome;
        local_begin(j);
        return;
    }
    job_fail(j, kit_outcome_result(outcome), outcome == KIT_BUSY || outcome == KIT_STOPPED ? 503 : 502, whole);
}

static void on_response(void *arg, const struct omid_http_response *res)
{
    struct vad_job *j = arg;
    struct vad *v = j->in->v;
    struct vad_intervals found = {0};
    struct kit_fault f = {""};
    char why[200];
    j->http = NULL;
    enum kit_outcome outcome = kit_outcome_of(res, why, sizeof(why));
    if (outcome == KIT_OK && !vad_intervals_read(&found, res->body, res->body_len, duration(j), &f)) {
        outcome = KIT_BAD_ANSWER;
        snprintf(why, sizeof(why), "%s", f.text);
    }
    v->host->counter_add(v->requests[outcome], 1);
    if (outcome != KIT_OK) {
        hosted_lost(j, outcome, why);
        return;
    }
    const struct vad_result r = {.result = OMID_OK, .status = 200, .engine = VAD_HOSTED, .intervals = &found};
    job_tell(j, &r);
    vad_intervals_free(&found);
}

static void hosted_begin(struct vad_job *j)
{
    struct vad *v = j->in->v;
    char type[128];
    kit_multipart_header(&j->body, type, sizeof(type));
    const char *const headers[] = {type, "Accept: application/json", v->authorization, NULL};
    const struct omid_http_request req = {.size = sizeof(req),
                                          .method = "POST",
                                          .url = v->url,
                                          .headers = headers,
                                          .body = j->body.data,
                                          .body_len = j->body.len,
                                          .max_body = VAD_MAX_ANSWER};
    j->hosted = false;
    int rc = v->host->http_start(j->in->inst, &req, on_response, j, &j->http);
    kit_multipart_free(&j->body); /* the lane has it */
    j->has_body = false;
    if (rc == OMID_OK)
        return;
    enum kit_outcome outcome = rc == OMID_ECLOSED ? KIT_STOPPED : KIT_BUSY;
    v->host->counter_add(v->requests[outcome], 1);
    hosted_lost(j, outcome, "the request could not be made");
}

/* ---------------------------------------------------------------- begin */

static void prepare_done(void *arg, bool ran)
{
    struct vad_job *j = arg;
    if (!ran)
        job_refused(j, OMID_ECLOSED);
    else if (j->status != 200)
        job_fail(j, j->status == 400 ? OMID_EINVAL : OMID_ERR, j->status, j->fault.text);
    else if (j->hosted)
        hosted_begin(j);
    else
        local_begin(j);
}

static bool job_fill(struct vad_job *j, const struct vad_job_spec *spec)
{
    if (spec->audio == NULL) {
        j->content_type = strdup(spec->content_type);
        j->upload = malloc(spec->len + 1);
        j->upload_len = spec->len;
        if (j->upload != NULL && spec->len > 0)
            memcpy(j->upload, spec->body, spec->len);
        return j->content_type != NULL && j->upload != NULL;
    }
    const struct omid_audio *a = spec->audio;
    j->audio = (struct vad_audio){.samples = a->samples, .rate = a->sample_rate};
    j->audio.pcm = malloc(a->samples * sizeof(*a->pcm) + 1);
    if (j->audio.pcm != NULL && a->samples > 0)
        memcpy(j->audio.pcm, a->pcm, a->samples * sizeof(*a->pcm));
    return j->audio.pcm != NULL;
}

int vad_job_start(struct vad_instance *in, const struct vad_job_spec *spec)
{
    struct vad *v = in->v;
    if (in->n_jobs >= v->max_jobs) {
        v->host->counter_add(v->refused, 1);
        return OMID_EFULL;
    }
    struct vad_job *j = calloc(1, sizeof(*j));
    if (j == NULL || !job_fill(j, spec)) {
        if (j != NULL)
            job_free(j);
        return OMID_ERR;
    }
    j->in = in;
    j->spec = *spec;
    j->settings = (struct vad){.mod = v->mod, .host = v->host, .mode = v->mode, .gap = v->gap, .pad = v->pad};
    j->hosted =
        v->url != NULL && (spec->engine == VAD_HOSTED || (spec->engine == VAD_BEST && v->preferred != VAD_LOCAL));
    v->host->uuid4(j->boundary);
    const struct omid_work work = {.size = sizeof(work),
                                   .pool = OMID_POOL_BLOCKING,
                                   .label = "prepare",
                                   .run = prepare_run,
                                   .done = prepare_done,
                                   .arg = j};
    int rc = v->host->exec_submit(in->inst, &work);
    if (rc != OMID_OK) {
        job_free(j);
        return rc;
    }
    j->next = in->jobs;
    j->link = &in->jobs;
    if (j->next != NULL)
        j->next->link = &j->next;
    in->jobs = j;
    in->n_jobs++;
    return OMID_OK;
}

void vad_jobs_stop(struct vad_instance *in)
{
    while (in->jobs != NULL) {
        struct vad_job *j = in->jobs;
        if (j->http != NULL)
            in->v->host->http_cancel(&j->http);
        job_refused(j, OMID_ECLOSED);
    }
}

void vad_job_metrics(struct vad *v)
{
    const struct omid_host *h = v->host;
    static const char scans[] = "Recordings that were searched for speech, by the engine that did it.";
    v->scans[VAD_HOSTED] = h->counter(v->mod, "scans", scans, "engine", "hosted");
    v->scans[VAD_LOCAL] = h->counter(v->mod, "scans", scans, "engine", "local");
    v->failed = h->counter(v->mod, "scans_failed", "Recordings that could not be searched.", NULL, NULL);
    v->refused = h->counter(v->mod, "scans_refused", "Recordings refused because too many were under way.", NULL, NULL);
    for (int i = 0; v->url != NULL && i < KIT_OUTCOMES; i++) {
        v->requests[i] = h->counter(v->mod, "requests", "Requests to the hosted engine by what came of them.",
                                    "outcome", kit_outcome_names[i]);
        if (i == KIT_OK || i == KIT_STOPPED || h->fallback == NULL)
            continue;
        h->fallback(v->mod, "vad", "hosted", "local", kit_outcome_names[i], "degraded", 0);
        h->fallback(v->mod, "vad", "hosted", "local", kit_outcome_names[i], "exhausted", 0);
    }
}
