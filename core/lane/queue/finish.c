/* How attempts end: outcomes, the retry schedule, leases that run out. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lane/queue/queue_int.h"

unsigned queue_failures(unsigned attempt, unsigned lost)
{
    return attempt - (lost < QUEUE_LOST_GRACE ? lost : QUEUE_LOST_GRACE);
}

int64_t queue_retry_delay(const struct queue_config *c, unsigned failures, uint32_t retry_after_s, double random)
{
    if (failures > c->n_retry)
        return -1;
    double slot = failures > 0 ? c->retry_ms[failures - 1] : 0, asked = (double)retry_after_s * 1000;
    if (asked <= slot) {
        double spread = slot * (1 + c->jitter * (2 * random - 1));
        return (int64_t)((spread > asked ? spread : asked) + 0.5);
    }
    /* Spread those that were told the same, without passing either bound. */
    double most = 2 * slot, delay = asked < most ? asked + c->jitter * random * slot : most - c->jitter * random * slot;
    return (int64_t)((delay < most ? delay : most) + 0.5);
}

/* ---------------------------------------------------------------- writing it */

static bool lease_delete(struct queue *q, const struct queue_claim *c)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_LEASE_DELETE);
    sqlite3_bind_int64(st, 1, (int64_t)c->view.id);
    return db_run(q->db, st);
}

bool queue_name_keep(struct queue *q, const char *name, const char *owner)
{
    sqlite3_stmt *st = db_stmt(q->db, q->c.name_keep_ms > 0 ? QS_NAME_KEEP : QS_NAME_DROP);
    db_bind_str(st, 1, name);
    db_bind_str(st, 2, owner);
    if (q->c.name_keep_ms > 0)
        sqlite3_bind_int64(st, 3, queue_wall(q) + q->c.name_keep_ms);
    return db_run(q->db, st);
}

bool queue_job_delete(struct queue *q, int64_t id, bool large)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_JOB_DELETE);
    sqlite3_bind_int64(st, 1, id);
    if (!db_run(q->db, st))
        return false;
    if (!large)
        return true;
    st = db_stmt(q->db, QS_LARGE_DELETE);
    sqlite3_bind_int64(st, 1, id);
    return db_run(q->db, st);
}

static bool job_done(struct queue *q, const struct queue_claim *c)
{
    if (!queue_job_delete(q, (int64_t)c->view.id, c->view.payload_len > QUEUE_LARGE))
        return false;
    return c->view.name[0] == '\0' || queue_name_keep(q, c->view.name, c->target->owner->name);
}

/* Of an attempt that ran out of its lease, the handler may be writing c->error at this moment: not ours to read. */
static const char *end_error(const struct queue_claim *c)
{
    if (atomic_load(&c->state) == CLAIM_EXPIRED)
        return "the lease ran out before the attempt was finished";
    return c->error[0] ? c->error : NULL;
}

static bool job_retry(struct queue *q, const struct queue_claim *c, unsigned lost)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_JOB_RETRY);
    sqlite3_bind_int64(st, 1, (int64_t)c->view.id);
    sqlite3_bind_int(st, 2, (int)c->view.attempt);
    sqlite3_bind_int(st, 3, (int)lost);
    sqlite3_bind_int64(st, 4, c->next);
    db_bind_str(st, 5, end_error(c));
    return db_run(q->db, st);
}

static bool job_dead(struct queue *q, const struct queue_claim *c)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_JOB_DEAD);
    sqlite3_bind_int64(st, 1, (int64_t)c->view.id);
    sqlite3_bind_int(st, 2, (int)c->view.attempt);
    sqlite3_bind_int64(st, 3, queue_wall(q));
    db_bind_str(st, 4, end_error(c));
    return db_run(q->db, st);
}

