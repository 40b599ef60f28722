#include "session/stt_feed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/magic.h"
#include "base/metrics.h"
#include "host/host.h"
#include "session/audio_ring.h"
#include "session/session.h"
#include "session/stt_gate.h"

#define FEED_MAGIC UINT32_C(0x73747466)
#define MODULE "stt"

/* A provider is sent audio as soon as this much is there (the listen protocol, Audio). */
#define CHUNK_MS 30
/* And not much more in one call: whether it keeps up is judged by what it takes. */
#define PIECE_MS 500
/* A stream that breaks this often without having made any audio final in between is used up. One that does not keep up
 * is so when it has not come after everything in between; as long as there is another one to ask. */
#define MAX_LOSSES 3
#define REOPEN_BASE_MS 1000 /* the Deepgram protocol, connect attempts: the same pauses between streams */
#define REOPEN_CAP_MS 32000
#define CATCH_UP_TICK_MS 50
#define MAX_CANDIDATES 16 /* the option table's bound of stt.models */
/* A stream that has lived so long was no failure, also when nobody spoke and nothing was final. */
#define STEADY_MS 60000

enum feed_state { FEED_IDLE, FEED_OPENING, FEED_LIVE, FEED_WAITING, FEED_CLOSING, FEED_DONE, FEED_FAILED };
static const char *const state_names[] = {"idle", "opening", "live", "waiting", "closing", "done", "failed"};

/* Which state may follow which. */
static const unsigned legal[] = {
    [FEED_IDLE] = 1u << FEED_OPENING | 1u << FEED_DONE,
    [FEED_OPENING] = 1u << FEED_LIVE | 1u << FEED_WAITING | 1u << FEED_OPENING | 1u << FEED_FAILED | 1u << FEED_DONE,
    [FEED_LIVE] = 1u << FEED_WAITING | 1u << FEED_OPENING | 1u << FEED_CLOSING | 1u << FEED_FAILED | 1u << FEED_DONE,
    [FEED_WAITING] = 1u << FEED_OPENING | 1u << FEED_FAILED | 1u << FEED_DONE,
    [FEED_CLOSING] = 1u << FEED_DONE,
    [FEED_DONE] = 0,
    [FEED_FAILED] = 0,
};

struct candidate {
    struct omid_instance *inst;
    char *model; /* ours: the configuration may go before the feed does */
};

/* What plugins know as struct omid_stt. */
struct omid_stt {
    uint32_t magic;
    struct stt_feed *feed;
};
#define STT_MAGIC UINT32_C(0x6f737474)

struct stt_feed {
    uint32_t magic;
    enum feed_state state;
    struct stt_feed_params p;
    char uid[136], session_id[40], language[24];
    const struct stt_feed_events *events;
    void *arg;

    struct candidate candidate[MAX_CANDIDATES];
    unsigned n_candidates, current;
    unsigned busy; /* candidates that refused for want of capacity */

    struct omid_stt stt;        /* the handle of the stream under way */
    void *stream;               /* NULL: none */
    struct host_attachment att; /* while there is a stream: it ends with its plugin's instance */
    bool stream_full;           /* audio() answered EFULL; `stall` runs */
    uint64_t behind_since_ms;   /* monotonic; audio has waited for the stream since; 0: none does */
    uint64_t behind_from;       /* position that it had got to then */
    bool closing;               /* stt_feed_close() was called */
    unsigned losses, slow;      /* in a row, see MAX_LOSSES */
    uint64_t live_since_ms;     /* monotonic; of this stream, LIVE */

    struct stt_gate gate;
    size_t taken;         /* of a message that was refused for want of memory: this much has passed the gate */
    uint64_t finalize_at; /* position behind which the provider is asked for its results; 0: never yet */
    bool finalize_due;

    struct audio_ring ring; /* of what the gate let through */
    uint64_t sent;          /* position up to which the stream has been fed */
    uint64_t final_pos;     /* position up to which results are final, or will never come */
    uint64_t forgotten;     /* position up to which the replay keeps nothing, final or not */
    uint64_t stream_base;   /* position of the stream's second 0 */
    bool catching_up;       /* audio has waited for this stream: it goes at the catch-up rate */
    uint64_t due;           /* position up to which the stream is owed audio that makes no whole chunk, too */
    bool refused;           /* stt_feed_audio() said no: room() is owed */

