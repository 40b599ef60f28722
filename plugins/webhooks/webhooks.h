/*
 * webhooks: what happens to a user, to the places that want to hear of it.
 *
 * Places (struct endpoint) are of two kinds: those of the registry, that users have registered (apps and webhooks of
 * developers; endpoints.c keeps what is made of them, and follows the registry), and those of omi.conf, that the
 * operator wants to hear of every user (config.c). Only the former are looked at by the lane's guard, and told to the
 * registry with what became of each attempt.
 *
 * Three ways lead there: transcript.c and audio.c (realtime: in memory, given up when the endpoint does not answer),
 * durable.c (conversations, summaries of days, events on the bus: named jobs of the durable queue, one per endpoint)
 * and events.c (POST /v1/events/{type}: answered when its jobs are on disk). job.c makes an attempt of a job.
 *
 * deliver.c builds requests, sign.c signs them, answers.c judges answers and uses what they carry, notify.c holds the
 * rate of notifications. payload.c is how a job keeps what it delivers, memory.c makes bodies, filter.c decides whether
 * an endpoint wants an event, hooks.c answers the daemon's questions (role hooks), session.c keeps what belongs to one
 * session, json.c and url.c are what little of both is needed. All of an instance happens on its reactor; the
 * configuration is shared: read-only, but for the counters and the rate of notifications.
 */
#ifndef WEBHOOKS_H
#define WEBHOOKS_H

#include <omid/plugin.h>

#include "json.h"
#include "sign.h"

/* A fault of the plugin itself: stop here, not three calls later. */
_Noreturn void webhooks_assert_failed(const char *expr, const char *file, int line);
#define wh_assert(expr) ((expr) ? (void)0 : webhooks_assert_failed(#expr, __FILE__, __LINE__))

/* What became of a delivery; the label of the counters. */
enum outcome {
    OUTCOME_OK,         /* what counts as success for this endpoint and trigger */
    OUTCOME_STATUS,     /* any other answer */
    OUTCOME_ERROR,      /* no answer: connect, TLS, timeout, reset, blocked */
    OUTCOME_BREAKER,    /* not tried: the endpoint's breaker is open */
    OUTCOME_FULL,       /* not tried: the lane is full, or it waited too long for a slot */
    OUTCOME_SUPERSEDED, /* a newer one took its place before it was sent */
    OUTCOME_DROPPED,    /* a bound of this plugin was reached, or the endpoint went away */
    OUTCOME_SHUTDOWN,
    OUTCOMES
};

/* What became of an event that came by POST. */
enum posted_outcome {
    POSTED_ACCEPTED, /* jobs are on disk */
    POSTED_UNWANTED, /* accepted, for no one */
    POSTED_REPEATED, /* answered with the first result */
    POSTED_BAD,      /* 400 */
    POSTED_LARGE,    /* 413 */
    POSTED_FULL,     /* 429 */
    POSTED_FAILED,   /* 503 */
    POSTED_OUTCOMES
};

enum notified { NOTIFIED_PASSED, NOTIFIED_TOO_SOON, NOTIFIED_NOT_CAPABLE, NOTIFIED_UNUSABLE, NOTIFIED_OUTCOMES };

/* --- config.c --- */

#define WEBHOOKS_MAX_ENDPOINTS 64                    /* of omi.conf, of one type */
#define WEBHOOKS_OWN_TYPES (OMID_TRIGGER_MEMORY + 1) /* triggers that omi.conf has endpoints for */
#define WEBHOOKS_ID_MAX 300                          /* of a webhook-id, NUL included */
#define WEBHOOKS_UID_MAX 256                         /* of a uid, NUL included */

/* An endpoint as omi.conf has it. */
struct place {
    const char *base;    /* the URL as configured, without fragment and seconds */
    char hash[17];       /* of base: names jobs and keys */
    uint32_t seconds_ms; /* audio_bytes: more audio than this is sent */
    char *owned;
};

