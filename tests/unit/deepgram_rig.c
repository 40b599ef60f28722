/* See deepgram_rig.h. */
#include "deepgram_rig.h"

#include <CUnit/Basic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ the host */

struct deepgram_host h;

/* configuration */
const char *c_url = "http://h", *c_key = "sekrit";
const char *const *c_terms;
size_t c_n_terms;
int64_t c_backoff = 1000;

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

const struct omid_host host = {
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

void advance(uint32_t ms)
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

unsigned timers(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < 16; i++)
        n += h.timer[i].used;
    return n;
}

uint64_t counted(const char *name)
{
    for (unsigned i = 0; i < h.counters; i++) {
        if (strcmp(h.counter[i].name, name) == 0)
            return h.counter[i].n;
    }
    CU_FAIL_FATAL("no such counter");
    return 0;
}

const char *wire(void)
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

void *shared, *state, *stream;
struct omid_stt session;
static int16_t pcm[100000];

void begin_with(const struct omid_stt_params *params)
{
    memset(&h, 0, sizeof(h));
    h.accept = UINT32_MAX;
    h.now = 1000000;
    CU_ASSERT_EQUAL_FATAL(omid_plugin.configure(NULL, &host, &shared), OMID_OK);
    CU_ASSERT_EQUAL_FATAL(omid_plugin.start(NULL, &host, shared, &state), OMID_OK);
    if (params)
        CU_ASSERT_EQUAL_FATAL(omid_plugin.stt->open(state, params, &session, &stream), OMID_OK);
}

const struct omid_stt_params params_16k = {.size = sizeof(params_16k),
                                           .uid = "u",
                                           .session_id = "s",
                                           .model = "dg-nova-3",
                                           .language = "en",
                                           .sample_rate = 16000};

void begin(void)
{
    begin_with(&params_16k);
}

void opened(void)
{
    begin();
    h.ws.open = true;
    h.ws.events->open(h.ws.arg, &h.ws);
    CU_ASSERT_EQUAL_FATAL(h.ready, 1);
}

void finish(bool release)
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

void receive(const char *text)
{
    h.ws.events->message(h.ws.arg, &h.ws, OMID_TEXT, text, strlen(text));
}

void receive_result(double start, double duration, const char *word)
{
    char text[512];
    snprintf(text, sizeof(text),
             "{\"type\":\"Results\",\"start\":%f,\"duration\":%f,\"is_final\":true,\"channel\":{\"alternatives\":[{"
             "\"transcript\":\"%s\",\"words\":[{\"word\":\"%s\",\"start\":%f,\"end\":%f,\"speaker\":0}]}]}}",
             start, duration, word, word, start, start + duration);
    receive(text);
}

void peer_ends(enum omid_ws_end end, uint16_t code, int status)
{
    struct omid_ws_close why = {.size = sizeof(why), .end = end, .code = code, .http_status = status, .text = "why"};
    h.ws.open = false;
    h.ws.events->closed(h.ws.arg, &h.ws, &why);
}

int speak(size_t samples)
{
    return omid_plugin.stt->audio(stream, pcm, samples);
}
