/* The opening handshake of RFC 6455 (section 4.2), and the hand-over of the socket. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ingress/private.h"

bool upgrade_wanted(h2o_req_t *req)
{
    /* h2o sets it when Connection has the token "upgrade". */
    return req->upgrade.base != NULL &&
           h2o_contains_token(req->upgrade.base, req->upgrade.len, H2O_STRLIT("websocket"), ',');
}

static bool refuse(struct exchange *ex, enum upgrade_result result, int status, const char *err)
{
    metric_add(ingress_metrics.upgrades[result], 1);
    http_refuse(ex, status, err);
    return false;
}

static bool origin_allowed(const struct conf_list *origins, h2o_iovec_t origin)
{
    for (size_t i = 0; i < origins->n; i++)
        if (strlen(origins->item[i]) == origin.len && strncasecmp(origins->item[i], origin.base, origin.len) == 0)
            return true;
    return false;
}

static bool check_version(struct exchange *ex)
{
    size_t n;
    h2o_iovec_t version = http_header_get(ex->req, "sec-websocket-version", &n);

    if (n == 1 && h2o_memis(version.base, version.len, H2O_STRLIT("13")))
        return true;
    http_header(ex, "Sec-WebSocket-Version", "13");
    return refuse(ex, UPGRADE_VERSION, 426, "Sec-WebSocket-Version must be 13");
}

bool upgrade_check(struct exchange *ex)
{
    h2o_req_t *req = ex->req;
    struct ingress_thread *t = ex->client->t;
    size_t n;

    if (!upgrade_wanted(req)) {
        http_header(ex, "Upgrade", "websocket");
        return refuse(ex, UPGRADE_BAD_REQUEST, 426,
                      "this path is a WebSocket: Connection: Upgrade and Upgrade: websocket");
    }
    if (req->version < 0x101 || req->entity.len > 0)
        return refuse(ex, UPGRADE_BAD_REQUEST, 400, "an upgrade is an HTTP/1.1 GET without a body");
    h2o_iovec_t key = http_header_get(req, "sec-websocket-key", &n);
    if (n != 1 || !ws_key_valid(key.base, key.len))
        return refuse(ex, UPGRADE_BAD_REQUEST, 400, "Sec-WebSocket-Key must be 16 bytes in base64");
    omid_assert(key.len < sizeof(ex->key));
    memcpy(ex->key, key.base, key.len);
    ex->key[key.len] = '\0';
    if (!check_version(ex))
        return false;
    /* Browsers always send one; a client without is not a browser, and what the list guards against does not concern
     * it. */
    const struct conf_list *origins = &t->conf->ingress.origins;
    h2o_iovec_t origin = http_header_get(req, "origin", &n);
    if (origins->n > 0 && n > 0 && (n > 1 || !origin_allowed(origins, origin)))
        return refuse(ex, UPGRADE_ORIGIN, 403, "this Origin is not allowed");
    if (t->paused || t->stopping)
        return refuse(ex, UPGRADE_STOPPING, 503, "going away");
    return true;
}

static void on_upgraded(void *arg, h2o_socket_t *sock, size_t request_size)
{
    struct websocket_start *start = arg;

    if (sock == NULL) {
        /* The client has left; its socket, and so the struct client, are gone. */
        metric_add(ingress_metrics.upgrades[UPGRADE_LOST], 1);
        websocket_start_free(&start);
        return;
    }
    if (start->client->state == CLIENT_DYING) {
        /* Cut while the 101 was on its way. */
        metric_add(ingress_metrics.upgrades[UPGRADE_LOST], 1);
        websocket_start_free(&start);
        h2o_socket_close(sock);
        return;
    }
    metric_add(ingress_metrics.upgrades[UPGRADE_ACCEPTED], 1);
    h2o_buffer_consume(&sock->input, request_size);
    websocket_begin(start, sock);
}

void upgrade_accept(struct exchange *ex)
{
    h2o_req_t *req = ex->req;
    struct websocket_start *start = calloc(1, sizeof(*start));
    char accept_key[32];

    if (start == NULL) {
        http_refuse(ex, 503, "out of memory");
        return;
    }
    start->t = ex->client->t;
    start->client = ex->client;
    start->route = ex->route;
    start->routes = routes_ref(ex->routes);
    start->admission = ex->admission;
    ex->admission = (struct admission){.t = NULL};
    start->request = ex->request;
    ex->request = (struct channel_request){.method = NULL};
    ws_accept_key(ex->key, strlen(ex->key), accept_key);
    req->res.status = 101;
    req->res.reason = "Switching Protocols";
    http_header(ex, "Upgrade", "websocket");
    http_header(ex, "Sec-WebSocket-Accept", accept_key);
    ex->answered = true;
    ex->upgrading = true;
    h2o_http1_upgrade(req, NULL, 0, on_upgraded, start);
}
