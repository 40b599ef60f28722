#include "fixture_webhooks.h"

#include <stdlib.h>
#include <string.h>

struct rig rig_up(const char *key, const char *value)
{
    struct rig r = {.m = mock_new(&omid_plugin)};
    if (key != NULL)
        mock_conf(r.m, key, value);
    CU_ASSERT_FATAL(mock_configure(r.m) == OMID_OK);
    r.inst = mock_start(r.m);
    CU_ASSERT_FATAL(r.inst != NULL);
    return r;
}

void rig_down(struct rig *r)
{
    mock_stop(r->inst);
    mock_free(&r->m);
}

int rig_event(const struct rig *r, const char *uid, enum omid_event_type type, const char *json, const char *people)
{
    const struct omid_event ev = {.size = sizeof(ev),
                                  .type = type,
                                  .uid = uid,
                                  .session_id = "s1",
                                  .conversation_id = "c1",
                                  .name = "thing.done",
                                  .json = json,
                                  .json_len = json != NULL ? strlen(json) : 0,
                                  .people = people};
    return mock_event(r->inst, &ev);
}

void rig_audio(const struct rig *r, size_t samples, uint32_t rate, const char *conversation)
{
    int16_t *pcm = malloc(samples * sizeof(int16_t));
    for (size_t i = 0; i < samples; i++)
        pcm[i] = (int16_t)(i - 300);
    const struct omid_event ev = {.size = sizeof(ev),
                                  .type = OMID_EVENT_AUDIO,
                                  .uid = "u1",
                                  .session_id = "s1",
                                  .conversation_id = conversation,
                                  .pcm = pcm,
                                  .samples = samples,
                                  .sample_rate = rate};
    CU_ASSERT_EQUAL(mock_event(r->inst, &ev), OMID_OK);
    free(pcm);
}
