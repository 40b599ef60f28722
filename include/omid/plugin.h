/*
 * omid/plugin.h - the contract between omid and a plugin.
 *
 * A plugin is one shared object that exports one symbol:
 *
 *     OMID_EXPORT const struct omid_plugin omid_plugin = { OMID_PLUGIN_HEAD, .name = "echo", ... };
 *
 * Everything it may do afterwards goes through the function table it is handed
 * (struct omid_host). It never sees a core header or a global of the daemon.
 *
 * Threads. Each reactor thread has one *instance* of every plugin. Unless a
 * comment says otherwise, every callback of an instance runs on that instance's
 * reactor and every host function must be called on that same thread; a call from
 * another thread is refused with OMID_ETHREAD, logged and counted. Nothing in a
 * callback may block: blocking or long work goes to exec_submit().
 *
 * Memory. Pointers handed to a callback are valid until it returns; copy what you
 * keep. Pointers you hand to a host function are copied before it returns unless
 * its comment says otherwise. Handles are released by the function named at their
 * type; release functions take a pointer to your pointer and null it.
 *
 * Units. Times are milliseconds, sizes bytes, positions within audio seconds,
 * unless a name says otherwise. Strings are UTF-8 and end in NUL.
 *
 * See omid-plugin(3), and plugins/echo for the smallest complete example.
 */
#ifndef OMID_PLUGIN_H
#define OMID_PLUGIN_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * ABI version. MAJOR changes when something existing changes meaning; MINOR when
 * something is added at the end of a struct. A plugin loads when its major equals
 * the host's and its minor is not above the host's.
 *
 * Changelog (one line per version):
 *   1.0  first version
 *   1.1  role vad (struct omid_vad_role, omid_plugin.vad)
 *        omid_stt_role.stats: what a stream did for the session's account
 *        {name} in omid_route.path, and omid_request.params with what the client put there
 *        OMID_EVENT_SPEAKER_ASSIGNED
 *        fan-outs: gather_label(), gather_start(), gather_done(), gather_cancel(); OMID_ETIMEOUT
 *        omid_plugin_flags: OMID_PLUGIN_USER_URLS
 *        omid_http_response.redirects
 *        omid_http_response.max_age_s: how long an answer may be kept
 *   1.2  questions of the daemon to roles: struct omid_ask, answer(), fallback()
 *        roles embed, geocode, summarize, audio_store, hooks; omid_vad_role.scan, omid_stt_role.transcribe
 *        omid_http_request.aws_sigv4
 *        omid_request.headers; respond_with(); respond_begin(), respond_data(), respond_end(); OMID_AUTH_ADMIN
 *        the registry of apps and developer webhooks: endpoints(), endpoint_find(), endpoint_report()
 *        a key-value space: kv_put(), kv_get()
 *        data_dir()
 *        omid_job.ordered, .rate_per_min; jobs_enqueue(), job_attempt(), jobs_retry_after()
 *        OMID_EVENT_CONVERSATION_DELETED; omid_event.people, .id
 */
#define OMID_PLUGIN_MAGIC UINT32_C(0x6f6d6964)
#define OMID_ABI_MAJOR 1
#define OMID_ABI_MINOR 2

/* Results of host functions and of int-returning callbacks. */
enum omid_result {
    OMID_OK = 0,
    OMID_ERR = -1,      /* failed; the reason has been logged */
    OMID_EFULL = -2,    /* a bound is reached; nothing was taken; try again when told */
    OMID_ECLOSED = -3,  /* the other end, or the daemon, is going away */
    OMID_EINVAL = -4,   /* an argument is unusable */
    OMID_ENOTSUP = -5,  /* not served here */
    OMID_ETHREAD = -6,  /* called on the wrong thread, or after stop */
    OMID_ETIMEOUT = -7, /* it took longer than it may (1.1) */
};

/* Opaque; owned by the host. */
struct omid_module;   /* the loaded plugin, one per process */
struct omid_instance; /* the plugin on one reactor */
struct omid_timer;    /* released by timer_stop() */
struct omid_http;     /* a request in flight; released by http_cancel() or by its callback's return */
struct omid_ws;       /* an outgoing WebSocket; released by ws_release() */
struct omid_exchange; /* an incoming HTTP request; released by respond(), respond_with() or respond_end() */
struct omid_conn;     /* an incoming WebSocket; the host's, valid until closed() returns */
struct omid_stt;      /* the session's end of a speech-to-text stream; the session's */
struct omid_job_run;  /* one attempt of a durable job; released by job_finish() */
struct omid_gather;   /* a fan-out; released by gather_cancel() or by finished()'s return (1.1) */
struct omid_counter;  /* a metric; the host's, lives as long as the module */
struct omid_ask;      /* a question of the daemon to a role; released by answer() (1.2) */

/* ------------------------------------------------------------------ options */

enum omid_opt_type {
    OMID_OPT_BOOL,     /* true, false, yes, no, on, off */
    OMID_OPT_INT,      /* min..max */
    OMID_OPT_FLOAT,    /* min..max */
    OMID_OPT_DURATION, /* 300ms, 5s, 2min, 1h, 1d; a unit is required; value in ms */
    OMID_OPT_SIZE,     /* 4096B, 64KiB, 10MiB, 2GiB; a unit is required; value in bytes */
    OMID_OPT_STRING,   /* min..max bound its length when max > 0 */
    OMID_OPT_ENUM,     /* one of choices, "a|b|c" */
    OMID_OPT_LIST,     /* { "a", "b" }; min..max bound the number when max > 0 */
    OMID_OPT_SECRET,   /* as KEY, or KEY_file naming a file, or $OMID_<PLUGIN>_<KEY>; never logged */
};

enum omid_opt_flags {
    OMID_OPT_REQUIRED = 1u << 0,   /* absent: an error that names the block */
    OMID_OPT_RELOADABLE = 1u << 1, /* may change at reload without a new start */
};

/* One line of an option table; a table ends with a NULL name. All pointers static. */
struct omid_option {
    const char *name;
    enum omid_opt_type type;
    const char *def;     /* default as it would be written; NULL: none. A LIST's: comma-separated */
    double min, max;     /* inclusive, in the value's unit; both 0: unbounded */
    const char *choices; /* OMID_OPT_ENUM only */
    unsigned flags;
    const char *help; /* one or two sentences; shown by the man page check and omictl */
};

