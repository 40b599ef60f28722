/* A recording's audio on its way to the role audio_store, conversation by conversation, in pieces. */
#include <stdio.h>
#include <string.h>

#include "session/sync.h"

#define PIECE ((size_t)60 * RECORDING_RATE)
#define KEEP_MS 120000
#define AROUND_MS 1000 /* that belongs to a conversation before its first and behind its last word */

static void next_piece(struct job *j);

static void next_conversation(struct job *j)
{
    j->conversation_at++;
    job_keep(j);
}

static void on_kept(void *arg, const struct omid_answer *a)
{
    struct job *j = arg;
    CHECK_MAGIC(j, JOB_MAGIC);
    j->ask = NULL;
    if (a->result != OMID_OK) {
        j->result = OMID_ERR;
        snprintf(j->err, sizeof(j->err), "its audio is not stored: %s", a->text != NULL ? a->text : "failed");
        job_failed(j);
        return;
    }
    j->keep_at += j->pcm.n;
    next_piece(j);
}

static void piece_read(struct job *j)
{
    struct sessions *ss = j->sync->ss;
    if (j->result != OMID_OK) {
        job_failed(j);
        return;
    }
    job_set_state(j, JOB_KEEP);
    const struct omid_audio audio = {
        .size = sizeof(audio), .pcm = j->pcm.data, .samples = j->pcm.n, .sample_rate = RECORDING_RATE};
    const struct host_question q = {.kind = HOST_ASK_AUDIO_WRITE,
                                    .audio = &audio,
                                    .uid = j->uid,
                                    .conversation_id = j->conversation[j->conversation_at],
                                    .start_ms = j->start_ms + (int64_t)(j->keep_at * 1000 / RECORDING_RATE)};
    int rc = host_ask(ss->env.host, ss->env.reactor, &q, KEEP_MS, on_kept, j, &j->ask);
    if (rc != OMID_OK) {
        j->result = OMID_ERR;
        snprintf(j->err, sizeof(j->err), "its audio is not stored: the plugin can't be asked");
        job_failed(j);
    }
}

static void piece_run(void *arg)
{
    struct job *j = arg;
    uint64_t left = j->keep_end - j->keep_at;
    (void)job_read(j, j->keep_at, left < PIECE ? (size_t)left : PIECE);
}

static void next_piece(struct job *j)
{
    if (j->keep_at >= j->keep_end) {
        next_conversation(j);
        return;
    }
    job_set_state(j, JOB_CUT);
    job_work(j, "sync_cut", piece_run, piece_read);
}

/* What of the recording lies within [from, to], Unix ms. */
static void range_set(struct job *j, int64_t from, int64_t to)
{
    int64_t end = j->start_ms + (int64_t)(j->samples * 1000 / RECORDING_RATE);
    if (from < j->start_ms)
        from = j->start_ms;
    if (to > end)
        to = end;
    j->keep_at = from < to ? (uint64_t)(from - j->start_ms) * (RECORDING_RATE / 1000) : 0;
    j->keep_end = from < to ? (uint64_t)(to - j->start_ms) * (RECORDING_RATE / 1000) : 0;
}

static void on_found(void *arg, int result, struct store_conversation *c)
{
    struct job *j = arg;
    bool wanted = job_returned(j);
    if (wanted && c != NULL)
        range_set(j, c->started_ms - AROUND_MS, c->finished_ms + AROUND_MS);
    else if (wanted)
        j->keep_at = j->keep_end = 0; /* deleted meanwhile: its audio goes nowhere */
    store_conversation_free(&c);
    if (wanted && result == OMID_OK) {
        next_piece(j);
    } else if (wanted) { /* that is no reason to drop its audio */
        j->result = OMID_ERR;
        snprintf(j->err, sizeof(j->err), "its audio is not stored: the store failed");
        job_failed(j);
    }
}

void job_keep(struct job *j)
{
    struct sessions *ss = j->sync->ss;
    if (j->conversation_at == j->n_conversations ||
        !host_answers(ss->env.host, ss->env.reactor, HOST_ASK_AUDIO_WRITE, NULL)) {
        job_audio_kept(j);
        return;
    }
    job_set_state(j, JOB_FIND);
    j->working = true;
    if (store_conversation_get(ss->env.store, j->conversation[j->conversation_at], ss->env.loop, on_found, j) ==
        OMID_OK)
        return;
    j->working = false;
    j->result = OMID_ERR;
    snprintf(j->err, sizeof(j->err), "the store does not answer");
    job_failed(j);
}
