/* What an instance has under way on other threads: work on executors, jobs on their way to disk, attempts of jobs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "host/module.h"

/* ------------------------------------------------------------ work */

/*
 * The stage decides between the executor thread, which wants to run it, and the reactor, which wants to have it over
 * at stop: whoever moves it on owns the next step.
 *
 *     WAITING --executor--> RUNNING --executor--> RAN --reactor--> OVER     (the usual way)
 *     WAITING --reactor, at stop--> OVER                                    (run() is skipped)
 *     RUNNING at stop: stays with the executor; done() is never called
 */
enum work_stage { WORK_WAITING, WORK_RUNNING, WORK_RAN, WORK_OVER };

struct work {
    uint32_t magic;
    struct list link;           /* while inst != NULL */
    struct omid_instance *inst; /* NULL: settled or abandoned. Reactor */
    struct omid_module *module; /* a reference: its code runs */
    struct omid_work work;
    uint64_t ticket;
    _Atomic int stage;
};

static bool stage_move(struct work *w, int from, int to)
{
    return atomic_compare_exchange_strong(&w->stage, &from, to);
}

static void work_run(void *arg)
{
    struct work *w = arg;
    CHECK_MAGIC(w, WORK_MAGIC);
    if (!stage_move(w, WORK_WAITING, WORK_RUNNING))
        return;
    w->work.run(w->work.arg);
    (void)stage_move(w, WORK_RUNNING, WORK_RAN);
}

/* w leaves its instance's hands; its memory stays with the executor until on_work_done(). */
static void work_tell_done(struct work *w, bool ran)
{
    struct omid_instance *inst = w->inst;
    w->inst = NULL;
    struct host_call call;
    host_enter(&call, inst, "work_done");
    w->work.done(w->work.arg, ran);
    (void)host_leave(&call, OMID_OK);
    instance_unlink(inst, HANDLE_WORK, &w->link);
}

static void on_work_done(void *arg, bool ran)
{
    struct work *w = arg;
    CHECK_MAGIC(w, WORK_MAGIC);
    if (w->inst != NULL) {
        atomic_store(&w->stage, WORK_OVER);
        work_tell_done(w, ran);
    }
    module_account_memory(w->module, -(int64_t)sizeof(*w));
    module_unref(&w->module);
    w->magic = OMID_MAGIC_DEAD;
    free(w);
}

int work_submit(struct omid_instance *inst, const struct omid_work *work)
{
    int rc = instance_check_new(inst, "exec_submit");
    if (rc != OMID_OK)
        return rc;
    struct exec *exec = inst->module->host->env.exec;
    if (work == NULL || work->size < sizeof(*work) || work->label == NULL || work->run == NULL || work->done == NULL)
        return OMID_EINVAL;
    if (exec == NULL)
        return OMID_ENOTSUP;
    struct work *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return OMID_ERR;
    w->magic = WORK_MAGIC;
    w->inst = inst;
    w->module = module_ref(inst->module);
    w->work = *work;
    atomic_init(&w->stage, WORK_WAITING);
    const struct omid_work outer = {
        .size = sizeof(outer),
        .pool = work->pool,
        .label = work->label,
        .run = work_run,
        .done = on_work_done,
        .arg = w,
    };
    /* Linked first: done() can't come before this callback has ended, but the list is the reactor's alone anyway. */
    instance_link(inst, HANDLE_WORK, &w->link);
    module_account_memory(inst->module, sizeof(*w));
    rc = exec_submit_ticket(exec, inst->module->name, inst->loop, &outer, &w->ticket);
    if (rc == OMID_OK)
        return OMID_OK;
    instance_unlink(inst, HANDLE_WORK, &w->link);
    module_account_memory(inst->module, -(int64_t)sizeof(*w));
    module_unref(&w->module);
    free(w);
    return rc;
}

void work_settle(struct omid_instance *inst)
{
    struct list running;
    list_init(&running);
    struct list *head = &inst->open[HANDLE_WORK], *it;
    while ((it = list_pop(head)) != NULL) {
        struct work *w = list_entry(it, struct work, link);
        list_append(&running, it);
        if (stage_move(w, WORK_WAITING, WORK_OVER))
            work_tell_done(w, false);
        else if (stage_move(w, WORK_RAN, WORK_OVER))
            work_tell_done(w, true);
    }
    while ((it = list_pop(&running)) != NULL)
        list_append(head, it);
}

