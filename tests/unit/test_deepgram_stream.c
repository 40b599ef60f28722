/* Deepgram: one stream against a host that the test plays, its clock included. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deepgram.h"
#include "unit.h"

extern const struct omid_plugin omid_plugin;

/* ------------------------------------------------------------------ the host */

struct omid_counter {
    char name[64];
    uint64_t n;
};
struct omid_timer {
    uint64_t due;
    void (*fn)(void *arg);
    void *arg;
    bool used;
};
struct omid_ws {
    const struct omid_ws_events *events;
    void *arg;
    bool open, released;
};
struct omid_stt {
    int unused;
};

static struct {
    uint64_t now;
    struct omid_counter counter[64];
    unsigned counters;
    struct omid_timer timer[16];
    struct omid_ws ws;
    int connect_rc, send_rc;
    unsigned accept; /* messages to take before send_rc; UINT_MAX: all */
    char url[4096], header[256];
    struct omid_ws_request req;
    char sent[200][32]; /* "B<len>" or the text's type */
    unsigned n_sent;
    uint64_t bytes;
    uint16_t closed_with;
    char log[8192];
    char conf_error[256];
    /* what the plugin told the session */
    unsigned ready, writable, results, ended;
    char text[4096];
    double transcribed;
    enum omid_stt_reason reason;
    char end_text[256];
    void *release_in_result, *release_in_end; /* streams */
    bool timers_fail;
} h;

/* configuration */
static const char *c_url = "http://h", *c_key = "sekrit";
static const char *const *c_terms;
static size_t c_n_terms;
static int64_t c_backoff = 1000;

static void h_log(struct omid_module *mod, enum omid_log_level level, const char *fmt, ...)
{
    size_t at = strlen(h.log);
    va_list ap;
    (void)mod;
    va_start(ap, fmt);
    at += (size_t)snprintf(h.log + at, sizeof(h.log) - at, "%d ", (int)level);
    vsnprintf(h.log + at, sizeof(h.log) - at, fmt, ap);
    va_end(ap);
}

static uint64_t h_now(void)
{
    return h.now;
}

static void h_counter_add(struct omid_counter *c, uint64_t n)
{
    c->n += n;
}

static bool h_conf_bool(struct omid_module *mod, const char *key)
{
    (void)mod;
    CU_ASSERT_STRING_EQUAL_FATAL(key, "single_language");
    return false;
}

/* The default as the option table has it, but for what a test sets. */
static int64_t h_conf_int(struct omid_module *mod, const char *key)
{
    (void)mod;
    if (strcmp(key, "backoff") == 0)
        return c_backoff;
    for (const struct omid_option *o = omid_plugin.options; o->name; o++) {
        char *unit;
        if (strcmp(o->name, key) != 0)
            continue;
        int64_t n = strtol(o->def, &unit, 10);
        n *= strcmp(unit, "s") == 0 ? 1000 : strcmp(unit, "KiB") == 0 ? 1024 : strcmp(unit, "MiB") == 0 ? 1048576 : 1;
        return n;
    }
    CU_FAIL_FATAL("an option that is not in the table");
    return 0;
}

static const char *h_conf_str(struct omid_module *mod, const char *key)
{
    (void)mod;
    return strcmp(key, "url") == 0 ? c_url : c_key;
}

static const char *const *h_conf_list(struct omid_module *mod, const char *key, size_t *n)
{
    (void)mod;
    *n = strcmp(key, "keyterms") == 0 ? c_n_terms : 0;
    return strcmp(key, "keyterms") == 0 ? c_terms : NULL;
}

static void h_conf_error(struct omid_module *mod, const char *key, const char *fmt, ...)
{
    va_list ap;
    (void)mod;
    va_start(ap, fmt);
    int at = snprintf(h.conf_error, sizeof(h.conf_error), "%s: ", key);
    vsnprintf(h.conf_error + at, sizeof(h.conf_error) - (size_t)at, fmt, ap);
    va_end(ap);
}

static struct omid_counter *h_counter(struct omid_module *mod, const char *what, const char *help, const char *label,
                                      const char *value)
{
    (void)mod;
    (void)help;
    struct omid_counter *c = &h.counter[h.counters++];
    snprintf(c->name, sizeof(c->name), "%s%s%s%s%s", what, label ? " " : "", label ? label : "", label ? "=" : "",
             value ? value : "");
    c->n = 0;
    return c;
}

