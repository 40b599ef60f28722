/*
 * omid: arguments, signals, and the order in which everything starts and stops. Wiring only.
 *
 * Start: configuration, store and queue, executors and lanes, reactors, plugins, sessions, ingress; ready only when all
 * of it is there. Stop: the reverse, bounded by daemon.drain: no new clients, sessions end and deliver what is left,
 * plugins drain, then queue and store commit what they have.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "admin/admin.h"
#include "base/clock.h"
#include "base/heap.h"
#include "base/log.h"
#include "base/magic.h"
#include "bus/bus.h"
#include "bus/plugin_routes.h"
#include "conf/conf.h"
#include "host/host.h"
#include "host/watchdog.h"
#include "ingress/ingress.h"
#include "ingress/jwks.h"
#include "lane/exec/exec.h"
#include "lane/http/lane.h"
#include "lane/queue/queue.h"
#include "session/session.h"
#include "store/store.h"

#define MODULE "omid"
#define MAX_REACTORS 64 /* the option table's bound of daemon.reactors */
/* A finished job's name answers with its first id this long (the webhook contract, idempotency). */
#define NAME_KEEP_MS (12u * 3600 * 1000)
/* Of the drain: kept back for the stop itself. */
#define STOP_RESERVE_MS 1000
/* Of the time for sessions: this part is kept back for the store, which takes what the cancelled ones leave. */
#define FLUSH_SHARE 4
/* How often plugins on their way out are looked at. */
#define REAP_MS 50

enum exit_code { EXIT_OK = 0, EXIT_FAULT = 1, EXIT_USAGE = 2, EXIT_CONFIG = 78 /* sysexits EX_CONFIG */ };

struct daemon {
    const char *file; /* NULL: the embedded default */
    const char *ready_file;
    bool test;

    struct loader *loader;
    struct conf *conf;
    struct store *store;
    bool store_aside, queue_aside; /* the file was damaged: a new one was begun */
    struct queue *queue;
    struct exec *exec;
    struct lanes *lanes;
    struct loop *loop[MAX_REACTORS];
    unsigned n_loops, loops_started;
    struct bus *bus[MAX_REACTORS];
    struct sessions *sessions[MAX_REACTORS + 1]; /* ends with NULL */
    struct host *host;
    bool host_started;
    struct watchdog *watchdog;
    struct routes *routes;
    struct admin *admin;
    struct ingress *ingress;
    struct jwks *jwks;
    char control[256];
    struct heap heap;
    uint64_t heap_check_ms; /* when it is due */
};

static void usage(FILE *out)
{
    fputs("usage: omid [options]\n"
          "  -f, --file FILE        configuration (default " OMID_SYSCONFDIR "/omi.conf)\n"
          "  -e, --embedded         run on the embedded default configuration\n"
          "  -t, --test             check the configuration and exit\n"
          "  -p, --print-embedded   print the embedded configuration and exit\n"
          "  -r, --ready-file FILE  write pid, addresses and control socket there when ready (JSON)\n"
          "  -V, --version          print the version and exit\n"
          "  -h, --help             print this help and exit\n"
          "See omid(8) and omi.conf(5).\n",
          out);
}

/* ------------------------------------------------------------------ configuration */

static enum log_level level_of(const char *name)
{
    static const char *const names[] = {"error", "warning", "notice", "info", "debug"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i]) == 0)
            return (enum log_level)i;
    }
    return LOG_LEVEL_INFO;
}

static void log_configure(const struct conf *c)
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
    return d->bus[reactor] ? bus_publish_later(d->bus[reactor], ev) : OMID_ECLOSED;
}

static void takes_part(void *arg, unsigned reactor, struct omid_instance *inst, bool begins)
{
    struct daemon *d = arg;
    if (d->sessions[reactor])
        sessions_tell(d->sessions[reactor], inst, begins);
}

/* Has somebody asked to stop? Signals wait for the main thread. */
static bool stop_asked(void *arg)
{
    (void)arg;
    sigset_t pending;
    return sigpending(&pending) == 0 && (sigismember(&pending, SIGTERM) || sigismember(&pending, SIGINT));
}

static struct host_env host_env_of(struct daemon *d)
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
                                          .conn_send = plugin_conn_send,
                                          .conn_close = plugin_conn_close,
                                          .stt_ready = session_stt_ready,
                                          .stt_writable = session_stt_writable,
                                          .stt_result = session_stt_result,
                                          .stt_closed = session_stt_closed,
                                          .takes_part = takes_part}};
}

