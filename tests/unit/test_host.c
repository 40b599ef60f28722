#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/metrics.h"
#include "host_rig.h"
#include "log_catch.h"
#include "unit.h"

/* ------------------------------------------------------------ loader */

/* The reason why this file is refused, or "" when it is not. */
static const char *refusal_of(const char *name, const char *path)
{
    static char err[600];
    err[0] = '\0';
    struct loader *l = loader_new();
    struct conf_source s = loader_source(l);
    const struct omid_plugin *p = s.describe(s.arg, name, path, err, sizeof(err));
    CU_ASSERT_EQUAL(p == NULL, err[0] != '\0');
    loader_free(&l);
    return err;
}

static const char *refusal(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s.so", TEST_PLUGINS, name);
    return refusal_of(name, path);
}

#define REFUSED(name, text) CU_ASSERT_PTR_NOT_NULL(strstr(refusal(name), text))

static void test_refused(void)
{
    REFUSED("bad_magic", "wrong magic 0x12345678");
    REFUSED("bad_major", "built for ABI 2.0");
    REFUSED("bad_minor", "newer ABI 1.");
    REFUSED("bad_size", "bytes, expected");
    REFUSED("bad_symbol", "no symbol omid_plugin");
    REFUSED("bad_tiny", "has 4 bytes");
    REFUSED("bad_callback", "required callback event");
    REFUSED("bad_vad", "required callback vad.window");
    REFUSED("bad_role", "its embed role has");
    REFUSED("bad_name", "its name is not");
    REFUSED("bad_option", "mode): an ENUM without choices");
    REFUSED("bad_nothing", "No such file");
    CU_ASSERT_STRING_EQUAL(refusal("good"), "");
}

/* A plugin of an earlier minor version has the members of that version, whatever lies behind them. */
static void test_older(void)
{
    char path[512], err[256] = "";
    struct loader *l = loader_new();
    struct conf_source s = loader_source(l);
    snprintf(path, sizeof(path), "%s/old.so", TEST_PLUGINS);
    const struct omid_plugin *p = s.describe(s.arg, "old", path, err, sizeof(err));
    CU_ASSERT_STRING_EQUAL(err, "");
    CU_ASSERT_PTR_NOT_NULL_FATAL(p);
    CU_ASSERT_EQUAL(p->abi_minor, 0);
    CU_ASSERT_PTR_NULL(p->vad);
    loader_free(&l);
}

static void test_refused_files(void)
{
    char path[512], fifo[64];
    snprintf(path, sizeof(path), "%s/good.so", TEST_PLUGINS);
    CU_ASSERT_PTR_NOT_NULL(strstr(refusal_of("echo", path), "it is the plugin \"good\", not \"echo\""));
    CU_ASSERT_PTR_NOT_NULL(strstr(refusal_of("good", TEST_PLUGINS), "not a regular file"));
    CU_ASSERT_PTR_NOT_NULL(strstr(refusal_of("good", "/proc/self/cmdline"), "file too short"));
    CU_ASSERT_PTR_NOT_NULL(strstr(refusal_of("good", "no-slash.so"), "No such file"));
    /* Opening one would wait for its other end. */
    snprintf(fifo, sizeof(fifo), "/tmp/omid-test-fifo-%d", (int)getpid());
    CU_ASSERT_EQUAL_FATAL(mkfifo(fifo, 0600), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(refusal_of("good", fifo), "not a regular file"));
    unlink(fifo);
}

