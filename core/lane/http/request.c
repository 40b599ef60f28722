/*
 * A request is one object with two ends. The caller's end belongs to its loop, the lane's end to the lane thread;
 * what both read is written before the message that hands it over. References: the caller's, given to the cancel
 * message or dropped after the callback; the lane's, given to the answer, or dropped when a cancel comes first. The
 * last one frees, on whichever thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/magic.h"
#include "lane/http/cachecontrol.h"
#include "lane/http/guard.h"
#include "lane/http/request_int.h"

#define DEFAULT_BODY (64u << 10)
#define MAX_BODY (64u << 20)

static void request_set_state(struct lane_http *r, enum request_state to)
{
    static const bool legal[5][5] = {
        [REQUEST_NEW] = {[REQUEST_WAITING] = true, [REQUEST_RUNNING] = true, [REQUEST_OVER] = true},
        [REQUEST_WAITING] = {[REQUEST_RUNNING] = true, [REQUEST_OVER] = true},
        [REQUEST_RUNNING] = {[REQUEST_HOPPING] = true, [REQUEST_OVER] = true},
        [REQUEST_HOPPING] = {[REQUEST_WAITING] = true, [REQUEST_RUNNING] = true, [REQUEST_OVER] = true},
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
    free(r->hop_url);
    if (r->aws_secret)
        explicit_bzero((char *)r->aws_secret, strlen(r->aws_secret));
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

void request_set_text(struct lane_http *r, const char *text)
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
    r->res.redirects = r->hops;
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

static enum omid_http_error request_error(const struct lane_http *r, CURLcode rc)
{
    curl_off_t resolved = 0;
    char *ip = NULL;
    long os_errno = 0, connect_code = 0;

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
        if (r->blocked && !r->dialled) /* else the peer is there, and down */
            return OMID_HTTP_BLOCKED;
        return r->local || easy_is_own_fault(os_errno) ? OMID_HTTP_LOCAL : OMID_HTTP_CONNECT;
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
        /* Our credentials for the proxy: no fault of the target's. */
        curl_easy_getinfo(r->easy->curl, CURLINFO_HTTP_CONNECTCODE, &connect_code);
        return connect_code == 407 ? OMID_HTTP_LOCAL : OMID_HTTP_RESET;
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

