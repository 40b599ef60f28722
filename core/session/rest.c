/*
 * The REST routes of conversations (omid-api(7)). A request lives on the reactor of its token's uid, where the uid's
 * conversations are. Reads go to the storage executor, changes to the store's writer, and POST waits for a processing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
#include "base/log.h"
#include "base/query.h"
#include "bus/call.h"
#include "session/deletions.h"
#include "session/geolocation.h"
#include "session/state.h"
#include "session/sync.h"

#define MODULE "rest"
#define MAX_LIMIT 100
#define MAX_OFFSET 1000000
#define MAX_ANSWER ((size_t)16 << 20) /* transcripts of a page, photos of a conversation */

struct rest_call {
    struct call call;
    struct sessions *ss;
    const char *uid;     /* the request's */
    bool one;            /* a single conversation, not a page */
    char id[37];         /* POST: of the one that is processed */
    struct list waiting; /* POST: sessions.processed_for, while its timer runs */
    ev_timer wait;       /* POST: its bound */
    char before[37];
    struct store_list list;
    struct buf body;
    int result;
    char err[256];
};

/* -------------------------------------------------------------------- a call */

static void on_wait_over(struct ev_loop *ev, ev_timer *w, int revents);

static void rest_drop(struct call *call)
{
    struct rest_call *r = container_of(call, struct rest_call, call);
    ev_timer_stop(loop_ev(r->ss->env.loop), &r->wait);
    list_remove(&r->waiting);
    buf_free(&r->body);
}

/* NULL: answered already. */
static struct rest_call *rest_begin(struct channel *ch)
{
    struct rest_call *r = call_begin(ch, sizeof *r, rest_drop);
    if (r) {
        r->ss = sessions_of_channel(ch);
        r->uid = channel_request(ch)->uid;
        list_init(&r->waiting);
        ev_init(&r->wait, on_wait_over);
        r->wait.data = r;
    }
    return r;
}

static void rest_none(struct rest_call *r)
{
    call_error(&r->call, 404, "id: there is no such conversation");
}

/* The id in the path. false: answered with 404, as for one that is not there. */
static bool rest_take_id(struct rest_call *r)
{
    const char *id = call_request(&r->call)->params[0];
    if (!id || !id_is_uuid(id)) {
        rest_none(r);
        return false;
    }
    snprintf(r->id, sizeof r->id, "%s", id);
    return true;
}

/* ------------------------------------------------------------------- reading */

/* On a thread of the executor: the reactor leaves r alone meanwhile. */
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
    if (!ran)
        call_failed(&r->call, OMID_ECLOSED, "");
    else if (r->result == OMID_OK)
        call_answer(&r->call, 200, r->body.data, r->body.len);
    else if (r->result != OMID_ENOTSUP)
        call_failed(&r->call, OMID_ERR, "the store failed");
    else if (r->one)
        rest_none(r);
    else
        call_error(&r->call, 400, "before: there is no such conversation");
}

