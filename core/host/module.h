/*
 * Inside the host: modules, instances and their handles. Nobody outside core/host includes this.
 *
 * A module is self-contained (its file, values, lane, counters and instances), so that two generations of one name
 * can live side by side. It is counted: the host holds one reference, and so does every piece of work on an executor,
 * whose code is in the module's file. The last one closes the file.
 *
 * Handles (timers, requests ...) are in their instance's lists from creation to release. What is still there after
 * stop() is cancelled underneath and *buried*: the memory stays, marked dead, until the module is freed, so that
 * a plugin that calls back with it is told OMID_ETHREAD instead of reading freed memory.
 */
#ifndef OMID_HOST_MODULE_H
#define OMID_HOST_MODULE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "base/magic.h"
#include "host/host.h"
#include "host/loader.h"
#include "lane/exec/exec.h"
#include "lane/http/lane.h"
#include "lane/queue/queue.h"

#define HOST_MAGIC UINT32_C(0x686f7374)
#define MODULE_MAGIC UINT32_C(0x6d6f6475)
#define INSTANCE_MAGIC UINT32_C(0x696e7374)
#define TIMER_MAGIC UINT32_C(0x74696d65)
#define HTTP_MAGIC UINT32_C(0x68747470)
#define WS_MAGIC UINT32_C(0x776f7574)
#define WORK_MAGIC UINT32_C(0x776f726b)
#define ENQUEUE_MAGIC UINT32_C(0x656e7175)
#define JOB_RUN_MAGIC UINT32_C(0x6a6f6272)
#define COUNTER_MAGIC UINT32_C(0x636f756e)
#define GATHER_MAGIC UINT32_C(0x67617468)

#define MODULE_MAX_ROUTES 64
#define MODULE_MAX_COUNTERS 64
#define INSTANCE_MAX_TIMERS 65536
#define INSTANCE_MAX_GATHERS 1024
#define INSTANCE_MAX_GATHER_ITEMS 262144 /* of all together: 12 MB */
#define INSTANCE_MAX_VALUES 4096         /* puts and gets under way */
#define GATHER_MAX_LABELS 16             /* of one plugin */
#define GATHER_MAX_LABEL 32              /* characters */
#define LOG_LINES_PER_WINDOW 200         /* of one module, whatever they say */
#define LOG_WINDOW_MS 10000

enum module_state {
    MODULE_LOADED,
    MODULE_CONFIGURED,
    MODULE_STARTING,
    MODULE_STARTED,
    MODULE_RETIRING, /* out of the configuration: serves what it has, gets nothing new */
    MODULE_DRAINING,
    MODULE_STOPPING,
    MODULE_STOPPED,
    MODULE_FAILED,
};

enum instance_state {
    INSTANCE_NEW,
    INSTANCE_STARTING, /* within start() */
    INSTANCE_RUNNING,
    INSTANCE_DRAINING,
    INSTANCE_DRAINED,
    INSTANCE_STOPPING, /* within stop(): handles may be released, none be created */
    INSTANCE_STOPPED,
};

/* What a plugin holds, by kind: the gauges of host_status(). */
enum handle_kind {
    HANDLE_TIMER,
    HANDLE_HTTP,
    HANDLE_WS,
    HANDLE_WORK,
    HANDLE_ENQUEUE,
    HANDLE_JOB,
    HANDLE_ATTACHED, /* connections and exchanges of its routes */
    HANDLE_GATHER,
    HANDLE_ASK,
    HANDLE_VALUE,
    HANDLE_KINDS
};
extern const char *const handle_names[HANDLE_KINDS];

struct omid_counter {
    uint32_t magic;
    struct metric *metric;
    const char *what, *label, *value; /* interned */
};

struct account {
    _Atomic uint64_t callbacks, ns, max_ns, errors, slow, events, misuse, leaked, log_dropped, late;
    _Atomic int64_t open[HANDLE_KINDS];
    _Atomic int64_t memory; /* bytes of handles and of what they hold for the plugin, buried ones included */
};

/* Of fan-outs: their metrics. */
struct gather_label {
    char name[2 * 32 + 2]; /* "plugin:label" */
    struct metric *failures, *duration;
};

struct omid_module {
    uint32_t magic;
    atomic_uint refs;
    atomic_uint users;    /* who may still bring it work: views, routes, channels, streams, jobs on their way */
    struct list link;     /* in host.retired; main thread, under host.lock */
    uint64_t deadline_ms; /* of DRAINING and STOPPING, when retired; main thread */
    bool told_late;
    struct host *host;
    struct conf *owner;      /* of conf; held */
    struct library *library; /* NULL: the file could not be taken */
    const struct omid_plugin *plugin;
    const struct conf_plugin *conf;
    const char *name; /* interned: log lines and metrics may outlive the module */
    unsigned generation;
    struct lane *lane;
    struct conf_lane lane_conf; /* what it was told last; main thread */
    void *shared;
    bool configured;            /* configure() succeeded and unconfigure() is due */
    struct conf_faults *faults; /* during configure() only */
    bool misconfigured;         /* a conf_*() call that can't be served: configure() fails whatever it returns */

