/* The mock host: HTTP requests. */
#include "mock_int.h"

#include <stdlib.h>
#include <string.h>

static int h_http_start(struct omid_instance *inst, const struct omid_http_request *req, omid_http_cb cb, void *arg,
                        struct omid_http **out)
{
    mock_check_instance(inst);
    struct mock *m = inst->m;
    must(req->size == sizeof(*req) && req->method != NULL && req->url != NULL && cb != NULL);
    if (m->http_rc != OMID_OK)
        return m->http_rc;
    must(m->n_http < MAX_RECORDS);
    struct omid_http *h = calloc(1, sizeof(*h));
    must(h != NULL);
    h->m = m;
    h->cb = cb;
    h->arg = arg;
    h->pub.method = strdup(req->method);
    h->pub.url = strdup(req->url);
    h->pub.latest_key = strdup(req->latest_key != NULL ? req->latest_key : "");
    size_t len = 1;
    for (size_t i = 0; req->headers != NULL && req->headers[i] != NULL; i++)
        len += strlen(req->headers[i]) + 1;
    h->pub.headers = calloc(len, 1);
    for (size_t i = 0; req->headers != NULL && req->headers[i] != NULL; i++) {
        strcat(h->pub.headers, req->headers[i]);
        strcat(h->pub.headers, "\n");
    }
    h->pub.aws_sigv4 = strdup(req->aws_sigv4 != NULL ? req->aws_sigv4 : "");
    must(req->aws_sigv4 == NULL || (req->aws_key_id != NULL && req->aws_secret != NULL));
    h->pub.body = calloc(req->body_len + 1, 1);
    if (req->body_len > 0)
        memcpy(h->pub.body, req->body, req->body_len);
    h->pub.body_len = req->body_len;
    h->pub.open = true;
    m->http[m->n_http++] = h;
    if (out != NULL)
        *out = h;
    return OMID_OK;
}

static void h_http_cancel(struct omid_http **http)
{
    must(http != NULL && *http != NULL && (*http)->pub.open);
    mock_check_thread((*http)->m);
    (*http)->pub.open = false;
    *http = NULL;
}

size_t mock_http_count(const struct mock *m)
{
    return m->n_http;
}

size_t mock_http_open(const struct mock *m)
{
    size_t n = 0;
    for (size_t i = 0; i < m->n_http; i++)
        n += m->http[i]->pub.open;
    return n;
}

const struct mock_http *mock_http(const struct mock *m, size_t i)
{
    must(i < m->n_http);
    return &m->http[i]->pub;
}

void mock_http_respond(struct mock *m, size_t i, const struct omid_http_response *res)
{
    must(i < m->n_http && m->http[i]->pub.open);
    m->http[i]->pub.open = false;
    m->http[i]->cb(m->http[i]->arg, res);
}

void mock_http_answer(struct mock *m, size_t i, int status, const char *body)
{
    const struct omid_http_response res = {
        .size = sizeof(res), .error_text = "", .status = status, .body = body, .body_len = strlen(body)};
    mock_http_respond(m, i, &res);
}

void mock_http_fail(struct mock *m, size_t i, enum omid_http_error error)
{
    const struct omid_http_response res = {.size = sizeof(res), .error = error, .error_text = "it failed", .body = ""};
    mock_http_respond(m, i, &res);
}

void mock_http_refuse(struct mock *m, int rc)
{
    m->http_rc = rc;
}

void mock_http_clear(struct mock *m)
{
    for (size_t i = 0; i < m->n_http; i++) {
        struct mock_http *h = &m->http[i]->pub;
        must(!h->open);
        free(h->method);
        free(h->url);
        free(h->latest_key);
        free(h->aws_sigv4);
        free(h->headers);
        free(h->body);
        free(m->http[i]);
    }
}

void mock_http_set(struct omid_host *t)
{
    t->http_start = h_http_start;
    t->http_cancel = h_http_cancel;
}