/* A shared object cut off anywhere is refused, or opens: it never takes the process with it before its end is read. */
static void test_text_file(void)
{
    char path[64];
    snprintf(path, sizeof(path), "/tmp/omid-test-so-%d", (int)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CU_ASSERT_TRUE_FATAL(fd >= 0);
    CU_ASSERT_EQUAL(write(fd, "#!/bin/sh\necho this is no shared object, but long enough for a header\n", 70), 70);
    close(fd);
    CU_ASSERT_PTR_NOT_NULL(strstr(refusal_of("good", path), "invalid ELF header"));
    unlink(path);
}

/* conf_load() and the host use one handle, and the loader closes what no host took. */
static void test_opened_once(void)
{
    struct loader *l = loader_new();
    struct conf_source s = loader_source(l);
    char err[600], path[512];
    snprintf(path, sizeof(path), "%s/good.so", TEST_PLUGINS);
    const struct omid_plugin *a = s.describe(s.arg, "good", path, err, sizeof(err));
    CU_ASSERT_PTR_EQUAL(a, s.describe(s.arg, "good", path, err, sizeof(err)));
    loader_free(&l);
}

/* ------------------------------------------------------------ configure */

static void test_configure_error(void)
{
    struct rig r;
    CU_ASSERT_FALSE(rig_configure(&r, 1, "plugin bad_configure {\n path = \"%s/bad_configure.so\"\n high = 3\n}\n"));
    CU_ASSERT_EQUAL(r.faults.errors, 1);
    CU_ASSERT_PTR_NOT_NULL(
        strstr(r.faults.text.data, "test.conf:3: plugin bad_configure: high: must be above low (5)"));
    CU_ASSERT_STRING_EQUAL(rig_status(&r, "bad_configure", "state"), "failed");
    rig_free(&r);
}

static void test_configure_misuse(void)
{
    struct rig r;
    /* Not required: left out, with a warning; required: an error. */
    CU_ASSERT_TRUE(rig_configure(&r, 1, "plugin bad_conf { path = \"%s/bad_conf.so\" }\n"));
    CU_ASSERT_EQUAL(r.faults.warnings, 1);
    CU_ASSERT_STRING_EQUAL(rig_status(&r, "bad_conf", "state"), "failed");
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_conf", "misuse"), 2);
    rig_free(&r);
    CU_ASSERT_FALSE(rig_configure(&r, 1, "plugin bad_conf { path = \"%s/bad_conf.so\" required = true }\n"));
    rig_free(&r);
}

/* What the file says it wants stays in sight, also when it could not be taken. */
static void test_left_out(void)
{
    struct rig r;
    CU_ASSERT_TRUE(rig_configure(&r, 2, "plugin bad_symbol { path = \"%s/bad_symbol.so\" }\n"));
    CU_ASSERT_EQUAL(r.faults.warnings, 1);
    CU_ASSERT_STRING_EQUAL(rig_status(&r, "bad_symbol", "state"), "failed");
    CU_ASSERT_PTR_NOT_NULL(strstr(rig_status(&r, "bad_symbol", "reason"), "no symbol omid_plugin"));
    CU_ASSERT_TRUE(rig_start(&r));
    CU_ASSERT_STRING_EQUAL(rig_status(&r, "bad_symbol", "state"), "failed");
    rig_stop(&r);
    rig_free(&r);
}

/* As under `omid -t`: configured, never started. */
static void test_configure_only(void)
{
    struct rig r;
    CU_ASSERT_TRUE(rig_configure(&r, 2, "plugin good { path = \"%s/good.so\" }\n"));
    CU_ASSERT_STRING_EQUAL(rig_status(&r, "good", "state"), "configured");
    struct buf b = BUF_INIT(0);
    CU_ASSERT_TRUE(metrics_render(&b));
    CU_ASSERT_PTR_NOT_NULL(strstr(b.data, "omid_plugin_good_things_total{kind=\"a\"} 2"));
    /* 64 in all: "things" and n0..n62. */
    CU_ASSERT_PTR_NOT_NULL(strstr(b.data, "omid_plugin_good_n62_total 1"));
    CU_ASSERT_PTR_NULL(strstr(b.data, "omid_plugin_good_n63_total"));
    buf_free(&b);
    rig_free(&r);
    CU_ASSERT_EQUAL(fake_lanes, 0);
}

/* ------------------------------------------------------------ running */

static void run_all(unsigned reactors)
{
    struct rig r;
    fake_http = fake_queue = FAKE_ANSWERS;
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, reactors, "plugin good { path = \"%s/good.so\" }\n"));
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    unsigned last = reactors - 1;
    rig_event(&r, last, "tick");
    rig_event(&r, last, "http");
    rig_event(&r, last, "work");
    rig_event(&r, last, "enqueue");
    CU_ASSERT_TRUE(rig_seen("seen", "tick"));
    CU_ASSERT_TRUE(rig_seen("seen", "http 204"));
    CU_ASSERT_TRUE(rig_seen("seen", "worked"));
    CU_ASSERT_TRUE(rig_seen("seen", "enqueued 0 42"));
    CU_ASSERT_STRING_EQUAL(rig_status(&r, "good", "state"), "running");
    rig_stop(&r);
    CU_ASSERT_STRING_EQUAL(rig_status(&r, "good", "state"), "stopped");
    CU_ASSERT_EQUAL(rig_status_int(&r, "good", "leaked"), 0);
    CU_ASSERT_EQUAL(rig_status_int(&r, "good", "errors"), 0);
    /* 4 of ours, and 4 that it published and got back. */
    CU_ASSERT_EQUAL(rig_status_int(&r, "good", "events"), 8);
    CU_ASSERT_EQUAL(rig_status_int(&r, "good", "in_flight.timers"), 0);
    CU_ASSERT_EQUAL(rig_status_int(&r, "good", "in_flight.http"), 0);
    CU_ASSERT_EQUAL(fake_requests, 0);
    CU_ASSERT_EQUAL(fake_lanes, 0);
    rig_free(&r);
}

