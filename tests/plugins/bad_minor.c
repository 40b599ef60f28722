/* Built against a newer minor version than this host has. */
#include "plain.h"

OMID_EXPORT const struct omid_plugin omid_plugin = {
    .magic = OMID_PLUGIN_MAGIC,
    .abi_major = OMID_ABI_MAJOR,
    .abi_minor = OMID_ABI_MINOR + 1,
    .size = sizeof(struct omid_plugin) + 8,
    .name = "bad_minor",
    PLAIN,
};
