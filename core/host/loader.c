#include "config.h"

#include "host/loader.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/list.h"
#include "base/magic.h"
#include "host/host.h"
#include "host/lint.h"
#include "host/module.h"

/* After libev: both know an EV_NONE, of which this one is a macro. */
#include <link.h>

#define LIBRARY_MAGIC UINT32_C(0x6c696272)
#define MAX_NAME 32
#define MAX_OPTIONS 256
#define MAX_FILE ((off_t)256 << 20) /* bytes of a plugin's file */

struct library {
    uint32_t magic;
    struct list link;
    int fd; /* the private copy; open as long as dl, whose name it is */
    size_t size;
    void *dl;
    const char *name; /* interned */
    struct omid_plugin plugin;
    struct lint lint;
    char path[];
};

struct loader {
    struct list open; /* of struct library: those that no module took */
    bool strict;      /* daemon.strict_lint */
};

struct loader *loader_new(void)
{
    struct loader *l = calloc(1, sizeof(*l));
    if (l != NULL)
        list_init(&l->open);
    return l;
}

void loader_clear(struct loader *l)
{
    for (struct list *it; (it = list_pop(&l->open)) != NULL;) {
        struct library *lib = list_entry(it, struct library, link);
        library_close(&lib);
    }
}

void loader_free(struct loader **lp)
{
    struct loader *l = *lp;
    *lp = NULL;
    if (l == NULL)
        return;
    loader_clear(l);
    free(l);
}

/* Destructors run: the watchdog shall know whose. A last user on another thread than the main one has no pulse. */
static void file_close(struct library *lib)
{
    bool on_main = gettid() == getpid();
    struct pulse_doing none = {.owner = NULL};
    if (on_main)
        none = pulse_doing_enter(&pulse_main, lib->name, "dlclose");
    dlclose(lib->dl);
    if (on_main)
        pulse_doing_leave(&pulse_main, none);
}

void library_close(struct library **libp)
{
    struct library *lib = *libp;
    *libp = NULL;
    if (lib == NULL)
        return;
    CHECK_MAGIC(lib, LIBRARY_MAGIC);
    if (lib->dl != NULL)
        file_close(lib);
    if (lib->fd >= 0)
        close(lib->fd);
    lib->magic = OMID_MAGIC_DEAD;
    free(lib);
}

const struct omid_plugin *library_plugin(const struct library *lib)
{
    CHECK_MAGIC(lib, LIBRARY_MAGIC);
    return &lib->plugin;
}

const struct lint *library_lint(const struct library *lib)
{
    CHECK_MAGIC(lib, LIBRARY_MAGIC);
    return &lib->lint;
}

/* ------------------------------------------------------------ checks */

static bool name_valid(const char *s)
{
    if (s == NULL || *s < 'a' || *s > 'z')
        return false;
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_-");
    return s[n] == '\0' && n <= MAX_NAME;
}

static bool option_check(const struct omid_option *o, const char **why)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
    *why = o->name[0] == '\0' || o->name[strspn(o->name, letters)] != '\0'          ? "its name is not [a-z0-9_]+"
           : (unsigned)o->type > OMID_OPT_SECRET                                    ? "unknown type"
           : o->type == OMID_OPT_ENUM && o->choices == NULL                         ? "an ENUM without choices"
           : o->help == NULL || *o->help == '\0'                                    ? "no help text"
           : o->min > o->max                                                        ? "its minimum is above its maximum"
           : (o->flags & ~(unsigned)(OMID_OPT_REQUIRED | OMID_OPT_RELOADABLE)) != 0 ? "unknown flags"
                                                                                    : NULL;
    return *why == NULL;
}

static bool options_check(const struct omid_plugin *p, char *err, size_t errlen)
{
    if (p->options == NULL)
        return true;
    for (unsigned i = 0; p->options[i].name != NULL; i++) {
        const struct omid_option *o = &p->options[i];
        const char *why;
        if (i == MAX_OPTIONS) {
            snprintf(err, errlen, "more than %d options, or a table without end", MAX_OPTIONS);
            return false;
        }
        if (!option_check(o, &why)) {
            snprintf(err, errlen, "option %u (%.32s): %s", i + 1, o->name, why);
            return false;
        }
        for (unsigned j = 0; j < i; j++) {
            if (strcmp(p->options[j].name, o->name) == 0) {
                snprintf(err, errlen, "option %s is in its table twice", o->name);
                return false;
            }
        }
    }
    return true;
}

