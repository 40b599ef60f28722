/* Counts, health and metrics. Any thread. */
#include "lane/queue/queue_int.h"

void queue_counts(struct queue *q, struct queue_counts *out)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    uint64_t done = atomic_load(&q->outcome[OMID_JOB_DONE]); /* first, as it is counted last: see finish_done() */
    uint64_t waiting = atomic_load(&q->waiting), delayed = atomic_load(&q->delayed);
    *out = (struct queue_counts){
        /* Read one after the other, while the writer goes on: never below nothing. */
        .ready = waiting > delayed ? waiting - delayed : 0,
        .delayed = delayed,
        .leased = atomic_load(&q->leased),
        .dead = atomic_load(&q->dead),
        .done = done,
        .bytes = atomic_load(&q->bytes),
    };
}

#define SHARE_RETRY_S 60 /* a target that holds its share is one that keeps failing, or is far behind */
#define ROOM_WANTED 100  /* jobs: who comes back finds more than one place */

#define BYTES_WANTED 16 /* one part in so many of max_bytes, likewise */

/* Until so many jobs have left; rate: of 1000 s. */
static uint32_t seconds(uint64_t jobs, uint64_t rate)
{
    uint64_t s = rate > 0 ? jobs * 1000 / rate : 60;
    return s < 1 ? 1 : s > 300 ? 300 : (uint32_t)s;
}

uint32_t queue_retry_after_s(struct queue *q)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    if (atomic_load(&q->share_refused))
        return SHARE_RETRY_S;
    uint64_t held = atomic_load(&q->waiting) + atomic_load(&q->leased), rate = atomic_load(&q->rate);
    if (atomic_load(&q->bytes_refused)) {
        uint64_t bytes = atomic_load(&q->bytes), some = q->c.max_bytes / BYTES_WANTED,
                 each = held > 0 ? bytes / held : 0;
        if (bytes + some > q->c.max_bytes)
            return seconds(each > 0 ? (bytes + some - q->c.max_bytes) / each + 1 : 1, rate);
    }
    uint64_t wanted = q->c.max_jobs < ROOM_WANTED ? q->c.max_jobs : ROOM_WANTED;
    if (held + wanted <= q->c.max_jobs)
        return 1; /* it was the way to the disk that was full */
    return seconds(held + wanted - q->c.max_jobs, rate);
}

void queue_health(struct queue *q, char *err, size_t errlen)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    db_writer_health(q->writer, err, errlen);
}

void queue_status(struct queue *q, struct json_w *w)
{
    struct queue_counts n;
    struct db_writer_stats s;
    char health[512];
    queue_counts(q, &n);
    db_writer_stats(q->writer, &s);
    queue_health(q, health, sizeof(health));
    json_w_open(w, '{');
    json_w_kstr(w, "file", q->path);
    json_w_kint(w, "ready", (int64_t)n.ready);
    json_w_kint(w, "delayed", (int64_t)n.delayed);
    json_w_kint(w, "leased", (int64_t)n.leased);
    json_w_kint(w, "dead", (int64_t)n.dead);
    json_w_kint(w, "done", (int64_t)n.done);
    json_w_kint(w, "bytes", (int64_t)n.bytes);
    json_w_kint(w, "dead_bytes", (int64_t)atomic_load(&q->dead_bytes));
    json_w_kint(w, "max_jobs", (int64_t)q->c.max_jobs);
    json_w_kint(w, "max_bytes", (int64_t)q->c.max_bytes);
    json_w_kint(w, "names", (int64_t)atomic_load(&q->names));
    json_w_kint(w, "receipts", (int64_t)atomic_load(&q->receipts));
    json_w_kint(w, "enqueued", (int64_t)atomic_load(&q->enqueued));
    json_w_kint(w, "duplicates", (int64_t)atomic_load(&q->duplicates));
    json_w_kint(w, "repeated", (int64_t)atomic_load(&q->repeated));
    json_w_kint(w, "refused", (int64_t)atomic_load(&q->refused));
    json_w_kint(w, "failed", (int64_t)atomic_load(&q->failed));
    json_w_kint(w, "retried", (int64_t)atomic_load(&q->outcome[OMID_JOB_RETRY]));
    json_w_kint(w, "waited", (int64_t)atomic_load(&q->outcome[OMID_JOB_WAIT]));
    json_w_kint(w, "died", (int64_t)atomic_load(&q->outcome[OMID_JOB_DEAD]));
    json_w_kint(w, "replayed", (int64_t)atomic_load(&q->replayed));
    json_w_kint(w, "dropped", (int64_t)atomic_load(&q->dropped));
    json_w_kint(w, "late_finishes", (int64_t)atomic_load(&q->late));
    json_w_kint(w, "leases_expired", (int64_t)atomic_load(&q->expired));
    json_w_kint(w, "commits", (int64_t)s.commits);
    json_w_kint(w, "failed_commits", (int64_t)s.failed_commits);
    json_w_kint(w, "waiting_for_disk", (int64_t)s.waiting);
    json_w_kstr(w, "health", health);
    json_w_close(w, '}');
}

