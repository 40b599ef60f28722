#include "lane/exec/exec.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "base/magic.h"
#include "base/metrics.h"
#include "base/thread.h"

#define POOLS 3
#define MAX_THREADS 1024 /* per pool, as conf clamps `blocking` */
#define MAX_OWNERS 256   /* with work waiting in one pool at the same time */
#define EXEC_MAGIC UINT32_C(0x65786563)
#define JOB_MAGIC UINT32_C(0x656a6f62)

static const char *const pool_names[POOLS] = {"critical", "storage", "blocking"};

/* Who has work waiting in a pool: an entry lives as long as its count is above 0. */
struct owner {
    struct list link;
    unsigned waiting;
    char name[];
};

struct exec_job {
    uint32_t magic;
    struct loop_msg msg; /* carries done() to the loop */
    struct list link;    /* in pool.waiting or pool.running */
    struct owner *owner; /* while waiting */
    struct loop *loop;
    struct omid_work work;
    bool ran;
    bool abandoned; /* set by exec_stop(): the result is ignored */
};

struct pool {
    const char *name;
    unsigned max_threads, queue, share;
    pthread_mutex_t lock;
    pthread_cond_t work;  /* something waits, or closing */
    pthread_cond_t ended; /* a thread is about to end, or a job ended while closing */
    bool closing;
    struct list waiting, running; /* of struct exec_job */
    struct list owners;
    unsigned n_waiting, n_running, n_owners;
    unsigned n_threads, n_idle; /* threads that were started; that wait for work */
    unsigned n_alive;           /* threads that have not ended yet */
    uint64_t n_done, n_refused, n_abandoned;
    pthread_t *thread;
    struct metric *m_running, *m_waiting, *m_refused;
};

struct exec {
    uint32_t magic;
    struct pool pool[POOLS];
    struct metric *m_abandoned;
    bool stopped;
};

/* ------------------------------------------------------------ owners; pool locked */

static struct owner *owner_get(struct pool *p, const char *name)
{
    list_each (it, &p->owners) {
        struct owner *o = list_entry(it, struct owner, link);
        if (strcmp(o->name, name) == 0)
            return o;
    }
    if (p->n_owners == MAX_OWNERS)
        return NULL;
    size_t len = strlen(name) + 1;
    struct owner *o = malloc(sizeof(*o) + len);
    if (o == NULL)
        return NULL;
    o->waiting = 0;
    memcpy(o->name, name, len);
    list_append(&p->owners, &o->link);
    p->n_owners++;
    return o;
}

static void owner_put(struct pool *p, struct owner *o)
{
    if (o->waiting > 0)
        return;
    list_remove(&o->link);
    p->n_owners--;
    free(o);
}

/* ------------------------------------------------------------ jobs */

static void job_deliver(struct exec_job *j)
{
    CHECK_MAGIC(j, JOB_MAGIC);
    j->work.done(j->work.arg, j->ran);
    j->magic = OMID_MAGIC_DEAD;
    free(j);
}

static void job_on_loop(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    job_deliver(container_of(msg, struct exec_job, msg));
}

/*
 * Pool locked before and after. A post is done under the lock: once exec_stop() has looked, no thread is about
 * to post to a loop that may be freed. Without a loop done() runs unlocked: it may submit again.
 */
static void job_done(struct pool *p, struct exec_job *j, bool ran)
{
    j->ran = ran;
    if (j->loop != NULL) {
        j->msg.fn = job_on_loop;
        loop_post(j->loop, &j->msg);
        return;
    }
    pthread_mutex_unlock(&p->lock);
    job_deliver(j);
    pthread_mutex_lock(&p->lock);
}

/* Pool locked. */
static struct exec_job *job_take(struct pool *p)
{
    struct list *it = list_pop(&p->waiting);
    if (it == NULL)
        return NULL;
    struct exec_job *j = list_entry(it, struct exec_job, link);
    CHECK_MAGIC(j, JOB_MAGIC);
    p->n_waiting--;
    metric_add(p->m_waiting, -1);
    j->owner->waiting--;
    owner_put(p, j->owner);
    j->owner = NULL;
    return j;
}

/* Pool locked before and after, not while the job runs. */
static void job_run(struct pool *p, struct exec_job *j)
{
    list_append(&p->running, &j->link);
    p->n_running++;
    metric_add(p->m_running, 1);
    pthread_mutex_unlock(&p->lock);
    j->work.run(j->work.arg);
    pthread_mutex_lock(&p->lock);
    list_remove(&j->link);
    p->n_running--;
    metric_add(p->m_running, -1);
    if (j->abandoned) {
        /* Its loop may be gone; what it holds is lost, as was reported. */
        j->magic = OMID_MAGIC_DEAD;
        free(j);
        return;
    }
    p->n_done++;
    job_done(p, j, true);
}

