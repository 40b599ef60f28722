/* The steps of a conversation's end; see processing.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/bus.h"
#include "host/ask.h"
#include "lane/queue/queue.h"
#include "session/days.h"
#include "session/deletions.h"
#include "session/geolocation.h"
#include "session/processing.h"
#include "store/days.h"

#define MODULE PROCESSING_MODULE

bool processing_json(struct processing *p, enum store_status status, struct buf *out)
{
    struct json_w w;
    struct store_conversation *c = p->conversation;
    char *structured = c->structured, *error = c->error;
    enum store_status former = c->status;
    if (status == STORE_COMPLETED)
        c->structured = p->summary;
    c->error = status == STORE_FAILED ? p->error : NULL;
    c->status = status;
    json_w_start(&w, out);
    store_conversation_json(&w, c);
    c->structured = structured;
    c->error = error;
    c->status = former;
    return json_w_end(&w);
}

/* --------------------------------------------------------------- telling the client */

static void clients_tell(struct processing *p, const struct buf *memory, const struct buf *messages)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "type", "memory_created");
    json_w_key(&w, "memory");
    json_w_raw(&w, memory->data, memory->len);
    json_w_key(&w, "messages");
    json_w_raw(&w, messages->data, messages->len);
    json_w_close(&w, '}');
    if (json_w_end(&w)) {
        list_each (it, &p->ss->session) {
            struct session *s = list_entry(it, struct session, link);
            if (strcmp(s->uid, p->uid) == 0)
                session_send_text(s, b.data, b.len);
        }
    }
    buf_free(&b);
}

static void tell(struct processing *p)
{
    struct buf memory = BUF_INIT(0), messages = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &messages);
    store_messages_json(&w, p->conversation);
    if (json_w_end(&w) && processing_json(p, p->to, &memory)) {
        clients_tell(p, &memory, &messages);
        rest_processed(p->ss, p->id, p->to == STORE_COMPLETED ? 201 : 200, &memory, &messages);
    }
    buf_free(&memory);
    buf_free(&messages);
}

/* ------------------------------------------------------------------------ end */

static void account(struct processing *p)
{
    const struct session_metrics *m = session_metrics();
    metric_add(p->to == STORE_COMPLETED ? m->processed : p->to == STORE_SKIPPED ? m->skipped : m->failed, 1);
    if (p->to == STORE_COMPLETED && p->ss->env.conf->day_summary.enabled)
        (void)store_day_plan_touch(p->ss->env.store, p->uid, clock_wall_ms() - DAYS_LATE_MS); /* else the next does */
    metric_observe(m->processing_seconds, (double)(clock_mono_ms() - p->began_ms) / 1e3);
    log_info(MODULE, store_status_name(p->to), LS("conversation", p->id), LU("segments", p->conversation->n_segments));
}

static void on_ended(void *arg, int result)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    if (result == OMID_ERR) {
        processing_store_failed(p, store_status_name(p->to));
        return;
    }
    if (result != OMID_OK) {
        log_info(MODULE, "deleted while it was processed", LS("conversation", p->id));
    } else {
        account(p);
        tell(p);
    }
    processing_finish(p);
}

void processing_end(struct processing *p, enum store_status to)
{
    processing_set_state(p, PROCESSING_END);
    p->to = to;
    if (store_status_set(p->ss->env.store, p->id, STORE_PROCESSING, to, to == STORE_COMPLETED ? p->summary : NULL,
                         to == STORE_FAILED ? p->error : NULL, p->ss->env.loop, on_ended, p) != OMID_OK)
        processing_store_failed(p, store_status_name(to));
}

/* ------------------------------------------------------------------------ deliveries */

static void on_fence(void *arg, int result)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    if (result == OMID_OK)
        processing_end(p, STORE_COMPLETED);
    else
        processing_again(p, "enqueue deliveries", "the queue is full, or its disk failed");
}

/* {"person id": "name"} of who speaks in it. */
static bool people_json(const struct store_conversation *c, struct buf *out)
{
    struct json_w w;
    struct map *seen = map_new();
    bool ok = seen != NULL;
    json_w_start(&w, out);
    json_w_open(&w, '{');
    for (size_t i = 0; ok && i < c->n_segments; i++) {
        const struct store_segment *g = &c->segment[i];
        if (g->person_id == NULL || g->person_name == NULL || map_get(seen, g->person_id) != NULL)
            continue;
        ok = map_put(seen, g->person_id, (void *)(uintptr_t)g->person_name, NULL);
        json_w_kstr(&w, g->person_id, g->person_name);
    }
    json_w_close(&w, '}');
    map_free(&seen);
    return json_w_end(&w) && ok;
}

