#include "session/sync.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "lane/exec/exec.h"

#define MODULE "sync"
#define DUE_MAX 500
#define RETRY_MAX_MS 3600000.
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
        return from == JOB_DECODE || from == JOB_SCAN || from == JOB_TRANSCRIBE;
    case JOB_SCAN:
        return from == JOB_READ;
    case JOB_TRANSCRIBE:
        return from == JOB_SCAN || from == JOB_TRANSCRIBE;
    case JOB_MERGE:
        return from == JOB_SCAN || from == JOB_TRANSCRIBE || from == JOB_WAIT;
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

static void job_wait_set(struct job *j, bool waiting)
{
    if (j->waiting == waiting)
        return;
    j->waiting = waiting;
    j->sync->waiting += waiting ? 1 : (size_t)-1;
    metric_add(waiting_metric(), waiting ? 1 : -1);
}

static void job_free(struct job *j)
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

/* Out of the table, so that it can be taken up again; gone when nobody works for it. */
static void job_over(struct job *j)
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

static void job_later(struct job *j, void (*cb)(struct ev_loop *, ev_timer *, int), double ms)
{
    ev_timer_init(&j->timer, cb, ms / 1000., 0.);
    j->timer.data = j;
    ev_timer_start(loop_ev(j->sync->ss->env.loop), &j->timer);
}

/* The same write again, for as long as it takes: what was transcribed is in memory alone. */
static void store_again(struct job *j, const char *what, void (*cb)(struct ev_loop *, ev_timer *, int))
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

/* ---------------------------------------------------------------- the end of a job's work */

static void settle_write(struct job *j);

static void on_settle_again(struct ev_loop *ev, ev_timer *t, int revents)
{
    (void)ev;
    (void)revents;
    settle_write(t->data);
}

static void on_settled(void *arg, int result)
{
    struct job *j = arg;
    if (result == OMID_OK || result == OMID_ENOTSUP)
        job_files_remove(j, j->end.stored); /* also while the daemon stops: nobody would look for them again */
    if (!job_returned(j))
        return;
    if (result == OMID_ERR) {
        store_again(j, "settle", on_settle_again);
        return;
    }
    struct sync *y = j->sync;
    job_over(j);
    sync_kick(y);
}

static void settle_write(struct job *j)
{
    j->working = true;
    if (store_recording_set(j->sync->ss->env.store, &j->end, j->sync->ss->env.loop, on_settled, j) != OMID_OK)
        on_settled(j, OMID_ERR);
}

/* st->error is static, or j->err. */
static void job_settle(struct job *j, const struct store_recording_state *st)
{
    job_set_state(j, JOB_SETTLE);
    j->end = *st;
    j->end.n = j->n;
    j->end.seconds = (double)j->samples / RECORDING_RATE;
    settle_write(j);
}

void job_failed(struct job *j)
{
    CHECK_MAGIC(j, JOB_MAGIC);
    const struct conf *conf = j->sync->ss->env.conf;
    bool kept = j->n_conversations > 0;     /* its transcript is where it belongs: only the audio is left */
    bool no_room = j->result == OMID_EFULL; /* ours: no attempt that counts, so that nothing is given up for it */
    double pause = conf->sync.retry_ms;
    struct store_recording_state st = {.error = j->err};
    if (!no_room || j->attempts + 1 < conf->sync.attempts)
        j->attempts++;
    for (unsigned i = 1; i < j->attempts && pause < RETRY_MAX_MS; i++)
        pause *= 2;
    if (pause > RETRY_MAX_MS)
        pause = RETRY_MAX_MS;
    st.attempts = j->attempts;
    if (!kept && j->result == OMID_ENOTSUP) {
        st.status = RECORDING_SKIPPED;
        st.stored = true;
        st.error = NULL;
        metric_add(outcome_metric("skipped"), 1);
    } else if (!kept && (j->result == OMID_EINVAL || (!no_room && j->attempts >= conf->sync.attempts))) {
        st.status = RECORDING_FAILED;
        st.stored = true;
        metric_add(outcome_metric("failed"), 1);
        log_warning(MODULE, "a recording has failed", LS("file", j->file), LS("reason", j->err));
    } else if (kept && j->result == OMID_EINVAL) { /* its file is gone, or damaged: the same every time */
        st.status = RECORDING_DONE;
        st.progress = 1;
        st.stored = true;
        metric_add(outcome_metric("failed"), 1);
        log_error(MODULE, "a recording's audio is lost", LS("file", j->file), LS("reason", j->err));
    } else {
        st.status = kept ? RECORDING_DONE : RECORDING_WAITING;
        st.progress = kept ? 1 : 0;
        st.not_before_ms = clock_wall_ms() + (int64_t)pause;
        metric_add(outcome_metric("retried"), 1);
        log_info(MODULE, "a recording is taken up again later", LS("file", j->file), LU("attempt", j->attempts),
                 LI("pause_ms", (int64_t)pause), LS("reason", j->err));
    }
    job_settle(j, &st);
}

