/*
 * Channels. Who writes what:
 *   ingress thread: conn; closed (once), up_stopped := true
 *   reactor:        user, held, dropped, down_closed; down_wanted := true
 *   both:           the counters of bytes, and each other's wish (up_stopped, down_wanted) := false
 *
 * A wish is stored before the counter is read again, and the counter is changed before the wish is read: one of the
 * two sides always sees the other's change, so that no wake-up is lost (all of it sequentially consistent).
 *
 * What must never fail for want of memory (opened, closed, writable, resume, close) has its node inside the
 * channel or is made with it.
 */
#include "bus/channel.h"

#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "bus/route.h"

#define CHANNEL_MAGIC UINT32_C(0x6368616e)

/* So many on the way up go before the turn's end: the reactor of a long one need not wait for all of it. */
#define UP_BATCH 64

/* What a queued message costs beyond its payload: an empty one must not be free of charge. */
#define MESSAGE_COST 64

struct up_message {
    struct loop_msg post;
    struct channel *ch; /* holds a reference */
    struct up_message *next_held;
    enum ws_opcode op;
    size_t len;
    unsigned char data[];
};

struct channel {
    uint32_t magic;
    atomic_uint refs;
    struct channel_request req;
    struct route route; /* held */
    struct channel_sink *sink;
    struct loop *loop;
    const struct channel_handler *handler;
    size_t up_max, down_max;
    atomic_size_t up_bytes, down_bytes;
    atomic_bool closed;      /* the ingress end is gone */
    atomic_bool up_stopped;  /* ingress waits for DOWN_RESUME */
    atomic_bool down_wanted; /* the reactor waits for writable() */

    struct loop_msg opened_post, closed_post, writable_post, redeliver_post;
    atomic_bool writable_posted, resume_posted;
    struct channel_down *resume_node, *close_node;
    uint16_t closed_code; /* set before closed_post is posted */

    void *conn; /* ingress thread */

    void *user; /* the rest: reactor */
    struct up_message *held, **held_last;
    bool holding, redeliver_posted, dropped, down_closed, finished;
};

/* ------------------------------------------------------------ budget */

static _Atomic int64_t budget_bytes;
static _Atomic uint64_t budget_limit = UINT64_C(2) << 30;

void budget_setup(uint64_t bytes)
{
    atomic_store(&budget_limit, bytes);
}

void budget_add(int64_t bytes)
{
    atomic_fetch_add_explicit(&budget_bytes, bytes, memory_order_relaxed);
}

uint64_t budget_used(void)
{
    int64_t used = atomic_load_explicit(&budget_bytes, memory_order_relaxed);
    return used > 0 ? (uint64_t)used : 0;
}

bool budget_exhausted(void)
{
    return budget_used() >= atomic_load_explicit(&budget_limit, memory_order_relaxed);
}

/* ------------------------------------------------------------ life */

void channel_request_free(struct channel_request *req)
{
    for (size_t i = 0; i < ROUTE_PARAMS_MAX; i++)
        free(req->params[i]);
    free(req->method);
    free(req->path);
    free(req->query);
    free(req->uid);
    free(req->content_type);
    free(req->peer);
    free(req->idempotency_key);
    free(req->headers);
    free(req->body);
    *req = (struct channel_request){.method = NULL};
}

static void channel_ref(struct channel *ch)
{
    unsigned before = atomic_fetch_add(&ch->refs, 1);
    omid_assert(before > 0);
}

static void channel_unref(struct channel *ch)
{
    unsigned before = atomic_fetch_sub(&ch->refs, 1);
    omid_assert(before > 0);
    if (before > 1)
        return;
    omid_assert(ch->held == NULL);
    omid_assert(atomic_load(&ch->up_bytes) == 0 && atomic_load(&ch->down_bytes) == 0);
    ch->magic = OMID_MAGIC_DEAD;
    budget_add(-(int64_t)ch->req.body_len);
    channel_request_free(&ch->req);
    if (ch->route.release != NULL)
        ch->route.release(ch->route.arg);
    free(ch->resume_node);
    free(ch->close_node);
    free(ch);
}

