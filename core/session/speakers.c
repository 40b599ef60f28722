#include "session/speakers.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bus/channel.h"
#include "host/ask.h"
#include "session/audio_ring.h"
#include "session/resample.h"
#include "session/samples.h"
#include "session/state.h"
#include "session/voice_match.h"
#include "session/voices.h"

#define MODULE "speakers"
#define SPEAKERS_MAGIC UINT32_C(0x73706b72)
#define MAX_SPEAKERS 64 /* of one session; the voices of more are not compared */
#define MAX_ASKED 4     /* questions of one session at once */

enum speaker_state {
    SPEAKER_UNKNOWN,
    SPEAKER_ASKED,
    SPEAKER_KNOWN, /* by the voice */
    SPEAKER_NAMED, /* by the user: nothing is asked any more */
};

struct speaker {
    enum speaker_state state;
    int id;
    unsigned questions; /* that were asked since voices were read last */
    struct speakers *of;
    struct host_ask *ask;
    struct task task;    /* finite: the question; in the drain the answer is still awaited */
    char segment_id[37]; /* that was asked about */
    char *person_id;     /* KNOWN; NULL: the owner */
};

struct speakers {
    uint32_t magic;
    struct session *s;
    struct voices *voices;
    struct audio_ring ring; /* positions: samples of SPEAKERS_RATE since the session's first */
    struct resampler *resampler;
    struct pcm resampled;
    bool needed, refused; /* refused: no memory for its ring, said once */
    struct speaker *speaker[MAX_SPEAKERS];
    unsigned n, asked;
};

/* ------------------------------------------------------------------ metrics */

static struct speakers_metrics metrics;
static pthread_once_t metrics_once = PTHREAD_ONCE_INIT;

static struct metric *question(const char *result)
{
    const struct metric_label label = {"result", result};
    return metric_get(METRIC_COUNTER, "omid_speaker_questions_total",
                      "Voices of speakers that were compared, by what came of it.", &label, 1, NULL, 0);
}

static struct metric *sample(const char *result)
{
    const struct metric_label label = {"result", result};
    return metric_get(METRIC_COUNTER, "omid_speaker_samples_total",
                      "Attempts to take a sample of the voice of a speaker whom the user has named.", &label, 1, NULL,
                      0);
}

static void metrics_make(void)
{
    metrics = (struct speakers_metrics){
        .match = question("person"),
        .owner = question("owner"),
        .nobody = question("nobody"),
        .failed = question("failed"),
        .no_audio = question("no_audio"),
        .late = question("late"),
        .busy = metric_counter("omid_speaker_unasked_total",
                               "Segments whose voice was not compared: too many questions or speakers at once."),
        .no_room = metric_counter("omid_speaker_no_room_total",
                                  "Audio for comparing voices, or of a sample, that speakers.memory had no room for."),
        .left_out = metric_counter("omid_speaker_voices_left_out_total",
                                   "Voices that speakers.voices had no room for, each time they were read."),
        .kept = sample("kept"),
        .again = sample("again"),
        .superseded = sample("superseded"),
        .given_up = sample("given_up"),
        .waiting = metric_gauge("omid_speaker_samples_waiting", "Samples of voices that are still to be taken."),
    };
    audio_ring_metrics();
}

const struct speakers_metrics *speakers_metrics(void)
{
    pthread_once(&metrics_once, metrics_make);
    return &metrics;
}

/* --------------------------------------------------------------------- the ring */

static void ring_end(struct speakers *sp)
{
    audio_ring_free(&sp->ring);
    resampler_free(&sp->resampler);
    pcm_free(&sp->resampled);
}

static uint64_t position_of(const struct session *s)
{
    return s->samples * SPEAKERS_RATE / (uint64_t)s->params.sample_rate;
}

static bool ring_begin(struct speakers *sp)
{
    uint32_t rate = (uint32_t)sp->s->params.sample_rate;
    sp->ring = (struct audio_ring){.use = AUDIO_RING_VOICES};
    sp->ring.base = sp->ring.end = position_of(sp->s);
    if (rate != SPEAKERS_RATE)
        sp->resampler = resampler_new(rate, SPEAKERS_RATE);
    return rate == SPEAKERS_RATE || sp->resampler;
}

