/* A recording's work: its states, whoever works for it, and its begin. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/id.h"
#include "base/log.h"
#include "lane/exec/exec.h"
#include "session/sync.h"

#define MODULE "sync"
#define JITTER 0.2
#define STORE_RETRY_MS 1000 /* after a write that the disk refused; doubled while it goes on */
#define STORE_RETRY_MAX_MS 60000

static struct metric *outcome_metric(const char *outcome)
{
    const struct metric_label l = {"outcome", outcome};
    return metric_get(METRIC_COUNTER, "omid_sync_recordings_total",
                      "Recordings made offline, by what came of the work on them.", &l, 1, NULL, 0);
}

static struct metric *running_metric(void)
{
    return metric_gauge("omid_sync_running", "Recordings made offline that are being worked on.");
}

static struct metric *waiting_metric(void)
{
    return metric_gauge("omid_sync_waiting",
                        "Recordings made offline whose transcript waits for the end of a conversation it belongs to.");
}

static struct metric *store_metric(void)
{
    return metric_get(METRIC_COUNTER, "omid_sync_store_retries_total",
                      "Writes of what became of recordings that the store refused, and that are tried again.", NULL, 0,
                      NULL, 0);
}

void job_count(const char *outcome)
{
    metric_add(outcome_metric(outcome), 1);
}

void job_metrics_init(void)
{
    static const char *const outcomes[] = {"done", "skipped", "failed", "retried"};
    for (size_t i = 0; i < ARRAY_LEN(outcomes); i++)
        (void)outcome_metric(outcomes[i]);
    (void)running_metric();
    (void)waiting_metric();
    (void)store_metric();
}

/* ---------------------------------------------------------------- a job */

static bool move_ok(enum job_state from, enum job_state to)
{
    switch (to) {
    case JOB_NEW:
    case JOB_STATES:
        return false;
    case JOB_DECODE:
        return from == JOB_NEW;
    case JOB_READ:
        return from == JOB_DECODE || from == JOB_HEARD;
    case JOB_SCAN:
        return from == JOB_READ;
    case JOB_TRANSCRIBE:
        return from == JOB_SCAN || from == JOB_HEARD;
    case JOB_HEARD:
        return from == JOB_SCAN || from == JOB_TRANSCRIBE || from == JOB_HEARD;
    case JOB_MERGE:
        return from == JOB_DECODE || from == JOB_HEARD || from == JOB_WAIT;
    case JOB_WAIT:
        return from == JOB_MERGE;
    case JOB_FIND:
        return from == JOB_DECODE || from == JOB_MERGE || from == JOB_FIND || from == JOB_KEEP;
    case JOB_CUT:
        return from == JOB_FIND || from == JOB_KEEP;
    case JOB_KEEP:
        return from == JOB_CUT;
    case JOB_SETTLE:
        return true;
    }
    return false;
}

void job_set_state(struct job *j, enum job_state to)
{
    omid_assert(move_ok(j->state, to));
    j->state = to;
}

char *job_path(const struct job *j, const char *suffix)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s%s", j->sync->dir, j->file, suffix) < 0 ? NULL : path;
}

void job_wait_set(struct job *j, bool waiting)
{
    if (j->waiting == waiting)
        return;
    j->waiting = waiting;
    j->sync->waiting += waiting ? 1 : (size_t)-1;
    metric_add(waiting_metric(), waiting ? 1 : -1);
}

void job_free(struct job *j)
{
    CHECK_MAGIC(j, JOB_MAGIC);
    host_ask_cancel(&j->ask);
    ev_timer_stop(loop_ev(j->sync->ss->env.loop), &j->timer);
    if (map_get(j->sync->job, j->file) == j)
        map_remove(j->sync->job, j->file);
    metric_add(running_metric(), -1);
    job_wait_set(j, false);
    job_stt_free(j);
    pcm_free(&j->pcm);
    free(j->conversation);
    free(j->uid);
    free(j->language);
    free(j->file);
    j->magic = OMID_MAGIC_DEAD;
    free(j);
}

