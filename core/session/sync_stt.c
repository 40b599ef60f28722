/*
 * The transcript of a recording, window by window: where there is speech, and what is said there. Windows bound what is
 * in memory; speech that goes on behind a window's end is heard again, from its begin, with the next one. What was said
 * in one stretch is in the store before the next is asked for; another attempt begins with a window behind it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "session/sync.h"

#define WINDOW ((size_t)300 * RECORDING_RATE)
#define JOIN_S 3.0       /* speech that is closer belongs together: who speaks is told better over a longer stretch */
#define PAD_S 0.3        /* before and behind it */
#define STRETCH_S 120.0  /* the longest that is asked for at once */
#define OPEN_S 0.5       /* so close to the window's end it may go on */
#define SCAN_MS 330000   /* the hosted engine has 300 s, and the local one is its fallback */
#define ANSWER_MS 600000 /* two attempts of 120 s, and the wait for their turn */

void job_stt_free(struct job *j)
{
    free(j->speech);
    j->speech = NULL;
    j->n_speech = j->speech_at = 0;
    segment_list_free(&j->found);
}

static double seconds(size_t samples)
{
    return (double)samples / RECORDING_RATE;
}

/* ---------------------------------------------------------------- what is said */

static void heard_put(struct job *j);
static uint64_t heard_until(const struct job *j);

static struct metric *fallback_metric(const char *from, const char *to, const char *outcome)
{
    const struct metric_label l[] = {
        {"component", "stt"}, {"from_mode", from}, {"to_mode", to}, {"reason", "prerecorded"}, {"outcome", outcome}};
    return metric_get(METRIC_COUNTER, "omi_fallback_total", "Moves to a fallback, by component and outcome.", l, 5,
                      NULL, 0);
}

static bool segments_take(struct job *j, const struct omid_answer *a)
{
    const struct omid_interval *v = &j->speech[j->speech_at];
    double offset = seconds(j->at) + v->start, length = v->end - v->start; /* nothing was said outside of it */
    for (size_t i = 0; i < a->n_segments; i++) {
        const struct omid_stt_segment *g = &a->segments[i];
        struct segment *s = segment_new(g->text, g->speaker > 0 ? g->speaker : 0, false,
                                        offset + fmin(g->start, length), offset + fmin(g->end, length), j->asked);
        if (s == NULL)
            return false;
        if (s->text[0] == '\0') {
            segment_free(&s);
        } else if (!segment_list_push(&j->found, s)) {
            segment_free(&s);
            return false;
        }
    }
    return true;
}

static void transcribe(struct job *j);

static void on_transcribed(void *arg, const struct omid_answer *a)
{
    struct job *j = arg;
    CHECK_MAGIC(j, JOB_MAGIC);
    j->ask = NULL;
    if (a->result == OMID_OK && segments_take(j, a)) {
        j->speech_at++;
        j->model = 0;
        heard_put(j);
        return;
    }
    j->result = OMID_ERR;
    snprintf(j->err, sizeof(j->err), "%s: %s", j->asked,
             a->result == OMID_OK      ? "out of memory"
             : a->text != NULL         ? a->text
             : a->result == OMID_EFULL ? "no room now"
                                       : "failed");
    log_info("sync", "a recording was not transcribed", LS("file", j->file), LS("reason", j->err));
    j->model++;
    transcribe(j);
}

static const struct omid_stt_params *params_of(struct job *j, struct omid_stt_params *p)
{
    *p = (struct omid_stt_params){.size = sizeof(*p),
                                  .uid = j->uid,
                                  .session_id = "",
                                  .model = j->sync->ss->env.conf->stt.models.item[j->model],
                                  .language = j->language,
                                  .sample_rate = RECORDING_RATE};
    return p;
}

