/*
 * What goes on for a session, as tasks of its supervisor:
 *
 *   client   lifetime   the connection; in the drain until it has closed
 *   watch    lifetime   pings, inactivity, a client that does not read; ends when session_close() does
 *   stt:N    lifetime   a channel's feed; in the drain until the rest of the transcript has come
 *   open     finite     the store's answer to the question for a conversation
 *   voice:N  finite     the answer to who speaker N is, see speakers.c
 *
 * Every one of them can be cancelled at once: nothing here waits in a thread.
 */
#include <stdio.h>

#include "base/log.h"
#include "session/state.h"

#define MODULE "session"

/* --------------------------------------------------------------- the supervisor's turns */

static struct supervisor_limits session_limits(const struct session *s)
{
    const struct conf *conf = session_conf(s);
    return (struct supervisor_limits){.drain_ms = conf->listen.drain_ms,
                                      .bound_ms = conf->listen.drain_bound_ms,
                                      .until_ms = s->hurried        ? 0
                                                  : s->ss->draining ? s->ss->drain_until_ms
                                                                    : UINT64_MAX};
}

static void session_turn_at(struct session *s, double after)
{
    ev_timer_stop(session_ev(s), &s->turn);
    ev_timer_set(&s->turn, after, 0.);
    ev_timer_start(session_ev(s), &s->turn);
}

static void on_turn(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct session *s = w->data;
    CHECK_MAGIC(s, SESSION_MAGIC);
    struct supervisor_limits limits = session_limits(s);
    uint64_t now = loop_now_ms(s->ss->env.loop), due;
    bool ran = supervisor_running(&s->supervisor);
    bool over = supervisor_turn(&s->supervisor, now, &limits, &due);
    if (ran && !supervisor_running(&s->supervisor))
        log_info(MODULE, "ends", LS("session", s->id), LS("reason", supervisor_reason_name(s->supervisor.reason)));
    if (over) {
        session_destroy(s);
        return;
    }
    session_show(s, false);
    if (due != UINT64_MAX)
        session_turn_at(s, due > now ? (double)(due - now) / 1000. : 0.);
}

static void session_wake(void *arg)
{
    session_turn_at(arg, 0.);
}

/* ------------------------------------------------------------------------- tasks */

/* The client: ends when its connection does. */

static void client_shutdown(struct task *t)
{
    struct session *s = container_of(t, struct session, client);
    session_close(s, WS_CODE_INTERNAL, "internal failure"); /* whoever ended the session has said more, as a rule */
}

static void client_cancel(struct task *t)
{
    task_end(t, TASK_DONE, NULL);
}

static void client_ended(struct task *t)
{
    struct session *s = container_of(t, struct session, client);
    session_audio_end(s);
    channel_drop(&s->channel);
    if (s->state < SESSION_LEAVING)
        session_set_state(s, SESSION_LEAVING);
}

static const struct task_ops client_ops = {
    .shutdown = client_shutdown, .cancel = client_cancel, .ended = client_ended, .count = sessions_live_add};

/* What we ask of a client: that it says something now and then, and reads what it is told. */

static void watch_stop(struct task *t)
{
    task_end(t, TASK_DONE, NULL);
}

static void watch_ended(struct task *t)
{
    struct session *s = container_of(t, struct session, watch);
    ev_timer_stop(session_ev(s), &s->ping);
    ev_timer_stop(session_ev(s), &s->check);
}

static const struct task_ops watch_ops = {.shutdown = watch_stop, .cancel = watch_stop, .ended = watch_ended};

/* Speech to text: what is left of the audio is sent and what comes of it is taken, then it is done. */

static void stt_shutdown(struct task *t)
{
    stt_feed_close(container_of(t, struct stream, task)->feed);
}

static void stt_cancel(struct task *t)
{
    stt_feed_free(&container_of(t, struct stream, task)->feed); /* the supervisor's turn: none of its events */
    task_end(t, TASK_DONE, NULL);
}

static void session_open_settle(struct session *s);

static void stt_ended(struct task *t)
{
    session_open_settle(container_of(t, struct stream, task)->s);
}

static const struct task_ops stt_ops = {.shutdown = stt_shutdown, .cancel = stt_cancel, .ended = stt_ended};

/* The opening of a conversation. Waiting for the store in the drain is worth it only while there is, or may yet be,
 * something to put into it. */

static void session_open_settle(struct session *s)
{
    for (unsigned i = 0; i < s->n_streams; i++) {
        if (task_running(&s->stream[i].task))
            return;
    }
    if (!supervisor_running(&s->supervisor) && s->early.n == 0 && list_empty(&s->early_texts))
        task_end(&s->open, TASK_DONE, NULL);
}

static void open_shutdown(struct task *t)
{
    session_open_settle(container_of(t, struct session, open));
}

static void open_cancel(struct task *t)
{
    struct session *s = container_of(t, struct session, open);
    /* What was said is kept in memory, and stored from there. */
    struct conversation *live = conversation_live(s->ss, s->uid);
    session_attach(s, live ? live : conversation_new(s->ss, NULL, s));
}

static void open_ended(struct task *t)
{
    struct session *s = container_of(t, struct session, open);
    ev_timer_stop(session_ev(s), &s->open_wait);
}

static const struct task_ops open_ops = {.shutdown = open_shutdown, .cancel = open_cancel, .ended = open_ended};

/* ------------------------------------------------------------------- start and end */

void session_tasks_init(struct session *s)
{
    ev_init(&s->turn, on_turn);
    s->turn.data = s;
    supervisor_init(&s->supervisor, supervisor_class_get(SESSION_LABEL), s->uid_tag, session_wake, s);
    task_init(&s->client);
    task_init(&s->watch);
    for (unsigned i = 0; i < SESSION_MAX_STREAMS; i++)
        task_init(&s->stream[i].task);
    task_init(&s->open);
}

void session_client_begin(struct session *s)
{
    bool began = task_start(&s->client, &s->supervisor, TASK_LIFETIME, "client", &client_ops) &&
                 task_start(&s->watch, &s->supervisor, TASK_LIFETIME, "watch", &watch_ops);
    omid_assert(began);
}

void session_stt_begin(struct stream *st)
{
    char what[sizeof st->task.what];
    snprintf(what, sizeof what, "stt:%u", st->number + 1);
    bool began =
        task_start(&st->task, &st->s->supervisor, TASK_LIFETIME, session_is_multi(st->s) ? what : "stt", &stt_ops);
    omid_assert(began);
}

bool session_open_begin(struct session *s)
{
    return task_start(&s->open, &s->supervisor, TASK_FINITE, "open", &open_ops);
}

void session_tasks_end(struct session *s)
{
    task_end(&s->open, TASK_DONE, NULL); /* not by its cancel(): it would begin a conversation */
    supervisor_abort(&s->supervisor);
    ev_timer_stop(session_ev(s), &s->turn);
}