void work_abandon(struct list *link, struct omid_instance *inst)
{
    struct work *w = list_entry(link, struct work, link);
    CHECK_MAGIC(w, WORK_MAGIC);
    (void)stage_move(w, WORK_WAITING, WORK_OVER);
    (void)exec_abandon(inst->module->host->env.exec, w->ticket);
    log_warning("host", "work abandoned at stop", LS("plugin", inst->module->name), LS("work", w->work.label));
    w->inst = NULL;
}

/* ------------------------------------------------------------ jobs on their way to disk */

struct enqueue {
    uint32_t magic;
    struct list link;
    struct omid_instance *inst; /* NULL: stopped meanwhile */
    omid_enqueued_cb cb;
    void *arg;
    int64_t bytes; /* with the copy that the queue holds */
};

static void on_enqueued(void *arg, enum omid_result result, uint64_t id)
{
    struct enqueue *e = arg;
    CHECK_MAGIC(e, ENQUEUE_MAGIC);
    struct omid_instance *inst = e->inst;
    if (inst != NULL) {
        if (e->cb != NULL) {
            struct host_call call;
            host_enter(&call, inst, "job_enqueued");
            e->cb(e->arg, result, id);
            (void)host_leave(&call, OMID_OK);
        }
        module_account_memory(inst->module, -e->bytes);
        instance_unlink(inst, HANDLE_ENQUEUE, &e->link);
    }
    e->magic = OMID_MAGIC_DEAD;
    free(e);
}

int job_enqueue(struct omid_instance *inst, const struct omid_job *job, omid_enqueued_cb cb, void *arg)
{
    int rc = instance_check_new(inst, "job_enqueue");
    if (rc != OMID_OK)
        return rc;
    struct omid_module *mod = inst->module;
    if (job == NULL || job->size < offsetof(struct omid_job, ordered) || job->type == NULL ||
        (job->payload == NULL && job->payload_len > 0))
        return OMID_EINVAL;
    if (mod->host->env.queue == NULL || mod->plugin->job == NULL)
        return OMID_ENOTSUP;
    struct enqueue *e = calloc(1, sizeof(*e));
    if (e == NULL)
        return OMID_ERR;
    e->magic = ENQUEUE_MAGIC;
    e->inst = inst;
    e->cb = cb;
    e->arg = arg;
    rc = queue_enqueue(mod->host->env.queue, mod->name, job, inst->loop, on_enqueued, e);
    if (rc != OMID_OK) {
        free(e);
        return rc;
    }
    e->bytes = (int64_t)(sizeof(*e) + job->payload_len);
    module_account_memory(mod, e->bytes);
    instance_link(inst, HANDLE_ENQUEUE, &e->link);
    return OMID_OK;
}

void enqueue_abandon(struct list *link, struct omid_instance *inst)
{
    struct enqueue *e = list_entry(link, struct enqueue, link);
    CHECK_MAGIC(e, ENQUEUE_MAGIC);
    module_account_memory(inst->module, -e->bytes);
    e->inst = NULL;
}

/* ------------------------------------------------------------ attempts */

struct omid_job_run {
    uint32_t magic;
    struct list link;
    struct omid_instance *inst;
    struct queue_claim *claim;
    bool in_callback, finished;
    int64_t bytes; /* with the payload */
};

struct dispatch {
    struct loop_msg msg;
    struct omid_module *module; /* used */
    struct queue_claim *claim;
    unsigned reactor;
};

/* Nobody could take it now: not an attempt, and offered again soon. */
#define OFFER_AGAIN_S 1

static void run_free(struct omid_job_run *run)
{
    run->magic = OMID_MAGIC_DEAD;
    free(run);
}

