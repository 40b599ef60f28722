/* One client connection: the order of its start, what holds it together, its end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/id.h"
#include "base/log.h"
#include "bus/bus.h"
#include "host/host.h"
#include "session/speakers.h"
#include "session/state.h"

#define MODULE "session"
/* A store that has not answered by then is not waited for: the transcript begins in memory. */
#define STORE_PATIENCE_MS 2000
#define CHECK_MS 1000
/* Sessions whose clients are gone wait for their providers at most listen.drain; with clients that come and go all the
 * time, and a provider that hangs, there may be this many times listen.max_sessions, those that live included. */
#define LEAVING_FACTOR 2u

void session_set_state(struct session *s, enum session_state to)
{
    static const unsigned legal[] = {
        [SESSION_STARTING] = 1u << SESSION_LIVE | 1u << SESSION_CLOSING | 1u << SESSION_LEAVING | 1u << SESSION_GONE,
        [SESSION_LIVE] = 1u << SESSION_CLOSING | 1u << SESSION_LEAVING | 1u << SESSION_GONE,
        [SESSION_CLOSING] = 1u << SESSION_LEAVING | 1u << SESSION_GONE,
        [SESSION_LEAVING] = 1u << SESSION_GONE,
        [SESSION_GONE] = 0,
    };
    omid_assert(legal[s->state] & (1u << to));
    s->state = to;
    session_show(s, false);
}

void session_close(struct session *s, uint16_t code, const char *reason)
{
    CHECK_MAGIC(s, SESSION_MAGIC);
    if (s->state >= SESSION_CLOSING)
        return;
    /* What was understood is told before the goodbye. */
    if (s->conversation)
        conversation_flush_client(s->conversation);
    if (s->state >= SESSION_CLOSING)
        return; /* closed by what the flush found */
    log_info(MODULE, "closing", LS("session", s->id), LU("code", code), LS("reason", reason));
    session_set_state(s, SESSION_CLOSING);
    channel_down_close(s->channel, code, reason);
    bool failed = code == WS_CODE_INTERNAL && !supervisor_crashed(&s->supervisor); /* else it is known already */
    task_end(&s->watch, failed ? TASK_FAILED : TASK_DONE, reason);
}

/* ---------------------------------------------------- segments before a conversation */

static size_t early_segment_cost(const struct segment *seg)
{
    return sizeof *seg + strlen(seg->text) + 1;
}

static bool session_early_push(struct session *s, struct segment *seg)
{
    size_t cost = early_segment_cost(seg);
    if (s->early.n >= session_conf(s)->listen.max_segments || s->early_bytes + cost > SESSION_MAX_EARLY ||
        !segment_list_push(&s->early, seg))
        return false;
    s->early_bytes += cost;
    budget_add((int64_t)cost);
    return true;
}

/* Before they go: to a conversation, which charges for them itself, or for good. */
static void session_early_discharge(struct session *s)
{
    for (size_t i = 0; i < s->early.n; i++) {
        size_t cost = early_segment_cost(s->early.item[i]);
        s->early_bytes -= cost;
        budget_add(-(int64_t)cost);
    }
}

/* ------------------------------------------------------------------------ the end */

static struct omid_event session_event(const struct session *s, enum omid_event_type type)
{
    return (struct omid_event){.size = sizeof(struct omid_event),
                               .type = type,
                               .uid = s->uid,
                               .session_id = s->id,
                               .conversation_id = "",
                               .sample_rate = type == OMID_EVENT_SESSION_START ? (uint32_t)s->params.sample_rate : 0,
                               .time_ms = clock_wall_ms()};
}

void session_tell(struct session *s, struct omid_instance *inst, enum omid_event_type type)
{
    CHECK_MAGIC(s, SESSION_MAGIC);
    const struct omid_event ev = session_event(s, type);
    (void)host_event(inst, &ev);
}

void session_reconfigure(struct session *s, const struct conf *former)
{
    CHECK_MAGIC(s, SESSION_MAGIC);
    uint32_t ping = session_conf(s)->listen.ping_ms;
    if (former->listen.ping_ms == ping || !ev_is_active(&s->ping))
        return;
    s->ping.repeat = ping / 1000.;
    ev_timer_again(session_ev(s), &s->ping);
}

