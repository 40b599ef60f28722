#include "fixture_reactor.h"

#include <CUnit/Basic.h>
#include <pthread.h>

#include "base/magic.h"

struct loop *reactor;
struct channel_sink sink;
atomic_int sink_wakes;

static void count_wake(struct channel_sink *s)
{
    (void)s;
    atomic_fetch_add(&sink_wakes, 1);
}

int reactor_begin(void)
{
    channel_sink_init(&sink, count_wake);
    reactor = loop_new("reactor_0");
    return reactor == NULL || !loop_start(reactor);
}

int reactor_end(void)
{
    loop_stop(reactor);
    loop_free(&reactor);
    pthread_mutex_destroy(&sink.lock);
    return 0;
}

struct on {
    struct loop_msg msg;
    void (*fn)(void *arg);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
};

static void run_on(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct on *o = container_of(msg, struct on, msg);
    o->fn(o->arg);
    pthread_mutex_lock(&o->lock);
    o->done = true;
    pthread_cond_signal(&o->cond);
    pthread_mutex_unlock(&o->lock);
}

void on_reactor(void (*fn)(void *arg), void *arg)
{
    struct on o = {.msg = {.fn = run_on}, .fn = fn, .arg = arg};
    pthread_mutex_init(&o.lock, NULL);
    pthread_cond_init(&o.cond, NULL);
    loop_post(reactor, &o.msg);
    pthread_mutex_lock(&o.lock);
    while (!o.done)
        pthread_cond_wait(&o.cond, &o.lock);
    pthread_mutex_unlock(&o.lock);
    pthread_cond_destroy(&o.cond);
    pthread_mutex_destroy(&o.lock);
}

static void nothing(void *arg)
{
    (void)arg;
}

void settle(void)
{
    on_reactor(nothing, NULL);
    on_reactor(nothing, NULL); /* what the first turn posted itself */
}

unsigned free_all(struct channel_down *d, enum channel_down_kind kind)
{
    unsigned n = 0;
    while (d != NULL) {
        struct channel_down *next = d->next;
        n += d->kind == kind;
        channel_down_free(d);
        d = next;
    }
    return n;
}

void nothing_left(void)
{
    settle();
    free_all(channel_sink_take(&sink), DOWN_MESSAGE);
    settle();
    CU_ASSERT_EQUAL(budget_used(), 0);
}
