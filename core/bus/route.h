/*
 * Routes: which path is served by whom. Built on the main thread, then only read: a new table replaces the old at
 * reload. A table is counted, as each ingress thread moves to the new one in its own time. A channel copies its route,
 * so that it holds what serves it (`hold`), and not the table.
 */
#ifndef OMID_BUS_ROUTE_H
#define OMID_BUS_ROUTE_H

#include <omid/plugin.h>
#include <stdbool.h>

#include "bus/channel.h"

/* How ingress checks who is calling. */
enum route_auth {
    ROUTE_OPEN,
    ROUTE_TOKEN,        /* Bearer token: 401 (REST) */
    ROUTE_TOKEN_LISTEN, /* the same, but 403 as native clients know it */
    ROUTE_ADMIN,        /* the admin key alone as Bearer token (401), or whoever may connect to the control socket */
    ROUTE_TOKEN_FIRST   /* WebSocket: by its first message, after the upgrade; the channel is opened then */
};

struct route {
    /* "/v1/things", or with pieces that the client fills: "/v1/things/{id}/audio". A {name} stands for one piece of the
     * path, never an empty one. A path that stands in the table as it is is not compared with patterns. */
    const char *path;
    const char *method; /* NULL: WebSocket */
    enum route_auth auth;
    /* Called on the ingress thread before auth; an HTTP 400 with {"error":text} when it answers false. NULL: none. */
    bool (*precheck)(const struct channel_request *req, char *err, size_t errlen);
    const struct channel_handler *handler;
    void *arg; /* the handler's: e.g. the plugin module and its omid_route */
    /* One holder of arg, and of path and method, more or less. The table is one, each channel is. Any thread. NULL:
     * they live as long as the process serves. */
    void (*hold)(void *arg);
    void (*release)(void *arg);
};

struct routes;
struct routes *routes_new(void);
struct routes *routes_ref(const struct routes *r); /* any thread */
void routes_free(struct routes **r);               /* one holder less; any thread */
/* Copies *route and holds it; strings stay the caller's. false: path (whatever its pieces are called) and method are
 * taken, or the path is not usable: see route_path_ok(). */
bool routes_add(struct routes *r, const struct route *route);
/* n of them, in order, each with this arg. */
bool routes_add_all(struct routes *r, const struct route *table, size_t n, void *arg);
/* Begins with '/', has at most ROUTE_PARAMS_MAX pieces {name}, and braces nowhere else. */
bool route_path_ok(const char *path);
/* What the client put for the pieces of route's path, percent-decoded, in order: malloc()ed into params, which ends
 * with NULL. path is one that routes_find() found the route for. false with a reason that names the piece. Any thread.
 */
bool route_params(const struct route *route, const char *path, size_t path_len, char *params[ROUTE_PARAMS_MAX + 1],
                  char *err, size_t errlen);
/* Ingress threads. *other_method: the path exists, with another method (405). HEAD finds GET. */
const struct route *routes_find(const struct routes *r, const char *path, size_t path_len, const char *method,
                                size_t method_len, bool websocket, bool *other_method);
/* What an Allow header says about this path ("GET, HEAD, POST"); "" for an unknown one. Returns the length. */
size_t routes_allow(const struct routes *r, const char *path, size_t path_len, char *out, size_t outlen);

#endif