void session_destroy(struct session *s)
{
    CHECK_MAGIC(s, SESSION_MAGIC);
    session_set_state(s, SESSION_GONE);
    struct sessions *ss = s->ss;
    session_tasks_end(s);
    for (unsigned i = 0; i < s->n_streams; i++)
        stt_feed_free(&s->stream[i].feed); /* one that has failed */
    roster_remove(&s->ss->roster, &s->shown);
    conversation_detach(s);
    speakers_close(s);
    struct omid_event ev = session_event(s, OMID_EVENT_SESSION_END);
    if (s->begun)
        bus_publish(ss->env.bus, &ev);
    map_remove(ss->by_id, s->id);
    sessions_held_add(-1);
    list_remove(&s->link);
    loop_gather(ss->env.loop, map_count(ss->by_id));
    session_outbound_free(s);
    session_audio_free(s);
    session_photos_free(s);
    if (s->early.n > 0) /* there was no place for them: out of memory, or the daemon ends */
        metric_add(session_metrics()->dropped, (int64_t)s->early.n);
    session_early_discharge(s);
    segment_list_free(&s->early);
    session_early_texts_free(s);
    free(s->uid);
    s->magic = OMID_MAGIC_DEAD;
    free(s);
    sessions_check_drained(ss);
}

static void session_on_closed(struct channel *ch, uint16_t code)
{
    struct session *s = channel_user(ch);
    if (!s) { /* refused at its start */
        channel_drop(&ch);
        return;
    }
    CHECK_MAGIC(s, SESSION_MAGIC);
    size_t held = channel_held(ch);
    if (held > 0) {
        metric_add(session_metrics()->dropped, (int64_t)held);
        log_warning(MODULE, "messages that waited for room go with their client", LS("session", s->id),
                    LU("messages", held), LU("bytes", channel_up_bytes(ch)));
    }
    log_info(MODULE, "client left", LS("session", s->id), LS("uid", s->uid_tag), LU("code", code),
             LU("audio_ms", s->samples * 1000 / (uint64_t)s->params.sample_rate));
    /* An answer to our Close is no reason of its own, however soon it comes. */
    task_end(&s->client, s->state >= SESSION_CLOSING ? TASK_DONE : TASK_DISCONNECTED, NULL);
}

/* --------------------------------------------------------------- the conversation */

struct open_answer {
    struct sessions *ss;
    char session_id[37];
};

void session_attach(struct session *s, struct conversation *c)
{
    if (c) {
        session_early_discharge(s);
        conversation_attach(c, s);
        segment_list_free(&s->early);
        session_early_texts(s);
    } else {
        session_close(s, WS_CODE_INTERNAL, "out of memory");
    }
    if (s->channel)
        channel_resume(s->channel); /* of messages for which there was no room before the conversation */
    task_end(&s->open, TASK_DONE, NULL);
    session_show(s, false);
}

static void on_opened(void *arg, struct store_opened *opened)
{
    struct open_answer *a = arg;
    struct sessions *ss = a->ss;
    struct session *s = map_get(ss->by_id, a->session_id);
    free(a);
    for (char **id = opened->stale; id && *id; id++) {
        struct conversation *live = map_get(ss->conversation, *id);
        if (!live && opened->conversation)
            processing_start(ss, *id, opened->conversation->uid);
    }
    if (!s || !session_opening(s))
        return; /* it has left, or has begun without the store */
    /* Another session of the uid may have begun one meanwhile, in memory alone: two sessions, one conversation. */
    struct conversation *c = conversation_live(ss, s->uid);
    if (c) {
        session_attach(s, c);
        return;
    }
    if (opened->result == OMID_OK && opened->conversation) {
        /* It has ended, and is not to begin a second time: its end is being stored, or processed, or waits for that. */
        const char *id = opened->conversation->id;
        bool ended = map_get(ss->conversation, id) || map_get(ss->processing, id);
        c = conversation_new(ss, ended ? NULL : opened->conversation, s);
    } else {
        log_error(MODULE, "the store opened no conversation: beginning in memory", LS("session", s->id));
        c = conversation_new(ss, NULL, s);
    }
    session_attach(s, c);
}