    _Atomic int state; /* enum module_state; module_set_state() */
    pthread_mutex_t lock;
    char reason[256]; /* why it is not running; locked */
    struct list dead; /* of struct tombstone; locked */

    struct omid_route route[MODULE_MAX_ROUTES];
    unsigned n_routes;
    struct omid_counter counter[MODULE_MAX_COUNTERS];
    unsigned n_counters;
    struct gather_label gather_label[GATHER_MAX_LABELS]; /* of configure() */
    unsigned n_gather_labels;

    const char *data_dir; /* interned; locked; NULL: not made yet */

    struct account account;
    _Atomic uint64_t log_window_ms, log_lines;

    struct omid_instance *instance; /* n_instances of them; as many as reactors */
    unsigned n_instances;
};

struct omid_instance {
    uint32_t magic;
    struct omid_module *module;
    struct loop *loop;
    unsigned reactor;
    void *state;
    _Atomic int phase; /* enum instance_state; written on the reactor, read anywhere */
    atomic_bool quiet; /* drained, and nothing of it is under way */
    bool failed;       /* start() answered an error */
    struct list open[HANDLE_KINDS];
    size_t n_timers;
    size_t n_values;
    struct omid_gather **gather; /* INSTANCE_MAX_GATHERS places; NULL before the first */
    uint64_t gather_serial;
    size_t n_gather_items;
};

/* Memory of a handle that outlived its instance. Every handle begins with a magic and this. */
struct tombstone {
    struct list link;
    void *memory;
};

/* What one reactor's events and streams go to: the modules of the configuration, in its order. Each is used. Replaced
 * as a whole, on the reactor's thread alone. */
struct host_view {
    unsigned n;
    struct omid_module *module[];
};

/* What the generations of a name that are gone have done, so that its counters go on. */
struct past {
    struct past *next;
    const char *name; /* interned */
    struct account account;
};

struct host {
    uint32_t magic;
    struct host_env env;
    pthread_mutex_t lock; /* modules against host_status() and the dispatcher */
    pthread_cond_t changed;
    struct host_view **view;    /* one per reactor */
    struct list retired;        /* of struct omid_module; main thread writes, under lock */
    struct past *past;          /* one per name ever configured; under lock */
    struct host_change *change; /* under way: what will be; main thread */
    uint32_t drain_ms;          /* of retired modules; main thread */
    struct omid_module **module;
    unsigned n_modules;
    unsigned next_generation;
    bool stopped;
};

/* reload.c */
struct host_view *view_new(struct omid_module *const *module, unsigned n);
void view_free(struct host_view **v);
/* The modules that this configuration step looks at: those of the change under way, or those that run. */
struct omid_module **host_forming(const struct host *h, unsigned *n);
/* Every module there is, retired ones behind the others. Host locked, or main thread. NULL: no more. */
struct omid_module *host_next(const struct host *h, const struct omid_module *after);
void account_add(struct account *to, const struct account *from);

/* Of the configuration, and not running because it failed. Main thread. NULL: none. */
struct omid_module *host_failed(const struct host *h, const char *name);

/* One more who may bring it work, and one less. Any thread. */
struct omid_module *module_use(struct omid_module *mod);
void module_unuse(struct omid_module **mod);

/* host.c */
void host_post_all(struct omid_module *mod, void (*fn)(struct omid_instance *));
void host_stop_step(struct omid_instance *inst);
bool host_module_start(struct omid_module *mod);
const char *host_name_clash(struct omid_module *const *module, unsigned n, const char *name);

