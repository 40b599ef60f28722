/* Answers with what it was sent: header lines, and on demand lines of its own. GET /v1/admin/mirror is for the admin
 * key. */
#include <stdio.h>
#include <string.h>

#include "plain.h"

static int on_request(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct plain *p = state;
    char body[8192], line[256];
    const char *const lines[] = {line, "X-Two: 2", NULL};
    size_t len = 0;
    snprintf(line, sizeof line, "%.200s", req->query[0] != '\0' ? req->query : "X-One: 1");
    for (size_t i = 0; i < req->n_headers && len < sizeof body; i++)
        len += (size_t)snprintf(body + len, sizeof body - len, "%s=%s\n", req->headers[i].name, req->headers[i].value);
    int rc = p->host->respond_with(&ex, req->uid == NULL ? 200 : 500, "text/plain", lines, body,
                                   len < sizeof body ? len : sizeof body - 1);
    if (rc == OMID_EINVAL)
        rc = p->host->respond(&ex, 422, "text/plain", "refused", 7);
    return rc;
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    static const struct omid_route admin = {.size = sizeof admin,
                                            .path = "/v1/admin/mirror",
                                            .method = "GET",
                                            .auth = OMID_AUTH_ADMIN,
                                            .request = on_request},
                                   open = {
                                       .size = sizeof open, .path = "/mirror", .method = "GET", .request = on_request};
    (void)shared;
    int rc = host->route_add(mod, &admin);
    return rc == OMID_OK ? host->route_add(mod, &open) : rc;
}

OMID_EXPORT const struct omid_plugin omid_plugin = {OMID_PLUGIN_HEAD, .name = "mirror", .configure = configure, PLAIN};