static void family(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void sample(struct buf *out, const char *name, const char *label, const char *value, uint64_t n)
{
    if (label != NULL)
        buf_printf(out, "%s{%s=\"%s\"} %llu\n", name, label, value, (unsigned long long)n);
    else
        buf_printf(out, "%s %llu\n", name, (unsigned long long)n);
}

static void counter(struct buf *out, const char *name, const char *help, uint64_t n)
{
    family(out, name, "counter", help);
    sample(out, name, NULL, NULL, n);
}

void queue_metrics_collect(void *arg, struct buf *out)
{
    struct queue *q = arg;
    struct queue_counts n;
    static const char jobs[] = "omid_queue_jobs", fin[] = "omid_queue_finished_total";
    queue_counts(q, &n);
    family(out, jobs, "gauge", "Durable jobs by state; delayed: waiting for a retry or a set time.");
    sample(out, jobs, "state", "ready", n.ready);
    sample(out, jobs, "state", "delayed", n.delayed);
    sample(out, jobs, "state", "leased", n.leased);
    sample(out, jobs, "state", "dead", n.dead);
    family(out, "omid_queue_payload_bytes", "gauge", "Payload of the jobs that wait or are leased.");
    sample(out, "omid_queue_payload_bytes", NULL, NULL, n.bytes);
    family(out, "omid_queue_dead_bytes", "gauge", "Payload of the dead letters.");
    sample(out, "omid_queue_dead_bytes", NULL, NULL, atomic_load(&q->dead_bytes));
    family(out, "omid_queue_max_bytes", "gauge", "The bound on each of both: queue.max_bytes.");
    sample(out, "omid_queue_max_bytes", NULL, NULL, q->c.max_bytes);
    family(out, "omid_queue_names", "gauge", "Names of finished jobs kept against repetition.");
    sample(out, "omid_queue_names", NULL, NULL, atomic_load(&q->names));
    family(out, "omid_queue_receipts", "gauge", "Receipts kept against repetition.");
    sample(out, "omid_queue_receipts", NULL, NULL, atomic_load(&q->receipts));
    counter(out, "omid_queue_repeated_total", "Calls whose receipt was known already.", atomic_load(&q->repeated));
    counter(out, "omid_queue_enqueued_total", "Jobs written to disk.", atomic_load(&q->enqueued));
    counter(out, "omid_queue_duplicates_total", "Jobs whose name was known already.", atomic_load(&q->duplicates));
    counter(out, "omid_queue_refused_total", "Jobs refused because a bound was reached.", atomic_load(&q->refused));
    family(out, "omid_queue_over_share_total", "counter",
           "Jobs of targets that hold their share of the queue, by what became of them.");
    sample(out, "omid_queue_over_share_total", "outcome", "refused", atomic_load(&q->over_share[OVER_REFUSED]));
    sample(out, "omid_queue_over_share_total", "outcome", "dead", atomic_load(&q->over_share[OVER_DEAD]));
    sample(out, "omid_queue_over_share_total", "outcome", "dropped", atomic_load(&q->over_share[OVER_DROPPED]));
    counter(out, "omid_queue_failed_total", "Jobs that could not be written to disk.", atomic_load(&q->failed));
    family(out, fin, "counter", "Attempts by how they ended.");
    sample(out, fin, "outcome", "done", atomic_load(&q->outcome[OMID_JOB_DONE]));
    sample(out, fin, "outcome", "retry", atomic_load(&q->outcome[OMID_JOB_RETRY]));
    sample(out, fin, "outcome", "wait", atomic_load(&q->outcome[OMID_JOB_WAIT]));
    sample(out, fin, "outcome", "dead", atomic_load(&q->outcome[OMID_JOB_DEAD]));
    sample(out, fin, "outcome", "expired", atomic_load(&q->expired));
    sample(out, fin, "outcome", "not_taken", atomic_load(&q->released));
    counter(out, "omid_queue_late_finish_total", "Attempts that ended after their lease; nothing was changed.",
            atomic_load(&q->late));
    counter(out, "omid_queue_replayed_total", "Dead jobs that were brought back.", atomic_load(&q->replayed));
    counter(out, "omid_queue_dropped_total", "Dead jobs that were dropped by an administrator.",
            atomic_load(&q->dropped));
    family(out, "omid_queue_evicted_total", "counter", "Entries dropped because their bound was reached.");
    sample(out, "omid_queue_evicted_total", "what", "name", atomic_load(&q->evicted_names));
    sample(out, "omid_queue_evicted_total", "what", "receipt", atomic_load(&q->evicted_receipts));
    sample(out, "omid_queue_evicted_total", "what", "dead", atomic_load(&q->evicted_dead));
}