static void rest_read(struct rest_call *r)
{
    const char *label = r->one ? "read_conversation" : "list_conversations";
    call_await(&r->call, call_work(&r->call, r->ss->env.exec, label, read_run, read_done));
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
        call_error(&r->call, 400, "%s", err);
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

/* The store may have given it to a session before it deleted it: what is in memory would bring it back. */
static void forget_given(struct sessions *ss, const char *id)
{
    struct conversation *c = map_get(ss->conversation, id);
    if (c)
        conversation_discard(c, NULL, NULL);
}

static void on_deleted(void *arg, int result)
{
    struct rest_call *r = arg;
    if (result == OMID_OK) {
        forget_given(r->ss, r->id);
        deletions_tell(r->ss, r->id, r->uid);
    }
    if (result == OMID_OK)
        call_answer(&r->call, 204, NULL, 0);
    else if (result == OMID_ENOTSUP)
        rest_none(r);
    else
        call_failed(&r->call, result, "the store failed");
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
    if (c && strcmp(c->uid, r->uid) == 0) { /* one that is ending, too: what it has yet to store would bring it back */
        rest_processed(r->ss, r->id, 503, NULL, NULL); /* who waits for its processing, in vain */
        call_await(&r->call, OMID_OK);
        conversation_discard(c, on_discarded, r);
        return;
    }
    call_await(&r->call, store_conversation_delete(r->ss->env.store, r->id, r->uid, r->ss->env.loop, on_deleted, r));
}

/* ------------------------------------------------------------------- processing */

static void on_wait_over(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct rest_call *r = w->data;
    char body[128];
    int n = snprintf(body, sizeof body, "{\"id\":\"%s\",\"status\":\"processing\"}", r->id);
    call_answer(&r->call, 202, body, (size_t)n);
}

static void rest_wait(struct rest_call *r, const char *id)
{
    snprintf(r->id, sizeof r->id, "%s", id);
    list_append(&r->ss->processed_for, &r->waiting);
    ev_timer_set(&r->wait, r->ss->env.conf->listen.process_wait_ms / 1000., 0.);
    ev_timer_start(loop_ev(r->ss->env.loop), &r->wait);
}

void rest_processed(struct sessions *ss, const char *id, int status, const struct buf *memory,
                    const struct buf *messages)
{
    list_each (it, &ss->processed_for) {
        struct rest_call *r = list_entry(it, struct rest_call, waiting);
        if (strcmp(r->id, id) != 0)
            continue;
        if (!memory) {
            call_error(&r->call, 503, "the processing was put off, it goes on later");
            continue;
        }
        bool ok = buf_puts(&r->body, "{\"memory\":") && buf_append(&r->body, memory->data, memory->len) &&
                  buf_puts(&r->body, ",\"messages\":") && buf_append(&r->body, messages->data, messages->len) &&
                  buf_puts(&r->body, "}");
        if (ok)
            call_answer(&r->call, status, r->body.data, r->body.len);
        else
            call_error(&r->call, 503, "out of memory");
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
        call_error(&r->call, 404, "there is no conversation in progress");
}

static void process_live(struct rest_call *r, struct conversation *c)
{
    conversation_flush_client(c);
    if (conversation_empty(c)) {
        process_none(r);
    } else {
        rest_wait(r, c->id);
        conversation_end(c);
    }
}

static void on_found(void *arg, int result, const char *id)
{
    struct rest_call *r = arg;
    struct conversation *live = id ? map_get(r->ss->conversation, id) : NULL;
    if (!call_wanted(&r->call))
        return;
    if (result != OMID_OK) {
        call_failed(&r->call, result, "the store failed");
    } else if (live && live->state == CONVERSATION_OPEN) { /* a session was given it while we asked */
        process_live(r, live);
    } else if (!id || live) {
        process_none(r);
    } else {
        rest_wait(r, id);
        /* At once: its processing may have to wait, and a session that comes meanwhile is not to be given it. */
        (void)store_status_set(r->ss->env.store, id, STORE_IN_PROGRESS, STORE_PROCESSING, NULL, NULL, r->ss->env.loop,
                               NULL, NULL);
        processing_start(r->ss, id, r->uid);
    }
}

static void process_opened(struct channel *ch)
{
    struct rest_call *r = rest_begin(ch);
    if (!r)
        return;
    if (r->ss->draining) {
        call_error(&r->call, 503, "going away");
        return;
    }
    struct conversation *c = conversation_live(r->ss, r->uid);
    if (c)
        process_live(r, c);
    else
        call_await(&r->call, store_find(r->ss->env.store, r->uid, STORE_FIND_OPEN, r->ss->env.loop, on_found, r));
}

/* ---------------------------------------------------------------------- routes */

static const struct route rest_routes[] = {
    {.path = "/v1/conversations", .method = "GET", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(list_opened)},
    {.path = "/v1/conversations", .method = "POST", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(process_opened)},
    {.path = "/v1/conversations/{id}", .method = "GET", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(get_opened)},
    {.path = "/v1/conversations/{id}", .method = "DELETE", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(delete_opened)},
};

bool sessions_routes_add(struct routes *routes, struct sessions **all)
{
    return routes_add_all(routes, rest_routes, ARRAY_LEN(rest_routes), all) && geolocation_route_add(routes, all) &&
           reprocess_route_add(routes, all) && sync_routes_add(routes, all) && profile_routes_add(routes, all) &&
           people_routes_add(routes, all);
}
