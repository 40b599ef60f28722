/* JSON: what strangers send, and what is written. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/id.h"
#include "base/json.h"
#include "base/utf8.h"
#include "unit.h"

static char err[256];

static yajl_val parse(const char *s)
{
    return json_parse(s, strlen(s), 0, err, sizeof err);
}

static void refused(const char *s, size_t len)
{
    char *exact = malloc(len ? len : 1); /* so that a read behind it is seen */
    memcpy(exact, s, len);
    yajl_val v = json_parse(exact, len, 0, err, sizeof err);
    CU_ASSERT_PTR_NULL(v);
    CU_ASSERT(strlen(err) > 3 && !strchr(err, '\n'));
    if (v)
        json_free(&v);
    free(exact);
}

static void test_members(void)
{
    yajl_val v = parse("{\"s\":\"x\",\"n\":1.5,\"i\":42,\"big\":99999999999999999999,\"huge\":1e999,\"t\":true,"
                       "\"f\":false,\"z\":null,\"o\":{\"a\":1},\"l\":[1,\"2\"],\"d\":1,\"d\":2}");
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    CU_ASSERT_STRING_EQUAL(err, "");
    CU_ASSERT_STRING_EQUAL(json_str(v, "s"), "x");
    CU_ASSERT_PTR_NULL(json_str(v, "i"));
    CU_ASSERT_PTR_NULL(json_str(v, "absent"));
    CU_ASSERT_EQUAL(json_num(v, "n", 0), 1.5);
    CU_ASSERT_EQUAL(json_num(v, "i", 0), 42);
    CU_ASSERT_EQUAL(json_num(v, "s", -1), -1);
    CU_ASSERT_EQUAL(json_num(v, "huge", -1), -1);
    CU_ASSERT_EQUAL(json_num(v, "big", 0), 1e20);
    CU_ASSERT_EQUAL(json_int(v, "i", 0), 42);
    CU_ASSERT_EQUAL(json_int(v, "n", 7), 7);
    CU_ASSERT_EQUAL(json_int(v, "big", 7), 7);
    CU_ASSERT_EQUAL(json_int(v, "d", 0), 2);
    CU_ASSERT(json_bool(v, "t", false));
    CU_ASSERT(!json_bool(v, "f", true));
    CU_ASSERT(json_bool(v, "i", true));
    CU_ASSERT_EQUAL(json_int(json_object(v, "o"), "a", 0), 1);
    CU_ASSERT_PTR_NULL(json_object(v, "l"));
    CU_ASSERT_PTR_NULL(json_array(v, "o"));
    CU_ASSERT_EQUAL(json_len(json_array(v, "l")), 2);
    CU_ASSERT_EQUAL(json_len(v), 0);
    CU_ASSERT_PTR_NULL(json_at(json_array(v, "l"), 2));
    CU_ASSERT_PTR_NULL(json_get(NULL, "a"));
    CU_ASSERT_PTR_NULL(json_get(json_array(v, "l"), "a"));
    json_free(&v);
    CU_ASSERT_PTR_NULL(v);
}

