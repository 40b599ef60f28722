/*
 * What the durable queue does per second: enqueue in groups, claim and finish (with a row in
 * the log of attempts), with 0 and with many jobs waiting for
 * targets that may take no more.
 *
 *     make tests/bench/queue_bench && tests/bench/queue_bench [JOBS [BACKLOG [DIRECTORY]]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "lane/queue/queue.h"

static const uint32_t schedule[] = {5000};
static struct queue *q;
static struct loop *lp;
static _Atomic uint64_t answered, failed, handled;
static bool log_attempts = true;
static struct queue_claim *hanging[64];
static size_t n_hanging;

static void on_enqueued(void *arg, enum omid_result r, uint64_t id)
{
    (void)arg;
    (void)id;
    failed += r != OMID_OK;
    answered++;
}

/* Finished on another thread, as the host does. */
struct finish_msg {
    struct loop_msg msg;
    struct queue_claim *c;
};
static void finish(struct loop *loop, struct loop_msg *msg)
{
    struct finish_msg *m = (struct finish_msg *)(void *)msg;
    (void)loop;
    if (log_attempts) {
        const struct omid_attempt a = {
            .size = sizeof(a), .status = 200, .elapsed_ms = 12, .endpoint = "0f8fad5b-d9cb-469f-a165-70867728950e"};
        queue_attempt(m->c, &a);
    }
    queue_finish(&m->c, OMID_JOB_DONE, 0, NULL);
    free(m);
    handled++;
}

static bool handle(void *arg, struct queue_claim *c)
{
    (void)arg;
    if (strcmp(queue_claim_view(c)->target, "hangs") == 0) {
        hanging[n_hanging++] = c;
        return true;
    }
    struct finish_msg *m = calloc(1, sizeof(*m));
    if (m == NULL)
        return false;
    m->msg.fn = finish;
    m->c = c;
    loop_post(lp, &m->msg);
    return true;
}

static void pause_briefly(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

static void enqueue(uint64_t n, const char *target, unsigned targets)
{
    static char payload[300], name[64];
    memset(payload, 'x', sizeof(payload));
    answered = failed = 0;
    for (uint64_t i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "%s%u", target, targets ? (unsigned)(i % targets) : 0);
        struct omid_job job = {.size = sizeof(job),
                               .type = "bench",
                               .target = targets ? name : target,
                               .payload = payload,
                               .payload_len = sizeof(payload)};
        while (queue_enqueue(q, "bench", &job, lp, on_enqueued, NULL) == OMID_EFULL)
            pause_briefly();
    }
    while (answered < n)
        pause_briefly();
    if (failed > 0)
        printf("%llu of %llu enqueues failed\n", (unsigned long long)failed, (unsigned long long)n);
}

/* One at a time: what a caller waits who has nothing to share a group with. */
static double alone_us(int n)
{
    uint64_t t = clock_mono_ns();
    for (int i = 0; i < n; i++) {
        answered = 0;
        struct omid_job job = {
            .size = sizeof(job), .type = "bench", .target = "hangs", .payload = "x", .payload_len = 1};
        queue_enqueue(q, "bench", &job, lp, on_enqueued, NULL);
        while (answered == 0)
            pause_briefly();
    }
    return (double)(clock_mono_ns() - t) / 1000 / n;
}

static double seconds_since(uint64_t t)
{
    return (double)(clock_mono_ns() - t) / 1e9;
}

static double cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void drain_rate(const char *label, uint64_t jobs)
{
    queue_pause(q);
    double cpu = cpu_us();
    uint64_t t = clock_mono_ns();
    enqueue(jobs, "t", 50);
    double in = seconds_since(t);
    handled = 0;
    t = clock_mono_ns();
    queue_resume(q);
    struct queue_counts c;
    do {
        pause_briefly();
        queue_counts(q, &c);
    } while (handled < jobs);
    printf("%s: enqueue_per_s=%.0f claim_ack_per_s=%.0f cpu_us_per_job=%.1f\n", label, (double)jobs / in,
           (double)jobs / seconds_since(t), (cpu_us() - cpu) / (double)jobs);
}

int main(int argc, char **argv)
{
    uint64_t jobs = argc > 1 ? strtoull(argv[1], NULL, 10) : 200000,
             backlog = argc > 2 ? strtoull(argv[2], NULL, 10) : 100000;
    char dir[256], path[300], err[512];
    bool aside;
    snprintf(dir, sizeof(dir), "%s/queue-bench-XXXXXX", argc > 3 ? argv[3] : "/tmp");
    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return 1;
    }
    snprintf(path, sizeof(path), "%s/queue.db", dir);
    log_setup(LOG_LEVEL_WARNING, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    struct queue_config cf = {.path = path,
                              .commit_ms = 5,
                              .lease_ms = 600000,
                              .in_flight = 512,
                              .in_flight_per_target = 64,
                              .max_jobs = 10000000,
                              .retry_ms = schedule,
                              .n_retry = 1,
                              .jitter = 0.2,
                              .name_keep_ms = 3600000,
                              .dead = 100000,
                              .attempts = 100000,
                              .replay_per_s = 1000};
    lp = loop_new("bench");
    q = queue_open(&cf, &aside, err, sizeof(err));
    if (lp == NULL || !loop_start(lp) || q == NULL || !queue_start(q, handle, NULL)) {
        fprintf(stderr, "%s\n", err);
        return 1;
    }
    drain_rate("empty", jobs);
    log_attempts = false;
    drain_rate("empty, attempts not logged", jobs);
    log_attempts = true;
    uint64_t t = clock_mono_ns();
    enqueue(backlog, "hangs", 0);
    printf("backlog of one hanging target: jobs=%llu s=%.1f\n", (unsigned long long)backlog, seconds_since(t));
    drain_rate("behind it", jobs);
    printf("alone: us=%.0f\n", alone_us(200));
    t = clock_mono_ns();
    queue_stop(q);
    queue_free(&q);
    for (size_t i = 0; i < n_hanging; i++)
        queue_finish(&hanging[i], OMID_JOB_DONE, 0, NULL);
    printf("close: s=%.2f\n", seconds_since(t));
    t = clock_mono_ns();
    q = queue_open(&cf, &aside, err, sizeof(err));
    printf("reopen: s=%.2f jobs=%llu\n", seconds_since(t), (unsigned long long)backlog);
    queue_free(&q);
    loop_stop(lp);
    loop_free(&lp);
    static const char *const suffix[] = {"", "-wal", "-shm"};
    for (int i = 0; i < 3; i++) {
        snprintf(err, sizeof(err), "%s%s", path, suffix[i]);
        unlink(err);
    }
    rmdir(dir);
    return 0;
}
