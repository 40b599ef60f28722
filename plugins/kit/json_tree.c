/*
 * The tree of a text, in yajl's own structs, so that its macros read it. yajl's tree_parse() reads a text without any
 * bound, frees by recursion and allocates each value by itself. Here the text is read once, and what it holds lies in a
 * few chunks that go together.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

#include "json.h"

#define CHUNK_MIN 512u
#define CHUNK_MAX (64u << 10) /* larger only for a value that is */
#define BYTES_PER_BYTE 6      /* of a tree, for each of the text: usual answers need one chunk */

struct chunk {
    struct chunk *next;
    size_t size, used;
    _Alignas(struct yajl_val_s) char data[];
};

struct tree {
    struct yajl_val_s root; /* first: whoever has it has the tree */
    struct chunk *chunks;
    size_t chunk_size; /* of the next one */
};

/* A value whose object or array is not complete yet. */
struct child {
    const char *key; /* NULL in an array */
    yajl_val value;
};

struct level {
    yajl_val value; /* the object or array */
    size_t first;   /* of its children */
    const char *key;
};

struct reader {
    const struct kit_json_rules *rules;
    struct tree *tree;
    yajl_val root;
    struct level level[KIT_JSON_MAX_DEPTH];
    unsigned depth;
    struct child *children; /* of all levels, the innermost last */
    size_t n_children, room;
    bool deep, nul, memory;
};

/* ---- memory ---- */

static void *take(struct tree *t, size_t size)
{
    const size_t align = _Alignof(struct yajl_val_s);
    struct chunk *c = t->chunks;
    size = (size + align - 1) / align * align;
    if (c == NULL || size > c->size - c->used) {
        size_t room = size > t->chunk_size ? size : t->chunk_size;
        c = malloc(sizeof(*c) + room);
        if (c == NULL)
            return NULL;
        *c = (struct chunk){.next = t->chunks, .size = room};
        t->chunks = c;
        t->chunk_size = t->chunk_size < CHUNK_MAX / 2 ? t->chunk_size * 2 : CHUNK_MAX;
    }
    void *at = c->data + c->used;
    c->used += size;
    return at;
}

static struct tree *tree_new(size_t len)
{
    struct tree *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return NULL;
    t->chunk_size = len < CHUNK_MAX / BYTES_PER_BYTE ? len * BYTES_PER_BYTE : CHUNK_MAX;
    t->chunk_size = t->chunk_size > CHUNK_MIN ? t->chunk_size : CHUNK_MIN;
    return t;
}

static void tree_free(struct tree *t)
{
    for (struct chunk *c = t->chunks, *next; c != NULL; c = next) {
        next = c->next;
        free(c);
    }
    free(t);
}

void kit_json_free(yajl_val *v)
{
    if (*v != NULL)
        tree_free((struct tree *)*v);
    *v = NULL;
}

/* ---- values ---- */

static int out_of_memory(struct reader *r)
{
    r->memory = true;
    return 0;
}

