#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "lane/exec/exec.h"
#include "unit.h"

#define WAIT_MS 10000

/* A job that runs until its gate is opened, and tells what became of it. */
struct probe {
    int gate; /* reading end of a pipe; -1: none */
    char thread[16];
    _Atomic int runs, done, done_ran;
    struct loop *loop; /* where done() must come */
    bool wrong_thread;
};

static void probe_run(void *arg)
{
    struct probe *p = arg;
    char c;
    pthread_getname_np(pthread_self(), p->thread, sizeof(p->thread));
    p->runs++;
    if (p->gate >= 0) {
        while (read(p->gate, &c, 1) > 0) {
        }
    }
}

static void probe_done(void *arg, bool ran)
{
    struct probe *p = arg;
    if (p->loop != NULL && !loop_is_current(p->loop))
        p->wrong_thread = true;
    p->done_ran += ran;
    p->done++;
}

static int submit(struct exec *e, const char *owner, enum omid_pool pool, struct probe *p)
{
    const struct omid_work w = {sizeof(w), pool, "probe", probe_run, probe_done, p};
    return exec_submit(e, owner, p->loop, &w);
}

static bool wait_for(_Atomic int *v, int n)
{
    for (uint64_t until = clock_mono_ms() + WAIT_MS; *v < n;) {
        if (clock_mono_ms() > until)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return *v == n;
}

static struct exec *new_exec(unsigned threads, unsigned queue)
{
    const struct exec_config c = {.threads = {threads, threads, threads}, .queue = queue};
    return exec_new(&c);
}

static void stop_and_free(struct exec *e)
{
    CU_ASSERT_EQUAL(exec_stop(e, clock_mono_ms() + WAIT_MS), 0);
    exec_free(&e);
    CU_ASSERT_PTR_NULL(e);
}

static void test_names_and_loop(void)
{
    struct loop *loop = loop_new("reactor_0");
    CU_ASSERT_TRUE_FATAL(loop_start(loop));
    struct exec *e = new_exec(2, 16);
    static const char *const names[] = {"critical_0", "storage_0", "blocking_0"};
    for (int pool = 0; pool < 3; pool++) {
        struct probe p = {.gate = -1, .loop = loop};
        CU_ASSERT_EQUAL(submit(e, "a", (enum omid_pool)pool, &p), OMID_OK);
        CU_ASSERT_TRUE(wait_for(&p.done, 1));
        CU_ASSERT_EQUAL(p.done_ran, 1);
        CU_ASSERT_FALSE(p.wrong_thread);
        CU_ASSERT_STRING_EQUAL(p.thread, names[pool]);
    }
    stop_and_free(e);
    loop_stop(loop);
    loop_free(&loop);
}

static void test_arguments(void)
{
    struct exec *e = new_exec(1, 16);
    struct probe p = {.gate = -1};
    struct omid_work w = {sizeof(w), OMID_POOL_STORAGE, "x", probe_run, probe_done, &p};
    w.size = 4;
    CU_ASSERT_EQUAL(exec_submit(e, "a", NULL, &w), OMID_EINVAL);
    w.size = sizeof(w);
    w.pool = (enum omid_pool)3;
    CU_ASSERT_EQUAL(exec_submit(e, "a", NULL, &w), OMID_EINVAL);
    w.pool = OMID_POOL_STORAGE;
    w.run = NULL;
    CU_ASSERT_EQUAL(exec_submit(e, "a", NULL, &w), OMID_EINVAL);
    CU_ASSERT_EQUAL(exec_submit(e, "a", NULL, NULL), OMID_EINVAL);
    stop_and_free(e);
}

/* Threads come with the work, up to the number, and one owner gets a quarter of the queue. */
static void test_bounds(void)
{
    int gate[2];
    CU_ASSERT_EQUAL_FATAL(pipe(gate), 0);
    struct exec *e = new_exec(2, 8);
    struct probe busy[2] = {{.gate = gate[0]}, {.gate = gate[0]}}, wait[9];
    for (int i = 0; i < 2; i++) {
        CU_ASSERT_EQUAL(submit(e, i == 0 ? "a" : "f", OMID_POOL_BLOCKING, &busy[i]), OMID_OK);
        CU_ASSERT_TRUE(wait_for(&busy[i].runs, 1));
    }
    CU_ASSERT_STRING_EQUAL(busy[1].thread, "blocking_1");
    for (int i = 0; i < 9; i++)
        wait[i] = (struct probe){.gate = -1};
    static const char *const owner[] = {"a", "a", "b", "b", "c", "c", "d", "d"};
    for (int i = 0; i < 8; i++) {
        CU_ASSERT_EQUAL(submit(e, owner[i], OMID_POOL_BLOCKING, &wait[i]), OMID_OK);
        if (i == 1) /* there is room, but not for this owner */
            CU_ASSERT_EQUAL(submit(e, "a", OMID_POOL_BLOCKING, &wait[8]), OMID_EFULL);
    }
    CU_ASSERT_EQUAL(submit(e, "e", OMID_POOL_BLOCKING, &wait[8]), OMID_EFULL); /* queue */
    CU_ASSERT_EQUAL(submit(e, "a", OMID_POOL_STORAGE, &wait[8]), OMID_OK);     /* another pool has its own */
    CU_ASSERT_TRUE(wait_for(&wait[8].done, 1));
    CU_ASSERT_EQUAL(wait[0].runs, 0);

    struct buf b = BUF_INIT(0);
    CU_ASSERT_TRUE(metrics_render(&b));
    CU_ASSERT_PTR_NOT_NULL(strstr(b.data, "omid_exec_running{pool=\"blocking\"} 2"));
    CU_ASSERT_PTR_NOT_NULL(strstr(b.data, "omid_exec_waiting{pool=\"blocking\"} 8"));
    CU_ASSERT_PTR_NOT_NULL(strstr(b.data, "omid_exec_refused_total{pool=\"blocking\"} 2"));
    buf_free(&b);

    close(gate[1]);
    for (int i = 0; i < 8; i++) {
        CU_ASSERT_TRUE(wait_for(&wait[i].done, 1));
        CU_ASSERT_EQUAL(wait[i].done_ran, 1);
    }
    /* The share is free again. */
    struct probe again = {.gate = -1};
    CU_ASSERT_EQUAL(submit(e, "a", OMID_POOL_BLOCKING, &again), OMID_OK);
    CU_ASSERT_TRUE(wait_for(&again.done, 1));
    stop_and_free(e);
    close(gate[0]);
}

/* One owner gets three quarters of the threads, however much it has; the daemon's own work gets all. */
static void test_share_of_threads(void)
{
    int gate[2];
    CU_ASSERT_EQUAL_FATAL(pipe(gate), 0);
    struct exec *e = new_exec(4, 64);
    struct probe a[6], b = {.gate = -1}, core[4];
    for (int i = 0; i < 6; i++) {
        a[i] = (struct probe){.gate = gate[0]};
        CU_ASSERT_EQUAL(submit(e, "a", OMID_POOL_STORAGE, &a[i]), OMID_OK);
    }
    for (int i = 0; i < 3; i++)
        CU_ASSERT_TRUE(wait_for(&a[i].runs, 1));
    CU_ASSERT_EQUAL(submit(e, "b", OMID_POOL_STORAGE, &b), OMID_OK);
    CU_ASSERT_TRUE(wait_for(&b.done, 1));
    CU_ASSERT_EQUAL(a[3].runs, 0);
    for (int i = 0; i < 4; i++) {
        core[i] = (struct probe){.gate = gate[0]};
        CU_ASSERT_EQUAL(submit(e, exec_core, OMID_POOL_CRITICAL, &core[i]), OMID_OK);
    }
    for (int i = 0; i < 4; i++)
        CU_ASSERT_TRUE(wait_for(&core[i].runs, 1));
    close(gate[1]);
    for (int i = 0; i < 6; i++)
        CU_ASSERT_TRUE(wait_for(&a[i].done, 1));
    stop_and_free(e);
    close(gate[0]);
}

struct turn {
    _Atomic int *next;
    int at;
};

static void turn_run(void *arg)
{
    struct turn *t = arg;
    t->at = (*t->next)++;
}

static void turn_done(void *arg, bool ran)
{
    (void)arg;
    (void)ran;
}

/* Owners take turns: the second's only job does not wait behind all of the first's. */
static void test_turns(void)
{
    int gate[2];
    CU_ASSERT_EQUAL_FATAL(pipe(gate), 0);
    struct exec *e = new_exec(1, 64);
    struct probe busy = {.gate = gate[0]};
    _Atomic int next = 0;
    struct turn a[5], b = {&next, -1};
    CU_ASSERT_EQUAL(submit(e, "c", OMID_POOL_STORAGE, &busy), OMID_OK);
    CU_ASSERT_TRUE(wait_for(&busy.runs, 1));
    for (int i = 0; i < 5; i++) {
        a[i] = (struct turn){&next, -1};
        const struct omid_work w = {sizeof(w), OMID_POOL_STORAGE, "turn", turn_run, turn_done, &a[i]};
        CU_ASSERT_EQUAL(exec_submit(e, "a", NULL, &w), OMID_OK);
    }
    const struct omid_work w = {sizeof(w), OMID_POOL_STORAGE, "turn", turn_run, turn_done, &b};
    CU_ASSERT_EQUAL(exec_submit(e, "b", NULL, &w), OMID_OK);
    close(gate[1]);
    CU_ASSERT_TRUE(wait_for(&next, 6));
    stop_and_free(e);
    CU_ASSERT_TRUE(b.at <= 1);
    for (int i = 1; i < 5; i++)
        CU_ASSERT_TRUE(a[i].at > a[i - 1].at);
    close(gate[0]);
}

struct nested {
    struct exec *e;
    _Atomic int rc[2], done;
    struct probe inner, after;
};

static void nested_run(void *arg)
{
    struct nested *n = arg;
    n->rc[0] = submit(n->e, "a", OMID_POOL_CRITICAL, &n->inner);
    n->rc[1] = submit(n->e, "a", OMID_POOL_STORAGE, &n->inner);
}

static void nested_done(void *arg, bool ran)
{
    (void)ran;
    struct nested *n = arg;
    CU_ASSERT_EQUAL(submit(n->e, "a", OMID_POOL_CRITICAL, &n->after), OMID_OK);
    n->done++;
}

/* A job that submits another could wait for it, and hold the thread that the other needs: no pool takes it. What is to
 * follow is submitted by done(). */
static void test_no_coordinators(void)
{
    struct exec *e = new_exec(1, 16);
    struct nested n = {.e = e, .inner = {.gate = -1}, .after = {.gate = -1}};
    const struct omid_work w = {sizeof(w), OMID_POOL_CRITICAL, "nested", nested_run, nested_done, &n};
    CU_ASSERT_EQUAL(exec_submit(e, "a", NULL, &w), OMID_OK);
    CU_ASSERT_TRUE(wait_for(&n.done, 1));
    CU_ASSERT_EQUAL(n.rc[0], OMID_ETHREAD);
    CU_ASSERT_EQUAL(n.rc[1], OMID_ETHREAD);
    CU_ASSERT_TRUE(wait_for(&n.after.done, 1));
    CU_ASSERT_EQUAL(n.inner.runs, 0);
    stop_and_free(e);
}

static long status_of(struct exec *e, enum omid_pool pool, const char *key)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    char err[64];
    json_w_start(&w, &b);
    exec_status(e, &w);
    yajl_val v = json_parse(b.data, b.len, 0, err, sizeof(err));
    long n = (long)json_int(json_at(v, pool), key, -1);
    json_free(&v);
    buf_free(&b);
    return n;
}

