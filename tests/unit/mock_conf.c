/* The mock host: options and their values. */
#include "mock_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct conf_value *value_of(struct mock *m, const char *key)
{
    for (size_t i = 0; i < m->n_values; i++) {
        if (strcmp(m->values[i].opt->name, key) == 0)
            return &m->values[i];
    }
    mock_die("an option of this name", __FILE__, __LINE__);
}

static bool h_conf_bool(struct omid_module *mod, const char *key)
{
    const struct conf_value *v = value_of(mod->m, key);
    must(v->opt->type == OMID_OPT_BOOL);
    return strcmp(v->text, "true") == 0 || strcmp(v->text, "yes") == 0 || strcmp(v->text, "on") == 0;
}

static int64_t h_conf_int(struct omid_module *mod, const char *key)
{
    static const struct {
        const char *unit;
        double factor;
    } units[] = {{"ms", 1}, {"s", 1000},   {"min", 60000},     {"h", 3600000},       {"", 1},
                 {"B", 1},  {"KiB", 1024}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}};
    const struct conf_value *v = value_of(mod->m, key);
    must(v->opt->type == OMID_OPT_INT || v->opt->type == OMID_OPT_DURATION || v->opt->type == OMID_OPT_SIZE);
    must(v->text != NULL);
    char *rest;
    double d = strtod(v->text, &rest);
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(units[i].unit, rest) != 0)
            continue;
        d *= units[i].factor;
        must((v->opt->min == 0 && v->opt->max == 0) || (d >= v->opt->min && d <= v->opt->max));
        return (int64_t)d;
    }
    mock_die("a known unit", __FILE__, __LINE__);
}

static double h_conf_float(struct omid_module *mod, const char *key)
{
    const struct conf_value *v = value_of(mod->m, key);
    must(v->opt->type == OMID_OPT_FLOAT);
    return strtod(v->text, NULL);
}

static const char *h_conf_str(struct omid_module *mod, const char *key)
{
    const struct conf_value *v = value_of(mod->m, key);
    must(v->opt->type == OMID_OPT_STRING || v->opt->type == OMID_OPT_ENUM || v->opt->type == OMID_OPT_SECRET);
    return v->text;
}

static const char *const *h_conf_list(struct omid_module *mod, const char *key, size_t *n)
{
    struct conf_value *v = value_of(mod->m, key);
    must(v->opt->type == OMID_OPT_LIST);
    *n = v->n;
    return (const char *const *)v->items;
}

static void h_conf_error(struct omid_module *mod, const char *key, const char *fmt, ...)
{
    struct mock *m = mod->m;
    va_list ap;
    va_start(ap, fmt);
    m->conf_errors++;
    snprintf(m->error_key, sizeof(m->error_key), "%s", key);
    vsnprintf(m->error_text, sizeof(m->error_text), fmt, ap);
    va_end(ap);
    value_of(m, key);
}

static void value_set(struct conf_value *v, const char *text)
{
    for (size_t i = 0; i < v->n; i++)
        free(v->items[i]);
    v->n = 0;
    free(v->text);
    v->text = text != NULL ? strdup(text) : NULL;
    if (v->opt->type != OMID_OPT_LIST || text == NULL)
        return;
    char *copy = strdup(text);
    char *save = NULL;
    for (char *item = strtok_r(copy, " ", &save); item != NULL; item = strtok_r(NULL, " ", &save)) {
        must(v->n < MAX_LIST);
        v->items[v->n++] = strdup(item);
    }
    free(copy);
}

void mock_conf_defaults(struct mock *m)
{
    for (const struct omid_option *o = m->plugin->options; o != NULL && o->name != NULL; o++) {
        must(m->n_values < MAX_KEYS);
        m->values[m->n_values].opt = o;
        value_set(&m->values[m->n_values++], o->def);
    }
}

void mock_conf_clear(struct mock *m)
{
    for (size_t i = 0; i < m->n_values; i++)
        value_set(&m->values[i], NULL);
}

void mock_conf(struct mock *m, const char *key, const char *value)
{
    value_set(value_of(m, key), value);
}

unsigned mock_conf_errors(const struct mock *m, const char **key, const char **text)
{
    if (key != NULL)
        *key = m->error_key;
    if (text != NULL)
        *text = m->error_text;
    return m->conf_errors;
}

void mock_conf_set(struct omid_host *t)
{
    t->conf_bool = h_conf_bool;
    t->conf_int = h_conf_int;
    t->conf_float = h_conf_float;
    t->conf_str = h_conf_str;
    t->conf_list = h_conf_list;
    t->conf_error = h_conf_error;
}
