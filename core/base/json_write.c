#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"

void json_w_start(struct json_w *w, struct buf *out)
{
    *w = (struct json_w){.out = out};
}

bool json_w_end(struct json_w *w)
{
    return !w->failed && w->depth == 0 && !w->after_key;
}

static void put(struct json_w *w, const char *s, size_t len)
{
    if (!w->failed && !buf_append(w->out, s, len))
        w->failed = true;
}

static bool in_object(const struct json_w *w)
{
    return w->depth > 0 && w->kind[w->depth - 1] == '{';
}

static void separate(struct json_w *w)
{
    if (w->depth == 0)
        return;
    if (w->comma[w->depth - 1])
        put(w, ",", 1);
    w->comma[w->depth - 1] = true;
}

/* What stands before a value. */
static void value(struct json_w *w)
{
    if (w->after_key)
        w->after_key = false;
    else if (in_object(w))
        w->failed = true; /* without a key */
    else
        separate(w);
}

void json_w_open(struct json_w *w, char kind)
{
    value(w);
    if (w->depth >= JSON_MAX_DEPTH) {
        w->failed = true;
        return;
    }
    w->comma[w->depth] = false;
    w->kind[w->depth++] = kind;
    put(w, &kind, 1);
}

void json_w_close(struct json_w *w, char kind)
{
    if (w->depth == 0 || w->after_key || w->kind[w->depth - 1] != (kind == '}' ? '{' : '[')) {
        w->failed = true;
        return;
    }
    w->depth--;
    put(w, &kind, 1);
}

static void escape(struct json_w *w, bool bad, unsigned char c)
{
    char esc[8];
    const char *letter = strchr("\"\"\\\\\nn\rr\tt", c);
    if (bad)
        put(w, "\xef\xbf\xbd", 3); /* U+FFFD */
    else if (c && letter)
        put(w, (esc[0] = '\\', esc[1] = letter[1], esc), 2);
    else
        put(w, esc, (size_t)snprintf(esc, sizeof esc, "\\u%04x", c));
}

static void string(struct json_w *w, const char *s, size_t len)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t plain = 0;
    bool valid = utf8_valid(s, len); /* the rule; then only the escapes are looked for */
    put(w, "\"", 1);
    for (size_t i = 0; i < len;) {
        unsigned char c = p[i];
        size_t n = c < 0x80 || valid ? 1 : utf8_char_len(p + i, len - i);
        if (n > 0 && c != '"' && c != '\\' && c >= 0x20) {
            i += n;
            continue;
        }
        put(w, s + plain, i - plain);
        escape(w, n == 0, c);
        plain = ++i;
    }
    put(w, s + plain, len - plain);
    put(w, "\"", 1);
}

void json_w_key(struct json_w *w, const char *key)
{
    if (w->after_key || !in_object(w))
        w->failed = true;
    separate(w);
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
    if (len == 0)
        w->failed = true;
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