static bool ring_on(const struct speakers *sp)
{
    return sp->ring.cap > 0;
}

/* Within the bound of all rings together: one that may not grow keeps less. */
static void ring_append(struct speakers *sp, const int16_t *pcm, size_t n)
{
    const struct conf *conf = session_conf(sp->s);
    struct audio_ring *r = &sp->ring;
    uint64_t keep = (uint64_t)conf->speakers.ring_ms * SPEAKERS_RATE / 1000;
    if (r->end + n > keep)
        audio_ring_trim(r, r->end + n - keep);
    size_t growth = audio_ring_growth(r, n);
    bool room = growth == 0 || (audio_ring_held(AUDIO_RING_VOICES) + growth <= conf->speakers.memory &&
                                !budget_exhausted() && audio_ring_reserve(r, n));
    if (!room) {
        if (!sp->refused)
            metric_add(speakers_metrics()->no_room, 1);
        sp->refused = true;
        if (r->cap < n) {
            ring_end(sp); /* from here on there would be a gap: it begins anew when there is room */
            return;
        }
        audio_ring_trim(r, r->end + n > r->cap ? r->end + n - r->cap : 0);
    }
    if (!audio_ring_append(r, pcm, n))
        ring_end(sp);
}

void speakers_audio(struct session *s, const struct pcm *pcm)
{
    struct speakers *sp = s->speakers;
    if (!sp || !sp->needed)
        return;
    CHECK_MAGIC(sp, SPEAKERS_MAGIC);
    if (!ring_on(sp) && !ring_begin(sp)) {
        ring_end(sp);
        return;
    }
    if (!sp->resampler) {
        ring_append(sp, pcm->data, pcm->n);
        return;
    }
    sp->resampled.n = 0;
    if (resampler_run(sp->resampler, pcm->data, pcm->n, &sp->resampled))
        ring_append(sp, sp->resampled.data, sp->resampled.n);
    else
        ring_end(sp);
}

/* What is there of these seconds, at most speakers.max_speech from their middle; the caller's to free. NULL: less than
 * min_ms, or no memory. */
static int16_t *ring_cut(const struct speakers *sp, double start, double end, uint32_t min_ms, size_t *n)
{
    const struct audio_ring *r = &sp->ring;
    const struct conf *conf = session_conf(sp->s);
    double from = fmax(start * SPEAKERS_RATE, (double)r->base), to = fmin(end * SPEAKERS_RATE, (double)r->end);
    double max = conf->speakers.max_speech_ms * (SPEAKERS_RATE / 1000.);
    if (!ring_on(sp) || !(to - from >= min_ms * (SPEAKERS_RATE / 1000.) * 0.99))
        return NULL;
    if (to - from > max) {
        from += (to - from - max) / 2;
        to = from + max;
    }
    uint64_t at = (uint64_t)from;
    *n = (size_t)(to - from);
    int16_t *pcm = malloc(*n * sizeof *pcm);
    for (size_t done = 0; pcm && done < *n;) {
        size_t piece;
        const int16_t *data = audio_ring_at(r, at + done, *n - done, &piece);
        memcpy(pcm + done, data, piece * sizeof *pcm);
        done += piece;
    }
    return pcm;
}

/* ------------------------------------------------------------------- who is whom */

static struct speaker *speaker_of(struct speakers *sp, int id)
{
    for (unsigned i = 0; i < sp->n; i++) {
        if (sp->speaker[i]->id == id)
            return sp->speaker[i];
    }
    struct speaker *k = sp->n < MAX_SPEAKERS ? calloc(1, sizeof *k) : NULL;
    if (!k)
        return NULL;
    k->id = id;
    k->of = sp;
    task_init(&k->task);
    sp->speaker[sp->n++] = k;
    return k;
}

static void speaker_set_state(struct speaker *k, enum speaker_state to)
{
    omid_assert(k->state != to && k->state != SPEAKER_NAMED);
    if (k->state == SPEAKER_ASKED) {
        host_ask_cancel(&k->ask);
        k->of->asked--;
    }
    if (to == SPEAKER_ASKED)
        k->of->asked++;
    else
        task_end(&k->task, TASK_DONE, NULL);
    if (to != SPEAKER_KNOWN) {
        free(k->person_id);
        k->person_id = NULL;
    }
    k->state = to;
}

