#include "config.h"

#include "host/loader.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/list.h"
#include "base/magic.h"
#include "host/host.h"

/* After libev: both know an EV_NONE, of which this one is a macro. */
#include <link.h>

#define LIBRARY_MAGIC UINT32_C(0x6c696272)
#define MAX_NAME 32
#define MAX_OPTIONS 256
#define PLUGIN_SYMBOL "omid_plugin"

struct library {
    uint32_t magic;
    struct list link;
    void *dl;
    struct omid_plugin plugin;
    char path[];
};

struct loader {
    struct list open; /* of struct library: those that no module took */
};

/* Size of struct omid_plugin as of each minor version: what a plugin of that version must say. */
static const uint32_t plugin_sizes[OMID_ABI_MINOR + 1] = {sizeof(struct omid_plugin)};

struct loader *loader_new(void)
{
    struct loader *l = calloc(1, sizeof(*l));
    if (l != NULL)
        list_init(&l->open);
    return l;
}

void loader_free(struct loader **lp)
{
    struct loader *l = *lp;
    *lp = NULL;
    if (l == NULL)
        return;
    list_each (it, &l->open) {
        struct library *lib = list_entry(it, struct library, link);
        list_remove(it);
        library_close(&lib);
    }
    free(l);
}

void library_close(struct library **libp)
{
    struct library *lib = *libp;
    *libp = NULL;
    if (lib == NULL)
        return;
    CHECK_MAGIC(lib, LIBRARY_MAGIC);
    if (lib->dl != NULL)
        dlclose(lib->dl);
    lib->magic = OMID_MAGIC_DEAD;
    free(lib);
}

const struct omid_plugin *library_plugin(const struct library *lib)
{
    CHECK_MAGIC(lib, LIBRARY_MAGIC);
    return &lib->plugin;
}

/* ------------------------------------------------------------ checks */

static bool name_valid(const char *s)
{
    if (s == NULL || *s < 'a' || *s > 'z')
        return false;
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_-");
    return s[n] == '\0' && n <= MAX_NAME;
}

/* Nothing but the four numbers of the head is read here. */
static bool head_check(const struct omid_plugin *p, size_t symbol_size, char *err, size_t errlen)
{
    size_t head = offsetof(struct omid_plugin, size) + sizeof(p->size);
    if (symbol_size != 0 && symbol_size < head) {
        snprintf(err, errlen, "the symbol " PLUGIN_SYMBOL " has %zu bytes: not a plugin descriptor", symbol_size);
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

static const char *missing_callback(const struct omid_plugin *p)
{
    if (p->start == NULL)
        return "start";
    if (p->stop == NULL)
        return "stop";
    if (p->events != 0 && p->event == NULL)
        return "event (it subscribes to events)";
    const struct omid_stt_role *s = p->stt;
    if (s == NULL)
        return NULL;
    if (s->serves == NULL)
        return "stt.serves";
    if (s->open == NULL)
        return "stt.open";
    if (s->audio == NULL)
        return "stt.audio";
    if (s->close == NULL)
        return "stt.close";
    return s->release == NULL ? "stt.release" : NULL;
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
    if ((p->flags & ~(uint32_t)OMID_PLUGIN_BLOCKS_ON_EXECUTORS) != 0) {
        snprintf(err, errlen, "unknown flags 0x%x", (unsigned)p->flags);
        return false;
    }
    if ((p->events & ~(OMID_EVENT_MASK(OMID_EVENT_TYPES) - 1)) != 0) {
        snprintf(err, errlen, "subscribes to unknown events (mask 0x%x)", (unsigned)p->events);
        return false;
    }
    if (p->stt != NULL && p->stt->size != sizeof(struct omid_stt_role)) {
        snprintf(err, errlen, "its stt role has %u bytes, expected %zu", (unsigned)p->stt->size,
                 sizeof(struct omid_stt_role));
        return false;
    }
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

static void *file_open(const char *path, char *err, size_t errlen)
{
    /* dlopen() would wait on a FIFO, and look for a name without slash in the library path. */
    char local[PATH_MAX];
    struct stat st;
    if (strchr(path, '/') == NULL) {
        if ((size_t)snprintf(local, sizeof(local), "./%s", path) >= sizeof(local)) {
            snprintf(err, errlen, "the path is too long");
            return NULL;
        }
        path = local;
    }
    if (stat(path, &st) != 0) {
        snprintf(err, errlen, "%s", strerror(errno));
        return NULL;
    }
    if (!S_ISREG(st.st_mode)) {
        snprintf(err, errlen, "not a regular file");
        return NULL;
    }
    void *dl = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (dl == NULL) {
        const char *why = dlerror();
        size_t n = strlen(path);
        /* The path stands in front of the message already. */
        if (why != NULL && strncmp(why, path, n) == 0 && strncmp(why + n, ": ", 2) == 0)
            why += n + 2;
        snprintf(err, errlen, "%s", why != NULL ? why : "can't be opened");
    }
    return dl;
}

static struct library *library_open(const char *name, const char *path, char *err, size_t errlen)
{
    struct library *lib = calloc(1, sizeof(*lib) + strlen(path) + 1);
    if (lib == NULL) {
        snprintf(err, errlen, "out of memory");
        return NULL;
    }
    lib->magic = LIBRARY_MAGIC;
    list_init(&lib->link);
    strcpy(lib->path, path);
    lib->dl = file_open(path, err, errlen);
    if (lib->dl == NULL) {
        library_close(&lib);
        return NULL;
    }
    const struct omid_plugin *p = dlsym(lib->dl, PLUGIN_SYMBOL);
    if (p == NULL) {
        snprintf(err, errlen, "no symbol " PLUGIN_SYMBOL ": not an omid plugin");
        library_close(&lib);
        return NULL;
    }
    if (!head_check(p, symbol_size(p), err, errlen)) {
        library_close(&lib);
        return NULL;
    }
    memcpy(&lib->plugin, p, p->size);
    if (!plugin_check(&lib->plugin, name, err, errlen))
        library_close(&lib);
    return lib;
}

static struct library *loader_find(struct loader *l, const char *name, const char *path)
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
    lib = library_open(name, path, why, sizeof(why));
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

struct conf_source loader_source(struct loader *l)
{
    return (struct conf_source){.describe = describe, .arg = l};
}
