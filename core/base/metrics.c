#include "base/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"

#define MAX_BUCKETS 16
#define MAX_COLLECTORS 32

/* One time series; those of one name stand in one family. */
struct metric {
    struct metric *next; /* in its family */
    struct family *family;
    char *labels; /* rendered: a="x",b="y"; "" without */
    atomic_int_fast64_t value;
    /* histogram */
    atomic_uint_fast64_t bucket[MAX_BUCKETS + 1];
    _Atomic double sum;
};
struct family {
    struct family *next;
    enum metric_type type;
    char *name, *help;
    double bound[MAX_BUCKETS];
    size_t n_bounds;
    struct metric *first, **last;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct family *families, **families_last = &families;
static struct {
    metrics_collect_fn fn;
    void *arg;
} collectors[MAX_COLLECTORS];
static size_t n_collectors;

/* ------------------------------------------------------------------- registering */

static void value_escape(struct buf *b, const char *s)
{
    for (; *s; s++) {
        if (*s == '\n')
            buf_puts(b, "\\n");
        else if (*s == '"' || *s == '\\')
            buf_printf(b, "\\%c", *s);
        else
            buf_append(b, s, 1);
    }
}

static char *labels_render(const struct metric_label *labels, size_t n)
{
    struct buf b = BUF_INIT(0);
    buf_puts(&b, "");
    for (size_t i = 0; i < n; i++) {
        buf_printf(&b, "%s%s=\"", i ? "," : "", labels[i].name);
        value_escape(&b, labels[i].value);
        buf_puts(&b, "\"");
    }
    return buf_steal(&b, NULL);
}

static struct family *family_get(enum metric_type type, const char *name, const char *help, const double *bounds,
                                 size_t n_bounds)
{
    for (struct family *f = families; f; f = f->next) {
        if (strcmp(f->name, name) == 0) {
            omid_assert(f->type == type);
            return f;
        }
    }
    struct family *f = calloc(1, sizeof *f);
    omid_assert(f && n_bounds <= MAX_BUCKETS);
    f->type = type;
    f->name = strdup(name);
    f->help = strdup(help);
    omid_assert(f->name && f->help);
    f->n_bounds = n_bounds;
    for (size_t i = 0; i < n_bounds; i++)
        f->bound[i] = bounds[i];
    f->last = &f->first;
    *families_last = f;
    families_last = &f->next;
    return f;
}

struct metric *metric_get(enum metric_type type, const char *name, const char *help, const struct metric_label *labels,
                          size_t n, const double *bounds, size_t n_bounds)
{
    omid_assert(n <= METRIC_MAX_LABELS);
    char *rendered = labels_render(labels, n);
    omid_assert(rendered);
    pthread_mutex_lock(&lock);
    struct family *f = family_get(type, name, help, bounds, n_bounds);
    struct metric *m = f->first;
    while (m && strcmp(m->labels, rendered) != 0)
        m = m->next;
    if (m) {
        free(rendered);
    } else {
        m = calloc(1, sizeof *m);
        omid_assert(m);
        m->family = f;
        m->labels = rendered;
        *f->last = m;
        f->last = &m->next;
    }
    pthread_mutex_unlock(&lock);
    return m;
}

/* ------------------------------------------------------------------------ values */

void metric_add(struct metric *m, int64_t n)
{
    atomic_fetch_add_explicit(&m->value, n, memory_order_relaxed);
}

void metric_set(struct metric *m, int64_t v)
{
    atomic_store_explicit(&m->value, v, memory_order_relaxed);
}

int64_t metric_value(const struct metric *m)
{
    return atomic_load_explicit(&((struct metric *)m)->value, memory_order_relaxed);
}

void metric_observe(struct metric *m, double v)
{
    const struct family *f = m->family;
    size_t i = 0;
    while (i < f->n_bounds && v > f->bound[i])
        i++;
    atomic_fetch_add_explicit(&m->bucket[i], 1, memory_order_relaxed);
    double sum = atomic_load_explicit(&m->sum, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&m->sum, &sum, sum + v, memory_order_relaxed, memory_order_relaxed))
        ;
}

/* --------------------------------------------------------------------- rendering */

void metrics_collector_add(metrics_collect_fn fn, void *arg)
{
    pthread_mutex_lock(&lock);
    omid_assert(n_collectors < MAX_COLLECTORS);
    collectors[n_collectors].fn = fn;
    collectors[n_collectors++].arg = arg;
    pthread_mutex_unlock(&lock);
}

void metrics_collector_remove(metrics_collect_fn fn, void *arg)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_collectors; i++) {
        if (collectors[i].fn == fn && collectors[i].arg == arg) {
            collectors[i] = collectors[--n_collectors];
            break;
        }
    }
    pthread_mutex_unlock(&lock);
}

static void histogram_render(const struct family *f, struct metric *m, struct buf *out)
{
    const char *comma = m->labels[0] ? "," : "";
    uint64_t sum = 0;
    for (size_t i = 0; i <= f->n_bounds; i++) {
        char bound[32] = "+Inf";
        if (i < f->n_bounds)
            snprintf(bound, sizeof bound, "%g", f->bound[i]);
        sum += atomic_load_explicit(&m->bucket[i], memory_order_relaxed);
        buf_printf(out, "%s_bucket{%s%sle=\"%s\"} %llu\n", f->name, m->labels, comma, bound, (unsigned long long)sum);
    }
    const char *open = m->labels[0] ? "{" : "", *close = m->labels[0] ? "}" : "";
    buf_printf(out, "%s_sum%s%s%s %.9g\n", f->name, open, m->labels, close,
               atomic_load_explicit(&m->sum, memory_order_relaxed));
    buf_printf(out, "%s_count%s%s%s %llu\n", f->name, open, m->labels, close, (unsigned long long)sum);
}

bool metrics_render(struct buf *out)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    /* Collectors may set gauges and take locks of their own: they run outside ours, from a copy. */
    metrics_collect_fn fn[MAX_COLLECTORS];
    void *arg[MAX_COLLECTORS];
    pthread_mutex_lock(&lock);
    size_t n = n_collectors;
    for (size_t i = 0; i < n; i++) {
        fn[i] = collectors[i].fn;
        arg[i] = collectors[i].arg;
    }
    pthread_mutex_unlock(&lock);
    for (size_t i = 0; i < n; i++)
        fn[i](arg[i], out);

    pthread_mutex_lock(&lock);
    for (struct family *f = families; f; f = f->next) {
        buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", f->name, f->help, f->name, types[f->type]);
        for (struct metric *m = f->first; m; m = m->next) {
            if (f->type == METRIC_HISTOGRAM)
                histogram_render(f, m, out);
            else
                buf_printf(out, m->labels[0] ? "%s{%s} %lld\n" : "%s%s %lld\n", f->name, m->labels,
                           (long long)metric_value(m));
        }
    }
    pthread_mutex_unlock(&lock);
    return buf_puts(out, "");
}
