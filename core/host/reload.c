/*
 * Generations: how modules take the place of others while sessions go on.
 *
 * A module that leaves the configuration retires: it is in no table any more, so that the number of its users only
 * falls. Users are whoever may still bring it work: the views of reactors and the route tables of ingress threads that
 * have not moved on yet, the channels of its connections, the streams of sessions, jobs on their way to it. Without
 * users it is drained, then stopped; when the last reference (work on an executor) is gone, it is unconfigured and
 * closed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "host/module.h"

#define STOP_REMARK_MS 10000

struct view_msg {
    struct loop_msg msg;
    struct host *host;
    unsigned reactor;
    struct host_view *view;
};

struct host_change {
    struct host *host;
    struct omid_module **module; /* NULL: not yet made */
    bool *kept;
    bool *excused; /* failed before, and says the same: may fail again */
    const struct conf_plugin **conf;
    unsigned n;
    struct view_msg **view; /* one per reactor */
};

/* ------------------------------------------------------------ who is there */

struct host_view *view_new(struct omid_module *const *module, unsigned n)
{
    struct host_view *v = calloc(1, sizeof(*v) + n * sizeof(v->module[0]));
    if (v == NULL)
        return NULL;
    for (; v->n < n; v->n++)
        v->module[v->n] = module_use(module[v->n]);
    return v;
}

void view_free(struct host_view **vp)
{
    struct host_view *v = *vp;
    *vp = NULL;
    if (v == NULL)
        return;
    for (unsigned i = 0; i < v->n; i++)
        module_unuse(&v->module[i]);
    free(v);
}

static bool view_has(const struct host_view *v, const struct omid_module *mod)
{
    for (unsigned i = 0; i < v->n; i++) {
        if (v->module[i] == mod)
            return true;
    }
    return false;
}

struct omid_module **host_forming(const struct host *h, unsigned *n)
{
    *n = h->change != NULL ? h->change->n : h->n_modules;
    return h->change != NULL ? h->change->module : h->module;
}

struct omid_module *host_next(const struct host *h, const struct omid_module *after)
{
    unsigned i = 0;
    if (after != NULL && !list_empty(&after->link)) {
        struct list *next = after->link.next;
        return next != &h->retired ? list_entry(next, struct omid_module, link) : NULL;
    }
    while (after != NULL && h->module[i++] != after)
        omid_assert(i < h->n_modules);
    if (i < h->n_modules)
        return h->module[i];
    return list_empty(&h->retired) ? NULL : list_entry(h->retired.next, struct omid_module, link);
}

void account_add(struct account *to, const struct account *from)
{
    to->callbacks += atomic_load(&from->callbacks);
    to->ns += atomic_load(&from->ns);
    if (to->max_ns < from->max_ns)
        to->max_ns = atomic_load(&from->max_ns);
    to->errors += atomic_load(&from->errors);
    to->slow += atomic_load(&from->slow);
    to->events += atomic_load(&from->events);
    to->misuse += atomic_load(&from->misuse);
    to->leaked += atomic_load(&from->leaked);
    to->log_dropped += atomic_load(&from->log_dropped);
    to->late += atomic_load(&from->late);
    to->memory += atomic_load(&from->memory);
    for (unsigned i = 0; i < HANDLE_KINDS; i++)
        to->open[i] += atomic_load(&from->open[i]);
}

static struct omid_module *running(const struct host *h, const char *name)
{
    for (unsigned i = 0; i < h->n_modules; i++) {
        if (strcmp(h->module[i]->name, name) == 0 && module_state(h->module[i]) == MODULE_STARTED)
            return h->module[i];
    }
    return NULL;
}

struct omid_module *host_failed(const struct host *h, const char *name)
{
    for (unsigned i = 0; i < h->n_modules; i++) {
        if (strcmp(h->module[i]->name, name) == 0 && module_state(h->module[i]) == MODULE_FAILED)
            return h->module[i];
    }
    return NULL;
}

/* ------------------------------------------------------------ prepare */

static void change_free(struct host_change **cp)
{
    struct host_change *c = *cp;
    *cp = NULL;
    c->host->change = NULL;
    for (unsigned i = 0; c->view != NULL && i < c->host->env.n_loops; i++) {
        if (c->view[i] != NULL)
            view_free(&c->view[i]->view);
        free(c->view[i]);
    }
    free(c->view);
    free(c->module);
    free(c->kept);
    free(c->excused);
    free(c->conf);
    free(c);
}

