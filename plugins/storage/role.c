/* The role audio_store: recordings made elsewhere are written, ranges of what there is are read. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "storage.h"

static void answer_with(struct instance *in, struct omid_ask **ask, int result, const char *text,
                        const struct omid_audio *audio)
{
    const struct omid_answer a = {
        .size = sizeof(a), .result = result, .text = result == OMID_OK ? NULL : text, .audio = audio};
    in->host->answer(ask, &a);
}

/* -------------------------------------------------------------------- write */

struct writing {
    struct instance *in;
    struct omid_ask *ask;
    char uid[UID_NAME_MAX], conv[CONV_MAX + 1], id[37];
    int64_t start_ms;
    uint32_t rate;
    size_t samples, per_file;
    unsigned files;
    int error;
    int16_t pcm[];
};

static void name_of(const struct writing *w, unsigned i, char out[NAME_SIZE], int64_t *start_ms)
{
    *start_ms = w->start_ms + (int64_t)((uint64_t)i * w->per_file * 1000 / w->rate);
    snprintf(out, NAME_SIZE, "%s.%lld.%s-%u.pcm", w->conv, (long long)*start_ms, w->id, i);
}

static bool write_file(struct shared *sh, struct writing *w, unsigned i)
{
    char path[PATH_SIZE], name[NAME_SIZE], head[HEADER_MAX];
    int64_t start_ms;
    name_of(w, i, name, &start_ms);
    spool_path(sh, path, name);
    size_t from = (size_t)i * w->per_file, n = w->samples - from < w->per_file ? w->samples - from : w->per_file;
    int len = spool_header(head, start_ms, w->rate, w->uid, w->conv, "");
    size_t size = (size_t)len + n * sizeof(*w->pcm);
    char *data = malloc(size);
    if (data == NULL)
        return false;
    memcpy(data, head, (size_t)len);
    memcpy(data + len, w->pcm + from, n * sizeof(*w->pcm));
    bool ok = atomic_load(&sh->spool) + (int64_t)size <= sh->spool_max;
    if (!ok)
        errno = EDQUOT;
    ok = ok && replace_file(path, data, size);
    free(data);
    if (ok) {
        atomic_fetch_add(&sh->spool, (int64_t)size);
        count_add(sh, COUNT_SPOOL_ADDED, size);
    }
    return ok;
}

static void write_run(struct shared *sh, void *arg)
{
    struct writing *w = arg;
    unsigned i = 0;
    for (; i < w->files && w->error == 0; i++) {
        if (!write_file(sh, w, i))
            w->error = errno != 0 ? errno : EIO;
    }
    /* All or nothing: whoever asked comes again with the whole, and the room of a part would be taken for good. */
    for (unsigned k = 0; w->error != 0 && k + 1 < i; k++) {
        char name[NAME_SIZE];
        int64_t start_ms;
        name_of(w, k, name, &start_ms);
        spool_remove(sh, name);
    }
}

/* What is in the spool is kept, whatever the queue says of its job. */
static void write_end(struct writing *w)
{
    struct instance *in = w->in;
    bool full = w->error == ENOSPC || w->error == EDQUOT;
    atomic_fetch_sub(&in->sh->memory, (int64_t)(w->samples * sizeof(*w->pcm)));
    answer_with(in, &w->ask, full ? OMID_EFULL : w->error != 0 ? OMID_ERR : OMID_OK, strerror(w->error), NULL);
    free(w);
}

static void write_done(struct instance *in, void *arg, bool ran)
{
    struct writing *w = arg;
    if (!ran)
        w->error = ESHUTDOWN;
    else if (w->error != 0)
        count_add(in->sh, COUNT_WRITE_FAILED, 1);
    for (unsigned i = 0; i < w->files && w->error == 0; i++) {
        char name[NAME_SIZE];
        int64_t start_ms;
        name_of(w, i, name, &start_ms);
        count_add(in->sh, COUNT_SPOOLED, 1);
        if (!in->stopping)
            enqueue_store(in, name); /* else the next start finds it */
    }
    write_end(w);
}

static int role_write(void *state, const char *uid, const char *conv, int64_t start_ms, const struct omid_audio *audio,
                      struct omid_ask *ask)
{
    struct instance *in = state;
    size_t bytes = audio->samples * sizeof(*audio->pcm);
    if (!conv_ok(conv) || audio->samples == 0 || audio->sample_rate < 8000 || audio->sample_rate > 48000)
        return OMID_EINVAL;
    if (in->draining || atomic_load(&in->sh->memory) + (int64_t)bytes > in->sh->memory_max)
        return OMID_EFULL;
    struct writing *w = calloc(1, sizeof(*w) + bytes);
    if (w == NULL)
        return OMID_EFULL;
    w->in = in;
    w->ask = ask;
    w->start_ms = start_ms;
    w->rate = audio->sample_rate;
    w->samples = audio->samples;
    w->per_file = (size_t)w->rate * in->sh->batch_ms / 1000;
    w->files = (unsigned)((w->samples + w->per_file - 1) / w->per_file);
    snprintf(w->conv, sizeof(w->conv), "%s", conv);
    in->host->uuid4(w->id);
    memcpy(w->pcm, audio->pcm, bytes);
    if (!uid_name(w->uid, uid)) {
        free(w);
        return OMID_EINVAL;
    }
    atomic_fetch_add(&in->sh->memory, (int64_t)bytes);
    if (work_start(in, "write_audio", write_run, write_done, w))
        return OMID_OK;
    atomic_fetch_sub(&in->sh->memory, (int64_t)bytes);
    free(w);
    return OMID_EFULL;
}

