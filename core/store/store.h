/*
 * The store: conversations with their segments, photos and messages, and people, in store.db (SQLite, WAL). One writer
 * thread with group commit; readers are read-only connections used in the storage executor.
 *
 * Every call copies its arguments and returns at once; callbacks run on the given loop, exactly once each, after
 * the commit (or its failure), never within the call. Calls from one thread take effect in order.
 */
#ifndef OMID_STORE_STORE_H
#define OMID_STORE_STORE_H

#include <omid/plugin.h>
#include <stdbool.h>

#include "base/json.h"
#include "base/loop.h"

struct store;
struct store_config {
    const char *path;
    uint32_t commit_ms;
    uint64_t max_values, max_value_bytes; /* of one plugin; 0: those of store/values.h */
};
/* As queue_open(): version, corruption, set aside. */
struct store *store_open(const struct store_config *config, bool *set_aside, char *err, size_t errlen);
bool store_start(struct store *s);
void store_stop(struct store *s); /* commits everything; ends the thread */
void store_free(struct store **s);
/* Any thread: so long after the last change its writer's cache is freed. 0, as it begins: never. */
void store_set_idle(struct store *s, uint32_t ms);
void store_health(struct store *s, char *err, size_t errlen); /* "" or why the last commit failed */

enum store_status { STORE_IN_PROGRESS, STORE_PROCESSING, STORE_COMPLETED, STORE_FAILED, STORE_SKIPPED };
const char *store_status_name(enum store_status st); /* "in_progress", ... */

/* A segment as the protocol has it. Strings are the caller's. */
struct store_segment {
    const char *id, *text, *speaker, *person_id, *stt_provider; /* person_id may be NULL */
    const char *person_name;                                    /* read alone: as the user calls them now; or NULL */
    const char *session;                                        /* whose audio it was heard in; NULL: not known */
    int speaker_id;
    bool is_user;
    double start, end;
};

/* A photo. data is NULL where it was not asked for. */
struct store_photo {
    const char *id, *description;
    bool discarded;
    int64_t created_ms;
    const unsigned char *data;
    size_t len;
};

/* What an app said to the user. */
struct store_message {
    const char *id, *app_id, *app_name, *text;
    int64_t created_ms;
};

/* Who a speaker of a conversation is, as the user said. */
struct store_speaker {
    int speaker_id;
    const char *person_id; /* NULL: the owner */
};

struct store_conversation {
    char id[37];
    char *uid, *language, *source;
    char *call_id; /* or NULL */
    enum store_status status;
    int64_t created_ms, started_ms, finished_ms; /* Unix ms; started 0: no segment yet */
    int64_t timeout_ms;
    unsigned revision;             /* how often recordings have joined it after its end */
    char *structured;              /* JSON object {title, overview, ...}, or NULL */
    char *geolocation;             /* JSON object, or NULL */
    char *error;                   /* why processing was given up, or NULL */
    struct store_segment *segment; /* sorted by start, then by insertion */
    size_t n_segments;
    struct store_photo *photo; /* in the order they came; so the others */
    size_t n_photos;
    struct store_message *message;
    size_t n_messages;
    struct store_speaker *speaker;
    size_t n_speakers;
};
void store_conversation_free(struct store_conversation **c);
/* The wire form: id, created_at, started_at, finished_at (RFC 3339), source, language, status, structured,
 * transcript_segments, photos, discarded, ... as clients and webhooks know it. */
void store_conversation_json(struct json_w *w, const struct store_conversation *c);
/* The messages of apps as clients know them: an array. */
void store_messages_json(struct json_w *w, const struct store_conversation *c);

/* Opens for a session: resumes the uid's in-progress conversation (resume_id first, if given, in progress and the
 * uid's) when now - finished < its timeout; any other in-progress one of the uid becomes PROCESSING and is listed
 * in `stale` (ids, NULL-terminated) for the caller to process; else creates one. */
struct store_open_params {
    const char *uid, *resume_id, *language, *source; /* resume_id may be NULL */
    const char *call_id;                             /* or NULL */
    /* Or NULL. Else: creates the conversation of this id, or resumes it when it is there; looks at no other. For one
     * that had to begin while the store did not answer. */
    const char *create_id;
    int64_t now_ms, timeout_ms;
};
struct store_opened {
    int result; /* OMID_OK or OMID_ERR (disk); then the rest is NULL */
    bool resumed;
    struct store_conversation *conversation; /* with its segments; the callback's to keep (null it) or leave */
    char **stale;
};
int store_conversation_open(struct store *s, const struct store_open_params *p, struct loop *loop,
                            void (*cb)(void *arg, struct store_opened *opened), void *arg);

/* A speaker's name, given by the user: the person is kept (a new one, or a new name for a known one, unless name is
 * ""), so is who the speaker is, and a sample of the voice is queued for whoever computes embeddings. */
struct store_naming {
    const char *sample_id; /* UUID; the same one again changes nothing */
    int speaker_id;
    const char *person_id; /* NULL: the owner */
    const char *name;
    const char *segments; /* JSON array of ids: where the voice is heard */
    int64_t created_ms;
};

