#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "host/module.h"

#define START_REMARK_MS 10000 /* a start() that takes longer is told, and waited for on */
#define START_BOUND_MS 30000  /* but no longer than this */
#define START_LOOK_MS 100     /* how often it is asked whether the daemon is to stop */
#define STOP_BOUND_MS 10000

struct host *host_new(const struct host_env *env)
{
    struct host *h = calloc(1, sizeof(*h));
    if (h == NULL)
        return NULL;
    ask_metrics();
    size_t n = env->conf->n_plugins;
    h->module = calloc(n > 0 ? n : 1, sizeof(struct omid_module *));
    h->view = calloc(env->n_loops > 0 ? env->n_loops : 1, sizeof(struct host_view *));
    if (h->module == NULL || h->view == NULL) {
        free(h->module);
        free(h->view);
        free(h);
        return NULL;
    }
    list_init(&h->retired);
    h->magic = HOST_MAGIC;
    h->env = *env;
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&h->changed, &attr);
    pthread_condattr_destroy(&attr);
    table_set_services(&h->env.services, h);
    metrics_collector_add(host_collect, h);
    return h;
}

static void let_go(struct omid_module **modp)
{
    struct omid_module *mod = *modp;
    if (atomic_load(&mod->refs) > 1) {
        /* Its code runs on an executor: file and what the instances share stay as they are. */
        log_error("host", "plugin left open: its work still runs", LS("plugin", mod->name));
    } else {
        module_unconfigure(mod);
    }
    module_unref(modp);
}

void host_free(struct host **hp)
{
    struct host *h = *hp;
    *hp = NULL;
    if (h == NULL)
        return;
    CHECK_MAGIC(h, HOST_MAGIC);
    metrics_collector_remove(host_collect, h);
    table_set_services(NULL, NULL);
    omid_assert(h->change == NULL);
    for (unsigned i = 0; i < h->env.n_loops; i++)
        view_free(&h->view[i]);
    for (struct list *it; (it = list_pop(&h->retired)) != NULL;) {
        struct omid_module *mod = list_entry(it, struct omid_module, link);
        let_go(&mod);
    }
    for (unsigned i = h->n_modules; i-- > 0;)
        let_go(&h->module[i]);
    for (struct past *p; (p = h->past) != NULL;) {
        h->past = p->next;
        free(p);
    }
    free(h->view);
    free(h->module);
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->lock);
    h->magic = OMID_MAGIC_DEAD;
    free(h);
}

/* ------------------------------------------------------------ configure */

/* Two names that differ in - and _ alone would share their metrics. */
const char *host_name_clash(struct omid_module *const *module, unsigned n, const char *name)
{
    for (unsigned i = 0; i < n; i++) {
        if (module[i] == NULL)
            continue;
        const char *a = module[i]->name, *b = name;
        while (*a != '\0' && (*a == *b || (*a == '-' && *b == '_') || (*a == '_' && *b == '-'))) {
            a++;
            b++;
        }
        if (*a == *b)
            return module[i]->name;
    }
    return NULL;
}

bool host_configure(struct host *h, struct conf_faults *faults)
{
    CHECK_MAGIC(h, HOST_MAGIC);
    unsigned errors = faults->errors;
    for (size_t i = 0; i < h->env.conf->n_plugins; i++) {
        const struct conf_plugin *conf = &h->env.conf->plugin[i];
        const char *clash = host_name_clash(h->module, h->n_modules, conf->name);
        if (clash != NULL) {
            conf_fault(faults, false, conf->file, conf->line, "plugin", "%s: its name clashes with plugin %s",
                       conf->name, clash);
            continue;
        }
        struct omid_module *mod = module_new(h, h->env.conf, conf);
        if (mod == NULL) {
            conf_fault(faults, false, conf->file, conf->line, "plugin", "%s: out of memory", conf->name);
            return false;
        }
        pthread_mutex_lock(&h->lock);
        h->module[h->n_modules++] = mod;
        pthread_mutex_unlock(&h->lock);
        if (conf->left_out != NULL)
            module_fail(mod, "%s", conf->left_out); /* listed, so that what is missing is seen */
        else
            (void)module_configure(mod, faults);
    }
    for (unsigned i = 0; i < h->env.n_loops; i++) {
        h->view[i] = view_new(h->module, h->n_modules);
        if (h->view[i] == NULL) {
            conf_fault(faults, false, h->env.conf->file, 0, "plugin", "out of memory");
            return false;
        }
    }
    h->env.conf = NULL; /* modules hold what they need of it */
    return faults->errors == errors;
}

