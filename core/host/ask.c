/*
 * Two ends: struct omid_ask is the plugin's until it answers, struct host_ask the asker's until it has been told or has
 * cancelled. Either may be gone first. The answer is copied and told from the loop, so that no callback comes within a
 * call.
 */
#include "host/ask.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "host/module.h"

#define ASK_MAGIC UINT32_C(0x6f61736b)
#define ASKER_MAGIC UINT32_C(0x68617368)
#define ANSWER_MAX_JSON ((size_t)8 << 20)
#define ANSWER_MAX_VECTOR 65536
#define ANSWER_MAX_ITEMS 100000 /* intervals or segments */

struct omid_ask {
    uint32_t magic;
    struct list link; /* of its instance's open ones */
    struct omid_instance *inst;
    struct host_ask *asker; /* NULL: waits no longer */
    enum host_question_kind kind;
    uint64_t began_ns;
};

struct host_ask {
    uint32_t magic;
    struct omid_ask *ask; /* NULL: answered */
    struct loop *loop;
    ev_timer timer; /* the time limit; once there is an answer, the turn in which it is told */
    host_answer_cb cb;
    void *arg;
    /* The copy of the answer. */
    struct omid_answer answer;
    char *text, *json, *segment_text;
    float *vector;
    struct omid_interval *intervals;
    struct omid_stt_segment *segments;
    struct omid_audio audio;
    int16_t *pcm;
};

/* ---------------------------------------------------------------- accounts */

static const char *const kind_names[HOST_QUESTIONS] = {
    [HOST_ASK_SCAN] = "scan",
    [HOST_ASK_TRANSCRIBE] = "transcribe",
    [HOST_ASK_EMBED] = "embed",
    [HOST_ASK_GEOCODE] = "geocode",
    [HOST_ASK_SUMMARIZE] = "summarize",
    [HOST_ASK_AUDIO_WRITE] = "audio_write",
    [HOST_ASK_AUDIO_READ] = "audio_read",
    [HOST_ASK_SETUP_CHECK] = "setup_check",
    [HOST_ASK_HOOK_TEST] = "hook_test",
};

static const char *result_name(int result)
{
    switch (result) {
    case OMID_OK:
        return "ok";
    case OMID_EINVAL:
        return "invalid";
    case OMID_ENOTSUP:
        return "nothing";
    case OMID_EFULL:
        return "full";
    case OMID_ETIMEOUT:
        return "timeout";
    case OMID_ECLOSED:
        return "closed";
    default:
        return "failed";
    }
}

static struct metric *counter_of(enum host_question_kind kind, int result)
{
    const struct metric_label labels[] = {{"question", kind_names[kind]}, {"result", result_name(result)}};
    return metric_get(METRIC_COUNTER, "omid_questions_total",
                      "Questions to roles of plugins by what came of them; timeout: the asker waited no longer.",
                      labels, 2, NULL, 0);
}

static struct metric *seconds_of(enum host_question_kind kind)
{
    static const double bounds[] = {0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300};
    const struct metric_label labels[] = {{"question", kind_names[kind]}};
    return metric_get(METRIC_HISTOGRAM, "omid_question_seconds", "Time from a question to its answer.", labels, 1,
                      bounds, ARRAY_LEN(bounds));
}

static void account(enum host_question_kind kind, int result, uint64_t began_ns)
{
    metric_add(counter_of(kind, result), 1);
    metric_observe(seconds_of(kind), (double)(clock_mono_ns() - began_ns) / 1e9);
}

void ask_metrics(void)
{
    static const int results[] = {OMID_OK,       OMID_EINVAL,  OMID_ENOTSUP, OMID_EFULL,
                                  OMID_ETIMEOUT, OMID_ECLOSED, OMID_ERR};
    for (int kind = 0; kind < HOST_QUESTIONS; kind++) {
        seconds_of((enum host_question_kind)kind);
        for (size_t i = 0; i < ARRAY_LEN(results); i++)
            counter_of((enum host_question_kind)kind, results[i]);
    }
}

/* ---------------------------------------------------------------- the asker's end */

static void asker_free(struct host_ask *h)
{
    CHECK_MAGIC(h, ASKER_MAGIC);
    ev_timer_stop(loop_ev(h->loop), &h->timer);
    if (h->ask != NULL) {
        h->ask->asker = NULL;
        instance_maybe_quiet(h->ask->inst);
    }
    free(h->text);
    free(h->json);
    free(h->vector);
    free(h->intervals);
    free(h->segments);
    free(h->segment_text);
    free(h->pcm);
    h->magic = OMID_MAGIC_DEAD;
    free(h);
}