static struct host_change *change_new(struct host *h, const struct conf *conf)
{
    struct host_change *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return NULL;
    size_t n = conf->n_plugins + 1;
    c->host = h;
    c->module = calloc(n, sizeof(*c->module));
    c->kept = calloc(n, sizeof(*c->kept));
    c->excused = calloc(n, sizeof(*c->excused));
    c->conf = calloc(n, sizeof(*c->conf));
    c->view = calloc(h->env.n_loops + 1, sizeof(*c->view));
    h->change = c;
    if (c->module == NULL || c->kept == NULL || c->excused == NULL || c->conf == NULL || c->view == NULL) {
        change_free(&c);
        return NULL;
    }
    c->n = (unsigned)conf->n_plugins;
    for (unsigned i = 0; i < c->n; i++)
        c->conf[i] = &conf->plugin[i];
    return c;
}

/* The same file, by its bytes, and the same values: nothing of it has to change but perhaps its lane. */
static bool may_stay(const struct host *h, const struct omid_module *mod, const struct conf_plugin *conf)
{
    const struct library *lib = loader_find(h->env.loader, conf->name, conf->path);
    return lib != NULL && library_same(mod->library, lib) && conf_plugin_same(mod->conf, conf);
}

static void fault(struct conf_faults *faults, bool warning, const struct conf_plugin *conf, const char *text)
{
    char key[64];
    snprintf(key, sizeof(key), "plugin %s", conf->name);
    conf_fault(faults, warning, conf->file, conf->line, key, "%s", text);
}

static bool configure_one(struct host_change *c, unsigned i, const struct conf *owner, struct conf_faults *faults)
{
    const struct conf_plugin *conf = c->conf[i];
    const char *clash = host_name_clash(c->module, c->n, conf->name);
    char text[320], why[256];
    if (clash != NULL) {
        snprintf(text, sizeof(text), "its name clashes with plugin %s", clash);
        fault(faults, false, conf, text);
        return false;
    }
    c->module[i] = module_new(c->host, owner, conf);
    if (c->module[i] == NULL) {
        fault(faults, false, conf, "out of memory");
        return false;
    }
    unsigned errors = faults->errors;
    if (conf->left_out != NULL)
        module_fail(c->module[i], "%s", conf->left_out);
    else if (module_configure(c->module[i], faults))
        return true;
    if (faults->errors == errors && c->excused[i])
        return true;
    if (faults->errors == errors) {
        /* At the start omid would do without it. Here that might take away what runs. */
        module_reason(c->module[i], why);
        snprintf(text, sizeof(text), "can't be taken into a running daemon: %s", why);
        fault(faults, false, conf, text);
    }
    return false;
}

static bool start_all(struct host_change *c, struct conf_faults *faults)
{
    for (unsigned i = 0; i < c->n; i++) {
        if (c->kept[i] || module_state(c->module[i]) == MODULE_FAILED || host_module_start(c->module[i]))
            continue;
        char why[256], text[320];
        module_reason(c->module[i], why);
        snprintf(text, sizeof(text), "%s: %s", c->excused[i] ? "failed again" : "can't be taken into a running daemon",
                 why);
        fault(faults, c->excused[i], c->conf[i], text);
        if (!c->excused[i])
            return false;
    }
    return true;
}

static void on_view(struct loop *loop, struct loop_msg *msg);

static bool make_views(struct host_change *c)
{
    for (unsigned i = 0; i < c->host->env.n_loops; i++) {
        struct view_msg *m = calloc(1, sizeof(*m));
        c->view[i] = m;
        if (m == NULL || (m->view = view_new(c->module, c->n)) == NULL)
            return false;
        m->msg.fn = on_view;
        m->host = c->host;
        m->reactor = i;
    }
    return true;
}

