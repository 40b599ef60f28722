/*
 * How long recordings are kept: the index is walked in small steps by the first reactor's instance, and what holds
 * anything too old gets a job that deletes it. One walk, a pause, the next.
 */
#include <dirent.h>
#include <string.h>

#include "storage.h"

#define STEP 64    /* conversations at once */
#define STEP_MS 50 /* between two steps */

struct sweep {
    struct instance *in;
    struct omid_timer *timer;
    DIR *users, *convs; /* the executor's while at work */
    char uid[UID_NAME_MAX];
    int64_t before_ms;
    bool over, at_work, stopped;
    size_t n;
    struct old {
        char uid[UID_NAME_MAX], conv[CONV_MAX + 1];
        int64_t first_ms;
    } old[STEP];
};

static void look_at(struct shared *sh, struct sweep *w, const char *conv)
{
    struct piece *piece;
    size_t n;
    int64_t first_ms = INT64_MAX;
    if (!index_load(sh, w->uid, conv, &piece, &n))
        return;
    for (size_t i = 0; i < n; i++) {
        if (piece_end_ms(&piece[i]) < w->before_ms && piece[i].start_ms < first_ms)
            first_ms = piece[i].start_ms;
    }
    pieces_free(piece, n);
    if (first_ms == INT64_MAX)
        return;
    struct old *o = &w->old[w->n++];
    snprintf(o->uid, sizeof(o->uid), "%s", w->uid);
    snprintf(o->conv, sizeof(o->conv), "%.64s", conv);
    o->first_ms = first_ms;
}

static void step_run(struct shared *sh, void *arg)
{
    struct sweep *w = arg;
    char path[PATH_SIZE + UID_NAME_MAX];
    snprintf(path, sizeof(path), "%s/index", sh->root);
    if (w->users == NULL) {
        tombstones_sweep(sh, sh->host->wall_ms());
        w->users = opendir(path);
    }
    if (w->users == NULL || sh->keep_ms == 0) {
        w->over = true;
        return;
    }
    for (int looked = 0; looked < STEP && w->n < STEP;) {
        struct dirent *e = w->convs != NULL ? readdir(w->convs) : NULL;
        if (e != NULL) {
            if (conv_ok(e->d_name)) {
                look_at(sh, w, e->d_name);
                looked++;
            }
            continue;
        }
        if (w->convs != NULL)
            closedir(w->convs);
        w->convs = NULL;
        e = readdir(w->users);
        if (e == NULL) {
            w->over = true;
            return;
        }
        if (e->d_name[0] == '.' || strlen(e->d_name) >= sizeof(w->uid))
            continue;
        snprintf(w->uid, sizeof(w->uid), "%s", e->d_name);
        snprintf(path, sizeof(path), "%s/index/%s", sh->root, w->uid);
        w->convs = opendir(path);
        looked++;
    }
}

static void sweep_close(struct sweep *w)
{
    if (w->convs != NULL)
        closedir(w->convs);
    if (w->users != NULL)
        closedir(w->users);
    w->convs = w->users = NULL;
}

static void step(void *arg);

/* No memory for it: keep_tick() begins it. */
static void step_later(struct sweep *w, uint32_t ms)
{
    if (!w->in->draining)
        w->timer = w->in->host->timer_start(w->in->inst, ms, 0, step, w);
}

static void step_done(struct instance *in, void *arg, bool ran)
{
    struct sweep *w = arg;
    w->at_work = false;
    for (size_t i = 0; i < w->n && ran && !in->draining; i++)
        enqueue_expire(in, w->old[i].uid, w->old[i].conv, w->old[i].first_ms, w->before_ms);
    w->n = 0;
    bool over = w->over || !ran;
    if (over)
        sweep_close(w);
    step_later(w, over ? in->sh->keep_check_ms : STEP_MS);
}

static void step(void *arg)
{
    struct sweep *w = arg;
    struct instance *in = w->in;
    if (w->timer != NULL)
        in->host->timer_stop(&w->timer);
    if (w->users == NULL) {
        w->before_ms = in->host->wall_ms() - in->sh->keep_ms;
        w->over = false;
    }
    w->at_work = work_start(in, "keep_audio", step_run, step_done, w);
    if (!w->at_work)
        step_later(w, in->sh->keep_check_ms);
}

bool keep_start(struct instance *in)
{
    struct sweep *w = in->sweep = calloc(1, sizeof(*w));
    if (w == NULL)
        return false;
    w->in = in;
    step_later(w, in->sh->keep_check_ms);
    return true;
}

void keep_tick(struct instance *in)
{
    struct sweep *w = in->sweep;
    if (w != NULL && w->timer == NULL && !w->at_work)
        step_later(w, STEP_MS);
}

void keep_stop(struct instance *in)
{
    struct sweep *w = in->sweep;
    in->sweep = NULL;
    if (w == NULL)
        return;
    if (w->timer != NULL)
        in->host->timer_stop(&w->timer);
    if (w->at_work)
        return; /* its thread may still look at it: left behind */
    sweep_close(w);
    free(w);
}
