/* The table of what ingress answers by itself, with health and metrics. */
#include <stdlib.h>
#include <string.h>

#include "admin/private.h"
#include "base/clock.h"
#include "base/magic.h"
#include "base/metrics.h"

/* Says that this process answers at all, and must stay quick whatever else happens: it looks at nothing. */
static int healthz(void *arg, const char *path, struct buf *body, const char **content_type)
{
    (void)arg;
    (void)path;
    (void)content_type;
    return buf_puts(body, "{\"status\":\"ok\"}\n") ? 200 : 503;
}

static int metrics(void *arg, const char *path, struct buf *body, const char **content_type)
{
    (void)arg;
    (void)path;
    *content_type = "text/plain; version=0.0.4; charset=utf-8";
    if (metrics_render(body))
        return 200;
    buf_clear(body);
    *content_type = "text/plain";
    buf_puts(body, "out of memory\n");
    return 503;
}

struct admin *admin_new(const struct admin_env *env)
{
    struct admin *a = calloc(1, sizeof(*a));

    if (a == NULL)
        return NULL;
    a->magic = ADMIN_MAGIC;
    a->env = *env;
    a->env.conf = NULL; /* may be replaced: what is told of it is copied */
    a->file = strdup(env->conf->file);
    if (a->file == NULL) {
        free(a);
        return NULL;
    }
    atomic_init(&a->memory_limit, env->conf->memory.sessions);
    a->started_mono_ms = clock_mono_ms();
    a->started_wall_ms = clock_wall_ms();
    atomic_init(&a->phase, ADMIN_STARTING);
    atomic_init(&a->ingress, NULL);
    pthread_mutex_init(&a->lock, NULL);
    const struct ingress_direct direct[] = {
        {.method = "GET", .path = "/healthz", .fn = healthz, .arg = a},
        {.method = "GET", .path = "/readyz", .fn = admin_readyz, .arg = a},
        {.method = "GET", .path = "/metrics", .fn = metrics, .arg = a},
        {.method = "GET", .path = "/v1/admin/status", .control_only = true, .fn = admin_status, .arg = a},
        {.method = "GET", .path = "/v1/admin/plugins", .control_only = true, .fn = admin_plugins, .arg = a},
        {.method = "GET", .path = "/v1/admin/reload", .control_only = true, .fn = admin_reload_result, .arg = a},
        {.method = "POST", .path = "/v1/admin/reload", .control_only = true, .fn = admin_reload_ask, .arg = a},
        {.method = "GET", .path = "/v1/admin/lanes", .control_only = true, .fn = admin_lanes, .arg = a},
        {.method = "GET", .path = "/v1/admin/breakers", .control_only = true, .fn = admin_breakers, .arg = a},
        {.method = "POST",
         .path = "/v1/admin/breakers/reset",
         .control_only = true,
         .fn = admin_breaker_reset,
         .arg = a},
        {.method = "GET", .path = "/v1/admin/sessions", .control_only = true, .fn = admin_sessions, .arg = a},
        {.method = "POST", .path = "/v1/admin/sessions/kill", .control_only = true, .fn = admin_session_kill, .arg = a},
        {.path = NULL},
    };
    _Static_assert(sizeof(direct) == sizeof(a->direct), "one entry per route and the end");
    memcpy(a->direct, direct, sizeof(direct));
    metrics_collector_add(process_collect, a);
    admin_reload_metrics();
    return a;
}

void admin_free(struct admin **ap)
{
    struct admin *a = *ap;

    *ap = NULL;
    if (a == NULL)
        return;
    CHECK_MAGIC(a, ADMIN_MAGIC);
    metrics_collector_remove(process_collect, a);
    for (size_t i = 0; i < a->n_remarks; i++)
        free(a->remark[i]);
    free(a->reload.summary);
    free(a->reload.faults);
    free(a->file);
    pthread_mutex_destroy(&a->lock);
    a->magic = OMID_MAGIC_DEAD;
    free(a);
}

const struct ingress_direct *admin_direct(struct admin *a)
{
    CHECK_MAGIC(a, ADMIN_MAGIC);
    return a->direct;
}

void admin_set_ingress(struct admin *a, struct ingress *in)
{
    CHECK_MAGIC(a, ADMIN_MAGIC);
    atomic_store(&a->ingress, in);
}
