/* The admin API of apps and developer webhooks; see omid-api(7). Requests are served on the reactors. */
#ifndef OMID_ADMIN_REGISTRY_H
#define OMID_ADMIN_REGISTRY_H

#include <stdatomic.h>

#include "base/json.h"
#include "bus/route.h"
#include "store/registry.h"

struct host;

/* Lives as long as the routes. */
struct registry_api {
    /* What the routes point at: which kind of endpoint they are about. Set by the first registry_routes_add(). */
    struct registry_place {
        struct registry_api *api;
        bool app;
    } webhooks, apps;
    struct registry *registry;
    struct host *host;
    struct loop **loops;
    unsigned n_loops;
    atomic_uint setup_check_ms, test_ms; /* a reload changes them */
};
/* false: no memory, or a path is taken. */
bool registry_routes_add(struct routes *routes, struct registry_api *api);

/* ---- registry_body.c: what a request says ---- */
/* Strings lie in `json` and in the struct itself. */
struct registry_body {
    struct registry_spec spec;
    const char *events[REGISTRY_MAX_EVENTS + 2];
    char filter[REGISTRY_MAX_FILTER + 1];
    char url[REGISTRY_MAX_URL + 16];
    char id[40];
    yajl_val json;
};
/* Of a new one (create), or of a change. `now`: what is to be changed, else NULL. false: err names the field.
 * registry_body_free() is due either way. */
bool registry_body_read(struct registry_body *b, bool app, const struct registry_entry *now, const char *text,
                        size_t len, char *err, size_t errlen);
/* An object with these members alone, texts each; absent ones are NULL in value. An empty text counts as {}. Keep *json
 * as long as the values. */
bool registry_body_texts(yajl_val *json, const char *const *names, const char **value, size_t n, const char *text,
                         size_t len, char *err, size_t errlen);
void registry_body_free(struct registry_body *b);

#define REGISTRY_MAX_BODY (64u << 10)

#endif
