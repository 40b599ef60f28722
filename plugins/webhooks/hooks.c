/* The role hooks: is an app set up for a user, and does an endpoint take a delivery? One request each, outside of the
 * queue and of the endpoint's account. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "webhooks.h"

#define MAX_ASKING 64 /* of one instance */
#define MAX_ANSWER 256

struct asking {
    struct instance *in;
    struct asking *next, *prev;
    struct omid_ask *ask;
    struct omid_http *http;
};

static void asking_free(struct asking *a)
{
    struct instance *in = a->in;
    if (a->next != NULL)
        a->next->prev = a->prev;
    if (a->prev != NULL)
        a->prev->next = a->next;
    else
        in->asking = a->next;
    in->n_asking--;
    free(a);
}

void hooks_clear(struct instance *in)
{
    while (in->asking != NULL) {
        if (in->asking->http != NULL)
            in->host->http_cancel(&in->asking->http);
        asking_free(in->asking); /* the host answers what is left */
    }
}

static void answer(struct asking *a, int result, const char *text, const struct text *json)
{
    struct instance *in = a->in;
    const struct omid_answer ans = {.size = sizeof(ans),
                                    .result = result,
                                    .text = text,
                                    .json = json != NULL ? json->data : NULL,
                                    .json_len = json != NULL ? json->len : 0};
    in->host->answer(&a->ask, &ans);
    asking_free(a);
    instance_check_drained(in);
}

static int begin(struct instance *in, struct omid_ask *ask, const struct omid_http_request *http, omid_http_cb cb)
{
    struct asking *a = in->n_asking < MAX_ASKING ? calloc(1, sizeof(*a)) : NULL;
    if (a == NULL)
        return OMID_EFULL;
    a->in = in;
    a->ask = ask;
    a->next = in->asking;
    if (in->asking != NULL)
        in->asking->prev = a;
    in->asking = a;
    in->n_asking++;
    int rc = in->host->http_start(in->inst, http, cb, a, &a->http);
    if (rc != OMID_OK)
        asking_free(a);
    return rc;
}

/* ------------------------------------------------------------ setup_check */

static void on_setup(void *arg, const struct omid_http_response *res)
{
    struct asking *a = arg;
    struct json_span v;
    char text[96];
    a->http = NULL;
    if (res->error != OMID_HTTP_OK) {
        answer(a, OMID_ERR, res->error_text, NULL);
    } else if (res->status != 200) {
        snprintf(text, sizeof(text), "setup_completed_url answered %d", res->status);
        answer(a, OMID_ERR, text, NULL);
    } else if (res->truncated || json_fault(res->body, res->body_len) != NULL ||
               !json_find(res->body, res->body_len, "is_setup_completed", &v) ||
               (v.data[0] != 't' && v.data[0] != 'f')) {
        answer(a, OMID_ERR, "setup_completed_url did not answer {\"is_setup_completed\": true or false}", NULL);
    } else if (v.data[0] == 'f') {
        answer(a, OMID_ENOTSUP, "the app is not set up for this user", NULL);
    } else {
        answer(a, OMID_OK, NULL, NULL);
    }
}

static int setup_check(void *state, const char *uid, const char *setup_completed_url, struct omid_ask *ask)
{
    struct instance *in = state;
    if (uid == NULL || setup_completed_url == NULL || url_fault(setup_completed_url) != NULL)
        return OMID_EINVAL;
    char *url = url_with(setup_completed_url, uid, 0);
    if (url == NULL)
        return OMID_ERR;
    const struct omid_http_request http = {
        .size = sizeof(http), .method = "GET", .url = url, .flags = OMID_HTTP_USER_URL};
    int rc = begin(in, ask, &http, on_setup);
    free(url);
    return rc;
}

/* ------------------------------------------------------------ test */

/* What is valid UTF-8 of the first bytes of an answer, as far as JSON can say it. */
static size_t sound_prefix(const char *body, size_t len)
{
    size_t n = len < MAX_ANSWER ? len : MAX_ANSWER;
    for (;; n--) {
        struct text t = {0};
        text_add_quoted_n(&t, body, n);
        bool sound = t.data != NULL && json_fault(t.data, t.len) == NULL;
        free(t.data);
        if (sound || n == 0)
            return n;
    }
}

static void on_test(void *arg, const struct omid_http_response *res)
{
    struct asking *a = arg;
    struct text t = {0};
    char numbers[64];
    a->http = NULL;
    snprintf(numbers, sizeof(numbers),
             "{\"status\":%d,\"elapsed_ms\":%u,\"answer\":", res->error == OMID_HTTP_OK ? res->status : 0,
             res->elapsed_ms);
    text_adds(&t, numbers);
    text_add_quoted_n(&t, res->body != NULL ? res->body : "",
                      res->body != NULL ? sound_prefix(res->body, res->body_len) : 0);
    text_adds(&t, ",\"error\":");
    if (res->error != OMID_HTTP_OK)
        text_add_quoted(&t, res->error_text);
    else
        text_adds(&t, "null");
    text_adds(&t, "}");
    answer(a, t.failed ? OMID_ERR : OMID_OK, t.failed ? "out of memory" : NULL, t.failed ? NULL : &t);
    free(t.data);
}

static int test_send(struct instance *in, const char *uid, struct endpoint *e, struct omid_ask *ask)
{
    struct text body = {0};
    struct headers headers;
    char number[32];
    snprintf(number, sizeof(number), "%lld", (long long)in->host->wall_ms());
    text_adds(&body, "{\"type\":\"omid.test\",\"created_ms\":");
    text_adds(&body, number);
    text_adds(&body, ",\"data\":{\"uid\":");
    text_add_quoted(&body, uid);
    text_adds(&body, ",\"endpoint\":");
    text_add_quoted(&body, e->id);
    text_adds(&body, "}}");
    const struct deliver_request req = {.endpoint = e,
                                        .content_type = "application/json",
                                        .event = "omid.test",
                                        .body = body.data,
                                        .body_len = body.len};
    char *url = url_with(e->url, uid, 0);
    int rc = OMID_ERR;
    if (!body.failed && url != NULL && headers_make(in, &req, &headers)) {
        const struct omid_http_request http = {.size = sizeof(http),
                                               .method = "POST",
                                               .url = url,
                                               .headers = headers.line,
                                               .body = body.data,
                                               .body_len = body.len,
                                               .flags = OMID_HTTP_USER_URL};
        rc = begin(in, ask, &http, on_test);
    }
    free(url);
    free(body.data);
    return rc;
}

static int hook_test(void *state, const char *uid, const struct omid_endpoint *endpoint, struct omid_ask *ask)
{
    struct instance *in = state;
    if (uid == NULL || endpoint == NULL)
        return OMID_EINVAL;
    struct endpoint *e = endpoint_of(in, endpoint);
    if (e == NULL)
        return OMID_EINVAL;
    int rc = test_send(in, uid, e, ask);
    endpoint_unref(&e);
    return rc;
}

const struct omid_hooks_role hooks_role = {
    .size = sizeof(struct omid_hooks_role), .setup_check = setup_check, .test = hook_test};
