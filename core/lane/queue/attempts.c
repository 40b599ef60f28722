/* The log of attempts: what each delivery saw, written with its end. */
#include <string.h>

#include "lane/queue/queue_int.h"

bool queue_attempt_write(struct queue *q, const struct queue_claim *c, enum queue_ended ended, const char *error)
{
    bool expired = atomic_load(&c->state) == CLAIM_EXPIRED;
    /* Of an expired one the handler may be writing it at this moment. */
    const struct queue_attempt *a = expired ? NULL : c->attempt;
    if (q->c.attempts == 0 || (a == NULL && ended == QUEUE_ENDED_DONE))
        return true;
    sqlite3_stmt *st = db_stmt(q->db, QS_ATTEMPT_INSERT);
    sqlite3_bind_int64(st, 1, queue_wall(q));
    sqlite3_bind_int64(st, 2, (int64_t)c->view.id);
    db_bind_str(st, 3, c->owner);
    db_bind_str(st, 4, c->view.type);
    db_bind_str(st, 5, c->view.target);
    db_bind_str(st, 6, a != NULL && a->endpoint[0] ? a->endpoint : NULL);
    db_bind_str(st, 7, c->view.name[0] ? c->view.name : NULL);
    sqlite3_bind_int(st, 8, (int)c->view.attempt);
    sqlite3_bind_int(st, 9, (int)ended);
    if (a != NULL) {
        sqlite3_bind_int(st, 10, a->status);
        sqlite3_bind_int64(st, 11, a->elapsed_ms);
    }
    db_bind_str(st, 12, error);
    if (a != NULL && a->answer_len > 0)
        sqlite3_bind_blob(st, 13, a->answer, (int)a->answer_len, SQLITE_STATIC);
    q->attempts_new++;
    return db_run(q->db, st);
}

bool queue_attempts_purge(struct queue *q, int64_t rows, bool *more)
{
    int64_t first = db_int(q->db, "SELECT min(id) FROM attempt", 0),
            last = db_int(q->db, "SELECT max(id) FROM attempt", 0);
    q->attempts_new = 0;
    if (last == 0)
        return true;
    sqlite3_stmt *st = db_stmt(q->db, QS_ATTEMPTS_PURGE);
    sqlite3_bind_int64(st, 1, first + rows);
    sqlite3_bind_int64(st, 2, last - (int64_t)q->c.attempts);
    sqlite3_bind_int64(st, 3, q->c.attempts_keep_ms > 0 ? queue_wall(q) - q->c.attempts_keep_ms : INT64_MIN);
    if (!db_run(q->db, st))
        return false;
    *more = *more || db_changes(q->db) == rows;
    return true;
}
