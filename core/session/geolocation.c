#include "session/geolocation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/call.h"
#include "host/ask.h"
#include "session/state.h"
#include "store/places.h"

#define MODULE "geolocation"
#define GEOLOCATION_MAGIC UINT32_C(0x67656f6c)
#define ASK_TIMEOUT_MS 45000 /* the lane's wait for a slot, and a request */
#define MAX_JSON ((size_t)16 << 10)

struct geolocation {
    uint32_t magic;
    struct list link; /* sessions.geolocation */
    struct sessions *ss;
    struct host_ask *ask;
    bool asking_store;
    bool cancelled;         /* the store answers all the same */
    int64_t from_ms, to_ms; /* of the conversation */
    struct store_place place;
    geolocation_cb cb;
    void *arg;
};

/* ---------------------------------------------------------------- fallbacks */

enum reason { FAILED, INVALID, NOTHING, FULL, TIMEOUT, STOPPED, BAD_VALUE, REASONS };

static struct metric *fallback_metric(enum reason why)
{
    static const char *const names[REASONS] = {"failed",  "invalid", "nothing",  "full",
                                               "timeout", "stopped", "bad_value"};
    const struct metric_label labels[] = {{"component", "geocoding"},
                                          {"from_mode", "geocoded"},
                                          {"to_mode", "raw"},
                                          {"reason", names[why]},
                                          {"outcome", "degraded"}};
    return metric_get(METRIC_COUNTER, "omi_fallback_total", "Moves to a fallback, by component and outcome.", labels,
                      ARRAY_LEN(labels), NULL, 0);
}

void geolocation_metrics(void)
{
    for (int why = 0; why < REASONS; why++)
        fallback_metric((enum reason)why);
}

static enum reason reason_of(int result)
{
    switch (result) {
    case OMID_EINVAL:
        return INVALID;
    case OMID_ENOTSUP:
        return NOTHING;
    case OMID_EFULL:
        return FULL;
    case OMID_ETIMEOUT:
        return TIMEOUT;
    case OMID_ECLOSED:
        return STOPPED;
    default:
        return FAILED;
    }
}

/* ---------------------------------------------------------------- a question */

static void geolocation_free(struct geolocation *g)
{
    CHECK_MAGIC(g, GEOLOCATION_MAGIC);
    host_ask_cancel(&g->ask);
    list_remove(&g->link);
    g->magic = OMID_MAGIC_DEAD;
    free(g);
}

static void tell(struct geolocation *g, int result, const char *json)
{
    g->cb(g->arg, result, json);
    geolocation_free(g);
}

static void tell_raw(struct geolocation *g)
{
    struct buf b = BUF_INIT(256);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_knum(&w, "latitude", g->place.latitude);
    json_w_knum(&w, "longitude", g->place.longitude);
    json_w_close(&w, '}');
    bool ok = json_w_end(&w) && b.data != NULL;
    tell(g, ok ? OMID_OK : OMID_ERR, ok ? b.data : "");
    buf_free(&b);
}

/* It becomes part of every conversation's JSON as it stands. */
static bool json_ok(const struct omid_answer *a)
{
    char err[128];
    yajl_val v = a->json ? json_parse(a->json, a->json_len, MAX_JSON, err, sizeof err) : NULL;
    bool ok = YAJL_IS_OBJECT(v) && YAJL_IS_NUMBER(json_get(v, "latitude")) && YAJL_IS_NUMBER(json_get(v, "longitude"));
    json_free(&v);
    return ok;
}

static void on_answer(void *arg, const struct omid_answer *answer)
{
    struct geolocation *g = arg;
    CHECK_MAGIC(g, GEOLOCATION_MAGIC);
    g->ask = NULL;
    bool ok = answer->result == OMID_OK && json_ok(answer);
    if (ok) {
        char *json = strndup(answer->json, answer->json_len);
        tell(g, json ? OMID_OK : OMID_ERR, json ? json : "");
        free(json);
        return;
    }
    enum reason why = answer->result == OMID_OK ? BAD_VALUE : reason_of(answer->result);
    metric_add(fallback_metric(why), 1);
    log_info(MODULE, "a place is kept as coordinates",
             LS("reason", answer->text ? answer->text : "an unusable answer"));
    tell_raw(g);
}

