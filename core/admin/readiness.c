/* Readiness: the phase, remarks, and what store and queue say. */
#include <stdio.h>
#include <string.h>

#include "admin/private.h"
#include "base/log.h"
#include "base/magic.h"
#include "lane/queue/queue.h"
#include "store/store.h"

const char *admin_phase_name(enum admin_phase phase)
{
    static const char *const names[] = {"starting", "ready", "draining"};
    omid_assert((size_t)phase < ARRAY_LEN(names));
    return names[phase];
}

void admin_set_phase(struct admin *a, enum admin_phase phase)
{
    CHECK_MAGIC(a, ADMIN_MAGIC);
    enum admin_phase before = atomic_exchange(&a->phase, phase);
    omid_assert(phase >= before);
    if (phase != before)
        log_notice("admin", "phase", LS("from", admin_phase_name(before)), LS("to", admin_phase_name(phase)));
}

void admin_remarks_write(struct admin *a, struct json_w *w)
{
    json_w_open(w, '[');
    pthread_mutex_lock(&a->lock);
    for (size_t i = 0; i < a->n_remarks; i++)
        json_w_str(w, a->remark[i]);
    pthread_mutex_unlock(&a->lock);
    json_w_close(w, ']');
}

void admin_remark(struct admin *a, const char *text)
{
    CHECK_MAGIC(a, ADMIN_MAGIC);
    log_warning("admin", "remark", LS("text", text));
    pthread_mutex_lock(&a->lock);
    char *copy = a->n_remarks < ADMIN_REMARKS_MAX ? strdup(text) : NULL;
    if (copy != NULL)
        a->remark[a->n_remarks++] = copy;
    pthread_mutex_unlock(&a->lock);
}

/* One reason why not; "" when there is none. */
static bool add_reason(struct json_w *w, const char *what, const char *reason)
{
    char text[320];

    if (reason[0] == '\0')
        return false;
    snprintf(text, sizeof(text), "%s%s%s", what, what[0] != '\0' ? ": " : "", reason);
    json_w_str(w, text);
    return true;
}

int admin_readyz(void *arg, const char *path, struct buf *body, const char **content_type)
{
    struct admin *a = arg;
    struct json_w w;
    char err[256];
    bool ready = true;

    (void)path;
    (void)content_type;
    CHECK_MAGIC(a, ADMIN_MAGIC);
    enum admin_phase phase = atomic_load(&a->phase);
    json_w_start(&w, body);
    json_w_open(&w, '{');
    json_w_key(&w, "reasons");
    json_w_open(&w, '[');
    if (phase != ADMIN_READY)
        ready = !add_reason(&w, "", admin_phase_name(phase));
    if (a->env.store != NULL) {
        err[0] = '\0';
        store_health(a->env.store, err, sizeof(err));
        ready = !add_reason(&w, "store", err) && ready;
    }
    if (a->env.queue != NULL) {
        err[0] = '\0';
        queue_health(a->env.queue, err, sizeof(err));
        ready = !add_reason(&w, "queue", err) && ready;
    }
    json_w_close(&w, ']');
    json_w_key(&w, "remarks");
    admin_remarks_write(a, &w);
    json_w_kstr(&w, "status", ready ? "ready" : "unavailable");
    json_w_close(&w, '}');
    return json_w_end(&w) && buf_puts(body, "\n") && ready ? 200 : 503;
}
