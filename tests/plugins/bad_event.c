/* Every event is an error to it. */
#include "plain.h"

static int event(void *state, const struct omid_event *ev)
{
    (void)state;
    (void)ev;
    return OMID_ERR;
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD, .name = "bad_event", .events = OMID_EVENT_MASK(OMID_EVENT_CUSTOM), .event = event, PLAIN,
};
