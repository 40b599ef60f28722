#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/id.h"
#include "base/log.h"
#include "bus/bus.h"
#include "host/host.h"
#include "session/audio_ring.h"
#include "session/days.h"
#include "session/deletions.h"
#include "session/geolocation.h"
#include "session/samples.h"
#include "session/speakers.h"
#include "session/state.h"
#include "session/summary.h"
#include "session/sync.h"
#include "session/voices.h"

#define MODULE "session"
#define SWEEP_MAX 256 /* conversations looked at per sweep */

/* ---------------------------------------------------------------- process-wide */

static atomic_int live, held;

unsigned sessions_held(void)
{
    return (unsigned)atomic_load_explicit(&held, memory_order_relaxed);
}

void sessions_held_add(int n)
{
    atomic_fetch_add_explicit(&held, n, memory_order_relaxed);
}

unsigned sessions_live(void)
{
    return (unsigned)atomic_load_explicit(&live, memory_order_relaxed);
}

void sessions_live_add(int n)
{
    atomic_fetch_add_explicit(&live, n, memory_order_relaxed);
    metric_add(session_metrics()->active, n);
}

static struct session_metrics metrics;
static pthread_once_t metrics_once = PTHREAD_ONCE_INIT;

static void metrics_make(void)
{
    static const double processing_bounds[] = {0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600};
    metrics = (struct session_metrics){
        .active = metric_gauge("backend_listen_active_ws_connections", "Live listen connections."),
        .sessions = metric_counter("omid_listen_sessions_total", "Sessions begun."),
        .refused = metric_counter("omid_listen_refused_total", "Sessions closed at their start."),
        .audio_bytes = metric_counter("omid_listen_audio_bytes_total", "Audio taken from clients, decoded."),
        .audio_channel = metric_counter("omid_listen_unknown_channels_total",
                                        "Audio messages of multi-channel sessions for a channel that there is not."),
        .mix_rejoins = metric_counter("omid_listen_mix_rejoins_total",
                                      "Channels that fell behind in the mixed audio and joined it anew."),
        .messages_ignored = metric_counter("omid_listen_messages_ignored_total",
                                           "Client texts that are no JSON object, of no known type or not usable."),
        .segments = metric_counter("omid_listen_segments_total", "Transcript segments taken from providers."),
        .photos = metric_counter("omid_listen_photos_total", "Photos taken from clients, whole."),
        .conversations = metric_counter("omid_conversations_opened_total", "Conversations begun or resumed."),
        .processed = metric_counter("omid_conversations_completed_total", "Conversations processed to their end."),
        .skipped = metric_counter("omid_conversations_skipped_total",
                                  "Conversations whose processing found nothing to process."),
        .failed = metric_counter("omid_conversations_failed_total",
                                 "Conversations whose processing was given up; they are kept, with the error."),
        .processing_refused = metric_counter("omid_processing_refused_total",
                                             "Conversations left to the sweeper: too many waited for processing."),
        .processing_running = metric_gauge("omid_processing_running", "Conversations whose end is worked on."),
        .processing_waiting =
            metric_gauge("omid_processing_waiting", "Conversations whose end waits for others to be done."),
        .processing_seconds = metric_get(METRIC_HISTOGRAM, "omid_processing_seconds",
                                         "Time from the end of a conversation to that of its processing.", NULL, 0,
                                         processing_bounds, ARRAY_LEN(processing_bounds)),
        .processing_retries =
            metric_counter("omid_conversation_retries_total", "Processing steps that failed and were repeated."),
        .coalesced = metric_counter("omid_listen_coalesced_total",
                                    "Transcript updates held back and merged for clients that read slowly."),
        .dropped = metric_counter("omid_listen_dropped_total", "Messages, segments and photos dropped at a bound."),
    };
    audio_ring_metrics();
    summary_metrics();
}

const struct session_metrics *session_metrics(void)
{
    pthread_once(&metrics_once, metrics_make);
    return &metrics;
}

unsigned session_reactor_of(const char *uid, unsigned reactors)
{
    static atomic_uint round;
    if (!uid)
        return atomic_fetch_add_explicit(&round, 1, memory_order_relaxed) % reactors;
    return (unsigned)(hash_keyed(uid, strlen(uid)) % reactors);
}

