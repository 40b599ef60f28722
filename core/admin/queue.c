/*
 * /v1/admin/dead, /v1/admin/replays, /v1/admin/deliveries. A request is taken by a reactor, the queue's own thread does
 * the work, and the answer comes back to that reactor.
 */
#include "admin/queue.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/magic.h"
#include "base/query.h"
#include "base/utf8.h"
#include "bus/call.h"
#include "lane/queue/queue.h"

#define LIMIT_DEFAULT 100
#define FAILED "the queue's file failed; see /readyz"

struct queue_call {
    struct call call;
    struct queue *q;
    struct query query;
    bool parsed;
    struct queue_filter filter; /* strings of query */
    size_t limit;
    uint64_t before, after, id;
    int64_t before_ms;
    uint32_t rate;
    enum queue_sweep_action action;
    bool all, has_id;
};

static void call_drop(struct call *c)
{
    struct queue_call *r = container_of(c, struct queue_call, call);
    if (r->parsed)
        query_free(&r->query);
}

/* ---------------------------------------------------------------- what is asked for */

static bool number(const char *name, const char *text, uint64_t min, uint64_t max, uint64_t *out, char *err,
                   size_t errlen)
{
    size_t len = strlen(text);
    if (len > 0 && len <= 18 && strspn(text, "0123456789") == len) {
        *out = strtoull(text, NULL, 10);
        if (*out >= min && *out <= max)
            return true;
    }
    snprintf(err, errlen, "%s: expected a number from %llu to %llu, found \"%.32s\"", name, (unsigned long long)min,
             (unsigned long long)max, text);
    return false;
}

static bool boolean(const char *name, const char *text, bool *out, char *err, size_t errlen)
{
    *out = strcmp(text, "true") == 0;
    if (*out || strcmp(text, "false") == 0)
        return true;
    snprintf(err, errlen, "%s: expected true or false, found \"%.32s\"", name, text);
    return false;
}

/* "MS-ID", as an answer's "next" had it. */
static bool cursor(struct queue_call *r, const char *text, char *err, size_t errlen)
{
    unsigned long long ms, id;
    int end = 0;
    if (strlen(text) <= 40 && sscanf(text, "%llu-%llu%n", &ms, &id, &end) == 2 && text[end] == '\0' &&
        ms <= INT64_MAX && id <= INT64_MAX) {
        r->before_ms = (int64_t)ms;
        r->before = id;
        return true;
    }
    snprintf(err, errlen, "before: expected what an answer's \"next\" said, found \"%.48s\"", text);
    return false;
}

#define MAX_MS UINT64_C(99999999999999)

static bool take(struct queue_call *r, const char *name, const char *value, char *err, size_t errlen)
{
    uint64_t n = 0;
    bool ok = true;
    if (strcmp(name, "plugin") == 0) {
        r->filter.owner = value;
    } else if (strcmp(name, "type") == 0) {
        r->filter.type = value;
    } else if (strcmp(name, "target") == 0 || strcmp(name, "endpoint") == 0) {
        r->filter.target = value;
    } else if (strcmp(name, "error") == 0) {
        r->filter.error = value;
    } else if (strcmp(name, "from") == 0) {
        ok = number(name, value, 0, MAX_MS, &n, err, errlen);
        r->filter.from_ms = (int64_t)n;
    } else if (strcmp(name, "to") == 0) {
        ok = number(name, value, 1, MAX_MS, &n, err, errlen);
        r->filter.to_ms = (int64_t)n;
    } else if (strcmp(name, "failed") == 0) {
        ok = boolean(name, value, &r->filter.failed, err, errlen);
    } else if (strcmp(name, "limit") == 0) {
        ok = number(name, value, 1, QUEUE_MAX_PAGE, &n, err, errlen);
        r->limit = n;
    } else if (strcmp(name, "after") == 0) {
        ok = number(name, value, 0, INT64_MAX, &r->after, err, errlen);
    } else if (strcmp(name, "before") == 0) {
        ok = cursor(r, value, err, errlen);
    } else if (strcmp(name, "id") == 0) {
        ok = number(name, value, 1, INT64_MAX, &r->id, err, errlen);
        r->has_id = true;
    } else if (strcmp(name, "rate") == 0) {
        ok = number(name, value, 1, 100000, &n, err, errlen);
        r->rate = (uint32_t)n;
    } else {
        ok = boolean(name, value, &r->all, err, errlen);
    }
    return ok;
}

