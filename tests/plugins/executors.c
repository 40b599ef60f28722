/* Has a blocking call, in work for an executor alone, and says so. */
#include <unistd.h>

#include "plain.h"

static void work_run(void *arg)
{
    (void)arg;
    sleep(1);
}

static int event(void *state, const struct omid_event *ev)
{
    (void)ev;
    struct plain *p = state;
    const struct omid_work work = {sizeof(work), OMID_POOL_BLOCKING, "sleeps", work_run, plain_done, NULL};
    return p->host->exec_submit(p->inst, &work);
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .name = "executors",
    .flags = OMID_PLUGIN_BLOCKS_ON_EXECUTORS,
    .events = OMID_EVENT_MASK(OMID_EVENT_CUSTOM),
    .event = event,
    PLAIN,
};
