/* What the plugins share: text, JSON, multipart, URLs. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/multipart.h"
#include "plugins/kit/json.h"
#include "plugins/kit/multipart.h"
#include "plugins/kit/outcome.h"
#include "plugins/kit/text.h"
#include "unit.h"

static void test_text(void)
{
    struct kit_text t = {0};
    kit_text_adds(&t, "a");
    kit_text_addf(&t, "%d-%0300d", 5, 7);
    CU_ASSERT_EQUAL(t.len, 303);
    CU_ASSERT_EQUAL(strlen(t.data), 303);
    kit_text_free(&t);
    kit_text_add_json(&t, "q\" b\\ n\n \xc3\xa4 \xff \xed\xa0\x80", 17);
    CU_ASSERT_STRING_EQUAL(t.data, "\"q\\\" b\\\\ n\\u000a \xc3\xa4 \\ufffd \\ufffd\\ufffd\\ufffd\"");
    kit_text_free(&t);
    const double numbers[] = {0.1, 52.5200066, -0.0, 1e300, 3, NAN};
    for (size_t i = 0; i < 6; i++) {
        kit_text_add_number(&t, numbers[i]);
        kit_text_adds(&t, " ");
    }
    CU_ASSERT_STRING_EQUAL(t.data, "0.1 52.5200066 -0 1e+300 3 null ");
    kit_text_free(&t);
    struct kit_text bounded = {.max = 10};
    kit_text_adds(&bounded, "1234567890");
    CU_ASSERT_FALSE(bounded.failed);
    kit_text_adds(&bounded, "1");
    CU_ASSERT_TRUE(bounded.failed && bounded.data == NULL && bounded.len == 0);
    kit_text_adds(&bounded, "1");
    CU_ASSERT_EQUAL(bounded.len, 0);
}

static void refuses(const char *text, size_t len, const char *why)
{
    struct kit_fault f = {""};
    yajl_val v = kit_json_parse(text, len, 4096, &f);
    CU_ASSERT_PTR_NULL(v);
    if (strstr(f.text, why) == NULL)
        fprintf(stderr, "%s: %s\n", text, f.text);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, why));
    kit_json_free(&v);
}

static void test_json_bad(void)
{
    static char deep[4096];
    refuses("", 0, "it is empty");
    refuses("<html>", 6, "no JSON");
    refuses("{} {}", 5, "no JSON");
    refuses("[1", 2, "no JSON");
    refuses("\"\xff\"", 3, "no JSON");
    refuses("[]\0[]", 5, "no JSON, from byte 3");
    refuses("\"a\\u0000b\"", 10, "NUL");
    memset(deep, '[', 70);
    memset(deep + 70, ']', 70);
    refuses(deep, 140, "more than 64 levels");
    memset(deep, ' ', sizeof(deep));
    refuses(deep, 5000, "5000 bytes, more than the 4096");
}

/* Is it what yajl itself makes of the text? */
static bool is_same(yajl_val a, yajl_val b)
{
    if (a->type != b->type)
        return false;
    if (YAJL_IS_STRING(a))
        return strcmp(a->u.string, b->u.string) == 0;
    if (YAJL_IS_NUMBER(a))
        return strcmp(a->u.number.r, b->u.number.r) == 0 && a->u.number.flags == b->u.number.flags &&
               (!YAJL_IS_INTEGER(a) || a->u.number.i == b->u.number.i) &&
               (!YAJL_IS_DOUBLE(a) || a->u.number.d == b->u.number.d);
    if (!YAJL_IS_OBJECT(a) && !YAJL_IS_ARRAY(a))
        return true;
    size_t n = YAJL_IS_OBJECT(a) ? a->u.object.len : a->u.array.len;
    bool same = n == (YAJL_IS_OBJECT(b) ? b->u.object.len : b->u.array.len);
    for (size_t i = 0; same && i < n; i++) {
        same = YAJL_IS_OBJECT(a) ? strcmp(a->u.object.keys[i], b->u.object.keys[i]) == 0 &&
                                       is_same(a->u.object.values[i], b->u.object.values[i])
                                 : is_same(a->u.array.values[i], b->u.array.values[i]);
    }
    return same;
}

