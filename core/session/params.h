/* The query of /v4/listen, parsed and checked. */
#ifndef OMID_SESSION_PARAMS_H
#define OMID_SESSION_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "conf/conf.h"
#include "session/codec.h"

/* What the client says about something that has a setting of its own. */
enum listen_choice { CHOICE_NONE, CHOICE_ENABLED, CHOICE_DISABLED };

struct listen_params {
    char language[96]; /* "auto" is already "multi"; as long as a Close frame can repeat it */
    long client_rate;  /* sample_rate as the client said it, Hz */
    long sample_rate;  /* of the session's audio: what speech-to-text and events get */
    enum listen_codec codec;
    char codec_name[24]; /* as the client wrote it, cut */
    long channels;
    bool include_speech_profile;
    bool timeout_given;
    long timeout_s;
    char source[64];
    bool custom_stt;
    char stt_service[32];
    char resume_id[37];          /* client_conversation_id; "": none */
    enum listen_choice vad_gate; /* NONE: as configured */
    bool speaker_auto_assign;    /* speaker suggestions carry person_id */
    char call_id[128];           /* kept with a multi-channel conversation; "": none */
};

/* What can't be parsed is a fault that names the parameter (HTTP 400 before the upgrade). What can be parsed
 * and is not served (codec, rate, language) is for the caller to refuse with a close code. Unknown parameters are
 * ignored, uid among them: the token says who it is. Of a parameter that stands twice the last counts. Any thread. */
bool listen_params_parse(struct listen_params *p, const char *query, char *err, size_t errlen);
/* The silence that ends a conversation: what was asked for, within the floor of the configuration and the protocol's
 * cap; with more than one channel always the cap. */
int64_t listen_params_timeout_ms(const struct listen_params *p, const struct conf *conf);

#endif
