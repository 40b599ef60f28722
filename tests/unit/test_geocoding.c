/* The plugin geocoding on a mock host: what it asks, what it takes, one look-up for many. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mock_doors.h"
#include "mock_host.h"
#include "plugins/geocoding/cache.h"
#include "unit.h"

extern const struct omid_plugin omid_plugin;

static const char good[] =
    "{\"plus_code\":{\"global_code\":\"9F4MGC5J+25\"},\"results\":[{\"address_components\":[{\"long_name\":\"1\","
    "\"short_name\":\"1\",\"types\":[\"street_number\"]}],\"formatted_address\":\"Stra\xc3\x9f"
    "e \\\"1\\\", Berlin\","
    "\"geometry\":{\"location\":{\"lat\":52.5,\"lng\":13.4}},\"place_id\":\"ChIJ-1\",\"types\":[\"street_address\","
    "\"political\"]},{\"place_id\":\"other\"}],\"status\":\"OK\"}";

static struct mock *m;
static struct omid_instance *inst;

static void begin(unsigned instances)
{
    m = mock_new(&omid_plugin);
    mock_conf(m, "key", "a key/+&=%");
    CU_ASSERT_EQUAL_FATAL(mock_configure(m), OMID_OK);
    inst = mock_start(m);
    for (unsigned i = 1; i < instances; i++)
        mock_start(m);
}

static void end(void)
{
    mock_stop(inst);
    mock_free(&m);
}

static int ask(struct omid_ask *a, double latitude, double longitude)
{
    memset(a, 0, sizeof(*a));
    return omid_plugin.geocode->geocode(mock_state(inst), latitude, longitude, a);
}

static struct omid_ask a, b, c;

static void test_request(void)
{
    begin(1);
    CU_ASSERT_EQUAL(ask(&a, 52.5200066, 13.404954), OMID_OK);
    CU_ASSERT_EQUAL(mock_http_count(m), 0); /* the store is asked first */
    CU_ASSERT_EQUAL(mock_kv_run(), 1);
    CU_ASSERT_EQUAL_FATAL(mock_http_count(m), 1);
    CU_ASSERT_STRING_EQUAL(mock_http(m, 0)->method, "GET");
    CU_ASSERT_STRING_EQUAL(mock_http(m, 0)->url,
                           "https://maps.googleapis.com/maps/api/geocode/json?latlng=52.5200066,13.404954&key="
                           "a%20key%2F%2B%26%3D%25");
    CU_ASSERT_EQUAL(mock_http(m, 0)->body_len, 0);
    mock_http_answer(m, 0, 200, good);
    CU_ASSERT_EQUAL_FATAL(a.answers, 1);
    CU_ASSERT_EQUAL(a.result, OMID_OK);
    CU_ASSERT_STRING_EQUAL(a.mode, "geocoded");
    CU_ASSERT_STRING_EQUAL(a.json, "{\"latitude\":52.5200066,\"longitude\":13.404954,\"google_place_id\":\"ChIJ-1\","
                                   "\"address\":\"Stra\xc3\x9f"
                                   "e \\\"1\\\", Berlin\",\"location_type\":\"street_address\"}");
    /* Near by: known, with the coordinates of who asks. */
    CU_ASSERT_EQUAL(ask(&b, 52.5199, 13.40451), OMID_OK);
    CU_ASSERT_EQUAL(b.answers, 1);
    CU_ASSERT_PTR_NOT_NULL(
        strstr(b.json, "{\"latitude\":52.5199,\"longitude\":13.40451,\"google_place_id\":\"ChIJ-1\""));
    CU_ASSERT_EQUAL(mock_http_count(m), 1);
    CU_ASSERT_EQUAL(mock_count(m, "lookups", "memory"), 1);
    CU_ASSERT_EQUAL(mock_count(m, "lookups", "service"), 1);
    CU_ASSERT_EQUAL(mock_count(m, "requests", "ok"), 1);
    end();
}

static void test_range(void)
{
    const double bad[][2] = {{NAN, 0}, {0, NAN}, {INFINITY, 0}, {90.001, 0}, {-90.001, 0}, {0, 180.001}, {0, -181}};
    begin(1);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        CU_ASSERT_EQUAL(ask(&a, bad[i][0], bad[i][1]), OMID_EINVAL);
        CU_ASSERT_EQUAL(a.answers, 0);
    }
    CU_ASSERT_EQUAL(mock_kv_run(), 0);
    end();
}

