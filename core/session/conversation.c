#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "bus/bus.h"
#include "bus/channel.h"
#include "session/deletions.h"
#include "session/state.h"

#define MODULE "conversation"
/* A conversation of this size ends, and the next begins. At twice of it, before that happens, text is dropped. */
#define MAX_BYTES ((size_t)8 << 20)

static void conversation_store_flush(struct conversation *c);
static void conversation_settle(struct conversation *c);

static void conversation_set_state(struct conversation *c, enum conversation_state to)
{
    omid_assert((c->state == CONVERSATION_OPEN && to != CONVERSATION_OPEN) ||
                (c->state == CONVERSATION_ENDING && to == CONVERSATION_GONE));
    c->state = to;
    if (map_get(c->ss->open_of, c->uid) == c)
        map_remove(c->ss->open_of, c->uid);
}

static void timer_arm(struct conversation *c, ev_timer *t, uint32_t ms)
{
    if (!ev_is_active(t)) {
        ev_timer_set(t, ms / 1000., 0.);
        ev_timer_start(loop_ev(c->ss->env.loop), t);
    }
}

/* A little early, at moments that all conversations share, 8 in each interval: what they write then shares a commit,
 * and so a sync of the disk. */
static void store_flush_arm(struct conversation *c)
{
    uint32_t flush = c->ss->env.conf->store.flush_ms, step = flush / 8;
    timer_arm(c, &c->store_flush, step > 0 ? flush - (uint32_t)(loop_now_ms(c->ss->env.loop) % step) : flush);
}

static void timer_stop(struct conversation *c, ev_timer *t)
{
    ev_timer_stop(loop_ev(c->ss->env.loop), t);
}

/* ------------------------------------------------------------------- to clients */

/* {"type":type,"segment_ids":[...]} or a bare array of ids. */
static bool ids_json(const struct id_list *ids, const char *type, struct buf *out)
{
    struct json_w w;
    json_w_start(&w, out);
    if (type) {
        json_w_open(&w, '{');
        json_w_kstr(&w, "type", type);
        json_w_key(&w, "segment_ids");
    }
    json_w_open(&w, '[');
    for (size_t i = 0; i < ids->n; i++)
        json_w_str(&w, ids->id[i]);
    json_w_close(&w, ']');
    if (type)
        json_w_close(&w, '}');
    return json_w_end(&w);
}

/* The segments that `who` has not seen, as an array; marks them seen. Returns their number. */
static size_t unseen_json(struct conversation *c, unsigned who, struct buf *out)
{
    struct json_w w;
    size_t n = 0;
    json_w_start(&w, out);
    json_w_open(&w, '[');
    for (size_t i = 0; i < c->segments.n; i++) {
        struct segment *s = c->segments.item[i];
        if (!(s->unseen & who))
            continue;
        segment_json(&w, s);
        s->unseen &= ~who;
        n++;
    }
    json_w_close(&w, ']');
    return json_w_end(&w) ? n : 0;
}

/* Its silence begins now. */
static void conversation_touch(struct conversation *c)
{
    int64_t now = clock_wall_ms();
    if (now > c->finished_ms)
        c->finished_ms = now;
    c->times_dirty = true;
}

void conversation_changed(struct conversation *c)
{
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    c->changed = true;
    timer_arm(c, &c->client_flush, c->ss->env.conf->listen.transcript_flush_ms);
}

