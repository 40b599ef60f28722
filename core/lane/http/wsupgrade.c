#include "lane/http/wsupgrade.h"

#include <curl/curl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/id.h"
#include "base/wsframe.h"

/* ------------------------------------------------------------------ the URL */

static bool url_part(CURLU *u, CURLUPart part, unsigned flags, char **out)
{
    *out = NULL;
    return curl_url_get(u, part, out, flags) == CURLUE_OK;
}

static bool url_split(CURLU *u, struct ws_url *out)
{
    char *host = NULL, *port = NULL, *path = NULL, *query = NULL;
    bool has_port = url_part(u, CURLUPART_PORT, 0, &port);
    bool has_query = url_part(u, CURLUPART_QUERY, 0, &query);
    bool ok = url_part(u, CURLUPART_HOST, 0, &host) && url_part(u, CURLUPART_PATH, 0, &path);

    if (ok) {
        int n = asprintf(&out->host, "%s%s%s", host, has_port ? ":" : "", has_port ? port : "");
        out->host = n < 0 ? NULL : out->host;
        n = asprintf(&out->path, "%s%s%s", path, has_query ? "?" : "", has_query ? query : "");
        out->path = n < 0 ? NULL : out->path;
    }
    curl_free(host);
    curl_free(port);
    curl_free(path);
    curl_free(query);
    return ok && out->host && out->path;
}

bool ws_url_parse(const char *url, struct ws_url *out, const char **why)
{
    char *user = NULL;

    *out = (struct ws_url){0};
    *why = "the URL must begin with ws:// or wss://";
    if (strncasecmp(url, "ws://", 5) != 0 && strncasecmp(url, "wss://", 6) != 0)
        return false;
    *why = "the URL holds characters that no URL has";
    for (const unsigned char *c = (const unsigned char *)url; *c; c++) {
        if (*c <= ' ' || *c >= 0x7f)
            return false;
    }
    out->tls = (url[2] | 0x20) == 's';
    *why = "the URL has no host"; /* curl would forgive a slash too many */
    if (strchr("/?#", url[out->tls ? 6 : 5]))
        return false;
    *why = "no memory";
    int n = asprintf(&out->http, "%s%s", out->tls ? "https" : "http", strchr(url, ':'));
    out->http = n < 0 ? NULL : out->http;
    CURLU *u = out->http ? curl_url() : NULL;
    if (!u) {
        ws_url_free(out);
        return false;
    }
    *why = "the URL can't be read";
    bool ok = curl_url_set(u, CURLUPART_URL, out->http, 0) == CURLUE_OK;
    if (ok && url_part(u, CURLUPART_USER, 0, &user)) {
        *why = "the URL holds a user name: use a header";
        ok = false;
    }
    ok = ok && url_split(u, out);
    curl_free(user);
    curl_url_cleanup(u);
    if (!ok)
        ws_url_free(out);
    return ok;
}

void ws_url_free(struct ws_url *u)
{
    free(u->http);
    free(u->host);
    free(u->path);
    *u = (struct ws_url){0};
}

/* ------------------------------------------------------------------ the request */

/* Is the header line of `len` bytes, of which nothing behind is touched, one of this name? */
static bool names(const char *line, size_t len, const char *name)
{
    size_t n = strlen(name);
    return len > n && line[n] == ':' && strncasecmp(line, name, n) == 0;
}

static const char *const own_headers[] = {
    "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Host", "Sec-WebSocket-Extensions"};

bool ws_request_build(struct buf *out, const struct ws_url *u, const char *const *headers, char key[25])
{
    unsigned char nonce[16];

    id_random(nonce, sizeof nonce);
    EVP_EncodeBlock((unsigned char *)key, nonce, sizeof nonce);
    bool ok = buf_printf(out,
                         "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n",
                         u->path, u->host, key);
    for (size_t i = 0; ok && headers && headers[i]; i++) {
        bool own = false;
        for (size_t k = 0; k < sizeof own_headers / sizeof own_headers[0]; k++)
            own |= names(headers[i], strlen(headers[i]), own_headers[k]);
        if (!own)
            ok = buf_printf(out, "%s\r\n", headers[i]);
    }
    return ok && buf_puts(out, "\r\n");
}

/* ------------------------------------------------------------------ the answer */

