/* The log as its readers see it. The clock is this file's: its functions take the place of base/clock.c. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/utf8.h"
#include "unit.h"

static atomic_uint_fast64_t now_ms = 1000000;

uint64_t clock_mono_ms(void)
{
    return atomic_load(&now_ms);
}

uint64_t clock_mono_ns(void)
{
    return atomic_load(&now_ms) * 1000000;
}

uint64_t clock_thread_cpu_ns(void)
{
    return 0;
}

int64_t clock_wall_ms(void)
{
    return 0;
}

void clock_format_utc(int64_t unix_ms, char out[32])
{
    (void)unix_ms;
    strcpy(out, "WHEN");
}

/* ------------------------------------------------------------------- capturing */

static FILE *file;
static int former = -1;

static void capture_start(void)
{
    fflush(stderr);
    file = tmpfile();
    former = dup(STDERR_FILENO);
    fcntl(fileno(file), F_SETFL, O_APPEND);
    dup2(fileno(file), STDERR_FILENO);
}

/* What was written, NUL-terminated; free() it. */
static char *capture_end(void)
{
    log_flush();
    dup2(former, STDERR_FILENO);
    close(former);
    struct buf b = BUF_INIT(0);
    char part[4096];
    size_t n;
    rewind(file);
    buf_puts(&b, "");
    while ((n = fread(part, 1, sizeof part, file)) > 0)
        buf_append(&b, part, n);
    fclose(file);
    return buf_steal(&b, NULL);
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
        n++;
    return n;
}

/* ----------------------------------------------------------------------- tests */

static void test_text(void)
{
    capture_start();
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    log_info("mod", "plain message");
    log_info("mod", "fields", LS("word", "x"), LI("int", -5), LU("uint", UINT64_MAX), LD("real", 0.25), LB("yes", true),
             LS("none", NULL), LS("two words", "a b"), LS("quote", "a\"b\\c"), LS("eq", "a=b"));
    log_debug("mod", "not this one");
    char *s = capture_end();
    CU_ASSERT_STRING_EQUAL(s,
                           "WHEN info mod: plain message\n"
                           "WHEN info mod: fields word=x int=-5 uint=18446744073709551615 real=0.25 yes=true none=\"\" "
                           "two_words=\"a b\" quote=\"a\\\"b\\\\c\" eq=\"a=b\"\n");
    free(s);
}

static const char evil[] = "a\nWHEN error mod: forged\r\t\x1b[2J\x7f\xff\xc3\xa9\xc2\x9b\xe2\x80\xa8\xe2\x80\xae z\x01";

static void test_text_escapes(void)
{
    capture_start();
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    log_warning(evil, evil, LS(evil, evil));
    char *s = capture_end();
    CU_ASSERT_EQUAL(count(s, "\n"), 1);
    CU_ASSERT_EQUAL(s[strlen(s) - 1], '\n');
    CU_ASSERT(utf8_valid(s, strlen(s)));
    for (const char *p = s; p[1]; p++)
        CU_ASSERT((unsigned char)*p >= ' ' && *p != 0x7f);
    CU_ASSERT_PTR_NULL(strstr(s, "\xc2\x9b"));
    CU_ASSERT_PTR_NULL(strstr(s, "\xe2\x80"));
    CU_ASSERT_PTR_NOT_NULL(
        strstr(s, "=\"a\\nWHEN error mod: forged\\r\\t\\x1b[2J\\x7f\\xff\xc3\xa9\\x9b\\u2028\\u202e z\\x01\""));
    free(s);
}

