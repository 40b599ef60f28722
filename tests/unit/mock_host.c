/* A host for the unit tests of plugins: see mock_host.h. */
#include "mock_host.h"

#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mock_doors.h"

#define MAX_KEYS 64
#define MAX_LIST 128
#define MAX_COUNTERS 64
#define MAX_INSTANCES 4
#define MAX_RECORDS 4096

/* A test that goes on after this would say nothing. */
#define must(expr) ((expr) ? (void)0 : mock_die(#expr, __LINE__))
static _Noreturn void mock_die(const char *expr, int line)
{
    fprintf(stderr, "mock host: %s does not hold (line %d)\n", expr, line);
    abort();
}

struct omid_module {
    struct mock *m;
};
struct omid_instance {
    struct mock *m;
    unsigned number, drained;
    bool stopped;
    void *state;
};
struct omid_timer {
    struct mock *m;
    struct omid_timer *next;
    uint64_t due, repeat;
    void (*fn)(void *arg);
    void *arg;
    bool dead;
};
struct omid_http {
    struct mock_http pub;
    struct mock *m;
    omid_http_cb cb;
    void *arg;
};
struct work {
    struct mock *m;
    struct work *next;
    struct omid_work w;
    pthread_t thread;
    bool threaded;
};
struct job {
    struct mock_job pub;
    omid_enqueued_cb cb;
    void *arg;
};
struct batch {
    struct mock_batch pub;
    omid_jobs_enqueued_cb cb;
    void *arg;
};
struct omid_job_run {
    struct omid_job_run *next;
    bool finished;
    struct mock_attempt attempt;
    enum omid_job_outcome outcome;
    uint32_t after_s;
    char error[256];
};
struct omid_counter {
    char what[64], value[64];
    uint64_t n; /* atomic */
};
struct value {
    const struct omid_option *opt;
    char *text;
    char *items[MAX_LIST];
    size_t n;
};
struct publication {
    struct omid_event ev;
    char *uid, *json;
    char name[256], id[64], session[64], conversation[64];
};

#define MAX_ENDPOINTS 64
struct place {
    char uid[129];
    struct omid_endpoint e;
};
struct snapshot {
    struct omid_endpoints pub;
    struct mock *m;
    struct omid_endpoint e[MAX_ENDPOINTS];
    const struct omid_endpoint *at[MAX_ENDPOINTS];
};

struct mock {
    const struct omid_plugin *plugin;
    struct omid_module mod;
    void *shared;
    bool configured;
    pthread_t thread;
    uint64_t now;
    struct value values[MAX_KEYS];
    size_t n_values;
    unsigned conf_errors;
    char error_key[64], error_text[512];
    struct omid_instance inst[MAX_INSTANCES];
    unsigned n_inst;
    struct omid_timer *timers;
    enum mock_exec exec;
    pthread_mutex_t lock; /* over the lists of work, running and peak */
    pthread_cond_t wake;
    struct work *held, *finished;
    unsigned n_held, running, peak;
    struct omid_http *http[MAX_RECORDS];
    size_t n_http;
    int http_rc, job_rc;
    bool no_timers;
    struct job *jobs[MAX_RECORDS];
    size_t n_jobs;
    struct batch batches[MAX_RECORDS];
    size_t n_batches;
    uint32_t retry_after;
    struct omid_job_run *runs;
    struct publication pubs[64];
    size_t n_pubs;
    struct place places[MAX_ENDPOINTS];
    size_t n_places;
    unsigned snapshots; /* not released */
    struct mock_report reports[MAX_RECORDS];
    size_t n_reports;
    struct omid_counter counters[MAX_COUNTERS];
    size_t n_counters;
    unsigned logged[OMID_LOG_DEBUG + 1];
    char last_log[512];
    char data_dir[64]; /* "": not asked for yet */
};

static struct mock *the_mock;

static void check_thread(const struct mock *m)
{
    must(pthread_equal(pthread_self(), m->thread));
}

static void check_instance(const struct omid_instance *inst)
{
    check_thread(inst->m);
    must(!inst->stopped);
}

/* --- any thread --- */

static void h_log(struct omid_module *mod, enum omid_log_level level, const char *fmt, ...)
{
    must(mod != NULL);
    struct mock *m = mod->m;
    va_list ap;
    va_start(ap, fmt);
    pthread_mutex_lock(&m->lock);
    m->logged[level]++;
    vsnprintf(m->last_log, sizeof(m->last_log), fmt, ap);
    if (getenv("MOCK_LOG") != NULL)
        fprintf(stderr, "log %d: %s\n", level, m->last_log);
    pthread_mutex_unlock(&m->lock);
    va_end(ap);
}

static uint64_t h_now_ms(void)
{
    return the_mock->now;
}

static int64_t h_wall_ms(void)
{
    return INT64_C(1700000000000) + (int64_t)the_mock->now;
}

