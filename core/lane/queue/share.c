/*
 * How much of the queue one target may hold: a share of what the others leave. One that can't be delivered to ends at
 * half of it (with 0.5), two at a third each, n at one of n + 1 parts: there is always as much room as the largest
 * holds, and nobody's failing endpoint keeps the others' jobs out.
 */
#include "base/log.h"
#include "lane/queue/queue_int.h"

#define TELL_MS 60000

static uint64_t held(const struct queue *q, const struct queue_target *t)
{
    return t->ready + t->ordered + t->leased + (t->txn == q->txn ? t->txn_jobs : 0);
}

/* Would it hold more than its share of what the others leave? */
static bool beyond(const struct queue *q, uint64_t mine, uint64_t more, uint64_t all, uint64_t max)
{
    uint64_t others = all > mine ? all - mine : 0;
    uint64_t left = others < max ? max - others : 0;
    return (double)(mine + more) > q->c.max_share * (double)left;
}

bool queue_share_take(struct queue *q, struct queue_target *t, size_t bytes, uint64_t more, uint64_t more_bytes)
{
    uint64_t mine = held(q, t), all = atomic_load(&q->waiting) + atomic_load(&q->leased) + q->txn_jobs + more;
    uint64_t my_bytes = t->bytes + (t->txn == q->txn ? t->txn_bytes : 0);
    uint64_t all_bytes = atomic_load(&q->bytes) + q->txn_bytes + more_bytes;
    bool bounded = q->c.max_share > 0 && q->c.max_share < 1;
    /* Who holds nothing may have one, however small the queue is. */
    if (bounded && mine > 0 &&
        (beyond(q, mine, 1, all, q->c.max_jobs) ||
         (q->c.max_bytes > 0 && beyond(q, my_bytes, bytes, all_bytes, q->c.max_bytes))))
        return false;
    if (t->txn != q->txn) {
        t->txn = q->txn;
        t->txn_jobs = t->txn_bytes = 0;
    }
    t->txn_jobs++;
    t->txn_bytes += bytes;
    return true;
}

void queue_share_give_back(struct queue_target *t, size_t bytes)
{
    t->txn_jobs--;
    t->txn_bytes -= bytes;
}

bool queue_room(const struct queue *q, uint64_t n, uint64_t bytes, bool *of_jobs)
{
    uint64_t jobs = atomic_load(&q->waiting) + atomic_load(&q->leased) + q->txn_jobs;
    uint64_t held_bytes = atomic_load(&q->bytes) + q->txn_bytes, half = q->c.max_bytes / 2;
    bool room = jobs + n <= q->c.max_jobs;
    if (of_jobs != NULL)
        *of_jobs = room;
    if (!room || q->c.max_bytes == 0)
        return room;
    /* What is that large comes in before the queue is empty, which it may never be. */
    return bytes > half ? held_bytes <= half : held_bytes + bytes <= q->c.max_bytes;
}

/* Half of the bound at most: the dead letters of others are not to be driven out by these. */
bool queue_share_dead_room(const struct queue *q)
{
    uint64_t most = q->c.dead > 0 ? q->c.dead : q->c.max_jobs;
    return atomic_load(&q->dead) + q->txn_dead < most / 2 &&
           (q->c.max_bytes == 0 || atomic_load(&q->dead_bytes) + q->txn_dead_bytes < q->c.max_bytes / 2);
}

void queue_share_over(struct queue *q, struct queue_target *t, enum over_share what)
{
    int64_t now = queue_mono(q);
    atomic_fetch_add(&q->over_share[what], 1);
    t->share_refused++;
    if (t->share_told_at != 0 && now - t->share_told_at < TELL_MS)
        return;
    log_warning("queue", "a target holds its share of the queue", LS("plugin", t->owner->name), LS("target", t->name),
                LU("jobs", held(q, t)), LU("refused", t->share_refused));
    if (q->c.over_share != NULL)
        q->c.over_share(q->c.over_share_arg, t->owner->name, t->name, held(q, t), t->share_refused);
    t->share_refused = 0;
    t->share_told_at = now;
}
