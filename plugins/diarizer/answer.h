/* What the embedding service answers: a vector. Pure. */
#ifndef OMID_DIARIZER_ANSWER_H
#define OMID_DIARIZER_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

#define ANSWER_MIN_VALUES 2
#define ANSWER_MAX_VALUES 65536

/* [numbers] or {"embedding":[numbers]}: *vector is n of them, the caller's to free. false: err says what is wrong with
 * the answer. Costs time by its length alone. */
bool answer_vector(const char *body, size_t len, float **vector, size_t *n, char *err, size_t errlen);

#endif