static void test_text(void)
{
    char text[32], key[GC_KEY_LEN];
    const struct {
        double degrees;
        const char *text;
    } cases[] = {{52.5200066, "52.5200066"},
                 {-0.0, "0"},
                 {1e-7, "0.0000001"},
                 {1e-9, "0"},
                 {-180, "-180"},
                 {13.40, "13.4"},
                 {90, "90"},
                 {100.5, "100.5"},
                 {10, "10"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        gc_degrees(text, cases[i].degrees);
        CU_ASSERT_STRING_EQUAL(text, cases[i].text);
    }
    gc_key(key, 52.52, 13.4049);
    CU_ASSERT_STRING_EQUAL(key, "52.520,13.405");
    gc_key(key, -0.0001, -179.99999);
    CU_ASSERT_STRING_EQUAL(key, "0.000,-180.000");
}

/* Whatever is wrong with the answer: an error, that says what, and that is not kept. */
static void fails(int status, const char *body, int result, const char *why, const char *outcome)
{
    size_t n = mock_http_count(m);
    uint64_t before = mock_count(m, "requests", outcome);
    CU_ASSERT_EQUAL(ask(&a, 1, 2), OMID_OK);
    mock_kv_run();
    CU_ASSERT_EQUAL_FATAL(mock_http_count(m), n + 1);
    mock_http_answer(m, n, status, body);
    CU_ASSERT_EQUAL(a.answers, 1);
    CU_ASSERT_EQUAL(a.result, result);
    if (strcmp(a.text, why) != 0)
        fprintf(stderr, "%s\n  expected: %s\n  found:    %s\n", body, why, a.text);
    CU_ASSERT_STRING_EQUAL(a.text, why);
    CU_ASSERT_EQUAL(mock_count(m, "requests", outcome), before + 1);
    CU_ASSERT_PTR_NULL(strstr(a.text, "key"));
}

static void test_bad_answers(void)
{
    static const char *const bad[][2] = {
        {"", "geocoding: no JSON: it is empty"},
        {"<html></html>", "geocoding: no JSON, from byte 1 of 13 on"},
        {"[]", "geocoding: expected an object, found an array"},
        {"{}", "geocoding: status: expected a string, found nothing"},
        {"{\"status\":1}", "geocoding: status: expected a string, found a number"},
        {"{\"status\":\"REQUEST_DENIED\",\"error_message\":\"The provided API key is invalid.\"}",
         "geocoding: status: expected OK, found REQUEST_DENIED"},
        {"{\"status\":\"OVER_QUERY_LIMIT\"}", "geocoding: status: expected OK, found OVER_QUERY_LIMIT"},
        {"{\"status\":\"my key\"}", "geocoding: status: expected OK, found something else"},
        {"{\"status\":\"OK\"}", "geocoding: results: expected an array, found nothing"},
        {"{\"status\":\"OK\",\"results\":{}}", "geocoding: results: expected an array, found an object"},
        {"{\"status\":\"OK\",\"results\":[]}", "geocoding: results: expected at least one, found none"},
        {"{\"status\":\"OK\",\"results\":[1]}", "geocoding: results[0]: expected an object, found a number"},
        {"{\"status\":\"OK\",\"results\":[{}]}", "geocoding: results[0].place_id: expected a string, found nothing"},
        {"{\"status\":\"OK\",\"results\":[{\"place_id\":7}]}",
         "geocoding: results[0].place_id: expected a string, found a number"},
        {"{\"status\":\"OK\",\"results\":[{\"place_id\":\"\"}]}",
         "geocoding: results[0].place_id: expected 1 to 512 bytes, found 0"},
    };
    begin(1);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        fails(200, bad[i][0], OMID_ERR, bad[i][1], "bad_answer");
    fails(200, "{\"status\":\"ZERO_RESULTS\",\"results\":[]}", OMID_ENOTSUP,
          "geocoding: status: expected OK, found ZERO_RESULTS", "nothing");
    fails(401, good, OMID_ERR, "geocoding: HTTP status 401", "refused");
    fails(302, good, OMID_ERR, "geocoding: HTTP status 302", "refused");
    fails(429, good, OMID_EFULL, "geocoding: HTTP status 429", "busy");
    fails(500, good, OMID_ERR, "geocoding: HTTP status 500", "server");
    CU_ASSERT_EQUAL(mock_kv_count(), 0);
    end();
}

static void test_no_answer(void)
{
    static const struct {
        enum omid_http_error error;
        int result;
        const char *outcome;
    } cases[] = {{OMID_HTTP_TIMEOUT, OMID_ETIMEOUT, "timeout"}, {OMID_HTTP_CONNECT, OMID_ERR, "unreached"},
                 {OMID_HTTP_RESET, OMID_ERR, "unreached"},      {OMID_HTTP_BREAKER, OMID_EFULL, "busy"},
                 {OMID_HTTP_FULL, OMID_EFULL, "busy"},          {OMID_HTTP_PROTOCOL, OMID_ERR, "bad_answer"},
                 {OMID_HTTP_SHUTDOWN, OMID_ECLOSED, "stopped"}};
    begin(1);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ask(&a, 1, 2);
        mock_kv_run();
        mock_http_fail(m, i, cases[i].error);
        CU_ASSERT_EQUAL(a.answers, 1);
        CU_ASSERT_EQUAL(a.result, cases[i].result);
        CU_ASSERT_EQUAL(mock_count(m, "requests", cases[i].outcome) > 0, 1);
    }
    const struct omid_http_response cut = {
        .size = sizeof(cut), .error_text = "", .status = 200, .body = good, .body_len = 100, .truncated = true};
    ask(&a, 1, 2);
    mock_kv_run();
    mock_http_respond(m, mock_http_count(m) - 1, &cut);
    CU_ASSERT_STRING_EQUAL(a.text, "geocoding: an answer of more than 100 bytes");
    mock_http_refuse(m, OMID_EFULL);
    CU_ASSERT_EQUAL(ask(&a, 1, 2), OMID_OK);
    mock_kv_run();
    CU_ASSERT_TRUE(a.answers == 1 && a.result == OMID_EFULL);
    end();
}

