/*
 * One piece of a recording: read on an executor, or asked of the bucket, then decoded on an executor. A spool file may
 * have been stored since the recording was looked up: then the index says where it is now.
 */
#include <errno.h>
#include <string.h>

#include "storage.h"

#define FILE_MAX ((size_t)60 << 20)

struct load {
    struct instance *in;
    struct omid_http *http;
    struct omid_timer *late;
    load_cb cb;
    void *arg;
    bool cancelled, raw, moved;
    char uid[UID_NAME_MAX], conv[CONV_MAX + 1];
    struct piece p; /* a copy */
    uint64_t from;
    size_t want;
    unsigned char *data;
    size_t len;
    struct loaded result;
};

static void load_free(struct load *l)
{
    free(l->data);
    free(l->p.name);
    free(l);
}

static void load_end(struct load *l)
{
    count_add(l->in->sh, l->result.rc == OMID_OK ? COUNT_READ_OK : COUNT_READ_FAILED, 1);
    if (l->result.rc != OMID_OK && !l->cancelled)
        l->in->host->log(l->in->mod, OMID_LOG_WARNING, "%s can't be read: %s", l->p.name, l->result.error);
    if (l->cancelled) {
        free(l->result.pcm);
        free(l->result.raw);
    } else {
        l->cb(l->arg, &l->result);
    }
    load_free(l);
}

static void load_fail(struct load *l, int rc, const char *why)
{
    l->result.rc = rc;
    snprintf(l->result.error, sizeof(l->result.error), "%s", why);
}

/* -------------------------------------------------------------------- executor */

static bool stored_since(const struct shared *sh, struct load *l)
{
    struct piece *there;
    size_t n;
    bool found = false;
    if (!index_load(sh, l->uid, l->conv, &there, &n))
        return false;
    for (size_t i = 0; i < n && !found; i++) {
        const struct piece *t = &there[i];
        found = t->start_ms >= l->p.start_ms && t->start_ms < l->p.start_ms + 8 && t->samples >= l->p.samples &&
                t->rate == l->p.rate;
        char *name = found ? strdup(t->name) : NULL;
        found = name != NULL;
        if (!found)
            continue;
        free(l->p.name);
        l->p = *t;
        l->p.name = name;
    }
    pieces_free(there, n);
    return found;
}

static void file_read(struct shared *sh, struct load *l)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), l->p.where == 'd' ? "%s/%s" : "%.0s%s", sh->directory, l->p.name);
    l->data = read_file(path, l->from, l->raw ? l->want : FILE_MAX, &l->len);
    size_t n = strlen(path);
    if (l->data == NULL && errno == ENOENT && n > 4 && strcmp(path + n - 4, ".run") == 0) { /* it is whole meanwhile */
        strcpy(path + n - 3, "pcm");
        l->data = read_file(path, l->from, l->raw ? l->want : FILE_MAX, &l->len);
    }
    if (l->data != NULL)
        return;
    int error = errno;
    if (l->p.where == 's' && error == ENOENT && stored_since(sh, l)) {
        l->moved = l->p.where == 'b';
        if (!l->moved)
            file_read(sh, l);
        return;
    }
    load_fail(l, error == ENOENT ? OMID_ENOTSUP : OMID_ERR, strerror(error));
}

static void decode(struct load *l)
{
    size_t n = strlen(l->p.name);
    struct spooled s;
    int16_t *pcm = NULL;
    if (l->p.where == 's') {
        size_t bytes = 0;
        if (spool_parse(&s, (const char *)l->data, l->len))
            bytes = (l->len - s.header) & ~(size_t)1;
        int16_t *copy = bytes > 0 ? malloc(bytes) : NULL; /* aligned */
        if (copy != NULL) {
            memcpy(copy, l->data + s.header, bytes);
            pcm = resample(copy, bytes / 2, s.rate, RATE, &l->result.samples);
            free(copy);
        }
    } else if (n > 4 && strcmp(l->p.name + n - 4, ".ogg") == 0) {
        pcm = decode_ogg(l->data, l->len, &l->result.samples);
    } else {
        pcm = decode_wav(l->data, l->len, &l->result.samples);
    }
    free(l->data);
    l->data = NULL;
    l->result.pcm = pcm;
    if (pcm == NULL)
        load_fail(l, OMID_ENOTSUP, "it is damaged");
}

static void load_run(struct shared *sh, void *arg)
{
    struct load *l = arg;
    if (l->data == NULL)
        file_read(sh, l);
    if (l->moved || l->result.rc != OMID_OK)
        return;
    if (!l->raw) {
        decode(l);
        return;
    }
    l->result.raw = l->data;
    l->result.len = l->len;
    l->data = NULL;
}

/* -------------------------------------------------------------------- reactor */

static bool load_go(struct load *l);

