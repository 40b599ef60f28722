/*
 * Ingress as a whole: its threads, their start and their end. Everything of h2o is made and disposed of on the thread
 * that uses it: h2o's buffers belong to the thread that took them.
 */
#include "ingress/ingress.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/thread.h"
#include "ingress/jwks.h"
#include "ingress/private.h"

#define TURN_MAX_MS 1000                 /* a bound on how long a lost wake-up could stay unnoticed */
#define REQUEST_NET_MS UINT64_C(1201000) /* twice the longest request_timeout, and a second */
#define CUT_WAIT_MS 1000                 /* for h2o to notice that its sockets were shut down */

/* ------------------------------------------------------------ one thread */

static void sink_wake(struct channel_sink *sink)
{
    struct ingress_thread *t = container_of(sink, struct ingress_thread, sink);

    pthread_mutex_lock(&t->wake_lock);
    if (t->posted_ns == 0)
        t->posted_ns = clock_mono_ns();
    if (t->awake && t->waiting)
        h2o_multithread_send_message(&t->receiver, NULL); /* the turn itself takes what is queued */
    t->waiting = false;
    pthread_mutex_unlock(&t->wake_lock);
}

static void wake_all(struct ingress *in)
{
    for (unsigned i = 0; i < in->n_threads; i++)
        sink_wake(&in->thread[i].sink);
}

/* Never called: wake-ups carry no message. */
static void on_receive(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages)
{
    (void)receiver;
    omid_assert(h2o_linklist_is_empty(messages));
}

static void take_down(struct ingress_thread *t)
{
    pthread_mutex_lock(&t->wake_lock);
    uint64_t posted = t->posted_ns, now = clock_mono_ns();
    t->posted_ns = 0;
    t->waiting = false;
    pthread_mutex_unlock(&t->wake_lock);
    pulse_turned(&t->pulse, now);
    if (posted != 0)
        pulse_lag_note(&t->pulse, now > posted ? now - posted : 0);
    struct channel_down *d = channel_sink_take(&t->sink);

    while (d != NULL) {
        struct channel_down *next = d->next;
        void *conn = channel_conn(d->ch);
        if (conn == NULL)
            channel_down_free(d);
        else if (conn_magic(conn) == WEBSOCKET_MAGIC)
            websocket_down(conn, d);
        else
            http_down(conn, d);
        d = next;
    }
}

static void thread_open(struct ingress_thread *t)
{
    t->loop = h2o_evloop_create();
    for (int i = 0; i < DOORS; i++)
        h2o_context_init(&t->door[i].ctx, t->loop, &t->door[i].config);
    h2o_multithread_register_receiver(t->door[DOOR_PUBLIC].ctx.queue, &t->receiver, on_receive);
    pthread_mutex_lock(&t->wake_lock);
    t->awake = true;
    pthread_mutex_unlock(&t->wake_lock);
    listener_start(t);
}

/* h2o keeps freed chunks per thread, and forgets them when the thread ends. They are plain malloc() memory; a pool
 * of more chunks than it keeps (16) takes out all of them. */
