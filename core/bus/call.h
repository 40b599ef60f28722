/*
 * A request of a route of the core's that is answered later: by the store, the queue, an executor or a plugin. On the
 * reactor of its channel from begin to end.
 *
 *     opened() ── call_begin() ── call_await(what was asked) ··· whoever was asked comes back ── call_answer()
 *                                        ╰──────────── or asks the next ───────────╯
 *
 * It ends with its answer, or when the client leaves while nobody works for it. Until then its channel stays, and with
 * it the request's strings and its body, whether the client waits or not; what is answered to a client that has left
 * goes nowhere. Nobody else owns it: store, queue, executors and plugins come back to all that they took, at the latest
 * when they stop. One that an abandoned thread of an executor may still use is left to it.
 *
 * A plugin's request is an omid_exchange (plugin_routes.c): it is the plugin's, beyond client, answer and deadline.
 */
#ifndef OMID_BUS_CALL_H
#define OMID_BUS_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "bus/channel.h"
#include "bus/route.h"

struct exec;

/* First in a struct of the route's own. */
struct call {
    uint32_t magic;
    struct channel *ch;
    void (*drop)(struct call *c);
    bool working; /* somebody will come back to it */
    bool gone;    /* the client has left */
};

/* In a handler's opened(): size bytes, zeroed but for the call. drop: frees what the embedding struct holds, not the
 * struct; NULL: nothing. NULL: no memory; the request is answered. */
void *call_begin(struct channel *ch, size_t size, void (*drop)(struct call *c));
/* A handler's closed(). */
void call_closed(struct channel *ch, uint16_t code);
/* The handler of a route whose opened() begins a call; outside of functions. */
#define CALL_HANDLER(fn) (&(const struct channel_handler){.opened = (fn), .closed = call_closed})

/* Valid as long as the call. */
static inline const struct channel_request *call_request(const struct call *c)
{
    return channel_request(c->ch);
}
static inline struct loop *call_loop(const struct call *c)
{
    return channel_loop(c->ch);
}

/* ---- work elsewhere ---- */
/* rc: what store, queue, executor or host said to work whose callback gets the call, and never within that call. With
 * OMID_OK it is awaited; else the call is answered: call_failed(). */
void call_await(struct call *c, int rc);
/* In such a callback, where nothing is left to do for a client that has left. false: it has, and the call is gone. */
bool call_wanted(struct call *c);
/* As exec_submit(), to the storage executor: for call_await(). run and done get c; run must leave the struct call and
 * its channel alone, but may read the request. */
int call_work(struct call *c, struct exec *exec, const char *label, void (*run)(void *c),
              void (*done)(void *c, bool ran));

/* ---- the answer: the call is gone with it ---- */
/* body NULL: none. */
void call_answer(struct call *c, int status, const char *body, size_t len);
/* What w wrote to out, if it is whole, with a newline for whoever reads the admin API in a terminal; else 503. Frees
 * out, which is not of the embedding struct. */
void call_json(struct call *c, int status, struct json_w *w, struct buf *out);
/* {"error":"..."} */
void call_error(struct call *c, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* By the OMID_E* of whoever did not take the work, or failed: 503, or 500 with `what` ("the store failed"). */
void call_failed(struct call *c, int rc, const char *what);

/* {"error":"..."} to a request without a call. The channel stays the caller's. */
void request_error(struct channel *ch, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
