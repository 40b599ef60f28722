#include "outcome.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const kit_outcome_names[KIT_OUTCOMES] = {
    [KIT_OK] = "ok",
    [KIT_UNREACHED] = "unreached",
    [KIT_TIMEOUT] = "timeout",
    [KIT_BUSY] = "busy",
    [KIT_REFUSED] = "refused",
    [KIT_SERVER] = "server",
    [KIT_BAD_ANSWER] = "bad_answer",
    [KIT_STOPPED] = "stopped",
};

static enum kit_outcome of_error(enum omid_http_error error)
{
    switch (error) {
    case OMID_HTTP_TIMEOUT:
        return KIT_TIMEOUT;
    case OMID_HTTP_FULL:
    case OMID_HTTP_QUEUE_TIMEOUT:
    case OMID_HTTP_BREAKER:
    case OMID_HTTP_SUPERSEDED:
        return KIT_BUSY;
    case OMID_HTTP_PROTOCOL:
        return KIT_BAD_ANSWER;
    case OMID_HTTP_SHUTDOWN:
        return KIT_STOPPED;
    default:
        return KIT_UNREACHED;
    }
}

enum kit_outcome kit_outcome_of(const struct omid_http_response *res, char *text, size_t size)
{
    text[0] = '\0';
    if (res->error != OMID_HTTP_OK) {
        snprintf(text, size, "%s", res->error_text);
        return of_error(res->error);
    }
    if (res->status < 200 || res->status > 299) {
        snprintf(text, size, "HTTP status %d", res->status);
        return res->status == 429 || res->status == 503 ? KIT_BUSY : res->status >= 500 ? KIT_SERVER : KIT_REFUSED;
    }
    if (res->truncated) {
        snprintf(text, size, "an answer of more than %zu bytes", res->body_len);
        return KIT_BAD_ANSWER;
    }
    return KIT_OK;
}

int kit_outcome_result(enum kit_outcome outcome)
{
    switch (outcome) {
    case KIT_OK:
        return OMID_OK;
    case KIT_TIMEOUT:
        return OMID_ETIMEOUT;
    case KIT_BUSY:
        return OMID_EFULL;
    case KIT_STOPPED:
        return OMID_ECLOSED;
    default:
        return OMID_ERR;
    }
}

const char *kit_url_fault(const char *url)
{
    size_t scheme = strncmp(url, "http://", 7) == 0 ? 7 : strncmp(url, "https://", 8) == 0 ? 8 : 0;
    if (scheme == 0 || strchr("/?#", url[scheme]) != NULL)
        return "expected http:// or https:// and a host";
    if (strpbrk(url, "?#") != NULL)
        return "expected a URL without query and fragment";
    if (strchr(url, '@') != NULL)
        return "expected no user and no password in it";
    for (const char *p = url; *p != '\0'; p++) {
        if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f)
            return "expected printable ASCII without blanks";
    }
    return NULL;
}

char *kit_url_join(const char *base, const char *path)
{
    size_t n = strlen(base);
    while (n > 0 && base[n - 1] == '/')
        n--;
    char *out = malloc(n + strlen(path) + 1);
    if (out != NULL) {
        memcpy(out, base, n);
        strcpy(out + n, path);
    }
    return out;
}
