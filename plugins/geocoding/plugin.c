/*
 * The role `geocode`: an address for coordinates, by a service that speaks the protocol of Google's Geocoding API.
 *
 *   geocode() ── known? ──► answered
 *       │ no
 *       ▼
 *   look-up: the store's values ── there ──► known
 *       │ not there
 *       ▼
 *   the service ──► known for cache_time, in memory and in the store; failures are not kept
 *
 * One look-up of a place at a time, in the whole process: see cache.h. The key stands in the URL's query alone, which
 * neither the lane nor this plugin repeats anywhere.
 */
#include <math.h>
#include <omid/plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "plugins/kit/outcome.h"

#define LOOK_MS 20 /* between two looks at a look-up of another reactor */

enum source { FROM_MEMORY, FROM_STORE, FROM_SERVICE, FROM_OTHERS, SOURCES };

struct shared {
    struct omid_module *mod;
    const struct omid_host *host;
    const char *url;
    char *key; /* percent-encoded */
    int64_t cache_ms;
    struct gc_cache *cache;
    struct omid_counter *lookups[SOURCES], *requests[KIT_OUTCOMES], *nothing, *full;
};

/* A question that waits. */
struct waiter {
    struct waiter *next;
    struct omid_ask *ask;
    double latitude, longitude;
    char key[GC_KEY_LEN];
};

struct instance {
    struct omid_instance *inst;
    struct shared *sh;
    struct lookup *lookups;   /* its own, under way */
    struct waiter *elsewhere; /* wait for look-ups of other reactors */
    struct omid_timer *look;
};

struct lookup {
    struct lookup *next;
    struct instance *in;
    struct waiter *waiters; /* at least one */
    char key[GC_KEY_LEN];
    double latitude, longitude; /* of the first question */
    struct omid_http *http;
};

static const struct omid_option options[] = {
    {.name = "url",
     .type = OMID_OPT_STRING,
     .def = "https://maps.googleapis.com/maps/api/geocode/json",
     .min = 1,
     .max = 2048,
     .help = "URL of the service; ?latlng=LAT,LNG&key=KEY is appended."},
    {.name = "key",
     .type = OMID_OPT_SECRET,
     .min = 1,
     .max = 512,
     .flags = OMID_OPT_REQUIRED,
     .help = "The service's API key; better from key_file."},
    {.name = "cache",
     .type = OMID_OPT_INT,
     .def = "10000",
     .min = 1,
     .max = 1000000,
     .help = "Places that are kept in memory; the longest unused one goes for one more."},
    {.name = "cache_time",
     .type = OMID_OPT_DURATION,
     .def = "48h",
     .min = 1000,
     .max = 2592000000.,
     .help = "How long the address of a place is used again, from memory or from the store."},
    {.name = NULL},
};

static const struct omid_lane_defaults lane = {
    .pool = 8, .idle = 4, .semaphore = 8, .connect_timeout_ms = 2000, .timeout_ms = 10000};

/* ---------------------------------------------------------------- configuration */

static void unconfigure(void *shared)
{
    struct shared *sh = shared;
    if (sh == NULL)
        return;
    gc_cache_free(&sh->cache);
    if (sh->key != NULL)
        explicit_bzero(sh->key, strlen(sh->key));
    free(sh->key);
    free(sh);
}

static char *percent_encoded(const char *s)
{
    char *out = malloc(3 * strlen(s) + 1), *at = out;
    for (; out != NULL && *s != '\0'; s++) {
        const unsigned char c = (unsigned char)*s;
        bool plain =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-._~", c) != NULL;
        if (plain)
            *at++ = (char)c;
        else
            at += snprintf(at, 4, "%%%02X", c);
    }
    if (out != NULL)
        *at = '\0';
    return out;
}

