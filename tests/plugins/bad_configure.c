/* configure() finds a fault in the configuration that the option table can't express. */
#include "plain.h"

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    (void)shared;
    host->conf_error(mod, "high", "must be above low (%d)", (int)host->conf_int(mod, "low"));
    return OMID_EINVAL;
}

/* Must not be called: configure() failed. */
static void unconfigure(void *shared)
{
    (void)shared;
    abort();
}

static const struct omid_option options[] = {
    {.name = "low", .type = OMID_OPT_INT, .def = "5", .max = 100, .help = "The lower one."},
    {.name = "high", .type = OMID_OPT_INT, .def = "4", .max = 100, .help = "The higher one."},
    {.name = NULL},
};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,       .name = "bad_configure",    .options = options,
    .configure = configure, .unconfigure = unconfigure, PLAIN,
};
