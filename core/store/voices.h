/*
 * Voices in the store: what is known of how people sound, the people themselves, and samples of voices that wait to be
 * taken. Threads and results as in store.h; the functions that block and read are for executors.
 */
#ifndef OMID_STORE_VOICES_H
#define OMID_STORE_VOICES_H

#include "store/store.h"

#define STORE_OWNER "user"      /* the person_id of the account's owner */
#define STORE_MAX_VOICES 10     /* samples of one person: the newest */
#define STORE_MAX_VECTOR 65536  /* values */
#define STORE_MAX_PERSON_ID 128 /* bytes */
#define STORE_MAX_PERSON_NAME 256

typedef void (*store_result_cb)(void *arg, int result);

/* ---- voices ---- */
enum store_voice_kind { STORE_VOICE_SAMPLE, STORE_VOICE_PROFILE };

struct store_voice {
    char *person_id, *name; /* name "": the owner */
    float *vector;
    size_t dim;
};
/* The newest first. */
struct store_voices {
    struct store_voice *voice;
    size_t n;
    size_t bytes;    /* about what it holds */
    size_t left_out; /* that did not fit */
};
/* Blocks. All of the uid's, as many as fit into max_bytes. */
int store_voices_read(struct store *s, const char *uid, size_t max_bytes, struct store_voices *out, char *err,
                      size_t errlen);
void store_voices_free(struct store_voices *v);

/* One more of the person's; a profile takes the place of the former one. OMID_ENOTSUP: there is no such person. */
struct store_voice_new {
    const char *uid, *person_id;
    enum store_voice_kind kind;
    const float *vector;
    size_t dim; /* 1..STORE_MAX_VECTOR */
    double seconds;
    int64_t now_ms;
};
int store_voice_put(struct store *s, const struct store_voice_new *v, struct loop *loop, store_result_cb cb, void *arg);

struct store_profile {
    int64_t created_ms; /* 0: none was uploaded */
    double seconds;
    unsigned samples; /* that were taken from conversations */
};
/* profile: valid until cb returns. */
int store_profile_get(struct store *s, const char *uid, struct loop *loop,
                      void (*cb)(void *arg, int result, const struct store_profile *profile), void *arg);
/* All that is known of the owner's voice. OMID_ENOTSUP: nothing is. */
int store_profile_delete(struct store *s, const char *uid, struct loop *loop, store_result_cb cb, void *arg);

/* ---- people ---- */
/* Blocks. Appends an array of {"id","name","created_at","voices"}. */
int store_people_json(struct store *s, const char *uid, struct buf *out, char *err, size_t errlen);
/* OMID_ENOTSUP: the uid has too many. */
int store_person_add(struct store *s, const char *uid, const char *id, const char *name, int64_t now_ms,
                     struct loop *loop, store_result_cb cb, void *arg);
/* OMID_ENOTSUP: there is no such person. */
int store_person_rename(struct store *s, const char *uid, const char *id, const char *name, struct loop *loop,
                        store_result_cb cb, void *arg);
/* With all voices and samples; conversations no longer know which speaker it was, segments keep the id. OMID_ENOTSUP.
 */
int store_person_delete(struct store *s, const char *uid, const char *id, struct loop *loop, store_result_cb cb,
                        void *arg);

/* ---- samples that wait ---- */
struct store_sample {
    char id[37], conversation_id[37];
    char *uid, *person_id; /* STORE_OWNER: the owner */
    unsigned attempts;     /* that have failed */
    int64_t created_ms;
    bool superseded;    /* this speaker was named otherwise since */
    bool heard;         /* there is a segment: the longest of the sample's, or else of the speaker's */
    double start, end;  /* its seconds of the conversation */
    char session[65];   /* whose audio it was heard in; "": not known */
    int64_t started_ms; /* the conversation's zero, Unix ms */
};
struct store_samples_query {
    int64_t created_ms;    /* the youngest that counts */
    int64_t due_ms;        /* whose next attempt is due by then */
    unsigned max_attempts; /* that have failed at most so often */
    size_t max;
};
/* waiting: how many there are in all, due or not. n 0: none, or failed. */
int store_samples_due(struct store *s, const struct store_samples_query *q, struct loop *loop,
                      void (*cb)(void *arg, const struct store_sample *sample, size_t n, int64_t waiting), void *arg);
/* The voice is kept and the sample done, or neither. OMID_ENOTSUP: it waits no more, or its person is gone. */
int store_sample_taken(struct store *s, const char *id, const float *vector, size_t dim, double seconds, int64_t now_ms,
                       struct loop *loop, store_result_cb cb, void *arg);
/* One more attempt has failed. next_ms: when the next is due; 0: it is given up, and kept with the reason. */
int store_sample_failed(struct store *s, const char *id, int64_t next_ms, const char *error, struct loop *loop,
                        store_result_cb cb, void *arg);

#endif
