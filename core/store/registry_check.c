/* What may be registered: names, URLs, types of events, filters, secrets. Pure. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/id.h"
#include "base/magic.h"
#include "base/urlkey.h"
#include "base/utf8.h"
#include "store/registry_int.h"

#define ID_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

static bool made_of(const char *s, size_t max, const char *chars)
{
    size_t n = strnlen(s, max + 1);
    return n > 0 && n <= max && strspn(s, chars) == n;
}

bool registry_id_ok(const char *id)
{
    return made_of(id, REGISTRY_MAX_ID, ID_CHARS);
}

bool registry_uid_ok(const char *uid)
{
    return made_of(uid, REGISTRY_MAX_UID, ID_CHARS ".:@");
}

/* "order.paid", "order.*", "*" */
bool registry_event_ok(const char *type)
{
    char text[REGISTRY_MAX_EVENT + 1];
    size_t n = strnlen(type, REGISTRY_MAX_EVENT + 1);
    if (strcmp(type, "*") == 0)
        return true;
    if (n == 0 || n > REGISTRY_MAX_EVENT)
        return false;
    memcpy(text, type, n + 1);
    if (n > 2 && strcmp(text + n - 2, ".*") == 0)
        text[n - 2] = '\0';
    return made_of(text, REGISTRY_MAX_EVENT, ID_CHARS ".");
}

bool registry_url_ok(const char *url, char *err, size_t errlen)
{
    char key[REGISTRY_MAX_URL + URL_KEY_EXTRA];
    const char *why = NULL;
    size_t n = strnlen(url, REGISTRY_MAX_URL + 1), scheme = strncasecmp(url, "https://", 8) == 0 ? 8 : 7;
    if (n > REGISTRY_MAX_URL)
        why = "expected a URL of at most 2048 characters";
    else if (scheme == 7 && strncasecmp(url, "http://", 7) != 0)
        why = "expected a URL that begins with http:// or https://";
    else if (memchr(url + scheme, '@', strcspn(url + scheme, "/?#")) != NULL)
        why = "expected a URL without a user and a password";
    else if (strchr(url, '#') != NULL)
        why = "expected a URL without a fragment";
    else if (!url_key(url, key, sizeof(key)) || url_key_port(key) == 0)
        why = "expected a URL with a host, and without characters that no URL has";
    if (why != NULL)
        snprintf(err, errlen, "%s", why);
    return why == NULL;
}

/* ---------------------------------------------------------------- secrets */

#define SECRET_PREFIX "whsec_"

bool registry_secret_ok(const char *secret)
{
    unsigned char bytes[BASE64_DECODED_MAX(REGISTRY_MAX_SECRET)];
    size_t len = strnlen(secret, REGISTRY_MAX_SECRET), skip = strlen(SECRET_PREFIX), n = 0;
    if (len >= REGISTRY_MAX_SECRET || strncmp(secret, SECRET_PREFIX, skip) != 0)
        return false;
    bool ok = base64_decode(secret + skip, len - skip, bytes, &n) && n >= 24 && n <= 64;
    explicit_bzero(bytes, sizeof(bytes));
    return ok;
}

void registry_secret_make(char out[REGISTRY_MAX_SECRET])
{
    unsigned char bytes[32];
    struct buf b = BUF_INIT(REGISTRY_MAX_SECRET - 1);
    id_random(bytes, sizeof(bytes));
    omid_assert(buf_puts(&b, SECRET_PREFIX) && base64_encode(bytes, sizeof(bytes), &b));
    snprintf(out, REGISTRY_MAX_SECRET, "%s", b.data);
    explicit_bzero(bytes, sizeof(bytes));
    explicit_bzero(b.data, b.len);
    buf_free(&b);
}

/* ---------------------------------------------------------------- triggers */

static const struct {
    const char *app, *webhook; /* NULL: not of this kind */
} trigger_names[OMID_TRIGGERS] = {
    [OMID_TRIGGER_TRANSCRIPT] = {"transcript_processed", "realtime_transcript"},
    [OMID_TRIGGER_AUDIO] = {"audio_bytes", "audio_bytes"},
    [OMID_TRIGGER_MEMORY] = {"memory_creation", "memory_created"},
    [OMID_TRIGGER_DAY_SUMMARY] = {NULL, "day_summary"},
};

const char *registry_trigger_name(bool app, enum omid_trigger t)
{
    return app ? trigger_names[t].app : trigger_names[t].webhook;
}

uint32_t registry_trigger(bool app, const char *name)
{
    for (unsigned t = 0; t < OMID_TRIGGERS; t++) {
        const char *known = registry_trigger_name(app, (enum omid_trigger)t);
        if (known != NULL && strcmp(known, name) == 0)
            return 1u << t;
    }
    return 0;
}

uint32_t registry_capability(const char *name)
{
    return strcmp(name, "proactive_notification") == 0 ? OMID_CAPABLE_PROACTIVE_NOTIFICATION : 0;
}

