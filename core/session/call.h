/*
 * A request of a REST route that is answered later. It lives on the reactor of its token's uid, in sessions.calls. Its
 * channel, and with it the request's body, stays until nobody works for it any more, whether the client waits or not;
 * what is answered to a client that has left goes nowhere.
 */
#ifndef OMID_SESSION_CALL_H
#define OMID_SESSION_CALL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/json.h"
#include "base/list.h"
#include "bus/channel.h"
#include "bus/route.h"

struct sessions;

/* First in a struct of the route's own. */
struct call {
    struct list link;
    struct sessions *ss;
    struct channel *ch;
    void (*drop)(struct call *c); /* frees what the route holds, and the struct */
    bool working;                 /* somebody will come back to it */
    bool threaded;                /* the same, an executor's thread */
    bool gone;                    /* the client has left */
};

/* Of a channel's opened(): c is zeroed and malloc()ed. NULL stands for no memory, which is answered here: false. */
bool call_begin(struct call *c, struct channel *ch, void (*drop)(struct call *c));
void call_closed(struct channel *ch, uint16_t code); /* the handler's closed() */
/* Nobody works for it any more: answers, and ends the call. body NULL: none. */
void call_answer(struct call *c, int status, const char *body, size_t len);
void call_answer_json(struct call *c, int status, struct json_w *w); /* w ends here; its buffer stays the caller's */
/* {"error":"..."} */
void call_error(struct call *c, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* For a result of the store or of an executor that refused: 503 or 500. */
void call_failed(struct call *c, int rc);
/* As exec_submit(), to the storage executor; run and done get c. */
int call_work(struct call *c, const char *label, void (*run)(void *c), void (*done)(void *c, bool ran));
static inline const struct channel_request *call_request(const struct call *c)
{
    return channel_request(c->ch);
}
void calls_free_all(struct sessions *ss);

/* The routes that use it (omid-api(7)): /v1/speech-profile, /v1/people. all: of all reactors. false: no memory. */
bool profile_routes_add(struct routes *routes, struct sessions **all);
bool people_routes_add(struct routes *routes, struct sessions **all);

#endif