/* ------------------------------------------------------------ work for every reactor */

/* One step of one instance. Shared by the waiting main thread and the reactor: the last to let go frees it. */
struct step {
    struct loop_msg msg;
    struct omid_module *module; /* a reference */
    struct omid_instance *inst;
    void (*fn)(struct omid_instance *inst);
    struct host *host;
    struct wait *wait; /* NULL: nobody waits */
};

/* For the steps of one module, under host.lock. Whoever comes last frees it: the waiting thread, or a step that it did
 * not wait for any longer. */
struct wait {
    unsigned left;
    bool given_up;
};

static void on_step(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct step *s = container_of(msg, struct step, msg);
    s->fn(s->inst);
    module_unref(&s->module);
    pthread_mutex_lock(&s->host->lock);
    if (s->wait != NULL && --s->wait->left == 0 && s->wait->given_up)
        free(s->wait);
    pthread_cond_broadcast(&s->host->changed);
    pthread_mutex_unlock(&s->host->lock);
    free(s);
}

static void post_step(struct omid_instance *inst, void (*fn)(struct omid_instance *), struct wait *wait)
{
    struct step *s = calloc(1, sizeof(*s));
    omid_assert(s != NULL); /* at start and stop only, a few bytes */
    s->msg.fn = on_step;
    s->inst = inst;
    s->fn = fn;
    s->host = inst->module->host;
    s->module = module_ref(inst->module);
    s->wait = wait;
    loop_post(inst->loop, &s->msg);
}

void host_post_all(struct omid_module *mod, void (*fn)(struct omid_instance *))
{
    for (unsigned r = 0; r < mod->n_instances; r++)
        post_step(&mod->instance[r], fn, NULL);
}

/* Host locked. false at the deadline. */
static bool wait_changed(struct host *h, uint64_t deadline_ms)
{
    struct timespec ts = {.tv_sec = (time_t)(deadline_ms / 1000), .tv_nsec = (long)(deadline_ms % 1000) * 1000000};
    return pthread_cond_timedwait(&h->changed, &h->lock, &ts) != ETIMEDOUT;
}

/* What holds the reactors of a module: for the log. */
static void tell_stuck(const struct omid_module *mod, const char *waiting_for)
{
    for (unsigned i = 0; i < mod->n_instances; i++) {
        struct pulse_doing doing;
        if (loop_doing_read(mod->instance[i].loop, &doing))
            log_error("host", "a callback holds its reactor", LS("waiting_for", waiting_for), LS("plugin", doing.owner),
                      LS("callback", doing.callback), LU("reactor", i));
    }
}

/* ------------------------------------------------------------ start */

static void start_step(struct omid_instance *inst)
{
    int rc = instance_start(inst);
    if (rc != OMID_OK)
        log_error("host", "start() failed", LS("plugin", inst->module->name), LU("reactor", inst->reactor),
                  LI("result", rc));
}

void host_stop_step(struct omid_instance *inst)
{
    instance_stop(inst);
}

/* Host locked. false: not all of it was over in time, or the daemon is to stop. */
static bool wait_for_steps(struct omid_module *mod, const struct wait *wait, const char *what)
{
    struct host *h = mod->host;
    uint64_t now = clock_mono_ms(), remark = now + START_REMARK_MS;
    uint64_t until = now + (h->env.start_bound_ms != 0 ? h->env.start_bound_ms : START_BOUND_MS);
    while (wait->left > 0) {
        uint64_t look = now + START_LOOK_MS;
        if (wait_changed(h, look < until ? look : until))
            continue;
        now = clock_mono_ms();
        if (now >= until || (h->env.stop_asked != NULL && h->env.stop_asked(h->env.services.arg)))
            return wait->left == 0;
        if (now >= remark) {
            tell_stuck(mod, what);
            remark = now + START_REMARK_MS;
        }
    }
    return true;
}

/* On every reactor at once; waits within bounds. false: some of it is not over, and nobody waits any more. */
static bool on_all(struct omid_module *mod, void (*fn)(struct omid_instance *), const char *what)
{
    struct host *h = mod->host;
    struct wait *wait = calloc(1, sizeof(*wait));
    omid_assert(wait != NULL); /* a few bytes, at start and reload only */
    wait->left = mod->n_instances;
    for (unsigned i = 0; i < mod->n_instances; i++)
        post_step(&mod->instance[i], fn, wait);
    pthread_mutex_lock(&h->lock);
    bool over = wait_for_steps(mod, wait, what);
    wait->given_up = !over;
    pthread_mutex_unlock(&h->lock);
    if (over)
        free(wait);
    else
        tell_stuck(mod, what);
    return over;
}

