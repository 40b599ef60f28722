/*
 * The voices of the uids that speak now, read from the store once for all their sessions. Reactor thread; reading
 * happens in the storage executor, and nobody waits for it.
 */
#ifndef OMID_SESSION_VOICES_H
#define OMID_SESSION_VOICES_H

#include "store/voices.h"

struct sessions;
struct voices;

/* One more holder. NULL: no memory. */
struct voices *voices_hold(struct sessions *ss, const char *uid);
void voices_release(struct voices **v);
/* Now and then: a reading for which there was no room is begun again. */
void voices_settle(struct voices *v);
/* They are being read for the first time: there may be some. */
bool voices_awaited(const struct voices *v);
/* What is known now; n 0: nobody, or it is still being read. Valid until the loop's next turn. */
const struct store_voices *voices_known(const struct voices *v);
/* Those of the uid are not any more what was read. */
void voices_changed(struct sessions *ss, const char *uid);
/* The daemon ends; no session is left. */
void voices_free_all(struct sessions *ss);

#endif
