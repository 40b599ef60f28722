/*
 * Who is calling. The uid comes from the token alone: an id token of the configured issuer, or for development the
 * admin key and the uid behind it.
 *
 * A token whose key is not there waits on its ingress thread, in a bounded list, until a fetch of keys has ended or its
 * time is over; jwks.h says when one is under way. Nothing is shared but the set of keys.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "ingress/jwks.h"
#include "ingress/private.h"

#define WAITER_MAGIC UINT32_C(0x61777472)
#define WAITERS_MAX 1024 /* per thread; each up to JWT_MAX_TOKEN bytes */

_Static_assert(AUTH_UID_MAX == JWT_MAX_SUBJECT, "a subject is a uid");

struct auth_waiter {
    uint32_t magic;
    struct list link; /* thread.auth_waiters, in the order of their time */
    struct ingress_thread *t;
    uint64_t due_ms;
    auth_done_fn done;
    void *arg;
    struct auth_waiter **owner; /* where whoever may cancel keeps it */
    size_t len;
    char token[];
};

static const char *const reasons[JWT_RESULTS] = {
    [JWT_TOO_LONG] = "invalid token: too long",
    [JWT_MALFORMED] = "invalid token: malformed",
    [JWT_ALGORITHM] = "invalid token: not signed with RS256",
    [JWT_ISSUER] = "invalid token: of another issuer",
    [JWT_AUDIENCE] = "invalid token: for another audience",
    [JWT_SUBJECT] = "invalid token: no usable subject",
    [JWT_EXPIRED] = "invalid token: expired",
    [JWT_NOT_YET] = "invalid token: from the future",
    [JWT_UNKNOWN_KEY] = "invalid token: signed with an unknown key",
    [JWT_SIGNATURE] = "invalid token: the signature does not match",
};

/* ------------------------------------------------------------ the two forms */

/* "Bearer <token>"; the scheme's case does not matter (RFC 9110, 11.1). */
static bool bearer_token(const char *value, size_t len, const char **token, size_t *token_len)
{
    static const char scheme[] = "bearer";
    size_t at = sizeof(scheme) - 1;

    if (len <= at || strncasecmp(value, scheme, at) != 0 || value[at] != ' ')
        return false;
    while (at < len && value[at] == ' ')
        at++;
    while (len > at && (value[len - 1] == ' ' || value[len - 1] == '\t'))
        len--;
    *token = value + at;
    *token_len = len - at;
    return *token_len > 0;
}

static void verdict(struct auth_answer *answer, enum auth_verdict v, enum auth_result result, const char *reason)
{
    answer->verdict = v;
    answer->result = result;
    answer->reason = reason;
}

/* <ADMIN_KEY><uid>, for development: the key immediately followed by the uid. */
static bool admin_token(const char *key, const char *token, size_t len, struct auth_answer *answer)
{
    size_t key_len = strlen(key);

    if (key_len == 0 || len < key_len || !id_equal_ct(key, token, key_len))
        return false;
    if (!jwt_uid_valid(token + key_len, len - key_len)) {
        verdict(answer, AUTH_INVALID, AUTH_RESULT_SUBJECT, "invalid token");
        return true;
    }
    verdict(answer, AUTH_OK, AUTH_RESULT_ADMIN, NULL);
    memcpy(answer->uid, token + key_len, len - key_len);
    answer->uid[len - key_len] = '\0';
    return true;
}

/* ------------------------------------------------------------ id tokens */

/* The keys as they are now; NULL: none, or none that may still be used. */
static const struct jwt_keys *keys_now(struct ingress_thread *t)
{
    struct jwks *jw = t->in->env.jwks;
    unsigned generation = jwks_generation(jw);

    if (!t->keys_taken || generation != t->keys_generation) {
        jwt_keys_free(&t->keys);
        t->keys = jwks_get(jw, &t->keys_until_ms, &t->keys_failed);
        t->keys_generation = generation;
        t->keys_taken = true;
    }
    return clock_mono_ms() < t->keys_until_ms ? t->keys : NULL;
}

