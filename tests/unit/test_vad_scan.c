/* Recordings searched for speech by the plugin vad: the hosted engine's request and answers, the local engine behind
 * it, and POST /v1/vad. */
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/wav.h"
#include "mock_doors.h"
#include "mock_host.h"
#include "plugins/kit/multipart.h"
#include "plugins/vad/vad.h"
#include "plugins/vad/webrtc.h"
#include "unit.h"

extern const struct omid_plugin omid_plugin;

#define RATE 16000
#define SECONDS 10
#define URL "https://vad.example.com/v1/vad"

static struct mock *m;
static struct omid_instance *inst;
static int16_t pcm[RATE * SECONDS];
static const struct omid_audio audio = {
    .size = sizeof(audio), .pcm = pcm, .samples = RATE * SECONDS, .sample_rate = RATE};

static void begin(const char *url)
{
    m = mock_new(&omid_plugin);
    if (url != NULL) {
        mock_conf(m, "url", url);
        mock_conf(m, "key", "s3cret");
    }
    CU_ASSERT_EQUAL_FATAL(mock_configure(m), OMID_OK);
    inst = mock_start(m);
}

static void end(void)
{
    mock_stop(inst);
    mock_free(&m);
}

static int scan(struct omid_ask *a, const char *engine)
{
    memset(a, 0, sizeof(*a));
    return omid_plugin.vad->scan(mock_state(inst), engine, &audio, a);
}

static void work(void)
{
    while (mock_exec_run(m, true)) {
    }
}

static struct omid_ask a, b;

static void test_request(void)
{
    begin(URL);
    CU_ASSERT_EQUAL(scan(&a, NULL), OMID_OK);
    CU_ASSERT_EQUAL(mock_http_count(m), 0);
    work();
    CU_ASSERT_EQUAL_FATAL(mock_http_count(m), 1);
    const struct mock_http *h = mock_http(m, 0);
    CU_ASSERT_STRING_EQUAL(h->method, "POST");
    CU_ASSERT_STRING_EQUAL(h->url, URL);
    CU_ASSERT_PTR_NOT_NULL(strstr(h->headers, "Authorization: Bearer s3cret\n"));
    CU_ASSERT_PTR_NOT_NULL_FATAL(strstr(h->headers, "Content-Type: multipart/form-data; boundary="));
    struct vad_audio sent;
    struct kit_fault f = {""};
    int status;
    char type[128];
    snprintf(type, sizeof(type), "%s", strstr(h->headers, "multipart/"));
    type[strcspn(type, "\n")] = '\0';
    CU_ASSERT_TRUE_FATAL(vad_decode(&sent, type, h->body, h->body_len, &status, &f));
    CU_ASSERT_EQUAL(sent.rate, RATE);
    CU_ASSERT_TRUE(sent.samples == audio.samples && memcmp(sent.pcm, pcm, sizeof(pcm)) == 0);
    free(sent.pcm);
    mock_http_answer(
        m, 0, 200, "[{\"start\":0.5,\"end\":2.25,\"duration\":1.75},{\"start\":3,\"end\":4,\"duration\":1,\"x\":[]}]");
    CU_ASSERT_TRUE(a.answers == 1 && a.result == OMID_OK && a.n_intervals == 2);
    CU_ASSERT_STRING_EQUAL(a.mode, "hosted");
    CU_ASSERT_TRUE(a.intervals[0].start == 0.5 && a.intervals[0].end == 2.25 && a.intervals[1].start == 3);
    scan(&a, "hosted");
    work();
    mock_http_answer(m, 1, 200, "[]");
    CU_ASSERT_TRUE(a.answers == 1 && a.result == OMID_OK && a.n_intervals == 0);
    CU_ASSERT_EQUAL(mock_count(m, "scans", "hosted"), 2);
    CU_ASSERT_EQUAL(mock_count(m, "requests", "ok"), 2);
    end();
}

