/*
 * Endpoints as deliveries need them: with a signer that holds their keys, a filter that has been read. What the
 * registry has is a snapshot, asked for at every event; what is made of it is kept, by id, as long as the registry says
 * the same, so that following the registry costs a few comparisons.
 */
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "webhooks.h"

#define CHAINS 1024
#define MAX_CACHED \
    4096 /* of one instance; the one used longest ago goes first, whoever still uses it has a reference */
#define DEFAULT_AUDIO_MS 5000u
#define MAX_AUDIO_MS 120000u

/* One of the registry, with copies of what it was made of. */
struct made {
    struct endpoint e;          /* first */
    struct made *chain;         /* of the table */
    struct made *newer, *older; /* by use */
    uint32_t triggers;          /* as registered */
    char *id, *name, *url, *label;
    char *filter;
    char **secrets;
};

struct endpoint_cache {
    struct made *chain[CHAINS];
    struct made *newest, *oldest;
    size_t n;
};

static size_t chain_of(const char *id)
{
    uint32_t h = UINT32_C(2166136261);
    for (; *id != '\0'; id++)
        h = (h ^ (unsigned char)*id) * UINT32_C(16777619);
    return h % CHAINS;
}

/* ------------------------------------------------------------ life */

static void secrets_free(char **secrets)
{
    for (char **s = secrets; s != NULL && *s != NULL; s++) {
        OPENSSL_cleanse(*s, strlen(*s));
        free(*s);
    }
    free(secrets);
}

static void made_free(struct made *m)
{
    signer_free(&m->e.signer);
    filter_free(&m->e.filter);
    secrets_free(m->secrets);
    free(m->id);
    free(m->name);
    free(m->url);
    free(m->label);
    free(m->filter);
    m->e.magic = 0;
    free(m);
}

struct endpoint *endpoint_ref(struct endpoint *e)
{
    wh_assert(e->magic == WEBHOOKS_ENDPOINT_MAGIC);
    e->refs++;
    return e;
}

void endpoint_unref(struct endpoint **ep)
{
    struct endpoint *e = *ep;
    *ep = NULL;
    if (e == NULL)
        return;
    wh_assert(e->magic == WEBHOOKS_ENDPOINT_MAGIC && e->refs > 0);
    if (--e->refs == 0)
        made_free((struct made *)e);
}

static void cache_remove(struct endpoint_cache *c, struct made *m)
{
    struct made **at = &c->chain[chain_of(m->id)];
    while (*at != m)
        at = &(*at)->chain;
    *at = m->chain;
    *(m->newer != NULL ? &m->newer->older : &c->newest) = m->older;
    *(m->older != NULL ? &m->older->newer : &c->oldest) = m->newer;
    m->newer = m->older = m->chain = NULL;
    c->n--;
    struct endpoint *e = &m->e;
    endpoint_unref(&e);
}

static void by_use(struct endpoint_cache *c, struct made *m)
{
    m->newer = NULL;
    m->older = c->newest;
    *(c->newest != NULL ? &c->newest->newer : &c->oldest) = m;
    c->newest = m;
}

static void cache_put(struct endpoint_cache *c, struct made *m)
{
    if (c->n == MAX_CACHED)
        cache_remove(c, c->oldest);
    struct made **chain = &c->chain[chain_of(m->id)];
    m->chain = *chain;
    *chain = m;
    by_use(c, m);
    c->n++;
    endpoint_ref(&m->e);
}

static void cache_touch(struct endpoint_cache *c, struct made *m)
{
    if (c->newest == m)
        return;
    m->newer->older = m->older; /* it is not the newest: there is one */
    *(m->older != NULL ? &m->older->newer : &c->oldest) = m->newer;
    by_use(c, m);
}

/* ------------------------------------------------------------ of omi.conf */

static struct made *made_of_place(struct instance *in, const struct place *p)
{
    struct made *m = calloc(1, sizeof(*m));
    if (m == NULL)
        return NULL;
    const struct webhooks_conf *c = in->conf;
    m->label = url_origin(p->base);
    bool ok = m->label != NULL && (c->n_keys == 0 || (m->e.signer = signer_new(c->key, c->n_keys)) != NULL);
    if (!ok) {
        made_free(m);
        return NULL;
    }
    m->e = (struct endpoint){.magic = WEBHOOKS_ENDPOINT_MAGIC,
                             .refs = 1,
                             .id = p->hash,
                             .target = p->base,
                             .name = "Webhooks",
                             .said_by = "webhooks",
                             .url = p->base,
                             .label = m->label,
                             .audio_ms = p->seconds_ms,
                             .signer = m->e.signer};
    return m;
}