struct sessions *sessions_of_channel(const struct channel *ch)
{
    struct sessions *const *all = channel_route(ch)->arg;
    for (unsigned i = 0;; i++) {
        omid_assert(all[i]); /* one of them has this loop */
        if (all[i]->env.loop != channel_loop(ch))
            continue;
        CHECK_MAGIC(all[i], SESSIONS_MAGIC);
        return all[i];
    }
}

void sessions_status(struct json_w *w)
{
    json_w_open(w, '{');
    json_w_kint(w, "live", sessions_live());
    json_w_kint(w, "total", metric_value(session_metrics()->sessions));
    json_w_kint(w, "refused", metric_value(session_metrics()->refused));
    json_w_kint(w, "segments", metric_value(session_metrics()->segments));
    json_w_kint(w, "conversations_completed", metric_value(session_metrics()->processed));
    json_w_kint(w, "memory_bytes", (int64_t)budget_used());
    json_w_key(w, "speaker_samples");
    json_w_open(w, '{');
    json_w_kint(w, "waiting", metric_value(speakers_metrics()->waiting));
    json_w_kint(w, "kept", metric_value(speakers_metrics()->kept));
    json_w_kint(w, "given_up", metric_value(speakers_metrics()->given_up));
    json_w_close(w, '}');
    json_w_close(w, '}');
}

/* ------------------------------------------------------------------ the sweeper */

static bool sessions_opening(const struct sessions *ss, const char *uid)
{
    list_each (it, &ss->session) {
        const struct session *s = list_entry(it, struct session, link);
        if (session_opening(s) && strcmp(s->uid, uid) == 0)
            return true;
    }
    return false;
}

static void on_due(void *arg, const struct store_due *due, size_t n)
{
    struct sessions *ss = arg;
    CHECK_MAGIC(ss, SESSIONS_MAGIC);
    ss->sweeping = false;
    if (ss->draining)
        return;
    for (size_t i = 0; i < n; i++) {
        if (session_reactor_of(due[i].uid, ss->env.conf->daemon.reactors) != ss->env.reactor)
            continue; /* the uid's own reactor alone knows whether somebody speaks */
        if (map_get(ss->conversation, due[i].id) || sessions_opening(ss, due[i].uid))
            continue; /* somebody speaks into it */
        processing_start(ss, due[i].id, due[i].uid);
    }
}

static void on_sweep(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct sessions *ss = w->data;
    CHECK_MAGIC(ss, SESSIONS_MAGIC);
    deletions_sweep(ss);
    if (ss->sweeping || ss->draining)
        return;
    ss->sweeping = store_due(ss->env.store, clock_wall_ms(), SWEEP_MAX, ss->env.loop, on_due, ss) == OMID_OK;
}

static void on_lifecycle(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct sessions *ss = w->data;
    CHECK_MAGIC(ss, SESSIONS_MAGIC);
    int64_t now = clock_wall_ms();
    /* A check may remove its conversation from the table, and nothing else. */
    size_t n = 0, count = map_count(ss->conversation);
    struct conversation **all = calloc(count + 1, sizeof *all);
    if (!all)
        return;
    size_t pos = 0;
    void *value;
    while (n < count && map_next(ss->conversation, &pos, NULL, &value))
        all[n++] = value;
    for (size_t i = 0; i < n; i++)
        conversation_check(all[i], now);
    free(all);
}

/* ------------------------------------------------------------------------- life */

/* With the conversation it is about, else with the one the uid speaks into. */
static void app_message_keep(struct sessions *ss, const struct omid_event *ev, const char *app_id, const char *app_name,
                             const char *text)
{
    const struct session *s = ev->session_id ? map_get(ss->by_id, ev->session_id) : NULL;
    const struct conversation *c = s ? s->conversation : map_get(ss->open_of, ev->uid);
    const char *id = ev->conversation_id && ev->conversation_id[0] ? ev->conversation_id : c ? c->id : NULL;
    char message_id[37];
    id_uuid4(message_id);
    struct store_message m = {.id = message_id,
                              .app_id = app_id ? app_id : "",
                              .app_name = app_name ? app_name : "",
                              .text = text,
                              .created_ms = clock_wall_ms()};
    if (id && store_message_add(ss->env.store, id, &m, ss->env.loop, NULL, NULL) != OMID_OK) {
        metric_add(session_metrics()->dropped, 1);
        log_warning(MODULE, "an app's message is not kept", LS("conversation", id));
    }
}