/* Defaults of this plugin's HTTP lane; omi.conf overrides each. 0: the default lane's value. */
struct omid_lane_defaults {
    unsigned pool, idle, semaphore, streams, queue;
    uint32_t connect_timeout_ms, timeout_ms;
    unsigned breaker_failures;
    uint32_t breaker_open_ms;
};

/* ------------------------------------------------------------------- events */

enum omid_event_type {
    OMID_EVENT_SESSION_START,        /* uid, session_id, sample_rate */
    OMID_EVENT_SESSION_END,          /* uid, session_id */
    OMID_EVENT_AUDIO,                /* uid, session_id, conversation_id, pcm, samples, sample_rate, time_ms */
    OMID_EVENT_SEGMENTS,             /* uid, session_id, conversation_id, json: array of new or changed segments */
    OMID_EVENT_SEGMENTS_DELETED,     /* as above, json: array of ids */
    OMID_EVENT_CONVERSATION_START,   /* uid, conversation_id */
    OMID_EVENT_CONVERSATION_CREATED, /* uid, conversation_id, json: the whole conversation. Durable: may be
                                        repeated after a crash; enqueue named jobs within the callback */
    OMID_EVENT_APP_MESSAGE,          /* uid, json: {"app_id","app_name","message"}; shown to the live client */
    OMID_EVENT_CUSTOM,               /* uid, name, json, id */
    OMID_EVENT_SPEAKER_ASSIGNED,     /* 1.1. The user has said who a speaker is, and that is on disk. uid, session_id,
                                        conversation_id, json: {"sample_id", "speaker_id", "person_id" ("user": the
                                        owner), "person_name", "segment_ids"} */
    OMID_EVENT_CONVERSATION_DELETED, /* 1.2. By its user, with all that is kept of it, or because nothing was said into
                                        it: uid, conversation_id. Durable, as CONVERSATION_CREATED */
    OMID_EVENT_TYPES                 /* their number */
};
#define OMID_EVENT_MASK(type) (UINT32_C(1) << (type))

struct omid_event {
    uint32_t size; /* of this struct, set by the sender */
    enum omid_event_type type;
    const char *uid;
    const char *session_id;
    const char *conversation_id;
    const char *name; /* CUSTOM: the event's type, e.g. "order.paid" */
    const char *json;
    size_t json_len;
    const int16_t *pcm; /* mono, the machine's byte order */
    size_t samples;
    uint32_t sample_rate;
    int64_t time_ms; /* wall clock, Unix ms: of the event, or of the first sample */
    /* 1.2 */
    const char *people; /* CONVERSATION_CREATED: the names of who speaks in it, {"person_id": "name"}; or NULL */
    const char *id;     /* CUSTOM: of the event, set by who has seen to its deliveries to endpoints; else NULL */
};

/* --------------------------------------------------------------- HTTP, out */

enum omid_http_error {
    OMID_HTTP_OK = 0,        /* there is a status, whatever it is */
    OMID_HTTP_BAD_URL,       /* not http(s), or unparsable */
    OMID_HTTP_FULL,          /* the wait queue is full: refused at once */
    OMID_HTTP_QUEUE_TIMEOUT, /* waited queue_timeout for a slot */
    OMID_HTTP_BREAKER,       /* the target's breaker is open */
    OMID_HTTP_SUPERSEDED,    /* a newer request with the same latest_key replaced this one */
    OMID_HTTP_RESOLVE,
    OMID_HTTP_CONNECT,
    OMID_HTTP_TLS,
    OMID_HTTP_TIMEOUT,  /* the absolute time limit, dripping peers included */
    OMID_HTTP_RESET,    /* the connection broke before the answer was whole */
    OMID_HTTP_PROTOCOL, /* the answer is not HTTP, or redirects without end */
    OMID_HTTP_BLOCKED,  /* the address is not allowed for this URL, or a redirect leads where it must not */
    OMID_HTTP_LOCAL,    /* a fault of our own: memory, descriptors */
    OMID_HTTP_SHUTDOWN,
    OMID_HTTP_ERRORS
};

struct omid_http_request {
    uint32_t size;
    const char *method; /* "GET", "POST", ... */
    const char *url;
    const char *const *headers; /* "Name: value" lines, NULL-terminated; or NULL */
    const void *body;
    size_t body_len;
    uint32_t timeout_ms;    /* 0: the lane's, or the target's own; never longer than that */
    size_t max_body;        /* answer kept up to here, after decompression; 0: 64 KiB. What comes beyond is dropped; the
                               transfer is ended, with its connection, when 256 KiB more have come. An answer that is
                               compressed more than once is refused: OMID_HTTP_PROTOCOL */
    const char *latest_key; /* latest wins among waiting requests of this key; or NULL */
    unsigned flags;         /* enum omid_http_flags */
    /* 1.2. Signed when it is sent, with AWS Signature Version 4: "aws:amz:REGION:SERVICE", and the key. S3 wants the
     * body's SHA-256 in a header x-amz-content-sha256, which is the caller's to give. NULL: not signed. Never logged */
    const char *aws_sigv4, *aws_key_id, *aws_secret;
};
enum omid_http_flags {
    OMID_HTTP_USER_URL = 1u << 0, /* a user registered this URL: private addresses are refused */
};

struct omid_http_response {
    uint32_t size;
    enum omid_http_error error;
    const char *error_text; /* for people, "" without error; never holds the URL's query */
    int status;             /* 0 when error */
    const char *body;       /* NUL-terminated */
    size_t body_len;
    bool truncated;         /* more than max_body came; the rest was dropped */
    uint32_t retry_after_s; /* from Retry-After, seconds or date; 0: absent */
    uint32_t elapsed_ms;    /* from http_start() */
    unsigned redirects;     /* that were followed: the lane's `follow`, 0 if not set. Since 1.1 */
    int64_t max_age_s;      /* 1.1: how long it may be kept, by Cache-Control and Age; 0: not at all; -1: not said */
};
typedef void (*omid_http_cb)(void *arg, const struct omid_http_response *res);

