/* The file of something else that happens to export the symbol: nothing behind the head may be read. */
#include "plain.h"

OMID_EXPORT const struct omid_plugin omid_plugin = {
    .magic = 0x12345678,
    .abi_major = OMID_ABI_MAJOR,
    .abi_minor = OMID_ABI_MINOR,
    .size = sizeof(struct omid_plugin),
    .name = (const char *)8, /* read: a crash */
    PLAIN,
};
