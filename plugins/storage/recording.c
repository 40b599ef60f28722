/* What there is of a conversation, stored or still in the spool, by time. Executor. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "storage.h"

#define SNAP 32 /* samples: times are kept in milliseconds, batches follow each other without a gap */

static bool add(struct recording *rec, const struct piece *p)
{
    struct piece *more = realloc(rec->piece, (rec->n + 1) * sizeof(*more));
    if (more == NULL)
        return false;
    rec->piece = more;
    rec->piece[rec->n++] = *p;
    return true;
}

static bool is_stored(const struct recording *rec, size_t stored, const struct piece *p)
{
    for (size_t i = 0; i < stored; i++) {
        if (rec->piece[i].start_ms == p->start_ms && rec->piece[i].samples == p->samples &&
            strcmp(rec->piece[i].session, p->session) == 0)
            return true;
    }
    return false;
}

static bool spool_piece(const char *path, const struct recording *rec, struct piece *p)
{
    struct spooled s;
    struct stat st;
    size_t len;
    char *head = read_file(path, 0, HEADER_MAX, &len);
    bool ok = head != NULL && spool_parse(&s, head, len) && stat(path, &st) == 0 && strcmp(s.uid, rec->uid) == 0 &&
              strcmp(s.conv, rec->conv) == 0;
    free(head);
    if (!ok || (uint64_t)st.st_size < s.header + 2)
        return false;
    *p = (struct piece){.start_ms = s.start_ms,
                        .rate = s.rate,
                        .samples = ((uint64_t)st.st_size - s.header) / 2,
                        .bytes = (uint64_t)st.st_size,
                        .where = 's'};
    memcpy(p->session, s.session, sizeof(p->session));
    return true;
}

static bool spool_load(const struct shared *sh, struct recording *rec)
{
    char path[PATH_SIZE];
    size_t len = strlen(rec->conv), stored = rec->n;
    spool_path(sh, path, "");
    DIR *dir = opendir(path);
    if (dir == NULL)
        return errno == ENOENT;
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        size_t n = strlen(e->d_name);
        struct piece p;
        if (strncmp(e->d_name, rec->conv, len) != 0 || e->d_name[len] != '.' || n < 4 ||
            (strcmp(e->d_name + n - 4, ".pcm") != 0 && strcmp(e->d_name + n - 4, ".run") != 0))
            continue;
        spool_path(sh, path, e->d_name);
        if (!spool_piece(path, rec, &p) || is_stored(rec, stored, &p))
            continue;
        if ((p.name = strdup(path)) == NULL || !add(rec, &p)) {
            free(p.name);
            break;
        }
    }
    closedir(dir);
    return true;
}

static int by_start(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;
    return x->start_ms != y->start_ms ? (x->start_ms < y->start_ms ? -1 : 1) : 0;
}

static bool is_ogg(const struct piece *p)
{
    size_t n = strlen(p->name);
    return p->where != 's' && n > 4 && strcmp(p->name + n - 4, ".ogg") == 0;
}

/* FNV-1a. */
static uint64_t sum_add(uint64_t sum, uint64_t value)
{
    for (int i = 0; i < 64; i += 8)
        sum = (sum ^ (value >> i & 0xff)) * UINT64_C(1099511628211);
    return sum;
}

/* Where each begins, and a sum over what would change if any of it did. */
static void lay_out(struct recording *rec)
{
    uint64_t end = 0, sum = UINT64_C(14695981039346656037);
    rec->all_ogg = true;
    rec->start_ms = rec->piece[0].start_ms;
    for (size_t i = 0; i < rec->n; i++) {
        struct piece *p = &rec->piece[i];
        uint64_t n = p->samples * RATE / p->rate;
        p->at = (uint64_t)(p->start_ms - rec->start_ms) * (RATE / 1000);
        if (i > 0 && p->at + SNAP >= end && p->at <= end + SNAP)
            p->at = end;
        end = p->at + n > end ? p->at + n : end;
        rec->bytes += p->bytes;
        rec->all_ogg &= is_ogg(p);
        sum = sum_add(sum_add(sum_add(sum, p->at), p->samples), p->rate);
    }
    rec->samples = end;
    snprintf(rec->etag, sizeof(rec->etag), "%016" PRIx64 "-%zx", sum, rec->n);
}

/* What another session has heard is left out, and, unless there is nothing of this one, what nobody knows of. */
static void keep_session(struct recording *rec)
{
    bool any = false;
    size_t kept = 0;
    for (size_t i = 0; i < rec->n; i++)
        any = any || strcmp(rec->piece[i].session, rec->session) == 0;
    for (size_t i = 0; i < rec->n; i++) {
        if (strcmp(rec->piece[i].session, any ? rec->session : "") == 0)
            rec->piece[kept++] = rec->piece[i];
        else
            free(rec->piece[i].name);
    }
    rec->n = kept;
}

bool recording_load(const struct shared *sh, struct recording *rec)
{
    rec->bytes = rec->samples = 0;
    if (tombstone_there(sh, rec->uid, rec->conv))
        return true; /* what is left of it is on its way out */
    if (!index_load(sh, rec->uid, rec->conv, &rec->piece, &rec->n) || !spool_load(sh, rec))
        return false;
    if (rec->session[0] != '\0')
        keep_session(rec);
    if (rec->n == 0)
        return true;
    qsort(rec->piece, rec->n, sizeof(*rec->piece), by_start);
    lay_out(rec);
    return true;
}

void recording_free(struct recording *rec)
{
    pieces_free(rec->piece, rec->n);
    rec->piece = NULL;
    rec->n = 0;
}