void conversation_flush_client(struct conversation *c)
{
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    timer_stop(c, &c->client_flush);
    if (c->fresh.n == 0 && !c->changed)
        return;
    struct id_list deleted = {0};
    bool heard = c->fresh.n > 0; /* not only renamed: that is no sign of life */
    c->changed = false;
    if (!segments_merge(&c->segments, &c->fresh, &deleted))
        log_error(MODULE, "no memory to combine segments", LS("conversation", c->id));
    if (c->fresh.n > 0)
        timer_arm(c, &c->client_flush, c->ss->env.conf->listen.transcript_flush_ms);
    for (size_t i = 0; i < deleted.n; i++) {
        id_list_push(&c->gone_consumers, deleted.id[i]);
        id_list_push(&c->gone_store, deleted.id[i]);
    }
    if (heard)
        conversation_touch(c);

    struct buf gone = BUF_INIT(0), changed = BUF_INIT(0);
    if (deleted.n > 0 && ids_json(&deleted, "segments_deleted", &gone)) {
        list_each (it, &c->session)
            session_send_text(list_entry(it, struct session, conversation_link), gone.data, gone.len);
    }
    if (unseen_json(c, SEGMENT_CLIENT, &changed) > 0) {
        list_each (it, &c->session)
            session_send_segments(list_entry(it, struct session, conversation_link), changed.data, changed.len, c);
    }
    buf_free(&gone);
    buf_free(&changed);
    id_list_free(&deleted);
    timer_arm(c, &c->consumer_flush, c->ss->env.conf->listen.consumer_flush_ms);
    store_flush_arm(c);
}

static void on_client_flush(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    conversation_flush_client(w->data);
}

/* ----------------------------------------------------------------- to consumers */

static void conversation_consumer_flush(struct conversation *c)
{
    timer_stop(c, &c->consumer_flush);
    struct buf json = BUF_INIT(0);
    struct session *s = list_empty(&c->session) ? NULL : list_entry(c->session.next, struct session, conversation_link);
    struct omid_event ev = {.size = sizeof ev,
                            .uid = c->uid,
                            .session_id = s ? s->id : "",
                            .conversation_id = c->id,
                            .time_ms = clock_wall_ms()};
    if (c->gone_consumers.n > 0 && ids_json(&c->gone_consumers, NULL, &json)) {
        ev.type = OMID_EVENT_SEGMENTS_DELETED;
        ev.json = json.data;
        ev.json_len = json.len;
        bus_publish(c->ss->env.bus, &ev);
    }
    id_list_clear(&c->gone_consumers);
    buf_clear(&json);
    if (unseen_json(c, SEGMENT_CONSUMERS, &json) > 0) {
        ev.type = OMID_EVENT_SEGMENTS;
        ev.json = json.data;
        ev.json_len = json.len;
        bus_publish(c->ss->env.bus, &ev);
    }
    buf_free(&json);
}

static void on_consumer_flush(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct conversation *c = w->data;
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    conversation_consumer_flush(c);
}

/* ----------------------------------------------------------------- to the store */

/* The answers come when the conversation may be gone: it is looked up again by its id. */
struct store_answer {
    struct sessions *ss;
    char id[37];
};

static struct store_answer *store_answer_new(struct conversation *c)
{
    struct store_answer *a = malloc(sizeof *a);
    if (a) {
        a->ss = c->ss;
        memcpy(a->id, c->id, sizeof a->id);
    }
    return a;
}

static struct conversation *store_answer_take(struct store_answer *a)
{
    struct conversation *c = map_get(a->ss->conversation, a->id);
    free(a);
    if (c)
        c->store_busy = false;
    return c;
}

static bool conversation_dirty(const struct conversation *c)
{
    if (!c->stored || c->gone_store.n > 0 || c->times_dirty || content_dirty(&c->content))
        return true;
    for (size_t i = c->segments.n; i-- > 0;) {
        if (c->segments.item[i]->unseen & SEGMENT_STORE)
            return true;
    }
    return false;
}

/* The name is on disk, its sample of the voice too: whoever takes samples is told. */
static void naming_tell(void *arg, const struct naming *n)
{
    struct conversation *c = arg;
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "sample_id", n->sample_id);
    json_w_kint(&w, "speaker_id", n->speaker_id);
    json_w_kstr(&w, "person_id", n->person_id ? n->person_id : "user");
    json_w_kstr(&w, "person_name", n->name);
    json_w_key(&w, "segment_ids");
    json_w_raw(&w, n->segments, strlen(n->segments));
    json_w_close(&w, '}');
    if (json_w_end(&w)) {
        struct omid_event ev = {.size = sizeof ev,
                                .type = OMID_EVENT_SPEAKER_ASSIGNED,
                                .uid = c->uid,
                                .session_id = n->session_id,
                                .conversation_id = c->id,
                                .json = b.data,
                                .json_len = b.len,
                                .time_ms = n->created_ms};
        bus_publish(c->ss->env.bus, &ev);
    }
    buf_free(&b);
}

