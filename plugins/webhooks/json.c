#include "json.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

/* ------------------------------------------------------------ text */

static bool text_room(struct text *t, size_t more)
{
    if (t->failed)
        return false;
    if (t->cap - t->len > more)
        return true;
    size_t cap = (t->cap + more + 1) * 2;
    char *grown = realloc(t->data, cap);
    if (grown == NULL) {
        free(t->data);
        *t = (struct text){.failed = true};
        return false;
    }
    t->data = grown;
    t->cap = cap;
    return true;
}

void text_reserve(struct text *t, size_t more)
{
    if (t->failed || t->cap - t->len > more)
        return;
    char *grown = realloc(t->data, t->len + more + 1);
    if (grown == NULL)
        return; /* text_add() finds out */
    t->data = grown;
    t->cap = t->len + more + 1;
}

void text_add(struct text *t, const char *data, size_t len)
{
    if (!text_room(t, len))
        return;
    memcpy(t->data + t->len, data, len);
    t->len += len;
    t->data[t->len] = '\0';
}

void text_adds(struct text *t, const char *s)
{
    text_add(t, s, strlen(s));
}

void text_add_quoted_n(struct text *t, const char *s, size_t len)
{
    text_add(t, "\"", 1);
    size_t from = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c != 0x7f && c != '"' && c != '\\')
            continue;
        text_add(t, s + from, i - from);
        from = i + 1;
        if (c == '"' || c == '\\') {
            const char esc[2] = {'\\', (char)c};
            text_add(t, esc, 2);
        } else {
            char esc[8];
            int n = snprintf(esc, sizeof(esc), "\\u%04x", c);
            text_add(t, esc, (size_t)n);
        }
    }
    text_add(t, s + from, len - from);
    text_add(t, "\"", 1);
}

void text_add_quoted(struct text *t, const char *s)
{
    text_add_quoted_n(t, s, strlen(s));
}

/* ------------------------------------------------------------ is it sound? */

static int deeper(void *ctx)
{
    unsigned *depth = ctx;
    return ++*depth <= JSON_MAX_DEPTH;
}

static int shallower(void *ctx)
{
    unsigned *depth = ctx;
    --*depth;
    return 1;
}

const char *json_fault(const char *json, size_t len)
{
    static const yajl_callbacks callbacks = {
        .yajl_start_map = deeper, .yajl_end_map = shallower, .yajl_start_array = deeper, .yajl_end_array = shallower};
    unsigned depth = 0;
    /* yajl takes these for blanks; JSON has them nowhere. */
    if (len > 0 && (memchr(json, '\v', len) != NULL || memchr(json, '\f', len) != NULL))
        return "not JSON";
    yajl_handle y = yajl_alloc(&callbacks, NULL, &depth);
    if (y == NULL)
        return "out of memory";
    yajl_status st = yajl_parse(y, (const unsigned char *)json, len);
    /* yajl forgets a token behind the value that never ends, {}"a for one; a line's end ends it, one way or the other.
     */
    if (st == yajl_status_ok)
        st = yajl_parse(y, (const unsigned char *)"\n", 1);
    if (st == yajl_status_ok)
        st = yajl_complete_parse(y);
    yajl_free(y);
    if (st == yajl_status_ok)
        return NULL;
    return depth > JSON_MAX_DEPTH ? "nested deeper than 64 levels" : "not JSON";
}

/* ------------------------------------------------------------ walking */

static size_t skip_space(const char *json, size_t len, size_t at)
{
    while (at < len && (json[at] == ' ' || json[at] == '\t' || json[at] == '\n' || json[at] == '\r'))
        at++;
    return at;
}

/* Just behind the string whose opening quote is at `at`; len when it never ends. */
static size_t skip_string(const char *json, size_t len, size_t at)
{
    for (at++; at < len; at++) {
        if (json[at] == '\\')
            at++;
        else if (json[at] == '"')
            return at + 1;
    }
    return len;
}

/* Just behind the value at `at`: by its brackets alone, without a stack. */
static size_t skip_value(const char *json, size_t len, size_t at)
{
    size_t depth = 0;
    while (at < len) {
        char c = json[at];
        if (c == '"') {
            at = skip_string(json, len, at);
        } else if (c == '{' || c == '[') {
            depth++;
            at++;
        } else if (c == '}' || c == ']') {
            if (depth == 0)
                return at;
            depth--;
            at++;
        } else if (depth == 0 && (c == ',' || c == ':' || c == ' ' || c == '\n' || c == '\r' || c == '\t')) {
            return at;
        } else {
            at++;
            continue;
        }
        if (depth == 0)
            return at;
    }
    return len;
}

bool json_array_next(const char *json, size_t len, size_t *at, struct json_span *value)
{
    size_t i = skip_space(json, len, *at);
    if (i >= len || json[i] != (*at == 0 ? '[' : ','))
        return false;
    i = skip_space(json, len, i + 1);
    size_t end = skip_value(json, len, i);
    if (end == i || end >= len) /* an empty array, or one that never ends */
        return false;
    *value = (struct json_span){.data = json + i, .len = end - i};
    *at = end;
    return true;
}

