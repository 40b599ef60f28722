/* What voices.c, people.c and samples.c share: a call with a few texts and perhaps a vector. */
#ifndef OMID_STORE_VOICES_INT_H
#define OMID_STORE_VOICES_INT_H

#include "base/magic.h"
#include "store/store_int.h"
#include "store/voices.h"

#define VOICE_TEXTS 3

struct voice_call {
    struct store_call call;
    store_result_cb cb;
    size_t bytes;
    const char *text[VOICE_TEXTS]; /* in data; or NULL */
    enum store_voice_kind kind;
    int64_t ms;
    double seconds;
    size_t dim;
    unsigned char data[]; /* the vector, encoded, then the texts */
};
/* NULL: no memory, or a text is too long. */
struct voice_call *voice_call_new(const char *const text[VOICE_TEXTS], const float *vector, size_t dim);
void voice_call_drop(struct store_call *call);
/* c may be NULL: OMID_ERR. */
int voice_call_post(struct store *s, struct voice_call *c, int (*run)(struct store *s, struct store_call *call),
                    struct loop *loop, store_result_cb cb, void *arg);
/* Within a transaction: the call's vector becomes one of the person's. OMID_ENOTSUP: there is no such person. */
int voice_insert(struct db *db, const char *uid, const char *person_id, const struct voice_call *c);

#endif
