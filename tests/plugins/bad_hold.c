/* GET /hold?MS holds the reactor for so many ms, by computing, then answers. */
#include "plain.h"

static int on_request(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct plain *p = state;
    for (uint64_t until = p->host->now_ms() + strtoul(req->query, NULL, 10); p->host->now_ms() < until;) {
    }
    return p->host->respond(&ex, 200, "text/plain", "held", 4);
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    (void)shared;
    const struct omid_route route = {.size = sizeof(route), .path = "/hold", .method = "GET", .request = on_request};
    return host->route_add(mod, &route);
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .name = "bad_hold",
    .configure = configure,
    PLAIN,
};