/* Loads and configures; tells every fault. The host is left in d. */
static bool configure(struct daemon *d)
{
    struct conf_faults faults = {.text = BUF_INIT(1u << 20)};
    struct conf_source source = loader_source(d->loader);
    d->conf = conf_load(d->file, &source, &faults);
    bool ok = d->conf != NULL;
    if (ok && d->test) {
        struct host_env env = host_env_of(d);
        d->host = host_new(&env);
        ok = d->host && host_configure(d->host, &faults);
    }
    if (faults.text.len)
        fputs(faults.text.data, stderr);
    if (d->test)
        fprintf(stderr, "%s: %u errors, %u warnings\n", d->file ? d->file : "(embedded)", faults.errors,
                faults.warnings);
    conf_faults_free(&faults);
    return ok;
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

    snprintf(path, sizeof path, "%s/queue.db", c->daemon.state_dir);
    struct queue_config qc = {.path = path,
                              .commit_ms = c->queue.commit_ms,
                              .lease_ms = c->queue.lease_ms,
                              .in_flight = c->queue.in_flight,
                              .in_flight_per_target = c->queue.in_flight_per_target,
                              .max_jobs = c->queue.max_jobs,
                              .retry_ms = c->queue.retry_ms,
                              .n_retry = c->queue.retry.n,
                              .jitter = c->queue.jitter,
                              .name_keep_ms = NAME_KEEP_MS};
    d->queue = queue_open(&qc, &d->queue_aside, err, sizeof err);
    if (!d->queue) {
        log_error(MODULE, "queue", LS("path", path), LS("reason", err));
        return false;
    }
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
    struct host_env env = host_env_of(d);
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
                                   .reactor = i};
        d->sessions[i] = sessions_new(&env);
        if (!d->sessions[i])
            return false;
    }
    return true;
}

/* Of the core, and of the plugins that run or are about to. NULL: no memory. */
static struct routes *routes_make(struct daemon *d)
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
    if (routes && (!routes_add(routes, &listen) || !routes_add(routes, &web) ||
                   !sessions_routes_add(routes, d->sessions) || !plugin_routes_add(d->host, routes)))
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
    for (size_t i = 0; ingress_address(d->ingress, i); i++)
        json_w_str(&w, ingress_address(d->ingress, i));
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

