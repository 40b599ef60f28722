/*
 * omi.conf: one option table, typed values, errors that say where and what.
 *
 * A struct conf is immutable after conf_load(); it is replaced as a whole at reload. Main thread loads; any
 * thread reads. The table itself (names, types, ranges, defaults, help) is conf_table(): the man page, the sample file
 * and `omid -t` are checked against it.
 */
#ifndef OMID_CONF_CONF_H
#define OMID_CONF_CONF_H

#include <omid/plugin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "conf/lane.h"

#define CONF_MAX_LIST 256 /* values of a list whose option sets no bound of its own */

struct conf_list {
    char **item; /* n of them, then NULL */
    size_t n;
};

struct conf_plugin; /* one `plugin` block; see below */
struct conf_block;  /* one `app` or `webhook` block */

struct conf {
    uint32_t magic;
    struct {
        char *level, *format, *target; /* of log.h */
    } log;
    struct {
        char *state_dir;   /* store.db, queue.db */
        char *run_dir;     /* control.sock */
        char *plugin_dir;  /* where plugin blocks without path are looked for */
        unsigned reactors; /* 1..64 */
        uint32_t drain_ms; /* SIGTERM to exit at most */
        bool strict_lint;  /* plugins with blocking calls are refused */
    } daemon;
    struct {
        uint32_t slow_ms, fatal_ms;
    } watchdog;
    struct {
        uint64_t sessions; /* bytes */
        uint32_t check_ms; /* how often idle memory is looked for */
    } memory;
    struct {
        struct conf_list address; /* "0.0.0.0:8700", "[::]:8700"; port 0: any */
        unsigned threads;         /* 1..16 */
        unsigned max_connections, max_connections_per_address;
        uint64_t max_header, max_body, max_message; /* bytes */
        uint32_t request_timeout_ms;
        uint32_t answer_timeout_ms;       /* from a request to its answer; then 504 */
        uint32_t receive_timeout_ms;      /* not one byte on a WebSocket */
        uint32_t ping_interval_ms;        /* WebSocket pings, that find dead peers; 0: none */
        struct conf_list origins;         /* allowed Origin values; empty: any */
        struct conf_list trusted_proxies; /* addresses and networks whose X-Forwarded-For is believed */
        char *tls_certificate, *tls_key;
        struct {
            struct conf_list address; /* empty: no listener of its own */
            unsigned max_connections;
            uint64_t max_body;
            uint32_t request_timeout_ms;
        } upload;
    } ingress;
    struct {
        uint64_t keep_ms;      /* what is known of recordings that are done */
        uint64_t max_audio_ms; /* of one recording */
        unsigned max_files;    /* of one upload */
        unsigned running;      /* recordings of one reactor at once */
        unsigned attempts;
        uint32_t retry_ms; /* doubled at each failed one */
        uint32_t check_ms; /* how often waiting ones are looked for */
        uint32_t sweep_ms; /* and files that belong to none */
    } sync;
    struct {
        bool pcm8_u8;
        uint32_t conversation_timeout_ms, conversation_timeout_floor_ms;
        uint32_t inactivity_ms, ping_ms;
        uint32_t transcript_flush_ms, consumer_flush_ms, lifecycle_check_ms;
        uint32_t drain_ms, drain_bound_ms;
        uint64_t up_buffer, down_buffer, audio_buffer; /* bytes per session */
        uint32_t up_stall_ms, down_stall_ms;
        unsigned max_segments; /* waiting for a flush */
        unsigned max_photos;   /* waiting for the store */
        unsigned max_partial_photos;
        uint64_t max_photo, photo_buffer; /* bytes in base64: of one; of all that wait for pieces */
        uint32_t photo_timeout_ms, process_wait_ms, location_age_ms;
        unsigned max_sessions; /* of the whole daemon */
        uint32_t auth_timeout_ms;
    } listen;
    struct {
        unsigned sessions_per_uid, sessions_per_address;
        unsigned upgrades_per_uid, upgrades_per_address; /* a minute */
        unsigned unauthenticated;                        /* web clients that have not said yet who they are */
    } limits;
    struct {
        char *admin_key; /* NULL: the development token form is off */
        struct {
            char *project;  /* NULL: no id tokens are taken */
            char *issuer;   /* set when project is */
            char *jwks_url; /* the issuer's keys */
            uint32_t leeway_ms, wait_ms, refresh_min_ms, stale_ms;
        } jwt;
        struct conf_lane lane; /* that fetches the keys */
    } auth;
    struct {
        struct conf_list models; /* in the order of preference */
        uint32_t replay_ms;      /* audio kept for a reconnect */
        double catch_up;         /* replay at most this many times real time */
        uint32_t stall_ms;       /* a stream that falls so far behind is lost */
        char *gate;              /* "off", "shadow", "active" */
        double gate_threshold;   /* probability above which a chunk is speech */
        uint32_t gate_preroll_ms, gate_hangover_ms, gate_finalize_ms;
    } stt;
    struct {
        double threshold; /* a cosine distance below it is a match */
        uint64_t memory;  /* bytes of audio for all sessions' matching and samples together */
        uint64_t voices;  /* bytes of one user's voices */
        uint32_t ring_ms; /* of a session's audio */
        uint32_t min_speech_ms, max_speech_ms;
        uint32_t timeout_ms; /* of one question, live */
        unsigned attempts;   /* questions for one speaker of a session */
        uint32_t sample_age_ms, sample_check_ms, sample_retry_ms, sample_give_up_ms, sample_drain_ms;
        unsigned sample_attempts;
        uint32_t profile_min_ms, profile_max_ms, profile_scan_ms;
    } speakers;
    struct {
        uint32_t flush_ms;  /* changed segments to disk */
        uint32_t commit_ms; /* group commit */
        uint32_t sweep_ms;  /* looks for conversations without a session whose timeout has passed */
    } store;
    struct {
        unsigned max_apps, max_webhooks, max_enabled;
        unsigned webhook_failures;        /* in a row; then it is disabled */
        uint64_t app_failing_ms;          /* the same, for apps */
        uint64_t secret_overlap_ms;       /* an old secret signs on for so long */
        uint32_t flush_ms;                /* counted failures to disk */
        uint32_t setup_check_ms, test_ms; /* how long the answers of apps and webhooks are waited for */
    } registry;
    struct {
        unsigned at_once, waiting; /* per reactor */
        unsigned attempts, summary_attempts;
        uint32_t retry_ms, retry_max_ms, summary_timeout_ms;
    } processing;
    struct {
        bool enabled;
        char *at; /* "HH:MM" */
        char *timezone;
        uint32_t check_ms;
        unsigned at_once, attempts;
        uint64_t keep_ms;
    } day_summary;
    struct {
        uint32_t commit_ms;
        uint32_t lease_ms;
        unsigned in_flight, in_flight_per_target;
        uint64_t max_jobs, max_bytes;
        double max_share;        /* 0.5 = 50 %, of one target */
        struct conf_list retry;  /* durations */
        uint32_t *retry_ms;      /* the same, parsed: retry.n of them */
        double jitter;           /* 0.2 = +-20 % */
        uint64_t dead, attempts; /* kept */
        uint64_t dead_keep_ms, attempts_keep_ms;
        unsigned replay_rate; /* a second */
    } queue;
    struct {
        unsigned critical, storage, blocking; /* threads */
        unsigned queue;                       /* waiting per pool */
    } exec;
    struct conf_plugin *plugin;
    size_t n_plugins;
    struct conf_block *block; /* in the order of the file */
    size_t n_blocks;
    char *file; /* the main file; "(embedded)" for the built-in one */
};
#define CONF_MAGIC UINT32_C(0x636f6e66)

