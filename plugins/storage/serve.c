/*
 * GET and HEAD /v1/conversations/{id}/audio: the whole recording as one file, or a range of it (RFC 9110, one range).
 *
 * As WAV it is made on the way: a header, then the samples at 16 kHz with silence in the gaps, so that each byte has
 * its place before the first is read. As Ogg it is the stored batches one behind the other, a chained stream.
 */
#include <ctype.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>

#include "formats/wav.h"
#include "storage.h"

#define OGG_PIECE ((size_t)128 << 10)

struct range {
    bool given;
    uint64_t first, last; /* first > last: the last `last` bytes */
    bool suffix, open;
};

struct serve {
    struct serve *next;
    struct instance *in;
    struct omid_exchange *ex;
    struct recording rec;
    char if_none[128], if_range[128];
    struct range range;
    bool ogg, head, found, begun;
    uint64_t size, pos, end; /* bytes of the file; of what is sent */
    unsigned char header[WAV_HEADER_LEN];
    struct reader *reader;
    const unsigned char *ready; /* not taken yet */
    size_t n_ready;
    struct load *load;
    unsigned char *raw;
    size_t ogg_at; /* the piece that pos lies in */
    uint64_t ogg_base;
};

static void serve_free(struct serve *s)
{
    struct serve **at = &s->in->serves;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    s->in->n_reads--;
    reader_free(&s->reader);
    load_cancel(&s->load);
    free(s->raw);
    recording_free(&s->rec);
    free(s);
}

static void answer(struct serve *s, int status, const char *text, const char *const *headers)
{
    char body[256];
    int n = snprintf(body, sizeof(body), "{\"error\":\"%s\"}", text);
    s->in->host->respond_with(&s->ex, status, "application/json", headers, body, (size_t)n);
    serve_free(s);
}

/* What is not handed over is missing: the client sees it. */
static void serve_end(struct serve *s)
{
    s->in->host->respond_end(&s->ex);
    serve_free(s);
}

/* -------------------------------------------------------------------- pieces */

/* OMID_OK: something is ready, or nothing is left. */
static int next_wav(struct serve *s)
{
    if (s->pos < WAV_HEADER_LEN) {
        s->ready = s->header + s->pos;
        s->n_ready = WAV_HEADER_LEN - (size_t)s->pos;
        return OMID_OK;
    }
    const int16_t *pcm;
    size_t n;
    int rc = reader_next(s->reader, &pcm, &n);
    s->ready = (const unsigned char *)pcm;
    s->n_ready = n * sizeof(*pcm);
    if (rc == OMID_OK && n > 0 && (s->pos - WAV_HEADER_LEN) % 2 == 1) { /* begins in the middle of a sample */
        s->ready++;
        s->n_ready--;
    }
    return rc;
}

static void pump(void *arg);

static void on_raw(void *arg, struct loaded *l)
{
    struct serve *s = arg;
    s->load = NULL;
    s->raw = l->raw;
    s->ready = s->raw;
    s->n_ready = l->len;
    if (l->rc != OMID_OK || l->len == 0)
        serve_end(s); /* its length was promised */
    else
        pump(s);
}

static int next_ogg(struct serve *s)
{
    free(s->raw);
    s->raw = NULL;
    while (s->pos >= s->ogg_base + s->rec.piece[s->ogg_at].bytes)
        s->ogg_base += s->rec.piece[s->ogg_at++].bytes;
    const struct piece *p = &s->rec.piece[s->ogg_at];
    uint64_t from = s->pos - s->ogg_base, left = p->bytes - from;
    s->load = load_raw(s->in, &s->rec, p, from, left < OGG_PIECE ? (size_t)left : OGG_PIECE, on_raw, s);
    return s->load != NULL ? OMID_EFULL : OMID_ERR;
}

static void pump(void *arg)
{
    struct serve *s = arg;
    while (s->pos < s->end) {
        if (s->n_ready == 0) {
            int rc = s->ogg ? next_ogg(s) : next_wav(s);
            if (rc == OMID_EFULL)
                return;
            if (rc != OMID_OK || s->n_ready == 0)
                break;
        }
        if (s->n_ready > s->end - s->pos)
            s->n_ready = (size_t)(s->end - s->pos);
        int rc = s->in->host->respond_data(s->ex, s->ready, s->n_ready);
        if (rc == OMID_EFULL)
            return; /* writable() */
        if (rc != OMID_OK)
            break;
        s->pos += s->n_ready;
        s->n_ready = 0;
    }
    serve_end(s);
}

