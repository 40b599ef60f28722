/*
 * Live audio into spool files. A session has a track: batches of chunks, the first of which is on its way to its file
 * (one write at a time), the last of which still grows. What the disk does not take stays in memory up to the bounds,
 * then what comes new is dropped, counted and told.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "storage.h"

#define GAP_MS 500    /* more than that between two events: a new batch, with its own time */
#define RETRY_MS 1000 /* after a write that failed */
#define SESSION_SIZE 64

struct batch {
    char uid[UID_NAME_MAX], conv[CONV_MAX + 1], name[NAME_SIZE]; /* conv "": not known yet, stays in memory */
    char session[CONV_MAX + 1];
    int64_t start_ms;
    uint32_t rate;
    uint64_t samples; /* taken */
    bool whole;       /* no more comes */
    /* the executor's while a write is under way */
    int fd;
    off_t len; /* of the file, whole */
};

struct chunk {
    struct chunk *next;
    struct batch *batch;
    size_t n, cap;
    int16_t pcm[];
};

struct append {
    struct track *track;
    struct batch *batch;
    struct chunk *chunks;
    bool whole;
    size_t bytes;
    int error;
};

struct track {
    struct track *next;
    struct instance *in;
    char session[SESSION_SIZE];
    struct batch *growing; /* the last chunk's; NULL: the next event begins one */
    struct chunk *first, **last;
    struct append *append; /* under way */
    int64_t bytes;
    uint64_t since_ms, retry_ms; /* the first chunk's; not before that */
    uint64_t told_ms;            /* of dropped audio */
    bool ended;
};

/* -------------------------------------------------------------------- tracks */

static unsigned place_of(const char *session)
{
    uint32_t h = 2166136261u;
    for (; *session != '\0'; session++)
        h = (h ^ (unsigned char)*session) * 16777619u;
    return h % TRACKS;
}

static struct track *track_get(struct instance *in, const char *session, bool make)
{
    struct track **at = &in->track[place_of(session)], *t = *at;
    while (t != NULL && (t->ended || strncmp(t->session, session, SESSION_SIZE - 1) != 0))
        t = t->next;
    if (t != NULL || !make || (t = calloc(1, sizeof(*t))) == NULL)
        return t;
    t->in = in;
    t->last = &t->first;
    snprintf(t->session, sizeof(t->session), "%s", session);
    t->next = *at;
    *at = t;
    in->n_tracks++;
    return t;
}

static void batch_free(struct batch *b)
{
    if (b == NULL)
        return;
    if (b->fd >= 0)
        close(b->fd);
    free(b);
}

static void chunk_free(struct track *t, struct chunk *c)
{
    int64_t bytes = (int64_t)(c->cap * sizeof(*c->pcm));
    t->bytes -= bytes;
    atomic_fetch_sub(&t->in->sh->memory, bytes);
    free(c);
}

static void track_free(struct track *t)
{
    struct track **at = &t->in->track[place_of(t->session)];
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    t->in->n_tracks--;
    free(t);
}

static struct batch *batch_new(const struct omid_event *ev)
{
    struct batch *b = calloc(1, sizeof(*b));
    bool named = ev->conversation_id[0] == '\0' || conv_ok(ev->conversation_id);
    if (b == NULL || !named || !uid_name(b->uid, ev->uid)) {
        free(b);
        return NULL;
    }
    snprintf(b->conv, sizeof(b->conv), "%s", ev->conversation_id);
    if (conv_ok(ev->session_id))
        snprintf(b->session, sizeof(b->session), "%s", ev->session_id);
    b->start_ms = ev->time_ms;
    b->rate = ev->sample_rate;
    b->fd = -1;
    return b;
}

/* -------------------------------------------------------------------- executor */

static bool begin_file(const struct shared *sh, struct batch *b)
{
    char path[PATH_SIZE], head[HEADER_MAX];
    spool_path(sh, path, b->name);
    b->fd = open_made(path, O_WRONLY | O_CREAT | O_EXCL);
    if (b->fd < 0)
        return false;
    int n = spool_header(head, b->start_ms, b->rate, b->uid, b->conv, b->session);
    if (flock(b->fd, LOCK_EX | LOCK_NB) == 0 && write_whole(b->fd, head, (size_t)n)) {
        b->len = n;
        return true;
    }
    int error = errno;
    close(b->fd);
    unlink(path);
    b->fd = -1;
    errno = error;
    return false;
}

