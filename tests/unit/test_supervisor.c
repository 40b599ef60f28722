/* The supervisor with a clock of our own: which end is whose reason, who is told what and when, and that everything
 * that was started ends exactly once. */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/magic.h"
#include "base/metrics.h"
#include "session/supervisor.h"
#include "unit.h"

#define DRAIN 30000
#define BOUND 5000

static const struct supervisor_limits limits = {.drain_ms = DRAIN, .bound_ms = BOUND, .until_ms = UINT64_MAX};
static const struct supervisor_class *class;
static struct supervisor sv;
static uint64_t now, due;
static int wakes, counted;

/* A task that writes down what it is told, and does what the test says. */
struct actor {
    struct task task;
    int shutdowns, cancels, ends;
    bool ends_at_shutdown, ends_at_cancel;
    struct actor *takes_along; /* ends this one at shutdown, too */
    struct actor *begins;      /* starts this one at shutdown */
    bool began;
};
static const struct task_ops ops;

static void on_shutdown(struct task *t)
{
    struct actor *a = container_of(t, struct actor, task);
    a->shutdowns++;
    if (a->takes_along)
        task_end(&a->takes_along->task, TASK_DONE, NULL);
    if (a->begins)
        a->began = task_start(&a->begins->task, &sv, TASK_FINITE, "begun", &ops);
    if (a->ends_at_shutdown)
        task_end(t, TASK_DONE, NULL);
}

static void on_cancel(struct task *t)
{
    struct actor *a = container_of(t, struct actor, task);
    a->cancels++;
    if (a->ends_at_cancel)
        task_end(t, TASK_DONE, NULL);
}

static void on_ended(struct task *t)
{
    container_of(t, struct actor, task)->ends++;
    CU_ASSERT_FALSE(task_running(t));
}

static void on_count(int by)
{
    counted += by;
}

static const struct task_ops ops = {.shutdown = on_shutdown, .cancel = on_cancel, .ended = on_ended, .count = on_count};

static void on_wake(void *arg)
{
    CU_ASSERT_PTR_EQUAL(arg, &sv);
    wakes++;
}

static void begin(void)
{
    now = 1000;
    wakes = 0;
    counted = 0;
    supervisor_init(&sv, class, "u0123456789a", on_wake, &sv);
}

static void actor_start(struct actor *a, enum task_kind kind, const char *what)
{
    *a = (struct actor){.shutdowns = 0};
    task_init(&a->task);
    CU_ASSERT_TRUE_FATAL(task_start(&a->task, &sv, kind, what, &ops));
}

static bool turn(void)
{
    wakes = 0;
    return supervisor_turn(&sv, now, &limits, &due);
}

static int64_t counter(const char *name, const char *reason)
{
    struct metric_label labels[] = {{"label", "test"}, {"reason", reason}};
    return metric_value(metric_get(METRIC_COUNTER, name, "", labels, reason ? 2 : 1, NULL, 0));
}

static int64_t exits(const char *reason)
{
    return counter("async_supervisor_exit_total", reason);
}

/* ------------------------------------------------------------------------- reasons */