/* The schedule, or the end of it. */
static bool job_failed(struct queue *q, struct queue_claim *c)
{
    int64_t delay = queue_retry_delay(&q->c, queue_failures(c->view.attempt, c->lost), c->retry_after_s, q->c.random());
    c->dead = delay < 0;
    c->next = queue_row_now(q) + delay;
    return c->dead ? job_dead(q, c) : job_retry(q, c, c->lost);
}

/* Nobody saw how it ended: again at once, as long as attempts are left. */
static bool job_expired(struct queue *q, struct queue_claim *c)
{
    c->dead = queue_failures(c->view.attempt, c->lost + 1) > q->c.n_retry;
    c->next = queue_row_now(q);
    return c->dead ? job_dead(q, c) : job_retry(q, c, c->lost + 1);
}

/* For the log of attempts. false: it was none. */
static bool was_attempt(const struct queue_claim *c, enum queue_ended *ended)
{
    bool expired = atomic_load(&c->state) == CLAIM_EXPIRED;
    if (!expired && (c->released || c->outcome == OMID_JOB_WAIT))
        return false;
    *ended = c->dead                       ? QUEUE_ENDED_DEAD
             : expired                     ? QUEUE_ENDED_EXPIRED
             : c->outcome == OMID_JOB_DONE ? QUEUE_ENDED_DONE
                                           : QUEUE_ENDED_RETRY;
    return true;
}

static int finish_run(void *ctx, struct db_op *op)
{
    struct queue *q = ctx;
    struct queue_claim *c = container_of(op, struct queue_claim, op);
    bool ok;
    c->dead = false;
    c->next = c->not_before;
    if (atomic_load(&c->state) == CLAIM_EXPIRED) {
        ok = job_expired(q, c);
    } else if (c->released || c->outcome == OMID_JOB_WAIT) {
        ok = true; /* its row still says what it said before */
    } else if (c->outcome == OMID_JOB_DONE) {
        ok = job_done(q, c);
    } else if (c->outcome == OMID_JOB_RETRY) {
        ok = job_failed(q, c);
    } else {
        c->dead = true;
        ok = job_dead(q, c);
    }
    enum queue_ended ended;
    if (ok && was_attempt(c, &ended))
        ok = queue_attempt_write(q, c, ended, end_error(c));
    return ok && lease_delete(q, c) ? OMID_OK : OMID_ERR;
}

/* ---------------------------------------------------------------- after the commit */

/* What the attempt says about how fast its target may be asked. */
static void learn_rate(struct queue *q, struct queue_target *t, const struct queue_claim *c)
{
    int status = c->attempt != NULL ? c->attempt->status : 0;
    int64_t now = queue_mono(q);
    if (c->released || c->outcome == OMID_JOB_WAIT)
        queue_rate_give_back(&t->rate);
    else if (status == 429 || (status == 503 && c->retry_after_s > 0))
        queue_rate_too_many(&t->rate, c->retry_after_s, now);
    else
        queue_rate_answered(&t->rate, now);
}

static void hold_target(struct queue *q, struct queue_target *t, uint32_t retry_after_s)
{
    int64_t wait = (int64_t)retry_after_s * 1000;
    if (wait < QUEUE_MIN_WAIT_MS)
        wait = QUEUE_MIN_WAIT_MS;
    wait += (int64_t)(q->c.jitter * q->c.random() * (double)wait);
    if (t->hold_until < queue_mono(q) + wait)
        t->hold_until = queue_mono(q) + wait;
}

static void count_end(struct queue *q, const struct queue_claim *c)
{
    if (atomic_load(&c->state) == CLAIM_EXPIRED)
        atomic_fetch_add(&q->expired, 1);
    else if (c->released)
        atomic_fetch_add(&q->released, 1);
    else
        atomic_fetch_add(&q->outcome[c->dead ? OMID_JOB_DEAD : c->outcome], 1);
}

