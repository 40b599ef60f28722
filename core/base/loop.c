#include "base/loop.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/magic.h"
#include "base/thread.h"

#define LOOP_MAGIC UINT32_C(0x6c6f6f70)

struct loop {
    uint32_t magic;
    char name[16];
    struct ev_loop *ev;
    ev_async wake;
    ev_check turn_begin;
    pthread_t thread;
    bool running; /* between loop_start and loop_stop: the starter's */
    atomic_bool stopping;
    _Atomic(pthread_t) owner; /* whose thread it is now; 0: nobody's yet */

    /* its thread */
    bool turning; /* within loop_main(): a turn's end will come */
    struct loop_outbox out;
    uint64_t gather_ns, turn_ns; /* the least time between the beginnings of two turns; when the last one began */

    pthread_mutex_t lock; /* guards the inbox */
    pthread_cond_t gathered;
    bool gathering; /* under lock: waits for `gathered`, not in epoll */
    struct loop_msg *first, **last;
    uint64_t posted_ns;  /* when it became non-empty */
    atomic_uint posting; /* any: those between the list and the wake, which loop_free() must wait for */

    struct pulse pulse;
};

void loop_lag_read(const struct loop *l, struct pulse_lag *out)
{
    CHECK_MAGIC(l, LOOP_MAGIC);
    pulse_lag_read(&l->pulse, out);
}

/* ----------------------------------------------------------------------- inbox */

static struct loop_msg *inbox_take(struct loop *l, uint64_t *posted_ns)
{
    pthread_mutex_lock(&l->lock);
    struct loop_msg *first = l->first;
    *posted_ns = l->posted_ns;
    l->first = NULL;
    l->last = &l->first;
    pthread_mutex_unlock(&l->lock);
    return first;
}

/* One batch: what its messages post is for the next turn, so that sockets and timers have theirs between. */
static bool inbox_run(struct loop *l)
{
    uint64_t posted_ns;
    struct loop_msg *msg = inbox_take(l, &posted_ns);
    if (!msg)
        return false;
    uint64_t now = clock_mono_ns();
    pulse_lag_note(&l->pulse, now > posted_ns ? now - posted_ns : 0);
    while (msg) {
        struct loop_msg *next = msg->next; /* msg is fn's to free */
        msg->next = NULL;
        msg->fn(l, msg);
        msg = next;
    }
    return true;
}

static void on_wake(struct ev_loop *ev, ev_async *w, int revents)
{
    (void)ev;
    (void)revents;
    inbox_run(w->data);
}

/* Messages that hang together; last is the end of the last one. One that gathers looks at its inbox when its time is
 * over; gathered: at once. */
static void inbox_append(struct loop *l, struct loop_msg *first, struct loop_msg **last, bool gathered)
{
    atomic_fetch_add(&l->posting, 1);
    pthread_mutex_lock(&l->lock);
    bool wake = l->first == NULL && !l->gathering, hurry = gathered && l->gathering;
    if (l->first == NULL)
        l->posted_ns = clock_mono_ns();
    *l->last = first;
    l->last = last;
    if (hurry)
        l->gathering = false;
    pthread_mutex_unlock(&l->lock);
    /* Not under the lock, which the woken thread wants at once. */
    if (wake)
        ev_async_send(l->ev, &l->wake);
    else if (hurry)
        pthread_cond_signal(&l->gathered);
    atomic_fetch_sub(&l->posting, 1);
}

void loop_post(struct loop *l, struct loop_msg *msg)
{
    CHECK_MAGIC(l, LOOP_MAGIC);
    msg->next = NULL;
    inbox_append(l, msg, &msg->next, false);
}

static void outbox_flush(struct loop_outbox *box, bool gathered)
{
    for (unsigned i = 0; i < box->n; i++)
        inbox_append(box->out[i].to, box->out[i].first, box->out[i].last, gathered);
    box->n = box->messages = 0;
}

void loop_outbox_flush(struct loop_outbox *box)
{
    outbox_flush(box, true);
}

static void outbox_post(struct loop_outbox *box, struct loop *l, struct loop_msg *msg, bool gathered)
{
    struct loop_out *o = box->out;
    while (o < box->out + box->n && o->to != l)
        o++;
    if (o == box->out + LOOP_OUTBOX_LOOPS) {
        outbox_flush(box, gathered);
        o = box->out;
    }
    if (o == box->out + box->n) {
        *o = (struct loop_out){.to = l, .last = &o->first};
        box->n++;
    }
    msg->next = NULL;
    *o->last = msg;
    o->last = &msg->next;
    box->messages++;
}

void loop_outbox_post(struct loop_outbox *box, struct loop *l, struct loop_msg *msg)
{
    CHECK_MAGIC(l, LOOP_MAGIC);
    outbox_post(box, l, msg, true);
}

/* A post for each message of a turn would wake the other thread for each, on a shared core even while this one holds
 * the inbox's lock. */
void loop_post_turn(struct loop *l, struct loop *from, struct loop_msg *msg)
{
    CHECK_MAGIC(l, LOOP_MAGIC);
    if (!loop_is_current(from) || !from->turning) {
        loop_post(l, msg);
        return;
    }
    outbox_post(&from->out, l, msg, false);
}

/* ---------------------------------------------------------------------- gathering */

#define GATHER_STREAM_US 10
#define GATHER_MAX_US 2500

unsigned loop_gather_us(size_t streams)
{
    return streams < GATHER_MAX_US / GATHER_STREAM_US ? (unsigned)streams * GATHER_STREAM_US : GATHER_MAX_US;
}