/* known: names with commas around each. What is not among them is refused: a misspelt filter must not mean all. */
static bool parse(struct queue_call *r, const char *known, char *err, size_t errlen)
{
    const char *text = call_request(&r->call)->query;
    if (!query_parse(&r->query, text, strlen(text), err, errlen))
        return false;
    r->parsed = true;
    r->limit = LIMIT_DEFAULT;
    for (size_t i = 0; i < r->query.n; i++) {
        const struct query_param *p = &r->query.params[i];
        char name[32];
        snprintf(name, sizeof(name), ",%.20s,", p->name);
        if (strlen(p->name) > 20 || strchr(p->name, ',') != NULL || strstr(known, name) == NULL) {
            snprintf(err, errlen, "unknown parameter \"%.64s\"", p->name);
            return false;
        }
        if (!take(r, p->name, p->value, err, errlen))
            return false;
    }
    return true;
}

/* NULL: answered. */
static struct queue_call *begin(struct channel *ch, const char *known)
{
    struct queue_call *r = call_begin(ch, sizeof(*r), call_drop);
    char err[256];
    if (r == NULL)
        return NULL;
    r->q = channel_route(ch)->arg;
    if (parse(r, known, err, sizeof(err)))
        return r;
    call_error(&r->call, 400, "%s", err);
    return NULL;
}

/* The id in the path. false: answered. */
static bool path_id(struct queue_call *r, const char *what)
{
    char err[128];
    const char *id = call_request(&r->call)->params[0];
    if (id != NULL && number("id", id, 1, INT64_MAX, &r->id, err, sizeof(err)))
        return true;
    call_error(&r->call, 404, "id: there is no such %s", what);
    return false;
}

/* false: the client has left, or it is answered. */
static bool back(struct queue_call *r, int result)
{
    if (!call_wanted(&r->call))
        return false;
    if (result == OMID_OK)
        return true;
    call_failed(&r->call, result, FAILED);
    return false;
}

/* ---------------------------------------------------------------- dead letters */

static void dead_json(struct json_w *w, const struct queue_dead *d)
{
    json_w_kint(w, "id", (int64_t)d->id);
    json_w_kstr(w, "plugin", d->owner);
    json_w_kstr(w, "type", d->type);
    json_w_kstr(w, "name", d->name);
    json_w_kstr(w, "target", d->target);
    json_w_kbool(w, "ordered", d->ordered);
    json_w_kint(w, "attempts", d->attempts);
    json_w_kstr(w, "error", d->error);
    json_w_kint(w, "created_ms", d->created_ms);
    json_w_kint(w, "died_ms", d->died_ms);
    json_w_kint(w, "bytes", (int64_t)d->payload_len);
}

static void on_list(void *arg, int result, const struct queue_dead *item, size_t n)
{
    struct queue_call *r = arg;
    struct buf out = BUF_INIT(0);
    struct json_w w;
    struct queue_counts c;
    char next[48] = "";
    if (!back(r, result))
        return;
    queue_counts(r->q, &c);
    json_w_start(&w, &out);
    json_w_open(&w, '{');
    json_w_key(&w, "dead");
    json_w_open(&w, '[');
    for (size_t i = 0; i < n; i++) {
        json_w_open(&w, '{');
        dead_json(&w, &item[i]);
        json_w_close(&w, '}');
    }
    json_w_close(&w, ']');
    if (n == r->limit)
        snprintf(next, sizeof(next), "%lld-%llu", (long long)item[n - 1].died_ms, (unsigned long long)item[n - 1].id);
    json_w_kstr(&w, "next", n == r->limit ? next : NULL);
    json_w_kint(&w, "total", (int64_t)c.dead);
    json_w_close(&w, '}');
    call_json(&r->call, 200, &w, &out);
}

static void list_opened(struct channel *ch)
{
    struct queue_call *r = begin(ch, ",plugin,type,target,endpoint,error,from,to,limit,before,");
    if (r == NULL)
        return;
    const struct queue_dead before = {.id = r->before, .died_ms = r->before_ms};
    call_await(&r->call, queue_dead_list(r->q, &r->filter, r->before > 0 ? &before : NULL, r->limit,
                                         call_loop(&r->call), on_list, r));
}

