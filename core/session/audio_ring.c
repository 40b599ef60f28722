#include "session/audio_ring.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "base/metrics.h"
#include "bus/channel.h"

#define MIN_CAP 2048
/* A ring shrinks to what so many trims in a row have needed: a provider that answers once a second empties it each
 * time, and it would be made anew as often. */
#define SHRINK_TRIMS 16

static struct metric *held_bytes[AUDIO_RING_USES];
static pthread_once_t held_bytes_once = PTHREAD_ONCE_INIT;

static void held_bytes_make(void)
{
    held_bytes[AUDIO_RING_REPLAY] = metric_gauge(
        "omid_memory_replay_bytes", "Session buffers of audio that waits for speech-to-text or for its result.");
    held_bytes[AUDIO_RING_VOICES] =
        metric_gauge("omid_memory_voices_bytes", "Audio that is kept to compare voices, and of samples of voices.");
}

void audio_ring_metrics(void)
{
    pthread_once(&held_bytes_once, held_bytes_make);
}

void audio_ring_account(enum audio_ring_use use, int64_t bytes)
{
    audio_ring_metrics();
    metric_add(held_bytes[use], bytes);
    budget_add(bytes);
}

size_t audio_ring_held(enum audio_ring_use use)
{
    audio_ring_metrics();
    int64_t held = metric_value(held_bytes[use]);
    return held > 0 ? (size_t)held : 0;
}

static bool resize(struct audio_ring *r, size_t cap)
{
    int16_t *data = malloc(cap * sizeof *data);
    if (!data)
        return false;
    for (uint64_t pos = r->base; pos < r->end;) {
        size_t n;
        const int16_t *from = audio_ring_at(r, pos, (size_t)(r->end - pos), &n);
        size_t at = (size_t)pos & (cap - 1), first = n < cap - at ? n : cap - at;
        memcpy(data + at, from, first * sizeof *data);
        memcpy(data, from + first, (n - first) * sizeof *data);
        pos += n;
    }
    audio_ring_account(r->use, ((int64_t)cap - (int64_t)r->cap) * (int64_t)sizeof *data);
    free(r->data);
    r->data = data;
    r->cap = cap;
    return true;
}

static size_t cap_for(size_t samples, size_t cap)
{
    while (cap < samples)
        cap *= 2;
    return cap;
}

bool audio_ring_reserve(struct audio_ring *r, size_t n)
{
    size_t cap = cap_for((size_t)(r->end - r->base) + n, r->cap ? r->cap : MIN_CAP);
    return cap == r->cap || resize(r, cap);
}

size_t audio_ring_growth(const struct audio_ring *r, size_t n)
{
    return (cap_for((size_t)(r->end - r->base) + n, r->cap ? r->cap : MIN_CAP) - r->cap) * sizeof *r->data;
}

bool audio_ring_append(struct audio_ring *r, const int16_t *pcm, size_t n)
{
    if (!audio_ring_reserve(r, n))
        return false;
    size_t at = (size_t)r->end & (r->cap - 1), first = n < r->cap - at ? n : r->cap - at;
    memcpy(r->data + at, pcm, first * sizeof *pcm);
    memcpy(r->data, pcm + first, (n - first) * sizeof *pcm);
    r->end += n;
    return true;
}

void audio_ring_trim(struct audio_ring *r, uint64_t pos)
{
    if (pos > r->end)
        pos = r->end;
    if (pos <= r->base)
        return;
    if (r->end - r->base > r->peak)
        r->peak = (size_t)(r->end - r->base);
    r->base = pos;
    if (++r->trims < SHRINK_TRIMS || r->pinned)
        return;
    size_t cap = cap_for(r->peak, MIN_CAP);
    if (cap < r->cap)
        resize(r, cap); /* without memory it simply stays */
    r->trims = 0;
    r->peak = 0;
}

const int16_t *audio_ring_at(const struct audio_ring *r, uint64_t pos, size_t max, size_t *n)
{
    omid_assert(pos >= r->base && pos <= r->end);
    size_t at = (size_t)pos & (r->cap - 1), piece = r->cap - at, left = (size_t)(r->end - pos);
    *n = piece < left ? piece : left;
    if (*n > max)
        *n = max;
    return r->data + at;
}

void audio_ring_release(struct audio_ring *r)
{
    if (r->base < r->end || r->cap == 0)
        return;
    audio_ring_account(r->use, -(int64_t)r->cap * (int64_t)sizeof *r->data);
    free(r->data);
    r->data = NULL;
    r->cap = r->peak = 0;
    r->trims = 0;
}

void audio_ring_free(struct audio_ring *r)
{
    audio_ring_account(r->use, -(int64_t)r->cap * (int64_t)sizeof *r->data);
    free(r->data);
    *r = (struct audio_ring){0};
}
