/*
 * POST /v1/sync-local-files and GET /v1/sync-jobs/{id}. An upload is taken apart, hashed and written on the storage
 * executor; the answer comes when its files and its rows are on disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/query.h"
#include "base/utf8.h"
#include "bus/call.h"
#include "formats/multipart.h"
#include "session/sync.h"

#define MODULE "sync"
#define UPLOAD_MAGIC UINT32_C(0x75706c64)
#define PARTS_MAX (3 * RECORDING_FILES_MAX) /* a file, its start, and one more field each */
#define EARLIEST_MS INT64_C(946684800000)   /* 2000: a start before it is a clock that was never set */
#define AHEAD_MS INT64_C(86400000)

struct upload {
    struct call call;
    uint32_t magic;
    struct sessions *ss;
    const char *uid; /* the request's */
    char id[37];
    char *language, *dir;
    unsigned max_files;
    /* of the executor */
    int status; /* HTTP's; 0: go on */
    char err[320];
    struct multipart_part *part;
    struct store_upload_file *file;
    char (*hash)[RECORDING_HASH + 1];
    char (*path)[2 * RECORDING_HASH]; /* names within dir */
    bool again[RECORDING_FILES_MAX];  /* known before */
    size_t of[RECORDING_FILES_MAX];   /* their parts */
    size_t n;
    struct buf body;
    int result;
};

/* ---------------------------------------------------------------- a request's life */

static void upload_drop(struct call *c)
{
    struct upload *u = container_of(c, struct upload, call);
    CHECK_MAGIC(u, UPLOAD_MAGIC);
    buf_free(&u->body);
    free(u->part);
    free(u->file);
    free(u->hash);
    free(u->path);
    free(u->language);
    free(u->dir);
    u->magic = OMID_MAGIC_DEAD;
}

static struct store *store_of(const struct upload *u)
{
    return u->ss->env.store;
}

/* NULL: answered already. */
static struct upload *upload_begin(struct channel *ch)
{
    struct upload *u = call_begin(ch, sizeof(*u), upload_drop);
    if (u == NULL)
        return NULL;
    u->magic = UPLOAD_MAGIC;
    u->ss = sessions_of_channel(ch);
    u->uid = channel_request(ch)->uid;
    u->dir = strdup(u->ss->sync->dir);
    u->max_files = u->ss->env.conf->sync.max_files;
    if (u->dir != NULL)
        return u;
    call_error(&u->call, 503, "out of memory");
    return NULL;
}

static void upload_work(struct upload *u, const char *label, void (*run)(void *arg), void (*done)(void *arg, bool ran))
{
    call_await(&u->call, call_work(&u->call, u->ss->env.exec, label, run, done));
}

/* ---------------------------------------------------------------- reading a job */

static void job_read_run(void *arg)
{
    struct upload *u = arg;
    u->result = store_upload_read_json(store_of(u), u->uid, u->id, &u->body, u->err, sizeof(u->err));
}

static void job_answer(struct upload *u, bool ran, int status)
{
    if (!ran)
        call_error(&u->call, 503, "going away");
    else if (u->result == OMID_OK)
        call_answer(&u->call, status, u->body.data, u->body.len);
    else if (u->result == OMID_ENOTSUP)
        call_error(&u->call, 404, "id: there is no such job");
    else
        call_error(&u->call, 500, "the store failed");
}

static void on_job_read(void *arg, bool ran)
{
    job_answer(arg, ran, 200);
}

static void job_opened(struct channel *ch)
{
    struct upload *u = upload_begin(ch);
    if (u == NULL)
        return;
    const char *id = channel_request(ch)->params[0];
    if (id == NULL || !id_is_uuid(id)) {
        call_error(&u->call, 404, "id: there is no such job");
        return;
    }
    snprintf(u->id, sizeof(u->id), "%s", id);
    upload_work(u, "sync_job", job_read_run, on_job_read);
}

