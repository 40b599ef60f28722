#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "host/module.h"

const char *const handle_names[HANDLE_KINDS] = {
    [HANDLE_TIMER] = "timers",     [HANDLE_HTTP] = "http",    [HANDLE_WS] = "ws",           [HANDLE_WORK] = "work",
    [HANDLE_ENQUEUE] = "enqueues", [HANDLE_JOB] = "jobs",     [HANDLE_ATTACHED] = "routes", [HANDLE_GATHER] = "gathers",
    [HANDLE_ASK] = "questions",    [HANDLE_VALUE] = "values",
};

enum instance_state instance_phase(const struct omid_instance *inst)
{
    return (enum instance_state)atomic_load_explicit(&inst->phase, memory_order_acquire);
}

static bool move_is_legal(enum instance_state from, enum instance_state to)
{
    switch (to) {
    case INSTANCE_NEW:
        return false;
    case INSTANCE_STARTING:
        return from == INSTANCE_NEW;
    case INSTANCE_RUNNING:
        return from == INSTANCE_STARTING;
    case INSTANCE_DRAINING:
        return from == INSTANCE_RUNNING;
    case INSTANCE_DRAINED:
        return from == INSTANCE_DRAINING;
    case INSTANCE_STOPPING:
        return from == INSTANCE_STARTING || from == INSTANCE_RUNNING || from == INSTANCE_DRAINING ||
               from == INSTANCE_DRAINED;
    case INSTANCE_STOPPED:
        return from == INSTANCE_STOPPING || from == INSTANCE_NEW;
    }
    return false;
}

void instance_set_phase(struct omid_instance *inst, enum instance_state to)
{
    omid_assert(move_is_legal(instance_phase(inst), to));
    atomic_store_explicit(&inst->phase, to, memory_order_release);
}

void instance_init(struct omid_instance *inst, struct omid_module *mod, unsigned reactor, struct loop *loop)
{
    inst->magic = INSTANCE_MAGIC;
    inst->module = mod;
    inst->loop = loop;
    inst->reactor = reactor;
    for (unsigned i = 0; i < HANDLE_KINDS; i++)
        list_init(&inst->open[i]);
}

/* ------------------------------------------------------------ the door */

static bool is_alive(enum instance_state s)
{
    return s != INSTANCE_NEW && s != INSTANCE_STOPPED;
}

int instance_check(const struct omid_instance *inst, const char *function)
{
    CHECK_MAGIC(inst, INSTANCE_MAGIC);
    const char *why = !loop_is_current(inst->loop)      ? "called on the wrong thread"
                      : !is_alive(instance_phase(inst)) ? "called after stop()"
                                                        : NULL;
    if (why == NULL)
        return OMID_OK;
    struct omid_module *mod = inst->module;
    atomic_fetch_add(&mod->account.misuse, 1);
    log_error("host", "a plugin's call was refused", LS("plugin", mod->name), LS("function", function),
              LS("reason", why));
    return OMID_ETHREAD;
}

int instance_check_new(const struct omid_instance *inst, const char *function)
{
    int rc = instance_check(inst, function);
    if (rc != OMID_OK)
        return rc;
    return instance_phase(inst) == INSTANCE_STOPPING ? OMID_ECLOSED : OMID_OK;
}

void instance_link(struct omid_instance *inst, enum handle_kind kind, struct list *link)
{
    list_append(&inst->open[kind], link);
    module_account_open(inst->module, kind, 1);
}

void instance_unlink(struct omid_instance *inst, enum handle_kind kind, struct list *link)
{
    list_remove(link);
    module_account_open(inst->module, kind, -1);
    instance_maybe_quiet(inst);
}

void instance_bury(struct omid_instance *inst, void *memory)
{
    struct omid_module *mod = inst->module;
    struct tombstone *t = malloc(sizeof(*t));
    if (t == NULL)
        return; /* leaked rather than freed under a plugin's hands */
    t->memory = memory;
    pthread_mutex_lock(&mod->lock);
    list_append(&mod->dead, &t->link);
    pthread_mutex_unlock(&mod->lock);
}

