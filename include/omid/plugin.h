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
 * Here: the version, options and the table that a plugin exports. Of the other parts read what you need:
 *
 *     omid/base.h      results, handles
 *     omid/event.h     what a plugin is told of, and may publish
 *     omid/out.h       HTTP requests and WebSockets to the outside
 *     omid/work.h      executors, fan-outs, durable jobs
 *     omid/route.h     HTTP and WebSocket routes of its own
 *     omid/role.h      roles: speech to text, voice activity, summaries ...
 *     omid/registry.h  apps and webhooks that users have registered
 *     omid/host.h      the functions that the daemon offers
 *
 * See omid-plugin(3), and plugins/echo for the smallest complete example.
 */
#ifndef OMID_PLUGIN_H
#define OMID_PLUGIN_H

#include <omid/base.h>
#include <omid/event.h>
#include <omid/host.h>
#include <omid/out.h>
#include <omid/registry.h>
#include <omid/role.h>
#include <omid/route.h>
#include <omid/work.h>

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
 *        OMID_EVENT_CONVERSATION_DELETED; omid_event.people, .id, .revision
 */
#define OMID_PLUGIN_MAGIC UINT32_C(0x6f6d6964)
#define OMID_ABI_MAJOR 1
#define OMID_ABI_MINOR 2

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

/* -------------------------------------------------------------- the plugin */

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
    /* No new work comes: finish, then call host->drained(). Bounded by the daemon's drain time. NULL: when its
     * requests, its work on executors, jobs, enqueues and fan-outs are over. */
    void (*drain)(void *state);
    /* Last callback: free everything. Handles still open are cancelled by the host afterwards, and reported; threads
     * and descriptors of the plugin's own are not known to it. A thread that outlives unconfigure() loses its code. */
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

#ifdef __cplusplus
}
#endif
#endif
