/* How everything starts. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "admin/admin.h"
#include "admin/day.h"
#include "admin/queue.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/magic.h"
#include "bus/bus.h"
#include "bus/plugin_routes.h"
#include "daemon.h"
#include "host/watchdog.h"
#include "ingress/ingress.h"
#include "ingress/jwks.h"
#include "lane/exec/exec.h"
#include "lane/http/lane.h"
#include "lane/queue/queue.h"
#include "session/session.h"
#include "store/registry.h"
#include "store/store.h"
#include "store/values.h"

/* A finished job's name answers with its first id this long (the webhook contract, idempotency). */
#define NAME_KEEP_MS (12u * 3600 * 1000)

/* ----------------------------------------------------------------- what others need */

static enum log_level level_of(const char *name)
{
    static const char *const names[] = {"error", "warning", "notice", "info", "debug"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i]) == 0)
            return (enum log_level)i;
    }
    return LOG_LEVEL_INFO;
}

void daemon_log_configure(const struct conf *c)
{
    enum log_format format = strcmp(c->log.format, "json") == 0 ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT;
    enum log_target target = strcmp(c->log.target, "syslog") == 0     ? LOG_TARGET_SYSLOG
                             : strcmp(c->log.target, "journald") == 0 ? LOG_TARGET_JOURNALD
                                                                      : LOG_TARGET_STDERR;
    log_setup(level_of(c->log.level), format, target);
}

static int publish(void *arg, unsigned reactor, const struct omid_event *ev)
{
    struct daemon *d = arg;
    /* What an app says is for the user's sessions, wherever the plugin heard it. */
    unsigned home = ev->type == OMID_EVENT_APP_MESSAGE ? session_reactor_of(ev->uid, d->n_loops) : reactor;
    struct bus *bus = d->bus[home];
    if (bus == NULL)
        return OMID_ECLOSED;
    return home == reactor ? bus_publish_later(bus, ev) : bus_publish_across(bus, ev);
}

static void takes_part(void *arg, unsigned reactor, struct omid_instance *inst, bool begins)
{
    struct daemon *d = arg;
    if (d->sessions[reactor])
        sessions_tell(d->sessions[reactor], inst, begins);
}

static int value_put(void *arg, const char *plugin, const char *key, const void *value, size_t len, int64_t ttl_ms,
                     struct loop *loop, void (*cb)(void *arg, int result), void *cb_arg)
{
    const struct daemon *d = arg;
    return store_value_put(d->store, plugin, key, value, len, clock_wall_ms(), ttl_ms, loop, cb, cb_arg);
}

static int value_get(void *arg, const char *plugin, const char *key, struct loop *loop,
                     void (*cb)(void *arg, int result, const void *value, size_t len), void *cb_arg)
{
    const struct daemon *d = arg;
    return store_value_get(d->store, plugin, key, clock_wall_ms(), loop, cb, cb_arg);
}

/* Has somebody asked to stop? Signals wait for the main thread. */
static bool stop_asked(void *arg)
{
    (void)arg;
    sigset_t pending;
    return sigpending(&pending) == 0 && (sigismember(&pending, SIGTERM) || sigismember(&pending, SIGINT));
}

struct host_env daemon_host_env(struct daemon *d)
{
    return (struct host_env){.conf = d->conf,
                             .loader = d->loader,
                             .loops = d->loop,
                             .n_loops = d->n_loops,
                             .lanes = d->lanes,
                             .exec = d->exec,
                             .queue = d->queue,
                             .stop_asked = stop_asked,
                             .services = {.arg = d,
                                          .publish = publish,
                                          .respond = plugin_respond,
                                          .respond_with = plugin_respond_with,
                                          .respond_begin = plugin_respond_begin,
                                          .respond_data = plugin_respond_data,
                                          .respond_end = plugin_respond_end,
                                          .conn_send = plugin_conn_send,
                                          .conn_close = plugin_conn_close,
                                          .stt_ready = session_stt_ready,
                                          .stt_writable = session_stt_writable,
                                          .stt_result = session_stt_result,
                                          .stt_closed = session_stt_closed,
                                          .value_put = value_put,
                                          .value_get = value_get,
                                          .endpoints = daemon_endpoints,
                                          .endpoint_find = daemon_endpoint_find,
                                          .endpoints_release = registry_release,
                                          .endpoint_report = daemon_endpoint_report,
                                          .takes_part = takes_part}};
}