/* ------------------------------------------------------------ callbacks */

void host_enter(struct host_call *call, struct omid_instance *inst, const char *callback)
{
    CHECK_MAGIC(inst, INSTANCE_MAGIC);
    call->inst = inst;
    call->callback = callback;
    call->former = loop_doing_enter(inst->loop, inst->module->name, callback);
    call->began_ns = clock_mono_ns();
}

static void account_time(struct account *a, uint64_t ns)
{
    atomic_fetch_add_explicit(&a->callbacks, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&a->ns, ns, memory_order_relaxed);
    uint64_t max = atomic_load_explicit(&a->max_ns, memory_order_relaxed);
    while (ns > max &&
           !atomic_compare_exchange_weak_explicit(&a->max_ns, &max, ns, memory_order_relaxed, memory_order_relaxed)) {
    }
}

int host_leave(struct host_call *call, int rc)
{
    struct omid_module *mod = call->inst->module;
    uint64_t ns = clock_mono_ns() - call->began_ns;
    loop_doing_leave(call->inst->loop, call->former);
    account_time(&mod->account, ns);
    if (ns > (uint64_t)mod->owner->watchdog.slow_ms * 1000000) {
        atomic_fetch_add(&mod->account.slow, 1);
        log_warning("host", "a callback held its loop", LS("plugin", mod->name), LS("callback", call->callback),
                    LU("ms", ns / 1000000));
    }
    if (rc != OMID_OK && rc != OMID_EFULL) { /* above zero: no result at all */
        atomic_fetch_add(&mod->account.errors, 1);
        log_warning("host", "a callback failed", LS("plugin", mod->name), LS("callback", call->callback),
                    LI("result", rc));
    }
    return rc;
}

int host_event(struct omid_instance *inst, const struct omid_event *ev)
{
    struct host_call call;
    host_enter(&call, inst, "event");
    atomic_fetch_add_explicit(&inst->module->account.events, 1, memory_order_relaxed);
    return host_leave(&call, inst->module->plugin->event(inst->state, ev));
}

int host_check(const struct omid_instance *inst, const char *function)
{
    return instance_check(inst, function);
}

/* ------------------------------------------------------------ attached */

void host_attach(struct omid_instance *inst, struct host_attachment *att)
{
    omid_assert(loop_is_current(inst->loop));
    att->inst = inst;
    instance_link(inst, HANDLE_ATTACHED, &att->link);
}

void host_detach(struct host_attachment *att)
{
    omid_assert(loop_is_current(att->inst->loop));
    instance_unlink(att->inst, HANDLE_ATTACHED, &att->link);
}

void host_bury(struct omid_instance *inst, void *memory)
{
    instance_bury(inst, memory);
}

/* The callee detaches at once or leaves it for later; whatever it does, each is told once. */
static void attachments_tell(struct omid_instance *inst, bool stopped)
{
    struct list todo;
    list_init(&todo);
    while (!list_empty(&inst->open[HANDLE_ATTACHED]))
        list_append(&todo, list_pop(&inst->open[HANDLE_ATTACHED]));
    while (!list_empty(&todo)) {
        struct host_attachment *att = list_entry(list_pop(&todo), struct host_attachment, link);
        list_append(&inst->open[HANDLE_ATTACHED], &att->link);
        if (stopped)
            att->stopped(att);
        else if (att->stopping != NULL)
            att->stopping(att);
    }
}

/* ------------------------------------------------------------ life */

int instance_start(struct omid_instance *inst)
{
    struct omid_module *mod = inst->module;
    instance_set_phase(inst, INSTANCE_STARTING);
    struct host_call call;
    host_enter(&call, inst, "start");
    int rc = host_leave(&call, mod->plugin->start(inst, &host_table, mod->shared, &inst->state));
    if (rc == OMID_OK) {
        instance_set_phase(inst, INSTANCE_RUNNING);
    } else {
        /* Its state is gone: nothing that start() began may call it. */
        inst->failed = true;
        instance_stop(inst);
    }
    return rc;
}

