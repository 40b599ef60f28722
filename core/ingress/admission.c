/* What a WebSocket holds of the limits, from its request to its end. */
#include <stdlib.h>
#include <string.h>

#include "ingress/private.h"

void admission_peer(struct ingress_thread *t, const struct client *c, h2o_req_t *req, char peer[CIDR_TEXT],
                    char key[CIDR_TEXT])
{
    struct proxy_value value[16];
    struct cidr_addr addr;
    size_t n = 0;

    memcpy(peer, c->peer, CIDR_TEXT);
    memcpy(key, c->net, CIDR_TEXT);
    if (t->proxies.n == 0 || c->control || !cidr_addr_parse(c->peer, strlen(c->peer), &addr))
        return;
    for (ssize_t at = -1;;) {
        at = h2o_find_header_by_str(&req->headers, H2O_STRLIT("x-forwarded-for"), at);
        if (at == -1)
            break;
        if (n == ARRAY_LEN(value)) { /* the last ones count */
            memmove(value, value + 1, sizeof(value) - sizeof(value[0]));
            n--;
        }
        h2o_iovec_t v = req->headers.entries[at].value;
        value[n++] = (struct proxy_value){v.base, v.len};
    }
    addr = proxy_client(&t->proxies, &addr, value, n);
    cidr_addr_format(&addr, peer);
    addr = cidr_addr_net(&addr, 64);
    cidr_addr_format(&addr, key);
}

static bool enter(struct ingress_thread *t, enum limits_table table, const char *key, unsigned sessions,
                  unsigned per_minute, struct admission_refusal *refusal)
{
    static const enum limited_by by[LIMITS_TABLES][4] = {
        [LIMITS_ADDRESS] = {0, LIMITED_SESSIONS_ADDRESS, LIMITED_UPGRADES_ADDRESS, LIMITED_TABLE},
        [LIMITS_UID] = {0, LIMITED_SESSIONS_UID, LIMITED_UPGRADES_UID, LIMITED_TABLE}};
    static const char *const texts[4] = {NULL, "too many connections at once, try again later",
                                         "too many connections in this minute, try again later",
                                         "overloaded, try again later"};
    struct limits_bounds bounds = {sessions, per_minute};
    enum limits_verdict v = limits_enter(t->in->limits, table, key, &bounds, t->now_ms, &refusal->retry_s);

    if (v == LIMITS_OK)
        return true;
    metric_add(ingress_metrics.limited[by[table][v]], 1);
    refusal->reason = texts[v];
    return false;
}

bool admission_address(struct admission *a, struct ingress_thread *t, const char *key,
                       struct admission_refusal *refusal)
{
    const struct conf *conf = t->conf;

    omid_assert(a->address[0] == '\0');
    if (!enter(t, LIMITS_ADDRESS, key, conf->limits.sessions_per_address, conf->limits.upgrades_per_address, refusal))
        return false;
    a->t = t;
    memcpy(a->address, key, CIDR_TEXT);
    return true;
}

bool admission_stranger(struct admission *a, struct admission_refusal *refusal)
{
    if (!limits_stranger_enter(a->t->in->limits, a->address, a->t->conf->limits.unauthenticated)) {
        metric_add(ingress_metrics.limited[LIMITED_UNAUTHENTICATED], 1);
        *refusal = (struct admission_refusal){.reason = "too many unauthenticated connections, try again later",
                                              .retry_s = LIMITS_RETRY_S};
        return false;
    }
    a->stranger = true;
    metric_add(ingress_metrics.strangers, 1);
    return true;
}

static void known(struct admission *a)
{
    if (!a->stranger)
        return;
    a->stranger = false;
    limits_stranger_leave(a->t->in->limits, a->address);
    metric_add(ingress_metrics.strangers, -1);
}

bool admission_uid(struct admission *a, const char *uid, struct admission_refusal *refusal)
{
    const struct conf *conf = a->t->conf;

    *refusal = (struct admission_refusal){.reason = "out of memory", .retry_s = LIMITS_RETRY_S};
    omid_assert(a->uid == NULL && a->address[0] != '\0');
    char *copy = strdup(uid);
    if (copy == NULL ||
        !enter(a->t, LIMITS_UID, uid, conf->limits.sessions_per_uid, conf->limits.upgrades_per_uid, refusal)) {
        free(copy);
        return false;
    }
    a->uid = copy;
    known(a);
    return true;
}

void admission_leave(struct admission *a)
{
    if (a->address[0] == '\0')
        return;
    known(a);
    if (a->uid != NULL)
        limits_leave(a->t->in->limits, LIMITS_UID, a->uid, a->t->now_ms);
    limits_leave(a->t->in->limits, LIMITS_ADDRESS, a->address, a->t->now_ms);
    free(a->uid);
    *a = (struct admission){.t = NULL};
}
