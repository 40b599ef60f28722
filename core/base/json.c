#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "base/utf8.h"

_Static_assert(JSON_MAX_DEPTH == 64, "named in a message");

static int hex4(const char *p)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        int c = p[i] >= '0' && p[i] <= '9'                 ? p[i] - '0'
                : (p[i] | 32) >= 'a' && (p[i] | 32) <= 'f' ? (p[i] | 32) - 'a' + 10
                                                           : -1;
        if (c < 0)
            return -1;
        v = v << 4 | c;
    }
    return v;
}

/* An escape at text[i], the backslash: how long is it? Half a surrogate pair becomes U+FFFD, for yajl would make bad
 * UTF-8 of it, or swallow what follows. Whether it is well formed is the parser's business. */
static size_t escape_mend(char *text, size_t len, size_t i)
{
    if (len - i < 6 || text[i + 1] != 'u')
        return 2;
    int code = hex4(text + i + 2);
    if (code < 0xd800 || code > 0xdfff)
        return 6;
    if (code < 0xdc00 && len - i >= 12 && text[i + 6] == '\\' && text[i + 7] == 'u') {
        int low = hex4(text + i + 8);
        if (low >= 0xdc00 && low <= 0xdfff)
            return 12;
    }
    memcpy(text + i + 2, "fffd", 4);
    return 6;
}

/* What must be settled before yajl sees it: its tree recurses, so the depth is counted here; it takes comments, which
 * are no JSON and would hide brackets from the count. NULL, or why not. */
static const char *prepare(char *text, size_t len)
{
    unsigned depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\')
                i += escape_mend(text, len, i) - 1;
            else if (c == '"')
                quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '/') {
            return "comments are not JSON";
        } else if (c == '{' || c == '[') {
            if (++depth > JSON_MAX_DEPTH)
                return "nested deeper than 64 levels";
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return NULL;
}

static yajl_val tree_parse(const char *text, char *err, size_t errlen)
{
    char why[512] = "";
    yajl_val v = yajl_tree_parse(text, why, sizeof why);
    if (!v) {
        why[strcspn(why, "\n")] = 0; /* what follows is an excerpt of the text */
        snprintf(err, errlen, "%s", why[0] ? why : "not JSON");
    }
    return v;
}

yajl_val json_parse(const char *text, size_t len, size_t max, char *err, size_t errlen)
{
    const char *why = NULL;
    char *copy = NULL;
    yajl_val v = NULL;
    if (errlen)
        err[0] = 0;
    if (max && len > max) {
        snprintf(err, errlen, "%zu bytes, more than %zu", len, max);
        return NULL;
    }
    if (!text || len == 0)
        why = "empty";
    else if (memchr(text, 0, len))
        why = "holds a NUL byte";
    else if (!utf8_valid(text, len))
        why = "not UTF-8";
    else if (!(copy = strndup(text, len)))
        why = "no memory";
    else
        why = prepare(copy, len);
    if (why)
        snprintf(err, errlen, "%s", why);
    else
        v = tree_parse(copy, err, errlen);
    free(copy);
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
    if (!(v->u.number.flags & YAJL_NUMBER_DOUBLE_VALID)) /* 1e999 has neither */
        return v->u.number.flags & YAJL_NUMBER_INT_VALID ? (double)v->u.number.i : def;
    return isfinite(v->u.number.d) ? v->u.number.d : def;
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
