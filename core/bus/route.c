/* The route table: a flat array. A few dozen entries at most, compared by length first. */
#include "bus/route.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "base/query.h"

#define ROUTES_MAGIC UINT32_C(0x726f7574)
#define ROUTES_MAX 1024

struct routes {
    uint32_t magic;
    atomic_uint refs;
    struct route *item;
    size_t n, cap;
};

struct routes *routes_new(void)
{
    struct routes *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return NULL;
    r->magic = ROUTES_MAGIC;
    atomic_init(&r->refs, 1);
    return r;
}

struct routes *routes_ref(const struct routes *cr)
{
    CHECK_MAGIC(cr, ROUTES_MAGIC);
    struct routes *r = (struct routes *)(uintptr_t)cr;
    atomic_fetch_add(&r->refs, 1);
    return r;
}

void routes_free(struct routes **rp)
{
    struct routes *r = *rp;
    *rp = NULL;
    if (r == NULL)
        return;
    CHECK_MAGIC(r, ROUTES_MAGIC);
    if (atomic_fetch_sub(&r->refs, 1) > 1)
        return;
    for (size_t i = 0; i < r->n; i++)
        if (r->item[i].release != NULL)
            r->item[i].release(r->item[i].arg);
    r->magic = OMID_MAGIC_DEAD;
    free(r->item);
    free(r);
}

/* ------------------------------------------------------------ paths */

/* Length of the piece at p: up to the next '/' or the end. */
static size_t piece_len(const char *p, const char *end)
{
    const char *slash = memchr(p, '/', (size_t)(end - p));
    return slash != NULL ? (size_t)(slash - p) : (size_t)(end - p);
}

static bool is_param(const char *piece, size_t len)
{
    return len > 2 && piece[0] == '{' && piece[len - 1] == '}';
}

bool route_path_ok(const char *path)
{
    if (path == NULL || path[0] != '/')
        return false;
    size_t params = 0;
    const char *end = path + strlen(path);
    for (const char *p = path + 1; p <= end;) {
        size_t n = piece_len(p, end), inner = 0;
        if (is_param(p, n)) {
            params++;
            inner = 1;
        }
        for (size_t i = inner; i + inner < n; i++)
            if (p[i] == '{' || p[i] == '}')
                return false;
        p += n + 1;
    }
    return params <= ROUTE_PARAMS_MAX;
}

/* Does the path fit the pattern? `what` is told of each piece that the client filled; NULL: nobody. */
struct filled {
    const char *text[ROUTE_PARAMS_MAX], *name[ROUTE_PARAMS_MAX];
    size_t len[ROUTE_PARAMS_MAX], name_len[ROUTE_PARAMS_MAX];
    size_t n;
};
static bool fits(const char *pattern, const char *path, size_t len, struct filled *what)
{
    const char *pend = pattern + strlen(pattern), *end = path + len;
    for (;;) {
        size_t pn = piece_len(pattern, pend), n = piece_len(path, end);
        if (is_param(pattern, pn)) {
            if (n == 0)
                return false;
            if (what != NULL) {
                what->text[what->n] = path;
                what->len[what->n] = n;
                what->name[what->n] = pattern + 1;
                what->name_len[what->n++] = pn - 2;
            }
        } else if (pn != n || memcmp(pattern, path, n) != 0) {
            return false;
        }
        pattern += pn;
        path += n;
        if (pattern == pend || path == end)
            return pattern == pend && path == end;
        pattern++;
        path++;
    }
}

bool route_params(const struct route *route, const char *path, size_t path_len, char *params[ROUTE_PARAMS_MAX + 1],
                  char *err, size_t errlen)
{
    struct filled f = {.n = 0};
    for (size_t i = 0; i <= ROUTE_PARAMS_MAX; i++)
        params[i] = NULL;
    if (!fits(route->path, path, path_len, &f))
        return true;
    for (size_t i = 0; i < f.n; i++) {
        params[i] = malloc(f.len[i] + 1);
        const char *why = params[i] != NULL ? query_path_piece(f.text[i], f.len[i], params[i]) : "no memory";
        if (why != NULL) {
            snprintf(err, errlen, "%.*s: %s", (int)f.name_len[i], f.name[i], why);
            return false;
        }
    }
    return true;
}

/* Do two patterns fit the same paths? */
static bool same_path(const char *a, const char *b)
{
    const char *aend = a + strlen(a), *bend = b + strlen(b);
    for (;;) {
        size_t an = piece_len(a, aend), bn = piece_len(b, bend);
        if (is_param(a, an) != is_param(b, bn) || (!is_param(a, an) && (an != bn || memcmp(a, b, an) != 0)))
            return false;
        a += an;
        b += bn;
        if (a == aend || b == bend)
            return a == aend && b == bend;
        a++;
        b++;
    }
}

