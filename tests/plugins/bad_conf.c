/* Asks for an option that it does not have, and for one by another type, and says that all is well. */
#include "plain.h"

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    (void)host->conf_int(mod, "nothing");
    (void)host->conf_str(mod, "number");
    *shared = malloc(16);
    return OMID_OK;
}

static void unconfigure(void *shared)
{
    free(shared);
}

static const struct omid_option options[] = {
    {.name = "number", .type = OMID_OPT_INT, .def = "5", .max = 100, .help = "A number."},
    {.name = NULL},
};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD, .name = "bad_conf", .options = options, .configure = configure, .unconfigure = unconfigure, PLAIN,
};
