#include "answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ID 512
#define MAX_ADDRESS 2048
#define MAX_TYPE 128
#define MAX_KEPT 8192

/* Absent, of another type or too long: null. */
static void member_add(struct kit_text *t, const char *key, const char *value, size_t max)
{
    kit_text_addf(t, ",\"%s\":", key);
    if (value != NULL && strlen(value) <= max)
        kit_text_add_json(t, value, strlen(value));
    else
        kit_text_adds(t, "null");
}

static char *members(const char *id, const char *address, const char *type, struct kit_fault *f)
{
    struct kit_text t = {0};
    kit_text_adds(&t, "\"google_place_id\":");
    kit_text_add_json(&t, id, strlen(id));
    member_add(&t, "address", address, MAX_ADDRESS);
    member_add(&t, "location_type", type, MAX_TYPE);
    if (t.failed)
        kit_fault_set(f, "out of memory");
    return t.data;
}

static bool id_read(yajl_val v, const char *where, const char *key, const char **id, struct kit_fault *f)
{
    if (!kit_json_string(v, where, key, id, f))
        return false;
    if ((*id)[0] != '\0' && strlen(*id) <= MAX_ID)
        return true;
    kit_fault_set(f, "%s.%s: expected 1 to %d bytes, found %zu", where, key, MAX_ID, strlen(*id));
    return false;
}

static char *root_read(yajl_val root, bool *nothing, struct kit_fault *f)
{
    const char *status, *id;
    yajl_val results, first;
    if (!kit_json_string(root, "", "status", &status, f))
        return NULL;
    if (strcmp(status, "OK") != 0) {
        /* A word of the service's, REQUEST_DENIED and the like; what is none is not repeated. */
        bool word =
            status[0] != '\0' && strlen(status) <= 40 && status[strspn(status, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_")] == '\0';
        *nothing = strcmp(status, "ZERO_RESULTS") == 0;
        kit_fault_set(f, "status: expected OK, found %s", word ? status : "something else");
        return NULL;
    }
    if (!kit_json_array(root, "", "results", &results, f))
        return NULL;
    if (kit_json_len(results) == 0) {
        kit_fault_set(f, "results: expected at least one, found none");
        return NULL;
    }
    first = kit_json_at(results, 0);
    if (!id_read(first, "results[0]", "place_id", &id, f))
        return NULL;
    yajl_val types = kit_json_get(first, "types");
    return members(id, YAJL_GET_STRING(kit_json_get(first, "formatted_address")),
                   kit_json_len(types) > 0 ? YAJL_GET_STRING(kit_json_at(types, 0)) : NULL, f);
}

char *gc_answer_read(const char *json, size_t len, bool *nothing, struct kit_fault *f)
{
    *nothing = false;
    yajl_val root = kit_json_parse(json, len, GC_MAX_ANSWER, f);
    char *out = root != NULL ? root_read(root, nothing, f) : NULL;
    kit_json_free(&root);
    return out;
}

/* ---- kept ---- */

char *gc_kept_write(const char *kept, int64_t ends_ms)
{
    struct kit_text t = {0};
    kit_text_addf(&t, "{\"ends\":%lld,", (long long)ends_ms);
    kit_text_adds(&t, kept);
    kit_text_adds(&t, "}");
    return t.data;
}

char *gc_kept_read(const char *json, size_t len, int64_t *ends_ms)
{
    struct kit_fault f = {""};
    const char *id;
    char *out = NULL;
    yajl_val root = kit_json_parse(json, len, MAX_KEPT, &f);
    if (root != NULL && kit_json_integer(root, "", "ends", ends_ms, &f) &&
        id_read(root, "", "google_place_id", &id, &f))
        out = members(id, YAJL_GET_STRING(kit_json_get(root, "address")),
                      YAJL_GET_STRING(kit_json_get(root, "location_type")), &f);
    kit_json_free(&root);
    return out;
}

/* ---- places as text ---- */

void gc_degrees(char out[32], double degrees)
{
    int n = snprintf(out, 32, "%.7f", degrees);
    while (n > 0 && out[n - 1] == '0')
        out[--n] = '\0';
    if (n > 0 && out[n - 1] == '.')
        out[--n] = '\0';
    if (strcmp(out, "-0") == 0)
        strcpy(out, "0");
}

void gc_key(char out[GC_KEY_LEN], double latitude, double longitude)
{
    char lat[32], lng[32];
    snprintf(lat, sizeof(lat), "%.3f", latitude);
    snprintf(lng, sizeof(lng), "%.3f", longitude);
    /* The same place, seen from below zero. */
    snprintf(out, GC_KEY_LEN, "%.10s,%.10s", strcmp(lat, "-0.000") == 0 ? lat + 1 : lat,
             strcmp(lng, "-0.000") == 0 ? lng + 1 : lng);
}
