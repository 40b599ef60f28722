/* What others see of sessions, and what an operator may do to one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/utf8.h"
#include "session/state.h"

#define MODULE "session"

const char *const session_state_names[SESSION_STATES_SHOWN] = {
    [SESSION_STARTING] = "starting",
    [SESSION_LIVE] = "live",
    [SESSION_CLOSING] = "closing",
    [SESSION_LEAVING] = "leaving",
};

/* Audio that was received and has not reached the provider: in the feed, and before it, held back in the channel, where
 * only its bytes are known. */
static uint32_t session_lag_ms(const struct session *s)
{
    uint64_t ms = 0;
    for (unsigned i = 0; i < s->n_streams; i++) {
        uint64_t lag = s->stream[i].feed ? stt_feed_lag_ms(s->stream[i].feed) : 0;
        ms = lag > ms ? lag : ms;
    }
    uint64_t taken_ms = s->samples * 1000 / (uint64_t)s->params.sample_rate;
    if (s->channel && s->bytes > 0)
        ms += channel_up_bytes(s->channel) * taken_ms / s->bytes;
    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

/* Of each channel's feed, those that are the same told once. */
static void session_providers(const struct session *s, char *out, size_t size)
{
    const char *last = NULL;
    size_t at = 0;
    out[0] = 0;
    for (unsigned i = 0; i < s->n_streams; i++) {
        const char *name = s->stream[i].feed ? stt_feed_provider(s->stream[i].feed) : NULL;
        if (!name || (last && strcmp(last, name) == 0))
            continue;
        int n = snprintf(out + at, size - at, "%s%s", last ? "," : "", name);
        if (n < 0 || (size_t)n >= size - at)
            return;
        at += (size_t)n;
        last = name;
    }
}

/* Cut at a character: a half one would spoil the list of all sessions. */
static void show_text(char *to, size_t size, const char *text)
{
    size_t n = utf8_clip(text, strlen(text), size - 1);
    memcpy(to, text, n);
    to[n] = 0;
}

void session_show(struct session *s, bool tick)
{
    CHECK_MAGIC(s, SESSION_MAGIC);
    if (!s->begun || s->state >= SESSION_STATES_SHOWN)
        return;
    struct roster_row row = s->shown.row;
    uint64_t now = loop_now_ms(s->ss->env.loop);
    memcpy(row.id, s->id, sizeof row.id);
    memcpy(row.uid_tag, s->uid_tag, sizeof row.uid_tag);
    row.state = s->state;
    snprintf(row.codec, sizeof row.codec, "%s", s->params.codec_name);
    show_text(row.language, sizeof row.language, s->params.language);
    char providers[2 * sizeof row.provider];
    session_providers(s, providers, sizeof providers);
    show_text(row.provider, sizeof row.provider, providers);
    row.sample_rate = (uint32_t)s->params.sample_rate;
    row.channels = (uint32_t)s->params.channels;
    supervisor_tasks(&s->supervisor, row.tasks, sizeof row.tasks);
    row.began_ms = s->began_ms;
    row.last_data_ms = s->last_data_ms;
    row.bytes = s->bytes;
    row.lag_ms = session_lag_ms(s);
    if (tick && now > s->rated_ms) {
        row.bytes_per_s = (uint32_t)((s->bytes - s->rated_bytes) * 1000 / (now - s->rated_ms));
        s->rated_ms = now;
        s->rated_bytes = s->bytes;
    } else if (s->state >= SESSION_CLOSING) {
        row.bytes_per_s = 0; /* what still comes is not taken */
    }
    roster_put(&s->ss->roster, &s->shown, &row);
}

void sessions_list(const char *uid, const char *state, struct json_w *w)
{
    roster_write(&(struct roster_filter){.uid = uid, .state = state}, w);
}

bool session_state_known(const char *name)
{
    for (size_t i = 0; i < SESSION_STATES_SHOWN; i++) {
        if (strcmp(session_state_names[i], name) == 0)
            return true;
    }
    return false;
}

/* ---------------------------------------------------------------------------- kill */

struct kill_msg {
    struct loop_msg msg;
    struct sessions *ss;
    uint16_t code;
    char id[37];
    char reason[WS_MAX_REASON + 1];
};

static void on_kill(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct kill_msg *m = container_of(msg, struct kill_msg, msg);
    CHECK_MAGIC(m->ss, SESSIONS_MAGIC);
    struct session *s = map_get(m->ss->by_id, m->id);
    if (s) {
        log_notice(MODULE, "ended by an operator", LS("session", s->id), LS("uid", s->uid_tag),
                   LS("state", session_state_names[s->state]), LU("code", m->code), LS("reason", m->reason));
        if (s->state >= SESSION_CLOSING) {
            s->hurried = true;
            supervisor_wake(&s->supervisor);
        } else {
            session_close(s, m->code, m->reason);
        }
    }
    free(m);
}

int session_kill(const char *id, uint16_t code, const char *reason)
{
    struct sessions *ss = roster_find(id);
    if (!ss)
        return OMID_ENOTSUP;
    struct kill_msg *m = calloc(1, sizeof *m);
    if (!m)
        return OMID_ERR;
    m->msg.fn = on_kill;
    m->ss = ss;
    m->code = code;
    snprintf(m->id, sizeof m->id, "%s", id);
    snprintf(m->reason, sizeof m->reason, "%s", reason);
    loop_post(ss->env.loop, &m->msg);
    return OMID_OK;
}