static void h_uuid4(char out[37])
{
    static unsigned n;
    snprintf(out, 37, "00000000-0000-4000-8000-%012x", ++n);
}

static void h_counter_add(struct omid_counter *counter, uint64_t n)
{
    must(counter != NULL);
    __atomic_fetch_add(&counter->n, n, __ATOMIC_RELAXED);
}

/* --- configuration --- */

static struct value *value_of(struct mock *m, const char *key)
{
    for (size_t i = 0; i < m->n_values; i++) {
        if (strcmp(m->values[i].opt->name, key) == 0)
            return &m->values[i];
    }
    mock_die("an option of this name", __LINE__);
}

static bool h_conf_bool(struct omid_module *mod, const char *key)
{
    const struct value *v = value_of(mod->m, key);
    must(v->opt->type == OMID_OPT_BOOL);
    return strcmp(v->text, "true") == 0 || strcmp(v->text, "yes") == 0 || strcmp(v->text, "on") == 0;
}

static int64_t h_conf_int(struct omid_module *mod, const char *key)
{
    static const struct {
        const char *unit;
        double factor;
    } units[] = {{"ms", 1}, {"s", 1000},   {"min", 60000},     {"h", 3600000},       {"", 1},
                 {"B", 1},  {"KiB", 1024}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}};
    const struct value *v = value_of(mod->m, key);
    must(v->opt->type == OMID_OPT_INT || v->opt->type == OMID_OPT_DURATION || v->opt->type == OMID_OPT_SIZE);
    must(v->text != NULL);
    char *rest;
    double d = strtod(v->text, &rest);
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(units[i].unit, rest) != 0)
            continue;
        d *= units[i].factor;
        must((v->opt->min == 0 && v->opt->max == 0) || (d >= v->opt->min && d <= v->opt->max));
        return (int64_t)d;
    }
    mock_die("a known unit", __LINE__);
}

static double h_conf_float(struct omid_module *mod, const char *key)
{
    const struct value *v = value_of(mod->m, key);
    must(v->opt->type == OMID_OPT_FLOAT);
    return strtod(v->text, NULL);
}

static const char *h_conf_str(struct omid_module *mod, const char *key)
{
    const struct value *v = value_of(mod->m, key);
    must(v->opt->type == OMID_OPT_STRING || v->opt->type == OMID_OPT_ENUM || v->opt->type == OMID_OPT_SECRET);
    return v->text;
}

static const char *const *h_conf_list(struct omid_module *mod, const char *key, size_t *n)
{
    struct value *v = value_of(mod->m, key);
    must(v->opt->type == OMID_OPT_LIST);
    *n = v->n;
    return (const char *const *)v->items;
}

static void h_conf_error(struct omid_module *mod, const char *key, const char *fmt, ...)
{
    struct mock *m = mod->m;
    va_list ap;
    va_start(ap, fmt);
    m->conf_errors++;
    snprintf(m->error_key, sizeof(m->error_key), "%s", key);
    vsnprintf(m->error_text, sizeof(m->error_text), fmt, ap);
    va_end(ap);
    value_of(m, key);
}

static int h_route_add(struct omid_module *mod, const struct omid_route *route)
{
    check_thread(mod->m);
    return route != NULL ? mock_door_route(route) : OMID_EINVAL;
}

static struct omid_counter *h_counter(struct omid_module *mod, const char *what, const char *help, const char *label,
                                      const char *value)
{
    struct mock *m = mod->m;
    must(help != NULL && (label == NULL) == (value == NULL));
    must(m->n_counters < MAX_COUNTERS);
    struct omid_counter *c = &m->counters[m->n_counters++];
    snprintf(c->what, sizeof(c->what), "%s", what);
    snprintf(c->value, sizeof(c->value), "%s", value != NULL ? value : "");
    return c;
}

static const char *h_data_dir(struct omid_module *mod)
{
    return mock_data_dir(mod->m);
}

/* --- reactor --- */

static struct omid_module *h_module(struct omid_instance *inst)
{
    return &inst->m->mod;
}

static unsigned h_reactor(struct omid_instance *inst, unsigned *reactors)
{
    if (reactors != NULL)
        *reactors = inst->m->n_inst;
    return inst->number;
}

static struct omid_timer *h_timer_start(struct omid_instance *inst, uint32_t delay_ms, uint32_t repeat_ms,
                                        void (*fn)(void *arg), void *arg)
{
    check_instance(inst);
    if (inst->m->no_timers)
        return NULL;
    struct omid_timer *t = calloc(1, sizeof(*t));
    must(t != NULL && fn != NULL);
    *t = (struct omid_timer){.m = inst->m, .due = inst->m->now + delay_ms, .repeat = repeat_ms, .fn = fn, .arg = arg};
    t->next = inst->m->timers;
    inst->m->timers = t;
    return t;
}

static void h_timer_stop(struct omid_timer **timer)
{
    must(timer != NULL && *timer != NULL && !(*timer)->dead);
    check_thread((*timer)->m);
    (*timer)->dead = true; /* freed by the next walk: it may be the one that fires */
    *timer = NULL;
}

