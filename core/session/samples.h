/*
 * Samples of the voices of speakers whom users have named: queued in the store by the naming, taken when they are old
 * enough or when the daemon stops, from audio that was kept at the naming or else from stored audio, and kept with the
 * person. What fails is tried again; what waits survives the process. One per reactor, for the uids of that reactor.
 */
#ifndef OMID_SESSION_SAMPLES_H
#define OMID_SESSION_SAMPLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct samples;
struct sessions;

struct samples *samples_new(struct sessions *ss); /* NULL: no memory */
void samples_start(struct samples *m);            /* plugins have started */
void samples_configure(struct samples *m);        /* the settings are others now */
/* The sample's audio, at SPEAKERS_RATE; takes pcm. Dropped when there is no room: then it is cut from stored audio. */
void samples_clip(struct samples *m, const char *sample_id, int16_t *pcm, size_t n);
/* The daemon stops and no session is left: true when what can be taken has been, or its time is over. Else
 * sessions_check_drained() is called when that is so. */
bool samples_drained(struct samples *m);
void samples_free(struct samples **m);

#endif
