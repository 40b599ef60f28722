/* Has the role vad, without its most important part. */
#include "plain.h"

static int vad_open(void *state, uint32_t rate, void **engine)
{
    (void)rate;
    *engine = state;
    return OMID_OK;
}

static void vad_close(void *engine)
{
    (void)engine;
}

static const struct omid_vad_role vad = {.size = sizeof(vad), .open = vad_open, .close = vad_close};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .name = "bad_vad",
    PLAIN,
    .vad = &vad,
};
