/* Part of omid/plugin.h, which includes it: HTTP and WebSocket routes of a plugin's own. */
#ifndef OMID_PLUGIN_ROUTE_H
#define OMID_PLUGIN_ROUTE_H

#include <omid/base.h>

#ifdef __cplusplus
extern "C" {
#endif

enum omid_route_auth {
    OMID_AUTH_NONE,
    OMID_AUTH_TOKEN, /* Authorization: Bearer; uid is set */
    OMID_AUTH_ADMIN, /* 1.2: the admin key, also through the control socket; uid is NULL */
};

/* One line of a header; the name in lower case. */
struct omid_header {
    const char *name, *value;
};

/* Of an answer in pieces, respond_begin(). 1.2 */
struct omid_stream {
    uint32_t size;
    /* After OMID_EFULL: there is room again, or the client has left. Not within respond_data(). */
    void (*writable)(void *arg, struct omid_exchange *ex);
    void *arg;
};

/* An incoming request, HTTP or upgrade. Valid during the callback. */
struct omid_request {
    uint32_t size;
    const char *method, *path, *query; /* query without '?', "" when absent */
    const char *uid;                   /* NULL without auth */
    const char *content_type;          /* "" when absent */
    const char *peer;                  /* "192.0.2.1" */
    const void *body;
    size_t body_len;
    /* 1.1. What the client put for the {name}s of the route's path, percent-decoded, in their order; NULL behind the
     * last. Such a value may hold anything but NUL, a slash included. */
    const char *const *params;
    /* 1.2. As they came, in their order, without Authorization. */
    const struct omid_header *headers;
    size_t n_headers;
};

struct omid_route {
    uint32_t size;
    /* "/echo", or since 1.1 with up to four pieces that the client fills: "/v1/things/{id}/audio". A {name} is a whole
     * piece between slashes, never empty. A path that is a route as it stands is not compared with patterns. */
    const char *path;
    const char *method; /* an HTTP method; NULL for a WebSocket route */
    enum omid_route_auth auth;

    /* HTTP: answer now or later with respond(), exactly once. An error without an answer: 500. Left unanswered for
     * 60 s: 504 (respond() is still due). */
    int (*request)(void *state, struct omid_exchange *ex, const struct omid_request *req);

    /* WebSocket. open() may set *user; an error refuses with 1011, and nothing more is called. May be NULL. */
    int (*open)(void *state, struct omid_conn *conn, const struct omid_request *req, void **user);
    /* OMID_OK: the message is taken. OMID_EFULL: not taken; it is handed over again when the way
     * back has room (after a while, if it has), and until then the client is not read. Any other: closed with 1011. */
    int (*message)(void *user, struct omid_conn *conn, enum omid_message type, const void *data, size_t len);
    /* The last callback of the connection; code is the close code as seen from here. May be NULL. */
    void (*closed)(void *user, struct omid_conn *conn, uint16_t code);
};

#ifdef __cplusplus
}
#endif
#endif
