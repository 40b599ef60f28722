/* Loading a configuration: the outline, then the values, then the tables. */
#include <config.h>

#include "conf/load.h"
#include "conf/near.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"

/* Is it within the target block under way, or, without one, outside of all? */
static bool in_target(const struct outline_item *it, const char *target)
{
    return target == NULL || it->target == NULL ? it->target == target : strcmp(it->target, target) == 0;
}

const struct outline_item *load_find(const struct load *l, const char *path, const char *title, const char *key)
{
    for (size_t i = 0; i < l->o->n; i++) {
        const struct outline_item *it = &l->o->item[i];
        if (it->section || it->dropped || strcmp(it->path, path) != 0 || strcmp(it->name, key) != 0 ||
            !in_target(it, l->target))
            continue;
        if (!title || (it->title && strcmp(it->title, title) == 0))
            return it;
    }
    return NULL;
}

static const struct outline_item *find_section(const struct load *l, const char *path, const char *title)
{
    for (size_t i = 0; i < l->o->n; i++) {
        const struct outline_item *it = &l->o->item[i];
        if (it->section && !it->dropped && strcmp(it->path, path) == 0 && in_target(it, l->target) &&
            (!title || (it->title && strcmp(it->title, title) == 0)))
            return it;
    }
    return NULL;
}

void load_fault(struct load *l, bool warning, const char *path, const char *title, const char *key, const char *fmt,
                ...)
{
    char name[256], text[768];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    const struct outline_item *it = key ? load_find(l, path, title, key) : NULL;
    if (!it)
        it = find_section(l, path, title);
    if (!it && l->target)
        it = find_section(l, "plugin.target", title);
    if (!it && title)
        it = find_section(l, "plugin", title);
    outline_key_name(name, sizeof(name), path, title, l->target, key);
    conf_fault(l->faults, warning, it ? it->file : l->c->file, it ? it->line : 0, name, "%s", text);
}

/* ------------------------------------------------------------------ shape */

/* exec.blocking must not keep a daemon from starting: what can't be read is replaced by the default. */
static bool is_lenient(const char *path, const char *key)
{
    return strcmp(path, "exec") == 0 && strcmp(key, "blocking") == 0;
}

void load_item_fault(struct load *l, const struct outline_item *it, bool warning, const char *fmt, ...)
{
    char key[256], text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    outline_key_name(key, sizeof(key), it->path, it->title, it->target, it->section ? NULL : it->name);
    conf_fault(l->faults, warning, it->file, it->line, key, "%s", text);
}

bool load_check_item(struct load *l, struct outline_item *it, const struct omid_option *option)
{
    char what[160];
    if (option->type == OMID_OPT_LIST || (!it->list && !it->append))
        return false;
    bool lenient = is_lenient(it->path, it->name);
    option_expects(option, what, sizeof(what));
    load_item_fault(l, it, lenient, "expected %s, found %s%s", what, it->list ? "a list" : "'+=', which is for lists",
                    lenient ? ": the default is used" : "");
    outline_drop(l->o, it);
    return true;
}

static bool title_is_valid(const char *title)
{
    size_t n = strlen(title);
    return n > 0 && n <= 32 && title[0] >= 'a' && title[0] <= 'z' &&
           strspn(title, "abcdefghijklmnopqrstuvwxyz0123456789_-") == n;
}

static bool id_is_valid(const char *id)
{
    size_t n = strlen(id);
    return n > 0 && n <= 64 && strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == n;
}

/* The first block of this name. Apps and webhooks share their names. */
static const struct outline_item *block_find(const struct load *l, const char *path, const char *title)
{
    const struct outline_item *found = find_section(l, path, title);
    if (strcmp(path, "plugin") == 0)
        return found;
    const struct outline_item *other = find_section(l, strcmp(path, "app") == 0 ? "webhook" : "app", title);
    return other && (!found || other < found) ? other : found;
}

/* A value where the table has a section: `tls = 1`, `breaker = { ... }`. */
static bool key_is_section(const struct outline_item *it)
{
    char path[160];
    snprintf(path, sizeof(path), "%s%s%s", it->path, *it->path ? "." : "", it->name);
    return conf_is_section(path);
}

/* A section where the table has a value: `threads { ... }`. */
static bool section_is_key(const struct outline_item *it)
{
    const char *dot = strrchr(it->path, '.');
    char path[160];
    if (!dot)
        return false;
    snprintf(path, sizeof(path), "%.*s", (int)(dot - it->path), it->path);
    return conf_entry_find(path, it->name) != NULL;
}

