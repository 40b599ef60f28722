/* omictl receive: a webhook receiver on h2o's event loop, for looking at what a daemon delivers. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <h2o.h>
#include <h2o/http1.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "ctl/ctl.h"
#include "ctl/signature.h"

#define MAX_BODY (64u << 20)
#define SHOWN 160 /* bytes of a body on a line */

struct receiver {
    h2o_globalconf_t config;
    h2o_context_t ctx;
    h2o_accept_ctx_t accept;
    h2o_socket_t *listener;
    const char *address, *ready_file, *body;
    double port, status, count;
    unsigned long seen;
    bool json;
    const char *secret; /* NULL: signatures are not looked at */
};
/* Handlers get h2o's structs; there is one receiver in a process. */
static struct receiver *the_receiver;
static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* ------------------------------------------------------------------------ output */

static const char *header_of(h2o_req_t *req, const h2o_token_t *name, size_t *len)
{
    ssize_t at = h2o_find_header(&req->headers, name, -1);
    *len = at < 0 ? 0 : req->headers.entries[at].value.len;
    return at < 0 ? "" : req->headers.entries[at].value.base;
}

static h2o_iovec_t named_header(h2o_req_t *req, const char *name)
{
    ssize_t at = h2o_find_header_by_str(&req->headers, name, strlen(name), -1);
    return at < 0 ? h2o_iovec_init(NULL, 0) : req->headers.entries[at].value;
}

/* NULL: it is signed with our secret. Else why it is refused. */
static const char *signature_fault(const struct receiver *r, h2o_req_t *req)
{
    h2o_iovec_t id = named_header(req, "webhook-id"), at = named_header(req, "webhook-timestamp"),
                value = named_header(req, "webhook-signature");
    const struct signature_parts parts = {
        .id = {id.base, id.len},
        .timestamp = {at.base, at.len},
        .signatures = {value.base, value.len},
        .body = {req->entity.base, req->entity.len},
    };
    return signature_check(r->secret, &parts, clock_wall_ms() / 1000);
}

static void line_show(h2o_req_t *req, const struct receiver *r, const char *fault)
{
    if (r->secret && fault)
        printf("refused (%s) ", fault);
    else if (r->secret)
        fputs("signed ", stdout);
    size_t type_len, shown = req->entity.len < SHOWN ? req->entity.len : SHOWN;
    const char *type = header_of(req, H2O_TOKEN_CONTENT_TYPE, &type_len);
    printf("webhook %.*s %.*s %zu bytes %.*s", (int)req->method.len, req->method.base, (int)req->path.len,
           req->path.base, req->entity.len, (int)type_len, type);
    bool text = utf8_valid(req->entity.base, req->entity.len);
    if (text && req->entity.len > 0) {
        putchar(' ');
        for (size_t i = 0; i < shown; i++)
            putchar((unsigned char)req->entity.base[i] < ' ' ? ' ' : req->entity.base[i]);
        if (shown < req->entity.len)
            fputs("...", stdout);
    }
    putchar('\n');
}

static void headers_json(struct json_w *w, h2o_req_t *req)
{
    json_w_key(w, "headers");
    json_w_open(w, '{');
    for (size_t i = 0; i < req->headers.size; i++) {
        char name[128];
        h2o_header_t *h = &req->headers.entries[i];
        snprintf(name, sizeof name, "%.*s", (int)h->name->len, h->name->base);
        json_w_key(w, name);
        json_w_strn(w, h->value.base, h->value.len);
    }
    json_w_close(w, '}');
}

static void object_show(h2o_req_t *req, const struct receiver *r, const char *fault)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    char when[32];
    clock_format_utc(clock_wall_ms(), when);
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "received", when);
    json_w_key(&w, "method");
    json_w_strn(&w, req->method.base, req->method.len);
    json_w_key(&w, "path");
    json_w_strn(&w, req->path.base, req->path.len);
    headers_json(&w, req);
    json_w_kint(&w, "bytes", (int64_t)req->entity.len);
    if (r->secret)
        json_w_kstr(&w, "signature", fault ? fault : "signed");
    if (utf8_valid(req->entity.base, req->entity.len)) {
        json_w_key(&w, "body");
        json_w_strn(&w, req->entity.base, req->entity.len);
    }
    json_w_close(&w, '}');
    if (json_w_end(&w))
        puts(b.data);
    buf_free(&b);
}

static int on_request(h2o_handler_t *self, h2o_req_t *req)
{
    (void)self;
    struct receiver *r = the_receiver;
    const char *fault = r->secret ? signature_fault(r, req) : NULL;
    if (r->json)
        object_show(req, r, fault);
    else
        line_show(req, r, fault);
    fflush(stdout);
    r->seen++;
    req->res.status = fault ? 401 : (int)r->status;
    req->res.reason = "-";
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL, H2O_STRLIT("application/json"));
    h2o_send_inline(req, r->body, strlen(r->body));
    return 0;
}

/* ------------------------------------------------------------------------ sockets */

static void on_accept(h2o_socket_t *listener, const char *err)
{
    struct receiver *r = listener->data;
    h2o_socket_t *sock;
    if (err == NULL && (sock = h2o_evloop_socket_accept(listener)) != NULL)
        h2o_accept(&r->accept, sock);
}

