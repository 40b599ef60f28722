#include "session/gate.h"

#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "bus/channel.h"

static void gate_set_state(struct gate *g, enum gate_state to)
{
    static const unsigned legal[] = {
        [GATE_SILENCE] = 1u << GATE_SPEECH,
        [GATE_SPEECH] = 1u << GATE_HANGOVER | 1u << GATE_SILENCE,
        [GATE_HANGOVER] = 1u << GATE_SPEECH | 1u << GATE_SILENCE,
    };
    omid_assert(legal[g->state] & (1u << to));
    g->state = to;
}

const char *gate_mode_name(enum gate_mode mode)
{
    static const char *const names[] = {"off", "shadow", "active"};
    return names[mode];
}

static uint64_t samples_of(const struct gate *g, uint32_t ms)
{
    return (uint64_t)g->rate * ms / 1000;
}

void gate_init(struct gate *g, uint32_t rate)
{
    *g = (struct gate){.rate = rate};
    stt_clock_init(&g->clock);
}

/* -------------------------------------------------------------------- the pre-roll */

static void preroll_put(struct gate *g, const int16_t *pcm, size_t n)
{
    size_t held = (size_t)g->counts.held;
    omid_assert(g->preroll);
    if (n > g->cap) {
        pcm += n - g->cap;
        n = g->cap;
    }
    for (size_t done = 0; done < n;) {
        size_t piece = g->cap - g->next, left = n - done;
        piece = piece < left ? piece : left;
        memcpy(g->preroll + g->next, pcm + done, piece * sizeof *pcm);
        g->next = (g->next + piece) % g->cap;
        done += piece;
    }
    g->counts.held = held + n < g->cap ? held + n : g->cap;
}

/* Its samples in their order: one or two pieces. */
static unsigned preroll_pieces(const struct gate *g, const int16_t *pcm[2], size_t n[2])
{
    size_t held = (size_t)g->counts.held, from = g->cap ? (g->next + g->cap - held) % g->cap : 0;
    size_t first = held < g->cap - from ? held : g->cap - from;
    unsigned pieces = 0;
    if (first > 0) {
        pcm[pieces] = g->preroll + from;
        n[pieces++] = first;
    }
    if (held > first) {
        pcm[pieces] = g->preroll;
        n[pieces++] = held - first;
    }
    return pieces;
}

static void preroll_free(struct gate *g)
{
    budget_add(-(int64_t)(g->cap * sizeof *g->preroll));
    free(g->preroll);
    g->preroll = NULL;
    g->cap = g->next = 0;
}

/* For `cap` samples, of which the newest stay. false: no memory, nothing has changed. */
static bool preroll_resize(struct gate *g, size_t cap)
{
    if (cap == g->cap)
        return true;
    int16_t *data = cap ? malloc(cap * sizeof *data) : NULL;
    if (cap && !data)
        return false;
    const int16_t *pcm[2];
    size_t n[2], held = (size_t)g->counts.held, skip = held > cap ? held - cap : 0, at = 0;
    unsigned pieces = cap ? preroll_pieces(g, pcm, n) : 0;
    g->counts.withheld += skip;
    g->counts.held -= skip;
    for (unsigned i = 0; i < pieces; i++) {
        size_t cut = skip < n[i] ? skip : n[i];
        skip -= cut;
        if (n[i] > cut)
            memcpy(data + at, pcm[i] + cut, (n[i] - cut) * sizeof *data);
        at += n[i] - cut;
    }
    preroll_free(g);
    budget_add((int64_t)(cap * sizeof *data));
    g->preroll = data;
    g->cap = cap;
    g->next = cap ? at % cap : 0;
    return true;
}

/* ----------------------------------------------------------------------- settings */

