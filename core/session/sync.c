/* One reactor's recordings: which are worked on when, and files that belong to none. */
#include "session/sync.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "lane/exec/exec.h"

#define DUE_MAX 500

static bool has_room(const struct sync *y)
{
    return map_count(y->job) - y->waiting < y->ss->env.conf->sync.running;
}

static void on_due(void *arg, const struct store_recording *r, size_t n)
{
    struct sync *y = arg;
    CHECK_MAGIC(y, SYNC_MAGIC);
    struct sessions *ss = y->ss;
    y->asking = false;
    for (size_t i = 0; i < n && !ss->draining && has_room(y); i++) {
        if (session_reactor_of(r[i].uid, ss->env.reactors) == ss->env.reactor && map_get(y->job, r[i].file) == NULL)
            job_begin(y, &r[i]);
    }
    if (y->again && !ss->draining)
        sync_kick(y);
}

void sync_kick(struct sync *y)
{
    CHECK_MAGIC(y, SYNC_MAGIC);
    struct sessions *ss = y->ss;
    if (y->asking) {
        y->again = true;
        return;
    }
    if (ss->draining || !has_room(y))
        return;
    y->again = false;
    int64_t now = clock_wall_ms();
    y->asking = store_recordings_due(ss->env.store, now, now - (int64_t)ss->env.conf->sync.keep_ms, DUE_MAX,
                                     ss->env.loop, on_due, y) == OMID_OK;
}

static void on_check(struct ev_loop *ev, ev_timer *t, int revents)
{
    (void)ev;
    (void)revents;
    sync_kick(t->data);
}

/* What a crash has left between a file and its row, what nobody came to remove, and what was decoded; only what is
 * older than any upload under way. */
#define SWEEP_AGE_S 3600

static void sweep_file(struct sync *y, const char *dir, const char *name)
{
    char path[4400];
    struct stat st;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode) &&
        ((int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000 < y->began_ms ||
         clock_wall_ms() / 1000 - st.st_mtime >= SWEEP_AGE_S))
        sync_file_drop(y->ss->env.store, dir, name);
}

static void sweep_run(void *arg)
{
    struct sync *y = arg;
    DIR *d = opendir(y->dir);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] != '.')
            sweep_file(y, y->dir, e->d_name);
    }
    if (d != NULL)
        closedir(d);
}

static void sweep_done(void *arg, bool ran)
{
    struct sync *y = arg;
    (void)ran;
    y->swept = true;
    if (y->ss->draining)
        sessions_check_drained(y->ss);
}

static void on_sweep(struct ev_loop *ev, ev_timer *t, int revents)
{
    (void)ev;
    (void)revents;
    struct sync *y = t->data;
    const struct omid_work work = {.size = sizeof(work),
                                   .pool = OMID_POOL_STORAGE,
                                   .label = "sync_sweep",
                                   .run = sweep_run,
                                   .done = sweep_done,
                                   .arg = y};
    if (y->swept) /* else the former one is at it still */
        y->swept = exec_submit(y->ss->env.exec, exec_core, y->ss->env.loop, &work) != OMID_OK;
}

struct sync *sync_new(struct sessions *ss)
{
    struct sync *y = calloc(1, sizeof(*y));
    if (y == NULL)
        return NULL;
    y->magic = SYNC_MAGIC;
    y->ss = ss;
    y->swept = true;
    y->began_ms = clock_wall_ms();
    y->job = map_new();
    if (y->job == NULL || asprintf(&y->dir, "%s/sync", ss->env.conf->daemon.state_dir) < 0) {
        map_free(&y->job);
        free(y);
        return NULL;
    }
    job_metrics_init();
    double check = ss->env.conf->sync.check_ms / 1000.;
    ev_timer_init(&y->check, on_check, 0., check);
    y->check.data = y;
    ev_timer_init(&y->sweep, on_sweep, 0., ss->env.conf->sync.sweep_ms / 1000.);
    y->sweep.data = y;
    return y;
}

void sync_start(struct sync *y)
{
    CHECK_MAGIC(y, SYNC_MAGIC);
    ev_timer_start(loop_ev(y->ss->env.loop), &y->check);
    if (y->ss->env.reactor == 0)
        ev_timer_start(loop_ev(y->ss->env.loop), &y->sweep);
}

static void timer_every(struct sync *y, ev_timer *t, uint32_t ms)
{
    t->repeat = ms / 1000.;
    ev_timer_again(loop_ev(y->ss->env.loop), t);
}

void sync_configure(struct sync *y, const struct conf *former)
{
    CHECK_MAGIC(y, SYNC_MAGIC);
    const struct conf *conf = y->ss->env.conf;
    if (former->sync.check_ms != conf->sync.check_ms && ev_is_active(&y->check))
        timer_every(y, &y->check, conf->sync.check_ms);
    if (former->sync.sweep_ms != conf->sync.sweep_ms && ev_is_active(&y->sweep))
        timer_every(y, &y->sweep, conf->sync.sweep_ms);
}

bool sync_idle(const struct sync *y)
{
    return map_count(y->job) == 0 && y->swept;
}

void sync_drain(struct sync *y)
{
    CHECK_MAGIC(y, SYNC_MAGIC);
    size_t pos = 0;
    void *value;
    ev_timer_stop(loop_ev(y->ss->env.loop), &y->check);
    ev_timer_stop(loop_ev(y->ss->env.loop), &y->sweep);
    while (map_next(y->job, &pos, NULL, &value)) {
        struct job *j = value;
        if (!j->working) {
            job_over(j);
            pos = 0;
        }
    }
}

void sync_free(struct sync **yp)
{
    struct sync *y = *yp;
    if (y == NULL)
        return;
    CHECK_MAGIC(y, SYNC_MAGIC);
    *yp = NULL;
    size_t pos = 0;
    void *value;
    ev_timer_stop(loop_ev(y->ss->env.loop), &y->check);
    ev_timer_stop(loop_ev(y->ss->env.loop), &y->sweep);
    while (map_next(y->job, &pos, NULL, &value)) {
        struct job *j = value;
        map_remove(y->job, j->file);
        if (!j->working) /* else an executor's thread that was abandoned may still use it */
            job_free(j);
        pos = 0;
    }
    map_free(&y->job);
    free(y->dir);
    y->magic = OMID_MAGIC_DEAD;
    free(y);
}
