/* Part of omid/plugin.h, which includes it: work on executor threads, fan-outs, durable jobs. */
#ifndef OMID_PLUGIN_WORK_H
#define OMID_PLUGIN_WORK_H

#include <omid/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --------------------------------------------------------------- executors */

enum omid_pool { OMID_POOL_CRITICAL, OMID_POOL_STORAGE, OMID_POOL_BLOCKING };

struct omid_work {
    uint32_t size;
    enum omid_pool pool;
    const char *label;                 /* static string, for logs and metrics */
    void (*run)(void *arg);            /* on an executor thread: may block; must not call the host except log() */
    void (*done)(void *arg, bool ran); /* on the reactor, exactly once per accepted submission, also when run()
                                          never ran (ran = false: shutdown). Frees arg. */
    void *arg;
};

/* ----------------------------------------------------------- fan-outs (1.1) */

/*
 * The same for many: requests to each endpoint, work on each file. The host begins the items in their order, so many at
 * once, and hands over what became of them in their order too; each that failed is logged with label and number, and
 * counted (async_gather_failures_total). An item is any operation that ends with a callback of yours, or several.
 *
 *     start(arg, i, token)      begin item i; sooner or later, perhaps within start(), call gather_done(token) once
 *     item(arg, i, result, ..)  it is over: 0, 1, 2 ... each exactly once
 *     finished(arg, failed)     all are over
 *
 * None of these comes within gather_start() or gather_done(). An item that does not report within item_timeout_ms is
 * over with OMID_ETIMEOUT; what it reports afterwards, or reports twice, is refused and counted.
 */
typedef uint64_t omid_gather_token; /* names one item of one fan-out, never another; never 0 */

#define OMID_GATHER_MAX_ITEMS 65536
#define OMID_GATHER_MAX_AT_ONCE 1024
struct omid_gather_request {
    uint32_t size;
    const char *label; /* of gather_label() */
    unsigned n;        /* items; 0: finished() follows at once */
    unsigned at_once;  /* 1..OMID_GATHER_MAX_AT_ONCE: that run at the same time */
    unsigned chunk;    /* > 0: so many, and the next ones only when all of them are over. 0: the next as one ends */
    uint32_t item_timeout_ms; /* from start(); 0: 60 s */
    /* An error means that the item did not begin, and is over with it. */
    int (*start)(void *arg, unsigned index, omid_gather_token token);
    /* result and value are gather_done()'s, or OMID_ETIMEOUT, or start()'s error. value is yours again. May be NULL,
     * when there are no values. */
    void (*item)(void *arg, unsigned index, int result, void *value);
    /* The item runs and nobody waits for it any more (timeout, gather_cancel()): end it if that is possible. May be
     * NULL. */
    void (*abort)(void *arg, unsigned index);
    /* Of an item whose item() will not come, for the fan-out was cancelled: free it. May be NULL. */
    void (*drop)(void *arg, void *value);
    /* The last callback: the handle is gone when it returns. Not after gather_cancel(). */
    void (*finished)(void *arg, unsigned failed);
    void *arg;
};

/* ------------------------------------------------------------ durable jobs */

struct omid_job {
    uint32_t size;
    const char *type;    /* static, for logs and counts: "memory_created" */
    const char *name;    /* the same name twice = one job (also after it is done, for 12 h); or NULL */
    const char *target;  /* what must not be delayed by others: an endpoint's URL or id */
    const void *payload; /* handed back at each attempt; at most 32 MiB, and 4 KiB to be remembered with it */
    size_t payload_len;
    int64_t not_before_ms; /* Unix ms; 0: now */
    /* 1.2 */
    bool ordered; /* those of its target that are ordered run one at a time, in the order of their enqueuing; one
                     that is retried holds back those behind it */
    uint32_t rate_per_min; /* attempts of its target begun a minute; 0: no bound. The last one enqueued counts */
    /* When its target holds all it may of the queue (queue.max_share): kept as a dead letter, which counts as taken.
     * Else it is so only beside others of the call that are taken; OMID_EFULL when there are none. */
    bool dead_if_full;
};
typedef void (*omid_enqueued_cb)(void *arg, enum omid_result result, uint64_t id);

struct omid_job_view {
    uint32_t size;
    uint64_t id;
    const char *type, *name, *target; /* name and target may be "" */
    const void *payload;              /* valid until job_finish() */
    size_t payload_len;
    unsigned attempt; /* 1 at the first */
    int64_t created_ms;
};

/*
 * Several jobs at once, all or none (1.2). With a receipt, what has been taken once is not taken again: when the plugin
 * has enqueued under the same receipt within 12 h nothing is enqueued, and the callback gets what was kept with the
 * first.
 */
struct omid_receipt {
    const char *key;   /* at most 512 bytes */
    const char *value; /* what to answer a repetition with; at most 4096 bytes */
};
/* value: the receipt's, its first one when `repeated`; "" without a receipt. Valid until cb returns. */
typedef void (*omid_jobs_enqueued_cb)(void *arg, enum omid_result result, bool repeated, const char *value);

/* What became of one attempt, kept with the job and in the log of attempts (omictl deliveries). 1.2 */
struct omid_attempt {
    uint32_t size;
    int status; /* of the answer; 0: none came */
    uint32_t elapsed_ms;
    const char *endpoint; /* id in the registry; NULL: the job's target */
    const char *answer;   /* its first bytes, for people: at most 256 are kept; NULL */
    size_t answer_len;
};

enum omid_job_outcome {
    OMID_JOB_DONE,
    OMID_JOB_RETRY, /* after the schedule's delay, or retry_after_s within 1 to 2 times it; then dead */
    OMID_JOB_WAIT,  /* not an attempt (breaker open, lane full): again after retry_after_s */
    OMID_JOB_DEAD,  /* never again */
};

#ifdef __cplusplus
}
#endif
#endif
