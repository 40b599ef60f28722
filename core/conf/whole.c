/* Checks over more than one value. */
#include <config.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/cidr.h"
#include "base/magic.h"
#include "base/zone.h"
#include "conf/load.h"

#define RETRY_MIN_MS UINT64_C(1000)
#define RETRY_MAX_MS (UINT64_C(30) * 86400 * 1000)

static bool address_is_valid(const char *address)
{
    char host[64];
    unsigned char binary[sizeof(struct in6_addr)];
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || (size_t)(colon - address) >= sizeof(host))
        return false;
    size_t digits = strspn(colon + 1, "0123456789");
    if (digits == 0 || digits > 5 || colon[1 + digits] != '\0' || strtoul(colon + 1, NULL, 10) > 65535)
        return false;
    snprintf(host, sizeof(host), "%.*s", (int)(colon - address), address);
    size_t n = strlen(host);
    if (host[0] != '[')
        return inet_pton(AF_INET, host, binary) == 1;
    if (host[n - 1] != ']')
        return false;
    host[n - 1] = '\0';
    return inet_pton(AF_INET6, host + 1, binary) == 1;
}

static void check_addresses(struct load *l)
{
    const struct conf_list *a = &l->c->ingress.address;
    for (size_t i = 0; i < a->n; i++) {
        if (!address_is_valid(a->item[i]))
            load_fault(l, false, "ingress", NULL, "address",
                       "expected an IPv4 address or an [IPv6 address], ':' and a port up to 65535, found \"%.80s\"",
                       a->item[i]);
        for (size_t k = 0; k < i; k++) {
            if (strcmp(a->item[i], a->item[k]) == 0 && strcmp(strrchr(a->item[i], ':'), ":0") != 0)
                load_fault(l, false, "ingress", NULL, "address", "expected each address once, found \"%.80s\" twice",
                           a->item[i]);
        }
    }
}

static void check_origins(struct load *l)
{
    const struct conf_list *o = &l->c->ingress.origins;
    for (size_t i = 0; i < o->n; i++) {
        const char *s = o->item[i], *host = strstr(s, "://");
        if (!host || host == s || host[3] == '\0' || strpbrk(host + 3, "/?# ") != NULL)
            load_fault(l, false, "ingress", NULL, "origins",
                       "expected a scheme, :// and a host without a path, found \"%.80s\"", s);
    }
}

static void check_proxies(struct load *l)
{
    const struct conf_list *p = &l->c->ingress.trusted_proxies;
    struct cidr net;
    for (size_t i = 0; i < p->n; i++) {
        if (!cidr_parse(p->item[i], &net))
            load_fault(l, false, "ingress", NULL, "trusted_proxies",
                       "expected an address or a network like 10.0.0.0/8 or 2001:db8::/32, found \"%.80s\"",
                       p->item[i]);
    }
}

/* Id tokens: what follows from the project, and what means nothing without it. */
static void check_jwt(struct load *l)
{
    struct conf *c = l->c;
    const char *url = c->auth.jwt.jwks_url;
    static const char *const keys[] = {"issuer", "jwks_url"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        if (!c->auth.jwt.project && load_find(l, "auth.jwt", NULL, keys[i]) &&
            !load_find(l, "auth.jwt", NULL, "project"))
            load_fault(l, true, "auth.jwt", NULL, keys[i], "means nothing without project: no id tokens are taken");
    }
    if (url && ((strncasecmp(url, "https://", 8) != 0 && strncasecmp(url, "http://", 7) != 0) ||
                strpbrk(url, " \t\r\n\\") != NULL || strchr("/?#", strstr(url, "://")[3]) != NULL))
        load_fault(l, false, "auth.jwt", NULL, "jwks_url", "expected an http or https URL, found \"%.200s\"", url);
    if (c->auth.jwt.project && !c->auth.jwt.issuer && !load_find(l, "auth.jwt", NULL, "issuer"))
        omid_assert(asprintf(&c->auth.jwt.issuer, "https://securetoken.google.com/%s", c->auth.jwt.project) >= 0);
}

