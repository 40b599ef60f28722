/* The way in: jobs to disk, and the fence that tells when. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lane/queue/queue_int.h"

/* Ids are handed out from memory; the file holds a mark they have not passed, raised by this many at a time. So an id
 * is never given twice, also not after the last job was deleted. */
#define ID_BLOCK 65536

/* Of the calling thread; never reused, unlike the kernel's. */
static uint64_t thread_serial(void)
{
    static atomic_uint_fast64_t last;
    static _Thread_local uint64_t mine;
    if (mine == 0)
        mine = atomic_fetch_add(&last, 1) + 1;
    return mine;
}

void queue_fence_note(struct queue *q, uint64_t thread)
{
    pthread_mutex_lock(&q->fence_lock);
    for (size_t i = 0; i < q->n_fence_failed; i++) {
        if (q->fence_failed[i] == thread)
            goto out;
    }
    if (q->n_fence_failed < QUEUE_FENCE_THREADS)
        q->fence_failed[q->n_fence_failed++] = thread;
    else
        q->fence_overflow = true;
out:
    pthread_mutex_unlock(&q->fence_lock);
}

static bool fence_take(struct queue *q, uint64_t thread)
{
    pthread_mutex_lock(&q->fence_lock);
    bool failed = q->fence_overflow;
    q->fence_overflow = false;
    for (size_t i = 0; i < q->n_fence_failed; i++) {
        if (q->fence_failed[i] == thread) {
            q->fence_failed[i] = q->fence_failed[--q->n_fence_failed];
            failed = true;
            break;
        }
    }
    pthread_mutex_unlock(&q->fence_lock);
    return failed;
}

/* ---------------------------------------------------------------- enqueue */

struct enqueue_op {
    struct db_op op;
    struct loop_msg msg;
    struct loop *loop;
    omid_enqueued_cb cb;
    void *arg;
    uint64_t thread;
    int result;
    uint64_t id;
    bool duplicate;
    struct queue_target *target;
    int64_t not_before, asked, now, reserved;
    size_t payload_len;
    void *payload;
    char *owner, *type, *name, *target_name;
    char text[];
};

static void enqueue_answer(struct loop *loop, struct loop_msg *msg)
{
    struct enqueue_op *e = container_of(msg, struct enqueue_op, msg);
    (void)loop;
    if (e->cb != NULL)
        e->cb(e->arg, (enum omid_result)e->result, e->id);
    free(e);
}

/* 1: known, e->id is set; 0: new; -1: failed. */
static int name_known(struct queue *q, struct enqueue_op *e)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_NAME_GET);
    db_bind_str(st, 1, e->name);
    db_bind_str(st, 2, e->owner);
    int r = db_step(q->db, st);
    if (r <= 0)
        return r;
    bool live = sqlite3_column_type(st, 1) == SQLITE_NULL || sqlite3_column_int64(st, 1) > e->now;
    e->id = (uint64_t)sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return live;
}

static bool name_insert(struct queue *q, const struct enqueue_op *e)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_NAME_INSERT);
    db_bind_str(st, 1, e->name);
    db_bind_str(st, 2, e->owner);
    sqlite3_bind_int64(st, 3, (int64_t)e->id);
    return db_run(q->db, st);
}

static bool target_insert(struct queue *q, const struct queue_target *t)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_TARGET_INSERT);
    sqlite3_bind_int64(st, 1, t->id);
    db_bind_str(st, 2, t->owner->name);
    db_bind_str(st, 3, t->name);
    return db_run(q->db, st);
}

static bool job_insert(struct queue *q, const struct enqueue_op *e)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_JOB_INSERT);
    sqlite3_bind_int64(st, 1, (int64_t)e->id);
    sqlite3_bind_int64(st, 2, e->target->id);
    sqlite3_bind_int64(st, 3, e->not_before);
    sqlite3_bind_int(st, 4, e->asked > e->now);
    sqlite3_bind_int64(st, 5, e->now);
    db_bind_str(st, 6, e->type);
    db_bind_str(st, 7, e->name[0] ? e->name : NULL);
    sqlite3_bind_blob(st, 8, e->payload, (int)e->payload_len, SQLITE_STATIC);
    return db_run(q->db, st);
}

static bool id_take(struct queue *q, struct enqueue_op *e)
{
    if (q->txn_next_id >= q->txn_reserved_id) {
        sqlite3_stmt *st = db_stmt(q->db, QS_META_SET);
        q->txn_reserved_id = q->txn_next_id + ID_BLOCK;
        db_bind_str(st, 1, "next_id");
        sqlite3_bind_int64(st, 2, q->txn_reserved_id);
        if (!db_run(q->db, st))
            return false;
    }
    e->id = (uint64_t)q->txn_next_id++;
    e->reserved = q->txn_reserved_id;
    return true;
}

static int enqueue_run(void *ctx, struct db_op *op)
{
    struct queue *q = ctx;
    struct enqueue_op *e = container_of(op, struct enqueue_op, op);
    e->duplicate = false;
    e->id = 0;
    e->now = queue_wall(q);
    e->not_before = e->asked > e->now ? e->asked : e->now;
    int known = e->name[0] ? name_known(q, e) : 0;
    if (known != 0) {
        e->duplicate = true;
        return known < 0 ? OMID_ERR : OMID_OK;
    }
    if (atomic_load(&q->waiting) + atomic_load(&q->leased) + q->txn_jobs >= q->c.max_jobs)
        return OMID_EFULL;
    if (e->target == NULL) {
        e->target = queue_target_get(q, e->owner, e->target_name);
        if (e->target == NULL)
            return OMID_ERR;
        e->target->pins++;
    }
    if (!e->target->on_disk && !target_insert(q, e->target))
        return OMID_ERR;
    if (!id_take(q, e) || (e->name[0] && !name_insert(q, e)) || !job_insert(q, e))
        return OMID_ERR;
    q->txn_jobs++;
    return OMID_OK;
}