static void on_put(void *arg, int result)
{
    struct conversation *c = store_answer_take(arg);
    if (!c)
        return;
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    if (result != OMID_OK) {
        /* Upserts are idempotent: the whole conversation goes again, with the ids that were to be deleted. */
        c->gone_sent = 0;
        content_stored(&c->content, NULL, NULL);
        for (size_t i = 0; i < c->segments.n; i++)
            c->segments.item[i]->unseen |= SEGMENT_STORE;
        c->times_dirty = true;
        if (result == OMID_ENOTSUP)
            c->stored = false; /* somebody took it out of the file: it is begun there anew */
        log_error(MODULE, "the store did not take segments, trying again", LS("conversation", c->id));
        store_flush_arm(c);
        return;
    }
    id_list_drop_first(&c->gone_store, c->gone_sent);
    c->gone_sent = 0;
    content_stored(&c->content, naming_tell, c);
    if (conversation_dirty(c))
        store_flush_arm(c);
    conversation_settle(c);
}

static void on_created(void *arg, struct store_opened *opened)
{
    struct conversation *c = store_answer_take(arg);
    if (!c)
        return;
    c->stored = opened->result == OMID_OK;
    store_flush_arm(c);
    conversation_settle(c);
}

/* For a conversation that began while the store did not answer. */
static void conversation_store_create(struct conversation *c)
{
    struct store_answer *a = store_answer_new(c);
    struct store_open_params p = {.uid = c->uid,
                                  .language = c->language,
                                  .source = c->source,
                                  .call_id = c->call_id,
                                  .create_id = c->id,
                                  .now_ms = c->created_ms,
                                  .timeout_ms = c->timeout_ms};
    if (a && store_conversation_open(c->ss->env.store, &p, c->ss->env.loop, on_created, a) == OMID_OK)
        c->store_busy = true;
    else
        free(a);
}

/* Those that the store has not; how many. Both arrays have room for all; what is in segment lives in c and speaker. */
static size_t segments_fill(const struct conversation *c, struct store_segment *segment, char (*speaker)[16])
{
    size_t n = 0;
    for (size_t i = 0; i < c->segments.n; i++) {
        const struct segment *s = c->segments.item[i];
        if (!(s->unseen & SEGMENT_STORE))
            continue;
        segment_speaker_name(s->speaker_id, speaker[n]);
        segment[n] = (struct store_segment){.id = s->id,
                                            .text = s->text,
                                            .speaker = speaker[n],
                                            .person_id = s->person_id,
                                            .stt_provider = s->provider,
                                            .session = s->session[0] ? s->session : NULL,
                                            .speaker_id = s->speaker_id,
                                            .is_user = s->is_user,
                                            .start = s->start,
                                            .end = s->end};
        n++;
    }
    return n;
}

static void conversation_store_put(struct conversation *c)
{
    struct store_segment *segment = calloc(c->segments.n + 1, sizeof *segment);
    char(*speaker)[16] = calloc(c->segments.n + 1, sizeof *speaker);
    const char **deleted = calloc(c->gone_store.n + 1, sizeof *deleted);
    struct store_photo *photo = NULL;
    struct store_naming *naming = NULL;
    struct store_answer *a = store_answer_new(c);
    struct store_update u = {.conversation_id = c->id,
                             .segment = segment,
                             .deleted = deleted,
                             .n_deleted = c->gone_store.n,
                             .started_ms = c->started_ms,
                             .finished_ms = c->finished_ms,
                             .timeout_ms = c->timeout_ms};
    if (!segment || !speaker || !deleted || !a || !content_fill(&c->content, &u, &photo, &naming))
        goto out;
    u.n_segments = segments_fill(c, segment, speaker);
    for (size_t i = 0; i < c->gone_store.n; i++)
        deleted[i] = c->gone_store.id[i];
    if (store_segments_put(c->ss->env.store, &u, c->ss->env.loop, on_put, a) == OMID_OK) {
        a = NULL;
        c->store_busy = true;
        c->times_dirty = false;
        for (size_t i = 0; i < c->segments.n; i++)
            c->segments.item[i]->unseen &= ~(unsigned)SEGMENT_STORE;
        c->gone_sent = c->gone_store.n;
        content_sent(&c->content, &u);
    } else {
        store_flush_arm(c);
    }
out:
    free(segment);
    free(speaker);
    free(deleted);
    free(photo);
    free(naming);
    free(a);
}

