/* Plugin blocks: the common keys, the lane, and the options of the plugin's own table. */
#include <config.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "conf/load.h"
#include "conf/near.h"

/* The number of a lane that the plugin's own defaults give; 0: the default lane's. */
static unsigned lane_default(const struct omid_lane_defaults *d, size_t offset)
{
    if (!d)
        return 0;
    switch (offset) {
    case offsetof(struct conf_lane, pool):
        return d->pool;
    case offsetof(struct conf_lane, idle):
        return d->idle;
    case offsetof(struct conf_lane, semaphore):
        return d->semaphore;
    case offsetof(struct conf_lane, streams):
        return d->streams;
    case offsetof(struct conf_lane, queue):
        return d->queue;
    case offsetof(struct conf_lane, connect_timeout_ms):
        return d->connect_timeout_ms;
    case offsetof(struct conf_lane, timeout_ms):
        return d->timeout_ms;
    case offsetof(struct conf_lane, breaker_failures):
        return d->breaker_failures;
    case offsetof(struct conf_lane, breaker_open_ms):
        return d->breaker_open_ms;
    default:
        return 0;
    }
}

bool load_keep_order(struct load *l, const char *title, const char *path, const char *low_key, unsigned *low,
                     const char *high_key, unsigned *high, bool high_follows)
{
    if (*low <= *high || *high == 0) /* 0: that value is faulty itself, and reported */
        return true;
    bool low_set = load_find(l, path, title, low_key) != NULL;
    bool high_set = load_find(l, path, title, high_key) != NULL;
    if (!low_set) {
        *low = *high;
        return true;
    }
    if (!high_set && high_follows) {
        *high = *low;
        return true;
    }
    load_fault(l, false, path, title, low_key, "expected at most the value of %s, which is %u%s, found %u", high_key,
               *high,
               high_set    ? ""
               : l->target ? " in the lane"
                           : " by default",
               *low);
    return false;
}

bool load_lane_numbers(struct load *l, const char *title, const char *path, const struct omid_lane_defaults *defaults,
                       struct conf_lane *lane)
{
    bool ok = true;
    const struct conf_field *f = conf_fields();
    for (const struct conf_entry *e = conf_table(); e->section; e++, f++) {
        if (strcmp(e->section, path) != 0 || f->type == FIELD_NONE)
            continue;
        struct conf_value v;
        void *to = (char *)lane + f->offset;
        if (!load_value(l, e->section, title, &e->option, &v)) {
            ok = false; /* the field stays as it is */
            continue;
        }
        if (l->target && !v.set)
            continue;
        if (f->type == FIELD_DOUBLE) {
            *(double *)to = v.v.d;
            continue;
        }
        omid_assert(f->type == FIELD_UINT);
        unsigned own = lane_default(defaults, f->offset);
        *(unsigned *)to = !v.set && own > 0 ? own : (unsigned)v.v.i;
    }
    return ok;
}

static bool load_lane(struct load *l, const char *title, const struct omid_plugin *plugin, struct conf_lane *lane)
{
    const struct omid_lane_defaults *defaults = plugin ? plugin->lane : NULL;
    bool ok = load_lane_numbers(l, title, "plugin", defaults, lane);
    ok &= load_lane_numbers(l, title, "plugin.breaker", defaults, lane);
    ok &= load_keep_order(l, title, "plugin", "semaphore", &lane->semaphore, "pool", &lane->pool, false);
    ok &= load_keep_order(l, title, "plugin", "idle", &lane->idle, "pool", &lane->pool, false);
    ok &= load_keep_order(l, title, "plugin", "connect_timeout", &lane->connect_timeout_ms, "timeout",
                          &lane->timeout_ms, false);
    ok &= load_keep_order(l, title, "plugin.breaker", "open", &lane->breaker_open_ms, "open_max",
                          &lane->breaker_open_max_ms, true);
    ok &= load_lane_outside(l, title, plugin, lane);
    ok &= load_lane_targets(l, title, plugin, lane);
    return ok;
}

static char *plugin_path(struct load *l, const char *name)
{
    const struct outline_item *it = load_find(l, "plugin", name, "path");
    const char *dir = l->c->daemon.plugin_dir ? l->c->daemon.plugin_dir : OMID_PLUGINDIR;
    char *path = NULL;
    int n;
    if (it && it->n_values == 1 && strchr(it->value[0], '/'))
        n = asprintf(&path, "%s", it->value[0]);
    else if (it && it->n_values == 1)
        n = asprintf(&path, "%s/%s", dir, it->value[0]);
    else
        n = asprintf(&path, "%s/%s.so", dir, name);
    omid_assert(n >= 0);
    return path;
}

/* A table of the plugin's must not take a key that is the host's; nor one key twice. */
static bool table_is_sound(struct load *l, const char *name, const struct omid_option *options)
{
    static const char *const sections[] = {"breaker", "tls", "target"};
    for (const struct omid_option *o = options; o && o->name; o++) {
        bool taken = conf_entry_find("plugin", o->name) != NULL;
        for (size_t i = 0; i < ARRAY_LEN(sections); i++)
            taken = taken || strcmp(o->name, sections[i]) == 0;
        for (const struct omid_option *k = options; k != o; k++)
            taken = taken || strcmp(k->name, o->name) == 0;
        if (taken) {
            load_fault(l, false, "plugin", name, NULL, "the plugin's table of options has the key %s, which is taken",
                       o->name);
            return false;
        }
    }
    return true;
}

