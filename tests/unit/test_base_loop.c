/* Loops: messages from several threads, order, stopping, fairness to sockets, lag, what the watchdog reads. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/clock.h"
#include "base/loop.h"
#include "base/magic.h"
#include "base/metrics.h"
#include "base/thread.h"
#include "unit.h"

#define DEADLINE_MS 20000

/* Waits until *flag is at least `want`. */
static bool reached(atomic_uint *flag, unsigned want)
{
    uint64_t end = clock_mono_ms() + DEADLINE_MS;
    while (atomic_load(flag) < want && clock_mono_ms() < end)
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    return atomic_load(flag) >= want;
}

struct note {
    struct loop_msg msg;
    unsigned from, n;
};

/* ------------------------------------------------------------- several posters */

enum { POSTERS = 4, NOTES = 20000 };
static unsigned next_of[POSTERS]; /* loop thread; after the stop, the tester */
static unsigned disorder, elsewhere;
static atomic_uint received;

static void on_note(struct loop *l, struct loop_msg *msg)
{
    struct note *n = container_of(msg, struct note, msg);
    elsewhere += !loop_is_current(l);
    disorder += next_of[n->from]++ != n->n;
    free(n);
    atomic_fetch_add(&received, 1);
}

struct poster {
    struct loop *loop;
    unsigned id;
};

static void *post_notes(void *arg)
{
    struct poster *p = arg;
    for (unsigned i = 0; i < NOTES; i++) {
        struct note *n = malloc(sizeof *n);
        *n = (struct note){.msg.fn = on_note, .from = p->id, .n = i};
        loop_post(p->loop, &n->msg);
    }
    return NULL;
}

static void posters_run(bool stop_early)
{
    pthread_t t[POSTERS];
    struct poster p[POSTERS];
    struct loop *l = loop_new("posters");
    CU_ASSERT_PTR_NOT_NULL_FATAL(l);
    memset(next_of, 0, sizeof next_of);
    disorder = elsewhere = 0;
    atomic_store(&received, 0);
    CU_ASSERT(loop_start(l));
    for (unsigned i = 0; i < POSTERS; i++) {
        p[i] = (struct poster){l, i};
        CU_ASSERT_FATAL(thread_start(&t[i], "poster_with_a_long_name", post_notes, &p[i]));
    }
    CU_ASSERT(reached(&received, stop_early ? 1 : POSTERS * NOTES));
    if (stop_early)
        loop_stop(l); /* while they still post */
    for (unsigned i = 0; i < POSTERS; i++)
        pthread_join(t[i], NULL);
    loop_stop(l);
    CU_ASSERT_EQUAL(atomic_load(&received), POSTERS * NOTES);
    CU_ASSERT_EQUAL(disorder, 0);
    CU_ASSERT_EQUAL(elsewhere, 0);
    loop_free(&l);
    CU_ASSERT_PTR_NULL(l);
}

static void test_posters(void)
{
    posters_run(false);
}

static void test_posters_stop(void)
{
    posters_run(true);
}

/* ------------------------------------------------------------- posts of a turn */

enum { TURN_LOOPS = 11, TURN_NOTES = 50 }; /* more loops than a turn keeps apart */
static struct loop *turn_to[TURN_LOOPS];
static unsigned turn_loops;
static atomic_uint turn_received, turn_elsewhere;

static void on_turn_note(struct loop *l, struct loop_msg *msg)
{
    struct note *n = container_of(msg, struct note, msg);
    if (l != turn_to[n->from] || !loop_is_current(l))
        atomic_fetch_add(&turn_elsewhere, 1);
    if (n->from == 0)
        disorder += next_of[0]++ != n->n;
    free(n);
    atomic_fetch_add(&turn_received, 1);
}