static struct omid_timer *h_timer_start(struct omid_instance *inst, uint32_t delay, uint32_t repeat,
                                        void (*fn)(void *arg), void *arg)
{
    (void)inst;
    CU_ASSERT_EQUAL(repeat, 0);
    for (unsigned i = 0; i < 16 && !h.timers_fail; i++) {
        struct omid_timer *t = &h.timer[i];
        if (t->used)
            continue;
        *t = (struct omid_timer){.due = h.now + delay, .fn = fn, .arg = arg, .used = true};
        return t;
    }
    return NULL;
}

static void h_timer_stop(struct omid_timer **timer)
{
    CU_ASSERT_FATAL(*timer && (*timer)->used);
    (*timer)->used = false;
    *timer = NULL;
}

static int h_ws_connect(struct omid_instance *inst, const struct omid_ws_request *req,
                        const struct omid_ws_events *events, void *arg, struct omid_ws **out)
{
    (void)inst;
    if (h.connect_rc != OMID_OK)
        return h.connect_rc;
    h.req = *req;
    snprintf(h.url, sizeof(h.url), "%s", req->url);
    snprintf(h.header, sizeof(h.header), "%s", req->headers[0]);
    h.ws = (struct omid_ws){.events = events, .arg = arg};
    *out = &h.ws;
    return OMID_OK;
}

static int h_ws_send(struct omid_ws *ws, enum omid_message type, const void *data, size_t len)
{
    CU_ASSERT_FATAL(ws == &h.ws && ws->open && !ws->released);
    if (h.accept == 0)
        return h.send_rc;
    if (h.accept != UINT32_MAX)
        h.accept--;
    CU_ASSERT_FATAL(h.n_sent < 200);
    if (type == OMID_BINARY) {
        CU_ASSERT(len > 0);
        snprintf(h.sent[h.n_sent++], 32, "B%zu", len);
        h.bytes += len;
    } else {
        const char *from = strstr(data, ":\"");
        snprintf(h.sent[h.n_sent++], 32, "%.*s", (int)(len - 11), from + 2);
    }
    return OMID_OK;
}

static void h_ws_close(struct omid_ws *ws, uint16_t code)
{
    CU_ASSERT_FATAL(!ws->released);
    h.closed_with = code;
}

static void h_ws_release(struct omid_ws **ws)
{
    CU_ASSERT_FATAL(*ws == &h.ws && !h.ws.released);
    h.ws.released = true;
    *ws = NULL;
}

static void h_stt_ready(struct omid_stt *stt)
{
    (void)stt;
    h.ready++;
}

static void h_stt_writable(struct omid_stt *stt)
{
    (void)stt;
    h.writable++;
}

static void h_stt_result(struct omid_stt *stt, const struct omid_stt_result *r)
{
    (void)stt;
    h.results++;
    h.transcribed = r->transcribed;
    for (size_t i = 0; i < r->n; i++) {
        strcat(h.text, r->segments[i].text);
        strcat(h.text, "|");
    }
    if (h.release_in_result)
        omid_plugin.stt->release(h.release_in_result);
}

static void h_stt_closed(struct omid_stt *stt, const struct omid_stt_end *end)
{
    (void)stt;
    h.ended++;
    h.reason = end->reason;
    if (h.release_in_end)
        omid_plugin.stt->release(h.release_in_end);
    snprintf(h.end_text, sizeof(h.end_text), "%s", end->text); /* still readable after the release */
}

static const struct omid_host host = {
    .size = sizeof(host),
    .log = h_log,
    .now_ms = h_now,
    .counter_add = h_counter_add,
    .conf_bool = h_conf_bool,
    .conf_int = h_conf_int,
    .conf_str = h_conf_str,
    .conf_list = h_conf_list,
    .conf_error = h_conf_error,
    .counter = h_counter,
    .timer_start = h_timer_start,
    .timer_stop = h_timer_stop,
    .ws_connect = h_ws_connect,
    .ws_send = h_ws_send,
    .ws_close = h_ws_close,
    .ws_release = h_ws_release,
    .stt_ready = h_stt_ready,
    .stt_writable = h_stt_writable,
    .stt_result = h_stt_result,
    .stt_closed = h_stt_closed,
};