/* ---------------------------------------------------------- WebSocket, out */

enum omid_message { OMID_TEXT = 1, OMID_BINARY = 2 };

/* Why an outgoing WebSocket ended, or never opened. */
enum omid_ws_end {
    OMID_WS_CLOSED,   /* close handshake done; code is the peer's */
    OMID_WS_LOST,     /* reset, end of stream without Close, protocol error */
    OMID_WS_CONNECT,  /* every attempt failed */
    OMID_WS_REJECTED, /* the peer answered the upgrade with http_status (not 101), not worth retrying */
    OMID_WS_BREAKER,  /* the target's breaker is open: no attempt was made */
    OMID_WS_FULL,     /* the lane's streams or queue are full */
    OMID_WS_SHUTDOWN,
};
struct omid_ws_close {
    uint32_t size;
    enum omid_ws_end end;
    uint16_t code;    /* RFC 6455 close code, 1006 when there was none */
    int http_status;  /* of the last rejected upgrade, else 0 */
    const char *text; /* for people */
};

struct omid_ws_request {
    uint32_t size;
    const char *url;            /* ws:// or wss:// */
    const char *const *headers; /* "Name: value" lines, NULL-terminated; or NULL */
    unsigned attempts;          /* connects in one sequence; 0 means 1. The breaker gets one verdict per sequence */
    uint32_t backoff_ms;        /* pause before attempt n (n = 1, 2, ...): min(2^(n-1)*backoff + random*backoff, cap) */
    uint32_t backoff_cap_ms;
    size_t max_message; /* received; beyond it the stream ends with 1009; 0: 1 MiB */
    size_t send_buffer; /* bytes waiting to be sent before ws_send() answers OMID_EFULL; 0: 256 KiB */
};

struct omid_ws_events {
    uint32_t size;
    void (*open)(void *arg, struct omid_ws *ws);
    void (*message)(void *arg, struct omid_ws *ws, enum omid_message type, const void *data, size_t len);
    void (*writable)(void *arg, struct omid_ws *ws); /* after OMID_EFULL: at least half is free again; may be NULL */
    void (*closed)(void *arg, struct omid_ws *ws,
                   const struct omid_ws_close *why); /* the last one; then ws_release() */
};

/* --------------------------------------------------------------- executors */

enum omid_pool { OMID_POOL_CRITICAL, OMID_POOL_STORAGE, OMID_POOL_BLOCKING };

struct omid_work {
    uint32_t size;
    enum omid_pool pool;
    const char *label;                 /* static string, for logs and metrics */
    void (*run)(void *arg);            /* on an executor thread: may block; must not call the host except log() */
    void (*done)(void *arg, bool ran); /* on the reactor, exactly once per accepted submission, also when run()
                                          never ran (ran = false: shutdown). Frees arg. */
    void *arg;
};

/* ----------------------------------------------------------- fan-outs (1.1) */

/*
 * The same for many: requests to each endpoint, work on each file. The host begins the items in their order, so many at
 * once, and hands over what became of them in their order too; each that failed is logged with label and number, and
 * counted (async_gather_failures_total). An item is any operation that ends with a callback of yours, or several.
 *
 *     start(arg, i, token)      begin item i; sooner or later, perhaps within start(), call gather_done(token) once
 *     item(arg, i, result, ..)  it is over: 0, 1, 2 ... each exactly once
 *     finished(arg, failed)     all are over
 *
 * None of these comes within gather_start() or gather_done(). An item that does not report within item_timeout_ms is
 * over with OMID_ETIMEOUT; what it reports afterwards, or reports twice, is refused and counted.
 */
typedef uint64_t omid_gather_token; /* names one item of one fan-out, never another; never 0 */

#define OMID_GATHER_MAX_ITEMS 65536
#define OMID_GATHER_MAX_AT_ONCE 1024
struct omid_gather_request {
    uint32_t size;
    const char *label; /* of gather_label() */
    unsigned n;        /* items; 0: finished() follows at once */
    unsigned at_once;  /* 1..OMID_GATHER_MAX_AT_ONCE: that run at the same time */
    unsigned chunk;    /* > 0: so many, and the next ones only when all of them are over. 0: the next as one ends */
    uint32_t item_timeout_ms; /* from start(); 0: 60 s */
    /* An error means that the item did not begin, and is over with it. */
    int (*start)(void *arg, unsigned index, omid_gather_token token);
    /* result and value are gather_done()'s, or OMID_ETIMEOUT, or start()'s error. value is yours again. May be NULL,
     * when there are no values. */
    void (*item)(void *arg, unsigned index, int result, void *value);
    /* The item runs and nobody waits for it any more (timeout, gather_cancel()): end it if that is possible. May be
     * NULL. */
    void (*abort)(void *arg, unsigned index);
    /* Of an item whose item() will not come, for the fan-out was cancelled: free it. May be NULL. */
    void (*drop)(void *arg, void *value);
    /* The last callback: the handle is gone when it returns. Not after gather_cancel(). */
    void (*finished)(void *arg, unsigned failed);
    void *arg;
};

/* ------------------------------------------------------------ durable jobs */

struct omid_job {
    uint32_t size;
    const char *type;    /* static, for logs and counts: "memory_created" */
    const char *name;    /* the same name twice = one job (also after it is done, for 12 h); or NULL */
    const char *target;  /* what must not be delayed by others: an endpoint's URL or id */
    const void *payload; /* handed back at each attempt; at most 1 MiB and 4 KiB for what is to be remembered with it */
    size_t payload_len;
    int64_t not_before_ms; /* Unix ms; 0: now */
    /* 1.2 */
    bool ordered; /* those of its target that are ordered run one at a time, in the order of their enqueuing; one
                     that is retried holds back those behind it */
    uint32_t rate_per_min; /* attempts of its target begun a minute; 0: no bound. The last one enqueued counts */
    /* When its target holds all it may of the queue (queue.max_share): kept as a dead letter, which counts as taken.
     * Else it is so only beside others of the call that are taken; OMID_EFULL when there are none. */
    bool dead_if_full;
};
typedef void (*omid_enqueued_cb)(void *arg, enum omid_result result, uint64_t id);

