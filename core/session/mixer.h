/*
 * The channels of a session as one: the clamped sum of what each says at the same sample position.
 *
 * The sum goes out up to the position that every channel has reached. A channel may be late, silent or missing for
 * ever: it is waited for until it is MIXER_SKEW_S behind the one that is furthest, then the sum goes on without it.
 * When it speaks again, or for the first time, it joins where the furthest stands: what arrives together belongs
 * together. So each channel has positions of its own, and places in the sum; mixer_place() turns one into the other.
 * Reactor thread.
 */
#ifndef OMID_SESSION_MIXER_H
#define OMID_SESSION_MIXER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "session/codec.h"

#define MIXER_CHANNELS 2
#define MIXER_SKEW_S 1
#define MIXER_MARKS 64 /* joins that are remembered, per channel; beyond it the oldest are forgotten */

struct mixer;

/* rate in Hz. NULL: no memory. Its memory is charged to the budget of sessions. */
struct mixer *mixer_new(uint32_t rate);
/* Samples of one channel; appends to out what the sum has gained. *rejoined: the channel had fallen behind the bound.
 * false: no memory, and nothing was taken. */
bool mixer_add(struct mixer *m, unsigned channel, const int16_t *pcm, size_t n, struct pcm *out, bool *rejoined);
/* All that was said, without waiting for anyone: at the end. */
bool mixer_flush(struct mixer *m, struct pcm *out);
/* The place in the sum of a channel's sample position. */
uint64_t mixer_place(const struct mixer *m, unsigned channel, uint64_t position);
void mixer_free(struct mixer **m);

#endif
