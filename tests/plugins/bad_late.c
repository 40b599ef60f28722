/* Calls the host after stop(): from unconfigure(), which runs on the main thread when all instances are gone. What it
 * gets is written to the file descriptor that the option `report` names, as a line. */
#include <stdio.h>
#include <unistd.h>

#include "plain.h"

struct late {
    int fd;
    struct plain *plain;
    struct omid_timer *timer; /* left open at stop() */
};

static void tick(void *arg)
{
    (void)arg;
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    struct late *l = calloc(1, sizeof(*l));
    if (l == NULL)
        return OMID_ERR;
    l->fd = (int)host->conf_int(mod, "report");
    *shared = l;
    return OMID_OK;
}

static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    int rc = plain_start(inst, host, shared, state);
    if (rc != OMID_OK || host->reactor(inst, NULL) != 0)
        return rc;
    struct late *l = shared;
    l->plain = *state;
    l->timer = host->timer_start(inst, 1, 1, tick, NULL);
    return OMID_OK;
}

static void stop(void *state)
{
    struct plain *p = state;
    if (p->host->reactor(p->inst, NULL) != 0)
        free(p); /* that of reactor 0 is kept, and used in unconfigure() */
}

static void unconfigure(void *shared)
{
    struct late *l = shared;
    if (l->plain != NULL) {
        const struct omid_event ev = {.size = sizeof(ev), .type = OMID_EVENT_CUSTOM, .uid = "u", .name = "late"};
        int rc = l->plain->host->publish(l->plain->inst, &ev);
        struct omid_timer *t = l->timer;
        l->plain->host->timer_stop(&t);
        dprintf(l->fd, "publish=%d timer=%s\n", rc, t == l->timer ? "kept" : "taken");
        free(l->plain);
    }
    free(l);
}

static const struct omid_option options[] = {
    {.name = "report", .type = OMID_OPT_INT, .def = "2", .max = 65535, .help = "A file descriptor."},
    {.name = NULL},
};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,   .name = "bad_late",     .version = "1.0",           .summary = "A plugin for tests",
    .options = options, .configure = configure, .unconfigure = unconfigure, .start = start,
    .stop = stop,
};