static void on_timer(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct host_ask *h = w->data;
    CHECK_MAGIC(h, ASKER_MAGIC);
    if (h->ask != NULL) {
        account(h->ask->kind, OMID_ETIMEOUT, h->ask->began_ns);
        h->answer = (struct omid_answer){
            .size = sizeof(h->answer), .result = OMID_ETIMEOUT, .text = "it was not answered in time"};
    }
    h->cb(h->arg, &h->answer);
    asker_free(h);
}

static void asker_tell_soon(struct host_ask *h)
{
    struct ev_loop *ev = loop_ev(h->loop);
    ev_timer_stop(ev, &h->timer);
    ev_timer_set(&h->timer, 0., 0.);
    ev_timer_start(ev, &h->timer);
}

static void *copy(const void *from, size_t n, size_t size)
{
    void *to = malloc(n * size + 1);
    if (to != NULL && n > 0)
        memcpy(to, from, n * size);
    if (to != NULL)
        ((char *)to)[n * size] = '\0';
    return to;
}

static bool copy_segments(struct host_ask *h, const struct omid_answer *a)
{
    size_t bytes = 0;
    for (size_t i = 0; i < a->n_segments; i++)
        bytes += strlen(a->segments[i].text) + 1;
    h->segments = copy(a->segments, a->n_segments, sizeof(*a->segments));
    h->segment_text = malloc(bytes + 1);
    if (h->segments == NULL || h->segment_text == NULL)
        return false;
    char *at = h->segment_text;
    for (size_t i = 0; i < a->n_segments; i++) {
        size_t len = strlen(a->segments[i].text) + 1;
        memcpy(at, a->segments[i].text, len);
        h->segments[i].text = at;
        at += len;
    }
    return true;
}

static bool copy_audio(struct host_ask *h, const struct omid_audio *audio)
{
    h->pcm = copy(audio->pcm, audio->samples, sizeof(*audio->pcm));
    h->audio = *audio;
    h->audio.pcm = h->pcm;
    h->answer.audio = &h->audio;
    return h->pcm != NULL;
}

/* false: no memory. */
static bool answer_copy(struct host_ask *h, const struct omid_answer *a)
{
    h->answer = (struct omid_answer){.size = sizeof(h->answer),
                                     .result = a->result,
                                     .mode = a->mode,
                                     .json_len = a->json_len,
                                     .n_vector = a->n_vector,
                                     .n_intervals = a->n_intervals,
                                     .n_segments = a->n_segments};
    if ((a->text != NULL && (h->text = strdup(a->text)) == NULL) ||
        (a->json != NULL && (h->json = copy(a->json, a->json_len, 1)) == NULL) ||
        (a->n_vector > 0 && (h->vector = copy(a->vector, a->n_vector, sizeof(float))) == NULL) ||
        (a->n_intervals > 0 && (h->intervals = copy(a->intervals, a->n_intervals, sizeof(*a->intervals))) == NULL) ||
        (a->n_segments > 0 && !copy_segments(h, a)) || (a->audio != NULL && !copy_audio(h, a->audio)))
        return false;
    h->answer.text = h->text;
    h->answer.json = h->json;
    h->answer.vector = h->vector;
    h->answer.intervals = h->intervals;
    h->answer.segments = h->segments;
    return true;
}

/* Of a plugin: what is wrong with its answer; NULL: nothing. */
static const char *answer_fault(const struct omid_answer *a)
{
    if (a == NULL || a->size < sizeof(*a))
        return "it has the wrong size";
    if (a->json_len > ANSWER_MAX_JSON || a->n_vector > ANSWER_MAX_VECTOR || a->n_intervals > ANSWER_MAX_ITEMS ||
        a->n_segments > ANSWER_MAX_ITEMS)
        return "it is too long";
    if ((a->json == NULL && a->json_len > 0) || (a->vector == NULL && a->n_vector > 0) ||
        (a->intervals == NULL && a->n_intervals > 0) || (a->segments == NULL && a->n_segments > 0) ||
        (a->audio != NULL && a->audio->pcm == NULL && a->audio->samples > 0))
        return "a part of it is missing";
    for (size_t i = 0; i < a->n_intervals; i++) {
        const struct omid_interval *v = &a->intervals[i];
        if (!(v->start >= 0 && v->end > v->start && isfinite(v->end)) || (i > 0 && v->start < a->intervals[i - 1].end))
            return "its intervals are not in order";
    }
    for (size_t i = 0; i < a->n_segments; i++) {
        const struct omid_stt_segment *s = &a->segments[i];
        if (s->text == NULL || !(s->start >= 0 && s->end >= s->start && isfinite(s->end)))
            return "a segment has no text, or no time";
    }
    return NULL;
}

