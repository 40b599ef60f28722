/*
 * A request is one object with two ends. The caller's end belongs to its loop, the lane's end to the lane thread;
 * what both read is written before the message that hands it over. References: the caller's, given to the cancel
 * message or dropped after the callback; the lane's, given to the answer, or dropped when a cancel comes first. The
 * last one frees, on whichever thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/magic.h"
#include "lane/http/guard.h"
#include "lane/http/lane_int.h"

#define REQUEST_MAGIC UINT32_C(0x68747470)
#define DEFAULT_BODY (64u << 10)
#define MAX_BODY (64u << 20)
/* Read beyond max_body, so that a slightly long answer does not cost its connection. */
#define DISCARD (256u << 10)
/* Headers of all answers of one request, 1xx included. */
#define MAX_HEAD (64u << 10)

enum request_state { REQUEST_NEW, REQUEST_WAITING, REQUEST_RUNNING, REQUEST_OVER };

struct lane_http {
    uint32_t magic;
    atomic_uint refs;
    struct lane *lane; /* with a reference */
    struct loop_msg start, cancel, answer;

    /* the caller's end */
    struct loop *loop;
    omid_http_cb cb;
    void *arg;
    bool cancelled, answering;

    /* const once started */
    char *url, *method, *latest_key;
    char *key; /* of the target; NULL for a bad URL */
    struct curl_slist *headers;
    char *body;
    size_t body_len, max_body;
    uint32_t timeout_ms;
    unsigned flags;
    uint64_t begun_ms;

    /* the lane's end */
    enum request_state state;
    struct waiter w;
    struct list running;
    bool in_latest;
    CURL *easy;
    uint64_t went_ms;
    struct buf in;
    size_t seen, head_seen;
    bool blocked, local, enough, bad_head;
    char curl_text[CURL_ERROR_SIZE];

    /* the answer: the lane's until posted, then the caller's */
    struct omid_http_response res;
    char text[256];
};

static void request_set_state(struct lane_http *r, enum request_state to)
{
    static const bool legal[4][4] = {
        [REQUEST_NEW] = {[REQUEST_WAITING] = true, [REQUEST_RUNNING] = true, [REQUEST_OVER] = true},
        [REQUEST_WAITING] = {[REQUEST_RUNNING] = true, [REQUEST_OVER] = true},
        [REQUEST_RUNNING] = {[REQUEST_OVER] = true},
    };
    omid_assert(legal[r->state][to]);
    r->state = to;
}

static void request_unref(struct lane_http *r)
{
    CHECK_MAGIC(r, REQUEST_MAGIC);
    if (atomic_fetch_sub(&r->refs, 1) > 1)
        return;
    struct lane *l = r->lane;
    atomic_fetch_sub(&l->bodies, r->body_len);
    atomic_fetch_sub(&l->begun, 1);
    curl_slist_free_all(r->headers);
    free(r->url);
    free(r->method);
    free(r->latest_key);
    free(r->key);
    free(r->body);
    buf_free(&r->in);
    r->magic = OMID_MAGIC_DEAD;
    free(r);
    lane_unref(l);
}

/* ------------------------------------------------------------------ the outcome */

static void on_answer(struct loop *loop, struct loop_msg *msg)
{
    struct lane_http *r = container_of(msg, struct lane_http, answer);

    (void)loop;
    CHECK_MAGIC(r, REQUEST_MAGIC);
    if (!r->cancelled) {
        r->answering = true;
        r->cb(r->arg, &r->res);
        request_unref(r); /* the caller's */
    }
    request_unref(r); /* the answer's */
}

/* From the lane: hands its end over. Texts come from curl and, through it, from peers. */
static void request_answer(struct lane_http *r, enum omid_http_error error, const char *text)
{
    struct lane *l = r->lane;

    request_set_state(r, REQUEST_OVER);
    target_put(l, &r->w.target);
    snprintf(r->text, sizeof r->text, "%s", error == OMID_HTTP_OK ? "" : text);
    for (char *c = r->text; *c; c++) {
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f)
            *c = '?';
    }
    r->res.size = sizeof r->res;
    r->res.error = error;
    r->res.error_text = r->text;
    if (error != OMID_HTTP_OK) {
        r->res.status = 0;
        buf_free(&r->in);
    }
    r->res.body = r->in.data ? r->in.data : "";
    r->res.body_len = r->in.len;
    r->res.elapsed_ms = (uint32_t)(lane_now(l) - r->begun_ms);
    metric_add(l->m.requests[error], 1);
    atomic_fetch_add(&l->seen.done, 1);
    r->answer.fn = on_answer;
    loop_post_turn(r->loop, l->ls->loop, &r->answer);
}

