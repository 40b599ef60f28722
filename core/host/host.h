/*
 * The host: loads plugins, keeps one module per plugin and one instance per module and reactor, hands them struct
 * omid_host, times and counts every callback.
 *
 * Life of a module: LOADED -> CONFIGURED -> STARTED (all reactors) -> DRAINING -> STOPPED. A plugin that fails
 * on the way is left out and says why in host_status(); with required = true host_configure()/host_start() fail.
 */
#ifndef OMID_HOST_HOST_H
#define OMID_HOST_HOST_H

#include <omid/plugin.h>
#include <stdbool.h>

#include "base/json.h"
#include "base/list.h"
#include "base/loop.h"
#include "conf/conf.h"

struct host;
struct lanes;
struct exec;
struct queue;
struct loader;

/* ---- loader: describing and opening .so files. Main thread. ---- */
struct loader *loader_new(void);
void loader_clear(struct loader *l); /* closes what no host took */
void loader_free(struct loader **l); /* the same */
/* A conf_source on this loader: opens RTLD_NOW|RTLD_LOCAL, checks magic, major, minor, size, name, tables. */
struct conf_source loader_source(struct loader *l);

/* ---- what lies above the host and is offered to plugins: set once before host_start() ---- */
struct host_services {
    void *arg;
    int (*publish)(void *arg, unsigned reactor, const struct omid_event *ev);
    int (*respond)(struct omid_exchange **ex, int status, const char *content_type, const void *body, size_t len);
    int (*respond_with)(struct omid_exchange **ex, int status, const char *content_type, const char *const *headers,
                        const void *body, size_t len);
    int (*respond_begin)(struct omid_exchange *ex, int status, const char *content_type, const char *const *headers,
                         uint64_t length, const struct omid_stream *stream);
    int (*respond_data)(struct omid_exchange *ex, const void *data, size_t len);
    void (*respond_end)(struct omid_exchange **ex);
    int (*conn_send)(struct omid_conn *conn, enum omid_message type, const void *data, size_t len);
    void (*conn_close)(struct omid_conn *conn, uint16_t code, const char *reason);
    void (*stt_ready)(struct omid_stt *stt);
    void (*stt_writable)(struct omid_stt *stt);
    void (*stt_result)(struct omid_stt *stt, const struct omid_stt_result *result);
    void (*stt_closed)(struct omid_stt *stt, const struct omid_stt_end *end);
    /* The registry; see the functions of the same names in omid/host.h. */
    const struct omid_endpoints *(*endpoints)(void *arg, const char *uid);
    const struct omid_endpoints *(*endpoint_find)(void *arg, const char *id, const char *uid);
    void (*endpoints_release)(const struct omid_endpoints **endpoints);
    void (*endpoint_report)(void *arg, const char *id, const char *uid, enum omid_delivery_outcome outcome, int status,
                            const char *text);
    /* The store's values of a plugin; as store_value_put() and store_value_get(). NULL: there is no store. */
    int (*value_put)(void *arg, const char *plugin, const char *key, const void *value, size_t len, int64_t ttl_ms,
                     struct loop *loop, void (*cb)(void *arg, int result), void *cb_arg);
    int (*value_get)(void *arg, const char *plugin, const char *key, struct loop *loop,
                     void (*cb)(void *arg, int result, const void *value, size_t len), void *cb_arg);
    /* At a reload, on the reactor: this instance gets events from now on (it began after the sessions that live), or
     * gets no more. NULL: nobody has anything to say to it. */
    void (*takes_part)(void *arg, unsigned reactor, struct omid_instance *inst, bool begins);
};

struct host_env {
    const struct conf *conf; /* host_configure() reads it; modules hold what they need */
    struct loader *loader;
    struct loop **loops; /* the reactors */
    unsigned n_loops;
    struct lanes *lanes; /* NULL under `omid -t` */
    struct exec *exec;   /* NULL under `omid -t` */
    struct queue *queue; /* NULL under `omid -t` */
    /* Main thread: a start() that does not return is waited for no longer. NULL: never. */
    bool (*stop_asked)(void *arg);
    uint32_t start_bound_ms; /* for one plugin's start() on all reactors; 0: 30 s */
    struct host_services services;
};

struct host *host_new(const struct host_env *env);
/* Opens and configures every plugin of the configuration. false: a required one failed, or a value is wrong; faults
 * says where. Main thread, before the loops run. */
bool host_configure(struct host *h, struct conf_faults *faults);
/*
 * Reload, in two steps, main thread, loops running. host_change_prepare() loads, configures and starts what is new or
 * changed in `conf` beside what runs; NULL when anything of that fails, told in faults: then everything is as it was.
 * Until the change ends, host_routes_each() tells the routes of what will run. host_change_commit() makes it what runs,
 * and can't fail: each reactor sees the new modules from its next turn on; those of the old that were replaced or
 * removed retire: they serve what they have (connections, streams), are drained when that is over, stopped and closed.
 * host_change_cancel() retires what is new instead.
 */
