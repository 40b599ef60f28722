#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/magic.h"
#include "lane/http/lane_int.h"

/* ------------------------------------------------------------------ names and metrics */

/* Names live for ever, because metrics keep them; they come from the configuration, so that there are few. */
static const char *name_intern(const char *name)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct name {
        struct name *next;
        char text[];
    } * names;
    size_t len = strlen(name) + 1;
    struct name *n;

    pthread_mutex_lock(&lock);
    for (n = names; n; n = n->next) {
        if (strcmp(n->text, name) == 0)
            break;
    }
    if (!n && (n = malloc(sizeof *n + len)) != NULL) {
        memcpy(n->text, name, len);
        n->next = names;
        names = n;
    }
    pthread_mutex_unlock(&lock);
    return n ? n->text : NULL;
}

static struct metric *lane_metric(const struct lane *l, enum metric_type type, const char *name, const char *help,
                                  const char *label, const char *value)
{
    struct metric_label labels[2] = {{"lane", l->name}, {label, value}};
    return metric_get(type, name, help, labels, label ? 2 : 1, NULL, 0);
}

/* Only the changes that exist have a series. */
static struct metric *transition_metric(const char *plugin, enum breaker_why why)
{
    enum breaker_state from, to;
    if (!breaker_why_states(why, &from, &to))
        return NULL;
    const struct metric_label labels[] = {{"plugin", plugin},
                                          {"from", breaker_state_name(from)},
                                          {"to", breaker_state_name(to)},
                                          {"reason", breaker_why_name(why)}};
    return metric_get(METRIC_COUNTER, "omid_breaker_transitions_total", "Changes of state of the targets' breakers.",
                      labels, ARRAY_LEN(labels), NULL, 0);
}

const char *lane_reject_name(enum lane_reject why)
{
    static const char *const names[REJECTS] = {"full", "queue_timeout", "breaker", "streams", "shutdown"};
    return names[why];
}

static void lane_metrics(struct lane *l)
{
    static const char *const outcomes[OMID_HTTP_ERRORS] = {
        [OMID_HTTP_OK] = "ok",
        [OMID_HTTP_BAD_URL] = "bad_url",
        [OMID_HTTP_FULL] = "full",
        [OMID_HTTP_QUEUE_TIMEOUT] = "queue_timeout",
        [OMID_HTTP_BREAKER] = "breaker",
        [OMID_HTTP_SUPERSEDED] = "superseded",
        [OMID_HTTP_RESOLVE] = "resolve",
        [OMID_HTTP_CONNECT] = "connect",
        [OMID_HTTP_TLS] = "tls",
        [OMID_HTTP_TIMEOUT] = "timeout",
        [OMID_HTTP_RESET] = "reset",
        [OMID_HTTP_PROTOCOL] = "protocol",
        [OMID_HTTP_BLOCKED] = "blocked",
        [OMID_HTTP_LOCAL] = "local",
        [OMID_HTTP_SHUTDOWN] = "shutdown",
    };
    static const double seconds[] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
    struct metric_label name = {"lane", l->name}, plugin = {"plugin", l->name};

    l->m.inflight = lane_metric(l, METRIC_GAUGE, "omid_lane_inflight",
                                "Requests and WebSocket handshakes that hold a slot of the semaphore.", NULL, NULL);
    l->m.waiting = lane_metric(l, METRIC_GAUGE, "omid_lane_waiting",
                               "Requests and handshakes that wait for the semaphore.", NULL, NULL);
    l->m.streams = lane_metric(l, METRIC_GAUGE, "omid_lane_streams",
                               "Outgoing WebSockets, those being connected included.", NULL, NULL);
    l->m.superseded = lane_metric(l, METRIC_COUNTER, "omid_lane_superseded_total",
                                  "Waiting requests replaced by a newer one of the same key.", NULL, NULL);
    l->m.redirects = lane_metric(l, METRIC_COUNTER, "omid_lane_redirects_total", "Redirects followed.", NULL, NULL);
    l->m.seconds =
        metric_get(METRIC_HISTOGRAM, "omid_lane_request_seconds", "Time of an attempt from its slot to its outcome.",
                   &name, 1, seconds, ARRAY_LEN(seconds));
    for (unsigned i = 0; i < OMID_HTTP_ERRORS; i++)
        l->m.requests[i] = lane_metric(l, METRIC_COUNTER, "omid_lane_requests_total", "Requests answered, by outcome.",
                                       "outcome", outcomes[i]);
    for (unsigned i = 0; i < REJECTS; i++)
        l->m.rejected[i] = lane_metric(l, METRIC_COUNTER, "omid_lane_rejected_total",
                                       "Requests and WebSockets refused without an attempt.", "reason",
                                       lane_reject_name((enum lane_reject)i));
    l->m.open_breakers = metric_get(METRIC_GAUGE, "omid_breaker_open", "Targets whose breaker is open or half open.",
                                    &plugin, 1, NULL, 0);
    for (unsigned i = 0; i < BREAKER_WHYS; i++)
        l->m.transitions[i] = transition_metric(l->name, (enum breaker_why)i);
}

