/*
 * sphinx: local speech-to-text with pocketsphinx.
 *
 * Threads. Streams belong to their reactor (stream.c). A slice of audio is decoded by a job on an executor
 * (decode.c); while a job runs, the stream's struct decoding is the job's, and the reactor touches only what is
 * marked as its own. What all instances share, idle decoders and the turns to decode, is in pool.c behind a mutex
 * that is held for a few instructions only.
 */
#ifndef SPHINX_H
#define SPHINX_H

#include <omid/plugin.h>
#include <pthread.h>
#include <stdatomic.h>

#define SPHINX_RATE 16000u /* of the model, Hz */
#define SPHINX_FRAME 160u  /* samples of one frame; 100 frames a second */
#define SLICE_MS 1000u     /* audio decoded by one job; then others have their turn */
#define SLICE_MIN_MS 100u  /* less waits for more, unless results are wanted now */

/* A fault of the plugin itself: stop here, not three calls later. */
_Noreturn void sphinx_assert_failed(const char *expr, const char *file, int line);
#define sphinx_assert(expr) ((expr) ? (void)0 : sphinx_assert_failed(#expr, __FILE__, __LINE__))

struct sphinx_conf {
    char *acoustic, *lm, *dictionary; /* paths */
    int ds, topn, maxhmmpf;
    bool bestpath, fwdflat, preload;
    unsigned threads, max_sessions;
    uint32_t silence_ms, max_utterance_ms, buffer_ms;
};

struct sphinx_counters {
    struct omid_counter *opened, *refused, *utterances, *no_words, *audio_refused, *failed, *loaded;
};

/* --- pool.c: what the instances share. Any thread. --- */

struct decoder; /* one loaded model, used by one thread at a time */

/* The right to run one job. Owned by a stream; `granted` is read by its reactor. */
enum turn_state { TURN_NONE, TURN_WAITING, TURN_GRANTED };
struct turn {
    struct turn *next;
    _Atomic enum turn_state state;
};

struct sphinx_shared {
    uint32_t magic;
    struct omid_module *mod;
    const struct omid_host *host;
    struct sphinx_conf conf;
    struct sphinx_counters count;
    atomic_uint sessions; /* streams that exist, at most conf.max_sessions */
    atomic_uint refs;     /* the module's, and one per instance */
    atomic_bool preloaded;

    pthread_mutex_t lock;
    unsigned running; /* turns granted, at most conf.threads */
    struct turn *first, *last;
    struct decoder **idle; /* conf.max_sessions places */
    unsigned n_idle;
};
#define SPHINX_SHARED_MAGIC UINT32_C(0x53504853)

/* Takes conf's strings, also on failure. NULL: no memory. */
struct sphinx_shared *shared_new(struct omid_module *mod, const struct omid_host *host, struct sphinx_conf *conf);
void shared_ref(struct sphinx_shared *sh);
/* The last one frees the idle decoders too. */
void shared_unref(struct sphinx_shared **sh);

/* false: max_sessions streams exist. */
bool shared_session_take(struct sphinx_shared *sh);
void shared_session_give(struct sphinx_shared *sh);

/* Turns are granted in the order of asking, over all instances. True: granted at once; else ask turn_granted(). */
bool turn_ask(struct sphinx_shared *sh, struct turn *t);
bool turn_granted(const struct turn *t);
/* Gives a granted turn back, or leaves the queue. */
void turn_end(struct sphinx_shared *sh, struct turn *t);

/* An idle decoder, or NULL. */
struct decoder *pool_take(struct sphinx_shared *sh);
/* Keeps it for the next stream. */
void pool_give(struct sphinx_shared *sh, struct decoder **d);

/* --- decode.c: executor threads, except where said --- */

/* Loads a model: 0.5 s and 94 MB. NULL with a reason in err. */
struct decoder *decoder_load(struct sphinx_shared *sh, char *err, size_t errlen);
/* Any thread, but not two at once. */
void decoder_free(struct decoder **d);
/* The library must not write to stderr, nor call back into a plugin that is being unloaded. Any thread. */
void decoder_quiet(void);

/* What one job found. Lists of the job's stream; emptied by the reactor. */
struct found {
    struct found *next;
    double start, end; /* seconds of the stream */
    char text[];
};

/* One stream's decoding. The job's while it runs, the reactor's otherwise. */
struct decoding {
    struct sphinx_shared *sh;
    struct decoder *decoder; /* NULL until the first job has run */
    void *resampler;         /* SpeexResamplerState; NULL at 16 kHz */
    uint32_t rate;           /* of the stream, Hz */
    uint64_t fed;            /* 16 kHz samples given to the decoder since the stream's begin */
    uint64_t base;           /* `fed` when the decoder's own clock was set to 0 */
    uint64_t utt_began;      /* `fed` when speech was first seen in this utterance */
    bool in_speech;
    double transcribed; /* everything before this second is final */
    double last_end;    /* end of the last segment: times never run backwards */

    /* the job's order */
    int16_t *slice; /* room for SLICE_MS at `rate` */
    size_t slice_len;
    bool end_utterance; /* after the slice */
    bool flush;         /* the last slice: what the resampler holds back, too */

    /* its result */
    char error[200];
    struct found *found, **found_tail;
    unsigned utterances, no_words; /* since the reactor last looked: a job counts nothing itself */
    bool loaded;
};

/* Frees what was found. The reactor's, and with it a decoding becomes empty at first. */
void decoding_forget(struct decoding *dec);
/* Takes an idle decoder or loads one, and readies it for this stream. false: dec->error says why. */
bool decoding_begin(struct decoding *dec);
/* Decodes the slice. false: dec->error says why; the decoder is then of no use. */
bool decoding_slice(struct decoding *dec);

/* --- stream.c: reactor --- */

struct sphinx_instance {
    uint32_t magic;
    struct omid_instance *inst;
    const struct omid_host *host;
    struct omid_module *mod;
    struct sphinx_shared *shared;
    struct stream *first; /* all streams */
    struct recording *recordings;
    struct omid_timer *poll;   /* runs while streams wait for a turn */
    struct omid_timer *second; /* runs while there are streams: utterances nobody ends */
    unsigned refs;             /* start()'s, one per stream, one for a preload */
    unsigned tick;             /* number of the walk over the streams that goes on */
    bool draining, drained, stopped;
};
#define SPHINX_INSTANCE_MAGIC UINT32_C(0x53504849)

extern const struct omid_stt_role sphinx_role;

/* --- recording.c: reactor --- */
int recording_transcribe(void *state, const struct omid_stt_params *params, const struct omid_audio *audio,
                         struct omid_ask *ask);
void recordings_stop(struct sphinx_instance *si); /* those that no job has; the host answers for them */

/* --- stream.c --- */
void instance_unref(struct sphinx_instance *si);
/* Tells the host, once, when no stream and no preload is left. */
void instance_check_drained(struct sphinx_instance *si);

#endif
