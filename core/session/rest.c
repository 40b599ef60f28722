/*
 * The REST routes of conversations (omid-api(7)). A request lives on the reactor of its token's uid, where the uid's
 * conversations are. Reads go to the storage executor, changes to the store's writer, and POST waits for a processing.
 *
 * A struct rest_call is the channel's user until the client has left, and stays until whoever works for it has
 * answered. Answers to a client that has left go nowhere.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
#include "base/log.h"
#include "base/query.h"
#include "lane/exec/exec.h"
#include "session/call.h"
#include "session/deletions.h"
#include "session/geolocation.h"
#include "session/state.h"
#include "session/sync.h"

#define MODULE "rest"
#define REST_MAGIC UINT32_C(0x72657374)
#define MAX_LIMIT 100
#define MAX_OFFSET 1000000
#define MAX_ANSWER ((size_t)16 << 20) /* transcripts of a page, photos of a conversation */

struct rest_call {
    uint32_t magic;
    struct list link; /* sessions.rest */
    struct sessions *ss;
    struct channel *ch; /* NULL: answered, or the client has left */
    bool working;       /* an executor or the store will answer */
    bool one;           /* a single conversation, not a page */
    char *uid;
    char id[37]; /* POST: of the one that is processed */
    char before[37];
    struct store_list list;
    struct buf body;
    int result;
    char err[256];
    ev_timer wait; /* POST: its bound */
};

/* -------------------------------------------------------------------- a call */

static void on_wait_over(struct ev_loop *ev, ev_timer *w, int revents);

static void rest_free(struct rest_call *r)
{
    CHECK_MAGIC(r, REST_MAGIC);
    ev_timer_stop(loop_ev(r->ss->env.loop), &r->wait);
    list_remove(&r->link);
    buf_free(&r->body);
    free(r->uid);
    r->magic = OMID_MAGIC_DEAD;
    free(r);
}

/* Lets go of the channel, and of the call when nobody works for it any more. */
static void rest_end(struct rest_call *r)
{
    if (r->ch)
        channel_drop(&r->ch);
    if (!r->working)
        rest_free(r);
}

static void rest_answer(struct rest_call *r, int status, const char *body, size_t len)
{
    if (r->ch)
        (void)channel_down_response(r->ch, status, NULL, body, len);
    rest_end(r);
}

static void rest_error(struct rest_call *r, int status, const char *text)
{
    struct buf b = BUF_INIT(4096);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "error", text);
    json_w_close(&w, '}');
    bool ok = json_w_end(&w);
    rest_answer(r, status, ok ? b.data : "", ok ? b.len : 0);
    buf_free(&b);
}

static void rest_failed(struct rest_call *r, int rc)
{
    if (rc == OMID_EFULL || rc == OMID_ECLOSED)
        rest_error(r, 503, "overloaded, try again later");
    else
        rest_error(r, 500, "the store failed");
}

/* NULL: answered already. */
static struct rest_call *rest_begin(struct channel *ch)
{
    struct sessions *ss = sessions_of_channel(ch);
    struct rest_call *r = calloc(1, sizeof *r);
    if (r)
        r->uid = strdup(channel_request(ch)->uid);
    if (!r || !r->uid) {
        static const char text[] = "{\"error\":\"out of memory\"}";
        free(r);
        (void)channel_down_response(ch, 503, NULL, text, sizeof text - 1);
        channel_drop(&ch);
        return NULL;
    }
    r->magic = REST_MAGIC;
    r->ss = ss;
    r->ch = ch;
    ev_init(&r->wait, on_wait_over);
    r->wait.data = r;
    list_append(&ss->rest, &r->link);
    channel_set_user(ch, r);
    return r;
}

static void rest_closed(struct channel *ch, uint16_t code)
{
    (void)code;
    struct rest_call *r = channel_user(ch);
    CHECK_MAGIC(r, REST_MAGIC);
    rest_end(r);
}

