/*
 * The process's own metrics, under the names that Prometheus's client libraries use. Read from /proc when asked:
 * kernel memory, never a disk.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "admin/private.h"
#include "base/magic.h"

static void put(struct buf *out, const char *name, const char *type, const char *help, double value)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %.17g\n", name, help, name, type, name, value);
}

/* "Threads:\t12" and the like from /proc/self/status; -1 when it is not there. */
static long status_value(const char *text, const char *key)
{
    const char *at = strstr(text, key);
    return at == NULL ? -1 : strtol(at + strlen(key), NULL, 10);
}

static size_t read_file(const char *path, char *out, size_t len)
{
    FILE *f = fopen(path, "re");
    size_t n = 0;

    if (f != NULL) {
        n = fread(out, 1, len - 1, f);
        fclose(f);
    }
    out[n] = '\0';
    return n;
}

static int open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    if (dir == NULL)
        return -1;
    while (readdir(dir) != NULL) /* NOLINT(concurrency-mt-unsafe): the stream is our own */
        n++;
    closedir(dir);
    return n - 3; /* ".", "..", and the descriptor of the listing itself */
}

void process_collect(void *arg, struct buf *out)
{
    struct admin *a = arg;
    struct timespec cpu;
    struct rlimit limit;
    char status[8192];

    CHECK_MAGIC(a, ADMIN_MAGIC);
    if (read_file("/proc/self/status", status, sizeof(status)) > 0) {
        put(out, "process_resident_memory_bytes", "gauge", "Resident memory in bytes.",
            (double)status_value(status, "VmRSS:") * 1024);
        put(out, "process_virtual_memory_bytes", "gauge", "Virtual memory in bytes.",
            (double)status_value(status, "VmSize:") * 1024);
        put(out, "process_threads", "gauge", "Threads of the process.", (double)status_value(status, "\nThreads:"));
    }
    put(out, "process_open_fds", "gauge", "Open file descriptors.", open_fds());
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        put(out, "process_max_fds", "gauge", "Maximum number of open file descriptors.", (double)limit.rlim_cur);
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu) == 0)
        put(out, "process_cpu_seconds_total", "counter", "CPU time of user and system in seconds.",
            (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9);
    put(out, "process_start_time_seconds", "gauge", "Start time since the Unix epoch in seconds.",
        (double)a->started_wall_ms / 1e3);
    put(out, "omid_ready", "gauge", "1 while the daemon is ready for new sessions.",
        atomic_load(&a->phase) == ADMIN_READY ? 1 : 0);
    put(out, "omid_memory_sessions_bytes", "gauge",
        "Bytes in the buffers of all sessions, and of what clients have not sent to its end.", (double)budget_used());
    put(out, "omid_memory_sessions_limit_bytes", "gauge", "What memory.sessions allows.",
        (double)atomic_load(&a->memory_limit));
}
