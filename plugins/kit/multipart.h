/* Writing multipart/form-data, for plugins. */
#ifndef OMID_KIT_MULTIPART_H
#define OMID_KIT_MULTIPART_H

#include <stdbool.h>
#include <stddef.h>

struct kit_multipart {
    char boundary[64];
    unsigned char *data; /* the body; NULL before the first part */
    size_t len, cap;
    bool failed; /* out of memory: asked once, by kit_multipart_end() */
};

/* unique: what no part holds, such as a UUID; at most 40 characters of those. */
void kit_multipart_begin(struct kit_multipart *m, const char *unique);
/* names and types: without quotes, CR or LF. */
void kit_multipart_field(struct kit_multipart *m, const char *name, const char *value);
/* A file of `size` bytes: returns where the caller writes them, before the next call; NULL: no memory. */
unsigned char *kit_multipart_file(struct kit_multipart *m, const char *name, const char *filename, const char *type,
                                  size_t size);
/* false: something did not fit; kit_multipart_free() is due all the same. */
bool kit_multipart_end(struct kit_multipart *m);
/* "Content-Type: multipart/form-data; boundary=...", cut to size. */
void kit_multipart_header(const struct kit_multipart *m, char *out, size_t size);
void kit_multipart_free(struct kit_multipart *m);

#endif