static void advance(uint32_t ms)
{
    uint64_t until = h.now + ms;
    for (;;) {
        struct omid_timer *next = NULL;
        for (unsigned i = 0; i < 16; i++) {
            if (h.timer[i].used && h.timer[i].due <= until && (!next || h.timer[i].due < next->due))
                next = &h.timer[i];
        }
        if (!next)
            break;
        h.now = next->due > h.now ? next->due : h.now;
        next->fn(next->arg);
    }
    h.now = until;
}

static unsigned timers(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < 16; i++)
        n += h.timer[i].used;
    return n;
}

static uint64_t counted(const char *name)
{
    for (unsigned i = 0; i < h.counters; i++) {
        if (strcmp(h.counter[i].name, name) == 0)
            return h.counter[i].n;
    }
    CU_FAIL_FATAL("no such counter");
    return 0;
}

/* All that was sent, with blanks between. */
static const char *wire(void)
{
    static char out[8192];
    out[0] = '\0';
    for (unsigned i = 0; i < h.n_sent; i++) {
        strcat(out, i ? " " : "");
        strcat(out, h.sent[i]);
    }
    return out;
}

/* ------------------------------------------------------------------ a stream */

static void *shared, *state, *stream;
static struct omid_stt session;
static int16_t pcm[100000];

static void begin_with(const struct omid_stt_params *params)
{
    memset(&h, 0, sizeof(h));
    h.accept = UINT32_MAX;
    h.now = 1000000;
    CU_ASSERT_EQUAL_FATAL(omid_plugin.configure(NULL, &host, &shared), OMID_OK);
    CU_ASSERT_EQUAL_FATAL(omid_plugin.start(NULL, &host, shared, &state), OMID_OK);
    if (params)
        CU_ASSERT_EQUAL_FATAL(omid_plugin.stt->open(state, params, &session, &stream), OMID_OK);
}

static const struct omid_stt_params params_16k = {.size = sizeof(params_16k),
                                                  .uid = "u",
                                                  .session_id = "s",
                                                  .model = "dg-nova-3",
                                                  .language = "en",
                                                  .sample_rate = 16000};

static void begin(void)
{
    begin_with(&params_16k);
}

static void opened(void)
{
    begin();
    h.ws.open = true;
    h.ws.events->open(h.ws.arg, &h.ws);
    CU_ASSERT_EQUAL_FATAL(h.ready, 1);
}

/* Releases (when not done yet) and looks whether anything is left. */
static void finish(bool release)
{
    if (release)
        omid_plugin.stt->release(stream);
    CU_ASSERT(h.ws.released || !h.ws.events);
    CU_ASSERT_EQUAL(timers(), 0);
    omid_plugin.stop(state);
    omid_plugin.unconfigure(shared);
    CU_ASSERT(strstr(h.log, "sekrit") == NULL);
    CU_ASSERT(strstr(h.end_text, "sekrit") == NULL);
}

static void receive(const char *text)
{
    h.ws.events->message(h.ws.arg, &h.ws, OMID_TEXT, text, strlen(text));
}

static void receive_result(double start, double duration, const char *word)
{
    char text[512];
    snprintf(text, sizeof(text),
             "{\"type\":\"Results\",\"start\":%f,\"duration\":%f,\"is_final\":true,\"channel\":{\"alternatives\":[{"
             "\"transcript\":\"%s\",\"words\":[{\"word\":\"%s\",\"start\":%f,\"end\":%f,\"speaker\":0}]}]}}",
             start, duration, word, word, start, start + duration);
    receive(text);
}

static void peer_ends(enum omid_ws_end end, uint16_t code, int status)
{
    struct omid_ws_close why = {.size = sizeof(why), .end = end, .code = code, .http_status = status, .text = "why"};
    h.ws.open = false;
    h.ws.events->closed(h.ws.arg, &h.ws, &why);
}

static int speak(size_t samples)
{
    return omid_plugin.stt->audio(stream, pcm, samples);
}

