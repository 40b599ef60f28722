/* Calls: who is answered, when a call ends, and that it outlives its client while somebody works for it. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/magic.h"
#include "bus/call.h"
#include "fixture_reactor.h"
#include "lane/exec/exec.h"
#include "unit.h"

#define DEADLINE_MS 20000

struct thing {
    struct call call;
    struct buf held;
};

static _Atomic unsigned dropped;
static struct thing *begun; /* the last one */
static int refusal;         /* what the work that opened() asks for says */

static void thing_drop(struct call *c)
{
    struct thing *t = container_of(c, struct thing, call);
    buf_free(&t->held);
    dropped++;
}

static void thing_opened(struct channel *ch)
{
    begun = call_begin(ch, sizeof(*begun), thing_drop);
    buf_puts(&begun->held, "of the call");
    call_await(&begun->call, refusal);
}

static const struct route
    user_route = {.path = "/test", .method = "GET", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(thing_opened)},
    admin_route = {.path = "/admin", .method = "GET", .auth = ROUTE_ADMIN, .handler = CALL_HANDLER(thing_opened)};

static struct channel *ask(const struct route *route, int says)
{
    struct channel_request req = {.method = strdup("GET"),
                                  .path = strdup(route->path),
                                  .uid = strdup("somebody"),
                                  .body = strdup("body"),
                                  .body_len = 4};
    refusal = says;
    dropped = 0;
    struct channel *ch = channel_new(&req, route, &sink, &sink, reactor, route->handler, 65536, 65536);
    CU_ASSERT_PTR_NOT_NULL_FATAL(ch);
    channel_up_open(ch);
    settle();
    return ch;
}

/* One answer came down, this one. */
static bool answered(int status, const char *body)
{
    struct channel_down *d = channel_sink_take(&sink);
    bool same = d != NULL && d->next == NULL && d->kind == DOWN_RESPONSE && d->code == status &&
                d->len == strlen(body) && memcmp(d->data, body, d->len) == 0;
    if (!same && d != NULL)
        printf("\n    came: %d \"%.*s\"\n", d->code, (int)d->len, d->data);
    free_all(d, DOWN_RESPONSE);
    return same;
}

static bool silent(void)
{
    return free_all(channel_sink_take(&sink), DOWN_RESPONSE) == 0;
}

static void say_hello(void *arg)
{
    call_answer(arg, 200, "hello", 5);
}

static void say_error(void *arg)
{
    call_error(arg, 418, "the \"%s\" of %s", "pot\n", call_request(arg)->uid);
}

static void say_failed(void *arg)
{
    call_failed(arg, OMID_ERR, "the store failed");
}

static void say_json(void *arg)
{
    struct buf out = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &out);
    json_w_open(&w, '{');
    json_w_kint(&w, "n", 7);
    json_w_close(&w, '}');
    call_json(arg, 201, &w, &out);
    CU_ASSERT_PTR_NULL(out.data);
}

static void say_too_much(void *arg)
{
    struct buf out = BUF_INIT(8);
    struct json_w w;
    json_w_start(&w, &out);
    json_w_str(&w, "longer than the buffer may become");
    call_json(arg, 200, &w, &out);
}

