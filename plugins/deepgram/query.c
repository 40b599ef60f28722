/* Which model and language, and the URL that asks for them. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "deepgram.h"

static const struct {
    const char *name, *wire, *terms; /* in omi.conf; model=; the parameter of the terms to listen for */
} models[DG_MODELS] = {
    [DG_NOVA_3] = {"dg-nova-3", "nova-3", "keyterm"},
    [DG_NOVA_2] = {"dg-nova-2", "nova-2", "keywords"},
};

/* Deepgram's table of models and languages. `multi`: nova-3 hears it with its multilingual model. */
#define NOVA_3 (1u << DG_NOVA_3)
#define NOVA_2 (1u << DG_NOVA_2)
#define BOTH (NOVA_3 | NOVA_2)
static const struct {
    const char *code;
    unsigned served_by;
    bool multi;
} languages[] = {
    {"multi", BOTH, true},      {"en", BOTH, true},       {"en-US", BOTH, true},      {"en-AU", BOTH, true},
    {"en-GB", BOTH, true},      {"en-IN", BOTH, true},    {"en-NZ", BOTH, true},      {"es", BOTH, true},
    {"es-419", BOTH, true},     {"fr", BOTH, true},       {"fr-CA", BOTH, true},      {"de", BOTH, true},
    {"hi", BOTH, true},         {"ru", BOTH, true},       {"pt", BOTH, true},         {"pt-BR", BOTH, true},
    {"pt-PT", BOTH, true},      {"ja", BOTH, true},       {"it", BOTH, true},         {"nl", BOTH, true},
    {"bg", BOTH, false},        {"ca", BOTH, false},      {"cs", BOTH, false},        {"da", BOTH, false},
    {"da-DK", BOTH, false},     {"de-CH", BOTH, false},   {"el", BOTH, false},        {"et", BOTH, false},
    {"fi", BOTH, false},        {"hu", BOTH, false},      {"id", BOTH, false},        {"ko", BOTH, false},
    {"ko-KR", BOTH, false},     {"lt", BOTH, false},      {"lv", BOTH, false},        {"ms", BOTH, false},
    {"nl-BE", BOTH, false},     {"no", BOTH, false},      {"pl", BOTH, false},        {"ro", BOTH, false},
    {"sk", BOTH, false},        {"sv", BOTH, false},      {"sv-SE", BOTH, false},     {"tr", BOTH, false},
    {"uk", BOTH, false},        {"vi", BOTH, false},      {"th", NOVA_2, false},      {"th-TH", NOVA_2, false},
    {"zh", NOVA_2, false},      {"zh-CN", NOVA_2, false}, {"zh-Hans", NOVA_2, false}, {"zh-TW", NOVA_2, false},
    {"zh-Hant", NOVA_2, false}, {"zh-HK", NOVA_2, false},
};

bool dg_model_find(const char *name, enum dg_model *model)
{
    for (int i = 0; i < DG_MODELS; i++) {
        if (strcmp(name, models[i].name) == 0) {
            *model = (enum dg_model)i;
            return true;
        }
    }
    return false;
}

const char *dg_language_map(enum dg_model model, const char *language, const struct dg_languages *langs)
{
    for (size_t i = 0; i < sizeof(languages) / sizeof(languages[0]); i++) {
        if (strcasecmp(language, languages[i].code) != 0)
            continue;
        if (!(languages[i].served_by & (1u << model)))
            break;
        if (model == DG_NOVA_3 && languages[i].multi && !langs->single)
            return "multi";
        return languages[i].code;
    }
    for (size_t i = 0; i < langs->n; i++) {
        if (strcasecmp(language, langs->extra[i]) == 0)
            return langs->extra[i];
    }
    return NULL;
}

bool dg_language_is_english(const char *language)
{
    return strncasecmp(language, "en", 2) == 0 && (language[2] == '\0' || language[2] == '-');
}