static void on_opened(struct loop *loop, struct loop_msg *msg);
static void on_closed(struct loop *loop, struct loop_msg *msg);
static void on_writable(struct loop *loop, struct loop_msg *msg);
static void on_redeliver(struct loop *loop, struct loop_msg *msg);

struct channel *channel_new(struct channel_request *req, const struct route *route, struct channel_sink *sink,
                            void *conn, struct loop *reactor, const struct channel_handler *handler, size_t up_max,
                            size_t down_max)
{
    struct channel *ch = calloc(1, sizeof(*ch));
    struct channel_down *resume = calloc(1, sizeof(*resume));
    struct channel_down *closing = calloc(1, sizeof(*closing) + WS_MAX_REASON + 1);
    if (ch == NULL || resume == NULL || closing == NULL) {
        free(ch);
        free(resume);
        free(closing);
        channel_request_free(req);
        return NULL;
    }
    ch->magic = CHANNEL_MAGIC;
    atomic_init(&ch->refs, 2);
    ch->req = *req;
    *req = (struct channel_request){.method = NULL};
    budget_add((int64_t)ch->req.body_len);
    ch->route = *route;
    if (route->hold != NULL)
        route->hold(route->arg);
    ch->sink = sink;
    ch->conn = conn;
    ch->loop = reactor;
    ch->handler = handler;
    ch->up_max = up_max;
    ch->down_max = down_max;
    ch->held_last = &ch->held;
    ch->resume_node = resume;
    ch->close_node = closing;
    ch->opened_post.fn = on_opened;
    ch->closed_post.fn = on_closed;
    ch->writable_post.fn = on_writable;
    ch->redeliver_post.fn = on_redeliver;
    return ch;
}

/* ------------------------------------------------------------ sink */

void channel_sink_init(struct channel_sink *sink, void (*wake)(struct channel_sink *))
{
    pthread_mutex_init(&sink->lock, NULL);
    sink->first = NULL;
    sink->last = &sink->first;
    sink->wake = wake;
    sink->up = NULL;
}

struct channel_down *channel_sink_take(struct channel_sink *sink)
{
    pthread_mutex_lock(&sink->lock);
    struct channel_down *first = sink->first;
    sink->first = NULL;
    sink->last = &sink->first;
    pthread_mutex_unlock(&sink->lock);
    return first;
}

/* The node's reference on its channel is taken here. */
static void sink_post(struct channel *ch, struct channel_down *d)
{
    struct channel_sink *sink = ch->sink;
    channel_ref(ch);
    d->ch = ch;
    d->next = NULL;
    pthread_mutex_lock(&sink->lock);
    bool was_empty = sink->first == NULL;
    *sink->last = d;
    sink->last = &d->next;
    pthread_mutex_unlock(&sink->lock);
    if (was_empty)
        sink->wake(sink);
}

static void post_writable_if_room(struct channel *ch)
{
    if (atomic_load(&ch->down_bytes) > ch->down_max / 2 || !atomic_exchange(&ch->down_wanted, false))
        return;
    if (atomic_exchange(&ch->writable_posted, true))
        return; /* the one under way will do */
    channel_ref(ch);
    loop_post(ch->loop, &ch->writable_post);
}

void channel_down_free(struct channel_down *d)
{
    struct channel *ch = d->ch;
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    if (d == ch->resume_node) {
        atomic_store(&ch->resume_posted, false);
    } else if (d == ch->close_node) {
        d->ch = NULL; /* posted once; freed with the channel */
    } else {
        size_t cost = d->len + MESSAGE_COST;
        free(d);
        budget_add(-(int64_t)cost);
        atomic_fetch_sub(&ch->down_bytes, cost);
        if (!atomic_load(&ch->closed))
            post_writable_if_room(ch);
    }
    channel_unref(ch);
}

/* ------------------------------------------------------------ up: ingress end */

static void message_free(struct up_message *m)
{
    struct channel *ch = m->ch;
    size_t cost = m->len + MESSAGE_COST;
    free(m);
    budget_add(-(int64_t)cost);
    atomic_fetch_sub(&ch->up_bytes, cost);
    channel_unref(ch);
}

static void deliver(struct channel *ch, struct up_message *m);