    ev_timer timer; /* WAITING: open again; LIVE: the catch-up's next piece */
    ev_timer stall; /* the stream has fallen behind too far */
    ev_timer soon;  /* what must not happen within a call of our owner or of a plugin */
    bool reopen;    /* for `soon`: the stream has ended, see end */
    enum omid_stt_reason end;
    char end_text[160];
};

static void feed_pump(struct stt_feed *f);
static void feed_open(struct stt_feed *f);

static void feed_set_state(struct stt_feed *f, enum feed_state to)
{
    omid_assert(legal[f->state] & (1u << to));
    log_debug(MODULE, "feed state", LS("session", f->session_id), LS("from", state_names[f->state]),
              LS("to", state_names[to]));
    f->state = to;
}

static struct candidate *feed_candidate(struct stt_feed *f)
{
    return &f->candidate[f->current < f->n_candidates ? f->current : f->n_candidates - 1];
}

const char *stt_feed_provider(const struct stt_feed *f)
{
    CHECK_MAGIC(f, FEED_MAGIC);
    return f->candidate[f->current < f->n_candidates ? f->current : f->n_candidates - 1].model;
}

static const struct omid_stt_role *feed_role(struct stt_feed *f)
{
    return host_plugin(feed_candidate(f)->inst)->stt;
}

static void feed_soon(struct stt_feed *f)
{
    if (!ev_is_active(&f->soon)) {
        ev_timer_set(&f->soon, 0., 0.);
        ev_timer_start(loop_ev(f->p.loop), &f->soon);
    }
}

/* By how much the stream has fallen behind real time while audio waited for it. What it takes faster makes up for what
 * it has missed, and is no credit for later. A client that sends faster than real time is no fault of the provider. */
static uint64_t feed_behind_ms(struct stt_feed *f)
{
    uint64_t now = clock_mono_ms(), took = (f->sent - f->behind_from) * 1000 / f->p.sample_rate;
    if (f->behind_since_ms == 0 || now - f->behind_since_ms <= took) {
        f->behind_since_ms = now;
        f->behind_from = f->sent;
        return 0;
    }
    return now - f->behind_since_ms - took;
}

static void feed_lose(struct stt_feed *f, const char *text)
{
    snprintf(f->end_text, sizeof f->end_text, "%s", text);
    f->end = OMID_STT_LOST;
    f->reopen = true;
    feed_soon(f);
}

/* A provider that holds its connection and reads no more, or less than comes: for the client it is as gone as one that
 * hangs up. */
static void feed_stalled(struct stt_feed *f)
{
    if (f->reopen)
        return;
    f->slow++;
    feed_lose(f, "the provider does not keep up with the audio");
}

static void feed_set_full(struct stt_feed *f, bool full)
{
    f->stream_full = full;
    ev_timer_stop(loop_ev(f->p.loop), &f->stall);
    if (!full)
        return;
    uint64_t behind = feed_behind_ms(f), most = f->p.conf->stt.stall_ms;
    if (behind >= most) { /* no timer: one that says without end that it is writable would stop it as often */
        feed_stalled(f);
        return;
    }
    ev_timer_set(&f->stall, (double)(most - behind) / 1000., 0.);
    ev_timer_start(loop_ev(f->p.loop), &f->stall);
}

static void feed_stream_release(struct stt_feed *f)
{
    if (!f->stream)
        return;
    struct host_call call;
    void *stream = f->stream;
    f->stream = NULL;
    host_detach(&f->att);
    host_enter(&call, feed_candidate(f)->inst, "stt.release");
    stt_gate_stream_ends(&f->gate, feed_role(f), stream);
    feed_role(f)->release(stream);
    host_leave(&call, OMID_OK);
    feed_set_full(f, false);
    f->behind_since_ms = 0;
}

/* ------------------------------------------------------------ the list of providers */

