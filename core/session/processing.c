/*
 * The end of a conversation: marked, read back, summarised in the critical executor, offered to the plugins, and only
 * when what they enqueued is on disk, completed. Each step can be repeated: after a crash, or when one fails,
 * it starts over from the store, and named jobs keep partners from hearing it twice.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/bus.h"
#include "lane/exec/exec.h"
#include "lane/queue/queue.h"
#include "session/extract.h"
#include "session/state.h"

#define MODULE "processing"
#define MAX_RUNNING 16 /* per reactor; the others wait in order */
#define RETRY_BASE_MS 1000
#define RETRY_CAP_MS 60000

enum processing_state {
    PROCESSING_WAITING,
    PROCESSING_MARK, /* the store: in_progress -> processing */
    PROCESSING_READ,
    PROCESSING_SUMMARIZE, /* critical executor */
    PROCESSING_OFFER,     /* plugins enqueue; the queue's fence */
    PROCESSING_COMPLETE,  /* the store: processing -> completed */
    PROCESSING_RETRY,     /* a step failed: a pause, then from the start */
};

struct processing {
    uint32_t magic;
    enum processing_state state;
    struct list link; /* sessions.waiting while WAITING */
    struct sessions *ss;
    char id[37];
    char *uid;
    struct store_conversation *conversation;
    struct buf structured;
    bool summarized;
    bool there; /* this run has just changed its status: the store has it */
    unsigned failures;
    ev_timer retry;
};
#define PROCESSING_MAGIC UINT32_C(0x70726f63)

static void processing_begin(struct processing *p);

static void processing_set_state(struct processing *p, enum processing_state to)
{
    omid_assert(to == PROCESSING_RETRY ? p->state != PROCESSING_WAITING
                                       : to == p->state + 1 || (to == PROCESSING_MARK && p->state == PROCESSING_RETRY));
    p->state = to;
}

static void processing_free(struct processing *p)
{
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    map_remove(p->ss->processing, p->id);
    rest_processed(p->ss, p->id, NULL, NULL); /* whoever still waits for it */
    list_remove(&p->link);
    ev_timer_stop(loop_ev(p->ss->env.loop), &p->retry);
    store_conversation_free(&p->conversation);
    buf_free(&p->structured);
    free(p->uid);
    p->magic = OMID_MAGIC_DEAD;
    free(p);
}

static void processing_finish(struct processing *p)
{
    struct sessions *ss = p->ss;
    processing_free(p);
    ss->running--;
    struct list *next = list_pop(&ss->waiting);
    if (next)
        processing_begin(list_entry(next, struct processing, link));
    sessions_check_drained(ss);
}

static void processing_again(struct processing *p, const char *what)
{
    processing_set_state(p, PROCESSING_RETRY);
    unsigned shift = p->failures < 6 ? p->failures : 6;
    uint32_t ms = RETRY_BASE_MS << shift;
    p->failures++;
    metric_add(session_metrics()->processing_retries, 1);
    if (p->ss->draining) {
        log_warning(MODULE, "step failed, left to the next start", LS("conversation", p->id), LS("step", what));
        processing_finish(p);
        return;
    }
    log_warning(MODULE, "step failed, trying again", LS("conversation", p->id), LS("step", what), LU("in_ms", ms));
    ev_timer_set(&p->retry, (ms < RETRY_CAP_MS ? ms : RETRY_CAP_MS) / 1000., 0.);
    ev_timer_start(loop_ev(p->ss->env.loop), &p->retry);
}

/* --------------------------------------------------------------- telling the client */

static void processing_tell_clients(struct processing *p, const struct buf *memory, const struct buf *messages)
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

/* The conversation as it will be when it is completed. */
static bool processing_json(struct processing *p, struct buf *out)
{
    struct json_w w;
    struct store_conversation *c = p->conversation;
    char *former = c->structured;
    enum store_status status = c->status;
    c->structured = p->structured.data;
    c->status = STORE_COMPLETED;
    json_w_start(&w, out);
    store_conversation_json(&w, c);
    c->structured = former;
    c->status = status;
    return json_w_end(&w);
}

/* ------------------------------------------------------------------------ steps */

static void on_completed(void *arg, int result)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    if (result == OMID_ERR) {
        processing_again(p, "complete");
        return;
    }
    if (result != OMID_OK) {
        log_info(MODULE, "deleted while it was processed", LS("conversation", p->id));
        processing_finish(p);
        return;
    }
    struct buf memory = BUF_INIT(0), messages = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &messages);
    store_messages_json(&w, p->conversation);
    if (json_w_end(&w) && processing_json(p, &memory)) {
        processing_tell_clients(p, &memory, &messages);
        rest_processed(p->ss, p->id, &memory, &messages);
    }
    buf_free(&memory);
    buf_free(&messages);
    metric_add(session_metrics()->processed, 1);
    log_info(MODULE, "completed", LS("conversation", p->id), LU("segments", p->conversation->n_segments));
    processing_finish(p);
}

static void on_fence(void *arg, int result)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    if (result != OMID_OK) {
        processing_again(p, "enqueue deliveries");
        return;
    }
    processing_set_state(p, PROCESSING_COMPLETE);
    if (store_status_set(p->ss->env.store, p->id, STORE_PROCESSING, STORE_COMPLETED, p->structured.data, NULL,
                         p->ss->env.loop, on_completed, p) != OMID_OK)
        processing_again(p, "complete");
}

