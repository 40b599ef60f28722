/* The exposition, read line by line, and values from several threads. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/magic.h"
#include "base/metrics.h"
#include "unit.h"

static char *rendered(void)
{
    struct buf b = BUF_INIT(0);
    CU_ASSERT(metrics_render(&b));
    return buf_steal(&b, NULL);
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
        n++;
    return n;
}

static void test_text(void)
{
    struct metric *c = metric_counter("t_requests_total", "Requests.\nWith a \\ and \"quotes\".");
    struct metric_label tricky[] = {{"path", "a\"b\\c\nd\xff"}, {"code", "200"}},
                        other[] = {{"path", ""}, {"code", "500"}};
    struct metric *l1 = metric_get(METRIC_COUNTER, "t_labels_total", "Labelled.", tricky, 2, NULL, 0);
    struct metric *g = metric_gauge("t_gauge", "A gauge.");
    struct metric *l2 = metric_get(METRIC_COUNTER, "t_labels_total", "Labelled.", other, 2, NULL, 0);
    CU_ASSERT_PTR_NOT_EQUAL(l1, l2);
    CU_ASSERT_PTR_EQUAL(metric_get(METRIC_COUNTER, "t_labels_total", "Labelled.", tricky, 2, NULL, 0), l1);
    metric_add(c, 3);
    metric_add(c, 4);
    metric_add(l1, 1);
    metric_set(g, 10);
    metric_add(g, -15);
    CU_ASSERT_EQUAL(metric_value(g), -5);
    char *s = rendered();
    CU_ASSERT_PTR_NOT_NULL(strstr(s, "# HELP t_requests_total Requests.\\nWith a \\\\ and \"quotes\".\n"
                                     "# TYPE t_requests_total counter\nt_requests_total 7\n"));
    /* A family stands together, whenever its members were made. */
    CU_ASSERT_PTR_NOT_NULL(strstr(s, "# HELP t_labels_total Labelled.\n# TYPE t_labels_total counter\n"
                                     "t_labels_total{path=\"a\\\"b\\\\c\\nd\xef\xbf\xbd\",code=\"200\"} 1\n"
                                     "t_labels_total{path=\"\",code=\"500\"} 0\n"));
    CU_ASSERT_EQUAL(count(s, "# TYPE t_labels_total"), 1);
    CU_ASSERT_PTR_NOT_NULL(strstr(s, "# TYPE t_gauge gauge\nt_gauge -5\n"));
    free(s);
}

static void test_histogram(void)
{
    static const double bounds[] = {0.1, 1, 2.5};
    struct metric_label l = {"lane", "x"};
    struct metric *h = metric_get(METRIC_HISTOGRAM, "t_seconds", "Times.", &l, 1, bounds, 3);
    static const double values[] = {0.05, 0.1, 0.5, 1, 2, 3, 100};
    for (size_t i = 0; i < ARRAY_LEN(values); i++)
        metric_observe(h, values[i]);
    metric_observe(h, NAN);
    char *s = rendered();
    CU_ASSERT_PTR_NOT_NULL(strstr(s, "# TYPE t_seconds histogram\n"
                                     "t_seconds_bucket{lane=\"x\",le=\"0.1\"} 2\n"
                                     "t_seconds_bucket{lane=\"x\",le=\"1\"} 4\n"
                                     "t_seconds_bucket{lane=\"x\",le=\"2.5\"} 5\n"
                                     "t_seconds_bucket{lane=\"x\",le=\"+Inf\"} 7\n"
                                     "t_seconds_sum{lane=\"x\"} 106.65\n"
                                     "t_seconds_count{lane=\"x\"} 7\n"));
    free(s);
    struct metric *bare = metric_get(METRIC_HISTOGRAM, "t_bare_seconds", "Times.", NULL, 0, bounds, 3);
    metric_observe(bare, INFINITY);
    s = rendered();
    CU_ASSERT_PTR_NOT_NULL(strstr(s, "t_bare_seconds_bucket{le=\"2.5\"} 0\nt_bare_seconds_bucket{le=\"+Inf\"} 1\n"
                                     "t_bare_seconds_sum +Inf\nt_bare_seconds_count 1\n"));
    free(s);
}

static void test_small_buffer(void)
{
    char *s = rendered();
    size_t need = strlen(s);
    free(s);
    for (size_t max = 1; max < need; max += 37) {
        struct buf b = BUF_INIT(max);
        CU_ASSERT(!metrics_render(&b));
        buf_free(&b);
    }
    struct buf b = BUF_INIT(need);
    CU_ASSERT(metrics_render(&b));
    CU_ASSERT_EQUAL(b.len, need);
    buf_free(&b);
}

