#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "base/utf8.h"

/* ----------------------------------------------------------------------- reading */

/* yajl's tree recurses: the depth is counted before it is built. Strings are skipped over; whether they are well
 * formed is the parser's business. */
static bool depth_ok(const char *text, size_t len)
{
    unsigned depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            if (++depth > JSON_MAX_DEPTH)
                return false;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return true;
}

yajl_val json_parse(const char *text, size_t len, size_t max, char *err, size_t errlen)
{
    if (errlen)
        err[0] = 0;
    if (max && len > max) {
        snprintf(err, errlen, "longer than %zu bytes", max);
        return NULL;
    }
    if (!text || len == 0) {
        snprintf(err, errlen, "empty");
        return NULL;
    }
    if (memchr(text, 0, len)) {
        snprintf(err, errlen, "holds a NUL byte");
        return NULL;
    }
    if (!depth_ok(text, len)) {
        snprintf(err, errlen, "nested deeper than %d", JSON_MAX_DEPTH);
        return NULL;
    }
    char *copy = strndup(text, len);
    if (!copy) {
        snprintf(err, errlen, "no memory");
        return NULL;
    }
    char why[512] = "";
    yajl_val v = yajl_tree_parse(copy, why, sizeof why);
    free(copy);
    if (!v) {
        char *newline = strchr(why, '\n');
        if (newline)
            *newline = 0;
        snprintf(err, errlen, "%s", why[0] ? why : "not JSON");
    }
    return v;
}

void json_free(yajl_val *v)
{
    yajl_tree_free(*v);
    *v = NULL;
}

yajl_val json_get(yajl_val v, const char *key)
{
    if (!YAJL_IS_OBJECT(v))
        return NULL;
    /* The last one of a name, as other parsers have it. */
    for (size_t i = v->u.object.len; i-- > 0;) {
        if (strcmp(v->u.object.keys[i], key) == 0)
            return v->u.object.values[i];
    }
    return NULL;
}

yajl_val json_object(yajl_val v, const char *key)
{
    v = json_get(v, key);
    return YAJL_IS_OBJECT(v) ? v : NULL;
}

yajl_val json_array(yajl_val v, const char *key)
{
    v = json_get(v, key);
    return YAJL_IS_ARRAY(v) ? v : NULL;
}

const char *json_str(yajl_val v, const char *key)
{
    v = json_get(v, key);
    return YAJL_IS_STRING(v) ? v->u.string : NULL;
}

double json_num(yajl_val v, const char *key, double def)
{
    v = json_get(v, key);
    if (!YAJL_IS_NUMBER(v))
        return def;
    double d = v->u.number.flags & YAJL_NUMBER_DOUBLE_VALID ? v->u.number.d : (double)v->u.number.i;
    return isfinite(d) ? d : def;
}

int64_t json_int(yajl_val v, const char *key, int64_t def)
{
    v = json_get(v, key);
    return YAJL_IS_INTEGER(v) ? (int64_t)v->u.number.i : def;
}

bool json_bool(yajl_val v, const char *key, bool def)
{
    v = json_get(v, key);
    return YAJL_IS_TRUE(v) ? true : YAJL_IS_FALSE(v) ? false : def;
}

size_t json_len(yajl_val array)
{
    return YAJL_IS_ARRAY(array) ? array->u.array.len : 0;
}

yajl_val json_at(yajl_val array, size_t i)
{
    return i < json_len(array) ? array->u.array.values[i] : NULL;
}

/* ----------------------------------------------------------------------- writing */

void json_w_start(struct json_w *w, struct buf *out)
{
    *w = (struct json_w){.out = out};
}

bool json_w_end(struct json_w *w)
{
    return !w->failed && w->depth == 0;
}

static void put(struct json_w *w, const char *s, size_t len)
{
    if (!w->failed && !buf_append(w->out, s, len))
        w->failed = true;
}

/* What stands before a value. */
static void value(struct json_w *w)
{
    if (w->after_key)
        w->after_key = false;
    else if (w->depth > 0 && w->comma[w->depth - 1])
        put(w, ",", 1);
    if (w->depth > 0)
        w->comma[w->depth - 1] = true;
}

void json_w_open(struct json_w *w, char kind)
{
    value(w);
    if (w->depth >= JSON_MAX_DEPTH) {
        w->failed = true;
        return;
    }
    w->comma[w->depth++] = false;
    put(w, &kind, 1);
}

void json_w_close(struct json_w *w, char kind)
{
    if (w->depth == 0) {
        w->failed = true;
        return;
    }
    w->depth--;
    put(w, &kind, 1);
}

