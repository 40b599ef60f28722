/*
 * Recordings made offline and uploaded later (POST /v1/sync-local-files): what was uploaded, how far it is, and its
 * transcript's way into conversations. A recording is known by its user and the hash of its content, so that the same
 * one uploaded again is the same one.
 *
 * Calls, callbacks and readers as in store.h.
 */
#ifndef OMID_STORE_RECORDINGS_H
#define OMID_STORE_RECORDINGS_H

#include "store/store.h"

#define RECORDING_HASH 64         /* hexadecimal digits of SHA-256 */
#define RECORDING_FILES_MAX 64    /* of one upload */
#define RECORDING_GROUPS_MAX 4096 /* conversations that one recording may come to */

/* The numbers are part of the file's format. */
enum recording_status {
    RECORDING_WAITING,
    RECORDING_RUNNING,
    RECORDING_DONE,
    RECORDING_SKIPPED, /* there is no speech in it */
    RECORDING_FAILED,
};

struct store_upload_file {
    const char *hash, *name; /* name: as the client called it */
    const char *file;        /* where its content is; the same for the same uid and hash */
    int format;              /* the caller's */
    int64_t start_ms;
};
struct store_upload {
    const char *id, *uid, *language; /* id: UUID of the job */
    int64_t now_ms;
    const struct store_upload_file *file;
    size_t n;
};
/* Keeps the job and those recordings that are not known yet; one that had failed is taken up again. again[i]: file i is
 * known already, nothing is to be done for it. OMID_ENOTSUP: the uid has too many that wait. */
int store_upload_put(struct store *s, const struct store_upload *u, struct loop *loop,
                     void (*cb)(void *arg, int result, const bool *again), void *arg);

struct store_recording {
    int64_t n; /* its number */
    char *uid, *language, *file;
    int format;
    int64_t start_ms;
    enum recording_status status;
    unsigned attempts;
    char *conversations; /* DONE: JSON array of ids; else NULL */
};
/* Up to max that are to be worked on: waiting or running whose time has come, or done with audio still to be stored.
 * Also forgets those that ended before `forget_ms`. Valid within cb. */
int store_recordings_due(struct store *s, int64_t now_ms, int64_t forget_ms, size_t max, struct loop *loop,
                         void (*cb)(void *arg, const struct store_recording *r, size_t n), void *arg);

struct store_recording_state {
    int64_t n;
    enum recording_status status;
    unsigned attempts;
    int64_t not_before_ms;
    double progress, seconds; /* progress 0..1; what is less than is known already changes nothing */
    const char *error;        /* or NULL */
    bool stored;              /* its audio is where it belongs, or nowhere */
};
/* cb may be NULL. OMID_ENOTSUP: it is not there. */
int store_recording_set(struct store *s, const struct store_recording_state *st, struct loop *loop,
                        void (*cb)(void *arg, int result), void *arg);

/* What was heard so far of one that is worked on. */
struct store_heard {
    int64_t n;       /* of the recording */
    uint64_t until;  /* samples of it, from its begin */
    double progress; /* 0..1 */
    /* What is new in it, start and end in seconds of the recording; of each text, speaker_id, stt_provider and the
     * times are kept, in this order. */
    const struct store_segment *segment;
    size_t n_segments;
};
/* Kept until the recording is done, skipped, forgotten, or sent again in another language; all of it or nothing. Once
 * more with the same `until` it changes nothing. OMID_ENOTSUP: the recording is gone, or over. */
int store_heard_put(struct store *s, const struct store_heard *h, struct loop *loop, void (*cb)(void *arg, int result),
                    void *arg);
/* Read, for executor threads: each(arg) is called for what was kept, strings valid within it; false: without memory.
 * *until: 0 when nothing was. OMID_ERR: err. */
int store_heard_read(struct store *s, int64_t n, uint64_t *until,
                     bool (*each)(void *arg, const struct store_segment *g), void *arg, char *err, size_t errlen);

/* Its transcript: segments in absolute time (start and end: Unix seconds), ascending. */
struct store_transcript {
    int64_t n; /* of the recording */
    const char *uid, *language, *source;
    int64_t timeout_ms; /* a silence this long divides conversations */
    double seconds;
    const struct store_segment *segment;
    size_t n_segments;
};
/*
 * In one transaction: groups of segments join the uid's conversation that they are within timeout_ms of, or make one of
 * their own; each such conversation is `processing` then, of a new revision when it was over before, and the recording
 * is done. cb gets their ids.
 * OMID_EFULL: one of them is in progress or being processed: nothing was changed, try again later. OMID_ENOTSUP: the
 * recording is gone, or done.
 */
int store_transcript_merge(struct store *s, const struct store_transcript *t, struct loop *loop,
                           void (*cb)(void *arg, int result, const char (*ids)[37], size_t n), void *arg);

/* Reads, for executor threads. Appends the job as the API tells it. OMID_ENOTSUP: none of this id that is the uid's. */
int store_upload_read_json(struct store *s, const char *uid, const char *id, struct buf *out, char *err, size_t errlen);
/* 1: the file of this name belongs to a recording that is still to be worked on; 0: to none; -1: err. */
int store_recording_wants(struct store *s, const char *file, char *err, size_t errlen);

#endif
