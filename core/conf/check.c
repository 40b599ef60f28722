#include "conf/check.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"

#define DEFAULT_MAX_TEXT 1024 /* bytes of a list's default in a table */

char *text_copy(const char *s)
{
    char *copy = strdup(s);
    omid_assert(copy != NULL);
    return copy;
}

static void show_duration(double ms, char *out, size_t len)
{
    static const struct {
        const char *name;
        double factor;
    } units[] = {{"d", 86400000.0}, {"h", 3600000.0}, {"min", 60000.0}, {"s", 1000.0}};
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        if (ms > 0 && fmod(ms, units[i].factor) == 0) {
            snprintf(out, len, "%.0f%s", ms / units[i].factor, units[i].name);
            return;
        }
    }
    snprintf(out, len, "%.0fms", ms);
}

static void show_size(double bytes, char *out, size_t len)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB"};
    size_t u = 0;
    while (u + 1 < ARRAY_LEN(units) && bytes > 0 && fmod(bytes, 1024) == 0) {
        bytes /= 1024;
        u++;
    }
    snprintf(out, len, "%.0f%s", bytes, units[u]);
}

static void show_plain(double d, char *out, size_t len)
{
    if (d == floor(d) && fabs(d) < 1e15)
        snprintf(out, len, "%.0f", d);
    else
        snprintf(out, len, "%g", d);
}

static bool is_bounded(const struct omid_option *o)
{
    return o->min != 0 || o->max != 0;
}

void option_expects(const struct omid_option *o, char *out, size_t len)
{
    const char *what = "a value";
    void (*show)(double, char *, size_t) = show_plain;
    char lo[40], hi[40];
    switch (o->type) {
    case OMID_OPT_BOOL:
        snprintf(out, len, "true or false");
        return;
    case OMID_OPT_ENUM: {
        snprintf(out, len, "one of %s", o->choices);
        return;
    }
    case OMID_OPT_LIST:
        if (o->max > 0)
            snprintf(out, len, "%.0f to %.0f values", o->min, o->max);
        else
            snprintf(out, len, "at most %d values", CONF_MAX_LIST);
        return;
    case OMID_OPT_STRING:
    case OMID_OPT_SECRET:
        if (o->max > 0)
            snprintf(out, len, "a text of %.0f to %.0f bytes", o->min, o->max);
        else
            snprintf(out, len, "a text");
        return;
    case OMID_OPT_INT:
    case OMID_OPT_FLOAT:
        what = o->type == OMID_OPT_INT ? "a whole number" : "a number";
        break;
    case OMID_OPT_DURATION:
        what = is_bounded(o) ? "a duration" : "a duration with a unit (ms, s, min, h, d)";
        show = show_duration;
        break;
    case OMID_OPT_SIZE:
        what = is_bounded(o) ? "a size" : "a size with a unit (B, KiB, MiB, GiB)";
        show = show_size;
        break;
    }
    if (!is_bounded(o)) {
        snprintf(out, len, "%s", what);
        return;
    }
    show(o->min, lo, sizeof(lo));
    show(o->max, hi, sizeof(hi));
    snprintf(out, len, "%s from %s to %s", what, lo, hi);
}

static bool refuse(const struct omid_option *o, const char *found, const char *why, char *err, size_t errlen)
{
    char what[160];
    option_expects(o, what, sizeof(what));
    snprintf(err, errlen, "expected %s, found \"%.80s\"%s", what, found, why);
    return false;
}

static bool parse_bool(const struct omid_option *o, const char *s, bool *out, char *err, size_t errlen)
{
    static const char *const yes[] = {"true", "yes", "on"}, *const no[] = {"false", "no", "off"};
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (strcmp(s, yes[i]) == 0 || strcmp(s, no[i]) == 0) {
            *out = strcmp(s, yes[i]) == 0;
            return true;
        }
    }
    return refuse(o, s, "", err, errlen);
}

static bool parse_int(const struct omid_option *o, const char *s, int64_t *out, char *err, size_t errlen)
{
    const char *digits = s + (*s == '-' || *s == '+');
    if (*digits == '\0' || strspn(digits, "0123456789") != strlen(digits))
        return refuse(o, s, "", err, errlen);
    errno = 0;
    long long i = strtoll(s, NULL, 10);
    if (errno != 0 || (is_bounded(o) && ((double)i < o->min || (double)i > o->max)))
        return refuse(o, s, "", err, errlen);
    *out = i;
    return true;
}

static bool parse_float(const struct omid_option *o, const char *s, double *out, char *err, size_t errlen)
{
    char *end;
    /* Neither nan, inf nor hexadecimal. */
    if (*s == '\0' || strspn(s, "0123456789.eE+-") != strlen(s))
        return refuse(o, s, "", err, errlen);
    double d = strtod(s, &end);
    if (*end != '\0' || !isfinite(d) || (is_bounded(o) && (d < o->min || d > o->max)))
        return refuse(o, s, "", err, errlen);
    *out = d;
    return true;
}

