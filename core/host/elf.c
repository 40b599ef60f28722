#include "config.h"

#include "host/elf.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/magic.h"

#define ELF_MAGIC UINT32_C(0x656c6672)
#define MAX_SEGMENTS 256
#define MAX_DYNAMIC 4096
#define MAX_SYMBOLS (1u << 20)
#define MAX_BUCKETS (1u << 20)
#define MAX_STRINGS (64u << 20) /* bytes of names */

#define NATIVE_CLASS (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32)
#define NATIVE_DATA (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB)
#if defined(__x86_64__)
#define NATIVE_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define NATIVE_MACHINE EM_AARCH64
#elif defined(__riscv)
#define NATIVE_MACHINE EM_RISCV
#else
#define NATIVE_MACHINE EM_NONE /* dlopen() will tell */
#endif
#define SYMBOL_TYPE(info) ((info)&0xf) /* the same for both classes */
#define SYMBOL_BIND(info) ((info) >> 4)

struct elf {
    uint32_t magic;
    int fd;
    uint64_t file_size;
    ElfW(Phdr) segment[MAX_SEGMENTS];
    size_t n_segments;
    ElfW(Sym) * symbol;
    size_t n_symbols;
    char *strings; /* n_strings bytes, and a NUL behind them */
    size_t n_strings;
};

struct dynamic {
    uint64_t symtab, strtab, strsz, syment, hash, gnu_hash; /* 0: not there */
};

static bool fail(char *err, size_t errlen, const char *why)
{
    snprintf(err, errlen, "%s", why);
    return false;
}

/* All or nothing. */
static bool read_at(const struct elf *e, uint64_t offset, void *out, size_t len)
{
    if (offset > e->file_size || len > e->file_size - offset)
        return false;
    for (size_t got = 0; got < len;) {
        ssize_t n = pread(e->fd, (char *)out + got, len - got, (off_t)(offset + got));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) /* shorter than it was a moment ago */
            return false;
        got += (size_t)n;
    }
    return true;
}

bool elf_bytes(const struct elf *e, uint64_t address, void *out, size_t len)
{
    CHECK_MAGIC(e, ELF_MAGIC);
    for (size_t i = 0; i < e->n_segments; i++) {
        const ElfW(Phdr) *p = &e->segment[i];
        if (p->p_type != PT_LOAD || address < p->p_vaddr)
            continue;
        uint64_t at = address - p->p_vaddr;
        if (at > p->p_memsz || len > p->p_memsz - at)
            continue;
        size_t in_file = at >= p->p_filesz ? 0 : len < p->p_filesz - at ? len : (size_t)(p->p_filesz - at);
        if (in_file > 0 && (p->p_offset > UINT64_MAX - at || !read_at(e, p->p_offset + at, out, in_file)))
            return false;
        memset((char *)out + in_file, 0, len - in_file);
        return true;
    }
    return false;
}

static bool read_head(struct elf *e, char *err, size_t errlen)
{
    ElfW(Ehdr) h;
    if (!read_at(e, 0, &h, sizeof(h)))
        return fail(err, errlen, "file too short for a shared object");
    if (memcmp(h.e_ident, ELFMAG, SELFMAG) != 0)
        return fail(err, errlen, "invalid ELF header: not a shared object");
    if (h.e_ident[EI_CLASS] != NATIVE_CLASS || h.e_ident[EI_DATA] != NATIVE_DATA ||
        (NATIVE_MACHINE != EM_NONE && h.e_machine != NATIVE_MACHINE))
        return fail(err, errlen, "a shared object of another architecture");
    if (h.e_type != ET_DYN)
        return fail(err, errlen, "an ELF file, but not a shared object");
    if (h.e_phentsize != sizeof(ElfW(Phdr)) || h.e_phnum == 0 || h.e_phnum > MAX_SEGMENTS)
        return fail(err, errlen, "damaged: its program headers are not usable");
    e->n_segments = h.e_phnum;
    if (!read_at(e, h.e_phoff, e->segment, e->n_segments * sizeof(e->segment[0])))
        return fail(err, errlen, "damaged: its program headers lie outside of the file");
    return true;
}

static void dynamic_note(struct dynamic *d, const ElfW(Dyn) * entry)
{
    switch (entry->d_tag) {
    case DT_SYMTAB:
        d->symtab = entry->d_un.d_ptr;
        break;
    case DT_STRTAB:
        d->strtab = entry->d_un.d_ptr;
        break;
    case DT_STRSZ:
        d->strsz = entry->d_un.d_val;
        break;
    case DT_SYMENT:
        d->syment = entry->d_un.d_val;
        break;
    case DT_HASH:
        d->hash = entry->d_un.d_ptr;
        break;
    case DT_GNU_HASH:
        d->gnu_hash = entry->d_un.d_ptr;
        break;
    default:
        break;
    }
}

static bool read_dynamic(const struct elf *e, struct dynamic *d, char *err, size_t errlen)
{
    const ElfW(Phdr) *p = NULL;
    for (size_t i = 0; i < e->n_segments && p == NULL; i++) {
        if (e->segment[i].p_type == PT_DYNAMIC)
            p = &e->segment[i];
    }
    if (p == NULL)
        return fail(err, errlen, "no dynamic section: not a shared object");
    for (size_t i = 0; i < MAX_DYNAMIC; i++) {
        ElfW(Dyn) entry;
        if (!elf_bytes(e, p->p_vaddr + i * sizeof(entry), &entry, sizeof(entry)))
            return fail(err, errlen, "damaged: its dynamic section lies outside of the file");
        if (entry.d_tag == DT_NULL)
            return true;
        dynamic_note(d, &entry);
    }
    return fail(err, errlen, "damaged: its dynamic section has no end");
}