static int candidate_serves(struct omid_instance *inst, const char *model, const char *language)
{
    struct host_call call;
    const struct omid_stt_role *role = host_plugin(inst)->stt;
    host_enter(&call, inst, "stt.serves");
    int serves = role->serves(host_state(inst), model, language);
    host_leave(&call, OMID_OK);
    return serves;
}

static void candidates_find(struct stt_feed *f)
{
    const struct conf_list *models = &f->p.conf->stt.models;
    for (size_t m = 0; m < models->n && f->n_candidates < ARRAY_LEN(f->candidate); m++) {
        for (unsigned i = 0; i < host_module_count(f->p.host, f->p.reactor); i++) {
            struct omid_instance *inst = host_instance(f->p.host, f->p.reactor, i);
            if (!inst || !host_plugin(inst)->stt || candidate_serves(inst, models->item[m], f->language) != 1)
                continue;
            struct candidate c = {inst, strdup(models->item[m])};
            if (!c.model)
                break;
            host_use(inst);
            bool first = f->p.preferred[0] &&
                         (strcmp(f->p.preferred, c.model) == 0 || strcmp(f->p.preferred, host_plugin(inst)->name) == 0);
            unsigned at = first ? 0 : f->n_candidates;
            memmove(&f->candidate[at + 1], &f->candidate[at], (f->n_candidates - at) * sizeof c);
            f->candidate[at] = c;
            f->n_candidates++;
            break;
        }
    }
}

/* ------------------------------------------------------------------ opening and ending */

static const char *reason_name(enum omid_stt_reason r)
{
    static const char *const names[] = {"done", "busy", "config", "unreached", "lost", "internal"};
    return (unsigned)r < ARRAY_LEN(names) ? names[r] : "unknown";
}

/* Model names come from the configuration: a fixed set. */
static struct metric *fallback_metric(const char *from, const char *to, enum omid_stt_reason why, const char *outcome)
{
    const struct metric_label labels[] = {
        {"component", "stt"}, {"from_mode", from}, {"to_mode", to}, {"reason", reason_name(why)}, {"outcome", outcome}};
    return metric_get(METRIC_COUNTER, "omi_fallback_total", "Moves to a fallback, by component and outcome.", labels,
                      ARRAY_LEN(labels), NULL, 0);
}

static void fallback_count(const char *from, const char *to, enum omid_stt_reason why, const char *outcome)
{
    metric_add(fallback_metric(from, to, why, outcome), 1);
}

static struct metric *lost_metric(void)
{
    return metric_counter("omid_stt_lost_audio_bytes_total",
                          "Audio that broken streams had not transcribed and that was not kept for the next one.");
}

void stt_feed_metrics(const struct conf *conf)
{
    static const enum omid_stt_reason reasons[] = {OMID_STT_BUSY, OMID_STT_CONFIG, OMID_STT_UNREACHED, OMID_STT_LOST,
                                                   OMID_STT_INTERNAL};
    const struct conf_list *models = &conf->stt.models;
    stt_gate_metrics();
    lost_metric();
    for (size_t m = 0; m < models->n; m++) {
        for (unsigned i = 0; i < ARRAY_LEN(reasons); i++) {
            fallback_metric(models->item[m], "none", reasons[i], "exhausted");
            if (m + 1 < models->n)
                fallback_metric(models->item[m], models->item[m + 1], reasons[i], "degraded");
        }
    }
}

static void feed_fail(struct stt_feed *f, enum omid_stt_reason why)
{
    const char *provider = stt_feed_provider(f);
    feed_set_state(f, FEED_FAILED);
    bool overloaded = f->busy == f->n_candidates;
    log_warning(MODULE, "no provider left", LS("session", f->session_id), LS("last", provider),
                LS("reason", f->end_text));
    fallback_count(provider, "none", why, "exhausted");
    struct stt_failure failure = {.outcome = overloaded ? "overloaded" : "exhausted",
                                  .provider = provider,
                                  .retryable = why != OMID_STT_CONFIG,
                                  .reason = f->end_text};
    f->events->failed(f->arg, &failure);
}

