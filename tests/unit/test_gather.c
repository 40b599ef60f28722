/* Fan-outs, by the plugin of that name: what it tells of its callbacks is compared word by word. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/metrics.h"
#include "host/module.h"
#include "host_rig.h"
#include "log_catch.h"
#include "unit.h"

static struct rig r;

static void begin(unsigned reactors)
{
    CU_ASSERT_TRUE_FATAL(rig_configure(&r, reactors, "plugin gathers { path = \"%s/gathers.so\" }\n"));
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    rig_forget();
}

static void over(void)
{
    rig_stop(&r);
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "in_flight.gathers"), 0);
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "memory"), 0);
    rig_free(&r);
}

static void gives(const char *run, const char *said)
{
    rig_forget();
    rig_event(&r, 0, run);
    CU_ASSERT_TRUE(rig_seen("seen", said));
}

static double metric(const char *line)
{
    struct buf b = BUF_INIT(0);
    CU_ASSERT_TRUE(metrics_render(&b));
    const char *at = strstr(b.data, line);
    double v = at != NULL ? atof(at + strlen(line)) : -1;
    buf_free(&b);
    return v;
}

static void test_order(void)
{
    begin(1);
    gives("run 0 1 0 s", "f0 most=0 refused=0");
    gives("run 3 1 0 s", "s0 i0:0 s1 i1:0 s2 i2:0 f0 most=1 refused=0");
    /* The last begun ends first, and waits for those before it. */
    gives("run 4 2 0 t", "s0 s1 s2 s3 i0:0 i1:0 i2:0 i3:0 f0 most=2 refused=0");
    gives("run 3 64 0 t", "s0 s1 s2 i0:0 i1:0 i2:0 f0 most=3 refused=0");
    over();
}

static void test_chunks(void)
{
    begin(1);
    gives("run 5 4 2 t", "s0 s1 i0:0 i1:0 s2 s3 i2:0 i3:0 s4 i4:0 f0 most=2 refused=0");
    gives("run 4 1 3 t", "s0 i0:0 s1 i1:0 s2 i2:0 s3 i3:0 f0 most=1 refused=0");
    over();
}

static void test_failures(void)
{
    static const char counter[] = "async_gather_failures_total{label=\"gathers:items\"} ";
    begin(1);
    double before = metric(counter); /* it is there from the start */
    CU_ASSERT_TRUE(before >= 0);
    gives("run 1 1 0 s", "s0 i0:0 f0 most=1 refused=0");
    gives("run 4 4 0 tf", "s0 s1 s2 s3 i0:0 i1:-1 i2:0 i3:-1 f2 most=4 refused=0");
    gives("run 4 4 0 te", "s0 s1 s2 s3 i0:0 i1:0 i2:-2 i3:0 f1 most=3 refused=0");
    CU_ASSERT_EQUAL(metric(counter) - before, 3);
    CU_ASSERT_TRUE(metric("async_gather_duration_seconds_count{label=\"gathers:items\"} ") >= 3);
    /* Failures of items are none of the callbacks. */
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "errors"), 0);
    over();
}

/* A line for each of eight; what else fails is one more, with their number. */
static void test_failures_logged(void)
{
    static const char each[] = "an item of a fan-out failed", rest[] = "more items of a fan-out failed";
    begin(1);
    log_catch();
    rig_event(&r, 0, "run 16 4 0 sf");
    CU_ASSERT_TRUE(rig_seen("seen", NULL));
    CU_ASSERT_EQUAL(log_caught("host", each), 8);
    CU_ASSERT_EQUAL(log_caught("host", rest), 0);
    rig_forget();
    log_catch();
    rig_event(&r, 0, "run 48 4 0 sf");
    CU_ASSERT_TRUE(rig_seen("seen", NULL));
    CU_ASSERT_EQUAL(log_caught("host", each), 8);
    CU_ASSERT_EQUAL(log_caught("host", rest), 1);
    over();
}

static void test_never_reports(void)
{
    begin(1);
    gives("run 4 2 0 sh", "s0 i0:0 s1 s2 s3 a1 i1:-7 i2:0 i3:0 f1 most=2 refused=0");
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "late"), 0);
    /* What it reports when it is too late, within abort(), is refused. */
    gives("run 4 2 0 shH", "s0 i0:0 s1 s2 s3 a1 a3 i1:-7 i2:0 i3:-7 f2 most=2 refused=2");
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "late"), 2);
    over();
}

static void test_reports_twice(void)
{
    begin(1);
    gives("run 3 1 0 sd", "s0 i0:0 s1 i1:0 s2 i2:0 f0 most=1 refused=3");
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "late"), 3);
    CU_ASSERT_EQUAL(metric("omid_plugin_gather_late_total{plugin=\"gathers\"} "), 3);
    over();
}

/* Item 3 is aborted and reports in vain, the values of 4 and 5 are dropped, 6 never began. */
static void test_cancel(void)
{
    begin(1);
    gives("run 7 3 6 tcH", "s0 s1 s2 s3 s4 s5 i0:0 i1:0 i2:0 a3 d d most=3 refused=1");
    /* Within start(), of the item that begins; and within abort(), with values of later ones at hand. */
    gives("run 5 2 0 sC", "s0 i0:0 s1 i1:0 s2 a2 most=1 refused=1");
    gives("run 5 4 0 shA", "s0 i0:0 s1 s2 s3 s4 a1 d d d most=2 refused=0");
    over();
}