static void post_turn(struct loop *from)
{
    for (unsigned i = 0; i < TURN_NOTES * turn_loops; i++) {
        struct note *n = malloc(sizeof *n);
        *n = (struct note){.msg.fn = on_turn_note, .from = i % turn_loops, .n = i / turn_loops};
        loop_post_turn(turn_to[n->from], from, &n->msg);
    }
}

static void on_post_turn(struct loop *from, struct loop_msg *msg)
{
    (void)msg;
    post_turn(from);
}

/* `how`: 0 from a turn, 1 from another thread, 2 from what is run by the stop. */
static uint64_t turn_run(unsigned loops, int how)
{
    struct loop_msg go = {.fn = on_post_turn};
    struct pulse_lag lag;
    struct loop *from = loop_new("from");
    turn_loops = loops;
    disorder = next_of[0] = 0;
    atomic_store(&turn_elsewhere, 0);
    atomic_store(&turn_received, 0);
    for (unsigned i = 0; i < loops; i++) {
        turn_to[i] = loop_new("to");
        CU_ASSERT_FATAL(turn_to[i] != NULL && loop_start(turn_to[i]));
    }
    if (how < 2)
        CU_ASSERT(loop_start(from));
    if (how == 1)
        post_turn(from);
    else
        loop_post(from, &go);
    if (how == 2)
        loop_stop(from); /* never started: this thread runs it */
    CU_ASSERT(reached(&turn_received, TURN_NOTES * loops));
    loop_stop(from);
    loop_lag_read(turn_to[0], &lag);
    for (unsigned i = 0; i < loops; i++) {
        loop_stop(turn_to[i]);
        loop_free(&turn_to[i]);
    }
    loop_free(&from);
    CU_ASSERT_EQUAL(atomic_load(&turn_received), TURN_NOTES * loops);
    CU_ASSERT_EQUAL(disorder, 0);
    CU_ASSERT_EQUAL(atomic_load(&turn_elsewhere), 0);
    return lag.n;
}

static void test_post_turn(void)
{
    CU_ASSERT_EQUAL(turn_run(1, 0), 1); /* all in one batch */
    CU_ASSERT_EQUAL(turn_run(5, 0), 1);
    turn_run(TURN_LOOPS, 0);
    turn_run(2, 1);
    turn_run(2, 2);
}

/* --------------------------------------------------------------------- stopping */

struct chain {
    struct loop_msg msg;
    unsigned left;
    atomic_uint *ran;
};

static void on_chain(struct loop *l, struct loop_msg *msg)
{
    struct chain *c = container_of(msg, struct chain, msg);
    CU_ASSERT(loop_is_current(l));
    atomic_fetch_add(c->ran, 1);
    if (c->left-- > 0)
        loop_post(l, msg);
}

/* What messages post during the stop is run as well, until the inbox stays empty. */
static void test_stop_drains(void)
{
    atomic_uint ran = 0;
    struct chain c = {.msg.fn = on_chain, .left = 99, .ran = &ran};
    struct loop *l = loop_new("drain");
    CU_ASSERT(!loop_is_current(l));
    loop_post(l, &c.msg); /* before any thread */
    loop_stop(l);         /* never started */
    CU_ASSERT_EQUAL(atomic_load(&ran), 100);
    loop_free(&l);
    for (int i = 0; i < 200; i++) {
        l = loop_new("drain");
        c.left = 20;
        atomic_store(&ran, 0);
        CU_ASSERT(loop_start(l));
        loop_post(l, &c.msg);
        loop_stop(l);
        CU_ASSERT_EQUAL(atomic_load(&ran), 21);
        loop_free(&l);
    }
}

static void test_start_stop(void)
{
    for (int i = 0; i < 200; i++) {
        struct loop *l = loop_new("short");
        CU_ASSERT(loop_start(l));
        loop_stop(l);
        loop_stop(l);
        loop_free(&l);
    }
    struct loop *none = NULL;
    loop_free(&none);
}

/* --------------------------------------------------------------------- fairness */

