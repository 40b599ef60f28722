/* Options, counters and the descriptor. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deepgram.h"

static const struct omid_option options[] = {
    {.name = "url",
     .type = OMID_OPT_STRING,
     .def = "https://api.deepgram.com",
     .min = 1,
     .max = 2048,
     .help = "Base URL of Deepgram or of a self-hosted server; http becomes ws, https becomes wss, and /v1/listen is "
             "appended."},
    {.name = "key",
     .type = OMID_OPT_SECRET,
     .flags = OMID_OPT_REQUIRED,
     .help = "API key, sent as Authorization: Token. Best given as key_file or in the environment."},
    {.name = "keyterms",
     .type = OMID_OPT_LIST,
     .min = 0,
     .max = DG_MAX_KEYTERMS,
     .help = "Words and names to listen for: keyterm for nova-3, keywords for nova-2. Not sent for the streams of a "
             "multi-channel session."},
    {.name = "single_language",
     .type = OMID_OPT_BOOL,
     .def = "false",
     .help = "Ask nova-3 for the client's language itself, also where its multilingual model serves it."},
    {.name = "languages",
     .type = OMID_OPT_LIST,
     .min = 0,
     .max = 64,
     .help = "Language codes that the server knows beyond the built-in table; asked for as written."},
    {.name = "connect_attempts",
     .type = OMID_OPT_INT,
     .def = "3",
     .min = 1,
     .max = 10,
     .help = "Connects in one sequence before the stream counts as unreachable."},
    {.name = "backoff",
     .type = OMID_OPT_DURATION,
     .def = "1s",
     .min = 1,
     .max = 60000,
     .help = "Base of the pause between two connects: 2^n times this, plus up to this much at random."},
    {.name = "backoff_max",
     .type = OMID_OPT_DURATION,
     .def = "32s",
     .min = 1,
     .max = 600000,
     .help = "Longest pause between two connects."},
    {.name = "keepalive",
     .type = OMID_OPT_DURATION,
     .def = "5s",
     .min = 10,
     .max = 9000,
     .help = "KeepAlive is sent after this long without audio; the provider gives up after 10s."},
    {.name = "close_timeout",
     .type = OMID_OPT_DURATION,
     .def = "10s",
     .min = 10,
     .max = 60000,
     .help = "How long the remaining results are waited for after CloseStream."},
    {.name = "max_result",
     .type = OMID_OPT_SIZE,
     .def = "1MiB",
     .min = 1024,
     .max = 4194304,
     .help = "A larger message of the provider is ignored and counted."},
    {.name = "send_buffer",
     .type = OMID_OPT_SIZE,
     .def = "64KiB",
     .min = 65536,
     .max = 16777216,
     .help = "Audio that may wait for a slow connection, per stream; beyond it the session is slowed down."},
    {.name = NULL},
};

static const struct omid_lane_defaults lane = {
    .pool = 8,
    .idle = 4,
    .semaphore = 8,
    .streams = 4096,
    .connect_timeout_ms = 5000,
    .timeout_ms = 300000,
    .breaker_failures = 3,
    .breaker_open_ms = 30000,
};

static void dg_unconfigure(void *shared)
{
    struct dg_shared *sh = shared;
    if (!sh)
        return;
    free(sh->endpoint);
    if (sh->authorization)
        explicit_bzero(sh->authorization, strlen(sh->authorization));
    free(sh->authorization);
    free(sh);
}

/* true: fit for a header line or a query. */
static bool is_clean(const char *s)
{
    for (; *s; s++) {
        if ((unsigned char)*s < ' ' || (unsigned char)*s == 0x7f)
            return false;
    }
    return true;
}

