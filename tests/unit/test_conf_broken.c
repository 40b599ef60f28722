/*
 * Every file of tests/conf is broken in a way of its own. Its first line says how it must be reported:
 *     # expect: LINE KEY | TEXT; FILE:LINE KEY | TEXT; ...
 * exactly these errors, each naming file, line and key, with TEXT in the message. `# warn:` the same for warnings of a
 * file that loads.
 */
#include <glob.h>
#include <stdlib.h>

#include "conf_fake.h"
#include "unit.h"

#define MAX_EXPECTED 16

struct expected {
    char place[512]; /* "dir/file.conf:3: key" */
    char text[256];
    bool found;
};

static char *trim(char *s)
{
    s += strspn(s, " ");
    size_t n = strlen(s);
    while (n > 0 && (s[n - 1] == ' ' || s[n - 1] == '\n'))
        s[--n] = '\0';
    return s;
}

/* One of the expectations on the first line. */
static void read_expected(char *s, const char *file, bool warning, struct expected *e)
{
    char *bar = strstr(s, " | "), where[256], key[128] = "";
    *e = (struct expected){.found = false};
    if (bar) {
        *bar = '\0';
        snprintf(e->text, sizeof(e->text), "%s", trim(bar + 3));
    }
    s = trim(s);
    char *space = strchr(s, ' ');
    if (space) {
        snprintf(key, sizeof(key), "%s", trim(space));
        *space = '\0';
    }
    char *colon = strchr(s, ':');
    if (colon)
        snprintf(where, sizeof(where), "%.*s/%.100s", (int)(strrchr(file, '/') - file), file, s);
    else
        snprintf(where, sizeof(where), "%.140s:%.20s", file, s);
    snprintf(e->place, sizeof(e->place), "%s: %s%s%s", where, warning ? "warning: " : "", key, *key ? ": " : "");
}

static size_t read_header(const char *file, bool *warning, struct expected *e)
{
    char line[2048] = "", *rest = NULL;
    size_t n = 0;
    FILE *f = fopen(file, "r");
    if (!f || !fgets(line, sizeof(line), f))
        line[0] = '\0';
    if (f)
        fclose(f);
    *warning = strncmp(line, "# warn: ", 8) == 0;
    if (!*warning && strncmp(line, "# expect: ", 10) != 0)
        return 0;
    for (char *p = strtok_r(strchr(line, ':') + 1, ";", &rest); p && n < MAX_EXPECTED; p = strtok_r(NULL, ";", &rest))
        read_expected(p, file, *warning, &e[n++]);
    return n;
}

static bool check_file(const char *file)
{
    struct expected e[MAX_EXPECTED];
    bool warning, ok = true;
    size_t n = read_header(file, &warning, e);
    struct conf_faults faults = {.errors = 0};
    struct conf *c = conf_load(file, &fake_source, &faults);
    char *rest = NULL, *text = strdup(faults.text.data ? faults.text.data : "");
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        bool known = false;
        for (size_t i = 0; i < n && !known; i++) {
            known = !e[i].found && strncmp(line, e[i].place, strlen(e[i].place)) == 0 && strstr(line, e[i].text);
            if (known)
                e[i].found = true;
        }
        if (!known) {
            fprintf(stderr, "%s: not expected: %s\n", file, line);
            ok = false;
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (!e[i].found) {
            fprintf(stderr, "%s: missing: %s... %s\n", file, e[i].place, e[i].text);
            ok = false;
        }
    }
    if (n == 0 || (warning ? !c || faults.warnings != n || faults.errors != 0 : c || faults.errors != n)) {
        fprintf(stderr, "%s: %s, %u errors, %u warnings\n", file, c ? "loaded" : "refused", faults.errors,
                faults.warnings);
        ok = false;
    }
    free(text);
    conf_free(&c);
    conf_faults_free(&faults);
    return ok;
}

static void test_broken_files(void)
{
    const char *src = getenv("srcdir");
    char pattern[400];
    glob_t g;
    snprintf(pattern, sizeof(pattern), "%s/tests/conf/*.conf", src ? src : ".");
    CU_ASSERT_FATAL(glob(pattern, 0, NULL, &g) == 0);
    CU_ASSERT(g.gl_pathc >= 30);
    for (size_t i = 0; i < g.gl_pathc; i++)
        CU_ASSERT(check_file(g.gl_pathv[i]));
    globfree(&g);
}

