/* The mock host: durable jobs. */
#include "mock_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct job *job_keep(struct mock *m, const struct omid_job *job)
{
    must(job->size == sizeof(*job) && job->type != NULL && job->payload_len <= (32u << 20) + 4096);
    must(m->n_jobs < MAX_RECORDS);
    struct job *j = calloc(1, sizeof(*j));
    must(j != NULL);
    j->pub.type = strdup(job->type);
    j->pub.name = strdup(job->name != NULL ? job->name : "");
    j->pub.target = strdup(job->target != NULL ? job->target : "");
    j->pub.payload = calloc(job->payload_len + 1, 1);
    if (job->payload_len > 0)
        memcpy(j->pub.payload, job->payload, job->payload_len);
    j->pub.payload_len = job->payload_len;
    j->pub.ordered = job->ordered;
    j->pub.rate_per_min = job->rate_per_min;
    j->pub.open = true;
    m->jobs[m->n_jobs++] = j;
    return j;
}

static int h_job_enqueue(struct omid_instance *inst, const struct omid_job *job, omid_enqueued_cb cb, void *arg)
{
    mock_check_instance(inst);
    struct mock *m = inst->m;
    if (m->job_rc != OMID_OK)
        return m->job_rc;
    struct job *j = job_keep(m, job);
    j->cb = cb;
    j->arg = arg;
    return OMID_OK;
}

static int h_jobs_enqueue(struct omid_instance *inst, const struct omid_job *jobs, size_t n,
                          const struct omid_receipt *receipt, omid_jobs_enqueued_cb cb, void *arg)
{
    mock_check_instance(inst);
    struct mock *m = inst->m;
    must((n > 0 || receipt != NULL) && n <= 10000 && m->n_batches < MAX_RECORDS);
    if (m->job_rc != OMID_OK)
        return m->job_rc;
    struct batch *b = &m->batches[m->n_batches++];
    *b = (struct batch){.pub = {.first = m->n_jobs, .n = n, .open = true}, .cb = cb, .arg = arg};
    if (receipt != NULL) {
        must(receipt->key != NULL && receipt->key[0] != '\0' && strlen(receipt->key) <= 512);
        must(receipt->value == NULL || strlen(receipt->value) <= 4096);
        b->pub.key = strdup(receipt->key);
        b->pub.value = strdup(receipt->value != NULL ? receipt->value : "");
    }
    for (size_t i = 0; i < n; i++)
        job_keep(m, &jobs[i]);
    return OMID_OK;
}

static uint32_t h_jobs_retry_after(struct omid_instance *inst)
{
    mock_check_instance(inst);
    return inst->m->retry_after > 0 ? inst->m->retry_after : 1;
}

static void h_job_attempt(struct omid_job_run *run, const struct omid_attempt *a)
{
    must(run != NULL && !run->finished && a->size == sizeof(*a));
    struct mock_attempt *to = &run->attempt;
    to->n++;
    to->status = a->status;
    to->elapsed_ms = a->elapsed_ms;
    snprintf(to->endpoint, sizeof(to->endpoint), "%s", a->endpoint != NULL ? a->endpoint : "");
    to->answer_len = a->answer_len < sizeof(to->answer) - 1 ? a->answer_len : sizeof(to->answer) - 1;
    if (a->answer != NULL)
        memcpy(to->answer, a->answer, to->answer_len);
    to->answer[a->answer != NULL ? to->answer_len : 0] = '\0';
}

static void h_job_finish(struct omid_job_run **run, enum omid_job_outcome outcome, uint32_t retry_after_s,
                         const char *error)
{
    must(run != NULL && *run != NULL && !(*run)->finished);
    (*run)->finished = true;
    (*run)->outcome = outcome;
    (*run)->after_s = retry_after_s;
    snprintf((*run)->error, sizeof((*run)->error), "%s", error != NULL ? error : "");
    *run = NULL;
}

size_t mock_job_count(const struct mock *m)
{
    return m->n_jobs;
}

const struct mock_job *mock_job(const struct mock *m, size_t i)
{
    must(i < m->n_jobs);
    return &m->jobs[i]->pub;
}

void mock_job_ack(struct mock *m, size_t i, enum omid_result result)
{
    must(i < m->n_jobs && m->jobs[i]->pub.open);
    m->jobs[i]->pub.open = false;
    if (m->jobs[i]->cb != NULL)
        m->jobs[i]->cb(m->jobs[i]->arg, result, i + 1);
}

void mock_job_refuse(struct mock *m, int rc)
{
    m->job_rc = rc;
}

size_t mock_batch_count(const struct mock *m)
{
    return m->n_batches;
}

const struct mock_batch *mock_batch(const struct mock *m, size_t i)
{
    must(i < m->n_batches);
    return &m->batches[i].pub;
}

void mock_batch_ack(struct mock *m, size_t i, enum omid_result result, const char *repeated)
{
    must(i < m->n_batches && m->batches[i].pub.open);
    struct batch *b = &m->batches[i];
    b->pub.open = false;
    const char *own = b->pub.value != NULL ? b->pub.value : "";
    if (b->cb != NULL)
        b->cb(b->arg, result, repeated != NULL, repeated != NULL ? repeated : own);
}

void mock_retry_after(struct mock *m, uint32_t s)
{
    m->retry_after = s;
}

const struct mock_attempt *mock_run_attempt(const struct omid_job_run *run)
{
    return &run->attempt;
}

struct omid_job_run *mock_job_run_view(struct omid_instance *inst, const struct omid_job_view *view)
{
    struct mock *m = inst->m;
    struct omid_job_run *run = calloc(1, sizeof(*run));
    must(run != NULL);
    run->next = m->runs;
    m->runs = run;
    must(m->plugin->job(inst->state, view, run) == OMID_OK);
    return run;
}

struct omid_job_run *mock_job_run(struct omid_instance *inst, size_t i, unsigned attempt)
{
    const struct mock_job *j = mock_job(inst->m, i);
    const struct omid_job_view view = {.size = sizeof(view),
                                       .id = i + 1,
                                       .type = j->type,
                                       .name = j->name,
                                       .target = j->target,
                                       .payload = j->payload,
                                       .payload_len = j->payload_len,
                                       .attempt = attempt};
    return mock_job_run_view(inst, &view);
}

bool mock_run_finished(const struct omid_job_run *run, enum omid_job_outcome *outcome, uint32_t *after_s,
                       const char **error)
{
    if (outcome != NULL)
        *outcome = run->outcome;
    if (after_s != NULL)
        *after_s = run->after_s;
    if (error != NULL)
        *error = run->error;
    return run->finished;
}

void mock_jobs_clear(struct mock *m)
{
    for (size_t i = 0; i < m->n_jobs; i++) {
        struct mock_job *j = &m->jobs[i]->pub;
        free(j->type);
        free(j->name);
        free(j->target);
        free(j->payload);
        free(m->jobs[i]);
    }
    for (size_t i = 0; i < m->n_batches; i++) {
        free(m->batches[i].pub.key);
        free(m->batches[i].pub.value);
    }
    while (m->runs != NULL) {
        struct omid_job_run *r = m->runs;
        must(r->finished);
        m->runs = r->next;
        free(r);
    }
}

void mock_jobs_set(struct omid_host *t)
{
    t->job_enqueue = h_job_enqueue;
    t->job_finish = h_job_finish;
    t->jobs_enqueue = h_jobs_enqueue;
    t->job_attempt = h_job_attempt;
    t->jobs_retry_after = h_jobs_retry_after;
}
