/* The role stt: streams on their reactor, and the jobs that decode for them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <speex/speex_resampler.h>

#include "sphinx.h"

/* How soon a turn that another reactor gave up is noticed, and a refused submission tried again. */
#define POLL_MS 5
/* A client that stops sending in the middle of a sentence (mute) gets what was said after this long. */
#define MUTE_MS 2000
/* Samples handed over in one call: beyond it the caller is at fault. */
#define PIECE_MAX ((size_t)1 << 24)

enum stream_state {
    STREAM_OPENING, /* no decoder yet */
    STREAM_READY,
    STREAM_CLOSING, /* close() was called */
    STREAM_ENDED,   /* stt_closed() was called: only release() is left */
};
enum job_state { JOB_NONE, JOB_WAITING /* for a turn */, JOB_RUNNING /* submitted */ };

struct stream {
    uint32_t magic;
    enum stream_state state;
    enum job_state job;
    bool released, want_writable;
    struct sphinx_instance *si;
    struct omid_stt *stt; /* NULL once released */
    struct stream *next, *prev;
    unsigned tick; /* of the last walk that came by */
    struct turn turn;
    struct decoding dec;    /* the job's while JOB_RUNNING */
    bool job_ok, job_began; /* written by the job, read in done() */

    /* waiting audio: a ring at the stream's rate; larger than its bound only while a single larger piece is in it */
    int16_t *ring;
    size_t ring_bound, ring_cap, ring_at, ring_len;
    uint64_t received; /* samples, since the begin */
    uint64_t taken;    /* samples, by jobs */
    bool finalize;
    uint64_t finalize_at; /* `received` when it was asked for */
    bool unfinished;      /* audio was decoded since the last end of an utterance */
    double reported;      /* `transcribed` as the session knows it */
    uint64_t last_audio_ms;
};
#define STREAM_MAGIC UINT32_C(0x53504854)

static void stream_pump(struct stream *s);

static void stream_set_state(struct stream *s, enum stream_state to)
{
    static const unsigned legal[] = {
        [STREAM_OPENING] = 1u << STREAM_READY | 1u << STREAM_ENDED | 1u << STREAM_CLOSING,
        [STREAM_READY] = 1u << STREAM_CLOSING | 1u << STREAM_ENDED,
        [STREAM_CLOSING] = 1u << STREAM_ENDED,
        [STREAM_ENDED] = 0,
    };
    sphinx_assert(legal[s->state] & 1u << to);
    s->state = to;
}

static struct stream *stream_check(void *arg)
{
    struct stream *s = arg;
    sphinx_assert(s != NULL && s->magic == STREAM_MAGIC);
    return s;
}

void instance_check_drained(struct sphinx_instance *si)
{
    if (!si->draining || si->drained || si->stopped || si->refs > 1)
        return;
    si->drained = true;
    si->host->drained(si->inst);
}

void instance_unref(struct sphinx_instance *si)
{
    sphinx_assert(si->magic == SPHINX_INSTANCE_MAGIC && si->refs > 0);
    si->refs--;
    instance_check_drained(si);
    if (si->refs > 0)
        return;
    shared_unref(&si->shared);
    si->magic = 0;
    free(si);
}

static void stream_free(struct stream *s)
{
    struct sphinx_instance *si = s->si;
    sphinx_assert(s->job == JOB_NONE);
    decoding_forget(&s->dec);
    if (s->dec.decoder != NULL)
        pool_give(si->shared, &s->dec.decoder);
    if (s->dec.resampler != NULL)
        speex_resampler_destroy(s->dec.resampler);
    free(s->dec.slice);
    free(s->ring);
    if (s->next != NULL)
        s->next->prev = s->prev;
    if (s->prev != NULL)
        s->prev->next = s->next;
    else
        si->first = s->next;
    s->magic = 0;
    free(s);
    shared_session_give(si->shared);
    if (si->first == NULL && !si->stopped) {
        if (si->second != NULL)
            si->host->timer_stop(&si->second);
        if (si->poll != NULL)
            si->host->timer_stop(&si->poll);
    }
    instance_unref(si);
}

