/* An option table that no configuration could be checked against. */
#include "plain.h"

static const struct omid_option options[] = {
    {.name = "mode", .type = OMID_OPT_ENUM, .help = "An ENUM without choices."},
    {.name = NULL},
};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .name = "bad_option",
    .options = options,
    PLAIN,
};