static bool parse_united(const struct omid_option *o, const char *s, int64_t *out, char *err, size_t errlen)
{
    char fault[200];
    bool size = o->type == OMID_OPT_SIZE;
    uint64_t value;
    if (!(size ? conf_parse_size : conf_parse_duration)(s, &value, fault, sizeof(fault))) {
        bool bare = *s && strspn(s, "0123456789") == strlen(s);
        return refuse(o, s,
                      !bare  ? ""
                      : size ? " without a unit (B, KiB, MiB, GiB)"
                             : " without a unit (ms, s, min, h, d)",
                      err, errlen);
    }
    if (is_bounded(o) && ((double)value < o->min || (double)value > o->max))
        return refuse(o, s, "", err, errlen);
    *out = (int64_t)value;
    return true;
}

static bool is_choice(const char *choices, const char *s)
{
    size_t n = strlen(s);
    for (const char *p = choices; n > 0 && p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL) {
        if (strncmp(p, s, n) == 0 && (p[n] == '|' || p[n] == '\0'))
            return true;
    }
    return false;
}

static bool parse_text(const struct omid_option *o, const char *s, char **out, char *err, size_t errlen)
{
    double n = (double)strlen(s);
    if (o->type == OMID_OPT_ENUM ? !is_choice(o->choices, s) : (o->max > 0 && (n < o->min || n > o->max))) {
        char what[160];
        if (o->type != OMID_OPT_SECRET)
            return refuse(o, s, "", err, errlen);
        option_expects(o, what, sizeof(what));
        snprintf(err, errlen, "expected %s, found %.0f bytes", what, n);
        return false;
    }
    *out = text_copy(s);
    return true;
}

static bool parse_list(const struct omid_option *o, const char *const *text, size_t n, struct conf_list *out, char *err,
                       size_t errlen)
{
    char what[160];
    double max = o->max > 0 ? o->max : CONF_MAX_LIST;
    option_expects(o, what, sizeof(what));
    if ((double)n > max || (double)n < o->min) {
        snprintf(err, errlen, "expected %s, found %zu", what, n);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i][0] == '\0') {
            snprintf(err, errlen, "expected %s, found an empty one", what);
            return false;
        }
    }
    list_copy(out, text, n);
    return true;
}

void list_copy(struct conf_list *l, const char *const *text, size_t n)
{
    l->item = calloc(n + 1, sizeof(*l->item));
    omid_assert(l->item != NULL);
    for (size_t i = 0; i < n; i++)
        l->item[i] = text_copy(text[i]);
    l->n = n;
}

void list_free(struct conf_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->item[i]);
    free(l->item);
    *l = (struct conf_list){0};
}

bool value_parse(const struct omid_option *o, const char *const *text, size_t n, struct conf_value *v, char *err,
                 size_t errlen)
{
    if (o->type == OMID_OPT_LIST)
        return parse_list(o, text, n, &v->v.list, err, errlen);
    if (n != 1) { /* `key = a` and then `key += b`, which is reported by itself */
        snprintf(err, errlen, "expected one value, found %zu", n);
        return false;
    }
    switch (o->type) {
    case OMID_OPT_BOOL:
        return parse_bool(o, text[0], &v->v.b, err, errlen);
    case OMID_OPT_INT:
        return parse_int(o, text[0], &v->v.i, err, errlen);
    case OMID_OPT_FLOAT:
        return parse_float(o, text[0], &v->v.d, err, errlen);
    case OMID_OPT_DURATION:
    case OMID_OPT_SIZE:
        return parse_united(o, text[0], &v->v.i, err, errlen);
    default:
        return parse_text(o, text[0], &v->v.s, err, errlen);
    }
}

bool value_default(const struct omid_option *o, struct conf_value *v, char *err, size_t errlen)
{
    if (!o->def) {
        if (o->type == OMID_OPT_LIST)
            list_copy(&v->v.list, NULL, 0);
        return true;
    }
    if (o->type != OMID_OPT_LIST)
        return value_parse(o, &o->def, 1, v, err, errlen);
    char copy[DEFAULT_MAX_TEXT];
    const char *part[CONF_MAX_LIST];
    size_t n = 0;
    char *rest = NULL;
    if (snprintf(copy, sizeof(copy), "%s", o->def) >= (int)sizeof(copy)) {
        snprintf(err, errlen, "the default of %s is too long", o->name);
        return false;
    }
    for (char *p = strtok_r(copy, ",", &rest); p && n < CONF_MAX_LIST; p = strtok_r(NULL, ",", &rest))
        part[n++] = p + strspn(p, " ");
    return value_parse(o, part, n, v, err, errlen);
}

void value_clear(struct conf_value *v)
{
    if (!v->option)
        return;
    switch (v->type) {
    case OMID_OPT_LIST:
        list_free(&v->v.list);
        break;
    case OMID_OPT_SECRET:
        if (v->v.s)
            explicit_bzero(v->v.s, strlen(v->v.s));
        free(v->v.s);
        break;
    case OMID_OPT_STRING:
    case OMID_OPT_ENUM:
        free(v->v.s);
        break;
    default:
        break;
    }
    v->option = NULL;
}
