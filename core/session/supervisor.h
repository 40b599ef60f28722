/*
 * What holds a session together: everything that goes on for it is a task with a name, and the session lives as long
 * as they do.
 *
 *   lifetime task   is there as long as the session: when it ends, however, the session ends
 *   finite task     comes to its end by itself; only its failure ends the session
 *
 *   RUNNING    until the first end that matters. All ends of one turn of the loop count as one round.
 *   DRAINING   every task has been told; what is left to do may be done, for drain_ms
 *   CANCELLED  every task has been told again, to stop at once; for bound_ms
 *   OVER       no task is left; those that did not stop were given up and logged by their names
 *
 * Nothing here sleeps, allocates or knows the time: the owner calls supervisor_turn() when it is woken, and when the
 * time that the former call named has come. Tasks are intrusive: the memory is the owner's, and may go as soon as the
 * task has ended. One thread.
 */
#ifndef OMID_SESSION_SUPERVISOR_H
#define OMID_SESSION_SUPERVISOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"

struct supervisor;
struct supervisor_class; /* the metrics of one label; see below */
struct task;

enum supervisor_state { SUPERVISOR_RUNNING, SUPERVISOR_DRAINING, SUPERVISOR_CANCELLED, SUPERVISOR_OVER };

/* Why it ended. When several fall in one round the first of these that is among them. */
enum supervisor_reason { SUPERVISOR_DISCONNECT, SUPERVISOR_CRASH, SUPERVISOR_LIFETIME_DONE, SUPERVISOR_REASONS };

enum task_kind { TASK_LIFETIME, TASK_FINITE };

enum task_outcome {
    TASK_DONE,         /* its normal end */
    TASK_FAILED,       /* the session is not to go on */
    TASK_DISCONNECTED, /* the client is gone: of the task that is its connection */
};

/* All on the owner's thread, never within task_start(). Each may end its own task and others, and start finite ones.
 * None may free the supervisor. */
struct task_ops {
    /* Once: the session ends. Finish what is worth it. NULL: it goes on as before. */
    void (*shutdown)(struct task *t);
    /* Once, after shutdown(): stop now. Ends the task within the call if that is possible. NULL: it isn't. */
    void (*cancel)(struct task *t);
    /* The task has ended, by itself or because it was given up: once per start, the last call. NULL: nothing to do. */
    void (*ended)(struct task *t);
    /* by = 1 at the start, by = -1 at the end, whatever the way: for gauges. May be NULL. */
    void (*count)(int by);
};

struct task {
    struct list link; /* supervisor.tasks */
    struct supervisor *sv;
    const struct task_ops *ops;
    enum task_kind kind;
    bool told, cancelled;
    char what[14]; /* "client", "stt:2" */
};

struct supervisor_limits {
    uint32_t drain_ms, bound_ms;
    uint64_t until_ms; /* monotonic: DRAINING lasts no longer than until then; UINT64_MAX: no such time */
};

struct supervisor {
    uint32_t magic;
    enum supervisor_state state;
    const struct supervisor_class *class;
    struct list tasks;
    unsigned ends; /* what has happened, as bits of reasons */
    enum supervisor_reason reason;
    uint64_t since_ms, drained_ms; /* of the state; of DRAINING */
    void (*wake)(void *arg);
    void *arg;
    bool woken;
    char name[24]; /* "ws:" and the tag of the uid */
};

/*
 * async_supervisor_exit_total, async_drain_timeout_total, async_drain_duration_seconds and
 * omid_supervisor_stuck_total with this label. One per label for the life of the process; any thread.
 * label: static, of a fixed set ("listen"). On the page from the first call on.
 */
const struct supervisor_class *supervisor_class_get(const char *label);

/* tag: of the uid, never the uid itself; copied. wake(arg): a supervisor_turn() is due in the next turn of the loop;
 * not called again before that. It may be called within any function of this file but supervisor_turn(). */
void supervisor_init(struct supervisor *sv, const struct supervisor_class *class, const char *tag,
                     void (*wake)(void *arg), void *arg);

/*
 * Decides on what has happened and on what time it is, and calls tasks' ops. false: call it again at *due_ms
 * (monotonic; UINT64_MAX: when woken). true: OVER, no task is left; nothing of it is called any more.
 */
bool supervisor_turn(struct supervisor *sv, uint64_t now_ms, const struct supervisor_limits *limits, uint64_t *due_ms);

/* Asks for a supervisor_turn(): limits have changed. */
void supervisor_wake(struct supervisor *sv);

/* At once and whatever the state: every task is told to stop, then given up. OVER afterwards. Not counted as an exit.
 */
void supervisor_abort(struct supervisor *sv);

static inline bool supervisor_running(const struct supervisor *sv)
{
    return sv->state == SUPERVISOR_RUNNING;
}
/* Has a task failed? */
static inline bool supervisor_crashed(const struct supervisor *sv)
{
    return (sv->ends & 1u << SUPERVISOR_CRASH) != 0;
}
/* What goes on, for people: "client,stt", cut to len. */
void supervisor_tasks(const struct supervisor *sv, char *out, size_t len);
const char *supervisor_state_name(enum supervisor_state state);
const char *supervisor_reason_name(enum supervisor_reason reason);

/* Once, before the task is used. */
void task_init(struct task *t);
/* what: static or short, copied; "ws:TAG:WHAT" in the log. false: CANCELLED or OVER, nothing is begun any more. One
 * that begins while DRAINING is part of the drain: shutdown() is not called for it. A task that has ended may be
 * started again. */
bool task_start(struct task *t, struct supervisor *sv, enum task_kind kind, const char *what,
                const struct task_ops *ops);
/* Its end. Does nothing when it is not running: an answer may come after the task was given up. why: for the log of a
 * failure, may be NULL. */
void task_end(struct task *t, enum task_outcome outcome, const char *why);
static inline bool task_running(const struct task *t)
{
    return t->sv != NULL;
}

#endif