/* It is done, or a dead letter: none of its target's jobs any more. */
static void leave_target(struct queue *q, struct queue_target *t, const struct queue_claim *c)
{
    atomic_fetch_sub(&q->bytes, c->view.payload_len);
    t->bytes -= c->view.payload_len;
    if (c->dead) {
        atomic_fetch_add(&q->dead_bytes, c->view.payload_len);
        atomic_fetch_add(&q->dead, 1);
        log_warning("queue", "job dead", LS("type", c->view.type), LU("id", c->view.id),
                    LI("attempts", c->view.attempt), LS("error", end_error(c)));
    } else if (c->view.name[0] != '\0' && q->c.name_keep_ms > 0) {
        atomic_fetch_add(&q->names, 1);
    }
}

/* It waits for its next attempt. same: the one that it had counts for none. */
static void wait_again(struct queue *q, struct queue_target *t, struct queue_claim *c, bool same)
{
    if (c->ordered)
        t->head_due = QUEUE_NEVER; /* it is the first again */
    if (same)                      /* it was due, whatever the clock has been set to since */
        c->next = queue_min(c->next, queue_wall(q));
    queue_target_ready(t, c->ordered, c->next);
    atomic_fetch_add(&q->waiting, 1);
    if (c->delayed || !same)
        atomic_fetch_add(&q->delayed, 1);
    if (same && !c->released)
        hold_target(q, t, c->retry_after_s);
}

static void finish_done(void *ctx, struct db_op *op, int result)
{
    struct queue *q = ctx;
    struct queue_claim *c = container_of(op, struct queue_claim, op);
    struct queue_target *t = c->target;
    if (result != OMID_OK) {
        /* Its slot stays taken until the disk knows: what can't be written off must not be given out again. */
        op->next = q->returns;
        q->returns = op;
        q->retry_at = queue_mono(q) + QUEUE_DISK_RETRY_MS;
        return;
    }
    bool expired = atomic_load(&c->state) == CLAIM_EXPIRED;
    bool gone = !expired && !c->released && c->outcome == OMID_JOB_DONE;
    q->upkeep_due = true;
    list_remove(&c->of_target);
    list_remove(&c->of_lease);
    t->leased--;
    if (!expired)
        learn_rate(q, t, c);
    if (c->ordered) {
        t->ordered_out = false;
        t->head_due = queue_wall(q); /* of the next one, as far as is known */
    }
    if (gone || c->dead)
        leave_target(q, t, c);
    else
        wait_again(q, t, c, c->released || (!expired && c->outcome == OMID_JOB_WAIT));
    if (gone)
        t->hold_until = 0; /* it answers */
    queue_target_update(q, t);
    c->target = NULL;
    atomic_fetch_sub(&q->leased, 1); /* after it waits, or is gone: a job is never in no count */
    count_end(q, c);                 /* last: who reads that a job has ended reads what its end has changed, too */
    if (!expired) {
        atomic_fetch_sub(&q->finishes, 1);
        queue_claim_unref(c); /* the handler's, handed over by its finish */
    }
    queue_claim_unref(c);
}

void queue_finish_init(struct queue_claim *c)
{
    c->op.run = finish_run;
    c->op.done = finish_done;
}

/* ---------------------------------------------------------------- doors */

void queue_finish(struct queue_claim **cp, enum omid_job_outcome outcome, uint32_t retry_after_s, const char *error)
{
    struct queue_claim *c = *cp;
    CHECK_MAGIC(c, CLAIM_MAGIC);
    struct queue *q = c->q;
    unsigned was = CLAIM_OUT;
    *cp = NULL;
    omid_assert(outcome >= OMID_JOB_DONE && outcome <= OMID_JOB_DEAD);
    if (atomic_load(&c->state) == CLAIM_OUT) {
        c->outcome = outcome;
        c->retry_after_s = retry_after_s;
        snprintf(c->error, sizeof(c->error), "%s", error ? error : "");
    }
    if (!atomic_compare_exchange_strong(&c->state, &was, CLAIM_FINISHED)) {
        atomic_fetch_add(&q->late, 1);
        queue_claim_unref(c);
        return;
    }
    /* A group's worth, or all that is out: no use in waiting for more. (Counted before: c is gone afterwards.) */
    unsigned n = atomic_fetch_add(&q->finishes, 1) + 1;
    bool kick = n % 64 == 0 || n >= atomic_load(&q->leased);
    atomic_fetch_add(&q->refs, 1);
    if (!db_writer_post_always(q->writer, &c->op)) {
        atomic_fetch_add(&q->late, 1);
        queue_claim_unref(c);
    } else if (kick) {
        db_writer_kick(q->writer);
    }
    queue_unref(q);
}

