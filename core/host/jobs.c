/* Durable jobs of an instance: on their way to disk, and their attempts. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "host/module.h"

/* ------------------------------------------------------------ on their way to disk */

struct enqueue {
    uint32_t magic;
    struct list link;
    struct omid_instance *inst; /* NULL: stopped meanwhile */
    omid_enqueued_cb one;       /* of job_enqueue(), or */
    omid_jobs_enqueued_cb all;  /* of jobs_enqueue() */
    void *arg;
    int64_t bytes; /* with the copy that the queue holds */
};

static void enqueue_free(struct enqueue *e)
{
    if (e->inst != NULL) {
        module_account_memory(e->inst->module, -e->bytes);
        instance_unlink(e->inst, HANDLE_ENQUEUE, &e->link);
    }
    e->magic = OMID_MAGIC_DEAD;
    free(e);
}

static void on_enqueued(void *arg, enum omid_result result, uint64_t id)
{
    struct enqueue *e = arg;
    CHECK_MAGIC(e, ENQUEUE_MAGIC);
    if (e->inst != NULL && e->one != NULL) {
        struct host_call call;
        host_enter(&call, e->inst, "job_enqueued");
        e->one(e->arg, result, id);
        (void)host_leave(&call, OMID_OK);
    }
    enqueue_free(e);
}

static void on_all_enqueued(void *arg, enum omid_result result, bool repeated, const char *value)
{
    struct enqueue *e = arg;
    CHECK_MAGIC(e, ENQUEUE_MAGIC);
    if (e->inst != NULL && e->all != NULL) {
        struct host_call call;
        host_enter(&call, e->inst, "jobs_enqueued");
        e->all(e->arg, result, repeated, value);
        (void)host_leave(&call, OMID_OK);
    }
    enqueue_free(e);
}

/* What a plugin that was built for an older minor knows of it; the rest is 0. */
static bool job_read(struct omid_job *to, const struct omid_job *job)
{
    if (job->size < offsetof(struct omid_job, ordered) || job->type == NULL ||
        (job->payload == NULL && job->payload_len > 0))
        return false;
    memset(to, 0, sizeof(*to));
    memcpy(to, job, job->size < sizeof(*to) ? job->size : sizeof(*to));
    to->size = sizeof(*to);
    return true;
}

static struct enqueue *enqueue_new(struct omid_instance *inst, void *arg)
{
    struct enqueue *e = calloc(1, sizeof(*e));
    if (e == NULL)
        return NULL;
    e->magic = ENQUEUE_MAGIC;
    e->inst = inst;
    e->arg = arg;
    return e;
}

/* The queue has taken it, or not. */
static int enqueue_begun(struct enqueue *e, int rc, size_t bytes)
{
    if (rc != OMID_OK) {
        free(e);
        return rc;
    }
    e->bytes = (int64_t)(sizeof(*e) + bytes);
    module_account_memory(e->inst->module, e->bytes);
    instance_link(e->inst, HANDLE_ENQUEUE, &e->link);
    return OMID_OK;
}

int job_enqueue(struct omid_instance *inst, const struct omid_job *job, omid_enqueued_cb cb, void *arg)
{
    struct omid_job whole;
    int rc = instance_check_new(inst, "job_enqueue");
    if (rc != OMID_OK)
        return rc;
    struct omid_module *mod = inst->module;
    if (job == NULL || !job_read(&whole, job))
        return OMID_EINVAL;
    if (mod->host->env.queue == NULL || mod->plugin->job == NULL)
        return OMID_ENOTSUP;
    struct enqueue *e = enqueue_new(inst, arg);
    if (e == NULL)
        return OMID_ERR;
    e->one = cb;
    rc = queue_enqueue(mod->host->env.queue, mod->name, &whole, inst->loop, on_enqueued, e);
    return enqueue_begun(e, rc, whole.payload_len);
}

/* An array of structs as large as the plugin knows them: the first one's size is the step. NULL: unusable. */
static struct omid_job *jobs_read(const struct omid_job *jobs, size_t n, size_t *bytes)
{
    struct omid_job *all = calloc(n + 1, sizeof(*all));
    size_t step = n > 0 ? jobs->size : 0;
    const char *at = (const char *)jobs;
    for (size_t i = 0; all != NULL && i < n; i++, at += step) {
        const struct omid_job *job = (const struct omid_job *)(const void *)at;
        if (step % _Alignof(struct omid_job) != 0 || job->size != step || !job_read(&all[i], job)) {
            free(all);
            return NULL;
        }
        *bytes += all[i].payload_len;
    }
    return all;
}

int jobs_enqueue(struct omid_instance *inst, const struct omid_job *jobs, size_t n, const struct omid_receipt *receipt,
                 omid_jobs_enqueued_cb cb, void *arg)
{
    int rc = instance_check_new(inst, "jobs_enqueue");
    if (rc != OMID_OK)
        return rc;
    struct omid_module *mod = inst->module;
    size_t bytes = 0;
    if (n > QUEUE_MAX_BATCH || (n > 0 && jobs == NULL))
        return OMID_EINVAL;
    if (mod->host->env.queue == NULL || mod->plugin->job == NULL)
        return OMID_ENOTSUP;
    struct omid_job *all = jobs_read(jobs, n, &bytes);
    if (all == NULL)
        return OMID_EINVAL;
    struct enqueue *e = enqueue_new(inst, arg);
    if (e == NULL) {
        free(all);
        return OMID_ERR;
    }
    e->all = cb;
    rc = queue_enqueue_all(mod->host->env.queue, mod->name, all, n, receipt, inst->loop, on_all_enqueued, e);
    free(all);
    return enqueue_begun(e, rc, bytes);
}

uint32_t jobs_retry_after(struct omid_instance *inst)
{
    if (instance_check(inst, "jobs_retry_after") != OMID_OK || inst->module->host->env.queue == NULL)
        return 1;
    return queue_retry_after_s(inst->module->host->env.queue);
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
    d->reactor = (unsigned)(hash_keyed(target, strlen(target)) % mod->n_instances);
    loop_post(mod->instance[d->reactor].loop, &d->msg);
    return true;
}

void job_attempt(struct omid_job_run *run, const struct omid_attempt *attempt)
{
    if (run == NULL || attempt == NULL)
        return;
    omid_assert(run->magic == JOB_RUN_MAGIC || run->magic == OMID_MAGIC_DEAD);
    if (instance_check(run->inst, "job_attempt") != OMID_OK || run->finished ||
        attempt->size < sizeof(struct omid_attempt))
        return;
    queue_attempt(run->claim, attempt);
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