static void on_open_wait(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct session *s = w->data;
    CHECK_MAGIC(s, SESSION_MAGIC);
    log_error(MODULE, "the store does not answer: beginning in memory", LS("session", s->id));
    struct conversation *live = conversation_live(s->ss, s->uid);
    session_attach(s, live ? live : conversation_new(s->ss, NULL, s));
}

void session_conversation_request(struct session *s)
{
    CHECK_MAGIC(s, SESSION_MAGIC);
    omid_assert(!s->conversation && !session_opening(s));
    struct open_answer *a = malloc(sizeof *a);
    struct store_open_params p = {
        .uid = s->uid,
        .resume_id = s->params.resume_id[0] ? s->params.resume_id : NULL,
        .language = s->params.language,
        .source = s->params.source,
        .call_id = session_call_id(s),
        .now_ms = clock_wall_ms(),
        .timeout_ms = listen_params_timeout_ms(&s->params, session_conf(s)),
    };
    if (!session_open_begin(s)) {
        free(a);
        return; /* it is being cancelled: it needs none any more */
    }
    /* The one in memory is ahead of its copy on disk; and the uid has no other while it is open. */
    struct conversation *live = conversation_live(s->ss, s->uid);
    if (live) {
        free(a);
        s->params.resume_id[0] = 0;
        session_attach(s, live);
        return;
    }
    if (a) {
        a->ss = s->ss;
        memcpy(a->session_id, s->id, sizeof a->session_id);
    }
    if (!a || store_conversation_open(s->ss->env.store, &p, s->ss->env.loop, on_opened, a) != OMID_OK)
        free(a);
    ev_timer_set(&s->open_wait, STORE_PATIENCE_MS / 1000., 0.);
    ev_timer_start(session_ev(s), &s->open_wait);
    s->params.resume_id[0] = 0; /* asked for once: the next conversation is a new one */
}

void session_take_segments(struct session *s, struct segment_list *batch)
{
    for (size_t i = 0; i < batch->n; i++) {
        batch->item[i]->heard_by = s->number;
        memcpy(batch->item[i]->session, s->id, sizeof s->id);
    }
    speakers_segments(s, batch);
    if (s->conversation)
        conversation_add(s->conversation, s, batch);
    for (size_t i = 0; i < batch->n; i++) {
        if (!session_early_push(s, batch->item[i])) {
            metric_add(session_metrics()->dropped, 1);
            segment_free(&batch->item[i]);
        }
    }
    batch->n = 0;
    segment_list_free(batch);
}

/* ----------------------------------------------------------------- speech to text */

static struct session *stream_session(const struct stream *st)
{
    CHECK_MAGIC(st->s, SESSION_MAGIC);
    return st->s;
}

static void on_feed_ready(void *arg, const char *provider)
{
    struct stream *st = arg;
    struct session *s = stream_session(st);
    log_info(MODULE, "provider ready", LS("session", s->id), LS("provider", provider), LU("channel", st->number));
    st->ready = true;
    for (unsigned i = 0; i < s->n_streams; i++) {
        if (!s->stream[i].ready)
            return;
    }
    if (s->state == SESSION_STARTING) {
        session_set_state(s, SESSION_LIVE);
        session_send_status(s, "ready", NULL, NULL);
    }
}

static void on_feed_segments(void *arg, const char *provider, const struct omid_stt_segment *segments, size_t n)
{
    struct stream *st = arg;
    struct session *s = stream_session(st);
    bool multi = session_is_multi(s);
    struct segment_list batch = {0};
    for (size_t i = 0; i < n; i++) {
        double start = segments[i].start, end = segments[i].end;
        session_audio_span(st, &start, &end);
        struct segment *seg = segment_new(segments[i].text, multi ? (int)st->number : segments[i].speaker,
                                          multi && st->number == 0, start, end, provider);
        if (!seg || !segment_list_push(&batch, seg)) {
            metric_add(session_metrics()->dropped, 1);
            segment_free(&seg);
        }
    }
    session_take_segments(s, &batch);
}

static void on_feed_room(void *arg)
{
    struct session *s = stream_session(arg);
    if (s->channel)
        channel_resume(s->channel);
}

