/* Who waits until all that a thread has enqueued is on disk. */
#include <stdlib.h>

#include "lane/queue/queue_int.h"

uint64_t queue_thread_serial(void)
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
    f->thread = queue_thread_serial();
    f->msg.fn = fence_answer;
    f->op.run = fence_run;
    f->op.done = fence_done;
    f->op.bytes = sizeof(*f);
    int r = db_writer_post(q->writer, &f->op);
    if (r != OMID_OK)
        free(f);
    return r;
}
