/*
 * A channel: the two bounded queues between one client connection (on an ingress thread) and whoever serves it (on a
 * reactor). The only thing that ingress and session share.
 *
 *     ingress thread                         reactor
 *     channel_up_*()     ── loop inbox ──►   handler->opened/message/closed
 *     channel_sink       ◄── down list ──    channel_down_*()
 *
 * References: one per end. The ingress end drops its with channel_up_closed() (always its last call), the reactor
 * end with channel_drop() (its last). Messages in flight hold references of their own.
 *
 * Bounds: up_max bytes on the way up: then ingress stops reading until told DOWN_RESUME. down_max on the way down:
 * then channel_down_message() refuses and handler->writable() follows.
 */
#ifndef OMID_BUS_CHANNEL_H
#define OMID_BUS_CHANNEL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <omid/plugin.h>

#include "base/loop.h"
#include "base/wsframe.h"

struct route;
struct channel;

#define ROUTE_PARAMS_MAX 4     /* pieces of a path that the client fills */
#define CHANNEL_MAX_HEADERS 16 /* lines that an answer adds */

/* What the client asked for. Owned by the channel, immutable. */
struct channel_request {
    char *method, *path, *query;                 /* query without '?', "" when absent */
    char *params[ROUTE_PARAMS_MAX + 1];          /* of the route's path, decoded; NULL behind the last */
    char *uid;                                   /* NULL without auth */
    char *content_type, *peer, *idempotency_key; /* "" when absent */
    struct omid_header *headers;                 /* one malloc()ed block with all texts; HTTP only */
    size_t n_headers;
    void *body; /* NUL behind it */
    size_t body_len;
    bool websocket;
};
void channel_request_free(struct channel_request *req); /* the members, not the struct */

/* The reactor's side. All on the reactor's thread. */
struct channel_handler {
    /* First. For HTTP the only one besides closed(), and writable() of an answer in pieces. */
    void (*opened)(struct channel *ch);
    /* true: taken. false: keep it (and all after it) until channel_resume(). WS_TEXT and WS_BINARY only. */
    bool (*message)(struct channel *ch, enum ws_opcode op, const unsigned char *data, size_t len);
    /* After channel_down_message() answered CHANNEL_FULL: half is free again. */
    void (*writable)(struct channel *ch);
    /* The client is gone or closed (code as in RFC 6455, 1006 for a lost one). Messages before it were delivered,
     * except those that were held (channel_held()): they are dropped behind it. The last call. */
    void (*closed)(struct channel *ch, uint16_t code);
};

enum channel_result { CHANNEL_OK, CHANNEL_FULL, CHANNEL_CLOSED };

/* ---- down: a sink per ingress thread ---- */
enum channel_down_kind {
    DOWN_MESSAGE,  /* op, data */
    DOWN_CLOSE,    /* code, data = reason: send what is queued, then a Close frame */
    DOWN_RESUME,   /* read on */
    DOWN_RESPONSE, /* status in code, content_type, data = body */
    DOWN_HEAD,     /* of an answer in pieces: as DOWN_RESPONSE, data = the body's length, a uint64_t */
    DOWN_BODY,     /* data, the next piece of it */
    DOWN_END,      /* all of it was handed over; without it, DOWN_CLOSE: it will not be whole */
};
struct channel_down {
    struct channel_down *next;
    struct channel *ch; /* holds a reference: channel_down_free() drops it */
    enum channel_down_kind kind;
    enum ws_opcode op;
    uint16_t code;
    const char *content_type; /* static or in data behind len */
    const char *headers;      /* DOWN_RESPONSE: "Name: value" lines, NUL behind each and one more at the end; or NULL */
    size_t len;
    unsigned char data[];
};
struct channel_sink {
    pthread_mutex_t lock;
    struct channel_down *first, **last;
    void (*wake)(struct channel_sink *sink); /* any thread; called only when the list goes from empty to non-empty */
    struct loop_outbox *up; /* the ingress thread's, which flushes it once a turn; NULL: what goes up goes at once */
};
void channel_sink_init(struct channel_sink *sink, void (*wake)(struct channel_sink *));
struct channel_down *channel_sink_take(struct channel_sink *sink); /* the whole list, in order */
/* Frees, and gives its bytes back to the channel's bound (when they are on the socket, not earlier). A DOWN_RESUME is
 * freed before it is acted upon: the next one may be needed at once. */
void channel_down_free(struct channel_down *d);

/* ---- ingress end (its thread) ---- */
/* Takes over *req's members. The channel has two references, one per end. NULL: no memory (req is freed). */
struct channel *channel_new(struct channel_request *req, const struct route *route, struct channel_sink *sink,
                            void *conn, struct loop *reactor, const struct channel_handler *handler, size_t up_max,
                            size_t down_max);
void channel_up_open(struct channel *ch);
/* Copies. CHANNEL_FULL: taken, but stop reading until DOWN_RESUME. CHANNEL_CLOSED: no memory, not taken. */
enum channel_result channel_up_message(struct channel *ch, enum ws_opcode op, const void *data, size_t len);
void channel_up_closed(struct channel **ch, uint16_t code);
void *channel_conn(const struct channel *ch); /* ingress's own pointer; NULL once up_closed */

/* ---- reactor end ---- */
void channel_set_user(struct channel *ch, void *user);
void *channel_user(const struct channel *ch);
const struct channel_request *channel_request(const struct channel *ch);
const struct route *channel_route(const struct channel *ch);
struct loop *channel_loop(const struct channel *ch);
/* Taken when it fits into down_max, or when half of down_max is free (so the largest message passes, too). */
enum channel_result channel_down_message(struct channel *ch, enum ws_opcode op, const void *data, size_t len);
/* Never refused, whatever the bound. After it, channel_down_* answers CHANNEL_CLOSED. reason may be NULL. */
void channel_down_close(struct channel *ch, uint16_t code, const char *reason);
/* HTTP: the answer. content_type NULL: application/json. Then channel_drop(). */
enum channel_result channel_down_response(struct channel *ch, int status, const char *content_type, const void *body,
                                          size_t len);
/* The same with lines of its own ("Name: value", NULL-terminated, at most CHANNEL_MAX_HEADERS); headers may be NULL. */
enum channel_result channel_down_response_with(struct channel *ch, int status, const char *content_type,
                                               const char *const *headers, const void *body, size_t len);
/* HTTP: an answer in pieces of `length` bytes in all. channel_down_piece() is refused as channel_down_message() is.
 * Then channel_down_end(), or channel_down_close() where it can't be whole, and channel_drop(). */
enum channel_result channel_down_head(struct channel *ch, int status, const char *content_type,
                                      const char *const *headers, uint64_t length);
enum channel_result channel_down_piece(struct channel *ch, const void *data, size_t len);
void channel_down_end(struct channel *ch);
void channel_resume(struct channel *ch); /* delivers what was held, not within this call */
/* No handler calls afterwards. What was not closed or answered yet is closed with 1011 (HTTP: 500). */
void channel_drop(struct channel **ch);
size_t channel_held(const struct channel *ch); /* messages that wait for channel_resume() */
size_t channel_up_bytes(const struct channel *ch);
size_t channel_down_bytes(const struct channel *ch);

/* ---- the process's budget for session memory (memory.sessions) ---- */
void budget_setup(uint64_t bytes);
void budget_add(int64_t bytes); /* any thread; negative gives back */
bool budget_exhausted(void);    /* then new sessions get 1013 */
uint64_t budget_used(void);

#endif
