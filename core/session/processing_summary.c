/*
 * The summary of a conversation: a plugin's, when one has the role, else the local one, which is made in the critical
 * executor. A plugin that fails is asked again with the next attempts of the processing, processing.summary_attempts in
 * all; one that does not answer in time, or can't ever, is not. What was made is in the store before anybody hears of
 * it, so that all hear the same, and none is paid for twice.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "host/ask.h"
#include "lane/exec/exec.h"
#include "session/extract.h"
#include "session/processing.h"
#include "session/summary.h"

#define MODULE PROCESSING_MODULE

static void extract_begin(struct processing *p, const char *why);

/* ------------------------------------------------------------------------ kept */

static void on_kept(void *arg, int result)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    p->summary_kept = result == OMID_OK;
    p->gone = p->gone || result == OMID_ENOTSUP;
    p->store_lost = p->store_lost || result == OMID_ERR;
    processing_part_end(p, PART_SUMMARY, result == OMID_ERR ? PART_AGAIN : PART_DONE);
}

static void keep(struct processing *p)
{
    p->part[PART_SUMMARY] = PART_UNDER_WAY;
    if (store_processing_keep(p->ss->env.store, p->id, p->summary, p->ss->env.loop, on_kept, p) != OMID_OK)
        on_kept(p, OMID_ERR);
}

/* ------------------------------------------------------------------------ made here */

/* On an executor thread: p is not touched by the reactor meanwhile. */
static void extract_run(void *arg)
{
    struct processing *p = arg;
    buf_free(&p->extract);
    p->extracted = extract_summary(p->conversation, &p->extract);
}

static void extract_done(void *arg, bool ran)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    p->extracting = false;
    char *made = ran && p->extracted ? buf_steal(&p->extract, NULL) : NULL;
    if (!made) {
        snprintf(p->error, sizeof p->error, "no memory for the local summary");
        processing_part_end(p, PART_SUMMARY, PART_AGAIN);
        return;
    }
    summary_count_fallback(SUMMARY_OF_CONVERSATION, p->fallback);
    free(p->summary);
    p->summary = made;
    keep(p);
}

static void extract_begin(struct processing *p, const char *why)
{
    p->fallback = why;
    struct omid_work work = {.size = sizeof work,
                             .pool = OMID_POOL_CRITICAL,
                             .label = "summarize",
                             .run = extract_run,
                             .done = extract_done,
                             .arg = p};
    p->part[PART_SUMMARY] = PART_UNDER_WAY;
    p->extracting = true;
    if (exec_submit(p->ss->env.exec, exec_core, p->ss->env.loop, &work) == OMID_OK)
        return;
    p->extracting = false;
    snprintf(p->error, sizeof p->error, "the critical executor is full");
    processing_part_end(p, PART_SUMMARY, PART_AGAIN);
}

/* ------------------------------------------------------------------------ asked for */

static void on_answer(void *arg, const struct omid_answer *a)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    p->ask = NULL;
    const char *fault = NULL;
    char *made = a->result == OMID_OK ? summary_take(a, &fault) : NULL;
    if (made) {
        free(p->summary);
        p->summary = made;
        keep(p);
        return;
    }
    if (a->result == OMID_ENOTSUP) {
        p->nothing = true;
        processing_part_end(p, PART_SUMMARY, PART_DONE);
        return;
    }
    if (a->result == OMID_ECLOSED) {
        p->closed = true;
        processing_part_end(p, PART_SUMMARY, PART_AGAIN);
        return;
    }
    snprintf(p->error, sizeof p->error, "%.200s", fault ? fault : a->text ? a->text : "the plugin failed");
    if (fault || a->result == OMID_EINVAL) {
        log_warning(MODULE, "a plugin's summary can't be had: the local one is made", LS("conversation", p->id),
                    LS("reason", p->error));
        extract_begin(p, SUMMARY_INVALID);
    } else if (a->result == OMID_ETIMEOUT) {
        log_warning(MODULE, "a plugin's summary does not come: the local one is made", LS("conversation", p->id));
        extract_begin(p, SUMMARY_TIMEOUT);
    } else if (p->failures + 1 >= p->ss->env.conf->processing.summary_attempts) {
        log_warning(MODULE, "a plugin's summary failed: the local one is made", LS("conversation", p->id),
                    LS("reason", p->error), LU("attempts", p->failures + 1));
        extract_begin(p, SUMMARY_FAILED);
    } else {
        processing_part_end(p, PART_SUMMARY, PART_AGAIN);
    }
}

static bool ask(struct processing *p)
{
    struct buf json = BUF_INIT(0);
    bool ok = processing_json(p, STORE_PROCESSING, &json);
    struct omid_summary_request req = {.size = sizeof req,
                                       .kind = OMID_SUMMARY_CONVERSATION,
                                       .uid = p->uid,
                                       .conversation_id = p->id,
                                       .language = p->conversation->language,
                                       .json = json.data,
                                       .json_len = json.len};
    struct host_question q = {.kind = HOST_ASK_SUMMARIZE, .summary = &req};
    p->part[PART_SUMMARY] = PART_UNDER_WAY;
    ok = ok && host_ask(p->ss->env.host, p->ss->env.reactor, &q, p->ss->env.conf->processing.summary_timeout_ms,
                        on_answer, p, &p->ask) == OMID_OK;
    buf_free(&json);
    return ok;
}

void processing_summary_begin(struct processing *p)
{
    const struct conf *conf = p->ss->env.conf;
    if (p->summary && p->summary_kept)
        processing_part_end(p, PART_SUMMARY, PART_DONE);
    else if (p->summary)
        keep(p);
    else if (!host_answers(p->ss->env.host, p->ss->env.reactor, HOST_ASK_SUMMARIZE, NULL))
        extract_begin(p, SUMMARY_NO_PLUGIN);
    else if (p->failures >= conf->processing.summary_attempts)
        extract_begin(p, SUMMARY_FAILED);
    else if (p->ss->draining) {
        p->closed = true;
        processing_part_end(p, PART_SUMMARY, PART_AGAIN);
    } else if (!ask(p))
        extract_begin(p, SUMMARY_FAILED);
}
