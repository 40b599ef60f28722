/*
 * Questions of the daemon to roles (see "questions" in omid/role.h). All on the asking reactor's thread.
 */
#ifndef OMID_HOST_ASK_H
#define OMID_HOST_ASK_H

#include "host/host.h"

enum host_question_kind {
    HOST_ASK_SCAN,       /* vad */
    HOST_ASK_TRANSCRIBE, /* stt */
    HOST_ASK_EMBED,
    HOST_ASK_GEOCODE,
    HOST_ASK_SUMMARIZE,
    HOST_ASK_AUDIO_WRITE, /* audio_store */
    HOST_ASK_AUDIO_READ,
    HOST_ASK_SETUP_CHECK, /* hooks */
    HOST_ASK_HOOK_TEST,
    HOST_QUESTIONS
};

/* What the role's function takes; which members count is seen there. Valid until host_ask() returns. */
struct host_question {
    enum host_question_kind kind;
    const struct omid_audio *audio;
    const char *engine;                   /* SCAN; NULL: the best there is */
    const struct omid_stt_params *params; /* TRANSCRIBE: the plugin that serves its model and language is asked */
    double latitude, longitude;
    const struct omid_summary_request *summary;
    const char *uid, *conversation_id;
    int64_t start_ms; /* AUDIO_WRITE */
    const struct omid_audio_range *range;
    const char *url; /* SETUP_CHECK */
    const struct omid_endpoint *endpoint;
};

/* The answer is valid until it returns. */
typedef void (*host_answer_cb)(void *arg, const struct omid_answer *answer);

struct host_ask; /* released by its callback's return, or by host_ask_cancel() */

/* Is there anybody to ask? params as above, for TRANSCRIBE; else NULL. */
bool host_answers(struct host *h, unsigned reactor, enum host_question_kind kind, const struct omid_stt_params *params);
/* OMID_OK: cb follows exactly once, never within this call: with the answer, with OMID_ETIMEOUT after timeout_ms, or
 * with OMID_ECLOSED when the plugin stops. *out may be NULL, by whoever never cancels. OMID_ENOTSUP: nobody to ask;
 * OMID_ERR: no memory. */
int host_ask(struct host *h, unsigned reactor, const struct host_question *q, uint32_t timeout_ms, host_answer_cb cb,
             void *arg, struct host_ask **out);
/* No callback any more. *ask may be NULL. */
void host_ask_cancel(struct host_ask **ask);

#endif
