#include "admin/day.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/magic.h"
#include "base/zone.h"
#include "bus/call.h"
#include "session/days.h"

#define MAX_BODY ((size_t)64 << 10)
#define MAX_UID 1024

struct day_call {
    struct call call;
    char uid[MAX_UID + 1], date[ZONE_DATE_SIZE], timezone[ZONE_MAX_NAME + 1];
    bool timezone_given;
};

static struct sessions **sessions_all(const struct day_call *c)
{
    return channel_route(c->call.ch)->arg;
}

/* An object, or answered with 400. */
static yajl_val body_parse(struct call *c)
{
    const struct channel_request *req = call_request(c);
    char why[160];
    yajl_val v = json_parse(req->body, req->body_len, MAX_BODY, why, sizeof why);
    if (YAJL_IS_OBJECT(v))
        return v;
    bool json = v != NULL;
    json_free(&v);
    if (json)
        call_error(c, 400, "body: expected a JSON object");
    else
        call_error(c, 400, "body: expected a JSON object: %s", why);
    return NULL;
}

/* A string, or absent (""): false: another type, or too long. */
static bool string_member(yajl_val v, const char *key, char *out, size_t size)
{
    yajl_val m = json_get(v, key);
    const char *s = m == NULL ? "" : json_str(v, key);
    return s && (size_t)snprintf(out, size, "%s", s) < size;
}

/* ---------------------------------------------------------------- POST /v1/admin/day-summary */

static void on_day(void *arg, const struct days_answer *a)
{
    struct day_call *c = arg;
    if (!call_wanted(&c->call))
        return;
    if (a->result == OMID_EINVAL) {
        call_error(&c->call, 400, "%s", a->text);
        return;
    }
    if (a->result != OMID_OK && a->result != OMID_ENOTSUP) {
        if (a->result == OMID_EFULL)
            call_error(&c->call, 409, "%s", a->text);
        else
            call_failed(&c->call, a->result, a->text);
        return;
    }
    struct buf b = BUF_INIT(0);
    struct json_w w;
    char created[32];
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "uid", c->uid);
    json_w_kstr(&w, "date", a->date);
    json_w_kstr(&w, "timezone", a->timezone);
    json_w_kbool(&w, "sent", a->result == OMID_OK && !a->already);
    if (a->result != OMID_OK || a->already)
        json_w_kstr(&w, "reason", a->already ? "it was sent before" : a->text);
    if (a->summary) {
        clock_format_utc(a->created_ms, created);
        json_w_kstr(&w, "created_at", created);
        json_w_key(&w, "summary_json");
        json_w_raw(&w, a->summary, strlen(a->summary));
    }
    json_w_close(&w, '}');
    call_json(&c->call, 200, &w, &b);
}

static void day_ask(struct day_call *c)
{
    const char *timezone = c->timezone_given ? c->timezone : NULL;
    call_await(&c->call, days_ask(sessions_all(c), c->uid, c->date, timezone, call_loop(&c->call), on_day, c));
}

/* A time zone that is named here is the user's from now on. */
static void on_zone_kept(void *arg, const struct days_settings_answer *a)
{
    struct day_call *c = arg;
    if (!call_wanted(&c->call))
        return;
    if (a->result == OMID_EINVAL)
        call_error(&c->call, 400, "%s", a->text);
    else if (a->result != OMID_OK)
        call_failed(&c->call, a->result, "the store failed");
    else
        day_ask(c);
}

static bool day_parse(struct day_call *c, yajl_val v, const char **fault)
{
    int64_t day;
    *fault = NULL;
    if (!string_member(v, "uid", c->uid, sizeof c->uid) || c->uid[0] == '\0')
        *fault = "uid: expected a text of 1 to 1024 bytes";
    else if (!string_member(v, "date", c->date, sizeof c->date) || (c->date[0] && !zone_date_parse(c->date, &day)))
        *fault = "date: expected a date like 2026-01-31";
    else if (!string_member(v, "timezone", c->timezone, sizeof c->timezone) ||
             (c->timezone[0] && !zone_name_ok(c->timezone)))
        *fault = "timezone: expected a name like Europe/Berlin";
    c->timezone_given = c->timezone[0] != '\0';
    return *fault == NULL;
}

static void day_opened(struct channel *ch)
{
    struct day_call *c = call_begin(ch, sizeof *c, NULL);
    yajl_val v = c ? body_parse(&c->call) : NULL;
    const char *fault;
    if (!v)
        return;
    bool ok = day_parse(c, v, &fault);
    json_free(&v);
    if (!ok) {
        call_error(&c->call, 400, "%s", fault);
    } else if (!c->timezone_given) {
        day_ask(c);
    } else {
        const struct days_settings to = {.timezone = c->timezone};
        call_await(&c->call, days_settings(sessions_all(c), c->uid, DAYS_SET_TIMEZONE, &to, call_loop(&c->call),
                                           on_zone_kept, c));
    }
}

