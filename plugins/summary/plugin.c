/* Options and life of the plugin summary. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugins/kit/outcome.h"
#include "summary.h"

static const struct omid_option options[] = {
    {.name = "url",
     .type = OMID_OPT_STRING,
     .def = "https://api.openai.com/v1",
     .min = 1,
     .max = 2000,
     .help = "Base URL of a service with the OpenAI API; /chat/completions is appended."},
    {.name = "key",
     .type = OMID_OPT_SECRET,
     .min = 1,
     .max = 1000,
     .help = "Sent as a Bearer token; a service of one's own may need none."},
    {.name = "model",
     .type = OMID_OPT_STRING,
     .min = 1,
     .max = 200,
     .flags = OMID_OPT_REQUIRED,
     .help = "The model's name, as the service knows it."},
    {.name = "temperature",
     .type = OMID_OPT_FLOAT,
     .def = "0.2",
     .min = -1,
     .max = 2,
     .help = "How freely the model writes. Below 0 none is sent, for models that take none."},
    {.name = "max_tokens",
     .type = OMID_OPT_INT,
     .def = "2000",
     .min = 64,
     .max = 100000,
     .help = "The longest answer, in tokens."},
    {.name = "max_tokens_name",
     .type = OMID_OPT_ENUM,
     .def = "max_tokens",
     .choices = "max_tokens|max_completion_tokens",
     .help = "How the service calls that bound."},
    {.name = "response_format",
     .type = OMID_OPT_BOOL,
     .def = "true",
     .help = "Whether response_format asks for a JSON object; for services that know it."},
    {.name = "prompt_size",
     .type = OMID_OPT_SIZE,
     .def = "48KiB",
     .min = 1024,
     .max = 4194304,
     .help = "The longest transcript of one request. A longer one goes in parts, whose notes are then summarised."},
    {.name = "max_parts",
     .type = OMID_OPT_INT,
     .def = "16",
     .min = 2,
     .max = SUMMARY_MAX_PARTS,
     .help = "The most parts of one conversation; what is longer loses parts of its middle, counted."},
    {.name = "parts_at_once",
     .type = OMID_OPT_INT,
     .def = "4",
     .min = 1,
     .max = SUMMARY_MAX_PARTS,
     .help = "Parts of one conversation that are asked for at once."},
    {.name = "questions",
     .type = OMID_OPT_INT,
     .def = "256",
     .min = 1,
     .max = 100000,
     .help = "Summaries of one reactor under way at once; beyond it the daemon asks again later."},
    {.name = "deadline",
     .type = OMID_OPT_DURATION,
     .def = "110s",
     .min = 100,
     .max = 3600000,
     .help = "The longest time for a summary with all its requests; set it below processing.summary_timeout."},
    {.name = "retry_after",
     .type = OMID_OPT_DURATION,
     .def = "20s",
     .min = 0,
     .max = 600000,
     .help = "The longest Retry-After of a 429 or 503 that is waited for; 0s: none is."},
    {.name = NULL},
};

static const struct omid_lane_defaults lane = {
    .pool = 64, .idle = 16, .semaphore = 64, .connect_timeout_ms = 5000, .timeout_ms = 60000};

static void unconfigure(void *shared)
{
    struct settings *set = shared;
    if (!set)
        return;
    free(set->url);
    free(set->authorization);
    free(set);
}

static const char *key_fault(const char *key)
{
    for (const char *p = key; *p; p++) {
        if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f)
            return "expected printable ASCII without blanks";
    }
    return NULL;
}

static bool counters_add(struct settings *set)
{
    static const char *const requests[OUTCOMES] = {
        [OUT_OK] = "ok",           [OUT_UNREACHED] = "unreached", [OUT_TIMEOUT] = "timeout",       [OUT_BUSY] = "busy",
        [OUT_REFUSED] = "refused", [OUT_SERVER] = "server",       [OUT_BAD_ANSWER] = "bad_answer",
    };
    static const char *const questions[QUESTION_ENDS] = {
        [Q_ANSWERED] = "answered", [Q_REPAIRED] = "repaired", [Q_NOTHING] = "nothing",
        [Q_UNUSABLE] = "unusable", [Q_FAILED] = "failed",     [Q_FULL] = "full",
    };
    const struct omid_host *h = set->host;
    bool all = true;
    for (int i = 0; i < OUTCOMES; i++) {
        set->requests[i] =
            h->counter(set->mod, "requests", "Requests to the service by what came of them.", "outcome", requests[i]);
        all = all && set->requests[i];
    }
    for (int i = 0; i < QUESTION_ENDS; i++) {
        set->questions[i] =
            h->counter(set->mod, "summaries", "Summaries asked for by what came of them.", "outcome", questions[i]);
        all = all && set->questions[i];
    }
    static const char tokens[] = "Tokens as the service counted them.";
    static const char parts[] = "Parts of long conversations.";
    set->prompt_tokens = h->counter(set->mod, "tokens", tokens, "kind", "prompt");
    set->completion_tokens = h->counter(set->mod, "tokens", tokens, "kind", "completion");
    set->parts_sent = h->counter(set->mod, "parts", parts, "fate", "sent");
    set->parts_left_out = h->counter(set->mod, "parts", parts, "fate", "left_out");
    return all && set->prompt_tokens && set->completion_tokens && set->parts_sent && set->parts_left_out;
}

static bool settings_read(struct settings *set)
{
    struct omid_module *mod = set->mod;
    const struct omid_host *h = set->host;
    const char *url = h->conf_str(mod, "url"), *key = h->conf_str(mod, "key");
    set->url = kit_url_join(url, "/chat/completions");
    if (key && asprintf(&set->authorization, "Authorization: Bearer %s", key) < 0)
        set->authorization = NULL;
    set->model = h->conf_str(mod, "model");
    set->temperature = h->conf_float(mod, "temperature");
    set->max_tokens = h->conf_int(mod, "max_tokens");
    set->max_tokens_name = h->conf_str(mod, "max_tokens_name");
    set->response_format = h->conf_bool(mod, "response_format");
    set->prompt_size = (size_t)h->conf_int(mod, "prompt_size");
    set->max_parts = (unsigned)h->conf_int(mod, "max_parts");
    set->parts_at_once = (unsigned)h->conf_int(mod, "parts_at_once");
    set->max_questions = (unsigned)h->conf_int(mod, "questions");
    set->deadline_ms = (uint32_t)h->conf_int(mod, "deadline");
    set->retry_after_ms = (uint32_t)h->conf_int(mod, "retry_after");
    return set->url && (!key || set->authorization);
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    const char *url = host->conf_str(mod, "url"), *key = host->conf_str(mod, "key");
    const char *fault = url ? kit_url_fault(url) : "expected the service's base URL, found none";
    if (fault)
        host->conf_error(mod, "url", "%s", fault);
    const char *bad_key = key ? key_fault(key) : NULL;
    if (bad_key)
        host->conf_error(mod, "key", "%s", bad_key);
    if (fault || bad_key)
        return OMID_EINVAL;
    struct settings *set = calloc(1, sizeof *set);
    if (!set)
        return OMID_ERR;
    set->mod = mod;
    set->host = host;
    if (!settings_read(set) || !counters_add(set) || host->gather_label(mod, "parts") != OMID_OK) {
        unconfigure(set);
        return OMID_ERR;
    }
    *shared = set;
    return OMID_OK;
}

static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    (void)host;
    struct instance *in = calloc(1, sizeof *in);
    if (!in)
        return OMID_ERR;
    in->inst = inst;
    in->set = shared;
    *state = in;
    return OMID_OK;
}

static void drain(void *state)
{
    struct instance *in = state;
    in->draining = true;
    if (in->n_work == 0)
        in->set->host->drained(in->inst);
}

static void stop(void *state)
{
    struct instance *in = state;
    work_stop_all(in);
    free(in);
}

static int summarize(void *state, const struct omid_summary_request *req, struct omid_ask *ask)
{
    return work_summarize(state, req, ask);
}

static const struct omid_summarize_role role = {.size = sizeof role, .summarize = summarize};

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,       .name = "summary",
    .version = "1.0",       .summary = "Summaries of conversations and days by a language model",
    .options = options,     .lane = &lane,
    .configure = configure, .unconfigure = unconfigure,
    .start = start,         .drain = drain,
    .stop = stop,           .summarize = &role};
