/* A host for the unit tests of plugins: see mock_host.h. */
#include "mock_host.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mock_doors.h"
#include "mock_int.h"

struct mock *the_mock;

_Noreturn void mock_die(const char *expr, const char *file, int line)
{
    fprintf(stderr, "mock host: %s does not hold (%s, line %d)\n", expr, file, line);
    abort();
}

void mock_check_thread(const struct mock *m)
{
    must(pthread_equal(pthread_self(), m->thread));
}

void mock_check_instance(const struct omid_instance *inst)
{
    mock_check_thread(inst->m);
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

/* --- module --- */

static int h_route_add(struct omid_module *mod, const struct omid_route *route)
{
    mock_check_thread(mod->m);
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

static int h_publish(struct omid_instance *inst, const struct omid_event *ev)
{
    mock_check_instance(inst);
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

static void h_drained(struct omid_instance *inst)
{
    mock_check_instance(inst);
    inst->drained++;
}

static struct omid_host table;

const struct omid_host *mock_table(void)
{
    return &table;
}

/* --- the test's side --- */

struct mock *mock_new(const struct omid_plugin *plugin)
{
    struct mock *m = calloc(1, sizeof(*m));
    must(m != NULL && the_mock == NULL);
    the_mock = m;
    table = (struct omid_host){.size = sizeof(table),
                               .abi_major = OMID_ABI_MAJOR,
                               .abi_minor = OMID_ABI_MINOR,
                               .log = h_log,
                               .uuid4 = h_uuid4,
                               .counter_add = h_counter_add,
                               .route_add = h_route_add,
                               .counter = h_counter,
                               .module = h_module,
                               .reactor = h_reactor,
                               .publish = h_publish,
                               .drained = h_drained,
                               .data_dir = h_data_dir};
    mock_conf_set(&table);
    mock_time_set(&table);
    mock_http_set(&table);
    mock_jobs_set(&table);
    mock_registry_set(&table);
    mock_stt_set(&table);
    mock_doors_set(&table);
    m->plugin = plugin;
    m->mod.m = m;
    m->thread = pthread_self();
    m->now = 1000;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->wake, NULL);
    mock_conf_defaults(m);
    return m;
}

static void publications_free(struct mock *m)
{
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
    mock_time_clear(m);
    mock_http_clear(m);
    mock_jobs_clear(m);
    publications_free(m);
    mock_doors_clear();
    if (m->data_dir[0] != '\0')
        must(nftw(m->data_dir, data_remove, 8, FTW_DEPTH | FTW_PHYS) == 0);
    mock_conf_clear(m);
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->wake);
    the_mock = NULL;
    free(m);
}

int mock_configure(struct mock *m)
{
    int rc = m->plugin->configure != NULL ? m->plugin->configure(&m->mod, &table, &m->shared) : OMID_OK;
    m->configured = rc == OMID_OK;
    return rc;
}

struct omid_instance *mock_start(struct mock *m)
{
    must(m->configured && m->n_inst < MAX_INSTANCES);
    struct omid_instance *inst = &m->inst[m->n_inst];
    *inst = (struct omid_instance){.m = m, .number = m->n_inst};
    m->n_inst++;
    if (m->plugin->start == NULL || m->plugin->start(inst, &table, m->shared, &inst->state) == OMID_OK)
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
    mock_die("a counter of this name", __FILE__, __LINE__);
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
