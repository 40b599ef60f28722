/* JSON of the admin API's apps and webhooks: every member known, once, of its type. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "admin/registry.h"
#include "base/id.h"
#include "base/magic.h"

static bool fault(char *err, size_t errlen, const char *field, const char *why)
{
    snprintf(err, errlen, "%.64s: %s", field, why);
    return false;
}

/* One member. false: err. */
typedef bool (*member_fn)(struct registry_body *b, const char *key, yajl_val v, char *err, size_t errlen);

static const char *text_of(yajl_val v)
{
    const char *s = YAJL_GET_STRING(v);
    return s;
}

static bool take_text(struct registry_body *b, const char *key, yajl_val v, char *err, size_t errlen)
{
    const struct {
        const char *key;
        const char **to;
        unsigned field;
        bool may_be_null;
    } texts[] = {
        {"id", &b->spec.id, 0, false},
        {"uid", &b->spec.uid, REGISTRY_UID, false},
        {"name", &b->spec.name, REGISTRY_NAME, false},
        {"url", &b->spec.url, REGISTRY_URL, false},
        {"setup_completed_url", &b->spec.setup_url, REGISTRY_SETUP_URL, true},
        {"secret", &b->spec.secret, REGISTRY_SECRET, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        if (strcmp(texts[i].key, key) != 0)
            continue;
        if (YAJL_IS_NULL(v) && texts[i].may_be_null)
            *texts[i].to = "";
        else if (YAJL_IS_STRING(v))
            *texts[i].to = text_of(v);
        else
            return fault(err, errlen, key, "expected a text");
        b->spec.given |= texts[i].field;
    }
    return true;
}

static bool take_bool(struct registry_body *b, const char *key, yajl_val v, char *err, size_t errlen)
{
    bool ordered = strcmp(key, "ordered") == 0;
    if (!YAJL_IS_TRUE(v) && !YAJL_IS_FALSE(v))
        return fault(err, errlen, key, "expected true or false");
    *(ordered ? &b->spec.ordered : &b->spec.enabled) = YAJL_IS_TRUE(v);
    b->spec.given |= ordered ? REGISTRY_ORDERED : REGISTRY_ENABLED;
    return true;
}

static bool take_number(struct registry_body *b, const char *key, yajl_val v, char *err, size_t errlen)
{
    bool rate = strcmp(key, "rate_per_min") == 0;
    double max = rate ? REGISTRY_MAX_RATE : REGISTRY_MAX_AUDIO_MS / 1000., min = rate ? 0 : 1;
    char why[64];
    double n = YAJL_IS_INTEGER(v) ? (double)YAJL_GET_INTEGER(v) : YAJL_IS_DOUBLE(v) ? YAJL_GET_DOUBLE(v) : -1;
    if (!(n >= min && n <= max) || floor(n) != n) {
        snprintf(why, sizeof(why), "expected a whole number from %g to %.0f", min, max);
        return fault(err, errlen, key, why);
    }
    *(rate ? &b->spec.rate_per_min : &b->spec.audio_ms) = (uint32_t)n * (rate ? 1u : 1000u);
    b->spec.given |= rate ? REGISTRY_RATE : REGISTRY_AUDIO;
    return true;
}

/* The names that may stand there, for a message. */
static void trigger_names(bool app, char *out, size_t size)
{
    size_t at = (size_t)snprintf(out, size, "expected");
    const char *comma = " ";
    for (unsigned t = 0; t < OMID_TRIGGERS; t++) {
        const char *name = registry_trigger_name(app, (enum omid_trigger)t);
        if (name != NULL && at < size) {
            at += (size_t)snprintf(out + at, size - at, "%s%s", comma, name);
            comma = ", ";
        }
    }
}

static bool take_trigger(struct registry_body *b, const char *key, yajl_val v, char *err, size_t errlen)
{
    char why[160];
    uint32_t bit = YAJL_IS_STRING(v) ? registry_trigger(b->spec.app, text_of(v)) : 0;
    if (bit == 0) {
        trigger_names(b->spec.app, why, sizeof(why));
        return fault(err, errlen, key, why);
    }
    if ((b->spec.triggers & bit) != 0)
        return fault(err, errlen, key, "the same one is given twice");
    b->spec.triggers |= bit;
    return true;
}

/* "type" is one of them, as a text. */
static bool take_triggers(struct registry_body *b, const char *key, yajl_val v, char *err, size_t errlen)
{
    if ((b->spec.given & REGISTRY_TRIGGERS) != 0)
        return fault(err, errlen, key, "triggers and type mean the same: expected one of them");
    b->spec.given |= REGISTRY_TRIGGERS;
    if (strcmp(key, "type") == 0)
        return take_trigger(b, key, v, err, errlen);
    if (!YAJL_IS_ARRAY(v))
        return fault(err, errlen, key, "expected an array of texts");
    for (size_t i = 0; i < json_len(v); i++) {
        if (!take_trigger(b, key, json_at(v, i), err, errlen))
            return false;
    }
    return true;
}

static bool take_events(struct registry_body *b, const char *key, yajl_val v, char *err, size_t errlen)
{
    if (!YAJL_IS_ARRAY(v) || json_len(v) > REGISTRY_MAX_EVENTS)
        return fault(err, errlen, key, "expected an array of at most 64 texts");
    for (size_t i = 0; i < json_len(v); i++) {
        if (!YAJL_IS_STRING(json_at(v, i)))
            return fault(err, errlen, key, "expected an array of texts");
        b->events[i] = text_of(json_at(v, i));
    }
    b->spec.given |= REGISTRY_EVENTS;
    return true;
}

static bool take_capabilities(struct registry_body *b, const char *key, yajl_val v, char *err, size_t errlen)
{
    if (!YAJL_IS_ARRAY(v))
        return fault(err, errlen, key, "expected an array of texts");
    for (size_t i = 0; i < json_len(v); i++) {
        uint32_t bit = YAJL_IS_STRING(json_at(v, i)) ? registry_capability(text_of(json_at(v, i))) : 0;
        if (bit == 0)
            return fault(err, errlen, key, "expected proactive_notification");
        b->spec.capabilities |= bit;
    }
    b->spec.given |= REGISTRY_CAPABILITIES;
    return true;
}

static bool take_filter(struct registry_body *b, const char *key, yajl_val v, char *err, size_t errlen)
{
    b->spec.given |= REGISTRY_FILTER;
    if (YAJL_IS_NULL(v) || (YAJL_IS_OBJECT(v) && v->u.object.len == 0))
        return true;
    if (!YAJL_IS_OBJECT(v))
        return fault(err, errlen, key, "expected an object of paths and wanted values, or null");
    struct buf out = BUF_INIT(REGISTRY_MAX_FILTER);
    struct json_w w;
    json_w_start(&w, &out);
    json_w_tree(&w, v);
    bool ok = json_w_end(&w);
    if (ok)
        snprintf(b->filter, sizeof(b->filter), "%s", out.data);
    buf_free(&out);
    return ok || fault(err, errlen, key, "expected at most 4096 bytes");
}

enum kinds { APPS = 1, WEBHOOKS = 2, CREATE = 4 /* not in a change */ };
static const struct member {
    const char *key;
    unsigned of;
    member_fn take;
} members[] = {
    {"id", APPS | WEBHOOKS | CREATE, take_text},
    {"uid", APPS | WEBHOOKS, take_text},
    {"name", APPS, take_text},
    {"url", APPS | WEBHOOKS, take_text},
    {"setup_completed_url", APPS, take_text},
    {"secret", APPS | WEBHOOKS | CREATE, take_text},
    {"triggers", APPS | WEBHOOKS, take_triggers},
    {"type", WEBHOOKS, take_triggers},
    {"events", APPS | WEBHOOKS, take_events},
    {"filter", APPS | WEBHOOKS, take_filter},
    {"capabilities", APPS, take_capabilities},
    {"audio_seconds", APPS | WEBHOOKS, take_number},
    {"rate_per_min", APPS | WEBHOOKS, take_number},
    {"ordered", APPS | WEBHOOKS, take_bool},
    {"enabled", APPS | WEBHOOKS, take_bool},
};

static bool take(struct registry_body *b, bool create, const char *key, yajl_val v, char *err, size_t errlen)
{
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        const struct member *m = &members[i];
        if (strcmp(m->key, key) != 0 || (m->of & (b->spec.app ? APPS : WEBHOOKS)) == 0)
            continue;
        if (!create && (m->of & CREATE) != 0)
            return fault(err, errlen, key,
                         strcmp(key, "id") == 0 ? "it can't be changed" : "it is changed by POST to .../secret");
        return m->take(b, key, v, err, errlen);
    }
    return fault(err, errlen, key, "there is no such field");
}

