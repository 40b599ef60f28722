/*
 * Photos that come in pieces. Pure: no clock, no I/O; one thread.
 *
 * A photo is the base64 of its pieces, put together in the order of their numbers. Pieces may come in any order, and
 * again. What waits for its other pieces is bounded in number, in bytes and in time; the oldest gives way.
 */
#ifndef OMID_SESSION_PHOTOS_H
#define OMID_SESSION_PHOTOS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PHOTO_ID_MAX 128       /* bytes of a client's name for a photo */
#define PHOTO_PIECES_MAX 10000 /* of one photo */

struct photo_limits {
    unsigned waiting; /* photos */
    uint64_t bytes;   /* of all their pieces */
    uint64_t photo;   /* of one photo's pieces */
    uint32_t time_ms; /* from a photo's first piece to its last */
};

struct photo_piece {
    const char *id;
    int64_t index, total;
    const char *data; /* base64 */
    size_t len;
};

enum photo_verdict {
    PHOTO_TAKEN,    /* others are missing */
    PHOTO_REPEATED, /* had it: ignored */
    PHOTO_WHOLE,    /* *data is the caller's */
    PHOTO_BAD,      /* ignored; *why says so. A whole photo that is no base64 is forgotten. */
};

struct photo_parts;
/* NULL: no memory. */
struct photo_parts *photo_parts_new(void);
void photo_parts_free(struct photo_parts **p);
enum photo_verdict photo_parts_add(struct photo_parts *p, const struct photo_limits *l, const struct photo_piece *piece,
                                   uint64_t now_ms, unsigned char **data, size_t *len, const char **why);
void photo_parts_expire(struct photo_parts *p, const struct photo_limits *l, uint64_t now_ms);
size_t photo_parts_bytes(const struct photo_parts *p); /* what it holds */
size_t photo_parts_waiting(const struct photo_parts *p);
uint64_t photo_parts_dropped(const struct photo_parts *p); /* photos given up so far: too old, or too many */

#endif
