/*
 * What one partner (scheme, host and port) may have of a lane over all its paths. The clock is driven: clock_mono_ms is
 * wrapped. Nothing is dialled: the attempts are waiters of the test's own, asked for and ended on the lane's thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/magic.h"
#include "lane/http/lane_int.h"
#include "lane_rig.h"
#include "unit.h"

#define SLOTS 64u
#define QUEUE 1024u
#define FEW 16u /* a quarter of the slots: what a partner has that has not answered yet */
#define LAST 4u /* and one that only fails: a sixteenth */
#define MANY 400u

static atomic_uint_fast64_t ahead_ms;

uint64_t __real_clock_mono_ms(void);
uint64_t __wrap_clock_mono_ms(void);
uint64_t __wrap_clock_mono_ms(void)
{
    return __real_clock_mono_ms() + atomic_load(&ahead_ms);
}

/* ------------------------------------------------------------ attempts */

enum job_state { JOB_WAITS, JOB_RUNS, JOB_OVER };
struct job {
    struct waiter w;
    struct partner *partner;
    enum job_state state;
    enum omid_http_error refused;
};

struct partner {
    struct lane *lane;
    const char *base; /* of its URLs */
    unsigned paths;   /* that it is reached over, one after the other */
    unsigned asked, running, refused;
    struct job *jobs[MANY];
};

static void job_go(struct waiter *w)
{
    struct job *j = container_of(w, struct job, w);
    j->state = JOB_RUNS;
    j->partner->running++;
}

static void job_refuse(struct waiter *w, enum omid_http_error why)
{
    struct job *j = container_of(w, struct job, w);
    if (w->admitted)
        lane_verdict(j->partner->lane, w, BREAKER_NEUTRAL, 0);
    j->state = JOB_OVER;
    j->refused = why;
    j->partner->refused++;
    target_put(j->partner->lane, &w->target);
}

static void ask(struct partner *p, unsigned n)
{
    char key[128];

    for (unsigned i = 0; i < n; i++) {
        struct job *j = calloc(1, sizeof *j);
        omid_assert(j && p->asked < MANY);
        snprintf(key, sizeof key, "%s%u", p->base, p->asked % p->paths);
        j->partner = p;
        j->w.go = job_go;
        j->w.refuse = job_refuse;
        j->w.within_ms = 1000;
        j->w.target = target_get(p->lane, key);
        omid_assert(j->w.target != NULL);
        p->jobs[p->asked++] = j;
        lane_slot_ask(p->lane, &j->w);
    }
}

static void job_end(struct job *j, enum breaker_outcome outcome)
{
    struct lane *l = j->partner->lane;

    j->state = JOB_OVER;
    j->partner->running--;
    lane_verdict(l, &j->w, outcome, 1);
    lane_slot_free(l, &j->w);
    target_put(l, &j->w.target);
}

/* The oldest n of those that run now; what starts meanwhile stays. */
static void end(struct partner *p, unsigned n, enum breaker_outcome outcome)
{
    struct job *now[MANY];
    unsigned runs = 0;

    for (unsigned i = 0; i < p->asked && runs < n; i++) {
        if (p->jobs[i]->state == JOB_RUNS)
            now[runs++] = p->jobs[i];
    }
    CU_ASSERT_EQUAL(runs, n);
    for (unsigned i = 0; i < runs; i++)
        job_end(now[i], outcome);
}

/* Until nothing of it is left; then it is as if it had never asked, but for what the lane has learnt. */
static void finish(struct partner *p)
{
    for (unsigned i = 0; i < p->asked; i++) {
        struct job *j = p->jobs[i];
        if (j->state == JOB_WAITS) {
            lane_slot_cancel(p->lane, &j->w);
            j->state = JOB_OVER;
            target_put(p->lane, &j->w.target);
        }
    }
    for (unsigned i = 0; i < p->asked; i++) {
        if (p->jobs[i]->state == JOB_RUNS)
            job_end(p->jobs[i], BREAKER_NEUTRAL);
        free(p->jobs[i]);
    }
    p->asked = p->refused = 0;
    CU_ASSERT_EQUAL(p->running, 0);
}