static void payload_json(struct json_w *w, const struct queue_dead *d)
{
    const char *payload = d->payload;
    if (utf8_valid(payload, d->payload_len) && memchr(payload, '\0', d->payload_len) == NULL) {
        json_w_key(w, "payload");
        json_w_strn(w, payload, d->payload_len);
        return;
    }
    struct buf text = BUF_INIT(0);
    bool ok = base64_encode(payload, d->payload_len, &text);
    json_w_key(w, "payload_base64");
    json_w_strn(w, ok ? text.data : "", ok ? text.len : 0);
    buf_free(&text);
}

static void on_show(void *arg, int result, const struct queue_dead *item, size_t n)
{
    struct queue_call *r = arg;
    struct buf out = BUF_INIT(0);
    struct json_w w;
    if (!back(r, result))
        return;
    if (n == 0) {
        call_error(&r->call, 404, "id: there is no such dead letter");
        return;
    }
    json_w_start(&w, &out);
    json_w_open(&w, '{');
    dead_json(&w, item);
    payload_json(&w, item);
    json_w_close(&w, '}');
    call_json(&r->call, 200, &w, &out);
}

static void show_opened(struct channel *ch)
{
    struct queue_call *r = begin(ch, "");
    if (r == NULL || !path_id(r, "dead letter"))
        return;
    call_await(&r->call, queue_dead_show(r->q, r->id, call_loop(&r->call), on_show, r));
}

/* ---------------------------------------------------------------- replays and drops */

static void on_one(void *arg, int result)
{
    struct queue_call *r = arg;
    struct buf out = BUF_INIT(0);
    struct json_w w;
    if (!call_wanted(&r->call))
        return;
    if (result == OMID_ENOTSUP) {
        call_error(&r->call, 404, "id: there is no such dead letter");
    } else if (result == OMID_EFULL) {
        call_error(&r->call, 503, "the queue is full; there may be room in %u s", queue_retry_after_s(r->q));
    } else if (result != OMID_OK) {
        call_failed(&r->call, result, FAILED);
    } else {
        json_w_start(&w, &out);
        json_w_open(&w, '{');
        json_w_kint(&w, r->action == QUEUE_REPLAY ? "replayed" : "dropped", 1);
        json_w_close(&w, '}');
        call_json(&r->call, 200, &w, &out);
    }
}

static const char *const actions[] = {[QUEUE_REPLAY] = "replay", [QUEUE_DROP] = "drop"};
static const char *const states[] = {
    [QUEUE_SWEEP_RUNNING] = "running", [QUEUE_SWEEP_DONE] = "done", [QUEUE_SWEEP_CANCELLED] = "cancelled"};

static void on_begun(void *arg, int result, uint64_t id)
{
    struct queue_call *r = arg;
    struct buf out = BUF_INIT(0);
    struct json_w w;
    if (!call_wanted(&r->call))
        return;
    if (result == OMID_EFULL) {
        call_error(&r->call, 409, "too many replays and drops run already; see /v1/admin/replays");
        return;
    }
    if (result != OMID_OK) {
        call_failed(&r->call, result, FAILED);
        return;
    }
    json_w_start(&w, &out);
    json_w_open(&w, '{');
    json_w_kint(&w, "id", (int64_t)id);
    json_w_kstr(&w, "action", actions[r->action]);
    json_w_kstr(&w, "state", states[QUEUE_SWEEP_RUNNING]);
    json_w_close(&w, '}');
    call_json(&r->call, 202, &w, &out);
}

static void many_or_one(struct queue_call *r, enum queue_sweep_action action)
{
    const struct queue_filter *f = &r->filter;
    bool filtered =
        f->owner != NULL || f->type != NULL || f->target != NULL || f->error != NULL || f->from_ms > 0 || f->to_ms > 0;
    r->action = action;
    if ((int)r->has_id + (int)r->all + (int)filtered != 1) {
        call_error(&r->call, 400, "expected either id, or a filter, or all=true");
        return;
    }
    if (!r->has_id)
        call_await(&r->call, queue_sweep_begin(r->q, action, f, r->rate, call_loop(&r->call), on_begun, r));
    else if (action == QUEUE_REPLAY)
        call_await(&r->call, queue_dead_replay(r->q, r->id, call_loop(&r->call), on_one, r));
    else
        call_await(&r->call, queue_dead_drop(r->q, r->id, call_loop(&r->call), on_one, r));
}

