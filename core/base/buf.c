#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"

#define MIN_CAP 64

char *buf_reserve(struct buf *b, size_t len)
{
    if (len > SIZE_MAX / 4 - b->len || (b->max && (b->len > b->max || len > b->max - b->len))) {
        b->failed = true;
        return NULL;
    }
    size_t need = b->len + len + 1; /* the NUL */
    if (need > b->cap) {
        size_t cap = b->cap ? b->cap : MIN_CAP;
        while (cap < need)
            cap += cap / 2 + 1;
        char *data = realloc(b->data, cap);
        if (!data) {
            b->failed = true;
            return NULL;
        }
        b->data = data;
        b->cap = cap;
    }
    b->data[b->len] = b->data[b->len + len] = 0;
    return b->data + b->len;
}

bool buf_append(struct buf *b, const void *data, size_t len)
{
    char *to = buf_reserve(b, len);
    if (!to)
        return false;
    if (len)
        memcpy(to, data, len);
    b->len += len;
    b->data[b->len] = 0;
    return true;
}

bool buf_puts(struct buf *b, const char *s)
{
    return buf_append(b, s, strlen(s));
}

bool buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *to = n < 0 ? NULL : buf_reserve(b, (size_t)n);
    if (!to) {
        b->failed = true;
        return false;
    }
    va_start(ap, fmt);
    vsnprintf(to, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
    return true;
}

void buf_consume(struct buf *b, size_t n)
{
    omid_assert(n <= b->len);
    if (n == 0)
        return;
    b->len -= n;
    memmove(b->data, b->data + n, b->len);
    b->data[b->len] = 0;
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = 0;
}

void buf_free(struct buf *b)
{
    free(b->data);
    *b = BUF_INIT(b->max);
}

char *buf_steal(struct buf *b, size_t *len)
{
    char *data = b->data ? b->data : calloc(1, 1);
    if (len)
        *len = b->len;
    *b = BUF_INIT(b->max);
    return data;
}
