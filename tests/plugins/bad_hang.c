/* One of its functions never returns, as the option `where` says; "destructor": what the linker runs as the file is
 * closed. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "plain.h"

static const struct omid_option options[] = {
    {.name = "where",
     .type = OMID_OPT_ENUM,
     .def = "nowhere",
     .choices = "nowhere|configure|start|drain|stop|unconfigure|destructor",
     .help = "Where."},
    {.name = NULL},
};

static void hang(void)
{
    for (;;)
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
}

static char where[16]; /* of the last configure() */

static bool is_at(const char *at)
{
    return strcmp(where, at) == 0;
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    (void)shared;
    snprintf(where, sizeof(where), "%s", host->conf_str(mod, "where"));
    if (is_at("configure"))
        hang();
    return OMID_OK;
}

static void unconfigure(void *shared)
{
    (void)shared;
    if (is_at("unconfigure"))
        hang();
}

static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    if (is_at("start"))
        hang();
    return plain_start(inst, host, shared, state);
}

static void drain(void *state)
{
    struct plain *p = state;
    if (is_at("drain"))
        hang();
    p->host->drained(p->inst);
}

static void stop(void *state)
{
    if (is_at("stop"))
        hang();
    plain_stop(state);
}

/* The earliest moment at which anybody can send the daemon something. */
static __attribute__((constructor)) void load(void)
{
    if (getenv("OMID_TEST_HANGUP") == NULL)
        return;
    unsetenv("OMID_TEST_HANGUP");
    kill(getpid(), SIGHUP);
}

static __attribute__((destructor)) void unload(void)
{
    if (is_at("destructor"))
        hang();
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,   .name = "bad_hang",     .version = "1.0",           .summary = "A plugin for tests",
    .options = options, .configure = configure, .unconfigure = unconfigure, .start = start,
    .drain = drain,     .stop = stop,
};
