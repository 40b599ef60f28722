/* More of the mock host: see mock_doors.h. */
#include "mock_doors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mock_int.h"

/* ---- values ---- */

struct value {
    struct value *next;
    char *key, *data;
    size_t len;
    int64_t ends; /* 0: never */
};
struct told {
    struct told *next;
    struct omid_instance *inst;
    void (*put)(void *arg, int result);
    void (*get)(void *arg, int result, const void *value, size_t len);
    void *arg;
    char *key;
};
static struct value *values;
static struct told *told;
static size_t n_put;
static int kv_rc, kv_result;

static void value_forget(const char *key)
{
    for (struct value **at = &values; *at != NULL; at = &(*at)->next) {
        struct value *v = *at;
        if (strcmp(v->key, key) != 0)
            continue;
        *at = v->next;
        free(v->key);
        free(v->data);
        free(v);
        return;
    }
}

const char *mock_kv_value(const char *key, size_t *len)
{
    for (struct value *v = values; v != NULL; v = v->next) {
        if (strcmp(v->key, key) == 0 && (v->ends == 0 || v->ends > mock_table()->wall_ms())) {
            *len = v->len;
            return v->data;
        }
    }
    *len = 0;
    return NULL;
}

static void told_add(struct told t)
{
    struct told **at = &told;
    while (*at != NULL)
        at = &(*at)->next;
    *at = malloc(sizeof(t));
    must(*at != NULL);
    **at = t;
}

static int d_kv_put(struct omid_instance *inst, const char *key, const void *value, size_t len, int64_t ttl_ms,
                    void (*cb)(void *arg, int result), void *arg)
{
    must(inst != NULL && key != NULL && key[0] != '\0' && strlen(key) <= 512 && len <= 65536 && ttl_ms >= 0);
    if (kv_rc != OMID_OK)
        return kv_rc;
    if (kv_result == OMID_OK)
        value_forget(key);
    if (kv_result == OMID_OK && value != NULL) {
        struct value *v = calloc(1, sizeof(*v));
        must(v != NULL);
        *v = (struct value){.next = values,
                            .key = strdup(key),
                            .data = malloc(len + 1),
                            .len = len,
                            .ends = ttl_ms != 0 ? mock_table()->wall_ms() + ttl_ms : 0};
        must(v->data != NULL);
        memcpy(v->data, value, len);
        v->data[len] = '\0';
        values = v;
        n_put++;
    }
    if (cb != NULL)
        told_add((struct told){.inst = inst, .put = cb, .arg = arg});
    return OMID_OK;
}

static int d_kv_get(struct omid_instance *inst, const char *key,
                    void (*cb)(void *arg, int result, const void *value, size_t len), void *arg)
{
    must(inst != NULL && key != NULL && cb != NULL);
    if (kv_rc != OMID_OK)
        return kv_rc;
    told_add((struct told){.inst = inst, .get = cb, .arg = arg, .key = strdup(key)});
    return OMID_OK;
}

unsigned mock_kv_run(void)
{
    unsigned n = 0;
    while (told != NULL) {
        struct told *t = told;
        size_t len = 0;
        told = t->next;
        const char *v = t->key != NULL && kv_result == OMID_OK ? mock_kv_value(t->key, &len) : NULL;
        if (t->get != NULL)
            t->get(t->arg, kv_result, v, len);
        else
            t->put(t->arg, kv_result);
        free(t->key);
        free(t);
        n++;
    }
    return n;
}

size_t mock_kv_count(void)
{
    return n_put;
}

void mock_kv_refuse(int rc)
{
    kv_rc = rc;
}

void mock_kv_fail(int result)
{
    kv_result = result;
}

/* ---- questions ---- */

static void d_answer(struct omid_ask **askp, const struct omid_answer *a)
{
    must(askp != NULL && *askp != NULL && a->size == sizeof(*a));
    struct omid_ask *ask = *askp;
    *askp = NULL;
    must(ask->answers++ == 0);
    must(a->result != OMID_OK || a->text == NULL);
    must(a->n_vector <= sizeof(ask->vector) / sizeof(ask->vector[0]));
    must(a->n_intervals <= sizeof(ask->intervals) / sizeof(ask->intervals[0]));
    must(a->json == NULL || a->json_len < sizeof(ask->json));
    ask->result = a->result;
    snprintf(ask->text, sizeof(ask->text), "%s", a->text != NULL ? a->text : "");
    snprintf(ask->mode, sizeof(ask->mode), "%s", a->mode != NULL ? a->mode : "");
    if (a->json != NULL)
        memcpy(ask->json, a->json, a->json_len);
    if (a->n_vector > 0)
        memcpy(ask->vector, a->vector, a->n_vector * sizeof(*a->vector));
    if (a->n_intervals > 0)
        memcpy(ask->intervals, a->intervals, a->n_intervals * sizeof(*a->intervals));
    ask->n_vector = a->n_vector;
    ask->n_intervals = a->n_intervals;
    ask->n_segments = a->n_segments;
    ask->samples = a->audio != NULL ? a->audio->samples : 0;
}

