#include "host/lint.h"
#include "host/module.h"

static uint64_t counted(const _Atomic uint64_t *v)
{
    return atomic_load_explicit(v, memory_order_relaxed);
}

static void write_roles(const struct omid_plugin *p, struct json_w *w)
{
    json_w_key(w, "roles");
    json_w_open(w, '[');
    static const struct omid_plugin none = {.name = NULL};
    if (p == NULL)
        p = &none;
    const struct {
        bool has;
        const char *name;
    } roles[] = {{p->stt != NULL, "stt"},
                 {p->vad != NULL, "vad"},
                 {p->embed != NULL, "embed"},
                 {p->geocode != NULL, "geocode"},
                 {p->summarize != NULL, "summarize"},
                 {p->audio_store != NULL, "audio_store"},
                 {p->hooks != NULL, "hooks"},
                 {p->events != 0, "consumer"},
                 {p->job != NULL, "jobs"}};
    for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
        if (roles[i].has)
            json_w_str(w, roles[i].name);
    }
    json_w_close(w, ']');
}

static void write_blocking(const struct omid_module *mod, bool loaded, struct json_w *w)
{
    const struct lint *l = loaded ? library_lint(mod->library) : NULL;
    json_w_key(w, "blocking");
    json_w_open(w, '[');
    for (unsigned i = 0; l != NULL && i < l->n && !l->on_executors; i++)
        json_w_str(w, l->finding[i].symbol);
    json_w_close(w, ']');
}

static void write_account(const struct account *a, struct json_w *w)
{
    json_w_kint(w, "callbacks", (int64_t)counted(&a->callbacks));
    json_w_kint(w, "events", (int64_t)counted(&a->events));
    json_w_kint(w, "errors", (int64_t)counted(&a->errors));
    json_w_kint(w, "slow", (int64_t)counted(&a->slow));
    json_w_kint(w, "misuse", (int64_t)counted(&a->misuse));
    json_w_kint(w, "leaked", (int64_t)counted(&a->leaked));
    json_w_kint(w, "late", (int64_t)counted(&a->late));
    json_w_kint(w, "memory", atomic_load_explicit(&a->memory, memory_order_relaxed));
    json_w_knum(w, "seconds", (double)counted(&a->ns) / 1e9);
    json_w_knum(w, "max_ms", (double)counted(&a->max_ns) / 1e6);
    json_w_key(w, "in_flight");
    json_w_open(w, '{');
    for (unsigned i = 0; i < HANDLE_KINDS; i++)
        json_w_kint(w, handle_names[i], atomic_load_explicit(&a->open[i], memory_order_relaxed));
    json_w_close(w, '}');
}

static void write_module(struct omid_module *mod, struct json_w *w)
{
    char reason[256];
    module_reason(mod, reason);
    enum module_state s = module_state(mod);
    const struct omid_plugin *p = s == MODULE_LOADED ? NULL : mod->plugin; /* set before the state is */
    json_w_open(w, '{');
    json_w_kstr(w, "name", mod->name);
    json_w_kstr(w, "version", p != NULL ? p->version : "");
    json_w_kstr(w, "summary", p != NULL ? p->summary : "");
    json_w_kstr(w, "state", module_state_name(s));
    json_w_kstr(w, "reason", reason);
    json_w_kstr(w, "path", mod->conf->path);
    json_w_kbool(w, "required", mod->conf->required);
    json_w_kint(w, "generation", mod->generation);
    write_roles(p, w);
    write_blocking(mod, p != NULL, w);
    json_w_kint(w, "route_count", mod->n_routes);
    write_account(&mod->account, w);
    json_w_close(w, '}');
}

void host_status(struct host *h, struct json_w *w)
{
    CHECK_MAGIC(h, HOST_MAGIC);
    json_w_open(w, '[');
    pthread_mutex_lock(&h->lock);
    for (struct omid_module *mod = host_next(h, NULL); mod != NULL; mod = host_next(h, mod))
        write_module(mod, w);
    pthread_mutex_unlock(&h->lock);
    json_w_close(w, ']');
}

/* ------------------------------------------------------------ metrics */

static void family(struct buf *out, const char *name, const char *help, const char *type)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* All generations of a name, those that are gone included: its counters never fall. */
static struct account account_of(const struct host *h, const char *name, bool *up)
{
    struct account sum = {0};
    *up = false;
    for (const struct past *p = h->past; p != NULL; p = p->next) {
        if (p->name == name)
            account_add(&sum, &p->account);
    }
    for (struct omid_module *mod = host_next(h, NULL); mod != NULL; mod = host_next(h, mod)) {
        if (mod->name != name)
            continue;
        account_add(&sum, &mod->account);
        *up = *up || module_state(mod) == MODULE_STARTED;
    }
    return sum;
}

