/* The samples of a recording, one after the other: pieces are brought into memory as their time comes and leave it when
 * it is over; what lies between them is silence, what lies over each other is mixed. */
#include <string.h>

#include "formats/wav.h"
#include "storage.h"

#define WINDOW 65536 /* samples at once */

struct reader {
    struct instance *in;
    const struct recording *rec;
    uint64_t pos, to;
    void (*ready)(void *arg);
    void *arg;
    size_t next;       /* of rec->piece: not looked at yet */
    struct load *load; /* of place[n] */
    struct place {
        uint64_t at, end;
        int16_t *pcm;
    } place[MAX_PARALLEL];
    size_t n;
    char error[160];
    int16_t out[WINDOW];
};

struct reader *reader_new(struct instance *in, const struct recording *rec, uint64_t from, uint64_t to,
                          void (*ready)(void *arg), void *arg)
{
    struct reader *r = calloc(1, sizeof(*r));
    if (r != NULL)
        *r = (struct reader){.in = in, .rec = rec, .pos = from, .to = to, .ready = ready, .arg = arg};
    return r;
}

const char *reader_error(const struct reader *r)
{
    return r->error;
}

/* Of a range: samples as they lie in the file. */
static void take_raw(struct loaded *l)
{
    l->samples = l->len / 2;
    l->pcm = malloc((l->samples + 1) * sizeof(*l->pcm));
    if (l->pcm == NULL) {
        l->rc = OMID_ERR;
        snprintf(l->error, sizeof(l->error), "no memory");
    }
    for (size_t i = 0; l->pcm != NULL && i < l->samples; i++)
        l->pcm[i] = (int16_t)(uint16_t)(l->raw[2 * i] | l->raw[2 * i + 1] << 8);
    free(l->raw);
    l->raw = NULL;
}

static void on_loaded(void *arg, struct loaded *l)
{
    struct reader *r = arg;
    r->load = NULL;
    struct place *p = &r->place[r->n];
    if (l->rc == OMID_OK && l->pcm == NULL)
        take_raw(l);
    if (l->rc == OMID_OK) {
        p->pcm = l->pcm;
        if (p->end > p->at + l->samples)
            p->end = p->at + l->samples;
        r->n++;
    } else if (l->rc != OMID_ENOTSUP) { /* what is gone is silence */
        snprintf(r->error, sizeof(r->error), "%s", l->error[0] != '\0' ? l->error : "it can't be read");
    }
    r->ready(r->arg);
}

static void leave_behind(struct reader *r)
{
    for (size_t i = 0; i < r->n;) {
        if (r->place[i].end > r->pos) {
            i++;
            continue;
        }
        free(r->place[i].pcm);
        r->place[i] = r->place[--r->n];
    }
}

static uint64_t samples_of(const struct piece *p)
{
    return p->samples * RATE / p->rate;
}

/* A WAV of ours at the rate that is read: each sample has its place in the file, and a part of it is enough. */
static bool has_places(const struct piece *p)
{
    size_t n = strlen(p->name);
    return p->where != 's' && p->rate == RATE && p->bytes == wav_size((size_t)p->samples) && n > 4 &&
           strcmp(p->name + n - 4, ".wav") == 0;
}

static void bring_one(struct reader *r, const struct piece *p)
{
    struct place *place = &r->place[r->n];
    *place = (struct place){.at = p->at, .end = p->at + samples_of(p)};
    uint64_t from = r->pos > place->at ? r->pos : place->at, to = r->to < place->end ? r->to : place->end;
    if (to - from < place->end - place->at && has_places(p)) {
        uint64_t first = WAV_HEADER_LEN + 2 * (from - place->at);
        *place = (struct place){.at = from, .end = to};
        r->load = load_raw(r->in, r->rec, p, first, (size_t)(2 * (to - from)), on_loaded, r);
    } else {
        r->load = load_pcm(r->in, r->rec, p, on_loaded, r);
    }
    if (r->load == NULL)
        snprintf(r->error, sizeof(r->error), "no memory");
}

/* true: one is on its way. */
static bool bring(struct reader *r)
{
    for (; r->next < r->rec->n && r->rec->piece[r->next].at <= r->pos; r->next++) {
        const struct piece *p = &r->rec->piece[r->next];
        if (p->at + samples_of(p) <= r->pos)
            continue;
        if (r->n == MAX_PARALLEL) {
            r->in->host->log(r->in->mod, OMID_LOG_WARNING,
                             "more than %d recordings of conversation %s play at once: one is left out", MAX_PARALLEL,
                             r->rec->conv);
            continue;
        }
        bring_one(r, p);
        r->next++;
        return true;
    }
    return false;
}

static void mix(int16_t *out, const struct place *p, uint64_t from, uint64_t to)
{
    uint64_t a = p->at > from ? p->at : from, b = p->end < to ? p->end : to;
    for (uint64_t i = a; i < b; i++) {
        int v = out[i - from] + p->pcm[i - p->at];
        out[i - from] = (int16_t)(v > INT16_MAX ? INT16_MAX : v < INT16_MIN ? INT16_MIN : v);
    }
}

int reader_next(struct reader *r, const int16_t **pcm, size_t *n)
{
    *n = 0;
    *pcm = r->out;
    if (r->error[0] != '\0')
        return OMID_ERR;
    if (r->load != NULL)
        return OMID_EFULL;
    if (r->pos >= r->to)
        return OMID_OK;
    leave_behind(r);
    if (bring(r))
        return r->load != NULL ? OMID_EFULL : OMID_ERR;
    uint64_t end = r->pos + WINDOW < r->to ? r->pos + WINDOW : r->to;
    if (r->next < r->rec->n && r->rec->piece[r->next].at < end)
        end = r->rec->piece[r->next].at;
    *n = (size_t)(end - r->pos);
    memset(r->out, 0, *n * sizeof(*r->out));
    for (size_t i = 0; i < r->n; i++)
        mix(r->out, &r->place[i], r->pos, end);
    r->pos = end;
    return OMID_OK;
}

void reader_free(struct reader **rp)
{
    struct reader *r = *rp;
    *rp = NULL;
    if (r == NULL)
        return;
    load_cancel(&r->load);
    for (size_t i = 0; i < r->n; i++)
        free(r->place[i].pcm);
    free(r);
}
