/*
 * A feed's gate with its engine, its account and its way out: what fails, fails open. Then everything is sent, the
 * fallback is counted, and the session goes on. Reactor thread.
 */
#ifndef OMID_SESSION_STT_GATE_H
#define OMID_SESSION_STT_GATE_H

#include "conf/conf.h"
#include "session/gate.h"
#include "session/params.h"
#include "session/vad_engine.h"

struct stt_gate {
    struct gate gate;
    struct vad_engine vad;
    struct host *host;
    unsigned reactor;
    enum listen_choice asked; /* by the client */
    enum gate_mode wanted;    /* by client and configuration; what is done is gate.set.mode */
    enum vad_error failed;    /* why that is less */
    uint64_t began_ms;
    const char *session_id; /* the feed's */
    /* For the account, of all streams. */
    unsigned finalizes, finalize_errors, keepalives;
};

void stt_gate_init(struct stt_gate *g, struct host *host, unsigned reactor, uint32_t rate, enum listen_choice asked,
                   const char *session_id);
/* Mode and settings from now on. */
void stt_gate_configure(struct stt_gate *g, const struct conf *conf);
/* The longest piece that stt_gate_listen() takes. */
size_t stt_gate_piece(const struct stt_gate *g, size_t n);
/* How likely it is speech; 0 when the gate is off, or is now. */
float stt_gate_listen(struct stt_gate *g, const int16_t *pcm, size_t n);
/* gate_chunk(), counted. */
void stt_gate_chunk(struct stt_gate *g, const int16_t *pcm, size_t n, float probability, uint64_t settled,
                    struct gate_step *step);
/* What the stream that ends has done. role: of its plugin. */
void stt_gate_stream_ends(struct stt_gate *g, const struct omid_stt_role *role, void *stream);
/* Writes the session's account to the log, when the gate was ever configured to be on. */
void stt_gate_free(struct stt_gate *g);
/* Creates the series, so that a first fallback is seen as a rise from zero. */
void stt_gate_metrics(void);

#endif