void lane_rejected(struct lane *l, enum lane_reject why)
{
    metric_add(l->m.rejected[why], 1);
    atomic_fetch_add(&l->seen.rejected[why], 1);
}

void lane_streams_add(struct lane *l, int n)
{
    l->streams += (unsigned)n;
    atomic_store(&l->seen.streams, l->streams);
    metric_set(l->m.streams, l->streams);
}

uint64_t lane_now(const struct lane *l)
{
    return loop_now_ms(l->ls->loop);
}

/* ------------------------------------------------------------------ counts */

static void lane_set_inflight(struct lane *l, unsigned n)
{
    l->inflight = n;
    atomic_store(&l->seen.inflight, n);
    metric_set(l->m.inflight, n);
    /* curl counts busy connections among those it keeps: without this a busy lane would close each after use. */
    if (l->curl)
        curlev_limit(l->curl, l->conf.pool, n + l->conf.idle);
}

static void lane_set_waiting(struct lane *l, unsigned n)
{
    l->waiting = n;
    atomic_store(&l->seen.waiting, n);
    metric_set(l->m.waiting, n);
}

void lane_open_breakers_add(struct lane *l, int n)
{
    l->open_breakers += (unsigned)n;
    atomic_store(&l->seen.open, l->open_breakers);
    metric_add(l->m.open_breakers, n);
}

/* A breaker may have changed its state. */
static void lane_breaker_moved(struct lane *l, struct target *t, enum breaker_state from)
{
    enum breaker_state to = t->breaker.state;

    if (to == from)
        return;
    board_put(l, t);
    metric_add(l->m.transitions[t->breaker.why], 1);
    if (from == BREAKER_CLOSED)
        lane_open_breakers_add(l, 1);
    else if (to == BREAKER_CLOSED)
        lane_open_breakers_add(l, -1);
    /* Paths may hold tokens: the origin is enough for a log. */
    log_info("lane", "breaker", LS("lane", l->name), LS("target", t->origin->key), LS("to", breaker_state_name(to)),
             LS("reason", breaker_why_name(t->breaker.why)));
}

/* ------------------------------------------------------------------ the queue */

static bool target_may_start(const struct lane *l, const struct target *t)
{
    return t->inflight < target_limit(t) && origin_room(l, t->origin) > 0;
}

/* After its room has changed, or how many of its targets are in the ring. */
static void origin_settle(struct lane *l, struct origin *o)
{
    while (!list_empty(&o->held) && o->ringed < origin_room(l, o)) {
        struct target *t = list_entry(o->held.next, struct target, ring);
        list_remove(&t->ring);
        t->held = false;
        list_append(&l->ring, &t->ring);
        o->ringed++;
    }
}

static void ring_join(struct lane *l, struct target *t)
{
    struct origin *o = t->origin;

    t->held = !list_empty(&o->held) || o->ringed >= origin_room(l, o);
    list_append(t->held ? &o->held : &l->ring, &t->ring);
    if (!t->held)
        o->ringed++;
}

static void ring_leave(struct target *t)
{
    if (list_empty(&t->ring))
        return;
    list_remove(&t->ring);
    if (!t->held)
        t->origin->ringed--;
    t->held = false;
}

