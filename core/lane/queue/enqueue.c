/* The way in: jobs to disk, one or several with a receipt. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lane/queue/queue_int.h"

/* Ids are handed out from memory; the file holds a mark they have not passed, raised by this many at a time. So an id
 * is never given twice, also not after the last job was deleted. */
#define ID_BLOCK 65536

struct enqueue_job {
    struct queue_target *target; /* pinned, once it is known */
    uint64_t id;
    int64_t not_before, asked;
    bool duplicate, ordered, dead_if_full;
    bool over;    /* its target holds its share: */
    bool dropped; /* ... and there is no room for one more dead letter either */
    uint32_t rate_per_min;
    const char *type, *name, *target_name;
    const void *payload;
    size_t payload_len;
};

/* All of them are taken, or none is. */
struct enqueue_op {
    struct db_op op;
    struct loop_msg msg;
    struct loop *loop;
    omid_enqueued_cb one;      /* of a single job, or */
    omid_jobs_enqueued_cb all; /* of several; both NULL: nobody waits */
    void *arg;
    uint64_t thread;
    int result;
    int64_t now, reserved;
    bool repeated, over;             /* over: refused for that alone */
    const char *owner, *key, *value; /* key "": no receipt */
    char *kept;                      /* value of the receipt that was there; malloc()ed */
    size_t n;
    struct enqueue_job job[];
};

static void op_free(struct enqueue_op *e)
{
    free(e->kept);
    free(e);
}

static void enqueue_answer(struct loop *loop, struct loop_msg *msg)
{
    struct enqueue_op *e = container_of(msg, struct enqueue_op, msg);
    (void)loop;
    if (e->one != NULL)
        e->one(e->arg, (enum omid_result)e->result, e->job[0].id);
    else
        e->all(e->arg, (enum omid_result)e->result, e->repeated, e->repeated ? e->kept : e->value);
    op_free(e);
}

/* ---------------------------------------------------------------- writing */

/* 1: known, j->id is set; 0: new; -1: failed. */
static int name_known(struct queue *q, const struct enqueue_op *e, struct enqueue_job *j)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_NAME_GET);
    db_bind_str(st, 1, j->name);
    db_bind_str(st, 2, e->owner);
    int r = db_step(q->db, st);
    if (r <= 0)
        return r;
    bool live = sqlite3_column_type(st, 1) == SQLITE_NULL || sqlite3_column_int64(st, 1) > e->now;
    j->id = (uint64_t)sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return live;
}

static bool name_insert(struct queue *q, const struct enqueue_op *e, const struct enqueue_job *j)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_NAME_INSERT);
    db_bind_str(st, 1, j->name);
    db_bind_str(st, 2, e->owner);
    sqlite3_bind_int64(st, 3, (int64_t)j->id);
    return db_run(q->db, st);
}

/* The row of its target as the job wants it. */
static bool target_write(struct queue *q, const struct enqueue_job *j)
{
    const struct queue_target *t = j->target;
    sqlite3_stmt *st;
    if (t->on_disk && t->rate.per_min == j->rate_per_min)
        return true;
    if (t->on_disk) {
        st = db_stmt(q->db, QS_TARGET_RATE);
        sqlite3_bind_int64(st, 1, t->id);
        sqlite3_bind_int64(st, 2, j->rate_per_min);
        return db_run(q->db, st);
    }
    st = db_stmt(q->db, QS_TARGET_INSERT);
    sqlite3_bind_int64(st, 1, t->id);
    db_bind_str(st, 2, t->owner->name);
    db_bind_str(st, 3, t->name);
    sqlite3_bind_int64(st, 4, j->rate_per_min);
    return db_run(q->db, st);
}

static bool job_insert(struct queue *q, const struct enqueue_op *e, const struct enqueue_job *j)
{
    const bool large = j->payload_len > QUEUE_LARGE;
    sqlite3_stmt *st = db_stmt(q->db, QS_JOB_INSERT);
    sqlite3_bind_int64(st, 1, (int64_t)j->id);
    sqlite3_bind_int64(st, 2, j->target->id);
    sqlite3_bind_int64(st, 3, j->not_before);
    sqlite3_bind_int(st, 4, j->asked > e->now);
    sqlite3_bind_int64(st, 5, e->now);
    db_bind_str(st, 6, j->type);
    db_bind_str(st, 7, j->name[0] ? j->name : NULL);
    if (large)
        sqlite3_bind_int64(st, 8, (int64_t)j->payload_len);
    else
        sqlite3_bind_blob(st, 8, j->payload, (int)j->payload_len, SQLITE_STATIC);
    sqlite3_bind_int(st, 9, j->ordered ? QUEUE_STATE_ORDERED : 0);
    if (!db_run(q->db, st))
        return false;
    if (!large)
        return true;
    st = db_stmt(q->db, QS_LARGE_INSERT);
    sqlite3_bind_int64(st, 1, (int64_t)j->id);
    sqlite3_bind_blob(st, 2, j->payload, (int)j->payload_len, SQLITE_STATIC);
    return db_run(q->db, st);
}

