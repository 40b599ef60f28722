/* A shared object that is no plugin. */
#include <omid/plugin.h>

OMID_EXPORT const int omid_plugging = 1;