static char *text_copy(struct reader *r, const void *s, size_t len)
{
    char *copy = take(r->tree, len + 1);
    if (copy == NULL)
        return NULL;
    memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

static bool child_add(struct reader *r, yajl_val v)
{
    if (r->n_children == r->room) {
        size_t room = r->room > 0 ? r->room * 2 : 32;
        struct child *more = realloc(r->children, room * sizeof(*more));
        if (more == NULL)
            return false;
        r->children = more;
        r->room = room;
    }
    r->children[r->n_children++] = (struct child){.key = r->level[r->depth - 1].key, .value = v};
    return true;
}

/* In its place, and still empty. NULL: no memory. */
static yajl_val value_add(struct reader *r, yajl_type type)
{
    yajl_val v = take(r->tree, sizeof(*v));
    if (v == NULL || (r->depth > 0 && !child_add(r, v)))
        return NULL;
    *v = (struct yajl_val_s){.type = type};
    if (r->depth == 0)
        r->root = v;
    return v;
}

static int on_null(void *ctx)
{
    struct reader *r = ctx;
    return value_add(r, yajl_t_null) != NULL || out_of_memory(r);
}

static int on_boolean(void *ctx, int b)
{
    struct reader *r = ctx;
    return value_add(r, b ? yajl_t_true : yajl_t_false) != NULL || out_of_memory(r);
}

static int on_number(void *ctx, const char *s, size_t len)
{
    struct reader *r = ctx;
    yajl_val v = value_add(r, yajl_t_number);
    char *digits = v != NULL ? text_copy(r, s, len) : NULL, *end;
    if (digits == NULL)
        return out_of_memory(r);
    v->u.number.r = digits;
    v->u.number.d = strtod(digits, NULL);
    if (isfinite(v->u.number.d))
        v->u.number.flags |= YAJL_NUMBER_DOUBLE_VALID;
    errno = 0;
    v->u.number.i = strtoll(digits, &end, 10);
    if (*end == '\0' && errno == 0)
        v->u.number.flags |= YAJL_NUMBER_INT_VALID;
    return 1;
}

static bool text_refused(struct reader *r, const unsigned char *s, size_t len)
{
    r->nul = r->nul || (!r->rules->nul_cuts && memchr(s, '\0', len) != NULL);
    return r->nul;
}

static int on_string(void *ctx, const unsigned char *s, size_t len)
{
    struct reader *r = ctx;
    if (text_refused(r, s, len))
        return 0;
    yajl_val v = value_add(r, yajl_t_string);
    if (v != NULL)
        v->u.string = text_copy(r, s, len);
    return (v != NULL && v->u.string != NULL) || out_of_memory(r);
}

static int on_key(void *ctx, const unsigned char *s, size_t len)
{
    struct reader *r = ctx;
    if (text_refused(r, s, len))
        return 0;
    const char *key = text_copy(r, s, len);
    r->level[r->depth - 1].key = key;
    return key != NULL || out_of_memory(r);
}

static int level_open(struct reader *r, yajl_type type)
{
    r->deep = r->depth == r->rules->max_depth;
    if (r->deep)
        return 0;
    yajl_val v = value_add(r, type);
    if (v == NULL)
        return out_of_memory(r);
    r->level[r->depth++] = (struct level){.value = v, .first = r->n_children};
    return 1;
}

static int on_object(void *ctx)
{
    return level_open(ctx, yajl_t_object);
}

static int on_array(void *ctx)
{
    return level_open(ctx, yajl_t_array);
}

static int on_object_end(void *ctx)
{
    struct reader *r = ctx;
    const struct level *l = &r->level[--r->depth];
    size_t n = r->n_children - l->first;
    const char **keys = take(r->tree, n * sizeof(*keys));
    yajl_val *values = take(r->tree, n * sizeof(*values));
    if (keys == NULL || values == NULL)
        return out_of_memory(r);
    for (size_t i = 0; i < n; i++) {
        keys[i] = r->children[l->first + i].key;
        values[i] = r->children[l->first + i].value;
    }
    l->value->u.object.keys = keys;
    l->value->u.object.values = values;
    l->value->u.object.len = n;
    r->n_children = l->first;
    return 1;
}

static int on_array_end(void *ctx)
{
    struct reader *r = ctx;
    const struct level *l = &r->level[--r->depth];
    size_t n = r->n_children - l->first;
    yajl_val *values = take(r->tree, n * sizeof(*values));
    if (values == NULL)
        return out_of_memory(r);
    for (size_t i = 0; i < n; i++)
        values[i] = r->children[l->first + i].value;
    l->value->u.array.values = values;
    l->value->u.array.len = n;
    r->n_children = l->first;
    return 1;
}

/* ---- reading ---- */

static bool text_read(struct reader *r, const char *text, size_t len, struct kit_fault *f)
{
    static const yajl_callbacks callbacks = {.yajl_null = on_null,
                                             .yajl_boolean = on_boolean,
                                             .yajl_number = on_number,
                                             .yajl_string = on_string,
                                             .yajl_start_map = on_object,
                                             .yajl_map_key = on_key,
                                             .yajl_end_map = on_object_end,
                                             .yajl_start_array = on_array,
                                             .yajl_end_array = on_array_end};
    yajl_handle h = yajl_alloc(&callbacks, NULL, r);
    if (h == NULL) {
        kit_fault_set(f, "out of memory");
        return false;
    }
    bool ok =
        yajl_parse(h, (const unsigned char *)text, len) == yajl_status_ok && yajl_complete_parse(h) == yajl_status_ok;
    size_t at = yajl_get_bytes_consumed(h);
    yajl_free(h);
    if (r->deep)
        kit_fault_set(f, "more than %u levels of JSON", r->rules->max_depth);
    else if (r->nul)
        kit_fault_set(f, "a string with a NUL in it");
    else if (r->memory)
        kit_fault_set(f, "out of memory");
    else if (!ok)
        kit_fault_set(f, "no JSON, from byte %zu of %zu on", at, len);
    return ok;
}

yajl_val kit_json_read(const char *text, size_t len, const struct kit_json_rules *rules, struct kit_fault *f)
{
    if (len == 0 || text == NULL) {
        kit_fault_set(f, "no JSON: it is empty");
        return NULL;
    }
    if (len > rules->max) {
        kit_fault_set(f, "%zu bytes, more than the %zu that are read", len, rules->max);
        return NULL;
    }
    struct reader r = {.rules = rules, .tree = tree_new(len)};
    if (r.tree == NULL) {
        kit_fault_set(f, "out of memory");
        return NULL;
    }
    bool ok = text_read(&r, text, len, f);
    free(r.children);
    if (!ok) {
        tree_free(r.tree);
        return NULL;
    }
    r.tree->root = *r.root;
    return &r.tree->root;
}

yajl_val kit_json_parse(const char *text, size_t len, size_t max, struct kit_fault *f)
{
    return kit_json_read(text, len, &(struct kit_json_rules){.max = max, .max_depth = KIT_JSON_MAX_DEPTH}, f);
}
