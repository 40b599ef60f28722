/*
 * What a conversation holds besides its segments, until it is on disk: photos, and who its speakers are. Reactor
 * thread.
 */
#ifndef OMID_SESSION_CONTENT_H
#define OMID_SESSION_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"

#define CONTENT_MAX_PHOTOS 1000  /* of one conversation: then it ends, and the next begins */
#define CONTENT_MAX_NAMINGS 100  /* that wait for the store */
#define CONTENT_MAX_SPEAKERS 100 /* named ones of one conversation */

struct content_photo {
    char id[37];
    char *description;
    bool discarded;
    int64_t created_ms;
    unsigned char *data; /* NULL once the store has it */
    size_t len;
};

/* The user says who a speaker is. */
struct naming {
    char sample_id[37], session_id[37];
    int speaker_id;
    char *person_id; /* NULL: the owner */
    char *name;
    char *segments; /* JSON array of ids */
    int64_t created_ms;
};

struct speaker_name {
    int speaker_id;
    char *person_id; /* NULL: the owner */
};

struct content {
    struct content_photo *photo;
    size_t n_photos, photos_stored, photos_sent; /* sent: of those not stored, in the operation under way */
    struct naming *naming;                       /* not yet stored */
    size_t n_namings, namings_sent;
    struct speaker_name *speaker;
    size_t n_speakers;
    size_t bytes; /* as charged to the memory budget */
};

/* false: no memory. */
bool content_load(struct content *ct, const struct store_conversation *from);
void content_free(struct content *ct);

/* Takes data; its id, or NULL: max_waiting photos wait for the store, or no memory (data is freed). */
const char *content_photo_add(struct content *ct, unsigned char *data, size_t len, int64_t now_ms, size_t max_waiting);
/* From now on the speaker is this person (NULL: the owner); the naming waits for the store. Its sample's id, or NULL:
 * too many, or no memory. */
const char *content_name(struct content *ct, int speaker_id, const char *person_id, const char *name,
                         const char *segments, const char *session_id, int64_t now_ms);
static inline const struct naming *content_newest_naming(const struct content *ct)
{
    return &ct->naming[ct->n_namings - 1]; /* there is one that is not stored */
}
/* No speaker is this person any more. */
void content_forget_person(struct content *ct, const char *person_id);
/* NULL: nobody has said. */
const struct speaker_name *content_speaker(const struct content *ct, int speaker_id);

/* ---- to the store ---- */
bool content_dirty(const struct content *ct);
/* As many as one operation should carry. photo and naming: arrays to free. false: no memory. */
bool content_fill(struct content *ct, struct store_update *u, struct store_photo **photo, struct store_naming **naming);
void content_sent(struct content *ct, const struct store_update *u);
/* The answer for what was sent. told(arg, n) for each naming that is on disk now; NULL: failed, all goes again. */
void content_stored(struct content *ct, void (*told)(void *arg, const struct naming *n), void *arg);
/* Nothing is under way. */
void content_unsent(struct content *ct);
/* Its photos without data, for the wire form: n_photos of them, to free. NULL: no memory. */
struct store_photo *content_photos(const struct content *ct);

#endif
