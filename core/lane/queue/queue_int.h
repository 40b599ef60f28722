/*
 * The inside of the durable lane, shared by the files of this folder.
 *
 * On disk: one row per job that is ready or dead; a lease is a row of its own in a small table, so that claiming and
 * finishing touch no big row and no big index. In memory: a struct per target with jobs (never per job), so that
 * a claim costs the same whatever waits, and a target that may not have more in flight is not looked at at all.
 *
 * Threads: everything here belongs to the writer's thread, except what says otherwise.
 */
#ifndef OMID_LANE_QUEUE_INT_H
#define OMID_LANE_QUEUE_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/dbwriter.h"
#include "base/list.h"
#include "base/map.h"
#include "lane/queue/queue.h"
#include "lane/queue/rate.h"

#define QUEUE_MAGIC UINT32_C(0x71756575)
#define CLAIM_MAGIC UINT32_C(0x71636c6d)

/* The longest conversation as JSON, whatever its 8 MiB of text need to be escaped, and a plugin's line about it. */
#define QUEUE_MAX_PAYLOAD (((size_t)32 << 20) + 4096)
/* A longer payload has a row of its own, so that a retry, a death and a replay write the narrow row alone. */
#define QUEUE_LARGE 3000
#define QUEUE_MAX_STRING 4096 /* bytes of a type, name or target */
#define QUEUE_MAX_KEY 512     /* of a receipt */
#define QUEUE_MAX_VALUE 4096
#define QUEUE_CLAIM_BATCH 256            /* claims in one transaction */
#define QUEUE_MAX_OUT ((size_t)64 << 20) /* payloads of attempts under way, in memory; then none is begun */
/* An attempt whose end nobody saw (crash, lease run out) is made again even beyond the schedule, this many times. */
#define QUEUE_LOST_GRACE 3
#define QUEUE_OWNER_RETRY_MS 1000 /* between two offers to an owner that is not there */
#define QUEUE_MIN_WAIT_MS 1000    /* OMID_JOB_WAIT with 0 s would spin */
#define QUEUE_DISK_RETRY_MS 1000  /* claims and finishes that could not be written */
#define QUEUE_PURGE_MS 60000
#define QUEUE_PURGE_STEP_MS 20    /* between the steps of one purge: the others' turn */
#define QUEUE_ATTEMPTS_SLACK 2000 /* beyond the bound, before they are purged */
#define QUEUE_NEVER INT64_MAX

/* job.state on disk: bits. */
#define QUEUE_STATE_DEAD 1
#define QUEUE_STATE_ORDERED 2

/* An owner (plugin) with jobs. */
struct queue_owner {
    struct list targets_parked;
    int64_t parked_until;       /* monotonic ms; 0: it takes jobs, as far as is known */
    struct queue_target *probe; /* offers one job to find out, while parked */
    struct list link;           /* q->owners_parked, while parked */
    char name[];
};

/* Where a target stands. One link, one list at a time; see target_set_state(). */
enum target_state {
    TARGET_IDLE,   /* nothing ready: only leased jobs, or about to be freed */
    TARGET_TIMED,  /* in the heap, by wake_at */
    TARGET_DUE,    /* in the ring of those served in turn */
    TARGET_FULL,   /* has all it may have in flight */
    TARGET_PARKED, /* its owner is not there */
};

/* What one owner sends to one place. */
struct queue_target {
    enum target_state state;
    struct list link; /* ring, or the owner's parked */
    size_t heap_at;   /* TARGET_TIMED */
    int64_t id;
    struct queue_owner *owner;
    unsigned pins;  /* operations under way that point here: no change of state, no freeing */
    uint64_t ready; /* rows ready on disk that are not leased; ordered ones are counted apart */
    uint64_t ordered;
    uint64_t bytes;     /* payload of all of them, leased ones too */
    bool ordered_out;   /* one of the ordered is leased: the next ones wait for its end */
    unsigned leased;    /* length of claims */
    struct list claims; /* struct queue_claim.of_target */
    int64_t next_due;   /* Unix ms of the earliest of ready, or earlier; QUEUE_NEVER: none */
    int64_t head_due;   /* the same of the first of the ordered */
    int64_t hold_until; /* monotonic ms: told to wait; 0: no */
    struct queue_rate rate;
    uint64_t txn, txn_jobs, txn_bytes; /* that the transaction of this number adds to it */
    uint64_t share_refused;            /* since it was last told */
    int64_t share_told_at;             /* monotonic ms; 0: never */
    int64_t wake_at;                   /* heap's key, monotonic ms */
    bool on_disk;                      /* its row is committed */
    char *key;                         /* in q->targets: owner, newline, target */
    const char *name;                  /* within key */
};