/* Is `word` among the comma-separated values? */
static bool value_has(const char *v, size_t len, const char *word)
{
    size_t n = strlen(word);

    while (len > 0) {
        size_t part = 0;
        while (part < len && v[part] != ',')
            part++;
        size_t from = 0, to = part;
        while (from < to && (v[from] == ' ' || v[from] == '\t'))
            from++;
        while (to > from && (v[to - 1] == ' ' || v[to - 1] == '\t'))
            to--;
        if (to - from == n && strncasecmp(v + from, word, n) == 0)
            return true;
        if (part == len)
            break;
        v += part + 1;
        len -= part + 1;
    }
    return false;
}

/* "HTTP/1.1 101 Switching": the status, or 0. */
static int status_line(const char *s, size_t len)
{
    if (len < 12 || strncmp(s, "HTTP/1.", 7) != 0 || (s[7] != '0' && s[7] != '1') || s[8] != ' ')
        return 0;
    if (len > 12 && s[12] != ' ')
        return 0;
    int status = 0;
    for (unsigned i = 9; i < 12; i++) {
        if (s[i] < '0' || s[i] > '9')
            return 0;
        status = status * 10 + (s[i] - '0');
    }
    return status >= 100 ? status : 0;
}

/* The header lines of a 101. NULL, or what is missing. */
static const char *check_101(const char *head, size_t len, const char *key)
{
    bool upgrade = false, connection = false, accepted = false;
    char want[32];

    ws_accept_key(key, strlen(key), want);
    for (const char *line = head, *end = head + len; line < end;) {
        const char *stop = memmem(line, (size_t)(end - line), "\r\n", 2);
        size_t n = stop ? (size_t)(stop - line) : (size_t)(end - line);
        const char *colon = memchr(line, ':', n);
        const char *value = colon ? colon + 1 : NULL;
        size_t value_len = colon ? n - (size_t)(value - line) : 0;
        if (!colon)
            return "the answer has a line that is no header";
        if (names(line, n, "Upgrade"))
            upgrade |= value_has(value, value_len, "websocket");
        else if (names(line, n, "Connection"))
            connection |= value_has(value, value_len, "upgrade");
        else if (names(line, n, "Sec-WebSocket-Extensions"))
            return "the answer has an extension that was not asked for";
        else if (names(line, n, "Sec-WebSocket-Accept")) {
            while (value_len > 0 && (*value == ' ' || *value == '\t')) {
                value++;
                value_len--;
            }
            while (value_len > 0 && (value[value_len - 1] == ' ' || value[value_len - 1] == '\t'))
                value_len--;
            if (value_len != strlen(want) || memcmp(value, want, value_len) != 0)
                return "the answer's Sec-WebSocket-Accept is wrong";
            accepted = true;
        }
        line += n + (stop ? 2 : 0);
    }
    if (!upgrade || !connection)
        return "the answer does not upgrade to WebSocket";
    return accepted ? NULL : "the answer has no Sec-WebSocket-Accept";
}

int ws_answer_check(const char *data, size_t len, const char *key, size_t *used, int *status, const char **why)
{
    size_t at = 0;

    for (;;) {
        static const char http[] = "HTTP/1.";
        size_t have = len - at < 7 ? len - at : 7;
        *status = 0;
        *why = "the answer is not HTTP";
        if (memcmp(data + at, http, have) != 0)
            return -1;
        const char *end = memmem(data + at, len - at, "\r\n\r\n", 4);
        if (!end) {
            *why = "the answer's header is too long";
            return len >= WS_MAX_ANSWER ? -1 : 0;
        }
        size_t line = (size_t)((const char *)memmem(data + at, len - at, "\r\n", 2) - (data + at));
        *status = status_line(data + at, line);
        *used = (size_t)(end + 4 - data);
        if (*status == 0)
            return -1;
        if (*status >= 200) {
            *why = "the peer refused the upgrade";
            return -1;
        }
        if (*status == 101) {
            size_t first = at + line + 2, until = (size_t)(end - data);
            *why = check_101(data + first, until > first ? until - first : 0, key);
            if (*why)
                *status = 0;
            return *why ? -1 : 1;
        }
        at = *used; /* another 1xx: the answer comes after it */
        if (at >= WS_MAX_ANSWER) {
            *status = 0;
            *why = "the answer's header is too long";
            return -1;
        }
    }
}
