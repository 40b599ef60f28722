#include "ingress/jwks.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/magic.h"
#include "base/metrics.h"
#include "lane/http/lane.h"

#define MODULE "auth"
#define JWKS_MAGIC UINT32_C(0x6a776b66)
#define LANE_NAME "auth"
#define AGE_UNSAID_MS UINT64_C(3600000)
#define AGE_MAX_MS UINT64_C(86400000)
#define RETRY_FIRST_MS 1000u
#define RETRY_MAX_MS 60000u

struct jwks {
    uint32_t magic;
    struct lanes *lanes;
    struct loop *loop; /* the lane thread's */
    struct lane *lane; /* main thread makes it; NULL until there is a project */
    void (*ended)(void *arg);
    void *arg;
    struct metric *keys_count, *fetched, *failed_count;

    /* the loop's */
    struct conf *conf; /* held */
    ev_timer timer;    /* the next fetch */
    struct lane_http *request;
    unsigned failures; /* in a row */
    bool stopped;

    atomic_uint generation;
    pthread_mutex_t lock; /* below */
    struct jwt_keys *keys;
    uint64_t keys_until_ms; /* stale included */
    uint64_t unknown_ms;    /* when an unknown key was last asked for */
    uint64_t refresh_min_ms;
    bool configured, fetching, failed, unknown_asked;
    bool ask_posted;
    struct loop_msg ask;
};

struct order {
    struct loop_msg msg;
    struct jwks *jw;
    struct conf *conf; /* held */
    struct lane *lane;
};

/* ------------------------------------------------------------ the loop */

static void fetch(struct jwks *jw);

/* Whoever waits for keys looks again. */
static void tell(struct jwks *jw)
{
    atomic_fetch_add(&jw->generation, 1);
    if (jw->ended != NULL)
        jw->ended(jw->arg);
}

static void set_timer(struct jwks *jw, uint64_t ms)
{
    ev_timer_stop(loop_ev(jw->loop), &jw->timer);
    ev_timer_set(&jw->timer, (double)ms / 1000, 0.);
    if (!jw->stopped)
        ev_timer_start(loop_ev(jw->loop), &jw->timer);
}

/* Takes over keys; NULL drops what is there. */
static void publish(struct jwks *jw, struct jwt_keys *keys, uint64_t until_ms)
{
    pthread_mutex_lock(&jw->lock);
    struct jwt_keys *old = jw->keys;
    jw->keys = keys;
    jw->keys_until_ms = until_ms;
    pthread_mutex_unlock(&jw->lock);
    jwt_keys_free(&old);
    metric_set(jw->keys_count, keys != NULL ? (int64_t)jwt_keys_count(keys) : 0);
}

static void set_fetching(struct jwks *jw, bool fetching, bool failed)
{
    pthread_mutex_lock(&jw->lock);
    jw->fetching = fetching;
    jw->failed = failed;
    pthread_mutex_unlock(&jw->lock);
}

static void fetch_failed(struct jwks *jw, const char *why)
{
    uint64_t pause = RETRY_FIRST_MS << (jw->failures < 6 ? jw->failures : 6);

    pause = pause < RETRY_MAX_MS ? pause : RETRY_MAX_MS;
    pause = (uint64_t)((double)pause * (0.8 + 0.4 * id_random_unit()));
    jw->failures++;
    metric_add(jw->failed_count, 1);
    log_warning(MODULE, "the issuer's keys could not be fetched", LS("reason", why), LU("failures", jw->failures),
                LU("again_ms", pause));
    set_fetching(jw, false, true);
    set_timer(jw, pause);
    tell(jw);
}

static uint64_t age_of(const struct jwks *jw, const struct omid_http_response *res)
{
    uint64_t age = res->max_age_s < 0 ? AGE_UNSAID_MS : (uint64_t)res->max_age_s * 1000;
    uint64_t min = jw->conf->auth.jwt.refresh_min_ms;

    age = age < AGE_MAX_MS ? age : AGE_MAX_MS;
    return age > min ? age : min;
}

static void fetch_done(struct jwks *jw, struct jwt_keys *keys, unsigned refused, const struct omid_http_response *res)
{
    uint64_t age = age_of(jw, res), min = jw->conf->auth.jwt.refresh_min_ms;
    uint64_t next = (uint64_t)((double)age * (0.7 + 0.1 * id_random_unit()));

    jw->failures = 0;
    metric_add(jw->fetched, 1);
    log_info(MODULE, "keys of the issuer", LU("keys", jwt_keys_count(keys)), LU("unusable", refused),
             LU("age_ms", age));
    publish(jw, keys, clock_mono_ms() + age + jw->conf->auth.jwt.stale_ms);
    set_fetching(jw, false, false);
    set_timer(jw, next > min ? next : min);
    tell(jw);
}