static void timers_sweep(struct mock *m)
{
    for (struct omid_timer **at = &m->timers; *at != NULL;) {
        struct omid_timer *t = *at;
        if (t->dead) {
            *at = t->next;
            free(t);
        } else {
            at = &t->next;
        }
    }
}

static int h_http_start(struct omid_instance *inst, const struct omid_http_request *req, omid_http_cb cb, void *arg,
                        struct omid_http **out)
{
    check_instance(inst);
    struct mock *m = inst->m;
    must(req->size == sizeof(*req) && req->method != NULL && req->url != NULL && cb != NULL);
    if (m->http_rc != OMID_OK)
        return m->http_rc;
    must(m->n_http < MAX_RECORDS);
    struct omid_http *h = calloc(1, sizeof(*h));
    must(h != NULL);
    h->m = m;
    h->cb = cb;
    h->arg = arg;
    h->pub.method = strdup(req->method);
    h->pub.url = strdup(req->url);
    h->pub.latest_key = strdup(req->latest_key != NULL ? req->latest_key : "");
    size_t len = 1;
    for (size_t i = 0; req->headers != NULL && req->headers[i] != NULL; i++)
        len += strlen(req->headers[i]) + 1;
    h->pub.headers = calloc(len, 1);
    for (size_t i = 0; req->headers != NULL && req->headers[i] != NULL; i++) {
        strcat(h->pub.headers, req->headers[i]);
        strcat(h->pub.headers, "\n");
    }
    h->pub.aws_sigv4 = strdup(req->aws_sigv4 != NULL ? req->aws_sigv4 : "");
    must(req->aws_sigv4 == NULL || (req->aws_key_id != NULL && req->aws_secret != NULL));
    h->pub.body = calloc(req->body_len + 1, 1);
    if (req->body_len > 0)
        memcpy(h->pub.body, req->body, req->body_len);
    h->pub.body_len = req->body_len;
    h->pub.open = true;
    m->http[m->n_http++] = h;
    if (out != NULL)
        *out = h;
    return OMID_OK;
}

static void h_http_cancel(struct omid_http **http)
{
    must(http != NULL && *http != NULL && (*http)->pub.open);
    check_thread((*http)->m);
    (*http)->pub.open = false;
    *http = NULL;
}

