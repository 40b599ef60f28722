/*
 * A host for the unit tests of plugins: it records what a plugin does and does nothing by itself. Time stands still
 * until the test moves it, HTTP requests wait for the answer that the test gives, work is kept until the test runs it
 * or goes to real threads. A call on the wrong thread, a handle released twice, an answer to nobody end the test.
 *
 * One mock at a time: now_ms() and the like have no argument to find theirs by.
 */
#ifndef TESTS_UNIT_MOCK_HOST_H
#define TESTS_UNIT_MOCK_HOST_H

#include <omid/plugin.h>

struct mock;

/* The plugin's own symbol; the test program is linked with its sources. */
struct mock *mock_new(const struct omid_plugin *plugin);
/* Unconfigures. Ends the test when a timer, request, job or thread of the plugin is left. */
void mock_free(struct mock **m);

/* What data_dir() answers: a folder in /tmp, gone with the mock. */
const char *mock_data_dir(struct mock *m);

/* The value of an option as it would be written; lists: values joined by spaces. Before mock_configure(). */
void mock_conf(struct mock *m, const char *key, const char *value);
int mock_configure(struct mock *m);
/* Of the faults reported: how many, and key and text of the last. */
unsigned mock_conf_errors(const struct mock *m, const char **key, const char **text);

/* Starts an instance (at most 4: as many reactors, all on the test's thread). NULL: it refused. */
struct omid_instance *mock_start(struct mock *m);
void *mock_state(const struct omid_instance *inst);
void mock_drain(struct omid_instance *inst);
unsigned mock_drained(const struct omid_instance *inst);
void mock_stop(struct omid_instance *inst);
int mock_event(struct omid_instance *inst, const struct omid_event *ev);

/* Moves the clocks and fires what is due, in the order of time. */
void mock_advance(struct mock *m, uint64_t ms);
unsigned mock_timers(const struct mock *m);
/* No memory for new ones. */
void mock_timers_refuse(struct mock *m, bool refuse);
/* Lets real time pass on the mock's clock, delivers finished work, until `until` is true. False: not in time. */
bool mock_wait(struct mock *m, bool (*until)(void *arg), void *arg, unsigned timeout_ms);

/* Executors. HELD: kept for mock_exec_run(); THREADS: each on a thread of its own, done() within mock_wait();
 * FULL, CLOSED: refused. */
enum mock_exec { MOCK_EXEC_HELD, MOCK_EXEC_THREADS, MOCK_EXEC_FULL, MOCK_EXEC_CLOSED };
void mock_exec_mode(struct mock *m, enum mock_exec mode);
unsigned mock_exec_waiting(const struct mock *m);
/* Runs the oldest held one (ran), or ends it without (shutdown). False: there is none. */
bool mock_exec_run(struct mock *m, bool ran);
/* The oldest held one, out of the mock's hands: run() is the caller's to call, done() never comes, as with one that the
 * daemon's stop abandons. There is one. */
struct omid_work mock_exec_take(struct mock *m);
/* The most that ran at the same moment, on threads. */
unsigned mock_exec_peak(const struct mock *m);

/* HTTP: every request since the begin, by number. */
struct mock_http {
    char *method, *url, *latest_key; /* latest_key "" when absent */
    char *aws_sigv4;                 /* "" when absent */
    char *headers;                   /* each line followed by \n */
    char *body;                      /* NUL-terminated */
    size_t body_len;
    bool open; /* not answered, not cancelled */
};
size_t mock_http_count(const struct mock *m);
size_t mock_http_open(const struct mock *m);
const struct mock_http *mock_http(const struct mock *m, size_t i);
void mock_http_answer(struct mock *m, size_t i, int status, const char *body);
void mock_http_respond(struct mock *m, size_t i, const struct omid_http_response *res);
void mock_http_fail(struct mock *m, size_t i, enum omid_http_error error);
/* What http_start() answers from now on; OMID_OK at first. */
void mock_http_refuse(struct mock *m, int rc);

/* Durable jobs: every enqueue since the begin, by number. */
struct mock_job {
    char *type, *name, *target, *payload;
    size_t payload_len;
    bool ordered;
    uint32_t rate_per_min;
    bool open; /* not acknowledged */
};
size_t mock_job_count(const struct mock *m);
const struct mock_job *mock_job(const struct mock *m, size_t i);
void mock_job_ack(struct mock *m, size_t i, enum omid_result result);
void mock_job_refuse(struct mock *m, int rc);
/* Calls of jobs_enqueue(): their jobs are those from `first` on. */
struct mock_batch {
    size_t first, n;
    char *key, *value; /* of the receipt; NULL: none */
    bool open;
};
size_t mock_batch_count(const struct mock *m);
const struct mock_batch *mock_batch(const struct mock *m, size_t i);
/* repeated: the value kept with an earlier one; NULL: it is the first. */
void mock_batch_ack(struct mock *m, size_t i, enum omid_result result, const char *repeated);
void mock_retry_after(struct mock *m, uint32_t s); /* what jobs_retry_after() answers */
/* What job_attempt() was told. */
struct mock_attempt {
    unsigned n; /* calls */
    int status;
    uint32_t elapsed_ms;
    char endpoint[65], answer[257];
    size_t answer_len;
};
const struct mock_attempt *mock_run_attempt(const struct omid_job_run *run);
/* Hands the job to the plugin, an attempt; the run is the mock's. */
struct omid_job_run *mock_job_run(struct omid_instance *inst, size_t i, unsigned attempt);
/* The same with a job made up by the test. */
struct omid_job_run *mock_job_run_view(struct omid_instance *inst, const struct omid_job_view *view);
bool mock_run_finished(const struct omid_job_run *run, enum omid_job_outcome *outcome, uint32_t *after_s,
                       const char **error);

/* Published events, by number. */
size_t mock_published(const struct mock *m);
const struct omid_event *mock_publication(const struct mock *m, size_t i);

/* The registry: what endpoints() and endpoint_find() answer from now on. The endpoint is copied, its strings are not;
 * uid is for whom it is there (an app: one call for each user). The same id and uid again: replaced. */
void mock_endpoint_add(struct mock *m, const char *uid, const struct omid_endpoint *e);
void mock_endpoint_remove(struct mock *m, const char *id);
/* Reports of attempts, by number. mock_free() ends the test when a snapshot was not released. */
struct mock_report {
    char id[65], uid[129], text[256];
    enum omid_delivery_outcome outcome;
    int status;
};
size_t mock_report_count(const struct mock *m);
const struct mock_report *mock_report(const struct mock *m, size_t i);

/* Counters: the value of `what` with this label value (NULL: the one without). */
uint64_t mock_count(const struct mock *m, const char *what, const char *value);
/* Lines logged at this level or a graver one. */
unsigned mock_logged(const struct mock *m, enum omid_log_level level);
const char *mock_last_log(const struct mock *m);

/* The session's end of a stream. */
struct mock_segment {
    char text[512];
    double start, end;
    int speaker;
};
struct omid_stt {
    struct mock *m;
    unsigned ready, writable, closed, results;
    enum omid_stt_reason reason;
    char why[256];
    struct mock_segment seg[64];
    size_t n_seg;
    double transcribed;
    void (*on_result)(struct omid_stt *stt, void *arg); /* called within stt_result(); may release the stream */
    void *arg;
};

const struct omid_host *mock_table(void);

#endif
