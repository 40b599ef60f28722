/*
 * Executors: three pools of named threads for blocking or CPU work (critical_0, storage_0, blocking_0 ...). Queues
 * are bounded, with a share per owner: a quarter of the queue, and three quarters of the threads, so that one plugin
 * can't fill a pool; owners take turns. Threads are started when first needed, up to the pool's number.
 *
 * Nobody can wait for a job but by its done(), and nobody can submit from within a job's run(): a coordinator that
 * holds a thread of the pool that its own jobs need can't be written.
 */
#ifndef OMID_LANE_EXEC_EXEC_H
#define OMID_LANE_EXEC_EXEC_H

#include <omid/plugin.h>
#include <stdbool.h>

#include "base/json.h"
#include "base/loop.h"

struct exec;
struct exec_config {
    unsigned threads[3]; /* by enum omid_pool; blocking is clamped to 1..1024 by conf */
    unsigned queue;      /* waiting jobs per pool */
};
struct exec *exec_new(const struct exec_config *config);
/* The daemon itself, as an owner: without a share of threads. */
extern const char exec_core[];
/*
 * work->run on a pool thread, then work->done on `loop` (NULL: on the pool thread). owner: a static or
 * long-lived name (exec_core, a plugin's). OMID_EFULL: queue or share; OMID_ECLOSED: shutting down; OMID_ETHREAD: from
 * within a job's run(). Any other thread.
 */
int exec_submit(struct exec *e, const char *owner, struct loop *loop, const struct omid_work *work);
/* The same; *ticket (never 0) names the job for exec_abandon(), also when it is long over. */
int exec_submit_ticket(struct exec *e, const char *owner, struct loop *loop, const struct omid_work *work,
                       uint64_t *ticket);
enum exec_left {
    EXEC_OVER,   /* it has run, or was given back: done() was called or is on its way */
    EXEC_WAITED, /* it is not run: done(ran = false) is on its way */
    EXEC_RUNS,   /* done() comes when run() returns, if ever: keep what both use until then */
};
/*
 * Nobody waits for this job any more. A thread can't be ended: while the job goes on to run, its pool may have another
 * thread in its stead, up to as many again as it has. Any thread.
 */
enum exec_left exec_abandon(struct exec *e, uint64_t ticket);
/* Refuses new work; done(ran = false) for all that waits; waits for running jobs until deadline_ms (monotonic), then
 * abandons them: reports each by owner and label, returns their number. */
unsigned exec_stop(struct exec *e, uint64_t deadline_ms);
void exec_free(struct exec **e); /* leaks on purpose what an abandoned thread still uses */
/* One object per pool: threads, running, waiting, done, refused. Any thread. */
void exec_status(struct exec *e, struct json_w *w);

#endif