static void on_feed_failed(void *arg, const struct stt_failure *why)
{
    struct stream *st = arg;
    struct session *s = stream_session(st);
    /* Once: when one channel has failed, all have. */
    if (s->state < SESSION_CLOSING)
        session_send_status(s, "stt_failed", NULL, why);
    bool overloaded = strcmp(why->outcome, "overloaded") == 0;
    task_end(&st->task, TASK_FAILED, why->reason);
    session_close(s, overloaded ? WS_CODE_TRY_LATER : WS_CODE_INTERNAL,
                  overloaded ? "no speech-to-text capacity, try again later" : "speech-to-text failed");
}

static void on_feed_done(void *arg)
{
    struct stream *st = arg;
    (void)stream_session(st);
    stt_feed_free(&st->feed);
    task_end(&st->task, TASK_DONE, NULL);
}

static const struct stt_feed_events feed_events = {
    .ready = on_feed_ready,
    .segments = on_feed_segments,
    .room = on_feed_room,
    .failed = on_feed_failed,
    .done = on_feed_done,
};

/* -------------------------------------------------------------------------- timers */

static void on_ping(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    session_ping(w->data);
}

static void on_check(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct session *s = w->data;
    CHECK_MAGIC(s, SESSION_MAGIC);
    session_show(s, true);
    session_photos_expire(s);
    speakers_settle(s);
    uint64_t now = loop_now_ms(s->ss->env.loop);
    uint32_t inactivity = session_conf(s)->listen.inactivity_ms;
    if (inactivity && now - s->last_data_ms >= inactivity)
        session_close(s, WS_CODE_GOING_AWAY, "inactivity");
    else if (s->stalled_since_ms && now - s->stalled_since_ms >= session_conf(s)->listen.down_stall_ms)
        session_close(s, WS_CODE_TRY_LATER, "the client does not read");
}

/* --------------------------------------------------------------------------- start */

static void refuse(struct channel *ch, uint16_t code, const char *reason)
{
    log_info(MODULE, "refused", LU("code", code), LS("reason", reason));
    metric_add(session_metrics()->refused, 1);
    channel_set_user(ch, NULL);
    channel_down_close(ch, code, reason);
}

/* The close code for what was asked, or 0. */
static uint16_t refusal(const struct sessions *ss, const struct listen_params *p, char *why, size_t len)
{
    if (p->codec == CODEC_UNKNOWN) {
        snprintf(why, len, "unknown codec %s", p->codec_name);
        return WS_CODE_UNSUPPORTED;
    }
    if (p->client_rate < 8000 || p->client_rate > 48000) {
        snprintf(why, len, "sample rate %ld is not within 8000 to 48000", p->client_rate);
        return WS_CODE_UNSUPPORTED;
    }
    if (ss->draining) {
        snprintf(why, len, "server going away");
        return WS_CODE_GOING_AWAY;
    }
    unsigned max = ss->env.conf->listen.max_sessions;
    if (sessions_live() >= max || sessions_held() >= LEAVING_FACTOR * max || budget_exhausted()) {
        snprintf(why, len, "overloaded, try again later");
        return WS_CODE_TRY_LATER;
    }
    return 0;
}

static struct session *session_new(struct sessions *ss, struct channel *ch, const struct listen_params *params)
{
    struct session *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->magic = SESSION_MAGIC;
    s->ss = ss;
    s->params = *params;
    s->channel = ch;
    list_init(&s->link);
    list_init(&s->conversation_link);
    list_init(&s->queued);
    list_init(&s->early_texts);
    id_uuid4(s->id);
    s->number = ++ss->begun;
    ev_init(&s->ping, on_ping);
    ev_init(&s->check, on_check);
    ev_init(&s->open_wait, on_open_wait);
    s->ping.data = s->check.data = s->open_wait.data = s;
    s->uid = strdup(channel_request(ch)->uid);
    if (!s->uid || !map_put(ss->by_id, s->id, s, NULL)) {
        free(s->uid);
        free(s);
        return NULL;
    }
    hash_uid_tag(s->uid, s->uid_tag);
    session_tasks_init(s);
    list_append(&ss->session, &s->link);
    sessions_held_add(1);
    loop_gather(ss->env.loop, map_count(ss->by_id));
    s->began_ms = s->last_data_ms = s->rated_ms = loop_now_ms(ss->env.loop);
    return s;
}