static const char *refusal_text(enum omid_http_error why)
{
    switch (why) {
    case OMID_HTTP_FULL:
        return "the lane's queue is full";
    case OMID_HTTP_QUEUE_TIMEOUT:
        return "waited too long for a slot of the lane";
    case OMID_HTTP_BREAKER:
        return "the target's breaker is open";
    case OMID_HTTP_SUPERSEDED:
        return "a newer request took its place";
    case OMID_HTTP_SHUTDOWN:
        return "shutting down";
    default:
        return "refused";
    }
}

static bool is_own_fault(long os_errno)
{
    return os_errno == EMFILE || os_errno == ENFILE || os_errno == ENOMEM || os_errno == ENOBUFS ||
           os_errno == EADDRNOTAVAIL;
}

static enum omid_http_error request_error(const struct lane_http *r, CURLcode rc)
{
    curl_off_t resolved = 0;
    char *ip = NULL;
    long os_errno = 0;

    switch (rc) {
    case CURLE_OK:
        return OMID_HTTP_OK;
    case CURLE_URL_MALFORMAT:
        return OMID_HTTP_BAD_URL;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return OMID_HTTP_RESOLVE;
    case CURLE_COULDNT_CONNECT:
        curl_easy_getinfo(r->easy, CURLINFO_OS_ERRNO, &os_errno);
        if (r->blocked)
            return OMID_HTTP_BLOCKED;
        return r->local || is_own_fault(os_errno) ? OMID_HTTP_LOCAL : OMID_HTTP_CONNECT;
    case CURLE_ABORTED_BY_CALLBACK:
        return r->blocked ? OMID_HTTP_BLOCKED : OMID_HTTP_LOCAL;
    case CURLE_OPERATION_TIMEDOUT:
        curl_easy_getinfo(r->easy, CURLINFO_NAMELOOKUP_TIME_T, &resolved);
        curl_easy_getinfo(r->easy, CURLINFO_PRIMARY_IP, &ip);
        return resolved == 0 && (!ip || !*ip) ? OMID_HTTP_RESOLVE : OMID_HTTP_TIMEOUT;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_ENGINE_NOTFOUND:
    case CURLE_SSL_ENGINE_SETFAILED:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    case CURLE_SSL_CLIENTCERT:
    case CURLE_USE_SSL_FAILED:
        return OMID_HTTP_TLS;
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_PARTIAL_FILE:
        return OMID_HTTP_RESET;
    case CURLE_OUT_OF_MEMORY:
    case CURLE_FAILED_INIT:
    case CURLE_INTERFACE_FAILED:
        return OMID_HTTP_LOCAL;
    case CURLE_WRITE_ERROR:
        return r->local ? OMID_HTTP_LOCAL : OMID_HTTP_PROTOCOL;
    default:
        return OMID_HTTP_PROTOCOL;
    }
}

static enum breaker_outcome request_verdict(enum omid_http_error error, int status)
{
    switch (error) {
    case OMID_HTTP_OK:
        if (status == 429 || (status >= 502 && status <= 504))
            return BREAKER_OVERLOAD;
        if (status >= 500 || status == 408)
            return BREAKER_FAILURE;
        return status >= 400 ? BREAKER_ANSWERED : BREAKER_SUCCESS;
    case OMID_HTTP_TIMEOUT:
        return BREAKER_OVERLOAD;
    case OMID_HTTP_CONNECT:
    case OMID_HTTP_TLS:
    case OMID_HTTP_RESET:
    case OMID_HTTP_PROTOCOL:
        return BREAKER_FAILURE;
    default: /* our own resolver, descriptors, rules; cancelled */
        return BREAKER_NEUTRAL;
    }
}

/* ------------------------------------------------------------------ the transfer */

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
    struct lane_http *r = arg;
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