static void on_event(void *arg, const struct omid_event *ev)
{
    struct sessions *ss = arg;
    CHECK_MAGIC(ss, SESSIONS_MAGIC);
    struct buf b = BUF_INIT(0);
    char err[96];
    yajl_val v = json_parse(ev->json, ev->json_len, 0, err, sizeof err);
    const char *message = v ? json_str(v, "message") : NULL;
    if (message) {
        struct json_w w;
        json_w_start(&w, &b);
        json_w_open(&w, '{');
        json_w_kstr(&w, "type", "app_message");
        json_w_kstr(&w, "app_id", json_str(v, "app_id"));
        json_w_kstr(&w, "app_name", json_str(v, "app_name"));
        json_w_kstr(&w, "message", message);
        json_w_close(&w, '}');
        app_message_keep(ss, ev, json_str(v, "app_id"), json_str(v, "app_name"), message);
        if (json_w_end(&w)) {
            list_each (it, &ss->session) {
                struct session *s = list_entry(it, struct session, link);
                if (strcmp(s->uid, ev->uid) == 0)
                    session_send_text(s, b.data, b.len);
            }
        }
    } else {
        log_warning(MODULE, "app message without a message", LS("fault", err));
    }
    json_free(&v);
    buf_free(&b);
}

static void on_drain_check(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    sessions_check_drained(w->data);
}

static void sweep_start(struct loop *loop, struct loop_msg *msg)
{
    struct sessions *ss = container_of(msg, struct sessions, start);
    CHECK_MAGIC(ss, SESSIONS_MAGIC);
    if (ss->draining)
        return;
    ev_timer_start(loop_ev(loop), &ss->sweep);
    if (ss->days)
        days_start(ss->days);
    sync_start(ss->sync);
    samples_start(ss->samples);
}

void sessions_start(struct sessions *ss)
{
    CHECK_MAGIC(ss, SESSIONS_MAGIC);
    loop_post(ss->env.loop, &ss->start);
}

struct sessions *sessions_new(const struct sessions_env *env)
{
    struct sessions *ss = calloc(1, sizeof *ss);
    if (!ss)
        return NULL;
    codec_setup();
    ss->magic = SESSIONS_MAGIC;
    ss->env = *env;
    ss->env.conf = ss->conf = conf_ref(env->conf);
    list_init(&ss->session);
    list_init(&ss->waiting);
    list_init(&ss->processed_for);
    list_init(&ss->geolocation);
    geolocation_metrics();
    roster_init(&ss->roster, session_state_names, SESSION_STATES_SHOWN, SESSION_LIVE, ss);
    list_init(&ss->deletions);
    ss->deletions_left = true; /* what a former process did not get to */
    ss->samples = samples_new(ss);
    ss->voices = map_new();
    ss->by_id = map_new();
    ss->conversation = map_new();
    ss->processing = map_new();
    ss->open_of = map_new();
    ss->sync = sync_new(ss);
    if (!ss->sync || !ss->samples || !ss->voices || !ss->by_id || !ss->open_of || !ss->conversation ||
        !ss->processing) {
        sessions_free(&ss);
        return NULL;
    }
    if (env->reactor == 0 && (ss->days = days_new(ss)) == NULL) {
        sessions_free(&ss);
        return NULL;
    }
    session_metrics(); /* on the page from the start */
    supervisor_class_get(SESSION_LABEL);
    stt_feed_metrics(env->conf);
    double check = env->conf->listen.lifecycle_check_ms / 1000., sweep = env->conf->store.sweep_ms / 1000.;
    ev_timer_init(&ss->lifecycle, on_lifecycle, check, check);
    ev_timer_init(&ss->sweep, on_sweep, 0., sweep);
    ev_timer_init(&ss->drain_check, on_drain_check, 0., 0.);
    ss->lifecycle.data = ss->sweep.data = ss->drain_check.data = ss;
    ev_timer_start(loop_ev(env->loop), &ss->lifecycle);
    ss->start.fn = sweep_start;
    bus_listen(env->bus, OMID_EVENT_MASK(OMID_EVENT_APP_MESSAGE), on_event, ss);
    return ss;
}

/* The next turn comes after the new interval at the latest. */
static void interval_set(struct sessions *ss, ev_timer *timer, uint32_t before_ms, uint32_t ms)
{
    if (before_ms == ms || !ev_is_active(timer))
        return;
    timer->repeat = ms / 1000.;
    ev_timer_again(loop_ev(ss->env.loop), timer);
}

