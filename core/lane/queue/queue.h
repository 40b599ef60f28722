/*
 * The durable lane: at-least-once jobs that survive kill -9. A job is on disk before it counts as accepted. The
 * interface speaks of leases, delays, names, receipts and counts, never of SQL: a clustered backend implements the
 * same.
 *
 * Embedded backend: queue.db (SQLite, WAL, synchronous=FULL), one writer thread with group commit. States: ready (due
 * or delayed) -> leased -> done | ready again (delayed) | dead -> ready (replayed).
 *
 * Another backend implements every function here, and with them:
 *   queue_open, queue_start, queue_pause, queue_resume, queue_stop, queue_free   its life; its leases of a former life
 *   queue_enqueue, queue_enqueue_all, queue_fence  names, receipts, all or none, delays; accepted when it can't be lost
 *   the dispatch function, queue_finish, queue_attempt   leases that run out, turns among targets, strict order and
 *                                                rates of targets, the retry schedule, OMID_JOB_WAIT without an attempt
 *   queue_dead_*, queue_sweep_*, queue_deliveries        dead letters, replays that go on after a restart, the log
 *   queue_counts, queue_retry_after_s, queue_health, queue_status        what it holds, whether it takes jobs, and when
 * rate.h, queue_retry_delay() and queue_failures() know nothing of a backend and are there for it. queue_wake is for
 * tests that drive the clock. Ids are of one backend, unique and rising, but need not be without gaps.
 */
#ifndef OMID_LANE_QUEUE_QUEUE_H
#define OMID_LANE_QUEUE_QUEUE_H

#include <omid/plugin.h>
#include <stdbool.h>

#include "base/json.h"
#include "base/loop.h"

struct queue;
struct queue_claim; /* one leased attempt; owned by whoever handles it until queue_finish() */

struct queue_config {
    const char *path; /* queue.db */
    uint32_t commit_ms, lease_ms;
    unsigned in_flight, in_flight_per_target;
    uint64_t max_jobs;
    /* Payload of what waits or is under way; 0: no bound. As much again is kept of dead letters. One call that is
     * larger than half of it is taken while at most half is held. */
    uint64_t max_bytes;
    /* Of what the others leave of max_jobs, and of max_bytes, a target holds at most this share; 0 or 1: no bound. So
     * that one, or several together, that can't be delivered to never fill it. */
    double max_share;
    const uint32_t *retry_ms; /* delays between attempts; after the last: dead */
    size_t n_retry;
    double jitter;
    uint32_t name_keep_ms; /* how long a finished name still answers with its first id, and a receipt with its value */
    uint64_t dead, attempts;                /* dead letters, and attempts in the log, that are kept; dead 0: all */
    int64_t dead_keep_ms, attempts_keep_ms; /* ... and for how long; 0: no bound */
    uint32_t replay_per_s;                  /* at most, of a replay of many */
    /* Unix ms and a random number in 0..1: driven by tests; NULL: the real ones. Who drives the clock calls
     * queue_wake() after setting it. */
    int64_t (*now)(void);
    /* Monotonic ms, for leases and waits; NULL: the real one, or `now` where that is driven. */
    int64_t (*mono)(void);
    double (*random)(void);
    /* A target holds its share and more was to come: `refused` since the last time, at most once a minute for each.
     * Queue's thread. May be NULL. */
    void (*over_share)(void *arg, const char *owner, const char *target, uint64_t held, uint64_t refused);
    void *over_share_arg;
};

/* A leased job to run. Called on the queue's thread: post it on to where it belongs, don't work here. false: nobody
 * takes jobs of this owner now (its plugin is not running): the job stays, and is offered again later. */
typedef bool (*queue_dispatch_fn)(void *arg, struct queue_claim *claim);

/* Opens or creates; a schema version newer than known, a truncated or a corrupt file is reported in err (a
 * corrupt one is set aside as PATH.corrupt-<unix seconds> and a new one begun: *set_aside = true). NULL: err says why.
 * One that is there opens on a full disk too: then every operation fails, as queue_health() says, until it has room. */
