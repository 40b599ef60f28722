#include "base/urlkey.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/magic.h"

static const struct {
    const char *prefix, *port;
} schemes[] = {{"http://", "80"}, {"https://", "443"}, {"ws://", "80"}, {"wss://", "443"}};

bool url_key(const char *url, char *out, size_t size)
{
    size_t at = 0, s = 0;

    for (const unsigned char *c = (const unsigned char *)url; *c; c++) {
        if (*c <= ' ' || *c == 0x7f || *c == '\\')
            return false;
    }
    while (s < ARRAY_LEN(schemes) && strncasecmp(url, schemes[s].prefix, strlen(schemes[s].prefix)) != 0)
        s++;
    if (s == ARRAY_LEN(schemes))
        return false;
    const char *authority = url + strlen(schemes[s].prefix);
    size_t len = strcspn(authority, "/?#");
    const char *path = authority + len;
    size_t path_len = strcspn(path, "?#");
    for (size_t i = len; i > 0; i--) { /* a password is no part of a name that is shown */
        if (authority[i - 1] == '@') {
            authority += i;
            len -= i;
            break;
        }
    }
    const char *bracket = memchr(authority, ']', len);
    const char *colon =
        memchr(bracket ? bracket : authority, ':', len - (size_t)((bracket ? bracket : authority) - authority));
    size_t host_len = colon ? (size_t)(colon - authority) : len;
    size_t port_len = colon ? len - host_len - 1 : 0;
    const char *port = port_len > 0 ? colon + 1 : schemes[s].port;
    port_len = port_len > 0 ? port_len : strlen(port);
    if (host_len == 0 || strlen(schemes[s].prefix) + host_len + 1 + port_len + path_len + 2 > size)
        return false;
    for (const char *c = schemes[s].prefix; *c; c++)
        out[at++] = *c;
    for (size_t i = 0; i < host_len; i++)
        out[at++] = (char)tolower((unsigned char)authority[i]);
    out[at++] = ':';
    memcpy(out + at, port, port_len);
    at += port_len;
    if (path_len == 0)
        out[at++] = '/';
    memcpy(out + at, path, path_len);
    out[at + path_len] = 0;
    return true;
}

size_t url_key_origin(const char *key)
{
    const char *host = strstr(key, "://");
    return host ? (size_t)(host + 3 - key) + strcspn(host + 3, "/") : 0;
}

bool url_key_same_origin(const char *a, const char *b)
{
    size_t n = url_key_origin(a);
    return n > 0 && n == url_key_origin(b) && strncmp(a, b, n) == 0;
}

unsigned url_key_port(const char *key)
{
    const char *host = strstr(key, "://") + 3, *end = key + url_key_origin(key);
    const char *bracket = *host == '[' ? memchr(host, ']', (size_t)(end - host)) : NULL;
    const char *at = bracket ? bracket + 1 : host + strcspn(host, ":");
    unsigned port = 0;

    if (*host == '[' ? !bracket || *at != ':' : at >= end)
        return 0;
    if (*++at == '0' || end - at > 5)
        return 0;
    for (; at < end; at++) {
        if (*at < '0' || *at > '9')
            return 0;
        port = port * 10 + (unsigned)(*at - '0');
    }
    return port <= 65535 ? port : 0;
}

bool url_has_extras(const char *url)
{
    const char *host = strstr(url, "://");
    if (!host)
        return false;
    host += 3;
    size_t authority = strcspn(host, "/?#");
    return memchr(host, '@', authority) || host[strcspn(host, "?#")] != '\0';
}

/* A text that is no URL is not taken apart: whatever stands before its last @ may be a password. */
void url_show(const char *url, char *out, size_t size)
{
    const char *at = strrchr(url, '@');
    size_t word = strspn(url, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789");
    size_t shown = strncmp(url + word, "://", 3) == 0 ? word + 3 : 0;
    const char *rest = at ? at + 1 : url + shown;
    size_t plain = strcspn(rest, "?#");
    snprintf(out, size, "%.*s%s%.*s%s", (int)shown, url, at ? "***@" : "", (int)plain, rest, rest[plain] ? "?***" : "");
}
