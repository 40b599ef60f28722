/* Opening, the life of the thread, what is told to others. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "lane/queue/queue_int.h"

/* What may wait for the disk: enough for a second of stall at full rate, and no more memory than that. */
#define INBOX_OPS 200000
#define INBOX_BYTES ((size_t)64 << 20)

static const double commit_bounds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5};

/* As of the last look at both clocks: within a turn the wall clock can't jump. */
int64_t queue_wall(const struct queue *q)
{
    return queue_mono(q) + q->drift;
}

int64_t queue_row_now(const struct queue *q)
{
    return queue_wall(q) - q->txn_shift;
}

/* A driven clock drives both: time that a test lets pass is no clock being set. */
int64_t queue_mono(const struct queue *q)
{
    return q->c.mono();
}

static int64_t real_mono(void)
{
    return (int64_t)clock_mono_ms();
}

/* ---------------------------------------------------------------- the writer's questions */

static void txn_begin(void *ctx)
{
    struct queue *q = ctx;
    q->txn_next_id = q->next_id;
    q->txn_reserved_id = q->reserved_id;
    q->txn++;
    q->txn_jobs = q->txn_bytes = q->txn_dead = q->txn_dead_bytes = 0;
    q->txn_shift = q->shift;
}

static struct db_op *append(struct db_op *list, struct db_op *more)
{
    struct db_op **end = &list;
    while (*end != NULL)
        end = &(*end)->next;
    *end = more;
    return list;
}

/* How fast jobs leave, over about ten seconds. */
static void drain_measure(struct queue *q)
{
    int64_t now = queue_mono(q), ms = now - q->drained_at;
    uint64_t done = atomic_load(&q->outcome[OMID_JOB_DONE]) + atomic_load(&q->outcome[OMID_JOB_DEAD]);
    if (ms < 10000)
        return;
    atomic_store(&q->rate, (done - q->drained_done) * 1000000 / (uint64_t)ms);
    q->drained_done = done;
    q->drained_at = now;
}

static struct db_op *prepare(void *ctx)
{
    struct queue *q = ctx;
    queue_clock_check(q);
    drain_measure(q);
    if (queue_mono(q) < q->retry_at)
        return NULL;
    q->retry_at = 0;
    struct db_op *ops = q->returns;
    q->returns = NULL;
    ops = append(ops, queue_leases_expire(q));
    if (!atomic_load(&q->claiming))
        return ops;
    queue_targets_wake(q);
    ops = append(ops, queue_upkeep_prepare(q));
    ops = append(ops, queue_sweeps_prepare(q));
    return append(ops, queue_claims_prepare(q));
}

static int64_t next_ms(void *ctx)
{
    struct queue *q = ctx;
    int64_t now = queue_mono(q), next = QUEUE_NEVER;
    if (q->returns != NULL)
        next = now;
    if (!list_empty(&q->leases))
        next = queue_min(next, list_entry(q->leases.next, struct queue_claim, of_lease)->lease_until);
    if (atomic_load(&q->claiming)) {
        next = queue_min(next, queue_claims_possible(q) || q->shift != 0 ? now : queue_targets_next(q));
        next = queue_min(next, queue_sweeps_next(q));
        if (q->upkeep_more || q->upkeep_due)
            next = queue_min(next, q->purge_at);
    }
    if (next == QUEUE_NEVER)
        return -1;
    if (next < q->retry_at)
        next = q->retry_at;
    if (next <= now)
        return 0;
    /* A driven clock does not pass by itself: whoever sets it wakes us. */
    return q->clock_fd >= 0 ? next - now : -1;
}

/* ---------------------------------------------------------------- open */

