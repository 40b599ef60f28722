#include "session/voice_match.h"

#include <math.h>
#include <string.h>

double voice_distance(const float *a, size_t a_dim, const float *b, size_t b_dim)
{
    double dot = 0, aa = 0, bb = 0;
    if (a_dim != b_dim || a_dim == 0)
        return VOICE_APART;
    for (size_t i = 0; i < a_dim; i++) {
        dot += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    double d = 1 - dot / (sqrt(aa) * sqrt(bb));
    if (!isfinite(d))
        return VOICE_APART;
    return d < 0 ? 0 : d > VOICE_APART ? VOICE_APART : d;
}

bool voice_usable(const float *v, size_t dim)
{
    double length = 0;
    for (size_t i = 0; i < dim; i++)
        length += (double)v[i] * (double)v[i];
    return dim > 0 && dim <= STORE_MAX_VECTOR && isfinite(length) && length > 0;
}

const struct store_voice *voice_match(const struct store_voices *all, const float *v, size_t dim, bool owner,
                                      double threshold, double *distance)
{
    const struct store_voice *best = NULL;
    double least = VOICE_APART;
    for (size_t i = 0; i < all->n; i++) {
        const struct store_voice *c = &all->voice[i];
        if (!owner && strcmp(c->person_id, STORE_OWNER) == 0)
            continue;
        double d = voice_distance(c->vector, c->dim, v, dim);
        if (d < least) {
            least = d;
            best = c;
        }
    }
    if (distance)
        *distance = least;
    return least < threshold ? best : NULL;
}