/* After each change of what it has waiting, in flight, or for a limit: the ring holds those alone that a free slot
 * can go to, so that a turn never has to look for one. */
static void target_settle(struct lane *l, struct target *t)
{
    unsigned limit = target_limit(t);
    bool wanted = t->waiting > 0 && t->inflight < limit;

    atomic_store_explicit(&t->seen.limit, limit, memory_order_relaxed);
    atomic_store_explicit(&t->seen.inflight, t->inflight, memory_order_relaxed);
    atomic_store_explicit(&t->seen.waiting, t->waiting, memory_order_relaxed);
    if (!wanted)
        ring_leave(t);
    else if (list_empty(&t->ring))
        ring_join(l, t);
    origin_settle(l, t->origin);
}

/* The timer ends with the first in the queue, or before: in a busy lane each request is the first for a moment, and to
 * move it with each costs more than to find, once in a queue's time, that nobody has waited so long. */
static void lane_arm(struct lane *l)
{
    struct ev_loop *ev = loop_ev(l->ls->loop);

    if (list_empty(&l->queue))
        return;
    uint64_t deadline = list_entry(l->queue.next, struct waiter, in_lane)->deadline;
    if (ev_is_active(&l->expiry) && l->expiry_ms <= deadline)
        return;
    uint64_t now = lane_now(l);
    l->expiry_ms = deadline;
    ev_timer_stop(ev, &l->expiry);
    ev_now_update(ev);
    ev_timer_set(&l->expiry, deadline > now ? (double)(deadline - now) / 1000 : 0., 0.);
    ev_timer_start(ev, &l->expiry);
}

static void waiter_unlink(struct lane *l, struct waiter *w)
{
    struct target *t = w->target;
    bool first = l->queue.next == &w->in_lane;

    omid_assert(w->queued);
    w->queued = false;
    list_remove(&w->in_target);
    list_remove(&w->in_lane);
    t->waiting--;
    t->origin->waiting--;
    lane_set_waiting(l, l->waiting - 1);
    target_settle(l, t);
    if (first)
        lane_arm(l);
}

/* One whose time ends before that of those who come now: the queue stays in the order of its deadlines. */
static void queue_early(struct lane *l, struct waiter *w)
{
    struct list *at = l->queue.next;

    w->deadline = w->until;
    while (at != &l->queue && list_entry(at, struct waiter, in_lane)->deadline <= w->deadline)
        at = at->next;
    list_insert_before(at, &w->in_lane);
}

static void waiter_link(struct lane *l, struct waiter *w, struct list *before)
{
    struct target *t = w->target;

    omid_assert(!w->queued);
    w->queued = true;
    w->deadline = lane_now(l) + l->conf.queue_timeout_ms;
    list_insert_before(before, &w->in_target);
    if (w->until > 0 && w->until < w->deadline)
        queue_early(l, w);
    else
        list_append(&l->queue, &w->in_lane);
    t->waiting++;
    t->origin->waiting++;
    target_settle(l, t);
    lane_set_waiting(l, l->waiting + 1);
    if (l->queue.next == &w->in_lane)
        lane_arm(l);
}

static void on_expiry(struct ev_loop *ev, ev_timer *timer, int revents)
{
    struct lane *l = timer->data;
    uint64_t now = lane_now(l);

    (void)ev;
    (void)revents;
    CHECK_MAGIC(l, LANE_MAGIC);
    while (!list_empty(&l->queue)) {
        struct waiter *w = list_entry(l->queue.next, struct waiter, in_lane);
        if (w->deadline > now)
            break;
        waiter_unlink(l, w);
        lane_rejected(l, REJECT_QUEUE_TIMEOUT);
        w->refuse(w, OMID_HTTP_QUEUE_TIMEOUT);
    }
    lane_arm(l);
}

/* ------------------------------------------------------------------ slots */