static int clock_fd_new(void)
{
    struct itimerspec far = {.it_value.tv_sec = INT32_MAX};
    int fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    if (fd >= 0 && timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &far, NULL) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool parts_new(struct queue *q, const struct queue_config *config)
{
    q->c = *config;
    q->path = strdup(config->path);
    q->retry_ms = calloc(config->n_retry + 1, sizeof(*q->retry_ms));
    q->targets = map_new();
    q->owners = map_new();
    if (q->path == NULL || q->retry_ms == NULL || q->targets == NULL || q->owners == NULL)
        return false;
    if (config->n_retry > 0)
        memcpy(q->retry_ms, config->retry_ms, config->n_retry * sizeof(*q->retry_ms));
    q->c.path = q->path;
    q->c.retry_ms = q->retry_ms;
    q->c.mono = config->mono ? config->mono : config->now ? config->now : real_mono;
    q->c.now = config->now ? config->now : clock_wall_ms;
    q->c.random = config->random ? config->random : id_random_unit;
    if (config->now == NULL && (q->clock_fd = clock_fd_new()) < 0)
        return false;
    q->drift = q->c.now() - queue_mono(q);
    q->drained_at = queue_mono(q);
    return true;
}

/* On a full disk what a former process had in hand can't be settled: there is nothing to begin with until it can. */
static bool ready(void *ctx)
{
    struct queue *q = ctx;
    if (!q->loaded) {
        queue_sweeps_free(q); /* of an attempt that got so far */
        q->loaded = queue_load(q);
    }
    return q->loaded;
}

static bool writer_new(struct queue *q)
{
    struct db_writer_config wc = {
        .name = "queue_writer",
        .db = q->db,
        .commit_ms = q->c.commit_ms,
        .max_ops = INBOX_OPS,
        .max_bytes = INBOX_BYTES,
        .ctx = q,
        .commit_seconds = metric_get(METRIC_HISTOGRAM, "omid_queue_commit_seconds",
                                     "Time of one transaction of the durable queue, from begin to on disk.", NULL, 0,
                                     commit_bounds, ARRAY_LEN(commit_bounds)),
        .ready = ready,
        .begin = txn_begin,
        .prepare = prepare,
        .next_ms = next_ms,
        .extra_fd = q->clock_fd,
    };
    q->writer = db_writer_new(&wc);
    return q->writer != NULL;
}

struct queue *queue_open(const struct queue_config *config, bool *set_aside, char *err, size_t errlen)
{
    omid_assert(config->in_flight > 0 && config->in_flight_per_target > 0 && config->lease_ms > 0);
    struct queue *q = calloc(1, sizeof(*q));
    *set_aside = false;
    if (q == NULL) {
        snprintf(err, errlen, "queue: no memory");
        return NULL;
    }
    q->magic = QUEUE_MAGIC;
    q->clock_fd = -1;
    atomic_init(&q->refs, 1);
    list_init(&q->ring);
    list_init(&q->owners_parked);
    list_init(&q->leases);
    list_init(&q->sweeps);
    pthread_mutex_init(&q->fence_lock, NULL);
    if (!parts_new(q, config)) {
        snprintf(err, errlen, "queue: no memory or descriptors");
        queue_free(&q);
        return NULL;
    }
    struct db_config dc = {.path = q->path,
                           .what = "queue",
                           .application_id = 0x6f6d6971, /* "omiq" */
                           .migrations = queue_migrations,
                           .n_migrations = queue_n_migrations,
                           .statements = queue_statements,
                           .n_statements = QS_STATEMENTS};
    q->db = db_open(&dc, set_aside, err, errlen);
    q->loaded = q->db != NULL && queue_load(q);
    if (q->db != NULL && !q->loaded) {
        snprintf(err, errlen, "%s", db_error(q->db));
        if (!db_is_full(q->db))
            db_close(&q->db);
    }
    if (q->db == NULL) {
        queue_free(&q);
        return NULL;
    }
    if (!writer_new(q)) {
        snprintf(err, errlen, "queue: no memory or descriptors");
        queue_free(&q);
        return NULL;
    }
    /* Ids of the file set aside are known outside; new ones must differ. */
    if (*set_aside)
        q->next_id = q->reserved_id = queue_wall(q) * 1000;
    if (!q->loaded)
        log_warning("queue", "nothing is taken or delivered until the disk has room", LS("reason", err));
    metrics_collector_add(queue_metrics_collect, q);
    q->collecting = true;
    return q;
}

bool queue_start(struct queue *q, queue_dispatch_fn dispatch, void *arg)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    q->dispatch = dispatch;
    q->dispatch_arg = arg;
    atomic_store(&q->claiming, true);
    return db_writer_start(q->writer);
}

void queue_pause(struct queue *q)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    atomic_store(&q->claiming, false);
}

void queue_resume(struct queue *q)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    atomic_store(&q->claiming, true);
    db_writer_kick(q->writer);
}

void queue_wake(struct queue *q)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    db_writer_kick(q->writer);
}

void queue_set_idle(struct queue *q, uint32_t ms)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    db_writer_set_idle(q->writer, ms);
}

void queue_stop(struct queue *q)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    queue_pause(q);
    db_writer_stop(q->writer);
    queue_claims_detach(q);
    q->stopped = true;
}

void queue_unref(struct queue *q)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    if (atomic_fetch_sub(&q->refs, 1) > 1)
        return;
    db_writer_free(&q->writer);
    pthread_mutex_destroy(&q->fence_lock);
    q->magic = OMID_MAGIC_DEAD;
    free(q->retry_ms);
    free(q->path);
    free(q);
}

void queue_free(struct queue **qp)
{
    struct queue *q = *qp;
    if (q == NULL)
        return;
    CHECK_MAGIC(q, QUEUE_MAGIC);
    if (q->writer != NULL && !q->stopped)
        queue_stop(q);
    if (q->collecting)
        metrics_collector_remove(queue_metrics_collect, q);
    queue_sweeps_free(q);
    if (q->targets != NULL && q->owners != NULL)
        queue_targets_free(q);
    map_free(&q->targets);
    map_free(&q->owners);
    db_close(&q->db);
    if (q->clock_fd >= 0)
        close(q->clock_fd);
    *qp = NULL;
    /* Claims that are still out keep the rest. */
    queue_unref(q);
}