static size_t on_head(char *data, size_t size, size_t n, void *arg)
{
    struct lane_http *r = arg;

    (void)data;
    r->head_seen += size * n;
    r->bad_head = r->head_seen > MAX_HEAD;
    return r->bad_head ? 0 : size * n;
}

static curl_socket_t on_open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *addr)
{
    struct lane_http *r = arg;

    (void)purpose;
    if ((r->flags & OMID_HTTP_USER_URL) && !guard_address_public(&addr->addr, addr->addrlen)) {
        r->blocked = true;
        return CURL_SOCKET_BAD;
    }
    int fd = socket(addr->family, addr->socktype | SOCK_CLOEXEC, addr->protocol);
    if (fd < 0 && is_own_fault(errno))
        r->local = true;
    return fd < 0 ? CURL_SOCKET_BAD : fd;
}

/* A kept-alive connection may have been opened for the operator's own URL, so that on_open_socket never saw it. */
static int on_before_request(void *arg, char *peer_ip, char *local_ip, int peer_port, int local_port)
{
    struct lane_http *r = arg;

    (void)local_ip;
    (void)peer_port;
    (void)local_port;
    if (!(r->flags & OMID_HTTP_USER_URL) || guard_text_public(peer_ip))
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

static CURL *lane_easy(struct lane *l)
{
    if (l->n_spare > 0)
        return l->spare[--l->n_spare];
    CURL *easy = curlev_easy_new();
    if (!easy)
        return NULL;
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_head);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
    curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_before_request);
    curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "gzip, deflate");
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "omid");
    return easy;
}

/* Removed from the multi: kept for the next request, with no pointer to this one. */
static void request_drop_easy(struct lane_http *r)
{
    struct lane *l = r->lane;

    curlev_remove(l->curl, r->easy);
    if (l->n_spare < l->max_spare && l->n_spare < l->conf.pool) {
        curl_easy_setopt(r->easy, CURLOPT_ERRORBUFFER, NULL);
        curl_easy_setopt(r->easy, CURLOPT_HTTPHEADER, NULL);
        curl_easy_setopt(r->easy, CURLOPT_POSTFIELDS, NULL);
        curl_easy_setopt(r->easy, CURLOPT_WRITEDATA, NULL);
        curl_easy_setopt(r->easy, CURLOPT_PRIVATE, NULL);
        l->spare[l->n_spare++] = r->easy;
    } else {
        curl_easy_cleanup(r->easy);
    }
    r->easy = NULL;
}

static void request_set_method(const struct lane_http *r)
{
    bool post = strcmp(r->method, "POST") == 0, get = strcmp(r->method, "GET") == 0;
    bool head = strcmp(r->method, "HEAD") == 0;

    curl_easy_setopt(r->easy, CURLOPT_CUSTOMREQUEST, NULL);
    curl_easy_setopt(r->easy, CURLOPT_HTTPGET, 1L); /* also takes NOBODY and POST of the last request back */
    if (r->body_len > 0 || post || strcmp(r->method, "PUT") == 0 || strcmp(r->method, "PATCH") == 0) {
        curl_easy_setopt(r->easy, CURLOPT_POST, 1L);
        curl_easy_setopt(r->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body_len);
        curl_easy_setopt(r->easy, CURLOPT_POSTFIELDS, r->body_len > 0 ? r->body : "");
        if (!post)
            curl_easy_setopt(r->easy, CURLOPT_CUSTOMREQUEST, r->method);
    } else if (head) {
        curl_easy_setopt(r->easy, CURLOPT_NOBODY, 1L);
    } else if (!get) {
        curl_easy_setopt(r->easy, CURLOPT_CUSTOMREQUEST, r->method);
    }
}

