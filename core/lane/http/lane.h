/*
 * HTTP lanes. One thread (a loop with one curl multi) owns every lane, target, breaker and limit: no locks. Callers sit
 * on other loops; requests go and answers come by message, batched per turn.
 *
 * A lane belongs to one plugin. Its semaphore bounds requests and handshakes in flight, its pool the
 * connections, its queue the waiters (with a deadline). What one lane does never takes a slot of another.
 */
#ifndef OMID_LANE_HTTP_LANE_H
#define OMID_LANE_HTTP_LANE_H

#include <omid/plugin.h>
#include <stdbool.h>

#include "base/json.h"
#include "base/loop.h"

struct conf_lane; /* conf/conf.h */
struct lanes;
struct lane;

struct lanes *lanes_new(void);
bool lanes_start(struct lanes *ls);
/* Answers everything still there with OMID_HTTP_SHUTDOWN; ends the thread. The loops that had WebSockets get a last
 * message each: they must run, or be stopped with loop_stop(), afterwards. */
void lanes_stop(struct lanes *ls);
void lanes_free(struct lanes **ls); /* after lanes_stop(), and after the loops that had requests have run dry */

/* The lane thread's, for the watchdog. */
struct loop *lanes_loop(struct lanes *ls);

/* Any thread. The name is copied; a lane's metrics carry it as label `lane`. */
struct lane *lane_new(struct lanes *ls, const char *name, const struct conf_lane *config);
void lane_configure(struct lane *l, const struct conf_lane *config); /* applies to running lanes */
/* One more owner, who releases it: generations of a plugin share their lane, its breakers included. */
struct lane *lane_share(struct lane *l);
/* No new requests of this owner; freed with the last owner, when the last request is answered. */
void lane_release(struct lane **l);

/* One object per lane: in flight, waiting, rejected and why, done, p50 and p99 of the last minutes' attempts, targets,
 * breakers open, streams. Any thread. */
void lanes_status(struct lanes *ls, struct json_w *w);
/* {"breakers":[..],"shown":..,"targets":..}: at most 1,000 targets of the lane of this name (NULL: of all lanes), those
 * whose breakers are not closed first, then the newest. Any thread. */
void lanes_breakers(struct lanes *ls, const char *lane, struct json_w *w);
/* Closes the breakers of a target, soon. The URL's user, query and fragment are ignored. How many were not closed;
 * OMID_EINVAL: no URL of a target; OMID_ECLOSED: shutting down. Any thread. */
int lanes_breaker_reset(struct lanes *ls, const char *url, const char *lane);

/* ---- requests: on the caller's loop ---- */
struct lane_http;
/* The contract of omid_host.http_start(): exactly one cb on `loop` unless cancelled, never within this call. */
int lane_http_start(struct lane *l, struct loop *loop, const struct omid_http_request *req, omid_http_cb cb, void *arg,
                    struct lane_http **out);
void lane_http_cancel(struct lane_http **http);

/* ---- outgoing WebSockets: admission on the lane thread, then on the caller's loop ---- */
struct lane_ws;
struct lane_ws_events {
    void (*open)(void *arg, struct lane_ws *ws);
    void (*message)(void *arg, struct lane_ws *ws, enum omid_message type, const void *data, size_t len);
    void (*writable)(void *arg, struct lane_ws *ws);
    void (*closed)(void *arg, struct lane_ws *ws, const struct omid_ws_close *why);
};
/* The contracts of omid_host.ws_*(). */
int lane_ws_connect(struct lane *l, struct loop *loop, const struct omid_ws_request *req,
                    const struct lane_ws_events *events, void *arg, struct lane_ws **out);
int lane_ws_send(struct lane_ws *ws, enum omid_message type, const void *data, size_t len);
void lane_ws_close(struct lane_ws *ws, uint16_t code);
void lane_ws_release(struct lane_ws **ws);

#endif