bool gate_configure(struct gate *g, const struct gate_settings *set)
{
    enum gate_mode former = g->set.mode;
    g->set = *set;
    if (former == GATE_OFF && set->mode != GATE_OFF && g->state != GATE_SILENCE)
        gate_set_state(g, GATE_SILENCE); /* what was before is sent, and not known */
    if (set->mode != GATE_SHADOW)
        g->would_hold = 0;
    /* Of another mode: it goes with the next chunk, and so does its memory. */
    if (set->mode != GATE_ACTIVE || preroll_resize(g, (size_t)samples_of(g, set->preroll_ms)))
        return true;
    g->set.mode = GATE_OFF;
    return false;
}

/* ------------------------------------------------------------------------- chunks */

static bool is_speech(const struct gate *g, float probability)
{
    return g->set.mode != GATE_OFF && probability > g->set.threshold;
}

static bool is_sent(const struct gate *g, float probability)
{
    return g->set.mode != GATE_ACTIVE || g->state != GATE_SILENCE || is_speech(g, probability);
}

size_t gate_would_send(const struct gate *g, size_t n, float probability)
{
    return is_sent(g, probability) ? n + (size_t)g->counts.held : 0;
}

/* Takes the state to where it is behind this chunk. true: Finalize is due. */
static bool judge(struct gate *g, bool speech, uint64_t end)
{
    g->counts.chunks++;
    if (speech) {
        g->counts.chunks_speech++;
        if (g->state != GATE_SPEECH)
            gate_set_state(g, GATE_SPEECH);
        g->speech_end = end;
        return false;
    }
    if (g->state == GATE_SILENCE)
        return false;
    if (g->state == GATE_SPEECH) {
        gate_set_state(g, GATE_HANGOVER);
        g->finalized = false;
    }
    uint64_t quiet = end - g->speech_end;
    bool over = quiet >= samples_of(g, g->set.hangover_ms);
    bool finalize = !g->finalized && (over || quiet >= samples_of(g, g->set.finalize_ms));
    g->finalized = g->finalized || finalize;
    if (over)
        gate_set_state(g, GATE_SILENCE);
    return finalize;
}

/* The pre-roll, where there is one, and the chunk. */
static void send(struct gate *g, const int16_t *pcm, size_t n, uint64_t settled, struct gate_step *step)
{
    stt_clock_mark(&g->clock, g->counts.sent, g->counts.received - g->counts.held, settled);
    step->pieces = preroll_pieces(g, step->pcm, step->n);
    step->pcm[step->pieces] = pcm;
    step->n[step->pieces++] = n;
    g->counts.sent += g->counts.held + n;
    g->counts.held = 0;
}

static void withhold(struct gate *g, const int16_t *pcm, size_t n)
{
    uint64_t all = g->counts.held + n;
    if (g->cap > 0)
        preroll_put(g, pcm, n);
    g->counts.withheld += all - g->counts.held;
}

static void shadow_count(struct gate *g, size_t n, bool would_send)
{
    uint64_t cap = samples_of(g, g->set.preroll_ms);
    g->would_hold += n;
    if (would_send) {
        g->counts.would_send += g->would_hold;
        g->would_hold = 0;
    } else if (g->would_hold > cap) {
        g->counts.would_withhold += g->would_hold - cap;
        g->would_hold = cap;
    }
}

void gate_chunk(struct gate *g, const int16_t *pcm, size_t n, float probability, uint64_t settled,
                struct gate_step *step)
{
    bool speech = is_speech(g, probability), open = g->state != GATE_SILENCE || speech;
    *step = (struct gate_step){.pieces = 0};
    if (g->preroll && g->set.mode != GATE_ACTIVE && g->counts.held == 0)
        preroll_free(g);
    if (is_sent(g, probability))
        send(g, pcm, n, settled, step);
    else
        withhold(g, pcm, n);
    g->counts.received += n;
    if (g->set.mode == GATE_OFF)
        return;
    bool finalize = judge(g, speech, g->counts.received);
    step->finalize = finalize && g->set.mode == GATE_ACTIVE;
    if (g->set.mode == GATE_SHADOW)
        shadow_count(g, n, open);
}

void gate_free(struct gate *g)
{
    preroll_free(g);
    stt_clock_free(&g->clock);
}