void rest_free_all(struct sessions *ss)
{
    list_each (it, &ss->rest) {
        struct rest_call *r = list_entry(it, struct rest_call, link);
        if (r->ch)
            channel_drop(&r->ch);
        if (r->working)
            list_remove(&r->link); /* of an executor's thread that was abandoned: it may still use it */
        else
            rest_free(r);
    }
}

/* The id in the path. false: answered with 404, as for one that is not there. */
static bool rest_take_id(struct rest_call *r)
{
    const char *id = channel_request(r->ch)->params[0];
    if (!id || !id_is_uuid(id)) {
        rest_error(r, 404, "id: there is no such conversation");
        return false;
    }
    snprintf(r->id, sizeof r->id, "%s", id);
    return true;
}

/* ------------------------------------------------------------------- reading */

/* On a thread of the executor: r is not touched by the reactor meanwhile, its channel apart. */
static void read_run(void *arg)
{
    struct rest_call *r = arg;
    struct store *store = r->ss->env.store;
    if (r->one)
        r->result = store_conversation_read_json(store, r->uid, r->id, MAX_ANSWER, &r->body, r->err, sizeof r->err);
    else
        r->result = store_list_json(store, &r->list, MAX_ANSWER, &r->body, r->err, sizeof r->err);
}

static void read_done(void *arg, bool ran)
{
    struct rest_call *r = arg;
    CHECK_MAGIC(r, REST_MAGIC);
    r->working = false;
    if (!ran)
        rest_failed(r, OMID_ECLOSED);
    else if (r->result == OMID_OK)
        rest_answer(r, 200, r->body.data, r->body.len);
    else if (r->result != OMID_ENOTSUP)
        rest_failed(r, OMID_ERR);
    else if (r->one)
        rest_error(r, 404, "id: there is no such conversation");
    else
        rest_error(r, 400, "before: there is no such conversation");
}

static void rest_read(struct rest_call *r)
{
    struct omid_work work = {.size = sizeof work,
                             .pool = OMID_POOL_STORAGE,
                             .label = r->one ? "read_conversation" : "list_conversations",
                             .run = read_run,
                             .done = read_done,
                             .arg = r};
    r->working = true;
    int rc = exec_submit(r->ss->env.exec, exec_core, r->ss->env.loop, &work);
    if (rc == OMID_OK)
        return;
    r->working = false;
    rest_failed(r, rc);
}

static bool list_number(const struct query *q, const char *name, size_t min, size_t max, size_t *out, char *err,
                        size_t errlen)
{
    const char *text = query_get(q, name);
    if (!text)
        return true;
    size_t n = 0, len = strlen(text);
    bool ok = len > 0 && len <= 9 && strspn(text, "0123456789") == len;
    if (ok)
        n = strtoul(text, NULL, 10);
    if (!ok || n < min || n > max) {
        snprintf(err, errlen, "%s: expected a number from %zu to %zu, found \"%.32s\"", name, min, max, text);
        return false;
    }
    *out = n;
    return true;
}

/* "completed,processing" */
static bool list_statuses(const struct query *q, unsigned *out, char *err, size_t errlen)
{
    const char *text = query_get(q, "statuses");
    for (const char *p = text; p && *p;) {
        size_t len = strcspn(p, ",");
        bool known = false;
        for (int st = STORE_IN_PROGRESS; st <= STORE_SKIPPED; st++) {
            const char *name = store_status_name((enum store_status)st);
            if (strlen(name) == len && memcmp(name, p, len) == 0) {
                *out |= 1u << st;
                known = true;
            }
        }
        if (!known) {
            snprintf(err, errlen,
                     "statuses: expected in_progress, processing, completed, failed or skipped, with commas, found "
                     "\"%.32s\"",
                     p);
            return false;
        }
        p += len + (p[len] == ',');
    }
    return true;
}

