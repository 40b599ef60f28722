#include <errno.h>
#include <omid/plugin.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/dbwriter.h"
#include "base/log.h"
#include "base/magic.h"
#include "base/thread.h"

#define WRITER_MAGIC UINT32_C(0x64627772)
/* One transaction's worth: beyond it, latency grows and throughput does not. */
#define GROUP_OPS 8192
#define GROUP_BYTES ((size_t)16 << 20)
/* While the disk refuses and nobody writes, it is tried this often, so that /readyz turns green again by itself. */
#define PROBE_MS 2000

struct db_writer {
    uint32_t magic;
    struct db_writer_config c;
    pthread_t thread;
    bool started;
    int wake;            /* eventfd */
    atomic_uint idle_ms; /* any thread */

    pthread_mutex_t lock;
    struct db_op *head, **tail;
    uint64_t first_ms; /* when the oldest waiting one came */
    bool kicked, stopping, asleep;
    struct db_writer_stats stats;
    char health[512];

    /* writer's thread alone */
    uint64_t commit_began_ms, probe_at_ms, failed_at_ms;
    uint64_t cached_ms; /* the last write, or the first look, since its cache was freed; 0: none */
    bool ready, failing;
    bool wrote; /* the last group has changed something */
};

struct db_writer *db_writer_new(const struct db_writer_config *config)
{
    struct db_writer *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return NULL;
    w->magic = WRITER_MAGIC;
    w->c = *config;
    w->tail = &w->head;
    w->ready = config->ready == NULL;
    w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->wake < 0) {
        free(w);
        return NULL;
    }
    pthread_mutex_init(&w->lock, NULL);
    return w;
}

void db_writer_free(struct db_writer **wp)
{
    struct db_writer *w = *wp;
    if (w == NULL)
        return;
    CHECK_MAGIC(w, WRITER_MAGIC);
    omid_assert(!w->started && w->head == NULL);
    close(w->wake);
    pthread_mutex_destroy(&w->lock);
    w->magic = OMID_MAGIC_DEAD;
    free(w);
    *wp = NULL;
}

/* With the lock. One write per sleep, however much is posted. */
static void wake_locked(struct db_writer *w)
{
    uint64_t one = 1;
    if (!w->asleep)
        return;
    w->asleep = false;
    if (write(w->wake, &one, sizeof(one)) < 0)
        omid_assert(errno == EAGAIN);
}

static int post(struct db_writer *w, struct db_op *op, bool bounded)
{
    int result = OMID_OK;
    CHECK_MAGIC(w, WRITER_MAGIC);
    pthread_mutex_lock(&w->lock);
    struct db_writer_stats *s = &w->stats;
    if (w->stopping) {
        result = OMID_ECLOSED;
    } else if (bounded && (s->waiting >= w->c.max_ops || s->waiting_bytes + op->bytes > w->c.max_bytes)) {
        s->refused++;
        result = OMID_EFULL;
    } else {
        op->next = NULL;
        if (w->head == NULL)
            w->first_ms = clock_mono_ms();
        *w->tail = op;
        w->tail = &op->next;
        s->waiting++;
        s->waiting_bytes += op->bytes;
        wake_locked(w);
    }
    pthread_mutex_unlock(&w->lock);
    return result;
}

int db_writer_post(struct db_writer *w, struct db_op *op)
{
    return post(w, op, true);
}

bool db_writer_post_always(struct db_writer *w, struct db_op *op)
{
    return post(w, op, false) == OMID_OK;
}

void db_writer_kick(struct db_writer *w)
{
    uint64_t one = 1;
    CHECK_MAGIC(w, WRITER_MAGIC);
    pthread_mutex_lock(&w->lock);
    if (!w->kicked) {
        w->kicked = true;
        /* It may be in poll() for the rest of the group's time with asleep already taken back by a post. */
        w->asleep = false;
        if (write(w->wake, &one, sizeof(one)) < 0)
            omid_assert(errno == EAGAIN);
    }
    pthread_mutex_unlock(&w->lock);
}

void db_writer_set_idle(struct db_writer *w, uint32_t ms)
{
    CHECK_MAGIC(w, WRITER_MAGIC);
    atomic_store(&w->idle_ms, ms);
    db_writer_kick(w); /* it may sleep by the former */
}

void db_writer_stats(struct db_writer *w, struct db_writer_stats *out)
{
    CHECK_MAGIC(w, WRITER_MAGIC);
    pthread_mutex_lock(&w->lock);
    *out = w->stats;
    pthread_mutex_unlock(&w->lock);
}

void db_writer_health(struct db_writer *w, char *err, size_t errlen)
{
    CHECK_MAGIC(w, WRITER_MAGIC);
    pthread_mutex_lock(&w->lock);
    snprintf(err, errlen, "%s", w->health);
    pthread_mutex_unlock(&w->lock);
}