struct queue *queue_open(const struct queue_config *config, bool *set_aside, char *err, size_t errlen);
/* Begins to claim due jobs. Leases of a former process are free at once. */
bool queue_start(struct queue *q, queue_dispatch_fn dispatch, void *arg);
/* No more claims. Enqueues and finishes still work. */
void queue_pause(struct queue *q);
void queue_resume(struct queue *q);
/* Any thread: looks again at once (a driven clock was set). */
void queue_wake(struct queue *q);
/* Any thread: so long after the last change its writer's cache is freed. 0, as it begins: never. */
void queue_set_idle(struct queue *q, uint32_t ms);
/* Commits everything, ends the thread. Claims not finished stay leased on disk and are free at the next start. */
void queue_stop(struct queue *q);
void queue_free(struct queue **q);

/* Any thread. cb on `loop` once the job is on disk (or is not); see omid_host.job_enqueue(). owner: plugin name. */
int queue_enqueue(struct queue *q, const char *owner, const struct omid_job *job, struct loop *loop,
                  omid_enqueued_cb cb, void *arg);
/* Several at once, all or none, with a receipt; see omid_host.jobs_enqueue(). Every job is a whole struct omid_job of
 * this version. OMID_EINVAL beyond 10,000 jobs. What queue_config.max_share refuses is told to cb alone, not to a
 * fence; see omid_job.dead_if_full. */
#define QUEUE_MAX_BATCH 10000
int queue_enqueue_all(struct queue *q, const char *owner, const struct omid_job *jobs, size_t n,
                      const struct omid_receipt *receipt, struct loop *loop, omid_jobs_enqueued_cb cb, void *arg);
/* cb(OMID_OK) on `loop` when everything enqueued by the calling thread before this call is on disk; OMID_ERR if any
 * of them since that thread's last fence is not (the disk failed, or a bound refused it, also within the call). */
int queue_fence(struct queue *q, struct loop *loop, void (*cb)(void *arg, int result), void *arg);

const char *queue_claim_owner(const struct queue_claim *c);
const struct omid_job_view *queue_claim_view(const struct queue_claim *c);
/* The handler, before queue_finish(): what the attempt saw; copied. With status 429, or 503 and a Retry-After, its
 * whole target is left alone for so long (retry_after_s of the finish, at least 1 s), and is then asked no faster than
 * it has answered before. */
void queue_attempt(struct queue_claim *c, const struct omid_attempt *attempt);
/* Any thread, also after queue_free(). Frees the claim. A claim whose lease has run out meanwhile changes nothing
 * (counted). OMID_JOB_WAIT holds the whole target back for retry_after_s (at least 1 s) or until one of its jobs is
 * done: an open breaker is not asked for each job of a backlog. */
void queue_finish(struct queue_claim **c, enum omid_job_outcome outcome, uint32_t retry_after_s, const char *error);

/* ---- dead letters. Any thread; each callback comes once, on `loop`, and what it is handed is valid until it returns.
 * The calls answer OMID_OK (the callback will come), OMID_EINVAL, OMID_ERR or OMID_ECLOSED. */

/* Which of them; NULL or 0: any. error: a part of its text. from_ms <= died or time < to_ms, Unix ms. */
struct queue_filter {
    const char *owner, *type, *target, *error;
    int64_t from_ms, to_ms;
    bool failed; /* of the log of attempts: those that were not done */
};
struct queue_dead {
    uint64_t id;
    const char *owner, *type, *name, *target, *error; /* "" where there is none */
    unsigned attempts;
    bool ordered;
    int64_t created_ms, died_ms;
    const void *payload; /* of queue_dead_show() alone */
    size_t payload_len;
};
#define QUEUE_MAX_PAGE 1000
typedef void (*queue_dead_cb)(void *arg, int result, const struct queue_dead *item, size_t n);
/* The newest first, at most `limit` (1..QUEUE_MAX_PAGE), those before this one (NULL: from the newest; id and died_ms
 * count). Fewer than limit: the end. */
int queue_dead_list(struct queue *q, const struct queue_filter *f, const struct queue_dead *before, size_t limit,
                    struct loop *loop, queue_dead_cb cb, void *arg);