/* ------------------------------------------------------------ the table */

static bool same_method(const char *a, const char *b)
{
    if (a == NULL || b == NULL)
        return a == b;
    return strcmp(a, b) == 0;
}

bool routes_add(struct routes *r, const struct route *route)
{
    CHECK_MAGIC(r, ROUTES_MAGIC);
    omid_assert(route->path != NULL && route->path[0] == '/');
    if (!route_path_ok(route->path))
        return false;
    omid_assert(route->handler != NULL && route->handler->opened != NULL && route->handler->closed != NULL);
    omid_assert(route->method != NULL || route->handler->message != NULL);
    omid_assert((route->hold == NULL) == (route->release == NULL));
    for (size_t i = 0; i < r->n; i++)
        if (same_path(r->item[i].path, route->path) && same_method(r->item[i].method, route->method))
            return false;
    if (r->n == r->cap) {
        size_t cap = r->cap == 0 ? 16 : r->cap * 2;
        struct route *item = cap > ROUTES_MAX ? NULL : realloc(r->item, cap * sizeof(*item));
        if (item == NULL)
            return false;
        r->item = item;
        r->cap = cap;
    }
    if (route->hold != NULL)
        route->hold(route->arg);
    r->item[r->n++] = *route;
    return true;
}

bool routes_add_all(struct routes *r, const struct route *table, size_t n, void *arg)
{
    for (size_t i = 0; i < n; i++) {
        struct route route = table[i];
        route.arg = arg;
        if (!routes_add(r, &route))
            return false;
    }
    return true;
}

/* Which routes a path may mean: those of exactly this path; only when there are none, those whose pattern it fits. */
struct match {
    const char *path;
    size_t len;
    bool exact;
};

static bool is_exactly(const struct route *route, const char *path, size_t len)
{
    return strncmp(route->path, path, len) == 0 && route->path[len] == '\0';
}

static struct match match_of(const struct routes *r, const char *path, size_t len)
{
    struct match m = {.path = path, .len = len};
    for (size_t i = 0; i < r->n && !m.exact; i++)
        m.exact = is_exactly(&r->item[i], path, len);
    return m;
}

static bool path_is(const struct route *route, const struct match *m)
{
    return m->exact ? is_exactly(route, m->path, m->len) : fits(route->path, m->path, m->len, NULL);
}

static bool method_is(const char *method, const char *given, size_t len)
{
    return strlen(method) == len && memcmp(method, given, len) == 0;
}

const struct route *routes_find(const struct routes *r, const char *path, size_t path_len, const char *method,
                                size_t method_len, bool websocket, bool *other_method)
{
    CHECK_MAGIC(r, ROUTES_MAGIC);
    const struct route *get_for_head = NULL;
    bool head = method_len == 4 && memcmp(method, "HEAD", 4) == 0;

    *other_method = false;
    /* strncmp() would take a NUL within the path for its end. */
    if (path_len == 0 || memchr(path, '\0', path_len) != NULL)
        return NULL;
    const struct match m = match_of(r, path, path_len);
    for (size_t i = 0; i < r->n; i++) {
        const struct route *route = &r->item[i];
        if (!path_is(route, &m))
            continue;
        if (route->method == NULL) {
            if (websocket)
                return route;
            continue;
        }
        if (websocket)
            continue;
        if (method_is(route->method, method, method_len))
            return route;
        if (head && strcmp(route->method, "GET") == 0)
            get_for_head = route;
        *other_method = true;
    }
    if (get_for_head != NULL)
        *other_method = false;
    return get_for_head;
}

size_t routes_allow(const struct routes *r, const char *path, size_t path_len, char *out, size_t outlen)
{
    CHECK_MAGIC(r, ROUTES_MAGIC);
    size_t len = 0;

    omid_assert(outlen > 0);
    out[0] = '\0';
    if (path_len == 0 || memchr(path, '\0', path_len) != NULL)
        return 0;
    const struct match m = match_of(r, path, path_len);
    for (size_t i = 0; i < r->n; i++) {
        const struct route *route = &r->item[i];
        if (!path_is(route, &m))
            continue;
        const char *method = route->method == NULL ? "GET" : route->method;
        const char *head = route->method != NULL && strcmp(method, "GET") == 0 ? ", HEAD" : "";
        int n = snprintf(out + len, outlen - len, "%s%s%s", len > 0 ? ", " : "", method, head);
        if (n < 0 || (size_t)n >= outlen - len) {
            out[len] = '\0';
            break;
        }
        len += (size_t)n;
    }
    return len;
}
