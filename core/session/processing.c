/*
 * The ends of conversations: which ones run, which wait, what becomes of one that failed. Each step can be repeated:
 * after a crash, or when one fails, it starts over from the store, which keeps what parts have made; named jobs keep
 * partners from hearing it twice.
 */
#include "session/processing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "host/ask.h"
#include "session/geolocation.h"

#define MODULE PROCESSING_MODULE
#define PUT_OFF_MS 1000 /* a plugin is being replaced */
#define JITTER 0.2

void processing_set_state(struct processing *p, enum processing_state to)
{
    bool legal = to == PROCESSING_RETRY     ? p->state != PROCESSING_WAITING && p->state != PROCESSING_RETRY
                 : to == PROCESSING_WAITING ? p->state == PROCESSING_RETRY
                 : to == PROCESSING_END
                     ? p->state == PROCESSING_BEGIN || p->state == PROCESSING_WORK || p->state == PROCESSING_OFFER
                     : to == p->state + 1;
    omid_assert(legal);
    p->state = to;
}

static bool processing_holds_place(const struct processing *p)
{
    return p->state != PROCESSING_WAITING && p->state != PROCESSING_RETRY;
}

static void processing_free(struct processing *p)
{
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    map_remove(p->ss->processing, p->id);
    rest_processed(p->ss, p->id, 503, NULL, NULL); /* whoever still waits for it */
    list_remove(&p->link);
    ev_timer_stop(loop_ev(p->ss->env.loop), &p->retry);
    host_ask_cancel(&p->ask);
    geolocation_cancel(&p->locating);
    if (p->extracting)
        return; /* of an executor's thread that was abandoned: it may still use it */
    store_conversation_free(&p->conversation);
    buf_free(&p->extract);
    free(p->summary);
    free(p->geolocation);
    free(p->uid);
    p->magic = OMID_MAGIC_DEAD;
    free(p);
}

/* ------------------------------------------------------------------- places */

/* Whoever waits takes the places that are free. One that fails at once gives its place back within this loop. */
static void places_fill(struct sessions *ss)
{
    if (ss->placing)
        return;
    ss->placing = true;
    struct list *next;
    while (ss->running < ss->env.conf->processing.at_once && (next = list_pop(&ss->waiting)) != NULL) {
        ss->n_waiting--;
        metric_add(session_metrics()->processing_waiting, -1);
        ss->running++;
        metric_add(session_metrics()->processing_running, 1);
        processing_begin(list_entry(next, struct processing, link));
    }
    ss->placing = false;
}

static void place_give(struct sessions *ss)
{
    ss->running--;
    metric_add(session_metrics()->processing_running, -1);
    places_fill(ss);
}

static void place_take(struct processing *p)
{
    struct sessions *ss = p->ss;
    list_append(&ss->waiting, &p->link);
    ss->n_waiting++;
    metric_add(session_metrics()->processing_waiting, 1);
    places_fill(ss);
}

void processing_finish(struct processing *p)
{
    struct sessions *ss = p->ss;
    bool place = processing_holds_place(p);
    processing_free(p);
    if (place)
        place_give(ss);
    sessions_check_drained(ss);
}

/* ------------------------------------------------------------------- failures */

static void processing_pause(struct processing *p, uint32_t ms)
{
    struct sessions *ss = p->ss;
    processing_set_state(p, PROCESSING_RETRY);
    ev_timer_set(&p->retry, ms / 1000., 0.);
    ev_timer_start(loop_ev(ss->env.loop), &p->retry);
    place_give(ss);
}

static uint32_t pause_ms(const struct processing *p, unsigned failures)
{
    uint64_t ms = p->ss->env.conf->processing.retry_ms, max = p->ss->env.conf->processing.retry_max_ms;
    for (unsigned i = 1; i < failures && ms < max; i++)
        ms *= 2;
    ms = ms < max ? ms : max;
    return (uint32_t)((double)ms * (1 - JITTER + 2 * JITTER * id_random_unit()));
}

