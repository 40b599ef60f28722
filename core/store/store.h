/*
 * The store: conversations and segments (later people, apps, webhooks) in store.db (SQLite, WAL). One writer thread
 * with group commit; readers are read-only connections used in the storage executor.
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
};
/* As queue_open(): version, corruption, set aside. */
struct store *store_open(const struct store_config *config, bool *set_aside, char *err, size_t errlen);
bool store_start(struct store *s);
void store_stop(struct store *s); /* commits everything; ends the thread */
void store_free(struct store **s);
void store_health(struct store *s, char *err, size_t errlen); /* "" or why the last commit failed */

enum store_status { STORE_IN_PROGRESS, STORE_PROCESSING, STORE_COMPLETED, STORE_FAILED, STORE_SKIPPED };
const char *store_status_name(enum store_status st); /* "in_progress", ... */

/* A segment as the protocol has it. Strings are the caller's. */
struct store_segment {
    const char *id, *text, *speaker, *person_id, *stt_provider; /* person_id may be NULL */
    int speaker_id;
    bool is_user;
    double start, end;
};

struct store_conversation {
    char id[37];
    char *uid, *language, *source;
    enum store_status status;
    int64_t created_ms, started_ms, finished_ms; /* Unix ms; started 0: no segment yet */
    int64_t timeout_ms;
    char *structured;              /* JSON object {title, overview, ...}, or NULL */
    char *error;                   /* why processing was given up, or NULL */
    struct store_segment *segment; /* sorted by start, then by insertion */
    size_t n_segments;
};
void store_conversation_free(struct store_conversation **c);
/* The wire form: id, created_at, started_at, finished_at (RFC 3339), source, language, status, structured,
 * transcript_segments, photos, discarded, ... as clients and webhooks know it. */
void store_conversation_json(struct json_w *w, const struct store_conversation *c);

/* Opens for a session: resumes the uid's in-progress conversation (resume_id first, if given, in progress and the
 * uid's) when now - finished < its timeout; any other in-progress one of the uid becomes PROCESSING and is listed
 * in `stale` (ids, NULL-terminated) for the caller to process; else creates one. */
struct store_open_params {
    const char *uid, *resume_id, *language, *source; /* resume_id may be NULL */
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

/* Upserts segments by id, deletes `deleted`, moves started and finished (0: unchanged). cb may be NULL. */
struct store_update {
    const char *conversation_id;
    const struct store_segment *segment;
    size_t n_segments;
    const char *const *deleted;
    size_t n_deleted;
    int64_t started_ms, finished_ms;
};
int store_segments_put(struct store *s, const struct store_update *u, struct loop *loop,
                       void (*cb)(void *arg, int result), void *arg);

/* Changes the status; only from `from`: OMID_ENOTSUP when it is another, or gone. structured and error may be NULL
 * (unchanged). */
int store_status_set(struct store *s, const char *id, enum store_status from, enum store_status to,
                     const char *structured, const char *error, struct loop *loop, void (*cb)(void *arg, int result),
                     void *arg);
int store_conversation_delete(struct store *s, const char *id, struct loop *loop, void (*cb)(void *arg, int result),
                              void *arg);
/* NULL in cb: not there, or failed. Reads on the writer's connection, so it sees all that was put before. */
int store_conversation_get(struct store *s, const char *id, struct loop *loop,
                           void (*cb)(void *arg, struct store_conversation *c), void *arg); /* c: callback frees */
/* Up to max conversations that are PROCESSING, or in progress with now - finished >= timeout. */
struct store_due {
    char id[37];
    char *uid;
    enum store_status status;
};
int store_due(struct store *s, int64_t now_ms, size_t max, struct loop *loop,
              void (*cb)(void *arg, const struct store_due *due, size_t n), void *arg);

void store_status_json(struct store *s, struct json_w *w); /* counts by status, commits, for omictl */

#endif
