/* Work on an executor that never comes back, begun by every session. */
#include <unistd.h>

#include "plain.h"

static void work_run(void *arg)
{
    (void)arg;
    for (;;)
        pause();
}

static int event(void *state, const struct omid_event *ev)
{
    (void)ev;
    struct plain *p = state;
    const struct omid_work work = {sizeof(work), OMID_POOL_BLOCKING, "never_ends", work_run, plain_done, NULL};
    return p->host->exec_submit(p->inst, &work);
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .name = "stuck",
    .flags = OMID_PLUGIN_BLOCKS_ON_EXECUTORS,
    .events = OMID_EVENT_MASK(OMID_EVENT_SESSION_START),
    .event = event,
    PLAIN,
};