/* --------------------------------------------------------------------------- start */

/* Creates `path` with its parents. */
static bool dir_make(const char *path, mode_t mode)
{
    char part[512];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part) {
        errno = ENAMETOOLONG;
        return false;
    }
    for (char *p = part + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        if (mkdir(part, 0755) != 0 && errno != EEXIST)
            return false;
        *p = '/';
    }
    return mkdir(part, mode) == 0 || errno == EEXIST;
}

static bool dir_usable(const char *key, const char *path)
{
    struct stat st;
    if (dir_make(path, 0750) && stat(path, &st) == 0) {
        if (!S_ISDIR(st.st_mode))
            errno = ENOTDIR;
        else if (access(path, W_OK | X_OK) == 0)
            return true;
    }
    log_error(MODULE, "directory is not usable", LS("key", key), LS("path", path), LS("reason", strerror(errno)));
    return false;
}

/* Sockets are what this daemon is made of: as many as the system lets it have. */
static void descriptors_raise(void)
{
    struct rlimit rl;
    if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur < rl.rlim_max) {
        rl.rlim_cur = rl.rlim_max;
        setrlimit(RLIMIT_NOFILE, &rl);
    }
}

static bool start_disk(struct daemon *d)
{
    const struct conf *c = d->conf;
    char path[600], err[256] = "";
    if (!dir_usable("daemon.state_dir", c->daemon.state_dir) || !dir_usable("daemon.run_dir", c->daemon.run_dir))
        return false;

    snprintf(path, sizeof path, "%s/store.db", c->daemon.state_dir);
    struct store_config sc = {.path = path, .commit_ms = c->store.commit_ms};
    d->store = store_open(&sc, &d->store_aside, err, sizeof err);
    if (!d->store) {
        log_error(MODULE, "store", LS("path", path), LS("reason", err));
        return false;
    }

    store_set_idle(d->store, c->memory.check_ms);
    if (!daemon_registry_open(d))
        return false;

    snprintf(path, sizeof path, "%s/queue.db", c->daemon.state_dir);
    struct queue_config qc = {.path = path,
                              .commit_ms = c->queue.commit_ms,
                              .lease_ms = c->queue.lease_ms,
                              .in_flight = c->queue.in_flight,
                              .in_flight_per_target = c->queue.in_flight_per_target,
                              .max_jobs = c->queue.max_jobs,
                              .max_bytes = c->queue.max_bytes,
                              .max_share = c->queue.max_share,
                              .over_share = daemon_tell_full,
                              .over_share_arg = d,
                              .retry_ms = c->queue.retry_ms,
                              .n_retry = c->queue.retry.n,
                              .jitter = c->queue.jitter,
                              .name_keep_ms = NAME_KEEP_MS,
                              .dead = c->queue.dead,
                              .dead_keep_ms = (int64_t)c->queue.dead_keep_ms,
                              .attempts = c->queue.attempts,
                              .attempts_keep_ms = (int64_t)c->queue.attempts_keep_ms,
                              .replay_per_s = c->queue.replay_rate};
    d->queue = queue_open(&qc, &d->queue_aside, err, sizeof err);
    if (!d->queue) {
        log_error(MODULE, "queue", LS("path", path), LS("reason", err));
        return false;
    }
    queue_set_idle(d->queue, c->memory.check_ms);
    return true;
}

