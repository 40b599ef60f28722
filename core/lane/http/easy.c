/* The curl handles of a lane's requests: what they are set to, and what curl calls. Lane thread. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/magic.h"
#include "lane/http/guard.h"
#include "lane/http/request_int.h"

/* Read beyond max_body, so that a slightly long answer does not cost its connection. */
#define DISCARD (256u << 10)
/* Headers of all answers of one attempt, 1xx included. */
#define MAX_HEAD (64u << 10)

bool easy_is_own_fault(long os_errno)
{
    return os_errno == EMFILE || os_errno == ENFILE || os_errno == ENOMEM || os_errno == ENOBUFS ||
           os_errno == EADDRNOTAVAIL;
}

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
    struct lane_http *r = ((struct lane_easy *)arg)->r;
    size_t len = size * n, room = r->max_body - r->in.len;

    r->seen += len;
    if (!buf_append(&r->in, data, len < room ? len : room)) {
        r->local = true;
        return 0;
    }
    if (len > room)
        r->res.truncated = true;
    if (r->seen > r->max_body + DISCARD) {
        r->enough = true;
        return 0;
    }
    return len;
}

/* Compressions that a header line names: "gzip, deflate" are two; chunked and identity are none. */
static unsigned count_codings(const char *at, const char *end)
{
    unsigned n = 0;

    while (at < end) {
        size_t len = 0;
        while (at < end && memchr(" \t,\r\n", *at, 5))
            at++;
        while (at + len < end && !memchr(" \t,;\r\n", at[len], 6))
            len++;
        bool none = len == 0 || (len == 7 && strncasecmp(at, "chunked", 7) == 0) ||
                    (len == 8 && strncasecmp(at, "identity", 8) == 0);
        n += !none;
        at += len;
        while (at < end && *at != ',')
            at++;
    }
    return n;
}

/* What is compressed in what is compressed can hold the loop without end: sixteen kilobytes of input are gigabytes in
 * between, though not one of them comes out and would count. One compression is enough for anybody. */
static unsigned line_codings(const char *line, size_t len)
{
    static const char content[] = "Content-Encoding:", transfer[] = "Transfer-Encoding:";

    if (len == 0 || !strchr("CcTt", line[0])) /* of nearly all */
        return 0;
    if (len > sizeof content && strncasecmp(line, content, sizeof content - 1) == 0)
        return count_codings(line + sizeof content - 1, line + len);
    if (len > sizeof transfer && strncasecmp(line, transfer, sizeof transfer - 1) == 0)
        return count_codings(line + sizeof transfer - 1, line + len);
    return 0;
}

static size_t on_head(char *data, size_t size, size_t n, void *arg)
{
    struct lane_http *r = ((struct lane_easy *)arg)->r;
    size_t len = size * n;

    r->head_seen += len;
    if (len > 5 && memcmp(data, "HTTP/", 5) == 0)
        r->codings = 0; /* another answer, after a 1xx */
    if (len > 2 && (data[1] == 'a' || data[1] == 'A') && (data[0] == 'C' || data[0] == 'c'))
        r->aged = true; /* Cache-Control, perhaps */
    r->codings += line_codings(data, len);
    r->bad_head = r->head_seen > MAX_HEAD ? "the answer's headers are too long"
                  : r->codings > 1        ? "the answer is compressed more than once"
                                          : NULL;
    return r->bad_head ? 0 : len;
}

/* What the operator opens beside the public addresses: now, whatever it was when the request began. */
static const struct cidr *opened(const struct lane_http *r, size_t *n)
{
    const struct conf_outside *o = r->w.target->rules->outside;

    *n = o ? o->n_private : 0;
    return o ? o->allow_private : NULL;
}

static curl_socket_t on_open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *addr)
{
    struct lane_http *r = ((struct lane_easy *)arg)->r;

    size_t n;
    const struct cidr *open = opened(r, &n);

    (void)purpose;
    if ((r->flags & OMID_HTTP_USER_URL) && !guard_allows(&addr->addr, addr->addrlen, open, n)) {
        r->blocked = true;
        return CURL_SOCKET_BAD;
    }
    r->dialled = true;
    int fd = socket(addr->family, addr->socktype | SOCK_CLOEXEC, addr->protocol);
    if (fd < 0 && easy_is_own_fault(errno))
        r->local = true;
    return fd < 0 ? CURL_SOCKET_BAD : fd;
}