void job_progress(struct job *j)
{
    const struct store_recording_state st = {.n = j->n,
                                             .status = RECORDING_RUNNING,
                                             .attempts = j->attempts,
                                             .progress = j->samples > 0 ? (double)j->at / (double)j->samples : 0,
                                             .seconds = (double)j->samples / RECORDING_RATE};
    (void)store_recording_set(j->sync->ss->env.store, &st, j->sync->ss->env.loop, NULL, NULL);
}

void job_audio_kept(struct job *j)
{
    const struct store_recording_state st = {.status = RECORDING_DONE, .progress = 1, .stored = true};
    metric_add(outcome_metric("done"), 1);
    log_info(MODULE, "a recording is done", LS("file", j->file), LU("conversations", j->n_conversations));
    job_settle(j, &st);
}

/* ---------------------------------------------------------------- into conversations */

static void merge_put(struct job *j);

static void on_merge_again(struct ev_loop *ev, ev_timer *t, int revents)
{
    (void)ev;
    (void)revents;
    merge_put(t->data);
}

static bool ids_take(struct job *j, const char (*ids)[37], size_t n)
{
    j->conversation = calloc(n + 1, sizeof(*j->conversation));
    j->n_conversations = 0;
    for (size_t i = 0; j->conversation != NULL && i < n; i++)
        memcpy(j->conversation[j->n_conversations++], ids[i], sizeof(ids[i]));
    return j->conversation != NULL;
}

static void on_merged(void *arg, int result, const char (*ids)[37], size_t n)
{
    struct job *j = arg;
    struct sessions *ss = j->sync->ss;
    if (!job_returned(j))
        return;
    if (result == OMID_EFULL || result == OMID_ERR) {
        /* A conversation that it belongs to goes on, or is being processed; or the disk fails. */
        job_set_state(j, JOB_WAIT);
        if (result == OMID_ERR) {
            store_again(j, "merge", on_merge_again);
            return;
        }
        j->store_failures = 0;
        job_later(j, on_merge_again, ss->env.conf->sync.check_ms);
        if (!j->waiting && j->sync->waiting < SYNC_WAITING_MAX) {
            pcm_free(&j->pcm);
            job_wait_set(j, true);
            sync_kick(j->sync);
        }
        return;
    }
    j->store_failures = 0;
    job_wait_set(j, false);
    if (result != OMID_OK || !ids_take(j, ids, n)) {
        job_over(j); /* done before, or found again */
        return;
    }
    for (size_t i = 0; i < n; i++)
        processing_start(ss, ids[i], j->uid);
    job_stt_free(j);
    job_keep(j);
}

static void merge_put(struct job *j)
{
    struct sessions *ss = j->sync->ss;
    struct store_segment *segment = calloc(j->found.n + 1, sizeof(*segment));
    char(*names)[16] = calloc(j->found.n + 1, sizeof(*names));
    job_set_state(j, JOB_MERGE);
    j->working = true;
    int rc = OMID_ERR;
    for (size_t i = 0; segment != NULL && names != NULL && i < j->found.n; i++) {
        const struct segment *f = j->found.item[i];
        segment_speaker_name(f->speaker_id, names[i]);
        segment[i] = (struct store_segment){.id = f->id,
                                            .text = f->text,
                                            .speaker = names[i],
                                            .stt_provider = f->provider,
                                            .speaker_id = f->speaker_id,
                                            .start = (double)j->start_ms / 1000. + f->start,
                                            .end = (double)j->start_ms / 1000. + f->end};
    }
    if (segment != NULL && names != NULL) {
        const struct store_transcript t = {.n = j->n,
                                           .uid = j->uid,
                                           .language = j->language,
                                           .source = "omi",
                                           .timeout_ms = ss->env.conf->listen.conversation_timeout_ms,
                                           .seconds = (double)j->samples / RECORDING_RATE,
                                           .segment = segment,
                                           .n_segments = j->found.n};
        rc = store_transcript_merge(ss->env.store, &t, ss->env.loop, on_merged, j);
    }
    free(segment);
    free(names);
    if (rc == OMID_EINVAL) {
        j->working = false;
        j->result = rc;
        snprintf(j->err, sizeof(j->err), "its transcript can't be kept");
        job_failed(j);
    } else if (rc != OMID_OK) {
        on_merged(j, OMID_ERR, NULL, 0);
    }
}