/* The row of a job that was just written. */
static bool job_bury(struct queue *q, const struct enqueue_op *e, const struct enqueue_job *j)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_JOB_DEAD);
    sqlite3_bind_int64(st, 1, (int64_t)j->id);
    sqlite3_bind_int(st, 2, 0);
    sqlite3_bind_int64(st, 3, e->now);
    db_bind_str(st, 4, "not tried: its target holds its share of the queue (queue.max_share)");
    return db_run(q->db, st);
}

static bool id_take(struct queue *q, struct enqueue_op *e, struct enqueue_job *j)
{
    if (q->txn_next_id >= q->txn_reserved_id) {
        sqlite3_stmt *st = db_stmt(q->db, QS_META_SET);
        q->txn_reserved_id = q->txn_next_id + ID_BLOCK;
        db_bind_str(st, 1, "next_id");
        sqlite3_bind_int64(st, 2, q->txn_reserved_id);
        if (!db_run(q->db, st))
            return false;
    }
    j->id = (uint64_t)q->txn_next_id++;
    e->reserved = q->txn_reserved_id;
    return true;
}

/* 1: there is one, and it is read; 0; -1: failed. */
static int receipt_known(struct queue *q, struct enqueue_op *e)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_RECEIPT_GET);
    db_bind_str(st, 1, e->key);
    db_bind_str(st, 2, e->owner);
    int r = db_step(q->db, st);
    if (r <= 0)
        return r;
    bool live = sqlite3_column_int64(st, 1) > e->now;
    if (live && (e->kept = db_col_dup(st, 0)) == NULL) {
        db_set_error(q->db, "no memory");
        r = -1;
    }
    sqlite3_reset(st);
    return r < 0 ? r : live;
}

static bool receipt_insert(struct queue *q, const struct enqueue_op *e)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_RECEIPT_INSERT);
    db_bind_str(st, 1, e->key);
    db_bind_str(st, 2, e->owner);
    db_bind_str(st, 3, e->value);
    sqlite3_bind_int64(st, 4, e->now + q->c.name_keep_ms);
    return db_run(q->db, st);
}

/* Marks those whose name is known; how many are left to write, -1: failed. */
static int64_t names_look_up(struct queue *q, struct enqueue_op *e)
{
    int64_t n = 0;
    for (size_t i = 0; i < e->n; i++) {
        struct enqueue_job *j = &e->job[i];
        j->id = 0;
        j->not_before = j->asked > e->now ? j->asked : queue_row_now(q);
        int known = j->name[0] ? name_known(q, e, j) : 0;
        if (known < 0)
            return -1;
        j->duplicate = known > 0;
        j->over = j->dropped = false;
        n += !j->duplicate;
    }
    return n;
}

/* Those whose target holds its share are marked as over; how many are not, of how many *bytes; -1: failed. *keep: those
 * that are over are not to be refused. */
static int64_t shares_take(struct queue *q, struct enqueue_op *e, uint64_t *bytes, bool *keep)
{
    int64_t n = 0;
    *bytes = 0;
    *keep = false;
    for (size_t i = 0; i < e->n; i++) {
        struct enqueue_job *j = &e->job[i];
        if (j->duplicate)
            continue;
        if (j->target == NULL) {
            j->target = queue_target_get(q, e->owner, j->target_name);
            if (j->target == NULL)
                return -1;
            j->target->pins++;
        }
        j->over = !queue_share_take(q, j->target, j->payload_len, (uint64_t)n, *bytes);
        n += !j->over;
        *bytes += j->over ? 0 : j->payload_len;
        *keep = *keep || !j->over || j->dead_if_full;
    }
    return n;
}

/* Refused after all. */
static void shares_give_back(struct enqueue_op *e)
{
    for (size_t i = 0; i < e->n; i++) {
        if (!e->job[i].duplicate && !e->job[i].over)
            queue_share_give_back(e->job[i].target, e->job[i].payload_len);
    }
}

static bool job_write(struct queue *q, struct enqueue_op *e, struct enqueue_job *j)
{
    /* One of the same call may have taken the name meanwhile. */
    int known = e->n > 1 && j->name[0] ? name_known(q, e, j) : 0;
    if (known != 0) {
        j->duplicate = true;
        return known > 0;
    }
    j->dropped = j->over && !queue_share_dead_room(q);
    if (j->dropped)
        return true;
    if (!target_write(q, j) || !id_take(q, e, j) || (j->name[0] && !name_insert(q, e, j)) || !job_insert(q, e, j))
        return false;
    if (j->over) {
        q->txn_dead++;
        q->txn_dead_bytes += j->payload_len;
        return job_bury(q, e, j);
    }
    q->txn_jobs++;
    q->txn_bytes += j->payload_len;
    return true;
}