void job_over(struct job *j)
{
    struct sync *y = j->sync;
    map_remove(y->job, j->file);
    job_wait_set(j, false);
    j->abandoned = true;
    host_ask_cancel(&j->ask);
    ev_timer_stop(loop_ev(y->ss->env.loop), &j->timer);
    if (!j->working)
        job_free(j);
    if (y->ss->draining)
        sessions_check_drained(y->ss);
}

bool job_returned(struct job *j)
{
    CHECK_MAGIC(j, JOB_MAGIC);
    j->working = false;
    if (!j->abandoned && !j->sync->ss->draining)
        return true;
    if (j->abandoned)
        job_free(j);
    else
        job_over(j);
    return false;
}

struct piece_of_work {
    struct job *job;
    void (*run)(void *arg);
    void (*done)(struct job *j);
};

static void work_run(void *arg)
{
    struct piece_of_work *w = arg;
    w->run(w->job);
}

static void work_done(void *arg, bool ran)
{
    struct piece_of_work *w = arg;
    struct job *j = w->job;
    void (*done)(struct job *) = w->done;
    free(w);
    if (!job_returned(j))
        return;
    if (!ran) {
        j->result = OMID_ECLOSED;
        snprintf(j->err, sizeof(j->err), "the daemon is stopping");
    }
    done(j);
}

static void on_no_work(struct ev_loop *ev, ev_timer *t, int revents)
{
    (void)ev;
    (void)revents;
    job_failed(t->data);
}

void job_work(struct job *j, const char *label, void (*run)(void *arg), void (*done)(struct job *j))
{
    struct piece_of_work *w = malloc(sizeof(*w));
    const struct omid_work work = {
        .size = sizeof(work), .pool = OMID_POOL_STORAGE, .label = label, .run = work_run, .done = work_done, .arg = w};
    int rc = OMID_ERR;
    j->result = OMID_OK;
    if (w != NULL) {
        *w = (struct piece_of_work){.job = j, .run = run, .done = done};
        rc = exec_submit(j->sync->ss->env.exec, exec_core, j->sync->ss->env.loop, &work);
    }
    if (rc == OMID_OK) {
        j->working = true;
        return;
    }
    free(w);
    j->result = rc;
    snprintf(j->err, sizeof(j->err), "%s", rc == OMID_EFULL ? "the storage executor is full" : "out of memory");
    ev_timer_init(&j->timer, on_no_work, 0., 0.); /* not within the caller's step */
    j->timer.data = j;
    ev_timer_start(loop_ev(j->sync->ss->env.loop), &j->timer);
}

bool job_read(struct job *j, uint64_t at, size_t n)
{
    char *path = job_path(j, ".pcm");
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    size_t want = n * sizeof(int16_t), have = 0;
    j->pcm.n = 0;
    bool ok = fd >= 0 && pcm_reserve(&j->pcm, n);
    while (ok && have < want) {
        ssize_t r = pread(fd, (char *)j->pcm.data + have, want - have, (off_t)(at * sizeof(int16_t) + have));
        if (r < 0 && errno == EINTR)
            continue;
        ok = r > 0;
        have += r > 0 ? (size_t)r : 0;
    }
    j->pcm.n = ok ? n : 0;
    if (!ok) {
        j->result = OMID_ERR;
        snprintf(j->err, sizeof(j->err), "decoded audio can't be read: %s", strerror(errno));
    }
    if (fd >= 0)
        close(fd);
    free(path);
    return ok;
}

/* ---------------------------------------------------------------- the store refuses a write */

void job_later(struct job *j, void (*cb)(struct ev_loop *, ev_timer *, int), double ms)
{
    ev_timer_init(&j->timer, cb, ms / 1000., 0.);
    j->timer.data = j;
    ev_timer_start(loop_ev(j->sync->ss->env.loop), &j->timer);
}

void job_store_again(struct job *j, const char *what, void (*cb)(struct ev_loop *, ev_timer *, int))
{
    double ms = fmin(STORE_RETRY_MS, j->sync->ss->env.conf->sync.retry_ms);
    for (unsigned i = 0; i < j->store_failures && ms < STORE_RETRY_MAX_MS; i++)
        ms *= 2;
    ms = fmin(ms, STORE_RETRY_MAX_MS);
    j->store_failures++;
    metric_add(store_metric(), 1);
    log_warning(MODULE, "the store does not take it, tried again", LS("file", j->file), LS("step", what),
                LU("attempt", j->store_failures), LI("pause_ms", (int64_t)ms));
    job_later(j, cb, ms * (1 - JITTER + 2 * JITTER * id_random_unit()));
}