/* A feed for each channel. false: no provider serves the language. */
static bool session_feeds_make(struct session *s, bool *memory)
{
    bool served = true;
    *memory = true;
    if (s->params.custom_stt)
        return true;
    struct stt_feed_params p = {.conf = session_conf(s),
                                .host = s->ss->env.host,
                                .loop = s->ss->env.loop,
                                .reactor = s->ss->env.reactor,
                                .uid = s->uid,
                                .session_id = s->id,
                                .language = s->params.language,
                                .preferred = s->params.stt_service,
                                .sample_rate = (uint32_t)s->params.sample_rate,
                                .vad_gate = s->params.vad_gate,
                                .multi_channel = session_is_multi(s)};
    for (unsigned i = 0; i < s->n_streams && served && *memory; i++) {
        p.channel = i;
        s->stream[i].feed = stt_feed_new(&p, &feed_events, &s->stream[i], &served);
        *memory = s->stream[i].feed || !served;
    }
    return served;
}

static void session_begin(struct session *s)
{
    s->begun = true;
    session_client_begin(s);
    metric_add(session_metrics()->sessions, 1);
    log_info(MODULE, "begins", LS("session", s->id), LS("uid", s->uid_tag), LS("codec", s->params.codec_name),
             LI("rate", s->params.sample_rate), LS("language", s->params.language));
    double ping = session_conf(s)->listen.ping_ms / 1000.;
    session_ping(s);
    ev_timer_set(&s->ping, ping, ping);
    ev_timer_set(&s->check, CHECK_MS / 1000., CHECK_MS / 1000.);
    ev_timer_start(session_ev(s), &s->ping);
    ev_timer_start(session_ev(s), &s->check);
    session_send_status(s, "initiating", "Service Starting", NULL);
    struct omid_event ev = session_event(s, OMID_EVENT_SESSION_START);
    bus_publish(s->ss->env.bus, &ev);
    session_conversation_request(s);
    session_last_memory(s);
    speakers_settle(s);
    session_send_status(s, "in_progress_conversations_processing", "Processing Conversations", NULL);
    session_send_status(s, "stt_initiating", "STT Service Starting", NULL);
    for (unsigned i = 0; i < s->n_streams; i++) {
        if (s->stream[i].feed) {
            session_stt_begin(&s->stream[i]);
            stt_feed_start(s->stream[i].feed);
        }
    }
    if (s->params.custom_stt) {
        session_set_state(s, SESSION_LIVE);
        session_send_status(s, "ready", NULL, NULL);
    }
    session_show(s, false);
}

static void session_on_opened(struct channel *ch)
{
    struct sessions *ss = sessions_of_channel(ch);
    struct listen_params params;
    char why[160];
    bool memory = true;
    if (!listen_params_parse(&params, channel_request(ch)->query, why, sizeof why)) {
        refuse(ch, WS_CODE_POLICY, why); /* passed the precheck: does not happen */
        return;
    }
    uint16_t code = refusal(ss, &params, why, sizeof why);
    if (code) {
        refuse(ch, code, why);
        return;
    }
    struct session *s = session_new(ss, ch, &params);
    if (!s) {
        refuse(ch, WS_CODE_INTERNAL, "out of memory");
        return;
    }
    bool served = true;
    if (session_audio_open(s))
        served = session_feeds_make(s, &memory);
    else
        memory = false;
    if (!served || !memory) {
        snprintf(why, sizeof why, "The language is not supported, %s", params.language);
        s->channel = NULL;
        refuse(ch, served ? WS_CODE_INTERNAL : WS_CODE_POLICY, served ? "out of memory" : why);
        session_destroy(s);
        return;
    }
    channel_set_user(ch, s);
    session_begin(s);
}

bool session_precheck(const struct channel_request *req, char *err, size_t errlen)
{
    struct listen_params params;
    return listen_params_parse(&params, req->query, err, errlen);
}

const struct channel_handler session_channel_handler = {
    .opened = session_on_opened,
    .message = session_message,
    .writable = session_writable,
    .closed = session_on_closed,
};