void queue_attempt(struct queue_claim *c, const struct omid_attempt *a)
{
    CHECK_MAGIC(c, CLAIM_MAGIC);
    if (atomic_load(&c->state) != CLAIM_OUT)
        return; /* whoever ended it does not look at this any more */
    struct queue_attempt *to = c->attempt != NULL ? c->attempt : malloc(sizeof(*to));
    if (to == NULL)
        return;
    to->status = a->status;
    to->elapsed_ms = a->elapsed_ms;
    snprintf(to->endpoint, sizeof(to->endpoint), "%s", a->endpoint != NULL ? a->endpoint : "");
    to->answer_len = a->answer == NULL ? 0 : a->answer_len < QUEUE_MAX_ANSWER ? a->answer_len : QUEUE_MAX_ANSWER;
    if (to->answer_len > 0)
        memcpy(to->answer, a->answer, to->answer_len);
    c->attempt = to;
}

const char *queue_claim_owner(const struct queue_claim *c)
{
    CHECK_MAGIC(c, CLAIM_MAGIC);
    return c->owner;
}

const struct omid_job_view *queue_claim_view(const struct queue_claim *c)
{
    CHECK_MAGIC(c, CLAIM_MAGIC);
    return &c->view;
}

void queue_claim_return(struct queue *q, struct queue_claim *c)
{
    c->released = true;
    atomic_store(&c->state, CLAIM_FINISHED);
    atomic_fetch_add(&q->finishes, 1);
    c->op.next = q->returns;
    q->returns = &c->op;
}

struct db_op *queue_leases_expire(struct queue *q)
{
    struct db_op *ops = NULL;
    int64_t now = queue_mono(q);
    list_each (it, &q->leases) {
        struct queue_claim *c = list_entry(it, struct queue_claim, of_lease);
        unsigned was = CLAIM_OUT;
        if (c->lease_until > now)
            break;
        list_remove(&c->of_lease);
        if (!atomic_compare_exchange_strong(&c->state, &was, CLAIM_EXPIRED))
            continue; /* finished: on its way */
        log_warning("queue", "lease ran out", LS("plugin", c->owner), LS("type", c->view.type), LU("id", c->view.id),
                    LI("attempt", c->view.attempt));
        c->op.next = ops;
        ops = &c->op;
    }
    return ops;
}

void queue_claims_detach(struct queue *q)
{
    struct db_op *op;
    while ((op = q->returns) != NULL) {
        q->returns = op->next;
        struct queue_claim *c = container_of(op, struct queue_claim, op);
        if (atomic_load(&c->state) == CLAIM_FINISHED)
            queue_claim_unref(c); /* never null: the writer's is still held */
    }
    size_t pos = 0;
    const char *key;
    void *value;
    while (map_next(q->targets, &pos, &key, &value)) {
        struct queue_target *t = value;
        struct list *it;
        while ((it = list_pop(&t->claims)) != NULL) {
            struct queue_claim *c = list_entry(it, struct queue_claim, of_target);
            unsigned was = CLAIM_OUT;
            list_remove(&c->of_lease);
            c->target = NULL;
            atomic_compare_exchange_strong(&c->state, &was, CLAIM_EXPIRED);
            queue_claim_unref(c);
        }
    }
}