/* Gives the slot back, and the token its verdict. */
static void request_end(struct lane_http *r, enum breaker_outcome outcome)
{
    struct lane *l = r->lane;

    list_remove(&r->running);
    if (r->easy)
        easy_end(r);
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

/* What speaks against a user's URL before its name is looked up; NULL: nothing. Addresses: easy.c. */
static const char *request_unguarded(const struct lane_http *r)
{
    const struct conf_outside *o = r->w.target->rules->outside;

    if (!(r->flags & OMID_HTTP_USER_URL))
        return NULL;
    if (o && o->proxy)
        return "a URL of a user must not go through a proxy, behind which its address can't be checked";
    if (guard_has_zone(r->w.target->key))
        return "a URL of a user must not have a zone id, which means nothing but on this machine";
    return NULL;
}

static void request_go(struct waiter *w)
{
    struct lane_http *r = container_of(w, struct lane_http, w);

    request_forget_latest(r);
    request_set_state(r, REQUEST_RUNNING);
    r->went_ms = lane_now(r->lane);
    if (r->hops == 0) {
        r->deadline_ms = r->went_ms + r->timeout_ms;
        r->follow = w->target->rules->follow;
    }
    list_append(&r->lane->running, &r->running);
    const char *unguarded = request_unguarded(r); /* the settings may have changed while it waited */
    if (unguarded) {
        request_end(r, BREAKER_NEUTRAL);
        request_answer(r, OMID_HTTP_BLOCKED, unguarded);
        return;
    }
    if (easy_begin(r, r->deadline_ms > r->went_ms ? (uint32_t)(r->deadline_ms - r->went_ms) : 1))
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
    if (why == OMID_HTTP_QUEUE_TIMEOUT && r->hops > 0 && lane_now(r->lane) >= r->deadline_ms)
        request_answer(r, OMID_HTTP_TIMEOUT, "the time ran out while a redirect waited for a slot of the lane");
    else
        request_answer(r, why, refusal_text(why));
}

/* After the last hop has given everything back. */
static void request_hop(struct lane_http *r, const char *key)
{
    struct lane *l = r->lane;
    uint64_t now = lane_now(l);

    request_set_state(r, REQUEST_HOPPING);
    metric_add(l->m.redirects, 1);
    buf_free(&r->in);
    r->seen = r->head_seen = 0;
    r->codings = 0;
    r->aged = false;
    /* What an address of the last host met is no matter of the next one's. */
    r->blocked = r->dialled = r->local = r->enough = false;
    r->bad_head = NULL;
    r->res = (struct omid_http_response){0};
    target_put(l, &r->w.target);
    r->w.target = target_get(l, key);
    if (!r->w.target) {
        request_answer(r, OMID_HTTP_LOCAL, "no memory for the target");
    } else if (now >= r->deadline_ms) {
        request_answer(r, OMID_HTTP_TIMEOUT, "the time ran out between redirects");
    } else if (request_unguarded(r)) {
        request_answer(r, OMID_HTTP_BLOCKED, request_unguarded(r));
    } else {
        r->w.until = r->deadline_ms;
        r->w.within_ms = (uint32_t)(r->deadline_ms - now) + 1000;
        lane_slot_ask(l, &r->w);
        if (r->state == REQUEST_HOPPING) {
            omid_assert(r->w.queued);
            request_set_state(r, REQUEST_WAITING);
        }
    }
}

/* Of the last answer, should there have been several. */
static int64_t answer_max_age(const struct lane_http *r, CURL *curl)
{
    struct curl_header *h;
    int64_t age = CACHE_UNSAID;

    if (!r->aged) /* of nearly all: they are not searched for it */
        return age;
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
        request_set_text(r, r->bad_head                  ? r->bad_head
                            : error == OMID_HTTP_BLOCKED ? "the address is not allowed for this URL"
                            : e->text[0] != 0            ? e->text
                            : rc != CURLE_OK             ? curl_easy_strerror(rc)
                                                         : "the answer has no final status");
    r->res.status = (int)status;
    r->res.max_age_s = answer_max_age(r, curl);
    r->res.retry_after_s = retry_after <= 0 ? 0 : retry_after > UINT32_MAX ? UINT32_MAX : (uint32_t)retry_after;
    metric_observe(l->m.seconds, (double)(lane_now(l) - r->went_ms) / 1000);
    curl_easy_getinfo(curl, CURLINFO_TOTAL_TIME_T, &took_us);
    latency_add(&l->latency, lane_now(l), (uint64_t)took_us);
    char key[LANE_MAX_URL + URL_KEY_EXTRA];
    enum omid_http_error refused = error;
    enum hop hop = error == OMID_HTTP_OK ? redirect_take(r, (int)status, key, sizeof key, &refused) : HOP_NONE;
    if (error == OMID_HTTP_RESOLVE)
        lane_unresolved(&r->w);
    if (hop != HOP_TAKEN) {
        request_end(r, request_verdict(error, (int)status));
        request_answer(r, refused, NULL);
        return;
    }
    /* It may be answered, and freed by the caller, before the hop returns. */
    atomic_fetch_add(&r->refs, 1);
    request_end(r, request_verdict(error, (int)status));
    request_hop(r, key);
    request_unref(r);
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
    r->w.go = request_go;
    r->w.refuse = request_refuse;
    r->w.target = target_get(l, r->key);
    if (!r->w.target) {
        request_answer(r, OMID_HTTP_LOCAL, "no memory for the target");
        return;
    }
    const struct conf_lane *rules = r->w.target->rules;
    if (!r->timeout_ms || r->timeout_ms > rules->timeout_ms)
        r->timeout_ms = rules->timeout_ms;
    /* As long as a slot lasts, and a margin for the loop. */
    r->w.within_ms = r->timeout_ms + 1000;
    if (request_unguarded(r)) {
        request_answer(r, OMID_HTTP_BLOCKED, request_unguarded(r));
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
    bool key_missing = req->aws_sigv4 && (!req->aws_key_id || !req->aws_secret);
    if (key_missing || !req->url || !req->method || !request_method_ok(req->method) ||
        strlen(req->url) > LANE_MAX_URL || !request_headers_ok(req->headers) || (req->body_len > 0 && !req->body) ||
        req->body_len > LANE_MAX_BODY)
        return OMID_EINVAL;
    if (!request_fits(l, req->body_len)) {
        lane_rejected(l, REJECT_FULL);
        return OMID_EFULL;
    }
    struct lane_http *r = request_draft(req);
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