char *dg_endpoint(const char *base, char *err, size_t errlen)
{
    static const struct {
        const char *from, *to;
    } schemes[] = {{"https://", "wss://"}, {"http://", "ws://"}, {"wss://", "wss://"}, {"ws://", "ws://"}};
    const char *to = NULL, *rest = NULL;

    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]) && !rest; i++) {
        size_t n = strlen(schemes[i].from);
        if (strncasecmp(base, schemes[i].from, n) == 0) {
            to = schemes[i].to;
            rest = base + n;
        }
    }
    if (!rest) {
        snprintf(err, errlen, "expected a URL with http, https, ws or wss");
        return NULL;
    }
    size_t host = strcspn(rest, "/?#");
    if (host == 0 || rest[0] == ':') {
        snprintf(err, errlen, "expected a host after the scheme");
        return NULL;
    }
    if (memchr(rest, '@', host)) {
        snprintf(err, errlen, "expected no user or password in the URL; the key has an option of its own");
        return NULL;
    }
    if (strpbrk(rest, "?#")) {
        snprintf(err, errlen, "expected no query or fragment; the query is made for each stream");
        return NULL;
    }
    for (const unsigned char *p = (const unsigned char *)rest; *p; p++) {
        if (*p <= ' ' || *p >= 0x7f || *p == '"' || *p == '<' || *p == '>' || *p == '\\') {
            snprintf(err, errlen, "expected a URL without blanks, control or non-ASCII characters");
            return NULL;
        }
    }
    size_t n = strlen(rest);
    while (n > 0 && rest[n - 1] == '/')
        n--;
    size_t size = strlen(to) + n + sizeof("/v1/listen");
    char *out = malloc(size);
    if (!out) {
        snprintf(err, errlen, "no memory");
        return NULL;
    }
    snprintf(out, size, "%s%.*s/v1/listen", to, (int)n, rest);
    return out;
}

/* A growing string; once memory is short it stays NULL. */
struct text {
    char *s;
    size_t len, size;
    bool failed;
};

static void text_add(struct text *t, const char *s, size_t n)
{
    if (t->failed)
        return;
    if (t->size - t->len <= n) {
        size_t size = (t->size + n + 1) * 2;
        char *grown = realloc(t->s, size);
        if (!grown) {
            t->failed = true;
            return;
        }
        t->s = grown;
        t->size = size;
    }
    memcpy(t->s + t->len, s, n);
    t->len += n;
    t->s[t->len] = '\0';
}

static void text_adds(struct text *t, const char *s)
{
    text_add(t, s, strlen(s));
}

/* RFC 3986: everything but the unreserved. */
static void text_add_encoded(struct text *t, const char *s)
{
    static const char hex[] = "0123456789ABCDEF";
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if ((c < 0x80 && isalnum(c)) || strchr("-._~", c)) {
            text_add(t, s, 1);
        } else {
            char enc[3] = {'%', hex[c >> 4], hex[c & 15]};
            text_add(t, enc, 3);
        }
    }
}

char *dg_query_url(const char *endpoint, const struct dg_query *q)
{
    struct text t = {0};

    char rate[16];
    snprintf(rate, sizeof(rate), "%u", (unsigned)q->sample_rate);
    text_adds(&t, endpoint);
    text_adds(&t, "?punctuate=true&no_delay=true&endpointing=300&language=");
    text_add_encoded(&t, q->language);
    text_adds(&t, "&interim_results=false&smart_format=true&profanity_filter=false&diarize=true&filler_words=");
    text_adds(&t, q->english ? "false" : "true");
    text_adds(&t, "&channels=1&multichannel=false&model=");
    text_adds(&t, models[q->model].wire);
    text_adds(&t, "&sample_rate=");
    text_adds(&t, rate);
    text_adds(&t, "&encoding=linear16");
    for (size_t i = 0; i < q->n; i++) {
        text_adds(&t, "&");
        text_adds(&t, models[q->model].terms);
        text_adds(&t, "=");
        text_add_encoded(&t, q->keyterms[i]);
    }
    if (t.failed) {
        free(t.s);
        return NULL;
    }
    return t.s;
}

char *dg_recording_url(const char *endpoint, const struct dg_query *q)
{
    struct text t = {0};
    bool tls = strncmp(endpoint, "wss://", 6) == 0;

    text_adds(&t, tls ? "https://" : "http://");
    text_adds(&t, endpoint + (tls ? 6 : 5));
    text_adds(&t, "?model=");
    text_adds(&t, models[q->model].wire);
    text_adds(&t, "&smart_format=true&punctuate=true&diarize=true&utterances=true&language=");
    text_add_encoded(&t, q->language);
    if (t.failed) {
        free(t.s);
        return NULL;
    }
    return t.s;
}