#define WHICH ",id,all,plugin,type,target,endpoint,error,from,to,rate,"

static void replay_opened(struct channel *ch)
{
    struct queue_call *r = begin(ch, WHICH);
    if (r != NULL)
        many_or_one(r, QUEUE_REPLAY);
}

static void drop_opened(struct channel *ch)
{
    struct queue_call *r = begin(ch, WHICH);
    if (r != NULL)
        many_or_one(r, QUEUE_DROP);
}

static void sweep_json(struct json_w *w, const struct queue_sweep *s)
{
    json_w_open(w, '{');
    json_w_kint(w, "id", (int64_t)s->id);
    json_w_kstr(w, "action", actions[s->action]);
    json_w_kstr(w, "state", states[s->state]);
    json_w_kstr(w, "plugin", s->filter.owner);
    json_w_kstr(w, "type", s->filter.type);
    json_w_kstr(w, "target", s->filter.target);
    json_w_kstr(w, "error", s->filter.error);
    json_w_kint(w, "from", s->filter.from_ms);
    json_w_kint(w, "to", s->filter.to_ms);
    json_w_kint(w, "per_second", s->per_s);
    json_w_kint(w, "created_ms", s->created_ms);
    json_w_kint(w, "ended_ms", s->ended_ms);
    json_w_kint(w, "total", (int64_t)s->total);
    json_w_kint(w, "seen", (int64_t)s->seen);
    json_w_kint(w, "done", (int64_t)s->done);
    json_w_close(w, '}');
}

