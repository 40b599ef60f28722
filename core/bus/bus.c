#include "bus/bus.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "base/metrics.h"
#include "host/host.h"

#define BUS_MAGIC UINT32_C(0x62757321)
#define LATER_MAX 1024                            /* events */
#define LATER_MAX_BYTES ((size_t)4 * 1024 * 1024) /* their strings */
#define MAX_LISTENERS 16

/* A copy of a plugin's event: the strings stand behind the struct. */
struct later {
    struct later *next;
    struct omid_event ev;
    size_t bytes;
    struct loop_msg across; /* when it comes from another thread */
    struct bus *bus;
    char text[];
};

struct listener {
    uint32_t mask;
    void (*fn)(void *arg, const struct omid_event *ev);
    void *arg;
};

struct bus {
    uint32_t magic;
    struct loop *loop;
    struct host *host;
    unsigned reactor;
    struct listener listener[MAX_LISTENERS];
    unsigned n_listeners;

    struct later *first, **last;
    unsigned n_later;
    size_t later_bytes;
    atomic_uint n_across;       /* any thread: on their way from others */
    atomic_size_t across_bytes; /* the same */
    struct loop_msg turn;       /* delivers what was there when it was posted */
    bool turn_posted;

    struct metric *m_events[OMID_EVENT_TYPES], *m_refused;
};

static const char *const type_names[OMID_EVENT_TYPES] = {
    [OMID_EVENT_SESSION_START] = "session_start",
    [OMID_EVENT_SESSION_END] = "session_end",
    [OMID_EVENT_AUDIO] = "audio",
    [OMID_EVENT_SEGMENTS] = "segments",
    [OMID_EVENT_SEGMENTS_DELETED] = "segments_deleted",
    [OMID_EVENT_CONVERSATION_START] = "conversation_start",
    [OMID_EVENT_CONVERSATION_CREATED] = "conversation_created",
    [OMID_EVENT_APP_MESSAGE] = "app_message",
    [OMID_EVENT_CUSTOM] = "custom",
    [OMID_EVENT_SPEAKER_ASSIGNED] = "speaker_assigned",
    [OMID_EVENT_CONVERSATION_DELETED] = "conversation_deleted",
};

static void on_turn(struct loop *loop, struct loop_msg *msg);

struct bus *bus_new(struct loop *loop, struct host *host, unsigned reactor)
{
    struct bus *b = calloc(1, sizeof(*b));
    if (b == NULL)
        return NULL;
    b->magic = BUS_MAGIC;
    b->loop = loop;
    b->host = host;
    b->reactor = reactor;
    b->last = &b->first;
    b->turn.fn = on_turn;
    for (unsigned i = 0; i < OMID_EVENT_TYPES; i++) {
        const struct metric_label label = {"type", type_names[i]};
        b->m_events[i] = metric_get(METRIC_COUNTER, "omid_bus_events_total", "Events on the bus.", &label, 1, NULL, 0);
    }
    b->m_refused = metric_counter("omid_bus_refused_total", "Events of plugins that were refused: too many at once.");
    return b;
}

static struct later *later_pop(struct bus *b)
{
    struct later *l = b->first;
    b->first = l->next;
    if (b->first == NULL)
        b->last = &b->first;
    b->n_later--;
    b->later_bytes -= l->bytes;
    return l;
}

void bus_free(struct bus **bp)
{
    struct bus *b = *bp;
    *bp = NULL;
    if (b == NULL)
        return;
    CHECK_MAGIC(b, BUS_MAGIC);
    while (b->first != NULL)
        free(later_pop(b));
    b->magic = OMID_MAGIC_DEAD;
    free(b);
}

void bus_listen(struct bus *b, uint32_t mask, void (*fn)(void *arg, const struct omid_event *ev), void *arg)
{
    CHECK_MAGIC(b, BUS_MAGIC);
    omid_assert(b->n_listeners < MAX_LISTENERS);
    b->listener[b->n_listeners++] = (struct listener){mask, fn, arg};
}

void bus_publish(struct bus *b, const struct omid_event *ev)
{
    CHECK_MAGIC(b, BUS_MAGIC);
    omid_assert((unsigned)ev->type < OMID_EVENT_TYPES);
    uint32_t mask = OMID_EVENT_MASK(ev->type);
    metric_add(b->m_events[ev->type], 1);
    for (unsigned i = 0; i < b->n_listeners; i++) {
        if ((b->listener[i].mask & mask) != 0)
            b->listener[i].fn(b->listener[i].arg, ev);
    }
    unsigned n = b->host != NULL ? host_module_count(b->host, b->reactor) : 0;
    for (unsigned i = 0; i < n; i++) {
        struct omid_instance *inst = host_instance(b->host, b->reactor, i);
        if (inst != NULL && (host_plugin(inst)->events & mask) != 0)
            (void)host_event(inst, ev);
    }
}

