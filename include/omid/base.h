/* Part of omid/plugin.h, which includes it: results, and the handles that the host hands out. */
#ifndef OMID_PLUGIN_BASE_H
#define OMID_PLUGIN_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Results of host functions and of int-returning callbacks. */
enum omid_result {
    OMID_OK = 0,
    OMID_ERR = -1,      /* failed; the reason has been logged */
    OMID_EFULL = -2,    /* a bound is reached; nothing was taken; try again when told */
    OMID_ECLOSED = -3,  /* the other end, or the daemon, is going away */
    OMID_EINVAL = -4,   /* an argument is unusable */
    OMID_ENOTSUP = -5,  /* not served here */
    OMID_ETHREAD = -6,  /* called on the wrong thread, or after stop */
    OMID_ETIMEOUT = -7, /* it took longer than it may (1.1) */
};

/* Opaque; owned by the host. */
struct omid_module;   /* the loaded plugin, one per process */
struct omid_instance; /* the plugin on one reactor */
struct omid_timer;    /* released by timer_stop() */
struct omid_http;     /* a request in flight; released by http_cancel() or by its callback's return */
struct omid_ws;       /* an outgoing WebSocket; released by ws_release() */
struct omid_exchange; /* an incoming HTTP request; released by respond(), respond_with() or respond_end() */
struct omid_conn;     /* an incoming WebSocket; the host's, valid until closed() returns */
struct omid_stt;      /* the session's end of a speech-to-text stream; the session's */
struct omid_job_run;  /* one attempt of a durable job; released by job_finish() */
struct omid_gather;   /* a fan-out; released by gather_cancel() or by finished()'s return (1.1) */
struct omid_counter;  /* a metric; the host's, lives as long as the module */
struct omid_ask;      /* a question of the daemon to a role; released by answer() (1.2) */

/* Of a WebSocket, either way. */
enum omid_message { OMID_TEXT = 1, OMID_BINARY = 2 };

/* Audio as a whole: mono, the machine's byte order. 1.2 */
struct omid_audio {
    uint32_t size;
    const int16_t *pcm;
    size_t samples;
    uint32_t sample_rate;
};

#if defined(__GNUC__)
#define OMID_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define OMID_PRINTF(f, a)
#endif

#ifdef __cplusplus
}
#endif
#endif