static void test_run_one(void)
{
    run_all(1);
}

static void test_run_three(void)
{
    run_all(3);
}

static void test_start_error(void)
{
    struct rig r;
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 3,
                                       "plugin bad_start { path = \"%s/bad_start.so\" }\n"
                                       "plugin good { path = \"%s/good.so\" }\n"));
    CU_ASSERT_TRUE(rig_start(&r));
    CU_ASSERT_STRING_EQUAL(rig_status(&r, "bad_start", "state"), "failed");
    CU_ASSERT_STRING_EQUAL(rig_status(&r, "bad_start", "reason"), "start() failed on reactor 2");
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_start", "in_flight.timers"), 0);
    /* The others run. */
    rig_event(&r, 2, "tick");
    CU_ASSERT_TRUE(rig_seen("seen", "tick"));
    rig_stop(&r);
    rig_free(&r);

    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 1, "plugin bad_start { path = \"%s/bad_start.so\" required = true }\n"));
    CU_ASSERT_FALSE(rig_start(&r));
    rig_stop(&r);
    rig_free(&r);

    /* What starts after it makes up for nothing; and what failed before it, and is not required, hides nothing. */
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 1,
                                       "plugin bad_start { path = \"%s/bad_start.so\" required = true }\n"
                                       "plugin good { path = \"%s/good.so\" required = true }\n"));
    CU_ASSERT_FALSE(rig_start(&r));
    rig_stop(&r);
    rig_free(&r);
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 1,
                                       "plugin other { path = \"%s/bad_start.so\" }\n"
                                       "plugin bad_start { path = \"%s/bad_start.so\" required = true }\n"));
    CU_ASSERT_FALSE(rig_start(&r));
    rig_stop(&r);
    rig_free(&r);
}

static void test_event_error(void)
{
    struct rig r;
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 1,
                                       "plugin bad_event { path = \"%s/bad_event.so\" }\n"
                                       "plugin good { path = \"%s/good.so\" }\n"));
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    rig_event(&r, 0, "tick");
    CU_ASSERT_TRUE(rig_seen("seen", "tick"));
    rig_stop(&r);
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_event", "errors"), rig_status_int(&r, "bad_event", "events"));
    CU_ASSERT_EQUAL(rig_status_int(&r, "good", "errors"), 0);
    rig_free(&r);
}

/* Every function of the host refuses what is not there, and none takes the process with it. */
static void test_nothing_given(void)
{
    struct rig r;
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 1, "plugin bad_nulls { path = \"%s/bad_nulls.so\" }\n"));
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    CU_ASSERT_TRUE(rig_seen("nulls", NULL));
    /* What only the lane looks at its fake has taken: see tests/net. */
    CU_ASSERT_EQUAL(rig_seen_count("nulls", " http words=0 http header=0"), 1);
    CU_ASSERT_TRUE(rig_status_int(&r, "bad_nulls", "misuse") > 0);
    rig_stop(&r);
    rig_free(&r);
}