/* A slot is free for it; it is in no queue. */
static void slot_give(struct lane *l, struct waiter *w)
{
    struct target *t = w->target;

    if (!w->admitted) {
        enum breaker_state from = t->breaker.state;
        bool admitted = breaker_admit(&t->breaker, lane_now(l), w->within_ms, &w->token);
        lane_breaker_moved(l, t, from);
        if (!admitted) {
            lane_rejected(l, REJECT_BREAKER);
            w->refuse(w, OMID_HTTP_BREAKER);
            return;
        }
        w->admitted = true;
    }
    t->inflight++;
    t->origin->inflight++;
    limit_began(&t->limit, t->inflight);
    target_settle(l, t);
    lane_set_inflight(l, l->inflight + 1);
    w->go(w);
}

/* Deficit round robin with a cost of one per request: each target with waiters has one turn after the other.
 * NULL: none may start. */
static struct waiter *lane_pick(struct lane *l)
{
    while (!list_empty(&l->ring)) {
        struct target *t = list_entry(l->ring.next, struct target, ring);
        struct waiter *w = list_entry(t->waiters.next, struct waiter, in_target);
        if (origin_room(l, t->origin) == 0) { /* others of its origin had their turn since; the next one is its */
            ring_leave(t);
            list_prepend(&t->origin->held, &t->ring);
            t->held = true;
            continue;
        }
        list_remove(&t->ring);
        t->held = !list_empty(&t->origin->held); /* behind those that have not had their turn */
        list_append(t->held ? &t->origin->held : &l->ring, &t->ring);
        t->origin->ringed -= t->held;
        waiter_unlink(l, w);
        return w;
    }
    return NULL;
}

static void lane_pump(struct lane *l)
{
    struct waiter *w;

    if (l->pumping || l->ls->down)
        return;
    l->pumping = true;
    while (l->inflight < l->conf.semaphore && (w = lane_pick(l)) != NULL)
        slot_give(l, w);
    l->pumping = false;
}

void lane_slot_ask(struct lane *l, struct waiter *w)
{
    struct target *t = w->target;
    unsigned share = l->conf.queue / 4 > 0 ? l->conf.queue / 4 : 1;

    list_init(&w->in_target);
    list_init(&w->in_lane);
    if (l->ls->down) {
        lane_rejected(l, REJECT_SHUTDOWN);
        w->refuse(w, OMID_HTTP_SHUTDOWN);
    } else if (!w->admitted && !breaker_ready(&t->breaker, lane_now(l))) {
        lane_rejected(l, REJECT_BREAKER);
        w->refuse(w, OMID_HTTP_BREAKER);
    } else if (l->inflight < l->conf.semaphore && target_may_start(l, t) && t->waiting == 0) {
        slot_give(l, w);
    } else if (l->waiting >= l->conf.queue || t->waiting >= share || !origin_may_wait(l, t->origin)) {
        lane_rejected(l, REJECT_FULL);
        w->refuse(w, OMID_HTTP_FULL);
    } else {
        waiter_link(l, w, &t->waiters);
    }
}

void lane_slot_replace(struct lane *l, struct waiter *w, struct waiter *by)
{
    omid_assert(w->queued && w->target == by->target);
    list_init(&by->in_target);
    list_init(&by->in_lane);
    waiter_link(l, by, &w->in_target);
    waiter_unlink(l, w);
    metric_add(l->m.superseded, 1);
}

void lane_slot_cancel(struct lane *l, struct waiter *w)
{
    waiter_unlink(l, w);
}

void lane_slot_free(struct lane *l, struct waiter *w)
{
    omid_assert(w->target->inflight > 0 && l->inflight > 0);
    w->target->inflight--;
    w->target->origin->inflight--;
    target_settle(l, w->target);
    lane_set_inflight(l, l->inflight - 1);
    lane_pump(l);
}

