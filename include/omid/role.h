/* Part of omid/plugin.h, which includes it: what a plugin may do for sessions and for the daemon. */
#ifndef OMID_PLUGIN_ROLE_H
#define OMID_PLUGIN_ROLE_H

#include <omid/base.h>
#include <omid/registry.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------- speech to text */

struct omid_stt_params {
    uint32_t size;
    const char *uid, *session_id;
    const char *model;    /* as in stt.models: "dg-nova-3" */
    const char *language; /* BCP-47 or "multi" */
    uint32_t sample_rate; /* 8000..48000 */
    unsigned channel;     /* 0, or the channel of a multi-channel session */
    bool multi_channel;
};

struct omid_stt_segment {
    const char *text;
    double start, end; /* seconds of the audio handed to this stream */
    int speaker;       /* 0.. ; -1 unknown */
};

struct omid_stt_result {
    uint32_t size;
    const struct omid_stt_segment *segments; /* may be none: a final result without words still trims the replay */
    size_t n;
    double transcribed; /* everything before this second of the stream is final */
};

enum omid_stt_reason {
    OMID_STT_DONE,      /* after close(): all results were delivered */
    OMID_STT_BUSY,      /* no capacity: the next provider, or 1013 */
    OMID_STT_CONFIG,    /* refused for a reason that retrying can't mend (key, parameters) */
    OMID_STT_UNREACHED, /* the connect sequence was used up, or the breaker is open */
    OMID_STT_LOST,      /* broke in mid-stream: worth another open() */
    OMID_STT_INTERNAL,
};
struct omid_stt_end {
    uint32_t size;
    enum omid_stt_reason reason;
    const char *text; /* for people; never a secret */
};

/* What a stream has done since open(). Set size before stats() and count no member beyond it. */
struct omid_stt_stats {
    uint32_t size;
    unsigned keepalives;      /* sent because there was no audio */
    unsigned finalizes;       /* sent */
    unsigned finalize_errors; /* finalize() calls that could not be served */
};

/* The role `stt`. `stream` is whatever open() stored. */
struct omid_stt_role {
    uint32_t size;
    /* Is `model` one of this plugin's, and does it serve `language`? 1 yes, 0 no, -1 model not ours. */
    int (*serves)(void *state, const char *model, const char *language);
    /* OMID_OK: *stream is set, and stt_ready() or stt_closed() will follow, not within open().
     * OMID_EFULL: no capacity. Others: failed. `stt` stays valid until release() returns. */
    int (*open)(void *state, const struct omid_stt_params *params, struct omid_stt *stt, void **stream);
    /* Only after stt_ready(). OMID_OK: all samples taken (copied). OMID_EFULL: none; call stt_writable() later. The
     * session may ask again before that. */
    int (*audio)(void *stream, const int16_t *pcm, size_t samples);
    /* Results of what was sent are wanted now; audio may go on. May be NULL. */
    void (*finalize)(void *stream);
    /* No more audio. Remaining results, then stt_closed(OMID_STT_DONE). */
    void (*close)(void *stream);
    /* Ends at once whatever its state and frees; no call on `stt` afterwards. Exactly once per successful open(). */
    void (*release)(void *stream);

    /* 1.1. At any time before release(): fills in what it counts. May be NULL. */
    void (*stats)(void *stream, struct omid_stt_stats *stats);

    /* 1.2. A recording that is there as a whole (params: uid, model, language, sample_rate). Answered with segments,
     * their times in seconds of the audio; none when nothing was said. May be NULL. See "questions". */
    int (*transcribe)(void *state, const struct omid_stt_params *params, const struct omid_audio *audio,
                      struct omid_ask *ask);
};

/* ---------------------------------------------------------- voice activity */

/*
 * The role `vad` (1.1): is there speech in this audio? The session asks for every chunk of every stream and decides by
 * the answer what speech-to-text gets, so each call counts: a few microseconds, no allocation in window(), nothing that
 * waits. An engine belongs to one stream of audio. Reactor. The first plugin of the configuration that has the role
 * serves all sessions; an error of any call ends its use in that session, which then sends all its audio.
 */
struct omid_vad_role {
    uint32_t size;
    /* OMID_OK: *engine is set, for audio of this rate (8000..48000). */
    int (*open)(void *state, uint32_t sample_rate, void **engine);
    /* The next chunk, at most 100 ms, without a gap to the one before. *probability (0..1) is how likely it is that the
     * speaker is speaking at its end. */
    int (*window)(void *engine, const int16_t *pcm, size_t samples, float *probability);
    /* Frees. Exactly once per successful open(). */
    void (*close)(void *engine);

