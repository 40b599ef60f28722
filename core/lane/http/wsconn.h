/*
 * One outgoing WebSocket connection on a loop: connect (name, TCP, TLS) by curl, the upgrade by hand, then RFC 6455
 * frames on the socket itself. No lanes, no retries. Everything on the loop's thread; no callback comes from within a
 * call, and every call may be made from within a callback.
 */
#ifndef OMID_LANE_HTTP_WSCONN_H
#define OMID_LANE_HTTP_WSCONN_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/wsframe.h"

/* What the connections of one loop share: curl's multi with its caches, a buffer to read into. */
struct wsloop;
struct wsloop *wsloop_new(struct ev_loop *ev); /* NULL: no memory */
void wsloop_free(struct wsloop **w);           /* after its last connection */

struct conf_outside; /* conf/lane.h */
struct wsconn_params {
    const char *url;                    /* ws:// or wss:// */
    const char *const *headers;         /* "Name: value" lines without line ends, NULL-terminated; or NULL */
    uint32_t connect_ms;                /* for the connection, and once more for the answer to the upgrade */
    size_t max_message;                 /* of the peer, bytes */
    size_t send_buffer;                 /* bytes that wait before wsconn_send() refuses */
    bool only_public;                   /* refuse addresses that are not public: not together with a proxy */
    const struct conf_outside *outside; /* proxy and certificates, or NULL; not kept */
};

enum wsconn_why {
    WSCONN_FAILED,   /* never open: name, connect, TLS, time, or an answer that is no WebSocket's */
    WSCONN_REJECTED, /* an HTTP status other than 101 */
    WSCONN_LOST,     /* broke while open, or the peer broke the protocol */
    WSCONN_CLOSED,   /* both sides have said Close */
};
struct wsconn_end {
    enum wsconn_why why;
    bool unresolved; /* WSCONN_FAILED: its name could not be looked up; own_fault too */
    bool own_fault;  /* WSCONN_FAILED: our resolver or descriptors, not the peer */
    uint16_t code;   /* the peer's Close code (1005: none in it), ours for a protocol error, 1006 without any */
    int http_status; /* WSCONN_REJECTED */
    const char *text;
};

struct wsconn;
struct wsconn_events {
    void (*open)(void *arg);
    void (*message)(void *arg, enum ws_opcode op, const void *data, size_t len); /* WS_TEXT or WS_BINARY */
    void (*writable)(void *arg);                            /* after OMID_EFULL: at least half is free */
    void (*ended)(void *arg, const struct wsconn_end *end); /* the last one, exactly once unless released before */
};

/* events and arg must outlive the connection. NULL: no memory, or unusable arguments (*why, static, says which). */
struct wsconn *wsconn_new(struct wsloop *w, const struct wsconn_params *params, const struct wsconn_events *events,
                          void *arg, const char **why);
/* The contract of omid_host.ws_send(): OMID_OK, OMID_EFULL, OMID_ECLOSED, OMID_EINVAL. */
int wsconn_send(struct wsconn *c, enum ws_opcode op, const void *data, size_t len);
/* After what is queued. ended() follows within 3 s. Before the connection is open: ends it. */
void wsconn_close(struct wsconn *c, uint16_t code, const char *reason);
/* At once, whatever its state; no callbacks afterwards. */
void wsconn_release(struct wsconn **c);

#endif
