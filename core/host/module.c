#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "host/lint.h"
#include "host/module.h"
#include "host/watchdog.h"

static const char *const state_names[] = {
    [MODULE_LOADED] = "loaded",   [MODULE_CONFIGURED] = "configured", [MODULE_STARTING] = "starting",
    [MODULE_STARTED] = "running", [MODULE_DRAINING] = "draining",     [MODULE_STOPPING] = "stopping",
    [MODULE_STOPPED] = "stopped", [MODULE_FAILED] = "failed",         [MODULE_RETIRING] = "retiring",
};

const char *module_state_name(enum module_state s)
{
    return state_names[s];
}

enum module_state module_state(const struct omid_module *mod)
{
    return (enum module_state)atomic_load_explicit(&mod->state, memory_order_acquire);
}

static bool move_is_legal(enum module_state from, enum module_state to)
{
    switch (to) {
    case MODULE_LOADED:
        return false;
    case MODULE_CONFIGURED:
        return from == MODULE_LOADED;
    case MODULE_STARTING:
        return from == MODULE_CONFIGURED;
    case MODULE_STARTED:
        return from == MODULE_STARTING;
    case MODULE_RETIRING:
        return from == MODULE_STARTED;
    case MODULE_DRAINING:
        return from == MODULE_STARTED || from == MODULE_RETIRING;
    case MODULE_STOPPING:
        return from == MODULE_STARTED || from == MODULE_RETIRING || from == MODULE_DRAINING;
    case MODULE_STOPPED:
        return from == MODULE_STOPPING || from == MODULE_CONFIGURED;
    case MODULE_FAILED:
        return from == MODULE_LOADED || from == MODULE_STARTING;
    }
    return false;
}

void module_set_state(struct omid_module *mod, enum module_state to)
{
    omid_assert(move_is_legal(module_state(mod), to));
    atomic_store_explicit(&mod->state, to, memory_order_release);
}

void module_fail(struct omid_module *mod, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    pthread_mutex_lock(&mod->lock);
    vsnprintf(mod->reason, sizeof(mod->reason), fmt, ap);
    pthread_mutex_unlock(&mod->lock);
    va_end(ap);
    module_set_state(mod, MODULE_FAILED);
    log_error("host", "plugin left out", LS("plugin", mod->name), LS("reason", mod->reason));
}

void module_reason(struct omid_module *mod, char out[256])
{
    pthread_mutex_lock(&mod->lock);
    memcpy(out, mod->reason, sizeof(mod->reason));
    pthread_mutex_unlock(&mod->lock);
}

void module_account_open(struct omid_module *mod, enum handle_kind kind, int n)
{
    atomic_fetch_add_explicit(&mod->account.open[kind], n, memory_order_relaxed);
}

void module_account_memory(struct omid_module *mod, int64_t bytes)
{
    atomic_fetch_add_explicit(&mod->account.memory, bytes, memory_order_relaxed);
}

/* ------------------------------------------------------------ life */

struct omid_module *module_new(struct host *h, const struct conf *owner, const struct conf_plugin *conf)
{
    struct omid_module *mod = calloc(1, sizeof(*mod));
    if (mod == NULL)
        return NULL;
    mod->magic = MODULE_MAGIC;
    mod->host = h;
    mod->conf = conf;
    mod->generation = h->next_generation++;
    mod->n_instances = h->env.n_loops;
    mod->name = intern(conf->name);
    mod->instance = calloc(mod->n_instances > 0 ? mod->n_instances : 1, sizeof(*mod->instance));
    if (mod->name == NULL || mod->instance == NULL) {
        free(mod->instance);
        free(mod);
        return NULL;
    }
    mod->owner = conf_ref(owner);
    atomic_init(&mod->refs, 1);
    list_init(&mod->link);
    pthread_mutex_init(&mod->lock, NULL);
    list_init(&mod->dead);
    for (unsigned i = 0; i < mod->n_instances; i++)
        instance_init(&mod->instance[i], mod, i, h->env.loops[i]);
    return mod;
}

struct omid_module *module_ref(struct omid_module *mod)
{
    CHECK_MAGIC(mod, MODULE_MAGIC);
    atomic_fetch_add(&mod->refs, 1);
    return mod;
}

void module_unref(struct omid_module **modp)
{
    struct omid_module *mod = *modp;
    *modp = NULL;
    CHECK_MAGIC(mod, MODULE_MAGIC);
    if (atomic_fetch_sub(&mod->refs, 1) != 1)
        return;
    if (mod->lane != NULL)
        lane_release(&mod->lane);
    conf_lane_clear(&mod->lane_conf);
    list_each (it, &mod->dead) {
        struct tombstone *t = list_entry(it, struct tombstone, link);
        list_remove(it);
        free(t->memory);
        free(t);
    }
    library_close(&mod->library);
    conf_free(&mod->owner);
    pthread_mutex_destroy(&mod->lock);
    for (unsigned i = 0; i < mod->n_instances; i++) {
        free(mod->instance[i].gather);
        mod->instance[i].magic = OMID_MAGIC_DEAD;
    }
    for (unsigned i = 0; i < mod->n_counters; i++)
        mod->counter[i].magic = OMID_MAGIC_DEAD;
    mod->magic = OMID_MAGIC_DEAD;
    free(mod->instance);
    free(mod);
}

