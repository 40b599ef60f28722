/* The files of recordings, and who may remove them when. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lane/exec/exec.h"
#include "session/sync.h"

/* Between a look at the store and an unlink, and between a look at the file and its writing: executors' threads alone.
 */
static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER;

void sync_files_lock(bool lock)
{
    (void)(lock ? pthread_mutex_lock(&files_lock) : pthread_mutex_unlock(&files_lock));
}

void sync_file_drop(struct store *store, const char *dir, const char *file)
{
    char path[4400], upload[256], err[128];
    snprintf(path, sizeof(path), "%s/%s", dir, file);
    snprintf(upload, sizeof(upload), "%.*s", (int)strcspn(file, "."), file);
    sync_files_lock(true);
    if (store_recording_wants(store, upload, err, sizeof(err)) == 0)
        unlink(path);
    sync_files_lock(false);
}

struct removal {
    struct store *store;
    bool upload;
    const char *file; /* behind dir */
    char dir[];
};

static void removal_run(void *arg)
{
    const struct removal *r = arg;
    char path[4400];
    snprintf(path, sizeof(path), "%s/%s.pcm", r->dir, r->file);
    unlink(path);
    if (r->upload)
        sync_file_drop(r->store, r->dir, r->file);
}

static void removal_done(void *arg, bool ran)
{
    (void)ran; /* else found by a sweep */
    free(arg);
}

void job_files_remove(struct job *j, bool upload)
{
    const char *dir = j->sync->dir;
    struct removal *r = malloc(sizeof(*r) + strlen(dir) + strlen(j->file) + 2);
    if (r == NULL)
        return; /* found by a sweep */
    r->store = j->sync->ss->env.store;
    r->upload = upload;
    r->file = stpcpy(r->dir, dir) + 1;
    strcpy(r->dir + strlen(dir) + 1, j->file);
    const struct omid_work work = {.size = sizeof(work),
                                   .pool = OMID_POOL_STORAGE,
                                   .label = "sync_remove",
                                   .run = removal_run,
                                   .done = removal_done,
                                   .arg = r};
    if (exec_submit(j->sync->ss->env.exec, exec_core, j->sync->ss->env.loop, &work) != OMID_OK)
        free(r);
}