/* ---------------------------------------------------------------- an upload, taken apart */

static void refuse_part(struct upload *u, size_t part, const char *name, const char *why)
{
    u->status = 400;
    snprintf(u->err, sizeof(u->err), "part %zu (%.80s): %s", part + 1, name, why);
}

static void hex(const unsigned char *bytes, size_t n, char *out)
{
    for (size_t i = 0; i < n; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static bool sha256(const void *data, size_t len, char out[65])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    bool ok = EVP_Digest(data, len, digest, &n, EVP_sha256(), NULL) == 1 && n == 32;
    if (ok)
        hex(digest, n, out);
    return ok;
}

/* Unix seconds, with or without a fraction, or milliseconds. 0: neither. */
static int64_t time_parse(const unsigned char *data, size_t len)
{
    char text[32], *end;
    if (len == 0 || len >= sizeof(text))
        return 0;
    memcpy(text, data, len);
    text[len] = '\0';
    if (strspn(text, "0123456789.") != len)
        return 0;
    double v = strtod(text, &end);
    if (*end != '\0' || !(v > 0) || v > 1e14)
        return 0;
    return (int64_t)(v >= 1e11 ? v : v * 1000.);
}

/* The start of file number `at` (of those with a file name): the field `start` number `at`, else the file's name. */
static int64_t start_of(const struct upload *u, size_t parts, size_t at, const char *filename)
{
    for (size_t i = 0, n = 0; i < parts; i++) {
        const struct multipart_part *p = &u->part[i];
        if (p->filename[0] == '\0' && strcmp(p->name, "start") == 0 && n++ == at)
            return time_parse(p->data, p->len);
    }
    return recording_name_time(filename);
}

static bool file_take(struct upload *u, size_t parts, size_t i)
{
    const struct multipart_part *p = &u->part[i];
    struct store_upload_file *f = &u->file[u->n];
    int64_t now = clock_wall_ms();
    char uid[65];
    if (p->len == 0) {
        refuse_part(u, i, p->filename, "it is empty");
        return false;
    }
    if (!utf8_valid(p->filename, strlen(p->filename))) {
        refuse_part(u, i, "a file", "its name is not UTF-8");
        return false;
    }
    f->format = (int)recording_sniff(p->data, p->len, p->filename);
    if (f->format == RECORDING_UNKNOWN) {
        refuse_part(u, i, p->filename, "it is neither WAV nor Opus (in Ogg, or *.bin)");
        return false;
    }
    f->start_ms = start_of(u, parts, u->n, p->filename);
    if (f->start_ms < EARLIEST_MS || f->start_ms > now + AHEAD_MS) {
        refuse_part(
            u, i, p->filename,
            "expected its start, in Unix seconds after 2000 and not in the future, in a field \"start\" or its name");
        return false;
    }
    if (!sha256(p->data, p->len, u->hash[u->n]) || !sha256(u->uid, strlen(u->uid), uid)) {
        u->status = 500;
        snprintf(u->err, sizeof(u->err), "SHA-256 is not available");
        return false;
    }
    snprintf(u->path[u->n], sizeof(u->path[u->n]), "%.16s-%s", uid, u->hash[u->n]);
    f->hash = u->hash[u->n];
    f->file = u->path[u->n];
    f->name = p->filename;
    u->n++;
    return true;
}

static bool parse(struct upload *u, const struct channel_request *req)
{
    char boundary[MULTIPART_MAX_BOUNDARY + 1];
    size_t parts = 0;
    u->status = 400;
    if (!multipart_boundary(req->content_type, boundary, u->err, sizeof(u->err)))
        return false;
    u->part = calloc(PARTS_MAX, sizeof(*u->part));
    u->file = calloc(RECORDING_FILES_MAX, sizeof(*u->file));
    u->hash = calloc(RECORDING_FILES_MAX, sizeof(*u->hash));
    u->path = calloc(RECORDING_FILES_MAX, sizeof(*u->path));
    if (u->part == NULL || u->file == NULL || u->hash == NULL || u->path == NULL) {
        u->status = 503;
        snprintf(u->err, sizeof(u->err), "out of memory");
        return false;
    }
    if (!multipart_parse(boundary, req->body, req->body_len, u->part, PARTS_MAX, &parts, u->err, sizeof(u->err)))
        return false;
    u->status = 0;
    for (size_t i = 0; i < parts; i++) {
        if (u->part[i].filename[0] == '\0')
            continue;
        if (u->n == u->max_files) {
            refuse_part(u, i, u->part[i].filename, "there are more files than one upload may have (sync.max_files)");
            return false;
        }
        u->of[u->n] = i;
        if (!file_take(u, parts, i))
            return false;
    }
    if (u->n == 0) {
        u->status = 400;
        snprintf(u->err, sizeof(u->err), "expected at least one part with a file name");
        return false;
    }
    return true;
}

/* ---------------------------------------------------------------- to disk */

static bool write_all(int fd, const unsigned char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        data += n;
        len -= (size_t)n;
    }
    return true;
}

