/*
 * A host with one WebSocket for one stream of the Deepgram plugin: it records what the plugin sends and tells, and time
 * stands still until the test moves it. One thread.
 */
#ifndef TESTS_UNIT_DEEPGRAM_RIG_H
#define TESTS_UNIT_DEEPGRAM_RIG_H

#include "deepgram.h"

extern const struct omid_plugin omid_plugin;

/* ------------------------------------------------------------------ the host */

struct omid_counter {
    char name[64];
    uint64_t n;
};
struct omid_timer {
    uint64_t due;
    void (*fn)(void *arg);
    void *arg;
    bool used;
};
struct omid_ws {
    const struct omid_ws_events *events;
    void *arg;
    bool open, released;
};
struct omid_stt {
    int unused;
};

struct deepgram_host {
    uint64_t now;
    struct omid_counter counter[64];
    unsigned counters;
    struct omid_timer timer[16];
    struct omid_ws ws;
    int connect_rc, send_rc;
    unsigned accept; /* messages to take before send_rc; UINT_MAX: all */
    char url[4096], header[256];
    struct omid_ws_request req;
    char sent[200][32]; /* "B<len>" or the text's type */
    unsigned n_sent;
    uint64_t bytes;
    uint16_t closed_with;
    char log[8192];
    char conf_error[256];
    /* what the plugin told the session */
    unsigned ready, writable, results, ended;
    char text[4096];
    double transcribed;
    enum omid_stt_reason reason;
    char end_text[256];
    void *release_in_result, *release_in_end; /* streams */
    bool timers_fail;
};
extern struct deepgram_host h; /* begin_with() begins a new one */
extern const struct omid_host host;

/* What the plugin is configured with; a test that changes them puts them back. */
extern const char *c_url, *c_key;
extern const char *const *c_terms;
extern size_t c_n_terms;
extern int64_t c_backoff;

void advance(uint32_t ms);
unsigned timers(void);
/* By "what" or "what label=value". */
uint64_t counted(const char *name);
/* All that was sent, with blanks between. */
const char *wire(void);

/* ------------------------------------------------------------------ a stream */

extern void *shared, *state, *stream;
extern struct omid_stt session;
extern const struct omid_stt_params params_16k;

/* Configures and starts the plugin and opens a stream that is being connected; NULL: none. */
void begin_with(const struct omid_stt_params *params);
void begin(void);
/* The same, and it is connected. */
void opened(void);
/* Releases (when not done yet) and looks whether anything is left. */
void finish(bool release);

void receive(const char *text);
void receive_result(double start, double duration, const char *word); /* final; s */
void peer_ends(enum omid_ws_end end, uint16_t code, int status);
int speak(size_t samples);

#endif