static bool request_begin(struct lane_http *r)
{
    struct lane *l = r->lane;
    uint32_t timeout = r->timeout_ms;
    uint32_t connect = l->conf.connect_timeout_ms < timeout ? l->conf.connect_timeout_ms : timeout;

    if (!lane_curl(l) || !(r->easy = lane_easy(l)))
        return false;
    request_set_method(r);
    r->curl_text[0] = 0;
    r->in = BUF_INIT(r->max_body);
    bool ok = curl_easy_setopt(r->easy, CURLOPT_URL, r->url) == CURLE_OK;
    curl_easy_setopt(r->easy, CURLOPT_HTTPHEADER, r->headers);
    curl_easy_setopt(r->easy, CURLOPT_ERRORBUFFER, r->curl_text);
    curl_easy_setopt(r->easy, CURLOPT_WRITEDATA, r);
    curl_easy_setopt(r->easy, CURLOPT_HEADERDATA, r);
    curl_easy_setopt(r->easy, CURLOPT_OPENSOCKETDATA, r);
    curl_easy_setopt(r->easy, CURLOPT_PREREQDATA, r);
    curl_easy_setopt(r->easy, CURLOPT_PRIVATE, r);
    curl_easy_setopt(r->easy, CURLOPT_FORBID_REUSE, l->conf.idle == 0 ? 1L : 0L);
    curl_easy_setopt(r->easy, CURLOPT_TIMEOUT_MS, (long)timeout);
    curl_easy_setopt(r->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)connect);
    if (ok && curlev_add(l->curl, r->easy))
        return true;
    curl_easy_cleanup(r->easy);
    r->easy = NULL;
    return false;
}

/* Gives the slot back, and the token its verdict. */
static void request_end(struct lane_http *r, enum breaker_outcome outcome)
{
    struct lane *l = r->lane;

    list_remove(&r->running);
    if (r->easy)
        request_drop_easy(r);
    lane_verdict(l, &r->w, outcome, lane_now(l) - r->went_ms);
    lane_slot_free(l, &r->w);
}

static void request_forget_latest(struct lane_http *r)
{
    if (!r->in_latest)
        return;
    r->in_latest = false;
    map_remove(r->lane->latest, r->latest_key);
}

static void request_go(struct waiter *w)
{
    struct lane_http *r = container_of(w, struct lane_http, w);

    request_forget_latest(r);
    request_set_state(r, REQUEST_RUNNING);
    r->went_ms = lane_now(r->lane);
    list_append(&r->lane->running, &r->running);
    if (request_begin(r))
        return;
    request_end(r, BREAKER_NEUTRAL);
    request_answer(r, OMID_HTTP_LOCAL, "no memory for the request");
}

static void request_refuse(struct waiter *w, enum omid_http_error why)
{
    struct lane_http *r = container_of(w, struct lane_http, w);

    request_forget_latest(r);
    if (r->w.admitted)
        lane_verdict(r->lane, &r->w, BREAKER_NEUTRAL, 0);
    request_answer(r, why, refusal_text(why));
}

void requests_done(void *arg, CURL *easy, CURLcode rc)
{
    struct lane *l = arg;
    struct lane_http *r = NULL;
    long status = 0;
    curl_off_t retry_after = 0;
    char text[256];

    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&r);
    CHECK_MAGIC(r, REQUEST_MAGIC);
    omid_assert(r->lane == l && r->easy == easy && r->state == REQUEST_RUNNING);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &retry_after);
    /* What was wanted has come; how the rest of the body ended changes nothing. */
    if (rc != CURLE_OK && (r->enough || r->res.truncated) && status >= 200 && !r->local)
        rc = CURLE_OK;
    enum omid_http_error error = request_error(r, rc);
    if (error == OMID_HTTP_OK && status < 200)
        error = OMID_HTTP_PROTOCOL;
    const char *why = r->bad_head                  ? "the answer's headers are too long"
                      : error == OMID_HTTP_BLOCKED ? "the address is not allowed for this URL"
                      : r->curl_text[0] != 0       ? r->curl_text
                      : rc != CURLE_OK             ? curl_easy_strerror(rc)
                                                   : "the answer has no final status";
    snprintf(text, sizeof text, "%s", why);
    r->res.status = (int)status;
    r->res.retry_after_s = retry_after <= 0 ? 0 : retry_after > UINT32_MAX ? UINT32_MAX : (uint32_t)retry_after;
    metric_observe(l->m.seconds, (double)(lane_now(l) - r->went_ms) / 1000);
    request_end(r, request_verdict(error, (int)status));
    request_answer(r, error, text);
}

