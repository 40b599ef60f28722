/* Built against another major version: its members may mean anything. */
#include "plain.h"

OMID_EXPORT const struct omid_plugin omid_plugin = {
    .magic = OMID_PLUGIN_MAGIC,
    .abi_major = OMID_ABI_MAJOR + 1,
    .abi_minor = 0,
    .size = 8,
    .name = (const char *)8,
    PLAIN,
};
