/*
 * A host with real loops, executors, configuration and plugins, whose HTTP lane and durable queue are fakes: a test
 * decides what they answer, and when. Linked instead of core/lane/http and core/lane/queue.
 */
#ifndef HOST_RIG_H
#define HOST_RIG_H

#include <CUnit/Basic.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "bus/bus.h"
#include "bus/plugin_routes.h"
#include "conf/conf.h"
#include "host/host.h"
#include "lane/exec/exec.h"
#include "lane/queue/queue.h"

#define RIG_MAX_REACTORS 4
#define RIG_WAIT_MS 10000

struct rig {
    struct loader *loader;
    struct conf *conf;
    struct conf_faults faults;
    struct host *host;
    struct exec *exec;
    unsigned n;
    struct loop *loop[RIG_MAX_REACTORS];
    struct bus *bus[RIG_MAX_REACTORS];
    struct host_change_counts counts; /* of the last reload */
    atomic_int begins, ends;          /* instances that began or ceased to take part */
};

/* Loads the text and configures the host. text: printf-like with "%s" for the folder of the test plugins. */
bool rig_configure(struct rig *r, unsigned reactors, const char *text);
bool rig_start(struct rig *r); /* loops, executors, instances */
void rig_stop(struct rig *r);  /* drain, stop, loops; the host still answers host_status() */
void rig_free(struct rig *r);

/* Prepares a change to this text, as rig_configure() reads it; NULL: refused. On success r->conf is the new one. */
struct host_change *rig_change(struct rig *r, const char *text);
/* The same, committed. */
bool rig_reload(struct rig *r, const char *text);
/* For rig_wait(), arg is the rig: nothing is on its way out any more. */
bool rig_reaped(void *arg);

/* fn on that reactor; waits for it. */
void rig_on(struct rig *r, unsigned reactor, void (*fn)(void *arg), void *arg);
/* A CUSTOM event of this name, on that reactor. */
void rig_event(struct rig *r, unsigned reactor, const char *name);
/* Waits until an event `name` with this json (NULL: any) was on a bus; false after RIG_WAIT_MS. */
bool rig_seen(const char *name, const char *json);
unsigned rig_seen_count(const char *name, const char *json);
void rig_forget(void);

/* A member of the plugin's object in host_status(), "in_flight.timers" too. "" when absent. */
const char *rig_status(struct rig *r, const char *plugin, const char *key);
long rig_status_int(struct rig *r, const char *plugin, const char *key);

/* Waits for cond(arg); false after RIG_WAIT_MS. */
bool rig_wait(bool (*cond)(void *arg), void *arg);

/* ---- the fakes ---- */
enum fake_answer { FAKE_HOLDS, FAKE_ANSWERS };
extern _Atomic int fake_configured;                         /* semaphore of the last lane_configure() */
extern _Atomic int fake_http, fake_queue;                   /* enum fake_answer */
extern _Atomic int fake_requests, fake_sockets, fake_lanes; /* that exist now */
extern _Atomic int fake_enqueues;                           /* held */
void fake_queue_release(void);                              /* answers what is held */

struct queue_claim {
    const char *owner;
    struct omid_job_view view;
    _Atomic int finished; /* times */
    enum omid_job_outcome outcome;
    uint32_t retry_after_s;
    char error[64];
    int status; /* of queue_attempt(); 0: none */
};
extern _Atomic int fake_batch_jobs, fake_batch_ordered, fake_batch_rate; /* of the last queue_enqueue_all() */
void fake_claim(struct queue_claim *c, const char *owner, const char *type, const char *target);

#endif
