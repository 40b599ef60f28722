/* URLs: whether they can be used, what may be said of them, and what is joined to them. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "webhooks.h"

#define MAX_URL 2048

const char *url_fault(const char *url)
{
    if (strlen(url) > MAX_URL)
        return "expected a URL of at most 2048 bytes";
    for (const char *p = url; *p != '\0'; p++) {
        if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f)
            return "expected a URL without spaces, control characters or bytes beyond ASCII (percent-encode them)";
    }
    if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
        return "expected a URL that begins with http:// or https://";
    const char *authority = strstr(url, "://") + 3;
    size_t len = strcspn(authority, "/?#");
    const char *host = authority;
    for (size_t i = 0; i < len; i++) {
        if (authority[i] == '@')
            host = authority + i + 1;
    }
    const char *end = authority + len;
    const char *colon;
    if (*host == '[') {
        const char *close = memchr(host, ']', (size_t)(end - host));
        if (close == NULL || close == host + 1 || (close + 1 != end && close[1] != ':'))
            return "expected an IPv6 address in brackets";
        colon = close + 1 == end ? NULL : close + 1;
    } else {
        colon = memchr(host, ':', (size_t)(end - host));
        if ((colon != NULL ? colon : end) == host)
            return "expected a host in the URL";
    }
    if (colon != NULL) {
        char *rest = NULL;
        unsigned long port = isdigit((unsigned char)colon[1]) ? strtoul(colon + 1, &rest, 10) : 0;
        if (port < 1 || port > 65535 || rest != end)
            return "expected a port from 1 to 65535 in the URL";
    }
    return NULL;
}

char *url_origin(const char *url)
{
    const char *authority = strstr(url, "://");
    if (authority == NULL)
        return strdup("(no URL)");
    authority += 3;
    size_t len = strcspn(authority, "/?#");
    const char *host = authority;
    for (size_t i = 0; i < len; i++) {
        if (authority[i] == '@')
            host = authority + i + 1;
    }
    size_t scheme = (size_t)(authority - url);
    size_t rest = strcspn(host, "/?#");
    char *label = malloc(scheme + rest + 1);
    if (label != NULL) {
        memcpy(label, url, scheme);
        memcpy(label + scheme, host, rest);
        label[scheme + rest] = '\0';
    }
    return label;
}

static void add_percent(struct text *t, const char *s)
{
    static const char hex[] = "0123456789ABCDEF";
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;
        bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' ||
                     c == '.' || c == '_' || c == '~';
        const char esc[3] = {'%', hex[c >> 4], hex[c & 15]};
        if (plain)
            text_add(t, s, 1);
        else
            text_add(t, esc, 3);
    }
}

char *url_with(const char *base, const char *uid, uint32_t sample_rate)
{
    struct text t = {0};
    size_t len = strcspn(base, "#");
    text_reserve(&t, len + strlen(uid) + 64);
    text_add(&t, base, len);
    if (memchr(base, '?', len) == NULL)
        text_adds(&t, "?");
    else if (base[len - 1] != '?' && base[len - 1] != '&')
        text_adds(&t, "&");
    if (sample_rate > 0) {
        char rate[32];
        snprintf(rate, sizeof(rate), "sample_rate=%u&", sample_rate);
        text_adds(&t, rate);
    }
    text_adds(&t, "uid=");
    add_percent(&t, uid);
    return t.data;
}