/* NULL: err. Every name once; NULs are in no text. */
static yajl_val object_parse(const char *text, size_t len, char *err, size_t errlen)
{
    char why[200];
    if (text == NULL)
        text = "";
    if (memchr(text, '\0', len) != NULL || memmem(text, len, "\\u0000", 6) != NULL) {
        snprintf(err, errlen, "expected a body without NUL characters");
        return NULL;
    }
    yajl_val v = json_parse(text, len, REGISTRY_MAX_BODY, why, sizeof(why));
    if (v == NULL || !YAJL_IS_OBJECT(v)) {
        snprintf(err, errlen, "expected a JSON object%s%s", v == NULL ? ": " : "", v == NULL ? why : "");
        json_free(&v);
        return NULL;
    }
    for (size_t i = 0; i < v->u.object.len; i++) {
        for (size_t k = 0; k < i; k++) {
            if (strcmp(v->u.object.keys[i], v->u.object.keys[k]) == 0) {
                fault(err, errlen, v->u.object.keys[i], "it is given twice");
                json_free(&v);
                return NULL;
            }
        }
    }
    return v;
}

/* "url,seconds" of a developer's audio webhook. */
static bool take_audio_url(struct registry_body *b, const struct registry_entry *now, char *err, size_t errlen)
{
    const struct registry_spec *s = &b->spec;
    uint32_t triggers = s->given & REGISTRY_TRIGGERS ? s->triggers : now != NULL ? now->triggers : 0;
    if (s->app || (s->given & REGISTRY_URL) == 0 || (triggers & 1u << OMID_TRIGGER_AUDIO) == 0 ||
        strlen(s->url) >= sizeof(b->url))
        return true;
    uint32_t ms;
    snprintf(b->url, sizeof(b->url), "%s", s->url);
    if (!registry_audio_split(b->url, &ms))
        return true;
    if (s->given & REGISTRY_AUDIO)
        return fault(err, errlen, "audio_seconds", "it is given in the URL, too");
    b->spec.url = b->url;
    b->spec.audio_ms = ms;
    b->spec.given |= REGISTRY_AUDIO;
    return true;
}