/* Length of the valid character at p, or 0. */
static size_t char_len(const unsigned char *p, size_t left)
{
    size_t n = *p < 0x80 ? 1 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : 4;
    return n <= left && utf8_valid(p, n) ? n : 0;
}

static void string(struct json_w *w, const char *s, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    const unsigned char *p = (const unsigned char *)s;
    size_t plain = 0;
    bool valid = utf8_valid(s, len); /* the rule; then only the escapes are looked for */
    put(w, "\"", 1);
    for (size_t i = 0; i < len;) {
        unsigned char c = p[i];
        size_t n = c < 0x80 || valid ? 1 : char_len(p + i, len - i);
        if (n > 0 && c != '"' && c != '\\' && c >= 0x20) {
            i += n;
            continue;
        }
        put(w, s + plain, i - plain);
        char esc[8];
        if (n == 0)
            put(w, "\xef\xbf\xbd", 3);
        else if (c == '"' || c == '\\')
            put(w, (esc[0] = '\\', esc[1] = (char)c, esc), 2);
        else if (c == '\n')
            put(w, "\\n", 2);
        else if (c == '\r')
            put(w, "\\r", 2);
        else if (c == '\t')
            put(w, "\\t", 2);
        else {
            memcpy(esc, "\\u00", 4);
            esc[4] = hex[c >> 4];
            esc[5] = hex[c & 15];
            put(w, esc, 6);
        }
        plain = ++i;
    }
    put(w, s + plain, len - plain);
    put(w, "\"", 1);
}

void json_w_key(struct json_w *w, const char *key)
{
    value(w);
    string(w, key, strlen(key));
    put(w, ":", 1);
    w->after_key = true;
}

void json_w_strn(struct json_w *w, const char *s, size_t len)
{
    value(w);
    string(w, s, len);
}

void json_w_str(struct json_w *w, const char *s)
{
    if (s)
        json_w_strn(w, s, strlen(s));
    else
        json_w_null(w);
}

void json_w_int(struct json_w *w, int64_t i)
{
    char s[24];
    value(w);
    put(w, s, (size_t)snprintf(s, sizeof s, "%lld", (long long)i));
}

void json_w_num(struct json_w *w, double d)
{
    char s[32];
    if (!isfinite(d)) {
        json_w_null(w);
        return;
    }
    int n = 0;
    for (int digits = 15; digits <= 17; digits++) {
        n = snprintf(s, sizeof s, "%.*g", digits, d);
        if (strtod(s, NULL) == d)
            break;
    }
    value(w);
    put(w, s, (size_t)n);
    /* A number that is a float stays one for readers that tell them apart. */
    if (strspn(s, "-0123456789") == (size_t)n)
        put(w, ".0", 2);
}

void json_w_bool(struct json_w *w, bool b)
{
    value(w);
    put(w, b ? "true" : "false", b ? 4 : 5);
}

void json_w_null(struct json_w *w)
{
    value(w);
    put(w, "null", 4);
}

void json_w_raw(struct json_w *w, const char *json, size_t len)
{
    value(w);
    put(w, json, len);
}

void json_w_tree(struct json_w *w, yajl_val v)
{
    if (!v || YAJL_IS_NULL(v)) {
        json_w_null(w);
    } else if (YAJL_IS_STRING(v)) {
        json_w_str(w, v->u.string);
    } else if (YAJL_IS_NUMBER(v)) {
        json_w_raw(w, v->u.number.r, strlen(v->u.number.r));
    } else if (YAJL_IS_TRUE(v) || YAJL_IS_FALSE(v)) {
        json_w_bool(w, YAJL_IS_TRUE(v));
    } else if (YAJL_IS_ARRAY(v)) {
        json_w_open(w, '[');
        for (size_t i = 0; i < v->u.array.len; i++)
            json_w_tree(w, v->u.array.values[i]);
        json_w_close(w, ']');
    } else {
        json_w_open(w, '{');
        for (size_t i = 0; i < v->u.object.len; i++) {
            json_w_key(w, v->u.object.keys[i]);
            json_w_tree(w, v->u.object.values[i]);
        }
        json_w_close(w, '}');
    }
}

void json_w_kstr(struct json_w *w, const char *key, const char *s)
{
    json_w_key(w, key);
    json_w_str(w, s);
}

void json_w_kint(struct json_w *w, const char *key, int64_t i)
{
    json_w_key(w, key);
    json_w_int(w, i);
}

void json_w_knum(struct json_w *w, const char *key, double d)
{
    json_w_key(w, key);
    json_w_num(w, d);
}

void json_w_kbool(struct json_w *w, const char *key, bool b)
{
    json_w_key(w, key);
    json_w_bool(w, b);
}
