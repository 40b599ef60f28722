/*
 * Conversations that are deleted, and who hears of it (OMID_EVENT_CONVERSATION_DELETED). The store keeps a row for each
 * from the transaction that deletes it until what plugins enqueued for it is on disk: told again after a crash, or when
 * the queue did not take their jobs.
 */
#ifndef OMID_SESSION_DELETIONS_H
#define OMID_SESSION_DELETIONS_H

#include "session/state.h"

/* It is gone from the store: tells plugins within this call. */
void deletions_tell(struct sessions *ss, const char *id, const char *uid);
/* Deletes one that the daemon itself lets go of, and tells. done (may be NULL) when the store has answered. Not
 * OMID_OK: it was not taken, and done does not come. */
int deletions_delete(struct sessions *ss, const char *id, const char *uid, void (*done)(void *arg, int result),
                     void *arg);
/* Looks for those that were told to nobody, or not for good. With each sweep; costs nothing when there are none. */
void deletions_sweep(struct sessions *ss);
bool deletions_idle(const struct sessions *ss);
void deletions_free_all(struct sessions *ss);

#endif
