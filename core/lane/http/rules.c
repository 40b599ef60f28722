/*
 * Which settings count for which target: the lane's, or those of the longest prefix among its target blocks. Looked up
 * once per target and at each change of the settings, never per request.
 *
 * The lane thread writes; who reads elsewhere (rules_write) holds the lane's board_lock.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/magic.h"
#include "lane/http/lane_int.h"

/* One target block as it is applied. */
struct override {
    const char *prefix; /* in the lane's conf.targets */
    size_t len;
    struct conf_lane conf;        /* borrows what it points at from there */
    atomic_uint targets;          /* now */
    atomic_uint_fast64_t matched; /* ever, since a block of this prefix is there */
    uint64_t since_ms;            /* so long it is there */
    bool told;                    /* that it has matched none */
};

/* Settings that no check of a file has seen (tests) must not divide by zero. */
static void make_sound(struct conf_lane *c)
{
    c->semaphore = c->semaphore > 0 ? c->semaphore : 1;
    c->pool = c->pool > c->semaphore ? c->pool : c->semaphore;
    c->breaker_failures = c->breaker_failures > 0 ? c->breaker_failures : 1;
    c->breaker_min_attempts = c->breaker_min_attempts > 0 ? c->breaker_min_attempts : BREAKER_MIN_ATTEMPTS;
    c->breaker_error_rate = c->breaker_error_rate > 0 ? c->breaker_error_rate : BREAKER_ERROR_RATE;
    c->breaker_slow_share = c->breaker_slow_share > 0 ? c->breaker_slow_share : BREAKER_SLOW_SHARE;
    c->breaker_window_ms = c->breaker_window_ms > 0 ? c->breaker_window_ms : BREAKER_PERIOD_MS;
    if (c->breaker_open_max_ms < c->breaker_open_ms)
        c->breaker_open_max_ms = c->breaker_open_ms;
}

static struct override *find_prefix(const struct lane *l, const char *prefix)
{
    for (size_t i = 0; i < l->n_overrides; i++) {
        if (strcmp(l->overrides[i].prefix, prefix) == 0)
            return &l->overrides[i];
    }
    return NULL;
}

/* The path may hold a token: the origin is enough for a log. */
static void warn_unused(const struct lane *l, const struct override *o)
{
    char origin[256];
    const char *path = strchr(strstr(o->prefix, "://") + 3, '/');
    snprintf(origin, sizeof origin, "%.*s", (int)(path ? path - o->prefix : (int)o->len), o->prefix);
    log_warning("lane", "a target block has matched no target so far: see omictl lanes", LS("lane", l->name),
                LS("target", origin));
}

static struct override *overrides_new(const struct lane *l, const struct conf_targets *t, unsigned semaphore)
{
    struct override *all = calloc(t->n, sizeof *all);

    for (size_t i = 0; all && i < t->n; i++) {
        struct override *o = &all[i], *former = find_prefix(l, t->target[i].prefix);
        o->prefix = t->target[i].prefix;
        o->len = strlen(o->prefix);
        o->conf = t->target[i].lane;
        o->conf.semaphore = o->conf.semaphore < semaphore ? o->conf.semaphore : semaphore;
        make_sound(&o->conf);
        atomic_init(&o->matched, former ? atomic_load(&former->matched) : 0);
        o->since_ms = former ? former->since_ms : lane_now(l);
        o->told = former && former->told;
    }
    return all;
}

bool rules_apply(struct lane *l, const struct conf_lane *conf)
{
    size_t n = conf->targets ? conf->targets->n : 0;
    struct override *all = n > 0 ? overrides_new(l, conf->targets, conf->semaphore > 0 ? conf->semaphore : 1) : NULL;

    if (n > 0 && !all)
        return false;
    for (size_t i = 0; i < n; i++) {
        const struct override *former = find_prefix(l, all[i].prefix);
        if (former && atomic_load(&former->matched) == 0) {
            warn_unused(l, former);
            all[i].told = true;
        }
    }
    struct conf_lane last = l->conf;
    struct override *former = l->overrides;
    size_t former_n = l->n_overrides;
    conf_lane_copy(&l->conf, conf);
    make_sound(&l->conf);
    pthread_mutex_lock(&l->board_lock);
    l->overrides = all;
    l->n_overrides = n;
    pthread_mutex_unlock(&l->board_lock);
    /* Without blocks, before and now, all have the lane's own, whose place does not change. */
    const char *key;
    void *t;
    for (size_t pos = 0; (n > 0 || former_n > 0) && map_next(l->targets, &pos, &key, &t);)
        rules_assign(l, t);
    free(former);
    conf_lane_clear(&last);
    return true;
}

unsigned rules_remark(struct lane *l, uint64_t now)
{
    unsigned n = 0;

    for (size_t i = 0; i < l->n_overrides; i++) {
        struct override *o = &l->overrides[i];
        if (o->told || atomic_load(&o->matched) > 0 || now < o->since_ms + TARGET_IDLE_MS)
            continue;
        warn_unused(l, o);
        o->told = true;
        n++;
    }
    return n;
}

void rules_assign(struct lane *l, struct target *t)
{
    /* At a change of the settings: of the former ones, which are there still. */
    const char *was = t->override ? t->override->prefix : NULL;

    t->override = NULL;
    t->rules = &l->conf;
    for (size_t i = 0; i < l->n_overrides; i++) {
        struct override *o = &l->overrides[i];
        if (strncmp(t->key, o->prefix, o->len) != 0)
            continue;
        atomic_fetch_add(&o->targets, 1);
        atomic_fetch_add(&o->matched, !was || strcmp(was, o->prefix) != 0);
        t->override = o;
        t->rules = &o->conf;
        return;
    }
}

void rules_release(struct target *t)
{
    if (t->override)
        atomic_fetch_sub(&t->override->targets, 1);
    t->override = NULL;
}

void rules_free(struct lane *l)
{
    free(l->overrides);
    l->overrides = NULL;
    l->n_overrides = 0;
    conf_lane_clear(&l->conf);
}

void rules_write(struct lane *l, struct json_w *w)
{
    json_w_open(w, '[');
    pthread_mutex_lock(&l->board_lock);
    for (size_t i = 0; i < l->n_overrides; i++) {
        const struct override *o = &l->overrides[i];
        json_w_open(w, '{');
        json_w_kstr(w, "prefix", o->prefix);
        json_w_kint(w, "targets", atomic_load(&o->targets));
        json_w_kint(w, "matched", (int64_t)atomic_load(&o->matched));
        json_w_close(w, '}');
    }
    pthread_mutex_unlock(&l->board_lock);
    json_w_close(w, ']');
}
