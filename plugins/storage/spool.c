/*
 * The spool: <data_dir>/spool. CONV.START.SERIAL.run while it grows, locked by who writes it; .pcm when it is whole and
 * a job will take it, or has. A line, then samples, s16le. The line of a session's audio has one word more, and is
 * version 2.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage.h"

int spool_header(char out[HEADER_MAX], int64_t start_ms, uint32_t rate, const char *uid, const char *conv,
                 const char *session)
{
    bool none = session[0] == '\0';
    return snprintf(out, HEADER_MAX, "omid-spool %c %" PRId64 " %u %s %s%s%s\n", none ? '1' : '2', start_ms,
                    (unsigned)rate, uid, conv, none ? "" : " ", session);
}

bool spool_parse(struct spooled *s, const char *data, size_t len)
{
    char line[HEADER_MAX];
    const char *end = memchr(data, '\n', len < HEADER_MAX ? len : HEADER_MAX);
    int used = 0;
    char version;
    if (end == NULL)
        return false;
    s->header = (size_t)(end - data) + 1;
    memcpy(line, data, s->header - 1);
    line[s->header - 1] = '\0';
    s->session[0] = '\0';
    int words = sscanf(line, "omid-spool %c %" SCNd64 " %" SCNu32 " %255s %64s%n %64s%n", &version, &s->start_ms,
                       &s->rate, s->uid, s->conv, &used, s->session, &used);
    return ((version == '1' && words == 5) || (version == '2' && words == 6 && conv_ok(s->session))) &&
           (size_t)used == s->header - 1 && s->rate >= 8000 && s->rate <= 48000 && conv_ok(s->conv) &&
           strchr(s->uid, '/') == NULL && s->uid[0] != '.';
}

void spool_path(const struct shared *sh, char out[PATH_SIZE], const char *name)
{
    snprintf(out, PATH_SIZE, "%s/spool/%s", sh->root, name);
}

bool spool_remove(struct shared *sh, const char *name)
{
    char path[PATH_SIZE];
    struct stat st;
    spool_path(sh, path, name);
    bool there = stat(path, &st) == 0;
    if (unlink(path) != 0)
        return errno == ENOENT;
    if (there) {
        atomic_fetch_sub(&sh->spool, st.st_size);
        count_add(sh, COUNT_SPOOL_REMOVED, (uint64_t)st.st_size);
    }
    return true;
}

static bool ends_in(const char *name, const char *end)
{
    size_t n = strlen(name), e = strlen(end);
    return n > e && strcmp(name + n - e, end) == 0;
}

/* Of a process that is no more: nobody locks it. */
static void recover_running(const struct shared *sh, const char *name)
{
    char from[PATH_SIZE], to[PATH_SIZE];
    spool_path(sh, from, name);
    int fd = open(from, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fdatasync(fd) == 0) {
        snprintf(to, sizeof(to), "%.*s.pcm", (int)(strlen(from) - 4), from);
        (void)rename(from, to);
    }
    close(fd);
}

void spool_recover(struct shared *sh)
{
    char path[PATH_SIZE], name[NAME_SIZE];
    int64_t bytes = 0;
    spool_path(sh, path, "");
    DIR *dir = opendir(path);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        struct stat st;
        if (strlen(e->d_name) >= sizeof(name) || fstatat(dirfd(dir), e->d_name, &st, 0) != 0 || !S_ISREG(st.st_mode))
            continue;
        snprintf(name, sizeof(name), "%s", e->d_name);
        bytes += st.st_size;
        if (ends_in(name, ".new")) {
            spool_path(sh, path, name);
            unlink(path); /* nobody was told that it is kept */
            bytes -= st.st_size;
        } else if (ends_in(name, ".run")) {
            recover_running(sh, name);
        }
    }
    if (dir != NULL)
        closedir(dir);
    atomic_fetch_add(&sh->spool, bytes);
}

bool spool_walk(const struct shared *sh, DIR **dir, char (*name)[NAME_SIZE], size_t most, size_t *n)
{
    char path[PATH_SIZE];
    spool_path(sh, path, "");
    *n = 0;
    if (*dir == NULL && (*dir = opendir(path)) == NULL)
        return errno == ENOENT;
    for (struct dirent *e; *n < most;) {
        errno = 0;
        if ((e = readdir(*dir)) == NULL) {
            int error = errno;
            closedir(*dir);
            *dir = NULL;
            errno = error;
            return error == 0;
        }
        if (ends_in(e->d_name, ".pcm") && strlen(e->d_name) < NAME_SIZE)
            snprintf(name[(*n)++], NAME_SIZE, "%.*s", NAME_SIZE - 1, e->d_name);
    }
    return true;
}
