/*
 * Fan-outs. The event "run N AT_ONCE CHUNK FLAGS" begins one, and what came of it is told in an event "seen": its
 * callbacks in their order (s3: item 3 began, i3:0 it was handed over with result 0, a3 aborted, d3 its value dropped,
 * f1 finished with one failure), the most that ran at once, and how many reports were refused.
 *
 *     s  items report within start()         t  at each tick of a timer the last begun of them reports
 *     w  items are work for an executor      f  odd items fail
 *     e  item 2 does not begin               d  every item reports twice
 *     h  item 1 never reports                H  item 3 does so when it is aborted
 *     c  cancelled when item 2 is handed over
 *     C  when item 2 begins                  A  when an item is aborted
 *     n  as h, and nobody ends its wait      L  left open by stop(), which cancels the others
 *     N  item 0 never reports, and no other begins: there may be more of them than have a place here
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "plain.h"

#define MAX_ITEMS 64

struct fan;
struct op {
    struct fan *fan;
    unsigned index;
    omid_gather_token token;
    bool runs;
};
struct fan {
    struct fan *next; /* of all, under fans_lock */
    struct plain *p;
    struct omid_gather *gather;
    struct omid_timer *tick, *end; /* end: of a cancelled one */
    char flags[16], said[1024];
    unsigned n, running, most, refused;
    struct op op[MAX_ITEMS];
};

static pthread_mutex_t fans_lock = PTHREAD_MUTEX_INITIALIZER;
static struct fan *fans;

/* The fan-out f, or NULL: any of the instance; taken out of the list. */
static struct fan *take(struct plain *p, const struct fan *f)
{
    pthread_mutex_lock(&fans_lock);
    struct fan **at = &fans, *found;
    while (*at != NULL && (f != NULL ? *at != f : (*at)->p != p))
        at = &(*at)->next;
    found = *at;
    if (found != NULL)
        *at = found->next;
    pthread_mutex_unlock(&fans_lock);
    return found;
}

static void note(struct fan *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(struct fan *f, const char *fmt, ...)
{
    size_t len = strlen(f->said);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->said + len, sizeof(f->said) - len, fmt, ap);
    va_end(ap);
}

static bool is(const struct fan *f, char flag)
{
    return strchr(f->flags, flag) != NULL;
}

static void end(struct fan *f)
{
    note(f, " most=%u refused=%u", f->most, f->refused);
    const struct omid_event ev = {.size = sizeof(ev),
                                  .type = OMID_EVENT_CUSTOM,
                                  .uid = "u",
                                  .name = "seen",
                                  .json = f->said + 1,
                                  .json_len = strlen(f->said + 1)};
    (void)f->p->host->publish(f->p->inst, &ev);
    f->p->host->timer_stop(&f->tick);
    f->p->host->timer_stop(&f->end);
    free(take(f->p, f));
}

static void stop(void *state)
{
    struct plain *p = state;
    for (struct fan *f; (f = take(p, NULL)) != NULL; free(f)) {
        p->host->timer_stop(&f->tick);
        p->host->timer_stop(&f->end);
        if (!is(f, 'L'))
            p->host->gather_cancel(&f->gather);
    }
    free(p);
}

static void done(struct op *o)
{
    struct fan *f = o->fan;
    const bool fails = is(f, 'f') && o->index % 2 == 1;
    f->running--;
    o->runs = false;
    for (int i = 0; i < (is(f, 'd') ? 2 : 1); i++) {
        char *value = malloc(1);
        if (f->p->host->gather_done(f->p->inst, o->token, fails ? OMID_ERR : OMID_OK, "no luck", value) != OMID_OK) {
            f->refused++;
            free(value);
        }
    }
}

/* Never by itself. */
static bool hangs(const struct fan *f, unsigned index)
{
    return (index == 0 && is(f, 'N')) || (index == 1 && (is(f, 'h') || is(f, 'n'))) || (index == 3 && is(f, 'H'));
}

