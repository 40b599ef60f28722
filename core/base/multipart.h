/* multipart/form-data bodies in memory (RFC 7578): found, not copied. Of strangers: everything is bounded and checked.
 */
#ifndef OMID_BASE_MULTIPART_H
#define OMID_BASE_MULTIPART_H

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

/* The boundary of a Content-Type. false with a reason: it is not multipart/form-data, or has no usable one. */
bool multipart_boundary(const char *content_type, char out[MULTIPART_MAX_BOUNDARY + 1], char *err, size_t errlen);

/* Fills in up to max parts, in their order; *n of them. false with a reason that names the part ("part 3: ..."): more
 * than max, a part without an end, header lines that are none. */
bool multipart_parse(const char *boundary, const void *body, size_t len, struct multipart_part *parts, size_t max,
                     size_t *n, char *err, size_t errlen);

#endif