static void on_place(void *arg, int result, const struct store_place *place)
{
    struct geolocation *g = arg;
    CHECK_MAGIC(g, GEOLOCATION_MAGIC);
    g->asking_store = false;
    if (g->cancelled) {
        geolocation_free(g);
        return;
    }
    int64_t away = INT64_MAX;
    if (place)
        away = place->updated_ms < g->from_ms ? g->from_ms - place->updated_ms : place->updated_ms - g->to_ms;
    if (result != OMID_OK || away > (int64_t)g->ss->env.conf->listen.location_age_ms) {
        tell(g, result == OMID_OK ? OMID_OK : OMID_ERR, "");
        return;
    }
    g->place = *place;
    const struct host_question q = {
        .kind = HOST_ASK_GEOCODE, .latitude = place->latitude, .longitude = place->longitude};
    int rc = host_ask(g->ss->env.host, g->ss->env.reactor, &q, ASK_TIMEOUT_MS, on_answer, g, &g->ask);
    if (rc == OMID_OK)
        return;
    if (rc != OMID_ENOTSUP) /* nobody geocodes here: that is no failure */
        metric_add(fallback_metric(FAILED), 1);
    tell_raw(g);
}

int geolocation_resolve(struct sessions *ss, const char *uid, int64_t from_ms, int64_t to_ms, geolocation_cb cb,
                        void *arg, struct geolocation **out)
{
    struct geolocation *g = calloc(1, sizeof *g);
    if (!g)
        return OMID_ERR;
    *g = (struct geolocation){.magic = GEOLOCATION_MAGIC,
                              .ss = ss,
                              .from_ms = from_ms,
                              .to_ms = to_ms,
                              .cb = cb,
                              .arg = arg,
                              .asking_store = true};
    list_append(&ss->geolocation, &g->link);
    int rc = store_place_get(ss->env.store, uid, ss->env.loop, on_place, g);
    if (rc != OMID_OK)
        geolocation_free(g);
    else
        *out = g;
    return rc;
}

void geolocation_cancel(struct geolocation **gp)
{
    struct geolocation *g = *gp;
    *gp = NULL;
    if (!g)
        return;
    if (g->asking_store)
        g->cancelled = true;
    else
        geolocation_free(g);
}

/* ---------------------------------------------------------------- PATCH /v1/users/geolocation */

static bool degrees(yajl_val v, const char *key, double bound, double *out, char *err, size_t errlen)
{
    yajl_val n = json_get(v, key);
    double d = json_num(v, key, 1000);
    if (YAJL_IS_NUMBER(n) && d >= -bound && d <= bound) {
        *out = d;
        return true;
    }
    snprintf(err, errlen, "%s: expected a number from -%g to %g%s", key, bound, bound,
             n == NULL           ? ""
             : YAJL_IS_NUMBER(n) ? ", found one beyond that"
                                 : ", found something else");
    return false;
}

/* Members that are not known are left alone: clients send accuracy, altitude and more. */
static bool patch_parse(const struct channel_request *req, struct store_place *place, char *err, size_t errlen)
{
    char why[160];
    yajl_val v = json_parse(req->body, req->body_len, MAX_JSON, why, sizeof why);
    bool ok = false;
    if (YAJL_IS_OBJECT(v))
        ok = degrees(v, "latitude", 90, &place->latitude, err, errlen) &&
             degrees(v, "longitude", 180, &place->longitude, err, errlen);
    else
        snprintf(err, errlen, "body: expected a JSON object%s%s", v ? "" : ", ", v ? "" : why);
    json_free(&v);
    return ok;
}

static void on_set(void *arg, int result)
{
    static const char done[] = "{\"status\":\"ok\"}";
    struct call *c = arg;
    if (result == OMID_OK)
        call_answer(c, 200, done, sizeof done - 1);
    else
        call_failed(c, result, "the store failed");
}

static void patch_opened(struct channel *ch)
{
    struct call *c = call_begin(ch, sizeof *c, NULL);
    struct store_place place = {.updated_ms = clock_wall_ms()};
    char err[256];
    if (!c)
        return;
    if (!patch_parse(channel_request(ch), &place, err, sizeof err)) {
        call_error(c, 400, "%s", err);
        return;
    }
    struct sessions *ss = sessions_of_channel(ch);
    call_await(c, store_place_set(ss->env.store, channel_request(ch)->uid, &place, ss->env.loop, on_set, c));
}

static const struct route patch_route = {
    .path = "/v1/users/geolocation", .method = "PATCH", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(patch_opened)};

bool geolocation_route_add(struct routes *routes, struct sessions **all)
{
    return routes_add_all(routes, &patch_route, 1, all);
}

void geolocation_free_all(struct sessions *ss)
{
    struct list *it;
    while ((it = ss->geolocation.next) != &ss->geolocation)
        geolocation_free(list_entry(it, struct geolocation, link));
}