/* Of j->model, or of the next one that serves the language. */
static void transcribe(struct job *j)
{
    struct sessions *ss = j->sync->ss;
    const struct conf_list *models = &ss->env.conf->stt.models;
    const struct omid_interval *v = &j->speech[j->speech_at];
    unsigned before = j->model < models->n ? j->model : models->n; /* the list may be shorter now */
    j->model = before;
    struct omid_stt_params p;
    while (j->model < models->n && !host_answers(ss->env.host, ss->env.reactor, HOST_ASK_TRANSCRIBE, params_of(j, &p)))
        j->model++;
    if (before > 0)
        metric_add(fallback_metric(j->asked, j->model < models->n ? models->item[j->model] : "none",
                                   j->model < models->n ? "degraded" : "exhausted"),
                   1);
    if (j->model >= models->n) {
        if (before == 0) {
            j->result = OMID_ERR;
            snprintf(j->err, sizeof(j->err), "no plugin transcribes recordings in the language %.32s", j->language);
        }
        j->model = 0;
        job_failed(j);
        return;
    }
    snprintf(j->asked, sizeof(j->asked), "%s", models->item[j->model]);
    size_t from = (size_t)(v->start * RECORDING_RATE), to = (size_t)(v->end * RECORDING_RATE);
    if (to > j->pcm.n)
        to = j->pcm.n;
    const struct omid_audio audio = {
        .size = sizeof(audio), .pcm = j->pcm.data + from, .samples = to - from, .sample_rate = RECORDING_RATE};
    const struct host_question q = {.kind = HOST_ASK_TRANSCRIBE, .audio = &audio, .params = params_of(j, &p)};
    int rc = host_ask(ss->env.host, ss->env.reactor, &q, ANSWER_MS, on_transcribed, j, &j->ask);
    if (rc != OMID_OK) {
        j->result = OMID_ERR;
        snprintf(j->err, sizeof(j->err), "speech-to-text can't be asked");
        job_failed(j);
    }
}

static void next_stretch(struct job *j)
{
    if (j->speech_at < j->n_speech) {
        job_set_state(j, JOB_TRANSCRIBE);
        transcribe(j);
        return;
    }
    j->at = heard_until(j);
    if (j->at >= j->samples)
        job_transcribed(j);
    else
        job_window(j);
}

/* ---------------------------------------------------------------- what was heard so far */

/* The sample that nothing is to be asked about before: the end of the last stretch, or of the window. A last stretch
 * that goes on is heard again with the next one. */
static uint64_t heard_until(const struct job *j)
{
    if (j->speech_at < j->n_speech)
        return j->at + (uint64_t)(j->speech[j->speech_at - 1].end * RECORDING_RATE);
    return j->at + (j->cut_open ? (uint64_t)(j->speech[j->n_speech].start * RECORDING_RATE) : j->pcm.n);
}

static void on_heard_again(struct ev_loop *ev, ev_timer *t, int revents)
{
    (void)ev;
    (void)revents;
    heard_put(t->data);
}

static void on_heard(void *arg, int result)
{
    struct job *j = arg;
    if (!job_returned(j))
        return;
    if (result == OMID_ERR) {
        job_store_again(j, "heard", on_heard_again);
        return;
    }
    j->store_failures = 0;
    if (result != OMID_OK) {
        job_over(j); /* the recording is gone */
        return;
    }
    j->found_kept = j->found.n;
    j->advanced = true;
    next_stretch(j);
}

static void heard_put(struct job *j)
{
    size_t n = j->found.n - j->found_kept;
    struct store_segment *segment = calloc(n + 1, sizeof(*segment));
    int rc = OMID_ERR;
    job_set_state(j, JOB_HEARD);
    j->working = true;
    for (size_t i = 0; segment != NULL && i < n; i++) {
        const struct segment *f = j->found.item[j->found_kept + i];
        segment[i] = (struct store_segment){.text = f->text,
                                            .stt_provider = f->provider,
                                            .speaker_id = f->speaker_id,
                                            .start = f->start,
                                            .end = f->end};
    }
    if (segment != NULL) {
        uint64_t until = heard_until(j);
        const struct store_heard h = {.n = j->n,
                                      .until = until,
                                      .progress = (double)until / (double)j->samples,
                                      .segment = segment,
                                      .n_segments = n};
        rc = store_heard_put(j->sync->ss->env.store, &h, j->sync->ss->env.loop, on_heard, j);
    }
    free(segment);
    if (rc == OMID_EINVAL)
        job_not_kept(j);
    else if (rc != OMID_OK)
        on_heard(j, OMID_ERR);
}

static bool heard_take(void *arg, const struct store_segment *g)
{
    struct job *j = arg;
    struct segment *s = segment_new(g->text, g->speaker_id, false, g->start, g->end, g->stt_provider);
    if (s != NULL && segment_list_push(&j->found, s))
        return true;
    segment_free(&s);
    return false;
}

bool job_heard_load(struct job *j)
{
    uint64_t until;
    char err[128];
    if (store_heard_read(j->sync->ss->env.store, j->n, &until, heard_take, j, err, sizeof(err)) != OMID_OK) {
        snprintf(j->err, sizeof(j->err), "what was heard of it can't be read: %s", err);
        return false;
    }
    j->found_kept = j->found.n;
    j->at = until < j->samples ? until : j->samples;
    return true;
}

