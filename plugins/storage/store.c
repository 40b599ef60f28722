/*
 * The job of a batch: its spool file is encoded and put where recordings are kept, the index told, the file removed.
 * Each step may be the last before a crash, and be done again: the same batch has the same name, and is in the index
 * once. What can't be done now waits, however long it takes: a recording is never given up.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "storage.h"

#define WAITING_MAX 64   /* jobs that wait for one of `uploads` */
#define WAITING_MS 20000 /* as long, and then the queue keeps them: its lease must not run out here */
#define WAIT_MAX_S 900
#define SPOOL_FILE_MAX ((size_t)48 << 20)

struct upload {
    struct upload *next;
    struct instance *in;
    struct omid_job_run *run;
    struct omid_http *http;
    int64_t created_ms;
    uint64_t since_ms;
    char name[NAME_SIZE];
    struct spooled s;
    struct piece piece;
    unsigned char *body;
    size_t len;
    char sha256[65];
    bool done, again; /* nothing more to do; deleted meanwhile */
    bool drop;        /* deleted before: what an attempt may have put into the bucket goes, then the spool file */
    char error[256];
};

uint32_t job_wait_s(struct instance *in, int64_t created_ms, uint32_t at_least_s)
{
    int64_t s = (in->host->wall_ms() - created_ms) / 2000, least = in->sh->retry_ms / 1000;
    least = at_least_s > least ? at_least_s : least;
    s = s < least ? least : s > WAIT_MAX_S ? WAIT_MAX_S : s;
    return (uint32_t)(s > 3600 ? 3600 : s);
}

static void upload_free(struct upload *u)
{
    free(u->body);
    free(u->piece.name);
    free(u);
}

static void uploads_go(struct instance *in);

static void upload_end(struct upload *u, enum omid_job_outcome outcome, uint32_t wait_s)
{
    struct instance *in = u->in;
    struct upload **at = &in->running;
    while (*at != u)
        at = &(*at)->next;
    *at = u->next;
    in->n_running--;
    in->host->job_finish(&u->run, outcome, wait_s, u->error[0] != '\0' ? u->error : NULL);
    upload_free(u);
    if (!in->stopping)
        uploads_go(in);
}

static void upload_later(struct upload *u, enum count why, uint32_t at_least_s)
{
    struct instance *in = u->in;
    count_add(in->sh, why, 1);
    in->host->log(in->mod, OMID_LOG_WARNING, "%s is not stored yet: %s", u->name, u->error);
    upload_end(u, OMID_JOB_WAIT, job_wait_s(in, u->created_ms, at_least_s));
}

/* -------------------------------------------------------------------- executor */

/* It makes no sense and never will: set aside, to be looked at. */
static void set_aside(struct shared *sh, struct upload *u)
{
    char from[PATH_SIZE], to[PATH_SIZE + 8];
    spool_path(sh, from, u->name);
    snprintf(to, sizeof(to), "%s.bad", from);
    rename(from, to);
    count_add(sh, COUNT_BAD, 1);
    sh->host->log(sh->mod, OMID_LOG_ERROR, "spool: %s is damaged and set aside as .bad", u->name);
    u->done = true;
}

/* A start that is this batch's alone. true: it is stored already. */
static bool place(const struct piece *there, size_t n, struct piece *p)
{
    for (size_t i = 0; i < n; i++) {
        if (there[i].start_ms != p->start_ms)
            continue;
        if (there[i].crc == p->crc && there[i].samples == p->samples)
            return true;
        p->start_ms++;
    }
    return false;
}

static void key_of(const struct shared *sh, char *out, size_t size, const struct upload *u)
{
    const char *ext = sh->format == FORMAT_OGG ? "ogg" : "wav";
    if (sh->bucket != NULL)
        snprintf(out, size, "%s/%s/%s/%" PRId64 ".%s", sh->prefix, u->s.uid, u->s.conv, u->piece.start_ms, ext);
    else
        snprintf(out, size, "%s/%s/%" PRId64 ".%s", u->s.uid, u->s.conv, u->piece.start_ms, ext);
}

/* In the index, and out of the spool. */
static void upload_settle(struct shared *sh, struct upload *u)
{
    bool stored = index_add(sh, u->s.uid, u->s.conv, &u->piece);
    int error = errno;
    count_add(sh, COUNT_STORED, stored);
    u->done = stored && spool_remove(sh, u->name);
    if (!u->done)
        snprintf(u->error, sizeof(u->error), "its index or the spool: %s", strerror(stored ? errno : error));
    u->again = u->done && tombstone_there(sh, u->s.uid, u->s.conv);
}

static void store_in_directory(struct shared *sh, struct upload *u)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/%s", sh->directory, u->piece.name);
    if (replace_file(path, u->body, u->len))
        upload_settle(sh, u);
    else
        snprintf(u->error, sizeof(u->error), "%s: %s", sh->directory, strerror(errno));
}

