/* The durable queue: its process is killed at any moment; nothing that it took is lost. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/id.h"
#include "queue_rig.h"
#include "unit.h"

/* What the child was told, and what it told: shared, so that it outlives the child. */
struct ledger {
    _Atomic uint32_t accepted[200000]; /* by payload number: told to be on disk */
    _Atomic uint32_t delivered[200000];
    _Atomic uint32_t finished[200000];
    _Atomic uint32_t next, told; /* told: how many are accepted */
};
static struct ledger *ledger;

static bool ledger_handle(void *arg, struct queue_claim *c)
{
    const struct omid_job_view *v = queue_claim_view(c);
    (void)arg;
    uint32_t n = (uint32_t)strtoul((const char *)v->payload, NULL, 10);
    ledger->delivered[n]++;
    ledger->finished[n]++;
    queue_finish(&c, OMID_JOB_DONE, 0, NULL);
    return true;
}

static void on_ledger(void *arg, enum omid_result result, uint64_t id)
{
    (void)id;
    if (result == OMID_OK) {
        ledger->accepted[(uintptr_t)arg] = 1;
        ledger->told++;
    }
}

static void load_until_killed(void)
{
    char payload[16];
    struct loop *own = loop_new("child");
    if (own == NULL || !loop_start(own) || !opened() || !queue_start(q, ledger_handle, NULL))
        _exit(1);
    for (;;) {
        uint32_t n = ledger->next++;
        if (n >= ARRAY_LEN(ledger->accepted))
            _exit(2);
        snprintf(payload, sizeof(payload), "%u", n);
        struct omid_job job = {.size = sizeof(job),
                               .type = "test",
                               .target = n % 3 ? "a" : "b",
                               .payload = payload,
                               .payload_len = strlen(payload)};
        if (queue_enqueue(q, "web", &job, own, on_ledger, (void *)(uintptr_t)n) != OMID_OK)
            _exit(3);
        if (n % 20 == 0)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static void test_kill_nine(void)
{
    enum { KILLS = 15 };
    fresh();
    cf.commit_ms = 3;
    ledger = mmap(NULL, sizeof(*ledger), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CU_ASSERT_FATAL(ledger != MAP_FAILED);
    for (int k = 0; k < KILLS; k++) {
        int status = 0;
        pid_t pid = fork();
        if (pid == 0)
            load_until_killed();
        uint32_t begin = ledger->told;
        /* One that ended by itself is no load. */
        CU_ASSERT_FATAL(WAIT_FOR(ledger->told > begin + 50 || waitpid(pid, &status, WNOHANG) == pid));
        CU_ASSERT_FATAL(ledger->told > begin + 50);
        /* At any moment: of a commit, a claim, a finish. */
        nanosleep(&(struct timespec){.tv_nsec = (long)(id_random_u64() % 60000000)}, NULL);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        CU_ASSERT(WIFSIGNALED(status));
    }
    /* The last one runs to the end, in this process. */
    CU_ASSERT_FATAL(opened());
    CU_ASSERT_FATAL(queue_start(q, ledger_handle, NULL));
    CU_ASSERT(WAIT_FOR(counts().ready + counts().delayed + counts().leased == 0));
    uint32_t accepted = 0, lost = 0, doubled = 0, all = ledger->next;
    for (uint32_t i = 0; i < all; i++) {
        accepted += ledger->accepted[i];
        lost += ledger->accepted[i] && ledger->delivered[i] == 0;
        doubled += ledger->delivered[i] > 1;
    }
    printf("(%d kills, %u accepted, %u lost, %u doubled) ", KILLS, accepted, lost, doubled);
    CU_ASSERT(accepted > KILLS * 50);
    CU_ASSERT_EQUAL(lost, 0);
    CU_ASSERT(doubled <= KILLS * cf.in_flight);
    CU_ASSERT_EQUAL(counts().dead, 0);
    closed();
    munmap(ledger, sizeof(*ledger));
}

/* What a killed process had in hand is offered again at once. */
static void test_killed_with_claims(void)
{
    fresh();
    pid_t pid = fork();
    if (pid == 0) {
        struct loop *own = loop_new("child");
        handler_set(true, 0, false);
        if (!loop_start(own) || !started())
            _exit(1);
        lp = own;
        if (enqueue_many("web", "t", 5) != OMID_OK || !WAIT_FOR(seen_count() == 5))
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    CU_ASSERT_FATAL(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CU_ASSERT_FATAL(started());
    CU_ASSERT(WAIT_FOR(counts().done == 5));
    for (size_t i = 0; i < 5; i++)
        CU_ASSERT_EQUAL(h.seen[i].attempt, 2);
    closed();
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"kill -9", test_kill_nine},
        {"killed with claims", test_killed_with_claims},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"queue kill", setup, teardown, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
