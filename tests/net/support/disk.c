/*
 * Preloaded into the daemon: a disk that can't be trusted. While the file that $OMID_DISK_FAILS names exists, what is
 * to be synced within $OMID_DISK_UNDER is not: fsync() and fdatasync() give EIO, and what was written to the file since
 * its last sync is zeroed, as a kernel does that drops the pages it could not write.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define MAX_FD 4096
#define MAX_WRITES 65536

struct range {
    off_t at;
    size_t len;
};

static struct range *written[MAX_FD]; /* since the last sync */
static unsigned n_written[MAX_FD];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int is_ours(int fd)
{
    char link[64], path[4096];
    const char *under = getenv("OMID_DISK_UNDER");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (under == NULL || n <= 0)
        return 0;
    path[n] = '\0';
    return strncmp(path, under, strlen(under)) == 0;
}

static void note(int fd, off_t at, size_t len)
{
    if (fd < 0 || fd >= MAX_FD || !is_ours(fd))
        return;
    pthread_mutex_lock(&lock);
    if (written[fd] == NULL)
        written[fd] = calloc(MAX_WRITES, sizeof(struct range));
    if (written[fd] != NULL && n_written[fd] < MAX_WRITES)
        written[fd][n_written[fd]++] = (struct range){at, len};
    pthread_mutex_unlock(&lock);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at)
{
    static ssize_t (*next)(int, const void *, size_t, off64_t);
    if (next == NULL)
        next = (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    ssize_t n = next(fd, data, len, at);
    if (n > 0)
        note(fd, (off_t)at, (size_t)n);
    return n;
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t at)
{
    return pwrite64(fd, data, len, at);
}

int close(int fd)
{
    static int (*next)(int);
    if (next == NULL)
        next = (int (*)(int))dlsym(RTLD_NEXT, "close");
    if (fd >= 0 && fd < MAX_FD) {
        pthread_mutex_lock(&lock);
        n_written[fd] = 0; /* the number may be another file's next */
        pthread_mutex_unlock(&lock);
    }
    return next(fd);
}

static int sync_with(const char *name, int fd)
{
    static const char zeros[65536];
    const char *fails = getenv("OMID_DISK_FAILS");
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    ssize_t (*put)(int, const void *, size_t, off64_t) =
        (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    int failed = fails != NULL && access(fails, F_OK) == 0 && is_ours(fd);

    if (fd >= 0 && fd < MAX_FD) {
        pthread_mutex_lock(&lock);
        for (unsigned i = 0; failed && i < n_written[fd]; i++) {
            struct range r = written[fd][i];
            for (size_t done = 0; done < r.len;) {
                size_t some = r.len - done < sizeof zeros ? r.len - done : sizeof zeros;
                if (put(fd, zeros, some, r.at + (off_t)done) <= 0)
                    break;
                done += some;
            }
        }
        n_written[fd] = 0;
        pthread_mutex_unlock(&lock);
    }
    if (!failed)
        return next(fd);
    errno = EIO;
    return -1;
}

int fsync(int fd)
{
    return sync_with("fsync", fd);
}

int fdatasync(int fd)
{
    return sync_with("fdatasync", fd);
}
