#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/magic.h"
#include "conf/conf.h"
#include "host/host.h"
#include "host/lint.h"
#include "unit.h"

/* After libev: both know an EV_NONE, of which this one is a macro. */
#include <link.h>

static const char *plugin_path(const char *name)
{
    static char path[512];
    snprintf(path, sizeof(path), "%s/%s.so", TEST_PLUGINS, name);
    return path;
}

static bool has(const struct lint *l, const char *symbol)
{
    for (unsigned i = 0; i < l->n; i++) {
        if (strcmp(l->finding[i].symbol, symbol) == 0)
            return l->finding[i].why[0] != '\0';
    }
    return false;
}

static const char *reason(const char *path)
{
    static char err[256];
    struct lint l;
    err[0] = '\0';
    CU_ASSERT_EQUAL(lint_file(path, &l, err, sizeof(err)), err[0] == '\0');
    return err;
}

/* ------------------------------------------------------------ findings */

static void test_blocking(void)
{
    struct lint l;
    char err[256], text[64];
    CU_ASSERT_TRUE_FATAL(lint_file(plugin_path("bad_block"), &l, err, sizeof(err)));
    CU_ASSERT_EQUAL(l.n, 2);
    CU_ASSERT_TRUE(has(&l, "sleep"));
    CU_ASSERT_TRUE(has(&l, "poll"));
    CU_ASSERT_FALSE(l.on_executors);
    CU_ASSERT_EQUAL(l.abi_major, OMID_ABI_MAJOR);
    lint_symbols(&l, text, sizeof(text));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "sleep"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "poll"));
    lint_symbols(&l, text, 20);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "of 2)"));
}

static void test_declared(void)
{
    struct lint l;
    char err[256];
    CU_ASSERT_TRUE_FATAL(lint_file(plugin_path("executors"), &l, err, sizeof(err)));
    CU_ASSERT_TRUE(l.on_executors);
    CU_ASSERT_EQUAL(l.n, 1);
    CU_ASSERT_TRUE(has(&l, "sleep"));
}

static void test_clean(void)
{
    struct lint l;
    char err[256];
    CU_ASSERT_TRUE(lint_file(plugin_path("good"), &l, err, sizeof(err)));
    CU_ASSERT_EQUAL(l.n, 0);
    CU_ASSERT_TRUE(lint_file(TEST_ECHO, &l, err, sizeof(err)));
    CU_ASSERT_EQUAL(l.n, 0);
}

#define REFUSED(path, text) CU_ASSERT_PTR_NOT_NULL(strstr(reason(path), text))

static void test_no_plugin(void)
{
    REFUSED(plugin_path("bad_magic"), "wrong magic 0x12345678");
    REFUSED(plugin_path("bad_major"), "built for ABI 2.0");
    REFUSED(plugin_path("bad_minor"), "newer ABI 1.");
    REFUSED(plugin_path("bad_size"), "bytes, expected");
    REFUSED(plugin_path("bad_symbol"), "no symbol omid_plugin");
    REFUSED(plugin_path("bad_tiny"), "has 4 bytes");
    REFUSED(plugin_path("nothing"), "No such file");
    REFUSED("/proc/self/exe", "omid_plugin"); /* position independent, with dynamic symbols, but no plugin */
    REFUSED("/dev/null", "not a regular file");
    REFUSED("/proc/self/cmdline", "file too short");
}

/* ------------------------------------------------------------ nothing of it runs */

static const struct omid_plugin *describe(const char *name, bool strict, char *err, size_t errlen)
{
    static struct loader *l;
    loader_free(&l);
    l = loader_new();
    struct conf_source s = loader_source(l);
    struct conf c = {.daemon.strict_lint = strict};
    unsetenv("OMID_TEST_CONSTRUCTED");
    s.core_read(s.arg, &c);
    const struct omid_plugin *p = name ? s.describe(s.arg, name, plugin_path(name), err, errlen) : NULL;
    return p;
}

