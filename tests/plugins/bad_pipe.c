/* Takes SIGPIPE's disposition back, as a library may, and writes where nobody reads: in configure(), on its
 * reactor, and on an executor. Events are answered with what is no result at all. */
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "plain.h"

static int write_to_nobody(void)
{
    int fd[2];
    if (pipe(fd) != 0)
        return errno;
    close(fd[0]);
    int rc = write(fd[1], "x", 1) < 0 ? errno : 0;
    close(fd[1]);
    return rc;
}

static void work_run(void *arg)
{
    *(int *)arg = write_to_nobody();
}

static void work_done(void *arg, bool ran)
{
    (void)ran;
    free(arg);
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    (void)mod;
    (void)host;
    (void)shared;
    return signal(SIGPIPE, SIG_DFL) != SIG_ERR && write_to_nobody() == EPIPE ? OMID_OK : OMID_ERR;
}

static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    int *result = calloc(1, sizeof(*result));
    if (result == NULL)
        return OMID_ERR;
    const struct omid_work work = {sizeof(work), OMID_POOL_BLOCKING, "pipe", work_run, work_done, result};
    if (write_to_nobody() != EPIPE || host->exec_submit(inst, &work) != OMID_OK) {
        free(result);
        return OMID_ERR;
    }
    return plain_start(inst, host, shared, state);
}

static int event(void *state, const struct omid_event *ev)
{
    (void)state;
    (void)ev;
    return 7777;
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .name = "bad_pipe",
    .version = "1.0",
    .summary = "A plugin for tests",
    .flags = OMID_PLUGIN_BLOCKS_ON_EXECUTORS,
    .events = OMID_EVENT_MASK(OMID_EVENT_CUSTOM),
    .configure = configure,
    .start = start,
    .event = event,
    .stop = plain_stop,
};