static void test_refused(void)
{
    static const char *const bad[] = {"",
                                      " ",
                                      "{",
                                      "[1,",
                                      "[1]x",
                                      "[1][2]",
                                      "{\"a\":}",
                                      "{a:1}",
                                      "[01]",
                                      "[\"\x01\"]",
                                      "nul",
                                      "[1,]",
                                      "\"\\x\"",
                                      "[\"\\u12\"",
                                      "[\"\\u",
                                      "[\"\\ud800\\",
                                      "[\"\\",
                                      "]",
                                      "\xef\xbb\xbf[]",
                                      "[1]//c",
                                      "/*c*/[1]",
                                      "[\"\xff\"]",
                                      "[\"\xc0\xaf\"]",
                                      "[\"\xed\xa0\x80\"]",
                                      "[\"\xe2\x82"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        refused(bad[i], strlen(bad[i]));
    refused("[1]\0", 4);
    refused("[\"\0\"]", 5);
    CU_ASSERT_PTR_NULL(json_parse("[1,2]", 5, 4, err, sizeof err));
    CU_ASSERT_PTR_NOT_NULL(strstr(err, "5 bytes"));
}

static yajl_val nested(unsigned depth, const char *before)
{
    struct buf b = BUF_INIT(0);
    buf_puts(&b, before);
    for (unsigned i = 0; i < depth; i++)
        buf_append(&b, i % 2 ? "[" : "{\"[\\\"{\":", i % 2 ? 1 : 8);
    buf_puts(&b, "1");
    for (unsigned i = depth; i-- > 0;)
        buf_append(&b, i % 2 ? "]" : "}", 1);
    yajl_val v = json_parse(b.data, b.len, 0, err, sizeof err);
    buf_free(&b);
    return v;
}

static void test_depth(void)
{
    yajl_val v = nested(JSON_MAX_DEPTH, "");
    CU_ASSERT_PTR_NOT_NULL(v);
    json_free(&v);
    CU_ASSERT_PTR_NULL(nested(JSON_MAX_DEPTH + 1, ""));
    CU_ASSERT_PTR_NULL(nested(1000000, ""));
    CU_ASSERT_PTR_NULL(nested(1000000, "/*\"*/")); /* a quote in a comment would hide the brackets */
    CU_ASSERT_PTR_NULL(nested(1000000, "//\"\n"));
    CU_ASSERT_PTR_NULL(nested(1000000, "]"));
}

static void text_of(const char *json, const char *expected)
{
    yajl_val v = parse(json);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    const char *s = YAJL_GET_STRING(json_at(v, 0));
    CU_ASSERT_PTR_NOT_NULL_FATAL(s);
    CU_ASSERT_STRING_EQUAL(s, expected);
    CU_ASSERT(utf8_valid(s, strlen(s)));
    json_free(&v);
}

static void test_surrogates(void)
{
    text_of("[\"\\ud83d\\ude00\"]", "\xf0\x9f\x98\x80");
    text_of("[\"a\\ud83dx\"]", "a\xef\xbf\xbdx");
    text_of("[\"\\ud83d\"]", "\xef\xbf\xbd");
    text_of("[\"\\uDE00y\"]", "\xef\xbf\xbdy");
    text_of("[\"\\ud83d\\u0041\"]", "\xef\xbf\xbd"
                                    "A");
    text_of("[\"\\ud83d\\ud83d\\ude00\"]", "\xef\xbf\xbd\xf0\x9f\x98\x80");
    text_of("[\"\\\\ud83d\"]", "\\ud83d"); /* an escaped backslash, not a surrogate */
    text_of("[\"\\\\\\ud83d\"]", "\\\xef\xbf\xbd");
    text_of("[\"x\\u0000y\"]", "x");
}

/* Changed, cut and doubled: whatever comes, no crash, no leak, and what is taken can be written again. */
static void test_mutations(void)
{
    static const char seed[] =
        "{\"type\":\"x\\ud83d\\ude00\",\"a\":[1,-2.5e3,true,false,null,{\"b\":\"\xc3\xa9\"}],\"c\":{}}";
    unsigned taken = 0;
    for (int i = 0; i < 20000; i++) {
        char text[sizeof seed];
        size_t len = sizeof seed - 1;
        memcpy(text, seed, len);
        for (unsigned k = id_random_u64() % 3; k-- > 0;)
            text[id_random_u64() % len] = "{}[]\",:\\/u0d8e\xff\x01*"[id_random_u64() % 18];
        if (i % 4 == 0)
            len = id_random_u64() % len;
        yajl_val v = json_parse(text, len, 0, err, sizeof err);
        if (!v)
            continue;
        struct buf b = BUF_INIT(0);
        struct json_w w;
        json_w_start(&w, &b);
        json_w_tree(&w, v);
        CU_ASSERT(json_w_end(&w));
        json_free(&v);
        v = json_parse(b.data, b.len, 0, err, sizeof err);
        CU_ASSERT_PTR_NOT_NULL(v);
        json_free(&v);
        buf_free(&b);
        taken++;
    }
    CU_ASSERT(taken > 1000);
}

/* ----------------------------------------------------------------------- writing */

static void test_write(void)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "s", "a\"b\\c\n\r\t\x01\x1f/\xc3\xa9");
    json_w_kstr(&w, "bad",
                "a\xff"
                "b\xe2\x82");
    json_w_kstr(&w, "null", NULL);
    json_w_kint(&w, "i", INT64_MIN);
    json_w_knum(&w, "n", 0.1);
    json_w_kbool(&w, "t", true);
    json_w_key(&w, "l");
    json_w_open(&w, '[');
    json_w_open(&w, '[');
    json_w_close(&w, ']');
    json_w_open(&w, '{');
    json_w_close(&w, '}');
    json_w_null(&w);
    json_w_raw(&w, "[1]", 3);
    json_w_strn(&w, "x\0y", 3);
    json_w_close(&w, ']');
    json_w_close(&w, '}');
    CU_ASSERT(json_w_end(&w));
    CU_ASSERT_STRING_EQUAL(b.data, "{\"s\":\"a\\\"b\\\\c\\n\\r\\t\\u0001\\u001f/\xc3\xa9\",\"bad\":\"a\xef\xbf\xbd"
                                   "b\xef\xbf\xbd\xef\xbf\xbd\",\"null\":null,\"i\":-9223372036854775808,\"n\":0.1,"
                                   "\"t\":true,\"l\":[[],{},null,[1],\"x\\u0000y\"]}");
    buf_free(&b);
}