static bool prepare(struct host_change *c, const struct conf *conf, struct conf_faults *faults)
{
    for (unsigned i = 0; i < c->n; i++) {
        struct omid_module *mod = running(c->host, c->conf[i]->name);
        c->kept[i] = mod != NULL && may_stay(c->host, mod, c->conf[i]);
        if (c->kept[i])
            c->module[i] = mod;
        const struct omid_module *former = mod == NULL ? host_failed(c->host, c->conf[i]->name) : NULL;
        c->excused[i] = former != NULL && !c->conf[i]->required && strcmp(former->conf->path, c->conf[i]->path) == 0 &&
                        conf_plugin_same(former->conf, c->conf[i]);
    }
    bool ok = true;
    for (unsigned i = 0; i < c->n; i++) {
        if (!c->kept[i])
            ok = configure_one(c, i, conf, faults) && ok;
    }
    if (!ok || !start_all(c, faults))
        return false;
    if (make_views(c))
        return true;
    conf_fault(faults, false, conf->file, 0, "plugin", "out of memory");
    return false;
}

struct host_change *host_change_prepare(struct host *h, const struct conf *conf, struct conf_faults *faults)
{
    CHECK_MAGIC(h, HOST_MAGIC);
    omid_assert(h->change == NULL);
    struct host_change *c = change_new(h, conf);
    if (c == NULL)
        conf_fault(faults, false, conf->file, 0, "plugin", "out of memory");
    else if (!prepare(c, conf, faults))
        host_change_cancel(&c, h->drain_ms);
    loader_clear(h->env.loader);
    return c;
}

/* ------------------------------------------------------------ the end of a change */

/* Host locked. */
static void retire(struct host *h, struct omid_module *mod)
{
    enum module_state s = module_state(mod);
    if (s == MODULE_STARTED)
        module_set_state(mod, MODULE_RETIRING);
    else if (s == MODULE_CONFIGURED)
        module_set_state(mod, MODULE_STOPPED);
    list_append(&h->retired, &mod->link);
}

void host_change_cancel(struct host_change **cp, uint32_t drain_ms)
{
    struct host_change *c = *cp;
    *cp = NULL;
    struct host *h = c->host;
    pthread_mutex_lock(&h->lock);
    h->drain_ms = drain_ms;
    for (unsigned i = 0; i < c->n; i++) {
        if (c->module[i] != NULL && !c->kept[i])
            retire(h, c->module[i]);
    }
    pthread_mutex_unlock(&h->lock);
    change_free(&c);
}

static void tell(struct host *h, unsigned reactor, struct omid_module *mod, bool begins)
{
    struct omid_instance *inst = host_instance_of(mod, reactor);
    if (inst != NULL && h->env.services.takes_part != NULL)
        h->env.services.takes_part(h->env.services.arg, reactor, inst, begins);
}

static void on_view(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct view_msg *m = container_of(msg, struct view_msg, msg);
    struct host *h = m->host;
    struct host_view *former = h->view[m->reactor], *view = m->view;
    for (unsigned i = 0; i < former->n; i++) {
        if (!view_has(view, former->module[i]))
            tell(h, m->reactor, former->module[i], false);
    }
    h->view[m->reactor] = view;
    for (unsigned i = 0; i < view->n; i++) {
        if (!view_has(former, view->module[i]))
            tell(h, m->reactor, view->module[i], true);
    }
    view_free(&former);
    free(m);
}

static bool is_in(struct omid_module *const *module, unsigned n, const struct omid_module *mod)
{
    for (unsigned i = 0; i < n; i++) {
        if (module[i] == mod)
            return true;
    }
    return false;
}

static unsigned lanes_apply(struct host_change *c)
{
    unsigned changed = 0;
    for (unsigned i = 0; i < c->n; i++) {
        struct omid_module *mod = c->module[i];
        const struct conf_lane *conf = &c->conf[i]->lane;
        if (mod->lane == NULL || (c->kept[i] && conf_lane_same(&mod->lane_conf, conf)))
            continue;
        lane_configure(mod->lane, conf);
        conf_lane_clear(&mod->lane_conf);
        conf_lane_copy(&mod->lane_conf, conf);
        changed += c->kept[i];
    }
    return changed;
}