static void test_answers(void)
{
    static const struct {
        void (*say)(void *arg);
        bool admin;
        int status;
        const char *body;
    } all[] = {
        {say_hello, false, 200, "hello"},
        {say_error, false, 418, "{\"error\":\"the \\\"pot\\n\\\" of somebody\"}"},
        {say_failed, true, 500, "{\"error\":\"the store failed\"}"},
        {say_json, false, 201, "{\"n\":7}"},
        {say_json, true, 201, "{\"n\":7}\n"},
        {say_too_much, false, 503, "{\"error\":\"out of memory\"}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        struct channel *ch = ask(all[i].admin ? &admin_route : &user_route, OMID_OK);
        CU_ASSERT_TRUE(silent());
        CU_ASSERT_EQUAL(dropped, 0);
        on_reactor(all[i].say, begun);
        CU_ASSERT_TRUE(answered(all[i].status, all[i].body));
        CU_ASSERT_EQUAL(dropped, 1);
        channel_up_closed(&ch, 1000);
        nothing_left();
    }
}

static void test_work_that_is_not_taken(void)
{
    static const char overloaded[] = "{\"error\":\"overloaded or stopping, try again later\"}";
    static const struct {
        int rc, status;
        const char *body;
    } all[] = {{OMID_EFULL, 503, overloaded},
               {OMID_ECLOSED, 503, overloaded},
               {OMID_ERR, 500, "{\"error\":\"the work was not taken\"}"}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        struct channel *ch = ask(&user_route, all[i].rc);
        CU_ASSERT_TRUE(answered(all[i].status, all[i].body));
        CU_ASSERT_EQUAL(dropped, 1);
        channel_up_closed(&ch, 1000);
        nothing_left();
    }
}

/* ---------------------------------------------------------------- the client leaves */

static void test_answer_to_nobody(void)
{
    static void (*const says[])(void *arg) = {say_hello, say_error, say_failed, say_json};
    for (size_t i = 0; i < ARRAY_LEN(says); i++) {
        struct channel *ch = ask(&user_route, OMID_OK);
        channel_up_closed(&ch, 1006);
        settle();
        CU_ASSERT_EQUAL(dropped, 0); /* somebody works for it */
        CU_ASSERT_TRUE(memcmp(call_request(&begun->call)->body, "body", 4) == 0);
        on_reactor(says[i], begun);
        CU_ASSERT_EQUAL(dropped, 1);
        CU_ASSERT_TRUE(silent());
        nothing_left();
    }
}

static void ask_wanted(void *arg)
{
    struct thing *t = begun;
    *(bool *)arg = call_wanted(&t->call);
}

static void test_wanted(void)
{
    bool wanted = false;
    struct channel *ch = ask(&user_route, OMID_OK);
    on_reactor(ask_wanted, &wanted);
    CU_ASSERT_TRUE(wanted);
    CU_ASSERT_EQUAL(dropped, 0);
    channel_up_closed(&ch, 1006); /* and now nobody works for it */
    settle();
    CU_ASSERT_EQUAL(dropped, 1);

    ch = ask(&user_route, OMID_OK);
    channel_up_closed(&ch, 1006);
    settle();
    on_reactor(ask_wanted, &wanted);
    CU_ASSERT_FALSE(wanted);
    CU_ASSERT_EQUAL(dropped, 1);
    CU_ASSERT_EQUAL(free_all(channel_sink_take(&sink), DOWN_RESPONSE), 0);
    nothing_left();
}

/* ---------------------------------------------------------------- executors */

static struct exec *exec;

static void work_run(void *arg)
{
    struct thing *t = arg;
    buf_clear(&t->held);
    buf_append(&t->held, call_request(&t->call)->body, call_request(&t->call)->body_len);
}

static void work_done(void *arg, bool ran)
{
    struct thing *t = arg;
    if (ran)
        call_answer(&t->call, 200, t->held.data, t->held.len);
    else
        call_failed(&t->call, OMID_ECLOSED, "");
}

static void work_begin(void *arg)
{
    struct thing *t = arg;
    call_await(&t->call, call_work(&t->call, exec, "test", work_run, work_done));
}

static void test_work(void)
{
    const struct exec_config ec = {.threads = {1, 1, 1}, .queue = 4};
    exec = exec_new(&ec);
    struct channel *ch = ask(&user_route, OMID_OK);
    on_reactor(work_begin, begun);
    for (uint64_t until = clock_mono_ms() + DEADLINE_MS; dropped == 0 && clock_mono_ms() < until;) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        settle(); /* dropped is the reactor's */
    }
    CU_ASSERT_EQUAL(dropped, 1);
    CU_ASSERT_TRUE(answered(200, "body"));
    channel_up_closed(&ch, 1000);
    exec_stop(exec, clock_mono_ms() + DEADLINE_MS);

    ch = ask(&user_route, OMID_OK);
    on_reactor(work_begin, begun);
    CU_ASSERT_EQUAL(dropped, 1);
    CU_ASSERT_TRUE(answered(503, "{\"error\":\"overloaded or stopping, try again later\"}"));
    channel_up_closed(&ch, 1000);
    nothing_left();
    exec_free(&exec);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"answers", test_answers},
        {"work that is not taken is answered", test_work_that_is_not_taken},
        {"an answer to a client that has left goes nowhere", test_answer_to_nobody},
        {"nothing is left to do for one that has left", test_wanted},
        {"work in an executor", test_work},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"call", reactor_begin, reactor_end, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
