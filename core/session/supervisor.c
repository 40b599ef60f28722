#include "session/supervisor.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/magic.h"
#include "base/metrics.h"

#define SUPERVISOR_MAGIC UINT32_C(0x73757076)
#define MODULE "supervisor"
#define MAX_CLASSES 4

/* ------------------------------------------------------------------------ metrics */

struct supervisor_class {
    char label[24];
    struct metric *exits[SUPERVISOR_REASONS], *timeouts, *duration, *stuck;
};

static const double duration_bounds[] = {0.1, 0.5, 1, 2, 5, 10, 30, 60};

const char *supervisor_reason_name(enum supervisor_reason reason)
{
    static const char *const names[SUPERVISOR_REASONS] = {"disconnect", "crash", "lifetime_done"};
    omid_assert(reason < SUPERVISOR_REASONS);
    return names[reason];
}

const char *supervisor_state_name(enum supervisor_state state)
{
    static const char *const names[] = {"running", "draining", "cancelled", "over"};
    omid_assert((size_t)state < ARRAY_LEN(names));
    return names[state];
}

static void class_make(struct supervisor_class *c, const char *label)
{
    struct metric_label labels[] = {{"label", label}, {"reason", ""}};
    snprintf(c->label, sizeof c->label, "%s", label);
    for (int i = 0; i < SUPERVISOR_REASONS; i++) {
        labels[1].value = supervisor_reason_name((enum supervisor_reason)i);
        c->exits[i] = metric_get(METRIC_COUNTER, "async_supervisor_exit_total", "Sessions that ended, by reason.",
                                 labels, 2, NULL, 0);
    }
    c->timeouts = metric_get(METRIC_COUNTER, "async_drain_timeout_total",
                             "Sessions whose remaining work was cancelled when its time was over.", labels, 1, NULL, 0);
    c->duration = metric_get(METRIC_HISTOGRAM, "async_drain_duration_seconds",
                             "From the end of a session to the end of its last task.", labels, 1, duration_bounds,
                             ARRAY_LEN(duration_bounds));
    c->stuck = metric_get(METRIC_COUNTER, "omid_supervisor_stuck_total",
                          "Tasks of sessions that did not stop when they were cancelled, and were given up.", labels, 1,
                          NULL, 0);
}

const struct supervisor_class *supervisor_class_get(const char *label)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct supervisor_class classes[MAX_CLASSES];
    static unsigned n;

    pthread_mutex_lock(&lock);
    unsigned i = 0;
    while (i < n && strcmp(classes[i].label, label) != 0)
        i++;
    omid_assert(i < MAX_CLASSES); /* labels come from a fixed set */
    if (i == n)
        class_make(&classes[n++], label);
    pthread_mutex_unlock(&lock);
    return &classes[i];
}

/* -------------------------------------------------------------------------- tasks */

void task_init(struct task *t)
{
    memset(t, 0, sizeof *t);
    list_init(&t->link);
}

static const char *task_name(const struct supervisor *sv, const struct task *t, char *buf, size_t len)
{
    snprintf(buf, len, "%s:%s", sv->name, t->what);
    return buf;
}

#define TASK_NAME_LEN (sizeof(((struct supervisor *)0)->name) + sizeof(((struct task *)0)->what))

void supervisor_wake(struct supervisor *sv)
{
    CHECK_MAGIC(sv, SUPERVISOR_MAGIC);
    if (sv->woken || sv->state == SUPERVISOR_OVER)
        return;
    sv->woken = true;
    sv->wake(sv->arg);
}

bool task_start(struct task *t, struct supervisor *sv, enum task_kind kind, const char *what,
                const struct task_ops *ops)
{
    CHECK_MAGIC(sv, SUPERVISOR_MAGIC);
    omid_assert(!task_running(t) && list_empty(&t->link));
    if (sv->state >= SUPERVISOR_CANCELLED)
        return false;
    t->sv = sv;
    t->ops = ops;
    t->kind = kind;
    t->told = sv->state != SUPERVISOR_RUNNING;
    t->cancelled = false;
    snprintf(t->what, sizeof t->what, "%s", what);
    list_append(&sv->tasks, &t->link);
    if (ops->count)
        ops->count(1);
    return true;
}

/* Whatever the way: the only place where a task ends. */
static void task_leave(struct task *t)
{
    list_remove(&t->link);
    t->sv = NULL;
    if (t->ops->count)
        t->ops->count(-1);
    if (t->ops->ended)
        t->ops->ended(t);
}

void task_end(struct task *t, enum task_outcome outcome, const char *why)
{
    struct supervisor *sv = t->sv;
    char name[TASK_NAME_LEN];

    if (!sv)
        return;
    CHECK_MAGIC(sv, SUPERVISOR_MAGIC);
    if (outcome == TASK_DISCONNECTED)
        sv->ends |= 1u << SUPERVISOR_DISCONNECT;
    else if (outcome == TASK_FAILED)
        sv->ends |= 1u << SUPERVISOR_CRASH;
    else if (t->kind == TASK_LIFETIME)
        sv->ends |= 1u << SUPERVISOR_LIFETIME_DONE;
    if (outcome == TASK_FAILED)
        log_warning(MODULE, "task failed", LS("task", task_name(sv, t, name, sizeof name)), LS("reason", why));
    if (sv->ends != 0 || sv->state != SUPERVISOR_RUNNING)
        supervisor_wake(sv);
    task_leave(t);
}

/* --------------------------------------------------------------------- supervisor */