/* Among the sections beside it. */
static void section_unknown(struct load *l, const struct outline_item *it)
{
    const char *dot = strrchr(it->path, '.');
    size_t above = dot ? (size_t)(dot - it->path) + 1 : 0;
    struct near near;
    near_begin(&near, it->path + above);
    for (const struct conf_entry *e = conf_table(); e->section; e++) {
        if (strncmp(e->section, it->path, above) == 0 && strchr(e->section + above, '.') == NULL)
            near_offer(&near, e->section + above);
    }
    if (near.best)
        load_item_fault(l, it, false, "unknown section, is %s meant?", near.best);
    else
        load_item_fault(l, it, false, "unknown section");
}

/* In its section, else under the same name in another one. */
static void key_unknown(struct load *l, const struct outline_item *it)
{
    const struct conf_entry *elsewhere = NULL;
    struct near near;
    near_begin(&near, it->name);
    for (const struct conf_entry *e = conf_table(); e->section; e++) {
        if (strcmp(e->section, it->path) == 0)
            near_offer(&near, e->option.name);
        else if (!elsewhere && !conf_in_block(e->section) && strcmp(e->option.name, it->name) == 0)
            elsewhere = e;
    }
    if (near.best)
        load_item_fault(l, it, false, "unknown setting, is %s meant?", near.best);
    else if (elsewhere)
        load_item_fault(l, it, false, "unknown setting, is %s.%s meant?", elsewhere->section, elsewhere->option.name);
    else
        load_item_fault(l, it, false, "unknown setting");
}

static void check_section(struct load *l, struct outline_item *it)
{
    if (!conf_is_section(it->path)) {
        if (section_is_key(it))
            load_item_fault(l, it, false, "expected '=' and a value, found a section");
        else
            section_unknown(l, it);
    } else if (it->title && conf_is_block(it->path) && strcmp(it->path, "plugin") != 0 && !id_is_valid(it->title)) {
        load_item_fault(l, it, false, "expected an id, 1 to 64 of a-z, A-Z, 0-9, _ and -, found \"%.80s\"", it->title);
    } else if (it->title && strcmp(it->path, "plugin") == 0 && !title_is_valid(it->title)) {
        load_item_fault(l, it, false,
                        "expected a plugin's name (a letter a-z, then a-z, 0-9, _ and -), found \"%.40s\"", it->title);
    } else {
        if (strcmp(it->path, "plugin.target") == 0 && !load_check_prefix(l, it))
            return;
        if (!it->title || !conf_is_block(it->path))
            return;
        const struct outline_item *first = block_find(l, it->path, it->title);
        if (first == it)
            return;
        load_item_fault(l, it, false, "there is a block of this name already (%s:%d)", first->file, first->line);
    }
    outline_drop(l->o, it);
}

static void check_key(struct load *l, struct outline_item *it)
{
    const struct outline_item *first = load_find(l, it->path, it->title, it->name);
    if (first != it && !it->append) {
        load_item_fault(l, it, false, "given already (%s:%d)", first->file, first->line);
        outline_drop(l->o, it);
        return;
    }
    const struct conf_entry *e = conf_entry_find(it->path, it->name);
    if (e) {
        load_check_item(l, it, &e->option);
        return;
    }
    if (key_is_section(it))
        load_item_fault(l, it, false, "expected '{': %s is a section", it->name);
    else if (it->title && strcmp(it->path, "plugin") == 0)
        return; /* perhaps the plugin's own */
    else if (*it->path == '\0')
        load_item_fault(l, it, false, "expected a section: there are no settings outside of sections");
    else
        key_unknown(l, it);
    outline_drop(l->o, it);
}

void load_check_shape(struct load *l)
{
    for (size_t i = 0; i < l->o->n; i++) {
        struct outline_item *it = &l->o->item[i];
        if (it->dropped)
            continue;
        l->target = it->target;
        if (it->section)
            check_section(l, it);
        else
            check_key(l, it);
        l->target = NULL;
    }
}

/* --------------------------------------------------------- struct conf */

static void *field_of(struct conf *c, const struct conf_field *f)
{
    return (char *)c + f->offset;
}

/* Moves the value; strings and lists are the configuration's from here. */
static void field_set(struct conf *c, const struct conf_field *f, struct conf_value *v)
{
    void *at = field_of(c, f);
    switch (f->type) {
    case FIELD_BOOL:
        if (v->option->type == OMID_OPT_ENUM) { /* pcm8: the second choice is true */
            *(bool *)at = strcmp(strchr(v->option->choices, '|') + 1, v->v.s) == 0;
            value_clear(v);
        } else {
            *(bool *)at = v->v.b;
        }
        break;
    case FIELD_UINT:
        *(unsigned *)at = (unsigned)v->v.i;
        break;
    case FIELD_U64:
        *(uint64_t *)at = (uint64_t)v->v.i;
        break;
    case FIELD_DOUBLE:
        *(double *)at = v->v.d;
        break;
    case FIELD_STR:
        *(char **)at = v->v.s;
        break;
    case FIELD_LIST:
        *(struct conf_list *)at = v->v.list;
        break;
    case FIELD_NONE:
        break;
    }
}