/* Is a plugin of this name and path configured, and not running because it failed? A reload that leaves its block as it
 * is tries again, and is not refused when it fails again. Main thread. */
bool host_lacks(const struct host *h, const char *name, const char *path);
struct host_change;
struct host_change_counts {
    unsigned added, removed, replaced, lanes, kept;
};
struct host_change *host_change_prepare(struct host *h, const struct conf *conf, struct conf_faults *faults);
struct host_change_counts host_change_commit(struct host_change **c, uint32_t drain_ms);
void host_change_cancel(struct host_change **c, uint32_t drain_ms);
/* Takes retired modules on their way out one step further; how many are left. Main thread, every now and then. */
unsigned host_reap(struct host *h);
/* Starts every instance on its reactor and waits for it, within bounds: a start() that does not return is left behind,
 * its plugin counts as failed, and is stopped when it does. false: a required plugin failed, or the daemon is to stop.
 * Main thread, loops running. */
bool host_start(struct host *h);
/* No new work: drain() on all instances, waits until all are drained or deadline_ms (monotonic) has passed. Main
 * thread. */
void host_drain(struct host *h, uint64_t deadline_ms);
/* stop() on all instances; waits, at most 10 s. false: a callback still holds its reactor (logged); the loops can't be
 * stopped then. Main thread, loops still running. */
bool host_stop(struct host *h);
void host_free(struct host **h); /* loops stopped */

/* Routes of the plugins, for the route table. Main thread, after host_configure(). */
void host_routes_each(struct host *h, void (*fn)(void *arg, struct omid_module *mod, const struct omid_route *route),
                      void *arg);

/* ---- instances, on their reactor ---- */
/* How many modules this reactor sees. The number and the order change at reload only, between two turns of its loop. */
unsigned host_module_count(const struct host *h, unsigned reactor);
/* NULL: that module is not running. Modules are numbered in the order of the configuration. */
struct omid_instance *host_instance(struct host *h, unsigned reactor, unsigned module);
/* Whoever keeps an instance or a module for longer than a callback and brings it work says so: a generation that a
 * reload has replaced is drained and closed when nobody uses it any more. Any thread. */
void host_use(struct omid_instance *inst);
void host_unuse(struct omid_instance *inst);
struct omid_module *host_module_use(struct omid_module *mod);
void host_module_unuse(struct omid_module **mod);
struct omid_instance *host_instance_of(struct omid_module *mod, unsigned reactor);
/* May it be called? Reactor. */
bool host_running(const struct omid_instance *inst);
const struct omid_plugin *host_plugin(const struct omid_instance *inst);
void *host_state(const struct omid_instance *inst);
struct omid_instance *host_instance_on(struct omid_module *mod, const struct loop *loop);
struct loop *host_loop(const struct omid_instance *inst);
const char *host_name(const struct omid_instance *inst); /* the plugin's; never freed */

/*
 * Every call into a plugin stands between these two: time, errors and the watchdog's mark are kept here. callback
 * is a static name. rc: the callback's result; negative counts as an error of that plugin (EFULL does not).
 */
struct host_call {
    struct omid_instance *inst;
    const char *callback;
    uint64_t began_ns;
    struct pulse_doing former;
};
void host_enter(struct host_call *call, struct omid_instance *inst, const char *callback);
int host_leave(struct host_call *call, int rc); /* returns rc */

/* One event to one instance, accounted as above. */
int host_event(struct omid_instance *inst, const struct omid_event *ev);

/* For what lies above and hands handles of its own to plugins. OMID_OK: the caller is on the instance's reactor and
 * the instance lives. Else OMID_ETHREAD, logged and counted; function: the name the plugin knows. Any thread. */
int host_check(const struct omid_instance *inst, const char *function);
/*
 * Something that lives on an instance and must end with it. Reactor. stopping() comes before stop(), when the plugin
 * may still be called (NULL: not wanted); stopped() after it: no call into the plugin any more, and host_detach() is
 * due within it.
 */
struct host_attachment {
    struct list link;
    struct omid_instance *inst;
    void (*stopping)(struct host_attachment *att);
    void (*stopped)(struct host_attachment *att);
};
void host_attach(struct omid_instance *inst, struct host_attachment *att); /* the caller's memory */
void host_detach(struct host_attachment *att);
/* malloc()ed memory that the plugin may still point at: freed with the module. */
void host_bury(struct omid_instance *inst, void *memory);

/* queue_start()'s dispatch function; arg is the host. The job goes to the reactor that its target hashes to. Queue's
 * thread. */
struct queue_claim;
bool host_job_dispatch(void *host, struct queue_claim *claim);

/* One object per plugin for omictl and the admin API: name, version, state, reason, path, roles, callbacks, errors,
 * time, in flight. Any thread. */
void host_status(struct host *h, struct json_w *w);

#endif
