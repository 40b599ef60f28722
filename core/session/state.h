/*
 * What the files of this folder share: the structs of one reactor's sessions and conversations. Everything here belongs
 * to the reactor's thread.
 *
 *   sessions      owns sessions, conversations, processings
 *   session       one client connection, and for a while after it the rest of its transcript
 *   conversation  an open conversation in memory: shared by the sessions of a uid that speak into it
 *   processing    the end of a conversation, on its way to `completed`; knows no session
 */
#ifndef OMID_SESSION_STATE_H
#define OMID_SESSION_STATE_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/map.h"
#include "base/metrics.h"
#include "session/codec.h"
#include "session/content.h"
#include "session/mixer.h"
#include "session/params.h"
#include "session/photos.h"
#include "session/roster.h"
#include "session/segments.h"
#include "session/session.h"
#include "session/stt_feed.h"
#include "session/supervisor.h"

struct sessions {
    uint32_t magic;
    struct sessions_env env;
    struct conf *conf;         /* env.conf, held */
    struct roster roster;      /* what others may see of them */
    struct list session;       /* all of them */
    uint64_t begun;            /* sessions ever */
    struct map *by_id;         /* session id -> struct session */
    struct map *conversation;  /* id -> struct conversation */
    struct map *open_of;       /* uid -> its open struct conversation */
    struct list geolocation;   /* places that are being looked for */
    struct list processed_for; /* requests that wait for a processing's end (rest.c) */
    struct sync *sync;         /* recordings made offline */
    struct list deletions;     /* of conversations, under way */
    struct map *voices;        /* uid -> struct voices, of those who speak */
    struct samples *samples;   /* of voices, that are to be taken */
    unsigned uploads;          /* of voice profiles, under way */
    struct map *processing;    /* id -> struct processing */
    struct list waiting;       /* processings not yet begun */
    unsigned n_waiting;
    unsigned running;  /* processings that have a place */
    bool placing;      /* those that wait are taking places */
    struct days *days; /* of the first reactor; NULL elsewhere */
    ev_timer lifecycle, sweep, drain_check;
    struct loop_msg start; /* of sessions_start() */
    bool sweeping;         /* a store_due() is under way */
    bool deletions_left;   /* of former runs, or not told for good */
    bool deletions_asked;  /* for those: the store's answer is due */
    bool draining;
    uint64_t drain_until_ms; /* while draining: no session's own drain lasts longer */
    void (*drained)(void *arg);
    void *drained_arg;
    struct pcm scratch, mixed; /* samples of the message under way */
};
#define SESSIONS_MAGIC UINT32_C(0x73657373)

enum conversation_state {
    CONVERSATION_OPEN,
    CONVERSATION_ENDING, /* no sessions; its last state goes to disk, then it is processed */
    CONVERSATION_GONE,
};

struct conversation {
    uint32_t magic;
    enum conversation_state state;
    struct sessions *ss;
    char id[37];
    char *uid, *language, *source;
    char *call_id;          /* or NULL */
    struct content content; /* photos, names of speakers */
    int64_t created_ms, started_ms, finished_ms, timeout_ms;
    struct segment_list segments;              /* combined */
    struct segment_list fresh;                 /* not yet combined: waits for the transcript flush */
    struct id_list gone_consumers, gone_store; /* deleted, and who does not know it */
    size_t gone_sent;                          /* of gone_store: in the operation under way */
    size_t bytes;                              /* of its segments, as charged to the memory budget */
    struct list session;                       /* those that speak into it */
    ev_timer client_flush, consumer_flush, store_flush;
    bool stored;      /* the store knows it */
    bool store_busy;  /* an operation is under way */
    bool times_dirty; /* started, finished or the timeout moved since the last put */
    bool changed;     /* segments that are there have changed, and the client is to hear of it */
};
#define CONVERSATION_MAGIC UINT32_C(0x636f6e76)