/* ---------------------------------------------------------------- /v1/users/day-summary */

static void settings_json(struct json_w *w, const struct days_settings *s)
{
    char at[8];
    json_w_open(w, '{');
    json_w_kstr(w, "timezone", s->timezone);
    snprintf(at, sizeof at, "%02d:%02d", s->at / 60 % 24, s->at % 60);
    json_w_kstr(w, "at", s->at >= 0 ? at : NULL);
    json_w_key(w, "enabled");
    if (s->enabled >= 0)
        json_w_bool(w, s->enabled != 0);
    else
        json_w_null(w);
    json_w_close(w, '}');
}

static void on_settings(void *arg, const struct days_settings_answer *a)
{
    struct day_call *c = arg;
    if (!call_wanted(&c->call))
        return;
    if (a->result == OMID_EINVAL) {
        call_error(&c->call, 400, "timezone: %s", a->text);
        return;
    }
    if (a->result != OMID_OK) {
        call_failed(&c->call, a->result, "the store failed");
        return;
    }
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_key(&w, "settings");
    settings_json(&w, &a->user);
    json_w_key(&w, "effective");
    settings_json(&w, &a->effective);
    json_w_close(&w, '}');
    call_json(&c->call, 200, &w, &b);
}

static void settings_ask(struct day_call *c, unsigned set, const struct days_settings *to)
{
    const char *uid = call_request(&c->call)->uid;
    call_await(&c->call, days_settings(sessions_all(c), uid, set, to, call_loop(&c->call), on_settings, c));
}

static void get_opened(struct channel *ch)
{
    static const struct days_settings none;
    struct day_call *c = call_begin(ch, sizeof *c, NULL);
    if (c)
        settings_ask(c, 0, &none);
}

/* null: what the configuration says. */
static bool patch_parse(struct day_call *c, yajl_val v, unsigned *set, struct days_settings *to, const char **fault)
{
    yajl_val zone = json_get(v, "timezone"), at = json_get(v, "at"), enabled = json_get(v, "enabled");
    *fault = NULL;
    *to = (struct days_settings){.at = -1, .enabled = -1};
    *set = (zone ? DAYS_SET_TIMEZONE : 0) | (at ? DAYS_SET_AT : 0) | (enabled ? DAYS_SET_ENABLED : 0);
    if (zone && !YAJL_IS_NULL(zone)) {
        to->timezone = c->timezone;
        if (!string_member(v, "timezone", c->timezone, sizeof c->timezone) || !zone_name_ok(c->timezone))
            *fault = "timezone: expected a name like Europe/Berlin, or null";
    }
    const char *text = json_str(v, "at");
    if (at && !YAJL_IS_NULL(at) && (!text || (to->at = days_minutes(text)) < 0))
        *fault = "at: expected a time from 00:00 to 23:59, or null";
    if (enabled && !YAJL_IS_NULL(enabled)) {
        to->enabled = json_bool(v, "enabled", false);
        if (!YAJL_IS_TRUE(enabled) && !YAJL_IS_FALSE(enabled))
            *fault = "enabled: expected true, false or null";
    }
    if (!*fault && *set == 0)
        *fault = "body: expected timezone, at or enabled";
    return *fault == NULL;
}

static void patch_opened(struct channel *ch)
{
    struct day_call *c = call_begin(ch, sizeof *c, NULL);
    yajl_val v = c ? body_parse(&c->call) : NULL;
    struct days_settings to;
    const char *fault;
    unsigned set;
    if (!v)
        return;
    bool ok = patch_parse(c, v, &set, &to, &fault);
    json_free(&v);
    if (ok)
        settings_ask(c, set, &to);
    else
        call_error(&c->call, 400, "%s", fault);
}

static const struct route day_routes[] = {
    {.path = "/v1/admin/day-summary", .method = "POST", .auth = ROUTE_ADMIN, .handler = CALL_HANDLER(day_opened)},
    {.path = "/v1/users/day-summary", .method = "GET", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(get_opened)},
    {.path = "/v1/users/day-summary", .method = "PATCH", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(patch_opened)},
};

bool day_routes_add(struct routes *routes, struct sessions **all)
{
    return routes_add_all(routes, day_routes, ARRAY_LEN(day_routes), all);
}
