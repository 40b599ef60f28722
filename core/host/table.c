/* The function table that plugins are handed: struct omid_host. What it does is elsewhere; here are its doors. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/metrics.h"
#include "host/module.h"

/* Some functions name neither module nor instance, so that what they end at is the process's. Set before any plugin
 * runs and after the last has stopped; in between only read. */
static struct host_services services;
static struct host *the_host;

void table_set_services(const struct host_services *s, struct host *h)
{
    services = s != NULL ? *s : (struct host_services){0};
    the_host = h;
}

const struct host_services *table_services(void)
{
    return &services;
}

/* ------------------------------------------------------------ any thread */

/* true: within the module's share of lines. The one that passes it is told. */
static bool log_admits(struct omid_module *mod)
{
    uint64_t now = clock_mono_ms();
    uint64_t since = atomic_load(&mod->log_window_ms);
    if (now - since >= LOG_WINDOW_MS && atomic_compare_exchange_strong(&mod->log_window_ms, &since, now))
        atomic_store(&mod->log_lines, 0);
    uint64_t n = atomic_fetch_add(&mod->log_lines, 1);
    if (n < LOG_LINES_PER_WINDOW)
        return true;
    atomic_fetch_add(&mod->account.log_dropped, 1);
    if (n == LOG_LINES_PER_WINDOW)
        log_warning("host", "a plugin logs too much; its lines are dropped for a while", LS("plugin", mod->name));
    return false;
}

static void OMID_PRINTF(3, 4) host_log(struct omid_module *mod, enum omid_log_level level, const char *fmt, ...)
{
    CHECK_MAGIC(mod, MODULE_MAGIC);
    static const enum log_level levels[] = {LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_NOTICE, LOG_LEVEL_INFO,
                                            LOG_LEVEL_DEBUG};
    enum log_level at = (unsigned)level < ARRAY_LEN(levels) ? levels[level] : LOG_LEVEL_ERROR;
    if (!log_enabled(at) || !log_admits(mod))
        return;
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    const struct log_field none[] = {{.key = NULL}};
    log_emit(at, mod->name, text, none, 1);
}

static void host_counter_add(struct omid_counter *counter, uint64_t n)
{
    if (counter == NULL)
        return; /* beyond the 64 */
    CHECK_MAGIC(counter, COUNTER_MAGIC);
    metric_add(counter->metric, n > INT64_MAX ? INT64_MAX : (int64_t)n);
}

