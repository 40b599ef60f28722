/* Within the mock host: what its files, one for each topic of the host's table, know of each other. */
#ifndef TESTS_UNIT_MOCK_INT_H
#define TESTS_UNIT_MOCK_INT_H

#include <pthread.h>

#include "mock_host.h"

#define MAX_KEYS 64
#define MAX_LIST 128
#define MAX_COUNTERS 64
#define MAX_INSTANCES 4
#define MAX_RECORDS 4096

/* A test that goes on after this would say nothing. */
#define must(expr) ((expr) ? (void)0 : mock_die(#expr, __FILE__, __LINE__))
_Noreturn void mock_die(const char *expr, const char *file, int line);

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
struct conf_value {
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
    struct conf_value values[MAX_KEYS];
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

/* The only one; for functions of the table that are not told whose they are. */
extern struct mock *the_mock;

void mock_check_thread(const struct mock *m);
/* The same of a call that its instance makes, which has not been stopped. */
void mock_check_instance(const struct omid_instance *inst);

/* Each topic's functions, for the table. */
void mock_conf_set(struct omid_host *t);
void mock_time_set(struct omid_host *t);
void mock_http_set(struct omid_host *t);
void mock_jobs_set(struct omid_host *t);
void mock_registry_set(struct omid_host *t);
void mock_stt_set(struct omid_host *t);

/* The plugin's options as it declares them. */
void mock_conf_defaults(struct mock *m);

/* What each has kept, at the end. They end the test when something of the plugin's is left. */
void mock_conf_clear(struct mock *m);
void mock_time_clear(struct mock *m);
void mock_http_clear(struct mock *m);
void mock_jobs_clear(struct mock *m);

#endif