static void counters_add(struct shared *sh)
{
    static const char *const sources[SOURCES] = {"memory", "store", "service", "others"};
    for (int i = 0; i < SOURCES; i++)
        sh->lookups[i] =
            sh->host->counter(sh->mod, "lookups", "Questions for an address by where the answer was looked for last.",
                              "from", sources[i]);
    for (int i = 0; i < KIT_OUTCOMES; i++)
        sh->requests[i] = sh->host->counter(sh->mod, "requests", "Requests to the service by what came of them.",
                                            "outcome", kit_outcome_names[i]);
    sh->nothing =
        sh->host->counter(sh->mod, "requests", "Requests to the service by what came of them.", "outcome", "nothing");
    sh->full = sh->host->counter(sh->mod, "full",
                                 "Questions refused because all places of the cache were being "
                                 "looked up.",
                                 NULL, NULL);
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    const char *url = host->conf_str(mod, "url"), *key = host->conf_str(mod, "key");
    const char *fault = url != NULL ? kit_url_fault(url) : "expected a URL";
    if (fault != NULL) {
        host->conf_error(mod, "url", "%s", fault);
        return OMID_EINVAL;
    }
    if (key == NULL || key[0] == '\0') {
        host->conf_error(mod, "key", "expected the service's key");
        return OMID_EINVAL;
    }
    struct shared *sh = calloc(1, sizeof(*sh));
    if (sh == NULL)
        return OMID_ERR;
    sh->mod = mod;
    sh->host = host;
    sh->url = url;
    sh->key = percent_encoded(key);
    sh->cache_ms = host->conf_int(mod, "cache_time");
    sh->cache = gc_cache_new((size_t)host->conf_int(mod, "cache"));
    counters_add(sh);
    if (sh->key == NULL || sh->cache == NULL) {
        unconfigure(sh);
        return OMID_ERR;
    }
    *shared = sh;
    return OMID_OK;
}

/* ---------------------------------------------------------------- answers */

static void answer_place(struct shared *sh, struct omid_ask *ask, double latitude, double longitude,
                         const char *members)
{
    struct kit_text t = {0};
    kit_text_adds(&t, "{\"latitude\":");
    kit_text_add_number(&t, latitude);
    kit_text_adds(&t, ",\"longitude\":");
    kit_text_add_number(&t, longitude);
    kit_text_addf(&t, ",%s}", members);
    const struct omid_answer ok = {
        .size = sizeof(ok), .result = OMID_OK, .mode = "geocoded", .json = t.data, .json_len = t.len};
    const struct omid_answer memory = {.size = sizeof(memory), .result = OMID_ERR, .text = "out of memory"};
    sh->host->answer(&ask, t.failed ? &memory : &ok);
    kit_text_free(&t);
}

static void answer_failure(struct shared *sh, struct omid_ask *ask, int result, const char *text)
{
    const struct omid_answer failed = {.size = sizeof(failed), .result = result, .text = text};
    sh->host->answer(&ask, &failed);
}

/* ---------------------------------------------------------------- a look-up */

/* Ends it: known for whoever asks until ends_ms, or failed. */
static void lookup_end(struct lookup *l, const char *members, int64_t ends_ms, int result, const char *text)
{
    struct instance *in = l->in;
    struct lookup **at = &in->lookups;
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    gc_cache_settle(in->sh->cache, l->key, members, ends_ms, result, text);
    while (l->waiters != NULL) {
        struct waiter *w = l->waiters;
        l->waiters = w->next;
        if (members != NULL)
            answer_place(in->sh, w->ask, w->latitude, w->longitude, members);
        else
            answer_failure(in->sh, w->ask, result, text);
        free(w);
    }
    free(l);
}

static void place_keep(struct instance *in, const char *key, const char *members, int64_t ends_ms)
{
    const struct omid_host *h = in->sh->host;
    char *kept = gc_kept_write(members, ends_ms);
    /* A place that is not kept is looked up again; the host counts what fails. */
    if (kept != NULL && h->kv_put != NULL)
        (void)h->kv_put(in->inst, key, kept, strlen(kept), in->sh->cache_ms, NULL, NULL);
    free(kept);
}