static void on_message(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct up_message *m = container_of(msg, struct up_message, post);
    CHECK_MAGIC(m->ch, CHANNEL_MAGIC);
    deliver(m->ch, m);
}

/* Everything on the way up goes here, so that its order is kept. */
static void up_post(struct channel *ch, struct loop_msg *msg)
{
    struct loop_outbox *box = ch->sink->up;
    if (box == NULL) {
        loop_post(ch->loop, msg);
        return;
    }
    loop_outbox_post(box, ch->loop, msg);
    if (box->messages >= UP_BATCH)
        loop_outbox_flush(box);
}

void channel_up_open(struct channel *ch)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    channel_ref(ch);
    up_post(ch, &ch->opened_post);
}

enum channel_result channel_up_message(struct channel *ch, enum ws_opcode op, const void *data, size_t len)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    omid_assert(!atomic_load(&ch->closed));
    struct up_message *m = malloc(sizeof(*m) + len + 1);
    if (m == NULL)
        return CHANNEL_CLOSED;
    m->post = (struct loop_msg){.fn = on_message};
    m->ch = ch;
    m->next_held = NULL;
    m->op = op;
    m->len = len;
    if (len > 0)
        memcpy(m->data, data, len);
    m->data[len] = '\0';

    size_t cost = len + MESSAGE_COST;
    channel_ref(ch);
    budget_add((int64_t)cost);
    size_t now = atomic_fetch_add(&ch->up_bytes, cost) + cost;
    up_post(ch, &m->post);
    if (now < ch->up_max)
        return CHANNEL_OK;
    atomic_store(&ch->up_stopped, true);
    /* The reactor may have taken it all before it could see the wish. */
    if (atomic_load(&ch->up_bytes) <= ch->up_max / 2 && atomic_exchange(&ch->up_stopped, false))
        return CHANNEL_OK;
    return CHANNEL_FULL;
}

void channel_up_closed(struct channel **chp, uint16_t code)
{
    struct channel *ch = *chp;
    *chp = NULL;
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    bool was = atomic_exchange(&ch->closed, true);
    omid_assert(!was);
    ch->conn = NULL;
    ch->closed_code = code;
    /* The ingress end's reference goes over to the message. */
    up_post(ch, &ch->closed_post);
}

void *channel_conn(const struct channel *ch)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    return ch->conn;
}

/* ------------------------------------------------------------ up: delivery on the reactor */

static void resume_if_room(struct channel *ch)
{
    if (atomic_load(&ch->up_bytes) > ch->up_max / 2 || !atomic_exchange(&ch->up_stopped, false))
        return;
    if (atomic_load(&ch->closed) || atomic_exchange(&ch->resume_posted, true))
        return;
    ch->resume_node->kind = DOWN_RESUME;
    sink_post(ch, ch->resume_node);
}

static void drop_held(struct channel *ch)
{
    struct up_message *m = ch->held;
    ch->held = NULL;
    ch->held_last = &ch->held;
    ch->holding = false;
    while (m != NULL) {
        struct up_message *next = m->next_held;
        message_free(m);
        m = next;
    }
}

static void hold(struct channel *ch, struct up_message *m)
{
    m->next_held = NULL;
    *ch->held_last = m;
    ch->held_last = &m->next_held;
    ch->holding = true;
}

/* Takes over m. A reference of the caller's keeps ch alive meanwhile only if it has one: m's own may be the last. */
static void deliver(struct channel *ch, struct up_message *m)
{
    if (ch->dropped || ch->finished) {
        message_free(m);
        return;
    }
    if (ch->holding) {
        hold(ch, m);
        return;
    }
    if (!ch->handler->message(ch, m->op, m->data, m->len) && !ch->dropped) {
        hold(ch, m);
        return;
    }
    channel_ref(ch);
    message_free(m);
    if (!ch->dropped)
        resume_if_room(ch);
    channel_unref(ch);
}

static void on_opened(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct channel *ch = container_of(msg, struct channel, opened_post);
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    if (!ch->dropped)
        ch->handler->opened(ch);
    channel_unref(ch);
}