/* What is no result counts as an error, as one would. */
static void test_no_result(void)
{
    struct rig r;
    void (*former)(int) = signal(SIGPIPE, SIG_IGN);
    sigset_t set, mask;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &set, &mask); /* as in the daemon: its threads inherit it */
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 1, "plugin bad_pipe { path = \"%s/bad_pipe.so\" }\n"));
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    rig_event(&r, 0, "tick");
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_pipe", "events"), 1);
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_pipe", "errors"), 1);
    rig_stop(&r);
    rig_free(&r);
    signal(SIGPIPE, SIG_IGN); /* takes away what is pending */
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    signal(SIGPIPE, former);
}

static void test_slow(void)
{
    struct rig r;
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 1, "plugin bad_slow { path = \"%s/bad_slow.so\" }\n"));
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    rig_event(&r, 0, "x");
    rig_stop(&r);
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_slow", "slow"), 1);
    CU_ASSERT_TRUE(strtod(rig_status(&r, "bad_slow", "max_ms"), NULL) >= 119);
    CU_ASSERT_TRUE(strtod(rig_status(&r, "bad_slow", "seconds"), NULL) >= 0.119);
    rig_free(&r);
}

static void test_wrong_thread(void)
{
    struct rig r;
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 1, "plugin bad_thread { path = \"%s/bad_thread.so\" }\n"));
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    rig_event(&r, 0, "go");
    CU_ASSERT_TRUE(rig_seen("thread", "5"));
    CU_ASSERT_EQUAL(rig_seen_count("wrong", NULL), 0);
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_thread", "misuse"), 5);
    rig_stop(&r);
    rig_free(&r);
}

static void run_late(unsigned reactors)
{
    int fd[2];
    char text[256], line[64] = "";
    CU_ASSERT_EQUAL_FATAL(pipe(fd), 0);
    snprintf(text, sizeof(text), "plugin bad_late { path = \"%%s/bad_late.so\" report = %d }\n", fd[1]);
    struct rig r;
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, reactors, text));
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    rig_stop(&r);
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_late", "leaked"), 1);
    rig_free(&r);
    close(fd[1]);
    CU_ASSERT_TRUE(read(fd[0], line, sizeof(line) - 1) > 0);
    CU_ASSERT_STRING_EQUAL(line, "publish=-6 timer=kept\n");
    close(fd[0]);
}

static void test_late(void)
{
    run_late(1);
    run_late(3);
}

static bool work_runs(void *arg)
{
    struct rig *r = arg;
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    exec_status(r->exec, &w);
    bool runs = strstr(b.data, "\"running\":1") != NULL;
    buf_free(&b);
    return runs;
}

static void test_leak(void)
{
    int fd[2];
    char text[256];
    CU_ASSERT_EQUAL_FATAL(pipe(fd), 0);
    snprintf(text, sizeof(text), "plugin bad_leak { path = \"%%s/bad_leak.so\" until = %d }\n", fd[0]);
    struct rig r;
    fake_http = fake_queue = FAKE_HOLDS;
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 1, text));
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    struct queue_claim claim;
    fake_claim(&claim, "bad_leak", "t", "x");
    CU_ASSERT_TRUE(host_job_dispatch(r.host, &claim));
    CU_ASSERT_TRUE(rig_wait(work_runs, &r));
    rig_event(&r, 0, "x"); /* the job's message has been handled */
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_leak", "in_flight.work"), 1);
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_leak", "in_flight.jobs"), 1);
    CU_ASSERT_EQUAL(fake_requests, 1);
    CU_ASSERT_EQUAL(fake_sockets, 1);
    CU_ASSERT_EQUAL(fake_enqueues, 1);

    rig_stop(&r);
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_leak", "leaked"), 6);
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_leak", "in_flight.work"), 0);
    CU_ASSERT_EQUAL(fake_requests, 0);
    CU_ASSERT_EQUAL(fake_sockets, 0);
    /* The job comes back soon, and not as a failed attempt. */
    CU_ASSERT_EQUAL(claim.finished, 1);
    CU_ASSERT_EQUAL(claim.outcome, OMID_JOB_WAIT);
    /* Late answers find nobody: each callback of the plugin would abort. */
    fake_queue_release();
    close(fd[1]);
    struct queue_claim late;
    fake_claim(&late, "bad_leak", "t", "x");
    CU_ASSERT_FALSE(host_job_dispatch(r.host, &late));
    rig_free(&r);
    close(fd[0]);
}