struct omid_job_view {
    uint32_t size;
    uint64_t id;
    const char *type, *name, *target; /* name and target may be "" */
    const void *payload;              /* valid until job_finish() */
    size_t payload_len;
    unsigned attempt; /* 1 at the first */
    int64_t created_ms;
};

/*
 * Several jobs at once, all or none (1.2). With a receipt, what has been taken once is not taken again: when the plugin
 * has enqueued under the same receipt within 12 h nothing is enqueued, and the callback gets what was kept with the
 * first.
 */
struct omid_receipt {
    const char *key;   /* at most 512 bytes */
    const char *value; /* what to answer a repetition with; at most 4096 bytes */
};
/* value: the receipt's, its first one when `repeated`; "" without a receipt. Valid until cb returns. */
typedef void (*omid_jobs_enqueued_cb)(void *arg, enum omid_result result, bool repeated, const char *value);

/* What became of one attempt, kept with the job and in the log of attempts (omictl deliveries). 1.2 */
struct omid_attempt {
    uint32_t size;
    int status; /* of the answer; 0: none came */
    uint32_t elapsed_ms;
    const char *endpoint; /* id in the registry; NULL: the job's target */
    const char *answer;   /* its first bytes, for people: at most 256 are kept; NULL */
    size_t answer_len;
};

enum omid_job_outcome {
    OMID_JOB_DONE,
    OMID_JOB_RETRY, /* after the schedule's delay, or retry_after_s within 1 to 2 times it; then dead */
    OMID_JOB_WAIT,  /* not an attempt (breaker open, lane full): again after retry_after_s */
    OMID_JOB_DEAD,  /* never again */
};

/* ------------------------------------------------------------ own routes, in */

enum omid_route_auth {
    OMID_AUTH_NONE,
    OMID_AUTH_TOKEN, /* Authorization: Bearer; uid is set */
    OMID_AUTH_ADMIN, /* 1.2: the admin key, also through the control socket; uid is NULL */
};

/* One line of a header; the name in lower case. */
struct omid_header {
    const char *name, *value;
};

/* Of an answer in pieces, respond_begin(). 1.2 */
struct omid_stream {
    uint32_t size;
    /* After OMID_EFULL: there is room again, or the client has left. Not within respond_data(). */
    void (*writable)(void *arg, struct omid_exchange *ex);
    void *arg;
};

/* An incoming request, HTTP or upgrade. Valid during the callback. */
struct omid_request {
    uint32_t size;
    const char *method, *path, *query; /* query without '?', "" when absent */
    const char *uid;                   /* NULL without auth */
    const char *content_type;          /* "" when absent */
    const char *peer;                  /* "192.0.2.1" */
    const void *body;
    size_t body_len;
    /* 1.1. What the client put for the {name}s of the route's path, percent-decoded, in their order; NULL behind the
     * last. Such a value may hold anything but NUL, a slash included. */
    const char *const *params;
    /* 1.2. As they came, in their order, without Authorization. */
    const struct omid_header *headers;
    size_t n_headers;
};

struct omid_route {
    uint32_t size;
    /* "/echo", or since 1.1 with up to four pieces that the client fills: "/v1/things/{id}/audio". A {name} is a whole
     * piece between slashes, never empty. A path that is a route as it stands is not compared with patterns. */
    const char *path;
    const char *method; /* an HTTP method; NULL for a WebSocket route */
    enum omid_route_auth auth;

    /* HTTP: answer now or later with respond(), exactly once. An error without an answer: 500. Left unanswered for
     * 60 s: 504 (respond() is still due). */
    int (*request)(void *state, struct omid_exchange *ex, const struct omid_request *req);

    /* WebSocket. open() may set *user; an error refuses with 1011, and nothing more is called. May be NULL. */
    int (*open)(void *state, struct omid_conn *conn, const struct omid_request *req, void **user);
    /* OMID_OK: the message is taken. OMID_EFULL: not taken; it is handed over again when the way
     * back has room (after a while, if it has), and until then the client is not read. Any other: closed with 1011. */
    int (*message)(void *user, struct omid_conn *conn, enum omid_message type, const void *data, size_t len);
    /* The last callback of the connection; code is the close code as seen from here. May be NULL. */
    void (*closed)(void *user, struct omid_conn *conn, uint16_t code);
};

/* ----------------------------------------------------------------- metrics */

/* Up to two fixed labels per counter; values come from fixed sets, never a uid or a URL. */

/* ---------------------------------------------------------- speech to text */

struct omid_stt_params {
    uint32_t size;
    const char *uid, *session_id;
    const char *model;    /* as in stt.models: "dg-nova-3" */
    const char *language; /* BCP-47 or "multi" */
    uint32_t sample_rate; /* 8000..48000 */
    unsigned channel;     /* 0, or the channel of a multi-channel session */
    bool multi_channel;
};

struct omid_stt_segment {
    const char *text;
    double start, end; /* seconds of the audio handed to this stream */
    int speaker;       /* 0.. ; -1 unknown */
};

struct omid_stt_result {
    uint32_t size;
    const struct omid_stt_segment *segments; /* may be none: a final result without words still trims the replay */
    size_t n;
    double transcribed; /* everything before this second of the stream is final */
};

enum omid_stt_reason {
    OMID_STT_DONE,      /* after close(): all results were delivered */
    OMID_STT_BUSY,      /* no capacity: the next provider, or 1013 */
    OMID_STT_CONFIG,    /* refused for a reason that retrying can't mend (key, parameters) */
    OMID_STT_UNREACHED, /* the connect sequence was used up, or the breaker is open */
    OMID_STT_LOST,      /* broke in mid-stream: worth another open() */
    OMID_STT_INTERNAL,
};
struct omid_stt_end {
    uint32_t size;
    enum omid_stt_reason reason;
    const char *text; /* for people; never a secret */
};

/* What a stream has done since open(). Set size before stats() and count no member beyond it. */
struct omid_stt_stats {
    uint32_t size;
    unsigned keepalives;      /* sent because there was no audio */
    unsigned finalizes;       /* sent */
    unsigned finalize_errors; /* finalize() calls that could not be served */
};