static void on_closed(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct channel *ch = container_of(msg, struct channel, closed_post);
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    ch->finished = true;
    if (!ch->dropped)
        ch->handler->closed(ch, ch->closed_code);
    drop_held(ch);
    channel_unref(ch);
}

static void on_writable(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct channel *ch = container_of(msg, struct channel, writable_post);
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    atomic_store(&ch->writable_posted, false);
    if (!ch->dropped && !ch->finished && !ch->down_closed && ch->handler->writable != NULL)
        ch->handler->writable(ch);
    channel_unref(ch);
}

static void on_redeliver(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct channel *ch = container_of(msg, struct channel, redeliver_post);
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    ch->redeliver_posted = false;

    /* Those that are refused again go back to the list in their order. */
    struct up_message *m = ch->held;
    ch->held = NULL;
    ch->held_last = &ch->held;
    ch->holding = false;
    while (m != NULL) {
        struct up_message *next = m->next_held;
        deliver(ch, m);
        m = next;
    }
    channel_unref(ch);
}

void channel_resume(struct channel *ch)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    if (!ch->holding || ch->redeliver_posted || ch->dropped)
        return;
    ch->redeliver_posted = true;
    channel_ref(ch);
    loop_post(ch->loop, &ch->redeliver_post);
}

/* ------------------------------------------------------------ down: reactor end */

static size_t lines_size(const char *const *lines)
{
    size_t size = 1;
    for (size_t i = 0; lines != NULL && lines[i] != NULL; i++)
        size += strlen(lines[i]) + 1;
    return size;
}

/* Behind each other, NUL behind each, and one more. */
static void lines_copy(char *to, const char *const *lines)
{
    for (size_t i = 0; lines != NULL && lines[i] != NULL; i++) {
        size_t len = strlen(lines[i]) + 1;
        memcpy(to, lines[i], len);
        to += len;
    }
    *to = '\0';
}

static struct channel_down *down_new(enum channel_down_kind kind, const void *data, size_t len, const char *tail,
                                     const char *const *lines)
{
    size_t tail_len = tail == NULL ? 0 : strlen(tail) + 1;
    struct channel_down *d = malloc(sizeof(*d) + len + tail_len + lines_size(lines));
    if (d == NULL)
        return NULL;
    *d = (struct channel_down){.kind = kind, .len = len};
    if (len > 0)
        memcpy(d->data, data, len);
    if (tail_len > 0) {
        memcpy(d->data + len, tail, tail_len);
        d->content_type = (const char *)d->data + len;
    }
    if (lines != NULL) {
        lines_copy((char *)d->data + len + tail_len, lines);
        d->headers = (const char *)d->data + len + tail_len;
    }
    return d;
}

static void down_post(struct channel *ch, struct channel_down *d)
{
    size_t cost = d->len + MESSAGE_COST;
    budget_add((int64_t)cost);
    atomic_fetch_add(&ch->down_bytes, cost);
    sink_post(ch, d);
}

/* Refused only while more than half is queued: then writable() is sure to come, whatever the size of the message. */
static bool down_has_room(struct channel *ch, size_t cost)
{
    size_t queued = atomic_load(&ch->down_bytes);
    return queued <= ch->down_max / 2 || (queued < ch->down_max && cost <= ch->down_max - queued);
}

static enum channel_result down_bounded(struct channel *ch, enum channel_down_kind kind, enum ws_opcode op,
                                        const void *data, size_t len)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    if (ch->down_closed || atomic_load(&ch->closed))
        return CHANNEL_CLOSED;
    if (!down_has_room(ch, len + MESSAGE_COST)) {
        atomic_store(&ch->down_wanted, true);
        /* Ingress may have written it all before it could see the wish. */
        if (!down_has_room(ch, len + MESSAGE_COST))
            return CHANNEL_FULL;
        atomic_store(&ch->down_wanted, false);
    }
    struct channel_down *d = down_new(kind, data, len, NULL, NULL);
    if (d == NULL) {
        /* Memory may come back when something of this channel was sent; nothing can be promised when nothing is. */
        channel_down_close(ch, WS_CODE_TRY_LATER, "out of memory");
        return CHANNEL_CLOSED;
    }
    d->op = op;
    down_post(ch, d);
    return CHANNEL_OK;
}

