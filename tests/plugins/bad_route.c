/* Routes whose callbacks fail in every way: /bad answers nothing, or an error; the WebSocket refuses, holds, fails. */
#include <string.h>

#include "plain.h"

static struct omid_exchange *forgotten;

static int on_request(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct plain *p = state;
    if (strcmp(req->query, "forget") == 0) {
        forgotten = ex;
        return OMID_OK;
    }
    if (strcmp(req->query, "twice") == 0) {
        struct omid_exchange *again = ex;
        (void)p->host->respond(&ex, 200, "text/plain", "once", 4);
        return p->host->respond(&again, 200, "text/plain", "twice", 5);
    }
    if (strcmp(req->query, "status") == 0)
        return p->host->respond(&ex, 99, "text/plain", "x", 1);
    return OMID_ERR;
}

static int on_open(void *state, struct omid_conn *conn, const struct omid_request *req, void **user)
{
    (void)conn;
    *user = state;
    return strcmp(req->query, "refuse") == 0 ? OMID_ERR : OMID_OK;
}

static int on_message(void *user, struct omid_conn *conn, enum omid_message type, const void *data, size_t len)
{
    struct plain *p = user;
    (void)type;
    if (len == 4 && memcmp(data, "fail", 4) == 0)
        return OMID_ERR;
    if (len == 3 && memcmp(data, "bad", 3) == 0)
        return p->host->conn_send(conn, OMID_TEXT, "\xff", 1) == OMID_EINVAL ? OMID_OK : OMID_ERR;
    if (len == 4 && memcmp(data, "code", 4) == 0)
        p->host->conn_close(conn, 1006, "not to be sent");
    /* Held for no reason that lies with the client: a few times, then taken. */
    static int held;
    if (len == 4 && memcmp(data, "hold", 4) == 0 && held++ < 3)
        return OMID_EFULL;
    return p->host->conn_send(conn, OMID_BINARY, data, len);
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    (void)shared;
    const struct omid_route http = {.size = sizeof(http), .path = "/bad", .method = "POST", .request = on_request};
    const struct omid_route ws = {.size = sizeof(ws), .path = "/bad", .open = on_open, .message = on_message};
    int rc = host->route_add(mod, &http);
    if (rc == OMID_OK && host->route_add(mod, &http) != OMID_EINVAL)
        return OMID_ERR; /* the same twice must be refused */
    return rc == OMID_OK ? host->route_add(mod, &ws) : rc;
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .name = "bad_route",
    .configure = configure,
    PLAIN,
};
