/* Claiming: leases for due jobs, in batches, fairly over targets; and handing them out after the commit. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lane/queue/queue_int.h"

struct pick {
    struct queue_target *t;
    unsigned quota;
    struct list claims; /* of_lease, until they are handed out */
    unsigned n;
    bool tried;       /* looked at: else there was no room for what it has */
    int64_t next_due; /* of what is left; QUEUE_NEVER */
    bool ready_read;  /* next_due is known */
    bool ordered;     /* one of the claims is */
    bool head_read;
    int64_t head_due; /* of the ordered one that is not due yet */
};

struct claim_op {
    struct db_op op;
    struct queue *q;
    size_t n_picks;
    struct pick picks[];
};

static unsigned room(const struct queue *q)
{
    uint64_t leased = atomic_load(&q->leased);
    if (atomic_load(&q->out_bytes) >= QUEUE_MAX_OUT)
        return 0;
    return leased < q->c.in_flight ? (unsigned)(q->c.in_flight - leased) : 0;
}

bool queue_claims_possible(const struct queue *q)
{
    return atomic_load(&q->claiming) && q->n_ring > 0 && !q->claims_under_way && room(q) > 0;
}

/* ---------------------------------------------------------------- one claim */

void queue_claim_unref(struct queue_claim *c)
{
    CHECK_MAGIC(c, CLAIM_MAGIC);
    if (atomic_fetch_sub(&c->refs, 1) > 1)
        return;
    struct queue *q = c->q;
    omid_assert(list_empty(&c->of_target) && list_empty(&c->of_lease));
    c->magic = OMID_MAGIC_DEAD;
    atomic_fetch_sub(&q->out_bytes, c->view.payload_len);
    free(c->text);
    free(c->payload);
    free(c->attempt);
    free(c);
    queue_unref(q);
}

static char *put_text(char **at, const char *s)
{
    char *to = *at;
    *at = stpcpy(to, s ? s : "") + 1;
    return to;
}

/* From the row that QS_JOB_GET stands on, and the one with its payload, which may be the same. */
static struct queue_claim *claim_new(struct queue *q, struct queue_target *t, int64_t id, sqlite3_stmt *st,
                                     sqlite3_stmt *with_payload, int col)
{
    const char *type = db_col_str(st, 4), *name = db_col_str(st, 5);
    const void *payload = sqlite3_column_blob(with_payload, col);
    size_t len = (size_t)sqlite3_column_bytes(with_payload, col);
    struct queue_claim *c = calloc(1, sizeof(*c));
    size_t text_len =
        (type ? strlen(type) : 0) + (name ? strlen(name) : 0) + strlen(t->name) + strlen(t->owner->name) + 4;
    if (c == NULL || (c->text = malloc(text_len)) == NULL || (c->payload = malloc(len + 1)) == NULL) {
        if (c != NULL)
            free(c->text);
        free(c);
        return NULL;
    }
    char *at = c->text;
    c->magic = CLAIM_MAGIC;
    atomic_init(&c->refs, 2);
    atomic_init(&c->state, CLAIM_OUT);
    c->q = q;
    atomic_fetch_add(&q->refs, 1);
    c->target = t;
    list_init(&c->of_target);
    list_init(&c->of_lease);
    if (len > 0)
        memcpy(c->payload, payload, len);
    ((char *)c->payload)[len] = '\0';
    c->lost = (unsigned)sqlite3_column_int(st, 1);
    c->view = (struct omid_job_view){
        .size = sizeof(c->view),
        .id = (uint64_t)id,
        .type = put_text(&at, type),
        .name = put_text(&at, name),
        .target = put_text(&at, t->name),
        .payload = c->payload,
        .payload_len = len,
        .attempt = (unsigned)sqlite3_column_int(st, 0) + 1,
        .created_ms = sqlite3_column_int64(st, 2),
    };
    c->owner = put_text(&at, t->owner->name);
    atomic_fetch_add(&q->out_bytes, len);
    c->delayed = c->view.attempt > 1 || sqlite3_column_int(st, 3) != 0;
    queue_finish_init(c);
    return c;
}

static void claim_discard(struct queue_claim *c)
{
    atomic_store(&c->refs, 1);
    queue_claim_unref(c);
}

static void picks_discard(struct claim_op *co)
{
    for (size_t i = 0; i < co->n_picks; i++) {
        struct list *it;
        while ((it = list_pop(&co->picks[i].claims)) != NULL)
            claim_discard(list_entry(it, struct queue_claim, of_lease));
        co->picks[i].n = 0;
        co->picks[i].tried = false;
        co->picks[i].ordered = co->picks[i].ready_read = co->picks[i].head_read = false;
    }
}

/* ---------------------------------------------------------------- reading */

static bool is_leased(const struct queue_target *t, int64_t id)
{
    list_each (it, &t->claims) {
        if (list_entry(it, const struct queue_claim, of_target)->view.id == (uint64_t)id)
            return true;
    }
    return false;
}

