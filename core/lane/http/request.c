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
#include "lane/http/cachecontrol.h"
#include "lane/http/guard.h"
#include "lane/http/lane_int.h"

#define REQUEST_MAGIC UINT32_C(0x68747470)
#define DEFAULT_BODY (64u << 10)
#define MAX_BODY (64u << 20)
#define MAX_METHOD 32u
/* Read beyond max_body, so that a slightly long answer does not cost its connection. */
#define DISCARD (256u << 10)
/* Headers of all answers of one request, 1xx included. */
#define MAX_HEAD (64u << 10)

/* A curl handle and what it is set to: what the next request needs alike is not set again. Lane thread. */
struct lane_easy {
    CURL *curl;
    struct lane_http *r; /* whose it is now */
    char *url;
    size_t url_size;
    char method[MAX_METHOD + 1];
    bool sends_body, closes;
    uint32_t timeout_ms, connect_ms;
    char text[CURL_ERROR_SIZE];
};

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

    /* const once started; all behind this struct, in its own memory */
    const char *url, *method, *latest_key;
    const char *key; /* of the target; NULL for a bad URL */
    struct curl_slist *headers;
    const char *body;
    size_t body_len, max_body;
    uint32_t timeout_ms;
    unsigned flags;
    uint64_t begun_ms;

    /* the lane's end */
    enum request_state state;
    struct waiter w;
    struct list running;
    bool in_latest;
    struct lane_easy *easy;
    uint64_t went_ms;
    struct buf in;
    size_t seen, head_seen;
    bool blocked, local, enough, bad_head;

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

/* Texts come from curl and, through it, from peers. */
static void request_set_text(struct lane_http *r, const char *text)
{
    snprintf(r->text, sizeof r->text, "%s", text);
    for (char *c = r->text; *c; c++) {
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f)
            *c = '?';
    }
}

