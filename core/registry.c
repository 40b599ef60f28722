/* The registry's place in the daemon: what plugins are told of it, and who is told when an endpoint is disabled. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "admin/registry.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/magic.h"
#include "base/urlkey.h"
#include "bus/bus.h"
#include "daemon.h"
#include "session/session.h"
#include "store/registry.h"

/* ---------------------------------------------------------------- for plugins; reactors */

const struct omid_endpoints *daemon_endpoints(void *arg, const char *uid)
{
    struct daemon *d = arg;
    return registry_of(d->registry, uid, clock_wall_ms());
}

const struct omid_endpoints *daemon_endpoint_find(void *arg, const char *id, const char *uid)
{
    struct daemon *d = arg;
    return registry_find(d->registry, id, uid, clock_wall_ms());
}

void daemon_endpoint_report(void *arg, const char *id, const char *uid, enum omid_delivery_outcome outcome, int status,
                            const char *text)
{
    struct daemon *d = arg;
    (void)uid;
    (void)text;
    registry_report(d->registry, id, outcome, status, clock_wall_ms(), clock_mono_ms());
}

/* ---------------------------------------------------------------- the event */

struct disabled {
    struct loop_msg msg;
    struct bus *bus;
    char *uid;
    struct buf json;
    int64_t at_ms;
};

static void on_disabled(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct disabled *e = container_of(msg, struct disabled, msg);
    const struct omid_event ev = {.size = sizeof ev,
                                  .type = OMID_EVENT_CUSTOM,
                                  .uid = e->uid,
                                  .name = "endpoint.disabled",
                                  .json = e->json.data,
                                  .json_len = e->json.len,
                                  .time_ms = e->at_ms};
    (void)bus_publish_later(e->bus, &ev); /* counted there when it is refused */
    buf_free(&e->json);
    free(e->uid);
    free(e);
}

/* scheme://host:port; what stands behind it is the endpoint's own affair, and may hold a secret. */
static void origin_of(const char *url, char *out, size_t size)
{
    char key[REGISTRY_MAX_URL + URL_KEY_EXTRA];
    if (!url_key(url, key, sizeof key)) {
        snprintf(out, size, "?");
        return;
    }
    const char *host = strstr(key, "://");
    size_t n = host ? (size_t)(host + 3 - key) + strcspn(host + 3, "/") : strlen(key);
    snprintf(out, size, "%.*s", (int)n, key);
}

/* Store's writer. Told to the reactor of the user whose it is; one without a user (an app without an owner) is only
 * logged. */
static void tell_disabled(void *arg, const struct registry_disabled *dis)
{
    struct daemon *d = arg;
    char origin[300], at[32];
    struct json_w w;
    struct disabled *e = dis->uid[0] ? calloc(1, sizeof *e) : NULL;
    if (!e)
        return;
    unsigned reactor = session_reactor_of(dis->uid, d->n_loops);
    origin_of(dis->url, origin, sizeof origin);
    clock_format_utc(dis->at_ms, at);
    json_w_start(&w, &e->json);
    json_w_open(&w, '{');
    json_w_kstr(&w, "id", dis->id);
    json_w_kstr(&w, "kind", dis->app ? "app" : "webhook");
    json_w_kstr(&w, "url", origin);
    json_w_kstr(&w, "reason", dis->reason);
    json_w_kstr(&w, "at", at);
    json_w_close(&w, '}');
    e->uid = strdup(dis->uid);
    if (!json_w_end(&w) || !e->uid) {
        buf_free(&e->json);
        free(e->uid);
        free(e);
        return;
    }
    e->msg.fn = on_disabled;
    e->bus = d->bus[reactor];
    e->at_ms = dis->at_ms;
    loop_post(d->loop[reactor], &e->msg);
}

/* ---------------------------------------------------------------- life; main thread */

static struct registry_config config_of(const struct conf *c)
{
    return (struct registry_config){.max_apps = c->registry.max_apps,
                                    .max_webhooks = c->registry.max_webhooks,
                                    .max_enabled = c->registry.max_enabled,
                                    .failures = c->registry.webhook_failures,
                                    .failing_ms = c->registry.app_failing_ms,
                                    .overlap_ms = c->registry.secret_overlap_ms};
}

bool daemon_registry_open(struct daemon *d)
{
    char err[256] = "";
    struct registry_config rc = config_of(d->conf);
    rc.disabled = tell_disabled;
    rc.arg = d;
    d->registry = registry_new(d->store, &rc, err, sizeof err);
    if (!d->registry)
        log_error(MODULE, "registry", LS("reason", err));
    return d->registry != NULL;
}

/* What the admin API needs; as long as there are routes. */
static struct registry_api api;

static void api_configure(const struct conf *c)
{
    atomic_store(&api.setup_check_ms, c->registry.setup_check_ms);
    atomic_store(&api.test_ms, c->registry.test_ms);
}

bool daemon_registry_routes(struct daemon *d, struct routes *routes)
{
    if (api.registry == NULL) {
        api.registry = d->registry;
        api.host = d->host;
        api.loops = d->loop;
        api.n_loops = d->n_loops;
        api_configure(d->conf);
    }
    return registry_routes_add(routes, &api);
}

void daemon_registry_configure(struct daemon *d, const struct conf *c)
{
    struct registry_config rc = config_of(c);
    registry_configure(d->registry, &rc);
    api_configure(c);
}

uint64_t daemon_registry_tick(struct daemon *d, uint64_t now_ms)
{
    if (now_ms >= d->registry_flush_ms) {
        registry_flush(d->registry);
        d->registry_flush_ms = now_ms + d->conf->registry.flush_ms;
    }
    return d->registry_flush_ms - now_ms;
}