/* ---------------------------------------------------------------- the plugin's end */

/* The handle is over: the asker, if it still waits, is told. */
static void ask_end(struct omid_ask *ask, const struct omid_answer *a)
{
    struct host_ask *h = ask->asker;
    if (h == NULL)
        return;
    h->ask = NULL;
    ask->asker = NULL;
    account(ask->kind, a->result, ask->began_ns);
    if (!answer_copy(h, a))
        h->answer = (struct omid_answer){.size = sizeof(h->answer), .result = OMID_ERR, .text = "out of memory"};
    asker_tell_soon(h);
}

static void ask_free(struct omid_ask *ask)
{
    struct omid_instance *inst = ask->inst;
    instance_unlink(inst, HANDLE_ASK, &ask->link);
    module_account_memory(inst->module, -(int64_t)sizeof(*ask));
    ask->magic = OMID_MAGIC_DEAD;
    free(ask);
    host_unuse(inst);
}

void ask_answer(struct omid_ask **askp, const struct omid_answer *answer)
{
    struct omid_ask *ask = askp != NULL ? *askp : NULL;
    if (ask == NULL || instance_check(ask->inst, "answer") != OMID_OK)
        return;
    CHECK_MAGIC(ask, ASK_MAGIC);
    *askp = NULL;
    const char *fault = answer_fault(answer);
    if (fault != NULL) {
        atomic_fetch_add(&ask->inst->module->account.errors, 1);
        log_warning("host", "an answer is not usable", LS("plugin", ask->inst->module->name),
                    LS("question", kind_names[ask->kind]), LS("reason", fault));
        const struct omid_answer bad = {.size = sizeof(bad), .result = OMID_ERR, .text = "the answer is not usable"};
        ask_end(ask, &bad);
    } else {
        ask_end(ask, answer);
    }
    ask_free(ask);
}

void ask_bury(struct list *link, struct omid_instance *inst)
{
    struct omid_ask *ask = list_entry(link, struct omid_ask, link);
    CHECK_MAGIC(ask, ASK_MAGIC);
    const struct omid_answer closed = {
        .size = sizeof(closed), .result = OMID_ECLOSED, .text = "the plugin was stopped"};
    ask_end(ask, &closed);
    module_account_memory(inst->module, -(int64_t)sizeof(*ask));
    ask->magic = OMID_MAGIC_DEAD;
    instance_bury(inst, ask);
    host_unuse(inst);
}

bool ask_waited_for(struct list *open)
{
    list_each (it, open) {
        if (list_entry(it, struct omid_ask, link)->asker != NULL)
            return true;
    }
    return false;
}

/* ---------------------------------------------------------------- asking */

static bool stt_answers(struct omid_instance *inst, const struct omid_stt_params *params)
{
    const struct omid_stt_role *stt = host_plugin(inst)->stt;
    if (params == NULL || stt == NULL || stt->size < sizeof(*stt) || stt->transcribe == NULL)
        return false;
    struct host_call call;
    host_enter(&call, inst, "stt.serves");
    int serves = stt->serves(host_state(inst), params->model, params->language);
    (void)host_leave(&call, OMID_OK);
    return serves == 1;
}

static bool answers(struct omid_instance *inst, enum host_question_kind kind, const struct omid_stt_params *params)
{
    const struct omid_plugin *p = host_plugin(inst);
    switch (kind) {
    case HOST_ASK_SCAN:
        return p->vad != NULL && p->vad->size >= sizeof(*p->vad) && p->vad->scan != NULL;
    case HOST_ASK_TRANSCRIBE:
        return stt_answers(inst, params);
    case HOST_ASK_EMBED:
        return p->embed != NULL;
    case HOST_ASK_GEOCODE:
        return p->geocode != NULL;
    case HOST_ASK_SUMMARIZE:
        return p->summarize != NULL;
    case HOST_ASK_AUDIO_WRITE:
    case HOST_ASK_AUDIO_READ:
        return p->audio_store != NULL;
    case HOST_ASK_SETUP_CHECK:
    case HOST_ASK_HOOK_TEST:
        return p->hooks != NULL;
    case HOST_QUESTIONS:
        break;
    }
    return false;
}

