/*
 * Failures, and what they lead to: a webhook is disabled after so many in a row, an app when it has failed for so long
 * without a success between, either at once when it says that it is gone.
 *
 * How long a run lasts is measured by the monotonic clock, across a restart by the wall's.
 */
#include <stdio.h>

#include "base/magic.h"
#include "store/registry_int.h"

enum why { WHY_FAILURES, WHY_TIME, WHY_GONE, WHY_NOT };

static void mark(struct registry *r, struct slot *s)
{
    if (list_empty(&s->dirty)) {
        list_append(&r->dirty, &s->dirty);
        r->n_dirty++;
    }
}

/* With the lock. */
static enum why report_locked(struct registry *r, struct slot *s, enum omid_delivery_outcome outcome, int64_t now_ms,
                              uint64_t mono_ms)
{
    if (s->entry->disabled_ms != 0 || s->disabling)
        return WHY_NOT; /* of an attempt that was under way */
    if (outcome == OMID_DELIVERY_OK) {
        if (s->run.failures > 0) {
            s->run = (struct registry_run){0};
            mark(r, s);
        }
        return WHY_NOT;
    }
    if (s->run.failures == 0) {
        s->run.since_ms = now_ms;
        s->mono_ms = (int64_t)mono_ms;
    }
    if (s->run.failures < INT32_MAX)
        s->run.failures++;
    mark(r, s);
    if (outcome == OMID_DELIVERY_GONE)
        return WHY_GONE;
    if (!s->entry->app)
        return s->run.failures >= r->config.failures ? WHY_FAILURES : WHY_NOT;
    int64_t failing = (int64_t)mono_ms - s->mono_ms;
    return failing >= 0 && (uint64_t)failing >= r->config.failing_ms ? WHY_TIME : WHY_NOT;
}

void registry_report(struct registry *r, const char *id, enum omid_delivery_outcome outcome, int status, int64_t now_ms,
                     uint64_t mono_ms)
{
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    char reason[96] = "";
    unsigned failures = 0;
    pthread_mutex_lock(&r->lock);
    struct slot *s = registry_slot(r, id);
    enum why why = s != NULL ? report_locked(r, s, outcome, now_ms, mono_ms) : WHY_NOT;
    if (why != WHY_NOT) {
        failures = s->run.failures;
        if (why == WHY_GONE)
            snprintf(reason, sizeof(reason), "gone: it answered %d", status);
        else if (why == WHY_FAILURES)
            snprintf(reason, sizeof(reason), "failures: %u attempts in a row have failed", failures);
        else
            snprintf(reason, sizeof(reason), "time: every attempt of %lld s has failed",
                     (long long)(((int64_t)mono_ms - s->mono_ms) / 1000));
        s->disabling = true;
    }
    pthread_mutex_unlock(&r->lock);
    if (why != WHY_NOT && registry_disable(r, id, reason, failures, now_ms) != OMID_OK) {
        /* No room with the writer: the next failure tries again. */
        pthread_mutex_lock(&r->lock);
        s = registry_slot(r, id);
        if (s != NULL)
            s->disabling = false;
        pthread_mutex_unlock(&r->lock);
    }
}

void registry_flush(struct registry *r)
{
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    pthread_mutex_lock(&r->lock);
    size_t n = r->n_dirty;
    pthread_mutex_unlock(&r->lock);
    for (size_t done = 0; done < n; done += REGISTRY_FLUSH_RUNS) {
        size_t max = n - done < REGISTRY_FLUSH_RUNS ? n - done : REGISTRY_FLUSH_RUNS;
        if (registry_runs_write(r, max) != OMID_OK)
            return; /* they stay marked */
    }
}