static bool wait_for_status(struct exec *e, const char *key, long n)
{
    for (uint64_t until = clock_mono_ms() + WAIT_MS; status_of(e, OMID_POOL_STORAGE, key) != n;) {
        if (clock_mono_ms() > until)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return true;
}

static int submit_ticket(struct exec *e, const char *owner, struct probe *p, uint64_t *ticket)
{
    const struct omid_work w = {sizeof(w), OMID_POOL_STORAGE, "probe", probe_run, probe_done, p};
    return exec_submit_ticket(e, owner, NULL, &w, ticket);
}

/* A thread can't be ended; its pool gets another one, up to as many again, and is as before when it comes back. */
static void test_given_up(void)
{
    int gate[2];
    CU_ASSERT_EQUAL_FATAL(pipe(gate), 0);
    struct exec *e = new_exec(2, 64);
    struct probe stuck[4], waits = {.gate = -1}, next = {.gate = -1};
    uint64_t ticket[4], t;
    for (int i = 0; i < 4; i++) {
        stuck[i] = (struct probe){.gate = gate[0]};
        CU_ASSERT_EQUAL(submit_ticket(e, i % 2 ? "b" : "a", &stuck[i], &ticket[i]), OMID_OK);
        CU_ASSERT_TRUE(wait_for(&stuck[i].runs, 1));
        CU_ASSERT_EQUAL(exec_abandon(e, ticket[i]), EXEC_RUNS);
        CU_ASSERT_EQUAL(exec_abandon(e, ticket[i]), EXEC_RUNS); /* once is enough */
    }
    CU_ASSERT_EQUAL(status_of(e, OMID_POOL_STORAGE, "threads"), 4);
    CU_ASSERT_EQUAL(status_of(e, OMID_POOL_STORAGE, "left"), 4);
    CU_ASSERT_EQUAL(status_of(e, OMID_POOL_STORAGE, "abandoned"), 4);
    /* Twice as many is all: this one has to wait. */
    CU_ASSERT_EQUAL(submit(e, "c", OMID_POOL_STORAGE, &next), OMID_OK);
    /* What waits is given back, and is not there any more. */
    CU_ASSERT_EQUAL(submit_ticket(e, "c", &waits, &t), OMID_OK);
    CU_ASSERT_EQUAL(exec_abandon(e, t), EXEC_WAITED);
    CU_ASSERT_EQUAL(waits.done - waits.done_ran, 1);
    CU_ASSERT_EQUAL(exec_abandon(e, t), EXEC_OVER);
    CU_ASSERT_EQUAL(status_of(e, OMID_POOL_STORAGE, "waiting"), 1);
    close(gate[1]);
    CU_ASSERT_TRUE(wait_for(&next.done, 1));
    for (int i = 0; i < 4; i++) {
        CU_ASSERT_TRUE(wait_for(&stuck[i].done, 1));
        CU_ASSERT_EQUAL(stuck[i].done_ran, 1);
        CU_ASSERT_EQUAL(exec_abandon(e, ticket[i]), EXEC_OVER);
    }
    CU_ASSERT_TRUE(wait_for_status(e, "threads", 2));
    CU_ASSERT_EQUAL(status_of(e, OMID_POOL_STORAGE, "left"), 0);
    stop_and_free(e);
    close(gate[0]);
}

struct closer {
    int fd;
};

static void *close_later(void *arg)
{
    struct closer *c = arg;
    nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
    close(c->fd);
    return NULL;
}

/* Waiting work is handed back unrun; running work is waited for. */
static void test_stop(void)
{
    int gate[2];
    CU_ASSERT_EQUAL_FATAL(pipe(gate), 0);
    struct exec *e = new_exec(1, 16);
    struct probe busy = {.gate = gate[0]}, wait[3] = {{.gate = -1}, {.gate = -1}, {.gate = -1}};
    CU_ASSERT_EQUAL(submit(e, "a", OMID_POOL_CRITICAL, &busy), OMID_OK);
    CU_ASSERT_TRUE(wait_for(&busy.runs, 1));
    for (int i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(submit(e, "a", OMID_POOL_CRITICAL, &wait[i]), OMID_OK);
    struct closer c = {gate[1]};
    pthread_t t;
    CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, close_later, &c), 0);
    CU_ASSERT_EQUAL(exec_stop(e, clock_mono_ms() + WAIT_MS), 0);
    CU_ASSERT_EQUAL(busy.done, 1);
    CU_ASSERT_EQUAL(busy.done_ran, 1);
    for (int i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL(wait[i].runs, 0);
        CU_ASSERT_EQUAL(wait[i].done, 1);
        CU_ASSERT_EQUAL(wait[i].done_ran, 0);
    }
    CU_ASSERT_EQUAL(submit(e, "a", OMID_POOL_CRITICAL, &busy), OMID_ECLOSED);
    exec_free(&e);
    pthread_join(t, NULL);
    close(gate[0]);
}