/* true: a job may have it. */
static bool finish_file(const struct shared *sh, struct batch *b)
{
    char from[PATH_SIZE], to[PATH_SIZE], name[NAME_SIZE];
    snprintf(name, sizeof(name), "%s", b->name);
    strcpy(name + strlen(name) - 3, "pcm");
    spool_path(sh, from, b->name);
    spool_path(sh, to, name);
    if (rename(from, to) != 0)
        return false;
    snprintf(b->name, sizeof(b->name), "%s", name);
    return true;
}

static void append_run(struct shared *sh, void *arg)
{
    struct append *a = arg;
    struct batch *b = a->batch;
    off_t before = b->len;
    if (a->bytes > 0 && atomic_load(&sh->spool) + (int64_t)a->bytes > sh->spool_max) {
        a->error = EDQUOT;
        return;
    }
    bool ok = b->fd >= 0 || begin_file(sh, b);
    off_t len = b->len;
    for (struct chunk *c = a->chunks; ok && c != NULL; c = c->next) {
        ok = write_whole(b->fd, c->pcm, c->n * sizeof(*c->pcm));
        len += (off_t)(c->n * sizeof(*c->pcm));
    }
    ok = ok && fdatasync(b->fd) == 0;
    if (!ok) {
        a->error = errno;
        /* Nothing half: the next attempt writes it again. */
        if (b->fd >= 0 && (ftruncate(b->fd, b->len) != 0 || lseek(b->fd, b->len, SEEK_SET) < 0))
            a->error = errno;
        return;
    }
    atomic_fetch_add(&sh->spool, len - before);
    count_add(sh, COUNT_SPOOL_ADDED, (uint64_t)(len - before));
    b->len = len;
    for (struct chunk *c = a->chunks; c != NULL; c = c->next)
        c->n = 0; /* it is written, should only the last step fail */
    char path[PATH_SIZE];
    spool_path(sh, path, b->name);
    bool is_new = before == 0;
    if (a->whole && strcmp(b->name + strlen(b->name) - 3, "run") == 0)
        ok = finish_file(sh, b);
    if (ok && (is_new || a->whole))
        ok = sync_above(path);
    a->error = ok ? 0 : errno;
}

/* -------------------------------------------------------------------- to the disk */

static void track_settle(struct track *t);
static bool track_append(struct track *t);

static void append_done(struct instance *in, void *arg, bool ran)
{
    struct append *a = arg;
    struct track *t = a->track;
    t->append = NULL;
    if (!ran || a->error != 0) {
        if (ran) {
            count_add(in->sh, COUNT_WRITE_FAILED, 1);
            in->host->log(in->mod, OMID_LOG_ERROR, "spool: %s: %s; %lld bytes of audio wait in memory", a->batch->name,
                          a->error == EDQUOT ? "the disk quota or spool_max is reached" : strerror(a->error),
                          (long long)t->bytes);
        }
        struct chunk **end = &a->chunks;
        while (*end != NULL)
            end = &(*end)->next;
        *end = t->first;
        if (t->first == NULL)
            t->last = end;
        t->first = a->chunks;
        t->retry_ms = in->host->now_ms() + RETRY_MS;
        free(a);
        return;
    }
    while (a->chunks != NULL) {
        struct chunk *c = a->chunks;
        a->chunks = c->next;
        chunk_free(t, c);
    }
    if (a->whole) {
        count_add(in->sh, COUNT_SPOOLED, 1);
        if (!in->stopping)
            enqueue_store(in, a->batch->name); /* else the next start finds it */
        batch_free(a->batch);
    }
    free(a);
    if (!in->stopping)
        track_settle(t);
}

/* The first batch's chunks, when there is enough of it or it is whole; at_least: bytes that are enough. */
static void track_push(struct track *t, size_t at_least)
{
    if (t->append != NULL || t->first == NULL || t->in->host->now_ms() < t->retry_ms)
        return;
    struct batch *b = t->first->batch;
    size_t bytes = 0;
    if (b->conv[0] == '\0')
        return;
    for (struct chunk *c = t->first; c != NULL && c->batch == b; c = c->next)
        bytes += c->n * sizeof(*c->pcm);
    if (!b->whole && bytes < at_least)
        return;
    if (!track_append(t))
        t->retry_ms = t->in->host->now_ms() + RETRY_MS; /* the executor is full */
}

