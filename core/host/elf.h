/*
 * Inside the host and omictl: the dynamic symbols of a shared object, read from the file without opening it as one, as
 * dlopen() would find them: by its program headers and dynamic section, not by its sections, which may be stripped.
 *
 * The file may be anything: every offset is checked, nothing larger than the bounds in elf.c is read, and what is read
 * is copied out with pread(), since a mapping ends the process when somebody truncates the file meanwhile.
 */
#ifndef OMID_HOST_ELF_H
#define OMID_HOST_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct elf;

/* NULL with a reason in err. */
struct elf *elf_open(const char *path, char *err, size_t errlen);
void elf_close(struct elf **e);

size_t elf_symbol_count(const struct elf *e);
/* The name of symbol i when it is undefined (taken from another file at load time), else NULL. Lives as long as e. */
const char *elf_undefined(const struct elf *e, size_t i);

/* The data symbol `name` that the file exports. size: of the symbol; 0: the file does not say. false: none. */
bool elf_exported(const struct elf *e, const char *name, uint64_t *address, uint64_t *size);
/* len bytes as they will be at this address before relocation: of the file, or zero behind a segment's end in it. */
bool elf_bytes(const struct elf *e, uint64_t address, void *out, size_t len);

#endif
