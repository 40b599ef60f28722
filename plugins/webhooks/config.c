/* Options, and the endpoints of omi.conf. */
#include <ctype.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "webhooks.h"

#define DEFAULT_SECONDS_MS 5000u
#define MAX_SECONDS 120.0

const struct omid_option webhooks_options[] = {
    {.name = "realtime_transcript",
     .type = OMID_OPT_LIST,
     .min = 0,
     .max = WEBHOOKS_MAX_ENDPOINTS,
     .help = "URLs that get new and changed segments as they come."},
    {.name = "audio_bytes",
     .type = OMID_OPT_LIST,
     .min = 0,
     .max = WEBHOOKS_MAX_ENDPOINTS,
     .help =
         "URLs that get the audio, each \"URL\" or \"URL,SECONDS\": sent when more than that waits (5 by default)."},
    {.name = "memory_created",
     .type = OMID_OPT_LIST,
     .min = 0,
     .max = WEBHOOKS_MAX_ENDPOINTS,
     .help = "URLs that get each completed conversation, through the durable queue."},
    {.name = "transcript_interval",
     .type = OMID_OPT_DURATION,
     .def = "1s",
     .min = 50,
     .max = 60000,
     .help = "Segments are collected this long before they are sent."},
    {.name = "audio_memory",
     .type = OMID_OPT_SIZE,
     .def = "256MiB",
     .min = 1048576,
     .max = 68719476736.0,
     .help = "Audio that one reactor's sessions may hold for webhooks; beyond it new audio is dropped and counted."},
    {.name = "max_sessions",
     .type = OMID_OPT_INT,
     .def = "16384",
     .min = 1,
     .max = 1048576,
     .help = "Sessions of one reactor that webhooks follow; the events of others are refused and counted."},
    {.name = "secret",
     .type = OMID_OPT_SECRET,
     .help = "Signs deliveries to these URLs by Standard Webhooks: whsec_ and 24 to 64 random bytes in base64."},
    {.name = "former_secret",
     .type = OMID_OPT_SECRET,
     .help = "Signs too, while receivers change from it to secret; take it out 24 hours later."},
    {.name = NULL}};

static const char *const keys[WEBHOOKS_OWN_TYPES] = {"realtime_transcript", "audio_bytes", "memory_created"};

/* FNV-1a, 64 bits: it names an endpoint in jobs, it guards nothing. */
static void endpoint_hash(const char *url, char out[17])
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (; *url != '\0'; url++)
        h = (h ^ (unsigned char)*url) * UINT64_C(0x100000001b3);
    snprintf(out, 17, "%016llx", (unsigned long long)h);
}

/* Cuts ",SECONDS" off. NULL: fine; else what was expected. */
static const char *seconds_take(char *value, uint32_t *ms)
{
    *ms = DEFAULT_SECONDS_MS;
    char *comma = strrchr(value, ',');
    if (comma == NULL)
        return NULL;
    char *rest = comma;
    double seconds = isdigit((unsigned char)comma[1]) ? strtod(comma + 1, &rest) : 0;
    if (seconds < 1 || seconds > MAX_SECONDS || *rest != '\0')
        return "expected URL or URL,SECONDS with 1 to 120 seconds (a comma of the URL itself is written %2C)";
    *ms = (uint32_t)(seconds * 1000 + 0.5);
    *comma = '\0';
    return NULL;
}

static int place_read(struct webhooks_conf *c, int type, const char *value)
{
    struct place *ep = &c->places[type][c->n[type]];
    const char *fault = NULL;
    ep->owned = strdup(value);
    if (ep->owned == NULL)
        return OMID_ERR;
    c->n[type]++; /* from here on the struct frees it */
    if (type == OMID_TRIGGER_AUDIO)
        fault = seconds_take(ep->owned, &ep->seconds_ms);
    if (fault == NULL)
        fault = url_fault(ep->owned);
    if (fault != NULL) {
        /* A query may hold a secret. */
        c->host->conf_error(c->mod, keys[type], "%s, not \"%.*s\"", fault, (int)strcspn(value, "?"), value);
        return OMID_EINVAL;
    }
    /* A fragment is never sent. */
    ep->owned[strcspn(ep->owned, "#")] = '\0';
    ep->base = ep->owned;
    endpoint_hash(ep->base, ep->hash);
    for (size_t i = 0; i + 1 < c->n[type]; i++) {
        if (strcmp(c->places[type][i].base, ep->base) == 0) {
            char *origin = url_origin(ep->base);
            c->host->conf_error(c->mod, keys[type], "expected each URL once, one of %s is there twice",
                                origin != NULL ? origin : "them");
            free(origin);
            return OMID_EINVAL;
        }
    }
    return OMID_OK;
}

