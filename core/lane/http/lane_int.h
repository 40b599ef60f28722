/*
 * Inside the HTTP lanes. Who may touch what is said at each member: "any" with atomics or a lock, "lane" on the
 * lane thread alone, "caller" on the caller's loop alone, "const" by nobody after creation.
 *
 *   lanes.c    the thread, its start and stop, the per-loop WebSocket contexts
 *   lane.c     one lane: semaphore, wait queue, who is next
 *   target.c   targets of a lane, their cap and expiry
 *   origin.c   their schemes, hosts and ports: how much of the lane one of these may have over all its paths
 *   rules.c    which settings count for which target
 *   board.c    what others may see of them
 *   request.c  requests; easy.c: their curl handles; redirect.c: from one hop to the next; draft.c: from the caller
 *   ws.c       admission and connect sequences of outgoing WebSockets
 */
#ifndef OMID_LANE_HTTP_LANE_INT_H
#define OMID_LANE_HTTP_LANE_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "base/map.h"
#include "base/metrics.h"
#include "base/urlkey.h"
#include "conf/conf.h"
#include "lane/http/breaker.h"
#include "lane/http/curlev.h"
#include "lane/http/lane.h"
#include "lane/http/latency.h"
#include "lane/http/limit.h"
#include "lane/http/wsconn.h"

#define LANES_MAGIC UINT32_C(0x6c616e73)
#define LANE_MAGIC UINT32_C(0x6c616e65)
#define TARGET_MAGIC UINT32_C(0x74617267)
#define ORIGIN_MAGIC UINT32_C(0x6f726967)

#define TARGETS_MAX 100000u            /* per lane; the idlest goes first */
#define TARGET_IDLE_MS (3600u * 1000u) /* forgotten after this */
#define LANE_MAX_URL 8192u             /* bytes */
#define LANE_MAX_HEADERS 64u           /* lines of one request */
#define LANE_MAX_HEADER_BYTES 16384u   /* of all of them */
#define LANE_MAX_BODY (64u << 20)      /* bytes of one request's body */
#define LANE_MAX_BODIES (256ull << 20) /* bytes of the bodies of a lane's requests */
#define LANE_OVERCOMMIT 64u            /* requests under way beyond queue and semaphore, twice over: see lane_begin */

struct lanes {
    uint32_t magic;
    struct loop *loop;    /* const */
    atomic_bool stopping; /* any: refuse what is new */
    atomic_uint posting;  /* any: requests between the check of `stopping` and their arrival on the lane thread */
    bool started, down;   /* the owner; lane */
    ev_timer sweep;       /* lane */
    pthread_mutex_t lock; /* guards both lists */
    struct list lanes;    /* of struct lane */
    struct list wsloops;  /* of struct lane_wsloop */
};

/* A caller's loop that has, or had, outgoing WebSockets. Its watchers lie in that loop, so that it must end there:
 * after lanes_stop() and the last user, by a message. */
struct lane_wsloop {
    struct list link; /* in ls->wsloops, under its lock */
    struct lanes *ls;
    struct loop *loop; /* const */
    struct loop_msg end;
    /* the loop's thread */
    struct wsloop *ws;
    unsigned users; /* WebSockets not yet released */
    bool ending;
};

/*
 * What targets of one scheme, host and port have in common: a partner that hangs does so over all its paths, and each
 * of them has attempts of its own. So what all have in flight is bounded:
 *
 * - A new one has a quarter of the semaphore, or as many as a target starts with if that is more; but one slot is left,
 *   if there are two. Each answer of which at least half of that was in use adds one, so that it doubles per round, up
 *   to the semaphore: who answers has what it needs, and no more than about twice that when it begins to hang. Without
 *   an answer for as long as one may take, the lane's timeout, it is back at what a new one has.
 * - Where there are others an eighth is left to them, at least one slot.
 * - As many failures in a row as that bound cut it to half, down to a sixteenth.
 * - A name that could not be looked up is no fault of the target's that anybody could know of: the system's resolver
 *   says alike of a name that is unknown and of a resolver that is down, and curl passes on neither. So that no breaker
 *   opens for it, and the targets' limits stay. But a lookup may hang for the connect timeout: one at a time from then
 *   on, until one has come beyond it.
 *
 * Nor may they fill the queue: a quarter of it is theirs, half while they answer. Lane thread.
 */