struct host_change_counts host_change_commit(struct host_change **cp, uint32_t drain_ms)
{
    struct host_change *c = *cp;
    *cp = NULL;
    struct host *h = c->host;
    struct host_change_counts counts = {.lanes = lanes_apply(c)};
    pthread_mutex_lock(&h->lock);
    h->drain_ms = drain_ms;
    struct omid_module **former = h->module;
    unsigned n_former = h->n_modules;
    h->module = c->module;
    h->n_modules = c->n;
    c->module = NULL;
    for (unsigned i = 0; i < c->n; i++) {
        bool same = c->kept[i] || module_state(h->module[i]) == MODULE_FAILED;
        counts.kept += same;
        counts.added += !same;
    }
    for (unsigned i = 0; i < n_former; i++) {
        if (is_in(h->module, h->n_modules, former[i]))
            continue;
        if (module_state(former[i]) == MODULE_FAILED) {
            counts.removed += running(h, former[i]->name) == NULL && host_failed(h, former[i]->name) == NULL;
            retire(h, former[i]);
            continue;
        }
        bool again = running(h, former[i]->name) != NULL;
        counts.replaced += again;
        counts.added -= again;
        counts.removed += !again;
        retire(h, former[i]);
    }
    pthread_mutex_unlock(&h->lock);
    free(former);
    for (unsigned i = 0; i < h->env.n_loops; i++) {
        struct view_msg *m = c->view[i];
        c->view[i] = NULL;
        loop_post(h->env.loops[i], &m->msg);
    }
    change_free(&c);
    return counts;
}

/* ------------------------------------------------------------ on the way out */

static bool all_quiet(const struct omid_module *mod)
{
    for (unsigned i = 0; i < mod->n_instances; i++) {
        if (!atomic_load(&mod->instance[i].quiet))
            return false;
    }
    return true;
}

static bool all_stopped(const struct omid_module *mod)
{
    for (unsigned i = 0; i < mod->n_instances; i++) {
        if (instance_phase(&mod->instance[i]) != INSTANCE_STOPPED)
            return false;
    }
    return true;
}

static struct past *past_of(struct host *h, const char *name)
{
    struct past *p = h->past;
    while (p != NULL && p->name != name)
        p = p->next;
    if (p != NULL)
        return p;
    p = calloc(1, sizeof(*p));
    if (p == NULL)
        return NULL;
    p->name = name;
    p->next = h->past;
    return h->past = p;
}

static void bury(struct host *h, struct omid_module *mod)
{
    pthread_mutex_lock(&h->lock);
    list_remove(&mod->link);
    struct past *p = past_of(h, mod->name);
    atomic_store(&mod->account.memory, 0); /* goes with it */
    if (p != NULL)
        account_add(&p->account, &mod->account);
    pthread_mutex_unlock(&h->lock);
    log_notice("host", "plugin closed", LS("plugin", mod->name), LU("generation", mod->generation));
    module_unconfigure(mod);
    module_unref(&mod);
}

/* One step; those that wait for something are looked at again next time. */
static void reap(struct host *h, struct omid_module *mod, uint64_t now)
{
    switch (module_state(mod)) {
    case MODULE_RETIRING:
        if (atomic_load(&mod->users) > 0)
            return;
        module_set_state(mod, MODULE_DRAINING);
        mod->deadline_ms = now + h->drain_ms;
        host_post_all(mod, instance_drain);
        return;
    case MODULE_DRAINING:
        if (!all_quiet(mod) && now < mod->deadline_ms)
            return;
        if (!all_quiet(mod))
            log_warning("host", "a plugin was not drained in time", LS("plugin", mod->name),
                        LU("generation", mod->generation));
        module_set_state(mod, MODULE_STOPPING);
        mod->deadline_ms = now + STOP_REMARK_MS;
        host_post_all(mod, host_stop_step);
        return;
    case MODULE_STOPPING:
        if (all_stopped(mod)) {
            module_set_state(mod, MODULE_STOPPED);
        } else if (now >= mod->deadline_ms && !mod->told_late) {
            mod->told_late = true;
            log_warning("host", "a plugin does not stop", LS("plugin", mod->name), LU("generation", mod->generation));
        }
        return;
    case MODULE_STOPPED:
    case MODULE_FAILED:
        if (atomic_load(&mod->refs) == 1 && atomic_load(&mod->users) == 0)
            bury(h, mod);
        return;
    case MODULE_LOADED:
    case MODULE_CONFIGURED:
    case MODULE_STARTING:
    case MODULE_STARTED:
        break;
    }
    omid_assert(!"a retired module is in none of these");
}

unsigned host_reap(struct host *h)
{
    CHECK_MAGIC(h, HOST_MAGIC);
    uint64_t now = clock_mono_ms();
    unsigned left = 0;
    list_each (it, &h->retired)
        reap(h, list_entry(it, struct omid_module, link), now);
    list_each (it, &h->retired)
        left++;
    return left;
}