static void test_local(void)
{
    begin(URL);
    CU_ASSERT_EQUAL(scan(&a, "local"), OMID_OK);
    work();
    CU_ASSERT_EQUAL(mock_http_count(m), 0);
    CU_ASSERT_TRUE(a.answers == 1 && a.result == OMID_OK && a.n_intervals == 0);
    CU_ASSERT_STRING_EQUAL(a.mode, "local");
    CU_ASSERT_EQUAL(scan(&a, "other"), OMID_EINVAL);
    end();
    begin(NULL);
    CU_ASSERT_EQUAL(scan(&a, "hosted"), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(scan(&a, NULL), OMID_OK);
    work();
    CU_ASSERT_STRING_EQUAL(a.mode, "local");
    end();
    m = mock_new(&omid_plugin);
    mock_conf(m, "url", URL);
    mock_conf(m, "engine", "local");
    CU_ASSERT_EQUAL_FATAL(mock_configure(m), OMID_OK);
    inst = mock_start(m);
    scan(&a, NULL);
    work();
    CU_ASSERT_STRING_EQUAL(a.mode, "local");
    end();
}

/* The local engine takes over, and it is counted; whoever asked for the hosted one is told. */
static void falls_back(const struct omid_http_response *res, const char *reason, const char *text)
{
    char move[64];
    snprintf(move, sizeof(move), "vad hosted local %s degraded", reason);
    unsigned moves = mock_fallbacks(move);
    size_t n = mock_http_count(m);
    scan(&a, NULL);
    scan(&b, "hosted");
    work();
    CU_ASSERT_EQUAL_FATAL(mock_http_count(m), n + 2);
    mock_http_respond(m, n, res);
    mock_http_respond(m, n + 1, res);
    CU_ASSERT_EQUAL(a.answers, 0);
    work();
    CU_ASSERT_TRUE(a.answers == 1 && a.result == OMID_OK);
    CU_ASSERT_STRING_EQUAL(a.mode, "local");
    CU_ASSERT_TRUE(b.answers == 1 && b.result != OMID_OK);
    CU_ASSERT_EQUAL(mock_fallbacks(move), moves + 1);
    if (strstr(b.text, text) == NULL)
        fprintf(stderr, "%s\n  expected: %s\n  found:    %s\n", res->body, text, b.text);
    CU_ASSERT_PTR_NOT_NULL(strstr(b.text, text));
    CU_ASSERT_PTR_NULL(strstr(b.text, "s3cret"));
}

static void answer_falls_back(int status, const char *body, const char *reason, const char *text)
{
    const struct omid_http_response res = {
        .size = sizeof(res), .error_text = "", .status = status, .body = body, .body_len = strlen(body)};
    falls_back(&res, reason, text);
}

static void test_fallback(void)
{
    static const char *const bad[][2] = {
        {"", "it is empty"},
        {"<html>", "no JSON"},
        {"{}", "expected an array, found an object"},
        {"[[0,1]]", "[0]: expected an object, found an array"},
        {"[{\"start\":0}]", "[0].end: expected a number, found nothing"},
        {"[{\"start\":\"0\",\"end\":1}]", "[0].start: expected a number, found a string"},
        {"[{\"start\":0,\"end\":NaN}]", "no JSON"},
        {"[{\"start\":0,\"end\":1e999}]", "[0].end: a number beyond all bounds"},
        {"[{\"start\":-1,\"end\":1}]", "[0]: from -1 to 1 s"},
        {"[{\"start\":2,\"end\":1}]", "[0]: from 2 to 1 s"},
        {"[{\"start\":0,\"end\":1},{\"start\":9,\"end\":11}]", "[1]: ends at 11 s, and the audio at 10 s"},
    };
    begin(URL);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        answer_falls_back(200, bad[i][0], "bad_answer", bad[i][1]);
    answer_falls_back(401, "[]", "refused", "HTTP status 401");
    answer_falls_back(413, "[]", "refused", "HTTP status 413");
    answer_falls_back(429, "[]", "busy", "HTTP status 429");
    answer_falls_back(500, "[]", "server", "HTTP status 500");
    const struct omid_http_response cut = {
        .size = sizeof(cut), .error_text = "", .status = 200, .body = "[]", .body_len = 2, .truncated = true};
    falls_back(&cut, "bad_answer", "more than 2 bytes");
    static const struct {
        enum omid_http_error error;
        const char *reason;
    } errors[] = {{OMID_HTTP_TIMEOUT, "timeout"}, {OMID_HTTP_CONNECT, "unreached"}, {OMID_HTTP_RESET, "unreached"},
                  {OMID_HTTP_BREAKER, "busy"},    {OMID_HTTP_FULL, "busy"},         {OMID_HTTP_PROTOCOL, "bad_answer"}};
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        const struct omid_http_response res = {
            .size = sizeof(res), .error = errors[i].error, .error_text = "it failed", .body = ""};
        falls_back(&res, errors[i].reason, "it failed");
    }
    mock_http_refuse(m, OMID_EFULL);
    scan(&a, NULL);
    work();
    CU_ASSERT_TRUE(a.answers == 1 && a.result == OMID_OK);
    mock_http_refuse(m, OMID_OK);
    /* Nothing is left. */
    scan(&a, NULL);
    work();
    mock_exec_mode(m, MOCK_EXEC_FULL);
    mock_http_answer(m, mock_http_count(m) - 1, 500, "");
    CU_ASSERT_TRUE(a.answers == 1 && a.result == OMID_EFULL);
    CU_ASSERT_EQUAL(mock_fallbacks("vad hosted local server exhausted"), 1);
    end();
}