struct origin {
    uint32_t magic;
    unsigned refs; /* targets */
    unsigned inflight, waiting;
    unsigned width;         /* how many may be in flight, but for what is said of answers and others; 0: it is new */
    unsigned failures;      /* in a row, since the last answer or cut */
    uint64_t answers_until; /* an answer has come that is good until then; 0: none, or it only fails */
    unsigned ringed;        /* of its targets in lane.ring */
    struct list held;       /* of its targets that would be there if it had room. Not empty: ringed >= its room */
    char key[];             /* scheme://host:port */
};

struct target {
    uint32_t magic;
    struct list ring; /* in lane.ring, or origin->held, while it has waiters that its limit lets start */
    bool held;        /* the latter */
    struct origin *origin;
    struct list idle;    /* in lane.idle while refs is 0 */
    struct list waiters; /* of struct waiter, oldest first */
    unsigned refs, waiting, inflight;
    uint64_t idle_since;
    const struct conf_lane *rules; /* that count for it: rules.c */
    struct override *override;     /* the block they come from, or NULL */
    struct breaker breaker;
    bool adaptive; /* has a limit of its own: requests; not WebSockets */
    struct limit limit;
    struct list board; /* under the lane's board_lock, as the first four of `seen` */
    struct {
        enum breaker_state state;
        uint64_t since_ms, open_until;
        const char *why;
        atomic_uint limit, inflight, waiting; /* any */
    } seen;
    char key[]; /* scheme://host:port/path, without user, query and fragment */
};

/* Something that wants a slot of the semaphore: a request, or an attempt of a WebSocket. Lane thread. */
struct waiter {
    struct target *target;
    struct list in_target, in_lane; /* while queued */
    uint64_t deadline;
    uint64_t until; /* it waits no longer than this; 0: as long as all do */
    bool queued;
    bool admitted;      /* the breaker has let it pass before: a later attempt of a sequence */
    uint32_t within_ms; /* the token's deadline */
    struct breaker_token token;
    void (*go)(struct waiter *w); /* a slot is its now, and `token`; give back with lane_slot_free() */
    void (*refuse)(struct waiter *w, enum omid_http_error why);
};

enum lane_reject { REJECT_FULL, REJECT_QUEUE_TIMEOUT, REJECT_BREAKER, REJECT_STREAMS, REJECT_SHUTDOWN, REJECTS };

struct lane {
    uint32_t magic;
    struct lanes *ls;
    const char *name; /* const; interned for ever: metrics keep it */
    atomic_uint refs; /* any: the owner's, one per request and per WebSocket */
    struct list link; /* in ls->lanes, under its lock */
    struct loop_msg free_msg;
    atomic_uint begun; /* any: requests from start to the end of their answer */
    atomic_uint begun_max;
    atomic_size_t bodies; /* any: bytes */

    struct { /* any: copies for lanes_status */
        atomic_uint inflight, waiting, streams, targets, open, semaphore;
        atomic_uint_fast64_t done, rejected[REJECTS];
    } seen;
    struct latency latency;     /* the lane thread writes, any reads */
    pthread_mutex_t board_lock; /* within ls->lock, if both; guards these lists of struct target, and overrides */
    struct list board_troubled, board_calm;
    struct override *overrides; /* the lane writes, locked; longest prefix first */
    size_t n_overrides;

    /* lane */
    struct conf_lane conf;
    struct curlev *curl;
    unsigned inflight, waiting, streams;
    unsigned open_breakers;
    bool pumping;
    struct list queue; /* of struct waiter, by deadline */
    struct list ring;  /* of struct target: those with waiters that may start, in the order of their turns */
    struct list idle;  /* of struct target, idlest first */
    struct map *targets, *latest, *origins;
    ev_timer expiry;          /* of the first in the queue, or sooner */
    uint64_t expiry_ms;       /* while it is active */
    struct list running;      /* of struct lane_http */
    struct list ws;           /* of struct lane_ws */
    struct lane_easy **spare; /* handles not in use */
    unsigned n_spare, max_spare;
    struct {
        struct metric *inflight, *waiting, *streams, *superseded, *redirects, *seconds;
        struct metric *requests[OMID_HTTP_ERRORS];
        struct metric *rejected[REJECTS];
        struct metric *transitions[BREAKER_WHYS]; /* none for BREAKER_NEW */
        struct metric *open_breakers;
    } m;
};