static bool list_parse(struct rest_call *r, const char *text, char *err, size_t errlen)
{
    struct query q;
    r->list = (struct store_list){.uid = r->uid, .limit = MAX_LIMIT};
    if (!query_parse(&q, text, strlen(text), err, errlen))
        return false;
    bool ok = list_number(&q, "limit", 1, MAX_LIMIT, &r->list.limit, err, errlen) &&
              list_number(&q, "offset", 0, MAX_OFFSET, &r->list.offset, err, errlen) &&
              list_statuses(&q, &r->list.statuses, err, errlen);
    const char *before = query_get(&q, "before");
    if (ok && before && !id_is_uuid(before)) {
        snprintf(err, errlen, "before: expected the id of a conversation, found \"%.48s\"", before);
        ok = false;
    } else if (ok && before) {
        snprintf(r->before, sizeof r->before, "%s", before);
        r->list.before = r->before;
    }
    query_free(&q);
    return ok;
}

static void list_opened(struct channel *ch)
{
    struct rest_call *r = rest_begin(ch);
    char err[256];
    if (!r)
        return;
    if (list_parse(r, channel_request(ch)->query, err, sizeof err))
        rest_read(r);
    else
        rest_error(r, 400, err);
}

static void get_opened(struct channel *ch)
{
    struct rest_call *r = rest_begin(ch);
    if (!r || !rest_take_id(r))
        return;
    r->one = true;
    rest_read(r);
}

/* ------------------------------------------------------------------- deleting */

static void on_deleted(void *arg, int result)
{
    struct rest_call *r = arg;
    CHECK_MAGIC(r, REST_MAGIC);
    r->working = false;
    if (result == OMID_OK)
        deletions_tell(r->ss, r->id, r->uid);
    if (result == OMID_OK)
        rest_answer(r, 204, NULL, 0);
    else if (result == OMID_ENOTSUP)
        rest_error(r, 404, "id: there is no such conversation");
    else
        rest_failed(r, result);
}

/* One that lived in memory: it is gone, whether the store had it or not. */
static void on_discarded(void *arg, int result)
{
    on_deleted(arg, result == OMID_ENOTSUP ? OMID_OK : result);
}

static void delete_opened(struct channel *ch)
{
    struct rest_call *r = rest_begin(ch);
    if (!r || !rest_take_id(r))
        return;
    struct conversation *c = map_get(r->ss->conversation, r->id);
    log_info(MODULE, "a conversation is deleted", LS("conversation", r->id));
    r->working = true;
    if (c && strcmp(c->uid, r->uid) == 0) { /* one that is ending, too: what it has yet to store would bring it back */
        rest_processed(r->ss, r->id, 503, NULL, NULL); /* who waits for its processing, in vain */
        conversation_discard(c, on_discarded, r);
        return;
    }
    int rc = store_conversation_delete(r->ss->env.store, r->id, r->uid, r->ss->env.loop, on_deleted, r);
    if (rc != OMID_OK)
        on_deleted(r, rc);
}

/* ------------------------------------------------------------------- processing */

static void on_wait_over(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct rest_call *r = w->data;
    CHECK_MAGIC(r, REST_MAGIC);
    char body[128];
    int n = snprintf(body, sizeof body, "{\"id\":\"%s\",\"status\":\"processing\"}", r->id);
    rest_answer(r, 202, body, (size_t)n);
}

static void rest_wait(struct rest_call *r, const char *id)
{
    snprintf(r->id, sizeof r->id, "%s", id);
    ev_timer_set(&r->wait, r->ss->env.conf->listen.process_wait_ms / 1000., 0.);
    ev_timer_start(loop_ev(r->ss->env.loop), &r->wait);
}