/* Who decides how the attempt ends. */
enum claim_state { CLAIM_OUT, CLAIM_FINISHED, CLAIM_EXPIRED };

/* struct omid_attempt, kept. */
#define QUEUE_MAX_ANSWER 256
struct queue_attempt {
    int status;
    uint32_t elapsed_ms;
    char endpoint[65]; /* "": the target */
    size_t answer_len;
    char answer[QUEUE_MAX_ANSWER];
};

/* One leased attempt. Two hold it: the writer until its end is on disk, the handler until queue_finish(). */
struct queue_claim {
    uint32_t magic;
    atomic_uint refs;
    atomic_uint state; /* enum claim_state; moves once, from CLAIM_OUT */
    struct queue *q;
    struct db_op op;                 /* of its end, whichever it is */
    struct queue_target *target;     /* pinned by nothing: a target with leases stays */
    struct list of_target, of_lease; /* q->leases, oldest first */
    int64_t lease_until;             /* monotonic ms */
    uint64_t generation;
    char *text; /* all strings */
    const char *owner;
    void *payload;
    struct omid_job_view view;
    unsigned lost; /* attempts so far whose end nobody saw */
    bool delayed;  /* had waited for a retry, or for a time that was asked for */
    bool ordered;
    int64_t not_before;
    /* the end */
    enum omid_job_outcome outcome;
    struct queue_attempt *attempt; /* what the handler saw; NULL: it did not say */
    bool released;                 /* not an attempt: nobody took it */
    bool dead;
    uint32_t retry_after_s;
    char error[256];
    int64_t next; /* not_before from now on; decided by run() */
};

#define QUEUE_FENCE_THREADS 64

struct queue {
    uint32_t magic;
    atomic_uint refs; /* the owner's, and one per claim */
    struct queue_config c;
    uint32_t *retry_ms;
    char *path;
    struct db *db;
    bool loaded; /* the state in memory is the file's; writer's thread */
    struct db_writer *writer;
    queue_dispatch_fn dispatch;
    void *dispatch_arg;
    atomic_bool claiming;
    bool stopped;
    bool collecting; /* registered with the metrics */
    int clock_fd;    /* readable when the wall clock was set; -1: driven clock */

    struct list sweeps; /* that run */
    struct map *targets, *owners;
    struct list ring, owners_parked, leases;
    size_t n_ring;
    struct queue_target **heap;
    size_t n_heap, heap_cap;
    int64_t drift;         /* wall - monotonic, ms */
    int64_t retry_at;      /* monotonic ms: after a failed write; 0: no */
    int64_t purge_at;      /* monotonic ms */
    struct db_op *returns; /* ends of claims to write in the next turn: failed before, or not taken */
    bool claims_under_way, upkeep_under_way;
    bool sweep_under_way;
    bool upkeep_due;           /* there was work since the last one */
    bool upkeep_more;          /* a purge is not at its end */
    uint64_t attempts_new;     /* since their last purge */
    uint64_t drained_done;     /* for queue_retry_after_s(): jobs that left ... */
    int64_t drained_at;        /* ... until then, mono ms */
    atomic_uint_fast64_t rate; /* that leave per 1000 s */
    unsigned targets_freed;    /* since their rows were last purged */
    int64_t shift;             /* of the wall clock, not yet applied to the rows; ms */

    int64_t next_id, reserved_id; /* ids below reserved_id may be given: the mark is on disk */
    int64_t next_target;
    uint64_t generation;
    /* What the transaction under way adds to; void when it does not commit. */
    int64_t txn_next_id, txn_reserved_id;
    uint64_t txn; /* its number */
    uint64_t txn_jobs, txn_bytes, txn_dead, txn_dead_bytes;
    int64_t txn_shift; /* what the rows' delays have yet to be moved by */