/* The former one alone would sign with what is to be forgotten. */
static int keys_read(struct webhooks_conf *c)
{
    static const char *const names[] = {"secret", "former_secret"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *secret = c->host->conf_str(c->mod, names[i]);
        const char *fault = NULL;
        if (secret == NULL)
            continue;
        if (c->n_keys < i)
            fault = "expected secret beside it";
        else
            fault = sign_key_read(secret, &c->key[c->n_keys]);
        if (fault != NULL) {
            c->host->conf_error(c->mod, names[i], "%s", fault);
            return OMID_EINVAL;
        }
        c->n_keys++;
    }
    return OMID_OK;
}

static void counters_add(struct webhooks_conf *c)
{
    static const char *const what[OMID_TRIGGERS] = {"realtime_transcript_deliveries", "audio_bytes_deliveries",
                                                    "memory_created_deliveries", "day_summary_deliveries",
                                                    "event_deliveries"};
    static const char *const help[OMID_TRIGGERS] = {
        "Deliveries of segments by outcome.", "Deliveries of audio by outcome.",
        "Delivery attempts of conversations by outcome.", "Delivery attempts of summaries of days by outcome.",
        "Delivery attempts of custom events by outcome."};
    static const char *const outcome[OUTCOMES] = {"ok",   "status",     "error",   "breaker",
                                                  "full", "superseded", "dropped", "shutdown"};
    static const char *const posted[POSTED_OUTCOMES] = {"accepted",  "unwanted", "repeated", "bad",
                                                        "too_large", "full",     "failed"};
    static const char *const notified[NOTIFIED_OUTCOMES] = {"passed", "too_soon", "not_capable", "unusable"};
    const struct omid_host *h = c->host;
    for (int t = 0; t < OMID_TRIGGERS; t++) {
        /* Only what waits in memory is replaced by something newer. */
        for (int o = 0; o < OUTCOMES; o++) {
            if (o != OUTCOME_SUPERSEDED || t <= OMID_TRIGGER_AUDIO)
                c->count[t][o] = h->counter(c->mod, what[t], help[t], "outcome", outcome[o]);
        }
    }
    for (int o = 0; o < POSTED_OUTCOMES; o++)
        c->posted[o] =
            h->counter(c->mod, "events", "Custom events that were posted, by outcome.", "outcome", posted[o]);
    for (int o = 0; o < NOTIFIED_OUTCOMES; o++)
        c->notified[o] = h->counter(c->mod, "notifications", "Notifications in the answers of apps, by outcome.",
                                    "outcome", notified[o]);
    c->audio_dropped = h->counter(c->mod, "audio_dropped_bytes", "Audio that no webhook got.", NULL, NULL);
    c->segments_dropped = h->counter(c->mod, "segments_dropped", "Segments that no webhook got.", NULL, NULL);
    c->messages = h->counter(c->mod, "messages", "Messages of answers, shown to the client.", NULL, NULL);
    c->bad_answers =
        h->counter(c->mod, "unreadable_answers", "Answers that were no JSON object, or too long.", NULL, NULL);
    c->unusable = h->counter(c->mod, "unusable_endpoints",
                             "Registered endpoints passed over: a secret, a filter or their number.", NULL, NULL);
    c->bad_events = h->counter(c->mod, "unreadable_events",
                               "Custom events of plugins or the daemon that can't be sent.", NULL, NULL);
}

void webhooks_unconfigure(void *shared)
{
    struct webhooks_conf *c = shared;
    if (c == NULL)
        return;
    wh_assert(c->magic == WEBHOOKS_CONF_MAGIC);
    for (int t = 0; t < WEBHOOKS_OWN_TYPES; t++) {
        for (size_t i = 0; i < c->n[t]; i++)
            free(c->places[t][i].owned);
        free(c->places[t]);
    }
    throttle_free(&c->throttle);
    OPENSSL_cleanse(c->key, sizeof(c->key));
    c->magic = 0;
    free(c);
}

int webhooks_configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    struct webhooks_conf *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return OMID_ERR;
    c->magic = WEBHOOKS_CONF_MAGIC;
    c->mod = mod;
    c->host = host;
    c->interval_ms = (uint32_t)host->conf_int(mod, "transcript_interval");
    c->audio_memory = (size_t)host->conf_int(mod, "audio_memory");
    c->max_sessions = (unsigned)host->conf_int(mod, "max_sessions");
    int rc = keys_read(c);
    if ((c->throttle = throttle_new()) == NULL || host->route_add(mod, &events_route) != OMID_OK)
        rc = OMID_ERR;
    for (int t = 0; t < WEBHOOKS_OWN_TYPES; t++) {
        size_t n = 0;
        const char *const *list = host->conf_list(mod, keys[t], &n);
        c->places[t] = calloc(n + 1, sizeof(struct place));
        if (c->places[t] == NULL)
            rc = OMID_ERR;
        /* All faults of a file in one run: the operator mends them at once. */
        for (size_t i = 0; i < n && rc != OMID_ERR; i++) {
            int one = place_read(c, t, list[i]);
            if (one != OMID_OK)
                rc = one;
        }
    }
    if (rc != OMID_OK) {
        webhooks_unconfigure(c);
        return rc;
    }
    counters_add(c);
    *shared = c;
    return OMID_OK;
}
