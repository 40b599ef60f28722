/*
 * Answers in pieces: the head at once, then each piece when h2o has written the one before, then the end. h2o has one
 * piece at a time; the others wait here, and count in their channel's bound until they are written.
 */
#include <string.h>

#include "ingress/private.h"

static void proceed(h2o_generator_t *generator, h2o_req_t *req);

/* The request is being thrown away: on_request_end() comes. */
static void stop(h2o_generator_t *generator, h2o_req_t *req)
{
    (void)generator;
    (void)req;
}

static void progress(struct exchange *ex)
{
    struct client *c = ex->client;
    timer_set(&c->t->timers, &c->timer, c->t->now_ms + http_answer_ms(c));
}

/* Gives h2o what is next, if it waits and there is anything. The last call for an exchange: it may be gone. */
static void advance(struct exchange *ex)
{
    struct stream *s = &ex->stream;

    if (s->sending != NULL)
        return;
    if (s->cut) {
        ex->req->http1_is_persistent = 0;
        h2o_send(ex->req, NULL, 0, H2O_SEND_STATE_ERROR);
    } else if (s->first != NULL) {
        struct channel_down *d = s->sending = s->first;
        s->first = d->next;
        if (s->first == NULL)
            s->last = &s->first;
        h2o_iovec_t piece = h2o_iovec_init((const char *)d->data, d->len);
        h2o_send(ex->req, &piece, 1, H2O_SEND_STATE_IN_PROGRESS);
    } else if (s->ended) {
        h2o_send(ex->req, NULL, 0, H2O_SEND_STATE_FINAL);
    }
}

static void proceed(h2o_generator_t *generator, h2o_req_t *req)
{
    struct exchange *ex = container_of(generator, struct exchange, stream.generator);

    (void)req;
    CHECK_MAGIC(ex, EXCHANGE_MAGIC);
    if (ex->stream.sending != NULL)
        channel_down_free(ex->stream.sending);
    ex->stream.sending = NULL;
    progress(ex);
    advance(ex);
}

static void begin(struct exchange *ex, const struct channel_down *d)
{
    struct client *c = ex->client;
    h2o_req_t *req = ex->req;
    uint64_t length;

    omid_assert(!ex->answered && d->len == sizeof(length));
    memcpy(&length, d->data, sizeof(length));
    ex->answered = true;
    http_unwatch(ex);
    ex->stream = (struct stream){.generator = {.proceed = proceed, .stop = stop}};
    ex->stream.last = &ex->stream.first;
    req->res.status = d->code;
    req->res.reason = http_reason(d->code);
    req->res.content_length = length;
    http_header_lines(ex, d->headers);
    if (d->content_type != NULL)
        http_header(ex, "Content-Type", d->content_type);
    if (c->t->stopping)
        req->http1_is_persistent = 0;
    metric_add(ingress_metrics.requests[d->code / 100 - 2], 1);
    progress(ex);
    h2o_start_response(req, &ex->stream.generator);
}

void http_stream(struct exchange *ex, struct channel_down *d)
{
    struct stream *s = &ex->stream;

    if (d->kind == DOWN_BODY) {
        omid_assert(ex->answered && !s->ended);
        d->next = NULL;
        *s->last = d;
        s->last = &d->next;
    } else if (d->kind == DOWN_HEAD) {
        begin(ex, d);
        channel_down_free(d);
        return;
    } else {
        s->ended = true;
        channel_up_closed(&ex->ch, WS_CODE_NORMAL);
        channel_down_free(d);
    }
    advance(ex);
}

void http_stream_cut(struct exchange *ex)
{
    ex->stream.cut = true;
    advance(ex);
}

void http_cut(struct client *c)
{
    struct exchange *ex = c->exchange;

    if (ex != NULL && ex->stream.last != NULL && ex->stream.sending == NULL)
        http_stream_cut(ex);
    else
        client_cut(c);
}

void http_stream_free(struct exchange *ex)
{
    struct stream *s = &ex->stream;

    if (s->sending != NULL)
        channel_down_free(s->sending);
    while (s->first != NULL) {
        struct channel_down *d = s->first;
        s->first = d->next;
        channel_down_free(d);
    }
}