static bool start(struct daemon *d)
{
    heap_setup(&d->heap);
    descriptors_raise();
    budget_setup(d->conf->memory.sessions);
    plugin_routes_answer_within(d->conf->ingress.answer_timeout_ms);
    if (!start_disk(d) || !start_threads(d) || !start_watchdog(d) || !start_plugins(d) || !start_sessions(d) ||
        !start_admin(d))
        return false;
    d->routes = routes_make(d);
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

/* -------------------------------------------------------------------------- reload */

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
    budget_setup(next->memory.sessions);
    plugin_routes_answer_within(next->ingress.answer_timeout_ms);
    log_configure(next);
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
    struct routes *routes = change ? routes_make(d) : NULL;
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

static void reload(struct daemon *d)
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

/* ---------------------------------------------------------------------------- stop */

struct drain {
    struct loop_msg msg;
    struct sessions *ss;
    uint64_t until_ms;
    sem_t *done;
};

static void on_sessions_drained(void *arg)
{
    sem_post(arg);
}

static void drain_begin(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct drain *dr = container_of(msg, struct drain, msg);
    sessions_drain(dr->ss, dr->until_ms, on_sessions_drained, dr->done);
}

/* Monotonic ms to what sem_timedwait takes. */
static struct timespec deadline_wall(uint64_t deadline_ms)
{
    uint64_t now = clock_mono_ms(), left = deadline_ms > now ? deadline_ms - now : 0;
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_sec += (time_t)(left / 1000);
    ts.tv_nsec += (long)(left % 1000) * 1000000;
    if (ts.tv_nsec >= 1000000000) {
        ts.tv_sec++;
        ts.tv_nsec -= 1000000000;
    }
    return ts;
}

static void drain_sessions(struct daemon *d, uint64_t deadline_ms)
{
    /* Static: a drain that runs past its deadline still posts. */
    static struct drain drains[MAX_REACTORS];
    static sem_t done;
    sem_init(&done, 0, 0);
    uint64_t now = clock_mono_ms(), left = deadline_ms > now ? deadline_ms - now : 0;
    uint64_t until = deadline_ms - left / FLUSH_SHARE;
    for (unsigned i = 0; i < d->n_loops; i++) {
        drains[i] = (struct drain){.msg = {.fn = drain_begin}, .ss = d->sessions[i], .until_ms = until, .done = &done};
        loop_post(d->loop[i], &drains[i].msg);
    }
    struct timespec deadline = deadline_wall(deadline_ms);
    for (unsigned i = 0; i < d->n_loops; i++) {
        int rc;
        do
            rc = sem_timedwait(&done, &deadline);
        while (rc != 0 && errno == EINTR);
        if (rc != 0) {
            log_warning(MODULE, "sessions did not drain in time", LU("reactors", d->n_loops - i));
            return;
        }
    }
}

static void stop(struct daemon *d)
{
    const bool running = d->host_started;
    uint64_t deadline = clock_mono_ms() + (d->conf ? d->conf->daemon.drain_ms : 0);
    uint64_t soft = deadline > STOP_RESERVE_MS ? deadline - STOP_RESERVE_MS : deadline;
    if (d->admin)
        admin_set_phase(d->admin, ADMIN_DRAINING);
    if (d->ingress)
        ingress_pause(d->ingress);
    if (running)
        drain_sessions(d, soft);
    if (d->queue)
        queue_pause(d->queue);
    if (running)
        host_drain(d->host, soft);
    if (d->ingress)
        ingress_stop(d->ingress, deadline);
    if (running && !host_stop(d->host)) {
        /* A plugin's callback does not return: its reactor can't be joined. What is accepted is on disk already, or is
         * on its way there. */
        log_error(MODULE, "a plugin holds its reactor: leaving without it");
        if (d->queue)
            queue_stop(d->queue);
        if (d->store)
            store_stop(d->store);
        log_flush();
        _exit(EXIT_FAULT);
    }
    watchdog_detach(d->watchdog); /* the loops end one by one */
    /* From here on nothing new begins. What is under way answers into the loops, which still run. */
    if (d->exec)
        exec_stop(d->exec, deadline);
    if (d->jwks)
        jwks_stop(d->jwks);
    if (d->lanes)
        lanes_stop(d->lanes);
    if (d->queue)
        queue_stop(d->queue);
    if (d->store)
        store_stop(d->store);
    for (unsigned i = 0; i < d->loops_started; i++)
        loop_stop(d->loop[i]);
    for (unsigned i = 0; i < d->n_loops; i++) {
        sessions_free(&d->sessions[i]);
        bus_free(&d->bus[i]);
    }
    ingress_free(&d->ingress);
    admin_free(&d->admin);
    routes_free(&d->routes);
    host_free(&d->host);
    for (unsigned i = 0; i < d->n_loops; i++)
        loop_free(&d->loop[i]);
    watchdog_free(&d->watchdog);
    jwks_free(&d->jwks);
    lanes_free(&d->lanes);
    exec_free(&d->exec);
    queue_free(&d->queue);
    store_free(&d->store);
}

/* ---------------------------------------------------------------------------- main */

static void signals_block(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file at its size limit is an error of write(), as a full disk is */
}

/* The next signal; meanwhile what a reload has retired is taken on its way out, and idle memory is given back. */
static int next_signal(struct daemon *d, const sigset_t *set)
{
    for (;;) {
        uint64_t now = clock_mono_ms();
        if (now >= d->heap_check_ms) {
            heap_check(&d->heap);
            d->heap_check_ms = now + HEAP_CHECK_MS;
        }
        uint64_t wait = host_reap(d->host) > 0 ? REAP_MS : d->heap_check_ms - now;
        struct timespec tick = {.tv_sec = (time_t)(wait / 1000), .tv_nsec = (long)(wait % 1000) * 1000000};
        int sig = sigtimedwait(set, NULL, &tick);
        if (sig > 0)
            return sig;
    }
}

static void run_until_signal(struct daemon *d, const sigset_t *set)
{
    int sig;
    while ((sig = next_signal(d, set)) == SIGHUP)
        reload(d);
    log_notice(MODULE, "stopping", LS("signal", sig == SIGINT ? "SIGINT" : "SIGTERM"));
}

static int run(struct daemon *d)
{
    sigset_t set;
    signals_block(&set);
    omid_assert(d->conf);
    log_configure(d->conf);
    bool ok = start(d);
    if (ok) {
        sd_notify(0, "READY=1");
        run_until_signal(d, &set);
        sd_notify(0, "STOPPING=1");
    } else {
        log_error(MODULE, "not started");
    }
    if (d->ready_file)
        unlink(d->ready_file);
    stop(d);
    if (ok)
        log_notice(MODULE, "stopped");
    log_flush();
    return ok ? EXIT_OK : EXIT_FAULT;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"file", required_argument, NULL, 'f'},
        {"embedded", no_argument, NULL, 'e'},
        {"test", no_argument, NULL, 't'},
        {"print-embedded", no_argument, NULL, 'p'},
        {"ready-file", required_argument, NULL, 'r'},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    static struct daemon d = {.file = OMID_SYSCONFDIR "/omi.conf"};
    int c;
    while ((c = getopt_long(argc, argv, "f:etpr:Vh", options, NULL)) != -1) {
        switch (c) {
        case 'f':
            d.file = optarg;
            break;
        case 'e':
            d.file = NULL;
            break;
        case 't':
            d.test = true;
            break;
        case 'p':
            fputs(conf_embedded_text, stdout);
            return EXIT_OK;
        case 'r':
            d.ready_file = optarg;
            break;
        case 'V':
            puts("omid " PACKAGE_VERSION);
            return EXIT_OK;
        case 'h':
            usage(stdout);
            return EXIT_OK;
        default:
            usage(stderr);
            return EXIT_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "omid: unexpected argument \"%s\"\n", argv[optind]);
        usage(stderr);
        return EXIT_USAGE;
    }
    d.loader = loader_new();
    int rc = d.loader && configure(&d) ? EXIT_OK : EXIT_CONFIG;
    if (rc == EXIT_OK && !d.test)
        rc = run(&d);
    host_free(&d.host);
    conf_free(&d.conf);
    loader_free(&d.loader);
    return rc;
}