/* ---------------------------------------------------------------- the begin of a job */

static void decode_run(void *arg)
{
    struct job *j = arg;
    char *from = job_path(j, ""), *to = job_path(j, ".pcm");
    struct stat st = {0};
    int in = from != NULL ? open(from, O_RDONLY | O_CLOEXEC) : -1;
    int out = to != NULL ? open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640) : -1;
    void *data = MAP_FAILED;
    if (in < 0 || out < 0 || fstat(in, &st) != 0) {
        /* The first time its upload may still be at it. */
        j->result = in < 0 && errno == ENOENT && j->attempts > 0 ? OMID_EINVAL : OMID_ERR;
        snprintf(j->err, sizeof(j->err), "the recording can't be opened: %s", strerror(errno));
    } else if (st.st_size == 0) {
        j->result = OMID_EINVAL;
        snprintf(j->err, sizeof(j->err), "it is empty");
    } else if ((data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, in, 0)) == MAP_FAILED) {
        j->result = OMID_ERR;
        snprintf(j->err, sizeof(j->err), "the recording can't be read: %s", strerror(errno));
    } else {
        j->result = recording_decode(j->format, data, (size_t)st.st_size, j->max_samples, out, &j->samples, j->err,
                                     sizeof(j->err));
        if (j->result == OMID_OK && j->n_conversations == 0 && !job_heard_load(j))
            j->result = OMID_ERR;
        if (j->result == OMID_ERR)
            j->result = OMID_EFULL; /* our disk or memory: it has not failed */
    }
    if (data != MAP_FAILED)
        munmap(data, (size_t)st.st_size);
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    if (out >= 0 && j->result != OMID_OK)
        unlink(to); /* at once: the store that is told of it may need the room */
    free(from);
    free(to);
}

static void decoded(struct job *j)
{
    if (j->result != OMID_OK)
        job_failed(j);
    else if (j->n_conversations > 0)
        job_keep(j);
    else
        job_window(j);
}

/* The ids of a recording that was done before, as the store has them. */
static bool ids_parse(struct job *j, const char *json)
{
    char err[64];
    yajl_val v = json_parse(json, strlen(json), 0, err, sizeof(err));
    bool ok = YAJL_IS_ARRAY(v);
    size_t n = ok ? YAJL_GET_ARRAY(v)->len : 0;
    j->conversation = calloc(n + 1, sizeof(*j->conversation));
    ok = ok && j->conversation != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        const char *id = YAJL_GET_STRING(YAJL_GET_ARRAY(v)->values[i]);
        if (id != NULL)
            snprintf(j->conversation[j->n_conversations++], 37, "%s", id);
    }
    json_free(&v);
    return ok;
}

void job_begin(struct sync *y, const struct store_recording *r)
{
    struct job *j = calloc(1, sizeof(*j));
    if (j == NULL)
        return; /* found again */
    j->magic = JOB_MAGIC;
    j->sync = y;
    j->n = r->n;
    j->format = (enum recording_format)r->format;
    j->start_ms = r->start_ms;
    j->attempts = r->attempts;
    j->max_samples = y->ss->env.conf->sync.max_audio_ms * (uint64_t)(RECORDING_RATE / 1000);
    j->uid = strdup(r->uid);
    j->language = strdup(r->language);
    j->file = strdup(r->file);
    ev_init(&j->timer, on_no_work);
    metric_add(running_metric(), 1);
    bool ok = j->uid != NULL && j->language != NULL && j->file != NULL &&
              (r->status != RECORDING_DONE || r->conversations == NULL || ids_parse(j, r->conversations));
    if (!ok || !map_put(y->job, j->file, j, NULL)) {
        if (j->file == NULL)
            j->file = strdup("");
        job_free(j);
        return;
    }
    if (j->n_conversations == 0)
        job_runs(j);
    job_set_state(j, JOB_DECODE);
    job_work(j, "sync_decode", decode_run, decoded);
}
