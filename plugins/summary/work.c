/*
 * One question.
 *
 *   PREPARE   an executor makes the transcript of the JSON
 *   PARTS     when there is more than one: notes of each, some at a time
 *   WHOLE     the summary, of the transcript or of the notes
 *   REPAIR    the same with what was wrong about it, once
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "summary.h"

enum stage { PREPARE, PARTS, WHOLE, REPAIR };

/* The executor's: it outlives its question when the instance stops meanwhile. */
struct prepare {
    struct work *work; /* NULL: nobody wants it any more */
    enum omid_summary_kind kind;
    size_t part_size;
    unsigned max_parts;
    char *json;
    size_t len;
    struct transcript transcript;
    struct kit_fault fault;
    bool ok;
};

struct part {
    struct work *work;
    unsigned number;
    struct call call;
    omid_gather_token token;
    char *notes;
};

struct work {
    struct work *next, **link;
    struct instance *in;
    struct omid_ask *ask;
    enum stage stage;
    enum omid_summary_kind kind;
    char *language;
    char nonce[37];
    uint64_t until_ms;
    struct prepare *prepare; /* while it is under way */
    struct transcript transcript;
    struct omid_gather *gather;
    struct part *part; /* while in PARTS */
    int part_result;   /* of the first that failed */
    char part_text[256];
    char *notes; /* of all parts; NULL: there was only one */
    struct call call;
    char *said; /* what a repair is about */
    struct kit_fault fault;
};

static void parts_free(struct work *w)
{
    for (unsigned i = 0; w->part && i < w->transcript.n; i++) {
        call_cancel(&w->part[i].call);
        free(w->part[i].notes);
    }
    free(w->part);
    w->part = NULL;
}

static void work_free(struct work *w)
{
    struct instance *in = w->in;
    if (w->gather)
        in->set->host->gather_cancel(&w->gather);
    call_cancel(&w->call);
    parts_free(w);
    if (w->prepare)
        w->prepare->work = NULL;
    *w->link = w->next;
    if (w->next)
        w->next->link = w->link;
    in->n_work--;
    transcript_free(&w->transcript);
    free(w->language);
    free(w->notes);
    free(w->said);
    free(w);
}

static void work_answer(struct work *w, enum question_end how, const struct omid_answer *a)
{
    struct instance *in = w->in;
    const struct omid_host *host = in->set->host;
    host->counter_add(in->set->questions[how], 1);
    host->answer(&w->ask, a);
    work_free(w);
    if (in->draining && in->n_work == 0)
        host->drained(in->inst);
}

static void work_fail(struct work *w, enum question_end how, int result, const char *text)
{
    const struct omid_answer a = {.size = sizeof a, .result = result, .text = text};
    work_answer(w, how, &a);
}

/* ---------------------------------------------------------------- the summary */

static void on_whole(void *arg, struct call_result *r);

static void whole_ask(struct work *w)
{
    const struct prompt p = {.kind = w->kind,
                             .language = w->language,
                             .began = w->transcript.began,
                             .nonce = w->nonce,
                             .text = w->notes ? w->notes : w->transcript.part[0],
                             .notes = w->notes != NULL,
                             .answer = w->said,
                             .fault = w->stage == REPAIR ? w->fault.text : NULL};
    struct kit_text body = {.len = 0};
    const char *text;
    prompt_write(w->in->set, &p, &body);
    if (!call_start(&w->call, w->in, &body, w->until_ms, on_whole, w, &text))
        work_fail(w, Q_FAILED, OMID_ERR, text);
}

static void on_whole(void *arg, struct call_result *r)
{
    struct work *w = arg;
    const struct omid_host *host = w->in->set->host;
    struct kit_text json = {.len = 0};
    struct kit_fault f = {""};
    if (r->result != OMID_OK) {
        work_fail(w, r->result == OMID_EINVAL ? Q_UNUSABLE : Q_FAILED, r->result, r->text);
        return;
    }
    bool ok = check_summary(w->kind, r->completion.content, strlen(r->completion.content), &json, &f);
    if (ok) {
        const struct omid_answer a = {
            .size = sizeof a, .result = OMID_OK, .mode = "hosted", .json = json.data, .json_len = json.len};
        work_answer(w, w->stage == REPAIR ? Q_REPAIRED : Q_ANSWERED, &a);
    } else if (w->stage == WHOLE) {
        if (r->completion.cut)
            snprintf(f.text, sizeof f.text, "it was cut off at %lld tokens, be shorter",
                     (long long)w->in->set->max_tokens);
        host->log(w->in->set->mod, OMID_LOG_INFO, "the model's answer is not usable, it is asked once more: %s",
                  f.text);
        w->fault = f;
        w->said = r->completion.content;
        r->completion.content = NULL;
        w->stage = REPAIR;
        whole_ask(w);
    } else {
        char text[sizeof f.text + 64];
        snprintf(text, sizeof text, "the model's answer is not usable, nor was its first: %s", f.text);
        work_fail(w, Q_UNUSABLE, OMID_EINVAL, text);
    }
    kit_text_free(&json);
}

