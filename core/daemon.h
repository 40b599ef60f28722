/*
 * The daemon as a whole: what there is of everything, and the order in which it starts, changes and stops. Wiring only.
 *
 *   main.c     arguments, the configuration's first reading, signals
 *   start.c    start: configuration, store and queue, executors and lanes, reactors, plugins, sessions, ingress
 *   registry.c apps and webhooks: what plugins are told of them, what becomes of those that fail
 *   reload.c   a changed configuration takes effect, or nothing of it does
 *   stop.c     the reverse of the start, bounded by daemon.drain
 *
 * Everything here is the main thread's.
 */
#ifndef OMID_DAEMON_H
#define OMID_DAEMON_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/heap.h"
#include "conf/conf.h"
#include "host/host.h"

#define MODULE "omid"
#define MAX_REACTORS 64 /* the option table's bound of daemon.reactors */

enum exit_code { EXIT_OK = 0, EXIT_FAULT = 1, EXIT_USAGE = 2, EXIT_CONFIG = 78 /* sysexits EX_CONFIG */ };

struct daemon {
    const char *file; /* NULL: the embedded default */
    const char *ready_file;
    bool test;

    struct loader *loader;
    struct conf *conf;
    struct store *store;
    bool store_aside, queue_aside; /* the file was damaged: a new one was begun */
    struct registry *registry;
    uint64_t registry_flush_ms; /* when it is due; monotonic */
    atomic_bool untold;         /* endpoints' users may have to be told once more; any thread */
    uint64_t retell_ms;         /* when that is due; monotonic */
    struct queue *queue;
    struct exec *exec;
    struct lanes *lanes;
    struct loop *loop[MAX_REACTORS];
    unsigned n_loops, loops_started;
    struct bus *bus[MAX_REACTORS];
    struct sessions *sessions[MAX_REACTORS + 1]; /* ends with NULL */
    struct host *host;
    bool host_started;
    struct watchdog *watchdog;
    struct routes *routes;
    struct admin *admin;
    struct ingress *ingress;
    struct jwks *jwks;
    char control[256];
    struct heap heap;
    uint64_t heap_check_ms; /* when it is due */
};

/* ---- start.c ---- */
/* false: told why; daemon_stop() is due all the same. */
bool daemon_start(struct daemon *d);
struct host_env daemon_host_env(struct daemon *d);
/* The route table with what the plugins have now. NULL: no memory. */
struct routes *daemon_routes_make(struct daemon *d);
void daemon_log_configure(const struct conf *c);

/* ---- registry.c ---- */
/* The store is open, and not started yet. false: told why. */
bool daemon_registry_open(struct daemon *d);
/* Of struct queue_config: an endpoint holds its share of the queue. Queue's writer. */
void daemon_tell_full(void *arg, const char *owner, const char *target, uint64_t held, uint64_t refused);
/* Before the reload's new configuration takes effect, and at the start. */
void daemon_registry_configure(struct daemon *d, const struct conf *c);
/* Every now and then: counted failures go to disk. Milliseconds until it is due again. */
uint64_t daemon_registry_tick(struct daemon *d, uint64_t now_ms);
/* ---- seed.c: the app and webhook blocks ---- */
bool daemon_blocks_check(const struct conf *c, struct conf_faults *faults); /* false: told */
/* Registers what is new or has changed, and waits for the disk, within bounds. Loops running. */
void daemon_blocks_seed(struct daemon *d, const struct conf *c);

struct routes;
bool daemon_registry_routes(struct daemon *d, struct routes *routes); /* false: no memory */
/* Of struct host_services. */
const struct omid_endpoints *daemon_endpoints(void *arg, const char *uid);
const struct omid_endpoints *daemon_endpoint_find(void *arg, const char *id, const char *uid);
void daemon_endpoint_report(void *arg, const char *id, const char *uid, enum omid_delivery_outcome outcome, int status,
                            const char *text);

/* ---- reload.c ---- */
/* Reads the file again. What is wrong is told in the log and to who asked; then everything is as it was. */
void daemon_reload(struct daemon *d);

/* ---- stop.c ---- */
/* Whatever has started. Does not return when a plugin holds its reactor for ever: then the process ends here. */
void daemon_stop(struct daemon *d);

#endif
