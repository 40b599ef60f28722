/* Does all it should, and tells what it sees by events "seen" (json: a word) that a test listens to. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "plain.h"

static void say(struct plain *p, const char *word)
{
    const struct omid_event ev = {
        .size = sizeof(ev),
        .type = OMID_EVENT_CUSTOM,
        .uid = "u",
        .name = "seen",
        .json = word,
        .json_len = strlen(word),
    };
    (void)p->host->publish(p->inst, &ev);
}

static atomic_bool lingers; /* of this generation: its drain takes a while */

struct running {
    struct plain *p;
    struct omid_timer *timer;
    struct omid_http *http;
};

static void on_tick(void *arg)
{
    struct running *r = arg;
    say(r->p, "tick");
    r->p->host->timer_stop(&r->timer);
    free(r);
}

static void on_answer(void *arg, const struct omid_http_response *res)
{
    struct running *r = arg;
    char word[32];
    snprintf(word, sizeof(word), "http %d", res->status);
    say(r->p, word);
    r->p->host->http_cancel(&r->http); /* within its own callback: harmless */
    free(r);
}

static void on_drained(void *arg)
{
    struct running *r = arg;
    say(r->p, "drained");
    r->p->host->timer_stop(&r->timer);
    r->p->host->drained(r->p->inst);
    free(r);
}

static void work_run(void *arg)
{
    (void)arg;
}

static void work_done(void *arg, bool ran)
{
    say(arg, ran ? "worked" : "not worked");
}

static void on_enqueued(void *arg, enum omid_result result, uint64_t id)
{
    char word[64];
    snprintf(word, sizeof(word), "enqueued %d %llu", (int)result, (unsigned long long)id);
    say(arg, word);
}

static void on_batch(void *arg, enum omid_result result, bool repeated, const char *value)
{
    char word[64];
    snprintf(word, sizeof(word), "batch %d %d %s", (int)result, repeated, value);
    say(arg, word);
}

/* As a plugin that was built before `ordered` was there hands them over: what lies behind is not its own. */
static int old_batch(struct plain *p)
{
    enum { SIZE = offsetof(struct omid_job, ordered) };
    struct omid_job job = {.size = SIZE, .type = "t", .target = "x", .ordered = true, .rate_per_min = 99};
    char two[2 * SIZE];
    memcpy(two, &job, SIZE);
    memcpy(two + SIZE, &job, SIZE);
    return p->host->jobs_enqueue(p->inst, (const struct omid_job *)(const void *)two, 2, NULL, on_batch, p);
}

static int batch(struct plain *p)
{
    const struct omid_job jobs[3] = {
        {.size = sizeof(jobs[0]), .type = "t", .target = "x"},
        {.size = sizeof(jobs[0]), .type = "t", .target = "y"},
        {.size = sizeof(jobs[0]), .type = "t", .target = "z", .ordered = true, .rate_per_min = 60},
    };
    const struct omid_receipt receipt = {.key = "k", .value = "v"};
    if (p->host->jobs_retry_after(p->inst) != 17 ||
        p->host->jobs_enqueue(p->inst, jobs, 10001, NULL, NULL, NULL) != OMID_EINVAL)
        return OMID_ERR;
    return p->host->jobs_enqueue(p->inst, jobs, 3, &receipt, on_batch, p);
}

static int event(void *state, const struct omid_event *ev)
{
    struct plain *p = state;
    const struct omid_host *host = p->host;
    if (strcmp(ev->name, "http") == 0 || strcmp(ev->name, "tick") == 0) {
        struct running *r = calloc(1, sizeof(*r));
        if (r == NULL)
            return OMID_ERR;
        r->p = p;
        if (strcmp(ev->name, "tick") == 0) {
            r->timer = host->timer_start(p->inst, 1, 1, on_tick, r);
            return OMID_OK;
        }
        const struct omid_http_request req = {.size = sizeof(req), .method = "GET", .url = "http://127.0.0.1/"};
        return host->http_start(p->inst, &req, on_answer, r, &r->http);
    }
    if (strcmp(ev->name, "work") == 0) {
        const struct omid_work work = {sizeof(work), OMID_POOL_STORAGE, "work", work_run, work_done, p};
        return host->exec_submit(p->inst, &work);
    }
    if (strcmp(ev->name, "chatter") == 0) {
        for (int i = 0; i < 250; i++)
            host->log(host->module(p->inst), OMID_LOG_WARNING, "chatter");
        return OMID_OK;
    }
    if (strcmp(ev->name, "linger") == 0)
        atomic_store(&lingers, true);
    if (strcmp(ev->name, "batch") == 0)
        return batch(p);
    if (strcmp(ev->name, "old batch") == 0)
        return old_batch(p);
    if (strcmp(ev->name, "enqueue") == 0) {
        const struct omid_job job = {.size = sizeof(job), .type = "t", .target = "x", .payload = "p", .payload_len = 1};
        return host->job_enqueue(p->inst, &job, on_enqueued, p);
    }
    return OMID_OK;
}

static int job(void *state, const struct omid_job_view *view, struct omid_job_run *run)
{
    struct plain *p = state;
    say(p, view->type);
    if (strcmp(view->type, "fails") == 0)
        return OMID_ERR;
    const struct omid_attempt attempt = {.size = sizeof(attempt), .status = 204, .elapsed_ms = 3};
    p->host->job_attempt(run, &attempt);
    p->host->job_finish(&run, strcmp(view->type, "dies") == 0 ? OMID_JOB_DEAD : OMID_JOB_DONE, 0, NULL);
    return OMID_OK;
}

static void drain(void *state)
{
    struct plain *p = state;
    struct running *r = atomic_load(&lingers) ? calloc(1, sizeof(*r)) : NULL;
    if (r == NULL) {
        p->host->drained(p->inst);
        return;
    }
    say(p, "draining");
    r->p = p;
    r->timer = p->host->timer_start(p->inst, 50, 0, on_drained, r);
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    (void)shared;
    struct omid_counter *a = host->counter(mod, "things", "Things.", "kind", "a");
    struct omid_counter *again = host->counter(mod, "things", "Things.", "kind", "a");
    host->counter_add(a, 2);
    if (a == NULL || a != again || host->counter(mod, "Bad Name", "x", NULL, NULL) != NULL)
        return OMID_ERR;
    for (int i = 0; i < 100; i++) {
        char what[16];
        snprintf(what, sizeof(what), "n%d", i);
        host->counter_add(host->counter(mod, what, "One of many.", NULL, NULL), 1);
    }
    return OMID_OK;
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,       .name = "good", .events = OMID_EVENT_MASK(OMID_EVENT_CUSTOM),
    .configure = configure, .event = event, .job = job,
    .drain = drain,         PLAIN,
};