/* false: a fetch of keys is under way, that may change the answer. */
static bool decide_by_keys(struct ingress_thread *t, const char *token, size_t len, struct auth_answer *answer)
{
    const struct conf *conf = t->conf;
    struct jwt_expect expect = {.audience = conf->auth.jwt.project,
                                .issuer = conf->auth.jwt.issuer,
                                .now_s = clock_wall_ms() / 1000,
                                .leeway_s = conf->auth.jwt.leeway_ms / 1000};

    for (;;) {
        const struct jwt_keys *keys = keys_now(t);
        enum jwt_result result = jwt_check(token, len, &expect, keys, answer->uid);
        if (result == JWT_OK) {
            verdict(answer, AUTH_OK, AUTH_RESULT_TOKEN, NULL);
            return true;
        }
        if (result == JWT_UNKNOWN_KEY) {
            if (jwks_ask(t->in->env.jwks, keys == NULL ? JWKS_NONE : JWKS_UNKNOWN_KEY, clock_mono_ms()))
                return false;
            if (jwks_generation(t->in->env.jwks) != t->keys_generation)
                continue; /* that fetch has just ended */
            if (keys == NULL || t->keys_failed) {
                verdict(answer, AUTH_UNAVAILABLE, AUTH_RESULT_UNAVAILABLE,
                        "the issuer's keys are not available, try again later");
                return true;
            }
        }
        verdict(answer, AUTH_INVALID, (enum auth_result)((int)AUTH_RESULT_JWT + (int)result), reasons[result]);
        return true;
    }
}

static bool decide(struct ingress_thread *t, const char *token, size_t len, struct auth_answer *answer)
{
    const struct conf *conf = t->conf;

    if (conf->auth.admin_key != NULL && admin_token(conf->auth.admin_key, token, len, answer))
        return true;
    if (conf->auth.jwt.project != NULL && conf->auth.jwt.issuer != NULL && t->in->env.jwks != NULL)
        return decide_by_keys(t, token, len, answer);
    verdict(answer, AUTH_INVALID, AUTH_RESULT_OFF, "invalid token");
    return true;
}

static void answer_now(const struct auth_answer *answer, auth_done_fn done, void *arg)
{
    metric_add(ingress_metrics.tokens[answer->result], 1);
    done(arg, answer);
}

/* ------------------------------------------------------------ waiting */

static void set_timer(struct ingress_thread *t)
{
    if (list_empty(&t->auth_waiters))
        timer_clear(&t->timers, &t->auth_timer);
    else
        timer_set(&t->timers, &t->auth_timer, list_entry(t->auth_waiters.next, struct auth_waiter, link)->due_ms);
}

static void waiter_remove(struct auth_waiter *w)
{
    CHECK_MAGIC(w, WAITER_MAGIC);
    list_remove(&w->link);
    w->t->n_auth_waiters--;
    metric_add(ingress_metrics.auth_waiting, -1);
    *w->owner = NULL;
}

static void waiter_free(struct auth_waiter *w)
{
    w->magic = OMID_MAGIC_DEAD;
    free(w);
}

static void waiter_answer(struct auth_waiter *w, const struct auth_answer *answer)
{
    waiter_remove(w);
    answer_now(answer, w->done, w->arg);
    waiter_free(w);
}

void auth_cancel(struct auth_waiter **wp)
{
    struct auth_waiter *w = *wp;

    if (w == NULL)
        return;
    waiter_remove(w);
    set_timer(w->t);
    waiter_free(w);
}

static void on_auth_timer(struct timer *timer, uint64_t now_ms)
{
    struct ingress_thread *t = container_of(timer, struct ingress_thread, auth_timer);
    struct auth_answer answer = {.verdict = AUTH_UNAVAILABLE};

    verdict(&answer, AUTH_UNAVAILABLE, AUTH_RESULT_UNAVAILABLE, "the issuer's keys did not come in time");
    while (!list_empty(&t->auth_waiters)) {
        struct auth_waiter *w = list_entry(t->auth_waiters.next, struct auth_waiter, link);
        if (w->due_ms > now_ms)
            break;
        waiter_answer(w, &answer);
    }
    set_timer(t);
}

