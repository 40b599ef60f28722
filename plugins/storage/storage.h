/*
 * storage: recordings of conversations. See omid-storage(5).
 *
 *     AUDIO events ─ live.c ─► spool file ─ enqueue.c ─► durable job ─ store.c ─► directory or bucket, index
 *                                       recover.c ─► (of what the queue refused, or a former process left)
 *     role write ─── write.c ─►
 *     route, role read ── recording.c (what is there) ─ reader.c (its samples) ─ serve.c (HTTP)
 *
 * Threads: an instance and all that hangs on it belong to its reactor. Files are touched on executor threads alone, in
 * functions whose comment says "executor". struct shared is read-only but for its atomics; works hold a reference.
 */
#ifndef STORAGE_H
#define STORAGE_H

#include <dirent.h>
#include <omid/plugin.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#define UID_NAME_MAX 256   /* bytes of a uid as a name */
#define CONV_MAX 64        /* characters of a conversation's id, or of a session's */
#define NAME_SIZE 192      /* of a spool file's name */
#define PATH_SIZE 4608     /* of a path */
#define KEY_SIZE 1024      /* of an object's key */
#define RATE 16000         /* of what is read */
#define HEADER_MAX 512     /* first line of a spool file */
#define MAX_PARALLEL 8     /* batches that play at the same moment: sessions of one conversation */
#define READ_MAX_MS 600000 /* of one question to the role */

enum count {
    COUNT_SPOOLED, /* batches */
    COUNT_STORED,
    COUNT_REPEATED, /* was stored before */
    COUNT_DELETED,  /* of conversations that are deleted */
    COUNT_EXPIRED,
    COUNT_RECOVERED,      /* found in the spool at start */
    COUNT_BAD,            /* spool files that make no sense */
    COUNT_DROPPED_MEMORY, /* bytes */
    COUNT_DROPPED_STOP,
    COUNT_DROPPED_NOWHERE, /* before there was a conversation, and none came */
    COUNT_WRITE_FAILED,    /* of spool files */
    COUNT_STORE_STATUS,    /* attempts that failed, by why */
    COUNT_STORE_NETWORK,
    COUNT_STORE_DISK,
    COUNT_STORE_LANE,
    COUNT_SPOOL_ADDED, /* bytes */
    COUNT_SPOOL_REMOVED,
    COUNT_READ_OK, /* pieces of recordings */
    COUNT_READ_FAILED,
    COUNTS
};

enum format { FORMAT_WAV, FORMAT_OGG };

struct shared {
    atomic_uint refs;
    const struct omid_host *host;
    struct omid_module *mod;
    char *root, *directory;
    char *bucket; /* NULL: the directory */
    char *endpoint, *prefix, *key_id, *secret, *token;
    char *sigv4; /* "aws:amz:REGION:s3" */
    bool host_style;
    enum format format;
    int bitrate;
    uint32_t batch_ms, append_ms, retry_ms, keep_check_ms;
    int64_t keep_ms; /* 0: for good */
    int64_t memory_session, memory_max, spool_max;
    unsigned uploads, reads;
    struct omid_counter *count[COUNTS];
    _Atomic int64_t memory, spool;
    atomic_bool left; /* a whole file is in the spool whose job the queue did not take: recover.c */
};

struct track;
struct enqueue;
struct upload;
struct sweep;
struct removal;
struct serve;
struct reading;
struct recovery;

/* Who is refused asks again ever more seldom. */
struct backoff {
    uint64_t until_ms; /* monotonic */
    uint32_t pause_ms;
};

#define TRACKS 1024 /* places of the table */
struct instance {
    struct omid_instance *inst;
    const struct omid_host *host;
    struct omid_module *mod;
    struct shared *sh;
    struct track *track[TRACKS];
    size_t n_tracks;
    struct omid_timer *tick;
    struct enqueue *enqueues;
    size_t n_enqueues;
    struct backoff backoff;           /* of what the queue refused */
    struct upload *waiting, *running; /* jobs, in their order */
    struct removal *removals;
    struct serve *serves;
    struct reading *readings;
    struct recovery *recovery; /* of the first reactor alone */
    unsigned n_waiting, n_running;
    unsigned n_reads, n_works;
    struct sweep *sweep; /* of the first reactor alone */
    bool draining, stopping;
};

/* A piece of audio as it is kept. */
struct piece {
    int64_t start_ms;
    uint32_t rate, crc;
    uint64_t samples;
    uint64_t bytes;             /* of the file */
    char where;                 /* 'd' directory, 'b' bucket, 's' spool */
    char session[CONV_MAX + 1]; /* whose audio it is; "": of none, as recordings made elsewhere, or not known */
    char *name;                 /* path, key, or path */
    uint64_t at;                /* its place in a recording, in samples at RATE; recording_load() */
};

/* ---- config.c ---- */
extern const struct omid_option storage_options[];
int storage_configure(struct omid_module *mod, const struct omid_host *host, void **shared);
void storage_unconfigure(void *shared);
struct shared *shared_ref(struct shared *sh);
void shared_unref(struct shared *sh);
static inline void count_add(struct shared *sh, enum count c, uint64_t n)
{
    if (n > 0)
        sh->host->counter_add(sh->count[c], n);
}