static void conversation_store_flush(struct conversation *c)
{
    timer_stop(c, &c->store_flush);
    if (c->store_busy || !conversation_dirty(c))
        return; /* the answer under way looks again */
    if (!c->stored)
        conversation_store_create(c);
    else
        conversation_store_put(c);
    if (!c->store_busy)
        store_flush_arm(c);
}

static void on_store_flush(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct conversation *c = w->data;
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    conversation_store_flush(c);
}

/* --------------------------------------------------------------------- life */

/* What was charged stays so when segments combine: the bound is one on what came in. */
static void conversation_charge(struct conversation *c, const struct segment *s)
{
    size_t cost = sizeof *s + strlen(s->text) + 1;
    c->bytes += cost;
    budget_add((int64_t)cost);
}

static char *dup_or_empty(const char *s)
{
    return strdup(s ? s : "");
}

static bool segments_load(struct conversation *c, const struct store_conversation *from)
{
    for (size_t i = 0; i < from->n_segments; i++) {
        const struct store_segment *in = &from->segment[i];
        struct segment *s = segment_new(in->text, in->speaker_id, in->is_user, in->start, in->end, in->stt_provider);
        if (!s || !segment_list_push(&c->segments, s)) {
            segment_free(&s);
            return false;
        }
        snprintf(s->id, sizeof s->id, "%s", in->id);
        s->person_id = in->person_id ? strdup(in->person_id) : NULL;
        snprintf(s->session, sizeof s->session, "%s", in->session ? in->session : "");
        s->unseen = 0;
        conversation_charge(c, s);
    }
    return true;
}

struct conversation *conversation_new(struct sessions *ss, const struct store_conversation *from,
                                      const struct session *s)
{
    struct conversation *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->magic = CONVERSATION_MAGIC;
    c->state = CONVERSATION_OPEN;
    c->ss = ss;
    list_init(&c->session);
    ev_init(&c->client_flush, on_client_flush);
    ev_init(&c->consumer_flush, on_consumer_flush);
    ev_init(&c->store_flush, on_store_flush);
    c->client_flush.data = c->consumer_flush.data = c->store_flush.data = c;
    c->uid = strdup(s->uid);
    c->language = dup_or_empty(from ? from->language : s->params.language);
    c->source = dup_or_empty(from ? from->source : s->params.source);
    const char *call_id = from ? from->call_id : session_call_id(s);
    c->call_id = call_id ? strdup(call_id) : NULL;
    c->timeout_ms = listen_params_timeout_ms(&s->params, ss->env.conf);
    if (from) {
        memcpy(c->id, from->id, sizeof c->id);
        c->created_ms = from->created_ms;
        c->started_ms = from->started_ms;
        c->finished_ms = from->finished_ms;
        c->stored = true;
    } else {
        id_uuid4(c->id);
        c->created_ms = c->finished_ms = clock_wall_ms();
        store_flush_arm(c);
    }
    if (!c->uid || !c->language || !c->source || (from && !segments_load(c, from)) ||
        (from && !content_load(&c->content, from)) || !map_put(ss->conversation, c->id, c, NULL) ||
        !map_put(ss->open_of, c->uid, c, NULL)) {
        conversation_free(c);
        return NULL;
    }
    metric_add(session_metrics()->conversations, 1);
    return c;
}

