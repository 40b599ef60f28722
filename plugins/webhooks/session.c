/* Sessions of an instance: a table by session id. */
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

struct session *session_get(struct instance *in, const char *uid, const char *id)
{
    struct session *s = session_find(in, id);
    if (s != NULL)
        return s;
    if (in->table == NULL)
        in->table = calloc(TABLE, sizeof(struct session *));
    if (in->table == NULL || in->n_sessions >= in->conf->max_sessions)
        return NULL;
    s = calloc(1, sizeof(*s));
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
