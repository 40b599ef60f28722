/* Lanes and their breakers, on the control socket. */
#include "admin/private.h"
#include "base/magic.h"
#include "base/query.h"
#include "lane/http/lane.h"

int admin_lanes(void *arg, const char *path, struct buf *body, const char **content_type)
{
    struct admin *a = arg;
    struct json_w w;

    (void)path;
    (void)content_type;
    CHECK_MAGIC(a, ADMIN_MAGIC);
    if (a->env.lanes == NULL)
        return admin_fault(body, 503, "there are no lanes");
    json_w_start(&w, body);
    json_w_open(&w, '{');
    json_w_key(&w, "lanes");
    lanes_status(a->env.lanes, &w);
    json_w_close(&w, '}');
    return json_w_end(&w) && buf_puts(body, "\n") ? 200 : 503;
}

int admin_breakers(void *arg, const char *path, struct buf *body, const char **content_type)
{
    static const char *const known[] = {"lane", NULL};
    struct admin *a = arg;
    struct json_w w;
    struct query q;
    char err[256];

    (void)content_type;
    CHECK_MAGIC(a, ADMIN_MAGIC);
    if (a->env.lanes == NULL)
        return admin_fault(body, 503, "there are no lanes");
    if (!admin_query(&q, path, known, err, sizeof(err)))
        return admin_fault(body, 400, err);
    json_w_start(&w, body);
    lanes_breakers(a->env.lanes, query_get(&q, "lane"), &w);
    query_free(&q);
    return json_w_end(&w) && buf_puts(body, "\n") ? 200 : 503;
}

int admin_breaker_reset(void *arg, const char *path, struct buf *body, const char **content_type)
{
    static const char *const known[] = {"lane", "target", NULL};
    struct admin *a = arg;
    struct json_w w;
    struct query q;
    char err[256];

    (void)content_type;
    CHECK_MAGIC(a, ADMIN_MAGIC);
    if (a->env.lanes == NULL)
        return admin_fault(body, 503, "there are no lanes");
    if (!admin_query(&q, path, known, err, sizeof(err)))
        return admin_fault(body, 400, err);
    const char *target = query_get(&q, "target");
    int n = target != NULL ? lanes_breaker_reset(a->env.lanes, target, query_get(&q, "lane")) : OMID_EINVAL;
    query_free(&q);
    if (n == OMID_EINVAL)
        return admin_fault(body, 400, "target: expected an http, https, ws or wss URL");
    if (n == 0)
        return admin_fault(body, 404, "no breaker of this target is open");
    if (n < 0)
        return admin_fault(body, 503, n == OMID_ECLOSED ? "shutting down" : "out of memory");
    json_w_start(&w, body);
    json_w_open(&w, '{');
    json_w_kint(&w, "reset", n);
    json_w_close(&w, '}');
    return json_w_end(&w) && buf_puts(body, "\n") ? 200 : 503;
}