enum channel_result channel_down_message(struct channel *ch, enum ws_opcode op, const void *data, size_t len)
{
    omid_assert(op == WS_TEXT || op == WS_BINARY);
    return down_bounded(ch, DOWN_MESSAGE, op, data, len);
}

enum channel_result channel_down_piece(struct channel *ch, const void *data, size_t len)
{
    return down_bounded(ch, DOWN_BODY, WS_BINARY, data, len);
}

void channel_down_close(struct channel *ch, uint16_t code, const char *reason)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    if (ch->down_closed || atomic_load(&ch->closed))
        return;
    ch->down_closed = true;
    struct channel_down *d = ch->close_node;
    size_t len = reason == NULL ? 0 : strlen(reason);
    if (len > WS_MAX_REASON)
        len = WS_MAX_REASON;
    d->kind = DOWN_CLOSE;
    d->code = code;
    d->len = len;
    if (len > 0)
        memcpy(d->data, reason, len);
    d->data[len] = '\0';
    sink_post(ch, d);
}

enum channel_result channel_down_response(struct channel *ch, int status, const char *content_type, const void *body,
                                          size_t len)
{
    return channel_down_response_with(ch, status, content_type, NULL, body, len);
}

enum channel_result channel_down_response_with(struct channel *ch, int status, const char *content_type,
                                               const char *const *headers, const void *body, size_t len)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    omid_assert(status >= 200 && status <= 599);
    if (ch->down_closed || atomic_load(&ch->closed))
        return CHANNEL_CLOSED;
    struct channel_down *d =
        down_new(DOWN_RESPONSE, body, len, content_type == NULL ? "application/json" : content_type, headers);
    if (d == NULL) {
        channel_down_close(ch, WS_CODE_INTERNAL, "out of memory");
        return CHANNEL_FULL;
    }
    d->code = (uint16_t)status;
    ch->down_closed = true;
    down_post(ch, d);
    return CHANNEL_OK;
}

enum channel_result channel_down_head(struct channel *ch, int status, const char *content_type,
                                      const char *const *headers, uint64_t length)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    omid_assert(status >= 200 && status <= 599);
    if (ch->down_closed || atomic_load(&ch->closed))
        return CHANNEL_CLOSED;
    struct channel_down *d = down_new(DOWN_HEAD, &length, sizeof(length), content_type, headers);
    if (d == NULL) {
        channel_down_close(ch, WS_CODE_INTERNAL, "out of memory");
        return CHANNEL_CLOSED;
    }
    d->code = (uint16_t)status;
    down_post(ch, d);
    return CHANNEL_OK;
}

/* It must not fail: it goes where a close would. */
void channel_down_end(struct channel *ch)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    if (ch->down_closed || atomic_load(&ch->closed))
        return;
    ch->down_closed = true;
    ch->close_node->kind = DOWN_END;
    ch->close_node->len = 0;
    sink_post(ch, ch->close_node);
}

void channel_drop(struct channel **chp)
{
    struct channel *ch = *chp;
    *chp = NULL;
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    omid_assert(!ch->dropped);
    if (!ch->finished)
        channel_down_close(ch, WS_CODE_INTERNAL, NULL);
    ch->dropped = true;
    drop_held(ch);
    channel_unref(ch);
}

void channel_set_user(struct channel *ch, void *user)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    ch->user = user;
}

void *channel_user(const struct channel *ch)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    return ch->user;
}

const struct channel_request *channel_request(const struct channel *ch)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    return &ch->req;
}

const struct route *channel_route(const struct channel *ch)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    return &ch->route;
}

struct loop *channel_loop(const struct channel *ch)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    return ch->loop;
}

size_t channel_held(const struct channel *ch)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    size_t n = 0;
    for (const struct up_message *m = ch->held; m != NULL; m = m->next_held)
        n++;
    return n;
}

size_t channel_up_bytes(const struct channel *ch)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    return atomic_load(&ch->up_bytes);
}

size_t channel_down_bytes(const struct channel *ch)
{
    CHECK_MAGIC(ch, CHANNEL_MAGIC);
    return atomic_load(&ch->down_bytes);
}