/* A kept-alive connection may have been opened for the operator's own URL, so that on_open_socket never saw it. */
static int on_before_request(void *arg, char *peer_ip, char *local_ip, int peer_port, int local_port)
{
    struct lane_http *r = ((struct lane_easy *)arg)->r;

    size_t n;
    const struct cidr *open = opened(r, &n);

    (void)local_ip;
    (void)peer_port;
    (void)local_port;
    if (!(r->flags & OMID_HTTP_USER_URL) || guard_allows_text(peer_ip, open, n))
        return CURL_PREREQFUNC_OK;
    r->blocked = true;
    return CURL_PREREQFUNC_ABORT;
}

/* Made with the first request: a lane of WebSockets alone needs none. */
static bool lane_curl(struct lane *l)
{
    if (l->curl)
        return true;
    l->curl = curlev_new(loop_ev(l->ls->loop), requests_done, l);
    if (l->curl)
        curlev_limit(l->curl, l->conf.pool, l->inflight + l->conf.idle);
    return l->curl != NULL;
}

void lane_easy_free(struct lane_easy **ep)
{
    struct lane_easy *e = *ep;

    *ep = NULL;
    curl_easy_cleanup(e->curl);
    free(e->url);
    free(e);
}

static struct lane_easy *lane_easy_get(struct lane *l)
{
    if (l->n_spare > 0)
        return l->spare[--l->n_spare];
    struct lane_easy *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->curl = curlev_easy_new();
    if (!e->curl) {
        free(e);
        return NULL;
    }
    curl_easy_setopt(e->curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(e->curl, CURLOPT_WRITEDATA, e);
    curl_easy_setopt(e->curl, CURLOPT_HEADERFUNCTION, on_head);
    curl_easy_setopt(e->curl, CURLOPT_HEADERDATA, e);
    curl_easy_setopt(e->curl, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
    curl_easy_setopt(e->curl, CURLOPT_OPENSOCKETDATA, e);
    curl_easy_setopt(e->curl, CURLOPT_CLOSESOCKETFUNCTION, curlev_socket_close);
    curl_easy_setopt(e->curl, CURLOPT_CLOSESOCKETDATA, l->curl);
    curl_easy_setopt(e->curl, CURLOPT_PREREQFUNCTION, on_before_request);
    curl_easy_setopt(e->curl, CURLOPT_PREREQDATA, e);
    curl_easy_setopt(e->curl, CURLOPT_ERRORBUFFER, e->text);
    curl_easy_setopt(e->curl, CURLOPT_PRIVATE, e);
    curl_easy_setopt(e->curl, CURLOPT_ACCEPT_ENCODING, LANE_CODINGS);
    curl_easy_setopt(e->curl, CURLOPT_USERAGENT, "omid");
    return e;
}

static void easy_set_method(struct lane_easy *e, const char *method, bool sends_body)
{
    if (e->sends_body == sends_body && strcmp(e->method, method) == 0)
        return;
    e->sends_body = sends_body;
    snprintf(e->method, sizeof e->method, "%s", method);
    curl_easy_setopt(e->curl, CURLOPT_CUSTOMREQUEST, NULL);
    curl_easy_setopt(e->curl, CURLOPT_HTTPGET, 1L); /* also takes NOBODY and POST of the last request back */
    if (sends_body)
        curl_easy_setopt(e->curl, CURLOPT_POST, 1L);
    else if (strcmp(method, "HEAD") == 0)
        curl_easy_setopt(e->curl, CURLOPT_NOBODY, 1L);
    if (strcmp(method, sends_body ? "POST" : "GET") != 0 && (sends_body || strcmp(method, "HEAD") != 0))
        curl_easy_setopt(e->curl, CURLOPT_CUSTOMREQUEST, method);
}

static bool easy_set_url(struct lane_easy *e, const char *url)
{
    size_t size = strlen(url) + 1;

    if (e->url && strcmp(e->url, url) == 0)
        return true;
    if (size > e->url_size) {
        free(e->url);
        e->url = malloc(size);
        e->url_size = e->url ? size : 0;
    }
    if (e->url)
        memcpy(e->url, url, size);
    return curl_easy_setopt(e->curl, CURLOPT_URL, url) == CURLE_OK;
}

static void easy_set_times(struct lane_easy *e, uint32_t timeout_ms, uint32_t connect_ms, bool closes)
{
    if (e->timeout_ms != timeout_ms)
        curl_easy_setopt(e->curl, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    if (e->connect_ms != connect_ms)
        curl_easy_setopt(e->curl, CURLOPT_CONNECTTIMEOUT_MS, (long)connect_ms);
    if (e->closes != closes)
        curl_easy_setopt(e->curl, CURLOPT_FORBID_REUSE, closes ? 1L : 0L);
    e->timeout_ms = timeout_ms;
    e->connect_ms = connect_ms;
    e->closes = closes;
}

static bool easy_set_outside(struct lane_easy *e, const struct conf_outside *o, bool certificate)
{
    uint64_t id = o ? o->id : 0;

    if (e->outside == id && e->certificate == certificate)
        return true;
    e->outside = id;
    e->certificate = certificate;
    return curlev_outside(e->curl, o, certificate);
}

static bool easy_set_key(struct lane_easy *e, const struct lane_http *r)
{
    bool sign = r->aws_sigv4 != NULL;

    if (!sign && !e->sign)
        return true;
    e->sign = sign;
    /* Without a name curl does not authenticate; taking the option back leaves its method set. */
    return curl_easy_setopt(e->curl, CURLOPT_AWS_SIGV4, r->aws_sigv4) == CURLE_OK &&
           (sign || curl_easy_setopt(e->curl, CURLOPT_HTTPAUTH, CURLAUTH_BASIC) == CURLE_OK) &&
           curl_easy_setopt(e->curl, CURLOPT_USERNAME, sign ? r->aws_key_id : NULL) == CURLE_OK &&
           curl_easy_setopt(e->curl, CURLOPT_PASSWORD, sign ? r->aws_secret : NULL) == CURLE_OK;
}

static bool request_sends_body(const struct lane_http *r)
{
    if (r->bodyless)
        return false;
    return r->body_len > 0 || strcmp(r->method, "POST") == 0 || strcmp(r->method, "PUT") == 0 ||
           strcmp(r->method, "PATCH") == 0;
}

bool easy_begin(struct lane_http *r, uint32_t timeout_ms)
{
    struct lane *l = r->lane;
    const struct conf_lane *rules = r->w.target->rules;
    uint32_t connect = rules->connect_timeout_ms < timeout_ms ? rules->connect_timeout_ms : timeout_ms;
    bool sends_body = request_sends_body(r);

    if (!lane_curl(l) || !(r->easy = lane_easy_get(l)))
        return false;
    struct lane_easy *e = r->easy;
    e->r = r;
    e->text[0] = 0;
    r->in = BUF_INIT(r->max_body);
    easy_set_method(e, r->method, sends_body);
    if (sends_body) {
        curl_easy_setopt(e->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body_len);
        curl_easy_setopt(e->curl, CURLOPT_POSTFIELDS, r->body_len > 0 ? r->body : "");
    }
    curl_easy_setopt(e->curl, CURLOPT_HTTPHEADER, r->headers);
    easy_set_times(e, timeout_ms, connect, l->conf.idle == 0);
    if (easy_set_outside(e, rules->outside, rules->outside && !r->left_origin) && easy_set_url(e, r->url) &&
        easy_set_key(e, r) && curlev_add(l->curl, e->curl))
        return true;
    lane_easy_free(&r->easy);
    return false;
}

/* Removed from the multi: kept for the next request. Its pointers to this one's headers and body are replaced before it
 * is used again, and not looked at meanwhile. */
void easy_end(struct lane_http *r)
{
    struct lane *l = r->lane;

    curlev_remove(l->curl, r->easy->curl);
    r->easy->r = NULL;
    if (l->n_spare < l->max_spare && l->n_spare < l->conf.pool)
        l->spare[l->n_spare++] = r->easy;
    else
        lane_easy_free(&r->easy);
    r->easy = NULL;
}
