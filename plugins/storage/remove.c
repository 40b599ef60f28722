/* The job that deletes what is kept of a conversation, or what of it is older than it may be. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "storage.h"

struct removal {
    struct removal *next;
    struct instance *in;
    struct omid_job_run *run;
    struct omid_http *http;
    int64_t created_ms, before_ms;
    char uid[UID_NAME_MAX], conv[CONV_MAX + 1];
    struct piece *piece; /* to be deleted; those in the directory are when the bucket's turn comes */
    size_t n, at;
    uint64_t gone;
    bool ok;
    char error[256];
};

static bool is_whole(const struct removal *r)
{
    return r->before_ms > INT64_MAX / 2; /* the conversation, not only what is old of it */
}

static void removal_end(struct removal *r, enum omid_job_outcome outcome, enum count why, uint32_t at_least_s)
{
    struct instance *in = r->in;
    uint32_t wait = outcome == OMID_JOB_WAIT ? job_wait_s(in, r->created_ms, at_least_s) : 0;
    if (outcome == OMID_JOB_WAIT) {
        count_add(in->sh, why, 1);
        in->host->log(in->mod, OMID_LOG_WARNING, "the audio of conversation %s is not deleted yet: %s", r->conv,
                      r->error);
    }
    struct removal **at = &in->removals;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    in->host->job_finish(&r->run, outcome, wait, r->error[0] != '\0' ? r->error : NULL);
    pieces_free(r->piece, r->n);
    free(r);
}

/* -------------------------------------------------------------------- executor */

/* Another user's conversation of this id is nobody's but theirs. */
static bool is_theirs(const struct shared *sh, const struct removal *r, const char *name)
{
    char path[PATH_SIZE];
    struct spooled s;
    size_t len;
    spool_path(sh, path, name);
    char *head = read_file(path, 0, HEADER_MAX, &len);
    bool theirs = head != NULL && spool_parse(&s, head, len) && strcmp(s.uid, r->uid) == 0;
    free(head);
    return theirs;
}

/* How many are left: of a bucket's all of them, as an attempt may have brought them there and not heard of it. Each
 * one's own job sees that it is deleted. */
static size_t clear_spool(struct shared *sh, const struct removal *r)
{
    size_t left = 0;
    char path[PATH_SIZE];
    size_t len = strlen(r->conv);
    spool_path(sh, path, "");
    DIR *dir = opendir(path);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        size_t n = strlen(e->d_name);
        if (strncmp(e->d_name, r->conv, len) != 0 || e->d_name[len] != '.' || n <= 4 ||
            strcmp(e->d_name + n - 4, ".pcm") != 0 || !is_theirs(sh, r, e->d_name))
            continue;
        if (sh->bucket != NULL || !spool_remove(sh, e->d_name))
            left++;
        else
            count_add(sh, COUNT_DELETED, 1);
    }
    if (dir != NULL)
        closedir(dir);
    return left;
}

static bool clear_file(struct shared *sh, struct removal *r, struct piece *p)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/%s", sh->directory, p->name);
    if (unlink(path) != 0 && errno != ENOENT) {
        snprintf(r->error, sizeof(r->error), "%.128s: %s", p->name, strerror(errno));
        return false;
    }
    *strrchr(path, '/') = '\0';
    if (rmdir(path) == 0) { /* the conversation's last, perhaps the user's */
        *strrchr(path, '/') = '\0';
        rmdir(path);
    }
    r->gone++;
    return true;
}

static void first_run(struct shared *sh, void *arg)
{
    struct removal *r = arg;
    struct piece *piece;
    size_t n;
    if (is_whole(r) && !tombstone_make(sh, r->uid, r->conv)) {
        snprintf(r->error, sizeof(r->error), "%s: %s", sh->root, strerror(errno));
        return;
    }
    if (!index_load(sh, r->uid, r->conv, &piece, &n)) {
        snprintf(r->error, sizeof(r->error), "its index: %s", strerror(errno));
        return;
    }
    r->ok = true;
    for (size_t i = 0; i < n; i++) {
        if (piece_end_ms(&piece[i]) >= r->before_ms) {
            free(piece[i].name);
            continue;
        }
        r->ok = r->ok && (piece[i].where == 'b' || clear_file(sh, r, &piece[i]));
        piece[r->n++] = piece[i];
    }
    r->piece = piece;
}