/* Audio as a whole: mono, the machine's byte order. 1.2 */
struct omid_audio {
    uint32_t size;
    const int16_t *pcm;
    size_t samples;
    uint32_t sample_rate;
};

/* The role `stt`. `stream` is whatever open() stored. */
struct omid_stt_role {
    uint32_t size;
    /* Is `model` one of this plugin's, and does it serve `language`? 1 yes, 0 no, -1 model not ours. */
    int (*serves)(void *state, const char *model, const char *language);
    /* OMID_OK: *stream is set, and stt_ready() or stt_closed() will follow, not within open().
     * OMID_EFULL: no capacity. Others: failed. `stt` stays valid until release() returns. */
    int (*open)(void *state, const struct omid_stt_params *params, struct omid_stt *stt, void **stream);
    /* Only after stt_ready(). OMID_OK: all samples taken (copied). OMID_EFULL: none; call stt_writable() later. */
    int (*audio)(void *stream, const int16_t *pcm, size_t samples);
    /* Results of what was sent are wanted now; audio may go on. May be NULL. */
    void (*finalize)(void *stream);
    /* No more audio. Remaining results, then stt_closed(OMID_STT_DONE). */
    void (*close)(void *stream);
    /* Ends at once whatever its state and frees; no call on `stt` afterwards. Exactly once per successful open(). */
    void (*release)(void *stream);

    /* 1.1. At any time before release(): fills in what it counts. May be NULL. */
    void (*stats)(void *stream, struct omid_stt_stats *stats);

    /* 1.2. A recording that is there as a whole (params: uid, model, language, sample_rate). Answered with segments,
     * their times in seconds of the audio; none when nothing was said. May be NULL. See "questions". */
    int (*transcribe)(void *state, const struct omid_stt_params *params, const struct omid_audio *audio,
                      struct omid_ask *ask);
};

/* ---------------------------------------------------------- voice activity */

/*
 * The role `vad` (1.1): is there speech in this audio? The session asks for every chunk of every stream and decides by
 * the answer what speech-to-text gets, so each call counts: a few microseconds, no allocation in window(), nothing that
 * waits. An engine belongs to one stream of audio. Reactor. The first plugin of the configuration that has the role
 * serves all sessions; an error of any call ends its use in that session, which then sends all its audio.
 */
struct omid_vad_role {
    uint32_t size;
    /* OMID_OK: *engine is set, for audio of this rate (8000..48000). */
    int (*open)(void *state, uint32_t sample_rate, void **engine);
    /* The next chunk, at most 100 ms, without a gap to the one before. *probability (0..1) is how likely it is that the
     * speaker is speaking at its end. */
    int (*window)(void *engine, const int16_t *pcm, size_t samples, float *probability);
    /* Frees. Exactly once per successful open(). */
    void (*close)(void *engine);

    /* 1.2. Where is speech in a recording? engine: "hosted", "local", or NULL, the best there is. Answered with
     * intervals, ascending, not overlapping; mode: the engine that found them. May be NULL. See "questions". */
    int (*scan)(void *state, const char *engine, const struct omid_audio *audio, struct omid_ask *ask);
};

/* ------------------------------------------------------- questions (1.2) */

/*
 * Some roles are asked: the daemon calls the role's function with a question and a handle, and the plugin answers when
 * it knows, exactly once, on the same reactor, perhaps within the call. What the question points to is valid until the
 * call returns. An error from the call is the answer, and `ask` is then void.
 *
 * The first plugin of the configuration that has the role is asked. Who asks may stop waiting at any time: the answer
 * then goes nowhere, and is due all the same. What stop() leaves unanswered is answered with OMID_ECLOSED by the host.
 */
struct omid_interval {
    double start, end; /* seconds */
};

struct omid_answer {
    uint32_t size;
    /* OMID_OK, or: OMID_ERR: failed, worth trying again; OMID_EINVAL: this can't be served, ever; OMID_ENOTSUP: there
     * is nothing to process in it; OMID_EFULL: no room now; OMID_ETIMEOUT; OMID_ECLOSED. */
    int result;
    const char *text; /* why not, for people; never a secret. NULL with OMID_OK */
    const char *mode; /* by which way it was made: "hosted", "local", "extractive". Static; or NULL */
    /* What counts is said at each role. */
    const char *json;
    size_t json_len;
    const float *vector;
    size_t n_vector;
    const struct omid_interval *intervals;
    size_t n_intervals;
    const struct omid_stt_segment *segments;
    size_t n_segments;
    const struct omid_audio *audio;
};

/* A voice as a vector: the role `embed`. At least 0.5 s of audio. Answered with vector. */
struct omid_embed_role {
    uint32_t size;
    int (*embed)(void *state, const struct omid_audio *audio, struct omid_ask *ask);
};

/* Where is that? The role `geocode`. Degrees, within their ranges. Answered with json: {"google_place_id", "latitude",
 * "longitude", "address", "location_type"}. */
struct omid_geocode_role {
    uint32_t size;
    int (*geocode)(void *state, double latitude, double longitude, struct omid_ask *ask);
};

enum omid_summary_kind { OMID_SUMMARY_CONVERSATION, OMID_SUMMARY_DAY };
struct omid_summary_request {
    uint32_t size;
    enum omid_summary_kind kind;
    const char *uid, *conversation_id; /* conversation_id NULL: of a day */
    const char *language;              /* BCP-47; "" unknown */
    const char *json;                  /* the conversation; of a day: an array of conversations */
    size_t json_len;
};
/* The role `summarize`. Answered with json: {"title", "overview", "emoji", "category", "action_items", "events"}; of a
 * day the same without events. OMID_ENOTSUP: there is nothing to process. */
struct omid_summarize_role {
    uint32_t size;
    int (*summarize)(void *state, const struct omid_summary_request *req, struct omid_ask *ask);
};

