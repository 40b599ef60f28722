/* Files, on executor threads. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage.h"

#define READ_MAX ((size_t)64 << 20)

static bool made_above(const char *path)
{
    char copy[PATH_SIZE];
    snprintf(copy, sizeof(copy), "%s", path);
    for (char *p = copy + 1; *p != '\0'; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (mkdir(copy, 0700) != 0 && errno != EEXIST)
            return false;
        *p = '/';
    }
    return true;
}

int open_made(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);
    if (fd < 0 && errno == ENOENT && (flags & O_CREAT) != 0 && made_above(path))
        fd = open(path, flags | O_CLOEXEC, 0600);
    return fd;
}

bool write_whole(int fd, const void *data, size_t len)
{
    const char *p = data;
    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n == 0)
                errno = ENOSPC;
            return false;
        }
        p += n;
        len -= (size_t)n;
    }
    return true;
}

bool sync_above(const char *path)
{
    char copy[PATH_SIZE];
    snprintf(copy, sizeof(copy), "%s", path);
    char *slash = strrchr(copy, '/');
    if (slash == NULL)
        return true;
    slash[slash == copy] = '\0';
    int fd = open(copy, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool ok = fsync(fd) == 0 || errno == EINVAL; /* file systems that have no such thing */
    int error = errno;
    close(fd);
    errno = error;
    return ok;
}

void *read_file(const char *path, uint64_t from, size_t len_max, size_t *len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    char *data = NULL;
    *len = 0;
    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) == 0 && !S_ISREG(st.st_mode)) {
        errno = EINVAL;
    } else {
        uint64_t there = (uint64_t)st.st_size > from ? (uint64_t)st.st_size - from : 0;
        size_t want = there < len_max ? (size_t)there : len_max;
        if (want > READ_MAX)
            errno = EFBIG;
        else if ((data = malloc(want + 1)) != NULL) {
            while (*len < want) {
                ssize_t n = pread(fd, data + *len, want - *len, (off_t)(from + *len));
                if (n < 0 && errno == EINTR)
                    continue;
                if (n <= 0)
                    break;
                *len += (size_t)n;
            }
            data[*len] = '\0';
        }
    }
    int error = errno;
    close(fd);
    errno = error;
    return data;
}

bool replace_file(const char *path, const void *data, size_t len)
{
    char beside[PATH_SIZE + 8];
    snprintf(beside, sizeof(beside), "%s.new", path);
    int fd = open_made(beside, O_WRONLY | O_CREAT | O_TRUNC);
    if (fd < 0)
        return false;
    bool ok = write_whole(fd, data, len) && fdatasync(fd) == 0;
    int error = errno;
    close(fd);
    if (ok && rename(beside, path) == 0 && sync_above(path))
        return true;
    error = ok ? errno : error;
    unlink(beside);
    errno = error;
    return false;
}