static void test_constructors(void)
{
    char err[600];
    CU_ASSERT_PTR_NULL(describe("bad_magic", false, err, sizeof(err)));
    CU_ASSERT_PTR_NULL(getenv("OMID_TEST_CONSTRUCTED"));
    CU_ASSERT_PTR_NULL(describe("bad_block", true, err, sizeof(err)));
    CU_ASSERT_PTR_NULL(getenv("OMID_TEST_CONSTRUCTED"));
    CU_ASSERT_PTR_NOT_NULL(strstr(err, "bad_block.so: calls that block a loop, which daemon.strict_lint refuses: "));
    /* It would have been seen. */
    CU_ASSERT_PTR_NOT_NULL(describe("bad_block", false, err, sizeof(err)));
    CU_ASSERT_PTR_NOT_NULL_FATAL(getenv("OMID_TEST_CONSTRUCTED"));
    CU_ASSERT_PTR_NOT_NULL(describe("executors", true, err, sizeof(err)));
    CU_ASSERT_PTR_NOT_NULL(describe("good", true, err, sizeof(err)));
    describe(NULL, false, err, sizeof(err)); /* closes the last */
}

/* ------------------------------------------------------------ hostile files */

struct image {
    unsigned char *data;
    size_t len;
    int fd; /* a file in memory */
    char path[64];
};

static struct image image_of(const char *path)
{
    struct image im = {.fd = memfd_create("plugin", MFD_CLOEXEC)};
    struct stat st;
    int fd = open(path, O_RDONLY);
    omid_assert(fd >= 0 && im.fd >= 0 && fstat(fd, &st) == 0);
    im.len = (size_t)st.st_size;
    im.data = malloc(im.len);
    omid_assert(im.data != NULL && read(fd, im.data, im.len) == (ssize_t)im.len);
    close(fd);
    snprintf(im.path, sizeof(im.path), "/proc/self/fd/%d", im.fd);
    return im;
}

static void image_free(struct image *im)
{
    close(im->fd);
    free(im->data);
}

/* Whatever the answer: a reason, or findings that are in the list; and the sanitizers are content. */
static bool lint_image(struct image *im, size_t len)
{
    struct lint l;
    char err[256] = "";
    omid_assert(ftruncate(im->fd, (off_t)len) == 0);
    omid_assert(pwrite(im->fd, im->data, len, 0) == (ssize_t)len);
    bool ok = lint_file(im->path, &l, err, sizeof(err));
    CU_ASSERT_EQUAL(ok, err[0] == '\0');
    CU_ASSERT_TRUE(l.n <= LINT_MAX_FINDINGS);
    return ok;
}

static void test_architecture(void)
{
    struct image im = image_of(plugin_path("good"));
    char err[256] = "";
    struct lint l;
    im.data[offsetof(ElfW(Ehdr), e_machine)] ^= 1;
    CU_ASSERT_FALSE(lint_image(&im, im.len));
    im.data[offsetof(ElfW(Ehdr), e_machine)] ^= 1;
    im.data[EI_CLASS] = ELFCLASS32 + ELFCLASS64 - im.data[EI_CLASS];
    CU_ASSERT_FALSE(lint_image(&im, im.len));
    CU_ASSERT_FALSE(lint_file(im.path, &l, err, sizeof(err)));
    CU_ASSERT_PTR_NOT_NULL(strstr(err, "another architecture"));
    image_free(&im);
}

static void test_truncated(void)
{
    struct image im = image_of(plugin_path("bad_block"));
    unsigned taken = 0;
    CU_ASSERT_TRUE(lint_image(&im, im.len));
    for (size_t len = 0; len < im.len; len += len < 1024 ? 1 : 509)
        taken += lint_image(&im, len);
    /* Sections and debug information lie at the end and are not needed; the beginning is. */
    CU_ASSERT_TRUE(taken < im.len / 509);
    CU_ASSERT_FALSE(lint_image(&im, 4096));
    image_free(&im);
}

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static uint64_t nasty(uint32_t *seed)
{
    static const uint64_t values[] = {0,          1,          7,          0x7f,       0xff,      0xffff,
                                      0x7fffffff, 0x80000000, 0xffffffff, UINT64_MAX, INT64_MAX, UINT64_MAX - 15};
    uint32_t r = next_random(seed);
    return r & 1 ? values[(r >> 1) % ARRAY_LEN(values)] : r >> 8;
}