static void mended(const char *json, const char *expected)
{
    struct vad_intervals l = {0};
    struct kit_fault f = {""};
    struct kit_text t = {0};
    CU_ASSERT_TRUE(vad_intervals_read(&l, json, strlen(json), 10, &f));
    vad_intervals_write(&t, &l);
    CU_ASSERT_STRING_EQUAL(t.data, expected);
    kit_text_free(&t);
    vad_intervals_free(&l);
}

static void test_mend(void)
{
    mended("[]", "[]");
    mended("[{\"start\":5,\"end\":6},{\"start\":1,\"end\":2}]",
           "[{\"start\":1.000,\"end\":2.000,\"duration\":1.000},{\"start\":5.000,\"end\":6.000,\"duration\":1.000}]");
    mended("[{\"start\":1,\"end\":5},{\"start\":2,\"end\":3},{\"start\":5,\"end\":6}]",
           "[{\"start\":1.000,\"end\":6.000,\"duration\":5.000}]");
    mended("[{\"start\":1,\"end\":1},{\"start\":10.2,\"end\":10.4},{\"start\":9,\"end\":10.4}]",
           "[{\"start\":9.000,\"end\":10.000,\"duration\":1.000}]");
    struct kit_text many = {0};
    kit_text_adds(&many, "[");
    for (int i = 0; i <= VAD_MAX_INTERVALS; i++)
        kit_text_addf(&many, "%s{\"start\":1,\"end\":2}", i > 0 ? "," : "");
    kit_text_adds(&many, "]");
    struct vad_intervals l = {0};
    struct kit_fault f = {""};
    CU_ASSERT_FALSE(vad_intervals_read(&l, many.data, many.len, 10, &f));
    CU_ASSERT_STRING_EQUAL(f.text, "50001 intervals, more than 50000");
    kit_text_free(&many);
}

/* At every stage: told, nothing is left. */
static void test_stop(void)
{
    for (int stage = 0; stage < 4; stage++) {
        begin(URL);
        scan(&a, NULL);
        if (stage > 0)
            mock_exec_run(m, true);
        if (stage > 1)
            mock_http_answer(m, 0, 500, "");
        if (stage > 2)
            CU_ASSERT_TRUE(mock_exec_run(m, false));
        while (mock_exec_run(m, false)) { /* what has not run is over before the stop */
        }
        mock_stop(inst);
        CU_ASSERT_TRUE(a.answers == 1 && a.result == OMID_ECLOSED);
        mock_free(&m);
    }
}

/* The detector, held within a frame when `held` says so. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool held, entered;
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

int WebRtcVad_Process(VadInst *vad, int rate, const int16_t *frame, size_t samples)
{
    static int (*real)(VadInst *, int, const int16_t *, size_t);
    pthread_mutex_lock(&gate.lock);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "WebRtcVad_Process");
    gate.entered = true;
    pthread_cond_broadcast(&gate.changed);
    while (gate.held)
        pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
    return real(vad, rate, frame, samples);
}

static void gate_set(bool held)
{
    pthread_mutex_lock(&gate.lock);
    gate.held = held;
    gate.entered = false;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
}

static void *run_taken(void *arg)
{
    const struct omid_work *w = arg;
    w->run(w->arg);
    return NULL;
}

/* A scan that does not end before the daemon does: told at the stop, and the thread, which goes on for as long as it
 * likes, frees what it works on and touches nothing of the plugin's. */