static void on_response(void *arg, const struct omid_http_response *res)
{
    struct lookup *l = arg;
    struct shared *sh = l->in->sh;
    struct kit_fault f = {""};
    char text[200], why[160];
    bool nothing = false;
    char *members = NULL;
    l->http = NULL;
    enum kit_outcome outcome = kit_outcome_of(res, why, sizeof(why));
    if (outcome == KIT_OK && (members = gc_answer_read(res->body, res->body_len, &nothing, &f)) == NULL && !nothing)
        outcome = KIT_BAD_ANSWER;
    sh->host->counter_add(nothing ? sh->nothing : sh->requests[outcome], 1);
    if (members != NULL) {
        int64_t ends = sh->host->wall_ms() + sh->cache_ms;
        place_keep(l->in, l->key, members, ends);
        lookup_end(l, members, ends, OMID_OK, "");
        free(members);
        return;
    }
    snprintf(text, sizeof(text), "geocoding: %s", f.text[0] != '\0' ? f.text : why);
    if (!nothing)
        sh->host->log(sh->mod, OMID_LOG_WARNING, "%s", text);
    lookup_end(l, NULL, 0, nothing ? OMID_ENOTSUP : kit_outcome_result(outcome), text);
}

static void service_ask(struct lookup *l)
{
    struct shared *sh = l->in->sh;
    struct kit_text url = {0};
    char lat[32], lng[32];
    static const char *const headers[] = {"Accept: application/json", NULL};
    gc_degrees(lat, l->latitude);
    gc_degrees(lng, l->longitude);
    kit_text_addf(&url, "%s?latlng=%s,%s&key=", sh->url, lat, lng);
    kit_text_adds(&url, sh->key);
    sh->host->counter_add(sh->lookups[FROM_SERVICE], 1);
    int rc = OMID_ERR;
    if (!url.failed) {
        const struct omid_http_request req = {
            .size = sizeof(req), .method = "GET", .url = url.data, .headers = headers, .max_body = GC_MAX_ANSWER};
        rc = sh->host->http_start(l->in->inst, &req, on_response, l, &l->http);
    }
    kit_text_free(&url);
    if (rc == OMID_OK)
        return;
    sh->host->counter_add(sh->requests[rc == OMID_ECLOSED ? KIT_STOPPED : KIT_BUSY], 1);
    lookup_end(l, NULL, 0, rc, "geocoding: the request could not be made");
}

static void on_kept(void *arg, int result, const void *value, size_t len)
{
    struct lookup *l = arg;
    struct shared *sh = l->in->sh;
    int64_t ends = 0;
    char *members = result == OMID_OK && value != NULL ? gc_kept_read(value, len, &ends) : NULL;
    if (members != NULL && ends > sh->host->wall_ms()) {
        sh->host->counter_add(sh->lookups[FROM_STORE], 1);
        lookup_end(l, members, ends, OMID_OK, "");
    } else {
        service_ask(l);
    }
    free(members);
}

/* ---------------------------------------------------------------- others' look-ups */

static void on_look(void *arg)
{
    struct instance *in = arg;
    struct shared *sh = in->sh;
    struct waiter **at = &in->elsewhere;
    while (*at != NULL) {
        struct waiter *w = *at;
        char text[160], *members = NULL;
        int result;
        enum gc_found found =
            gc_cache_look(sh->cache, w->key, sh->host->wall_ms(), &members, &result, text, sizeof(text));
        if (found == GC_PENDING) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        if (found == GC_KNOWN)
            answer_place(sh, w->ask, w->latitude, w->longitude, members);
        else
            answer_failure(sh, w->ask, result, text);
        free(members);
        free(w);
    }
    if (in->elsewhere == NULL)
        sh->host->timer_stop(&in->look);
}

static int wait_elsewhere(struct instance *in, struct waiter *w)
{
    if (in->look == NULL)
        in->look = in->sh->host->timer_start(in->inst, LOOK_MS, LOOK_MS, on_look, in);
    if (in->look == NULL) {
        free(w);
        return OMID_ERR;
    }
    w->next = in->elsewhere;
    in->elsewhere = w;
    return OMID_OK;
}

/* ---------------------------------------------------------------- the role */

static struct waiter *waiter_new(const char *key, double latitude, double longitude, struct omid_ask *ask)
{
    struct waiter *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return NULL;
    w->ask = ask;
    w->latitude = latitude;
    w->longitude = longitude;
    snprintf(w->key, sizeof(w->key), "%s", key);
    return w;
}