/* The provider under way is used up. */
static void feed_next_provider(struct stt_feed *f, enum omid_stt_reason why)
{
    const char *from = stt_feed_provider(f);
    if (f->current + 1 >= f->n_candidates) {
        feed_fail(f, why);
        return;
    }
    f->current++;
    f->losses = f->slow = 0;
    log_warning(MODULE, "next provider", LS("session", f->session_id), LS("from", from), LS("to", stt_feed_provider(f)),
                LS("reason", reason_name(why)), LS("text", f->end_text));
    fallback_count(from, stt_feed_provider(f), why, "degraded");
    feed_open(f);
}

/* While a stream lives its results may still come for what the replay has forgotten; the next one can't tell it. */
static void feed_count_lost(struct stt_feed *f)
{
    if (f->forgotten <= f->final_pos)
        return;
    uint64_t lost = f->forgotten - f->final_pos;
    log_warning(MODULE, "audio lost", LS("session", f->session_id), LU("ms", lost * 1000 / f->p.sample_rate),
                LU("replay_ms", f->p.conf->stt.replay_ms));
    metric_add(lost_metric(), (int64_t)(lost * sizeof(int16_t)));
    f->final_pos = f->forgotten;
}

static void feed_open(struct stt_feed *f)
{
    feed_set_state(f, FEED_OPENING);
    feed_count_lost(f);
    const struct candidate *c = feed_candidate(f);
    /* Everything that is not final is said again to the new stream. */
    f->stream_base = f->sent = f->ring.base;
    f->finalize_due = f->finalize_at > f->ring.base;
    struct omid_stt_params params = {
        .size = sizeof params,
        .uid = f->uid,
        .session_id = f->session_id,
        .model = c->model,
        .language = f->language,
        .sample_rate = f->p.sample_rate,
        .channel = f->p.channel,
        .multi_channel = f->p.multi_channel,
    };
    struct host_call call;
    void *stream = NULL;
    int rc = OMID_ERR;
    if (host_running(c->inst)) { /* else the plugin has stopped */
        host_enter(&call, c->inst, "stt.open");
        rc = host_leave(&call, feed_role(f)->open(host_state(c->inst), &params, &f->stt, &stream));
    }
    if (rc == OMID_OK && stream) {
        f->stream = stream;
        host_attach(c->inst, &f->att);
        return;
    }
    snprintf(f->end_text, sizeof f->end_text, "%s",
             rc == OMID_EFULL ? "the provider has no capacity left" : "the provider could not open a stream");
    f->end = rc == OMID_EFULL ? OMID_STT_BUSY : OMID_STT_INTERNAL;
    f->reopen = true;
    feed_soon(f);
}

/* After the stream has ended, out of every callback. */
static void feed_after_end(struct stt_feed *f)
{
    feed_stream_release(f);
    ev_timer_stop(loop_ev(f->p.loop), &f->timer);
    if (f->closing) {
        /* The client has left: however the stream ended, no further attempt is made for it. */
        if (f->end != OMID_STT_DONE)
            log_warning(MODULE, "stream ended early", LS("session", f->session_id),
                        LS("provider", stt_feed_provider(f)), LS("text", f->end_text));
        feed_set_state(f, FEED_DONE);
        f->events->done(f->arg);
        return;
    }
    if (f->end == OMID_STT_BUSY)
        f->busy++;
    bool again = f->end == OMID_STT_LOST || f->end == OMID_STT_DONE;
    if (f->live_since_ms && clock_mono_ms() - f->live_since_ms >= STEADY_MS)
        f->losses = 0;
    f->live_since_ms = 0;
    bool too_slow = f->slow >= MAX_LOSSES && f->current + 1 < f->n_candidates;
    if (!again || ++f->losses >= MAX_LOSSES || too_slow) {
        feed_next_provider(f, f->end);
        return;
    }
    log_warning(MODULE, "stream lost", LS("session", f->session_id), LS("provider", stt_feed_provider(f)),
                LS("text", f->end_text), LU("replay_ms", (f->ring.end - f->ring.base) * 1000 / f->p.sample_rate));
    /* The first time at once: the provider's own connect sequence has its pauses. Then with one of ours. */
    if (f->losses == 1) {
        feed_open(f);
        return;
    }
    double ms = (double)(1u << (f->losses - 2)) * REOPEN_BASE_MS + id_random_unit() * REOPEN_BASE_MS;
    feed_set_state(f, FEED_WAITING);
    ev_timer_set(&f->timer, (ms < REOPEN_CAP_MS ? ms : REOPEN_CAP_MS) / 1000., 0.);
    ev_timer_start(loop_ev(f->p.loop), &f->timer);
}