/* The first module of its name: one set of lines per name. */
static bool is_first(const struct host *h, const struct omid_module *mod)
{
    for (struct omid_module *m = host_next(h, NULL); m != mod; m = host_next(h, m)) {
        if (m->name == mod->name)
            return false;
    }
    return true;
}

static void collect_counters(struct host *h, struct buf *out)
{
    static const struct {
        const char *name, *help;
        size_t offset; /* in struct account */
    } counters[] = {
        {"omid_plugin_callbacks_total", "Callbacks of a plugin.", offsetof(struct account, callbacks)},
        {"omid_plugin_events_total", "Events handed to a plugin.", offsetof(struct account, events)},
        {"omid_plugin_errors_total", "Callbacks of a plugin that failed.", offsetof(struct account, errors)},
        {"omid_plugin_slow_callbacks_total",
         "Callbacks that held their loop for longer than watchdog.slow, counted when they ended.",
         offsetof(struct account, slow)},
        {"omid_plugin_misuse_total", "Calls of a plugin that were refused: wrong thread, after stop.",
         offsetof(struct account, misuse)},
        {"omid_plugin_leaked_total", "Handles that a plugin left open when it stopped.",
         offsetof(struct account, leaked)},
        {"omid_plugin_gather_late_total",
         "Reports of a fan-out's items that were refused: the item was over, by its time or by an earlier report.",
         offsetof(struct account, late)},
        {"omid_plugin_log_dropped_total", "Log lines of a plugin beyond its share.",
         offsetof(struct account, log_dropped)},
    };
    bool up;
    for (size_t i = 0; i < ARRAY_LEN(counters); i++) {
        family(out, counters[i].name, counters[i].help, "counter");
        for (struct omid_module *mod = host_next(h, NULL); mod != NULL; mod = host_next(h, mod)) {
            if (!is_first(h, mod))
                continue;
            struct account sum = account_of(h, mod->name, &up);
            const _Atomic uint64_t *v = (const void *)((const char *)&sum + counters[i].offset);
            buf_printf(out, "%s{plugin=\"%s\"} %llu\n", counters[i].name, mod->name, (unsigned long long)counted(v));
        }
    }
}

static void collect_time(struct host *h, struct buf *out)
{
    bool up;
    family(out, "omid_plugin_callback_seconds_total", "Time spent in callbacks of a plugin.", "counter");
    for (struct omid_module *mod = host_next(h, NULL); mod != NULL; mod = host_next(h, mod)) {
        if (!is_first(h, mod))
            continue;
        struct account sum = account_of(h, mod->name, &up);
        buf_printf(out, "omid_plugin_callback_seconds_total{plugin=\"%s\"} %.9f\n", mod->name,
                   (double)counted(&sum.ns) / 1e9);
    }
}

static void collect_gauges(struct host *h, struct buf *out)
{
    bool up;
    family(out, "omid_plugin_up", "1 while a plugin runs.", "gauge");
    for (struct omid_module *mod = host_next(h, NULL); mod != NULL; mod = host_next(h, mod)) {
        if (!is_first(h, mod))
            continue;
        (void)account_of(h, mod->name, &up);
        buf_printf(out, "omid_plugin_up{plugin=\"%s\"} %d\n", mod->name, up);
    }
    family(out, "omid_plugin_in_flight", "What a plugin has open, by kind.", "gauge");
    for (struct omid_module *mod = host_next(h, NULL); mod != NULL; mod = host_next(h, mod)) {
        if (!is_first(h, mod))
            continue;
        struct account sum = account_of(h, mod->name, &up);
        for (unsigned i = 0; i < HANDLE_KINDS; i++)
            buf_printf(out, "omid_plugin_in_flight{plugin=\"%s\",kind=\"%s\"} %lld\n", mod->name, handle_names[i],
                       (long long)atomic_load(&sum.open[i]));
    }
    family(out, "omid_plugin_memory_bytes", "Memory that the host holds for a plugin: its handles and their contents.",
           "gauge");
    for (struct omid_module *mod = host_next(h, NULL); mod != NULL; mod = host_next(h, mod)) {
        if (!is_first(h, mod))
            continue;
        struct account sum = account_of(h, mod->name, &up);
        buf_printf(out, "omid_plugin_memory_bytes{plugin=\"%s\"} %lld\n", mod->name,
                   (long long)atomic_load(&sum.memory));
    }
    unsigned retired = 0;
    list_each (it, &h->retired)
        retired++;
    family(out, "omid_plugins_retiring", "Plugins that a reload has replaced or removed, on their way out.", "gauge");
    buf_printf(out, "omid_plugins_retiring %u\n", retired);
}

void host_collect(void *arg, struct buf *out)
{
    struct host *h = arg;
    pthread_mutex_lock(&h->lock);
    if (host_next(h, NULL) != NULL) {
        collect_counters(h, out);
        collect_time(h, out);
        collect_gauges(h, out);
    }
    pthread_mutex_unlock(&h->lock);
}
