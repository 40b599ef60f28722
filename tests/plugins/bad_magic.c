/* The file of something else that happens to export the symbol: nothing behind the head may be read. */
#include "plain.h"

/* A file that is no plugin is not opened: this never runs. */
__attribute__((constructor)) static void constructed(void)
{
    setenv("OMID_TEST_CONSTRUCTED", "bad_magic", 1);
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    .magic = 0x12345678,
    .abi_major = OMID_ABI_MAJOR,
    .abi_minor = OMID_ABI_MINOR,
    .size = sizeof(struct omid_plugin),
    .name = (const char *)8, /* read: a crash */
    PLAIN,
};
