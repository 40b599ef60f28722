/*
 * A WebSocket connection after the handshake: frames from the socket's input buffer to the channel, and back.
 *
 *   STRANGER  accepted; the first message has yet to say who it is, or its token is being checked (then the socket is
 *             not read). There is no channel: whose reactor it is depends on the user
 *   OPEN      both ways
 *   CLOSING   our Close is queued or sent; what the client still sends is parsed for its Close alone
 *   ENDING    the client's Close has come: ours goes out, then the socket is closed
 *   FAILED    the client broke the protocol: our Close goes out, the rest is thrown away until its end of file
 *   DEAD      closed at the end of this turn
 *
 * Writing happens once a turn, all that is queued in one call, the next when it is done: never more than one batch in
 * flight, and its bytes count against the channel's bound until the kernel has them. Nothing here closes the
 * socket at once: the end of the turn does, so that no caller finds its struct gone.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "ingress/greeting.h"
#include "ingress/private.h"
#include "ingress/tcp.h"

#define BATCH_FRAMES 128
#define BATCH_BYTES (256u << 10) /* soft: the frame that passes it is still taken */
#define CONTROL_FRAME (2 + WS_MAX_CONTROL)

enum websocket_state {
    WEBSOCKET_STRANGER,
    WEBSOCKET_OPEN,
    WEBSOCKET_CLOSING,
    WEBSOCKET_ENDING,
    WEBSOCKET_FAILED,
    WEBSOCKET_DEAD
};

/* What one h2o_socket_write() is sending. */
struct batch {
    struct channel_down *frames;
    size_t n_iov, n_heads, bytes;
    unsigned char pong[CONTROL_FRAME], close[CONTROL_FRAME], ping[WS_MAX_HEADER];
    unsigned char greet[CONTROL_FRAME];
    unsigned char (*head)[WS_MAX_HEADER];
    h2o_iovec_t iov[];
};

struct websocket {
    uint32_t magic;
    enum websocket_state state;
    struct ingress_thread *t;
    struct client *client;
    h2o_socket_t *sock;
    struct channel *ch;            /* NULL while STRANGER, and once channel_up_closed() */
    struct websocket_start *start; /* what the channel is made of; while STRANGER */
    struct auth_waiter *waiter;
    struct admission admission;
    struct ws_parser parser;
    struct list dirty_link;

    struct channel_down *queue, **queue_last;
    struct batch *batch; /* in flight */
    unsigned char pong[WS_MAX_CONTROL], close[WS_MAX_CONTROL];
    unsigned pong_len, close_len;
    bool pong_due, ping_due, close_due, close_sent, paused;
    bool greet_due, greeted, checking, unread; /* unread: the socket rests while a token is checked */

    uint64_t heard_ms;           /* the last byte from the client */
    uint64_t ping_ms;            /* the next ping */
    uint64_t paused_ms;          /* since when reading rests */
    uint64_t progress_ms, acked; /* of the batch in flight */
    uint64_t greet_ms;           /* until when a STRANGER may say who it is */
    uint64_t end_ms;             /* when a connection that is not OPEN is cut */
};

/* It is one no longer, whatever it is now. */
static void stranger_over(struct websocket *ws)
{
    auth_cancel(&ws->waiter);
    ws->checking = false;
    if (ws->start != NULL)
        websocket_start_free(&ws->start);
    if (!ws->greeted)
        metric_add(ingress_metrics.greeted[GREETED_LEFT], 1);
}

static void greeted(struct websocket *ws, enum greeting_result result)
{
    ws->greeted = true;
    metric_add(ingress_metrics.greeted[result], 1);
}

static void websocket_set_state(struct websocket *ws, enum websocket_state state)
{
    static const bool legal[6][6] = {
        [WEBSOCKET_STRANGER] = {[WEBSOCKET_OPEN] = true,
                                [WEBSOCKET_CLOSING] = true,
                                [WEBSOCKET_ENDING] = true,
                                [WEBSOCKET_FAILED] = true,
                                [WEBSOCKET_DEAD] = true},
        [WEBSOCKET_OPEN] =
            {[WEBSOCKET_CLOSING] = true, [WEBSOCKET_ENDING] = true, [WEBSOCKET_FAILED] = true, [WEBSOCKET_DEAD] = true},
        [WEBSOCKET_CLOSING] = {[WEBSOCKET_ENDING] = true, [WEBSOCKET_FAILED] = true, [WEBSOCKET_DEAD] = true},
        [WEBSOCKET_ENDING] = {[WEBSOCKET_DEAD] = true},
        [WEBSOCKET_FAILED] = {[WEBSOCKET_DEAD] = true},
    };
    CHECK_MAGIC(ws, WEBSOCKET_MAGIC);
    omid_assert(legal[ws->state][state]);
    if (ws->state == WEBSOCKET_STRANGER)
        stranger_over(ws);
    ws->state = state;
}

