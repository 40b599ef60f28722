/* multipart/form-data: what is found in good bodies, and what is said of bad ones. */
#include <stdio.h>
#include <string.h>

#include "formats/multipart.h"
#include "unit.h"

#define MAX 4

static struct multipart_part part[MAX];
static size_t n;
static char err[200];

static bool parse(const char *body, size_t len)
{
    return multipart_parse("B", body, len, part, MAX, &n, err, sizeof(err));
}

static bool parses(const char *body)
{
    return parse(body, strlen(body));
}

static void test_boundary(void)
{
    char b[MULTIPART_MAX_BOUNDARY + 1];
    static const struct {
        const char *type, *boundary; /* NULL: refused */
    } cases[] = {
        {"multipart/form-data; boundary=abc", "abc"},
        {"Multipart/Form-Data ;charset=x; BOUNDARY=\"a b\"", "a b"},
        {"multipart/form-data; x=\"; boundary=no\"; boundary=yes", "yes"},
        {"multipart/form-data; boundary=\"a\\bc\"; x", "abc"},
        {"multipart/form-data", NULL},
        {"multipart/form-data; boundary=", NULL},
        {"multipart/form-data; boundary=a\x01", NULL},
        {"multipart/mixed; boundary=a", NULL},
        {"", NULL},
        {"multipart/form-data; boundary=01234567890123456789012345678901234567890123456789012345678901234567890", NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bool ok = multipart_boundary(cases[i].type, b, err, sizeof(err));
        CU_ASSERT_EQUAL(ok, cases[i].boundary != NULL);
        CU_ASSERT(ok ? strcmp(b, cases[i].boundary) == 0 : strncmp(err, "Content-Type: ", 14) == 0);
    }
}

static void test_parts(void)
{
    CU_ASSERT_FATAL(
        parses("preamble\r\n--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\n--B \t\r\n"
               "content-disposition:form-data;filename=\"C:\\\\x\\\\..\\\\y.wav\"; name=f\r\n"
               "Content-Type: audio/wav\r\nX-Other: 1\r\n\r\n\r\n--C\r\n\r\n--B\r\n\r\n\r\n--B--\r\nepilogue"));
    CU_ASSERT_EQUAL_FATAL(n, 3);
    CU_ASSERT_STRING_EQUAL(part[0].name, "a");
    CU_ASSERT(part[0].len == 3 && memcmp(part[0].data, "one", 3) == 0);
    CU_ASSERT_STRING_EQUAL(part[1].name, "f");
    CU_ASSERT_STRING_EQUAL(part[1].filename, "y.wav");
    CU_ASSERT_STRING_EQUAL(part[1].type, "audio/wav");
    CU_ASSERT(part[1].len == 7 && memcmp(part[1].data, "\r\n--C\r\n", 7) == 0);
    CU_ASSERT(part[2].len == 0 && part[2].name[0] == '\0' && part[2].filename[0] == '\0');
    CU_ASSERT(parses("--B--"));
    CU_ASSERT_EQUAL(n, 0);
    CU_ASSERT(parses("--B\r\n\r\n\r\n--B--")); /* one with nothing at all */
    CU_ASSERT(n == 1 && part[0].len == 0);
    static const char nul[] = "--B\r\n\r\na\0b\r\n--B--";
    CU_ASSERT(parse(nul, sizeof(nul) - 1));
    CU_ASSERT(n == 1 && part[0].len == 3 && memcmp(part[0].data, "a\0b", 3) == 0);
}

/* Wherever it ends: a fault, and nothing is read beyond the end. */
static void test_cuts(void)
{
    static const char body[] = "--B \r\ncontent-disposition: form-data; filename=\"..\\\"/;name=x\"; name=f\r\n\r\n"
                               "\r\n--B\r\n\r\nsecond\r\n--B--";
    CU_ASSERT_FATAL(parses(body));
    CU_ASSERT(n == 2 && part[0].len == 0 && part[1].len == 6);
    CU_ASSERT_STRING_EQUAL(part[0].filename, ";name=x");
    CU_ASSERT_STRING_EQUAL(part[0].name, "f");
    for (size_t cut = 0; cut + 3 < sizeof(body); cut++) {
        char *piece = malloc(cut + (cut == 0));
        memcpy(piece, body, cut);
        err[0] = '\0';
        CU_ASSERT_FALSE(parse(piece, cut));
        CU_ASSERT_NOT_EQUAL(err[0], '\0');
        free(piece);
    }
}

static void test_names(void)
{
    static const struct {
        const char *given, *kept;
    } cases[] = {{"a.wav", "a.wav"},     {"../../etc/passwd", "passwd"},
                 {"..", "unnamed"},      {"", ""},
                 {"/", "unnamed"},       {"a/../.", "unnamed"},
                 {"x\ty.wav", "xy.wav"}, {"caf\xc3\xa9.wav", "caf\xc3\xa9.wav"},
                 {".hidden", ".hidden"}, {"\\\\\\\\host\\\\c$\\\\z", "z"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char body[256];
        snprintf(body, sizeof(body), "--B\r\nContent-Disposition: form-data; filename=\"%s\"\r\n\r\nx\r\n--B--",
                 cases[i].given);
        CU_ASSERT_FATAL(parses(body));
        CU_ASSERT_STRING_EQUAL(part[0].filename, cases[i].kept);
    }
    /* Too long: not a field without a file. */
    char body[512], name[MULTIPART_MAX_NAME + 2] = "";
    memset(name, 'x', MULTIPART_MAX_NAME + 1);
    snprintf(body, sizeof(body), "--B\r\nContent-Disposition: form-data; filename=\"%s\"\r\n\r\nx\r\n--B--", name);
    CU_ASSERT_FALSE(parses(body));
    CU_ASSERT_STRING_EQUAL(err, "part 1: its file name is longer than 255 bytes");
}

static void test_bad(void)
{
    static const struct {
        const char *body, *why;
    } cases[] = {
        {"", "its boundary is not in it"},
        {"--A\r\n", "its boundary is not in it"},
        {"x--B\r\n", "its boundary is not in it"},
        {"--B", "part 1: it does not begin on a line of its own"},
        {"--Bx\r\n\r\ny\r\n--B--", "part 1: it does not begin on a line of its own"},
        {"--B\r\n", "part 1: it ends within its header lines"},
        {"--B\r\nA: b", "part 1: it ends within its header lines"},
        {"--B\r\nno colon\r\n\r\nx\r\n--B--", "part 1: expected header lines, found \"no colon\""},
        {"--B\r\nContent-Disposition: attachment\r\n\r\nx\r\n--B--", "part 1: Content-Disposition: expected form-data"},
        {"--B\r\nContent-Disposition: form-data; name=f; filename*=UTF-8''a\r\n\r\nx\r\n--B--",
         "part 1: expected filename, found filename*"},
        {"--B\r\n\r\nx", "part 1: it has no end"},
        {"--B\r\n\r\nx\r\n--B\r\n\r\ny\r\n--C--", "part 2: it has no end"},
        {"--B\r\n\r\n1\r\n--B\r\n\r\n2\r\n--B\r\n\r\n3\r\n--B\r\n\r\n4\r\n--B\r\n\r\n5\r\n--B--",
         "part 5: there are more parts than are taken"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        CU_ASSERT_FALSE(parses(cases[i].body));
        if (strstr(err, cases[i].why) == NULL)
            printf("%zu: %s\n", i, err);
        CU_ASSERT_PTR_NOT_NULL(strstr(err, cases[i].why));
    }
}

int main(void)
{
    static CU_TestInfo tests[] = {{"the boundary", test_boundary}, {"parts", test_parts},
                                  {"cut anywhere", test_cuts},     {"names of files", test_names},
                                  {"bad bodies", test_bad},        CU_TEST_INFO_NULL};
    static CU_SuiteInfo suites[] = {{"multipart", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