static void enqueue_done(void *ctx, struct db_op *op, int result)
{
    struct queue *q = ctx;
    struct enqueue_op *e = container_of(op, struct enqueue_op, op);
    struct queue_target *t = e->target;
    e->result = result;
    if (result == OMID_OK && e->duplicate) {
        atomic_fetch_add(&q->duplicates, 1);
    } else if (result == OMID_OK) {
        t->on_disk = true;
        t->ready++;
        t->next_due = queue_min(t->next_due, e->not_before);
        q->next_id = (int64_t)e->id + 1;
        q->reserved_id = e->reserved;
        q->retry_at = 0; /* the disk takes writes */
        atomic_fetch_add(&q->waiting, 1);
        atomic_fetch_add(&q->bytes, e->payload_len);
        atomic_fetch_add(&q->enqueued, 1);
        if (e->asked > e->now)
            atomic_fetch_add(&q->delayed, 1);
    } else {
        e->id = 0;
        atomic_fetch_add(result == OMID_EFULL ? &q->refused : &q->failed, 1);
        queue_fence_note(q, e->thread);
    }
    if (t != NULL) {
        t->pins--;
        queue_target_update(q, t);
    }
    if (e->loop != NULL)
        loop_post(e->loop, &e->msg);
    else
        free(e);
}

static bool fits(const char *s)
{
    return s == NULL || strnlen(s, QUEUE_MAX_STRING + 1) <= QUEUE_MAX_STRING;
}

static char *put(char **at, const char *s)
{
    char *to = *at;
    *at = stpcpy(to, s ? s : "") + 1;
    return to;
}

static size_t len_of(const char *s)
{
    return (s ? strlen(s) : 0) + 1;
}

int queue_enqueue(struct queue *q, const char *owner, const struct omid_job *job, struct loop *loop,
                  omid_enqueued_cb cb, void *arg)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    if (owner == NULL || owner[0] == '\0' || strchr(owner, '\n') != NULL || job->type == NULL || !fits(owner) ||
        !fits(job->type) || !fits(job->name) || !fits(job->target) || job->payload_len > QUEUE_MAX_PAYLOAD ||
        (job->payload == NULL && job->payload_len > 0))
        return OMID_EINVAL;
    size_t text = len_of(owner) + len_of(job->type) + len_of(job->name) + len_of(job->target);
    struct enqueue_op *e = calloc(1, sizeof(*e) + text + job->payload_len + 1);
    if (e == NULL) {
        queue_fence_note(q, thread_serial());
        return OMID_ERR;
    }
    char *at = e->text;
    e->owner = put(&at, owner);
    e->type = put(&at, job->type);
    e->name = put(&at, job->name);
    e->target_name = put(&at, job->target);
    e->payload = at;
    e->payload_len = job->payload_len;
    if (job->payload_len > 0)
        memcpy(e->payload, job->payload, job->payload_len);
    e->asked = job->not_before_ms;
    e->loop = cb != NULL ? loop : NULL;
    e->cb = cb;
    e->arg = arg;
    e->thread = thread_serial();
    e->msg.fn = enqueue_answer;
    e->op.run = enqueue_run;
    e->op.done = enqueue_done;
    e->op.bytes = sizeof(*e) + text + job->payload_len;
    int r = db_writer_post(q->writer, &e->op);
    if (r != OMID_OK) {
        atomic_fetch_add(&q->refused, 1);
        queue_fence_note(q, e->thread);
        free(e);
    }
    return r;
}

/* ---------------------------------------------------------------- fence */

struct fence_op {
    struct db_op op;
    struct loop_msg msg;
    struct loop *loop;
    void (*cb)(void *arg, int result);
    void *arg;
    uint64_t thread;
    int result;
};

static void fence_answer(struct loop *loop, struct loop_msg *msg)
{
    struct fence_op *f = container_of(msg, struct fence_op, msg);
    (void)loop;
    f->cb(f->arg, f->result);
    free(f);
}

static int fence_run(void *ctx, struct db_op *op)
{
    (void)ctx;
    (void)op;
    return OMID_OK;
}

static void fence_done(void *ctx, struct db_op *op, int result)
{
    struct queue *q = ctx;
    struct fence_op *f = container_of(op, struct fence_op, op);
    f->result = fence_take(q, f->thread) ? OMID_ERR : result;
    loop_post(f->loop, &f->msg);
}

int queue_fence(struct queue *q, struct loop *loop, void (*cb)(void *arg, int result), void *arg)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    struct fence_op *f = calloc(1, sizeof(*f));
    if (f == NULL)
        return OMID_ERR;
    f->loop = loop;
    f->cb = cb;
    f->arg = arg;
    f->thread = thread_serial();
    f->msg.fn = fence_answer;
    f->op.run = fence_run;
    f->op.done = fence_done;
    f->op.bytes = sizeof(*f);
    int r = db_writer_post(q->writer, &f->op);
    if (r != OMID_OK)
        free(f);
    return r;
}