/* ------------------------------------------------------------ jobs */

static bool claim_finished(void *arg)
{
    return ((struct queue_claim *)arg)->finished > 0;
}

static void test_jobs(void)
{
    struct rig r;
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 3,
                                       "plugin good { path = \"%s/good.so\" }\n"
                                       "plugin bad_event { path = \"%s/bad_event.so\" }\n"));
    struct queue_claim c;
    fake_claim(&c, "good", "works", "https://a.example/1");
    CU_ASSERT_FALSE(host_job_dispatch(r.host, &c)); /* not started yet */
    CU_ASSERT_TRUE_FATAL(rig_start(&r));

    static const struct {
        const char *type;
        enum omid_job_outcome outcome;
    } cases[] = {{"works", OMID_JOB_DONE}, {"dies", OMID_JOB_DEAD}, {"fails", OMID_JOB_RETRY}};
    for (unsigned i = 0; i < 30; i++) {
        char target[32];
        snprintf(target, sizeof(target), "target %u", i);
        fake_claim(&c, "good", cases[i % 3].type, target);
        CU_ASSERT_TRUE(host_job_dispatch(r.host, &c));
        CU_ASSERT_TRUE(rig_wait(claim_finished, &c));
        CU_ASSERT_EQUAL(c.outcome, cases[i % 3].outcome);
        CU_ASSERT_EQUAL(c.status, i % 3 == 2 ? 0 : 204);
    }
    CU_ASSERT_EQUAL(rig_status_int(&r, "good", "errors"), 10);
    CU_ASSERT_EQUAL(rig_status_int(&r, "good", "in_flight.jobs"), 0);

    rig_event(&r, 1, "batch");
    CU_ASSERT_TRUE(rig_seen("seen", "batch 0 1 kept"));
    CU_ASSERT_EQUAL(fake_batch_jobs, 3);
    CU_ASSERT_TRUE(fake_batch_ordered);
    CU_ASSERT_EQUAL(fake_batch_rate, 60);
    /* Structs of an older minor: what lies behind them is not looked at. */
    rig_event(&r, 1, "old batch");
    CU_ASSERT_TRUE(rig_seen("seen", "batch 0 0 "));
    CU_ASSERT_EQUAL(fake_batch_jobs, 2);
    CU_ASSERT_FALSE(fake_batch_ordered);
    CU_ASSERT_EQUAL(fake_batch_rate, 0);
    CU_ASSERT_EQUAL(rig_status_int(&r, "good", "in_flight.enqueues"), 0);

    fake_claim(&c, "nobody", "works", "x");
    CU_ASSERT_FALSE(host_job_dispatch(r.host, &c));
    fake_claim(&c, "bad_event", "works", "x"); /* it has no job() */
    CU_ASSERT_FALSE(host_job_dispatch(r.host, &c));
    rig_stop(&r);
    rig_free(&r);
}

/* ------------------------------------------------------------ bus */

static void flood(void *arg)
{
    struct rig *r = arg;
    const struct omid_event ev = {.size = sizeof(ev), .type = OMID_EVENT_CUSTOM, .uid = "u", .name = "flood"};
    for (unsigned i = 0; i < 1024; i++)
        CU_ASSERT_EQUAL(bus_publish_later(r->bus[0], &ev), OMID_OK);
    CU_ASSERT_EQUAL(bus_publish_later(r->bus[0], &ev), OMID_EFULL);
}

static void heavy(void *arg)
{
    struct rig *r = arg;
    static char json[1536 * 1024];
    memset(json, 'x', sizeof(json) - 1);
    const struct omid_event ev = {.size = sizeof(ev),
                                  .type = OMID_EVENT_CUSTOM,
                                  .uid = "u",
                                  .name = "heavy",
                                  .json = json,
                                  .json_len = sizeof(json) - 1};
    CU_ASSERT_EQUAL(bus_publish_later(r->bus[0], &ev), OMID_OK);
    CU_ASSERT_EQUAL(bus_publish_later(r->bus[0], &ev), OMID_OK);
    CU_ASSERT_EQUAL(bus_publish_later(r->bus[0], &ev), OMID_EFULL);
    CU_ASSERT_EQUAL(rig_seen_count("heavy", NULL), 0); /* later, not now */
}

