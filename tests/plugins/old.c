/* Built for ABI 1.0: what lies behind its size is not to be looked at. */
#include "plain.h"

static const struct omid_vad_role nonsense = {.size = 1};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    .magic = OMID_PLUGIN_MAGIC,
    .abi_major = OMID_ABI_MAJOR,
    .abi_minor = 0,
    .size = offsetof(struct omid_plugin, vad),
    .name = "old",
    .vad = &nonsense,
    PLAIN,
};