static void on_soon(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct stt_feed *f = w->data;
    CHECK_MAGIC(f, FEED_MAGIC);
    if (f->reopen) {
        f->reopen = false;
        feed_after_end(f);
        return;
    }
    if (f->state == FEED_FAILED) {
        if (f->closing)
            f->events->done(f->arg);
        return;
    }
    if (f->state == FEED_IDLE) {
        if (f->closing) {
            feed_set_state(f, FEED_DONE);
            f->events->done(f->arg);
        } else {
            feed_open(f);
        }
        return;
    }
    feed_pump(f);
}

static void on_timer(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct stt_feed *f = w->data;
    CHECK_MAGIC(f, FEED_MAGIC);
    if (f->state == FEED_WAITING)
        feed_open(f);
    else
        feed_pump(f);
}

static void on_stall(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct stt_feed *f = w->data;
    CHECK_MAGIC(f, FEED_MAGIC);
    /* Plugins say that they take more when there is much room, which at a low rate can be long after they could: it is
     * asked once more, and lost only when what it takes now does not make up for what it has missed. */
    f->stream_full = false;
    feed_pump(f);
}

/* The plugin is about to stop, before the sessions have: it must not be left with a stream. */
static void on_stopping(struct host_attachment *att)
{
    struct stt_feed *f = container_of(att, struct stt_feed, att);
    CHECK_MAGIC(f, FEED_MAGIC);
    feed_stream_release(f);
    if (f->reopen)
        return;
    snprintf(f->end_text, sizeof f->end_text, "the plugin stops");
    f->end = OMID_STT_INTERNAL;
    f->reopen = true;
    feed_soon(f);
}

static void on_stopped(struct host_attachment *att)
{
    host_detach(att); /* on_stopping() has: for the contract alone */
}

/* --------------------------------------------------------------------- audio */

static size_t feed_chunk(const struct stt_feed *f)
{
    return (size_t)f->p.sample_rate * CHUNK_MS / 1000;
}

/* How much may be sent now: everything, or after an opening what the catch-up rate allows, until nothing waits. Less
 * than a chunk is not left behind: it would wait for the next audio, and a client that is silent sends none. */
static size_t feed_allowed(struct stt_feed *f, bool *later)
{
    uint64_t left = f->ring.end - f->sent, elapsed_ms = clock_mono_ms() - f->live_since_ms + CATCH_UP_TICK_MS;
    *later = false;
    if (!f->catching_up)
        return (size_t)left;
    double budget =
        f->p.conf->stt.catch_up * (double)elapsed_ms * f->p.sample_rate / 1000. - (double)(f->sent - f->stream_base);
    if (budget + (double)feed_chunk(f) > (double)left) {
        f->catching_up = false;
        return (size_t)left;
    }
    *later = true;
    return budget > 0 ? (size_t)budget : 0;
}

static void feed_room(struct stt_feed *f)
{
    if (f->refused && (f->ring.end - f->sent) * sizeof(int16_t) <= f->p.conf->listen.audio_buffer / 2) {
        f->refused = false;
        f->events->room(f->arg);
    }
}

static bool feed_quiet(const struct stt_feed *f)
{
    return f->gate.gate.set.mode == GATE_ACTIVE && f->gate.gate.state == GATE_SILENCE;
}

/* Keeps of what was sent at most the replay's length, and that by the session's time: what the gate let through before
 * a long silence has been answered, or will not be. */
