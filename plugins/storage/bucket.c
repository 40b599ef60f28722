/* Requests to an S3-compatible store, through the plugin's lane, which signs them. */
#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#include "storage.h"

static const char empty_sha256[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/* Every byte but those that S3 leaves alone when it signs; slashes divide names. */
static void encode(char *out, size_t size, const char *key)
{
    size_t at = 0;
    for (; *key != '\0' && at + 4 < size; key++) {
        unsigned char c = (unsigned char)*key;
        if (c < 0x80 && (isalnum(c) || strchr("-_.~/", c) != NULL))
            out[at++] = (char)c;
        else
            at += (size_t)snprintf(out + at, 4, "%%%02X", c);
    }
    out[at] = '\0';
}

static void url_of(const struct shared *sh, char *out, size_t size, const char *key)
{
    char path[3 * KEY_SIZE];
    encode(path, sizeof(path), key);
    size_t scheme = (size_t)(strstr(sh->endpoint, "//") + 2 - sh->endpoint);
    if (sh->host_style)
        snprintf(out, size, "%.*s%s.%s/%s", (int)scheme, sh->endpoint, sh->bucket, sh->endpoint + scheme, path);
    else
        snprintf(out, size, "%s/%s/%s", sh->endpoint, sh->bucket, path);
}

static int send(struct instance *in, const char *method, const char *key, const char *const *more, const void *body,
                size_t len, const char *sha256, size_t max_body, omid_http_cb cb, void *arg, struct omid_http **out)
{
    const struct shared *sh = in->sh;
    char url[4 * KEY_SIZE], sum[100], token[4096];
    const char *headers[6] = {sum};
    size_t n = 1;
    url_of(sh, url, sizeof(url), key);
    snprintf(sum, sizeof(sum), "x-amz-content-sha256: %s", sha256);
    for (; more != NULL && *more != NULL; more++)
        headers[n++] = *more;
    if (sh->token != NULL) {
        snprintf(token, sizeof(token), "x-amz-security-token: %s", sh->token);
        headers[n++] = token;
    }
    const struct omid_http_request req = {.size = sizeof(req),
                                          .method = method,
                                          .url = url,
                                          .headers = headers,
                                          .body = body,
                                          .body_len = len,
                                          .max_body = max_body,
                                          .aws_sigv4 = sh->sigv4,
                                          .aws_key_id = sh->key_id,
                                          .aws_secret = sh->secret};
    return in->host->http_start(in->inst, &req, cb, arg, out);
}

int bucket_put(struct instance *in, const char *key, const char *type, const void *body, size_t len, const char *sha256,
               omid_http_cb cb, void *arg, struct omid_http **out)
{
    char line[64];
    const char *const more[] = {line, NULL};
    snprintf(line, sizeof(line), "Content-Type: %s", type);
    return send(in, "PUT", key, more, body, len, sha256, 4096, cb, arg, out);
}

int bucket_delete(struct instance *in, const char *key, omid_http_cb cb, void *arg, struct omid_http **out)
{
    return send(in, "DELETE", key, NULL, NULL, 0, empty_sha256, 4096, cb, arg, out);
}

int bucket_get(struct instance *in, const char *key, uint64_t first, uint64_t last, size_t max_body, omid_http_cb cb,
               void *arg, struct omid_http **out)
{
    char line[80];
    const char *const more[] = {line, NULL};
    snprintf(line, sizeof(line), "Range: bytes=%" PRIu64 "-%" PRIu64, first, last);
    return send(in, "GET", key, more, NULL, 0, empty_sha256, max_body, cb, arg, out);
}

bool bucket_deleted(const struct omid_http_response *res)
{
    bool no_bucket = res->body != NULL && strstr(res->body, "NoSuchBucket") != NULL;
    return res->error == OMID_HTTP_OK &&
           ((res->status >= 200 && res->status < 300) || (res->status == 404 && !no_bucket));
}

void bucket_error(char *out, size_t size, const struct omid_http_response *res)
{
    if (res->error != OMID_HTTP_OK) {
        snprintf(out, size, "%s", res->error_text);
        return;
    }
    const char *code = res->body != NULL ? strstr(res->body, "<Code>") : NULL;
    size_t len = code != NULL ? strspn(code + 6, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") : 0;
    if (len > 0 && len <= 64)
        snprintf(out, size, "status %d, %.*s", res->status, (int)len, code + 6);
    else
        snprintf(out, size, "status %d", res->status);
}