static void test_json(void)
{
    char err[100];
    capture_start();
    log_setup(LOG_LEVEL_DEBUG, LOG_FORMAT_JSON, LOG_TARGET_STDERR);
    log_debug("mod", evil, LS("s", evil), LI("i", INT64_MAX), LU("u", UINT64_MAX), LD("d", 0.1), LD("nan", 0.0 / 0.0),
              LB("b", false), LS("null", NULL));
    char *s = capture_end();
    CU_ASSERT_EQUAL(count(s, "\n"), 1);
    CU_ASSERT_PTR_NOT_NULL(strstr(s, "\"u\":18446744073709551615"));
    yajl_val v = json_parse(s, strlen(s), 0, err, sizeof err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    CU_ASSERT_STRING_EQUAL(json_str(v, "level"), "debug");
    CU_ASSERT_STRING_EQUAL(json_str(v, "module"), "mod");
    CU_ASSERT_STRING_EQUAL(json_str(v, "time"), "WHEN");
    CU_ASSERT_EQUAL(strncmp(json_str(v, "message"), "a\nWHEN error", 12), 0);
    CU_ASSERT_EQUAL(json_int(v, "i", 0), INT64_MAX);
    CU_ASSERT_EQUAL(json_num(v, "d", 0), 0.1);
    CU_ASSERT(YAJL_IS_NULL(json_get(v, "nan")));
    CU_ASSERT(YAJL_IS_NULL(json_get(v, "null")));
    CU_ASSERT(!json_bool(v, "b", true));
    json_free(&v);
    free(s);
}

/* Too much for a line: clipped, yet whole. */
static void test_long(void)
{
    char err[100], *big = malloc(100001);
    memset(big, '\x01', 100000);
    big[100000] = 0;
    struct log_field fields[60];
    for (size_t i = 0; i < 60; i++)
        fields[i] = LS("a_rather_long_key_that_goes_on_and_on_and_on_and_on_and_on_and_on", big);
    for (int json = 0; json < 2; json++) {
        capture_start();
        log_setup(LOG_LEVEL_INFO, json ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
        log_emit(LOG_LEVEL_INFO, big, big, fields, 60);
        log_info("mod", "one long value", LS("v", big), LI("after", 7));
        char *s = capture_end();
        CU_ASSERT_EQUAL(count(s, "\n"), 2);
        char *second = strchr(s, '\n') + 1;
        CU_ASSERT(second - s < 8200 && strlen(second) < 8200);
        CU_ASSERT_PTR_NOT_NULL(strstr(second, json ? "\"after\":7}" : " after=7\n"));
        CU_ASSERT_PTR_NOT_NULL(strstr(second, "..."));
        if (json) {
            yajl_val v = json_parse(s, (size_t)(second - s), 0, err, sizeof err);
            CU_ASSERT_PTR_NOT_NULL(v);
            json_free(&v);
        }
        free(s);
    }
    /* A cut never falls into a character. */
    for (size_t i = 0; i + 3 < 100000; i += 3)
        memcpy(big + i, "\xe2\x82\xac", 3);
    for (size_t shift = 0; shift < 3; shift++) {
        memset(big, 'x', shift);
        for (size_t i = shift; i + 3 < 100000; i += 3)
            memcpy(big + i, "\xe2\x82\xac", 3);
        capture_start();
        log_setup(LOG_LEVEL_INFO, LOG_FORMAT_JSON, LOG_TARGET_STDERR);
        log_info("mod", "euros", LS("v", big));
        char *s = capture_end();
        CU_ASSERT(utf8_valid(s, strlen(s)));
        CU_ASSERT_PTR_NULL(strstr(s, "\xef\xbf\xbd"));
        free(s);
    }
    free(big);
}

static void test_repeats(void)
{
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    capture_start();
    for (int i = 0; i < 50; i++)
        log_warning("mod", "same fault", LI("n", i));
    log_warning("other", "same fault");
    for (int i = 0; i < 250; i++)
        log_info("mod", "no fault");
    atomic_fetch_add(&now_ms, 9999);
    log_warning("mod", "same fault");
    char *s = capture_end();
    CU_ASSERT_EQUAL(count(s, "warning mod: same fault"), 10);
    CU_ASSERT_EQUAL(count(s, "warning other: same fault"), 1);
    CU_ASSERT_EQUAL(count(s, "info mod: no fault"), 200);
    CU_ASSERT_EQUAL(count(s, "warning mod: repeated lines were held back line=\"same fault\" times=41\n"), 1);
    CU_ASSERT_EQUAL(count(s, "info mod: repeated lines were held back line=\"no fault\" times=50\n"), 1);
    free(s);
}

static void test_window(void)
{
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    capture_start();
    for (int i = 0; i < 15; i++)
        log_error("mod", "again");
    atomic_fetch_add(&now_ms, 10000);
    log_info("unrelated", "told by whoever comes next");
    log_error("mod", "again");
    char *s = capture_end();
    char *told = strstr(s, "error mod: repeated lines were held back line=again times=5\n"),
         *next = strstr(s, "unrelated");
    CU_ASSERT(told && next && told < next);
    CU_ASSERT_EQUAL(count(s, "error mod: again"), 11);
    CU_ASSERT_EQUAL(count(s, "held back"), 1);
    free(s);
}

/* Many kinds at once: each keeps its own count, whatever slots they would share. */
static void test_many_kinds(void)
{
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    capture_start();
    for (int round = 0; round < 30; round++) {
        for (int kind = 0; kind < 100; kind++) {
            char message[32];
            snprintf(message, sizeof message, "kind %d", kind);
            log_error("many", message);
        }
    }
    char *s = capture_end();
    CU_ASSERT_EQUAL(count(s, "error many: kind"), 1000);
    CU_ASSERT_EQUAL(count(s, "times=20\n"), 100);
    free(s);
    /* More kinds than are watched: nothing is lost but the limit itself; the counts still add up. */
    capture_start();
    for (int i = 0; i < 3000; i++) {
        char message[32];
        snprintf(message, sizeof message, "kind %d", i % 300);
        log_error("more", message);
    }
    s = capture_end();
    CU_ASSERT_EQUAL(count(s, "error more: kind"), 3000);
    free(s);
}

enum { THREADS = 4, LINES = 2000 };

static void *writer(void *arg)
{
    char module[16];
    snprintf(module, sizeof module, "thread%d", *(int *)arg);
    for (int i = 0; i < LINES; i++) {
        char message[32];
        snprintf(message, sizeof message, "line %d", i);
        log_info(module, message, LI("n", i), LS("filler", "0123456789012345678901234567890123456789"));
    }
    return NULL;
}

static void test_threads(void)
{
    pthread_t t[THREADS];
    int id[THREADS];
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    capture_start();
    for (int i = 0; i < THREADS; i++) {
        id[i] = i;
        CU_ASSERT_EQUAL(pthread_create(&t[i], NULL, writer, &id[i]), 0);
    }
    for (int i = 0; i < 100; i++) /* meanwhile */
        log_setup(i % 2 ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    char *s = capture_end(), *save = NULL;
    size_t whole = 0;
    for (char *line = strtok_r(s, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        whole += strncmp(line, "WHEN info thread", 16) == 0 && line[strlen(line) - 1] == '9';
    CU_ASSERT_EQUAL(whole, THREADS * LINES);
    free(s);
}

static void test_lost(void)
{
    /* stderr that takes nothing: counted, no crash, no wait. */
    int fd[2];
    int64_t before = metric_value(metric_counter("omid_log_lines_lost_total", ""));
    CU_ASSERT_EQUAL_FATAL(pipe2(fd, O_NONBLOCK), 0);
    char zeros[4096] = "";
    while (write(fd[1], zeros, sizeof zeros) > 0)
        ;
    int saved = dup(STDERR_FILENO);
    dup2(fd[1], STDERR_FILENO);
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    log_info("mod", "nobody reads");
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fd[0]);
    close(fd[1]);
    CU_ASSERT_EQUAL(metric_value(metric_counter("omid_log_lines_lost_total", "")), before + 1);
}

/* ------------------------------------------------------------ syslog and journal */

static int listen_at(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    return fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 ? fd : -1;
}

static bool has(const char *data, ssize_t len, const char *what)
{
    return len > 0 && memmem(data, (size_t)len, what, strlen(what)) != NULL;
}

static bool put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return ok;
}

/* A user and a mount namespace, in which nothing reaches the world's mounts. */
static bool apart(void)
{
    char uid[64], gid[64];
    snprintf(uid, sizeof uid, "0 %u 1", (unsigned)geteuid());
    snprintf(gid, sizeof gid, "0 %u 1", (unsigned)getegid());
    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 && put("/proc/self/uid_map", uid) &&
           put("/proc/self/setgroups", "deny") && put("/proc/self/gid_map", gid) &&
           mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 && mount("none", "/run", "tmpfs", 0, NULL) == 0 &&
           mount("none", "/dev", "tmpfs", 0, NULL) == 0;
}

/* In a mount namespace of its own, where the sockets of both daemons are ours. 0: as it should be, 2: not allowed. */
static int daemons_child(void)
{
    char got[8192];
    if (!apart())
        return 2;
    mkdir("/run/systemd", 0755);
    mkdir("/run/systemd/journal", 0755);
    int journal = listen_at("/run/systemd/journal/socket"), sys = listen_at("/dev/log");
    if (journal < 0 || sys < 0)
        return 2;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_JSON, LOG_TARGET_JOURNALD);
    log_warning("mod", "to the journal", LS("the-key", "two\nlines"), LI("n", 5));
    ssize_t n = recv(journal, got, sizeof got, 0);
    if (!has(got, n, "MESSAGE=mod: to the journal the-key=\"two\\nlines\" n=5\n") || !has(got, n, "PRIORITY=4\n") ||
        !has(got, n, "SYSLOG_IDENTIFIER=omid\n") || !has(got, n, "OMID_MODULE=mod\n") || !has(got, n, "OMID_N=5\n"))
        return 3;
    static const char binary[] = "OMID_THE_KEY\n\x09\0\0\0\0\0\0\0two\nlines\n";
    if (!memmem(got, (size_t)n, binary, sizeof binary - 1) || has(got, n, "CODE_FILE"))
        return 4;
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_SYSLOG);
    log_error("mod", "to syslog %s", LS("key", "a\nb"));
    n = recv(sys, got, sizeof got, 0);
    if (!has(got, n, "<27>") || !has(got, n, "omid[") || !has(got, n, ": mod: to syslog %s key=\"a\\nb\""))
        return 5;
    return 0;
}

static void test_daemons(void)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(daemons_child());
    CU_ASSERT_FATAL(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    if (WEXITSTATUS(status) == 2)
        printf("(skipped: no mount namespace here) ");
    CU_ASSERT(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 2);
}

int main(void)
{
    CU_TestInfo lines[] = {{"text", test_text}, {"text escapes", test_text_escapes}, {"JSON", test_json},
                           {"long", test_long}, {"threads", test_threads},           {"lost", test_lost},
                           CU_TEST_INFO_NULL};
    CU_TestInfo repeats[] = {
        {"limit", test_repeats}, {"window", test_window}, {"many kinds", test_many_kinds}, CU_TEST_INFO_NULL};
    CU_TestInfo daemons[] = {{"journal and syslog", test_daemons}, CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"lines", NULL, NULL, NULL, NULL, lines},
                             {"repeats", NULL, NULL, NULL, NULL, repeats},
                             {"daemons", NULL, NULL, NULL, NULL, daemons},
                             CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
