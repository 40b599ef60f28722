/*
 * webhooks: events of a session to URLs of omi.conf.
 *
 * Three kinds of delivery, by topic: transcript.c and audio.c (realtime: in memory, given up when the endpoint does
 * not answer) and durable.c (memory_created: a named job of the durable queue per endpoint). config.c reads the
 * endpoints, deliver.c builds requests and judges answers, sign.c signs them, session.c keeps what belongs to one
 * session, json.c is what little JSON is needed. All of an instance happens on its reactor; the configuration is
 * shared, read-only.
 */
#ifndef WEBHOOKS_H
#define WEBHOOKS_H

#include <omid/plugin.h>

#include "sign.h"

/* A fault of the plugin itself: stop here, not three calls later. */
_Noreturn void webhooks_assert_failed(const char *expr, const char *file, int line);
#define wh_assert(expr) ((expr) ? (void)0 : webhooks_assert_failed(#expr, __FILE__, __LINE__))

enum hook_type { HOOK_TRANSCRIPT, HOOK_AUDIO, HOOK_MEMORY, HOOK_TYPES };

/* What became of a delivery; the label of the counters. */
enum outcome {
    OUTCOME_OK,         /* 2xx */
    OUTCOME_STATUS,     /* any other answer */
    OUTCOME_ERROR,      /* no answer: connect, TLS, timeout, reset */
    OUTCOME_BREAKER,    /* not tried: the endpoint's breaker is open */
    OUTCOME_FULL,       /* not tried: the lane is full, or it waited too long for a slot */
    OUTCOME_SUPERSEDED, /* a newer one took its place before it was sent */
    OUTCOME_DROPPED,    /* a bound of this plugin was reached */
    OUTCOME_SHUTDOWN,
    OUTCOMES
};

/* --- config.c --- */

#define WEBHOOKS_MAX_ENDPOINTS 64 /* of one type */
#define WEBHOOKS_ID_MAX 300       /* of a webhook-id, NUL included */

struct endpoint {
    const char *base;    /* the URL as configured, without fragment and seconds */
    char *label;         /* for logs: the origin alone */
    char hash[17];       /* of base: names jobs and keys */
    uint32_t seconds_ms; /* audio_bytes: more audio than this is sent */
    char *owned;
};

struct webhooks_conf {
    uint32_t magic;
    struct omid_module *mod;
    const struct omid_host *host;
    struct endpoint *endpoints[HOOK_TYPES];
    size_t n[HOOK_TYPES];
    uint32_t interval_ms; /* of the transcript */
    size_t audio_memory;  /* bytes of audio held by one instance */
    unsigned max_sessions;
    struct sign_key key[SIGN_KEYS]; /* the present one first */
    size_t n_keys;                  /* 0: nothing is signed */
    struct omid_counter *count[HOOK_TYPES][OUTCOMES];
    struct omid_counter *audio_dropped; /* samples' bytes */
    struct omid_counter *segments_dropped, *messages, *bad_answers;
};
#define WEBHOOKS_CONF_MAGIC UINT32_C(0x57484346)

extern const struct omid_option webhooks_options[];
int webhooks_configure(struct omid_module *mod, const struct omid_host *host, void **shared);
void webhooks_unconfigure(void *shared);

/* --- the instance, session.c --- */

struct session;
struct delivery;
struct enqueue;

struct instance {
    uint32_t magic;
    struct omid_instance *inst;
    const struct omid_host *host;
    struct omid_module *mod;
    const struct webhooks_conf *conf;
    struct signer *signer;  /* NULL: nothing is signed */
    struct session **table; /* by session id, chained */
    size_t n_sessions;      /* ended ones with deliveries included */
    struct delivery *first; /* requests in flight */
    size_t n_deliveries;
    struct enqueue *enqueues; /* jobs not yet on disk */
    size_t n_enqueues;
    struct omid_timer *retry;
    size_t audio_bytes; /* in buffers and waiting: what is in flight is the lane's */
    bool draining;
};
#define WEBHOOKS_INSTANCE_MAGIC UINT32_C(0x57484953)

/* Bytes that several deliveries share. */
struct body {
    unsigned refs;
    size_t len;
    char *data; /* owned */
};
/* Takes data, also on failure. NULL: no memory. */
struct body *body_new(char *data, size_t len);
void body_unref(struct body **b);

struct audio_stream;      /* audio.c, per endpoint */
struct transcript_stream; /* transcript.c, per endpoint */

