/* Its name could not stand in omi.conf, nor in a metric. */
#include "plain.h"

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .name = "Bad Name\n{}",
    PLAIN,
};