void rest_processed(struct sessions *ss, const char *id, int status, const struct buf *memory,
                    const struct buf *messages)
{
    list_each (it, &ss->rest) {
        struct rest_call *r = list_entry(it, struct rest_call, link);
        if (!ev_is_active(&r->wait) || strcmp(r->id, id) != 0)
            continue;
        if (!memory) {
            rest_error(r, 503, "the processing was put off, it goes on later");
            continue;
        }
        bool ok = buf_puts(&r->body, "{\"memory\":") && buf_append(&r->body, memory->data, memory->len) &&
                  buf_puts(&r->body, ",\"messages\":") && buf_append(&r->body, messages->data, messages->len) &&
                  buf_puts(&r->body, "}");
        if (ok)
            rest_answer(r, status, r->body.data, r->body.len);
        else
            rest_error(r, 503, "out of memory");
    }
}

/* The uid's conversation whose end is under way, or NULL. */
static const char *ending_of(const struct sessions *ss, const char *uid)
{
    size_t pos = 0;
    void *value;
    while (map_next(ss->conversation, &pos, NULL, &value)) {
        const struct conversation *c = value;
        if (c->state == CONVERSATION_ENDING && strcmp(c->uid, uid) == 0)
            return c->id;
    }
    return processing_of(ss, uid);
}

/* There is none to process: the one whose end is under way, if any, is what the client means. */
static void process_none(struct rest_call *r)
{
    const char *id = ending_of(r->ss, r->uid);
    if (id)
        rest_wait(r, id);
    else
        rest_error(r, 404, "there is no conversation in progress");
}

static void on_found(void *arg, int result, const char *id)
{
    struct rest_call *r = arg;
    CHECK_MAGIC(r, REST_MAGIC);
    r->working = false;
    struct conversation *live = id ? map_get(r->ss->conversation, id) : NULL;
    if (!r->ch) {
        rest_end(r);
    } else if (result != OMID_OK) {
        rest_failed(r, result);
    } else if (!id || live) {
        process_none(r); /* or it began while we asked */
    } else {
        rest_wait(r, id);
        processing_start(r->ss, id, r->uid);
    }
}

static void process_opened(struct channel *ch)
{
    struct rest_call *r = rest_begin(ch);
    if (!r)
        return;
    if (r->ss->draining) {
        rest_error(r, 503, "going away");
        return;
    }
    struct conversation *c = conversation_live(r->ss, r->uid);
    if (c)
        conversation_flush_client(c);
    if (c && conversation_empty(c)) {
        process_none(r);
    } else if (c) {
        rest_wait(r, c->id);
        conversation_end(c);
    } else {
        r->working = true;
        int rc = store_find(r->ss->env.store, r->uid, STORE_FIND_OPEN, r->ss->env.loop, on_found, r);
        if (rc == OMID_OK)
            return;
        r->working = false;
        rest_failed(r, rc);
    }
}

/* ---------------------------------------------------------------------- routes */

bool sessions_routes_add(struct routes *routes, struct sessions **all)
{
    static const struct channel_handler list = {.opened = list_opened, .closed = rest_closed},
                                        get = {.opened = get_opened, .closed = rest_closed},
                                        process = {.opened = process_opened, .closed = rest_closed},
                                        gone = {.opened = delete_opened, .closed = rest_closed};
    const struct route r[] = {
        {.path = "/v1/conversations", .method = "GET", .auth = ROUTE_TOKEN, .handler = &list, .arg = all},
        {.path = "/v1/conversations", .method = "POST", .auth = ROUTE_TOKEN, .handler = &process, .arg = all},
        {.path = "/v1/conversations/{id}", .method = "GET", .auth = ROUTE_TOKEN, .handler = &get, .arg = all},
        {.path = "/v1/conversations/{id}", .method = "DELETE", .auth = ROUTE_TOKEN, .handler = &gone, .arg = all},
    };
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        if (!routes_add(routes, &r[i]))
            return false;
    }
    return geolocation_route_add(routes, all) && sync_routes_add(routes, all) && profile_routes_add(routes, all) &&
           people_routes_add(routes, all);
}