static bool all_came(void *arg)
{
    (void)arg;
    return rig_seen_count("flood", NULL) == 1024 && rig_seen_count("heavy", NULL) == 2;
}

static void test_bus_bounds(void)
{
    struct rig r;
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, 1, "plugin good { path = \"%s/good.so\" }\n"));
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    rig_on(&r, 0, flood, &r);
    rig_event(&r, 0, "after");
    rig_on(&r, 0, heavy, &r);
    CU_ASSERT_TRUE(rig_wait(all_came, NULL));
    rig_stop(&r);
    rig_free(&r);
}

/* ------------------------------------------------------------ generations */

#define GOOD "plugin good { path = \"%s/good.so\" }\n"
#define GOOD_REQUIRED "plugin good { path = \"%s/good.so\" required = true }\n"
#define GOOD_LANE "plugin good { path = \"%s/good.so\" semaphore = 7 }\n"

static void rig_up(struct rig *r, unsigned reactors, const char *text)
{
    fake_http = fake_queue = FAKE_ANSWERS;
    CU_ASSERT_TRUE_FATAL(rig_configure(r, reactors, text));
    CU_ASSERT_TRUE_FATAL(rig_start(r));
}

static void rig_down(struct rig *r)
{
    rig_stop(r);
    rig_free(r);
    CU_ASSERT_EQUAL(fake_lanes, 0);
}

struct look {
    struct rig *r;
    unsigned reactor, n;
    struct omid_instance *first;
    bool running;
};

static void on_look(void *arg)
{
    struct look *l = arg;
    l->n = host_module_count(l->r->host, l->reactor);
    struct omid_instance *now = l->n > 0 ? host_instance(l->r->host, l->reactor, 0) : NULL;
    if (l->first != NULL)
        l->running = host_running(l->first);
    else
        l->first = now;
}

static void test_kept(void)
{
    struct rig r;
    rig_up(&r, 2, GOOD);
    fake_configured = 0;
    CU_ASSERT_TRUE(rig_reload(&r, "\n\n" GOOD));
    CU_ASSERT_EQUAL(r.counts.kept, 1);
    CU_ASSERT_EQUAL(fake_configured, 0);
    CU_ASSERT_TRUE(rig_reload(&r, GOOD_LANE));
    CU_ASSERT_EQUAL(r.counts.kept, 1);
    CU_ASSERT_EQUAL(r.counts.lanes, 1);
    CU_ASSERT_EQUAL(fake_configured, 7);
    CU_ASSERT_EQUAL(rig_status_int(&r, "good", "generation"), 0);
    CU_ASSERT_EQUAL(host_reap(r.host), 0);
    rig_event(&r, 1, "tick");
    CU_ASSERT_TRUE(rig_seen("seen", "tick"));
    CU_ASSERT_EQUAL(r.begins + r.ends, 0);
    rig_down(&r);
}

/* A plugin has so many lines per window, whatever they say; the others have theirs. */
static void test_chatter(void)
{
    static const char too_much[] = "a plugin logs too much; its lines are dropped for a while";
    struct rig r;
    rig_up(&r, 1, GOOD);
    log_catch();
    rig_event(&r, 0, "chatter");
    CU_ASSERT_EQUAL(log_caught("good", "chatter"), 200);
    CU_ASSERT_EQUAL(log_caught("host", too_much), 1);
    rig_event(&r, 0, "chatter");
    CU_ASSERT_EQUAL(log_caught("good", "chatter"), 200);
    CU_ASSERT_EQUAL(log_caught("host", too_much), 1);
    struct buf out = BUF_INIT(0);
    CU_ASSERT_TRUE(metrics_render(&out));
    CU_ASSERT_PTR_NOT_NULL(strstr(out.data, "omid_plugin_log_dropped_total{plugin=\"good\"} 300\n"));
    buf_free(&out);
    rig_down(&r);
}