static const struct omid_option *own_option(const struct omid_plugin *plugin, const char *key)
{
    for (const struct omid_option *o = plugin->options; o && o->name; o++) {
        if (option_named(o, key))
            return o;
    }
    return NULL;
}

/* The plugin's own, or one that every plugin has; or NULL. */
static const char *key_meant(const struct omid_plugin *plugin, const char *key)
{
    struct near near;
    near_begin(&near, key);
    for (const struct omid_option *o = plugin->options; o && o->name; o++)
        near_offer(&near, o->name);
    for (const struct conf_entry *e = conf_table(); e->section; e++) {
        if (strcmp(e->section, "plugin") == 0)
            near_offer(&near, e->option.name);
    }
    return near.best;
}

/* Keys of the block that neither the host nor the plugin knows, or that have the wrong shape. */
static bool check_own_keys(struct load *l, const struct omid_plugin *plugin, const char *name)
{
    bool ok = true;
    for (size_t i = 0; i < l->o->n; i++) {
        struct outline_item *it = &l->o->item[i];
        if (it->section || it->dropped || !it->title || strcmp(it->title, name) != 0 ||
            strcmp(it->path, "plugin") != 0 || conf_entry_find("plugin", it->name))
            continue;
        const struct omid_option *o = own_option(plugin, it->name);
        if (!o) {
            const char *meant = key_meant(plugin, it->name);
            load_fault(l, false, "plugin", name, it->name,
                       "unknown setting: neither omid nor the plugin %s has it%s%s%s", name, meant ? ", is " : "",
                       meant ? meant : "", meant ? " meant?" : "");
            outline_drop(l->o, it);
            ok = false;
        } else if (load_check_item(l, it, o)) {
            ok = false;
        }
    }
    return ok;
}

static bool load_own_values(struct load *l, const struct omid_plugin *plugin, struct conf_plugin *p)
{
    bool ok = check_own_keys(l, plugin, p->name);
    size_t n = 0;
    for (const struct omid_option *o = plugin->options; o && o->name; o++)
        n++;
    p->value = calloc(n + 1, sizeof(*p->value));
    omid_assert(p->value != NULL);
    p->n_values = n;
    for (size_t i = 0; i < n; i++)
        ok &= load_value(l, "plugin", p->name, &plugin->options[i], &p->value[i]);
    return ok;
}

/* NULL: told; the plugin is left out unless it is required. */
static const struct omid_plugin *describe(struct load *l, struct conf_plugin *p)
{
    char err[512] = "";
    const struct omid_plugin *plugin = l->source->describe(l->source->arg, p->name, p->path, err, sizeof(err));
    if (plugin && strcmp(plugin->name, p->name) != 0) {
        snprintf(err, sizeof(err), "%s holds the plugin %s", p->path, plugin->name);
        plugin = NULL;
    }
    if (!plugin) {
        const char *why = err[0] ? err : "can't be loaded";
        load_fault(l, !p->required, "plugin", p->name, NULL, "%s%s", why, p->required ? "" : ": left out");
        if (!p->required)
            p->left_out = text_copy(why);
    }
    return plugin;
}

static bool load_plugin(struct load *l, const struct outline_item *it, struct conf_plugin *p)
{
    struct conf_value v;
    *p = (struct conf_plugin){.name = text_copy(it->title), .file = it->file, .line = it->line};
    bool ok = true;
    const struct conf_entry *e = conf_entry_find("plugin", "path");
    ok &= load_value(l, "plugin", p->name, &e->option, &v);
    if (ok)
        value_clear(&v);
    p->path = plugin_path(l, p->name);
    if (load_value(l, "plugin", p->name, &conf_entry_find("plugin", "required")->option, &v))
        p->required = v.v.b;
    else
        ok = false;
    const struct omid_plugin *plugin = ok && l->source ? describe(l, p) : NULL;
    ok &= load_lane(l, p->name, plugin, &p->lane);
    if (plugin)
        ok &= table_is_sound(l, p->name, plugin->options) && load_own_values(l, plugin, p);
    return ok && (plugin || p->left_out);
}

void load_plugins(struct load *l)
{
    size_t n = 0;
    for (size_t i = 0; i < l->o->n; i++)
        n += l->o->item[i].section && !l->o->item[i].dropped && strcmp(l->o->item[i].path, "plugin") == 0;
    l->c->plugin = calloc(n + 1, sizeof(*l->c->plugin));
    omid_assert(l->c->plugin != NULL);
    for (size_t i = 0; i < l->o->n; i++) {
        const struct outline_item *it = &l->o->item[i];
        if (!it->section || it->dropped || strcmp(it->path, "plugin") != 0)
            continue;
        struct conf_plugin *p = &l->c->plugin[l->c->n_plugins];
        if (load_plugin(l, it, p)) {
            l->c->n_plugins++;
            continue;
        }
        for (size_t k = 0; k < p->n_values; k++)
            value_clear(&p->value[k]);
        free(p->value);
        free(p->name);
        free(p->path);
        free(p->left_out);
        conf_lane_clear(&p->lane);
        *p = (struct conf_plugin){0};
    }
}