static void touch(struct websocket *ws)
{
    list_remove(&ws->dirty_link);
    list_append(&ws->t->dirty, &ws->dirty_link);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void arm(struct websocket *ws)
{
    const struct conf *conf = ws->t->conf;
    uint64_t due = UINT64_MAX;

    if (ws->state == WEBSOCKET_DEAD)
        return;
    if (ws->state == WEBSOCKET_STRANGER) {
        due = ws->checking ? ws->greet_ms + conf->ingress.answer_timeout_ms : ws->greet_ms;
    } else if (ws->state != WEBSOCKET_OPEN) {
        due = ws->end_ms;
    } else {
        due = ws->paused ? ws->paused_ms + conf->listen.up_stall_ms : ws->heard_ms + conf->ingress.receive_timeout_ms;
        if (conf->ingress.ping_interval_ms > 0)
            due = earlier(due, ws->ping_ms);
    }
    if (ws->batch != NULL)
        due = earlier(due, ws->progress_ms + conf->ingress.receive_timeout_ms);
    timer_set(&ws->t->timers, &ws->client->timer, due);
}

/* ------------------------------------------------------------ ending */

static void queue_drop(struct websocket *ws)
{
    while (ws->queue != NULL) {
        struct channel_down *d = ws->queue;
        ws->queue = d->next;
        channel_down_free(d);
    }
    ws->queue_last = &ws->queue;
}

static void tell_closed(struct websocket *ws, uint16_t code)
{
    if (ws->ch != NULL)
        channel_up_closed(&ws->ch, code);
}

/* The connection is over; the end of the turn closes it. */
static void die(struct websocket *ws, uint16_t code)
{
    if (ws->state == WEBSOCKET_DEAD)
        return;
    tell_closed(ws, code);
    websocket_set_state(ws, WEBSOCKET_DEAD);
    touch(ws);
}

static void prepare_close(struct websocket *ws, uint16_t code, const char *reason)
{
    ws->close_len = code == WS_CODE_NONE ? 0 : (unsigned)ws_close_payload(ws->close, code, reason);
    ws->close_due = true;
    ws->pong_due = ws->ping_due = false;
    touch(ws);
}

static void resume_reading(struct websocket *ws);

/* Ours first: what is queued, then Close, then the client's Close. A client that is not read now (its way up is full)
 * is read again when our Close is out, not earlier: what it sends has no use any more. bound_ms: until our Close is
 * written; from then on it has WEBSOCKET_CLOSE_MS. */
static void begin_close(struct websocket *ws, uint16_t code, const char *reason, uint32_t bound_ms)
{
    if (ws->state != WEBSOCKET_OPEN && ws->state != WEBSOCKET_STRANGER)
        return;
    websocket_set_state(ws, WEBSOCKET_CLOSING);
    ws->end_ms = ws->t->now_ms + bound_ms;
    prepare_close(ws, code, reason);
    if (ws->unread) { /* it waited for its token */
        ws->unread = false;
        resume_reading(ws);
    }
    arm(ws);
}

static void fail(struct websocket *ws, uint16_t code, const char *reason)
{
    metric_add(ingress_metrics.protocol_errors, 1);
    log_info("ingress", "WebSocket client broke the protocol", LI("code", code), LS("reason", reason),
             LS("peer", ws->client->peer));
    if (ws->state == WEBSOCKET_STRANGER)
        greeted(ws, GREETED_BAD);
    tell_closed(ws, code);
    websocket_set_state(ws, WEBSOCKET_FAILED);
    queue_drop(ws);
    ws->end_ms = ws->t->now_ms + WEBSOCKET_CLOSE_MS;
    if (!ws->close_sent)
        prepare_close(ws, code, reason);
    touch(ws);
    arm(ws);
}

/* The end of the turn: the only place where a WebSocket's socket is closed. */
static void destroy(struct websocket *ws)
{
    struct client *c = ws->client;
    h2o_socket_t *sock = ws->sock;

    omid_assert(ws->ch == NULL && ws->state == WEBSOCKET_DEAD);
    list_remove(&ws->dirty_link);
    timer_clear(&ws->t->timers, &c->timer);
    atomic_fetch_sub(&ws->t->in->n_websockets, 1);
    metric_add(ingress_metrics.websockets, -1);
    queue_drop(ws);
    admission_leave(&ws->admission);
    struct batch *batch = ws->batch;
    ws_parser_free(&ws->parser);
    ws->magic = OMID_MAGIC_DEAD;
    free(ws);
    c->ws = NULL;
    if (c->state != CLIENT_DYING)
        client_set_state(c, CLIENT_DYING);
    h2o_socket_close(sock); /* h2o forgets the batch's bytes here */
    while (batch != NULL && batch->frames != NULL) {
        struct channel_down *d = batch->frames;
        batch->frames = d->next;
        channel_down_free(d);
    }
    free(batch);
}

/* ------------------------------------------------------------ writing */

static void on_written(h2o_socket_t *sock, const char *err);

static void batch_add(struct batch *b, const void *bytes, size_t len)
{
    if (len == 0)
        return;
    b->iov[b->n_iov++] = h2o_iovec_init((char *)bytes, len);
    b->bytes += len;
}

static void batch_add_control(struct batch *b, unsigned char *frame, enum ws_opcode op, const void *data, size_t len)
{
    size_t head = ws_header(frame, op, len, NULL);
    if (len > 0)
        memcpy(frame + head, data, len);
    batch_add(b, frame, head + len);
}

static size_t frames_now(const struct websocket *ws)
{
    size_t n = 0, bytes = 0;
    for (const struct channel_down *d = ws->queue; d != NULL && n < BATCH_FRAMES && bytes < BATCH_BYTES; d = d->next) {
        bytes += d->len;
        n++;
    }
    return n;
}

static struct batch *batch_build(struct websocket *ws)
{
    size_t n = frames_now(ws);
    size_t iov_len = (2 * n + 4) * sizeof(h2o_iovec_t);
    struct batch *b = calloc(1, sizeof(*b) + iov_len + n * WS_MAX_HEADER);
    struct channel_down **last;

    if (b == NULL)
        return NULL;
    b->head = (void *)((char *)b->iov + iov_len);
    if (ws->pong_due)
        batch_add_control(b, b->pong, WS_PONG, ws->pong, ws->pong_len);
    if (ws->ping_due)
        batch_add_control(b, b->ping, WS_PING, NULL, 0);
    if (ws->greet_due)
        batch_add_control(b, b->greet, WS_TEXT, GREETING_ANSWER, sizeof(GREETING_ANSWER) - 1);
    metric_add(ingress_metrics.messages_out, ws->greet_due ? 1 : 0);
    ws->pong_due = ws->ping_due = ws->greet_due = false;
    last = &b->frames;
    for (size_t i = 0; i < n; i++) {
        struct channel_down *d = ws->queue;
        omid_assert(d != NULL); /* frames_now() has counted it */
        ws->queue = d->next;
        d->next = NULL;
        *last = d;
        last = &d->next;
        batch_add(b, b->head[i], ws_header(b->head[i], d->op, d->len, NULL));
        batch_add(b, d->data, d->len);
    }
    if (ws->queue == NULL)
        ws->queue_last = &ws->queue;
    if (ws->close_due && ws->queue == NULL) {
        batch_add_control(b, b->close, WS_CLOSE, ws->close, ws->close_len);
        ws->close_due = false;
        ws->close_sent = true;
    }
    metric_add(ingress_metrics.messages_out, (int64_t)n);
    metric_add(ingress_metrics.bytes_out, (int64_t)b->bytes);
    return b;
}

static void flush(struct websocket *ws)
{
    if (ws->batch != NULL || (!ws->pong_due && !ws->ping_due && !ws->greet_due && ws->queue == NULL && !ws->close_due))
        return;
    ws->batch = batch_build(ws);
    if (ws->batch == NULL) {
        die(ws, WS_CODE_INTERNAL);
        return;
    }
    ws->progress_ms = ws->t->now_ms;
    ws->acked = tcp_acked_bytes(h2o_socket_get_fd(ws->sock));
    if (ws->close_sent && ws->state == WEBSOCKET_CLOSING)
        ws->end_ms = earlier(ws->end_ms, ws->t->now_ms + WEBSOCKET_CLOSE_MS);
    h2o_socket_write(ws->sock, ws->batch->iov, ws->batch->n_iov, on_written);
    arm(ws);
}

/* h2o polls a socket for writing when its state changes (reading stops, say) while a write of ours is done but not yet
 * called back: we write outside of its run. It does not look again when the callback has come, and asserts when the
 * socket later turns writable with nothing to write. So its state is changed once more. */
static void repoll(h2o_socket_t *sock)
{
    if (h2o_socket_is_reading(sock))
        h2o_socket_read_start(sock, sock->_cb.read);
    else
        h2o_socket_read_stop(sock);
}

static void on_written(h2o_socket_t *sock, const char *err)
{
    struct websocket *ws = sock->data;
    CHECK_MAGIC(ws, WEBSOCKET_MAGIC);
    struct batch *b = ws->batch;

    repoll(sock);
    ws->batch = NULL;
    while (b->frames != NULL) {
        struct channel_down *d = b->frames;
        b->frames = d->next;
        channel_down_free(d);
    }
    free(b);
    if (err != NULL) {
        die(ws, WS_CODE_ABNORMAL);
        return;
    }
    if (ws->close_sent && ws->state == WEBSOCKET_ENDING)
        die(ws, WS_CODE_NORMAL);
    else if (ws->close_sent && ws->state == WEBSOCKET_FAILED)
        shutdown(h2o_socket_get_fd(sock), SHUT_WR);
    else if (ws->close_sent && ws->paused)
        resume_reading(ws);
    else
        touch(ws);
}

void websocket_flush(struct ingress_thread *t)
{
    struct list *l;
    while ((l = list_pop(&t->dirty)) != NULL) {
        struct websocket *ws = list_entry(l, struct websocket, dirty_link);
        CHECK_MAGIC(ws, WEBSOCKET_MAGIC);
        if (ws->state != WEBSOCKET_DEAD)
            flush(ws);
        if (ws->state == WEBSOCKET_DEAD)
            destroy(ws);
    }
}

/* ------------------------------------------------------------ reading */

static void pause_reading(struct websocket *ws)
{
    ws->paused = true;
    ws->paused_ms = ws->t->now_ms;
    metric_add(ingress_metrics.pauses, 1);
    h2o_socket_read_stop(ws->sock);
    arm(ws);
}

/* ------------------------------------------------------------ strangers */

static void refuse_stranger(struct websocket *ws, enum greeting_result result, uint16_t code, const char *reason)
{
    greeted(ws, result);
    log_info("ingress", "web client refused", LS("reason", reason), LS("peer", ws->start->request.peer));
    begin_close(ws, code, reason, WEBSOCKET_CLOSE_MS);
}

/* The user is known. false: refused. */
static bool make_channel(struct websocket *ws, struct websocket_start *start)
{
    struct ingress_thread *t = ws->t;
    const struct conf *conf = t->conf;
    struct loop *loop = t->in->env.loops[http_reactor_of(t, start->request.uid)];

    ws->ch = channel_new(&start->request, start->route, &t->sink, ws, loop, start->route->handler,
                         conf->listen.up_buffer, conf->listen.down_buffer);
    if (ws->ch == NULL)
        metric_add(ingress_metrics.refused[REFUSED_MEMORY], 1);
    return ws->ch != NULL;
}

static void let_in(struct websocket *ws, const char *uid)
{
    struct admission_refusal refusal;
    const struct conf *conf = ws->t->conf;

    if (!admission_uid(&ws->admission, uid, &refusal)) {
        refuse_stranger(ws, GREETED_LIMIT, WS_CODE_TRY_LATER, refusal.reason);
        return;
    }
    ws->start->request.uid = strdup(uid);
    if (ws->start->request.uid == NULL || !make_channel(ws, ws->start)) {
        refuse_stranger(ws, GREETED_UNAVAILABLE, WS_CODE_TRY_LATER, "out of memory");
        return;
    }
    greeted(ws, GREETED_OK);
    websocket_set_state(ws, WEBSOCKET_OPEN);
    ws->parser.max_message = conf->ingress.max_message;
    ws->heard_ms = ws->t->now_ms;
    ws->ping_ms = ws->t->now_ms + conf->ingress.ping_interval_ms;
    ws->greet_due = true; /* goes out before whatever the session says */
    touch(ws);
    channel_up_open(ws->ch);
}

static void on_auth(void *arg, const struct auth_answer *answer)
{
    struct websocket *ws = arg;

    CHECK_MAGIC(ws, WEBSOCKET_MAGIC);
    omid_assert(ws->state == WEBSOCKET_STRANGER && ws->checking);
    ws->checking = false;
    if (answer->verdict == AUTH_OK)
        let_in(ws, answer->uid);
    else if (answer->verdict == AUTH_UNAVAILABLE)
        refuse_stranger(ws, GREETED_UNAVAILABLE, WS_CODE_TRY_LATER, answer->reason);
    else
        refuse_stranger(ws, GREETED_INVALID, WS_CODE_POLICY, GREETING_INVALID);
    if (ws->unread) {
        ws->unread = false;
        resume_reading(ws); /* what came behind the token, in its order */
    }
}

static void stranger_message(struct websocket *ws, const struct ws_event *ev)
{
    struct greeting g;
    const char *fault = greeting_parse(ev->opcode == WS_TEXT, ev->data, ev->len, &g);

    if (fault != NULL) {
        refuse_stranger(ws, GREETED_BAD, WS_CODE_POLICY, fault);
    } else {
        ws->checking = true;
        if (auth_token(ws->t, g.token, g.len, on_auth, ws, &ws->waiter)) {
            ws->unread = true;
            h2o_socket_read_stop(ws->sock);
        }
    }
    greeting_free(&g);
    arm(ws);
}

static void on_message(struct websocket *ws, const struct ws_event *ev)
{
    if (ws->state == WEBSOCKET_STRANGER) {
        stranger_message(ws, ev);
        return;
    }
    if (ws->state != WEBSOCKET_OPEN || ws->ch == NULL)
        return;
    metric_add(ingress_metrics.messages_in, 1);
    switch (channel_up_message(ws->ch, ev->opcode, ev->data, ev->len)) {
    case CHANNEL_OK:
        break;
    case CHANNEL_FULL:
        pause_reading(ws);
        break;
    case CHANNEL_CLOSED:
        metric_add(ingress_metrics.refused[REFUSED_MEMORY], 1);
        tell_closed(ws, WS_CODE_TRY_LATER);
        begin_close(ws, WS_CODE_TRY_LATER, "out of memory", TCP_UNACKED_MS);
        break;
    }
}

static void on_peer_close(struct websocket *ws, const struct ws_event *ev)
{
    tell_closed(ws, ev->code);
    if (ws->close_sent && ws->batch == NULL) {
        die(ws, ev->code);
        return;
    }
    bool ours_queued = ws->state == WEBSOCKET_CLOSING;
    websocket_set_state(ws, WEBSOCKET_ENDING);
    queue_drop(ws);
    ws->end_ms = ws->t->now_ms + WEBSOCKET_CLOSE_MS;
    if (!ours_queued)
        prepare_close(ws, ev->code, NULL);
    touch(ws);
    arm(ws);
}

static void on_event(struct websocket *ws, const struct ws_event *ev)
{
    switch (ev->opcode) {
    case WS_TEXT:
    case WS_BINARY:
        on_message(ws, ev);
        break;
    case WS_PING:
        if (ws->state == WEBSOCKET_OPEN) {
            /* The latest is answered; the one before may have gone unanswered (RFC 6455, 5.5.3). */
            memcpy(ws->pong, ev->data, ev->len);
            ws->pong_len = (unsigned)ev->len;
            ws->pong_due = true;
            touch(ws);
        }
        break;
    case WS_CLOSE:
        on_peer_close(ws, ev);
        break;
    case WS_PONG:
    case WS_CONT:
        break;
    }
}

static bool parses(const struct websocket *ws)
{
    return (ws->state == WEBSOCKET_OPEN || ws->state == WEBSOCKET_CLOSING || ws->state == WEBSOCKET_STRANGER) &&
           !ws->paused && !ws->checking;
}

static void parse(struct websocket *ws)
{
    h2o_socket_t *sock = ws->sock;

    while (parses(ws) && sock->input->size > 0) {
        struct ws_event ev = {.data = NULL};
        size_t used = 0;
        int rc = ws_parse(&ws->parser, (unsigned char *)sock->input->bytes, sock->input->size, &used, &ev);
        if (rc > 0)
            on_event(ws, &ev);
        else if (rc < 0)
            fail(ws, ev.code, (const char *)ev.data);
        h2o_buffer_consume(&sock->input, used);
        if (rc <= 0)
            break;
    }
    /* What comes after a Close, or after a fault, has no meaning. */
    if (!parses(ws) && !ws->paused && !ws->checking)
        h2o_buffer_consume(&sock->input, sock->input->size);
}

/* An empty input buffer goes back to the thread's pool: between two frames of its client, thousands of connections need
 * none. */
static void input_release(h2o_socket_t *sock)
{
    if (sock->input->size > 0 || sock->input->bytes == NULL)
        return;
    h2o_buffer_dispose(&sock->input);
    h2o_buffer_init(&sock->input, &h2o_socket_buffer_prototype);
}

/* What of a message has come, and what is not read on. */
static void charge(struct websocket *ws)
{
    client_charge(ws->client, ws->parser.message.cap + client_input_bytes(ws->client));
}

static void on_read(h2o_socket_t *sock, const char *err)
{
    struct websocket *ws = sock->data;
    CHECK_MAGIC(ws, WEBSOCKET_MAGIC);
    ws->heard_ms = ws->t->now_ms;
    metric_add(ingress_metrics.bytes_in, (int64_t)sock->bytes_read);
    if (ws->state != WEBSOCKET_DEAD)
        parse(ws);
    input_release(sock);
    charge(ws);
    if (err != NULL)
        die(ws, WS_CODE_ABNORMAL);
}

static void resume_reading(struct websocket *ws)
{
    ws->paused = false;
    ws->heard_ms = ws->t->now_ms;
    parse(ws);
    charge(ws);
    if (!ws->paused && ws->state != WEBSOCKET_DEAD)
        h2o_socket_read_start(ws->sock, on_read);
    arm(ws);
}

/* ------------------------------------------------------------ from the reactor */

void websocket_down(struct websocket *ws, struct channel_down *d)
{
    CHECK_MAGIC(ws, WEBSOCKET_MAGIC);
    switch (d->kind) {
    case DOWN_MESSAGE:
        if (ws->state != WEBSOCKET_OPEN)
            break;
        d->next = NULL;
        *ws->queue_last = d;
        ws->queue_last = &d->next;
        touch(ws);
        return;
    case DOWN_CLOSE:
        begin_close(ws, d->code, (const char *)d->data, TCP_UNACKED_MS);
        break;
    case DOWN_RESUME:
        channel_down_free(d); /* first: see channel.h */
        if (ws->paused)
            resume_reading(ws);
        return;
    case DOWN_RESPONSE:
    case DOWN_HEAD:
    case DOWN_BODY:
    case DOWN_END:
        break;
    }
    channel_down_free(d);
}

/* ------------------------------------------------------------ time */

static bool write_stalled(struct websocket *ws)
{
    uint32_t bound = ws->t->conf->ingress.receive_timeout_ms;

    if (ws->batch == NULL || ws->t->now_ms - ws->progress_ms < bound)
        return false;
    uint64_t acked = tcp_acked_bytes(h2o_socket_get_fd(ws->sock));
    if (acked == ws->acked)
        return true;
    ws->acked = acked;
    ws->progress_ms = ws->t->now_ms;
    return false;
}

void websocket_timer(struct websocket *ws)
{
    CHECK_MAGIC(ws, WEBSOCKET_MAGIC);
    const struct conf *conf = ws->t->conf;
    uint64_t now = ws->t->now_ms;

    if (write_stalled(ws)) {
        metric_add(ingress_metrics.stalls, 1);
        die(ws, WS_CODE_ABNORMAL);
    } else if (ws->state == WEBSOCKET_STRANGER) {
        if (!ws->checking && now >= ws->greet_ms)
            refuse_stranger(ws, GREETED_TIMEOUT, WS_CODE_POLICY, GREETING_TIMEOUT);
        else if (now >= ws->greet_ms + conf->ingress.answer_timeout_ms)
            die(ws, WS_CODE_ABNORMAL);
    } else if (ws->state != WEBSOCKET_OPEN) {
        if (now >= ws->end_ms)
            die(ws, WS_CODE_ABNORMAL);
    } else if (ws->paused && now - ws->paused_ms >= conf->listen.up_stall_ms) {
        metric_add(ingress_metrics.stalls, 1);
        log_notice("ingress", "the way up stayed full", LS("peer", ws->client->peer));
        tell_closed(ws, WS_CODE_TRY_LATER);
        begin_close(ws, WS_CODE_TRY_LATER, "overloaded, try again later", WEBSOCKET_CLOSE_MS);
    } else if (!ws->paused && now - ws->heard_ms >= conf->ingress.receive_timeout_ms) {
        metric_add(ingress_metrics.stalls, 1);
        die(ws, WS_CODE_ABNORMAL);
    } else if (conf->ingress.ping_interval_ms > 0 && now >= ws->ping_ms) {
        ws->ping_ms = now + conf->ingress.ping_interval_ms;
        ws->ping_due = true;
        touch(ws);
    }
    arm(ws);
}

void websocket_stop(struct websocket *ws)
{
    CHECK_MAGIC(ws, WEBSOCKET_MAGIC);
    if (ws->state != WEBSOCKET_OPEN && ws->state != WEBSOCKET_STRANGER)
        return;
    tell_closed(ws, WS_CODE_GOING_AWAY);
    begin_close(ws, WS_CODE_GOING_AWAY, "going away", TCP_UNACKED_MS);
}

void websocket_cut(struct websocket *ws)
{
    CHECK_MAGIC(ws, WEBSOCKET_MAGIC);
    die(ws, WS_CODE_GOING_AWAY);
}

/* ------------------------------------------------------------ beginning */

void websocket_start_free(struct websocket_start **start)
{
    routes_free(&(*start)->routes);
    channel_request_free(&(*start)->request);
    admission_leave(&(*start)->admission);
    free(*start);
    *start = NULL;
}

static void refuse(struct websocket_start *start, struct websocket *ws, h2o_socket_t *sock)
{
    metric_add(ingress_metrics.refused[REFUSED_MEMORY], 1);
    free(ws);
    client_set_state(start->client, CLIENT_DYING);
    timer_clear(&start->t->timers, &start->client->timer);
    websocket_start_free(&start);
    h2o_socket_close(sock);
}

void websocket_begin(struct websocket_start *start, h2o_socket_t *sock)
{
    struct ingress_thread *t = start->t;
    struct client *c = start->client;
    const struct conf *conf = t->conf;
    struct websocket *ws = calloc(1, sizeof(*ws));
    bool stranger = start->route->auth == ROUTE_TOKEN_FIRST;

    CHECK_MAGIC(c, CLIENT_MAGIC);
    if (ws == NULL) {
        refuse(start, ws, sock);
        return;
    }
    ws->magic = WEBSOCKET_MAGIC;
    ws->state = stranger ? WEBSOCKET_STRANGER : WEBSOCKET_OPEN;
    ws->t = t;
    if (!stranger && !make_channel(ws, start)) {
        refuse(start, ws, sock);
        return;
    }
    ws->client = c;
    ws->sock = sock;
    ws->admission = start->admission;
    start->admission = (struct admission){.t = NULL};
    ws->queue_last = &ws->queue;
    ws->heard_ms = t->now_ms;
    ws->ping_ms = t->now_ms + conf->ingress.ping_interval_ms;
    ws->greet_ms = t->now_ms + conf->listen.auth_timeout_ms;
    list_init(&ws->dirty_link);
    ws_parser_init(&ws->parser, true, stranger ? GREETING_MAX : conf->ingress.max_message);
    client_set_state(c, CLIENT_WEBSOCKET);
    c->ws = ws;
    sock->data = ws;
    atomic_fetch_add(&t->in->n_websockets, 1);
    metric_add(ingress_metrics.websockets, 1);
    if (stranger) {
        ws->start = start;
    } else {
        websocket_start_free(&start);
        channel_up_open(ws->ch);
    }
    h2o_socket_read_start(sock, on_read);
    arm(ws);
    if (t->stopping)
        websocket_stop(ws);
    parse(ws); /* frames that came right behind the handshake */
    charge(ws);
}
