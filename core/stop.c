/* How everything stops: no new clients, sessions end and deliver what is left, plugins drain, then queue and store
 * commit what they have. */
#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "admin/admin.h"
#include "base/clock.h"
#include "base/log.h"
#include "bus/bus.h"
#include "daemon.h"
#include "host/watchdog.h"
#include "ingress/ingress.h"
#include "ingress/jwks.h"
#include "lane/exec/exec.h"
#include "lane/http/lane.h"
#include "lane/queue/queue.h"
#include "session/session.h"
#include "store/registry.h"
#include "store/store.h"

/* Of the drain: kept back for the stop itself. */
#define STOP_RESERVE_MS 1000
/* Of the time for sessions: this part is kept back for the store, which takes what the cancelled ones leave. */
#define FLUSH_SHARE 4

struct drain {
    struct loop_msg msg;
    struct sessions *ss;
    uint64_t until_ms;
    sem_t *done;
};

static void on_sessions_drained(void *arg)
{
    sem_post(arg);
}

static void drain_begin(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct drain *dr = container_of(msg, struct drain, msg);
    sessions_drain(dr->ss, dr->until_ms, on_sessions_drained, dr->done);
}

/* Monotonic ms to what sem_timedwait takes. */
static struct timespec deadline_wall(uint64_t deadline_ms)
{
    uint64_t now = clock_mono_ms(), left = deadline_ms > now ? deadline_ms - now : 0;
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_sec += (time_t)(left / 1000);
    ts.tv_nsec += (long)(left % 1000) * 1000000;
    if (ts.tv_nsec >= 1000000000) {
        ts.tv_sec++;
        ts.tv_nsec -= 1000000000;
    }
    return ts;
}

static void drain_sessions(struct daemon *d, uint64_t deadline_ms)
{
    /* Static: a drain that runs past its deadline still posts. */
    static struct drain drains[MAX_REACTORS];
    static sem_t done;
    sem_init(&done, 0, 0);
    uint64_t now = clock_mono_ms(), left = deadline_ms > now ? deadline_ms - now : 0;
    uint64_t until = deadline_ms - left / FLUSH_SHARE;
    for (unsigned i = 0; i < d->n_loops; i++) {
        drains[i] = (struct drain){.msg = {.fn = drain_begin}, .ss = d->sessions[i], .until_ms = until, .done = &done};
        loop_post(d->loop[i], &drains[i].msg);
    }
    struct timespec deadline = deadline_wall(deadline_ms);
    for (unsigned i = 0; i < d->n_loops; i++) {
        int rc;
        do
            rc = sem_timedwait(&done, &deadline);
        while (rc != 0 && errno == EINTR);
        if (rc != 0) {
            log_warning(MODULE, "sessions did not drain in time", LU("reactors", d->n_loops - i));
            return;
        }
    }
}

/* What was accepted is written; from here on nothing is taken. */
static void stop_disk(struct daemon *d)
{
    if (d->queue)
        queue_stop(d->queue);
    if (d->registry)
        registry_flush(d->registry);
    if (d->store)
        store_stop(d->store);
}

/* In an order in which nobody asks for what has gone. The loops have ended. */
static void parts_free(struct daemon *d)
{
    for (unsigned i = 0; i < d->n_loops; i++) {
        sessions_free(&d->sessions[i]);
        bus_free(&d->bus[i]);
    }
    ingress_free(&d->ingress);
    admin_free(&d->admin);
    routes_free(&d->routes);
    host_free(&d->host);
    for (unsigned i = 0; i < d->n_loops; i++)
        loop_free(&d->loop[i]);
    watchdog_free(&d->watchdog);
    jwks_free(&d->jwks);
    lanes_free(&d->lanes);
    exec_free(&d->exec);
    queue_free(&d->queue);
    registry_free(&d->registry);
    store_free(&d->store);
}

void daemon_stop(struct daemon *d)
{
    const bool running = d->host_started;
    uint64_t deadline = clock_mono_ms() + (d->conf ? d->conf->daemon.drain_ms : 0);
    uint64_t soft = deadline > STOP_RESERVE_MS ? deadline - STOP_RESERVE_MS : deadline;
    if (d->admin)
        admin_set_phase(d->admin, ADMIN_DRAINING);
    if (d->ingress)
        ingress_pause(d->ingress);
    if (running)
        drain_sessions(d, soft);
    if (d->queue)
        queue_pause(d->queue);
    if (running)
        host_drain(d->host, soft);
    if (d->ingress)
        ingress_stop(d->ingress, deadline);
    if (running && !host_stop(d->host)) {
        /* A plugin's callback does not return: its reactor can't be joined. What is accepted is on disk already, or is
         * on its way there. */
        log_error(MODULE, "a plugin holds its reactor: leaving without it");
        stop_disk(d);
        log_flush();
        _exit(EXIT_FAULT);
    }
    watchdog_detach(d->watchdog); /* the loops end one by one */
    /* From here on nothing new begins. What is under way answers into the loops, which still run. */
    if (d->exec)
        exec_stop(d->exec, deadline);
    if (d->jwks)
        jwks_stop(d->jwks);
    if (d->lanes)
        lanes_stop(d->lanes);
    stop_disk(d);
    for (unsigned i = 0; i < d->loops_started; i++)
        loop_stop(d->loop[i]);
    parts_free(d);
}
