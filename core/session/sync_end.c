/* What becomes of a recording's work: done, skipped, failed, or another time; and who is told. */
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "session/sync.h"

#define MODULE "sync"
#define RETRY_MAX_MS 3600000.

static void settle_write(struct job *j);

static void on_settle_again(struct ev_loop *ev, ev_timer *t, int revents)
{
    (void)ev;
    (void)revents;
    settle_write(t->data);
}

static void on_settled(void *arg, int result)
{
    struct job *j = arg;
    if (result == OMID_OK || result == OMID_ENOTSUP)
        job_files_remove(j, j->end.stored); /* also while the daemon stops: nobody would look for them again */
    if (!job_returned(j))
        return;
    if (result == OMID_ERR) {
        job_store_again(j, "settle", on_settle_again);
        return;
    }
    struct sync *y = j->sync;
    job_over(j);
    sync_kick(y);
}

static void settle_write(struct job *j)
{
    j->working = true;
    if (store_recording_set(j->sync->ss->env.store, &j->end, j->sync->ss->env.loop, on_settled, j) != OMID_OK)
        on_settled(j, OMID_ERR);
}

/* st->error is static, or j->err. */
static void job_settle(struct job *j, const struct store_recording_state *st)
{
    job_set_state(j, JOB_SETTLE);
    j->end = *st;
    j->end.n = j->n;
    j->end.seconds = (double)j->samples / RECORDING_RATE;
    settle_write(j);
}

void job_failed(struct job *j)
{
    CHECK_MAGIC(j, JOB_MAGIC);
    const struct conf *conf = j->sync->ss->env.conf;
    bool kept = j->n_conversations > 0;     /* its transcript is where it belongs: only the audio is left */
    bool no_room = j->result == OMID_EFULL; /* ours: no attempt that counts, so that nothing is given up for it */
    double pause = conf->sync.retry_ms;
    struct store_recording_state st = {.error = j->err};
    if (j->advanced) /* attempts that come to nothing count, in a row */
        j->attempts = 0;
    if (!no_room || j->attempts + 1 < conf->sync.attempts)
        j->attempts++;
    for (unsigned i = 1; i < j->attempts && pause < RETRY_MAX_MS; i++)
        pause *= 2;
    if (pause > RETRY_MAX_MS)
        pause = RETRY_MAX_MS;
    st.attempts = j->attempts;
    if (!kept && j->result == OMID_ENOTSUP) {
        st.status = RECORDING_SKIPPED;
        st.stored = true;
        st.error = NULL;
        job_count("skipped");
    } else if (!kept && (j->result == OMID_EINVAL || (!no_room && j->attempts >= conf->sync.attempts))) {
        st.status = RECORDING_FAILED;
        st.stored = true;
        job_count("failed");
        log_warning(MODULE, "a recording has failed", LS("file", j->file), LS("reason", j->err));
    } else if (kept && j->result == OMID_EINVAL) { /* its file is gone, or damaged: the same every time */
        st.status = RECORDING_DONE;
        st.progress = 1;
        st.stored = true;
        job_count("failed");
        log_error(MODULE, "a recording's audio is lost", LS("file", j->file), LS("reason", j->err));
    } else {
        st.status = kept ? RECORDING_DONE : RECORDING_WAITING;
        st.progress = kept ? 1 : 0;
        st.not_before_ms = clock_wall_ms() + (int64_t)pause;
        job_count("retried");
        log_info(MODULE, "a recording is taken up again later", LS("file", j->file), LU("attempt", j->attempts),
                 LI("pause_ms", (int64_t)pause), LS("reason", j->err));
    }
    job_settle(j, &st);
}

void job_not_kept(struct job *j)
{
    j->working = false;
    j->result = OMID_EINVAL;
    snprintf(j->err, sizeof(j->err), "its transcript can't be kept");
    job_failed(j);
}

void job_runs(struct job *j)
{
    const struct store_recording_state st = {.n = j->n, .status = RECORDING_RUNNING, .attempts = j->attempts};
    (void)store_recording_set(j->sync->ss->env.store, &st, j->sync->ss->env.loop, NULL, NULL);
}

void job_audio_kept(struct job *j)
{
    const struct store_recording_state st = {.status = RECORDING_DONE, .progress = 1, .stored = true};
    job_count("done");
    log_info(MODULE, "a recording is done", LS("file", j->file), LU("conversations", j->n_conversations));
    job_settle(j, &st);
}