/* What is not essential may be missing, or wrong. */
static void test_lenient(void)
{
    begin(1);
    ask(&a, 1, 2);
    mock_kv_run();
    mock_http_answer(m, 0, 200,
                     "{\"status\":\"OK\",\"results\":[{\"place_id\":\"p\",\"formatted_address\":7,\"types\":\"x\"}]}");
    CU_ASSERT_STRING_EQUAL(
        a.json, "{\"latitude\":1,\"longitude\":2,\"google_place_id\":\"p\",\"address\":null,\"location_type\":null}");
    end();
}

static void test_joined(void)
{
    begin(1);
    ask(&a, 1, 2);
    ask(&b, 1.0001, 2.0001);
    ask(&c, 1.1, 2);
    CU_ASSERT_EQUAL(mock_kv_run(), 2);
    CU_ASSERT_EQUAL(mock_http_count(m), 2);
    struct omid_ask d;
    ask(&d, 1, 2);
    mock_http_fail(m, 0, OMID_HTTP_CONNECT);
    CU_ASSERT_TRUE(a.answers == 1 && b.answers == 1 && d.answers == 1 && c.answers == 0);
    CU_ASSERT_TRUE(a.result == OMID_ERR && b.result == OMID_ERR && d.result == OMID_ERR);
    mock_http_answer(m, 1, 200, good);
    CU_ASSERT_TRUE(c.answers == 1 && c.result == OMID_OK);
    CU_ASSERT_EQUAL(mock_count(m, "lookups", "others"), 2);
    end();
}