enum session_state {
    SESSION_STARTING, /* no transcript yet: speech-to-text is being opened */
    SESSION_LIVE,
    SESSION_CLOSING, /* a Close is on its way to the client */
    SESSION_LEAVING, /* the client is gone; the rest of the transcript is awaited */
    SESSION_GONE,
};
#define SESSION_STATES_SHOWN SESSION_GONE

/* One channel of a session's audio. Its number is the protocol's channel id less one, and its speaker: 0 the microphone
 * (is_user), 1 the remote side. Without multi-channel framing there is the first alone, of any speakers. */
struct stream {
    struct session *s;
    unsigned number;
    struct decoder *decoder;
    struct task task;      /* lifetime: the feed; in the drain the rest of the transcript */
    struct stt_feed *feed; /* NULL with custom_stt, and once all its results have come */
    bool ready;            /* its provider has been, once */
    struct pcm held;       /* decoded, and refused by the feed: for when the message comes again */
};
#define SESSION_MAX_STREAMS MIXER_CHANNELS

#define SESSION_MAX_QUEUED 100 /* messages that wait for room on the way down */

struct session {
    uint32_t magic;
    enum session_state state;
    struct list link;              /* sessions.session */
    struct list conversation_link; /* conversation.session */
    struct sessions *ss;
    struct channel *channel; /* NULL once the client is gone */
    char id[37];
    uint64_t number; /* of all of its reactor, from 1 */
    char *uid;
    char uid_tag[16];
    struct listen_params params;
    struct supervisor supervisor;
    struct task client; /* lifetime: the connection */
    struct task watch;  /* lifetime: pings, inactivity, a client that does not read; ends when we end the session */
    struct task open;   /* finite: the store has been asked for a conversation */
    struct stream stream[SESSION_MAX_STREAMS];
    unsigned n_streams;
    struct mixer *mixer;               /* multi-channel alone */
    bool undecoded_told;               /* that packets do not decode: said once */
    struct conversation *conversation; /* NULL until the store has answered */
    bool begun;                        /* plugins know of it */
    struct speakers *speakers;         /* NULL: voices are not compared */
    struct photo_parts *photos;        /* pieces that wait for the others; NULL: none has come yet */
    struct segment_list early;         /* transcript before there was a conversation, in seconds of the session */
    struct list early_texts;           /* what the client said of a conversation before there was one */
    size_t early_bytes;                /* of both, as charged to the memory budget */
    int64_t first_audio_ms;            /* wall clock of its first sample; 0: none yet */
    uint64_t samples;                  /* taken so far */
    uint64_t last_data_ms;             /* monotonic: the last data frame */
    uint64_t stalled_since_ms;         /* the way down is full since; 0: it is not */
    struct list queued;                /* messages that wait for room */
    unsigned n_queued;
    struct id_list unsent; /* segments whose newest state waits for room */
    ev_timer ping, check, open_wait;
    ev_timer turn; /* the supervisor's */
    bool hurried;  /* by an operator: the drain is over now */
    uint64_t began_ms;
    uint64_t bytes; /* of all data frames */
    struct roster_entry shown;
    uint64_t rated_ms, rated_bytes; /* the last time the rate was taken */
};
#define SESSION_MAGIC UINT32_C(0x73657373 + 1)
/* What waits for a conversation: as much as one may hold. */
#define SESSION_MAX_EARLY ((size_t)8 << 20)

#define SESSION_LABEL "listen" /* of the supervisor's metrics */

/* ---- session.c ---- */
void session_set_state(struct session *s, enum session_state to);
/* The end of `open`. c NULL: out of memory. */
void session_attach(struct session *s, struct conversation *c);
/* Segments of its speech-to-text or of the client's own: to its conversation, or kept until there is one. Empties
 * batch. */
