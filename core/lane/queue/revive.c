/* Dead letters, one at a time: read, brought back, dropped. Within a transaction of the writer. */
#include <string.h>

#include "lane/queue/queue_int.h"

static const char *text(sqlite3_stmt *st, int col)
{
    const char *s = db_col_str(st, col);
    return s != NULL ? s : "";
}

void queue_dead_read(sqlite3_stmt *st, struct queue_dead *to)
{
    *to = (struct queue_dead){
        .id = (uint64_t)sqlite3_column_int64(st, 0),
        .died_ms = sqlite3_column_int64(st, 1),
        .ordered = (sqlite3_column_int(st, 2) & QUEUE_STATE_ORDERED) != 0,
        .attempts = (unsigned)sqlite3_column_int(st, 3),
        .created_ms = sqlite3_column_int64(st, 4),
        .owner = text(st, 5),
        .type = text(st, 6),
        .name = text(st, 7),
        .target = text(st, 8),
        .error = text(st, 9),
        .payload_len = (size_t)sqlite3_column_int64(st, 10),
    };
}

static bool is(const char *wanted, const char *found)
{
    return wanted == NULL || strcmp(wanted, found) == 0;
}

bool queue_dead_matches(const struct queue_dead *d, const struct queue_filter *f)
{
    return is(f->owner, d->owner) && is(f->type, d->type) && is(f->target, d->target) &&
           (f->error == NULL || strstr(d->error, f->error) != NULL) && d->died_ms >= f->from_ms &&
           (f->to_ms == 0 || d->died_ms < f->to_ms);
}

int queue_revival_bring(struct queue *q, const struct queue_dead *d, struct queue_revival *r)
{
    if (!queue_room(q, 1, d->payload_len, NULL))
        return OMID_EFULL;
    *r = (struct queue_revival){
        .id = (int64_t)d->id, .now = queue_row_now(q), .payload_len = d->payload_len, .ordered = d->ordered};
    struct queue_target *t = queue_target_get(q, d->owner, d->target);
    if (t == NULL)
        return OMID_ERR;
    if (!queue_share_take(q, t, d->payload_len, 0, 0))
        return OMID_EFULL;
    sqlite3_stmt *st = db_stmt(q->db, QS_DEAD_REVIVE);
    sqlite3_bind_int64(st, 1, r->id);
    sqlite3_bind_int64(st, 2, r->now);
    bool ok = db_run(q->db, st);
    t->pins++;
    if (!ok) {
        t->pins--;
        queue_target_update(q, t);
        return OMID_ERR;
    }
    r->target = t;
    q->txn_jobs++;
    q->txn_bytes += d->payload_len;
    return OMID_OK;
}

bool queue_dead_remove(struct queue *q, int64_t id, const char *owner, const char *name)
{
    return queue_job_delete(q, id, true) && (name == NULL || name[0] == '\0' || queue_name_keep(q, name, owner));
}

bool queue_revival_drop(struct queue *q, const struct queue_dead *d, struct queue_revival *r)
{
    *r = (struct queue_revival){
        .id = (int64_t)d->id, .payload_len = d->payload_len, .named = d->name[0] != '\0' && q->c.name_keep_ms > 0};
    return queue_dead_remove(q, r->id, d->owner, d->name);
}

void queue_revival_end(struct queue *q, struct queue_revival *r, bool committed)
{
    struct queue_target *t = r->target;
    if (committed) {
        atomic_fetch_sub(&q->dead, 1);
        atomic_fetch_sub(&q->dead_bytes, r->payload_len);
        atomic_fetch_add(t != NULL ? &q->replayed : &q->dropped, 1);
        if (r->named)
            atomic_fetch_add(&q->names, 1);
        if (t != NULL) {
            t->on_disk = true;
            queue_target_ready(t, r->ordered, r->now);
            atomic_fetch_add(&q->waiting, 1);
            atomic_fetch_add(&q->bytes, r->payload_len);
            t->bytes += r->payload_len;
        }
    }
    if (t != NULL) {
        t->pins--;
        queue_target_update(q, t);
    }
    r->target = NULL;
}