struct webhooks_conf {
    uint32_t magic;
    struct omid_module *mod;
    const struct omid_host *host;
    struct place *places[WEBHOOKS_OWN_TYPES];
    size_t n[WEBHOOKS_OWN_TYPES];
    uint32_t interval_ms; /* of the transcript */
    size_t audio_memory;  /* bytes of audio held by one instance */
    unsigned max_sessions;
    struct sign_key key[SIGN_KEYS]; /* for omi.conf's endpoints, the present one first */
    size_t n_keys;                  /* 0: nothing is signed */
    struct throttle *throttle;      /* of notifications; locks itself */
    struct omid_counter *count[OMID_TRIGGERS][OUTCOMES];
    struct omid_counter *posted[POSTED_OUTCOMES];
    struct omid_counter *notified[NOTIFIED_OUTCOMES];
    struct omid_counter *audio_dropped; /* samples' bytes */
    struct omid_counter *segments_dropped, *messages, *bad_answers, *unusable, *bad_events;
};
#define WEBHOOKS_CONF_MAGIC UINT32_C(0x57484346)

extern const struct omid_option webhooks_options[];
int webhooks_configure(struct omid_module *mod, const struct omid_host *host, void **shared);
void webhooks_unconfigure(void *shared);

/* --- the instance, plugin.c --- */

struct session;
struct delivery;
struct enqueue;
struct posted;
struct asking;
struct endpoint;
struct endpoint_cache;

struct instance {
    uint32_t magic;
    struct omid_instance *inst;
    const struct omid_host *host;
    struct omid_module *mod;
    const struct webhooks_conf *conf;
    struct endpoint **own[WEBHOOKS_OWN_TYPES]; /* of conf->places */
    struct endpoint_cache *cache;
    struct session **table; /* by session id, chained */
    size_t n_sessions;      /* ended ones with deliveries included */
    struct delivery *first; /* requests in flight */
    size_t n_deliveries;
    struct enqueue *enqueues; /* jobs not yet on disk */
    size_t n_enqueues;
    struct omid_timer *retry;
    struct posted *posted; /* events whose jobs are on their way to disk */
    size_t n_posted, posted_bytes;
    struct asking *asking; /* questions of the daemon */
    size_t n_asking;
    size_t audio_bytes; /* in buffers and waiting: what is in flight is the lane's */
    bool draining;
};
#define WEBHOOKS_INSTANCE_MAGIC UINT32_C(0x57484953)

/* Tells the host when there is nothing left to do. */
void instance_check_drained(struct instance *in);

/* --- endpoints.c --- */

struct filter; /* filter.c */

/* Counted. One reactor's; never changed once made: when the registry has changed it, another takes its place. */
struct endpoint {
    uint32_t magic;
    unsigned refs;
    bool registered;     /* by a user; else omi.conf's */
    bool app;            /* success and answers by the rules of apps */
    const char *id;      /* in the registry; of omi.conf's: the hash of its URL */
    const char *target;  /* of its jobs: id, or omi.conf's URL */
    const char *name;    /* the app's; else "Webhooks" */
    const char *said_by; /* app_id of its messages: id, or "webhooks" */
    const char *url;     /* without fragment */
    const char *label;   /* for logs: the origin alone, and the id */
    uint32_t capabilities, audio_ms;
    bool ordered;
    uint32_t rate_per_min;
    struct filter *filter; /* of custom events; NULL: none */
    struct signer *signer; /* NULL: nothing is signed */
};
#define WEBHOOKS_ENDPOINT_MAGIC UINT32_C(0x57484550)

/* NULL: no memory. */
bool endpoints_start(struct instance *in);
void endpoints_stop(struct instance *in);
/* Of the registry, made once and kept; a reference. NULL: no memory, or not usable (logged and counted). */
struct endpoint *endpoint_of(struct instance *in, const struct omid_endpoint *registered);
struct endpoint *endpoint_ref(struct endpoint *e);
void endpoint_unref(struct endpoint **e);
/* What the registry has for the uid; NULL: it is not there, or no memory. For endpoints_put(). */
const struct omid_endpoints *endpoints_get(struct instance *in, const char *uid);
void endpoints_put(struct instance *in, const struct omid_endpoints **set);
bool endpoint_has(const struct omid_endpoint *e, enum omid_trigger trigger);
/* For a job's target; a reference. NULL: *why says what is wrong; *again: only now. */
struct endpoint *endpoint_of_job(struct instance *in, const char *target, const char *uid, const char **why,
                                 bool *again);
void endpoint_report_attempt(struct instance *in, const struct endpoint *e, const char *uid, enum omid_trigger trigger,
                             const struct omid_http_response *res);

/* --- filter.c --- */

/* "order.paid" by "order.paid", "order.*" or "*". */
bool event_wanted(const char *const *patterns, const char *type);
/* NULL with *ok: there is nothing to filter by. Not *ok: it can't be read, or no memory. */
struct filter *filter_new(const char *text, bool *ok);
void filter_free(struct filter **f);
/* json: sound. NULL matches everything. */
bool filter_matches(const struct filter *f, const char *json, size_t len);

