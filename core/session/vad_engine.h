/*
 * Voice activity for one stream of audio: an engine of the first plugin that has the role. It ends with its plugin's
 * instance. Reactor thread.
 */
#ifndef OMID_SESSION_VAD_ENGINE_H
#define OMID_SESSION_VAD_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "host/host.h"

/* The longest chunk that an engine is asked about. */
#define VAD_CHUNK_MS 100

enum vad_error { VAD_OK, VAD_NO_PLUGIN, VAD_OPEN, VAD_ERROR, VAD_BAD_VALUE, VAD_STOPPED, VAD_MEMORY, VAD_ERRORS };
const char *vad_error_name(enum vad_error e);

struct vad_engine {
    struct omid_instance *inst; /* used; NULL: there is no engine */
    void *engine;
    struct host_attachment att;
};

/* On VAD_OK vad_engine_close() is due. `v` is all zero, or was closed. */
enum vad_error vad_engine_open(struct vad_engine *v, struct host *host, unsigned reactor, uint32_t rate);
/* How likely the chunk is speech, 0..1. After an error it is of no use any more. */
enum vad_error vad_engine_window(struct vad_engine *v, const int16_t *pcm, size_t n, float *probability);
/* Harmless without an engine. */
void vad_engine_close(struct vad_engine *v);

#endif
