/*
 * Recordings that are there as a whole: decoded in portions, each in a turn of its own, so that live streams have
 * theirs in between. They count as sessions: each needs a decoder.
 */
#include <speex/speex_resampler.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sphinx.h"

#define POLL_MS 5
#define PORTION_S 10 /* of audio, about a second of work */

struct recording {
    struct sphinx_instance *si;
    struct recording *next, *prev;
    struct omid_ask *ask;
    struct turn turn;
    struct omid_timer *poll;
    bool running, ok, begun;
    struct decoding dec; /* the job's while it runs */
    int16_t *pcm;
    size_t n, at; /* samples; decoded so far */
};

static void recording_free(struct recording *r)
{
    struct sphinx_instance *si = r->si;
    if (r->poll != NULL)
        si->host->timer_stop(&r->poll);
    if (atomic_load(&r->turn.state) != TURN_NONE)
        turn_end(si->shared, &r->turn);
    decoding_forget(&r->dec);
    if (r->dec.decoder != NULL)
        pool_give(si->shared, &r->dec.decoder);
    if (r->dec.resampler != NULL)
        speex_resampler_destroy(r->dec.resampler);
    if (r->next != NULL)
        r->next->prev = r->prev;
    if (r->prev != NULL)
        r->prev->next = r->next;
    else
        si->recordings = r->next;
    shared_session_give(si->shared);
    free(r->dec.slice);
    free(r->pcm);
    free(r);
    instance_unref(si);
}

static void recording_answer(struct recording *r, int result, const char *why)
{
    struct sphinx_instance *si = r->si;
    struct omid_answer a = {.size = sizeof(a), .result = result, .text = why, .mode = "local"};
    struct omid_stt_segment *segments = NULL;
    size_t n = 0;
    for (struct found *f = r->dec.found; f != NULL; f = f->next)
        n++;
    if (result == OMID_OK && n > 0 && (segments = calloc(n, sizeof(*segments))) == NULL) {
        a.result = OMID_ERR;
        a.text = "out of memory";
    } else if (result == OMID_OK) {
        for (struct found *f = r->dec.found; f != NULL; f = f->next)
            segments[a.n_segments++] =
                (struct omid_stt_segment){.text = f->text, .start = f->start, .end = f->end, .speaker = -1};
        a.segments = segments;
    }
    si->host->answer(&r->ask, &a);
    free(segments);
    recording_free(r);
}

/* ---- executor ---- */

static bool slice_feed(struct recording *r)
{
    size_t n = r->dec.rate * SLICE_MS / 1000;
    if (n > r->n - r->at)
        n = r->n - r->at;
    memcpy(r->dec.slice, r->pcm + r->at, n * sizeof(*r->pcm));
    r->dec.slice_len = n;
    r->at += n;
    r->dec.end_utterance = r->dec.flush = r->at == r->n;
    return decoding_slice(&r->dec);
}

static void portion_run(void *arg)
{
    struct recording *r = arg;
    r->ok = r->begun || decoding_begin(&r->dec);
    r->begun = true;
    for (int i = 0; r->ok && i < PORTION_S && r->at < r->n; i++)
        r->ok = slice_feed(r);
    turn_end(r->si->shared, &r->turn);
}

/* ---- reactor ---- */

static void recording_go_on(struct recording *r);

static void portion_done(void *arg, bool ran)
{
    struct recording *r = arg;
    struct sphinx_instance *si = r->si;
    r->running = false;
    if (!ran)
        turn_end(si->shared, &r->turn);
    if (si->stopped)
        recording_free(r); /* the host has answered */
    else if (!ran)
        recording_answer(r, OMID_ECLOSED, "the daemon is stopping");
    else if (!r->ok)
        recording_answer(r, OMID_ERR, r->dec.error);
    else if (r->at < r->n)
        recording_go_on(r);
    else
        recording_answer(r, OMID_OK, NULL);
}

static void recording_submit(struct recording *r)
{
    struct sphinx_instance *si = r->si;
    const struct omid_work work = {.size = sizeof(work),
                                   .pool = OMID_POOL_BLOCKING,
                                   .label = "sphinx_recording",
                                   .run = portion_run,
                                   .done = portion_done,
                                   .arg = r};
    r->running = true;
    int rc = si->host->exec_submit(si->inst, &work);
    if (rc == OMID_OK)
        return;
    r->running = false;
    recording_answer(r, rc == OMID_EFULL ? OMID_EFULL : OMID_ERR, "the executor takes no more work");
}

static void on_poll(void *arg)
{
    struct recording *r = arg;
    if (!turn_granted(&r->turn))
        return;
    r->si->host->timer_stop(&r->poll);
    recording_submit(r);
}

static void recording_go_on(struct recording *r)
{
    struct sphinx_instance *si = r->si;
    if (turn_ask(si->shared, &r->turn)) {
        recording_submit(r);
        return;
    }
    r->poll = si->host->timer_start(si->inst, POLL_MS, POLL_MS, on_poll, r);
    if (r->poll == NULL)
        recording_answer(r, OMID_ERR, "out of memory");
}

int recording_transcribe(void *state, const struct omid_stt_params *params, const struct omid_audio *audio,
                         struct omid_ask *ask)
{
    struct sphinx_instance *si = state;
    (void)params;
    if (audio->samples == 0) {
        si->host->answer(&ask, &(const struct omid_answer){.size = sizeof(struct omid_answer), .mode = "local"});
        return OMID_OK;
    }
    if (!shared_session_take(si->shared))
        return OMID_EFULL;
    struct recording *r = calloc(1, sizeof(*r));
    if (r == NULL) {
        shared_session_give(si->shared);
        return OMID_ERR;
    }
    *r = (struct recording){.si = si, .n = audio->samples, .next = si->recordings};
    if (r->next != NULL)
        r->next->prev = r;
    si->recordings = r;
    si->refs++;
    atomic_init(&r->turn.state, TURN_NONE);
    r->dec = (struct decoding){.sh = si->shared, .rate = audio->sample_rate};
    r->dec.found_tail = &r->dec.found;
    r->dec.slice = malloc((audio->sample_rate * SLICE_MS / 1000 + 1) * sizeof(int16_t));
    r->pcm = malloc(audio->samples * sizeof(*audio->pcm));
    if (r->dec.slice == NULL || r->pcm == NULL) {
        recording_free(r);
        return OMID_ERR;
    }
    memcpy(r->pcm, audio->pcm, audio->samples * sizeof(*audio->pcm));
    r->ask = ask;
    recording_go_on(r);
    return OMID_OK;
}

void recordings_stop(struct sphinx_instance *si)
{
    for (struct recording *r = si->recordings, *next; r != NULL; r = next) {
        next = r->next;
        if (!r->running)
            recording_free(r);
    }
}