static void *work_thread(void *arg)
{
    struct work *w = arg;
    struct mock *m = w->m;
    w->w.run(w->w.arg);
    pthread_mutex_lock(&m->lock);
    m->running--;
    w->next = m->finished;
    m->finished = w;
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

static int h_exec_submit(struct omid_instance *inst, const struct omid_work *work)
{
    check_instance(inst);
    struct mock *m = inst->m;
    must(work->size == sizeof(*work) && work->label != NULL && work->run != NULL && work->done != NULL);
    if (m->exec == MOCK_EXEC_FULL)
        return OMID_EFULL;
    if (m->exec == MOCK_EXEC_CLOSED)
        return OMID_ECLOSED;
    struct work *w = calloc(1, sizeof(*w));
    must(w != NULL);
    w->m = m;
    w->w = *work;
    pthread_mutex_lock(&m->lock);
    if (m->exec == MOCK_EXEC_THREADS) {
        w->threaded = true;
        if (++m->running > m->peak)
            m->peak = m->running;
        must(pthread_create(&w->thread, NULL, work_thread, w) == 0);
    } else {
        struct work **at = &m->held;
        while (*at != NULL)
            at = &(*at)->next;
        *at = w;
        m->n_held++;
    }
    pthread_mutex_unlock(&m->lock);
    return OMID_OK;
}

static struct job *job_keep(struct mock *m, const struct omid_job *job)
{
    must(job->size == sizeof(*job) && job->type != NULL && job->payload_len <= (32u << 20) + 4096);
    must(m->n_jobs < MAX_RECORDS);
    struct job *j = calloc(1, sizeof(*j));
    must(j != NULL);
    j->pub.type = strdup(job->type);
    j->pub.name = strdup(job->name != NULL ? job->name : "");
    j->pub.target = strdup(job->target != NULL ? job->target : "");
    j->pub.payload = calloc(job->payload_len + 1, 1);
    if (job->payload_len > 0)
        memcpy(j->pub.payload, job->payload, job->payload_len);
    j->pub.payload_len = job->payload_len;
    j->pub.ordered = job->ordered;
    j->pub.rate_per_min = job->rate_per_min;
    j->pub.open = true;
    m->jobs[m->n_jobs++] = j;
    return j;
}

static int h_job_enqueue(struct omid_instance *inst, const struct omid_job *job, omid_enqueued_cb cb, void *arg)
{
    check_instance(inst);
    struct mock *m = inst->m;
    if (m->job_rc != OMID_OK)
        return m->job_rc;
    struct job *j = job_keep(m, job);
    j->cb = cb;
    j->arg = arg;
    return OMID_OK;
}

static int h_jobs_enqueue(struct omid_instance *inst, const struct omid_job *jobs, size_t n,
                          const struct omid_receipt *receipt, omid_jobs_enqueued_cb cb, void *arg)
{
    check_instance(inst);
    struct mock *m = inst->m;
    must((n > 0 || receipt != NULL) && n <= 10000 && m->n_batches < MAX_RECORDS);
    if (m->job_rc != OMID_OK)
        return m->job_rc;
    struct batch *b = &m->batches[m->n_batches++];
    *b = (struct batch){.pub = {.first = m->n_jobs, .n = n, .open = true}, .cb = cb, .arg = arg};
    if (receipt != NULL) {
        must(receipt->key != NULL && receipt->key[0] != '\0' && strlen(receipt->key) <= 512);
        must(receipt->value == NULL || strlen(receipt->value) <= 4096);
        b->pub.key = strdup(receipt->key);
        b->pub.value = strdup(receipt->value != NULL ? receipt->value : "");
    }
    for (size_t i = 0; i < n; i++)
        job_keep(m, &jobs[i]);
    return OMID_OK;
}

static uint32_t h_jobs_retry_after(struct omid_instance *inst)
{
    check_instance(inst);
    return inst->m->retry_after > 0 ? inst->m->retry_after : 1;
}

static void h_job_attempt(struct omid_job_run *run, const struct omid_attempt *a)
{
    must(run != NULL && !run->finished && a->size == sizeof(*a));
    struct mock_attempt *to = &run->attempt;
    to->n++;
    to->status = a->status;
    to->elapsed_ms = a->elapsed_ms;
    snprintf(to->endpoint, sizeof(to->endpoint), "%s", a->endpoint != NULL ? a->endpoint : "");
    to->answer_len = a->answer_len < sizeof(to->answer) - 1 ? a->answer_len : sizeof(to->answer) - 1;
    if (a->answer != NULL)
        memcpy(to->answer, a->answer, to->answer_len);
    to->answer[a->answer != NULL ? to->answer_len : 0] = '\0';
}

static void h_job_finish(struct omid_job_run **run, enum omid_job_outcome outcome, uint32_t retry_after_s,
                         const char *error)
{
    must(run != NULL && *run != NULL && !(*run)->finished);
    (*run)->finished = true;
    (*run)->outcome = outcome;
    (*run)->after_s = retry_after_s;
    snprintf((*run)->error, sizeof((*run)->error), "%s", error != NULL ? error : "");
    *run = NULL;
}

static int h_publish(struct omid_instance *inst, const struct omid_event *ev)
{
    check_instance(inst);
    struct mock *m = inst->m;
    must(ev->size == sizeof(*ev) && (ev->type == OMID_EVENT_APP_MESSAGE || ev->type == OMID_EVENT_CUSTOM));
    must(m->n_pubs < sizeof(m->pubs) / sizeof(m->pubs[0]));
    must((ev->name == NULL || strlen(ev->name) < 256) && (ev->id == NULL || strlen(ev->id) < 64));
    must((ev->session_id == NULL || strlen(ev->session_id) < 64) &&
         (ev->conversation_id == NULL || strlen(ev->conversation_id) < 64));
    struct publication *p = &m->pubs[m->n_pubs++];
    p->uid = strdup(ev->uid);
    p->json = strdup(ev->json);
    p->ev = *ev;
    p->ev.uid = p->uid;
    p->ev.json = p->json;
    p->ev.name = ev->name != NULL ? strcpy(p->name, ev->name) : NULL;
    p->ev.id = ev->id != NULL ? strcpy(p->id, ev->id) : NULL;
    p->ev.session_id = ev->session_id != NULL ? strcpy(p->session, ev->session_id) : NULL;
    p->ev.conversation_id = ev->conversation_id != NULL ? strcpy(p->conversation, ev->conversation_id) : NULL;
    return OMID_OK;
}

/* Those of uid, or the one of this id and uid (NULL: whoever has it). */
static const struct omid_endpoints *snapshot_of(struct omid_instance *inst, const char *id, const char *uid)
{
    check_instance(inst);
    struct mock *m = inst->m;
    struct snapshot *s = calloc(1, sizeof(*s));
    must(s != NULL);
    s->m = m;
    s->pub = (struct omid_endpoints){.size = sizeof(s->pub), .endpoint = s->at};
    for (size_t i = 0; i < m->n_places; i++) {
        const struct place *p = &m->places[i];
        if ((uid != NULL && strcmp(p->uid, uid) != 0) || (id != NULL && strcmp(p->e.id, id) != 0))
            continue;
        s->e[s->pub.n] = p->e;
        s->at[s->pub.n] = &s->e[s->pub.n];
        s->pub.n++;
        if (id != NULL)
            break;
    }
    m->snapshots++;
    return &s->pub;
}

static const struct omid_endpoints *h_endpoints(struct omid_instance *inst, const char *uid)
{
    must(uid != NULL);
    return snapshot_of(inst, NULL, uid);
}

static const struct omid_endpoints *h_endpoint_find(struct omid_instance *inst, const char *id, const char *uid)
{
    must(id != NULL);
    return snapshot_of(inst, id, uid);
}

static void h_endpoints_release(const struct omid_endpoints **endpoints)
{
    struct snapshot *s = (struct snapshot *)(uintptr_t)*endpoints;
    *endpoints = NULL;
    if (s == NULL)
        return;
    check_thread(s->m);
    must(s->m->snapshots > 0);
    s->m->snapshots--;
    free(s);
}

static void h_endpoint_report(struct omid_instance *inst, const char *id, const char *uid,
                              enum omid_delivery_outcome outcome, int status, const char *text)
{
    check_instance(inst);
    struct mock *m = inst->m;
    must(m->n_reports < MAX_RECORDS && id != NULL && (unsigned)outcome <= OMID_DELIVERY_GONE);
    struct mock_report *r = &m->reports[m->n_reports++];
    snprintf(r->id, sizeof(r->id), "%s", id);
    snprintf(r->uid, sizeof(r->uid), "%s", uid != NULL ? uid : "");
    snprintf(r->text, sizeof(r->text), "%s", text != NULL ? text : "");
    r->outcome = outcome;
    r->status = status;
}

static void h_stt_ready(struct omid_stt *stt)
{
    check_thread(stt->m);
    must(stt->closed == 0 && stt->ready == 0);
    stt->ready++;
}

static void h_stt_writable(struct omid_stt *stt)
{
    check_thread(stt->m);
    must(stt->closed == 0);
    stt->writable++;
}

static void h_stt_result(struct omid_stt *stt, const struct omid_stt_result *result)
{
    check_thread(stt->m);
    must(stt->closed == 0 && result->size == sizeof(*result));
    must(result->transcribed >= stt->transcribed);
    stt->results++;
    stt->transcribed = result->transcribed;
    for (size_t i = 0; i < result->n; i++) {
        const struct omid_stt_segment *s = &result->segments[i];
        must(stt->n_seg < sizeof(stt->seg) / sizeof(stt->seg[0]));
        struct mock_segment *to = &stt->seg[stt->n_seg++];
        snprintf(to->text, sizeof(to->text), "%s", s->text);
        to->start = s->start;
        to->end = s->end;
        to->speaker = s->speaker;
    }
    if (stt->on_result != NULL)
        stt->on_result(stt, stt->arg);
}

static void h_stt_closed(struct omid_stt *stt, const struct omid_stt_end *end)
{
    check_thread(stt->m);
    must(stt->closed == 0 && end->size == sizeof(*end) && end->text != NULL);
    stt->closed++;
    stt->reason = end->reason;
    snprintf(stt->why, sizeof(stt->why), "%s", end->text);
}

static void h_drained(struct omid_instance *inst)
{
    check_instance(inst);
    inst->drained++;
}

static const struct omid_host table = {.size = sizeof(struct omid_host),
                                       .abi_major = OMID_ABI_MAJOR,
                                       .abi_minor = OMID_ABI_MINOR,
                                       .log = h_log,
                                       .now_ms = h_now_ms,
                                       .wall_ms = h_wall_ms,
                                       .uuid4 = h_uuid4,
                                       .counter_add = h_counter_add,
                                       .conf_bool = h_conf_bool,
                                       .conf_int = h_conf_int,
                                       .conf_float = h_conf_float,
                                       .conf_str = h_conf_str,
                                       .conf_list = h_conf_list,
                                       .conf_error = h_conf_error,
                                       .route_add = h_route_add,
                                       .counter = h_counter,
                                       .module = h_module,
                                       .reactor = h_reactor,
                                       .timer_start = h_timer_start,
                                       .timer_stop = h_timer_stop,
                                       .http_start = h_http_start,
                                       .http_cancel = h_http_cancel,
                                       .exec_submit = h_exec_submit,
                                       .job_enqueue = h_job_enqueue,
                                       .job_finish = h_job_finish,
                                       .jobs_enqueue = h_jobs_enqueue,
                                       .job_attempt = h_job_attempt,
                                       .jobs_retry_after = h_jobs_retry_after,
                                       .publish = h_publish,
                                       .stt_ready = h_stt_ready,
                                       .stt_writable = h_stt_writable,
                                       .stt_result = h_stt_result,
                                       .stt_closed = h_stt_closed,
                                       .drained = h_drained,
                                       .endpoints = h_endpoints,
                                       .endpoint_find = h_endpoint_find,
                                       .endpoints_release = h_endpoints_release,
                                       .endpoint_report = h_endpoint_report,
                                       .data_dir = h_data_dir};

static struct omid_host full; /* and what mock_doors.c adds */

const struct omid_host *mock_table(void)
{
    return &full;
}

/* --- the test's side --- */

static void value_set(struct value *v, const char *text)
{
    for (size_t i = 0; i < v->n; i++)
        free(v->items[i]);
    v->n = 0;
    free(v->text);
    v->text = text != NULL ? strdup(text) : NULL;
    if (v->opt->type != OMID_OPT_LIST || text == NULL)
        return;
    char *copy = strdup(text);
    char *save = NULL;
    for (char *item = strtok_r(copy, " ", &save); item != NULL; item = strtok_r(NULL, " ", &save)) {
        must(v->n < MAX_LIST);
        v->items[v->n++] = strdup(item);
    }
    free(copy);
}

struct mock *mock_new(const struct omid_plugin *plugin)
{
    struct mock *m = calloc(1, sizeof(*m));
    must(m != NULL && the_mock == NULL);
    the_mock = m;
    full = table;
    mock_doors_set(&full);
    m->plugin = plugin;
    m->mod.m = m;
    m->thread = pthread_self();
    m->now = 1000;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->wake, NULL);
    for (const struct omid_option *o = plugin->options; o != NULL && o->name != NULL; o++) {
        must(m->n_values < MAX_KEYS);
        m->values[m->n_values].opt = o;
        value_set(&m->values[m->n_values++], o->def);
    }
    return m;
}

