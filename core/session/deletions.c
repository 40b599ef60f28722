#include "session/deletions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bus/bus.h"
#include "lane/queue/queue.h"
#include "store/deleted.h"

#define MODULE "conversation"
#define LOOK_MAX 256 /* of a sweep */

struct deletion {
    uint32_t magic;
    struct list link;
    struct sessions *ss;
    char id[37];
    void (*done)(void *arg, int result);
    void *arg;
    char uid[];
};
#define DELETION_MAGIC UINT32_C(0x64656c74)

static struct deletion *deletion_new(struct sessions *ss, const char *id, const char *uid)
{
    struct deletion *d = calloc(1, sizeof *d + strlen(uid) + 1);
    if (!d)
        return NULL;
    d->magic = DELETION_MAGIC;
    d->ss = ss;
    snprintf(d->id, sizeof d->id, "%s", id);
    strcpy(d->uid, uid);
    list_append(&ss->deletions, &d->link);
    return d;
}

static void deletion_free(struct deletion *d)
{
    CHECK_MAGIC(d, DELETION_MAGIC);
    list_remove(&d->link);
    d->magic = OMID_MAGIC_DEAD;
    free(d);
}

static void deletion_end(struct deletion *d)
{
    struct sessions *ss = d->ss;
    deletion_free(d);
    sessions_check_drained(ss);
}

/* ------------------------------------------------------------------- telling */

static void on_fence(void *arg, int result)
{
    struct deletion *d = arg;
    CHECK_MAGIC(d, DELETION_MAGIC);
    if (result != OMID_OK || store_deleted_forget(d->ss->env.store, d->id) != OMID_OK)
        d->ss->deletions_left = true;
    deletion_end(d);
}

static void publish(struct sessions *ss, const char *id, const char *uid)
{
    const struct omid_event ev = {.size = sizeof ev,
                                  .type = OMID_EVENT_CONVERSATION_DELETED,
                                  .uid = uid,
                                  .session_id = "",
                                  .conversation_id = id,
                                  .time_ms = clock_wall_ms()};
    bus_publish(ss->env.bus, &ev);
}

static void deletion_tell(struct deletion *d)
{
    publish(d->ss, d->id, d->uid);
    if (queue_fence(d->ss->env.queue, d->ss->env.loop, on_fence, d) == OMID_OK)
        return;
    d->ss->deletions_left = true;
    deletion_end(d);
}

void deletions_tell(struct sessions *ss, const char *id, const char *uid)
{
    struct deletion *d = deletion_new(ss, id, uid);
    if (d) {
        deletion_tell(d);
        return;
    }
    publish(ss, id, uid);
    ss->deletions_left = true;
}

/* ------------------------------------------------------------------- deleting */

static void on_deleted(void *arg, int result)
{
    struct deletion *d = arg;
    CHECK_MAGIC(d, DELETION_MAGIC);
    if (d->done)
        d->done(d->arg, result);
    if (result == OMID_OK || result == OMID_ENOTSUP) /* it may have lived in memory alone */
        deletion_tell(d);
    else
        deletion_end(d);
}

int deletions_delete(struct sessions *ss, const char *id, const char *uid, void (*done)(void *arg, int result),
                     void *arg)
{
    struct deletion *d = deletion_new(ss, id, uid);
    if (!d)
        return OMID_ERR;
    d->done = done;
    d->arg = arg;
    int rc = store_conversation_delete(ss->env.store, id, NULL, ss->env.loop, on_deleted, d);
    if (rc != OMID_OK)
        deletion_free(d);
    return rc;
}

/* ------------------------------------------------------------------- what is left */

static bool is_told(const struct sessions *ss, const char *id)
{
    list_each (it, &ss->deletions) {
        if (strcmp(list_entry(it, struct deletion, link)->id, id) == 0)
            return true;
    }
    return false;
}

static void on_found(void *arg, int result, const struct store_deleted *deleted, size_t n)
{
    struct sessions *ss = arg;
    CHECK_MAGIC(ss, SESSIONS_MAGIC);
    ss->deletions_asked = false;
    /* As many as could be told: there may be more. */
    ss->deletions_left = ss->deletions_left || result != OMID_OK || n == LOOK_MAX;
    for (size_t i = 0; i < n && !ss->draining; i++) {
        if (session_reactor_of(deleted[i].uid, ss->env.conf->daemon.reactors) == ss->env.reactor &&
            !is_told(ss, deleted[i].id))
            deletions_tell(ss, deleted[i].id, deleted[i].uid);
    }
    if (ss->draining)
        sessions_check_drained(ss);
}

void deletions_sweep(struct sessions *ss)
{
    if (!ss->deletions_left || ss->deletions_asked || ss->draining)
        return;
    ss->deletions_left = false;
    ss->deletions_asked = store_deleted(ss->env.store, LOOK_MAX, ss->env.loop, on_found, ss) == OMID_OK;
    ss->deletions_left = !ss->deletions_asked;
}

bool deletions_idle(const struct sessions *ss)
{
    return list_empty(&ss->deletions);
}

void deletions_free_all(struct sessions *ss)
{
    for (struct list *it; (it = list_pop(&ss->deletions)) != NULL;)
        deletion_free(list_entry(it, struct deletion, link));
}