void conversation_free(struct conversation *c)
{
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    omid_assert(list_empty(&c->session));
    if (map_get(c->ss->conversation, c->id) == c)
        map_remove(c->ss->conversation, c->id);
    if (c->uid && map_get(c->ss->open_of, c->uid) == c)
        map_remove(c->ss->open_of, c->uid);
    timer_stop(c, &c->client_flush);
    timer_stop(c, &c->consumer_flush);
    timer_stop(c, &c->store_flush);
    segment_list_free(&c->segments);
    segment_list_free(&c->fresh);
    budget_add(-(int64_t)c->bytes);
    id_list_free(&c->gone_consumers);
    id_list_free(&c->gone_store);
    content_free(&c->content);
    free(c->uid);
    free(c->language);
    free(c->source);
    free(c->call_id);
    c->magic = OMID_MAGIC_DEAD;
    free(c);
}

/* Nobody speaks into it and all is on disk: it leaves memory, by way of its processing if it has ended. */
static void conversation_settle(struct conversation *c)
{
    if (!list_empty(&c->session) || c->store_busy || c->fresh.n > 0 || conversation_dirty(c))
        return;
    struct sessions *ss = c->ss;
    if (c->state == CONVERSATION_ENDING)
        processing_start(ss, c->id, c->uid);
    conversation_set_state(c, CONVERSATION_GONE);
    conversation_free(c);
    sessions_check_drained(ss);
}

bool conversation_json(const struct conversation *c, enum store_status status, struct buf *out)
{
    struct store_conversation sc = {.uid = c->uid,
                                    .language = c->language,
                                    .source = c->source,
                                    .call_id = c->call_id,
                                    .status = status,
                                    .created_ms = c->created_ms,
                                    .started_ms = c->started_ms,
                                    .finished_ms = c->finished_ms,
                                    .timeout_ms = c->timeout_ms};
    memcpy(sc.id, c->id, sizeof sc.id);
    char(*speaker)[16] = calloc(c->segments.n + 1, sizeof *speaker);
    sc.segment = calloc(c->segments.n + 1, sizeof *sc.segment);
    sc.photo = content_photos(&c->content);
    sc.n_photos = c->content.n_photos;
    bool ok = speaker && sc.segment && sc.photo;
    for (size_t i = 0; ok && i < c->segments.n; i++) {
        const struct segment *s = c->segments.item[i];
        segment_speaker_name(s->speaker_id, speaker[i]);
        sc.segment[i] = (struct store_segment){.id = s->id,
                                               .text = s->text,
                                               .speaker = speaker[i],
                                               .person_id = s->person_id,
                                               .stt_provider = s->provider,
                                               .speaker_id = s->speaker_id,
                                               .is_user = s->is_user,
                                               .start = s->start,
                                               .end = s->end};
        sc.n_segments++;
    }
    if (ok) {
        struct json_w w;
        json_w_start(&w, out);
        store_conversation_json(&w, &sc);
        ok = json_w_end(&w);
    }
    free(speaker);
    free(sc.segment);
    free(sc.photo);
    return ok;
}

/* ----------------------------------------------------------- sessions come and go */

static void session_tell_conversation(struct session *s, const struct conversation *c)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "type", "conversation_session");
    json_w_kstr(&w, "conversation_id", c->id);
    json_w_kstr(&w, "status", "in_progress");
    json_w_close(&w, '}');
    if (json_w_end(&w))
        session_send_text(s, b.data, b.len);
    buf_free(&b);
}

void conversation_attach(struct conversation *c, struct session *s)
{
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    omid_assert(!s->conversation && c->state == CONVERSATION_OPEN);
    s->conversation = c;
    list_append(&c->session, &s->conversation_link);
    int64_t timeout_ms = listen_params_timeout_ms(&s->params, c->ss->env.conf);
    if (timeout_ms != c->timeout_ms) { /* the sweeper's, too, when all have left */
        c->timeout_ms = timeout_ms;
        c->times_dirty = true;
        store_flush_arm(c);
    }
    session_tell_conversation(s, c);
    struct omid_event ev = {.size = sizeof ev,
                            .type = OMID_EVENT_CONVERSATION_START,
                            .uid = c->uid,
                            .session_id = s->id,
                            .conversation_id = c->id,
                            .time_ms = clock_wall_ms()};
    bus_publish(c->ss->env.bus, &ev);
    conversation_add(c, s, &s->early);
}

