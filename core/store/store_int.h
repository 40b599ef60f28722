/*
 * The inside of the store, one file per topic: store.c (opening, thread, posting), conversations.c, segments.c,
 * content.c, voices.c, people.c, samples.c, processing.c, heard.c, reader.c, json.c, schema.c. A topic adds its
 * statements, its run functions and its doors.
 *
 * All run functions work on the writer's thread, on the one connection; see base/dbwriter.h.
 */
#ifndef OMID_STORE_INT_H
#define OMID_STORE_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/dbwriter.h"
#include "base/loop.h"
#include "store/store.h"

#define STORE_MAGIC UINT32_C(0x73746f72)
#define STORE_MAX_STRING ((size_t)1 << 20) /* bytes of any one text */
#define STORE_MAX_PHOTO ((size_t)16 << 20)
#define STORE_MAX_DUE 1000
#define STORE_STATUSES 5
#define STORE_MAX_READERS 8     /* connections that wait to be used again */
#define STORE_MAX_PEOPLE 1000   /* of one uid; who comes beyond is not kept */
#define STORE_MAX_MESSAGES 1000 /* of apps, of one conversation */

struct store {
    uint32_t magic;
    char *path;
    struct db *db;
    struct db_writer *writer;
    bool stopped, collecting;
    atomic_int_fast64_t count[STORE_STATUSES]; /* conversations by status; any thread reads */
    int64_t due_after; /* row of the conversation under way that store_due() told last; writer's thread */

    struct { /* of plugins' values; writer's thread, the bounds aside */
        uint64_t max, max_bytes;
        int64_t next_ms; /* Unix ms: the first one ends; INT64_MAX: none does */
        uint64_t rest_until;
        bool purging;
        int64_t purged;
        struct db_op op;
    } values;

    pthread_mutex_t readers; /* guards the rest */
    struct db *idle[STORE_MAX_READERS];
    size_t n_idle;
};

struct db_config store_db_config(const char *path); /* path is kept */

/* schema.c */
extern const char *const store_migrations[];
extern const size_t store_n_migrations;
enum store_stmt {
    SS_CONV_INSERT,
    SS_CONV_BY_ID,
    SS_CONV_IN_PROGRESS,
    SS_CONV_RESUME,
    SS_CONV_TIMES,
    SS_CONV_STATUS,
    SS_CONV_STATUS_OF,
    SS_CONV_DELETE,
    SS_DELETED,
    SS_DELETED_FORGET,
    SS_CONV_ROW,
    SS_FIND_COMPLETED,
    SS_FIND_OPEN,
    SS_LIST_FROM,
    SS_LIST,
    SS_DUE_TIMEOUT,
    SS_DUE_PROCESSING,
    SS_SEG_SHIFT,
    SS_CONV_MADE,
    SS_CONV_REVISED,
    SS_CONV_AROUND,
    SS_UPLOAD_PUT,
    SS_UPLOAD_FILE_PUT,
    SS_UPLOAD_FIND,
    SS_UPLOAD_FILES,
    SS_UPLOADS_FORGET,
    SS_RECORDING_FIND,
    SS_RECORDING_PUT,
    SS_RECORDING_AGAIN,
    SS_RECORDING_COUNT,
    SS_RECORDINGS_DUE,
    SS_RECORDINGS_FORGET,
    SS_RECORDING_SET,
    SS_RECORDING_OPEN,
    SS_RECORDING_DONE,
    SS_RECORDING_WANTS,
    SS_HEARD_UNTIL,
    SS_HEARD_SET,
    SS_HEARD_PUT,
    SS_HEARD_OF,
    SS_SEG_PUT,
    SS_SEG_DELETE,
    SS_SEG_OF,
    SS_PHOTO_PUT,
    SS_PHOTO_OF,
    SS_MESSAGE_PUT,
    SS_MESSAGE_OF,
    SS_SPEAKER_PUT,
    SS_SPEAKER_OF,
    SS_PERSON_NAME,
    SS_PERSON_PUT,
    SS_SAMPLE_PUT,
    SS_ENDPOINT_ALL,
    SS_ENDPOINT_BY_ID,
    SS_ENDPOINT_ADD,
    SS_ENDPOINT_SET,
    SS_ENDPOINT_DELETE,
    SS_ENDPOINT_ENABLE,
    SS_ENDPOINT_DISABLE,
    SS_DISABLED_PUT,
    SS_DISABLED,
    SS_DISABLED_FORGET,
    SS_ENDPOINT_RUN,
    SS_ENDPOINT_USERS,
    SS_ENDPOINT_USER_ADD,
    SS_ENDPOINT_USER_DELETE,
    SS_ENDPOINT_OF_UID,
    SS_ENDPOINT_SECRETS,
    SS_ENDPOINT_SECRET_ADD,
    SS_ENDPOINT_SECRET_END,
    SS_ENDPOINT_SECRET_DELETE,
    SS_VALUE_PUT,
    SS_VALUE_GET,
    SS_VALUE_REMOVE,
    SS_VALUE_ROOM,
    SS_VALUE_PURGE,
    SS_VALUE_FIRST,
    SS_PLACE_PUT,
    SS_PLACE_OF,
    SS_GEOLOCATION_SET,
    SS_DAY_PLANS_DUE,
    SS_DAY_PLAN_OF,
    SS_DAY_PLAN_SET,
    SS_DAY_PLAN_REPLACE,
    SS_DAY_PLAN_NEXT,
    SS_DAY_PLAN_TOUCH,
    SS_DAY_PLANS_RESET,
    SS_DAY_BEGIN,
    SS_DAY_OF,
    SS_DAY_KEEP,
    SS_DAY_SENT,
    SS_DAY_DROP,
    SS_DAY_TELL,
    SS_DAY_UNTELL,
    SS_DAYS_OPEN,
    SS_DAY_PRUNE,
    SS_DAY_CONVERSATIONS,
    SS_DAY_UNTOLD,
    SS_PROCESS_OF,
    SS_PROCESS_FAILED,
    SS_PROCESS_SUMMARY,
    SS_VOICE_PUT,
    SS_VOICE_TRIM,
    SS_VOICE_DELETE,
    SS_VOICE_OF,
    SS_PROFILE_OF,
    SS_PEOPLE_OF,
    SS_PERSON_RENAME,
    SS_PERSON_DELETE,
    SS_PERSON_SPEAKERS,
    SS_SAMPLES_DROP,
    SS_SAMPLES_WAITING,
    SS_SAMPLES_DUE,
    SS_SAMPLE_SEGMENT,
    SS_SAMPLE_SPEAKER,
    SS_SAMPLE_TAKEN,
    SS_SAMPLE_FAILED,
    SS_STATEMENTS
};
extern const char *const store_statements[SS_STATEMENTS];