/* ---- lanes.c ---- */
/* A new request may be posted until lanes_leave(). false: shutting down. Any thread. */
bool lanes_enter(struct lanes *ls);
void lanes_leave(struct lanes *ls);
/* On the loop's thread; one use, until lanes_wsloop_put(). NULL: no memory. */
struct lane_wsloop *lanes_wsloop_get(struct lanes *ls, struct loop *loop);
void lanes_wsloop_put(struct lane_wsloop **w);

/* ---- lane.c ---- */
void lane_ref(struct lane *l);
/* Any thread; the last one posts the lane's end to the lane thread. */
void lane_unref(struct lane *l);
uint64_t lane_now(const struct lane *l);
/* Lane thread: answers everything with OMID_HTTP_SHUTDOWN. */
void lane_shut(struct lane *l);
/* go() or refuse() of w will be called, perhaps within. w->target is set. */
void lane_slot_ask(struct lane *l, struct waiter *w);
/* Takes over w's place in the queue, with a deadline of its own; w leaves without a word. */
void lane_slot_replace(struct lane *l, struct waiter *w, struct waiter *by);
/* Out of the queue. */
void lane_slot_cancel(struct lane *l, struct waiter *w);
/* The slot that go() gave. */
void lane_slot_free(struct lane *l, struct waiter *w);
/* The token's verdict. Once. */
void lane_verdict(struct lane *l, struct waiter *w, enum breaker_outcome outcome, uint64_t took_ms);
void lane_rejected(struct lane *l, enum lane_reject why);
const char *lane_reject_name(enum lane_reject why);
void lane_streams_add(struct lane *l, int n);
void lane_open_breakers_add(struct lane *l, int n);

/* The name of its host could not be looked up; while it holds its slot. */
void lane_unresolved(struct waiter *w);

/* ---- origin.c: lane thread ---- */
/* Found or made for a target's key, with a reference. NULL: no memory. */
struct origin *origin_get(struct lane *l, const char *target);
void origin_put(struct lane *l, struct origin **o); /* may be NULL */
/* How many more of its attempts may begin. */
unsigned origin_room(const struct lane *l, const struct origin *o);
/* May one more wait? */
bool origin_may_wait(const struct lane *l, const struct origin *o);
/* An attempt has ended; told while it holds its slot. within_ms: an answer of it is good for so long. */
void origin_learn(struct lane *l, struct origin *o, enum breaker_outcome outcome, uint64_t within_ms);
/* Its host could not be looked up. */
void origin_unresolved(struct origin *o);

/* ---- target.c: lane thread ---- */
/* Found or made, with a reference. NULL: no memory. */
struct target *target_get(struct lane *l, const char *key);
void target_put(struct lane *l, struct target **t);
/* How many of its requests may be in flight. */
unsigned target_limit(const struct target *t);
/* Closes its breaker, if there is one and it is not closed. In lane.c. */
void target_reset(struct lane *l, const char *key);
void targets_expire(struct lane *l, uint64_t now);
void targets_free(struct lane *l);

/* ---- board.c: lane thread ---- */
void board_init(struct lane *l); /* before any thread has it */
void board_free(struct lane *l);
void board_put(struct lane *l, struct target *t); /* a new one, or its breaker has moved */
void board_remove(struct lane *l, struct target *t);

/* ---- rules.c: lane thread ---- */
/* Takes over settings, for the targets there are, too; waiters are the caller's to settle. false: no memory, all as it
 * was. */
bool rules_apply(struct lane *l, const struct conf_lane *conf);
void rules_assign(struct lane *l, struct target *t); /* a new one, or after a change */
void rules_release(struct target *t);
/* Warns, once, about blocks that have matched nothing for an hour; returns of how many. */
unsigned rules_remark(struct lane *l, uint64_t now);
void rules_free(struct lane *l);
/* One object per target block. Any thread. */
void rules_write(struct lane *l, struct json_w *w);

/* ---- request.c ---- */
void requests_done(void *lane, CURL *easy, CURLcode rc); /* a curlev_done_fn */
void requests_shut(struct lane *l);                      /* those in flight */

/* ---- easy.c ---- */
void lane_easy_free(struct lane_easy **e); /* one of lane.spare */

/* ---- draft.c ---- */
/* Are these "Name: value" lines fit to be sent? Any thread. */
bool request_headers_ok(const char *const *headers);

/* ---- ws.c ---- */
void ws_shut(struct lane *l);

#endif