    /* Read by any thread. */
    atomic_uint_fast64_t waiting, delayed, leased, dead, bytes, dead_bytes, names, receipts; /* waiting: delayed too */
    atomic_size_t out_bytes; /* payloads of claims that exist */
    atomic_uint finishes;    /* not yet written */
    atomic_uint_fast64_t enqueued, duplicates, repeated, refused, failed, late, expired, released, evicted_names,
        evicted_receipts, evicted_dead;
    atomic_uint_fast64_t outcome[4];
    atomic_uint_fast64_t replayed, dropped;
    atomic_uint_fast64_t over_share[3]; /* by enum over_share */
    atomic_bool bytes_refused;          /* the last time that the queue was full, it was for want of bytes */
    atomic_bool share_refused;          /* that was why the last call was refused */

    /* Threads that had an enqueue not stored since their last fence. */
    pthread_mutex_t fence_lock;
    uint64_t fence_failed[QUEUE_FENCE_THREADS];
    size_t n_fence_failed;
    bool fence_overflow; /* more than fit: the next fence of anybody fails */
};

/* schema.c */
extern const char *const queue_migrations[];
extern const size_t queue_n_migrations;
enum queue_stmt {
    QS_JOB_INSERT,
    QS_LARGE_INSERT,
    QS_LARGE_DELETE,
    QS_LARGE_GET,
    QS_JOB_DELETE,
    QS_JOB_RETRY,
    QS_JOB_DEAD,
    QS_JOB_DUE,
    QS_JOB_HEAD,
    QS_JOB_GET,
    QS_JOBS_SHIFT,
    QS_DEAD_OLDEST,
    QS_DEAD_UP,
    QS_DEAD_DOWN,
    QS_DEAD_GET,
    QS_DEAD_REVIVE,
    QS_SWEEP_INSERT,
    QS_SWEEP_SAVE,
    QS_SWEEP_STATE,
    QS_SWEEP_CANCEL,
    QS_SWEEPS,
    QS_SWEEPS_PURGE,
    QS_ATTEMPTS_DOWN,
    QS_LEASE_INSERT,
    QS_LEASE_DELETE,
    QS_TARGET_GET,
    QS_TARGETS_PURGE,
    QS_TARGET_INSERT,
    QS_TARGET_RATE,
    QS_NAME_GET,
    QS_NAME_INSERT,
    QS_NAME_KEEP,
    QS_NAME_DROP,
    QS_NAMES_PURGE,
    QS_NAMES_EVICT,
    QS_RECEIPT_GET,
    QS_RECEIPT_INSERT,
    QS_RECEIPTS_PURGE,
    QS_RECEIPTS_EVICT,
    QS_ATTEMPT_INSERT,
    QS_ATTEMPTS_PURGE,
    QS_META_SET,
    QS_STATEMENTS
};
extern const char *const queue_statements[QS_STATEMENTS];

/* clock */
static inline int64_t queue_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
int64_t queue_wall(const struct queue *q);
/* Within a transaction: now, for not_before of a row. After the clock was set and before the rows have been moved along
 * it is what the clock would say had it not been set: the row is moved with the others. */
int64_t queue_row_now(const struct queue *q);
int64_t queue_mono(const struct queue *q);

/* share.c: how much of the queue one target may hold. Within a transaction. */
enum over_share { OVER_REFUSED, OVER_DEAD, OVER_DROPPED };
/* One more for it, of so many bytes, and `more` others before in the same call, of more_bytes. false: it holds its
 * share. */
bool queue_share_take(struct queue *q, struct queue_target *t, size_t bytes, uint64_t more, uint64_t more_bytes);
void queue_share_give_back(struct queue_target *t, size_t bytes);
/* Is there room for n more, of so many bytes, in all? of_jobs, may be NULL: of their number alone. */
bool queue_room(const struct queue *q, uint64_t n, uint64_t bytes, bool *of_jobs);
/* Is there room among the dead letters for what is over? */
bool queue_share_dead_room(const struct queue *q);
/* After the commit: counted, and told now and then. */
void queue_share_over(struct queue *q, struct queue_target *t, enum over_share what);

/* load.c: the state in memory from the file; frees the leases of a former process. */
bool queue_load(struct queue *q);

/* target.c */
/* Within a transaction: the target, from memory or its row, or a new one whose row is yet to be written. NULL: failed.
 */
struct queue_target *queue_target_get(struct queue *q, const char *owner, const char *name);
struct queue_target *queue_target_find(struct queue *q, const char *owner, const char *name); /* in memory; or NULL */
struct queue_target *queue_target_add(struct queue *q, int64_t id, const char *owner,
                                      const char *name); /* NULL: memory */
