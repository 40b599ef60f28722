#include "host_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "lane/http/lane.h"

/* ------------------------------------------------------------ what was seen */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct seen {
    char name[32], json[64];
} seen[4096];
static unsigned n_seen;

static void on_event(void *arg, const struct omid_event *ev)
{
    (void)arg;
    pthread_mutex_lock(&lock);
    if (n_seen < sizeof(seen) / sizeof(seen[0])) {
        struct seen *s = &seen[n_seen++];
        snprintf(s->name, sizeof(s->name), "%s", ev->name);
        snprintf(s->json, sizeof(s->json), "%s", ev->json != NULL ? ev->json : "");
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static unsigned count_locked(const char *name, const char *json)
{
    unsigned n = 0;
    for (unsigned i = 0; i < n_seen; i++)
        n += strcmp(seen[i].name, name) == 0 && (json == NULL || strcmp(seen[i].json, json) == 0);
    return n;
}

unsigned rig_seen_count(const char *name, const char *json)
{
    pthread_mutex_lock(&lock);
    unsigned n = count_locked(name, json);
    pthread_mutex_unlock(&lock);
    return n;
}

static struct timespec deadline(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_sec += RIG_WAIT_MS / 1000;
    return ts;
}

bool rig_seen(const char *name, const char *json)
{
    struct timespec ts = deadline();
    pthread_mutex_lock(&lock);
    bool found;
    while (!(found = count_locked(name, json) > 0) && pthread_cond_timedwait(&changed, &lock, &ts) == 0) {
    }
    pthread_mutex_unlock(&lock);
    return found;
}

void rig_forget(void)
{
    pthread_mutex_lock(&lock);
    n_seen = 0;
    pthread_mutex_unlock(&lock);
}

bool rig_wait(bool (*cond)(void *arg), void *arg)
{
    uint64_t until = clock_mono_ms() + RIG_WAIT_MS;
    while (!cond(arg)) {
        if (clock_mono_ms() > until)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return true;
}

/* ------------------------------------------------------------ the rig */

static struct conf *load(struct rig *r, const char *text)
{
    char whole[4096];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(whole, sizeof(whole), text, TEST_PLUGINS, TEST_PLUGINS, TEST_PLUGINS);
#pragma GCC diagnostic pop
    const struct conf_source source = loader_source(r->loader);
    return conf_load_text(whole, "test.conf", &source, &r->faults);
}

struct host_change *rig_change(struct rig *r, const char *text)
{
    struct conf *next = load(r, text);
    struct host_change *c = next != NULL ? host_change_prepare(r->host, next, &r->faults) : NULL;
    if (next == NULL) {
        loader_clear(r->loader);
    } else if (c == NULL) {
        conf_free(&next);
    } else {
        conf_free(&r->conf); /* modules that stay hold what they need of it */
        r->conf = next;
    }
    return c;
}

bool rig_reload(struct rig *r, const char *text)
{
    struct host_change *c = rig_change(r, text);
    if (c != NULL)
        r->counts = host_change_commit(&c, 1000);
    return c != NULL || r->faults.errors == 0;
}

bool rig_reaped(void *arg)
{
    return host_reap(((struct rig *)arg)->host) == 0;
}

static void takes_part(void *arg, unsigned reactor, struct omid_instance *inst, bool begins)
{
    struct rig *r = arg;
    (void)inst;
    (void)reactor;
    atomic_fetch_add(begins ? &r->begins : &r->ends, 1);
}

static int publish(void *arg, unsigned reactor, const struct omid_event *ev)
{
    struct rig *r = arg;
    return bus_publish_later(r->bus[reactor], ev);
}

bool rig_configure(struct rig *r, unsigned reactors, const char *text)
{
    memset(r, 0, sizeof(*r));
    rig_forget();
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    r->n = reactors;
    r->loader = loader_new();
    r->conf = load(r, text);
    if (r->conf == NULL)
        return false;
    for (unsigned i = 0; i < r->n; i++) {
        char name[16];
        snprintf(name, sizeof(name), "reactor_%u", i % 10);
        r->loop[i] = loop_new(name);
    }
    const struct exec_config exec = {.threads = {1, 1, 2}, .queue = 64};
    r->exec = exec_new(&exec);
    const struct host_env env = {
        .conf = r->conf,
        .loader = r->loader,
        .loops = r->loop,
        .n_loops = r->n,
        .lanes = (struct lanes *)1,
        .exec = r->exec,
        .queue = (struct queue *)1,
        .services =
            {
                .arg = r,
                .publish = publish,
                .respond = plugin_respond,
                .respond_with = plugin_respond_with,
                .respond_begin = plugin_respond_begin,
                .respond_data = plugin_respond_data,
                .respond_end = plugin_respond_end,
                .conn_send = plugin_conn_send,
                .conn_close = plugin_conn_close,
                .takes_part = takes_part,
            },
    };
    r->host = host_new(&env);
    bool ok = host_configure(r->host, &r->faults);
    for (unsigned i = 0; i < r->n; i++) {
        r->bus[i] = bus_new(r->loop[i], r->host, i);
        bus_listen(r->bus[i], OMID_EVENT_MASK(OMID_EVENT_CUSTOM), on_event, r);
    }
    return ok;
}

bool rig_start(struct rig *r)
{
    for (unsigned i = 0; i < r->n; i++) {
        if (!loop_start(r->loop[i]))
            return false;
    }
    return host_start(r->host);
}

void rig_stop(struct rig *r)
{
    host_drain(r->host, clock_mono_ms() + 500);
    CU_ASSERT_TRUE(host_stop(r->host));
}

void rig_free(struct rig *r)
{
    if (r->exec != NULL)
        exec_stop(r->exec, clock_mono_ms() + 200);
    for (unsigned i = 0; i < r->n && r->loop[i] != NULL; i++)
        loop_stop(r->loop[i]);
    if (r->host != NULL)
        host_free(&r->host);
    for (unsigned i = 0; i < r->n; i++) {
        bus_free(&r->bus[i]);
        if (r->loop[i] != NULL)
            loop_free(&r->loop[i]);
    }
    exec_free(&r->exec);
    if (r->conf != NULL)
        conf_free(&r->conf);
    conf_faults_free(&r->faults);
    loader_free(&r->loader);
}

struct on {
    struct loop_msg msg;
    void (*fn)(void *arg);
    void *arg;
    bool done;
};

static void on_run(struct loop *l, struct loop_msg *msg)
{
    (void)l;
    struct on *on = container_of(msg, struct on, msg);
    on->fn(on->arg);
    pthread_mutex_lock(&lock);
    on->done = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

void rig_on(struct rig *r, unsigned reactor, void (*fn)(void *arg), void *arg)
{
    struct on on = {.msg.fn = on_run, .fn = fn, .arg = arg};
    loop_post(r->loop[reactor], &on.msg);
    pthread_mutex_lock(&lock);
    while (!on.done)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

struct event_arg {
    struct bus *bus;
    const char *name;
};

static void publish_now(void *arg)
{
    struct event_arg *a = arg;
    const struct omid_event ev = {.size = sizeof(ev), .type = OMID_EVENT_CUSTOM, .uid = "u", .name = a->name};
    bus_publish(a->bus, &ev);
}

void rig_event(struct rig *r, unsigned reactor, const char *name)
{
    struct event_arg a = {r->bus[reactor], name};
    rig_on(r, reactor, publish_now, &a);
}

/* ------------------------------------------------------------ status */

const char *rig_status(struct rig *r, const char *plugin, const char *key)
{
    static char out[256];
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    host_status(r->host, &w);
    CU_ASSERT_TRUE_FATAL(json_w_end(&w));
    char err[64];
    yajl_val v = json_parse(b.data, b.len, 0, err, sizeof(err));
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    out[0] = '\0';
    for (size_t i = 0; i < json_len(v); i++) {
        yajl_val p = json_at(v, i);
        if (strcmp(json_str(p, "name"), plugin) != 0)
            continue;
        if (strncmp(key, "in_flight.", 10) == 0) {
            p = json_object(p, "in_flight");
            key += 10;
        }
        yajl_val m = json_get(p, key);
        if (YAJL_IS_STRING(m))
            snprintf(out, sizeof(out), "%s", YAJL_GET_STRING(m));
        else if (YAJL_IS_NUMBER(m))
            snprintf(out, sizeof(out), "%s", YAJL_GET_NUMBER(m));
    }
    json_free(&v);
    buf_free(&b);
    return out;
}

long rig_status_int(struct rig *r, const char *plugin, const char *key)
{
    return strtol(rig_status(r, plugin, key), NULL, 10);
}

/* ------------------------------------------------------------ fake lane */

_Atomic int fake_http, fake_queue, fake_requests, fake_sockets, fake_lanes, fake_enqueues;

struct lane {
    atomic_int owners;
};
_Atomic int fake_configured;

struct lane_http {
    struct loop_msg msg;
    omid_http_cb cb;
    void *arg;
    bool posted, cancelled;
};

struct lane_ws {
    int unused;
};

struct lane *lane_new(struct lanes *ls, const char *name, const struct conf_lane *config)
{
    (void)ls;
    (void)name;
    (void)config;
    fake_lanes++;
    struct lane *l = calloc(1, sizeof(*l));
    l->owners = 1;
    return l;
}

struct lane *lane_share(struct lane *l)
{
    l->owners++;
    return l;
}

void lane_configure(struct lane *l, const struct conf_lane *config)
{
    (void)l;
    fake_configured = (int)config->semaphore;
}

void lane_release(struct lane **l)
{
    if (--(*l)->owners == 0) {
        fake_lanes--;
        free(*l);
    }
    *l = NULL;
}

static void http_free(struct lane_http *h)
{
    fake_requests--;
    free(h);
}

static void on_http(struct loop *l, struct loop_msg *msg)
{
    (void)l;
    struct lane_http *h = container_of(msg, struct lane_http, msg);
    const struct omid_http_response res = {.size = sizeof(res), .status = 204, .error_text = "", .body = ""};
    if (!h->cancelled)
        h->cb(h->arg, &res);
    http_free(h);
}

int lane_http_start(struct lane *l, struct loop *loop, const struct omid_http_request *req, omid_http_cb cb, void *arg,
                    struct lane_http **out)
{
    (void)l;
    (void)req;
    struct lane_http *h = calloc(1, sizeof(*h));
    fake_requests++;
    h->msg.fn = on_http;
    h->cb = cb;
    h->arg = arg;
    *out = h;
    if (fake_http == FAKE_ANSWERS) {
        h->posted = true;
        loop_post(loop, &h->msg);
    }
    return OMID_OK;
}

void lane_http_cancel(struct lane_http **hp)
{
    struct lane_http *h = *hp;
    *hp = NULL;
    h->cancelled = true;
    if (!h->posted)
        http_free(h);
}

int lane_ws_connect(struct lane *l, struct loop *loop, const struct omid_ws_request *req,
                    const struct lane_ws_events *events, void *arg, struct lane_ws **out)
{
    (void)l;
    (void)loop;
    (void)req;
    (void)events;
    (void)arg;
    fake_sockets++;
    *out = calloc(1, sizeof(struct lane_ws));
    return OMID_OK;
}

int lane_ws_send(struct lane_ws *ws, enum omid_message type, const void *data, size_t len)
{
    (void)ws;
    (void)type;
    (void)data;
    (void)len;
    return OMID_OK;
}

void lane_ws_close(struct lane_ws *ws, uint16_t code)
{
    (void)ws;
    (void)code;
}

void lane_ws_release(struct lane_ws **ws)
{
    fake_sockets--;
    free(*ws);
    *ws = NULL;
}

/* ------------------------------------------------------------ fake queue */

struct held {
    struct loop_msg msg;
    struct list link;
    struct loop *loop;
    omid_enqueued_cb cb;
    void *arg;
};
static struct list held_list = {&held_list, &held_list};

static void on_held(struct loop *l, struct loop_msg *msg)
{
    (void)l;
    struct held *h = container_of(msg, struct held, msg);
    h->cb(h->arg, OMID_OK, 42);
    free(h);
}

int queue_enqueue(struct queue *q, const char *owner, const struct omid_job *job, struct loop *loop,
                  omid_enqueued_cb cb, void *arg)
{
    (void)q;
    (void)owner;
    (void)job;
    struct held *h = calloc(1, sizeof(*h));
    h->msg.fn = on_held;
    h->loop = loop;
    h->cb = cb;
    h->arg = arg;
    list_init(&h->link);
    if (fake_queue == FAKE_ANSWERS) {
        loop_post(loop, &h->msg);
        return OMID_OK;
    }
    pthread_mutex_lock(&lock);
    list_append(&held_list, &h->link);
    fake_enqueues++;
    pthread_mutex_unlock(&lock);
    return OMID_OK;
}

_Atomic int fake_batch_jobs, fake_batch_ordered, fake_batch_rate;

struct held_batch {
    struct loop_msg msg;
    omid_jobs_enqueued_cb cb;
    void *arg;
    bool repeated;
};

static void on_held_batch(struct loop *l, struct loop_msg *msg)
{
    (void)l;
    struct held_batch *h = container_of(msg, struct held_batch, msg);
    h->cb(h->arg, OMID_OK, h->repeated, h->repeated ? "kept" : "");
    free(h);
}

int queue_enqueue_all(struct queue *q, const char *owner, const struct omid_job *jobs, size_t n,
                      const struct omid_receipt *receipt, struct loop *loop, omid_jobs_enqueued_cb cb, void *arg)
{
    (void)q;
    (void)owner;
    struct held_batch *h = calloc(1, sizeof(*h));
    h->msg.fn = on_held_batch;
    h->cb = cb;
    h->arg = arg;
    h->repeated = receipt != NULL;
    fake_batch_jobs = (int)n;
    fake_batch_ordered = jobs[n - 1].ordered;
    fake_batch_rate = (int)jobs[n - 1].rate_per_min;
    loop_post(loop, &h->msg);
    return OMID_OK;
}

uint32_t queue_retry_after_s(struct queue *q)
{
    (void)q;
    return 17;
}

void queue_attempt(struct queue_claim *c, const struct omid_attempt *attempt)
{
    c->status = attempt->status;
}

void fake_queue_release(void)
{
    pthread_mutex_lock(&lock);
    for (struct list *it; (it = list_pop(&held_list)) != NULL;) {
        struct held *h = list_entry(it, struct held, link);
        fake_enqueues--;
        loop_post(h->loop, &h->msg);
    }
    pthread_mutex_unlock(&lock);
}

const char *queue_claim_owner(const struct queue_claim *c)
{
    return c->owner;
}

const struct omid_job_view *queue_claim_view(const struct queue_claim *c)
{
    return &c->view;
}

void queue_finish(struct queue_claim **cp, enum omid_job_outcome outcome, uint32_t retry_after_s, const char *error)
{
    struct queue_claim *c = *cp;
    *cp = NULL;
    c->outcome = outcome;
    c->retry_after_s = retry_after_s;
    snprintf(c->error, sizeof(c->error), "%s", error != NULL ? error : "");
    c->finished++;
}

void fake_claim(struct queue_claim *c, const char *owner, const char *type, const char *target)
{
    memset(c, 0, sizeof(*c));
    c->owner = owner;
    c->view = (struct omid_job_view){
        .size = sizeof(c->view), .id = 7, .type = type, .name = "", .target = target, .payload = "", .attempt = 1};
}
