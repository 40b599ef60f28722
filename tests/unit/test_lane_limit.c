/* The adaptive limit of a target: rounds, losses, the ramp; then with a breaker beside it, as a lane has them. */

#include "lane/http/breaker.h"
#include "lane/http/limit.h"
#include "unit.h"

#define POOL 64u
#define LEFT 5u

/* `used` attempts in flight at once until n have ended. */
static void run(struct limit *l, unsigned most, unsigned used, unsigned n, enum limit_outcome outcome)
{
    unsigned inflight = 0, begun = 0;

    for (unsigned ended = 0; ended < n; ended++) {
        while (inflight < used && begun < n) {
            begun++;
            limit_began(l, ++inflight);
        }
        limit_ended(l, most, --inflight, outcome);
    }
}

static void test_start(void)
{
    struct limit l;
    limit_init(&l);
    CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), 4);
    CU_ASSERT_EQUAL(limit_now(&l, 2, LEFT), 2);
    CU_ASSERT_EQUAL(limit_now(&l, 1, 1), 1);
}

static void test_doubles(void)
{
    static const unsigned widths[] = {4, 8, 16, 32, 64, 64, 64};
    struct limit l;

    limit_init(&l);
    for (unsigned i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), widths[i]);
        run(&l, POOL, widths[i], widths[i] - 1, LIMIT_SUCCESS);
        CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), widths[i]); /* a round is not over before its last */
        run(&l, POOL, 1, 1, LIMIT_SUCCESS);
    }
    /* A pool that is no power of two is reached, never passed. */
    limit_init(&l);
    for (unsigned i = 0; i < 100; i++)
        run(&l, 50, limit_now(&l, 50, LEFT), limit_now(&l, 50, LEFT), LIMIT_SUCCESS);
    CU_ASSERT_EQUAL(limit_now(&l, 1000, LEFT), 50);
    /* A pool that shrinks takes it along. */
    run(&l, 10, 1, 1, LIMIT_SUCCESS);
    CU_ASSERT_EQUAL(limit_now(&l, 1000, LEFT), 10);
}

/* What was never tried says nothing about what can be borne. */
static void test_unused(void)
{
    struct limit l;

    limit_init(&l);
    run(&l, POOL, 1, 1000, LIMIT_SUCCESS);
    CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), 4);
    run(&l, POOL, 2, 5, LIMIT_SUCCESS); /* half of it */
    CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), 8);
    run(&l, POOL, 3, 1000, LIMIT_SUCCESS);
    CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), 8);
}

static void grown_to_64(struct limit *l)
{
    limit_init(l);
    for (unsigned i = 0; i < 4; i++)
        run(l, POOL, limit_now(l, POOL, LEFT), limit_now(l, POOL, LEFT), LIMIT_SUCCESS);
    CU_ASSERT_EQUAL_FATAL(limit_now(l, POOL, LEFT), 64);
}

static void test_loss(void)
{
    struct limit l;

    grown_to_64(&l);
    for (unsigned i = 1; i <= 64; i++)
        limit_began(&l, i);
    /* Half of the round goes well, then all that was under way is lost: one cut. */
    for (unsigned i = 63; i >= 32; i--)
        limit_ended(&l, POOL, i, LIMIT_SUCCESS);
    for (unsigned i = 31; i < 32; i--) /* to 0, then it wraps */
        limit_ended(&l, POOL, i, LIMIT_LOSS);
    CU_ASSERT_EQUAL(l.limit, 44);
    CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), LEFT); /* the last one failed */
    /* The rest of that round, 44 since the first loss, can't grow it; the next round adds one. */
    run(&l, POOL, 22, 44 - 31, LIMIT_SUCCESS);
    CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), 44);
    run(&l, POOL, 22, 44, LIMIT_SUCCESS);
    CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), 45);
    run(&l, POOL, 22, 45, LIMIT_SUCCESS); /* less than half */
    CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), 45);
    run(&l, POOL, 23, 45, LIMIT_SUCCESS);
    CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), 46);
}

/* One cut a round, whatever the round: a target that answers 429 alone comes down to one, and stays there. */
static void test_floor(void)
{
    struct limit l;
    unsigned cuts = 0, at_one = 0;

    grown_to_64(&l);
    for (unsigned i = 1; i <= 2000; i++) {
        unsigned before = l.limit;
        limit_began(&l, 1);
        limit_ended(&l, POOL, 0, LIMIT_LOSS);
        cuts += l.limit < before;
        at_one = at_one == 0 && l.limit == 1 ? i : at_one;
        CU_ASSERT_TRUE_FATAL(l.limit >= 1);
    }
    CU_ASSERT_EQUAL(l.limit, 1);
    CU_ASSERT_EQUAL(cuts, 9); /* 64 44 30 21 14 9 6 4 2 1 */
    /* After a cut a whole round is spared. */
    CU_ASSERT_EQUAL(at_one, 1 + 45 + 31 + 22 + 15 + 10 + 7 + 5 + 3);
}

/* Failures that no smaller load would cure do not cut, and a target that mostly fails does not earn more. */
static void test_failures(void)
{
    struct limit l;

    grown_to_64(&l);
    run(&l, POOL, 64, 500, LIMIT_FAILURE);
    CU_ASSERT_EQUAL(l.limit, 64);
    limit_init(&l);
    for (unsigned i = 0; i < 100; i++) { /* every other one */
        run(&l, POOL, 4, 2, LIMIT_SUCCESS);
        run(&l, POOL, 4, 2, LIMIT_FAILURE);
    }
    CU_ASSERT_EQUAL(l.limit, 4);
}