/* n is 1, or 0. */
int queue_dead_show(struct queue *q, uint64_t id, struct loop *loop, queue_dead_cb cb, void *arg);
/* One: brought back with its id and name, its schedule anew; or gone for good, though its name answers for a while.
 * OMID_ENOTSUP: there is none; OMID_EFULL: the queue is full. */
typedef void (*queue_done_cb)(void *arg, int result);
int queue_dead_replay(struct queue *q, uint64_t id, struct loop *loop, queue_done_cb cb, void *arg);
int queue_dead_drop(struct queue *q, uint64_t id, struct loop *loop, queue_done_cb cb, void *arg);

/* Many: a work of its own that goes on after a restart where it was, from the oldest to the newest of those that were
 * dead when it began, and waits while the queue is full. */
enum queue_sweep_action { QUEUE_REPLAY, QUEUE_DROP };
enum queue_sweep_state { QUEUE_SWEEP_RUNNING, QUEUE_SWEEP_DONE, QUEUE_SWEEP_CANCELLED };
struct queue_sweep {
    uint64_t id;
    enum queue_sweep_action action;
    enum queue_sweep_state state;
    struct queue_filter filter;
    uint32_t per_s; /* at most; of a drop 0: as fast as it goes */
    int64_t created_ms, ended_ms;
    uint64_t total; /* dead letters when it began; */
    uint64_t seen;  /* those of them it has looked at; */
    uint64_t done;  /* those that matched */
};
/* per_s 0, or above queue_config.replay_per_s: that. OMID_EFULL to cb: 16 run already. */
int queue_sweep_begin(struct queue *q, enum queue_sweep_action action, const struct queue_filter *f, uint32_t per_s,
                      struct loop *loop, void (*cb)(void *arg, int result, uint64_t id), void *arg);
/* All that run and the last hundred, the newest first. */
int queue_sweep_list(struct queue *q, struct loop *loop,
                     void (*cb)(void *arg, int result, const struct queue_sweep *item, size_t n), void *arg);
/* What it has done stays done. OMID_ENOTSUP: none of this id runs. */
int queue_sweep_cancel(struct queue *q, uint64_t id, struct loop *loop, queue_done_cb cb, void *arg);

/* ---- the log of attempts: each that was told by queue_attempt(), or failed. */
enum queue_ended { QUEUE_ENDED_DONE, QUEUE_ENDED_RETRY, QUEUE_ENDED_DEAD, QUEUE_ENDED_EXPIRED };
struct queue_delivery {
    uint64_t id; /* of the line, rising */
    int64_t time_ms;
    uint64_t job;
    const char *owner, *type, *name, *target, *endpoint, *error; /* "" where there is none */
    unsigned attempt;
    enum queue_ended ended;
    int status; /* 0: no answer */
    uint32_t elapsed_ms;
    const char *answer; /* its first bytes, whatever they are */
    size_t answer_len;
};
typedef void (*queue_deliveries_cb)(void *arg, int result, const struct queue_delivery *item, size_t n);
/* The newest first, those before this id (0: from the newest) and after `after`. filter.target is compared with target
 * and endpoint. */
int queue_deliveries(struct queue *q, const struct queue_filter *f, uint64_t before, uint64_t after, size_t limit,
                     struct loop *loop, queue_deliveries_cb cb, void *arg);

struct queue_counts {
    uint64_t ready, delayed; /* delayed: after a failed attempt, or for a time that was asked for */
    uint64_t leased, dead;
    uint64_t done;  /* since the start */
    uint64_t bytes; /* payload of ready, delayed and leased */
};
void queue_counts(struct queue *q, struct queue_counts *out); /* any thread; as of the last commit */
/* Any thread. After OMID_EFULL: seconds until there may be room again, by how fast jobs have left lately. 1..300. */
uint32_t queue_retry_after_s(struct queue *q);
/* "" when the last commit succeeded, else why not (disk full, ...). Any thread. For /readyz. */
void queue_health(struct queue *q, char *err, size_t errlen);
void queue_status(struct queue *q, struct json_w *w);

#endif
