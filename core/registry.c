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
#include "lane/queue/queue.h"
#include "session/session.h"
#include "store/registry.h"

#define RETELL_MS 10000

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

/* ---------------------------------------------------------------- events about endpoints */

/* Told to the reactor of the user whose the endpoint is; one without a user (an app without an owner) is only logged.
 */
struct told {
    struct loop_msg msg;
    struct daemon *d;
    struct bus *bus;
    char *id; /* of what is told until its deliveries are on disk; NULL: told once */
    const char *name;
    char *uid;
    struct buf json;
    int64_t at_ms;
};

static void told_free(struct told *e)
{
    buf_free(&e->json);
    free(e->uid);
    free(e->id);
    free(e);
}

static void on_fence(void *arg, int result)
{
    struct told *e = arg;
    if (result != OMID_OK || registry_told(e->d->registry, e->id, e->at_ms) != OMID_OK)
        atomic_store(&e->d->untold, true);
    told_free(e);
}

static void on_told(struct loop *loop, struct loop_msg *msg)
{
    struct told *e = container_of(msg, struct told, msg);
    const struct omid_event ev = {.size = sizeof ev,
                                  .type = OMID_EVENT_CUSTOM,
                                  .uid = e->uid,
                                  .name = e->name,
                                  .json = e->json.data,
                                  .json_len = e->json.len,
                                  .time_ms = e->at_ms};
    if (!e->id) {
        (void)bus_publish_later(e->bus, &ev); /* counted there when it is refused */
        told_free(e);
        return;
    }
    bus_publish(e->bus, &ev);
    if (queue_fence(e->d->queue, loop, on_fence, e) != OMID_OK)
        on_fence(e, OMID_ERR);
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

/* With the members that all of them have; NULL: no memory. */
static struct told *told_new(const char *name, const struct registry_disabled *of, struct json_w *w)
{
    char origin[300];
    struct told *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->name = name;
    e->at_ms = of->at_ms;
    e->uid = strdup(of->uid);
    origin_of(of->url, origin, sizeof origin);
    json_w_start(w, &e->json);
    json_w_open(w, '{');
    json_w_kstr(w, "id", of->id);
    json_w_kstr(w, "kind", of->app ? "app" : "webhook");
    json_w_kstr(w, "url", origin);
    return e;
}

static bool told_post(struct daemon *d, struct told *e, struct json_w *w)
{
    char at[32];
    clock_format_utc(e->at_ms, at);
    json_w_kstr(w, "at", at);
    json_w_close(w, '}');
    if (!json_w_end(w) || !e->uid) {
        told_free(e);
        return false;
    }
    unsigned reactor = session_reactor_of(e->uid, d->n_loops);
    e->d = d;
    e->msg.fn = on_told;
    e->bus = d->bus[reactor];
    loop_post(d->loop[reactor], &e->msg);
    return true;
}

/* Store's writer. */
static void tell_disabled(void *arg, const struct registry_disabled *dis)
{
    struct daemon *d = arg;
    struct json_w w;
    if (!dis->uid[0])
        return;
    struct told *e = told_new("endpoint.disabled", dis, &w);
    bool ok = e && (e->id = strdup(dis->id)) != NULL;
    if (e)
        json_w_kstr(&w, "reason", dis->reason);
    if (e && !ok)
        told_free(e);
    if (!ok || !told_post(d, e, &w))
        atomic_store(&d->untold, true);
}

/* Store's writer. */
static void on_untold(void *arg)
{
    struct daemon *d = arg;
    atomic_store(&d->untold, true);
}

void daemon_tell_full(void *arg, const char *owner, const char *target, uint64_t held, uint64_t refused)
{
    struct daemon *d = arg;
    struct json_w w;
    (void)owner;
    struct registry_entry *of = registry_get(d->registry, false, target, NULL);
    if (!of)
        of = registry_get(d->registry, true, target, NULL);
    if (!of)
        return; /* no endpoint of the registry: the queue has logged it */
    const struct registry_disabled as = {
        .id = of->id, .uid = of->uid, .url = of->url, .app = of->app, .at_ms = clock_wall_ms()};
    struct told *e = of->uid[0] ? told_new("endpoint.full", &as, &w) : NULL;
    if (e) {
        json_w_kint(&w, "waiting", (int64_t)held);
        json_w_kint(&w, "refused", (int64_t)refused);
        (void)told_post(d, e, &w);
    }
    registry_entry_release(&of);
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
    rc.untold = on_untold;
    atomic_store(&d->untold, true); /* what a former process did not get to */
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
    if (atomic_load(&d->untold) && now_ms >= d->retell_ms) {
        atomic_store(&d->untold, false);
        if (registry_retell(d->registry) != OMID_OK)
            atomic_store(&d->untold, true);
        d->retell_ms = now_ms + RETELL_MS;
    }
    return d->registry_flush_ms - now_ms;
}