/* A round of which every tenth attempt fails, all of the limit in use. */
static void run_tenth(struct limit *l)
{
    unsigned n = limit_now(l, POOL, POOL);

    limit_began(l, n);
    for (unsigned i = 0; i < n; i++)
        limit_ended(l, POOL, n - 1, i % 10 == 3 ? LIMIT_FAILURE : LIMIT_SUCCESS);
}

/* Some always fail, of many targets: that says nothing about how much they can bear. */
static void test_some_failures(void)
{
    static const unsigned widths[] = {4, 8, 16, 32, 64, 64};
    struct limit l;

    limit_init(&l);
    for (unsigned i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        CU_ASSERT_EQUAL(limit_now(&l, POOL, POOL), widths[i]);
        run_tenth(&l);
    }
    run(&l, POOL, 1, 1, LIMIT_LOSS);
    unsigned cut = l.limit;
    CU_ASSERT_EQUAL(cut, 44);
    run(&l, POOL, 1, l.round, LIMIT_SUCCESS); /* the round of the loss */
    CU_ASSERT_EQUAL(l.limit, cut);
    for (unsigned i = 1; i <= 10; i++) {
        run_tenth(&l);
        CU_ASSERT_EQUAL(l.limit, cut + i);
    }
}

static void test_ramp(void)
{
    static const unsigned widths[] = {1, 2, 4, 8, 16, 32, 64};
    struct limit l;

    grown_to_64(&l);
    limit_recovered(&l, 0);
    for (unsigned i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), widths[i]);
        run(&l, POOL, widths[i], widths[i], LIMIT_SUCCESS);
    }
    /* It ends at the target's own limit, which the loss before it had lowered, and does not overtake it. */
    grown_to_64(&l);
    limit_ended(&l, POOL, 0, LIMIT_LOSS);
    limit_recovered(&l, 0);
    for (unsigned i = 0; i < 6; i++)
        run(&l, POOL, limit_now(&l, POOL, LEFT), limit_now(&l, POOL, LEFT), LIMIT_SUCCESS);
    CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), 44);
    /* A failure on the way holds it where it is for that round. */
    grown_to_64(&l);
    limit_recovered(&l, 0);
    run(&l, POOL, 1, 1, LIMIT_SUCCESS);
    run(&l, POOL, 1, 1, LIMIT_FAILURE);
    run(&l, POOL, 1, 1, LIMIT_SUCCESS);
    CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), 2);
    run(&l, POOL, 2, 2, LIMIT_SUCCESS);
    CU_ASSERT_EQUAL(limit_now(&l, POOL, LEFT), 4);
}

/* A target that does not answer, with as much work as anybody could want for it. */
static unsigned attempts_until_open(struct limit *l, enum breaker_outcome outcome, unsigned failures, unsigned inflight)
{
    const struct breaker_config conf = {.failures = failures,
                                        .open_ms = 30000,
                                        .open_max_ms = 600000,
                                        .min_attempts = 20,
                                        .error_rate = 0.5,
                                        .slow_share = 0.8,
                                        .period_ms = 30000};
    struct breaker b;
    struct breaker_token tokens[256];
    unsigned begun = 0, ended = 0;

    breaker_init(&b, 0);
    while (begun < inflight)
        CU_ASSERT_TRUE_FATAL(breaker_admit(&b, 0, 1000, &tokens[begun++]));
    while (b.state == BREAKER_CLOSED && begun < 256) {
        while (begun - ended < limit_now(l, POOL, failures - b.consecutive)) {
            CU_ASSERT_TRUE_FATAL(breaker_admit(&b, 0, 1000, &tokens[begun++]));
            limit_began(l, begun - ended);
        }
        CU_ASSERT_TRUE_FATAL(begun > ended);
        breaker_report(&b, &conf, 0, 0.5, &tokens[ended++], outcome, 0);
        limit_ended(l, POOL, begun - ended, outcome == BREAKER_FAILURE ? LIMIT_FAILURE : LIMIT_LOSS);
    }
    CU_ASSERT_EQUAL(b.state, BREAKER_OPEN);
    return begun;
}

static void test_dead(void)
{
    struct limit l;

    for (unsigned failures = 1; failures <= 12; failures++) {
        limit_init(&l);
        CU_ASSERT_EQUAL(attempts_until_open(&l, BREAKER_FAILURE, failures, 0), failures);
        limit_init(&l);
        CU_ASSERT_EQUAL(attempts_until_open(&l, BREAKER_OVERLOAD, failures, 0), failures);
    }
    /* One that dies at full load costs what was under way, and nothing more. */
    grown_to_64(&l);
    CU_ASSERT_EQUAL(attempts_until_open(&l, BREAKER_FAILURE, 5, 64), 64);
    /* One that has just recovered. */
    grown_to_64(&l);
    limit_recovered(&l, 0);
    CU_ASSERT_EQUAL(attempts_until_open(&l, BREAKER_FAILURE, 5, 0), 5);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"starts at four, within the pool", test_start},
        {"doubles by rounds, up to the pool", test_doubles},
        {"unused width does not grow", test_unused},
        {"a loss cuts once, then one more a round", test_loss},
        {"never below one", test_floor},
        {"other failures do not cut, and of most of a round do not grow", test_failures},
        {"grows while some fail", test_some_failures},
        {"ramp after a recovery", test_ramp},
        {"a dead target's attempts until its breaker opens", test_dead},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"adaptive limit", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
