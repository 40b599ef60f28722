/* Whose voice is it? Vectors compared. Pure. */
#ifndef OMID_SESSION_VOICE_MATCH_H
#define OMID_SESSION_VOICE_MATCH_H

#include <stdbool.h>
#include <stddef.h>

#include "store/voices.h"

#define VOICE_APART 2.0 /* the largest distance: vectors that can't be compared, too */

/* Cosine distance, 0 to 2. Of different dimensions, or with a length that is none (zero, not finite): VOICE_APART. */
double voice_distance(const float *a, size_t a_dim, const float *b, size_t b_dim);
/* Something that can be compared. */
bool voice_usable(const float *v, size_t dim);
/* The nearest of them below the threshold, NULL: nobody. owner: whether the owner's voices count. *distance (may be
 * NULL) is the smallest, whatever the threshold. */
const struct store_voice *voice_match(const struct store_voices *all, const float *v, size_t dim, bool owner,
                                      double threshold, double *distance);

#endif
