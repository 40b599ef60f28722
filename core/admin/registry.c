/* /v1/admin/apps and /v1/admin/webhooks. */
#include "admin/registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/magic.h"
#include "base/query.h"
#include "bus/call.h"
#include "host/ask.h"

#define MODULE "admin"
#define PAGE 100

struct reg_call {
    struct call call;
    struct registry_api *api;
    bool app;
    char id[REGISTRY_MAX_ID + 1];
    char uid[REGISTRY_MAX_UID + 1];   /* "": all */
    char secret[REGISTRY_MAX_SECRET]; /* to be shown, once; "": none */
    bool on;
    int status; /* of success */
};

static void reg_drop(struct call *c)
{
    struct reg_call *r = container_of(c, struct reg_call, call);
    explicit_bzero(r->secret, sizeof(r->secret));
}

static const char *kind_name(const struct reg_call *r)
{
    return r->app ? "app" : "webhook";
}

static struct reg_call *reg_begin(struct channel *ch)
{
    const struct registry_place *p = channel_route(ch)->arg;
    struct reg_call *r = call_begin(ch, sizeof(*r), reg_drop);
    if (r != NULL) {
        r->api = p->api;
        r->app = p->app;
        r->status = 200;
    }
    return r;
}

static void reg_none(struct reg_call *r)
{
    call_error(&r->call, 404, "id: there is no such %s", kind_name(r));
}

/* With the id of the path, in *e what is registered. NULL: answered. */
static struct reg_call *reg_begin_one(struct channel *ch, struct registry_entry **e)
{
    struct reg_call *r = reg_begin(ch);
    const char *id = channel_request(ch)->params[0];
    *e = NULL;
    if (r == NULL)
        return NULL;
    if (id != NULL && registry_id_ok(id)) {
        snprintf(r->id, sizeof(r->id), "%s", id);
        *e = registry_get(r->api->registry, r->app, id, NULL);
    }
    if (*e != NULL)
        return r;
    reg_none(r);
    return NULL;
}

/* false: answered. */
static bool body_fits(struct reg_call *r)
{
    if (call_request(&r->call)->body_len <= REGISTRY_MAX_BODY)
        return true;
    call_error(&r->call, 413, "expected a body of at most 65536 bytes");
    return false;
}

static unsigned reactor_of(const struct reg_call *r)
{
    unsigned i = 0;
    while (i + 1 < r->api->n_loops && !loop_is_current(r->api->loops[i]))
        i++;
    return i;
}

/* ---------------------------------------------------------------- showing */

/* The entry as it is now; with a new secret, this once, as its last member. */
static void reg_show(struct reg_call *r)
{
    struct registry_run run;
    struct registry_entry *e = registry_get(r->api->registry, r->app, r->id, &run);
    struct buf out = BUF_INIT(0), one = BUF_INIT(0);
    struct json_w w;
    if (e == NULL) { /* removed meanwhile */
        reg_none(r);
        return;
    }
    json_w_start(&w, &one);
    registry_entry_json(&w, e, &run, clock_wall_ms());
    registry_entry_release(&e);
    bool ok = json_w_end(&w) && buf_append(&out, one.data, one.len - (r->secret[0] != '\0'));
    if (r->secret[0] != '\0')
        ok = ok && buf_printf(&out, ",\"secret\":\"%s\"}", r->secret);
    buf_free(&one);
    if (ok && buf_puts(&out, "\n"))
        call_answer(&r->call, r->status, out.data, out.len);
    else
        call_error(&r->call, 503, "out of memory");
    if (out.data != NULL)
        explicit_bzero(out.data, out.len);
    buf_free(&out);
}

static void get_opened(struct channel *ch)
{
    struct registry_entry *e;
    struct reg_call *r = reg_begin_one(ch, &e);
    registry_entry_release(&e);
    if (r != NULL)
        reg_show(r);
}

struct list_query {
    struct query q;
    struct registry_list l;
};

