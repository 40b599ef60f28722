#include "session/samples.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "bus/channel.h"
#include "host/ask.h"
#include "session/audio_ring.h"
#include "session/resample.h"
#include "session/speakers.h"
#include "session/state.h"
#include "session/voice_match.h"
#include "session/voices.h"

#define MODULE "samples"
#define SAMPLES_MAGIC UINT32_C(0x736d706c)
#define DUE_MAX 100         /* looked at at once */
#define MAX_RUNNING 4       /* per reactor */
#define MAX_CLIPS 1000      /* per reactor */
#define CLIP_KEPT_MS 600000 /* beyond sample_age: then stored audio has to do */
#define RETRY_CAP_MS INT64_C(21600000)
#define READ_TIMEOUT_MS 60000
#define SILENCE 64 /* samples no louder than this, all of them: a gap in the recording */

struct clip {
    struct list link;
    char sample_id[37];
    int16_t *pcm;
    size_t n;
    int64_t made_ms;
};

/* One attempt. */
struct attempt {
    struct list link;
    struct samples *m;
    char id[37], conversation_id[37];
    char *uid;
    unsigned failed; /* attempts before this one */
    int64_t created_ms;
    double seconds;
    struct host_ask *ask;
    bool storing; /* the store will answer */
};

struct samples {
    uint32_t magic;
    struct sessions *ss;
    struct list clips, attempts;
    unsigned n_clips, running;
    ev_timer check, drain;
    bool asking; /* the store has been asked which are due */
    bool asked_in_drain;
    bool more; /* there were more than could be begun */
    bool beginning;
    bool hopeless; /* one ended unsettled: a drain does not look again */
    bool draining, drained;
};

static const struct conf *samples_conf(const struct samples *m)
{
    return m->ss->env.conf;
}

static bool samples_look(struct samples *m);

/* ------------------------------------------------------------------------- clips */

static void clip_free(struct samples *m, struct clip *c)
{
    audio_ring_account(AUDIO_RING_VOICES, -(int64_t)(c->n * sizeof *c->pcm));
    list_remove(&c->link);
    m->n_clips--;
    free(c->pcm);
    free(c);
}

static struct clip *clip_find(struct samples *m, const char *sample_id)
{
    list_each (it, &m->clips) {
        struct clip *c = list_entry(it, struct clip, link);
        if (strcmp(c->sample_id, sample_id) == 0)
            return c;
    }
    return NULL;
}

static void clip_forget(struct samples *m, const char *sample_id)
{
    struct clip *c = clip_find(m, sample_id);
    if (c)
        clip_free(m, c);
}

static void clips_expire(struct samples *m, int64_t now_ms)
{
    list_each (it, &m->clips) {
        struct clip *c = list_entry(it, struct clip, link);
        if (now_ms - c->made_ms > (int64_t)samples_conf(m)->speakers.sample_age_ms + CLIP_KEPT_MS)
            clip_free(m, c);
    }
}

void samples_clip(struct samples *m, const char *sample_id, int16_t *pcm, size_t n)
{
    CHECK_MAGIC(m, SAMPLES_MAGIC);
    size_t bytes = n * sizeof *pcm;
    bool room = m->n_clips < MAX_CLIPS &&
                audio_ring_held(AUDIO_RING_VOICES) + bytes <= samples_conf(m)->speakers.memory && !budget_exhausted();
    struct clip *c = room ? calloc(1, sizeof *c) : NULL;
    if (!c) {
        metric_add(speakers_metrics()->no_room, 1);
        free(pcm);
        return;
    }
    snprintf(c->sample_id, sizeof c->sample_id, "%s", sample_id);
    c->pcm = pcm;
    c->n = n;
    c->made_ms = clock_wall_ms();
    list_append(&m->clips, &c->link);
    m->n_clips++;
    audio_ring_account(AUDIO_RING_VOICES, (int64_t)bytes);
}

/* ------------------------------------------------------------------ one attempt */

static void attempt_free(struct attempt *t)
{
    host_ask_cancel(&t->ask);
    list_remove(&t->link);
    t->m->running--;
    free(t->uid);
    free(t);
}

static void drain_over(struct samples *m);

/* It is over. settled: the store knows what became of it; else it is still due, and not to be begun again at once. */
static void attempt_end(struct attempt *t, bool settled)
{
    struct samples *m = t->m;
    attempt_free(t);
    if (!settled) {
        m->more = false;
        m->hopeless = true;
    }
    if (m->drained || m->asking || m->beginning)
        return;
    if (m->draining && m->running == 0 && m->hopeless) {
        drain_over(m);
    } else if (m->draining ? m->running == 0 : m->more && m->running < MAX_RUNNING && !m->ss->draining) {
        if (!samples_look(m) && m->draining)
            drain_over(m);
    }
}

