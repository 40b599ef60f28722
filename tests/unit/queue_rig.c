/* See queue_rig.h. */
#include "queue_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/magic.h"

const uint32_t schedule[3] = {5000, 300000, 1800000};

/* ---------------------------------------------------------------- a driven clock */

/* One counter passes and the wall clock stands a distance from it: nobody sees the one moved and the other not yet. */
_Atomic int64_t clock_mono, clock_ahead;
static _Atomic bool clock_driven;
int64_t driven_now(void)
{
    return clock_mono + clock_ahead;
}
static int64_t driven_mono(void)
{
    return clock_mono;
}
double half(void)
{
    return 0.5;
}

/* ---------------------------------------------------------------- the handler of jobs */

struct handled h = {.lock = PTHREAD_MUTEX_INITIALIZER};

bool handle(void *arg, struct queue_claim *c)
{
    const struct omid_job_view *v = queue_claim_view(c);
    (void)arg;
    pthread_mutex_lock(&h.lock);
    h.offers++;
    if (h.refuse) {
        pthread_mutex_unlock(&h.lock);
        return false;
    }
    omid_assert(h.n < MAX_SEEN);
    struct seen *s = &h.seen[h.n++];
    s->id = v->id;
    s->attempt = v->attempt;
    s->at = clock_driven ? clock_mono : clock_wall_ms();
    snprintf(s->type, sizeof(s->type), "%s", v->type);
    snprintf(s->target, sizeof(s->target), "%s", v->target);
    snprintf(s->name, sizeof(s->name), "%s", v->name);
    snprintf(s->payload, sizeof(s->payload), "%.*s", (int)v->payload_len, (const char *)v->payload);
    s->claim = h.keep ? c : NULL;
    int outcome = h.outcome;
    if (h.fail_every > 0 && h.n % h.fail_every == 0 && v->attempt < 3)
        outcome = OMID_JOB_RETRY;
    bool keep = h.keep;
    uint32_t after = h.retry_after;
    pthread_mutex_unlock(&h.lock);
    if (!keep)
        queue_finish(&c, (enum omid_job_outcome)outcome, after, "it broke");
    return true;
}

static void handler_reset(void)
{
    pthread_mutex_lock(&h.lock);
    h.n = 0;
    h.offers = 0;
    h.refuse = h.keep = false;
    h.outcome = OMID_JOB_DONE;
    h.retry_after = 0;
    h.fail_every = 0;
    pthread_mutex_unlock(&h.lock);
}

size_t seen_count(void)
{
    pthread_mutex_lock(&h.lock);
    size_t n = h.n;
    pthread_mutex_unlock(&h.lock);
    return n;
}

unsigned offers(void)
{
    pthread_mutex_lock(&h.lock);
    unsigned n = h.offers;
    pthread_mutex_unlock(&h.lock);
    return n;
}

void handler_set(bool keep, int outcome, bool refuse)
{
    pthread_mutex_lock(&h.lock);
    h.keep = keep;
    h.outcome = outcome;
    h.refuse = refuse;
    pthread_mutex_unlock(&h.lock);
}

struct queue_claim *take_claim(size_t i)
{
    pthread_mutex_lock(&h.lock);
    struct queue_claim *c = h.seen[i].claim;
    h.seen[i].claim = NULL;
    pthread_mutex_unlock(&h.lock);
    return c;
}

void finish_nth(size_t i, enum omid_job_outcome outcome, uint32_t after, const char *error)
{
    struct queue_claim *c = take_claim(i);
    omid_assert(c != NULL);
    queue_finish(&c, outcome, after, error);
}

/* Claims that a handler still holds when its queue has been closed: too late, but they are its. */
void finish_late(void)
{
    for (size_t i = 0; i < seen_count(); i++) {
        struct queue_claim *c = take_claim(i);
        if (c != NULL)
            queue_finish(&c, OMID_JOB_DONE, 0, NULL);
    }
}

/* ---------------------------------------------------------------- the queue under test */

char dir[64], path[96];
struct loop *lp;
struct queue *q;
struct queue_config cf;

static void config_default(void)
{
    cf = (struct queue_config){.path = path,
                               .commit_ms = 2,
                               .lease_ms = 60000,
                               .in_flight = 64,
                               .in_flight_per_target = 8,
                               .max_jobs = 1000000,
                               .dead = 100000,
                               .attempts = 100000,
                               .replay_per_s = 1000000,
                               .retry_ms = schedule,
                               .n_retry = ARRAY_LEN(schedule),
                               .jitter = 0.2,
                               .name_keep_ms = 12 * 3600 * 1000};
}

void driven(void)
{
    clock_driven = true;
    clock_mono = 1000000;
    clock_ahead = 1700000000000 - clock_mono;
    cf.now = driven_now;
    cf.mono = driven_mono;
    cf.random = half;
}