/* ---------------------------------------------------------------- where speech is */

/* From intervals to stretches: joined, padded, none too long. false: no memory. */
static bool stretches_make(struct job *j, const struct omid_interval *v, size_t n)
{
    double len = seconds(j->pcm.n);
    free(j->speech);
    j->n_speech = j->speech_at = 0;
    /* Each interval makes at most one stretch, and each STRETCH_S of a long one one more. */
    j->speech = calloc(n + (size_t)(len / STRETCH_S) + 2, sizeof(*j->speech));
    if (j->speech == NULL)
        return false;
    for (size_t i = 0; i < n; i++) {
        struct omid_interval s = {.start = fmax(0, v[i].start - PAD_S), .end = fmin(len, v[i].end + PAD_S)};
        struct omid_interval *last = j->n_speech > 0 ? &j->speech[j->n_speech - 1] : NULL;
        if (s.end <= s.start)
            continue;
        if (last != NULL && s.start - last->end < JOIN_S && s.end - last->start <= STRETCH_S) {
            last->end = fmax(last->end, s.end);
            continue;
        }
        if (last != NULL && s.start < last->end)
            s.start = last->end;
        for (; s.end - s.start > STRETCH_S; s.start += STRETCH_S)
            j->speech[j->n_speech++] = (struct omid_interval){s.start, s.start + STRETCH_S};
        if (s.end > s.start)
            j->speech[j->n_speech++] = s;
    }
    /* One that touches the end of the window, and is not the window itself, may go on. */
    const struct omid_interval *last = j->n_speech > 0 ? &j->speech[j->n_speech - 1] : NULL;
    j->cut_open = last != NULL && j->at + j->pcm.n < j->samples && len - last->end < OPEN_S && last->start > len / 4;
    if (j->cut_open)
        j->n_speech--;
    return true;
}

static void scanned(struct job *j, const struct omid_interval *v, size_t n)
{
    if (stretches_make(j, v, n)) {
        if (j->n_speech > 0)
            next_stretch(j);
        else
            heard_put(j); /* silence */
        return;
    }
    j->result = OMID_ERR;
    snprintf(j->err, sizeof(j->err), "out of memory");
    job_failed(j);
}

static void on_scanned(void *arg, const struct omid_answer *a)
{
    struct job *j = arg;
    CHECK_MAGIC(j, JOB_MAGIC);
    j->ask = NULL;
    if (a->result == OMID_OK) {
        scanned(j, a->intervals, a->n_intervals);
        return;
    }
    j->result = a->result == OMID_EINVAL ? OMID_EINVAL : OMID_ERR;
    snprintf(j->err, sizeof(j->err), "voice activity: %s", a->text != NULL ? a->text : "failed");
    job_failed(j);
}

static void window_read(struct job *j)
{
    struct sessions *ss = j->sync->ss;
    if (j->result != OMID_OK) {
        job_failed(j);
        return;
    }
    job_set_state(j, JOB_SCAN);
    const struct omid_audio audio = {
        .size = sizeof(audio), .pcm = j->pcm.data, .samples = j->pcm.n, .sample_rate = RECORDING_RATE};
    const struct host_question q = {.kind = HOST_ASK_SCAN, .audio = &audio};
    int rc = host_ask(ss->env.host, ss->env.reactor, &q, SCAN_MS, on_scanned, j, &j->ask);
    if (rc == OMID_ENOTSUP) { /* nobody knows: all of it may be */
        const struct omid_interval all = {0, seconds(j->pcm.n)};
        scanned(j, &all, 1);
    } else if (rc != OMID_OK) {
        j->result = OMID_ERR;
        snprintf(j->err, sizeof(j->err), "voice activity can't be asked");
        job_failed(j);
    }
}

static void window_run(void *arg)
{
    struct job *j = arg;
    uint64_t left = j->samples - j->at;
    (void)job_read(j, j->at, left < WINDOW ? (size_t)left : WINDOW);
}

void job_window(struct job *j)
{
    if (j->samples == 0) {
        j->result = OMID_ENOTSUP;
        snprintf(j->err, sizeof(j->err), "it holds no audio");
        job_failed(j);
        return;
    }
    if (j->at >= j->samples) { /* all of it was heard before */
        job_transcribed(j);
        return;
    }
    job_set_state(j, JOB_READ);
    job_work(j, "sync_read", window_run, window_read);
}