static bool list_parse(struct list_query *lq, const char *text, char *err, size_t errlen)
{
    static const char *const known[] = {"uid", "after", "limit", "disabled"};
    lq->l.limit = PAGE;
    if (!query_parse(&lq->q, text, strlen(text), err, errlen))
        return false;
    for (size_t i = 0; i < lq->q.n; i++) {
        const struct query_param *p = &lq->q.params[i];
        size_t k = 0, len = strlen(p->value);
        while (k < ARRAY_LEN(known) && strcmp(known[k], p->name) != 0)
            k++;
        bool number = len > 0 && len <= 3 && strspn(p->value, "0123456789") == len;
        unsigned long n = number ? strtoul(p->value, NULL, 10) : 0;
        if (k == ARRAY_LEN(known))
            snprintf(err, errlen, "unknown parameter \"%.64s\"", p->name);
        else if (k == 0 && !registry_uid_ok(p->value))
            snprintf(err, errlen, "uid: expected 1 to 128 of a-z, A-Z, 0-9, _ . : @ and -");
        else if (k == 1 && !registry_id_ok(p->value))
            snprintf(err, errlen, "after: expected an id");
        else if (k == 2 && (n < 1 || n > PAGE))
            snprintf(err, errlen, "limit: expected a number from 1 to %d", PAGE);
        else if (k == 3 && strcmp(p->value, "true") != 0 && strcmp(p->value, "false") != 0)
            snprintf(err, errlen, "disabled: expected true or false");
        else
            continue;
        query_free(&lq->q);
        return false;
    }
    const char *limit = query_get(&lq->q, "limit"), *disabled = query_get(&lq->q, "disabled");
    lq->l.uid = query_get(&lq->q, "uid");
    lq->l.after = query_get(&lq->q, "after");
    lq->l.disabled = disabled != NULL && strcmp(disabled, "true") == 0;
    if (limit != NULL)
        lq->l.limit = strtoul(limit, NULL, 10);
    return true;
}

static void list_answer(struct reg_call *r, struct registry_entry **page, int n, bool more)
{
    struct buf out = BUF_INIT(0);
    struct json_w w;
    int64_t now = clock_wall_ms();
    json_w_start(&w, &out);
    json_w_open(&w, '{');
    json_w_key(&w, r->app ? "apps" : "webhooks");
    json_w_open(&w, '[');
    for (int i = 0; i < n; i++) {
        struct registry_run run = {0};
        struct registry_entry *again = registry_get(r->api->registry, r->app, page[i]->id, &run);
        registry_entry_release(&again);
        registry_entry_json(&w, page[i], &run, now);
    }
    json_w_close(&w, ']');
    json_w_key(&w, "next");
    json_w_str(&w, more && n > 0 ? page[n - 1]->id : NULL);
    json_w_close(&w, '}');
    call_json(&r->call, 200, &w, &out);
}

static void list_opened(struct channel *ch)
{
    struct reg_call *r = reg_begin(ch);
    struct registry_entry *page[PAGE];
    struct list_query lq = {.l = {.limit = PAGE}};
    char err[160];
    bool more;
    if (r == NULL)
        return;
    lq.l.app = r->app;
    if (!list_parse(&lq, call_request(&r->call)->query, err, sizeof(err))) {
        call_error(&r->call, 400, "%s", err);
        return;
    }
    int n = registry_page(r->api->registry, &lq.l, page, &more);
    query_free(&lq.q);
    if (n < 0) {
        call_error(&r->call, 400, "after: there is no such %s here", kind_name(r));
        return;
    }
    list_answer(r, page, n, more);
    for (int i = 0; i < n; i++)
        registry_entry_release(&page[i]);
}

/* ---------------------------------------------------------------- changing */

/* The store has answered, or did not take it. */
static void reg_changed(struct reg_call *r, int result, const char *taken)
{
    if (result == OMID_OK)
        reg_show(r);
    else if (result == OMID_EINVAL)
        call_error(&r->call, 409, "%s", taken);
    else if (result == OMID_ENOTSUP)
        reg_none(r);
    else if (result == OMID_EFULL)
        call_error(&r->call, 503,
                   "no room: registry.max_apps, max_webhooks or max_enabled is reached, the user has 256, or "
                   "the store is overloaded");
    else
        call_failed(&r->call, result, "the store failed");
}