static bool three_seen(void *arg)
{
    (void)arg;
    return rig_seen_count("seen", NULL) >= 3;
}

static void test_work(void)
{
    begin(3);
    rig_event(&r, 1, "run 40 4 0 w");
    rig_event(&r, 2, "run 40 4 8 wf");
    rig_event(&r, 0, "run 2 2 0 s");
    CU_ASSERT_TRUE(rig_seen("seen", "s0 i0:0 s1 i1:0 f0 most=1 refused=0"));
    CU_ASSERT_TRUE(rig_wait(three_seen, NULL));
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "late"), 0);
    over();
}

static void test_refused(void)
{
    begin(1);
    rig_event(&r, 0, "run 1 0 0 s");
    rig_event(&r, 0, "run 1 1025 0 s");
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "errors"), 2);
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "in_flight.gathers"), 0);
    over();
}

/* One instance has places for so many; one more is refused. */
static void test_places(void)
{
    begin(1);
    for (unsigned i = 0; i < INSTANCE_MAX_GATHERS; i++)
        rig_event(&r, 0, "run 2 2 0 sn");
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "errors"), 0);
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "in_flight.gathers"), INSTANCE_MAX_GATHERS);
    rig_event(&r, 0, "run 1 1 0 s"); /* a plugin that passes on OMID_EFULL has made no error */
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "in_flight.gathers"), INSTANCE_MAX_GATHERS);
    CU_ASSERT_EQUAL(rig_seen_count("seen", NULL), 0);
    rig_stop(&r);
    rig_free(&r);
}

/* And so many items in all of them; those of one that is over are free again. */
static void test_items(void)
{
    char run[32];
    begin(1);
    gives("run 1 1 0 s", "s0 i0:0 f0 most=1 refused=0");
    snprintf(run, sizeof(run), "run %d 1 0 N", OMID_GATHER_MAX_ITEMS);
    for (unsigned i = 0; i < INSTANCE_MAX_GATHER_ITEMS / OMID_GATHER_MAX_ITEMS; i++)
        rig_event(&r, 0, run);
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "in_flight.gathers"), 4);
    rig_forget();
    rig_event(&r, 0, "run 1 1 0 s");
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "in_flight.gathers"), 4);
    rig_event(&r, 0, "run 0 1 0 s"); /* behind which the other would have been seen */
    CU_ASSERT_TRUE(rig_seen("seen", "f0 most=0 refused=0"));
    CU_ASSERT_EQUAL(rig_seen_count("seen", NULL), 1);
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "errors"), 0);
    rig_stop(&r);
    rig_free(&r);
}

/* An item that hangs does not hold the stop longer than its time, nor than the drain. */
static void test_stop(void)
{
    begin(2);
    rig_event(&r, 0, "run 4 2 0 sh");
    CU_ASSERT_TRUE(rig_status_int(&r, "gathers", "memory") > 0);
    rig_event(&r, 1, "run 4 2 0 sh");
    rig_stop(&r);
    CU_ASSERT_EQUAL(rig_status_int(&r, "gathers", "in_flight.gathers"), 0);
    rig_free(&r);
}

/* One ends within the drain, and its plugin is told so; one does not, and holds up nothing. */
static void test_removed(void)
{
    begin(2);
    rig_event(&r, 0, "run 4 2 0 sh");
    CU_ASSERT_TRUE_FATAL(rig_reload(&r, ""));
    /* The reaper has begun before the item's time is over: it waits. */
    CU_ASSERT_TRUE(rig_wait(rig_reaped, &r));
    CU_ASSERT_TRUE(rig_seen("seen", "s0 i0:0 s1 s2 s3 a1 i1:-7 i2:0 i3:0 f1 most=2 refused=0"));
    CU_ASSERT_TRUE_FATAL(rig_reload(&r, "plugin gathers { path = \"%s/gathers.so\" }\n"));
    rig_forget();
    rig_event(&r, 1, "run 5 3 0 tn");
    rig_event(&r, 0, "run 2 2 0 snL");
    CU_ASSERT_TRUE_FATAL(rig_reload(&r, ""));
    CU_ASSERT_TRUE(rig_wait(rig_reaped, &r));
    CU_ASSERT_EQUAL(rig_seen_count("seen", NULL), 0);
    rig_stop(&r);
    rig_free(&r);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"in the order of the input", test_order},
        {"chunks", test_chunks},
        {"failures", test_failures},
        {"failures in the log", test_failures_logged},
        {"an item that never reports", test_never_reports},
        {"an item that reports twice", test_reports_twice},
        {"cancelled", test_cancel},
        {"work on executors, three reactors", test_work},
        {"refused", test_refused},
        {"stop in the midst of it", test_stop},
        {"removed in the midst of it", test_removed},
        {"places", test_places},
        {"items of all together", test_items},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"gather", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
