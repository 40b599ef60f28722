/*
 * Ingress without sessions and plugins: start and its faults, timers, auth, the end with connections open.
 *
 *     test_ingress                    runs the tests
 *     test_ingress --serve CONF       serves echo routes until its input ends, for tests from outside:
 *         /echo (open) /v4/listen (403) /token (401): WebSocket echo; ?sample_rate= must be a number
 *         POST /echo, GET /silent (never answers), POST /token
 */
#include <CUnit/Basic.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/query.h"
#include "ingress/private.h"

/* ------------------------------------------------------------ an echo service on channels */

struct echo {
    bool waiting;
};

static atomic_int echoes_open;

static void echo_opened(struct channel *ch)
{
    const struct channel_request *req = channel_request(ch);
    if (req->websocket) {
        channel_set_user(ch, calloc(1, sizeof(struct echo)));
        atomic_fetch_add(&echoes_open, 1);
        return;
    }
    channel_down_response(ch, 200, req->content_type[0] != '\0' ? req->content_type : NULL, req->body, req->body_len);
    channel_drop(&ch);
}

static bool echo_message(struct channel *ch, enum ws_opcode op, const unsigned char *data, size_t len)
{
    struct echo *e = channel_user(ch);
    if (len > 6 && memcmp(data, "close:", 6) == 0) {
        channel_down_close(ch, (uint16_t)atoi((const char *)data + 6), "asked for");
        return true;
    }
    if (len == 5 && memcmp(data, "stall", 5) == 0)
        return false;
    if (channel_down_message(ch, op, data, len) != CHANNEL_FULL)
        return true;
    e->waiting = true;
    return false;
}

static void echo_writable(struct channel *ch)
{
    struct echo *e = channel_user(ch);
    if (e->waiting) {
        e->waiting = false;
        channel_resume(ch);
    }
}

static void echo_closed(struct channel *ch, uint16_t code)
{
    log_debug("test", "closed", LI("code", code));
    free(channel_user(ch));
    atomic_fetch_sub(&echoes_open, 1);
    channel_drop(&ch);
}

static void silent_opened(struct channel *ch)
{
    channel_set_user(ch, calloc(1, sizeof(struct echo)));
    atomic_fetch_add(&echoes_open, 1);
}

static bool needs_number(const struct channel_request *req, char *err, size_t errlen)
{
    struct query q;
    if (!query_parse(&q, req->query, strlen(req->query), err, errlen))
        return false;
    const char *n = query_get(&q, "sample_rate");
    bool ok = n == NULL || strspn(n, "0123456789") == strlen(n);
    if (!ok)
        snprintf(err, errlen, "sample_rate: expected a number");
    query_free(&q);
    return ok;
}

static const struct channel_handler echo_handler = {echo_opened, echo_message, echo_writable, echo_closed};
static const struct channel_handler silent_handler = {silent_opened, echo_message, echo_writable, echo_closed};

static const struct route routes_table[] = {
    {.path = "/echo", .handler = &echo_handler},
    {.path = "/v4/listen", .auth = ROUTE_TOKEN_LISTEN, .precheck = needs_number, .handler = &echo_handler},
    {.path = "/token", .auth = ROUTE_TOKEN, .handler = &echo_handler},
    {.path = "/token", .method = "POST", .auth = ROUTE_TOKEN, .handler = &echo_handler},
    {.path = "/echo", .method = "POST", .handler = &echo_handler},
    {.path = "/silent", .method = "GET", .handler = &silent_handler},
};

static int direct_ok(void *arg, const char *path, struct buf *body, const char **content_type)
{
    (void)arg;
    *content_type = "text/plain";
    return buf_puts(body, path) ? 200 : 503;
}

static int direct_metrics(void *arg, const char *path, struct buf *body, const char **content_type)
{
    (void)arg;
    (void)path;
    *content_type = "text/plain";
    return metrics_render(body) ? 200 : 503;
}

static const struct ingress_direct direct_table[] = {
    {.method = "GET", .path = "/healthz", .fn = direct_ok},
    {.method = "GET", .path = "/metrics", .fn = direct_metrics},
    {.method = "GET", .path = "/v1/admin/status", .control_only = true, .fn = direct_ok},
    {.path = NULL},
};