static bool start_threads(struct daemon *d)
{
    const struct conf *c = d->conf;
    omid_assert(c);
    struct exec_config ec = {.threads = {c->exec.critical, c->exec.storage, c->exec.blocking}, .queue = c->exec.queue};
    d->exec = exec_new(&ec);
    d->lanes = lanes_new();
    if (!d->exec || !d->lanes || !lanes_start(d->lanes)) {
        log_error(MODULE, "executors or lanes did not start", LS("reason", strerror(errno)));
        return false;
    }
    d->n_loops = c->daemon.reactors;
    omid_assert(d->n_loops >= 1 && d->n_loops <= MAX_REACTORS);
    for (unsigned i = 0; i < d->n_loops; i++) {
        char name[24];
        snprintf(name, sizeof name, "reactor_%u", i);
        d->loop[i] = loop_new(name);
        if (!d->loop[i])
            return false;
    }
    return true;
}

static bool start_plugins(struct daemon *d)
{
    struct conf_faults faults = {.text = BUF_INIT(1u << 20)};
    struct host_env env = daemon_host_env(d);
    d->host = host_new(&env);
    bool ok = d->host && host_configure(d->host, &faults);
    if (faults.text.len)
        fputs(faults.text.data, stderr);
    conf_faults_free(&faults);
    return ok;
}

static bool start_sessions(struct daemon *d)
{
    for (unsigned i = 0; i < d->n_loops; i++) {
        d->bus[i] = bus_new(d->loop[i], d->host, i);
        if (!d->bus[i])
            return false;
        struct sessions_env env = {.conf = d->conf,
                                   .host = d->host,
                                   .bus = d->bus[i],
                                   .store = d->store,
                                   .queue = d->queue,
                                   .exec = d->exec,
                                   .loop = d->loop[i],
                                   .reactor = i,
                                   .reactors = d->n_loops};
        d->sessions[i] = sessions_new(&env);
        if (!d->sessions[i])
            return false;
    }
    return true;
}

/* Of the core, and of the plugins that run or are about to. NULL: no memory. */
struct routes *daemon_routes_make(struct daemon *d)
{
    struct routes *routes = routes_new();
    struct route listen = {.path = "/v4/listen",
                           .auth = ROUTE_TOKEN_LISTEN,
                           .precheck = session_precheck,
                           .handler = &session_channel_handler,
                           .arg = d->sessions};
    struct route web = listen;
    web.path = "/v4/web/listen";
    web.auth = ROUTE_TOKEN_FIRST;
    if (routes &&
        (!routes_add(routes, &listen) || !routes_add(routes, &web) || !sessions_routes_add(routes, d->sessions) ||
         !daemon_registry_routes(d, routes) || !queue_routes_add(routes, d->queue) ||
         !day_routes_add(routes, d->sessions) || !plugin_routes_add(d->host, routes)))
        routes_free(&routes);
    return routes;
}

/* What a reload takes to the main thread. Any thread. */
static void reload_ask(void *arg)
{
    (void)arg;
    kill(getpid(), SIGHUP);
}

static bool start_admin(struct daemon *d)
{
    struct admin_env env = {.conf = d->conf,
                            .host = d->host,
                            .lanes = d->lanes,
                            .exec = d->exec,
                            .queue = d->queue,
                            .store = d->store,
                            .loops = d->loop,
                            .n_loops = d->n_loops,
                            .reload = reload_ask};
    d->admin = admin_new(&env);
    if (d->admin && d->store_aside)
        admin_remark(d->admin, "store.db was damaged and has been set aside; a new one was begun");
    if (d->admin && d->queue_aside)
        admin_remark(d->admin, "queue.db was damaged and has been set aside; a new one was begun");
    return d->admin != NULL;
}

static bool start_ingress(struct daemon *d)
{
    char err[256] = "";
    d->jwks = jwks_new(d->lanes);
    if (!d->jwks)
        return false;
    snprintf(d->control, sizeof d->control, "%s/control.sock", d->conf->daemon.run_dir);
    struct ingress_env env = {.conf = d->conf,
                              .routes = d->routes,
                              .loops = d->loop,
                              .n_loops = d->n_loops,
                              .reactor_of = session_reactor_of,
                              .direct = admin_direct(d->admin),
                              .jwks = d->jwks,
                              .control_path = d->control};
    d->ingress = ingress_new(&env, err, sizeof err);
    if (!d->ingress) {
        log_error(MODULE, "ingress", LS("reason", err));
        return false;
    }
    admin_set_ingress(d->admin, d->ingress);
    return true;
}

