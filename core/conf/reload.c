/* A configuration that takes the place of another while the daemon runs. */
#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "conf/load.h"

struct conf *conf_ref(const struct conf *c)
{
    CHECK_MAGIC(c, CONF_MAGIC);
    struct conf_own *own = (struct conf_own *)(uintptr_t)c;
    atomic_fetch_add(&own->refs, 1);
    return &own->c;
}

/* ------------------------------------------------------------ what stays as it is */

static bool text_same(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool list_same(const struct conf_list *a, const struct conf_list *b)
{
    bool same = a->n == b->n;
    for (size_t i = 0; same && i < a->n; i++)
        same = text_same(a->item[i], b->item[i]);
    return same;
}

/* true: they differed, and `to` says now what `from` says. */
static bool field_carry(void *to, const void *from, enum field_type type)
{
    static const size_t sizes[] = {[FIELD_BOOL] = sizeof(bool),
                                   [FIELD_UINT] = sizeof(unsigned),
                                   [FIELD_U64] = sizeof(uint64_t),
                                   [FIELD_DOUBLE] = sizeof(double)};
    if (type == FIELD_STR) {
        char **a = to, *const *b = from;
        if (text_same(*a, *b))
            return false;
        free(*a);
        *a = *b != NULL ? text_copy(*b) : NULL;
        return true;
    }
    if (type == FIELD_LIST) {
        if (list_same(to, from))
            return false;
        const struct conf_list *list = from;
        list_free(to);
        list_copy(to, (const char *const *)list->item, list->n);
        return true;
    }
    if (memcmp(to, from, sizes[type]) == 0)
        return false;
    memcpy(to, from, sizes[type]);
    return true;
}

/* Goes with queue.retry, whose values it holds. */
static void retry_carry(struct conf *next, const struct conf *now)
{
    free(next->queue.retry_ms);
    next->queue.retry_ms = calloc(now->queue.retry.n + 1, sizeof(*next->queue.retry_ms));
    omid_assert(next->queue.retry_ms != NULL);
    memcpy(next->queue.retry_ms, now->queue.retry_ms, now->queue.retry.n * sizeof(*next->queue.retry_ms));
}

void conf_carry(struct conf *next, const struct conf *now, struct conf_faults *faults)
{
    CHECK_MAGIC(next, CONF_MAGIC);
    CHECK_MAGIC(now, CONF_MAGIC);
    const struct conf_field *f = conf_fields();
    for (const struct conf_entry *e = conf_table(); e->section; e++, f++) {
        if (conf_in_block(e->section) || f->type == FIELD_NONE || (e->option.flags & OMID_OPT_RELOADABLE) != 0)
            continue;
        if (!field_carry((char *)next + f->offset, (const char *)now + f->offset, f->type))
            continue;
        if (f->offset == offsetof(struct conf, queue.retry))
            retry_carry(next, now);
        char key[128];
        outline_key_name(key, sizeof(key), e->section, NULL, NULL, e->option.name);
        conf_fault(faults, true, next->file, 0, key, "can't change while omid runs: it applies from the next start");
    }
}

/* ------------------------------------------------------------ plugin blocks */

static bool value_same(const struct conf_value *a, const struct conf_value *b)
{
    if (a->type != b->type)
        return false;
    switch (a->type) {
    case OMID_OPT_BOOL:
        return a->v.b == b->v.b;
    case OMID_OPT_INT:
    case OMID_OPT_DURATION:
    case OMID_OPT_SIZE:
        return a->v.i == b->v.i;
    case OMID_OPT_FLOAT:
        return a->v.d == b->v.d;
    case OMID_OPT_STRING:
    case OMID_OPT_ENUM:
    case OMID_OPT_SECRET:
        return text_same(a->v.s, b->v.s);
    case OMID_OPT_LIST:
        return list_same(&a->v.list, &b->v.list);
    }
    return false;
}

bool conf_plugin_same(const struct conf_plugin *a, const struct conf_plugin *b)
{
    bool same = strcmp(a->name, b->name) == 0 && strcmp(a->path, b->path) == 0 && a->required == b->required &&
                a->n_values == b->n_values;
    for (size_t i = 0; same && i < a->n_values; i++)
        same = value_same(&a->value[i], &b->value[i]);
    return same;
}
