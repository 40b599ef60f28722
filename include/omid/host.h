/* Part of omid/plugin.h, which includes it: the functions that the daemon offers. */
#ifndef OMID_PLUGIN_HOST_H
#define OMID_PLUGIN_HOST_H

#include <omid/base.h>
#include <omid/event.h>
#include <omid/out.h>
#include <omid/registry.h>
#include <omid/role.h>
#include <omid/route.h>
#include <omid/work.h>

#ifdef __cplusplus
extern "C" {
#endif

enum omid_log_level { OMID_LOG_ERROR, OMID_LOG_WARNING, OMID_LOG_NOTICE, OMID_LOG_INFO, OMID_LOG_DEBUG };

/*
 * Functions the daemon offers. Check `size` before using a member newer than 1.0.
 *
 * Results that any function of the reactor may have, besides those that it names: OMID_EINVAL: an argument is unusable,
 * a NULL that may not be one included; OMID_ETHREAD, see above; OMID_ECLOSED: the instance stops, nothing new begins;
 * OMID_ENOTSUP: the daemon runs without that part; OMID_ERR: no memory. After an error nothing was taken and no
 * callback follows. Those that return nothing then do nothing.
 */
struct omid_host {
    uint32_t size;
    uint16_t abi_major, abi_minor;

    /* --- any thread --- */

    /* One line, without newline; repeated lines are limited. mod is never NULL. */
    void (*log)(struct omid_module *mod, enum omid_log_level level, const char *fmt, ...) OMID_PRINTF(3, 4);
    /* Monotonic milliseconds; Unix milliseconds. */
    uint64_t (*now_ms)(void);
    int64_t (*wall_ms)(void);
    /* 36 characters and NUL. */
    void (*uuid4)(char out[37]);
    /* Adds n; atomic. NULL, what counter() gives beyond its bound, is not counted. */
    void (*counter_add)(struct omid_counter *counter, uint64_t n);

    /* --- configure(): main thread --- */

    /* The value of an option of the table, default included. A wrong name or type fails configure(). Strings and lists
     * live as long as the module's configuration: until unconfigure() returns. NULL: absent. */
    bool (*conf_bool)(struct omid_module *mod, const char *key);
    int64_t (*conf_int)(struct omid_module *mod, const char *key); /* INT, DURATION (ms), SIZE (bytes) */
    double (*conf_float)(struct omid_module *mod, const char *key);
    const char *(*conf_str)(struct omid_module *mod, const char *key); /* STRING, ENUM, SECRET */
    const char *const *(*conf_list)(struct omid_module *mod, const char *key, size_t *n);
    /* Reports a fault of `key` with its file and line. */
    void (*conf_error)(struct omid_module *mod, const char *key, const char *fmt, ...) OMID_PRINTF(3, 4);
    /* OMID_EINVAL when the path is taken, the route unusable, or one beyond 64; the reason is logged. The struct is
     * copied, its strings are not: they must last until unconfigure() returns. */
    int (*route_add)(struct omid_module *mod, const struct omid_route *route);
    /* omid_plugin_<name>_<what>_total{label="value"}. `help` one sentence. Strings static; the values of a label from
     * a fixed set, never a uid or a URL. label may be NULL. The host's, for as long as the module is loaded. NULL when
     * the module has too many (64). */
    struct omid_counter *(*counter)(struct omid_module *mod, const char *what, const char *help, const char *label,
                                    const char *value);

    /* --- reactor --- */

    struct omid_module *(*module)(struct omid_instance *inst);
    unsigned (*reactor)(struct omid_instance *inst, unsigned *reactors); /* this one's number, and how many */

    /* Calls fn after delay_ms, then every repeat_ms (0: once). The handle stays until timer_stop(), which may be called
     * within fn. NULL: refused, no memory, or 65,536 of this instance are there. */
    struct omid_timer *(*timer_start)(struct omid_instance *inst, uint32_t delay_ms, uint32_t repeat_ms,
                                      void (*fn)(void *arg), void *arg);
    void (*timer_stop)(struct omid_timer **timer);

    /* Through this plugin's lane. cb runs exactly once, never within http_start(), unless cancelled.
     * OMID_OK sets *out (may be NULL). When cb returns, the handle is gone: null yours in cb.
     * OMID_EFULL: the lane has no room for one more, or its body. OMID_EINVAL also: a URL of more than 8 KiB, more than
     * 64 header lines or 16 KiB of them, a body of more than 64 MiB. */
    int (*http_start)(struct omid_instance *inst, const struct omid_http_request *req, omid_http_cb cb, void *arg,
                      struct omid_http **out);
    /* At any time before cb: cb will not run. */
    void (*http_cancel)(struct omid_http **http);

    /* OMID_OK sets *out; open() or closed() follows, not within this call. OMID_EINVAL also: a URL or headers beyond
     * the bounds of http_start(). */
    int (*ws_connect)(struct omid_instance *inst, const struct omid_ws_request *req,
                      const struct omid_ws_events *events, void *arg, struct omid_ws **out);
    /* OMID_OK: queued or sent. OMID_EFULL: nothing taken, writable() will follow. OMID_ECLOSED: not open. */
    int (*ws_send)(struct omid_ws *ws, enum omid_message type, const void *data, size_t len);
    /* Sends what is queued, then Close with this code (RFC 6455); closed() follows when the peer answers, or after 3 s.
     * Before open() the attempt is given up, and closed() follows. */
    void (*ws_close)(struct omid_ws *ws, uint16_t code);
    /* At once, whatever its state (connecting included); no callbacks afterwards. Exactly once per ws_connect(). */
    void (*ws_release)(struct omid_ws **ws);

    /* The struct is copied, its label and arg are not. OMID_OK: done() follows, not within this call. OMID_EFULL: the
     * queue, or the plugin's share of it. OMID_ECLOSED: shutting down. */
    int (*exec_submit)(struct omid_instance *inst, const struct omid_work *work);

    /* cb when the job is on disk (OMID_OK and its id; the id of the first for a repeated name), or is not
     * (OMID_EFULL: the queue's bound; OMID_ERR: the disk). Not within this call; cb may be NULL. OMID_EINVAL also: a
     * type, name or target of more than 4 KiB, a payload of more than 32 MiB. */
    int (*job_enqueue)(struct omid_instance *inst, const struct omid_job *job, omid_enqueued_cb cb, void *arg);
    /* Exactly once per job(), within it or later. retry_after_s counts with OMID_JOB_RETRY (0: the schedule's delay)
     * and OMID_JOB_WAIT. error is for people and may be NULL; kept with the job. */
    void (*job_finish)(struct omid_job_run **run, enum omid_job_outcome outcome, uint32_t retry_after_s,
                       const char *error);

    /* To the subscribers of this reactor, after the current callback. Only APP_MESSAGE and CUSTOM may be published;
     * since 1.2 an APP_MESSAGE goes to those of the reactor that has the uid's sessions. OMID_EFULL: 1,024 events or
     * 4 MiB of them wait. */
    int (*publish)(struct omid_instance *inst, const struct omid_event *ev);

    /* Answers, and releases; body is copied; status 200..599. OMID_ECLOSED: the client has left (released all the
     * same). OMID_EINVAL: answered or begun before, or unusable: the answer is still due. */
    int (*respond)(struct omid_exchange **ex, int status, const char *content_type, const void *body, size_t len);
    /* OMID_EFULL: nothing taken; return OMID_EFULL from message(), or wait for the next message. OMID_ECLOSED: Close is
     * on its way, or the client has left. OMID_EINVAL: text that is not UTF-8. */
    int (*conn_send)(struct omid_conn *conn, enum omid_message type, const void *data, size_t len);
    /* Sends Close; closed() follows. A code that must not be sent (RFC 6455, 7.4) becomes 1011; reason is cut after 123
     * bytes, and left out when it is no UTF-8; may be NULL. */
    void (*conn_close)(struct omid_conn *conn, uint16_t code, const char *reason);

    /* Results of an stt stream; see struct omid_stt_role. Ignored once the session has moved on. */
    void (*stt_ready)(struct omid_stt *stt);
    void (*stt_writable)(struct omid_stt *stt);
    void (*stt_result)(struct omid_stt *stt, const struct omid_stt_result *result);
    void (*stt_closed)(struct omid_stt *stt, const struct omid_stt_end *end);

    /* Ends the drain of this instance; without a drain() nothing. stop() follows, not within this call. */
    void (*drained)(struct omid_instance *inst);

    /* --- since 1.1 --- */

    /* configure(), main thread: a label of fan-outs, [a-z0-9_], at most 32 characters; logs and metrics say NAME:LABEL.
     * OMID_EFULL: beyond 16. */
    int (*gather_label)(struct omid_module *mod, const char *label);
    /* Reactor. OMID_OK sets *out (may be NULL). The request is copied. OMID_EFULL: 1,024 fan-outs or 262,144 items of
     * this instance are under way. One that stop() leaves open ends there, without callbacks. */
    int (*gather_start)(struct omid_instance *inst, const struct omid_gather_request *req, struct omid_gather **out);
    /* Reactor. The item is over: result OMID_OK, or an error that counts as a failure, which text (may be NULL)
     * explains for people. value goes to item(). OMID_ECLOSED: it was over before; value stays yours. */
    int (*gather_done)(struct omid_instance *inst, omid_gather_token token, int result, const char *text, void *value);
    /* Reactor. Calls abort() for items that run and drop() for values not yet handed over; then nothing more. */
    void (*gather_cancel)(struct omid_gather **gather);

    /* --- since 1.2 --- */

    /* Reactor. Answers a question of the daemon, and releases it; what the answer points to is copied. An answer that
     * can't be used counts as OMID_ERR, and is logged. */
    void (*answer)(struct omid_ask **ask, const struct omid_answer *answer);

    /* As respond(), with header lines of its own ("Name: value", NULL-terminated): not Content-Length, Connection or
     * Transfer-Encoding, and at most 16. */
    int (*respond_with)(struct omid_exchange **ex, int status, const char *content_type, const char *const *headers,
                        const void *body, size_t len);

    /* Reactor. An answer in pieces: the head, then `length` bytes, then the end. Headers as with respond_with(); stream
     * is copied. status as with respond(), but not 204 or 304. OMID_OK: respond_end() is due; else the exchange is as
     * it was. Of a HEAD request the pieces are taken and go nowhere. */
    int (*respond_begin)(struct omid_exchange *ex, int status, const char *content_type, const char *const *headers,
                         uint64_t length, const struct omid_stream *stream);
    /* Reactor. OMID_EFULL: nothing taken; writable() will follow. OMID_ECLOSED: the client has left; respond_end() is
     * due all the same. OMID_EINVAL: beyond the length. Pieces of at most 256 KiB. */
    int (*respond_data)(struct omid_exchange *ex, const void *data, size_t len);
    /* Reactor. Releases. Before all of it was handed over the client sees a broken answer. */
    void (*respond_end)(struct omid_exchange **ex);

    /* Reactor. What is registered for the uid: its webhooks and the apps that are enabled for it, disabled ones left
     * out. Never NULL but without memory. */
    const struct omid_endpoints *(*endpoints)(struct omid_instance *inst, const char *uid);
    /* Reactor. One of them by its id, for a job that was enqueued for it: n is 1, or 0: it is gone, or disabled. */
    const struct omid_endpoints *(*endpoint_find)(struct omid_instance *inst, const char *id, const char *uid);
    /* Reactor. What endpoints() and endpoint_find() gave is not to be read afterwards. NULL is no fault. */
    void (*endpoints_release)(const struct omid_endpoints **endpoints);
    /* Reactor. What became of an attempt: endpoints that keep failing are disabled by the rules of the contract.
     * status: 0 when there was no answer; text for people, may be NULL. */
    void (*endpoint_report)(struct omid_instance *inst, const char *id, const char *uid,
                            enum omid_delivery_outcome outcome, int status, const char *text);

    /* Reactor. The plugin's own values, in the store: keys of 1 to 512 bytes, values up to 64 KiB. ttl_ms 0: for good.
     * value NULL: removed. cb (may be NULL) when it is on disk: OMID_OK, OMID_EFULL (1,000,000 keys or 256 MiB of keys
     * and values) or OMID_ERR. OMID_EFULL from the call: 4,096 puts and gets of this instance are under way. Calls of
     * an instance take effect in their order. What stop() leaves is done, without its cb. */
    int (*kv_put)(struct omid_instance *inst, const char *key, const void *value, size_t len, int64_t ttl_ms,
                  void (*cb)(void *arg, int result), void *arg);
    /* cb, not within this call: the value, valid until it returns; NULL with OMID_OK: there is none. */
    int (*kv_get)(struct omid_instance *inst, const char *key,
                  void (*cb)(void *arg, int result, const void *value, size_t len), void *arg);

    /* Any thread, from configure() on. The directory for files of this plugin's own: <state_dir>/plugins/<name>. It is
     * made by the first call outside of `omid -t`; NULL: it can't be, and why is logged. Valid as long as the
     * process. */
    const char *(*data_dir)(struct omid_module *mod);

    /* Reactor. All on disk, or none: OMID_OK and the callback follows. n may be 0 with a receipt, and is at most
     * 10,000; all have the same size. */
    int (*jobs_enqueue)(struct omid_instance *inst, const struct omid_job *jobs, size_t n,
                        const struct omid_receipt *receipt, omid_jobs_enqueued_cb cb, void *arg);
    /* Reactor, before job_finish(): what this attempt saw. Kept. A 429, and a 503 with a Retry-After, holds back all
     * jobs of the target for job_finish()'s retry_after_s, and has it asked more slowly from then on. */
    void (*job_attempt)(struct omid_job_run *run, const struct omid_attempt *attempt);
    /* Reactor. After OMID_EFULL: seconds until there is room again, as far as can be told. 1..300. */
    uint32_t (*jobs_retry_after)(struct omid_instance *inst);

    /* Any thread. A move to a fallback: one more of omi_fallback_total{component,from_mode,to_mode,reason,outcome}.
     * Each from a fixed set, [a-z0-9_], at most 32 characters; outcome: "degraded", or "exhausted" when nothing is
     * left. configure(): of those that may come, 0 shows them before the first. */
    void (*fallback)(struct omid_module *mod, const char *component, const char *from_mode, const char *to_mode,
                     const char *reason, const char *outcome, unsigned n);
};

#ifdef __cplusplus
}
#endif
#endif
