/*
 * Sessions of an instance: a table by session id. A session has a stream per endpoint that wants its audio, or its
 * transcript; which ones these are follows the registry, from one event to the next.
 */
#include <stdlib.h>
#include <string.h>

#include "webhooks.h"

#define TABLE 4096 /* chains: a walk stays short at max_sessions' default */

static size_t chain_of(const char *id)
{
    uint32_t h = UINT32_C(2166136261);
    for (; *id != '\0'; id++)
        h = (h ^ (unsigned char)*id) * UINT32_C(16777619);
    return h % TABLE;
}

struct session *session_find(struct instance *in, const char *id)
{
    if (in->table == NULL)
        return NULL;
    for (struct session *s = in->table[chain_of(id)]; s != NULL; s = s->chain) {
        if (!s->ended && strcmp(s->id, id) == 0)
            return s;
    }
    return NULL;
}

static void session_free(struct session *s)
{
    struct instance *in = s->in;
    wh_assert(s->magic == WEBHOOKS_SESSION_MAGIC && s->in_flight == 0);
    audio_clear(s);
    transcript_clear(s);
    endpoints_put(in, &s->set);
    if (s->flush != NULL)
        in->host->timer_stop(&s->flush);
    s->magic = 0;
    free(s->conversation);
    free(s->uid);
    free(s->id);
    free(s);
}

static void table_remove(struct session *s)
{
    struct session **at = &s->in->table[chain_of(s->id)];
    while (*at != s)
        at = &(*at)->chain;
    *at = s->chain;
    s->in->n_sessions--;
}

static struct session *session_new(struct instance *in, const char *uid, const char *id)
{
    if (in->table == NULL)
        in->table = calloc(TABLE, sizeof(struct session *));
    if (in->table == NULL || in->n_sessions >= in->conf->max_sessions)
        return NULL;
    struct session *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return NULL;
    s->magic = WEBHOOKS_SESSION_MAGIC;
    s->in = in;
    s->uid = strdup(uid);
    s->id = strdup(id);
    if (s->uid == NULL || s->id == NULL || !audio_init(s) || !transcript_init(s)) {
        session_free(s);
        return NULL;
    }
    struct session **chain = &in->table[chain_of(id)];
    s->chain = *chain;
    *chain = s;
    in->n_sessions++;
    return s;
}

static bool set_wants(const struct omid_endpoints *set, enum omid_trigger trigger)
{
    for (size_t i = 0; set != NULL && i < set->n; i++) {
        if (endpoint_has(set->endpoint[i], trigger))
            return true;
    }
    return false;
}

/* Takes the set, if it is another than before. One that is held is never freed, so another is never at its address. */
static void session_follow(struct session *s, const struct omid_endpoints **set)
{
    struct instance *in = s->in;
    if (*set == NULL || *set == s->set)
        return;
    bool all = audio_follow(s, *set);
    all = transcript_follow(s, *set) && all;
    if (!all) {
        in->host->counter_add(in->conf->unusable, 1);
        in->host->log(in->mod, OMID_LOG_WARNING,
                      "a session does not feed all its endpoints: there are too many, or "
                      "one can't be used");
    }
    endpoints_put(in, &s->set);
    s->set = *set;
    *set = NULL;
}

struct session *session_for(struct instance *in, const struct omid_event *ev, enum omid_trigger trigger)
{
    if (ev->uid == NULL || ev->session_id == NULL)
        return NULL;
    const struct omid_endpoints *set = endpoints_get(in, ev->uid);
    struct session *s = session_find(in, ev->session_id);
    if (s == NULL && (in->conf->n[trigger] > 0 || set_wants(set, trigger))) {
        s = session_new(in, ev->uid, ev->session_id);
        if (s == NULL) {
            deliver_count(in, trigger, OUTCOME_DROPPED);
            in->host->log(in->mod, OMID_LOG_WARNING,
                          "an event is dropped: max_sessions is reached, or memory is short");
        }
    }
    if (s != NULL)
        session_follow(s, &set);
    endpoints_put(in, &set);
    return s;
}

struct body *body_new(char *data, size_t len)
{
    struct body *b = malloc(sizeof(*b));
    if (b == NULL) {
        free(data);
        return NULL;
    }
    *b = (struct body){.refs = 1, .len = len, .data = data};
    return b;
}

void body_unref(struct body **bp)
{
    struct body *b = *bp;
    *bp = NULL;
    wh_assert(b != NULL && b->refs > 0);
    if (--b->refs > 0)
        return;
    free(b->data);
    free(b);
}

void session_check(struct session *s)
{
    wh_assert(s->magic == WEBHOOKS_SESSION_MAGIC);
    if (!s->ended || s->in_flight > 0)
        return;
    table_remove(s);
    session_free(s);
}

void session_end(struct session *s)
{
    s->in_flight++; /* a delivery refused on the spot must not free it under the second flush */
    audio_flush(s);
    transcript_flush(s);
    s->ended = true;
    s->in_flight--;
    session_check(s);
}

void sessions_free(struct instance *in)
{
    for (size_t i = 0; in->table != NULL && i < TABLE; i++) {
        while (in->table[i] != NULL) {
            struct session *s = in->table[i];
            table_remove(s);
            session_free(s);
        }
    }
    free(in->table);
    in->table = NULL;
}