static void number(double d, const char *expected)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_num(&w, d);
    CU_ASSERT(json_w_end(&w));
    if (expected)
        CU_ASSERT_STRING_EQUAL(b.data, expected);
    if (isfinite(d))
        CU_ASSERT_EQUAL(strtod(b.data, NULL), d);
    buf_free(&b);
}

static void test_numbers(void)
{
    number(3, "3.0");
    number(-0.0, "-0.0");
    number(0.1, "0.1");
    number(0.1 + 0.2, "0.30000000000000004");
    number(1e300, "1e+300");
    number(NAN, "null");
    number(INFINITY, "null");
    for (int i = 0; i < 20000; i++) {
        double d;
        uint64_t bits = id_random_u64();
        memcpy(&d, &bits, sizeof d);
        number(d, NULL);
        number((double)(int64_t)(bits >> 30) / 1000, NULL);
    }
}

static void start(struct json_w *w, struct buf *b)
{
    buf_clear(b);
    json_w_start(w, b);
}

static void test_misuse(void)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    start(&w, &b);
    json_w_open(&w, '{');
    CU_ASSERT(!json_w_end(&w)); /* not closed */
    json_w_close(&w, ']');
    CU_ASSERT(!json_w_end(&w)); /* another kind */
    start(&w, &b);
    json_w_open(&w, '{');
    json_w_int(&w, 1); /* no key */
    json_w_close(&w, '}');
    CU_ASSERT(!json_w_end(&w));
    start(&w, &b);
    json_w_open(&w, '{');
    json_w_key(&w, "a"); /* no value */
    json_w_close(&w, '}');
    CU_ASSERT(!json_w_end(&w));
    start(&w, &b);
    json_w_open(&w, '[');
    json_w_key(&w, "a"); /* in an array */
    json_w_int(&w, 1);
    json_w_close(&w, ']');
    CU_ASSERT(!json_w_end(&w));
    start(&w, &b);
    json_w_close(&w, ']');
    CU_ASSERT(!json_w_end(&w));
    start(&w, &b);
    for (int i = 0; i < JSON_MAX_DEPTH + 5; i++)
        json_w_open(&w, '[');
    for (int i = 0; i < JSON_MAX_DEPTH + 5; i++)
        json_w_close(&w, ']');
    CU_ASSERT(!json_w_end(&w));
    buf_free(&b);
    /* Every bound below what is needed fails; nothing is written behind it. */
    for (size_t max = 1; max < 30; max++) {
        b = BUF_INIT(max);
        json_w_start(&w, &b);
        json_w_open(&w, '{');
        json_w_kstr(&w, "key", "v\nv");
        json_w_kint(&w, "i", 5);
        json_w_close(&w, '}');
        CU_ASSERT_EQUAL(json_w_end(&w), max >= strlen("{\"key\":\"v\\nv\",\"i\":5}"));
        CU_ASSERT(b.len <= max);
        buf_free(&b);
    }
}

int main(void)
{
    CU_TestInfo reading[] = {{"members", test_members},       {"refused", test_refused},     {"depth", test_depth},
                             {"surrogates", test_surrogates}, {"mutations", test_mutations}, CU_TEST_INFO_NULL};
    CU_TestInfo writing[] = {
        {"values", test_write}, {"numbers", test_numbers}, {"misuse and bounds", test_misuse}, CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {
        {"reading", NULL, NULL, NULL, NULL, reading}, {"writing", NULL, NULL, NULL, NULL, writing}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