/* ---- names.c: any thread ---- */
bool conv_ok(const char *id); /* also of a session */
/* false: there is none, or it is not usable. */
bool uid_name(char out[UID_NAME_MAX], const char *uid);
uint32_t crc32_add(uint32_t crc, const void *data, size_t len);
void sha256_hex(char out[65], const void *data, size_t len);

/* ---- files.c: executor ---- */
/* open() that makes the directories above it when they are missing. */
int open_made(const char *path, int flags);
bool write_whole(int fd, const void *data, size_t len);
bool sync_above(const char *path); /* the directory that a file lies in */
/* All of a file, or `len` bytes from `from`; malloc()ed. NULL: errno. */
void *read_file(const char *path, uint64_t from, size_t len_max, size_t *len);
/* Written beside it, synced, and put in its place. */
bool replace_file(const char *path, const void *data, size_t len);

/* ---- spool.c ---- */
struct spooled { /* what the first line says */
    int64_t start_ms;
    uint32_t rate;
    char uid[UID_NAME_MAX], conv[CONV_MAX + 1], session[CONV_MAX + 1];
    size_t header; /* its length */
};
/* session: "" of none. */
int spool_header(char out[HEADER_MAX], int64_t start_ms, uint32_t rate, const char *uid, const char *conv,
                 const char *session);
bool spool_parse(struct spooled *s, const char *data, size_t len);
void spool_path(const struct shared *sh, char out[PATH_SIZE], const char *name);
/* Executor. Makes whole files of what a former process left, and counts what there is. */
void spool_recover(struct shared *sh);
/* Executor. The next `most` whole files of a walk, or less: at its end *dir is NULL again, as it begins. false: errno.
 */
bool spool_walk(const struct shared *sh, DIR **dir, char (*name)[NAME_SIZE], size_t most, size_t *n);
/* Executor. Removes, and gives its bytes back. */
bool spool_remove(struct shared *sh, const char *name);

/* ---- live.c ---- */
int live_audio(struct instance *in, const struct omid_event *ev);
void live_conversation_start(struct instance *in, const char *session, const char *conv);
void live_session_end(struct instance *in, const char *session);
void live_conversation_end(struct instance *in, const char *conv);
void live_tick(struct instance *in);
void live_drain(struct instance *in);
void live_stop(struct instance *in);

/* ---- recover.c ---- */
bool recover_start(struct instance *in); /* false: no memory */
void recover_tick(struct instance *in);
void recover_stop(struct instance *in);

/* ---- enqueue.c: named jobs on their way to the queue ---- */
typedef void (*enqueued_cb)(void *arg, bool on_disk);
#define JOB_STORE "store"   /* payload: the spool file's name */
#define JOB_DELETE "delete" /* payload: "uid\nconv\nbefore_ms" */
/* false: refused in the same round, which has its pause. */
bool backoff_refused(struct backoff *b, uint64_t now_ms);
/* The job of a whole spool file. Refused, it is offered again by the walk. */
void enqueue_store(struct instance *in, const char *name);
/* The same for who sees to it: cb once, unless it is false. */
bool enqueue_offer(struct instance *in, const char *name, enqueued_cb cb, void *arg);
/* All of a conversation. One that waits for the queue already is not doubled. */
bool enqueue_delete(struct instance *in, const char *uid, const char *conv, int64_t before_ms);
/* What of it ends before before_ms, the oldest of it beginning at first_ms: one job until that is gone. */
bool enqueue_expire(struct instance *in, const char *uid, const char *conv, int64_t first_ms, int64_t before_ms);
void enqueue_tick(struct instance *in);
void enqueue_stop(struct instance *in);

/* ---- work.c ---- */
/* run on an executor's thread, done on the reactor with arg, in any case. false: refused, done does not come. */
bool work_start(struct instance *in, const char *label, void (*run)(struct shared *sh, void *arg),
                void (*done)(struct instance *in, void *arg, bool ran), void *arg);

/* ---- encode.c, ogg.c: executor ---- */
/* The file; malloc()ed. NULL: no memory, or the codec failed. */
unsigned char *encode_wav(const int16_t *pcm, size_t samples, uint32_t rate, size_t *len);
unsigned char *encode_ogg(const int16_t *pcm, size_t samples, uint32_t rate, int bitrate, uint32_t serial, size_t *len);
/* To RATE, mono; malloc()ed. */
int16_t *decode_wav(const unsigned char *data, size_t len, size_t *samples);
int16_t *decode_ogg(const unsigned char *data, size_t len, size_t *samples);
int16_t *resample(const int16_t *pcm, size_t n, uint32_t from, uint32_t to, size_t *n_out);