static struct omid_instance *find(struct host *h, unsigned reactor, enum host_question_kind kind,
                                  const struct omid_stt_params *params)
{
    for (unsigned i = 0; i < host_module_count(h, reactor); i++) {
        struct omid_instance *inst = host_instance(h, reactor, i);
        if (inst != NULL && host_running(inst) && answers(inst, kind, params))
            return inst;
    }
    return NULL;
}

bool host_answers(struct host *h, unsigned reactor, enum host_question_kind kind, const struct omid_stt_params *params)
{
    return find(h, reactor, kind, params) != NULL;
}

static int put(struct omid_instance *inst, const struct host_question *q, struct omid_ask *ask)
{
    const struct omid_plugin *p = host_plugin(inst);
    void *state = host_state(inst);
    switch (q->kind) {
    case HOST_ASK_SCAN:
        return p->vad->scan(state, q->engine, q->audio, ask);
    case HOST_ASK_TRANSCRIBE:
        return p->stt->transcribe(state, q->params, q->audio, ask);
    case HOST_ASK_EMBED:
        return p->embed->embed(state, q->audio, ask);
    case HOST_ASK_GEOCODE:
        return p->geocode->geocode(state, q->latitude, q->longitude, ask);
    case HOST_ASK_SUMMARIZE:
        return p->summarize->summarize(state, q->summary, ask);
    case HOST_ASK_AUDIO_WRITE:
        return p->audio_store->write(state, q->uid, q->conversation_id, q->start_ms, q->audio, ask);
    case HOST_ASK_AUDIO_READ:
        return p->audio_store->read(state, q->range, ask);
    case HOST_ASK_SETUP_CHECK:
        return p->hooks->setup_check(state, q->uid, q->url, ask);
    case HOST_ASK_HOOK_TEST:
        return p->hooks->test(state, q->uid, q->endpoint, ask);
    case HOST_QUESTIONS:
        break;
    }
    return OMID_ENOTSUP;
}

static struct host_ask *asker_new(struct omid_instance *inst, uint32_t timeout_ms, host_answer_cb cb, void *arg)
{
    struct host_ask *h = calloc(1, sizeof(*h));
    if (h == NULL)
        return NULL;
    h->magic = ASKER_MAGIC;
    h->loop = inst->loop;
    h->cb = cb;
    h->arg = arg;
    ev_timer_init(&h->timer, on_timer, timeout_ms / 1000., 0.);
    h->timer.data = h;
    ev_now_update(loop_ev(h->loop));
    ev_timer_start(loop_ev(h->loop), &h->timer);
    return h;
}

int host_ask(struct host *host, unsigned reactor, const struct host_question *q, uint32_t timeout_ms, host_answer_cb cb,
             void *arg, struct host_ask **out)
{
    omid_assert((unsigned)q->kind < HOST_QUESTIONS);
    struct omid_instance *inst = find(host, reactor, q->kind, q->params);
    if (inst == NULL)
        return OMID_ENOTSUP;
    omid_assert(loop_is_current(inst->loop));
    struct omid_ask *ask = calloc(1, sizeof(*ask));
    struct host_ask *h = ask != NULL ? asker_new(inst, timeout_ms, cb, arg) : NULL;
    if (h == NULL) {
        free(ask);
        return OMID_ERR;
    }
    *ask =
        (struct omid_ask){.magic = ASK_MAGIC, .inst = inst, .asker = h, .kind = q->kind, .began_ns = clock_mono_ns()};
    h->ask = ask;
    host_use(inst);
    instance_link(inst, HANDLE_ASK, &ask->link);
    module_account_memory(inst->module, sizeof(*ask));
    struct host_call call;
    host_enter(&call, inst, kind_names[q->kind]);
    int rc = put(inst, q, ask);
    /* What is wrong with the question is not the plugin's error. */
    (void)host_leave(&call, rc == OMID_EINVAL || rc == OMID_ENOTSUP ? OMID_OK : rc);
    if (rc != OMID_OK && h->ask != NULL) {
        const struct omid_answer refused = {
            .size = sizeof(refused), .result = rc < 0 ? rc : OMID_ERR, .text = "the plugin refused it"};
        ask_end(ask, &refused);
        ask_free(ask);
    }
    if (out != NULL)
        *out = h;
    return OMID_OK;
}

void host_ask_cancel(struct host_ask **askp)
{
    struct host_ask *h = *askp;
    *askp = NULL;
    if (h != NULL)
        asker_free(h);
}
