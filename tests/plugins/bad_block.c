/* Has blocking calls, and a constructor that tells when the file is opened all the same. */
#include <poll.h>
#include <unistd.h>

#include "plain.h"

__attribute__((constructor)) static void constructed(void)
{
    setenv("OMID_TEST_CONSTRUCTED", "bad_block", 1);
}

static int event(void *state, const struct omid_event *ev)
{
    (void)state;
    return ev->json_len > 1000000000 ? (int)sleep(1) + poll(NULL, 0, 1) : OMID_OK;
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD, .name = "bad_block", .events = OMID_EVENT_MASK(OMID_EVENT_CUSTOM), .event = event, PLAIN,
};