/* The former generation stays as long as somebody uses one of its instances, and is not asked to drain before. */
static void test_replaced(void)
{
    struct rig r;
    rig_up(&r, 3, GOOD);
    struct look l = {.r = &r, .reactor = 2};
    rig_on(&r, 2, on_look, &l);
    CU_ASSERT_PTR_NOT_NULL_FATAL(l.first);
    host_use(l.first);
    CU_ASSERT_TRUE(rig_reload(&r, GOOD_REQUIRED));
    CU_ASSERT_EQUAL(r.counts.replaced, 1);
    CU_ASSERT_EQUAL(fake_lanes, 1);
    for (unsigned i = 0; i < 3; i++) {
        rig_event(&r, i, "work"); /* behind the new view, on every reactor */
        CU_ASSERT_EQUAL(host_reap(r.host), 1);
    }
    CU_ASSERT_EQUAL(r.begins, 3);
    CU_ASSERT_EQUAL(r.ends, 3);
    CU_ASSERT_TRUE(rig_seen("seen", "worked"));
    rig_on(&r, 2, on_look, &l);
    CU_ASSERT_TRUE(l.running);
    CU_ASSERT_EQUAL(l.n, 1);
    CU_ASSERT_STRING_EQUAL(rig_status(&r, "good", "state"), "retiring"); /* the last of the name */
    struct buf before = BUF_INIT(0), after = BUF_INIT(0);
    CU_ASSERT_TRUE(metrics_render(&before));
    host_unuse(l.first);
    CU_ASSERT_TRUE(rig_wait(rig_reaped, &r));
    CU_ASSERT_STRING_EQUAL(rig_status(&r, "good", "state"), "running");
    CU_ASSERT_EQUAL(rig_status_int(&r, "good", "generation"), 1);
    /* One line per name, and no counter falls. */
    CU_ASSERT_TRUE(metrics_render(&after));
    static const char line[] = "omid_plugin_callbacks_total{plugin=\"good\"} ";
    const char *a = strstr(before.data, line), *b = strstr(after.data, line);
    CU_ASSERT_PTR_NOT_NULL_FATAL(a);
    CU_ASSERT_PTR_NOT_NULL_FATAL(b);
    CU_ASSERT_PTR_NULL(strstr(a + 1, line));
    CU_ASSERT_TRUE(strtol(b + sizeof(line) - 1, NULL, 10) >= strtol(a + sizeof(line) - 1, NULL, 10));
    buf_free(&before);
    buf_free(&after);
    rig_down(&r);
}

/* And once nobody does, it is asked to, and stops when it has. */
static void test_replaced_drains(void)
{
    struct rig r;
    rig_up(&r, 2, GOOD);
    rig_event(&r, 1, "linger"); /* of all its instances */
    CU_ASSERT_TRUE(rig_reload(&r, GOOD_REQUIRED));
    CU_ASSERT_EQUAL(r.counts.replaced, 1);
    CU_ASSERT_EQUAL(rig_seen_count("seen", "draining"), 0);
    CU_ASSERT_TRUE(rig_wait(rig_reaped, &r));
    CU_ASSERT_EQUAL(rig_seen_count("seen", "draining"), 2);
    CU_ASSERT_EQUAL(rig_seen_count("seen", "drained"), 2);
    CU_ASSERT_STRING_EQUAL(rig_status(&r, "good", "state"), "running");
    CU_ASSERT_EQUAL(rig_status_int(&r, "good", "late"), 0);
    rig_down(&r);
}

static void test_removed_and_added(void)
{
    struct rig r;
    rig_up(&r, 2, GOOD);
    CU_ASSERT_TRUE(rig_reload(&r, ""));
    CU_ASSERT_EQUAL(r.counts.removed, 1);
    CU_ASSERT_TRUE(rig_wait(rig_reaped, &r));
    CU_ASSERT_STRING_EQUAL(rig_status(&r, "good", "state"), "");
    CU_ASSERT_EQUAL(fake_lanes, 0);
    rig_event(&r, 0, "tick");
    CU_ASSERT_TRUE(rig_reload(&r, GOOD));
    CU_ASSERT_EQUAL(r.counts.added, 1);
    rig_event(&r, 1, "work");
    CU_ASSERT_TRUE(rig_seen("seen", "worked"));
    CU_ASSERT_EQUAL(rig_seen_count("seen", "tick"), 0);
    rig_down(&r);
}