static void test_configure(void)
{
    static const char *const empty[] = {""};
    const char *many[101];
    memset(&h, 0, sizeof(h));
    c_url = "ftp://h";
    CU_ASSERT_EQUAL(omid_plugin.configure(NULL, &host, &shared), OMID_EINVAL);
    CU_ASSERT(strncmp(h.conf_error, "url:", 4) == 0);
    c_url = "http://h";
    c_key = "sekrit\r\nX: y";
    CU_ASSERT_EQUAL(omid_plugin.configure(NULL, &host, &shared), OMID_EINVAL);
    CU_ASSERT(strncmp(h.conf_error, "key:", 4) == 0 && !strstr(h.conf_error, "sekrit"));
    c_key = NULL;
    CU_ASSERT_EQUAL(omid_plugin.configure(NULL, &host, &shared), OMID_EINVAL);
    c_key = "sekrit";
    c_terms = empty;
    c_n_terms = 1;
    CU_ASSERT_EQUAL(omid_plugin.configure(NULL, &host, &shared), OMID_EINVAL);
    CU_ASSERT(strncmp(h.conf_error, "keyterms:", 9) == 0);
    for (int i = 0; i < 101; i++)
        many[i] = "word";
    c_terms = many;
    c_n_terms = 101;
    CU_ASSERT_EQUAL(omid_plugin.configure(NULL, &host, &shared), OMID_EINVAL);
    c_n_terms = 0;
    c_backoff = 40000;
    CU_ASSERT_EQUAL(omid_plugin.configure(NULL, &host, &shared), OMID_EINVAL);
    CU_ASSERT(strncmp(h.conf_error, "backoff_max:", 12) == 0);
    c_backoff = 1000;
}

static void test_request(void)
{
    static const char *const terms[] = {"omid"};
    c_terms = terms;
    c_n_terms = 1;
    begin();
    CU_ASSERT_STRING_EQUAL(h.header, "Authorization: Token sekrit");
    CU_ASSERT_EQUAL(h.req.attempts, 3);
    CU_ASSERT_EQUAL(h.req.backoff_ms, 1000);
    CU_ASSERT_EQUAL(h.req.backoff_cap_ms, 32000);
    CU_ASSERT(strstr(h.url, "language=multi&") && strstr(h.url, "filler_words=false") && strstr(h.url, "keyterm=omid"));
    finish(true);
    struct omid_stt_params two = params_16k;
    two.multi_channel = true;
    two.channel = 1;
    begin_with(&two);
    CU_ASSERT(!strstr(h.url, "keyterm"));
    finish(true);
    c_n_terms = 0;
}

static void test_open_refusals(void)
{
    struct omid_stt_params p = params_16k;
    begin_with(NULL);
    CU_ASSERT_EQUAL(omid_plugin.stt->serves(state, "sphinx", "en"), -1);
    CU_ASSERT_EQUAL(omid_plugin.stt->serves(state, "dg-nova-3", "tlh"), 0);
    CU_ASSERT_EQUAL(omid_plugin.stt->serves(state, "dg-nova-3", "en"), 1);
    p.language = "tlh";
    CU_ASSERT_EQUAL(omid_plugin.stt->open(state, &p, &session, &stream), OMID_ENOTSUP);
    p.model = "sphinx";
    CU_ASSERT_EQUAL(omid_plugin.stt->open(state, &p, &session, &stream), OMID_EINVAL);
    h.connect_rc = OMID_EFULL;
    CU_ASSERT_EQUAL(omid_plugin.stt->open(state, &params_16k, &session, &stream), OMID_EFULL);
    CU_ASSERT_EQUAL(h.ended, 0);
    finish(false);
}

static void test_normal(void)
{
    opened();
    CU_ASSERT_EQUAL(speak(16000), OMID_OK);
    CU_ASSERT_EQUAL(speak(0), OMID_OK);
    receive_result(0, 0.5, "one");
    CU_ASSERT_DOUBLE_EQUAL(h.transcribed, 0.5, 1e-6);
    omid_plugin.stt->finalize(stream);
    omid_plugin.stt->close(stream);
    CU_ASSERT_EQUAL(speak(160), OMID_ECLOSED);
    receive_result(0.5, 0.5, "two");
    receive("{\"type\":\"Metadata\"}");
    CU_ASSERT_EQUAL(h.closed_with, 1000);
    CU_ASSERT_EQUAL(h.ended, 0);
    peer_ends(OMID_WS_CLOSED, 1000, 0);
    CU_ASSERT_EQUAL(h.ended, 1);
    CU_ASSERT_EQUAL(h.reason, OMID_STT_DONE);
    CU_ASSERT_STRING_EQUAL(wire(), "B32000 Finalize CloseStream");
    CU_ASSERT_STRING_EQUAL(h.text, "one|two|");
    CU_ASSERT_EQUAL(counted("streams reason=done"), 1);
    CU_ASSERT_EQUAL(counted("finalizes"), 1);
    finish(true);
}

