#include "config.h"

#include "host/lint.h"

#include <stdio.h>
#include <string.h>

#include "base/magic.h"
#include "host/elf.h"

/* Size of struct omid_plugin as of each minor version: what a plugin of that version must say. */
static const uint32_t plugin_sizes[OMID_ABI_MINOR + 1] = {
    [0] = offsetof(struct omid_plugin, vad),
    [1] = offsetof(struct omid_plugin, embed),
    [2] = sizeof(struct omid_plugin),
};

#define SLEEPS "sleeps"
#define RESOLVES "resolves names: seconds when a server does not answer"
#define TRANSFERS "waits for a whole transfer; the host's http_start() does not"
#define JOINS "waits for another thread"
#define RUNS "waits for another process"
#define POLLS "waits for descriptors; the host's loop does that"
#define DISK "waits for the disk"
#define LOCKS "waits for another process's lock"
#define SIGNALS "waits for a signal"
#define USERS "asks the user database, which may be on the network"

/*
 * Calls that block whatever they are given. Not here: read(), connect() and their like, which don't block on the
 * descriptors a plugin should use, and pthread_mutex_lock(), which is held for moments when it is used well. The
 * names behind fortified and 64-bit-time headers are other names of the same.
 */
static const struct lint_finding blocking[] = {
    {"sleep", SLEEPS},
    {"usleep", SLEEPS},
    {"nanosleep", SLEEPS},
    {"__nanosleep64", SLEEPS},
    {"clock_nanosleep", SLEEPS},
    {"__clock_nanosleep_time64", SLEEPS},
    {"thrd_sleep", SLEEPS},
    {"getaddrinfo", RESOLVES},
    {"getnameinfo", RESOLVES},
    {"gai_suspend", RESOLVES},
    {"gethostbyname", RESOLVES},
    {"gethostbyname_r", RESOLVES},
    {"gethostbyname2", RESOLVES},
    {"gethostbyname2_r", RESOLVES},
    {"gethostbyaddr", RESOLVES},
    {"gethostbyaddr_r", RESOLVES},
    {"res_query", RESOLVES},
    {"res_search", RESOLVES},
    {"res_nquery", RESOLVES},
    {"res_nsearch", RESOLVES},
    {"curl_easy_perform", TRANSFERS},
    {"curl_multi_wait", TRANSFERS},
    {"curl_multi_poll", TRANSFERS},
    {"pthread_join", JOINS},
    {"pthread_timedjoin_np", JOINS},
    {"pthread_clockjoin_np", JOINS},
    {"thrd_join", JOINS},
    {"pthread_cond_wait", JOINS},
    {"pthread_cond_timedwait", JOINS},
    {"pthread_cond_clockwait", JOINS},
    {"pthread_barrier_wait", JOINS},
    {"cnd_wait", JOINS},
    {"cnd_timedwait", JOINS},
    {"sem_wait", JOINS},
    {"sem_timedwait", JOINS},
    {"sem_clockwait", JOINS},
    {"system", RUNS},
    {"popen", RUNS},
    {"pclose", RUNS},
    {"wait", RUNS},
    {"wait3", RUNS},
    {"wait4", RUNS},
    {"waitpid", RUNS},
    {"waitid", RUNS},
    {"poll", POLLS},
    {"__poll_chk", POLLS},
    {"ppoll", POLLS},
    {"__ppoll_chk", POLLS},
    {"select", POLLS},
    {"__select64", POLLS},
    {"pselect", POLLS},
    {"epoll_wait", POLLS},
    {"epoll_pwait", POLLS},
    {"epoll_pwait2", POLLS},
    {"fsync", DISK},
    {"fdatasync", DISK},
    {"msync", DISK},
    {"sync", DISK},
    {"syncfs", DISK},
    {"flock", LOCKS},
    {"lockf", LOCKS},
    {"lockf64", LOCKS},
    {"pause", SIGNALS},
    {"sigsuspend", SIGNALS},
    {"sigwait", SIGNALS},
    {"sigwaitinfo", SIGNALS},
    {"sigtimedwait", SIGNALS},
    {"getpwnam", USERS},
    {"getpwnam_r", USERS},
    {"getpwuid", USERS},
    {"getpwuid_r", USERS},
    {"getgrnam", USERS},
    {"getgrnam_r", USERS},
    {"getgrgid", USERS},
    {"getgrgid_r", USERS},
};
_Static_assert(ARRAY_LEN(blocking) <= LINT_MAX_FINDINGS, "each name is found once");

