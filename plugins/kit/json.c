#include "json.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

void kit_fault_set(struct kit_fault *f, const char *fmt, ...)
{
    if (f == NULL || f->text[0] != '\0')
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->text, sizeof(f->text), fmt, ap);
    va_end(ap);
}

/* ---- is it JSON, and shallow enough for yajl's tree, which recurses? ---- */

struct look {
    unsigned depth;
    bool deep, nul;
};

static int opens(void *ctx)
{
    struct look *l = ctx;
    l->deep = l->deep || ++l->depth > KIT_JSON_MAX_DEPTH;
    return !l->deep;
}

static int closes(void *ctx)
{
    struct look *l = ctx;
    l->depth--;
    return 1;
}

/* yajl's tree ends strings at the first NUL: what is behind it would be gone. */
static int text_seen(void *ctx, const unsigned char *s, size_t len)
{
    struct look *l = ctx;
    l->nul = l->nul || memchr(s, '\0', len) != NULL;
    return !l->nul;
}

static bool look_ok(const char *text, size_t len, struct kit_fault *f)
{
    static const yajl_callbacks callbacks = {.yajl_start_map = opens,
                                             .yajl_end_map = closes,
                                             .yajl_start_array = opens,
                                             .yajl_end_array = closes,
                                             .yajl_string = text_seen,
                                             .yajl_map_key = text_seen};
    struct look l = {0};
    yajl_handle h = yajl_alloc(&callbacks, NULL, &l);
    if (h == NULL) {
        kit_fault_set(f, "out of memory");
        return false;
    }
    bool ok =
        yajl_parse(h, (const unsigned char *)text, len) == yajl_status_ok && yajl_complete_parse(h) == yajl_status_ok;
    size_t at = yajl_get_bytes_consumed(h);
    yajl_free(h);
    if (l.deep)
        kit_fault_set(f, "more than %d levels of JSON", KIT_JSON_MAX_DEPTH);
    else if (l.nul)
        kit_fault_set(f, "a string with a NUL in it");
    else if (!ok)
        kit_fault_set(f, "no JSON, from byte %zu of %zu on", at, len);
    return ok;
}

yajl_val kit_json_parse(const char *text, size_t len, size_t max, struct kit_fault *f)
{
    if (len == 0 || text == NULL) {
        kit_fault_set(f, "no JSON: it is empty");
        return NULL;
    }
    if (len > max) {
        kit_fault_set(f, "%zu bytes, more than the %zu that are read", len, max);
        return NULL;
    }
    const char *nul = memchr(text, '\0', len);
    if (nul != NULL) {
        kit_fault_set(f, "no JSON, from byte %zu of %zu on", (size_t)(nul - text), len);
        return NULL;
    }
    if (!look_ok(text, len, f))
        return NULL;
    char *copy = malloc(len + 1); /* the tree's reader wants a NUL at the end */
    if (copy == NULL) {
        kit_fault_set(f, "out of memory");
        return NULL;
    }
    memcpy(copy, text, len);
    copy[len] = '\0';
    yajl_val v = yajl_tree_parse(copy, NULL, 0);
    free(copy);
    if (v == NULL)
        kit_fault_set(f, "no JSON, or out of memory");
    return v;
}

void kit_json_free(yajl_val *v)
{
    yajl_tree_free(*v);
    *v = NULL;
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
    *out = strtod(YAJL_GET_NUMBER(m), NULL);
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