static void feed_trim(struct stt_feed *f)
{
    uint64_t keep = (uint64_t)f->p.conf->stt.replay_ms * f->p.sample_rate / 1000;
    uint64_t from = f->final_pos;
    if (f->sent > keep + f->forgotten)
        f->forgotten = f->sent - keep;
    if (feed_quiet(f)) {
        double quiet = (double)f->gate.gate.counts.received - stt_clock_end(&f->gate.gate.clock, (double)f->ring.end);
        keep -= quiet < (double)keep ? (uint64_t)quiet : keep;
    }
    if (f->sent > keep && f->sent - keep > from)
        from = f->sent - keep;
    audio_ring_trim(&f->ring, from < f->sent ? from : f->sent);
    if (feed_quiet(f))
        audio_ring_release(&f->ring);
}

/* The stream has everything up to where the gate wants results. */
static void feed_finalize(struct stt_feed *f)
{
    f->finalize_due = false;
    if (!feed_role(f)->finalize)
        return;
    struct host_call call;
    f->gate.finalizes++;
    host_enter(&call, feed_candidate(f)->inst, "stt.finalize");
    feed_role(f)->finalize(f->stream);
    host_leave(&call, OMID_OK);
}

/* Sends `allowed` samples, if they are at least `least`. false: the stream takes no more, or is gone. */
static bool feed_send(struct stt_feed *f, size_t allowed, size_t least)
{
    if (allowed < least)
        return true;
    /* What is refused now is tried again as it is, however little of it is left. */
    if (f->sent + allowed > f->due)
        f->due = f->sent + allowed;
    const size_t piece = (size_t)f->p.sample_rate * PIECE_MS / 1000;
    while (allowed > 0) { /* what lies behind a piece or the ring's end is not left for the next frame */
        size_t n;
        const int16_t *pcm = audio_ring_at(&f->ring, f->sent, allowed < piece ? allowed : piece, &n);
        struct host_call call;
        f->ring.pinned = true; /* results that come within the call trim it */
        host_enter(&call, feed_candidate(f)->inst, "stt.audio");
        int rc = host_leave(&call, feed_role(f)->audio(f->stream, pcm, n));
        f->ring.pinned = false;
        if (f->reopen)
            return false; /* the provider ended the stream within the call */
        if (rc == OMID_EFULL) {
            feed_set_full(f, true);
            return false;
        }
        if (rc != OMID_OK) {
            feed_lose(f, "the provider refused audio");
            return false;
        }
        f->sent += n;
        allowed -= n;
    }
    return true;
}

static void feed_pump(struct stt_feed *f)
{
    if (f->state != FEED_LIVE || f->stream_full || f->reopen)
        return;
    size_t chunk = feed_chunk(f);
    bool later = false, open = true;
    size_t allowed = feed_allowed(f, &later);
    if (f->finalize_due && f->finalize_at <= f->sent + allowed) {
        size_t before = (size_t)(f->finalize_at - f->sent);
        open = feed_send(f, before, 1);
        allowed -= before;
        if (open)
            feed_finalize(f);
    }
    if (open && !f->reopen)
        feed_send(f, allowed, !later && (f->closing || feed_quiet(f) || f->sent < f->due) ? 1 : chunk);
    if (f->reopen)
        return;
    if (!f->stream_full)
        f->behind_since_ms = 0;
    feed_trim(f);
    feed_room(f);
    if (later && !ev_is_active(&f->timer)) {
        ev_timer_set(&f->timer, CATCH_UP_TICK_MS / 1000., 0.);
        ev_timer_start(loop_ev(f->p.loop), &f->timer);
    }
    if (f->closing && f->sent == f->ring.end && !f->stream_full) {
        feed_set_state(f, FEED_CLOSING);
        struct host_call call;
        host_enter(&call, feed_candidate(f)->inst, "stt.close");
        feed_role(f)->close(f->stream);
        host_leave(&call, OMID_OK);
    }
}

/* Through the gate into the ring. false: no memory, nothing taken. */
static bool feed_take(struct stt_feed *f, const int16_t *pcm, size_t n)
{
    float probability = stt_gate_listen(&f->gate, pcm, n);
    size_t most = gate_would_send(&f->gate.gate, n, probability);
    struct gate_step step;
    if (most > 0 && !audio_ring_reserve(&f->ring, most))
        return false;
    stt_gate_chunk(&f->gate, pcm, n, probability, f->final_pos, &step);
    for (unsigned i = 0; i < step.pieces; i++)
        (void)audio_ring_append(&f->ring, step.pcm[i], step.n[i]); /* reserved */
    if (step.finalize) {
        f->finalize_at = f->ring.end;
        f->finalize_due = true;
    }
    return true;
}