static void records_free(struct mock *m)
{
    for (size_t i = 0; i < m->n_http; i++) {
        struct mock_http *h = &m->http[i]->pub;
        must(!h->open);
        free(h->method);
        free(h->url);
        free(h->latest_key);
        free(h->aws_sigv4);
        free(h->headers);
        free(h->body);
        free(m->http[i]);
    }
    for (size_t i = 0; i < m->n_jobs; i++) {
        struct mock_job *j = &m->jobs[i]->pub;
        free(j->type);
        free(j->name);
        free(j->target);
        free(j->payload);
        free(m->jobs[i]);
    }
    for (size_t i = 0; i < m->n_batches; i++) {
        free(m->batches[i].pub.key);
        free(m->batches[i].pub.value);
    }
    while (m->runs != NULL) {
        struct omid_job_run *r = m->runs;
        must(r->finished);
        m->runs = r->next;
        free(r);
    }
    for (size_t i = 0; i < m->n_pubs; i++) {
        free(m->pubs[i].uid);
        free(m->pubs[i].json);
    }
}

const char *mock_data_dir(struct mock *m)
{
    pthread_mutex_lock(&m->lock);
    if (m->data_dir[0] == '\0') {
        snprintf(m->data_dir, sizeof(m->data_dir), "/tmp/omid-mock-XXXXXX");
        must(mkdtemp(m->data_dir) != NULL);
    }
    pthread_mutex_unlock(&m->lock);
    return m->data_dir;
}