/* Last words to the session; the stream waits for release(). */
static void stream_end(struct stream *s, enum omid_stt_reason reason, const char *text)
{
    if (s->state == STREAM_ENDED)
        return;
    stream_set_state(s, STREAM_ENDED);
    if (s->job == JOB_WAITING) {
        turn_end(s->si->shared, &s->turn);
        s->job = JOB_NONE;
    }
    const struct sphinx_instance *si = s->si;
    if (reason != OMID_STT_DONE) {
        si->host->counter_add(si->shared->count.failed, 1);
        si->host->log(si->mod, OMID_LOG_WARNING, "stream ended: %s", text);
    }
    if (s->stt != NULL) {
        struct omid_stt_end end = {.size = sizeof(end), .reason = reason, .text = text};
        si->host->stt_closed(s->stt, &end);
    }
}

/* --- the job --- */

static void job_run(void *arg)
{
    struct stream *s = arg;
    if (s->dec.decoder == NULL) {
        s->job_began = true;
        s->job_ok = decoding_begin(&s->dec);
    } else {
        s->job_ok = decoding_slice(&s->dec);
    }
    /* Others need not wait until the reactor has heard of it. */
    turn_end(s->dec.sh, &s->turn);
}

static void stream_report(struct stream *s)
{
    struct omid_stt_segment segs[16];
    const struct found *f = s->dec.found;
    const double final = s->dec.transcribed;
    /* A report of silence alone, now and then: it trims the session's replay buffer. */
    if (f == NULL && final < s->reported + 0.5 && !s->dec.end_utterance)
        return;
    do {
        struct omid_stt_result res = {.size = sizeof(res), .segments = segs};
        for (; f != NULL && res.n < sizeof(segs) / sizeof(segs[0]); f = f->next)
            segs[res.n++] = (struct omid_stt_segment){.text = f->text, .start = f->start, .end = f->end, .speaker = 0};
        /* Until the last part is told, only its predecessors are final. */
        res.transcribed = f == NULL ? final : segs[res.n - 1].end;
        s->reported = res.transcribed;
        s->si->host->stt_result(s->stt, &res);
    } while (f != NULL && !s->released);
}

static void stream_count(struct stream *s)
{
    const struct sphinx_shared *sh = s->si->shared;
    struct decoding *dec = &s->dec;
    sh->host->counter_add(sh->count.utterances, dec->utterances);
    sh->host->counter_add(sh->count.no_words, dec->no_words);
    sh->host->counter_add(sh->count.loaded, dec->loaded ? 1 : 0);
    dec->utterances = dec->no_words = 0;
    dec->loaded = false;
}

static void job_done(void *arg, bool ran)
{
    struct stream *s = stream_check(arg);
    struct sphinx_instance *si = s->si;
    s->job = JOB_NONE;
    if (!ran)
        turn_end(si->shared, &s->turn);
    stream_count(s);
    if (si->stopped && !s->released)
        return; /* nobody to tell; release() may still come */
    if (s->released) {
        stream_free(s);
        return;
    }
    if (s->state == STREAM_ENDED)
        return;
    if (!ran) {
        stream_end(s, OMID_STT_INTERNAL, "the daemon is stopping");
        return;
    }
    if (!s->job_ok) {
        stream_end(s, OMID_STT_INTERNAL, s->dec.error);
        return;
    }
    /* The session may release the stream within any of these calls: the job mark keeps it until the end. */
    s->job = JOB_RUNNING;
    if (s->job_began) {
        s->job_began = false;
        if (s->state == STREAM_OPENING) {
            stream_set_state(s, STREAM_READY);
            si->host->stt_ready(s->stt);
        }
    } else {
        s->unfinished = !s->dec.end_utterance;
        stream_report(s);
        decoding_forget(&s->dec);
        if (!s->released && s->want_writable && s->ring_len <= s->ring_bound / 2) {
            s->want_writable = false;
            si->host->stt_writable(s->stt);
        }
    }
    s->job = JOB_NONE;
    if (s->released)
        stream_free(s);
    else
        stream_pump(s);
}

