/*
 * The owner's voice: POST, GET and DELETE /v1/speech-profile (omid-api(7)). An upload is checked and resampled in the
 * storage executor, then asked about: where is speech in it, and what is the voice of that speech; then it is stored.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/call.h"
#include "formats/multipart.h"
#include "host/ask.h"
#include "session/profile_wav.h"
#include "session/speakers.h"
#include "session/state.h"
#include "session/voice_match.h"
#include "session/voices.h"

#define MODULE "profile"
#define MAX_UPLOADS 8   /* at once, per reactor */
#define MAX_PARTS 16    /* of a multipart body */
#define MAX_SPEECH_S 30 /* of a longer recording's speech the first of it is taken */

struct profile_call {
    struct call call;
    struct sessions *ss;
    const char *uid; /* the request's */
    bool upload;
    struct profile_limits limits;
    struct pcm pcm;
    bool checked;
    char err[384];
    double seconds, speech; /* of the recording, and of the speech in it */
    bool scanned;           /* in vain, by an engine that did not answer in time */
    int64_t now_ms;
};

static void profile_drop(struct call *call)
{
    struct profile_call *p = container_of(call, struct profile_call, call);
    if (p->upload)
        p->ss->uploads--;
    budget_add(-(int64_t)(p->pcm.cap * sizeof *p->pcm.data));
    pcm_free(&p->pcm);
}

/* NULL: answered already. */
static struct profile_call *profile_begin(struct channel *ch)
{
    struct profile_call *p = call_begin(ch, sizeof *p, profile_drop);
    if (p) {
        p->ss = sessions_of_channel(ch);
        p->uid = channel_request(ch)->uid;
    }
    return p;
}

/* ----------------------------------------------------------------------- upload */

static void profile_json(struct json_w *w, const struct profile_call *p)
{
    char at[32];
    json_w_open(w, '{');
    json_w_kbool(w, "has_profile", true);
    clock_format_utc(p->now_ms, at);
    json_w_kstr(w, "created_at", at);
    json_w_knum(w, "seconds", p->seconds);
    json_w_knum(w, "speech_seconds", p->speech);
    json_w_close(w, '}');
}

static void on_stored(void *arg, int result)
{
    struct profile_call *p = arg;
    if (result != OMID_OK) {
        call_failed(&p->call, result, "the store failed");
        return;
    }
    voices_changed(p->ss, p->uid);
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    profile_json(&w, p);
    call_json(&p->call, 200, &w, &b);
}

static void on_embedded(void *arg, const struct omid_answer *a)
{
    struct profile_call *p = arg;
    struct sessions *ss = p->ss;
    if (a->result == OMID_EINVAL) {
        call_error(&p->call, 400, "file: its voice can't be taken: %s", a->text ? a->text : "refused");
        return;
    }
    if (a->result != OMID_OK || !voice_usable(a->vector, a->n_vector)) {
        const char *why = a->result != OMID_OK && a->text ? a->text : "the answer is no usable vector";
        log_warning(MODULE, "a voice profile was not taken", LS("reason", why));
        call_error(&p->call, 503, "the voice could not be taken, try again later: %s", why);
        return;
    }
    p->now_ms = clock_wall_ms();
    const struct store_voice_new v = {.uid = p->uid,
                                      .person_id = STORE_OWNER,
                                      .kind = STORE_VOICE_PROFILE,
                                      .vector = a->vector,
                                      .dim = a->n_vector,
                                      .seconds = p->speech,
                                      .now_ms = p->now_ms};
    call_await(&p->call, store_voice_put(ss->env.store, &v, ss->env.loop, on_stored, p));
}

/* Only what is speech stays. Its seconds, before the bound. */
static double keep_speech(struct pcm *pcm, const struct omid_answer *a)
{
    size_t n = 0, max = (size_t)MAX_SPEECH_S * SPEAKERS_RATE;
    double speech = 0;
    for (size_t i = 0; i < a->n_intervals; i++) {
        double end = a->intervals[i].end * SPEAKERS_RATE, from = a->intervals[i].start * SPEAKERS_RATE;
        size_t to = end < (double)pcm->n ? (size_t)end : pcm->n, at = from < (double)to ? (size_t)from : to;
        speech += (double)(to - at) / SPEAKERS_RATE;
        size_t take = to - at < max - n ? to - at : max - n;
        memmove(pcm->data + n, pcm->data + at, take * sizeof *pcm->data);
        n += take;
    }
    pcm->n = n;
    return speech;
}