static void writable(void *arg, struct omid_exchange *ex)
{
    (void)ex;
    pump(arg);
}

/* -------------------------------------------------------------------- the head */

/* One range of bytes; anything else is as if there were none. */
static void range_parse(struct range *r, const char *text)
{
    char *end;
    if (strncasecmp(text, "bytes=", 6) != 0 || strchr(text, ',') != NULL)
        return;
    text += 6;
    if (*text == '-' && isdigit((unsigned char)text[1])) {
        r->last = strtoull(text + 1, &end, 10);
        r->suffix = r->given = *end == '\0';
    } else if (isdigit((unsigned char)*text)) {
        r->first = strtoull(text, &end, 10);
        r->open = end[0] == '-' && end[1] == '\0';
        if (r->open) {
            r->given = true;
        } else if (end[0] == '-' && isdigit((unsigned char)end[1])) {
            r->last = strtoull(end + 1, &end, 10);
            r->given = *end == '\0' && r->last >= r->first;
        }
    }
}

/* false: none of it is there. */
static bool range_apply(struct serve *s)
{
    const struct range *r = &s->range;
    s->pos = 0;
    s->end = s->size;
    if (!r->given)
        return true;
    if (r->suffix) {
        s->pos = r->last < s->size ? s->size - r->last : 0;
        return r->last > 0;
    }
    s->pos = r->first;
    if (!r->open && r->last < s->size - 1)
        s->end = r->last + 1;
    return r->first < s->size;
}

static bool etag_among(const char *list, const char *etag)
{
    return strcmp(list, "*") == 0 || strstr(list, etag) != NULL;
}

static bool begin_wav(struct serve *s)
{
    uint32_t bytes = (uint32_t)(s->rec.samples * 2);
    wav_write(s->header, NULL, 0, RATE);
    const uint32_t riff = bytes + WAV_HEADER_LEN - 8;
    for (int i = 0; i < 4; i++) {
        s->header[4 + i] = (unsigned char)(riff >> (8 * i));
        s->header[40 + i] = (unsigned char)(bytes >> (8 * i));
    }
    uint64_t from = s->pos > WAV_HEADER_LEN ? (s->pos - WAV_HEADER_LEN) / 2 : 0;
    uint64_t to = s->end > WAV_HEADER_LEN ? (s->end - WAV_HEADER_LEN + 1) / 2 : 0;
    s->reader = reader_new(s->in, &s->rec, from, to, pump, s);
    return s->reader != NULL;
}

static void serve_begin(struct serve *s)
{
    const struct omid_host *host = s->in->host;
    const struct omid_stream stream = {.size = sizeof(stream), .writable = writable, .arg = s};
    char etag[64], line[80], content_range[96];
    const char *headers[6] = {"Accept-Ranges: bytes", line, "Cache-Control: private, no-cache"};
    snprintf(etag, sizeof(etag), "\"%s-%s\"", s->rec.etag, s->ogg ? "ogg" : "wav");
    snprintf(line, sizeof(line), "ETag: %s", etag);
    s->size = s->ogg ? s->rec.bytes : WAV_HEADER_LEN + 2 * s->rec.samples;
    if (s->if_none[0] != '\0' && etag_among(s->if_none, etag)) {
        host->respond_with(&s->ex, 304, NULL, headers, NULL, 0);
        serve_free(s);
        return;
    }
    if (s->if_range[0] != '\0' && strcmp(s->if_range, etag) != 0)
        s->range.given = false; /* of another state of it, or of a date: all of it */
    bool there = range_apply(s);
    if (s->range.given)
        headers[3] = content_range;
    if (!there) {
        snprintf(content_range, sizeof(content_range), "Content-Range: bytes */%" PRIu64, s->size);
        answer(s, 416, "Range: nothing of it is there", headers);
        return;
    }
    snprintf(content_range, sizeof(content_range), "Content-Range: bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, s->pos,
             s->end - 1, s->size);
    if (!s->ogg && !begin_wav(s)) {
        answer(s, 503, "out of memory", NULL);
        return;
    }
    int rc = host->respond_begin(s->ex, s->range.given ? 206 : 200, s->ogg ? "audio/ogg" : "audio/wav", headers,
                                 s->end - s->pos, &stream);
    if (rc != OMID_OK) {
        host->respond(&s->ex, 503, NULL, NULL, 0);
        serve_free(s);
        return;
    }
    s->begun = true;
    if (s->pos == s->end || s->head)
        serve_end(s);
    else
        pump(s);
}