/* The number of symbols is nowhere: the hash table that dlsym() uses ends with the last one. */
static bool count_gnu(const struct elf *e, uint64_t table, size_t *count)
{
    uint32_t head[4]; /* buckets, first hashed symbol, words of the filter, its shift */
    if (!elf_bytes(e, table, head, sizeof(head)) || head[0] > MAX_BUCKETS || head[1] > MAX_SYMBOLS)
        return false;
    uint64_t buckets = table + sizeof(head) + (uint64_t)head[2] * sizeof(ElfW(Addr));
    uint64_t chains = buckets + (uint64_t)head[0] * sizeof(uint32_t);
    uint32_t *bucket = malloc(head[0] * sizeof(*bucket) + 1), last = 0, word = 0;
    bool ok = bucket != NULL && elf_bytes(e, buckets, bucket, head[0] * sizeof(*bucket));
    for (uint32_t i = 0; ok && i < head[0]; i++)
        last = bucket[i] > last ? bucket[i] : last;
    free(bucket);
    *count = head[1];
    if (!ok || last < head[1])
        return ok;
    for (; !(word & 1); last++) {
        if (last >= MAX_SYMBOLS ||
            !elf_bytes(e, chains + (uint64_t)(last - head[1]) * sizeof(word), &word, sizeof(word)))
            return false;
    }
    *count = last;
    return true;
}

static bool count_symbols(const struct elf *e, const struct dynamic *d, size_t *count)
{
    uint32_t head[2]; /* buckets, chains: one per symbol */
    if (d->gnu_hash != 0)
        return count_gnu(e, d->gnu_hash, count);
    if (d->hash == 0 || !elf_bytes(e, d->hash, head, sizeof(head)))
        return false;
    *count = head[1];
    return head[1] <= MAX_SYMBOLS;
}

static bool read_symbols(struct elf *e, char *err, size_t errlen)
{
    struct dynamic d = {.symtab = 0};
    if (!read_dynamic(e, &d, err, errlen))
        return false;
    if (d.symtab == 0 || d.strtab == 0 || d.syment != sizeof(ElfW(Sym)) || !count_symbols(e, &d, &e->n_symbols))
        return fail(err, errlen, "damaged: its table of symbols is not usable");
    if (d.strsz > MAX_STRINGS || d.strsz > e->file_size || e->n_symbols > e->file_size / sizeof(ElfW(Sym)))
        return fail(err, errlen, "damaged: its table of symbols is larger than the file, or than any plugin's");
    e->n_strings = (size_t)d.strsz;
    e->strings = calloc(1, e->n_strings + 1);
    e->symbol = calloc(e->n_symbols + 1, sizeof(e->symbol[0]));
    if (e->strings == NULL || e->symbol == NULL)
        return fail(err, errlen, "out of memory");
    if (!elf_bytes(e, d.strtab, e->strings, e->n_strings) ||
        !elf_bytes(e, d.symtab, e->symbol, e->n_symbols * sizeof(e->symbol[0])))
        return fail(err, errlen, "damaged: its table of symbols lies outside of the file");
    return true;
}

/* open() alone: dlopen() would wait on a FIFO, and look for a name without slash in the library path. */
static bool file_open(struct elf *e, const char *path, char *err, size_t errlen)
{
    struct stat st;
    e->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (e->fd < 0 || fstat(e->fd, &st) != 0)
        return fail(err, errlen, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return fail(err, errlen, "not a regular file");
    e->file_size = (uint64_t)st.st_size;
    return true;
}

struct elf *elf_open(const char *path, char *err, size_t errlen)
{
    struct elf *e = calloc(1, sizeof(*e));
    if (e == NULL) {
        snprintf(err, errlen, "out of memory");
        return NULL;
    }
    e->magic = ELF_MAGIC;
    e->fd = -1;
    if (!file_open(e, path, err, errlen) || !read_head(e, err, errlen) || !read_symbols(e, err, errlen))
        elf_close(&e);
    return e;
}

void elf_close(struct elf **ep)
{
    struct elf *e = *ep;
    *ep = NULL;
    if (e == NULL)
        return;
    CHECK_MAGIC(e, ELF_MAGIC);
    if (e->fd >= 0)
        close(e->fd);
    free(e->symbol);
    free(e->strings);
    e->magic = OMID_MAGIC_DEAD;
    free(e);
}

size_t elf_symbol_count(const struct elf *e)
{
    CHECK_MAGIC(e, ELF_MAGIC);
    return e->n_symbols;
}

static const char *name_of(const struct elf *e, const ElfW(Sym) * s)
{
    return s->st_name < e->n_strings ? e->strings + s->st_name : "";
}

const char *elf_undefined(const struct elf *e, size_t i)
{
    CHECK_MAGIC(e, ELF_MAGIC);
    if (i >= e->n_symbols || e->symbol[i].st_shndx != SHN_UNDEF)
        return NULL;
    const char *name = name_of(e, &e->symbol[i]);
    return *name != '\0' ? name : NULL;
}

bool elf_exported(const struct elf *e, const char *name, uint64_t *address, uint64_t *size)
{
    CHECK_MAGIC(e, ELF_MAGIC);
    for (size_t i = 0; i < e->n_symbols; i++) {
        const ElfW(Sym) *s = &e->symbol[i];
        unsigned bind = SYMBOL_BIND(s->st_info), type = SYMBOL_TYPE(s->st_info);
        if (s->st_shndx == SHN_UNDEF || s->st_shndx == SHN_ABS || (bind != STB_GLOBAL && bind != STB_WEAK) ||
            (type != STT_OBJECT && type != STT_NOTYPE) || strcmp(name_of(e, s), name) != 0)
            continue;
        *address = s->st_value;
        *size = s->st_size;
        return true;
    }
    return false;
}