/* Whole under its name, or not at all. */
static bool file_write(const struct upload *u, const char *name, const unsigned char *data, size_t len)
{
    char part[4400], whole[4400];
    snprintf(whole, sizeof(whole), "%s/%s", u->dir, name);
    snprintf(part, sizeof(part), "%s/%s.%s", u->dir, name, u->id);
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0)
        return false;
    bool ok = write_all(fd, data, len) && fsync(fd) == 0;
    ok = close(fd) == 0 && ok;
    ok = ok && rename(part, whole) == 0;
    int saved = errno;
    if (!ok)
        unlink(part);
    errno = saved;
    return ok;
}

static bool dir_sync(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    return ok;
}

/* A file of the upload, unless it is there. */
static bool file_put(struct upload *u, size_t i)
{
    return file_write(u, u->file[i].file, u->part[u->of[i]].data, u->part[u->of[i]].len);
}

/* What is not wanted: refused, or known and done with. */
static void files_drop(struct upload *u)
{
    for (size_t i = 0; i < u->n; i++)
        sync_file_drop(store_of(u), u->dir, u->file[i].file);
}

/* Rows are there now: their files stay from here on. One that somebody has removed just before is written again. */
static void taken_read_run(void *arg)
{
    struct upload *u = arg;
    char path[4400], err[128];
    for (size_t i = 0; i < u->n; i++) {
        snprintf(path, sizeof(path), "%s/%s", u->dir, u->file[i].file);
        sync_files_lock(true);
        if (access(path, F_OK) != 0 && store_recording_wants(store_of(u), u->file[i].file, err, sizeof(err)) != 0 &&
            !file_put(u, i))
            log_error(MODULE, "an upload is lost", LS("file", path), LS("reason", strerror(errno)));
        sync_files_lock(false);
    }
    files_drop(u);
    job_read_run(arg);
}

static void on_taken_read(void *arg, bool ran)
{
    struct upload *u = arg;
    sync_kick(u->ss->sync);
    job_answer(u, ran, 202);
}

static void refused_run(void *arg)
{
    files_drop(arg);
}

static void on_refused(void *arg, bool ran)
{
    struct upload *u = arg;
    (void)ran; /* else a sweep finds them */
    call_error(&u->call, u->status, "%s", u->err);
}

/* With its files, at once: a sweep would find them much later. */
static void upload_undo(struct upload *u, int status, const char *why)
{
    u->status = status;
    snprintf(u->err, sizeof(u->err), "%s", why);
    if (call_work(&u->call, u->ss->env.exec, "sync_undo", refused_run, on_refused) == OMID_OK)
        call_await(&u->call, OMID_OK);
    else
        call_error(&u->call, u->status, "%s", u->err);
}

