/* Routes of plugins, with this file as the ingress: it opens channels and takes what comes down. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "host_rig.h"
#include "unit.h"

struct client {
    struct rig *rig;
    struct channel_request req;
    struct channel *ch;
};

static struct channel_sink sink;
static struct routes *routes;

static void no_wake(struct channel_sink *s)
{
    (void)s; /* polled */
}

static const char both[] = "plugin bad_route { path = \"%s/bad_route.so\" }\n"
                           "plugin echo { path = \"" TEST_ECHO "\" }\n";

static void begin(struct rig *r, unsigned reactors)
{
    CU_ASSERT_TRUE_FATAL(rig_configure(r, reactors, both));
    channel_sink_init(&sink, no_wake);
    routes = routes_new();
    CU_ASSERT_TRUE_FATAL(plugin_routes_add(r->host, routes));
}

static void end(struct rig *r)
{
    rig_stop(r);
    routes_free(&routes);
    for (struct channel_down *d = channel_sink_take(&sink), *next; d != NULL; d = next) {
        next = d->next;
        channel_down_free(d);
    }
    rig_free(r); /* after the channels, which use the plugins */
}

static void open_client(struct client *c, struct rig *r, unsigned reactor, const char *method, const char *path,
                        const char *query, const char *body, size_t down_max)
{
    bool other;
    const struct route *route = routes_find(routes, path, strlen(path), method != NULL ? method : "GET",
                                            strlen(method != NULL ? method : "GET"), method == NULL, &other);
    CU_ASSERT_PTR_NOT_NULL_FATAL(route);
    c->rig = r;
    c->req = (struct channel_request){
        .method = strdup(method != NULL ? method : "GET"),
        .path = strdup(path),
        .query = strdup(query),
        .content_type = strdup("text/x-test"),
        .peer = strdup("127.0.0.1"),
        .idempotency_key = strdup(""),
        .body = strdup(body),
        .body_len = strlen(body),
        .websocket = method == NULL,
    };
    c->ch = channel_new(&c->req, route, &sink, c, r->loop[reactor], route->handler, 65536, down_max);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c->ch);
    channel_up_open(c->ch);
}