/* ---- index.c: executor ---- */
void index_path(const struct shared *sh, char out[PATH_SIZE], const char *uid, const char *conv);
/* What is stored, by time. false: errno. n 0: nothing. */
bool index_load(const struct shared *sh, const char *uid, const char *conv, struct piece **pieces, size_t *n);
bool index_add(const struct shared *sh, const char *uid, const char *conv, const struct piece *p);
/* Without those that are gone, and with what has come since they were looked up; none left: no file. */
bool index_cut(const struct shared *sh, const char *uid, const char *conv, const struct piece *gone, size_t n_gone);
void pieces_free(struct piece *pieces, size_t n);
static inline int64_t piece_end_ms(const struct piece *p)
{
    return p->start_ms + (int64_t)(p->samples * 1000 / p->rate);
}
/* Executor: a conversation that was deleted keeps nothing that comes late. */
bool tombstone_make(const struct shared *sh, const char *uid, const char *conv);
bool tombstone_there(const struct shared *sh, const char *uid, const char *conv);
void tombstones_sweep(const struct shared *sh, int64_t now_ms);

/* ---- bucket.c: requests, on the reactor ---- */
struct omid_http;
int bucket_put(struct instance *in, const char *key, const char *type, const void *body, size_t len, const char *sha256,
               omid_http_cb cb, void *arg, struct omid_http **out);
int bucket_delete(struct instance *in, const char *key, omid_http_cb cb, void *arg, struct omid_http **out);
/* Bytes first..last, with 206; or all of it, max_body at most, with 200 from a store that knows no ranges. */
int bucket_get(struct instance *in, const char *key, uint64_t first, uint64_t last, size_t max_body, omid_http_cb cb,
               void *arg, struct omid_http **out);
/* Whether a DELETE has come to that, by this request or before. */
bool bucket_deleted(const struct omid_http_response *res);
/* "NoSuchBucket" of an XML answer, for people. */
void bucket_error(char *out, size_t size, const struct omid_http_response *res);

/* ---- store.c, remove.c: jobs ---- */
int store_job(struct instance *in, const struct omid_job_view *job, struct omid_job_run *run);
void store_tick(struct instance *in);
void store_stop(struct instance *in);
int remove_job(struct instance *in, const struct omid_job_view *job, struct omid_job_run *run);
void remove_stop(struct instance *in);
/* How long a job that can't be done now waits: half its age, within bounds. */
uint32_t job_wait_s(struct instance *in, int64_t created_ms, uint32_t at_least_s);

/* ---- recording.c ---- */
struct recording {
    char uid[UID_NAME_MAX], conv[CONV_MAX + 1]; /* the caller's to set */
    char session[CONV_MAX + 1];                 /* so: its audio alone; "": all of it */
    size_t n;
    bool all_ogg; /* stored as such, all of it */
    uint64_t bytes;
    struct piece *piece;
    int64_t start_ms;
    uint64_t samples; /* at RATE, gaps included */
    char etag[40];
};
/* Executor. n 0: there is nothing. false: errno. */
bool recording_load(const struct shared *sh, struct recording *rec);
void recording_free(struct recording *rec);

/* ---- reader.c ---- */
struct reader;
/* Samples from..to at RATE of a recording, which stays the caller's until reader_free(). ready(arg) when it is worth to
 * ask again, never within a call. */
struct reader *reader_new(struct instance *in, const struct recording *rec, uint64_t from, uint64_t to,
                          void (*ready)(void *arg), void *arg);
/* OMID_OK: the next ones, valid until the next call; *n 0: the end. OMID_EFULL: ready() will follow. OMID_ERR: why. */
int reader_next(struct reader *r, const int16_t **pcm, size_t *n);
const char *reader_error(const struct reader *r);
void reader_free(struct reader **r); /* no callback any more. NULL is fine */

/* ---- load.c ---- */
/* Brings what is kept of one piece into memory. The callback comes once, not within load_start(), unless cancelled;
 * what it is given is its own, and malloc()ed. NULL: no memory, and no callback. */
struct load;
struct loaded {
    int rc; /* OMID_OK; OMID_ENOTSUP: it is gone, or damaged: silence; OMID_ERR: not now */
    char error[160];
    int16_t *pcm; /* decoded, at RATE */
    size_t samples;
    unsigned char *raw; /* or the file's own bytes */
    size_t len;
};
typedef void (*load_cb)(void *arg, struct loaded *result);
struct load *load_pcm(struct instance *in, const struct recording *rec, const struct piece *p, load_cb cb, void *arg);
struct load *load_raw(struct instance *in, const struct recording *rec, const struct piece *p, uint64_t from,
                      size_t len, load_cb cb, void *arg);
void load_cancel(struct load **l);

/* ---- role.c ---- */
extern const struct omid_audio_store_role storage_role;
void role_stop(struct instance *in);

/* ---- serve.c ---- */
int serve_get(void *state, struct omid_exchange *ex, const struct omid_request *req);
void serve_stop(struct instance *in);

/* ---- keep.c ---- */
bool keep_start(struct instance *in); /* false: no memory */
void keep_tick(struct instance *in);  /* goes on when there was no memory for a timer */
void keep_stop(struct instance *in);

/* ---- plugin.c ---- */
void instance_check_drained(struct instance *in);
#endif