void supervisor_init(struct supervisor *sv, const struct supervisor_class *class, const char *tag,
                     void (*wake)(void *arg), void *arg)
{
    memset(sv, 0, sizeof *sv);
    sv->magic = SUPERVISOR_MAGIC;
    sv->class = class;
    sv->wake = wake;
    sv->arg = arg;
    list_init(&sv->tasks);
    snprintf(sv->name, sizeof sv->name, "ws:%s", tag);
}

static void supervisor_set_state(struct supervisor *sv, enum supervisor_state to, uint64_t now_ms)
{
    omid_assert(to > sv->state);
    sv->state = to;
    sv->since_ms = now_ms;
}

/* A task's op may end any task and start others: from the front each time. */
static struct task *task_untold(const struct supervisor *sv)
{
    list_each (it, &sv->tasks) {
        struct task *t = list_entry(it, struct task, link);
        if (!t->told)
            return t;
    }
    return NULL;
}

static struct task *task_uncancelled(const struct supervisor *sv)
{
    list_each (it, &sv->tasks) {
        struct task *t = list_entry(it, struct task, link);
        if (!t->cancelled)
            return t;
    }
    return NULL;
}

static void supervisor_drain(struct supervisor *sv, uint64_t now_ms)
{
    unsigned reason = 0;
    while (!(sv->ends & 1u << reason))
        reason++;
    sv->reason = (enum supervisor_reason)reason;
    sv->drained_ms = now_ms;
    supervisor_set_state(sv, SUPERVISOR_DRAINING, now_ms);
    metric_add(sv->class->exits[reason], 1);
    log_debug(MODULE, "draining", LS("session", sv->name), LS("reason", supervisor_reason_name(sv->reason)));
    struct task *t;
    while ((t = task_untold(sv)) != NULL) {
        t->told = true;
        if (t->ops->shutdown)
            t->ops->shutdown(t);
    }
}

static void supervisor_cancel(struct supervisor *sv)
{
    char name[TASK_NAME_LEN];
    struct task *t;
    while ((t = task_uncancelled(sv)) != NULL) {
        t->told = t->cancelled = true;
        if (t->ops->cancel)
            t->ops->cancel(t);
        else
            log_debug(MODULE, "task can't be cancelled", LS("task", task_name(sv, t, name, sizeof name)));
    }
}

static void supervisor_timeout(struct supervisor *sv, uint64_t now_ms)
{
    char name[TASK_NAME_LEN];
    metric_add(sv->class->timeouts, 1);
    list_each (it, &sv->tasks)
        log_warning(MODULE, "drain timed out, the task is cancelled",
                    LS("task", task_name(sv, list_entry(it, struct task, link), name, sizeof name)),
                    LU("after_ms", now_ms - sv->drained_ms));
    supervisor_set_state(sv, SUPERVISOR_CANCELLED, now_ms);
    supervisor_cancel(sv);
}

static void supervisor_give_up(struct supervisor *sv, uint64_t now_ms)
{
    char name[TASK_NAME_LEN];
    while (!list_empty(&sv->tasks)) {
        struct task *t = list_entry(sv->tasks.next, struct task, link);
        log_error(MODULE, "task is stuck and given up", LS("task", task_name(sv, t, name, sizeof name)),
                  LU("after_ms", now_ms - sv->drained_ms));
        metric_add(sv->class->stuck, 1);
        task_leave(t);
    }
}

void supervisor_tasks(const struct supervisor *sv, char *out, size_t len)
{
    size_t at = 0;
    out[0] = 0;
    list_each (it, &sv->tasks) {
        int n = snprintf(out + at, len - at, "%s%s", at ? "," : "", list_entry(it, struct task, link)->what);
        if (n < 0 || (size_t)n >= len - at)
            break;
        at += (size_t)n;
    }
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

bool supervisor_turn(struct supervisor *sv, uint64_t now_ms, const struct supervisor_limits *limits, uint64_t *due_ms)
{
    CHECK_MAGIC(sv, SUPERVISOR_MAGIC);
    omid_assert(sv->state != SUPERVISOR_OVER);
    *due_ms = UINT64_MAX;
    sv->woken = true; /* what is ended from here on is seen below */
    if (sv->state == SUPERVISOR_RUNNING && sv->ends != 0)
        supervisor_drain(sv, now_ms);
    if (sv->state == SUPERVISOR_DRAINING && !list_empty(&sv->tasks)) {
        *due_ms = earlier(sv->since_ms + limits->drain_ms, limits->until_ms);
        if (now_ms >= *due_ms)
            supervisor_timeout(sv, now_ms);
    }
    if (sv->state == SUPERVISOR_CANCELLED && !list_empty(&sv->tasks)) {
        *due_ms = sv->since_ms + limits->bound_ms;
        if (now_ms >= *due_ms)
            supervisor_give_up(sv, now_ms);
    }
    sv->woken = false;
    if (sv->state == SUPERVISOR_RUNNING || !list_empty(&sv->tasks))
        return false;
    metric_observe(sv->class->duration, (double)(now_ms - sv->drained_ms) / 1000.);
    supervisor_set_state(sv, SUPERVISOR_OVER, now_ms);
    return true;
}

void supervisor_abort(struct supervisor *sv)
{
    CHECK_MAGIC(sv, SUPERVISOR_MAGIC);
    sv->woken = true; /* nobody is to be called any more */
    if (sv->state < SUPERVISOR_CANCELLED)
        supervisor_set_state(sv, SUPERVISOR_CANCELLED, sv->since_ms);
    supervisor_cancel(sv);
    while (!list_empty(&sv->tasks))
        task_leave(list_entry(sv->tasks.next, struct task, link));
    if (sv->state != SUPERVISOR_OVER)
        supervisor_set_state(sv, SUPERVISOR_OVER, sv->since_ms);
}