bool stt_feed_audio(struct stt_feed *f, const int16_t *pcm, size_t n)
{
    CHECK_MAGIC(f, FEED_MAGIC);
    if (f->closing || f->state == FEED_FAILED)
        return true;
    /* One message that is larger than the whole buffer passes when nothing waits. */
    bool full = f->ring.end > f->sent && (f->ring.end - f->sent + n) * sizeof *pcm > f->p.conf->listen.audio_buffer;
    for (size_t at = f->taken, piece; !full && at < n; at += piece) {
        piece = stt_gate_piece(&f->gate, n - at);
        full = !feed_take(f, pcm + at, piece);
        f->taken = full ? at : 0;
    }
    if (full) {
        f->refused = true;
        return false;
    }
    feed_pump(f);
    return true;
}

uint64_t stt_feed_position(const struct stt_feed *f)
{
    CHECK_MAGIC(f, FEED_MAGIC);
    return f->gate.gate.counts.received;
}

uint32_t stt_feed_lag_ms(const struct stt_feed *f)
{
    CHECK_MAGIC(f, FEED_MAGIC);
    return (uint32_t)((f->ring.end - f->sent) * 1000 / f->p.sample_rate);
}

void stt_feed_close(struct stt_feed *f)
{
    CHECK_MAGIC(f, FEED_MAGIC);
    if (f->closing)
        return;
    f->closing = true;
    /* Done, or what is left is sent, but not within this call. */
    if (f->state == FEED_IDLE || f->state == FEED_LIVE || f->state == FEED_FAILED)
        feed_soon(f);
    else if ((f->state == FEED_OPENING || f->state == FEED_WAITING) && !f->reopen) {
        /* The client is gone: no further attempt to connect is worth its cost when nothing was said yet, and
         * none is made in a retry: what was not transcribed is lost with the provider. */
        snprintf(f->end_text, sizeof f->end_text, "the client has left");
        feed_stream_release(f);
        ev_timer_stop(loop_ev(f->p.loop), &f->timer);
        f->end = OMID_STT_DONE;
        f->reopen = true;
        feed_soon(f);
    }
}

/* ------------------------------------------------------------- what providers call */

static struct stt_feed *stt_feed_of(struct omid_stt *stt)
{
    CHECK_MAGIC(stt, STT_MAGIC);
    CHECK_MAGIC(stt->feed, FEED_MAGIC);
    return stt->feed;
}

void session_stt_ready(struct omid_stt *stt)
{
    struct stt_feed *f = stt_feed_of(stt);
    if (f->state != FEED_OPENING || f->reopen)
        return;
    feed_set_state(f, FEED_LIVE);
    f->live_since_ms = clock_mono_ms();
    f->catching_up = f->ring.end > f->sent;
    /* A former stream had it already: its end is not to wait for a client that may say no more. */
    f->due = f->ring.end;
    f->events->ready(f->arg, stt_feed_provider(f));
    feed_soon(f); /* pump, out of the provider's callback */
}

void session_stt_writable(struct omid_stt *stt)
{
    struct stt_feed *f = stt_feed_of(stt);
    if (!f->stream_full)
        return;
    feed_set_full(f, false);
    feed_soon(f);
}

/* The position of a second of the stream, no further than what the stream was sent: it can't know more. */
static double feed_at(const struct stt_feed *f, double second)
{
    double at = (double)f->stream_base + (second > 0 ? second * f->p.sample_rate : 0);
    return at < (double)f->sent ? at : (double)f->sent;
}