void session_take_segments(struct session *s, struct segment_list *batch);
static inline const struct conf *session_conf(const struct session *s)
{
    return s->ss->env.conf;
}
static inline bool session_opening(const struct session *s)
{
    return task_running(&s->open);
}
static inline struct ev_loop *session_ev(const struct session *s)
{
    return loop_ev(s->ss->env.loop);
}

/* ---- tasks.c ---- */
void session_tasks_init(struct session *s);
/* The connection, and what is asked of it. */
void session_client_begin(struct session *s);
void session_stt_begin(struct stream *st);
bool session_open_begin(struct session *s); /* false: too late for it */
/* At once, whatever goes on. */
void session_tasks_end(struct session *s);

/* ---- show.c ---- */
extern const char *const session_state_names[];
/* Writes its row; tick: a second has passed, the rate is taken anew. */
void session_show(struct session *s, bool tick);

/* ---- inbound.c: the channel's message() ---- */
bool session_message(struct channel *ch, enum ws_opcode op, const unsigned char *data, size_t len);

/* ---- messages.c: what the client's texts say ---- */
/* One that speaks of a conversation is kept until there is one; false: it is to come again then. */
bool session_text(struct session *s, const unsigned char *data, size_t len);
/* Those that were kept: there is a conversation now. */
void session_early_texts(struct session *s);
void session_early_texts_free(struct session *s);
/* Tells the client of the uid's last completed conversation, when the store has answered. */
void session_last_memory(struct session *s);
void session_photos_expire(struct session *s);
void session_photos_free(struct session *s);

/* ---- audio.c: from a packet to speech-to-text and to consumers ---- */
/* Decoders and mixer for its parameters. false: no memory. */
bool session_audio_open(struct session *s);
/* A binary message. false: it is to come again when speech-to-text has room. */
bool session_audio(struct session *s, const unsigned char *data, size_t len);
/* No more will come: what the mixer still holds goes to consumers. */
void session_audio_end(struct session *s);
/* From seconds of the stream's audio to seconds of the session's. */
void session_audio_span(const struct stream *st, double *start, double *end);
void session_audio_free(struct session *s);
static inline bool session_is_multi(const struct session *s)
{
    return s->n_streams > 1;
}
/* Kept with the conversation; or NULL. */
static inline const char *session_call_id(const struct session *s)
{
    return session_is_multi(s) && s->params.call_id[0] ? s->params.call_id : NULL;
}

/* ---- outbound.c: to the client ---- */
void session_writable(struct channel *ch); /* the channel's writable() */
void session_ping(struct session *s);
/* A service_status; text and why may be NULL. */
void session_send_status(struct session *s, const char *status, const char *text, const struct stt_failure *why);
void session_outbound_free(struct session *s);
/* Sends, or queues in its bounded queue when the way down is full. */
void session_send_text(struct session *s, const char *text, size_t len);
/* New states of segments: coalesced while the way down is full. */
void session_send_segments(struct session *s, const char *json, size_t len, const struct conversation *c);
/* Its conversation is about to end: what waits for room joins the queue, ahead of whatever is told of the end. */
void session_queue_unsent(struct session *s);
/* Asks the store for a conversation; the answer comes to conversation_attach(). */
void session_conversation_request(struct session *s);
/* The session ends, for a reason of ours: sends a Close. 1011 says that something of it has failed (its supervisor's
 * `crash`), every other code that it is over (`lifetime_done`). */
void session_close(struct session *s, uint16_t code, const char *reason);
/* Ends it whatever its state, at once. */
void session_destroy(struct session *s);
/* SESSION_START or SESSION_END of this session, to one instance. */
void session_tell(struct session *s, struct omid_instance *inst, enum omid_event_type type);
/* Takes intervals that differ from those of `former`. */
void session_reconfigure(struct session *s, const struct conf *former);

/* ---- conversation.c ---- */
/* From the store (takes nothing of c but its segments' strings: copies) or, with c NULL, alone in memory. NULL: no
 * memory. */