static unsigned reactor_of(const char *uid, unsigned n)
{
    return uid[0] % n;
}

/* ------------------------------------------------------------ a service */

struct service {
    struct conf *conf;
    struct routes *routes;
    struct loop *loop[2];
    struct ingress *in;
    char dir[64], control[96];
    char err[256];
};

static struct conf *load_conf(const char *text)
{
    struct conf_faults faults = {.text = BUF_INIT(0)};
    struct conf_source none = {.describe = NULL};
    struct conf *c = conf_load_text(text, "test.conf", &none, &faults);
    if (c == NULL)
        fprintf(stderr, "%s", faults.text.data);
    conf_faults_free(&faults);
    return c;
}

static bool service_new(struct service *s, const char *text)
{
    memset(s, 0, sizeof(*s));
    strcpy(s->dir, "/tmp/omid-ingress-XXXXXX");
    if (mkdtemp(s->dir) == NULL)
        return false;
    snprintf(s->control, sizeof(s->control), "%s/control.sock", s->dir);
    s->conf = load_conf(text);
    s->routes = routes_new();
    if (s->conf == NULL || s->routes == NULL)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(routes_table); i++)
        routes_add(s->routes, &routes_table[i]);
    for (int i = 0; i < 2; i++) {
        s->loop[i] = loop_new(i == 0 ? "reactor_0" : "reactor_1");
        if (s->loop[i] == NULL || !loop_start(s->loop[i]))
            return false;
    }
    return true;
}

static bool service_bind(struct service *s)
{
    const struct ingress_env env = {.conf = s->conf,
                                    .routes = s->routes,
                                    .loops = s->loop,
                                    .n_loops = 2,
                                    .reactor_of = reactor_of,
                                    .direct = direct_table,
                                    .control_path = s->control};
    s->in = ingress_new(&env, s->err, sizeof(s->err));
    return s->in != NULL;
}

static bool service_start(struct service *s, const char *text)
{
    return service_new(s, text) && service_bind(s) && ingress_start(s->in);
}

/* true: nothing was left behind in the file system. */
static bool service_end(struct service *s, uint64_t within_ms)
{
    if (s->in != NULL) {
        ingress_pause(s->in);
        ingress_stop(s->in, clock_mono_ms() + within_ms);
    }
    for (int i = 0; i < 2; i++)
        if (s->loop[i] != NULL)
            loop_stop(s->loop[i]);
    ingress_free(&s->in);
    for (int i = 0; i < 2; i++)
        if (s->loop[i] != NULL)
            loop_free(&s->loop[i]);
    routes_free(&s->routes);
    conf_free(&s->conf);
    return access(s->control, F_OK) != 0 && rmdir(s->dir) == 0;
}

static void service_stop(struct service *s, uint64_t within_ms)
{
    CU_ASSERT_TRUE(service_end(s, within_ms));
}

#define PLAIN "ingress { address = \"127.0.0.1:0\" }\nauth { admin_key = \"key-\" }\n"

/* ------------------------------------------------------------ a client */

static int dial(const struct service *s)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const char *address = ingress_address(s->in, 0);
    sa.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval bound = {.tv_sec = 20};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound));
    CU_ASSERT_EQUAL_FATAL(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static int dial_control(const struct service *s)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", s->control);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CU_ASSERT_EQUAL_FATAL(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    return fd;
}