static void last_run(struct shared *sh, void *arg)
{
    struct removal *r = arg;
    r->ok = index_cut(sh, r->uid, r->conv, r->piece, r->n);
    if (!r->ok) {
        snprintf(r->error, sizeof(r->error), "its index: %s", strerror(errno));
        return;
    }
    count_add(sh, is_whole(r) ? COUNT_DELETED : COUNT_EXPIRED, r->gone);
    size_t left = is_whole(r) ? clear_spool(sh, r) : 0;
    r->ok = left == 0; /* the tombstone stays young until then */
    if (left > 0)
        snprintf(r->error, sizeof(r->error), "%zu batches in the spool", left);
}

/* -------------------------------------------------------------------- reactor */

static void last_done(struct instance *in, void *arg, bool ran)
{
    struct removal *r = arg;
    (void)in;
    removal_end(r, ran && r->ok ? OMID_JOB_DONE : OMID_JOB_WAIT, COUNT_STORE_DISK, 0);
}

static void delete_next(struct removal *r);

static void on_deleted(void *arg, const struct omid_http_response *res)
{
    struct removal *r = arg;
    r->http = NULL;
    if (bucket_deleted(res)) {
        r->gone++;
        r->at++;
        delete_next(r);
        return;
    }
    bucket_error(r->error, sizeof(r->error), res);
    removal_end(r, OMID_JOB_WAIT, res->error == OMID_HTTP_OK ? COUNT_STORE_STATUS : COUNT_STORE_NETWORK,
                res->retry_after_s);
}

static void delete_next(struct removal *r)
{
    while (r->at < r->n && r->piece[r->at].where != 'b')
        r->at++;
    if (r->at < r->n) {
        if (r->in->sh->bucket != NULL && bucket_delete(r->in, r->piece[r->at].name, on_deleted, r, &r->http) == OMID_OK)
            return;
        snprintf(r->error, sizeof(r->error), "%s",
                 r->in->sh->bucket == NULL ? "no bucket is configured any more" : "the lane is full");
    } else if (work_start(r->in, "cut_index", last_run, last_done, r)) {
        return;
    } else {
        snprintf(r->error, sizeof(r->error), "the executor is full");
    }
    removal_end(r, OMID_JOB_WAIT, COUNT_STORE_LANE, 0);
}

static void first_done(struct instance *in, void *arg, bool ran)
{
    struct removal *r = arg;
    (void)in;
    if (ran && r->ok)
        delete_next(r);
    else
        removal_end(r, OMID_JOB_WAIT, COUNT_STORE_DISK, 0);
}

int remove_job(struct instance *in, const struct omid_job_view *job, struct omid_job_run *run)
{
    struct removal *r = calloc(1, sizeof(*r));
    char text[UID_NAME_MAX + CONV_MAX + 64];
    if (r == NULL) {
        in->host->job_finish(&run, OMID_JOB_WAIT, 2, "no memory");
        return OMID_OK;
    }
    r->next = in->removals;
    in->removals = r;
    r->in = in;
    r->run = run;
    r->created_ms = job->created_ms;
    snprintf(text, sizeof(text), "%.*s", (int)job->payload_len, (const char *)job->payload);
    if (sscanf(text, "%255[^\n]\n%64[^\n]\n%" SCNd64, r->uid, r->conv, &r->before_ms) != 3 || !conv_ok(r->conv) ||
        strchr(r->uid, '/') != NULL || r->uid[0] == '.') {
        snprintf(r->error, sizeof(r->error), "it names no conversation");
        removal_end(r, OMID_JOB_DEAD, 0, 0);
    } else if (!work_start(in, "delete_audio", first_run, first_done, r)) {
        snprintf(r->error, sizeof(r->error), "the executor is full");
        removal_end(r, OMID_JOB_WAIT, COUNT_STORE_LANE, 0);
    }
    return OMID_OK;
}

void remove_stop(struct instance *in)
{
    while (in->removals != NULL) {
        struct removal *r = in->removals;
        bool at_work = r->http == NULL; /* its thread may still look at it: left behind */
        in->removals = r->next;
        if (r->http != NULL)
            in->host->http_cancel(&r->http);
        in->host->job_finish(&r->run, OMID_JOB_WAIT, 1, "stopped");
        if (at_work)
            continue;
        pieces_free(r->piece, r->n);
        free(r);
    }
}
