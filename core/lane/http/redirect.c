/*
 * From one hop to the next. curl never follows by itself: each hop is a request of its own to the lane, with the guard,
 * breaker, limit and settings of its own target, and what is left of the time.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "lane/http/request_int.h"

/* Where it leads: absolute, without fragment; free with curl_free(). NULL: there is no usable Location. *user: it names
 * a user. */
static char *location_url(const struct lane_http *r, bool *user)
{
    struct curl_header *h = NULL;
    char *url = NULL, *name = NULL;

    if (curl_easy_header(r->easy->curl, "Location", 0, CURLH_HEADER, -1, &h) != CURLHE_OK || h->amount != 1)
        return NULL;
    CURLU *u = curl_url();
    if (u && curl_url_set(u, CURLUPART_URL, r->url, 0) == CURLUE_OK) {
        /* The user of our own URL is no part of where a peer leads us. */
        curl_url_set(u, CURLUPART_USER, NULL, 0);
        curl_url_set(u, CURLUPART_PASSWORD, NULL, 0);
        if (curl_url_set(u, CURLUPART_URL, h->value, CURLU_URLENCODE) == CURLUE_OK) {
            curl_url_set(u, CURLUPART_FRAGMENT, NULL, 0);
            if (curl_url_get(u, CURLUPART_URL, &url, 0) != CURLUE_OK)
                url = NULL;
            *user = curl_url_get(u, CURLUPART_USER, &name, 0) == CURLUE_OK;
            curl_free(name);
        }
    }
    curl_url_cleanup(u);
    return url;
}

/* RFC 9110, 15.4: 303 is to be fetched; 301 and 302 turn a POST into a GET, as everybody does; 307 and 308 change
 * nothing.
 */
static bool becomes_get(const struct lane_http *r, int status)
{
    if (status == 303)
        return strcmp(r->method, "GET") != 0 && strcmp(r->method, "HEAD") != 0;
    return (status == 301 || status == 302) && strcmp(r->method, "POST") == 0;
}

static bool is_one_of(const char *line, const char *const *names)
{
    for (; *names; names++) {
        size_t n = strlen(*names);
        if (strncasecmp(line, *names, n) == 0 && line[n] == ':' && line[n + 1] != 0)
            return true;
    }
    return false;
}

/* The list's nodes lie in the request's own memory: those that go are passed over. */
static void drop_headers(struct lane_http *r, const char *const *names)
{
    struct curl_slist **at = &r->headers;
    while (*at) {
        if (is_one_of((*at)->data, names))
            *at = (*at)->next;
        else
            at = &(*at)->next;
    }
}

static enum hop refuse(struct lane_http *r, enum omid_http_error why, const char *text, enum omid_http_error *error)
{
    request_set_text(r, text);
    *error = why;
    return HOP_REFUSED;
}

enum hop redirect_take(struct lane_http *r, int status, char *key, size_t key_size, enum omid_http_error *error)
{
    static const char *const of_body[] = {
        "Content-Type", "Content-Encoding", "Content-Language", "Content-Location", "Digest", "Content-MD5", NULL};
    static const char *const of_origin[] = {"Authorization",        "Cookie", "Proxy-Authorization", "Host",
                                            "X-Amz-Security-Token", NULL};
    bool user = false;
    char text[96];

    if (r->follow == 0 || (status != 301 && status != 302 && status != 303 && status != 307 && status != 308))
        return HOP_NONE;
    char *url = location_url(r, &user);
    if (!url)
        return HOP_NONE;
    size_t len = strlen(url);
    bool tls = strncasecmp(url, "https://", 8) == 0, usable = len <= LANE_MAX_URL && url_key(url, key, key_size);
    char *copy = usable ? strdup(url) : NULL;
    curl_free(url);
    if (r->hops >= r->follow) {
        free(copy);
        snprintf(text, sizeof text, "it was still a redirect after %u of them", r->hops);
        return refuse(r, OMID_HTTP_PROTOCOL, text, error);
    }
    if (!usable || strncmp(key, "http", 4) != 0 || user) {
        free(copy);
        return refuse(r, OMID_HTTP_BLOCKED,
                      user ? "a redirect names a user, which is no peer's to choose"
                           : "a redirect leads to what is no http or https URL",
                      error);
    }
    if (!tls && strncasecmp(r->url, "https://", 8) == 0) {
        free(copy);
        return refuse(r, OMID_HTTP_BLOCKED, "a redirect leads from https to http", error);
    }
    if (!copy)
        return refuse(r, OMID_HTTP_LOCAL, "no memory for a redirect", error);
    if (becomes_get(r, status)) {
        r->method = "GET";
        r->bodyless = true;
        drop_headers(r, of_body);
    }
    if (!url_key_same_origin(key, r->w.target->key)) {
        r->left_origin = true;
        drop_headers(r, of_origin);
        r->aws_sigv4 = NULL;
    }
    free(r->hop_url);
    r->url = r->hop_url = copy;
    r->hops++;
    return HOP_TAKEN;
}
