/*
 * Stands for whoever delivers to endpoints, and shows what it sees of the registry.
 *
 *     GET  /hooker/of/{uid}                 endpoints(uid), with their secrets
 *     GET  /hooker/find/{id}/{uid}          endpoint_find()
 *     POST /hooker/report/{id}/{uid}/{what} endpoint_report(): ok, failed or gone; the body says how often
 *     GET  /hooker/events                   the custom events seen, an array
 *
 * setup_check() answers as the URL ends: /ready, /not; /broken with an error, /never not at all. So does test(), which
 * else tells how many secrets it was given.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "plain.h"

static char events[65536]; /* of all reactors */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static bool ends(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static int show(struct plain *p, struct omid_exchange *ex, const struct omid_endpoints *e)
{
    static const size_t size = 1 << 20;
    char *out = malloc(size);
    size_t at = 0;
    if (out == NULL || e == NULL)
        return OMID_ERR;
    at += (size_t)snprintf(out, size, "[");
    for (size_t i = 0; i < e->n; i++) {
        const struct omid_endpoint *p1 = e->endpoint[i];
        at += (size_t)snprintf(out + at, size - at,
                               "%s{\"id\":\"%s\",\"app\":%s,\"uid\":\"%s\",\"url\":\"%s\",\"triggers\":%u,"
                               "\"audio_ms\":%u,\"rate\":%u,\"ordered\":%s,\"filter\":%s,\"secrets\":[",
                               i > 0 ? "," : "", p1->id, p1->app ? "true" : "false", p1->uid, p1->url, p1->triggers,
                               p1->audio_ms, p1->rate_per_min, p1->ordered ? "true" : "false",
                               p1->filter[0] != '\0' ? p1->filter : "null");
        for (const char *const *s = p1->secrets; *s != NULL; s++)
            at += (size_t)snprintf(out + at, size - at, "%s\"%s\"", s > p1->secrets ? "," : "", *s);
        at += (size_t)snprintf(out + at, size - at, "],\"events\":[");
        for (const char *const *s = p1->events; *s != NULL; s++)
            at += (size_t)snprintf(out + at, size - at, "%s\"%s\"", s > p1->events ? "," : "", *s);
        at += (size_t)snprintf(out + at, size - at, "]}");
    }
    at += (size_t)snprintf(out + at, size - at, "]");
    p->host->endpoints_release(&e);
    int rc = p->host->respond(&ex, 200, "application/json", out, at);
    free(out);
    return rc;
}

static int on_of(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct plain *p = state;
    return show(p, ex, p->host->endpoints(p->inst, req->params[0]));
}

static int on_find(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct plain *p = state;
    return show(p, ex, p->host->endpoint_find(p->inst, req->params[0], req->params[1]));
}

static int on_report(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct plain *p = state;
    const char *what = req->params[2];
    enum omid_delivery_outcome o = strcmp(what, "ok") == 0     ? OMID_DELIVERY_OK
                                   : strcmp(what, "gone") == 0 ? OMID_DELIVERY_GONE
                                                               : OMID_DELIVERY_FAILED;
    unsigned long n = req->body_len > 0 ? strtoul(req->body, NULL, 10) : 1;
    for (unsigned long i = 0; i < n; i++)
        p->host->endpoint_report(p->inst, req->params[0], req->params[1], o, o == OMID_DELIVERY_GONE ? 410 : 500, "");
    return p->host->respond(&ex, 200, "application/json", "{}", 2);
}

static int on_events(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct plain *p = state;
    char out[sizeof events + 2];
    (void)req;
    pthread_mutex_lock(&lock);
    int n = snprintf(out, sizeof out, "[%s]", events);
    pthread_mutex_unlock(&lock);
    return p->host->respond(&ex, 200, "application/json", out, (size_t)n);
}

static int on_event(void *state, const struct omid_event *ev)
{
    (void)state;
    pthread_mutex_lock(&lock);
    size_t at = strlen(events);
    snprintf(events + at, sizeof events - at, "%s{\"name\":\"%s\",\"uid\":\"%s\",\"event\":%.*s}", at > 0 ? "," : "",
             ev->name, ev->uid, (int)ev->json_len, ev->json);
    pthread_mutex_unlock(&lock);
    return OMID_OK;
}

static int told(struct plain *p, const char *url, struct omid_ask *ask, const char *json)
{
    struct omid_answer a = {.size = sizeof a, .json = json, .json_len = json != NULL ? strlen(json) : 0};
    if (ends(url, "/never"))
        return OMID_OK;
    if (ends(url, "/full"))
        return OMID_EFULL;
    if (ends(url, "/not"))
        a.result = OMID_ENOTSUP;
    if (ends(url, "/broken"))
        a.result = OMID_ERR;
    a.text = a.result == OMID_OK ? NULL : "as the URL says";
    p->host->answer(&ask, &a);
    return OMID_OK;
}

static int setup_check(void *state, const char *uid, const char *url, struct omid_ask *ask)
{
    return uid != NULL ? told(state, url, ask, NULL) : OMID_ERR;
}

static int test(void *state, const char *uid, const struct omid_endpoint *e, struct omid_ask *ask)
{
    char json[256];
    size_t n = 0;
    while (e->secrets[n] != NULL)
        n++;
    snprintf(json, sizeof json, "{\"status\":200,\"elapsed_ms\":1,\"answer\":\"%zu %s %s\",\"error\":null}", n, e->id,
             uid);
    return told(state, e->url, ask, json);
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    static const struct omid_route routes[] = {
        {.size = sizeof routes[0], .path = "/hooker/of/{uid}", .method = "GET", .request = on_of},
        {.size = sizeof routes[0], .path = "/hooker/find/{id}/{uid}", .method = "GET", .request = on_find},
        {.size = sizeof routes[0], .path = "/hooker/report/{id}/{uid}/{what}", .method = "POST", .request = on_report},
        {.size = sizeof routes[0], .path = "/hooker/events", .method = "GET", .request = on_events},
    };
    (void)shared;
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        if (host->route_add(mod, &routes[i]) != OMID_OK)
            return OMID_ERR;
    }
    return OMID_OK;
}

static const struct omid_hooks_role role = {.size = sizeof role, .setup_check = setup_check, .test = test};

OMID_EXPORT const struct omid_plugin omid_plugin = {OMID_PLUGIN_HEAD,
                                                    .name = "hooker",
                                                    .configure = configure,
                                                    .events = OMID_EVENT_MASK(OMID_EVENT_CUSTOM),
                                                    .event = on_event,
                                                    .hooks = &role,
                                                    PLAIN};