void session_stt_result(struct omid_stt *stt, const struct omid_stt_result *result)
{
    struct stt_feed *f = stt_feed_of(stt);
    if ((f->state != FEED_LIVE && f->state != FEED_CLOSING) || f->reopen)
        return;
    const struct stt_clock *clock = &f->gate.gate.clock;
    struct omid_stt_segment moved[64];
    double known = feed_at(f, result->transcribed);
    for (size_t at = 0; at < result->n;) {
        size_t n = 0;
        for (; n < ARRAY_LEN(moved) && at < result->n; n++, at++) {
            double start = feed_at(f, result->segments[at].start), end = feed_at(f, result->segments[at].end);
            moved[n] = result->segments[at];
            moved[n].start = stt_clock_start(clock, start) / f->p.sample_rate;
            moved[n].end = stt_clock_end(clock, end) / f->p.sample_rate;
            if (moved[n].end < moved[n].start)
                moved[n].end = moved[n].start;
            known = end > known ? end : known; /* told, and not to be told again after a replay */
        }
        f->events->segments(f->arg, stt_feed_provider(f), moved, n);
    }
    /* The nearest sample: 1.001 s at 16 kHz come out a little below the 16016th, and the next stream would begin with
     * one that is final. */
    uint64_t pos = (uint64_t)(known + 0.5);
    if (pos > f->final_pos) {
        f->final_pos = pos;
        f->losses = 0;
        if ((f->ring.end - pos) * 1000 / f->p.sample_rate <= f->p.conf->stt.stall_ms)
            f->slow = 0;
    }
    feed_trim(f);
}

void session_stt_closed(struct omid_stt *stt, const struct omid_stt_end *end)
{
    struct stt_feed *f = stt_feed_of(stt);
    if (f->reopen || !f->stream)
        return;
    f->end = end->reason;
    snprintf(f->end_text, sizeof f->end_text, "%s", end->text ? end->text : reason_name(end->reason));
    f->reopen = true;
    feed_soon(f);
}

/* ---------------------------------------------------------------------- life */

struct stt_feed *stt_feed_new(const struct stt_feed_params *p, const struct stt_feed_events *events, void *arg,
                              bool *served)
{
    *served = true;
    struct stt_feed *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->magic = FEED_MAGIC;
    f->p = *p;
    f->events = events;
    f->arg = arg;
    snprintf(f->uid, sizeof f->uid, "%s", p->uid);
    snprintf(f->session_id, sizeof f->session_id, "%s", p->session_id);
    snprintf(f->language, sizeof f->language, "%s", p->language);
    f->stt = (struct omid_stt){.magic = STT_MAGIC, .feed = f};
    f->att = (struct host_attachment){.stopping = on_stopping, .stopped = on_stopped};
    ev_init(&f->timer, on_timer);
    ev_init(&f->stall, on_stall);
    ev_init(&f->soon, on_soon);
    f->timer.data = f->stall.data = f->soon.data = f;
    candidates_find(f);
    f->p.preferred = "";
    stt_gate_init(&f->gate, p->host, p->reactor, p->sample_rate, p->vad_gate, f->session_id);
    if (f->n_candidates == 0) {
        *served = false;
        stt_feed_free(&f);
    }
    return f;
}

void stt_feed_configure(struct stt_feed *f, const struct conf *conf)
{
    CHECK_MAGIC(f, FEED_MAGIC);
    f->p.conf = conf;
    if (f->state != FEED_IDLE)
        stt_gate_configure(&f->gate, conf);
}

void stt_feed_start(struct stt_feed *f)
{
    CHECK_MAGIC(f, FEED_MAGIC);
    omid_assert(f->state == FEED_IDLE);
    stt_gate_configure(&f->gate, f->p.conf);
    feed_soon(f);
}

void stt_feed_free(struct stt_feed **fp)
{
    struct stt_feed *f = *fp;
    if (!f)
        return;
    CHECK_MAGIC(f, FEED_MAGIC);
    *fp = NULL;
    feed_stream_release(f);
    ev_timer_stop(loop_ev(f->p.loop), &f->timer);
    ev_timer_stop(loop_ev(f->p.loop), &f->soon);
    for (unsigned i = 0; i < f->n_candidates; i++) {
        host_unuse(f->candidate[i].inst);
        free(f->candidate[i].model);
    }
    audio_ring_free(&f->ring);
    stt_gate_free(&f->gate);
    f->stt.magic = OMID_MAGIC_DEAD;
    f->magic = OMID_MAGIC_DEAD;
    free(f);
}