static void scan(struct profile_call *p, const char *engine);

static void on_scanned(void *arg, const struct omid_answer *a)
{
    struct profile_call *p = arg;
    struct sessions *ss = p->ss;
    double least = ss->env.conf->speakers.min_speech_ms / 1000.;
    if (a->result == OMID_ETIMEOUT && !p->scanned) {
        log_warning(MODULE, "speech is looked for here: the engine does not answer in time");
        p->scanned = true;
        scan(p, "local");
        return;
    }
    if (a->result != OMID_OK) {
        call_error(&p->call, 503, "speech could not be looked for, try again later: %s", a->text ? a->text : "failed");
        return;
    }
    p->speech = keep_speech(&p->pcm, a);
    if (p->speech < least || p->pcm.n < (size_t)SPEAKERS_RATE * SPEAKERS_MIN_MS / 1000) {
        call_error(&p->call, 400, "file: %.1f s of speech in %.1f s of audio, at least %g s is expected", p->speech,
                   p->seconds, least);
        return;
    }
    const struct omid_audio audio = {
        .size = sizeof audio, .pcm = p->pcm.data, .samples = p->pcm.n, .sample_rate = SPEAKERS_RATE};
    const struct host_question q = {.kind = HOST_ASK_EMBED, .audio = &audio};
    if (host_ask(ss->env.host, ss->env.reactor, &q, ss->env.conf->speakers.timeout_ms, on_embedded, p, NULL) != OMID_OK)
        call_error(&p->call, 503, "no plugin takes voices any more");
}

/* engine: NULL is the best there is, which falls back by itself when it fails, but may take longer than a client waits.
 */
static void scan(struct profile_call *p, const char *engine)
{
    struct sessions *ss = p->ss;
    const struct omid_audio audio = {
        .size = sizeof audio, .pcm = p->pcm.data, .samples = p->pcm.n, .sample_rate = SPEAKERS_RATE};
    const struct host_question q = {.kind = HOST_ASK_SCAN, .engine = engine, .audio = &audio};
    if (host_ask(ss->env.host, ss->env.reactor, &q, ss->env.conf->speakers.profile_scan_ms, on_scanned, p, NULL) !=
        OMID_OK)
        call_error(&p->call, 503, "no plugin looks for speech any more");
}

static bool is_multipart(const char *type)
{
    return strncasecmp(type, "multipart/", 10) == 0;
}

/* The WAV file: the body, or the part `file` of it. false: p->err. */
static bool find_file(struct profile_call *p, const unsigned char **data, size_t *len)
{
    const struct channel_request *req = call_request(&p->call);
    char boundary[MULTIPART_MAX_BOUNDARY + 1], why[256];
    struct multipart_part part[MAX_PARTS];
    size_t n = 0;
    *data = req->body;
    *len = req->body_len;
    if (!is_multipart(req->content_type))
        return true;
    if (!multipart_boundary(req->content_type, boundary, why, sizeof why) ||
        !multipart_parse(boundary, req->body, req->body_len, part, MAX_PARTS, &n, why, sizeof why)) {
        snprintf(p->err, sizeof p->err, "body: %s", why);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (strcmp(part[i].name, "file") != 0)
            continue;
        *data = part[i].data;
        *len = part[i].len;
        return true;
    }
    snprintf(p->err, sizeof p->err, "file: none of the body's %zu parts has this name", n);
    return false;
}

/* On a thread of the executor. */
static void check_run(void *arg)
{
    struct profile_call *p = arg;
    const unsigned char *data;
    size_t len;
    p->checked = find_file(p, &data, &len) && profile_wav(data, len, &p->limits, &p->pcm, p->err, sizeof p->err);
}

