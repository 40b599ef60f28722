/* A WebSocket client for a command-line tool: connects and upgrades blocking, then never blocks. libcurl does names,
 * TLS and the socket; the frames are ours. One thread. */
#ifndef OMID_CTL_WSCLIENT_H
#define OMID_CTL_WSCLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/wsframe.h"

struct wsclient;
struct wsclient_params {
    const char *url, *token, *cacert; /* token and cacert may be NULL */
    bool insecure;
};

/* NULL with a reason in err; *status is the HTTP status of a refusal, else 0. */
struct wsclient *wsclient_connect(const struct wsclient_params *p, int *status, char *err, size_t errlen);
int wsclient_fd(const struct wsclient *c);
/* Queues a frame; false: no memory. */
bool wsclient_send(struct wsclient *c, enum ws_opcode op, const void *data, size_t len);
size_t wsclient_queued(const struct wsclient *c);
/* Writes what the socket takes. 1: all, 0: the rest when it is writable, -1: lost. */
int wsclient_flush(struct wsclient *c);
/* Reads what is there; fn for each text or binary message. 1: goes on, 0: closed by the peer (see code), -1: lost. */
int wsclient_read(struct wsclient *c, void (*fn)(void *arg, enum ws_opcode op, const char *data, size_t len),
                  void *arg);
unsigned wsclient_code(const struct wsclient *c); /* the peer's close code, 1006 without one */
const char *wsclient_reason(const struct wsclient *c);
/* Frees; without a goodbye: the peer sees the connection drop. */
void wsclient_free(struct wsclient **c);

#endif