struct session {
    uint32_t magic;
    struct instance *in;
    struct session *chain; /* of the table */
    char *uid, *id;
    bool ended;                           /* SESSION_END came: freed with its last delivery */
    size_t in_flight;                     /* deliveries that point here */
    char *conversation;                   /* of the buffered audio; or NULL */
    unsigned audio_active;                /* endpoints with a delivery in flight */
    unsigned audio_waiting;               /* endpoints with one that waits */
    uint64_t audio_seq;                   /* gives the waiting ones an order */
    struct audio_stream *audio;           /* one per audio endpoint */
    struct transcript_stream *transcript; /* one per transcript endpoint */
    struct segment *segments;             /* waiting for the interval */
    size_t n_segments;
    struct omid_timer *flush;
};
#define WEBHOOKS_SESSION_MAGIC UINT32_C(0x57485353)

/* Finds or makes it. NULL: no memory, or max_sessions. */
struct session *session_get(struct instance *in, const char *uid, const char *id);
struct session *session_find(struct instance *in, const char *id);
/* Flushes; frees it once nothing points to it. */
void session_end(struct session *s);
/* Frees it when it has ended and nothing points to it. */
void session_check(struct session *s);
void sessions_free(struct instance *in);
/* Tells the host when there is nothing left to do. */
void instance_check_drained(struct instance *in);

/* --- audio.c --- */
bool audio_init(struct session *s);
/* Takes the samples, or counts them as dropped: never refuses. */
void audio_event(struct session *s, const struct omid_event *ev);
void audio_flush(struct session *s);
void audio_clear(struct session *s);

/* --- transcript.c --- */
bool transcript_init(struct session *s);
void transcript_event(struct session *s, const struct omid_event *ev);
void transcript_deleted(struct session *s, const struct omid_event *ev);
void transcript_flush(struct session *s);
void transcript_clear(struct session *s);

/* --- durable.c --- */
int durable_event(struct instance *in, const struct omid_event *ev);
int durable_job(struct instance *in, const struct omid_job_view *job, struct omid_job_run *run);
void durable_clear(struct instance *in);

/* --- deliver.c --- */

typedef void (*delivered_cb)(struct delivery *d, const struct omid_http_response *res);

/* One request. The callback owns what it points to; the struct is freed after it. */
struct delivery {
    struct instance *in;
    struct delivery *next, *prev;
    struct omid_http *http;
    const struct endpoint *endpoint;
    enum hook_type type;
    delivered_cb done;
    struct session *session;  /* realtime; NULL otherwise */
    struct omid_job_run *run; /* durable; NULL otherwise */
    size_t index;             /* of the endpoint in its type */
};

struct deliver_request {
    enum hook_type type;
    size_t index; /* of the endpoint */
    const char *uid;
    uint32_t sample_rate; /* 0: not part of the query */
    const char *content_type;
    const char *webhook_id; /* the same on every attempt; NULL: a new one, for what is sent once */
    const char *latest_key; /* or NULL */
    const void *body;
    size_t body_len;
};
/* OMID_OK: done() follows, not within this call, unless the plugin stops first. Otherwise nothing was kept. */
int deliver(struct instance *in, const struct deliver_request *req, delivered_cb done, struct delivery **out);
/* Ends all requests without callbacks. */
void deliveries_cancel(struct instance *in);
void deliver_count(struct instance *in, enum hook_type type, enum outcome outcome);
enum outcome outcome_of(const struct omid_http_response *res);
/* base, then uid and sample_rate joined to its query. The caller frees. */
char *deliver_url(const char *base, const char *uid, uint32_t sample_rate);

/* --- json.c --- */

/* A growing text. A failure sticks; take() then gives NULL. */
struct text {
    char *data;
    size_t len, cap;
    bool failed;
};
void text_add(struct text *t, const char *data, size_t len);
void text_adds(struct text *t, const char *s);
void text_add_quoted(struct text *t, const char *s); /* as a JSON string */

/* Walks over the values of a JSON array. `at` begins as 0. False at the end, or when it is no array. */
struct json_span {
    const char *data;
    size_t len;
};
bool json_array_next(const char *json, size_t len, size_t *at, struct json_span *value);
/* The text of the top-level string member `key` of an object, still escaped, without its quotes. */
bool json_member(const char *json, size_t len, const char *key, struct json_span *value);
/* The decoded value of the string member `key` of a JSON object; NULL when it has none. *bad: it is no JSON, or deeper
 * than 64. json is NUL-terminated behind len. The caller frees. */
char *json_object_string(const char *json, size_t len, const char *key, bool *bad);
/* Characters of UTF-8, not bytes. */
size_t utf8_length(const char *s);

#endif