static void test_done_without_metadata(void)
{
    opened();
    omid_plugin.stt->close(stream);
    peer_ends(OMID_WS_CLOSED, 1000, 0);
    CU_ASSERT_EQUAL(h.reason, OMID_STT_DONE);
    finish(true);
    opened();
    omid_plugin.stt->close(stream);
    peer_ends(OMID_WS_CLOSED, 1011, 0);
    CU_ASSERT_EQUAL(h.reason, OMID_STT_LOST);
    finish(true);
    opened();
    omid_plugin.stt->close(stream);
    receive("{\"type\":\"Metadata\"}");
    peer_ends(OMID_WS_LOST, 1006, 0);
    CU_ASSERT_EQUAL(h.reason, OMID_STT_DONE);
    finish(true);
}

static void test_peer_never_closes(void)
{
    opened();
    omid_plugin.stt->close(stream);
    omid_plugin.stt->close(stream);
    advance(9999);
    CU_ASSERT_EQUAL(h.ended, 0);
    receive_result(0, 1, "late");
    advance(1);
    CU_ASSERT_EQUAL(h.ended, 1);
    CU_ASSERT_EQUAL(h.reason, OMID_STT_LOST);
    CU_ASSERT_STRING_EQUAL(h.text, "late|");
    CU_ASSERT(h.ws.released);
    advance(100000);
    CU_ASSERT_EQUAL(h.ended, 1);
    finish(true);
}

static void test_close_while_connecting(void)
{
    begin();
    CU_ASSERT_EQUAL(speak(160), OMID_ECLOSED);
    omid_plugin.stt->finalize(stream);
    omid_plugin.stt->close(stream);
    CU_ASSERT(h.ws.released); /* no further attempt */
    CU_ASSERT_EQUAL(h.ended, 0);
    advance(0);
    CU_ASSERT_EQUAL(h.ended, 1);
    CU_ASSERT_EQUAL(h.reason, OMID_STT_DONE);
    finish(true);
    begin(); /* or the session just goes */
    finish(true);
    begin(); /* or goes between the two */
    omid_plugin.stt->close(stream);
    finish(true);
    CU_ASSERT_EQUAL(h.ended, 0);
}

static void test_ends(void)
{
    static const struct {
        enum omid_ws_end end;
        int status;
        enum omid_stt_reason reason;
        bool config;
    } ends[] = {
        {OMID_WS_REJECTED, 401, OMID_STT_CONFIG, true},  {OMID_WS_REJECTED, 400, OMID_STT_CONFIG, true},
        {OMID_WS_REJECTED, 403, OMID_STT_CONFIG, true},  {OMID_WS_CONNECT, 500, OMID_STT_UNREACHED, false},
        {OMID_WS_CONNECT, 0, OMID_STT_UNREACHED, false}, {OMID_WS_BREAKER, 0, OMID_STT_UNREACHED, false},
        {OMID_WS_FULL, 0, OMID_STT_BUSY, false},
    };
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        begin();
        peer_ends(ends[i].end, 1006, ends[i].status);
        CU_ASSERT_EQUAL(h.ended, 1);
        CU_ASSERT_EQUAL(h.ready, 0);
        CU_ASSERT_EQUAL(h.reason, ends[i].reason);
        CU_ASSERT_EQUAL(strncmp(h.log, "0 configuration:", 16) == 0, ends[i].config);
        finish(true);
    }
    opened();
    peer_ends(OMID_WS_LOST, 1006, 0);
    CU_ASSERT_EQUAL(h.reason, OMID_STT_LOST);
    finish(true);
    opened();
    peer_ends(OMID_WS_CLOSED, 1000, 0); /* before our CloseStream */
    CU_ASSERT_EQUAL(h.reason, OMID_STT_LOST);
    finish(true);
}