static void run_job(struct omid_instance *inst, struct queue_claim *claim)
{
    struct omid_job_run *run = calloc(1, sizeof(*run));
    if (run == NULL) {
        queue_finish(&claim, OMID_JOB_WAIT, OFFER_AGAIN_S, "out of memory");
        return;
    }
    run->magic = JOB_RUN_MAGIC;
    run->inst = inst;
    run->claim = claim;
    run->in_callback = true;
    run->bytes = (int64_t)(sizeof(*run) + queue_claim_view(claim)->payload_len);
    module_account_memory(inst->module, run->bytes);
    instance_link(inst, HANDLE_JOB, &run->link);
    struct host_call call;
    host_enter(&call, inst, "job");
    int rc = host_leave(&call, inst->module->plugin->job(inst->state, queue_claim_view(claim), run));
    run->in_callback = false;
    if (run->finished) {
        run_free(run);
    } else if (rc < 0) {
        struct omid_job_run *r = run;
        job_finish(&r, OMID_JOB_RETRY, 0, "the plugin's job() failed");
    }
}

static void on_dispatch(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct dispatch *d = container_of(msg, struct dispatch, msg);
    struct omid_instance *inst = host_instance_of(d->module, d->reactor);
    if (inst != NULL)
        run_job(inst, d->claim);
    else
        queue_finish(&d->claim, OMID_JOB_WAIT, OFFER_AGAIN_S, "the plugin is not running");
    module_unuse(&d->module);
    free(d);
}

bool host_job_dispatch(void *arg, struct queue_claim *claim)
{
    struct host *h = arg;
    CHECK_MAGIC(h, HOST_MAGIC);
    const char *owner = queue_claim_owner(claim);
    const char *target = queue_claim_view(claim)->target;
    struct omid_module *mod = NULL;
    pthread_mutex_lock(&h->lock);
    for (unsigned i = 0; i < h->n_modules && mod == NULL; i++) {
        struct omid_module *m = h->module[i];
        if (strcmp(m->name, owner) == 0 && module_state(m) == MODULE_STARTED && m->plugin->job != NULL)
            mod = module_use(m);
    }
    pthread_mutex_unlock(&h->lock);
    if (mod == NULL)
        return false;
    struct dispatch *d = calloc(1, sizeof(*d));
    if (d == NULL) {
        module_unuse(&mod);
        return false;
    }
    d->msg.fn = on_dispatch;
    d->module = mod;
    d->claim = claim;
    d->reactor = (unsigned)(map_hash(target, strlen(target)) % mod->n_instances);
    loop_post(mod->instance[d->reactor].loop, &d->msg);
    return true;
}

void job_finish(struct omid_job_run **runp, enum omid_job_outcome outcome, uint32_t retry_after_s, const char *error)
{
    if (runp == NULL || *runp == NULL)
        return;
    struct omid_job_run *run = *runp;
    omid_assert(run->magic == JOB_RUN_MAGIC || run->magic == OMID_MAGIC_DEAD);
    if (instance_check(run->inst, "job_finish") != OMID_OK)
        return;
    *runp = NULL;
    CHECK_MAGIC(run, JOB_RUN_MAGIC);
    if (run->finished)
        return;
    if ((unsigned)outcome > OMID_JOB_DEAD) {
        log_error("host", "an unknown job outcome counts as a failed attempt", LS("plugin", run->inst->module->name),
                  LI("outcome", outcome));
        outcome = OMID_JOB_RETRY;
    }
    run->finished = true;
    queue_finish(&run->claim, outcome, retry_after_s, error);
    module_account_memory(run->inst->module, -run->bytes);
    instance_unlink(run->inst, HANDLE_JOB, &run->link);
    /* Within job() itself run_job() still looks at it. */
    if (!run->in_callback)
        run_free(run);
}

/* The attempt is lost with the instance: the job goes to the next one, at least once as ever. */
void job_run_abandon(struct list *link, struct omid_instance *inst)
{
    struct omid_job_run *run = list_entry(link, struct omid_job_run, link);
    CHECK_MAGIC(run, JOB_RUN_MAGIC);
    queue_finish(&run->claim, OMID_JOB_WAIT, OFFER_AGAIN_S, "the plugin was stopped");
    run->magic = OMID_MAGIC_DEAD;
    instance_bury(inst, run);
}