bool lint_head_check(const struct omid_plugin *p, size_t symbol_size, char *err, size_t errlen)
{
    size_t head = offsetof(struct omid_plugin, size) + sizeof(p->size);
    if (symbol_size != 0 && symbol_size < head) {
        snprintf(err, errlen, "the symbol " LINT_PLUGIN_SYMBOL " has %zu bytes: not a plugin descriptor", symbol_size);
        return false;
    }
    if (p->magic != OMID_PLUGIN_MAGIC) {
        snprintf(err, errlen, "wrong magic 0x%08x, expected 0x%08x", (unsigned)p->magic, (unsigned)OMID_PLUGIN_MAGIC);
        return false;
    }
    if (p->abi_major != OMID_ABI_MAJOR) {
        snprintf(err, errlen, "built for ABI %u.%u, this omid has %u.%u: build it again", p->abi_major, p->abi_minor,
                 OMID_ABI_MAJOR, OMID_ABI_MINOR);
        return false;
    }
    if (p->abi_minor > OMID_ABI_MINOR) {
        snprintf(err, errlen, "built for the newer ABI %u.%u, this omid has %u.%u", p->abi_major, p->abi_minor,
                 OMID_ABI_MAJOR, OMID_ABI_MINOR);
        return false;
    }
    if (p->size != plugin_sizes[p->abi_minor] || (symbol_size != 0 && symbol_size < p->size)) {
        snprintf(err, errlen, "its descriptor has %u bytes, expected %u for ABI %u.%u", (unsigned)p->size,
                 (unsigned)plugin_sizes[p->abi_minor], p->abi_major, p->abi_minor);
        return false;
    }
    return true;
}

/* As much of the descriptor as has no pointer in it: those are filled in when the file is loaded. */
static bool read_head(const struct elf *e, struct omid_plugin *p, char *err, size_t errlen)
{
    size_t head = offsetof(struct omid_plugin, flags) + sizeof(p->flags);
    uint64_t address, size;
    memset(p, 0, sizeof(*p));
    if (!elf_exported(e, LINT_PLUGIN_SYMBOL, &address, &size)) {
        snprintf(err, errlen, "no symbol " LINT_PLUGIN_SYMBOL ": not an omid plugin");
        return false;
    }
    size_t have = size == 0 || size > head ? head : (size_t)size;
    if (!elf_bytes(e, address, p, have)) {
        snprintf(err, errlen, "damaged: " LINT_PLUGIN_SYMBOL " lies outside of the file");
        return false;
    }
    return lint_head_check(p, (size_t)size, err, errlen);
}

static void add_finding(struct lint *out, const struct lint_finding *f)
{
    for (unsigned i = 0; i < out->n; i++) {
        if (out->finding[i].symbol == f->symbol) /* hostile, or of two versions */
            return;
    }
    omid_assert(out->n < LINT_MAX_FINDINGS);
    out->finding[out->n++] = *f;
}

static void find_blocking(const struct elf *e, struct lint *out)
{
    for (size_t i = 0; i < elf_symbol_count(e); i++) {
        const char *name = elf_undefined(e, i);
        for (size_t k = 0; name != NULL && k < ARRAY_LEN(blocking); k++) {
            if (strcmp(blocking[k].symbol, name) == 0)
                add_finding(out, &blocking[k]);
        }
    }
}

bool lint_file(const char *path, struct lint *out, char *err, size_t errlen)
{
    struct omid_plugin p;
    memset(out, 0, sizeof(*out));
    struct elf *e = elf_open(path, err, errlen);
    if (e == NULL)
        return false;
    bool ok = read_head(e, &p, err, errlen);
    if (ok) {
        out->abi_major = p.abi_major;
        out->abi_minor = p.abi_minor;
        out->on_executors = (p.flags & OMID_PLUGIN_BLOCKS_ON_EXECUTORS) != 0;
        find_blocking(e, out);
    }
    elf_close(&e);
    return ok;
}

void lint_symbols(const struct lint *l, char *out, size_t len)
{
    size_t used = 0;
    out[0] = '\0';
    for (unsigned i = 0; i < l->n; i++) {
        size_t room = len - used;
        int n = snprintf(out + used, room, "%s%s", i > 0 ? ", " : "", l->finding[i].symbol);
        if (n < 0 || (size_t)n + sizeof(" (128 of 128)") >= room) {
            snprintf(out + used, room, " (%u of %u)", i, l->n);
            return;
        }
        used += (size_t)n;
    }
}