static int by_start(const void *pa, const void *pb)
{
    const struct segment *a = *(const struct segment *const *)pa, *b = *(const struct segment *const *)pb;
    return a->start < b->start ? -1 : a->start > b->start;
}

/* What is found is combined as live words are, but not over a silence that divides conversations. false: no memory. */
static bool found_combine(struct job *j)
{
    struct segment_list all = {0}, part = {0}, combined = {0};
    struct id_list gone = {0};
    double timeout = j->sync->ss->env.conf->listen.conversation_timeout_ms / 1000., end = 0;
    bool ok = true;
    qsort(j->found.item, j->found.n, sizeof(*j->found.item), by_start);
    for (size_t i = 0; ok && i <= j->found.n; i++) {
        struct segment *s = i < j->found.n ? j->found.item[i] : NULL;
        if (part.n > 0 && (s == NULL || s->start - end >= timeout)) {
            ok = segments_merge(&combined, &part, &gone);
            for (size_t k = 0; ok && k < combined.n; k++) {
                ok = segment_list_push(&all, combined.item[k]);
                if (ok)
                    combined.item[k] = NULL;
            }
            if (ok)
                combined.n = 0;
        }
        if (!ok || s == NULL)
            continue;
        ok = segment_list_push(&part, s);
        if (ok)
            j->found.item[i] = NULL;
        if (s->end > end)
            end = s->end;
    }
    id_list_free(&gone);
    segment_list_free(&part);
    segment_list_free(&combined);
    segment_list_free(&j->found);
    j->found = all;
    return ok;
}

void job_transcribed(struct job *j)
{
    if (j->found.n == 0) {
        j->result = OMID_ENOTSUP;
        snprintf(j->err, sizeof(j->err), "there is no speech in it");
        job_failed(j);
        return;
    }
    if (found_combine(j)) {
        merge_put(j);
        return;
    }
    j->result = OMID_ERR;
    snprintf(j->err, sizeof(j->err), "out of memory");
    job_failed(j);
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

static void job_begin(struct sync *y, const struct store_recording *r)
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
        job_progress(j);
    job_set_state(j, JOB_DECODE);
    job_work(j, "sync_decode", decode_run, decoded);
}

/* ---------------------------------------------------------------- a reactor's recordings */

static bool has_room(const struct sync *y)
{
    return map_count(y->job) - y->waiting < y->ss->env.conf->sync.running;
}

static void on_due(void *arg, const struct store_recording *r, size_t n)
{
    struct sync *y = arg;
    CHECK_MAGIC(y, SYNC_MAGIC);
    struct sessions *ss = y->ss;
    y->asking = false;
    for (size_t i = 0; i < n && !ss->draining && has_room(y); i++) {
        if (session_reactor_of(r[i].uid, ss->env.reactors) == ss->env.reactor && map_get(y->job, r[i].file) == NULL)
            job_begin(y, &r[i]);
    }
    if (y->again && !ss->draining)
        sync_kick(y);
}

void sync_kick(struct sync *y)
{
    CHECK_MAGIC(y, SYNC_MAGIC);
    struct sessions *ss = y->ss;
    if (y->asking) {
        y->again = true;
        return;
    }
    if (ss->draining || !has_room(y))
        return;
    y->again = false;
    int64_t now = clock_wall_ms();
    y->asking = store_recordings_due(ss->env.store, now, now - (int64_t)ss->env.conf->sync.keep_ms, DUE_MAX,
                                     ss->env.loop, on_due, y) == OMID_OK;
}

static void on_check(struct ev_loop *ev, ev_timer *t, int revents)
{
    (void)ev;
    (void)revents;
    sync_kick(t->data);
}

/* What a crash has left between a file and its row, what nobody came to remove, and what was decoded; only what is
 * older than any upload under way. */
#define SWEEP_AGE_S 3600

static void sweep_file(struct sync *y, const char *dir, const char *name)
{
    char path[4400];
    struct stat st;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode) &&
        ((int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000 < y->began_ms ||
         clock_wall_ms() / 1000 - st.st_mtime >= SWEEP_AGE_S))
        sync_file_drop(y->ss->env.store, dir, name);
}