/* The next thing that came down, waited for. Freed by the caller with channel_down_free(). */
static struct channel_down *next_down(void)
{
    static struct channel_down *rest;
    for (uint64_t until = clock_mono_ms() + RIG_WAIT_MS; clock_mono_ms() < until;) {
        if (rest == NULL)
            rest = channel_sink_take(&sink);
        while (rest != NULL) {
            struct channel_down *d = rest;
            rest = d->next;
            if (d->kind != DOWN_RESUME)
                return d;
            channel_down_free(d);
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return NULL;
}

static bool is_down(struct channel_down *d, enum channel_down_kind kind, unsigned code, const char *text)
{
    bool same = d != NULL && d->kind == kind && (kind == DOWN_MESSAGE ? (unsigned)d->op : d->code) == code &&
                (text == NULL || (d->len == strlen(text) && memcmp(d->data, text, d->len) == 0));
    if (!same && d != NULL)
        printf("\n    came: kind %d code %u op %d \"%.*s\"\n", d->kind, d->code, d->op, (int)d->len, d->data);
    return same;
}

#define EXPECT(kind, code, text)                                \
    do {                                                        \
        struct channel_down *down_ = next_down();               \
        CU_ASSERT_TRUE_FATAL(is_down(down_, kind, code, text)); \
        channel_down_free(down_);                               \
    } while (0)

static void nothing(void *arg)
{
    (void)arg;
}

/* Everything that was posted to this reactor before has run. */
static void settle(struct rig *r, unsigned reactor)
{
    rig_on(r, reactor, nothing, NULL);
    rig_on(r, reactor, nothing, NULL);
}

/* ------------------------------------------------------------ HTTP */

static void http_cases(unsigned reactors)
{
    struct rig r;
    struct client c;
    begin(&r, reactors);
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    unsigned at = reactors - 1;

    open_client(&c, &r, at, "POST", "/echo", "", "a body", 65536);
    struct channel_down *d = next_down();
    CU_ASSERT_TRUE_FATAL(is_down(d, DOWN_RESPONSE, 200, "a body"));
    CU_ASSERT_STRING_EQUAL(d->content_type, "text/x-test");
    channel_down_free(d);
    channel_up_closed(&c.ch, 1000);

    open_client(&c, &r, at, "POST", "/bad", "error", "", 65536);
    EXPECT(DOWN_RESPONSE, 500, "{\"error\":\"the plugin failed\"}");
    channel_up_closed(&c.ch, 1000);

    /* A status that is none: refused, so that the callback fails, so that there is an answer nevertheless. */
    open_client(&c, &r, at, "POST", "/bad", "status", "", 65536);
    EXPECT(DOWN_RESPONSE, 500, NULL);
    channel_up_closed(&c.ch, 1000);

    open_client(&c, &r, at, "POST", "/bad", "twice", "", 65536);
    EXPECT(DOWN_RESPONSE, 200, "once");
    channel_up_closed(&c.ch, 1000);

    /* The client leaves before the plugin, which never answers; and one waits until the plugin stops. */
    open_client(&c, &r, at, "POST", "/bad", "forget", "", 65536);
    settle(&r, at);
    channel_up_closed(&c.ch, 1006);
    settle(&r, at);
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_route", "in_flight.routes"), 1);
    open_client(&c, &r, at, "POST", "/bad", "forget", "", 65536);
    settle(&r, at);
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_route", "in_flight.routes"), 2);
    CU_ASSERT_EQUAL(rig_status_int(&r, "echo", "in_flight.routes"), 0);
    CU_ASSERT_TRUE(host_stop(r.host));
    EXPECT(DOWN_RESPONSE, 503, "{\"error\":\"the plugin was stopped\"}");
    channel_up_closed(&c.ch, 1000);
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_route", "in_flight.routes"), 0);

    open_client(&c, &r, at, "POST", "/echo", "", "too late", 65536);
    EXPECT(DOWN_RESPONSE, 503, "{\"error\":\"the plugin is not running\"}");
    channel_up_closed(&c.ch, 1000);
    settle(&r, at);
    end(&r);
}

static void test_http(void)
{
    http_cases(1);
    http_cases(3);
}

/* ------------------------------------------------------------ WebSocket */

static void up(struct client *c, enum ws_opcode op, const char *text)
{
    CU_ASSERT_NOT_EQUAL(channel_up_message(c->ch, op, text, strlen(text)), CHANNEL_CLOSED);
}

static void ws_cases(unsigned reactors)
{
    struct rig r;
    struct client c;
    begin(&r, reactors);
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    unsigned at = reactors - 1;

    open_client(&c, &r, at, NULL, "/echo", "", "", 65536);
    up(&c, WS_TEXT, "h\xc3\xa4llo");
    up(&c, WS_BINARY, "\xff\xfe");
    up(&c, WS_TEXT, "");
    EXPECT(DOWN_MESSAGE, WS_TEXT, "h\xc3\xa4llo");
    EXPECT(DOWN_MESSAGE, WS_BINARY, "\xff\xfe");
    EXPECT(DOWN_MESSAGE, WS_TEXT, "");
    channel_up_closed(&c.ch, 1000);

    open_client(&c, &r, at, NULL, "/bad", "refuse", "", 65536);
    EXPECT(DOWN_CLOSE, 1011, "refused by the plugin");
    channel_up_closed(&c.ch, 1011);

    open_client(&c, &r, at, NULL, "/bad", "", "", 65536);
    up(&c, WS_TEXT, "bad"); /* the plugin tries to send text that is none, and is told */
    up(&c, WS_TEXT, "fail");
    up(&c, WS_TEXT, "dropped");
    EXPECT(DOWN_CLOSE, 1011, "the plugin failed");
    channel_up_closed(&c.ch, 1011);

    open_client(&c, &r, at, NULL, "/bad", "", "", 65536);
    up(&c, WS_TEXT, "code");
    EXPECT(DOWN_CLOSE, 1011, "not to be sent"); /* 1006 must not be on the wire */
    channel_up_closed(&c.ch, 1011);

    /* Held for a reason of the plugin's own: offered again by itself, and order is kept. */
    open_client(&c, &r, at, NULL, "/bad", "", "", 65536);
    up(&c, WS_TEXT, "hold");
    up(&c, WS_TEXT, "next");
    EXPECT(DOWN_MESSAGE, WS_BINARY, "hold");
    EXPECT(DOWN_MESSAGE, WS_BINARY, "next");
    channel_up_closed(&c.ch, 1000);
    settle(&r, at);
    CU_ASSERT_EQUAL(rig_status_int(&r, "bad_route", "in_flight.routes"), 0);

    /* Open at stop: closed with 1001. */
    open_client(&c, &r, at, NULL, "/echo", "", "", 65536);
    settle(&r, at);
    CU_ASSERT_EQUAL(rig_status_int(&r, "echo", "in_flight.routes"), 1);
    CU_ASSERT_TRUE(host_stop(r.host));
    EXPECT(DOWN_CLOSE, 1001, "the plugin is stopped");
    channel_up_closed(&c.ch, 1001);
    open_client(&c, &r, at, NULL, "/echo", "", "", 65536);
    EXPECT(DOWN_CLOSE, 1013, "the plugin is not running");
    channel_up_closed(&c.ch, 1013);
    settle(&r, at);
    end(&r);
}

static void test_ws(void)
{
    ws_cases(1);
    ws_cases(3);
}

/* A client that sends and does not read: nothing is lost, doubled or reordered, and what waits stays within bounds. */
static void test_slow_reader(void)
{
    struct rig r;
    struct client c;
    begin(&r, 1);
    CU_ASSERT_TRUE_FATAL(rig_start(&r));
    open_client(&c, &r, 0, NULL, "/echo", "", "", 4096);
    enum { N = 200 };
    for (int i = 0; i < N; i++) {
        char text[256];
        snprintf(text, sizeof(text), "%-200d", i);
        up(&c, WS_TEXT, text);
    }
    settle(&r, 0);
    CU_ASSERT_TRUE(channel_down_bytes(c.ch) <= 4096);
    CU_ASSERT_TRUE(channel_up_bytes(c.ch) > 0);
    for (int i = 0; i < N; i++) {
        char text[256];
        snprintf(text, sizeof(text), "%-200d", i);
        EXPECT(DOWN_MESSAGE, WS_TEXT, text);
    }
    settle(&r, 0);
    CU_ASSERT_EQUAL(channel_up_bytes(c.ch), 0);

    /* It leaves while messages are held. */
    for (int i = 0; i < N; i++)
        up(&c, WS_TEXT, "................................................................");
    settle(&r, 0);
    channel_up_closed(&c.ch, 1006);
    settle(&r, 0);
    CU_ASSERT_EQUAL(rig_status_int(&r, "echo", "in_flight.routes"), 0);
    end(&r);
}

int main(void)
{
    static CU_TestInfo tests[] = {
        {"HTTP routes", test_http},
        {"WebSocket routes", test_ws},
        {"a client that does not read", test_slow_reader},
        CU_TEST_INFO_NULL,
    };
    static CU_SuiteInfo suites[] = {{"plugin_routes", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
