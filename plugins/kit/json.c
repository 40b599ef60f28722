#include "json.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void kit_fault_set(struct kit_fault *f, const char *fmt, ...)
{
    if (f == NULL || f->text[0] != '\0')
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->text, sizeof(f->text), fmt, ap);
    va_end(ap);
}

/* ---- members ---- */

static const char *kind_of(yajl_val v)
{
    if (v == NULL)
        return "nothing";
    switch (v->type) {
    case yajl_t_string:
        return "a string";
    case yajl_t_number:
        return "a number";
    case yajl_t_object:
        return "an object";
    case yajl_t_array:
        return "an array";
    case yajl_t_true:
    case yajl_t_false:
        return "a boolean";
    case yajl_t_null:
        return "null";
    default:
        return "something else";
    }
}

yajl_val kit_json_get(yajl_val v, const char *key)
{
    /* Of two members of a name the first, as yajl's own look-up has it. */
    for (size_t i = 0; YAJL_IS_OBJECT(v) && i < v->u.object.len; i++) {
        if (strcmp(v->u.object.keys[i], key) == 0)
            return v->u.object.values[i];
    }
    return NULL;
}

static void wrong(struct kit_fault *f, const char *where, const char *key, const char *expected, yajl_val found)
{
    bool none = where[0] == '\0' && key == NULL;
    kit_fault_set(f, "%s%s%s%sexpected %s, found %s", where, where[0] != '\0' && key != NULL ? "." : "",
                  key != NULL ? key : "", none ? "" : ": ", expected, kind_of(found));
}

static yajl_val member(yajl_val v, const char *where, const char *key, struct kit_fault *f)
{
    if (key == NULL)
        return v;
    if (!YAJL_IS_OBJECT(v)) {
        wrong(f, where, NULL, "an object", v);
        return NULL;
    }
    return kit_json_get(v, key);
}

bool kit_json_string(yajl_val v, const char *where, const char *key, const char **out, struct kit_fault *f)
{
    yajl_val m = member(v, where, key, f);
    *out = YAJL_GET_STRING(m);
    if (*out == NULL)
        wrong(f, where, key, "a string", m);
    return *out != NULL;
}

bool kit_json_number(yajl_val v, const char *where, const char *key, double *out, struct kit_fault *f)
{
    yajl_val m = member(v, where, key, f);
    if (!YAJL_IS_NUMBER(m)) {
        wrong(f, where, key, "a number", m);
        return false;
    }
    *out = m->u.number.d;
    if (isfinite(*out)) /* 1e999 is JSON, and no number of ours */
        return true;
    kit_fault_set(f, "%s%s%s: a number beyond all bounds", where, where[0] != '\0' && key != NULL ? "." : "",
                  key != NULL ? key : "");
    return false;
}

bool kit_json_integer(yajl_val v, const char *where, const char *key, int64_t *out, struct kit_fault *f)
{
    yajl_val m = member(v, where, key, f);
    if (!YAJL_IS_INTEGER(m)) {
        wrong(f, where, key, "an integer", m);
        return false;
    }
    *out = YAJL_GET_INTEGER(m);
    return true;
}

bool kit_json_bool(yajl_val v, const char *where, const char *key, bool *out, struct kit_fault *f)
{
    yajl_val m = member(v, where, key, f);
    *out = YAJL_IS_TRUE(m);
    if (!YAJL_IS_TRUE(m) && !YAJL_IS_FALSE(m)) {
        wrong(f, where, key, "a boolean", m);
        return false;
    }
    return true;
}

static bool typed(yajl_val v, yajl_type type, const char *expected, const char *where, const char *key, yajl_val *out,
                  struct kit_fault *f)
{
    yajl_val m = member(v, where, key, f);
    bool ok = m != NULL && m->type == type;
    *out = ok ? m : NULL;
    if (!ok)
        wrong(f, where, key, expected, m);
    return ok;
}

bool kit_json_array(yajl_val v, const char *where, const char *key, yajl_val *out, struct kit_fault *f)
{
    return typed(v, yajl_t_array, "an array", where, key, out, f);
}

bool kit_json_object(yajl_val v, const char *where, const char *key, yajl_val *out, struct kit_fault *f)
{
    return typed(v, yajl_t_object, "an object", where, key, out, f);
}