void advance(int64_t ms)
{
    clock_mono += ms;
    if (q != NULL)
        queue_wake(q);
}

bool opened(void)
{
    char err[512];
    bool aside;
    q = queue_open(&cf, &aside, err, sizeof(err));
    if (q == NULL)
        fprintf(stderr, "open: %s\n", err);
    return q != NULL;
}

bool started(void)
{
    return opened() && queue_start(q, handle, NULL);
}

void closed(void)
{
    queue_stop(q);
    queue_free(&q);
}

static int setup_below(const char *below)
{
    snprintf(dir, sizeof(dir), "%s/omid-queue-XXXXXX", below);
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof(path), "%s/queue.db", dir);
    lp = loop_new("test");
    return lp != NULL && loop_start(lp) ? 0 : -1;
}

int setup(void)
{
    return setup_below("/tmp");
}

/* For tests of time and of amounts, which have no use for a disk that takes its own. */
int setup_in_memory(void)
{
    return setup_below(access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
}

int teardown(void)
{
    unit_rm_dir(dir);
    loop_stop(lp);
    loop_free(&lp);
    return 0;
}

void fresh(void)
{
    unit_rm_dir(dir);
    mkdir(dir, 0700);
    clock_driven = false;
    config_default();
    handler_reset();
}

void on_enqueued(void *arg, enum omid_result result, uint64_t id)
{
    struct answer *a = arg;
    a->result = result;
    a->id = id;
    a->n++;
}

int enqueue(const char *owner, const char *target, const char *name, const char *payload, int64_t not_before,
            uint64_t *id)
{
    struct answer a = {0};
    struct omid_job job = {.size = sizeof(job),
                           .type = "test",
                           .name = name,
                           .target = target,
                           .payload = payload,
                           .payload_len = strlen(payload),
                           .not_before_ms = not_before};
    int r = queue_enqueue(q, owner, &job, lp, on_enqueued, &a);
    if (r != OMID_OK)
        return r;
    if (!WAIT_FOR(a.n == 1))
        return -99;
    if (id != NULL)
        *id = a.id;
    return a.result;
}

void on_fence(void *arg, int result)
{
    struct answer *a = arg;
    a->result = result;
    a->n++;
}
int enqueue_like(const struct omid_job *like, const char *owner, int from, int n)
{
    struct answer a = {0};
    char payload[32];
    for (int i = from; i < from + n; i++) {
        struct omid_job job = *like;
        snprintf(payload, sizeof(payload), "%d", i);
        job.size = sizeof(job);
        job.type = "test";
        job.payload = payload;
        job.payload_len = strlen(payload);
        int r = queue_enqueue(q, owner, &job, NULL, NULL, NULL);
        if (r != OMID_OK)
            return r;
    }
    if (queue_fence(q, lp, on_fence, &a) != OMID_OK || !WAIT_FOR(a.n == 1))
        return -99;
    return a.result;
}

int enqueue_many(const char *owner, const char *target, int n)
{
    return enqueue_like(&(struct omid_job){.target = target}, owner, 0, n);
}

struct queue_counts counts(void)
{
    struct queue_counts n;
    queue_counts(q, &n);
    return n;
}

bool healthy(void)
{
    char err[512];
    queue_health(q, err, sizeof(err));
    return err[0] == '\0';
}

/* Some turns of the writer: whatever is due has been handed out, and what came back is written. */
void settle(void)
{
    size_t before;
    do {
        before = offers();
        for (int i = 0; i < 3; i++)
            enqueue_many("web", "t", 0);
        WAIT_FOR(h.keep || counts().leased == 0);
    } while (before != offers());
}

void die(const char *target, int n, const char *name)
{
    uint64_t dead = counts().dead;
    handler_set(false, OMID_JOB_DEAD, false);
    for (int i = 0; i < n; i++) {
        char payload[32], full[32];
        snprintf(payload, sizeof(payload), "%s %d", target, i);
        snprintf(full, sizeof(full), "%s%d", name ? name : "", i);
        struct omid_job job = {.size = sizeof(job),
                               .type = i % 2 ? "odd" : "even",
                               .name = name ? full : NULL,
                               .target = target,
                               .payload = payload,
                               .payload_len = strlen(payload)};
        CU_ASSERT_EQUAL_FATAL(queue_enqueue(q, "web", &job, NULL, NULL, NULL), OMID_OK);
    }
    CU_ASSERT_FATAL(WAIT_FOR(counts().dead == dead + (unsigned)n));
    settle();
    pthread_mutex_lock(&h.lock);
    h.n = 0;
    h.outcome = OMID_JOB_DONE;
    pthread_mutex_unlock(&h.lock);
}