void requests_shut(struct lane *l)
{
    while (!list_empty(&l->running)) {
        struct lane_http *r = list_entry(l->running.next, struct lane_http, running);
        request_end(r, BREAKER_NEUTRAL);
        request_answer(r, OMID_HTTP_SHUTDOWN, refusal_text(OMID_HTTP_SHUTDOWN));
    }
}

/* ------------------------------------------------------------------ from the caller */

static void request_enter(struct lane_http *r)
{
    struct lane *l = r->lane;
    struct lane_http *former;

    if (!r->key) {
        request_answer(r, OMID_HTTP_BAD_URL, "the URL is not a valid http or https URL");
        return;
    }
    if (!r->timeout_ms || r->timeout_ms > l->conf.timeout_ms)
        r->timeout_ms = l->conf.timeout_ms;
    r->w.go = request_go;
    r->w.refuse = request_refuse;
    /* As long as a slot lasts, and a margin for the loop. */
    r->w.within_ms = r->timeout_ms + 1000;
    r->w.target = target_get(l, r->key);
    if (!r->w.target) {
        request_answer(r, OMID_HTTP_LOCAL, "no memory for the target");
        return;
    }
    former = r->latest_key ? map_get(l->latest, r->latest_key) : NULL;
    if (former && former->w.target == r->w.target) {
        lane_slot_replace(l, &former->w, &r->w);
        request_refuse(&former->w, OMID_HTTP_SUPERSEDED);
    } else {
        if (former) {
            lane_slot_cancel(l, &former->w);
            metric_add(l->m.superseded, 1);
            request_refuse(&former->w, OMID_HTTP_SUPERSEDED);
        }
        lane_slot_ask(l, &r->w);
    }
    if (r->state == REQUEST_NEW) {
        omid_assert(r->w.queued);
        request_set_state(r, REQUEST_WAITING);
        r->in_latest = r->latest_key && map_put(l->latest, r->latest_key, r, NULL);
    }
}

static void on_start(struct loop *loop, struct loop_msg *msg)
{
    struct lane_http *r = container_of(msg, struct lane_http, start);

    (void)loop;
    CHECK_MAGIC(r, REQUEST_MAGIC);
    lanes_leave(r->lane->ls);
    /* It may be answered, and freed by the caller, before this returns. */
    atomic_fetch_add(&r->refs, 1);
    request_enter(r);
    request_unref(r);
}

static void on_cancel(struct loop *loop, struct loop_msg *msg)
{
    struct lane_http *r = container_of(msg, struct lane_http, cancel);
    struct lane *l = r->lane;

    (void)loop;
    CHECK_MAGIC(r, REQUEST_MAGIC);
    if (r->state != REQUEST_OVER) {
        if (r->state == REQUEST_RUNNING) {
            request_end(r, BREAKER_NEUTRAL);
        } else {
            lane_slot_cancel(l, &r->w);
            request_forget_latest(r);
        }
        request_set_state(r, REQUEST_OVER);
        target_put(l, &r->w.target);
        request_unref(r); /* the lane's: nothing will be answered */
    }
    request_unref(r); /* the caller's, which came with this message */
}

static bool is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c <= ' ' || c >= 0x7f || strchr("()<>@,;:\\\"/[]?={}", c))
            return false;
    }
    return n > 0;
}

bool request_headers_ok(const char *const *headers)
{
    size_t total = 0, n = 0;

    for (; headers && headers[n]; n++) {
        const char *colon = strchr(headers[n], ':');
        if (n == LANE_MAX_HEADERS || !colon || !is_token(headers[n], (size_t)(colon - headers[n])))
            return false;
        for (const unsigned char *c = (const unsigned char *)colon; *c; c++) {
            if ((*c < ' ' && *c != '\t') || *c == 0x7f)
                return false;
        }
        /* The length of a body is ours to say. */
        if (strncasecmp(headers[n], "Content-Length:", 15) == 0 ||
            strncasecmp(headers[n], "Transfer-Encoding:", 18) == 0)
            return false;
        total += strlen(headers[n]);
    }
    return total <= LANE_MAX_HEADER_BYTES;
}

static bool add_header(struct curl_slist **list, const char *line)
{
    struct curl_slist *longer = curl_slist_append(*list, line);
    if (longer)
        *list = longer;
    return longer != NULL;
}