static void expect_refused(const char *path, const char *text)
{
    struct conf_faults faults = {.errors = 0};
    struct conf *c = conf_load(path, &fake_source, &faults);
    CU_ASSERT_PTR_NULL(c);
    CU_ASSERT_EQUAL(faults.errors, 1);
    CU_ASSERT_FATAL(faults.text.data != NULL);
    CU_ASSERT(strstr(faults.text.data, path) != NULL && strstr(faults.text.data, text) != NULL);
    conf_faults_free(&faults);
}

static void test_unreadable_files(void)
{
    expect_refused("/nonexistent/omi.conf", "No such file");
    expect_refused("/", "is a directory");
    expect_refused("/dev/zero", "is larger than");
}

/* A fault must not leave anything behind in libConfuse's scanner, which is one per process. */
static void test_good_after_bad(void)
{
    static const char *const bad[] = {"store { commit = \"5ms\n}\n", "store { commit = '5ms",    "/* store {",
                                      "store { commit = \"\\9\" }",  "stt { models = { \"a\", ", "include(\"x"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct conf_faults faults = {.errors = 0};
        struct conf *c = conf_load_text(bad[i], "bad", &fake_source, &faults);
        CU_ASSERT_PTR_NULL(c);
        CU_ASSERT(faults.errors > 0);
        conf_faults_free(&faults);
        c = conf_load_text("store {\n commit = 7ms\n}\n", "good", &fake_source, &faults);
        CU_ASSERT_PTR_NOT_NULL_FATAL(c);
        CU_ASSERT_EQUAL(c->store.commit_ms, 7);
        conf_free(&c);
        conf_faults_free(&faults);
    }
}

/* A fault is one line, whatever stands in the value; and a secret is never in it. */
static void test_fault_lines(void)
{
    struct conf_faults faults = {.errors = 0};
    struct conf *c =
        conf_load_text("log { level = \"a\nb\033[31m\" }\nauth { admin_key = \"xyz\" }\n", "f", &fake_source, &faults);
    CU_ASSERT_PTR_NULL(c);
    CU_ASSERT_EQUAL(faults.errors, 2);
    CU_ASSERT_STRING_EQUAL(faults.text.data,
                           "f:1: log.level: expected one of error|warning|notice|info|debug, found \"a?b?[31m\"\n"
                           "f:3: auth.admin_key: expected a text of 4 to 256 bytes, found 3 bytes\n");
    conf_faults_free(&faults);
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Mutations of good text: it loads or there is an error with a line, never a crash, and libConfuse never meets
 * what the outline let through. */
static void test_mutations(void)
{
    static const char good[] = "# c\ningress { threads = 2 address = { \"127.0.0.1:0\", '[::1]:0' } /* x */ }\n"
                               "plugin fake { word = \"${HOME:-w}\\n\" words += { a, b } breaker { open = 1s } }\n"
                               "stt { models = x replay = 5s // y\n}\nexec { blocking = 3 }\n";
    static const char bytes[] = "{}()=+,\"'#/*\\$ \n\tax0-.|\x80\xff";
    uint32_t state = 1;
    for (int round = 0; round < 4000; round++) {
        char text[sizeof(good)];
        memcpy(text, good, sizeof(good));
        for (unsigned i = 0, n = 1 + next_random(&state) % 4; i < n; i++)
            text[next_random(&state) % (sizeof(good) - 1)] = bytes[next_random(&state) % (sizeof(bytes) - 1)];
        if (next_random(&state) % 4 == 0)
            text[next_random(&state) % (sizeof(good) - 1)] = '\0';
        struct conf_faults faults = {.errors = 0};
        struct conf *c = conf_load_text(text, "m", &fake_source, &faults);
        bool fine = (c != NULL) == (faults.errors == 0);
        const char *said = faults.text.data ? faults.text.data : "";
        if (strstr(said, "libConfuse") || strstr(said, "unexpected token") || strstr(said, "premature") ||
            strstr(said, "no such option"))
            fine = false;
        if (!fine)
            fprintf(stderr, "---- round %d\n%s\n----\n%s", round, text, said);
        CU_ASSERT(fine);
        conf_free(&c);
        conf_faults_free(&faults);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"broken files", test_broken_files},     {"unreadable files", test_unreadable_files},
        {"good after bad", test_good_after_bad}, {"fault lines", test_fault_lines},
        {"mutations", test_mutations},           CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"conf, broken", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