static int data_remove(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void mock_free(struct mock **mp)
{
    struct mock *m = *mp;
    *mp = NULL;
    for (unsigned i = 0; i < m->n_inst; i++)
        must(m->inst[i].stopped);
    must(m->running == 0 && m->finished == NULL && m->held == NULL);
    must(m->snapshots == 0);
    if (m->configured && m->plugin->unconfigure != NULL)
        m->plugin->unconfigure(m->shared);
    timers_sweep(m);
    must(m->timers == NULL);
    records_free(m);
    mock_doors_clear();
    if (m->data_dir[0] != '\0')
        must(nftw(m->data_dir, data_remove, 8, FTW_DEPTH | FTW_PHYS) == 0);
    for (size_t i = 0; i < m->n_values; i++)
        value_set(&m->values[i], NULL);
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->wake);
    the_mock = NULL;
    free(m);
}

void mock_conf(struct mock *m, const char *key, const char *value)
{
    value_set(value_of(m, key), value);
}

int mock_configure(struct mock *m)
{
    int rc = m->plugin->configure != NULL ? m->plugin->configure(&m->mod, &full, &m->shared) : OMID_OK;
    m->configured = rc == OMID_OK;
    return rc;
}

unsigned mock_conf_errors(const struct mock *m, const char **key, const char **text)
{
    if (key != NULL)
        *key = m->error_key;
    if (text != NULL)
        *text = m->error_text;
    return m->conf_errors;
}

struct omid_instance *mock_start(struct mock *m)
{
    must(m->configured && m->n_inst < MAX_INSTANCES);
    struct omid_instance *inst = &m->inst[m->n_inst];
    *inst = (struct omid_instance){.m = m, .number = m->n_inst};
    m->n_inst++;
    if (m->plugin->start == NULL || m->plugin->start(inst, &full, m->shared, &inst->state) == OMID_OK)
        return inst;
    inst->stopped = true;
    return NULL;
}

void *mock_state(const struct omid_instance *inst)
{
    return inst->state;
}

void mock_drain(struct omid_instance *inst)
{
    inst->m->plugin->drain(inst->state);
}