static void on_sweeps(void *arg, int result, const struct queue_sweep *item, size_t n)
{
    struct queue_call *r = arg;
    struct buf out = BUF_INIT(0);
    struct json_w w;
    if (!back(r, result))
        return;
    json_w_start(&w, &out);
    if (!r->has_id) {
        json_w_open(&w, '{');
        json_w_key(&w, "replays");
        json_w_open(&w, '[');
        for (size_t i = 0; i < n; i++)
            sweep_json(&w, &item[i]);
        json_w_close(&w, ']');
        json_w_close(&w, '}');
        call_json(&r->call, 200, &w, &out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (item[i].id == r->id) {
            sweep_json(&w, &item[i]);
            call_json(&r->call, 200, &w, &out);
            return;
        }
    }
    (void)json_w_end(&w);
    buf_free(&out);
    call_error(&r->call, 404, "id: there is no such replay");
}

static void sweeps_opened(struct channel *ch)
{
    struct queue_call *r = begin(ch, "");
    if (r == NULL)
        return;
    call_await(&r->call, queue_sweep_list(r->q, call_loop(&r->call), on_sweeps, r));
}

static void sweep_opened(struct channel *ch)
{
    struct queue_call *r = begin(ch, "");
    if (r == NULL || !path_id(r, "replay"))
        return;
    r->has_id = true;
    call_await(&r->call, queue_sweep_list(r->q, call_loop(&r->call), on_sweeps, r));
}

static void on_cancelled(void *arg, int result)
{
    struct queue_call *r = arg;
    struct buf out = BUF_INIT(0);
    struct json_w w;
    if (result == OMID_ENOTSUP) {
        if (call_wanted(&r->call))
            call_error(&r->call, 404, "id: no such replay runs");
        return;
    }
    if (!back(r, result))
        return;
    json_w_start(&w, &out);
    json_w_open(&w, '{');
    json_w_kint(&w, "id", (int64_t)r->id);
    json_w_kstr(&w, "state", states[QUEUE_SWEEP_CANCELLED]);
    json_w_close(&w, '}');
    call_json(&r->call, 200, &w, &out);
}

static void cancel_opened(struct channel *ch)
{
    struct queue_call *r = begin(ch, "");
    if (r == NULL || !path_id(r, "replay"))
        return;
    call_await(&r->call, queue_sweep_cancel(r->q, r->id, call_loop(&r->call), on_cancelled, r));
}

/* ---------------------------------------------------------------- deliveries */

static const char *const ended[] = {[QUEUE_ENDED_DONE] = "done",
                                    [QUEUE_ENDED_RETRY] = "retry",
                                    [QUEUE_ENDED_DEAD] = "dead",
                                    [QUEUE_ENDED_EXPIRED] = "expired"};

static void delivery_json(struct json_w *w, const struct queue_delivery *d)
{
    json_w_open(w, '{');
    json_w_kint(w, "id", (int64_t)d->id);
    json_w_kint(w, "time_ms", d->time_ms);
    json_w_kint(w, "job", (int64_t)d->job);
    json_w_kstr(w, "plugin", d->owner);
    json_w_kstr(w, "type", d->type);
    json_w_kstr(w, "name", d->name);
    json_w_kstr(w, "target", d->target);
    json_w_kstr(w, "endpoint", d->endpoint[0] != '\0' ? d->endpoint : d->target);
    json_w_kint(w, "attempt", d->attempt);
    json_w_kstr(w, "outcome", (size_t)d->ended < sizeof(ended) / sizeof(ended[0]) ? ended[d->ended] : "unknown");
    json_w_kint(w, "status", d->status);
    json_w_kint(w, "elapsed_ms", d->elapsed_ms);
    json_w_kstr(w, "error", d->error);
    json_w_key(w, "answer");
    json_w_strn(w, d->answer, d->answer_len);
    json_w_close(w, '}');
}

static void on_deliveries(void *arg, int result, const struct queue_delivery *item, size_t n)
{
    struct queue_call *r = arg;
    struct buf out = BUF_INIT(0);
    struct json_w w;
    char next[48] = "";
    if (!back(r, result))
        return;
    json_w_start(&w, &out);
    json_w_open(&w, '{');
    json_w_key(&w, "deliveries");
    json_w_open(&w, '[');
    for (size_t i = 0; i < n; i++)
        delivery_json(&w, &item[i]);
    json_w_close(&w, ']');
    if (n == r->limit)
        snprintf(next, sizeof(next), "%lld-%llu", (long long)item[n - 1].time_ms, (unsigned long long)item[n - 1].id);
    json_w_kstr(&w, "next", n == r->limit ? next : NULL);
    json_w_close(&w, '}');
    call_json(&r->call, 200, &w, &out);
}

static void deliveries_opened(struct channel *ch)
{
    struct queue_call *r = begin(ch, ",failed,plugin,type,target,endpoint,error,from,to,limit,before,after,");
    if (r == NULL)
        return;
    call_await(&r->call, queue_deliveries(r->q, &r->filter, r->before, r->after, r->limit, call_loop(&r->call),
                                          on_deliveries, r));
}

/* ---------------------------------------------------------------- routes */

static const struct route queue_routes[] = {
    {.path = "/v1/admin/dead", .method = "GET", .auth = ROUTE_ADMIN, .handler = CALL_HANDLER(list_opened)},
    {.path = "/v1/admin/dead/{id}", .method = "GET", .auth = ROUTE_ADMIN, .handler = CALL_HANDLER(show_opened)},
    {.path = "/v1/admin/dead/replay", .method = "POST", .auth = ROUTE_ADMIN, .handler = CALL_HANDLER(replay_opened)},
    {.path = "/v1/admin/dead/drop", .method = "POST", .auth = ROUTE_ADMIN, .handler = CALL_HANDLER(drop_opened)},
    {.path = "/v1/admin/replays", .method = "GET", .auth = ROUTE_ADMIN, .handler = CALL_HANDLER(sweeps_opened)},
    {.path = "/v1/admin/replays/{id}", .method = "GET", .auth = ROUTE_ADMIN, .handler = CALL_HANDLER(sweep_opened)},
    {.path = "/v1/admin/replays/{id}", .method = "DELETE", .auth = ROUTE_ADMIN, .handler = CALL_HANDLER(cancel_opened)},
    {.path = "/v1/admin/deliveries", .method = "GET", .auth = ROUTE_ADMIN, .handler = CALL_HANDLER(deliveries_opened)},
};

bool queue_routes_add(struct routes *routes, struct queue *q)
{
    return routes_add_all(routes, queue_routes, ARRAY_LEN(queue_routes), q);
}