/* ---------------------------------------------------------------- the parts */

static void on_part(void *arg, struct call_result *r)
{
    struct part *p = arg;
    struct work *w = p->work;
    omid_gather_token token = p->token;
    const char *text = r->text;
    int result = r->result;
    if (result == OMID_OK && r->completion.content[0] == '\0') {
        result = OMID_ERR;
        text = "the model took no notes";
    }
    if (result == OMID_OK) {
        p->notes = r->completion.content;
        r->completion.content = NULL;
    } else if (w->part_result == OMID_OK) {
        w->part_result = result;
        snprintf(w->part_text, sizeof w->part_text, "part %u of %u: %.200s", p->number + 1, w->transcript.n, text);
    }
    (void)w->in->set->host->gather_done(w->in->inst, token, result, text, NULL);
}

static int part_start(void *arg, unsigned index, omid_gather_token token)
{
    struct work *w = arg;
    struct part *part = &w->part[index];
    const struct prompt p = {.kind = w->kind,
                             .language = w->language,
                             .began = w->transcript.began,
                             .nonce = w->nonce,
                             .text = w->transcript.part[index],
                             .part = index + 1,
                             .parts = w->transcript.n};
    struct kit_text body = {.len = 0};
    const char *text;
    part->token = token;
    if (w->part_result != OMID_OK)
        return OMID_ECLOSED; /* another has failed: this one is not worth its price */
    prompt_write(w->in->set, &p, &body);
    w->in->set->host->counter_add(w->in->set->parts_sent, 1);
    if (call_start(&part->call, w->in, &body, w->until_ms, on_part, part, &text))
        return OMID_OK;
    w->part_result = OMID_ERR;
    snprintf(w->part_text, sizeof w->part_text, "part %u of %u: %s", index + 1, w->transcript.n, text);
    return OMID_ERR;
}

static void part_abort(void *arg, unsigned index)
{
    struct work *w = arg;
    call_cancel(&w->part[index].call);
}

/* The notes of all, each with its share of what one request may hold. */
static bool notes_join(struct work *w)
{
    struct kit_text t = {.len = 0};
    size_t share = w->in->set->prompt_size / w->transcript.n;
    for (unsigned i = 0; i < w->transcript.n; i++) {
        const char *s = w->part[i].notes;
        size_t len = strlen(s);
        if (len > share) {
            for (len = share; len > 0 && ((unsigned char)s[len] & 0xc0) == 0x80;)
                len--;
        }
        kit_text_addf(&t, "Part %u of %u:\n", i + 1, w->transcript.n);
        kit_text_add(&t, s, len);
        kit_text_adds(&t, "\n\n");
    }
    w->notes = t.data;
    return !t.failed;
}

static void parts_finished(void *arg, unsigned failed)
{
    struct work *w = arg;
    w->gather = NULL;
    if (failed > 0) {
        char text[sizeof w->part_text];
        memcpy(text, w->part_text, sizeof text);
        work_fail(w, w->part_result == OMID_EINVAL ? Q_UNUSABLE : Q_FAILED,
                  w->part_result != OMID_OK ? w->part_result : OMID_ERR, text[0] ? text : "a part was not answered");
        return;
    }
    bool ok = notes_join(w);
    parts_free(w);
    w->stage = WHOLE;
    if (ok)
        whole_ask(w);
    else
        work_fail(w, Q_FAILED, OMID_ERR, "no memory");
}