/* ---------------------------------------------------------------- commits */

/* A success makes the file healthy again only when it has written something, and when nothing has failed for a while:
 * on a disk that is almost full small commits pass between large ones that don't. */
static void note_outcome(struct db_writer *w, bool ok)
{
    uint64_t now = clock_mono_ms();
    if (ok && w->failing && (!w->wrote || now - w->failed_at_ms < PROBE_MS)) {
        pthread_mutex_lock(&w->lock);
        w->stats.commits++;
        pthread_mutex_unlock(&w->lock);
        return;
    }
    if (!ok)
        w->failed_at_ms = now;
    if (!ok)
        log_error("db", "a commit failed", LS("reason", db_error(w->c.db)));
    else if (w->failing)
        log_notice("db", "commits succeed again", LS("file", db_path(w->c.db)));
    pthread_mutex_lock(&w->lock);
    if (ok) {
        w->stats.commits++;
        w->health[0] = '\0';
    } else {
        w->stats.failed_commits++;
        snprintf(w->health, sizeof(w->health), "%s", db_error(w->c.db));
    }
    pthread_mutex_unlock(&w->lock);
    w->failing = !ok;
    if (!ok)
        w->probe_at_ms = clock_mono_ms() + PROBE_MS;
}

/* Runs ops in one transaction, keeping each result. false: rolled back. */
static bool run_group(struct db_writer *w, struct db_op *ops, int *results)
{
    uint64_t began = clock_mono_ns();
    size_t i = 0;
    if (w->c.begin != NULL)
        w->c.begin(w->c.ctx);
    int64_t written = db_total_changes(w->c.db);
    if (!db_begin(w->c.db))
        return false;
    for (struct db_op *op = ops; op != NULL; op = op->next) {
        int r = op->run(w->c.ctx, op);
        if (r == OMID_ERR) {
            db_rollback(w->c.db);
            return false;
        }
        results[i++] = r;
    }
    if (!db_commit(w->c.db))
        return false;
    w->wrote = db_total_changes(w->c.db) != written;
    if (w->c.commit_seconds != NULL)
        metric_observe(w->c.commit_seconds, (double)(clock_mono_ns() - began) / 1e9);
    return true;
}

static void finish_op(struct db_writer *w, struct db_op *op, int result)
{
    pthread_mutex_lock(&w->lock);
    w->stats.ops++;
    w->stats.failed_ops += result == OMID_ERR;
    pthread_mutex_unlock(&w->lock);
    op->done(w->c.ctx, op, result);
}

static void fail_all(struct db_writer *w, struct db_op *ops)
{
    for (struct db_op *next; ops != NULL; ops = next) {
        next = ops->next;
        finish_op(w, ops, OMID_ERR);
    }
}

static void commit_group(struct db_writer *w, struct db_op *ops, size_t n)
{
    int *results = NULL, one;
    if (n > 1)
        results = calloc(n, sizeof(*results));
    if (results != NULL) {
        bool ok = run_group(w, ops, results);
        note_outcome(w, ok);
        if (ok) {
            for (size_t i = 0; i < n; i++) {
                struct db_op *next = ops->next;
                finish_op(w, ops, results[i]);
                ops = next;
            }
            free(results);
            return;
        }
    }
    /* A single one, or alone after the group's failure: whoever is to blame fails by itself. */
    while (ops != NULL) {
        struct db_op *next = ops->next;
        ops->next = NULL;
        bool ok = run_group(w, ops, &one);
        note_outcome(w, ok);
        finish_op(w, ops, ok ? one : OMID_ERR);
        ops = next;
    }
    free(results);
}

/* Takes up to a group's worth; with the lock. */
static struct db_op *take_locked(struct db_writer *w, size_t *n)
{
    struct db_op *first = w->head, **end = &w->head;
    size_t bytes = 0;
    *n = 0;
    while (*end != NULL && *n < GROUP_OPS && bytes < GROUP_BYTES) {
        bytes += (*end)->bytes;
        end = &(*end)->next;
        (*n)++;
    }
    w->head = *end;
    if (w->head == NULL)
        w->tail = &w->head;
    *end = NULL;
    w->stats.waiting -= *n;
    w->stats.waiting_bytes -= bytes;
    return *n ? first : NULL;
}

/* ---------------------------------------------------------------- thread */

/* How long until the waiting group is due; -1: none waits. With the lock. */
static int64_t group_due_locked(const struct db_writer *w, uint64_t now)
{
    if (w->head == NULL)
        return -1;
    uint64_t due = w->commit_began_ms + w->c.commit_ms;
    if (w->kicked || w->stopping || due <= now || w->stats.waiting >= GROUP_OPS)
        return 0;
    return (int64_t)(due - now);
}

