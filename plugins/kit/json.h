/*
 * Reading a stranger's JSON into a tree of yajl's structs: bounded in size and depth, getters that know the type they
 * want and say what is wrong and where: "results[0].place_id: expected a string, found a number".
 */
#ifndef OMID_PLUGINS_KIT_JSON_H
#define OMID_PLUGINS_KIT_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <yajl/yajl_tree.h>

#define KIT_JSON_MAX_DEPTH 64

/* What is wrong, for people; "": nothing yet. The first fault stays. Never holds more of the text than names of
 * members that the reader itself asked for. */
struct kit_fault {
    char text[200];
};
void kit_fault_set(struct kit_fault *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* NULL on a fault. Refuses: an empty text, more than max bytes, more than KIT_JSON_MAX_DEPTH levels, bytes that are no
 * UTF-8, comments, anything behind the value, a NUL in a string. */
yajl_val kit_json_parse(const char *text, size_t len, size_t max, struct kit_fault *f);
/* The same by other rules. */
struct kit_json_rules {
    size_t max;         /* bytes */
    unsigned max_depth; /* levels, at most KIT_JSON_MAX_DEPTH */
    bool nul_cuts;      /* a string with a NUL ends there; else it is a fault */
};
yajl_val kit_json_read(const char *text, size_t len, const struct kit_json_rules *rules, struct kit_fault *f);
/* Trees of these two, by their root alone; never yajl_tree_free(). */
void kit_json_free(yajl_val *v);

/* A member of an object, whatever it is; NULL: v is none, or has no such member. */
yajl_val kit_json_get(yajl_val v, const char *key);

/* A member of this type; false: a fault is set. where: what v is, "results[0]", or "" for the whole text. key NULL: v
 * itself. Numbers are finite. Strings live as long as the tree; one with an embedded NUL is a fault. */
bool kit_json_string(yajl_val v, const char *where, const char *key, const char **out, struct kit_fault *f);
bool kit_json_number(yajl_val v, const char *where, const char *key, double *out, struct kit_fault *f);
bool kit_json_integer(yajl_val v, const char *where, const char *key, int64_t *out, struct kit_fault *f);
bool kit_json_bool(yajl_val v, const char *where, const char *key, bool *out, struct kit_fault *f);
bool kit_json_array(yajl_val v, const char *where, const char *key, yajl_val *out, struct kit_fault *f);
bool kit_json_object(yajl_val v, const char *where, const char *key, yajl_val *out, struct kit_fault *f);

static inline size_t kit_json_len(yajl_val array)
{
    return YAJL_IS_ARRAY(array) ? array->u.array.len : 0;
}
static inline yajl_val kit_json_at(yajl_val array, size_t i)
{
    return array->u.array.values[i];
}

#endif
