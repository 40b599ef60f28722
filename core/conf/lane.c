/* Copies of lanes' settings. Apart from the loader, so that lanes can be built without it. */
#include "conf/lane.h"

#include <stdlib.h>
#include <string.h>

#include "base/magic.h"

/* ------------------------------------------------------------ what is shared */

struct conf_outside *conf_outside_new(void)
{
    static atomic_uint_fast64_t next = 1;
    struct conf_outside *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    atomic_init(&o->refs, 1);
    o->id = atomic_fetch_add(&next, 1);
    return o;
}

struct conf_outside *conf_outside_ref(struct conf_outside *o)
{
    if (o)
        atomic_fetch_add(&o->refs, 1);
    return o;
}

static void wipe(char *data, size_t len)
{
    if (data)
        explicit_bzero(data, len);
    free(data);
}

void conf_outside_unref(struct conf_outside **op)
{
    struct conf_outside *o = *op;

    *op = NULL;
    if (!o || atomic_fetch_sub(&o->refs, 1) > 1)
        return;
    free(o->proxy);
    wipe(o->proxy_auth, o->proxy_auth ? strlen(o->proxy_auth) : 0);
    wipe(o->key.data, o->key.len);
    free(o->certificate.data);
    free(o->ca.data);
    free(o->allow_private);
    free(o);
}

struct conf_targets *conf_targets_new(size_t n)
{
    struct conf_targets *t = calloc(1, sizeof *t + n * sizeof t->target[0]);
    if (!t)
        return NULL;
    atomic_init(&t->refs, 1);
    t->n = n;
    return t;
}

static void targets_unref(struct conf_targets **tp)
{
    struct conf_targets *t = *tp;

    *tp = NULL;
    if (!t || atomic_fetch_sub(&t->refs, 1) > 1)
        return;
    for (size_t i = 0; i < t->n; i++) {
        omid_assert(t->target[i].lane.targets == NULL);
        conf_outside_unref(&t->target[i].lane.outside);
        free(t->target[i].prefix);
    }
    free(t);
}

void conf_lane_copy(struct conf_lane *to, const struct conf_lane *from)
{
    *to = *from;
    conf_outside_ref(to->outside);
    if (to->targets)
        atomic_fetch_add(&to->targets->refs, 1);
}

void conf_lane_clear(struct conf_lane *l)
{
    conf_outside_unref(&l->outside);
    targets_unref(&l->targets);
}

/* ------------------------------------------------------------ comparing */

static bool text_same(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool bytes_same(const struct conf_bytes *a, const struct conf_bytes *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

static bool nets_same(const struct conf_outside *a, const struct conf_outside *b)
{
    bool same = a->n_private == b->n_private;

    for (size_t i = 0; same && i < a->n_private; i++)
        same = a->allow_private[i].bits == b->allow_private[i].bits &&
               memcmp(&a->allow_private[i].net, &b->allow_private[i].net, sizeof a->allow_private[i].net) == 0;
    return same;
}

bool conf_outside_same(const struct conf_outside *a, const struct conf_outside *b)
{
    if (a == b || a == NULL || b == NULL)
        return a == b;
    return text_same(a->proxy, b->proxy) && text_same(a->proxy_auth, b->proxy_auth) &&
           bytes_same(&a->certificate, &b->certificate) && bytes_same(&a->key, &b->key) && bytes_same(&a->ca, &b->ca) &&
           nets_same(a, b);
}

/* A new member belongs here too. */
static bool values_same(const struct conf_lane *a, const struct conf_lane *b)
{
    return a->pool == b->pool && a->idle == b->idle && a->semaphore == b->semaphore && a->streams == b->streams &&
           a->queue == b->queue && a->connect_timeout_ms == b->connect_timeout_ms && a->timeout_ms == b->timeout_ms &&
           a->queue_timeout_ms == b->queue_timeout_ms && a->follow == b->follow &&
           a->breaker_failures == b->breaker_failures && a->breaker_open_ms == b->breaker_open_ms &&
           a->breaker_open_max_ms == b->breaker_open_max_ms && a->breaker_window_ms == b->breaker_window_ms &&
           a->breaker_error_rate == b->breaker_error_rate && a->breaker_min_attempts == b->breaker_min_attempts &&
           a->breaker_slow_ms == b->breaker_slow_ms && a->breaker_slow_share == b->breaker_slow_share &&
           conf_outside_same(a->outside, b->outside);
}

bool conf_lane_same(const struct conf_lane *a, const struct conf_lane *b)
{
    const struct conf_targets *x = a->targets, *y = b->targets;

    if (!values_same(a, b) || (x ? x->n : 0) != (y ? y->n : 0))
        return false;
    for (size_t i = 0; x && i < x->n; i++) {
        if (strcmp(x->target[i].prefix, y->target[i].prefix) != 0 ||
            !values_same(&x->target[i].lane, &y->target[i].lane))
            return false;
    }
    return true;
}
