/* Reading multipart/form-data (RFC 7578) of strangers, in memory. */
#ifndef OMID_KIT_PARTS_H
#define OMID_KIT_PARTS_H

#include "json.h"

#define KIT_PARTS_MAX 1000

/* Everything points into the body; nothing is copied but names: one that is too long is as if there were none. */
struct kit_parts {
    const char *at, *end;
    char boundary[80]; /* with "\r\n--" before it */
    size_t boundary_len;
    unsigned parts;
};
struct kit_part {
    char name[64];
    char file_name[128]; /* "" : none was given. As the client wrote it: never a path of ours */
    char content_type[64];
    const char *data;
    size_t len;
};

static inline bool kit_parts_is(const char *content_type)
{
    return __builtin_strncasecmp(content_type, "multipart/form-data", 19) == 0;
}
/* false: a fault. */
bool kit_parts_open(struct kit_parts *m, const char *content_type, const void *body, size_t len, struct kit_fault *f);
/* 1: a part; 0: that were all; -1: a fault: no end, more than KIT_PARTS_MAX, a part without a name. */
int kit_parts_next(struct kit_parts *m, struct kit_part *part, struct kit_fault *f);

#endif