void auth_turn(struct ingress_thread *t)
{
    struct list all;

    if (list_empty(&t->auth_waiters) || (t->keys_taken && jwks_generation(t->in->env.jwks) == t->keys_generation))
        return;
    list_init(&all);
    for (struct list *l; (l = list_pop(&t->auth_waiters)) != NULL;)
        list_append(&all, l);
    /* An answer may cancel others, of which each is in one of the two lists. */
    for (struct list *l; (l = list_pop(&all)) != NULL;) {
        struct auth_waiter *w = list_entry(l, struct auth_waiter, link);
        struct auth_answer answer = {.verdict = AUTH_INVALID};
        if (decide(t, w->token, w->len, &answer))
            waiter_answer(w, &answer);
        else
            list_append(&t->auth_waiters, &w->link);
    }
    set_timer(t);
}

static bool wait_for_keys(struct ingress_thread *t, const char *token, size_t len, auth_done_fn done, void *arg,
                          struct auth_waiter **owner)
{
    struct auth_waiter *w = t->n_auth_waiters < WAITERS_MAX ? malloc(sizeof(*w) + len) : NULL;

    if (w == NULL)
        return false;
    *w = (struct auth_waiter){.magic = WAITER_MAGIC,
                              .t = t,
                              .due_ms = t->now_ms + t->conf->auth.jwt.wait_ms,
                              .done = done,
                              .arg = arg,
                              .owner = owner,
                              .len = len};
    memcpy(w->token, token, len);
    *owner = w;
    t->n_auth_waiters++;
    metric_add(ingress_metrics.auth_waiting, 1);
    t->auth_timer.fn = on_auth_timer;
    list_append(&t->auth_waiters, &w->link);
    set_timer(t);
    return true;
}

bool auth_token(struct ingress_thread *t, const char *token, size_t len, auth_done_fn done, void *arg,
                struct auth_waiter **waiter)
{
    struct auth_answer answer = {.verdict = AUTH_INVALID};

    *waiter = NULL;
    if (!decide(t, token, len, &answer)) {
        if (wait_for_keys(t, token, len, done, arg, waiter))
            return true;
        verdict(&answer, AUTH_UNAVAILABLE, AUTH_RESULT_FULL, "too many wait for the issuer's keys, try again later");
    }
    answer_now(&answer, done, arg);
    return false;
}

const char *auth_admin(struct ingress_thread *t, const char *value, size_t len)
{
    const char *key = t->conf->auth.admin_key, *token;
    size_t token_len;
    enum auth_result result = AUTH_RESULT_ADMIN;
    const char *reason = NULL;

    if (value == NULL || !bearer_token(value, len, &token, &token_len)) {
        result = AUTH_RESULT_MISSING;
        reason = "missing token: Authorization: Bearer <admin key> is required";
    } else if (key == NULL || key[0] == '\0' || token_len != strlen(key) || !id_equal_ct(key, token, token_len)) {
        result = AUTH_RESULT_NOT_ADMIN;
        reason = "invalid token: not the admin key";
    }
    metric_add(ingress_metrics.tokens[result], 1);
    return reason;
}

bool auth_header(struct ingress_thread *t, const char *value, size_t len, auth_done_fn done, void *arg,
                 struct auth_waiter **waiter)
{
    struct auth_answer answer = {.verdict = AUTH_MISSING};
    const char *token;
    size_t token_len;

    if (value != NULL && bearer_token(value, len, &token, &token_len)) {
        return auth_token(t, token, token_len, done, arg, waiter);
    }
    *waiter = NULL;
    verdict(&answer, AUTH_MISSING, AUTH_RESULT_MISSING, "missing token: Authorization: Bearer <token> is required");
    answer_now(&answer, done, arg);
    return false;
}