static void test_series_bound(void)
{
    struct metric *first = NULL, *m = NULL;
    for (int i = 0; i < 1100; i++) {
        char value[16];
        snprintf(value, sizeof value, "%d", i);
        m = metric_get(METRIC_COUNTER, "t_many_total", "Many.", &(struct metric_label){"v", value}, 1, NULL, 0);
        metric_add(m, 1);
        first = first ? first : m;
    }
    CU_ASSERT_EQUAL(metric_value(first), 1);
    CU_ASSERT_EQUAL(metric_value(m), 76); /* those beyond share one */
    char *s = rendered();
    CU_ASSERT_EQUAL(count(s, "t_many_total{"), 1024);
    CU_ASSERT_PTR_NOT_NULL(strstr(s, "omid_metric_series_refused_total 76\n"));
    free(s);
}

/* -------------------------------------------------------------------- collectors */

static void collect(void *arg, struct buf *out)
{
    ++*(int *)arg;
    metric_set(metric_gauge("t_collected", "Set while rendering."), *(int *)arg);
    buf_puts(out, "# TYPE t_own gauge\nt_own 5\n");
}

static void test_collectors(void)
{
    int a = 0, b = 100;
    metrics_collector_add(collect, &a);
    metrics_collector_add(collect, &b);
    char *s = rendered();
    CU_ASSERT(a == 1 && b == 101);
    CU_ASSERT_PTR_NOT_NULL(strstr(s, "\nt_collected 101\n"));
    CU_ASSERT_EQUAL(count(s, "t_own 5\n"), 2);
    free(s);
    metrics_collector_remove(collect, &a);
    metrics_collector_remove(collect, &a);
    free(rendered());
    CU_ASSERT(a == 1 && b == 102);
    metrics_collector_remove(collect, &b);
    free(rendered());
    CU_ASSERT_EQUAL(b, 102);
}

static void collect_heap(void *arg, struct buf *out)
{
    (void)out;
    ++*(int *)arg;
}

static void *render_often(void *arg)
{
    (void)arg;
    for (int i = 0; i < 300; i++)
        free(rendered());
    return NULL;
}

/* A collector's memory goes right after its removal, while another thread renders. */
static void test_collector_gone(void)
{
    pthread_t t;
    CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, render_often, NULL), 0);
    for (int i = 0; i < 3000; i++) {
        int *mine = calloc(1, sizeof *mine);
        metrics_collector_add(collect_heap, mine);
        metrics_collector_remove(collect_heap, mine);
        free(mine);
    }
    pthread_join(t, NULL);
}

/* ----------------------------------------------------------------------- threads */

enum { THREADS = 4, TIMES = 20000 };
static const double thread_bounds[] = {1};

static void *change(void *arg)
{
    (void)arg;
    for (int i = 0; i < TIMES; i++) {
        metric_add(metric_counter("t_threads_total", "Of all."), 1);
        if (i % 100 == 0)
            metric_observe(metric_get(METRIC_HISTOGRAM, "t_threads_seconds", "Of all.", NULL, 0, thread_bounds, 1),
                           0.5);
    }
    return NULL;
}

static void test_threads(void)
{
    pthread_t t[THREADS];
    for (int i = 0; i < THREADS; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&t[i], NULL, change, NULL), 0);
    for (int i = 0; i < 20; i++)
        free(rendered());
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    char *s = rendered();
    CU_ASSERT_PTR_NOT_NULL(strstr(s, "\nt_threads_total 80000\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(s, "\nt_threads_seconds_sum 400\nt_threads_seconds_count 800\n"));
    free(s);
}

/* ------------------------------------------------------------------------- doors */

static void type_clash(void)
{
    metric_counter("t_clash", "x");
    metric_gauge("t_clash", "x");
}

static void bad_name(void)
{
    metric_counter("9 lives", "x");
}

static void bad_label(void)
{
    metric_get(METRIC_COUNTER, "t_ok", "x", &(struct metric_label){"a-b", "v"}, 1, NULL, 0);
}

static void bad_bounds(void)
{
    static const double bounds[] = {1, 1};
    metric_get(METRIC_HISTOGRAM, "t_bounds", "x", NULL, 0, bounds, 2);
}

static void test_doors(void)
{
    CU_ASSERT(unit_aborts(type_clash));
    CU_ASSERT(unit_aborts(bad_name));
    CU_ASSERT(unit_aborts(bad_label));
    CU_ASSERT(unit_aborts(bad_bounds));
}

int main(void)
{
    CU_TestInfo tests[] = {{"text", test_text},
                           {"histogram", test_histogram},
                           {"small buffer", test_small_buffer},
                           {"bound of series", test_series_bound},
                           {"collectors", test_collectors},
                           {"a collector goes", test_collector_gone},
                           {"threads", test_threads},
                           {"doors", test_doors},
                           CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"metrics", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
