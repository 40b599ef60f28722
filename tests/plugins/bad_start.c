/* start() fails on the last reactor alone, after it has begun things that would call back. */
#include "plain.h"

static void tick(void *arg)
{
    (void)arg;
    abort(); /* the instance never ran */
}

static void work_run(void *arg)
{
    (void)arg;
}

static void work_done(void *arg, bool ran)
{
    (void)arg;
    (void)ran;
    abort();
}

static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    unsigned n;
    if (host->reactor(inst, &n) != n - 1)
        return plain_start(inst, host, shared, state);
    (void)host->timer_start(inst, 1, 1, tick, NULL);
    const struct omid_work work = {sizeof(work), OMID_POOL_BLOCKING, "late", work_run, work_done, NULL};
    (void)host->exec_submit(inst, &work);
    return OMID_ERR;
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD, .name = "bad_start", .version = "1.0", .summary = "A plugin for tests",
    .start = start,   .stop = plain_stop,
};
