/*
 * Whole spool files whose job nobody else offers to the queue: those that a former process left, and those that the
 * queue has refused. The spool itself is the list of them. The first reactor walks it, some files at a time, when there
 * is reason to, and offers each; of those that have their job the queue knows the name.
 */
#include <errno.h>
#include <string.h>

#include "storage.h"

#define AT_ONCE 256
#define CHECK_MS 600000 /* without a reason: a generation that was replaced may have left some */

struct recovery {
    struct instance *in;
    DIR *dir;             /* of the walk under way; the executor's while at work */
    bool at_work, begun;  /* begun: what a former process left has been looked at */
    bool failed, refused; /* reading the spool; one of this walk */
    unsigned open;        /* offered, without an answer yet */
    bool refused_now;     /* one of those */
    uint64_t check_ms;
    struct backoff backoff;
    uint64_t found; /* by the first walk */
    size_t n;
    char name[AT_ONCE][NAME_SIZE];
};

static void walk_run(struct shared *sh, void *arg)
{
    struct recovery *r = arg;
    if (!r->begun)
        spool_recover(sh);
    r->failed = !spool_walk(sh, &r->dir, r->name, AT_ONCE, &r->n);
    if (r->failed)
        sh->host->log(sh->mod, OMID_LOG_ERROR, "the spool can't be read: %s", strerror(errno));
}

static void walk_end(struct recovery *r, uint64_t now)
{
    struct instance *in = r->in;
    if (r->refused)
        atomic_store(&in->sh->left, true);
    else
        r->backoff = (struct backoff){0};
    r->refused = false;
    if (r->check_ms == 0 && r->found > 0)
        in->host->log(in->mod, OMID_LOG_NOTICE, "%llu files waited in the spool and are stored now",
                      (unsigned long long)r->found);
    r->check_ms = now + CHECK_MS;
}

/* Each of those that were offered has its answer. */
static void offered(struct recovery *r)
{
    struct instance *in = r->in;
    uint64_t now = in->host->now_ms();
    if (r->refused_now) {
        backoff_refused(&r->backoff, now);
        r->refused = true;
    }
    if (r->dir == NULL)
        walk_end(r, now);
    else if (!r->refused_now)
        recover_tick(in);
}

static void on_offered(void *arg, bool on_disk)
{
    struct recovery *r = arg;
    r->refused_now |= !on_disk;
    if (--r->open == 0 && !r->in->stopping)
        offered(r);
}

static void walk_done(struct instance *in, void *arg, bool ran)
{
    struct recovery *r = arg;
    r->at_work = false;
    if (!ran || in->draining)
        return;
    r->begun = true;
    r->refused_now = r->failed;
    r->open = 1;
    for (size_t i = 0; i < r->n; i++) {
        r->open++;
        if (!enqueue_offer(in, r->name[i], on_offered, r))
            on_offered(r, false);
    }
    if (r->check_ms == 0) { /* the first walk */
        count_add(in->sh, COUNT_RECOVERED, r->n);
        r->found += r->n;
    }
    on_offered(r, true);
}

bool recover_start(struct instance *in)
{
    struct recovery *r = in->recovery = calloc(1, sizeof(*r));
    if (r == NULL)
        return false;
    r->in = in;
    recover_tick(in);
    return true;
}

void recover_tick(struct instance *in)
{
    struct recovery *r = in->recovery;
    uint64_t now = in->host->now_ms();
    if (r == NULL || in->draining || r->at_work || r->open > 0 || now < r->backoff.until_ms)
        return;
    bool reason = !r->begun || r->dir != NULL || atomic_load(&in->sh->left) || now >= r->check_ms;
    if (!reason)
        return;
    if (r->dir == NULL)
        atomic_store(&in->sh->left, false); /* what is refused from now on may not be seen by this walk */
    r->at_work = work_start(in, "walk_spool", walk_run, walk_done, r);
    if (r->at_work)
        return;
    atomic_store(&in->sh->left, true);
    backoff_refused(&r->backoff, now);
}

void recover_stop(struct instance *in)
{
    struct recovery *r = in->recovery;
    in->recovery = NULL;
    if (r == NULL || r->at_work)
        return; /* its thread may still look at it: left behind */
    if (r->dir != NULL)
        closedir(r->dir);
    free(r);
}