struct omid_audio_range {
    uint32_t size;
    const char *uid, *conversation_id;
    int64_t from_ms, to_ms; /* Unix ms */
};
/* The role `audio_store`: recordings of conversations. */
struct omid_audio_store_role {
    uint32_t size;
    /* Keeps audio of a conversation whose first sample was at start_ms (Unix ms); answered when it can't be lost any
     * more. Live audio comes as OMID_EVENT_AUDIO; this is for recordings made elsewhere. */
    int (*write)(void *state, const char *uid, const char *conversation_id, int64_t start_ms,
                 const struct omid_audio *audio, struct omid_ask *ask);
    /* Answered with audio: what is there of the range, silence where there is a gap; OMID_ENOTSUP: nothing is. */
    int (*read)(void *state, const struct omid_audio_range *range, struct omid_ask *ask);
};

struct omid_endpoint;
/* The role `hooks`: who delivers to endpoints of the registry. */
struct omid_hooks_role {
    uint32_t size;
    /* Is the app set up for this user? Asks setup_completed_url. Answered with OMID_OK, OMID_ENOTSUP (it is not), or an
     * error. */
    int (*setup_check)(void *state, const char *uid, const char *setup_completed_url, struct omid_ask *ask);
    /* Delivers a test event to the endpoint, once. Answered with json: {"status", "elapsed_ms", "answer", "error"}. */
    int (*test)(void *state, const char *uid, const struct omid_endpoint *endpoint, struct omid_ask *ask);
};

/* ---------------------------------------------------- the registry (1.2) */

/* What an endpoint is told about. */
enum omid_trigger {
    OMID_TRIGGER_TRANSCRIPT,
    OMID_TRIGGER_AUDIO,
    OMID_TRIGGER_MEMORY,
    OMID_TRIGGER_DAY_SUMMARY,
    OMID_TRIGGER_EVENT, /* custom events, of the types in `events` */
    OMID_TRIGGERS
};
enum omid_capability {
    OMID_CAPABLE_PROACTIVE_NOTIFICATION = 1u << 0,
};

/* A place that users have registered: an app that is enabled for the user, or a webhook of their own. Read-only, valid
 * until endpoints_release(). */
struct omid_endpoint {
    uint32_t size;
    const char *id;            /* unique and lasting, at most 64 characters: of the app, or of the webhook */
    bool app;                  /* else a developer's webhook */
    const char *name;          /* the app's; "" for a webhook */
    const char *uid;           /* whose it is: the webhook's user, the app's owner */
    const char *url;           /* http or https, as registered: go there with OMID_HTTP_USER_URL */
    uint32_t triggers;         /* 1u << enum omid_trigger each */
    uint32_t capabilities;     /* enum omid_capability */
    const char *const *events; /* "order.paid", "order.*", "*"; NULL-terminated */
    const char *filter;        /* JSON object, path to wanted value: {"order.state": "paid"}; "" for none */
    uint32_t audio_ms;         /* OMID_TRIGGER_AUDIO: more audio than this is sent */
    bool ordered;
    uint32_t rate_per_min;      /* 0: no bound */
    const char *const *secrets; /* whsec_..., all that sign now, the newest first, at most 5; NULL-terminated */
};
struct omid_endpoints {
    uint32_t size;
    size_t n;
    const struct omid_endpoint *const *endpoint;
};

enum omid_delivery_outcome {
    OMID_DELIVERY_OK,
    OMID_DELIVERY_FAILED, /* an attempt, answered or not */
    OMID_DELIVERY_GONE,   /* 410: it is disabled at once */
};

/* -------------------------------------------------------------- the plugin */

struct omid_host;

enum omid_plugin_flags {
    OMID_PLUGIN_BLOCKS_ON_EXECUTORS = 1u << 0, /* blocking symbols are used, on executor threads only */
    OMID_PLUGIN_USER_URLS = 1u << 1, /* its URLs are registered by users (OMID_HTTP_USER_URL): its lane takes no proxy,
                                        behind which addresses can't be checked. Since 1.1 */
};

struct omid_plugin {
    /* Read before anything else is touched. */
    uint32_t magic;
    uint16_t abi_major, abi_minor;
    uint32_t size;

    uint32_t flags;
    const char *name; /* [a-z][a-z0-9_-]*, as in omi.conf's `plugin NAME` */
    const char *version;
    const char *summary;                   /* one line, for omictl */
    const struct omid_option *options;     /* or NULL */
    const struct omid_lane_defaults *lane; /* or NULL */
    uint32_t events;                       /* OMID_EVENT_MASK()s; 0: none */

    /*
     * Main thread, once per (re)load, also under `omid -t`: check what the option table can't, add routes and
     * metrics, and build what the instances share (*shared, read-only or with atomics of its own). No threads, no
     * files, no sockets. On error call conf_error() and return OMID_EINVAL. May be NULL.
     */
    int (*configure)(struct omid_module *mod, const struct omid_host *host, void **shared);
    /* Main thread: after the last instance has stopped, or after configure() under `omid -t`. May be NULL. */
    void (*unconfigure)(void *shared);

    /* Reactor, first callback of the instance. *state is handed to all others. An error leaves the plugin out. */
    int (*start)(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state);
    /* One event of the mask. An error is counted and logged. Required when events != 0. */
    int (*event)(void *state, const struct omid_event *ev);
    /* One attempt of a job this plugin enqueued: job_finish(run) now or later, exactly once. Required for jobs. */
    int (*job)(void *state, const struct omid_job_view *job, struct omid_job_run *run);
    /* No new work comes: finish, then call host->drained(). Bounded by the daemon's drain time. NULL: at once. */
    void (*drain)(void *state);
    /* Last callback: free everything. Handles still open are cancelled by the host afterwards, and reported. */
    void (*stop)(void *state);

    const struct omid_stt_role *stt; /* or NULL */

    /* 1.1 */
    const struct omid_vad_role *vad; /* or NULL */

    /* 1.2, each or NULL */
    const struct omid_embed_role *embed;
    const struct omid_geocode_role *geocode;
    const struct omid_summarize_role *summarize;
    const struct omid_audio_store_role *audio_store;
    const struct omid_hooks_role *hooks;
};

/* A plugin is compiled with -fvisibility=hidden; this symbol alone is seen:
 *     OMID_EXPORT const struct omid_plugin omid_plugin = { OMID_PLUGIN_HEAD, ... }; */
