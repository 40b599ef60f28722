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

/* Who has work in a pool: lives as long as it has. */
struct owner {
    struct list link;
    struct list waiting; /* of struct exec_job */
    unsigned n_jobs;     /* that point here */
    unsigned n_waiting;
    unsigned n_running; /* but for those that have a stand-in */
    char name[];
};

struct exec_job {
    uint32_t magic;
    struct loop_msg msg; /* carries done() to the loop */
    struct list link;    /* in owner.waiting or pool.running */
    struct owner *owner;
    struct loop *loop;
    struct omid_work work;
    uint64_t ticket;
    bool ran;
    bool left;      /* by exec_abandon(): nobody waits for its result */
    bool topped_up; /* another thread was allowed in its stead */
    bool abandoned; /* by exec_stop(): done() is never called */
};

struct worker {
    struct pool *pool;
    pthread_t id;
    bool used;
};

struct pool {
    const char *name;
    unsigned max_threads, queue, share, max_running; /* the last two: of one owner */
    pthread_mutex_t lock;
    pthread_cond_t work;  /* something waits, or closing */
    pthread_cond_t ended; /* a thread is about to end, or a job ended while closing */
    bool closing;
    struct list running; /* of struct exec_job */
    struct list owners;  /* whose turn it is comes first */
    unsigned n_waiting, n_running, n_owners;
    unsigned n_idle;  /* threads that wait for work */
    unsigned n_alive; /* threads that have not ended yet */
    unsigned n_left;  /* jobs that run though they were given up */
    unsigned n_extra; /* threads allowed beyond max_threads, for so many of them; at most max_threads */
    uint64_t n_done, n_refused, n_abandoned, n_tickets;
    struct worker *worker; /* 2 * max_threads */
    struct metric *m_running, *m_waiting, *m_refused, *m_left;
};

struct exec {
    uint32_t magic;
    struct pool pool[POOLS];
    struct metric *m_abandoned;
    bool stopped;
};

const char exec_core[] = "omid";

/* Within run(): whoever submits there, and waits for the outcome, holds the thread that it waits for. */
static _Thread_local bool within_run;

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
    struct owner *o = calloc(1, sizeof(*o) + len);
    if (o == NULL)
        return NULL;
    list_init(&o->waiting);
    memcpy(o->name, name, len);
    list_append(&p->owners, &o->link);
    p->n_owners++;
    return o;
}

static void owner_put(struct pool *p, struct owner *o)
{
    if (o->n_jobs > 0)
        return;
    list_remove(&o->link);
    p->n_owners--;
    free(o);
}

static void owner_leave(struct pool *p, struct exec_job *j)
{
    struct owner *o = j->owner;
    j->owner = NULL;
    o->n_jobs--;
    owner_put(p, o);
}