static bool user_has_said(const struct session *s, int speaker_id)
{
    return s->conversation && content_speaker(&s->conversation->content, speaker_id);
}

/* The segment asked about, or what became of it: the speaker's newest. NULL: there is none. */
static struct segment *segment_of(struct conversation *c, const struct speaker *k)
{
    struct segment *seg = segment_list_find(&c->fresh, k->segment_id);
    if (!seg)
        seg = segment_list_find(&c->segments, k->segment_id);
    for (size_t i = c->segments.n; i-- > 0 && !seg;) {
        if (c->segments.item[i]->speaker_id == k->id)
            seg = c->segments.item[i];
    }
    return seg && seg->speaker_id == k->id ? seg : NULL;
}

static void suggest(struct session *s, const struct speaker *k, const char *name, const char *segment_id)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "type", "speaker_label_suggestion");
    json_w_kint(&w, "speaker_id", k->id);
    json_w_kstr(&w, "person_id", !s->params.speaker_auto_assign ? "" : k->person_id ? k->person_id : STORE_OWNER);
    json_w_kstr(&w, "person_name", k->person_id ? name : "User");
    json_w_kstr(&w, "segment_id", segment_id);
    json_w_close(&w, '}');
    if (json_w_end(&w))
        session_send_text(s, b.data, b.len);
    buf_free(&b);
}

static void matched(struct speaker *k, const struct store_voice *who)
{
    struct session *s = k->of->s;
    bool owner = strcmp(who->person_id, STORE_OWNER) == 0;
    char *person = owner ? NULL : strdup(who->person_id);
    if (!owner && !person) {
        speaker_set_state(k, SPEAKER_UNKNOWN);
        metric_add(speakers_metrics()->failed, 1);
        return;
    }
    speaker_set_state(k, SPEAKER_KNOWN);
    k->person_id = person;
    metric_add(owner ? speakers_metrics()->owner : speakers_metrics()->match, 1);
    struct conversation *c = s->conversation;
    struct segment *seg = c ? segment_of(c, k) : segment_list_find(&s->early, k->segment_id);
    if (seg && c) {
        conversation_segment_name(c, seg, k->person_id);
        conversation_changed(c);
    }
    suggest(s, k, who->name, seg ? seg->id : k->segment_id);
    speakers_settle(s);
}

static void on_answer(void *arg, const struct omid_answer *a)
{
    struct speaker *k = arg;
    struct speakers *sp = k->of;
    struct session *s = sp->s;
    CHECK_MAGIC(sp, SPEAKERS_MAGIC);
    k->ask = NULL;
    const struct store_voices *known = voices_known(sp->voices);
    double distance = VOICE_APART;
    if (a->result != OMID_OK || !voice_usable(a->vector, a->n_vector)) {
        log_info(MODULE, "a voice could not be compared", LS("session", s->id),
                 LS("reason", a->text ? a->text : "the answer is no usable vector"));
        metric_add(a->result == OMID_ETIMEOUT ? speakers_metrics()->late : speakers_metrics()->failed, 1);
        speaker_set_state(k, SPEAKER_UNKNOWN);
        return;
    }
    const struct store_voice *who = voice_match(known, a->vector, a->n_vector, s->params.include_speech_profile,
                                                session_conf(s)->speakers.threshold, &distance);
    log_debug(MODULE, "a voice was compared", LS("session", s->id), LI("speaker", k->id), LU("voices", known->n),
              LI("distance_permille", (int64_t)(distance * 1000)), LB("matched", who != NULL));
    if (who && !user_has_said(s, k->id)) {
        matched(k, who);
        return;
    }
    if (!who)
        metric_add(speakers_metrics()->nobody, 1);
    speaker_set_state(k, SPEAKER_UNKNOWN);
}

/* ------------------------------------------------------------------- questions */

static void question_cancel(struct task *t)
{
    speaker_set_state(container_of(t, struct speaker, task), SPEAKER_UNKNOWN);
}

static const struct task_ops question_ops = {.cancel = question_cancel};