bool endpoints_start(struct instance *in)
{
    in->cache = calloc(1, sizeof(*in->cache));
    bool ok = in->cache != NULL;
    for (int t = 0; t < WEBHOOKS_OWN_TYPES && ok; t++) {
        in->own[t] = calloc(in->conf->n[t] + 1, sizeof(struct endpoint *));
        ok = in->own[t] != NULL;
        for (size_t i = 0; ok && i < in->conf->n[t]; i++) {
            struct made *m = made_of_place(in, &in->conf->places[t][i]);
            in->own[t][i] = m != NULL ? &m->e : NULL;
            ok = m != NULL;
        }
    }
    return ok;
}

void endpoints_stop(struct instance *in)
{
    for (int t = 0; t < WEBHOOKS_OWN_TYPES; t++) {
        for (size_t i = 0; in->own[t] != NULL && i < in->conf->n[t]; i++)
            endpoint_unref(&in->own[t][i]);
        free(in->own[t]);
        in->own[t] = NULL;
    }
    while (in->cache != NULL && in->cache->oldest != NULL)
        cache_remove(in->cache, in->cache->oldest);
    free(in->cache);
    in->cache = NULL;
}

/* ------------------------------------------------------------ of the registry */

static const char *text_of(const char *s)
{
    return s != NULL ? s : "";
}

static bool secrets_same(char *const *have, const char *const *now)
{
    size_t i = 0;
    for (; have != NULL && have[i] != NULL; i++) {
        if (now == NULL || now[i] == NULL || strcmp(have[i], now[i]) != 0)
            return false;
    }
    return now == NULL || now[i] == NULL;
}

static uint32_t audio_ms_of(const struct omid_endpoint *e)
{
    return e->audio_ms == 0 ? DEFAULT_AUDIO_MS : e->audio_ms > MAX_AUDIO_MS ? MAX_AUDIO_MS : e->audio_ms;
}

static bool still_the_same(const struct made *m, const struct omid_endpoint *e)
{
    return m->e.app == e->app && m->triggers == e->triggers && m->e.capabilities == e->capabilities &&
           m->e.ordered == e->ordered && m->e.rate_per_min == e->rate_per_min && strcmp(m->url, e->url) == 0 &&
           strcmp(m->name, text_of(e->name)) == 0 && strcmp(m->filter, text_of(e->filter)) == 0 &&
           m->e.audio_ms == audio_ms_of(e) && secrets_same(m->secrets, e->secrets);
}

/* NULL: fine; else why not, static. */
static const char *signer_make(struct made *m, const char *const *secrets)
{
    struct sign_key keys[SIGN_KEYS];
    size_t n = 0, total = 0;
    const char *fault = NULL;
    while (secrets != NULL && secrets[total] != NULL)
        total++;
    if (total > SIGN_KEYS)
        return "it has more than 8 secrets";
    m->secrets = calloc(total + 1, sizeof(char *));
    for (; m->secrets != NULL && n < total && fault == NULL; n++) {
        m->secrets[n] = strdup(secrets[n]);
        if (m->secrets[n] == NULL)
            fault = "out of memory";
        else if (sign_key_read(secrets[n], &keys[n]) != NULL)
            fault = "a secret of it can't be read";
    }
    if (m->secrets == NULL)
        fault = "out of memory";
    if (fault == NULL && n > 0 && (m->e.signer = signer_new(keys, n)) == NULL)
        fault = "no memory to sign";
    OPENSSL_cleanse(keys, sizeof(keys));
    return fault;
}