static bool is_metric_word(const char *s)
{
    return s != NULL && *s != '\0' && s[strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_")] == '\0';
}

static void host_fallback(struct omid_module *mod, const char *component, const char *from_mode, const char *to_mode,
                          const char *reason, const char *outcome, unsigned n)
{
    CHECK_MAGIC(mod, MODULE_MAGIC);
    const struct metric_label labels[] = {{"component", component},
                                          {"from_mode", from_mode},
                                          {"to_mode", to_mode},
                                          {"reason", reason},
                                          {"outcome", outcome}};
    for (size_t i = 0; i < ARRAY_LEN(labels); i++) {
        if (is_metric_word(labels[i].value) && strlen(labels[i].value) <= 32)
            continue;
        atomic_fetch_add(&mod->account.misuse, 1);
        log_error("host", "a plugin's call was refused", LS("plugin", mod->name), LS("function", "fallback"),
                  LS("reason", "a label's value is unusable"), LS("label", labels[i].name));
        return;
    }
    metric_add(metric_get(METRIC_COUNTER, "omi_fallback_total", "Moves to a fallback, by component and outcome.",
                          labels, ARRAY_LEN(labels), NULL, 0),
               n);
}

/* ------------------------------------------------------------ configure() */

/* A fault of the plugin, not of the user: it asks for what its own table does not have. */
static const struct conf_value *value_of(struct omid_module *mod, const char *function, const char *key, uint32_t types)
{
    CHECK_MAGIC(mod, MODULE_MAGIC);
    const struct conf_value *v = key != NULL ? conf_value_find(mod->conf, key) : NULL;
    const char *why = v == NULL                                         ? "no such option in its table"
                      : (types & (UINT32_C(1) << v->option->type)) == 0 ? "the option has another type"
                                                                        : NULL;
    if (why == NULL)
        return v;
    mod->misconfigured = true;
    atomic_fetch_add(&mod->account.misuse, 1);
    log_error("host", "a plugin's call was refused", LS("plugin", mod->name), LS("function", function),
              LS("key", key != NULL ? key : ""), LS("reason", why));
    return NULL;
}
#define TYPE(t) (UINT32_C(1) << (OMID_OPT_##t))

static bool host_conf_bool(struct omid_module *mod, const char *key)
{
    const struct conf_value *v = value_of(mod, "conf_bool", key, TYPE(BOOL));
    return v != NULL && v->v.b;
}

static int64_t host_conf_int(struct omid_module *mod, const char *key)
{
    const struct conf_value *v = value_of(mod, "conf_int", key, TYPE(INT) | TYPE(DURATION) | TYPE(SIZE));
    return v != NULL ? v->v.i : 0;
}

static double host_conf_float(struct omid_module *mod, const char *key)
{
    const struct conf_value *v = value_of(mod, "conf_float", key, TYPE(FLOAT));
    return v != NULL ? v->v.d : 0;
}

static const char *host_conf_str(struct omid_module *mod, const char *key)
{
    const struct conf_value *v = value_of(mod, "conf_str", key, TYPE(STRING) | TYPE(ENUM) | TYPE(SECRET));
    return v != NULL ? v->v.s : NULL;
}

static const char *const *host_conf_list(struct omid_module *mod, const char *key, size_t *n)
{
    const struct conf_value *v = value_of(mod, "conf_list", key, TYPE(LIST));
    if (n != NULL)
        *n = v != NULL ? v->v.list.n : 0;
    return v != NULL ? (const char *const *)v->v.list.item : NULL;
}

static void OMID_PRINTF(3, 4) host_conf_error(struct omid_module *mod, const char *key, const char *fmt, ...)
{
    CHECK_MAGIC(mod, MODULE_MAGIC);
    char text[512], where[128];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (mod->faults == NULL) {
        atomic_fetch_add(&mod->account.misuse, 1);
        log_error("host", "conf_error() outside of configure()", LS("plugin", mod->name), LS("text", text));
        return;
    }
    const struct conf_value *v = key != NULL ? conf_value_find(mod->conf, key) : NULL;
    bool in_file = v != NULL && v->line > 0;
    snprintf(where, sizeof(where), "plugin %s%s%s", mod->name, key != NULL ? ": " : "", key != NULL ? key : "");
    conf_fault(mod->faults, false, in_file ? v->file : mod->conf->file, in_file ? v->line : mod->conf->line, where,
               "%s", text);
}

static bool same_route(const struct omid_route *a, const struct omid_route *b)
{
    bool same_kind = a->method == NULL ? b->method == NULL : b->method != NULL && strcmp(a->method, b->method) == 0;
    return same_kind && strcmp(a->path, b->path) == 0;
}

static bool route_taken(const struct host *h, const struct omid_route *route)
{
    unsigned n;
    struct omid_module *const *module = host_forming(h, &n);
    for (unsigned i = 0; i < n; i++) {
        const struct omid_module *mod = module[i];
        for (unsigned r = 0; mod != NULL && r < mod->n_routes; r++) {
            if (same_route(&mod->route[r], route))
                return true;
        }
    }
    return false;
}

static int host_route_add(struct omid_module *mod, const struct omid_route *route)
{
    CHECK_MAGIC(mod, MODULE_MAGIC);
    if (mod->faults == NULL)
        return OMID_ETHREAD; /* not within configure() */
    const char *why = NULL;
    if (route == NULL || route->size < sizeof(*route) || route->path == NULL || route->path[0] != '/' ||
        (route->auth != OMID_AUTH_NONE && route->auth != OMID_AUTH_TOKEN && route->auth != OMID_AUTH_ADMIN))
        why = "unusable";
    else if (route->method != NULL ? route->request == NULL : route->message == NULL)
        why = "its callback is missing";
    else if (mod->n_routes == MODULE_MAX_ROUTES)
        why = "too many";
    else if (route_taken(mod->host, route))
        why = "another plugin, or this one, has it";
    if (why != NULL) {
        log_error("host", "a route was refused", LS("plugin", mod->name),
                  LS("path", route != NULL && route->path != NULL ? route->path : ""), LS("reason", why));
        return OMID_EINVAL;
    }
    mod->route[mod->n_routes++] = *route;
    return OMID_OK;
}

static struct metric *counter_metric(struct omid_module *mod, const char *what, const char *help, const char *label,
                                     const char *value)
{
    char name[160];
    int n = snprintf(name, sizeof(name), "omid_plugin_%s_%s_total", mod->name, what);
    if (n < 0 || (size_t)n >= sizeof(name))
        return NULL;
    for (char *p = name; *p != '\0'; p++) {
        if (*p == '-')
            *p = '_';
    }
    const char *kept_name = intern(name), *kept_help = intern(help);
    if (kept_name == NULL || kept_help == NULL)
        return NULL;
    const struct metric_label l = {label, value};
    return metric_get(METRIC_COUNTER, kept_name, kept_help, &l, label != NULL ? 1 : 0, NULL, 0);
}

static struct omid_counter *host_counter(struct omid_module *mod, const char *what, const char *help, const char *label,
                                         const char *value)
{
    CHECK_MAGIC(mod, MODULE_MAGIC);
    if (mod->faults == NULL || !is_metric_word(what) || help == NULL ||
        (label != NULL && (!is_metric_word(label) || value == NULL))) {
        atomic_fetch_add(&mod->account.misuse, 1);
        log_error("host", "a plugin's call was refused", LS("plugin", mod->name), LS("function", "counter"),
                  LS("reason", "not within configure(), or an unusable name"));
        return NULL;
    }
    const char *w = intern(what), *l = label != NULL ? intern(label) : NULL, *v = label != NULL ? intern(value) : NULL;
    /* Interned: equal texts are equal pointers. */
    for (unsigned i = 0; i < mod->n_counters; i++) {
        struct omid_counter *c = &mod->counter[i];
        if (c->what == w && c->label == l && c->value == v)
            return c;
    }
    if (mod->n_counters == MODULE_MAX_COUNTERS || w == NULL || (label != NULL && (l == NULL || v == NULL)))
        return NULL;
    struct metric *m = counter_metric(mod, w, help, l, v);
    if (m == NULL)
        return NULL;
    struct omid_counter *c = &mod->counter[mod->n_counters++];
    *c = (struct omid_counter){.magic = COUNTER_MAGIC, .metric = m, .what = w, .label = l, .value = v};
    return c;
}

/* ------------------------------------------------------------ reactor */

static struct omid_module *host_module(struct omid_instance *inst)
{
    CHECK_MAGIC(inst, INSTANCE_MAGIC);
    return inst->module;
}

static unsigned host_reactor(struct omid_instance *inst, unsigned *reactors)
{
    CHECK_MAGIC(inst, INSTANCE_MAGIC);
    if (reactors != NULL)
        *reactors = inst->module->n_instances;
    return inst->reactor;
}

static int host_publish(struct omid_instance *inst, const struct omid_event *ev)
{
    int rc = instance_check_new(inst, "publish");
    if (rc != OMID_OK)
        return rc;
    if (ev == NULL || ev->size < offsetof(struct omid_event, people) ||
        (ev->type != OMID_EVENT_APP_MESSAGE && ev->type != OMID_EVENT_CUSTOM) || ev->uid == NULL ||
        (ev->json == NULL && ev->json_len > 0) || (ev->type == OMID_EVENT_CUSTOM && ev->name == NULL))
        return OMID_EINVAL;
    if (services.publish == NULL)
        return OMID_ENOTSUP;
    struct omid_event whole = {0}; /* one of an older plugin is shorter */
    memcpy(&whole, ev, ev->size < sizeof(whole) ? ev->size : sizeof(whole));
    whole.size = sizeof(whole);
    return services.publish(services.arg, inst->reactor, &whole);
}

static int host_respond(struct omid_exchange **ex, int status, const char *content_type, const void *body, size_t len)
{
    if (ex == NULL || *ex == NULL)
        return OMID_EINVAL;
    return services.respond != NULL ? services.respond(ex, status, content_type, body, len) : OMID_ENOTSUP;
}

static int host_respond_with(struct omid_exchange **ex, int status, const char *content_type,
                             const char *const *headers, const void *body, size_t len)
{
    if (ex == NULL || *ex == NULL)
        return OMID_EINVAL;
    if (services.respond_with == NULL)
        return OMID_ENOTSUP;
    return services.respond_with(ex, status, content_type, headers, body, len);
}

static int host_respond_begin(struct omid_exchange *ex, int status, const char *content_type,
                              const char *const *headers, uint64_t length, const struct omid_stream *stream)
{
    if (ex == NULL || stream == NULL || stream->size < sizeof(*stream) || stream->writable == NULL)
        return OMID_EINVAL;
    if (services.respond_begin == NULL)
        return OMID_ENOTSUP;
    return services.respond_begin(ex, status, content_type, headers, length, stream);
}

static int host_respond_data(struct omid_exchange *ex, const void *data, size_t len)
{
    if (ex == NULL || (data == NULL && len > 0))
        return OMID_EINVAL;
    return services.respond_data != NULL ? services.respond_data(ex, data, len) : OMID_ENOTSUP;
}

static void host_respond_end(struct omid_exchange **ex)
{
    if (ex != NULL && *ex != NULL && services.respond_end != NULL)
        services.respond_end(ex);
}

static int host_conn_send(struct omid_conn *conn, enum omid_message type, const void *data, size_t len)
{
    if (conn == NULL || (type != OMID_TEXT && type != OMID_BINARY) || (data == NULL && len > 0))
        return OMID_EINVAL;
    return services.conn_send != NULL ? services.conn_send(conn, type, data, len) : OMID_ENOTSUP;
}

static void host_conn_close(struct omid_conn *conn, uint16_t code, const char *reason)
{
    if (conn != NULL && services.conn_close != NULL)
        services.conn_close(conn, code, reason);
}

/* Whose stream it is the layer above knows; that the caller is on a reactor at all is seen here. */
static bool on_a_reactor(const char *function)
{
    for (unsigned i = 0; the_host != NULL && i < the_host->env.n_loops; i++) {
        if (loop_is_current(the_host->env.loops[i]))
            return true;
    }
    log_error("host", "a plugin's call was refused", LS("function", function),
              LS("reason", "called on the wrong thread"));
    return false;
}

static void host_stt_ready(struct omid_stt *stt)
{
    if (stt != NULL && services.stt_ready != NULL && on_a_reactor("stt_ready"))
        services.stt_ready(stt);
}

static void host_stt_writable(struct omid_stt *stt)
{
    if (stt != NULL && services.stt_writable != NULL && on_a_reactor("stt_writable"))
        services.stt_writable(stt);
}

static void host_stt_result(struct omid_stt *stt, const struct omid_stt_result *result)
{
    if (stt != NULL && result != NULL && result->size >= sizeof(*result) && services.stt_result != NULL &&
        on_a_reactor("stt_result"))
        services.stt_result(stt, result);
}

static void host_stt_closed(struct omid_stt *stt, const struct omid_stt_end *end)
{
    if (stt != NULL && end != NULL && end->size >= sizeof(*end) && services.stt_closed != NULL &&
        on_a_reactor("stt_closed"))
        services.stt_closed(stt, end);
}

static void host_drained(struct omid_instance *inst)
{
    if (instance_check(inst, "drained") != OMID_OK || instance_phase(inst) != INSTANCE_DRAINING)
        return;
    instance_set_phase(inst, INSTANCE_DRAINED);
    instance_maybe_quiet(inst);
}

const struct omid_host host_table = {
    .size = sizeof(struct omid_host),
    .abi_major = OMID_ABI_MAJOR,
    .abi_minor = OMID_ABI_MINOR,
    .log = host_log,
    .now_ms = clock_mono_ms,
    .wall_ms = clock_wall_ms,
    .uuid4 = id_uuid4,
    .counter_add = host_counter_add,
    .conf_bool = host_conf_bool,
    .conf_int = host_conf_int,
    .conf_float = host_conf_float,
    .conf_str = host_conf_str,
    .conf_list = host_conf_list,
    .conf_error = host_conf_error,
    .route_add = host_route_add,
    .counter = host_counter,
    .module = host_module,
    .reactor = host_reactor,
    .timer_start = timer_start,
    .timer_stop = timer_stop,
    .http_start = http_start,
    .http_cancel = http_cancel,
    .ws_connect = ws_connect,
    .ws_send = ws_send,
    .ws_close = ws_close,
    .ws_release = ws_release,
    .exec_submit = work_submit,
    .job_enqueue = job_enqueue,
    .job_finish = job_finish,
    .jobs_enqueue = jobs_enqueue,
    .job_attempt = job_attempt,
    .jobs_retry_after = jobs_retry_after,
    .publish = host_publish,
    .respond = host_respond,
    .conn_send = host_conn_send,
    .conn_close = host_conn_close,
    .stt_ready = host_stt_ready,
    .stt_writable = host_stt_writable,
    .stt_result = host_stt_result,
    .stt_closed = host_stt_closed,
    .drained = host_drained,
    .gather_label = gather_label,
    .gather_start = gather_start,
    .gather_done = gather_done,
    .gather_cancel = gather_cancel,
    .answer = ask_answer,
    .endpoints = endpoints_of,
    .endpoint_find = endpoint_find,
    .endpoints_release = endpoints_release,
    .endpoint_report = endpoint_report,
    .kv_put = value_put,
    .kv_get = value_get,
    .fallback = host_fallback,
    .respond_with = host_respond_with,
    .respond_begin = host_respond_begin,
    .respond_data = host_respond_data,
    .respond_end = host_respond_end,
    .data_dir = host_data_dir,
};
