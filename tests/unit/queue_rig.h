/* A queue on a file of its own, a driven clock, and a handler of jobs that notes what it is given. One per program. */
#ifndef OMID_TESTS_QUEUE_RIG_H
#define OMID_TESTS_QUEUE_RIG_H

#include <CUnit/Basic.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "lane/queue/queue_int.h"
#include "unit_db.h"

/* The waits between attempts, ms, unless a test sets others. */
extern const uint32_t schedule[3];

/* ---------------------------------------------------------------- a driven clock */

/* One counter passes and the wall clock stands a distance from it: nobody sees the one moved and the other not yet. */
extern _Atomic int64_t clock_mono, clock_ahead;
int64_t driven_now(void); /* Unix ms */
double half(void);        /* for chance */

/* From here on the clock moves only with advance(). Before started(). */
void driven(void);
void advance(int64_t ms);

/* ---------------------------------------------------------------- the handler of jobs */

enum { MAX_SEEN = 20000 };
struct seen {
    uint64_t id;
    unsigned attempt;
    int64_t at;
    char type[16], target[24], name[24], payload[32];
    struct queue_claim *claim;
};
struct handled {
    pthread_mutex_t lock;
    struct seen seen[MAX_SEEN];
    size_t n;
    bool refuse;     /* the plugin is not there */
    bool keep;       /* don't finish: the test does */
    int outcome;     /* else how it ends */
    unsigned offers; /* refused ones too */
    uint32_t retry_after;
    unsigned fail_every; /* > 0: every so many-th is to be retried instead, none to death */
};
extern struct handled h;

/* Give to queue_start(). */
bool handle(void *arg, struct queue_claim *c);
void handler_set(bool keep, int outcome, bool refuse);
size_t seen_count(void);
unsigned offers(void);

/* The claim of an attempt that was kept, from now on the caller's; NULL: it is taken. */
struct queue_claim *take_claim(size_t i);
void finish_nth(size_t i, enum omid_job_outcome outcome, uint32_t after, const char *error);
/* Claims that a handler still holds when its queue has been closed: too late, but they are its. */
void finish_late(void);

/* ---------------------------------------------------------------- the queue under test */

extern char dir[64], path[96];
extern struct loop *lp;
extern struct queue *q;
extern struct queue_config cf;

/* A suite's. setup_in_memory(): for tests of time and of amounts, which have no use for a disk that takes its own. */
int setup(void);
int setup_in_memory(void);
int teardown(void);

/* An empty folder, the defaults in cf, the real clock, a handler that does what it is given. */
void fresh(void);
bool opened(void);
bool started(void);
void closed(void);

/* Answers of queue_enqueue and the like. */
struct answer {
    _Atomic int n;
    int result;
    uint64_t id;
};
void on_enqueued(void *arg, enum omid_result result, uint64_t id);
void on_fence(void *arg, int result);

/* One, waited for; -99: no answer came. id: NULL or where to. */
int enqueue(const char *owner, const char *target, const char *name, const char *payload, int64_t not_before,
            uint64_t *id);
/* n jobs with the target, order and rate of `like`, with one fence for all; their payloads are numbers, from `from` on.
 */
int enqueue_like(const struct omid_job *like, const char *owner, int from, int n);
int enqueue_many(const char *owner, const char *target, int n);

struct queue_counts counts(void);
bool healthy(void);

/* Some turns of the writer: whatever is due has been handed out, and what came back is written. */
void settle(void);

/* n jobs of a target that die at once, by the driven clock: types "even" and "odd", payloads "TARGET 0" and so on,
 * names likewise behind `name` (NULL: none). What was seen is forgotten. */
void die(const char *target, int n, const char *name);

#endif
