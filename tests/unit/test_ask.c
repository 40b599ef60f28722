/* Questions to roles, by the plugin asked.c: it answers as the latitude says. */
#include <string.h>

#include "base/magic.h"
#include "host/ask.h"
#include "host_rig.h"
#include "unit.h"

static struct rig r;

struct question {
    double latitude;
    uint32_t timeout_ms;
    bool cancel;
    int rc;
    bool within; /* the callback came within host_ask() */
    bool asking;
    _Atomic int times, result;
    char json[64], mode[16];
    struct host_ask *ask;
};

static void on_answer(void *arg, const struct omid_answer *a)
{
    struct question *q = arg;
    q->within = q->asking;
    snprintf(q->json, sizeof q->json, "%.*s", (int)a->json_len, a->json != NULL ? a->json : "");
    snprintf(q->mode, sizeof q->mode, "%s", a->mode != NULL ? a->mode : "");
    q->result = a->result;
    q->times++;
}

static void ask(void *arg)
{
    struct question *q = arg;
    const struct host_question hq = {.kind = HOST_ASK_GEOCODE, .latitude = q->latitude};
    q->asking = true;
    q->rc = host_ask(r.host, 0, &hq, q->timeout_ms, on_answer, q, &q->ask);
    if (q->cancel)
        host_ask_cancel(&q->ask);
    q->asking = false;
}

static bool told(void *arg)
{
    const struct question *q = arg;
    return q->times > 0;
}

static bool two_open(void *arg)
{
    (void)arg;
    return rig_status_int(&r, "asked", "in_flight.questions") == 2;
}

static void begin(const char *conf)
{
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 1, conf));
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
}
static const char asked[] = "plugin asked { path = \"%s/asked.so\" }\n";

static struct question put(double latitude, uint32_t timeout_ms)
{
    struct question q = {.latitude = latitude, .timeout_ms = timeout_ms, .result = 1};
    rig_on(&r, 0, ask, &q);
    CU_ASSERT_EQUAL_FATAL(q.rc, OMID_OK);
    CU_ASSERT_TRUE_FATAL(rig_wait(told, &q));
    CU_ASSERT_EQUAL(q.times, 1);
    CU_ASSERT_FALSE(q.within);
    return q;
}

static void test_answers(void)
{
    begin(asked);
    struct question q = put(0, 10000);
    CU_ASSERT_EQUAL(q.result, OMID_OK);
    CU_ASSERT_STRING_EQUAL(q.json, "{\"now\":1}");
    CU_ASSERT_STRING_EQUAL(q.mode, "test");
    q = put(1, 10000);
    CU_ASSERT_EQUAL(q.result, OMID_OK);
    CU_ASSERT_STRING_EQUAL(q.json, "{\"late\":1}");
    CU_ASSERT_EQUAL(put(3, 10000).result, OMID_EFULL);
    CU_ASSERT_EQUAL(put(4, 10000).result, OMID_ERR);
    CU_ASSERT_EQUAL(put(5, 10000).result, OMID_ENOTSUP);
    CU_ASSERT_EQUAL(put(6, 10000).result, OMID_OK); /* the first word counts */
    CU_ASSERT_EQUAL(put(7, 10000).result, OMID_ERR);
    CU_ASSERT_EQUAL(put(8, 10000).result, OMID_ERR);
    CU_ASSERT_EQUAL(rig_status_int(&r, "asked", "in_flight.questions"), 0);
    rig_stop(&r);
    CU_ASSERT_EQUAL(rig_status_int(&r, "asked", "memory"), 0);
    rig_free(&r);
}

static void test_not_answered(void)
{
    begin(asked);
    CU_ASSERT_EQUAL(put(2, 20).result, OMID_ETIMEOUT);
    CU_ASSERT_EQUAL(put(1, 1).result, OMID_ETIMEOUT); /* and what comes after it goes nowhere */
    /* Cancelled, before and after its answer is there. */
    struct question q[] = {{.latitude = 1, .timeout_ms = 10000, .cancel = true},
                           {.latitude = 0, .timeout_ms = 10000, .cancel = true}};
    for (size_t i = 0; i < ARRAY_LEN(q); i++) {
        rig_on(&r, 0, ask, &q[i]);
        CU_ASSERT_PTR_NULL(q[i].ask);
    }
    /* One that waits when the plugin stops. */
    struct question last = {.latitude = 2, .timeout_ms = 60000};
    rig_on(&r, 0, ask, &last);
    CU_ASSERT_TRUE(rig_wait(two_open, NULL)); /* that, and the first one, which nobody waits for any more */
    rig_stop(&r);
    CU_ASSERT_EQUAL(q[0].times + q[1].times, 0);
    CU_ASSERT_TRUE(last.times <= 1);
    if (last.times == 0)
        host_ask_cancel(&last.ask); /* its loop ended before it could be told */
    rig_free(&r);
}

static void test_nobody(void)
{
    begin("plugin good { path = \"%s/good.so\" }\n");
    struct question q = {.latitude = 0, .timeout_ms = 1000};
    rig_on(&r, 0, ask, &q);
    CU_ASSERT_EQUAL(q.rc, OMID_ENOTSUP);
    rig_stop(&r);
    CU_ASSERT_EQUAL(q.times, 0);
    rig_free(&r);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"answers, at once and late, good and bad", test_answers},
        {"not answered: in time, at all, any more", test_not_answered},
        {"nobody to ask", test_nobody},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"ask", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