static void check_auth_lane(struct load *l)
{
    struct conf_lane *lane = &l->c->auth.lane;
    /* What it has no settings for: it opens no streams and knows no slow calls. */
    lane->streams = 1;
    lane->breaker_window_ms = 30000;
    lane->breaker_slow_share = 0.8;
    load_keep_order(l, NULL, "auth.lane", "semaphore", &lane->semaphore, "pool", &lane->pool, false);
    load_keep_order(l, NULL, "auth.lane", "idle", &lane->idle, "pool", &lane->pool, false);
    load_keep_order(l, NULL, "auth.lane", "connect_timeout", &lane->connect_timeout_ms, "timeout", &lane->timeout_ms,
                    false);
    load_keep_order(l, NULL, "auth.lane.breaker", "open", &lane->breaker_open_ms, "open_max",
                    &lane->breaker_open_max_ms, true);
}

static void check_tls(struct load *l)
{
    const char *certificate = l->c->ingress.tls_certificate, *key = l->c->ingress.tls_key;
    if (certificate && !key && !load_find(l, "ingress.tls", NULL, "key"))
        load_fault(l, false, "ingress.tls", NULL, "key",
                   "expected a PEM file, since there is a certificate; found none");
    if (key && !certificate && !load_find(l, "ingress.tls", NULL, "certificate"))
        load_fault(l, false, "ingress.tls", NULL, "certificate",
                   "expected a PEM file, since there is a key; found none");
    if (certificate && key)
        load_check_ingress_tls(l, certificate, key);
}

static void check_retry(struct load *l)
{
    const struct conf_list *r = &l->c->queue.retry;
    char err[256];
    l->c->queue.retry_ms = calloc(r->n + 1, sizeof(uint32_t));
    omid_assert(l->c->queue.retry_ms != NULL);
    for (size_t i = 0; i < r->n; i++) {
        uint64_t ms = 0;
        if (!conf_parse_duration(r->item[i], &ms, err, sizeof(err)))
            load_fault(l, false, "queue", NULL, "retry", "%s", err);
        else if (ms < RETRY_MIN_MS || ms > RETRY_MAX_MS)
            load_fault(l, false, "queue", NULL, "retry", "expected durations from 1s to 30d, found \"%.40s\"",
                       r->item[i]);
        else
            l->c->queue.retry_ms[i] = (uint32_t)ms;
    }
}

/* "22:00" */
static bool time_is_valid(const char *s)
{
    return strlen(s) == 5 && strspn(s, "0123456789") == 2 && s[2] == ':' && strspn(s + 3, "0123456789") == 2 &&
           strtoul(s, NULL, 10) < 24 && strtoul(s + 3, NULL, 10) < 60;
}

static void check_processing(struct load *l)
{
    struct conf *c = l->c;
    char err[256];
    load_keep_order(l, NULL, "processing", "retry", &c->processing.retry_ms, "retry_max", &c->processing.retry_max_ms,
                    true);
    load_keep_order(l, NULL, "processing", "summary_attempts", &c->processing.summary_attempts, "attempts",
                    &c->processing.attempts, false);
    if (c->day_summary.at && !time_is_valid(c->day_summary.at))
        load_fault(l, false, "day_summary", NULL, "at", "expected a time from 00:00 to 23:59, found \"%.20s\"",
                   c->day_summary.at);
    struct zone *z = c->day_summary.timezone ? zone_load(c->day_summary.timezone, err, sizeof(err)) : NULL;
    if (c->day_summary.timezone && !z)
        load_fault(l, false, "day_summary", NULL, "timezone", "%s", err);
    zone_free(&z);
}

static void expand_home(struct load *l, const char *key, char **dir)
{
    const char *home = getenv("HOME");
    char *full = NULL;
    if (!*dir || strncmp(*dir, "~/", 2) != 0)
        return;
    if (!home || !*home) {
        load_fault(l, false, "daemon", NULL, key, "expected a directory, found \"%.80s\", and HOME is not set", *dir);
        return;
    }
    omid_assert(asprintf(&full, "%s%s", home, *dir + 1) >= 0);
    free(*dir);
    *dir = full;
    const struct omid_option *option = &conf_entry_find("daemon", key)->option;
    if (strlen(full) > (size_t)option->max)
        load_fault(l, false, "daemon", NULL, key, "expected a text of %.0f to %.0f bytes, found \"%.200s\"",
                   option->min, option->max, full);
}

