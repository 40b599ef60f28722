#include "text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void kit_text_free(struct kit_text *t)
{
    free(t->data);
    *t = (struct kit_text){.max = t->max};
}

static void fail(struct kit_text *t)
{
    kit_text_free(t);
    t->failed = true;
}

void *kit_text_grow(struct kit_text *t, size_t len)
{
    if (t->failed)
        return NULL;
    if (len > SIZE_MAX / 4 - t->len || (t->max != 0 && t->len + len > t->max)) {
        fail(t);
        return NULL;
    }
    if (t->cap - t->len <= len) {
        /* A large piece is usually the last one. */
        size_t cap = t->len + len + 1 + (len < 65536 ? t->len + len : 1024);
        char *grown = realloc(t->data, cap);
        if (grown == NULL) {
            fail(t);
            return NULL;
        }
        t->data = grown;
        t->cap = cap;
    }
    char *at = t->data + t->len;
    t->len += len;
    t->data[t->len] = '\0';
    return at;
}

void kit_text_add(struct kit_text *t, const void *data, size_t len)
{
    void *at = kit_text_grow(t, len);
    if (at != NULL && len > 0)
        memcpy(at, data, len);
}

void kit_text_adds(struct kit_text *t, const char *s)
{
    kit_text_add(t, s, strlen(s));
}

void kit_text_addf(struct kit_text *t, const char *fmt, ...)
{
    char small[256];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(small, sizeof(small), fmt, ap);
    va_end(ap);
    if (n < 0) {
        fail(t);
        return;
    }
    if ((size_t)n < sizeof(small)) {
        kit_text_add(t, small, (size_t)n);
        return;
    }
    char *at = kit_text_grow(t, (size_t)n);
    if (at == NULL)
        return;
    va_start(ap, fmt);
    vsnprintf(at, (size_t)n + 1, fmt, ap);
    va_end(ap);
}

/* Length of the UTF-8 character at p; 0: none. */
static size_t utf8_char(const unsigned char *p, size_t len)
{
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xc2 && p[0] <= 0xdf ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4 : 0;
    if (n == 0 || n > len)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    bool overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
    bool surrogate = p[0] == 0xed && p[1] > 0x9f;
    return overlong || surrogate || (p[0] == 0xf4 && p[1] > 0x8f) ? 0 : n;
}

void kit_text_add_json(struct kit_text *t, const char *s, size_t len)
{
    kit_text_add(t, "\"", 1);
    for (size_t i = 0; i < len;) {
        const unsigned char *p = (const unsigned char *)s + i;
        size_t n = utf8_char(p, len - i);
        if (n == 0) {
            kit_text_adds(t, "\\ufffd");
            n = 1;
        } else if (*p == '"' || *p == '\\') {
            const char esc[2] = {'\\', (char)*p};
            kit_text_add(t, esc, 2);
        } else if (*p < 0x20 || *p == 0x7f) {
            kit_text_addf(t, "\\u%04x", *p);
        } else {
            kit_text_add(t, p, n);
        }
        i += n;
    }
    kit_text_add(t, "\"", 1);
}

void kit_text_add_number(struct kit_text *t, double d)
{
    char digits[40];
    if (!isfinite(d)) {
        kit_text_adds(t, "null");
        return;
    }
    for (int precision = 6; precision <= 17; precision++) {
        snprintf(digits, sizeof(digits), "%.*g", precision, d);
        if (strtod(digits, NULL) == d)
            break;
    }
    kit_text_adds(t, digits);
}
