/* Inside the host: the open .so files. Main thread, but for library_close(). */
#ifndef OMID_HOST_LOADER_H
#define OMID_HOST_LOADER_H

#include <omid/plugin.h>
#include <stdbool.h>
#include <stddef.h>

struct library;
struct loader;

/* The open file of this path, opened now if it is not. NULL with a reason in err. The loader keeps it. */
struct library *loader_open(struct loader *l, const char *name, const char *path, char *err, size_t errlen);
/* The same without taking it: what conf_load() has just described. NULL: it has not. */
struct library *loader_find(struct loader *l, const char *name, const char *path);
/* As loader_open(), but it is the caller's from now on. */
struct library *loader_take(struct loader *l, const char *name, const char *path, char *err, size_t errlen);
/* The descriptor, checked, as long as this host's struct: members that the plugin does not know are zero. */
const struct omid_plugin *library_plugin(const struct library *lib);
/* What the check of the file found before it was opened. */
struct lint;
const struct lint *library_lint(const struct library *lib);
/* Is it a copy of the same bytes? */
bool library_same(const struct library *a, const struct library *b);
void library_close(struct library **lib);

#endif