/* [from, from + len): where the loader's structures are; there each word is worth more than in code. */
static void mutate(struct image *im, size_t from, size_t len, unsigned rounds, uint32_t seed)
{
    unsigned char *good = malloc(im->len);
    omid_assert(good != NULL && len > 8 && from + len <= im->len);
    memcpy(good, im->data, im->len);
    for (unsigned i = 0; i < rounds; i++) {
        unsigned changes = 1 + next_random(&seed) % 4;
        for (unsigned k = 0; k < changes; k++) {
            uint64_t v = nasty(&seed);
            size_t n = (size_t)1 << next_random(&seed) % 4;
            size_t at = from + next_random(&seed) % (len - 8);
            memcpy(im->data + at / n * n, &v, n);
        }
        lint_image(im, im->len);
        memcpy(im->data, good, im->len);
    }
    free(good);
}

static void test_mutated(void)
{
    struct image im = image_of(plugin_path("bad_block"));
    ElfW(Ehdr) h;
    ElfW(Phdr) p;
    memcpy(&h, im.data, sizeof(h));
    mutate(&im, 0, sizeof(h), 2000, 1);
    mutate(&im, h.e_phoff, h.e_phnum * sizeof(p), 4000, 2);
    for (unsigned i = 0; i < h.e_phnum; i++) {
        memcpy(&p, im.data + h.e_phoff + i * sizeof(p), sizeof(p));
        if (p.p_type == PT_DYNAMIC)
            mutate(&im, p.p_offset, p.p_filesz, 4000, 3);
        if (p.p_type == PT_LOAD && p.p_offset == 0) /* hash, symbols, strings */
            mutate(&im, 0, p.p_filesz, 4000, 4);
    }
    image_free(&im);
}

/* Every word of the hash table, the symbols and the dynamic section at its extremes. */
static void test_extremes(void)
{
    struct image im = image_of(plugin_path("bad_tiny"));
    static const uint32_t values[] = {0, 1, 0x7fffffff, 0xffffffff, 0xfffffff0};
    ElfW(Ehdr) h;
    ElfW(Phdr) p;
    memcpy(&h, im.data, sizeof(h));
    for (unsigned i = 0; i < h.e_phnum; i++) {
        memcpy(&p, im.data + h.e_phoff + i * sizeof(p), sizeof(p));
        bool wanted = p.p_type == PT_DYNAMIC || (p.p_type == PT_LOAD && p.p_offset == 0);
        for (size_t at = p.p_offset; wanted && at + 4 <= p.p_offset + p.p_filesz; at += 4) {
            uint32_t former;
            memcpy(&former, im.data + at, 4);
            for (size_t k = 0; k < ARRAY_LEN(values); k++) {
                memcpy(im.data + at, &values[k], 4);
                CU_ASSERT_FALSE(lint_image(&im, im.len)); /* it has never been a plugin */
            }
            memcpy(im.data + at, &former, 4);
        }
    }
    image_free(&im);
}

int main(void)
{
    CU_TestInfo findings[] = {
        {"blocking calls are found, with a reason", test_blocking},
        {"a plugin that declares them", test_declared},
        {"plugins without one", test_clean},
        {"files that are no plugin of this omid", test_no_plugin},
        {"constructors of refused files don't run", test_constructors},
        CU_TEST_INFO_NULL,
    };
    CU_TestInfo hostile[] = {
        {"of another architecture", test_architecture},
        {"cut off anywhere", test_truncated},
        {"mutated", test_mutated},
        {"each word at its extremes", test_extremes},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {
        {"lint", NULL, NULL, NULL, NULL, findings},
        {"hostile files", NULL, NULL, NULL, NULL, hostile},
        CU_SUITE_INFO_NULL,
    };
    return unit_run(suites);
}
