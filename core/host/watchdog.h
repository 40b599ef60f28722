/*
 * The watchdog: a thread of its own that looks at every loop. A plugin's callback that holds its loop for longer than
 * `slow` is logged by name while it still runs, and counted; while a loop is held for longer than `fatal`, or has not
 * answered a message for so long, systemd's watchdog is not fed.
 */
#ifndef OMID_HOST_WATCHDOG_H
#define OMID_HOST_WATCHDOG_H

#include <stdint.h>

#include "base/loop.h"

struct watchdog;

struct watchdog_config {
    struct loop *const *loops; /* n_loops of them; the array is copied */
    unsigned n_loops;
    uint32_t slow_ms, fatal_ms;
};

/* Starts the thread; the loops must run. systemd is fed when it asks for it (WATCHDOG_USEC). NULL: with errno. */
struct watchdog *watchdog_new(const struct watchdog_config *config);
/* Looks at no loop any more, from the return on, but goes on feeding systemd: for the time of the stop, when loops end
 * one by one. Any thread; NULL is allowed. */
void watchdog_detach(struct watchdog *w);
/* Ends the thread. The loops must have been stopped (loop_stop()): they may have had a message of it. */
void watchdog_free(struct watchdog **w);

/* Creates the plugin's counter, so that its first slow callback is seen as a rise from zero. Any thread. */
void watchdog_metrics(const char *plugin);

#endif
