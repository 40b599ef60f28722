/* A plugin's own values: calls on their way to the store and back. Each counts as a handle of its instance. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/metrics.h"
#include "host/module.h"

#define VALUE_MAGIC UINT32_C(0x76616c75)

enum operation { PUT, GET, OPERATIONS };

struct value {
    uint32_t magic;
    struct list link;
    struct omid_instance *inst; /* NULL: stopped meanwhile */
    const char *plugin;         /* interned */
    enum operation operation;
    int64_t bytes;
    void (*put)(void *arg, int result);
    void (*get)(void *arg, int result, const void *value, size_t len);
    void *arg;
};

static void account(const char *plugin, enum operation operation, int result, unsigned n)
{
    static const char *const names[OPERATIONS] = {[PUT] = "put", [GET] = "get"};
    const struct metric_label labels[] = {{"plugin", plugin},
                                          {"operation", names[operation]},
                                          {"result", result == OMID_OK      ? "ok"
                                                     : result == OMID_EFULL ? "full"
                                                                            : "failed"}};
    metric_add(metric_get(METRIC_COUNTER, "omid_plugin_values_total",
                          "Puts and gets of plugins' own values by what came of them; full: a bound.", labels,
                          ARRAY_LEN(labels), NULL, 0),
               n);
}

void value_metrics(const char *plugin)
{
    static const int results[] = {OMID_OK, OMID_EFULL, OMID_ERR};
    for (enum operation op = PUT; op < OPERATIONS; op++) {
        for (size_t i = 0; i < ARRAY_LEN(results); i++)
            account(plugin, op, results[i], 0);
    }
}

static void value_free(struct value *v)
{
    if (v->inst != NULL) {
        v->inst->n_values--;
        module_account_memory(v->inst->module, -v->bytes);
        instance_unlink(v->inst, HANDLE_VALUE, &v->link);
    }
    v->magic = OMID_MAGIC_DEAD;
    free(v);
}

static void on_put(void *arg, int result)
{
    struct value *v = arg;
    CHECK_MAGIC(v, VALUE_MAGIC);
    account(v->plugin, PUT, result, 1);
    if (v->inst != NULL && v->put != NULL) {
        struct host_call call;
        host_enter(&call, v->inst, "value_put");
        v->put(v->arg, result);
        (void)host_leave(&call, OMID_OK);
    }
    value_free(v);
}

static void on_get(void *arg, int result, const void *value, size_t len)
{
    struct value *v = arg;
    CHECK_MAGIC(v, VALUE_MAGIC);
    account(v->plugin, GET, result, 1);
    if (v->inst != NULL) {
        struct host_call call;
        host_enter(&call, v->inst, "value_get");
        v->get(v->arg, result, value, len);
        (void)host_leave(&call, OMID_OK);
    }
    value_free(v);
}

/* NULL: refused, *rc says why. */
static struct value *value_begin(struct omid_instance *inst, enum operation operation, size_t len, void *arg, int *rc)
{
    if (inst->n_values == INSTANCE_MAX_VALUES) {
        account(inst->module->name, operation, OMID_EFULL, 1);
        *rc = OMID_EFULL;
        return NULL;
    }
    struct value *v = calloc(1, sizeof(*v));
    if (v == NULL) {
        *rc = OMID_ERR;
        return NULL;
    }
    v->magic = VALUE_MAGIC;
    v->inst = inst;
    v->plugin = inst->module->name;
    v->operation = operation;
    v->bytes = (int64_t)(sizeof(*v) + len);
    v->arg = arg;
    inst->n_values++;
    module_account_memory(inst->module, v->bytes);
    instance_link(inst, HANDLE_VALUE, &v->link);
    return v;
}

/* The store's answer to the call; its callback may come from now on. */
static int value_posted(struct value *v, int rc)
{
    if (rc == OMID_OK)
        return OMID_OK;
    account(v->plugin, v->operation, rc, 1);
    value_free(v);
    return rc;
}

int value_put(struct omid_instance *inst, const char *key, const void *value, size_t len, int64_t ttl_ms,
              void (*cb)(void *arg, int result), void *arg)
{
    int rc = instance_check(inst, "kv_put"); /* within stop(), too: what is worth keeping is known then */
    if (rc != OMID_OK)
        return rc;
    const struct host_services *s = &inst->module->host->env.services;
    if (key == NULL || (value == NULL && len > 0))
        return OMID_EINVAL;
    if (s->value_put == NULL)
        return OMID_ENOTSUP;
    struct value *v = value_begin(inst, PUT, len, arg, &rc);
    if (v == NULL)
        return rc;
    v->put = cb;
    return value_posted(v, s->value_put(s->arg, inst->module->name, key, value, len, ttl_ms, inst->loop, on_put, v));
}

int value_get(struct omid_instance *inst, const char *key,
              void (*cb)(void *arg, int result, const void *value, size_t len), void *arg)
{
    int rc = instance_check_new(inst, "kv_get");
    if (rc != OMID_OK)
        return rc;
    const struct host_services *s = &inst->module->host->env.services;
    if (key == NULL || cb == NULL)
        return OMID_EINVAL;
    if (s->value_get == NULL)
        return OMID_ENOTSUP;
    struct value *v = value_begin(inst, GET, 0, arg, &rc);
    if (v == NULL)
        return rc;
    v->get = cb;
    return value_posted(v, s->value_get(s->arg, inst->module->name, key, inst->loop, on_get, v));
}

void value_settle(struct omid_instance *inst)
{
    list_each (it, &inst->open[HANDLE_VALUE]) {
        struct value *v = list_entry(it, struct value, link);
        if (v->operation != PUT || v->put != NULL)
            continue;
        instance_unlink(inst, HANDLE_VALUE, &v->link);
        value_abandon(&v->link, inst);
    }
}

void value_abandon(struct list *link, struct omid_instance *inst)
{
    struct value *v = list_entry(link, struct value, link);
    CHECK_MAGIC(v, VALUE_MAGIC);
    module_account_memory(inst->module, -v->bytes);
    v->inst = NULL;
}