/* ------------------------------------------------------------ on the lane's thread */

struct play {
    struct loop_msg msg;
    struct rig *rig;
    void (*fn)(struct lane *l);
    atomic_uint over;
};

static void on_play(struct loop *loop, struct loop_msg *msg)
{
    struct play *p = container_of(msg, struct play, msg);
    (void)loop;
    p->fn(p->rig->lane);
    atomic_store(&p->over, 1);
}

static void play(unsigned slots, unsigned queue, void (*fn)(struct lane *l))
{
    struct rig r;
    struct conf_lane conf = rig_conf();
    struct play p = {.msg.fn = on_play, .rig = &r, .fn = fn};

    conf.pool = conf.semaphore = slots;
    conf.queue = queue;
    conf.breaker_failures = 5;
    atomic_store(&ahead_ms, 0);
    rig_start(&r, &conf);
    loop_post(lanes_loop(r.lanes), &p.msg);
    CU_ASSERT_TRUE_FATAL(rig_reaches(&p.over, 1));
    rig_stop(&r);
}

static struct partner ill(struct lane *l)
{
    return (struct partner){.lane = l, .base = "https://127.0.0.1:1/", .paths = MANY};
}

static struct partner well(struct lane *l)
{
    return (struct partner){.lane = l, .base = "https://127.0.0.1:2/", .paths = 100};
}

/* Answers at once to `width` at a time, until it may have so many. */
static void prove(struct partner *p, unsigned width)
{
    for (unsigned i = 0; i < 10; i++) {
        ask(p, width);
        while (p->running > 0)
            end(p, p->running, BREAKER_SUCCESS);
        finish(p);
    }
}

/* ------------------------------------------------------------ the tests */

/* Each path is a target of its own, with attempts of its own: what hangs is the partner. */
static void hangs(struct lane *l)
{
    struct partner p = ill(l), other = well(l);
    unsigned most = FEW;

    ask(&p, 200);
    CU_ASSERT_EQUAL(p.running, FEW);
    ask(&other, 1);
    CU_ASSERT_EQUAL(other.running, 1);
    end(&other, 1, BREAKER_SUCCESS);
    /* All time out, and those that waited follow: fewer each time, for it never answers. */
    for (unsigned i = 0; i < 4; i++) {
        CU_ASSERT_TRUE(p.running <= most);
        most = p.running;
        end(&p, p.running, BREAKER_OVERLOAD);
    }
    CU_ASSERT_EQUAL(p.running, LAST);
    ask(&other, 20);
    CU_ASSERT_EQUAL(other.running, FEW);
    for (unsigned ended = 0; ended < 20; ended++)
        end(&other, 1, BREAKER_SUCCESS);
    finish(&other);
    /* An answer, and it is believed; another, and more: it has what it needs at once. */
    for (unsigned width = LAST; width < 32; width *= 2) {
        CU_ASSERT_EQUAL(p.running, width);
        end(&p, p.running, BREAKER_ANSWERED);
    }
    finish(&p);
}

static void test_hangs(void)
{
    play(SLOTS, QUEUE, hangs);
}

/* A partner that answers has as much of a lane as it needs, all of it where it is the only one. Then it hangs: what it
 * has in flight stays so until it times out, but there is a place for the others, and nothing takes their place. */
static void goes_ill(struct lane *l)
{
    struct partner p = ill(l), other = well(l);

    prove(&p, SLOTS);
    ask(&p, 200);
    CU_ASSERT_EQUAL(p.running, SLOTS);
    finish(&p);
    prove(&other, 1);
    ask(&p, 200);
    CU_ASSERT_EQUAL(p.running, SLOTS - SLOTS / 8);
    ask(&other, 8);
    CU_ASSERT_EQUAL(other.running, 8);
    end(&other, 8, BREAKER_SUCCESS);
    atomic_fetch_add(&ahead_ms, l->conf.timeout_ms);
    end(&p, 30, BREAKER_OVERLOAD);
    CU_ASSERT_EQUAL(p.running, SLOTS - SLOTS / 8 - 30);
    end(&p, p.running, BREAKER_OVERLOAD);
    CU_ASSERT_TRUE(p.running <= FEW);
    finish(&p);
    finish(&other);
}