static void on_changed(void *arg, int result)
{
    struct reg_call *r = arg;
    if (call_wanted(&r->call))
        reg_changed(r, result, "id: it is taken");
}

/* rc: what the registry said to the call; it has taken it or not. */
static void reg_wait(struct reg_call *r, int rc)
{
    if (rc == OMID_OK)
        call_await(&r->call, rc);
    else
        reg_changed(r, rc, "");
}

static void add_opened(struct channel *ch)
{
    struct reg_call *r = reg_begin(ch);
    struct registry_body b;
    char err[256];
    if (r == NULL || !body_fits(r))
        return;
    const struct channel_request *q = call_request(&r->call);
    if (!registry_body_read(&b, r->app, NULL, q->body, q->body_len, err, sizeof(err))) {
        registry_body_free(&b);
        call_error(&r->call, 400, "%s", err);
        return;
    }
    if ((b.spec.given & REGISTRY_SECRET) == 0) {
        registry_secret_make(r->secret);
        b.spec.secret = r->secret;
        b.spec.given |= REGISTRY_SECRET;
    }
    snprintf(r->id, sizeof(r->id), "%s", b.spec.id);
    r->status = 201;
    log_info(MODULE, "an endpoint is registered", LS("kind", kind_name(r)), LS("id", r->id));
    int rc = registry_add(r->api->registry, &b.spec, call_loop(&r->call), on_changed, r);
    registry_body_free(&b);
    reg_wait(r, rc);
}

static void change_opened(struct channel *ch)
{
    struct registry_entry *e;
    struct reg_call *r = reg_begin_one(ch, &e);
    struct registry_body b;
    char err[256];
    if (r == NULL || !body_fits(r)) {
        registry_entry_release(&e);
        return;
    }
    const struct channel_request *q = call_request(&r->call);
    bool ok = registry_body_read(&b, r->app, e, q->body, q->body_len, err, sizeof(err));
    if (!ok) {
        call_error(&r->call, 400, "%s", err);
    } else {
        log_info(MODULE, "an endpoint is changed", LS("kind", kind_name(r)), LS("id", r->id));
        reg_wait(r, registry_change(r->api->registry, &b.spec, call_loop(&r->call), on_changed, r));
    }
    registry_body_free(&b);
    registry_entry_release(&e);
}

static void on_removed(void *arg, int result)
{
    struct reg_call *r = arg;
    if (!call_wanted(&r->call))
        return;
    if (result == OMID_OK)
        call_answer(&r->call, 204, NULL, 0);
    else
        reg_changed(r, result, "");
}

static void remove_opened(struct channel *ch)
{
    struct registry_entry *e;
    struct reg_call *r = reg_begin_one(ch, &e);
    registry_entry_release(&e);
    if (r == NULL)
        return;
    log_info(MODULE, "an endpoint is removed", LS("kind", kind_name(r)), LS("id", r->id));
    reg_wait(r, registry_remove(r->api->registry, r->app, r->id, call_loop(&r->call), on_removed, r));
}

static void on_rotated(void *arg, int result)
{
    struct reg_call *r = arg;
    if (call_wanted(&r->call))
        reg_changed(r, result, "secret: five are valid already; the oldest has to end first");
}

static void secret_opened(struct channel *ch)
{
    static const char *const names[] = {"secret"};
    struct registry_entry *e;
    struct reg_call *r = reg_begin_one(ch, &e);
    registry_entry_release(&e);
    const char *given;
    char err[256];
    yajl_val json;
    if (r == NULL || !body_fits(r))
        return;
    const struct channel_request *q = call_request(&r->call);
    bool ok = registry_body_texts(&json, names, &given, 1, q->body, q->body_len, err, sizeof(err));
    if (ok && given != NULL && !registry_secret_ok(given)) {
        snprintf(err, sizeof(err), "secret: expected whsec_ and the base64 of 24 to 64 bytes");
        ok = false;
    }
    if (!ok) {
        call_error(&r->call, 400, "%s", err);
    } else {
        if (given == NULL)
            registry_secret_make(r->secret);
        log_info(MODULE, "an endpoint gets a new secret", LS("kind", kind_name(r)), LS("id", r->id));
        reg_wait(r, registry_rotate(r->api->registry, r->app, r->id, given != NULL ? given : r->secret,
                                    call_loop(&r->call), on_rotated, r));
    }
    json_free(&json);
}