struct endless {
    struct loop_msg msg;
    ev_io io;
    atomic_uint turns, bytes;
    atomic_bool enough;
    int fd[2];
};

static void on_endless(struct loop *l, struct loop_msg *msg)
{
    struct endless *e = container_of(msg, struct endless, msg);
    atomic_fetch_add(&e->turns, 1);
    if (!atomic_load(&e->enough))
        loop_post(l, msg);
}

static void on_readable(struct ev_loop *ev, ev_io *w, int revents)
{
    struct endless *e = container_of(w, struct endless, io);
    char c;
    (void)revents;
    if (read(w->fd, &c, 1) == 1 && atomic_fetch_add(&e->bytes, 1) + 1 == 100)
        ev_io_stop(ev, w);
}

/* A message that posts itself for ever starves no socket, nor the stop. */
static void test_no_starvation(void)
{
    struct endless e = {.msg.fn = on_endless};
    struct loop *l = loop_new("endless");
    char bytes[100] = "";
    CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, e.fd), 0);
    ev_io_init(&e.io, on_readable, e.fd[0], EV_READ);
    ev_io_start(loop_ev(l), &e.io);
    CU_ASSERT(loop_start(l));
    loop_post(l, &e.msg);
    CU_ASSERT(reached(&e.turns, 10));
    CU_ASSERT_EQUAL(write(e.fd[1], bytes, sizeof bytes), sizeof bytes);
    CU_ASSERT(reached(&e.bytes, 100));
    atomic_store(&e.enough, true);
    loop_stop(l);
    CU_ASSERT(atomic_load(&e.turns) >= 100); /* one each turn, one byte each turn */
    loop_free(&l);
    close(e.fd[0]);
    close(e.fd[1]);
}

/* ------------------------------------------------------------------------- lag */

struct blocker {
    struct loop_msg msg;
    atomic_uint *entered;
    unsigned ms;
};