/* 1: read, *out may be NULL without memory; 0: there is none; -1: failed. */
static int claim_read(struct queue *q, struct queue_target *t, int64_t id, struct queue_claim **out)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_JOB_GET), *large = NULL;
    sqlite3_bind_int64(st, 1, id);
    int r = db_step(q->db, st);
    if (r > 0 && sqlite3_column_type(st, 6) == SQLITE_INTEGER) {
        large = db_stmt(q->db, QS_LARGE_GET);
        sqlite3_bind_int64(large, 1, id);
        r = db_step(q->db, large);
    }
    if (r > 0)
        *out = claim_new(q, t, id, st, large != NULL ? large : st, large != NULL ? 0 : 6);
    if (large != NULL)
        sqlite3_reset(large);
    sqlite3_reset(st);
    return r;
}

static int lease_one(struct queue *q, struct pick *p, int64_t id, int64_t not_before, bool ordered)
{
    struct queue_claim *c = NULL;
    int r = claim_read(q, p->t, id, &c);
    if (c == NULL) {
        if (r >= 0)
            db_set_error(q->db,
                         r ? "no memory"
                           : "an index entry without its job, or a job without its payload: the file is corrupt");
        return OMID_ERR;
    }
    c->not_before = not_before;
    c->ordered = ordered;
    c->generation = ++q->generation;
    list_append(&p->claims, &c->of_lease);
    p->n++;
    sqlite3_stmt *st = db_stmt(q->db, QS_LEASE_INSERT);
    sqlite3_bind_int64(st, 1, id);
    sqlite3_bind_int64(st, 2, (int64_t)c->generation);
    sqlite3_bind_int64(st, 3, queue_wall(q) + q->c.lease_ms);
    return db_run(q->db, st) ? OMID_OK : OMID_ERR;
}

/* Reads at most so many due jobs behind those leased, and when the next one is due. */
static int pick_ready(struct queue *q, struct pick *p, unsigned quota, int64_t now)
{
    int64_t ids[QUEUE_CLAIM_BATCH], due[QUEUE_CLAIM_BATCH];
    unsigned n = 0;
    int r;
    sqlite3_stmt *st = db_stmt(q->db, QS_JOB_DUE);
    p->ready_read = true;
    p->next_due = QUEUE_NEVER;
    sqlite3_bind_int64(st, 1, p->t->id);
    sqlite3_bind_int64(st, 2, (int64_t)quota + p->t->leased + 1);
    while ((r = db_step(q->db, st)) > 0) {
        int64_t id = sqlite3_column_int64(st, 0), not_before = sqlite3_column_int64(st, 1);
        if (is_leased(p->t, id))
            continue;
        if (n == quota || not_before > now) {
            p->next_due = not_before;
            break;
        }
        ids[n] = id;
        due[n++] = not_before;
    }
    if (r < 0)
        return OMID_ERR;
    sqlite3_reset(st);
    for (unsigned i = 0; i < n; i++) {
        if ((i > 0 || p->n > 0) &&
            atomic_load(&q->out_bytes) >= QUEUE_MAX_OUT) { /* the rest when there is room again */
            p->next_due = due[i];
            break;
        }
        if (lease_one(q, p, ids[i], due[i], false) != OMID_OK)
            return OMID_ERR;
    }
    return OMID_OK;
}

/* The first of the ordered, if it is due: what is behind it is not looked at. */
static int pick_ordered(struct queue *q, struct pick *p, int64_t now)
{
    sqlite3_stmt *st = db_stmt(q->db, QS_JOB_HEAD);
    sqlite3_bind_int64(st, 1, p->t->id);
    int r = db_step(q->db, st);
    if (r <= 0) {
        if (r == 0)
            db_set_error(q->db, "an ordered job is missing: the file is corrupt");
        return OMID_ERR;
    }
    int64_t id = sqlite3_column_int64(st, 0), not_before = sqlite3_column_int64(st, 1);
    sqlite3_reset(st);
    p->head_read = true;
    p->head_due = not_before;
    if (not_before > now)
        return OMID_OK;
    p->ordered = true;
    return lease_one(q, p, id, not_before, true);
}

static int pick_run(struct queue *q, struct pick *p, int64_t now)
{
    const struct queue_target *t = p->t;
    bool ordered = t->ordered > 0 && !t->ordered_out;
    p->tried = true;
    if (p->quota == 0)
        return OMID_OK;
    /* With room for one only, the one that has been due for longer. */
    if (ordered && p->quota == 1 && t->ready > 0 && t->next_due < t->head_due) {
        if (pick_ready(q, p, 1, now) != OMID_OK)
            return OMID_ERR;
        return p->n == 0 ? pick_ordered(q, p, now) : OMID_OK;
    }
    if (ordered && pick_ordered(q, p, now) != OMID_OK)
        return OMID_ERR;
    return t->ready > 0 && p->quota > p->n ? pick_ready(q, p, p->quota - p->n, now) : OMID_OK;
}