static void offer(struct processing *p)
{
    processing_set_state(p, PROCESSING_OFFER);
    struct buf memory = BUF_INIT(0), people = BUF_INIT(0);
    bool ok = processing_json(p, STORE_COMPLETED, &memory) && people_json(p->conversation, &people);
    if (ok) {
        struct omid_event ev = {.size = sizeof ev,
                                .type = OMID_EVENT_CONVERSATION_CREATED,
                                .uid = p->uid,
                                .session_id = "",
                                .conversation_id = p->id,
                                .json = memory.data,
                                .json_len = memory.len,
                                .time_ms = clock_wall_ms(),
                                .people = people.data,
                                .revision = p->conversation->revision};
        bus_publish(p->ss->env.bus, &ev);
        ok = queue_fence(p->ss->env.queue, p->ss->env.loop, on_fence, p) == OMID_OK;
    }
    buf_free(&memory);
    buf_free(&people);
    if (!ok)
        processing_again(p, "offer to plugins", "no memory, or the queue takes nothing");
}

/* ------------------------------------------------------------------------ parts */

/* All have ended: what now? */
static void parts_check(struct processing *p)
{
    bool again = false;
    if (p->state != PROCESSING_WORK || p->starting)
        return;
    for (int i = 0; i < PARTS; i++) {
        if (p->part[i] == PART_UNDER_WAY || p->part[i] == PART_OPEN)
            return;
        again = again || p->part[i] == PART_AGAIN;
    }
    if (p->gone) {
        processing_finish(p);
    } else if (p->store_lost) {
        processing_store_failed(p, "keep");
    } else if (again && p->closed) {
        processing_put_off(p);
    } else if (again) {
        char why[sizeof p->error];
        memcpy(why, p->error, sizeof why);
        processing_again(p, "summarize", why[0] ? why : NULL);
    } else if (p->nothing) {
        processing_end(p, STORE_SKIPPED);
    } else {
        offer(p);
    }
}

void processing_part_end(struct processing *p, enum processing_part part, enum part_state state)
{
    omid_assert(p->state == PROCESSING_WORK && state >= PART_DONE);
    p->part[part] = state;
    parts_check(p);
}

void processing_parts_cancel(struct processing *p)
{
    p->closed = true;
    if (p->ask)
        p->part[PART_SUMMARY] = PART_AGAIN;
    if (p->locating)
        p->part[PART_GEOLOCATION] = PART_AGAIN;
    host_ask_cancel(&p->ask);
    geolocation_cancel(&p->locating);
    parts_check(p);
}

static void parts_begin(struct processing *p)
{
    processing_set_state(p, PROCESSING_WORK);
    p->error[0] = 0;
    p->gone = p->closed = p->nothing = p->store_lost = false;
    p->starting = true; /* one that ends at once does not decide for the others */
    for (int i = 0; i < PARTS; i++)
        p->part[i] = PART_OPEN;
    processing_geolocation_begin(p);
    processing_summary_begin(p);
    p->starting = false;
    parts_check(p);
}

/* ------------------------------------------------------------------------ begin */

static void on_deleted(void *arg, int result)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    if (result == OMID_ERR)
        processing_store_failed(p, "delete");
    else
        processing_finish(p);
}

static void on_begun(void *arg, int result, struct store_conversation *c, struct store_progress *progress)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    store_conversation_free(&p->conversation);
    p->conversation = c;
    if (result == OMID_ERR) {
        processing_store_failed(p, "begin");
        return;
    }
    if (!c || c->status != STORE_PROCESSING) {
        processing_finish(p); /* done before a crash, or deleted */
        return;
    }
    p->store_failures = 0;
    p->failures = progress->failures > p->failures ? progress->failures : p->failures;
    if (progress->summary) {
        free(p->summary);
        p->summary = progress->summary;
        p->summary_kept = true;
        progress->summary = NULL;
    }
    if (c->n_segments > 0 || c->n_photos > 0) {
        parts_begin(p);
        return;
    }
    /* Nothing was ever said into it: its session left before its first word. */
    if (deletions_delete(p->ss, p->id, p->uid, on_deleted, p) != OMID_OK)
        processing_store_failed(p, "delete");
}

void processing_begin(struct processing *p)
{
    processing_set_state(p, PROCESSING_BEGIN);
    if (store_processing_begin(p->ss->env.store, p->id, p->ss->env.loop, on_begun, p) != OMID_OK)
        processing_store_failed(p, "begin");
}