static void take_run(void *arg)
{
    struct upload *u = arg;
    const struct channel_request *req = call_request(&u->call);
    if (!parse(u, req))
        return;
    bool ok = mkdir(u->dir, 0750) == 0 || errno == EEXIST;
    for (size_t i = 0; ok && i < u->n; i++)
        ok = file_put(u, i);
    if (ok && dir_sync(u->dir))
        return;
    u->status = 507;
    snprintf(u->err, sizeof(u->err), "the upload can't be kept: %s", strerror(errno));
    log_error(MODULE, "an upload can't be kept", LS("dir", u->dir), LS("reason", u->err));
    files_drop(u);
}

/* ---------------------------------------------------------------- into the store */

static void on_put(void *arg, int result, const bool *again)
{
    struct upload *u = arg;
    CHECK_MAGIC(u, UPLOAD_MAGIC);
    if (result == OMID_ENOTSUP) {
        upload_undo(u, 429, "too many of this user's recordings wait, try again later");
        return;
    }
    if (result != OMID_OK) {
        upload_undo(u, 503, "the store failed, try again later");
        return;
    }
    size_t known = 0;
    for (size_t i = 0; i < u->n; i++)
        known += u->again[i] = again[i];
    log_info(MODULE, "an upload is taken", LS("job", u->id), LU("files", u->n), LU("known", known));
    upload_work(u, "sync_job", taken_read_run, on_taken_read);
}

static void on_taken(void *arg, bool ran)
{
    struct upload *u = arg;
    CHECK_MAGIC(u, UPLOAD_MAGIC);
    if (!ran) {
        call_error(&u->call, 503, "going away");
        return;
    }
    if (u->status != 0) {
        call_error(&u->call, u->status, "%s", u->err);
        return;
    }
    if (u->ss->draining) {
        upload_undo(u, 503, "going away");
        return;
    }
    const struct store_upload put = {
        .id = u->id, .uid = u->uid, .language = u->language, .now_ms = clock_wall_ms(), .file = u->file, .n = u->n};
    int rc = store_upload_put(store_of(u), &put, u->ss->env.loop, on_put, u);
    if (rc != OMID_OK)
        upload_undo(u, 503, "overloaded, try again later");
}

static bool language_take(struct upload *u, const char *text, char *err, size_t errlen)
{
    struct query q;
    if (!query_parse(&q, text, strlen(text), err, errlen))
        return false;
    const char *language = query_get(&q, "language");
    if (language == NULL)
        language = "multi";
    size_t len = strlen(language);
    bool ok = len > 0 && len <= 35 &&
              strspn(language, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == len;
    if (ok)
        u->language = strdup(language);
    else
        snprintf(err, errlen, "language: expected a code such as \"de\" or \"pt-BR\", found \"%.35s\"", language);
    query_free(&q);
    return ok && u->language != NULL;
}

static void upload_opened(struct channel *ch)
{
    struct upload *u = upload_begin(ch);
    char err[160] = "out of memory";
    if (u == NULL)
        return;
    id_uuid4(u->id);
    if (u->ss->draining)
        call_error(&u->call, 503, "going away");
    else if (!language_take(u, channel_request(ch)->query, err, sizeof(err)))
        call_error(&u->call, 400, "%s", err);
    else
        upload_work(u, "sync_upload", take_run, on_taken);
}

bool sync_routes_add(struct routes *routes, struct sessions **all)
{
    static const struct channel_handler post = {.opened = upload_opened, .closed = call_closed},
                                        get = {.opened = job_opened, .closed = call_closed};
    const struct route r[] = {
        {.path = "/v1/sync-local-files", .method = "POST", .auth = ROUTE_TOKEN, .handler = &post, .arg = all},
        {.path = "/v1/sync-jobs/{id}", .method = "GET", .auth = ROUTE_TOKEN, .handler = &get, .arg = all},
    };
    return routes_add(routes, &r[0]) && routes_add(routes, &r[1]);
}
