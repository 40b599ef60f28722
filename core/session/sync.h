/*
 * Recordings made offline: POST /v1/sync-local-files takes them, GET /v1/sync-jobs/{id} tells how far they are.
 *
 *   sync_upload.c  the routes: a body becomes files on disk and rows in the store, and only then is it accepted
 *   sync.c         one reactor's recordings: which are worked on, and when
 *   sync_job.c     one of them in work: its states, its begin
 *   sync_merge.c   its transcript on the way into conversations
 *   sync_end.c     what becomes of it
 *   sync_stt.c     the transcript of one: voice activity, speech-to-text, piece by piece
 *   sync_audio.c   its audio on the way to the role audio_store
 *   sync_files.c   its files on disk
 *   recording.c    the file itself
 *
 * A recording is worked on by the reactor of its user. Everything that was done for it can be done again: what it has
 * come to is in the store, in one transaction with the conversations that it has made.
 */
#ifndef OMID_SESSION_SYNC_H
#define OMID_SESSION_SYNC_H

#include "host/ask.h"
#include "session/recording.h"
#include "session/state.h"
#include "store/recordings.h"

#define SYNC_MAGIC UINT32_C(0x73796e63)
#define JOB_MAGIC UINT32_C(0x73796a62)
#define SYNC_WAITING_MAX 64 /* of one reactor; more of them take the place of others */

enum job_state {
    JOB_NEW,
    JOB_DECODE,     /* executor: the file becomes samples */
    JOB_READ,       /* executor: a window of them */
    JOB_SCAN,       /* where is speech in it? */
    JOB_TRANSCRIBE, /* what is said in one stretch of it? */
    JOB_HEARD,      /* the store: what was said, so that it is asked for once */
    JOB_MERGE,      /* the store */
    JOB_WAIT,       /* a conversation that it belongs to is not over */
    JOB_FIND,       /* the store: a conversation whose audio is next */
    JOB_CUT,        /* executor: a piece of that */
    JOB_KEEP,       /* the audio store takes it */
    JOB_SETTLE,     /* the store: done, skipped, failed, or another time */
    JOB_STATES
};

/* One recording in work. The reactor's, but for `pcm`, `err`, and at its begin `at` and `found`, while an executor has
 * it (`working`). */
struct job {
    uint32_t magic;
    enum job_state state;
    struct sync *sync;
    int64_t n; /* of the recording */
    char *uid, *language, *file;
    enum recording_format format;
    int64_t start_ms;
    unsigned attempts;
    unsigned store_failures; /* in a row */
    bool working;            /* an executor or the store will answer */
    bool waiting;            /* JOB_WAIT, for a conversation's end: leaves its place to others */
    bool abandoned;          /* and then nobody wants it any more */
    struct host_ask *ask;
    ev_timer timer;
    uint64_t samples, max_samples; /* of all; allowed */
    uint64_t at;                   /* the window's first */
    struct pcm pcm;                /* the window, or the piece */
    int result;
    char err[256];
    /* of the window */
    struct omid_interval *speech;
    size_t n_speech, speech_at;
    bool cut_open;             /* its last stretch may go on behind it: heard again with the next window */
    unsigned model;            /* of stt.models, that is asked */
    char asked[64];            /* and its name: the list may be another one when the answer comes */
    struct segment_list found; /* seconds of the recording */
    size_t found_kept;         /* of them the store has */
    bool advanced;             /* something was heard in this attempt */
    /* of the audio */
    char (*conversation)[37];
    size_t n_conversations, conversation_at;
    uint64_t keep_at, keep_end;       /* samples */
    struct store_recording_state end; /* JOB_SETTLE */
};

struct sync {
    uint32_t magic;
    struct sessions *ss;
    struct map *job;       /* file -> struct job */
    ev_timer check, sweep; /* sweep: of the first reactor alone */
    size_t waiting;        /* of them, for a conversation's end */
    bool asking, again;    /* the store has been asked for what is due */
    bool swept;            /* nobody looks for files that belong to nothing at the moment */
    int64_t began_ms;      /* Unix */
    char *dir;
};

/* ---- sync.c ---- */
struct sync *sync_new(struct sessions *ss);
void sync_start(struct sync *y);
void sync_kick(struct sync *y); /* there is something new */
void sync_configure(struct sync *y, const struct conf *former);
/* What is in work stops at its next step and goes on at the next start. */
void sync_drain(struct sync *y);
bool sync_idle(const struct sync *y);
void sync_free(struct sync **y);

/* ---- sync_job.c ---- */
void job_metrics_init(void);
void job_count(const char *outcome); /* of omid_sync_recordings_total */
void job_set_state(struct job *j, enum job_state to);
/* Takes up one that is due. Without memory it is found again. */
void job_begin(struct sync *y, const struct store_recording *r);
/* Out of the table, so that it can be taken up again; gone when nobody works for it. */
void job_over(struct job *j);
void job_free(struct job *j);
void job_wait_set(struct job *j, bool waiting);
/* cb on the loop; the job is its timer's data. */
void job_later(struct job *j, void (*cb)(struct ev_loop *, ev_timer *, int), double ms);
/* A write that the store has refused again, for as long as it takes: what it is about is in memory alone. */
void job_store_again(struct job *j, const char *what, void (*cb)(struct ev_loop *, ev_timer *, int));
/* A job on the storage executor: run is given j; done(j) follows on the reactor, unless it was abandoned meanwhile. */
void job_work(struct job *j, const char *label, void (*run)(void *arg), void (*done)(struct job *j));
/* What worked for it has come back. false: nobody waits for it, it is gone. */
bool job_returned(struct job *j);
/* dir/file.suffix; malloc()ed. */
char *job_path(const struct job *j, const char *suffix);
/* Reads up to n samples from `at` of the decoded file into j->pcm. Executor. false: j->err. */
bool job_read(struct job *j, uint64_t at, size_t n);

/* ---- sync_end.c ---- */
/* The present step has failed with j->result and j->err: another time, or for good. OMID_EFULL: for want of room here,
 * which is never for good. */
void job_failed(struct job *j);
/* The store does not take what was transcribed, as it is: an attempt that has failed. */
void job_not_kept(struct job *j);
void job_runs(struct job *j);       /* tells the store so */
void job_audio_kept(struct job *j); /* by sync_audio.c: all of it */

/* ---- sync_merge.c ---- */
void job_transcribed(struct job *j); /* by sync_stt.c: all of it */

/* ---- sync_files.c ---- */
/* The files of a recording; the upload itself stays while there is something left to do. */
void job_files_remove(struct job *j, bool upload);
/* Removes a file of dir, whatever is made of an upload's too, unless its recording is to be worked on. Executor. */
void sync_file_drop(struct store *store, const char *dir, const char *file);
/* Nothing is removed by that meanwhile. Executor. */
void sync_files_lock(bool lock);

/* ---- sync_stt.c ---- */
void job_window(struct job *j); /* begins, or goes on with, the transcript */
void job_stt_free(struct job *j);
/* What attempts before this one have heard. Executor. false: j->err. */
bool job_heard_load(struct job *j);

/* ---- sync_audio.c ---- */
void job_keep(struct job *j); /* the audio of j->conversation */

/* ---- sync_upload.c ---- */
bool sync_routes_add(struct routes *routes, struct sessions **all);

#endif
