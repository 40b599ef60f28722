/* Jobs on their way to the durable queue, kept until they are on disk. A store job that never gets there is found by
 * its spool file at the next start; a delete job that does not is told in the log. */
#include <inttypes.h>
#include <string.h>

#include "storage.h"

#define MAX_ENQUEUES 8192

struct enqueue {
    struct enqueue *next;
    struct instance *in;
    const char *type;
    char *name, *target, *payload;
    enqueued_cb cb;
    void *arg;
    bool submitted; /* the queue will call back */
};

static void enqueue_free(struct enqueue *e)
{
    struct instance *in = e->in;
    struct enqueue **at = &in->enqueues;
    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    in->n_enqueues--;
    free(e->name);
    free(e->target);
    free(e->payload);
    free(e);
}

static void on_enqueued(void *arg, enum omid_result result, uint64_t id)
{
    (void)id;
    struct enqueue *e = arg;
    struct instance *in = e->in;
    e->submitted = false;
    if (result != OMID_OK)
        in->host->log(in->mod, OMID_LOG_ERROR, "job %s is not on disk (%s)%s", e->name,
                      result == OMID_EFULL ? "the queue is full" : "the queue's disk fails",
                      e->cb == NULL ? ", tried again" : "");
    if (result != OMID_OK && e->cb == NULL)
        return; /* enqueue_tick() */
    if (e->cb != NULL)
        e->cb(e->arg, result == OMID_OK);
    enqueue_free(e);
    instance_check_drained(in);
}

static bool submit(struct enqueue *e)
{
    struct instance *in = e->in;
    const struct omid_job job = {.size = sizeof(job),
                                 .type = e->type,
                                 .name = e->name,
                                 .target = e->target,
                                 .payload = e->payload,
                                 .payload_len = strlen(e->payload)};
    return e->submitted = in->host->job_enqueue(in->inst, &job, on_enqueued, e) == OMID_OK;
}

bool enqueue_job(struct instance *in, const char *type, const char *name, const char *target, const char *payload,
                 enqueued_cb cb, void *arg)
{
    struct enqueue *e = in->n_enqueues < MAX_ENQUEUES ? calloc(1, sizeof(*e)) : NULL;
    if (e == NULL)
        return false;
    *e = (struct enqueue){.next = in->enqueues,
                          .in = in,
                          .type = type,
                          .name = strdup(name),
                          .target = strdup(target),
                          .payload = strdup(payload),
                          .cb = cb,
                          .arg = arg};
    in->enqueues = e;
    in->n_enqueues++;
    bool whole = e->name != NULL && e->target != NULL && e->payload != NULL;
    if (whole && (submit(e) || cb == NULL))
        return true;
    enqueue_free(e);
    return false;
}

/* A spool file's name begins with its conversation's id. */
bool enqueue_store(struct instance *in, const char *name, enqueued_cb cb, void *arg)
{
    char job[NAME_SIZE + 16], target[CONV_MAX + 1];
    snprintf(job, sizeof(job), JOB_STORE ":%s", name);
    snprintf(target, sizeof(target), "%.*s", (int)strcspn(name, "."), name);
    if (enqueue_job(in, JOB_STORE, job, target, name, cb, arg))
        return true;
    if (cb == NULL)
        in->host->log(in->mod, OMID_LOG_ERROR,
                      "%s stays in the spool until the next start: too many jobs wait for the queue", name);
    return false;
}

/* One that waits is tried again, so that the fence behind it tells whether it is on disk. false: there is none. */
static bool again(struct instance *in, const char *name)
{
    struct enqueue *e = in->enqueues;
    while (e != NULL && strcmp(e->name, name) != 0)
        e = e->next;
    if (e != NULL && !e->submitted)
        (void)submit(e);
    return e != NULL;
}

static bool deletion(struct instance *in, const char *name, const char *uid, const char *conv, int64_t before_ms)
{
    char payload[UID_NAME_MAX + CONV_MAX + 64], target[CONV_MAX + 16];
    snprintf(payload, sizeof(payload), "%s\n%s\n%" PRId64, uid, conv, before_ms);
    snprintf(target, sizeof(target), "%s/" JOB_DELETE, conv); /* not held back by a batch that can't be stored */
    if (again(in, name) || enqueue_job(in, JOB_DELETE, name, target, payload, NULL, NULL))
        return true;
    in->host->log(in->mod, OMID_LOG_ERROR,
                  "the audio of conversation %s is not deleted: too many jobs wait for the queue", conv);
    return false;
}

bool enqueue_delete(struct instance *in, const char *uid, const char *conv, int64_t before_ms)
{
    char name[UID_NAME_MAX + CONV_MAX + 64];
    snprintf(name, sizeof(name), JOB_DELETE ":%s/%s:%" PRId64, uid, conv, before_ms);
    return deletion(in, name, uid, conv, before_ms);
}

/* Named by what it deletes, not by when that was found: each walk finds it again while the job can't be done. */
bool enqueue_expire(struct instance *in, const char *uid, const char *conv, int64_t first_ms, int64_t before_ms)
{
    char name[UID_NAME_MAX + CONV_MAX + 64];
    snprintf(name, sizeof(name), JOB_DELETE ":%s/%s:from %" PRId64, uid, conv, first_ms);
    return deletion(in, name, uid, conv, before_ms);
}

void enqueue_tick(struct instance *in)
{
    for (struct enqueue *e = in->enqueues; e != NULL; e = e->next) {
        if (!e->submitted && !submit(e))
            break;
    }
}

void enqueue_stop(struct instance *in)
{
    while (in->enqueues != NULL) {
        struct enqueue *e = in->enqueues;
        if (!e->submitted && e->cb == NULL)
            in->host->log(in->mod, OMID_LOG_ERROR, "job %s never got to the disk", e->name);
        if (e->cb != NULL)
            e->cb(e->arg, false);
        enqueue_free(e);
    }
}
