#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/magic.h"
#include "lane/http/lane_int.h"

static const struct {
    const char *prefix, *port;
} schemes[] = {{"http://", "80"}, {"https://", "443"}, {"ws://", "80"}, {"wss://", "443"}};

/* The key is for counting, never for connecting: curl reads the URL itself. */
bool target_key(const char *url, char *out, size_t size)
{
    size_t at = 0, s = 0;

    for (const unsigned char *c = (const unsigned char *)url; *c; c++) {
        if (*c <= ' ' || *c == 0x7f || *c == '\\')
            return false;
    }
    while (s < ARRAY_LEN(schemes) && strncasecmp(url, schemes[s].prefix, strlen(schemes[s].prefix)) != 0)
        s++;
    if (s == ARRAY_LEN(schemes))
        return false;
    const char *authority = url + strlen(schemes[s].prefix);
    size_t len = strcspn(authority, "/?#");
    const char *path = authority + len;
    size_t path_len = strcspn(path, "?#");
    for (size_t i = len; i > 0; i--) { /* a password is no part of a name that is shown */
        if (authority[i - 1] == '@') {
            authority += i;
            len -= i;
            break;
        }
    }
    const char *bracket = memchr(authority, ']', len);
    const char *colon =
        memchr(bracket ? bracket : authority, ':', len - (size_t)((bracket ? bracket : authority) - authority));
    size_t host_len = colon ? (size_t)(colon - authority) : len;
    size_t port_len = colon ? len - host_len - 1 : 0;
    const char *port = port_len > 0 ? colon + 1 : schemes[s].port;
    port_len = port_len > 0 ? port_len : strlen(port);
    if (host_len == 0 || strlen(schemes[s].prefix) + host_len + 1 + port_len + path_len + 2 > size)
        return false;
    for (const char *c = schemes[s].prefix; *c; c++)
        out[at++] = *c;
    for (size_t i = 0; i < host_len; i++)
        out[at++] = (char)tolower((unsigned char)authority[i]);
    out[at++] = ':';
    memcpy(out + at, port, port_len);
    at += port_len;
    if (path_len == 0)
        out[at++] = '/';
    memcpy(out + at, path, path_len);
    out[at + path_len] = 0;
    return true;
}

static void target_free(struct lane *l, struct target *t)
{
    CHECK_MAGIC(t, TARGET_MAGIC);
    omid_assert(t->refs == 0 && list_empty(&t->waiters));
    list_remove(&t->idle);
    board_remove(l, t);
    map_remove(l->targets, t->key);
    if (t->breaker.state != BREAKER_CLOSED)
        lane_open_breakers_add(l, -1);
    atomic_store(&l->seen.targets, (unsigned)map_count(l->targets));
    t->magic = OMID_MAGIC_DEAD;
    free(t);
}

struct target *target_get(struct lane *l, const char *key)
{
    struct target *t = map_get(l->targets, key);
    if (t) {
        CHECK_MAGIC(t, TARGET_MAGIC);
        list_remove(&t->idle);
        t->refs++;
        return t;
    }
    /* Those in use are bounded by semaphore, queue and streams, so that an idle one can be found. */
    if (map_count(l->targets) >= TARGETS_MAX && !list_empty(&l->idle))
        target_free(l, list_entry(l->idle.next, struct target, idle));
    size_t len = strlen(key) + 1;
    t = calloc(1, sizeof *t + len);
    if (!t)
        return NULL;
    t->magic = TARGET_MAGIC;
    memcpy(t->key, key, len);
    list_init(&t->ring);
    list_init(&t->idle);
    list_init(&t->waiters);
    breaker_init(&t->breaker, lane_now(l));
    limit_init(&t->limit);
    t->adaptive = strncmp(key, "http", 4) == 0;
    if (!map_put(l->targets, key, t, NULL)) {
        free(t);
        return NULL;
    }
    t->refs = 1;
    list_init(&t->board);
    atomic_store(&t->seen.limit, target_limit(l, t));
    board_put(l, t);
    atomic_store(&l->seen.targets, (unsigned)map_count(l->targets));
    return t;
}

void target_put(struct lane *l, struct target **tp)
{
    struct target *t = *tp;

    if (!t)
        return;
    CHECK_MAGIC(t, TARGET_MAGIC);
    omid_assert(t->refs > 0);
    *tp = NULL;
    if (--t->refs > 0)
        return;
    t->idle_since = lane_now(l);
    list_append(&l->idle, &t->idle);
}

unsigned target_limit(const struct lane *l, const struct target *t)
{
    unsigned failures = t->breaker.consecutive, opens_at = l->conf.breaker_failures;

    if (!t->adaptive)
        return l->conf.semaphore;
    return limit_now(&t->limit, l->conf.semaphore, opens_at > failures ? opens_at - failures : 1);
}

void targets_expire(struct lane *l, uint64_t now)
{
    while (!list_empty(&l->idle)) {
        struct target *t = list_entry(l->idle.next, struct target, idle);
        if (now - t->idle_since < TARGET_IDLE_MS)
            return;
        target_free(l, t);
    }
}

void targets_free(struct lane *l)
{
    while (!list_empty(&l->idle))
        target_free(l, list_entry(l->idle.next, struct target, idle));
    omid_assert(map_count(l->targets) == 0);
}
