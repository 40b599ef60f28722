/*
 * The watchdog: a thread of its own that looks at every loop, at the ingress threads and at the main thread. A plugin's
 * callback that holds its thread for longer than `slow` (the main thread: for longer than a second) is logged by name
 * while it still runs, and counted; while a thread is held for longer than `fatal`, or has not turned for so long,
 * systemd's watchdog is not fed. A main thread that a plugin holds can't hear SIGTERM, nor end what it has begun to
 * stop: then the watchdog ends the process.
 */
#ifndef OMID_HOST_WATCHDOG_H
#define OMID_HOST_WATCHDOG_H

#include <stdint.h>

#include "base/loop.h"

struct watchdog;

struct watchdog_config {
    struct loop *const *loops; /* n_loops of them; the array is copied */
    unsigned n_loops;
    unsigned more; /* room for so many watchdog_watch() */
    uint32_t slow_ms, fatal_ms;
};

/* Starts the thread; the loops must run. systemd is fed when it asks for it (WATCHDOG_USEC). NULL: with errno. */
struct watchdog *watchdog_new(const struct watchdog_config *config);
/* One more, or one more thread that turns at least once a second while it has a pulse. At most config.more in all. */
void watchdog_watch_loop(struct watchdog *w, struct loop *loop);
void watchdog_watch_pulse(struct watchdog *w, const struct pulse *pulse);
/* Looks at none but the main thread any more, from the return on, but goes on feeding systemd: for the time of the
 * stop, when loops end one by one. Any thread; NULL is allowed. */
void watchdog_detach(struct watchdog *w);
/* Ends the thread. The loops must have been stopped (loop_stop()): they may have had a message of it. */
void watchdog_free(struct watchdog **w);

/* Creates the plugin's counter, so that its first slow callback is seen as a rise from zero. Any thread. */
void watchdog_metrics(const char *plugin);

#endif
