/* Calls the host from an executor thread: each call must be refused with OMID_ETHREAD. What it saw is published as an
 * event "thread" whose json is the number of refusals. */
#include <stdio.h>
#include <string.h>

#include "plain.h"

struct attempt {
    struct plain *plain;
    struct omid_timer *timer;
    int refused;
};

static void work_run(void *arg)
{
    struct attempt *a = arg;
    struct plain *p = a->plain;
    const struct omid_event ev = {.size = sizeof(ev), .type = OMID_EVENT_CUSTOM, .uid = "u", .name = "wrong"};
    a->refused += p->host->publish(p->inst, &ev) == OMID_ETHREAD;
    a->refused += p->host->timer_start(p->inst, 1, 0, plain_nothing, NULL) == NULL;
    const struct omid_work work = {sizeof(work), OMID_POOL_BLOCKING, "inner", plain_nothing, plain_done, NULL};
    a->refused += p->host->exec_submit(p->inst, &work) == OMID_ETHREAD;
    const struct omid_http_request req = {.size = sizeof(req), .method = "GET", .url = "http://127.0.0.1/"};
    a->refused += p->host->http_start(p->inst, &req, plain_answered, NULL, NULL) == OMID_ETHREAD;
    struct omid_timer *t = a->timer;
    p->host->timer_stop(&t);
    a->refused += t != NULL; /* not taken: the handle is still ours */
}

static void work_done(void *arg, bool ran)
{
    struct attempt *a = arg;
    struct plain *p = a->plain;
    char json[32];
    snprintf(json, sizeof(json), "%d", ran ? a->refused : -1);
    const struct omid_event ev = {
        .size = sizeof(ev),
        .type = OMID_EVENT_CUSTOM,
        .uid = "u",
        .name = "thread",
        .json = json,
        .json_len = strlen(json),
    };
    (void)p->host->publish(p->inst, &ev);
    p->host->timer_stop(&a->timer);
    free(a);
}

static int event(void *state, const struct omid_event *ev)
{
    if (strcmp(ev->name, "go") != 0)
        return OMID_OK;
    struct plain *p = state;
    struct attempt *a = calloc(1, sizeof(*a));
    if (a == NULL)
        return OMID_ERR;
    a->plain = p;
    a->timer = p->host->timer_start(p->inst, 3600000, 0, plain_nothing, NULL);
    const struct omid_work work = {sizeof(work), OMID_POOL_BLOCKING, "wrong thread", work_run, work_done, a};
    int rc = p->host->exec_submit(p->inst, &work);
    if (rc != OMID_OK) {
        p->host->timer_stop(&a->timer);
        free(a);
    }
    return rc;
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD, .name = "bad_thread", .events = OMID_EVENT_MASK(OMID_EVENT_CUSTOM), .event = event, PLAIN,
};
