#include "session/params.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/id.h"
#include "base/magic.h"
#include "base/query.h"

/* Sources: the listen protocol, Query parameters. */
#define TIMEOUT_CAP_S 14400

static bool number(const struct query *q, const char *name, long def, long *out, char *err, size_t errlen)
{
    const char *s = query_get(q, name);
    *out = def;
    if (!s)
        return true;
    const char *digits = s + (*s == '-' || *s == '+'); /* a bare '+' in a query is a space, and refused */
    errno = 0;
    long v = strtol(s, NULL, 10);
    if (!*digits || digits[strspn(digits, "0123456789")] || errno) {
        snprintf(err, errlen, "%s: expected an integer, found \"%.32s\"", name, s);
        return false;
    }
    *out = v;
    return true;
}

static bool boolean(const struct query *q, const char *name, bool def, bool *out, char *err, size_t errlen)
{
    static const char *const yes[] = {"true", "1", "yes", "on", "t", "y"};
    static const char *const no[] = {"false", "0", "no", "off", "f", "n"};
    const char *s = query_get(q, name);
    *out = def;
    if (!s)
        return true;
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (strcasecmp(s, yes[i]) == 0) {
            *out = true;
            return true;
        }
        if (strcasecmp(s, no[i]) == 0) {
            *out = false;
            return true;
        }
    }
    snprintf(err, errlen, "%s: expected true or false, found \"%.32s\"", name, s);
    return false;
}

/* enabled | disabled */
static bool choice(const struct query *q, const char *name, enum listen_choice *out, char *err, size_t errlen)
{
    const char *s = query_get(q, name);
    *out = CHOICE_NONE;
    if (s && strcmp(s, "enabled") == 0)
        *out = CHOICE_ENABLED;
    else if (s && strcmp(s, "disabled") == 0)
        *out = CHOICE_DISABLED;
    if (s && *out == CHOICE_NONE)
        snprintf(err, errlen, "%s: expected enabled or disabled, found \"%.32s\"", name, s);
    return !s || *out != CHOICE_NONE;
}

/* The same for what is off unless enabled. */
static bool toggle(const struct query *q, const char *name, bool *out, char *err, size_t errlen)
{
    enum listen_choice c;
    bool ok = choice(q, name, &c, err, errlen);
    *out = c == CHOICE_ENABLED;
    return ok;
}

static void text(const struct query *q, const char *name, const char *def, char *out, size_t len)
{
    const char *s = query_get(q, name);
    snprintf(out, len, "%s", s ? s : def);
    /* Cut at a character: a half one would poison the JSON it is written into. */
    size_t n = strlen(out);
    if (s && strlen(s) > n) {
        while (n > 0 && ((unsigned char)out[n - 1] & 0xc0) == 0x80)
            n--;
        if (n > 0 && (unsigned char)out[n - 1] >= 0x80)
            n--;
        out[n] = 0;
    }
}

int64_t listen_params_timeout_ms(const struct listen_params *p, const struct conf *conf)
{
    if (p->channels > 1)
        return TIMEOUT_CAP_S * INT64_C(1000);
    if (!p->timeout_given)
        return conf->listen.conversation_timeout_ms;
    if (p->timeout_s == -1 || p->timeout_s > TIMEOUT_CAP_S)
        return TIMEOUT_CAP_S * INT64_C(1000);
    int64_t ms = p->timeout_s < 0 ? 0 : (int64_t)p->timeout_s * 1000;
    return ms < conf->listen.conversation_timeout_floor_ms ? conf->listen.conversation_timeout_floor_ms : ms;
}

static bool parse(struct listen_params *p, const struct query *q, char *err, size_t errlen)
{
    if (!number(q, "sample_rate", 8000, &p->client_rate, err, errlen) ||
        !number(q, "channels", 1, &p->channels, err, errlen) ||
        !number(q, "conversation_timeout", 120, &p->timeout_s, err, errlen) ||
        !boolean(q, "include_speech_profile", true, &p->include_speech_profile, err, errlen) ||
        !toggle(q, "custom_stt", &p->custom_stt, err, errlen) || !choice(q, "vad_gate", &p->vad_gate, err, errlen) ||
        !toggle(q, "speaker_auto_assign", &p->speaker_auto_assign, err, errlen))
        return false;
    if (p->channels < 1 || p->channels > 8) {
        snprintf(err, errlen, "channels: expected 1 to 8, found %ld", p->channels);
        return false;
    }
    p->timeout_given = query_get(q, "conversation_timeout") != NULL;
    text(q, "language", "en", p->language, sizeof p->language);
    if (strcasecmp(p->language, "auto") == 0 || strcasecmp(p->language, "multi") == 0)
        snprintf(p->language, sizeof p->language, "multi");
    text(q, "codec", "pcm8", p->codec_name, sizeof p->codec_name);
    p->codec = codec_find(p->codec_name);
    p->sample_rate = codec_session_rate(p->codec, p->channels, p->client_rate);
    text(q, "source", "omi", p->source, sizeof p->source);
    text(q, "stt_service", "", p->stt_service, sizeof p->stt_service);
    text(q, "call_id", "", p->call_id, sizeof p->call_id);
    const char *resume = query_get(q, "client_conversation_id");
    /* An id of another form names no conversation of ours: nothing to resume. */
    if (resume && id_is_uuid(resume))
        snprintf(p->resume_id, sizeof p->resume_id, "%s", resume);
    return true;
}

bool listen_params_parse(struct listen_params *p, const char *query, char *err, size_t errlen)
{
    struct query q;
    *p = (struct listen_params){0};
    if (!query_parse(&q, query, strlen(query), err, errlen))
        return false;
    bool ok = parse(p, &q, err, errlen);
    query_free(&q);
    return ok;
}