static void on_response(void *arg, const struct omid_http_response *res)
{
    struct jwks *jw = arg;
    char err[128], why[320];
    unsigned refused;

    CHECK_MAGIC(jw, JWKS_MAGIC);
    jw->request = NULL;
    if (res->error != OMID_HTTP_OK) {
        fetch_failed(jw, res->error_text);
        return;
    }
    if (res->status != 200) {
        snprintf(why, sizeof(why), "status %d", res->status);
        fetch_failed(jw, why);
        return;
    }
    if (res->truncated) {
        snprintf(why, sizeof(why), "more than %u bytes", JWT_MAX_KEYS_TEXT);
        fetch_failed(jw, why);
        return;
    }
    struct jwt_keys *keys = jwt_keys_parse(res->body, res->body_len, &refused, err, sizeof(err));
    if (keys == NULL) {
        snprintf(why, sizeof(why), "no key set: %s", err);
        fetch_failed(jw, why);
        return;
    }
    fetch_done(jw, keys, refused, res);
}

static void fetch(struct jwks *jw)
{
    static const char *const headers[] = {"Accept: application/json", NULL};

    if (jw->stopped || jw->conf == NULL || jw->lane == NULL || jw->conf->auth.jwt.project == NULL) {
        set_fetching(jw, false, false);
        return;
    }
    if (jw->request != NULL)
        return;
    ev_timer_stop(loop_ev(jw->loop), &jw->timer);
    pthread_mutex_lock(&jw->lock);
    jw->fetching = true;
    pthread_mutex_unlock(&jw->lock);
    struct omid_http_request req = {.size = sizeof(req),
                                    .method = "GET",
                                    .url = jw->conf->auth.jwt.jwks_url,
                                    .headers = headers,
                                    .max_body = JWT_MAX_KEYS_TEXT};
    int rc = lane_http_start(jw->lane, jw->loop, &req, on_response, jw, &jw->request);
    if (rc != OMID_OK) {
        jw->request = NULL;
        fetch_failed(jw, rc == OMID_EFULL ? "the lane is full" : rc == OMID_EINVAL ? "jwks_url is none" : "shutdown");
    }
}

static void on_timer(struct ev_loop *ev, ev_timer *timer, int revents)
{
    (void)ev;
    (void)revents;
    fetch(timer->data);
}

static void on_ask(struct loop *loop, struct loop_msg *msg)
{
    struct jwks *jw = container_of(msg, struct jwks, ask);

    (void)loop;
    CHECK_MAGIC(jw, JWKS_MAGIC);
    pthread_mutex_lock(&jw->lock);
    jw->ask_posted = false;
    pthread_mutex_unlock(&jw->lock);
    fetch(jw);
}

/* Is it another issuer's set from now on? */
static bool source_differs(const struct conf *a, const struct conf *b)
{
    if (a == NULL || (a->auth.jwt.project == NULL) != (b->auth.jwt.project == NULL))
        return true;
    return b->auth.jwt.project != NULL && (strcmp(a->auth.jwt.jwks_url, b->auth.jwt.jwks_url) != 0 ||
                                           strcmp(a->auth.jwt.issuer, b->auth.jwt.issuer) != 0);
}

static void on_configure(struct loop *loop, struct loop_msg *msg)
{
    struct order *o = container_of(msg, struct order, msg);
    struct jwks *jw = o->jw;

    (void)loop;
    CHECK_MAGIC(jw, JWKS_MAGIC);
    bool differs = source_differs(jw->conf, o->conf);
    conf_free(&jw->conf);
    jw->conf = o->conf;
    free(o);
    if (jw->stopped)
        return;
    if (!differs) {
        if (jw->keys == NULL) /* a reload is also a new attempt */
            fetch(jw);
        return;
    }
    lane_http_cancel(&jw->request);
    jw->failures = 0;
    publish(jw, NULL, 0);
    pthread_mutex_lock(&jw->lock);
    jw->unknown_asked = false;
    pthread_mutex_unlock(&jw->lock);
    fetch(jw);
    tell(jw);
}

static void on_stop(struct loop *loop, struct loop_msg *msg)
{
    struct order *o = container_of(msg, struct order, msg);
    struct jwks *jw = o->jw;

    (void)loop;
    CHECK_MAGIC(jw, JWKS_MAGIC);
    jw->stopped = true;
    ev_timer_stop(loop_ev(jw->loop), &jw->timer);
    lane_http_cancel(&jw->request);
    lane_release(&jw->lane);
    free(o);
}

/* ------------------------------------------------------------ any thread */