/* What does not end is left behind in time, counted, and its result is ignored. */
static void test_abandon(void)
{
    int gate[2];
    CU_ASSERT_EQUAL_FATAL(pipe(gate), 0);
    struct exec *e = new_exec(1, 16);
    struct probe *stuck = calloc(1, sizeof(*stuck)); /* its thread may outlive this function */
    stuck->gate = gate[0];
    struct probe waits = {.gate = -1};
    CU_ASSERT_EQUAL(submit(e, "a", OMID_POOL_STORAGE, stuck), OMID_OK);
    CU_ASSERT_TRUE(wait_for(&stuck->runs, 1));
    CU_ASSERT_EQUAL(submit(e, "a", OMID_POOL_STORAGE, &waits), OMID_OK);
    uint64_t began = clock_mono_ms();
    CU_ASSERT_EQUAL(exec_stop(e, began + 50), 1);
    uint64_t took = clock_mono_ms() - began;
    CU_ASSERT_TRUE(took >= 50 && took < 5000);
    CU_ASSERT_EQUAL(waits.done, 1);
    CU_ASSERT_EQUAL(waits.done_ran, 0);
    struct exec *seen = e;
    exec_free(&e); /* leaked on purpose */
    close(gate[1]);
    /* The thread ends by itself; done() never came. */
    for (uint64_t until = clock_mono_ms() + WAIT_MS; clock_mono_ms() < until;) {
        struct buf b = BUF_INIT(0);
        struct json_w w;
        json_w_start(&w, &b);
        exec_status(seen, &w);
        bool ended = strstr(b.data, "\"threads\":1") == NULL;
        buf_free(&b);
        if (ended)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    CU_ASSERT_EQUAL(stuck->done, 0);
    free(stuck);
    close(gate[0]);
    exec_free(&seen); /* now nobody uses it */
}

struct storm {
    struct exec *exec;
    struct loop *loop;
    const char *owner;
    _Atomic int *taken, *runs, *done;
};

static void storm_run(void *arg)
{
    struct storm *s = arg;
    ++*s->runs;
}

static void storm_done(void *arg, bool ran)
{
    (void)ran;
    struct storm *s = arg;
    ++*s->done;
}

/* Until 1,000 were taken, or the end. */
static void *storm_thread(void *arg)
{
    struct storm *s = arg;
    for (int i = 0; i < 1000;) {
        const struct omid_work w = {sizeof(w), (enum omid_pool)(i % 3), "storm", storm_run, storm_done, s};
        int rc = exec_submit(s->exec, s->owner, s->loop, &w);
        if (rc == OMID_ECLOSED)
            break;
        if (rc == OMID_OK) {
            ++*s->taken;
            i++;
        } else if (rc == OMID_EFULL) {
            sched_yield();
        } else {
            abort();
        }
    }
    return NULL;
}

/* Submitters, workers and the end at the same time: every accepted job gets its done(), once. */
static void test_storm(void)
{
    for (int round = 0; round < 5; round++) {
        _Atomic int taken = 0, runs = 0, done = 0;
        struct loop *loop = loop_new("reactor_0");
        CU_ASSERT_TRUE_FATAL(loop_start(loop));
        struct exec *e = new_exec(3, 64);
        struct storm s[3];
        pthread_t t[3];
        static const char *const owners[] = {"a", "b", "c"};
        for (int i = 0; i < 3; i++) {
            s[i] = (struct storm){e, loop, owners[i], &taken, &runs, &done};
            CU_ASSERT_EQUAL_FATAL(pthread_create(&t[i], NULL, storm_thread, &s[i]), 0);
        }
        while (taken < 500)
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        if (round % 2 == 0)
            CU_ASSERT_EQUAL(exec_stop(e, clock_mono_ms() + WAIT_MS), 0);
        for (int i = 0; i < 3; i++)
            pthread_join(t[i], NULL);
        if (round % 2 != 0)
            CU_ASSERT_EQUAL(exec_stop(e, clock_mono_ms() + WAIT_MS), 0);
        loop_stop(loop);
        CU_ASSERT_EQUAL(done, taken);
        CU_ASSERT_TRUE(runs <= taken);
        exec_free(&e);
        loop_free(&loop);
    }
}

int main(void)
{
    static CU_TestInfo tests[] = {
        {"named threads, done() on the loop", test_names_and_loop},
        {"unusable work is refused", test_arguments},
        {"queue, share and threads are bounded", test_bounds},
        {"one owner can't fill the threads", test_share_of_threads},
        {"owners take turns", test_turns},
        {"a job can't submit another", test_no_coordinators},
        {"a job that is given up gets a stand-in", test_given_up},
        {"stop hands back what waits and waits for what runs", test_stop},
        {"stop abandons what does not end", test_abandon},
        {"every accepted job is done once", test_storm},
        CU_TEST_INFO_NULL,
    };
    static CU_SuiteInfo suites[] = {{"exec", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
