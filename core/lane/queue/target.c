/* Targets and owners: who may be served now, who later, and when. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lane/queue/queue_int.h"

/* ---------------------------------------------------------------- heap by wake_at */

static void heap_put(struct queue *q, size_t at, struct queue_target *t)
{
    q->heap[at] = t;
    t->heap_at = at;
}

static void heap_up(struct queue *q, size_t at)
{
    struct queue_target *t = q->heap[at];
    while (at > 0 && q->heap[(at - 1) / 2]->wake_at > t->wake_at) {
        heap_put(q, at, q->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    heap_put(q, at, t);
}

static void heap_down(struct queue *q, size_t at)
{
    struct queue_target *t = q->heap[at];
    for (size_t kid; (kid = 2 * at + 1) < q->n_heap; at = kid) {
        if (kid + 1 < q->n_heap && q->heap[kid + 1]->wake_at < q->heap[kid]->wake_at)
            kid++;
        if (q->heap[kid]->wake_at >= t->wake_at)
            break;
        heap_put(q, at, q->heap[kid]);
    }
    heap_put(q, at, t);
}

static void heap_remove(struct queue *q, struct queue_target *t)
{
    size_t at = t->heap_at;
    struct queue_target *last = q->heap[--q->n_heap];
    if (last == t)
        return;
    heap_put(q, at, last);
    heap_up(q, at);
    heap_down(q, last->heap_at);
}

/* ---------------------------------------------------------------- states */

/* Any state may follow any other: what counts is that the places it is listed in follow suit. */
static void target_set_state(struct queue *q, struct queue_target *t, enum target_state s)
{
    switch (t->state) {
    case TARGET_TIMED:
        heap_remove(q, t);
        break;
    case TARGET_DUE:
        q->n_ring--;
        list_remove(&t->link);
        break;
    case TARGET_PARKED:
        list_remove(&t->link);
        break;
    default:
        break;
    }
    omid_assert(list_empty(&t->link));
    t->state = s;
    switch (s) {
    case TARGET_TIMED:
        omid_assert(q->n_heap < q->heap_cap);
        heap_put(q, q->n_heap, t);
        heap_up(q, q->n_heap++);
        break;
    case TARGET_DUE:
        list_append(&q->ring, &t->link);
        q->n_ring++;
        break;
    case TARGET_PARKED:
        list_append(&t->owner->targets_parked, &t->link);
        break;
    default:
        break;
    }
}

static void target_free(struct queue *q, struct queue_target *t)
{
    if (t->owner->probe == t)
        t->owner->probe = NULL;
    target_set_state(q, t, TARGET_IDLE);
    map_remove(q->targets, t->key);
    free(t->key);
    free(t);
    q->targets_freed++;
}

void queue_target_ready(struct queue_target *t, bool ordered, int64_t due)
{
    if (!ordered) {
        t->ready++;
        t->next_due = queue_min(t->next_due, due);
    } else if (t->ordered++ == 0 || due < t->head_due) {
        t->head_due = due; /* not always its first: then a claim finds out */
    }
}

/* Unix ms; QUEUE_NEVER: nothing of it may be claimed now, whatever the clock says. */
static int64_t target_due(const struct queue_target *t)
{
    int64_t due = t->ready > 0 ? t->next_due : QUEUE_NEVER;
    if (t->ordered > 0 && !t->ordered_out)
        due = queue_min(due, t->head_due);
    return due;
}

static void target_put(struct queue *q, struct queue_target *t, enum target_state s)
{
    if (s != TARGET_DUE && t->owner->probe == t)
        t->owner->probe = NULL;
    if (s != t->state)
        target_set_state(q, t, s);
}

static void target_put_timed(struct queue *q, struct queue_target *t, int64_t wake)
{
    if (t->state == TARGET_TIMED && t->wake_at == wake)
        return;
    target_set_state(q, t, TARGET_IDLE); /* out of the heap before its key changes */
    t->wake_at = wake;
    target_put(q, t, TARGET_TIMED);
}

/* Nothing of it is left: it stays as long as it matters what was sent there just now. */
static void target_rest(struct queue *q, struct queue_target *t)
{
    int64_t until = queue_rate_keep_until(&t->rate, queue_mono(q));
    if (until > queue_mono(q))
        target_put_timed(q, t, until);
    else
        target_free(q, t);
}

void queue_target_update(struct queue *q, struct queue_target *t)
{
    if (t->pins > 0)
        return;
    if (t->ready == 0)
        t->next_due = QUEUE_NEVER;
    if (t->ready == 0 && t->ordered == 0 && t->leased == 0) {
        target_rest(q, t);
        return;
    }
    int64_t due = target_due(t);
    if (due == QUEUE_NEVER) {
        target_put(q, t, TARGET_IDLE);
        return;
    }
    if (t->leased >= q->c.in_flight_per_target) {
        target_put(q, t, TARGET_FULL);
        return;
    }
    int64_t now = queue_mono(q), wake = due - queue_wall(q);
    wake = wake <= 0 ? now : now + wake;
    if (t->hold_until > wake)
        wake = t->hold_until;
    int64_t paced = queue_rate_next(&t->rate, now);
    if (paced > wake)
        wake = paced;
    if (wake > now)
        target_put_timed(q, t, wake);
    else
        target_put(q, t, t->owner->parked_until != 0 && t->owner->probe != t ? TARGET_PARKED : TARGET_DUE);
}

void queue_targets_update_all(struct queue *q)
{
    size_t pos = 0, n = 0;
    const char *key;
    void *value;
    /* The table must not change under the walk, and an update may free. */
    struct queue_target **all = calloc(map_count(q->targets) + 1, sizeof(struct queue_target *));
    if (all == NULL)
        return;
    while (map_next(q->targets, &pos, &key, &value))
        all[n++] = value;
    for (size_t i = 0; i < n; i++)
        queue_target_update(q, all[i]);
    free(all);
}

/* ---------------------------------------------------------------- owners */

static struct queue_owner *owner_get(struct queue *q, const char *name)
{
    struct queue_owner *o = map_get(q->owners, name);
    if (o != NULL)
        return o;
    o = calloc(1, sizeof(*o) + strlen(name) + 1);
    if (o == NULL)
        return NULL;
    strcpy(o->name, name);
    list_init(&o->targets_parked);
    list_init(&o->link);
    if (!map_put(q->owners, name, o, NULL)) {
        free(o);
        return NULL;
    }
    return o;
}

void queue_owner_park(struct queue *q, struct queue_owner *o)
{
    if (o->parked_until == 0)
        log_info("queue", "jobs wait for a plugin that does not run", LS("plugin", o->name));
    o->parked_until = queue_mono(q) + QUEUE_OWNER_RETRY_MS;
    o->probe = NULL;
    list_remove(&o->link);
    list_append(&q->owners_parked, &o->link);
    list_each (it, &q->ring) {
        struct queue_target *t = list_entry(it, struct queue_target, link);
        if (t->owner == o)
            queue_target_update(q, t);
    }
}

void queue_owner_unpark(struct queue *q, struct queue_owner *o)
{
    if (o->parked_until == 0)
        return;
    o->parked_until = 0;
    o->probe = NULL;
    list_remove(&o->link);
    struct list *it;
    while ((it = list_pop(&o->targets_parked)) != NULL) {
        struct queue_target *t = list_entry(it, struct queue_target, link);
        target_set_state(q, t, TARGET_IDLE);
        queue_target_update(q, t);
    }
}

/* ---------------------------------------------------------------- time */

void queue_targets_wake(struct queue *q)
{
    int64_t now = queue_mono(q);
    while (q->n_heap > 0 && q->heap[0]->wake_at <= now) {
        struct queue_target *t = q->heap[0];
        t->hold_until = t->hold_until <= now ? 0 : t->hold_until;
        queue_target_update(q, t);
        if (q->n_heap > 0 && q->heap[0] == t && t->wake_at <= now)
            target_set_state(q, t, TARGET_IDLE); /* pinned: whoever lets go of it looks again */
    }
    list_each (it, &q->owners_parked) {
        struct queue_owner *o = list_entry(it, struct queue_owner, link);
        if (o->parked_until > now)
            break; /* in the order of parking, all for the same time */
        if (list_empty(&o->targets_parked)) {
            if (o->probe == NULL)
                queue_owner_unpark(q, o);
        } else if (o->probe == NULL) {
            struct queue_target *t = list_entry(o->targets_parked.next, struct queue_target, link);
            o->probe = t;
            target_set_state(q, t, TARGET_DUE);
        }
    }
}

int64_t queue_targets_next(const struct queue *q)
{
    int64_t next = q->n_heap > 0 ? q->heap[0]->wake_at : QUEUE_NEVER;
    list_each (it, &q->owners_parked) {
        const struct queue_owner *o = list_entry(it, struct queue_owner, link);
        if (o->probe == NULL && o->parked_until < next)
            next = o->parked_until;
    }
    return next;
}

/* ---------------------------------------------------------------- table */

struct queue_target *queue_target_add(struct queue *q, int64_t id, const char *owner, const char *name)
{
    size_t on = strlen(owner), nn = strlen(name);
    if (map_count(q->targets) >= q->heap_cap) {
        size_t cap = q->heap_cap ? q->heap_cap * 2 : 64;
        struct queue_target **heap = realloc(q->heap, cap * sizeof(*heap));
        if (heap == NULL)
            return NULL;
        q->heap = heap;
        q->heap_cap = cap;
    }
    struct queue_target *t = calloc(1, sizeof(*t));
    char *key = malloc(on + nn + 2);
    struct queue_owner *o = owner_get(q, owner);
    if (t == NULL || key == NULL || o == NULL)
        goto fail;
    memcpy(key, owner, on);
    key[on] = '\n';
    memcpy(key + on + 1, name, nn + 1);
    t->id = id;
    t->key = key;
    t->name = key + on + 1;
    t->owner = o;
    t->next_due = t->head_due = QUEUE_NEVER;
    list_init(&t->link);
    list_init(&t->claims);
    if (!map_put(q->targets, key, t, NULL))
        goto fail;
    return t;
fail:
    free(key);
    free(t);
    return NULL;
}

struct queue_target *queue_target_find(struct queue *q, const char *owner, const char *name)
{
    size_t len = strlen(owner) + strlen(name) + 2;
    char small[512], *key = len <= sizeof(small) ? small : malloc(len);
    if (key == NULL)
        return NULL;
    char *at = stpcpy(key, owner);
    *at++ = '\n';
    strcpy(at, name);
    struct queue_target *t = map_get(q->targets, key);
    if (key != small)
        free(key);
    return t;
}

struct queue_target *queue_target_get(struct queue *q, const char *owner, const char *name)
{
    struct queue_target *t = queue_target_find(q, owner, name);
    if (t != NULL)
        return t;
    sqlite3_stmt *st = db_stmt(q->db, QS_TARGET_GET);
    db_bind_str(st, 1, owner);
    db_bind_str(st, 2, name);
    int r = db_step(q->db, st);
    if (r < 0)
        return NULL;
    int64_t id = r ? sqlite3_column_int64(st, 0) : q->next_target;
    uint32_t rate = r ? (uint32_t)sqlite3_column_int64(st, 1) : 0;
    sqlite3_reset(st);
    t = queue_target_add(q, id, owner, name);
    if (t == NULL) {
        db_set_error(q->db, "no memory");
        return NULL;
    }
    q->next_target += r == 0;
    t->on_disk = r > 0;
    if (rate > 0)
        queue_rate_set(&t->rate, rate, 1, queue_mono(q));
    return t;
}

void queue_targets_free(struct queue *q)
{
    size_t pos = 0;
    const char *key;
    void *value;
    while (map_next(q->targets, &pos, &key, &value)) {
        struct queue_target *t = value;
        omid_assert(list_empty(&t->claims));
        free(t->key);
        free(t);
    }
    pos = 0;
    while (map_next(q->owners, &pos, &key, &value))
        free(value);
    map_free(&q->targets);
    map_free(&q->owners);
    free(q->heap);
}
