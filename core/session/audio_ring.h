/*
 * Samples of a session by their absolute position: what speech-to-text has not yet made final, or what voices are cut
 * from. Grows by doubling, shrinks to the most that the latest results left in it, and is charged to the memory budget.
 * Reactor thread.
 */
#ifndef OMID_SESSION_AUDIO_RING_H
#define OMID_SESSION_AUDIO_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What its memory is counted as. */
enum audio_ring_use { AUDIO_RING_REPLAY, AUDIO_RING_VOICES, AUDIO_RING_USES };

struct audio_ring {
    int16_t *data;
    size_t cap;         /* samples, a power of two, or 0 */
    uint64_t base, end; /* positions held: base <= p < end */
    size_t peak;        /* the most held since it was last decided whether to shrink */
    unsigned trims;     /* since then */
    bool pinned;        /* its samples are being read: trims do not move them */
    enum audio_ring_use use;
};

/* Room for n more, so that appending them can't fail. false: no memory. */
bool audio_ring_reserve(struct audio_ring *r, size_t n);
/* Bytes that the ring would grow by for n more. */
size_t audio_ring_growth(const struct audio_ring *r, size_t n);
/* Appends; false, with nothing taken: no memory. */
bool audio_ring_append(struct audio_ring *r, const int16_t *pcm, size_t n);
/* Forgets everything before `pos` (clamped to what is held). */
void audio_ring_trim(struct audio_ring *r, uint64_t pos);
/* The samples from `pos` that lie in one piece; *n of them, at most `max`. pos must be held. */
const int16_t *audio_ring_at(const struct audio_ring *r, uint64_t pos, size_t max, size_t *n);
/* Gives its memory back while it is empty; positions stay. */
void audio_ring_release(struct audio_ring *r);
void audio_ring_free(struct audio_ring *r);
/* More or less audio that is kept beside rings, for the same use; and what they hold together. Any thread. */
void audio_ring_account(enum audio_ring_use use, int64_t bytes);
size_t audio_ring_held(enum audio_ring_use use);
/* Registers what rings hold, so that it is shown before there is one. Any thread. */
void audio_ring_metrics(void);

#endif