static void check_done(void *arg, bool ran)
{
    struct profile_call *p = arg;
    budget_add((int64_t)(p->pcm.cap * sizeof *p->pcm.data));
    if (!ran) {
        call_failed(&p->call, OMID_ECLOSED, "");
        return;
    }
    if (!p->checked) {
        call_error(&p->call, 400, "%s", p->err);
        return;
    }
    p->seconds = (double)p->pcm.n / SPEAKERS_RATE;
    scan(p, NULL);
}

static bool is_wav_type(const char *type)
{
    static const char *const types[] = {"audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"};
    size_t n = strcspn(type, "; ");
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        if (strlen(types[i]) == n && strncasecmp(type, types[i], n) == 0)
            return true;
    }
    return false;
}

static void post_opened(struct channel *ch)
{
    struct profile_call *p = profile_begin(ch);
    if (!p)
        return;
    struct sessions *ss = p->ss;
    const struct channel_request *req = call_request(&p->call);
    if (!host_answers(ss->env.host, ss->env.reactor, HOST_ASK_EMBED, NULL)) {
        call_error(&p->call, 503, "no plugin takes voices (role embed)");
    } else if (!host_answers(ss->env.host, ss->env.reactor, HOST_ASK_SCAN, NULL)) {
        call_error(&p->call, 503, "no plugin looks for speech (role vad)");
    } else if (!is_wav_type(req->content_type) && !is_multipart(req->content_type)) {
        call_error(&p->call, 415, "Content-Type: expected audio/wav or multipart/form-data, found \"%.64s\"",
                   req->content_type);
    } else if (req->body_len == 0) {
        call_error(&p->call, 400, "file: it is empty");
    } else if (ss->uploads >= MAX_UPLOADS || budget_exhausted() || ss->draining) {
        call_failed(&p->call, OMID_EFULL, "");
    } else {
        p->upload = true;
        ss->uploads++;
        p->limits = (struct profile_limits){.min_ms = ss->env.conf->speakers.profile_min_ms,
                                            .max_ms = ss->env.conf->speakers.profile_max_ms};
        call_await(&p->call, call_work(&p->call, ss->env.exec, "check_profile", check_run, check_done));
    }
}

/* ----------------------------------------------------------------- what there is */

static void on_got(void *arg, int result, const struct store_profile *profile)
{
    struct profile_call *p = arg;
    char at[32];
    if (result != OMID_OK) {
        call_failed(&p->call, result, "the store failed");
        return;
    }
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kbool(&w, "has_profile", profile->created_ms > 0);
    if (profile->created_ms > 0) {
        clock_format_utc(profile->created_ms, at);
        json_w_kstr(&w, "created_at", at);
        json_w_knum(&w, "speech_seconds", profile->seconds);
    }
    json_w_kint(&w, "samples", profile->samples);
    json_w_close(&w, '}');
    call_json(&p->call, 200, &w, &b);
}

static void get_opened(struct channel *ch)
{
    struct profile_call *p = profile_begin(ch);
    if (!p)
        return;
    call_await(&p->call, store_profile_get(p->ss->env.store, p->uid, p->ss->env.loop, on_got, p));
}

static void on_deleted(void *arg, int result)
{
    struct profile_call *p = arg;
    if (result == OMID_OK) {
        voices_changed(p->ss, p->uid);
        call_answer(&p->call, 204, NULL, 0);
    } else if (result == OMID_ENOTSUP) {
        call_error(&p->call, 404, "there is no speech profile");
    } else {
        call_failed(&p->call, result, "the store failed");
    }
}

static void delete_opened(struct channel *ch)
{
    struct profile_call *p = profile_begin(ch);
    if (!p)
        return;
    call_await(&p->call, store_profile_delete(p->ss->env.store, p->uid, p->ss->env.loop, on_deleted, p));
}

static const struct route profile_routes[] = {
    {.path = "/v1/speech-profile", .method = "POST", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(post_opened)},
    {.path = "/v1/speech-profile", .method = "GET", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(get_opened)},
    {.path = "/v1/speech-profile", .method = "DELETE", .auth = ROUTE_TOKEN, .handler = CALL_HANDLER(delete_opened)},
};

bool profile_routes_add(struct routes *routes, struct sessions **all)
{
    return routes_add_all(routes, profile_routes, ARRAY_LEN(profile_routes), all);
}
