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
    ROUTE_TOKEN_FIRST   /* WebSocket: by its first message, after the upgrade; the channel is opened then */
};

struct route {
    const char *path;   /* exact */
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
/* Copies *route and holds it; strings stay the caller's. false: path and method are taken. */
bool routes_add(struct routes *r, const struct route *route);
/* Ingress threads. *other_method: the path exists, with another method (405). HEAD finds GET. */
const struct route *routes_find(const struct routes *r, const char *path, size_t path_len, const char *method,
                                size_t method_len, bool websocket, bool *other_method);
/* What an Allow header says about this path ("GET, HEAD, POST"); "" for an unknown one. Returns the length. */
size_t routes_allow(const struct routes *r, const char *path, size_t path_len, char *out, size_t outlen);

#endif