static void *pool_thread(void *arg)
{
    struct pool *p = arg;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct exec_job *j = job_take(p);
        if (j != NULL) {
            job_run(p, j);
            continue;
        }
        if (p->closing)
            break;
        p->n_idle++;
        pthread_cond_wait(&p->work, &p->lock);
        p->n_idle--;
    }
    p->n_alive--;
    pthread_cond_broadcast(&p->ended);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Pool locked. false: none could be started and none is there. */
static bool pool_grow(struct pool *p)
{
    if (p->n_idle >= p->n_waiting || p->n_threads == p->max_threads)
        return true;
    char name[16];
    snprintf(name, sizeof(name), "%s_%u", p->name, p->n_threads);
    if (!thread_start(&p->thread[p->n_threads], name, pool_thread, p)) {
        log_warning("exec", "a thread can't be started", LS("pool", p->name), LU("threads", p->n_threads),
                    LS("reason", strerror(errno)));
        return p->n_threads > 0;
    }
    p->n_threads++;
    p->n_alive++;
    return true;
}

/* ------------------------------------------------------------ the door */

static struct metric *pool_metric(enum metric_type type, const char *name, const char *help, const char *pool)
{
    const struct metric_label label = {"pool", pool};
    return metric_get(type, name, help, &label, 1, NULL, 0);
}

static bool pool_init(struct pool *p, const char *name, unsigned threads, unsigned queue)
{
    p->name = name;
    p->max_threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    p->queue = queue < 1 ? 1 : queue;
    p->share = p->queue < 4 ? 1 : p->queue / 4;
    p->thread = calloc(p->max_threads, sizeof(*p->thread));
    if (p->thread == NULL)
        return false;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->ended, &attr);
    pthread_condattr_destroy(&attr);
    list_init(&p->waiting);
    list_init(&p->running);
    list_init(&p->owners);
    p->m_running = pool_metric(METRIC_GAUGE, "omid_exec_running", "Jobs that run on an executor thread.", name);
    p->m_waiting = pool_metric(METRIC_GAUGE, "omid_exec_waiting", "Jobs that wait for an executor thread.", name);
    p->m_refused = pool_metric(METRIC_COUNTER, "omid_exec_refused_total",
                               "Jobs that an executor refused: its queue or the owner's share of it was full.", name);
    return true;
}

static void pool_destroy(struct pool *p)
{
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->ended);
    free(p->thread);
}

struct exec *exec_new(const struct exec_config *config)
{
    struct exec *e = calloc(1, sizeof(*e));
    if (e == NULL)
        return NULL;
    e->magic = EXEC_MAGIC;
    for (unsigned i = 0; i < POOLS; i++) {
        if (!pool_init(&e->pool[i], pool_names[i], config->threads[i], config->queue)) {
            while (i-- > 0)
                pool_destroy(&e->pool[i]);
            free(e);
            return NULL;
        }
    }
    e->m_abandoned = metric_counter("omid_exec_abandoned_total", "Jobs that were still running when the daemon ended.");
    return e;
}

/* Pool locked. */
static int pool_take(struct pool *p, const char *owner, struct exec_job *j)
{
    if (p->closing)
        return OMID_ECLOSED;
    if (p->n_waiting >= p->queue)
        return OMID_EFULL;
    struct owner *o = owner_get(p, owner);
    if (o == NULL)
        return OMID_EFULL;
    if (o->waiting >= p->share) {
        owner_put(p, o);
        return OMID_EFULL;
    }
    j->owner = o;
    o->waiting++;
    list_append(&p->waiting, &j->link);
    p->n_waiting++;
    metric_add(p->m_waiting, 1);
    if (!pool_grow(p)) {
        list_remove(&j->link);
        p->n_waiting--;
        metric_add(p->m_waiting, -1);
        o->waiting--;
        owner_put(p, o);
        return OMID_ERR;
    }
    pthread_cond_signal(&p->work);
    return OMID_OK;
}

int exec_submit(struct exec *e, const char *owner, struct loop *loop, const struct omid_work *work)
{
    CHECK_MAGIC(e, EXEC_MAGIC);
    if (owner == NULL || work == NULL || work->size < sizeof(*work) || (unsigned)work->pool >= POOLS ||
        work->label == NULL || work->run == NULL || work->done == NULL)
        return OMID_EINVAL;
    struct pool *p = &e->pool[work->pool];
    struct exec_job *j = calloc(1, sizeof(*j));
    if (j == NULL)
        return OMID_ERR;
    j->magic = JOB_MAGIC;
    list_init(&j->link);
    j->loop = loop;
    j->work = *work;
    pthread_mutex_lock(&p->lock);
    int rc = pool_take(p, owner, j);
    if (rc == OMID_EFULL) {
        p->n_refused++;
        metric_add(p->m_refused, 1);
    }
    pthread_mutex_unlock(&p->lock);
    if (rc != OMID_OK)
        free(j);
    return rc;
}