static void on_failed(void *arg, int result)
{
    struct attempt *t = arg;
    t->storing = false;
    if (result == OMID_ERR)
        log_warning(MODULE, "the store did not take what became of a sample", LS("sample", t->id));
    attempt_end(t, result != OMID_ERR);
}

/* next_ms 0: given up. */
static void attempt_store_failure(struct attempt *t, int64_t next_ms, const char *why)
{
    struct samples *m = t->m;
    t->storing = true;
    if (store_sample_failed(m->ss->env.store, t->id, next_ms, why, m->ss->env.loop, on_failed, t) != OMID_OK) {
        t->storing = false;
        attempt_end(t, false); /* still due */
    }
}

static void attempt_give_up(struct attempt *t, struct metric *count, const char *why)
{
    metric_add(count, 1);
    log_warning(MODULE, "a sample of a voice is given up", LS("sample", t->id), LS("conversation", t->conversation_id),
                LU("attempts", t->failed + 1), LS("reason", why));
    clip_forget(t->m, t->id);
    attempt_store_failure(t, 0, why);
}

static void attempt_failed(struct attempt *t, const char *why)
{
    const struct conf *conf = samples_conf(t->m);
    int64_t now = clock_wall_ms(), pause = (int64_t)conf->speakers.sample_retry_ms;
    if (t->failed + 1 >= conf->speakers.sample_attempts ||
        now - t->created_ms > (int64_t)conf->speakers.sample_give_up_ms) {
        attempt_give_up(t, speakers_metrics()->given_up, why);
        return;
    }
    for (unsigned i = 0; i < t->failed && pause < RETRY_CAP_MS; i++)
        pause *= 2;
    pause = pause < RETRY_CAP_MS ? pause : RETRY_CAP_MS;
    pause += (int64_t)((double)pause * (id_random_unit() - 0.5) * 0.4);
    metric_add(speakers_metrics()->again, 1);
    log_info(MODULE, "a sample of a voice was not taken, it is tried again", LS("sample", t->id),
             LS("conversation", t->conversation_id), LU("attempt", t->failed + 1), LI("in_ms", pause),
             LS("reason", why));
    attempt_store_failure(t, now + pause + 1, why);
}

static void on_taken(void *arg, int result)
{
    struct attempt *t = arg;
    t->storing = false;
    if (result == OMID_OK) {
        metric_add(speakers_metrics()->kept, 1);
        log_info(MODULE, "a sample of a voice is kept", LS("sample", t->id), LS("conversation", t->conversation_id),
                 LD("seconds", t->seconds));
        clip_forget(t->m, t->id);
        voices_changed(t->m->ss, t->uid);
    } else if (result == OMID_ERR) {
        log_warning(MODULE, "the store did not take a voice: it is tried again", LS("sample", t->id));
    }
    attempt_end(t, result != OMID_ERR);
}

static void on_embedded(void *arg, const struct omid_answer *a)
{
    struct attempt *t = arg;
    struct samples *m = t->m;
    t->ask = NULL;
    if (a->result == OMID_OK && voice_usable(a->vector, a->n_vector)) {
        t->storing = true;
        if (store_sample_taken(m->ss->env.store, t->id, a->vector, a->n_vector, t->seconds, clock_wall_ms(),
                               m->ss->env.loop, on_taken, t) != OMID_OK) {
            t->storing = false;
            attempt_end(t, false);
        }
    } else if (a->result == OMID_EINVAL) {
        attempt_give_up(t, speakers_metrics()->given_up, a->text ? a->text : "it can't be served");
    } else if (a->result == OMID_ECLOSED) {
        attempt_end(t, false); /* the plugin is going: no attempt */
    } else {
        attempt_failed(t, a->text ? a->text : "the answer is no usable vector");
    }
}

static void attempt_embed(struct attempt *t, const int16_t *pcm, size_t n)
{
    const struct sessions *ss = t->m->ss;
    const struct omid_audio audio = {.size = sizeof audio, .pcm = pcm, .samples = n, .sample_rate = SPEAKERS_RATE};
    const struct host_question q = {.kind = HOST_ASK_EMBED, .audio = &audio};
    t->seconds = (double)n / SPEAKERS_RATE;
    if (host_ask(ss->env.host, ss->env.reactor, &q, ss->env.conf->speakers.timeout_ms, on_embedded, t, &t->ask) !=
        OMID_OK)
        attempt_end(t, false); /* nobody answers any more */
}

static bool is_silent(const struct omid_audio *audio)
{
    for (size_t i = 0; i < audio->samples; i++) {
        if (audio->pcm[i] > SILENCE || audio->pcm[i] < -SILENCE)
            return false;
    }
    return true;
}