void conversation_detach(struct session *s)
{
    struct conversation *c = s->conversation;
    if (!c)
        return;
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    conversation_flush_client(c);
    conversation_consumer_flush(c);
    list_remove(&s->conversation_link);
    s->conversation = NULL;
    if (!list_empty(&c->session))
        return;
    /* A call is over when its client hangs up; others may speak on. */
    if (session_is_multi(s) && c->state == CONVERSATION_OPEN) {
        conversation_end(c);
        return;
    }
    conversation_store_flush(c);
    conversation_settle(c);
}

void conversation_add(struct conversation *c, struct session *s, struct segment_list *batch)
{
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    for (size_t i = 0; i < batch->n; i++) {
        struct segment *seg = batch->item[i];
        batch->item[i] = NULL;
        /* Seconds of the session's audio become seconds of the conversation. Its zero is its first word. */
        double first = (double)s->first_audio_ms / 1000.;
        if (c->started_ms == 0) {
            c->started_ms = s->first_audio_ms + (int64_t)llround(seg->start * 1000.);
            c->times_dirty = true;
        }
        double shift = first - (double)c->started_ms / 1000.;
        seg->start = fmax(0., round((seg->start + shift) * 1000.) / 1000.);
        seg->end = fmax(seg->start, round((seg->end + shift) * 1000.) / 1000.);
        const struct speaker_name *named = content_speaker(&c->content, seg->speaker_id);
        if (named)
            conversation_segment_name(c, seg, named->person_id);
        if (c->fresh.n >= c->ss->env.conf->listen.max_segments)
            conversation_flush_client(c);
        if (c->bytes > 2 * MAX_BYTES || !segment_list_push(&c->fresh, seg)) {
            metric_add(session_metrics()->dropped, 1);
            segment_free(&seg);
            continue;
        }
        conversation_charge(c, seg);
        metric_add(session_metrics()->segments, 1);
    }
    batch->n = 0;
    if (c->fresh.n > 0)
        timer_arm(c, &c->client_flush, c->ss->env.conf->listen.transcript_flush_ms);
}

/* ------------------------------------------------------------ photos and names */

void conversation_segment_name(struct conversation *c, struct segment *seg, const char *person_id)
{
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    char *person = person_id ? strdup(person_id) : NULL;
    if (person_id && !person) {
        metric_add(session_metrics()->dropped, 1);
        return;
    }
    free(seg->person_id);
    seg->person_id = person;
    seg->is_user = !person_id;
    seg->unseen = SEGMENT_ALL;
}

bool conversation_name(struct conversation *c, const struct session *s, int speaker_id, const char *person_id,
                       const char *name, const char *segments)
{
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    if (!content_name(&c->content, speaker_id, person_id, name, segments, s->id, clock_wall_ms()))
        return false;
    store_flush_arm(c);
    return true;
}

const char *conversation_photo(struct conversation *c, unsigned char *data, size_t len)
{
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    const char *id = content_photo_add(&c->content, data, len, clock_wall_ms(), c->ss->env.conf->listen.max_photos);
    if (!id)
        return NULL;
    conversation_touch(c);
    store_flush_arm(c);
    return id;
}

/* -------------------------------------------------------------------- the end */

static void on_deleted(void *arg, int result)
{
    char *id = arg;
    if (result == OMID_ERR)
        log_warning(MODULE, "an empty conversation was not deleted; the sweeper will", LS("conversation", id));
    free(id);
}

static void sessions_move_on(struct conversation *c)
{
    list_each (it, &c->session) {
        struct session *s = list_entry(it, struct session, conversation_link);
        list_remove(&s->conversation_link);
        s->conversation = NULL;
        session_conversation_request(s);
    }
}

