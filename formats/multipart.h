/* multipart/form-data bodies in memory (RFC 7578): found, not copied. Of strangers: everything is bounded and checked.
 */
#ifndef OMID_FORMATS_MULTIPART_H
#define OMID_FORMATS_MULTIPART_H

#include <stdbool.h>
#include <stddef.h>

#define MULTIPART_MAX_BOUNDARY 70 /* RFC 2046, 5.1.1 */
#define MULTIPART_MAX_NAME 255
#define MULTIPART_MAX_HEAD 8192 /* bytes of one part's header lines */

struct multipart_part {
    char name[MULTIPART_MAX_NAME + 1];     /* of the form's field; "" when absent */
    char filename[MULTIPART_MAX_NAME + 1]; /* without any folder, control characters left out; "" when absent,
                                            * "unnamed" when nothing is left of it */
    char type[128];                        /* Content-Type; "" when absent */
    const unsigned char *data;             /* into the body */
    size_t len;
};

/* Is this a Content-Type of such a body? */
bool multipart_is(const char *content_type);
/* The boundary of a Content-Type. false with a reason: it is not multipart/form-data, or has no usable one. */
bool multipart_boundary(const char *content_type, char out[MULTIPART_MAX_BOUNDARY + 1], char *err, size_t errlen);

/* A body that is read part by part. */
struct multipart {
    const unsigned char *body;
    size_t len, at;
    char mark[MULTIPART_MAX_BOUNDARY + 5]; /* the boundary with "\r\n--" before it */
    size_t mark_len;
    size_t parts, max; /* found so far, and at most */
};
/* false with a reason: the boundary is nowhere in it. */
bool multipart_begin(struct multipart *m, const char *boundary, const void *body, size_t len, size_t max, char *err,
                     size_t errlen);
/* 1: a part; 0: that were all; -1: with a reason that names the part ("part 3: ..."): more than max, a part without an
 * end, header lines that are none. */
int multipart_next(struct multipart *m, struct multipart_part *part, char *err, size_t errlen);

/* All of them, up to max, in their order; *n of them. false with a reason as above. */
bool multipart_parse(const char *boundary, const void *body, size_t len, struct multipart_part *parts, size_t max,
                     size_t *n, char *err, size_t errlen);

#endif