/* OMID_OK: there is room for what is not over. */
static int room_find(struct queue *q, struct enqueue_op *e)
{
    bool keep;
    uint64_t bytes = 0;
    int64_t n = names_look_up(q, e);
    if (n == 0)
        return OMID_OK;
    n = n < 0 ? -1 : shares_take(q, e, &bytes, &keep);
    if (n < 0)
        return OMID_ERR;
    e->over = !keep;
    bool of_jobs;
    if (keep && (n == 0 || queue_room(q, (uint64_t)n, bytes, &of_jobs)))
        return OMID_OK;
    if (keep)
        atomic_store(&q->bytes_refused, of_jobs);
    shares_give_back(e);
    return OMID_EFULL;
}

static int enqueue_run(void *ctx, struct db_op *op)
{
    struct queue *q = ctx;
    struct enqueue_op *e = container_of(op, struct enqueue_op, op);
    e->now = queue_wall(q);
    free(e->kept);
    e->kept = NULL;
    int known = e->key[0] ? receipt_known(q, e) : 0;
    e->repeated = known > 0;
    if (known != 0)
        return known < 0 ? OMID_ERR : OMID_OK;
    e->over = false;
    int room = room_find(q, e);
    if (room != OMID_OK)
        return room;
    for (size_t i = 0; i < e->n; i++) {
        if (!e->job[i].duplicate && !job_write(q, e, &e->job[i]))
            return OMID_ERR;
    }
    return e->key[0] == '\0' || receipt_insert(q, e) ? OMID_OK : OMID_ERR;
}

/* ---------------------------------------------------------------- after the commit */

static void job_written(struct queue *q, struct enqueue_op *e, struct enqueue_job *j)
{
    struct queue_target *t = j->target;
    if (j->over)
        queue_share_over(q, t, j->dropped ? OVER_DROPPED : OVER_DEAD);
    if (j->dropped) {
        j->id = 0;
        return;
    }
    t->on_disk = true;
    if (t->rate.per_min != j->rate_per_min)
        queue_rate_set(&t->rate, j->rate_per_min, 1, queue_mono(q));
    q->next_id = (int64_t)j->id + 1;
    q->reserved_id = e->reserved;
    if (j->over) {
        atomic_fetch_add(&q->dead, 1);
        atomic_fetch_add(&q->dead_bytes, j->payload_len);
        return;
    }
    queue_target_ready(t, j->ordered, j->not_before);
    atomic_fetch_add(&q->waiting, 1);
    atomic_fetch_add(&q->bytes, j->payload_len);
    t->bytes += j->payload_len;
    atomic_fetch_add(&q->enqueued, 1);
    if (j->asked > e->now)
        atomic_fetch_add(&q->delayed, 1);
}

static void enqueue_done(void *ctx, struct db_op *op, int result)
{
    struct queue *q = ctx;
    struct enqueue_op *e = container_of(op, struct enqueue_op, op);
    e->result = result;
    if (result == OMID_OK) {
        q->retry_at = 0; /* the disk takes writes */
        q->upkeep_due = true;
        if (e->repeated)
            atomic_fetch_add(&q->repeated, 1);
        else if (e->key[0])
            atomic_fetch_add(&q->receipts, 1);
    } else {
        atomic_fetch_add(result == OMID_EFULL ? &q->refused : &q->failed, e->n > 0 ? e->n : 1);
        atomic_store(&q->share_refused, result == OMID_EFULL && e->over);
        if (!e->over || e->all == NULL)
            queue_fence_note(q, e->thread);
    }
    for (size_t i = 0; i < e->n; i++) {
        struct enqueue_job *j = &e->job[i];
        if (result != OMID_OK) {
            j->id = 0;
            if (result == OMID_EFULL && j->over)
                queue_share_over(q, j->target, OVER_REFUSED);
        } else if (j->duplicate && !e->repeated)
            atomic_fetch_add(&q->duplicates, 1);
        else if (!e->repeated)
            job_written(q, e, j);
        if (j->target != NULL) {
            j->target->pins--;
            queue_target_update(q, j->target);
        }
    }
    if (e->loop != NULL)
        loop_post(e->loop, &e->msg);
    else
        op_free(e);
}

/* ---------------------------------------------------------------- doors */

static bool fits(const char *s, size_t most)
{
    return s == NULL || strnlen(s, most + 1) <= most;
}

static size_t len_of(const char *s)
{
    return (s ? strlen(s) : 0) + 1;
}

