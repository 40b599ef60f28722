/* The symbol is there, but too small to be even the head of a descriptor. */
#include <omid/plugin.h>

OMID_EXPORT const uint32_t omid_plugin = OMID_PLUGIN_MAGIC;
