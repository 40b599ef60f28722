/* Jobs on their way to the durable queue. A deletion is kept until it is on disk, and told in the log when it never
 * gets there; a store job that is refused is found again by its spool file (recover.c). */
#include <inttypes.h>
#include <string.h>

#include "storage.h"

#define MAX_ENQUEUES 8192
#define PAUSE_MS 1000 /* after a refusal; doubled while it goes on */
#define PAUSE_MAX_MS 60000

struct enqueue {
    struct enqueue *next;
    struct instance *in;
    const char *type;
    char *name, *target, *payload;
    enqueued_cb cb;
    void *arg;
    bool kept;      /* until the queue takes it */
    bool submitted; /* the queue will call back */
};

bool backoff_refused(struct backoff *b, uint64_t now_ms)
{
    if (now_ms < b->until_ms)
        return false;
    b->pause_ms = b->pause_ms == 0 ? PAUSE_MS : b->pause_ms < PAUSE_MAX_MS / 2 ? 2 * b->pause_ms : PAUSE_MAX_MS;
    b->until_ms = now_ms + b->pause_ms;
    return true;
}

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
    if (result == OMID_OK)
        in->backoff = (struct backoff){0};
    else if (backoff_refused(&in->backoff, in->host->now_ms())) /* told for the first of many */
        in->host->log(in->mod, OMID_LOG_ERROR, "job %s is not on disk (%s), tried again", e->name,
                      result == OMID_EFULL ? "the queue is full" : "the queue's disk fails");
    if (result != OMID_OK && e->kept)
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

/* cb NULL: it is kept until the queue takes it. Else cb comes once, unless this is false. */
static bool enqueue_job(struct instance *in, const char *type, const char *name, const char *target,
                        const char *payload, enqueued_cb cb, void *arg)
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
                          .arg = arg,
                          .kept = cb == NULL};
    in->enqueues = e;
    in->n_enqueues++;
    bool whole = e->name != NULL && e->target != NULL && e->payload != NULL;
    if (whole && (submit(e) || e->kept))
        return true;
    enqueue_free(e);
    return false;
}

/* A spool file's name begins with its conversation's id. */
bool enqueue_offer(struct instance *in, const char *name, enqueued_cb cb, void *arg)
{
    char job[NAME_SIZE + 16], target[CONV_MAX + 1];
    snprintf(job, sizeof(job), JOB_STORE ":%s", name);
    snprintf(target, sizeof(target), "%.*s", (int)strcspn(name, "."), name);
    return enqueue_job(in, JOB_STORE, job, target, name, cb, arg);
}

static void on_stored(void *arg, bool on_disk)
{
    struct instance *in = arg;
    if (!on_disk)
        atomic_store(&in->sh->left, true);
}

void enqueue_store(struct instance *in, const char *name)
{
    if (!enqueue_offer(in, name, on_stored, in))
        atomic_store(&in->sh->left, true);
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
    uint64_t now = in->host->now_ms();
    if (now < in->backoff.until_ms && !in->draining)
        return;
    for (struct enqueue *e = in->enqueues; e != NULL; e = e->next) {
        if (e->submitted || submit(e))
            continue;
        backoff_refused(&in->backoff, now);
        break;
    }
}

void enqueue_stop(struct instance *in)
{
    while (in->enqueues != NULL) {
        struct enqueue *e = in->enqueues;
        if (!e->submitted && e->kept)
            in->host->log(in->mod, OMID_LOG_ERROR, "job %s never got to the disk", e->name);
        if (e->cb != NULL)
            e->cb(e->arg, false);
        enqueue_free(e);
    }
}
