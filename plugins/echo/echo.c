/*
 * echo - the smallest complete plugin of omid.
 *
 *     WebSocket /echo   sends back every text and binary message
 *     POST      /echo   sends back the body with its content type
 *
 * Read it as a template. It includes <omid/plugin.h> and nothing else of omid, keeps no global state, and is built as a
 * shared object with -fvisibility=hidden:
 *
 *     cc -shared -fPIC -fvisibility=hidden $(pkg-config --cflags omid) echo.c -o echo.so
 *
 * and switched on by one block in omi.conf:
 *
 *     plugin echo { auth = token }
 */
#include <omid/plugin.h>
#include <stdlib.h>
#include <string.h>

/* What all instances share: made in configure(), read-only afterwards, so that no lock is needed. */
struct shared {
    struct omid_counter *messages, *bytes;
};

/* What one instance, the plugin on one reactor thread, has for itself. */
struct echo {
    const struct omid_host *host;
    const struct shared *shared;
};

/* ------------------------------------------------------------ WebSocket */

/* What open() stores comes back in message() and closed() of the same connection. echo needs only its instance. */
static int ws_open(void *state, struct omid_conn *conn, const struct omid_request *req, void **user)
{
    (void)conn;
    (void)req;
    *user = state;
    return OMID_OK;
}

/*
 * `data` is valid until this returns; conn_send() copies it. When the client reads more slowly than it sends, its way
 * back is full: OMID_EFULL. Handing that on means "not taken": omid stops reading from this client and offers the
 * message again when there is room. Nothing is lost, nothing piles up, and no other client notices.
 */
static int ws_message(void *user, struct omid_conn *conn, enum omid_message type, const void *data, size_t len)
{
    struct echo *e = user;
    int rc = e->host->conn_send(conn, type, data, len);
    if (rc == OMID_ECLOSED)
        return OMID_OK; /* it is going away; closed() follows */
    if (rc != OMID_OK)
        return rc;
    e->host->counter_add(e->shared->messages, 1);
    e->host->counter_add(e->shared->bytes, len);
    return OMID_OK;
}

/* ------------------------------------------------------------ HTTP */

/* The answer may be given here or later, but exactly once. Text from the client, the content type too, is for the
 * client alone: it must not reach a log line or a metric. */
static int http_request(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct echo *e = state;
    const char *type = req->content_type[0] != '\0' ? req->content_type : "application/octet-stream";
    int rc = e->host->respond(&ex, 200, type, req->body, req->body_len);
    if (rc == OMID_ECLOSED)
        return OMID_OK; /* the client did not wait: no fault of ours */
    e->host->counter_add(e->shared->bytes, req->body_len);
    return rc;
}

/* ------------------------------------------------------------ life */

/*
 * Main thread, before any instance, and also under `omid -t`: routes, counters and what the options mean. Types, ranges
 * and unknown keys were checked by omid against the table below; a fault that only the plugin can see is reported with
 * host->conf_error(), which knows file and line, and answered with OMID_EINVAL.
 */
static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    struct shared *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return OMID_ERR;
    s->messages = host->counter(mod, "messages", "Messages that echo sent back.", NULL, NULL);
    s->bytes = host->counter(mod, "bytes", "Bytes of messages and bodies that echo sent back.", NULL, NULL);

    bool token = strcmp(host->conf_str(mod, "auth"), "token") == 0;
    struct omid_route route = {
        .size = sizeof(route),
        .path = "/echo",
        .auth = token ? OMID_AUTH_TOKEN : OMID_AUTH_NONE,
        .open = ws_open,
        .message = ws_message,
    };
    int rc = host->route_add(mod, &route);
    if (rc == OMID_OK) {
        route.method = "POST";
        route.request = http_request;
        rc = host->route_add(mod, &route);
    }
    if (rc != OMID_OK) {
        free(s); /* after an error unconfigure() is not called */
        return rc;
    }
    *shared = s;
    return OMID_OK;
}

static void unconfigure(void *shared)
{
    free(shared);
}

/* Reactor thread, once per instance: the first callback. */
static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    (void)inst;
    struct echo *e = calloc(1, sizeof(*e));
    if (e == NULL)
        return OMID_ERR;
    e->host = host;
    e->shared = shared;
    *state = e;
    return OMID_OK;
}

/* The last one. All connections were closed before. */
static void stop(void *state)
{
    free(state);
}

static const struct omid_option options[] = {
    {
        .name = "auth",
        .type = OMID_OPT_ENUM,
        .def = "none",
        .choices = "none|token",
        .help = "Who may use /echo: anyone, or whoever has a valid token (Authorization: Bearer).",
    },
    {.name = NULL},
};

/* The one symbol of the file. OMID_PLUGIN_HEAD says which version of the contract this was compiled against. */
OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .name = "echo",
    .version = "1.0",
    .summary = "Sends back every message and body",
    .options = options,
    .configure = configure,
    .unconfigure = unconfigure,
    .start = start,
    .stop = stop,
};