/* --- session.c --- */

/* Bytes that several deliveries share. */
struct body {
    unsigned refs;
    size_t len;
    char *data; /* owned */
};
/* Takes data, also on failure. NULL: no memory. */
struct body *body_new(char *data, size_t len);
void body_unref(struct body **b);

#define WEBHOOKS_MAX_STREAMS 128 /* endpoints of one trigger that one session feeds */

struct audio_stream;      /* audio.c, per endpoint */
struct transcript_stream; /* transcript.c, per endpoint */

struct session {
    uint32_t magic;
    struct instance *in;
    struct session *chain; /* of the table */
    char *uid, *id;
    bool ended;                       /* SESSION_END came: freed with its last delivery */
    size_t in_flight;                 /* deliveries that point here */
    const struct omid_endpoints *set; /* what the registry had when the streams were made to match; held */
    char *conversation;               /* of the buffered audio; or NULL */
    unsigned audio_active;            /* endpoints with a delivery in flight */
    unsigned audio_waiting;           /* endpoints with one that waits */
    uint64_t audio_seq;               /* gives the waiting ones an order */
    struct audio_stream *audio;       /* a list: omi.conf's first */
    size_t n_audio;                   /* of those that are not gone */
    struct transcript_stream *transcript;
    size_t n_transcript;
    struct segment *segments; /* waiting for the interval */
    size_t n_segments;
    struct omid_timer *flush;
};
#define WEBHOOKS_SESSION_MAGIC UINT32_C(0x57485353)

/* The session of an event whose trigger somebody wants, its streams as the registry is now. NULL: nobody does, or no
 * memory, or max_sessions (counted). */
struct session *session_for(struct instance *in, const struct omid_event *ev, enum omid_trigger trigger);
struct session *session_find(struct instance *in, const char *id);
/* Flushes; frees it once nothing points to it. */
void session_end(struct session *s);
/* Frees it when it has ended and nothing points to it. */
void session_check(struct session *s);
void sessions_free(struct instance *in);

/* --- audio.c --- */
/* Streams for the endpoints of omi.conf. */
bool audio_init(struct session *s);
/* Streams for these of the registry, and no others. False: not for all (no memory, WEBHOOKS_MAX_STREAMS). */
bool audio_follow(struct session *s, const struct omid_endpoints *set);
/* Takes the samples, or counts them as dropped: never refuses. */
void audio_event(struct session *s, const struct omid_event *ev);
void audio_flush(struct session *s);
void audio_clear(struct session *s);

/* --- transcript.c --- */
bool transcript_init(struct session *s);
bool transcript_follow(struct session *s, const struct omid_endpoints *set);
void transcript_event(struct session *s, const struct omid_event *ev);
void transcript_deleted(struct session *s, const struct omid_event *ev);
void transcript_flush(struct session *s);
void transcript_clear(struct session *s);

/* --- durable.c --- */

/* The types of its jobs, by trigger. */
extern const char *const webhooks_job_types[OMID_TRIGGERS];
/* A conversation that is complete. */
int durable_conversation(struct instance *in, const struct omid_event *ev);
/* A custom event of somebody else, a summary of a day among them. */
int durable_custom(struct instance *in, const struct omid_event *ev);
void durable_clear(struct instance *in);

/* --- job.c --- */
int webhooks_job(struct instance *in, const struct omid_job_view *job, struct omid_job_run *run);

/* --- payload.c --- */

#define WEBHOOKS_BODY_MAX ((size_t)32 << 20)   /* what is delivered: the longest conversation */
#define PAYLOAD_MAX (WEBHOOKS_BODY_MAX + 4096) /* ... and the line before it: as much as the queue takes */

struct payload {
    char uid[WEBHOOKS_UID_MAX];
    char conversation[64]; /* "": none */
    char id[64];           /* of a custom event; "": none */
    char event[132];       /* its type; "": none */
    const char *body;      /* within what was read */
    size_t len;
};
struct payload_head {
    const char *uid;
    const char *conversation, *id, *event; /* or NULL */
};
/* t.failed: no memory. False: something is longer than can be read back. */
bool payload_write(struct text *t, const struct payload_head *head, const char *body, size_t len);
bool payload_read(const char *data, size_t len, struct payload *out);

/* --- memory.c --- */

