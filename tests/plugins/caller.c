/*
 * caller - makes requests on command, for the scenarios of lanes.
 *
 *     POST /call?timeout=MS&max_body=BYTES&user=1
 *
 * The body is a list, a line each: `METHOD URL`, or `WS URL`, which connects, sends "hello" and waits for one message.
 * All begin at once; with user=1 as URLs that a user registered. The answer comes when the last is over: a JSON array
 * in the order of the lines, each with error (the number of enum omid_http_error; of a WebSocket 0, or 100 and enum
 * omid_ws_end), status, elapsed_ms, len, truncated, redirects, text, and the beginning of the body.
 */
#include <stdio.h>
#include <string.h>

#include "plain.h"

#define MAX_CALLS 1024u
#define SHOWN 400u /* bytes of a body */

struct call {
    struct run *run;
    const char *method, *url;
    struct omid_ws *ws;
    uint64_t began;
    bool over;
    int error, status;
    unsigned elapsed, redirects;
    size_t len;
    bool truncated;
    char text[256], body[SHOWN + 1];
};

struct run {
    struct plain *p;
    struct omid_exchange *ex;
    char *list;
    unsigned n, left;
    unsigned long timeout, max_body, user;
    struct call call[MAX_CALLS];
};

static size_t json_text(char *out, size_t size, const char *s)
{
    size_t n = 0;
    for (; *s && n + 8 < size; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\' || c < ' ' || c >= 0x7f)
            n += (size_t)snprintf(out + n, size - n, "\\u%04x", (unsigned)c);
        else
            out[n++] = (char)c;
    }
    out[n] = 0;
    return n;
}

static void run_end(struct run *r)
{
    enum { EACH = 6 * (SHOWN + 256) + 256 };
    char text[6 * 256 + 8], body[6 * SHOWN + 8];
    size_t size = (size_t)r->n * EACH + 16, at = 0;
    char *out = malloc(size);
    if (out != NULL) {
        out[at++] = '[';
        for (unsigned i = 0; i < r->n; i++) {
            const struct call *c = &r->call[i];
            json_text(text, sizeof text, c->text);
            json_text(body, sizeof body, c->body);
            at += (size_t)snprintf(out + at, size - at,
                                   "%s{\"error\":%d,\"status\":%d,\"elapsed_ms\":%u,\"len\":%zu,\"truncated\":%s,"
                                   "\"redirects\":%u,\"text\":\"%s\",\"body\":\"%s\"}",
                                   i ? "," : "", c->error, c->status, c->elapsed, c->len,
                                   c->truncated ? "true" : "false", c->redirects, text, body);
        }
        out[at++] = ']';
    }
    (void)r->p->host->respond(&r->ex, out ? 200 : 500, "application/json", out ? out : "", at);
    free(out);
    free(r->list);
    free(r);
}

static void call_over(struct call *c)
{
    struct run *r = c->run;
    if (c->over)
        return;
    c->over = true;
    c->elapsed = (unsigned)(r->p->host->now_ms() - c->began);
    if (--r->left == 0)
        run_end(r);
}

static void on_answer(void *arg, const struct omid_http_response *res)
{
    struct call *c = arg;
    c->error = (int)res->error;
    c->status = res->status;
    c->len = res->body_len;
    c->truncated = res->truncated;
    c->redirects = res->redirects;
    snprintf(c->text, sizeof c->text, "%s", res->error_text);
    snprintf(c->body, sizeof c->body, "%s", res->body);
    call_over(c);
}

static void ws_open(void *arg, struct omid_ws *ws)
{
    struct call *c = arg;
    c->run->p->host->ws_send(ws, OMID_TEXT, "hello", 5);
}

static void ws_message(void *arg, struct omid_ws *ws, enum omid_message type, const void *data, size_t len)
{
    struct call *c = arg;
    (void)type;
    c->len = len;
    snprintf(c->body, sizeof c->body, "%.*s", (int)len, (const char *)data);
    c->run->p->host->ws_close(ws, 1000);
}

static void ws_closed(void *arg, struct omid_ws *ws, const struct omid_ws_close *why)
{
    struct call *c = arg;
    (void)ws;
    c->error = c->len > 0 ? 0 : 100 + (int)why->end;
    c->status = why->http_status;
    snprintf(c->text, sizeof c->text, "%s", why->text);
    c->run->p->host->ws_release(&c->ws);
    call_over(c);
}

static void call_start(struct call *c)
{
    static const struct omid_ws_events events = {
        .size = sizeof events, .open = ws_open, .message = ws_message, .closed = ws_closed};
    struct run *r = c->run;
    struct plain *p = r->p;
    int rc;
    c->began = p->host->now_ms();
    if (strcmp(c->method, "WS") == 0) {
        const struct omid_ws_request req = {.size = sizeof req, .url = c->url};
        rc = p->host->ws_connect(p->inst, &req, &events, c, &c->ws);
    } else {
        const struct omid_http_request req = {.size = sizeof req,
                                              .method = c->method,
                                              .url = c->url,
                                              .timeout_ms = (uint32_t)r->timeout,
                                              .max_body = r->max_body,
                                              .flags = r->user ? OMID_HTTP_USER_URL : 0};
        rc = p->host->http_start(p->inst, &req, on_answer, c, NULL);
    }
    if (rc != OMID_OK) {
        c->error = 1000 - rc;
        call_over(c);
    }
}

static unsigned long number(const char *query, const char *name)
{
    const char *at = strstr(query, name);
    return at ? strtoul(at + strlen(name), NULL, 10) : 0;
}

static int on_request(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct plain *p = state;
    struct run *r = calloc(1, sizeof *r);
    char *rest = NULL;
    if (r == NULL || (r->list = strndup(req->body, req->body_len)) == NULL) {
        free(r);
        return OMID_ERR;
    }
    r->p = p;
    r->ex = ex;
    r->timeout = number(req->query, "timeout=");
    r->max_body = number(req->query, "max_body=");
    r->user = number(req->query, "user=");
    for (char *line = strtok_r(r->list, "\n", &rest); line && r->n < MAX_CALLS; line = strtok_r(NULL, "\n", &rest)) {
        char *space = strchr(line, ' ');
        if (space == NULL)
            continue;
        *space = '\0';
        r->call[r->n++] = (struct call){.run = r, .method = line, .url = space + 1};
    }
    r->left = r->n + 1; /* so that none that ends within its start ends the whole */
    for (unsigned i = 0; i < r->n; i++)
        call_start(&r->call[i]);
    if (--r->left == 0)
        run_end(r);
    return OMID_OK;
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    static const struct omid_route route = {
        .size = sizeof route, .path = "/call", .method = "POST", .auth = OMID_AUTH_NONE, .request = on_request};
    (void)shared;
    return host->route_add(mod, &route);
}

OMID_EXPORT const struct omid_plugin omid_plugin = {OMID_PLUGIN_HEAD, .name = "caller", .configure = configure, PLAIN};