static void load_done(struct instance *in, void *arg, bool ran)
{
    struct load *l = arg;
    (void)in;
    if (!ran)
        load_fail(l, OMID_ERR, "stopped");
    if (ran && l->moved && !l->cancelled) {
        l->moved = false;
        if (load_go(l))
            return;
    }
    load_end(l);
}

static void on_late(void *arg)
{
    struct load *l = arg;
    l->in->host->timer_stop(&l->late);
    load_end(l);
}

/* false: l->result says why. */
static bool load_work(struct load *l)
{
    if (work_start(l->in, "read_audio", load_run, load_done, l))
        return true;
    load_fail(l, OMID_ERR, "the executor is full");
    return false;
}

/* What was asked for, or all of it: a store need not know ranges. */
static bool part_take(struct load *l, const struct omid_http_response *res)
{
    uint64_t skip = res->status == 206 ? 0 : l->from;
    if (res->body_len <= skip) {
        load_fail(l, OMID_ERR, "the store has less of it than it was given");
        return false;
    }
    l->len = res->body_len - (size_t)skip < l->want ? res->body_len - (size_t)skip : l->want;
    l->data = malloc(l->len + 1);
    if (l->data == NULL) {
        load_fail(l, OMID_ERR, "no memory");
        return false;
    }
    memcpy(l->data, res->body + skip, l->len);
    return load_work(l);
}

static void on_got(void *arg, const struct omid_http_response *res)
{
    struct load *l = arg;
    l->http = NULL;
    if (res->error == OMID_HTTP_OK && (res->status == 206 || res->status == 200)) {
        if (!part_take(l, res))
            load_end(l);
        return;
    }
    bool missing = res->status == 404 && res->body != NULL && strstr(res->body, "NoSuchBucket") == NULL;
    bucket_error(l->result.error, sizeof(l->result.error), res);
    l->result.rc = missing ? OMID_ENOTSUP : OMID_ERR;
    load_end(l);
}

/* false: l->result says why. */
static bool load_go(struct load *l)
{
    if (l->p.where != 'b')
        return load_work(l);
    if (l->want > l->p.bytes - l->from)
        l->want = (size_t)(l->p.bytes - l->from);
    uint64_t max = l->p.bytes < FILE_MAX ? l->p.bytes : FILE_MAX;
    if (l->in->sh->bucket != NULL &&
        bucket_get(l->in, l->p.name, l->from, l->from + l->want - 1, (size_t)max, on_got, l, &l->http) == OMID_OK)
        return true;
    load_fail(l, OMID_ERR, l->in->sh->bucket == NULL ? "no bucket is configured any more" : "the lane is full");
    return false;
}

/* The callback never comes within the call that began it: a failure is told from the loop, or, without the memory for
 * that, by NULL. */
static struct load *load_begin(struct load *l)
{
    if (load_go(l))
        return l;
    l->late = l->in->host->timer_start(l->in->inst, 0, 0, on_late, l);
    if (l->late != NULL)
        return l;
    count_add(l->in->sh, COUNT_READ_FAILED, 1);
    load_free(l);
    return NULL;
}

static struct load *load_new(struct instance *in, const struct recording *rec, const struct piece *p, load_cb cb,
                             void *arg)
{
    struct load *l = calloc(1, sizeof(*l));
    if (l == NULL)
        return NULL;
    l->in = in;
    l->cb = cb;
    l->arg = arg;
    l->p = *p;
    l->p.name = strdup(p->name);
    l->want = FILE_MAX;
    l->result.rc = OMID_OK;
    snprintf(l->uid, sizeof(l->uid), "%s", rec->uid);
    snprintf(l->conv, sizeof(l->conv), "%s", rec->conv);
    if (l->p.name == NULL) {
        free(l);
        return NULL;
    }
    return l;
}

struct load *load_pcm(struct instance *in, const struct recording *rec, const struct piece *p, load_cb cb, void *arg)
{
    struct load *l = load_new(in, rec, p, cb, arg);
    return l != NULL ? load_begin(l) : NULL;
}

struct load *load_raw(struct instance *in, const struct recording *rec, const struct piece *p, uint64_t from,
                      size_t len, load_cb cb, void *arg)
{
    struct load *l = load_new(in, rec, p, cb, arg);
    if (l == NULL)
        return NULL;
    l->raw = true;
    l->from = from;
    l->want = len;
    return load_begin(l);
}

void load_cancel(struct load **lp)
{
    struct load *l = *lp;
    *lp = NULL;
    if (l == NULL)
        return;
    l->cancelled = true;
    if (l->late != NULL)
        l->in->host->timer_stop(&l->late);
    else if (l->http != NULL)
        l->in->host->http_cancel(&l->http);
    else
        return; /* load_done() */
    load_free(l);
}