/*
 * One call: what it was given (copied), what comes out of it, who is told. A topic embeds it first in a struct of its
 * own. run() may come twice (see dbwriter.h) and must begin by dropping what it had read before.
 */
struct store_call {
    struct db_op op;
    struct loop_msg msg;
    struct loop *loop; /* NULL: nobody is told */
    void *arg;
    int result;
    int delta[STORE_STATUSES]; /* what run() changes in store.count, once it is committed */
    int (*run)(struct store *s, struct store_call *c);
    void (*committed)(struct store *s, struct store_call *c); /* writer's thread, result OMID_OK; NULL: not wanted */
    void (*answer)(struct store_call *c); /* on the loop; calls the callback. Not called without a loop */
    void (*drop)(struct store_call *c);   /* frees what it holds and itself */
};
/* Posts or drops it. */
int store_call_post(struct store *s, struct store_call *c, struct loop *loop, void *arg, size_t bytes);

/* conversations.c: reads the row and all that belongs to it, photos' data aside (unless `data`); *out NULL when there
 * is none. OMID_OK or OMID_ERR. db: the writer's or a reader's. */
int store_conversation_read(struct db *db, const char *id, bool data, struct store_conversation **out, int64_t *row);
/* Changes the status as a step of a transaction: 1 changed, 0 not there or not in `from`, -1 failed. */
int64_t store_status_change(struct store *s, struct store_call *call, const char *id, enum store_status from,
                            enum store_status to, const char *structured, const char *error);
/* segments.c */
bool store_segment_put(struct store *s, int64_t row, const struct store_segment *g);
int store_segments_read(struct db *db, int64_t row, struct store_conversation *c);
/* content.c: photos, messages of apps, named speakers */
int store_content_read(struct db *db, int64_t row, bool data, struct store_conversation *c);
void store_content_free(struct store_conversation *c);
/* false: db_error(). Within a transaction of the writer's. */
bool store_photo_put(struct db *db, int64_t row, const struct store_photo *p);
bool store_speaker_put(struct db *db, int64_t row, const char *uid, const struct store_naming *n);
/* values.c; of struct db_writer_config */
void store_values_load(struct store *s);
int64_t store_values_next(void *ctx);
struct db_op *store_values_prepare(void *ctx);
/* reader.c: a connection that can't write, for the calling thread. NULL: err. */
struct db *store_reader_take(struct store *s, char *err, size_t errlen);
void store_reader_give(struct store *s, struct db *db, bool failed);
/* Gives it back after a failure, with the reason in err; OMID_ERR. */
int store_read_failed(struct store *s, struct db *db, char *err, size_t errlen);
void store_readers_close(struct store *s);

bool store_text_ok(const char *s); /* NULL or not too long */

#endif
