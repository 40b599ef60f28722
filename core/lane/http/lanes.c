#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/magic.h"
#include "lane/http/lane_int.h"

#define SWEEP_S 60.

static void on_sweep(struct ev_loop *ev, ev_timer *timer, int revents)
{
    struct lanes *ls = timer->data;

    (void)ev;
    (void)revents;
    CHECK_MAGIC(ls, LANES_MAGIC);
    uint64_t now = loop_now_ms(ls->loop);
    pthread_mutex_lock(&ls->lock);
    list_each (it, &ls->lanes) {
        struct lane *l = list_entry(it, struct lane, link);
        targets_expire(l, now);
        (void)rules_remark(l, now);
    }
    pthread_mutex_unlock(&ls->lock);
}

struct lanes *lanes_new(void)
{
    struct lanes *ls = calloc(1, sizeof *ls);
    if (!ls)
        return NULL;
    ls->loop = loop_new("lane");
    if (!ls->loop) {
        free(ls);
        return NULL;
    }
    ls->magic = LANES_MAGIC;
    pthread_mutex_init(&ls->lock, NULL);
    list_init(&ls->lanes);
    list_init(&ls->wsloops);
    ev_timer_init(&ls->sweep, on_sweep, SWEEP_S, SWEEP_S);
    ls->sweep.data = ls;
    return ls;
}

bool lanes_start(struct lanes *ls)
{
    CHECK_MAGIC(ls, LANES_MAGIC);
    ev_timer_start(loop_ev(ls->loop), &ls->sweep);
    ls->started = loop_start(ls->loop);
    if (!ls->started) {
        log_error("lane", "the lane thread can't be started", LI("errno", errno));
        ev_timer_stop(loop_ev(ls->loop), &ls->sweep);
    }
    return ls->started;
}

struct loop *lanes_loop(struct lanes *ls)
{
    CHECK_MAGIC(ls, LANES_MAGIC);
    return ls->loop;
}

bool lanes_enter(struct lanes *ls)
{
    atomic_fetch_add(&ls->posting, 1);
    if (!atomic_load(&ls->stopping))
        return true;
    atomic_fetch_sub(&ls->posting, 1);
    return false;
}

void lanes_leave(struct lanes *ls)
{
    atomic_fetch_sub(&ls->posting, 1);
}

struct stop_msg {
    struct loop_msg msg;
    struct lanes *ls;
};

static void on_stop(struct loop *loop, struct loop_msg *msg)
{
    struct lanes *ls = container_of(msg, struct stop_msg, msg)->ls;

    ls->down = true;
    ev_timer_stop(loop_ev(loop), &ls->sweep);
    /* Lanes end on this thread alone, so that none leaves the list meanwhile; new ones only join it. */
    pthread_mutex_lock(&ls->lock);
    list_each (it, &ls->lanes)
        lane_shut(list_entry(it, struct lane, link));
    pthread_mutex_unlock(&ls->lock);
}

void lanes_stop(struct lanes *ls)
{
    CHECK_MAGIC(ls, LANES_MAGIC);
    struct stop_msg stop = {.msg = {.fn = on_stop}, .ls = ls};

    if (atomic_exchange(&ls->stopping, true))
        return;
    loop_post(ls->loop, &stop.msg);
    /* Joins the thread, then runs what came too late for it. */
    loop_stop(ls->loop);
    while (atomic_load(&ls->posting) > 0) { /* at the latest at the end of a caller's turn it is here */
        sched_yield();
        loop_stop(ls->loop);
    }
    pthread_mutex_lock(&ls->lock);
    list_each (it, &ls->wsloops) {
        struct lane_wsloop *w = list_entry(it, struct lane_wsloop, link);
        loop_post(w->loop, &w->end);
    }
    pthread_mutex_unlock(&ls->lock);
}