/* Bound and listening; *port is the one it got. -1 having told why. */
static int bind_listen(struct receiver *r, unsigned *port)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons((uint16_t)r->port)};
    socklen_t len = sizeof sin;
    int on = 1, fd;
    if (inet_pton(AF_INET, r->address, &sin.sin_addr) != 1) {
        fprintf(stderr, "omictl receive: %s is no IPv4 address\n", r->address);
        return -1;
    }
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(fd, (struct sockaddr *)&sin, sizeof sin) != 0 || listen(fd, SOMAXCONN) != 0 ||
        getsockname(fd, (struct sockaddr *)&sin, &len) != 0) {
        fprintf(stderr, "omictl receive: %s:%u: %s\n", r->address, (unsigned)r->port, strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    *port = ntohs(sin.sin_port);
    return fd;
}

static bool ready_tell(const struct receiver *r, unsigned port)
{
    if (!r->json)
        printf("listening on %s:%u\n", r->address, port);
    fflush(stdout);
    if (!r->ready_file)
        return true;
    FILE *f = fopen(r->ready_file, "w");
    bool ok = f && fprintf(f, "%s:%u\n", r->address, port) > 0;
    ok = f && fclose(f) == 0 && ok;
    if (!ok)
        fprintf(stderr, "omictl receive: %s: %s\n", r->ready_file, strerror(errno));
    return ok;
}

static int serve(struct receiver *r)
{
    unsigned port;
    int fd = bind_listen(r, &port);
    if (fd < 0)
        return CTL_FAULT;
    the_receiver = r;
    h2o_config_init(&r->config);
    r->config.max_request_entity_size = MAX_BODY;
    r->config.http1.upgrade_to_http2 = 0;
    h2o_hostconf_t *host = h2o_config_register_host(&r->config, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    h2o_pathconf_t *path = h2o_config_register_path(host, "/", 0);
    h2o_create_handler(path, sizeof(h2o_handler_t))->on_req = on_request;
    h2o_context_init(&r->ctx, h2o_evloop_create(), &r->config);
    r->accept = (h2o_accept_ctx_t){.ctx = &r->ctx, .hosts = r->config.hosts};
    r->listener = h2o_evloop_socket_create(r->ctx.loop, fd, H2O_SOCKET_FLAG_DONT_READ);
    r->listener->data = r;
    h2o_socket_read_start(r->listener, on_accept);
    bool ok = ready_tell(r, port);
    while (ok && !interrupted && (r->count == 0 || (double)r->seen < r->count))
        h2o_evloop_run(r->ctx.loop, 200);
    h2o_evloop_run(r->ctx.loop, 0); /* the last answer goes out */
    h2o_socket_close(r->listener);
    return ok ? CTL_OK : CTL_FAULT;
}

/* ------------------------------------------------------------------------ options */

/* The first line of a file. */
static bool secret_read(const char *path, char *out, size_t size)
{
    FILE *f = fopen(path, "r");
    bool ok = f && fgets(out, (int)size, f) != NULL;
    if (!ok)
        fprintf(stderr, "omictl receive: --secret-file: %s: %s\n", path, f ? "it is empty" : strerror(errno));
    else
        out[strcspn(out, "\r\n")] = '\0';
    if (f)
        fclose(f);
    return ok;
}

int ctl_receive(const struct ctl *ctl, int argc, char **argv)
{
    enum { O_PORT = 1, O_ADDRESS, O_STATUS, O_BODY, O_COUNT, O_READY, O_SECRET, O_SECRET_FILE };
    static const struct option long_options[] = {
        {"port", required_argument, NULL, O_PORT},
        {"address", required_argument, NULL, O_ADDRESS},
        {"status", required_argument, NULL, O_STATUS},
        {"body", required_argument, NULL, O_BODY},
        {"count", required_argument, NULL, O_COUNT},
        {"ready-file", required_argument, NULL, O_READY},
        {"secret", required_argument, NULL, O_SECRET},
        {"secret-file", required_argument, NULL, O_SECRET_FILE},
        {NULL, 0, NULL, 0},
    };
    char secret[SIGNATURE_SECRET_MAX];
    struct receiver r = {.address = "127.0.0.1", .body = "{}", .port = -1, .status = 200, .json = ctl->json};
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        bool ok = true;
        switch (c) {
        case O_PORT:
            ok = ctl_whole("receive", "--port", optarg, 0, 65535, &r.port);
            break;
        case O_ADDRESS:
            r.address = optarg;
            break;
        case O_STATUS:
            ok = ctl_whole("receive", "--status", optarg, 200, 599, &r.status);
            break;
        case O_BODY:
            r.body = optarg;
            break;
        case O_COUNT:
            ok = ctl_whole("receive", "--count", optarg, 1, 1e9, &r.count);
            break;
        case O_READY:
            r.ready_file = optarg;
            break;
        case O_SECRET:
            r.secret = optarg;
            break;
        case O_SECRET_FILE:
            if (!secret_read(optarg, secret, sizeof secret))
                return CTL_FAULT;
            r.secret = secret;
            break;
        default:
            return CTL_USAGE;
        }
        if (!ok)
            return CTL_USAGE;
    }
    if (optind != argc)
        return ctl_usage("receive", "unexpected argument \"%s\"", argv[optind]);
    if (r.port < 0)
        return ctl_usage("receive", "--port is needed");
    if (inet_pton(AF_INET, r.address, &(struct in_addr){0}) != 1)
        return ctl_usage("receive", "--address: expected an IPv4 address, found \"%s\"", r.address);
    if (r.secret && !signature_secret_ok(r.secret))
        return ctl_usage("receive", "--secret: expected whsec_ followed by 24 to 64 bytes in base64");
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    int rc = serve(&r);
    the_receiver = NULL;
    return rc;
}
