#include "session/geolocation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
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

#define PATCH_MAGIC UINT32_C(0x67656f70)

struct patch {
    uint32_t magic;
    struct list link;   /* sessions.geolocation_patch */
    struct channel *ch; /* NULL: the client has left */
    bool working;       /* the store will answer */
};

static void patch_free(struct patch *p)
{
    CHECK_MAGIC(p, PATCH_MAGIC);
    if (p->ch)
        channel_drop(&p->ch);
    list_remove(&p->link);
    p->magic = OMID_MAGIC_DEAD;
    free(p);
}

static void answer_error(struct channel *ch, int status, const char *text)
{
    struct buf b = BUF_INIT(1024);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "error", text);
    json_w_close(&w, '}');
    bool ok = json_w_end(&w);
    (void)channel_down_response(ch, status, NULL, ok ? b.data : "", ok ? b.len : 0);
    buf_free(&b);
}

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
    struct patch *p = arg;
    CHECK_MAGIC(p, PATCH_MAGIC);
    if (p->ch && result == OMID_OK)
        (void)channel_down_response(p->ch, 200, NULL, done, sizeof done - 1);
    else if (p->ch)
        answer_error(p->ch, 500, "the store failed");
    patch_free(p);
}

static void patch_opened(struct channel *ch)
{
    struct sessions *ss = sessions_of_channel(ch);
    struct store_place place = {.updated_ms = clock_wall_ms()};
    char err[256];
    if (!patch_parse(channel_request(ch), &place, err, sizeof err)) {
        answer_error(ch, 400, err);
        channel_drop(&ch);
        return;
    }
    struct patch *p = calloc(1, sizeof *p);
    int rc = OMID_EFULL;
    if (p) {
        *p = (struct patch){.magic = PATCH_MAGIC, .ch = ch};
        list_append(&ss->geolocation_patch, &p->link);
        channel_set_user(ch, p);
        rc = store_place_set(ss->env.store, channel_request(ch)->uid, &place, ss->env.loop, on_set, p);
    }
    if (rc == OMID_OK)
        return;
    answer_error(ch, rc == OMID_ERR ? 500 : 503, rc == OMID_ERR ? "the store failed" : "overloaded, try again later");
    if (p)
        patch_free(p);
    else
        channel_drop(&ch);
}

static void patch_closed(struct channel *ch, uint16_t code)
{
    (void)code;
    struct patch *p = channel_user(ch);
    CHECK_MAGIC(p, PATCH_MAGIC);
    channel_drop(&p->ch); /* the store answers all the same */
}

bool geolocation_route_add(struct routes *routes, struct sessions **all)
{
    static const struct channel_handler handler = {.opened = patch_opened, .closed = patch_closed};
    const struct route r = {
        .path = "/v1/users/geolocation", .method = "PATCH", .auth = ROUTE_TOKEN, .handler = &handler, .arg = all};
    return routes_add(routes, &r);
}

void geolocation_free_all(struct sessions *ss)
{
    struct list *it;
    while ((it = ss->geolocation.next) != &ss->geolocation)
        geolocation_free(list_entry(it, struct geolocation, link));
    while ((it = ss->geolocation_patch.next) != &ss->geolocation_patch)
        patch_free(list_entry(it, struct patch, link));
}