static void check_pairs(struct load *l)
{
    struct conf *c = l->c;
    /* 0: that value is faulty itself, and reported. */
    if (c->listen.conversation_timeout_ms > 0 &&
        c->listen.conversation_timeout_ms < c->listen.conversation_timeout_floor_ms) {
        if (load_find(l, "listen", NULL, "conversation_timeout"))
            load_fault(l, false, "listen", NULL, "conversation_timeout",
                       "expected at least conversation_timeout_floor, which is %ums, found %ums",
                       c->listen.conversation_timeout_floor_ms, c->listen.conversation_timeout_ms);
        else
            c->listen.conversation_timeout_ms = c->listen.conversation_timeout_floor_ms;
    }
    if (c->ingress.max_connections > 0 && c->ingress.max_connections_per_address > c->ingress.max_connections) {
        if (load_find(l, "ingress", NULL, "max_connections_per_address"))
            load_fault(l, false, "ingress", NULL, "max_connections_per_address",
                       "expected at most max_connections, which is %u, found %u", c->ingress.max_connections,
                       c->ingress.max_connections_per_address);
        else
            c->ingress.max_connections_per_address = c->ingress.max_connections;
    }
    if (c->stt.gate_finalize_ms > c->stt.gate_hangover_ms) {
        if (load_find(l, "stt", NULL, "gate_finalize"))
            load_fault(l, false, "stt", NULL, "gate_finalize",
                       "expected at most gate_hangover, which is %ums, found %ums", c->stt.gate_hangover_ms,
                       c->stt.gate_finalize_ms);
        else
            c->stt.gate_finalize_ms = c->stt.gate_hangover_ms;
    }
    if (c->queue.in_flight > 0 && c->queue.in_flight_per_target > c->queue.in_flight) {
        if (load_find(l, "queue", NULL, "in_flight_per_target"))
            load_fault(l, false, "queue", NULL, "in_flight_per_target",
                       "expected at most in_flight, which is %u, found %u", c->queue.in_flight,
                       c->queue.in_flight_per_target);
        else
            c->queue.in_flight_per_target = c->queue.in_flight;
    }
    if (c->ingress.ping_interval_ms >= c->ingress.receive_timeout_ms && c->ingress.receive_timeout_ms > 0)
        load_fault(l, true, "ingress", NULL, "receive_timeout",
                   "is not longer than ping_interval: silent but live clients will be torn down");
}

/* Under systemd the unit's StateDirectory= and RuntimeDirectory= are the defaults: the only places its sandbox lets the
 * daemon write to (systemd.exec(5)). */
static void from_service_manager(struct load *l, const char *key, const char *variable, char **dir)
{
    const char *given = getenv(variable);
    if (!given || given[0] != '/' || load_find(l, "daemon", NULL, key))
        return;
    char *first = strndup(given, strcspn(given, ":"));
    omid_assert(first);
    free(*dir);
    *dir = first;
}

void load_expand_dirs(struct load *l)
{
    from_service_manager(l, "state_dir", "STATE_DIRECTORY", &l->c->daemon.state_dir);
    from_service_manager(l, "run_dir", "RUNTIME_DIRECTORY", &l->c->daemon.run_dir);
    expand_home(l, "state_dir", &l->c->daemon.state_dir);
    expand_home(l, "run_dir", &l->c->daemon.run_dir);
    expand_home(l, "plugin_dir", &l->c->daemon.plugin_dir);
}

void load_check_whole(struct load *l)
{
    check_addresses(l);
    check_origins(l);
    check_proxies(l);
    check_jwt(l);
    check_auth_lane(l);
    check_tls(l);
    check_retry(l);
    check_processing(l);
    check_pairs(l);
    load_keep_order(l, NULL, "speakers", "min_speech", &l->c->speakers.min_speech_ms, "max_speech",
                    &l->c->speakers.max_speech_ms, true);
    load_keep_order(l, NULL, "speakers", "profile_min", &l->c->speakers.profile_min_ms, "profile_max",
                    &l->c->speakers.profile_max_ms, true);
}