static void test_keepalive(void)
{
    opened();
    advance(4999);
    CU_ASSERT_EQUAL(h.n_sent, 0);
    advance(1);
    CU_ASSERT_STRING_EQUAL(wire(), "KeepAlive");
    advance(2000);
    speak(160);
    advance(4999);
    CU_ASSERT_STRING_EQUAL(wire(), "KeepAlive B320");
    advance(1);
    CU_ASSERT_STRING_EQUAL(wire(), "KeepAlive B320 KeepAlive");
    advance(20000);
    CU_ASSERT_EQUAL(counted("keepalives"), 6);
    for (int i = 0; i < 100; i++) { /* never while audio flows */
        speak(1600);
        advance(100);
    }
    CU_ASSERT_EQUAL(counted("keepalives"), 6);
    omid_plugin.stt->close(stream);
    unsigned n = h.n_sent;
    advance(9000);
    CU_ASSERT_EQUAL(h.n_sent, n);
    finish(true);
}

static struct omid_stt_stats stats_of(void *of)
{
    struct omid_stt_stats stats = {.size = sizeof(stats)};
    omid_plugin.stt->stats(of, &stats);
    CU_ASSERT_EQUAL(stats.size, sizeof(stats));
    return stats;
}

/* The gate is shut for hours: one KeepAlive every five seconds, and then audio goes as before. */
static void test_hours_of_silence(void)
{
    opened();
    speak(1600);
    omid_plugin.stt->finalize(stream);
    for (int minute = 1; minute <= 180; minute++) {
        h.n_sent = 0;
        advance(60000);
        CU_ASSERT_EQUAL(h.n_sent, 12);
        CU_ASSERT_EQUAL(stats_of(stream).keepalives, 12 * (unsigned)minute);
    }
    CU_ASSERT_EQUAL(speak(1600), OMID_OK);
    omid_plugin.stt->finalize(stream);
    struct omid_stt_stats stats = stats_of(stream);
    CU_ASSERT_EQUAL(stats.finalizes, 2);
    CU_ASSERT_EQUAL(stats.finalize_errors, 0);
    CU_ASSERT_EQUAL(h.ended, 0);
    omid_plugin.stt->close(stream);
    finish(true);
}

/* What was asked for and never left is told, also when the stream is dead. */
static void test_finalize_errors(void)
{
    opened();
    h.accept = 0;
    h.send_rc = OMID_EFULL;
    omid_plugin.stt->finalize(stream);
    CU_ASSERT_EQUAL(stats_of(stream).finalize_errors, 1); /* as long as it waits */
    h.accept = UINT32_MAX;
    h.ws.events->writable(h.ws.arg, &h.ws);
    CU_ASSERT_EQUAL(stats_of(stream).finalize_errors, 0);
    CU_ASSERT_EQUAL(stats_of(stream).finalizes, 1);
    h.accept = 0;
    h.send_rc = OMID_ECLOSED;
    omid_plugin.stt->finalize(stream); /* fails */
    omid_plugin.stt->finalize(stream); /* too late */
    CU_ASSERT_EQUAL(stats_of(stream).finalizes, 1);
    CU_ASSERT_EQUAL(stats_of(stream).finalize_errors, 2);
    advance(0);
    finish(true);
}

static void test_full(void)
{
    opened();
    h.accept = 1;
    h.send_rc = OMID_EFULL;
    CU_ASSERT_EQUAL(speak(160), OMID_OK);
    CU_ASSERT_EQUAL(speak(160), OMID_EFULL);
    omid_plugin.stt->finalize(stream);
    CU_ASSERT_EQUAL(speak(160), OMID_EFULL);
    h.ws.events->writable(h.ws.arg, &h.ws); /* still no room */
    CU_ASSERT_EQUAL(h.writable, 0);
    h.accept = UINT32_MAX;
    h.ws.events->writable(h.ws.arg, &h.ws);
    CU_ASSERT_EQUAL(h.writable, 1);
    CU_ASSERT_EQUAL(speak(160), OMID_OK);
    CU_ASSERT_STRING_EQUAL(wire(), "B320 Finalize B320");
    h.ws.events->writable(h.ws.arg, &h.ws);
    CU_ASSERT_EQUAL(h.writable, 1); /* told once for each refusal */
    finish(true);
}

