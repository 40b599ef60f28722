/*
 * Executors: three pools of named threads for blocking or CPU work (critical_0, storage_0, blocking_0 ...). Queues
 * are bounded, with a share per owner (a quarter of the queue, so that one plugin can't fill a pool). Threads are
 * started when first needed, up to the pool's number.
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
/*
 * work->run on a pool thread, then work->done on `loop` (NULL: on the pool thread). owner: a static or
 * long-lived name ("session", a plugin's). OMID_EFULL: queue or share; OMID_ECLOSED: shutting down. Any thread.
 * Not to be called, with the intent to wait for the outcome, from a job of the same pool.
 */
int exec_submit(struct exec *e, const char *owner, struct loop *loop, const struct omid_work *work);
/* Refuses new work; done(ran = false) for all that waits; waits for running jobs until deadline_ms (monotonic), then
 * abandons them: reports each label, returns their number. */
unsigned exec_stop(struct exec *e, uint64_t deadline_ms);
void exec_free(struct exec **e); /* leaks on purpose what an abandoned thread still uses */
/* One object per pool: threads, running, waiting, done, refused. Any thread. */
void exec_status(struct exec *e, struct json_w *w);

#endif
