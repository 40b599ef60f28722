/* Where users are, and where conversations were, in the store. */
#include <math.h>

#include "base/json.h"
#include "base/log.h"
#include "base/magic.h"
#include "fixture_store.h"
#include "store/places.h"

struct answer {
    _Atomic int n;
    int result;
    bool there;
    struct store_place place;
    char id[37];
    struct store_conversation *c;
};

static void on_done(void *arg, int result)
{
    struct answer *a = arg;
    a->result = result;
    a->n++;
}

static void on_place(void *arg, int result, const struct store_place *place)
{
    struct answer *a = arg;
    a->result = result;
    a->there = place != NULL;
    if (place != NULL)
        a->place = *place;
    a->n++;
}

static void on_opened(void *arg, struct store_opened *o)
{
    struct answer *a = arg;
    a->result = o->result;
    if (o->conversation != NULL)
        memcpy(a->id, o->conversation->id, sizeof(a->id));
    a->n++;
}

static void on_got(void *arg, int result, struct store_conversation *c)
{
    CU_ASSERT_EQUAL(result, OMID_OK);
    struct answer *a = arg;
    a->c = c;
    a->n++;
}

static int set(const char *uid, double latitude, double longitude, int64_t at)
{
    struct answer a = {0};
    const struct store_place p = {latitude, longitude, at};
    int rc = store_place_set(s, uid, &p, lp, on_done, &a);
    if (rc != OMID_OK)
        return rc;
    CU_ASSERT_TRUE_FATAL(WAIT_FOR(a.n == 1));
    return a.result;
}

static struct answer get(const char *uid)
{
    struct answer a = {0};
    CU_ASSERT_EQUAL_FATAL(store_place_get(s, uid, lp, on_place, &a), OMID_OK);
    CU_ASSERT_TRUE_FATAL(WAIT_FOR(a.n == 1));
    CU_ASSERT_EQUAL(a.result, OMID_OK);
    return a;
}

static void test_users(void)
{
    CU_ASSERT_FATAL(fixture_open());
    CU_ASSERT_FALSE(get("u").there);
    CU_ASSERT_EQUAL(set("u", 52.520006599999998, 13.404954, 1000), OMID_OK);
    CU_ASSERT_EQUAL(set("u", -90, 180, 2000), OMID_OK);
    CU_ASSERT_EQUAL(set("v", 52.520006599999998, 13.404954, 3000), OMID_OK);
    fixture_close();
    CU_ASSERT_FATAL(fixture_open());
    struct answer a = get("u");
    CU_ASSERT_TRUE(a.there && a.place.latitude == -90 && a.place.longitude == 180 && a.place.updated_ms == 2000);
    a = get("v");
    CU_ASSERT_TRUE(a.there && a.place.latitude == 52.520006599999998 && a.place.longitude == 13.404954);
    fixture_close();
}

static void test_refused(void)
{
    const double bad[][2] = {{90.0001, 0}, {-90.0001, 0}, {0, 180.0001}, {0, -180.0001},
                             {NAN, 0},     {0, NAN},      {INFINITY, 0}, {0, -INFINITY}};
    CU_ASSERT_FATAL(fixture_open());
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        CU_ASSERT_EQUAL(set("u", bad[i][0], bad[i][1], 1), OMID_EINVAL);
    CU_ASSERT_EQUAL(set("", 1, 1, 1), OMID_EINVAL);
    fixture_close();
}

static void test_conversations(void)
{
    static const char place[] = "{\"latitude\":1.5,\"longitude\":-2,\"address\":\"\xc3\x84 1\"}";
    struct answer a = {0};
    const struct store_open_params p = {.uid = "u", .now_ms = clock_wall_ms(), .timeout_ms = 1000};
    CU_ASSERT_FATAL(fixture_open());
    CU_ASSERT_EQUAL_FATAL(store_conversation_open(s, &p, lp, on_opened, &a), OMID_OK);
    CU_ASSERT_TRUE_FATAL(WAIT_FOR(a.n == 1));
    struct answer b = {0}, c = {0}, d = {0};
    CU_ASSERT_EQUAL(store_geolocation_set(s, a.id, place, lp, on_done, &b), OMID_OK);
    CU_ASSERT_TRUE_FATAL(WAIT_FOR(b.n == 1));
    CU_ASSERT_EQUAL(b.result, OMID_OK);
    CU_ASSERT_EQUAL(store_geolocation_set(s, "nobody", place, lp, on_done, &c), OMID_OK);
    CU_ASSERT_TRUE_FATAL(WAIT_FOR(c.n == 1));
    CU_ASSERT_EQUAL(c.result, OMID_ENOTSUP);
    CU_ASSERT_EQUAL(store_conversation_get(s, a.id, lp, on_got, &d), OMID_OK);
    CU_ASSERT_TRUE_FATAL(WAIT_FOR(d.n == 1));
    CU_ASSERT_PTR_NOT_NULL_FATAL(d.c);
    struct buf out = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &out);
    store_conversation_json(&w, d.c);
    CU_ASSERT_TRUE_FATAL(json_w_end(&w));
    char expected[160];
    snprintf(expected, sizeof(expected), "\"geolocation\":%s,", place);
    CU_ASSERT_PTR_NOT_NULL(strstr(out.data, expected));
    buf_free(&out);
    store_conversation_free(&d.c);
    fixture_close();
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"of users", test_users},
        {"refused", test_refused},
        {"of conversations", test_conversations},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"places", fixture_begin, fixture_end, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
