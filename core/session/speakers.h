/*
 * Who speaks, by the voice, while they speak. Of a session that wants it: the newest audio, its speakers, and one
 * question at a time for each of them. A question delays no segment; what it is answered within the session's drain is
 * taken, too. Reactor thread.
 *
 *   voices        what is known, from the store, shared by a uid's sessions
 *   voice_match   who is nearest
 *   samples       voices of speakers whom the user has named, taken later
 */
#ifndef OMID_SESSION_SPEAKERS_H
#define OMID_SESSION_SPEAKERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/metrics.h"
#include "session/codec.h"

struct naming;
struct segment_list;
struct session;
struct sessions;
struct voices;

#define SPEAKERS_RATE 16000 /* of all audio that voices are taken from */
#define SPEAKERS_MIN_MS 500 /* the role embed takes nothing shorter */

struct speakers_metrics {
    struct metric *match, *owner, *nobody, *failed, *no_audio, *late; /* questions */
    struct metric *busy;                                              /* segments that were not asked about */
    struct metric *no_room;                                           /* audio for which there was no memory */
    struct metric *left_out;                                          /* voices beyond the bound */
    struct metric *kept, *again, *superseded, *given_up, *waiting;    /* samples */
};
const struct speakers_metrics *speakers_metrics(void);

/* At the session's begin, now and then, and when something has changed: what is kept begins or ends to be needed.
 * Without memory a session goes on without; nothing is there while no plugin answers. */
void speakers_settle(struct session *s);
void speakers_close(struct session *s);
/* The session's audio, behind what came before; before it is counted in session.samples. */
void speakers_audio(struct session *s, const struct pcm *pcm);
/* New segments in seconds of the session's audio, before they go to the conversation: those of known speakers are
 * named, others asked about. */
void speakers_segments(struct session *s, const struct segment_list *batch);
/* The user has said who it is: no more questions, and the sample's audio is kept while it is there. */
void speakers_named(struct session *s, const struct naming *n);
/* Those voices were read (anew). */
void speakers_voices_read(struct sessions *ss, const struct voices *v);

#endif