static bool track_append(struct track *t)
{
    struct append *a = calloc(1, sizeof(*a));
    if (a == NULL)
        return false;
    a->track = t;
    struct batch *b = a->batch = t->first->batch;
    if (b->name[0] == '\0') {
        char id[37];
        t->in->host->uuid4(id);
        snprintf(b->name, sizeof(b->name), "%s.%lld.%s.run", b->conv, (long long)b->start_ms, id);
    }
    a->whole = b->whole;
    a->chunks = t->first;
    struct chunk **end = &a->chunks;
    for (; *end != NULL && (*end)->batch == b; end = &(*end)->next)
        a->bytes += (*end)->n * sizeof(*(*end)->pcm);
    struct chunk *rest = *end;
    *end = NULL;
    t->first = rest;
    if (rest == NULL)
        t->last = &t->first;
    t->append = a;
    t->since_ms = t->in->host->now_ms();
    if (work_start(t->in, "spool_audio", append_run, append_done, a))
        return true;
    t->append = NULL;
    *end = rest;
    t->first = a->chunks;
    if (rest == NULL)
        t->last = end == &a->chunks ? &t->first : end;
    free(a);
    return false;
}

/* After a change: on to what is next, or gone. */
static void track_settle(struct track *t)
{
    track_push(t, SIZE_MAX);
    if (t->ended && t->append == NULL && t->first == NULL) {
        struct instance *in = t->in;
        track_free(t);
        instance_check_drained(in);
    }
}

/* The session has ended, and what came first never came to belong to a conversation. None of it was written. */
static void forget_nowhere(struct track *t)
{
    size_t lost = 0;
    while (t->first != NULL && t->first->batch->conv[0] == '\0') {
        struct chunk *c = t->first;
        t->first = c->next;
        if (c->next == NULL)
            t->last = &t->first;
        lost += c->n * sizeof(*c->pcm);
        if (c->next == NULL || c->next->batch != c->batch)
            batch_free(c->batch);
        chunk_free(t, c);
    }
    count_add(t->in->sh, COUNT_DROPPED_NOWHERE, lost);
}

/* What came before the conversation belongs to it, too. */
static void name_nowhere(struct track *t, const char *conv)
{
    for (struct chunk *c = t->first; c != NULL && c->batch->conv[0] == '\0'; c = c->next) {
        struct batch *b = c->batch;
        while (c->next != NULL && c->next->batch == b)
            c = c->next;
        snprintf(b->conv, sizeof(b->conv), "%s", conv);
    }
}

/* A batch without a chunk has all its audio on disk: an empty one tells its end. */
static void batch_end(struct track *t)
{
    struct batch *b = t->growing;
    if (b == NULL)
        return;
    t->growing = NULL;
    b->whole = true;
    bool queued = false;
    for (const struct chunk *c = t->first; c != NULL; c = c->next)
        queued |= c->batch == b;
    if (!queued) {
        struct chunk *c = calloc(1, sizeof(*c));
        if (c == NULL) { /* the next start finds its file */
            if (t->append == NULL || t->append->batch != b)
                batch_free(b);
            return;
        }
        c->batch = b;
        *t->last = c;
        t->last = &c->next;
    }
    track_settle(t);
}

/* -------------------------------------------------------------------- events */

static bool room_for(struct track *t, size_t bytes)
{
    struct shared *sh = t->in->sh;
    return t->bytes + (int64_t)bytes <= sh->memory_session &&
           atomic_load(&sh->memory) + (int64_t)bytes <= sh->memory_max;
}

static struct chunk *chunk_new(struct track *t, size_t n)
{
    struct batch *b = t->growing;
    size_t cap = b->rate; /* a second, or less where less is written at once */
    if (t->in->sh->append_ms < 1000)
        cap = (size_t)b->rate * t->in->sh->append_ms / 1000;
    cap = cap < n ? n : cap;
    size_t bytes = cap * sizeof(int16_t);
    struct chunk *c = room_for(t, bytes) ? malloc(sizeof(*c) + bytes) : NULL;
    if (c == NULL)
        return NULL;
    *c = (struct chunk){.batch = b, .cap = cap};
    t->bytes += (int64_t)bytes;
    atomic_fetch_add(&t->in->sh->memory, (int64_t)bytes);
    if (t->first == NULL)
        t->since_ms = t->in->host->now_ms();
    *t->last = c;
    t->last = &c->next;
    return c;
}

static void dropped(struct track *t, const struct omid_event *ev)
{
    struct instance *in = t->in;
    uint64_t now = in->host->now_ms();
    count_add(in->sh, COUNT_DROPPED_MEMORY, ev->samples * sizeof(*ev->pcm));
    if (t->told_ms == 0 || now - t->told_ms > 10000) {
        t->told_ms = now;
        in->host->log(in->mod, OMID_LOG_ERROR,
                      "audio of conversation %s is lost: the disk does not take it, and memory for it is used up",
                      ev->conversation_id);
    }
    batch_end(t); /* what comes after it has its own time */
}

