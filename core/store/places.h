/* Where users are, as their clients said last, and where conversations were. */
#ifndef OMID_STORE_PLACES_H
#define OMID_STORE_PLACES_H

#include "store/store.h"

struct store_place {
    double latitude, longitude; /* degrees, within their ranges */
    int64_t updated_ms;         /* Unix ms */
};

/* The uid's, in place of a former one. OMID_EINVAL: not finite, or out of range. */
int store_place_set(struct store *s, const char *uid, const struct store_place *place, struct loop *loop,
                    void (*cb)(void *arg, int result), void *arg);
/* NULL in cb: none was ever said (OMID_OK), or it failed. */
int store_place_get(struct store *s, const char *uid, struct loop *loop,
                    void (*cb)(void *arg, int result, const struct store_place *place), void *arg);
/* The conversation's geolocation: a JSON object, as it is to stand in the conversation. OMID_ENOTSUP: it is gone. */
int store_geolocation_set(struct store *s, const char *conversation_id, const char *json, struct loop *loop,
                          void (*cb)(void *arg, int result), void *arg);

#endif