void sessions_configure(struct sessions *ss, const struct conf *conf)
{
    CHECK_MAGIC(ss, SESSIONS_MAGIC);
    struct conf *former = ss->conf;
    ss->env.conf = ss->conf = conf_ref(conf);
    list_each (it, &ss->session) {
        struct session *s = list_entry(it, struct session, link);
        for (unsigned i = 0; i < s->n_streams; i++) {
            if (s->stream[i].feed)
                stt_feed_configure(s->stream[i].feed, conf);
        }
        session_reconfigure(s, former);
    }
    interval_set(ss, &ss->lifecycle, former->listen.lifecycle_check_ms, conf->listen.lifecycle_check_ms);
    interval_set(ss, &ss->sweep, former->store.sweep_ms, conf->store.sweep_ms);
    sync_configure(ss->sync, former);
    samples_configure(ss->samples);
    conf_free(&former);
    if (ss->days)
        days_configure(ss->days);
}

void sessions_tell(struct sessions *ss, struct omid_instance *inst, bool begins)
{
    CHECK_MAGIC(ss, SESSIONS_MAGIC);
    enum omid_event_type type = begins ? OMID_EVENT_SESSION_START : OMID_EVENT_SESSION_END;
    if ((host_plugin(inst)->events & OMID_EVENT_MASK(type)) == 0)
        return;
    list_each (it, &ss->session) {
        struct session *s = list_entry(it, struct session, link);
        if (s->begun)
            session_tell(s, inst, type);
    }
}

void sessions_check_drained(struct sessions *ss)
{
    if (!ss->draining || !ss->drained || !list_empty(&ss->session) || map_count(ss->conversation) > 0 ||
        map_count(ss->processing) > 0 || !deletions_idle(ss) || !samples_drained(ss->samples) || !sync_idle(ss->sync) ||
        (ss->days && !days_idle(ss->days)))
        return;
    void (*done)(void *) = ss->drained;
    ss->drained = NULL;
    done(ss->drained_arg);
}

void sessions_drain(struct sessions *ss, uint64_t until_ms, void (*done)(void *arg), void *arg)
{
    CHECK_MAGIC(ss, SESSIONS_MAGIC);
    ss->draining = true;
    ss->drain_until_ms = until_ms;
    ss->drained = done;
    ss->drained_arg = arg;
    ev_timer_stop(loop_ev(ss->env.loop), &ss->sweep);
    list_each (it, &ss->session) {
        struct session *s = list_entry(it, struct session, link);
        if (s->state == SESSION_STARTING || s->state == SESSION_LIVE)
            session_close(s, WS_CODE_GOING_AWAY, "server going away");
        supervisor_wake(&s->supervisor); /* of one that is leaving already: its time is shorter now */
    }
    processing_drain(ss);
    if (ss->days)
        days_drain(ss->days);
    sync_drain(ss->sync);
    ev_timer_start(loop_ev(ss->env.loop), &ss->drain_check);
}

void sessions_free(struct sessions **ssp)
{
    struct sessions *ss = *ssp;
    if (!ss)
        return;
    CHECK_MAGIC(ss, SESSIONS_MAGIC);
    *ssp = NULL;
    list_each (it, &ss->session)
        session_destroy(list_entry(it, struct session, link));
    size_t pos = 0;
    void *value;
    while (ss->conversation && map_next(ss->conversation, &pos, NULL, &value)) {
        conversation_free(value);
        pos = 0;
    }
    if (ss->processing)
        processing_free_all(ss);
    days_free(&ss->days);
    deletions_free_all(ss);
    sync_free(&ss->sync);
    samples_free(&ss->samples);
    voices_free_all(ss);
    geolocation_free_all(ss);
    struct ev_loop *ev = loop_ev(ss->env.loop);
    ev_timer_stop(ev, &ss->lifecycle);
    ev_timer_stop(ev, &ss->sweep);
    ev_timer_stop(ev, &ss->drain_check);
    map_free(&ss->by_id);
    map_free(&ss->conversation);
    map_free(&ss->processing);
    map_free(&ss->open_of);
    map_free(&ss->voices);
    pcm_free(&ss->scratch);
    pcm_free(&ss->mixed);
    roster_free(&ss->roster);
    conf_free(&ss->conf);
    ss->magic = OMID_MAGIC_DEAD;
    free(ss);
}
