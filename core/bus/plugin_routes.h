/*
 * Routes of plugins (struct omid_route) on channels: what lies between a client's connection and a plugin's
 * request(), open(), message() and closed().
 *
 * A request goes to the plugin's instance on the reactor of its channel. When the plugin is not running there, HTTP
 * is answered with 503 and a WebSocket closed with 1013.
 */
#ifndef OMID_BUS_PLUGIN_ROUTES_H
#define OMID_BUS_PLUGIN_ROUTES_H

#include "bus/route.h"
#include "host/host.h"

/* Adds every route of the host's plugins to r; one that the core has already is left out and logged. Routes, and the
 * channels that come of them, use their module. Main thread, after host_configure() or host_change_prepare(). false: no
 * memory. */
bool plugin_routes_add(struct host *h, struct routes *r);

/* How long plugins have for an answer, from the next request on: then 504 (default 60 s). Any thread. */
void plugin_routes_answer_within(uint32_t ms);

/* For host_services. */
int plugin_respond(struct omid_exchange **ex, int status, const char *content_type, const void *body, size_t len);
int plugin_respond_with(struct omid_exchange **ex, int status, const char *content_type, const char *const *headers,
                        const void *body, size_t len);
int plugin_respond_begin(struct omid_exchange *ex, int status, const char *content_type, const char *const *headers,
                         uint64_t length, const struct omid_stream *stream);
int plugin_respond_data(struct omid_exchange *ex, const void *data, size_t len);
void plugin_respond_end(struct omid_exchange **ex);
int plugin_conn_send(struct omid_conn *conn, enum omid_message type, const void *data, size_t len);
void plugin_conn_close(struct omid_conn *conn, uint16_t code, const char *reason);

extern const struct channel_handler plugin_http_handler, plugin_ws_handler;

#endif
