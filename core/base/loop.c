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

/* What a turn has for another loop. */
#define MAX_OUT 8 /* loops with something to come; one more sends all of it early */
struct loop_out {
    struct loop *to;
    struct loop_msg *first, **last;
};

struct loop {
    uint32_t magic;
    char name[16];
    struct ev_loop *ev;
    ev_async wake;
    ev_prepare turn_end;
    pthread_t thread;
    bool running; /* between loop_start and loop_stop: the starter's */
    atomic_bool stopping;
    _Atomic(pthread_t) owner; /* whose thread it is now; 0: nobody's yet */

    /* its thread */
    bool turning; /* within ev_run(): a turn's end will come */
    unsigned n_out;
    struct loop_out out[MAX_OUT];

    pthread_mutex_t lock; /* guards the inbox */
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
    (void)revents;
    struct loop *l = w->data;
    inbox_run(l);
    if (atomic_load_explicit(&l->stopping, memory_order_acquire))
        ev_break(ev, EVBREAK_ALL);
}

/* Messages that hang together; last is the end of the last one. */
static void inbox_append(struct loop *l, struct loop_msg *first, struct loop_msg **last)
{
    atomic_fetch_add(&l->posting, 1);
    pthread_mutex_lock(&l->lock);
    bool empty = l->first == NULL;
    if (empty)
        l->posted_ns = clock_mono_ns();
    *l->last = first;
    l->last = last;
    pthread_mutex_unlock(&l->lock);
    /* Not under the lock, which the woken thread wants at once. */
    if (empty)
        ev_async_send(l->ev, &l->wake);
    atomic_fetch_sub(&l->posting, 1);
}

void loop_post(struct loop *l, struct loop_msg *msg)
{
    CHECK_MAGIC(l, LOOP_MAGIC);
    msg->next = NULL;
    inbox_append(l, msg, &msg->next);
}

static void out_flush(struct loop *l)
{
    for (unsigned i = 0; i < l->n_out; i++)
        inbox_append(l->out[i].to, l->out[i].first, l->out[i].last);
    l->n_out = 0;
}

static void on_turn_end(struct ev_loop *ev, ev_prepare *w, int revents)
{
    (void)ev;
    (void)revents;
    out_flush(w->data);
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
    struct loop_out *o = from->out;
    while (o < from->out + from->n_out && o->to != l)
        o++;
    if (o == from->out + MAX_OUT) {
        out_flush(from);
        o = from->out;
    }
    if (o == from->out + from->n_out) {
        *o = (struct loop_out){.to = l, .last = &o->first};
        from->n_out++;
    }
    msg->next = NULL;
    *o->last = msg;
    o->last = &msg->next;
}

/* ---------------------------------------------------------------------- gathering */

#define GATHER_STREAM_US 10
#define GATHER_MAX_US 1000

unsigned loop_gather_us(size_t streams)
{
    return streams < GATHER_MAX_US / GATHER_STREAM_US ? (unsigned)streams * GATHER_STREAM_US : GATHER_MAX_US;
}

void loop_gather(struct loop *l, size_t streams)
{
    CHECK_MAGIC(l, LOOP_MAGIC);
    ev_set_io_collect_interval(l->ev, loop_gather_us(streams) / 1e6);
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
    pthread_mutex_init(&l->lock, NULL);
    l->last = &l->first;
    ev_async_init(&l->wake, on_wake);
    l->wake.data = l;
    ev_async_start(l->ev, &l->wake);
    ev_prepare_init(&l->turn_end, on_turn_end);
    l->turn_end.data = l;
    ev_prepare_start(l->ev, &l->turn_end);
    pulse_init(&l->pulse, l->name, true);
    return l;
}

static void *loop_main(void *arg)
{
    struct loop *l = arg;
    atomic_store(&l->owner, pthread_self());
    l->turning = true;
    ev_run(l->ev, 0);
    l->turning = false;
    out_flush(l);
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
    omid_assert(l->n_out == 0);
    ev_async_stop(l->ev, &l->wake);
    ev_prepare_stop(l->ev, &l->turn_end);
    ev_loop_destroy(l->ev);
    pthread_mutex_destroy(&l->lock);
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