bool json_object_next(const char *json, size_t len, size_t *at, struct json_span *key, struct json_span *value)
{
    size_t i = skip_space(json, len, *at);
    if (i >= len || json[i] != (*at == 0 ? '{' : ','))
        return false;
    i = skip_space(json, len, i + 1);
    if (i >= len || json[i] != '"')
        return false;
    size_t end = skip_string(json, len, i);
    *key = (struct json_span){.data = json + i, .len = end - i};
    i = skip_space(json, len, end);
    if (i >= len || json[i] != ':')
        return false;
    i = skip_space(json, len, i + 1);
    end = skip_value(json, len, i);
    if (end == i || end >= len)
        return false;
    *value = (struct json_span){.data = json + i, .len = end - i};
    *at = end;
    return true;
}

bool json_find(const char *json, size_t len, const char *key, struct json_span *value)
{
    const size_t keylen = strlen(key);
    struct json_span k, v;
    bool found = false;
    for (size_t at = 0; json_object_next(json, len, &at, &k, &v);) {
        if (json_equals(&k, key, keylen)) {
            *value = v;
            found = true;
        }
    }
    return found;
}

bool json_member(const char *json, size_t len, const char *key, struct json_span *value)
{
    struct json_span v;
    if (!json_find(json, len, key, &v) || !json_is_string(&v))
        return false;
    *value = (struct json_span){.data = v.data + 1, .len = v.len - 2};
    return true;
}

/* ------------------------------------------------------------ strings */

bool json_is_string(const struct json_span *v)
{
    return v->len >= 2 && v->data[0] == '"' && v->data[v->len - 1] == '"';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Four digits at s; -1: there are none. */
static long hex4(const char *s, size_t left)
{
    long code = 0;
    for (size_t i = 0; i < 4; i++) {
        int d = i < left ? hex_value(s[i]) : -1;
        if (d < 0)
            return -1;
        code = code * 16 + d;
    }
    return code;
}

static size_t utf8_put(char out[4], unsigned long c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* The character that the escape at s (behind its backslash) stands for; *used bytes of s. 0: it is unreadable. A lone
 * surrogate is U+FFFD, as no UTF-8 has it. */
static size_t unescape(const char *s, size_t left, char out[4], size_t *used)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    *used = 1;
    if (left == 0)
        return 0;
    if (s[0] != 'u') {
        const char *at = memchr(from, s[0], sizeof(from) - 1);
        if (at == NULL)
            return 0;
        out[0] = to[at - from];
        return 1;
    }
    long code = hex4(s + 1, left - 1);
    if (code < 0)
        return 0;
    *used = 5;
    if (code >= 0xd800 && code <= 0xdbff && left >= 7 && s[5] == '\\' && s[6] == 'u') {
        long low = hex4(s + 7, left - 7);
        if (low >= 0xdc00 && low <= 0xdfff) {
            *used = 11;
            return utf8_put(out, 0x10000ul + ((unsigned long)(code - 0xd800) << 10) + (unsigned long)(low - 0xdc00));
        }
    }
    return utf8_put(out, code >= 0xd800 && code <= 0xdfff ? 0xfffdul : (unsigned long)code);
}

/* Hands out what the string says, piece by piece. False at its end; *bad: it can't be read. */
static bool string_next(const struct json_span *v, size_t *at, char small[4], struct json_span *piece, bool *bad)
{
    const size_t end = v->len - 1;
    if (*at >= end)
        return false;
    const char *s = v->data + *at;
    if (*s != '\\') {
        const char *stop = memchr(s, '\\', end - *at);
        *piece = (struct json_span){.data = s, .len = stop != NULL ? (size_t)(stop - s) : end - *at};
        *at += piece->len;
        return true;
    }
    size_t used, n = unescape(s + 1, end - *at - 1, small, &used);
    *bad = n == 0;
    *piece = (struct json_span){.data = small, .len = n};
    *at += 1 + used;
    return n > 0;
}

bool json_equals(const struct json_span *v, const char *text, size_t len)
{
    struct json_span piece;
    char small[4];
    bool bad = false;
    size_t at = 1;
    if (!json_is_string(v))
        return false;
    while (string_next(v, &at, small, &piece, &bad)) {
        if (piece.len > len || memcmp(piece.data, text, piece.len) != 0)
            return false;
        text += piece.len;
        len -= piece.len;
    }
    return !bad && len == 0;
}

bool json_decode(const struct json_span *v, char *out, size_t size)
{
    struct json_span piece;
    char small[4];
    bool bad = false;
    size_t at = 1, len = 0;
    if (!json_is_string(v))
        return false;
    while (string_next(v, &at, small, &piece, &bad)) {
        if (piece.len >= size - len || memchr(piece.data, '\0', piece.len) != NULL)
            return false;
        memcpy(out + len, piece.data, piece.len);
        len += piece.len;
    }
    out[len] = '\0';
    return !bad;
}

char *json_string(const struct json_span *v)
{
    char *out = json_is_string(v) ? malloc(v->len) : NULL; /* it only gets shorter */
    if (out != NULL && !json_decode(v, out, v->len)) {
        free(out);
        return NULL;
    }
    return out;
}

size_t utf8_length(const char *s)
{
    size_t n = 0;
    for (; *s != '\0'; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}
