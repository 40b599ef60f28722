/* Part of omid/plugin.h, which includes it: what a plugin is told of, and may publish. */
#ifndef OMID_PLUGIN_EVENT_H
#define OMID_PLUGIN_EVENT_H

#include <omid/base.h>

#ifdef __cplusplus
extern "C" {
#endif

enum omid_event_type {
    OMID_EVENT_SESSION_START,        /* uid, session_id, sample_rate */
    OMID_EVENT_SESSION_END,          /* uid, session_id */
    OMID_EVENT_AUDIO,                /* uid, session_id, conversation_id, pcm, samples, sample_rate, time_ms */
    OMID_EVENT_SEGMENTS,             /* uid, session_id, conversation_id, json: array of new or changed segments */
    OMID_EVENT_SEGMENTS_DELETED,     /* as above, json: array of ids */
    OMID_EVENT_CONVERSATION_START,   /* uid, conversation_id */
    OMID_EVENT_CONVERSATION_CREATED, /* uid, conversation_id, json: the whole conversation. Durable: may be
                                        repeated after a crash; enqueue named jobs within the callback */
    OMID_EVENT_APP_MESSAGE,          /* uid, json: {"app_id","app_name","message"}; shown to the live client */
    OMID_EVENT_CUSTOM,               /* uid, name, json, id */
    OMID_EVENT_SPEAKER_ASSIGNED,     /* 1.1. The user has said who a speaker is, and that is on disk. uid, session_id,
                                        conversation_id, json: {"sample_id", "speaker_id", "person_id" ("user": the
                                        owner), "person_name", "segment_ids"} */
    OMID_EVENT_CONVERSATION_DELETED, /* 1.2. By its user, with all that is kept of it, or because nothing was said into
                                        it: uid, conversation_id. Durable, as CONVERSATION_CREATED */
    OMID_EVENT_TYPES                 /* their number */
};
#define OMID_EVENT_MASK(type) (UINT32_C(1) << (type))

struct omid_event {
    uint32_t size; /* of this struct, set by the sender */
    enum omid_event_type type;
    const char *uid;
    const char *session_id;
    const char *conversation_id;
    const char *name; /* CUSTOM: the event's type, e.g. "order.paid" */
    const char *json;
    size_t json_len;
    const int16_t *pcm; /* mono, the machine's byte order */
    size_t samples;
    uint32_t sample_rate;
    int64_t time_ms; /* wall clock, Unix ms: of the event, or of the first sample */
    /* 1.2 */
    const char *people; /* CONVERSATION_CREATED: the names of who speaks in it, {"person_id": "name"}; or NULL */
    const char *id;     /* CUSTOM: of the event, set by who has seen to its deliveries to endpoints; else NULL */
    uint32_t revision;  /* CONVERSATION_CREATED: how often recordings have joined it since it was first over; it is
                           the same when the event is repeated, so that named jobs may have it in their names */
};

#ifdef __cplusplus
}
#endif
#endif
