/*
 * Voices as vectors, by an embedding service over HTTP: the role `embed`. Every question is one request through the
 * plugin's lane, which bounds how many there are and for how long; a request belongs to its question until it is
 * answered.
 */
#include <omid/plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "formats/wav.h"
#include "plugins/kit/multipart.h"
#include "plugins/kit/outcome.h"

#define MIN_SECONDS 0.5
#define MAX_SECONDS 300
#define MAX_ANSWER ((size_t)2 << 20) /* 65,536 values, written at length */

enum outcome { OUT_OK, OUT_UNREACHED, OUT_TIMEOUT, OUT_REFUSED, OUT_BUSY, OUT_SERVER, OUT_BAD_ANSWER, OUTCOMES };

struct shared {
    struct omid_module *mod;
    const struct omid_host *host;
    char *embedding_url, *health_url;
    struct omid_counter *requests[OUTCOMES], *healthy, *unhealthy;
};

struct instance {
    struct omid_instance *inst;
    struct shared *sh;
    struct request *open; /* a doubly linked list: what is to be ended at the stop */
    struct omid_http *health;
};

struct request {
    struct request *next, **link;
    struct instance *in;
    struct omid_ask *ask;
    struct omid_http *http;
};

static const struct omid_option options[] = {
    {.name = "url",
     .type = OMID_OPT_STRING,
     .min = 1,
     .max = 2048,
     .flags = OMID_OPT_REQUIRED,
     .help = "Base URL of the embedding service; /v2/embedding and /health are appended."},
    {.name = NULL},
};

static const struct omid_lane_defaults lane = {
    .pool = 8, .idle = 4, .semaphore = 8, .connect_timeout_ms = 5000, .timeout_ms = 300000};

/* ---------------------------------------------------------------- configuration */

static void unconfigure(void *shared)
{
    struct shared *sh = shared;
    if (sh == NULL)
        return;
    free(sh->embedding_url);
    free(sh->health_url);
    free(sh);
}

static bool counters_add(struct shared *sh)
{
    static const char *const names[OUTCOMES] = {
        [OUT_OK] = "ok",     [OUT_UNREACHED] = "unreached", [OUT_TIMEOUT] = "timeout",       [OUT_REFUSED] = "refused",
        [OUT_BUSY] = "busy", [OUT_SERVER] = "server",       [OUT_BAD_ANSWER] = "bad_answer",
    };
    const struct omid_host *h = sh->host;
    bool all = true;
    for (int i = 0; i < OUTCOMES; i++) {
        sh->requests[i] =
            h->counter(sh->mod, "requests", "Embeddings asked for by what came of it.", "outcome", names[i]);
        all = all && sh->requests[i] != NULL;
    }
    sh->healthy = h->counter(sh->mod, "health", "Looks at the service's health at the start.", "result", "ok");
    sh->unhealthy = h->counter(sh->mod, "health", "Looks at the service's health at the start.", "result", "failed");
    return all && sh->healthy != NULL && sh->unhealthy != NULL;
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    const char *url = host->conf_str(mod, "url");
    const char *fault = url != NULL ? kit_url_fault(url) : "expected the service's base URL, found none";
    if (fault != NULL) {
        host->conf_error(mod, "url", "%s", fault);
        return OMID_EINVAL;
    }
    struct shared *sh = calloc(1, sizeof(*sh));
    if (sh == NULL)
        return OMID_ERR;
    sh->mod = mod;
    sh->host = host;
    sh->embedding_url = kit_url_join(url, "/v2/embedding");
    sh->health_url = kit_url_join(url, "/health");
    if (sh->embedding_url == NULL || sh->health_url == NULL || !counters_add(sh)) {
        unconfigure(sh);
        return OMID_ERR;
    }
    *shared = sh;
    return OMID_OK;
}

/* ---------------------------------------------------------------- the health at the start */

static void on_health(void *arg, const struct omid_http_response *res)
{
    struct instance *in = arg;
    struct shared *sh = in->sh;
    in->health = NULL;
    bool ok = res->error == OMID_HTTP_OK && res->status >= 200 && res->status < 300;
    sh->host->counter_add(ok ? sh->healthy : sh->unhealthy, 1);
    if (ok)
        sh->host->log(sh->mod, OMID_LOG_INFO, "the embedding service is healthy");
    else if (res->error != OMID_HTTP_OK)
        sh->host->log(sh->mod, OMID_LOG_WARNING, "the embedding service does not answer: %s", res->error_text);
    else
        sh->host->log(sh->mod, OMID_LOG_WARNING, "the embedding service says that it is not healthy: status %d",
                      res->status);
}

static void health_ask(struct instance *in)
{
    const struct omid_http_request req = {
        .size = sizeof(req), .method = "GET", .url = in->sh->health_url, .timeout_ms = 10000};
    if (in->sh->host->http_start(in->inst, &req, on_health, in, &in->health) != OMID_OK)
        in->sh->host->counter_add(in->sh->unhealthy, 1);
}

/* ---------------------------------------------------------------- a question */

static void request_free(struct request *r)
{
    *r->link = r->next;
    if (r->next != NULL)
        r->next->link = r->link;
    free(r);
}

static enum outcome outcome_of_error(enum omid_http_error error, int *result)
{
    *result = OMID_ERR;
    switch (error) {
    case OMID_HTTP_TIMEOUT:
        *result = OMID_ETIMEOUT;
        return OUT_TIMEOUT;
    case OMID_HTTP_FULL:
    case OMID_HTTP_QUEUE_TIMEOUT:
    case OMID_HTTP_BREAKER:
        *result = OMID_EFULL;
        return OUT_BUSY;
    case OMID_HTTP_SHUTDOWN:
        *result = OMID_ECLOSED;
        return OUT_BUSY;
    case OMID_HTTP_PROTOCOL:
        return OUT_BAD_ANSWER;
    default:
        return OUT_UNREACHED;
    }
}