/* module.c */
const char *module_state_name(enum module_state s);
void module_set_state(struct omid_module *mod, enum module_state to);
enum module_state module_state(const struct omid_module *mod);
void module_fail(struct omid_module *mod, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void module_reason(struct omid_module *mod, char out[256]);
struct omid_module *module_new(struct host *h, const struct conf *owner, const struct conf_plugin *conf);
struct omid_module *module_ref(struct omid_module *mod);
void module_unref(struct omid_module **mod); /* the last: closes the file */
bool module_configure(struct omid_module *mod, struct conf_faults *faults);
void module_unconfigure(struct omid_module *mod);
void module_account_open(struct omid_module *mod, enum handle_kind kind, int n);
void module_account_memory(struct omid_module *mod, int64_t bytes);

/* instance.c */
enum instance_state instance_phase(const struct omid_instance *inst);
void instance_set_phase(struct omid_instance *inst, enum instance_state to);
void instance_init(struct omid_instance *inst, struct omid_module *mod, unsigned reactor, struct loop *loop);
/* Reactor. */
int instance_start(struct omid_instance *inst);
void instance_drain(struct omid_instance *inst);
void instance_stop(struct omid_instance *inst);
/* Tells host_drain() when nothing of a drained instance is under way any more. Reactor. */
void instance_maybe_quiet(struct omid_instance *inst);
/* OMID_OK: on its thread and alive. Else OMID_ETHREAD, logged and counted. */
int instance_check(const struct omid_instance *inst, const char *function);
/* The same, and new handles may be made: OMID_ECLOSED within stop(). */
int instance_check_new(const struct omid_instance *inst, const char *function);
void instance_link(struct omid_instance *inst, enum handle_kind kind, struct list *link);
void instance_unlink(struct omid_instance *inst, enum handle_kind kind, struct list *link);
void instance_bury(struct omid_instance *inst, void *memory);

/* One per kind of handle; all on the reactor. `cancel` functions are called by instance_stop() alone. */
struct omid_timer *timer_start(struct omid_instance *inst, uint32_t delay_ms, uint32_t repeat_ms, void (*fn)(void *arg),
                               void *arg);
void timer_stop(struct omid_timer **timer);
void timer_cancel(struct list *link, struct omid_instance *inst);
int http_start(struct omid_instance *inst, const struct omid_http_request *req, omid_http_cb cb, void *arg,
               struct omid_http **out);
void http_cancel(struct omid_http **http);
void http_bury(struct list *link, struct omid_instance *inst);
int ws_connect(struct omid_instance *inst, const struct omid_ws_request *req, const struct omid_ws_events *events,
               void *arg, struct omid_ws **out);
int ws_send(struct omid_ws *ws, enum omid_message type, const void *data, size_t len);
void ws_close(struct omid_ws *ws, uint16_t code);
void ws_release(struct omid_ws **ws);
void ws_bury(struct list *link, struct omid_instance *inst);
int work_submit(struct omid_instance *inst, const struct omid_work *work);
void work_settle(struct omid_instance *inst); /* before stop(): done() of all that does not run now */
void work_abandon(struct list *link, struct omid_instance *inst);
int job_enqueue(struct omid_instance *inst, const struct omid_job *job, omid_enqueued_cb cb, void *arg);
int jobs_enqueue(struct omid_instance *inst, const struct omid_job *jobs, size_t n, const struct omid_receipt *receipt,
                 omid_jobs_enqueued_cb cb, void *arg);
uint32_t jobs_retry_after(struct omid_instance *inst);
void job_attempt(struct omid_job_run *run, const struct omid_attempt *attempt);
void enqueue_abandon(struct list *link, struct omid_instance *inst);
void job_finish(struct omid_job_run **run, enum omid_job_outcome outcome, uint32_t retry_after_s, const char *error);
void job_run_abandon(struct list *link, struct omid_instance *inst);

/* gather.c */
int gather_label(struct omid_module *mod, const char *label);
int gather_start(struct omid_instance *inst, const struct omid_gather_request *req, struct omid_gather **out);
int gather_done(struct omid_instance *inst, omid_gather_token token, int result, const char *text, void *value);
void gather_cancel(struct omid_gather **gather);
void gather_bury(struct list *link, struct omid_instance *inst);

/* values.c */
int value_put(struct omid_instance *inst, const char *key, const void *value, size_t len, int64_t ttl_ms,
              void (*cb)(void *arg, int result), void *arg);
int value_get(struct omid_instance *inst, const char *key,
              void (*cb)(void *arg, int result, const void *value, size_t len), void *arg);
void value_settle(struct omid_instance *inst); /* after stop(): puts that nobody waits for go on without it */
void value_metrics(const char *plugin);        /* shown before the first of them */
void value_abandon(struct list *link, struct omid_instance *inst);

/* ask.c */
void ask_answer(struct omid_ask **ask, const struct omid_answer *answer);
void ask_metrics(void); /* shown before the first question */
void ask_bury(struct list *link, struct omid_instance *inst);
/* Is there one whose answer somebody waits for? The others do not hold up a drain. */
bool ask_waited_for(struct list *open);

/* datadir.c */
const char *host_data_dir(struct omid_module *mod);

/* table.c */
extern const struct omid_host host_table;
void table_set_services(const struct host_services *services, struct host *h);
const struct host_services *table_services(void);

/* endpoints.c */
const struct omid_endpoints *endpoints_of(struct omid_instance *inst, const char *uid);
const struct omid_endpoints *endpoint_find(struct omid_instance *inst, const char *id, const char *uid);
void endpoints_release(const struct omid_endpoints **endpoints);
void endpoint_report(struct omid_instance *inst, const char *id, const char *uid, enum omid_delivery_outcome outcome,
                     int status, const char *text);

/* status.c */
void host_collect(void *arg, struct buf *out);

/* intern.c: a copy that is never freed; the same text gives the same pointer. Any thread. NULL: no memory. */
const char *intern(const char *text);

#endif
