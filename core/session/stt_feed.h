/*
 * The session's end of speech-to-text: which provider, what it has been sent, what is to be sent again.
 *
 * An ordered list of (provider, model) that serve the language. One stream at a time. A stream that breaks is
 * opened again with the audio not yet final replayed (at most 4 times real time), a provider that is used up
 * gives way to the next; when none is left the feed has failed. A stream that keeps audio waiting and takes less than
 * real time is broken, too, when it has fallen behind by stt.stall. Between the session and the streams is a gate,
 * which may keep silence from them: positions are samples of what it lets through, the same for all streams, and
 * results come out in the session's time, so the transcript's clock is continuous whatever happens to streams. Reactor
 * thread.
 *
 *   IDLE -> OPENING -> LIVE -> CLOSING -> DONE
 *             |  ^------/  \-> WAITING (pause before opening again) -> OPENING
 *             \-> FAILED
 */
#ifndef OMID_SESSION_STT_FEED_H
#define OMID_SESSION_STT_FEED_H

#include <omid/plugin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "conf/conf.h"
#include "session/params.h"

struct host;

/* Why a feed failed. */
struct stt_failure {
    const char *outcome;  /* "overloaded" or "exhausted" */
    const char *provider; /* the last one tried: its model name */
    bool retryable;
    const char *reason; /* for people */
};

struct stt_feed_events {
    /* The first stream is up, or one after a failover. */
    void (*ready)(void *arg, const char *provider);
    /* Segments with start and end in seconds of the session's audio. */
    void (*segments)(void *arg, const char *provider, const struct omid_stt_segment *segments, size_t n);
    /* Room for audio again after stt_feed_audio() refused. */
    void (*room)(void *arg);
    void (*failed)(void *arg, const struct stt_failure *why);
    /* After stt_feed_close(): everything that will come has come. */
    void (*done)(void *arg);
};

struct stt_feed_params {
    const struct conf *conf;
    struct host *host;
    struct loop *loop;
    unsigned reactor;
    const char *uid, *session_id, *language;
    const char *preferred; /* model or plugin name, tried first if it serves the language; or "" */
    uint32_t sample_rate;
    enum listen_choice vad_gate; /* the client's; NONE: as configured */
    bool multi_channel;          /* one of several of the session, each with a feed of its own */
    unsigned channel;            /* its number, from 0 */
};

struct stt_feed;

/* NULL with *served = false when no provider serves the language; NULL with *served = true: no memory. */
struct stt_feed *stt_feed_new(const struct stt_feed_params *p, const struct stt_feed_events *events, void *arg,
                              bool *served);
/* Creates the counters of the configured models, so that a first fallback is seen as a rise from zero. */
void stt_feed_metrics(const struct conf *conf);
/* Bounds, rates and the gate's settings from now on; the list of providers stays. conf outlives the feed, or the next
 * call of this. */
void stt_feed_configure(struct stt_feed *f, const struct conf *conf);
/* Opens the first stream. Events follow, not within this call. */
void stt_feed_start(struct stt_feed *f);
/* false: nothing taken, the buffer is full; room() follows. */
bool stt_feed_audio(struct stt_feed *f, const int16_t *pcm, size_t n);
/* Samples taken so far, whatever became of them. */
uint64_t stt_feed_position(const struct stt_feed *f);
/* No more audio: what is left is sent, the remaining results come, then done(). */
void stt_feed_close(struct stt_feed *f);
/* At once. No events afterwards. Not within one of its events. */
void stt_feed_free(struct stt_feed **f);
/* Audio taken and not yet sent to the provider, in ms. */
uint32_t stt_feed_lag_ms(const struct stt_feed *f);
const char *stt_feed_provider(const struct stt_feed *f);

#endif