/* What was sent can't be served by any try; 401 and the like can, once somebody has mended the configuration. */
static bool is_final(int status)
{
    return status == 400 || status == 413 || status == 415 || status == 422;
}

static enum outcome outcome_of_status(int status, int *result)
{
    *result = is_final(status) ? OMID_EINVAL : OMID_ERR;
    if (status == 429 || status == 503)
        *result = OMID_EFULL;
    return status == 429 ? OUT_BUSY : status >= 500 ? OUT_SERVER : OUT_REFUSED;
}

static void on_answer(void *arg, const struct omid_http_response *res)
{
    struct request *r = arg;
    struct shared *sh = r->in->sh;
    struct omid_ask *ask = r->ask;
    struct omid_answer answer = {.size = sizeof(answer), .result = OMID_OK, .mode = "hosted"};
    enum outcome outcome = OUT_OK;
    float *vector = NULL;
    char text[192] = "", why[96];
    request_free(r);
    if (res->error != OMID_HTTP_OK) {
        outcome = outcome_of_error(res->error, &answer.result);
        snprintf(text, sizeof(text), "the embedding service: %s", res->error_text);
    } else if (res->status < 200 || res->status > 299) {
        outcome = outcome_of_status(res->status, &answer.result);
        snprintf(text, sizeof(text), "the embedding service answered with status %d", res->status);
    } else if (res->truncated) {
        outcome = OUT_BAD_ANSWER;
        answer.result = OMID_ERR;
        snprintf(text, sizeof(text), "the embedding service's answer is not usable: it is longer than %zu bytes",
                 MAX_ANSWER);
    } else if (!answer_vector(res->body, res->body_len, &vector, &answer.n_vector, why, sizeof(why))) {
        outcome = OUT_BAD_ANSWER;
        answer.result = OMID_ERR;
        snprintf(text, sizeof(text), "the embedding service's answer is not usable: %s", why);
    }
    if (answer.result != OMID_OK) {
        answer.text = text;
        answer.n_vector = 0;
        sh->host->log(sh->mod, OMID_LOG_WARNING, "%s", text);
    }
    answer.vector = vector;
    sh->host->counter_add(sh->requests[outcome], 1);
    sh->host->answer(&ask, &answer);
    free(vector);
}

static int embed(void *state, const struct omid_audio *audio, struct omid_ask *ask)
{
    struct instance *in = state;
    struct shared *sh = in->sh;
    double seconds = audio->sample_rate > 0 ? (double)audio->samples / audio->sample_rate : 0;
    if (seconds < MIN_SECONDS || seconds > MAX_SECONDS)
        return OMID_EINVAL;
    struct request *r = calloc(1, sizeof(*r));
    struct kit_multipart body;
    char unique[37], type[128];
    sh->host->uuid4(unique);
    kit_multipart_begin(&body, unique);
    unsigned char *wav = kit_multipart_file(&body, "file", "audio.wav", "audio/wav", wav_size(audio->samples));
    int rc = OMID_ERR;
    if (wav != NULL)
        wav_write(wav, audio->pcm, audio->samples, audio->sample_rate);
    if (kit_multipart_end(&body) && r != NULL) {
        kit_multipart_header(&body, type, sizeof(type));
        const char *const headers[] = {type, "Accept: application/json", NULL};
        const struct omid_http_request req = {.size = sizeof(req),
                                              .method = "POST",
                                              .url = sh->embedding_url,
                                              .headers = headers,
                                              .body = body.data,
                                              .body_len = body.len,
                                              .max_body = MAX_ANSWER};
        rc = sh->host->http_start(in->inst, &req, on_answer, r, &r->http);
    }
    kit_multipart_free(&body);
    if (rc != OMID_OK) {
        free(r);
        return rc;
    }
    r->in = in;
    r->ask = ask;
    r->next = in->open;
    r->link = &in->open;
    if (r->next != NULL)
        r->next->link = &r->next;
    in->open = r;
    return OMID_OK;
}

/* ---------------------------------------------------------------- life */

static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    struct instance *in = calloc(1, sizeof(*in));
    unsigned reactors;
    if (in == NULL)
        return OMID_ERR;
    in->inst = inst;
    in->sh = shared;
    *state = in;
    if (host->reactor(inst, &reactors) == 0)
        health_ask(in);
    return OMID_OK;
}

/* Questions that somebody still waits for hold up a stop, by the host; a request for the others does not. */
static void drain(void *state)
{
    const struct instance *in = state;
    in->sh->host->drained(in->inst);
}

static void stop(void *state)
{
    struct instance *in = state;
    const struct omid_host *h = in->sh->host;
    const struct omid_answer closed = {
        .size = sizeof(closed), .result = OMID_ECLOSED, .text = "the plugin was stopped"};
    while (in->open != NULL) {
        struct omid_ask *ask = in->open->ask;
        h->http_cancel(&in->open->http);
        request_free(in->open);
        h->answer(&ask, &closed);
    }
    if (in->health != NULL)
        h->http_cancel(&in->health);
    free(in);
}

static const struct omid_embed_role role = {.size = sizeof(role), .embed = embed};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,       .name = "diarizer",
    .version = "1.0",       .summary = "voices as vectors by an embedding service",
    .options = options,     .lane = &lane,
    .configure = configure, .unconfigure = unconfigure,
    .start = start,         .drain = drain,
    .stop = stop,           .embed = &role,
};