static int64_t sooner(int64_t a, int64_t b)
{
    if (a < 0 || b < 0)
        return a < 0 ? b : a;
    return a < b ? a : b;
}

/* When its cache is to be freed; 0: never, or it has been. */
static uint64_t idle_at_ms(struct db_writer *w)
{
    uint32_t ms = atomic_load(&w->idle_ms);
    return ms != 0 && w->cached_ms != 0 ? w->cached_ms + ms : 0;
}

static void wait_for_work(struct db_writer *w)
{
    struct pollfd fds[2] = {{.fd = w->wake, .events = POLLIN}, {.fd = w->c.extra_fd, .events = POLLIN}};
    uint64_t count;
    int64_t ms = w->ready && w->c.next_ms != NULL ? w->c.next_ms(w->c.ctx) : -1;
    uint64_t now = clock_mono_ms(), idle_at = idle_at_ms(w);
    if (w->failing)
        ms = sooner(ms, w->probe_at_ms > now ? (int64_t)(w->probe_at_ms - now) : 0);
    if (idle_at != 0)
        ms = sooner(ms, idle_at > now ? (int64_t)(idle_at - now) : 0);
    pthread_mutex_lock(&w->lock);
    int64_t group = group_due_locked(w, now);
    ms = sooner(ms, group);
    if (w->stopping || w->kicked)
        ms = 0;
    /* With a group on its way, the next posts need not wake it: the timeout does. */
    w->asleep = group < 0 && ms != 0;
    pthread_mutex_unlock(&w->lock);
    if (ms != 0) {
        if (ms > 60000 * 60)
            ms = 60000 * 60;
        poll(fds, w->c.extra_fd >= 0 ? 2 : 1, (int)ms);
    }
    if (read(w->wake, &count, sizeof(count)) < 0)
        omid_assert(errno == EAGAIN);
}

static void check_ready(struct db_writer *w, uint64_t now)
{
    if (w->ready || now < w->probe_at_ms)
        return;
    w->ready = w->c.ready(w->c.ctx);
    w->wrote = true;
    note_outcome(w, w->ready);
}

static bool turn(struct db_writer *w)
{
    uint64_t now = clock_mono_ms();
    check_ready(w, now);
    struct db_op *own = w->ready && w->c.prepare != NULL ? w->c.prepare(w->c.ctx) : NULL, *ops = NULL;
    size_t n = 0;
    pthread_mutex_lock(&w->lock);
    w->asleep = false;
    bool stopping = w->stopping;
    if (own != NULL || group_due_locked(w, now) == 0) {
        ops = take_locked(w, &n);
        if (w->head == NULL)
            w->kicked = false;
    } else if (w->head == NULL) {
        w->kicked = false;
    }
    bool more = w->head != NULL;
    pthread_mutex_unlock(&w->lock);
    /* Its own after the others': they see, in the same transaction, what was just finished. */
    struct db_op **end = &ops;
    while (*end != NULL)
        end = &(*end)->next;
    *end = own;
    for (struct db_op *op = own; op != NULL; op = op->next)
        n++;
    if (ops != NULL && !w->ready) {
        fail_all(w, ops);
        return true;
    }
    if (ops != NULL) {
        w->commit_began_ms = now;
        commit_group(w, ops, n);
        /* Looks at what is due come for ever: they must not keep what the writes of a busy hour have left. */
        if (w->wrote || w->cached_ms == 0)
            w->cached_ms = clock_mono_ms();
        return true;
    }
    uint64_t idle_at = idle_at_ms(w);
    if (idle_at != 0 && now >= idle_at) {
        db_cache_free(w->c.db);
        w->cached_ms = 0;
    }
    if (w->ready && w->failing && now >= w->probe_at_ms) {
        w->wrote = true;
        note_outcome(w, db_probe(w->c.db));
    }
    return !stopping || more;
}

static void *writer_main(void *arg)
{
    struct db_writer *w = arg;
    while (turn(w))
        wait_for_work(w);
    return NULL;
}

bool db_writer_start(struct db_writer *w)
{
    CHECK_MAGIC(w, WRITER_MAGIC);
    omid_assert(!w->started);
    w->started = thread_start(&w->thread, w->c.name, writer_main, w);
    return w->started;
}

void db_writer_stop(struct db_writer *w)
{
    CHECK_MAGIC(w, WRITER_MAGIC);
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_mutex_unlock(&w->lock);
    db_writer_kick(w);
    if (w->started) {
        pthread_join(w->thread, NULL);
        w->started = false;
    } else {
        /* Never started: its operations are still owed an answer. */
        while (turn(w))
            ;
    }
}