/* Two reactors: the other one waits for the first one's look-up. */
static void test_reactors(void)
{
    begin(1);
    struct omid_instance *other = mock_start(m);
    ask(&a, 1, 2);
    mock_kv_run();
    memset(&b, 0, sizeof(b));
    memset(&c, 0, sizeof(c));
    CU_ASSERT_EQUAL(omid_plugin.geocode->geocode(mock_state(other), 1.0002, 2, &b), OMID_OK);
    mock_advance(m, 1000);
    CU_ASSERT_EQUAL(b.answers, 0);
    CU_ASSERT_EQUAL(mock_http_count(m), 1);
    mock_http_answer(m, 0, 200, good);
    CU_ASSERT_EQUAL(b.answers, 0);
    mock_advance(m, 20);
    CU_ASSERT_TRUE(b.answers == 1 && b.result == OMID_OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(b.json, "\"latitude\":1.0002,"));
    CU_ASSERT_EQUAL(mock_timers(m), 0);
    /* A failure, and the owner's stop, are told too. */
    memset(&b, 0, sizeof(b));
    ask(&a, 3, 4);
    omid_plugin.geocode->geocode(mock_state(other), 3, 4, &b);
    mock_kv_run();
    mock_http_fail(m, 1, OMID_HTTP_TIMEOUT);
    mock_advance(m, 20);
    CU_ASSERT_TRUE(a.result == OMID_ETIMEOUT && b.answers == 1 && b.result == OMID_ETIMEOUT);
    memset(&b, 0, sizeof(b));
    ask(&a, 5, 6);
    omid_plugin.geocode->geocode(mock_state(other), 5, 6, &b);
    mock_stop(inst);
    CU_ASSERT_TRUE(a.answers == 1 && a.result == OMID_ECLOSED);
    mock_advance(m, 20);
    CU_ASSERT_TRUE(b.answers == 1 && b.result == OMID_ECLOSED);
    omid_plugin.geocode->geocode(mock_state(other), 5, 6, &c);
    mock_kv_run();
    CU_ASSERT_EQUAL(mock_http_open(m), 1);
    mock_stop(other);
    CU_ASSERT_TRUE(c.answers == 1 && c.result == OMID_ECLOSED);
    mock_free(&m);
}

static void test_stop_waiting(void)
{
    begin(1);
    struct omid_instance *other = mock_start(m);
    memset(&b, 0, sizeof(b));
    ask(&a, 1, 2);
    omid_plugin.geocode->geocode(mock_state(other), 1, 2, &b);
    mock_stop(other);
    CU_ASSERT_TRUE(b.answers == 1 && b.result == OMID_ECLOSED);
    mock_stop(inst);
    CU_ASSERT_TRUE(a.answers == 1 && a.result == OMID_ECLOSED);
    mock_free(&m);
}

static void test_kept(void)
{
    size_t len;
    begin(1);
    ask(&a, 1, 2);
    mock_kv_run();
    mock_http_answer(m, 0, 200, good);
    const char *kept = mock_kv_value("1.000,2.000", &len);
    CU_ASSERT_PTR_NOT_NULL_FATAL(kept);
    char *copy = strdup(kept);
    mock_advance(m, 48u * 3600 * 1000 - 1);
    ask(&b, 1, 2);
    CU_ASSERT_TRUE(b.answers == 1 && b.result == OMID_OK);
    mock_advance(m, 1);
    ask(&b, 1, 2); /* over, in memory and in the store */
    mock_kv_run();
    CU_ASSERT_EQUAL(mock_http_count(m), 2);
    mock_http_fail(m, 1, OMID_HTTP_CONNECT);
    /* Another life: the store knows; what it holds is read with distrust. */
    end();
    const char *const values[] = {"", "x", "{\"ends\":1}", "{\"ends\":99999999999999,\"google_place_id\":\"\"}", copy};
    for (size_t i = 0; i < 5; i++) {
        begin(1);
        mock_table()->kv_put(inst, "1.000,2.000", values[i], strlen(values[i]), 0, NULL, NULL);
        ask(&a, 1, 2);
        CU_ASSERT_EQUAL(a.answers, 0);
        mock_kv_run();
        CU_ASSERT_EQUAL(a.answers, i == 4);
        CU_ASSERT_EQUAL(mock_http_count(m), i == 4 ? 0 : 1);
        if (i == 4)
            CU_ASSERT_PTR_NOT_NULL(strstr(a.json, "\"location_type\":\"street_address\""))
        else
            mock_http_fail(m, 0, OMID_HTTP_CONNECT);
        end();
    }
    free(copy);
    begin(1);
    mock_kv_fail(OMID_ERR);
    ask(&a, 1, 2);
    mock_kv_run();
    CU_ASSERT_EQUAL(mock_http_count(m), 1);
    mock_http_answer(m, 0, 200, good);
    CU_ASSERT_EQUAL(a.result, OMID_OK);
    mock_kv_refuse(OMID_EFULL);
    ask(&a, 2, 2);
    CU_ASSERT_EQUAL(mock_http_count(m), 2);
    mock_http_answer(m, 1, 200, good);
    CU_ASSERT_EQUAL(a.result, OMID_OK);
    end();
}