static bool request_copy(struct lane_http *r, const struct omid_http_request *req)
{
    bool typed = false, ok = true;

    size_t key_size = strlen(req->url) + TARGET_KEY_EXTRA;
    r->url = strdup(req->url);
    r->key = malloc(key_size);
    r->method = strdup(req->method);
    r->latest_key = req->latest_key ? strdup(req->latest_key) : NULL;
    r->body = req->body_len > 0 ? malloc(req->body_len) : NULL;
    if (!r->url || !r->key || !r->method || (req->latest_key && !r->latest_key) || (req->body_len > 0 && !r->body))
        return false;
    if (strncasecmp(r->url, "http", 4) != 0 || !target_key(r->url, r->key, key_size)) {
        free(r->key);
        r->key = NULL;
    }
    if (r->body)
        memcpy(r->body, req->body, req->body_len);
    for (size_t i = 0; req->headers && req->headers[i]; i++) {
        typed |= strncasecmp(req->headers[i], "Content-Type:", 13) == 0;
        ok = ok && add_header(&r->headers, req->headers[i]);
    }
    /* What curl would add of its own: a wait for 100 Continue, and the type of a form. */
    ok = ok && add_header(&r->headers, "Expect:");
    if (!typed)
        ok = ok && add_header(&r->headers, "Content-Type:");
    return ok;
}

static bool request_fits(struct lane *l, size_t body_len)
{
    if (atomic_fetch_add(&l->begun, 1) >= atomic_load(&l->begun_max)) {
        atomic_fetch_sub(&l->begun, 1);
        return false;
    }
    if (atomic_fetch_add(&l->bodies, body_len) + body_len > LANE_MAX_BODIES) {
        atomic_fetch_sub(&l->bodies, body_len);
        atomic_fetch_sub(&l->begun, 1);
        return false;
    }
    return true;
}

int lane_http_start(struct lane *l, struct loop *loop, const struct omid_http_request *req, omid_http_cb cb, void *arg,
                    struct lane_http **out)
{
    CHECK_MAGIC(l, LANE_MAGIC);
    if (!req->url || !req->method || !is_token(req->method, strlen(req->method)) || strlen(req->method) > 32 ||
        strlen(req->url) > LANE_MAX_URL || !request_headers_ok(req->headers) || (req->body_len > 0 && !req->body) ||
        req->body_len > LANE_MAX_BODY)
        return OMID_EINVAL;
    if (!request_fits(l, req->body_len)) {
        lane_rejected(l, REJECT_FULL);
        return OMID_EFULL;
    }
    struct lane_http *r = calloc(1, sizeof *r);
    if (!r) {
        atomic_fetch_sub(&l->bodies, req->body_len);
        atomic_fetch_sub(&l->begun, 1);
        return OMID_ERR;
    }
    r->magic = REQUEST_MAGIC;
    r->refs = 1;
    r->lane = l;
    lane_ref(l);
    list_init(&r->running);
    r->body_len = req->body_len;
    if (!request_copy(r, req) || !lanes_enter(l->ls)) {
        int rc = atomic_load(&l->ls->stopping) ? OMID_ECLOSED : OMID_ERR;
        request_unref(r);
        return rc;
    }
    r->loop = loop;
    r->cb = cb;
    r->arg = arg;
    r->flags = req->flags;
    r->timeout_ms = req->timeout_ms;
    r->max_body = req->max_body == 0 ? DEFAULT_BODY : req->max_body < MAX_BODY ? req->max_body : MAX_BODY;
    r->begun_ms = clock_mono_ms();
    atomic_store(&r->refs, 2); /* the caller's and the lane's */
    r->start.fn = on_start;
    if (out)
        *out = r;
    loop_post_turn(l->ls->loop, loop, &r->start); /* on_start() leaves */
    return OMID_OK;
}

void lane_http_cancel(struct lane_http **rp)
{
    struct lane_http *r = *rp;

    if (!r)
        return;
    CHECK_MAGIC(r, REQUEST_MAGIC);
    *rp = NULL;
    if (r->answering || r->cancelled)
        return;
    omid_assert(loop_is_current(r->loop));
    r->cancelled = true;
    r->cancel.fn = on_cancel;
    loop_post_turn(r->lane->ls->loop, r->loop, &r->cancel); /* as the start: never before it */
}