/* Orders the next slice. False: there is nothing to do yet. */
static bool slice_wanted(const struct stream *s)
{
    if (s->state == STREAM_OPENING || s->dec.decoder == NULL || s->state == STREAM_CLOSING)
        return true;
    return s->finalize || s->ring_len >= (size_t)s->dec.rate * SLICE_MIN_MS / 1000;
}

static void slice_take(struct stream *s)
{
    struct decoding *dec = &s->dec;
    size_t n = (size_t)dec->rate * SLICE_MS / 1000;
    if (n > s->ring_len)
        n = s->ring_len;
    dec->end_utterance = false;
    if (s->finalize && s->finalize_at - s->taken <= n) {
        n = (size_t)(s->finalize_at - s->taken);
        s->finalize = false;
        dec->end_utterance = true;
    }
    size_t first = s->ring_cap - s->ring_at;
    if (first > n)
        first = n;
    memcpy(dec->slice, s->ring + s->ring_at, first * sizeof(int16_t));
    memcpy(dec->slice + first, s->ring, (n - first) * sizeof(int16_t));
    s->ring_at = (s->ring_at + n) % s->ring_cap;
    s->ring_len -= n;
    s->taken += n;
    dec->slice_len = n;
    dec->flush = s->state == STREAM_CLOSING && s->ring_len == 0;
}

static void slice_untake(struct stream *s)
{
    size_t n = s->dec.slice_len;
    s->ring_at = (s->ring_at + s->ring_cap - n) % s->ring_cap;
    s->ring_len += n;
    s->taken -= n;
    if (s->dec.end_utterance) {
        s->finalize = true;
        s->finalize_at = s->taken + n;
    }
}

/* The next stream of the walk `tick`, from the list's head: a session may release any of its streams while told of
 * one of them. The streams are few (max_sessions). */
static struct stream *walk_next(struct sphinx_instance *si)
{
    struct stream *s = si->first;
    while (s != NULL && s->tick == si->tick)
        s = s->next;
    if (s != NULL)
        s->tick = si->tick;
    return s;
}

static void poll_tick(void *arg)
{
    struct sphinx_instance *si = arg;
    bool waiting = false;
    si->tick++;
    for (struct stream *s = walk_next(si); s != NULL; s = walk_next(si)) {
        if (s->job == JOB_WAITING)
            stream_pump(s);
    }
    for (struct stream *s = si->first; s != NULL; s = s->next)
        waiting |= s->job == JOB_WAITING;
    if (!waiting && si->poll != NULL)
        si->host->timer_stop(&si->poll);
}

static bool poll_start(struct sphinx_instance *si)
{
    if (si->poll == NULL)
        si->poll = si->host->timer_start(si->inst, POLL_MS, POLL_MS, poll_tick, si);
    return si->poll != NULL;
}

static void stream_wait(struct stream *s)
{
    s->job = JOB_WAITING;
    if (!poll_start(s->si))
        stream_end(s, OMID_STT_INTERNAL, "out of memory");
}

/* With a granted turn. */
static void stream_submit(struct stream *s)
{
    struct sphinx_instance *si = s->si;
    const bool begin = s->dec.decoder == NULL;
    if (!begin)
        slice_take(s);
    const struct omid_work work = {.size = sizeof(work),
                                   .pool = OMID_POOL_BLOCKING,
                                   .label = begin ? "sphinx_begin" : "sphinx_decode",
                                   .run = job_run,
                                   .done = job_done,
                                   .arg = s};
    s->job = JOB_RUNNING;
    int rc = si->host->exec_submit(si->inst, &work);
    if (rc == OMID_OK)
        return;
    s->job = JOB_NONE;
    turn_end(si->shared, &s->turn);
    if (!begin)
        slice_untake(s);
    if (rc == OMID_EFULL) {
        /* At the end of the queue, so that a full executor does not hold up the other reactors' turns. */
        turn_ask(si->shared, &s->turn);
        stream_wait(s);
    } else {
        stream_end(s, OMID_STT_INTERNAL, "the executor takes no more work");
    }
}

