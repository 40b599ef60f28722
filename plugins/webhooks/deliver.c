/* Requests: their headers, their life. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "webhooks.h"

void deliver_count(struct instance *in, enum omid_trigger trigger, enum outcome outcome)
{
    if (in->conf->count[trigger][outcome] != NULL)
        in->host->counter_add(in->conf->count[trigger][outcome], 1);
}

enum outcome outcome_of_refusal(int rc)
{
    return rc == OMID_ECLOSED ? OUTCOME_SHUTDOWN : rc == OMID_EFULL ? OUTCOME_FULL : OUTCOME_DROPPED;
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

static void delivery_free(struct delivery *d)
{
    endpoint_unref(&d->endpoint);
    free(d);
}

static void on_response(void *arg, const struct omid_http_response *res)
{
    struct delivery *d = arg;
    struct instance *in = d->in;
    struct session *s = d->session;
    const struct endpoint *e = d->endpoint;
    d->http = NULL; /* gone when this returns */
    const enum outcome outcome = outcome_of(e, d->trigger, res);
    deliver_count(in, d->trigger, outcome);
    if (outcome == OUTCOME_STATUS)
        in->host->log(in->mod, OMID_LOG_WARNING, "%s answered %d", e->label, res->status);
    else if (outcome == OUTCOME_ERROR || outcome == OUTCOME_FULL || outcome == OUTCOME_SHUTDOWN)
        in->host->log(in->mod, OMID_LOG_WARNING, "%s: %s", e->label, res->error_text);
    endpoint_report_attempt(in, e, d->uid, d->trigger, res);
    delivery_unlink(d);
    /* May start the session's next one: the session is held by this one until then. */
    d->done(d, res);
    delivery_free(d);
    if (s != NULL) {
        wh_assert(s->in_flight > 0);
        s->in_flight--;
        session_check(s);
    }
    instance_check_drained(in);
}

/* "name: " and value, cut to what fits. */
static void line_put(char *out, size_t size, const char *name, const char *value)
{
    size_t n = strlen(name), v = strlen(value);
    if (v > size - n - 1)
        v = size - n - 1;
    memcpy(out, name, n);
    memcpy(out + n, value, v);
    out[n + v] = '\0';
}

bool headers_make(struct instance *in, const struct deliver_request *req, struct headers *h)
{
    char uuid[37], now_text[24];
    const char *id = req->webhook_id;
    const int64_t now = in->host->wall_ms() / 1000;
    size_t n = 0;
    if (id == NULL) {
        in->host->uuid4(uuid);
        id = uuid;
    }
    snprintf(now_text, sizeof(now_text), "%lld", (long long)now);
    line_put(h->type, sizeof(h->type), "Content-Type: ", req->content_type);
    line_put(h->id, sizeof(h->id), "webhook-id: ", id);
    line_put(h->timestamp, sizeof(h->timestamp), "webhook-timestamp: ", now_text);
    h->line[n++] = h->type;
    h->line[n++] = h->id;
    h->line[n++] = h->timestamp;
    if (req->event != NULL) {
        line_put(h->event, sizeof(h->event), "omid-event: ", req->event);
        h->line[n++] = h->event;
    }
    if (req->endpoint->signer != NULL) {
        char value[SIGN_VALUE_MAX];
        if (!signer_sign(req->endpoint->signer, id, now, req->body, req->body_len, value))
            return false;
        line_put(h->signature, sizeof(h->signature), "webhook-signature: ", value);
        h->line[n++] = h->signature;
    }
    h->line[n] = NULL;
    return true;
}

static struct delivery *delivery_new(struct instance *in, const struct deliver_request *req, delivered_cb done)
{
    const char *conversation = req->conversation != NULL ? req->conversation : "";
    size_t uid_len = strlen(req->uid) + 1, conversation_len = strlen(conversation) + 1;
    struct delivery *d = calloc(1, sizeof(*d) + uid_len + conversation_len);
    if (d == NULL)
        return NULL;
    memcpy(d->text, req->uid, uid_len);
    memcpy(d->text + uid_len, conversation, conversation_len);
    d->in = in;
    d->endpoint = endpoint_ref(req->endpoint);
    d->trigger = req->trigger;
    d->done = done;
    d->uid = d->text;
    d->conversation = d->text + uid_len;
    return d;
}

int deliver(struct instance *in, const struct deliver_request *req, delivered_cb done, struct delivery **out)
{
    const struct endpoint *e = req->endpoint;
    struct headers headers;
    if (!headers_make(in, req, &headers)) {
        in->host->log(in->mod, OMID_LOG_ERROR, "%s: a delivery is not sent: it can't be signed", e->label);
        return OMID_ERR;
    }
    struct delivery *d = delivery_new(in, req, done);
    char *with = req->plain_url ? NULL : url_with(e->url, req->uid, req->sample_rate);
    const struct omid_http_request http = {.size = sizeof(http),
                                           .method = "POST",
                                           .url = req->plain_url ? e->url : with,
                                           .headers = headers.line,
                                           .body = req->body,
                                           .body_len = req->body_len,
                                           .latest_key = req->latest_key,
                                           .flags = e->registered ? OMID_HTTP_USER_URL : 0};
    int rc = OMID_ERR;
    if (d != NULL && http.url != NULL)
        rc = in->host->http_start(in->inst, &http, on_response, d, &d->http);
    free(with);
    if (rc != OMID_OK) {
        if (d != NULL)
            delivery_free(d);
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
        deliver_count(in, d->trigger, OUTCOME_SHUTDOWN);
        delivery_free(d);
    }
}