/* -------------------------------------------------------------------- read */

struct reading {
    struct reading *next;
    struct instance *in;
    struct omid_ask *ask;
    struct recording rec;
    int64_t from_ms, to_ms;
    bool found;
    struct reader *reader;
    int16_t *pcm;
    size_t n, cap;
};

static void reading_end(struct reading *r, int result, const char *text)
{
    struct instance *in = r->in;
    const struct omid_audio audio = {.size = sizeof(audio), .pcm = r->pcm, .samples = r->n, .sample_rate = RATE};
    struct reading **at = &in->readings;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    answer_with(in, &r->ask, result, text, result == OMID_OK ? &audio : NULL);
    in->n_reads--;
    reader_free(&r->reader);
    recording_free(&r->rec);
    free(r->pcm);
    free(r);
}

static void reading_go(void *arg)
{
    struct reading *r = arg;
    const int16_t *pcm;
    size_t n;
    int rc;
    while ((rc = reader_next(r->reader, &pcm, &n)) == OMID_OK && n > 0 && r->n + n <= r->cap) {
        memcpy(r->pcm + r->n, pcm, n * sizeof(*pcm));
        r->n += n;
    }
    if (rc == OMID_ERR)
        reading_end(r, OMID_ERR, reader_error(r->reader));
    else if (rc == OMID_OK)
        reading_end(r, OMID_OK, NULL);
}

/* Silence before the recording and behind it is not part of what there is: the range is cut to it. */
static void read_begin(struct reading *r)
{
    int64_t per_ms = RATE / 1000, from = (r->from_ms - r->rec.start_ms) * per_ms,
            to = (r->to_ms - r->rec.start_ms) * per_ms;
    int64_t total = (int64_t)r->rec.samples;
    size_t ahead = from < 0 ? (size_t)-from : 0; /* silence, so that the answer begins where it was asked to */
    from = from < 0 ? 0 : from;
    to = to > total ? total : to;
    bool any = false;
    for (size_t i = 0; i < r->rec.n; i++) {
        const struct piece *p = &r->rec.piece[i];
        any |= (int64_t)p->at < to && (int64_t)(p->at + p->samples * RATE / p->rate) > from;
    }
    if (to <= from || !any) {
        reading_end(r, OMID_ENOTSUP, "there is no audio in this range");
        return;
    }
    r->cap = ahead + (size_t)(to - from);
    r->n = ahead;
    r->pcm = calloc(r->cap, sizeof(*r->pcm));
    r->reader = r->pcm != NULL ? reader_new(r->in, &r->rec, (uint64_t)from, (uint64_t)to, reading_go, r) : NULL;
    if (r->reader == NULL)
        reading_end(r, OMID_EFULL, "out of memory");
    else
        reading_go(r);
}

static void look_run(struct shared *sh, void *arg)
{
    struct reading *r = arg;
    r->found = recording_load(sh, &r->rec);
}

static void look_done(struct instance *in, void *arg, bool ran)
{
    struct reading *r = arg;
    (void)in;
    if (!ran || !r->found)
        reading_end(r, ran ? OMID_ERR : OMID_ECLOSED, "the index can't be read");
    else if (r->rec.n == 0)
        reading_end(r, OMID_ENOTSUP, "there is no audio of this conversation");
    else
        read_begin(r);
}

static int role_read(void *state, const struct omid_audio_range *range, struct omid_ask *ask)
{
    struct instance *in = state;
    if (!conv_ok(range->conversation_id) || range->to_ms <= range->from_ms ||
        range->to_ms - range->from_ms > READ_MAX_MS)
        return OMID_EINVAL;
    struct reading *r = in->n_reads < in->sh->reads && !in->draining ? calloc(1, sizeof(*r)) : NULL;
    if (r == NULL)
        return OMID_EFULL;
    if (!uid_name(r->rec.uid, range->uid)) {
        free(r);
        return OMID_EINVAL;
    }
    snprintf(r->rec.conv, sizeof(r->rec.conv), "%s", range->conversation_id);
    if (conv_ok(range->session_id))
        snprintf(r->rec.session, sizeof(r->rec.session), "%s", range->session_id);
    r->in = in;
    r->ask = ask;
    r->from_ms = range->from_ms;
    r->to_ms = range->to_ms;
    if (!work_start(in, "look_up_audio", look_run, look_done, r)) {
        free(r);
        return OMID_EFULL;
    }
    r->next = in->readings;
    in->readings = r;
    in->n_reads++;
    return OMID_OK;
}

/* The host answers for those whose thread is still at work. */
void role_stop(struct instance *in)
{
    while (in->readings != NULL) {
        struct reading *r = in->readings;
        if (r->reader != NULL) {
            reading_end(r, OMID_ECLOSED, "stopped");
            continue;
        }
        in->readings = r->next;
    }
}

const struct omid_audio_store_role storage_role = {
    .size = sizeof(storage_role), .write = role_write, .read = role_read};
