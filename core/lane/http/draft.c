/* Requests as they come from a caller: what is fit to be sent, and its copy. Any thread. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "lane/http/request_int.h"

/* RFC 9110, 5.6.2. */
static bool is_token_char(unsigned char c)
{
    static const uint64_t others[2] = {/* control characters, space, "(),/:;<=>? */ UINT64_C(0xfc009305ffffffff),
                                       /* @[\]{} and DEL */ UINT64_C(0xa800000038000001)};
    return c < 128 && !(others[c / 64] >> (c % 64) & 1);
}

static bool is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!is_token_char((unsigned char)s[i]))
            return false;
    }
    return n > 0;
}

bool request_headers_ok(const char *const *headers)
{
    size_t total = 0, n = 0;

    for (; headers && headers[n]; n++) {
        const char *colon = strchr(headers[n], ':');
        if (n == LANE_MAX_HEADERS || !colon || !is_token(headers[n], (size_t)(colon - headers[n])))
            return false;
        for (const unsigned char *c = (const unsigned char *)colon; *c; c++) {
            if ((*c < ' ' && *c != '\t') || *c == 0x7f)
                return false;
        }
        /* The length of a body is ours to say. */
        if (strncasecmp(headers[n], "Content-Length:", 15) == 0 ||
            strncasecmp(headers[n], "Transfer-Encoding:", 18) == 0)
            return false;
        total += strlen(headers[n]);
    }
    return total <= LANE_MAX_HEADER_BYTES;
}

/* Of what curl would add of its own not these: a wait for 100 Continue, and the type of a form. What it takes for an
 * answer it would print twice, character by character: as a line it is printed but once. */
static const char *const lines[] = {"Expect:", "Content-Type:", "Accept-Encoding: " LANE_CODINGS};
enum { LINE_EXPECT, LINE_TYPE, LINE_CODINGS, LINES };

static const char *copy_text(char **at, const char *text)
{
    size_t size = strlen(text) + 1;
    char *to = memcpy(*at, text, size);
    *at += size;
    return to;
}

/* The list is only read by curl: its lines may lie anywhere. */
static void link_header(struct curl_slist *node, struct curl_slist *next, const char *line)
{
    node->data = (char *)line;
    node->next = next;
}

struct lane_http *request_draft(const struct omid_http_request *req)
{
    size_t n = 0, texts = 0, key_size = strlen(req->url) + URL_KEY_EXTRA;
    bool given[LINES] = {false};

    for (; req->headers && req->headers[n]; n++) {
        texts += strlen(req->headers[n]) + 1;
        given[LINE_TYPE] |= strncasecmp(req->headers[n], "Content-Type:", 13) == 0;
        given[LINE_CODINGS] |= strncasecmp(req->headers[n], "Accept-Encoding:", 16) == 0;
    }
    texts += strlen(req->url) + 1 + strlen(req->method) + 1 + key_size;
    texts += req->latest_key ? strlen(req->latest_key) + 1 : 0;
    /* What is signed is all that is sent: a header to leave out would be signed, too. */
    bool sign = req->aws_sigv4 != NULL;
    if (sign)
        texts += strlen(req->aws_sigv4) + strlen(req->aws_key_id) + strlen(req->aws_secret) + 3;
    const char *more[LINES];
    size_t n_more = 0;
    for (size_t i = 0; !sign && i < LINES; i++) {
        if (!given[i])
            more[n_more++] = lines[i];
    }
    size_t nodes = n + n_more;
    struct lane_http *r = malloc(sizeof *r + nodes * sizeof(struct curl_slist) + texts + req->body_len);
    if (!r)
        return NULL;
    memset(r, 0, sizeof *r);
    struct curl_slist *node = (struct curl_slist *)(void *)(r + 1);
    char *at = (char *)(node + nodes);
    r->url = copy_text(&at, req->url);
    r->method = copy_text(&at, req->method);
    r->latest_key = req->latest_key ? copy_text(&at, req->latest_key) : NULL;
    for (size_t i = 0; i < nodes; i++) /* the caller's come out in the order they were given in */
        link_header(&node[i], i + 1 < nodes ? &node[i + 1] : NULL,
                    i < n ? copy_text(&at, req->headers[i]) : more[i - n]);
    r->headers = nodes > 0 ? node : NULL;
    if (sign) {
        r->aws_sigv4 = copy_text(&at, req->aws_sigv4);
        r->aws_key_id = copy_text(&at, req->aws_key_id);
        r->aws_secret = copy_text(&at, req->aws_secret);
    }
    r->key = strncasecmp(r->url, "http", 4) == 0 && url_key(r->url, at, key_size) ? at : NULL;
    at += key_size;
    if (req->body_len > 0)
        r->body = memcpy(at, req->body, req->body_len);
    r->body_len = req->body_len;
    return r;
}

bool request_method_ok(const char *method)
{
    size_t n = strlen(method);
    return n <= MAX_METHOD && is_token(method, n);
}