#if defined(__GNUC__)
#define OMID_EXPORT __attribute__((visibility("default")))
#else
#define OMID_EXPORT
#endif
#define OMID_PLUGIN_HEAD                                                                  \
    .magic = OMID_PLUGIN_MAGIC, .abi_major = OMID_ABI_MAJOR, .abi_minor = OMID_ABI_MINOR, \
    .size = sizeof(struct omid_plugin)

/* ---------------------------------------------------------------- the host */

enum omid_log_level { OMID_LOG_ERROR, OMID_LOG_WARNING, OMID_LOG_NOTICE, OMID_LOG_INFO, OMID_LOG_DEBUG };

#if defined(__GNUC__)
#define OMID_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define OMID_PRINTF(f, a)
#endif

/* Functions the daemon offers. Check `size` before using a member newer than 1.0. */
struct omid_host {
    uint32_t size;
    uint16_t abi_major, abi_minor;

    /* --- any thread --- */

    /* One line, without newline; repeated lines are limited. mod is never NULL. */
    void (*log)(struct omid_module *mod, enum omid_log_level level, const char *fmt, ...) OMID_PRINTF(3, 4);
    /* Monotonic milliseconds; Unix milliseconds. */
    uint64_t (*now_ms)(void);
    int64_t (*wall_ms)(void);
    /* 36 characters and NUL. */
    void (*uuid4)(char out[37]);
    /* Adds n; atomic. */
    void (*counter_add)(struct omid_counter *counter, uint64_t n);

    /* --- configure(): main thread --- */

    /* The value of an option of the table, default included. A wrong name or type fails configure(). Strings and lists
     * live as long as the module's configuration: until unconfigure() returns. NULL: absent. */
    bool (*conf_bool)(struct omid_module *mod, const char *key);
    int64_t (*conf_int)(struct omid_module *mod, const char *key); /* INT, DURATION (ms), SIZE (bytes) */
    double (*conf_float)(struct omid_module *mod, const char *key);
    const char *(*conf_str)(struct omid_module *mod, const char *key); /* STRING, ENUM, SECRET */
    const char *const *(*conf_list)(struct omid_module *mod, const char *key, size_t *n);
    /* Reports a fault of `key` with its file and line. */
    void (*conf_error)(struct omid_module *mod, const char *key, const char *fmt, ...) OMID_PRINTF(3, 4);
    /* OMID_EINVAL when the path is taken. The struct is copied, its strings are not. */
    int (*route_add)(struct omid_module *mod, const struct omid_route *route);
    /* omid_plugin_<name>_<what>_total{label="value"}. `help` one sentence. Strings static. label may be NULL.
     * NULL when the module has too many (64). */
    struct omid_counter *(*counter)(struct omid_module *mod, const char *what, const char *help, const char *label,
                                    const char *value);

    /* --- reactor --- */

    struct omid_module *(*module)(struct omid_instance *inst);
    unsigned (*reactor)(struct omid_instance *inst, unsigned *reactors); /* this one's number, and how many */

    /* Calls fn after delay_ms, then every repeat_ms (0: once). The handle stays until timer_stop(). NULL: no memory. */
    struct omid_timer *(*timer_start)(struct omid_instance *inst, uint32_t delay_ms, uint32_t repeat_ms,
                                      void (*fn)(void *arg), void *arg);
    void (*timer_stop)(struct omid_timer **timer);

    /* Through this plugin's lane. cb runs exactly once, never within http_start(), unless cancelled.
     * OMID_OK sets *out (may be NULL). When cb returns, the handle is gone: null yours in cb. */
    int (*http_start)(struct omid_instance *inst, const struct omid_http_request *req, omid_http_cb cb, void *arg,
                      struct omid_http **out);
    void (*http_cancel)(struct omid_http **http);

    /* OMID_OK sets *out; open() or closed() follows, not within this call. */
    int (*ws_connect)(struct omid_instance *inst, const struct omid_ws_request *req,
                      const struct omid_ws_events *events, void *arg, struct omid_ws **out);
    /* OMID_OK: queued or sent. OMID_EFULL: nothing taken, writable() will follow. OMID_ECLOSED: not open. */
    int (*ws_send)(struct omid_ws *ws, enum omid_message type, const void *data, size_t len);
    /* Sends what is queued, then Close; closed() follows when the peer answers, or after 3 s. */
    void (*ws_close)(struct omid_ws *ws, uint16_t code);
    /* At once, whatever its state (connecting included); no callbacks afterwards. Exactly once per ws_connect(). */
    void (*ws_release)(struct omid_ws **ws);

    /* OMID_OK, or OMID_EFULL (queue or the plugin's share of it), OMID_ECLOSED (shutting down). */
    int (*exec_submit)(struct omid_instance *inst, const struct omid_work *work);

    /* cb when the job is on disk (OMID_OK and its id; the id of the first for a repeated name), or is not
     * (OMID_EFULL: the queue's bound; OMID_ERR: the disk). Not within this call. */
    int (*job_enqueue)(struct omid_instance *inst, const struct omid_job *job, omid_enqueued_cb cb, void *arg);
    /* error may be NULL; kept with the job. */
    void (*job_finish)(struct omid_job_run **run, enum omid_job_outcome outcome, uint32_t retry_after_s,
                       const char *error);

    /* To the subscribers of this reactor, after the current callback. Only APP_MESSAGE and CUSTOM may be published;
     * since 1.2 an APP_MESSAGE goes to those of the reactor that has the uid's sessions. */
    int (*publish)(struct omid_instance *inst, const struct omid_event *ev);

    /* Answers; body is copied. ECLOSED when the client has left (still released). */
    int (*respond)(struct omid_exchange **ex, int status, const char *content_type, const void *body, size_t len);
    /* OMID_EFULL: nothing taken; return OMID_EFULL from message(), or wait for the next message. */
    int (*conn_send)(struct omid_conn *conn, enum omid_message type, const void *data, size_t len);
    /* Sends Close; closed() follows. reason at most 123 bytes. */
    void (*conn_close)(struct omid_conn *conn, uint16_t code, const char *reason);