static bool ready_file_write(const struct daemon *d)
{
    char tmp[600];
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kint(&w, "pid", getpid());
    json_w_key(&w, "addresses");
    json_w_open(&w, '[');
    for (size_t i = 0; ingress_address(d->ingress, i); i++) {
        if (!ingress_address_uploads(d->ingress, i))
            json_w_str(&w, ingress_address(d->ingress, i));
    }
    json_w_close(&w, ']');
    json_w_key(&w, "uploads");
    json_w_open(&w, '[');
    for (size_t i = 0; ingress_address(d->ingress, i); i++) {
        if (ingress_address_uploads(d->ingress, i))
            json_w_str(&w, ingress_address(d->ingress, i));
    }
    json_w_close(&w, ']');
    json_w_kstr(&w, "control", d->control);
    json_w_close(&w, '}');
    bool ok = json_w_end(&w) && buf_puts(&b, "\n");
    snprintf(tmp, sizeof tmp, "%s.tmp", d->ready_file);
    FILE *f = ok ? fopen(tmp, "w") : NULL;
    ok = f && fwrite(b.data, 1, b.len, f) == b.len;
    ok = f && fclose(f) == 0 && ok;
    ok = ok && rename(tmp, d->ready_file) == 0; /* whole, or not there */
    if (!ok)
        log_error(MODULE, "ready file", LS("path", d->ready_file), LS("reason", strerror(errno)));
    buf_free(&b);
    return ok;
}

/* Before the plugins: their configure() on this thread is watched too. */
static bool start_watchdog(struct daemon *d)
{
    struct watchdog_config wc = {.more = MAX_REACTORS + 1 + d->conf->ingress.threads,
                                 .slow_ms = d->conf->watchdog.slow_ms,
                                 .fatal_ms = d->conf->watchdog.fatal_ms};
    d->watchdog = watchdog_new(&wc);
    if (!d->watchdog)
        log_error(MODULE, "the watchdog did not start", LS("reason", strerror(errno)));
    return d->watchdog != NULL;
}

/* All that turn by now; ingress threads have no pulse before they do. */
static void watch(struct daemon *d)
{
    const struct pulse *p;
    for (unsigned i = 0; i < d->n_loops; i++)
        watchdog_watch_loop(d->watchdog, d->loop[i]);
    watchdog_watch_loop(d->watchdog, lanes_loop(d->lanes));
    for (unsigned i = 0; (p = ingress_pulse(d->ingress, i)) != NULL; i++)
        watchdog_watch_pulse(d->watchdog, p);
}

bool daemon_start(struct daemon *d)
{
    heap_setup(&d->heap);
    descriptors_raise();
    budget_setup(d->conf->memory.sessions);
    plugin_routes_answer_within(d->conf->ingress.answer_timeout_ms);
    if (!start_disk(d) || !start_threads(d) || !start_watchdog(d) || !start_plugins(d) || !start_sessions(d) ||
        !start_admin(d))
        return false;
    d->routes = daemon_routes_make(d);
    if (!d->routes)
        return false;
    if (!start_ingress(d)) /* binds: a port in use ends the start before a plugin runs */
        return false;
    if (!store_start(d->store))
        return false;
    for (; d->loops_started < d->n_loops; d->loops_started++) {
        if (!loop_start(d->loop[d->loops_started])) {
            log_error(MODULE, "reactor did not start", LS("reason", strerror(errno)));
            return false;
        }
    }
    watch(d);
    daemon_blocks_seed(d, d->conf);
    d->host_started = true;
    if (!host_start(d->host) || !queue_start(d->queue, host_job_dispatch, d->host))
        return false;
    for (unsigned i = 0; i < d->n_loops; i++)
        sessions_start(d->sessions[i]);
    jwks_configure(d->jwks, d->conf); /* the keys are on their way when the first client comes */
    if (!ingress_start(d->ingress))
        return false;
    admin_set_phase(d->admin, ADMIN_READY);
    return !d->ready_file || ready_file_write(d);
}