/* Moves the stream on if it can: the one place where jobs begin. */
static void stream_pump(struct stream *s)
{
    if (s->state == STREAM_ENDED || s->released || s->job == JOB_RUNNING)
        return;
    if (s->state == STREAM_CLOSING && s->ring_len == 0 && !s->finalize) {
        stream_end(s, OMID_STT_DONE, "");
        return;
    }
    if (s->job == JOB_WAITING) {
        if (turn_granted(&s->turn))
            stream_submit(s);
        return;
    }
    if (!slice_wanted(s))
        return;
    if (turn_ask(s->si->shared, &s->turn))
        stream_submit(s);
    else
        stream_wait(s);
}

static void second_tick(void *arg)
{
    struct sphinx_instance *si = arg;
    uint64_t now = si->host->now_ms();
    si->tick++;
    for (struct stream *s = walk_next(si); s != NULL; s = walk_next(si)) {
        if (s->state != STREAM_READY || s->released || s->finalize || now - s->last_audio_ms < MUTE_MS)
            continue;
        if (s->unfinished || s->ring_len > 0) {
            s->finalize = true;
            s->finalize_at = s->received;
            stream_pump(s);
        }
    }
}

/* --- the role --- */

static int role_serves(void *state, const char *model, const char *language)
{
    (void)state;
    if (strcmp(model, "sphinx") != 0)
        return -1;
    return strncasecmp(language, "en", 2) == 0 && (language[2] == '\0' || language[2] == '-' || language[2] == '_');
}

static struct stream *stream_new(struct sphinx_instance *si, uint32_t rate)
{
    struct stream *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return NULL;
    s->ring_bound = s->ring_cap = (size_t)((uint64_t)rate * si->shared->conf.buffer_ms / 1000);
    s->ring = malloc(s->ring_cap * sizeof(int16_t));
    s->dec.slice = malloc(((size_t)rate * SLICE_MS / 1000 + 1) * sizeof(int16_t));
    if (s->ring == NULL || s->dec.slice == NULL) {
        free(s->ring);
        free(s->dec.slice);
        free(s);
        return NULL;
    }
    s->magic = STREAM_MAGIC;
    s->state = STREAM_OPENING;
    s->si = si;
    s->dec.sh = si->shared;
    s->dec.rate = rate;
    s->dec.found_tail = &s->dec.found;
    s->last_audio_ms = si->host->now_ms();
    atomic_init(&s->turn.state, TURN_NONE);
    return s;
}

static int role_open(void *state, const struct omid_stt_params *params, struct omid_stt *stt, void **stream)
{
    struct sphinx_instance *si = state;
    sphinx_assert(si != NULL && si->magic == SPHINX_INSTANCE_MAGIC);
    if (si->draining)
        return OMID_ECLOSED;
    if (params->sample_rate < 8000 || params->sample_rate > 48000)
        return OMID_EINVAL;
    if (!shared_session_take(si->shared)) {
        si->host->counter_add(si->shared->count.refused, 1);
        return OMID_EFULL;
    }
    if (si->second == NULL)
        si->second = si->host->timer_start(si->inst, 1000, 1000, second_tick, si);
    struct stream *s = si->second != NULL && poll_start(si) ? stream_new(si, params->sample_rate) : NULL;
    if (s == NULL) {
        shared_session_give(si->shared);
        si->host->log(si->mod, OMID_LOG_ERROR, "no memory for a stream");
        return OMID_ERR;
    }
    s->stt = stt;
    s->next = si->first;
    if (si->first != NULL)
        si->first->prev = s;
    si->first = s;
    si->refs++;
    si->host->counter_add(si->shared->count.opened, 1);
    *stream = s;
    /* Not stream_pump(): a refused submission would end the stream within open(). */
    turn_ask(si->shared, &s->turn);
    stream_wait(s);
    return OMID_OK;
}