/* false: the session is being cancelled. */
static bool question_begin(struct speaker *k)
{
    char what[sizeof k->task.what];
    snprintf(what, sizeof what, "voice:%d", k->id);
    return task_start(&k->task, &k->of->s->supervisor, TASK_FINITE, what, &question_ops);
}

static bool worth_asking(struct speakers *sp, const struct speaker *k, const struct segment *seg)
{
    const struct conf *conf = session_conf(sp->s);
    if (k->state != SPEAKER_UNKNOWN || sp->s->state >= SESSION_CLOSING || k->questions >= conf->speakers.attempts ||
        seg->end - seg->start < conf->speakers.min_speech_ms / 1000. || voices_known(sp->voices)->n == 0)
        return false;
    if (sp->asked < MAX_ASKED)
        return true;
    metric_add(speakers_metrics()->busy, 1);
    return false;
}

static void ask(struct speakers *sp, struct speaker *k, const struct segment *seg)
{
    struct session *s = sp->s;
    size_t n;
    int16_t *pcm = ring_cut(sp, seg->start, seg->end, session_conf(s)->speakers.min_speech_ms, &n);
    if (!pcm) {
        metric_add(speakers_metrics()->no_audio, 1);
        return;
    }
    const struct omid_audio audio = {.size = sizeof audio, .pcm = pcm, .samples = n, .sample_rate = SPEAKERS_RATE};
    const struct host_question q = {.kind = HOST_ASK_EMBED, .audio = &audio};
    if (!question_begin(k)) {
        free(pcm);
        return;
    }
    k->questions++;
    speaker_set_state(k, SPEAKER_ASKED);
    snprintf(k->segment_id, sizeof k->segment_id, "%s", seg->id);
    if (host_ask(s->ss->env.host, s->ss->env.reactor, &q, session_conf(s)->speakers.timeout_ms, on_answer, k,
                 &k->ask) != OMID_OK) {
        metric_add(speakers_metrics()->failed, 1);
        speaker_set_state(k, SPEAKER_UNKNOWN);
    }
    free(pcm);
}

void speakers_segments(struct session *s, const struct segment_list *batch)
{
    struct speakers *sp = s->speakers;
    if (!sp)
        return;
    CHECK_MAGIC(sp, SPEAKERS_MAGIC);
    unsigned before = sp->n;
    for (size_t i = 0; i < batch->n; i++) {
        struct segment *seg = batch->item[i];
        if (seg->speaker_id < 0 || seg->is_user || user_has_said(s, seg->speaker_id))
            continue;
        struct speaker *k = speaker_of(sp, seg->speaker_id);
        if (!k) {
            metric_add(speakers_metrics()->busy, 1);
            continue;
        }
        if (k->state == SPEAKER_KNOWN) {
            char *person = k->person_id ? strdup(k->person_id) : NULL;
            if (person || !k->person_id) {
                free(seg->person_id);
                seg->person_id = person;
                seg->is_user = !k->person_id;
            }
        } else if (sp->needed && worth_asking(sp, k, seg)) {
            ask(sp, k, seg);
        }
    }
    if (sp->n > before)
        speakers_settle(s);
}

/* ------------------------------------------------------------- the user's own word */

/* The longest of the segments the sample is of; NULL: none of them is there. */
static const struct segment *sample_segment(const struct conversation *c, const struct naming *n)
{
    const struct segment *best = NULL;
    char err[96];
    yajl_val ids = json_parse(n->segments, strlen(n->segments), 0, err, sizeof err);
    for (size_t i = 0; i < json_len(ids); i++) {
        yajl_val id = json_at(ids, i);
        const struct segment *seg = YAJL_IS_STRING(id) ? segment_list_find(&c->segments, id->u.string) : NULL;
        if (seg && (!best || seg->end - seg->start > best->end - best->start))
            best = seg;
    }
    json_free(&ids);
    return best;
}

/* The audio of it, from the session that has heard it: of a user's several that speak into the conversation, any may
 * tell the name. The caller's to free; NULL: it is not there. */
