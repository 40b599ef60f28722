/*
 * What a plugin's file says before its first instruction runs: dlopen() runs constructors, so the head of the
 * descriptor and the calls that block a loop are read from the file. Used by the loader and by `omictl lint`.
 *
 * Undefined symbols are what the file itself calls, or may call. A library it is linked with may block as well: that is
 * not seen.
 */
#ifndef OMID_HOST_LINT_H
#define OMID_HOST_LINT_H

#include <omid/plugin.h>
#include <stdbool.h>
#include <stddef.h>

#define LINT_PLUGIN_SYMBOL "omid_plugin"
#define LINT_MAX_FINDINGS 128 /* at least as many as names in the list */

struct lint_finding {
    const char *symbol, *why; /* static */
};

struct lint {
    uint16_t abi_major, abi_minor;
    bool on_executors; /* OMID_PLUGIN_BLOCKS_ON_EXECUTORS: the findings are allowed */
    unsigned n;
    struct lint_finding finding[LINT_MAX_FINDINGS];
};

/* false: no plugin of this omid, with a reason in err (without the path). Reads a file: not on a loop. */
bool lint_file(const char *path, struct lint *out, char *err, size_t errlen);

/* "poll, sleep (2 of 5)": the symbols found, as far as they fit. */
void lint_symbols(const struct lint *l, char *out, size_t len);

/* The four numbers at the head of a descriptor, and nothing behind them. symbol_size 0: unknown. */
bool lint_head_check(const struct omid_plugin *p, size_t symbol_size, char *err, size_t errlen);

#endif
