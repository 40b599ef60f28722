/* What an instance has under way on executors. */
#include <stdlib.h>

#include "base/log.h"
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
