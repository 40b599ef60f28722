/* Requests: their URL, their headers, their life. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "webhooks.h"

struct body *body_new(char *data, size_t len)
{
    struct body *b = malloc(sizeof(*b));
    if (b == NULL) {
        free(data);
        return NULL;
    }
    *b = (struct body){.refs = 1, .len = len, .data = data};
    return b;
}

void body_unref(struct body **bp)
{
    struct body *b = *bp;
    *bp = NULL;
    wh_assert(b != NULL && b->refs > 0);
    if (--b->refs > 0)
        return;
    free(b->data);
    free(b);
}

static void add_percent(struct text *t, const char *s)
{
    static const char hex[] = "0123456789ABCDEF";
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;
        bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' ||
                     c == '.' || c == '_' || c == '~';
        const char esc[3] = {'%', hex[c >> 4], hex[c & 15]};
        if (plain)
            text_add(t, s, 1);
        else
            text_add(t, esc, 3);
    }
}

char *deliver_url(const char *base, const char *uid, uint32_t sample_rate)
{
    struct text t = {0};
    size_t len = strlen(base);
    text_add(&t, base, len);
    if (strchr(base, '?') == NULL)
        text_adds(&t, "?");
    else if (base[len - 1] != '?' && base[len - 1] != '&')
        text_adds(&t, "&");
    if (sample_rate > 0) {
        char rate[32];
        snprintf(rate, sizeof(rate), "sample_rate=%u&", sample_rate);
        text_adds(&t, rate);
    }
    text_adds(&t, "uid=");
    add_percent(&t, uid);
    return t.data;
}

void deliver_count(struct instance *in, enum hook_type type, enum outcome outcome)
{
    in->host->counter_add(in->conf->count[type][outcome], 1);
}

enum outcome outcome_of(const struct omid_http_response *res)
{
    switch (res->error) {
    case OMID_HTTP_OK:
        return res->status >= 200 && res->status < 300 ? OUTCOME_OK : OUTCOME_STATUS;
    case OMID_HTTP_BREAKER:
        return OUTCOME_BREAKER;
    case OMID_HTTP_FULL:
    case OMID_HTTP_QUEUE_TIMEOUT:
        return OUTCOME_FULL;
    case OMID_HTTP_SUPERSEDED:
        return OUTCOME_SUPERSEDED;
    case OMID_HTTP_SHUTDOWN:
        return OUTCOME_SHUTDOWN;
    default:
        return OUTCOME_ERROR;
    }
}

static void delivery_unlink(struct delivery *d)
{
    struct instance *in = d->in;
    if (d->next != NULL)
        d->next->prev = d->prev;
    if (d->prev != NULL)
        d->prev->next = d->next;
    else
        in->first = d->next;
    in->n_deliveries--;
}

static void on_response(void *arg, const struct omid_http_response *res)
{
    struct delivery *d = arg;
    struct instance *in = d->in;
    struct session *s = d->session;
    d->http = NULL; /* gone when this returns */
    deliver_count(in, d->type, outcome_of(res));
    if (res->error != OMID_HTTP_OK && res->error != OMID_HTTP_SUPERSEDED && res->error != OMID_HTTP_BREAKER)
        in->host->log(in->mod, OMID_LOG_WARNING, "%s: %s", d->endpoint->label, res->error_text);
    else if (res->error == OMID_HTTP_OK && (res->status < 200 || res->status > 299))
        in->host->log(in->mod, OMID_LOG_WARNING, "%s answered %d", d->endpoint->label, res->status);
    delivery_unlink(d);
    /* May start the session's next one: the session is held by this one until then. */
    d->done(d, res);
    free(d);
    if (s != NULL) {
        wh_assert(s->in_flight > 0);
        s->in_flight--;
        session_check(s);
    }
    instance_check_drained(in);
}

#define MAX_HEADERS 4

/* The lines of a request's header, and the array that the host wants. */
struct headers {
    char type[96], id[WEBHOOKS_ID_MAX + 16], timestamp[48], signature[SIGN_VALUE_MAX + 32];
    const char *line[MAX_HEADERS + 1];
};

/* False: it can't be signed. */
static bool headers_make(struct instance *in, const struct deliver_request *req, struct headers *h)
{
    char uuid[37];
    const char *id = req->webhook_id;
    const int64_t now = in->host->wall_ms() / 1000;
    size_t n = 0;
    if (id == NULL) {
        in->host->uuid4(uuid);
        id = uuid;
    }
    snprintf(h->type, sizeof(h->type), "Content-Type: %s", req->content_type);
    snprintf(h->id, sizeof(h->id), "webhook-id: %s", id);
    snprintf(h->timestamp, sizeof(h->timestamp), "webhook-timestamp: %lld", (long long)now);
    h->line[n++] = h->type;
    h->line[n++] = h->id;
    h->line[n++] = h->timestamp;
    if (in->signer != NULL) {
        char value[SIGN_VALUE_MAX];
        if (!signer_sign(in->signer, id, now, req->body, req->body_len, value))
            return false;
        snprintf(h->signature, sizeof(h->signature), "webhook-signature: %s", value);
        h->line[n++] = h->signature;
    }
    h->line[n] = NULL;
    return true;
}

int deliver(struct instance *in, const struct deliver_request *req, delivered_cb done, struct delivery **out)
{
    const struct endpoint *ep = &in->conf->endpoints[req->type][req->index];
    struct headers headers;
    if (!headers_make(in, req, &headers)) {
        in->host->log(in->mod, OMID_LOG_ERROR, "%s: a delivery is not sent: it can't be signed", ep->label);
        return OMID_ERR;
    }
    struct delivery *d = calloc(1, sizeof(*d));
    char *url = deliver_url(ep->base, req->uid, req->sample_rate);
    const struct omid_http_request http = {.size = sizeof(http),
                                           .method = "POST",
                                           .url = url,
                                           .headers = headers.line,
                                           .body = req->body,
                                           .body_len = req->body_len,
                                           .latest_key = req->latest_key};
    int rc = OMID_ERR;
    if (d != NULL && url != NULL) {
        *d = (struct delivery){.in = in, .endpoint = ep, .type = req->type, .index = req->index, .done = done};
        rc = in->host->http_start(in->inst, &http, on_response, d, &d->http);
    }
    free(url);
    if (rc != OMID_OK) {
        free(d);
        return rc;
    }
    d->next = in->first;
    if (in->first != NULL)
        in->first->prev = d;
    in->first = d;
    in->n_deliveries++;
    *out = d;
    return OMID_OK;
}

void deliveries_cancel(struct instance *in)
{
    while (in->first != NULL) {
        struct delivery *d = in->first;
        delivery_unlink(d);
        if (d->http != NULL)
            in->host->http_cancel(&d->http);
        /* Not an attempt: the queue hands it out again after the next start. */
        if (d->run != NULL)
            in->host->job_finish(&d->run, OMID_JOB_WAIT, 1, "the plugin stopped");
        if (d->session != NULL)
            d->session->in_flight--;
        deliver_count(in, d->type, OUTCOME_SHUTDOWN);
        free(d);
    }
}
