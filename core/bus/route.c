/* The route table: a flat array. A few dozen entries at most, compared by length first. */
#include "bus/route.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"

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
    omid_assert(route->handler != NULL && route->handler->opened != NULL && route->handler->closed != NULL);
    omid_assert(route->method != NULL || route->handler->message != NULL);
    omid_assert((route->hold == NULL) == (route->release == NULL));
    for (size_t i = 0; i < r->n; i++)
        if (strcmp(r->item[i].path, route->path) == 0 && same_method(r->item[i].method, route->method))
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

static bool path_is(const struct route *route, const char *path, size_t len)
{
    return strncmp(route->path, path, len) == 0 && route->path[len] == '\0';
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
    for (size_t i = 0; i < r->n; i++) {
        const struct route *route = &r->item[i];
        if (!path_is(route, path, path_len))
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
    for (size_t i = 0; i < r->n; i++) {
        const struct route *route = &r->item[i];
        if (!path_is(route, path, path_len))
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