static void upload_name(const struct shared *sh, struct upload *u)
{
    char key[KEY_SIZE];
    key_of(sh, key, sizeof(key), u);
    u->piece.name = strdup(key);
}

static void upload_encode(struct shared *sh, struct upload *u, const int16_t *pcm)
{
    size_t n = (size_t)u->piece.samples;
    u->body = sh->format == FORMAT_OGG
                  ? encode_ogg(pcm, n, u->piece.rate, sh->bitrate, u->piece.crc ^ (uint32_t)u->piece.start_ms, &u->len)
                  : encode_wav(pcm, n, u->piece.rate, &u->len);
    upload_name(sh, u);
    u->piece.bytes = u->len;
    u->piece.where = sh->bucket != NULL ? 'b' : 'd';
    if (u->body == NULL || u->piece.name == NULL)
        snprintf(u->error, sizeof(u->error), "no memory, or the encoder failed");
    else if (sh->bucket != NULL)
        sha256_hex(u->sha256, u->body, u->len);
    else
        store_in_directory(sh, u);
}

/* The spooled file's samples and what it says of them, into u. The caller's to free; NULL: there is nothing to store,
 * and u says why. */
static int16_t *spooled_read(struct shared *sh, struct upload *u, size_t *bytes)
{
    char path[PATH_SIZE];
    size_t len;
    spool_path(sh, path, u->name);
    char *data = read_file(path, 0, SPOOL_FILE_MAX, &len);
    if (data == NULL) {
        u->done = errno == ENOENT; /* stored before a crash, or deleted */
        snprintf(u->error, sizeof(u->error), "spool: %s", strerror(errno));
        return NULL;
    }
    if (!spool_parse(&u->s, data, len)) {
        set_aside(sh, u);
        free(data);
        return NULL;
    }
    *bytes = (len - u->s.header) & ~(size_t)1;
    int16_t *pcm = malloc(*bytes + 2);
    if (pcm != NULL)
        memcpy(pcm, data + u->s.header, *bytes);
    else
        snprintf(u->error, sizeof(u->error), "no memory");
    free(data);
    u->piece = (struct piece){.start_ms = u->s.start_ms, .rate = u->s.rate, .samples = *bytes / 2};
    memcpy(u->piece.session, u->s.session, sizeof(u->piece.session));
    return pcm;
}

static void prepare_run(struct shared *sh, void *arg)
{
    struct upload *u = arg;
    size_t bytes, n;
    struct piece *there;
    int16_t *pcm = spooled_read(sh, u, &bytes);
    if (pcm == NULL)
        return;
    bool deleted = tombstone_there(sh, u->s.uid, u->s.conv);
    if (bytes == 0 || (deleted && sh->bucket == NULL)) {
        u->done = spool_remove(sh, u->name);
        count_add(sh, COUNT_DELETED, deleted && u->done);
    } else if (!index_load(sh, u->s.uid, u->s.conv, &there, &n)) {
        snprintf(u->error, sizeof(u->error), "its index: %s", strerror(errno));
    } else {
        u->piece.crc = crc32_add(0, pcm, bytes);
        bool stored = place(there, n, &u->piece);
        if (deleted) {
            u->drop = true;
            upload_name(sh, u);
            if (u->piece.name == NULL)
                snprintf(u->error, sizeof(u->error), "no memory");
        } else if (stored) {
            count_add(sh, COUNT_REPEATED, 1);
            u->done = spool_remove(sh, u->name);
        } else {
            upload_encode(sh, u, pcm);
        }
        pieces_free(there, n);
    }
    free(pcm);
}

static void drop_run(struct shared *sh, void *arg)
{
    struct upload *u = arg;
    u->done = spool_remove(sh, u->name);
    count_add(sh, COUNT_DELETED, u->done);
    if (!u->done)
        snprintf(u->error, sizeof(u->error), "the spool: %s", strerror(errno));
}

static void settle_run(struct shared *sh, void *arg)
{
    upload_settle(sh, arg);
}

/* -------------------------------------------------------------------- reactor */

static void settle_done(struct instance *in, void *arg, bool ran)
{
    struct upload *u = arg;
    if (u->done) {
        if (u->again && !in->stopping) /* its conversation was deleted while it was on its way */
            enqueue_delete(in, u->s.uid, u->s.conv, INT64_MAX - in->host->wall_ms() % 1000000);
        u->error[0] = '\0';
        upload_end(u, OMID_JOB_DONE, 0);
    } else {
        if (!ran)
            snprintf(u->error, sizeof(u->error), "stopped");
        upload_later(u, COUNT_STORE_DISK, 0);
    }
}