static const char *made_fill(struct made *m, const struct omid_endpoint *e)
{
    bool filter_ok = false;
    m->triggers = e->triggers;
    m->id = strdup(e->id);
    m->name = strdup(text_of(e->name));
    m->url = strdup(e->url);
    m->filter = strdup(text_of(e->filter));
    char *origin = url_origin(e->url);
    size_t len = (origin != NULL ? strlen(origin) : 0) + strlen(e->id) + 4;
    m->label = malloc(len);
    if (m->label != NULL && origin != NULL)
        snprintf(m->label, len, "%s (%s)", origin, e->id);
    bool memory =
        m->id != NULL && m->name != NULL && m->url != NULL && m->filter != NULL && m->label != NULL && origin != NULL;
    free(origin);
    if (!memory)
        return "out of memory";
    m->e = (struct endpoint){.magic = WEBHOOKS_ENDPOINT_MAGIC,
                             .refs = 1,
                             .registered = true,
                             .app = e->app,
                             .id = m->id,
                             .target = m->id,
                             .name = m->name[0] != '\0' ? m->name : "Webhooks",
                             .said_by = m->id,
                             .url = m->url,
                             .label = m->label,
                             .capabilities = e->capabilities,
                             .audio_ms = audio_ms_of(e),
                             .ordered = e->ordered,
                             .rate_per_min = e->rate_per_min};
    const char *fault = url_fault(m->url);
    if (fault != NULL)
        return "its URL can't be used";
    m->e.filter = filter_new(m->filter, &filter_ok);
    if (!filter_ok)
        return "its filter can't be read";
    return signer_make(m, e->secrets);
}

struct endpoint *endpoint_of(struct instance *in, const struct omid_endpoint *registered)
{
    struct endpoint_cache *c = in->cache;
    struct made *m = c->chain[chain_of(registered->id)];
    while (m != NULL && strcmp(m->id, registered->id) != 0)
        m = m->chain;
    if (m != NULL && still_the_same(m, registered)) {
        cache_touch(c, m);
        return endpoint_ref(&m->e);
    }
    if (m != NULL)
        cache_remove(c, m);
    m = calloc(1, sizeof(*m));
    const char *fault = m != NULL ? made_fill(m, registered) : "out of memory";
    if (fault != NULL) {
        in->host->counter_add(in->conf->unusable, 1);
        in->host->log(in->mod, OMID_LOG_ERROR, "endpoint %s gets nothing: %s", registered->id, fault);
        if (m != NULL)
            made_free(m);
        return NULL;
    }
    cache_put(c, m);
    return &m->e;
}

/* ------------------------------------------------------------ asking for them */

const struct omid_endpoints *endpoints_get(struct instance *in, const char *uid)
{
    const struct omid_host *h = in->host;
    return h->endpoints != NULL && uid != NULL ? h->endpoints(in->inst, uid) : NULL;
}

void endpoints_put(struct instance *in, const struct omid_endpoints **set)
{
    if (*set != NULL)
        in->host->endpoints_release(set);
    *set = NULL;
}

bool endpoint_has(const struct omid_endpoint *e, enum omid_trigger trigger)
{
    return (e->triggers >> trigger & 1u) != 0;
}

struct endpoint *endpoint_of_job(struct instance *in, const char *target, const char *uid, const char **why,
                                 bool *again)
{
    *again = false;
    *why = "the endpoint is no longer configured";
    if (strstr(target, "://") != NULL) {
        for (size_t i = 0; i < in->conf->n[OMID_TRIGGER_MEMORY]; i++) {
            struct endpoint *e = in->own[OMID_TRIGGER_MEMORY][i];
            if (strcmp(e->target, target) == 0)
                return endpoint_ref(e);
        }
        return NULL;
    }
    const struct omid_endpoints *found =
        in->host->endpoint_find != NULL ? in->host->endpoint_find(in->inst, target, uid) : NULL;
    if (found == NULL) {
        *why = "the registry does not answer";
        *again = true;
        return NULL;
    }
    struct endpoint *e = NULL;
    *why = "the endpoint is gone, or disabled";
    if (found->n > 0) {
        *why = "the endpoint can't be used as it is registered";
        e = endpoint_of(in, found->endpoint[0]);
    }
    endpoints_put(in, &found);
    return e;
}

void endpoint_report_attempt(struct instance *in, const struct endpoint *e, const char *uid, enum omid_trigger trigger,
                             const struct omid_http_response *res)
{
    if (!e->registered || in->host->endpoint_report == NULL || !answer_is_attempt(res))
        return;
    enum omid_delivery_outcome outcome = OMID_DELIVERY_FAILED;
    if (answer_succeeds(e, trigger, res))
        outcome = OMID_DELIVERY_OK;
    else if (res->error == OMID_HTTP_OK && res->status == 410)
        outcome = OMID_DELIVERY_GONE;
    in->host->endpoint_report(in->inst, e->id, uid, outcome, res->error == OMID_HTTP_OK ? res->status : 0,
                              res->error != OMID_HTTP_OK ? res->error_text : NULL);
}
