/* Reading the values out of the outline's text with libConfuse. */
#include <config.h>

#include <confuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "conf/outline.h"
#include "conf/table.h"

/* libConfuse hands its error function no argument of ours, and its scanner is one per process anyway: main thread. */
static struct {
    struct outline *o;
    struct conf_faults *faults;
} reading;

/* What stands at a line of the outline's text. */
static const struct outline_item *item_at(const struct outline *o, int line)
{
    const struct outline_item *found = NULL;
    size_t at = 0;
    for (int i = 1; i < line && at < o->text.len; at++)
        i += o->text.data[at] == '\n';
    size_t end = at + strcspn(o->text.data + at, "\n");
    for (size_t i = 0; i < o->n; i++) {
        if (!o->item[i].dropped && o->item[i].begin <= end)
            found = &o->item[i];
    }
    return found;
}

__attribute__((format(printf, 2, 0))) static void values_error(cfg_t *cfg, const char *fmt, va_list ap)
{
    char text[256], key[256] = "";
    vsnprintf(text, sizeof(text), fmt, ap);
    const struct outline_item *it = item_at(reading.o, cfg->line);
    if (it)
        outline_key_name(key, sizeof(key), it->path, it->title, it->target, it->section ? NULL : it->name);
    conf_fault(reading.faults, false, it ? it->file : reading.o->file[0], it ? it->line : 0, key, "%s", text);
}

/* The path of the section that holds the item, of length *len. */
static const char *container(const struct outline_item *it, size_t *len)
{
    const char *dot = strrchr(it->path, '.');
    if (!it->section)
        *len = strlen(it->path);
    else
        *len = dot ? (size_t)(dot - it->path) : 0;
    return it->path;
}

static void options_free(cfg_opt_t *opts)
{
    for (cfg_opt_t *opt = opts; opt && opt->name; opt++)
        options_free(opt->subopts);
    free(opts);
}

/* One entry per name that occurs directly in `path`. Every value is registered as a list of strings: whether it should
 * be one, and of what, is checked with the table at hand. Plugin blocks share one table, the union of theirs. */
static cfg_opt_t *options_build(const struct outline *o, const char *path)
{
    cfg_opt_t *opts = calloc(o->n + 1, sizeof(*opts));
    size_t n = 0;
    omid_assert(opts != NULL);
    for (size_t i = 0; i < o->n; i++) {
        const struct outline_item *it = &o->item[i];
        size_t len;
        const char *in = container(it, &len);
        if (it->dropped || len != strlen(path) || strncmp(in, path, len) != 0)
            continue;
        bool known = false;
        for (size_t k = 0; k < n && !known; k++)
            known = strcmp(opts[k].name, it->name) == 0;
        if (known)
            continue;
        cfg_opt_t key = CFG_STR_LIST(it->name, NULL, CFGF_NODEFAULT);
        bool titled = it->section && (conf_is_block(it->path) || strcmp(it->path, "plugin.target") == 0);
        cfg_opt_t section = CFG_SEC(it->name, NULL, titled ? CFGF_MULTI | CFGF_TITLE : CFGF_NONE);
        if (it->section)
            section.subopts = options_build(o, it->path);
        opts[n++] = it->section ? section : key;
    }
    return opts;
}

static cfg_opt_t *option_of(cfg_t *root, const struct outline_item *it)
{
    cfg_t *sec = root;
    char path[128];
    unsigned depth = 0;
    snprintf(path, sizeof(path), "%s", it->path);
    char *rest = NULL;
    for (char *part = strtok_r(path, ".", &rest); part && sec; part = strtok_r(NULL, ".", &rest), depth++) {
        const char *title = depth == 0 ? it->title : depth == 1 ? it->target : NULL;
        sec = title ? cfg_gettsec(sec, part, title) : cfg_getsec(sec, part);
    }
    return sec ? cfg_getopt(sec, it->name) : NULL;
}

static bool values_copy(cfg_t *root, struct outline_item *it)
{
    cfg_opt_t *opt = option_of(root, it);
    if (!opt)
        return false;
    it->value = calloc(cfg_opt_size(opt) + 1, sizeof(*it->value));
    if (!it->value)
        return false;
    for (unsigned i = 0; i < cfg_opt_size(opt); i++) {
        it->value[i] = strdup(cfg_opt_getnstr(opt, i));
        if (!it->value[i])
            return false;
        it->n_values++;
    }
    return true;
}

bool values_read(struct outline *o, struct conf_faults *faults)
{
    cfg_opt_t *opts = options_build(o, "");
    cfg_t *cfg = cfg_init(opts, CFGF_NONE);
    bool ok = cfg != NULL;
    reading.o = o;
    reading.faults = faults;
    if (ok) {
        cfg_set_error_function(cfg, values_error);
        unsigned before = faults->errors;
        ok = o->text.len == 0 || cfg_parse_buf(cfg, o->text.data) == CFG_SUCCESS;
        if (!ok && faults->errors == before)
            conf_fault(faults, false, o->file[0], 0, "", "libConfuse can't read the file");
    }
    for (size_t i = 0; ok && i < o->n; i++) {
        if (!o->item[i].section && !o->item[i].dropped)
            ok = values_copy(cfg, &o->item[i]);
    }
    if (cfg)
        cfg_free(cfg);
    options_free(opts);
    reading.o = NULL;
    reading.faults = NULL;
    return ok;
}
