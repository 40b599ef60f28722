/*
 * The gate in front of speech-to-text: which of a session's audio is sent. It is told of every chunk how likely it is
 * speech, and answers what goes on; it knows no engine, no provider and no time but that of the audio.
 *
 *   SILENCE -(speech)-> SPEECH -(no speech)-> HANGOVER -(hangover is over)-> SILENCE
 *                         ^-----(speech)--------/
 *
 * Three modes: `off` sends all; `shadow` decides and counts, and sends all; `active` sends nothing in silence but keeps
 * the newest of it, the pre-roll, which goes ahead of the next speech. Reactor thread.
 */
#ifndef OMID_SESSION_GATE_H
#define OMID_SESSION_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "session/stt_clock.h"

enum gate_mode { GATE_OFF, GATE_SHADOW, GATE_ACTIVE };
enum gate_state { GATE_SILENCE, GATE_SPEECH, GATE_HANGOVER };

struct gate_settings {
    enum gate_mode mode;
    float threshold; /* a chunk is speech above it */
    uint32_t preroll_ms, hangover_ms, finalize_ms;
};

/* Since the beginning. received = sent + withheld + held, always. In samples. */
struct gate_counts {
    uint64_t chunks, chunks_speech; /* that were judged */
    uint64_t received, sent, withheld, held;
    /* Shadow: what `active` would have done with the audio, but for what it would hold at this moment. */
    uint64_t would_send, would_withhold;
};

struct gate {
    struct gate_settings set;
    enum gate_state state;
    uint32_t rate;
    uint64_t speech_end; /* position behind the last speech */
    bool finalized;      /* in this hangover */
    uint64_t would_hold; /* shadow: samples that a pre-roll would have */
    struct gate_counts counts;
    struct stt_clock clock; /* of what was sent */
    int16_t *preroll;       /* a ring of cap samples, counts.held of them; NULL unless active */
    size_t cap, next;
};

/* What to do with a chunk. */
struct gate_step {
    const int16_t *pcm[3]; /* sent in this order, n[i] samples each; valid until the gate's next call */
    size_t n[3];
    unsigned pieces; /* 0: nothing */
    bool finalize;   /* the provider is to be asked for its results, behind this chunk */
};

/* In mode `off`, whatever the settings say. */
void gate_init(struct gate *g, uint32_t rate);
/* Settings from now on. When it leaves `active` in silence, the pre-roll goes ahead of the next chunk. false: no memory
 * for the pre-roll; then the gate is off. */
bool gate_configure(struct gate *g, const struct gate_settings *set);
/* How many samples gate_chunk() would have sent. */
size_t gate_would_send(const struct gate *g, size_t n, float probability);
/* The next chunk; `probability` is not looked at when off. settled: no result comes for what the provider got before
 * that position. */
void gate_chunk(struct gate *g, const int16_t *pcm, size_t n, float probability, uint64_t settled,
                struct gate_step *step);
void gate_free(struct gate *g);
const char *gate_mode_name(enum gate_mode mode);

#endif
