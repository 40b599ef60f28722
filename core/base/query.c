#include "base/query.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Decodes in[0..len) to out with a NUL behind it; the length, or -1 for a bad escape. */
static ptrdiff_t decode(const char *in, size_t len, bool plus, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (plus && in[i] == '+') {
            out[n++] = ' ';
        } else if (in[i] != '%') {
            out[n++] = in[i];
        } else {
            int high = i + 2 < len ? hex(in[i + 1]) : -1, low = i + 2 < len ? hex(in[i + 2]) : -1;
            if (high < 0 || low < 0)
                return -1;
            out[n++] = (char)(high << 4 | low);
            i += 2;
        }
    }
    out[n] = 0;
    return (ptrdiff_t)n;
}

/* A piece of a path (without `plus`) or a query; advances *to behind its NUL. NULL: a fault. */
static char *piece_of(const char *in, size_t len, bool plus, char **to, const char **why)
{
    char *out = *to;
    ptrdiff_t n = decode(in, len, plus, out);
    if (n < 0)
        *why = "bad percent escape";
    else if (memchr(out, 0, (size_t)n))
        *why = "holds a NUL byte";
    else if (!utf8_valid(out, (size_t)n))
        *why = "not UTF-8";
    else {
        *to += n + 1;
        return out;
    }
    return NULL;
}

static char *piece(const char *in, size_t len, char **to, const char **why)
{
    return piece_of(in, len, true, to, why);
}

const char *query_path_piece(const char *text, size_t len, char *out)
{
    const char *why = NULL;
    (void)piece_of(text, len, false, &out, &why);
    return why;
}

/* One name=value of text[0..n), n > 0. NULL, or why not. */
static const char *param_parse(struct query *q, const char *text, size_t n, char **to)
{
    if (q->n == QUERY_MAX_PARAMS)
        return "too many parameters";
    const char *why = NULL, *eq = memchr(text, '=', n);
    size_t name_len = eq ? (size_t)(eq - text) : n;
    struct query_param *param = &q->params[q->n];
    param->name = piece(text, name_len, to, &why);
    if (!why)
        param->value = eq ? piece(eq + 1, n - name_len - 1, to, &why) : piece("", 0, to, &why);
    if (!why)
        q->n++;
    return why;
}

/* Names the parameter, or its place when the name is not one to repeat to people and logs. */
static void fault_say(char *err, size_t errlen, const char *text, size_t n, size_t place, const char *why)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    size_t len = 0;
    while (len < n && len <= 32 && text[len] && strchr(plain, text[len]))
        len++;
    if (len > 0 && len <= 32 && (len == n || text[len] == '='))
        snprintf(err, errlen, "%.*s: %s", (int)len, text, why);
    else
        snprintf(err, errlen, "query parameter %zu: %s", place, why);
}

bool query_parse(struct query *q, const char *text, size_t len, char *err, size_t errlen)
{
    *q = (struct query){0};
    if (errlen)
        err[0] = 0;
    char *to = q->storage = malloc(len + 2 * QUERY_MAX_PARAMS + 2); /* decoded is never longer; a NUL each */
    if (!to) {
        snprintf(err, errlen, "no memory");
        return false;
    }
    for (size_t at = 0; at < len;) {
        const char *p = text + at, *amp = memchr(p, '&', len - at);
        size_t n = amp ? (size_t)(amp - p) : len - at;
        const char *why = n > 0 ? param_parse(q, p, n, &to) : NULL;
        if (why) {
            fault_say(err, errlen, p, n, q->n + 1, why);
            query_free(q);
            return false;
        }
        at += n + 1;
    }
    return true;
}

void query_free(struct query *q)
{
    free(q->storage);
    *q = (struct query){0};
}

const char *query_get(const struct query *q, const char *name)
{
    for (size_t i = q->n; i-- > 0;) {
        if (strcmp(q->params[i].name, name) == 0)
            return q->params[i].value;
    }
    return NULL;
}

static bool encode(struct buf *b, const char *s)
{
    static const char digits[] = "0123456789ABCDEF";
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-._~", c);
        char esc[3] = {'%', digits[c >> 4], digits[c & 15]};
        if (!(plain ? buf_append(b, s, 1) : buf_append(b, esc, 3)))
            return false;
    }
    return true;
}

bool query_append(struct buf *url, const char *name, const char *value)
{
    size_t cut = url->data ? strcspn(url->data, "#") : 0; /* a fragment stays last */
    const char *mark = cut ? memchr(url->data, '?', cut) : NULL;
    const char *join = !mark ? "?" : url->data[cut - 1] == '?' || url->data[cut - 1] == '&' ? "" : "&";
    struct buf part = BUF_INIT(url->max);
    bool ok = buf_puts(&part, join) && encode(&part, name) && buf_puts(&part, "=") && encode(&part, value) &&
              buf_reserve(url, part.len);
    if (ok) {
        memmove(url->data + cut + part.len, url->data + cut, url->len - cut + 1);
        memcpy(url->data + cut, part.data, part.len);
        url->len += part.len;
    }
    buf_free(&part);
    return ok;
}
