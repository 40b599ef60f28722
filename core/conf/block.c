/* App and webhook blocks: their values, by the core's table. */
#include <config.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "conf/load.h"

static bool is_block(const struct outline_item *it)
{
    return it->section && !it->dropped && it->title != NULL && conf_is_block(it->path) &&
           strcmp(it->path, "plugin") != 0;
}

static void load_block(struct load *l, const struct outline_item *it, struct conf_block *b)
{
    size_t n = 0;
    for (const struct conf_entry *e = conf_table(); e->section; e++)
        n += strcmp(e->section, it->path) == 0;
    *b = (struct conf_block){.app = strcmp(it->path, "app") == 0,
                             .id = text_copy(it->title),
                             .file = it->file,
                             .line = it->line,
                             .value = calloc(n + 1, sizeof(*b->value))};
    omid_assert(b->value != NULL);
    for (const struct conf_entry *e = conf_table(); e->section; e++) {
        if (strcmp(e->section, it->path) != 0)
            continue;
        /* One that is faulty ends the loading, after all faults are told; it is freed like the rest. */
        struct conf_value *v = &b->value[b->n_values];
        if (load_value(l, it->path, it->title, &e->option, v))
            b->n_values++;
    }
}

void load_blocks(struct load *l)
{
    size_t n = 0;
    for (size_t i = 0; i < l->o->n; i++)
        n += is_block(&l->o->item[i]);
    l->c->block = calloc(n + 1, sizeof(*l->c->block));
    omid_assert(l->c->block != NULL);
    for (size_t i = 0; i < l->o->n; i++) {
        if (is_block(&l->o->item[i]))
            load_block(l, &l->o->item[i], &l->c->block[l->c->n_blocks++]);
    }
}

void blocks_free(struct conf *c)
{
    for (size_t i = 0; i < c->n_blocks; i++) {
        struct conf_block *b = &c->block[i];
        for (size_t k = 0; k < b->n_values; k++)
            value_clear(&b->value[k]);
        free(b->value);
        free(b->id);
    }
    free(c->block);
}

const struct conf_value *conf_block_value(const struct conf_block *b, const char *key)
{
    for (size_t i = 0; i < b->n_values; i++) {
        if (strcmp(b->value[i].option->name, key) == 0)
            return &b->value[i];
    }
    return NULL;
}

void conf_block_fault(struct conf_faults *f, const struct conf_block *b, const char *key, const char *fmt, ...)
{
    char text[512], name[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    const struct conf_value *v = key != NULL ? conf_block_value(b, key) : NULL;
    bool in_file = v != NULL && v->line > 0;
    outline_key_name(name, sizeof(name), b->app ? "app" : "webhook", b->id, NULL, key);
    conf_fault(f, false, in_file ? v->file : b->file, in_file ? v->line : b->line, name, "%s", text);
}