unsigned mock_drained(const struct omid_instance *inst)
{
    return inst->drained;
}

void mock_stop(struct omid_instance *inst)
{
    inst->m->plugin->stop(inst->state);
    inst->stopped = true;
    mock_doors_stop(inst);
}

int mock_event(struct omid_instance *inst, const struct omid_event *ev)
{
    struct omid_event copy = *ev;
    copy.size = sizeof(copy);
    must(inst->m->plugin->events & OMID_EVENT_MASK(ev->type));
    return inst->m->plugin->event(inst->state, &copy);
}

void mock_advance(struct mock *m, uint64_t ms)
{
    const uint64_t until = m->now + ms;
    for (;;) {
        struct omid_timer *first = NULL;
        timers_sweep(m);
        for (struct omid_timer *t = m->timers; t != NULL; t = t->next) {
            if (t->due <= until && (first == NULL || t->due < first->due))
                first = t;
        }
        if (first == NULL)
            break;
        m->now = first->due > m->now ? first->due : m->now;
        /* A timer that has fired once stays until timer_stop(). */
        first->due = first->repeat > 0 ? m->now + first->repeat : UINT64_MAX;
        first->fn(first->arg);
    }
    m->now = until;
}

void mock_timers_refuse(struct mock *m, bool refuse)
{
    m->no_timers = refuse;
}

unsigned mock_timers(const struct mock *m)
{
    unsigned n = 0;
    for (const struct omid_timer *t = m->timers; t != NULL; t = t->next)
        n += !t->dead;
    return n;
}

static uint64_t real_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void finished_deliver(struct mock *m)
{
    pthread_mutex_lock(&m->lock);
    while (m->finished != NULL) {
        struct work *w = m->finished;
        m->finished = w->next;
        pthread_mutex_unlock(&m->lock);
        pthread_join(w->thread, NULL);
        w->w.done(w->w.arg, true);
        free(w);
        pthread_mutex_lock(&m->lock);
    }
    pthread_mutex_unlock(&m->lock);
}

bool mock_wait(struct mock *m, bool (*until)(void *arg), void *arg, unsigned timeout_ms)
{
    const uint64_t begin = real_ms();
    uint64_t last = begin;
    for (;;) {
        finished_deliver(m);
        uint64_t now = real_ms();
        mock_advance(m, now - last);
        last = now;
        if (until(arg))
            return true;
        if (now - begin > timeout_ms)
            return false;
        struct timespec ts;
        clock_gettime(CLOCK_REALTIME, &ts);
        ts.tv_nsec += 1000000;
        ts.tv_sec += ts.tv_nsec / 1000000000;
        ts.tv_nsec %= 1000000000;
        pthread_mutex_lock(&m->lock);
        if (m->finished == NULL)
            pthread_cond_timedwait(&m->wake, &m->lock, &ts);
        pthread_mutex_unlock(&m->lock);
    }
}

void mock_exec_mode(struct mock *m, enum mock_exec mode)
{
    m->exec = mode;
}

unsigned mock_exec_waiting(const struct mock *m)
{
    return m->n_held;
}

bool mock_exec_run(struct mock *m, bool ran)
{
    struct work *w = m->held;
    if (w == NULL)
        return false;
    m->held = w->next;
    m->n_held--;
    if (ran)
        w->w.run(w->w.arg);
    w->w.done(w->w.arg, ran);
    free(w);
    return true;
}

struct omid_work mock_exec_take(struct mock *m)
{
    struct work *w = m->held;
    must(w != NULL);
    const struct omid_work out = w->w;
    m->held = w->next;
    m->n_held--;
    free(w);
    return out;
}

unsigned mock_exec_peak(const struct mock *m)
{
    return m->peak;
}

size_t mock_http_count(const struct mock *m)
{
    return m->n_http;
}

size_t mock_http_open(const struct mock *m)
{
    size_t n = 0;
    for (size_t i = 0; i < m->n_http; i++)
        n += m->http[i]->pub.open;
    return n;
}

const struct mock_http *mock_http(const struct mock *m, size_t i)
{
    must(i < m->n_http);
    return &m->http[i]->pub;
}

void mock_http_respond(struct mock *m, size_t i, const struct omid_http_response *res)
{
    must(i < m->n_http && m->http[i]->pub.open);
    m->http[i]->pub.open = false;
    m->http[i]->cb(m->http[i]->arg, res);
}

void mock_http_answer(struct mock *m, size_t i, int status, const char *body)
{
    const struct omid_http_response res = {
        .size = sizeof(res), .error_text = "", .status = status, .body = body, .body_len = strlen(body)};
    mock_http_respond(m, i, &res);
}

void mock_http_fail(struct mock *m, size_t i, enum omid_http_error error)
{
    const struct omid_http_response res = {.size = sizeof(res), .error = error, .error_text = "it failed", .body = ""};
    mock_http_respond(m, i, &res);
}

void mock_http_refuse(struct mock *m, int rc)
{
    m->http_rc = rc;
}

