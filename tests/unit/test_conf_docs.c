/*
 * Every option, the core's and each built plugin's, stands in its man page and in etc/omi.conf, with its default; and
 * neither of them has one that is gone. A commented setting of the sample (#key = value) counts and must be usable.
 */
#include <ctype.h>
#include <dlfcn.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/check.h"
#include "conf/outline.h"
#include "conf/table.h"
#include "unit.h"

#define MAX_PLUGINS 32

static const struct omid_plugin *plugins[MAX_PLUGINS];
static size_t n_plugins;

static void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void complain(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    CU_FAIL("see above");
}

static char *file_text(const char *name)
{
    const char *src = getenv("srcdir");
    char path[512], *text = calloc(1, OUTLINE_MAX_FILE);
    snprintf(path, sizeof(path), "%s/%s", src ? src : ".", name);
    FILE *f = fopen(path, "r");
    if (!f || !text || fread(text, 1, OUTLINE_MAX_FILE - 1, f) == 0) {
        free(text);
        text = NULL;
    }
    if (f)
        fclose(f);
    return text;
}

/* ------------------------------------------------------------ man pages */

/* troff's \- and \(ti to what is meant, in place. */
static void unescape(char *s)
{
    char *to = s;
    for (; *s; s++) {
        if (s[0] == '\\' && s[1] == '-') {
            *to++ = '-';
            s++;
        } else if (strncmp(s, "\\(ti", 4) == 0) {
            *to++ = '~';
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = '\0';
}

/* Is this line the tag of a setting, `.B key`? Its name, or NULL. */
static const char *tag_of(const char *line, size_t *len)
{
    static const char *const macros[] = {".B ", ".BR ", ".BI ", ".IP "};
    for (size_t i = 0; i < sizeof(macros) / sizeof(macros[0]); i++) {
        if (strncmp(line, macros[i], strlen(macros[i])) != 0)
            continue;
        line += strlen(macros[i]);
        line += *line == '"';
        line += strncmp(line, "\\fB", 3) == 0 ? 3 : 0;
        *len = strspn(line, "abcdefghijklmnopqrstuvwxyz0123456789_");
        return *len ? line : NULL;
    }
    return NULL;
}

/* The entry of a setting under `.SS section` (NULL: anywhere), from its tag to the next one; the caller's. */
static char *man_entry(const char *page, const char *section, const char *key)
{
    char heading[80];
    const char *at = page, *end;
    snprintf(heading, sizeof(heading), "\n.SS %s\n", section ? section : "");
    if (section && !(at = strstr(page, heading)))
        return NULL;
    end = section ? strstr(at + 2, "\n.S") : NULL;
    for (const char *tp = at; (tp = strstr(tp, "\n.TP\n")) && (!end || tp < end); tp += 4) {
        size_t len;
        const char *tag = tag_of(tp + 5, &len);
        if (!tag || len != strlen(key) || strncmp(tag, key, len) != 0)
            continue;
        const char *next = strstr(tp + 5, "\n.TP\n"), *heading_next = strstr(tp + 5, "\n.S");
        const char *stop = tp + strlen(tp);
        stop = next && next < stop ? next : stop;
        stop = heading_next && heading_next < stop ? heading_next : stop;
        char *entry = strndup(tp, (size_t)(stop - tp));
        unescape(entry);
        return entry;
    }
    return NULL;
}

/* Differs from build to build. */
static bool default_varies(const char *section, const struct omid_option *o)
{
    size_t n = strlen(o->name);
    return strcmp(section, "daemon") == 0 && n > 4 && strcmp(o->name + n - 4, "_dir") == 0;
}

static void test_man_core(void)
{
    char *page = file_text("man/omi.conf.5");
    CU_ASSERT_PTR_NOT_NULL_FATAL(page);
    for (const struct conf_entry *e = conf_table(); e->section; e++) {
        const struct omid_option *o = &e->option;
        char text[200], *entry = man_entry(page, e->section, o->name);
        if (!entry) {
            complain("man/omi.conf.5: %s.%s is missing", e->section, o->name);
            continue;
        }
        snprintf(text, sizeof(text), "Default: %s.", o->def ? o->def : "");
        if (o->def && o->type != OMID_OPT_LIST && !default_varies(e->section, o) && !strstr(entry, text))
            complain("man/omi.conf.5: %s.%s: not found: %s", e->section, o->name, text);
        option_expects(o, text, sizeof(text));
        if (o->type != OMID_OPT_BOOL && !strstr(entry, text + 1)) /* its first letter is a capital there */
            complain("man/omi.conf.5: %s.%s: not found: %s", e->section, o->name, text);
        free(entry);
    }
    free(page);
}

/* Settings that the page still has and the table no longer. */
static void test_man_core_stale(void)
{
    char *page = file_text("man/omi.conf.5"), section[80] = "", *rest = NULL;
    CU_ASSERT_PTR_NOT_NULL_FATAL(page);
    bool after_tp = false;
    for (char *line = strtok_r(page, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        size_t len;
        char key[80];
        if (strncmp(line, ".SH ", 4) == 0)
            section[0] = '\0';
        if (strncmp(line, ".SS ", 4) == 0) {
            snprintf(section, sizeof(section), "%.70s", line + 4);
            if (!conf_is_section(section))
                complain("man/omi.conf.5: there is no section %s", section);
        }
        const char *tag = after_tp && *section ? tag_of(line, &len) : NULL;
        after_tp = strcmp(line, ".TP") == 0;
        if (!tag)
            continue;
        snprintf(key, sizeof(key), "%.*s", (int)len, tag);
        if (!conf_entry_find(section, key))
            complain("man/omi.conf.5: there is no setting %s.%s", section, key);
    }
    free(page);
}

static void test_man_plugins(void)
{
    for (size_t i = 0; i < n_plugins; i++) {
        char name[128];
        snprintf(name, sizeof(name), "man/omid-%s.5", plugins[i]->name);
        char *page = file_text(name);
        if (!page) {
            complain("%s is missing", name);
            continue;
        }
        for (const struct omid_option *o = plugins[i]->options; o && o->name; o++) {
            char *entry = man_entry(page, NULL, o->name);
            if (!entry)
                complain("%s: %s is missing", name, o->name);
            else if (o->def && !strstr(entry, o->def))
                complain("%s: %s: its default is missing: %s", name, o->name, o->def);
            free(entry);
        }
        free(page);
    }
}

/* ------------------------------------------------------------ the sample */

/* `#key = value` becomes `key = value`; prose, with a space behind its #, stays a comment. */
static void uncomment(char *text)
{
    bool line_start = true;
    for (char *p = text; *p; p++) {
        if (line_start && *p == '#' && (isalpha((unsigned char)p[1]) || p[1] == '}'))
            *p = ' ';
        line_start = *p == '\n' || (line_start && *p == ' ');
    }
}

static struct outline *sample_read(void)
{
    char *text = file_text("etc/omi.conf");
    struct conf_faults faults = {.errors = 0};
    if (!text)
        return NULL;
    uncomment(text);
    struct outline *o = outline_read_text(text, "etc/omi.conf", &faults);
    if (o && !values_read(o, &faults))
        outline_free(&o);
    if (faults.errors) {
        fputs(faults.text.data, stderr);
        outline_free(&o);
    }
    conf_faults_free(&faults);
    free(text);
    return o;
}

static const struct outline_item *sample_find(const struct outline *o, const char *path, const char *title,
                                              const struct omid_option *option)
{
    for (size_t i = 0; i < o->n; i++) {
        const struct outline_item *it = &o->item[i];
        if (!it->section && strcmp(it->path, path) == 0 && option_named(option, it->name) &&
            (!title || (it->title && strcmp(it->title, title) == 0)))
            return it;
    }
    return NULL;
}

static bool same(const struct conf_value *a, const struct conf_value *b)
{
    switch (a->option->type) {
    case OMID_OPT_BOOL:
        return a->v.b == b->v.b;
    case OMID_OPT_FLOAT:
        return a->v.d == b->v.d;
    case OMID_OPT_INT:
    case OMID_OPT_DURATION:
    case OMID_OPT_SIZE:
        return a->v.i == b->v.i;
    case OMID_OPT_LIST:
        for (size_t i = 0; i < a->v.list.n && i < b->v.list.n; i++) {
            if (strcmp(a->v.list.item[i], b->v.list.item[i]) != 0)
                return false;
        }
        return a->v.list.n == b->v.list.n;
    default:
        return strcmp(a->v.s, b->v.s) == 0;
    }
}

static void check_sample(const struct outline *o, const char *path, const char *title, const struct omid_option *option)
{
    char err[300], key[200];
    struct conf_value v = {.option = option, .type = option->type}, def = v;
    const struct outline_item *it = sample_find(o, path, title, option);
    outline_key_name(key, sizeof(key), path, title, NULL, option->name);
    if (!it) {
        complain("etc/omi.conf: %s is missing", key);
        return;
    }
    if (!value_parse(option, it->value, it->n_values, &v, err, sizeof(err))) {
        complain("etc/omi.conf:%d: %s: %s", it->line, key, err);
        return;
    }
    /* What is not commented is a choice of the sample's own. */
    bool chosen = strcmp(key, "stt.models") == 0;
    if (option->def && !chosen && !default_varies(path, option)) {
        if (!value_default(option, &def, err, sizeof(err)))
            complain("%s: %s", key, err);
        else if (!same(&v, &def))
            complain("etc/omi.conf:%d: %s: the default is %s", it->line, key, option->def);
        value_clear(&def);
    }
    value_clear(&v);
}

static void test_sample_core(void)
{
    struct outline *o = sample_read();
    CU_ASSERT_PTR_NOT_NULL_FATAL(o);
    for (const struct conf_entry *e = conf_table(); e->section; e++)
        check_sample(o, e->section, conf_in_block(e->section) ? "example" : NULL, &e->option);
    outline_free(&o);
}

static void test_sample_plugins(void)
{
    struct outline *o = sample_read();
    CU_ASSERT_PTR_NOT_NULL_FATAL(o);
    for (size_t i = 0; i < n_plugins; i++) {
        for (const struct omid_option *op = plugins[i]->options; op && op->name; op++)
            check_sample(o, "plugin", plugins[i]->name, op);
    }
    outline_free(&o);
}

static bool is_known(const struct outline_item *it)
{
    if (it->section)
        return conf_is_section(it->path);
    if (conf_entry_find(it->path, it->name))
        return true;
    bool built = false;
    for (size_t i = 0; it->title && i < n_plugins; i++) {
        if (strcmp(plugins[i]->name, it->title) != 0)
            continue;
        built = true;
        for (const struct omid_option *op = plugins[i]->options; op && op->name; op++) {
            if (option_named(op, it->name))
                return true;
        }
    }
    return it->title && !built; /* a plugin left out of this build can't be asked */
}

static void test_sample_stale(void)
{
    struct outline *o = sample_read();
    CU_ASSERT_PTR_NOT_NULL_FATAL(o);
    for (size_t i = 0; i < o->n; i++) {
        if (!is_known(&o->item[i]))
            complain("etc/omi.conf:%d: there is no setting %s.%s", o->item[i].line, o->item[i].path, o->item[i].name);
    }
    outline_free(&o);
}

static const struct omid_plugin *describe(void *arg, const char *name, const char *path, char *err, size_t errlen)
{
    (void)arg;
    for (size_t i = 0; i < n_plugins; i++) {
        if (strcmp(plugins[i]->name, name) == 0)
            return plugins[i];
    }
    snprintf(err, errlen, "%s is not built", path);
    return NULL;
}

/* As it is shipped, the sample loads; the embedded text too. */
static void test_loads(void)
{
    const struct conf_source source = {.describe = describe};
    struct conf_faults faults = {.errors = 0};
    char *text = file_text("etc/omi.conf");
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    struct conf *c = conf_load_text(text, "etc/omi.conf", &source, &faults);
    struct conf *embedded = conf_load(NULL, &source, &faults);
    if (!c || !embedded)
        fputs(faults.text.data, stderr);
    CU_ASSERT_PTR_NOT_NULL(c);
    CU_ASSERT_PTR_NOT_NULL(embedded);
    conf_free(&c);
    conf_free(&embedded);
    conf_faults_free(&faults);
    free(text);
}

/* The modules as libtool leaves them in the build folder. */
static void plugins_open(void)
{
    static const char *const patterns[] = {".libs/*.so", "plugins/.libs/*.so", "plugins/*/.libs/*.so"};
    for (size_t k = 0; k < sizeof(patterns) / sizeof(patterns[0]); k++) {
        glob_t g;
        if (glob(patterns[k], 0, NULL, &g) != 0)
            continue;
        for (size_t i = 0; i < g.gl_pathc && n_plugins < MAX_PLUGINS; i++) {
            char path[600];
            snprintf(path, sizeof(path), "./%s", g.gl_pathv[i]);
            void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
            const struct omid_plugin *p = module ? dlsym(module, "omid_plugin") : NULL;
            if (!module)
                complain("%s: %s", path, dlerror());
            if (p && p->magic == OMID_PLUGIN_MAGIC)
                plugins[n_plugins++] = p;
        }
        globfree(&g);
    }
}

static void test_plugins_found(void)
{
    plugins_open();
    printf("\n    plugins:");
    for (size_t i = 0; i < n_plugins; i++)
        printf(" %s", plugins[i]->name);
    CU_ASSERT(n_plugins > 0);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"plugins are found", test_plugins_found},
        {"man page, core", test_man_core},
        {"man page, stale", test_man_core_stale},
        {"man pages, plugins", test_man_plugins},
        {"sample, core", test_sample_core},
        {"sample, plugins", test_sample_plugins},
        {"sample, stale", test_sample_stale},
        {"sample and embedded text load", test_loads},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"conf, documents", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
