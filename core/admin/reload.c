/*
 * Reload on request: POST counts, GET tells how far the daemon has come. Both answer at once: the work is the main
 * thread's, and whoever wants its result asks again until `done` has reached the number that POST answered.
 */
#include <stdlib.h>
#include <string.h>

#include "admin/private.h"
#include "base/clock.h"
#include "base/magic.h"
#include "base/metrics.h"

int admin_reload_ask(void *arg, const char *path, struct buf *body, const char **content_type)
{
    struct admin *a = arg;
    struct json_w w;

    (void)path;
    (void)content_type;
    CHECK_MAGIC(a, ADMIN_MAGIC);
    bool ready = atomic_load(&a->phase) == ADMIN_READY && a->env.reload != NULL;
    pthread_mutex_lock(&a->lock);
    uint64_t number = ready ? ++a->reload.asked : 0;
    pthread_mutex_unlock(&a->lock);
    json_w_start(&w, body);
    json_w_open(&w, '{');
    if (ready)
        json_w_kint(&w, "number", (int64_t)number);
    else
        json_w_kstr(&w, "error", admin_phase_name(atomic_load(&a->phase)));
    json_w_close(&w, '}');
    bool ok = json_w_end(&w) && buf_puts(body, "\n");
    if (ready)
        a->env.reload(a->env.reload_arg);
    return ok && ready ? 202 : 503;
}

static void write_lines(struct json_w *w, const char *text)
{
    json_w_open(w, '[');
    while (text != NULL && *text != '\0') {
        size_t n = strcspn(text, "\n");
        json_w_strn(w, text, n);
        text += n + (text[n] == '\n');
    }
    json_w_close(w, ']');
}

int admin_reload_result(void *arg, const char *path, struct buf *body, const char **content_type)
{
    struct admin *a = arg;
    struct json_w w;

    (void)path;
    (void)content_type;
    CHECK_MAGIC(a, ADMIN_MAGIC);
    json_w_start(&w, body);
    pthread_mutex_lock(&a->lock);
    const struct admin_reload *r = &a->reload;
    json_w_open(&w, '{');
    json_w_kint(&w, "asked", (int64_t)r->asked);
    json_w_kint(&w, "done", (int64_t)r->done);
    json_w_kint(&w, "times", (int64_t)r->times);
    json_w_kbool(&w, "ok", r->ok);
    json_w_kstr(&w, "summary", r->summary);
    json_w_kint(&w, "time_ms", r->wall_ms);
    json_w_key(&w, "faults");
    write_lines(&w, r->faults);
    json_w_close(&w, '}');
    pthread_mutex_unlock(&a->lock);
    return json_w_end(&w) && buf_puts(body, "\n") ? 200 : 503;
}

uint64_t admin_reload_begin(struct admin *a)
{
    CHECK_MAGIC(a, ADMIN_MAGIC);
    pthread_mutex_lock(&a->lock);
    uint64_t number = a->reload.asked;
    pthread_mutex_unlock(&a->lock);
    return number;
}

static struct metric *reloads_metric(bool ok)
{
    const struct metric_label label = {"result", ok ? "ok" : "refused"};
    return metric_get(METRIC_COUNTER, "omid_reloads_total", "Reloads, by their result.", &label, 1, NULL, 0);
}

void admin_reload_metrics(void)
{
    reloads_metric(true);
    reloads_metric(false);
}

void admin_reload_end(struct admin *a, uint64_t number, bool ok, const char *summary, const char *faults)
{
    CHECK_MAGIC(a, ADMIN_MAGIC);
    metric_add(reloads_metric(ok), 1);
    char *said = strdup(summary), *told = strdup(faults);
    pthread_mutex_lock(&a->lock);
    struct admin_reload *r = &a->reload;
    free(r->summary);
    free(r->faults);
    r->summary = said;
    r->faults = told;
    r->ok = ok;
    r->times++;
    r->done = number;
    r->wall_ms = clock_wall_ms();
    pthread_mutex_unlock(&a->lock);
}

void admin_configure(struct admin *a, const struct conf *conf)
{
    CHECK_MAGIC(a, ADMIN_MAGIC);
    atomic_store(&a->memory_limit, conf->memory.sessions);
}