static bool check_whole(struct registry_body *b, const struct registry_entry *now, char *err, size_t errlen)
{
    struct registry_spec *s = &b->spec;
    bool create = now == NULL;
    if (create && s->id == NULL) {
        char uuid[37];
        id_uuid4(uuid);
        snprintf(b->id, sizeof(b->id), "%s", uuid);
        s->id = b->id;
    }
    if (create && (s->given & REGISTRY_URL) == 0)
        return fault(err, errlen, "url", "it is missing");
    if (create && !s->app && (s->given & REGISTRY_UID) == 0)
        return fault(err, errlen, "uid", "it is missing");
    if (!create && !s->app && (s->given & REGISTRY_UID) != 0 && strcmp(s->uid, now->uid) != 0)
        return fault(err, errlen, "uid", "it can't be changed");
    if (!take_audio_url(b, now, err, errlen) || !registry_spec_check(s, err, errlen))
        return false;
    uint32_t triggers = s->given & REGISTRY_TRIGGERS ? s->triggers : now != NULL ? now->triggers : 0;
    bool events = s->given & REGISTRY_EVENTS ? b->events[0] != NULL : now != NULL && now->events[0] != NULL;
    if ((triggers & ~(1u << OMID_TRIGGER_EVENT)) == 0 && !events)
        return fault(err, errlen, "triggers", "expected at least one of them, or of events");
    return true;
}

bool registry_body_read(struct registry_body *b, bool app, const struct registry_entry *now, const char *text,
                        size_t len, char *err, size_t errlen)
{
    *b = (struct registry_body){.spec = {.app = app, .enabled = true}};
    b->spec.events = b->events;
    b->spec.filter = b->filter;
    if (now != NULL)
        b->spec.id = now->id;
    b->json = object_parse(text, len, err, errlen);
    if (b->json == NULL)
        return false;
    for (size_t i = 0; i < b->json->u.object.len; i++) {
        if (!take(b, now == NULL, b->json->u.object.keys[i], b->json->u.object.values[i], err, errlen))
            return false;
    }
    return check_whole(b, now, err, errlen);
}

void registry_body_free(struct registry_body *b)
{
    json_free(&b->json);
}

bool registry_body_texts(yajl_val *json, const char *const *names, const char **value, size_t n, const char *text,
                         size_t len, char *err, size_t errlen)
{
    for (size_t k = 0; k < n; k++)
        value[k] = NULL;
    *json = NULL;
    if (len == 0)
        return true;
    *json = object_parse(text, len, err, errlen);
    if (*json == NULL)
        return false;
    for (size_t i = 0; i < (*json)->u.object.len; i++) {
        const char *key = (*json)->u.object.keys[i];
        yajl_val v = (*json)->u.object.values[i];
        size_t k = 0;
        while (k < n && strcmp(names[k], key) != 0)
            k++;
        if (k == n)
            return fault(err, errlen, key, "there is no such field");
        if (!YAJL_IS_STRING(v))
            return fault(err, errlen, key, "expected a text");
        value[k] = text_of(v);
    }
    return true;
}