/* ---------------------------------------------------------------- enabling */

static void on_enabled_for(void *arg, int result)
{
    struct reg_call *r = arg;
    if (call_wanted(&r->call))
        reg_changed(r, result, "");
}

static void enable_for(struct reg_call *r)
{
    log_info(MODULE, r->on ? "an app is enabled for a user" : "an app is disabled for a user", LS("id", r->id));
    reg_wait(r, registry_enable_for(r->api->registry, r->id, r->uid, r->on, call_loop(&r->call), on_enabled_for, r));
}

/* Names the field, once. */
static void setup_failed(struct reg_call *r, int status, const char *text)
{
    static const char field[] = "setup_completed_url";
    if (text == NULL)
        text = "the app did not answer as expected";
    bool named = strncmp(text, field, sizeof(field) - 1) == 0;
    call_error(&r->call, status, "%s%s%s", named ? "" : field, named ? "" : ": ", text);
}

static void on_setup(void *arg, const struct omid_answer *a)
{
    struct reg_call *r = arg;
    if (!call_wanted(&r->call))
        return;
    if (a->result == OMID_OK)
        enable_for(r);
    else if (a->result == OMID_ENOTSUP)
        call_error(&r->call, 409, "the app is not set up for this user: its setup_completed_url says so");
    else if (a->result == OMID_EFULL || a->result == OMID_ECLOSED)
        call_failed(&r->call, a->result, "");
    else
        setup_failed(r, a->result == OMID_ETIMEOUT ? 504 : 502, a->text);
}

static void ask_setup(struct reg_call *r, const char *url)
{
    const struct host_question q = {.kind = HOST_ASK_SETUP_CHECK, .uid = r->uid, .url = url};
    int rc = host_ask(r->api->host, reactor_of(r), &q, atomic_load(&r->api->setup_check_ms), on_setup, r, NULL);
    if (rc == OMID_ENOTSUP)
        call_error(&r->call, 503, "no plugin is loaded that could ask setup_completed_url");
    else
        call_await(&r->call, rc);
}

/* {"uid"} of the body into r->uid. false: answered. */
static bool take_uid(struct reg_call *r)
{
    static const char *const names[] = {"uid"};
    const struct channel_request *q = call_request(&r->call);
    const char *uid;
    char err[256];
    yajl_val json;
    bool ok = registry_body_texts(&json, names, &uid, 1, q->body, q->body_len, err, sizeof(err));
    if (ok && uid != NULL && !registry_uid_ok(uid)) {
        snprintf(err, sizeof(err), "uid: expected 1 to 128 of a-z, A-Z, 0-9, _ . : @ and -");
        ok = false;
    } else if (ok && uid != NULL) {
        snprintf(r->uid, sizeof(r->uid), "%s", uid);
    }
    json_free(&json);
    if (!ok)
        call_error(&r->call, 400, "%s", err);
    return ok;
}

static void switch_opened(struct channel *ch, bool on)
{
    struct registry_entry *e;
    struct reg_call *r = reg_begin_one(ch, &e);
    if (r != NULL && body_fits(r) && take_uid(r)) {
        r->on = on;
        if (r->uid[0] != '\0' && !r->app) {
            call_error(&r->call, 400, "uid: a webhook is its user's, expected no uid");
        } else if (r->uid[0] == '\0') {
            log_info(MODULE, on ? "an endpoint is enabled" : "an endpoint is disabled", LS("kind", kind_name(r)),
                     LS("id", r->id));
            reg_wait(r, registry_enable(r->api->registry, r->app, r->id, on, call_loop(&r->call), on_changed, r));
        } else if (on && e->setup_url[0] != '\0' && !registry_enabled_for(r->api->registry, r->id, r->uid)) {
            ask_setup(r, e->setup_url);
        } else {
            enable_for(r);
        }
    }
    registry_entry_release(&e);
}

static void enable_opened(struct channel *ch)
{
    switch_opened(ch, true);
}

