/* Its role has a size that no version of it had: what lies behind its members nobody knows. */
#include "plain.h"

static int embed(void *state, const struct omid_audio *audio, struct omid_ask *ask)
{
    (void)state;
    (void)audio;
    (void)ask;
    return OMID_ENOTSUP;
}

static const struct omid_embed_role role = {.size = sizeof(role) + 8, .embed = embed};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .name = "bad_role",
    PLAIN,
    .embed = &role,
};
