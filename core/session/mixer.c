#include "session/mixer.h"

#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "bus/channel.h"

#define MIXER_MAGIC UINT32_C(0x6d697872)

/* From this position of the channel on, its place in the sum is ahead by `shift`. */
struct mark {
    uint64_t position, shift;
};

struct input {
    uint64_t position; /* samples taken */
    uint64_t place;    /* of the next one in the sum */
    struct mark mark[MIXER_MARKS];
    unsigned n_marks;
    bool forgotten; /* the first of them */
};

struct mixer {
    uint32_t magic;
    size_t skew;   /* samples */
    uint64_t done; /* the sum's length so far */
    struct input input[MIXER_CHANNELS];
    /* Places done .. done + size, by place modulo size: a piece fits behind a channel that is as far ahead as it may
     * be. */
    size_t size, piece;
    int16_t sum[]; /* of two: clamping as they are added is clamping their sum */
};
_Static_assert(MIXER_CHANNELS == 2, "more need a wider sum");

static size_t mixer_bytes(const struct mixer *m)
{
    return sizeof *m + m->size * sizeof *m->sum;
}

struct mixer *mixer_new(uint32_t rate)
{
    size_t skew = (size_t)rate * MIXER_SKEW_S, piece = rate / 10, size = skew + piece;
    struct mixer *m = calloc(1, sizeof *m + size * sizeof *m->sum);
    if (!m)
        return NULL;
    m->magic = MIXER_MAGIC;
    m->skew = skew;
    m->piece = piece;
    m->size = size;
    budget_add((int64_t)mixer_bytes(m));
    return m;
}

static int16_t clamp(int v)
{
    return (int16_t)(v > INT16_MAX ? INT16_MAX : v < INT16_MIN ? INT16_MIN : v);
}

static uint64_t furthest(const struct mixer *m)
{
    uint64_t max = m->done;
    for (size_t i = 0; i < MIXER_CHANNELS; i++) {
        if (m->input[i].place > max)
            max = m->input[i].place;
    }
    return max;
}

/* Up to where nothing more is waited for. */
static uint64_t settled(const struct mixer *m)
{
    uint64_t max = furthest(m), min = max;
    for (size_t i = 0; i < MIXER_CHANNELS; i++) {
        if (m->input[i].place < min)
            min = m->input[i].place;
    }
    return max - min > m->skew ? max - m->skew : min > m->done ? min : m->done;
}

static void mixer_emit(struct mixer *m, uint64_t until, struct pcm *out)
{
    for (; m->done < until; m->done++) {
        int16_t *v = &m->sum[m->done % m->size];
        out->data[out->n++] = *v;
        *v = 0;
    }
}

static void mark_add(struct input *in)
{
    if (in->n_marks == MIXER_MARKS) {
        memmove(in->mark, in->mark + MIXER_MARKS / 2, MIXER_MARKS / 2 * sizeof *in->mark);
        in->n_marks = MIXER_MARKS / 2;
        in->forgotten = true;
    }
    in->mark[in->n_marks++] = (struct mark){in->position, in->place - in->position};
}

/* It is where the sum has gone on without it. What arrives now ends where the furthest channel ends, as far as the sum
 * is still open there. */
static void input_join(struct mixer *m, struct input *in, size_t n)
{
    uint64_t end = furthest(m), at = end > n ? end - n : 0;
    in->place = at > m->done ? at : m->done;
    mark_add(in);
}

bool mixer_add(struct mixer *m, unsigned channel, const int16_t *pcm, size_t n, struct pcm *out, bool *rejoined)
{
    CHECK_MAGIC(m, MIXER_MAGIC);
    omid_assert(channel < MIXER_CHANNELS);
    struct input *in = &m->input[channel];
    *rejoined = false;
    /* All that is held may go out, and what comes with it. */
    if (!pcm_reserve(out, m->size + n))
        return false;
    if (in->place < m->done) {
        *rejoined = in->position > 0;
        input_join(m, in, n);
    }
    while (n > 0) {
        size_t piece = n < m->piece ? n : m->piece;
        for (size_t i = 0; i < piece; i++) {
            int16_t *v = &m->sum[(in->place + i) % m->size];
            *v = clamp(*v + pcm[i]);
        }
        in->place += piece;
        in->position += piece;
        pcm += piece;
        n -= piece;
        mixer_emit(m, settled(m), out);
    }
    return true;
}

bool mixer_flush(struct mixer *m, struct pcm *out)
{
    CHECK_MAGIC(m, MIXER_MAGIC);
    uint64_t end = furthest(m);
    if (!pcm_reserve(out, (size_t)(end - m->done)))
        return false;
    mixer_emit(m, end, out);
    return true;
}

uint64_t mixer_place(const struct mixer *m, unsigned channel, uint64_t position)
{
    CHECK_MAGIC(m, MIXER_MAGIC);
    omid_assert(channel < MIXER_CHANNELS);
    const struct input *in = &m->input[channel];
    if (in->n_marks == 0)
        return position;
    unsigned i = in->n_marks - 1;
    while (i > 0 && in->mark[i].position > position)
        i--;
    /* Before the first of all its joins it stands where its positions say. */
    return in->mark[i].position > position && !in->forgotten ? position : position + in->mark[i].shift;
}

void mixer_free(struct mixer **mp)
{
    struct mixer *m = *mp;
    if (!m)
        return;
    CHECK_MAGIC(m, MIXER_MAGIC);
    *mp = NULL;
    budget_add(-(int64_t)mixer_bytes(m));
    m->magic = OMID_MAGIC_DEAD;
    free(m);
}
