/* The mock host: time, timers and work on threads. */
#include "mock_int.h"

#include <stdlib.h>
#include <time.h>

static uint64_t h_now_ms(void)
{
    return the_mock->now;
}

static int64_t h_wall_ms(void)
{
    return INT64_C(1700000000000) + (int64_t)the_mock->now;
}

static struct omid_timer *h_timer_start(struct omid_instance *inst, uint32_t delay_ms, uint32_t repeat_ms,
                                        void (*fn)(void *arg), void *arg)
{
    mock_check_instance(inst);
    if (inst->m->no_timers)
        return NULL;
    struct omid_timer *t = calloc(1, sizeof(*t));
    must(t != NULL && fn != NULL);
    *t = (struct omid_timer){.m = inst->m, .due = inst->m->now + delay_ms, .repeat = repeat_ms, .fn = fn, .arg = arg};
    t->next = inst->m->timers;
    inst->m->timers = t;
    return t;
}

static void h_timer_stop(struct omid_timer **timer)
{
    must(timer != NULL && *timer != NULL && !(*timer)->dead);
    mock_check_thread((*timer)->m);
    (*timer)->dead = true; /* freed by the next walk: it may be the one that fires */
    *timer = NULL;
}

static void timers_sweep(struct mock *m)
{
    for (struct omid_timer **at = &m->timers; *at != NULL;) {
        struct omid_timer *t = *at;
        if (t->dead) {
            *at = t->next;
            free(t);
        } else {
            at = &t->next;
        }
    }
}

void mock_advance(struct mock *m, uint64_t ms)
{
    const uint64_t until = m->now + ms;
    for (;;) {
        struct omid_timer *first = NULL;
        timers_sweep(m);
        for (struct omid_timer *t = m->timers; t != NULL; t = t->next) {
            if (t->due <= until && (first == NULL || t->due < first->due))
                first = t;
        }
        if (first == NULL)
            break;
        m->now = first->due > m->now ? first->due : m->now;
        /* A timer that has fired once stays until timer_stop(). */
        first->due = first->repeat > 0 ? m->now + first->repeat : UINT64_MAX;
        first->fn(first->arg);
    }
    m->now = until;
}

void mock_timers_refuse(struct mock *m, bool refuse)
{
    m->no_timers = refuse;
}

unsigned mock_timers(const struct mock *m)
{
    unsigned n = 0;
    for (const struct omid_timer *t = m->timers; t != NULL; t = t->next)
        n += !t->dead;
    return n;
}

static uint64_t real_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void *work_thread(void *arg)
{
    struct work *w = arg;
    struct mock *m = w->m;
    w->w.run(w->w.arg);
    pthread_mutex_lock(&m->lock);
    m->running--;
    w->next = m->finished;
    m->finished = w;
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

static int h_exec_submit(struct omid_instance *inst, const struct omid_work *work)
{
    mock_check_instance(inst);
    struct mock *m = inst->m;
    must(work->size == sizeof(*work) && work->label != NULL && work->run != NULL && work->done != NULL);
    if (m->exec == MOCK_EXEC_FULL)
        return OMID_EFULL;
    if (m->exec == MOCK_EXEC_CLOSED)
        return OMID_ECLOSED;
    struct work *w = calloc(1, sizeof(*w));
    must(w != NULL);
    w->m = m;
    w->w = *work;
    pthread_mutex_lock(&m->lock);
    if (m->exec == MOCK_EXEC_THREADS) {
        w->threaded = true;
        if (++m->running > m->peak)
            m->peak = m->running;
        must(pthread_create(&w->thread, NULL, work_thread, w) == 0);
    } else {
        struct work **at = &m->held;
        while (*at != NULL)
            at = &(*at)->next;
        *at = w;
        m->n_held++;
    }
    pthread_mutex_unlock(&m->lock);
    return OMID_OK;
}

static void finished_deliver(struct mock *m)
{
    pthread_mutex_lock(&m->lock);
    while (m->finished != NULL) {
        struct work *w = m->finished;
        m->finished = w->next;
        pthread_mutex_unlock(&m->lock);
        pthread_join(w->thread, NULL);
        w->w.done(w->w.arg, true);
        free(w);
        pthread_mutex_lock(&m->lock);
    }
    pthread_mutex_unlock(&m->lock);
}

bool mock_wait(struct mock *m, bool (*until)(void *arg), void *arg, unsigned timeout_ms)
{
    const uint64_t begin = real_ms();
    uint64_t last = begin;
    for (;;) {
        finished_deliver(m);
        uint64_t now = real_ms();
        mock_advance(m, now - last);
        last = now;
        if (until(arg))
            return true;
        if (now - begin > timeout_ms)
            return false;
        struct timespec ts;
        clock_gettime(CLOCK_REALTIME, &ts);
        ts.tv_nsec += 1000000;
        ts.tv_sec += ts.tv_nsec / 1000000000;
        ts.tv_nsec %= 1000000000;
        pthread_mutex_lock(&m->lock);
        if (m->finished == NULL)
            pthread_cond_timedwait(&m->wake, &m->lock, &ts);
        pthread_mutex_unlock(&m->lock);
    }
}

void mock_exec_mode(struct mock *m, enum mock_exec mode)
{
    m->exec = mode;
}

unsigned mock_exec_waiting(const struct mock *m)
{
    return m->n_held;
}

bool mock_exec_run(struct mock *m, bool ran)
{
    struct work *w = m->held;
    if (w == NULL)
        return false;
    m->held = w->next;
    m->n_held--;
    if (ran)
        w->w.run(w->w.arg);
    w->w.done(w->w.arg, ran);
    free(w);
    return true;
}

struct omid_work mock_exec_take(struct mock *m)
{
    struct work *w = m->held;
    must(w != NULL);
    const struct omid_work out = w->w;
    m->held = w->next;
    m->n_held--;
    free(w);
    return out;
}

unsigned mock_exec_peak(const struct mock *m)
{
    return m->peak;
}

void mock_time_clear(struct mock *m)
{
    timers_sweep(m);
    must(m->timers == NULL);
}

void mock_time_set(struct omid_host *t)
{
    t->now_ms = h_now_ms;
    t->wall_ms = h_wall_ms;
    t->timer_start = h_timer_start;
    t->timer_stop = h_timer_stop;
    t->exec_submit = h_exec_submit;
}