/* The conversation with speaker_name in its segments and folder_name. people: {"person id": "name"}, or NULL. */
void memory_with_names(struct text *out, const char *json, size_t len, const char *people);
/* {"uid","created_at","summary","summary_json"}. False: the event has not what it takes. */
bool day_summary_body(struct text *out, const char *json, size_t len);

/* --- events.c --- */

#define WEBHOOKS_EVENT_MAX ((size_t)1 << 20)
#define WEBHOOKS_EVENT_TYPE_MAX 128
bool event_type_ok(const char *type);
extern const struct omid_route events_route;
void events_clear(struct instance *in);

/* --- deliver.c --- */

typedef void (*delivered_cb)(struct delivery *d, const struct omid_http_response *res);

/* One request. The struct is freed after its callback. */
struct delivery {
    struct instance *in;
    struct delivery *next, *prev;
    struct omid_http *http;
    struct endpoint *endpoint; /* a reference */
    enum omid_trigger trigger;
    delivered_cb done;
    struct session *session;        /* realtime; NULL otherwise */
    void *stream;                   /* realtime: audio's or transcript's */
    struct omid_job_run *run;       /* durable; NULL otherwise */
    const char *uid, *conversation; /* in text; conversation "" where it has none of its own */
    char text[];
};

struct deliver_request {
    struct endpoint *endpoint;
    enum omid_trigger trigger;
    const char *uid;
    bool plain_url;           /* no uid in its query */
    uint32_t sample_rate;     /* 0: not part of the query */
    const char *conversation; /* or NULL */
    const char *content_type;
    const char *webhook_id; /* the same on every attempt; NULL: a new one, for what is sent once */
    const char *event;      /* the type of a custom event; NULL */
    const char *latest_key; /* or NULL */
    const void *body;
    size_t body_len;
};
/* OMID_OK: done() follows, not within this call, unless the plugin stops first. Otherwise nothing was kept. */
int deliver(struct instance *in, const struct deliver_request *req, delivered_cb done, struct delivery **out);
/* Ends all requests without callbacks. */
void deliveries_cancel(struct instance *in);
void deliver_count(struct instance *in, enum omid_trigger trigger, enum outcome outcome);
enum outcome outcome_of_refusal(int rc);

/* The lines of a request's header, and the array that the host wants. */
#define WEBHOOKS_MAX_HEADERS 5
struct headers {
    char type[64], id[WEBHOOKS_ID_MAX + 16], timestamp[48], event[WEBHOOKS_EVENT_TYPE_MAX + 16];
    char signature[SIGN_VALUE_MAX + 32];
    const char *line[WEBHOOKS_MAX_HEADERS + 1];
};
/* False: it can't be signed. */
bool headers_make(struct instance *in, const struct deliver_request *req, struct headers *h);

/* --- answers.c --- */

/* Is that the success that its endpoint and trigger ask for? */
bool answer_succeeds(const struct endpoint *e, enum omid_trigger trigger, const struct omid_http_response *res);
enum outcome outcome_of(const struct endpoint *e, enum omid_trigger trigger, const struct omid_http_response *res);
/* Was it an attempt, or was the request never begun? */
bool answer_is_attempt(const struct omid_http_response *res);
struct answer_context {
    const char *uid;
    const char *session, *conversation; /* or NULL */
};
/* A message for the user, a notification. */
void answer_use(struct instance *in, const struct endpoint *e, enum omid_trigger trigger,
                const struct answer_context *about, const struct omid_http_response *res);

/* --- notify.c --- */

struct throttle *throttle_new(void);
void throttle_free(struct throttle **t);
/* At most one in 30 s per user and app. Any thread. False: too soon, or too many are remembered. */
bool throttle_pass(struct throttle *t, const char *uid, const char *app, uint64_t now_ms);
/* value: the member `notification` of an answer, sound JSON. */
void notification_use(struct instance *in, const struct endpoint *e, const struct answer_context *about,
                      const struct json_span *value);

/* --- hooks.c --- */
extern const struct omid_hooks_role hooks_role;
void hooks_clear(struct instance *in);

/* --- url.c --- */

/* NULL: usable; else what was expected. */
const char *url_fault(const char *url);
/* scheme://host:port, what may be logged: a path or a query may hold a token. The caller frees. */
char *url_origin(const char *url);
/* base, then uid and sample_rate (if > 0) joined to its query. The caller frees. */
char *url_with(const char *base, const char *uid, uint32_t sample_rate);

#endif