/* The store must know of the end before a session asks it for the next conversation: else it could be this one. */
static void conversation_mark_ended(struct conversation *c)
{
    if (c->stored && store_status_set(c->ss->env.store, c->id, STORE_IN_PROGRESS, STORE_PROCESSING, NULL, NULL,
                                      c->ss->env.loop, NULL, NULL) != OMID_OK)
        log_warning(MODULE, "the end was not marked; its processing will", LS("conversation", c->id));
}

static void conversation_delete(struct conversation *c)
{
    struct sessions *ss = c->ss;
    char *id = strdup(c->id);
    if (!id || deletions_delete(ss, c->id, c->uid, on_deleted, id) != OMID_OK)
        free(id);
    conversation_set_state(c, CONVERSATION_GONE); /* first: or its sessions would find it open */
    sessions_move_on(c);
    conversation_free(c);
    sessions_check_drained(ss);
}

void conversation_discard(struct conversation *c, void (*done)(void *arg, int result), void *arg)
{
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    struct sessions *ss = c->ss;
    list_each (it, &c->session) /* what it would have been told of segments that are no more */
        id_list_clear(&list_entry(it, struct session, conversation_link)->unsent);
    int rc = store_conversation_delete(ss->env.store, c->id, NULL, ss->env.loop, done, arg);
    conversation_set_state(c, CONVERSATION_GONE);
    sessions_move_on(c);
    conversation_free(c);
    if (rc != OMID_OK && done)
        done(arg, rc);
    sessions_check_drained(ss);
}

struct conversation *conversation_live(struct sessions *ss, const char *uid)
{
    struct conversation *c = map_get(ss->open_of, uid);
    if (!c)
        return NULL;
    conversation_check(c, clock_wall_ms());
    return map_get(ss->open_of, uid);
}

static void conversation_tell_processing(struct conversation *c)
{
    struct buf memory = BUF_INIT(0), b = BUF_INIT(0);
    struct json_w w;
    if (conversation_json(c, STORE_PROCESSING, &memory)) {
        json_w_start(&w, &b);
        json_w_open(&w, '{');
        json_w_kstr(&w, "type", "memory_processing_started");
        json_w_key(&w, "memory");
        json_w_raw(&w, memory.data, memory.len);
        json_w_close(&w, '}');
        if (json_w_end(&w)) {
            list_each (it, &c->session)
                session_send_text(list_entry(it, struct session, conversation_link), b.data, b.len);
        }
    }
    buf_free(&memory);
    buf_free(&b);
}

static bool conversation_over(const struct conversation *c, int64_t now_ms)
{
    return now_ms - c->finished_ms >= c->timeout_ms || c->bytes > MAX_BYTES ||
           c->content.n_photos >= CONTENT_MAX_PHOTOS;
}

bool conversation_empty(const struct conversation *c)
{
    return c->segments.n == 0 && c->content.n_photos == 0;
}

void conversation_end(struct conversation *c)
{
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    omid_assert(c->state == CONVERSATION_OPEN);
    log_info(MODULE, "ends", LS("conversation", c->id), LU("segments", c->segments.n),
             LU("photos", c->content.n_photos));
    if (conversation_empty(c)) {
        conversation_delete(c);
        return;
    }
    list_each (it, &c->session)
        session_queue_unsent(list_entry(it, struct session, conversation_link));
    conversation_tell_processing(c);
    conversation_consumer_flush(c);
    conversation_set_state(c, CONVERSATION_ENDING);
    conversation_mark_ended(c);
    sessions_move_on(c);
    conversation_store_flush(c);
    conversation_settle(c);
}

void conversation_check(struct conversation *c, int64_t now_ms)
{
    CHECK_MAGIC(c, CONVERSATION_MAGIC);
    if (c->state != CONVERSATION_OPEN || !conversation_over(c, now_ms))
        return;
    conversation_flush_client(c);
    if (conversation_over(c, now_ms))
        conversation_end(c);
}