int live_audio(struct instance *in, const struct omid_event *ev)
{
    if (ev->session_id == NULL || ev->conversation_id == NULL || ev->samples == 0 || ev->sample_rate < 8000 ||
        ev->sample_rate > 48000)
        return OMID_OK; /* nothing that could be found again */
    struct track *t = track_get(in, ev->session_id, true);
    if (t == NULL)
        return OMID_ERR;
    struct batch *b = t->growing;
    if (b != NULL) {
        if (conv_ok(ev->conversation_id))
            name_nowhere(t, ev->conversation_id);
        int64_t off = ev->time_ms - (b->start_ms + (int64_t)(b->samples * 1000 / b->rate));
        if (strcmp(b->conv, ev->conversation_id) != 0 || b->rate != ev->sample_rate || off > GAP_MS || off < -GAP_MS ||
            b->samples >= (uint64_t)b->rate * in->sh->batch_ms / 1000)
            batch_end(t);
    }
    if (t->growing == NULL && (t->growing = batch_new(ev)) == NULL)
        return OMID_EINVAL;
    b = t->growing;
    struct chunk *c = NULL;
    for (struct chunk *at = t->first; at != NULL; at = at->next)
        c = at->batch == b ? at : c;
    if (c == NULL || c->cap - c->n < ev->samples)
        c = chunk_new(t, ev->samples);
    if (c == NULL) {
        if (b->samples == 0) { /* it has nothing yet */
            t->growing = NULL;
            batch_free(b);
        }
        dropped(t, ev);
        return OMID_OK;
    }
    memcpy(c->pcm + c->n, ev->pcm, ev->samples * sizeof(*ev->pcm));
    c->n += ev->samples;
    b->samples += ev->samples;
    size_t enough = (size_t)b->rate * in->sh->append_ms / 1000 * sizeof(*ev->pcm);
    if (atomic_load(&in->sh->memory) > in->sh->memory_max / 2) /* room is short: sooner */
        enough = (size_t)b->rate * sizeof(*ev->pcm) < enough ? (size_t)b->rate * sizeof(*ev->pcm) : enough;
    track_push(t, enough);
    return OMID_OK;
}

/* The session may say nothing more: what waits is not left to the next event. */
void live_conversation_start(struct instance *in, const char *session, const char *conv)
{
    struct track *t = track_get(in, session, false);
    if (t == NULL)
        return;
    name_nowhere(t, conv);
    track_settle(t);
}

void live_session_end(struct instance *in, const char *session)
{
    struct track *t = track_get(in, session, false);
    if (t == NULL)
        return;
    batch_end(t);
    forget_nowhere(t);
    t->ended = true;
    track_settle(t);
}

void live_conversation_end(struct instance *in, const char *conv)
{
    for (size_t i = 0; i < TRACKS; i++) {
        for (struct track *t = in->track[i]; t != NULL; t = t->next) {
            if (t->growing != NULL && strcmp(t->growing->conv, conv) == 0)
                batch_end(t);
        }
    }
}

/* What waits for longer than `append`, and what a full disk left over. */
void live_tick(struct instance *in)
{
    uint64_t now = in->host->now_ms();
    for (size_t i = 0; i < TRACKS; i++) {
        for (struct track *t = in->track[i]; t != NULL; t = t->next)
            track_push(t, now - t->since_ms >= in->sh->append_ms ? 0 : SIZE_MAX);
    }
}

void live_drain(struct instance *in)
{
    for (size_t i = 0; i < TRACKS; i++) {
        for (struct track *t = in->track[i], *next; t != NULL; t = next) {
            next = t->next;
            if (t->ended)
                continue;
            batch_end(t);
            forget_nowhere(t);
            t->ended = true;
            track_settle(t);
        }
    }
}

void live_stop(struct instance *in)
{
    for (size_t i = 0; i < TRACKS; i++) {
        while (in->track[i] != NULL) {
            struct track *t = in->track[i];
            size_t lost = 0;
            for (struct chunk *c = t->first, *next; c != NULL; c = next) {
                struct batch *b = c->batch;
                next = c->next;
                lost += c->n * sizeof(*c->pcm);
                if ((next == NULL || next->batch != b) && (t->append == NULL || t->append->batch != b)) {
                    if (t->growing == b)
                        t->growing = NULL;
                    batch_free(b);
                }
                chunk_free(t, c);
            }
            if (t->growing != NULL && (t->append == NULL || t->append->batch != t->growing))
                batch_free(t->growing);
            count_add(in->sh, COUNT_DROPPED_STOP, lost);
            if (lost > 0)
                in->host->log(in->mod, OMID_LOG_ERROR,
                              "%zu bytes of audio of session %s are lost: stopped before they were on disk", lost,
                              t->session);
            track_free(t);
        }
    }
}