static void processing_offer(struct processing *p)
{
    processing_set_state(p, PROCESSING_OFFER);
    struct buf memory = BUF_INIT(0);
    bool ok = processing_json(p, &memory);
    if (ok) {
        struct omid_event ev = {.size = sizeof ev,
                                .type = OMID_EVENT_CONVERSATION_CREATED,
                                .uid = p->uid,
                                .session_id = "",
                                .conversation_id = p->id,
                                .json = memory.data,
                                .json_len = memory.len,
                                .time_ms = clock_wall_ms()};
        bus_publish(p->ss->env.bus, &ev);
        ok = queue_fence(p->ss->env.queue, p->ss->env.loop, on_fence, p) == OMID_OK;
    }
    buf_free(&memory);
    if (!ok)
        processing_again(p, "offer to plugins");
}

/* On an executor thread: p is not touched by the reactor meanwhile. */
static void summarize_run(void *arg)
{
    struct processing *p = arg;
    buf_free(&p->structured);
    p->summarized = extract_summary(p->conversation, &p->structured);
}

static void summarize_done(void *arg, bool ran)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    if (ran && p->summarized)
        processing_offer(p);
    else
        processing_again(p, "summarize");
}

static void on_deleted(void *arg, int result)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    if (result == OMID_ERR)
        processing_again(p, "delete");
    else
        processing_finish(p);
}

static void on_read(void *arg, struct store_conversation *c)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    store_conversation_free(&p->conversation);
    p->conversation = c;
    if (!c && p->there) {
        processing_again(p, "read");
        return;
    }
    if (!c) {
        /* Deleted since the sweep. If only the reading failed, the next sweep finds it. */
        processing_finish(p);
        return;
    }
    if (c->status != STORE_PROCESSING) {
        processing_finish(p); /* done before a crash, or deleted */
        return;
    }
    if (c->n_segments == 0 && c->n_photos == 0) {
        /* Nothing was ever said into it: its session left before its first word. */
        if (store_conversation_delete(p->ss->env.store, p->id, NULL, p->ss->env.loop, on_deleted, p) != OMID_OK)
            processing_again(p, "delete");
        return;
    }
    processing_set_state(p, PROCESSING_SUMMARIZE);
    struct omid_work work = {.size = sizeof work,
                             .pool = OMID_POOL_CRITICAL,
                             .label = "summarize",
                             .run = summarize_run,
                             .done = summarize_done,
                             .arg = p};
    if (exec_submit(p->ss->env.exec, exec_core, p->ss->env.loop, &work) != OMID_OK)
        processing_again(p, "summarize");
}

static void on_marked(void *arg, int result)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    if (result == OMID_ERR) {
        processing_again(p, "mark");
        return;
    }
    /* ENOTSUP: it is marked already, or is no more; reading tells. */
    p->there = result == OMID_OK;
    processing_set_state(p, PROCESSING_READ);
    if (store_conversation_get(p->ss->env.store, p->id, p->ss->env.loop, on_read, p) != OMID_OK)
        processing_again(p, "read");
}

static void processing_mark(struct processing *p)
{
    processing_set_state(p, PROCESSING_MARK);
    if (store_status_set(p->ss->env.store, p->id, STORE_IN_PROGRESS, STORE_PROCESSING, NULL, NULL, p->ss->env.loop,
                         on_marked, p) != OMID_OK)
        processing_again(p, "mark");
}

static void on_retry(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct processing *p = w->data;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    if (p->ss->draining)
        processing_finish(p); /* the store keeps it as `processing`: the next start goes on */
    else
        processing_mark(p);
}

static void processing_begin(struct processing *p)
{
    p->ss->running++;
    processing_mark(p);
}

void processing_start(struct sessions *ss, const char *id, const char *uid)
{
    if (map_get(ss->processing, id))
        return;
    struct processing *p = calloc(1, sizeof *p);
    if (!p)
        return; /* the sweeper finds it again */
    p->magic = PROCESSING_MAGIC;
    p->ss = ss;
    snprintf(p->id, sizeof p->id, "%s", id);
    list_init(&p->link);
    ev_init(&p->retry, on_retry);
    p->retry.data = p;
    p->uid = strdup(uid);
    if (!p->uid || !map_put(ss->processing, p->id, p, NULL)) {
        processing_free(p);
        return;
    }
    if (ss->running < MAX_RUNNING)
        processing_begin(p);
    else
        list_append(&ss->waiting, &p->link);
}

const char *processing_of(const struct sessions *ss, const char *uid)
{
    size_t pos = 0;
    void *value;
    while (map_next(ss->processing, &pos, NULL, &value)) {
        const struct processing *p = value;
        if (strcmp(p->uid, uid) == 0)
            return p->id;
    }
    return NULL;
}

void processing_drain(struct sessions *ss)
{
    for (struct list *it; (it = list_pop(&ss->waiting)) != NULL;)
        processing_free(list_entry(it, struct processing, link));
    /* Finishing one changes the table: from its start each time. */
    size_t pos = 0;
    void *value;
    while (map_next(ss->processing, &pos, NULL, &value)) {
        struct processing *p = value;
        if (p->state == PROCESSING_RETRY) {
            processing_finish(p);
            pos = 0;
        }
    }
}

void processing_free_all(struct sessions *ss)
{
    size_t pos = 0;
    void *value;
    while (map_next(ss->processing, &pos, NULL, &value)) {
        processing_free(value);
        pos = 0;
    }
}