static void test_abandoned(void)
{
    pthread_t thread;
    begin(NULL);
    CU_ASSERT_EQUAL(scan(&a, NULL), OMID_OK);
    CU_ASSERT_TRUE(mock_exec_run(m, true)); /* prepared */
    struct omid_work taken = mock_exec_take(m);
    CU_ASSERT_STRING_EQUAL(taken.label, "scan");
    gate_set(true);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, run_taken, &taken), 0);
    pthread_mutex_lock(&gate.lock);
    while (!gate.entered)
        pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
    mock_stop(inst);
    CU_ASSERT_TRUE(a.answers == 1 && a.result == OMID_ECLOSED);
    mock_free(&m);
    gate_set(false);
    pthread_join(thread, NULL);
    CU_ASSERT_EQUAL(a.answers, 1);
}

static void test_bounds(void)
{
    struct omid_ask many[33];
    begin(NULL);
    for (int i = 0; i < 32; i++)
        CU_ASSERT_EQUAL(scan(&many[i], NULL), OMID_OK);
    CU_ASSERT_EQUAL(scan(&many[32], NULL), OMID_EFULL);
    CU_ASSERT_EQUAL(mock_count(m, "scans_refused", NULL), 1);
    work();
    CU_ASSERT_EQUAL(scan(&many[32], NULL), OMID_OK);
    work();
    for (int i = 0; i < 33; i++)
        CU_ASSERT_EQUAL(many[i].answers, 1);
    struct omid_audio odd = audio;
    memset(&a, 0, sizeof(a));
    odd.samples = 0;
    CU_ASSERT_EQUAL(omid_plugin.vad->scan(mock_state(inst), NULL, &odd, &a), OMID_EINVAL);
    odd = audio;
    odd.sample_rate = 96000;
    CU_ASSERT_EQUAL(omid_plugin.vad->scan(mock_state(inst), NULL, &odd, &a), OMID_EINVAL);
    end();
}

/* ---- the route ---- */

static struct omid_exchange ex;

static void post(const char *query, const char *type, const void *body, size_t len)
{
    const struct omid_request req = {.size = sizeof(req),
                                     .method = "POST",
                                     .path = "/v1/vad",
                                     .query = query,
                                     .uid = "u",
                                     .content_type = type,
                                     .body = body,
                                     .body_len = len};
    memset(&ex, 0, sizeof(ex));
    CU_ASSERT_EQUAL(mock_request(mock_state(inst), "POST", "/v1/vad", &req, &ex), OMID_OK);
    work();
}

static void refused(int status, const char *text)
{
    CU_ASSERT_EQUAL(ex.responses, 1);
    CU_ASSERT_EQUAL(ex.status, status);
    if (strstr(ex.body, text) == NULL)
        fprintf(stderr, "expected: %s\nfound:    %s\n", text, ex.body);
    CU_ASSERT_PTR_NOT_NULL(strstr(ex.body, text));
}

static void put_le(unsigned char *p, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (unsigned char)(v >> (8 * i));
}

/* Silence. */
static unsigned char *wav(unsigned format, unsigned channels, unsigned rate, unsigned bits, size_t frames, size_t *len)
{
    size_t bytes = frames * channels * bits / 8;
    *len = 44 + bytes;
    unsigned char *out = calloc(*len + 1, 1);
    memcpy(out, "RIFF....WAVEfmt ", 16);
    put_le(out + 4, 36 + bytes, 4);
    put_le(out + 16, 16, 4);
    put_le(out + 20, format, 2);
    put_le(out + 22, channels, 2);
    put_le(out + 24, rate, 4);
    put_le(out + 28, (uint64_t)rate * channels * bits / 8, 4);
    put_le(out + 32, channels * bits / 8, 2);
    put_le(out + 34, bits, 2);
    memcpy(out + 36, "data", 4);
    put_le(out + 40, bytes, 4);
    if (bits == 8)
        memset(out + 44, 0x80, bytes);
    return out;
}