static void test_cache(void)
{
    struct gc_cache *cache = gc_cache_new(3);
    char key[GC_KEY_LEN], *members = NULL, text[64];
    const void *who;
    int me, result;
    for (int i = 0; i < 5; i++) {
        gc_key(key, i, i);
        CU_ASSERT_EQUAL(gc_cache_begin(cache, key, &me, 0, &members, &who), GC_BEGUN);
        gc_cache_settle(cache, key, "\"x\":1", 1000, OMID_OK, "");
        gc_key(key, 0, 0); /* is used all the time, and stays */
        CU_ASSERT_EQUAL(gc_cache_begin(cache, key, &me, 0, &members, &who), GC_KNOWN);
        CU_ASSERT_STRING_EQUAL(members, "\"x\":1");
        free(members);
    }
    CU_ASSERT_EQUAL(gc_cache_count(cache), 3);
    gc_key(key, 1, 1);
    CU_ASSERT_EQUAL(gc_cache_begin(cache, key, &me, 0, &members, &who), GC_BEGUN);
    CU_ASSERT_EQUAL(gc_cache_begin(cache, key, &result, 0, &members, &who), GC_PENDING);
    CU_ASSERT_PTR_EQUAL(who, &me);
    gc_key(key, 2, 2);
    CU_ASSERT_EQUAL(gc_cache_begin(cache, key, &me, 0, &members, &who), GC_BEGUN);
    gc_key(key, 3, 3);
    CU_ASSERT_EQUAL(gc_cache_begin(cache, key, &me, 0, &members, &who), GC_BEGUN);
    gc_key(key, 4, 4);
    CU_ASSERT_EQUAL(gc_cache_begin(cache, key, &me, 0, &members, &who), GC_FULL);
    CU_ASSERT_EQUAL(gc_cache_look(cache, key, 0, &members, &result, text, sizeof(text)), GC_MEMORY);
    CU_ASSERT_EQUAL(result, OMID_ERR);
    gc_key(key, 3, 3);
    gc_cache_settle(cache, key, NULL, 0, OMID_ETIMEOUT, "late");
    CU_ASSERT_EQUAL(gc_cache_look(cache, key, 0, &members, &result, text, sizeof(text)), GC_MEMORY);
    CU_ASSERT_TRUE(result == OMID_ETIMEOUT && strcmp(text, "late") == 0);
    gc_cache_free(&cache);
}

static void test_configuration(void)
{
    static const char *const urls[] = {"ftp://x", "http://", "https://x/?a=1", "https://u@x/", "https://x y"};
    for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
        const char *key, *text;
        m = mock_new(&omid_plugin);
        mock_conf(m, "key", "k");
        mock_conf(m, "url", urls[i]);
        CU_ASSERT_EQUAL(mock_configure(m), OMID_EINVAL);
        CU_ASSERT_EQUAL(mock_conf_errors(m, &key, &text), 1);
        CU_ASSERT_STRING_EQUAL(key, "url");
        CU_ASSERT_EQUAL(strncmp(text, "expected", 8), 0);
        mock_free(&m);
    }
}

int main(void)
{
    static CU_TestInfo tests[] = {{"the request and the answer", test_request},
                                  {"coordinates that are none", test_range},
                                  {"places as text", test_text},
                                  {"answers that are not usable", test_bad_answers},
                                  {"no answer", test_no_answer},
                                  {"what may be missing", test_lenient},
                                  {"one look-up for many", test_joined},
                                  {"one look-up for all reactors", test_reactors},
                                  {"stopped while it waits", test_stop_waiting},
                                  {"kept in the store", test_kept},
                                  {"the cache", test_cache},
                                  {"configuration", test_configuration},
                                  CU_TEST_INFO_NULL};
    static CU_SuiteInfo suites[] = {{"geocoding", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
