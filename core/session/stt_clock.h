/*
 * A provider's clock against the session's. The provider counts only what it is sent; here is remembered where audio
 * was left out, so that its times can be told as the session's. Positions are samples. Reactor thread.
 */
#ifndef OMID_SESSION_STT_CLOCK_H
#define OMID_SESSION_STT_CLOCK_H

#include <stddef.h>
#include <stdint.h>

#define STT_CLOCK_MAX 500 /* checkpoints; beyond it the oldest is forgotten */
#define STT_CLOCK_FEW 4   /* without memory of their own */

struct stt_checkpoint {
    uint64_t provider, wall; /* the sample that is `provider` to the provider is `wall` of the session */
};

struct stt_clock {
    struct stt_checkpoint few[STT_CLOCK_FEW];
    struct stt_checkpoint *more; /* NULL: few serve */
    size_t n, cap;
};

/* The same for both, from 0 on. */
void stt_clock_init(struct stt_clock *c);
/* From `provider` on the session is at `wall`. Neither may be before the last checkpoint's, nor may wall have gained
 * less than provider. No result will come for what is before `settled`: checkpoints before it may be forgotten. */
void stt_clock_mark(struct stt_clock *c, uint64_t provider, uint64_t wall, uint64_t settled);
/* The session's position of the provider's. Where audio was left out, a beginning is behind the gap and an end before
 * it. Neither ever decreases while `provider` doesn't; before what is remembered the oldest checkpoint decides. */
double stt_clock_start(const struct stt_clock *c, double provider);
double stt_clock_end(const struct stt_clock *c, double provider);
void stt_clock_free(struct stt_clock *c);

#endif