static int read_key(struct dg_shared *sh)
{
    const char *key = sh->host->conf_str(sh->mod, "key");
    if (!key || !*key) {
        sh->host->conf_error(sh->mod, "key", "expected Deepgram's API key, found none");
        return OMID_EINVAL;
    }
    for (const char *p = key; *p; p++) {
        if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f) {
            sh->host->conf_error(sh->mod, "key", "expected printable ASCII without blanks, found another character");
            return OMID_EINVAL;
        }
    }
    size_t size = sizeof("Authorization: Token ") + strlen(key);
    sh->authorization = malloc(size);
    if (!sh->authorization)
        return OMID_ERR;
    snprintf(sh->authorization, size, "Authorization: Token %s", key);
    sh->headers[0] = sh->authorization;
    return OMID_OK;
}

static int read_lists(struct dg_shared *sh)
{
    sh->keyterms = sh->host->conf_list(sh->mod, "keyterms", &sh->n_keyterms);
    if (sh->n_keyterms > DG_MAX_KEYTERMS) {
        sh->host->conf_error(sh->mod, "keyterms", "expected at most %d, found %zu", DG_MAX_KEYTERMS, sh->n_keyterms);
        return OMID_EINVAL;
    }
    for (size_t i = 0; i < sh->n_keyterms; i++) {
        size_t len = strlen(sh->keyterms[i]);
        if (len == 0 || len > DG_MAX_KEYTERM || !is_clean(sh->keyterms[i])) {
            sh->host->conf_error(sh->mod, "keyterms",
                                 "number %zu: expected 1 to %d bytes without control characters, found %zu bytes",
                                 i + 1, DG_MAX_KEYTERM, len);
            return OMID_EINVAL;
        }
    }
    sh->languages.extra = sh->host->conf_list(sh->mod, "languages", &sh->languages.n);
    for (size_t i = 0; i < sh->languages.n; i++) {
        const char *code = sh->languages.extra[i];
        size_t ok = strspn(code, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-");
        if (ok == 0 || ok > 35 || code[ok] != '\0') {
            sh->host->conf_error(sh->mod, "languages",
                                 "expected a language code such as \"de\" or \"pt-BR\", found \"%s\"", code);
            return OMID_EINVAL;
        }
    }
    return OMID_OK;
}

static bool add_counters(struct dg_shared *sh)
{
    static const char *const kinds[DG_KINDS] = {
        [DG_RESULTS] = "results",
        [DG_INTERIM] = "interim",
        [DG_METADATA] = "metadata",
        [DG_SPEECH_STARTED] = "speech_started",
        [DG_UTTERANCE_END] = "utterance_end",
        [DG_ERROR] = "error",
        [DG_UNKNOWN] = "unknown",
        [DG_MALFORMED] = "malformed",
        [DG_TOO_BIG] = "too_big",
    };
    static const char *const reasons[OMID_STT_INTERNAL + 1] = {
        [OMID_STT_DONE] = "done",           [OMID_STT_BUSY] = "busy", [OMID_STT_CONFIG] = "config",
        [OMID_STT_UNREACHED] = "unreached", [OMID_STT_LOST] = "lost", [OMID_STT_INTERNAL] = "internal",
    };
    const struct omid_host *h = sh->host;
    bool all = true;
    for (int i = 0; i < DG_KINDS; i++) {
        sh->messages[i] = h->counter(sh->mod, "messages", "Messages received from Deepgram.", "kind", kinds[i]);
        all = all && sh->messages[i];
    }
    for (int i = 0; i <= OMID_STT_INTERNAL; i++) {
        sh->ends[i] = h->counter(sh->mod, "streams", "Streams that have ended.", "reason", reasons[i]);
        all = all && sh->ends[i];
    }
    sh->bad_values =
        h->counter(sh->mod, "bad_values", "Words and values of results that were of no use and left out.", NULL, NULL);
    sh->keepalives = h->counter(sh->mod, "keepalives", "KeepAlive messages sent.", NULL, NULL);
    sh->finalizes = h->counter(sh->mod, "finalizes", "Finalize messages sent.", NULL, NULL);
    return all && sh->bad_values && sh->keepalives && sh->finalizes;
}

static int read_settings(struct dg_shared *sh)
{
    const struct omid_host *h = sh->host;
    char err[128];

    sh->endpoint = dg_endpoint(h->conf_str(sh->mod, "url"), err, sizeof(err));
    if (!sh->endpoint) {
        h->conf_error(sh->mod, "url", "%s", err);
        return OMID_EINVAL;
    }
    sh->languages.single = h->conf_bool(sh->mod, "single_language");
    sh->attempts = (unsigned)h->conf_int(sh->mod, "connect_attempts");
    sh->backoff_ms = (uint32_t)h->conf_int(sh->mod, "backoff");
    sh->backoff_cap_ms = (uint32_t)h->conf_int(sh->mod, "backoff_max");
    sh->keepalive_ms = (uint32_t)h->conf_int(sh->mod, "keepalive");
    sh->close_timeout_ms = (uint32_t)h->conf_int(sh->mod, "close_timeout");
    sh->max_result = (size_t)h->conf_int(sh->mod, "max_result");
    sh->send_buffer = (size_t)h->conf_int(sh->mod, "send_buffer");
    if (sh->backoff_cap_ms < sh->backoff_ms) {
        h->conf_error(sh->mod, "backoff_max", "expected at least backoff (%u ms), found %u ms", sh->backoff_ms,
                      sh->backoff_cap_ms);
        return OMID_EINVAL;
    }
    int rc = read_key(sh);
    return rc == OMID_OK ? read_lists(sh) : rc;
}

static int dg_configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    struct dg_shared *sh = calloc(1, sizeof(*sh));
    if (!sh)
        return OMID_ERR;
    sh->mod = mod;
    sh->host = host;
    int rc = read_settings(sh);
    if (rc == OMID_OK && !add_counters(sh)) {
        host->log(mod, OMID_LOG_ERROR, "no room for the plugin's counters");
        rc = OMID_ERR;
    }
    if (rc != OMID_OK) {
        dg_unconfigure(sh);
        return rc;
    }
    *shared = sh;
    return OMID_OK;
}

