/* POST /v1/vad: where is speech in this WAV? The answer has the hosted engine's shape, so that omid can be one. */
#include <stdlib.h>
#include <string.h>

#include "vad.h"

struct vad_request {
    struct vad *v;
    struct omid_exchange *ex;
};

static void respond_error(struct vad *v, struct omid_exchange **ex, int status, const char *text)
{
    struct kit_text t = {0};
    kit_text_adds(&t, "{\"error\":");
    kit_text_add_json(&t, text, strlen(text));
    kit_text_adds(&t, "}");
    v->host->respond(ex, status, "application/json", t.failed ? "" : t.data, t.len);
    kit_text_free(&t);
}

static void on_done(void *arg, const struct vad_result *r)
{
    struct vad_request *q = arg;
    struct vad *v = q->v;
    struct kit_text t = {0};
    if (r->result != OMID_OK) {
        respond_error(v, &q->ex, r->status, r->text);
        free(q);
        return;
    }
    const char *const headers[] = {r->engine == VAD_HOSTED ? "Omid-Engine: hosted" : "Omid-Engine: local", NULL};
    vad_intervals_write(&t, r->intervals);
    if (t.failed)
        respond_error(v, &q->ex, 503, "out of memory");
    else
        v->host->respond_with(&q->ex, 200, "application/json", headers, t.data, t.len);
    kit_text_free(&t);
    free(q);
}

/* engine=hosted or engine=local; other parameters are not looked at. false: it is neither. */
static bool engine_read(const char *query, enum vad_engine *engine)
{
    *engine = VAD_BEST;
    for (const char *p = query; *p != '\0';) {
        size_t n = strcspn(p, "&");
        if (n >= 7 && strncmp(p, "engine=", 7) == 0) {
            const char *value = p + 7;
            if (n == 13 && strncmp(value, "hosted", 6) == 0)
                *engine = VAD_HOSTED;
            else if (n == 12 && strncmp(value, "local", 5) == 0)
                *engine = VAD_LOCAL;
            else
                return false;
        }
        p += n + (p[n] == '&');
    }
    return true;
}

static int post(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct vad_instance *in = state;
    struct vad *v = in->v;
    enum vad_engine engine;
    const char *refuses = vad_decode_refuses(req->content_type);
    if (!engine_read(req->query, &engine))
        respond_error(v, &ex, 400, "engine: expected hosted or local");
    else if (engine == VAD_HOSTED && v->url == NULL)
        respond_error(v, &ex, 400, "engine: there is no hosted one here");
    else if (refuses != NULL)
        respond_error(v, &ex, 415, refuses);
    else if (req->body_len > v->max_upload)
        respond_error(v, &ex, 413, "the body is larger than max_upload");
    if (ex == NULL)
        return OMID_OK;
    struct vad_request *q = calloc(1, sizeof(*q));
    int rc = OMID_ERR;
    if (q != NULL) {
        *q = (struct vad_request){.v = v, .ex = ex};
        const struct vad_job_spec spec = {.engine = engine,
                                          .content_type = req->content_type,
                                          .body = req->body,
                                          .len = req->body_len,
                                          .done = on_done,
                                          .arg = q};
        rc = vad_job_start(in, &spec);
    }
    if (rc == OMID_OK)
        return OMID_OK;
    free(q);
    respond_error(v, &ex, 503, rc == OMID_ERR ? "out of memory" : "overloaded, try again later");
    return OMID_OK;
}

int vad_route_add(struct omid_module *mod, const struct omid_host *host)
{
    const struct omid_route route = {
        .size = sizeof(route), .path = "/v1/vad", .method = "POST", .auth = OMID_AUTH_TOKEN, .request = post};
    return host->route_add(mod, &route);
}