/* Told while its slot is still counted. */
static void target_learn(struct lane *l, struct target *t, enum breaker_outcome outcome, enum breaker_state from)
{
    static const enum limit_outcome outcomes[] = {
        [BREAKER_SUCCESS] = LIMIT_SUCCESS,
        [BREAKER_ANSWERED] = LIMIT_SUCCESS,
        [BREAKER_FAILURE] = LIMIT_FAILURE,
        [BREAKER_OVERLOAD] = LIMIT_LOSS,
    };
    unsigned left = t->inflight > 0 ? t->inflight - 1 : 0;

    origin_learn(l, t->origin, outcome, t->rules->timeout_ms);
    if (outcome != BREAKER_NEUTRAL)
        limit_ended(&t->limit, t->rules->semaphore, left, outcomes[outcome]);
    if (from == BREAKER_HALF_OPEN && t->breaker.state == BREAKER_CLOSED)
        limit_recovered(&t->limit, left);
    target_settle(l, t);
}

void lane_verdict(struct lane *l, struct waiter *w, enum breaker_outcome outcome, uint64_t took_ms)
{
    struct target *t = w->target;
    const struct conf_lane *rules = t->rules;
    struct breaker_config conf = {
        .failures = rules->breaker_failures,
        .open_ms = rules->breaker_open_ms,
        .open_max_ms = rules->breaker_open_max_ms,
        .slow_ms = rules->breaker_slow_ms,
        .min_attempts = rules->breaker_min_attempts,
        .error_rate = rules->breaker_error_rate,
        .slow_share = rules->breaker_slow_share,
        .period_ms = rules->breaker_window_ms,
    };
    enum breaker_state from = t->breaker.state;

    omid_assert(w->admitted);
    w->admitted = false;
    breaker_report(&t->breaker, &conf, lane_now(l), id_random_unit(), &w->token, outcome, took_ms);
    lane_breaker_moved(l, t, from);
    target_learn(l, t, outcome, from);
    if (t->breaker.state != BREAKER_OPEN || from == BREAKER_OPEN)
        return;
    /* Nobody waits for what would be refused anyway. */
    list_each (it, &t->waiters) {
        struct waiter *other = list_entry(it, struct waiter, in_target);
        if (other->admitted)
            continue;
        waiter_unlink(l, other);
        lane_rejected(l, REJECT_BREAKER);
        other->refuse(other, OMID_HTTP_BREAKER);
    }
}

void lane_unresolved(struct waiter *w)
{
    origin_unresolved(w->target->origin);
}

void target_reset(struct lane *l, const char *key)
{
    struct target *t = map_get(l->targets, key);

    if (!t || t->breaker.state == BREAKER_CLOSED)
        return;
    enum breaker_state from = t->breaker.state;
    breaker_reset(&t->breaker, lane_now(l));
    lane_breaker_moved(l, t, from);
    limit_recovered(&t->limit, t->inflight);
    target_settle(l, t);
}

/* ------------------------------------------------------------------ life */

void lane_ref(struct lane *l)
{
    atomic_fetch_add(&l->refs, 1);
}

static void lane_destroy(struct loop *loop, struct loop_msg *msg)
{
    struct lane *l = container_of(msg, struct lane, free_msg);

    CHECK_MAGIC(l, LANE_MAGIC);
    omid_assert(l->inflight == 0 && l->waiting == 0 && l->streams == 0 && list_empty(&l->ws));
    pthread_mutex_lock(&l->ls->lock);
    list_remove(&l->link);
    pthread_mutex_unlock(&l->ls->lock);
    ev_timer_stop(loop_ev(loop), &l->expiry);
    targets_free(l);
    rules_free(l);
    board_free(l);
    while (l->n_spare > 0)
        lane_easy_free(&l->spare[--l->n_spare]);
    curlev_free(&l->curl);
    map_free(&l->targets);
    map_free(&l->latest);
    map_free(&l->origins);
    free(l->spare);
    l->magic = OMID_MAGIC_DEAD;
    free(l);
}

void lane_unref(struct lane *l)
{
    if (atomic_fetch_sub(&l->refs, 1) == 1)
        loop_post(l->ls->loop, &l->free_msg);
}

static bool lane_apply(struct lane *l, const struct conf_lane *conf)
{
    if (!rules_apply(l, conf))
        return false;
    uint64_t most = 2 * ((uint64_t)l->conf.queue + l->conf.semaphore) + LANE_OVERCOMMIT;
    atomic_store(&l->begun_max, most < UINT32_MAX ? (unsigned)most : UINT32_MAX);
    atomic_store(&l->seen.semaphore, l->conf.semaphore);
    return true;
}

