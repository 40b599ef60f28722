/*
 * Live speech-to-text with Deepgram: the parts of the plugin.
 *
 *   plugin.c   options, counters, the descriptor
 *   stream.c   one stream: a WebSocket of the plugin's lane, from connect to the last result
 *   recording.c  a recording as a whole: one HTTP request
 *   query.c    models, languages, the URL that is asked for (no state, no host)
 *   results.c  what Deepgram sends (no state, no host)
 *
 * Where audio is sent at all (the gate), and what follows a lost stream (reconnect, replay, the next provider), is
 * the session's business.
 */
#ifndef OMID_PLUGINS_DEEPGRAM_DEEPGRAM_H
#define OMID_PLUGINS_DEEPGRAM_DEEPGRAM_H

#include <assert.h>
#include <omid/plugin.h>

/* ---- query.c ---- */

#define DG_MAX_KEYTERMS 100
#define DG_MAX_KEYTERM 100 /* bytes */

enum dg_model { DG_NOVA_3, DG_NOVA_2, DG_MODELS };

/* false: not one of Deepgram's names ("dg-nova-3", "dg-nova-2"). */
bool dg_model_find(const char *name, enum dg_model *model);

struct dg_languages {
    bool single;              /* ask for the language itself where `multi` would serve */
    const char *const *extra; /* codes that the server knows beyond the table; n of them */
    size_t n;
};
/* The `language=` for this language (case does not matter), or NULL when the model does not serve it. Points into the
 * table or into `extra`. */
const char *dg_language_map(enum dg_model model, const char *language, const struct dg_languages *langs);

/* The base URL as configured -> where streams go: "https://host/x/" -> "wss://host/x/v1/listen". NULL with a reason in
 * err; else malloc'ed. */
char *dg_endpoint(const char *base, char *err, size_t errlen);

struct dg_query {
    enum dg_model model;
    const char *language; /* of dg_language_map() */
    bool english;         /* the client's language is English: filler words are left out */
    uint32_t sample_rate;
    const char *const *keyterms; /* n of them */
    size_t n;
};
/* endpoint + '?' + the query; malloc'ed, NULL: no memory. */
char *dg_query_url(const char *endpoint, const struct dg_query *q);
bool dg_language_is_english(const char *language);
/* The base URL -> where recordings go: "wss://host/x/v1/listen" becomes "https://host/x/v1/listen?..."; endpoint is
 * dg_endpoint()'s. sample_rate, keyterms of q are not looked at. malloc'ed, NULL: no memory. */
char *dg_recording_url(const char *endpoint, const struct dg_query *q);

/* ---- results.c ---- */

#define DG_MAX_DEPTH 32
#define DG_MAX_WORDS 4096   /* of one result */
#define DG_MAX_SPEAKER 999  /* larger numbers are taken as absent */
#define DG_MAX_SECOND 1.0e6 /* of a stream (11 days): a time beyond it is no time */

enum dg_kind {
    DG_RESULTS,  /* final; maybe without words */
    DG_INTERIM,  /* never asked for; ignored */
    DG_METADATA, /* the last message before the close */
    DG_SPEECH_STARTED,
    DG_UTTERANCE_END,
    DG_ERROR,     /* text says what Deepgram wrote */
    DG_UNKNOWN,   /* an object of a type that is not known here */
    DG_MALFORMED, /* no JSON, too deep, no object, or a result without its parts */
    DG_TOO_BIG,
    DG_KINDS
};

struct dg_message {
    enum dg_kind kind;
    struct omid_stt_segment *segments; /* n of them, in the order of their start */
    size_t n;
    double until;    /* all before this second is final; negative: the message does not say */
    unsigned bad;    /* words and values that were of no use and have been left out */
    char *pool;      /* the segments' text */
    char error[200]; /* DG_ERROR: printable */
};
/* Reads one text message; never fails otherwise than by `kind`. Free with dg_message_free(). */
void dg_message_parse(struct dg_message *m, const char *text, size_t len, size_t max);
void dg_message_free(struct dg_message *m);
/* The same of the answer for a recording: DG_RESULTS, DG_ERROR (an answer that says why not), or what is wrong with it.
 */
void dg_recording_parse(struct dg_message *m, const char *text, size_t len, size_t max);

/* ---- plugin.c ---- */

/* What the instances share; read-only after configure(). */
struct dg_shared {
    struct omid_module *mod;
    const struct omid_host *host;
    char *endpoint;         /* "wss://api.deepgram.com/v1/listen" */
    char *authorization;    /* a header line with the key: never logged */
    const char *headers[2]; /* authorization, NULL */
    const char *const *keyterms;
    size_t n_keyterms;
    struct dg_languages languages;
    unsigned attempts;
    uint32_t backoff_ms, backoff_cap_ms;
    uint32_t keepalive_ms;
    uint32_t close_timeout_ms;
    size_t max_result;
    size_t send_buffer;
    struct omid_counter *messages[DG_KINDS];
    struct omid_counter *ends[OMID_STT_INTERNAL + 1];
    struct omid_counter *bad_values, *keepalives, *finalizes;
};

struct dg_instance {
    struct omid_instance *inst;
    const struct omid_host *host;
    const struct dg_shared *shared;
    size_t streams; /* open()ed and not yet released */
    struct dg_recording *recordings;
};

/* ---- stream.c: the role's functions; state is a struct dg_instance ---- */

int dg_stream_open(void *state, const struct omid_stt_params *params, struct omid_stt *stt, void **stream);
int dg_stream_audio(void *stream, const int16_t *pcm, size_t samples);
void dg_stream_finalize(void *stream);
void dg_stream_close(void *stream);
void dg_stream_release(void *stream);
void dg_stream_stats(void *stream, struct omid_stt_stats *stats);

/* ---- recording.c; state as above ---- */

int dg_recording_transcribe(void *state, const struct omid_stt_params *params, const struct omid_audio *audio,
                            struct omid_ask *ask);
void dg_recordings_stop(struct dg_instance *in);

#endif
