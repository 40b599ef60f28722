/* Conversations that are gone and whose end has yet to be told for good. */
#ifndef OMID_STORE_DELETED_H
#define OMID_STORE_DELETED_H

#include "store/store.h"

struct store_deleted {
    char id[37];
    char *uid;
};
/* The first `max` (1..1000) of them, the oldest first; valid until cb returns. result: OMID_OK, or OMID_ERR and none.
 */
int store_deleted(struct store *s, size_t max, struct loop *loop,
                  void (*cb)(void *arg, int result, const struct store_deleted *deleted, size_t n), void *arg);
/* All have been told of this one. Nobody is told when it is on disk: what is not is told again. */
int store_deleted_forget(struct store *s, const char *id);

#endif
