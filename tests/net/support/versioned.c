/* A plugin that answers with what it was built as and what it is set to: POST and WebSocket /versioned. */
#include <omid/plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef ANSWER
#define ANSWER "?"
#endif

struct shared {
    char text[128];
    int fail_start;
};

struct plain {
    const struct omid_host *host;
    const struct shared *shared;
};

static int generations; /* of this copy of the file: always one */

static int request(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct plain *p = state;
    (void)req;
    return p->host->respond(&ex, 200, "text/plain", p->shared->text, strlen(p->shared->text));
}

static int open_conn(void *state, struct omid_conn *conn, const struct omid_request *req, void **user)
{
    (void)conn;
    (void)req;
    *user = state;
    return OMID_OK;
}

static int message(void *user, struct omid_conn *conn, enum omid_message type, const void *data, size_t len)
{
    struct plain *p = user;
    (void)type;
    (void)data;
    (void)len;
    return p->host->conn_send(conn, OMID_TEXT, p->shared->text, strlen(p->shared->text));
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    struct shared *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return OMID_ERR;
    snprintf(s->text, sizeof(s->text), "%s %s %d", ANSWER, host->conf_str(mod, "word"), ++generations);
    s->fail_start = host->conf_bool(mod, "fail_start");
    if (strcmp(host->conf_str(mod, "word"), "refused") == 0) {
        host->conf_error(mod, "word", "this word is refused");
        free(s);
        return OMID_EINVAL;
    }
    struct omid_route route = {.size = sizeof(route), .path = "/versioned", .open = open_conn, .message = message};
    int rc = host->route_add(mod, &route);
    route.method = "POST";
    route.request = request;
    if (rc == OMID_OK)
        rc = host->route_add(mod, &route);
    if (rc != OMID_OK) {
        free(s);
        return rc;
    }
    *shared = s;
    return OMID_OK;
}

static void unconfigure(void *shared)
{
    free(shared);
}

static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    const struct shared *s = shared;
    (void)inst;
    if (s->fail_start)
        return OMID_ERR;
    struct plain *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return OMID_ERR;
    p->host = host;
    p->shared = s;
    *state = p;
    return OMID_OK;
}

static void stop(void *state)
{
    free(state);
}

static const struct omid_option options[] = {
    {.name = "word", .type = OMID_OPT_STRING, .def = "none", .min = 1, .max = 40, .help = "Part of the answer."},
    {.name = "fail_start", .type = OMID_OPT_BOOL, .def = "false", .help = "start() fails."},
    {.name = NULL},
};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,   .name = "versioned",    .version = "1.0",           .summary = "A plugin for tests",
    .options = options, .configure = configure, .unconfigure = unconfigure, .start = start,
    .stop = stop,
};
