/* Work for the storage executor, with what it needs kept alive. */
#include "storage.h"

struct work {
    struct instance *in;
    struct shared *sh;
    void (*run)(struct shared *sh, void *arg);
    void (*done)(struct instance *in, void *arg, bool ran);
    void *arg;
};

static void work_run(void *arg)
{
    struct work *w = arg;
    w->run(w->sh, w->arg);
}

static void work_done(void *arg, bool ran)
{
    struct work w = *(struct work *)arg;
    free(arg);
    w.in->n_works--;
    w.done(w.in, w.arg, ran);
    instance_check_drained(w.in);
    shared_unref(w.sh);
}

bool work_start(struct instance *in, const char *label, void (*run)(struct shared *sh, void *arg),
                void (*done)(struct instance *in, void *arg, bool ran), void *arg)
{
    struct work *w = malloc(sizeof(*w));
    if (w == NULL)
        return false;
    *w = (struct work){.in = in, .sh = shared_ref(in->sh), .run = run, .done = done, .arg = arg};
    const struct omid_work work = {
        .size = sizeof(work), .pool = OMID_POOL_STORAGE, .label = label, .run = work_run, .done = work_done, .arg = w};
    in->n_works++;
    if (in->host->exec_submit(in->inst, &work) == OMID_OK)
        return true;
    in->n_works--;
    shared_unref(w->sh);
    free(w);
    return false;
}