unsigned jwks_generation(const struct jwks *jw)
{
    return atomic_load(&((struct jwks *)(uintptr_t)jw)->generation);
}

struct jwt_keys *jwks_get(struct jwks *jw, uint64_t *until_ms, bool *failed)
{
    CHECK_MAGIC(jw, JWKS_MAGIC);
    pthread_mutex_lock(&jw->lock);
    struct jwt_keys *keys = jw->keys != NULL ? jwt_keys_ref(jw->keys) : NULL;
    *until_ms = jw->keys_until_ms;
    *failed = jw->failed;
    pthread_mutex_unlock(&jw->lock);
    return keys;
}

bool jwks_ask(struct jwks *jw, enum jwks_reason reason, uint64_t now_ms)
{
    bool post = false;

    CHECK_MAGIC(jw, JWKS_MAGIC);
    pthread_mutex_lock(&jw->lock);
    bool coming = jw->configured && jw->fetching;
    if (jw->configured && reason == JWKS_UNKNOWN_KEY) {
        bool due = !jw->unknown_asked || now_ms - jw->unknown_ms >= jw->refresh_min_ms;
        if (due) {
            jw->unknown_asked = true;
            jw->unknown_ms = now_ms;
            post = !coming && !jw->ask_posted;
        }
    }
    if (post)
        jw->fetching = jw->ask_posted = coming = true;
    pthread_mutex_unlock(&jw->lock);
    if (post)
        loop_post(jw->loop, &jw->ask);
    return coming;
}

/* ------------------------------------------------------------ main thread */

struct jwks *jwks_new(struct lanes *lanes)
{
    struct jwks *jw = calloc(1, sizeof(*jw));
    if (jw == NULL)
        return NULL;
    jw->magic = JWKS_MAGIC;
    jw->lanes = lanes;
    jw->loop = lanes_loop(lanes);
    jw->ask.fn = on_ask;
    pthread_mutex_init(&jw->lock, NULL);
    ev_init(&jw->timer, on_timer);
    jw->timer.data = jw;
    jw->keys_count = metric_gauge("omid_auth_keys", "Public keys of the id tokens' issuer.");
    struct metric_label ok = {"result", "ok"}, failed = {"result", "failed"};
    static const char name[] = "omid_auth_key_fetches_total", help[] = "Fetches of the issuer's keys, by result.";
    jw->fetched = metric_get(METRIC_COUNTER, name, help, &ok, 1, NULL, 0);
    jw->failed_count = metric_get(METRIC_COUNTER, name, help, &failed, 1, NULL, 0);
    return jw;
}

void jwks_watch(struct jwks *jw, void (*ended)(void *arg), void *arg)
{
    CHECK_MAGIC(jw, JWKS_MAGIC);
    jw->ended = ended;
    jw->arg = arg;
}

static struct order *order_new(struct jwks *jw, void (*fn)(struct loop *, struct loop_msg *))
{
    struct order *o = calloc(1, sizeof(*o));
    omid_assert(o != NULL); /* a few bytes, at the start, at a reload or at the end */
    *o = (struct order){.msg = {.fn = fn}, .jw = jw};
    return o;
}

void jwks_configure(struct jwks *jw, const struct conf *conf)
{
    CHECK_MAGIC(jw, JWKS_MAGIC);
    bool on = conf->auth.jwt.project != NULL;

    if (jw->lane != NULL)
        lane_configure(jw->lane, &conf->auth.lane);
    else if (on)
        jw->lane = lane_new(jw->lanes, LANE_NAME, &conf->auth.lane);
    if (on && jw->lane == NULL)
        log_error(MODULE, "no memory for the lane: id tokens can't be checked");
    pthread_mutex_lock(&jw->lock);
    jw->configured = on;
    jw->fetching |= on && jw->keys == NULL; /* until on_configure() has looked */
    jw->refresh_min_ms = conf->auth.jwt.refresh_min_ms;
    pthread_mutex_unlock(&jw->lock);
    struct order *o = order_new(jw, on_configure);
    o->conf = conf_ref(conf);
    loop_post(jw->loop, &o->msg);
}

void jwks_stop(struct jwks *jw)
{
    CHECK_MAGIC(jw, JWKS_MAGIC);
    loop_post(jw->loop, &order_new(jw, on_stop)->msg);
}

void jwks_free(struct jwks **jwp)
{
    struct jwks *jw = *jwp;

    *jwp = NULL;
    if (jw == NULL)
        return;
    CHECK_MAGIC(jw, JWKS_MAGIC);
    conf_free(&jw->conf);
    jwt_keys_free(&jw->keys);
    pthread_mutex_destroy(&jw->lock);
    jw->magic = OMID_MAGIC_DEAD;
    free(jw);
}