static int dg_start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    struct dg_instance *in = calloc(1, sizeof(*in));
    if (!in)
        return OMID_ERR;
    in->inst = inst;
    in->host = host;
    in->shared = shared;
    *state = in;
    return OMID_OK;
}

/* Questions that somebody still waits for hold up a stop, by the host; a request for the others does not. */
static void dg_drain(void *state)
{
    const struct dg_instance *in = state;
    in->host->drained(in->inst);
}

static void dg_stop(void *state)
{
    struct dg_instance *in = state;
    dg_recordings_stop(in);
    if (in->streams > 0) { /* their sessions still point to the instance: rather lost than used after free */
        in->host->log(in->shared->mod, OMID_LOG_ERROR, "stopped with %zu streams that no session has released",
                      in->streams);
        return;
    }
    free(in);
}

static int dg_serves(void *state, const char *model, const char *language)
{
    const struct dg_instance *in = state;
    enum dg_model m;
    if (!dg_model_find(model, &m))
        return -1;
    return dg_language_map(m, language, &in->shared->languages) ? 1 : 0;
}

static const struct omid_stt_role stt = {
    .size = sizeof(struct omid_stt_role),
    .serves = dg_serves,
    .open = dg_stream_open,
    .audio = dg_stream_audio,
    .finalize = dg_stream_finalize,
    .close = dg_stream_close,
    .release = dg_stream_release,
    .stats = dg_stream_stats,
    .transcribe = dg_recording_transcribe,
};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,   .name = "deepgram", .version = "1.0",          .summary = "live speech-to-text with Deepgram",
    .options = options, .lane = &lane,      .configure = dg_configure, .unconfigure = dg_unconfigure,
    .start = dg_start,  .drain = dg_drain,  .stop = dg_stop,           .stt = &stt,
};