/* ------------------------------------------------------------ later */

static size_t text_size(const char *s)
{
    return s != NULL ? strlen(s) + 1 : 0;
}

static const char *text_put(char **at, const char *s, size_t size)
{
    if (s == NULL)
        return NULL;
    char *to = *at;
    memcpy(to, s, size);
    *at += size;
    return to;
}

static struct later *later_new(const struct omid_event *ev)
{
    size_t uid = text_size(ev->uid), session = text_size(ev->session_id), conv = text_size(ev->conversation_id);
    size_t name = text_size(ev->name), id = text_size(ev->id);
    size_t bytes = uid + session + conv + name + id + (ev->json != NULL ? ev->json_len + 1 : 0);
    struct later *l = bytes <= LATER_MAX_BYTES ? malloc(sizeof(*l) + bytes) : NULL;
    if (l == NULL)
        return NULL;
    char *at = l->text;
    l->next = NULL;
    l->bytes = bytes;
    l->ev = (struct omid_event){
        .size = sizeof(l->ev),
        .type = ev->type,
        .uid = text_put(&at, ev->uid, uid),
        .session_id = text_put(&at, ev->session_id, session),
        .conversation_id = text_put(&at, ev->conversation_id, conv),
        .name = text_put(&at, ev->name, name),
        .id = text_put(&at, ev->id, id),
        .json_len = ev->json_len,
        .time_ms = ev->time_ms,
        .revision = ev->revision,
    };
    if (ev->json != NULL) {
        l->ev.json = text_put(&at, ev->json, ev->json_len);
        *at = '\0';
    }
    return l;
}

static void turn_post(struct bus *b)
{
    if (b->turn_posted || b->first == NULL)
        return;
    b->turn_posted = true;
    loop_post(b->loop, &b->turn);
}

/* Events that are published by the handlers of these wait for the next turn, so that two plugins that answer
 * each other don't hold the loop. */
static void on_turn(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct bus *b = container_of(msg, struct bus, turn);
    CHECK_MAGIC(b, BUS_MAGIC);
    b->turn_posted = false;
    for (unsigned n = b->n_later; n > 0; n--) {
        struct later *l = later_pop(b);
        bus_publish(b, &l->ev);
        free(l);
    }
    turn_post(b);
}

int bus_publish_later(struct bus *b, const struct omid_event *ev)
{
    CHECK_MAGIC(b, BUS_MAGIC);
    omid_assert((unsigned)ev->type < OMID_EVENT_TYPES);
    struct later *l = b->n_later < LATER_MAX ? later_new(ev) : NULL;
    if (l == NULL || b->later_bytes + l->bytes > LATER_MAX_BYTES) {
        free(l);
        metric_add(b->m_refused, 1);
        return OMID_EFULL;
    }
    *b->last = l;
    b->last = &l->next;
    b->n_later++;
    b->later_bytes += l->bytes;
    turn_post(b);
    return OMID_OK;
}

static void on_across(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct later *l = container_of(msg, struct later, across);
    struct bus *b = l->bus;
    CHECK_MAGIC(b, BUS_MAGIC);
    atomic_fetch_sub(&b->n_across, 1);
    atomic_fetch_sub(&b->across_bytes, l->bytes);
    bus_publish(b, &l->ev);
    free(l);
}

int bus_publish_across(struct bus *b, const struct omid_event *ev)
{
    CHECK_MAGIC(b, BUS_MAGIC);
    omid_assert((unsigned)ev->type < OMID_EVENT_TYPES);
    struct later *l = atomic_load(&b->n_across) < LATER_MAX ? later_new(ev) : NULL;
    if (l == NULL || atomic_load(&b->across_bytes) + l->bytes > LATER_MAX_BYTES) {
        free(l);
        metric_add(b->m_refused, 1);
        return OMID_EFULL;
    }
    atomic_fetch_add(&b->n_across, 1);
    atomic_fetch_add(&b->across_bytes, l->bytes);
    l->bus = b;
    l->across.fn = on_across;
    loop_post(b->loop, &l->across);
    return OMID_OK;
}