static void on_tick(void *arg)
{
    struct fan *f = arg;
    for (unsigned i = f->n; i-- > 0;) {
        if (f->op[i].runs && !hangs(f, i)) {
            done(&f->op[i]);
            return;
        }
    }
}

static void work_run(void *arg)
{
    (void)arg;
}

static void work_done(void *arg, bool ran)
{
    if (ran)
        done(arg);
}

static void on_end(void *arg)
{
    end(arg);
}

/* What else comes is told, too. */
static void cancel(struct fan *f)
{
    f->p->host->gather_cancel(&f->gather);
    f->end = f->p->host->timer_start(f->p->inst, 200, 0, on_end, f);
}

static int start(void *arg, unsigned index, omid_gather_token token)
{
    struct fan *f = arg;
    struct op *o = &f->op[index];
    note(f, " s%u", index);
    if (index == 2 && is(f, 'e'))
        return OMID_EFULL;
    *o = (struct op){.fan = f, .index = index, .token = token, .runs = true};
    if (++f->running > f->most)
        f->most = f->running;
    if (hangs(f, index))
        return OMID_OK;
    if (index == 2 && is(f, 'C'))
        cancel(f);
    if (is(f, 's'))
        done(o);
    if (!is(f, 'w'))
        return OMID_OK;
    const struct omid_work work = {sizeof(work), OMID_POOL_STORAGE, "item", work_run, work_done, o};
    return f->p->host->exec_submit(f->p->inst, &work);
}

static void item(void *arg, unsigned index, int result, void *value)
{
    struct fan *f = arg;
    note(f, " i%u:%d", index, result);
    free(value);
    if (index == 2 && is(f, 'c'))
        cancel(f);
}

static void on_abort(void *arg, unsigned index)
{
    struct fan *f = arg;
    note(f, " a%u", index);
    if (is(f, 'H'))
        done(&f->op[index]);
    if (is(f, 'A'))
        cancel(f);
}

static void drop(void *arg, void *value)
{
    note(arg, " d");
    free(value);
}

static void finished(void *arg, unsigned failed)
{
    struct fan *f = arg;
    note(f, " f%u", failed);
    f->p->host->gather_cancel(&f->gather); /* harmless here */
    end(f);
}

static int event(void *state, const struct omid_event *ev)
{
    struct plain *p = state;
    if (strncmp(ev->name, "run ", 4) != 0)
        return OMID_OK;
    struct fan *f = calloc(1, sizeof(*f));
    unsigned at_once, chunk;
    if (f == NULL)
        return OMID_ERR;
    f->p = p;
    int rc = OMID_EINVAL;
    if (sscanf(ev->name, "run %u %u %u %15s", &f->n, &at_once, &chunk, f->flags) == 4 &&
        (f->n <= MAX_ITEMS || (is(f, 'N') && at_once == 1))) {
        const struct omid_gather_request req = {.size = sizeof(req),
                                                .label = "items",
                                                .n = f->n,
                                                .at_once = at_once,
                                                .chunk = chunk,
                                                .item_timeout_ms = is(f, 'h') ? 50 : 0,
                                                .start = start,
                                                .item = item,
                                                .abort = on_abort,
                                                .drop = drop,
                                                .finished = finished,
                                                .arg = f};
        rc = p->host->gather_start(p->inst, &req, &f->gather);
    }
    if (rc != OMID_OK) {
        free(f);
        return rc;
    }
    if (is(f, 't'))
        f->tick = p->host->timer_start(p->inst, 1, 1, on_tick, f);
    pthread_mutex_lock(&fans_lock);
    f->next = fans;
    fans = f;
    pthread_mutex_unlock(&fans_lock);
    return rc;
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    (void)shared;
    if (host->gather_label(mod, "No Label") != OMID_EINVAL || host->gather_label(mod, "items") != OMID_OK)
        return OMID_ERR;
    return host->gather_label(mod, "items"); /* twice is once */
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .name = "gathers",
    .version = "1.0",
    .summary = "A plugin for tests",
    .configure = configure,
    .start = plain_start,
    .events = OMID_EVENT_MASK(OMID_EVENT_CUSTOM),
    .event = event,
    .stop = stop,
};
