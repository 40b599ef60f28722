/* URL query strings, and percent-encoding. Any thread. */
#ifndef OMID_BASE_QUERY_H
#define OMID_BASE_QUERY_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

#define QUERY_MAX_PARAMS 64

struct query_param {
    char *name, *value; /* decoded; '+' is a space */
};
struct query {
    char *storage;
    struct query_param params[QUERY_MAX_PARAMS];
    size_t n;
};

/* false with a reason in err, which names the parameter: a bad escape, a NUL or bad UTF-8 in a value, too many
 * parameters, no memory. */
bool query_parse(struct query *q, const char *text, size_t len, char *err, size_t errlen);
void query_free(struct query *q);
/* The last one of that name, or NULL. */
const char *query_get(const struct query *q, const char *name);
/* One piece of a path (between slashes), percent-decoded to out (len + 1 bytes) with a NUL behind it. NULL, or why not:
 * a bad escape, a NUL or bad UTF-8. */
const char *query_path_piece(const char *text, size_t len, char *out);
/* Appends name=value to url with '?' or '&' as fits (before a '#'), percent-encoded (RFC 3986 unreserved stay). */
bool query_append(struct buf *url, const char *name, const char *value);

#endif