static void test_json_tree(void)
{
    static char list[40000];
    static const char *const texts[] = {
        "null",
        " [ ] ",
        "{\"\":{}}",
        "\"\\u00e4\\n\\\"\\ud83d\\ude00 \xc3\xa4\"",
        "[true,false,null,0,-0,-1.5e-3,9223372036854775807,9223372036854775808,-9223372036854775807,1e999]",
        "{\"a\":1,\"b\":[[],[{}],{\"a\":{\"a\":[3]}}],\"a\":2,\"c\":\"\"}",
        list,
    };
    /* More values at once than the reader has places for as it begins, and than a chunk holds. */
    size_t at = (size_t)sprintf(list, "[");
    for (int i = 0; i < 3000; i++)
        at += (size_t)sprintf(list + at, "%s{\"k%d\":%d}", i ? "," : "", i % 7, i);
    strcpy(list + at, "]");
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct kit_fault f = {""};
        yajl_val ours = kit_json_parse(texts[i], strlen(texts[i]), sizeof(list), &f);
        yajl_val theirs = yajl_tree_parse(texts[i], NULL, 0);
        CU_ASSERT_PTR_NOT_NULL_FATAL(theirs);
        CU_ASSERT_TRUE(ours != NULL && is_same(ours, theirs));
        CU_ASSERT_STRING_EQUAL(f.text, "");
        yajl_tree_free(theirs);
        kit_json_free(&ours);
        CU_ASSERT_PTR_NULL(ours);
    }
}

static void test_json_rules(void)
{
    const struct kit_json_rules rules = {.max = 100, .max_depth = 2, .nul_cuts = true};
    struct kit_fault f = {""};
    const char *nul = "[\"a\\u0000b\",{\"c\\u0000d\":1}]";
    yajl_val v = kit_json_read(nul, strlen(nul), &rules, &f);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    CU_ASSERT_STRING_EQUAL(YAJL_GET_STRING(kit_json_at(v, 0)), "a");
    CU_ASSERT_PTR_NOT_NULL(kit_json_get(kit_json_at(v, 1), "c"));
    kit_json_free(&v);
    CU_ASSERT_PTR_NULL(kit_json_read("[[[]]]", 6, &rules, &f));
    CU_ASSERT_STRING_EQUAL(f.text, "more than 2 levels of JSON");
    CU_ASSERT_PTR_NULL(kit_json_read("[[[]]]", 6, &rules, NULL));
}

#define FAULT(call, expected)                     \
    do {                                          \
        struct kit_fault f = {""};                \
        CU_ASSERT_FALSE(call);                    \
        CU_ASSERT_STRING_EQUAL(f.text, expected); \
    } while (0)

static void test_json_members(void)
{
    static const char text[] = "{\"s\":\"x\",\"n\":1.5,\"i\":7,\"b\":true,\"a\":[1],\"o\":{\"k\":null},\"big\":1e999}";
    struct kit_fault none = {""};
    yajl_val v = kit_json_parse(text, sizeof(text) - 1, 1000, &none), m;
    const char *s;
    double d;
    int64_t i;
    bool b;
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    CU_ASSERT_TRUE(kit_json_string(v, "", "s", &s, &none) && strcmp(s, "x") == 0);
    CU_ASSERT_TRUE(kit_json_number(v, "", "n", &d, &none) && d == 1.5);
    CU_ASSERT_TRUE(kit_json_number(v, "", "i", &d, &none) && d == 7);
    CU_ASSERT_TRUE(kit_json_integer(v, "", "i", &i, &none) && i == 7);
    CU_ASSERT_TRUE(kit_json_bool(v, "", "b", &b, &none) && b);
    CU_ASSERT_TRUE(kit_json_array(v, "", "a", &m, &none) && kit_json_len(m) == 1);
    CU_ASSERT_TRUE(kit_json_number(kit_json_at(m, 0), "a[0]", NULL, &d, &none) && d == 1);
    CU_ASSERT_TRUE(kit_json_object(v, "", "o", &m, &none));
    CU_ASSERT_STRING_EQUAL(none.text, "");
    FAULT(kit_json_string(m, "o", "k", &s, &f), "o.k: expected a string, found null");
    FAULT(kit_json_string(v, "", "n", &s, &f), "n: expected a string, found a number");
    FAULT(kit_json_string(v, "", "zz", &s, &f), "zz: expected a string, found nothing");
    FAULT(kit_json_integer(v, "here", "n", &i, &f), "here.n: expected an integer, found a number");
    FAULT(kit_json_number(v, "", "big", &d, &f), "big: a number beyond all bounds");
    FAULT(kit_json_array(v, "", NULL, &m, &f), "expected an array, found an object");
    FAULT(kit_json_string(kit_json_get(v, "a"), "a", "k", &s, &f), "a: expected an object, found an array");
    kit_json_free(&v);
}