/* From the lane: hands its end over. An error has its text already, or has it here. */
static void request_answer(struct lane_http *r, enum omid_http_error error, const char *text)
{
    struct lane *l = r->lane;

    request_set_state(r, REQUEST_OVER);
    target_put(l, &r->w.target);
    if (text)
        request_set_text(r, text);
    r->res.size = sizeof r->res;
    r->res.error = error;
    r->res.error_text = r->text;
    if (error != OMID_HTTP_OK) {
        r->res.status = 0;
        r->res.max_age_s = CACHE_UNSAID;
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
        curl_easy_getinfo(r->easy->curl, CURLINFO_OS_ERRNO, &os_errno);
        if (r->blocked)
            return OMID_HTTP_BLOCKED;
        return r->local || is_own_fault(os_errno) ? OMID_HTTP_LOCAL : OMID_HTTP_CONNECT;
    case CURLE_ABORTED_BY_CALLBACK:
        return r->blocked ? OMID_HTTP_BLOCKED : OMID_HTTP_LOCAL;
    case CURLE_OPERATION_TIMEDOUT:
        curl_easy_getinfo(r->easy->curl, CURLINFO_NAMELOOKUP_TIME_T, &resolved);
        curl_easy_getinfo(r->easy->curl, CURLINFO_PRIMARY_IP, &ip);
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

static size_t on_head(char *data, size_t size, size_t n, void *arg)
{
    struct lane_http *r = ((struct lane_easy *)arg)->r;

    (void)data;
    r->head_seen += size * n;
    r->bad_head = r->head_seen > MAX_HEAD;
    return r->bad_head ? 0 : size * n;
}

static curl_socket_t on_open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *addr)
{
    struct lane_http *r = ((struct lane_easy *)arg)->r;

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
    struct lane_http *r = ((struct lane_easy *)arg)->r;

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
    curl_easy_setopt(e->curl, CURLOPT_ACCEPT_ENCODING, "gzip, deflate");
    curl_easy_setopt(e->curl, CURLOPT_USERAGENT, "omid");
    return e;
}

/* Removed from the multi: kept for the next request. Its pointers to this one's headers and body are replaced before it
 * is used again, and not looked at meanwhile. */
static void request_drop_easy(struct lane_http *r)
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

static bool request_sends_body(const struct lane_http *r)
{
    return r->body_len > 0 || strcmp(r->method, "POST") == 0 || strcmp(r->method, "PUT") == 0 ||
           strcmp(r->method, "PATCH") == 0;
}

static bool request_begin(struct lane_http *r)
{
    struct lane *l = r->lane;
    uint32_t timeout = r->timeout_ms;
    uint32_t connect = l->conf.connect_timeout_ms < timeout ? l->conf.connect_timeout_ms : timeout;
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
    easy_set_times(e, timeout, connect, l->conf.idle == 0);
    if (easy_set_url(e, r->url) && curlev_add(l->curl, e->curl))
        return true;
    lane_easy_free(&r->easy);
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

/* Of the last answer, should there have been several. */
static int64_t answer_max_age(CURL *curl)
{
    struct curl_header *h;
    int64_t age = CACHE_UNSAID;

    for (size_t i = 0; curl_easy_header(curl, "Cache-Control", i, CURLH_HEADER, -1, &h) == CURLHE_OK; i++)
        age = cache_lesser(age, cache_max_age(h->value));
    return cache_aged(age, curl_easy_header(curl, "Age", 0, CURLH_HEADER, -1, &h) == CURLHE_OK ? h->value : NULL);
}

void requests_done(void *arg, CURL *curl, CURLcode rc)
{
    struct lane *l = arg;
    struct lane_easy *e = NULL;
    long status = 0;
    curl_off_t retry_after = 0, took_us = 0;

    curl_easy_getinfo(curl, CURLINFO_PRIVATE, (char **)&e);
    struct lane_http *r = e->r;
    CHECK_MAGIC(r, REQUEST_MAGIC);
    omid_assert(r->lane == l && r->easy == e && e->curl == curl && r->state == REQUEST_RUNNING);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(curl, CURLINFO_RETRY_AFTER, &retry_after);
    if (rc == CURLE_OK)
        curlev_keep(l->curl, curl);
    /* What was wanted has come; how the rest of the body ended changes nothing. */
    if (rc != CURLE_OK && (r->enough || r->res.truncated) && status >= 200 && !r->local)
        rc = CURLE_OK;
    enum omid_http_error error = request_error(r, rc);
    if (error == OMID_HTTP_OK && status < 200)
        error = OMID_HTTP_PROTOCOL;
    if (error != OMID_HTTP_OK) /* now: the handle, with its text, may be another's when the slot is given back */
        request_set_text(r, r->bad_head                  ? "the answer's headers are too long"
                            : error == OMID_HTTP_BLOCKED ? "the address is not allowed for this URL"
                            : e->text[0] != 0            ? e->text
                            : rc != CURLE_OK             ? curl_easy_strerror(rc)
                                                         : "the answer has no final status");
    r->res.status = (int)status;
    r->res.max_age_s = answer_max_age(curl);
    r->res.retry_after_s = retry_after <= 0 ? 0 : retry_after > UINT32_MAX ? UINT32_MAX : (uint32_t)retry_after;
    metric_observe(l->m.seconds, (double)(lane_now(l) - r->went_ms) / 1000);
    curl_easy_getinfo(curl, CURLINFO_TOTAL_TIME_T, &took_us);
    latency_add(&l->latency, lane_now(l), (uint64_t)took_us);
    request_end(r, request_verdict(error, (int)status));
    request_answer(r, error, NULL);
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

/* What curl would add of its own: a wait for 100 Continue, and the type of a form. */
static const char *const unwanted[] = {"Expect:", "Content-Type:"};

static const char *copy_text(char **at, const char *text)
{
    size_t size = strlen(text) + 1;
    char *to = memcpy(*at, text, size);
    *at += size;
    return to;
}

/* The list is only read by curl: its lines may lie anywhere. */
static void link_header(struct curl_slist *node, struct curl_slist *next, const char *line)
{
    node->data = (char *)line;
    node->next = next;
}

/* One piece of memory, as it is made on one thread and freed on another. NULL: no memory. */
static struct lane_http *request_new(const struct omid_http_request *req)
{
    size_t n = 0, texts = 0, key_size = strlen(req->url) + TARGET_KEY_EXTRA;
    bool typed = false;

    for (; req->headers && req->headers[n]; n++) {
        texts += strlen(req->headers[n]) + 1;
        typed |= strncasecmp(req->headers[n], "Content-Type:", 13) == 0;
    }
    texts += strlen(req->url) + 1 + strlen(req->method) + 1 + key_size;
    texts += req->latest_key ? strlen(req->latest_key) + 1 : 0;
    size_t nodes = n + (typed ? 1 : 2);
    struct lane_http *r = malloc(sizeof *r + nodes * sizeof(struct curl_slist) + texts + req->body_len);
    if (!r)
        return NULL;
    memset(r, 0, sizeof *r);
    struct curl_slist *node = (struct curl_slist *)(void *)(r + 1);
    char *at = (char *)(node + nodes);
    r->url = copy_text(&at, req->url);
    r->method = copy_text(&at, req->method);
    r->latest_key = req->latest_key ? copy_text(&at, req->latest_key) : NULL;
    for (size_t i = 0; i < nodes; i++) /* the caller's come out in the order they were given in */
        link_header(&node[i], i + 1 < nodes ? &node[i + 1] : NULL,
                    i < n ? copy_text(&at, req->headers[i]) : unwanted[i - n]);
    r->headers = node;
    r->key = strncasecmp(r->url, "http", 4) == 0 && target_key(r->url, at, key_size) ? at : NULL;
    at += key_size;
    if (req->body_len > 0)
        r->body = memcpy(at, req->body, req->body_len);
    r->body_len = req->body_len;
    return r;
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
    if (!req->url || !req->method || !is_token(req->method, strlen(req->method)) || strlen(req->method) > MAX_METHOD ||
        strlen(req->url) > LANE_MAX_URL || !request_headers_ok(req->headers) || (req->body_len > 0 && !req->body) ||
        req->body_len > LANE_MAX_BODY)
        return OMID_EINVAL;
    if (!request_fits(l, req->body_len)) {
        lane_rejected(l, REJECT_FULL);
        return OMID_EFULL;
    }
    struct lane_http *r = request_new(req);
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
    if (!lanes_enter(l->ls)) {
        request_unref(r);
        return OMID_ECLOSED;
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