static int claims_run(void *ctx, struct db_op *op)
{
    struct queue *q = ctx;
    struct claim_op *co = container_of(op, struct claim_op, op);
    int64_t now = queue_wall(q);
    picks_discard(co);
    for (size_t i = 0; i < co->n_picks; i++) {
        if (i > 0 && atomic_load(&q->out_bytes) >= QUEUE_MAX_OUT)
            break; /* the others are in the ring yet */
        if (pick_run(q, &co->picks[i], now) != OMID_OK) {
            picks_discard(co);
            return OMID_ERR;
        }
    }
    return OMID_OK;
}

/* ---------------------------------------------------------------- handing out */

static void hand_out(struct queue *q, struct queue_claim *c)
{
    struct queue_owner *o = c->target->owner;
    bool parked = o->parked_until != 0 && o->probe == NULL;
    /* Before the dispatch: it may be finished within it. */
    if (!parked && atomic_load(&q->claiming) && q->dispatch(q->dispatch_arg, c)) {
        queue_owner_unpark(q, o);
        return;
    }
    if (atomic_load(&q->claiming) && !parked)
        queue_owner_park(q, o);
    queue_claim_return(q, c);
}

static void take_into_books(struct queue *q, struct pick *p)
{
    struct queue_target *t = p->t;
    int64_t until = queue_mono(q) + q->c.lease_ms;
    list_each (it, &p->claims) {
        struct queue_claim *c = list_entry(it, struct queue_claim, of_lease);
        c->lease_until = until;
        list_append(&t->claims, &c->of_target);
        t->leased++;
        uint64_t *of = c->ordered ? &t->ordered : &t->ready;
        omid_assert(*of > 0);
        --*of;
        atomic_fetch_add(&q->leased, 1); /* first: a job is never in no count */
        if (c->delayed)
            atomic_fetch_sub(&q->delayed, 1);
        atomic_fetch_sub(&q->waiting, 1);
    }
    if (p->ready_read)
        t->next_due = p->next_due;
    if (p->head_read)
        t->head_due = p->head_due;
    t->ordered_out = t->ordered_out || p->ordered;
    queue_rate_take(&t->rate, p->n, queue_mono(q));
}

static void claims_done(void *ctx, struct db_op *op, int result)
{
    struct queue *q = ctx;
    struct claim_op *co = container_of(op, struct claim_op, op);
    struct list *it;
    q->claims_under_way = false;
    if (result != OMID_OK) {
        picks_discard(co);
        q->retry_at = queue_mono(q) + QUEUE_DISK_RETRY_MS;
    }
    for (size_t i = 0; i < co->n_picks; i++) {
        if (result == OMID_OK)
            take_into_books(q, &co->picks[i]);
    }
    for (size_t i = 0; i < co->n_picks; i++) {
        struct pick *p = &co->picks[i];
        struct queue_target *t = p->t;
        if (p->n == 0 && p->tried && t->owner->probe == t)
            queue_owner_park(q, t->owner);
        while ((it = list_pop(&p->claims)) != NULL) {
            struct queue_claim *c = list_entry(it, struct queue_claim, of_lease);
            list_append(&q->leases, &c->of_lease);
            hand_out(q, c);
        }
        t->pins--;
        if (t->state == TARGET_DUE && p->tried) {
            /* To the end of the ring: the others' turn. */
            list_remove(&t->link);
            list_append(&q->ring, &t->link);
        }
        queue_target_update(q, t);
    }
    free(co);
}

struct db_op *queue_claims_prepare(struct queue *q)
{
    if (!queue_claims_possible(q))
        return NULL;
    unsigned left = room(q);
    if (left > QUEUE_CLAIM_BATCH)
        left = QUEUE_CLAIM_BATCH;
    size_t n = q->n_ring < left ? q->n_ring : left;
    omid_assert(n > 0); /* possible: there is room, and somebody in the ring */
    unsigned each = (unsigned)(left / n);
    struct claim_op *co = calloc(1, sizeof(*co) + n * sizeof(co->picks[0]));
    if (co == NULL) {
        q->retry_at = queue_mono(q) + QUEUE_DISK_RETRY_MS;
        return NULL;
    }
    co->op.run = claims_run;
    co->op.done = claims_done;
    co->q = q;
    list_each (it, &q->ring) {
        struct queue_target *t = list_entry(it, struct queue_target, link);
        struct pick *p = &co->picks[co->n_picks];
        if (co->n_picks == n)
            break;
        omid_assert(t->leased < q->c.in_flight_per_target);
        p->t = t;
        p->quota = q->c.in_flight_per_target - t->leased;
        if (p->quota > each)
            p->quota = each;
        uint32_t paced = queue_rate_may(&t->rate, queue_mono(q));
        if (p->quota > paced)
            p->quota = paced;
        if (t->owner->probe == t)
            p->quota = 1;
        list_init(&p->claims);
        t->pins++;
        co->n_picks++;
    }
    q->claims_under_way = true;
    return &co->op;
}