void loop_gather(struct loop *l, size_t streams)
{
    CHECK_MAGIC(l, LOOP_MAGIC);
    /* Longer than those who post to it gather, so that they end it, nearly always, and its own time does not. */
    l->gather_ns = (uint64_t)loop_gather_us(streams) * 1500;
}

static void on_turn_begin(struct ev_loop *ev, ev_check *w, int revents)
{
    (void)ev;
    (void)revents;
    struct loop *l = w->data;
    l->turn_ns = clock_mono_ns();
}

/* Waits until the next turn may begin, or until somebody who has gathered posts. true: the inbox is not empty. libev
 * has a collect interval, too: it sleeps through whatever is posted, and every post within costs a write and a read. */
static bool gather(struct loop *l)
{
    uint64_t until = l->turn_ns + l->gather_ns;
    if (l->gather_ns == 0 || clock_mono_ns() >= until)
        return false;
    const struct timespec deadline = {.tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000)};
    pthread_mutex_lock(&l->lock);
    l->gathering = l->first == NULL && !atomic_load(&l->stopping);
    while (l->gathering && pthread_cond_timedwait(&l->gathered, &l->lock, &deadline) == 0)
        ;
    l->gathering = false;
    bool some = l->first != NULL;
    pthread_mutex_unlock(&l->lock);
    return some;
}

/* ------------------------------------------------------------------------ life */

struct loop *loop_new(const char *name)
{
    struct loop *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->magic = LOOP_MAGIC;
    snprintf(l->name, sizeof l->name, "%s", name);
    /* select(2) ends at 1,024 descriptors */
    l->ev = ev_loop_new(EVFLAG_NOENV | EVBACKEND_EPOLL | EVBACKEND_POLL);
    if (!l->ev) {
        free(l);
        return NULL;
    }
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->gathered, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&l->lock, NULL);
    l->last = &l->first;
    ev_async_init(&l->wake, on_wake);
    l->wake.data = l;
    ev_async_start(l->ev, &l->wake);
    ev_check_init(&l->turn_begin, on_turn_begin);
    ev_set_priority(&l->turn_begin, EV_MAXPRI);
    l->turn_begin.data = l;
    ev_check_start(l->ev, &l->turn_begin);
    pulse_init(&l->pulse, l->name, true);
    return l;
}

static void *loop_main(void *arg)
{
    struct loop *l = arg;
    atomic_store(&l->owner, pthread_self());
    l->turning = true;
    while (!atomic_load_explicit(&l->stopping, memory_order_acquire)) {
        bool some = gather(l);
        if (some) { /* nobody has woken libev for it, or told it how late it is */
            ev_now_update(l->ev);
            ev_feed_event(l->ev, &l->wake, EV_ASYNC);
        }
        ev_run(l->ev, some ? EVRUN_NOWAIT : EVRUN_ONCE);
        outbox_flush(&l->out, false);
    }
    l->turning = false;
    return NULL;
}

bool loop_start(struct loop *l)
{
    CHECK_MAGIC(l, LOOP_MAGIC);
    omid_assert(!l->running);
    l->running = thread_start(&l->thread, l->name, loop_main, l);
    return l->running;
}

void loop_stop(struct loop *l)
{
    CHECK_MAGIC(l, LOOP_MAGIC);
    if (l->running) {
        omid_assert(!loop_is_current(l));
        atomic_store_explicit(&l->stopping, true, memory_order_release);
        ev_async_send(l->ev, &l->wake);
        pthread_mutex_lock(&l->lock);
        l->gathering = false;
        pthread_mutex_unlock(&l->lock);
        pthread_cond_signal(&l->gathered);
        pthread_join(l->thread, NULL);
        l->running = false;
    }
    /* The rest runs here, as if on the loop's thread. */
    atomic_store(&l->owner, pthread_self());
    while (inbox_run(l))
        ;
}

void loop_free(struct loop **lp)
{
    struct loop *l = *lp;
    if (!l)
        return;
    CHECK_MAGIC(l, LOOP_MAGIC);
    omid_assert(!l->running);
    *lp = NULL;
    while (atomic_load(&l->posting) > 0)
        sched_yield();
    pulse_end(&l->pulse);
    omid_assert(l->out.n == 0);
    ev_async_stop(l->ev, &l->wake);
    ev_check_stop(l->ev, &l->turn_begin);
    ev_loop_destroy(l->ev);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->gathered);
    l->magic = OMID_MAGIC_DEAD;
    free(l);
}

bool loop_is_current(const struct loop *l)
{
    CHECK_MAGIC(l, LOOP_MAGIC);
    return pthread_equal(atomic_load(&((struct loop *)l)->owner), pthread_self());
}

struct ev_loop *loop_ev(struct loop *l)
{
    CHECK_MAGIC(l, LOOP_MAGIC);
    return l->ev;
}

const char *loop_name(const struct loop *l)
{
    CHECK_MAGIC(l, LOOP_MAGIC);
    return l->name;
}

uint64_t loop_now_ms(const struct loop *l)
{
    /* libev's own cache is of the wall clock, which may jump. A vDSO read costs 20 ns. */
    CHECK_MAGIC(l, LOOP_MAGIC);
    return clock_mono_ms();
}

/* ----------------------------------------------------------------------- doing */

struct pulse_doing loop_doing_enter(struct loop *l, const char *owner, const char *callback)
{
    return pulse_doing_enter(&l->pulse, owner, callback);
}

void loop_doing_leave(struct loop *l, struct pulse_doing former)
{
    pulse_doing_leave(&l->pulse, former);
}

bool loop_doing_read(const struct loop *l, struct pulse_doing *out)
{
    CHECK_MAGIC(l, LOOP_MAGIC);
    return pulse_doing_read(&l->pulse, out);
}
