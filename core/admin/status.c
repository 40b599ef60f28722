/* What omictl asks for on the control socket. */
#include <string.h>
#include <unistd.h>

#include "admin/private.h"
#include "base/clock.h"
#include "base/magic.h"
#include "config.h"
#include "host/host.h"
#include "lane/exec/exec.h"
#include "lane/http/lane.h"
#include "lane/queue/queue.h"
#include "session/session.h"
#include "store/store.h"

/* The bound of the bucket that holds the p-th part; what lies beyond the last bound is told by the maximum. */
static double lag_quantile(const struct pulse_lag *lag, double p)
{
    uint64_t want = (uint64_t)((double)lag->n * p), seen = 0;

    if (lag->n == 0)
        return 0;
    for (size_t i = 0; i + 1 < PULSE_LAG_BUCKETS; i++) {
        seen += lag->count[i];
        if (seen > want)
            return pulse_lag_bounds[i];
    }
    return (double)lag->max_ns / 1e9;
}

struct loops_writer {
    const struct admin *a;
    struct json_w *w;
};

static void write_loop(void *arg, const char *name, const struct pulse_lag *lag)
{
    const struct loops_writer *lw = arg;
    struct json_w *w = lw->w;
    struct pulse_doing doing;

    double max_s = (double)lag->max_ns / 1e9;
    double p50 = lag_quantile(lag, 0.5), p99 = lag_quantile(lag, 0.99);
    json_w_open(w, '{');
    json_w_kstr(w, "name", name);
    json_w_kint(w, "turns", (int64_t)lag->n);
    json_w_knum(w, "lag_p50_ms", (p50 < max_s ? p50 : max_s) * 1e3);
    json_w_knum(w, "lag_p99_ms", (p99 < max_s ? p99 : max_s) * 1e3);
    json_w_knum(w, "lag_max_ms", max_s * 1e3);
    for (unsigned i = 0; i < lw->a->env.n_loops; i++) {
        const struct loop *loop = lw->a->env.loops[i];
        if (strcmp(loop_name(loop), name) == 0 && loop_doing_read(loop, &doing)) {
            json_w_kstr(w, "owner", doing.owner);
            json_w_kstr(w, "callback", doing.callback);
        }
    }
    json_w_close(w, '}');
}

static void write_parts(struct admin *a, struct json_w *w)
{
    struct ingress *in = atomic_load(&a->ingress);

    json_w_key(w, "sessions");
    sessions_status(w);
    if (in != NULL) {
        json_w_key(w, "ingress");
        ingress_status(in, w);
    }
    if (a->env.host != NULL) {
        json_w_key(w, "plugins");
        host_status(a->env.host, w);
    }
    if (a->env.lanes != NULL) {
        json_w_key(w, "lanes");
        lanes_status(a->env.lanes, w);
    }
    if (a->env.exec != NULL) {
        json_w_key(w, "exec");
        exec_status(a->env.exec, w);
    }
    if (a->env.queue != NULL) {
        json_w_key(w, "queue");
        queue_status(a->env.queue, w);
    }
    if (a->env.store != NULL) {
        json_w_key(w, "store");
        store_status_json(a->env.store, w);
    }
}

int admin_status(void *arg, const char *path, struct buf *body, const char **content_type)
{
    struct admin *a = arg;
    struct json_w w;

    (void)path;
    (void)content_type;
    CHECK_MAGIC(a, ADMIN_MAGIC);
    json_w_start(&w, body);
    json_w_open(&w, '{');
    json_w_kstr(&w, "version", PACKAGE_VERSION);
    json_w_kint(&w, "pid", getpid());
    json_w_kstr(&w, "phase", admin_phase_name(atomic_load(&a->phase)));
    json_w_kint(&w, "uptime_s", (int64_t)((clock_mono_ms() - a->started_mono_ms) / 1000));
    json_w_kstr(&w, "config", a->file);
    json_w_key(&w, "addresses");
    json_w_open(&w, '[');
    struct ingress *in = atomic_load(&a->ingress);
    for (size_t i = 0; in != NULL && ingress_address(in, i) != NULL; i++)
        json_w_str(&w, ingress_address(in, i));
    json_w_close(&w, ']');
    json_w_key(&w, "memory");
    json_w_open(&w, '{');
    json_w_kint(&w, "used", (int64_t)budget_used());
    json_w_kint(&w, "limit", (int64_t)atomic_load(&a->memory_limit));
    json_w_close(&w, '}');
    json_w_key(&w, "remarks");
    admin_remarks_write(a, &w);
    write_parts(a, &w);
    json_w_key(&w, "loops");
    json_w_open(&w, '[');
    struct loops_writer lw = {.a = a, .w = &w};
    pulse_lag_each(write_loop, &lw);
    json_w_close(&w, ']');
    json_w_close(&w, '}');
    return json_w_end(&w) && buf_puts(body, "\n") ? 200 : 503;
}

int admin_plugins(void *arg, const char *path, struct buf *body, const char **content_type)
{
    struct admin *a = arg;
    struct json_w w;

    (void)path;
    (void)content_type;
    CHECK_MAGIC(a, ADMIN_MAGIC);
    json_w_start(&w, body);
    json_w_open(&w, '{');
    json_w_key(&w, "plugins");
    if (a->env.host != NULL) {
        host_status(a->env.host, &w);
    } else {
        json_w_open(&w, '[');
        json_w_close(&w, ']');
    }
    json_w_close(&w, '}');
    return json_w_end(&w) && buf_puts(body, "\n") ? 200 : 503;
}