static void test_multipart(void)
{
    struct kit_multipart body;
    char header[128];
    kit_multipart_begin(&body, "0000-b");
    kit_multipart_field(&body, "language", "en");
    unsigned char *file = kit_multipart_file(&body, "file", "audio.wav", "audio/wav", 7);
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    memcpy(file, "R\r\n-\0-F", 7);
    CU_ASSERT_TRUE(kit_multipart_end(&body));
    kit_multipart_header(&body, header, sizeof(header));
    CU_ASSERT_STRING_EQUAL(header, "Content-Type: multipart/form-data; boundary=----omid-0000-b");
    struct multipart_part part[2];
    char boundary[MULTIPART_MAX_BOUNDARY + 1], why[200];
    size_t n;
    CU_ASSERT_TRUE_FATAL(multipart_boundary(header + 14, boundary, why, sizeof(why)));
    CU_ASSERT_TRUE_FATAL(multipart_parse(boundary, body.data, body.len, part, 2, &n, why, sizeof(why)));
    CU_ASSERT_EQUAL(n, 2);
    CU_ASSERT_STRING_EQUAL(part[0].name, "language");
    CU_ASSERT_TRUE(part[0].len == 2 && memcmp(part[0].data, "en", 2) == 0 && part[0].filename[0] == '\0');
    CU_ASSERT_STRING_EQUAL(part[1].name, "file");
    CU_ASSERT_STRING_EQUAL(part[1].filename, "audio.wav");
    CU_ASSERT_STRING_EQUAL(part[1].type, "audio/wav");
    CU_ASSERT_TRUE(part[1].len == 7 && memcmp(part[1].data, "R\r\n-\0-F", 7) == 0);
    kit_multipart_free(&body);
}

static void test_urls(void)
{
    static const char *const good[] = {"http://h", "https://h:1/a/b/"};
    static const char *const bad[] = {"",           "h",          "ftp://h",      "http://",        "http:///a",
                                      "http://?a",  "http://h?a", "http://h/#a",  "http://u@h",     "http://u:p@h/",
                                      "http://h a", "http://h\n", "http://h\x7f", "http://\xc3\xa9"};
    static const struct {
        const char *base, *path, *joined;
    } table[] = {{"http://h", "/a", "http://h/a"}, {"http://h/b//", "/a", "http://h/b/a"}, {"", "/a", "/a"}};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        CU_ASSERT_PTR_NULL(kit_url_fault(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CU_ASSERT_PTR_NOT_NULL(kit_url_fault(bad[i]));
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        char *joined = kit_url_join(table[i].base, table[i].path);
        CU_ASSERT_PTR_NOT_NULL_FATAL(joined);
        CU_ASSERT_STRING_EQUAL(joined, table[i].joined);
        free(joined);
    }
}

int main(void)
{
    static CU_TestInfo tests[] = {{"text", test_text},
                                  {"JSON that is none", test_json_bad},
                                  {"trees of JSON", test_json_tree},
                                  {"rules of JSON", test_json_rules},
                                  {"members of JSON", test_json_members},
                                  {"multipart", test_multipart},
                                  {"URLs", test_urls},
                                  CU_TEST_INFO_NULL};
    static CU_SuiteInfo suites[] = {{"kit", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