static int16_t *sample_cut(const struct conversation *c, const struct segment *seg, size_t *n)
{
    list_each (it, &c->session) {
        const struct session *s = list_entry(it, struct session, conversation_link);
        if (s->number != seg->heard_by || !s->speakers || s->first_audio_ms == 0)
            continue;
        double shift = (double)(c->started_ms - s->first_audio_ms) / 1000.;
        return ring_cut(s->speakers, seg->start + shift, seg->end + shift, SPEAKERS_MIN_MS, n);
    }
    return NULL;
}

void speakers_named(struct session *s, const struct naming *n)
{
    struct speakers *sp = s->speakers;
    size_t samples;
    if (!sp)
        return;
    CHECK_MAGIC(sp, SPEAKERS_MAGIC);
    struct speaker *k = speaker_of(sp, n->speaker_id);
    if (k && k->state != SPEAKER_NAMED)
        speaker_set_state(k, SPEAKER_NAMED);
    const struct segment *seg = s->conversation->started_ms > 0 ? sample_segment(s->conversation, n) : NULL;
    int16_t *pcm = seg ? sample_cut(s->conversation, seg, &samples) : NULL;
    if (pcm)
        samples_clip(s->ss->samples, n->sample_id, pcm, samples);
    speakers_settle(s);
}

/* -------------------------------------------------------------------------- life */

static bool speakers_open(struct session *s)
{
    struct speakers *sp = calloc(1, sizeof *sp);
    if (!sp)
        return false;
    sp->magic = SPEAKERS_MAGIC;
    sp->s = s;
    sp->voices = voices_hold(s->ss, s->uid);
    if (!sp->voices) {
        free(sp);
        return false;
    }
    s->speakers = sp;
    return true;
}

void speakers_settle(struct session *s)
{
    bool live = s->state < SESSION_CLOSING;
    bool answered = live && host_answers(s->ss->env.host, s->ss->env.reactor, HOST_ASK_EMBED, NULL);
    if (!s->speakers && (!answered || !speakers_open(s)))
        return;
    struct speakers *sp = s->speakers;
    CHECK_MAGIC(sp, SPEAKERS_MAGIC);
    voices_settle(sp->voices);
    bool unnamed = false;
    for (unsigned i = 0; i < sp->n; i++)
        unnamed = unnamed || sp->speaker[i]->state < SPEAKER_KNOWN;
    const struct store_voices *known = voices_known(sp->voices);
    bool candidates = voices_awaited(sp->voices);
    for (size_t i = 0; i < known->n && !candidates; i++)
        candidates = s->params.include_speech_profile || strcmp(known->voice[i].person_id, STORE_OWNER) != 0;
    sp->needed = (unnamed || candidates) && answered;
    /* What it holds is of use until the last segments have come. */
    if (!sp->needed && live)
        ring_end(sp);
    if (audio_ring_held(AUDIO_RING_VOICES) < session_conf(s)->speakers.memory)
        sp->refused = false;
}

void speakers_voices_read(struct sessions *ss, const struct voices *v)
{
    list_each (it, &ss->session) {
        struct session *s = list_entry(it, struct session, link);
        struct speakers *sp = s->speakers;
        if (!sp || sp->voices != v)
            continue;
        const struct store_voices *known = voices_known(v);
        for (unsigned i = 0; i < sp->n; i++) {
            struct speaker *k = sp->speaker[i];
            bool there = k->state != SPEAKER_KNOWN;
            for (size_t j = 0; j < known->n && !there; j++)
                there = strcmp(known->voice[j].person_id, k->person_id ? k->person_id : STORE_OWNER) == 0;
            if (!there)
                speaker_set_state(k, SPEAKER_UNKNOWN); /* deleted: not to be named any more */
            k->questions = 0;
        }
        speakers_settle(s);
    }
}

void speakers_close(struct session *s)
{
    struct speakers *sp = s->speakers;
    s->speakers = NULL;
    if (!sp)
        return;
    CHECK_MAGIC(sp, SPEAKERS_MAGIC);
    for (unsigned i = 0; i < sp->n; i++) {
        host_ask_cancel(&sp->speaker[i]->ask);
        free(sp->speaker[i]->person_id);
        free(sp->speaker[i]);
    }
    ring_end(sp);
    voices_release(&sp->voices);
    sp->magic = OMID_MAGIC_DEAD;
    free(sp);
}