/* Of the roles that are asked; those that may be absent aside. */
static const char *missing_answerer(const struct omid_plugin *p)
{
    if (p->embed != NULL && p->embed->embed == NULL)
        return "embed.embed";
    if (p->geocode != NULL && p->geocode->geocode == NULL)
        return "geocode.geocode";
    if (p->summarize != NULL && p->summarize->summarize == NULL)
        return "summarize.summarize";
    if (p->audio_store != NULL && (p->audio_store->write == NULL || p->audio_store->read == NULL))
        return "audio_store.write or audio_store.read";
    if (p->hooks != NULL && (p->hooks->setup_check == NULL || p->hooks->test == NULL))
        return "hooks.setup_check or hooks.test";
    return NULL;
}

static const char *missing_callback(const struct omid_plugin *p)
{
    if (p->start == NULL)
        return "start";
    if (p->stop == NULL)
        return "stop";
    if (p->events != 0 && p->event == NULL)
        return "event (it subscribes to events)";
    const struct omid_stt_role *s = p->stt;
    const struct omid_vad_role *v = p->vad;
    if (s != NULL && s->serves == NULL)
        return "stt.serves";
    if (s != NULL && s->open == NULL)
        return "stt.open";
    if (s != NULL && s->audio == NULL)
        return "stt.audio";
    if (s != NULL && s->close == NULL)
        return "stt.close";
    if (s != NULL && s->release == NULL)
        return "stt.release";
    if (v != NULL && v->open == NULL)
        return "vad.open";
    if (v != NULL && v->window == NULL)
        return "vad.window";
    if (v != NULL && v->close == NULL)
        return "vad.close";
    return missing_answerer(p);
}

/* A role has the size that it had in the plugin's version or in a later one; what is beyond it is absent. */
static bool role_check(const char *role, uint32_t size, const uint32_t *known, unsigned n, char *err, size_t errlen)
{
    for (unsigned i = 0; i < n; i++) {
        if (size == known[i])
            return true;
    }
    snprintf(err, errlen, "its %s role has %u bytes, expected %u", role, (unsigned)size, (unsigned)known[n - 1]);
    return false;
}

static bool roles_check(const struct omid_plugin *p, char *err, size_t errlen)
{
    static const uint32_t stt[] = {offsetof(struct omid_stt_role, stats), offsetof(struct omid_stt_role, transcribe),
                                   sizeof(struct omid_stt_role)};
    static const uint32_t vad[] = {offsetof(struct omid_vad_role, scan), sizeof(struct omid_vad_role)};
    static const uint32_t embed[] = {sizeof(struct omid_embed_role)}, geocode[] = {sizeof(struct omid_geocode_role)},
                          summarize[] = {sizeof(struct omid_summarize_role)},
                          audio_store[] = {sizeof(struct omid_audio_store_role)},
                          hooks[] = {sizeof(struct omid_hooks_role)};
    if ((p->stt != NULL && !role_check("stt", p->stt->size, stt, ARRAY_LEN(stt), err, errlen)) ||
        (p->vad != NULL && !role_check("vad", p->vad->size, vad, ARRAY_LEN(vad), err, errlen)))
        return false;
    return (p->embed == NULL || role_check("embed", p->embed->size, embed, 1, err, errlen)) &&
           (p->geocode == NULL || role_check("geocode", p->geocode->size, geocode, 1, err, errlen)) &&
           (p->summarize == NULL || role_check("summarize", p->summarize->size, summarize, 1, err, errlen)) &&
           (p->audio_store == NULL || role_check("audio_store", p->audio_store->size, audio_store, 1, err, errlen)) &&
           (p->hooks == NULL || role_check("hooks", p->hooks->size, hooks, 1, err, errlen));
}

