#include "base/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "base/utf8.h"

#define MAX_BUCKETS 16
#define MAX_COLLECTORS 64
#define MAX_SERIES 1024 /* of one family: labels come from fixed sets, so this many mean a fault */

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
    size_t n_series;
    struct metric *spill; /* takes the values of series beyond the bound; not rendered */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards families and their lists */
static uint64_t series_refused;
static struct family *families, **families_last = &families;
/* Guards the collectors, and is held while they run: one that was removed is not running any more. */
static pthread_mutex_t collect_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    metrics_collect_fn fn;
    void *arg;
} collectors[MAX_COLLECTORS];
static size_t n_collectors;

/* ------------------------------------------------------------------- registering */

static bool is_name(const char *s)
{
    static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:";
    size_t n = strspn(s, first);
    return n > 0 && s[n + strspn(s + n, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:")] == 0;
}

/* The text format's escapes: of a label's value, or of a help text (which has no quotes around it). */
static void text_escape(struct buf *b, const char *s, bool quoted)
{
    size_t n;
    for (size_t left = strlen(s); left > 0; s += n ? n : 1, left -= n ? n : 1) {
        n = utf8_char_len(s, left);
        if (n == 0)
            buf_puts(b, "\xef\xbf\xbd"); /* U+FFFD */
        else if (*s == '\n')
            buf_puts(b, "\\n");
        else if (*s == '\\' || (quoted && *s == '"'))
            buf_printf(b, "\\%c", *s);
        else
            buf_append(b, s, n);
    }
}

static char *labels_render(const struct metric_label *labels, size_t n)
{
    struct buf b = BUF_INIT(0);
    buf_puts(&b, "");
    for (size_t i = 0; i < n; i++) {
        omid_assert(is_name(labels[i].name));
        buf_printf(&b, "%s%s=\"", i ? "," : "", labels[i].name);
        text_escape(&b, labels[i].value, true);
        buf_puts(&b, "\"");
    }
    omid_assert(!b.failed);
    return buf_steal(&b, NULL);
}

static char *help_render(const char *help)
{
    struct buf b = BUF_INIT(0);
    text_escape(&b, help, false);
    omid_assert(!b.failed);
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
    omid_assert(f && n_bounds <= MAX_BUCKETS && is_name(name));
    f->type = type;
    f->name = strdup(name);
    f->help = help_render(help);
    omid_assert(f->name && f->help);
    f->n_bounds = n_bounds;
    for (size_t i = 0; i < n_bounds; i++) {
        omid_assert(isfinite(bounds[i]) && (i == 0 || bounds[i] > bounds[i - 1]));
        f->bound[i] = bounds[i];
    }
    f->last = &f->first;
    *families_last = f;
    families_last = &f->next;
    return f;
}

/* Takes the labels. Lock held. */
static struct metric *series_add(struct family *f, char *labels)
{
    bool spilt = f->n_series == MAX_SERIES;
    if (spilt) {
        series_refused++;
        free(labels);
        labels = NULL;
        if (f->spill)
            return f->spill;
    }
    struct metric *m = calloc(1, sizeof *m);
    omid_assert(m);
    m->family = f;
    m->labels = labels;
    if (spilt)
        return f->spill = m;
    *f->last = m;
    f->last = &m->next;
    f->n_series++;
    return m;
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
    if (m)
        free(rendered);
    else
        m = series_add(f, rendered);
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
    omid_assert(f->type == METRIC_HISTOGRAM);
    if (isnan(v))
        return; /* it would stay in the sum for ever */
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
    pthread_mutex_lock(&collect_lock);
    omid_assert(n_collectors < MAX_COLLECTORS);
    collectors[n_collectors].fn = fn;
    collectors[n_collectors++].arg = arg;
    pthread_mutex_unlock(&collect_lock);
}

void metrics_collector_remove(metrics_collect_fn fn, void *arg)
{
    pthread_mutex_lock(&collect_lock);
    for (size_t i = 0; i < n_collectors; i++) {
        if (collectors[i].fn == fn && collectors[i].arg == arg) {
            memmove(&collectors[i], &collectors[i + 1], (--n_collectors - i) * sizeof collectors[0]);
            break;
        }
    }
    pthread_mutex_unlock(&collect_lock);
}

static void double_render(struct buf *out, double d)
{
    if (isfinite(d))
        buf_printf(out, "%.15g", d);
    else
        buf_puts(out, d > 0 ? "+Inf" : "-Inf");
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
    buf_printf(out, "%s_sum%s%s%s ", f->name, open, m->labels, close);
    double_render(out, atomic_load_explicit(&m->sum, memory_order_relaxed));
    buf_puts(out, "\n");
    buf_printf(out, "%s_count%s%s%s %llu\n", f->name, open, m->labels, close, (unsigned long long)sum);
}

static void family_render(const struct family *f, struct buf *out)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", f->name, f->help, f->name, types[f->type]);
    for (struct metric *m = f->first; m; m = m->next) {
        if (f->type == METRIC_HISTOGRAM)
            histogram_render(f, m, out);
        else
            buf_printf(out, m->labels[0] ? "%s{%s} %lld\n" : "%s%s %lld\n", f->name, m->labels,
                       (long long)metric_value(m));
    }
}

bool metrics_render(struct buf *out)
{
    bool failed = out->failed;
    out->failed = false;
    pthread_mutex_lock(&collect_lock);
    for (size_t i = 0; i < n_collectors; i++)
        collectors[i].fn(collectors[i].arg, out);
    pthread_mutex_unlock(&collect_lock);

    pthread_mutex_lock(&lock);
    for (const struct family *f = families; f; f = f->next)
        family_render(f, out);
    buf_printf(out,
               "# HELP omid_metric_series_refused_total Series beyond the bound of their family.\n"
               "# TYPE omid_metric_series_refused_total counter\nomid_metric_series_refused_total %llu\n",
               (unsigned long long)series_refused);
    pthread_mutex_unlock(&lock);
    bool ok = !out->failed;
    out->failed |= failed;
    return ok;
}
