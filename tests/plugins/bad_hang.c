/* configure() or start() never returns, as the option `where` says. */
#include <string.h>
#include <time.h>

#include "plain.h"

static const struct omid_option options[] = {
    {.name = "where", .type = OMID_OPT_ENUM, .def = "nowhere", .choices = "nowhere|configure|start", .help = "Where."},
    {.name = NULL},
};

static void hang(void)
{
    for (;;)
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    static const char where[] = "start";
    const char *at = host->conf_str(mod, "where");
    if (strcmp(at, "configure") == 0)
        hang();
    *shared = strcmp(at, where) == 0 ? (void *)where : NULL;
    return OMID_OK;
}

static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    if (shared != NULL)
        hang();
    return plain_start(inst, host, shared, state);
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,   .name = "bad_hang",     .version = "1.0", .summary = "A plugin for tests",
    .options = options, .configure = configure, .start = start,   .stop = plain_stop,
};
