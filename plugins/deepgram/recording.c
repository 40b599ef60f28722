/*
 * A recording as a whole: POST of a WAV, the transcript is in the answer. Two attempts, `backoff` apart; what the
 * service refuses for a reason that stays (key, parameters, the audio) is not tried again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deepgram.h"
#include "formats/wav.h"

#define ATTEMPTS 2
#define TIMEOUT_MS 130000 /* 10 s for the connection, 120 s for the answer */
#define MAX_ANSWER ((size_t)4 << 20)

struct dg_recording {
    struct dg_instance *in;
    struct dg_recording *next, *prev;
    struct omid_ask *ask;
    struct omid_http *http;
    struct omid_timer *retry;
    char *url;
    unsigned char *wav;
    size_t len;
    unsigned attempts;
};

static void recording_free(struct dg_recording *r)
{
    struct dg_instance *in = r->in;
    if (r->http)
        in->host->http_cancel(&r->http);
    if (r->retry)
        in->host->timer_stop(&r->retry);
    if (r->next)
        r->next->prev = r->prev;
    if (r->prev)
        r->prev->next = r->next;
    else
        in->recordings = r->next;
    free(r->url);
    free(r->wav);
    free(r);
}

static void recording_answer(struct dg_recording *r, int result, const char *why, const struct dg_message *m)
{
    const struct omid_answer a = {.size = sizeof(a),
                                  .result = result,
                                  .text = why,
                                  .mode = "hosted",
                                  .segments = m ? m->segments : NULL,
                                  .n_segments = m ? m->n : 0};
    r->in->host->answer(&r->ask, &a);
    recording_free(r);
}

static void recording_send(struct dg_recording *r);

static void on_retry(void *arg)
{
    struct dg_recording *r = arg;
    r->in->host->timer_stop(&r->retry);
    recording_send(r);
}

static void recording_again(struct dg_recording *r, const char *why)
{
    if (r->attempts < ATTEMPTS)
        r->retry = r->in->host->timer_start(r->in->inst, r->in->shared->backoff_ms, 0, on_retry, r);
    if (!r->retry)
        recording_answer(r, OMID_ERR, why, NULL);
}

/* A 200. */
static void transcript_read(struct dg_recording *r, const struct omid_http_response *res)
{
    const struct dg_shared *sh = r->in->shared;
    struct dg_message m;
    char why[260];
    dg_recording_parse(&m, res->body, res->body_len, MAX_ANSWER);
    r->in->host->counter_add(sh->messages[res->truncated ? DG_TOO_BIG : m.kind], 1);
    r->in->host->counter_add(sh->bad_values, m.bad);
    if (res->truncated) {
        recording_answer(r, OMID_ERR, "the answer is larger than 4 MiB", NULL);
    } else if (m.kind == DG_RESULTS) {
        recording_answer(r, OMID_OK, NULL, &m);
    } else {
        snprintf(why, sizeof(why), "the answer is no transcript%s%s", m.kind == DG_ERROR ? ": " : "", m.error);
        recording_again(r, why);
    }
    dg_message_free(&m);
}

static void on_answer(void *arg, const struct omid_http_response *res)
{
    struct dg_recording *r = arg;
    struct dg_message m = {0};
    char why[260];
    r->http = NULL;
    if (res->error == OMID_HTTP_OK && res->status == 200) {
        transcript_read(r, res);
        return;
    }
    if (res->error != OMID_HTTP_OK) {
        snprintf(why, sizeof(why), "%s", res->error_text);
        if (res->error == OMID_HTTP_FULL || res->error == OMID_HTTP_QUEUE_TIMEOUT || res->error == OMID_HTTP_BREAKER)
            recording_answer(r, OMID_EFULL, why, NULL);
        else
            recording_again(r, why);
        return;
    }
    dg_recording_parse(&m, res->body, res->body_len, MAX_ANSWER);
    snprintf(why, sizeof(why), "answered %d%s%s", res->status, m.error[0] ? ": " : "", m.error);
    dg_message_free(&m);
    if (res->status >= 500 || res->status == 408 || res->status == 429)
        recording_again(r, why);
    else /* of a key that is wrong, the next one may be right: it is not the audio's fault */
        recording_answer(r, res->status == 400 || res->status == 413 || res->status == 415 ? OMID_EINVAL : OMID_ERR,
                         why, NULL);
}

static void recording_send(struct dg_recording *r)
{
    const struct dg_shared *sh = r->in->shared;
    const char *const headers[] = {sh->authorization, "Content-Type: audio/wav", "Accept: application/json", NULL};
    const struct omid_http_request req = {.size = sizeof(req),
                                          .method = "POST",
                                          .url = r->url,
                                          .headers = headers,
                                          .body = r->wav,
                                          .body_len = r->len,
                                          .timeout_ms = TIMEOUT_MS,
                                          .max_body = MAX_ANSWER};
    r->attempts++;
    int rc = r->in->host->http_start(r->in->inst, &req, on_answer, r, &r->http);
    if (rc != OMID_OK)
        recording_answer(r, rc == OMID_EFULL ? OMID_EFULL : OMID_ERR, "the lane takes no more requests", NULL);
}

int dg_recording_transcribe(void *state, const struct omid_stt_params *params, const struct omid_audio *audio,
                            struct omid_ask *ask)
{
    struct dg_instance *in = state;
    const struct dg_shared *sh = in->shared;
    struct dg_query q = {.sample_rate = audio->sample_rate};
    if (audio->samples > WAV_MAX_SAMPLES || !dg_model_find(params->model, &q.model) ||
        (q.language = dg_language_map(q.model, params->language, &sh->languages)) == NULL)
        return OMID_EINVAL;
    if (audio->samples == 0) {
        in->host->answer(&ask, &(const struct omid_answer){.size = sizeof(struct omid_answer), .mode = "hosted"});
        return OMID_OK;
    }
    struct dg_recording *r = calloc(1, sizeof(*r));
    if (!r)
        return OMID_ERR;
    *r = (struct dg_recording){.in = in, .next = in->recordings, .len = wav_size(audio->samples)};
    if (r->next)
        r->next->prev = r;
    in->recordings = r;
    r->url = dg_recording_url(sh->endpoint, &q);
    r->wav = malloc(r->len);
    if (!r->url || !r->wav) {
        recording_free(r);
        return OMID_ERR;
    }
    wav_write(r->wav, audio->pcm, audio->samples, audio->sample_rate);
    r->ask = ask;
    recording_send(r);
    return OMID_OK;
}

void dg_recordings_stop(struct dg_instance *in)
{
    while (in->recordings) /* the host answers for them */
        recording_free(in->recordings);
}
