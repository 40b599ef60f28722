/* What little JSON the webhooks need: spans of what the daemon itself wrote, and one string of a stranger's answer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_tree.h>

#include "webhooks.h"

#define MAX_DEPTH 64

void text_add(struct text *t, const char *data, size_t len)
{
    if (t->failed)
        return;
    if (t->cap - t->len <= len) {
        size_t cap = (t->cap + len + 1) * 2;
        char *grown = realloc(t->data, cap);
        if (grown == NULL) {
            free(t->data);
            *t = (struct text){.failed = true};
            return;
        }
        t->data = grown;
        t->cap = cap;
    }
    memcpy(t->data + t->len, data, len);
    t->len += len;
    t->data[t->len] = '\0';
}

void text_adds(struct text *t, const char *s)
{
    text_add(t, s, strlen(s));
}

void text_add_quoted(struct text *t, const char *s)
{
    text_add(t, "\"", 1);
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') {
            const char esc[2] = {'\\', (char)c};
            text_add(t, esc, 2);
        } else if (c < 0x20 || c == 0x7f) {
            char esc[8];
            int n = snprintf(esc, sizeof(esc), "\\u%04x", c);
            text_add(t, esc, (size_t)n);
        } else {
            text_add(t, s, 1);
        }
    }
    text_add(t, "\"", 1);
}

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

bool json_member(const char *json, size_t len, const char *key, struct json_span *value)
{
    const size_t keylen = strlen(key);
    size_t i = skip_space(json, len, 0);
    if (i >= len || json[i] != '{')
        return false;
    do {
        i = skip_space(json, len, i + 1);
        if (i >= len || json[i] != '"')
            return false;
        size_t end = skip_string(json, len, i);
        bool ours = end - i == keylen + 2 && memcmp(json + i + 1, key, keylen) == 0;
        i = skip_space(json, len, end);
        if (i >= len || json[i] != ':')
            return false;
        i = skip_space(json, len, i + 1);
        end = skip_value(json, len, i);
        if (ours) {
            if (end - i < 2 || json[i] != '"')
                return false;
            *value = (struct json_span){.data = json + i + 1, .len = end - i - 2};
            return true;
        }
        i = skip_space(json, len, end);
    } while (i < len && json[i] == ',');
    return false;
}

/* yajl's tree recurses when it is freed: the depth is bounded before it is built. */
static bool depth_ok(const char *json, size_t len)
{
    size_t depth = 0;
    for (size_t i = 0; i < len; i++) {
        if (json[i] == '"') {
            i = skip_string(json, len, i) - 1;
        } else if (json[i] == '{' || json[i] == '[') {
            if (++depth > MAX_DEPTH)
                return false;
        } else if ((json[i] == '}' || json[i] == ']') && depth > 0) {
            depth--;
        }
    }
    return true;
}

char *json_object_string(const char *json, size_t len, const char *key, bool *bad)
{
    /* yajl reads up to the first NUL: bytes behind one are no JSON. */
    *bad = len == 0 || memchr(json, '\0', len) != NULL || !depth_ok(json, len);
    if (*bad)
        return NULL;
    char err[8];
    yajl_val tree = yajl_tree_parse(json, err, sizeof(err));
    const char *path[] = {key, NULL};
    yajl_val v = tree != NULL ? yajl_tree_get(tree, path, yajl_t_string) : NULL;
    const char *string = YAJL_GET_STRING(v);
    char *copy = string != NULL ? strdup(string) : NULL;
    *bad = tree == NULL;
    yajl_tree_free(tree);
    return copy;
}

size_t utf8_length(const char *s)
{
    size_t n = 0;
    for (; *s != '\0'; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}
