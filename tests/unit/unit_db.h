/* What the tests of the queue and the store share. */
#ifndef OMID_TESTS_UNIT_DB_H
#define OMID_TESTS_UNIT_DB_H

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

/* A disk that others write to can keep an fsync() waiting for more than half a minute. */
#define UNIT_DEADLINE_MS 120000

#ifdef __SANITIZE_THREAD__
/* The children that are killed start threads of their own. Weak: a test's fixture has it, too. */
__attribute__((visibility("default"), weak)) const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "die_after_fork=0";
}
#endif

/* Waits for the condition, not for a time; false after the deadline. */
#define WAIT_FOR(cond)                                                            \
    __extension__({                                                               \
        uint64_t until_ = clock_mono_ms() + UNIT_DEADLINE_MS;                     \
        bool ok_;                                                                 \
        while (!(ok_ = (cond)) && clock_mono_ms() < until_)                       \
            nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);               \
        if (!ok_)                                                                 \
            fprintf(stderr, "%s:%d: timed out: %s\n", __FILE__, __LINE__, #cond); \
        ok_;                                                                      \
    })

/* Flat directories only. */
static inline void unit_rm_dir(const char *dir)
{
    char path[512];
    DIR *d = opendir(dir);
    if (d == NULL)
        return;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        if (unlink(path) != 0)
            rmdir(path);
    }
    closedir(d);
    rmdir(dir);
}

/* How many names in dir begin so. */
static inline int unit_files(const char *dir, const char *prefix)
{
    int n = 0;
    DIR *d = opendir(dir);
    if (d == NULL)
        return 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        n += strncmp(e->d_name, prefix, strlen(prefix)) == 0;
    closedir(d);
    return n;
}

/* The first of them, with its directory. */
static inline bool unit_first_file(const char *dir, const char *prefix, char *out, size_t size)
{
    bool found = false;
    DIR *d = opendir(dir);
    for (struct dirent *e; d != NULL && !found && (e = readdir(d)) != NULL;) {
        found = strncmp(e->d_name, prefix, strlen(prefix)) == 0;
        if (found)
            snprintf(out, size, "%s/%s", dir, e->d_name);
    }
    if (d != NULL)
        closedir(d);
    return found;
}

static inline void unit_write_file(const char *path, const void *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, len) != (ssize_t)len)
        abort();
    close(fd);
}

/* Runs SQL on a file as a stranger would. */
static inline bool unit_sql(const char *path, const char *sql)
{
    sqlite3 *db;
    char *err = NULL;
    bool ok = sqlite3_open(path, &db) == SQLITE_OK && sqlite3_exec(db, sql, NULL, NULL, &err) == SQLITE_OK;
    if (!ok)
        fprintf(stderr, "%s: %s: %s\n", path, sql, err ? err : sqlite3_errmsg(db));
    sqlite3_free(err);
    sqlite3_close(db);
    return ok;
}

static inline int64_t unit_sql_int(const char *path, const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *st = NULL;
    int64_t n = -1;
    if (sqlite3_open(path, &db) == SQLITE_OK && sqlite3_prepare_v2(db, sql, -1, &st, NULL) == SQLITE_OK &&
        sqlite3_step(st) == SQLITE_ROW)
        n = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}

/* A full disk: no file of this process may grow beyond `bytes`; 0: no bound again. */
static inline void unit_disk_limit(rlim_t bytes)
{
    struct rlimit r;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &r);
    r.rlim_cur = bytes ? bytes : r.rlim_max;
    setrlimit(RLIMIT_FSIZE, &r);
}

#endif