static void test_route(void)
{
    static const struct {
        unsigned format, channels, rate, bits;
        size_t frames;
        const char *refused;
    } files[] = {
        {1, 1, 16000, 16, 1, NULL},       {1, 2, 44100, 16, 44100, NULL},     {1, 1, 192000, 24, 192000, NULL},
        {3, 1, 96000, 32, 9600, NULL},    {3, 64, 8000, 64, 800, NULL},       {1, 1, 8000, 8, 8000, NULL},
        {1, 1, 11025, 32, 1, NULL},       {1, 1, 16000, 16, 0, "no samples"}, {1, 1, 7999, 16, 10, "7999 Hz"},
        {1, 1, 192001, 16, 10, "192001"}, {7, 1, 8000, 8, 10, "format 7"},    {1, 1, 8000, 12, 10, "12 bits"},
    };
    begin(NULL);
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        size_t len;
        unsigned char *file =
            wav(files[i].format, files[i].channels, files[i].rate, files[i].bits, files[i].frames, &len);
        post("", "audio/wav", file, len);
        if (files[i].refused != NULL) {
            refused(400, files[i].refused);
        } else {
            CU_ASSERT_EQUAL(ex.status, 200);
            CU_ASSERT_STRING_EQUAL(ex.body, "[]");
            CU_ASSERT_STRING_EQUAL(ex.content_type, "application/json");
            CU_ASSERT_STRING_EQUAL(ex.headers, "Omid-Engine: local\n");
        }
        free(file);
    }
    size_t len;
    unsigned char *file = wav(1, 1, 16000, 16, 1600, &len);
    post("", "audio/wav", file, len - 1);
    refused(400, "promises more audio");
    post("", "audio/wav", file, 20);
    refused(400, "WAV");
    post("", "audio/wav", "", 0);
    refused(400, "WAV: not a RIFF file");
    post("", "text/plain", file, len);
    refused(415, "expected audio/wav or multipart/form-data");
    post("", "", file, len);
    refused(415, "Content-Type");
    post("", "Audio/X-WAV; x=y", file, len);
    CU_ASSERT_EQUAL(ex.status, 200);
    post("engine=hosted", "audio/wav", file, len);
    refused(400, "engine: there is no hosted one here");
    post("a=b&engine=both", "audio/wav", file, len);
    refused(400, "engine: expected hosted or local");
    post("a=b&engine=local&c", "audio/wav", file, len);
    CU_ASSERT_EQUAL(ex.status, 200);
    struct kit_multipart body;
    char type[128];
    for (int named = 0; named < 2; named++) {
        kit_multipart_begin(&body, "b");
        kit_multipart_field(&body, "note", "x");
        memcpy(kit_multipart_file(&body, named ? "file" : "other", "../../etc/passwd", "audio/wav", len), file, len);
        CU_ASSERT_TRUE(kit_multipart_end(&body));
        kit_multipart_header(&body, type, sizeof(type));
        post("", type + 14, body.data, body.len);
        if (named)
            CU_ASSERT_EQUAL(ex.status, 200)
        else
            refused(400, "file: expected a part of this name, found none");
        post("", type + 14, body.data, body.len - 8);
        refused(400, "part 2: it has no end");
        kit_multipart_free(&body);
    }
    mock_exec_mode(m, MOCK_EXEC_FULL);
    post("", "audio/wav", file, len);
    refused(503, "try again later");
    end();
    m = mock_new(&omid_plugin);
    mock_conf(m, "max_upload", "1024B");
    CU_ASSERT_EQUAL_FATAL(mock_configure(m), OMID_OK);
    inst = mock_start(m);
    post("", "audio/wav", file, len);
    refused(413, "max_upload");
    end();
    free(file);
}