static void test_reasons(void)
{
    static const struct {
        enum task_kind kind;
        enum task_outcome outcome;
        const char *reason; /* NULL: the session goes on */
    } cases[] = {
        {TASK_LIFETIME, TASK_DONE, "lifetime_done"},
        {TASK_LIFETIME, TASK_FAILED, "crash"},
        {TASK_LIFETIME, TASK_DISCONNECTED, "disconnect"},
        {TASK_FINITE, TASK_DONE, NULL},
        {TASK_FINITE, TASK_FAILED, "crash"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct actor a, other;
        int64_t before = cases[i].reason ? exits(cases[i].reason) : 0;
        begin();
        actor_start(&a, cases[i].kind, "a");
        actor_start(&other, TASK_LIFETIME, "other");
        other.ends_at_shutdown = true;
        CU_ASSERT_FALSE(turn());
        CU_ASSERT_EQUAL(due, UINT64_MAX); /* nothing sleeps until a time */
        task_end(&a.task, cases[i].outcome, "why");
        CU_ASSERT_EQUAL(a.ends, 1);
        if (!cases[i].reason) {
            CU_ASSERT_EQUAL(wakes, 0);
            CU_ASSERT_FALSE(turn());
            CU_ASSERT_EQUAL(other.shutdowns, 0);
            task_end(&other.task, TASK_DONE, NULL);
            CU_ASSERT_TRUE(turn());
            continue;
        }
        CU_ASSERT_EQUAL(wakes, 1);
        CU_ASSERT_TRUE(turn()); /* told, ended, over: within one turn */
        CU_ASSERT_STRING_EQUAL(supervisor_reason_name(sv.reason), cases[i].reason);
        CU_ASSERT_EQUAL(exits(cases[i].reason), before + 1);
        CU_ASSERT_EQUAL(other.shutdowns, 1);
        CU_ASSERT_EQUAL(counted, 0);
    }
}

/* Whatever the order of a round's ends, disconnect wins, then crash. */
static void test_one_round(void)
{
    static const enum task_outcome outcomes[] = {TASK_DONE, TASK_FAILED, TASK_DISCONNECTED};
    for (unsigned set = 1; set < 8; set++) {
        for (unsigned first = 0; first < 3; first++) {
            struct actor a[3];
            begin();
            for (unsigned i = 0; i < 3; i++)
                actor_start(&a[i], TASK_LIFETIME, "a");
            for (unsigned i = 0; i < 3; i++) {
                unsigned k = (first + i) % 3;
                if (set & 1u << k)
                    task_end(&a[k].task, outcomes[k], NULL);
            }
            CU_ASSERT_EQUAL(wakes, 1); /* one turn for the whole round */
            (void)turn();
            enum supervisor_reason want = set & 4   ? SUPERVISOR_DISCONNECT
                                          : set & 2 ? SUPERVISOR_CRASH
                                                    : SUPERVISOR_LIFETIME_DONE;
            CU_ASSERT_EQUAL(sv.reason, want);
            supervisor_abort(&sv);
            CU_ASSERT_EQUAL(counted, 0);
        }
    }
}

/* What ends later than the round does not change the reason, nor count twice. */
static void test_later_round(void)
{
    struct actor client, stt;
    int64_t disconnects = exits("disconnect"), crashes = exits("crash");
    begin();
    actor_start(&client, TASK_LIFETIME, "client");
    actor_start(&stt, TASK_LIFETIME, "stt");
    task_end(&stt.task, TASK_FAILED, "no provider left");
    CU_ASSERT_FALSE(turn());
    task_end(&client.task, TASK_DISCONNECTED, NULL);
    CU_ASSERT_EQUAL(wakes, 1);
    CU_ASSERT_TRUE(turn());
    CU_ASSERT_EQUAL(sv.reason, SUPERVISOR_CRASH);
    CU_ASSERT_EQUAL(exits("crash"), crashes + 1);
    CU_ASSERT_EQUAL(exits("disconnect"), disconnects);
}

/* ------------------------------------------------------------------------ teardown */

static void test_drain_in_time(void)
{
    struct actor client, stt;
    int64_t timeouts = counter("async_drain_timeout_total", NULL);
    begin();
    actor_start(&client, TASK_LIFETIME, "client");
    actor_start(&stt, TASK_LIFETIME, "stt");
    task_end(&client.task, TASK_DISCONNECTED, NULL);
    CU_ASSERT_FALSE(turn());
    CU_ASSERT_EQUAL(due, now + DRAIN);
    CU_ASSERT_EQUAL(stt.shutdowns, 1);
    now += DRAIN - 1;
    CU_ASSERT_FALSE(turn());
    CU_ASSERT_EQUAL(stt.cancels, 0);
    task_end(&stt.task, TASK_DONE, NULL);
    CU_ASSERT_TRUE(turn());
    CU_ASSERT_EQUAL(stt.shutdowns, 1);
    CU_ASSERT_EQUAL(counter("async_drain_timeout_total", NULL), timeouts);
    CU_ASSERT_EQUAL(sv.state, SUPERVISOR_OVER);
}

static void test_cancelled(void)
{
    struct actor client, stt;
    int64_t timeouts = counter("async_drain_timeout_total", NULL), stuck = counter("omid_supervisor_stuck_total", NULL);
    begin();
    actor_start(&client, TASK_LIFETIME, "client");
    actor_start(&stt, TASK_LIFETIME, "stt");
    stt.ends_at_cancel = true;
    task_end(&client.task, TASK_DISCONNECTED, NULL);
    CU_ASSERT_FALSE(turn());
    now += DRAIN;
    CU_ASSERT_TRUE(turn()); /* I/O stops at once: no second bound is waited for */
    CU_ASSERT_EQUAL(stt.cancels, 1);
    CU_ASSERT_EQUAL(stt.ends, 1);
    CU_ASSERT_EQUAL(counter("async_drain_timeout_total", NULL), timeouts + 1);
    CU_ASSERT_EQUAL(counter("omid_supervisor_stuck_total", NULL), stuck);
}

/* What goes to stderr until log_end(). */
static FILE *log_file;
static int log_former;

static void log_begin(void)
{
    fflush(stderr);
    log_file = tmpfile();
    CU_ASSERT_PTR_NOT_NULL_FATAL(log_file);
    log_former = dup(STDERR_FILENO);
    dup2(fileno(log_file), STDERR_FILENO);
}

static const char *log_end(void)
{
    static char text[4096];
    log_flush();
    fflush(stderr);
    dup2(log_former, STDERR_FILENO);
    close(log_former);
    rewind(log_file);
    text[fread(text, 1, sizeof text - 1, log_file)] = 0;
    fclose(log_file);
    return text;
}

static void test_stuck(void)
{
    struct actor client, stt, store;
    int64_t stuck = counter("omid_supervisor_stuck_total", NULL);
    begin();
    actor_start(&client, TASK_LIFETIME, "client");
    actor_start(&stt, TASK_LIFETIME, "stt");
    actor_start(&store, TASK_FINITE, "store");
    stt.ends_at_cancel = true;
    task_end(&client.task, TASK_DISCONNECTED, NULL);
    CU_ASSERT_FALSE(turn());
    now += DRAIN;
    CU_ASSERT_FALSE(turn());
    CU_ASSERT_EQUAL(due, now + BOUND);
    CU_ASSERT_EQUAL(store.cancels, 1);
    struct actor late = {.shutdowns = 0};
    task_init(&late.task);
    CU_ASSERT_FALSE(task_start(&late.task, &sv, TASK_FINITE, "late", &ops)); /* nothing new begins now */
    now += BOUND - 1;
    CU_ASSERT_FALSE(turn());
    CU_ASSERT_EQUAL(store.cancels, 1);
    now += 1;
    log_begin();
    CU_ASSERT_TRUE(turn());
    CU_ASSERT_PTR_NOT_NULL(strstr(log_end(), "ws:u0123456789a:store"));
    CU_ASSERT_EQUAL(store.ends, 1);
    CU_ASSERT_EQUAL(counter("omid_supervisor_stuck_total", NULL), stuck + 1);
    CU_ASSERT_EQUAL(counted, 0);
    /* Its answer comes after all, from wherever it hung: nothing happens. */
    task_end(&store.task, TASK_FAILED, "late");
    CU_ASSERT_EQUAL(store.ends, 1);
}

/* The daemon ends: a drain is no longer than what is left of it. */
static void test_until(void)
{
    struct actor client, stt;
    struct supervisor_limits hurried = limits;
    begin();
    actor_start(&client, TASK_LIFETIME, "client");
    actor_start(&stt, TASK_LIFETIME, "stt");
    stt.ends_at_cancel = true;
    task_end(&client.task, TASK_DISCONNECTED, NULL);
    CU_ASSERT_FALSE(turn());
    CU_ASSERT_EQUAL(due, now + DRAIN);
    wakes = 0;
    supervisor_wake(&sv);
    supervisor_wake(&sv);
    CU_ASSERT_EQUAL(wakes, 1);
    hurried.until_ms = now + 200;
    CU_ASSERT_FALSE(supervisor_turn(&sv, now + 1, &hurried, &due));
    CU_ASSERT_EQUAL(due, now + 200);
    CU_ASSERT_TRUE(supervisor_turn(&sv, now + 200, &hurried, &due));
    CU_ASSERT_EQUAL(stt.cancels, 1);
}

/* Ops change the list that is being walked. */
static void test_ops_that_change_things(void)
{
    struct actor client, a, b, c, begun = {.shutdowns = 0};
    begin();
    task_init(&begun.task);
    actor_start(&client, TASK_LIFETIME, "client");
    actor_start(&a, TASK_LIFETIME, "a");
    actor_start(&b, TASK_LIFETIME, "b");
    actor_start(&c, TASK_FINITE, "c");
    a.takes_along = &b; /* the next one in the list */
    a.ends_at_shutdown = c.ends_at_shutdown = true;
    c.begins = &begun;
    task_end(&client.task, TASK_DISCONNECTED, NULL);
    CU_ASSERT_FALSE(turn());
    CU_ASSERT_EQUAL(b.shutdowns, 0);
    CU_ASSERT_EQUAL(b.ends, 1);
    CU_ASSERT_EQUAL(c.shutdowns, 1);
    CU_ASSERT_TRUE(c.began); /* a part of the drain: it isn't told to stop */
    CU_ASSERT_EQUAL(begun.shutdowns, 0);
    task_end(&begun.task, TASK_DONE, NULL);
    CU_ASSERT_TRUE(turn());
    CU_ASSERT_EQUAL(begun.ends, 1);
}

static void test_again(void)
{
    struct actor client, open;
    begin();
    actor_start(&client, TASK_LIFETIME, "client");
    actor_start(&open, TASK_FINITE, "open");
    task_end(&open.task, TASK_DONE, NULL);
    CU_ASSERT_TRUE(task_start(&open.task, &sv, TASK_FINITE, "open", &ops));
    task_end(&open.task, TASK_DONE, NULL);
    CU_ASSERT_EQUAL(open.ends, 2);
    CU_ASSERT_EQUAL(counted, 1);
    supervisor_abort(&sv);
    CU_ASSERT_EQUAL(counted, 0);
    CU_ASSERT_EQUAL(client.cancels, 1);
    CU_ASSERT_EQUAL(client.ends, 1);
    supervisor_abort(&sv); /* twice is harmless */
    CU_ASSERT_EQUAL(client.ends, 1);
}

/* Random lives: whatever happens in whatever order, each start has one end, each exit one reason, and it is over after
 * at most both bounds. */
static void test_random_lives(void)
{
    srand(1);
    for (int life = 0; life < 2000; life++) {
        struct actor a[6];
        int64_t before = exits("disconnect") + exits("crash") + exits("lifetime_done");
        begin();
        for (size_t i = 0; i < ARRAY_LEN(a); i++) {
            actor_start(&a[i], i < 3 ? TASK_LIFETIME : TASK_FINITE, "t");
            a[i].ends_at_shutdown = rand() % 3 == 0;
            a[i].ends_at_cancel = rand() % 2 == 0;
            a[i].takes_along = rand() % 4 == 0 ? &a[(i + 1) % ARRAY_LEN(a)] : NULL;
        }
        bool over = false;
        uint64_t ended_ms = 0;
        for (int step = 0; step < 400 && !over; step++) {
            struct actor *one = &a[rand() % ARRAY_LEN(a)];
            if (rand() % 8 == 0)
                task_end(&one->task, (enum task_outcome)(rand() % 3), "chance");
            now += (uint64_t)(rand() % 2000);
            over = turn();
            CU_ASSERT_TRUE(over || due == UINT64_MAX || due > now);
            if (ended_ms == 0 && !supervisor_running(&sv))
                ended_ms = now;
        }
        if (ended_ms > 0)
            CU_ASSERT_TRUE(now - ended_ms <= DRAIN + BOUND + 4000);
        if (!over)
            supervisor_abort(&sv);
        else
            CU_ASSERT_EQUAL(exits("disconnect") + exits("crash") + exits("lifetime_done"), before + 1);
        for (size_t i = 0; i < ARRAY_LEN(a); i++) {
            CU_ASSERT_EQUAL(a[i].ends, 1);
            CU_ASSERT_TRUE(a[i].shutdowns <= 1 && a[i].cancels <= 1);
        }
        CU_ASSERT_EQUAL(counted, 0);
    }
}

/* Every series is there before anything has happened. */
static void test_page(void)
{
    struct buf page = BUF_INIT(0);
    (void)supervisor_class_get("fresh");
    CU_ASSERT_PTR_EQUAL(supervisor_class_get("fresh"), supervisor_class_get("fresh"));
    CU_ASSERT_TRUE_FATAL(metrics_render(&page));
    static const char *const lines[] = {
        "async_supervisor_exit_total{label=\"fresh\",reason=\"disconnect\"} 0\n",
        "async_supervisor_exit_total{label=\"fresh\",reason=\"crash\"} 0\n",
        "async_supervisor_exit_total{label=\"fresh\",reason=\"lifetime_done\"} 0\n",
        "async_drain_timeout_total{label=\"fresh\"} 0\n",
        "async_drain_duration_seconds_bucket{label=\"fresh\",le=\"0.1\"} 0\n",
        "async_drain_duration_seconds_bucket{label=\"fresh\",le=\"60\"} 0\n",
        "omid_supervisor_stuck_total{label=\"fresh\"} 0\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        CU_ASSERT_PTR_NOT_NULL(strstr(page.data, lines[i]));
    buf_free(&page);
}

int main(void)
{
    class = supervisor_class_get("test");
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo reasons[] = {
        {"every kind of end", test_reasons},
        {"several in one round", test_one_round},
        {"the first round decides", test_later_round},
        CU_TEST_INFO_NULL,
    };
    CU_TestInfo teardown[] = {
        {"the drain ends with its last task", test_drain_in_time},
        {"the drain runs out", test_cancelled},
        {"a task that does not stop is given up by its name", test_stuck},
        {"the daemon's end shortens it", test_until},
        {"ops that end and begin tasks", test_ops_that_change_things},
        {"a task begins again", test_again},
        {"random lives", test_random_lives},
        {"metrics from the start", test_page},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {
        {"reasons", NULL, NULL, NULL, NULL, reasons},
        {"teardown", NULL, NULL, NULL, NULL, teardown},
        CU_SUITE_INFO_NULL,
    };
    return unit_run(suites);
}