struct lane *lane_new(struct lanes *ls, const char *name, const struct conf_lane *config)
{
    CHECK_MAGIC(ls, LANES_MAGIC);
    struct lane *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->magic = LANE_MAGIC;
    l->ls = ls;
    l->refs = 1;
    l->free_msg.fn = lane_destroy;
    l->name = name_intern(name);
    l->targets = map_new();
    l->latest = map_new();
    l->origins = map_new();
    l->max_spare = 4096; /* as many as a semaphore can have */
    l->spare = calloc(l->max_spare, sizeof *l->spare);
    board_init(l);
    if (!l->name || !l->targets || !l->latest || !l->origins || !l->spare || !lane_apply(l, config)) {
        board_free(l);
        map_free(&l->targets);
        map_free(&l->latest);
        map_free(&l->origins);
        free(l->spare);
        free(l);
        return NULL;
    }
    list_init(&l->queue);
    list_init(&l->ring);
    list_init(&l->idle);
    list_init(&l->running);
    list_init(&l->ws);
    ev_init(&l->expiry, on_expiry);
    l->expiry.data = l;
    lane_metrics(l);
    pthread_mutex_lock(&ls->lock);
    list_append(&ls->lanes, &l->link);
    pthread_mutex_unlock(&ls->lock);
    return l;
}

struct configure_msg {
    struct loop_msg msg;
    struct lane *lane;
    struct conf_lane conf;
};

static void on_configure(struct loop *loop, struct loop_msg *msg)
{
    struct configure_msg *m = container_of(msg, struct configure_msg, msg);
    struct lane *l = m->lane;
    uint64_t latest = lane_now(l) + m->conf.queue_timeout_ms;

    bool had = l->n_overrides > 0;
    const char *key;
    void *t;

    (void)loop;
    if (!lane_apply(l, &m->conf))
        log_error("lane", "no memory to change a lane", LS("lane", l->name));
    for (size_t pos = 0; (had || l->n_overrides > 0) && map_next(l->targets, &pos, &key, &t);)
        target_settle(l, t);
    list_each (it, &l->queue) /* none waits longer than the new limit, and the queue stays in order */
    {
        struct waiter *w = list_entry(it, struct waiter, in_lane);
        w->deadline = w->deadline < latest ? w->deadline : latest;
        target_settle(l, w->target);
    }
    lane_arm(l);
    lane_set_inflight(l, l->inflight);
    lane_pump(l);
    conf_lane_clear(&m->conf);
    lane_unref(l);
    free(m);
}

void lane_configure(struct lane *l, const struct conf_lane *config)
{
    CHECK_MAGIC(l, LANE_MAGIC);
    struct configure_msg *m = calloc(1, sizeof *m);
    if (!m) {
        log_error("lane", "no memory to change a lane", LS("lane", l->name));
        return;
    }
    m->msg.fn = on_configure;
    m->lane = l;
    conf_lane_copy(&m->conf, config);
    lane_ref(l);
    loop_post(l->ls->loop, &m->msg);
}

struct lane *lane_share(struct lane *l)
{
    CHECK_MAGIC(l, LANE_MAGIC);
    lane_ref(l);
    return l;
}

void lane_release(struct lane **lp)
{
    struct lane *l = *lp;

    if (!l)
        return;
    CHECK_MAGIC(l, LANE_MAGIC);
    *lp = NULL;
    lane_unref(l);
}

void lane_shut(struct lane *l)
{
    while (!list_empty(&l->queue)) {
        struct waiter *w = list_entry(l->queue.next, struct waiter, in_lane);
        waiter_unlink(l, w);
        lane_rejected(l, REJECT_SHUTDOWN);
        w->refuse(w, OMID_HTTP_SHUTDOWN);
    }
    ev_timer_stop(loop_ev(l->ls->loop), &l->expiry);
    requests_shut(l);
    ws_shut(l);
    while (l->n_spare > 0)
        lane_easy_free(&l->spare[--l->n_spare]);
    curlev_free(&l->curl);
}