static void free_caches(void)
{
    h2o_mem_recycle_t *buffers = &h2o_socket_buffer_prototype.allocator;
    struct chunk {
        struct chunk *next; /* how st_h2o_mem_pool_chunk_t begins */
    } * chunk;
    h2o_mem_pool_t pool;

    while (buffers->cnt > 0)
        free(h2o_mem_alloc_recycle(buffers, 1));
    h2o_mem_init_pool(&pool);
    for (int i = 0; i < 5 * 16; i++)
        h2o_mem_alloc_pool(&pool, 1000); /* four to a chunk */
    for (chunk = (void *)pool.chunks; chunk != NULL;) {
        struct chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
}

static void thread_close(struct ingress_thread *t)
{
    h2o_multithread_queue_t *queue[DOORS];

    pthread_mutex_lock(&t->wake_lock);
    t->awake = false;
    pthread_mutex_unlock(&t->wake_lock);
    timer_clear(&t->timers, &t->accept_timer);
    timer_clear(&t->timers, &t->auth_timer);
    if (t->n_clients > 0) {
        /* h2o asserts that nothing is left. Better to leak at the very end than to abort there. */
        log_error("ingress", "connections could not be closed", LU("connections", t->n_clients));
        return;
    }
    for (int i = 0; i < DOORS; i++)
        queue[i] = t->door[i].ctx.queue;
    h2o_multithread_unregister_receiver(queue[DOOR_PUBLIC], &t->receiver);
    h2o_evloop_run(t->loop, 0);
    for (int i = 0; i < DOORS; i++)
        h2o_context_dispose(&t->door[i].ctx);
    h2o_evloop_run(t->loop, 0);
    h2o_evloop_destroy(t->loop);
    free_caches();
    for (int i = 0; i < DOORS; i++)
        free(queue[i]); /* h2o_multithread_destroy_queue() leaves the struct itself to nobody */
}

static void stop_clients(struct ingress_thread *t)
{
    t->stopping = true;
    for (int i = 0; i < DOORS; i++)
        t->door[i].ctx.shutdown_requested = 1;
    list_each (it, &t->clients) {
        struct client *c = list_entry(it, struct client, link);
        if (c->state == CLIENT_WEBSOCKET)
            websocket_stop(c->ws);
        else if (c->state == CLIENT_HANDSHAKE || (c->state == CLIENT_READING && c->sock->input->size == 0))
            client_cut(c);
    }
}

static void cut_clients(struct ingress_thread *t)
{
    list_each (it, &t->clients) {
        struct client *c = list_entry(it, struct client, link);
        if (c->state == CLIENT_WEBSOCKET)
            websocket_cut(c->ws);
        else if (c->state != CLIENT_DYING && c->exchange != NULL && !c->exchange->answered)
            http_abandon(c->exchange);
        else
            http_cut(c);
    }
}

/* true: it may wait in epoll, from where sink_wake() fetches it. false: something has come already. */
static bool may_wait(struct ingress_thread *t)
{
    pthread_mutex_lock(&t->wake_lock);
    t->waiting = t->posted_ns == 0;
    bool may = t->waiting;
    pthread_mutex_unlock(&t->wake_lock);
    return may;
}

/* What loop_gather() is to a reactor: h2o's loop has nothing like it. */
static void gather(struct ingress_thread *t)
{
    uint64_t streams = atomic_load(&t->in->n_websockets) / t->in->n_threads;
    uint64_t least_ns = (uint64_t)loop_gather_us(streams) * 1000, passed_ns = clock_mono_ns() - t->turn_ns;
    if (passed_ns < least_ns) {
        const struct timespec rest = {.tv_sec = 0, .tv_nsec = (long)(least_ns - passed_ns)};
        nanosleep(&rest, NULL); /* a signal cuts it short, which does not matter */
    }
}

static void one_turn(struct ingress_thread *t, uint32_t max_wait)
{
    /* A socket that was written to outside of h2o's run waits for its callback: epoll would not know. */
    bool pending = t->loop->_pending_as_client != NULL || t->loop->_pending_as_server != NULL;
    loop_outbox_flush(&t->up);
    if (!pending)
        gather(t);
    uint32_t wait = pending || !may_wait(t) ? 0 : timers_wait(&t->timers, clock_mono_ms(), max_wait);

    h2o_evloop_run(t->loop, (int32_t)wait);
    t->turn_ns = clock_mono_ns();
    t->now_ms = clock_mono_ms();
    take_down(t);
    auth_turn(t);
    timers_run(&t->timers, t->now_ms);
    client_watch(t);
    uint64_t too_big = 0;
    for (int i = 0; i < DOORS; i++)
        too_big += t->door[i].ctx.emitted_error_status[H2O_STATUS_ERROR_413];
    metric_add(ingress_metrics.refused[REFUSED_BODY], (int64_t)(too_big - t->too_big));
    t->too_big = too_big;
    websocket_flush(t);
}

static void bodies_limit(struct ingress_thread *t)
{
    t->door[DOOR_PUBLIC].config.max_request_entity_size = t->conf->ingress.max_body;
    t->door[DOOR_UPLOAD].config.max_request_entity_size = t->conf->ingress.upload.max_body;
}

static void take_configuration(struct ingress_thread *t)
{
    struct ingress *in = t->in;

    pthread_mutex_lock(&in->lock);
    struct conf *conf = t->next_conf;
    struct routes *routes = t->next_routes;
    SSL_CTX *tls = t->next_tls;
    t->next_conf = NULL;
    t->next_routes = NULL;
    t->next_tls = NULL;
    t->taken = atomic_load(&in->configured);
    pthread_mutex_unlock(&in->lock);
    if (conf != NULL) {
        conf_free(&t->conf);
        t->conf = conf;
        bodies_limit(t);
        proxy_list_set(&t->proxies, &conf->ingress.trusted_proxies);
    }
    if (routes != NULL) {
        routes_free(&t->routes);
        t->routes = routes;
    }
    if (tls != NULL) { /* connections hold what they were accepted with */
        SSL_CTX_free(t->tls);
        t->tls = tls;
    }
}

static void apply_orders(struct ingress_thread *t)
{
    struct ingress *in = t->in;

    if (t->taken != atomic_load(&in->configured))
        take_configuration(t);

    if (!t->paused && (atomic_load(&in->pause) || atomic_load(&in->stop))) {
        t->paused = true;
        listener_close(t, false);
        pthread_mutex_lock(&in->lock);
        in->n_paused++;
        pthread_cond_broadcast(&in->changed);
        pthread_mutex_unlock(&in->lock);
    }
    if (!t->stopping && atomic_load(&in->stop)) {
        listener_close(t, true);
        stop_clients(t);
        websocket_flush(t);
    }
}

static void *thread_main(void *arg)
{
    struct ingress_thread *t = arg;
    struct ingress *in = t->in;

    t->now_ms = clock_mono_ms();
    thread_open(t);
    pthread_mutex_lock(&in->lock);
    in->n_ready++;
    pthread_cond_broadcast(&in->changed);
    pthread_mutex_unlock(&in->lock);

    while (!t->stopping || (t->n_clients > 0 && t->now_ms < atomic_load(&in->deadline_ms))) {
        one_turn(t, t->stopping ? 50 : TURN_MAX_MS);
        apply_orders(t);
    }
    uint64_t until = t->now_ms + CUT_WAIT_MS;
    while (t->n_clients > 0 && t->now_ms < until) {
        cut_clients(t);
        websocket_flush(t);
        one_turn(t, 10);
    }
    pulse_turned(&t->pulse, 0);
    thread_close(t);
    loop_outbox_flush(&t->up);
    return NULL;
}

/* ------------------------------------------------------------ making */

static void door_make(struct door *d)
{
    h2o_config_init(&d->config);
    d->made = true;
    h2o_hostconf_t *host =
        h2o_config_register_host(&d->config, h2o_iovec_init(H2O_STRLIT("default")), 65535 /* any port */);
    h2o_pathconf_t *path = h2o_config_register_path(host, "/", 0);
    h2o_handler_t *handler = h2o_create_handler(path, sizeof(*handler));
    handler->on_req = http_handle;
    d->config.server_name = h2o_iovec_init("", 0);
    d->config.http1.upgrade_to_http2 = 0;
    /* A net below our own bounds: h2o's timers follow the wall clock. Fixed, while request_timeout may change. */
    d->config.http1.req_timeout = REQUEST_NET_MS;
}

static bool threads_make(struct ingress *in)
{
    in->thread = calloc(in->n_threads, sizeof(*in->thread));
    if (in->thread == NULL)
        return false;
    for (unsigned i = 0; i < in->n_threads; i++) {
        struct ingress_thread *t = &in->thread[i];
        t->in = in;
        t->index = i;
        t->conf = conf_ref(in->env.conf);
        t->routes = routes_ref(in->env.routes);
        for (int k = 0; k < DOORS; k++)
            door_make(&t->door[k]);
        bodies_limit(t);
        proxy_list_set(&t->proxies, &t->conf->ingress.trusted_proxies);
        list_init(&t->auth_waiters);
        list_init(&t->early);
        list_init(&t->clients);
        list_init(&t->unwatched);
        list_init(&t->dirty);
        pthread_mutex_init(&t->wake_lock, NULL);
        char name[16];
        snprintf(name, sizeof(name), "ingress_%u", i % 1000);
        pulse_init(&t->pulse, name, true);
        channel_sink_init(&t->sink, sink_wake);
        t->sink.up = &t->up;
        if (!timers_reserve(&t->timers, 64))
            return false;
    }
    return true;
}

static SSL_CTX *tls_share(SSL_CTX *tls)
{
    SSL_CTX_up_ref(tls);
    return tls;
}

static bool bind_all(struct ingress *in, char *err, size_t errlen)
{
    const struct conf *conf = in->env.conf;

    for (size_t i = 0; i < conf->ingress.address.n; i++)
        if (!listener_bind(in, DOOR_PUBLIC, conf->ingress.address.item[i], err, errlen))
            return false;
    for (size_t i = 0; i < conf->ingress.upload.address.n; i++)
        if (!listener_bind(in, DOOR_UPLOAD, conf->ingress.upload.address.item[i], err, errlen))
            return false;
    if (in->env.control_path != NULL && !listener_bind_control(in, in->env.control_path, err, errlen))
        return false;
    if (conf->ingress.tls_certificate != NULL || conf->ingress.tls_key != NULL) {
        SSL_CTX *tls = tls_new(conf->ingress.tls_certificate, conf->ingress.tls_key, err, errlen);
        for (unsigned i = 0; tls != NULL && i < in->n_threads; i++)
            in->thread[i].tls = tls_share(tls);
        in->tls = tls != NULL;
        SSL_CTX_free(tls);
        return in->tls;
    }
    return true;
}

/* The issuer's keys have come, or have not. */
static void on_keys(void *arg)
{
    wake_all(arg);
}

static void collect(void *arg, struct buf *out)
{
    struct ingress *in = arg;
    uint64_t evicted = limits_evicted(in->limits);

    (void)out;
    for (int i = 0; i < LIMITS_TABLES; i++)
        metric_set(ingress_metrics.limit_entries[i], (int64_t)limits_count(in->limits, (enum limits_table)i));
    metric_add(ingress_metrics.limit_evictions, (int64_t)(evicted - in->evicted));
    in->evicted = evicted;
}

struct ingress *ingress_new(const struct ingress_env *env, char *err, size_t errlen)
{
    omid_assert(env->conf != NULL && env->routes != NULL && env->n_loops > 0 && env->reactor_of != NULL);
    struct ingress *in = calloc(1, sizeof(*in));
    snprintf(err, errlen, "out of memory");
    if (in == NULL)
        return NULL;
    ingress_metrics_init();
    in->magic = INGRESS_MAGIC;
    in->env = *env;
    in->n_threads = env->conf->ingress.threads;
    pthread_mutex_init(&in->lock, NULL);
    pthread_cond_init(&in->changed, NULL);
    in->per_address = map_new();
    in->limits = limits_new(LIMITS_ENTRIES);
    if (in->per_address == NULL || in->limits == NULL || !threads_make(in) || !bind_all(in, err, errlen)) {
        ingress_free(&in);
        return NULL;
    }
    in->env.conf = NULL; /* from here on each thread's own */
    in->env.routes = NULL;
    metrics_collector_add(collect, in);
    in->collecting = true;
    if (in->env.jwks != NULL)
        jwks_watch(in->env.jwks, on_keys, in);
    err[0] = '\0';
    return in;
}

bool ingress_start(struct ingress *in)
{
    CHECK_MAGIC(in, INGRESS_MAGIC);
    for (unsigned i = 0; i < in->n_threads; i++) {
        char name[16];
        snprintf(name, sizeof(name), "ingress_%u", i % 1000);
        in->thread[i].started = thread_start(&in->thread[i].thread, name, thread_main, &in->thread[i]);
        if (!in->thread[i].started) {
            int saved = errno;
            ingress_stop(in, 0);
            errno = saved;
            return false;
        }
    }
    pthread_mutex_lock(&in->lock);
    while (in->n_ready < in->n_threads)
        pthread_cond_wait(&in->changed, &in->lock);
    pthread_mutex_unlock(&in->lock);
    for (size_t i = 0; i < in->n_addresses; i++)
        log_notice("ingress", "listening", LS("address", in->address[i].text), LB("tls", in->tls),
                   LU("threads", in->n_threads));
    return true;
}

const char *ingress_address(const struct ingress *in, size_t i)
{
    CHECK_MAGIC(in, INGRESS_MAGIC);
    return i < in->n_addresses ? in->address[i].text : NULL;
}

bool ingress_address_uploads(const struct ingress *in, size_t i)
{
    CHECK_MAGIC(in, INGRESS_MAGIC);
    return i < in->n_addresses && in->address[i].door == DOOR_UPLOAD;
}

/* ------------------------------------------------------------ ending */

bool ingress_tls_read(const struct ingress *in, const struct conf *conf, struct ssl_ctx_st **tls, char *err,
                      size_t errlen)
{
    CHECK_MAGIC(in, INGRESS_MAGIC);
    *tls = in->tls ? tls_new(conf->ingress.tls_certificate, conf->ingress.tls_key, err, errlen) : NULL;
    return *tls != NULL || !in->tls;
}

void ingress_tls_free(struct ssl_ctx_st **tls)
{
    SSL_CTX_free(*tls);
    *tls = NULL;
}

void ingress_configure(struct ingress *in, const struct conf *conf, const struct routes *routes, struct ssl_ctx_st *tls)
{
    CHECK_MAGIC(in, INGRESS_MAGIC);
    pthread_mutex_lock(&in->lock);
    for (unsigned i = 0; i < in->n_threads; i++) {
        struct ingress_thread *t = &in->thread[i];
        conf_free(&t->next_conf);
        routes_free(&t->next_routes);
        t->next_conf = conf_ref(conf);
        t->next_routes = routes_ref(routes);
        SSL_CTX_free(t->next_tls);
        t->next_tls = tls != NULL ? tls_share(tls) : NULL;
    }
    atomic_fetch_add(&in->configured, 1);
    pthread_mutex_unlock(&in->lock);
    wake_all(in);
}

const struct pulse *ingress_pulse(const struct ingress *in, unsigned i)
{
    CHECK_MAGIC(in, INGRESS_MAGIC);
    return i < in->n_threads ? &in->thread[i].pulse : NULL;
}

void ingress_pause(struct ingress *in)
{
    CHECK_MAGIC(in, INGRESS_MAGIC);
    unsigned running = 0;

    atomic_store(&in->pause, true);
    wake_all(in);
    for (unsigned i = 0; i < in->n_threads; i++)
        running += in->thread[i].started ? 1 : 0;
    pthread_mutex_lock(&in->lock);
    while (in->n_paused < running)
        pthread_cond_wait(&in->changed, &in->lock);
    pthread_mutex_unlock(&in->lock);
}

void ingress_stop(struct ingress *in, uint64_t deadline_ms)
{
    CHECK_MAGIC(in, INGRESS_MAGIC);
    atomic_store(&in->deadline_ms, deadline_ms);
    atomic_store(&in->stop, true);
    wake_all(in);
    for (unsigned i = 0; i < in->n_threads; i++) {
        if (!in->thread[i].started)
            continue;
        pthread_join(in->thread[i].thread, NULL);
        in->thread[i].started = false;
    }
    if (in->control_path != NULL)
        unlink(in->control_path);
}

static void thread_free(struct ingress_thread *t)
{
    omid_assert(!t->started);
    struct channel_down *d = channel_sink_take(&t->sink);
    while (d != NULL) {
        struct channel_down *next = d->next;
        channel_down_free(d);
        d = next;
    }
    for (size_t i = 0; i < t->n_listeners; i++)
        if (t->listener[i].fd >= 0)
            close(t->listener[i].fd);
    for (int i = 0; i < DOORS; i++)
        if (t->door[i].made)
            h2o_config_dispose(&t->door[i].config);
    conf_free(&t->conf);
    conf_free(&t->next_conf);
    routes_free(&t->routes);
    routes_free(&t->next_routes);
    SSL_CTX_free(t->tls);
    SSL_CTX_free(t->next_tls);
    pulse_end(&t->pulse);
    jwt_keys_free(&t->keys);
    timers_free(&t->timers);
    pthread_mutex_destroy(&t->sink.lock);
    pthread_mutex_destroy(&t->wake_lock);
}

void ingress_free(struct ingress **inp)
{
    struct ingress *in = *inp;
    *inp = NULL;
    if (in == NULL)
        return;
    CHECK_MAGIC(in, INGRESS_MAGIC);
    if (in->collecting)
        metrics_collector_remove(collect, in);
    for (unsigned i = 0; in->thread != NULL && i < in->n_threads; i++)
        thread_free(&in->thread[i]);
    if (in->control_path != NULL)
        unlink(in->control_path);
    free(in->control_path);
    free(in->thread);
    map_free(&in->per_address);
    limits_free(&in->limits);
    pthread_mutex_destroy(&in->lock);
    pthread_cond_destroy(&in->changed);
    in->magic = OMID_MAGIC_DEAD;
    free(in);
}

void ingress_status(struct ingress *in, struct json_w *w)
{
    CHECK_MAGIC(in, INGRESS_MAGIC);
    json_w_open(w, '{');
    json_w_kint(w, "connections", atomic_load(&in->n_connections));
    json_w_kint(w, "websockets", atomic_load(&in->n_websockets));
    json_w_kint(w, "unauthenticated", limits_strangers(in->limits));
    json_w_kbool(w, "tls", in->tls);
    json_w_kint(w, "threads", in->n_threads);
    json_w_kbool(w, "paused", atomic_load(&in->pause));
    json_w_key(w, "addresses");
    json_w_open(w, '[');
    for (size_t i = 0; i < in->n_addresses; i++)
        json_w_str(w, in->address[i].text);
    json_w_close(w, ']');
    json_w_close(w, '}');
}