/* ---- exchanges ---- */

static struct omid_route routes[64];
static size_t n_routes;

int mock_door_route(const struct omid_route *route)
{
    must(n_routes < sizeof(routes) / sizeof(routes[0]) && route->size == sizeof(*route));
    routes[n_routes++] = *route;
    return OMID_OK;
}

int mock_request(void *state, const char *method, const char *path, const struct omid_request *req,
                 struct omid_exchange *ex)
{
    for (size_t i = 0; i < n_routes; i++) {
        if (routes[i].method != NULL && strcmp(routes[i].method, method) == 0 && strcmp(routes[i].path, path) == 0)
            return routes[i].request(state, ex, req);
    }
    return OMID_ENOTSUP;
}

static int d_respond_with(struct omid_exchange **exp, int status, const char *content_type, const char *const *headers,
                          const void *body, size_t len)
{
    must(exp != NULL && *exp != NULL);
    struct omid_exchange *ex = *exp;
    *exp = NULL;
    must(ex->responses++ == 0);
    ex->status = status;
    snprintf(ex->content_type, sizeof(ex->content_type), "%s", content_type != NULL ? content_type : "");
    for (size_t i = 0; headers != NULL && headers[i] != NULL; i++) {
        size_t n = strlen(ex->headers);
        snprintf(ex->headers + n, sizeof(ex->headers) - n, "%s\n", headers[i]);
    }
    ex->len = len;
    size_t fits = len < sizeof(ex->body) - 1 ? len : sizeof(ex->body) - 1;
    if (fits > 0)
        memcpy(ex->body, body, fits);
    ex->body[fits] = '\0';
    return OMID_OK;
}

static int d_respond(struct omid_exchange **ex, int status, const char *content_type, const void *body, size_t len)
{
    return d_respond_with(ex, status, content_type, NULL, body, len);
}

/* ---- fallbacks ---- */

static struct move {
    char text[200];
    unsigned n;
} moves[64];
static size_t n_moves;

static void d_fallback(struct omid_module *mod, const char *component, const char *from, const char *to,
                       const char *reason, const char *outcome, unsigned n)
{
    char text[200];
    size_t i = 0;
    must(mod != NULL);
    snprintf(text, sizeof(text), "%s %s %s %s %s", component, from, to, reason, outcome);
    while (i < n_moves && strcmp(moves[i].text, text) != 0)
        i++;
    must(i < sizeof(moves) / sizeof(moves[0]));
    if (i == n_moves) {
        n_moves++;
        snprintf(moves[i].text, sizeof(moves[i].text), "%s", text);
    }
    moves[i].n += n;
}

unsigned mock_fallbacks(const char *move)
{
    for (size_t i = 0; i < n_moves; i++) {
        if (strcmp(moves[i].text, move) == 0)
            return moves[i].n;
    }
    return 0;
}

/* ---- the host's side ---- */

void mock_doors_set(struct omid_host *table)
{
    table->kv_put = d_kv_put;
    table->kv_get = d_kv_get;
    table->answer = d_answer;
    table->respond = d_respond;
    table->respond_with = d_respond_with;
    table->fallback = d_fallback;
}

void mock_doors_stop(const struct omid_instance *inst)
{
    for (struct told **at = &told; *at != NULL;) {
        struct told *t = *at;
        if (t->inst != inst) {
            at = &t->next;
            continue;
        }
        *at = t->next;
        free(t->key);
        free(t);
    }
}

void mock_doors_clear(void)
{
    must(told == NULL);
    while (values != NULL)
        value_forget(values->key);
    memset(moves, 0, sizeof(moves));
    n_put = n_routes = n_moves = 0;
    kv_rc = kv_result = OMID_OK;
}