size_t mock_job_count(const struct mock *m)
{
    return m->n_jobs;
}

const struct mock_job *mock_job(const struct mock *m, size_t i)
{
    must(i < m->n_jobs);
    return &m->jobs[i]->pub;
}

void mock_job_ack(struct mock *m, size_t i, enum omid_result result)
{
    must(i < m->n_jobs && m->jobs[i]->pub.open);
    m->jobs[i]->pub.open = false;
    if (m->jobs[i]->cb != NULL)
        m->jobs[i]->cb(m->jobs[i]->arg, result, i + 1);
}

size_t mock_batch_count(const struct mock *m)
{
    return m->n_batches;
}

const struct mock_batch *mock_batch(const struct mock *m, size_t i)
{
    must(i < m->n_batches);
    return &m->batches[i].pub;
}

void mock_batch_ack(struct mock *m, size_t i, enum omid_result result, const char *repeated)
{
    must(i < m->n_batches && m->batches[i].pub.open);
    struct batch *b = &m->batches[i];
    b->pub.open = false;
    const char *own = b->pub.value != NULL ? b->pub.value : "";
    if (b->cb != NULL)
        b->cb(b->arg, result, repeated != NULL, repeated != NULL ? repeated : own);
}

void mock_retry_after(struct mock *m, uint32_t s)
{
    m->retry_after = s;
}

const struct mock_attempt *mock_run_attempt(const struct omid_job_run *run)
{
    return &run->attempt;
}

void mock_job_refuse(struct mock *m, int rc)
{
    m->job_rc = rc;
}

struct omid_job_run *mock_job_run_view(struct omid_instance *inst, const struct omid_job_view *view)
{
    struct mock *m = inst->m;
    struct omid_job_run *run = calloc(1, sizeof(*run));
    must(run != NULL);
    run->next = m->runs;
    m->runs = run;
    must(m->plugin->job(inst->state, view, run) == OMID_OK);
    return run;
}

struct omid_job_run *mock_job_run(struct omid_instance *inst, size_t i, unsigned attempt)
{
    const struct mock_job *j = mock_job(inst->m, i);
    const struct omid_job_view view = {.size = sizeof(view),
                                       .id = i + 1,
                                       .type = j->type,
                                       .name = j->name,
                                       .target = j->target,
                                       .payload = j->payload,
                                       .payload_len = j->payload_len,
                                       .attempt = attempt};
    return mock_job_run_view(inst, &view);
}

bool mock_run_finished(const struct omid_job_run *run, enum omid_job_outcome *outcome, uint32_t *after_s,
                       const char **error)
{
    if (outcome != NULL)
        *outcome = run->outcome;
    if (after_s != NULL)
        *after_s = run->after_s;
    if (error != NULL)
        *error = run->error;
    return run->finished;
}

size_t mock_published(const struct mock *m)
{
    return m->n_pubs;
}

const struct omid_event *mock_publication(const struct mock *m, size_t i)
{
    must(i < m->n_pubs);
    return &m->pubs[i].ev;
}

uint64_t mock_count(const struct mock *m, const char *what, const char *value)
{
    for (size_t i = 0; i < m->n_counters; i++) {
        if (strcmp(m->counters[i].what, what) == 0 && strcmp(m->counters[i].value, value != NULL ? value : "") == 0)
            return m->counters[i].n;
    }
    mock_die("a counter of this name", __LINE__);
}

unsigned mock_logged(const struct mock *m, enum omid_log_level level)
{
    unsigned n = 0;
    for (unsigned i = 0; i <= (unsigned)level; i++)
        n += m->logged[i];
    return n;
}

const char *mock_last_log(const struct mock *m)
{
    return m->last_log;
}

void mock_endpoint_add(struct mock *m, const char *uid, const struct omid_endpoint *e)
{
    size_t i = 0;
    must(e->size == sizeof(*e) && e->id != NULL && e->url != NULL && e->events != NULL && e->filter != NULL &&
         e->secrets != NULL && e->uid != NULL && e->name != NULL);
    while (i < m->n_places && (strcmp(m->places[i].e.id, e->id) != 0 || strcmp(m->places[i].uid, uid) != 0))
        i++;
    must(i < MAX_ENDPOINTS);
    m->n_places += i == m->n_places;
    m->places[i].e = *e;
    snprintf(m->places[i].uid, sizeof(m->places[i].uid), "%s", uid);
}

void mock_endpoint_remove(struct mock *m, const char *id)
{
    size_t n = 0;
    for (size_t i = 0; i < m->n_places; i++) {
        if (strcmp(m->places[i].e.id, id) != 0)
            m->places[n++] = m->places[i];
    }
    m->n_places = n;
}

size_t mock_report_count(const struct mock *m)
{
    return m->n_reports;
}

const struct mock_report *mock_report(const struct mock *m, size_t i)
{
    must(i < m->n_reports);
    return &m->reports[i];
}