/* More than a frame's worth is taken as a whole and sent in pieces, with what follows in order. */
static void test_large_audio(void)
{
    opened();
    h.accept = 2;
    h.send_rc = OMID_EFULL;
    CU_ASSERT_EQUAL(speak(50000), OMID_OK);
    CU_ASSERT_STRING_EQUAL(wire(), "B32768 B32768");
    h.accept = UINT32_MAX; /* room again, but the rest comes first */
    CU_ASSERT_EQUAL(speak(160), OMID_EFULL);
    h.accept = 0;
    omid_plugin.stt->close(stream);
    h.accept = UINT32_MAX;
    h.ws.events->writable(h.ws.arg, &h.ws);
    CU_ASSERT_STRING_EQUAL(wire(), "B32768 B32768 B32768 B1696 CloseStream");
    CU_ASSERT_EQUAL(h.bytes, 100000);
    finish(true);
    opened();
    h.accept = 1;
    h.send_rc = OMID_EFULL;
    CU_ASSERT_EQUAL(speak(50000), OMID_OK);
    finish(true); /* the rest is freed */
    opened();
    h.accept = 0;
    h.send_rc = OMID_EFULL;
    CU_ASSERT_EQUAL(speak(50000), OMID_EFULL); /* none of it */
    CU_ASSERT_EQUAL(h.n_sent, 0);
    finish(true);
}

static void test_send_fails(void)
{
    for (int how = 0; how < 5; how++) {
        opened();
        speak(160);
        h.accept = how == 4 ? 1 : 0;
        h.send_rc = how == 1 ? OMID_ERR : OMID_ECLOSED;
        if (how < 2)
            CU_ASSERT_EQUAL(speak(160), OMID_ECLOSED);
        if (how == 2)
            omid_plugin.stt->finalize(stream);
        if (how == 3)
            omid_plugin.stt->close(stream);
        if (how == 4)
            CU_ASSERT_EQUAL(speak(50000), OMID_ECLOSED); /* in the second piece */
        CU_ASSERT_EQUAL(h.ended, 0);                     /* not within the session's call */
        CU_ASSERT(h.ws.released);
        h.accept = UINT32_MAX; /* once and for all */
        CU_ASSERT_EQUAL(speak(160), OMID_ECLOSED);
        omid_plugin.stt->finalize(stream);
        omid_plugin.stt->close(stream);
        advance(0);
        CU_ASSERT_EQUAL(h.ended, 1);
        CU_ASSERT_EQUAL(h.reason, OMID_STT_LOST);
        advance(60000);
        CU_ASSERT_EQUAL(h.ended, 1);
        finish(true);
    }
    opened(); /* a KeepAlive that fails */
    h.accept = 0;
    h.send_rc = OMID_ECLOSED;
    advance(5000);
    CU_ASSERT_EQUAL(h.ended, 1);
    finish(true);
    opened(); /* what waited fails */
    h.accept = 0;
    h.send_rc = OMID_EFULL;
    speak(160);
    omid_plugin.stt->finalize(stream);
    h.send_rc = OMID_ECLOSED;
    h.ws.events->writable(h.ws.arg, &h.ws);
    CU_ASSERT_EQUAL(h.ended, 1);
    CU_ASSERT_EQUAL(h.writable, 0);
    finish(true);
}

static void test_transcribed(void)
{
    opened();
    speak(32000); /* 2 s */
    receive_result(0.5, 0.5, "second");
    CU_ASSERT_DOUBLE_EQUAL(h.transcribed, 1.0, 1e-6);
    receive_result(0, 0.5, "first"); /* out of order: its words count, the clock stays */
    CU_ASSERT_DOUBLE_EQUAL(h.transcribed, 1.0, 1e-6);
    receive(
        "{\"type\":\"Results\",\"start\":1,\"duration\":0.5,\"channel\":{\"alternatives\":[{\"transcript\":\"\"}]}}");
    CU_ASSERT_EQUAL(h.results, 3);
    CU_ASSERT_DOUBLE_EQUAL(h.transcribed, 1.5, 1e-6);
    receive_result(1, 100000, "boast"); /* nobody can have heard what was not sent */
    CU_ASSERT_DOUBLE_EQUAL(h.transcribed, 2.0, 1e-6);
    CU_ASSERT_STRING_EQUAL(h.text, "second|first|boast|");
    finish(true);
}