static void say(int fd, const char *text)
{
    CU_ASSERT_EQUAL(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* Reads until the end of an HTTP head (len 0), or len bytes. */
static size_t hear(int fd, char *out, size_t cap, size_t len)
{
    size_t n = 0;
    while (n + 1 < cap && (len == 0 || n < len)) {
        ssize_t rc = recv(fd, out + n, len == 0 ? 1 : len - n, 0);
        if (rc <= 0)
            break;
        n += (size_t)rc;
        out[n] = '\0';
        if (len == 0 && strstr(out, "\r\n\r\n") != NULL)
            break;
    }
    out[n] = '\0';
    return n;
}

static int status_of(int fd)
{
    char head[4096];
    int status = -1;
    hear(fd, head, sizeof(head), 0);
    sscanf(head, "HTTP/1.1 %d", &status);
    return status;
}

static int open_websocket(const struct service *s, const char *path)
{
    char text[512];
    int fd = dial(s);
    snprintf(text, sizeof(text),
             "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
             "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
             path);
    say(fd, text);
    CU_ASSERT_EQUAL(status_of(fd), 101);
    return fd;
}

static bool at_end(int fd)
{
    char byte;
    return recv(fd, &byte, 1, 0) == 0;
}

/* ------------------------------------------------------------ tests */

static void on_due(struct timer *timer, uint64_t now_ms)
{
    static uint64_t last;
    if (timer->due_ms > now_ms || (last > timer->due_ms && now_ms == 1000))
        CU_FAIL("too early, or out of order");
    last = timer->due_ms;
    timer->due_ms = UINT64_MAX;
}

static void test_timers(void)
{
    enum { N = 500 };
    static struct timer timer[N];
    struct timers ts = {.heap = NULL};

    CU_ASSERT_TRUE_FATAL(timers_reserve(&ts, N));
    CU_ASSERT_EQUAL(timers_wait(&ts, 0, 77), 77);
    for (int i = 0; i < N; i++) {
        timer[i].fn = on_due;
        timer_set(&ts, &timer[i], id_random_u64() % 2000);
    }
    for (int i = 0; i < N; i += 3)
        timer_set(&ts, &timer[i], id_random_u64() % 2000);
    for (int i = 1; i < N; i += 3)
        timer_clear(&ts, &timer[i]);
    timer_clear(&ts, &timer[1]);
    timers_run(&ts, 1000);
    for (int i = 0; i < N; i++)
        CU_ASSERT(i % 3 == 1 ? timer[i].at == 0 : (timer[i].at == 0) == (timer[i].due_ms == UINT64_MAX));
    for (size_t i = 0; i < ts.n; i++)
        CU_ASSERT(ts.heap[i]->due_ms > 1000 && ts.heap[i]->at == i + 1);
    CU_ASSERT(ts.n == 0 || timers_wait(&ts, 1000, 5000) == ts.heap[0]->due_ms - 1000);
    timers_free(&ts);
}

static void keep_answer(void *arg, const struct auth_answer *answer)
{
    *(struct auth_answer *)arg = *answer;
}

static struct auth_answer ask(const char *key, const char *authorization)
{
    struct conf conf = {.auth = {.admin_key = (char *)key}};
    struct ingress in = {.env = {.jwks = NULL}};
    struct ingress_thread t = {.in = &in, .conf = &conf};
    struct auth_answer a = {.verdict = AUTH_UNAVAILABLE};
    struct auth_waiter *waiter;
    ingress_metrics_init();
    CU_ASSERT(
        !auth_header(&t, authorization, authorization == NULL ? 0 : strlen(authorization), keep_answer, &a, &waiter));
    return a;
}

static void test_auth(void)
{
    static const char *const bad[] = {"Bearer key-",    "Bearer ke",      "Bearer kez-u1",
                                      "Bearer key-a b", "Bearer key-a/b", "Bearer key-\xc3\xa9",
                                      "Bearer xkey-u1", "Bearer key-u1,", "Bearer KEY-u1"};
    static const char *const missing[] = {"", "Bearer", "Bearer ", "Basic key-u1", "key-u1", "Bearerkey-u1"};
    char longest[200] = "Bearer key-";

    CU_ASSERT_EQUAL(ask("key-", NULL).verdict, AUTH_MISSING);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        CU_ASSERT_EQUAL(ask("key-", bad[i]).verdict, AUTH_INVALID);
    for (size_t i = 0; i < ARRAY_LEN(missing); i++)
        CU_ASSERT_EQUAL(ask("key-", missing[i]).verdict, AUTH_MISSING);
    CU_ASSERT_EQUAL(ask("key-", "Bearer key-u1").verdict, AUTH_OK);
    CU_ASSERT_STRING_EQUAL(ask("key-", "bearer  key-a.B_9:@-  ").uid, "a.B_9:@-");
    CU_ASSERT_EQUAL(ask(NULL, "Bearer key-u1").verdict, AUTH_INVALID);
    CU_ASSERT_EQUAL(ask("", "Bearer u1").verdict, AUTH_INVALID);
    memset(longest + 11, 'a', 128);
    CU_ASSERT_EQUAL(ask("key-", longest).verdict, AUTH_OK);
    longest[11 + 128] = 'a';
    CU_ASSERT_EQUAL(ask("key-", longest).verdict, AUTH_INVALID);
}

static void test_addresses(void)
{
    struct service s;
    CU_ASSERT_TRUE_FATAL(service_start(
        &s, "ingress { address = { \"127.0.0.1:0\", \"[::1]:0\" } threads = 3 }\nauth { admin_key = \"key-\" }\n"));
    CU_ASSERT_NSTRING_EQUAL(ingress_address(s.in, 0), "127.0.0.1:", 10);
    CU_ASSERT_NSTRING_EQUAL(ingress_address(s.in, 1), "[::1]:", 6);
    CU_ASSERT_PTR_NULL(ingress_address(s.in, 2));
    for (int i = 0; i < 30; i++) { /* whichever thread the kernel chooses */
        int fd = dial(&s);
        say(fd, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        CU_ASSERT_EQUAL(status_of(fd), 200);
        close(fd);
    }
    service_stop(&s, 2000);
}

static void test_port_in_use(void)
{
    struct service s, other;
    char text[256];

    CU_ASSERT_TRUE_FATAL(service_start(&s, PLAIN));
    snprintf(text, sizeof(text), "ingress { address = \"%s\" threads = 2 }\nauth { admin_key = \"key-\" }\n",
             ingress_address(s.in, 0));
    CU_ASSERT_TRUE_FATAL(service_new(&other, text));
    CU_ASSERT_FALSE(service_bind(&other));
    CU_ASSERT_PTR_NOT_NULL(strstr(other.err, "Address already in use"));
    CU_ASSERT_PTR_NOT_NULL(strstr(other.err, ingress_address(s.in, 0)));
    service_stop(&other, 0);
    service_stop(&s, 2000);
}

static void touch(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    fputs(text, f);
    fclose(f);
}

/* conf names missing files itself; what is in them is for ingress to find out, and they may go in between. */
static bool bind_tls(struct service *s, const char *certificate, const char *key)
{
    CU_ASSERT_TRUE_FATAL(service_new(s, PLAIN));
    free(s->conf->ingress.tls_certificate);
    free(s->conf->ingress.tls_key);
    s->conf->ingress.tls_certificate = strdup(certificate);
    s->conf->ingress.tls_key = key == NULL ? NULL : strdup(key);
    bool ok = service_bind(s);
    service_stop(s, 0);
    return ok;
}

static void test_tls_faults(void)
{
    struct service s;
    char file[96];

    CU_ASSERT_FALSE(bind_tls(&s, "/nowhere/c.pem", "/nowhere/k.pem"));
    CU_ASSERT_STRING_EQUAL(s.err, "ingress.tls.certificate: /nowhere/c.pem: No such file or directory");
    snprintf(file, sizeof(file), "/tmp/omid-ingress-%d.pem", (int)getpid());
    touch(file, "no certificate\n");
    CU_ASSERT_FALSE(bind_tls(&s, file, NULL));
    CU_ASSERT_STRING_EQUAL(s.err, "ingress.tls: key is missing: certificate and key are needed both");
    CU_ASSERT_FALSE(bind_tls(&s, file, file));
    CU_ASSERT_PTR_NOT_NULL(strstr(s.err, "ingress.tls.certificate"));
    CU_ASSERT_PTR_NOT_NULL(strstr(s.err, "no start line"));
    unlink(file);
}

static void test_control_socket(void)
{
    struct service s, other;
    struct stat st;

    CU_ASSERT_TRUE_FATAL(service_start(&s, PLAIN));
    CU_ASSERT_EQUAL(stat(s.control, &st), 0);
    CU_ASSERT_EQUAL(st.st_mode & 0777, 0660);
    int fd = dial_control(&s);
    say(fd, "GET /v1/admin/status HTTP/1.1\r\nHost: x\r\n\r\n");
    CU_ASSERT_EQUAL(status_of(fd), 200);
    close(fd);
    fd = dial(&s);
    say(fd, "GET /v1/admin/status HTTP/1.1\r\nHost: x\r\n\r\n");
    CU_ASSERT_EQUAL(status_of(fd), 404);
    close(fd);

    /* In use: refused, and the socket stays. */
    CU_ASSERT_TRUE_FATAL(service_new(&other, PLAIN));
    CU_ASSERT_EQUAL(rmdir(other.dir), 0);
    strcpy(other.dir, s.dir);
    strcpy(other.control, s.control);
    CU_ASSERT_FALSE(service_bind(&other));
    CU_ASSERT_PTR_NOT_NULL(strstr(other.err, "another daemon is using it"));
    CU_ASSERT_EQUAL(access(s.control, F_OK), 0);
    for (int i = 0; i < 2; i++) {
        loop_stop(other.loop[i]);
        loop_free(&other.loop[i]);
    }
    routes_free(&other.routes);
    conf_free(&other.conf);
    service_stop(&s, 2000);

    /* Left behind by one that was killed: replaced. Not a socket: left alone. */
    CU_ASSERT_TRUE_FATAL(service_new(&s, PLAIN));
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", s.control);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CU_ASSERT_EQUAL(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    close(fd);
    CU_ASSERT_TRUE(service_bind(&s));
    service_stop(&s, 0);
    CU_ASSERT_TRUE_FATAL(service_new(&s, PLAIN));
    touch(s.control, "precious");
    CU_ASSERT_FALSE(service_bind(&s));
    CU_ASSERT_PTR_NOT_NULL(strstr(s.err, "is no socket"));
    CU_ASSERT_EQUAL(unlink(s.control), 0);
    service_stop(&s, 0);
}

/* 1001 to whoever listens, and an end for whoever does not. */
static void test_stop(void)
{
    struct service s;
    char frame[4];

    CU_ASSERT_TRUE_FATAL(service_start(&s, PLAIN));
    int polite = open_websocket(&s, "/echo"), deaf = open_websocket(&s, "/echo");
    int idle = dial(&s), silent = dial(&s);
    say(silent, "GET /silent HTTP/1.1\r\nHost: x\r\n\r\n");
    while (atomic_load(&echoes_open) < 3)
        poll(NULL, 0, 1);
    ingress_pause(s.in);
    /* Connections go on while paused. */
    CU_ASSERT_EQUAL(send(polite, "\x81\x81\0\0\0\0x", 7, 0), 7);
    CU_ASSERT_EQUAL(hear(polite, frame, sizeof(frame), 3), 3);
    uint64_t began = clock_mono_ms();
    service_stop(&s, 300);
    CU_ASSERT(clock_mono_ms() - began < 5000);
    CU_ASSERT_EQUAL(atomic_load(&echoes_open), 0);
    CU_ASSERT_EQUAL(hear(polite, frame, sizeof(frame), 2), 2);
    CU_ASSERT_EQUAL((unsigned char)frame[0], 0x88);
    CU_ASSERT_EQUAL(hear(polite, frame, sizeof(frame), 2), 2);
    CU_ASSERT_EQUAL((unsigned char)frame[0] << 8 | (unsigned char)frame[1], 1001);
    CU_ASSERT_TRUE(at_end(idle));
    CU_ASSERT_EQUAL(status_of(silent), 503);
    close(polite);
    close(deaf);
    close(idle);
    close(silent);
}

static int run_tests(void)
{
    CU_TestInfo tests[] = {
        {"timers", test_timers},
        {"auth", test_auth},
        {"addresses, threads, port 0", test_addresses},
        {"a port in use", test_port_in_use},
        {"TLS: faults of certificate and key", test_tls_faults},
        {"the control socket", test_control_socket},
        {"the end with connections open", test_stop},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"ingress", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};

    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 2;
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed == 0 ? 0 : 1;
}

static int serve(const char *file)
{
    static char text[65536];
    struct service s;
    char byte;

    FILE *f = fopen(file, "r");
    if (f == NULL || fread(text, 1, sizeof(text) - 1, f) == 0)
        return 2;
    fclose(f);
    if (!service_start(&s, text)) {
        fprintf(stderr, "%s\n", s.err);
        return 2;
    }
    printf("%s %s\n", ingress_address(s.in, 0), s.control);
    fflush(stdout);
    while (read(0, &byte, 1) > 0)
        ;
    if (!service_end(&s, 5000))
        return 4;
    return atomic_load(&echoes_open) == 0 && budget_used() == 0 ? 0 : 3;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    log_setup(argc == 3 ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    return argc == 3 && strcmp(argv[1], "--serve") == 0 ? serve(argv[2]) : run_tests();
}
