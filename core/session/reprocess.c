/*
 * POST /v1/conversations/{id}/reprocess: the end of a conversation once more (omid-api(7)), for one that was given up
 * above all. It is `processing` in the store before it is answered, so that a crash behind it changes nothing.
 */
#include <stdio.h>

#include "base/id.h"
#include "base/log.h"
#include "bus/call.h"
#include "session/state.h"

struct reprocess {
    struct call call;
    struct sessions *ss;
    const char *uid; /* the request's */
    char id[37];
};

static void answer(struct reprocess *r)
{
    struct buf out = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &out);
    json_w_open(&w, '{');
    json_w_kstr(&w, "id", r->id);
    json_w_kstr(&w, "status", store_status_name(STORE_PROCESSING));
    json_w_close(&w, '}');
    call_json(&r->call, 202, &w, &out);
}

static void on_processing(void *arg, int result)
{
    struct reprocess *r = arg;
    if (result == OMID_OK) {
        log_info("processing", "asked for again", LS("conversation", r->id));
        if (!r->ss->draining) /* else the next start finds it */
            processing_start(r->ss, r->id, r->uid);
        answer(r);
    } else if (result == OMID_ENOTSUP) {
        call_error(&r->call, 404, "id: there is no such conversation");
    } else if (result == OMID_EFULL) {
        call_error(&r->call, 409, "the conversation is in progress");
    } else {
        call_failed(&r->call, result, "the store failed");
    }
}

static void reprocess_opened(struct channel *ch)
{
    struct reprocess *r = call_begin(ch, sizeof *r, NULL);
    if (!r)
        return;
    r->ss = sessions_of_channel(ch);
    r->uid = channel_request(ch)->uid;
    const char *id = channel_request(ch)->params[0];
    if (!id || !id_is_uuid(id)) {
        call_error(&r->call, 404, "id: there is no such conversation");
        return;
    }
    snprintf(r->id, sizeof r->id, "%s", id);
    const struct conversation *live = map_get(r->ss->conversation, id);
    if (r->ss->draining)
        call_error(&r->call, 503, "going away");
    else if (live && strcmp(live->uid, r->uid) == 0) /* the store may not know it yet */
        call_error(&r->call, 409, "the conversation is in progress");
    else
        call_await(&r->call,
                   store_processing_again(r->ss->env.store, r->id, r->uid, r->ss->env.loop, on_processing, r));
}

static const struct route reprocess_routes[] = {
    {.path = "/v1/conversations/{id}/reprocess",
     .method = "POST",
     .auth = ROUTE_TOKEN,
     .handler = CALL_HANDLER(reprocess_opened)},
};

bool reprocess_route_add(struct routes *routes, struct sessions **all)
{
    return routes_add_all(routes, reprocess_routes, ARRAY_LEN(reprocess_routes), all);
}
