/* Names of targets: looking one up may take for ever, and holds nobody but who asked. */
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/magic.h"
#include "lane_rig.h"
#include "unit.h"

static atomic_uint asked, answered;
static atomic_bool answers, on_a_loop;
static struct rig *watched;

/* In place of the system's, for curl too. Any name hangs until `answers`, and is unknown then. */
__attribute__((visibility("default"))) int getaddrinfo(const char *node, const char *service,
                                                       const struct addrinfo *hints, struct addrinfo **res)
{
    (void)node;
    (void)service;
    (void)hints;
    if (loop_is_current(lanes_loop(watched->lanes)) || loop_is_current(watched->loop))
        atomic_store(&on_a_loop, true);
    atomic_fetch_add(&asked, 1);
    while (!atomic_load(&answers) && !atomic_load(&on_a_loop))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    atomic_fetch_add(&answered, 1);
    *res = NULL;
    return EAI_NONAME;
}

static void serve(struct peer *p, int fd)
{
    char head[4096];
    while (peer_read_request(p, fd, head, sizeof head) && peer_ok(fd, "well")) {
    }
}

static bool all_answered(void *arg)
{
    (void)arg;
    return atomic_load(&answered) == atomic_load(&asked);
}

static void test_hanging_resolver(void)
{
    enum { MANY = 4 };
    struct rig r;
    struct peer p;
    struct call hung[MANY], c;
    struct conf_lane conf = rig_conf();
    char url[256];

    watched = &r;
    peer_start(&p, serve);
    rig_start(&r, &conf);
    for (unsigned i = 0; i < MANY; i++) {
        call_init(&hung[i], &r, i % 2 ? "http://hangs.invalid/" : "http://hangs-too.invalid/");
        hung[i].req.timeout_ms = i == 0 ? 300 : 0;
        call_start(&hung[i]);
    }
    CU_ASSERT_TRUE(rig_reaches(&asked, MANY));
    /* Beside them. */
    CU_ASSERT_EQUAL(call_once(&c, &r, peer_url(&p, "http", "/", url)), OMID_HTTP_OK);
    call_free(&c);
    /* One runs out of time, and says of what; that is no fault of its target's. */
    CU_ASSERT_TRUE(call_wait(&hung[0]));
    CU_ASSERT_EQUAL(hung[0].res.error, OMID_HTTP_RESOLVE);
    /* One is cancelled. */
    call_cancel(&hung[1]);
    CU_ASSERT_EQUAL(call_once(&c, &r, url), OMID_HTTP_OK);
    call_free(&c);
    CU_ASSERT_EQUAL(atomic_load(&answered), 0);
    /* And the stop waits for none. */
    rig_stop(&r);
    CU_ASSERT_EQUAL(atomic_load(&answered), 0);
    for (unsigned i = 2; i < MANY; i++)
        CU_ASSERT_EQUAL(hung[i].res.error, OMID_HTTP_SHUTDOWN);
    for (unsigned i = 0; i < MANY; i++)
        call_free(&hung[i]);
    CU_ASSERT_FALSE(atomic_load(&on_a_loop));
    atomic_store(&answers, true);
    CU_ASSERT_TRUE(rig_until(all_answered, NULL));
    peer_stop(&p);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"a resolver that hangs", test_hanging_resolver},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"names", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