static void test_hostile_messages(void)
{
    opened();
    speak(16000);
    receive("{");
    receive("[]");
    receive("{\"type\":\"Results\",\"channel\":7}");
    receive("{\"type\":\"Metadata\"}"); /* nobody has asked for the end */
    receive("{\"type\":\"Error\",\"description\":\"odd\"}");
    receive("{\"type\":\"Novelty\"}");
    h.ws.events->message(h.ws.arg, &h.ws, OMID_BINARY, "\0\1", 2);
    char *big = malloc(2000000);
    CU_ASSERT_PTR_NOT_NULL_FATAL(big);
    memset(big, '[', 2000000);
    h.ws.events->message(h.ws.arg, &h.ws, OMID_TEXT, big, 2000000);
    free(big);
    CU_ASSERT_EQUAL(h.results, 0);
    CU_ASSERT_EQUAL(h.ended, 0);
    CU_ASSERT_EQUAL(counted("messages kind=malformed"), 3);
    CU_ASSERT_EQUAL(counted("messages kind=unknown"), 2);
    CU_ASSERT_EQUAL(counted("messages kind=error"), 1);
    CU_ASSERT_EQUAL(counted("messages kind=too_big"), 1);
    receive_result(0, 1, "alive");
    CU_ASSERT_STRING_EQUAL(h.text, "alive|");
    finish(true);
}

/* The session may let go within any callback. */
static void test_release_within(void)
{
    opened();
    h.release_in_result = stream;
    speak(160);
    receive_result(0, 1, "bye");
    finish(false);
    opened();
    h.release_in_end = stream;
    peer_ends(OMID_WS_LOST, 1006, 0);
    CU_ASSERT_STRING_EQUAL(h.end_text, "why");
    finish(false);
    opened();
    h.release_in_end = stream;
    h.accept = 0;
    h.send_rc = OMID_ECLOSED;
    speak(160);
    advance(0);
    CU_ASSERT_EQUAL(h.ended, 1);
    finish(false);
    opened();
    h.release_in_end = stream;
    omid_plugin.stt->close(stream);
    advance(10000);
    CU_ASSERT_EQUAL(h.ended, 1);
    finish(false);
}

static void test_no_timers(void)
{
    begin();
    h.timers_fail = true;
    h.ws.open = true;
    h.ws.events->open(h.ws.arg, &h.ws);
    CU_ASSERT_EQUAL(h.ready, 1);
    CU_ASSERT_EQUAL(speak(160), OMID_OK);
    omid_plugin.stt->close(stream); /* without a bound it must not wait */
    CU_ASSERT_EQUAL(h.ended, 1);
    finish(true);
}

static void test_left_behind(void)
{
    opened();
    void *left = state;
    omid_plugin.stop(state);
    CU_ASSERT(strstr(h.log, "1 streams") != NULL);
    omid_plugin.stt->release(stream);
    free(left);
    omid_plugin.unconfigure(shared);
}

int main(void)
{
    static const CU_TestInfo tests[] = {{"configure", test_configure},
                                        {"request", test_request},
                                        {"open refused", test_open_refusals},
                                        {"normal", test_normal},
                                        {"done without Metadata", test_done_without_metadata},
                                        {"peer never closes", test_peer_never_closes},
                                        {"close while connecting", test_close_while_connecting},
                                        {"ends", test_ends},
                                        {"KeepAlive", test_keepalive},
                                        {"hours of silence", test_hours_of_silence},
                                        {"Finalize that fails", test_finalize_errors},
                                        {"full", test_full},
                                        {"large audio", test_large_audio},
                                        {"a send fails", test_send_fails},
                                        {"transcribed", test_transcribed},
                                        {"hostile messages", test_hostile_messages},
                                        {"release within a callback", test_release_within},
                                        {"no timers", test_no_timers},
                                        {"left behind", test_left_behind},
                                        CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"stream", NULL, NULL, NULL, NULL, (CU_TestInfo *)tests}, CU_SUITE_INFO_NULL};

    return unit_run(suites);
}