/* One option's value inside a plugin block. */
struct conf_value {
    const struct omid_option *option; /* in the plugin's file: not to be read once that is closed */
    enum omid_opt_type type;          /* the same as option's: conf_free() may come after the plugin was closed */
    bool set;                         /* in the file or the environment; else the default */
    const char *file;
    int line; /* 0: not in the file */
    union {
        bool b;
        int64_t i;
        double d;
        char *s;
        struct conf_list list;
    } v;
};
struct conf_plugin {
    char *name;
    char *path; /* of the .so: as given, or plugin_dir/NAME.so */
    bool required;
    char *left_out; /* why the file can't be used; NULL: it can. Then there are no values. */
    const char *file;
    int line; /* of the block */
    struct conf_lane lane;
    struct conf_value *value; /* one per option of the plugin's table, same order */
    size_t n_values;
};

/* Its values are of their types; whether they make sense as a whole, whoever uses it knows. */
struct conf_block {
    bool app; /* else a webhook */
    char *id;
    const char *file;
    int line;
    struct conf_value *value; /* one per line of the table */
    size_t n_values;
};
/* One fault. Formatted "omi.conf:12: plugin deepgram: semaphore: expected a number from 1 to 4096, found "x"". */
struct conf_faults {
    struct buf text; /* one line each */
    unsigned errors, warnings;
};
void conf_fault(struct conf_faults *f, bool warning, const char *file, int line, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
void conf_faults_free(struct conf_faults *f);

/* NULL: there is no such key in the block. */
const struct conf_value *conf_block_value(const struct conf_block *b, const char *key);
/* A fault of a key (NULL: of the block) of this block, at its line. */
void conf_block_fault(struct conf_faults *f, const struct conf_block *b, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/*
 * How conf learns a plugin's options (the host's loader). On success *plugin is valid until conf_source.done(arg).
 * On failure err says why (missing file, no symbol, wrong ABI, ...).
 */
struct conf_source {
    const struct omid_plugin *(*describe)(void *arg, const char *name, const char *path, char *err, size_t errlen);
    /* Before the first describe(): every section but the plugins is in c. May be NULL. */
    void (*core_read)(void *arg, const struct conf *c);
    void *arg;
};

/*
 * Reads `path` (NULL: the embedded default text). Two passes: the first finds plugin blocks and describes them, the
 * second checks every value. NULL when there was an error; faults then has at least one. Warnings alone don't fail.
 * A plugin that can't be described is an error if its block says required = true, else a warning, and left out.
 */
struct conf *conf_load(const char *path, const struct conf_source *source, struct conf_faults *faults);
/* The same from text. name stands for the file in messages. */
struct conf *conf_load_text(const char *text, const char *name, const struct conf_source *source,
                            struct conf_faults *faults);
/* One more holder; a running configuration has many, each on a thread of its own, and ends with the last. */
struct conf *conf_ref(const struct conf *c);
/* One holder less. Any thread. */
void conf_free(struct conf **c);
/* Before `next` takes the place of `now`: what can't change while the daemon runs keeps its value, each told as a
 * warning. Main thread; nobody else may have `next` yet. */
void conf_carry(struct conf *next, const struct conf *now, struct conf_faults *faults);
/* Do two blocks say the same to the plugin? The lane's settings aside. */
bool conf_plugin_same(const struct conf_plugin *a, const struct conf_plugin *b);

/* The embedded default file (etc/embedded.conf at build time). */
extern const char conf_embedded_text[];

/* The core's table: "section.option" lines for the man page check; ends with section NULL. */
struct conf_entry {
    const char *section; /* "ingress", "ingress.tls", "plugin", "plugin.breaker", "plugin.target.breaker" */
    struct omid_option option;
};
const struct conf_entry *conf_table(void);

/* "30s" -> 30000, "10MiB" -> 10485760. false with what was expected in err. */
bool conf_parse_duration(const char *s, uint64_t *ms, char *err, size_t errlen);
bool conf_parse_size(const char *s, uint64_t *bytes, char *err, size_t errlen);

const struct conf_plugin *conf_plugin_find(const struct conf *c, const char *name);
const struct conf_value *conf_value_find(const struct conf_plugin *p, const char *key);

#endif