static void bucket_failed(struct upload *u, const struct omid_http_response *res)
{
    char why[200];
    bucket_error(why, sizeof(why), res);
    snprintf(u->error, sizeof(u->error), "%s: %s", u->in->sh->bucket, why);
    bool lane = res->error == OMID_HTTP_BREAKER || res->error == OMID_HTTP_FULL ||
                res->error == OMID_HTTP_QUEUE_TIMEOUT || res->error == OMID_HTTP_SHUTDOWN;
    upload_later(u,
                 res->error == OMID_HTTP_OK ? COUNT_STORE_STATUS
                 : lane                     ? COUNT_STORE_LANE
                                            : COUNT_STORE_NETWORK,
                 res->retry_after_s);
}

static void finish(struct upload *u, const char *label, void (*run)(struct shared *sh, void *arg))
{
    if (work_start(u->in, label, run, settle_done, u))
        return;
    snprintf(u->error, sizeof(u->error), "the executor is full");
    upload_later(u, COUNT_STORE_LANE, 0);
}

static void on_put(void *arg, const struct omid_http_response *res)
{
    struct upload *u = arg;
    u->http = NULL;
    if (res->error == OMID_HTTP_OK && res->status >= 200 && res->status < 300)
        finish(u, "settle_upload", settle_run);
    else
        bucket_failed(u, res);
}

static void on_dropped(void *arg, const struct omid_http_response *res)
{
    struct upload *u = arg;
    u->http = NULL;
    if (bucket_deleted(res))
        finish(u, "drop_upload", drop_run);
    else
        bucket_failed(u, res);
}

static void prepare_done(struct instance *in, void *arg, bool ran)
{
    struct upload *u = arg;
    if (u->done || !ran || u->error[0] != '\0') {
        settle_done(in, u, ran);
        return;
    }
    int rc = u->drop ? bucket_delete(in, u->piece.name, on_dropped, u, &u->http)
                     : bucket_put(in, u->piece.name, in->sh->format == FORMAT_OGG ? "audio/ogg" : "audio/wav", u->body,
                                  u->len, u->sha256, on_put, u, &u->http);
    free(u->body); /* the lane has its copy */
    u->body = NULL;
    if (rc == OMID_OK)
        return;
    snprintf(u->error, sizeof(u->error), rc == OMID_EFULL ? "the lane is full" : "the lane refuses it");
    upload_later(u, COUNT_STORE_LANE, 0);
}

static void uploads_go(struct instance *in)
{
    while (in->waiting != NULL && in->n_running < in->sh->uploads) {
        struct upload *u = in->waiting;
        in->waiting = u->next;
        in->n_waiting--;
        u->next = in->running;
        in->running = u;
        in->n_running++;
        if (work_start(in, "prepare_upload", prepare_run, prepare_done, u))
            continue;
        snprintf(u->error, sizeof(u->error), "the executor is full");
        upload_later(u, COUNT_STORE_LANE, 0);
        return;
    }
}

int store_job(struct instance *in, const struct omid_job_view *job, struct omid_job_run *run)
{
    struct upload *u = in->n_waiting < WAITING_MAX ? calloc(1, sizeof(*u)) : NULL;
    if (u == NULL) {
        in->host->job_finish(&run, OMID_JOB_WAIT, 2, "many wait to be stored");
        return OMID_OK;
    }
    u->in = in;
    u->run = run;
    u->created_ms = job->created_ms;
    u->since_ms = in->host->now_ms();
    snprintf(u->name, sizeof(u->name), "%.*s", (int)job->payload_len, (const char *)job->payload);
    if (strchr(u->name, '/') != NULL || u->name[0] == '.') {
        in->host->job_finish(&u->run, OMID_JOB_DEAD, 0, "no name of a spool file");
        free(u);
        return OMID_OK;
    }
    struct upload **at = &in->waiting;
    while (*at != NULL)
        at = &(*at)->next;
    *at = u;
    in->n_waiting++;
    uploads_go(in);
    return OMID_OK;
}

/* The oldest first. */
void store_tick(struct instance *in)
{
    uint64_t now = in->host->now_ms();
    while (in->waiting != NULL && now - in->waiting->since_ms > WAITING_MS) {
        struct upload *u = in->waiting;
        in->waiting = u->next;
        in->n_waiting--;
        in->host->job_finish(&u->run, OMID_JOB_WAIT, 5, "many wait to be stored");
        upload_free(u);
    }
}

void store_stop(struct instance *in)
{
    struct upload *lists[] = {in->waiting, in->running};
    in->waiting = in->running = NULL;
    for (size_t i = 0; i < 2; i++) {
        for (struct upload *u = lists[i], *next; u != NULL; u = next) {
            next = u->next;
            bool at_work = i == 1 && u->http == NULL; /* its thread may still look at it: left behind */
            if (u->http != NULL)
                in->host->http_cancel(&u->http);
            in->host->job_finish(&u->run, OMID_JOB_WAIT, 1, "stopped");
            if (!at_work)
                upload_free(u);
        }
    }
}