static bool plugin_check(const struct omid_plugin *p, const char *name, char *err, size_t errlen)
{
    if (!name_valid(p->name)) {
        snprintf(err, errlen, "its name is not [a-z][a-z0-9_-]* of at most %d characters", MAX_NAME);
        return false;
    }
    if (strcmp(p->name, name) != 0) {
        snprintf(err, errlen, "it is the plugin \"%s\", not \"%s\"", p->name, name);
        return false;
    }
    if (p->version == NULL || *p->version == '\0' || p->summary == NULL || *p->summary == '\0') {
        snprintf(err, errlen, "its descriptor lacks version or summary");
        return false;
    }
    if ((p->flags & ~(uint32_t)(OMID_PLUGIN_BLOCKS_ON_EXECUTORS | OMID_PLUGIN_USER_URLS)) != 0) {
        snprintf(err, errlen, "unknown flags 0x%x", (unsigned)p->flags);
        return false;
    }
    if ((p->events & ~(OMID_EVENT_MASK(OMID_EVENT_TYPES) - 1)) != 0) {
        snprintf(err, errlen, "subscribes to unknown events (mask 0x%x)", (unsigned)p->events);
        return false;
    }
    if (!roles_check(p, err, errlen))
        return false;
    const char *missing = missing_callback(p);
    if (missing != NULL) {
        snprintf(err, errlen, "the required callback %s is missing", missing);
        return false;
    }
    return options_check(p, err, errlen);
}

/* ------------------------------------------------------------ opening */

/* Size of the symbol as the file says; 0: unknown. */
static size_t symbol_size(const void *address)
{
    Dl_info info;
    const ElfW(Sym) *sym = NULL;
    if (dladdr1(address, &info, (void **)&sym, RTLD_DL_SYMENT) == 0 || sym == NULL)
        return 0;
    return (size_t)sym->st_size;
}

/* What the file says of itself, before anything in it runs. */
static bool file_check(const char *path, bool strict, struct lint *lint, char *err, size_t errlen)
{
    char symbols[256];
    if (!lint_file(path, lint, err, errlen))
        return false;
    if (!strict || lint->on_executors || lint->n == 0)
        return true;
    lint_symbols(lint, symbols, sizeof(symbols));
    snprintf(err, errlen, "calls that block a loop, which daemon.strict_lint refuses: %s", symbols);
    return false;
}

/*
 * Each library is a copy of its own, in memory: what happens to the file afterwards does not reach the code that runs,
 * and the same path can be opened again beside it (dlopen() would hand out the old one). The copy's name is its
 * descriptor, which therefore stays open, or else the next one could get its name.
 */
static int copy_new(const char *name)
{
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_EXEC);
    if (fd < 0 && errno == EINVAL) /* a kernel before 6.3, where that is what they are anyway */
        fd = memfd_create(name, MFD_CLOEXEC);
    return fd;
}

static bool copy_all(int from, int to, size_t *size)
{
    static char block[65536]; /* main thread only */
    *size = 0;
    for (;;) {
        ssize_t n = read(from, block, sizeof(block));
        if (n == 0)
            return true;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        *size += (size_t)n;
        if (*size > (size_t)MAX_FILE) {
            errno = EFBIG;
            return false;
        }
        for (ssize_t done = 0; done < n;) {
            ssize_t w = write(to, block + done, (size_t)(n - done));
            if (w < 0 && errno != EINTR)
                return false;
            done += w > 0 ? w : 0;
        }
    }
}

