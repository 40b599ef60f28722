#include "session/summary.h"

#include <string.h>

#include "base/json.h"
#include "base/magic.h"
#include "base/metrics.h"

#define MAX_SUMMARY ((size_t)512 << 10)

static struct metric *fallback(const char *component, const char *reason)
{
    bool had = strcmp(reason, SUMMARY_NO_PLUGIN) != 0;
    const struct metric_label labels[] = {{"component", component},
                                          {"from_mode", had ? "plugin" : "none"},
                                          {"to_mode", "extractive"},
                                          {"reason", reason},
                                          {"outcome", "degraded"}};
    return metric_get(METRIC_COUNTER, "omi_fallback_total", "Moves to a fallback, by component and outcome.", labels,
                      ARRAY_LEN(labels), NULL, 0);
}

void summary_count_fallback(const char *component, const char *reason)
{
    metric_add(fallback(component, reason), 1);
}

void summary_metrics(void)
{
    static const char *const components[] = {SUMMARY_OF_CONVERSATION, SUMMARY_OF_DAY};
    static const char *const reasons[] = {SUMMARY_NO_PLUGIN, SUMMARY_FAILED, SUMMARY_TIMEOUT, SUMMARY_INVALID};
    for (size_t c = 0; c < ARRAY_LEN(components); c++) {
        for (size_t r = 0; r < ARRAY_LEN(reasons); r++)
            fallback(components[c], reasons[r]);
    }
}

static bool member_ok(yajl_val v, const char *key, bool array)
{
    yajl_val have = json_get(v, key);
    return array ? have == NULL || YAJL_IS_ARRAY(have) : YAJL_IS_STRING(have);
}

char *summary_take(const struct omid_answer *a, const char **fault)
{
    char err[128];
    struct buf b = BUF_INIT(MAX_SUMMARY);
    struct json_w w;
    yajl_val v = a->json ? json_parse(a->json, a->json_len, MAX_SUMMARY, err, sizeof err) : NULL;
    *fault = NULL;
    if (!v || !YAJL_IS_OBJECT(v))
        *fault = "the plugin's summary is no JSON object";
    else if (!member_ok(v, "title", false) || !member_ok(v, "overview", false))
        *fault = "the plugin's summary has no title, or no overview";
    else if (!member_ok(v, "action_items", true) || !member_ok(v, "events", true))
        *fault = "the plugin's summary has action_items or events that are no array";
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    for (size_t i = 0; !*fault && i < v->u.object.len; i++) {
        if (strcmp(v->u.object.keys[i], "source") == 0)
            continue;
        json_w_key(&w, v->u.object.keys[i]);
        json_w_tree(&w, v->u.object.values[i]);
    }
    json_w_kstr(&w, "source", a->mode ? a->mode : "plugin");
    json_w_close(&w, '}');
    json_free(&v);
    char *out = json_w_end(&w) && !*fault ? buf_steal(&b, NULL) : NULL;
    if (!out && !*fault)
        *fault = "the plugin's summary is too large";
    buf_free(&b);
    return out;
}