/* One more of it is ready, from `due` on (Unix ms). */
void queue_target_ready(struct queue_target *t, bool ordered, int64_t due);
/* Puts it where it belongs after any change; frees it when nothing of it is left. */
void queue_target_update(struct queue *q, struct queue_target *t);
void queue_targets_update_all(struct queue *q); /* after the clock was set */
void queue_owner_park(struct queue *q, struct queue_owner *o);
void queue_owner_unpark(struct queue *q, struct queue_owner *o);
/* Moves those whose time has come into the ring. */
void queue_targets_wake(struct queue *q);
/* Monotonic ms of the next to wake; QUEUE_NEVER: none. */
int64_t queue_targets_next(const struct queue *q);
void queue_targets_free(struct queue *q);

/* claim.c */
struct db_op *queue_claims_prepare(struct queue *q); /* NULL: nothing to claim, or no room */
bool queue_claims_possible(const struct queue *q);
void queue_claim_unref(struct queue_claim *c);

/* finish.c */
/* Milliseconds to the next attempt after `failures` failed ones (1: the first); -1: none is left. */
int64_t queue_retry_delay(const struct queue_config *c, unsigned failures, uint32_t retry_after_s, double random);
/* Attempts that count, of `attempt` made. */
unsigned queue_failures(unsigned attempt, unsigned lost);
struct db_op *queue_leases_expire(struct queue *q);              /* those that have run out, as operations */
void queue_claim_return(struct queue *q, struct queue_claim *c); /* nobody took it */
/* Within a transaction. large: its payload may have a row of its own. */
bool queue_job_delete(struct queue *q, int64_t id, bool large);
/* Within a transaction: the job of this name is gone; the name answers for a while. */
bool queue_name_keep(struct queue *q, const char *name, const char *owner);
void queue_finish_init(struct queue_claim *c);
void queue_claims_detach(struct queue *q); /* after the stop: what is out may come back, and changes nothing */

/* attempts.c: within a transaction */
/* The row of an attempt that ended so. */
bool queue_attempt_write(struct queue *q, const struct queue_claim *c, enum queue_ended ended, const char *error);
/* At most so many rows beyond the bounds are removed; *more: there may be others. */
bool queue_attempts_purge(struct queue *q, int64_t rows, bool *more);

/* revive.c: dead letters brought back, or dropped, within a transaction. */
struct queue_revival {
    int64_t id;
    int64_t now;
    size_t payload_len;
    bool ordered, named;
    struct queue_target *target; /* pinned; NULL when it is dropped */
};
/* What a row of QS_DEAD_* says; its strings are valid until the next step. */
void queue_dead_read(sqlite3_stmt *st, struct queue_dead *to);
bool queue_dead_matches(const struct queue_dead *d, const struct queue_filter *f);
/* OMID_OK, OMID_EFULL (no room among the live), OMID_ERR. */
int queue_revival_bring(struct queue *q, const struct queue_dead *d, struct queue_revival *r);
bool queue_revival_drop(struct queue *q, const struct queue_dead *d, struct queue_revival *r);
bool queue_dead_remove(struct queue *q, int64_t id, const char *owner, const char *name);
/* After the commit, or (false) its failure; once for each of the above that succeeded. */
void queue_revival_end(struct queue *q, struct queue_revival *r, bool committed);

/* sweep.c: replays and drops of many. */
bool queue_filter_copy(struct queue_filter *to, const struct queue_filter *from, char **text); /* from may be to */
bool queue_sweeps_load(struct queue *q);
struct db_op *queue_sweeps_prepare(struct queue *q);
int64_t queue_sweeps_next(const struct queue *q); /* monotonic ms; QUEUE_NEVER: none runs */
void queue_sweeps_free(struct queue *q);

/* fence.c */
uint64_t queue_thread_serial(void); /* of the calling thread; never reused, unlike the kernel's */
void queue_fence_note(struct queue *q, uint64_t thread);

/* status.c */
void queue_metrics_collect(void *arg, struct buf *out);

/* upkeep.c */
struct db_op *queue_upkeep_prepare(struct queue *q);
void queue_clock_check(struct queue *q);

void queue_unref(struct queue *q);

#endif