static void on_block(struct loop *l, struct loop_msg *msg)
{
    struct blocker *b = container_of(msg, struct blocker, msg);
    (void)l;
    atomic_fetch_add(b->entered, 1);
    for (uint64_t end = clock_mono_ms() + b->ms; clock_mono_ms() < end;)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void test_lag(void)
{
    atomic_uint entered = 0;
    struct blocker first = {.msg.fn = on_block, .entered = &entered, .ms = 30},
                   second = {.msg.fn = on_block, .entered = &entered};
    struct pulse_lag lag;
    struct loop *l = loop_new("lagging");
    CU_ASSERT_STRING_EQUAL(loop_name(l), "lagging");
    loop_lag_read(l, &lag);
    CU_ASSERT_EQUAL(lag.n, 0);
    CU_ASSERT(loop_start(l));
    loop_post(l, &first.msg);
    CU_ASSERT(reached(&entered, 1));
    loop_post(l, &second.msg); /* waits while the first blocks */
    CU_ASSERT(reached(&entered, 2));
    loop_lag_read(l, &lag);
    CU_ASSERT_EQUAL(lag.n, 2);
    CU_ASSERT(lag.max_ns > 10000000 && lag.sum_ns >= lag.max_ns);
    uint64_t all = 0, slow = 0;
    for (unsigned i = 0; i < PULSE_LAG_BUCKETS; i++) {
        all += lag.count[i];
        if (i > 0 && pulse_lag_bounds[i - 1] >= 0.01)
            slow += lag.count[i];
    }
    CU_ASSERT_EQUAL(all, 2);
    CU_ASSERT(slow >= 1);
    struct buf b = BUF_INIT(0);
    CU_ASSERT(metrics_render(&b));
    CU_ASSERT_PTR_NOT_NULL(strstr(b.data, "# TYPE omid_loop_lag_seconds histogram\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(b.data, "omid_loop_lag_seconds_bucket{loop=\"lagging\",le=\"+Inf\"} 2\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(b.data, "omid_loop_lag_seconds_count{loop=\"lagging\"} 2\n"));
    buf_free(&b);
    loop_stop(l);
    loop_free(&l);
    CU_ASSERT(metrics_render(&b));
    CU_ASSERT_PTR_NULL(strstr(b.data, "lagging"));
    buf_free(&b);
}

/* ----------------------------------------------------------------------- doing */

struct worker {
    struct loop_msg msg;
    atomic_uint rounds;
    atomic_bool enough;
};
static const char owner_a[] = "a", owner_b[] = "b", callback_a[] = "of a", callback_b[] = "of b";

static void on_work(struct loop *l, struct loop_msg *msg)
{
    struct worker *w = container_of(msg, struct worker, msg);
    while (!atomic_load(&w->enough)) {
        struct pulse_doing none = loop_doing_enter(l, owner_a, callback_a);
        struct pulse_doing outer = loop_doing_enter(l, owner_b, callback_b);
        CU_ASSERT(none.owner == NULL && outer.owner == owner_a && outer.callback == callback_a);
        loop_doing_leave(l, outer);
        loop_doing_leave(l, none);
        atomic_fetch_add(&w->rounds, 1);
    }
}

/* Read from another thread: always owner and callback of the same entry. */
static void test_doing(void)
{
    struct worker w = {.msg.fn = on_work};
    struct pulse_doing d;
    struct loop *l = loop_new("doing");
    unsigned torn = 0, seen = 0;
    CU_ASSERT(!loop_doing_read(l, &d));
    CU_ASSERT(loop_start(l));
    loop_post(l, &w.msg);
    CU_ASSERT(reached(&w.rounds, 1));
    uint64_t end = clock_mono_ms() + DEADLINE_MS;
    while ((atomic_load(&w.rounds) < 50000 || seen < 100) && clock_mono_ms() < end) {
        uint64_t before = clock_mono_ns();
        if (!loop_doing_read(l, &d))
            continue;
        seen++;
        torn += !((d.owner == owner_a && d.callback == callback_a) || (d.owner == owner_b && d.callback == callback_b));
        torn += d.since_ns == 0 || d.since_ns > clock_mono_ns() || before == 0;
    }
    atomic_store(&w.enough, true);
    loop_stop(l);
    CU_ASSERT_EQUAL(torn, 0);
    CU_ASSERT(seen >= 100);
    CU_ASSERT(!loop_doing_read(l, &d));
    loop_free(&l);
}

/* ------------------------------------------------------------------------- doors */

static void free_running(void)
{
    struct loop *l = loop_new("x");
    loop_start(l);
    loop_free(&l);
}

static void stop_itself_fn(struct loop *l, struct loop_msg *msg)
{
    (void)msg;
    loop_stop(l);
}

static void stop_itself(void)
{
    static struct loop_msg msg = {.fn = stop_itself_fn};
    static atomic_uint never;
    struct loop *l = loop_new("x");
    loop_start(l);
    loop_post(l, &msg);
    reached(&never, 1);
}

/* ------------------------------------------------------------------ gathering */

static void on_count(struct loop *l, struct loop_msg *msg)
{
    (void)l;
    (void)msg;
    atomic_fetch_add(&received, 1);
}

static void on_gather(struct loop *l, struct loop_msg *msg)
{
    (void)msg;
    loop_gather(l, 1000);
    atomic_fetch_add(&received, 1);
}

/* Messages 0.1 ms apart would have a turn each. */
static void test_gather(void)
{
    enum { N = 200 };
    static struct note notes[N];
    struct loop_msg first = {.fn = on_gather};
    struct pulse_lag before, after;
    struct loop *l = loop_new("gather");
    CU_ASSERT_EQUAL(loop_gather_us(0), 0);
    CU_ASSERT_EQUAL(loop_gather_us(7), 70);
    CU_ASSERT_EQUAL(loop_gather_us(100), 1000);
    CU_ASSERT_EQUAL(loop_gather_us(1000000), 2500);
    atomic_store(&received, 0);
    CU_ASSERT_TRUE_FATAL(loop_start(l));
    loop_post(l, &first);
    CU_ASSERT_TRUE(reached(&received, 1));
    loop_lag_read(l, &before);
    for (unsigned i = 0; i < N; i++) {
        notes[i] = (struct note){.msg.fn = on_count};
        loop_post(l, &notes[i].msg);
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    CU_ASSERT_TRUE(reached(&received, N + 1));
    loop_lag_read(l, &after);
    CU_ASSERT_TRUE(after.n > before.n && after.n - before.n <= N / 2);
    loop_stop(l);
    loop_free(&l);
}

static atomic_uint outbox_last, outbox_disorder;

static void on_outbox(struct loop *l, struct loop_msg *msg)
{
    (void)l;
    unsigned number = container_of(msg, struct note, msg)->n;
    if (number != atomic_load(&outbox_last) + 1)
        atomic_fetch_add(&outbox_disorder, 1);
    atomic_store(&outbox_last, number);
    atomic_fetch_add(&received, 1);
}

/* There and back so many times, one message after the other; in ns. */
static uint64_t trips(struct loop *l, struct loop_outbox *box, unsigned n)
{
    uint64_t began = clock_mono_ns();
    for (unsigned i = 0; i < n; i++) {
        static struct loop_msg msg;
        msg = (struct loop_msg){.fn = on_count};
        unsigned before = atomic_load(&received);
        if (box) {
            loop_outbox_post(box, l, &msg);
            loop_outbox_flush(box);
        } else {
            loop_post(l, &msg);
        }
        while (atomic_load(&received) == before)
            sched_yield();
    }
    return clock_mono_ns() - began;
}

/* What comes through an outbox was gathered by its owner: a loop that gathers does not wait for more. */
static void test_outbox(void)
{
    enum { N = 500 };
    static struct note notes[N];
    static struct loop_outbox box;
    struct loop_msg first = {.fn = on_gather};
    struct loop *l = loop_new("outbox");
    atomic_store(&received, 0);
    CU_ASSERT_TRUE_FATAL(loop_start(l));
    loop_post(l, &first);
    CU_ASSERT_TRUE(reached(&received, 1));
    for (unsigned i = 0; i < N; i++) {
        notes[i] = (struct note){.msg.fn = on_outbox, .n = i + 1};
        loop_outbox_post(&box, l, &notes[i].msg);
        if (i % 7 == 6)
            loop_outbox_flush(&box);
    }
    CU_ASSERT_TRUE(box.n == 1 && box.messages > 0);
    loop_outbox_flush(&box);
    CU_ASSERT_TRUE(box.n == 0 && box.messages == 0);
    CU_ASSERT_TRUE(reached(&received, N + 1));
    CU_ASSERT_EQUAL(atomic_load(&outbox_disorder), 0);
    bool sooner = false;
    for (unsigned i = 0; i < 10 && !sooner; i++) { /* another program may hold up one of them */
        uint64_t waits = trips(l, NULL, 100);
        sooner = trips(l, &box, 100) < waits / 2;
    }
    CU_ASSERT_TRUE(sooner);
    loop_stop(l);
    loop_free(&l);
}

static void test_doors(void)
{
    CU_ASSERT(unit_aborts(free_running));
    CU_ASSERT(unit_aborts(stop_itself));
}

int main(void)
{
    CU_TestInfo tests[] = {{"doors", test_doors},
                           {"posters", test_posters},
                           {"posters during the stop", test_posters_stop},
                           {"posts of a turn", test_post_turn},
                           {"the stop drains", test_stop_drains},
                           {"start and stop", test_start_stop},
                           {"no starvation", test_no_starvation},
                           {"lag", test_lag},
                           {"doing", test_doing},
                           {"gathering", test_gather},
                           {"an outbox", test_outbox},
                           CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"loop", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
