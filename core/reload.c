/* A changed configuration takes effect, or nothing of it does. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "admin/admin.h"
#include "base/log.h"
#include "base/magic.h"
#include "bus/plugin_routes.h"
#include "daemon.h"
#include "ingress/ingress.h"
#include "ingress/jwks.h"
#include "lane/queue/queue.h"
#include "session/session.h"
#include "store/store.h"

/* Counts what the loader can't describe. At the start such a plugin is left out; a reload is refused for it, as it
 * might take the place of one that runs, unless it was left out before. */
struct strict_source {
    struct conf_source loader;
    const struct host *host;
    unsigned failed;
};

static const struct omid_plugin *describe_strictly(void *arg, const char *name, const char *path, char *err,
                                                   size_t errlen)
{
    struct strict_source *s = arg;
    const struct omid_plugin *plugin = s->loader.describe(s->loader.arg, name, path, err, errlen);
    s->failed += plugin == NULL && !host_lacks(s->host, name, path);
    return plugin;
}

static void core_read_strictly(void *arg, const struct conf *c)
{
    struct strict_source *s = arg;
    if (s->loader.core_read)
        s->loader.core_read(s->loader.arg, c);
}

/* The configuration as the file has it now, with what can't change as it is. NULL: told in faults. */
static struct conf *reload_conf(struct daemon *d, struct conf_faults *faults)
{
    struct strict_source strict = {.loader = loader_source(d->loader), .host = d->host};
    struct conf_source source = {.describe = describe_strictly, .core_read = core_read_strictly, .arg = &strict};
    struct conf *next = conf_load(d->file, &source, faults);
    if (next && strict.failed > 0) {
        conf_fault(faults, false, next->file, 0, NULL,
                   "a running daemon can't take a configuration with a plugin left out");
        conf_free(&next);
    }
    if (next && !daemon_blocks_check(next, faults))
        conf_free(&next);
    if (next)
        conf_carry(next, d->conf, faults);
    return next;
}

struct settings {
    struct loop_msg msg;
    struct sessions *ss;
    struct conf *conf; /* held */
};

static void on_settings(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct settings *s = container_of(msg, struct settings, msg);
    sessions_configure(s->ss, s->conf);
    conf_free(&s->conf);
    free(s);
}

/* From here on nothing can fail. */
static struct host_change_counts reload_commit(struct daemon *d, struct conf *next, struct routes *routes,
                                               struct ssl_ctx_st *tls, struct host_change **change)
{
    struct host_change_counts counts = host_change_commit(change, next->daemon.drain_ms);
    /* Behind the plugins: settings may be about what came with them. */
    for (unsigned i = 0; i < d->n_loops; i++) {
        struct settings *s = calloc(1, sizeof *s);
        omid_assert(s); /* a few bytes */
        *s = (struct settings){.msg = {.fn = on_settings}, .ss = d->sessions[i], .conf = conf_ref(next)};
        loop_post(d->loop[i], &s->msg);
    }
    jwks_configure(d->jwks, next); /* first: a token of a new project finds its keys asked for */
    ingress_configure(d->ingress, next, routes, tls);
    admin_configure(d->admin, next);
    daemon_registry_configure(d, next);
    daemon_blocks_seed(d, next);
    budget_setup(next->memory.sessions);
    store_set_idle(d->store, next->memory.check_ms);
    queue_set_idle(d->queue, next->memory.check_ms);
    plugin_routes_answer_within(next->ingress.answer_timeout_ms);
    daemon_log_configure(next);
    routes_free(&d->routes);
    d->routes = routes;
    conf_free(&d->conf);
    d->conf = next;
    return counts;
}

static bool reload_apply(struct daemon *d, struct conf_faults *faults, struct host_change_counts *counts)
{
    struct conf *next = reload_conf(d, faults);
    struct ssl_ctx_st *tls = NULL;
    char err[512];
    if (next && !ingress_tls_read(d->ingress, next, &tls, err, sizeof err)) {
        conf_fault(faults, false, next->file, 0, NULL, "%s", err); /* changed since next has checked it */
        conf_free(&next);
    }
    struct host_change *change = next ? host_change_prepare(d->host, next, faults) : NULL;
    struct routes *routes = change ? daemon_routes_make(d) : NULL;
    loader_clear(d->loader);
    if (routes) {
        *counts = reload_commit(d, next, routes, tls, &change);
    } else {
        if (change) {
            conf_fault(faults, false, next->file, 0, NULL, "out of memory");
            host_change_cancel(&change, d->conf->daemon.drain_ms);
        }
        conf_free(&next);
    }
    ingress_tls_free(&tls);
    return routes != NULL;
}

/* One line of the log per fault. */
static void faults_log(const char *text)
{
    char line[1200];
    while (*text) {
        size_t n = strcspn(text, "\n");
        snprintf(line, sizeof line, "%.*s", (int)n, text);
        if (strstr(line, ": warning: "))
            log_warning(MODULE, "configuration", LS("fault", line));
        else
            log_error(MODULE, "configuration", LS("fault", line));
        text += n + (text[n] == '\n');
    }
}

void daemon_reload(struct daemon *d)
{
    struct conf_faults faults = {.text = BUF_INIT(1u << 20)};
    struct host_change_counts n = {0};
    char summary[256];
    uint64_t number = admin_reload_begin(d->admin);
    sd_notify(0, "RELOADING=1");
    bool ok = reload_apply(d, &faults, &n);
    const char *told = faults.text.len ? faults.text.data : "";
    if (ok)
        snprintf(
            summary, sizeof summary,
            "reloaded: plugins: %u added, %u removed, %u replaced, %u as they were (%u with another lane); %u warnings",
            n.added, n.removed, n.replaced, n.kept, n.lanes, faults.warnings);
    else
        snprintf(summary, sizeof summary, "not reloaded, everything is as it was: %u errors, %u warnings",
                 faults.errors, faults.warnings);
    faults_log(told);
    if (ok)
        log_notice(MODULE, summary);
    else
        log_error(MODULE, summary);
    admin_reload_end(d->admin, number, ok, summary, told);
    conf_faults_free(&faults);
    sd_notify(0, "READY=1");
}