static void test_goes_ill(void)
{
    play(SLOTS, QUEUE, goes_ill);
}

/* A partner that needs little has no more than a few when it hangs, however long it has been well. */
static void needs_little(struct lane *l)
{
    struct partner p = ill(l);

    prove(&p, 3);
    prove(&p, 3);
    ask(&p, 200);
    CU_ASSERT_EQUAL(p.running, FEW);
    finish(&p);
    /* And what it needed a while ago says nothing of now. */
    prove(&p, SLOTS);
    ask(&p, 100);
    CU_ASSERT_EQUAL(p.running, SLOTS);
    finish(&p);
    atomic_fetch_add(&ahead_ms, l->conf.timeout_ms);
    ask(&p, 100);
    CU_ASSERT_EQUAL(p.running, FEW);
    end(&p, FEW, BREAKER_SUCCESS);
    CU_ASSERT_EQUAL(p.running, 2 * FEW);
    finish(&p);
}

static void test_needs_little(void)
{
    play(SLOTS, QUEUE, needs_little);
}

/* Sick paths, each with a breaker of its own, beside one that answers: the partner lives, and is not held to a few. */
static void sick_paths(struct lane *l)
{
    struct partner p = ill(l), good = {.lane = l, .base = "https://127.0.0.1:1/good", .paths = 1};

    prove(&p, SLOTS);
    for (unsigned i = 0; i < 20; i++) {
        ask(&p, 10);
        end(&p, 10, BREAKER_OVERLOAD);
        ask(&good, 1);
        end(&good, 1, BREAKER_SUCCESS);
    }
    ask(&p, 200);
    CU_ASSERT_EQUAL(p.running, SLOTS);
    finish(&p);
    finish(&good);
}

static void test_sick_paths(void)
{
    play(SLOTS, QUEUE, sick_paths);
}

/* However few slots a lane has, and whatever is not known of a partner: one is left for the others. */
static void one_left(struct lane *l)
{
    static const char *const bases[] = {"http://127.0.0.1:1/", "http://new.invalid/", "wss://new.invalid/"};

    for (size_t i = 0; i < ARRAY_LEN(bases); i++) {
        struct partner p = {.lane = l, .base = bases[i], .paths = MANY}, other = well(l);
        unsigned slots = l->conf.semaphore;
        ask(&p, slots + 4);
        CU_ASSERT_EQUAL(p.running, slots == 1 ? 1 : slots <= LIMIT_START ? slots - 1 : LIMIT_START);
        ask(&other, 1);
        CU_ASSERT_EQUAL(other.running, slots > 1);
        finish(&p);
        finish(&other);
    }
}

static void test_one_left(void)
{
    for (unsigned slots = 1; slots <= 8; slots++)
        play(slots, QUEUE, one_left);
}

/* Nor has it the queue: a quarter until it answers, half from then on. */
static void queues(struct lane *l)
{
    struct partner p = ill(l), other = well(l);

    ask(&p, MANY);
    CU_ASSERT_EQUAL(p.running, FEW);
    CU_ASSERT_EQUAL(l->waiting, l->conf.queue / 4);
    CU_ASSERT_EQUAL(p.refused, MANY - FEW - l->conf.queue / 4);
    CU_ASSERT_EQUAL(p.jobs[MANY - 1]->refused, OMID_HTTP_FULL);
    finish(&p);
    prove(&p, SLOTS);
    ask(&p, MANY);
    CU_ASSERT_EQUAL(l->waiting, l->conf.queue / 2);
    ask(&other, 20);
    CU_ASSERT_EQUAL(other.refused, 0);
    finish(&p);
    finish(&other);
}

static void test_queues(void)
{
    play(SLOTS, 200, queues);
}

