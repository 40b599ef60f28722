/*
 * For the tests of the feed to speech-to-text: scripted providers and voice activity, the few functions of the host
 * that the feed uses, and a clock that can be moved. One feed at a time.
 */
#ifndef TESTS_UNIT_FEED_RIG_H
#define TESTS_UNIT_FEED_RIG_H

#include <CUnit/Basic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/loop.h"
#include "conf/conf.h"
#include "host/host.h"
#include "session/session.h"
#include "session/stt_feed.h"

#define RATE 16000
#define FEED_DEADLINE_MS 10000

extern uint64_t clock_skew_ms; /* a test lets hours pass */

/* ------------------------------------------------------------ scripted providers */

enum script { S_READY, S_BUSY, S_FAIL, S_UNREACHED, S_CONFIG, S_HANG, S_LOST_AT };

struct provider {
    const char *model;
    enum script script[8]; /* by open(); the last one repeats */
    size_t lost_at;        /* S_LOST_AT: breaks when it has got so many samples */
    size_t full_after;     /* audio() answers EFULL from so many samples on, until told otherwise; 0: never */
    unsigned opens, releases, closes, finalizes;
    size_t finalized_at; /* samples that the stream had at its last finalize() */
    struct stream *live;
    bool full_told;
    bool stopped; /* the plugin */
    struct host_attachment *att;
};
struct stream {
    struct provider *p;
    struct omid_stt *stt;
    enum script script;
    int16_t *pcm;
    size_t n;
    bool closing, ended;
};
extern struct provider provider[3];

void stream_closed(struct stream *s, enum omid_stt_reason why);
/* One segment of this text, NULL for none; seconds of the stream. */
void result(struct stream *s, const char *text, double start, double end, double transcribed);
/* Do its samples stand as spoken, from that one on? */
bool holds_from(const struct stream *s, uint64_t pos);
/* As the host does: attachments are told, then the plugin stops. */
void plugin_stop(struct provider *p);

/* ------------------------------------------------------------ scripted voice activity */

/* It stands behind the providers in the list of plugins, where there is one. */
struct scripted_vad {
    bool there, stopped;
    bool speaking; /* what it hears */
    enum { V_WORKS, V_NO_OPEN, V_ERROR, V_NAN, V_LARGE } script;
    int engines;
    uint64_t heard, longest; /* samples */
    struct host_attachment *att;
};
extern struct scripted_vad vad;

/* ------------------------------------------------------------ a feed */

struct seen {
    unsigned ready, room, failed, done, segments;
    char outcome[16], provider[16], text[64];
    double start, end;
    void (*on_segments)(const struct omid_stt_segment *s, size_t n); /* or NULL */
};
extern struct seen seen;
extern struct loop *loop; /* main() makes and frees it */
extern struct conf conf;  /* of the feed made last */
extern char *gate_mode;
extern enum listen_choice gate_asked;
extern uint32_t feed_rate; /* RATE, until a test sets it behind providers_reset() */

void providers_reset(void);
struct stt_feed *feed_make(unsigned providers, const char *language, const char *preferred, bool *served);
/* As many turns of the loop, with what providers do on their own. */
void turns(unsigned n);
/* Samples numbered by their position, so that what arrives can be checked. */
bool speak(struct stt_feed *f, size_t n);
/* Every stream that was opened is released, and nothing is held any more. */
void released_once(void);

/* Runs the loop and the providers until cond holds; false at the deadline. */
#define UNTIL(cond)                                         \
    ({                                                      \
        uint64_t end_ = clock_mono_ms() + FEED_DEADLINE_MS; \
        while (!(cond) && clock_mono_ms() < end_) {         \
            turns(1);                                       \
        }                                                   \
        CU_ASSERT_TRUE(cond);                               \
        (cond);                                             \
    })

#endif
