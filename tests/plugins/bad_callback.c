/* Subscribes to events and has no event(). */
#include "plain.h"

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .name = "bad_callback",
    .events = OMID_EVENT_MASK(OMID_EVENT_AUDIO),
    PLAIN,
};