/* ------------------------------------------------------------ the end */

/* Waits until every thread of the pool has ended; false at the deadline. Pool locked. */
static bool pool_wait(struct pool *p, uint64_t deadline_ms)
{
    struct timespec ts = {.tv_sec = (time_t)(deadline_ms / 1000), .tv_nsec = (long)(deadline_ms % 1000) * 1000000};
    while (p->n_alive > 0) {
        if (pthread_cond_timedwait(&p->ended, &p->lock, &ts) == ETIMEDOUT)
            return p->n_alive == 0;
    }
    return true;
}

static unsigned pool_abandon(struct exec *e, struct pool *p)
{
    unsigned n = 0;
    list_each (it, &p->running) {
        struct exec_job *j = list_entry(it, struct exec_job, link);
        j->abandoned = true;
        n++;
        log_error("exec", "abandoned: still running at the end", LS("pool", p->name), LS("job", j->work.label));
    }
    p->n_abandoned += n;
    metric_add(e->m_abandoned, n);
    return n;
}

unsigned exec_stop(struct exec *e, uint64_t deadline_ms)
{
    CHECK_MAGIC(e, EXEC_MAGIC);
    omid_assert(!e->stopped);
    e->stopped = true;
    /* All pools refuse before the first is waited for: a job that ends may want to submit to another. */
    for (unsigned i = 0; i < POOLS; i++) {
        struct pool *p = &e->pool[i];
        pthread_mutex_lock(&p->lock);
        p->closing = true;
        pthread_cond_broadcast(&p->work);
        for (struct exec_job *j; (j = job_take(p)) != NULL;)
            job_done(p, j, false);
        pthread_mutex_unlock(&p->lock);
    }
    unsigned abandoned = 0;
    for (unsigned i = 0; i < POOLS; i++) {
        struct pool *p = &e->pool[i];
        pthread_mutex_lock(&p->lock);
        bool ended = pool_wait(p, deadline_ms);
        if (!ended)
            abandoned += pool_abandon(e, p);
        /* A thread that is between its last job and its end is no less alive, but has nothing to abandon. */
        pthread_mutex_unlock(&p->lock);
        for (unsigned t = 0; t < p->n_threads; t++) {
            if (ended)
                pthread_join(p->thread[t], NULL);
            else
                pthread_detach(p->thread[t]);
        }
    }
    return abandoned;
}

void exec_free(struct exec **ep)
{
    struct exec *e = *ep;
    *ep = NULL;
    if (e == NULL)
        return;
    CHECK_MAGIC(e, EXEC_MAGIC);
    if (!e->stopped)
        (void)exec_stop(e, clock_mono_ms());
    bool in_use = false;
    for (unsigned i = 0; i < POOLS; i++) {
        pthread_mutex_lock(&e->pool[i].lock);
        in_use = in_use || e->pool[i].n_alive > 0;
        pthread_mutex_unlock(&e->pool[i].lock);
    }
    /* An abandoned thread still uses its pool: leaked on purpose. */
    if (in_use)
        return;
    for (unsigned i = 0; i < POOLS; i++)
        pool_destroy(&e->pool[i]);
    e->magic = OMID_MAGIC_DEAD;
    free(e);
}

void exec_status(struct exec *e, struct json_w *w)
{
    CHECK_MAGIC(e, EXEC_MAGIC);
    json_w_open(w, '[');
    for (unsigned i = 0; i < POOLS; i++) {
        struct pool *p = &e->pool[i];
        pthread_mutex_lock(&p->lock);
        json_w_open(w, '{');
        json_w_kstr(w, "pool", p->name);
        json_w_kint(w, "threads", p->n_alive);
        json_w_kint(w, "max_threads", p->max_threads);
        json_w_kint(w, "running", p->n_running);
        json_w_kint(w, "waiting", p->n_waiting);
        json_w_kint(w, "queue", p->queue);
        json_w_kint(w, "done", (int64_t)p->n_done);
        json_w_kint(w, "refused", (int64_t)p->n_refused);
        json_w_kint(w, "abandoned", (int64_t)p->n_abandoned);
        json_w_close(w, '}');
        pthread_mutex_unlock(&p->lock);
    }
    json_w_close(w, ']');
}