static void load_run(struct shared *sh, void *arg)
{
    struct serve *s = arg;
    s->found = recording_load(sh, &s->rec);
}

static void load_done(struct instance *in, void *arg, bool ran)
{
    struct serve *s = arg;
    if (in->stopping)
        return;
    if (!ran || !s->found)
        answer(s, 503, ran ? "the index can't be read" : "going away", NULL);
    else if (s->rec.n == 0)
        answer(s, 404, "id: there is no audio of this conversation", NULL);
    else if (s->ogg && !s->rec.all_ogg)
        answer(s, 406, "format: not all of it is stored as Ogg, ask for wav", NULL);
    else if (!s->ogg && s->rec.samples > WAV_MAX_SAMPLES)
        answer(s, 422, "format: it is longer than a WAV file can be", NULL);
    else
        serve_begin(s);
}

/* wav, ogg, or nothing: wav. */
static bool format_parse(const char *query, bool *ogg)
{
    *ogg = strcmp(query, "format=ogg") == 0;
    return *ogg || *query == '\0' || strcmp(query, "format=wav") == 0;
}

static void take_headers(struct serve *s, const struct omid_request *req)
{
    for (size_t i = 0; i < req->n_headers; i++) {
        const struct omid_header *h = &req->headers[i];
        if (strcmp(h->name, "range") == 0)
            range_parse(&s->range, h->value);
        else if (strcmp(h->name, "if-range") == 0)
            snprintf(s->if_range, sizeof(s->if_range), "%s", h->value);
        else if (strcmp(h->name, "if-none-match") == 0)
            snprintf(s->if_none, sizeof(s->if_none), "%s", h->value);
    }
}

static int refuse(struct instance *in, struct omid_exchange *ex, int status, const char *text)
{
    static const char *const later[] = {"Retry-After: 2", NULL};
    char body[256];
    int n = snprintf(body, sizeof(body), "{\"error\":\"%s\"}", text);
    in->host->respond_with(&ex, status, "application/json", status == 503 ? later : NULL, body, (size_t)n);
    return OMID_OK;
}

int serve_get(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct instance *in = state;
    const char *id = req->params[0];
    bool ogg;
    if (!conv_ok(id))
        return refuse(in, ex, 404, "id: there is no such conversation");
    if (!format_parse(req->query, &ogg))
        return refuse(in, ex, 400, "format: expected wav or ogg");
    struct serve *s = in->n_reads < in->sh->reads && !in->draining ? calloc(1, sizeof(*s)) : NULL;
    if (s == NULL)
        return refuse(in, ex, 503, "too many recordings are read, try again later");
    s->next = in->serves;
    in->serves = s;
    in->n_reads++;
    s->in = in;
    s->ex = ex;
    s->ogg = ogg;
    s->head = strcmp(req->method, "HEAD") == 0;
    snprintf(s->rec.conv, sizeof(s->rec.conv), "%s", id);
    take_headers(s, req);
    if (!uid_name(s->rec.uid, req->uid))
        answer(s, 404, "id: there is no such conversation", NULL);
    else if (!work_start(in, "look_up_audio", load_run, load_done, s))
        answer(s, 503, "too much to do, try again later", NULL);
    return OMID_OK;
}

void serve_stop(struct instance *in)
{
    while (in->serves != NULL) {
        struct serve *s = in->serves;
        if (s->begun) {
            serve_end(s);
            continue;
        }
        /* Its thread may still look at it: left behind; the host answers for it. */
        in->serves = s->next;
    }
}
