/* Says that it is larger than it is. */
#include "plain.h"

OMID_EXPORT const struct omid_plugin omid_plugin = {
    .magic = OMID_PLUGIN_MAGIC,
    .abi_major = OMID_ABI_MAJOR,
    .abi_minor = OMID_ABI_MINOR,
    .size = sizeof(struct omid_plugin) + 64,
    .name = "bad_size",
    PLAIN,
};
