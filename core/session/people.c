/* People whom the user knows: /v1/people and /v1/people/{id} (omid-api(7)). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "bus/call.h"
#include "session/state.h"
#include "session/voices.h"

#define MAX_BODY 65536

struct people_call {
    struct call call;
    struct sessions *ss;
    const char *uid; /* the request's */
    char id[STORE_MAX_PERSON_ID + 1];
    char name[STORE_MAX_PERSON_NAME + 1];
    struct buf body;    /* the list */
    int result, status; /* status: of the answer when it worked */
    int64_t now_ms;
    char err[256];
};

static void people_drop(struct call *call)
{
    struct people_call *p = container_of(call, struct people_call, call);
    buf_free(&p->body);
}

/* NULL: answered already. */
static struct people_call *people_begin(struct channel *ch)
{
    struct people_call *p = call_begin(ch, sizeof *p, people_drop);
    if (p) {
        p->ss = sessions_of_channel(ch);
        p->uid = channel_request(ch)->uid;
    }
    return p;
}

/* The id of the path. false: answered, as one that is not there. */
static bool take_id(struct people_call *p)
{
    const char *id = call_request(&p->call)->params[0];
    if (!id || strlen(id) > STORE_MAX_PERSON_ID) {
        call_error(&p->call, 404, "id: there is no such person");
        return false;
    }
    strcpy(p->id, id);
    return true;
}

/* false: answered. */
static bool take_name(struct people_call *p)
{
    const struct channel_request *req = call_request(&p->call);
    char err[96];
    yajl_val v = json_parse(req->body, req->body_len, MAX_BODY, err, sizeof err);
    const char *name = json_str(v, "name");
    size_t n = name ? strlen(name) : 0;
    bool ok = n > 0 && n <= STORE_MAX_PERSON_NAME;
    if (ok)
        strcpy(p->name, name);
    json_free(&v);
    if (!ok && err[0])
        call_error(&p->call, 400, "body: expected a JSON object: %s", err);
    else if (!ok)
        call_error(&p->call, 400, "name: expected a text of 1 to %d bytes", STORE_MAX_PERSON_NAME);
    return ok;
}

/* ------------------------------------------------------------------------- list */

static void list_run(void *arg)
{
    struct people_call *p = arg;
    p->result = store_people_json(p->ss->env.store, p->uid, &p->body, p->err, sizeof p->err);
}

static void list_done(void *arg, bool ran)
{
    struct people_call *p = arg;
    if (ran && p->result == OMID_OK)
        call_answer(&p->call, 200, p->body.data, p->body.len);
    else
        call_failed(&p->call, ran ? OMID_ERR : OMID_ECLOSED, "the store failed");
}

static void list_opened(struct channel *ch)
{
    struct people_call *p = people_begin(ch);
    if (p)
        call_await(&p->call, call_work(&p->call, p->ss->env.exec, "list_people", list_run, list_done));
}

/* ---------------------------------------------------------------------- changes */

static void on_changed(void *arg, int result)
{
    struct people_call *p = arg;
    if (result == OMID_ENOTSUP && p->status == 201) {
        call_error(&p->call, 409, "there are too many people already");
        return;
    }
    if (result != OMID_OK) {
        if (result == OMID_ENOTSUP)
            call_error(&p->call, 404, "id: there is no such person");
        else
            call_failed(&p->call, result, "the store failed");
        return;
    }
    voices_changed(p->ss, p->uid);
    struct conversation *c = map_get(p->ss->open_of, p->uid);
    if (p->status == 204) {
        if (c)
            content_forget_person(&c->content, p->id);
        call_answer(&p->call, 204, NULL, 0);
        return;
    }
    struct buf out = BUF_INIT(0);
    struct json_w w;
    char at[32];
    json_w_start(&w, &out);
    json_w_open(&w, '{');
    json_w_kstr(&w, "id", p->id);
    json_w_kstr(&w, "name", p->name);
    if (p->status == 201) {
        clock_format_utc(p->now_ms, at);
        json_w_kstr(&w, "created_at", at);
        json_w_kint(&w, "voices", 0);
    }
    json_w_close(&w, '}');
    call_json(&p->call, p->status, &w, &out);
}

static void add_opened(struct channel *ch)
{
    struct people_call *p = people_begin(ch);
    if (!p || !take_name(p))
        return;
    const struct sessions_env *env = &p->ss->env;
    id_uuid4(p->id);
    p->now_ms = clock_wall_ms();
    p->status = 201;
    call_await(&p->call, store_person_add(env->store, p->uid, p->id, p->name, p->now_ms, env->loop, on_changed, p));
}

static void rename_opened(struct channel *ch)
{
    struct people_call *p = people_begin(ch);
    if (!p || !take_id(p) || !take_name(p))
        return;
    const struct sessions_env *env = &p->ss->env;
    p->status = 200;
    call_await(&p->call, store_person_rename(env->store, p->uid, p->id, p->name, env->loop, on_changed, p));
}

static void delete_opened(struct channel *ch)
{
    struct people_call *p = people_begin(ch);
    if (!p || !take_id(p))
        return;
    const struct sessions_env *env = &p->ss->env;
    p->status = 204;
    call_await(&p->call, store_person_delete(env->store, p->uid, p->id, env->loop, on_changed, p));
}

static const struct route people_routes[] = {
    {.path = "/v1/people", .method = "GET", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(list_opened)},
    {.path = "/v1/people", .method = "POST", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(add_opened)},
    {.path = "/v1/people/{id}", .method = "PATCH", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(rename_opened)},
    {.path = "/v1/people/{id}", .method = "DELETE", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(delete_opened)},
};

bool people_routes_add(struct routes *routes, struct sessions **all)
{
    return routes_add_all(routes, people_routes, ARRAY_LEN(people_routes), all);
}