/* The stops go behind the starts: one that is not over yet is followed by its own. */
static void start_failed(struct omid_module *mod, bool over)
{
    unsigned failed = 0;
    while (over && failed < mod->n_instances && !mod->instance[failed].failed)
        failed++;
    (void)(over ? on_all(mod, host_stop_step, "stop") : (host_post_all(mod, host_stop_step), false));
    /* unconfigure() waits for host_free(): work that start() began may still run and look at what is shared. */
    if (over)
        module_fail(mod, "start() failed on reactor %u", failed);
    else
        module_fail(mod, "start() does not return");
}

bool host_module_start(struct omid_module *mod)
{
    module_set_state(mod, MODULE_STARTING);
    bool over = on_all(mod, start_step, "start"), ok = over;
    for (unsigned i = 0; over && i < mod->n_instances; i++)
        ok = ok && !mod->instance[i].failed;
    if (!ok) {
        start_failed(mod, over);
        return false;
    }
    module_set_state(mod, MODULE_STARTED);
    log_info("host", "plugin runs", LS("plugin", mod->name), LS("version", mod->plugin->version));
    return true;
}

bool host_start(struct host *h)
{
    CHECK_MAGIC(h, HOST_MAGIC);
    bool ok = true;
    for (unsigned i = 0; i < h->n_modules; i++) {
        struct omid_module *mod = h->module[i];
        if (module_state(mod) == MODULE_CONFIGURED && !host_module_start(mod) && mod->conf->required) {
            log_error("host", "a required plugin is missing", LS("plugin", mod->name));
            ok = false;
        }
        if (h->env.stop_asked != NULL && h->env.stop_asked(h->env.services.arg))
            return false;
    }
    return ok;
}

/* ------------------------------------------------------------ drain and stop */

/* Host locked. The first instance that is not done, or NULL. */
static const struct omid_instance *not_quiet(const struct host *h)
{
    for (const struct omid_module *mod = host_next(h, NULL); mod != NULL; mod = host_next(h, mod)) {
        for (unsigned r = 0; module_state(mod) == MODULE_DRAINING && r < mod->n_instances; r++) {
            if (!atomic_load(&mod->instance[r].quiet))
                return &mod->instance[r];
        }
    }
    return NULL;
}

void host_drain(struct host *h, uint64_t deadline_ms)
{
    CHECK_MAGIC(h, HOST_MAGIC);
    for (struct omid_module *mod = host_next(h, NULL); mod != NULL; mod = host_next(h, mod)) {
        enum module_state s = module_state(mod);
        if (s != MODULE_STARTED && s != MODULE_RETIRING)
            continue;
        module_set_state(mod, MODULE_DRAINING);
        host_post_all(mod, instance_drain);
    }
    pthread_mutex_lock(&h->lock);
    const struct omid_instance *late;
    while (not_quiet(h) != NULL) {
        if (wait_changed(h, deadline_ms))
            continue;
        late = not_quiet(h);
        if (late != NULL)
            log_warning("host", "a plugin was not drained in time", LS("plugin", late->module->name),
                        LU("reactor", late->reactor));
        break;
    }
    pthread_mutex_unlock(&h->lock);
}

/* Host locked. */
static const struct omid_instance *not_stopped(const struct host *h)
{
    for (const struct omid_module *mod = host_next(h, NULL); mod != NULL; mod = host_next(h, mod)) {
        enum module_state s = module_state(mod);
        for (unsigned r = 0; (s == MODULE_STOPPING || s == MODULE_FAILED) && r < mod->n_instances; r++) {
            /* Of a failed one all are new, or (being) stopped, or within a start() that does not return. */
            enum instance_state phase = instance_phase(&mod->instance[r]);
            if (phase != INSTANCE_STOPPED && (s == MODULE_STOPPING || phase != INSTANCE_NEW))
                return &mod->instance[r];
        }
    }
    return NULL;
}

static void stop_begin(struct omid_module *mod)
{
    enum module_state s = module_state(mod);
    if (s != MODULE_STARTED && s != MODULE_RETIRING && s != MODULE_DRAINING)
        return;
    module_set_state(mod, MODULE_STOPPING);
    host_post_all(mod, host_stop_step);
}