static void on_read(void *arg, const struct omid_answer *a)
{
    struct attempt *t = arg;
    t->ask = NULL;
    const struct omid_audio *audio = a->audio;
    if (a->result == OMID_ECLOSED) {
        attempt_end(t, false);
    } else if (a->result != OMID_OK || !audio) {
        attempt_failed(t, a->text ? a->text : "no audio of it is stored");
    } else if (audio->sample_rate < 4000 || audio->sample_rate > 192000 || is_silent(audio)) {
        attempt_failed(t, "the stored audio is silent there");
    } else if (audio->samples < (size_t)audio->sample_rate * SPEAKERS_MIN_MS / 1000) {
        attempt_failed(t, "less than 0.5 s of audio is stored");
    } else if (audio->sample_rate == SPEAKERS_RATE) {
        attempt_embed(t, audio->pcm, audio->samples);
    } else {
        struct pcm out = {0};
        struct resampler *r = resampler_new(audio->sample_rate, SPEAKERS_RATE);
        if (r && resampler_run(r, audio->pcm, audio->samples, &out))
            attempt_embed(t, out.data, out.n);
        else
            attempt_failed(t, "out of memory");
        resampler_free(&r);
        pcm_free(&out);
    }
}

/* The middle of what was said, from stored audio. */
static void attempt_read(struct attempt *t, const struct store_sample *a)
{
    const struct sessions *ss = t->m->ss;
    int64_t from = a->started_ms + (int64_t)llround(a->start * 1000),
            to = a->started_ms + (int64_t)llround(a->end * 1000);
    int64_t max = (int64_t)ss->env.conf->speakers.max_speech_ms;
    if (to - from > max) {
        from += (to - from - max) / 2;
        to = from + max;
    }
    const struct omid_audio_range range = {.size = sizeof range,
                                           .uid = a->uid,
                                           .conversation_id = a->conversation_id,
                                           .from_ms = from,
                                           .to_ms = to,
                                           .session_id = a->session[0] ? a->session : NULL};
    const struct host_question q = {.kind = HOST_ASK_AUDIO_READ, .range = &range};
    int rc = host_ask(ss->env.host, ss->env.reactor, &q, READ_TIMEOUT_MS, on_read, t, &t->ask);
    if (rc == OMID_ENOTSUP)
        attempt_failed(t, "its audio is not in memory any more, and no plugin stores audio");
    else if (rc != OMID_OK)
        attempt_failed(t, "out of memory");
}

static void attempt_begin(struct samples *m, const struct store_sample *a)
{
    struct attempt *t = calloc(1, sizeof *t);
    if (!t)
        return; /* still due */
    t->m = m;
    t->failed = a->attempts;
    t->created_ms = a->created_ms;
    snprintf(t->id, sizeof t->id, "%s", a->id);
    snprintf(t->conversation_id, sizeof t->conversation_id, "%s", a->conversation_id);
    list_append(&m->attempts, &t->link);
    m->running++;
    t->uid = strdup(a->uid);
    const struct clip *c = clip_find(m, a->id);
    if (!t->uid)
        attempt_failed(t, "out of memory");
    else if (a->superseded)
        attempt_give_up(t, speakers_metrics()->superseded, "the speaker was named otherwise since");
    else if (c)
        attempt_embed(t, c->pcm, c->n);
    else if (!a->heard || a->end - a->start < SPEAKERS_MIN_MS / 1000. || a->started_ms == 0)
        attempt_give_up(t, speakers_metrics()->given_up, "less than 0.5 s was said");
    else
        attempt_read(t, a);
}

/* ---------------------------------------------------------------------- which ones */

static bool is_under_way(const struct samples *m, const char *id)
{
    list_each (it, &m->attempts) {
        if (strcmp(list_entry(it, struct attempt, link)->id, id) == 0)
            return true;
    }
    return false;
}

static void drain_over(struct samples *m)
{
    omid_assert(!m->drained);
    m->drained = true;
    ev_timer_stop(loop_ev(m->ss->env.loop), &m->drain);
    sessions_check_drained(m->ss);
}

static void on_due(void *arg, const struct store_sample *sample, size_t n, int64_t waiting)
{
    struct samples *m = arg;
    CHECK_MAGIC(m, SAMPLES_MAGIC);
    m->asking = false;
    m->more = false;
    if (waiting >= 0)
        metric_set(speakers_metrics()->waiting, waiting);
    if (m->drained || (m->ss->draining && !m->draining))
        return;
    if (m->draining && !m->asked_in_drain) { /* of before: which are old enough */
        if (m->running == 0 && !samples_look(m))
            drain_over(m);
        return;
    }
    m->beginning = true;
    for (size_t i = 0; i < n; i++) {
        if (session_reactor_of(sample[i].uid, samples_conf(m)->daemon.reactors) != m->ss->env.reactor ||
            is_under_way(m, sample[i].id))
            continue;
        if (m->running < MAX_RUNNING)
            attempt_begin(m, &sample[i]);
        else
            m->more = true;
    }
    m->beginning = false;
    if (m->draining && m->running == 0)
        drain_over(m);
}

