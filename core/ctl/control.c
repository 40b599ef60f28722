/* HTTP over the daemon's control socket. */
#include <string.h>

#include <curl/curl.h>

#include "ctl/ctl.h"

#define MAX_ANSWER (16u << 20)
#define TIMEOUT_S 10L
#define TIMEOUT_CHANGE_S 60L

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
    return buf_append(arg, data, size * n) ? size * n : 0;
}

/* A refusal, in the daemon's words if it has any. */
static void told(const char *path, long status, const struct buf *body)
{
    char err[128];
    yajl_val v = body->len > 0 ? json_parse(body->data, body->len, 0, err, sizeof err) : NULL;
    const char *error = json_str(v, "error");
    if (error)
        fprintf(stderr, "omictl: %s\n", error);
    else
        fprintf(stderr, "omictl: %s: the daemon answered %ld\n", path, status);
    json_free(&v);
}

bool ctl_request(const struct ctl *ctl, const char *method, const char *path, const char *json, struct buf *body)
{
    char why[CURL_ERROR_SIZE] = "";
    long status = 0;
    struct buf url = BUF_INIT(0);
    *body = BUF_INIT(MAX_ANSWER);
    CURL *c = buf_printf(&url, "http://localhost%s", path) ? curl_easy_init() : NULL;
    if (c)
        curl_easy_setopt(c, CURLOPT_URL, url.data);
    buf_free(&url);
    if (!c)
        return false;
    curl_easy_setopt(c, CURLOPT_UNIX_SOCKET_PATH, ctl->socket);
    struct curl_slist *headers = NULL;
    if (strcmp(method, "GET") != 0) {
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, json ? json : "");
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, json ? (long)strlen(json) : 0L);
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, method);
        headers = curl_slist_append(NULL, json ? "Content-Type: application/json" : "Content-Type:");
        curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    }
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, body);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, why);
    /* What may wait for a partner is asked for otherwise than by GET. */
    curl_easy_setopt(c, CURLOPT_TIMEOUT, strcmp(method, "GET") == 0 ? TIMEOUT_S : TIMEOUT_CHANGE_S);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_PROXY, ""); /* the environment's is for the network */
    long error = 0;
    CURLcode rc = curl_easy_perform(c);
    curl_easy_getinfo(c, CURLINFO_OS_ERRNO, &error);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(c);
    curl_slist_free_all(headers);
    if (rc == CURLE_OK && (status == 204 || (status >= 200 && status < 300 && body->len > 0)))
        return true;
    if (rc != CURLE_OK)
        fprintf(stderr, "omictl: %s: %s (is omid running? --socket names its control socket)\n", ctl->socket,
                rc == CURLE_COULDNT_CONNECT && error ? strerror((int)error)
                : why[0]                             ? why
                                                     : curl_easy_strerror(rc));
    else
        told(path, status, body);
    buf_free(body);
    return false;
}

bool ctl_get(const struct ctl *ctl, const char *path, struct buf *body)
{
    return ctl_request(ctl, "GET", path, NULL, body);
}

bool ctl_post(const struct ctl *ctl, const char *path, struct buf *body)
{
    return ctl_request(ctl, "POST", path, NULL, body);
}