static void test_route_hosted(void)
{
    size_t len;
    unsigned char *file = wav(1, 2, 96000, 16, 96000, &len);
    begin(URL);
    post("", "audio/wav", file, len);
    CU_ASSERT_EQUAL(ex.responses, 0);
    mock_http_answer(m, 0, 200, "[{\"start\":0.1,\"end\":0.2,\"duration\":0.1}]");
    CU_ASSERT_EQUAL(ex.status, 200);
    CU_ASSERT_STRING_EQUAL(ex.body, "[{\"start\":0.100,\"end\":0.200,\"duration\":0.100}]");
    CU_ASSERT_STRING_EQUAL(ex.headers, "Omid-Engine: hosted\n");
    post("engine=hosted", "audio/wav", file, len);
    mock_http_answer(m, 1, 500, "");
    refused(502, "the hosted engine: HTTP status 500");
    post("engine=hosted", "audio/wav", file, len);
    mock_http_fail(m, 2, OMID_HTTP_FULL);
    refused(503, "the hosted engine");
    post("", "audio/wav", file, len);
    mock_http_fail(m, 3, OMID_HTTP_TIMEOUT);
    work();
    CU_ASSERT_STRING_EQUAL(ex.headers, "Omid-Engine: local\n");
    post("", "audio/wav", file, len);
    mock_stop(inst);
    refused(503, "going away");
    mock_free(&m);
    free(file);
}

/* ---- real speech ---- */

#define GOFORWARD "/usr/share/pocketsphinx/test/data/goforward.raw"

static void test_speech(void)
{
    FILE *f = fopen(GOFORWARD, "rb");
    if (f == NULL)
        return;
    size_t n = fread(pcm + 4 * RATE, 2, 3 * RATE, f), from = 0, to = 0;
    fclose(f);
    for (size_t i = 4 * RATE; i < 4 * RATE + n; i++) {
        if (abs(pcm[i]) < 2000)
            continue;
        from = from == 0 ? i : from;
        to = i;
    }
    begin(NULL);
    scan(&a, NULL);
    work();
    CU_ASSERT_TRUE(a.result == OMID_OK && a.n_intervals >= 1);
    const double first = a.intervals[0].start, last = a.intervals[a.n_intervals - 1].end;
    CU_ASSERT_TRUE(fabs(first - (double)from / RATE) < 0.5);
    CU_ASSERT_TRUE(fabs(last - (double)to / RATE) < 0.5);
    end();
    memset(pcm, 0, sizeof(pcm));
}

/* An hour, in its pieces; each a work of its own. */
static void test_long(void)
{
    const size_t samples = 8000u * 3600;
    int16_t *hour = calloc(samples, 2);
    const struct omid_audio all = {.size = sizeof(all), .pcm = hour, .samples = samples, .sample_rate = 8000};
    begin(NULL);
    memset(&a, 0, sizeof(a));
    CU_ASSERT_EQUAL(omid_plugin.vad->scan(mock_state(inst), NULL, &all, &a), OMID_OK);
    free(hour);
    unsigned pieces = 0;
    while (mock_exec_run(m, true))
        pieces++;
    CU_ASSERT_EQUAL(pieces, 1 + 6);
    CU_ASSERT_TRUE(a.answers == 1 && a.result == OMID_OK && a.n_intervals == 0);
    end();
}

static void test_configuration(void)
{
    static const char *const bad[][2] = {{"url", "example.com"}, {"url", "http://x/?k=v"}, {"key", "a b"}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const char *key, *text;
        m = mock_new(&omid_plugin);
        mock_conf(m, bad[i][0], bad[i][1]);
        CU_ASSERT_EQUAL(mock_configure(m), OMID_EINVAL);
        CU_ASSERT_EQUAL(mock_conf_errors(m, &key, &text), 1);
        CU_ASSERT_STRING_EQUAL(key, bad[i][0]);
        mock_free(&m);
    }
}

int main(void)
{
    static CU_TestInfo tests[] = {{"the hosted engine's request", test_request},
                                  {"the local engine", test_local},
                                  {"from hosted to local", test_fallback},
                                  {"intervals are mended", test_mend},
                                  {"stopped at every stage", test_stop},
                                  {"abandoned at the stop", test_abandoned},
                                  {"bounds", test_bounds},
                                  {"POST /v1/vad", test_route},
                                  {"POST /v1/vad, hosted", test_route_hosted},
                                  {"real speech", test_speech},
                                  {"an hour", test_long},
                                  {"configuration", test_configuration},
                                  CU_TEST_INFO_NULL};
    static CU_SuiteInfo suites[] = {{"vad scan", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
