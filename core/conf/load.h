/* What the parts of the loader share. Within core/conf only. */
#ifndef OMID_CONF_LOAD_H
#define OMID_CONF_LOAD_H

#include <stdatomic.h>

#include "conf/check.h"
#include "conf/outline.h"
#include "conf/table.h"

/* What conf_load() hands out: the public struct first, then what only keeps its strings alive. */
struct conf_own {
    struct conf c;
    atomic_uint refs;
    char **file; /* names that conf_value and conf_plugin point at */
    size_t n_files;
};

struct load {
    struct conf *c;
    struct outline *o;
    struct conf_faults *faults;
    const struct conf_source *source;
    bool embedded;           /* the built-in text: what the environment says goes before it */
    const char *target;      /* the target block that is looked at; NULL: what lies outside of all */
    const char *tls_section; /* whose certificates are being checked; NULL: those of the block at hand */
};

/* The first item of this key that is not dropped, or NULL. title: the plugin block's, else NULL. */
const struct outline_item *load_find(const struct load *l, const char *path, const char *title, const char *key);
/* Value of an option into *v: from the file, a *_file, the environment, or the default. false: a fault was reported. */
bool load_value(struct load *l, const char *path, const char *title, const struct omid_option *option,
                struct conf_value *v);
/* A fault of a key: at its line, or at the section's when it is not in the file. */
void load_fault(struct load *l, bool warning, const char *path, const char *title, const char *key, const char *fmt,
                ...) __attribute__((format(printf, 6, 7)));

/* `low` must not pass `high`. When both are written that is a fault; a default gives way to what is written: `low`
 * comes down, or with high_follows `high` goes up. false: a fault was reported. */
bool load_keep_order(struct load *l, const char *title, const char *path, const char *low_key, unsigned *low,
                     const char *high_key, unsigned *high, bool high_follows);

/* Drops keys and sections that the core's table does not know, or that have the wrong shape. */
void load_check_shape(struct load *l);
/* Drops a key that a table of options has in another shape (a list for a scalar). true: dropped. */
bool load_check_item(struct load *l, struct outline_item *it, const struct omid_option *option);

/* A fault of an item, wherever it lies. */
void load_item_fault(struct load *l, const struct outline_item *it, bool warning, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* A path in a setting is relative to the file that the setting stands in. The caller's. */
char *load_beside(const struct outline_item *it, const char *path);

/* ---- target.c, outside.c: what a lane is told beside its numbers ---- */
/* Checks what stands behind `target`. false: it was dropped, with a fault. */
bool load_check_prefix(struct load *l, struct outline_item *it);
/* Proxy, certificates and target blocks of a plugin's lane, whose own numbers are there. plugin: NULL if unknown. */
bool load_lane_outside(struct load *l, const char *title, const struct omid_plugin *plugin, struct conf_lane *lane);
bool load_lane_targets(struct load *l, const char *title, const struct omid_plugin *plugin, struct conf_lane *lane);
/* One section's numbers and shares; `path` as in the table. In a target block what is not written stays as it is in
 * *lane, elsewhere it gets its default. false: a fault was reported. */
bool load_lane_numbers(struct load *l, const char *title, const char *path, const struct omid_lane_defaults *defaults,
                       struct conf_lane *lane);
/* The plugin blocks, after the core's sections. */
void load_plugins(struct load *l);
/* block.c: the app and webhook blocks, likewise. */
void load_blocks(struct load *l);
void blocks_free(struct conf *c);
/* Certificate and key of the listeners: read, fit together, not expired (a warning). */
void load_check_ingress_tls(struct load *l, const char *certificate, const char *key);
/* What one value alone can't tell: addresses, pairs that go together, limits of one another. */
void load_check_whole(struct load *l);
/* ~/ in the daemon's directories. Before the plugins, which are looked for in one of them. */
void load_expand_dirs(struct load *l);

/* Puts the lines from the text's offset `from` on into the order of the files and their lines. */
void faults_sort(struct conf_faults *f, size_t from, char *const *file, size_t n_files);

#endif
