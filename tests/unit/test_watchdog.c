#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "host/watchdog.h"
#include "unit.h"

#define WAIT_MS 20000

static atomic_bool release;

static int64_t slow_count(const char *plugin)
{
    const struct metric_label label = {"plugin", plugin};
    return metric_value(metric_get(METRIC_COUNTER, "omid_watchdog_slow_total",
                                   "Callbacks that were seen holding their loop for longer than watchdog.slow.", &label,
                                   1, NULL, 0));
}

static int64_t held(void)
{
    return metric_value(
        metric_gauge("omid_watchdog_held_loops", "Loops that are held for longer than watchdog.fatal."));
}

static bool wait_value(int64_t (*value)(void), int64_t want)
{
    for (uint64_t end = clock_mono_ms() + WAIT_MS; clock_mono_ms() < end; usleep(1000)) {
        if (value() == want)
            return true;
    }
    return false;
}

static int64_t outer_slow(void)
{
    return slow_count("outer");
}

static int64_t inner_slow(void)
{
    return slow_count("inner");
}

static int64_t is_released(void)
{
    return !atomic_load(&release);
}

/* Holds the loop until the test lets go of it. */
static void hold(void)
{
    while (!atomic_load(&release))
        usleep(1000);
    atomic_store(&release, false);
}

static void on_nested(struct loop *l, struct loop_msg *msg)
{
    (void)msg;
    struct pulse_doing none = loop_doing_enter(l, "outer", "event");
    hold();
    struct pulse_doing outer = loop_doing_enter(l, "inner", "done");
    hold();
    loop_doing_leave(l, outer);
    hold();
    loop_doing_leave(l, none);
}

static void on_hold(struct loop *l, struct loop_msg *msg)
{
    (void)l;
    (void)msg;
    hold();
}

struct rig {
    struct loop *loop[2];
    struct watchdog *w;
};

static void rig_new(struct rig *r, uint32_t slow_ms, uint32_t fatal_ms)
{
    atomic_store(&release, false);
    for (int i = 0; i < 2; i++) {
        r->loop[i] = loop_new(i ? "second" : "first");
        CU_ASSERT_TRUE_FATAL(r->loop[i] && loop_start(r->loop[i]));
    }
    const struct watchdog_config config = {.loops = r->loop, .n_loops = 2, .slow_ms = slow_ms, .fatal_ms = fatal_ms};
    r->w = watchdog_new(&config);
    CU_ASSERT_PTR_NOT_NULL_FATAL(r->w);
}

static void rig_free(struct rig *r)
{
    watchdog_detach(r->w);
    for (int i = 0; i < 2; i++)
        loop_stop(r->loop[i]);
    watchdog_free(&r->w);
    for (int i = 0; i < 2; i++)
        loop_free(&r->loop[i]);
}

/* Each callback once, while it runs; the outer one not anew when the inner one has ended. */
static void test_slow(void)
{
    struct rig r;
    static struct loop_msg msg = {.fn = on_nested};
    rig_new(&r, 20, 60000);
    loop_post(r.loop[1], &msg);
    CU_ASSERT_TRUE(wait_value(outer_slow, 1));
    atomic_store(&release, true);
    CU_ASSERT_TRUE(wait_value(inner_slow, 1));
    atomic_store(&release, true);
    CU_ASSERT_TRUE(wait_value(is_released, 1));
    usleep(100000); /* several looks */
    CU_ASSERT_EQUAL(outer_slow(), 1);
    CU_ASSERT_EQUAL(inner_slow(), 1);
    CU_ASSERT_EQUAL(held(), 0);
    atomic_store(&release, true);
    CU_ASSERT_TRUE(wait_value(is_released, 1));
    rig_free(&r);
}

/* ------------------------------------------------------------ systemd */

static int notified;

static int systemd_new(void)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    socklen_t len = sizeof(sa.sun_family);
    char name[128];
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* The kernel chooses an abstract name: a NUL and five digits. */
    CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)&sa, len), 0);
    len = sizeof(sa);
    CU_ASSERT_EQUAL_FATAL(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    snprintf(name, sizeof(name), "@%.*s", (int)(len - sizeof(sa.sun_family) - 1), sa.sun_path + 1);
    setenv("NOTIFY_SOCKET", name, 1);
    setenv("WATCHDOG_USEC", "90000", 1);
    return fd;
}

static unsigned feeds(void)
{
    char text[64];
    unsigned n = 0;
    for (ssize_t got; (got = recv(notified, text, sizeof(text) - 1, 0)) > 0;) {
        text[got] = '\0';
        n += strcmp(text, "WATCHDOG=1") == 0;
    }
    return n;
}

static int64_t fed(void)
{
    return feeds() > 0;
}

/* A loop that is held by anything, not only by a plugin's callback, is not fed for; the other one does not help. */
static void test_fatal(void)
{
    struct rig r;
    static struct loop_msg msg = {.fn = on_hold};
    notified = systemd_new();
    rig_new(&r, 20, 200);
    CU_ASSERT_TRUE(wait_value(fed, 1));
    CU_ASSERT_TRUE(wait_value(fed, 1));
    loop_post(r.loop[0], &msg);
    CU_ASSERT_TRUE(wait_value(held, 1));
    (void)feeds();
    usleep(300000); /* ten intervals */
    CU_ASSERT_EQUAL(feeds(), 0);
    atomic_store(&release, true);
    CU_ASSERT_TRUE(wait_value(held, 0));
    CU_ASSERT_TRUE(wait_value(fed, 1));

    /* While the loops end, it goes on. */
    watchdog_detach(r.w);
    loop_stop(r.loop[0]);
    (void)feeds();
    CU_ASSERT_TRUE(wait_value(fed, 1));
    CU_ASSERT_EQUAL(held(), 0);
    rig_free(&r);
    close(notified);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"a slow callback is counted once, while it runs", test_slow},
        {"systemd is fed while all loops turn", test_fatal},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"watchdog", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