static void disable_opened(struct channel *ch)
{
    switch_opened(ch, false);
}

/* ---------------------------------------------------------------- a test delivery */

static void on_tested(void *arg, const struct omid_answer *a)
{
    struct reg_call *r = arg;
    if (!call_wanted(&r->call))
        return;
    if (a->result == OMID_OK && a->json_len > 0)
        call_answer(&r->call, 200, a->json, a->json_len);
    else if (a->result == OMID_EFULL || a->result == OMID_ECLOSED)
        call_failed(&r->call, a->result, "");
    else
        call_error(&r->call, a->result == OMID_ETIMEOUT ? 504 : 502, "%s",
                   a->text != NULL ? a->text : "the test could not be delivered");
}

static void ask_test(struct reg_call *r, const struct omid_endpoint *endpoint)
{
    const struct host_question q = {.kind = HOST_ASK_HOOK_TEST, .uid = r->uid, .endpoint = endpoint};
    int rc = host_ask(r->api->host, reactor_of(r), &q, atomic_load(&r->api->test_ms), on_tested, r, NULL);
    if (rc == OMID_ENOTSUP)
        call_error(&r->call, 503, "no plugin is loaded that delivers to apps and webhooks");
    else
        call_await(&r->call, rc);
}

static void test_opened(struct channel *ch)
{
    struct registry_entry *e;
    struct reg_call *r = reg_begin_one(ch, &e);
    if (r == NULL || !body_fits(r) || !take_uid(r)) {
        registry_entry_release(&e);
        return;
    }
    if (r->uid[0] == '\0')
        snprintf(r->uid, sizeof(r->uid), "%s", e->uid);
    bool stranger = !r->app && strcmp(r->uid, e->uid) != 0;
    registry_entry_release(&e);
    if (r->uid[0] == '\0' || stranger) {
        call_error(&r->call, 400, "uid: expected %s",
                   stranger ? "the webhook's own" : "a user's, for the app has no owner");
        return;
    }
    const struct omid_endpoints *found = registry_find(r->api->registry, r->id, NULL, clock_wall_ms());
    if (found == NULL)
        call_error(&r->call, 503, "out of memory");
    else if (found->n == 0)
        call_error(&r->call, 409, "the %s is disabled", kind_name(r));
    else
        ask_test(r, found->endpoint[0]);
    registry_release(&found);
}

/* ---------------------------------------------------------------- routes */

#define REGISTRY_ROUTE(path_, method_, opened_)                                                 \
    {                                                                                           \
        .path = path_, .method = method_, .auth = ROUTE_ADMIN, .handler = CALL_HANDLER(opened_) \
    }
#define REGISTRY_ROUTES(base)                                                                                  \
    REGISTRY_ROUTE(base, "GET", list_opened), REGISTRY_ROUTE(base, "POST", add_opened),                        \
        REGISTRY_ROUTE(base "/{id}", "GET", get_opened), REGISTRY_ROUTE(base "/{id}", "PATCH", change_opened), \
        REGISTRY_ROUTE(base "/{id}", "DELETE", remove_opened),                                                 \
        REGISTRY_ROUTE(base "/{id}/enable", "POST", enable_opened),                                            \
        REGISTRY_ROUTE(base "/{id}/disable", "POST", disable_opened),                                          \
        REGISTRY_ROUTE(base "/{id}/test", "POST", test_opened),                                                \
        REGISTRY_ROUTE(base "/{id}/secret", "POST", secret_opened)

static const struct route webhook_routes[] = {REGISTRY_ROUTES("/v1/admin/webhooks")},
                          app_routes[] = {REGISTRY_ROUTES("/v1/admin/apps")};

bool registry_routes_add(struct routes *routes, struct registry_api *api)
{
    if (api->webhooks.api == NULL) { /* at a reload the reactors read them */
        api->webhooks = (struct registry_place){.api = api, .app = false};
        api->apps = (struct registry_place){.api = api, .app = true};
    }
    return routes_add_all(routes, webhook_routes, ARRAY_LEN(webhook_routes), &api->webhooks) &&
           routes_add_all(routes, app_routes, ARRAY_LEN(app_routes), &api->apps);
}