static bool owner_is_core(const struct owner *o)
{
    return strcmp(o->name, exec_core) == 0;
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

/* Pool locked. Out of its owner's queue; the owner stays until owner_leave(). */
static void job_unqueue(struct pool *p, struct exec_job *j)
{
    CHECK_MAGIC(j, JOB_MAGIC);
    list_remove(&j->link);
    p->n_waiting--;
    metric_add(p->m_waiting, -1);
    j->owner->n_waiting--;
}

/* Pool locked. The next by turns of the owners, whose own are in their order. all: also those who run as many as they
 * may. NULL: none. */
static struct exec_job *job_take(struct pool *p, bool all)
{
    list_each (it, &p->owners) {
        struct owner *o = list_entry(it, struct owner, link);
        if (list_empty(&o->waiting) || (!all && o->n_running >= p->max_running && !owner_is_core(o)))
            continue;
        struct exec_job *j = list_entry(o->waiting.next, struct exec_job, link);
        job_unqueue(p, j);
        list_remove(&o->link);
        list_append(&p->owners, &o->link);
        return j;
    }
    return NULL;
}

/* Pool locked before and after. What a job held that was given up. */
static void job_came_back(struct pool *p, struct exec_job *j)
{
    p->n_left--;
    metric_add(p->m_left, -1);
    p->n_extra -= j->topped_up;
    log_warning("exec", "a job that was given up has ended", LS("pool", p->name), LS("owner", j->owner->name),
                LS("job", j->work.label));
}

/* Pool locked before and after, not while the job runs. */
static void job_run(struct pool *p, struct exec_job *j)
{
    list_append(&p->running, &j->link);
    p->n_running++;
    j->owner->n_running++;
    metric_add(p->m_running, 1);
    pthread_mutex_unlock(&p->lock);
    within_run = true;
    j->work.run(j->work.arg);
    within_run = false;
    pthread_mutex_lock(&p->lock);
    list_remove(&j->link);
    p->n_running--;
    metric_add(p->m_running, -1);
    j->owner->n_running -= !j->topped_up;
    if (j->left)
        job_came_back(p, j);
    owner_leave(p, j);
    if (j->abandoned) {
        /* Its loop may be gone; what it holds is lost, as was reported. */
        j->magic = OMID_MAGIC_DEAD;
        free(j);
        return;
    }
    p->n_done++;
    job_done(p, j, true);
}

/* Pool locked. More threads than there should be: one came back that nobody expected any more. */
static bool is_surplus(const struct pool *p)
{
    return !p->closing && p->n_alive > p->max_threads + p->n_extra;
}

static void *pool_thread(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    pthread_mutex_lock(&p->lock);
    while (!is_surplus(p)) {
        struct exec_job *j = job_take(p, false);
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
    if (!p->closing) { /* exec_stop() joins or detaches the others */
        w->used = false;
        pthread_detach(pthread_self());
    }
    p->n_alive--;
    pthread_cond_broadcast(&p->ended);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Pool locked. false: none could be started and none is there. */
static bool pool_grow(struct pool *p)
{
    if (p->n_idle >= p->n_waiting || p->n_alive >= p->max_threads + p->n_extra)
        return true;
    unsigned slot = 0;
    while (p->worker[slot].used)
        slot++;
    char name[16];
    snprintf(name, sizeof(name), "%s_%u", p->name, slot);
    struct worker *w = &p->worker[slot];
    w->pool = p;
    if (!thread_start(&w->id, name, pool_thread, w)) {
        log_warning("exec", "a thread can't be started", LS("pool", p->name), LU("threads", p->n_alive),
                    LS("reason", strerror(errno)));
        return p->n_alive > 0;
    }
    w->used = true;
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
    p->max_running = p->max_threads == 1 ? 1 : p->max_threads - (p->max_threads + 3) / 4;
    p->worker = calloc((size_t)p->max_threads * 2, sizeof(*p->worker));
    if (p->worker == NULL)
        return false;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->ended, &attr);
    pthread_condattr_destroy(&attr);
    list_init(&p->running);
    list_init(&p->owners);
    p->m_running = pool_metric(METRIC_GAUGE, "omid_exec_running", "Jobs that run on an executor thread.", name);
    p->m_waiting = pool_metric(METRIC_GAUGE, "omid_exec_waiting", "Jobs that wait for an executor thread.", name);
    p->m_refused = pool_metric(METRIC_COUNTER, "omid_exec_refused_total",
                               "Jobs that an executor refused: its queue or the owner's share of it was full.", name);
    p->m_left = pool_metric(METRIC_GAUGE, "omid_exec_left",
                            "Threads that are held by jobs which nobody waits for any more.", name);
    return true;
}

static void pool_destroy(struct pool *p)
{
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->ended);
    free(p->worker);
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
    e->m_abandoned = metric_counter("omid_exec_abandoned_total",
                                    "Jobs that were given up while they ran: by a stop, or by whoever waited.");
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
    if (o->n_waiting >= p->share) {
        owner_put(p, o);
        return OMID_EFULL;
    }
    j->owner = o;
    j->ticket = (++p->n_tickets * POOLS) + (uint64_t)j->work.pool;
    o->n_jobs++;
    o->n_waiting++;
    list_append(&o->waiting, &j->link);
    p->n_waiting++;
    metric_add(p->m_waiting, 1);
    if (!pool_grow(p)) {
        job_unqueue(p, j);
        owner_leave(p, j);
        return OMID_ERR;
    }
    pthread_cond_signal(&p->work);
    return OMID_OK;
}

int exec_submit_ticket(struct exec *e, const char *owner, struct loop *loop, const struct omid_work *work,
                       uint64_t *ticket)
{
    CHECK_MAGIC(e, EXEC_MAGIC);
    if (owner == NULL || work == NULL || work->size < sizeof(*work) || (unsigned)work->pool >= POOLS ||
        work->label == NULL || work->run == NULL || work->done == NULL)
        return OMID_EINVAL;
    struct pool *p = &e->pool[work->pool];
    if (within_run) {
        log_error("exec", "refused: submitted by a job that runs", LS("pool", p->name), LS("owner", owner),
                  LS("job", work->label));
        return OMID_ETHREAD;
    }
    struct exec_job *j = calloc(1, sizeof(*j));
    if (j == NULL)
        return OMID_ERR;
    j->magic = JOB_MAGIC;
    list_init(&j->link);
    j->loop = loop;
    j->work = *work;
    pthread_mutex_lock(&p->lock);
    int rc = pool_take(p, owner, j);
    if (rc == OMID_OK && ticket != NULL)
        *ticket = j->ticket;
    if (rc == OMID_EFULL) {
        p->n_refused++;
        metric_add(p->m_refused, 1);
    }
    pthread_mutex_unlock(&p->lock);
    if (rc != OMID_OK)
        free(j);
    return rc;
}

int exec_submit(struct exec *e, const char *owner, struct loop *loop, const struct omid_work *work)
{
    return exec_submit_ticket(e, owner, loop, work, NULL);
}

/* ------------------------------------------------------------ given up */

static struct exec_job *find_in(struct list *head, uint64_t ticket)
{
    list_each (it, head) {
        struct exec_job *j = list_entry(it, struct exec_job, link);
        if (j->ticket == ticket)
            return j;
    }
    return NULL;
}

/* Pool locked. */
static struct exec_job *find_waiting(struct pool *p, uint64_t ticket)
{
    struct exec_job *j = NULL;
    list_each (it, &p->owners) {
        if (j == NULL)
            j = find_in(&list_entry(it, struct owner, link)->waiting, ticket);
    }
    return j;
}

/* Pool locked. */
static void leave(struct exec *e, struct pool *p, struct exec_job *j)
{
    if (j->left)
        return;
    j->left = true;
    p->n_left++;
    metric_add(p->m_left, 1);
    p->n_abandoned++;
    metric_add(e->m_abandoned, 1);
    if (p->n_extra < p->max_threads) {
        p->n_extra++;
        j->topped_up = true;
        j->owner->n_running--;
    }
    log_warning("exec", "a job is given up while it runs", LS("pool", p->name), LS("owner", j->owner->name),
                LS("job", j->work.label), LS("another_thread", j->topped_up ? "yes" : "no, there are too many"));
    /* Its owner may now run one more, and there may be room for a thread to do it. */
    (void)pool_grow(p);
    pthread_cond_signal(&p->work);
}

enum exec_left exec_abandon(struct exec *e, uint64_t ticket)
{
    CHECK_MAGIC(e, EXEC_MAGIC);
    struct pool *p = &e->pool[ticket % POOLS];
    enum exec_left was = EXEC_OVER;
    pthread_mutex_lock(&p->lock);
    struct exec_job *j = find_waiting(p, ticket);
    if (j != NULL) {
        was = EXEC_WAITED;
        job_unqueue(p, j);
        owner_leave(p, j);
        job_done(p, j, false);
    } else if ((j = find_in(&p->running, ticket)) != NULL) {
        was = EXEC_RUNS;
        leave(e, p, j);
    }
    pthread_mutex_unlock(&p->lock);
    return was;
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
        p->n_abandoned += !j->left;
        metric_add(e->m_abandoned, !j->left);
        log_error("exec", "abandoned: still running at the end", LS("pool", p->name), LS("owner", j->owner->name),
                  LS("job", j->work.label));
    }
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
        for (struct exec_job *j; (j = job_take(p, true)) != NULL;) {
            owner_leave(p, j);
            job_done(p, j, false);
        }
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
        for (unsigned t = 0; t < p->max_threads * 2; t++) {
            if (p->worker[t].used && ended)
                pthread_join(p->worker[t].id, NULL);
            else if (p->worker[t].used)
                pthread_detach(p->worker[t].id);
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
        json_w_kint(w, "left", p->n_left);
        json_w_close(w, '}');
        pthread_mutex_unlock(&p->lock);
    }
    json_w_close(w, ']');
}