bool registry_audio_split(char *url, uint32_t *audio_ms)
{
    char *comma = strrchr(url, ',');
    if (comma == NULL || !made_of(comma + 1, 3, "0123456789"))
        return false;
    unsigned long s = strtoul(comma + 1, NULL, 10);
    if (s < 1 || s * 1000 > REGISTRY_MAX_AUDIO_MS)
        return false;
    *audio_ms = (uint32_t)s * 1000;
    *comma = '\0';
    return true;
}

/* ---------------------------------------------------------------- filters */

static const char *filter_fault(const char *text)
{
    char err[128];
    const char *why = NULL;
    size_t len = strnlen(text, REGISTRY_MAX_FILTER + 1);
    if (len == 0)
        return NULL;
    if (len > REGISTRY_MAX_FILTER)
        return "expected at most 4096 bytes";
    yajl_val v = json_parse(text, len, REGISTRY_MAX_FILTER, err, sizeof(err));
    if (!YAJL_IS_OBJECT(v)) {
        json_free(&v);
        return "expected a JSON object of paths and wanted values";
    }
    if (v->u.object.len > REGISTRY_MAX_PATHS)
        why = "expected at most 32 paths";
    for (size_t i = 0; why == NULL && i < v->u.object.len; i++) {
        const char *path = v->u.object.keys[i];
        yajl_val want = v->u.object.values[i];
        size_t n = strlen(path);
        if (n == 0 || n > 256 || path[0] == '.' || path[n - 1] == '.' || strstr(path, "..") != NULL)
            why = "expected paths of names with dots between them, as order.state";
        else if (YAJL_IS_OBJECT(want) || YAJL_IS_ARRAY(want))
            why = "expected a text, a number, true, false or null as a wanted value";
    }
    json_free(&v);
    return why;
}

/* ---------------------------------------------------------------- all of it */

static bool name_ok(const char *name)
{
    size_t n = strnlen(name, REGISTRY_MAX_NAME + 1);
    if (n > REGISTRY_MAX_NAME || !utf8_valid(name, n))
        return false;
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
            return false;
    }
    return true;
}

static const char *events_fault(const char *const *events)
{
    size_t n = 0;
    for (; events != NULL && events[n] != NULL; n++) {
        if (n == REGISTRY_MAX_EVENTS)
            return "expected at most 64 types";
        if (!registry_event_ok(events[n]))
            return "expected types such as \"order.paid\", \"order.*\" or \"*\"";
        for (size_t i = 0; i < n; i++) {
            if (strcmp(events[i], events[n]) == 0)
                return "the same type is given twice";
        }
    }
    return NULL;
}

static bool fault(char *err, size_t errlen, const char *field, const char *why)
{
    snprintf(err, errlen, "%s: %s", field, why);
    return false;
}

bool registry_spec_check(const struct registry_spec *s, char *err, size_t errlen)
{
    char why[128];
    unsigned g = s->given;
    if (!registry_id_ok(s->id))
        return fault(err, errlen, "id", "expected 1 to 64 of a-z, A-Z, 0-9, _ and -");
    /* An app may belong to nobody. */
    if ((g & REGISTRY_UID) && !(s->app && s->uid[0] == '\0') && !registry_uid_ok(s->uid))
        return fault(err, errlen, "uid", "expected 1 to 128 of a-z, A-Z, 0-9, _ . : @ and -");
    if ((g & REGISTRY_NAME) && !name_ok(s->name))
        return fault(err, errlen, "name", "expected at most 128 characters, without control characters");
    if ((g & REGISTRY_URL) && !registry_url_ok(s->url, why, sizeof(why)))
        return fault(err, errlen, "url", why);
    if ((g & REGISTRY_SETUP_URL) && s->setup_url[0] != '\0' && !registry_url_ok(s->setup_url, why, sizeof(why)))
        return fault(err, errlen, "setup_completed_url", why);
    if ((g & REGISTRY_EVENTS) && events_fault(s->events) != NULL)
        return fault(err, errlen, "events", events_fault(s->events));
    if ((g & REGISTRY_FILTER) && filter_fault(s->filter) != NULL)
        return fault(err, errlen, "filter", filter_fault(s->filter));
    if ((g & REGISTRY_AUDIO) && (s->audio_ms < 1000 || s->audio_ms > REGISTRY_MAX_AUDIO_MS))
        return fault(err, errlen, "audio_seconds", "expected a number from 1 to 60");
    if ((g & REGISTRY_RATE) && s->rate_per_min > REGISTRY_MAX_RATE)
        return fault(err, errlen, "rate_per_min", "expected a number from 0 to 1000000");
    if ((g & REGISTRY_SECRET) && !registry_secret_ok(s->secret))
        return fault(err, errlen, "secret", "expected whsec_ and the base64 of 24 to 64 bytes");
    return true;
}