/* A name that could not be looked up: one at a time, until it could. */
static void unresolved(struct lane *l)
{
    struct partner p = {.lane = l, .base = "http://unknown.invalid/", .paths = MANY};

    prove(&p, SLOTS);
    ask(&p, 200);
    CU_ASSERT_EQUAL(p.running, SLOTS);
    for (unsigned i = 0; i < p.asked; i++) {
        if (p.jobs[i]->state == JOB_RUNS) {
            lane_unresolved(&p.jobs[i]->w);
            job_end(p.jobs[i], BREAKER_NEUTRAL);
            break;
        }
    }
    CU_ASSERT_EQUAL(p.running, SLOTS - 1);
    end(&p, SLOTS - 1, BREAKER_NEUTRAL);
    CU_ASSERT_EQUAL(p.running, 1);
    for (unsigned width = 1; width < SLOTS; width *= 2) {
        CU_ASSERT_EQUAL(p.running, width);
        end(&p, width, BREAKER_SUCCESS);
    }
    finish(&p);
}

static void test_unresolved(void)
{
    play(SLOTS, QUEUE, unresolved);
}

/* Within what a partner may have, its paths take turns, though one has a backlog and fills it again and again. */
static void turns(struct lane *l)
{
    struct partner backlog = {.lane = l, .base = "https://127.0.0.1:1/a", .paths = 1},
                   other = {.lane = l, .base = "https://127.0.0.1:1/b", .paths = 1};

    ask(&backlog, 20);
    ask(&other, 20);
    for (unsigned i = 0; i < 4; i++) {
        CU_ASSERT_EQUAL(l->inflight, l->conf.semaphore > 1 ? l->conf.semaphore - 1 : 1);
        unsigned ended = 0;
        for (; other.running == 0 && backlog.running > 0; ended++)
            end(&backlog, 1, BREAKER_NEUTRAL);
        CU_ASSERT_TRUE(ended <= 2);
        end(&other, 1, BREAKER_NEUTRAL);
    }
    finish(&backlog);
    finish(&other);
}

static void test_turns(void)
{
    for (unsigned slots = 1; slots <= 4; slots++)
        play(slots, QUEUE, turns);
}

/* Nor has it each turn while what the partner had by its answers, a while ago, is more than it may have now. */
static void turns_without_answers(struct lane *l)
{
    struct partner backlog = {.lane = l, .base = "https://127.0.0.1:1/a", .paths = 1},
                   others = {.lane = l, .base = "https://127.0.0.1:1/b", .paths = 3};

    prove(&backlog, SLOTS);
    atomic_fetch_add(&ahead_ms, l->conf.timeout_ms);
    ask(&backlog, 100);
    CU_ASSERT_EQUAL(backlog.running, FEW);
    ask(&others, 3);
    end(&backlog, 4, BREAKER_NEUTRAL);
    CU_ASSERT_EQUAL(others.running, 3);
    CU_ASSERT_EQUAL(backlog.running, FEW - 3);
    finish(&backlog);
    finish(&others);
}

static void test_turns_without_answers(void)
{
    play(SLOTS, QUEUE, turns_without_answers);
}

/* A lane that is left with one slot: those that had more by their answers have it in turn. */
static void one_slot(struct lane *l)
{
    struct partner p = ill(l), other = well(l);

    prove(&p, SLOTS);
    prove(&other, SLOTS);
    l->conf.semaphore = 1; /* as a reload does */
    ask(&p, 1);
    ask(&other, 1);
    CU_ASSERT_EQUAL(p.running, 1);
    CU_ASSERT_EQUAL(other.running, 0);
    finish(&p);
    CU_ASSERT_EQUAL(other.running, 1);
    finish(&other);
}

static void test_one_slot(void)
{
    play(SLOTS, QUEUE, one_slot);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"one that hangs, over many paths", test_hangs},
        {"one that has answered, and hangs", test_goes_ill},
        {"one that needs little, and hangs", test_needs_little},
        {"sick paths of one that answers", test_sick_paths},
        {"its paths take turns", test_turns},
        {"and without answers", test_turns_without_answers},
        {"few slots: one is left", test_one_left},
        {"a lane that is left with one slot", test_one_slot},
        {"the queue", test_queues},
        {"a name that can't be looked up", test_unresolved},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"partners of a lane", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