static void processing_again_in(struct processing *p, const char *step, uint32_t ms)
{
    metric_add(session_metrics()->processing_retries, 1);
    if (p->ss->draining) {
        log_warning(MODULE, "step failed, left to the next start", LS("conversation", p->id), LS("step", step),
                    LS("reason", p->error));
        processing_finish(p);
        return;
    }
    log_warning(MODULE, "step failed, trying again", LS("conversation", p->id), LS("step", step),
                LS("reason", p->error), LU("in_ms", ms));
    processing_pause(p, ms);
}

void processing_again(struct processing *p, const char *step, const char *why)
{
    p->failures++;
    snprintf(p->error, sizeof p->error, "%s%s%s", step, why ? ": " : "", why ? why : "");
    if (p->failures >= p->ss->env.conf->processing.attempts) {
        log_error(MODULE, "given up", LS("conversation", p->id), LU("failures", p->failures), LS("reason", p->error));
        processing_end(p, STORE_FAILED);
        return;
    }
    (void)store_processing_failed(p->ss->env.store, p->id, p->failures); /* else this process alone counts it */
    processing_again_in(p, step, pause_ms(p, p->failures));
}

void processing_store_failed(struct processing *p, const char *step)
{
    snprintf(p->error, sizeof p->error, "%s: the store failed", step);
    p->store_failures++;
    processing_again_in(p, step, pause_ms(p, p->store_failures));
}

void processing_put_off(struct processing *p)
{
    if (p->ss->draining)
        processing_finish(p); /* the store keeps it as `processing`: the next start goes on */
    else
        processing_pause(p, PUT_OFF_MS);
}

static void on_retry(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct processing *p = w->data;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    if (p->ss->draining) {
        processing_finish(p);
        return;
    }
    processing_set_state(p, PROCESSING_WAITING);
    place_take(p);
}

/* ------------------------------------------------------------------- start and stop */

void processing_start(struct sessions *ss, const char *id, const char *uid)
{
    if (map_get(ss->processing, id))
        return;
    struct processing *p = NULL;
    if (ss->n_waiting < ss->env.conf->processing.waiting)
        p = calloc(1, sizeof *p);
    if (!p) {
        metric_add(session_metrics()->processing_refused, 1);
        rest_processed(ss, id, 503, NULL, NULL);
        return; /* the sweeper finds it again */
    }
    p->magic = PROCESSING_MAGIC;
    p->ss = ss;
    p->began_ms = clock_mono_ms();
    snprintf(p->id, sizeof p->id, "%s", id);
    list_init(&p->link);
    ev_init(&p->retry, on_retry);
    p->retry.data = p;
    p->uid = strdup(uid);
    if (!p->uid || !map_put(ss->processing, p->id, p, NULL)) {
        processing_free(p);
        return;
    }
    place_take(p);
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

static void waiting_drop(struct sessions *ss)
{
    for (struct list *it; (it = list_pop(&ss->waiting)) != NULL;)
        processing_free(list_entry(it, struct processing, link));
    metric_add(session_metrics()->processing_waiting, -(int64_t)ss->n_waiting);
    ss->n_waiting = 0;
}

void processing_drain(struct sessions *ss)
{
    waiting_drop(ss);
    /* Finishing one changes the table: from its start each time. */
    size_t pos = 0;
    void *value;
    while (map_next(ss->processing, &pos, NULL, &value)) {
        struct processing *p = value;
        bool asking = p->ask || p->locating;
        if (p->state == PROCESSING_RETRY)
            processing_finish(p);
        else if (asking)
            processing_parts_cancel(p);
        else
            continue;
        pos = 0;
    }
}

void processing_free_all(struct sessions *ss)
{
    waiting_drop(ss);
    size_t pos = 0;
    void *value;
    while (map_next(ss->processing, &pos, NULL, &value)) {
        processing_free(value);
        pos = 0;
    }
    metric_add(session_metrics()->processing_running, -(int64_t)ss->running);
    ss->running = 0;
}
