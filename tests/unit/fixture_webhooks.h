/* The plugin webhooks, configured and started against a mock host, for its tests. */
#ifndef OMID_TESTS_FIXTURE_WEBHOOKS_H
#define OMID_TESTS_FIXTURE_WEBHOOKS_H

#include "mock_host.h"
#include "unit.h"

extern const struct omid_plugin omid_plugin;

struct rig {
    struct mock *m;
    struct omid_instance *inst;
};
/* With one option of its block; key NULL: with none. */
struct rig rig_up(const char *key, const char *value);
void rig_down(struct rig *r);

/* An event of the session s1 in the conversation c1. json and people may be NULL. */
int rig_event(const struct rig *r, const char *uid, enum omid_event_type type, const char *json, const char *people);
/* The same of audio, whose samples rise from -300, and of the user u1. */
void rig_audio(const struct rig *r, size_t samples, uint32_t rate, const char *conversation);

#endif
