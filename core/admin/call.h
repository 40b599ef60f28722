/*
 * A request of a route of the admin API that is answered after work elsewhere: the store's writer, an executor, a
 * plugin. On the reactor of its channel, from begin to end.
 *
 * The call lives until it is answered or the client has left, and as long as somebody works for it. Answers to a client
 * that has left go nowhere. Embedded first in a struct of the caller's.
 */
#ifndef OMID_ADMIN_CALL_H
#define OMID_ADMIN_CALL_H

#include "base/json.h"
#include "bus/channel.h"

struct admin_call {
    uint32_t magic;
    struct channel *ch; /* NULL: answered, or the client has left */
    unsigned working;
    void (*drop)(struct admin_call *c); /* frees what the embedding struct holds, not itself; NULL: nothing */
};

/* In a handler's opened(): size bytes, zeroed. NULL: no memory; the request is answered. */
void *admin_call_begin(struct channel *ch, size_t size, void (*drop)(struct admin_call *c));
/* A handler's closed(). */
void admin_call_closed(struct channel *ch, uint16_t code);
const struct channel_request *admin_call_request(const struct admin_call *c);

/* Somebody works for it from here to admin_call_back(), which comes first in whatever is called back. */
void admin_call_work(struct admin_call *c);
/* false: the client has left, and with the last one the call is gone. */
bool admin_call_back(struct admin_call *c);

/* Each ends the call: it is gone unless somebody works for it. */
void admin_call_answer(struct admin_call *c, int status, const char *body, size_t len);
void admin_call_error(struct admin_call *c, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* What w wrote to out, if it is whole; else 503. Frees out. */
void admin_call_json(struct admin_call *c, int status, struct json_w *w, struct buf *out);
/* The store, an executor or a plugin did not take it, or failed: by its OMID_E*. what: "the store failed". */
void admin_call_failed(struct admin_call *c, int rc, const char *what);

#endif
