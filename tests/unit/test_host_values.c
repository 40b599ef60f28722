/* A plugin's values between its instance and the store, which is a fake: it answers when the test says so. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"
#include "host/module.h"
#include "host_rig.h"
#include "unit.h"

static struct rig r;

struct held {
    struct loop_msg msg;
    struct held *next;
    struct loop *loop;
    int result;
    void (*put)(void *arg, int result);
    void (*get)(void *arg, int result, const void *value, size_t len);
    void *arg;
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct held *held;
static _Atomic int n_held;
static char asked[64];

static void on_answer(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct held *h = container_of(msg, struct held, msg);
    if (h->put != NULL)
        h->put(h->arg, h->result);
    else
        h->get(h->arg, h->result, h->result == OMID_OK ? "value" : NULL, h->result == OMID_OK ? 5 : 0);
    free(h);
}

static void hold(struct held with)
{
    struct held *h = malloc(sizeof(*h));
    *h = with;
    h->msg.fn = on_answer;
    pthread_mutex_lock(&lock);
    struct held **at = &held;
    while (*at != NULL)
        at = &(*at)->next;
    *at = h;
    h->next = NULL;
    pthread_mutex_unlock(&lock);
    n_held++;
}

static void answer_all(int result)
{
    pthread_mutex_lock(&lock);
    while (held != NULL) {
        struct held *h = held;
        held = h->next;
        h->result = result;
        loop_post(h->loop, &h->msg);
    }
    pthread_mutex_unlock(&lock);
    n_held = 0;
}

static int fake_put(void *arg, const char *plugin, const char *key, const void *value, size_t len, int64_t ttl_ms,
                    struct loop *loop, void (*cb)(void *arg, int result), void *cb_arg)
{
    (void)arg;
    snprintf(asked, sizeof(asked), "%s %s %.*s %lld", plugin, key, (int)len, (const char *)value, (long long)ttl_ms);
    hold((struct held){.loop = loop, .put = cb, .arg = cb_arg});
    return OMID_OK;
}

static int fake_get(void *arg, const char *plugin, const char *key, struct loop *loop,
                    void (*cb)(void *arg, int result, const void *value, size_t len), void *cb_arg)
{
    (void)arg;
    snprintf(asked, sizeof(asked), "%s %s", plugin, key);
    hold((struct held){.loop = loop, .get = cb, .arg = cb_arg});
    return OMID_OK;
}

static void begin(void)
{
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 1, "plugin values { path = \"%s/values.so\" }\n"));
    r.host->env.services.value_put = fake_put;
    r.host->env.services.value_get = fake_get;
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    rig_forget();
}

static bool some_held(void *arg)
{
    return n_held >= *(int *)arg;
}

static void event(const char *name, int then_held)
{
    rig_event(&r, 0, name);
    CU_ASSERT_TRUE(rig_wait(some_held, &then_held));
}

static double count(const char *series)
{
    struct buf b = BUF_INIT(0);
    char line[160];
    snprintf(line, sizeof(line), "omid_plugin_values_total{plugin=\"values\",%s} ", series);
    CU_ASSERT_TRUE(metrics_render(&b));
    const char *at = strstr(b.data, line);
    double v = at != NULL ? atof(at + strlen(line)) : -1;
    buf_free(&b);
    return v;
}

static void test_calls(void)
{
    begin();
    event("put", 1);
    CU_ASSERT_STRING_EQUAL(asked, "values k value 1000");
    CU_ASSERT_EQUAL(rig_status_int(&r, "values", "in_flight.values"), 1);
    answer_all(OMID_OK);
    CU_ASSERT_TRUE(rig_seen("seen", "put 0"));
    event("get", 1);
    CU_ASSERT_STRING_EQUAL(asked, "values k");
    answer_all(OMID_OK);
    CU_ASSERT_TRUE(rig_seen("seen", "got 0 value"));
    event("put", 1);
    event("get", 2);
    event("forget", 3);
    answer_all(OMID_EFULL);
    CU_ASSERT_TRUE(rig_seen("seen", "put -2"));
    CU_ASSERT_TRUE(rig_seen("seen", "got -2 -"));
    rig_stop(&r);
    CU_ASSERT_EQUAL(rig_status_int(&r, "values", "in_flight.values"), 0);
    CU_ASSERT_EQUAL(rig_status_int(&r, "values", "memory"), 0);
    CU_ASSERT_EQUAL(rig_status_int(&r, "values", "leaked"), 0);
    rig_free(&r);
    CU_ASSERT_EQUAL(count("operation=\"put\",result=\"ok\""), 1);
    CU_ASSERT_EQUAL(count("operation=\"get\",result=\"ok\""), 1);
    CU_ASSERT_EQUAL(count("operation=\"put\",result=\"full\""), 2);
}

static void test_bound(void)
{
    begin();
    event("flood", 4096);
    CU_ASSERT_TRUE(rig_seen("seen", "flood refused -2"));
    CU_ASSERT_EQUAL(n_held, 4096);
    rig_event(&r, 0, "get");
    CU_ASSERT_TRUE(rig_seen("seen", "get refused -2"));
    answer_all(OMID_OK);
    event("get", 1);
    answer_all(OMID_OK);
    CU_ASSERT_TRUE(rig_seen("seen", "got 0 value"));
    rig_stop(&r);
    rig_free(&r);
}

/* The plugin is gone when the store answers: nobody is called. What nobody waits for is no leak. */
static void test_stopped(void)
{
    begin();
    event("forget", 1);
    event("get", 2);
    host_drain(r.host, 0);
    CU_ASSERT_TRUE(host_stop(r.host));
    CU_ASSERT_EQUAL(rig_status_int(&r, "values", "in_flight.values"), 0);
    CU_ASSERT_EQUAL(rig_status_int(&r, "values", "leaked"), 1);
    answer_all(OMID_OK);
    rig_stop(&r);
    CU_ASSERT_EQUAL(rig_seen_count("seen", NULL), 0);
    rig_free(&r);
}

/* No store: said at once. */
static void test_without(void)
{
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 1, "plugin values { path = \"%s/values.so\" }\n"));
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    rig_forget();
    rig_event(&r, 0, "put");
    CU_ASSERT_TRUE(rig_seen("seen", "put refused -5"));
    rig_event(&r, 0, "get");
    CU_ASSERT_TRUE(rig_seen("seen", "get refused -5"));
    rig_stop(&r);
    rig_free(&r);
}

int main(void)
{
    static CU_TestInfo tests[] = {{"calls and answers", test_calls},
                                  {"bounded", test_bound},
                                  {"stopped meanwhile", test_stopped},
                                  {"without a store", test_without},
                                  CU_TEST_INFO_NULL};
    static CU_SuiteInfo suites[] = {{"values", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
