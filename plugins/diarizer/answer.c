#include "answer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

#define MAX_DEPTH 16
#define MAX_NUMBER 64 /* characters of one */

struct reading {
    float *vector;
    size_t n, cap;
    unsigned depth;
    unsigned at;       /* depth of the array that is the vector, while in it; 0: not in it */
    bool found;        /* the vector is complete */
    bool key;          /* the next value is the member "embedding" of the outer object */
    bool object;       /* the outer value is one */
    const char *fault; /* static; NULL: none so far */
};

static int fail(struct reading *r, const char *what)
{
    r->fault = what;
    return 0;
}

/* Any value but the array that is looked for. */
static int other(struct reading *r)
{
    if (r->at != 0)
        return fail(r, "a value of the vector is no number");
    if (r->key)
        return fail(r, "\"embedding\" is no array");
    return r->depth == 0 ? fail(r, "it is neither an array nor an object") : 1;
}

static int on_null(void *ctx)
{
    return other(ctx);
}

static int on_bool(void *ctx, int value)
{
    (void)value;
    return other(ctx);
}

static int on_string(void *ctx, const unsigned char *s, size_t len)
{
    (void)s;
    (void)len;
    return other(ctx);
}

static int on_number(void *ctx, const char *s, size_t len)
{
    struct reading *r = ctx;
    char text[MAX_NUMBER + 1];
    if (r->at == 0)
        return other(r);
    if (len > MAX_NUMBER)
        return fail(r, "a number of the vector is too long");
    if (r->n >= ANSWER_MAX_VALUES)
        return fail(r, "the vector has more than 65536 values");
    memcpy(text, s, len);
    text[len] = '\0';
    float f = strtof(text, NULL);
    if (!isfinite(f))
        return fail(r, "a value of the vector is too large");
    if (r->n == r->cap) {
        size_t cap = r->cap > 0 ? r->cap * 2 : 256;
        float *more = realloc(r->vector, cap * sizeof(*more));
        if (more == NULL)
            return fail(r, "no memory");
        r->vector = more;
        r->cap = cap;
    }
    r->vector[r->n++] = f;
    return 1;
}

static int deeper(struct reading *r)
{
    return ++r->depth > MAX_DEPTH ? fail(r, "it is nested too deep") : 1;
}

static int on_array(void *ctx)
{
    struct reading *r = ctx;
    if (r->at != 0)
        return other(r);
    if (r->depth == 0 || r->key) {
        r->at = r->depth + 1;
        r->n = 0; /* of a key that comes twice the last counts */
        r->key = false;
    }
    return deeper(r);
}

static int on_array_end(void *ctx)
{
    struct reading *r = ctx;
    if (r->at == r->depth) {
        r->at = 0;
        r->found = true;
    }
    r->depth--;
    return 1;
}

static int on_object(void *ctx)
{
    struct reading *r = ctx;
    if (r->at != 0 || r->key)
        return other(r);
    r->object = r->object || r->depth == 0;
    return deeper(r);
}

static int on_key(void *ctx, const unsigned char *s, size_t len)
{
    struct reading *r = ctx;
    r->key = r->depth == 1 && len == 9 && memcmp(s, "embedding", 9) == 0;
    return 1;
}

static int on_object_end(void *ctx)
{
    ((struct reading *)ctx)->depth--;
    return 1;
}

static const char *check(const struct reading *r)
{
    if (!r->found)
        return r->object ? "it has no \"embedding\"" : "it is neither an array nor an object";
    if (r->n < ANSWER_MIN_VALUES)
        return "the vector has fewer than 2 values";
    for (size_t i = 0; i < r->n; i++) {
        if (r->vector[i] != 0)
            return NULL;
    }
    return "the vector is all zeros";
}

bool answer_vector(const char *body, size_t len, float **vector, size_t *n, char *err, size_t errlen)
{
    static const yajl_callbacks callbacks = {
        .yajl_null = on_null,
        .yajl_boolean = on_bool,
        .yajl_number = on_number,
        .yajl_string = on_string,
        .yajl_start_map = on_object,
        .yajl_map_key = on_key,
        .yajl_end_map = on_object_end,
        .yajl_start_array = on_array,
        .yajl_end_array = on_array_end,
    };
    struct reading r = {.vector = NULL};
    yajl_handle h = yajl_alloc(&callbacks, NULL, &r);
    const char *fault = "no memory";
    if (h != NULL) {
        yajl_status st = yajl_parse(h, (const unsigned char *)body, len);
        if (st == yajl_status_ok)
            st = yajl_complete_parse(h);
        fault = r.fault;
        if (fault == NULL)
            fault = st == yajl_status_ok ? check(&r) : "it is not JSON";
        yajl_free(h);
    }
    if (fault != NULL) {
        snprintf(err, errlen, "%s", fault);
        free(r.vector);
        return false;
    }
    *vector = r.vector;
    *n = r.n;
    return true;
}