static void sweep_run(void *arg)
{
    struct sync *y = arg;
    DIR *d = opendir(y->dir);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] != '.')
            sweep_file(y, y->dir, e->d_name);
    }
    if (d != NULL)
        closedir(d);
}

static void sweep_done(void *arg, bool ran)
{
    struct sync *y = arg;
    (void)ran;
    y->swept = true;
    if (y->ss->draining)
        sessions_check_drained(y->ss);
}

static void on_sweep(struct ev_loop *ev, ev_timer *t, int revents)
{
    (void)ev;
    (void)revents;
    struct sync *y = t->data;
    const struct omid_work work = {.size = sizeof(work),
                                   .pool = OMID_POOL_STORAGE,
                                   .label = "sync_sweep",
                                   .run = sweep_run,
                                   .done = sweep_done,
                                   .arg = y};
    if (y->swept) /* else the former one is at it still */
        y->swept = exec_submit(y->ss->env.exec, exec_core, y->ss->env.loop, &work) != OMID_OK;
}

struct sync *sync_new(struct sessions *ss)
{
    struct sync *y = calloc(1, sizeof(*y));
    if (y == NULL)
        return NULL;
    y->magic = SYNC_MAGIC;
    y->ss = ss;
    y->swept = true;
    y->began_ms = clock_wall_ms();
    y->job = map_new();
    if (y->job == NULL || asprintf(&y->dir, "%s/sync", ss->env.conf->daemon.state_dir) < 0) {
        map_free(&y->job);
        free(y);
        return NULL;
    }
    static const char *const outcomes[] = {"done", "skipped", "failed", "retried"};
    for (size_t i = 0; i < ARRAY_LEN(outcomes); i++)
        (void)outcome_metric(outcomes[i]);
    (void)running_metric();
    (void)waiting_metric();
    (void)store_metric();
    double check = ss->env.conf->sync.check_ms / 1000.;
    ev_timer_init(&y->check, on_check, 0., check);
    y->check.data = y;
    ev_timer_init(&y->sweep, on_sweep, 0., ss->env.conf->sync.sweep_ms / 1000.);
    y->sweep.data = y;
    return y;
}

void sync_start(struct sync *y)
{
    CHECK_MAGIC(y, SYNC_MAGIC);
    ev_timer_start(loop_ev(y->ss->env.loop), &y->check);
    if (y->ss->env.reactor == 0)
        ev_timer_start(loop_ev(y->ss->env.loop), &y->sweep);
}

static void timer_every(struct sync *y, ev_timer *t, uint32_t ms)
{
    t->repeat = ms / 1000.;
    ev_timer_again(loop_ev(y->ss->env.loop), t);
}

void sync_configure(struct sync *y, const struct conf *former)
{
    CHECK_MAGIC(y, SYNC_MAGIC);
    const struct conf *conf = y->ss->env.conf;
    if (former->sync.check_ms != conf->sync.check_ms && ev_is_active(&y->check))
        timer_every(y, &y->check, conf->sync.check_ms);
    if (former->sync.sweep_ms != conf->sync.sweep_ms && ev_is_active(&y->sweep))
        timer_every(y, &y->sweep, conf->sync.sweep_ms);
}

bool sync_idle(const struct sync *y)
{
    return map_count(y->job) == 0 && y->swept;
}

void sync_drain(struct sync *y)
{
    CHECK_MAGIC(y, SYNC_MAGIC);
    size_t pos = 0;
    void *value;
    ev_timer_stop(loop_ev(y->ss->env.loop), &y->check);
    ev_timer_stop(loop_ev(y->ss->env.loop), &y->sweep);
    while (map_next(y->job, &pos, NULL, &value)) {
        struct job *j = value;
        if (!j->working) {
            job_over(j);
            pos = 0;
        }
    }
}

void sync_free(struct sync **yp)
{
    struct sync *y = *yp;
    if (y == NULL)
        return;
    CHECK_MAGIC(y, SYNC_MAGIC);
    *yp = NULL;
    size_t pos = 0;
    void *value;
    ev_timer_stop(loop_ev(y->ss->env.loop), &y->check);
    ev_timer_stop(loop_ev(y->ss->env.loop), &y->sweep);
    while (map_next(y->job, &pos, NULL, &value)) {
        struct job *j = value;
        map_remove(y->job, j->file);
        if (!j->working) /* else an executor's thread that was abandoned may still use it */
            job_free(j);
        pos = 0;
    }
    map_free(&y->job);
    free(y->dir);
    y->magic = OMID_MAGIC_DEAD;
    free(y);
}
