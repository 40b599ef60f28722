#include "fixture_storage.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

void rig_begin(struct rig *r, const char *style)
{
    r->m = mock_new(&omid_plugin);
    mock_conf(r->m, "bucket", "recordings");
    mock_conf(r->m, "endpoint", "https://store.example.com:9000/s3");
    mock_conf(r->m, "region", "eu-west-1");
    mock_conf(r->m, "access_key", "AKID");
    mock_conf(r->m, "secret_key", "secret");
    mock_conf(r->m, "style", style);
    CU_ASSERT_EQUAL_FATAL(mock_configure(r->m), OMID_OK);
    r->in = mock_start(r->m);
    CU_ASSERT_PTR_NOT_NULL_FATAL(r->in);
}

void rig_work(struct rig *r)
{
    while (mock_exec_run(r->m, true)) {
    }
}

void rig_end(struct rig *r)
{
    mock_stop(r->in);
    while (mock_exec_run(r->m, false)) {
    }
    mock_free(&r->m);
}

void rig_hear(struct rig *r, const char *session, const char *conv, int64_t at_ms, int16_t value)
{
    int16_t pcm[1600];
    for (size_t i = 0; i < LEN(pcm); i++)
        pcm[i] = value;
    const struct omid_event ev = {.type = OMID_EVENT_AUDIO,
                                  .uid = "a@b",
                                  .session_id = session,
                                  .conversation_id = conv,
                                  .pcm = pcm,
                                  .samples = LEN(pcm),
                                  .sample_rate = 16000,
                                  .time_ms = at_ms};
    CU_ASSERT_EQUAL(mock_event(r->in, &ev), OMID_OK);
}

void rig_tell(struct rig *r, enum omid_event_type type, const char *session, const char *conv)
{
    const struct omid_event ev = {.type = type, .uid = "a@b", .session_id = session, .conversation_id = conv};
    CU_ASSERT_EQUAL(mock_event(r->in, &ev), OMID_OK);
}
