/*
 * Counters, gauges and histograms for /metrics (Prometheus text 0.0.4). Values are atomics: any thread may
 * change them. Labels come from fixed sets, never a uid or a URL. Registration copies its
 * strings and takes a lock; series live as long as the process. At most 1,024 a family: one more gets a metric that
 * counts but is not shown, and omid_metric_series_refused_total tells.
 */
#ifndef OMID_BASE_METRICS_H
#define OMID_BASE_METRICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };
struct metric;

#define METRIC_MAX_LABELS 5
struct metric_label {
    const char *name, *value;
};

/* Creates one, or returns the one with this name and these labels. help: one sentence, the same for all of a name.
 * labels: n of them. bounds: for histograms, ascending, n_bounds of them. Aborts on a type clash, a name that is none,
 * or no memory; NULL never. */
struct metric *metric_get(enum metric_type type, const char *name, const char *help, const struct metric_label *labels,
                          size_t n, const double *bounds, size_t n_bounds);
static inline struct metric *metric_counter(const char *name, const char *help)
{
    return metric_get(METRIC_COUNTER, name, help, NULL, 0, NULL, 0);
}
static inline struct metric *metric_gauge(const char *name, const char *help)
{
    return metric_get(METRIC_GAUGE, name, help, NULL, 0, NULL, 0);
}

void metric_add(struct metric *m, int64_t n); /* counter (n >= 0) or gauge */
void metric_set(struct metric *m, int64_t v); /* gauge */
int64_t metric_value(const struct metric *m);
void metric_observe(struct metric *m, double v); /* histogram */

/* Called at each rendering, to set gauges or to append whole families of its own. Any thread calls it, one at a time.
 * Within it, neither add nor remove collectors. Once _remove has returned it is not running and never called again:
 * don't remove while holding a lock that it takes. */
typedef void (*metrics_collect_fn)(void *arg, struct buf *out);
void metrics_collector_add(metrics_collect_fn fn, void *arg);
void metrics_collector_remove(metrics_collect_fn fn, void *arg);

/* Appends the whole exposition. false: it did not fit into out. */
bool metrics_render(struct buf *out);

#endif
