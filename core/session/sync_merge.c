/* The transcript of a recording on its way into conversations. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session/sync.h"

static void merge_put(struct job *j);

static void on_merge_again(struct ev_loop *ev, ev_timer *t, int revents)
{
    (void)ev;
    (void)revents;
    merge_put(t->data);
}

static bool ids_take(struct job *j, const char (*ids)[37], size_t n)
{
    j->conversation = calloc(n + 1, sizeof(*j->conversation));
    j->n_conversations = 0;
    for (size_t i = 0; j->conversation != NULL && i < n; i++)
        memcpy(j->conversation[j->n_conversations++], ids[i], sizeof(ids[i]));
    return j->conversation != NULL;
}

static void on_merged(void *arg, int result, const char (*ids)[37], size_t n)
{
    struct job *j = arg;
    struct sessions *ss = j->sync->ss;
    if (!job_returned(j))
        return;
    if (result == OMID_EFULL || result == OMID_ERR) {
        /* A conversation that it belongs to goes on, or is being processed; or the disk fails. */
        job_set_state(j, JOB_WAIT);
        if (result == OMID_ERR) {
            job_store_again(j, "merge", on_merge_again);
            return;
        }
        j->store_failures = 0;
        job_later(j, on_merge_again, ss->env.conf->sync.check_ms);
        if (!j->waiting && j->sync->waiting < SYNC_WAITING_MAX) {
            pcm_free(&j->pcm);
            job_wait_set(j, true);
            sync_kick(j->sync);
        }
        return;
    }
    j->store_failures = 0;
    job_wait_set(j, false);
    if (result != OMID_OK || !ids_take(j, ids, n)) {
        job_over(j); /* done before, or found again */
        return;
    }
    for (size_t i = 0; i < n; i++)
        processing_start(ss, ids[i], j->uid);
    job_stt_free(j);
    job_keep(j);
}

static void merge_put(struct job *j)
{
    struct sessions *ss = j->sync->ss;
    struct store_segment *segment = calloc(j->found.n + 1, sizeof(*segment));
    char(*names)[16] = calloc(j->found.n + 1, sizeof(*names));
    job_set_state(j, JOB_MERGE);
    j->working = true;
    int rc = OMID_ERR;
    for (size_t i = 0; segment != NULL && names != NULL && i < j->found.n; i++) {
        const struct segment *f = j->found.item[i];
        segment_speaker_name(f->speaker_id, names[i]);
        segment[i] = (struct store_segment){.id = f->id,
                                            .text = f->text,
                                            .speaker = names[i],
                                            .stt_provider = f->provider,
                                            .speaker_id = f->speaker_id,
                                            .start = (double)j->start_ms / 1000. + f->start,
                                            .end = (double)j->start_ms / 1000. + f->end};
    }
    if (segment != NULL && names != NULL) {
        const struct store_transcript t = {.n = j->n,
                                           .uid = j->uid,
                                           .language = j->language,
                                           .source = "omi",
                                           .timeout_ms = ss->env.conf->listen.conversation_timeout_ms,
                                           .seconds = (double)j->samples / RECORDING_RATE,
                                           .segment = segment,
                                           .n_segments = j->found.n};
        rc = store_transcript_merge(ss->env.store, &t, ss->env.loop, on_merged, j);
    }
    free(segment);
    free(names);
    if (rc == OMID_EINVAL)
        job_not_kept(j);
    else if (rc != OMID_OK)
        on_merged(j, OMID_ERR, NULL, 0);
}

static int by_start(const void *pa, const void *pb)
{
    const struct segment *a = *(const struct segment *const *)pa, *b = *(const struct segment *const *)pb;
    return a->start < b->start ? -1 : a->start > b->start;
}

/* What is found is combined as live words are, but not over a silence that divides conversations. false: no memory. */
static bool found_combine(struct job *j)
{
    struct segment_list all = {0}, part = {0}, combined = {0};
    struct id_list gone = {0};
    double timeout = j->sync->ss->env.conf->listen.conversation_timeout_ms / 1000., end = 0;
    bool ok = true;
    qsort(j->found.item, j->found.n, sizeof(*j->found.item), by_start);
    for (size_t i = 0; ok && i <= j->found.n; i++) {
        struct segment *s = i < j->found.n ? j->found.item[i] : NULL;
        if (part.n > 0 && (s == NULL || s->start - end >= timeout)) {
            ok = segments_merge(&combined, &part, &gone);
            for (size_t k = 0; ok && k < combined.n; k++) {
                ok = segment_list_push(&all, combined.item[k]);
                if (ok)
                    combined.item[k] = NULL;
            }
            if (ok)
                combined.n = 0;
        }
        if (!ok || s == NULL)
            continue;
        ok = segment_list_push(&part, s);
        if (ok)
            j->found.item[i] = NULL;
        if (s->end > end)
            end = s->end;
    }
    id_list_free(&gone);
    segment_list_free(&part);
    segment_list_free(&combined);
    segment_list_free(&j->found);
    j->found = all;
    return ok;
}

void job_transcribed(struct job *j)
{
    if (j->found.n == 0) {
        j->result = OMID_ENOTSUP;
        snprintf(j->err, sizeof(j->err), "there is no speech in it");
        job_failed(j);
        return;
    }
    if (found_combine(j)) {
        merge_put(j);
        return;
    }
    j->result = OMID_ERR;
    snprintf(j->err, sizeof(j->err), "out of memory");
    job_failed(j);
}