void instance_drain(struct omid_instance *inst)
{
    if (instance_phase(inst) != INSTANCE_RUNNING)
        return;
    instance_set_phase(inst, INSTANCE_DRAINING);
    if (inst->module->plugin->drain != NULL) {
        struct host_call call;
        host_enter(&call, inst, "drain");
        inst->module->plugin->drain(inst->state);
        (void)host_leave(&call, OMID_OK);
    } else {
        instance_set_phase(inst, INSTANCE_DRAINED);
    }
    instance_maybe_quiet(inst);
}

void instance_maybe_quiet(struct omid_instance *inst)
{
    if (instance_phase(inst) != INSTANCE_DRAINED || !list_empty(&inst->open[HANDLE_WORK]) ||
        !list_empty(&inst->open[HANDLE_ENQUEUE]) || !list_empty(&inst->open[HANDLE_JOB]) ||
        !list_empty(&inst->open[HANDLE_VALUE]) || !list_empty(&inst->open[HANDLE_GATHER]) ||
        ask_waited_for(&inst->open[HANDLE_ASK]))
        return;
    /* Without a drain of its own nobody but the lane knows when its requests are over; they end by their time limit. */
    if (inst->module->plugin->drain == NULL && !list_empty(&inst->open[HANDLE_HTTP]))
        return;
    struct host *h = inst->module->host;
    pthread_mutex_lock(&h->lock);
    atomic_store(&inst->quiet, true);
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
}

/* What stop() left open: each cancelled, never to call back; counted and told by kind. */
static void cancel_open(struct omid_instance *inst)
{
    static void (*const cancel[HANDLE_KINDS])(struct list *, struct omid_instance *) = {
        [HANDLE_TIMER] = timer_cancel,
        [HANDLE_HTTP] = http_bury,
        [HANDLE_WS] = ws_bury,
        [HANDLE_WORK] = work_abandon,
        [HANDLE_ENQUEUE] = enqueue_abandon,
        [HANDLE_JOB] = job_run_abandon,
        [HANDLE_GATHER] = gather_bury,
        [HANDLE_ASK] = ask_bury,
        [HANDLE_VALUE] = value_abandon,
    };
    struct omid_module *mod = inst->module;
    attachments_tell(inst, true);
    value_settle(inst);
    for (unsigned kind = 0; kind < HANDLE_KINDS; kind++) {
        unsigned n = 0;
        for (struct list *it; cancel[kind] != NULL && (it = list_pop(&inst->open[kind])) != NULL; n++) {
            module_account_open(mod, (enum handle_kind)kind, -1);
            cancel[kind](it, inst);
        }
        if (n == 0)
            continue;
        atomic_fetch_add(&mod->account.leaked, n);
        log_warning("host", "left open by stop()", LS("plugin", mod->name), LS("what", handle_names[kind]),
                    LU("number", n), LU("reactor", inst->reactor));
    }
    /* All exchanges and connections have let go in stopped(). */
    omid_assert(list_empty(&inst->open[HANDLE_ATTACHED]));
}

void instance_stop(struct omid_instance *inst)
{
    enum instance_state s = instance_phase(inst);
    if (s == INSTANCE_STOPPED)
        return;
    if (s == INSTANCE_NEW) {
        instance_set_phase(inst, INSTANCE_STOPPED);
        return;
    }
    /* Callbacks of open connections and of work that is not running now still reach the instance, then stop(). */
    attachments_tell(inst, false);
    instance_set_phase(inst, INSTANCE_STOPPING);
    if (!inst->failed) {
        work_settle(inst);
        struct host_call call;
        host_enter(&call, inst, "stop");
        inst->module->plugin->stop(inst->state);
        (void)host_leave(&call, OMID_OK);
    }
    cancel_open(inst);
    inst->state = NULL;
    instance_set_phase(inst, INSTANCE_STOPPED);
}