void lanes_free(struct lanes **lsp)
{
    struct lanes *ls = *lsp;

    if (!ls)
        return;
    CHECK_MAGIC(ls, LANES_MAGIC);
    *lsp = NULL;
    lanes_stop(ls);
    loop_stop(ls->loop); /* releases since then */
    if (!list_empty(&ls->lanes) || !list_empty(&ls->wsloops)) {
        log_error("lane", "lanes or WebSockets were not released: their memory is left behind");
        return;
    }
    loop_free(&ls->loop);
    pthread_mutex_destroy(&ls->lock);
    ls->magic = OMID_MAGIC_DEAD;
    free(ls);
}

static void on_wsloop_end(struct loop *loop, struct loop_msg *msg)
{
    struct lane_wsloop *w = container_of(msg, struct lane_wsloop, end);

    (void)loop;
    w->ending = true;
    if (w->users > 0) /* the last one posts this again */
        return;
    pthread_mutex_lock(&w->ls->lock);
    list_remove(&w->link);
    pthread_mutex_unlock(&w->ls->lock);
    wsloop_free(&w->ws);
    free(w);
}

struct lane_wsloop *lanes_wsloop_get(struct lanes *ls, struct loop *loop)
{
    struct lane_wsloop *found = NULL;

    pthread_mutex_lock(&ls->lock);
    list_each (it, &ls->wsloops) {
        struct lane_wsloop *w = list_entry(it, struct lane_wsloop, link);
        if (w->loop == loop)
            found = w;
    }
    pthread_mutex_unlock(&ls->lock);
    if (!found) {
        found = calloc(1, sizeof *found);
        if (!found)
            return NULL;
        found->ls = ls;
        found->loop = loop;
        found->end.fn = on_wsloop_end;
        found->ws = wsloop_new(loop_ev(loop));
        if (!found->ws) {
            free(found);
            return NULL;
        }
        pthread_mutex_lock(&ls->lock);
        list_append(&ls->wsloops, &found->link);
        pthread_mutex_unlock(&ls->lock);
    }
    found->users++;
    return found;
}

void lanes_wsloop_put(struct lane_wsloop **wp)
{
    struct lane_wsloop *w = *wp;

    if (!w)
        return;
    *wp = NULL;
    omid_assert(w->users > 0);
    if (--w->users == 0 && w->ending)
        loop_post(w->loop, &w->end);
}

void lanes_status(struct lanes *ls, struct json_w *w)
{
    CHECK_MAGIC(ls, LANES_MAGIC);
    uint64_t now = clock_mono_ms();
    json_w_open(w, '[');
    pthread_mutex_lock(&ls->lock);
    list_each (it, &ls->lanes) {
        struct lane *l = list_entry(it, struct lane, link);
        json_w_open(w, '{');
        json_w_kstr(w, "name", l->name);
        json_w_kint(w, "semaphore", atomic_load(&l->seen.semaphore));
        json_w_kint(w, "in_flight", atomic_load(&l->seen.inflight));
        json_w_kint(w, "waiting", atomic_load(&l->seen.waiting));
        json_w_kint(w, "streams", atomic_load(&l->seen.streams));
        json_w_kint(w, "done", (int64_t)atomic_load(&l->seen.done));
        int64_t rejected = 0;
        for (unsigned i = 0; i < REJECTS; i++)
            rejected += (int64_t)atomic_load(&l->seen.rejected[i]);
        json_w_kint(w, "rejected", rejected);
        json_w_key(w, "rejected_by");
        json_w_open(w, '{');
        for (unsigned i = 0; i < REJECTS; i++)
            json_w_kint(w, lane_reject_name((enum lane_reject)i), (int64_t)atomic_load(&l->seen.rejected[i]));
        json_w_close(w, '}');
        json_w_knum(w, "p50_ms", (double)latency_quantile(&l->latency, now, 0.5) / 1e3);
        json_w_knum(w, "p99_ms", (double)latency_quantile(&l->latency, now, 0.99) / 1e3);
        json_w_kint(w, "targets", atomic_load(&l->seen.targets));
        json_w_kint(w, "breakers_open", atomic_load(&l->seen.open));
        json_w_key(w, "target_blocks");
        rules_write(l, w);
        json_w_close(w, '}');
    }
    pthread_mutex_unlock(&ls->lock);
    json_w_close(w, ']');
}
