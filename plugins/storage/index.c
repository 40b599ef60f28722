/*
 * What is stored of a conversation: <data_dir>/index/UID/CONV, a line for each batch. A line that a crash has cut is
 * not one, and what it stood for is stored again. The line of a session's audio has one word more, and is version 2.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage.h"

#define INDEX_MAX ((size_t)64 << 20)
#define TOMBSTONE_KEPT_MS INT64_C(172800000) /* longer than a job may be told of again */

void index_path(const struct shared *sh, char out[PATH_SIZE], const char *uid, const char *conv)
{
    snprintf(out, PATH_SIZE, "%s/index/%s/%s", sh->root, uid, conv);
}

static bool line_parse(char *line, struct piece *p)
{
    unsigned rate, crc;
    int at = 0, session = 0;
    char version;
    *p = (struct piece){0};
    if (sscanf(line, "%c %" SCNd64 " %u %" SCNu64 " %x %" SCNu64 " %c %n", &version, &p->start_ms, &rate, &p->samples,
               &crc, &p->bytes, &p->where, &at) != 7 ||
        at == 0 || (version != '1' && version != '2'))
        return false;
    if (version == '2' && (sscanf(line + at, "%64s %n", p->session, &session) != 1 || !conv_ok(p->session)))
        return false;
    at += session;
    if (line[at] == '\0' || rate < 8000 || rate > 48000 || p->samples == 0 || (p->where != 'd' && p->where != 'b'))
        return false;
    p->rate = rate;
    p->crc = crc;
    p->name = line + at;
    return true;
}

static int by_start(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;
    return x->start_ms != y->start_ms ? (x->start_ms < y->start_ms ? -1 : 1) : 0;
}

void pieces_free(struct piece *pieces, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(pieces[i].name);
    free(pieces);
}

static bool known(const struct piece *pieces, size_t n, const struct piece *p)
{
    for (size_t i = 0; i < n; i++) {
        if (pieces[i].start_ms == p->start_ms && strcmp(pieces[i].name, p->name) == 0)
            return true;
    }
    return false;
}

bool index_load(const struct shared *sh, const char *uid, const char *conv, struct piece **out, size_t *n_out)
{
    char path[PATH_SIZE];
    size_t len, n = 0, cap = 0;
    struct piece *pieces = NULL;
    *out = NULL;
    *n_out = 0;
    index_path(sh, path, uid, conv);
    char *text = read_file(path, 0, INDEX_MAX, &len);
    if (text == NULL)
        return errno == ENOENT;
    for (char *line = text, *end; (end = memchr(line, '\n', (size_t)(text + len - line))) != NULL; line = end + 1) {
        struct piece p;
        *end = '\0';
        if (!line_parse(line, &p) || known(pieces, n, &p))
            continue;
        if (n == cap) {
            cap = cap == 0 ? 16 : 2 * cap;
            struct piece *more = realloc(pieces, cap * sizeof(*pieces));
            if (more == NULL)
                break;
            pieces = more;
        }
        p.name = strdup(p.name);
        pieces[n] = p;
        n += p.name != NULL;
    }
    free(text);
    if (n > 0)
        qsort(pieces, n, sizeof(*pieces), by_start);
    *out = pieces;
    *n_out = n;
    return true;
}

/* Those who add and those who cut, of all processes and generations. */
static int index_lock(const struct shared *sh)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/index.lock", sh->root);
    int fd = open_made(path, O_RDWR | O_CREAT);
    while (fd >= 0 && flock(fd, LOCK_EX) != 0 && errno == EINTR) {
    }
    return fd;
}

static int line_print(char *out, size_t size, const struct piece *p)
{
    bool none = p->session[0] == '\0';
    return snprintf(out, size, "%c %" PRId64 " %u %" PRIu64 " %08x %" PRIu64 " %c %s%s%s\n", none ? '1' : '2',
                    p->start_ms, (unsigned)p->rate, p->samples, (unsigned)p->crc, p->bytes, p->where, p->session,
                    none ? "" : " ", p->name);
}

bool index_add(const struct shared *sh, const char *uid, const char *conv, const struct piece *p)
{
    char path[PATH_SIZE], line[PATH_SIZE + 256] = "\n", last = '\n';
    index_path(sh, path, uid, conv);
    int lock = index_lock(sh);
    int fd = lock >= 0 ? open_made(path, O_RDWR | O_CREAT | O_APPEND) : -1;
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : -1;
    bool ok = size >= 0 && (size == 0 || pread(fd, &last, 1, size - 1) == 1);
    if (ok) {
        size_t torn = last != '\n'; /* begins on a line of its own */
        int n = line_print(line + torn, sizeof(line) - torn, p);
        ok = write_whole(fd, line, (size_t)n + torn) && fdatasync(fd) == 0 && (size > 0 || sync_above(path));
    }
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (lock >= 0)
        close(lock);
    errno = error;
    return ok;
}

bool index_cut(const struct shared *sh, const char *uid, const char *conv, const struct piece *gone, size_t n_gone)
{
    char path[PATH_SIZE], line[PATH_SIZE + 256];
    struct piece *pieces;
    size_t n, kept = 0, len = 0;
    index_path(sh, path, uid, conv);
    int lock = index_lock(sh);
    if (lock < 0)
        return false;
    bool ok = index_load(sh, uid, conv, &pieces, &n);
    char *text = NULL;
    FILE *f = ok ? open_memstream(&text, &len) : NULL;
    for (size_t i = 0; f != NULL && i < n; i++) {
        if (known(gone, n_gone, &pieces[i]))
            continue;
        line_print(line, sizeof(line), &pieces[i]);
        fputs(line, f);
        kept++;
    }
    ok = f != NULL && fclose(f) == 0;
    if (ok && kept > 0)
        ok = replace_file(path, text, len);
    else if (ok) {
        ok = unlink(path) == 0 || errno == ENOENT;
        *strrchr(path, '/') = '\0';
        rmdir(path); /* the user's last */
    }
    free(text);
    pieces_free(pieces, n);
    close(lock);
    return ok;
}

/* A name that fits whatever the uid is. */
static void tombstone_path(const struct shared *sh, char out[PATH_SIZE], const char *uid, const char *conv)
{
    char sum[65];
    sha256_hex(sum, uid, strlen(uid));
    snprintf(out, PATH_SIZE, "%s/deleted/%s.%s", sh->root, conv, sum);
}

bool tombstone_make(const struct shared *sh, const char *uid, const char *conv)
{
    char path[PATH_SIZE];
    tombstone_path(sh, path, uid, conv);
    return replace_file(path, "", 0);
}

bool tombstone_there(const struct shared *sh, const char *uid, const char *conv)
{
    char path[PATH_SIZE];
    tombstone_path(sh, path, uid, conv);
    return access(path, F_OK) == 0;
}

void tombstones_sweep(const struct shared *sh, int64_t now_ms)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/deleted", sh->root);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        struct stat st;
        if (e->d_name[0] != '.' && fstatat(dirfd(dir), e->d_name, &st, 0) == 0 &&
            now_ms - (int64_t)st.st_mtime * 1000 > TOMBSTONE_KEPT_MS)
            unlinkat(dirfd(dir), e->d_name, 0);
    }
    if (dir != NULL)
        closedir(dir);
}