/* Upserts segments by id, deletes `deleted`, moves started and finished (0: unchanged), adds photos and namings. cb may
 * be NULL; its result is OMID_ENOTSUP when the conversation is not there. */
struct store_update {
    const char *conversation_id;
    const struct store_segment *segment;
    size_t n_segments;
    const char *const *deleted;
    size_t n_deleted;
    int64_t started_ms, finished_ms, timeout_ms; /* 0: as it is */
    const struct store_photo *photo;
    size_t n_photos;
    const struct store_naming *naming;
    size_t n_namings;
};
int store_segments_put(struct store *s, const struct store_update *u, struct loop *loop,
                       void (*cb)(void *arg, int result), void *arg);

/* Changes the status; only from `from`: OMID_ENOTSUP when it is another, or gone. structured and error may be NULL
 * (unchanged); PROCESSING has no error. */
int store_status_set(struct store *s, const char *id, enum store_status from, enum store_status to,
                     const char *structured, const char *error, struct loop *loop, void (*cb)(void *arg, int result),
                     void *arg);

/*
 * The end of a conversation. What its steps have made is kept until the status leaves PROCESSING, so that no step is
 * taken twice after a crash.
 */
struct store_progress {
    unsigned failures; /* of steps, so far */
    char *summary;     /* JSON; NULL: not made yet. The callback's to keep (null it) or leave */
};
/* An IN_PROGRESS one becomes PROCESSING; reads it, whatever its status. c is NULL when there is none, or it failed
 * (OMID_ERR), else the callback's to free. */
int store_processing_begin(struct store *s, const char *id, struct loop *loop,
                           void (*cb)(void *arg, int result, struct store_conversation *c, struct store_progress *p),
                           void *arg);
/* The summary that was made. OMID_ENOTSUP: it is not PROCESSING any more, or gone. */
int store_processing_keep(struct store *s, const char *id, const char *summary, struct loop *loop,
                          void (*cb)(void *arg, int result), void *arg);
/* So many failures by now. Nobody is told. */
int store_processing_failed(struct store *s, const char *id, unsigned failures);
/* One of the uid's that has ended is PROCESSING again, from the begin; one that is PROCESSING goes on. OMID_ENOTSUP:
 * there is none; OMID_EFULL: it is in progress. */
int store_processing_again(struct store *s, const char *id, const char *uid, struct loop *loop,
                           void (*cb)(void *arg, int result), void *arg);

/* Only if it is the uid's (NULL: whose it may be): else OMID_ENOTSUP. All that belongs to it goes with it. */
int store_conversation_delete(struct store *s, const char *id, const char *uid, struct loop *loop,
                              void (*cb)(void *arg, int result), void *arg);
/* A message of an app, kept with the conversation. OMID_ENOTSUP: that is not there, or has too many. cb may be NULL. */
int store_message_add(struct store *s, const char *id, const struct store_message *m, struct loop *loop,
                      void (*cb)(void *arg, int result), void *arg);
/* One of the uid's conversations: its id, NULL when there is none (OMID_OK) or it failed. */
enum store_find {
    STORE_FIND_COMPLETED, /* the last one that was completed */
    STORE_FIND_OPEN,      /* the last one in progress that holds something */
};
int store_find(struct store *s, const char *uid, enum store_find what, struct loop *loop,
               void (*cb)(void *arg, int result, const char *id), void *arg);
/* In cb: OMID_OK with NULL when it is not there. Reads on the writer's connection, so it sees all that was put before.
 */
int store_conversation_get(struct store *s, const char *id, struct loop *loop,
                           void (*cb)(void *arg, int result, struct store_conversation *c), /* c: callback frees */
                           void *arg);
/* Up to max conversations that are PROCESSING, or in progress with now - finished >= timeout. */
struct store_due {
    char id[37];
    char *uid;
    enum store_status status;
};
int store_due(struct store *s, int64_t now_ms, size_t max, struct loop *loop,
              void (*cb)(void *arg, const struct store_due *due, size_t n), void *arg);

/*
 * Reads on connections of their own that can't write: they block, so they are for the threads of an executor, and they
 * see what was committed (not what waits for the writer). err says why for OMID_ERR.
 */
struct store_list {
    const char *uid;
    unsigned statuses; /* 1u << enum store_status each; 0: all */
    size_t limit, offset;
    const char *before; /* the page behind this conversation; NULL: from the newest */
};
/* Appends an array, newest first, photos without data. What no longer fits into max_bytes is listed without its
 * transcript and says so: "transcript_omitted". OMID_ENOTSUP: `before` is none of the uid's. */
int store_list_json(struct store *s, const struct store_list *l, size_t max_bytes, struct buf *out, char *err,
                    size_t errlen);
/* Appends the conversation with its photos and messages; the data of photos that no longer fit into max_bytes is left
 * out. OMID_ENOTSUP: there is none of this id that is the uid's. */
int store_conversation_read_json(struct store *s, const char *uid, const char *id, size_t max_bytes, struct buf *out,
                                 char *err, size_t errlen);

void store_status_json(struct store *s, struct json_w *w); /* counts by status, commits, for omictl */

#endif