/* Room for `samples` more; and no more memory than the bound needs, once a larger piece is gone. */
static bool ring_fit(struct stream *s, size_t samples)
{
    if (s->ring_len == 0 && s->ring_cap > s->ring_bound) {
        int16_t *smaller = realloc(s->ring, s->ring_bound * sizeof(int16_t));
        if (smaller != NULL) {
            s->ring = smaller;
            s->ring_cap = s->ring_bound;
        }
        s->ring_at = 0;
    }
    if (samples <= s->ring_cap - s->ring_len)
        return true;
    sphinx_assert(s->ring_len == 0);
    int16_t *larger = realloc(s->ring, samples * sizeof(int16_t));
    if (larger == NULL) {
        s->si->host->log(s->si->mod, OMID_LOG_ERROR, "no memory for %zu samples", samples);
        return false;
    }
    s->ring = larger;
    s->ring_cap = samples;
    s->ring_at = 0;
    return true;
}

static int role_audio(void *stream, const int16_t *pcm, size_t samples)
{
    struct stream *s = stream_check(stream);
    if (s->state != STREAM_READY)
        return OMID_ECLOSED;
    if (samples > PIECE_MAX)
        return OMID_EINVAL;
    /* A piece beyond the bound is taken when nothing else waits: refused, it would come again as it is. */
    if (s->ring_len > 0 && s->ring_len + samples > s->ring_bound) {
        s->want_writable = true;
        s->si->host->counter_add(s->si->shared->count.audio_refused, 1);
        return OMID_EFULL;
    }
    if (!ring_fit(s, samples))
        return OMID_ERR;
    size_t at = (s->ring_at + s->ring_len) % s->ring_cap;
    size_t first = s->ring_cap - at;
    if (first > samples)
        first = samples;
    memcpy(s->ring + at, pcm, first * sizeof(int16_t));
    memcpy(s->ring, pcm + first, (samples - first) * sizeof(int16_t));
    s->ring_len += samples;
    s->received += samples;
    s->last_audio_ms = s->si->host->now_ms();
    stream_pump(s);
    return OMID_OK;
}

static void role_finalize(void *stream)
{
    struct stream *s = stream_check(stream);
    if (s->state != STREAM_READY)
        return;
    s->finalize = true;
    s->finalize_at = s->received;
    stream_pump(s);
}

static void role_close(void *stream)
{
    struct stream *s = stream_check(stream);
    if (s->state != STREAM_READY && s->state != STREAM_OPENING)
        return;
    stream_set_state(s, STREAM_CLOSING);
    if (s->unfinished || s->ring_len > 0 || s->job == JOB_RUNNING) {
        s->finalize = true;
        s->finalize_at = s->received;
    }
    /* stt_closed() comes from the poll or a job, never within close(). */
    if (s->job == JOB_NONE) {
        turn_ask(s->si->shared, &s->turn);
        stream_wait(s);
    }
}

static void role_release(void *stream)
{
    struct stream *s = stream_check(stream);
    sphinx_assert(!s->released);
    s->released = true;
    s->stt = NULL;
    if (s->job == JOB_RUNNING)
        return; /* job_done() frees */
    if (s->job == JOB_WAITING) {
        turn_end(s->si->shared, &s->turn);
        s->job = JOB_NONE;
    }
    stream_free(s);
}

const struct omid_stt_role sphinx_role = {.size = sizeof(struct omid_stt_role),
                                          .serves = role_serves,
                                          .open = role_open,
                                          .audio = role_audio,
                                          .finalize = role_finalize,
                                          .close = role_close,
                                          .release = role_release,
                                          .transcribe = recording_transcribe};