static void parts_begin(struct work *w)
{
    const struct settings *set = w->in->set;
    w->stage = PARTS;
    w->part = calloc(w->transcript.n, sizeof *w->part);
    for (unsigned i = 0; w->part && i < w->transcript.n; i++)
        w->part[i] = (struct part){.work = w, .number = i, .call = {.in = w->in}};
    const struct omid_gather_request req = {.size = sizeof req,
                                            .label = "parts",
                                            .n = w->transcript.n,
                                            .at_once = set->parts_at_once,
                                            .item_timeout_ms = set->deadline_ms,
                                            .start = part_start,
                                            .abort = part_abort,
                                            .finished = parts_finished,
                                            .arg = w};
    if (!w->part || set->host->gather_start(w->in->inst, &req, &w->gather) != OMID_OK)
        work_fail(w, Q_FAILED, OMID_ERR, "no memory, or too many parts are under way");
}

/* ---------------------------------------------------------------- the transcript */

static void prepare_free(struct prepare *p)
{
    transcript_free(&p->transcript);
    free(p->json);
    free(p);
}

static void prepare_run(void *arg)
{
    struct prepare *p = arg;
    p->ok = transcript_read(p->kind, p->json, p->len, p->part_size, p->max_parts, &p->transcript, &p->fault);
}

static void prepare_done(void *arg, bool ran)
{
    struct prepare *p = arg;
    struct work *w = p->work;
    if (!w) {
        prepare_free(p);
        return;
    }
    const struct settings *set = w->in->set;
    bool ok = ran && p->ok;
    struct kit_fault fault = p->fault;
    w->prepare = NULL;
    w->transcript = p->transcript;
    p->transcript = (struct transcript){.n = 0};
    prepare_free(p);
    if (!ok && !ran)
        work_fail(w, Q_FAILED, OMID_ECLOSED, "going away");
    else if (!ok)
        work_fail(w, Q_UNUSABLE, OMID_EINVAL, fault.text);
    else if (w->transcript.n == 0 && w->transcript.photos)
        work_fail(w, Q_UNUSABLE, OMID_EINVAL, "there are photos alone, and nothing is said of them");
    else if (w->transcript.n == 0)
        work_fail(w, Q_NOTHING, OMID_ENOTSUP, "nothing was said");
    else if (w->transcript.n > 1) {
        if (w->transcript.left_out > 0) {
            set->host->counter_add(set->parts_left_out, w->transcript.left_out);
            set->host->log(set->mod, OMID_LOG_WARNING, "a conversation is too long: %u of %u parts are left out",
                           w->transcript.left_out, w->transcript.left_out + w->transcript.n);
        }
        parts_begin(w);
    } else {
        w->stage = WHOLE;
        whole_ask(w);
    }
}

static struct prepare *prepare_new(struct work *w, const struct omid_summary_request *req)
{
    struct prepare *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    *p = (struct prepare){.work = w,
                          .kind = req->kind,
                          .part_size = w->in->set->prompt_size,
                          .max_parts = w->in->set->max_parts,
                          .len = req->json_len,
                          .json = malloc(req->json_len + 1)};
    if (!p->json) {
        free(p);
        return NULL;
    }
    memcpy(p->json, req->json, req->json_len);
    return p;
}

int work_summarize(struct instance *in, const struct omid_summary_request *req, struct omid_ask *ask)
{
    const struct settings *set = in->set;
    if (in->n_work >= set->max_questions || in->draining) {
        set->host->counter_add(set->questions[Q_FULL], 1);
        return OMID_EFULL;
    }
    struct work *w = calloc(1, sizeof *w);
    if (!w)
        return OMID_ERR;
    *w = (struct work){.next = in->work,
                       .link = &in->work,
                       .in = in,
                       .kind = req->kind,
                       .until_ms = set->host->now_ms() + set->deadline_ms,
                       .language = strdup(req->language ? req->language : ""),
                       .call = {.in = in}};
    set->host->uuid4(w->nonce);
    if (in->work)
        in->work->link = &w->next;
    in->work = w;
    in->n_work++;
    w->prepare = w->language ? prepare_new(w, req) : NULL;
    const struct omid_work work = {.size = sizeof work,
                                   .pool = OMID_POOL_BLOCKING,
                                   .label = "transcript",
                                   .run = prepare_run,
                                   .done = prepare_done,
                                   .arg = w->prepare};
    int rc = w->prepare ? set->host->exec_submit(in->inst, &work) : OMID_ERR;
    if (rc != OMID_OK) {
        struct prepare *p = w->prepare;
        set->host->counter_add(set->questions[Q_FULL], 1);
        work_free(w);
        if (p)
            prepare_free(p);
        return rc;
    }
    w->ask = ask;
    return OMID_OK;
}

void work_stop_all(struct instance *in)
{
    while (in->work)
        work_free(in->work); /* what is asked is answered by the host */
}