bool host_stop(struct host *h)
{
    CHECK_MAGIC(h, HOST_MAGIC);
    /* In the reverse order of the configuration, as far as a reactor is concerned. */
    for (unsigned i = h->n_modules; i-- > 0;)
        stop_begin(h->module[i]);
    list_each (it, &h->retired)
        stop_begin(list_entry(it, struct omid_module, link));
    uint64_t deadline = clock_mono_ms() + STOP_BOUND_MS;
    pthread_mutex_lock(&h->lock);
    const struct omid_instance *late;
    while (not_stopped(h) != NULL && wait_changed(h, deadline)) {
    }
    late = not_stopped(h);
    pthread_mutex_unlock(&h->lock);
    if (late != NULL) {
        tell_stuck(late->module, "stop");
        return false;
    }
    for (struct omid_module *mod = host_next(h, NULL); mod != NULL; mod = host_next(h, mod)) {
        if (module_state(mod) == MODULE_STOPPING)
            module_set_state(mod, MODULE_STOPPED);
        if (mod->lane != NULL)
            lane_release(&mod->lane);
    }
    return true;
}

/* ------------------------------------------------------------ who is there */

void host_routes_each(struct host *h, void (*fn)(void *arg, struct omid_module *mod, const struct omid_route *route),
                      void *arg)
{
    CHECK_MAGIC(h, HOST_MAGIC);
    unsigned n;
    struct omid_module **module = host_forming(h, &n);
    for (unsigned i = 0; i < n; i++) {
        for (unsigned r = 0; module[i] != NULL && r < module[i]->n_routes; r++)
            fn(arg, module[i], &module[i]->route[r]);
    }
}

unsigned host_module_count(const struct host *h, unsigned reactor)
{
    CHECK_MAGIC(h, HOST_MAGIC);
    omid_assert(reactor < h->env.n_loops);
    return h->view[reactor] != NULL ? h->view[reactor]->n : 0;
}

struct omid_instance *host_instance(struct host *h, unsigned reactor, unsigned module)
{
    CHECK_MAGIC(h, HOST_MAGIC);
    omid_assert(reactor < h->env.n_loops && module < h->view[reactor]->n);
    return host_instance_of(h->view[reactor]->module[module], reactor);
}

struct omid_instance *host_instance_of(struct omid_module *mod, unsigned reactor)
{
    CHECK_MAGIC(mod, MODULE_MAGIC);
    omid_assert(reactor < mod->n_instances);
    enum module_state s = module_state(mod);
    if (s != MODULE_STARTED && s != MODULE_RETIRING && s != MODULE_DRAINING && s != MODULE_STOPPING)
        return NULL;
    struct omid_instance *inst = &mod->instance[reactor];
    enum instance_state phase = instance_phase(inst);
    return phase == INSTANCE_STOPPING || phase == INSTANCE_STOPPED ? NULL : inst;
}

struct omid_instance *host_instance_on(struct omid_module *mod, const struct loop *loop)
{
    CHECK_MAGIC(mod, MODULE_MAGIC);
    for (unsigned i = 0; i < mod->n_instances; i++) {
        if (mod->instance[i].loop == loop)
            return host_instance_of(mod, i);
    }
    return NULL;
}

bool host_lacks(const struct host *h, const char *name, const char *path)
{
    const struct omid_module *mod = host_failed(h, name);
    return mod != NULL && strcmp(mod->conf->path, path) == 0;
}

bool host_running(const struct omid_instance *inst)
{
    CHECK_MAGIC(inst, INSTANCE_MAGIC);
    return host_instance_of(inst->module, inst->reactor) == inst;
}

const struct omid_plugin *host_plugin(const struct omid_instance *inst)
{
    CHECK_MAGIC(inst, INSTANCE_MAGIC);
    return inst->module->plugin;
}

void *host_state(const struct omid_instance *inst)
{
    CHECK_MAGIC(inst, INSTANCE_MAGIC);
    return inst->state;
}

struct loop *host_loop(const struct omid_instance *inst)
{
    CHECK_MAGIC(inst, INSTANCE_MAGIC);
    return inst->loop;
}

const char *host_name(const struct omid_instance *inst)
{
    CHECK_MAGIC(inst, INSTANCE_MAGIC);
    return inst->module->name;
}

void host_use(struct omid_instance *inst)
{
    CHECK_MAGIC(inst, INSTANCE_MAGIC);
    (void)module_use(inst->module);
}

void host_unuse(struct omid_instance *inst)
{
    CHECK_MAGIC(inst, INSTANCE_MAGIC);
    struct omid_module *mod = inst->module;
    module_unuse(&mod);
}

struct omid_module *host_module_use(struct omid_module *mod)
{
    return module_use(mod);
}

void host_module_unuse(struct omid_module **mod)
{
    module_unuse(mod);
}