static void load_core(struct load *l)
{
    const struct conf_field *f = conf_fields();
    for (const struct conf_entry *e = conf_table(); e->section; e++, f++) {
        struct conf_value v;
        if (conf_in_block(e->section))
            continue;
        if (load_value(l, e->section, NULL, &e->option, &v))
            field_set(l->c, f, &v);
    }
}

static struct conf *conf_new(const char *name)
{
    struct conf_own *own = calloc(1, sizeof(*own));
    omid_assert(own != NULL);
    own->c.magic = CONF_MAGIC;
    atomic_init(&own->refs, 1);
    own->c.file = text_copy(name);
    return &own->c;
}

static struct conf *load_outline(struct load *l, const char *name)
{
    l->c = conf_new(name);
    load_check_shape(l);
    if (values_read(l->o, l->faults)) {
        load_core(l);
        load_expand_dirs(l);
        if (l->source && l->source->core_read)
            l->source->core_read(l->source->arg, l->c);
        load_plugins(l);
        load_blocks(l);
        load_check_whole(l);
    }
    /* Places outlive the outline: the configuration takes the names they point at. */
    struct conf_own *own = (struct conf_own *)l->c;
    own->file = l->o->file;
    own->n_files = l->o->n_files;
    l->o->file = NULL;
    l->o->n_files = 0;
    outline_free(&l->o);
    return l->c;
}

/* Exactly one of path and text is given. */
static struct conf *load_from(const char *path, const char *text, const char *name, bool embedded,
                              const struct conf_source *source, struct conf_faults *faults)
{
    struct load l = {.faults = faults, .source = source, .embedded = embedded};
    unsigned errors = faults->errors;
    size_t from = faults->text.len;
    l.o = path ? outline_read(path, faults) : outline_read_text(text, name, faults);
    if (!l.o)
        return NULL;
    struct conf *c = load_outline(&l, name);
    struct conf_own *own = (struct conf_own *)c;
    faults_sort(faults, from, own->file, own->n_files);
    if (faults->errors != errors)
        conf_free(&c);
    return c;
}

struct conf *conf_load(const char *path, const struct conf_source *source, struct conf_faults *faults)
{
    if (path)
        return load_from(path, NULL, path, false, source, faults);
    return load_from(NULL, conf_embedded_text, "(embedded)", true, source, faults);
}

struct conf *conf_load_text(const char *text, const char *name, const struct conf_source *source,
                            struct conf_faults *faults)
{
    return load_from(NULL, text, name, false, source, faults);
}

static void plugin_free(struct conf_plugin *p)
{
    for (size_t i = 0; i < p->n_values; i++)
        value_clear(&p->value[i]);
    free(p->value);
    free(p->name);
    free(p->path);
    free(p->left_out);
    conf_lane_clear(&p->lane);
}

void conf_free(struct conf **c)
{
    if (!*c)
        return;
    CHECK_MAGIC(*c, CONF_MAGIC);
    struct conf_own *own = (struct conf_own *)*c;
    if (atomic_fetch_sub(&own->refs, 1) > 1) {
        *c = NULL;
        return;
    }
    const struct conf_field *f = conf_fields();
    for (const struct conf_entry *e = conf_table(); e->section; e++, f++) {
        if (conf_in_block(e->section))
            continue;
        char **s = field_of(*c, f);
        if (f->type == FIELD_LIST)
            list_free(field_of(*c, f));
        else if (f->type == FIELD_STR) {
            if (*s && e->option.type == OMID_OPT_SECRET)
                explicit_bzero(*s, strlen(*s));
            free(*s);
        }
    }
    for (size_t i = 0; i < own->c.n_plugins; i++)
        plugin_free(&own->c.plugin[i]);
    blocks_free(&own->c);
    for (size_t i = 0; i < own->n_files; i++)
        free(own->file[i]);
    free(own->file);
    free(own->c.plugin);
    free(own->c.queue.retry_ms);
    free(own->c.file);
    own->c.magic = OMID_MAGIC_DEAD;
    free(own);
    *c = NULL;
}

const struct conf_plugin *conf_plugin_find(const struct conf *c, const char *name)
{
    CHECK_MAGIC(c, CONF_MAGIC);
    for (size_t i = 0; i < c->n_plugins; i++) {
        if (strcmp(c->plugin[i].name, name) == 0)
            return &c->plugin[i];
    }
    return NULL;
}

const struct conf_value *conf_value_find(const struct conf_plugin *p, const char *key)
{
    for (size_t i = 0; i < p->n_values; i++) {
        if (strcmp(p->value[i].option->name, key) == 0)
            return &p->value[i];
    }
    return NULL;
}