    /* Results of an stt stream; see struct omid_stt_role. Ignored once the session has moved on. */
    void (*stt_ready)(struct omid_stt *stt);
    void (*stt_writable)(struct omid_stt *stt);
    void (*stt_result)(struct omid_stt *stt, const struct omid_stt_result *result);
    void (*stt_closed)(struct omid_stt *stt, const struct omid_stt_end *end);

    /* Ends the drain of this instance. */
    void (*drained)(struct omid_instance *inst);

    /* --- since 1.1 --- */

    /* configure(), main thread: a label of fan-outs, [a-z0-9_], at most 32 characters; logs and metrics say NAME:LABEL.
     * OMID_EFULL: beyond 16. */
    int (*gather_label)(struct omid_module *mod, const char *label);
    /* Reactor. OMID_OK sets *out (may be NULL). The request is copied. OMID_EFULL: 1,024 fan-outs or 262,144 items of
     * this instance are under way. One that stop() leaves open ends there, without callbacks. */
    int (*gather_start)(struct omid_instance *inst, const struct omid_gather_request *req, struct omid_gather **out);
    /* Reactor. The item is over: result OMID_OK, or an error that counts as a failure, which text (may be NULL)
     * explains for people. value goes to item(). OMID_ECLOSED: it was over before; value stays yours. */
    int (*gather_done)(struct omid_instance *inst, omid_gather_token token, int result, const char *text, void *value);
    /* Reactor. Calls abort() for items that run and drop() for values not yet handed over; then nothing more. */
    void (*gather_cancel)(struct omid_gather **gather);

    /* --- since 1.2 --- */

    /* Reactor. Answers a question of the daemon; what the answer points to is copied. */
    void (*answer)(struct omid_ask **ask, const struct omid_answer *answer);

    /* As respond(), with header lines of its own ("Name: value", NULL-terminated): not Content-Length, Connection or
     * Transfer-Encoding, and at most 16. */
    int (*respond_with)(struct omid_exchange **ex, int status, const char *content_type, const char *const *headers,
                        const void *body, size_t len);

    /* Reactor. An answer in pieces: the head, then `length` bytes, then the end. Headers as with respond_with(); stream
     * is copied. OMID_OK: respond_end() is due; else the exchange is as it was. Of a HEAD request the pieces are taken
     * and go nowhere. */
    int (*respond_begin)(struct omid_exchange *ex, int status, const char *content_type, const char *const *headers,
                         uint64_t length, const struct omid_stream *stream);
    /* OMID_EFULL: nothing taken; writable() will follow. OMID_ECLOSED: the client has left. OMID_EINVAL: beyond the
     * length. Pieces of at most 256 KiB. */
    int (*respond_data)(struct omid_exchange *ex, const void *data, size_t len);
    /* Releases. Before all of it was handed over the client sees a broken answer. */
    void (*respond_end)(struct omid_exchange **ex);

    /* Reactor. What is registered for the uid: its webhooks and the apps that are enabled for it, disabled ones left
     * out. Never NULL but without memory. */
    const struct omid_endpoints *(*endpoints)(struct omid_instance *inst, const char *uid);
    /* Reactor. One of them by its id, for a job that was enqueued for it: n is 1, or 0: it is gone, or disabled. */
    const struct omid_endpoints *(*endpoint_find)(struct omid_instance *inst, const char *id, const char *uid);
    void (*endpoints_release)(const struct omid_endpoints **endpoints);
    /* Reactor. What became of an attempt: endpoints that keep failing are disabled by the rules of the contract.
     * status: 0 when there was no answer; text for people, may be NULL. */
    void (*endpoint_report)(struct omid_instance *inst, const char *id, const char *uid,
                            enum omid_delivery_outcome outcome, int status, const char *text);

    /* Reactor. The plugin's own values, in the store: keys of 1 to 512 bytes, values up to 64 KiB. ttl_ms 0: for good.
     * value NULL: removed. cb (may be NULL) when it is on disk: OMID_OK, OMID_EFULL (1,000,000 keys or 256 MiB of keys
     * and values) or OMID_ERR. OMID_EFULL from the call: 4,096 puts and gets of this instance are under way. Calls of
     * an instance take effect in their order. What stop() leaves is done, without its cb. */
    int (*kv_put)(struct omid_instance *inst, const char *key, const void *value, size_t len, int64_t ttl_ms,
                  void (*cb)(void *arg, int result), void *arg);
    /* cb, not within this call: the value, valid until it returns; NULL with OMID_OK: there is none. */
    int (*kv_get)(struct omid_instance *inst, const char *key,
                  void (*cb)(void *arg, int result, const void *value, size_t len), void *arg);

    /* Any thread, from configure() on. The directory for files of this plugin's own: <state_dir>/plugins/<name>. It is
     * made by the first call outside of `omid -t`; NULL: it can't be. */
    const char *(*data_dir)(struct omid_module *mod);

    /* Reactor. All on disk, or none: OMID_OK and the callback follows. n may be 0 with a receipt, and is at most
     * 10,000; all have the same size. */
    int (*jobs_enqueue)(struct omid_instance *inst, const struct omid_job *jobs, size_t n,
                        const struct omid_receipt *receipt, omid_jobs_enqueued_cb cb, void *arg);
    /* Reactor, before job_finish(): what this attempt saw. Kept. A 429, and a 503 with a Retry-After, holds back all
     * jobs of the target for job_finish()'s retry_after_s, and has it asked more slowly from then on. */
    void (*job_attempt)(struct omid_job_run *run, const struct omid_attempt *attempt);
    /* Reactor. After OMID_EFULL: seconds until there is room again, as far as can be told. 1..300. */
    uint32_t (*jobs_retry_after)(struct omid_instance *inst);

    /* Any thread. A move to a fallback: one more of omi_fallback_total{component,from_mode,to_mode,reason,outcome}.
     * Each from a fixed set, [a-z0-9_], at most 32 characters; outcome: "degraded", or "exhausted" when nothing is
     * left. configure(): of those that may come, 0 shows them before the first. */
    void (*fallback)(struct omid_module *mod, const char *component, const char *from_mode, const char *to_mode,
                     const char *reason, const char *outcome, unsigned n);
};

#ifdef __cplusplus
}
#endif
#endif
