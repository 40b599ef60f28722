#include "ingress/private.h"

struct ingress_metrics ingress_metrics;

static const char *const refused_names[REFUSED_N] = {
    [REFUSED_CONNECTIONS] = "max_connections",
    [REFUSED_ADDRESS] = "max_connections_per_address",
    [REFUSED_TLS] = "tls",
    [REFUSED_TIMEOUT] = "request_timeout",
    [REFUSED_HEADER] = "max_header",
    [REFUSED_BODY] = "max_body",
    [REFUSED_REQUEST] = "bad_request",
    [REFUSED_MEMORY] = "memory",
    [REFUSED_DESCRIPTORS] = "descriptors",
    [REFUSED_DISPLACED] = "displaced",
};
static const char *const upgrade_names[UPGRADE_N] = {
    [UPGRADE_ACCEPTED] = "accepted", [UPGRADE_BAD_REQUEST] = "bad_request", [UPGRADE_VERSION] = "version",
    [UPGRADE_ORIGIN] = "origin",     [UPGRADE_PRECHECK] = "parameter",      [UPGRADE_AUTH] = "auth",
    [UPGRADE_LIMIT] = "limit",       [UPGRADE_STOPPING] = "stopping",       [UPGRADE_LOST] = "lost",
};
static const char *const limited_names[LIMITED_N] = {
    [LIMITED_SESSIONS_UID] = "sessions_per_uid",   [LIMITED_SESSIONS_ADDRESS] = "sessions_per_address",
    [LIMITED_UPGRADES_UID] = "upgrades_per_uid",   [LIMITED_UPGRADES_ADDRESS] = "upgrades_per_address",
    [LIMITED_UNAUTHENTICATED] = "unauthenticated", [LIMITED_TABLE] = "table",
};
static const char *const auth_names[AUTH_RESULT_JWT] = {
    [AUTH_RESULT_TOKEN] = "ok",    [AUTH_RESULT_ADMIN] = "admin_key",     [AUTH_RESULT_MISSING] = "missing",
    [AUTH_RESULT_OFF] = "no_form", [AUTH_RESULT_NOT_ADMIN] = "not_admin", [AUTH_RESULT_UNAVAILABLE] = "unavailable",
    [AUTH_RESULT_FULL] = "full",
};
static const char *const greeted_names[GREETED_N] = {
    [GREETED_OK] = "ok",           [GREETED_TIMEOUT] = "timeout",         [GREETED_BAD] = "bad_message",
    [GREETED_INVALID] = "invalid", [GREETED_UNAVAILABLE] = "unavailable", [GREETED_LIMIT] = "limit",
    [GREETED_LEFT] = "left",
};
static const char *const table_names[LIMITS_TABLES] = {[LIMITS_ADDRESS] = "address", [LIMITS_UID] = "uid"};
static const char *const class_names[4] = {"2xx", "3xx", "4xx", "5xx"};

static struct metric *labelled(const char *name, const char *help, const char *label, const char *value)
{
    return metric_get(METRIC_COUNTER, name, help, &(struct metric_label){label, value}, 1, NULL, 0);
}

const char *ingress_refused_name(enum refused_reason why)
{
    return refused_names[why];
}

static void make_auth_metrics(struct ingress_metrics *m)
{
    for (int i = 0; i < AUTH_RESULT_N; i++) {
        if (i == AUTH_RESULT_JWT) /* JWT_OK: AUTH_RESULT_TOKEN has its name */
            continue;
        m->tokens[i] =
            labelled("omid_auth_tokens_total", "Tokens checked, by result.", "result",
                     i < AUTH_RESULT_JWT ? auth_names[i] : jwt_result_name((enum jwt_result)(i - AUTH_RESULT_JWT)));
    }
    m->auth_waiting = metric_gauge("omid_auth_waiting", "Clients that wait for the issuer's keys.");
    for (int i = 0; i < GREETED_N; i++)
        m->greeted[i] = labelled("omid_ingress_greetings_total", "What came of web clients' first messages.", "result",
                                 greeted_names[i]);
    for (int i = 0; i < LIMITED_N; i++)
        m->limited[i] = labelled("omid_ingress_limited_total", "WebSockets refused by a limit per user or address.",
                                 "limit", limited_names[i]);
    m->strangers = metric_gauge("omid_ingress_unauthenticated", "Web clients that have not said yet who they are.");
    for (int i = 0; i < LIMITS_TABLES; i++)
        m->limit_entries[i] =
            metric_get(METRIC_GAUGE, "omid_ingress_limit_entries", "Users and addresses that the limits keep count of.",
                       &(struct metric_label){"table", table_names[i]}, 1, NULL, 0);
    m->limit_evictions = metric_counter("omid_ingress_limit_evictions_total",
                                        "Users and addresses forgotten early because a table was full.");
}

static void make_metrics(void)
{
    struct ingress_metrics *m = &ingress_metrics;

    m->connections = metric_gauge("omid_ingress_connections", "Client connections that are open.");
    m->websockets = metric_gauge("omid_ingress_websockets", "WebSocket connections that are open.");
    m->accepted = metric_counter("omid_ingress_accepted_total", "Client connections accepted.");
    for (int i = 0; i < REFUSED_N; i++)
        m->refused[i] = labelled("omid_ingress_refused_total", "Connections and requests refused by a limit.", "reason",
                                 refused_names[i]);
    for (int i = 0; i < UPGRADE_N; i++)
        m->upgrades[i] =
            labelled("omid_ingress_upgrades_total", "WebSocket upgrades by result.", "result", upgrade_names[i]);
    for (int i = 0; i < 4; i++)
        m->requests[i] = labelled("omid_ingress_requests_total", "HTTP requests answered, by class of status.", "class",
                                  class_names[i]);
    m->bytes_in =
        metric_counter("omid_ingress_received_bytes_total", "Bytes read from WebSocket clients, framing included.");
    m->bytes_out =
        metric_counter("omid_ingress_sent_bytes_total", "Bytes written to WebSocket clients, framing included.");
    m->messages_in = metric_counter("omid_ingress_received_messages_total", "WebSocket messages received.");
    m->messages_out = metric_counter("omid_ingress_sent_messages_total", "WebSocket messages sent.");
    m->pauses =
        metric_counter("omid_ingress_pauses_total", "Times reading a client was paused because its way up was full.");
    m->stalls = metric_counter("omid_ingress_stalls_total",
                               "WebSocket connections ended because one direction made no progress.");
    m->answers_late = metric_counter("omid_ingress_answers_late_total", "HTTP requests answered with 504.");
    m->protocol_errors = metric_counter("omid_ingress_protocol_errors_total",
                                        "WebSocket connections failed for a fault of the client's framing or size.");
    make_auth_metrics(m);
}

void ingress_metrics_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_metrics);
}