static bool file_copy(struct library *lib, const char *name, char *err, size_t errlen)
{
    struct stat st;
    int from = open(lib->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO would be waited for */
    bool ok = from >= 0 && fstat(from, &st) == 0;
    if (ok && !S_ISREG(st.st_mode)) {
        snprintf(err, errlen, "not a regular file");
        close(from);
        return false;
    }
    ok = ok && (lib->fd = copy_new(name)) >= 0 && copy_all(from, lib->fd, &lib->size);
    if (!ok)
        snprintf(err, errlen, "%s", strerror(errno));
    if (from >= 0)
        close(from);
    return ok;
}

static bool file_open(struct library *lib, const char *name, bool strict, char *err, size_t errlen)
{
    char path[64];
    if (!file_copy(lib, name, err, errlen))
        return false;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", lib->fd);
    if (!file_check(path, strict, &lib->lint, err, errlen)) /* of what will run, not of what the file may be by then */
        return false;
    const char *kept = intern(name);
    lib->name = kept != NULL ? kept : "";
    struct pulse_doing none = pulse_doing_enter(&pulse_main, lib->name, "dlopen"); /* constructors run */
    lib->dl = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    pulse_doing_leave(&pulse_main, none);
    if (lib->dl != NULL)
        return true;
    const char *why = dlerror();
    size_t n = strlen(path);
    /* The path that the user knows stands in front of the message already. */
    if (why != NULL && strncmp(why, path, n) == 0 && strncmp(why + n, ": ", 2) == 0)
        why += n + 2;
    snprintf(err, errlen, "%s", why != NULL ? why : "can't be opened");
    return false;
}

bool library_same(const struct library *a, const struct library *b)
{
    CHECK_MAGIC(a, LIBRARY_MAGIC);
    CHECK_MAGIC(b, LIBRARY_MAGIC);
    if (a->size != b->size)
        return false;
    void *ta = mmap(NULL, a->size, PROT_READ, MAP_SHARED, a->fd, 0);
    void *tb = mmap(NULL, b->size, PROT_READ, MAP_SHARED, b->fd, 0);
    bool same = ta != MAP_FAILED && tb != MAP_FAILED && memcmp(ta, tb, a->size) == 0;
    if (ta != MAP_FAILED)
        munmap(ta, a->size);
    if (tb != MAP_FAILED)
        munmap(tb, b->size);
    return same;
}

static struct library *library_open(const char *name, const char *path, bool strict, char *err, size_t errlen)
{
    struct library *lib = calloc(1, sizeof(*lib) + strlen(path) + 1);
    if (lib == NULL) {
        snprintf(err, errlen, "out of memory");
        return NULL;
    }
    lib->magic = LIBRARY_MAGIC;
    list_init(&lib->link);
    strcpy(lib->path, path);
    lib->fd = -1;
    if (!file_open(lib, name, strict, err, errlen)) {
        library_close(&lib);
        return NULL;
    }
    const struct omid_plugin *p = dlsym(lib->dl, LINT_PLUGIN_SYMBOL);
    if (p == NULL) {
        snprintf(err, errlen, "no symbol " LINT_PLUGIN_SYMBOL ": not an omid plugin");
        library_close(&lib);
        return NULL;
    }
    /* Again: the file may have been replaced meanwhile, and relocations may write anywhere. */
    if (!lint_head_check(p, symbol_size(p), err, errlen)) {
        library_close(&lib);
        return NULL;
    }
    memcpy(&lib->plugin, p, p->size);
    if (!plugin_check(&lib->plugin, name, err, errlen))
        library_close(&lib);
    return lib;
}

struct library *loader_find(struct loader *l, const char *name, const char *path)
{
    list_each (it, &l->open) {
        struct library *lib = list_entry(it, struct library, link);
        if (strcmp(lib->path, path) == 0 && strcmp(lib->plugin.name, name) == 0)
            return lib;
    }
    return NULL;
}

struct library *loader_open(struct loader *l, const char *name, const char *path, char *err, size_t errlen)
{
    struct library *lib = loader_find(l, name, path);
    if (lib != NULL)
        return lib;
    char why[512] = "";
    lib = library_open(name, path, l->strict, why, sizeof(why));
    if (lib == NULL) {
        snprintf(err, errlen, "%s: %s", path, why);
        return NULL;
    }
    list_append(&l->open, &lib->link);
    return lib;
}

struct library *loader_take(struct loader *l, const char *name, const char *path, char *err, size_t errlen)
{
    struct library *lib = loader_open(l, name, path, err, errlen);
    if (lib != NULL)
        list_remove(&lib->link);
    return lib;
}

static const struct omid_plugin *describe(void *arg, const char *name, const char *path, char *err, size_t errlen)
{
    const struct library *lib = loader_open(arg, name, path, err, errlen);
    return lib != NULL ? library_plugin(lib) : NULL;
}

static void core_read(void *arg, const struct conf *c)
{
    struct loader *l = arg;
    l->strict = c->daemon.strict_lint;
}

struct conf_source loader_source(struct loader *l)
{
    return (struct conf_source){.describe = describe, .core_read = core_read, .arg = l};
}