struct omid_module *module_use(struct omid_module *mod)
{
    module_ref(mod);
    atomic_fetch_add(&mod->users, 1);
    return mod;
}

void module_unuse(struct omid_module **modp)
{
    omid_assert(atomic_fetch_sub(&(*modp)->users, 1) > 0);
    module_unref(modp);
}

/* ------------------------------------------------------------ configure */

/* Generations share their lane: one set of breakers and one semaphore towards the same partners. */
static struct lane *lane_of(struct omid_module *mod)
{
    struct host *h = mod->host;
    for (struct omid_module *m = host_next(h, NULL); m != NULL; m = host_next(h, m)) {
        if (m != mod && m->lane != NULL && m->name == mod->name)
            return lane_share(m->lane);
    }
    return lane_new(h->env.lanes, mod->name, &mod->conf->lane);
}

static void report_fault(struct omid_module *mod, struct conf_faults *faults, const char *why)
{
    char key[64];
    snprintf(key, sizeof(key), "plugin %s", mod->name);
    conf_fault(faults, !mod->conf->required, mod->conf->file, mod->conf->line, key, "%s", why);
}

static bool open_library(struct omid_module *mod, struct conf_faults *faults)
{
    char err[512] = "";
    mod->library = loader_take(mod->host->env.loader, mod->conf->name, mod->conf->path, err, sizeof(err));
    if (mod->library == NULL) {
        report_fault(mod, faults, err);
        module_fail(mod, "%s", err);
        return false;
    }
    mod->plugin = library_plugin(mod->library);
    return true;
}

/* Under `omid -t` with the other findings of the check, else in the log. */
static void report_blocking(struct omid_module *mod, struct conf_faults *faults)
{
    const struct lint *l = library_lint(mod->library);
    for (unsigned i = 0; i < l->n && !l->on_executors; i++) {
        const struct lint_finding *f = &l->finding[i];
        if (mod->host->env.lanes != NULL) {
            log_warning("host", "a plugin has a blocking call", LS("plugin", mod->name), LS("file", mod->conf->path),
                        LS("symbol", f->symbol), LS("why", f->why));
        } else {
            char key[64];
            snprintf(key, sizeof(key), "plugin %s", mod->name);
            conf_fault(faults, true, mod->conf->file, mod->conf->line, key, "%s has the blocking call %s, which %s",
                       mod->conf->path, f->symbol, f->why);
        }
    }
}

bool module_configure(struct omid_module *mod, struct conf_faults *faults)
{
    if (!open_library(mod, faults))
        return false;
    report_blocking(mod, faults);
    watchdog_metrics(mod->name);
    value_metrics(mod->name);
    conf_lane_clear(&mod->lane_conf);
    conf_lane_copy(&mod->lane_conf, &mod->conf->lane);
    if (mod->host->env.lanes != NULL) {
        mod->lane = lane_of(mod);
        if (mod->lane == NULL) {
            report_fault(mod, faults, "its lane can't be made: out of memory");
            module_fail(mod, "its lane can't be made: out of memory");
            return false;
        }
    }
    unsigned errors = faults->errors;
    int rc = OMID_OK;
    mod->faults = faults;
    struct pulse_doing none = pulse_doing_enter(&pulse_main, mod->name, "configure");
    if (mod->plugin->configure != NULL)
        rc = mod->plugin->configure(mod, &host_table, &mod->shared);
    pulse_doing_leave(&pulse_main, none);
    mod->faults = NULL;
    mod->configured = rc == OMID_OK;
    if (rc == OMID_OK && !mod->misconfigured && faults->errors == errors) {
        module_set_state(mod, MODULE_CONFIGURED);
        return true;
    }
    module_unconfigure(mod);
    mod->n_routes = 0;
    if (faults->errors == errors) {
        char why[96];
        snprintf(why, sizeof(why), "configure() failed with %d", rc);
        report_fault(mod, faults, mod->misconfigured ? "configure() asks for options that it does not have" : why);
    }
    module_fail(mod, "configure() failed with %d", rc);
    return false;
}

void module_unconfigure(struct omid_module *mod)
{
    if (!mod->configured)
        return;
    mod->configured = false;
    struct pulse_doing none = pulse_doing_enter(&pulse_main, mod->name, "unconfigure");
    if (mod->plugin->unconfigure != NULL)
        mod->plugin->unconfigure(mod->shared);
    pulse_doing_leave(&pulse_main, none);
    mod->shared = NULL;
}