    /* 1.2. Where is speech in a recording? engine: "hosted", "local", or NULL, the best there is. Answered with
     * intervals, ascending, not overlapping; mode: the engine that found them. May be NULL. See "questions". */
    int (*scan)(void *state, const char *engine, const struct omid_audio *audio, struct omid_ask *ask);
};

/* ------------------------------------------------------- questions (1.2) */

/*
 * Some roles are asked: the daemon calls the role's function with a question and a handle, and the plugin answers when
 * it knows, exactly once, on the same reactor, perhaps within the call. What the question points to is valid until the
 * call returns. An error from the call is the answer, and `ask` is then void.
 *
 * The first plugin of the configuration that has the role is asked. Who asks may stop waiting at any time: the answer
 * then goes nowhere, and is due all the same. What stop() leaves unanswered is answered with OMID_ECLOSED by the host.
 */
struct omid_interval {
    double start, end; /* seconds */
};

struct omid_answer {
    uint32_t size;
    /* OMID_OK, or: OMID_ERR: failed, worth trying again; OMID_EINVAL: this can't be served, ever; OMID_ENOTSUP: there
     * is nothing to process in it; OMID_EFULL: no room now; OMID_ETIMEOUT; OMID_ECLOSED. */
    int result;
    const char *text; /* why not, for people; never a secret. NULL with OMID_OK */
    const char *mode; /* by which way it was made: "hosted", "local", "extractive". Static; or NULL */
    /* What counts is said at each role. */
    const char *json;
    size_t json_len;
    const float *vector;
    size_t n_vector;
    const struct omid_interval *intervals;
    size_t n_intervals;
    const struct omid_stt_segment *segments;
    size_t n_segments;
    const struct omid_audio *audio;
};

/* ----------------------------------------------------------- roles that are asked (1.2) */

/* A voice as a vector: the role `embed`. At least 0.5 s of audio. Answered with vector. */
struct omid_embed_role {
    uint32_t size;
    int (*embed)(void *state, const struct omid_audio *audio, struct omid_ask *ask);
};

/* Where is that? The role `geocode`. Degrees, within their ranges. Answered with json: {"google_place_id", "latitude",
 * "longitude", "address", "location_type"}. */
struct omid_geocode_role {
    uint32_t size;
    int (*geocode)(void *state, double latitude, double longitude, struct omid_ask *ask);
};

enum omid_summary_kind { OMID_SUMMARY_CONVERSATION, OMID_SUMMARY_DAY };
struct omid_summary_request {
    uint32_t size;
    enum omid_summary_kind kind;
    const char *uid, *conversation_id; /* conversation_id NULL: of a day */
    const char *language;              /* BCP-47; "" unknown */
    const char *json;                  /* the conversation; of a day: an array of conversations */
    size_t json_len;
};
/* The role `summarize`. Answered with json: {"title", "overview", "emoji", "category", "action_items", "events"}; of a
 * day the same without events. OMID_ENOTSUP: there is nothing to process. */
struct omid_summarize_role {
    uint32_t size;
    int (*summarize)(void *state, const struct omid_summary_request *req, struct omid_ask *ask);
};

struct omid_audio_range {
    uint32_t size;
    const char *uid, *conversation_id;
    int64_t from_ms, to_ms; /* Unix ms */
    const char *session_id; /* the audio of this session alone, where sessions are told apart; NULL: all, mixed */
};
/* The role `audio_store`: recordings of conversations. */
struct omid_audio_store_role {
    uint32_t size;
    /* Keeps audio of a conversation whose first sample was at start_ms (Unix ms); answered when it can't be lost any
     * more. Live audio comes as OMID_EVENT_AUDIO; this is for recordings made elsewhere. */
    int (*write)(void *state, const char *uid, const char *conversation_id, int64_t start_ms,
                 const struct omid_audio *audio, struct omid_ask *ask);
    /* Answered with audio: what is there of the range, silence where there is a gap; OMID_ENOTSUP: nothing is. */
    int (*read)(void *state, const struct omid_audio_range *range, struct omid_ask *ask);
};

/* The role `hooks`: who delivers to endpoints of the registry. */
struct omid_hooks_role {
    uint32_t size;
    /* Is the app set up for this user? Asks setup_completed_url. Answered with OMID_OK, OMID_ENOTSUP (it is not), or an
     * error. */
    int (*setup_check)(void *state, const char *uid, const char *setup_completed_url, struct omid_ask *ask);
    /* Delivers a test event to the endpoint, once. Answered with json: {"status", "elapsed_ms", "answer", "error"}. */
    int (*test)(void *state, const char *uid, const struct omid_endpoint *endpoint, struct omid_ask *ask);
};

#ifdef __cplusplus
}
#endif
#endif