/* false: the store takes no questions. */
static bool samples_look(struct samples *m)
{
    int64_t now = clock_wall_ms();
    struct store_samples_query q = {.created_ms = now - (int64_t)samples_conf(m)->speakers.sample_age_ms,
                                    .due_ms = now,
                                    .max_attempts = UINT16_MAX,
                                    .max = DUE_MAX};
    if (m->draining) { /* each once */
        q.created_ms = now;
        q.max_attempts = 0;
        m->asked_in_drain = true;
    }
    m->hopeless = false;
    m->asking = store_samples_due(m->ss->env.store, &q, m->ss->env.loop, on_due, m) == OMID_OK;
    return m->asking;
}

static bool anybody_embeds(const struct samples *m)
{
    return host_answers(m->ss->env.host, m->ss->env.reactor, HOST_ASK_EMBED, NULL);
}

static void on_check(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct samples *m = w->data;
    CHECK_MAGIC(m, SAMPLES_MAGIC);
    clips_expire(m, clock_wall_ms());
    if (!m->asking && !m->ss->draining && anybody_embeds(m))
        (void)samples_look(m);
}

/* ------------------------------------------------------------------------- life */

static void on_drain_over(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct samples *m = w->data;
    CHECK_MAGIC(m, SAMPLES_MAGIC);
    log_info(MODULE, "samples are left to the next start", LU("under_way", m->running));
    list_each (it, &m->attempts)
        host_ask_cancel(&list_entry(it, struct attempt, link)->ask);
    drain_over(m);
}

bool samples_drained(struct samples *m)
{
    CHECK_MAGIC(m, SAMPLES_MAGIC);
    struct ev_loop *ev = loop_ev(m->ss->env.loop);
    if (m->draining || m->drained)
        return m->drained;
    uint64_t now = loop_now_ms(m->ss->env.loop), ms = samples_conf(m)->speakers.sample_drain_ms;
    if (m->ss->drain_until_ms < now + ms)
        ms = m->ss->drain_until_ms > now ? m->ss->drain_until_ms - now : 0;
    ev_timer_stop(ev, &m->check);
    m->drained = ms == 0 || !anybody_embeds(m);
    if (m->drained)
        return true;
    m->draining = true;
    ev_timer_set(&m->drain, (double)ms / 1000., 0.);
    ev_timer_start(ev, &m->drain);
    if (m->asking || m->running > 0)
        return false; /* what is under way comes to its end, and looks again */
    if (samples_look(m))
        return false;
    ev_timer_stop(ev, &m->drain);
    m->drained = true;
    return true;
}

void samples_configure(struct samples *m)
{
    CHECK_MAGIC(m, SAMPLES_MAGIC);
    double check = samples_conf(m)->speakers.sample_check_ms / 1000.;
    if (m->check.repeat == check || !ev_is_active(&m->check))
        return;
    m->check.repeat = check;
    ev_timer_again(loop_ev(m->ss->env.loop), &m->check);
}

void samples_start(struct samples *m)
{
    CHECK_MAGIC(m, SAMPLES_MAGIC);
    double check = samples_conf(m)->speakers.sample_check_ms / 1000.;
    ev_timer_set(&m->check, 0., check);
    ev_timer_start(loop_ev(m->ss->env.loop), &m->check);
}

struct samples *samples_new(struct sessions *ss)
{
    struct samples *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->magic = SAMPLES_MAGIC;
    m->ss = ss;
    list_init(&m->clips);
    list_init(&m->attempts);
    ev_init(&m->check, on_check);
    ev_init(&m->drain, on_drain_over);
    m->check.data = m->drain.data = m;
    speakers_metrics(); /* on the page from the start */
    return m;
}

void samples_free(struct samples **mp)
{
    struct samples *m = *mp;
    *mp = NULL;
    if (!m)
        return;
    CHECK_MAGIC(m, SAMPLES_MAGIC);
    ev_timer_stop(loop_ev(m->ss->env.loop), &m->check);
    ev_timer_stop(loop_ev(m->ss->env.loop), &m->drain);
    list_each (it, &m->clips)
        clip_free(m, list_entry(it, struct clip, link));
    list_each (it, &m->attempts)
        attempt_free(list_entry(it, struct attempt, link));
    m->magic = OMID_MAGIC_DEAD;
    free(m);
}