struct conversation *conversation_new(struct sessions *ss, const struct store_conversation *c, const struct session *s);
void conversation_attach(struct conversation *c, struct session *s);
/* The session is leaving: what it said stays. With the last session of several channels a conversation ends, too. */
void conversation_detach(struct session *s);
/* Takes segments of the session (seconds of its audio). */
void conversation_add(struct conversation *c, struct session *s, struct segment_list *batch);
/* Combines what is fresh and tells clients. */
void conversation_flush_client(struct conversation *c);
/* Has its silence lasted long enough? Then ends it. */
void conversation_check(struct conversation *c, int64_t now_ms);
/* Ends it now, whatever its silence: it is processed, or deleted when it holds nothing. c is gone afterwards, its
 * sessions move on. Only while it is open. */
void conversation_end(struct conversation *c);
bool conversation_empty(const struct conversation *c); /* nothing that was combined, and no photo */
/* It leaves memory and the store with all it holds, and its sessions move on; done (may be NULL) when the store has
 * answered. Whether it is open or ending. */
void conversation_discard(struct conversation *c, void (*done)(void *arg, int result), void *arg);
/* The uid's open one, or NULL. One whose time is over is ended instead. */
struct conversation *conversation_live(struct sessions *ss, const char *uid);
/* A whole photo, which is taken; its id, or NULL (dropped). */
const char *conversation_photo(struct conversation *c, unsigned char *data, size_t len);
/* The speaker is this person (NULL: the owner) from now on. false: not kept. */
bool conversation_name(struct conversation *c, const struct session *s, int speaker_id, const char *person_id,
                       const char *name, const char *segments);
void conversation_segment_name(struct conversation *c, struct segment *seg, const char *person_id);
void conversation_changed(struct conversation *c); /* segments did: tells, with the next flush */
void conversation_free(struct conversation *c);
bool conversation_json(const struct conversation *c, enum store_status status, struct buf *out);

/* ---- processing.c ---- */
/* Takes the conversation through its end; does nothing when it is under way already. */
void processing_start(struct sessions *ss, const char *id, const char *uid);
/* The id of one of the uid's that are under way, or NULL. */
const char *processing_of(const struct sessions *ss, const char *uid);
/* Those that wait for their turn or for a retry are left to the next start, which finds them in the store. */
void processing_drain(struct sessions *ss);
void processing_free_all(struct sessions *ss);

/* ---- rest.c ---- */
/* The conversation's processing has ended: with these JSON texts for an answer of this status, or (memory NULL) it was
 * put off. */
void rest_processed(struct sessions *ss, const char *id, int status, const struct buf *memory,
                    const struct buf *messages);

/* ---- people.c, profile.c: the routes of /v1/people and /v1/speech-profile (omid-api(7)) ---- */
/* all: of all reactors. false: no memory. */
bool people_routes_add(struct routes *routes, struct sessions **all);
bool reprocess_route_add(struct routes *routes, struct sessions **all);
bool profile_routes_add(struct routes *routes, struct sessions **all);

/* ---- sessions.c ---- */
struct session_metrics {
    struct metric *active, *sessions, *refused, *audio_bytes, *audio_channel, *mix_rejoins, *messages_ignored,
        *segments, *photos, *conversations, *processed, *skipped, *failed, *processing_retries, *processing_refused,
        *processing_running, *processing_waiting, *processing_seconds, *coalesced, *dropped;
};
const struct session_metrics *session_metrics(void);
unsigned sessions_live(void); /* of the whole process */
unsigned sessions_held(void); /* the same, those without a client included */
void sessions_held_add(int n);
void sessions_live_add(int n); /* the client's task alone: see task_ops.count */
void sessions_check_drained(struct sessions *ss);
/* Of a route whose arg is the array of all reactors' sessions. */
struct sessions *sessions_of_channel(const struct channel *ch);

#endif
