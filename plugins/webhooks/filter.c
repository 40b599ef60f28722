/*
 * Which events an endpoint wants: by type, and by what stands in them. A filter is an object, path to wanted value:
 * {"order.state": "paid"}. The pieces of a path lead through objects by key and through arrays by number; the value is
 * a string, number, true, false or null, and all must match.
 */
#include <stdlib.h>
#include <string.h>

#include "webhooks.h"

#define MAX_CONDITIONS 32

struct condition {
    char *path; /* its pieces, each ended by NUL */
    size_t pieces;
    char *text; /* of a string, decoded; else as it is written */
    bool string;
};

struct filter {
    size_t n;
    struct condition at[MAX_CONDITIONS];
};

bool event_wanted(const char *const *patterns, const char *type)
{
    for (; patterns != NULL && *patterns != NULL; patterns++) {
        const char *p = *patterns;
        size_t len = strlen(p);
        if (strcmp(p, "*") == 0 || strcmp(p, type) == 0)
            return true;
        /* "order.*": what begins with "order." and goes on. */
        if (len > 2 && p[len - 1] == '*' && p[len - 2] == '.' && strncmp(p, type, len - 1) == 0 &&
            type[len - 1] != '\0')
            return true;
    }
    return false;
}

void filter_free(struct filter **fp)
{
    struct filter *f = *fp;
    *fp = NULL;
    for (size_t i = 0; f != NULL && i < f->n; i++) {
        free(f->at[i].path);
        free(f->at[i].text);
    }
    free(f);
}

static bool condition_read(struct condition *c, const struct json_span *key, const struct json_span *value)
{
    c->path = json_string(key);
    c->string = json_is_string(value);
    c->text = c->string ? json_string(value) : strndup(value->data, value->len);
    if (c->path == NULL || c->text == NULL || value->data[0] == '{' || value->data[0] == '[')
        return false;
    c->pieces = 1;
    for (char *p = c->path; *p != '\0'; p++) {
        if (*p == '.') {
            *p = '\0';
            c->pieces++;
        }
    }
    return true;
}

struct filter *filter_new(const char *text, bool *ok)
{
    const size_t len = strlen(text);
    *ok = len == 0;
    if (len == 0)
        return NULL;
    struct filter *f = calloc(1, sizeof(*f));
    if (f == NULL || json_fault(text, len) != NULL || text[strspn(text, " \t\r\n")] != '{') {
        free(f);
        return NULL;
    }
    struct json_span key, value;
    *ok = true;
    for (size_t at = 0; *ok && json_object_next(text, len, &at, &key, &value);) {
        *ok = f->n < MAX_CONDITIONS;
        if (*ok)
            *ok = condition_read(&f->at[f->n++], &key, &value);
    }
    if (!*ok || f->n == 0)
        filter_free(&f);
    return f;
}

/* One step down. */
static bool step(struct json_span from, const char *piece, struct json_span *to)
{
    if (from.data[0] == '{')
        return json_find(from.data, from.len, piece, to);
    if (from.data[0] != '[' || *piece == '\0' || strspn(piece, "0123456789") != strlen(piece) || strlen(piece) > 6)
        return false;
    size_t at = 0;
    unsigned long i = strtoul(piece, NULL, 10);
    do {
        if (!json_array_next(from.data, from.len, &at, to))
            return false;
    } while (i-- > 0);
    return true;
}

static bool is_number(const char *s)
{
    return *s == '-' || (*s >= '0' && *s <= '9');
}

/* 1 and 1.0 and 10e-1 are the same number. Two that are written as integers were compared as they are written: a double
 * would take neighbours beyond 2^53 for equal. */
static bool numbers_equal(const struct json_span *v, const char *text)
{
    char have[64];
    if (v->len >= sizeof(have) || !is_number(v->data))
        return false;
    memcpy(have, v->data, v->len);
    have[v->len] = '\0';
    if (strpbrk(have, ".eE") == NULL && strpbrk(text, ".eE") == NULL)
        return false;
    return strtod(have, NULL) == strtod(text, NULL);
}

static bool condition_holds(const struct condition *c, struct json_span v)
{
    const char *piece = c->path;
    for (size_t i = 0; i < c->pieces; i++, piece += strlen(piece) + 1) {
        if (!step(v, piece, &v))
            return false;
    }
    const size_t len = strlen(c->text);
    if (c->string)
        return json_equals(&v, c->text, len);
    if (v.len == len && memcmp(v.data, c->text, len) == 0)
        return true;
    return is_number(c->text) && numbers_equal(&v, c->text);
}

bool filter_matches(const struct filter *f, const char *json, size_t len)
{
    struct json_span whole = {.data = json, .len = len};
    while (whole.len > 0 && strchr(" \t\r\n", *whole.data) != NULL) {
        whole.data++;
        whole.len--;
    }
    for (size_t i = 0; f != NULL && i < f->n; i++) {
        if (whole.len == 0 || !condition_holds(&f->at[i], whole))
            return false;
    }
    return true;
}