/* It is ours to look up. */
static void lookup_begin(struct instance *in, struct lookup *l)
{
    const struct omid_host *h = in->sh->host;
    l->in = in;
    l->next = in->lookups;
    in->lookups = l;
    if (h->kv_get == NULL || h->kv_get(in->inst, l->key, on_kept, l) != OMID_OK)
        service_ask(l);
}

/* Pending: with us, or on another reactor. */
static int join(struct instance *in, struct waiter *w, const void *owner)
{
    in->sh->host->counter_add(in->sh->lookups[FROM_OTHERS], 1);
    if (owner != in)
        return wait_elsewhere(in, w);
    struct lookup *l = in->lookups;
    while (strcmp(l->key, w->key) != 0)
        l = l->next;
    w->next = l->waiters;
    l->waiters = w;
    return OMID_OK;
}

static int geocode(void *state, double latitude, double longitude, struct omid_ask *ask)
{
    struct instance *in = state;
    struct shared *sh = in->sh;
    char key[GC_KEY_LEN], *members = NULL;
    const void *owner = NULL;
    if (!isfinite(latitude) || !isfinite(longitude) || fabs(latitude) > 90 || fabs(longitude) > 180)
        return OMID_EINVAL;
    gc_key(key, latitude, longitude);
    struct waiter *w = waiter_new(key, latitude, longitude, ask);
    struct lookup *l = calloc(1, sizeof(*l));
    if (w == NULL || l == NULL) {
        free(w);
        free(l);
        return OMID_ERR;
    }
    enum gc_found found = gc_cache_begin(sh->cache, key, in, sh->host->wall_ms(), &members, &owner);
    if (found == GC_BEGUN) {
        snprintf(l->key, sizeof(l->key), "%s", key);
        l->latitude = latitude;
        l->longitude = longitude;
        l->waiters = w;
        lookup_begin(in, l);
        return OMID_OK;
    }
    free(l);
    if (found == GC_PENDING)
        return join(in, w, owner);
    free(w);
    if (found == GC_KNOWN) {
        sh->host->counter_add(sh->lookups[FROM_MEMORY], 1);
        answer_place(sh, ask, latitude, longitude, members);
        free(members);
        return OMID_OK;
    }
    if (found == GC_FULL)
        sh->host->counter_add(sh->full, 1);
    return found == GC_FULL ? OMID_EFULL : OMID_ERR;
}

/* ---------------------------------------------------------------- life */

static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    (void)host;
    struct instance *in = calloc(1, sizeof(*in));
    if (in == NULL)
        return OMID_ERR;
    in->inst = inst;
    in->sh = shared;
    *state = in;
    return OMID_OK;
}

/* Questions that somebody still waits for hold up a stop, by the host; a request for the others does not. */
static void drain(void *state)
{
    const struct instance *in = state;
    in->sh->host->drained(in->inst);
}

static void stop(void *state)
{
    struct instance *in = state;
    const struct omid_host *h = in->sh->host;
    while (in->lookups != NULL) {
        if (in->lookups->http != NULL)
            h->http_cancel(&in->lookups->http);
        lookup_end(in->lookups, NULL, 0, OMID_ECLOSED, "geocoding: the plugin was stopped");
    }
    while (in->elsewhere != NULL) {
        struct waiter *w = in->elsewhere;
        in->elsewhere = w->next;
        answer_failure(in->sh, w->ask, OMID_ECLOSED, "geocoding: the plugin was stopped");
        free(w);
    }
    if (in->look != NULL)
        h->timer_stop(&in->look);
    free(in);
}

static const struct omid_geocode_role role = {.size = sizeof(role), .geocode = geocode};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,       .name = "geocoding",
    .version = "1.0",       .summary = "addresses for coordinates, by Google's Geocoding API",
    .options = options,     .lane = &lane,
    .configure = configure, .unconfigure = unconfigure,
    .start = start,         .drain = drain,
    .stop = stop,           .geocode = &role,
};