static const char *put(char **at, const char *s)
{
    char *to = *at;
    *at = stpcpy(to, s ? s : "") + 1;
    return to;
}

static bool usable(const struct omid_job *job)
{
    return job->type != NULL && fits(job->type, QUEUE_MAX_STRING) && fits(job->name, QUEUE_MAX_STRING) &&
           fits(job->target, QUEUE_MAX_STRING) && job->payload_len <= QUEUE_MAX_PAYLOAD &&
           (job->payload != NULL || job->payload_len == 0);
}

/* An event for many endpoints is the same payload many times: one copy will do. */
static bool same_payload(const struct omid_job *jobs, size_t i)
{
    return i > 0 && jobs[i].payload == jobs[i - 1].payload && jobs[i].payload_len == jobs[i - 1].payload_len;
}

static void job_copy(struct enqueue_op *e, const struct omid_job *jobs, size_t i, char **at)
{
    const struct omid_job *job = &jobs[i];
    struct enqueue_job *j = &e->job[i];
    j->type = put(at, job->type);
    j->name = put(at, job->name);
    j->target_name = put(at, job->target);
    j->payload_len = job->payload_len;
    j->asked = job->not_before_ms;
    j->ordered = job->ordered;
    j->dead_if_full = job->dead_if_full;
    j->rate_per_min = job->rate_per_min;
    if (same_payload(jobs, i)) {
        j->payload = e->job[i - 1].payload;
        return;
    }
    j->payload = *at;
    if (job->payload_len > 0)
        memcpy(*at, job->payload, job->payload_len);
    *at += job->payload_len;
}

static int enqueue_post(struct queue *q, const char *owner, const struct omid_job *jobs, size_t n,
                        const struct omid_receipt *receipt, const struct enqueue_op *to)
{
    CHECK_MAGIC(q, QUEUE_MAGIC);
    if (owner == NULL || owner[0] == '\0' || strchr(owner, '\n') != NULL || !fits(owner, QUEUE_MAX_STRING))
        return OMID_EINVAL;
    size_t bytes = sizeof(*to) + n * sizeof(to->job[0]) + len_of(owner) + 2;
    for (size_t i = 0; i < n; i++) {
        if (!usable(&jobs[i]))
            return OMID_EINVAL;
        bytes += len_of(jobs[i].type) + len_of(jobs[i].name) + len_of(jobs[i].target) +
                 (same_payload(jobs, i) ? 0 : jobs[i].payload_len);
    }
    if (receipt != NULL)
        bytes += len_of(receipt->key) + len_of(receipt->value);
    struct enqueue_op *e = calloc(1, bytes);
    if (e == NULL) {
        queue_fence_note(q, queue_thread_serial());
        return OMID_ERR;
    }
    *e = *to;
    e->n = n;
    char *at = (char *)&e->job[n];
    e->owner = put(&at, owner);
    e->key = put(&at, receipt != NULL ? receipt->key : "");
    e->value = put(&at, receipt != NULL ? receipt->value : "");
    for (size_t i = 0; i < n; i++)
        job_copy(e, jobs, i, &at);
    e->thread = queue_thread_serial();
    e->msg.fn = enqueue_answer;
    e->op.run = enqueue_run;
    e->op.done = enqueue_done;
    e->op.bytes = bytes;
    int r = db_writer_post(q->writer, &e->op);
    if (r != OMID_OK) {
        atomic_fetch_add(&q->refused, n > 0 ? n : 1);
        queue_fence_note(q, e->thread);
        op_free(e);
    }
    return r;
}

int queue_enqueue(struct queue *q, const char *owner, const struct omid_job *job, struct loop *loop,
                  omid_enqueued_cb cb, void *arg)
{
    const struct enqueue_op to = {.loop = cb != NULL ? loop : NULL, .one = cb, .arg = arg};
    return enqueue_post(q, owner, job, 1, NULL, &to);
}

int queue_enqueue_all(struct queue *q, const char *owner, const struct omid_job *jobs, size_t n,
                      const struct omid_receipt *receipt, struct loop *loop, omid_jobs_enqueued_cb cb, void *arg)
{
    if (n > QUEUE_MAX_BATCH || (n == 0 && receipt == NULL) || (n > 0 && jobs == NULL))
        return OMID_EINVAL;
    if (receipt != NULL && (receipt->key == NULL || receipt->key[0] == '\0' || !fits(receipt->key, QUEUE_MAX_KEY) ||
                            !fits(receipt->value, QUEUE_MAX_VALUE)))
        return OMID_EINVAL;
    const struct enqueue_op to = {.loop = cb != NULL ? loop : NULL, .all = cb, .arg = arg};
    return enqueue_post(q, owner, jobs, n, receipt, &to);
}