/* One that fails at the last step, start(), takes the others with it; what ran is untouched. */
static void test_refused_change(void)
{
    static const char *const bad[] = {
        "plugin bad_start { path = \"%s/bad_start.so\" }\n",
        "plugin bad_configure { path = \"%s/bad_configure.so\" high = 3 }\n",
        "plugin bad_conf { path = \"%s/bad_conf.so\" }\n",
    };
    struct rig r;
    rig_up(&r, 3, GOOD);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char text[512];
        snprintf(text, sizeof(text), "%s%s", GOOD_REQUIRED, bad[i]);
        unsigned errors = r.faults.errors;
        CU_ASSERT_PTR_NULL(rig_change(&r, text));
        CU_ASSERT_TRUE(r.faults.errors > errors);
        CU_ASSERT_TRUE(rig_wait(rig_reaped, &r));
        CU_ASSERT_STRING_EQUAL(rig_status(&r, "good", "state"), "running");
        CU_ASSERT_EQUAL(rig_status_int(&r, "good", "generation"), 0);
    }
    struct host_change *c = rig_change(&r, GOOD_REQUIRED);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    host_change_cancel(&c, 1000);
    CU_ASSERT_TRUE(rig_wait(rig_reaped, &r));
    CU_ASSERT_EQUAL(rig_status_int(&r, "good", "generation"), 0);
    CU_ASSERT_EQUAL(r.begins + r.ends, 0);
    rig_event(&r, 2, "work");
    CU_ASSERT_TRUE(rig_seen("seen", "worked"));
    rig_down(&r);
}

/* The daemon stops while a generation is still on its way out. */
static void test_stop_while_retiring(void)
{
    struct rig r;
    rig_up(&r, 2, GOOD);
    struct look l = {.r = &r, .reactor = 1};
    rig_on(&r, 1, on_look, &l);
    host_use(l.first);
    CU_ASSERT_TRUE(rig_reload(&r, GOOD_REQUIRED));
    CU_ASSERT_EQUAL(host_reap(r.host), 1);
    rig_stop(&r);
    CU_ASSERT_STRING_EQUAL(rig_status(&r, "good", "state"), "stopped");
    host_unuse(l.first);
    rig_free(&r);
    CU_ASSERT_EQUAL(fake_lanes, 0);
}

int main(void)
{
    static CU_TestInfo tests[] = {
        {"files that are no plugins are refused with a reason", test_refused},
        {"paths that are no files are refused", test_refused_files},
        {"a plugin of an earlier version", test_older},
        {"a text file is refused", test_text_file},
        {"a file is opened once", test_opened_once},
        {"a fault found by configure() names file, line and key", test_configure_error},
        {"conf_*() for what is not there fails configure()", test_configure_misuse},
        {"configured and never started", test_configure_only},
        {"left out", test_left_out},
        {"a plugin uses all of the host on one reactor", test_run_one},
        {"a plugin uses all of the host on three reactors", test_run_three},
        {"start() fails on one reactor", test_start_error},
        {"errors of event() are counted for their plugin alone", test_event_error},
        {"nothing given", test_nothing_given},
        {"no result", test_no_result},
        {"a slow callback is counted", test_slow},
        {"a plugin that logs too much", test_chatter},
        {"calls from a wrong thread are refused", test_wrong_thread},
        {"calls after stop() are refused", test_late},
        {"what is left open at stop() is cancelled and counted", test_leak},
        {"jobs reach their plugin and are finished once", test_jobs},
        {"published events are bounded in number and bytes", test_bus_bounds},
        {"reload: what says the same stays, its lane takes new settings", test_kept},
        {"reload: a replaced generation stays as long as it is used", test_replaced},
        {"reload: a replaced generation drains", test_replaced_drains},
        {"reload: removed, and added again", test_removed_and_added},
        {"reload: a fault in one leaves all as it was", test_refused_change},
        {"reload: the stop takes what is on its way out", test_stop_while_retiring},
        CU_TEST_INFO_NULL,
    };
    static CU_SuiteInfo suites[] = {{"host", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
