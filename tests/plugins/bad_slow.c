/* Holds its reactor for 120 ms at each event, by computing: sleeping would be seen by a linter. */
#include "plain.h"

static int event(void *state, const struct omid_event *ev)
{
    (void)ev;
    struct plain *p = state;
    for (uint64_t until = p->host->now_ms() + 120; p->host->now_ms() < until;) {
    }
    return OMID_OK;
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD, .name = "bad_slow", .events = OMID_EVENT_MASK(OMID_EVENT_CUSTOM), .event = event, PLAIN,
};
